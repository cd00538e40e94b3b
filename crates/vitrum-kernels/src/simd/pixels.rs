//! Weighted sums of 8-bit pixels at each level.

#[cfg(target_arch = "aarch64")]
use super::Neon;
use super::Scalar;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512, Avx512Bf16};

/// Weighted sums of pixels of three bytes.
pub trait WeighPixels {
    /// Sums of four bytes per pixel: sum i is `start` plus `weights[p]` times byte `3 p + i` over all pixels p.
    ///
    /// # Safety
    /// The processor must have this level's instructions. Three bytes per weight and one more must be readable at
    /// `from`.
    #[inline(always)]
    unsafe fn weigh_pixels(from: *const u8, weights: &[i32], start: i32) -> [i32; 4] {
        let mut sums = [start; 4];
        for (place, &weight) in weights.iter().enumerate() {
            // SAFETY: upheld by the caller.
            let bytes = unsafe { from.add(3 * place).cast::<[u8; 4]>().read() };
            for (sum, byte) in sums.iter_mut().zip(bytes) {
                *sum += i32::from(byte) * weight;
            }
        }
        sums
    }
}

impl WeighPixels for Scalar {}

#[cfg(target_arch = "x86_64")]
impl WeighPixels for Avx512 {
    #[inline(always)]
    unsafe fn weigh_pixels(from: *const u8, weights: &[i32], start: i32) -> [i32; 4] {
        // SAFETY: upheld by the caller; SSE 4.1 is part of this level.
        unsafe { sse41::weigh_pixels(from, weights, start) }
    }
}

#[cfg(target_arch = "x86_64")]
impl WeighPixels for Avx512Bf16 {}

#[cfg(target_arch = "x86_64")]
impl WeighPixels for Avx2 {
    #[inline(always)]
    unsafe fn weigh_pixels(from: *const u8, weights: &[i32], start: i32) -> [i32; 4] {
        // SAFETY: upheld by the caller; SSE 4.1 is part of this level.
        unsafe { sse41::weigh_pixels(from, weights, start) }
    }
}

#[cfg(target_arch = "x86_64")]
mod sse41 {
    use std::arch::x86_64::*;

    /// See [`WeighPixels::weigh_pixels`](super::WeighPixels::weigh_pixels). The compiler's own vectorisation takes
    /// eight pixels at a time, but most filters have fewer.
    ///
    /// # Safety
    /// As there, with SSE 4.1.
    #[inline(always)]
    pub(super) unsafe fn weigh_pixels(from: *const u8, weights: &[i32], start: i32) -> [i32; 4] {
        // SAFETY: upheld by the caller.
        unsafe {
            let mut sums = _mm_set1_epi32(start);
            for (place, &weight) in weights.iter().enumerate() {
                let bytes = from.add(3 * place).cast::<i32>().read_unaligned();
                let bytes = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes));
                sums = _mm_add_epi32(sums, _mm_mullo_epi32(bytes, _mm_set1_epi32(weight)));
            }
            let mut lanes = [0; 4];
            _mm_storeu_si128(lanes.as_mut_ptr().cast(), sums);
            lanes
        }
    }
}

#[cfg(target_arch = "aarch64")]
impl WeighPixels for Neon {
    /// The compiler's own vectorisation takes eight pixels at a time, but most filters have fewer.
    #[inline(always)]
    unsafe fn weigh_pixels(from: *const u8, weights: &[i32], start: i32) -> [i32; 4] {
        use std::arch::aarch64::*;
        // The source byte of each byte. Byte 16 does not exist, so it gives 0.
        const WIDEN: [u8; 16] = [0, 16, 16, 16, 1, 16, 16, 16, 2, 16, 16, 16, 3, 16, 16, 16];
        // SAFETY: upheld by the caller.
        unsafe {
            let widen = vld1q_u8(WIDEN.as_ptr());
            let mut sums = vdupq_n_s32(start);
            for (place, &weight) in weights.iter().enumerate() {
                let bytes = from.add(3 * place).cast::<u32>().read_unaligned();
                let bytes = vqtbl1q_u8(vreinterpretq_u8_u32(vdupq_n_u32(bytes)), widen);
                sums = vmlaq_n_s32(sums, vreinterpretq_s32_u8(bytes), weight);
            }
            let mut lanes = [0; 4];
            vst1q_s32(lanes.as_mut_ptr(), sums);
            lanes
        }
    }
}
