//! Layers with packed weights, and rotations, on tensors.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::{activate, layer_norm, linear, linear_add};
use crate::activation::Activation;
use crate::check::{check_input, check_layer_norm, check_residual};
use crate::device::is_fast;
use crate::extension::PackedOps;
use crate::packed::{AfterAttention, NormMlp, PackedWeight};
use crate::reference::rotate_reference;
use crate::tensors::{Maybe, maybe};

/// Turns the queries and keys of `x`, `[B, T, 3·A·E]`, by rotary positions. `cos` and `sin` are `[1, T, 1, E]`, the same
/// for all heads, or `[1, T, 2·A, E]`: `y = x · cos + other · sin`, where `other` is the other number of a pair. A pair is
/// `i` and `i + E / 2` with `half`, else `2i` and `2i + 1`. Values do not turn.
///
/// The fast path is for `f32` on the CPU without gradients. It equals [`rotate_reference`](crate::rotate_reference) to the
/// bit.
///
/// # Panics
/// If the shapes do not match.
pub fn rotate(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, half: bool) -> Tensor<3> {
    let [_, t, width] = x.dims();
    let [one, tokens, heads, e] = cos.dims();
    assert!(
        one == 1 && tokens == t && e > 0 && e % 2 == 0 && width % (3 * e) == 0,
        "rotate: cosines of {:?} for queries, keys and values of {:?}",
        cos.dims(),
        x.dims()
    );
    assert!(heads == 1 || heads == 2 * width / 3 / e, "rotate: {heads} heads of {e} in {width} numbers");
    assert_eq!(cos.dims(), sin.dims(), "rotate: cosines and sines");
    if !is_fast(&x) {
        return rotate_reference(x, cos, sin, half);
    }
    let [cos, sin] = [cos, sin].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::vitrum_rotate(x.into_dispatch(), cos, sin, half))
}

/// A linear layer with a packed weight, `x weight + bias`, for inference. `x` is `[..., K]`, `weight` `[K, N]`. Returns
/// `[..., N]`. Equals [`linear`](crate::linear) to the bit. With a weight in bf16 it equals [`linear`](crate::linear)
/// of x rounded to bf16 and the rounded weight, up to the order of the sum.
///
/// The fast path is for `f32` on the CPU without gradients. Elsewhere each call unpacks the weight, and rounds x if the
/// weight is in bf16.
///
/// # Panics
/// If the last axis of x is not K.
pub fn linear_packed<const R: usize>(x: Tensor<R>, weight: &PackedWeight) -> Tensor<R> {
    check_input("linear_packed", x.dims()[R - 1], weight.shape());
    if !is_fast(&x) {
        let (floats, bias) = floats(weight, &x);
        return linear(rounded(weight, x), floats, bias);
    }
    let (x, weight) = (x.into_dispatch(), weight.clone());
    Tensor::from_dispatch(Dispatch::vitrum_linear_packed(x, weight, Maybe::Absent, Maybe::Absent))
}

/// A linear layer that ends a residual branch, `residual + gamma · (x weight + bias)`, for inference; see
/// [`linear_packed`]. Equals [`linear_add`](crate::linear_add) to the bit, with the same exception.
///
/// # Panics
/// If the last axis of x is not K, or residual or gamma do not have the shape and type of the output.
pub fn linear_add_packed<const R: usize>(
    x: Tensor<R>,
    weight: &PackedWeight,
    residual: Tensor<R>,
    gamma: Option<Tensor<1>>,
) -> Tensor<R> {
    check_input("linear_add_packed", x.dims()[R - 1], weight.shape());
    check_residual("linear_add_packed", &x, weight.shape()[1], &residual, gamma.as_ref());
    if !is_fast(&x) || !is_fast(&residual) {
        let (floats, bias) = floats(weight, &x);
        return linear_add(rounded(weight, x), floats, bias, residual, gamma);
    }
    let (x, weight, residual) = (x.into_dispatch(), weight.clone(), Maybe::Present(residual.into_dispatch()));
    Tensor::from_dispatch(Dispatch::vitrum_linear_packed(x, weight, residual, maybe(gamma)))
}

/// A layer norm, a linear layer and an activation, `activation(LN(x) weight + bias)`, for inference. `x` is `[..., D]`,
/// `weight` `[D, N]`. Returns `[..., N]`. Equals [`layer_norm`](crate::layer_norm), [`linear_packed`] and
/// [`activate`](crate::activate) to the bit.
///
/// # Panics
/// If the last axis of x is not D, or the parameters of the norm are not `[D]`.
pub fn norm_linear_packed<const R: usize>(
    x: Tensor<R>,
    norm_weight: Tensor<1>,
    norm_bias: Tensor<1>,
    eps: f64,
    weight: &PackedWeight,
    activation: Activation,
) -> Tensor<R> {
    check_input("norm_linear_packed", x.dims()[R - 1], weight.shape());
    check_layer_norm(&x, &norm_weight, Some(&norm_bias));
    if !is_fast(&x) {
        return activate(linear_packed(layer_norm(x, norm_weight, norm_bias, eps), weight), activation);
    }
    Tensor::from_dispatch(Dispatch::vitrum_norm_linear_packed(
        x.into_dispatch(),
        norm_weight.into_dispatch(),
        norm_bias.into_dispatch(),
        eps,
        weight.clone(),
        activation,
    ))
}

