//! MAE's linear probe (arXiv:2111.06377, appendix A.1; `main_linprobe.py`): a batch norm without gain and offset, then a
//! linear layer, trained by LARS with a warm-up and a cosine.
//!
//! The features are those of the cache: every epoch sees the same crop of an image. MAE draws a random resized crop and a
//! flip for every epoch, and runs the model each time. That regularises, so MAE's own numbers are a little higher; the
//! order of models hardly changes.

use std::time::Instant;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::error::{ProbeError, refuse};
use super::features::{FeatureSet, Features};
use super::ridge::{Shots, draw_images, hold_out};
use super::row::{Row, Tally};
use crate::data::random::order_rng;
use crate::data::train_set::shuffle;
use crate::layers::Linear as LinearLayer;
use crate::layers::batch_norm::BatchNorm;
use crate::layers::init::{Draw, initialize, norm};
use crate::layers::names::{Key, Map, map};
use crate::layers::observe::{Observer, Silent, Within};
use crate::models::{ConfigError, Depth, Features as Levels, Inputs, Level, Network};
use crate::train::TrainError;
use crate::train::objective::{Batch, ClassLoss, Objective, Targets};
use crate::train::optim::OptimConfig;
use crate::train::recipe::Recipe;
use crate::train::trainer::{Trainer, TrainerConfig};

/// Epsilon of the norm.
const EPS: f64 = 1e-6;
/// Deviation of the first weights.
const FIRST_DEVIATION: f64 = 0.01;
/// Batch size for which the learning rate is given.
const BASE_BATCH: f64 = 256.0;
/// Rows of one product after training.
const BLOCK: usize = 4096;

/// A linear probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Epochs, warm-up included; 90 in MAE.
    pub epochs: usize,
    /// Epochs of the warm-up; 10 in MAE.
    pub warmup_epochs: usize,
    /// Images per update; 16384 in MAE. With fewer training images: all of them.
    pub batch_size: usize,
    /// Learning rates for a batch of 256; 0.1 in MAE. The rate is `blr · batch / 256`. Of several, each is tried on four
    /// fifths of the training images and scored on the rest; the best learns from all.
    pub blr: Vec<f64>,
    /// The optimiser, by its name in a recipe; `lars_moco` in MAE.
    pub opt: String,
    /// Weight decay; 0 in MAE.
    pub weight_decay: f64,
    /// Seed of the first weights and of the order.
    pub seed: u64,
}

impl Default for Linear {
    fn default() -> Self {
        Self {
            epochs: 90,
            warmup_epochs: 10,
            batch_size: 256,
            blr: vec![0.1, 1.0, 10.0, 100.0],
            opt: "lars_moco".into(),
            weight_decay: 0.0,
            seed: 42,
        }
    }
}

impl Linear {
    /// Scores of the validation images after the last epoch: one row.
    ///
    /// # Errors
    /// [`ProbeError::Option`], [`ProbeError::Diverged`], [`ProbeError::Train`].
    pub fn rows(&self, features: &Features, device: &Device) -> Result<Vec<Row>, ProbeError> {
        self.check()?;
        let start = Instant::now();
        let (train, classes) = (&features.train, features.num_classes());
        let all: Vec<usize> = (0..train.len()).collect();
        let blr = self.choose(train, classes, device)?;
        let probe = self.train(train, &all, classes, blr, device)?;
        let tally = probe.tally(&features.val, &(0..features.val.len()).collect::<Vec<_>>(), device);
        let setting = format!("blr={blr} batch={} epochs={}", self.batch(train.len()), self.epochs);
        let seconds = start.elapsed().as_secs_f64();
        Ok(vec![Row::of("linear", setting, &[tally], classes > 5, train.len(), seconds)])
    }

