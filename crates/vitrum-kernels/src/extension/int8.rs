//! Int8 layers as an extension of the CPU backend.

use burn::backend::flex::FlexTensor;
use burn::backend::{Backend, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};

use crate::activation::Activation;
use crate::int8::{self, QuantizedWeight};
use crate::linear::{rows_of, with_last};
use crate::simd::Real;
use crate::tensors::{Maybe, contiguous};

/// Int8 layers.
#[backend_extension(Flex)]
pub trait Int8Ops: Backend {
    /// See [`linear_int8`](crate::linear_int8).
    fn vitrum_linear_int8(
        x: FloatTensor<Self>,
        weight: QuantizedWeight,
        activation: Activation,
        #[extension_type] residual: Maybe<Self>,
    ) -> FloatTensor<Self>;

    /// See [`mlp_int8`](crate::mlp_int8).
    fn vitrum_mlp_int8(
        x: FloatTensor<Self>,
        fc1: QuantizedWeight,
        fc2: QuantizedWeight,
        activation: Activation,
        #[extension_type] residual: Maybe<Self>,
    ) -> FloatTensor<Self>;
}

impl Int8Ops for Flex {
    fn vitrum_linear_int8(
        x: FloatTensor<Self>,
        weight: QuantizedWeight,
        activation: Activation,
        residual: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let residual = residual.into_option().map(contiguous);
        let residual = residual.as_ref().map(f32::slice);
        with_rows(x, weight.shape()[1], |x, m| int8::linear(x, m, &weight, activation, residual))
    }

    fn vitrum_mlp_int8(
        x: FloatTensor<Self>,
        fc1: QuantizedWeight,
        fc2: QuantizedWeight,
        activation: Activation,
        residual: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let residual = residual.into_option().map(contiguous);
        let residual = residual.as_ref().map(f32::slice);
        with_rows(x, fc2.shape()[1], |x, m| int8::mlp(x, m, &fc1, &fc2, activation, residual))
    }
}

/// Applies `work` to the rows of x; each gives a row of `n` numbers.
fn with_rows(x: FlexTensor, n: usize, work: impl FnOnce(&[f32], usize) -> Vec<f32>) -> FlexTensor {
    let x = contiguous(x);
    let shape = x.shape();
    f32::tensor(work(f32::slice(&x), rows_of(&shape)), with_last(&shape, n))
}
