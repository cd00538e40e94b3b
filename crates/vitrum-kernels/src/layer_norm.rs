//! Layer normalisation over the last axis, and RMSNorm, which is the same around zero instead of the mean.
//!
//! The forward pass keeps two numbers per row. The backward pass reads x and the incoming gradient once from memory.
//!
//! The statistics of a row are those of x - x₀, where x₀ is its first number. If the row hardly varies, x - x₀ is
//! exact, so rounding a large mean does not hide the deviation. If it varies much, the rounding is small compared with
//! the deviation. The stored "mean" is the mean of x - x₀. RMSNorm takes zero for both.
//!
//! Best of several rounds in µs, `f32`, two threads of a shared Cascade Lake machine. The first three columns are the
//! forward pass, the last three forward and backward:
//!
//! | rows, D | this | reference | torch 2.15 | this | reference | torch |
//! |---|---|---|---|---|---|---|
//! | 1576, 192 | 199 | 967 | 132 | 1063 | 4358 | 652 |
//! | 197, 384 | 40 | 240 | 31 | 275 | 869 | 268 |
//! | 197, 768 | 79 | 522 | 48 | 536 | 1981 | 541 |
//! | 577, 768 | 270 | 2164 | 134 | 1509 | 8891 | 750 |
//! | 1576, 768 | 1196 | 7750 | 567 | 5058 | 41224 | 2779 |
//!
//! Later, 197 rows of 192 took 6 µs on one Zen 5 core, inside ViT-Ti as well as alone: 1 % of the model. Two changes
//! had no visible effect on the model: adding lanes in registers instead of memory (dropped), and not zeroing the
//! output first (kept). Equal blocks of rows help two threads.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::simd::{self, Kernel, Real, Simd, Vector, sum_chains};
use crate::threads::{Shared, for_each_block, share, sum_parts, written};

/// Most rows per block: 192 KB for 768 numbers of `f32`, enough work to wake a thread.
const ROWS: usize = 64;
/// Most blocks of the backward pass. Each holds its own sums for weight and bias.
const BLOCKS: usize = 256;
/// Cost per number of a row, in multiplications (see `threads`). Memory is the bottleneck.
const COST: usize = 16;

/// y with the shape of x; mean (see above) and reciprocal deviation, `[rows]`. Without `centred` the deviation is that from
/// zero (RMSNorm). Tensors must be contiguous.
pub(crate) fn forward<T: Real>(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    eps: f64,
    centred: bool,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let shape = x.shape();
    let (weight, bias) = (T::slice(weight), bias.map(T::slice));
    let (values, d) = (T::slice(x), weight.len());
    let rows = rows_of(&shape);
    let (mut mean, mut rstd) = (vec![T::ZERO; rows], vec![T::ZERO; rows]);
    let write = |y: Shared<T>| {
        if d == 0 {
            return;
        }
        let shared = (y, Shared::new(&mut mean), Shared::new(&mut rstd));
        let blocks = rows.div_ceil(ROWS);
        for_each_block(
            blocks,
            values.len().saturating_mul(COST),
            || (),
            |(), block| {
                let Range { start: first, end } = share(rows, blocks, block);
                let rows = end - first;
                // SAFETY: each block has its own rows.
                let (mean, rstd) = unsafe { (shared.1.part(first, rows), shared.2.part(first, rows)) };
                let y = shared.0.offset(first * d);
                let x = &values[first * d..][..rows * d];
                let eps = T::from_f64(eps);
                simd::run(ForwardRows { x, weight, bias, eps, centred, y, mean, rstd });
            },
        );
    };
    // SAFETY: the blocks write all rows, and read none of them.
    let y = unsafe { written(values.len(), write) };
    (T::tensor(y, shape), T::tensor(mean, Shape::new([rows])), T::tensor(rstd, Shape::new([rows])))
}

