//! Attention in the primitive operations of any backend.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice, TensorData};

use super::inputs::{AttentionForm, AttentionInputs, Part, Projections, Sizes};
use super::windows::Windows;
use crate::portable::{in_type, sum_to, wide};
use crate::reference::lowest;
use crate::tensors::Maybe;

/// Context `[B, Q, V]` of the rows of q that attend; and for each row of scores the maximum and the reciprocal of Σ
/// exp(score - max), `[B, A, Q]` each.
pub(crate) fn attention<B: Backend>(
    inputs: AttentionInputs<B>,
    form: AttentionForm,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    if let Some(windows) = form.windows {
        let (context, max, norm) = attention(in_windows::<B>(inputs, windows), whole(form));
        return (to_maps::<B>(context, windows), max, norm);
    }
    let call = Call::<B>::new(inputs, form);
    let Sizes { b, a, queries, .. } = call.sizes;
    let rows = || Shape::new([b, a, queries]);
    if call.sizes.keys == 0 {
        return (
            call.zeros([b, queries, a * call.sizes.ev]),
            call.zeros([b, a, queries]),
            call.zeros([b, a, queries]),
        );
    }
    let [q, k, v] = call.heads();
    let (weights, max, norm) = call.weights(q, k);
    let weights = in_type::<B>(weights, v.dtype());
    let context = merge::<B>(B::float_matmul(weights, v));
    (context, B::float_reshape(max, rows()), B::float_reshape(norm, rows()))
}

/// Gradients of the tensors that hold q, k and v, and of the bias if `want_bias` is set, from the gradient of the
/// context.
pub(crate) fn attention_backward<B: Backend>(
    inputs: AttentionInputs<B>,
    grad: FloatTensor<B>,
    form: AttentionForm,
    want_bias: bool,
) -> (Vec<FloatTensor<B>>, Option<FloatTensor<B>>) {
    if let Some(windows) = form.windows {
        let entries = match &inputs.bias {
            Maybe::Present(bias) => Some(bias.shape()[0]),
            Maybe::Absent => None,
        };
        let grad = to_windows::<B>(grad, windows);
        let inputs = in_windows::<B>(inputs, windows);
        let (gradients, d_bias) = attention_backward(inputs, grad, whole(form), want_bias);
        let gradients = gradients.into_iter().map(|gradient| to_maps::<B>(gradient, windows)).collect();
        return (gradients, d_bias.zip(entries).map(|(d_bias, n)| of_variants::<B>(d_bias, windows, n)));
    }
    let call = Call::<B>::new(inputs, form);
    if call.sizes.keys == 0 {
        return call.no_gradients(want_bias);
    }
    let scaled = |x| B::float_mul_scalar(x, form.scale.into());
    let transposed = |x| B::float_swap_dims(x, 2, 3);
    let [q, k, v] = call.heads();
    let (weights, _, _) = call.weights(q.clone(), k.clone());
    let grad = call.split(grad); // [B, A, Q, V / A]
    let dtype = grad.dtype();

    let d_v = B::float_matmul(transposed(in_type::<B>(weights.clone(), dtype)), grad.clone());
    let d_weights = B::float_matmul(wide::<B>(grad), transposed(wide::<B>(v)));
    let weighted = B::float_mul(weights.clone(), d_weights); // [B, A, Q, K]
    let mean = B::float_sum_dim(weighted.clone(), 3);
    let d_scores = in_type::<B>(B::float_sub(weighted, B::float_mul(weights, mean)), dtype);
    let d_q = scaled(B::float_matmul(d_scores.clone(), k));
    let d_k = scaled(B::float_matmul(transposed(d_scores.clone()), q));

    let d_q = call.and_the_rest(d_q, call.tensors[0].shape()[1]);
    let gradients = call.together([d_q, call.hide_keys(d_k), call.hide_keys(d_v)]);
    let d_bias =
        call.bias.as_ref().filter(|_| want_bias).map(|bias| call.sum_to_bias(d_scores, bias.shape()));
    (gradients, d_bias)
}

/// The form of attention in which each window is an image.
fn whole(form: AttentionForm) -> AttentionForm {
    AttentionForm { windows: None, ..form }
}

/// The arguments with windows as images, and with a bias for each window.
fn in_windows<B: Backend>(inputs: AttentionInputs<B>, windows: Windows) -> AttentionInputs<B> {
    let AttentionInputs { projections, bias, key_padding } = inputs;
    let tensors = projections.into_tensors().into_iter().map(|tensor| to_windows::<B>(tensor, windows));
    let bias = bias.into_option().map(|bias| match bias.shape()[0] {
        1 => bias,
        _ => {
            let variants = (0..windows.count()).map(|window| windows.variant(window)).collect();
            select::<B>(bias, 0, variants)
        }
    });
    AttentionInputs {
        projections: Projections::of(tensors.collect()),
        bias: Maybe::from_option(bias),
        key_padding,
    }
}

