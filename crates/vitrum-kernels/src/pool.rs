//! Pooling of maps with channels last.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::conv::ConvForm;
use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, written};

/// What becomes of the numbers under a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Their maximum. Padding counts as -∞.
    Max,
    /// Their mean. Padding does not count.
    Avg,
}

/// Cost of a number under a window, in multiplications (see `threads`).
const COST: usize = 2;

/// Sizes of maps `[B, H·W, C]` under a window.
#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    c: usize,
    form: ConvForm,
}

impl Sizes {
    fn new(x: &Shape, form: ConvForm) -> Self {
        Self { b: x[0], c: x[2], form }
    }

    fn cost(&self) -> usize {
        let [rows, columns] = self.form.out();
        let window = self.form.kernel[0] * self.form.kernel[1];
        (self.b * rows * columns * self.c).saturating_mul(window * COST)
    }

    /// The pixels under the window at a position of the result, as offsets in a map. Windows have no dilation.
    fn window(&self, [row, column]: [usize; 2], pixels: &mut Vec<usize>) {
        let ConvForm { grid, kernel, stride, before, .. } = self.form;
        let along = |axis: usize, position: usize| {
            let (start, before) = (position * stride[axis], before[axis]);
            start.saturating_sub(before)..(start + kernel[axis]).saturating_sub(before).min(grid[axis])
        };
        pixels.clear();
        for y in along(0, row) {
            pixels.extend(along(1, column).map(|x| (y * grid[1] + x) * self.c));
        }
    }
}

/// The pooled maps `[B, H'·W', C]`.
pub(crate) fn forward<T: Real>(x: &FlexTensor, form: ConvForm, pool: Pool) -> FlexTensor {
    let sizes = Sizes::new(&x.shape(), form);
    let (Sizes { b, c, .. }, [rows, columns]) = (sizes, form.out());
    let x = T::slice(x);
    let write = |y: Shared<T>| {
        for_each_block(b * rows, sizes.cost(), Vec::new, |pixels, line| {
            let (map, row) = (line / rows, line % rows);
            simd::run(Row { x, sizes, map, row, pool, y, pixels });
        });
    };
    // SAFETY: the blocks write all rows.
    let y = unsafe { written(b * rows * columns * c, write) };
    T::tensor(y, Shape::new([b, rows * columns, c]))
}

/// One row of the result.
struct Row<'a, T> {
    x: &'a [T],
    sizes: Sizes,
    map: usize,
    row: usize,
    pool: Pool,
    y: Shared<T>,
    /// Scratch.
    pixels: &'a mut Vec<usize>,
}

impl<T: Real> Kernel for Row<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Sizes { c, form, .. } = self.sizes;
        let ([h, w], [rows, columns]) = (form.grid, form.out());
        let whole = c - c % T::In::<S>::LANES;
        let map = &self.x[self.map * h * w * c..(self.map + 1) * h * w * c];
        for column in 0..columns {
            self.sizes.window([self.row, column], self.pixels);
            let to = self.y.at(((self.map * rows + self.row) * columns + column) * c);
            // SAFETY: the caller has the instructions; pixels and channels exist.
            unsafe {
                for channel in (0..whole).step_by(T::In::<S>::LANES) {
                    pooled::<T::In<S>>(map, self.pixels, channel, self.pool).store(to.add(channel));
                }
                for channel in whole..c {
                    pooled::<T::One>(map, self.pixels, channel, self.pool).store(to.add(channel));
                }
            }
        }
    }
}

/// The pooled vector at `channel`.
///
/// # Safety
/// The processor must have the instructions of `V`, and the pixels must have the channels.
#[inline(always)]
unsafe fn pooled<V: Vector>(x: &[V::Scalar], pixels: &[usize], channel: usize, pool: Pool) -> V {
    // SAFETY: upheld by the caller.
    unsafe {
        let load = |pixel: usize| x.as_ptr().add(pixel + channel);
        match pool {
            Pool::Max => {
                let mut most = V::load(load(pixels[0]));
                for &pixel in &pixels[1..] {
                    most = larger(most, V::load(load(pixel)));
                }
                most
            }
            Pool::Avg => {
                let mut sum = V::splat(V::Scalar::ZERO);
                for &pixel in pixels {
                    sum = sum.add(V::load(load(pixel)));
                }
                sum.div(V::splat(V::Scalar::from_f64(pixels.len() as f64)))
            }
        }
    }
}

