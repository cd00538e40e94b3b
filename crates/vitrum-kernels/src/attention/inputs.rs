//! What attention is given: queries, keys and values in the tensors that projections leave them in, a bias, a mask.

use burn::backend::{Backend, ExtensionType, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, Shape};

use crate::tensors::{Maybe, MaybeBool};

/// Queries, keys and values, the heads of each side by side. D are the columns of all heads of queries and keys, V those
/// of values.
#[derive(ExtensionType)]
pub enum Projections<B: Backend> {
    /// All of the same tokens, `[B, T, 3D]`: q, then k, then v.
    Packed(FloatTensor<B>),
    /// Queries `[B, Q, D]`; keys and values of others, `[B, K, D + V]`: k, then v.
    KeyValue(FloatTensor<B>, FloatTensor<B>),
    /// Queries `[B, Q, D]`, keys `[B, K, D]`, values `[B, K, V]`.
    Apart(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

/// Where q, k or v stands: in which of the tensors, from which column on, and how many columns it has.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub tensor: usize,
    pub column: usize,
    pub width: usize,
}

impl<B: Backend> Projections<B> {
    /// From one tensor (packed), two (queries, keys with values) or three.
    pub(crate) fn of(tensors: Vec<FloatTensor<B>>) -> Self {
        let mut tensors = tensors.into_iter();
        match (tensors.next(), tensors.next(), tensors.next()) {
            (Some(qkv), None, None) => Projections::Packed(qkv),
            (Some(q), Some(kv), None) => Projections::KeyValue(q, kv),
            (Some(q), Some(k), Some(v)) => Projections::Apart(q, k, v),
            _ => unreachable!("projections are in one tensor at least"),
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

    /// The tensor that queries are in.
    fn first(&self) -> &FloatTensor<B> {
        match self {
            Projections::Packed(q) | Projections::KeyValue(q, _) | Projections::Apart(q, _, _) => q,
        }
    }

    /// Where q, k and v stand.
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

/// What [`VitrumOps::vitrum_attention`](crate::VitrumOps::vitrum_attention) is given.
#[derive(ExtensionType)]
pub struct AttentionInputs<B: Backend> {
    /// Queries, keys and values.
    #[extension_type]
    pub projections: Projections<B>,
    /// Added to the scores, `[n, A or 1, rows of q, K]` with n dividing B: image b takes the one at `b % n`.
    #[extension_type]
    pub bias: Maybe<B>,
    /// `[B, K]`, `true` where there is no key.
    #[extension_type]
    pub key_padding: MaybeBool<B>,
}

impl<B: Backend> AttentionInputs<B> {
    pub(crate) fn dtype(&self) -> DType {
        self.projections.first().dtype()
    }
}

/// Plain numbers of a call.
#[derive(Clone, Copy, Debug)]
pub struct AttentionForm {
    /// How many rows of q ask, from the first on.
    pub queries: usize,
    /// A.
    pub num_heads: usize,
    /// What the products of queries and keys are multiplied with.
    pub scale: f64,
}

/// Sizes of a call.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub b: usize,
    /// How many rows of q ask, from the first on.
    pub queries: usize,
    pub keys: usize,
    pub a: usize,
    /// Columns of a head of q and k, and of one of v.
    pub e: usize,
    pub ev: usize,
}

impl Sizes {
    /// From the shapes of the tensors that hold q, k and v.
    pub(crate) fn new(shapes: &[Shape], parts: &[Part; 3], form: AttentionForm) -> Self {
        let (a, [q, k, v]) = (form.num_heads, parts);
        let keys = shapes[k.tensor][1];
        Self { b: shapes[0][0], queries: form.queries, keys, a, e: q.width / a, ev: v.width / a }
    }
}
