//! Errors of studies.

use std::path::{Path, PathBuf};

use crate::train::TrainError;
use crate::train::log::LogError;
use crate::train::recipe::RecipeError;
use crate::train::resume::Change;

/// An error of a study.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The library has no study of this name.
    #[error("no study '{name}', neither a file nor one that is built in\nhint: {}", or_built_in(.nearest))]
    UnknownStudy {
        /// The name.
        name: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// Not TOML.
    #[error("{origin}: not a TOML file: {reason}")]
    Syntax {
        /// The file.
        origin: String,
        /// Where and why.
        reason: String,
    },
    /// An unknown key.
    #[error("{origin}: {place}: unknown key '{key}'{}", did_you_mean(.nearest))]
    UnknownKey {
        /// The file.
        origin: String,
        /// The part of the file.
        place: String,
        /// The key.
        key: String,
        /// The most similar key.
        nearest: Option<String>,
    },
    /// A value that cannot be used.
    #[error("{origin}: {place}: {reason}")]
    Value {
        /// The file.
        origin: String,
        /// The part of the file.
        place: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// The recipe of a run cannot be used.
    #[error("run {run}: {source}")]
    Recipe {
        /// The run.
        run: String,
        /// Why.
        source: RecipeError,
    },
    /// A recipe that the study builds on cannot be used.
    #[error(transparent)]
    Base(#[from] RecipeError),
    /// A run begins from a run that the study does not have.
    #[error("run {run}: {key} names the run '{name}', which the study does not have{}", did_you_mean(.nearest))]
    UnknownRun {
        /// The run.
        run: String,
        /// The recipe's key.
        key: String,
        /// The name.
        name: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// A run begins from a run that has several seeds, but not its own.
    #[error("run {run}: {key} names '{name}', which has the seeds {found}, but not {expected}")]
    NoSeed {
        /// The run.
        run: String,
        /// The recipe's key.
        key: String,
        /// The name.
        name: String,
        /// The seeds of that run.
        found: String,
        /// The seed of this run.
        expected: u64,
    },
    /// Runs that begin from each other.
    #[error("these runs begin from each other: {}", .runs.join(" → "))]
    Cycle {
        /// The runs in a circle; the first is also the last.
        runs: Vec<String>,
    },
    /// Two runs have the same name.
    #[error("two runs are called '{run}'")]
    Twice {
        /// The name.
        run: String,
    },
    /// No run matches.
    #[error("no run matches '{pattern}'{}", did_you_mean(.nearest))]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// A check names runs that the study does not have.
    #[error("check '{claim}': no runs match '{pattern}'{}", did_you_mean(.nearest))]
    CheckNames {
        /// The claim.
        claim: String,
        /// The pattern.
        pattern: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// A value that replaces one of the study's has no effect.
    #[error("{key}: every run of the study has a value of its own, so that this one has no effect")]
    NoEffect {
        /// The key.
        key: String,
    },
    /// A part of a study that cannot be.
    #[error("'{found}' is no part of a study: expected i/n with i from 1 to n")]
    Shard {
        /// The text.
        found: String,
    },
    /// The folder of a run belongs to another recipe.
    #[error(
        "{path}: run {run} was {state} with other values\n{}",
        listed(.changes), path = .path.display()
    )]
    Changed {
        /// The run.
        run: String,
        /// Its folder.
        path: PathBuf,
        /// `begun` or `finished`.
        state: &'static str,
        /// The values.
        changes: Vec<Change>,
    },
    /// The images of a run changed.
    #[error("{path}: run {run} was {state} with other {part} images", path = .path.display())]
    ChangedData {
        /// The run.
        run: String,
        /// Its folder.
        path: PathBuf,
        /// `begun` or `finished`.
        state: &'static str,
        /// `training` or `validation`.
        part: &'static str,
    },
    /// The folder of a run was not made by a study.
    #[error("{path}: a folder of another program or run, without a study.json", path = .path.display())]
    OtherFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A record that cannot be used.
    #[error("{path}: not the record of a run: {reason}", path = .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Two runs that should have the same images have other ones.
    #[error(
        "the runs {first} and {second} name the same data, but their images differ: their results cannot be compared"
    )]
    DifferentData {
        /// A run.
        first: String,
        /// Another run.
        second: String,
    },
    /// Training.
    #[error("run {run}: {source}")]
    Train {
        /// The run.
        run: String,
        /// Why.
        source: Box<TrainError>,
    },
    /// A file of the report cannot be written, or a figure cannot be drawn.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl StudyError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(super) fn train(run: &str, source: TrainError) -> Self {
        Self::Train { run: run.into(), source: Box::new(source) }
    }
}

/// The known name that is most like `name`, if one is alike at all.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.7)
        .map(|(_, known)| known.to_string())
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("\nhint: did you mean '{name}'?")).unwrap_or_default()
}

fn or_built_in(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("did you mean '{name}'?"),
        None => {
            let names: Vec<&str> = super::BUILTIN.iter().map(|(name, _)| *name).collect();
            format!("built in are {}", names.join(", "))
        }
    }
}

/// `  lr   5e-4 -> 1e-4`, a line each.
fn listed(changes: &[Change]) -> String {
    let width = changes.iter().map(|change| change.key.len()).max().unwrap_or(0);
    let line = |Change { key, old, new }: &Change| format!("  {key:width$}   {old} -> {new}");
    changes.iter().map(line).collect::<Vec<_>>().join("\n")
}
