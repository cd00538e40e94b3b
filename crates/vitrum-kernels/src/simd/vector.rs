//! Vectors: a register of numbers and its operations.

use super::Real;

/// A register of `LANES` numbers.
///
/// Only `splat` and `load` create values, and both require the level's instructions. So the arithmetic on values is
/// safe.
pub trait Vector: Copy {
    type Scalar: Real;
    const LANES: usize;

    /// # Safety
    /// The processor must have this level's instructions.
    unsafe fn splat(x: Self::Scalar) -> Self;
    /// # Safety
    /// As `splat`; `from` must point to `LANES` readable numbers.
    unsafe fn load(from: *const Self::Scalar) -> Self;
    /// # Safety
    /// `to` must point to space for `LANES` numbers.
    unsafe fn store(self, to: *mut Self::Scalar);

    /// Loads `count` numbers, followed by zeros.
    ///
    /// # Safety
    /// As `splat`; `from` must point to `count` readable numbers, at most `LANES`.
    #[inline(always)]
    unsafe fn load_part(from: *const Self::Scalar, count: usize) -> Self {
        let mut lanes = [Self::Scalar::ZERO; 16];
        // SAFETY: upheld by the caller; no level has more than 16 lanes.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }
    /// # Safety
    /// `to` must point to space for `count` numbers, at most `LANES`.
    #[inline(always)]
    unsafe fn store_part(self, to: *mut Self::Scalar, count: usize) {
        let mut lanes = [Self::Scalar::ZERO; 16];
        // SAFETY: as for `load_part`.
        unsafe {
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
    /// Interleaves the lanes, `a₀ b₀ a₁ b₁ …`, into two registers.
    fn interleave(self, other: Self) -> (Self, Self);
    /// Transposes a block of `rows` rows at `step` to `LANES` rows at `to_step`. Missing rows count as zeros.
    ///
    /// # Safety
    /// As `splat`. `rows` is at most `LANES`, and each row must have `LANES` readable numbers. `to` must have space for
    /// `LANES` rows.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the rows in registers.
    unsafe fn transpose(
        from: *const Self::Scalar,
        step: usize,
        rows: usize,
        to: *mut Self::Scalar,
        to_step: usize,
    ) {
        // SAFETY: upheld by the caller.
        unsafe {
            let mut lines = [Self::splat(Self::Scalar::ZERO); 16];
            for i in 0..Self::LANES {
                if i < rows {
                    lines[i] = Self::load(from.add(i * step));
                }
            }
            let lines = Self::transposed(lines);
            for i in 0..Self::LANES {
                lines[i].store(to.add(i * to_step));
            }
        }
    }
    /// Transposes the numbers at `at` of these rows to `columns` rows at `to_step`. Missing rows count as zeros.
    ///
    /// # Safety
    /// As `splat`. There are at most `LANES` rows and `columns`. Each row must have `LANES` readable numbers at `at`.
    /// `to` must have space for `columns` rows of `LANES` numbers.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // As above.
    unsafe fn transpose_lines(
        rows: &[*const Self::Scalar],
        at: usize,
        columns: usize,
        to: *mut Self::Scalar,
        to_step: usize,
    ) {
        // SAFETY: upheld by the caller.
        unsafe {
            let mut lines = [Self::splat(Self::Scalar::ZERO); 16];
            for i in 0..Self::LANES {
                if i < rows.len() {
                    lines[i] = Self::load(rows[i].add(at));
                }
            }
            let lines = Self::transposed(lines);
            for i in 0..Self::LANES {
                if i < columns {
                    lines[i].store(to.add(i * to_step));
                }
            }
        }
    }
    /// The first `LANES` registers as a square, transposed.
    #[inline(always)]
    fn transposed(mut lines: [Self; 16]) -> [Self; 16] {
        // Each round moves the highest digit of a number's index in the square to the lowest place.
        let mut round = 1;
        while round < Self::LANES {
            let before = lines;
            for i in 0..Self::LANES / 2 {
                (lines[2 * i], lines[2 * i + 1]) = before[i].interleave(before[i + Self::LANES / 2]);
            }
            round *= 2;
        }
        lines
    }

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Quotient, correctly rounded.
    fn div(self, other: Self) -> Self;
    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// `self · factor + term`, rounded once if the processor can.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger; `other` if either is NaN.
    fn max(self, other: Self) -> Self;
    /// Multiplies by 2ⁿ, where n is in the low bits of `rounded`.
    fn scale_by(self, rounded: Self) -> Self;
    /// `self`, but 0 in the lanes where `x` is below `limit`.
    fn zero_below(self, x: Self, limit: Self) -> Self;

    /// eˣ for x ≤ 0 or NaN, with an error of at most 1.5 ulp; 0 below the normal numbers.
    #[inline(always)]
    fn exp(self) -> Self {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let round = Self::splat(Self::Scalar::ROUND);
            let rounded = self.mul_add(Self::splat(Self::Scalar::LOG2_E), round);
            let n = rounded.sub(round);
            let r = n.mul_add(Self::splat(Self::Scalar::NEG_LN_2[0]), self);
            let r = n.mul_add(Self::splat(Self::Scalar::NEG_LN_2[1]), r);
            let mut power = Self::splat(Self::Scalar::EXP[0]);
            for &coefficient in &Self::Scalar::EXP[1..] {
                power = power.mul_add(r, Self::splat(coefficient));
            }
            power.scale_by(rounded).zero_below(self, Self::splat(Self::Scalar::EXP_LOWEST))
        }
    }

    /// The sum of the lanes. Each step adds one half to the other, until one lane is left.
    #[inline(always)]
    fn sum(self) -> Self::Scalar {
        let mut lanes = [Self::Scalar::ZERO; 16];
        // SAFETY: no level has more than 16 lanes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for i in 0..width {
                lanes[i] = lanes[i] + lanes[i + width];
            }
        }
        lanes[0]
    }
}

/// The sum of four chains, added in pairs.
#[inline(always)]
pub(crate) fn sum_chains<V: Vector>([a, b, c, d]: [V; 4]) -> V {
    a.add(b).add(c.add(d))
}
