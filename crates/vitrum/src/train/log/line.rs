//! The contents of events: the facts of a run, the lines of its log, the results of an epoch.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::train::score::{Better, Meters, Validation};

/// The facts of a run when it begins or resumes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The model's name.
    pub model: String,
    /// Number of parameters.
    pub params: u64,
    /// Height and width of the input in pixels.
    pub img_size: [usize; 2],
    /// The run's folder.
    pub run: PathBuf,
    /// The dataset.
    pub data: String,
    /// Number of training images.
    pub train_images: usize,
    /// Number of validation images.
    pub val_images: usize,
    /// Number of classes, or of numbers to predict.
    pub classes: usize,
    /// Whether the model predicts numbers instead of classes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub numbers: bool,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Updates of an epoch.
    pub batches: usize,
    /// Epochs done before the run was resumed.
    pub epochs_done: usize,
    /// Updates done before the run was resumed.
    pub updates_done: u64,
    /// The device.
    pub device: String,
    /// Compute threads.
    pub threads: usize,
    /// The seed.
    pub seed: u64,
    /// The score that chooses the best checkpoint.
    #[serde(default)]
    pub eval_metric: String,
    /// Its direction.
    #[serde(default)]
    pub better: Better,
}

/// A log line of training, as in timm. With accumulated gradients, a "batch" here is an update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainLine {
    /// From 0.
    pub epoch: usize,
    /// Updates done in the whole run, including this one.
    pub update: u64,
    /// This update's number in its epoch, from 0.
    pub batch: usize,
    /// Updates of an epoch.
    pub batches: usize,
    /// This update's loss.
    #[serde(with = "number")]
    pub loss: f64,
    /// Mean loss of the epoch so far.
    #[serde(with = "number")]
    pub loss_avg: f64,
    /// Learning rate of the update.
    #[serde(with = "number")]
    pub lr: f64,
    /// Images per second of this update.
    #[serde(with = "number")]
    pub images_per_second: f64,
    /// Mean of the epoch so far.
    #[serde(with = "number")]
    pub images_per_second_avg: f64,
    /// Seconds of waiting for data.
    #[serde(with = "number")]
    pub data_seconds: f64,
    /// Mean of the epoch so far.
    #[serde(with = "number")]
    pub data_seconds_avg: f64,
    /// Seconds of the update, including the wait for data.
    #[serde(with = "number")]
    pub step_seconds: f64,
    /// Mean of the epoch so far.
    #[serde(with = "number")]
    pub step_seconds_avg: f64,
    /// Norm of all gradients before clipping, if it was computed.
    pub grad_norm: Option<f64>,
    /// Memory of the process in MB, if the system reports it.
    pub memory_mb: Option<f64>,
}

/// An update is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// From 0.
    pub epoch: usize,
    /// Updates done in the whole run, including this one.
    pub update: u64,
    /// This update's number in its epoch, from 0.
    pub batch: usize,
    /// Updates of an epoch.
    pub batches: usize,
    /// Its loss.
    #[serde(with = "number")]
    pub loss: f64,
}

/// A log line of validation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalLine {
    /// From 0.
    pub epoch: usize,
    /// Updates done.
    pub update: u64,
    /// Whether this is the moving average of the weights.
    pub ema: bool,
    /// The batch's number, from 0.
    pub batch: usize,
    /// Batches of a validation.
    pub batches: usize,
    /// Seconds of this batch.
    #[serde(with = "number")]
    pub seconds: f64,
    /// Mean seconds of a batch so far.
    #[serde(with = "number")]
    pub seconds_avg: f64,
    /// The scores: the value of this batch, and the value so far.
    #[serde(flatten)]
    pub scores: Meters,
}

impl EvalLine {
    /// Whether this is the validation's last batch.
    pub fn is_last(&self) -> bool {
        self.batch + 1 >= self.batches
    }
}

/// The results of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochSummary {
    /// From 0.
    pub epoch: usize,
    /// Updates done in the whole run.
    pub updates: u64,
    /// Mean training loss of the epoch.
    #[serde(with = "number")]
    pub train_loss: f64,
    /// The scores of the validation images.
    #[serde(flatten)]
    pub validation: Validation,
    /// Learning rate at the end of the epoch.
    #[serde(with = "number")]
    pub lr: f64,
    /// Seconds of the epoch, including validation.
    #[serde(with = "number")]
    pub seconds: f64,
}

impl EpochSummary {
    /// A score of the validation, by its name: that of the moving average of the weights if one is kept, else that of
    /// the model. `None`: the epoch was not validated, or the task has no such score.
    pub fn score(&self, name: &str) -> Option<f64> {
        self.validation.decisive()?.get(name)
    }
}

/// JSON has no NaN: `null` is written instead, and reads back as NaN.
pub(in crate::train) mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(*value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}
