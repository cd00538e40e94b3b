//! Attention over a packed projection without the `[B, A, T, T]` weights.
//!
//! Forward, for each block of [`QUERIES`] queries of one head: scores are computed for [`KEYS`] keys at a time, with the
//! softmax's running maximum and sum (arXiv:2205.14135), and multiplied with the values while they are in cache.
//! Backward, for each head: the weights of a tile are computed again from the row maxima and sums.
//!
//! Scores are held transposed, `[key, query]`: maxima, exponentials and sums of sixteen queries then run in vector
//! registers with nothing to add up across lanes, keys are read where the projection left them, and the second product
//! finds its output rows as the context wants them. Only queries (and in the backward pass the incoming gradient) are
//! transposed, once per block.
//!
//! Best of several rounds in µs, `f32`, two threads of a Cascade Lake machine that others were using (so these are
//! lower bounds of each, not a fair mean); forward, then forward and backward:
//!
//! | B, T, D, heads | this | reference | torch 2.15 | this | reference | torch |
//! |---|---|---|---|---|---|---|
//! | 1, 197, 192, 3 | 247 | 2204 | 317 | 1127 | 4849 | 2784 |
//! | 8, 197, 192, 3 | 4104 | 21732 | 3952 | 16377 | 115646 | 25925 |
//! | 1, 197, 384, 6 | 829 | 3607 | 552 | 3300 | 13384 | 3204 |
//! | 1, 197, 768, 12 | 1378 | 7368 | 1420 | 7568 | 43687 | 9797 |
//! | 8, 197, 768, 12 | 24009 | 143869 | 24744 | 77582 | 441577 | 153457 |
//! | 1, 577, 768, 12 | 23638 | 131520 | 25958 | 83375 | 310713 | 117315 |
//! | 64, 65, 192, 3 | 6358 | 38375 | 3440 | 33481 | 171089 | 56712 |
//!
//! Of one thread's forward time at 197 tokens, products take 57 %, softmax and transposition 36 %. Tried on the way:
//! a store per transposed number and rows copied by `memcpy` (11 % slower in all); sums of 577 terms in one chain
//! (error 1.2e-6 instead of 6.6e-7 of the largest number). The sizes below are reasoned, not searched.

mod pairs;

pub(crate) use pairs::forward_bf16;

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::product::Product;
use crate::simd::{self, Job, Real, Simd, Vector, sum_chains};
use crate::threads::{Shared, for_each_block, share, sum_parts, written};

/// Queries per block, at most: four AVX-512 registers of `f32`, so that keys are read once per block; 197 tokens (ViT at 224
/// pixels) make blocks of 48 and 64.
const QUERIES: usize = 64;
/// Keys per tile: scores take 32 KB in `f32`, values of 64 columns another 32, which stay in the second-level cache
/// and mostly in the first.
const KEYS: usize = 128;
/// Rows of scratch are padded to this many numbers, the longest vector.
const PAD: usize = 16;
/// In how many parts the gradient of a bias shared by many heads or images is summed: so many can run in parallel, and
/// so many copies of it are held.
const BIAS_PARTS: usize = 4;

/// Shapes and numbers of one call.
struct Call<'a, T> {
    qkv: &'a [T],
    bias: Option<Bias<'a, T>>,
    b: usize,
    t: usize,
    /// How many tokens ask, from the first on.
    queries: usize,
    a: usize,
    /// Columns of a head, and that padded.
    e: usize,
    e_pad: usize,
    scale: T,
}

/// Added to the scores; `[b, a, T, T]` with `b` and `a` possibly 1.
struct Bias<'a, T> {
    values: &'a [T],
    b: usize,
    a: usize,
}

impl<'a, T: Real> Call<'a, T> {
    fn new(qkv: &'a FlexTensor, bias: Option<&'a FlexTensor>, queries: usize, a: usize, scale: f64) -> Self {
        let shape = qkv.shape();
        let [b, t, e] = [shape[0], shape[1], shape[2] / 3 / a];
        let bias = bias.map(|bias| {
            let shape = bias.shape();
            Bias { values: T::slice(bias), b: shape[0], a: shape[1] }
        });
        let scale = T::from_f64(scale);
        Self { qkv: T::slice(qkv), bias, b, t, queries, a, e, e_pad: e.next_multiple_of(PAD), scale }
    }

