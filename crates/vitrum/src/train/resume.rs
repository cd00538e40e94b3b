//! Checkpoints that a run resumes from. Each is written whole or not at all.
//!
//! ```text
//! RUN/checkpoints/step-00012500/{model,optim,…}.safetensors, state.json, manifest.json
//! RUN/checkpoints/last, best      files, each with the name of one such folder
//! ```
//!
//! A checkpoint is written into a temporary folder. Every file is forced to disk, the manifest (names, lengths,
//! SHA-256) last. Then the folder is renamed. A checkpoint is therefore whole or absent, whenever the process or the
//! machine stops. Unfinished folders are removed when the store is opened again. Checksums detect later damage. Then
//! the next older checkpoint is used.

mod changes;
mod disk;
mod error;
mod find;
mod manifest;
mod parts;

use std::path::{Path, PathBuf};

pub use changes::{Change, changed, neutral};
pub use disk::{Disk, Os};
pub use error::ResumeError;
pub use find::{Found, Resume};
pub use manifest::{FORMAT, FileSum, Manifest};
pub use parts::{Part, Parts};

use find::{Kept, kept};
use parts::encode;

use super::lock::FolderLock;

/// Options of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Number of checkpoints to keep besides the best. The newest is always kept.
    pub keep_last: usize,
    /// Whether a smaller metric is better, as for a loss.
    pub lower_is_better: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { keep_last: 3, lower_is_better: false }
    }
}

/// The checkpoints of one run. Only one process at a time can open them for writing.
pub struct Store {
    folder: PathBuf,
    options: StoreOptions,
    disk: Box<dyn Disk>,
    _lock: FolderLock,
}

/// A written checkpoint.
#[derive(Debug)]
pub struct Saved {
    /// Its folder.
    pub path: PathBuf,
    /// Whether it is the best so far.
    pub best: bool,
    /// Errors of removing older checkpoints. The new checkpoint is whole regardless.
    pub leftovers: Vec<ResumeError>,
}

/// A loaded checkpoint.
#[derive(Debug)]
pub struct Restored {
    /// Its folder.
    pub path: PathBuf,
    /// Number of updates before it.
    pub step: u64,
    /// The metric that it was saved with.
    pub metric: Option<f64>,
    /// Its parts.
    pub parts: Parts,
}

impl Store {
    /// Opens the folder `checkpoints` of a run, and creates it if it is missing. Removes the unfinished folders of a
    /// killed run.
    ///
    /// # Errors
    /// [`ResumeError::Locked`]: another process has the folder open. [`ResumeError::Io`].
    pub fn open(folder: impl Into<PathBuf>, options: StoreOptions) -> Result<Self, ResumeError> {
        Self::with_disk(folder, options, Box::new(Os))
    }

