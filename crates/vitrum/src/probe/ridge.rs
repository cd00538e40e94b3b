//! Few-shot linear regression in closed form: the ViT paper's (arXiv:2010.11929, section 4.1), as
//! `evaluators/fewshot_lsr.py` of google-research/big_vision computes it.
//!
//! A few training images per class are drawn. Their features are whitened (less the mean, divided by the deviation plus
//! 1e-5), and get a last number of 100 for the bias, which is then hardly regularised. Targets are 1 for the class and -1
//! for the others. The weights minimise `‖X W - Y‖² + l2 ‖W‖²`; the answer is the class of the largest score.
//!
//! All of it is in f64, on the CPU. Big_vision has a fixed `l2` of 1024 and f32. With several values here, each is fitted
//! to four fifths of the drawn images and scored on the rest; the best is fitted to all of them.

use std::time::Instant;

use burn::tensor::{DType, Device, Tensor, TensorData};
use nalgebra::{Cholesky, DMatrix};

use super::error::{ProbeError, refuse};
use super::features::{FeatureSet, Features};
use super::product;
use super::row::{Row, Tally};
use crate::data::random::probe_rng;
use crate::data::train_set::shuffle;

/// Rows of one product.
const BLOCK: usize = 2048;
/// Added to the deviation by which features are divided.
const LEAST_DEVIATION: f64 = 1e-5;
/// One in this number of a class's drawn images is held out for the choice of `l2`.
const HELD_OUT: usize = 5;
/// The `l2` of the code. Of several values the nearest is taken where nothing can be held out.
const USUAL_L2: f64 = 1024.0;

/// Training images of each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shots {
    /// This number; all of a class that has fewer.
    Each(usize),
    /// All.
    All,
}

impl Shots {
    fn limit(self) -> usize {
        match self {
            Self::Each(count) => count,
            Self::All => usize::MAX,
        }
    }
}

impl std::fmt::Display for Shots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Each(count) => write!(f, "{count}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl std::str::FromStr for Shots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<usize>()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(count)) if count > 0 => Ok(Self::Each(count)),
            _ => Err(format!("'{text}': want a number of images of at least 1, or all")),
        }
    }
}

/// Few-shot regression.
#[derive(Clone, Debug, PartialEq)]
pub struct Ridge {
    /// Images of each class; each gives a row.
    pub shots: Vec<Shots>,
    /// Draws of few shots, by seeds `seed`, `seed + 1`, …; at least 1. All images are one draw.
    pub draws: usize,
    /// Values of the regularisation, above 0; of several the best on held-out training images is taken.
    pub l2: Vec<f64>,
    /// Whether features are whitened.
    pub whiten: bool,
    /// The number that stands for the bias; 0: there is no bias.
    pub bias: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Ridge {
    fn default() -> Self {
        Self {
            shots: vec![Shots::Each(1), Shots::Each(5), Shots::Each(10), Shots::All],
            draws: 3,
            l2: vec![1.0, 32.0, 1024.0, 32768.0],
            whiten: true,
            bias: 100.0,
            seed: 42,
        }
    }
}

impl Ridge {
    /// Scores of the validation images, a row for each number of shots.
    ///
    /// # Errors
    /// [`ProbeError::Option`], [`ProbeError::Singular`].
    pub fn rows(&self, features: &Features) -> Result<Vec<Row>, ProbeError> {
        self.check()?;
        self.shots.iter().map(|&shots| self.row(features, shots)).collect()
    }

    pub(super) fn check(&self) -> Result<(), ProbeError> {
        if self.shots.is_empty() {
            return refuse("shots", "nothing", "one number of images at least");
        }
        if self.draws == 0 {
            return refuse("draws", 0, "at least 1");
        }
        if self.l2.is_empty() || !self.l2.iter().all(|l2| l2.is_finite() && *l2 > 0.0) {
            return refuse("l2", format!("{:?}", self.l2), "numbers above 0");
        }
        if !self.bias.is_finite() {
            return refuse("bias", self.bias, "a finite number");
        }
        Ok(())
    }

    fn row(&self, features: &Features, shots: Shots) -> Result<Row, ProbeError> {
        let start = Instant::now();
        let draws = if shots == Shots::All { 1 } else { self.draws };
        let (mut tallies, mut chosen, mut images) = (Vec::new(), Vec::new(), 0);
        for draw in 0..draws {
            let seed = self.seed.wrapping_add(draw as u64);
            let drawn = draw_images(&features.train, features.num_classes(), shots, seed);
            images = drawn.iter().map(Vec::len).sum();
            let l2 = self.choose(&features.train, &drawn)?;
            chosen.push(l2);
            let fit = self.fit(&features.train, &drawn.concat(), features.num_classes(), l2)?;
            tallies.push(fit.tally(&features.val, &(0..features.val.len()).collect::<Vec<_>>()));
        }
        chosen.sort_by(f64::total_cmp);
        chosen.dedup();
        let l2 = chosen.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let five = features.num_classes() > 5;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Row::of("ridge", format!("shots={shots} l2={l2}"), &tallies, five, images, seconds))
    }