    fn is_empty(&self) -> bool {
        self.b == 0 || self.queries == 0 || self.e == 0
    }

    /// Steps between tokens of the projection and of the context.
    fn steps(&self) -> (usize, usize) {
        (3 * self.a * self.e, self.a * self.e)
    }

    /// Where head `h` of image `b` begins in the projection (`part` 0 for q, 1 for k, 2 for v).
    fn start(&self, b: usize, h: usize, part: usize) -> usize {
        let (step, d) = self.steps();
        b * self.t * step + part * d + h * self.e
    }

    /// The bias `[T, T]` of a head.
    fn bias(&self, b: usize, h: usize) -> Option<&'a [T]> {
        let bias = self.bias.as_ref()?;
        let index = if bias.b == 1 { 0 } else { b } * bias.a + if bias.a == 1 { 0 } else { h };
        Some(&bias.values[index * self.t * self.t..][..self.t * self.t])
    }

    fn multiplications(&self) -> usize {
        let pairs = self.queries.saturating_mul(self.t);
        self.b.saturating_mul(self.a).saturating_mul(pairs).saturating_mul(2 * self.e)
    }
}

/// Context `[B, Q, D]`, row maxima and reciprocal row sums `[B, A, Q]`, of the first Q tokens. Tensors must lie in one
/// piece.
pub(crate) fn forward<T: Real>(
    qkv: &FlexTensor,
    bias: Option<&FlexTensor>,
    queries: usize,
    num_heads: usize,
    scale: f64,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let run = |block: ForwardBlock<T>| simd::run(block);
    forward_by(&Call::new(qkv, bias, queries, num_heads, scale), run)
}

/// The same by `run`, which computes one block after the other.
fn forward_by<T: Real>(
    call: &Call<T>,
    run: impl Fn(ForwardBlock<T>) + Sync + Send,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let [b, a, queries] = [call.b, call.a, call.queries];
    let d = call.a * call.e;
    let mut max = vec![T::ZERO; b * a * queries];
    let mut norm = vec![T::ZERO; b * a * queries];
    let write = |context: Shared<T>| {
        if call.is_empty() {
            return; // no tokens, or tokens of no numbers
        }
        let (max, norm) = (Shared::new(&mut max), Shared::new(&mut norm));
        let blocks = queries.div_ceil(QUERIES);
        let work = |scratch: &mut ForwardScratch<T>, index: usize| {
            let (head, block) = (index / blocks, index % blocks);
            // As many registers of queries in each: a last block of five rows would leave threads unequal shares.
            let Range { start, end } = share(queries.div_ceil(PAD), blocks, block);
            let (b, h, first) = (head / a, head % a, start * PAD);
            let rows = queries.min(end * PAD) - first;
            run(ForwardBlock { call, b, h, first, rows, scratch, context, max, norm });
        };
        for_each_block(b * a * blocks, call.multiplications(), || ForwardScratch::new(call.e_pad), work);
    };
    // SAFETY: the blocks write all columns of all rows, and read none.
    let context = unsafe { written(b * queries * d, write) };
    let rows = || Shape::new([b, a, queries]);
    (T::tensor(context, Shape::new([b, queries, d])), T::tensor(max, rows()), T::tensor(norm, rows()))
}

struct ForwardScratch<T> {
    /// `[E, QUERIES]`
    queries: Vec<T>,
    /// `[KEYS, QUERIES]`
    scores: Vec<T>,
    /// `[KEYS, E]`
    values: Vec<T>,
    /// `[QUERIES, E]`
    output: Vec<T>,
    max: Vec<T>,
    sum: Vec<T>,
    /// What older sums and outputs are multiplied with when the maximum has grown.
    shrink: Vec<T>,
}

