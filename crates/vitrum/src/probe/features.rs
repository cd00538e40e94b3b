//! The features of a dataset: a vector for each image, computed once with the model as it is.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;

use super::cache;
use super::error::{ProbeError, refuse};
use super::fingerprint::fingerprint;
use super::pool::{Pool, pooled_as};
use crate::data::batch;
use crate::data::decode::DecodeOptions;
use crate::data::loader::{BadSample, Loader, LoaderOptions, MaxBad};
use crate::data::train_set::{Subset, TrainValSets, free_memory};
use crate::tasks::Embedder;

/// A part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The images that a probe learns from.
    Train,
    /// The images that it is scored on.
    Validation,
}

impl Part {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "training",
            Self::Validation => "validation",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Features `[N, D]` of the images of one part, with their classes and names.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureSet {
    part: Part,
    dim: usize,
    values: Vec<f32>,
    labels: Vec<usize>,
    names: Vec<String>,
}

impl FeatureSet {
    /// Features `values`, `[N, dim]` row by row, of images with these classes and names.
    ///
    /// # Errors
    /// [`ProbeError::Shape`], [`ProbeError::Empty`], and [`ProbeError::NotFinite`] with the name of the first such image.
    pub fn new(
        part: Part,
        dim: usize,
        values: Vec<f32>,
        labels: Vec<usize>,
        names: Vec<String>,
    ) -> Result<Self, ProbeError> {
        let images = names.len();
        if dim.checked_mul(images) != Some(values.len()) || labels.len() != images || dim == 0 {
            let (values, labels) = (values.len(), labels.len());
            return Err(ProbeError::Shape { images, dim, values, labels, names: images });
        }
        if images == 0 {
            return Err(ProbeError::Empty { part });
        }
        if let Some(bad) = values.chunks_exact(dim).position(|row| !row.iter().all(|x| x.is_finite())) {
            return Err(ProbeError::NotFinite { part, name: names[bad].clone() });
        }
        Ok(Self { part, dim, values, labels, names })
    }

    /// `N`: number of images; at least 1.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no images; never.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// `D`: numbers of each image.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All numbers, `[N, D]` row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The features of an image, `[D]`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dim..][..self.dim]
    }

    /// The class of each image.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The name of each image.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Images `start..start + count`, as many as there are, as a tensor `[B, D]`.
    pub(super) fn block(&self, start: usize, count: usize, device: &Device) -> Tensor<2> {
        let count = count.min(self.len() - start);
        let values = self.values[start * self.dim..][..count * self.dim].to_vec();
        Tensor::from_data(TensorData::new(values, [count, self.dim]), device)
    }
}

/// The features of both parts of a dataset.
#[derive(Clone, Debug)]
pub struct Features {
    /// The images that a probe learns from.
    pub train: FeatureSet,
    /// The images that it is scored on.
    pub val: FeatureSet,
    /// Class names, in the order of the labels.
    pub classes: Vec<String>,
    /// Images that could not be read, and were left out.
    pub bad: Vec<BadSample>,
    /// Seconds that computing or reading took.
    pub seconds: f64,
    /// The file that they were read from, if they were not computed.
    pub reused: Option<PathBuf>,
}

impl Features {
    /// Features of your own.
    ///
    /// # Errors
    /// [`ProbeError::Dim`], [`ProbeError::Label`], [`ProbeError::OneClass`].
    pub fn new(train: FeatureSet, val: FeatureSet, classes: Vec<String>) -> Result<Self, ProbeError> {
        if train.dim != val.dim {
            return Err(ProbeError::Dim { found: val.dim, expected: train.dim });
        }
        for set in [&train, &val] {
            if let Some(bad) = set.labels.iter().position(|&label| label >= classes.len()) {
                let (name, label) = (set.names[bad].clone(), set.labels[bad]);
                return Err(ProbeError::Label { part: set.part, name, label, classes: classes.len() });
            }
        }
        let class = train.labels[0];
        if train.labels.iter().all(|&label| label == class) {
            return Err(ProbeError::OneClass { class });
        }
        Ok(Self { train, val, classes, bad: Vec::new(), seconds: 0.0, reused: None })
    }

    /// `D`: numbers of each image.
    pub fn dim(&self) -> usize {
        self.train.dim
    }

    /// `K`: number of classes.
    pub fn num_classes(&self) -> usize {
        self.classes.len()
    }
}

/// How features are computed.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureOptions {
    /// The vector of an image.
    pub pool: Pool,
    /// Images per forward pass, at least 1.
    pub batch_size: usize,
    /// Threads that decode, at least 1. Features do not depend on it.
    pub workers: usize,
    /// Limit of unreadable images; they are left out.
    pub max_bad: MaxBad,
    /// Limits and orientation. The default ignores EXIF orientation, as in timm's evaluation.
    pub decode: DecodeOptions,
    /// Most bytes of all features together; `None`: three quarters of the free memory, if the system tells it.
    pub max_bytes: Option<u64>,
    /// The folder that keeps features; `None`: they are not kept.
    pub cache: Option<PathBuf>,
}

