//! A macro that implements [`Vector`](super::Vector) for a register of a processor.

/// Implements [`Vector`] for a register from the names of its instructions.
macro_rules! register_vector {
    (
        $name:ident, $real:ident, $register:ident, $lanes:literal, $splat:ident, $load:ident, $store:ident,
        $add:ident, $sub:ident, $mul:ident, $div:ident, $sqrt:ident, $fmadd:ident, $max:ident,
        |$x:ident, $n:ident| $scale_by:expr, |$value:ident, $at:ident, $limit:ident| $zero_below:expr,
        |$even:ident, $odd:ident| $interleave:expr
    ) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name($register);

        impl Vector for $name {
            type Scalar = $real;
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn splat(x: $real) -> Self {
                // SAFETY: the caller has the instructions.
                Self(unsafe { $splat(x) })
            }
            #[inline(always)]
            unsafe fn load(from: *const $real) -> Self {
                // SAFETY: the caller has the instructions, and the numbers are readable.
                Self(unsafe { $load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $real) {
                // SAFETY: the caller provides the space; a value exists, so the instructions do.
                unsafe { $store(to, self.0) }
            }
            #[inline(always)]
            fn interleave(self, other: Self) -> (Self, Self) {
                let ($even, $odd) = (self.0, other.0);
                // SAFETY: as for `add`.
                let (low, high) = unsafe { $interleave };
                (Self(low), Self(high))
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: a value exists, so the instructions do (likewise below).
                Self(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $sub(self.0, other.0) })
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $mul(self.0, other.0) })
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $div(self.0, other.0) })
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $sqrt(self.0) })
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, term: Self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $fmadd(self.0, factor.0, term.0) })
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $max(self.0, other.0) })
            }
            #[inline(always)]
            fn scale_by(self, rounded: Self) -> Self {
                let ($x, $n) = (self.0, rounded.0);
                // SAFETY: as for `add`.
                Self(unsafe { $scale_by })
            }
            #[inline(always)]
            fn zero_below(self, x: Self, limit: Self) -> Self {
                let ($value, $at, $limit) = (self.0, x.0, limit.0);
                // SAFETY: as for `add`. "Not less than" keeps the lanes where x is NaN.
                Self(unsafe { $zero_below })
            }
        }
    };
}
pub(super) use register_vector;
