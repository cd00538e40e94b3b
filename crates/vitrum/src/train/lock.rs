//! A lock that lets one process at a time use a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

/// Why a folder cannot be locked.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process holds it. The text is its description of itself, if there is one.
    Held(Option<String>),
    /// An error of the operating system.
    Io(std::io::Error),
}

/// The file whose lock protects its folder.
const NAME: &str = ".lock";

/// Held while a process writes into a folder. Released when dropped, and when the process ends in any way.
///
/// The lock is advisory. Its file `.lock` stays. A file system without locks locks nothing.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes the lock of `folder`. Fails at once if another process holds it.
    pub(super) fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(NAME);
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let told = file.take(200).read_to_string(&mut holder).is_ok();
                let holder = Some(holder.trim().to_string()).filter(|text| told && !text.is_empty());
                return Err(LockError::Held(holder));
            }
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        let host = gethostname::gethostname();
        let text = format!("process {} on {}\n", std::process::id(), host.to_string_lossy());
        // The text is only for the error above. A failure is ignored: a full disk must not prevent training.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        Ok(Self { file })
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that was just forked may keep the file open for a moment.
        let _ = self.file.unlock();
    }
}
