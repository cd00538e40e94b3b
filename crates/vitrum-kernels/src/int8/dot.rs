//! Integer dot products at each level of instructions, with one layout of the weights.
//!
//! Weights are stored in panels of [`PANEL`] columns. For every four terms of the sum, a panel has four numbers of each
//! column. A tile of the output stays in registers for the whole sum. All levels compute the same integers:
//!
//! - AVX-512 VNNI and AVX-VNNI multiply bytes.
//! - AVX2 widens bytes to 16 bits, since its product of bytes saturates.
//! - The dot product of aarch64 multiplies signed bytes. Activations are stored minus 128, and the end corrects for it.
//! - Plain Rust multiplies integers.

use crate::prefetch::Lines;
use crate::simd::{Level, Scalar, Simd, integer_level};

/// Columns per panel.
pub(super) const PANEL: usize = 16;
/// Consecutive terms of the sum per column.
pub(super) const TERMS: usize = 4;
/// The most rows and panels of a tile at any level.
pub(super) const MAX_ROWS: usize = 12;
pub(super) const MAX_PANELS: usize = 2;

/// Operands of a tile.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Groups of [`TERMS`] terms.
    pub groups: usize,
    /// Quantised rows, `a_step` bytes apart.
    pub a: *const u8,
    pub a_step: usize,
    /// The first panel; the next is `b_step` bytes later.
    pub b: *const i8,
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    // Tiles of other processors are one panel wide.
    pub b_step: usize,
    /// Cache lines to prefetch, one per group.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // Other processors do not prefetch.
    pub ahead: Lines<i8>,
    /// The zero point of each row.
    pub zeros: &'a [i32],
    /// Sum of the weights of each column.
    pub sums: *const i32,
    /// Space for `Σ (a - zero) b` as `f32`, in rows of `MAX_PANELS` panels.
    pub to: *mut f32,
}

/// A level of integer instructions.
pub(super) trait Dot: 'static {
    /// The level of the floating-point work.
    type Float: Simd;
    /// Bytes per quantised activation.
    const BYTES: usize;
    /// The most rows and panels of a tile.
    const ROWS: usize;
    const PANELS: usize;

    /// Runs a job compiled for this level.
    ///
    /// # Safety
    /// Here and below: the processor must have this level's instructions.
    unsafe fn vectorize<J: DotKernel>(job: J) -> J::Output;

    /// `round(x · factor) + zero`, clamped to 0 … 255, for [`PANEL`] numbers. `x · factor` must be NaN or fit an
    /// integer.
    ///
    /// # Safety
    /// `from` must be readable for `PANEL` numbers, and `to` must have space for as many of `BYTES` bytes.
    unsafe fn quantize(from: *const f32, factor: f32, zero: i32, to: *mut u8);

    /// Computes a tile of `rows` by `panels`.
    ///
    /// # Safety
    /// `rows` and `panels` must be at least 1 and at most those of this level. The pointers must reach as far as
    /// [`Tile`] says.
    unsafe fn tile(tile: Tile, rows: usize, panels: usize);
}

/// A computation that runs at any level.
pub(super) trait DotKernel {
    type Output;

    /// Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor must have the instructions of `D`.
    unsafe fn run<D: Dot>(self) -> Self::Output;
}

