//! Optimiser steps over many tensors at once: one pass over memory, in place where buffers are not shared.
//!
//! A [`Rule`] updates one number of a parameter from its gradient and its state. Each rule is written twice: in tensor
//! operations, which define it and run on any device, and over vectors of the CPU. Both do the same operations in the
//! same order, each rounded once and none contracted. So they give the same bits, at every SIMD level and for any
//! number of threads.
//!
//! One step of AdamW over all parameters in ms, `f32`, two threads of a shared machine, on which the second thread
//! gains little. torch is 2.15 with `fused=True`:
//!
//! | model | this | reference | torch |
//! |---|---|---|---|
//! | ViT-Ti | 4.2 | 17 | 10 |
//! | ViT-B | 74 | 329 | 75 |

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Tensor};

use crate::device::has_fast_path;
use crate::simd::{self, Kernel, Real, Simd, Vector};
use crate::threads::{Shared, for_each_block};

/// Numbers per block: half a megabyte with four tensors of `f32`, enough work to wake a thread.
const BLOCK: usize = 1 << 15;
/// Cost per number, in multiplications (see `threads`). Memory is the bottleneck.
const COST: usize = 16;

/// One parameter before or after a step: `[n]` numbers, their gradient, and `S` tensors `[n]` of state.
#[derive(Clone, Debug)]
pub struct Slot<R, const S: usize> {
    /// The parameter, flattened.
    pub param: Tensor<1>,
    /// Its gradient.
    pub grad: Tensor<1>,
    /// The state of the rule.
    pub state: [Tensor<1>; S],
    /// The rule of the step.
    pub rule: R,
}

/// How a step updates each number of a parameter. Only the types of this module implement it.
pub trait Rule<const S: usize>: lanes::Lanes<S> {
    /// The definition: parameter and state after the step, from those before it.
    fn reference(
        &self,
        param: Tensor<1>,
        grad: Tensor<1>,
        state: [Tensor<1>; S],
    ) -> (Tensor<1>, [Tensor<1>; S]);
}

/// Adam (arXiv:1412.6980) as torch computes it, with the variants AdamW (arXiv:1711.05101) and NAdamW. The state is the
/// averages of gradient and squared gradient, `exp_avg` and `exp_avg_sq`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Whether decay shrinks the parameter itself (AdamW) instead of being added to the gradient.
    pub decoupled: bool,
    /// Whether the average looks one gradient ahead (NAdamW).
    pub nesterov: bool,
    /// Decay factors of the two averages.
    pub betas: [f64; 2],
    /// Added to the root of the average of squares.
    pub eps: f64,
    /// Number of this step, from 1.
    pub step: u64,
}

/// Gradient descent with momentum as torch's `SGD`. The state is the sum of decayed gradients, `momentum_buffer`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
    /// Decay factor of the sum.
    pub momentum: f64,
    /// Whether to use Nesterov's variant.
    pub nesterov: bool,
    /// Whether this is the first step. The sum is then the gradient, and the state is ignored.
    pub first: bool,
}

/// Plain gradient descent, without state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descent {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
}

/// Lion (arXiv:2302.06675). The state is the average of gradients, `exp_avg`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay, decoupled.
    pub weight_decay: f64,
    /// Decay factors of the average for the step, and of the average that is kept.
    pub betas: [f64; 2],
}

/// A step from the "parameter" towards the "gradient": an exponential moving average of weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lerp {
    /// Fraction of the distance, 0 to 1.
    pub weight: f64,
}