impl Default for FeatureOptions {
    fn default() -> Self {
        let LoaderOptions { batch_size, workers, max_bad, decode, .. } = LoaderOptions::default();
        Self { pool: Pool::Head, batch_size, workers, max_bad, decode, max_bytes: None, cache: None }
    }
}

/// The features of both parts of `sets` by the model of `embedder`, each image prepared as in validation. With a cache,
/// features of the same weights, preprocessing, images and pooling are read from it instead; images are compared by
/// their content.
///
/// `watch` is told after each batch how many images are done, of how many.
///
/// # Errors
/// [`ProbeError`]: no validation images, images that cannot be read, features that are not finite or do not fit into
/// memory, a model without features or without the token that is asked for, and a cache that cannot be written.
pub fn features(
    embedder: &Embedder,
    sets: &TrainValSets,
    options: &FeatureOptions,
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Features, ProbeError> {
    let start = Instant::now();
    if options.batch_size == 0 {
        return refuse("batch_size", 0, "at least 1");
    }
    embedder.model().as_backbone()?;
    let data = sets.train.set().path();
    if sets.val.is_empty() {
        return Err(ProbeError::NoValidation { data: data.to_path_buf() });
    }
    let kept = match &options.cache {
        None => None,
        Some(folder) => {
            let fingerprint = fingerprint(embedder, sets, options)?;
            Some((cache::file(folder, &fingerprint), fingerprint))
        }
    };
    if let Some((path, fingerprint)) = &kept
        && let Some(found) = cache::read(path, fingerprint, limit(options))?
    {
        return Ok(Features { seconds: start.elapsed().as_secs_f64(), ..found });
    }
    let total = sets.train.len() + sets.val.len();
    let mut done = 0;
    let mut told = |count: usize| {
        done += count;
        watch(done, total);
    };
    let (train, mut bad) = part(Part::Train, &sets.train, embedder, options, total, &mut told)?;
    let (val, more) = part(Part::Validation, &sets.val, embedder, options, total, &mut told)?;
    bad.extend(more);
    let seconds = start.elapsed().as_secs_f64();
    let features = Features { bad, seconds, ..Features::new(train, val, sets.classes.clone())? };
    if let Some((path, fingerprint)) = &kept {
        cache::write(path, fingerprint, &features)?;
    }
    Ok(features)
}

/// Most bytes of all features.
fn limit(options: &FeatureOptions) -> u64 {
    options.max_bytes.or_else(|| free_memory().map(|free| free / 4 * 3)).unwrap_or(u64::MAX)
}

/// Refuses features of `images` images that do not fit.
pub(super) fn check_size(images: usize, dim: usize, limit: u64) -> Result<(), ProbeError> {
    let need = (images as u64).saturating_mul(dim as u64).saturating_mul(size_of::<f32>() as u64);
    if need > limit { Err(ProbeError::TooLarge { images, dim, need, limit }) } else { Ok(()) }
}

/// The features of one part. `total` images are to be kept in all.
fn part(
    part: Part,
    subset: &Subset,
    embedder: &Embedder,
    options: &FeatureOptions,
    total: usize,
    told: &mut dyn FnMut(usize),
) -> Result<(FeatureSet, Vec<BadSample>), ProbeError> {
    let loading = LoaderOptions {
        batch_size: options.batch_size,
        workers: options.workers,
        max_bad: options.max_bad,
        decode: options.decode.clone(),
        ..LoaderOptions::default()
    };
    let mut loader = Loader::new(subset.source()?, embedder.preprocess().clone(), loading)?;
    let (mut dim, mut values) = (0, Vec::new());
    let (mut labels, mut names) = (Vec::with_capacity(subset.len()), Vec::with_capacity(subset.len()));
    while let Some(batch) = loader.next().transpose()? {
        for (name, label) in batch.names.iter().zip(batch.labels()) {
            let label = label.ok_or_else(|| ProbeError::NoLabel { part, name: name.clone() })?;
            labels.push(label);
        }
        let count = batch.names.len();
        let images =
            batch::to_tensor(batch.values, batch.shape, embedder.model().dtype(), embedder.device())?;
        let rows = pooled_as(embedder.model(), images, options.pool)?; // [B, D]
        if values.is_empty() {
            dim = rows.dims()[1];
            check_size(total, dim, limit(options))?;
            values.reserve_exact(subset.len() * dim);
        }
        values.extend(rows.into_data().iter::<f32>());
        names.extend(batch.names);
        // The first bad image ends the work, not the last.
        let new = &values[values.len() - count * dim..];
        if let Some(bad) = new.chunks_exact(dim.max(1)).position(|row| !row.iter().all(|x| x.is_finite())) {
            return Err(ProbeError::NotFinite { part, name: names[names.len() - count + bad].clone() });
        }
        told(count);
    }
    let bad = loader.bad().to_vec();
    if names.is_empty() {
        return Err(ProbeError::Empty { part });
    }
    Ok((FeatureSet::new(part, dim, values, labels, names)?, bad))
}
