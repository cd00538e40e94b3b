//! Tensors as they lie in a file: bytes with a type and a shape, before any model exists.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::read::WeightSet;

/// Most axes a tensor may have.
pub const MAX_RANK: usize = 8;

/// Type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE 754 double precision.
    F64,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 64 bits.
    U64,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether the type is a floating-point number.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// The name in lower case, as in `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::U16 => "u16",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor whose shape does not allow what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The product of the shape does not fit in memory's address range.
    #[error("shape {0:?} has too many elements")]
    Overflow(Vec<usize>),
    /// More axes than [`MAX_RANK`].
    #[error("{0} axes, at most {MAX_RANK} are accepted")]
    Rank(usize),
    /// The bytes are not as many as shape and type ask for.
    #[error("shape {shape:?} of {dtype} needs {expected} bytes, found {found}")]
    Bytes {
        /// The shape asked for.
        shape: Vec<usize>,
        /// The type asked for.
        dtype: Dtype,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Another shape is needed.
    #[error("expected shape {expected}, found {found:?}")]
    Shape {
        /// The shape needed, in words or letters.
        expected: String,
        /// The shape found.
        found: Vec<usize>,
    },
    /// Another type is needed.
    #[error("expected {expected}, found {found}")]
    Dtype {
        /// What is needed.
        expected: String,
        /// The type found.
        found: Dtype,
    },
}

impl TensorError {
    pub(crate) fn shape(expected: impl Into<String>, found: &[usize]) -> Self {
        Self::Shape { expected: expected.into(), found: found.to_vec() }
    }
}

/// Elements of a shape, or an error if they cannot be counted.
pub fn count(shape: &[usize]) -> Result<usize, TensorError> {
    if shape.len() > MAX_RANK {
        return Err(TensorError::Rank(shape.len()));
    }
    // The product of the axes that are not 0, so that `[0, huge, huge]` is refused as well.
    let bound = shape.iter().filter(|&&n| n != 0).try_fold(1usize, |product, &n| product.checked_mul(n));
    match bound {
        Some(product) if product <= isize::MAX as usize / 8 => {
            Ok(if shape.contains(&0) { 0 } else { product })
        }
        _ => Err(TensorError::Overflow(shape.to_vec())),
    }
}

/// A tensor in the host's memory: little-endian bytes, row by row.
#[derive(Clone, PartialEq)]
pub struct HostTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Arc<Vec<u8>>,
}

impl std::fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostTensor({} {:?})", self.dtype, self.shape)
    }
}

impl HostTensor {
    /// A tensor from its little-endian bytes; fails when they are not exactly as many as the shape asks for.
    pub fn new(dtype: Dtype, shape: Vec<usize>, data: Vec<u8>) -> Result<Self, TensorError> {
        let expected = count(&shape)? * dtype.size(); // `count` leaves room for eight bytes each
        if data.len() != expected {
            return Err(TensorError::Bytes { shape, dtype, expected, found: data.len() });
        }
        Ok(Self { dtype, shape, data: Arc::new(data) })
    }

