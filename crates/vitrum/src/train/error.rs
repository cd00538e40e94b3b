//! Errors of training.

use std::path::PathBuf;

use super::clip::ClipModeError;
use super::distill::TeacherError;
use super::log::LogError;
use super::optim::{OptimError, StateError};
use super::recipe::RecipeError;
use super::resume::ResumeError;
use super::schedule::ScheduleError;
use crate::checkpoint::error::LoadError;
use crate::checkpoint::load::ModelError;
use crate::data::augment::AugmentError;
use crate::data::batch::BatchError;
use crate::data::dataset::{DatasetError, TargetKind};
use crate::data::loader::LoaderError;
use crate::data::preprocess::PreprocessError;
use crate::data::train_set::TrainDataError;
use crate::models::{ConfigError, InputError};

/// An error of training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The task needs a classifier, and the model's family has none.
    #[error("the task needs a classifier, but this model's family has none")]
    NoClasses,
    /// The model does not predict masked patches.
    #[error("pretraining needs a model that predicts masked patches, such as a masked autoencoder")]
    NoReconstruction,
    /// A batch for pretraining without masks.
    #[error("a batch for pretraining has no masks of its patches")]
    NoMasks,
    /// The initial weights belong to another architecture.
    #[error(
        "{place} has the weights of {found}, not of {expected}\nhint: leave out `model`, or begin from other weights"
    )]
    OtherWeights {
        /// The weights.
        place: String,
        /// Their architecture.
        found: String,
        /// The recipe's.
        expected: String,
    },
    /// A key of the recipe has an unknown value.
    #[error("{key} '{found}' is not known")]
    UnknownValue {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
    },
    /// A pattern of parameters to freeze matches no parameter.
    #[error("freeze '{pattern}' matches no parameter of the model")]
    FreezesNothing {
        /// The pattern.
        pattern: String,
    },
    /// No parameter is left to train.
    #[error("every parameter is frozen: nothing is left to train")]
    FreezesAll,
    /// The recipe freezes the batch norms, but the model has none.
    #[error("freeze_bn: a {family} of this configuration has no batch norms")]
    NoBatchNorms {
        /// The model's family.
        family: &'static str,
    },
    /// The recipe asks for low-rank updates, but the model has no linear layers.
    #[error("lora_rank: a {family} has no linear layers but its head")]
    NoLinears {
        /// The model's family.
        family: &'static str,
    },
    /// The device cannot compute in the requested type.
    #[error("amp_dtype bf16: this device cannot compute in bf16\nhint: amp_dtype none, or another device")]
    NoBf16,
    /// The model has fewer classes than the data.
    #[error("num_classes {found}: {data} has {expected} classes")]
    TooFewClasses {
        /// The dataset.
        data: String,
        /// Classes of the model.
        found: usize,
        /// Classes of the data.
        expected: usize,
    },
    /// An image has no label.
    #[error("{name}: no label")]
    NoLabel {
        /// The image.
        name: String,
    },
    /// A label is not a class of the model.
    #[error(
        "{name}: class {label}, but the model has {classes} classes (0 to {last})",
        last = .classes.saturating_sub(1)
    )]
    Label {
        /// The image.
        name: String,
        /// Its label.
        label: usize,
        /// Classes of the model.
        classes: usize,
    },
    /// The target of an image is of another kind than the task's.
    #[error("{name}: its target is {found}, expected {expected}")]
    Target {
        /// The image.
        name: String,
        /// The kind of its target.
        found: TargetKind,
        /// The kind of the task's targets.
        expected: TargetKind,
    },
    /// An image has another number of values than the model has outputs.
    #[error("{name}: {found} values, but the model has {expected} outputs")]
    Values {
        /// The image.
        name: String,
        /// Number of its values.
        found: usize,
        /// Outputs of the model.
        expected: usize,
    },
    /// The model has more outputs than the images have values.
    #[error("num_classes {found}: the images of {data} have {expected} values")]
    Outputs {
        /// The dataset.
        data: String,
        /// Outputs of the model.
        found: usize,
        /// Values of each image.
        expected: usize,
    },
    /// The validation data has no readable image.
    #[error("the validation part holds no readable image")]
    NoImages,
    /// The plateau schedule assumes the opposite direction of the score.
    #[error(
        "sched plateau: expects that a {expected} {metric} is better, but the judge says the opposite\n\
         hint: another schedule"
    )]
    PlateauMetric {
        /// The score.
        metric: String,
        /// The direction that the schedule assumes: `larger` or `smaller`.
        expected: &'static str,
    },
    /// The training or validation images.
    #[error(transparent)]
    Data(#[from] TrainDataError),
    /// A dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Loading images.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// Augmentation.
    #[error(transparent)]
    Augment(#[from] AugmentError),
    /// Preprocessing.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// An update without a single example.
    #[error("an update needs examples, found none")]
    NoExamples,
    /// Targets that do not match their inputs or the model.
    #[error("targets of shape {found:?}, expected {expected:?}")]
    Targets {
        /// Their shape, or their number.
        found: Vec<usize>,
        /// What the inputs and the model ask for.
        expected: Vec<usize>,
    },
    /// Inputs that the model does not take.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Weights that are prepared for inference. They would get no gradient.
    #[error(
        "{layer}: its weights are {form} for inference and get no gradient\n\
         hint: train the model as it was loaded, before `pack`, `round_to_bf16` or `quantize`"
    )]
    Prepared {
        /// The first such layer.
        layer: String,
        /// The form: `packed`, `rounded to bf16` or `in int8`.
        form: &'static str,
    },
    /// Layer-wise decay of learning rates for a model that names no layers.
    #[error(
        "layer_decay {decay}: the model's `depth` names no layers\nhint: for a model inside another module, let \
         `Network::depth` of the outer one ask the inner one"
    )]
    NoLayers {
        /// The decay.
        decay: f64,
    },
    /// A batch norm in training saw a single value per channel: one image, and maps of one pixel.
    #[error("{layer}: a batch norm needs more than one value per channel, and this batch has one")]
    OneValue {
        /// The first such layer.
        layer: String,
    },
    /// The values of a batch do not fill its tensor.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The model or its initial weights.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The teacher of a distillation.
    #[error(transparent)]
    Teacher(#[from] TeacherError),
    /// A model's name or configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Writing the model.
    #[error(transparent)]
    Write(#[from] LoadError),
    /// The optimiser.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// A saved state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The clipping mode.
    #[error(transparent)]
    Clip(#[from] ClipModeError),
    /// Checkpoints.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// The run's folder.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file of the run.
    #[error("{path}: cannot be written: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The checkpoint belongs to another run.
    #[error("cannot resume: {0}\nhint: resume with the recipe of the run (its args.toml)")]
    OtherModel(String),
    /// The folder of a new run holds the checkpoints of another.
    #[error("{path}: holds the checkpoints of another run, the newest of step {step}", path = .path.display())]
    OtherRun {
        /// The folder.
        path: PathBuf,
        /// Updates before its newest checkpoint.
        step: u64,
    },
    /// The images differ from those at the run's beginning.
    #[error(
        "cannot resume {path}: the training or validation images changed\nhint: restore them",
        path = .path.display()
    )]
    ChangedData {
        /// The checkpoint.
        path: PathBuf,
    },
    /// Loss or gradients stayed NaN or infinite.
    #[error(
        "training diverged: the loss or gradients of three updates in a row were not finite, the last is update \
         {update}; first non-finite value: {place}\n\
         hint: {evidence} names the images",
        evidence = .evidence.display()
    )]
    Diverged {
        /// The last update.
        update: u64,
        /// The first layer, parameter or input that is not finite.
        place: String,
        /// The folder of the evidence.
        evidence: PathBuf,
    },
}
