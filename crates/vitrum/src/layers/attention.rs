//! Multi-head self-attention (Vaswani et al. 2017; ViT paper, appendix A).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::Linear;
use super::drop::{dropout, training};
use super::norm::LayerNorm;
use super::observe::Observer;
use super::position::{RelKeys, RelPos};

/// How an [`Attention`] is built.
#[derive(Clone, Copy, Debug)]
pub struct AttentionConfig {
    /// `D`.
    pub dim: usize,
    /// `A`.
    pub num_heads: usize,
    /// `E`: width of a head; `D / A` unless a model says otherwise.
    pub head_dim: usize,
    /// Bias on the fused query, key, value projection.
    pub qkv_bias: bool,
    /// LayerNorm on queries and keys, per head.
    pub qk_norm: bool,
    /// Bias on the output projection.
    pub proj_bias: bool,
    /// Dropout on the attention weights.
    pub attn_drop: f64,
    /// Dropout after the output projection.
    pub proj_drop: f64,
    /// Epsilon of the query and key norms.
    pub norm_eps: f64,
    /// Factor on the scores; `None`: `1 / sqrt(E)`.
    pub scale: Option<f64>,
}

/// Arguments of a block beside its tokens.
#[derive(Clone, Copy, Debug)]
pub struct BlockArgs<'a> {
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// A bias on the scores, shared by all blocks, `[1, A, T, T]`.
    pub shared_bias: Option<&'a Tensor<4>>,
    /// Keys of offsets, shared by all blocks.
    pub shared_keys: Option<&'a RelKeys>,
    /// Compute only the first n tokens of this block's output; `None`: all.
    pub read: Option<usize>,
}

/// `softmax(scale q kᵀ + bias) v`, then a projection. The scale is usually `1 / sqrt(E)`.
#[derive(Module, Debug)]
pub struct Attention {
    /// `D -> 3·A·E`: queries of all heads, then keys, then values.
    pub qkv: Linear,
    /// Norm of queries, over `E`.
    pub q_norm: Option<LayerNorm>,
    /// Norm of keys, over `E`.
    pub k_norm: Option<LayerNorm>,
    /// This block's relative position bias.
    pub rel_pos: Option<RelPos>,
    /// `A·E -> D`.
    pub proj: Linear,
    num_heads: usize,
    scale: f64,
    attn_drop: f64,
    proj_drop: f64,
}

impl Attention {
    /// An attention layer; `rel_pos` is the relative position bias of this block, if any.
    pub fn new(config: &AttentionConfig, rel_pos: Option<RelPos>, device: &Device) -> Self {
        let AttentionConfig { dim, num_heads, head_dim, norm_eps, .. } = *config;
        let inner = num_heads * head_dim;
        let head_norm = || config.qk_norm.then(|| LayerNorm::new(head_dim, norm_eps, device));
        Self {
            qkv: Linear::new(dim, 3 * inner, config.qkv_bias, device),
            q_norm: head_norm(),
            k_norm: head_norm(),
            rel_pos,
            proj: Linear::new(inner, dim, config.proj_bias, device),
            num_heads,
            scale: config.scale.unwrap_or((head_dim as f64).powf(-0.5)),
            attn_drop: config.attn_drop,
            proj_drop: config.proj_drop,
        }
    }

    /// With a projection from all heads to another width than the layer's own.
    #[must_use]
    pub fn with_output(self, width: usize, device: &Device) -> Self {
        let [inner, _] = self.proj.weight.lazy_shape().dims::<2>();
        let bias = self.proj.bias.is_some();
        Self { proj: Linear::new(inner, width, bias, device), ..self }
    }

    /// `[B, T, D] -> [B, T, D]`; only the first [`BlockArgs::read`] tokens if that is set.
    ///
    /// # Panics
    /// As [`Block::forward`](super::block::Block::forward).
    pub fn forward(&self, x: Tensor<3>, args: BlockArgs, watch: &mut dyn Observer) -> Tensor<3> {
        let context = self.context(self.qkv.forward(x), args, watch); // [B, T, A·E]
        self.project(context)
    }

