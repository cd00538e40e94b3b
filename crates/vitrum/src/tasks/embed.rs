//! Images to feature vectors.

use std::path::Path;

use burn::tensor::{Device, Tensor};

use super::classify::preprocess_of;
use crate::Error;
use crate::checkpoint::load::{LoadOptions, Loaded, ModelError, load};
use crate::data::decode::open;
use crate::data::{DecodeOptions, Preprocess, RgbImage, batch};
use crate::layers::observe::Silent;
use crate::models::{AnswerError, Model, Sizes, Want, in_parts};

/// A model with its preprocessing, for feature vectors. It needs no head.
#[derive(Debug)]
pub struct Embedder {
    model: Model,
    preprocess: Preprocess,
    device: Device,
}

impl Embedder {
    /// From a folder, a name with weights, or `hf:ORG/NAME`, on the CPU.
    ///
    /// # Errors
    /// Faulty files, or a card without preprocessing.
    pub fn load(source: impl AsRef<Path>) -> Result<Self, Error> {
        let device = Device::flex();
        Self::new(load(&LoadOptions::new(source.as_ref()), &device)?, device)
    }

    /// From a loaded model.
    ///
    /// # Errors
    /// [`Error::NoPreprocess`] if the preprocessing is unknown.
    pub fn new(loaded: Loaded, device: Device) -> Result<Self, Error> {
        loaded.model.as_backbone().map_err(ModelError::from)?;
        let preprocess = preprocess_of(&loaded)?;
        Ok(Self { model: loaded.model, preprocess, device })
    }

    /// Packs the weights for many pictures ([`Model::pack`]).
    pub fn pack(self) -> Self {
        Self { model: self.model.pack(), ..self }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The preprocessing of pictures.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The device of the model.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// One unit vector per picture ([`pooled`], divided by its length).
    ///
    /// # Errors
    /// As [`pooled`](Self::pooled).
    pub fn embed(&self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, Error> {
        unit_vectors(&self.model, self.batch(images)?)
    }

    /// [`embed`](Self::embed) for an image file, turned as its EXIF orientation says.
    ///
    /// # Errors
    /// A file that cannot be read or decoded, and those of [`embed`](Self::embed).
    pub fn embed_file(&self, path: impl AsRef<Path>) -> Result<Vec<f32>, Error> {
        let image = open(path, &DecodeOptions::default())?;
        Ok(self.embed(&[image])?.pop().unwrap_or_default())
    }

    /// One vector per picture, `[B, D]` ([`pooled`]).
    ///
    /// # Errors
    /// A picture that cannot be preprocessed, and [`Error::NotFinite`].
    pub fn pooled(&self, images: &[RgbImage]) -> Result<Tensor<2>, Error> {
        let x = pooled(&self.model, self.batch(images)?).map_err(ModelError::from)?;
        check_finite(x.clone())?;
        Ok(x)
    }

    /// All tokens of each picture, `[B, T, D]` ([`tokens`]).
    ///
    /// # Errors
    /// As [`pooled`](Self::pooled).
    pub fn tokens(&self, images: &[RgbImage]) -> Result<Tensor<3>, Error> {
        let x = tokens(&self.model, self.batch(images)?).map_err(ModelError::from)?;
        check_finite(x.clone().flatten(1, 2))?;
        Ok(x)
    }

    fn batch(&self, images: &[RgbImage]) -> Result<Tensor<4>, Error> {
        Ok(batch::of_images(images, &self.preprocess, self.model.dtype(), &self.device)?)
    }
}

/// One unit vector per image of `[B, C, H, W]`.
pub(super) fn unit_vectors(model: &Model, images: Tensor<4>) -> Result<Vec<Vec<f32>>, Error> {
    let x = pooled(model, images).map_err(ModelError::from)?;
    check_finite(x.clone())?;
    let [_, d] = x.dims();
    let values: Vec<f32> = normalized(x).into_data().iter::<f32>().collect();
    Ok(values.chunks_exact(d.max(1)).map(<[f32]>::to_vec).collect())
}

/// The `k` vectors of `index` with the largest cosine to `query`: place and cosine, nearest first. All are unit
/// vectors, as [`Embedder::embed`] gives them. Vectors of another length than the query's are left out.
pub fn nearest(query: &[f32], index: &[Vec<f32>], k: usize) -> Vec<(usize, f32)> {
    let cosine = |vector: &Vec<f32>| query.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
    let fitting = index.iter().enumerate().filter(|(_, vector)| vector.len() == query.len());
    let mut all: Vec<(usize, f32)> = fitting.map(|(place, vector)| (place, cosine(vector))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

/// Refuses features `[B, N]` with NaN or infinity.
fn check_finite(x: Tensor<2>) -> Result<(), Error> {
    // NaN and infinity survive the product; finite values become 0.
    let rest: Vec<f64> = (x * 0.0).sum_dim(1).into_data().iter::<f64>().collect();
    match rest.iter().position(|value| !value.is_finite()) {
        Some(image) => Err(Error::NotFinite { image }),
        None => Ok(()),
    }
}

/// One vector per image, `[B, C, H, W] -> [B, D]`: the input of the classifier.
///
/// # Errors
/// [`AnswerError`]: a model without features, or images of another shape, size or type than the model's.
pub fn pooled(model: &Model, images: Tensor<4>) -> Result<Tensor<2>, AnswerError> {
    pooled_at(model, images, Sizes::Own)
}

/// [`pooled`] for images of the accepted sizes.
///
/// # Errors
/// As [`pooled`], and a size that the model cannot take.
pub fn pooled_at(model: &Model, images: Tensor<4>, sizes: Sizes) -> Result<Tensor<2>, AnswerError> {
    let backbone = model.as_backbone()?;
    model.check_images(&images, sizes)?;
    let pooled = |images: Tensor<4>| {
        backbone.embedding(backbone.features(images.into(), Want::Head, &mut Silent), &mut Silent)
    };
    Ok(in_parts(images, pooled))
}

/// All tokens after the last norm, `[B, C, H, W] -> [B, T, D]`.
///
/// # Errors
/// As [`pooled`].
pub fn tokens(model: &Model, images: Tensor<4>) -> Result<Tensor<3>, AnswerError> {
    tokens_at(model, images, Sizes::Own)
}

/// [`tokens`] for images of the accepted sizes.
///
/// # Errors
/// As [`pooled_at`].
pub fn tokens_at(model: &Model, images: Tensor<4>, sizes: Sizes) -> Result<Tensor<3>, AnswerError> {
    let backbone = model.as_backbone()?;
    model.check_images(&images, sizes)?;
    let tokens = |images: Tensor<4>| backbone.features(images.into(), Want::Last, &mut Silent).last().tokens;
    Ok(in_parts(images, tokens))
}

/// Divides each row of `[B, D]` by its Euclidean length; a row of zeros stays.
pub fn normalized(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone() * x.clone()).sum_dim(1).sqrt();
    x / length.clamp_min(f64::from(f32::MIN_POSITIVE))
}
