//! Layers in eight bits on tensors.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::{activate, linear};
use crate::activation::Activation;
use crate::check::check_input;
use crate::device::is_fast;
use crate::extension::Int8Ops;
use crate::int8::QuantizedWeight;
use crate::tensors::Maybe;

/// A linear layer in eight bits: `activation(x weight + bias)`.
///
/// `x` is `[..., K]`, `weight` `[K, N]`. Returns `[..., N]`, of x's type. Each row of x is quantised by itself, to 256
/// steps between its extremes, so a row of the output does not depend on which other rows there are, and a number is
/// off by at most `Σ |scale_x / 2 · w| + Σ |x · scale_w / 2|` and a little more. A row that holds NaN or an infinity
/// gives NaN in all its outputs; numbers that make steps below `f32`'s least normal number count as 0. GELU's own error is
/// up to 6e-5, a hundredth of what quantising its value adds.
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
    check_input("linear_int8", x.dims()[R - 1], weight.shape());
    if !is_fast(&x) {
        let (values, bias) = floats(weight, &x);
        return activate(linear(x, values, bias), activation);
    }
    Tensor::from_dispatch(Dispatch::vitrum_linear_int8(
        x.into_dispatch(),
        weight.clone(),
        activation,
        Maybe::Absent,
    ))
}

/// [`linear_int8`] at the end of a residual branch: `residual + x weight + bias`; `residual` is `[..., N]`.
///
/// # Panics
/// If the last axis of x is not K, or the residual is of another shape or type than the output.
pub fn linear_add_int8<const R: usize>(
    x: Tensor<R>,
    weight: &QuantizedWeight,
    residual: Tensor<R>,
) -> Tensor<R> {
    check_input("linear_add_int8", x.dims()[R - 1], weight.shape());
    check_residual(&x, weight, &residual);
    if !is_fast(&x) || !is_fast(&residual) {
        return residual + linear_int8(x, weight, Activation::Identity);
    }
    let residual = Maybe::Present(residual.into_dispatch());
    let (x, weight) = (x.into_dispatch(), weight.clone());
    Tensor::from_dispatch(Dispatch::vitrum_linear_int8(x, weight, Activation::Identity, residual))
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
    check_input("mlp_int8, first layer", x.dims()[R - 1], fc1.shape());
    check_input("mlp_int8, second layer", fc1.shape()[1], fc2.shape());
    if !is_fast(&x) {
        return linear_int8(linear_int8(x, fc1, activation), fc2, Activation::Identity);
    }
    Tensor::from_dispatch(Dispatch::vitrum_mlp_int8(
        x.into_dispatch(),
        fc1.clone(),
        fc2.clone(),
        activation,
        Maybe::Absent,
    ))
}

/// [`mlp_int8`] as a residual branch: `residual + activation(x fc1 + fc1_bias) fc2 + fc2_bias`; `residual` is
/// `[..., N]`.
///
/// # Panics
/// As [`mlp_int8`], or if the residual is of another shape or type than the output.
pub fn mlp_add_int8<const R: usize>(
    x: Tensor<R>,
    fc1: &QuantizedWeight,
    fc2: &QuantizedWeight,
    activation: Activation,
    residual: Tensor<R>,
) -> Tensor<R> {
    check_input("mlp_add_int8, first layer", x.dims()[R - 1], fc1.shape());
    check_input("mlp_add_int8, second layer", fc1.shape()[1], fc2.shape());
    check_residual(&x, fc2, &residual);
    if !is_fast(&x) || !is_fast(&residual) {
        return residual + mlp_int8(x, fc1, fc2, activation);
    }
    let residual = Maybe::Present(residual.into_dispatch());
    let (x, fc1, fc2) = (x.into_dispatch(), fc1.clone(), fc2.clone());
    Tensor::from_dispatch(Dispatch::vitrum_mlp_int8(x, fc1, fc2, activation, residual))
}

fn check_residual<const R: usize>(x: &Tensor<R>, weight: &QuantizedWeight, residual: &Tensor<R>) {
    let mut shape = x.dims();
    shape[R - 1] = weight.shape()[1];
    assert_eq!(residual.dims(), shape, "the residual must be like the layer's output");
    assert_eq!(residual.dtype(), x.dtype(), "residual and x differ in type");
}

/// The weight `[K, N]` and bias as tensors like x.
fn floats<const R: usize>(weight: &QuantizedWeight, x: &Tensor<R>) -> (Tensor<2>, Option<Tensor<1>>) {
    super::floats(weight.dequantize(), weight.shape(), weight.bias(), x)
}
