//! What the operations mean, in ordinary Burn tensor operations.
//!
//! Slow and memory-hungry, but short: every other version is held against these.

use burn::tensor::{DType, Tensor};

/// Softmax attention over a packed projection: `softmax(scale · q kᵀ + bias) v`, heads side by side.
///
/// `qkv` is `[B, T, 3D]` with q, k and v in that order, each of `num_heads` heads of `D / num_heads` columns
/// (timm's layout); `bias` is `[1 or B, num_heads or 1, T, T]`. Returns `[B, T, D]`.
///
/// # Panics
/// Where [`attention`](crate::attention) does.
pub fn attention_reference(
    qkv: Tensor<3>,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    let [b, t, d3] = qkv.dims();
    let v = head_part(&qkv, num_heads, 2); // [B, A, T, E]
    let weights = attention_weights(qkv, num_heads, scale, bias); // [B, A, T, T]
    weights.matmul(v).swap_dims(1, 2).reshape([b, t, d3 / 3])
}

/// The weights of [`attention_reference`]: for each query (third axis) how much of each key (fourth) it takes.
///
/// Returns `[B, A, T, T]`; rows sum to one, except that a row whose scores are all `-inf` is zero.
///
/// # Panics
/// Where [`attention`](crate::attention) does.
pub fn attention_weights(qkv: Tensor<3>, num_heads: usize, scale: f64, bias: Option<Tensor<4>>) -> Tensor<4> {
    crate::check_attention(&qkv, num_heads, bias.as_ref());
    let q = head_part(&qkv, num_heads, 0); // [B, A, T, E]
    let k = head_part(&qkv, num_heads, 1);
    let scores = q.mul_scalar(scale).matmul(k.swap_dims(2, 3)); // [B, A, T, T]
    softmax_rows(match bias {
        Some(bias) => scores + bias,
        None => scores,
    })
}

/// Normalises each row of the last axis to mean 0 and deviation 1, then scales and shifts it (arXiv:1607.06450).
///
/// `x` is `[..., D]`, `weight` and `bias` are `[D]`; the variance is the biased one, `eps` is added to it.
///
/// # Panics
/// Where [`layer_norm`](crate::layer_norm) does.
pub fn layer_norm_reference<const R: usize>(
    x: Tensor<R>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    eps: f64,
) -> Tensor<R> {
    crate::check_layer_norm(&x, &weight, bias.as_ref());
    let mean = x.clone().mean_dim(R - 1); // [..., 1]
    let centred = x - mean;
    let variance = (centred.clone() * centred.clone()).mean_dim(R - 1);
    let y = centred / (variance + eps).sqrt() * weight.unsqueeze();
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// Heads of q (`part` 0), k (1) or v (2): `[B, A, T, E]`.
fn head_part(qkv: &Tensor<3>, num_heads: usize, part: usize) -> Tensor<4> {
    let [b, t, d3] = qkv.dims();
    let d = d3 / 3;
    qkv.clone().narrow(2, part * d, d).reshape([b, t, num_heads, d / num_heads]).swap_dims(1, 2)
}

/// Softmax over the last axis in which a row of `-inf` gives zeros instead of NaN.
fn softmax_rows(scores: Tensor<4>) -> Tensor<4> {
    let max = scores.clone().detach().max_dim(3).clamp_min(lowest(scores.dtype()));
    let weights = (scores - max).exp();
    // The maximum itself contributes 1, so this touches the sums of such rows only.
    let sum = weights.clone().sum_dim(3).clamp_min(0.5);
    weights / sum
}

/// The lowest finite number of a float type.
pub(crate) fn lowest(dtype: DType) -> f64 {
    dtype.finfo().map_or(f64::from(f32::MIN), |info| info.min)
}
