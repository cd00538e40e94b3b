//! Two linear layers with an activation between them, and the backward pass.
//!
//! Rows are taken in blocks whose hidden numbers stay in the third-level cache between the two products. Bias and
//! activation are applied in the tiles of the first product. Only the argument of the activation is kept for the
//! backward pass, which recomputes its value together with the derivative.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::activation::Activation;
use crate::gemm::{Epilogue, Gemm, View};
use crate::linear::{rows_of, sum_rows, with_last};
use crate::simd::Real;
use crate::threads::{Shared, share, written};

/// Hidden numbers per block: 8 MB of `f32`.
const HIDDEN: usize = 1 << 21;
/// Least rows per block: with fewer rows, the weights are read too often.
const ROWS: usize = 256;

/// The wanted gradients of an MLP.
#[derive(Clone, Copy, Debug, Default)]
pub struct MlpWants {
    /// Gradient of the input.
    pub x: bool,
    /// Gradient of the first weight.
    pub fc1_weight: bool,
    /// Gradient of the first bias.
    pub fc1_bias: bool,
    /// Gradient of the second weight.
    pub fc2_weight: bool,
    /// Gradient of the second bias.
    pub fc2_bias: bool,
}

/// Gradients in the order of [`MlpWants`].
pub(crate) type MlpGradients<F> = (Option<F>, Option<F>, Option<F>, Option<F>, Option<F>);

/// Number of rows; widths of the input, the hidden layer and the output.
struct Sizes {
    m: usize,
    d: usize,
    f: usize,
    n: usize,
}

impl Sizes {
    fn new(x: &FlexTensor, fc1_weight: &FlexTensor, fc2_weight: &FlexTensor) -> Self {
        let (fc1, fc2) = (fc1_weight.shape(), fc2_weight.shape());
        Self { m: rows_of(&x.shape()), d: fc1[0], f: fc1[1], n: fc2[1] }
    }

    /// Blocks of almost equal size, at least one: first row and number of rows.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let rows = (HIDDEN / self.f.max(1)).max(ROWS);
        let (m, blocks) = (self.m, self.m.div_ceil(rows).max(1));
        (0..blocks).map(move |block| {
            let rows = share(m, blocks, block);
            (rows.start, rows.len())
        })
    }

    /// Rows of the largest block.
    fn block_rows(&self) -> usize {
        self.blocks().map(|(_, rows)| rows).max().unwrap_or(0)
    }
}

/// `activation(x fc1_weight + fc1_bias) fc2_weight + fc2_bias`, and the argument of the activation `[rows, F]` if
/// `keep` is set. Tensors must be contiguous.
pub(crate) fn forward<T: Real>(
    x: &FlexTensor,
    fc1: (&FlexTensor, Option<&FlexTensor>),
    fc2: (&FlexTensor, Option<&FlexTensor>),
    activation: Activation,
    keep: bool,
) -> (FlexTensor, Option<FlexTensor>) {
    let sizes = Sizes::new(x, fc1.0, fc2.0);
    let Sizes { m, d, f, n } = sizes;
    let shape = with_last(&x.shape(), n);
    let x = T::slice(x);
    let [fc1_bias, fc2_bias] = [fc1.1, fc2.1].map(|bias| bias.map(T::slice));
    let [fc1, fc2] = [fc1.0, fc2.0].map(T::slice);
    let mut kept = Vec::<T>::with_capacity(if keep { m * f } else { 0 });
    let kept_to = keep.then(|| Shared::of_capacity(&mut kept));
    let mut hidden = Vec::<T>::with_capacity(sizes.block_rows() * f);
    let write = |y: Shared<T>| {
        for (first, rows) in sizes.blocks() {
            let keep = kept_to.map(|kept| kept.offset(first * f));
            let (a, b) = (View::rows(&x[first * d..], rows, d), View::rows(fc1, d, f));
            let epilogue = Epilogue::Activate { bias: fc1_bias, activation, keep };
            let inner = Gemm::new([rows, f, d], a, b).then(epilogue);
            // SAFETY: `hidden` has space for the block's rows, and the product writes all of them.
            unsafe {
                inner.run(Shared::of_capacity(&mut hidden));
                hidden.set_len(rows * f);
            }
            let (a, b) = (View::rows(&hidden, rows, f), View::rows(fc2, f, n));
            let outer = Gemm::new([rows, n, f], a, b).then(Epilogue::bias(fc2_bias));
            // SAFETY: as above.
            unsafe { outer.run(y.offset(first * n)) };
        }
    };
    // SAFETY: the blocks cover all rows.
    let y = unsafe { written(m * n, write) };
    if keep {
        // SAFETY: the blocks have written all of it.
        unsafe { kept.set_len(m * f) };
    }
    (T::tensor(y, shape), keep.then(|| T::tensor(kept, Shape::new([m, f]))))
}

