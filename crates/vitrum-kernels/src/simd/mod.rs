//! Vector registers behind one trait, with the instruction set chosen at run time.
//!
//! A computation is a [`Kernel`], written once over [`Simd`]. [`run`] calls it in a function that is compiled with the
//! best instructions of this processor. Everything in a job that should become vector instructions must be
//! `#[inline(always)]`; otherwise it is compiled without them.
//!
//! The levels are AVX-512F and AVX2 with FMA on x86-64, NEON on aarch64, and plain Rust in blocks of four. The compiler
//! vectorises plain Rust as far as the baseline of the target allows (SSE2 on x86-64, NEON on aarch64). The environment
//! variable `VITRUM_SIMD` (`avx512f`, `avx2+fma`, `neon` or `scalar`) lowers the level, for tests or to reproduce the
//! last digits of another machine.

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
    unsafe fn vectorize<J: Kernel>(job: J) -> J::Output;

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
        // SAFETY: upheld by the caller.
        let ([a1, a2], [b1, b2]) = unsafe { (Self::halves(a), Self::halves(b)) };
        a2.mul_add(b2, a1.mul_add(b1, sum))
    }

    /// Rounds 32 numbers to 16 pairs in bf16. Source and destination may overlap: all numbers are read first.
    ///
    /// # Safety
    /// As `vectorize`. The numbers must be readable, and `to` must have space for the pairs.
    #[inline(always)]
    unsafe fn round_pairs(from: *const f32, to: *mut f32) {
        // SAFETY: upheld by the caller.
        unsafe {
            to.cast::<[f32; 16]>().write_unaligned(pairs::pairs_of(from.cast::<[f32; 32]>().read_unaligned()))
        };
    }

    /// A pair in bf16 in each lane, of the numbers in that lane of `first` and `second`.
    ///
    /// # Safety
    /// As `vectorize`.
    #[inline(always)]
    unsafe fn pair(first: Self::F32, second: Self::F32) -> Self::F32 {
        pairs::lanes_of_pairs(first, second)
    }
}

/// A computation that runs at any SIMD level.
pub trait Kernel {
    type Output;

    /// Runs the computation. Implementations must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}