/// Takes one step for every parameter. Equals [`update_reference`] to the bit.
///
/// Buffers that are not shared are updated in place.
///
/// # Panics
/// If the tensors of a slot differ in length or type.
pub fn update<R: Rule<S>, const S: usize>(slots: Vec<Slot<R, S>>) -> Vec<Slot<R, S>> {
    slots.iter().for_each(check);
    let fast = |slot: &Slot<R, S>| has_fast_path(&slot.param.device(), slot.param.dtype());
    let same_type = slots.windows(2).all(|pair| pair[0].param.dtype() == pair[1].param.dtype());
    if !same_type || !slots.iter().all(fast) {
        return slots.into_iter().map(one_alone).collect();
    }
    match slots.first().map(|slot| slot.param.dtype()) {
        Some(DType::F64) => fused::<f64, R, S>(slots),
        Some(_) => fused::<f32, R, S>(slots),
        None => slots,
    }
}

/// The definition of [`update`], in tensor operations.
///
/// # Panics
/// As [`update`].
pub fn update_reference<R: Rule<S>, const S: usize>(slots: Vec<Slot<R, S>>) -> Vec<Slot<R, S>> {
    slots
        .into_iter()
        .map(|slot| {
            check(&slot);
            let Slot { param, grad, state, rule } = slot;
            let (param, state) = rule.reference(param, grad.clone(), state);
            Slot { param, grad, state, rule }
        })
        .collect()
}

/// Σ x² of each tensor in `f64`. The order of the sum depends only on the length.
pub fn sums_of_squares(tensors: &[Tensor<1>]) -> Vec<f64> {
    let is_fast = |tensor: &Tensor<1>| has_fast_path(&tensor.device(), tensor.dtype());
    // Other devices are waited for once.
    let slow = tensors.iter().filter(|tensor| !is_fast(tensor));
    let slow: Vec<Tensor<1>> = slow.map(|tensor| tensor.clone().cast(DType::F32).square().sum()).collect();
    let slow = if slow.is_empty() { Vec::new() } else { Tensor::cat(slow, 0).into_data().iter().collect() };
    let mut slow = slow.into_iter();
    tensors
        .iter()
        .map(|tensor| {
            let dtype = tensor.dtype();
            if !is_fast(tensor) {
                return slow.next().unwrap_or_default();
            }
            let tensor = readable(tensor.clone());
            match dtype {
                DType::F64 => sum_of_squares(<f64 as Real>::slice(&tensor)),
                _ => sum_of_squares(<f32 as Real>::slice(&tensor)),
            }
        })
        .collect()
}

fn check<R, const S: usize>(slot: &Slot<R, S>) {
    let Slot { param, grad, state, .. } = slot;
    for other in std::iter::once(grad).chain(state) {
        assert_eq!(other.dims(), param.dims(), "update: the tensors of a slot differ in length");
        assert_eq!(other.dtype(), param.dtype(), "update: the tensors of a slot differ in type");
    }
}

/// Updates one slot by itself, for slots of mixed types.
fn one_alone<R: Rule<S>, const S: usize>(slot: Slot<R, S>) -> Slot<R, S> {
    let fast = has_fast_path(&slot.param.device(), slot.param.dtype());
    let mut slots = match slot.param.dtype() {
        DType::F64 if fast => fused::<f64, R, S>(vec![slot]),
        DType::F32 if fast => fused::<f32, R, S>(vec![slot]),
        _ => update_reference(vec![slot]),
    };
    slots.remove(0)
}

/// One parallel loop over blocks of all tensors.
fn fused<T: Real, R: Rule<S>, const S: usize>(slots: Vec<Slot<R, S>>) -> Vec<Slot<R, S>> {
    let mut work: Vec<Raw<R, S>> = slots.into_iter().map(Raw::take::<T>).collect();
    let mut blocks = Vec::new();
    let views: Vec<View<'_, T, R, S>> = work.iter_mut().map(Raw::view).collect();
    for (index, view) in views.iter().enumerate() {
        blocks.extend((0..view.grad.len()).step_by(BLOCK).map(|start| (index, start)));
    }
    let numbers: usize = views.iter().map(|view| view.grad.len()).sum();
    for_each_block(
        blocks.len(),
        numbers.saturating_mul(COST),
        || (),
        |(), block| {
            let (index, start) = blocks[block];
            // SAFETY: no other block uses these numbers of the tensor, and they lie within it.
            unsafe { views[index].step(start) };
        },
    );
    work.into_iter().map(Raw::put).collect()
}