    /// The output projection with its dropout, `[B, T, A·E] -> [B, T, D]`.
    pub(crate) fn project(&self, context: Tensor<3>) -> Tensor<3> {
        dropout(self.proj.forward(context), self.proj_drop)
    }

    /// The part between the projections `self.qkv` and `self.proj`: `[B, T, 3·A·E] -> [B, T, A·E]`.
    pub(crate) fn context(&self, qkv: Tensor<3>, args: BlockArgs, watch: &mut dyn Observer) -> Tensor<3> {
        let qkv = self.normalize(qkv); // [B, T, 3·A·E]
        let queries = || self.queries(&qkv);
        let bias = match (&self.rel_pos, args.shared_keys) {
            (Some(rel_pos), _) => Some(rel_pos.bias(args.grid, queries)), // [1 or B, A, T, T]
            (None, Some(keys)) => Some(keys.bias(queries())),
            (None, None) => args.shared_bias.cloned(),
        };
        self.attend(qkv, bias, args, watch) // [B, T, A·E]
    }

    /// Scaled queries, `[B, A, T, E]`.
    fn queries(&self, qkv: &Tensor<3>) -> Tensor<4> {
        let ([b, t, d3], a) = (qkv.dims(), self.num_heads);
        let e = d3 / 3 / a;
        let queries = qkv.clone().narrow(2, 0, d3 / 3).reshape([b, t, a, e]).swap_dims(1, 2);
        queries * (e as f64).powf(-0.5)
    }

    /// Fused, unless the observer wants the weights or dropout acts on them.
    fn attend(
        &self,
        qkv: Tensor<3>,
        bias: Option<Tensor<4>>,
        args: BlockArgs,
        watch: &mut dyn Observer,
    ) -> Tensor<3> {
        let [b, t, d3] = qkv.dims();
        let (d, a) = (d3 / 3, self.num_heads);
        let scale = self.scale;
        let read = args.read.unwrap_or(t);
        let drops = self.attn_drop > 0.0 && training(&qkv);
        let fuses = !drops && !watch.wants_attention(format_args!("weights"));
        if fuses && self.qkv.rounds_attention(&qkv.device(), qkv.dtype()) {
            return vitrum_kernels::attention_bf16(qkv, read, a, scale, bias);
        }
        if fuses {
            return vitrum_kernels::attention_of_first(qkv, read, a, scale, bias);
        }
        let weights = vitrum_kernels::attention_weights(qkv.clone(), a, scale, bias); // [B, A, T, T]
        let weights = watch.attention(format_args!("weights"), weights);
        let v = qkv.narrow(2, 2 * d, d).reshape([b, t, a, d / a]).swap_dims(1, 2); // [B, A, T, E]
        let weights = dropout(weights, self.attn_drop).narrow(2, 0, read);
        weights.matmul(v).swap_dims(1, 2).reshape([b, read, d])
    }

    /// Norms queries and keys head by head; the shape `[B, T, 3·A·E]` stays.
    fn normalize(&self, qkv: Tensor<3>) -> Tensor<3> {
        let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) else { return qkv };
        let [b, t, d3] = qkv.dims();
        let heads = |part: usize| {
            let x = qkv.clone().narrow(2, part * d3 / 3, d3 / 3);
            x.reshape([b, t, self.num_heads, d3 / 3 / self.num_heads]) // [B, T, A, E]
        };
        let q = q_norm.forward(heads(0)).reshape([b, t, d3 / 3]);
        let k = k_norm.forward(heads(1)).reshape([b, t, d3 / 3]);
        Tensor::cat(vec![q, k, qkv.clone().narrow(2, 2 * d3 / 3, d3 / 3)], 2)
    }
}
