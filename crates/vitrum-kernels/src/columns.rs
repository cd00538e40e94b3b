//! Norms over the rows of each column: the passes that batch and group normalisation share.
//!
//! A matrix is `[rows, C]`, row by row. Sums go over blocks of rows whose size does not depend on the threads. A block
//! is summed twice while it is in cache: for its mean, and for the squares around it. So variances keep their digits.

use std::ops::Range;

use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, written};

/// Rows per block.
const ROWS: usize = 64;
/// Vectors of columns that are taken at once.
const VECTORS: usize = 4;
/// Cost of a number of a pass, in multiplications (see `threads`).
const COST: usize = 4;

/// Calls `work` for each block of rows: its number, and its numbers' range.
fn for_each_rows(numbers: usize, c: usize, work: impl Fn(usize, Range<usize>) + Sync + Send) {
    let block = ROWS * c.max(1);
    for_each_block(
        numbers.div_ceil(block),
        numbers.saturating_mul(COST),
        || (),
        |(), index| work(index, index * block..numbers.min((index + 1) * block)),
    );
}

/// A pass over a block of rows, for some columns at a time.
pub(crate) trait Pass<T: Real> {
    /// Number of columns.
    fn width(&self) -> usize;

    /// `N` vectors of columns from `column` on. Implementations must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor must have the instructions of `V`, and the columns must exist. All matrices of the pass must have
    /// its rows and columns, and what it writes must have space for them.
    unsafe fn columns<V: Vector<Scalar = T>, const N: usize>(&mut self, column: usize);
}

/// A pass over all columns.
struct AllColumns<P, T>(P, std::marker::PhantomData<T>);

impl<T: Real, P: Pass<T>> Kernel for AllColumns<P, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let (c, lanes) = (self.0.width(), T::In::<S>::LANES);
        let (groups, whole) = (c - c % (VECTORS * lanes), c - c % lanes);
        // SAFETY: the caller has the instructions; the columns are below `c`. The caller of `run` upholds the rest.
        unsafe {
            for column in (0..groups).step_by(VECTORS * lanes) {
                self.0.columns::<T::In<S>, VECTORS>(column);
            }
            for column in (groups..whole).step_by(lanes) {
                self.0.columns::<T::In<S>, 1>(column);
            }
            for column in whole..c {
                self.0.columns::<T::One, 1>(column);
            }
        }
    }
}

/// Runs a pass over all columns.
///
/// # Safety
/// All matrices of the pass must have its rows and columns, and what it writes must have space for them. No other
/// thread may use that space.
pub(crate) unsafe fn run<T: Real>(pass: impl Pass<T>) {
    simd::run(AllColumns(pass, std::marker::PhantomData));
}

/// Mean, and sum of squared distances from it, of each column.
pub(crate) fn moments<T: Real>(x: &[T], c: usize) -> (Vec<f64>, Vec<f64>) {
    let parts = x.len().div_ceil((ROWS * c).max(1));
    let write = |sums: Shared<T>| {
        for_each_rows(x.len(), c, |index, range| {
            // SAFETY: each block has its own means, rests and squares.
            unsafe { run(Moments { x: &x[range], c, to: sums.at(index * 3 * c) }) };
        });
    };
    // SAFETY: each block writes its means, what they miss, and squares.
    let sums = unsafe { written(parts * 3 * c, write) };
    let (mut mean, mut squares, mut before) = (vec![0.0; c], vec![0.0; c], 0.0);
    for (index, sums) in sums.chunks_exact((3 * c).max(1)).enumerate() {
        // Chan, Golub and LeVeque 1979: the moments of two sets together.
        let count = ROWS.min(x.len() / c - index * ROWS) as f64;
        let share = count / (before + count);
        for j in 0..c {
            // The block's mean misses a little; the squares are around it.
            let missed = sums[c + j].to_f64() / count;
            let gap = sums[j].to_f64() + missed - mean[j];
            mean[j] += gap * share;
            let around = sums[2 * c + j].to_f64() - count * missed * missed;
            squares[j] += around.max(0.0) + gap * gap * before * share;
        }
        before += count;
    }
    (mean, squares)
}

struct Moments<'a, T> {
    x: &'a [T],
    c: usize,
    /// `[3, C]`: the mean, Σ (x - mean), which is what the rounded mean misses, and Σ (x - mean)².
    to: *mut T,
}

