//! The kinds of terms of a sum: numbers, or pairs in bf16.

use crate::simd::{self, Kernel, Real, Simd, Vector};

/// How a term is added to a sum, and with which instructions.
pub(crate) trait Terms<T: Real>: 'static {
    /// Runs a job at the best level for these terms.
    fn run<J: Kernel>(job: J) -> J::Output;

    /// `sum` plus the product of two factors.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`.
    unsafe fn add<S: Simd>(factor: T::In<S>, other: T::In<S>, sum: T::In<S>) -> T::In<S>;
}

/// A factor is a number.
pub(crate) struct Numbers;

impl<T: Real> Terms<T> for Numbers {
    fn run<J: Kernel>(job: J) -> J::Output {
        simd::run(job)
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(factor: T::In<S>, other: T::In<S>, sum: T::In<S>) -> T::In<S> {
        factor.mul_add(other, sum)
    }
}

/// A factor is a pair of bf16 numbers in the bits of an `f32`, so a term is two terms of the sum.
pub(crate) struct Pairs;

impl Terms<f32> for Pairs {
    fn run<J: Kernel>(job: J) -> J::Output {
        simd::run_pairs(job)
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(factor: S::F32, other: S::F32, sum: S::F32) -> S::F32 {
        // SAFETY: upheld by the caller.
        unsafe { S::dot_pairs(factor, other, sum) }
    }
}
