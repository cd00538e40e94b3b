//! Depthwise convolutions: each channel has its own kernel. They run directly along the rows of the maps.
//!
//! A few neighbouring positions of the result are summed at once, so that each number of the kernel is loaded once for
//! all of them. Where the kernel reaches over the edge, positions are summed one by one, many channels at once, without
//! the pixels outside. Sums are added in the order of the kernel either way, so that both give the same bits.

use std::ops::Range;

use super::Sizes;
use super::fold::{Fold, Folded};
use crate::gemm::ApplyRows;
use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, share, sum_parts, written};

/// Positions that are summed at once.
const POSITIONS: usize = 4;
/// Vectors of channels at these positions. With the kernel's numbers they fill 10 registers.
const VECTORS: usize = 2;
/// Vectors of channels at a position on the edge.
const EDGE_VECTORS: usize = 6;
/// The rows of the result are cut into this many parts for the gradient of the kernel. Each part has its own sums.
const PARTS: usize = 16;

/// The convolution `[B, H'·W', C]`.
pub(super) fn forward<T: Real>(x: &[T], weight: &[T], fold: &Fold<T>, sizes: Sizes) -> Vec<T> {
    let Sizes { b, c, m, form, .. } = sizes;
    let [rows, columns] = form.out();
    let folded = Folded::new(fold, c);
    let epilogue = &folded.epilogue(0, c);
    epilogue.check(m, c, c);
    let write = |y: Shared<T>| {
        for_each_block(
            b * rows,
            m.saturating_mul(c).saturating_mul(form.kernel[0] * form.kernel[1]),
            Vec::new,
            |pairs, line| {
                simd::run(Row { x, weight, sizes, map: line / rows, row: line % rows, y, pairs });
                let positions = line * columns..(line + 1) * columns;
                simd::run(ApplyRows { epilogue, c: y, n: c, rows: positions });
            },
        );
    };
    // SAFETY: the blocks write all rows.
    unsafe { written(m * c, write) }
}

/// Terms of a sum: offsets of a pixel in the maps and of a pixel in the kernel.
type Pair = (usize, usize);

/// One row of the result.
struct Row<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    sizes: Sizes,
    map: usize,
    row: usize,
    y: Shared<T>,
    /// Scratch.
    pairs: &'a mut Vec<Pair>,
}

impl<T: Real> Kernel for Row<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let [_, columns] = self.sizes.form.out();
        let inner = inner(&self.sizes, 1);
        // SAFETY: the caller has the instructions; the row lies in the result, and no other block uses it.
        unsafe {
            self.positions::<T::In<S>>(inner.clone());
            for column in (0..inner.start).chain(inner.end..columns) {
                self.edge::<T::In<S>>(column);
            }
        }
    }
}

/// The positions along an axis whose kernel stays on the map.
fn inner(sizes: &Sizes, axis: usize) -> Range<usize> {
    let form = &sizes.form;
    let (stride, before) = (form.stride[axis], form.before[axis]);
    let first = before.div_ceil(stride);
    let room = (form.grid[axis] + before).checked_sub(form.extent(axis));
    let end = room.map_or(0, |room| room / stride + 1).min(form.out()[axis]);
    first.min(end)..end
}

/// The part of the kernel along an axis that lies on the map, for a position of the result.
fn taps(sizes: &Sizes, axis: usize, position: usize) -> Range<usize> {
    let form = &sizes.form;
    let (dilation, before) = (form.dilation[axis], form.before[axis]);
    let at = position * form.stride[axis];
    let first = before.saturating_sub(at).div_ceil(dilation);
    let end = (form.grid[axis] + before).saturating_sub(at).div_ceil(dilation).min(form.kernel[axis]);
    first.min(end)..end
}

