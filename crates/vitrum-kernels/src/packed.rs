//! Layers whose weights are packed once, for answers alone; and what an encoder block does to each token by itself, in
//! two operations.
//!
//! Where each operation cuts its output into columns for the threads, every thread reads what the others have just
//! written: the tokens of the layer before. Here a thread keeps its rows from one attention to the next, norms, products,
//! activation and residuals, so that they stay in its cache, and the threads wait for one another three times a block
//! instead of seven times. That every thread reads all of the weights is what it costs, so they are packed before.
//!
//! Each number is what the separate operations give, to the bit. That is so of weights in bf16, too, where a separate
//! operation is one on the same weight: the rows that meet it are rounded right before, by the thread that has them.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use crate::activation::Activation;
use crate::bf16::{self, RowPairs};
use crate::gemm::{Epilogue, Gemm, Numbers, Packed, Pairs, View};
use crate::layer_norm;
use crate::threads::{Shared, for_each_block, share, threads, written};

/// Rows that a thread takes through all steps at a time, at most.
const ROWS: usize = 192;
/// With fewer rows for each thread the weights are read too often: products are then shared out by columns, too.
const LEAST_ROWS: usize = 48;

/// The weight `[K, N]`, in `f32` or rounded to bf16, and the bias `[N]` of a linear layer, in the order in which products
/// read them on this processor. Cloning shares the numbers.
#[derive(Clone)]
pub struct PackedWeight(Arc<Layer>);

struct Layer {
    k: usize,
    /// `[k, n]`; or `[k / 2, n]` pairs in bf16.
    weight: Packed<f32>,
    bias: Option<Vec<f32>>,
    /// Of the rows that meet a weight in bf16.
    pairs: Option<RowPairs>,
}

impl std::fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedWeight({:?}{})", self.shape(), if self.is_bf16() { ", bf16" } else { "" })
    }
}

impl PackedWeight {
    /// Packs a weight `[k, n]`, row by row, and takes over the bias `[n]`.
    ///
    /// # Panics
    /// If the numbers are not as many as the shape says.
    pub fn pack(weight: &[f32], [k, n]: [usize; 2], bias: Option<&[f32]>) -> Self {
        Self::check(weight, [k, n], bias);
        let weight = Packed::new(View::rows(weight, k, n), k, n);
        Self(Arc::new(Layer { k, weight, bias: bias.map(<[f32]>::to_vec), pairs: None }))
    }

    /// Rounds a weight `[k, n]`, row by row, to bf16 (to nearest, ties to even) and packs it; takes over the bias `[n]` as
    /// it is. What meets this weight is rounded likewise, and the products are summed in `f32`.
    ///
    /// # Panics
    /// If the numbers are not as many as the shape says.
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

    /// Whether the weight, and what meets it, is rounded to bf16.
    pub fn is_bf16(&self) -> bool {
        self.0.pairs.is_some()
    }

    /// Rows and columns, `[k, n]`.
    pub fn shape(&self) -> [usize; 2] {
        let [_, n] = self.0.weight.shape();
        [self.0.k, n]
    }

    /// The weight `[k, n]`, row by row; rounded, if it is in bf16.
    pub fn unpack(&self) -> Vec<f32> {
        let numbers = self.0.weight.unpack();
        let [k, n] = self.shape();
        if self.is_bf16() { bf16::rows_of_pairs(&numbers, k, n) } else { numbers }
    }

    /// The bias `[n]`.
    pub fn bias(&self) -> Option<&[f32]> {
        self.0.bias.as_deref()
    }

    /// Rows `[m, k]` as this weight takes them: where they lie or, for bf16, rounded to `room`, whose content is lost.
    fn take<'a>(&self, rows: &'a [f32], m: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let Some(pairs) = self.0.pairs else { return rows };
        assert_eq!(rows.len(), m * self.0.k, "PackedWeight: rows of {} numbers", self.0.k);
        buffer.clear();
        buffer.resize(pairs.capacity(m), 0.0);
        // SAFETY: there is room for the rows.
        unsafe { pairs.round(rows.as_ptr(), m, buffer.as_mut_ptr()) };
        buffer
    }

    /// The same of rows that nobody else reads, where they lie.
    fn take_in_place<'a>(&self, rows: &'a mut [f32], m: usize) -> &'a [f32] {
        if let Some(pairs) = self.0.pairs {
            assert_eq!(rows.len(), m * self.0.k, "PackedWeight: rows of {} numbers", self.0.k);
            // SAFETY: pairs take no more room than their numbers.
            unsafe { pairs.round(rows.as_ptr(), m, rows.as_mut_ptr()) };
        }
        rows
    }

    /// Writes the product of `m` rows `a`, as [`take`](Self::take) gives them, with this weight, and what follows it, to
    /// `y`: by the calling thread alone or, if these are `all` rows, by all threads.
    ///
    /// # Safety
    /// `y` must have room for `[m, n]` numbers that nobody else touches.
    unsafe fn multiply(&self, a: &[f32], m: usize, epilogue: Epilogue<f32>, all: bool, y: Shared<f32>) {
        let [k, n] = self.0.weight.shape();
        let b = (&self.0.weight).into();
        let a = match self.0.pairs {
            Some(pairs) => pairs.view(a, m),
            None => View::rows(a, m, k),
        };
        let product = Gemm { m, n, k, a, b, add: false, epilogue };
        // SAFETY: the caller's.
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

/// The layers behind attention: `z' = x + γ₁ proj(context)`, `z = z' + γ₂ fc2(activation(fc1(LN(z'))))`.
#[derive(Clone, Debug)]
pub struct AfterAttention {
    /// `[D, D]`
    pub proj: PackedWeight,
    /// `[D, F]`
    pub fc1: PackedWeight,
    /// `[F, D]`
    pub fc2: PackedWeight,
    /// Between `fc1` and `fc2`.
    pub activation: Activation,
    /// Added to the variance in the norm.
    pub eps: f64,
}

/// A layer norm's parameters, `[D]`.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f64,
}