/// Maps `[B, H·W, D]` to windows `[B · windows, N, D]`.
fn to_windows<B: Backend>(x: FloatTensor<B>, windows: Windows) -> FloatTensor<B> {
    let [b, _, d] = [0, 1, 2].map(|axis| x.shape()[axis]);
    let x = select::<B>(x, 1, windows.order());
    B::float_reshape(x, Shape::new([b * windows.count(), windows.tokens(), d]))
}

/// The inverse of [`to_windows`].
fn to_maps<B: Backend>(x: FloatTensor<B>, windows: Windows) -> FloatTensor<B> {
    let (order, d) = (windows.order(), x.shape()[2]);
    let images = x.shape()[0] / windows.count().max(1);
    let mut places = vec![0; order.len()];
    order.iter().enumerate().for_each(|(place, &token)| places[token] = place);
    select::<B>(B::float_reshape(x, Shape::new([images, order.len(), d])), 1, places)
}

/// The gradient of a bias of `n` entries, from that of one for each window.
fn of_variants<B: Backend>(d_bias: FloatTensor<B>, windows: Windows, n: usize) -> FloatTensor<B> {
    if d_bias.shape()[0] == n && n == 1 {
        return d_bias;
    }
    let sums = (0..n).map(|variant| {
        let of_it = (0..windows.count()).filter(|&window| windows.variant(window) == variant).collect();
        B::float_sum_dim(select::<B>(d_bias.clone(), 0, of_it), 0)
    });
    B::float_cat(sums.collect(), 0)
}

fn select<B: Backend>(x: FloatTensor<B>, axis: usize, places: Vec<usize>) -> FloatTensor<B> {
    let places: Vec<i64> = places.into_iter().map(|place| place as i64).collect();
    let count = places.len();
    let places = B::int_from_data(TensorData::new(places, [count]), &x.device());
    B::float_select(x, axis, places)
}

struct Call<B: Backend> {
    tensors: Vec<FloatTensor<B>>,
    parts: [Part; 3],
    bias: Option<FloatTensor<B>>,
    /// `[B, K]`
    padding: Option<BoolTensor<B>>,
    sizes: Sizes,
    scale: f64,
}

impl<B: Backend> Call<B> {
    fn new(inputs: AttentionInputs<B>, form: AttentionForm) -> Self {
        let parts = inputs.projections.parts();
        let tensors = inputs.projections.into_tensors();
        let shapes: Vec<Shape> = tensors.iter().map(TensorMetadata::shape).collect();
        let sizes = Sizes::new(&shapes, &parts, form);
        let (bias, padding) = (inputs.bias.into_option(), inputs.key_padding.into_option());
        Self { tensors, parts, bias, padding, sizes, scale: form.scale }
    }

    fn zeros<const R: usize>(&self, shape: [usize; R]) -> FloatTensor<B> {
        zeros_like::<B>(&self.tensors[0], Shape::new(shape))
    }

    /// Gradients of a call without keys.
    fn no_gradients(self, want_bias: bool) -> (Vec<FloatTensor<B>>, Option<FloatTensor<B>>) {
        let zeros = |tensor: FloatTensor<B>| zeros_like::<B>(&tensor, tensor.shape());
        (self.tensors.into_iter().map(zeros).collect(), self.bias.filter(|_| want_bias).map(zeros))
    }

    /// q `[B, A, Q, E]`, k and v `[B, A, K, E]`, with zeros for padded keys.
    fn heads(&self) -> [FloatTensor<B>; 3] {
        let Sizes { queries, keys, .. } = self.sizes;
        let [q, k, v] = [0, 1, 2].map(|i| {
            let Part { tensor, column, width } = self.parts[i];
            let rows = if i == 0 { queries } else { keys };
            let part = [Slice::full(), Slice::from(0..rows), Slice::from(column..column + width)];
            self.split(B::float_slice(self.tensors[tensor].clone(), &part))
        });
        [q, self.hide_keys(k), self.hide_keys(v)]
    }

    /// `[B, rows, D]` to `[B, A, rows, E]`.
    fn split(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let (a, shape) = (self.sizes.a, x.shape());
        let heads = Shape::new([shape[0], shape[1], a, shape[2] / a]);
        B::float_swap_dims(B::float_reshape(x, heads), 1, 2)
    }

    /// `[B, A, K, E]` with zeros for padded keys.
    fn hide_keys(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let Some(padding) = self.padding.clone() else { return x };
        let Sizes { b, keys, .. } = self.sizes;
        let mask = B::bool_expand(B::bool_reshape(padding, Shape::new([b, 1, keys, 1])), x.shape());
        B::float_mask_fill(x, mask, 0.0.into())
    }

