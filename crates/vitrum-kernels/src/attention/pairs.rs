//! Attention with products of pairs in bf16 (see [`bf16`](crate::bf16)), for inference. Products take half the time.
//!
//! Scratch of each block: queries are pairs along the columns of a head, transposed. Keys are rounded tile by tile and
//! stored where the values come later. Weights and values are pairs along the tokens.

use burn::backend::flex::FlexTensor;

use super::QUERIES;
use super::call::{Call, Operands, Rows, Tile};
use super::forward::{ForwardBlock, ForwardScratch, forward_by, shrink_rows, softmax_tile};
use super::inputs::Sizes;
use super::tile::{finish_scores, pack_rows};
use crate::bf16::round_row;
use crate::product::{PairProduct, Product};
use crate::simd::{self, Kernel, Simd, Vector};

/// Context `[B, Q, V]`.
pub(crate) fn forward_bf16(operands: &Operands) -> FlexTensor {
    let run = |block: ForwardBlock<f32>| simd::run_pairs(PairBlock(block));
    forward_by(&Call::new(operands), run).0
}

/// The step between tokens. There is one: windows are not computed in pairs.
#[inline(always)]
fn step_of(rows: &Rows<f32>) -> usize {
    rows.step().expect("tokens at one step")
}

/// A block of queries as in [`ForwardBlock`], computed with pairs.
struct PairBlock<'a>(ForwardBlock<'a, f32>);

impl Kernel for PairBlock<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let block = self.0;
        let ForwardBlock { call, b, h, first, rows, .. } = block;
        let (lanes, ev_pad) = (S::F32::LANES, call.ev_pad);
        let Sizes { e, ev, .. } = call.sizes;
        let width = rows.next_multiple_of(lanes);
        let query = |row: usize| call.q.at(b, first + row, h * e);
        let scratch = &mut *block.scratch;
        scratch.start();
        // SAFETY: tiles lie within the rows of keys and values, and within the
        // scratch buffers. Only this block writes these rows.
        unsafe {
            pack_queries::<S>(call, query, rows, scratch);
            for tile in call.tiles(b, h, first, rows) {
                let Tile { key, keys, .. } = tile;
                score_pairs::<S>(call, tile, width, scratch);
                softmax_tile::<S::F32>(scratch, keys, width);
                if key > 0 {
                    shrink_rows::<S, f32>(&mut scratch.output, &scratch.shrink, rows, ev_pad);
                }
                pair_weights::<S>(&mut scratch.scores, keys, width);
                let values = (call.v.at(b, key, h * ev), step_of(&call.v));
                let padding = call.padding(b, key, keys);
                pair_rows::<S>(values, keys, ev, ev_pad, padding, &mut scratch.values);
                S::vectorize(PairProduct(Product {
                    m: rows,
                    n: ev.next_multiple_of(lanes),
                    k: keys.div_ceil(2),
                    a: scratch.scores.as_ptr(),
                    a_steps: [1, QUERIES],
                    b: scratch.values.as_ptr(),
                    b_step: ev_pad,
                    c: scratch.output.as_mut_ptr(),
                    c_step: ev_pad,
                    add: key > 0,
                }));
            }
            block.write_output();
        }
    }
}

/// Packs the scaled queries as `[E / 2, rows]` pairs, padded with zeros to whole vectors.
///
/// # Safety
/// Here and below: the processor must have the instructions of `S`.
#[inline(always)]
unsafe fn pack_queries<'a, S: Simd>(
    call: &Call<f32>,
    query: impl Fn(usize) -> &'a [f32],
    rows: usize,
    scratch: &mut ForwardScratch<f32>,
) {
    let (e, e_pad, lanes) = (call.sizes.e, call.e_pad, S::F32::LANES);
    // The output is written later, so its buffer is free. Numbers left over after the pairs of a row are never read.
    let buffer = scratch.output.as_mut_ptr();
    // SAFETY: the output has QUERIES rows of `e_pad`, and the pairs of a row take at most half of it. The buffer of the
    // queries has as many rows, and each square begins at an existing pair.
    unsafe {
        pack_rows::<S::F32>(query, rows, e, e_pad, call.scale, &mut scratch.output);
        for row in 0..rows {
            round_row::<S>(buffer.add(row * e_pad), e, buffer.add(row * e_pad));
        }
        for row in (0..rows).step_by(lanes) {
            for pair in (0..e.div_ceil(2)).step_by(lanes) {
                let (from, to) = (buffer.add(row * e_pad + pair), scratch.queries.as_mut_ptr());
                let to = to.add(pair * QUERIES + row);
                S::F32::transpose(from, e_pad, lanes.min(rows - row), to, QUERIES);
            }
        }
    }
}

