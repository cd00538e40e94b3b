//! Optimiser state in a form that files can hold.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::Value;

/// Tensors and numbers by name. Tensors keep their exact bits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    /// Tensors, with their shapes.
    pub tensors: BTreeMap<String, TensorData>,
    /// Everything else.
    pub scalars: BTreeMap<String, Value>,
}

/// The saved state cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It belongs to another optimiser.
    #[error(
        "the saved state belongs to '{found}', expected '{expected}'\nhint: resume with the recipe of the run"
    )]
    OtherOptimizer {
        /// This optimiser.
        expected: String,
        /// The optimiser that wrote it.
        found: String,
    },
    /// An entry is missing or unusable.
    #[error("the saved state has no usable '{name}'")]
    Missing {
        /// Its name.
        name: String,
    },
    /// An unknown entry.
    #[error("the saved state has '{name}', which belongs to no parameter")]
    Unexpected {
        /// Its name.
        name: String,
    },
    /// A tensor's shape differs from the model's.
    #[error(
        "saved '{name}': expected shape {expected:?}, found {found:?}\nhint: the model differs from the \
         run's"
    )]
    Shape {
        /// Its name.
        name: String,
        /// The model's shape.
        expected: Vec<usize>,
        /// The saved shape.
        found: Vec<usize>,
    },
    /// A tensor's type differs from the model's.
    #[error("saved '{name}': expected {expected:?}, found {found:?}")]
    Type {
        /// Its name.
        name: String,
        /// The model's type.
        expected: DType,
        /// The saved type.
        found: DType,
    },
}

impl StateDict {
    /// Inserts a flattened tensor.
    pub(crate) fn insert(&mut self, name: String, shape: &[usize], tensor: &Tensor<1>) {
        let (bytes, _, dtype) = tensor.clone().into_data().into_parts();
        self.tensors.insert(name, TensorData::from_bytes(bytes, shape.to_vec(), dtype));
    }

    /// The flattened tensor of this name, if it has this shape and type.
    pub(crate) fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor<1>, StateError> {
        let data = self.tensors.get(name).ok_or_else(|| StateError::Missing { name: name.into() })?;
        if data.shape().as_slice() != shape {
            let (expected, found) = (shape.to_vec(), data.shape().to_vec());
            return Err(StateError::Shape { name: name.into(), expected, found });
        }
        if data.dtype() != dtype {
            return Err(StateError::Type { name: name.into(), expected: dtype, found: data.dtype() });
        }
        let (bytes, _, _) = data.clone().into_parts();
        let n = shape.iter().product::<usize>();
        Ok(Tensor::from_data(TensorData::from_bytes(bytes, [n], dtype), (device, dtype)))
    }
}