impl<T: Real> ForwardScratch<T> {
    fn new(e_pad: usize) -> Self {
        let zeros = |n| vec![T::ZERO; n];
        Self {
            queries: zeros(e_pad * QUERIES),
            scores: zeros(KEYS * QUERIES),
            values: zeros(KEYS * e_pad),
            output: zeros(QUERIES * e_pad),
            max: zeros(QUERIES),
            sum: zeros(QUERIES),
            shrink: zeros(QUERIES),
        }
    }
}

/// `rows` queries of head `h` of image `b`, from `first` on.
struct ForwardBlock<'a, T> {
    call: &'a Call<'a, T>,
    b: usize,
    h: usize,
    first: usize,
    rows: usize,
    scratch: &'a mut ForwardScratch<T>,
    context: Shared<T>,
    max: Shared<T>,
    norm: Shared<T>,
}

impl<T: Real> Job for ForwardBlock<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { call, b, h, first, rows, scratch, .. } = self;
        let lanes = T::In::<S>::LANES;
        let (e, e_pad, t) = (call.e, call.e_pad, call.t);
        let step = call.steps().0;
        let width = rows.next_multiple_of(lanes);
        let query = &call.qkv[call.start(b, h, 0) + first * step..];
        // SAFETY: `query` has `rows` rows of `e` numbers at `step`; scratch has `e` rows of QUERIES.
        unsafe { transpose::<S, T>(query, step, rows, e, call.scale, &mut scratch.queries) };
        scratch.max.fill(T::LOWEST);
        scratch.sum.fill(T::ZERO);
        for key in (0..t).step_by(KEYS) {
            let keys = KEYS.min(t - key);
            // SAFETY: tiles lie within the projection's rows and the scratch buffers' sizes.
            unsafe {
                score_tile::<S, T>(
                    call,
                    (b, h, key, keys),
                    (first, rows),
                    &scratch.queries,
                    &mut scratch.scores,
                );
                softmax_tile::<T::In<S>>(scratch, keys, width);
                if key > 0 {
                    shrink_rows::<S, T>(&mut scratch.output, &scratch.shrink, rows, e_pad);
                }
                let values = &call.qkv[call.start(b, h, 2) + key * step..];
                pack_rows::<T::In<S>>((values, step), keys, e, e_pad, T::ONE, &mut scratch.values);
                S::vectorize(Product {
                    m: rows,
                    n: e.next_multiple_of(lanes),
                    k: keys,
                    a: scratch.scores.as_ptr(),
                    a_steps: [1, QUERIES],
                    b: scratch.values.as_ptr(),
                    b_step: e_pad,
                    c: scratch.output.as_mut_ptr(),
                    c_step: e_pad,
                    add: key > 0,
                });
            }
        }
        // SAFETY: all keys are in the sums.
        unsafe {
            let shared = (self.context, self.max, self.norm);
            hand_over(call, (b, h), (first, rows), scratch, shared);
        }
    }
}

/// Writes the context of a block's rows: outputs over sums; with it maxima and reciprocal sums.
///
/// # Safety
/// The rows must be this block's alone.
#[inline(always)]
unsafe fn hand_over<T: Real>(
    call: &Call<T>,
    (b, h): (usize, usize),
    (first, rows): (usize, usize),
    scratch: &ForwardScratch<T>,
    (context, max, norm): (Shared<T>, Shared<T>, Shared<T>),
) {
    let (e, e_pad, d) = (call.e, call.e_pad, call.steps().1);
    let head_rows = (b * call.a + h) * call.queries + first;
    // SAFETY: these rows and columns belong to this block alone.
    let (max, norm) = unsafe { (max.part(head_rows, rows), norm.part(head_rows, rows)) };
    max.copy_from_slice(&scratch.max[..rows]);
    for (i, norm) in norm.iter_mut().enumerate() {
        let sum = scratch.sum[i];
        *norm = if sum == T::ZERO { T::ZERO } else { sum.recip() };
        let out = context.at((b * call.queries + first + i) * d + h * e);
        for (j, &x) in scratch.output[i * e_pad..][..e].iter().enumerate() {
            // SAFETY: as above.
            unsafe { out.add(j).write(x * *norm) };
        }
    }
}

