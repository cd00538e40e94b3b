//! What can keep a run from its end.

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
use crate::data::dataset::DatasetError;
use crate::data::loader::LoaderError;
use crate::data::preprocess::PreprocessError;
use crate::data::train_set::TrainDataError;
use crate::models::ConfigError;

/// What can keep a run from its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// An option and something else do not go together.
    #[error("{0}")]
    Option(String),
    /// The training or validation images.
    #[error(transparent)]
    Data(#[from] TrainDataError),
    /// A dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Loading of images.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// Augmentation.
    #[error(transparent)]
    Augment(#[from] AugmentError),
    /// Preprocessing.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// A batch that fills no tensor.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The model, or the weights it begins with.
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
    /// The way of clipping.
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
    /// A checkpoint that is not this run's.
    #[error("cannot go on: {0}\nhint: resume with the recipe of the run (its args.toml)")]
    OtherModel(String),
    /// A run that is to begin in the folder of another.
    #[error(
        "{path}: holds the checkpoints of another run, the newest of step {step}\nhint: go on from them with --resume, or choose another --experiment",
        path = .path.display()
    )]
    OtherRun {
        /// The folder.
        path: PathBuf,
        /// Updates its newest checkpoint was made after.
        step: u64,
    },
    /// The images are not those the run was begun with.
    #[error(
        "cannot resume {path}: the training or validation images changed\nhint: bring them back, or pass --allow-changed-args to go on anyway",
        path = .path.display()
    )]
    ChangedData {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The loss stopped being a number.
    #[error(
        "training diverged: three updates in a row, the last number {update}, had no finite loss or gradient; first bad: {place}\nhint: {evidence} names the images; a smaller --lr, a longer --warmup-epochs or --clip-grad 1 often helps",
        evidence = .evidence.display()
    )]
    Diverged {
        /// The last update.
        update: u64,
        /// The first layer, parameter or input that is not finite.
        place: String,
        /// Where the evidence lies.
        evidence: PathBuf,
    },
}
