//! Rows of numbers in bfloat16, for products. A bf16 number is the upper half of an `f32`, with eight digits of
//! mantissa.
//!
//! A *pair* is two bf16 numbers of consecutive terms of a sum, in the bits of one `f32`, the first in the lower half. A
//! matrix `[rows, K]` of numbers becomes a matrix `[rows, K / 2]` of pairs, so code that copies numbers also copies
//! pairs. [`Simd::dot_pairs`] multiplies them. With AVX512-BF16 that is one instruction for 16 pairs, and a Zen 5 core
//! runs two per cycle: products take half the time of `f32`, and weights half the memory. Other levels unpack the pairs
//! and multiply in `f32`. The products are the same (products of two eight-digit numbers are exact), but their sum has
//! another order.
//!
//! AVX512-BF16 treats numbers below the least normal `f32` (1.2e-38) as 0, in products and in rounding. Other levels
//! keep them.

use crate::gemm::{CONFLICT_STRIDE, View};
use crate::simd::pairs::{PIECE, halves, pair_of};
use crate::simd::{self, Kernel, Simd};
use crate::threads::{Shared, for_each_block, share, written};

/// Rows per block.
const ROWS: usize = 64;
/// Cost of rounding a number, in multiplications (see `threads`).
const COST: usize = 4;

/// A matrix `[k, n]` as `[k / 2, n]` pairs of rows. If k is odd, the last row is paired with zeros.
pub(crate) fn pairs_of_rows(matrix: &[f32], k: usize, n: usize) -> Vec<f32> {
    let row = |p: usize| &matrix[p * n..(p + 1) * n];
    let mut pairs = Vec::with_capacity(k.div_ceil(2) * n);
    for p in (0..k).step_by(2) {
        if p + 1 < k {
            pairs.extend(row(p).iter().zip(row(p + 1)).map(|(&first, &second)| pair_of(first, second)));
        } else {
            pairs.extend(row(p).iter().map(|&last| pair_of(last, 0.0)));
        }
    }
    pairs
}

/// The matrix `[k, n]` of pairs of rows.
pub(crate) fn rows_of_pairs(pairs: &[f32], k: usize, n: usize) -> Vec<f32> {
    let mut rows = vec![0.0; k * n];
    for (p, row) in rows.chunks_exact_mut(n.max(1)).enumerate() {
        let pairs = &pairs[p / 2 * n..][..n];
        row.iter_mut().zip(pairs).for_each(|(number, &pair)| *number = halves(pair)[p % 2]);
    }
    rows
}

/// Rows of `k` numbers as pairs, `step` pairs apart. If k is odd, the last number is paired with a zero.
#[derive(Clone, Copy)]
pub(crate) struct RowPairs {
    k: usize,
    /// At most `k`, so that rows can be rounded in place. Never a multiple of the stride that causes cache conflicts.
    step: usize,
}

impl RowPairs {
    pub(crate) fn new(k: usize) -> Self {
        let pairs = k.div_ceil(2);
        let conflict = pairs > 0 && (pairs * size_of::<f32>()).is_multiple_of(CONFLICT_STRIDE);
        Self { k, step: if conflict { pairs + PIECE / 2 } else { pairs } }
    }

    /// Pairs in so many rows.
    pub(crate) fn capacity(self, rows: usize) -> usize {
        rows * self.step
    }

    /// Rounded rows as the operand A of a product.
    pub(crate) fn view(self, pairs: &[f32], rows: usize) -> View<'_, f32> {
        View::new(pairs, [rows, self.k.div_ceil(2)], [self.step, 1])
    }

    /// Rounds `rows` rows of `k` numbers to `to`, which may equal `from`.
    ///
    /// # Safety
    /// The rows must be readable. `to` must have [`capacity`](Self::capacity) for them, and nothing else may use it. It
    /// must not overlap with the rows unless it begins where they begin.
    pub(crate) unsafe fn round(self, from: *const f32, rows: usize, to: *mut f32) {
        simd::run_pairs(RoundRows { pairs: self, from, rows, to });
    }

    /// Rows `[rows, k]`, rounded by all threads.
    pub(crate) fn rounded(self, x: &[f32], rows: usize) -> Vec<f32> {
        assert_eq!(x.len(), rows * self.k, "rows of {} numbers", self.k);
        let blocks = rows.div_ceil(ROWS);
        let write = |to: Shared<f32>| {
            let cost = x.len().saturating_mul(COST);
            for_each_block(
                blocks,
                cost,
                || (),
                |(), block| {
                    let rows = share(rows, blocks, block);
                    let from = x[rows.start * self.k..].as_ptr();
                    // SAFETY: each block has its own rows; the gaps between rows are never read.
                    unsafe { self.round(from, rows.len(), to.at(rows.start * self.step)) };
                },
            );
        };
        // SAFETY: the blocks write all pairs except the gaps between rows, which were zeroed before.
        unsafe {
            if self.step == self.k.div_ceil(2) {
                return written(self.capacity(rows), write);
            }
            let mut pairs = vec![0.0; self.capacity(rows)];
            write(Shared::new(&mut pairs));
            pairs
        }
    }
}

