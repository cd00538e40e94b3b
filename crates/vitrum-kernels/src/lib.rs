//! Fused operations for vision transformers on the CPU, with their own backward passes.
//!
//! The functions here take and return plain tensors and are safe. Each has a reference in ordinary tensor operations
//! that defines it, a portable version that runs on any backend, and a fast one for Burn's CPU backend (flex) in
//! `f32` and `f64`; all give the same numbers up to rounding.

mod activation;
mod attention;
mod bf16;
mod extension;
mod gemm;
mod int8;
mod layer_norm;
mod linear;
#[cfg(feature = "mimalloc")]
pub mod memory;
mod mlp;
pub mod optim;
mod packed;
mod patch_embed;
mod peak;
pub mod pixels;
mod portable;
mod prefetch;
mod prepared;
mod product;
mod reference;
mod simd;
mod threads;

pub use activation::Activation;
pub use attention::{
    AttentionForm, AttentionInputs, Projections, attention, attention_bf16, attention_of_first,
    attention_padded, cross_attention, cross_attention_bf16, cross_attention_kv,
};
pub use extension::{Maybe, MaybeBool, VitrumOps};
pub use int8::{
    Int8Ops, QuantizeError, QuantizedWeight, linear_add_int8, linear_int8, mlp_add_int8, mlp_int8,
    quantize_weight_rows,
};
pub use linear::LinearWants;
pub use mlp::MlpWants;
pub use packed::{
    AfterAttention, PackedOps, PackedWeight, after_attention_packed, linear_add_packed, linear_packed,
    norm_linear_packed,
};
pub use peak::peak_gflops;
pub use reference::{
    activate_reference, attention_reference, attention_weights, cross_attention_reference,
    cross_attention_weights, layer_norm_reference, linear_add_reference, linear_reference, mlp_reference,
    patch_embed_reference,
};
pub use simd::{bf16_level, int8_level, simd_level};
pub use threads::in_parts;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Device, Tensor};

/// Normalises each row of the last axis to mean 0 and deviation 1, then scales and shifts it (arXiv:1607.06450).
///
/// `x` is `[..., D]`, `weight` and `bias` are `[D]`; the variance is the biased one, `eps` is added to it.
/// Returns a tensor like `x`. Equals [`layer_norm_reference`].
///
/// # Panics
/// If `weight` or `bias` is not `[D]` or of another type than `x`.
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
    let (y, _, _) = Dispatch::vitrum_layer_norm(x.into_dispatch(), weight.into_dispatch(), bias, eps);
    Tensor::from_dispatch(y)
}

/// A function of each number by itself, such as GELU. The shape stays. Equals [`activate_reference`].
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
/// `x` is `[..., K]`, `weight` `[K, N]`, `bias` `[N]`. Returns `[..., N]`. A row of the output does not depend on which
/// other rows there are, to the bit. Equals [`linear_reference`].
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

/// Two linear layers with an activation between: `activation(x fc1_weight + fc1_bias) fc2_weight + fc2_bias`.
///
/// `x` is `[..., D]`, `fc1_weight` `[D, F]`, `fc1_bias` `[F]`, `fc2_weight` `[F, N]`, `fc2_bias` `[N]`.
/// Returns `[..., N]`. Where gradients are wanted the activation's argument, `[rows, F]`, is kept, and its value
/// computed again on the way back; else nothing is kept. Equals [`mlp_reference`].
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

/// Cuts images into patches that do not overlap and projects each to a token (arXiv:2010.11929, equation 1): the
/// convolution with a kernel of `[P, Q]` pixels and as long a stride.
///
/// `images` is `[B, C, H, W]`, `weight` `[D, C, P, Q]`, `bias` `[D]`. Returns `[B, N, D]`, patches row by row; rows and
/// columns of pixels that do not fill a patch are left out. Equals [`patch_embed_reference`].
///
/// # Panics
/// If a tensor has another shape or type, or a patch no pixels.
pub fn patch_embed(images: Tensor<4>, weight: Tensor<4>, bias: impl Into<Option<Tensor<1>>>) -> Tensor<3> {
    let bias = bias.into();
    check_patch_embed(&images, &weight, bias.as_ref());
    if !has_extension(&images.device()) {
        return patch_embed_reference(images, weight, bias);
    }
    let (images, weight) = (images.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::vitrum_patch_embed(images, weight, maybe(bias)))
}

