//! A request to train, requests to a run, and its outcome.

use std::path::PathBuf;

use burn::tensor::Device;

use super::log::{Finished, RunFolder};
use super::recipe::Recipe;
use super::resume::Resume;

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
