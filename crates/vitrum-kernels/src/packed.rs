//! Layers with packed weights, for inference. The part of an encoder block that treats each token separately takes two
//! operations.
//!
//! If each operation cuts its output into columns for the threads, every thread reads what the other threads have just
//! written. Here each thread keeps its own rows from one attention to the next, through norms, products, activation and
//! residuals. The rows stay in its cache, and threads synchronise three times per block instead of seven. In return
//! every thread reads all of the weights, so they are packed in advance.
//!
//! Results equal those of the separate operations to the bit. With weights in bf16 the separate operations use the same
//! weight: each thread rounds its rows right before the product.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use burn::backend::flex::FlexTensor;

use crate::activation::Activation;
use crate::bf16::{self, RowPairs};
use crate::gemm::{Epilogue, Gemm, Numbers, Packed, Pairs, View};
use crate::layer_norm;
use crate::simd::Real;
use crate::threads::{Shared, for_each_block, share, threads, with_kept, written};

/// Most rows that a thread takes through all steps at a time.
const ROWS: usize = 192;
/// With fewer rows per thread, the weights would be read too often. Products are then also divided by columns.
const LEAST_ROWS: usize = 48;

/// The weight `[K, N]` of a linear layer, in `f32` or rounded to bf16, and the bias `[N]`. The weight is stored in the
/// order in which products on this processor read it. Clones share the numbers.
#[derive(Clone)]
pub struct PackedWeight(Arc<Layer>);

struct Layer {
    k: usize,
    /// `[k, n]`, or `[k / 2, n]` pairs in bf16.
    weight: Packed<f32>,
    bias: Option<Vec<f32>>,
    /// Layout of the rounded input rows if the weight is in bf16.
    pairs: Option<RowPairs>,
}

impl std::fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedWeight({:?}{})", self.shape(), if self.is_bf16() { ", bf16" } else { "" })
    }
}

impl PackedWeight {
    /// Packs a weight `[k, n]`, row by row, and stores the bias `[n]`.
    ///
    /// # Panics
    /// If a length does not match the shape.
    pub fn pack(weight: &[f32], [k, n]: [usize; 2], bias: Option<&[f32]>) -> Self {
        Self::check(weight, [k, n], bias);
        let weight = Packed::new(View::rows(weight, k, n), k, n);
        Self(Arc::new(Layer { k, weight, bias: bias.map(<[f32]>::to_vec), pairs: None }))
    }

    /// Rounds a weight `[k, n]`, row by row, to bf16 (to nearest, ties to even) and packs it. The bias `[n]` is stored
    /// unchanged. Inputs of this weight are rounded too; sums stay in `f32`.
    ///
    /// # Panics
    /// If a length does not match the shape.
    pub fn pack_bf16(weight: &[f32], [k, n]: [usize; 2], bias: Option<&[f32]>) -> Self {
        Self::check(weight, [k, n], bias);
        let terms = k.div_ceil(2);
        let weight = Packed::new(View::rows(&bf16::pairs_of_rows(weight, k, n), terms, n), terms, n);
        Self(Arc::new(Layer { k, weight, bias: bias.map(<[f32]>::to_vec), pairs: Some(RowPairs::new(k)) }))
    }

    fn check(weight: &[f32], [k, n]: [usize; 2], bias: Option<&[f32]>) {
        assert_eq!(weight.len(), k * n, "PackedWeight: a weight of [{k}, {n}]");
        assert!(bias.is_none_or(|bias| bias.len() == n), "PackedWeight: a bias of {n} numbers");
    }

    /// Whether the weight and its inputs are rounded to bf16.
    pub fn is_bf16(&self) -> bool {
        self.0.pairs.is_some()
    }

    /// Rows and columns, `[k, n]`.
    pub fn shape(&self) -> [usize; 2] {
        let [_, n] = self.0.weight.shape();
        [self.0.k, n]
    }

    /// The weight `[k, n]`, row by row; rounded if it is in bf16.
    pub fn unpack(&self) -> Vec<f32> {
        let numbers = self.0.weight.unpack();
        let [k, n] = self.shape();
        if self.is_bf16() { bf16::rows_of_pairs(&numbers, k, n) } else { numbers }
    }

