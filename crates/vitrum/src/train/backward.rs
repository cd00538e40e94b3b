//! Forward and backward pass of one batch: loss and gradients. All activations are kept, or recomputed link by
//! link.

use burn::tensor::{DType, Gradients, Tensor};

use super::objective::{Batch, Objective};
use crate::layers::drop::seed;
use crate::layers::observe::{Observer, Silent};
use crate::models::{Chain, Features, Network};

/// Receives the gradients of a backward pass over a part of the model.
pub type Take<'a> = dyn FnMut(Gradients) + 'a;

/// A batch and its loss, on an autodiff device.
pub struct Pass<'a, M: Network> {
    /// The model.
    pub model: &'a M,
    /// Inputs and targets.
    pub batch: Batch,
    /// Float type of the passes.
    pub dtype: DType,
    /// The loss to minimise.
    pub objective: &'a dyn Objective<M>,
    /// Seed of dropout, stochastic depth and patch dropout.
    pub seed: u64,
}

impl<M: Network> Pass<'_, M> {
    /// Loss of the batch, one number on the device without autodiff. `take` receives the gradients of the mean over
    /// images, `watch` the statistics of the batch. Nothing waits for the device.
    ///
    /// All activations are kept until the backward pass.
    pub fn plain(self, watch: &mut dyn Observer, take: &mut Take<'_>) -> Tensor<1> {
        seed(self.seed);
        let inputs = self.batch.inputs.clone().cast(self.dtype);
        let features = self.objective.features(self.model, inputs, watch);
        let loss = self.objective.loss(self.model, features, &self.batch, watch);
        let value = loss.clone().inner();
        take(loss.backward());
        value
    }

    /// The same gradients as [`plain`](Pass::plain) in less memory. Only the links' inputs are kept; the backward
    /// pass recomputes each link (Chen et al. 2016, arXiv:1604.06174; timm's `--grad-checkpointing`). A model
    /// without links is computed as a whole.
    ///
    /// `take` is called once per part of the model, last part first.
    pub fn recomputed(self, watch: &mut dyn Observer, take: &mut Take<'_>) -> Tensor<1> {
        match self.model.chain() {
            Some(chain) => self.through(chain, watch, take),
            None => self.plain(watch, take),
        }
    }

    fn through(&self, chain: &dyn Chain, watch: &mut dyn Observer, take: &mut Take<'_>) -> Tensor<1> {
        let seeded = |part: usize| seed(part_seed(self.seed, part));
        let pixels = || self.batch.inputs.clone().cast(self.dtype);
        seeded(0);
        let mut inputs = vec![each(chain.first(pixels(), watch), Tensor::inner)];
        for index in 0..chain.links() {
            seeded(index + 1);
            let x = each(inputs[index].clone(), Tensor::from_inner);
            inputs.push(each(chain.link(index, x, watch), Tensor::inner));
        }
        let leaf = |inputs: &mut Vec<Features>| {
            let input = inputs.pop().expect("one input for each link and the last part");
            each(input, |x| Tensor::from_inner(x).require_grad())
        };

        seeded(chain.links() + 1);
        let x = leaf(&mut inputs);
        let features = chain.last(x.clone(), watch);
        let loss = self.objective.loss(self.model, features, &self.batch, watch);
        let value = loss.clone().inner();
        let mut gradient = back(loss.backward(), &x, take);
        for index in (0..chain.links()).rev() {
            seeded(index + 1);
            let x = leaf(&mut inputs);
            // Silent: the first pass already reported the statistics.
            let y = chain.link(index, x.clone(), &mut Silent);
            gradient = back(against(y, gradient).backward(), &x, take);
        }
        seeded(0);
        let y = chain.first(pixels(), &mut Silent);
        take(against(y, gradient).backward());
        value
    }
}

/// Applies `f` to the tokens of every level.
fn each(mut x: Features, f: impl Fn(Tensor<3>) -> Tensor<3>) -> Features {
    for level in &mut x.levels {
        level.tokens = f(level.tokens.clone());
    }
    x
}

/// A number whose gradient with respect to the tokens of `y` is `gradient`, level by level.
fn against(y: Features, gradient: Vec<Tensor<3>>) -> Tensor<1> {
    let levels = y.levels.into_iter().zip(gradient);
    let sums = levels.map(|(level, gradient)| (level.tokens * Tensor::from_inner(gradient)).sum());
    sums.reduce(|a, b| a + b).expect("features have at least one level")
}

/// Passes the parameters' gradients to `take` and returns those of the part's input, level by level.
fn back(gradients: Gradients, x: &Features, take: &mut Take<'_>) -> Vec<Tensor<3>> {
    let gradient = |x: &Tensor<3>| x.grad(&gradients).unwrap_or_else(|| x.clone().inner().zeros_like());
    let gradient = x.levels.iter().map(|level| gradient(&level.tokens)).collect();
    take(gradients);
    gradient
}

/// A separate seed for each part of a pass, so that recomputing draws the same numbers.
fn part_seed(seed: u64, part: usize) -> u64 {
    mix(seed ^ mix(part as u64 + 1))
}

/// SplitMix64: similar inputs give unrelated outputs.
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
