//! AVX-512: 32 registers of 512 bits. With AVX512-BF16 also dot products of pairs in bf16.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::register::register_vector;
use super::{Kernel, Simd, Vector};

pub(crate) struct Avx512;
/// AVX-512 with dot products of pairs in bf16.
pub(crate) struct Avx512Bf16;

impl Simd for Avx512 {
    type F32 = F32x16;
    type F64 = F64x8;
    const MANY_REGISTERS: bool = true;

    #[target_feature(enable = "avx512f")]
    unsafe fn vectorize<J: Kernel>(job: J) -> J::Output {
        // SAFETY: the caller has the instructions.
        unsafe { job.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn halves(pairs: F32x16) -> [F32x16; 2] {
        // SAFETY: upheld by the caller.
        unsafe {
            let bits = _mm512_castps_si512(pairs.0);
            let first = _mm512_slli_epi32::<16>(bits);
            let second = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            [F32x16(_mm512_castsi512_ps(first)), F32x16(_mm512_castsi512_ps(second))]
        }
    }
}

impl Simd for Avx512Bf16 {
    type F32 = F32x16;
    type F64 = F64x8;
    const MANY_REGISTERS: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn vectorize<J: Kernel>(job: J) -> J::Output {
        // SAFETY: the caller has the instructions.
        unsafe { job.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn halves(pairs: F32x16) -> [F32x16; 2] {
        // SAFETY: upheld by the caller.
        unsafe { Avx512::halves(pairs) }
    }

    #[inline(always)]
    unsafe fn dot_pairs(a: F32x16, b: F32x16, sum: F32x16) -> F32x16 {
        // SAFETY: the caller has the instructions; both types are 512 bits.
        unsafe {
            let (a, b) = (transmute::<__m512, __m512bh>(a.0), transmute::<__m512, __m512bh>(b.0));
            F32x16(_mm512_dpbf16_ps(sum.0, a, b))
        }
    }

    #[inline(always)]
    unsafe fn round_pairs(from: *const f32, to: *mut f32) {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
            let pairs = transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_ps(to, pairs);
        }
    }

    #[inline(always)]
    unsafe fn pair(first: F32x16, second: F32x16) -> F32x16 {
        // SAFETY: as above.
        unsafe {
            // Lane i of the first vector is number i; lane i of the second is number 16 + i.
            let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let from =
                _mm512_or_si512(lane, _mm512_slli_epi32::<16>(_mm512_add_epi32(lane, _mm512_set1_epi32(16))));
            let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second.0, first.0));
            F32x16(_mm512_castsi512_ps(_mm512_permutexvar_epi16(from, both)))
        }
    }
}

register_vector!(
    F32x16,
    f32,
    __m512,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_div_ps,
    _mm512_sqrt_ps,
    _mm512_fmadd_ps,
    _mm512_max_ps,
    |x, n| _mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_castps_si512(x),
        _mm512_slli_epi32::<23>(_mm512_castps_si512(n))
    )),
    |value, at, limit| _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(at, limit), value),
    |a, b| (
        _mm512_permutex2var_ps(
            a,
            _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
            b
        ),
        _mm512_permutex2var_ps(
            a,
            _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
            b
        )
    )
);
register_vector!(
    F64x8,
    f64,
    __m512d,
    8,
    _mm512_set1_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    _mm512_add_pd,
    _mm512_sub_pd,
    _mm512_mul_pd,
    _mm512_div_pd,
    _mm512_sqrt_pd,
    _mm512_fmadd_pd,
    _mm512_max_pd,
    |x, n| _mm512_castsi512_pd(_mm512_add_epi64(
        _mm512_castpd_si512(x),
        _mm512_slli_epi64::<52>(_mm512_castpd_si512(n))
    )),
    |value, at, limit| _mm512_maskz_mov_pd(_mm512_cmp_pd_mask::<_CMP_NLT_UQ>(at, limit), value),
    |a, b| (
        _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b),
        _mm512_permutex2var_pd(a, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b)
    )
);
