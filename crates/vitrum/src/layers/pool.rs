//! Pooling: many tokens to one vector.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use serde::{Deserialize, Serialize};
use vitrum_kernels::Squeeze;

use super::mlp::{Activation, Mlp};
use super::norm::{LayerNorm, NormConfig};
use super::observe::{AttentionSites, Observer};
use super::performer::widened;
use super::{Linear, parameter};

/// How tokens are pooled to one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GlobalPool {
    /// The class token.
    #[default]
    Token,
    /// The mean over patch tokens.
    Avg,
    /// The maximum over patch tokens.
    Max,
    /// Half the sum of mean and maximum.
    Avgmax,
    /// Attention with one learned query (MAP; keys `attn_pool.*`).
    Map,
}

/// `[B, T, D] -> [B, D]` without parameters. The first `prefix` tokens are left out unless `include_prefix`.
/// [`GlobalPool::Map`] has parameters: it is an [`AttentionPool`].
///
/// # Panics
/// If there is no token left to pool, or fewer tokens than `prefix`.
pub fn pool(x: Tensor<3>, kind: GlobalPool, prefix: usize, include_prefix: bool) -> Tensor<2> {
    let t = x.dims()[1];
    if kind == GlobalPool::Token {
        return x.narrow(1, 0, 1).squeeze_dim(1);
    }
    let x = if include_prefix || prefix == 0 { x } else { x.narrow(1, prefix, t - prefix) };
    let mean = |x: Tensor<3>| x.mean_dim(1).squeeze_dim::<2>(1);
    let max = |x: Tensor<3>| x.max_dim(1).squeeze_dim::<2>(1);
    match kind {
        GlobalPool::Max => max(x),
        GlobalPool::Avgmax => (max(x.clone()) + mean(x)) * 0.5,
        GlobalPool::Token | GlobalPool::Avg | GlobalPool::Map => mean(x),
    }
}

/// Multi-head attention pooling with one learned query (Zhai et al. 2021, arXiv:2106.04560, "MAP";
/// timm `AttentionPoolLatent`): attend, then `x + MLP(LN(x))`.
#[derive(Module, Debug)]
pub struct AttentionPool {
    /// The query before its projection, `[1, 1, D]`.
    pub latent: Param<Tensor<3>>,
    /// `D -> D`.
    pub q: Linear,
    /// `D -> 2D`: keys, then values.
    pub kv: Linear,
    /// `D -> D`.
    pub proj: Linear,
    /// Norm before the MLP.
    pub norm: LayerNorm,
    /// The MLP.
    pub mlp: Mlp,
    num_heads: usize,
}

impl AttentionPool {
    /// A pool over tokens of width `dim`.
    pub fn new(
        dim: usize,
        num_heads: usize,
        hidden: usize,
        act: Activation,
        norm: NormConfig,
        device: &Device,
    ) -> Self {
        Self {
            latent: parameter([1, 1, dim], device),
            q: Linear::new(dim, dim, true, device),
            kv: Linear::new(dim, 2 * dim, true, device),
            proj: Linear::new(dim, dim, true, device),
            norm: norm.build(dim, device),
            mlp: Mlp::new(dim, hidden, act, true, 0.0, device),
            num_heads,
        }
    }

    /// `[B, T, D] -> [B, D]`. The observer sees the weights `[B, A, 1, T]`.
    ///
    /// # Panics
    /// If the width is not `D`, or there is no token.
    pub fn forward(&self, x: Tensor<3>, watch: &mut dyn Observer) -> Tensor<2> {
        let [b, t, d] = x.dims();
        let (a, e) = (self.num_heads, d / self.num_heads);
        let query = self.q.forward(self.latent.val()); // [1, 1, D]
        let query = query.reshape([1, 1, a, e]).swap_dims(1, 2).expand([b, a, 1, e]); // [B, A, 1, E]
        let kv = self.kv.forward(x); // [B, T, 2D]
        let heads = |part: usize| kv.clone().narrow(2, part * d, d).reshape([b, t, a, e]).swap_dims(1, 2);
        let scores = (query * (e as f64).powf(-0.5)).matmul(heads(0).swap_dims(2, 3)); // [B, A, 1, T]
        let dtype = scores.dtype();
        let weights = activation::softmax(widened(scores), 3).cast(dtype);
        let weights = match watch.wants_attention(format_args!("weights")) {
            true => watch.attention(format_args!("weights"), weights, &AttentionSites::Pool),
            false => weights,
        };
        let context = weights.matmul(heads(1)); // [B, A, 1, E]
        let x = self.proj.forward(context.swap_dims(1, 2).reshape([b, 1, d])); // [B, 1, D]
        let x = x.clone() + self.mlp.forward(self.norm.forward(x));
        x.squeeze_dim(1)
    }
}

/// How a feature map becomes one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapPool {
    /// The mean over the map.
    #[default]
    Avg,
    /// The maximum over the map.
    Max,
    /// Half the sum of mean and maximum.
    Avgmax,
}

impl MapPool {
    /// `[B, H·W, C] -> [B, C]`.
    ///
    /// # Panics
    /// For a map without pixels.
    pub fn forward(self, x: Tensor<3>) -> Tensor<2> {
        let mean = |x| vitrum_kernels::squeeze(x, Squeeze::Mean);
        let max = |x: Tensor<3>| x.max_dim(1).squeeze_dim::<2>(1);
        match self {
            Self::Avg => mean(x),
            Self::Max => max(x),
            Self::Avgmax => (max(x.clone()) + mean(x)) * 0.5,
        }
    }
}
