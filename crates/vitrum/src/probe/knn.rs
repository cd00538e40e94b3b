//! k nearest neighbours: the class of an image is that of the training images with the most similar features.
//!
//! Two forms. [`Metric::Cosine`] is DINO's `eval_knn.py` (arXiv:2104.14294): a neighbour's vote weighs `exp(cosine /
//! T)`. [`Metric::Euclidean`] is scikit-learn's `KNeighborsClassifier` with its defaults: every neighbour has one vote.
//!
//! Ties: of neighbours at the same distance, the one that comes first in the training set is nearer; of classes with the
//! same votes, the one with the smaller number wins. scikit-learn says the same of classes; of neighbours it says that
//! the order of the training set decides.

use std::time::Instant;

use burn::tensor::Device;
use rayon::prelude::*;
use serde::Serialize;

use super::error::{ProbeError, refuse};
use super::features::{FeatureSet, Features};
use super::product;
use super::row::{Row, Tally};

/// Queries and training images of one product.
const BLOCK: [usize; 2] = [1024, 4096];
/// Candidates beyond `2 k` that are kept before they are compared exactly.
const SLACK: usize = 32;

/// What makes features similar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// One minus the cosine of the angle; features of length 0 have the cosine 0 to all.
    Cosine,
    /// The length of the difference.
    Euclidean,
}

impl Metric {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Euclidean => "euclidean",
        }
    }

    /// The distance in f64, summed in order. The square of the Euclidean one.
    fn exact(self, x: &[f32], y: &[f32], norms: f64) -> f64 {
        let pairs = x.iter().zip(y).map(|(x, y)| (f64::from(*x), f64::from(*y)));
        match self {
            Self::Euclidean => pairs.map(|(x, y)| (x - y) * (x - y)).sum(),
            Self::Cosine if norms == 0.0 => 1.0,
            Self::Cosine => 1.0 - pairs.map(|(x, y)| x * y).sum::<f64>() / norms,
        }
    }

    /// The distance from a product in f32, and a bound of its error. `x` and `y` are the lengths of the features.
    fn near(self, dot: f64, x: f64, y: f64, dim: usize) -> [f64; 2] {
        // Any order of summing `dim` products errs by at most this share of the lengths; the rest is for underflow.
        let error = (dim as f64 + 8.0) * f64::from(f32::EPSILON) * x * y + dim as f64 * 1e-37;
        match self {
            Self::Euclidean => [x * x + y * y - 2.0 * dot, 2.0 * error + 1e-12 * (x * x + y * y)],
            Self::Cosine if x * y == 0.0 => [1.0, 0.0],
            Self::Cosine => [1.0 - dot / (x * y), error / (x * y) + 1e-12],
        }
    }
}

/// How neighbours vote.
#[derive(Clone, Debug, PartialEq)]
pub struct Knn {
    /// Numbers of neighbours; each gives rows of its own.
    pub k: Vec<usize>,
    /// Forms.
    pub metrics: Vec<Metric>,
    /// `T` of the cosine form; 0.07 in DINO.
    pub temperature: f64,
}

impl Default for Knn {
    fn default() -> Self {
        Self { k: vec![1, 5, 20], metrics: vec![Metric::Cosine, Metric::Euclidean], temperature: 0.07 }
    }
}

/// A training image near to a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its index in the training set.
    pub index: usize,
    /// Its distance.
    pub distance: f64,
}

impl Knn {
    /// Scores of the validation images, a row for each metric and `k`.
    ///
    /// # Errors
    /// [`ProbeError::TooManyNeighbours`], [`ProbeError::Option`].
    pub fn rows(&self, features: &Features, device: &Device) -> Result<Vec<Row>, ProbeError> {
        self.check(features.train.len())?;
        let most = self.k.iter().copied().max().unwrap_or(0);
        let (train, val) = (&features.train, &features.val);
        let mut rows = Vec::new();
        for &metric in &self.metrics {
            let start = Instant::now();
            let mut tallies = vec![Tally::default(); self.k.len()];
            for first in (0..val.len()).step_by(BLOCK[0]) {
                let found = block(train, val, first, most, metric, device);
                for (neighbours, &label) in found.iter().zip(&val.labels()[first..]) {
                    for (tally, &k) in tallies.iter_mut().zip(&self.k) {
                        let near = &neighbours[..k];
                        tally.add(&self.votes(near, train.labels(), features.num_classes(), metric), label);
                    }
                }
            }
            let seconds = start.elapsed().as_secs_f64() / self.k.len() as f64;
            for (tally, k) in tallies.iter().zip(&self.k) {
                let mut setting = format!("k={k} {}", metric.name());
                if metric == Metric::Cosine {
                    setting.push_str(&format!(" T={}", self.temperature));
                }
                let five = *k >= 5 && features.num_classes() > 5;
                rows.push(Row::of("knn", setting, &[*tally], five, train.len(), seconds));
            }
        }
        Ok(rows)
    }

    pub(super) fn check(&self, images: usize) -> Result<(), ProbeError> {
        if self.k.is_empty() || self.k.contains(&0) {
            return refuse("k", format!("{:?}", self.k), "numbers of neighbours of at least 1");
        }
        if let Some(&k) = self.k.iter().find(|&&k| k > images) {
            return Err(ProbeError::TooManyNeighbours { k, images });
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return refuse("temperature", self.temperature, "a number above 0");
        }
        Ok(())
    }