impl<T: Real> Row<'_, T> {
    /// Offset of the pixel that tap `[tap_y, tap_x]` reads at a column of the result.
    #[inline(always)]
    fn pixel(&self, tap_y: usize, column: usize, tap_x: usize) -> usize {
        let Sizes { c, form, .. } = self.sizes;
        let y = self.row * form.stride[0] + tap_y * form.dilation[0] - form.before[0];
        let x = column * form.stride[1] + tap_x * form.dilation[1] - form.before[1];
        ((self.map * form.grid[0] + y) * form.grid[1] + x) * c
    }

    /// The result at a column.
    #[inline(always)]
    fn result(&self, column: usize) -> *mut T {
        let [rows, columns] = self.sizes.form.out();
        self.y.at(((self.map * rows + self.row) * columns + column) * self.sizes.c)
    }

    /// Columns whose kernel stays on the map.
    ///
    /// # Safety
    /// Here and below: the processor must have the instructions of `V`, and the row must be writable.
    #[inline(always)]
    unsafe fn positions<V: Vector<Scalar = T>>(&self, columns: Range<usize>) {
        let c = self.sizes.c;
        let whole = c - c % V::LANES;
        let twice = c - c % (VECTORS * V::LANES);
        // SAFETY: upheld by the caller; the channels lie within a pixel.
        unsafe {
            for channel in (0..twice).step_by(VECTORS * V::LANES) {
                self.channels::<V, VECTORS>(columns.clone(), channel);
            }
            for channel in (twice..whole).step_by(V::LANES) {
                self.channels::<V, 1>(columns.clone(), channel);
            }
            for channel in whole..c {
                self.channels::<T::One, 1>(columns.clone(), channel);
            }
        }
    }

    #[inline(always)]
    unsafe fn channels<V: Vector<Scalar = T>, const N: usize>(&self, columns: Range<usize>, channel: usize) {
        let mut column = columns.start;
        // SAFETY: upheld by the caller.
        unsafe {
            while columns.end - column >= POSITIONS {
                self.sum::<V, POSITIONS, N>(column, channel);
                column += POSITIONS;
            }
            match columns.end - column {
                3 => self.sum::<V, 3, N>(column, channel),
                2 => self.sum::<V, 2, N>(column, channel),
                1 => self.sum::<V, 1, N>(column, channel),
                _ => {}
            }
        }
    }

    /// `P` columns from `column` on, `N` vectors of channels from `channel` on.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
    unsafe fn sum<V: Vector<Scalar = T>, const P: usize, const N: usize>(
        &self,
        column: usize,
        channel: usize,
    ) {
        let Sizes { c, form, .. } = self.sizes;
        let [across, dilation] = [form.stride[1] * c, form.dilation[1] * c];
        // SAFETY: upheld by the caller; all pixels lie on the map.
        unsafe {
            let mut sums = [[V::splat(T::ZERO); N]; P];
            for tap_y in taps(&self.sizes, 0, self.row) {
                let mut x = self.x.as_ptr().add(self.pixel(tap_y, column, 0) + channel);
                let mut weight = self.weight.as_ptr().add(tap_y * form.kernel[1] * c + channel);
                for _ in 0..form.kernel[1] {
                    let mut factors = [V::splat(T::ZERO); N];
                    for j in 0..N {
                        factors[j] = V::load(weight.add(j * V::LANES));
                    }
                    for i in 0..P {
                        for j in 0..N {
                            let number = V::load(x.add(i * across + j * V::LANES));
                            sums[i][j] = number.mul_add(factors[j], sums[i][j]);
                        }
                    }
                    x = x.wrapping_add(dilation);
                    weight = weight.wrapping_add(c);
                }
            }
            for i in 0..P {
                for j in 0..N {
                    sums[i][j].store(self.result(column + i).add(channel + j * V::LANES));
                }
            }
        }
    }

    /// A column whose kernel reaches over the edge.
    #[inline(always)]
    unsafe fn edge<V: Vector<Scalar = T>>(&mut self, column: usize) {
        let Sizes { c, form, .. } = self.sizes;
        self.pairs.clear();
        for tap_y in taps(&self.sizes, 0, self.row) {
            for tap_x in taps(&self.sizes, 1, column) {
                let pair = (self.pixel(tap_y, column, tap_x), (tap_y * form.kernel[1] + tap_x) * c);
                self.pairs.push(pair);
            }
        }
        // SAFETY: upheld by the caller; the taps lie on the map.
        unsafe { sum_pairs::<V>(self.x, self.weight, self.pairs, c, self.result(column)) };
    }
}