    /// The bias `[n]`.
    pub fn bias(&self) -> Option<&[f32]> {
        self.0.bias.as_deref()
    }

    /// Rows `[m, k]` as input of this weight: unchanged or, for bf16, rounded to `buffer`, which is overwritten.
    fn take<'a>(&self, rows: &'a [f32], m: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let Some(pairs) = self.0.pairs else { return rows };
        assert_eq!(rows.len(), m * self.0.k, "PackedWeight: rows of {} numbers", self.0.k);
        buffer.clear();
        buffer.resize(pairs.capacity(m), 0.0);
        // SAFETY: the buffer has space for the rows.
        unsafe { pairs.round(rows.as_ptr(), m, buffer.as_mut_ptr()) };
        buffer
    }

    /// The same for rows that are not needed afterwards; they are rounded in place.
    fn take_in_place<'a>(&self, rows: &'a mut [f32], m: usize) -> &'a [f32] {
        if let Some(pairs) = self.0.pairs {
            assert_eq!(rows.len(), m * self.0.k, "PackedWeight: rows of {} numbers", self.0.k);
            // SAFETY: pairs take no more space than their numbers.
            unsafe { pairs.round(rows.as_ptr(), m, rows.as_mut_ptr()) };
        }
        rows
    }

    /// Multiplies `m` rows `a` (from [`take`](Self::take)) with this weight and applies the epilogue, into `y`. All
    /// threads work on it if `all` is set, otherwise only the calling thread.
    ///
    /// # Safety
    /// `y` must have space for `[m, n]` numbers that no other thread uses.
    unsafe fn multiply(&self, a: &[f32], m: usize, epilogue: Epilogue<f32>, all: bool, y: Shared<f32>) {
        let [k, n] = self.0.weight.shape();
        let a = match self.0.pairs {
            Some(pairs) => pairs.view(a, m),
            None => View::rows(a, m, k),
        };
        let product = Gemm::new([m, n, k], a, &self.0.weight).then(epilogue);
        // SAFETY: upheld by the caller.
        unsafe {
            match (self.is_bf16(), all) {
                (false, false) => product.run_alone::<Numbers>(y),
                (false, true) => product.run_terms::<Numbers>(y),
                (true, false) => product.run_alone::<Pairs>(y),
                (true, true) => product.run_terms::<Pairs>(y),
            }
        }
    }
}

/// A norm and an MLP: `fc2(activation(fc1(LN(x))))`.
#[derive(Clone, Debug)]
pub struct NormMlp {
    /// `[D, F]`
    pub fc1: PackedWeight,
    /// `[F, D]`
    pub fc2: PackedWeight,
    /// The activation between `fc1` and `fc2`.
    pub activation: Activation,
    /// Added to the variance in the norm.
    pub eps: f64,
}

/// The layers after attention: `z' = x + γ₁ proj(context)`, `z = z' + γ₂ mlp(z')`.
#[derive(Clone, Debug)]
pub struct AfterAttention {
    /// `[D, D]`
    pub proj: PackedWeight,
    /// The norm and the MLP.
    pub mlp: NormMlp,
}

/// Parameters of a layer norm, `[D]`.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f64,
}

impl<'a> Norm<'a> {
    /// From contiguous tensors of `f32`.
    pub(crate) fn new(weight: &'a FlexTensor, bias: &'a FlexTensor, eps: f64) -> Self {
        Self { weight: f32::slice(weight), bias: f32::slice(bias), eps }
    }

    /// Writes the normalised rows of `x` to `y` with the calling thread alone.
    ///
    /// # Safety
    /// `y` must have space for as many numbers as x.
    unsafe fn rows(&self, x: &[f32], y: Shared<f32>) {
        // SAFETY: upheld by the caller.
        unsafe { layer_norm::rows(x, self.weight, self.bias, self.eps, y) };
    }
}

