//! Observing and changing the values inside a model.

use std::fmt::Arguments;

use burn::tensor::Tensor;

use super::window::Windows;

/// Receives every named intermediate of a forward pass and may return another value in its place. By default it
/// changes nothing.
///
/// Names are timm's module names, in the order of the network: `patch_embed`, `pos_drop`, `blocks.0.norm1`,
/// `blocks.0.attn`, …, `norm`, `fc_norm`, `head`. A layer gives only its own part of a name; its caller opens the
/// scope with [`Within`]. Names are [`Arguments`], so a silent observer never builds a string.
pub trait Observer {
    /// Tokens `[B, T, D]`. The pass continues with the returned value, of the same shape.
    fn tokens(&mut self, _name: Arguments<'_>, x: Tensor<3>) -> Tensor<3> {
        x
    }

    /// Whether the observer looks at tokens. If not, a block may fuse several steps.
    fn wants_tokens(&self) -> bool {
        true
    }

    /// One vector per image, `[B, D]` or `[B, K]`. The pass continues with the returned value.
    fn vectors(&mut self, _name: Arguments<'_>, x: Tensor<2>) -> Tensor<2> {
        x
    }

    /// Whether to compute the attention weights of this name, such as `blocks.3.attn.weights`. They cost `B·A·T²`
    /// numbers per block and disable the fused kernel of that block.
    fn wants_attention(&self, _name: Arguments<'_>) -> bool {
        false
    }

    /// Attention weights after softmax, `[B, A, Q, K]`, rows are queries; `blocks.3.attn.weights`. `sites` says where
    /// queries and keys lie; attention within windows has `B · windows` in front. The pass continues with the returned
    /// value. Only called if [`wants_attention`](Observer::wants_attention) is true for the name.
    fn attention(&mut self, _name: Arguments<'_>, weights: Tensor<4>, _sites: &AttentionSites) -> Tensor<4> {
        weights
    }

    /// The statistics of a training batch in the BatchNorm layer of this name. The layer does not store them: the
    /// trainer does, once the update is accepted.
    fn statistics(&mut self, _name: Arguments<'_>, _batch: BatchStatistics) {}
}

/// Where the queries and keys of attention weights lie.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttentionSites {
    /// Both are all tokens: those in front, then a grid row by row.
    Tokens {
        /// Number of class, register and other tokens in front.
        prefix: usize,
        /// Rows and columns.
        grid: [usize; 2],
    },
    /// Both are the positions of a window of a map.
    Windows(Windows),
    /// Queries on a grid, keys on a coarser one over the same image.
    Reduced {
        /// Rows and columns of the queries.
        grid: [usize; 2],
        /// Rows and columns of the keys.
        keys: [usize; 2],
    },
    /// Learned queries that pool tokens. The keys are those of the last layer, with or without the tokens in front.
    Pool,
}

impl AttentionSites {
    /// Rows and columns of the queries that are patches.
    pub fn queries(&self) -> Option<[usize; 2]> {
        match self {
            Self::Tokens { grid, .. } | Self::Reduced { grid, .. } => Some(*grid),
            Self::Windows(windows) => Some(windows.grid),
            Self::Pool => None,
        }
    }

    /// Rows and columns of the keys; `None` if another layer has the grid.
    pub fn keys(&self) -> Option<[usize; 2]> {
        match self {
            Self::Reduced { keys, .. } => Some(*keys),
            other => other.queries(),
        }
    }
}

/// Statistics of one training batch in a BatchNorm layer.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// Mean per channel, `[C]`, in f32 or wider.
    pub mean: Tensor<1>,
    /// Unbiased variance per channel, `[C]`.
    pub var: Tensor<1>,
    /// Values per channel. One value has no variance.
    pub count: usize,
    /// Weight of the new statistics in the running ones (PyTorch's `momentum`).
    pub momentum: f64,
}

/// The same observer inside a layer: names get the prefix `scope.`; the empty name is the layer's own.
pub struct Within<'a> {
    watch: &'a mut dyn Observer,
    scope: Arguments<'a>,
}

impl<'a> Within<'a> {
    /// `watch` inside the layer `scope`, such as `format_args!("layers.{i}")`.
    pub fn new(watch: &'a mut dyn Observer, scope: Arguments<'a>) -> Self {
        Self { watch, scope }
    }
}

fn is_own(name: Arguments<'_>) -> bool {
    name.as_str() == Some("")
}

impl Observer for Within<'_> {
    fn tokens(&mut self, name: Arguments<'_>, x: Tensor<3>) -> Tensor<3> {
        match is_own(name) {
            true => self.watch.tokens(self.scope, x),
            false => self.watch.tokens(format_args!("{}.{name}", self.scope), x),
        }
    }

    fn wants_tokens(&self) -> bool {
        self.watch.wants_tokens()
    }

    fn vectors(&mut self, name: Arguments<'_>, x: Tensor<2>) -> Tensor<2> {
        match is_own(name) {
            true => self.watch.vectors(self.scope, x),
            false => self.watch.vectors(format_args!("{}.{name}", self.scope), x),
        }
    }

    fn wants_attention(&self, name: Arguments<'_>) -> bool {
        match is_own(name) {
            true => self.watch.wants_attention(self.scope),
            false => self.watch.wants_attention(format_args!("{}.{name}", self.scope)),
        }
    }

    fn attention(&mut self, name: Arguments<'_>, weights: Tensor<4>, sites: &AttentionSites) -> Tensor<4> {
        match is_own(name) {
            true => self.watch.attention(self.scope, weights, sites),
            false => self.watch.attention(format_args!("{}.{name}", self.scope), weights, sites),
        }
    }

    fn statistics(&mut self, name: Arguments<'_>, batch: BatchStatistics) {
        match is_own(name) {
            true => self.watch.statistics(self.scope, batch),
            false => self.watch.statistics(format_args!("{}.{name}", self.scope), batch),
        }
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn wants_tokens(&self) -> bool {
        false
    }
}

/// A value that a [`Recorder`] kept.
#[derive(Clone, Debug)]
pub enum Seen {
    /// `[B, T, D]`.
    Tokens(Tensor<3>),
    /// `[B, D]`.
    Vectors(Tensor<2>),
    /// `[B, A, T, T]`.
    Attention(Tensor<4>),
}

/// Keeps every intermediate, in the order of the network.
#[derive(Debug, Default)]
pub struct Recorder {
    /// Also record attention weights, as `blocks.N.attn.weights`.
    pub with_attention: bool,
    /// Name and value, in the order of the network.
    pub seen: Vec<(String, Seen)>,
}

impl Observer for Recorder {
    fn tokens(&mut self, name: Arguments<'_>, x: Tensor<3>) -> Tensor<3> {
        self.seen.push((name.to_string(), Seen::Tokens(x.clone())));
        x
    }

    fn vectors(&mut self, name: Arguments<'_>, x: Tensor<2>) -> Tensor<2> {
        self.seen.push((name.to_string(), Seen::Vectors(x.clone())));
        x
    }

    fn wants_attention(&self, _: Arguments<'_>) -> bool {
        self.with_attention
    }

    fn attention(&mut self, name: Arguments<'_>, weights: Tensor<4>, _sites: &AttentionSites) -> Tensor<4> {
        self.seen.push((name.to_string(), Seen::Attention(weights.clone())));
        weights
    }
}