/// Scores `[keys, rows]` of a tile: `k · (scale · q) + bias`.
///
/// # Safety
/// The processor must have the instructions of `S`.
#[inline(always)]
unsafe fn score_tile<S: Simd, T: Real>(
    call: &Call<T>,
    (b, h, key, keys): (usize, usize, usize, usize),
    (first, rows): (usize, usize),
    queries: &[T],
    scores: &mut [T],
) {
    let step = call.steps().0;
    let k = &call.qkv[call.start(b, h, 1) + key * step..];
    debug_assert!(k.len() >= (keys - 1) * step + call.e);
    // SAFETY: `keys` rows of `e` numbers are there; scores have room for KEYS rows of QUERIES.
    unsafe {
        S::vectorize(Product {
            m: keys,
            n: rows.next_multiple_of(T::In::<S>::LANES),
            k: call.e,
            a: k.as_ptr(),
            a_steps: [step, 1],
            b: queries.as_ptr(),
            b_step: QUERIES,
            c: scores.as_mut_ptr(),
            c_step: QUERIES,
            add: false,
        });
    }
    add_bias(call, (b, h, key, keys), (first, rows), scores);
}

/// Adds the bias, if there is one, to the scores `[keys, rows]` of a tile.
#[inline(always)]
fn add_bias<T: Real>(
    call: &Call<T>,
    (b, h, key, keys): (usize, usize, usize, usize),
    (first, rows): (usize, usize),
    scores: &mut [T],
) {
    if let Some(bias) = call.bias(b, h) {
        for i in 0..rows {
            let row = &bias[(first + i) * call.t + key..][..keys];
            for (score, &bias) in scores[i..].iter_mut().step_by(QUERIES).zip(row) {
                *score = *score + bias;
            }
        }
    }
}

/// Turns scores into exp(score - maximum so far), and brings maximum, sum and shrinkage up to date.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn softmax_tile<V: Vector>(scratch: &mut ForwardScratch<V::Scalar>, keys: usize, width: usize) {
    for lane in (0..width).step_by(V::LANES) {
        // SAFETY: `lane + lanes` is at most QUERIES, `keys` at most KEYS.
        unsafe {
            let scores = scratch.scores.as_mut_ptr().add(lane);
            let old = V::load(scratch.max.as_ptr().add(lane));
            let mut maxima = [old; 4];
            // Four chains, indexed by constants so that they stay in registers.
            for key in (0..keys - keys % 4).step_by(4) {
                for chain in 0..4 {
                    maxima[chain] = maxima[chain].max(V::load(scores.add((key + chain) * QUERIES)));
                }
            }
            for key in keys - keys % 4..keys {
                maxima[0] = maxima[0].max(V::load(scores.add(key * QUERIES)));
            }
            let max = maxima[0].max(maxima[1]).max(maxima[2].max(maxima[3]));
            let shrink = old.sub(max).exp();
            let mut sums = [V::splat(V::Scalar::ZERO); 4];
            for key in (0..keys - keys % 4).step_by(4) {
                for chain in 0..4 {
                    let at = scores.add((key + chain) * QUERIES);
                    let weight = V::load(at).sub(max).exp();
                    weight.store(at);
                    sums[chain] = sums[chain].add(weight);
                }
            }
            for key in keys - keys % 4..keys {
                let at = scores.add(key * QUERIES);
                let weight = V::load(at).sub(max).exp();
                weight.store(at);
                sums[0] = sums[0].add(weight);
            }
            let new = sum_chains(sums);
            V::load(scratch.sum.as_ptr().add(lane))
                .mul_add(shrink, new)
                .store(scratch.sum.as_mut_ptr().add(lane));
            max.store(scratch.max.as_mut_ptr().add(lane));
            shrink.store(scratch.shrink.as_mut_ptr().add(lane));
        }
    }
}

