//! The loop.
//!
//! ```text
//! epoch = { update } → validation of the model and of its average → summary → checkpoint
//! ```
//!
//! Everything random is a function of the seed and of where the run is; where it is, and all that changes, is in
//! every checkpoint. A run that stops at any update and goes on therefore ends in the same weights, bit for bit, as
//! one that never stopped.

use std::path::PathBuf;

use burn::tensor::Device;

use super::TrainError;
use super::log::{Finished, RunFolder, Watch};
use super::recipe::Recipe;
use super::resume::Resume;
use super::run::Run;

/// What is asked of a run.
#[derive(Clone, Debug)]
pub struct Job {
    /// Everything that its numbers depend on.
    pub recipe: Recipe,
    /// Go on from a checkpoint.
    pub resume: Option<Resume>,
    /// Go on although arguments changed.
    pub allow_changed_args: bool,
    /// Never touch the network.
    pub offline: bool,
    /// The command line, for the record.
    pub command: Vec<String>,
    /// Where to compute; a device that keeps no graph.
    pub device: Device,
}

/// What somebody outside asks of a run while it goes.
pub trait Requests {
    /// Save and stop at the next update.
    fn stop(&self) -> bool;

    /// Save at the next update; asked for once.
    fn take_save(&self) -> bool {
        false
    }
}

/// Nobody asks anything.
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
    /// It came to its end.
    Done {
        /// Its folder.
        folder: RunFolder,
        /// What it came to.
        finished: Box<Finished>,
    },
    /// It was asked to stop, and can go on from a checkpoint.
    Stopped {
        /// Its folder.
        folder: RunFolder,
        /// The checkpoint.
        checkpoint: PathBuf,
    },
}

/// Whether a part of a run came to its end, or was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Goes,
    Stops,
}

/// Trains until the end of the recipe, or until asked to stop.
///
/// # Errors
/// [`TrainError`]: anything that makes no run, cannot be read or written, or a loss that stays no number.
pub fn fit(job: &Job, watch: &mut dyn Watch, requests: &dyn Requests) -> Result<Outcome, TrainError> {
    let mut run = Run::begin(job, watch, requests)?;
    while run.has_epochs() {
        if run.train_epoch()? == Flow::Stops || run.validate_epoch()? == Flow::Stops {
            return run.stop();
        }
        run.end_epoch()?;
    }
    run.finish()
}
