//! Vector registers behind one trait, and the choice among them at run time.
//!
//! A computation is a [`Job`], written once over [`Simd`]; [`run`] hands it to a function compiled with the widest
//! instructions this processor has. Inside a job, everything that should become vector instructions must be
//! `#[inline(always)]`: only then is it compiled with those instructions.
//!
//! Levels: AVX-512F and AVX2 with FMA on x86-64, NEON on aarch64, and plain Rust in blocks of four, which the compiler
//! vectorises as far as the target's baseline allows (SSE2 on x86-64, NEON on aarch64). The environment variable
//! `VITRUM_SIMD` (`avx512f`, `avx2+fma`, `neon` or `scalar`) lowers the choice, to reproduce another machine's last
//! digits or to test.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod level;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod pairs;
mod pixels;
mod real;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod register;
mod scalar;
#[cfg(test)]
mod tests;
mod vector;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, Avx512Bf16};
pub(crate) use level::{Level, integer_level, run, run_pairs};
pub use level::{bf16_level, int8_level, simd_level};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub use pixels::WeighPixels;
pub use real::Real;
pub use scalar::Scalar;
pub use vector::Vector;
pub(crate) use vector::sum_chains;

/// A SIMD level.
pub trait Simd: WeighPixels + 'static {
    type F32: Vector<Scalar = f32>;
    type F64: Vector<Scalar = f64>;
    /// Whether there are 32 vector registers rather than 16.
    const MANY_REGISTERS: bool;

    /// Runs a job compiled for this level.
    ///
    /// # Safety
    /// The processor must have this level's instructions.
    unsafe fn vectorize<J: Job>(job: J) -> J::Output;

    /// The first and the second number of each pair in bf16 (see [`bf16`](crate::bf16)).
    ///
    /// # Safety
    /// As `vectorize`.
    unsafe fn halves(pairs: Self::F32) -> [Self::F32; 2];

    /// `sum + a₁ b₁ + a₂ b₂` of pairs in bf16.
    ///
    /// # Safety
    /// As `vectorize`.
    #[inline(always)]
    unsafe fn dot_pairs(a: Self::F32, b: Self::F32, sum: Self::F32) -> Self::F32 {
        // SAFETY: the caller's.
        let ([a1, a2], [b1, b2]) = unsafe { (Self::halves(a), Self::halves(b)) };
        a2.mul_add(b2, a1.mul_add(b1, sum))
    }

    /// Rounds 32 numbers to 16 pairs in bf16. The two places may overlap: all is read first.
    ///
    /// # Safety
    /// As `vectorize`; the numbers must be readable and the pairs have room.
    #[inline(always)]
    unsafe fn round_pairs(from: *const f32, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe {
            to.cast::<[f32; 16]>().write_unaligned(pairs::pairs_of(from.cast::<[f32; 32]>().read_unaligned()))
        };
    }

    /// The numbers of each lane as a pair in bf16.
    ///
    /// # Safety
    /// As `vectorize`.
    #[inline(always)]
    unsafe fn pair(first: Self::F32, second: Self::F32) -> Self::F32 {
        pairs::lanes_of_pairs(first, second)
    }
}

/// Something to compute at any SIMD level.
pub trait Job {
    type Output;

    /// Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}
