//! The forward pass, in blocks of queries.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use super::call::{Call, Operands, Tile};
use super::inputs::Sizes;
use super::tile::{fill_padding, keys_of, pack_rows, score_tile, transpose};
use super::{KEYS, PAD, QUERIES};
use crate::product::Product;
use crate::simd::{self, Kernel, Real, Simd, Vector, sum_chains};
use crate::threads::{Shared, for_each_block, share, written};

/// Context `[B, Q, V]`, row maxima and reciprocal row sums `[B, A, Q]`.
pub(crate) fn forward<T: Real>(operands: &Operands) -> (FlexTensor, FlexTensor, FlexTensor) {
    let run = |block: ForwardBlock<T>| simd::run(block);
    forward_by(&Call::new(operands), run)
}

/// The same, with `run` to compute each block.
pub(super) fn forward_by<T: Real>(
    call: &Call<T>,
    run: impl Fn(ForwardBlock<T>) + Sync + Send,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let Sizes { b, a, queries, ev, .. } = call.sizes;
    let d = a * ev;
    let mut max = vec![T::ZERO; b * a * queries];
    let mut norm = vec![T::ZERO; b * a * queries];
    let write = |context: Shared<T>| {
        let (max, norm) = (Shared::new(&mut max), Shared::new(&mut norm));
        let blocks = queries.div_ceil(QUERIES);
        let work = |scratch: &mut ForwardScratch<T>, index: usize| {
            let (head, block) = (index / blocks, index % blocks);
            // Blocks are equal in vectors of queries: a last block of five rows would give the threads unequal shares.
            let Range { start, end } = share(queries.div_ceil(PAD), blocks, block);
            let (b, h, first) = (head / a, head % a, start * PAD);
            let rows = queries.min(end * PAD) - first;
            run(ForwardBlock { call, b, h, first, rows, scratch, context, max, norm });
        };
        for_each_block(b * a * blocks, call.multiplications(), || ForwardScratch::new(call), work);
    };
    let context = if call.is_empty() {
        vec![T::ZERO; b * queries * d]
    } else {
        // SAFETY: the blocks write all columns of all rows, and read none of them.
        unsafe { written(b * queries * d, write) }
    };
    let rows = || Shape::new([b, a, queries]);
    let [images, tokens] = call.maps();
    (T::tensor(context, Shape::new([images, tokens, d])), T::tensor(max, rows()), T::tensor(norm, rows()))
}

pub(super) struct ForwardScratch<T> {
    /// `[E, QUERIES]`
    pub queries: Vec<T>,
    /// `[KEYS, QUERIES]`
    pub scores: Vec<T>,
    /// `[KEYS, V / A]`; in bf16 and for windows, holds the keys first.
    pub values: Vec<T>,
    /// `[QUERIES, V / A]`; in bf16, holds the queries first.
    pub output: Vec<T>,
    pub max: Vec<T>,
    pub sum: Vec<T>,
    /// Factor for older sums and outputs after the maximum has grown.
    pub shrink: Vec<T>,
}

impl<T: Real> ForwardScratch<T> {
    fn new(call: &Call<T>) -> Self {
        let zeros = |n| vec![T::ZERO; n];
        let widest = call.e_pad.max(call.ev_pad);
        Self {
            queries: zeros(call.e_pad * QUERIES),
            scores: zeros(KEYS * QUERIES),
            values: zeros(KEYS * widest),
            output: zeros(QUERIES * widest),
            max: zeros(QUERIES),
            sum: zeros(QUERIES),
            shrink: zeros(QUERIES),
        }
    }
}

/// `rows` queries of head `h` of image `b`, from `first` on.
pub(super) struct ForwardBlock<'a, T> {
    pub call: &'a Call<'a, T>,
    pub b: usize,
    pub h: usize,
    pub first: usize,
    pub rows: usize,
    pub scratch: &'a mut ForwardScratch<T>,
    context: Shared<T>,
    max: Shared<T>,
    norm: Shared<T>,
}

impl<T: Real> Kernel for ForwardBlock<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { call, b, h, first, rows, .. } = self;
        let (lanes, ev_pad) = (T::In::<S>::LANES, call.ev_pad);
        let Sizes { e, ev, .. } = call.sizes;
        let width = rows.next_multiple_of(lanes);
        let query = |row: usize| call.q.at(b, first + row, h * e);
        let scratch = &mut *self.scratch;
        // SAFETY: the processor has the instructions.
        unsafe { transpose::<S, T>(query, rows, e, call.scale, &mut scratch.queries) };
        scratch.start();
        for tile in call.tiles(b, h, first, rows) {
            let Tile { key, keys, .. } = tile;
            // SAFETY: tiles lie within the rows of keys and values, and within the scratch buffers.
            unsafe {
                let keys_of_tile = keys_of::<T::In<S>>(call, tile, &mut scratch.values);
                score_tile::<S, T>(call, tile, keys_of_tile, &scratch.queries, &mut scratch.scores);
                softmax_tile::<T::In<S>>(scratch, keys, width);
                if key > 0 {
                    shrink_rows::<S, T>(&mut scratch.output, &scratch.shrink, rows, ev_pad);
                }
                let values = |row: usize| call.v.at(b, key + row, h * ev);
                pack_rows::<T::In<S>>(values, keys, ev, ev_pad, T::ONE, &mut scratch.values);
                fill_padding(call.padding(b, key, keys), &mut scratch.values, ev_pad, T::ZERO);
                S::vectorize(Product {
                    m: rows,
                    n: ev.next_multiple_of(lanes),
                    k: keys,
                    a: scratch.scores.as_ptr(),
                    a_steps: [1, QUERIES],
                    b: scratch.values.as_ptr(),
                    b_step: ev_pad,
                    c: scratch.output.as_mut_ptr(),
                    c_step: ev_pad,
                    add: key > 0,
                });
            }
        }
        // SAFETY: the sums include all keys; only this block writes these rows.
        unsafe { self.write_output() };
    }
}

