//! The backward pass, head by head: it recomputes the weights from the row maxima and sums.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

use super::call::{Call, Operands, Tile};
use super::inputs::Sizes;
use super::tile::{add_to_bias, fill_padding, pack_rows, score_tile, transpose};
use super::{KEYS, QUERIES};
use crate::product::Product;
use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, sum_parts};

/// Parts in which the gradient of a shared bias is summed. It limits both the parallel tasks and the copies in memory.
const BIAS_PARTS: usize = 4;

/// What the forward pass returned, and the gradient of the context. All tensors are contiguous.
pub(crate) struct Saved {
    pub context: FlexTensor,
    pub max: FlexTensor,
    pub norm: FlexTensor,
    pub grad: FlexTensor,
}

/// Gradients of the tensors that hold q, k and v, and of the bias if `want_bias` is set.
pub(crate) fn backward<T: Real>(
    operands: &Operands,
    saved: &Saved,
    want_bias: bool,
) -> (Vec<FlexTensor>, Option<FlexTensor>) {
    let call = Call::<T>::new(operands);
    let sizes = operands.shapes.iter().map(|shape| shape.num_elements());
    let mut gradients: Vec<Vec<T>> = sizes.map(|size| vec![T::ZERO; size]).collect();
    let plan = Plan::new(&call, want_bias);
    let mut d_bias = vec![T::ZERO; plan.parts * plan.bias_size()];
    if !call.is_empty() {
        let destinations = Destinations::new(operands, &mut gradients);
        let numbers = Numbers::new(saved);
        let shared = Shared::new(&mut d_bias);
        let work = |scratch: &mut BackwardScratch<T>, task: usize| {
            let (slot, part) = (task / plan.parts, task % plan.parts);
            let start = part * plan.bias_size() + slot * plan.slot_size;
            // SAFETY: no other task uses this part of the slot.
            let mut d_bias = (plan.slot_size > 0).then(|| unsafe { shared.part(start, plan.slot_size) });
            for (b, h) in plan.heads(task) {
                let (call, numbers, destinations) = (&call, &numbers, &destinations);
                let d_bias = d_bias.as_deref_mut();
                simd::run(BackwardHead { call, numbers, destinations, b, h, scratch, d_bias });
            }
        };
        let cost = call.multiplications().saturating_mul(3);
        for_each_block(plan.slots * plan.parts, cost, || BackwardScratch::new(&call), work);
        sum_parts(&mut d_bias, plan.bias_size());
    }
    let d_bias = operands.bias.as_ref().filter(|_| want_bias).map(|bias| {
        d_bias.truncate(plan.bias_size());
        T::tensor(d_bias, bias.shape())
    });
    let shapes = operands.shapes.iter().cloned();
    (gradients.into_iter().zip(shapes).map(|(numbers, shape)| T::tensor(numbers, shape)).collect(), d_bias)
}

/// The heads of each task: those that share a slot of the bias, in parts.
struct Plan {
    a: usize,
    /// Heads of an image that have a slot of their own. Without a gradient of the bias, each has.
    slots_a: usize,
    slots: usize,
    /// Images that share a slot, in order of the slots; and where those of each slot begin.
    images: Vec<usize>,
    starts: Vec<usize>,
    /// The parts that the heads of a slot are divided into.
    parts: usize,
    /// Numbers per slot of the gradient of the bias; 0 if that gradient is not wanted.
    slot_size: usize,
}

impl Plan {
    fn new<T: Real>(call: &Call<T>, want_bias: bool) -> Self {
        let Sizes { b, a, .. } = call.sizes;
        let axes = call.bias_axes().filter(|_| want_bias);
        let ([slots_b, slots_a], slot_size) = axes.unwrap_or(([b, a], 0));
        let entry = |image| if axes.is_some() { call.bias_entry(slots_b, image) } else { image };
        let mut images: Vec<usize> = (0..b).collect();
        images.sort_by_key(|&image| entry(image));
        let begin = |slot| images.partition_point(|&image| entry(image) < slot);
        let starts: Vec<usize> = (0..=slots_b).map(begin).collect();
        let sharing =
            starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) * (a / slots_a.max(1));
        let (slots, parts) = (slots_b * slots_a, sharing.clamp(1, BIAS_PARTS));
        Self { a, slots_a, slots, images, starts, parts, slot_size }
    }

    /// Length of the gradient of the bias.
    fn bias_size(&self) -> usize {
        self.slots * self.slot_size
    }

    /// Images and heads of a task.
    fn heads(&self, task: usize) -> impl Iterator<Item = (usize, usize)> + use<'_> {
        let (slot, part) = (task / self.parts, task % self.parts);
        let (slot_b, slot_a) = (slot / self.slots_a, slot % self.slots_a);
        let (first, heads_per_slot) = (self.starts[slot_b], self.a / self.slots_a);
        let sharing = (self.starts[slot_b + 1] - first) * heads_per_slot;
        let range = part * sharing / self.parts..(part + 1) * sharing / self.parts;
        range.map(move |member| {
            let (image, head) = (member / heads_per_slot, member % heads_per_slot);
            (self.images[first + image], if heads_per_slot == 1 { slot_a } else { head })
        })
    }
}

