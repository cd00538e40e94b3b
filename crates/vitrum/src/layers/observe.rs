//! Watching and changing the values inside a model, without the model knowing why.

use std::fmt::Arguments;

use burn::tensor::Tensor;

/// Told every named intermediate of a forward pass, and may hand back another in its place. By default it changes
/// nothing.
///
/// Names are timm's module names, in the order of the network: `patch_embed`, `pos_drop`, `blocks.0.norm1`,
/// `blocks.0.attn`, …, `norm`, `fc_norm`, `head`. A layer says only its own part of a name; whoever calls the layer
/// opens its scope with [`Within`]. Names come as [`Arguments`], so a silent observer never pays for a string.
pub trait Observer {
    /// Tokens `[B, T, D]`; the pass goes on with what is returned, of the same shape.
    fn tokens(&mut self, _name: Arguments<'_>, x: Tensor<3>) -> Tensor<3> {
        x
    }

    /// Whether it looks at tokens at all. Where it does not, a block may compute several steps as one.
    fn wants_tokens(&self) -> bool {
        true
    }

    /// One vector per image, `[B, D]` or `[B, K]`; the pass goes on with what is returned.
    fn vectors(&mut self, _name: Arguments<'_>, x: Tensor<2>) -> Tensor<2> {
        x
    }

    /// Whether attention weights should be formed at all: they cost `B·A·T²` numbers per block and
    /// take the fused kernel out of use.
    fn wants_attention(&self) -> bool {
        false
    }

    /// Attention weights after softmax, `[B, A, T, T]`, rows are queries; the pass goes on with what is returned. Only
    /// called when [`wants_attention`](Observer::wants_attention) answers true.
    fn attention(&mut self, _name: Arguments<'_>, weights: Tensor<4>) -> Tensor<4> {
        weights
    }

    /// What a BatchNorm layer of this name saw in a training batch. The layer does not keep it: the trainer does, once
    /// the update is accepted.
    fn statistics(&mut self, _name: Arguments<'_>, _batch: BatchStatistics) {}
}

/// What a BatchNorm layer learns from one training batch.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// Mean per channel, `[C]`, in f32 or wider.
    pub mean: Tensor<1>,
    /// Unbiased variance per channel, `[C]`.
    pub var: Tensor<1>,
    /// Share of the new statistics in the running ones (PyTorch's `momentum`).
    pub momentum: f64,
}

/// The same observer for what happens inside a layer: names stand behind `scope.`, and the empty name is the layer's
/// own.
pub struct Within<'a> {
    watch: &'a mut dyn Observer,
    scope: Arguments<'a>,
}

impl<'a> Within<'a> {
    /// `watch` inside the layer `scope`, such as `format_args!("blocks.{i}")`.
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

    fn wants_attention(&self) -> bool {
        self.watch.wants_attention()
    }

    fn attention(&mut self, name: Arguments<'_>, weights: Tensor<4>) -> Tensor<4> {
        match is_own(name) {
            true => self.watch.attention(self.scope, weights),
            false => self.watch.attention(format_args!("{}.{name}", self.scope), weights),
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

    fn wants_attention(&self) -> bool {
        self.with_attention
    }

    fn attention(&mut self, name: Arguments<'_>, weights: Tensor<4>) -> Tensor<4> {
        self.seen.push((name.to_string(), Seen::Attention(weights.clone())));
        weights
    }
}
