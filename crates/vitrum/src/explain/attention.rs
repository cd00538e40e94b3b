//! Attention maps of every layer, rollout and relevance.

use std::fmt::Arguments;

use burn::tensor::{DType, Gradients, Tensor, activation};
use serde::Serialize;

use super::flow::{Fusion, Rule, Step, Tokens, flow};
use super::gradient::{backward, tracked};
use super::{ExplainError, Explainer, HeatMap, View};
use crate::Error;
use crate::layers::observe::{AttentionSites, Observer};
use crate::models::Want;

/// Whose attention is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Query {
    /// That of the class token if the head reads it, else the mean over all patches.
    #[default]
    Answer,
    /// The mean over all patches.
    Mean,
    /// That of the patch at this row and column of the finest grid; of the coarser position above it on other grids.
    Patch([usize; 2]),
}

/// Attention of one layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerAttention {
    /// Its name in the model: `blocks.0.attn`.
    pub name: String,
    /// Rows and columns of the keys.
    pub grid: [usize; 2],
    /// A map for each head: what each key gets. With the tokens in front, the sum is 1.
    pub heads: Vec<HeatMap>,
}

impl LayerAttention {
    /// The mean over the heads.
    pub fn mean(&self) -> HeatMap {
        let count = self.heads.len().max(1) as f32;
        let value = |at: usize| self.heads.iter().map(|head| head.values[at]).sum::<f32>() / count;
        HeatMap { grid: self.grid, values: (0..self.grid[0] * self.grid[1]).map(value).collect() }
    }
}

/// Attention of all layers, in the order of the network.
#[derive(Clone, Debug, Serialize)]
pub struct AttentionMaps {
    /// The layers.
    pub layers: Vec<LayerAttention>,
}

/// Attention weights of a layer, `[windows, A, Q, K]`, and where they lie.
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) weights: Tensor<4>,
    pub(super) sites: AttentionSites,
    /// Tracked zeros, if gradients are asked for.
    zeros: Option<Tensor<4>>,
}

/// Hands every layer's attention to `take`.
pub(super) struct EachLayer<F: FnMut(Seen)> {
    pub(super) tracks: bool,
    pub(super) take: F,
}

impl<F: FnMut(Seen)> Observer for EachLayer<F> {
    fn wants_attention(&self, _name: Arguments<'_>) -> bool {
        true
    }

    fn attention(&mut self, name: Arguments<'_>, weights: Tensor<4>, sites: &AttentionSites) -> Tensor<4> {
        let name = name.to_string();
        let name = name.strip_suffix(".weights").unwrap_or(&name).to_string();
        let (zeros, given) = match self.tracks {
            true => {
                let (zeros, tracked) = tracked(weights.clone());
                (Some(zeros), tracked)
            }
            false => (None, weights.clone()),
        };
        (self.take)(Seen { name, weights, sites: sites.clone(), zeros });
        given
    }
}

/// How [`rollout`](Explainer::rollout) is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RolloutOptions {
    /// How the maps of the heads become one.
    pub fusion: Fusion,
    /// Share of the smallest weights of each layer that become 0.
    pub discard: f64,
}

impl Explainer {
    /// Attention of every layer and head.
    ///
    /// # Errors
    /// [`ExplainError::NoAttention`], and [`ExplainError::Range`] for a patch outside the grid.
    pub fn attention(&self, view: &View, query: Query) -> Result<AttentionMaps, Error> {
        let mut reads = self.read_by_head(view)?;
        if query == Query::Mean {
            reads.prefix.fill(0.0);
            reads.cells.fill(1.0);
        }
        let (mut layers, mut finest) = (Vec::new(), None);
        self.each_layer(view, |seen| {
            finest.get_or_insert(seen.sites.queries().unwrap_or(reads.grid));
            layers.push(layer(&seen, query, &reads, finest.unwrap_or(reads.grid)));
        })?;
        if let (Query::Patch([row, column]), Some([rows, columns])) = (query, finest)
            && (row >= rows || column >= columns)
        {
            let (found, expected) =
                (format!("{row},{column}"), format!("from 0,0 to {},{}", rows - 1, columns - 1));
            return Err(ExplainError::Range { what: "patch", found, expected }.into());
        }
        Ok(AttentionMaps { layers })
    }