/// Gradients, as far as `wants` asks for them. `kept` comes from [`forward`]. Tensors must be contiguous.
pub(crate) fn backward<T: Real>(
    x: &FlexTensor,
    fc1_weight: &FlexTensor,
    fc2_weight: &FlexTensor,
    kept: &FlexTensor,
    grad: &FlexTensor,
    activation: Activation,
    wants: MlpWants,
) -> MlpGradients<FlexTensor> {
    let sizes = Sizes::new(x, fc1_weight, fc2_weight);
    let Sizes { m, d, f, n } = sizes;
    let shape = x.shape();
    let [x, fc1, fc2, kept, grad] = [x, fc1_weight, fc2_weight, kept, grad].map(T::slice);
    let gradient = |wanted: bool, length: usize| wanted.then(|| Vec::<T>::with_capacity(length));
    let mut d_x = gradient(wants.x, m * d);
    let mut d_fc1 = gradient(wants.fc1_weight, d * f);
    let mut d_fc1_bias = gradient(wants.fc1_bias, f);
    let mut d_fc2 = gradient(wants.fc2_weight, f * n);
    let mut d_fc2_bias = gradient(wants.fc2_bias, n);
    let length = sizes.block_rows() * f;
    let (mut active, mut d_hidden) = (Vec::<T>::with_capacity(length), Vec::<T>::with_capacity(length));
    for (first, rows) in sizes.blocks() {
        let add = first > 0;
        let (x, grad) = (&x[first * d..][..rows * d], &grad[first * n..][..rows * n]);
        // SAFETY: each buffer has space for the products and sums. All numbers are written before they are read or
        // added to: those of a block by its first product, sums by the first block.
        unsafe {
            let value = Shared::of_capacity(&mut active);
            let epilogue = Epilogue::Derivative { x: &kept[first * f..][..rows * f], activation, value };
            let (a, b) = (View::rows(grad, rows, n), View::columns(fc2, f, n));
            Gemm::new([rows, f, n], a, b).then(epilogue).run(Shared::of_capacity(&mut d_hidden));
            active.set_len(rows * f);
            d_hidden.set_len(rows * f);
            if let Some(d_fc2) = &mut d_fc2 {
                let (a, b) = (View::columns(&active, rows, f), View::rows(grad, rows, n));
                Gemm { add, ..Gemm::new([f, n, rows], a, b) }.run(Shared::of_capacity(d_fc2));
            }
            if let Some(d_fc1) = &mut d_fc1 {
                let (a, b) = (View::columns(x, rows, d), View::rows(&d_hidden, rows, f));
                Gemm { add, ..Gemm::new([d, f, rows], a, b) }.run(Shared::of_capacity(d_fc1));
            }
            if let Some(d_fc1_bias) = &mut d_fc1_bias {
                sum_rows(&d_hidden, f, add, Shared::of_capacity(d_fc1_bias));
            }
            if let Some(d_x) = &mut d_x {
                let (a, b) = (View::rows(&d_hidden, rows, f), View::columns(fc1, d, f));
                let to = Shared::of_capacity(d_x).offset(first * d);
                Gemm::new([rows, d, f], a, b).run(to);
            }
        }
    }
    if let Some(d_fc2_bias) = &mut d_fc2_bias {
        // SAFETY: there is space for the sums.
        unsafe { sum_rows(grad, n, false, Shared::of_capacity(d_fc2_bias)) };
    }
    let to_tensor = |numbers: Option<Vec<T>>, shape: Shape| {
        numbers.map(|mut numbers| {
            // SAFETY: the blocks, at least one, have written all numbers of the wanted gradients.
            unsafe { numbers.set_len((0..shape.num_dims()).map(|axis| shape[axis]).product()) };
            T::tensor(numbers, shape)
        })
    };
    (
        to_tensor(d_x, shape),
        to_tensor(d_fc1, Shape::new([d, f])),
        to_tensor(d_fc1_bias, Shape::new([f])),
        to_tensor(d_fc2, Shape::new([f, n])),
        to_tensor(d_fc2_bias, Shape::new([n])),
    )
}