/// Calls `work` for shares of `m` rows, an equal number of shares for each thread.
fn for_each_share(m: usize, cost: usize, work: impl Fn(Range<usize>) + Sync + Send) {
    let threads = threads();
    let shares = m.div_ceil(ROWS).next_multiple_of(threads);
    for_each_block(shares, cost.saturating_mul(m), || (), |(), index| work(share(m, shares, index)));
}

/// Whether there are too few rows to divide among the threads.
fn are_few(m: usize) -> bool {
    m < LEAST_ROWS * threads()
}

/// `x weight + bias`, or `residual + gamma · (x weight + bias)`, of rows `x`, `[m, k]`. Returns `[m, n]`.
pub(crate) fn linear(
    x: &[f32],
    m: usize,
    weight: &PackedWeight,
    residual: Option<&[f32]>,
    gamma: Option<&[f32]>,
) -> Vec<f32> {
    let epilogue = match residual {
        Some(residual) => Epilogue::Add { bias: weight.bias(), gamma, residual },
        None => Epilogue::bias(weight.bias()),
    };
    let rounded = weight.0.pairs.map(|pairs| pairs.rounded(x, m));
    let a = rounded.as_deref().unwrap_or(x);
    // SAFETY: the product writes all its numbers.
    unsafe { written(m * weight.shape()[1], |y| weight.multiply(a, m, epilogue, true, y)) }
}

/// `activation(LN(x) weight + bias)` of rows `x`, `[m, k]`. Returns `[m, n]`.
pub(crate) fn norm_linear(
    x: &[f32],
    m: usize,
    norm: Norm,
    weight: &PackedWeight,
    activation: Activation,
) -> Vec<f32> {
    let [k, n] = weight.shape();
    let write = |y: Shared<f32>| {
        let work = |rows: Range<usize>| {
            let x = &x[rows.start * k..rows.end * k];
            let y = y.offset(rows.start * n);
            with_buffers([rows.len() * k, 0, 0], |[normed, ..]| {
                // SAFETY: there is space for the rows, and no other share uses them.
                unsafe {
                    norm.rows(x, Shared::of_capacity(normed));
                    normed.set_len(x.len());
                    let a = weight.take_in_place(normed, rows.len());
                    let epilogue = Epilogue::Activate { bias: weight.bias(), activation, keep: None };
                    weight.multiply(a, rows.len(), epilogue, rows.len() == m, y);
                }
            });
        };
        if are_few(m) { work(0..m) } else { for_each_share(m, k.saturating_mul(n), work) }
    };
    // SAFETY: the shares write all rows.
    unsafe { written(m * n, write) }
}

/// Arguments of [`norm_mlp_packed`](crate::norm_mlp_packed) besides the tokens.
pub(crate) struct MlpBranch<'a> {
    pub layers: &'a NormMlp,
    pub norm: Norm<'a>,
    pub gamma: Option<&'a [f32]>,
}

