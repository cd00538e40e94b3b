//! Activation functions and their derivatives over vectors.
//!
//! GELU uses the tail of the normal distribution in the form `Φ(-t) = e^(-t²/2) g(t)`, where g is a polynomial in `1 /
//! (t + c)`. Negative numbers then keep their digits, and the derivative `Φ(x) + x φ(x)` needs no second exponential.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, written};

/// An activation function. It maps each number by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x`.
    #[default]
    Identity,
    /// `x Φ(x)`, with the error function (arXiv:1606.08415).
    Gelu,
    /// GELU's tanh approximation, `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    GeluTanh,
    /// `x σ(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`; its derivative at 0 is 0.
    Relu,
    /// `x σ(x)`.
    Silu,
}

impl Activation {
    /// All activation functions.
    pub const ALL: [Self; 6] =
        [Self::Identity, Self::Gelu, Self::GeluTanh, Self::QuickGelu, Self::Relu, Self::Silu];
}

/// `√(2/π)`, and the factor of the cubic term.
pub(crate) const TANH: [f64; 2] = [0.797_884_560_802_865_4, 0.044_715];
/// The factor in QuickGELU.
pub(crate) const QUICK: f64 = 1.702;
/// `1 / √(2π)`.
pub(crate) const DENSITY: f64 = 0.398_942_280_401_432_7;

/// An activation function over vectors.
pub(crate) trait ActivationFn: Copy + Send + Sync {
    /// # Safety
    /// Here and below: the caller must be compiled with the instructions of `V`. A value `x` alone does not ensure
    /// inlining.
    unsafe fn value<V: Vector>(self, x: V) -> V;
}

/// An activation function with a derivative.
pub(crate) trait Differentiable: ActivationFn {
    /// The value and the derivative.
    ///
    /// # Safety
    /// As [`ActivationFn::value`].
    unsafe fn value_and_derivative<V: Vector>(self, x: V) -> (V, V);
}

/// Runs `$body` with `$function` bound to the type of the activation.
macro_rules! with_activation {
    ($activation:expr, $function:ident => $body:expr) => {
        match $activation {
            $crate::activation::Activation::Identity => {
                let $function = $crate::activation::Identity;
                $body
            }
            $crate::activation::Activation::Gelu => {
                let $function = $crate::activation::Gelu;
                $body
            }
            $crate::activation::Activation::GeluTanh => {
                let $function = $crate::activation::GeluTanh;
                $body
            }
            $crate::activation::Activation::QuickGelu => {
                let $function = $crate::activation::Logistic($crate::activation::QUICK);
                $body
            }
            $crate::activation::Activation::Relu => {
                let $function = $crate::activation::Relu;
                $body
            }
            $crate::activation::Activation::Silu => {
                let $function = $crate::activation::Logistic(1.0);
                $body
            }
        }
    };
}
pub(crate) use with_activation;

#[derive(Clone, Copy)]
pub(crate) struct Identity;
#[derive(Clone, Copy)]
pub(crate) struct Gelu;
#[derive(Clone, Copy)]
pub(crate) struct GeluTanh;
#[derive(Clone, Copy)]
pub(crate) struct Relu;
/// `x σ(f x)`.
#[derive(Clone, Copy)]
pub(crate) struct Logistic(pub f64);

#[inline(always)]
unsafe fn splat<V: Vector>(x: f64) -> V {
    // SAFETY: upheld by the caller.
    unsafe { V::splat(V::Scalar::from_f64(x)) }
}

impl ActivationFn for Identity {
    #[inline(always)]
    unsafe fn value<V: Vector>(self, x: V) -> V {
        x
    }
}

impl Differentiable for Identity {
    #[inline(always)]
    unsafe fn value_and_derivative<V: Vector>(self, x: V) -> (V, V) {
        // SAFETY: upheld by the caller.
        (x, unsafe { splat(1.0) })
    }
}

impl ActivationFn for Relu {
    #[inline(always)]
    unsafe fn value<V: Vector>(self, x: V) -> V {
        // SAFETY: upheld by the caller. `max` returns x if x is NaN.
        unsafe { splat::<V>(0.0).max(x) }
    }
}

impl Differentiable for Relu {
    #[inline(always)]
    unsafe fn value_and_derivative<V: Vector>(self, x: V) -> (V, V) {
        // SAFETY: upheld by the caller.
        unsafe { (self.value(x), splat::<V>(1.0).zero_below(x, V::splat(V::Scalar::LEAST))) }
    }
}

