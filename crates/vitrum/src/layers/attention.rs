//! Multi-head self-attention (Vaswani et al. 2017; ViT paper, appendix A).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use serde::{Deserialize, Serialize};

use super::Linear;
use super::differential::Differential;
use super::drop::{dropout, training};
use super::kept::Kept;
use super::names::Flat;
use super::norm::{LayerNorm, NormConfig, NormLayer};
use super::observe::{AttentionSites, Observer};
use super::position::{RelKeys, RelPos, RelPosBias};
use super::qkv::{Qkv, QkvForm};
use super::rope::Rotation;
use super::window::{Windows, window_attention, window_attention_weights};

/// The form of attention. The names are timm's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttnLayer {
    /// One map for each head.
    #[default]
    Attn,
    /// The difference of two maps for each head (arXiv:2410.05258; timm `DiffAttention`).
    Diff,
}

/// How an [`Attention`] is built.
#[derive(Clone, Copy, Debug)]
pub struct AttentionConfig {
    /// `D`.
    pub dim: usize,
    /// `A`.
    pub num_heads: usize,
    /// `E`: width of a head; `D / A` unless a model says otherwise.
    pub head_dim: usize,
    /// Heads of keys and values, a divisor of `A`. Fewer than `A` means that groups of queries share them (grouped queries,
    /// arXiv:2305.13245); products of their own are needed for that ([`QkvForm::Separate`]).
    pub num_kv_heads: usize,
    /// Differential attention (arXiv:2410.05258): the weight of the second map in a fresh block, which depends on the
    /// block's place. `None`: one map for each head.
    pub differential: Option<f64>,
    /// How queries, keys and values come from tokens.
    pub qkv: QkvForm,
    /// Bias on the query, key, value projection.
    pub qkv_bias: bool,
    /// A norm on queries and keys, per head.
    pub qk_norm: bool,
    /// A norm between attention and the output projection (sub-LN, arXiv:2210.06423).
    pub scale_norm: bool,
    /// Bias on the output projection.
    pub proj_bias: bool,
    /// Dropout on the attention weights.
    pub attn_drop: f64,
    /// Dropout after the output projection.
    pub proj_drop: f64,
    /// The form of the norms.
    pub norm_layer: NormLayer,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Factor on the scores; `None`: `1 / sqrt(E)`.
    pub scale: Option<f64>,
}

impl AttentionConfig {
    /// Heads of `D / A` each, one projection with a bias, no norms, no dropout, an epsilon of 1e-6.
    pub fn new(dim: usize, num_heads: usize) -> Self {
        Self {
            dim,
            num_heads,
            head_dim: dim / num_heads,
            num_kv_heads: num_heads,
            differential: None,
            qkv: QkvForm::Fused,
            qkv_bias: true,
            qk_norm: false,
            scale_norm: false,
            proj_bias: true,
            attn_drop: 0.0,
            proj_drop: 0.0,
            norm_layer: NormLayer::LayerNorm,
            norm_eps: 1e-6,
            scale: None,
        }
    }

    /// The form of the norms.
    pub fn norm(&self) -> NormConfig {
        NormConfig { layer: self.norm_layer, eps: self.norm_eps }
    }
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
    /// The rotation of queries and keys by their positions.
    pub rotation: Option<&'a Rotation>,
    /// Compute only the first n tokens of this block's output; `None`: all.
    pub read: Option<usize>,
}

/// The relative position bias of one block: one of the two, or none.
#[derive(Debug, Default)]
pub struct BlockBias {
    /// Under timm's usual name.
    pub rel_pos: Option<RelPos>,
    /// Under BEiT's name.
    pub table: Option<RelPosBias>,
}

/// `softmax(scale q kᵀ + bias) v`, then a projection. The scale is usually `1 / sqrt(E)`.
#[derive(Module, Debug)]
pub struct Attention {
    /// `D -> 3·A·E`: queries of all heads, then keys, then values.
    pub qkv: Flat<Qkv>,
    /// What is between the projections.
    pub core: Flat<AttentionCore>,
    /// Norm between attention and the output projection, over `A·E`.
    pub norm: Option<LayerNorm>,
    /// `A·E -> D`.
    pub proj: Linear,
    proj_drop: f64,
}

