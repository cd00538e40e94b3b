//! The folder of a run.
//!
//! ```text
//! runs/TASK/vit_tiny_patch16_224[-2]
//!   args.toml               the recipe as resolved; feed it back to repeat the run
//!   env.json                version, machine, command line
//!   data.json               what was chosen, left out and replaced in the data
//!   summary.csv             a row per epoch, timm's columns
//!   metrics.jsonl           a JSON object per log line
//!   events.out.tfevents.*   the same for TensorBoard
//!   train.log               the log lines of the terminal
//!   checkpoints/            the states to resume from
//!   plots/, results.png     curves
//!   samples/                images as the model saw them
//!   model/, results.json    the best weights, the result
//! ```

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::LogError;
use super::files;
use crate::train::lock::{FolderLock, LockError};

/// The folder of a run. Its files have fixed names, see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Creates `output/task/name`, or `name-2`, `name-3`, … if that exists. Concurrent processes get different
    /// folders. With `exist_ok`, an existing folder is used again.
    ///
    /// # Errors
    /// [`LogError::Name`]: `name` is not a valid folder name. [`LogError::Io`].
    pub fn create(output: &Path, task: &str, name: &str, exist_ok: bool) -> Result<Self, LogError> {
        let mut components = Path::new(name).components();
        let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !plain || name.contains(['/', '\\', '\0']) {
            return Err(LogError::Name { name: name.into() });
        }
        let parent = output.join(task);
        std::fs::create_dir_all(&parent).map_err(|e| LogError::io(&parent, e))?;
        for number in 1_u64.. {
            let path = parent.join(if number == 1 { name.to_string() } else { format!("{name}-{number}") });
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(e) if e.kind() == ErrorKind::AlreadyExists && exist_ok && path.is_dir() => {
                    return Ok(Self { path });
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => (),
                Err(e) => return Err(LogError::io(&path, e)),
            }
        }
        Err(LogError::Name { name: name.into() })
    }

    /// Opens the folder of an existing run.
    ///
    /// # Errors
    /// [`LogError::NotARun`]: the folder does not exist, or has no `args.toml`.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let not = |reason| LogError::NotARun { path: path.to_path_buf(), reason };
        let folder = Self { path: path.to_path_buf() };
        match (path.is_dir(), folder.args().is_file()) {
            (false, _) => Err(not("no such folder")),
            (true, false) => Err(not("no args.toml in it")),
            (true, true) => Ok(folder),
        }
    }

    /// Locks the folder for this process until the lock is dropped or the process ends.
    ///
    /// # Errors
    /// [`LogError::Locked`]: another process holds the lock. [`LogError::Io`].
    pub fn lock(&self) -> Result<FolderLock, LogError> {
        FolderLock::take(&self.path).map_err(|error| match error {
            LockError::Held(holder) => LogError::Locked { path: self.path.clone(), holder },
            LockError::Io(source) => LogError::io(&self.path, source),
        })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `args.toml`: the recipe.
    pub fn args(&self) -> PathBuf {
        self.path.join("args.toml")
    }

    /// `env.json`: see [`Environment`](super::Environment).
    pub fn env(&self) -> PathBuf {
        self.path.join("env.json")
    }

    /// `data.json`: see [`DataReport`](super::DataReport).
    pub fn data(&self) -> PathBuf {
        self.path.join("data.json")
    }

    /// `summary.csv`.
    pub fn summary(&self) -> PathBuf {
        self.path.join("summary.csv")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `train.log`.
    pub fn train_log(&self) -> PathBuf {
        self.path.join("train.log")
    }

    /// `results.json`.
    pub fn results(&self) -> PathBuf {
        self.path.join("results.json")
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// `plots/`.
    pub fn plots(&self) -> PathBuf {
        self.path.join("plots")
    }

    /// `samples/`.
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples")
    }

    /// `model/`: the best weights, in the layout of timm's hub.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// Writes `args.toml`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn write_args(&self, recipe: &crate::train::recipe::Recipe) -> Result<(), LogError> {
        files::replace(&self.args(), recipe.to_table().to_string().as_bytes())
    }
}