impl<T: Real> Pass<T> for Moments<'_, T> {
    fn width(&self) -> usize {
        self.c
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers (likewise below).
    unsafe fn columns<V: Vector<Scalar = T>, const N: usize>(&mut self, column: usize) {
        let rows = self.x.len() / self.c;
        // SAFETY: upheld by the caller; the columns exist in every row.
        unsafe {
            let from = self.x.as_ptr().add(column);
            let mut sums = [V::splat(T::ZERO); N];
            let mut first = [V::splat(T::ZERO); N];
            for j in 0..N {
                first[j] = V::load(from.add(j * V::LANES));
            }
            // Distances from the first row: their sum keeps its digits if the mean is large.
            for row in 0..rows {
                for j in 0..N {
                    sums[j] = sums[j].add(V::load(from.add(row * self.c + j * V::LANES)).sub(first[j]));
                }
            }
            let share = V::splat(T::from_f64(1.0 / rows as f64));
            let [mut squares, mut rest] = [[V::splat(T::ZERO); N]; 2];
            for j in 0..N {
                sums[j] = sums[j].mul_add(share, first[j]);
            }
            for row in 0..rows {
                for j in 0..N {
                    let gap = V::load(from.add(row * self.c + j * V::LANES)).sub(sums[j]);
                    rest[j] = rest[j].add(gap);
                    squares[j] = gap.mul_add(gap, squares[j]);
                }
            }
            for j in 0..N {
                let to = self.to.add(column + j * V::LANES);
                sums[j].store(to);
                rest[j].store(to.add(self.c));
                squares[j].store(to.add(2 * self.c));
            }
        }
    }
}

/// What [`apply`] takes for each column.
pub(crate) struct Affine<T> {
    pub mean: Vec<T>,
    pub scale: Vec<T>,
    pub shift: Vec<T>,
}

/// Writes `(x - mean) · scale + shift + residual`, or 0 where that is negative if `relu` is set.
///
/// # Safety
/// `y` must have space for as many numbers as x, and no other thread may use it.
pub(crate) unsafe fn apply<T: Real>(
    x: &[T],
    affine: &Affine<T>,
    residual: Option<&[T]>,
    relu: bool,
    y: Shared<T>,
) {
    let c = affine.mean.len();
    for_each_rows(x.len(), c, |_, range| {
        let y = y.at(range.start);
        let residual = residual.map(|residual| &residual[range.clone()]);
        // SAFETY: the caller has the space; the affine's vectors and the residual fit x.
        unsafe { run(Apply { x: &x[range], affine, residual, relu, y }) };
    });
}

struct Apply<'a, T> {
    x: &'a [T],
    affine: &'a Affine<T>,
    residual: Option<&'a [T]>,
    relu: bool,
    y: *mut T,
}

impl<T: Real> Pass<T> for Apply<'_, T> {
    fn width(&self) -> usize {
        self.affine.mean.len()
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn columns<V: Vector<Scalar = T>, const N: usize>(&mut self, column: usize) {
        let c = self.width();
        let Affine { mean, scale, shift } = self.affine;
        // SAFETY: upheld by the caller; residual and y are as large as x.
        unsafe {
            let zero = V::splat(T::ZERO);
            let [mut means, mut scales, mut shifts] = [[zero; N]; 3];
            for j in 0..N {
                let at = column + j * V::LANES;
                means[j] = V::load(mean.as_ptr().add(at));
                scales[j] = V::load(scale.as_ptr().add(at));
                shifts[j] = V::load(shift.as_ptr().add(at));
            }
            for row in 0..self.x.len() / c {
                for j in 0..N {
                    let at = row * c + column + j * V::LANES;
                    let centred = V::load(self.x.as_ptr().add(at)).sub(means[j]);
                    let mut value = centred.mul_add(scales[j], shifts[j]);
                    if let Some(residual) = self.residual {
                        value = value.add(V::load(residual.as_ptr().add(at)));
                    }
                    if self.relu {
                        value = zero.max(value); // NaN stays
                    }
                    value.store(self.y.add(at));
                }
            }
        }
    }
}

/// What the backward passes of a norm share.
#[derive(Clone, Copy)]
pub(crate) struct Backward<'a, T> {
    pub x: &'a [T],
    /// The gradient of the result.
    pub grad: &'a [T],
    /// The result, if it was rectified: where it is not positive the gradient is 0.
    pub rectified: Option<&'a [T]>,
    /// `[C]`
    pub mean: &'a [T],
}

impl<T: Real> Backward<'_, T> {
    fn rows(&self, range: Range<usize>) -> Self {
        let rectified = self.rectified.map(|y| &y[range.clone()]);
        Self { x: &self.x[range.clone()], grad: &self.grad[range], rectified, ..*self }
    }

    /// The gradient before the rectification.
    ///
    /// # Safety
    /// The processor must have the instructions of `V`, and the numbers must exist.
    #[inline(always)]
    unsafe fn grad<V: Vector<Scalar = T>>(&self, at: usize) -> V {
        // SAFETY: upheld by the caller.
        unsafe {
            let grad = V::load(self.grad.as_ptr().add(at));
            match self.rectified {
                Some(y) => grad.zero_below(V::load(y.as_ptr().add(at)), V::splat(T::LEAST)),
                None => grad,
            }
        }
    }
}