impl Norm<'_> {
    /// Writes the rows `x`, normed, to `y`, by the calling thread alone.
    ///
    /// # Safety
    /// `y` must have room for as many numbers as x has.
    unsafe fn rows(&self, x: &[f32], y: Shared<f32>) {
        // SAFETY: the caller's.
        unsafe { layer_norm::rows(x, self.weight, self.bias, self.eps, y) };
    }
}

/// Calls `work` for shares of `m` rows, as many for each thread.
fn for_each_share(m: usize, cost: usize, work: impl Fn(Range<usize>) + Sync + Send) {
    let threads = threads();
    let shares = m.div_ceil(ROWS).next_multiple_of(threads);
    for_each_block(shares, cost.saturating_mul(m), || (), |(), index| work(share(m, shares, index)));
}

/// Whether rows are too few to be shared out.
fn are_few(m: usize) -> bool {
    m < LEAST_ROWS * threads()
}

/// `x weight + bias`, or `residual + gamma · (x weight + bias)`, of rows `x`, `[m, k]`; returns `[m, n]`.
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

/// `LN(x) weight + bias` of rows `x`, `[m, k]`; returns `[m, n]`.
pub(crate) fn norm_linear(x: &[f32], m: usize, norm: Norm, weight: &PackedWeight) -> Vec<f32> {
    let [k, n] = weight.shape();
    let write = |y: Shared<f32>| {
        let work = |rows: Range<usize>| {
            let x = &x[rows.start * k..rows.end * k];
            let y = y.offset(rows.start * n);
            with_buffers([rows.len() * k, 0, 0], |[normed, ..]| {
                // SAFETY: there is room for the rows, which belong to this share alone.
                unsafe {
                    norm.rows(x, Shared::of_capacity(normed));
                    normed.set_len(x.len());
                    let a = weight.take_in_place(normed, rows.len());
                    weight.multiply(a, rows.len(), Epilogue::bias(weight.bias()), rows.len() == m, y);
                }
            });
        };
        if are_few(m) { work(0..m) } else { for_each_share(m, k.saturating_mul(n), work) }
    };
    // SAFETY: the shares write all rows.
    unsafe { written(m * n, write) }
}

/// What [`after_attention_packed`] is given beside the tokens.
pub(crate) struct Branches<'a> {
    pub layers: &'a AfterAttention,
    pub norm: Norm<'a>,
    pub gammas: [Option<&'a [f32]>; 2],
}

impl Branches<'_> {
    /// Rows `context` and `x`, `[m, D]`, to `[m, D]`.
    pub(crate) fn run(&self, context: &[f32], x: &[f32], m: usize) -> Vec<f32> {
        let [d, f] = self.layers.fc1.shape();
        let write = |y: Shared<f32>| {
            let work = |rows: Range<usize>| {
                let numbers = rows.start * d..rows.end * d;
                let y = y.offset(numbers.start);
                // SAFETY: these rows belong to this share alone.
                unsafe { self.rows(&context[numbers.clone()], &x[numbers], rows.len(), rows.len() == m, y) };
            };
            let cost = d.saturating_mul(d.saturating_add(f.saturating_mul(2)));
            if are_few(m) { work(0..m) } else { for_each_share(m, cost, work) }
        };
        // SAFETY: the shares write all rows.
        unsafe { written(m * d, write) }
    }

    /// Some rows, `m` of them, by the calling thread alone or, if they are `all`, by all threads.
    ///
    /// # Safety
    /// `y` must have room for the rows.
    unsafe fn rows(&self, context: &[f32], x: &[f32], m: usize, all: bool, y: Shared<f32>) {
        let AfterAttention { proj, fc1, fc2, activation, .. } = self.layers;
        let [d, f] = fc1.shape();
        // SAFETY: here and below, there is room for the product's rows.
        let run = |layer: &PackedWeight, a: &[f32], epilogue: Epilogue<f32>, to| unsafe {
            layer.multiply(a, m, epilogue, all, to);
        };
        with_buffers([m * d, m * d, m * f], |[sum, normed, hidden]| {
            let epilogue = Epilogue::Add { bias: proj.bias(), gamma: self.gammas[0], residual: x };
            run(proj, proj.take(context, m, normed), epilogue, Shared::of_capacity(sum));
            // SAFETY: the product has written them, and so does the norm.
            unsafe {
                sum.set_len(m * d);
                self.norm.rows(sum, Shared::of_capacity(normed));
                normed.set_len(m * d);
            }
            let epilogue = Epilogue::Activate { bias: fc1.bias(), activation: *activation, keep: None };
            run(fc1, fc1.take_in_place(normed, m), epilogue, Shared::of_capacity(hidden));
            // SAFETY: the product has written them.
            unsafe { hidden.set_len(m * f) };
            let epilogue = Epilogue::Add { bias: fc2.bias(), gamma: self.gammas[1], residual: sum };
            run(fc2, fc2.take_in_place(hidden, m), epilogue, y);
        });
    }
}

/// Hands over empty vectors with room for so many numbers, which the thread keeps from call to call.
fn with_buffers(numbers: [usize; 3], work: impl FnOnce(&mut [Vec<f32>; 3])) {
    thread_local!(static BUFFERS: Cell<[Vec<f32>; 3]> = Cell::default());
    let mut buffers = BUFFERS.take();
    for (vector, numbers) in buffers.iter_mut().zip(numbers) {
        vector.clear();
        vector.reserve_exact(numbers);
    }
    work(&mut buffers);
    BUFFERS.set(buffers);
}
