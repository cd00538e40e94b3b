//! What `torch.save` writes: `.pth`, `.pt`, `.bin`, `.ckpt`. Only tensors are read, nothing is executed.

use std::collections::BTreeMap;
use std::path::Path;

use pytorch_reader::{DType, PytorchReader, Tensor};

use super::npz::check_archive;
use super::{Limits, at_most, guarded, open};
use crate::checkpoint::{Dtype, HostTensor, LoadError, TensorMap};

const FORMAT: &str = "PyTorch checkpoint";

/// The tensors of a PyTorch checkpoint.
///
/// Weights beside optimiser state and the like are taken from where training scripts put them (averaged
/// weights first, as timm does); what is left out stands in [`TensorMap::dropped`].
pub fn read(path: &Path, limits: &Limits) -> Result<TensorMap, LoadError> {
    let (_, length) = open(path)?;
    if is_zip(path)? {
        check_archive(path, limits)?;
    }
    guarded(path, FORMAT, || {
        let reader = PytorchReader::new(path).map_err(|e| LoadError::format(path, FORMAT, e))?;
        let tensors: BTreeMap<String, Tensor> = reader.into_tensors().into_iter().collect();
        let (tensors, dropped) = unwrap(tensors);
        at_most(path, "the number of tensors", tensors.len(), limits.tensors)?;
        check_total(path, &tensors, length, limits)?;
        let mut map = TensorMap::new(path);
        map.dropped = dropped;
        for (name, tensor) in tensors {
            let data = tensor.read().map_err(|e| LoadError::format(path, FORMAT, e))?;
            let tensor = HostTensor::new(
                dtype(tensor.dtype()),
                tensor.shape().to_vec(),
                little_endian(tensor.dtype(), data),
            )
            .map_err(|e| LoadError::tensor(path, &name, e))?;
            map.tensors.insert(name, tensor);
        }
        Ok(map)
    })
}

fn is_zip(path: &Path) -> Result<bool, LoadError> {
    use std::io::Read;
    let mut head = Vec::new();
    open(path)?.0.take(4).read_to_end(&mut head).map_err(|e| LoadError::io(path, e))?;
    Ok(head.starts_with(b"PK"))
}

/// A view may repeat elements of its storage, so a small file can describe large tensors.
fn check_total(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    length: u64,
    limits: &Limits,
) -> Result<(), LoadError> {
    let bytes = |t: &Tensor| {
        let elements = t.shape().iter().try_fold(1u64, |n, &axis| n.checked_mul(axis as u64));
        elements.and_then(|n| n.checked_mul(t.dtype().size() as u64)).unwrap_or(u64::MAX)
    };
    let total = tensors.values().map(bytes).fold(0u64, u64::saturating_add);
    let limit = limits.unpacked(length);
    if total > limit {
        return Err(LoadError::too_large(path, "the size of all tensors in bytes", total, limit));
    }
    Ok(())
}

/// Where training scripts keep the weights, first choice first: averaged weights before the last ones, as
/// timm does; then Lightning and plain scripts; then DINO's teacher.
const CONTAINERS: [&str; 9] = [
    "state_dict_ema.",
    "model_ema.",
    "state_dict.",
    "model_state_dict.",
    "model_state.",
    "model.",
    "net.",
    "target_encoder.",
    "teacher.",
];

type Dropped = Vec<(String, String)>;

/// The weights inside a training checkpoint, and what was left out.
fn unwrap<T>(mut tensors: BTreeMap<String, T>) -> (BTreeMap<String, T>, Dropped) {
    let mut dropped = Dropped::new();
    // Two levels: `{"model": {"state_dict": …}}` is seen in the wild.
    for _ in 0..2 {
        let Some(container) = CONTAINERS.iter().find(|c| tensors.keys().any(|name| name.starts_with(**c)))
        else {
            break;
        };
        let mut inside = BTreeMap::new();
        for (name, tensor) in tensors {
            match name.strip_prefix(container) {
                Some(inner) => {
                    inside.insert(inner.to_string(), tensor);
                }
                None => {
                    let reason = format!("not among the weights in `{}`", container.trim_end_matches('.'));
                    dropped.push((name, reason));
                }
            }
        }
        tensors = inside;
    }
    (tensors, dropped)
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

/// The crate hands out the machine's byte order.
fn little_endian(dtype: DType, mut data: Vec<u8>) -> Vec<u8> {
    if cfg!(target_endian = "big") {
        data.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    data
}
