//! Gates, which multiply maps by a number per map and channel, and squeezes, which take the mean or the length of each
//! channel of a map: the parts of squeeze-and-excitation and of global response normalisation.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::columns::{Pass, run};
use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, written};

/// Rows of a map per block.
const ROWS: usize = 64;
/// Cost of a number, in multiplications (see `threads`).
const COST: usize = 4;

/// A number per channel of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Squeeze {
    /// The mean over the map.
    Mean,
    /// The square root of the sum of squares.
    Length,
}

/// Sizes of maps `[B, N, C]`.
#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    n: usize,
    c: usize,
}

impl Sizes {
    fn new(x: &Shape) -> Self {
        Self { b: x[0], n: x[1], c: x[2] }
    }

    /// Calls `work` for blocks of rows of single maps: the block, its map, and its numbers' range.
    fn for_each_rows(&self, work: impl Fn(usize, usize, std::ops::Range<usize>) + Sync + Send) {
        let Self { b, n, c } = *self;
        let parts = n.div_ceil(ROWS);
        for_each_block(
            b * parts,
            (b * n * c).saturating_mul(COST),
            || (),
            |(), block| {
                let (map, part) = (block / parts, block % parts);
                let rows = part * ROWS..n.min((part + 1) * ROWS);
                work(block, map, (map * n + rows.start) * c..(map * n + rows.end) * c);
            },
        );
    }

    fn shape(&self) -> Shape {
        Shape::new([self.b, self.n, self.c])
    }
}

/// `x · scale + shift`, with `scale` `[B, C]` and `shift` `[C]`. Tensors must be contiguous.
pub(crate) fn forward<T: Real>(
    x: &FlexTensor,
    scale: &FlexTensor,
    shift: Option<&FlexTensor>,
    residual: bool,
) -> FlexTensor {
    let sizes = Sizes::new(&x.shape());
    let (x, scale, shift) = (T::slice(x), T::slice(scale), shift.map(T::slice));
    let write = |y: Shared<T>| {
        sizes.for_each_rows(|_, map, range| {
            let (scale, y) = (&scale[map * sizes.c..(map + 1) * sizes.c], y.at(range.start));
            simd::run(Scale { x: &x[range], scale, shift, residual, y });
        });
    };
    // SAFETY: the blocks write all rows.
    T::tensor(unsafe { written(x.len(), write) }, sizes.shape())
}

/// Rows times a number per channel.
struct Scale<'a, T> {
    x: &'a [T],
    scale: &'a [T],
    shift: Option<&'a [T]>,
    /// Whether x is added.
    residual: bool,
    y: *mut T,
}

impl<T: Real> Kernel for Scale<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.scale.len();
        let whole = c - c % T::In::<S>::LANES;
        for row in 0..self.x.len().checked_div(c).unwrap_or(0) {
            // SAFETY: the caller has the instructions; y is as large as x.
            unsafe {
                for channel in (0..whole).step_by(T::In::<S>::LANES) {
                    self.number::<T::In<S>>(row, channel);
                }
                for channel in whole..c {
                    self.number::<T::One>(row, channel);
                }
            }
        }
    }
}

impl<T: Real> Scale<'_, T> {
    /// # Safety
    /// The processor must have the instructions of `V`, and the numbers must exist.
    #[inline(always)]
    unsafe fn number<V: Vector<Scalar = T>>(&self, row: usize, channel: usize) {
        let at = row * self.scale.len() + channel;
        // SAFETY: upheld by the caller.
        unsafe {
            let x = V::load(self.x.as_ptr().add(at));
            let scale = V::load(self.scale.as_ptr().add(channel));
            let y = match self.shift {
                Some(shift) => x.mul_add(scale, V::load(shift.as_ptr().add(channel))),
                None => x.mul(scale),
            };
            let y = if self.residual { y.add(x) } else { y };
            y.store(self.y.add(at));
        }
    }
}

/// Gradients of x and scale. That of the shift is the sum of the rows of `grad`.
pub(crate) fn backward<T: Real>(
    x: &FlexTensor,
    scale: &FlexTensor,
    grad: &FlexTensor,
    residual: bool,
) -> (FlexTensor, FlexTensor) {
    let sizes = Sizes::new(&x.shape());
    let d_x = forward::<T>(grad, scale, None, residual);
    let d_scale = sums(T::slice(x), Some(T::slice(grad)), sizes, 1.0);
    (d_x, T::tensor(d_scale, Shape::new([sizes.b, sizes.c])))
}