    /// The best `l2` of the grid, by the drawn images that are held out; of equally good ones the largest.
    fn choose(&self, train: &FeatureSet, drawn: &[Vec<usize>]) -> Result<f64, ProbeError> {
        let nearest = |a: &&f64, b: &&f64| {
            let far = |l2: f64| (l2.ln() - USUAL_L2.ln()).abs();
            far(**a).total_cmp(&far(**b))
        };
        let usual = self.l2.iter().min_by(nearest).copied().unwrap_or(USUAL_L2);
        let [kept, held] = hold_out(drawn);
        if self.l2.len() == 1 || held.is_empty() {
            return Ok(usual);
        }
        let equations = self.equations(train, &kept, drawn.len());
        let mut best = (usual, -1.0);
        let mut grid = self.l2.clone();
        grid.sort_by(f64::total_cmp);
        for l2 in grid {
            let score = equations.solve(l2)?.tally(train, &held).top1();
            if score >= best.1 {
                best = (l2, score);
            }
        }
        Ok(best.0)
    }

    /// Weights for the images with these indexes.
    ///
    /// # Errors
    /// [`ProbeError::Singular`].
    pub fn fit(
        &self,
        train: &FeatureSet,
        images: &[usize],
        classes: usize,
        l2: f64,
    ) -> Result<Fitted, ProbeError> {
        self.equations(train, images, classes).solve(l2)
    }

    fn equations<'a>(&self, train: &'a FeatureSet, images: &'a [usize], classes: usize) -> Equations<'a> {
        let scale = if self.whiten { Scale::of(train, images) } else { Scale::none(train.dim()) };
        let design = Design { scale, bias: self.bias };
        let (n, columns) = (images.len(), design.columns(train.dim()));
        let side = if n >= columns { Side::Columns } else { Side::Rows };
        let device = Device::flex();
        let targets = |part: &[usize]| targets(train, part, classes, &device);
        let (left, right) = match side {
            // XᵀX [D, D] and XᵀY [D, K], a block of rows at a time.
            Side::Columns => {
                let zeros = |n: usize| Tensor::<2>::zeros([columns, n], (&device, DType::F64));
                images.chunks(BLOCK).fold((zeros(columns), zeros(classes)), |(left, right), part| {
                    let x = design.rows(train, part, &device).transpose();
                    (left + product(x.clone(), x.clone().transpose()), right + product(x, targets(part)))
                })
            }
            // XXᵀ [N, N] and Y [N, K]: fewer rows than columns.
            Side::Rows => {
                let x = design.rows(train, images, &device);
                (product(x.clone(), x.transpose()), targets(images))
            }
        };
        Equations { train, images, design, side, classes, left: numbers(left), right: numbers(right) }
    }
}

/// Which of the two equal forms of the equations is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// `(XᵀX + l2) W = XᵀY`.
    Columns,
    /// `W = Xᵀ A`, `(XXᵀ + l2) A = Y`.
    Rows,
}

/// The equations before regularisation.
struct Equations<'a> {
    train: &'a FeatureSet,
    images: &'a [usize],
    design: Design,
    side: Side,
    classes: usize,
    /// A symmetric matrix.
    left: Vec<f64>,
    /// `[.., K]`, row by row.
    right: Vec<f64>,
}

impl Equations<'_> {
    fn solve(&self, l2: f64) -> Result<Fitted, ProbeError> {
        let n = self.left.len().isqrt();
        let mut left = DMatrix::from_row_slice(n, n, &self.left);
        left.iter_mut().step_by(n + 1).for_each(|diagonal| *diagonal += l2);
        let right = DMatrix::from_row_slice(n, self.classes, &self.right);
        let found = Cholesky::new(left).ok_or(ProbeError::Singular { l2 })?.solve(&right);
        let device = Device::flex();
        let found: Vec<f64> = found.transpose().as_slice().to_vec(); // row by row
        let found = Tensor::from_data(TensorData::new(found, [n, self.classes]), (&device, DType::F64));
        let weights = match self.side {
            Side::Columns => found,
            Side::Rows => {
                product(self.design.rows(self.train, self.images, &device).transpose(), found) // [D, K]
            }
        };
        if !numbers(weights.clone()).iter().all(|value| value.is_finite()) {
            return Err(ProbeError::Singular { l2 });
        }
        Ok(Fitted { design: self.design.clone(), weights })
    }
}

/// What regression found.
#[derive(Clone, Debug)]
pub struct Fitted {
    design: Design,
    /// `[D + 1, K]`, or `[D, K]` without a bias.
    weights: Tensor<2>,
}

