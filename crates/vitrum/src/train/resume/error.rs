//! Errors of checkpoints.

use std::io;
use std::path::{Path, PathBuf};

use super::Change;
use crate::checkpoint::LoadError;
use crate::train::lock::LockError;

/// An error of saving, finding or reading a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// An I/O error.
    #[error("{path}: {doing}: {source}", path = .path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// The disk is full.
    #[error(
        "{path}: no room for a checkpoint: {needed} bytes are needed{}: {source}\nhint: older checkpoints are untouched",
        .free.map(|free| format!(", {free} are free")).unwrap_or_default(),
        path = .path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// Bytes of the whole checkpoint.
        needed: u64,
        /// Free bytes, if the system reports them.
        free: Option<u64>,
        /// The system's own error.
        source: io::Error,
    },
    /// A part's name is not a valid file name.
    #[error("'{name}' cannot name a part of a checkpoint: want letters, digits and _, and not 'manifest'")]
    PartName {
        /// The name.
        name: String,
    },
    /// A part is missing.
    #[error("{path}: no {name}\nhint: this checkpoint holds {found}", path = .path.display())]
    NoPart {
        /// The checkpoint.
        path: PathBuf,
        /// The missing file.
        name: String,
        /// The files that exist.
        found: String,
    },
    /// A file of a checkpoint is missing, cut off or altered.
    #[error("{path}: damaged: expected {expected}, found {found}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The manifest's value.
        expected: String,
        /// The file's value.
        found: String,
    },
    /// The checkpoint's format is another version.
    #[error("{path}: checkpoint format {found}; this program reads {expected}", path = .path.display())]
    Format {
        /// The manifest.
        path: PathBuf,
        /// The version that this program reads.
        expected: u32,
        /// The manifest's version.
        found: u32,
    },
    /// Tensors cannot be written or read.
    #[error(transparent)]
    Tensors(#[from] LoadError),
    /// There are checkpoints, but none is whole.
    #[error(
        "{path}: none of the checkpoints is whole:\n  {}\nhint: to start anew, remove the folder",
        .damaged.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "),
        path = .path.display()
    )]
    AllDamaged {
        /// The folder of checkpoints.
        path: PathBuf,
        /// The error of each checkpoint.
        damaged: Vec<ResumeError>,
    },
    /// There is no checkpoint to resume from.
    #[error("{path}: no checkpoint to resume from", path = .path.display())]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
    /// Another process uses the folder.
    #[error(
        "{path}: in use by another process{}\nhint: wait for it to end",
        .holder.as_deref().map(|holder| format!(" ({holder})")).unwrap_or_default(),
        path = .path.display()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process, as it described itself.
        holder: Option<String>,
    },
    /// The run began with other arguments.
    #[error("{}", changed_text(.run, *.step, .changes))]
    Changed {
        /// The run's folder.
        run: PathBuf,
        /// Updates before the checkpoint.
        step: u64,
        /// The changed arguments.
        changes: Vec<Change>,
    },
}

impl ResumeError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_path_buf(), source }
    }

    pub(super) fn locked(folder: &Path, error: LockError) -> Self {
        match error {
            LockError::Held(holder) => Self::Locked { path: folder.to_path_buf(), holder },
            LockError::Io(source) => Self::io("locking", folder, source),
        }
    }

    pub(super) fn damaged(path: &Path, expected: impl ToString, found: impl ToString) -> Self {
        Self::Damaged { path: path.to_path_buf(), expected: expected.to_string(), found: found.to_string() }
    }

    /// The error of a checkpoint file that cannot be opened.
    pub(super) fn missing_or(folder: &Path, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound if folder.is_dir() => Self::damaged(path, "a file", "none"),
            _ => Self::io("reading", path, source),
        }
    }

    /// Turns this error into [`Full`](Self::Full) if the cause is a full disk, a quota or a file size limit.
    pub(super) fn or_full(self, folder: &Path, needed: u64) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match self {
            Self::Io { path, source, .. }
                if matches!(source.kind(), FileTooLarge | QuotaExceeded | StorageFull) =>
            {
                Self::Full { path, needed, free: free_bytes(folder), source }
            }
            other => other,
        }
    }
}

/// Free bytes for an ordinary user on the file system of `folder`.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let told = rustix::fs::statvfs(folder).ok()?;
    told.f_bavail.checked_mul(told.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

fn changed_text(run: &Path, step: u64, changes: &[Change]) -> String {
    let width = changes.iter().map(|change| change.key.len()).max().unwrap_or(0);
    let line = |Change { key, old, new }: &Change| format!("\n  {key:width$}   {old} -> {new}");
    let lines: String = changes.iter().map(line).collect();
    format!("cannot resume {}: arguments changed since step {step}{lines}", run.display())
}
