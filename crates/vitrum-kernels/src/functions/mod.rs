//! The operations on tensors: safe functions that check their arguments and choose the implementation.

mod attention;
mod int8;
mod maps;
mod packed;

pub use attention::{
    attention, attention_bf16, attention_of_first, attention_padded, cross_attention, cross_attention_bf16,
    cross_attention_kv, window_attention,
};
pub use int8::{linear_add_int8, linear_int8, mlp_add_int8, mlp_int8};
pub use maps::{Folding, batch_norm, conv, conv_folded, conv_packed, gate, group_norm, pool, squeeze};
pub use packed::{
    after_attention_packed, linear_add_packed, linear_packed, norm_linear_packed, norm_mlp_packed, rotate,
};

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor, TensorData};

use crate::activation::Activation;
use crate::check::{
    check_layer, check_layer_norm, check_linear, check_patch_embed, check_residual, check_unit_heads,
};
use crate::device::has_extension;
use crate::extension::VitrumOps;
use crate::reference::{
    activate_reference, layer_norm_reference, linear_add_reference, linear_reference, mlp_reference,
    patch_embed_reference, rms_norm_reference, unit_heads_reference,
};
use crate::tensors::{Maybe, maybe};

/// Normalises each row of the last axis to mean 0 and deviation 1, then scales and shifts it (arXiv:1607.06450).
///
/// `x` is `[..., D]`; `weight` and `bias` are `[D]`. The variance is the biased one, and `eps` is added to it. Returns
/// a tensor like `x`. Equals [`layer_norm_reference`].
///
/// # Panics
/// If `weight` or `bias` is not `[D]` or has another type than `x`.
pub fn layer_norm<const R: usize>(
    x: Tensor<R>,
    weight: Tensor<1>,
    bias: impl Into<Option<Tensor<1>>>,
    eps: f64,
) -> Tensor<R> {
    let bias = bias.into();
    check_layer_norm(&x, &weight, bias.as_ref());
    if !has_extension(&x.device()) {
        return layer_norm_reference(x, weight, bias, eps);
    }
    let bias = bias.map_or(Maybe::Absent, |bias| Maybe::Present(bias.into_dispatch()));
    let (y, _, _) = Dispatch::vitrum_layer_norm(x.into_dispatch(), weight.into_dispatch(), bias, eps, true);
    Tensor::from_dispatch(y)
}

