//! The arguments of one call as slices and strides.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::Shape;

use super::inputs::{AttentionForm, AttentionInputs, Part, Sizes};
use super::windows::Order;
use super::{KEYS, PAD};
use crate::simd::Real;
use crate::tensors::contiguous;

/// Tensors of a call in the form that the fast path reads.
pub(crate) struct Operands {
    /// Shapes of the tensors that hold q, k and v.
    pub shapes: Vec<Shape>,
    pub parts: [Part; 3],
    /// q, k and v, each with contiguous rows.
    views: [FlexTensor; 3],
    pub bias: Option<FlexTensor>,
    padding: Option<FlexTensor>,
    order: Option<Order>,
    pub form: AttentionForm,
}

impl Operands {
    pub(crate) fn new(inputs: AttentionInputs<Flex>, form: AttentionForm) -> Self {
        let AttentionInputs { projections, bias, key_padding } = inputs;
        let parts = projections.parts();
        let tensors = projections.into_tensors();
        let view = |part: Part| contiguous_rows(tensors[part.tensor].narrow(2, part.column, part.width));
        Self {
            shapes: tensors.iter().map(TensorMetadata::shape).collect(),
            parts,
            views: parts.map(view),
            bias: bias.into_option().map(contiguous),
            padding: key_padding.into_option().map(contiguous),
            order: form.windows.map(Order::new),
            form,
        }
    }
}

/// A tensor `[B, T, D]` with contiguous rows. It is copied only if its rows are not contiguous.
fn contiguous_rows(tensor: FlexTensor) -> FlexTensor {
    let strides = tensor.layout().strides();
    let fits = (strides[2] == 1 || tensor.shape()[2] == 1) && strides.iter().all(|&stride| stride >= 0);
    if fits { tensor } else { tensor.to_contiguous() }
}

/// Rows of q, k or v.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    values: &'a [T],
    /// Steps between images and between tokens.
    image: usize,
    token: usize,
    order: Option<&'a Order>,
}

impl<'a, T: Real> Rows<'a, T> {
    /// Panics unless the rows lie in their buffer. The unsafe code below relies on this.
    fn new(view: &'a FlexTensor, order: Option<&'a Order>) -> Self {
        let (layout, shape) = (view.layout(), view.shape());
        let [image, token] = [0, 1].map(|axis| layout.strides()[axis] as usize);
        if shape.num_elements() == 0 {
            return Self { values: &[], image: 0, token: 0, order };
        }
        let values = &T::storage(view)[layout.start_offset()..];
        let end = (shape[0] - 1) * image + (shape[1] - 1) * token + shape[2];
        assert!(end <= values.len(), "rows exceed their buffer");
        Self { values, image, token, order }
    }

    /// The numbers of a token, from a column on.
    #[inline(always)]
    pub(super) fn at(&self, image: usize, token: usize, column: usize) -> &'a [T] {
        let (image, token) = match self.order {
            Some(order) => order.place(image, token),
            None => (image, token),
        };
        &self.values[image * self.image + token * self.token + column..]
    }

    /// The step between tokens; `None` if they have no common one.
    #[inline(always)]
    pub(super) fn step(&self) -> Option<usize> {
        if self.order.is_some() { None } else { Some(self.token) }
    }
}

/// Added to the scores: `[n, A or 1, rows, K]`.
struct Bias<'a, T> {
    values: &'a [T],
    n: usize,
    a: usize,
    rows: usize,
    /// For windows, which share it: `[n, A or 1, K, rows]`, with rows padded to a multiple of [`PAD`].
    by_key: Vec<T>,
}

impl<'a, T: Real> Bias<'a, T> {
    fn new(bias: &'a FlexTensor, shared: bool) -> Self {
        let (values, shape) = (T::slice(bias), bias.shape());
        let [n, a, rows, keys] = [0, 1, 2, 3].map(|axis| shape[axis]);
        let width = rows.next_multiple_of(PAD);
        let mut by_key = vec![T::ZERO; if shared { n * a * keys * width } else { 0 }];
        if shared {
            for (from, to) in values.chunks_exact(rows * keys).zip(by_key.chunks_exact_mut(keys * width)) {
                for (row, from) in from.chunks_exact(keys).enumerate() {
                    for (to, &x) in to[row..].iter_mut().step_by(width).zip(from) {
                        *to = x;
                    }
                }
            }
        }
        Self { values, n, a, rows, by_key }
    }
}

/// Shapes and values of one call.
pub(super) struct Call<'a, T> {
    pub q: Rows<'a, T>,
    pub k: Rows<'a, T>,
    pub v: Rows<'a, T>,
    bias: Option<Bias<'a, T>>,
    order: Option<&'a Order>,
    /// `[B, K]`, nonzero for a padded key.
    padding: Option<&'a [u8]>,
    pub sizes: Sizes,
    /// Columns per head of q and k, and of v, padded to whole vectors; at least one vector.
    pub e_pad: usize,
    pub ev_pad: usize,
    pub scale: T,
}