/// Multiplies each row of `output` `[rows, e_pad]` with its own number.
///
/// # Safety
/// The processor must have the instructions of `S`; `e_pad` must be a multiple of the lanes.
#[inline(always)]
unsafe fn shrink_rows<S: Simd, T: Real>(output: &mut [T], shrink: &[T], rows: usize, e_pad: usize) {
    for (row, &shrink) in output.chunks_exact_mut(e_pad).zip(&shrink[..rows]) {
        // SAFETY: steps of the vector's length within a row.
        unsafe {
            let factor = T::In::<S>::splat(shrink);
            for column in (0..e_pad).step_by(T::In::<S>::LANES) {
                let at = row.as_mut_ptr().add(column);
                T::In::<S>::load(at).mul(factor).store(at);
            }
        }
    }
}

/// `to[column, row] = factor · from[row, column]`, rows of `to` QUERIES long and filled with zeros to a vector's end.
///
/// # Safety
/// The processor must have the instructions of `S`.
#[inline(always)]
unsafe fn transpose<S: Simd, T: Real>(
    from: &[T],
    step: usize,
    rows: usize,
    columns: usize,
    factor: T,
    to: &mut [T],
) {
    let width = rows.next_multiple_of(T::In::<S>::LANES);
    let row_of = |row: usize| &from[row * step..][..columns];
    let fours = rows - rows % 4;
    // Four rows at a time: a store for each number took 10 % of the whole forward pass, this a third of that.
    for row in (0..fours).step_by(4) {
        let (a, b, c, d) = (row_of(row), row_of(row + 1), row_of(row + 2), row_of(row + 3));
        for (column, to) in to.chunks_exact_mut(QUERIES).take(columns).enumerate() {
            let four = [a[column] * factor, b[column] * factor, c[column] * factor, d[column] * factor];
            to[row..row + 4].copy_from_slice(&four);
        }
    }
    for row in fours..rows {
        for (to, &x) in to.chunks_exact_mut(QUERIES).zip(row_of(row)) {
            to[row] = x * factor;
        }
    }
    for column in 0..columns {
        to[column * QUERIES + rows..column * QUERIES + width].fill(T::ZERO);
    }
}

/// Copies rows of `e` numbers at `step` into rows of `e_pad`, multiplied with `factor` and padded with zeros.
///
/// # Safety
/// The processor must have the instructions of `V`; `e_pad` must be a multiple of the lanes.
#[inline(always)]
unsafe fn pack_rows<V: Vector>(
    (from, step): (&[V::Scalar], usize),
    rows: usize,
    e: usize,
    e_pad: usize,
    factor: V::Scalar,
    to: &mut [V::Scalar],
) {
    let bulk = e - e % V::LANES;
    for (row, to) in to.chunks_exact_mut(e_pad).take(rows).enumerate() {
        let from = &from[row * step..][..e];
        // SAFETY: the bulk of both rows is whole vectors.
        unsafe {
            let factor = V::splat(factor);
            for column in (0..bulk).step_by(V::LANES) {
                V::load(from.as_ptr().add(column)).mul(factor).store(to.as_mut_ptr().add(column));
            }
        }
        for column in bulk..e {
            to[column] = from[column] * factor;
        }
        to[e..].fill(V::Scalar::ZERO);
    }
}

/// Gradients of the projection, and of the bias if asked for. Tensors must lie in one piece.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward<T: Real>(
    qkv: &FlexTensor,
    bias: Option<&FlexTensor>,
    context: &FlexTensor,
    max: &FlexTensor,
    norm: &FlexTensor,
    grad: &FlexTensor,
    num_heads: usize,
    scale: f64,
    want_bias: bool,
) -> (FlexTensor, Option<FlexTensor>) {
    let call = Call::<T>::new(qkv, bias, context.shape()[1], num_heads, scale);
    let mut d_qkv = vec![T::ZERO; call.qkv.len()];
    let plan = Plan::new(&call, want_bias);
    let mut d_bias = vec![T::ZERO; plan.parts * plan.bias_size];
    if !call.is_empty() {
        let saved = Saved {
            context: T::slice(context),
            max: T::slice(max),
            norm: T::slice(norm),
            grad: T::slice(grad),
        };
        let shared = (Shared::new(&mut d_qkv), Shared::new(&mut d_bias));
        let work = |scratch: &mut BackwardScratch<T>, task: usize| {
            let d_bias = (plan.bias_size > 0).then(|| {
                let (slot, part) = (task / plan.parts, task % plan.parts);
                let tile = call.t * call.t;
                // SAFETY: each task has a slot's part to itself.
                unsafe { shared.1.part(part * plan.bias_size + slot * tile, tile) }
            });
            let mut d_bias = d_bias;
            for (b, h) in plan.heads(task) {
                let d_qkv = &shared.0;
                let d_bias = d_bias.as_deref_mut();
                simd::run(BackwardHead { call: &call, saved: &saved, b, h, scratch, d_qkv, d_bias });
            }
        };
        let scratch = || BackwardScratch::new(call.t, call.e_pad);
        for_each_block(plan.slots * plan.parts, call.multiplications().saturating_mul(3), scratch, work);
        sum_parts(&mut d_bias, plan.bias_size);
    }
    let d_bias = bias.filter(|_| want_bias).map(|bias| {
        d_bias.truncate(plan.bias_size);
        T::tensor(d_bias, bias.shape())
    });
    (T::tensor(d_qkv, qkv.shape()), d_bias)
}

