//! Checks for NaN and infinity before a model is made, and for overflow before values are written in a smaller
//! type.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{Dtype, HostTensor, LoadError, TensorMap};

/// The non-finite values of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotFinite {
    /// The tensor's name in the file.
    pub name: String,
    nan: usize,
    infinite: usize,
    count: usize,
    first: usize,
}

impl NotFinite {
    /// The error for the file at `map.path`.
    pub fn error(self, map: &TensorMap) -> LoadError {
        let Self { name, nan, infinite, count, first } = self;
        LoadError::NotFinite { path: map.path.clone(), name, nan, infinite, count, first }
    }
}

/// The tensors with NaN or infinite values. With `as_f32`, doubles beyond f32 count as infinite.
pub(crate) fn not_finite(map: &TensorMap, as_f32: bool) -> Vec<NotFinite> {
    let tensors: Vec<(&String, &HostTensor)> = map.tensors.iter().collect();
    tensors.into_par_iter().filter_map(|(name, tensor)| look(name, tensor, as_f32)).collect()
}

fn look(name: &str, tensor: &HostTensor, as_f32: bool) -> Option<NotFinite> {
    if is_finite(tensor, as_f32) {
        return None;
    }
    let (mut nan, mut infinite, mut first) = (0, 0, None);
    for (at, value) in tensor.to_f64().into_iter().enumerate() {
        let too_large = value.is_infinite() || (as_f32 && (value as f32).is_infinite());
        if !value.is_nan() && !too_large {
            continue;
        }
        nan += usize::from(value.is_nan());
        infinite += usize::from(too_large);
        first.get_or_insert(at);
    }
    let count = tensor.num_elements();
    Some(NotFinite { name: name.into(), nan, infinite, count, first: first? })
}

/// Whether all values are finite; integers are.
fn is_finite(tensor: &HostTensor, as_f32: bool) -> bool {
    let bytes = tensor.bytes();
    // `fold` without an early exit, so that the compiler can vectorise it.
    match tensor.dtype() {
        Dtype::F32 => {
            bytes.as_chunks::<4>().0.iter().fold(true, |all, b| all & f32::from_le_bytes(*b).is_finite())
        }
        Dtype::F16 => {
            bytes.as_chunks::<2>().0.iter().fold(true, |all, b| all & f16::from_le_bytes(*b).is_finite())
        }
        Dtype::BF16 => {
            bytes.as_chunks::<2>().0.iter().fold(true, |all, b| all & bf16::from_le_bytes(*b).is_finite())
        }
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().fold(true, |all, b| {
            let value = f64::from_le_bytes(*b);
            all & value.is_finite() & (!as_f32 || (value as f32).is_finite())
        }),
        _ => true,
    }
}

/// Checks what would be lost by writing floating-point tensors as `dtype`. A value out of range is an error. A
/// tensor whose values all become zero is noted.
///
/// # Errors
/// [`LoadError::TooSmallType`] with the tensor and its largest value.
pub fn check_narrowing(map: &TensorMap, dtype: Dtype) -> Result<Vec<String>, LoadError> {
    let mut notes = Vec::new();
    for (name, tensor) in &map.tensors {
        if !tensor.dtype().is_float() || range(tensor.dtype()) <= range(dtype) {
            continue;
        }
        let (largest, kept) = tensor
            .to_f64()
            .into_iter()
            .filter(|v| v.is_finite())
            .fold((0.0f64, false), |(m, k), v| (m.max(v.abs()), k || rounded(v, dtype) != 0.0));
        if rounded(largest, dtype).is_infinite() {
            let (path, name, limit) = (map.path.clone(), name.clone(), largest_of(dtype));
            return Err(LoadError::TooSmallType { path, name, largest, dtype, limit });
        }
        if largest > 0.0 && !kept {
            notes.push(format!("{name}: all values become 0 as {dtype}, the largest is {largest:e}"));
        }
    }
    Ok(notes)
}

/// Rank of a type by range: f16, then bf16 and f32, which differ only in the largest number, then f64.
fn range(dtype: Dtype) -> u8 {
    match dtype {
        Dtype::F16 => 0,
        Dtype::BF16 => 1,
        Dtype::F32 => 2,
        _ => 3,
    }
}

fn rounded(value: f64, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => f16::from_f64(value).to_f64(),
        Dtype::BF16 => bf16::from_f64(value).to_f64(),
        Dtype::F32 => f64::from(value as f32),
        _ => value,
    }
}

fn largest_of(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => f16::MAX.to_f64(),
        Dtype::BF16 => bf16::MAX.to_f64(),
        Dtype::F32 => f64::from(f32::MAX),
        _ => f64::MAX,
    }
}