/// Divides each row of the last axis by the root of its mean square, then scales it (RMSNorm, arXiv:1910.07467).
///
/// `x` is `[..., D]`; `weight` is `[D]`. `eps` is added to the mean square. Returns a tensor like `x`. Equals
/// [`rms_norm_reference`].
///
/// # Panics
/// If `weight` is not `[D]` or has another type than `x`.
pub fn rms_norm<const R: usize>(x: Tensor<R>, weight: Tensor<1>, eps: f64) -> Tensor<R> {
    check_layer_norm(&x, &weight, None);
    if !has_extension(&x.device()) {
        return rms_norm_reference(x, weight, eps);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let (y, _, _) = Dispatch::vitrum_layer_norm(x, weight, Maybe::Absent, eps, false);
    Tensor::from_dispatch(y)
}

/// Makes queries and keys of each head vectors of length 1 and multiplies the queries with a scale per head: what
/// attention by angles needs (arXiv:2111.09883, equation 2).
///
/// `qkv` is `[B, T, 3·A·E]`, queries of all heads, then keys, then values; `scale` is `[A]`. Values stay as they are. A
/// vector shorter than 1e-12 is divided by that instead of its length. Returns a tensor like `qkv`. Equals
/// [`unit_heads_reference`].
///
/// # Panics
/// If `qkv` does not have three times `A` heads, or a tensor has another type.
pub fn unit_heads(qkv: Tensor<3>, scale: Tensor<1>) -> Tensor<3> {
    check_unit_heads(&qkv, &scale);
    if !has_extension(&qkv.device()) {
        return unit_heads_reference(qkv, scale);
    }
    Tensor::from_dispatch(Dispatch::vitrum_unit_heads(qkv.into_dispatch(), scale.into_dispatch()))
}

/// An activation function, such as GELU. It maps each number by itself. Equals [`activate_reference`].
pub fn activate<const R: usize>(x: Tensor<R>, activation: Activation) -> Tensor<R> {
    if activation == Activation::Identity {
        return x;
    }
    if !has_extension(&x.device()) {
        return activate_reference(x, activation);
    }
    Tensor::from_dispatch(Dispatch::vitrum_activate(x.into_dispatch(), activation))
}

/// A linear layer: `x weight + bias`.
///
/// `x` is `[..., K]`, `weight` `[K, N]`, `bias` `[N]`. Returns `[..., N]`. A row of the output does not depend on the
/// other rows, to the bit. Equals [`linear_reference`].
///
/// # Panics
/// If a tensor has another shape or type.
pub fn linear<const R: usize>(
    x: Tensor<R>,
    weight: Tensor<2>,
    bias: impl Into<Option<Tensor<1>>>,
) -> Tensor<R> {
    let bias = bias.into();
    check_linear("linear", &x, &weight, bias.as_ref());
    if !has_extension(&x.device()) {
        return linear_reference(x, weight, bias);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::vitrum_linear(x, weight, maybe(bias), Maybe::Absent, Maybe::Absent))
}

/// A linear layer that ends a residual branch: `residual + gamma · (x weight + bias)`.
///
/// `x` is `[..., K]`, `weight` `[K, N]`, `bias` and `gamma` (LayerScale; 1 if absent) `[N]`, `residual` `[..., N]`.
/// Returns a tensor like `residual`. Equals [`linear_add_reference`].
///
/// # Panics
/// If a tensor has another shape or type.
pub fn linear_add<const R: usize>(
    x: Tensor<R>,
    weight: Tensor<2>,
    bias: impl Into<Option<Tensor<1>>>,
    residual: Tensor<R>,
    gamma: impl Into<Option<Tensor<1>>>,
) -> Tensor<R> {
    let (bias, gamma) = (bias.into(), gamma.into());
    check_linear("linear_add", &x, &weight, bias.as_ref());
    check_residual("linear_add", &x, weight.dims()[1], &residual, gamma.as_ref());
    if !has_extension(&x.device()) {
        return linear_add_reference(x, weight, bias, residual, gamma);
    }
    let (x, weight, residual) = (x.into_dispatch(), weight.into_dispatch(), residual.into_dispatch());
    let residual = Maybe::Present(residual);
    Tensor::from_dispatch(Dispatch::vitrum_linear(x, weight, maybe(bias), residual, maybe(gamma)))
}

/// Two linear layers with an activation between them: `activation(x fc1_weight + fc1_bias) fc2_weight + fc2_bias`.
///
/// `x` is `[..., D]`, `fc1_weight` `[D, F]`, `fc1_bias` `[F]`, `fc2_weight` `[F, N]`, `fc2_bias` `[N]`. Returns `[...,
/// N]`. If gradients are wanted, the argument of the activation, `[rows, F]`, is kept, and the backward pass recomputes
/// its value. Otherwise nothing is kept. Equals [`mlp_reference`].
///
/// # Panics
/// If a tensor has another shape or type.
pub fn mlp<const R: usize>(
    x: Tensor<R>,
    fc1_weight: Tensor<2>,
    fc1_bias: impl Into<Option<Tensor<1>>>,
    fc2_weight: Tensor<2>,
    fc2_bias: impl Into<Option<Tensor<1>>>,
    activation: Activation,
) -> Tensor<R> {
    let (fc1_bias, fc2_bias) = (fc1_bias.into(), fc2_bias.into());
    check_linear("mlp, first layer", &x, &fc1_weight, fc1_bias.as_ref());
    check_layer("mlp, second layer", fc1_weight.dims()[1], x.dtype(), &fc2_weight, fc2_bias.as_ref());
    if !has_extension(&x.device()) {
        return mlp_reference(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias, activation);
    }
    let (y, _) = Dispatch::vitrum_mlp(
        x.into_dispatch(),
        fc1_weight.into_dispatch(),
        maybe(fc1_bias),
        fc2_weight.into_dispatch(),
        maybe(fc2_bias),
        activation,
        false,
    );
    Tensor::from_dispatch(y)
}

/// Cuts images into patches without overlap and projects each patch to a token (arXiv:2010.11929, equation 1). This is
/// a convolution whose kernel and stride are both `[P, Q]` pixels.
///
/// `images` is `[B, C, H, W]`, `weight` `[D, C, P, Q]`, `bias` `[D]`. Returns `[B, N, D]`, patches row by row. Rows and
/// columns of pixels that do not fill a patch are left out. Equals [`patch_embed_reference`].
///
/// # Panics
/// If a tensor has another shape or type, or a patch has no pixels.
pub fn patch_embed(images: Tensor<4>, weight: Tensor<4>, bias: impl Into<Option<Tensor<1>>>) -> Tensor<3> {
    let bias = bias.into();
    check_patch_embed(&images, &weight, bias.as_ref());
    if !has_extension(&images.device()) {
        return patch_embed_reference(images, weight, bias);
    }
    let (images, weight) = (images.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::vitrum_patch_embed(images, weight, maybe(bias)))
}

/// A weight and its bias as tensors with the type and device of x.
fn floats<const R: usize>(
    weight: Vec<f32>,
    shape: [usize; 2],
    bias: Option<&[f32]>,
    x: &Tensor<R>,
) -> (Tensor<2>, Option<Tensor<1>>) {
    let (device, dtype) = (x.device(), x.dtype());
    let weight = Tensor::<2>::from_data(TensorData::new(weight, shape), (&device, DType::F32)).cast(dtype);
    let bias = bias.map(|bias| {
        let data = TensorData::new(bias.to_vec(), [bias.len()]);
        Tensor::<1>::from_data(data, (&device, DType::F32)).cast(dtype)
    });
    (weight, bias)
}
