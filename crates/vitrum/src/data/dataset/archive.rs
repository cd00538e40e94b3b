//! Plain archives, read where a picture lies.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::{DatasetError, DatasetProblem};

/// Largest number of archives held open.
const MAX_OPEN: usize = 128;

/// A plain archive; any number of threads can read it at once.
pub(super) struct Archive {
    path: PathBuf,
    /// Held open if there are few archives and the system lets threads share the file.
    file: Option<File>,
}

impl Archive {
    /// All of a dataset's archives.
    #[cfg_attr(not(feature = "tar"), allow(dead_code))] // Only tars are archives.
    pub(super) fn open_all(paths: &[PathBuf]) -> Result<Vec<Self>, DatasetError> {
        let open = |path: &PathBuf| -> std::io::Result<Self> {
            let file = File::open(path)?;
            let held = cfg!(unix) && paths.len() <= MAX_OPEN;
            Ok(Self { path: path.clone(), file: held.then_some(file) })
        };
        paths.iter().map(|path| open(path).map_err(|error| DatasetProblem::from(error).at(path))).collect()
    }

    /// `size` bytes. The listing checked that they are inside the archive.
    pub(super) fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>, DatasetError> {
        let mut bytes = Vec::with_capacity(size.min(1 << 20) as usize);
        self.read_to(offset, size, &mut bytes).map_err(|error| DatasetProblem::from(error).at(&self.path))?;
        if bytes.len() as u64 != size {
            let missing = size - bytes.len() as u64;
            let what = format!("tar, byte {offset}: the archive now ends {missing} bytes too early");
            return Err(DatasetProblem::Damaged(what).at(&self.path));
        }
        Ok(bytes)
    }

    fn read_to(&self, offset: u64, size: u64, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
        #[cfg(unix)]
        if let Some(file) = &self.file {
            return At { file, offset }.take(size).read_to_end(bytes);
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.take(size).read_to_end(bytes)
    }
}

/// Reads a shared file at its own position.
#[cfg(unix)]
struct At<'a> {
    file: &'a File,
    offset: u64,
}

#[cfg(unix)]
impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