/// Which heads a task of the backward pass does one after the other: those that share a slot of the bias, in parts.
struct Plan {
    b: usize,
    a: usize,
    /// Axes of the slots; without a gradient of the bias each head has its own.
    slots_a: usize,
    slots: usize,
    /// Heads that share a slot, and in how many parts they are done.
    sharing: usize,
    parts: usize,
    /// Numbers in the gradient of the bias, 0 if nobody wants it.
    bias_size: usize,
}

impl Plan {
    fn new<T: Real>(call: &Call<T>, want_bias: bool) -> Self {
        let (b, a) = (call.b, call.a);
        let wanted = call.bias.as_ref().filter(|_| want_bias);
        let (slots_b, slots_a) = wanted.map_or((b, a), |bias| (bias.b, bias.a));
        let slots = slots_b * slots_a;
        let sharing = (b * a).checked_div(slots).unwrap_or(0); // no images, no slots
        let bias_size = if wanted.is_some() { slots * call.t * call.t } else { 0 };
        Self { b, a, slots_a, slots, sharing, parts: sharing.clamp(1, BIAS_PARTS), bias_size }
    }

    /// Images and heads of a task.
    fn heads(&self, task: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (slot, part) = (task / self.parts, task % self.parts);
        let (slot_b, slot_a) = (slot / self.slots_a, slot % self.slots_a);
        let heads_per_slot = self.a / self.slots_a;
        let shares_images = self.slots / self.slots_a == 1 && self.b > 1;
        let range = part * self.sharing / self.parts..(part + 1) * self.sharing / self.parts;
        range.map(move |member| {
            let (image, head) = (member / heads_per_slot, member % heads_per_slot);
            let b = if shares_images { image } else { slot_b };
            (b, if heads_per_slot == 1 { slot_a } else { head })
        })
    }
}

/// What the forward pass left, and the gradient of the context.
struct Saved<'a, T> {
    context: &'a [T],
    max: &'a [T],
    norm: &'a [T],
    grad: &'a [T],
}

struct BackwardScratch<T> {
    /// `scale · q` of a block, `[E, QUERIES]` and `[QUERIES, E]`; likewise the gradient of the context.
    queries: Vec<T>,
    query_rows: Vec<T>,
    grads: Vec<T>,
    grad_rows: Vec<T>,
    /// Keys of the head, `[T, E]`.
    keys: Vec<T>,
    /// Weights of a tile and the gradient of its scores, `[KEYS, QUERIES]`.
    weights: Vec<T>,
    d_scores: Vec<T>,
    /// `[QUERIES, E]`, `[T, E]`, `[T, E]`.
    d_query: Vec<T>,
    d_key: Vec<T>,
    d_value: Vec<T>,
    max: Vec<T>,
    norm: Vec<T>,
    /// Σ over columns of context · its gradient, by query.
    delta: Vec<T>,
}

