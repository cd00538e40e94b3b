//! `study.json` in the folder of a run: what it was begun with, so that a finished run is recognised.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StudyError;
use super::cost::{Cost, Images};
use super::expand::PlannedRun;
use crate::train::Recipe;
use crate::train::log::{Finished, files};
use crate::train::resume::{Change, changed};

/// What a run was begun with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The study.
    pub study: String,
    /// The run.
    pub run: String,
    /// The recipe; the models of other runs have their names, not their places.
    pub recipe: Recipe,
    /// Number of training and of validation images.
    pub images: [usize; 2],
    /// Fingerprints of the training and the validation images.
    pub data: [String; 2],
    /// Multiply-accumulates of one image, forward.
    pub macs: Option<u64>,
    /// Seconds of the run so far, in all processes that ended.
    pub seconds: f64,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Not begun.
    New,
    /// Begun, not finished.
    Begun(Box<Record>),
    /// Finished.
    Done(Box<Record>, Box<Finished>),
}

const NAME: &str = "study.json";

impl Record {
    /// The record of a new run.
    pub fn new(study: &str, run: &PlannedRun, images: &Images, cost: &Cost) -> Self {
        Self {
            study: study.into(),
            run: run.id.clone(),
            recipe: run.recipe.clone(),
            images: [images.train, images.val],
            data: images.fingerprints.clone(),
            macs: cost.macs,
            seconds: 0.0,
        }
    }

    /// Writes `study.json` into the folder of the run.
    ///
    /// # Errors
    /// [`StudyError::Log`].
    pub fn write(&self, folder: &Path) -> Result<(), StudyError> {
        let text = serde_json::to_string_pretty(self).expect("numbers and texts make JSON");
        Ok(files::replace(&folder.join(NAME), (text + "\n").as_bytes())?)
    }

    /// The record in the folder of a run, if it has one.
    ///
    /// # Errors
    /// [`StudyError::Io`], [`StudyError::Record`].
    fn read(folder: &Path) -> Result<Option<Self>, StudyError> {
        let path = folder.join(NAME);
        read_json(&path)
    }

    /// Refuses a record of other values or images. `images` are not compared if they are not known.
    ///
    /// # Errors
    /// [`StudyError::Changed`], [`StudyError::ChangedData`].
    fn check(
        &self,
        run: &PlannedRun,
        images: Option<&Images>,
        folder: &Path,
        state: &'static str,
    ) -> Result<(), StudyError> {
        let (id, path) = (run.id.clone(), folder.to_path_buf());
        let changes: Vec<Change> = changed(&self.recipe, &run.recipe);
        if !changes.is_empty() {
            return Err(StudyError::Changed { run: id, path, state, changes });
        }
        let Some(images) = images else { return Ok(()) };
        for (part, at) in [("training", 0), ("validation", 1)] {
            if self.data[at] != images.fingerprints[at] {
                return Err(StudyError::ChangedData { run: id, path, state, part });
            }
        }
        Ok(())
    }
}

impl State {
    /// How far a run in this folder is. Its values, and its images if they are known, must be those of the plan.
    ///
    /// # Errors
    /// [`StudyError`]: a record of other values or images, a folder without a record.
    pub fn of(run: &PlannedRun, folder: &Path, images: Option<&Images>) -> Result<Self, StudyError> {
        let finished: Option<Finished> = read_json(&folder.join("results.json"))?;
        let finished = finished.filter(|finished| !finished.interrupted);
        let Some(record) = Record::read(folder)? else {
            return match finished.is_some() || folder.join("checkpoints").exists() {
                true => Err(StudyError::OtherFolder { path: folder.to_path_buf() }),
                false => Ok(Self::New),
            };
        };
        let state = if finished.is_some() { "finished" } else { "begun" };
        record.check(run, images, folder, state)?;
        let record = Box::new(record);
        Ok(match finished {
            Some(finished) => Self::Done(record, Box::new(finished)),
            None => Self::Begun(record),
        })
    }
}

/// A file of JSON; `None` if it does not exist.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StudyError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StudyError::io(path, error)),
    };
    let wrong = |error: serde_json::Error| StudyError::Record {
        path: PathBuf::from(path),
        reason: error.to_string(),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}