/// Runs a job at the best level.
pub(super) fn run<J: DotKernel>(job: J) -> J::Output {
    match integer_level() {
        // SAFETY: the processor has the instructions of the level in use (likewise below).
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => unsafe { x86::Vnni512::vectorize(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => unsafe { x86::Vnni256::vectorize(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::Avx2::vectorize(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Dotprod => unsafe { aarch64::Dotprod::vectorize(job) },
        // SAFETY: needs no special instructions.
        _ => unsafe { <Scalar as Dot>::vectorize(job) },
    }
}

/// Runs `$call` with the number of rows as the constant `$R`.
macro_rules! for_rows {
    ($rows:expr, [$($r:literal)*], $R:ident => $call:expr) => {
        match $rows {
            $($r => {
                const $R: usize = $r;
                // SAFETY: upheld by the caller.
                unsafe { $call }
            })*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

/// 1.5 · 2²³. Adding it to a small number rounds that number to an integer, which is then in the lowest bits.
const ROUND: f32 = 12_582_912.0;

impl Dot for Scalar {
    type Float = Scalar;
    const BYTES: usize = 1;
    const ROWS: usize = 4;
    const PANELS: usize = 1;

    #[inline(always)]
    unsafe fn vectorize<J: DotKernel>(job: J) -> J::Output {
        // SAFETY: no special instructions are used.
        unsafe { job.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn quantize(from: *const f32, factor: f32, zero: i32, to: *mut u8) {
        for i in 0..PANEL {
            // SAFETY: upheld by the caller.
            unsafe {
                let rounded = *from.add(i) * factor + ROUND;
                let number = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
                *to.add(i) = number.wrapping_add(zero).clamp(0, 255) as u8;
            }
        }
    }

    #[inline(always)]
    unsafe fn tile(tile: Tile, rows: usize, _: usize) {
        for_rows!(rows, [1 2 3 4], MR => plain_tile::<MR>(tile))
    }
}

/// # Safety
/// As [`Dot::tile`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // Indices of several arrays.
unsafe fn plain_tile<const MR: usize>(tile: Tile) {
    let mut acc = [[0i32; PANEL]; MR];
    // SAFETY: upheld by the caller.
    unsafe {
        for group in 0..tile.groups {
            let b = &*tile.b.add(group * PANEL * TERMS).cast::<[[i8; TERMS]; PANEL]>();
            for i in 0..MR {
                let a = &*tile.a.add(i * tile.a_step + group * TERMS).cast::<[u8; TERMS]>();
                for j in 0..PANEL {
                    for p in 0..TERMS {
                        acc[i][j] += i32::from(a[p]) * i32::from(b[j][p]);
                    }
                }
            }
        }
        for i in 0..MR {
            for j in 0..PANEL {
                let sum = acc[i][j] - tile.zeros[i] * *tile.sums.add(j);
                *tile.to.add(i * MAX_PANELS * PANEL + j) = sum as f32;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Dot, DotKernel, MAX_PANELS, PANEL, TERMS, Tile};
    use crate::simd;

    pub(super) struct Vnni512;
    pub(super) struct Vnni256;
    pub(super) struct Avx2;

    impl Dot for Vnni512 {
        type Float = simd::Avx512;
        const BYTES: usize = 1;
        const ROWS: usize = 12;
        const PANELS: usize = 2;

        #[target_feature(enable = "avx512f,avx512vnni")]
        unsafe fn vectorize<J: DotKernel>(job: J) -> J::Output {
            // SAFETY: the caller has the instructions.
            unsafe { job.run::<Self>() }
        }

        #[inline(always)]
        unsafe fn quantize(from: *const f32, factor: f32, zero: i32, to: *mut u8) {
            // SAFETY: upheld by the caller.
            unsafe {
                let number = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from), _mm512_set1_ps(factor)));
                let shifted = _mm512_add_epi32(number, _mm512_set1_epi32(zero));
                let positive = _mm512_max_epi32(shifted, _mm512_setzero_si512());
                _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(positive));
            }
        }

        #[inline(always)]
        unsafe fn tile(tile: Tile, rows: usize, panels: usize) {
            if panels == 2 {
                for_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12], MR => tile_512::<MR, 2>(tile));
            } else {
                for_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12], MR => tile_512::<MR, 1>(tile));
            }
        }
    }

    /// # Safety
    /// As [`Dot::tile`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
    unsafe fn tile_512<const MR: usize, const NR: usize>(tile: Tile) {
        // SAFETY: upheld by the caller.
        unsafe {
            let mut acc = [[_mm512_setzero_si512(); NR]; MR];
            let (mut a, mut b, mut ahead) = (tile.a, tile.b, tile.ahead);
            for _ in 0..tile.groups {
                ahead.prefetch_next();
                let mut columns = [_mm512_setzero_si512(); NR];
                for j in 0..NR {
                    columns[j] = _mm512_loadu_si512(b.add(j * tile.b_step).cast());
                }
                for i in 0..MR {
                    let row = a.add(i * tile.a_step).cast::<i32>().read_unaligned();
                    let row = _mm512_set1_epi32(row);
                    for j in 0..NR {
                        acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], row, columns[j]);
                    }
                }
                a = a.wrapping_add(TERMS);
                b = b.wrapping_add(PANEL * TERMS);
            }
            for j in 0..NR {
                let sums = _mm512_loadu_si512(tile.sums.add(j * PANEL).cast());
                for i in 0..MR {
                    let shift = _mm512_mullo_epi32(_mm512_set1_epi32(tile.zeros[i]), sums);
                    let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(acc[i][j], shift));
                    _mm512_storeu_ps(tile.to.add((i * MAX_PANELS + j) * PANEL), sum);
                }
            }
        }
    }

    /// Quantises sixteen numbers to 16 bits each.
    ///
    /// # Safety
    /// As [`Dot::quantize`], for AVX2.
    #[inline(always)]
    unsafe fn quantize_256(from: *const f32, factor: f32, zero: i32) -> __m256i {
        // SAFETY: upheld by the caller.
        unsafe {
            let (factor, zero) = (_mm256_set1_ps(factor), _mm256_set1_epi32(zero));
            let low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from), factor));
            let high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from.add(8)), factor));
            let packed = _mm256_packus_epi32(_mm256_add_epi32(low, zero), _mm256_add_epi32(high, zero));
            _mm256_min_epu16(_mm256_permute4x64_epi64::<0b11_01_10_00>(packed), _mm256_set1_epi16(255))
        }
    }

    impl Dot for Vnni256 {
        type Float = simd::Avx2;
        const BYTES: usize = 1;
        const ROWS: usize = 6;
        const PANELS: usize = 1;

        #[target_feature(enable = "avx2,fma,avxvnni")]
        unsafe fn vectorize<J: DotKernel>(job: J) -> J::Output {
            // SAFETY: the caller has the instructions.
            unsafe { job.run::<Self>() }
        }

        #[inline(always)]
        unsafe fn quantize(from: *const f32, factor: f32, zero: i32, to: *mut u8) {
            // SAFETY: upheld by the caller.
            unsafe {
                let wide = quantize_256(from, factor, zero);
                let (low, high) = (_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
                _mm_storeu_si128(to.cast(), _mm_packus_epi16(low, high));
            }
        }

        #[inline(always)]
        unsafe fn tile(tile: Tile, rows: usize, _: usize) {
            for_rows!(rows, [1 2 3 4 5 6], MR => tile_256::<MR>(tile))
        }
    }

    /// # Safety
    /// As [`Dot::tile`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
    unsafe fn tile_256<const MR: usize>(tile: Tile) {
        // SAFETY: upheld by the caller.
        unsafe {
            let mut acc = [[_mm256_setzero_si256(); 2]; MR];
            let (mut a, mut b) = (tile.a, tile.b);
            for _ in 0..tile.groups {
                let columns = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(32).cast())];
                for i in 0..MR {
                    let row = a.add(i * tile.a_step).cast::<i32>().read_unaligned();
                    let row = _mm256_set1_epi32(row);
                    for j in 0..2 {
                        acc[i][j] = _mm256_dpbusd_avx_epi32(acc[i][j], row, columns[j]);
                    }
                }
                a = a.wrapping_add(TERMS);
                b = b.wrapping_add(PANEL * TERMS);
            }
            for j in 0..2 {
                for i in 0..MR {
                    finish_256(&tile, i, j, acc[i][j]);
                }
            }
        }
    }

    /// Writes the sums of half a panel for one row.
    ///
    /// # Safety
    /// As [`Dot::tile`], for AVX2.
    #[inline(always)]
    unsafe fn finish_256(tile: &Tile, row: usize, half: usize, acc: __m256i) {
        // SAFETY: upheld by the caller.
        unsafe {
            let sums = _mm256_loadu_si256(tile.sums.add(half * 8).cast());
            let shift = _mm256_mullo_epi32(_mm256_set1_epi32(tile.zeros[row]), sums);
            let sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(acc, shift));
            _mm256_storeu_ps(tile.to.add(row * MAX_PANELS * PANEL + half * 8), sum);
        }
    }

    impl Dot for Avx2 {
        type Float = simd::Avx2;
        const BYTES: usize = 2;
        const ROWS: usize = 4;
        const PANELS: usize = 1;

        #[target_feature(enable = "avx2,fma")]
        unsafe fn vectorize<J: DotKernel>(job: J) -> J::Output {
            // SAFETY: the caller has the instructions.
            unsafe { job.run::<Self>() }
        }

        #[inline(always)]
        unsafe fn quantize(from: *const f32, factor: f32, zero: i32, to: *mut u8) {
            // SAFETY: upheld by the caller.
            unsafe { _mm256_storeu_si256(to.cast(), quantize_256(from, factor, zero)) }
        }

        #[inline(always)]
        unsafe fn tile(tile: Tile, rows: usize, _: usize) {
            for_rows!(rows, [1 2 3 4], MR => tile_wide::<MR>(tile))
        }
    }

    /// Computes a panel in two halves of eight columns. A register holds four terms of four columns in 16 bits. Its
    /// sums of pairs of terms are added at the end.
    ///
    /// # Safety
    /// As [`Dot::tile`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
    unsafe fn tile_wide<const MR: usize>(tile: Tile) {
        // SAFETY: upheld by the caller.
        unsafe {
            for half in 0..2 {
                let mut acc = [[_mm256_setzero_si256(); 2]; MR];
                let (mut a, mut b) = (tile.a, tile.b.add(half * 32));
                for _ in 0..tile.groups {
                    let low = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.cast()));
                    let high = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.add(16).cast()));
                    for i in 0..MR {
                        let row = a.add(i * tile.a_step).cast::<i64>().read_unaligned();
                        let row = _mm256_set1_epi64x(row);
                        acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(row, low));
                        acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(row, high));
                    }
                    a = a.wrapping_add(2 * TERMS);
                    b = b.wrapping_add(PANEL * TERMS);
                }
                for i in 0..MR {
                    let pairs = _mm256_hadd_epi32(acc[i][0], acc[i][1]);
                    finish_256(&tile, i, half, _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs));
                }
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::{Dot, DotKernel, MAX_PANELS, PANEL, TERMS, Tile};
    use crate::simd;

    /// Quantised activations are stored minus this number, since the instruction multiplies signed bytes.
    const SHIFT: i32 = 128;

    pub(super) struct Dotprod;

    impl Dot for Dotprod {
        type Float = simd::Neon;
        const BYTES: usize = 1;
        const ROWS: usize = 6;
        const PANELS: usize = 1;

        #[target_feature(enable = "neon,dotprod")]
        unsafe fn vectorize<J: DotKernel>(job: J) -> J::Output {
            // SAFETY: the caller has the instructions.
            unsafe { job.run::<Self>() }
        }

        #[inline(always)]
        unsafe fn quantize(from: *const f32, factor: f32, zero: i32, to: *mut u8) {
            // SAFETY: upheld by the caller.
            unsafe {
                let low = quantize_128(from, factor, zero - SHIFT);
                let high = quantize_128(from.add(8), factor, zero - SHIFT);
                vst1q_s8(to.cast(), vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
            }
        }

        #[inline(always)]
        unsafe fn tile(tile: Tile, rows: usize, _: usize) {
            for_rows!(rows, [1 2 3 4 5 6], MR => tile_128::<MR>(tile))
        }
    }

    /// Quantises eight numbers to 16 bits each.
    ///
    /// # Safety
    /// As [`Dot::quantize`].
    #[inline(always)]
    unsafe fn quantize_128(from: *const f32, factor: f32, zero: i32) -> int16x8_t {
        // SAFETY: upheld by the caller.
        unsafe {
            let zero = vdupq_n_s32(zero);
            let low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(from), factor));
            let high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(from.add(4)), factor));
            vcombine_s16(vqmovn_s32(vaddq_s32(low, zero)), vqmovn_s32(vaddq_s32(high, zero)))
        }
    }

    /// A tile with four columns per register.
    ///
    /// # Safety
    /// As [`Dot::tile`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
    unsafe fn tile_128<const MR: usize>(tile: Tile) {
        // SAFETY: upheld by the caller.
        unsafe {
            let mut acc = [[vdupq_n_s32(0); PANEL / 4]; MR];
            let (mut a, mut b) = (tile.a, tile.b);
            for _ in 0..tile.groups {
                let mut columns = [vdupq_n_s8(0); PANEL / 4];
                for j in 0..PANEL / 4 {
                    columns[j] = vld1q_s8(b.add(j * 4 * TERMS));
                }
                for i in 0..MR {
                    let row = a.add(i * tile.a_step).cast::<f32>().read_unaligned();
                    for j in 0..PANEL / 4 {
                        acc[i][j] = dot(acc[i][j], columns[j], row);
                    }
                }
                a = a.wrapping_add(TERMS);
                b = b.wrapping_add(PANEL * TERMS);
            }
            for j in 0..PANEL / 4 {
                let sums = vld1q_s32(tile.sums.add(j * 4));
                for i in 0..MR {
                    let sum = vmlsq_n_s32(acc[i][j], sums, tile.zeros[i] - SHIFT);
                    vst1q_f32(tile.to.add(i * MAX_PANELS * PANEL + j * 4), vcvtq_f32_s32(sum));
                }
            }
        }
    }

    /// Adds to the sum of each column its products with the four bytes of `row`. `row` is not a number: it carries four
    /// bytes into the first lane of a vector register. (The intrinsic is available only in nightly compilers.)
    ///
    /// # Safety
    /// The processor must have the dot product.
    #[inline(always)]
    unsafe fn dot(mut sum: int32x4_t, columns: int8x16_t, row: f32) -> int32x4_t {
        // SAFETY: reads and writes only registers.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {columns:v}.16b, {row:v}.4b[0]",
                sum = inout(vreg) sum,
                columns = in(vreg) columns,
                row = in(vreg) row,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }
}
