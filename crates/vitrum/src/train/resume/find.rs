//! The checkpoint to resume from.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Manifest, ResumeError};

/// A request to resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// From the newest whole checkpoint of this run; an error if there is none.
    Newest,
    /// From the newest; a fresh start if there is none. For schedulers that restart a job.
    Auto,
    /// From a run's folder, its folder of checkpoints, or one checkpoint.
    Path(PathBuf),
}

impl FromStr for Resume {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "" => Self::Newest,
            "auto" => Self::Auto,
            path => Self::Path(path.into()),
        })
    }
}

/// A whole checkpoint.
#[derive(Debug)]
pub struct Found {
    /// Its folder.
    pub path: PathBuf,
    /// Number of updates before it.
    pub step: u64,
    /// The errors of newer checkpoints.
    pub damaged: Vec<ResumeError>,
}

impl Resume {
    /// The checkpoint to resume from; `checkpoints` is this run's folder of them. `None`: start anew.
    ///
    /// # Errors
    /// [`ResumeError::Nothing`], [`ResumeError::AllDamaged`]. [`ResumeError::Damaged`]: the path names a damaged
    /// checkpoint.
    pub fn find(&self, checkpoints: &Path) -> Result<Option<Found>, ResumeError> {
        match self {
            Self::Auto => newest(checkpoints),
            Self::Newest => some(checkpoints),
            Self::Path(path) => named(path),
        }
    }
}

fn some(folder: &Path) -> Result<Option<Found>, ResumeError> {
    match newest(folder)? {
        Some(found) => Ok(Some(found)),
        None => Err(ResumeError::Nothing { path: folder.to_path_buf() }),
    }
}

fn named(path: &Path) -> Result<Option<Found>, ResumeError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if path.is_file() && ["last", "best"].contains(&name.as_ref()) {
        let folder = path.parent().unwrap_or(Path::new("."));
        let target =
            follow(folder, &name).ok_or_else(|| ResumeError::Nothing { path: path.to_path_buf() })?;
        return one(&target);
    }
    if path.join(super::manifest::NAME).exists() || step_of(&name).is_some() && path.is_dir() {
        return one(path);
    }
    let inside = path.join("checkpoints");
    some(if inside.is_dir() { &inside } else { path })
}

fn one(path: &Path) -> Result<Option<Found>, ResumeError> {
    let manifest = Manifest::read(path)?;
    manifest.verify(path)?;
    Ok(Some(Found { path: path.to_path_buf(), step: manifest.step, damaged: Vec::new() }))
}

/// A folder with a checkpoint's name.
pub(super) struct Kept {
    pub path: PathBuf,
    pub manifest: Result<Manifest, ResumeError>,
    /// The step in its name.
    step: u64,
}

impl Kept {
    pub fn serial(&self) -> Option<u64> {
        self.manifest.as_ref().ok().map(|manifest| manifest.serial)
    }
}

/// The newest whole checkpoint in `folder`.
pub(super) fn newest(folder: &Path) -> Result<Option<Found>, ResumeError> {
    let mut all = kept(folder)?;
    if all.is_empty() {
        return Ok(None);
    }
    // The age of a checkpoint without a manifest is unknown. Such checkpoints come first, so that they are reported.
    all.sort_by_key(|kept| std::cmp::Reverse((kept.serial().unwrap_or(u64::MAX), kept.step)));
    let mut damaged = Vec::new();
    for kept in all {
        match kept.manifest.and_then(|manifest| manifest.verify(&kept.path).map(|()| manifest)) {
            Ok(manifest) => return Ok(Some(Found { path: kept.path, step: manifest.step, damaged })),
            Err(error) => damaged.push(error),
        }
    }
    Err(ResumeError::AllDamaged { path: folder.to_path_buf(), damaged })
}

/// Every folder with a checkpoint's name, and those that a killed run was replacing.
pub(super) fn kept(folder: &Path) -> Result<Vec<Kept>, ResumeError> {
    let mut all = Vec::new();
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let replaced = replaced_name(&name);
        let Some(step) = step_of(replaced.unwrap_or(&name)) else { continue };
        if replaced.is_some_and(|own| folder.join(own).exists()) || !path.is_dir() {
            continue;
        }
        let manifest = Manifest::read(&path).and_then(|manifest| {
            if manifest.step == step {
                return Ok(manifest);
            }
            Err(ResumeError::damaged(&path, format!("step {step}"), format!("step {}", manifest.step)))
        });
        all.push(Kept { path, manifest, step });
    }
    Ok(all)
}

/// The entries of a folder; none if it does not exist.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, ResumeError> {
    let fail = |e| ResumeError::io("listing", folder, e);
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path()).map_err(fail)).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(fail(error)),
    }
}

/// The checkpoint that a pointer names, if it exists.
pub(super) fn follow(folder: &Path, pointer: &str) -> Option<PathBuf> {
    let text = std::fs::read_to_string(folder.join(pointer)).ok()?;
    let name = text.trim();
    step_of(name)?;
    Some(folder.join(name)).filter(|path| path.is_dir())
}

/// `step-00012500` of `.old-step-00012500-4711`.
pub(super) fn replaced_name(name: &str) -> Option<&str> {
    let (own, _) = name.strip_prefix(".old-")?.rsplit_once('-')?;
    step_of(own).map(|_| own)
}

/// 12500 of `step-00012500`.
fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}
