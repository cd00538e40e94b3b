//! NEON: 32 registers of 128 bits.

use std::arch::aarch64::*;

use super::register::register_vector;
use super::{Kernel, Simd, Vector};

pub(crate) struct Neon;

impl Simd for Neon {
    type F32 = F32x4;
    type F64 = F64x2;
    const MANY_REGISTERS: bool = true;

    #[target_feature(enable = "neon")]
    unsafe fn vectorize<J: Kernel>(job: J) -> J::Output {
        // SAFETY: the caller has the instructions.
        unsafe { job.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn halves(pairs: F32x4) -> [F32x4; 2] {
        // SAFETY: upheld by the caller.
        unsafe {
            let bits = vreinterpretq_u32_f32(pairs.0);
            let first = vshlq_n_u32::<16>(bits);
            let second = vandq_u32(bits, vdupq_n_u32(0xffff_0000));
            [F32x4(vreinterpretq_f32_u32(first)), F32x4(vreinterpretq_f32_u32(second))]
        }
    }
}

// Operands in the order of the trait. `vmaxq` would return NaN if either operand is NaN.

#[inline]
#[target_feature(enable = "neon")]
fn mul_add_f32(x: float32x4_t, factor: float32x4_t, term: float32x4_t) -> float32x4_t {
    vfmaq_f32(term, x, factor)
}

#[inline]
#[target_feature(enable = "neon")]
fn mul_add_f64(x: float64x2_t, factor: float64x2_t, term: float64x2_t) -> float64x2_t {
    vfmaq_f64(term, x, factor)
}

#[inline]
#[target_feature(enable = "neon")]
fn max_f32(x: float32x4_t, other: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(x, other), x, other)
}

#[inline]
#[target_feature(enable = "neon")]
fn max_f64(x: float64x2_t, other: float64x2_t) -> float64x2_t {
    vbslq_f64(vcgtq_f64(x, other), x, other)
}

register_vector!(
    F32x4,
    f32,
    float32x4_t,
    4,
    vdupq_n_f32,
    vld1q_f32,
    vst1q_f32,
    vaddq_f32,
    vsubq_f32,
    vmulq_f32,
    vdivq_f32,
    vsqrtq_f32,
    mul_add_f32,
    max_f32,
    |x, n| vreinterpretq_f32_s32(vaddq_s32(
        vreinterpretq_s32_f32(x),
        vshlq_n_s32::<23>(vreinterpretq_s32_f32(n))
    )),
    |value, at, limit| vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), vcltq_f32(at, limit))),
    |a, b| (vzip1q_f32(a, b), vzip2q_f32(a, b))
);
register_vector!(
    F64x2,
    f64,
    float64x2_t,
    2,
    vdupq_n_f64,
    vld1q_f64,
    vst1q_f64,
    vaddq_f64,
    vsubq_f64,
    vmulq_f64,
    vdivq_f64,
    vsqrtq_f64,
    mul_add_f64,
    max_f64,
    |x, n| vreinterpretq_f64_s64(vaddq_s64(
        vreinterpretq_s64_f64(x),
        vshlq_n_s64::<52>(vreinterpretq_s64_f64(n))
    )),
    |value, at, limit| vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(value), vcltq_f64(at, limit))),
    |a, b| (vzip1q_f64(a, b), vzip2q_f64(a, b))
);