/// Writes the normalised rows of `x` to `y` with the calling thread alone.
///
/// # Safety
/// `y` must have space for as many numbers as x, and no other thread may use it.
pub(crate) unsafe fn rows<T: Real>(x: &[T], weight: &[T], bias: &[T], eps: f64, y: Shared<T>) {
    let d = weight.len();
    if d == 0 {
        return;
    }
    let (mut mean, mut rstd) = (vec![T::ZERO; x.len() / d], vec![T::ZERO; x.len() / d]);
    let (bias, eps, mean, rstd) = (Some(bias), T::from_f64(eps), &mut mean[..], &mut rstd[..]);
    simd::run(ForwardRows { x, weight, bias, eps, centred: true, y, mean, rstd });
}

/// Gradients of x, weight and bias, with `centred` as in the forward pass. Tensors must be contiguous.
pub(crate) fn backward<T: Real>(
    x: &FlexTensor,
    weight: &FlexTensor,
    mean: &FlexTensor,
    rstd: &FlexTensor,
    grad: &FlexTensor,
    centred: bool,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let shape = x.shape();
    let [values, weight, mean, rstd, grad] = [x, weight, mean, rstd, grad].map(T::slice);
    let (rows, d) = (rows_of(&shape), weight.len());
    let block_rows = ROWS.max(rows.div_ceil(BLOCKS));
    let blocks = rows.div_ceil(block_rows);
    let mut d_x = vec![T::ZERO; values.len()];
    let mut sums = vec![T::ZERO; blocks * 2 * d];
    if d > 0 {
        let shared = (Shared::new(&mut d_x), Shared::new(&mut sums));
        for_each_block(
            blocks,
            values.len().saturating_mul(2 * COST),
            || (),
            |(), block| {
                let first = block * block_rows;
                let rows = block_rows.min(rows - first);
                let range = first * d..(first + rows) * d;
                // SAFETY: each block has its own rows and sums.
                let (d_x, sums) =
                    unsafe { (shared.0.part(first * d, rows * d), shared.1.part(block * 2 * d, 2 * d)) };
                let (d_weight, d_bias) = sums.split_at_mut(d);
                simd::run(BackwardRows {
                    x: &values[range.clone()],
                    grad: &grad[range],
                    weight,
                    mean: &mean[first..][..rows],
                    rstd: &rstd[first..][..rows],
                    centred,
                    d_x,
                    d_weight,
                    d_bias,
                });
            },
        );
    }
    sum_parts(&mut sums, 2 * d);
    sums.resize(2 * d, T::ZERO); // no rows, so no sums
    let (d_weight, d_bias) = (sums[..d].to_vec(), sums[d..].to_vec());
    (T::tensor(d_x, shape), T::tensor(d_weight, Shape::new([d])), T::tensor(d_bias, Shape::new([d])))
}

/// Number of rows: the product of all axes but the last.
fn rows_of(shape: &Shape) -> usize {
    (0..shape.num_dims() - 1).map(|axis| shape[axis]).product()
}

struct ForwardRows<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    bias: Option<&'a [T]>,
    eps: T,
    centred: bool,
    /// Space for as many numbers as `x` has.
    y: Shared<T>,
    mean: &'a mut [T],
    rstd: &'a mut [T],
}

impl<T: Real> Kernel for ForwardRows<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let d = self.weight.len();
        let bulk = d - d % T::In::<S>::LANES;
        let share = T::from_f64(1.0 / d as f64);
        for ((row, x), (mean, rstd)) in
            self.x.chunks_exact(d).enumerate().zip(self.mean.iter_mut().zip(self.rstd))
        {
            let y = self.y.at(row * d);
            // SAFETY: the caller has the instructions; bulk and remainder make up the row, in y as in x.
            unsafe {
                let mut centre = Centre { first: T::ZERO, mean: T::ZERO };
                if self.centred {
                    let sum = sum_shifted::<T::In<S>>(x, 0..bulk) + sum_shifted::<T::One>(x, bulk..d);
                    centre = Centre { first: x[0], mean: sum * share };
                }
                *mean = centre.mean;
                let squares =
                    sum_squares::<T::In<S>>(x, centre, 0..bulk) + sum_squares::<T::One>(x, centre, bulk..d);
                *rstd = (squares * share + self.eps).sqrt().recip();
                normalise::<T::In<S>>(x, centre, *rstd, self.weight, self.bias, y, 0..bulk);
                normalise::<T::One>(x, centre, *rstd, self.weight, self.bias, y, bulk..d);
            }
        }
    }
}

