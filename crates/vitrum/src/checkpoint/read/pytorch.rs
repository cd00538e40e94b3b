//! Files of `torch.save`: `.pth`, `.pt`, `.bin`, `.ckpt`. Only tensors are read; nothing is executed.

use std::path::Path;
use std::sync::Arc;

use pytorch_reader::{DType, PytorchReader, Tensor};

use super::entry::{Entry, Listing, Source};
use super::npz::check_archive;
use super::{Limits, guarded, open};
use crate::checkpoint::{Dtype, LoadError};

const FORMAT: &str = "PyTorch checkpoint";

/// The contents of a PyTorch checkpoint, including optimiser state.
pub(super) fn list(path: &Path, limits: &Limits) -> Result<Listing, LoadError> {
    let (_, length) = open(path)?;
    if is_zip(path)? {
        check_archive(path, limits)?;
    }
    guarded(path, FORMAT, || {
        let reader = PytorchReader::new(path).map_err(|e| LoadError::format(path, FORMAT, e))?;
        let mut listing = Listing::new(limits.unpacked(length));
        let place = Arc::new(path.to_path_buf());
        for (name, tensor) in reader.into_tensors() {
            let (file, shape) = (place.clone(), tensor.shape().to_vec());
            let entry = Entry { file, dtype: dtype(tensor.dtype()), shape, source: Source::Pytorch(tensor) };
            listing.entries.insert(name, entry);
        }
        Ok(listing)
    })
}

/// The values of a tensor as little-endian bytes, row by row.
pub(super) fn values(path: &Path, tensor: &Tensor) -> Result<Vec<u8>, LoadError> {
    guarded(path, FORMAT, || {
        let data = tensor.read().map_err(|e| LoadError::format(path, FORMAT, e))?;
        Ok(little_endian(tensor.dtype(), data))
    })
}

fn is_zip(path: &Path) -> Result<bool, LoadError> {
    use std::io::Read;
    let mut head = Vec::new();
    open(path)?.0.take(4).read_to_end(&mut head).map_err(|e| LoadError::io(path, e))?;
    Ok(head.starts_with(b"PK"))
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::Bool,
    }
}

/// The crate returns native byte order.
fn little_endian(dtype: DType, mut data: Vec<u8>) -> Vec<u8> {
    if cfg!(target_endian = "big") {
        data.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    data
}