    /// Attention rollout (Abnar & Zuidema 2020): what the answer gets from each patch if every layer passes on half of what
    /// it gets by attention and half by itself. It knows no class. The numbers and those of the tokens in front sum to 1.
    ///
    /// # Errors
    /// [`ExplainError::NoAttention`], and [`ExplainError::Range`] for a share outside of 0 to below 1.
    pub fn rollout(&self, view: &View, options: &RolloutOptions) -> Result<HeatMap, Error> {
        if !(0.0..1.0).contains(&options.discard) {
            let (found, expected) = (options.discard.to_string(), "from 0 to below 1".into());
            return Err(ExplainError::Range { what: "share of discarded weights", found, expected }.into());
        }
        let mut steps = Vec::new();
        self.each_layer(view, |seen| {
            let mut step = Step::fused(seen.weights, seen.sites, options.fusion);
            step.discard(options.discard);
            steps.push(step.rolled());
        })?;
        self.flow(view, &steps, Rule::Rollout)
    }

    /// Relevance (Chefer et al. 2021, arXiv:2103.15679) of each patch for the logit of a class: attention, weighted by its
    /// gradients where they are positive.
    ///
    /// # Errors
    /// [`ExplainError::NoAttention`], [`ExplainError::NoClasses`], [`ExplainError::NoClass`].
    pub fn relevance(&self, view: &View, class: usize) -> Result<HeatMap, Error> {
        self.check_class(class)?;
        let mut seen = Vec::new();
        let mut watch = EachLayer { tracks: true, take: |layer: Seen| seen.push(layer) };
        // Tracked, so that a model without attention has a backward pass, too.
        let pixels = Tensor::from_inner(view.pixels.clone()).require_grad();
        let gradients = backward(self.recording()?, pixels, class, &mut watch);
        if seen.is_empty() {
            return Err(self.no_attention().into());
        }
        let step = |seen: Seen| self.cancel.check().map(|()| seen.weighted(&gradients));
        let steps: Vec<Step> = seen.into_iter().map(step).collect::<Result<_, _>>()?;
        self.flow(view, &steps, Rule::Relevance)
    }

    /// Runs a pass and hands every layer's attention to `take`.
    pub(super) fn each_layer(&self, view: &View, mut take: impl FnMut(Seen)) -> Result<(), Error> {
        let mut count = 0;
        let take = |seen: Seen| {
            count += 1;
            // A cancelled pass runs to its end; its weights are not looked at.
            if !self.cancel.is_cancelled() {
                take(seen);
            }
        };
        let mut watch = EachLayer { tracks: false, take };
        let backbone = self.backbone()?;
        let features = backbone.features(view.pixels.clone().into(), Want::Last, &mut watch);
        // Pooling may be attention, too.
        backbone.embedding(features, &mut watch);
        self.cancel.check()?;
        if count == 0 { Err(self.no_attention().into()) } else { Ok(()) }
    }

    fn no_attention(&self) -> ExplainError {
        ExplainError::NoAttention { family: self.model().family() }
    }

    /// The numbers of the patches that enter the first layer.
    fn flow(&self, view: &View, steps: &[Step], rule: Rule) -> Result<HeatMap, Error> {
        let Tokens { grid, cells, .. } =
            flow(steps, self.read_by_head(view)?, rule).ok_or_else(|| self.no_attention())?;
        HeatMap { grid, values: cells.into_iter().map(|value| value as f32).collect() }.finite()
    }
}

impl Seen {
    /// The layer as a step: the mean over heads of what is positive of gradient times weight.
    fn weighted(self, gradients: &Gradients) -> Step {
        let weights = self.weights.inner();
        let gradient =
            self.zeros.and_then(|zeros| zeros.grad(gradients)).unwrap_or_else(|| weights.zeros_like());
        Step::fused(activation::relu(gradient * weights), self.sites, Fusion::Mean)
    }
}

/// The maps of a layer's heads.
fn layer(seen: &Seen, query: Query, reads: &Tokens, finest: [usize; 2]) -> LayerAttention {
    let [_, heads, queries, keys] = seen.weights.dims();
    let weights: Vec<f64> = seen.weights.clone().cast(DType::F64).into_data().iter::<f64>().collect();
    let grid = seen.sites.keys().unwrap_or(reads.grid);
    let maps = (0..heads).map(|head| {
        let step = Step::of_head(&weights, [heads, queries, keys], head, seen.sites.clone());
        let values = step.shown(query, reads, finest);
        HeatMap { grid, values: values.into_iter().map(|value| value as f32).collect() }
    });
    LayerAttention { name: seen.name.clone(), grid, heads: maps.collect() }
}