/// Attention without its projections: queries, keys and values `[B, T, 3·A·E]` to what the heads say, `[B, T, A·E]`.
#[derive(Module, Debug)]
pub struct AttentionCore {
    /// Norm of queries, over `E`.
    pub q_norm: Option<LayerNorm>,
    /// Norm of keys, over `E`.
    pub k_norm: Option<LayerNorm>,
    /// This block's relative position bias.
    pub rel_pos: Option<RelPos>,
    /// The same under BEiT's name, `relative_position_bias_table`.
    pub table: Option<Flat<RelPosBias>>,
    /// The difference of two maps for each head, in place of one map.
    pub differential: Option<Flat<Differential>>,
    /// This block's bias, of a prepared model.
    #[module(skip)]
    pub(crate) kept: Kept,
    num_heads: usize,
    scale: f64,
    attn_drop: f64,
}

impl<'a> BlockArgs<'a> {
    /// Arguments of a block that computes all tokens and has no positions but its own.
    pub fn new(grid: [usize; 2]) -> Self {
        Self { grid, shared_bias: None, shared_keys: None, rotation: None, read: None }
    }
}

impl Attention {
    /// An attention layer; `bias` has the relative position bias of this block, if any.
    pub fn new(config: &AttentionConfig, bias: BlockBias, device: &Device) -> Self {
        let inner = config.num_heads * config.head_dim;
        Self {
            qkv: Flat::new(Qkv::new(config, device)),
            core: Flat::new(AttentionCore::new(config, bias, device)),
            norm: config.scale_norm.then(|| config.norm().build(inner, device)),
            proj: Linear::new(inner, config.dim, config.proj_bias, device),
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
        let rounds = self.qkv.rounds_attention(&qkv.device(), qkv.dtype());
        let context = self.core.forward(qkv, args, rounds, watch); // [B, T, A·E]
        match &self.norm {
            Some(norm) => watch.tokens(format_args!("norm"), norm.forward(context)),
            None => context,
        }
    }

    /// [`context`](Attention::context) with attention within windows of a map, `[B, H·W, 3·A·E] -> [B, H·W, A·E]`. A map that
    /// the windows do not fill gets zeros before the projection.
    pub(crate) fn context_in(
        &self,
        qkv: Tensor<3>,
        windows: &Windows,
        watch: &mut dyn Observer,
    ) -> Tensor<3> {
        let core = &self.core;
        let padding = (!windows.divide()).then(|| {
            let d = self.proj.weight.lazy_shape().dims::<2>()[1];
            let nothing = Tensor::zeros([1, 1, d], (&qkv.device(), qkv.dtype()));
            core.normalize(self.qkv.forward(nothing)).flatten::<1>(0, 2) // [3·A·E]
        });
        let (a, scale, qkv) = (core.num_heads, core.scale, core.normalize(qkv));
        let drops = core.attn_drop > 0.0 && training(&qkv);
        if drops || watch.wants_attention(format_args!("weights")) {
            return window_attention_weights(qkv, windows, a, scale, None, padding, core.attn_drop, watch);
        }
        let rounds = self.qkv.rounds_attention(&qkv.device(), qkv.dtype());
        window_attention(qkv, windows, a, scale, None, padding, rounds)
    }
}

impl AttentionCore {
    /// Attention between projections; `bias` has the relative position bias of this block, if any.
    pub(crate) fn new(config: &AttentionConfig, bias: BlockBias, device: &Device) -> Self {
        let AttentionConfig { num_heads, head_dim, .. } = *config;
        let BlockBias { rel_pos, table } = bias;
        let width = if config.differential.is_some() { head_dim / 2 } else { head_dim };
        let head_norm = || config.qk_norm.then(|| config.norm().build(width, device));
        let differential = |weight| Flat::new(Differential::new(num_heads, width, weight, device));
        Self {
            q_norm: head_norm(),
            k_norm: head_norm(),
            rel_pos,
            table: table.map(Flat::new),
            differential: config.differential.map(differential),
            kept: Kept::default(),
            num_heads,
            scale: config.scale.unwrap_or((width as f64).powf(-0.5)),
            attn_drop: config.attn_drop,
        }
    }

