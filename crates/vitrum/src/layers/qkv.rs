//! The projection of tokens to queries, keys and values.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use vitrum_kernels::Activation::Identity;

use super::attention::AttentionConfig;
use super::norm::LayerNorm;
use super::{Linear, parameter};

/// How queries, keys and values come from tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QkvForm {
    /// One product (key `qkv`).
    #[default]
    Fused,
    /// One product; a bias on queries and values only (BEiT; keys `qkv.weight`, `q_bias`, `v_bias`).
    FusedWithoutKeyBias,
    /// Three products (keys `q_proj`, `k_proj`, `v_proj`).
    Separate,
    /// Three products; keys have no bias (EVA-02).
    SeparateWithoutKeyBias,
}

impl QkvForm {
    /// Whether the three are one product.
    pub fn is_fused(self) -> bool {
        matches!(self, Self::Fused | Self::FusedWithoutKeyBias)
    }

    /// Whether keys have a bias if queries and values have one.
    pub fn has_key_bias(self) -> bool {
        matches!(self, Self::Fused | Self::Separate)
    }
}

/// The projection of tokens to queries, keys and values.
// The size of a variant does not matter: a few dozen exist at most, beside megabytes of weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Qkv {
    /// One product.
    Fused(FusedQkv),
    /// Three products.
    Separate(SeparateQkv),
}

/// One product for all three.
#[derive(Module, Debug)]
pub struct FusedQkv {
    /// `D -> 3·A·E`: queries of all heads, then keys, then values.
    pub qkv: Linear,
    /// Bias of the queries, `[A·E]`, if the product has none.
    pub q_bias: Option<Param<Tensor<1>>>,
    /// Bias of the values, `[A·E]`.
    pub v_bias: Option<Param<Tensor<1>>>,
}

/// A product for each.
#[derive(Module, Debug)]
pub struct SeparateQkv {
    /// `D -> A·E`.
    pub q_proj: Linear,
    /// `D -> A·E`, or `D -> G·E` for `G` groups of queries.
    pub k_proj: Linear,
    /// As wide as the keys.
    pub v_proj: Linear,
    head_dim: usize,
}

impl Qkv {
    /// The projection of an attention layer.
    pub fn new(config: &AttentionConfig, device: &Device) -> Self {
        let AttentionConfig { dim, num_heads, num_kv_heads, head_dim, qkv: form, qkv_bias: bias, .. } =
            *config;
        let inner = num_heads * head_dim;
        let linear = |heads: usize, bias| Linear::new(dim, heads * head_dim, bias, device);
        match form.is_fused() {
            true => Self::Fused(FusedQkv::new(dim, inner, bias, form.has_key_bias(), device)),
            false => Self::Separate(SeparateQkv {
                q_proj: linear(num_heads, bias),
                k_proj: linear(num_kv_heads, bias && form.has_key_bias()),
                v_proj: linear(num_kv_heads, bias),
                head_dim,
            }),
        }
    }

    /// `[B, T, D] -> [B, T, 3·A·E]`.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Fused(fused) => fused.forward(x),
            Self::Separate(separate) => separate.forward(x),
        }
    }

    /// The projection of normed tokens.
    pub(crate) fn after(&self, norm: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Fused(FusedQkv { qkv, q_bias: None, .. }) => qkv.after(norm, x, Identity),
            Self::Fused(FusedQkv { qkv, .. }) if qkv.prepared().is_some() => qkv.after(norm, x, Identity),
            _ => self.forward(norm.forward(x)),
        }
    }

    /// Whether the attention after this projection multiplies in bf16.
    pub(super) fn rounds_attention(&self, device: &Device, dtype: DType) -> bool {
        self.linears().iter().all(|(_, layer)| layer.rounds_attention(device, dtype))
    }

    /// The linear layers with their names in a block.
    pub fn linears(&self) -> Vec<(&'static str, &Linear)> {
        match self {
            Self::Fused(FusedQkv { qkv, .. }) => vec![("attn.qkv", qkv)],
            Self::Separate(SeparateQkv { q_proj, k_proj, v_proj, .. }) => {
                vec![("attn.q_proj", q_proj), ("attn.k_proj", k_proj), ("attn.v_proj", v_proj)]
            }
        }
    }

    /// [`linears`](Qkv::linears), mutable.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        match self {
            Self::Fused(fused) => vec![("attn.qkv", fused.linear_mut())],
            Self::Separate(SeparateQkv { q_proj, k_proj, v_proj, .. }) => {
                vec![("attn.q_proj", q_proj), ("attn.k_proj", k_proj), ("attn.v_proj", v_proj)]
            }
        }
    }
}

impl SeparateQkv {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj].map(|layer| layer.forward(x.clone()));
        let inner = q.dims()[2];
        Tensor::cat(vec![q, self.for_each_query(k, inner), self.for_each_query(v, inner)], 2)
    }

    /// Heads that a group of queries shares, once for each of these: `[B, T, G·E] -> [B, T, A·E]`.
    fn for_each_query(&self, x: Tensor<3>, inner: usize) -> Tensor<3> {
        let ([b, t, width], e) = (x.dims(), self.head_dim);
        if width == inner {
            return x;
        }
        x.reshape([b, t, width / e, 1, e]).repeat_dim(3, inner / width).reshape([b, t, inner])
    }
}

impl FusedQkv {
    /// A projection from `dim` to three times `inner`. Without `has_key_bias` only queries and values have one.
    pub fn new(dim: usize, inner: usize, bias: bool, has_key_bias: bool, device: &Device) -> Self {
        let of_ends = || (bias && !has_key_bias).then(|| parameter([inner], device));
        let qkv = Linear::new(dim, 3 * inner, bias && has_key_bias, device);
        Self { qkv, q_bias: of_ends(), v_bias: of_ends() }
    }

    /// `[B, T, D] -> [B, T, 3·A·E]`.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self.bias_of_ends() {
            Some(bias) if self.qkv.prepared().is_none() => {
                vitrum_kernels::linear(x, self.qkv.weight.val(), bias)
            }
            _ => self.qkv.forward(x),
        }
    }

    /// The projection of a token of zeros, `[3·A·E]`.
    pub(crate) fn bias(&self) -> Option<Tensor<1>> {
        self.bias_of_ends().or_else(|| Some(self.qkv.bias.as_ref()?.val()))
    }

    /// `[q_bias, 0, v_bias]`, `[3·A·E]`.
    fn bias_of_ends(&self) -> Option<Tensor<1>> {
        let (q, v) = (self.q_bias.as_ref()?.val(), self.v_bias.as_ref()?.val());
        let k = Tensor::zeros(q.dims(), (&q.device(), q.dtype()));
        Some(Tensor::cat(vec![q, k, v], 0))
    }

    /// The product. Its prepared form holds the biases of queries and values.
    pub(crate) fn linear_mut(&mut self) -> &mut Linear {
        if let Some(bias) = self.bias_of_ends() {
            self.qkv.set_outer_bias(&bias);
        }
        &mut self.qkv
    }
}
