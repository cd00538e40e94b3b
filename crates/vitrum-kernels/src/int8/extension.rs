//! The layers on tensors.

use burn::backend::flex::FlexTensor;
use burn::backend::{
    Backend, Dispatch, DispatchDevice, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::{DType, Tensor, TensorData};

use super::QuantizedWeight;
use crate::activation::Activation;
use crate::linear::{rows_of, with_last};
use crate::simd::Real;

/// Layers in eight bits, on backends that have them.
#[backend_extension(Flex)]
pub trait Int8Ops: Backend {
    /// See [`linear_int8`].
    fn vitrum_linear_int8(
        x: FloatTensor<Self>,
        weight: QuantizedWeight,
        activation: Activation,
    ) -> FloatTensor<Self>;

    /// See [`mlp_int8`].
    fn vitrum_mlp_int8(
        x: FloatTensor<Self>,
        fc1: QuantizedWeight,
        fc2: QuantizedWeight,
        activation: Activation,
    ) -> FloatTensor<Self>;
}

impl Int8Ops for Flex {
    fn vitrum_linear_int8(
        x: FloatTensor<Self>,
        weight: QuantizedWeight,
        activation: Activation,
    ) -> FloatTensor<Self> {
        with_rows(x, weight.shape()[1], |x, m| super::linear(x, m, &weight, activation))
    }

    fn vitrum_mlp_int8(
        x: FloatTensor<Self>,
        fc1: QuantizedWeight,
        fc2: QuantizedWeight,
        activation: Activation,
    ) -> FloatTensor<Self> {
        with_rows(x, fc2.shape()[1], |x, m| super::mlp(x, m, &fc1, &fc2, activation))
    }
}

/// Rows of x to rows of `n` numbers.
fn with_rows(x: FlexTensor, n: usize, work: impl FnOnce(&[f32], usize) -> Vec<f32>) -> FlexTensor {
    let x = if x.is_contiguous() { x } else { x.to_contiguous() };
    let shape = x.shape();
    f32::tensor(work(f32::slice(&x), rows_of(&shape)), with_last(&shape, n))
}

/// A linear layer in eight bits: `activation(x weight + bias)`.
///
/// `x` is `[..., K]`, `weight` `[K, N]`. Returns `[..., N]`, of x's type. Each row of x is quantised by itself, to 256
/// steps between its extremes, so a row of the output does not depend on which other rows there are, and a number is
/// off by at most `Σ |scale_x / 2 · w| + Σ |x · scale_w / 2|` and a little more. A row that holds NaN or an infinity
/// gives NaN in all its outputs; numbers that make steps below `f32`'s least normal number count as 0.
///
/// On the CPU in `f32`, outside of training. Anywhere else the weight's values are computed with as floating-point
/// numbers, and x is not quantised.
///
/// # Panics
/// If the last axis of x is not K.
pub fn linear_int8<const R: usize>(
    x: Tensor<R>,
    weight: &QuantizedWeight,
    activation: Activation,
) -> Tensor<R> {
    check("linear_int8", x.dims()[R - 1], weight);
    if !is_fast(&x) {
        let (values, bias) = floats(weight, &x);
        return crate::activate(crate::linear(x, values, bias), activation);
    }
    Tensor::from_dispatch(Dispatch::vitrum_linear_int8(x.into_dispatch(), weight.clone(), activation))
}

/// Two linear layers in eight bits with an activation between: `activation(x fc1 + fc1_bias) fc2 + fc2_bias`.
///
/// `x` is `[..., D]`, `fc1` `[D, F]`, `fc2` `[F, N]`. Returns `[..., N]`. The same numbers as two [`linear_int8`], but
/// what lies between stays in the cache.
///
/// # Panics
/// If the last axis of x is not D, or the weights do not follow on one another.
pub fn mlp_int8<const R: usize>(
    x: Tensor<R>,
    fc1: &QuantizedWeight,
    fc2: &QuantizedWeight,
    activation: Activation,
) -> Tensor<R> {
    check("mlp_int8, first layer", x.dims()[R - 1], fc1);
    check("mlp_int8, second layer", fc1.shape()[1], fc2);
    if !is_fast(&x) {
        return linear_int8(linear_int8(x, fc1, activation), fc2, Activation::Identity);
    }
    Tensor::from_dispatch(Dispatch::vitrum_mlp_int8(x.into_dispatch(), fc1.clone(), fc2.clone(), activation))
}

fn check(name: &str, k: usize, weight: &QuantizedWeight) {
    assert_eq!(
        weight.shape()[0],
        k,
        "{name}: the weight must have a row for each of the {k} columns of its input"
    );
}

/// Whether the integer path takes tensors like this one.
fn is_fast<const R: usize>(x: &Tensor<R>) -> bool {
    let device = x.device();
    x.dtype() == DType::F32
        && matches!(device.as_dispatch(), DispatchDevice::Flex(_))
        && !device.is_autodiff()
}

/// The weight `[K, N]` and bias as tensors like x.
fn floats<const R: usize>(weight: &QuantizedWeight, x: &Tensor<R>) -> (Tensor<2>, Option<Tensor<1>>) {
    let (device, dtype) = (x.device(), x.dtype());
    let bias = |bias: &[f32]| {
        let data = TensorData::new(bias.to_vec(), [bias.len()]);
        Tensor::<1>::from_data(data, (&device, DType::F32)).cast(dtype)
    };
    let values = TensorData::new(weight.dequantize(), weight.shape());
    let values = Tensor::<2>::from_data(values, (&device, DType::F32)).cast(dtype);
    (values, weight.bias().map(bias))
}