/// A slot as tensors of the CPU backend. Written tensors fill their buffers; the gradient is contiguous.
struct Raw<R, const S: usize> {
    param: FlexTensor,
    grad: FlexTensor,
    state: [FlexTensor; S],
    rule: R,
}

impl<R: Rule<S>, const S: usize> Raw<R, S> {
    fn take<T: Real>(slot: Slot<R, S>) -> Self {
        let Slot { param, grad, state, rule } = slot;
        let state = state.map(writable::<T>);
        Self { param: writable::<T>(param), grad: readable(grad), state, rule }
    }

    fn view<T: Real>(&mut self) -> View<'_, T, R, S> {
        let state = self.state.each_mut().map(|tensor| Shared::new(T::buffer(tensor)));
        let param = Shared::new(T::buffer(&mut self.param));
        View { param, grad: T::slice(&self.grad), state, rule: self.rule }
    }

    fn put(self) -> Slot<R, S> {
        let tensor = |raw| Tensor::from_primitive::<Flex>(raw);
        let state = self.state.map(tensor);
        Slot { param: tensor(self.param), grad: tensor(self.grad), state, rule: self.rule }
    }
}

fn primitive(tensor: Tensor<1>) -> FlexTensor {
    tensor.try_into_primitive::<Flex>().expect("a float tensor of the CPU backend, as checked before")
}

fn readable(tensor: Tensor<1>) -> FlexTensor {
    let tensor = primitive(tensor);
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

fn writable<T: Real>(tensor: Tensor<1>) -> FlexTensor {
    let tensor = readable(tensor);
    let numbers = T::slice(&tensor);
    if size_of_val(numbers) == tensor.bytes().len() {
        return tensor;
    }
    T::tensor(numbers.to_vec(), tensor.shape())
}

/// The numbers of a slot, shared by the blocks that write to it.
struct View<'a, T, R, const S: usize> {
    param: Shared<T>,
    grad: &'a [T],
    state: [Shared<T>; S],
    rule: R,
}

impl<T: Real, R: Rule<S>, const S: usize> View<'_, T, R, S> {
    /// Updates the block that begins at `start`.
    ///
    /// # Safety
    /// No other thread may use the same block, and `start` must lie in the tensor.
    unsafe fn step(&self, start: usize) {
        let length = BLOCK.min(self.grad.len() - start);
        // SAFETY: upheld by the caller. `length` is limited to the tensor, and the tensors of a slot have equal
        // lengths.
        let (param, state) = unsafe {
            (
                self.param.part(start, length).as_mut_ptr(),
                self.state.each_ref().map(|state| state.part(start, length).as_mut_ptr()),
            )
        };
        let grad = &self.grad[start..][..length];
        simd::run(BlockStep { param, grad, state, rule: self.rule });
    }
}

/// A rule applied to the numbers of a block. `param` and `state` point to as many numbers as `grad` has.
struct BlockStep<'a, T, R, const S: usize> {
    param: *mut T,
    grad: &'a [T],
    state: [*mut T; S],
    rule: R,
}

impl<T: Real, R: Rule<S>, const S: usize> Kernel for BlockStep<'_, T, R, S> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Simd>(self) {
        let lanes = <T::In<L> as Vector>::LANES;
        let whole = self.grad.len() / lanes * lanes;
        // SAFETY: the caller has the instructions; both ranges lie in the block.
        unsafe {
            self.range::<T::In<L>>(0, whole);
            self.range::<T::One>(whole, self.grad.len());
        }
    }
}

