//! Queries and keys of length 1 in each head, for attention by angles.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, sum_parts, written};

/// A shorter query or key is divided by this instead of its length, as torch's `normalize` does.
pub(crate) const SHORTEST: f64 = 1e-12;

/// Tokens per block.
const ROWS: usize = 32;
/// Cost of a number, in multiplications (see `threads`).
const COST: usize = 4;

/// Sizes of `[B, T, 3·A·E]`.
#[derive(Clone, Copy)]
struct Sizes {
    /// `B·T`.
    rows: usize,
    /// `A`.
    heads: usize,
    /// `E`.
    head: usize,
}

impl Sizes {
    fn new(x: &Shape, scale: &Shape) -> Self {
        let heads = scale[0];
        Self { rows: x[0] * x[1], heads, head: x[2] / (3 * heads).max(1) }
    }

    fn width(&self) -> usize {
        3 * self.heads * self.head
    }

    fn blocks(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Calls `work` for blocks of rows: the block and its range of numbers.
    fn for_each_block(&self, work: impl Fn(usize, std::ops::Range<usize>) + Sync + Send) {
        let width = self.width();
        let cost = (self.rows * width).saturating_mul(COST);
        for_each_block(
            self.blocks(),
            cost,
            || (),
            |(), block| {
                work(block, block * ROWS * width..self.rows.min((block + 1) * ROWS) * width);
            },
        );
    }
}

/// See [`unit_heads`](crate::unit_heads). Tensors must be contiguous.
pub(crate) fn forward<T: Real>(x: &FlexTensor, scale: &FlexTensor) -> FlexTensor {
    let sizes = Sizes::new(&x.shape(), &scale.shape());
    let (numbers, scale) = (T::slice(x), T::slice(scale));
    let write = |y: Shared<T>| {
        sizes.for_each_block(|_, range| {
            let y = y.at(range.start);
            simd::run(Forward { x: &numbers[range], scale, sizes, y });
        });
    };
    // SAFETY: the blocks write all rows.
    T::tensor(unsafe { written(numbers.len(), write) }, x.shape())
}

/// Gradients of x and of the scale, from the gradient of the result. Tensors must be contiguous.
pub(crate) fn backward<T: Real>(
    x: &FlexTensor,
    scale: &FlexTensor,
    grad: &FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let sizes = Sizes::new(&x.shape(), &scale.shape());
    let heads = sizes.heads;
    let (numbers, factors, grad) = (T::slice(x), T::slice(scale), T::slice(grad));
    let mut sums = vec![0.0_f64; sizes.blocks().max(1) * heads];
    let shared = Shared::new(&mut sums);
    let write = |d_x: Shared<T>| {
        sizes.for_each_block(|block, range| {
            // SAFETY: each block has its own sums.
            let d_scale = unsafe { shared.part(block * heads, heads) };
            let (d_x, grad) = (d_x.at(range.start), &grad[range.clone()]);
            simd::run(Backward { x: &numbers[range], scale: factors, grad, sizes, d_x, d_scale });
        });
    };
    // SAFETY: the blocks write all rows.
    let d_x = unsafe { written(numbers.len(), write) };
    sum_parts(&mut sums, heads);
    let d_scale = sums[..heads].iter().map(|sum| T::from_f64(*sum)).collect();
    (T::tensor(d_x, x.shape()), T::tensor(d_scale, scale.shape()))
}

struct Forward<'a, T> {
    x: &'a [T],
    scale: &'a [T],
    sizes: Sizes,
    y: *mut T,
}

