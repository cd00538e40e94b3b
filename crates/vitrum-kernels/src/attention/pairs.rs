//! Attention with products of pairs in bf16 (see [`bf16`](crate::bf16)), for answers: half the time in the products.
//!
//! Of each block's scratch: queries are pairs along the columns of a head, transposed; keys, rounded tile by tile, lie
//! where values come later; weights and values are pairs along the tokens.

use burn::backend::flex::FlexTensor;

use super::{
    Call, ForwardBlock, ForwardScratch, QUERIES, add_bias, forward_by, hand_over, pack_rows, shrink_rows,
    softmax_tile,
};
use crate::bf16::{self, round_row};
use crate::product::{PairProduct, Product};
use crate::simd::{Job, Real, Simd, Vector};

/// Context `[B, Q, D]` of the first Q tokens. Tensors must lie in one piece.
pub(crate) fn forward_bf16(
    qkv: &FlexTensor,
    bias: Option<&FlexTensor>,
    queries: usize,
    num_heads: usize,
    scale: f64,
) -> FlexTensor {
    let run = |block: ForwardBlock<f32>| bf16::run(PairBlock(block));
    forward_by(&Call::new(qkv, bias, queries, num_heads, scale), run).0
}

/// A block of queries, as [`ForwardBlock`] computes them, by pairs.
struct PairBlock<'a>(ForwardBlock<'a, f32>);

impl Job for PairBlock<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ForwardBlock { call, b, h, first, rows, scratch, context, max, norm } = self.0;
        let (lanes, step) = (S::F32::LANES, call.steps().0);
        let width = rows.next_multiple_of(lanes);
        scratch.max.fill(f32::LOWEST);
        scratch.sum.fill(0.0);
        let query = &call.qkv[call.start(b, h, 0) + first * step..];
        // SAFETY: `query` has `rows` rows at `step`; tiles lie within the projection's rows and the scratch buffers' sizes.
        unsafe {
            pack_queries::<S>(call, query, rows, scratch);
            for key in (0..call.t).step_by(super::KEYS) {
                let keys = super::KEYS.min(call.t - key);
                score_pairs::<S>(call, (b, h, key, keys), width, scratch);
                add_bias(call, (b, h, key, keys), (first, rows), &mut scratch.scores);
                softmax_tile::<S::F32>(scratch, keys, width);
                if key > 0 {
                    shrink_rows::<S, f32>(&mut scratch.output, &scratch.shrink, rows, call.e_pad);
                }
                pair_weights::<S>(&mut scratch.scores, keys, width);
                let values = &call.qkv[call.start(b, h, 2) + key * step..];
                pair_rows::<S>((values, step), keys, call.e, call.e_pad, &mut scratch.values);
                S::vectorize(PairProduct(Product {
                    m: rows,
                    n: call.e.next_multiple_of(lanes),
                    k: keys.div_ceil(2),
                    a: scratch.scores.as_ptr(),
                    a_steps: [1, QUERIES],
                    b: scratch.values.as_ptr(),
                    b_step: call.e_pad,
                    c: scratch.output.as_mut_ptr(),
                    c_step: call.e_pad,
                    add: key > 0,
                }));
            }
            hand_over(call, (b, h), (first, rows), scratch, (context, max, norm));
        }
    }
}

/// Queries, scaled, as `[E / 2, rows]` pairs with zeros to a vector's end.
///
/// # Safety
/// Here and below: the processor must have the instructions of `S`.
#[inline(always)]
unsafe fn pack_queries<S: Simd>(
    call: &Call<f32>,
    query: &[f32],
    rows: usize,
    scratch: &mut ForwardScratch<f32>,
) {
    let (e, e_pad, lanes) = (call.e, call.e_pad, S::F32::LANES);
    // The output is written later. Behind the pairs of a row stands what is left of its numbers, which nobody reads.
    let room = scratch.output.as_mut_ptr();
    // SAFETY: the output has QUERIES rows of `e_pad`, in which the pairs of a row take at most half; so many rows has
    // the room for queries, in which a square begins at the pairs there are.
    unsafe {
        pack_rows::<S::F32>((query, call.steps().0), rows, e, e_pad, call.scale, &mut scratch.output);
        for row in 0..rows {
            round_row::<S>(room.add(row * e_pad), e, room.add(row * e_pad));
        }
        for row in (0..rows).step_by(lanes) {
            for pair in (0..e.div_ceil(2)).step_by(lanes) {
                let (from, to) = (room.add(row * e_pad + pair), scratch.queries.as_mut_ptr());
                let to = to.add(pair * QUERIES + row);
                S::F32::turn(from, e_pad, lanes.min(rows - row), to, QUERIES);
            }
        }
    }
}

