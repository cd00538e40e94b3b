//! Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): channels of a feature map, weighted by the means of their gradients.

use std::fmt::Arguments;

use burn::tensor::{Tensor, activation};

use super::gradient::{logit, recorded, tracked};
use super::{ExplainError, Explainer, HeatMap, View, host};
use crate::Error;
use crate::layers::drop::at_rest;
use crate::layers::observe::{Observer, Silent};
use crate::models::{Features, Level, Network};

/// Where [Grad-CAM](Explainer::grad_cam) looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CamOptions {
    /// The block whose output is explained, from 0. `None`: the last one; if the head reads the tokens in front alone, the
    /// first norm of the last block, because after it the patches have no gradient.
    pub block: Option<usize>,
}

/// The tokens that are explained: the zeros that get their gradient, and their values.
struct Kept {
    zeros: Tensor<3>,
    tokens: Tensor<3>,
    prefix: usize,
    grid: [usize; 2],
}

/// Keeps the first value of a block: what its first norm gives.
struct FirstValue {
    /// Tokens, their prefix and grid, as they enter the block.
    enters: (usize, usize, [usize; 2]),
    kept: Option<Kept>,
}

impl Observer for FirstValue {
    fn tokens(&mut self, _name: Arguments<'_>, x: Tensor<3>) -> Tensor<3> {
        let (count, prefix, grid) = self.enters;
        if self.kept.is_some() || x.dims()[1] != count {
            return x;
        }
        let (zeros, tracked) = tracked(x.clone());
        self.kept = Some(Kept { zeros, tokens: x, prefix, grid });
        tracked
    }
}

impl Explainer {
    /// Number of blocks that [`CamOptions::block`] counts.
    pub fn num_blocks(&self) -> usize {
        self.model().chain().map_or(0, |chain| chain.links())
    }

    /// Grad-CAM of the logit of a class: `(Σ_c mean(∂y/∂x_c) x_c)⁺` over the patches or positions of a block.
    ///
    /// # Errors
    /// [`ExplainError::NoClasses`], [`ExplainError::NoClass`], [`ExplainError::Range`] for another block than the model has;
    /// [`ExplainError::Cancelled`] between two blocks.
    pub fn grad_cam(&self, view: &View, class: usize, options: &CamOptions) -> Result<HeatMap, Error> {
        self.check_class(class)?;
        let model = self.recording()?;
        let missing = ExplainError::Missing { family: self.model().family(), what: "blocks" };
        let chain = self.recording.chain().filter(|chain| chain.links() > 0).ok_or(missing)?;
        let last = chain.links() - 1;
        if let Some(block) = options.block.filter(|block| *block > last) {
            let (found, expected) = (block.to_string(), format!("from 0 to {last}"));
            return Err(ExplainError::Range { what: "block", found, expected }.into());
        }
        let reads = self.read_by_head(view)?;
        let reads_front = reads.cells.iter().all(|share| *share == 0.0);
        let (target, at_norm) = match options.block {
            Some(block) => (block, false),
            None => (last, reads_front),
        };
        let mut kept = None;
        let logits = at_rest(|| -> Result<_, ExplainError> {
            let mut x = chain.first(recorded(&view.pixels), &mut Silent);
            for index in 0..chain.links() {
                self.cancel.check()?;
                if index == target && at_norm {
                    let level = x.clone().last();
                    let enters = (level.tokens.dims()[1], level.prefix, level.rows_columns());
                    let mut first = FirstValue { enters, kept: None };
                    x = chain.link(index, x, &mut first);
                    kept = first.kept;
                } else {
                    x = chain.link(index, x, &mut Silent);
                    if index == target {
                        (x, kept) = keep(x);
                    }
                }
            }
            let features = chain.last(x, &mut Silent);
            Ok(model.head(features, &mut Silent))
        })?;
        let Kept { zeros, tokens, prefix, grid } = kept.ok_or(ExplainError::NoPatches { block: target })?;
        let gradients = logit(logits, class).backward();
        let count = grid[0] * grid[1];
        let gradient = zeros.grad(&gradients).unwrap_or_else(|| zeros.inner().zeros_like());
        let patches = |x: Tensor<3>| x.narrow(1, prefix, count); // [1, N, D]
        let weights = patches(gradient).mean_dim(1); // [1, 1, D]
        let sums = (patches(tokens.inner()) * weights).sum_dim(2); // [1, N, 1]
        HeatMap { grid, values: host(activation::relu(sums)) }.finite()
    }
}

/// The features with zeros added to their last level, if it has all its patches.
fn keep(mut features: Features) -> (Features, Option<Kept>) {
    let Some(level) = features.levels.pop() else { return (features, None) };
    let (prefix, grid) = (level.prefix, level.rows_columns());
    if level.tokens.dims()[1] != prefix + grid[0] * grid[1] {
        features.levels.push(level);
        return (features, None);
    }
    let (zeros, tokens) = tracked(level.tokens.clone());
    let kept = Kept { zeros, tokens: level.tokens.clone(), prefix, grid };
    features.levels.push(Level { tokens, ..level });
    (features, Some(kept))
}
