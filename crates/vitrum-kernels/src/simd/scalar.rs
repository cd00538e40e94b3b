//! Plain Rust in blocks of four numbers, for any processor.

use super::{Kernel, Simd, Vector, pairs};

/// The level of plain Rust.
pub struct Scalar;

impl Simd for Scalar {
    type F32 = ArrayVector<f32, 4>;
    type F64 = ArrayVector<f64, 4>;
    const MANY_REGISTERS: bool = cfg!(target_arch = "aarch64");

    #[inline(always)]
    unsafe fn vectorize<J: Kernel>(job: J) -> J::Output {
        // SAFETY: no special instructions are used.
        unsafe { job.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn halves(ArrayVector(pairs): Self::F32) -> [Self::F32; 2] {
        let (mut first, mut second) = ([0.0; 4], [0.0; 4]);
        for (i, pair) in pairs.into_iter().enumerate() {
            [first[i], second[i]] = pairs::halves(pair);
        }
        [ArrayVector(first), ArrayVector(second)]
    }
}

/// Numbers in an array.
#[derive(Clone, Copy)]
pub struct ArrayVector<T, const N: usize>([T; N]);

macro_rules! array_vector {
    ($real:ident, $bits:ident, $digits:literal) => {
        impl<const N: usize> ArrayVector<$real, N> {
            #[inline(always)]
            fn zip(self, other: Self, f: impl Fn($real, $real) -> $real) -> Self {
                Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
            }
        }

        impl<const N: usize> Vector for ArrayVector<$real, N> {
            type Scalar = $real;
            const LANES: usize = N;

            #[inline(always)]
            unsafe fn splat(x: $real) -> Self {
                Self([x; N])
            }
            #[inline(always)]
            unsafe fn load(from: *const $real) -> Self {
                // SAFETY: upheld by the caller; arrays of numbers may be read unaligned.
                Self(unsafe { from.cast::<[$real; N]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $real) {
                // SAFETY: upheld by the caller.
                unsafe { to.cast::<[$real; N]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            fn interleave(self, other: Self) -> (Self, Self) {
                let lane = |i: usize| if i % 2 == 0 { self.0[i / 2] } else { other.0[i / 2] };
                (Self(std::array::from_fn(lane)), Self(std::array::from_fn(|i| lane(N + i))))
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.zip(other, |a, b| a + b)
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.zip(other, |a, b| a - b)
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.zip(other, |a, b| a * b)
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                self.zip(other, |a, b| a / b)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                Self(self.0.map($real::sqrt))
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, term: Self) -> Self {
                // Without the FMA instruction, `mul_add` would be a slow library call.
                if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                    Self(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], term.0[i])))
                } else {
                    self.mul(factor).add(term)
                }
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                self.zip(other, |a, b| if a > b { a } else { b })
            }
            #[inline(always)]
            fn scale_by(self, rounded: Self) -> Self {
                self.zip(rounded, |x, n| $real::from_bits(x.to_bits().wrapping_add(n.to_bits() << $digits)))
            }
            #[inline(always)]
            fn zero_below(self, x: Self, limit: Self) -> Self {
                Self(std::array::from_fn(|i| if x.0[i] < limit.0[i] { 0.0 } else { self.0[i] }))
            }
        }
    };
}

array_vector!(f32, u32, 23);
array_vector!(f64, u64, 52);
