//! Watching the values inside a model, without the model knowing why.

use std::fmt::Arguments;

use burn::tensor::Tensor;

/// Told every named intermediate of a forward pass. All methods do nothing by default.
///
/// Names are timm's module names, in the order of the network: `patch_embed`, `pos_drop`,
/// `blocks.0.norm1`, `blocks.0.attn`, …, `norm`, `fc_norm`, `head`. They come as [`Arguments`], so a
/// silent observer never pays for a string.
pub trait Observer {
    /// Tokens `[B, T, D]`.
    fn tokens(&mut self, _name: Arguments<'_>, _x: &Tensor<3>) {}

    /// Whether it looks at tokens at all; where it does not, a block may compute several steps as one.
    fn wants_tokens(&self) -> bool {
        true
    }

    /// One vector per image, `[B, D]` or `[B, K]`.
    fn vectors(&mut self, _name: Arguments<'_>, _x: &Tensor<2>) {}

    /// Whether attention weights should be formed at all: they cost `B·A·T²` numbers per block and
    /// take the fused kernel out of use.
    fn wants_attention(&self) -> bool {
        false
    }

    /// Attention weights after softmax, `[B, A, T, T]`, rows are queries. Only called when
    /// [`wants_attention`](Observer::wants_attention) answers true.
    fn attention(&mut self, _name: Arguments<'_>, _weights: &Tensor<4>) {}
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn wants_tokens(&self) -> bool {
        false
    }
}

/// A value seen by a [`Recorder`].
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
    fn tokens(&mut self, name: Arguments<'_>, x: &Tensor<3>) {
        self.seen.push((name.to_string(), Seen::Tokens(x.clone())));
    }

    fn vectors(&mut self, name: Arguments<'_>, x: &Tensor<2>) {
        self.seen.push((name.to_string(), Seen::Vectors(x.clone())));
    }

    fn wants_attention(&self) -> bool {
        self.with_attention
    }

    fn attention(&mut self, name: Arguments<'_>, weights: &Tensor<4>) {
        self.seen.push((name.to_string(), Seen::Attention(weights.clone())));
    }
}
