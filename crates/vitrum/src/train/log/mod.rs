//! What a run tells of itself: its folder, tables, curves and pictures.
//!
//! The loop emits [`Event`]s; whoever [`Watch`]es gets them all. The [`Logger`] is the watcher that writes files, a
//! terminal is another; the library itself prints nothing.
//!
//! Reading order: [`event`] is what can be told, [`folder`] where it goes, [`logger`] who writes it. [`text`] are the
//! lines in timm's form, [`tables`] `metrics.jsonl` and `summary.csv`, [`tensorboard`] its event files, [`plots`],
//! [`confusion`] and [`pictures`] what is drawn, [`environment`] the machine,
//! [`data_report`] what became of the data, [`results`] the end.

pub mod confusion;
pub mod data_report;
pub mod environment;
pub mod event;
pub mod files;
pub mod folder;
pub mod logger;
mod paint;
pub mod pictures;
pub mod plots;
pub mod results;
pub mod tables;
pub mod tensorboard;
pub mod text;

pub use confusion::Confusion;
pub use data_report::{DataReport, Unusable};
pub use environment::Environment;
pub use event::{EpochSummary, EvalLine, Event, Started, Step, TrainLine, Watch};
pub use folder::RunFolder;
pub use logger::Logger;
pub use results::{Finished, Scores};
pub use tables::{History, Reached};

use std::path::{Path, PathBuf};

/// What keeps a run from telling of itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The operating system could not read or write.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// A name that cannot be a folder's.
    #[error(
        "run name '{name}': not the name of a folder\nhint: letters, digits, '-', '_' and '.', for instance vit-1"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A folder that no run wrote.
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
        /// What that process wrote of itself.
        holder: Option<String>,
    },
    /// Pixels and their shape disagree.
    #[error("a batch of shape {shape:?} has {expected} values, found {found}")]
    Batch {
        /// `[B, C, H, W]`.
        shape: [usize; 4],
        /// Their product.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// A picture that could not be drawn or encoded.
    #[error("{what}: cannot be drawn: {reason}")]
    Picture {
        /// Which.
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
