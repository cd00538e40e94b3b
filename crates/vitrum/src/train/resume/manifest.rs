//! The manifest of a checkpoint: its files with lengths and checksums.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ResumeError;
use crate::checkpoint::inspect::file_sha256;

/// The version of the layout that this program writes and reads.
pub const FORMAT: u32 = 1;

pub(super) const NAME: &str = "manifest.json";

/// Largest manifest that is read, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// The manifest of a checkpoint; it is written last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the layout.
    pub format: u32,
    /// Number of updates before it.
    pub step: u64,
    /// Grows with every checkpoint of a run, even if a run goes back and a step occurs twice.
    pub serial: u64,
    /// The last value of the score that chooses the best checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
    /// The other files.
    pub files: BTreeMap<String, FileSum>,
}

/// Length and checksum of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
}

impl FileSum {
    /// The sum of a file with this content.
    pub fn of(bytes: &[u8]) -> Self {
        let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { bytes: bytes.len() as u64, sha256 }
    }

    /// Refuses a file that differs from this sum.
    pub(super) fn check(&self, path: &Path, found: &Self) -> Result<(), ResumeError> {
        if self.bytes != found.bytes {
            let length = |bytes| format!("{bytes} bytes");
            Err(ResumeError::damaged(path, length(self.bytes), length(found.bytes)))
        } else if self.sha256 != found.sha256 {
            let sum = |sum| format!("SHA-256 {sum}");
            Err(ResumeError::damaged(path, sum(&self.sha256), sum(&found.sha256)))
        } else {
            Ok(())
        }
    }
}

impl Manifest {
    /// Reads the manifest of a checkpoint's folder.
    ///
    /// # Errors
    /// [`ResumeError::Damaged`]: it is missing or invalid. [`ResumeError::Format`]: it has another version.
    pub fn read(folder: &Path) -> Result<Self, ResumeError> {
        let path = folder.join(NAME);
        let length = std::fs::metadata(&path).map_err(|e| ResumeError::missing_or(folder, &path, e))?.len();
        if length > MOST_BYTES {
            return Err(ResumeError::damaged(&path, "a manifest", format!("{length} bytes")));
        }
        let text = std::fs::read(&path).map_err(|e| ResumeError::missing_or(folder, &path, e))?;
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| ResumeError::damaged(&path, "a manifest", e))?;
        if let Some(found) = value.get("format").and_then(serde_json::Value::as_u64)
            && found != u64::from(FORMAT)
        {
            let found = u32::try_from(found).unwrap_or(u32::MAX);
            return Err(ResumeError::Format { path, expected: FORMAT, found });
        }
        let manifest: Self =
            serde_json::from_value(value).map_err(|e| ResumeError::damaged(&path, "a manifest", e))?;
        manifest.check_names(&path)?;
        Ok(manifest)
    }

    /// Refuses file names that lead out of the folder.
    fn check_names(&self, path: &Path) -> Result<(), ResumeError> {
        let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']);
        match self.files.keys().find(|name| !plain(name)) {
            Some(name) => {
                Err(ResumeError::damaged(path, "names of files", format!("'{}'", name.escape_debug())))
            }
            None => Ok(()),
        }
    }

    /// Compares every file of `folder` with this manifest.
    ///
    /// # Errors
    /// [`ResumeError::Damaged`] with the first file that differs.
    pub fn verify(&self, folder: &Path) -> Result<(), ResumeError> {
        for (name, sum) in &self.files {
            let path = folder.join(name);
            let bytes =
                std::fs::metadata(&path).map_err(|e| ResumeError::missing_or(folder, &path, e))?.len();
            // Lengths first, so that a truncated file is not read.
            sum.check(&path, &FileSum { bytes, sha256: sum.sha256.clone() })?;
            sum.check(&path, &FileSum { bytes, sha256: file_sha256(&path)? })?;
        }
        Ok(())
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("numbers and texts make JSON");
        text.push(b'\n');
        text
    }
}