/// What is taken from the numbers of a row: the first number, then the mean of the rest. RMSNorm takes nothing.
#[derive(Clone, Copy)]
struct Centre<T> {
    first: T,
    mean: T,
}

/// Splits a range into whole steps of four vectors, and the rest.
#[inline(always)]
fn in_fours<V: Vector>(range: Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = range.end - (range.end - range.start) % (4 * V::LANES);
    (range.start..middle, middle..range.end)
}

/// Σ x - x₀ over a range.
///
/// # Safety
/// Here and below: the processor must have the instructions of `V`. The range must lie in the row, and its length must
/// be a multiple of the lanes.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
unsafe fn sum_shifted<V: Vector>(x: &[V::Scalar], range: Range<usize>) -> V::Scalar {
    // SAFETY: upheld by the caller.
    unsafe {
        let first = V::splat(x[0]);
        let mut sums = [V::splat(V::Scalar::ZERO); 4];
        // Four chains, indexed by constants so that they stay in registers.
        let (quads, rest) = in_fours::<V>(range);
        for at in quads.step_by(4 * V::LANES) {
            for chain in 0..4 {
                let shifted = V::load(x.as_ptr().add(at + chain * V::LANES)).sub(first);
                sums[chain] = sums[chain].add(shifted);
            }
        }
        for at in rest.step_by(V::LANES) {
            sums[0] = sums[0].add(V::load(x.as_ptr().add(at)).sub(first));
        }
        sum_chains(sums).sum()
    }
}

/// Σ (x - x₀ - mean)² over a range.
///
/// # Safety
/// As `sum_shifted`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
unsafe fn sum_squares<V: Vector>(
    x: &[V::Scalar],
    centre: Centre<V::Scalar>,
    range: Range<usize>,
) -> V::Scalar {
    // SAFETY: upheld by the caller.
    unsafe {
        let (first, mean) = (V::splat(centre.first), V::splat(centre.mean));
        let mut sums = [V::splat(V::Scalar::ZERO); 4];
        let (quads, rest) = in_fours::<V>(range);
        for at in quads.step_by(4 * V::LANES) {
            for chain in 0..4 {
                let centred = V::load(x.as_ptr().add(at + chain * V::LANES)).sub(first).sub(mean);
                sums[chain] = centred.mul_add(centred, sums[chain]);
            }
        }
        for at in rest.step_by(V::LANES) {
            let centred = V::load(x.as_ptr().add(at)).sub(first).sub(mean);
            sums[0] = centred.mul_add(centred, sums[0]);
        }
        sum_chains(sums).sum()
    }
}

/// Writes a range of a row of y.
///
/// # Safety
/// As `sum_shifted`.
#[inline(always)]
unsafe fn normalise<V: Vector>(
    x: &[V::Scalar],
    centre: Centre<V::Scalar>,
    rstd: V::Scalar,
    weight: &[V::Scalar],
    bias: Option<&[V::Scalar]>,
    y: *mut V::Scalar,
    range: Range<usize>,
) {
    // SAFETY: upheld by the caller; weight, bias and the space at y are as long as the row.
    unsafe {
        let (first, mean, rstd) = (V::splat(centre.first), V::splat(centre.mean), V::splat(rstd));
        for at in range.step_by(V::LANES) {
            let normal = V::load(x.as_ptr().add(at)).sub(first).sub(mean).mul(rstd);
            let weight = V::load(weight.as_ptr().add(at));
            let value = match bias {
                Some(bias) => normal.mul_add(weight, V::load(bias.as_ptr().add(at))),
                None => normal.mul(weight),
            };
            value.store(y.add(at));
        }
    }
}

struct BackwardRows<'a, T> {
    x: &'a [T],
    grad: &'a [T],
    weight: &'a [T],
    mean: &'a [T],
    rstd: &'a [T],
    centred: bool,
    d_x: &'a mut [T],
    d_weight: &'a mut [T],
    d_bias: &'a mut [T],
}

