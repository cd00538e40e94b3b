//! Attention to a coarser grid: "spatial-reduction attention" of Wang et al. 2021, "Pyramid Vision Transformer"
//! (arXiv:2102.12122), "global sub-sampled attention" of Twins (arXiv:2104.13840).
//!
//! ```text
//! q = Wq x                               [B, N, D], N = H·W
//! m = LN(kernel of RxR at steps of R(x)) [B, M, D], M = ⌊H/R⌋·⌊W/R⌋; m = x if R is 1
//! k, v = Wkv m                           [B, M, D] each
//! softmax(q kᵀ / sqrt(E)) v, then a projection
//! ```

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};

use super::Linear;
use super::conv::{Conv, ConvConfig, Maps, Padding};
use super::drop::{dropout, training};
use super::norm::LayerNorm;
use super::observe::{AttentionSites, Observer};
use super::performer::widened;

/// How a [`ReducedAttention`] is built.
#[derive(Clone, Copy, Debug)]
pub struct ReducedAttentionConfig {
    /// `D`.
    pub dim: usize,
    /// `A`; divides `D`.
    pub num_heads: usize,
    /// Bias on the projections to queries, keys and values.
    pub qkv_bias: bool,
    /// `R`: positions along each axis that become one key. 1: every position is a key.
    pub sr_ratio: usize,
    /// Epsilon of the norm of the coarser grid.
    pub norm_eps: f64,
    /// Dropout on the attention weights.
    pub attn_drop: f64,
    /// Dropout after the output projection.
    pub proj_drop: f64,
}

impl ReducedAttentionConfig {
    /// The kernel that coarsens the grid, unless every position is a key. Rows and columns that do not fill a kernel
    /// are left out.
    pub fn reduction(&self) -> Option<ConvConfig> {
        let conv = ConvConfig::new(self.dim, self.dim, self.sr_ratio).stride(self.sr_ratio);
        (self.sr_ratio > 1).then(|| conv.padding(Padding::None).bias(true))
    }
}

/// Attention of every position to a coarser grid. Field names are those of timm's `GlobalSubSampleAttn`.
#[derive(Module, Debug)]
pub struct ReducedAttention {
    /// `D -> D`.
    pub q: Linear,
    /// `D -> 2D`: keys, then values.
    pub kv: Linear,
    /// From the grid to the coarser one.
    pub sr: Option<Conv>,
    /// Norm of the coarser grid.
    pub norm: Option<LayerNorm>,
    /// `D -> D`.
    pub proj: Linear,
    num_heads: usize,
    attn_drop: f64,
    proj_drop: f64,
}

impl ReducedAttention {
    /// An attention layer.
    pub fn new(config: &ReducedAttentionConfig, device: &Device) -> Self {
        let ReducedAttentionConfig { dim, num_heads, qkv_bias, norm_eps, attn_drop, proj_drop, .. } = *config;
        let reduction = config.reduction();
        Self {
            q: Linear::new(dim, dim, qkv_bias, device),
            kv: Linear::new(dim, 2 * dim, qkv_bias, device),
            norm: reduction.map(|_| LayerNorm::new(dim, norm_eps, device)),
            sr: reduction.map(|conv| conv.init(device)),
            proj: Linear::new(dim, dim, true, device),
            num_heads,
            attn_drop,
            proj_drop,
        }
    }

    /// The output projection with its dropout, `[B, N, D] -> [B, N, D]`.
    pub(crate) fn project(&self, context: Tensor<3>) -> Tensor<3> {
        dropout(self.proj.forward(context), self.proj_drop)
    }

    /// What enters the output projection: maps `[B, H·W, D] -> [B, H·W, D]`.
    ///
    /// # Panics
    /// If the width or the float type is not that of the weights, or the maps have fewer than `R` rows or columns.
    pub(crate) fn context(&self, maps: &Maps, watch: &mut dyn Observer) -> Tensor<3> {
        let q = self.q.forward(maps.x.clone()); // [B, N, D]
        let kv = self.kv.forward(self.reduced(maps, watch)); // [B, M, 2D]
        let keys = match &self.sr {
            Some(sr) => sr.config().out(maps.grid),
            None => maps.grid,
        };
        self.attend(q, kv, &AttentionSites::Reduced { grid: maps.grid, keys }, watch)
    }

    /// The coarser grid, `[B, M, D]`.
    fn reduced(&self, maps: &Maps, watch: &mut dyn Observer) -> Tensor<3> {
        let (Some(sr), Some(norm)) = (&self.sr, &self.norm) else { return maps.x.clone() };
        let x = watch.tokens(format_args!("sr"), sr.forward(maps).x);
        watch.tokens(format_args!("norm"), norm.forward(x))
    }

    /// Fused, unless the observer wants the weights or dropout acts on them.
    fn attend(
        &self,
        q: Tensor<3>,
        kv: Tensor<3>,
        sites: &AttentionSites,
        watch: &mut dyn Observer,
    ) -> Tensor<3> {
        let [b, n, d] = q.dims();
        let a = self.num_heads;
        let scale = ((d / a) as f64).powf(-0.5);
        let drops = self.attn_drop > 0.0 && training(&q);
        let fuses = !drops && !watch.wants_attention(format_args!("weights"));
        let part = |index: usize| kv.clone().narrow(2, index * d, d); // [B, M, D]
        if fuses && self.kv.rounds_attention(&q.device(), q.dtype()) {
            return vitrum_kernels::cross_attention_bf16(q, part(0), part(1), a, scale, None, None);
        }
        if fuses {
            return vitrum_kernels::cross_attention_kv(q, kv, a, scale, None, None);
        }
        let heads = |x: Tensor<3>| {
            let [b, t, d] = x.dims();
            x.reshape([b, t, a, d / a]).swap_dims(1, 2) // [B, A, T, E]
        };
        let scores = (heads(q) * scale).matmul(heads(part(0)).swap_dims(2, 3)); // [B, A, N, M]
        let dtype = scores.dtype();
        let weights = activation::softmax(widened(scores), 3).cast(dtype);
        let weights = watch.attention(format_args!("weights"), weights, sites);
        let context = dropout(weights, self.attn_drop).matmul(heads(part(1))); // [B, A, N, E]
        context.swap_dims(1, 2).reshape([b, n, d])
    }
}