/// A residual branch of a norm and an MLP, `residual + gamma · mlp(x)`, for inference. `x` and `residual` are
/// `[..., D]`; the parameters of the norm and the gain (1 if absent) are `[D]`. Returns a tensor like x. Equals
/// [`layer_norm`](crate::layer_norm), [`linear_packed`], [`activate`](crate::activate) and [`linear_add_packed`] to the
/// bit. Layers in `f32` and in bf16 may be mixed.
///
/// # Panics
/// If a tensor has another shape or type, or the shapes of the weights do not match.
pub fn norm_mlp_packed<const R: usize>(
    x: Tensor<R>,
    norm_weight: Tensor<1>,
    norm_bias: Tensor<1>,
    layers: &NormMlp,
    residual: Tensor<R>,
    gamma: Option<Tensor<1>>,
) -> Tensor<R> {
    let NormMlp { fc1, fc2, activation, eps } = layers;
    check_input("norm_mlp_packed, fc1", x.dims()[R - 1], fc1.shape());
    check_input("norm_mlp_packed, fc2", fc1.shape()[1], fc2.shape());
    assert_eq!(residual.dims(), x.dims(), "norm_mlp_packed: the residual must have the shape of x");
    check_residual("norm_mlp_packed", &x, fc2.shape()[1], &residual, gamma.as_ref());
    check_layer_norm(&x, &norm_weight, Some(&norm_bias));
    if !is_fast(&x) || !is_fast(&residual) {
        let hidden = linear_packed(layer_norm(x, norm_weight, norm_bias, *eps), fc1);
        return linear_add_packed(activate(hidden, *activation), fc2, residual, gamma);
    }
    Tensor::from_dispatch(Dispatch::vitrum_norm_mlp_packed(
        x.into_dispatch(),
        norm_weight.into_dispatch(),
        norm_bias.into_dispatch(),
        layers.clone(),
        residual.into_dispatch(),
        maybe(gamma),
    ))
}

/// The part of an encoder block after attention, for inference. `context` and `x` are `[..., D]`; the parameters of the
/// norm and the gains of the branches (LayerScale; 1 if absent) are `[D]`. Returns a tensor like x. Equals
/// [`linear_add_packed`] and [`norm_mlp_packed`] to the bit. Layers in `f32` and in bf16 may be mixed.
///
/// # Panics
/// If a tensor has another shape or type, or the shapes of the weights do not match.
pub fn after_attention_packed<const R: usize>(
    context: Tensor<R>,
    x: Tensor<R>,
    norm_weight: Tensor<1>,
    norm_bias: Tensor<1>,
    layers: &AfterAttention,
    [gamma1, gamma2]: [Option<Tensor<1>>; 2],
) -> Tensor<R> {
    let AfterAttention { proj, mlp } = layers;
    let NormMlp { fc1, fc2, .. } = mlp;
    check_input("after_attention_packed, proj", context.dims()[R - 1], proj.shape());
    check_input("after_attention_packed, fc1", x.dims()[R - 1], fc1.shape());
    check_input("after_attention_packed, fc2", fc1.shape()[1], fc2.shape());
    check_residual("after_attention_packed", &context, proj.shape()[1], &x, gamma1.as_ref());
    check_residual("after_attention_packed", &context, fc2.shape()[1], &x, gamma2.as_ref());
    check_layer_norm(&x, &norm_weight, Some(&norm_bias));
    if !is_fast(&x) || !is_fast(&context) {
        let x = linear_add_packed(context, proj, x, gamma1);
        return norm_mlp_packed(x.clone(), norm_weight, norm_bias, mlp, x, gamma2);
    }
    Tensor::from_dispatch(Dispatch::vitrum_after_attention_packed(
        context.into_dispatch(),
        x.into_dispatch(),
        norm_weight.into_dispatch(),
        norm_bias.into_dispatch(),
        layers.clone(),
        maybe(gamma1),
        maybe(gamma2),
    ))
}

/// The weight `[K, N]` and the bias as tensors with the type and device of x.
fn floats<const R: usize>(weight: &PackedWeight, x: &Tensor<R>) -> (Tensor<2>, Option<Tensor<1>>) {
    super::floats(weight.unpack(), weight.shape(), weight.bias(), x)
}

/// x, rounded if the weight is in bf16.
fn rounded<const R: usize>(weight: &PackedWeight, x: Tensor<R>) -> Tensor<R> {
    let dtype = x.dtype();
    if weight.is_bf16() { x.cast(DType::BF16).cast(dtype) } else { x }
}