    /// `[B, A, Q, K]` with `-inf` for padded keys.
    fn hide_scores(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let Some(padding) = self.padding.clone() else { return x };
        let Sizes { b, keys, .. } = self.sizes;
        let mask = B::bool_expand(B::bool_reshape(padding, Shape::new([b, 1, 1, keys])), x.shape());
        B::float_mask_fill(x, mask, f64::NEG_INFINITY.into())
    }

    /// Softmax of `scale · q kᵀ + bias`, with the maximum and the reciprocal of the sum of each row, `[B, A, Q, 1]`. In
    /// `f32` for narrower types.
    fn weights(
        &self,
        q: FloatTensor<B>,
        k: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let [q, k] = [q, k].map(wide::<B>);
        let lowest = lowest(q.dtype());
        let q = B::float_mul_scalar(q, self.scale.into());
        let scores = self.add_bias(B::float_matmul(q, B::float_swap_dims(k, 2, 3)));
        let scores = self.hide_scores(scores);
        let max = B::float_clamp_min(B::float_max_dim(scores.clone(), 3), lowest.into());
        let weights = B::float_exp(B::float_sub(scores, max.clone()));
        // Sums are at least 1, except in rows of -inf, whose weights stay 0.
        let sum = B::float_clamp_min(B::float_sum_dim(weights.clone(), 3), 0.5.into());
        let norm = B::float_recip(sum);
        (B::float_mul(weights, norm.clone()), max, norm)
    }

    /// Adds to the scores `[B, A, Q, K]` the rows of the bias for the queries that attend.
    fn add_bias(&self, scores: FloatTensor<B>) -> FloatTensor<B> {
        let Some(bias) = self.bias.clone().map(wide::<B>) else { return scores };
        let rows = Slice::from(0..self.sizes.queries);
        let bias = B::float_slice(bias, &[Slice::full(), Slice::full(), rows, Slice::full()]);
        let (shape, [n, a]) = (scores.shape(), [bias.shape()[0], bias.shape()[1]]);
        if n == 1 || n == shape[0] {
            return B::float_add(scores, bias);
        }
        let scores = B::float_reshape(scores, Shape::new([shape[0] / n, n, shape[1], shape[2], shape[3]]));
        let bias = B::float_reshape(bias, Shape::new([1, n, a, shape[2], shape[3]]));
        B::float_reshape(B::float_add(scores, bias), shape)
    }

    /// The gradient of a bias of this shape, from the gradient of the scores.
    fn sum_to_bias(&self, d_scores: FloatTensor<B>, shape: Shape) -> FloatTensor<B> {
        let Sizes { b, a, keys, .. } = self.sizes;
        let [n, rows] = [shape[0], shape[2]];
        let d_scores = self.and_the_rest(d_scores, rows);
        let d_scores = B::float_reshape(d_scores, Shape::new([b / n.max(1), n, a, rows, keys]));
        B::float_reshape(sum_to::<B>(d_scores, &Shape::new([1, n, shape[1], rows, keys])), shape)
    }

    /// Appends zeros for the tokens that do not attend: `[B, A, Q, m]` to `[B, A, rows, m]`.
    fn and_the_rest(&self, x: FloatTensor<B>, rows: usize) -> FloatTensor<B> {
        let Sizes { b, a, queries, .. } = self.sizes;
        if queries == rows {
            return x;
        }
        let zeros = self.zeros([b, a, rows - queries, x.shape()[3]]);
        B::float_cat(vec![x, zeros], 2)
    }

    /// Puts q, k and v, or their gradients, back into the layout of the input tensors.
    fn together(&self, heads: [FloatTensor<B>; 3]) -> Vec<FloatTensor<B>> {
        let mut tensors = vec![Vec::new(); self.tensors.len()];
        for (part, heads) in self.parts.iter().zip(heads) {
            tensors[part.tensor].push(merge::<B>(heads));
        }
        let join =
            |mut parts: Vec<_>| if parts.len() == 1 { parts.remove(0) } else { B::float_cat(parts, 2) };
        tensors.into_iter().map(join).collect()
    }
}

/// `[B, A, rows, E]` to `[B, rows, D]`.
fn merge<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    B::float_reshape(B::float_swap_dims(x, 1, 2), Shape::new([shape[0], shape[2], shape[1] * shape[3]]))
}

fn zeros_like<B: Backend>(tensor: &FloatTensor<B>, shape: Shape) -> FloatTensor<B> {
    B::float_zeros(shape, &tensor.device(), tensor.dtype().into())
}
