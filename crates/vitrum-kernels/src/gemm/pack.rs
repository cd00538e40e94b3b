//! Packing of operands in the order in which the innermost loop reads them.

use std::ops::Range;

use super::{View, WIDTH};
use crate::prefetch::prefetch;
use crate::simd::{Real, Vector};

/// Distance of the prefetch, in rows.
const AHEAD: usize = 8;

/// A strip of an operand: `width` numbers side by side for each of `k` terms of the sum.
pub(super) struct Strip<T> {
    pub from: *const T,
    /// Step between numbers of a term.
    pub across: usize,
    /// Step between terms.
    pub along: usize,
    pub width: usize,
    pub k: usize,
}

impl<T: Real> Strip<T> {
    /// Rows of `a` from `first` on, and terms from `p` on.
    pub(super) fn of_rows(a: &View<T>, first: usize, width: usize, p: usize, k: usize) -> Self {
        let [across, along] = a.steps;
        Self { from: a.at(first, p), across, along, width, k }
    }

    /// Columns of `b` from `first` on, and terms from `p` on.
    pub(super) fn of_columns(b: &View<T>, first: usize, width: usize, p: usize, k: usize) -> Self {
        let [along, across] = b.steps;
        Self { from: b.at(p, first), across, along, width, k }
    }

    /// Writes `[k, padded]`, with zeros as padding.
    ///
    /// # Safety
    /// The processor must have the instructions of `V`, and the strip must be readable. `to` must have space for `k ·
    /// padded` numbers and [`SLACK`] more, which are overwritten.
    #[inline(always)]
    pub(super) unsafe fn pack<V: Vector<Scalar = T>>(&self, padded: usize, to: *mut T) {
        // SAFETY: upheld by the caller.
        unsafe {
            if self.across == 1 {
                self.copy::<V>(padded, to);
            } else if self.along == 1 {
                self.transpose::<V>(padded, to);
            } else {
                self.gather(0..self.width, 0..self.k, padded, to);
                self.pad(padded, to);
            }
        }
    }

    /// Packs a strip whose terms are contiguous.
    #[inline(always)]
    unsafe fn copy<V: Vector<Scalar = T>>(&self, padded: usize, to: *mut T) {
        let vectors = self.width.div_ceil(V::LANES);
        // SAFETY: upheld by the caller.
        unsafe {
            match vectors {
                1 if self.along >= V::LANES => self.copy_vectors::<V, 1>(padded, to),
                WIDTH if self.along >= WIDTH * V::LANES => self.copy_vectors::<V, WIDTH>(padded, to),
                _ => self.gather(0..self.width, 0..self.k, padded, to),
            }
            self.pad(padded, to);
        }
    }

    /// Copies whole vectors. Numbers beyond the width are overwritten by the next term or by the padding.
    #[inline(always)]
    unsafe fn copy_vectors<V: Vector<Scalar = T>, const N: usize>(&self, padded: usize, to: *mut T) {
        let whole = if self.width == N * V::LANES { self.k } else { self.k.saturating_sub(1) };
        // SAFETY: upheld by the caller. After each term but the last follows the next, at distance `along`.
        unsafe {
            for p in 0..whole {
                let (from, to) = (self.from.add(p * self.along), to.add(p * padded));
                let ahead = from.wrapping_add(AHEAD * self.along);
                prefetch(ahead);
                prefetch(ahead.wrapping_add(N * V::LANES - 1));
                for j in 0..N {
                    V::load(from.add(j * V::LANES)).store(to.add(j * V::LANES));
                }
            }
            self.gather(0..self.width, whole..self.k, padded, to);
        }
    }

    /// Packs a strip whose rows are contiguous: squares of one register's size are transposed.
    #[inline(always)]
    unsafe fn transpose<V: Vector<Scalar = T>>(&self, padded: usize, to: *mut T) {
        let whole = self.k - self.k % V::LANES;
        // SAFETY: upheld by the caller. A square is written row by row, term by term. Each row overwrites what the last
        // one left beyond its width. The last one's excess goes to the slack, or to the place of the next strip.
        unsafe {
            for first in (0..self.width).step_by(V::LANES) {
                let rows = V::LANES.min(self.width - first);
                if padded > V::LANES && rows < V::LANES || whole == 0 {
                    self.gather(first..first + rows, 0..whole, padded, to);
                    continue;
                }
                for p in (0..whole).step_by(V::LANES) {
                    let from = self.from.add(first * self.across + p);
                    V::transpose(from, self.across, rows, to.add(p * padded + first), padded);
                }
            }
            self.gather(0..self.width, whole..self.k, padded, to);
            self.pad(padded, to);
        }
    }

    /// Copies numbers one by one.
    #[inline(always)]
    unsafe fn gather(&self, columns: Range<usize>, terms: Range<usize>, padded: usize, to: *mut T) {
        // SAFETY: upheld by the caller.
        unsafe {
            for p in terms {
                for j in columns.clone() {
                    *to.add(p * padded + j) = *self.from.add(j * self.across + p * self.along);
                }
            }
        }
    }

    /// Writes zeros after each term.
    #[inline(always)]
    unsafe fn pad(&self, padded: usize, to: *mut T) {
        // SAFETY: upheld by the caller.
        unsafe {
            for p in 0..self.k {
                for j in self.width..padded {
                    *to.add(p * padded + j) = T::ZERO;
                }
            }
        }
    }
}

/// Packs `strips` whole strips of a matrix with contiguous rows at step `along`. It goes row by row through all strips,
/// so that memory is read in long runs.
///
/// # Safety
/// As [`Strip::pack`], for all strips.
#[inline(always)]
pub(super) unsafe fn side_by_side<V: Vector>(
    from: *const V::Scalar,
    along: usize,
    strips: usize,
    k: usize,
    to: *mut V::Scalar,
) {
    let width = WIDTH * V::LANES;
    for p in 0..k {
        let (mut from, mut to) = (from.wrapping_add(p * along), to.wrapping_add(p * width));
        for _ in 0..strips {
            // SAFETY: upheld by the caller.
            unsafe {
                prefetch(from.wrapping_add(2 * along));
                prefetch(from.wrapping_add(2 * along + width / 2));
                for j in 0..WIDTH {
                    V::load(from.add(j * V::LANES)).store(to.add(j * V::LANES));
                }
            }
            from = from.wrapping_add(width);
            to = to.wrapping_add(k * width);
        }
    }
}

/// Numbers that packing may overwrite after its end: one register.
pub(super) const SLACK: usize = 16;