/// Writes Σ x · weight over pairs of pixels, for all channels.
///
/// # Safety
/// The processor must have the instructions of `V`, and `to` must have space for `c` numbers.
#[inline(always)]
unsafe fn sum_pairs<V: Vector>(
    x: &[V::Scalar],
    weight: &[V::Scalar],
    pairs: &[Pair],
    c: usize,
    to: *mut V::Scalar,
) {
    let whole = c - c % V::LANES;
    let many = c - c % (EDGE_VECTORS * V::LANES);
    // SAFETY: upheld by the caller; pairs are the beginnings of pixels.
    unsafe {
        for channel in (0..many).step_by(EDGE_VECTORS * V::LANES) {
            sum_pairs_of::<V, EDGE_VECTORS>(x, weight, pairs, channel, to);
        }
        for channel in (many..whole).step_by(V::LANES) {
            sum_pairs_of::<V, 1>(x, weight, pairs, channel, to);
        }
        for channel in whole..c {
            sum_pairs_of::<<V::Scalar as Real>::One, 1>(x, weight, pairs, channel, to);
        }
    }
}

/// # Safety
/// As [`sum_pairs`], for `N` vectors from `channel` on.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
unsafe fn sum_pairs_of<V: Vector, const N: usize>(
    x: &[V::Scalar],
    weight: &[V::Scalar],
    pairs: &[Pair],
    channel: usize,
    to: *mut V::Scalar,
) {
    // SAFETY: upheld by the caller.
    unsafe {
        let mut sums = [V::splat(V::Scalar::ZERO); N];
        for &(pixel, tap) in pairs {
            let (x, weight) = (x.as_ptr().add(pixel + channel), weight.as_ptr().add(tap + channel));
            for j in 0..N {
                sums[j] = V::load(x.add(j * V::LANES)).mul_add(V::load(weight.add(j * V::LANES)), sums[j]);
            }
        }
        for j in 0..N {
            sums[j].store(to.add(channel + j * V::LANES));
        }
    }
}

/// The gradient of the maps.
pub(super) fn d_x<T: Real>(weight: &[T], grad: &[T], sizes: Sizes) -> Vec<T> {
    let Sizes { b, c, form, .. } = sizes;
    let [h, w] = form.grid;
    if let Some(turned) = sizes.turned() {
        let taps = form.kernel[0] * form.kernel[1];
        let reversed: Vec<T> =
            (0..taps).rev().flat_map(|tap| &weight[tap * c..(tap + 1) * c]).copied().collect();
        return forward(grad, &reversed, &Fold::default(), turned);
    }
    let write = |d_x: Shared<T>| {
        for_each_block(
            b * h,
            sizes.m.saturating_mul(c).saturating_mul(form.kernel[0] * form.kernel[1]),
            Vec::new,
            |pairs, line| {
                simd::run(BackRow { weight, grad, sizes, map: line / h, row: line % h, d_x, pairs });
            },
        );
    };
    // SAFETY: the blocks write all rows.
    unsafe { written(b * h * w * c, write) }
}

/// One row of the gradient of the maps.
struct BackRow<'a, T> {
    weight: &'a [T],
    grad: &'a [T],
    sizes: Sizes,
    map: usize,
    row: usize,
    d_x: Shared<T>,
    /// Scratch.
    pairs: &'a mut Vec<Pair>,
}

/// The taps along an axis that read this pixel, each with the position of the result for which it does.
fn readers(sizes: &Sizes, axis: usize, pixel: usize) -> impl Iterator<Item = (usize, usize)> {
    let form = sizes.form;
    let out = form.out()[axis];
    (0..form.kernel[axis]).filter_map(move |tap| {
        let at = (pixel + form.before[axis]).checked_sub(tap * form.dilation[axis])?;
        let position = at / form.stride[axis];
        (at.is_multiple_of(form.stride[axis]) && position < out).then_some((tap, position))
    })
}

impl<T: Real> Kernel for BackRow<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Sizes { c, form, .. } = self.sizes;
        let ([h, w], [rows, columns]) = (form.grid, form.out());
        for x in 0..w {
            self.pairs.clear();
            for (tap_y, y) in readers(&self.sizes, 0, self.row) {
                for (tap_x, column) in readers(&self.sizes, 1, x) {
                    let pixel = ((self.map * rows + y) * columns + column) * c;
                    self.pairs.push((pixel, (tap_y * form.kernel[1] + tap_x) * c));
                }
            }
            let to = self.d_x.at(((self.map * h + self.row) * w + x) * c);
            // SAFETY: the caller has the instructions; no other block uses the pixel.
            unsafe { sum_pairs::<T::In<S>>(self.grad, self.weight, self.pairs, c, to) };
        }
    }
}

