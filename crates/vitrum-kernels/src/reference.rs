//! The definitions of the operations, in ordinary Burn tensor operations.
//!
//! They are slow and use much memory, but they are short. Tests compare every other version with them.

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Bool, DType, Int, Tensor, TensorData, activation};

mod maps;

pub(crate) use maps::statistics;
pub use maps::{conv_reference, gate_reference, map_norm_reference, pool_reference, squeeze_reference};

use crate::activation::{Activation, QUICK};
use crate::attention::Windows;
use crate::check::{
    check_attention, check_cross, check_layer_norm, check_linear, check_patch_embed, check_residual,
    check_unit_heads, check_windows,
};
use crate::unit_heads::SHORTEST;

/// Softmax attention over a packed projection: `softmax(scale · q kᵀ + bias) v`, heads side by side.
///
/// `qkv` is `[B, T, 3D]` with q, k and v in that order, each with `num_heads` heads of `D / num_heads` columns (timm's
/// layout). `bias` is `[n, num_heads or 1, T, T]`; entry b of the batch uses the bias at `b % n`. Returns `[B, T, D]`.
///
/// # Panics
/// As [`attention`](crate::attention).
pub fn attention_reference(
    qkv: Tensor<3>,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    check_attention(&qkv, num_heads, bias.as_ref());
    let [q, k, v] = [0, 1, 2].map(|part| columns(&qkv, part));
    context(weights_of(q, k, num_heads, scale, bias, None), heads(v, num_heads))
}

/// The weights of [`attention_reference`]: for each query (third axis) the weight of each key (fourth axis).
///
/// Returns `[B, A, T, T]`. Rows sum to one; a row whose scores are all `-inf` is zero.
///
/// # Panics
/// As [`attention`](crate::attention).
pub fn attention_weights(qkv: Tensor<3>, num_heads: usize, scale: f64, bias: Option<Tensor<4>>) -> Tensor<4> {
    check_attention(&qkv, num_heads, bias.as_ref());
    weights_of(columns(&qkv, 0), columns(&qkv, 1), num_heads, scale, bias, None)
}

/// Softmax attention of queries to separate keys and values. `q` is `[B, Q, D]`, `k` `[B, K, D]`, `v` `[B, K, V]`,
/// `bias` `[n, num_heads or 1, Q, K]` with n dividing B, `key_padding_mask` `[B, K]`, `true` for padding. Returns `[B,
/// Q, V]`.
///
/// # Panics
/// As [`cross_attention`](crate::cross_attention).
pub fn cross_attention_reference(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
    key_padding_mask: Option<Tensor<2, Bool>>,
) -> Tensor<3> {
    check_cross([&q, &k, &v], num_heads, bias.as_ref(), key_padding_mask.as_ref());
    let ([b, queries, _], [_, keys, width]) = (q.dims(), v.dims());
    if keys == 0 {
        return Tensor::zeros([b, queries, width], (&q.device(), q.dtype()));
    }
    let v = hide_keys(heads(v, num_heads), key_padding_mask.as_ref());
    context(weights_of(q, k, num_heads, scale, bias, key_padding_mask), v)
}

/// The weights of [`cross_attention_reference`], `[B, A, Q, K]`. Rows sum to one; a row without keys is zero.
///
/// # Panics
/// As [`cross_attention`](crate::cross_attention).
pub fn cross_attention_weights(
    q: Tensor<3>,
    k: Tensor<3>,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
    key_padding_mask: Option<Tensor<2, Bool>>,
) -> Tensor<4> {
    check_cross([&q, &k, &k], num_heads, bias.as_ref(), key_padding_mask.as_ref());
    let ([b, queries, _], keys) = (q.dims(), k.dims()[1]);
    if keys == 0 {
        return Tensor::zeros([b, num_heads, queries, 0], (&q.device(), q.dtype()));
    }
    weights_of(q, k, num_heads, scale, bias, key_padding_mask)
}