fn maybe<const R: usize>(tensor: Option<Tensor<R>>) -> Maybe<Dispatch> {
    tensor.map_or(Maybe::Absent, |tensor| Maybe::Present(tensor.into_dispatch()))
}

/// Whether tensors of this device and type take a fast path.
pub fn has_fast_path(device: &Device, dtype: DType) -> bool {
    let flex = matches!(device.as_dispatch().clone().inner(), DispatchDevice::Flex(_));
    flex && matches!(dtype, DType::F32 | DType::F64)
}

/// Whether [`VitrumOps`] is spread over this device's backend.
fn has_extension(device: &Device) -> bool {
    match device.as_dispatch().clone().inner() {
        DispatchDevice::Flex(_) => true,
        #[cfg(any(feature = "vulkan", feature = "webgpu"))]
        DispatchDevice::Cube(_) => true,
        #[allow(unreachable_patterns)] // Burn may have been built with further backends.
        _ => false,
    }
}

/// Panics with what is wrong if these are no arguments for layer normalisation.
fn check_layer_norm<const R: usize>(x: &Tensor<R>, weight: &Tensor<1>, bias: Option<&Tensor<1>>) {
    let d = x.dims()[R - 1];
    for (name, tensor) in [("weight", Some(weight)), ("bias", bias)] {
        let Some(tensor) = tensor else { continue };
        assert_eq!(tensor.dims(), [d], "layer_norm: the {name} must have the {d} entries of x's last axis");
        assert_eq!(tensor.dtype(), x.dtype(), "layer_norm: {name} and x differ in type");
    }
}

/// Panics with what is wrong if these are no arguments for a linear layer.
fn check_linear<const R: usize>(name: &str, x: &Tensor<R>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) {
    check_layer(name, x.dims()[R - 1], x.dtype(), weight, bias);
}

/// The same for an input of `k` columns.
fn check_layer(name: &str, k: usize, dtype: DType, weight: &Tensor<2>, bias: Option<&Tensor<1>>) {
    let [rows, n] = weight.dims();
    assert_eq!(rows, k, "{name}: the weight must have a row for each of the {k} columns of its input");
    assert_eq!(weight.dtype(), dtype, "{name}: weight and input differ in type");
    if let Some(bias) = bias {
        check_vector(name, "bias", bias, n, dtype);
    }
}

/// Panics with what is wrong if these are no arguments for a projection of patches.
fn check_patch_embed(images: &Tensor<4>, weight: &Tensor<4>, bias: Option<&Tensor<1>>) {
    let [d, c, p, q] = weight.dims();
    assert!(p > 0 && q > 0, "patch_embed: a patch of {p} by {q} pixels");
    assert_eq!(images.dims()[1], c, "patch_embed: images must have the {c} channels of the weight");
    assert_eq!(weight.dtype(), images.dtype(), "patch_embed: weight and images differ in type");
    if let Some(bias) = bias {
        check_vector("patch_embed", "bias", bias, d, images.dtype());
    }
}

/// Panics with what is wrong if these are no arguments for a residual branch.
fn check_residual<const R: usize>(
    name: &str,
    x: &Tensor<R>,
    n: usize,
    residual: &Tensor<R>,
    gamma: Option<&Tensor<1>>,
) {
    let mut shape = x.dims();
    shape[R - 1] = n;
    assert_eq!(residual.dims(), shape, "{name}: the residual must be like the layer's output");
    assert_eq!(residual.dtype(), x.dtype(), "{name}: residual and x differ in type");
    if let Some(gamma) = gamma {
        check_vector(name, "gamma", gamma, n, x.dtype());
    }
}

fn check_vector(name: &str, what: &str, vector: &Tensor<1>, n: usize, dtype: DType) {
    assert_eq!(vector.dims(), [n], "{name}: the {what} must have the {n} entries of the layer's output");
    assert_eq!(vector.dtype(), dtype, "{name}: {what} and x differ in type");
}