/// The gradient of the kernel.
pub(super) fn d_weight<T: Real>(x: &[T], grad: &[T], sizes: Sizes) -> Vec<T> {
    let Sizes { b, c, m, form, .. } = sizes;
    let [rows, _] = form.out();
    let length = form.kernel[0] * form.kernel[1] * c;
    let lines = b * rows;
    let parts = PARTS.min(lines).max(1);
    let mut sums = vec![T::ZERO; parts * length];
    let to = Shared::new(&mut sums);
    for_each_block(
        parts,
        m.saturating_mul(length),
        || (),
        |(), part| {
            // SAFETY: each part has its own sums.
            let sums = unsafe { to.part(part * length, length) };
            simd::run(KernelPart { x, grad, sizes, lines: share(lines, parts, part), sums });
        },
    );
    sum_parts(&mut sums, length);
    sums.truncate(length);
    sums
}

/// The gradient of the kernel from some rows of the result.
struct KernelPart<'a, T> {
    x: &'a [T],
    grad: &'a [T],
    sizes: Sizes,
    lines: Range<usize>,
    sums: &'a mut [T],
}

impl<T: Real> Kernel for KernelPart<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: the caller has the instructions.
        unsafe {
            match self.sizes.form.kernel[1] {
                3 => self.rows::<S, 3>(),
                5 => self.rows::<S, 5>(),
                7 => self.rows::<S, 7>(),
                9 => self.rows::<S, 9>(),
                11 => self.rows::<S, 11>(),
                _ => self.rows::<S, 1>(),
            }
        }
    }
}

impl<T: Real> KernelPart<'_, T> {
    /// `K` columns of the kernel at once.
    ///
    /// # Safety
    /// Here and below: the processor must have the instructions.
    #[inline(always)]
    unsafe fn rows<S: Simd, const K: usize>(&mut self) {
        let Sizes { c, form, .. } = self.sizes;
        let [rows, _] = form.out();
        let whole = c - c % T::In::<S>::LANES;
        for line in self.lines.clone() {
            for tap_y in taps(&self.sizes, 0, line % rows) {
                for first in (0..form.kernel[1]).step_by(K) {
                    // SAFETY: upheld by the caller; the channels lie within a pixel.
                    unsafe {
                        for channel in (0..whole).step_by(T::In::<S>::LANES) {
                            self.row::<T::In<S>, K>(line, tap_y, first, channel);
                        }
                        for channel in whole..c {
                            self.row::<T::One, K>(line, tap_y, first, channel);
                        }
                    }
                }
            }
        }
    }

    /// Adds Σ x · grad along a row of the result, for one row of the kernel and one vector of channels.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
    unsafe fn row<V: Vector<Scalar = T>, const K: usize>(
        &mut self,
        line: usize,
        tap_y: usize,
        first: usize,
        channel: usize,
    ) {
        let Sizes { c, form, .. } = self.sizes;
        let [rows, columns] = form.out();
        let y = line % rows * form.stride[0] + tap_y * form.dilation[0] - form.before[0];
        let start = ((line / rows * form.grid[0] + y) * form.grid[1]) * c + channel;
        let inner = inner(&self.sizes, 1);
        // SAFETY: upheld by the caller; taps are on the map.
        unsafe {
            let mut sums = [V::splat(T::ZERO); K];
            let grad = self.grad.as_ptr().add(line * columns * c + channel);
            for column in (0..inner.start).chain(inner.end..columns) {
                let valid = taps(&self.sizes, 1, column);
                let factor = V::load(grad.add(column * c));
                for k in 0..K {
                    if valid.contains(&(first + k)) {
                        let x = column * form.stride[1] + (first + k) * form.dilation[1] - form.before[1];
                        let number = V::load(self.x.as_ptr().add(start + x * c));
                        sums[k] = number.mul_add(factor, sums[k]);
                    }
                }
            }
            for column in inner {
                let factor = V::load(grad.add(column * c));
                let x = column * form.stride[1] + first * form.dilation[1] - form.before[1];
                let x = self.x.as_ptr().add(start + x * c);
                for k in 0..K {
                    sums[k] = V::load(x.add(k * form.dilation[1] * c)).mul_add(factor, sums[k]);
                }
            }
            let to = self.sums.as_mut_ptr().add((tap_y * form.kernel[1] + first) * c + channel);
            for k in 0..K {
                V::load(to.add(k * c)).add(sums[k]).store(to.add(k * c));
            }
        }
    }
}