/// Softmax attention within windows of maps: [`attention_reference`] of each window by itself. `qkv` is `[B, H·W, 3D]`,
/// `bias` `[1, num_heads or 1, N, N]`. Returns `[B, H·W, D]`.
///
/// # Panics
/// As [`window_attention`](crate::window_attention).
pub fn window_attention_reference(
    qkv: Tensor<3>,
    windows: Windows,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    check_windows(&qkv, windows, num_heads, bias.as_ref());
    let [b, tokens, d3] = qkv.dims();
    let device = qkv.device();
    let places = |places: Vec<usize>| {
        let places: Vec<i64> = places.into_iter().map(|place| place as i64).collect();
        let count = places.len();
        Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &device)
    };
    let order = windows.order();
    let mut back = vec![0; tokens];
    order.iter().enumerate().for_each(|(place, &token)| back[token] = place);
    let bias = match windows.is_shifted() {
        true => {
            let variants = (0..windows.count()).map(|window| windows.variant(window)).collect();
            let masks = window_masks(windows, &qkv).select(0, places(variants)); // [windows, 1, N, N]
            Some(match bias {
                Some(bias) => masks + bias,
                None => masks,
            })
        }
        false => bias,
    };
    let qkv = qkv.select(1, places(order)).reshape([b * windows.count(), windows.tokens(), d3]);
    let context = attention_reference(qkv, num_heads, scale, bias);
    context.reshape([b, tokens, d3 / 3]).select(1, places(back))
}

/// What is added to the scores of a window, for each [variant](Windows::variant): -100 between tokens whose parts of the
/// map do not touch, else 0. `[4, 1, N, N]`, of the type of `like`.
pub(crate) fn window_masks(windows: Windows, like: &Tensor<3>) -> Tensor<4> {
    let n = windows.tokens();
    let values: Vec<f64> =
        windows.apart().into_iter().map(|apart| if apart { -100.0 } else { 0.0 }).collect();
    Tensor::from_data(TensorData::new(values, [4, 1, n, n]), (&like.device(), like.dtype()))
}