    /// The best learning rate, by training images that are held out; of equally good ones the smallest.
    fn choose(&self, train: &FeatureSet, classes: usize, device: &Device) -> Result<f64, ProbeError> {
        let [kept, held] = hold_out(&draw_images(train, classes, Shots::All, self.seed));
        let mut grid = self.blr.clone();
        grid.sort_by(f64::total_cmp);
        let mut best = (grid[0], -1.0);
        if grid.len() == 1 || held.is_empty() || kept.len() < 2 {
            return Ok(best.0);
        }
        for blr in grid {
            let score = match self.train(train, &kept, classes, blr, device) {
                Ok(probe) => probe.tally(train, &held, device).top1(),
                // Too large a rate is no candidate, unless it is the only one.
                Err(ProbeError::Diverged { .. }) => -1.0,
                Err(error) => return Err(error),
            };
            if score > best.1 {
                best = (blr, score);
            }
        }
        Ok(best.0)
    }

    pub(super) fn check(&self) -> Result<(), ProbeError> {
        if self.blr.is_empty() || !self.blr.iter().all(|blr| blr.is_finite() && *blr > 0.0) {
            return refuse("blr", format!("{:?}", self.blr), "numbers above 0");
        }
        if self.batch_size < 2 {
            return refuse("batch_size", self.batch_size, "at least 2, for the batch norm");
        }
        if self.epochs <= self.warmup_epochs {
            return refuse("epochs", self.epochs, "more than those of the warm-up");
        }
        OptimConfig::from_recipe(&self.recipe(self.batch_size, 1.0)).map_err(TrainError::from)?;
        Ok(())
    }

    /// Images of an update, of `images` in all.
    fn batch(&self, images: usize) -> usize {
        self.batch_size.min(images)
    }

    /// The recipe of the optimiser and the schedule. Its epochs begin after the warm-up.
    pub fn recipe(&self, batch: usize, blr: f64) -> Recipe {
        Recipe {
            opt: self.opt.clone(),
            lr: Some(blr * batch as f64 / BASE_BATCH),
            weight_decay: self.weight_decay,
            epochs: self.epochs - self.warmup_epochs,
            warmup_epochs: self.warmup_epochs as f64,
            warmup_prefix: true,
            warmup_lr: 0.0,
            min_lr: 0.0,
            batch_size: batch,
            seed: self.seed,
            ..Recipe::default()
        }
    }

    /// A probe of the images with these indexes.
    fn train(
        &self,
        set: &FeatureSet,
        images: &[usize],
        classes: usize,
        blr: f64,
        device: &Device,
    ) -> Result<LinearProbe, ProbeError> {
        let batch = self.batch(images.len());
        let updates = images.len() / batch; // as MAE, without the rest
        let probe = LinearProbe::fresh(set.dim(), classes, self.seed, device)?;
        let config = TrainerConfig::from_recipe(&self.recipe(batch, blr), updates as u64)?;
        let mut trainer = Trainer::with_config(probe, Box::new(CrossEntropy), config, device)?;
        for epoch in 0..self.epochs {
            let mut order: Vec<u32> = (0..images.len() as u32).collect();
            shuffle(&mut order, &mut order_rng(self.seed, epoch as u64));
            for places in order.chunks_exact(batch) {
                let images: Vec<usize> = places.iter().map(|&place| images[place as usize]).collect();
                let updated = trainer.update(vec![examples(set, &images, classes, device)])?;
                if let Some(reason) = updated.skipped {
                    return Err(ProbeError::Diverged { update: trainer.updates(), reason });
                }
            }
        }
        Ok(trainer.model())
    }
}

/// A batch of features, on the autodiff device.
pub fn examples(train: &FeatureSet, images: &[usize], classes: usize, device: &Device) -> Batch {
    let (b, d) = (images.len(), train.dim());
    let values: Vec<f32> = images.iter().flat_map(|&image| train.row(image)).copied().collect();
    let mut targets = vec![0.0_f32; b * classes];
    for (row, &image) in targets.chunks_exact_mut(classes).zip(images) {
        row[train.labels()[image]] = 1.0;
    }
    let device = device.clone().autodiff();
    let values = Tensor::from_data(TensorData::new(values, [b, d, 1, 1]), &device);
    Batch::new(
        Inputs::Images(values),
        Targets::Soft(Tensor::from_data(TensorData::new(targets, [b, classes]), &device)),
    )
}

