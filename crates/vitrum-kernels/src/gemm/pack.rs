//! Copies of operands in the order in which the innermost loop reads them.

use std::ops::Range;

use super::{View, WIDTH};
use crate::prefetch::prefetch;
use crate::simd::{Real, Vector};

/// Rows ahead of which to ask memory for the next.
const AHEAD: usize = 8;

/// A strip of an operand: `width` numbers side by side for each of `k` terms of the sum.
pub(super) struct Strip<T> {
    pub from: *const T,
    /// Step from one number of a term to the next.
    pub across: usize,
    /// Step from term to term.
    pub along: usize,
    pub width: usize,
    pub k: usize,
}

impl<T: Real> Strip<T> {
    /// Rows `first ..` of `a` and columns of the sum `p ..`.
    pub(super) fn of_rows(a: &View<T>, first: usize, width: usize, p: usize, k: usize) -> Self {
        let [across, along] = a.steps;
        Self { from: a.at(first, p), across, along, width, k }
    }

    /// Columns `first ..` of `b` and rows of the sum `p ..`.
    pub(super) fn of_columns(b: &View<T>, first: usize, width: usize, p: usize, k: usize) -> Self {
        let [along, across] = b.steps;
        Self { from: b.at(p, first), across, along, width, k }
    }

    /// Writes `[k, padded]`, zeros in the padding.
    ///
    /// # Safety
    /// The processor must have the instructions of `V`, the strip must be readable, and `to` must have room for
    /// `k · padded` numbers and [`SLACK`] more, whose content is lost.
    #[inline(always)]
    pub(super) unsafe fn pack<V: Vector<Scalar = T>>(&self, padded: usize, to: *mut T) {
        // SAFETY: the caller's.
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

    /// Terms are already side by side.
    #[inline(always)]
    unsafe fn copy<V: Vector<Scalar = T>>(&self, padded: usize, to: *mut T) {
        let vectors = self.width.div_ceil(V::LANES);
        // SAFETY: the caller's.
        unsafe {
            match vectors {
                1 if self.along >= V::LANES => self.copy_vectors::<V, 1>(padded, to),
                WIDTH if self.along >= WIDTH * V::LANES => self.copy_vectors::<V, WIDTH>(padded, to),
                _ => self.gather(0..self.width, 0..self.k, padded, to),
            }
            self.pad(padded, to);
        }
    }

    /// Copies whole vectors. What they bring along behind the width is overwritten by the next term, or the padding.
    #[inline(always)]
    unsafe fn copy_vectors<V: Vector<Scalar = T>, const N: usize>(&self, padded: usize, to: *mut T) {
        let whole = if self.width == N * V::LANES { self.k } else { self.k.saturating_sub(1) };
        // SAFETY: the caller's. Behind the width of all terms but the last stands the next, `along` further on.
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

    /// Numbers side by side belong to different terms: squares of as many as a register holds are turned.
    #[inline(always)]
    unsafe fn transpose<V: Vector<Scalar = T>>(&self, padded: usize, to: *mut T) {
        let whole = self.k - self.k % V::LANES;
        // SAFETY: the caller's. A turned square is written row by row from term to term, each over what the one
        // before left behind its width; the last one's rest falls into the slack, or where the next strip will be.
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

    /// One by one.
    #[inline(always)]
    unsafe fn gather(&self, columns: Range<usize>, terms: Range<usize>, padded: usize, to: *mut T) {
        // SAFETY: the caller's.
        unsafe {
            for p in terms {
                for j in columns.clone() {
                    *to.add(p * padded + j) = *self.from.add(j * self.across + p * self.along);
                }
            }
        }
    }

    /// Zeros behind each term.
    #[inline(always)]
    unsafe fn pad(&self, padded: usize, to: *mut T) {
        // SAFETY: the caller's.
        unsafe {
            for p in 0..self.k {
                for j in self.width..padded {
                    *to.add(p * padded + j) = T::ZERO;
                }
            }
        }
    }
}

/// Packs `strips` whole strips of a matrix whose rows lie in one piece, at `along`: row by row, so that memory is read
/// in long pieces.
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
            // SAFETY: the caller's.
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

/// How many numbers behind its end packing may overwrite: a register's.
pub(super) const SLACK: usize = 16;