/// A tile of the scores of head `h` of image `b`: `keys` keys from `key` on, and `rows` queries from `first` on.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub b: usize,
    pub h: usize,
    pub key: usize,
    pub keys: usize,
    pub first: usize,
    pub rows: usize,
}

impl<'a, T: Real> Call<'a, T> {
    pub(super) fn new(operands: &'a Operands) -> Self {
        let Operands { shapes, parts, views: [q, k, v], bias, padding, order, form } = operands;
        let sizes = Sizes::new(shapes, parts, *form);
        let order = order.as_ref();
        let pad = |columns: usize| columns.next_multiple_of(PAD).max(PAD);
        Self {
            q: Rows::new(q, order),
            k: Rows::new(k, order),
            v: Rows::new(v, order),
            bias: bias.as_ref().map(|bias| Bias::new(bias, order.is_some())),
            order,
            padding: padding.as_ref().map(|padding| flags(padding, sizes.b * sizes.keys)),
            sizes,
            e_pad: pad(sizes.e),
            ev_pad: pad(sizes.ev),
            scale: T::from_f64(form.scale),
        }
    }

    /// Whether the output is empty or all zeros: no rows, no keys, or no columns of values.
    pub(super) fn is_empty(&self) -> bool {
        let Sizes { b, queries, keys, ev, .. } = self.sizes;
        b == 0 || queries == 0 || keys == 0 || ev == 0
    }

    /// The first two axes of the bias, and how many numbers it has per head.
    pub(super) fn bias_axes(&self) -> Option<([usize; 2], usize)> {
        self.bias.as_ref().map(|bias| ([bias.n, bias.a], bias.rows * self.sizes.keys))
    }

    /// The entry of a bias of `n` entries that image or window `b` uses.
    #[inline(always)]
    pub(super) fn bias_entry(&self, n: usize, b: usize) -> usize {
        match self.order {
            Some(order) if n > 1 => order.variants[b % order.windows],
            _ => b % n,
        }
    }

    /// The bias `[rows, K]` of a head.
    #[inline(always)]
    pub(super) fn bias(&self, b: usize, h: usize) -> Option<&'a [T]> {
        let bias = self.bias.as_ref()?;
        let index = self.bias_entry(bias.n, b) * bias.a + if bias.a == 1 { 0 } else { h };
        let size = bias.rows * self.sizes.keys;
        Some(&bias.values[index * size..][..size])
    }

    /// The bias of a head of windows, transposed, and the length of its rows.
    #[inline(always)]
    pub(super) fn bias_by_key(&self, b: usize, h: usize) -> Option<(&[T], usize)> {
        let bias = self.bias.as_ref().filter(|_| self.order.is_some())?;
        let index = self.bias_entry(bias.n, b) * bias.a + if bias.a == 1 { 0 } else { h };
        let width = bias.rows.next_multiple_of(PAD);
        let size = self.sizes.keys * width;
        Some((&bias.by_key[index * size..][..size], width))
    }

    /// Images of the context, and its tokens per image.
    pub(super) fn maps(&self) -> [usize; 2] {
        let Sizes { b, queries, .. } = self.sizes;
        match self.order {
            Some(order) => [b / order.windows.max(1), order.tokens.len()],
            None => [b, queries],
        }
    }

    /// The image and the token, in q, k and v, of a token of image or window `b`.
    #[inline(always)]
    pub(super) fn place(&self, b: usize, token: usize) -> (usize, usize) {
        match self.order {
            Some(order) => order.place(b, token),
            None => (b, token),
        }
    }

    /// The row of the context for a query of image or window `b`.
    #[inline(always)]
    pub(super) fn row(&self, b: usize, query: usize) -> usize {
        match self.order {
            Some(order) => {
                let (image, token) = order.place(b, query);
                image * order.tokens.len() + token
            }
            None => b * self.sizes.queries + query,
        }
    }

    /// Flags of `keys` keys of image `b`, from `key` on: nonzero for a padded key. `None` if no image is padded.
    #[inline(always)]
    pub(super) fn padding(&self, b: usize, key: usize, keys: usize) -> Option<&'a [u8]> {
        Some(&self.padding?[b * self.sizes.keys + key..][..keys])
    }

    /// The score tiles of `rows` queries of a head, from `first` on.
    #[inline(always)]
    pub(super) fn tiles(
        &self,
        b: usize,
        h: usize,
        first: usize,
        rows: usize,
    ) -> impl Iterator<Item = Tile> + use<T> {
        let all = self.sizes.keys;
        (0..all).step_by(KEYS).map(move |key| Tile { b, h, key, keys: KEYS.min(all - key), first, rows })
    }

    pub(super) fn multiplications(&self) -> usize {
        let Sizes { b, queries, keys, a, e, ev } = self.sizes;
        b.saturating_mul(a).saturating_mul(queries.saturating_mul(keys)).saturating_mul(e + ev)
    }
}

/// The bytes of `count` contiguous flags.
fn flags(tensor: &FlexTensor, count: usize) -> &[u8] {
    let (start, end) = tensor.layout().contiguous_offsets().expect("a contiguous mask");
    let bytes = &tensor.bytes()[start..end];
    assert_eq!(bytes.len(), count, "a flag is a byte");
    bytes
}