/// The probe as a network: `[B, D] -> [B, K]`. Features enter as images `[B, D, 1, 1]`.
#[derive(Module, Debug)]
pub struct LinearProbe {
    norm: BatchNorm,
    head: LinearLayer,
}

impl LinearProbe {
    /// A probe of `dim` numbers and `classes` classes: weights of deviation 0.01, no bias.
    ///
    /// # Errors
    /// None: every parameter has a first value.
    pub fn fresh(dim: usize, classes: usize, seed: u64, device: &Device) -> Result<Self, ProbeError> {
        let norm_layer = BatchNorm { eps: EPS, ..BatchNorm::new(dim, device) };
        let probe = Self { norm: norm_layer, head: LinearLayer::new(dim, classes, true, device) };
        let first = |key: &str, _: &[usize]| match key.split_once('.')? {
            ("norm", part) => norm(part),
            ("head", "weight") => Some(Draw::Normal(FIRST_DEVIATION)),
            ("head", "bias") => Some(Draw::Constant(0.0)),
            _ => None,
        };
        let probe = initialize(probe, &first, seed, DType::F32)
            .map_err(|error| TrainError::from(ConfigError::from(error)))?;
        Ok(map(probe, &mut FreezeNorm))
    }

    /// Logits `[B, K]` of features `[B, D]`.
    pub fn logits(&self, x: Tensor<2>, watch: &mut dyn Observer) -> Tensor<2> {
        let x = self.norm.forward(x, &mut Within::new(watch, format_args!("norm")));
        self.head.forward(x)
    }

    fn tally(&self, set: &FeatureSet, images: &[usize], device: &Device) -> Tally {
        let mut tally = Tally::default();
        for images in images.chunks(BLOCK) {
            let values: Vec<f32> = images.iter().flat_map(|&image| set.row(image)).copied().collect();
            let x = Tensor::from_data(TensorData::new(values, [images.len(), set.dim()]), device);
            let logits = self.logits(x, &mut Silent);
            let [_, k] = logits.dims();
            let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
            let rows = logits.chunks_exact(k).zip(images);
            rows.for_each(|(row, &image)| tally.add(row, set.labels()[image]));
        }
        tally
    }
}

/// The norm has neither gain nor offset: they stay 1 and 0.
struct FreezeNorm;

impl Map for FreezeNorm {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        param.set_require_grad(key.name.starts_with("head."))
    }
}

impl Network for LinearProbe {
    fn linears(&self) -> Vec<(String, &LinearLayer)> {
        vec![("head".into(), &self.head)]
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut LinearLayer)> {
        vec![("head".into(), &mut self.head)]
    }

    fn depth(&self, _: &str) -> Depth {
        Depth::Head
    }
}

/// The cross entropy of a probe's logits.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy;

impl Objective<LinearProbe> for CrossEntropy {
    fn check(&self, _: &LinearProbe) -> Result<(), TrainError> {
        Ok(())
    }

    fn features(&self, _: &LinearProbe, inputs: Inputs, _: &mut dyn Observer) -> Levels {
        let x = inputs.images(); // [B, D, 1, 1]
        let [b, d, ..] = x.dims();
        Level::of_image(x.reshape([b, 1, d]), 0, [1, 1]).into()
    }

    fn loss(&self, probe: &LinearProbe, x: Levels, batch: &Batch, watch: &mut dyn Observer) -> Tensor<1> {
        let x = x.last().tokens; // [B, 1, D]
        let logits = probe.logits(x.squeeze_dim(1), watch);
        ClassLoss::CrossEntropy.loss(logits, batch.targets.soft())
    }
}
