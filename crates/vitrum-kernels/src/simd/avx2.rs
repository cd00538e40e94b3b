//! AVX2 with FMA: 16 registers of 256 bits.

use std::arch::x86_64::*;

use super::register::register_vector;
use super::{Kernel, Simd, Vector};

pub(crate) struct Avx2;

impl Simd for Avx2 {
    type F32 = F32x8;
    type F64 = F64x4;
    const MANY_REGISTERS: bool = false;

    #[target_feature(enable = "avx2,fma")]
    unsafe fn vectorize<J: Kernel>(job: J) -> J::Output {
        // SAFETY: the caller has the instructions.
        unsafe { job.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn halves(pairs: F32x8) -> [F32x8; 2] {
        // SAFETY: upheld by the caller.
        unsafe {
            let bits = _mm256_castps_si256(pairs.0);
            let first = _mm256_slli_epi32::<16>(bits);
            let second = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
            [F32x8(_mm256_castsi256_ps(first)), F32x8(_mm256_castsi256_ps(second))]
        }
    }
}

register_vector!(
    F32x8,
    f32,
    __m256,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_div_ps,
    _mm256_sqrt_ps,
    _mm256_fmadd_ps,
    _mm256_max_ps,
    |x, n| _mm256_castsi256_ps(_mm256_add_epi32(
        _mm256_castps_si256(x),
        _mm256_slli_epi32::<23>(_mm256_castps_si256(n))
    )),
    |value, at, limit| _mm256_and_ps(value, _mm256_cmp_ps::<_CMP_NLT_UQ>(at, limit)),
    |a, b| {
        let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        (_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high))
    }
);
register_vector!(
    F64x4,
    f64,
    __m256d,
    4,
    _mm256_set1_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    _mm256_add_pd,
    _mm256_sub_pd,
    _mm256_mul_pd,
    _mm256_div_pd,
    _mm256_sqrt_pd,
    _mm256_fmadd_pd,
    _mm256_max_pd,
    |x, n| _mm256_castsi256_pd(_mm256_add_epi64(
        _mm256_castpd_si256(x),
        _mm256_slli_epi64::<52>(_mm256_castpd_si256(n))
    )),
    |value, at, limit| _mm256_and_pd(value, _mm256_cmp_pd::<_CMP_NLT_UQ>(at, limit)),
    |a, b| {
        let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
        (_mm256_permute2f128_pd::<0x20>(low, high), _mm256_permute2f128_pd::<0x31>(low, high))
    }
);