/// Normalises each row of the last axis to mean 0 and deviation 1, then scales and shifts it (arXiv:1607.06450).
///
/// `x` is `[..., D]`; `weight` and `bias` are `[D]`. The variance is the biased one, and `eps` is added to it.
///
/// # Panics
/// As [`layer_norm`](crate::layer_norm).
pub fn layer_norm_reference<const R: usize>(
    x: Tensor<R>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    eps: f64,
) -> Tensor<R> {
    check_layer_norm(&x, &weight, bias.as_ref());
    let mean = x.clone().mean_dim(R - 1); // [..., 1]
    let centred = x - mean;
    let variance = (centred.clone() * centred.clone()).mean_dim(R - 1);
    let y = centred / (variance + eps).sqrt() * weight.unsqueeze();
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// Divides each row of the last axis by the root of its mean square, then scales it (arXiv:1910.07467). `eps` is added to
/// the mean square.
///
/// `x` is `[..., D]`; `weight` is `[D]`.
///
/// # Panics
/// As [`rms_norm`](crate::rms_norm).
pub fn rms_norm_reference<const R: usize>(x: Tensor<R>, weight: Tensor<1>, eps: f64) -> Tensor<R> {
    check_layer_norm(&x, &weight, None);
    let square = (x.clone() * x.clone()).mean_dim(R - 1); // [..., 1]
    x / (square + eps).sqrt() * weight.unsqueeze()
}

/// An activation function. It maps each number by itself.
pub fn activate_reference<const R: usize>(x: Tensor<R>, activation: Activation) -> Tensor<R> {
    match activation {
        Activation::Identity => x,
        Activation::Gelu => activation::gelu(x),
        Activation::GeluTanh => activation::gelu_approximate(x),
        Activation::QuickGelu => x.clone() * activation::sigmoid(x * QUICK),
        Activation::Relu => activation::relu(x),
        Activation::Silu => activation::silu(x),
    }
}

/// A linear layer: `x weight + bias`. `x` is `[..., K]`, `weight` `[K, N]`, `bias` `[N]`. Returns `[..., N]`.
///
/// # Panics
/// As [`linear`](crate::linear).
pub fn linear_reference<const R: usize>(
    x: Tensor<R>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<R> {
    check_linear("linear", &x, &weight, bias.as_ref());
    let mut shape = x.dims();
    let rows = shape[..R - 1].iter().product();
    let flat = x.reshape([rows, shape[R - 1]]);
    shape[R - 1] = weight.dims()[1];
    let y = flat.matmul(weight);
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    y.reshape(shape)
}

/// Patches and their projection, a convolution with stride `[P, Q]`. Images are `[B, C, H, W]`, `weight` is `[D, C, P,
/// Q]`, `bias` `[D]`. Returns tokens `[B, N, D]`.
///
/// # Panics
/// As [`patch_embed`](crate::patch_embed).
pub fn patch_embed_reference(images: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<3> {
    check_patch_embed(&images, &weight, bias.as_ref());
    let [d, _, p, q] = weight.dims();
    let [b, _, h, w] = images.dims();
    let (gh, gw) = (h / p, w / q);
    let images = images.narrow(2, 0, gh * p).narrow(3, 0, gw * q);
    let options = ConvOptions::new([p, q], [0, 0], [1, 1], 1);
    let tokens = conv2d(images, weight, bias, options); // [B, D, gh, gw]
    tokens.reshape([b, d, gh * gw]).swap_dims(1, 2)
}

/// A linear layer in a residual branch: `residual + gamma · (x weight + bias)`. `residual` is `[..., N]`, `gamma`
/// `[N]`.
///
/// # Panics
/// As [`linear_add`](crate::linear_add).
pub fn linear_add_reference<const R: usize>(
    x: Tensor<R>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    residual: Tensor<R>,
    gamma: Option<Tensor<1>>,
) -> Tensor<R> {
    check_residual("linear_add", &x, weight.dims()[1], &residual, gamma.as_ref());
    let y = linear_reference(x, weight, bias);
    match gamma {
        Some(gamma) => residual + y * gamma.unsqueeze(),
        None => residual + y,
    }
}

/// Two linear layers with an activation between them: `activation(x fc1_weight + fc1_bias) fc2_weight + fc2_bias`.
///
/// `x` is `[..., D]`, `fc1_weight` `[D, F]`, `fc2_weight` `[F, N]`; biases are `[F]` and `[N]`. Returns `[..., N]`.
///
/// # Panics
/// As [`mlp`](crate::mlp).
pub fn mlp_reference<const R: usize>(
    x: Tensor<R>,
    fc1_weight: Tensor<2>,
    fc1_bias: Option<Tensor<1>>,
    fc2_weight: Tensor<2>,
    fc2_bias: Option<Tensor<1>>,
    activation: Activation,
) -> Tensor<R> {
    let hidden = activate_reference(linear_reference(x, fc1_weight, fc1_bias), activation);
    linear_reference(hidden, fc2_weight, fc2_bias)
}

fn weights_of(
    q: Tensor<3>,
    k: Tensor<3>,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
    key_padding_mask: Option<Tensor<2, Bool>>,
) -> Tensor<4> {
    let q = heads(q, num_heads); // [B, A, Q, E]
    let k = hide_keys(heads(k, num_heads), key_padding_mask.as_ref()); // [B, A, K, E]
    let scores = q.mul_scalar(scale).matmul(k.swap_dims(2, 3)); // [B, A, Q, K]
    let [b, _, _, keys] = scores.dims();
    let scores = match bias {
        Some(bias) if [1, b].contains(&bias.dims()[0]) => scores + bias,
        Some(bias) => {
            let rounds = b / bias.dims()[0];
            scores + bias.repeat_dim(0, rounds) // [B, A or 1, Q, K]
        }
        None => scores,
    };
    softmax_rows(match key_padding_mask {
        Some(mask) => {
            let mask = mask.reshape([b, 1, 1, keys]).expand(scores.dims());
            scores.mask_fill(mask, f64::NEG_INFINITY)
        }
        None => scores,
    })
}

/// `[B, A, K, E]` with zeros for padded keys, so that their content changes nothing.
fn hide_keys(x: Tensor<4>, key_padding_mask: Option<&Tensor<2, Bool>>) -> Tensor<4> {
    let Some(mask) = key_padding_mask else { return x };
    let [b, keys] = mask.dims();
    let mask = mask.clone().reshape([b, 1, keys, 1]).expand(x.dims());
    x.mask_fill(mask, 0.0)
}

/// The product of weights `[B, A, Q, K]` and values `[B, A, K, E]`, as `[B, Q, V]`.
fn context(weights: Tensor<4>, v: Tensor<4>) -> Tensor<3> {
    let ([b, a, queries, _], e) = (weights.dims(), v.dims()[3]);
    weights.matmul(v).swap_dims(1, 2).reshape([b, queries, a * e])
}

/// q (`part` 0), k (1) or v (2) of a packed projection: `[B, T, D]`.
fn columns(qkv: &Tensor<3>, part: usize) -> Tensor<3> {
    let d = qkv.dims()[2] / 3;
    qkv.clone().narrow(2, part * d, d)
}

/// `[B, T, D]` split into heads: `[B, A, T, E]`.
fn heads(x: Tensor<3>, num_heads: usize) -> Tensor<4> {
    let [b, t, d] = x.dims();
    x.reshape([b, t, num_heads, d / num_heads]).swap_dims(1, 2)
}

/// Softmax over the last axis. A row of `-inf` gives zeros instead of NaN.
fn softmax_rows(scores: Tensor<4>) -> Tensor<4> {
    let dtype = scores.dtype();
    let scores = match dtype {
        DType::F16 | DType::BF16 => scores.cast(DType::F32),
        _ => scores,
    };
    let max = scores.clone().detach().max_dim(3).clamp_min(lowest(scores.dtype()));
    let weights = (scores - max).exp();
    // The maximum contributes 1 to its sum, so this changes only rows of -inf.
    let sum = weights.clone().sum_dim(3).clamp_min(0.5);
    let weights = weights / sum;
    if weights.dtype() == dtype { weights } else { weights.cast(dtype) }
}

/// The lowest finite number of a float type.
pub(crate) fn lowest(dtype: DType) -> f64 {
    dtype.finfo().map_or(f64::from(f32::MIN), |info| info.min)
}

/// Queries and keys of length 1 in plain tensor operations; see [`unit_heads`](crate::unit_heads).
///
/// # Panics
/// As [`unit_heads`](crate::unit_heads).
pub fn unit_heads_reference(qkv: Tensor<3>, scale: Tensor<1>) -> Tensor<3> {
    check_unit_heads(&qkv, &scale);
    let ([b, t, d], heads) = (qkv.dims(), scale.dims()[0]);
    let qkv: Tensor<5> = qkv.reshape([b, t, 3, heads, d / 3 / heads]);
    let unit = |index| {
        let x = qkv.clone().narrow(2, index, 1);
        // The bound is below the root: the root of 0 has no gradient.
        let length = (x.clone() * x.clone()).sum_dim(4).clamp_min(SHORTEST * SHORTEST).sqrt();
        x / length
    };
    let parts = vec![unit(0) * scale.reshape([1, 1, 1, heads, 1]), unit(1), qkv.clone().narrow(2, 2, 1)];
    Tensor::cat(parts, 2).reshape([b, t, d])
}

/// Rotary positions in plain tensor operations; see [`rotate`](crate::rotate).
pub fn rotate_reference(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, half: bool) -> Tensor<3> {
    let [b, t, width] = x.dims();
    let (inner, e) = (width / 3, cos.dims()[3]);
    let heads = 2 * inner / e;
    let turned = x.clone().narrow(2, 0, 2 * inner).reshape([b, t, heads, e]);
    let others = match half {
        true => {
            let parts = [e / 2, 0].map(|from| turned.clone().narrow(3, from, e / 2));
            Tensor::cat(parts.to_vec(), 3)
        }
        false => {
            let pairs = turned.clone().reshape([b * t, inner, 2]);
            let parts = [1, 0].map(|at| pairs.clone().narrow(2, at, 1));
            Tensor::cat(parts.to_vec(), 2).reshape([b, t, heads, e])
        }
    };
    let turned = (turned * cos + others * sin).reshape([b, t, 2 * inner]);
    Tensor::cat(vec![turned, x.narrow(2, 2 * inner, inner)], 2)
}