    /// Opens as [`open`](Self::open) does, and writes through `disk`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_disk(
        folder: impl Into<PathBuf>,
        options: StoreOptions,
        disk: Box<dyn Disk>,
    ) -> Result<Self, ResumeError> {
        let folder = folder.into();
        disk.create_folders(&folder).map_err(|e| ResumeError::io("making the folder", &folder, e))?;
        let lock = FolderLock::take(&folder).map_err(|error| ResumeError::locked(&folder, error))?;
        let store = Self { folder, options, disk, _lock: lock };
        store.tidy()?;
        store.mend_pointers()?;
        Ok(store)
    }

    /// The folder of the checkpoints.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a checkpoint after `step` updates. The checkpoint with the best `metric` is the best one; a checkpoint
    /// without a finite metric is never the best. A checkpoint of the same step is replaced; if no metric is given, the
    /// old metric stays.
    ///
    /// # Errors
    /// [`ResumeError::Full`]: the disk is full. [`ResumeError::Io`], [`ResumeError::PartName`]. Older checkpoints stay
    /// unchanged, and unfinished files are removed if possible.
    pub fn save(&self, step: u64, parts: &Parts, metric: Option<f64>) -> Result<Saved, ResumeError> {
        let metric = metric.filter(|value| value.is_finite());
        let before = kept(&self.folder)?;
        let serial = before.iter().filter_map(Kept::serial).max().unwrap_or(0) + 1;
        let path = self.folder.join(folder_name(step));
        let same = before.into_iter().find(|kept| kept.path == path).and_then(|kept| kept.manifest.ok());
        let metric = metric.or(same.and_then(|manifest| manifest.metric));
        let temporary = self.folder.join(format!(".tmp-{}-{}", folder_name(step), std::process::id()));
        let manifest = Manifest { format: FORMAT, step, serial, metric, files: Default::default() };
        if let Err(error) = self.write(&temporary, manifest, parts) {
            // If this fails, the next opening of the store removes the folder.
            let _ = self.disk.remove(&temporary);
            return Err(error.or_full(&self.folder, parts.bytes()));
        }
        let replaced = self.place(&temporary, &path).map_err(|e| e.or_full(&self.folder, parts.bytes()))?;
        let mut leftovers: Vec<ResumeError> =
            replaced.and_then(|old| self.remove(&old).err()).into_iter().collect();
        let best = self.is_best(metric, &path);
        self.point("last", &path)?;
        if best {
            self.point("best", &path)?;
        }
        leftovers.extend(self.prune(serial)?);
        Ok(Saved { path, best, leftovers })
    }

    /// The newest whole checkpoint, and the newer damaged ones.
    ///
    /// # Errors
    /// [`ResumeError::AllDamaged`]: there are checkpoints, but none is whole. [`ResumeError::Io`].
    pub fn latest(&self) -> Result<Option<Found>, ResumeError> {
        find::newest(&self.folder)
    }

    /// The best checkpoint so far, if it exists.
    pub fn best(&self) -> Option<PathBuf> {
        find::follow(&self.folder, "best")
    }

    /// Writes every file and the manifest, and forces them to disk.
    fn write(&self, folder: &Path, mut manifest: Manifest, parts: &Parts) -> Result<(), ResumeError> {
        self.disk.create_folder(folder).map_err(|e| ResumeError::io("making the folder", folder, e))?;
        for (name, part) in parts.iter() {
            let file = part.file_name(name)?;
            let path = folder.join(&file);
            let bytes = encode(&path, part)?;
            manifest.files.insert(file, FileSum::of(&bytes));
            self.disk.write(&path, &bytes).map_err(|e| ResumeError::io("writing", &path, e))?;
        }
        let path = folder.join(manifest::NAME);
        self.disk.write(&path, &manifest.to_json()).map_err(|e| ResumeError::io("writing", &path, e))?;
        self.disk.sync_folder(folder).map_err(|e| ResumeError::io("syncing", folder, e))
    }

    /// Renames a finished folder to `path`; returns the new path of the folder that it replaces.
    fn place(&self, temporary: &Path, path: &Path) -> Result<Option<PathBuf>, ResumeError> {
        let mut replaced = None;
        if path.exists() {
            // If the process stops between the two renames, the old checkpoint is found by this name.
            let old = beside(path, ".old-");
            self.disk.rename(path, &old).map_err(|e| ResumeError::io("renaming", path, e))?;
            replaced = Some(old);
        }
        let placed = self.disk.rename(temporary, path).and_then(|()| self.disk.sync_folder(&self.folder));
        match placed {
            Ok(()) => Ok(replaced),
            Err(error) => {
                if let Some(old) = replaced.filter(|_| !path.exists()) {
                    let _ = self.disk.rename(&old, path);
                }
                let _ = self.disk.remove(temporary);
                Err(ResumeError::io("renaming", temporary, error))
            }
        }
    }

    fn is_best(&self, metric: Option<f64>, path: &Path) -> bool {
        let Some(metric) = metric else { return false };
        let standing = self.best().filter(|best| best != path);
        let standing = standing.and_then(|best| Manifest::read(&best).ok()).and_then(|m| m.metric);
        standing.is_none_or(|best| if self.options.lower_is_better { metric < best } else { metric > best })
    }

    /// Writes the name of `target` into the file `name`.
    fn point(&self, name: &str, target: &Path) -> Result<(), ResumeError> {
        let path = self.folder.join(name);
        let temporary = self.folder.join(format!(".tmp-{name}-{}", std::process::id()));
        let text = format!("{}\n", target.file_name().unwrap_or_default().to_string_lossy());
        let written = self
            .disk
            .write(&temporary, text.as_bytes())
            .and_then(|()| self.disk.rename(&temporary, &path))
            .and_then(|()| self.disk.sync_folder(&self.folder));
        written.map_err(|error| {
            let _ = self.disk.remove(&temporary);
            ResumeError::io("writing", &path, error).or_full(&self.folder, text.len() as u64)
        })
    }

    /// Removes all checkpoints but the newest and those that a pointer names.
    fn prune(&self, newest: u64) -> Result<Vec<ResumeError>, ResumeError> {
        let mut whole: Vec<Kept> =
            kept(&self.folder)?.into_iter().filter(|kept| kept.serial().is_some()).collect();
        whole.sort_by_key(|kept| std::cmp::Reverse(kept.serial()));
        let named: Vec<PathBuf> =
            ["last", "best"].iter().filter_map(|name| find::follow(&self.folder, name)).collect();
        let surplus = whole
            .into_iter()
            .skip(self.options.keep_last)
            .filter(|kept| kept.serial() != Some(newest) && !named.contains(&kept.path));
        Ok(surplus.filter_map(|kept| self.remove(&kept.path).err()).collect())
    }

    /// Renames a checkpoint before it removes the files: a half-removed folder never has a checkpoint's name.
    fn remove(&self, path: &Path) -> Result<(), ResumeError> {
        let trash = beside(path, ".trash-");
        self.disk
            .rename(path, &trash)
            .and_then(|()| self.disk.remove(&trash))
            .map_err(|e| ResumeError::io("removing", path, e))
    }

    /// Cleans up after a killed run: restores a checkpoint that was being replaced, removes half-written and
    /// half-removed folders.
    fn tidy(&self) -> Result<(), ResumeError> {
        for entry in find::entries(&self.folder)? {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(".tmp-") || name.starts_with(".trash-") {
                self.disk.remove(&entry).map_err(|e| ResumeError::io("removing", &entry, e))?;
            } else if let Some(own) = find::replaced_name(&name) {
                let place = self.folder.join(own);
                if place.exists() {
                    self.remove(&entry)?;
                } else {
                    let back = self.disk.rename(&entry, &place);
                    back.map_err(|e| ResumeError::io("renaming", &entry, e))?;
                }
            }
        }
        Ok(())
    }

    /// Updates the pointers if a run was killed after it renamed a checkpoint.
    fn mend_pointers(&self) -> Result<(), ResumeError> {
        let newest = kept(&self.folder)?.into_iter().max_by_key(Kept::serial);
        let Some((path, manifest)) = newest.and_then(|kept| Some((kept.path, kept.manifest.ok()?))) else {
            return Ok(());
        };
        let is_last = find::follow(&self.folder, "last").as_ref() == Some(&path);
        // A checkpoint that replaces one of the same step is `last` before it is the best.
        let is_new_best = self.best().as_ref() != Some(&path) && self.is_best(manifest.metric, &path);
        if (is_last && !is_new_best) || manifest.verify(&path).is_err() {
            return Ok(());
        }
        if is_new_best {
            self.point("best", &path)?;
        }
        if is_last { Ok(()) } else { self.point("last", &path) }
    }
}

/// Loads a checkpoint.
///
/// # Errors
/// [`ResumeError::Damaged`]: a file is missing or differs from the manifest. [`ResumeError::Format`]: another version.
/// [`ResumeError::Io`].
pub fn load(folder: &Path) -> Result<Restored, ResumeError> {
    let manifest = Manifest::read(folder)?;
    manifest.verify(folder)?;
    let mut parts = Parts::default();
    for file in manifest.files.keys() {
        let (name, part) = parts::decode(&folder.join(file), file)?;
        parts.insert(name, part);
    }
    Ok(Restored { path: folder.to_path_buf(), step: manifest.step, metric: manifest.metric, parts })
}

/// `step-00012500`.
pub fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// `.trash-step-00012500-4711` for `step-00012500`.
fn beside(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{prefix}{}-{}", name.trim_start_matches('.'), std::process::id()))
}
