//! The records of a run: its folder, tables, curves and pictures.
//!
//! The loop emits [`Event`]s, and every [`Watch`] gets all of them. The [`Logger`] is the watcher that writes files; a
//! terminal is another. The library itself prints nothing.
//!
//! Reading order: [`event`] defines the events, [`line`](mod@line) their contents, [`folder`] names the files,
//! [`logger`] writes them. [`text`] makes log lines in timm's form, [`tables`] writes `metrics.jsonl` and
//! `summary.csv`, [`tensorboard`] writes event files. [`plots`], [`confusion`] and [`pictures`] draw. [`environment`]
//! describes the machine, [`data_report`] the data, [`results`] the result.

pub mod confusion;
pub mod data_report;
pub mod environment;
pub mod event;
pub mod files;
pub mod folder;
pub mod line;
pub mod logger;
#[cfg(feature = "plots")]
pub mod pictures;
#[cfg(feature = "plots")]
pub mod plots;
pub mod results;
pub mod tables;
pub mod tensorboard;
pub mod text;

pub use confusion::Confusion;
pub use data_report::{DataReport, Unusable};
pub use environment::Environment;
pub use event::{Event, Watch};
pub use folder::RunFolder;
pub use line::{EpochSummary, EvalLine, Started, Step, TrainLine};
pub use logger::Logger;
pub use results::Finished;
pub use tables::{History, Reached};

use std::path::{Path, PathBuf};

/// An error of writing a run's records.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// An I/O error.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// An invalid folder name.
    #[error(
        "run name '{name}': not a valid folder name\nhint: letters, digits, '-', '_' and '.', for instance vit-1"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The folder is not a run's.
    #[error("{path}: not a run: {reason}\nhint: name a folder like runs/classify/NAME", path = .path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// Another process writes into the folder.
    #[error(
        "{path}: another process is writing this run{}\nhint: wait for it, or stop it",
        .holder.as_deref().map(|holder| format!(" ({holder})")).unwrap_or_default(),
        path = .path.display()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process, as it described itself.
        holder: Option<String>,
    },
    /// Pixels and their shape disagree.
    #[error("a batch of shape {shape:?} has {expected} values, found {found}")]
    Batch {
        /// `[B, C, H, W]`.
        shape: [usize; 4],
        /// Their product.
        expected: usize,
        /// Number of values given.
        found: usize,
    },
    /// A picture cannot be drawn or encoded.
    #[error("{what}: cannot be drawn: {reason}")]
    Picture {
        /// Its name.
        what: String,
        /// Why.
        reason: String,
    },
}

impl LogError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    fn picture(what: &str, reason: impl std::fmt::Display) -> Self {
        Self::Picture { what: what.into(), reason: reason.to_string() }
    }
}

#[cfg(feature = "plots")]
impl From<crate::paint::PaintError> for LogError {
    fn from(error: crate::paint::PaintError) -> Self {
        Self::Picture { what: error.what, reason: error.reason }
    }
}