impl Gelu {
    /// `Φ(x)` and `e^(-x²/2)`.
    #[inline(always)]
    unsafe fn parts<V: Vector>(x: V) -> (V, V) {
        // SAFETY: upheld by the caller.
        unsafe {
            let (zero, one) = (splat::<V>(0.0), splat::<V>(1.0));
            let bell = x.mul(x).mul(splat(-0.5)).exp();
            // -|x|, clamped to where the density is 0 anyway: an infinity would not survive the division.
            let negative = V::splat(zero_minus(V::Scalar::TAIL_END)).max(zero.sub(x.max(zero.sub(x))));
            let shift = V::Scalar::TAIL_SHIFT;
            let reciprocal = one.div(V::splat(shift).sub(negative));
            let u = reciprocal.mul_add(V::splat(zero_minus(shift + shift)), one);
            let mut tail = V::splat(V::Scalar::TAIL[0]);
            for &coefficient in &V::Scalar::TAIL[1..] {
                tail = tail.mul_add(u, V::splat(coefficient));
            }
            let tail = tail.mul(reciprocal).mul(bell);
            let rest = tail.mul_add(splat(-2.0), one).zero_below(x, zero);
            (tail.add(rest), bell)
        }
    }
}

/// `-x`.
#[inline(always)]
fn zero_minus<T: Real>(x: T) -> T {
    T::ZERO - x
}

impl ActivationFn for Gelu {
    #[inline(always)]
    unsafe fn value<V: Vector>(self, x: V) -> V {
        // SAFETY: upheld by the caller.
        unsafe { x.mul(Self::parts(x).0) }
    }
}

impl Differentiable for Gelu {
    #[inline(always)]
    unsafe fn value_and_derivative<V: Vector>(self, x: V) -> (V, V) {
        // SAFETY: upheld by the caller.
        unsafe {
            let (cdf, bell) = Self::parts(x);
            (x.mul(cdf), x.mul(splat(DENSITY)).mul_add(bell, cdf))
        }
    }
}

/// `σ(z)` and `σ(z) (1 - σ(z))`.
#[inline(always)]
unsafe fn logistic<V: Vector>(z: V) -> (V, V) {
    // SAFETY: upheld by the caller.
    unsafe {
        let (zero, one) = (splat::<V>(0.0), splat::<V>(1.0));
        let e = zero.sub(z.max(zero.sub(z))).exp(); // e^-|z|
        let sigmoid = one.div(one.add(e));
        let small = e.mul(sigmoid); // σ(-|z|)
        let rest = one.sub(e).mul(sigmoid).zero_below(z, zero); // σ(|z|) - σ(-|z|)
        (small.add(rest), small.mul(sigmoid))
    }
}

impl ActivationFn for Logistic {
    #[inline(always)]
    unsafe fn value<V: Vector>(self, x: V) -> V {
        // SAFETY: upheld by the caller.
        unsafe { x.mul(logistic(x.mul(splat(self.0))).0) }
    }
}

impl Differentiable for Logistic {
    #[inline(always)]
    unsafe fn value_and_derivative<V: Vector>(self, x: V) -> (V, V) {
        // SAFETY: upheld by the caller.
        unsafe {
            let z = x.mul(splat(self.0));
            let (sigmoid, change) = logistic(z);
            (x.mul(sigmoid), z.mul_add(change, sigmoid))
        }
    }
}

impl GeluTanh {
    /// `2 √(2/π) (x + 0.044715 x³)`, since (1 + tanh(y)) / 2 is σ(2y).
    #[inline(always)]
    unsafe fn argument<V: Vector>(x: V) -> V {
        // SAFETY: upheld by the caller.
        unsafe { x.mul(x).mul_add(splat(2.0 * TANH[0] * TANH[1]), splat(2.0 * TANH[0])).mul(x) }
    }
}

impl ActivationFn for GeluTanh {
    #[inline(always)]
    unsafe fn value<V: Vector>(self, x: V) -> V {
        // SAFETY: upheld by the caller.
        unsafe { x.mul(logistic(Self::argument(x)).0) }
    }
}