impl<T: Real> BackwardScratch<T> {
    fn new(t: usize, e_pad: usize) -> Self {
        let zeros = |n| vec![T::ZERO; n];
        Self {
            queries: zeros(e_pad * QUERIES),
            query_rows: zeros(e_pad * QUERIES),
            grads: zeros(e_pad * QUERIES),
            grad_rows: zeros(e_pad * QUERIES),
            keys: zeros(t * e_pad),
            weights: zeros(KEYS * QUERIES),
            d_scores: zeros(KEYS * QUERIES),
            d_query: zeros(e_pad * QUERIES),
            d_key: zeros(t * e_pad),
            d_value: zeros(t * e_pad),
            max: zeros(QUERIES),
            norm: zeros(QUERIES),
            delta: zeros(QUERIES),
        }
    }
}

/// All of head `h` of image `b`.
struct BackwardHead<'a, T> {
    call: &'a Call<'a, T>,
    saved: &'a Saved<'a, T>,
    b: usize,
    h: usize,
    scratch: &'a mut BackwardScratch<T>,
    d_qkv: &'a Shared<T>,
    /// Gradient of the bias, `[T, T]`, added to.
    d_bias: Option<&'a mut [T]>,
}

impl<T: Real> Job for BackwardHead<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let (call, b, h) = (self.call, self.b, self.h);
        let (e, e_pad, t) = (call.e, call.e_pad, call.t);
        let step = call.steps().0;
        let keys = (&call.qkv[call.start(b, h, 1)..], step);
        // SAFETY: the instructions are there; `e_pad` is a multiple of the longest vector.
        unsafe { pack_rows::<T::In<S>>(keys, t, e, e_pad, T::ONE, &mut self.scratch.keys) };
        self.scratch.d_key.fill(T::ZERO);
        self.scratch.d_value.fill(T::ZERO);
        for first in (0..call.queries).step_by(QUERIES) {
            let rows = QUERIES.min(call.queries - first);
            // SAFETY: the instructions are there; blocks lie within the queries, tiles within T rows.
            unsafe {
                self.load_block::<S>(first, rows);
                for key in (0..t).step_by(KEYS) {
                    self.tile::<S>(first, rows, key, KEYS.min(t - key));
                }
            }
            let d_query = &self.scratch.d_query;
            self.write(0, first, rows, d_query, call.scale);
        }
        self.write(1, 0, t, &self.scratch.d_key, T::ONE);
        self.write(2, 0, t, &self.scratch.d_value, T::ONE);
    }
}

