//! How a run used its data, for `data.json`.

use serde::{Deserialize, Serialize};

use super::{LogError, RunFolder, files};
use crate::data::dataset::Skipped;
use crate::data::loader::BadSample;

/// How a run used its data; the fields of `data.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataReport {
    /// The source of the validation images.
    pub validation: String,
    /// Entries left out of the training and validation data, and choices made while reading them.
    #[serde(skip_deserializing)]
    pub left_out: Skipped,
    /// Training images that cannot be used. The next usable image takes the place of each.
    pub replaced: Vec<Unusable>,
    /// Validation images that cannot be used. They are left out.
    pub unreadable: Vec<Unusable>,
    /// Images that were used although their files are damaged.
    pub damaged: Vec<Unusable>,
}

/// An image that cannot be used, or whose file is damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// Its name.
    pub file: String,
    /// The problem.
    pub reason: String,
}

impl From<&BadSample> for Unusable {
    fn from(bad: &BadSample) -> Self {
        Self { file: bad.name.clone(), reason: bad.reason.clone() }
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // File errors already name the file.
        match self.reason.contains(&self.file) {
            true => write!(f, "{}", self.reason),
            false => write!(f, "{}: {}", self.file, self.reason),
        }
    }
}

impl DataReport {
    /// The report of an earlier part of the run; empty if there is no readable report.
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