impl<T: Real, R: Rule<S>, const S: usize> BlockStep<'_, T, R, S> {
    /// Updates the numbers from `start` to `end`. Their distance is a multiple of the lanes.
    ///
    /// # Safety
    /// The processor must have the instructions of `V`, and the range must lie in the block.
    #[inline(always)]
    unsafe fn range<V: Vector<Scalar = T>>(&self, start: usize, end: usize) {
        // SAFETY: upheld by the caller.
        unsafe {
            let constants = self.rule.constants::<V>();
            for i in (start..end).step_by(V::LANES) {
                let param = V::load(self.param.add(i));
                let grad = V::load(self.grad.as_ptr().add(i));
                let state = self.state.map(|state| V::load(state.add(i)));
                let (param, state) = self.rule.lanes(&constants, param, grad, state);
                param.store(self.param.add(i));
                for (value, place) in state.into_iter().zip(self.state) {
                    value.store(place.add(i));
                }
            }
        }
    }
}

/// The vector form of the rules.
mod lanes {
    use super::Vector;

    /// A rule over vectors.
    pub trait Lanes<const S: usize>: Copy + Send + Sync {
        /// The constants of the rule, at most eight, in the order in which `lanes` reads them.
        ///
        /// # Safety
        /// The processor must have the instructions of `V`.
        unsafe fn constants<V: Vector>(&self) -> [V; 8];

        /// Parameter and state after the step. Implementations must be `#[inline(always)]`.
        fn lanes<V: Vector>(&self, constants: &[V; 8], param: V, grad: V, state: [V; S]) -> (V, [V; S]);
    }
}

use lanes::Lanes;

/// Each number in every lane of a vector, padded with zeros to eight vectors.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
unsafe fn splat<V: Vector, const N: usize>(numbers: [f64; N]) -> [V; 8] {
    let mut all = [0.0; 8];
    all[..N].copy_from_slice(&numbers);
    // SAFETY: upheld by the caller.
    all.map(|x| unsafe { V::splat(V::Scalar::from_f64(x)) })
}

/// Linear interpolation as torch computes it: from the nearer end.
#[derive(Clone, Copy)]
struct Interpolation {
    /// Whether the start is the nearer end.
    from_start: bool,
    /// Fraction of the distance from the nearer end.
    share: f64,
}

impl Interpolation {
    fn new(weight: f64) -> Self {
        if weight.abs() < 0.5 {
            Self { from_start: true, share: weight }
        } else {
            Self { from_start: false, share: 1.0 - weight }
        }
    }

    fn reference(self, a: Tensor<1>, b: Tensor<1>) -> Tensor<1> {
        let step = (b.clone() - a.clone()).mul_scalar(self.share);
        if self.from_start { a + step } else { b - step }
    }

    /// `share` holds [`Interpolation::share`] in every lane.
    #[inline(always)]
    fn lanes<V: Vector>(self, share: V, a: V, b: V) -> V {
        let step = b.sub(a).mul(share);
        if self.from_start { a.add(step) } else { b.sub(step) }
    }
}

impl Adam {
    /// The divisor of the root of the average of squares, and the factor of average over root.
    fn corrections(&self) -> [f64; 2] {
        let step = self.step as f64;
        let [correction1, correction2] = self.betas.map(|beta| 1.0 - beta.powf(step));
        [correction2.sqrt(), -(self.lr / correction1)]
    }

    fn interpolation(&self) -> Interpolation {
        Interpolation::new(1.0 - self.betas[0])
    }
}

impl Rule<2> for Adam {
    fn reference(&self, p: Tensor<1>, g: Tensor<1>, [m, v]: [Tensor<1>; 2]) -> (Tensor<1>, [Tensor<1>; 2]) {
        let [root, step] = self.corrections();
        let (p, g) = match (self.weight_decay, self.decoupled) {
            (0.0, _) => (p, g),
            (decay, true) => (p.mul_scalar(1.0 - self.lr * decay), g),
            (decay, false) => (p.clone(), g + p.mul_scalar(decay)),
        };
        let m = self.interpolation().reference(m, g.clone());
        let v = v.mul_scalar(self.betas[1]) + (g.clone().mul_scalar(1.0 - self.betas[1]) * g.clone());
        let ahead = if self.nesterov { self.interpolation().reference(m.clone(), g) } else { m.clone() };
        let denominator = v.clone().sqrt().div_scalar(root).add_scalar(self.eps);
        (p + ahead.mul_scalar(step) / denominator, [m, v])
    }
}

