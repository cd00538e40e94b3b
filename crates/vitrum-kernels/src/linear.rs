//! Linear layers: a product with bias, residual and gain, and its backward pass.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::gemm::{Epilogue, Gemm, View};
use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block, written};

/// Vectors of columns that are summed together: 512 bytes of a row in `f32`.
const SUMMED: usize = 8;
/// Rows per partial sum, so that rounding does not grow with the number of rows.
const SUM_ROWS: usize = 64;
/// Cost of summing a number, in multiplications (see `threads`).
const SUM_COST: usize = 4;

/// The wanted gradients of a linear layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearWants {
    /// Gradient of the input.
    pub x: bool,
    /// Gradient of the weight.
    pub weight: bool,
    /// Gradient of the bias.
    pub bias: bool,
}

/// Gradients in the order of [`LinearWants`].
pub(crate) type LinearGradients<F> = (Option<F>, Option<F>, Option<F>);

/// `x weight + bias`, or `residual + gamma · (x weight + bias)`: `[..., K]` to `[..., N]`. Tensors must be contiguous.
pub(crate) fn forward<T: Real>(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    residual: Option<&FlexTensor>,
    gamma: Option<&FlexTensor>,
) -> FlexTensor {
    let (shape, [m, k, n]) = (x.shape(), sizes(x, weight));
    let [bias, gamma] = [bias, gamma].map(|vector| vector.map(T::slice));
    let epilogue = match residual.map(T::slice) {
        Some(residual) => Epilogue::Add { bias, gamma, residual },
        None => Epilogue::bias(bias),
    };
    let (a, b) = (View::rows(T::slice(x), m, k), View::rows(T::slice(weight), k, n));
    // SAFETY: the product writes all its numbers.
    let y = unsafe { written(m * n, |y| Gemm::new([m, n, k], a, b).then(epilogue).run(y)) };
    T::tensor(y, with_last(&shape, n))
}

/// Gradients of x, weight and bias, as far as `wants` asks for them, from the gradient of `x weight + bias`.
pub(crate) fn backward<T: Real>(
    x: &FlexTensor,
    weight: &FlexTensor,
    grad: &FlexTensor,
    wants: LinearWants,
) -> LinearGradients<FlexTensor> {
    let (shape, [m, k, n]) = (x.shape(), sizes(x, weight));
    let [x, weight, grad] = [x, weight, grad].map(T::slice);
    let d_x = wants.x.then(|| {
        let (a, b) = (View::rows(grad, m, n), View::columns(weight, k, n));
        let product = Gemm::new([m, k, n], a, b);
        // SAFETY: the product writes all its numbers.
        T::tensor(unsafe { written(m * k, |d_x| product.run(d_x)) }, shape)
    });
    let d_weight = wants.weight.then(|| {
        let (a, b) = (View::columns(x, m, k), View::rows(grad, m, n));
        let product = Gemm::new([k, n, m], a, b);
        // SAFETY: as above.
        T::tensor(unsafe { written(k * n, |d_weight| product.run(d_weight)) }, Shape::new([k, n]))
    });
    let d_bias = wants.bias.then(|| {
        // SAFETY: all sums are written.
        T::tensor(unsafe { written(n, |sums| sum_rows(grad, n, false, sums)) }, Shape::new([n]))
    });
    (d_x, d_weight, d_bias)
}

/// Rows of x, columns of x, columns of the weight.
fn sizes(x: &FlexTensor, weight: &FlexTensor) -> [usize; 3] {
    let (shape, weight) = (x.shape(), weight.shape());
    [rows_of(&shape), weight[0], weight[1]]
}

/// Number of rows: the product of all axes but the last.
pub(crate) fn rows_of(shape: &Shape) -> usize {
    (0..shape.num_dims() - 1).map(|axis| shape[axis]).product()
}

/// `shape` with another last axis.
pub(crate) fn with_last(shape: &Shape, n: usize) -> Shape {
    let mut axes: Vec<usize> = (0..shape.num_dims()).map(|axis| shape[axis]).collect();
    axes[shape.num_dims() - 1] = n;
    Shape::from(axes)
}

/// Writes the sums of the columns of `values`, `[rows, n]`, to `sums`, `[n]`, or adds them to `sums`.
///
/// # Safety
/// `sums` must have space for `n` numbers that no other thread uses. If `add` is set, they must be initialised.
pub(crate) unsafe fn sum_rows<T: Real>(values: &[T], n: usize, add: bool, sums: Shared<T>) {
    struct Width<T>(std::marker::PhantomData<T>);
    impl<T: Real> Kernel for Width<T> {
        type Output = usize;
        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> usize {
            SUMMED * T::In::<S>::LANES
        }
    }
    let width = simd::run(Width::<T>(std::marker::PhantomData));
    let cost = values.len().saturating_mul(SUM_COST);
    for_each_block(
        n.div_ceil(width),
        cost,
        || (),
        |(), block| simd::run(SumColumns { values, n, first: block * width, add, sums }),
    );
}

/// Sums of up to [`SUMMED`] vectors of columns.
struct SumColumns<'a, T> {
    values: &'a [T],
    n: usize,
    first: usize,
    add: bool,
    sums: Shared<T>,
}

impl<T: Real> Kernel for SumColumns<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let lanes = T::In::<S>::LANES;
        // SAFETY: columns below n; the caller guarantees the space at `sums`.
        unsafe {
            if self.first + SUMMED * lanes <= self.n {
                self.columns::<T::In<S>, SUMMED>(self.first, lanes);
                return;
            }
            for column in (self.first..self.n).step_by(lanes) {
                self.columns::<T::In<S>, 1>(column, lanes.min(self.n - column));
            }
        }
    }
}

impl<T: Real> SumColumns<'_, T> {
    /// # Safety
    /// The processor must have the instructions of `V`. A row must have `N` vectors of columns, or `count` columns if
    /// `count` is less than a vector.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the sums in registers.
    unsafe fn columns<V: Vector<Scalar = T>, const N: usize>(&self, column: usize, count: usize) {
        // SAFETY: upheld by the caller.
        unsafe {
            let mut total = [V::splat(T::ZERO); N];
            for block in self.values.chunks(SUM_ROWS * self.n) {
                let mut sums = [V::splat(T::ZERO); N];
                for row in block.chunks_exact(self.n) {
                    let from = row.as_ptr().add(column);
                    for j in 0..N {
                        let numbers = if count == V::LANES {
                            V::load(from.add(j * V::LANES))
                        } else {
                            V::load_part(from, count)
                        };
                        sums[j] = sums[j].add(numbers);
                    }
                }
                for j in 0..N {
                    total[j] = total[j].add(sums[j]);
                }
            }
            for j in 0..N {
                let to = self.sums.at(column + j * V::LANES);
                let before = if self.add { V::load_part(to, count) } else { V::splat(T::ZERO) };
                before.add(total[j]).store_part(to, count);
            }
        }
    }
}
