//! Files that stay whole: replaced atomically, or extended record by record and repaired when opened again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::LogError;
use crate::checkpoint::{LoadError, write};

/// Replaces a file atomically, and creates its folder.
///
/// # Errors
/// [`LogError::Io`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| LogError::io(folder, e))?;
    }
    write::write_atomically(path, bytes).map_err(|error| match error {
        LoadError::Io { path, source } => LogError::io(&path, source),
        other => LogError::io(path, std::io::Error::other(other.to_string())),
    })
}

/// The contents of a file; empty if it does not exist.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, LogError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(LogError::io(path, e)),
    }
}

/// A file that grows by whole records: after a failure it is truncated to its last whole record.
#[derive(Debug)]
pub struct Appender {
    file: File,
    path: PathBuf,
    len: u64,
}

impl Appender {
    /// Opens a file at its end, and creates it if it is missing.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        Self::of(file, path)
    }

    /// Creates a file that does not exist yet.
    ///
    /// # Errors
    /// [`LogError::Io`], also if the file exists.
    pub fn create_new(path: &Path) -> Result<Self, LogError> {
        Self::of(OpenOptions::new().append(true).create_new(true).open(path), path)
    }

    fn of(file: std::io::Result<File>, path: &Path) -> Result<Self, LogError> {
        let opened = file.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = opened.map_err(|e| LogError::io(path, e))?;
        Ok(Self { file, path: path.to_path_buf(), len })
    }

    /// Adds one record.
    ///
    /// # Errors
    /// [`LogError::Io`]; the file is then truncated to its earlier length, if possible.
    pub fn append(&mut self, record: &[u8]) -> Result<(), LogError> {
        if let Err(e) = self.file.write_all(record) {
            // The first error says more than an error of truncating.
            let _ = self.file.set_len(self.len);
            return Err(LogError::io(&self.path, e));
        }
        self.len += record.len() as u64;
        Ok(())
    }

    /// Adds a line of text.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn line(&mut self, text: &str) -> Result<(), LogError> {
        self.append(format!("{text}\n").as_bytes())
    }

    /// Forces the records to disk.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn sync(&self) -> Result<(), LogError> {
        match self.file.sync_data() {
            // Pipes and devices cannot be synced.
            Err(e) if e.kind() != std::io::ErrorKind::InvalidInput => Err(LogError::io(&self.path, e)),
            _ => Ok(()),
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes a last line without a line break.
///
/// # Errors
/// [`LogError::Io`].
pub fn mend_lines(path: &Path) -> Result<(), LogError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => (),
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(LogError::io(path, e)),
    }
    let bytes = read(path)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < bytes.len() {
        let cut = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(whole as u64));
        cut.map_err(|e| LogError::io(path, e))?;
    }
    Ok(())
}