    /// An `f32` tensor from its values, row by row.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Self, TensorError> {
        Self::new(Dtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An `f64` tensor from its values, row by row.
    pub fn from_f64(shape: Vec<usize>, values: &[f64]) -> Result<Self, TensorError> {
        Self::new(Dtype::F64, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Length of each axis, slowest first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn num_elements(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// The little-endian bytes, row by row.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// The values as `f32`, row by row. Doubles and long integers are rounded; halves are exact.
    pub fn to_f32(&self) -> Vec<f32> {
        let data = self.data.as_slice();
        match self.dtype {
            Dtype::F32 => map(data, f32::from_le_bytes),
            Dtype::F64 => map(data, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => map(data, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => map(data, |b| bf16::from_le_bytes(b).to_f32()),
            _ => self.to_f64().into_iter().map(|v| v as f32).collect(),
        }
    }

    /// The values as `f64`, row by row. Integers beyond 2^53 are rounded.
    pub fn to_f64(&self) -> Vec<f64> {
        let data = self.data.as_slice();
        match self.dtype {
            Dtype::F64 => map(data, f64::from_le_bytes),
            Dtype::F32 => map(data, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::F16 => map(data, |b| f16::from_le_bytes(b).to_f64()),
            Dtype::BF16 => map(data, |b| bf16::from_le_bytes(b).to_f64()),
            Dtype::I64 => map(data, |b| i64::from_le_bytes(b) as f64),
            Dtype::I32 => map(data, |b| f64::from(i32::from_le_bytes(b))),
            Dtype::I16 => map(data, |b| f64::from(i16::from_le_bytes(b))),
            Dtype::I8 => map(data, |b| f64::from(i8::from_le_bytes(b))),
            Dtype::U64 => map(data, |b| u64::from_le_bytes(b) as f64),
            Dtype::U32 => map(data, |b| f64::from(u32::from_le_bytes(b))),
            Dtype::U16 => map(data, |b| f64::from(u16::from_le_bytes(b))),
            Dtype::U8 => data.iter().map(|&b| f64::from(b)).collect(),
            Dtype::Bool => data.iter().map(|&b| f64::from(u8::from(b != 0))).collect(),
        }
    }

    /// The same values in another floating-point type, rounded to nearest; integers are refused.
    pub fn cast(&self, dtype: Dtype) -> Result<Self, TensorError> {
        if !self.dtype.is_float() || !dtype.is_float() {
            let found = if self.dtype.is_float() { dtype } else { self.dtype };
            return Err(TensorError::Dtype { expected: "a floating-point type".into(), found });
        }
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let data = match dtype {
            Dtype::F64 => self.to_f64().iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 if self.dtype == Dtype::F64 => {
                self.to_f64().iter().flat_map(|&v| f16::from_f64(v).to_le_bytes()).collect()
            }
            Dtype::BF16 if self.dtype == Dtype::F64 => {
                self.to_f64().iter().flat_map(|&v| bf16::from_f64(v).to_le_bytes()).collect()
            }
            Dtype::F16 => self.to_f32().iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            Dtype::BF16 => self.to_f32().iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            _ => self.to_f32().iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        Self::new(dtype, self.shape.clone(), data)
    }

    /// The same elements in another shape; nothing is copied.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self, TensorError> {
        if count(shape)? != self.num_elements() {
            return Err(TensorError::shape(format!("with as many elements as {shape:?}"), &self.shape));
        }
        Ok(Self { dtype: self.dtype, shape: shape.to_vec(), data: self.data.clone() })
    }

    /// Axes in another order: axis `i` of the result is axis `order[i]` of this tensor.
    pub fn permute(&self, order: &[usize]) -> Result<Self, TensorError> {
        let rank = self.shape.len();
        let mut seen = [false; MAX_RANK];
        let valid =
            order.len() == rank && order.iter().all(|&a| a < rank && !std::mem::replace(&mut seen[a], true));
        if !valid {
            return Err(TensorError::shape(format!("for axis order {order:?}"), &self.shape));
        }
        let strides = strides(&self.shape);
        let shape: Vec<usize> = order.iter().map(|&a| self.shape[a]).collect();
        let steps: Vec<usize> = order.iter().map(|&a| strides[a]).collect();
        let size = self.dtype.size();
        let mut data = Vec::with_capacity(self.data.len());
        let mut index = vec![0usize; rank];
        let mut from = 0usize;
        for _ in 0..self.num_elements() {
            data.extend_from_slice(&self.data[from * size..(from + 1) * size]);
            for axis in (0..rank).rev() {
                index[axis] += 1;
                from += steps[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                from -= steps[axis] * shape[axis];
                index[axis] = 0;
            }
        }
        Self::new(self.dtype, shape, data)
    }

    /// A matrix with rows and columns exchanged.
    pub fn transpose(&self) -> Result<Self, TensorError> {
        if self.shape.len() != 2 {
            return Err(TensorError::shape("[rows, columns]", &self.shape));
        }
        self.permute(&[1, 0])
    }

    /// The part of one axis.
    pub fn slice(&self, axis: usize, range: Range<usize>) -> Result<Self, TensorError> {
        if axis >= self.shape.len() || range.start > range.end || range.end > self.shape[axis] {
            return Err(TensorError::shape(format!("with {range:?} on axis {axis}"), &self.shape));
        }
        let row = self.shape[axis + 1..].iter().product::<usize>() * self.dtype.size();
        let block = self.shape[axis] * row;
        let mut shape = self.shape.clone();
        shape[axis] = range.len();
        let mut data = Vec::with_capacity(count(&shape)? * self.dtype.size());
        if block > 0 {
            for block in self.data.chunks_exact(block) {
                data.extend_from_slice(&block[range.start * row..range.end * row]);
            }
        }
        Self::new(self.dtype, shape, data)
    }

    /// Tensors one after the other along an axis. Types and all other axes must agree.
    pub fn concat(parts: &[&Self], axis: usize) -> Result<Self, TensorError> {
        let Some(first) = parts.first() else {
            return Err(TensorError::shape("of at least one tensor", &[]));
        };
        if axis >= first.shape.len() {
            return Err(TensorError::shape(format!("with axis {axis}"), &first.shape));
        }
        let mut shape = first.shape.clone();
        shape[axis] = 0;
        for part in parts {
            let mut other = part.shape.clone();
            let length = other.get(axis).copied().unwrap_or(0);
            if let Some(n) = other.get_mut(axis) {
                *n = first.shape[axis];
            }
            if other != first.shape {
                return Err(TensorError::shape(
                    format!("as {:?} except on axis {axis}", first.shape),
                    &part.shape,
                ));
            }
            if part.dtype != first.dtype {
                return Err(TensorError::Dtype { expected: first.dtype.to_string(), found: part.dtype });
            }
            shape[axis] = shape[axis].checked_add(length).ok_or(TensorError::Overflow(part.shape.clone()))?;
        }
        let outer: usize = first.shape[..axis].iter().product();
        let mut data = Vec::with_capacity(count(&shape)? * first.dtype.size());
        for i in 0..outer {
            for part in parts {
                let block = part.data.len() / outer;
                data.extend_from_slice(&part.data[i * block..(i + 1) * block]);
            }
        }
        Self::new(first.dtype, shape, data)
    }
}

/// Elements to step for one step on each axis.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

/// Each group of `N` bytes through `f`.
fn map<const N: usize, T>(data: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|&bytes| f(bytes)).collect()
}

/// Named tensors from one checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorMap {
    /// The tensors by name, in the order of their names.
    pub tensors: BTreeMap<String, HostTensor>,
    /// What the file says about itself (safetensors `__metadata__`).
    pub metadata: BTreeMap<String, String>,
    /// Where the tensors come from, for messages.
    pub path: PathBuf,
    /// Tensors of the file that were left out on purpose: name and reason.
    pub dropped: Vec<(String, String)>,
    /// The sets of weights that the file holds, and which of them these tensors are.
    pub sets: Vec<WeightSet>,
    /// What a user should know of how the file was read.
    pub notes: Vec<String>,
}

impl TensorMap {
    /// Length of the first axis of a tensor, if it is there.
    pub(crate) fn rows(&self, name: &str) -> Option<usize> {
        self.get(name)?.shape().first().copied()
    }

    /// No tensors yet, from `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// What is known of these tensors, without the tensors.
    pub(crate) fn without_tensors(&self) -> Self {
        let Self { tensors: _, metadata, path, dropped, sets, notes } = self;
        Self {
            tensors: BTreeMap::new(),
            metadata: metadata.clone(),
            path: path.clone(),
            dropped: dropped.clone(),
            sets: sets.clone(),
            notes: notes.clone(),
        }
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.tensors.get(name)
    }

    /// Whether a tensor has this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Elements of all tensors together.
    pub fn num_elements(&self) -> usize {
        self.tensors.values().map(HostTensor::num_elements).sum()
    }

    /// Bytes of all tensors together.
    pub fn num_bytes(&self) -> usize {
        self.tensors.values().map(|t| t.bytes().len()).sum()
    }
}