/// The larger of two; NaN if either is.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
unsafe fn larger<V: Vector>(a: V, b: V) -> V {
    // SAFETY: upheld by the caller.
    let infinity = unsafe { V::splat(V::Scalar::ZERO.recip()) };
    // `max` gives b if either is NaN. What is added keeps a NaN of a. Otherwise it is 0, or ∞ if a is ∞.
    a.max(b).add(a.zero_below(a, infinity))
}

/// The gradient of the maps.
pub(crate) fn backward<T: Real>(x: &FlexTensor, grad: &FlexTensor, form: ConvForm, pool: Pool) -> FlexTensor {
    let shape = x.shape();
    let sizes = Sizes::new(&shape, form);
    let (x, grad) = (T::slice(x), T::slice(grad));
    let mut d_x = vec![T::ZERO; x.len()];
    let to = Shared::new(&mut d_x);
    // Windows overlap, so a block takes whole maps, for some channels.
    let parts = sizes.c.div_ceil(CHANNELS);
    for_each_block(sizes.b * parts, sizes.cost(), Vec::new, |pixels, block| {
        let first = block % parts * CHANNELS;
        let channels = first..sizes.c.min(first + CHANNELS);
        simd::run(BackMap { x, grad, sizes, map: block / parts, channels, pool, d_x: to, pixels });
    });
    T::tensor(d_x, shape)
}

/// Channels of a block of the backward pass: a cache line of `f32`.
const CHANNELS: usize = 16;

/// Some channels of the gradient of a map.
struct BackMap<'a, T> {
    x: &'a [T],
    grad: &'a [T],
    sizes: Sizes,
    map: usize,
    channels: std::ops::Range<usize>,
    pool: Pool,
    d_x: Shared<T>,
    /// Scratch.
    pixels: &'a mut Vec<usize>,
}

impl<T: Real> Kernel for BackMap<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Sizes { c, form, .. } = self.sizes;
        let ([h, w], [rows, columns]) = (form.grid, form.out());
        let lanes = T::In::<S>::LANES;
        let start = self.map * h * w * c;
        let whole = self.channels.end - self.channels.len() % lanes;
        for row in 0..rows {
            for column in 0..columns {
                self.sizes.window([row, column], self.pixels);
                let grad = &self.grad[((self.map * rows + row) * columns + column) * c..];
                // SAFETY: the caller has the instructions; no other block uses these channels of the map.
                unsafe {
                    let (map, to) = (&self.x[start..start + h * w * c], self.d_x.at(start));
                    for channel in (self.channels.start..whole).step_by(lanes) {
                        spread::<T::In<S>>(map, grad, self.pixels, channel, self.pool, to);
                    }
                    for channel in whole..self.channels.end {
                        spread::<T::One>(map, grad, self.pixels, channel, self.pool, to);
                    }
                }
            }
        }
    }
}

/// Adds the gradient of a position to the pixels under its window. The first of several maxima gets all of it. If the
/// maximum is NaN, the first pixel does.
///
/// # Safety
/// As [`pooled`]; `to` must have the pixels too.
#[inline(always)]
unsafe fn spread<V: Vector>(
    x: &[V::Scalar],
    grad: &[V::Scalar],
    pixels: &[usize],
    channel: usize,
    pool: Pool,
    to: *mut V::Scalar,
) {
    // SAFETY: upheld by the caller.
    unsafe {
        let grad = V::load(grad.as_ptr().add(channel));
        let add = |pixel: usize, part: V| {
            let at = to.add(pixel + channel);
            V::load(at).add(part).store(at);
        };
        match pool {
            Pool::Avg => {
                let part = grad.div(V::splat(V::Scalar::from_f64(pixels.len() as f64)));
                for &pixel in pixels {
                    add(pixel, part);
                }
            }
            Pool::Max => {
                let most = pooled::<V>(x, pixels, channel, pool);
                let (one, mut left) = (V::splat(V::Scalar::ONE), V::splat(V::Scalar::ONE));
                for &pixel in pixels {
                    let is_most = one.zero_below(V::load(x.as_ptr().add(pixel + channel)), most).mul(left);
                    left = left.sub(is_most);
                    add(pixel, grad.zero_below(is_most, one)); // a product with 0 would make NaN of ∞
                }
            }
        }
    }
}
