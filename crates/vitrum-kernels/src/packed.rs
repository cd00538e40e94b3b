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

use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};

use crate::activation::Activation;
use crate::attention::{self, AttentionForm, AttentionInputs, Operands};
use crate::bf16::{self, RowPairs};
use crate::extension::{Maybe, in_one_piece};
use crate::gemm::{Finish, Gemm, Numbers, Packed, Pairs, View};
use crate::layer_norm;
use crate::linear::{rows_of, with_last};
use crate::prepared::{self, check, is_fast};
use crate::simd::Real;
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
    fn take<'a>(&self, rows: &'a [f32], m: usize, room: &'a mut Vec<f32>) -> &'a [f32] {
        let Some(pairs) = self.0.pairs else { return rows };
        assert_eq!(rows.len(), m * self.0.k, "PackedWeight: rows of {} numbers", self.0.k);
        room.clear();
        room.resize(pairs.room(m), 0.0);
        // SAFETY: there is room for the rows.
        unsafe { pairs.round(rows.as_ptr(), m, room.as_mut_ptr()) };
        room
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
    unsafe fn multiply(&self, a: &[f32], m: usize, finish: Finish<f32>, all: bool, y: Shared<f32>) {
        let [k, n] = self.0.weight.shape();
        let b = (&self.0.weight).into();
        let a = match self.0.pairs {
            Some(pairs) => pairs.view(a, m),
            None => View::rows(a, m, k),
        };
        let product = Gemm { m, n, k, a, b, add: false, finish };
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

/// Layers with packed weights, on backends that have them.
#[backend_extension(Flex)]
pub trait PackedOps: Backend {
    /// See [`linear_packed`] and [`linear_add_packed`].
    fn vitrum_linear_packed(
        x: FloatTensor<Self>,
        weight: PackedWeight,
        #[extension_type] residual: Maybe<Self>,
        #[extension_type] gamma: Maybe<Self>,
    ) -> FloatTensor<Self>;

    /// See [`norm_linear_packed`].
    fn vitrum_norm_linear_packed(
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        eps: f64,
        weight: PackedWeight,
    ) -> FloatTensor<Self>;

    /// See [`after_attention_packed`].
    fn vitrum_after_attention_packed(
        context: FloatTensor<Self>,
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        layers: AfterAttention,
        #[extension_type] gamma1: Maybe<Self>,
        #[extension_type] gamma2: Maybe<Self>,
    ) -> FloatTensor<Self>;

    /// See [`attention_bf16`](crate::attention_bf16).
    fn vitrum_attention_bf16(
        #[extension_type] inputs: AttentionInputs<Self>,
        form: AttentionForm,
    ) -> FloatTensor<Self>;
}

impl PackedOps for Flex {
    fn vitrum_linear_packed(
        x: FloatTensor<Self>,
        weight: PackedWeight,
        residual: Maybe<Self>,
        gamma: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let x = in_one_piece(x);
        let [residual, gamma] = [residual, gamma].map(|part| part.into_option().map(in_one_piece));
        let [residual, gamma] = [&residual, &gamma].map(|part| part.as_ref().map(f32::slice));
        let finish = match residual {
            Some(residual) => Finish::Add { bias: weight.bias(), gamma, residual },
            None => Finish::bias(weight.bias()),
        };
        let (shape, n) = (x.shape(), weight.shape()[1]);
        let m = rows_of(&shape);
        let rounded = weight.0.pairs.map(|pairs| pairs.rounded(f32::slice(&x), m));
        let a = rounded.as_deref().unwrap_or(f32::slice(&x));
        // SAFETY: the product writes all its numbers.
        let y = unsafe { written(m * n, |y| weight.multiply(a, m, finish, true, y)) };
        f32::tensor(y, with_last(&shape, n))
    }

    fn vitrum_norm_linear_packed(
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        eps: f64,
        weight: PackedWeight,
    ) -> FloatTensor<Self> {
        let [x, norm_weight, norm_bias] = [x, norm_weight, norm_bias].map(in_one_piece);
        let norm = Norm { weight: f32::slice(&norm_weight), bias: f32::slice(&norm_bias), eps };
        let shape = x.shape();
        let y = norm_linear(f32::slice(&x), rows_of(&shape), norm, &weight);
        f32::tensor(y, with_last(&shape, weight.shape()[1]))
    }

    fn vitrum_after_attention_packed(
        context: FloatTensor<Self>,
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        layers: AfterAttention,
        gamma1: Maybe<Self>,
        gamma2: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let [context, x, norm_weight, norm_bias] = [context, x, norm_weight, norm_bias].map(in_one_piece);
        let gammas = [gamma1, gamma2].map(|gamma| gamma.into_option().map(in_one_piece));
        let branches = Branches {
            layers: &layers,
            norm: Norm { weight: f32::slice(&norm_weight), bias: f32::slice(&norm_bias), eps: layers.eps },
            gammas: [0, 1].map(|branch| gammas[branch].as_ref().map(f32::slice)),
        };
        let shape = x.shape();
        f32::tensor(branches.run(f32::slice(&context), f32::slice(&x), rows_of(&shape)), shape)
    }

    fn vitrum_attention_bf16(inputs: AttentionInputs<Self>, form: AttentionForm) -> FloatTensor<Self> {
        attention::forward_bf16(&Operands::new(inputs, form))
    }
}

/// A layer norm's parameters, `[D]`.
#[derive(Clone, Copy)]
struct Norm<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f64,
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

/// `LN(x) weight + bias` of rows `x`, `[m, k]`; returns `[m, n]`.
fn norm_linear(x: &[f32], m: usize, norm: Norm, weight: &PackedWeight) -> Vec<f32> {
    let [k, n] = weight.shape();
    let write = |y: Shared<f32>| {
        let work = |rows: Range<usize>| {
            let x = &x[rows.start * k..rows.end * k];
            let y = y.offset(rows.start * n);
            with_room([rows.len() * k, 0, 0], |[normed, ..]| {
                // SAFETY: there is room for the rows, which belong to this share alone.
                unsafe {
                    norm.rows(x, Shared::room(normed));
                    normed.set_len(x.len());
                    let a = weight.take_in_place(normed, rows.len());
                    weight.multiply(a, rows.len(), Finish::bias(weight.bias()), rows.len() == m, y);
                }
            });
        };
        if are_few(m) { work(0..m) } else { for_each_share(m, k.saturating_mul(n), work) }
    };
    // SAFETY: the shares write all rows.
    unsafe { written(m * n, write) }
}

/// What [`after_attention_packed`] is given beside the tokens.
struct Branches<'a> {
    layers: &'a AfterAttention,
    norm: Norm<'a>,
    gammas: [Option<&'a [f32]>; 2],
}

impl Branches<'_> {
    /// Rows `context` and `x`, `[m, D]`, to `[m, D]`.
    fn run(&self, context: &[f32], x: &[f32], m: usize) -> Vec<f32> {
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
        let run = |layer: &PackedWeight, a: &[f32], finish: Finish<f32>, to| unsafe {
            layer.multiply(a, m, finish, all, to);
        };
        with_room([m * d, m * d, m * f], |[sum, normed, hidden]| {
            let finish = Finish::Add { bias: proj.bias(), gamma: self.gammas[0], residual: x };
            run(proj, proj.take(context, m, normed), finish, Shared::room(sum));
            // SAFETY: the product has written them, and so does the norm.
            unsafe {
                sum.set_len(m * d);
                self.norm.rows(sum, Shared::room(normed));
                normed.set_len(m * d);
            }
            let finish = Finish::Activate { bias: fc1.bias(), activation: *activation, keep: None };
            run(fc1, fc1.take_in_place(normed, m), finish, Shared::room(hidden));
            // SAFETY: the product has written them.
            unsafe { hidden.set_len(m * f) };
            let finish = Finish::Add { bias: fc2.bias(), gamma: self.gammas[1], residual: sum };
            run(fc2, fc2.take_in_place(hidden, m), finish, y);
        });
    }
}

/// Hands over empty vectors with room for so many numbers, which the thread keeps from call to call.
fn with_room(numbers: [usize; 3], work: impl FnOnce(&mut [Vec<f32>; 3])) {
    thread_local!(static ROOM: Cell<[Vec<f32>; 3]> = Cell::default());
    let mut room = ROOM.take();
    for (vector, numbers) in room.iter_mut().zip(numbers) {
        vector.clear();
        vector.reserve_exact(numbers);
    }
    work(&mut room);
    ROOM.set(room);
}

/// A linear layer, `x weight + bias`, for answers: `x` is `[..., K]`, `weight` `[K, N]`. Returns `[..., N]`. Equals
/// [`linear`](crate::linear) to the bit; with a weight in bf16, that of x rounded to bf16 and of the rounded weight, up to
/// the order of the sum.
///
/// On the CPU in `f32`, outside of training; anywhere else the weight is unpacked each time, and x rounded if the weight is
/// in bf16.
///
/// # Panics
/// If the last axis of x is not K.
pub fn linear_packed<const R: usize>(x: Tensor<R>, weight: &PackedWeight) -> Tensor<R> {
    check("linear_packed", x.dims()[R - 1], weight.shape());
    if !is_fast(&x) {
        let (floats, bias) = floats(weight, &x);
        return crate::linear(rounded(weight, x), floats, bias);
    }
    let (x, weight) = (x.into_dispatch(), weight.clone());
    Tensor::from_dispatch(Dispatch::vitrum_linear_packed(x, weight, Maybe::Absent, Maybe::Absent))
}

/// A linear layer that ends a residual branch, `residual + gamma · (x weight + bias)`, for answers; see
/// [`linear_packed`]. Equals [`linear_add`](crate::linear_add) to the bit, with the same exception.
///
/// # Panics
/// If the last axis of x is not K, or residual or gamma are of another shape or type than the output asks for.
pub fn linear_add_packed<const R: usize>(
    x: Tensor<R>,
    weight: &PackedWeight,
    residual: Tensor<R>,
    gamma: Option<Tensor<1>>,
) -> Tensor<R> {
    check("linear_add_packed", x.dims()[R - 1], weight.shape());
    crate::check_residual("linear_add_packed", &x, weight.shape()[1], &residual, gamma.as_ref());
    if !is_fast(&x) || !is_fast(&residual) {
        let (floats, bias) = floats(weight, &x);
        return crate::linear_add(rounded(weight, x), floats, bias, residual, gamma);
    }
    let (x, weight, residual) = (x.into_dispatch(), weight.clone(), Maybe::Present(residual.into_dispatch()));
    Tensor::from_dispatch(Dispatch::vitrum_linear_packed(x, weight, residual, crate::maybe(gamma)))
}

/// A layer norm and the linear layer behind it, `LN(x) weight + bias`, for answers: `x` is `[..., D]`, `weight` `[D, N]`.
/// Returns `[..., N]`. Equals [`layer_norm`](crate::layer_norm) and [`linear_packed`] to the bit.
///
/// # Panics
/// If the last axis of x is not D, or the norm's parameters are not `[D]`.
pub fn norm_linear_packed<const R: usize>(
    x: Tensor<R>,
    norm_weight: Tensor<1>,
    norm_bias: Tensor<1>,
    eps: f64,
    weight: &PackedWeight,
) -> Tensor<R> {
    check("norm_linear_packed", x.dims()[R - 1], weight.shape());
    crate::check_layer_norm(&x, &norm_weight, Some(&norm_bias));
    if !is_fast(&x) {
        return linear_packed(crate::layer_norm(x, norm_weight, norm_bias, eps), weight);
    }
    Tensor::from_dispatch(Dispatch::vitrum_norm_linear_packed(
        x.into_dispatch(),
        norm_weight.into_dispatch(),
        norm_bias.into_dispatch(),
        eps,
        weight.clone(),
    ))
}

/// What an encoder block does behind attention, for answers: `context` and `x` are `[..., D]`, the norm's parameters
/// and the gains of the branches (LayerScale; 1 if absent) `[D]`. Returns a tensor like x. Equals
/// [`linear_add_packed`], [`layer_norm`](crate::layer_norm), [`linear_packed`] and [`activate`](crate::activate) to the
/// bit. Layers in `f32` and in bf16 may be mixed.
///
/// # Panics
/// If a tensor has another shape or type, or the weights do not follow on one another.
pub fn after_attention_packed<const R: usize>(
    context: Tensor<R>,
    x: Tensor<R>,
    norm_weight: Tensor<1>,
    norm_bias: Tensor<1>,
    layers: &AfterAttention,
    [gamma1, gamma2]: [Option<Tensor<1>>; 2],
) -> Tensor<R> {
    let AfterAttention { proj, fc1, fc2, activation, eps } = layers;
    check("after_attention_packed, proj", context.dims()[R - 1], proj.shape());
    check("after_attention_packed, fc1", x.dims()[R - 1], fc1.shape());
    check("after_attention_packed, fc2", fc1.shape()[1], fc2.shape());
    crate::check_residual("after_attention_packed", &context, proj.shape()[1], &x, gamma1.as_ref());
    crate::check_residual("after_attention_packed", &context, fc2.shape()[1], &x, gamma2.as_ref());
    crate::check_layer_norm(&x, &norm_weight, Some(&norm_bias));
    if !is_fast(&x) || !is_fast(&context) {
        let x = linear_add_packed(context, proj, x, gamma1);
        let hidden = linear_packed(crate::layer_norm(x.clone(), norm_weight, norm_bias, *eps), fc1);
        return linear_add_packed(crate::activate(hidden, *activation), fc2, x, gamma2);
    }
    Tensor::from_dispatch(Dispatch::vitrum_after_attention_packed(
        context.into_dispatch(),
        x.into_dispatch(),
        norm_weight.into_dispatch(),
        norm_bias.into_dispatch(),
        layers.clone(),
        crate::maybe(gamma1),
        crate::maybe(gamma2),
    ))
}

/// The weight `[K, N]` and bias as tensors like x.
fn floats<const R: usize>(weight: &PackedWeight, x: &Tensor<R>) -> (Tensor<2>, Option<Tensor<1>>) {
    prepared::floats(weight.unpack(), weight.shape(), weight.bias(), x)
}

/// x as a weight in bf16 takes it.
fn rounded<const R: usize>(weight: &PackedWeight, x: Tensor<R>) -> Tensor<R> {
    let dtype = x.dtype();
    if weight.is_bf16() { x.cast(DType::BF16).cast(dtype) } else { x }
}