    /// The votes for each class, `[K]`; minus infinity for a class without a vote. Votes of the cosine form are relative
    /// to that of the nearest neighbour.
    fn votes(&self, near: &[Neighbour], labels: &[usize], classes: usize, metric: Metric) -> Vec<f64> {
        let mut votes = vec![f64::NEG_INFINITY; classes];
        let nearest = near.first().map_or(0.0, |neighbour| neighbour.distance);
        for neighbour in near {
            let vote = match metric {
                Metric::Cosine => ((nearest - neighbour.distance) / self.temperature).exp(),
                Metric::Euclidean => 1.0,
            };
            let sum = &mut votes[labels[neighbour.index]];
            *sum = sum.max(0.0) + vote;
        }
        votes
    }

    /// The class that the nearest `k` training images give each query.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn classes(
        &self,
        train: &FeatureSet,
        queries: &FeatureSet,
        k: usize,
        metric: Metric,
        device: &Device,
    ) -> Result<Vec<usize>, ProbeError> {
        Self { k: vec![k], ..self.clone() }.check(train.len())?;
        let classes = train.labels().iter().max().map_or(0, |last| last + 1);
        let class = |near: Vec<Neighbour>| {
            let votes = self.votes(&near, train.labels(), classes, metric);
            // The first of the largest.
            (0..classes).rev().max_by(|&a, &b| votes[a].total_cmp(&votes[b])).unwrap_or_default()
        };
        Ok(neighbours(train, queries, k, metric, device)?.into_iter().map(class).collect())
    }
}

/// The `k` training images nearest to each query, nearest first.
///
/// # Errors
/// [`ProbeError::TooManyNeighbours`], and [`ProbeError::Dim`] if the features differ in length.
pub fn neighbours(
    train: &FeatureSet,
    queries: &FeatureSet,
    k: usize,
    metric: Metric,
    device: &Device,
) -> Result<Vec<Vec<Neighbour>>, ProbeError> {
    if k > train.len() {
        return Err(ProbeError::TooManyNeighbours { k, images: train.len() });
    }
    if train.dim() != queries.dim() {
        return Err(ProbeError::Dim { found: queries.dim(), expected: train.dim() });
    }
    let firsts = (0..queries.len()).step_by(BLOCK[0]);
    Ok(firsts.flat_map(|first| block(train, queries, first, k, metric, device)).collect())
}

/// The neighbours of a block of queries. Products in f32 leave out what cannot be among the nearest; what is left is
/// compared in f64.
fn block(
    train: &FeatureSet,
    queries: &FeatureSet,
    first: usize,
    k: usize,
    metric: Metric,
    device: &Device,
) -> Vec<Vec<Neighbour>> {
    let count = BLOCK[0].min(queries.len() - first);
    let x = queries.block(first, count, device); // [Q, D]
    let mut searches: Vec<Search<'_>> =
        (first..first + count).map(|query| Search::new(train, queries.row(query), k, metric)).collect();
    for start in (0..train.len()).step_by(BLOCK[1]) {
        let y = train.block(start, BLOCK[1], device); // [N, D]
        let [n, _] = y.dims();
        let lengths: Vec<f64> = (start..start + n).map(|index| length(train.row(index))).collect();
        let dots: Vec<f32> = product(x.clone(), y.transpose()).into_data().iter::<f32>().collect(); // [Q, N]
        searches.par_iter_mut().zip(dots.par_chunks_exact(n)).for_each(|(search, dots)| {
            for (place, (&dot, &length)) in dots.iter().zip(&lengths).enumerate() {
                search.see(start + place, f64::from(dot), length);
            }
        });
    }
    searches.into_par_iter().map(Search::finish).collect()
}

/// The Euclidean length.
fn length(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt()
}

/// The search for one query's neighbours.
struct Search<'a> {
    train: &'a FeatureSet,
    query: &'a [f32],
    length: f64,
    k: usize,
    metric: Metric,
    /// The nearest so far, by exact distance.
    best: Vec<Neighbour>,
    /// Training images that may be nearer than the last of these.
    candidates: Vec<(usize, f64)>,
}

impl<'a> Search<'a> {
    fn new(train: &'a FeatureSet, query: &'a [f32], k: usize, metric: Metric) -> Self {
        let length = length(query);
        Self { train, query, length, k, metric, best: Vec::new(), candidates: Vec::new() }
    }

    /// A training image, in the order of the set: its product with the query, and its length.
    fn see(&mut self, index: usize, dot: f64, length: f64) {
        let [distance, error] = self.metric.near(dot, self.length, length, self.query.len());
        let limit = match self.best.last() {
            Some(last) if self.best.len() == self.k => last.distance,
            _ => f64::INFINITY,
        };
        // A product that overflowed is compared exactly.
        if distance - error > limit {
            return;
        }
        self.candidates.push((index, length));
        if self.candidates.len() > 2 * self.k + SLACK {
            self.sort();
        }
    }

    /// Compares the candidates exactly.
    fn sort(&mut self) {
        for (index, length) in self.candidates.drain(..) {
            let distance = self.metric.exact(self.query, self.train.row(index), self.length * length);
            self.best.push(Neighbour { index, distance });
        }
        self.best.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.index.cmp(&b.index)));
        self.best.truncate(self.k);
    }

    fn finish(mut self) -> Vec<Neighbour> {
        self.sort();
        if self.metric == Metric::Euclidean {
            self.best.iter_mut().for_each(|neighbour| neighbour.distance = neighbour.distance.sqrt());
        }
        self.best
    }
}
