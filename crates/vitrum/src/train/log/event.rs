//! What can be told of a run while it goes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::results::Finished;

/// Whoever wants to know how a run goes.
pub trait Watch {
    /// Takes notice of an event. The loop waits for it, so it should not take long.
    fn event(&mut self, event: &Event);
}

impl<W: Watch + ?Sized> Watch for &mut W {
    fn event(&mut self, event: &Event) {
        (**self).event(event);
    }
}

impl<W: Watch + ?Sized> Watch for Box<W> {
    fn event(&mut self, event: &Event) {
        (**self).event(event);
    }
}

/// All of them, in their order.
impl<W: Watch> Watch for Vec<W> {
    fn event(&mut self, event: &Event) {
        self.iter_mut().for_each(|watch| watch.event(event));
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The run begins, or goes on.
    Started(Started),
    /// A line of the log, every `log_interval` batches.
    Train(TrainLine),
    /// One update is done.
    Step(Step),
    /// A line of a validation.
    Eval(EvalLine),
    /// An epoch is over, validation included.
    Epoch(EpochSummary),
    /// A checkpoint is on disk.
    Saved {
        /// Its folder.
        path: PathBuf,
        /// Whether it is the best so far.
        best: bool,
    },
    /// Something worth a line.
    Note(String),
    /// The run is over or stopped.
    Finished(Finished),
}

/// What a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Name of the model.
    pub model: String,
    /// Its parameters.
    pub params: u64,
    /// Height and width of the input in pixels.
    pub img_size: [usize; 2],
    /// The run's folder.
    pub run: PathBuf,
    /// Where the images come from.
    pub data: String,
    /// Training images.
    pub train_images: usize,
    /// Validation images.
    pub val_images: usize,
    /// Classes.
    pub classes: usize,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Updates of an epoch.
    pub batches: usize,
    /// Epochs done before, when the run goes on.
    pub epochs_done: usize,
    /// Updates done before.
    pub updates_done: u64,
    /// The device.
    pub device: String,
    /// Threads that compute.
    pub threads: usize,
    /// The seed.
    pub seed: u64,
}

/// How training goes, as timm tells it. "Update" and "batch" mean the same unless gradients are accumulated, when all
/// numbers are of updates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainLine {
    /// From 0.
    pub epoch: usize,
    /// Updates done in the whole run, this one included.
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
    /// Seconds waited for data.
    #[serde(with = "number")]
    pub data_seconds: f64,
    /// Mean of the epoch so far.
    #[serde(with = "number")]
    pub data_seconds_avg: f64,
    /// Seconds of the update, waiting included.
    #[serde(with = "number")]
    pub step_seconds: f64,
    /// Mean of the epoch so far.
    #[serde(with = "number")]
    pub step_seconds_avg: f64,
    /// Norm of all gradients before clipping, where it was computed.
    pub grad_norm: Option<f64>,
    /// Memory of the process in MB, where the system tells it.
    pub memory_mb: Option<f64>,
}

/// One update is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// From 0.
    pub epoch: usize,
    /// Updates done in the whole run, this one included.
    pub update: u64,
    /// This update's number in its epoch, from 0.
    pub batch: usize,
    /// Updates of an epoch.
    pub batches: usize,
    /// Its loss.
    #[serde(with = "number")]
    pub loss: f64,
}

/// How a validation goes; each value with its mean so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalLine {
    /// From 0.
    pub epoch: usize,
    /// Updates done.
    pub update: u64,
    /// Whether the moving average of the weights is validated.
    pub ema: bool,
    /// The batch's number, from 0.
    pub batch: usize,
    /// Batches of a validation.
    pub batches: usize,
    /// Seconds of the batch.
    #[serde(with = "number")]
    pub seconds: f64,
    /// Mean seconds of a batch.
    #[serde(with = "number")]
    pub seconds_avg: f64,
    /// Mean cross entropy of the batch.
    #[serde(with = "number")]
    pub loss: f64,
    /// Of all images so far.
    #[serde(with = "number")]
    pub loss_avg: f64,
    /// Percentage of the batch that is right.
    #[serde(with = "number")]
    pub top1: f64,
    /// Of all images so far.
    #[serde(with = "number")]
    pub top1_avg: f64,
    /// Percentage of the batch whose class is among the five likeliest.
    #[serde(with = "number")]
    pub top5: f64,
    /// Of all images so far.
    #[serde(with = "number")]
    pub top5_avg: f64,
}

impl EvalLine {
    /// Whether the validation ends with this batch.
    pub fn is_last(&self) -> bool {
        self.batch + 1 >= self.batches
    }
}

/// What an epoch came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochSummary {
    /// From 0.
    pub epoch: usize,
    /// Updates done in the whole run.
    pub updates: u64,
    /// Mean training loss of the epoch.
    #[serde(with = "number")]
    pub train_loss: f64,
    /// Mean cross entropy on the validation images, where the epoch was validated.
    pub eval_loss: Option<f64>,
    /// Percentage right.
    pub eval_top1: Option<f64>,
    /// Percentage among the five likeliest.
    pub eval_top5: Option<f64>,
    /// As `eval_loss`, of the moving average of the weights.
    pub ema_loss: Option<f64>,
    /// As `eval_top1`.
    pub ema_top1: Option<f64>,
    /// As `eval_top5`.
    pub ema_top5: Option<f64>,
    /// Learning rate at the end of the epoch.
    #[serde(with = "number")]
    pub lr: f64,
    /// Length of the epoch, validation included.
    #[serde(with = "number")]
    pub seconds: f64,
}

impl Event {
    /// As one JSON object whose first key, `event`, says which; numbers that are not finite are `null`.
    pub fn to_json(&self) -> Map<String, Value> {
        let text = |key: &str, value: Value| Map::from_iter([(key.to_string(), value)]);
        let (name, fields) = match self {
            Self::Started(started) => ("started", fields(started)),
            Self::Train(line) => ("train", fields(line)),
            Self::Step(step) => ("step", fields(step)),
            Self::Eval(line) => ("eval", fields(line)),
            Self::Epoch(summary) => ("epoch", fields(summary)),
            Self::Saved { path, best } => {
                let mut saved = text("path", path.display().to_string().into());
                saved.insert("best".into(), (*best).into());
                ("saved", saved)
            }
            Self::Note(note) => ("note", text("text", note.clone().into())),
            Self::Finished(finished) => ("finished", fields(finished)),
        };
        let mut object = Map::new();
        object.insert("event".into(), name.into());
        object.extend(fields);
        object
    }
}

fn fields(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        // Structs of numbers and texts have no other form; a path that is no text is the one failure.
        _ => Map::new(),
    }
}

/// JSON knows no NaN: it is written as `null`, and read back as NaN.
pub(in crate::train) mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(*value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}
