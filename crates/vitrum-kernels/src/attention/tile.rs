//! Score tiles for both passes, and the packing of rows for the products.

use super::QUERIES;
use super::call::{Call, Tile};
use crate::product::Product;
use crate::simd::{Real, Simd, Vector};

/// The largest square that is transposed in registers.
const SQUARE: usize = 16 * 16;

/// The keys of a tile and the step between them: where they are stored, or packed in `room`.
///
/// # Safety
/// The processor must have the instructions of `V`; `room` must have space for `[keys, e_pad]`.
#[inline(always)]
pub(super) unsafe fn keys_of<'a, V: Vector>(
    call: &Call<'a, V::Scalar>,
    tile: Tile,
    room: &'a mut [V::Scalar],
) -> (&'a [V::Scalar], usize) {
    let Tile { b, h, key, keys, .. } = tile;
    let e = call.sizes.e;
    match call.k.step() {
        Some(step) => (call.k.at(b, key, h * e), step),
        None => {
            let rows = |row: usize| call.k.at(b, key + row, h * e);
            // SAFETY: upheld by the caller.
            unsafe { pack_rows::<V>(rows, keys, e, call.e_pad, V::Scalar::ONE, room) };
            (room, call.e_pad)
        }
    }
}

/// Scores `[keys, rows]` of a tile: `k · (scale · q) + bias`, and `-inf` for padded keys. The keys are rows at `step`.
///
/// # Safety
/// The processor must have the instructions of `S`; `queries` must hold `[E, QUERIES]` numbers, and `scores` must have
/// space for `[keys, QUERIES]`.
#[inline(always)]
pub(super) unsafe fn score_tile<S: Simd, T: Real>(
    call: &Call<T>,
    tile: Tile,
    (k, step): (&[T], usize),
    queries: &[T],
    scores: &mut [T],
) {
    let e = call.sizes.e;
    assert!(k.len() >= (tile.keys - 1) * step + e);
    // SAFETY: `keys` rows of `e` numbers are readable; the rest is upheld by the caller.
    unsafe {
        S::vectorize(Product {
            m: tile.keys,
            n: tile.rows.next_multiple_of(T::In::<S>::LANES),
            k: e,
            a: k.as_ptr(),
            a_steps: [step, 1],
            b: queries.as_ptr(),
            b_step: QUERIES,
            c: scores.as_mut_ptr(),
            c_step: QUERIES,
            add: false,
        });
        finish_scores::<T::In<S>>(call, tile, scores);
    }
}

/// Finishes products of queries and keys, `[keys, rows]`: adds the bias, and writes `-inf` for padded keys.
///
/// # Safety
/// The processor must have the instructions of `V`; `scores` must have space for `[keys, QUERIES]`.
#[inline(always)]
pub(super) unsafe fn finish_scores<V: Vector>(call: &Call<V::Scalar>, tile: Tile, scores: &mut [V::Scalar]) {
    // SAFETY: upheld by the caller.
    unsafe { add_bias::<V>(call, tile, scores) };
    let padding = call.padding(tile.b, tile.key, tile.keys);
    fill_padding(padding, scores, QUERIES, V::Scalar::from_f64(f64::NEG_INFINITY));
}

/// Adds the bias, if any, to the scores `[keys, rows]` of a tile. Whole squares are transposed in registers; the
/// remaining keys are added one by one.
///
/// # Safety
/// As [`finish_scores`].
#[inline(always)]
unsafe fn add_bias<V: Vector>(call: &Call<V::Scalar>, tile: Tile, scores: &mut [V::Scalar]) {
    if let Some((bias, width)) = call.bias_by_key(tile.b, tile.h) {
        assert!(tile.first + tile.rows.next_multiple_of(V::LANES) <= width && tile.rows <= QUERIES);
        for (key, scores) in scores.chunks_exact_mut(QUERIES).take(tile.keys).enumerate() {
            let bias = &bias[(tile.key + key) * width..][..width];
            for lane in (0..tile.rows).step_by(V::LANES) {
                // SAFETY: both rows have whole vectors up to `lane`; QUERIES is a multiple of the lanes.
                unsafe {
                    let at = scores.as_mut_ptr().add(lane);
                    V::load(at).add(V::load(bias.as_ptr().add(tile.first + lane))).store(at);
                }
            }
        }
        return;
    }
    let Some(bias) = call.bias(tile.b, tile.h) else { return };
    let (step, whole) = (call.sizes.keys, tile.keys - tile.keys % V::LANES);
    let row_of = |row: usize| &bias[(tile.first + row) * step + tile.key..][..tile.keys];
    assert!(scores.len() >= tile.keys * QUERIES && tile.rows <= QUERIES);
    let mut transposed = [V::Scalar::ZERO; SQUARE];
    for row in (0..tile.rows).step_by(V::LANES) {
        let rows = V::LANES.min(tile.rows - row);
        for key in (0..whole).step_by(V::LANES) {
            // SAFETY: each of the `rows` rows of the bias has LANES numbers from `key` on, since `whole` is at most
            // `keys`. Rows of scores have QUERIES numbers, a multiple of the lanes.
            unsafe {
                let from = row_of(row).as_ptr().add(key);
                V::transpose(from, step, rows, transposed.as_mut_ptr(), V::LANES);
                for i in 0..V::LANES {
                    let at = scores.as_mut_ptr().add((key + i) * QUERIES + row);
                    V::load(at).add(V::load(transposed.as_ptr().add(i * V::LANES))).store(at);
                }
            }
        }
        for row in row..row + rows {
            for (key, &bias) in row_of(row).iter().enumerate().skip(whole) {
                let score = &mut scores[key * QUERIES + row];
                *score = *score + bias;
            }
        }
    }
}

