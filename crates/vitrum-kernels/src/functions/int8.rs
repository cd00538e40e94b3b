//! Int8 layers on tensors.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::{activate, linear};
use crate::activation::Activation;
use crate::check::check_input;
use crate::device::is_fast;
use crate::extension::Int8Ops;
use crate::int8::QuantizedWeight;
use crate::tensors::Maybe;

/// An int8 linear layer: `activation(x weight + bias)`.
///
/// `x` is `[..., K]`, `weight` `[K, N]`. Returns `[..., N]` in the type of x. Each row of x is quantised by itself, to
/// 256 steps between its extremes, so a row of the output does not depend on the other rows. The error of a number is
/// at most slightly more than `Σ |scale_x / 2 · w| + Σ |x · scale_w / 2|`. A row with NaN or an infinity gives NaN in
/// all its outputs. A row whose step would be below the least normal `f32` counts as 0. GELU is approximated with an
/// error of at most 6e-5, a hundredth of the error from quantising its output.
///
/// The fast path is for `f32` on the CPU without gradients. Elsewhere the weight is converted to floats and x is not
/// quantised.
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

/// [`linear_int8`] at the end of a residual branch: `residual + x weight + bias`. `residual` is `[..., N]`.
///
/// # Panics
/// If the last axis of x is not K, or the residual has another shape or type than the output.
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

/// Two int8 linear layers with an activation between them: `activation(x fc1 + fc1_bias) fc2 + fc2_bias`.
///
/// `x` is `[..., D]`, `fc1` `[D, F]`, `fc2` `[F, N]`. Returns `[..., N]`. The result equals two calls of
/// [`linear_int8`], but the hidden numbers stay in the cache.
///
/// # Panics
/// If the last axis of x is not D, or the shapes of the weights do not match.
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

/// [`mlp_int8`] as a residual branch: `residual + activation(x fc1 + fc1_bias) fc2 + fc2_bias`. `residual` is `[...,
/// N]`.
///
/// # Panics
/// As [`mlp_int8`], or if the residual has another shape or type than the output.
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

/// The weight `[K, N]` and the bias as tensors with the type and device of x.
fn floats<const R: usize>(weight: &QuantizedWeight, x: &Tensor<R>) -> (Tensor<2>, Option<Tensor<1>>) {
    super::floats(weight.dequantize(), weight.shape(), weight.bias(), x)
}