struct RoundRows {
    pairs: RowPairs,
    from: *const f32,
    rows: usize,
    to: *mut f32,
}

impl Kernel for RoundRows {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let RowPairs { k, step } = self.pairs;
        for row in 0..self.rows {
            // SAFETY: upheld by the caller. In place, a row of pairs ends at or before its numbers.
            unsafe { round_row::<S>(self.from.add(row * k), k, self.to.add(row * step)) };
        }
    }
}

/// Rounds `k` numbers to pairs. If k is odd, the last number is paired with a zero.
///
/// # Safety
/// The processor must have the instructions of `S`. The numbers must be readable, and `to` must have space for `k / 2`
/// pairs, rounded up. `to` may be at or before `from`.
#[inline(always)]
pub(crate) unsafe fn round_row<S: Simd>(from: *const f32, k: usize, to: *mut f32) {
    let bulk = k - k % PIECE;
    // SAFETY: upheld by the caller. Numbers are read before their memory is overwritten, since pairs take half the
    // space.
    unsafe {
        for p in (0..bulk).step_by(PIECE) {
            S::round_pairs(from.add(p), to.add(p / 2));
        }
        if bulk < k {
            let (mut rest, mut pairs) = ([0.0; PIECE], [0.0; PIECE / 2]);
            std::ptr::copy_nonoverlapping(from.add(bulk), rest.as_mut_ptr(), k - bulk);
            S::round_pairs(rest.as_ptr(), pairs.as_mut_ptr());
            std::ptr::copy_nonoverlapping(pairs.as_ptr(), to.add(bulk / 2), (k - bulk).div_ceil(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::pairs::rounded;

    /// Rows of many lengths, rounded to another buffer and in place, against numbers rounded one by one.
    #[test]
    fn rows_are_rounded_wherever_they_lie() {
        for (rows, k) in
            [(1, 1), (3, 2), (5, 31), (2, 32), (4, 33), (3, 100), (2, 1024), (3, 2048), (0, 5), (2, 0)]
        {
            let pairs = RowPairs::new(k);
            let x: Vec<f32> = (0..rows * k).map(|i| (i as f32 * 0.37).sin() * 3.0 + 1e-3).collect();
            let elsewhere = pairs.rounded(&x, rows);
            let mut in_place = x.clone();
            // SAFETY: pairs take no more space than their numbers.
            unsafe { pairs.round(in_place.as_ptr(), rows, in_place.as_mut_ptr()) };
            for found in [&elsewhere, &in_place] {
                for row in 0..rows {
                    for p in 0..k.next_multiple_of(2) {
                        let expected = if p < k { rounded(x[row * k + p]) } else { 0 };
                        let pair = found[row * pairs.step + p / 2];
                        assert_eq!(
                            halves(pair)[p % 2].to_bits(),
                            expected,
                            "number {p} of row {row}, {k} in a row"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_matrix_survives_as_pairs_of_rows() {
        for (k, n) in [(1, 1), (2, 3), (5, 4), (0, 3), (3, 0)] {
            let matrix: Vec<f32> = (0..k * n).map(|i| i as f32 - 7.0).collect();
            let pairs = pairs_of_rows(&matrix, k, n);
            assert_eq!(pairs.len(), k.div_ceil(2) * n);
            assert_eq!(rows_of_pairs(&pairs, k, n), matrix);
        }
    }
}
