//! The folder of a run.
//!
//! ```text
//! runs/classify/vit_tiny_patch16_224[-2]
//!   args.toml               the recipe as resolved; feed it back to repeat the run
//!   env.json                version, machine, command line
//!   data.json               what was chosen, left out and replaced among the data
//!   summary.csv             a row per epoch, timm's columns
//!   metrics.jsonl           an object per line of the log
//!   events.out.tfevents.*   the same for TensorBoard
//!   train.log               the lines of the terminal
//!   checkpoints/            what the run needs to go on
//!   plots/, results.png     curves
//!   samples/                what the model saw
//!   model/, results.json    what it came to
//! ```

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::LogError;
use super::files;
use crate::train::lock::{FolderLock, LockError};

/// The task all runs have so far; its name is a folder's.
pub const TASK: &str = "classify";

/// A run's folder. The files have fixed names, see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes `output/classify/name`, or with `-2`, `-3`, … behind it when that is taken: of processes that ask at the
    /// same time each gets its own. With `exist_ok` a folder that is there is used again.
    ///
    /// # Errors
    /// [`LogError::Name`] when `name` is no folder's name, [`LogError::Io`].
    pub fn create(output: &Path, name: &str, exist_ok: bool) -> Result<Self, LogError> {
        let mut components = Path::new(name).components();
        let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !plain || name.contains(['/', '\\', '\0']) {
            return Err(LogError::Name { name: name.into() });
        }
        let parent = output.join(TASK);
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

    /// The folder of a run that was begun.
    ///
    /// # Errors
    /// [`LogError::NotARun`] when there is no such folder, or no `args.toml` in it.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let not = |reason| LogError::NotARun { path: path.to_path_buf(), reason };
        let folder = Self { path: path.to_path_buf() };
        match (path.is_dir(), folder.args().is_file()) {
            (false, _) => Err(not("no such folder")),
            (true, false) => Err(not("no args.toml in it")),
            (true, true) => Ok(folder),
        }
    }

    /// Claims the folder for this process until the lock is dropped, or the process ends however it does.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another has it, [`LogError::Io`].
    pub fn lock(&self) -> Result<FolderLock, LogError> {
        FolderLock::take(&self.path).map_err(|error| match error {
            LockError::Held(holder) => LogError::Locked { path: self.path.clone(), holder },
            LockError::Io(source) => LogError::io(&self.path, source),
        })
    }

    /// The folder itself.
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
