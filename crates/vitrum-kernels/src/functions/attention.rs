//! Attention on tensors.

use burn::backend::Dispatch;
use burn::tensor::{Bool, DType, Tensor};

use crate::attention::{AttentionForm, AttentionInputs, Projections, Windows};
use crate::check::{check_attention, check_cross, check_first, check_mask, check_windows};
use crate::device::{has_extension, is_fast, narrows};
use crate::extension::{PackedOps, VitrumOps};
use crate::reference::{
    attention_reference, cross_attention_reference, window_attention_reference, window_masks,
};
use crate::tensors::{Maybe, MaybeBool, maybe};

/// Softmax attention over a packed projection: `softmax(scale · q kᵀ + bias) v`, heads side by side.
///
/// `qkv` is `[B, T, 3D]` with q, k and v in that order, each with `num_heads` heads of `D / num_heads` columns (timm's
/// layout). `bias`, `[n, num_heads or 1, T, T]`, is added to the scores and receives a gradient. It can hold relative
/// positions, or a mask of 0 and `-inf`. n divides B, and entry b of the batch uses the bias at `b % n`: one for all,
/// one for each, or one for each window of an image (B = images · windows, windows fastest). A row whose scores are all
/// `-inf` gives zeros. Returns `[B, T, D]`. Equals [`attention_reference`].
///
/// # Panics
/// If `num_heads` is 0 or does not divide D, the last axis is not a multiple of three, or `bias` has another shape or
/// type.
pub fn attention(qkv: Tensor<3>, num_heads: usize, scale: f64, bias: Option<Tensor<4>>) -> Tensor<3> {
    let tokens = qkv.dims()[1];
    attention_of_first(qkv, tokens, num_heads, scale, bias)
}

/// [`attention`] in which only the first `queries` tokens attend; keys and values are all tokens. For a last block
/// whose head reads only the class token.
///
/// Returns `[B, queries, D]`, the first rows of the result of [`attention`].
///
/// # Panics
/// As [`attention`], or if `queries` is more than T.
pub fn attention_of_first(
    qkv: Tensor<3>,
    queries: usize,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    check_first(&qkv, queries, num_heads, bias.as_ref());
    if !has_extension(&qkv.device()) {
        return attention_reference(qkv, num_heads, scale, bias).narrow(1, 0, queries);
    }
    let projections = Projections::Packed(qkv.into_dispatch());
    run(inputs(projections, bias, None), AttentionForm { queries, num_heads, scale, windows: None })
}

/// [`attention`] with padded tokens: `key_padding_mask` is `[B, T]`, `true` for padding (as torch's
/// `key_padding_mask`).
///
/// The key and value of a padded token change nothing, even if they are NaN, and receive zero gradients. Its query
/// attends like any other. Batch entries without any token give zeros.
///
/// # Panics
/// As [`attention`], or if the mask has another shape.
pub fn attention_padded(
    qkv: Tensor<3>,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
    key_padding_mask: Tensor<2, Bool>,
) -> Tensor<3> {
    check_attention(&qkv, num_heads, bias.as_ref());
    let [b, t, d3] = qkv.dims();
    check_mask(Some(&key_padding_mask), [b, t]);
    if !has_extension(&qkv.device()) {
        let [q, k, v] = [0, 1, 2].map(|part| qkv.clone().narrow(2, part * d3 / 3, d3 / 3));
        return cross_attention_reference(q, k, v, num_heads, scale, bias, Some(key_padding_mask));
    }
    let projections = Projections::Packed(qkv.into_dispatch());
    let inputs = inputs(projections, bias, Some(key_padding_mask));
    run(inputs, AttentionForm { queries: t, num_heads, scale, windows: None })
}