/// Adds the gradient of a tile's scores, `[keys, rows]`, to the gradient of the bias, `[_, K]`.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn add_to_bias<V: Vector>(
    d_scores: &[V::Scalar],
    tile: Tile,
    step: usize,
    d_bias: &mut [V::Scalar],
) {
    let whole = tile.keys - tile.keys % V::LANES;
    assert!(d_scores.len() >= tile.keys * QUERIES && tile.rows <= QUERIES);
    let mut transposed = [V::Scalar::ZERO; SQUARE];
    for row in (0..tile.rows).step_by(V::LANES) {
        let rows = V::LANES.min(tile.rows - row);
        for key in (0..whole).step_by(V::LANES) {
            // SAFETY: LANES rows of scores begin at `key`; LANES numbers of each are read from `row` on.
            unsafe {
                let from = d_scores.as_ptr().add(key * QUERIES + row);
                V::transpose(from, QUERIES, V::LANES, transposed.as_mut_ptr(), V::LANES);
            }
            for i in 0..rows {
                let to = &mut d_bias[(tile.first + row + i) * step + tile.key + key..][..V::LANES];
                // SAFETY: `to` is as long as a vector.
                unsafe {
                    let sum = V::load(to.as_ptr()).add(V::load(transposed.as_ptr().add(i * V::LANES)));
                    sum.store(to.as_mut_ptr());
                }
            }
        }
        for row in row..row + rows {
            let to = &mut d_bias[(tile.first + row) * step + tile.key..][..tile.keys];
            for (key, to) in to.iter_mut().enumerate().skip(whole) {
                *to = *to + d_scores[key * QUERIES + row];
            }
        }
    }
}

/// Fills the rows (at `step`) of padded keys with `value`.
#[inline(always)]
pub(super) fn fill_padding<T: Real>(padding: Option<&[u8]>, rows: &mut [T], step: usize, value: T) {
    let Some(padding) = padding else { return };
    for (row, &is_padding) in rows.chunks_exact_mut(step).zip(padding) {
        if is_padding != 0 {
            row.fill(value);
        }
    }
}

/// `to[column, row] = factor · from(row)[column]`. Rows of `to` have QUERIES numbers and are padded with zeros to whole
/// vectors.
///
/// # Safety
/// The processor must have the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn transpose<'a, S: Simd, T: Real>(
    from: impl Fn(usize) -> &'a [T],
    rows: usize,
    columns: usize,
    factor: T,
    to: &mut [T],
) {
    let width = rows.next_multiple_of(T::In::<S>::LANES);
    let row_of = |row: usize| &from(row)[..columns];
    let fours = rows - rows % 4;
    // Four rows at a time: one store per number took 10 % of the forward pass, this takes a third of that.
    for row in (0..fours).step_by(4) {
        let (a, b, c, d) = (row_of(row), row_of(row + 1), row_of(row + 2), row_of(row + 3));
        for (column, to) in to.chunks_exact_mut(QUERIES).take(columns).enumerate() {
            let four = [a[column] * factor, b[column] * factor, c[column] * factor, d[column] * factor];
            to[row..row + 4].copy_from_slice(&four);
        }
    }
    for row in fours..rows {
        for (to, &x) in to.chunks_exact_mut(QUERIES).zip(row_of(row)) {
            to[row] = x * factor;
        }
    }
    for column in 0..columns {
        to[column * QUERIES + rows..column * QUERIES + width].fill(T::ZERO);
    }
}

/// Copies rows of `e` numbers to rows of `e_pad`, times `factor`, padded with zeros.
///
/// # Safety
/// The processor must have the instructions of `V`; `e_pad` must be a multiple of the lanes.
#[inline(always)]
pub(super) unsafe fn pack_rows<'a, V: Vector>(
    from: impl Fn(usize) -> &'a [V::Scalar],
    rows: usize,
    e: usize,
    e_pad: usize,
    factor: V::Scalar,
    to: &mut [V::Scalar],
) {
    let bulk = e - e % V::LANES;
    for (row, to) in to.chunks_exact_mut(e_pad).take(rows).enumerate() {
        let from = &from(row)[..e];
        // SAFETY: both rows have whole vectors up to `bulk`.
        unsafe {
            let factor = V::splat(factor);
            for column in (0..bulk).step_by(V::LANES) {
                V::load(from.as_ptr().add(column)).mul(factor).store(to.as_mut_ptr().add(column));
            }
        }
        for column in bulk..e {
            to[column] = from[column] * factor;
        }
        to[e..].fill(V::Scalar::ZERO);
    }
}
