//! What can go wrong with a run's checkpoints.

use std::io;
use std::path::{Path, PathBuf};

use super::Change;
use crate::checkpoint::LoadError;
use crate::train::lock::LockError;

/// An error of saving, finding or reading a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The operating system could not.
    #[error("{path}: {doing}: {source}", path = .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// No room for a checkpoint.
    #[error(
        "{path}: no room for a checkpoint: {needed} bytes are needed{}: {source}\nhint: older checkpoints are untouched; make room and go on with --resume, or keep fewer",
        .free.map(|free| format!(", {free} are free")).unwrap_or_default(),
        path = .path.display()
    )]
    Full {
        /// The file that could not be written.
        path: PathBuf,
        /// Bytes of all that was to be written.
        needed: u64,
        /// Bytes that are free, where the system tells.
        free: Option<u64>,
        /// The system's own error.
        source: io::Error,
    },
    /// A part's name makes no file's name.
    #[error("'{name}' cannot name a part of a checkpoint: want letters, digits and _, and not 'manifest'")]
    PartName {
        /// The name.
        name: String,
    },
    /// A part that is not there.
    #[error("{path}: no {name}\nhint: this checkpoint holds {found}", path = .path.display())]
    NoPart {
        /// The checkpoint.
        path: PathBuf,
        /// The file that is wanted.
        name: String,
        /// What there is.
        found: String,
    },
    /// A file of a checkpoint is missing, cut off or altered.
    #[error("{path}: damaged: expected {expected}, found {found}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the manifest tells.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A manifest of another version.
    #[error("{path}: checkpoint format {found}; this program reads {expected}", path = .path.display())]
    Format {
        /// The manifest.
        path: PathBuf,
        /// What is read here.
        expected: u32,
        /// What it says.
        found: u32,
    },
    /// Tensors that cannot be written or read.
    #[error(transparent)]
    Tensors(#[from] LoadError),
    /// There are checkpoints, and none is whole.
    #[error(
        "{path}: none of the checkpoints is whole:\n  {}\nhint: to start anew, remove the folder or choose another --experiment",
        .damaged.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "),
        path = .path.display()
    )]
    AllDamaged {
        /// The folder of checkpoints.
        path: PathBuf,
        /// What is wrong with each.
        damaged: Vec<ResumeError>,
    },
    /// There is nothing to go on from.
    #[error(
        "{path}: no checkpoint to resume from\nhint: --resume auto starts anew where there is none",
        path = .path.display()
    )]
    Nothing {
        /// Where one was looked for.
        path: PathBuf,
    },
    /// Another process trains here.
    #[error(
        "{path}: in use by another process{}\nhint: wait for it to end, or choose another --experiment",
        .holder.as_deref().map(|holder| format!(" ({holder})")).unwrap_or_default(),
        path = .path.display()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What that process wrote of itself.
        holder: Option<String>,
    },
    /// The run was begun with other arguments.
    #[error("{}", changed_text(.run, *.step, .changes))]
    Changed {
        /// The run's folder.
        run: PathBuf,
        /// Where it stopped.
        step: u64,
        /// What differs.
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

    /// A file of a checkpoint that cannot be opened.
    pub(super) fn missing_or(folder: &Path, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound if folder.is_dir() => Self::damaged(path, "a file", "none"),
            _ => Self::io("reading", path, source),
        }
    }

    /// This error, told as [`Full`](Self::Full) when a full disk or a limit is its cause.
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

/// Bytes that an ordinary user may still write to the file system of `folder`.
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
    let width = changes.iter().map(|change| change.flag().len()).max().unwrap_or(0);
    let lines: Vec<String> = changes
        .iter()
        .map(|change| format!("  {:width$}   {} -> {}\n", change.flag(), change.old, change.new))
        .collect();
    let flags: Vec<String> = changes.iter().map(Change::flag).collect();
    format!(
        "cannot resume {}: arguments changed since step {step}\n{}hint: leave {} as before, or pass --allow-changed-args \
         to continue anyway (the run will no longer be reproducible)",
        run.display(),
        lines.concat(),
        flags.join(", ")
    )
}
