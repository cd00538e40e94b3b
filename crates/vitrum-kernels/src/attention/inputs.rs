//! The arguments of attention: queries, keys and values as projections leave them, a bias, and a mask.

use burn::backend::{Backend, ExtensionType, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, Shape};

use super::windows::Windows;
use crate::tensors::{Maybe, MaybeBool};

/// Queries, keys and values, with heads side by side. D is the width of queries and keys over all heads, V that of
/// values.
#[derive(ExtensionType)]
pub enum Projections<B: Backend> {
    /// q, k and v of the same tokens, `[B, T, 3D]`, in this order.
    Packed(FloatTensor<B>),
    /// Queries `[B, Q, D]`, and keys and values of other tokens, `[B, K, D + V]`, keys first.
    KeyValue(FloatTensor<B>, FloatTensor<B>),
    /// Queries `[B, Q, D]`, keys `[B, K, D]`, values `[B, K, V]`.
    Apart(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

/// Where q, k or v is stored: the tensor, its first column, and its number of columns.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub tensor: usize,
    pub column: usize,
    pub width: usize,
}

impl<B: Backend> Projections<B> {
    /// From one tensor (packed), two (queries; keys with values) or three.
    pub(crate) fn of(tensors: Vec<FloatTensor<B>>) -> Self {
        let mut tensors = tensors.into_iter();
        match (tensors.next(), tensors.next(), tensors.next()) {
            (Some(qkv), None, None) => Projections::Packed(qkv),
            (Some(q), Some(kv), None) => Projections::KeyValue(q, kv),
            (Some(q), Some(k), Some(v)) => Projections::Apart(q, k, v),
            _ => unreachable!("projections have one to three tensors"),
        }
    }

    /// The tensors in order.
    pub(crate) fn into_tensors(self) -> Vec<FloatTensor<B>> {
        match self {
            Projections::Packed(qkv) => vec![qkv],
            Projections::KeyValue(q, kv) => vec![q, kv],
            Projections::Apart(q, k, v) => vec![q, k, v],
        }
    }

    /// The tensor with the queries.
    fn first(&self) -> &FloatTensor<B> {
        match self {
            Projections::Packed(q) | Projections::KeyValue(q, _) | Projections::Apart(q, _, _) => q,
        }
    }

    /// Where q, k and v are stored.
    pub(crate) fn parts(&self) -> [Part; 3] {
        let width = |tensor: &FloatTensor<B>| tensor.shape()[2];
        let d = width(self.first());
        let part = |tensor, column, width| Part { tensor, column, width };
        match self {
            Projections::Packed(_) => [0, 1, 2].map(|i| part(0, i * (d / 3), d / 3)),
            Projections::KeyValue(_, kv) => [part(0, 0, d), part(1, 0, d), part(1, d, width(kv) - d)],
            Projections::Apart(_, k, v) => [part(0, 0, d), part(1, 0, width(k)), part(2, 0, width(v))],
        }
    }
}

/// The arguments of [`VitrumOps::vitrum_attention`](crate::extension::VitrumOps::vitrum_attention).
#[derive(ExtensionType)]
pub struct AttentionInputs<B: Backend> {
    /// Queries, keys and values.
    #[extension_type]
    pub projections: Projections<B>,
    /// Added to the scores, `[n, A or 1, rows of q, K]`. n divides B, and image b uses entry `b % n`.
    #[extension_type]
    pub bias: Maybe<B>,
    /// `[B, K]`, `true` for a padded key.
    #[extension_type]
    pub key_padding: MaybeBool<B>,
}

impl<B: Backend> AttentionInputs<B> {
    pub(crate) fn dtype(&self) -> DType {
        self.projections.first().dtype()
    }
}

/// Scalar arguments of a call.
#[derive(Clone, Copy, Debug)]
pub struct AttentionForm {
    /// The first `queries` rows of q attend; with windows, all tokens of a window.
    pub queries: usize,
    /// Number of heads, A.
    pub num_heads: usize,
    /// Factor of the products of queries and keys.
    pub scale: f64,
    /// Attention within windows of maps. Projections are then packed, without padding, and the context has their
    /// order. The first axis of the bias is 1, or 4 for the [variants](Windows::variant) of a window.
    pub windows: Option<Windows>,
}

/// Sizes of a call.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub b: usize,
    /// The first `queries` rows of q attend.
    pub queries: usize,
    pub keys: usize,
    pub a: usize,
    /// Columns per head of q and k, and of v.
    pub e: usize,
    pub ev: usize,
}

impl Sizes {
    /// From the shapes of the tensors that hold q, k and v. Windows count as images.
    pub(crate) fn new(shapes: &[Shape], parts: &[Part; 3], form: AttentionForm) -> Self {
        let (a, [q, k, v]) = (form.num_heads, parts);
        let (windows, keys) = match form.windows {
            Some(windows) => (windows.count(), windows.tokens()),
            None => (1, shapes[k.tensor][1]),
        };
        let b = shapes[0][0] * windows;
        Self { b, queries: form.queries, keys, a, e: q.width / a, ev: v.width / a }
    }
}