impl Lanes<2> for Adam {
    #[inline(always)]
    unsafe fn constants<V: Vector>(&self) -> [V; 8] {
        let [root, step] = self.corrections();
        let decay = if self.decoupled { 1.0 - self.lr * self.weight_decay } else { self.weight_decay };
        let [_, beta2] = self.betas;
        // SAFETY: upheld by the caller.
        unsafe { splat([decay, self.interpolation().share, beta2, 1.0 - beta2, root, self.eps, step]) }
    }

    #[inline(always)]
    fn lanes<V: Vector>(&self, constants: &[V; 8], p: V, g: V, [m, v]: [V; 2]) -> (V, [V; 2]) {
        let [decay, share, beta2, rest2, root, eps, step, _] = *constants;
        let (p, g) = match (self.weight_decay == 0.0, self.decoupled) {
            (true, _) => (p, g),
            (_, true) => (p.mul(decay), g),
            (_, false) => (p, g.add(p.mul(decay))),
        };
        let m = self.interpolation().lanes(share, m, g);
        let v = v.mul(beta2).add(g.mul(rest2).mul(g));
        let ahead = if self.nesterov { self.interpolation().lanes(share, m, g) } else { m };
        let denominator = v.sqrt().div(root).add(eps);
        (p.add(ahead.mul(step).div(denominator)), [m, v])
    }
}

impl Rule<1> for Momentum {
    fn reference(&self, p: Tensor<1>, g: Tensor<1>, [sum]: [Tensor<1>; 1]) -> (Tensor<1>, [Tensor<1>; 1]) {
        let decay = self.weight_decay;
        let g = if decay == 0.0 { g } else { g + p.clone().mul_scalar(decay) };
        let sum = if self.first { g.clone() } else { sum.mul_scalar(self.momentum) + g.clone() };
        let step = if self.nesterov { g + sum.clone().mul_scalar(self.momentum) } else { sum.clone() };
        (p + step.mul_scalar(-self.lr), [sum])
    }
}

impl Lanes<1> for Momentum {
    #[inline(always)]
    unsafe fn constants<V: Vector>(&self) -> [V; 8] {
        // SAFETY: upheld by the caller.
        unsafe { splat([self.weight_decay, self.momentum, -self.lr]) }
    }

    #[inline(always)]
    fn lanes<V: Vector>(&self, constants: &[V; 8], p: V, g: V, [sum]: [V; 1]) -> (V, [V; 1]) {
        let [decay, momentum, step, ..] = *constants;
        let g = if self.weight_decay == 0.0 { g } else { g.add(p.mul(decay)) };
        let sum = if self.first { g } else { sum.mul(momentum).add(g) };
        let direction = if self.nesterov { g.add(sum.mul(momentum)) } else { sum };
        (p.add(direction.mul(step)), [sum])
    }
}

impl Rule<0> for Descent {
    fn reference(&self, p: Tensor<1>, g: Tensor<1>, []: [Tensor<1>; 0]) -> (Tensor<1>, [Tensor<1>; 0]) {
        let decay = self.weight_decay;
        let g = if decay == 0.0 { g } else { g + p.clone().mul_scalar(decay) };
        (p + g.mul_scalar(-self.lr), [])
    }
}

impl Lanes<0> for Descent {
    #[inline(always)]
    unsafe fn constants<V: Vector>(&self) -> [V; 8] {
        // SAFETY: upheld by the caller.
        unsafe { splat([self.weight_decay, -self.lr]) }
    }

    #[inline(always)]
    fn lanes<V: Vector>(&self, constants: &[V; 8], p: V, g: V, []: [V; 0]) -> (V, [V; 0]) {
        let [decay, step, ..] = *constants;
        let g = if self.weight_decay == 0.0 { g } else { g.add(p.mul(decay)) };
        (p.add(g.mul(step)), [])
    }
}