/// The values of [`Saved`].
struct Numbers<'a, T> {
    context: &'a [T],
    max: &'a [T],
    norm: &'a [T],
    grad: &'a [T],
}

impl<'a, T: Real> Numbers<'a, T> {
    fn new(saved: &'a Saved) -> Self {
        let Saved { context, max, norm, grad } = saved;
        Self { context: T::slice(context), max: T::slice(max), norm: T::slice(norm), grad: T::slice(grad) }
    }
}

/// Where the gradients of q, k and v are written.
struct Destinations<T>([Destination<T>; 3]);

#[derive(Clone, Copy)]
struct Destination<T> {
    to: Shared<T>,
    /// Steps between images and between tokens.
    image: usize,
    token: usize,
}

impl<T: Real> Destinations<T> {
    fn new(operands: &Operands, gradients: &mut [Vec<T>]) -> Self {
        let buffers: Vec<Shared<T>> = gradients.iter_mut().map(|numbers| Shared::new(numbers)).collect();
        Self(operands.parts.map(|part| {
            let shape = &operands.shapes[part.tensor];
            let to = buffers[part.tensor].offset(part.column);
            Destination { to, image: shape[1] * shape[2], token: shape[2] }
        }))
    }
}

struct BackwardScratch<T> {
    /// `scale · q` of a block, as `[E, QUERIES]` and as `[QUERIES, E]`. The gradient of the context has the same two
    /// forms.
    queries: Vec<T>,
    query_rows: Vec<T>,
    grads: Vec<T>,
    grad_rows: Vec<T>,
    /// Keys and values of the head, `[K, E]` and `[K, V / A]`.
    keys: Vec<T>,
    values: Vec<T>,
    /// Weights of a tile and the gradient of its scores, `[KEYS, QUERIES]`.
    weights: Vec<T>,
    d_scores: Vec<T>,
    /// `[QUERIES, E]`, `[K, E]`, `[K, V / A]`.
    d_query: Vec<T>,
    d_key: Vec<T>,
    d_value: Vec<T>,
    max: Vec<T>,
    norm: Vec<T>,
    /// Σ context · gradient over the columns of each query.
    delta: Vec<T>,
}

impl<T: Real> BackwardScratch<T> {
    fn new(call: &Call<T>) -> Self {
        let zeros = |n| vec![T::ZERO; n];
        let (keys, e_pad, ev_pad) = (call.sizes.keys, call.e_pad, call.ev_pad);
        Self {
            queries: zeros(e_pad * QUERIES),
            query_rows: zeros(e_pad * QUERIES),
            grads: zeros(ev_pad * QUERIES),
            grad_rows: zeros(ev_pad * QUERIES),
            keys: zeros(keys * e_pad),
            values: zeros(keys * ev_pad),
            weights: zeros(KEYS * QUERIES),
            d_scores: zeros(KEYS * QUERIES),
            d_query: zeros(e_pad * QUERIES),
            d_key: zeros(keys * e_pad),
            d_value: zeros(keys * ev_pad),
            max: zeros(QUERIES),
            norm: zeros(QUERIES),
            delta: zeros(QUERIES),
        }
    }
}

/// Head `h` of image `b`.
struct BackwardHead<'a, T> {
    call: &'a Call<'a, T>,
    numbers: &'a Numbers<'a, T>,
    destinations: &'a Destinations<T>,
    b: usize,
    h: usize,
    scratch: &'a mut BackwardScratch<T>,
    /// Gradient of the bias, `[rows, K]`; the head adds to it.
    d_bias: Option<&'a mut [T]>,
}

