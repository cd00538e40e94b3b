//! A request to train, requests to a run, and its outcome.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;

use super::log::{Finished, RunFolder};
use super::recipe::Recipe;
use super::resume::Resume;
use crate::Error;
use crate::checkpoint::load::Loaded;
use crate::tasks::{Classifier, Embedder};

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
    /// The device to compute on, without autodiff. The recipe's `device` is only read by the command line.
    pub device: Device,
}

impl Job {
    /// A new run on the CPU.
    pub fn new(recipe: Recipe) -> Self {
        Self {
            recipe,
            resume: None,
            allow_changed_args: false,
            offline: false,
            command: Vec::new(),
            device: Device::flex(),
        }
    }
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

/// Stops the run once the flag is true.
impl Requests for AtomicBool {
    fn stop(&self) -> bool {
        self.load(Ordering::Relaxed)
    }
}

/// How a run ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// Its folder.
    pub folder: RunFolder,
    /// Its result.
    pub finished: Box<Finished>,
    /// The model with its preprocessing and labels, as in the folder's `model/`: the weights of the best validation, or
    /// the newest without one; their moving average if the recipe keeps one.
    pub model: Loaded,
    /// The checkpoint to resume from, if the run was stopped before its end.
    pub stopped: Option<PathBuf>,
    pub(super) device: Device,
}

impl Outcome {
    /// The trained model as a classifier.
    ///
    /// # Errors
    /// Those of [`Classifier::new`].
    pub fn classifier(self) -> Result<Classifier, Error> {
        Classifier::new(self.model, self.device)
    }

    /// The trained model as a maker of features.
    ///
    /// # Errors
    /// Those of [`Embedder::new`].
    pub fn embedder(self) -> Result<Embedder, Error> {
        Embedder::new(self.model, self.device)
    }
}

/// Whether a part of a run finished, or was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Goes,
    Stops,
}
