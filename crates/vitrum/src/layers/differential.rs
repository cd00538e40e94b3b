//! Differential attention, Ye et al. 2024 (arXiv:2410.05258): a head's map is the difference of two.
//!
//! ```text
//! head = norm((softmax(q₁ k₁ᵀ / √E) - λ softmax(q₂ k₂ᵀ / √E)) v) (1 - λ₀)      v [T, 2E]
//! λ    = exp(λq₁ · λk₁) - exp(λq₂ · λk₂) + λ₀
//! ```
//!
//! λ₀ grows with the number of the block. What both maps see alike cancels.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::norm::{LayerNorm, NormConfig, NormLayer};
use super::parameter;

/// Epsilon of the norm of each head, in the authors' code and in timm.
const EPS: f64 = 1e-5;

/// The parameters of differential attention (timm `DiffAttention`).
#[derive(Module, Debug)]
pub struct Differential {
    /// `[E]`.
    pub lambda_q1: Param<Tensor<1>>,
    /// `[E]`.
    pub lambda_k1: Param<Tensor<1>>,
    /// `[E]`.
    pub lambda_q2: Param<Tensor<1>>,
    /// `[E]`.
    pub lambda_k2: Param<Tensor<1>>,
    /// RMSNorm of what a head says, over `2E`.
    pub sub_norm: LayerNorm,
    num_heads: usize,
    lambda_init: f64,
}

impl Differential {
    /// For `num_heads` heads, whose queries and keys are `width` wide; `lambda_init` is λ₀.
    pub fn new(num_heads: usize, width: usize, lambda_init: f64, device: &Device) -> Self {
        let vector = || parameter([width], device);
        Self {
            lambda_q1: vector(),
            lambda_k1: vector(),
            lambda_q2: vector(),
            lambda_k2: vector(),
            sub_norm: NormConfig { layer: NormLayer::RmsNorm, eps: EPS }.build(2 * width, device),
            num_heads,
            lambda_init,
        }
    }

    /// λ₀ of block `index`, counted from 0 (paper, section 2.1).
    pub fn lambda_init(index: usize) -> f64 {
        0.8 - 0.6 * (-0.3 * index as f64).exp()
    }

    /// λ, `[1]`.
    fn lambda(&self) -> Tensor<1> {
        let part = |q: &Param<Tensor<1>>, k: &Param<Tensor<1>>| (q.val() * k.val()).sum().exp();
        part(&self.lambda_q1, &self.lambda_k1) - part(&self.lambda_q2, &self.lambda_k2) + self.lambda_init
    }

    /// Both maps of each head as heads of their own, `[B, T, 3·A·2E] -> [B, T, 3·2A·2E]`. Queries and keys get zeros up to the
    /// width of the values, which change no score.
    pub(super) fn heads(&self, qkv: Tensor<3>) -> Tensor<3> {
        let ([b, t, d3], a) = (qkv.dims(), self.num_heads);
        let (d, e) = (d3 / 3, d3 / 6 / a);
        let part = |place: usize| qkv.clone().narrow(2, place * d, d);
        let nothing = Tensor::zeros([b, t, 2 * a, e], (&qkv.device(), qkv.dtype()));
        let wide = |x: Tensor<3>| {
            Tensor::cat(vec![x.reshape([b, t, 2 * a, e]), nothing.clone()], 3).reshape([b, t, 2 * d])
        };
        let values = part(2).reshape([b, t, a, 1, 2 * e]).repeat_dim(3, 2).reshape([b, t, 2 * d]);
        Tensor::cat(vec![wide(part(0)), wide(part(1)), values], 2)
    }

    /// The difference of what both maps of each head say, `[B, T, 2A·2E] -> [B, T, A·2E]`.
    pub(super) fn difference(&self, maps: Tensor<3>) -> Tensor<3> {
        let ([b, t, d2], a) = (maps.dims(), self.num_heads);
        let maps = maps.reshape([b, t, a, 2, d2 / 2 / a]); // [B, T, A, 2, 2E]
        let map = |place: usize| maps.clone().narrow(3, place, 1).squeeze_dim::<4>(3);
        let heads = map(0) - map(1) * self.lambda().unsqueeze();
        (self.sub_norm.forward(heads) * (1.0 - self.lambda_init)).reshape([b, t, d2 / 2])
    }
}