impl<T: Real> Kernel for BackwardHead<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let (call, b, h) = (self.call, self.b, self.h);
        let Sizes { queries, keys, e, ev, .. } = call.sizes;
        let (e_pad, ev_pad) = (call.e_pad, call.ev_pad);
        let padding = call.padding(b, 0, keys);
        let (key, value) = (|row: usize| call.k.at(b, row, h * e), |row: usize| call.v.at(b, row, h * ev));
        // SAFETY: the processor has the instructions; `e_pad` and `ev_pad` are multiples of the longest vector.
        unsafe {
            pack_rows::<T::In<S>>(key, keys, e, e_pad, T::ONE, &mut self.scratch.keys);
            pack_rows::<T::In<S>>(value, keys, ev, ev_pad, T::ONE, &mut self.scratch.values);
        }
        fill_padding(padding, &mut self.scratch.keys, e_pad, T::ZERO);
        self.scratch.d_key.fill(T::ZERO);
        self.scratch.d_value.fill(T::ZERO);
        let [d_q, d_k, d_v] = &self.destinations.0;
        for first in (0..queries).step_by(QUERIES) {
            let rows = QUERIES.min(queries - first);
            // SAFETY: the processor has the instructions; blocks lie within the queries, tiles within the keys.
            unsafe {
                self.load_block::<S>(first, rows);
                for tile in call.tiles(b, h, first, rows) {
                    self.tile::<S>(tile);
                }
            }
            self.write(d_q, first, rows, (&self.scratch.d_query, e_pad, e), call.scale);
        }
        // Padded keys have no gradient, even if the gradient of the context is NaN.
        fill_padding(padding, &mut self.scratch.d_key, e_pad, T::ZERO);
        fill_padding(padding, &mut self.scratch.d_value, ev_pad, T::ZERO);
        self.write(d_k, 0, keys, (&self.scratch.d_key, e_pad, e), T::ONE);
        self.write(d_v, 0, keys, (&self.scratch.d_value, ev_pad, ev), T::ONE);
    }
}

