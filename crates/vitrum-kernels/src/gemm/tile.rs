//! The innermost loop of every product: one tile of the output over one block of the sum.

use crate::prefetch::{LINE, Lines, prefetch};
use crate::simd::{Real, Simd, Vector};

use super::Terms;

/// Most rows of a tile that have a pointer each.
const FEW_ROWS: usize = 6;

/// The same pointer. The compiler cannot see where it comes from.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "the block reads and writes nothing")]
fn unknown<T>(mut at: *const T) -> *const T {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: no instruction; the pointer stays as it is.
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = &mut at;
    at
}

/// Operands of a tile. A is `[height, k]`; its steps between rows and between terms come with each call.
pub(crate) struct Tile<T> {
    /// Terms of the sum.
    pub k: usize,
    pub a: *const T,
    /// `[k, width]`, rows at `b_step`.
    pub b: *const T,
    pub b_step: usize,
    /// `[height, width]`, rows at `c_step`.
    pub c: *mut T,
    pub c_step: usize,
    /// Whether to add to what is in `c`.
    pub add: bool,
    /// Cache lines to prefetch, one per term. Only [`run`](Tile::run) with `PREFETCH` uses them.
    pub ahead: Lines<T>,
}

impl<T: Real> Tile<T> {
    /// Computes a tile of 1 to 12 rows, at most [`height`](super::height) of `S`. Rows of A are `a_step` apart; `None`
    /// if A is packed, `[k, height]`.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`. The pointers must reach as far as the struct says, for a width
    /// of `NR` vectors.
    #[inline(always)]
    pub(super) unsafe fn of_height<S: Simd, R: Terms<T>, const NR: usize, const MAX: usize>(
        &self,
        a_step: Option<usize>,
        height: usize,
    ) {
        // Heights above MAX never occur. The guard keeps the compiler from generating code for them.
        macro_rules! heights {
            ($($mr:literal)*) => {
                match height {
                    // SAFETY: upheld by the caller.
                    $($mr if $mr <= MAX => unsafe {
                        match a_step {
                            Some(step) => self.run::<S, R, $mr, NR, true>([step, 1]),
                            None => self.run::<S, R, $mr, NR, true>([1, $mr]),
                        }
                    },)*
                    _ => unreachable!("a tile of {height} rows"),
                }
            };
        }
        heights!(1 2 3 4 5 6 7 8 9 10 11 12)
    }

    /// Computes a tile with fewer columns than `b`. The whole tile is computed in scratch, then the valid columns are
    /// copied.
    ///
    /// # Safety
    /// As [`of_height`](Self::of_height), with `c` reaching as far as `columns`.
    #[inline(always)]
    pub(super) unsafe fn narrow<S: Simd, R: Terms<T>, const MAX: usize>(
        &self,
        a_step: Option<usize>,
        height: usize,
        columns: usize,
    ) {
        let mut scratch = [T::ZERO; super::TALLEST * super::WIDTH * 16];
        let c_step = super::WIDTH * T::In::<S>::LANES;
        let tile = Self { c: scratch.as_mut_ptr(), c_step, add: false, ..*self };
        // SAFETY: upheld by the caller; the scratch fits the largest tile with the longest vectors.
        unsafe {
            if columns <= T::In::<S>::LANES {
                tile.of_height::<S, R, 1, MAX>(a_step, height);
            } else {
                tile.of_height::<S, R, { super::WIDTH }, MAX>(a_step, height);
            }
            for (i, row) in scratch.chunks_exact(c_step).take(height).enumerate() {
                for (j, &sum) in row[..columns].iter().enumerate() {
                    let at = self.c.add(i * self.c_step + j);
                    *at = if self.add { *at + sum } else { sum };
                }
            }
        }
    }

    /// Computes a tile of `MR` rows and `NR` vectors. `a_steps` are the steps of A between rows and between terms. With
    /// `PREFETCH`, C and the lines `ahead` are prefetched.
    ///
    /// Each sum is one chain of terms, added in the order of k whatever the shape of the tile. So an element does not
    /// depend on how the output is cut.
    ///
    /// # Safety
    /// As [`of_height`](Self::of_height), for `MR` rows.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
    pub(crate) unsafe fn run<S: Simd, R: Terms<T>, const MR: usize, const NR: usize, const PREFETCH: bool>(
        &self,
        [a_row, a_term]: [usize; 2],
    ) {
        // SAFETY: upheld by the caller.
        unsafe {
            let mut sums = [[T::In::<S>::splat(T::ZERO); NR]; MR];
            if PREFETCH {
                for i in 0..MR {
                    for line in 0..(NR * T::In::<S>::LANES * size_of::<T>()).div_ceil(LINE) {
                        prefetch(self.c.add(i * self.c_step).cast::<u8>().wrapping_add(line * LINE));
                    }
                }
            }
            let (mut a, mut b) = (self.a, self.b);
            let mut ahead = self.ahead;
            // Each of a few rows in place has its own pointer, hidden from the compiler. Otherwise the loop adds a step from
            // row to row, and reads the step from memory each time.
            let has_pointers = MR <= FEW_ROWS && a_term == 1;
            let mut rows = [self.a; MR];
            if has_pointers {
                for i in 0..MR {
                    rows[i] = unknown(self.a.wrapping_add(i * a_row));
                }
            }
            for term in 0..self.k {
                let mut b_row = [T::In::<S>::splat(T::ZERO); NR];
                for j in 0..NR {
                    b_row[j] = T::In::<S>::load(b.add(j * T::In::<S>::LANES));
                }
                if PREFETCH {
                    ahead.prefetch_next();
                }
                for i in 0..MR {
                    let at = if has_pointers { rows[i].add(term) } else { a.add(i * a_row) };
                    let factor = T::In::<S>::splat(*at);
                    for j in 0..NR {
                        sums[i][j] = R::add::<S>(factor, b_row[j], sums[i][j]);
                    }
                }
                a = a.wrapping_add(a_term);
                b = b.wrapping_add(self.b_step);
            }
            for i in 0..MR {
                for j in 0..NR {
                    let at = self.c.add(i * self.c_step + j * T::In::<S>::LANES);
                    // C is added at the end: several short sums round less than one long sum.
                    let sum = if self.add { T::In::<S>::load(at).add(sums[i][j]) } else { sums[i][j] };
                    sum.store(at);
                }
            }
        }
    }
}
