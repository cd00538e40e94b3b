//! One batch forth and back: loss and gradients, with everything kept or with each block computed twice.

use burn::tensor::{Gradients, Tensor};

use super::objective::Objective;
use crate::layers::drop::seed;
use crate::models::Model;

/// Takes the gradients of one backward pass over a part of the model.
pub type Take<'a> = dyn FnMut(Gradients) + 'a;

/// A batch and what is asked of it, on a device that keeps a graph.
pub struct Pass<'a> {
    /// The model.
    pub model: &'a Model,
    /// Normalised images, `[B, C, H, W]`.
    pub images: Tensor<4>,
    /// Soft targets, `[B, K]`.
    pub targets: Tensor<2>,
    /// What is made small.
    pub objective: &'a Objective,
    /// Seed of dropout, stochastic depth and patch dropout.
    pub seed: u64,
}

impl Pass<'_> {
    /// Loss of the batch; `take` gets the gradients of the mean over images.
    ///
    /// Every block's activations are kept until the gradients pass through them.
    pub fn plain(self, take: &mut Take<'_>) -> f64 {
        seed(self.seed);
        let logits = self.model.backbone().forward(self.images);
        let loss = self.objective.loss(logits, self.targets);
        let value = loss.clone().into_scalar::<f64>();
        take(loss.backward());
        value
    }

    /// The same gradients as [`plain`](Pass::plain) in less memory: only the blocks' inputs are kept, and every
    /// block is computed again on the way back (Chen et al. 2016, arXiv:1604.06174; timm's `--grad-checkpointing`).
    ///
    /// `take` is called once for each part of the model, last part first.
    pub fn recomputed(self, take: &mut Take<'_>) -> f64 {
        let chain = self.model.chain();
        let seeded = |part: usize| seed(part_seed(self.seed, part));
        seeded(0);
        let (x, grid) = chain.first(self.images.clone());
        let mut inputs = vec![x.inner()];
        for index in 0..chain.links() {
            seeded(index + 1);
            let x = Tensor::from_inner(inputs[index].clone());
            inputs.push(chain.link(index, x, grid).inner());
        }
        let leaf = |inputs: &mut Vec<Tensor<3>>| {
            let input = inputs.pop().expect("one input for each link and the last part");
            Tensor::from_inner(input).require_grad()
        };

        seeded(chain.links() + 1);
        let x = leaf(&mut inputs);
        let loss = self.objective.loss(chain.last(x.clone(), grid), self.targets);
        let value = loss.clone().into_scalar::<f64>();
        let mut gradient = back(loss.backward(), &x, take);
        for index in (0..chain.links()).rev() {
            seeded(index + 1);
            let x = leaf(&mut inputs);
            let y = chain.link(index, x.clone(), grid);
            gradient = back(against(y, gradient).backward(), &x, take);
        }
        seeded(0);
        let (y, _) = chain.first(self.images);
        take(against(y, gradient).backward());
        value
    }
}

/// A number whose gradient with respect to `y` is `gradient`.
fn against(y: Tensor<3>, gradient: Tensor<3>) -> Tensor<1> {
    (y * Tensor::from_inner(gradient)).sum()
}

/// Hands out the parameters' gradients and returns that of the part's input.
fn back(gradients: Gradients, x: &Tensor<3>, take: &mut Take<'_>) -> Tensor<3> {
    let gradient = x.grad(&gradients).unwrap_or_else(|| x.clone().inner().zeros_like());
    take(gradients);
    gradient
}

/// A seed of its own for each part of a pass, so that recomputing draws the same numbers.
fn part_seed(seed: u64, part: usize) -> u64 {
    mix(seed ^ mix(part as u64 + 1))
}

/// SplitMix64: neighbours in, strangers out.
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