impl<T: Real> BackwardHead<'_, T> {
    /// Loads the queries, gradients and row statistics of a block into scratch.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`.
    #[inline(always)]
    unsafe fn load_block<S: Simd>(&mut self, first: usize, rows: usize) {
        let (call, scratch) = (self.call, &mut *self.scratch);
        let Sizes { a, queries, e, ev, .. } = call.sizes;
        let (e_pad, ev_pad, b, h, numbers) = (call.e_pad, call.ev_pad, self.b, self.h, self.numbers);
        let start = |row: usize| call.row(b, first + row) * (a * ev) + h * ev;
        let query = |row: usize| call.q.at(b, first + row, h * e);
        let (grad, context) =
            (|row: usize| &numbers.grad[start(row)..], |row: usize| &numbers.context[start(row)..]);
        // SAFETY: upheld by the caller.
        unsafe {
            transpose::<S, T>(query, rows, e, call.scale, &mut scratch.queries);
            transpose::<S, T>(grad, rows, ev, T::ONE, &mut scratch.grads);
            pack_rows::<T::In<S>>(query, rows, e, e_pad, call.scale, &mut scratch.query_rows);
            pack_rows::<T::In<S>>(grad, rows, ev, ev_pad, T::ONE, &mut scratch.grad_rows);
        }
        for buffer in [&mut scratch.max, &mut scratch.norm, &mut scratch.delta] {
            buffer.fill(T::ZERO);
        }
        let statistics = (self.b * a + self.h) * queries + first;
        scratch.max[..rows].copy_from_slice(&self.numbers.max[statistics..][..rows]);
        scratch.norm[..rows].copy_from_slice(&self.numbers.norm[statistics..][..rows]);
        for (i, delta) in scratch.delta[..rows].iter_mut().enumerate() {
            let pairs = grad(i)[..ev].iter().zip(&context(i)[..ev]);
            *delta = pairs.fold(T::ZERO, |sum, (&g, &c)| sum + g * c);
        }
    }

    /// Adds the contribution of a tile of scores to every gradient.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`; the tile must lie within keys and queries.
    #[inline(always)]
    unsafe fn tile<S: Simd>(&mut self, tile: Tile) {
        // SAFETY: upheld by the caller.
        unsafe {
            self.recompute_weights::<S>(tile);
            self.accumulate_gradients::<S>(tile);
            if let Some(d_bias) = self.d_bias.as_deref_mut() {
                add_to_bias::<T::In<S>>(&self.scratch.d_scores, tile, self.call.sizes.keys, d_bias);
            }
        }
    }

    /// Recomputes the weights of a tile, and computes the gradient of its scores.
    ///
    /// # Safety
    /// As [`tile`](Self::tile).
    #[inline(always)]
    unsafe fn recompute_weights<S: Simd>(&mut self, tile: Tile) {
        let (call, scratch) = (self.call, &mut *self.scratch);
        let Tile { b, key, keys, .. } = tile;
        let (ev, ev_pad, lanes) = (call.sizes.ev, call.ev_pad, T::In::<S>::LANES);
        let width = tile.rows.next_multiple_of(lanes);
        let value = &scratch.values[key * ev_pad..];
        debug_assert!(value.len() >= (keys - 1) * ev_pad + ev);
        let of_tile = (&scratch.keys[key * call.e_pad..], call.e_pad);
        // SAFETY: the tile lies within the head and its scratch.
        unsafe {
            score_tile::<S, T>(call, tile, of_tile, &scratch.queries, &mut scratch.weights);
            let (weights, d_scores) = (scratch.weights.as_mut_ptr(), scratch.d_scores.as_mut_ptr());
            S::vectorize(Product {
                m: keys,
                n: width,
                k: ev,
                a: value.as_ptr(),
                a_steps: [ev_pad, 1],
                b: scratch.grads.as_ptr(),
                b_step: QUERIES,
                c: d_scores,
                c_step: QUERIES,
                add: false,
            });
            for lane in (0..width).step_by(lanes) {
                let max = T::In::<S>::load(scratch.max.as_ptr().add(lane));
                let norm = T::In::<S>::load(scratch.norm.as_ptr().add(lane));
                let delta = T::In::<S>::load(scratch.delta.as_ptr().add(lane));
                for at in (0..keys).map(|key| key * QUERIES + lane) {
                    let weight = T::In::<S>::load(weights.add(at)).sub(max).exp().mul(norm);
                    let d_weight = T::In::<S>::load(d_scores.add(at));
                    weight.store(weights.add(at));
                    weight.mul(d_weight.sub(delta)).store(d_scores.add(at));
                }
            }
        }
        // A NaN in the value of a padded key must not spread.
        fill_padding(call.padding(b, key, keys), &mut scratch.d_scores, QUERIES, T::ZERO);
    }

    /// Adds the contribution of a tile to the gradients of queries, keys and values.
    ///
    /// # Safety
    /// As [`tile`](Self::tile).
    #[inline(always)]
    unsafe fn accumulate_gradients<S: Simd>(&mut self, tile: Tile) {
        let (call, scratch) = (self.call, &mut *self.scratch);
        let Tile { key, keys, rows, .. } = tile;
        let (e_pad, ev_pad) = (call.e_pad, call.ev_pad);
        let columns = |columns: usize| columns.next_multiple_of(T::In::<S>::LANES);
        let (n, nv) = (columns(call.sizes.e), columns(call.sizes.ev));
        let (weights, d_scores) = (scratch.weights.as_ptr(), scratch.d_scores.as_ptr());
        let (by_key, by_query) = ([QUERIES, 1], [1, QUERIES]);
        // SAFETY: the tile lies within the head and its scratch, whose rows are padded.
        unsafe {
            S::vectorize(Product {
                m: keys,
                n: nv,
                k: rows,
                a: weights,
                a_steps: by_key,
                b: scratch.grad_rows.as_ptr(),
                b_step: ev_pad,
                c: scratch.d_value.as_mut_ptr().add(key * ev_pad),
                c_step: ev_pad,
                add: true,
            });
            S::vectorize(Product {
                m: keys,
                n,
                k: rows,
                a: d_scores,
                a_steps: by_key,
                b: scratch.query_rows.as_ptr(),
                b_step: e_pad,
                c: scratch.d_key.as_mut_ptr().add(key * e_pad),
                c_step: e_pad,
                add: true,
            });
            S::vectorize(Product {
                m: rows,
                n,
                k: keys,
                a: d_scores,
                a_steps: by_query,
                b: scratch.keys.as_ptr().add(key * e_pad),
                b_step: e_pad,
                c: scratch.d_query.as_mut_ptr(),
                c_step: e_pad,
                add: key > 0,
            });
        }
    }

    /// Writes rows of `e` numbers, padded to `e_pad`, times `factor` to a gradient, from token `first` on.
    #[inline(always)]
    fn write(
        &self,
        destination: &Destination<T>,
        first: usize,
        rows: usize,
        (gradient, e_pad, e): (&[T], usize, usize),
        factor: T,
    ) {
        for (row, values) in gradient.chunks_exact(e_pad).take(rows).enumerate() {
            let (image, token) = self.call.place(self.b, first + row);
            let start = image * destination.image + token * destination.token + self.h * e;
            // SAFETY: only this task writes the columns of this head.
            let to = unsafe { destination.to.part(start, e) };
            for (to, &x) in to.iter_mut().zip(values) {
                *to = x * factor;
            }
        }
    }
}