impl Differentiable for GeluTanh {
    #[inline(always)]
    unsafe fn value_and_derivative<V: Vector>(self, x: V) -> (V, V) {
        // SAFETY: upheld by the caller.
        unsafe {
            let (sigmoid, change) = logistic(Self::argument(x));
            // x times the derivative of the argument. Where x² overflows, `change` is 0.
            let steps = x.mul(x).mul_add(splat(6.0 * TANH[0] * TANH[1]), splat(2.0 * TANH[0])).mul(x);
            (x.mul(sigmoid), steps.mul_add(change, sigmoid))
        }
    }
}

/// Numbers per block: 64 KB of `f32`.
const BLOCK: usize = 1 << 14;
/// Cost per number, in multiplications (see `threads`).
const COST: usize = 16;

/// `activation(x)`, with the shape of x. `x` must be contiguous.
pub(crate) fn forward<T: Real>(x: &FlexTensor, activation: Activation) -> FlexTensor {
    let values = T::slice(x);
    // SAFETY: the blocks write all numbers.
    let y = unsafe {
        written(values.len(), |y| {
            in_blocks(values.len(), |start, length| {
                simd::run(Values { activation, x: &values[start..start + length], y: y.offset(start) });
            });
        })
    };
    T::tensor(y, x.shape())
}

/// The gradient of x, from the gradient of `activation(x)`. Both tensors must be contiguous.
pub(crate) fn backward<T: Real>(x: &FlexTensor, grad: &FlexTensor, activation: Activation) -> FlexTensor {
    let (values, grad) = (T::slice(x), T::slice(grad));
    assert_eq!(values.len(), grad.len(), "x and its gradient differ in length");
    // SAFETY: the blocks write all numbers.
    let d_x = unsafe {
        written(values.len(), |d_x| {
            in_blocks(values.len(), |start, length| {
                let range = start..start + length;
                let (x, grad) = (&values[range.clone()], &grad[range]);
                simd::run(Derivatives { activation, x, grad, d_x: d_x.offset(start) });
            });
        })
    };
    T::tensor(d_x, x.shape())
}

fn in_blocks(length: usize, work: impl Fn(usize, usize) + Sync + Send) {
    let cost = length.saturating_mul(COST);
    for_each_block(
        length.div_ceil(BLOCK),
        cost,
        || (),
        |(), block| {
            let start = block * BLOCK;
            work(start, BLOCK.min(length - start));
        },
    );
}

struct Values<'a, T> {
    activation: Activation,
    x: &'a [T],
    /// Space for as many numbers as `x` has.
    y: Shared<T>,
}

impl<T: Real> Kernel for Values<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (from, to) = (self.x.as_ptr(), self.y.at(0));
        let lanes = T::In::<S>::LANES;
        let bulk = self.x.len() - self.x.len() % lanes;
        let rest = self.x.len() - bulk;
        // SAFETY: whole vectors and the remainder of buffers of the same length.
        unsafe {
            with_activation!(self.activation, function => {
                for at in (0..bulk).step_by(lanes) {
                    function.value(T::In::<S>::load(from.add(at))).store(to.add(at));
                }
                if rest > 0 {
                    function.value(T::In::<S>::load_part(from.add(bulk), rest)).store_part(to.add(bulk), rest);
                }
            });
        }
    }
}

struct Derivatives<'a, T> {
    activation: Activation,
    x: &'a [T],
    grad: &'a [T],
    /// Space for as many numbers as `x` has.
    d_x: Shared<T>,
}

impl<T: Real> Kernel for Derivatives<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (x, grad, to) = (self.x.as_ptr(), self.grad.as_ptr(), self.d_x.at(0));
        let lanes = T::In::<S>::LANES;
        let bulk = self.x.len() - self.x.len() % lanes;
        let rest = self.x.len() - bulk;
        // SAFETY: whole vectors and the remainder of buffers of the same length.
        unsafe {
            with_activation!(self.activation, function => {
                for at in (0..bulk).step_by(lanes) {
                    let (_, derivative) = function.value_and_derivative(T::In::<S>::load(x.add(at)));
                    derivative.mul(T::In::<S>::load(grad.add(at))).store(to.add(at));
                }
                if rest > 0 {
                    let (_, derivative) = function.value_and_derivative(T::In::<S>::load_part(x.add(bulk), rest));
                    derivative.mul(T::In::<S>::load_part(grad.add(bulk), rest)).store_part(to.add(bulk), rest);
                }
            });
        }
    }
}