/// Scores `[keys, width]` of a tile.
///
/// # Safety
/// As above; `width` must be a multiple of the lanes, up to QUERIES.
#[inline(always)]
unsafe fn score_pairs<S: Simd>(
    call: &Call<f32>,
    (b, h, key, keys): (usize, usize, usize, usize),
    width: usize,
    scratch: &mut ForwardScratch<f32>,
) {
    let (step, e, pairs_step) = (call.steps().0, call.e, call.e_pad / 2);
    let k = &call.qkv[call.start(b, h, 1) + key * step..];
    assert!(k.len() >= (keys - 1) * step + e);
    let pairs = scratch.values.as_mut_ptr();
    // SAFETY: `keys` rows of `e` numbers are there; as pairs they take half of the room for values; scores have room for
    // KEYS rows of QUERIES.
    unsafe {
        for row in 0..keys {
            round_row::<S>(k.as_ptr().add(row * step), e, pairs.add(row * pairs_step));
        }
        S::vectorize(PairProduct(Product {
            m: keys,
            n: width,
            k: e.div_ceil(2),
            a: pairs,
            a_steps: [pairs_step, 1],
            b: scratch.queries.as_ptr(),
            b_step: QUERIES,
            c: scratch.scores.as_mut_ptr(),
            c_step: QUERIES,
            add: false,
        }));
    }
}

/// Weights `[keys, width]` to `[keys / 2, width]` pairs of keys, in place.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn pair_weights<S: Simd>(weights: &mut [f32], keys: usize, width: usize) {
    let lanes = S::F32::LANES;
    assert!(weights.len() >= keys * QUERIES && width <= QUERIES);
    // SAFETY: rows of QUERIES numbers; a row of pairs is written where its numbers, or earlier ones, were.
    unsafe {
        for pair in 0..keys.div_ceil(2) {
            let row = weights.as_mut_ptr().add(2 * pair * QUERIES);
            let to = weights.as_mut_ptr().add(pair * QUERIES);
            for lane in (0..width).step_by(lanes) {
                let second = match 2 * pair + 1 < keys {
                    true => S::F32::load(row.add(QUERIES + lane)),
                    false => S::F32::splat(0.0),
                };
                S::pair(S::F32::load(row.add(lane)), second).store(to.add(lane));
            }
        }
    }
}

/// Rows of `e` numbers at `step` to rows of `e_pad` pairs of two rows each, zeros behind.
///
/// # Safety
/// As above; `e_pad` must be a multiple of the lanes.
#[inline(always)]
unsafe fn pair_rows<S: Simd>(
    (from, step): (&[f32], usize),
    rows: usize,
    e: usize,
    e_pad: usize,
    to: &mut [f32],
) {
    let lanes = S::F32::LANES;
    assert!(from.len() >= (rows - 1) * step + e && to.len() >= rows.div_ceil(2) * e_pad);
    // SAFETY: the rows are there, and room for theirs.
    unsafe {
        for pair in 0..rows.div_ceil(2) {
            let first = from.as_ptr().add(2 * pair * step);
            let is_pair = 2 * pair + 1 < rows;
            let to = to.as_mut_ptr().add(pair * e_pad);
            for column in (0..e).step_by(lanes) {
                let count = lanes.min(e - column);
                let second = match is_pair {
                    true => load_some::<S>(first.add(step + column), count),
                    false => S::F32::splat(0.0),
                };
                S::pair(load_some::<S>(first.add(column), count), second).store(to.add(column));
            }
        }
    }
}

/// A register of `count` numbers, zeros behind.
///
/// # Safety
/// As above; they must be readable.
#[inline(always)]
unsafe fn load_some<S: Simd>(from: *const f32, count: usize) -> S::F32 {
    // SAFETY: the caller's.
    unsafe { if count == S::F32::LANES { S::F32::load(from) } else { S::F32::load_part(from, count) } }
}