impl MlpBranch<'_> {
    /// `residual + gamma · mlp(x)` of rows `[m, D]`.
    pub(crate) fn run(&self, x: &[f32], residual: &[f32], m: usize) -> Vec<f32> {
        let [d, f] = self.layers.fc1.shape();
        let write = |y: Shared<f32>| {
            let work = |rows: Range<usize>| {
                let numbers = rows.start * d..rows.end * d;
                let (x, residual, y) =
                    (&x[numbers.clone()], &residual[numbers.clone()], y.offset(numbers.start));
                with_buffers([x.len(), rows.len() * f, 0], |[normed, hidden, _]| {
                    // SAFETY: no other share uses these rows, and the buffers have space for them.
                    unsafe { self.rows(x, residual, rows.len(), rows.len() == m, [normed, hidden], y) };
                });
            };
            if are_few(m) { work(0..m) } else { for_each_share(m, self.cost(), work) }
        };
        // SAFETY: the shares write all rows.
        unsafe { written(m * d, write) }
    }

    /// Multiplications per row.
    fn cost(&self) -> usize {
        let [d, f] = self.layers.fc1.shape();
        d.saturating_mul(f).saturating_mul(2)
    }

    /// Computes `m` rows. All threads work on them if `all` is set, otherwise only the calling thread. `normed` and
    /// `hidden` are overwritten.
    ///
    /// # Safety
    /// `y` must have space for `[m, D]`, `normed` for `[m, D]` and `hidden` for `[m, F]`.
    unsafe fn rows(
        &self,
        x: &[f32],
        residual: &[f32],
        m: usize,
        all: bool,
        [normed, hidden]: [&mut Vec<f32>; 2],
        y: Shared<f32>,
    ) {
        let NormMlp { fc1, fc2, activation, .. } = self.layers;
        let [d, f] = fc1.shape();
        let epilogue = Epilogue::Activate { bias: fc1.bias(), activation: *activation, keep: None };
        // SAFETY: the buffers have space. The norm writes all of `normed`, and the product all of `hidden`.
        unsafe {
            self.norm.rows(x, Shared::of_capacity(normed));
            normed.set_len(m * d);
            fc1.multiply(fc1.take_in_place(normed, m), m, epilogue, all, Shared::of_capacity(hidden));
            hidden.set_len(m * f);
        }
        let epilogue = Epilogue::Add { bias: fc2.bias(), gamma: self.gamma, residual };
        // SAFETY: upheld by the caller.
        unsafe { fc2.multiply(fc2.take_in_place(hidden, m), m, epilogue, all, y) };
    }
}

/// Arguments of [`after_attention_packed`](crate::after_attention_packed) besides the tokens.
pub(crate) struct Branches<'a> {
    pub proj: &'a PackedWeight,
    /// Gain of the branch of attention.
    pub gamma: Option<&'a [f32]>,
    pub mlp: MlpBranch<'a>,
}

impl Branches<'_> {
    /// Maps rows `context` and `x`, `[m, D]`, to `[m, D]`.
    pub(crate) fn run(&self, context: &[f32], x: &[f32], m: usize) -> Vec<f32> {
        let [d, f] = self.mlp.layers.fc1.shape();
        let write = |y: Shared<f32>| {
            let work = |rows: Range<usize>| {
                let numbers = rows.start * d..rows.end * d;
                let y = y.offset(numbers.start);
                // SAFETY: no other share uses these rows.
                unsafe {
                    self.rows(&context[numbers.clone()], &x[numbers], rows.len(), rows.len() == m, f, y)
                };
            };
            let cost = self.mlp.cost().saturating_add(d.saturating_mul(d));
            if are_few(m) { work(0..m) } else { for_each_share(m, cost, work) }
        };
        // SAFETY: the shares write all rows.
        unsafe { written(m * d, write) }
    }

    /// Computes `m` rows, `f` hidden numbers each. All threads work on them if `all` is set, otherwise only the calling
    /// thread.
    ///
    /// # Safety
    /// `y` must have space for the rows.
    unsafe fn rows(&self, context: &[f32], x: &[f32], m: usize, all: bool, f: usize, y: Shared<f32>) {
        let epilogue = Epilogue::Add { bias: self.proj.bias(), gamma: self.gamma, residual: x };
        with_buffers([x.len(), x.len(), m * f], |[sum, normed, hidden]| {
            // SAFETY: there is space for the rows, and the product writes all of `sum`.
            unsafe {
                let context = self.proj.take(context, m, normed);
                self.proj.multiply(context, m, epilogue, all, Shared::of_capacity(sum));
                sum.set_len(x.len());
                self.mlp.rows(sum, sum, m, all, [normed, hidden], y);
            }
        });
    }
}

/// Passes empty vectors with these capacities. Each thread keeps them between calls.
fn with_buffers(numbers: [usize; 3], work: impl FnOnce(&mut [Vec<f32>; 3])) {
    thread_local!(static BUFFERS: Cell<[Vec<f32>; 3]> = Cell::default());
    with_kept(&BUFFERS, |buffers| {
        for (vector, numbers) in buffers.iter_mut().zip(numbers) {
            vector.clear();
            vector.reserve_exact(numbers);
        }
        work(buffers);
    });
}