/// Softmax attention of queries to separate keys and values: `softmax(scale · q kᵀ + bias) v`, heads side by side.
///
/// `q` is `[B, Q, D]`, `k` `[B, K, D]`, `v` `[B, K, V]`. D and V may differ; each is divided among `num_heads` heads.
/// Views with contiguous rows, such as columns of a larger projection, are not copied. `bias`, `[n, num_heads or 1, Q,
/// K]`, is added to the scores as in [`attention`]. `key_padding_mask` is `[B, K]`, `true` for padding, as in
/// [`attention_padded`]. A query without keys gets zeros. Returns `[B, Q, V]`. Equals [`cross_attention_reference`].
///
/// # Panics
/// If `num_heads` is 0 or does not divide D and V, or a tensor has another shape or type.
pub fn cross_attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
    key_padding_mask: Option<Tensor<2, Bool>>,
) -> Tensor<3> {
    check_cross([&q, &k, &v], num_heads, bias.as_ref(), key_padding_mask.as_ref());
    if !has_extension(&q.device()) {
        return cross_attention_reference(q, k, v, num_heads, scale, bias, key_padding_mask);
    }
    let form = AttentionForm { queries: q.dims()[1], num_heads, scale, windows: None };
    let projections = Projections::Apart(q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    run(inputs(projections, bias, key_padding_mask), form)
}

/// [`cross_attention`] with keys and values side by side: `kv` is `[B, K, D + V]`, k before v, the output of one
/// projection. It receives one gradient.
///
/// # Panics
/// As [`cross_attention`], or if `kv` has fewer columns than `q`.
pub fn cross_attention_kv(
    q: Tensor<3>,
    kv: Tensor<3>,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
    key_padding_mask: Option<Tensor<2, Bool>>,
) -> Tensor<3> {
    let [k, v] = halves(&q, &kv);
    check_cross([&q, &k, &v], num_heads, bias.as_ref(), key_padding_mask.as_ref());
    if !has_extension(&q.device()) {
        return cross_attention_reference(q, k, v, num_heads, scale, bias, key_padding_mask);
    }
    let form = AttentionForm { queries: q.dims()[1], num_heads, scale, windows: None };
    let projections = Projections::KeyValue(q.into_dispatch(), kv.into_dispatch());
    run(inputs(projections, bias, key_padding_mask), form)
}

/// Softmax attention within windows of maps (Swin, arXiv:2103.14030).
///
/// `qkv` is `[B, H·W, 3D]` as in [`attention`], the tokens of a map row by row. Each token attends to those of its window.
/// `bias` is `[1, num_heads or 1, N, N]`, for the N tokens of a window, row by row. The last windows of a shifted map hold
/// parts that do not touch; -100 is added to scores between them, as in the official code. Returns `[B, H·W, D]`, each
/// token where it was. Equals [`window_attention_reference`].
///
/// # Panics
/// As [`attention`], or if the window does not divide the grid, or the grid does not fit the tokens.
pub fn window_attention(
    qkv: Tensor<3>,
    windows: Windows,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    check_windows(&qkv, windows, num_heads, bias.as_ref());
    if !has_extension(&qkv.device()) {
        return window_attention_reference(qkv, windows, num_heads, scale, bias);
    }
    let bias = masked(&qkv, windows, bias);
    let form = AttentionForm { queries: windows.tokens(), num_heads, scale, windows: Some(windows) };
    run(inputs(Projections::Packed(qkv.into_dispatch()), bias, None), form)
}

/// The bias with the masks of the four [variants](Windows::variant) of a shifted window.
fn masked(qkv: &Tensor<3>, windows: Windows, bias: Option<Tensor<4>>) -> Option<Tensor<4>> {
    if !windows.is_shifted() {
        return bias;
    }
    let mask = window_masks(windows, qkv);
    Some(match bias {
        Some(bias) => mask + bias,
        None => mask,
    })
}

/// [`attention_of_first`] with products in bf16, for inference. Scaled queries, keys, softmax weights and values are
/// rounded to bf16. Sums, scores and softmax stay in `f32`: scores and the divisor of a row are not rounded. The result
/// for an image does not depend on the other images, to the bit.
///
/// The fast path is for `f32` on the CPU without gradients. A device that multiplies in bf16 itself ([`narrows`]) also
/// rounds the result. Elsewhere only q, k and v are rounded.
///
/// # Panics
/// As [`attention_of_first`].
pub fn attention_bf16(
    qkv: Tensor<3>,
    queries: usize,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    check_first(&qkv, queries, num_heads, bias.as_ref());
    let form = AttentionForm { queries, num_heads, scale, windows: None };
    if narrows(&qkv.device()) {
        let dtype = qkv.dtype();
        let qkv = Projections::Packed(qkv.cast(DType::BF16).into_dispatch());
        return run(inputs(qkv, bias, None), form).cast(dtype);
    }
    if !is_fast(&qkv) || bias.as_ref().is_some_and(|bias| !is_fast(bias)) {
        return attention_of_first(rounded(qkv), queries, num_heads, scale, bias);
    }
    let inputs = inputs(Projections::Packed(qkv.into_dispatch()), bias, None);
    Tensor::from_dispatch(Dispatch::vitrum_attention_bf16(inputs, form))
}

/// [`cross_attention`] with products in bf16, as [`attention_bf16`].
///
/// # Panics
/// As [`cross_attention`].
pub fn cross_attention_bf16(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
    key_padding_mask: Option<Tensor<2, Bool>>,
) -> Tensor<3> {
    check_cross([&q, &k, &v], num_heads, bias.as_ref(), key_padding_mask.as_ref());
    let form = AttentionForm { queries: q.dims()[1], num_heads, scale, windows: None };
    if narrows(&q.device()) {
        let dtype = q.dtype();
        let [q, k, v] = [q, k, v].map(|x| x.cast(DType::BF16).into_dispatch());
        return run(inputs(Projections::Apart(q, k, v), bias, key_padding_mask), form).cast(dtype);
    }
    if ![&q, &k, &v].into_iter().all(is_fast) || bias.as_ref().is_some_and(|bias| !is_fast(bias)) {
        let [q, k, v] = [q, k, v].map(rounded);
        return cross_attention(q, k, v, num_heads, scale, bias, key_padding_mask);
    }
    let projections = Projections::Apart(q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    let inputs = inputs(projections, bias, key_padding_mask);
    Tensor::from_dispatch(Dispatch::vitrum_attention_bf16(inputs, form))
}

fn inputs(
    projections: Projections<Dispatch>,
    bias: Option<Tensor<4>>,
    mask: Option<Tensor<2, Bool>>,
) -> AttentionInputs<Dispatch> {
    let bias: Maybe<Dispatch> = maybe(bias);
    AttentionInputs {
        projections,
        bias,
        key_padding: MaybeBool::from_option(mask.map(Tensor::into_dispatch)),
    }
}

fn run(inputs: AttentionInputs<Dispatch>, form: AttentionForm) -> Tensor<3> {
    let (context, _, _) = Dispatch::vitrum_attention(inputs, form);
    Tensor::from_dispatch(context)
}

/// The numbers rounded to bf16, in their original type.
fn rounded(x: Tensor<3>) -> Tensor<3> {
    let dtype = x.dtype();
    x.cast(DType::BF16).cast(dtype)
}

/// k and v of a projection `[B, K, D + V]`.
fn halves(q: &Tensor<3>, kv: &Tensor<3>) -> [Tensor<3>; 2] {
    let (d, all) = (q.dims()[2], kv.dims()[2]);
    assert!(d <= all, "attention: kv of shape {:?} has no keys for q of shape {:?}", kv.dims(), q.dims());
    [kv.clone().narrow(2, 0, d), kv.clone().narrow(2, d, all - d)]
}
