//! The training loop.
//!
//! ```text
//! epoch = { update } → validation of the model and of its average → summary → checkpoint
//! ```
//!
//! Everything random is a function of the seed and of the position in the run. Every checkpoint holds that position and
//! all state. A run that is stopped after any update and resumed therefore ends with the same weights, bit for bit, as
//! one that never stopped.

use std::path::PathBuf;

use burn::tensor::Device;

use super::TrainError;
use super::judge::{Judge, judge};
use super::log::{Finished, RunFolder, Watch};
use super::recipe::Recipe;
use super::resume::Resume;
use super::run::Run;

/// A request to train.
#[derive(Clone, Debug)]
pub struct Job {
    /// Everything that the run's numbers depend on.
    pub recipe: Recipe,
    /// Resume from a checkpoint.
    pub resume: Option<Resume>,
    /// Resume even if arguments changed.
    pub allow_changed_args: bool,
    /// Never use the network.
    pub offline: bool,
    /// The command line, for the run's records.
    pub command: Vec<String>,
    /// The device to compute on, without autodiff.
    pub device: Device,
}

/// Requests to a run from outside.
pub trait Requests {
    /// Whether to save and stop after the next update.
    fn stop(&self) -> bool;

    /// Whether to save after the next update; true once per request.
    fn take_save(&self) -> bool {
        false
    }
}

/// No requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRequests;

impl Requests for NoRequests {
    fn stop(&self) -> bool {
        false
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It finished.
    Done {
        /// Its folder.
        folder: RunFolder,
        /// Its result.
        finished: Box<Finished>,
    },
    /// It was stopped by request, and can be resumed from a checkpoint.
    Stopped {
        /// Its folder.
        folder: RunFolder,
        /// The checkpoint.
        checkpoint: PathBuf,
    },
}

/// Whether a part of a run finished, or was stopped by request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Goes,
    Stops,
}

/// Trains until the end of the recipe, or until a request to stop.
///
/// # Errors
/// [`TrainError`]: an invalid recipe, an I/O error, or a loss that stays NaN or infinite.
pub fn fit(job: &Job, watch: &mut dyn Watch, requests: &dyn Requests) -> Result<Outcome, TrainError> {
    fit_with(job, judge(job.recipe.task()?), watch, requests)
}

/// Trains as [`fit`], with a judge of your own for validation. The recipe's `eval_metric` is one of its scores.
///
/// # Errors
/// As [`fit`], and those of the judge. [`TrainError::PlateauMetric`]: the plateau schedule knows the directions of the
/// task's own scores; it takes any other score for a loss if its name contains "loss", for an accuracy otherwise.
pub fn fit_with(
    job: &Job,
    judge: Box<dyn Judge>,
    watch: &mut dyn Watch,
    requests: &dyn Requests,
) -> Result<Outcome, TrainError> {
    let mut run = Run::begin(job, judge, watch, requests)?;
    while run.has_epochs() {
        if run.train_epoch()? == Flow::Stops || run.validate_epoch()? == Flow::Stops {
            return run.stop();
        }
        run.end_epoch()?;
    }
    run.finish()
}