/// Σ g and Σ g (x - mean) of each column, where g is the gradient before the rectification. If `masked` is given, g is
/// written there.
///
/// # Safety
/// `masked` must have space for as many numbers as x, and no other thread may use it.
pub(crate) unsafe fn reduce<T: Real>(
    backward: Backward<T>,
    masked: Option<Shared<T>>,
) -> (Vec<f64>, Vec<f64>) {
    let (numbers, c) = (backward.x.len(), backward.mean.len());
    let parts = numbers.div_ceil((ROWS * c).max(1));
    let write = |sums: Shared<T>| {
        for_each_rows(numbers, c, |index, range| {
            let masked = masked.map(|masked| masked.at(range.start));
            // SAFETY: each block has its own sums; the caller has the space of `masked`.
            unsafe { run(Reduce { backward: backward.rows(range), masked, to: sums.at(index * 2 * c) }) };
        });
    };
    // SAFETY: each block writes its sums.
    let parts = unsafe { written(parts * 2 * c, write) };
    let (mut sum, mut dot) = (vec![0.0; c], vec![0.0; c]);
    for part in parts.chunks_exact((2 * c).max(1)) {
        for j in 0..c {
            sum[j] += part[j].to_f64();
            dot[j] += part[c + j].to_f64();
        }
    }
    (sum, dot)
}

struct Reduce<'a, T> {
    backward: Backward<'a, T>,
    masked: Option<*mut T>,
    /// `[2, C]`: Σ g, and Σ g (x - mean).
    to: *mut T,
}

impl<T: Real> Pass<T> for Reduce<'_, T> {
    fn width(&self) -> usize {
        self.backward.mean.len()
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn columns<V: Vector<Scalar = T>, const N: usize>(&mut self, column: usize) {
        let c = self.width();
        // SAFETY: upheld by the caller; all matrices are as large as x.
        unsafe {
            let mut means = [V::splat(T::ZERO); N];
            for j in 0..N {
                means[j] = V::load(self.backward.mean.as_ptr().add(column + j * V::LANES));
            }
            let [mut sum, mut dot] = [[V::splat(T::ZERO); N]; 2];
            for row in 0..self.backward.x.len() / c {
                for j in 0..N {
                    let at = row * c + column + j * V::LANES;
                    let grad = self.backward.grad::<V>(at);
                    let centred = V::load(self.backward.x.as_ptr().add(at)).sub(means[j]);
                    sum[j] = sum[j].add(grad);
                    dot[j] = grad.mul_add(centred, dot[j]);
                    if let Some(masked) = self.masked {
                        grad.store(masked.add(at));
                    }
                }
            }
            for j in 0..N {
                let to = self.to.add(column + j * V::LANES);
                sum[j].store(to);
                dot[j].store(to.add(c));
            }
        }
    }
}

/// What [`gradient`] takes for each column.
pub(crate) struct Slopes<T> {
    pub of_grad: Vec<T>,
    pub of_x: Vec<T>,
    pub constant: Vec<T>,
}

/// Writes the gradient of x: `of_grad · g - of_x · (x - mean) - constant`.
///
/// # Safety
/// `d_x` must have space for as many numbers as x, and no other thread may use it.
pub(crate) unsafe fn gradient<T: Real>(backward: Backward<T>, slopes: &Slopes<T>, d_x: Shared<T>) {
    for_each_rows(backward.x.len(), backward.mean.len(), |_, range| {
        let d_x = d_x.at(range.start);
        // SAFETY: the caller has the space.
        unsafe { run(Gradient { backward: backward.rows(range), slopes, d_x }) };
    });
}

struct Gradient<'a, T> {
    backward: Backward<'a, T>,
    slopes: &'a Slopes<T>,
    d_x: *mut T,
}

impl<T: Real> Pass<T> for Gradient<'_, T> {
    fn width(&self) -> usize {
        self.backward.mean.len()
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn columns<V: Vector<Scalar = T>, const N: usize>(&mut self, column: usize) {
        let c = self.width();
        let Slopes { of_grad, of_x, constant } = self.slopes;
        // SAFETY: upheld by the caller; all matrices are as large as x.
        unsafe {
            let [mut means, mut grads, mut xs, mut constants] = [[V::splat(T::ZERO); N]; 4];
            for j in 0..N {
                let at = column + j * V::LANES;
                means[j] = V::load(self.backward.mean.as_ptr().add(at));
                grads[j] = V::load(of_grad.as_ptr().add(at));
                xs[j] = V::load(of_x.as_ptr().add(at));
                constants[j] = V::load(constant.as_ptr().add(at));
            }
            for row in 0..self.backward.x.len() / c {
                for j in 0..N {
                    let at = row * c + column + j * V::LANES;
                    let grad = self.backward.grad::<V>(at).mul(grads[j]).sub(constants[j]);
                    let centred = V::load(self.backward.x.as_ptr().add(at)).sub(means[j]);
                    grad.sub(centred.mul(xs[j])).store(self.d_x.add(at));
                }
            }
        }
    }
}