impl<T: Real> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Sizes { heads, head, .. } = self.sizes;
        for (row, x) in self.x.chunks_exact(self.sizes.width().max(1)).enumerate() {
            let y = self.y.wrapping_add(row * x.len());
            for index in 0..2 * heads {
                let scale = if index < heads { self.scale[index] } else { T::ONE };
                let at = index * head;
                // SAFETY: the caller has the instructions; y is as large as x.
                unsafe {
                    let from = x.as_ptr().add(at);
                    let factor = scale * rate(dot::<T, S>(from, from, head)).0;
                    combine::<T, S>(from, factor, from, T::ZERO, y.add(at), head);
                }
            }
            let values = &x[2 * heads * head..];
            // SAFETY: as above.
            unsafe { y.add(2 * heads * head).copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        }
    }
}

struct Backward<'a, T> {
    x: &'a [T],
    scale: &'a [T],
    grad: &'a [T],
    sizes: Sizes,
    d_x: *mut T,
    d_scale: &'a mut [f64],
}

impl<T: Real> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Sizes { heads, head, .. } = self.sizes;
        let width = self.sizes.width().max(1);
        for (row, (x, grad)) in self.x.chunks_exact(width).zip(self.grad.chunks_exact(width)).enumerate() {
            let d_x = self.d_x.wrapping_add(row * width);
            for index in 0..2 * heads {
                let at = index * head;
                // SAFETY: the caller has the instructions; all are as large as x.
                unsafe {
                    let (from, grad) = (x.as_ptr().add(at), grad.as_ptr().add(at));
                    let (rate, turns) = rate(dot::<T, S>(from, from, head));
                    let along = dot::<T, S>(from, grad, head) * rate; // the gradient along the unit vector
                    let mut factor = rate;
                    if index < heads {
                        self.d_scale[index] += along.to_f64();
                        factor = factor * self.scale[index];
                    }
                    let back = if turns { T::ZERO - factor * rate * along } else { T::ZERO };
                    combine::<T, S>(grad, factor, from, back, d_x.add(at), head);
                }
            }
            let values = &grad[2 * heads * head..];
            // SAFETY: as above.
            unsafe { d_x.add(2 * heads * head).copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        }
    }
}

/// The reciprocal of a length from its square, and whether it is that of the vector itself.
#[inline(always)]
fn rate<T: Real>(square: T) -> (T, bool) {
    let least = T::from_f64(SHORTEST * SHORTEST);
    // A length that is not a number stays one.
    match square <= least {
        true => (least.sqrt().recip(), false),
        false => (square.sqrt().recip(), true),
    }
}

/// `Σ a · b`.
///
/// # Safety
/// The processor must have the instructions of `S`; a and b must have `length` numbers.
#[inline(always)]
unsafe fn dot<T: Real, S: Simd>(a: *const T, b: *const T, length: usize) -> T {
    let lanes = T::In::<S>::LANES;
    let whole = length - length % lanes;
    // SAFETY: upheld by the caller.
    unsafe {
        let mut sums = T::In::<S>::splat(T::ZERO);
        for at in (0..whole).step_by(lanes) {
            sums = T::In::<S>::load(a.add(at)).mul_add(T::In::<S>::load(b.add(at)), sums);
        }
        let mut sum = sums.sum();
        for at in whole..length {
            sum = *a.add(at) * *b.add(at) + sum;
        }
        sum
    }
}

/// `y = a · s + b · t`.
///
/// # Safety
/// As for [`dot`]; y must have space for `length` numbers.
#[inline(always)]
unsafe fn combine<T: Real, S: Simd>(a: *const T, s: T, b: *const T, t: T, y: *mut T, length: usize) {
    let lanes = T::In::<S>::LANES;
    let whole = length - length % lanes;
    // SAFETY: upheld by the caller.
    unsafe {
        let (vs, vt) = (T::In::<S>::splat(s), T::In::<S>::splat(t));
        for at in (0..whole).step_by(lanes) {
            let a = T::In::<S>::load(a.add(at)).mul(vs);
            T::In::<S>::load(b.add(at)).mul_add(vt, a).store(y.add(at));
        }
        for at in whole..length {
            *y.add(at) = *b.add(at) * t + *a.add(at) * s;
        }
    }
}