impl<T: Real> Kernel for BackwardRows<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let d = self.weight.len();
        let bulk = d - d % T::In::<S>::LANES;
        let share = T::from_f64(1.0 / d as f64);
        let rows = self.x.chunks_exact(d).zip(self.grad.chunks_exact(d)).zip(self.d_x.chunks_exact_mut(d));
        for (((x, grad), d_x), (&mean, &rstd)) in rows.zip(self.mean.iter().zip(self.rstd)) {
            let first = if self.centred { x[0] } else { T::ZERO };
            let row = BackwardRow { x, grad, weight: self.weight, centre: Centre { first, mean }, rstd };
            let (d_weight, d_bias) = (&mut *self.d_weight, &mut *self.d_bias);
            // SAFETY: the caller has the instructions; bulk and remainder make up the row.
            unsafe {
                let (sum, dot) = row.reduce::<T::In<S>>(d_weight, d_bias, 0..bulk);
                let (rest, rest_dot) = row.reduce::<T::One>(d_weight, d_bias, bulk..d);
                let mean = if self.centred { (sum + rest) * share } else { T::ZERO };
                let mean_dot = (dot + rest_dot) * share;
                row.write_gradient::<T::In<S>>(mean, mean_dot, d_x, 0..bulk);
                row.write_gradient::<T::One>(mean, mean_dot, d_x, bulk..d);
            }
        }
    }
}

struct BackwardRow<'a, T> {
    x: &'a [T],
    grad: &'a [T],
    weight: &'a [T],
    centre: Centre<T>,
    rstd: T,
}

impl<T: Real> BackwardRow<'_, T> {
    /// The normalised numbers and the incoming gradient at `at`.
    ///
    /// # Safety
    /// As `sum_shifted`.
    #[inline(always)]
    unsafe fn load<V: Vector<Scalar = T>>(&self, at: usize) -> (V, V) {
        // SAFETY: upheld by the caller.
        unsafe {
            let Centre { first, mean } = self.centre;
            let centred = V::load(self.x.as_ptr().add(at)).sub(V::splat(first)).sub(V::splat(mean));
            (centred.mul(V::splat(self.rstd)), V::load(self.grad.as_ptr().add(at)))
        }
    }

    /// Adds to the gradients of weight and bias. Returns Σ g and Σ g · x̂ for g = weight · gradient.
    ///
    /// # Safety
    /// As `sum_shifted`.
    #[inline(always)]
    unsafe fn reduce<V: Vector<Scalar = T>>(
        &self,
        d_weight: &mut [T],
        d_bias: &mut [T],
        range: Range<usize>,
    ) -> (T, T) {
        // SAFETY: upheld by the caller; all slices are as long as the row.
        unsafe {
            let mut sum = V::splat(T::ZERO);
            let mut dot = V::splat(T::ZERO);
            for at in range.step_by(V::LANES) {
                let (normal, grad) = self.load::<V>(at);
                let (to_weight, to_bias) = (d_weight.as_mut_ptr().add(at), d_bias.as_mut_ptr().add(at));
                grad.mul_add(normal, V::load(to_weight)).store(to_weight);
                grad.add(V::load(to_bias)).store(to_bias);
                let grad = grad.mul(V::load(self.weight.as_ptr().add(at)));
                sum = sum.add(grad);
                dot = grad.mul_add(normal, dot);
            }
            (sum.sum(), dot.sum())
        }
    }

    /// Writes the gradient of x.
    ///
    /// # Safety
    /// As `sum_shifted`.
    #[inline(always)]
    unsafe fn write_gradient<V: Vector<Scalar = T>>(
        &self,
        mean: T,
        mean_dot: T,
        d_x: &mut [T],
        range: Range<usize>,
    ) {
        // SAFETY: upheld by the caller; `d_x` is as long as the row.
        unsafe {
            let (mean, mean_dot, rstd) = (V::splat(mean), V::splat(mean_dot), V::splat(self.rstd));
            for at in range.step_by(V::LANES) {
                let (normal, grad) = self.load::<V>(at);
                let grad = grad.mul(V::load(self.weight.as_ptr().add(at)));
                grad.sub(mean).sub(normal.mul(mean_dot)).mul(rstd).store(d_x.as_mut_ptr().add(at));
            }
        }
    }
}
