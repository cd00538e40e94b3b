//! Files that are whole: replaced at once, or grown line by line and mended when opened again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::LogError;
use crate::checkpoint::{LoadError, write};

/// Replaces a file at once, and makes the folder it lies in.
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

/// All of a file; nothing when it is not there.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, LogError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(LogError::io(path, e)),
    }
}

/// A file that grows. What was written whole stays whole: after a failure the file is cut to its last whole record.
#[derive(Debug)]
pub struct Appender {
    file: File,
    path: PathBuf,
    len: u64,
}

impl Appender {
    /// Opens a file at its end, and makes it when it is not there.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        Self::of(file, path)
    }

    /// Makes a file that is not there yet.
    ///
    /// # Errors
    /// [`LogError::Io`], also when the file is there.
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
    /// [`LogError::Io`]; the file is then as it was before, where the system lets us.
    pub fn append(&mut self, record: &[u8]) -> Result<(), LogError> {
        if let Err(e) = self.file.write_all(record) {
            // The first error tells more than one of mending.
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

    /// Forces what was written to disk.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn sync(&self) -> Result<(), LogError> {
        match self.file.sync_data() {
            // Pipes and devices cannot.
            Err(e) if e.kind() != std::io::ErrorKind::InvalidInput => Err(LogError::io(&self.path, e)),
            _ => Ok(()),
        }
    }

    /// Its place.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Cuts away a last line that has no end.
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
