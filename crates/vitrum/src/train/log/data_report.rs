//! The use of a run's data, for `data.json`.

use serde::{Deserialize, Serialize};

use super::{LogError, RunFolder, files};
use crate::data::dataset::Skipped;
use crate::data::loader::BadSample;

/// The use of a run's data; the fields of `data.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataReport {
    /// The source of the validation images.
    pub validation: String,
    /// What the training and validation data left out, and what was chosen while they were read.
    #[serde(skip_deserializing)]
    pub left_out: Skipped,
    /// Training images that cannot be used. The next usable image takes the place of each.
    pub replaced: Vec<Unusable>,
    /// Validation images that cannot be used. They are left out.
    pub unreadable: Vec<Unusable>,
    /// Images that were used although something is wrong with their files.
    pub damaged: Vec<Unusable>,
}

/// An image that cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// Its name.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
}

impl From<&BadSample> for Unusable {
    fn from(bad: &BadSample) -> Self {
        Self { file: bad.name.clone(), reason: bad.reason.clone() }
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Errors of files name the file already.
        match self.reason.contains(&self.file) {
            true => write!(f, "{}", self.reason),
            false => write!(f, "{}: {}", self.file, self.reason),
        }
    }
}

impl DataReport {
    /// The report of an earlier part of the run; an empty one if there is no readable one.
    pub fn of_run(folder: &RunFolder) -> Self {
        let text = std::fs::read(folder.data()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Adds those of `found` that `list` does not have, and returns them.
    pub(in crate::train) fn add(list: &mut Vec<Unusable>, found: &[BadSample]) -> Vec<Unusable> {
        let known: std::collections::HashSet<String> = list.iter().map(|one| one.file.clone()).collect();
        let new: Vec<Unusable> =
            found.iter().filter(|bad| !known.contains(&bad.name)).map(Unusable::from).collect();
        list.extend(new.iter().cloned());
        new
    }

    /// Writes `data.json`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn write(&self, folder: &RunFolder) -> Result<(), LogError> {
        let path = folder.data();
        let text = serde_json::to_string_pretty(self).map_err(|e| LogError::io(&path, e.into()))?;
        files::replace(&path, (text + "\n").as_bytes())
    }
}