    /// `[B, T, 3·A·E] -> [B, T, A·E]`. `rounds` says that products are in bf16.
    pub(crate) fn forward(
        &self,
        qkv: Tensor<3>,
        args: BlockArgs,
        rounds: bool,
        watch: &mut dyn Observer,
    ) -> Tensor<3> {
        let qkv = self.normalize(qkv); // [B, T, 3·A·E]
        let qkv = match args.rotation {
            Some(rotation) => rotation.turn(qkv),
            None => qkv,
        };
        let bias = self.bias(&qkv, args);
        match &self.differential {
            Some(two) => {
                let maps = self.attend(two.heads(qkv), 2 * self.num_heads, bias, args, rounds, watch);
                two.difference(maps)
            }
            None => self.attend(qkv, self.num_heads, bias, args, rounds, watch), // [B, T, A·E]
        }
    }

    /// The bias on the scores, `[1 or B, A, T, T]`: this block's, or that of all blocks, or their sum.
    fn bias(&self, qkv: &Tensor<3>, args: BlockArgs) -> Option<Tensor<4>> {
        let queries = || self.queries(qkv);
        let own = match (&self.rel_pos, &self.table) {
            (Some(RelPos::Keys(keys)), _) => Some(keys.bias(queries())),
            (Some(rel_pos), _) => Some(self.kept.get(args.grid, || rel_pos.bias(args.grid, queries))),
            (None, Some(table)) => Some(self.kept.get(args.grid, || table.bias(args.grid))),
            (None, None) => None,
        };
        let shared = match args.shared_keys {
            Some(keys) => Some(keys.bias(queries())),
            None => args.shared_bias.cloned(),
        };
        match (own, shared) {
            (Some(own), Some(shared)) => Some(own + shared),
            (own, shared) => own.or(shared),
        }
    }

    /// Scaled queries, `[B, A, T, E]`.
    fn queries(&self, qkv: &Tensor<3>) -> Tensor<4> {
        let ([b, t, d3], a) = (qkv.dims(), self.num_heads);
        let e = d3 / 3 / a;
        let queries = qkv.clone().narrow(2, 0, d3 / 3).reshape([b, t, a, e]).swap_dims(1, 2);
        queries * self.scale
    }

    /// Attention by `a` heads of the tokens that are read. Fused, unless the observer wants the weights or dropout acts on
    /// them.
    fn attend(
        &self,
        qkv: Tensor<3>,
        a: usize,
        bias: Option<Tensor<4>>,
        BlockArgs { read, grid, .. }: BlockArgs,
        rounds: bool,
        watch: &mut dyn Observer,
    ) -> Tensor<3> {
        let [b, t, d3] = qkv.dims();
        let (d, scale) = (d3 / 3, self.scale);
        let read = read.unwrap_or(t);
        let drops = self.attn_drop > 0.0 && training(&qkv);
        let fuses = !drops && !watch.wants_attention(format_args!("weights"));
        if fuses && rounds {
            return vitrum_kernels::attention_bf16(qkv, read, a, scale, bias);
        }
        if fuses {
            return vitrum_kernels::attention_of_first(qkv, read, a, scale, bias);
        }
        let weights = vitrum_kernels::attention_weights(qkv.clone(), a, scale, bias); // [B, A, T, T]
        let sites = AttentionSites::Tokens { prefix: t.saturating_sub(grid[0] * grid[1]), grid };
        let weights = watch.attention(format_args!("weights"), weights, &sites);
        let v = qkv.narrow(2, 2 * d, d).reshape([b, t, a, d / a]).swap_dims(1, 2); // [B, A, T, E]
        let weights = dropout(weights, self.attn_drop).narrow(2, 0, read);
        weights.matmul(v).swap_dims(1, 2).reshape([b, read, d])
    }

    /// Norms queries and keys head by head; the shape `[B, T, 3·A·E]` stays.
    fn normalize(&self, qkv: Tensor<3>) -> Tensor<3> {
        let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) else { return qkv };
        let [b, t, d3] = qkv.dims();
        let heads = |part: usize, e: usize| {
            let x = qkv.clone().narrow(2, part * d3 / 3, d3 / 3);
            x.reshape([b, t, d3 / 3 / e, e]) // [B, T, A, E]
        };
        let q = q_norm.forward(heads(0, q_norm.width())).reshape([b, t, d3 / 3]);
        let k = k_norm.forward(heads(1, k_norm.width())).reshape([b, t, d3 / 3]);
        Tensor::cat(vec![q, k, qkv.clone().narrow(2, 2 * d3 / 3, d3 / 3)], 2)
    }
}
