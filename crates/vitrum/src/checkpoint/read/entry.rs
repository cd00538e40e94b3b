//! Tensors of a file before their values are read: first a list, then the chosen ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "pytorch")]
use pytorch_reader::Tensor;

#[cfg(feature = "pytorch")]
use super::torch_values;
use crate::checkpoint::{Dtype, HostTensor, LoadError};

/// A tensor with a known shape whose values can be read.
pub struct Entry {
    /// Its file.
    pub file: Arc<PathBuf>,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// The place of its values.
    pub source: Source,
}

/// The place of a tensor's values.
pub enum Source {
    /// In memory: archives are unpacked while names are read.
    Memory(HostTensor),
    /// In a safetensors file: first byte and number of bytes.
    Bytes(Arc<File>, u64, usize),
    /// In a file of `torch.save`.
    #[cfg(feature = "pytorch")]
    Pytorch(Tensor),
}

/// All tensors of a file, or of several with an index.
pub struct Listing {
    /// By name.
    pub entries: BTreeMap<String, Entry>,
    /// The file's own metadata.
    pub metadata: BTreeMap<String, String>,
    /// Limit on the bytes of the chosen tensors: a view can describe more than its file holds.
    pub most_bytes: u64,
}

impl Listing {
    /// An empty list with a limit of `most_bytes`.
    pub fn new(most_bytes: u64) -> Self {
        Self { entries: BTreeMap::new(), metadata: BTreeMap::new(), most_bytes }
    }
}

impl Entry {
    /// Bytes of the values; the largest number on overflow.
    pub fn bytes(&self) -> u64 {
        let elements = self.shape.iter().try_fold(1u64, |n, &axis| n.checked_mul(axis as u64));
        elements.and_then(|n| n.checked_mul(self.dtype.size() as u64)).unwrap_or(u64::MAX)
    }

    /// A sort key that makes reading sequential.
    pub fn offset(&self) -> u64 {
        match self.source {
            Source::Bytes(_, offset, _) => offset,
            _ => 0,
        }
    }

    /// The tensor with its values.
    pub fn read(self, name: &str) -> Result<HostTensor, LoadError> {
        let path: &Path = &self.file;
        let data = match self.source {
            Source::Memory(tensor) => return Ok(tensor),
            #[cfg(feature = "pytorch")]
            Source::Pytorch(tensor) => torch_values::values(path, &tensor)?,
            Source::Bytes(file, offset, length) => {
                let mut file: &File = &file;
                let mut data = vec![0; length];
                file.seek(SeekFrom::Start(offset))
                    .and_then(|_| file.read_exact(&mut data))
                    .map_err(|e| LoadError::io(path, e))?;
                data
            }
        };
        HostTensor::new(self.dtype, self.shape, data).map_err(|e| LoadError::tensor(path, name, e))
    }
}