impl<T: Real> BackwardHead<'_, T> {
    /// Brings a block's queries, gradients and row statistics into scratch.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`.
    #[inline(always)]
    unsafe fn load_block<S: Simd>(&mut self, first: usize, rows: usize) {
        let (call, scratch) = (self.call, &mut *self.scratch);
        let (e, e_pad) = (call.e, call.e_pad);
        let (step, d) = call.steps();
        let query = &call.qkv[call.start(self.b, self.h, 0) + first * step..];
        let start = (self.b * call.queries + first) * d + self.h * e;
        let (grad, context) = (&self.saved.grad[start..], &self.saved.context[start..]);
        // SAFETY: the caller's.
        unsafe {
            transpose::<S, T>(query, step, rows, e, call.scale, &mut scratch.queries);
            transpose::<S, T>(grad, d, rows, e, T::ONE, &mut scratch.grads);
            pack_rows::<T::In<S>>((query, step), rows, e, e_pad, call.scale, &mut scratch.query_rows);
            pack_rows::<T::In<S>>((grad, d), rows, e, e_pad, T::ONE, &mut scratch.grad_rows);
        }
        for buffer in [&mut scratch.max, &mut scratch.norm, &mut scratch.delta] {
            buffer.fill(T::ZERO);
        }
        let statistics = (self.b * call.a + self.h) * call.queries + first;
        scratch.max[..rows].copy_from_slice(&self.saved.max[statistics..][..rows]);
        scratch.norm[..rows].copy_from_slice(&self.saved.norm[statistics..][..rows]);
        for (i, delta) in scratch.delta[..rows].iter_mut().enumerate() {
            let pairs = grad[i * d..][..e].iter().zip(&context[i * d..][..e]);
            *delta = pairs.fold(T::ZERO, |sum, (&g, &c)| sum + g * c);
        }
    }

    /// Adds what a tile of scores contributes to every gradient.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`; `key + keys` is at most T, `first + rows` at most the number of queries.
    #[inline(always)]
    unsafe fn tile<S: Simd>(&mut self, first: usize, rows: usize, key: usize, keys: usize) {
        let (call, b, h) = (self.call, self.b, self.h);
        let (e, e_pad, step) = (call.e, call.e_pad, call.steps().0);
        let lanes = T::In::<S>::LANES;
        let (width, columns) = (rows.next_multiple_of(lanes), e.next_multiple_of(lanes));
        let scratch = &mut *self.scratch;
        let value = &call.qkv[call.start(b, h, 2) + key * step..];
        // SAFETY: the tile lies within the head and its scratch.
        unsafe {
            score_tile::<S, T>(
                call,
                (b, h, key, keys),
                (first, rows),
                &scratch.queries,
                &mut scratch.weights,
            );
            let weights = scratch.weights.as_mut_ptr();
            let d_scores = scratch.d_scores.as_mut_ptr();
            S::vectorize(Product {
                m: keys,
                n: width,
                k: e,
                a: value.as_ptr(),
                a_steps: [step, 1],
                b: scratch.grads.as_ptr(),
                b_step: QUERIES,
                c: d_scores,
                c_step: QUERIES,
                add: false,
            });
            for lane in (0..width).step_by(lanes) {
                let max = T::In::<S>::load(scratch.max.as_ptr().add(lane));
                let norm = T::In::<S>::load(scratch.norm.as_ptr().add(lane));
                let delta = T::In::<S>::load(scratch.delta.as_ptr().add(lane));
                for at in (0..keys).map(|key| key * QUERIES + lane) {
                    let weight = T::In::<S>::load(weights.add(at)).sub(max).exp().mul(norm);
                    let d_weight = T::In::<S>::load(d_scores.add(at));
                    weight.store(weights.add(at));
                    weight.mul(d_weight.sub(delta)).store(d_scores.add(at));
                }
            }
            let product = |m, k, a: *const T, a_steps, b: *const T, c: *mut T, add| {
                S::vectorize(Product {
                    m,
                    n: columns,
                    k,
                    a,
                    a_steps,
                    b,
                    b_step: e_pad,
                    c,
                    c_step: e_pad,
                    add,
                });
            };
            let by_key = [QUERIES, 1];
            let offset = key * e_pad;
            product(
                keys,
                rows,
                weights,
                by_key,
                scratch.grad_rows.as_ptr(),
                scratch.d_value.as_mut_ptr().add(offset),
                true,
            );
            product(
                keys,
                rows,
                d_scores,
                by_key,
                scratch.query_rows.as_ptr(),
                scratch.d_key.as_mut_ptr().add(offset),
                true,
            );
            product(
                rows,
                keys,
                d_scores,
                [1, QUERIES],
                scratch.keys.as_ptr().add(offset),
                scratch.d_query.as_mut_ptr(),
                key > 0,
            );
        }
        if let Some(d_bias) = self.d_bias.as_deref_mut() {
            for i in 0..rows {
                let row = &mut d_bias[(first + i) * call.t + key..][..keys];
                for (sum, &x) in row.iter_mut().zip(self.scratch.d_scores[i..].iter().step_by(QUERIES)) {
                    *sum = *sum + x;
                }
            }
        }
    }

    /// Writes `factor ·` rows of a gradient to the projection's gradient.
    #[inline(always)]
    fn write(&self, part: usize, first: usize, rows: usize, gradient: &[T], factor: T) {
        let call = self.call;
        let step = call.steps().0;
        for (row, values) in gradient.chunks_exact(call.e_pad).take(rows).enumerate() {
            let start = call.start(self.b, self.h, part) + (first + row) * step;
            // SAFETY: this head's columns of this part belong to its task alone.
            let to = unsafe { self.d_qkv.part(start, call.e) };
            for (to, &x) in to.iter_mut().zip(values) {
                *to = x * factor;
            }
        }
    }
}
