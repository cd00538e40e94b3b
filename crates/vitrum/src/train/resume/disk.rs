//! What saving asks of the operating system; a test puts a disk in its place that fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The few things a checkpoint is written with.
pub trait Disk: Send + Sync {
    /// Makes a folder and those above it; one that is there stays.
    fn create_folders(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder that is not there.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Writes a file, over one that is there, and forces it to disk.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Renames a file or folder; a file of that name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Forces a folder's names to disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Removes a file, or a folder with all in it; what is not there is removed already.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl Disk for Os {
    fn create_folders(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        // Some file systems cannot; the names are written in their own time then.
        match File::open(path).and_then(|folder| folder.sync_all()) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            Err(error) if cfg!(windows) && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other,
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
    }
}