impl Lion {
    fn interpolations(&self) -> [Interpolation; 2] {
        self.betas.map(|beta| Interpolation::new(1.0 - beta))
    }
}

impl Rule<1> for Lion {
    fn reference(&self, p: Tensor<1>, g: Tensor<1>, [m]: [Tensor<1>; 1]) -> (Tensor<1>, [Tensor<1>; 1]) {
        let [taken, kept] = self.interpolations();
        let sign = taken.reference(m.clone(), g.clone()).sign();
        let p = p.mul_scalar(1.0 - self.lr * self.weight_decay);
        (p + sign.mul_scalar(-self.lr), [kept.reference(m, g)])
    }
}

impl Lanes<1> for Lion {
    #[inline(always)]
    unsafe fn constants<V: Vector>(&self) -> [V; 8] {
        let [taken, kept] = self.interpolations();
        let decay = 1.0 - self.lr * self.weight_decay;
        // SAFETY: upheld by the caller.
        let mut all = unsafe { splat([decay, taken.share, kept.share, -self.lr, 0.0, 1.0]) };
        // SAFETY: upheld by the caller.
        all[6] = unsafe { V::splat(V::Scalar::LEAST) };
        all
    }

    #[inline(always)]
    fn lanes<V: Vector>(&self, constants: &[V; 8], p: V, g: V, [m]: [V; 1]) -> (V, [V; 1]) {
        let [decay, taken, kept, step, zero, one, least, _] = *constants;
        let interpolations = self.interpolations();
        let x = interpolations[0].lanes(taken, m, g);
        let sign = one.zero_below(x, least).sub(one.zero_below(zero.sub(x), least));
        (p.mul(decay).add(sign.mul(step)), [interpolations[1].lanes(kept, m, g)])
    }
}

impl Rule<0> for Lerp {
    fn reference(&self, a: Tensor<1>, b: Tensor<1>, []: [Tensor<1>; 0]) -> (Tensor<1>, [Tensor<1>; 0]) {
        (Interpolation::new(self.weight).reference(a, b), [])
    }
}

impl Lanes<0> for Lerp {
    #[inline(always)]
    unsafe fn constants<V: Vector>(&self) -> [V; 8] {
        // SAFETY: upheld by the caller.
        unsafe { splat([Interpolation::new(self.weight).share]) }
    }

    #[inline(always)]
    fn lanes<V: Vector>(&self, constants: &[V; 8], a: V, b: V, []: [V; 0]) -> (V, [V; 0]) {
        (Interpolation::new(self.weight).lanes(constants[0], a, b), [])
    }
}

/// Σ x² in blocks, added in the order of the blocks.
fn sum_of_squares<T: Real + Into<f64>>(numbers: &[T]) -> f64 {
    let mut sums = vec![0.0; numbers.len().div_ceil(BLOCK)];
    let shared = Shared::new(&mut sums);
    for_each_block(
        numbers.len().div_ceil(BLOCK),
        numbers.len().saturating_mul(4),
        || (),
        |(), block| {
            let part = &numbers[block * BLOCK..];
            let part = &part[..BLOCK.min(part.len())];
            // SAFETY: each block has its own element.
            unsafe { shared.part(block, 1)[0] = simd::run(Squares(part)) };
        },
    );
    sums.iter().sum()
}

/// Σ x² of a block in sixteen partial sums, at every level.
struct Squares<'a, T>(&'a [T]);

impl<T: Real + Into<f64>> Kernel for Squares<'_, T> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<L: Simd>(self) -> f64 {
        let mut sums = [0.0; 16];
        let chunks = self.0.chunks_exact(16);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                let x: f64 = (*x).into();
                *sum += x * x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            let x: f64 = (*x).into();
            *sum += x * x;
        }
        sums.iter().sum()
    }
}