/// Computes the scores `[keys, width]` of a tile.
///
/// # Safety
/// As above; `width` must be a multiple of the lanes, at most QUERIES.
#[inline(always)]
unsafe fn score_pairs<S: Simd>(
    call: &Call<f32>,
    tile: Tile,
    width: usize,
    scratch: &mut ForwardScratch<f32>,
) {
    let Tile { b, h, key, keys, .. } = tile;
    let (step, e, pairs_step) = (step_of(&call.k), call.sizes.e, call.e_pad / 2);
    let k = call.k.at(b, key, h * e);
    assert!(k.len() >= (keys - 1) * step + e);
    let pairs = scratch.values.as_mut_ptr();
    // SAFETY: `keys` rows of `e` numbers are readable. As pairs they take half of the buffer for values. The scores
    // have KEYS rows of QUERIES.
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
        finish_scores::<S::F32>(call, tile, &mut scratch.scores);
    }
}

/// Rounds weights `[keys, width]` to `[keys / 2, width]` pairs of keys, in place.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn pair_weights<S: Simd>(weights: &mut [f32], keys: usize, width: usize) {
    let lanes = S::F32::LANES;
    assert!(weights.len() >= keys * QUERIES && width <= QUERIES);
    // SAFETY: rows of QUERIES numbers; a row of pairs is written over numbers that have been read.
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

/// Rounds rows of `e` numbers at `step` to rows of `e_pad` pairs, each of two rows. Padding and padded keys become
/// zeros.
///
/// # Safety
/// As above; `e_pad` must be a multiple of the lanes.
#[inline(always)]
unsafe fn pair_rows<S: Simd>(
    (from, step): (&[f32], usize),
    rows: usize,
    e: usize,
    e_pad: usize,
    padding: Option<&[u8]>,
    to: &mut [f32],
) {
    let lanes = S::F32::LANES;
    assert!(from.len() >= (rows - 1) * step + e && to.len() >= rows.div_ceil(2) * e_pad);
    let is_there = |row: usize| row < rows && padding.is_none_or(|padding| padding[row] == 0);
    // SAFETY: the rows are readable, and `to` has space for the pairs.
    unsafe {
        for pair in 0..rows.div_ceil(2) {
            let first = from.as_ptr().add(2 * pair * step);
            let there = [is_there(2 * pair), is_there(2 * pair + 1)];
            let to = to.as_mut_ptr().add(pair * e_pad);
            for column in (0..e).step_by(lanes) {
                let count = lanes.min(e - column);
                let number = match there[0] {
                    true => load_some::<S>(first.add(column), count),
                    false => S::F32::splat(0.0),
                };
                let second = match there[1] {
                    true => load_some::<S>(first.add(step + column), count),
                    false => S::F32::splat(0.0),
                };
                S::pair(number, second).store(to.add(column));
            }
        }
    }
}

/// A vector of `count` numbers, followed by zeros.
///
/// # Safety
/// As above; the numbers must be readable.
#[inline(always)]
unsafe fn load_some<S: Simd>(from: *const f32, count: usize) -> S::F32 {
    // SAFETY: upheld by the caller.
    unsafe { if count == S::F32::LANES { S::F32::load(from) } else { S::F32::load_part(from, count) } }
}
