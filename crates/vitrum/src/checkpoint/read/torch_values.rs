//! Types and values of the tensors that `torch.save` writes.

use std::path::Path;

use pytorch_reader::{DType, Tensor};

use super::guarded;
use crate::checkpoint::{Dtype, LoadError};

/// What the files are called in errors.
pub(super) const FORMAT: &str = "PyTorch checkpoint";

/// The values of a tensor as little-endian bytes, row by row.
pub(super) fn values(path: &Path, tensor: &Tensor) -> Result<Vec<u8>, LoadError> {
    guarded(path, FORMAT, || {
        let data = tensor.read().map_err(|e| LoadError::format(path, FORMAT, e))?;
        Ok(little_endian(tensor.dtype(), data))
    })
}

/// The type of the elements.
pub(super) fn dtype(dtype: DType) -> Dtype {
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
