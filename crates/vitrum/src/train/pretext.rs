//! Pretraining without labels: the loss of masked patches, and its judge.

use burn::tensor::Tensor;

use super::TrainError;
use super::judge::{Answers, Judge};
use super::objective::{Batch, Objective};
use super::score::{Measure, Scores};
use super::task::Task;
use crate::data::dataset::TargetKind;
use crate::layers::observe::Observer;
use crate::models::{Features, Inputs, Network, PixelScale, Reconstruct, Want};
use crate::tasks::mask::MaskSampler;
use crate::tasks::reconstruct::reconstruct;

/// Pretraining: the loss of the patches that are masked.
#[derive(Clone, Debug, PartialEq)]
pub struct Pretext {
    /// The statistics that normalised the images.
    pub scale: PixelScale,
}

impl<M: Network> Objective<M> for Pretext {
    fn check(&self, model: &M) -> Result<(), TrainError> {
        model.reconstruct().map(|_| ()).ok_or(TrainError::NoReconstruction)
    }

    fn check_batch(&self, _: &M, batch: &Batch) -> Result<(), TrainError> {
        batch.inputs.masks().map(|_| ()).ok_or(TrainError::NoMasks)
    }

    fn features(&self, model: &M, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        of(model).features(inputs, Want::Last, watch)
    }

    fn loss(&self, model: &M, features: Features, batch: &Batch, watch: &mut dyn Observer) -> Tensor<1> {
        let model = of(model);
        let masks = batch.inputs.masks().expect("`check_batch` saw that there are masks");
        let prediction = model.predict(features, masks, watch);
        model.loss(prediction, batch.inputs.clone().images(), masks, &self.scale)
    }
}

fn of<M: Network>(model: &M) -> &dyn Reconstruct {
    model.reconstruct().expect("`check` saw that the model predicts masked patches")
}

/// The forward pass of a validation: the loss of each image, with masks that are the same in every epoch.
pub struct Validation<'a> {
    model: &'a dyn Reconstruct,
    sampler: &'a MaskSampler,
    scale: PixelScale,
    done: usize,
}

impl<'a> Validation<'a> {
    /// A validation from its first image on.
    pub fn new(model: &'a dyn Reconstruct, sampler: &'a MaskSampler, scale: PixelScale) -> Self {
        Self { model, sampler, scale, done: 0 }
    }

    /// One row of one number, the loss, for each image.
    pub fn losses(&mut self, images: Tensor<4>) -> Vec<Vec<f64>> {
        let count = images.dims()[0];
        let masks = self.sampler.of_validation(self.done, count);
        self.done += count;
        let losses = reconstruct(self.model, images, &masks, &self.scale).losses;
        losses.into_iter().map(|loss| vec![loss]).collect()
    }
}

/// The mean loss of the masked patches. The answers are one row of one number for each image.
#[derive(Clone, Debug, Default)]
pub struct PretrainJudge {
    sum: f64,
    images: usize,
    newest: Option<f64>,
}

impl Judge for PretrainJudge {
    fn measures(&self) -> &[Measure] {
        Task::Pretrain.measures()
    }

    fn reset(&mut self, _: usize) {
        *self = Self::default();
    }

    fn add(&mut self, batch: &Answers<'_>) -> Result<(), TrainError> {
        let losses: Vec<f64> =
            batch.targets(TargetKind::Nothing)?.filter_map(|(_, row, _)| row.first().copied()).collect();
        let sum: f64 = losses.iter().sum();
        self.sum += sum;
        self.images += losses.len();
        self.newest = (!losses.is_empty()).then(|| sum / losses.len() as f64);
        Ok(())
    }

    fn scores(&self) -> Scores {
        match self.images {
            0 => Scores::default(),
            images => [("loss", self.sum / images as f64)].into_iter().collect(),
        }
    }

    fn newest(&self) -> Scores {
        self.newest.map(|loss| [("loss", loss)].into_iter().collect()).unwrap_or_default()
    }
}