/// A number per channel of each map, `[B, C]`. Tensors must be contiguous.
pub(crate) fn squeeze<T: Real>(x: &FlexTensor, squeeze: Squeeze) -> FlexTensor {
    let sizes = Sizes::new(&x.shape());
    let x = T::slice(x);
    let numbers = match squeeze {
        Squeeze::Mean => sums::<T>(x, None, sizes, 1.0 / sizes.n as f64),
        Squeeze::Length => sums(x, Some(x), sizes, 1.0).into_iter().map(T::sqrt).collect(),
    };
    T::tensor(numbers, Shape::new([sizes.b, sizes.c]))
}

/// `factor · Σ a · b` of each channel of each map; without b, `factor · Σ a`.
fn sums<T: Real>(a: &[T], b: Option<&[T]>, sizes: Sizes, factor: f64) -> Vec<T> {
    let parts = sizes.n.div_ceil(ROWS);
    let c = sizes.c;
    let write = |sums: Shared<T>| {
        sizes.for_each_rows(|block, _, range| {
            let b = b.map(|b| &b[range.clone()]);
            // SAFETY: each block has its own sums, and b is as large as a.
            unsafe { run(Sums { a: &a[range], b, c, sums: sums.at(block * c) }) };
        });
    };
    // SAFETY: each block writes its sums.
    let partial = unsafe { written(sizes.b * parts * c, write) };
    let mut totals = vec![T::ZERO; sizes.b * c];
    for map in 0..sizes.b {
        for j in 0..c {
            let total: f64 = (0..parts).map(|part| partial[(map * parts + part) * c + j].to_f64()).sum();
            totals[map * c + j] = T::from_f64(total * factor);
        }
    }
    totals
}

/// Σ a · b, or Σ a, of each channel.
struct Sums<'a, T> {
    a: &'a [T],
    b: Option<&'a [T]>,
    c: usize,
    sums: *mut T,
}

impl<T: Real> Pass<T> for Sums<'_, T> {
    fn width(&self) -> usize {
        self.c
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
    unsafe fn columns<V: Vector<Scalar = T>, const N: usize>(&mut self, column: usize) {
        // SAFETY: upheld by the caller.
        unsafe {
            let mut sums = [V::splat(T::ZERO); N];
            for row in 0..self.a.len() / self.c {
                for j in 0..N {
                    let at = row * self.c + column + j * V::LANES;
                    let a = V::load(self.a.as_ptr().add(at));
                    sums[j] = match self.b {
                        Some(b) => a.mul_add(V::load(b.as_ptr().add(at)), sums[j]),
                        None => sums[j].add(a),
                    };
                }
            }
            for j in 0..N {
                sums[j].store(self.sums.add(column + j * V::LANES));
            }
        }
    }
}

/// The gradient of x of a [`squeeze`], from its result and that result's gradient.
pub(crate) fn squeeze_backward<T: Real>(
    x: &FlexTensor,
    squeezed: &FlexTensor,
    grad: &FlexTensor,
    squeeze: Squeeze,
) -> FlexTensor {
    let sizes = Sizes::new(&x.shape());
    let grad = T::slice(grad);
    match squeeze {
        Squeeze::Mean => {
            let share = T::from_f64(1.0 / sizes.n as f64);
            let rows: Vec<T> = grad.iter().map(|&grad| grad * share).collect();
            let write = |d_x: Shared<T>| {
                sizes.for_each_rows(|_, map, range| {
                    let row = &rows[map * sizes.c..(map + 1) * sizes.c];
                    for at in range.step_by(sizes.c.max(1)) {
                        // SAFETY: each block has its own rows.
                        unsafe { d_x.at(at).copy_from_nonoverlapping(row.as_ptr(), sizes.c) };
                    }
                });
            };
            // SAFETY: the blocks write all rows.
            T::tensor(unsafe { written(sizes.b * sizes.n * sizes.c, write) }, sizes.shape())
        }
        Squeeze::Length => {
            // A channel of zeros has no direction: its gradient is 0, as in torch.
            let slope = |(&length, &grad): (&T, &T)| {
                if length == T::ZERO { T::ZERO } else { T::from_f64(grad.to_f64() / length.to_f64()) }
            };
            let scale: Vec<T> = T::slice(squeezed).iter().zip(grad).map(slope).collect();
            forward::<T>(x, &T::tensor(scale, Shape::new([sizes.b, sizes.c])), None, false)
        }
    }
}
