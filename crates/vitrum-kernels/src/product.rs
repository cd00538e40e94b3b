//! A matrix product for small operands in cache, by one thread.

use crate::gemm::{Numbers, Pairs, Terms, Tile};
use crate::prefetch::Lines;
use crate::simd::{Kernel, Real, Simd, Vector};

/// `c = a b` or `c += a b`, for `a` `[m, k]` with any strides, `b` `[k, n]` and `c` `[m, n]` with contiguous rows.
///
/// `n` is a multiple of the vector length: rows of `b` and `c` are padded. The padding of `b` appears in the padding of
/// `c`.
pub(crate) struct Product<T> {
    pub m: usize,
    /// Columns, a multiple of the number of lanes.
    pub n: usize,
    pub k: usize,
    pub a: *const T,
    /// Steps between rows and columns of `a`.
    pub a_steps: [usize; 2],
    pub b: *const T,
    pub b_step: usize,
    pub c: *mut T,
    pub c_step: usize,
    /// Whether to add to what is in `c`.
    pub add: bool,
}

impl<T: Real> Kernel for Product<T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: upheld by the caller.
        unsafe { self.run_terms::<S, Numbers>() }
    }
}

/// A product of pairs in bf16, `k` of them.
pub(crate) struct PairProduct(pub Product<f32>);

impl Kernel for PairProduct {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: upheld by the caller.
        unsafe { self.0.run_terms::<S, Pairs>() }
    }
}

impl<T: Real> Product<T> {
    // Tiles of 6 x 4 vectors fill 24 of 32 registers, 6 x 2 fill 12 of 16. The other registers hold a row of b and a
    // number of a. With 4 x 3 of 16 no register is left over, and the compiler keeps sums in memory.
    #[inline(always)]
    unsafe fn run_terms<S: Simd, R: Terms<T>>(&self) {
        // SAFETY: upheld by the caller.
        unsafe { if S::MANY_REGISTERS { self.columns::<S, R, 6, 4>() } else { self.columns::<S, R, 6, 2>() } }
    }

    /// Goes over stripes of at most `NR` vectors.
    #[inline(always)]
    unsafe fn columns<S: Simd, R: Terms<T>, const MR: usize, const NR: usize>(&self) {
        let mut column = 0;
        while column < self.n {
            let left = (self.n - column) / T::In::<S>::LANES;
            // SAFETY: columns below `n`; the pointers reach as far as the struct says.
            unsafe {
                match left.min(NR) {
                    1 => self.rows::<S, R, MR, 1>(column),
                    2 => self.rows::<S, R, MR, 2>(column),
                    3 => self.rows::<S, R, MR, 3>(column),
                    _ => self.rows::<S, R, MR, 4>(column),
                }
            }
            column += left.min(NR) * T::In::<S>::LANES;
        }
    }

    /// Goes down a stripe in tiles of at most `MR` rows.
    #[inline(always)]
    unsafe fn rows<S: Simd, R: Terms<T>, const MR: usize, const NR: usize>(&self, column: usize) {
        let mut row = 0;
        // SAFETY: rows below `m`.
        unsafe {
            while self.m - row >= MR {
                self.tile::<S, R, MR, NR>(row, column);
                row += MR;
            }
            match self.m - row {
                1 => self.tile::<S, R, 1, NR>(row, column),
                2 => self.tile::<S, R, 2, NR>(row, column),
                3 => self.tile::<S, R, 3, NR>(row, column),
                4 => self.tile::<S, R, 4, NR>(row, column),
                5 => self.tile::<S, R, 5, NR>(row, column),
                _ => {}
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, R: Terms<T>, const MR: usize, const NR: usize>(&self, row: usize, column: usize) {
        // SAFETY: the tile lies within `m` rows and `n` columns, which the pointers cover.
        unsafe {
            let tile = Tile {
                k: self.k,
                a: self.a.add(row * self.a_steps[0]),
                b: self.b.add(column),
                b_step: self.b_step,
                c: self.c.add(row * self.c_step + column),
                c_step: self.c_step,
                add: self.add,
                ahead: Lines::none(),
            };
            // A step of 1 that the compiler sees becomes part of the addresses.
            match self.a_steps {
                [1, term] => tile.run::<S, R, MR, NR, false>([1, term]),
                [row, 1] => tile.run::<S, R, MR, NR, false>([row, 1]),
                steps => tile.run::<S, R, MR, NR, false>(steps),
            }
        }
    }
}