impl Fitted {
    /// The weights of whitened features, `[D + 1, K]` row by row; the last row belongs to the number for the bias, if there
    /// is one.
    pub fn weights(&self) -> Vec<f64> {
        numbers(self.weights.clone())
    }

    /// Scores `[N, K]` of the images with these indexes.
    pub fn scores(&self, set: &FeatureSet, images: &[usize]) -> Vec<Vec<f64>> {
        let [_, k] = self.weights.dims();
        let part = |part: &[usize]| {
            let x = self.design.rows(set, part, &Device::flex());
            numbers(product(x, self.weights.clone()))
        };
        images
            .chunks(BLOCK)
            .flat_map(|images| part(images).chunks_exact(k).map(<[f64]>::to_vec).collect::<Vec<_>>())
            .collect()
    }

    fn tally(&self, set: &FeatureSet, images: &[usize]) -> Tally {
        let mut tally = Tally::default();
        for part in images.chunks(BLOCK) {
            let scores = self.scores(set, part);
            part.iter().zip(scores).for_each(|(&image, scores)| tally.add(&scores, set.labels()[image]));
        }
        tally
    }
}

/// Features as rows of equations: whitened, with a number for the bias.
#[derive(Clone, Debug)]
struct Design {
    scale: Scale,
    bias: f64,
}

impl Design {
    fn columns(&self, dim: usize) -> usize {
        dim + usize::from(self.bias != 0.0)
    }

    /// `[N, D + 1]`.
    fn rows(&self, set: &FeatureSet, images: &[usize], device: &Device) -> Tensor<2> {
        let columns = self.columns(set.dim());
        let mut values = Vec::with_capacity(images.len() * columns);
        for &image in images {
            let numbers = set.row(image).iter().zip(&self.scale.mean).zip(&self.scale.deviation);
            values.extend(numbers.map(|((x, mean), deviation)| (f64::from(*x) - mean) / deviation));
            values.extend((self.bias != 0.0).then_some(self.bias));
        }
        Tensor::from_data(TensorData::new(values, [images.len(), columns]), (device, DType::F64))
    }
}

/// Mean and deviation of each feature, `[D]`.
#[derive(Clone, Debug)]
struct Scale {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Scale {
    fn none(dim: usize) -> Self {
        Self { mean: vec![0.0; dim], deviation: vec![1.0; dim] }
    }

    fn of(set: &FeatureSet, images: &[usize]) -> Self {
        let n = images.len() as f64;
        let mut mean = vec![0.0; set.dim()];
        for &image in images {
            mean.iter_mut().zip(set.row(image)).for_each(|(sum, x)| *sum += f64::from(*x) / n);
        }
        let mut squares = vec![0.0; set.dim()];
        for &image in images {
            let gaps = set.row(image).iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean);
            squares.iter_mut().zip(gaps).for_each(|(sum, gap)| *sum += gap * gap / n);
        }
        let deviation = squares.into_iter().map(|square| square.sqrt() + LEAST_DEVIATION).collect();
        Self { mean, deviation }
    }
}

/// Targets of 1 and -1, `[N, K]`.
fn targets(set: &FeatureSet, images: &[usize], classes: usize, device: &Device) -> Tensor<2> {
    let mut values = vec![-1.0_f64; images.len() * classes];
    for (row, &image) in values.chunks_exact_mut(classes).zip(images) {
        row[set.labels()[image]] = 1.0;
    }
    Tensor::from_data(TensorData::new(values, [images.len(), classes]), (device, DType::F64))
}

fn numbers(x: Tensor<2>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// The images of each class that are kept, and those that are held out: one in five, but at least one where there are two.
pub(super) fn hold_out(drawn: &[Vec<usize>]) -> [Vec<usize>; 2] {
    let kept = |of: &[usize]| if of.len() > 1 { of.len() - (of.len() / HELD_OUT).max(1) } else { of.len() };
    let both = drawn.iter().map(|of| of.split_at(kept(of)));
    let (kept, held): (Vec<&[usize]>, Vec<&[usize]>) = both.unzip();
    [kept.concat(), held.concat()]
}

/// Indexes of the drawn images of each class. Fewer shots of a seed are the first of more shots.
pub(super) fn draw_images(train: &FeatureSet, classes: usize, shots: Shots, seed: u64) -> Vec<Vec<usize>> {
    let mut of_class = vec![Vec::new(); classes];
    for (image, &label) in train.labels().iter().enumerate() {
        of_class[label].push(image as u32); // datasets are limited to 50 million images
    }
    for (class, images) in of_class.iter_mut().enumerate() {
        shuffle(images, &mut probe_rng(seed, class as u64));
        images.truncate(shots.limit());
    }
    of_class.into_iter().map(|images| images.into_iter().map(|image| image as usize).collect()).collect()
}