impl<T: Real> ForwardScratch<T> {
    /// Resets maximum and sum for the next block.
    #[inline(always)]
    pub(super) fn start(&mut self) {
        self.max.fill(T::LOWEST);
        self.sum.fill(T::ZERO);
    }
}

impl<T: Real> ForwardBlock<'_, T> {
    /// Writes the context of the block's rows, outputs divided by sums, with the maxima and the reciprocal sums.
    ///
    /// # Safety
    /// No other block may write these rows.
    #[inline(always)]
    pub(super) unsafe fn write_output(&self) {
        let Self { call, b, h, first, rows, ref scratch, context, max, norm } = *self;
        let Sizes { a, queries, ev, .. } = call.sizes;
        let head_rows = (b * a + h) * queries + first;
        // SAFETY: no other block uses these rows and columns.
        let (max, norm) = unsafe { (max.part(head_rows, rows), norm.part(head_rows, rows)) };
        max.copy_from_slice(&scratch.max[..rows]);
        for (i, norm) in norm.iter_mut().enumerate() {
            let sum = scratch.sum[i];
            *norm = if sum == T::ZERO { T::ZERO } else { sum.recip() };
            let out = context.at(call.row(b, first + i) * (a * ev) + h * ev);
            for (j, &x) in scratch.output[i * call.ev_pad..][..ev].iter().enumerate() {
                // SAFETY: as above.
                unsafe { out.add(j).write(x * *norm) };
            }
        }
    }
}

/// Replaces scores by exp(score - running maximum), and updates maximum, sum and shrink factor.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // Constant indices keep the chains in registers.
pub(super) unsafe fn softmax_tile<V: Vector>(
    scratch: &mut ForwardScratch<V::Scalar>,
    keys: usize,
    width: usize,
) {
    for lane in (0..width).step_by(V::LANES) {
        // SAFETY: `lane + lanes` is at most QUERIES, `keys` at most KEYS.
        unsafe {
            let scores = scratch.scores.as_mut_ptr().add(lane);
            let old = V::load(scratch.max.as_ptr().add(lane));
            let mut maxima = [old; 4];
            // Four chains, indexed by constants so that they stay in registers.
            for key in (0..keys - keys % 4).step_by(4) {
                for chain in 0..4 {
                    maxima[chain] = maxima[chain].max(V::load(scores.add((key + chain) * QUERIES)));
                }
            }
            for key in keys - keys % 4..keys {
                maxima[0] = maxima[0].max(V::load(scores.add(key * QUERIES)));
            }
            let max = maxima[0].max(maxima[1]).max(maxima[2].max(maxima[3]));
            let shrink = old.sub(max).exp();
            let mut sums = [V::splat(V::Scalar::ZERO); 4];
            for key in (0..keys - keys % 4).step_by(4) {
                for chain in 0..4 {
                    let at = scores.add((key + chain) * QUERIES);
                    let weight = V::load(at).sub(max).exp();
                    weight.store(at);
                    sums[chain] = sums[chain].add(weight);
                }
            }
            for key in keys - keys % 4..keys {
                let at = scores.add(key * QUERIES);
                let weight = V::load(at).sub(max).exp();
                weight.store(at);
                sums[0] = sums[0].add(weight);
            }
            let new = sum_chains(sums);
            V::load(scratch.sum.as_ptr().add(lane))
                .mul_add(shrink, new)
                .store(scratch.sum.as_mut_ptr().add(lane));
            max.store(scratch.max.as_mut_ptr().add(lane));
            shrink.store(scratch.shrink.as_mut_ptr().add(lane));
        }
    }
}

/// Multiplies each row of `output`, `[rows, e_pad]`, with its own factor.
///
/// # Safety
/// The processor must have the instructions of `S`; `e_pad` must be a multiple of the lanes.
#[inline(always)]
pub(super) unsafe fn shrink_rows<S: Simd, T: Real>(
    output: &mut [T],
    shrink: &[T],
    rows: usize,
    e_pad: usize,
) {
    for (row, &shrink) in output.chunks_exact_mut(e_pad).zip(&shrink[..rows]) {
        // SAFETY: steps of one vector within a row.
        unsafe {
            let factor = T::In::<S>::splat(shrink);
            for column in (0..e_pad).step_by(T::In::<S>::LANES) {
                let at = row.as_mut_ptr().add(column);
                T::In::<S>::load(at).mul(factor).store(at);
            }
        }
    }
}
