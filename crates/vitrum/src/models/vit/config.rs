//! The options of the plain Vision Transformer.

use serde::{Deserialize, Serialize};

use super::{Activation, GlobalPool, PosEmbed, PosResize, WeightInit};
use crate::layers::attention::{AttentionConfig, AttnLayer};
use crate::layers::block::{BlockConfig, BlockFn, BlockNorm, Gains, NormPlace};
use crate::layers::differential::Differential;
use crate::layers::init::BlockInit;
use crate::layers::mlp::{MlpConfig, MlpLayer};
use crate::layers::norm::{NormConfig, NormLayer};
use crate::layers::patch_embed::PatchEmbedConfig;
use crate::layers::position::PositionConfig;
use crate::layers::qkv::QkvForm;
use crate::layers::rope::RopeConfig;
use crate::models::ConfigError;
use crate::models::limits::{
    MAX_CHANNELS, MAX_CLASSES, MAX_DEPTH, MAX_REGISTERS, MAX_SIDE, MAX_WIDTH, check_eps, check_ranges,
    check_rates, refuse,
};

/// How a Vision Transformer is built. Field names and meanings are timm's (`VisionTransformer`); the letters are
/// the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VitConfig {
    /// Height and width of the image, in pixels.
    pub img_size: [usize; 2],
    /// `P`: height and width of a patch, in pixels.
    pub patch_size: [usize; 2],
    /// `C`: channels of the image.
    pub in_chans: usize,
    /// `K`: classes; 0 means no head: the logits are the pooled features.
    pub num_classes: usize,
    /// `D`: width of a token.
    pub embed_dim: usize,
    /// `L`: number of blocks.
    pub depth: usize,
    /// `A`: heads of attention.
    pub num_heads: usize,
    /// `F / D`: width of the MLP over width of a token; `F = floor(D * mlp_ratio)`.
    pub mlp_ratio: f64,
    /// Bias on the query, key, value projection.
    pub qkv_bias: bool,
    /// A norm on queries and keys, per head (keys `attn.q_norm`, `attn.k_norm`).
    pub qk_norm: bool,
    /// A norm between attention and its output projection (sub-LN, arXiv:2210.06423; key `attn.norm`).
    pub scale_attn_norm: bool,
    /// A norm of the MLP's hidden layer (key `mlp.norm`).
    pub scale_mlp_norm: bool,
    /// Bias on the output projections of attention and MLP.
    pub proj_bias: bool,
    /// First value of LayerScale (`ls1.gamma`, `ls2.gamma`); `None`: no LayerScale. With `res_post_norm` there is
    /// no LayerScale, and this is the first value of the norms' weights.
    pub init_values: Option<f64>,
    /// How the branches of a block stand to each other. The parallel forms have their own keys, and no positions on the
    /// scores; `parallel_scaling_block` and `diff_parallel_scaling_block` no norms within the branches and a plain MLP.
    pub block_fn: BlockFn,
    /// One map for each head (`attn`), or the difference of two (`diff`, arXiv:2410.05258).
    pub attn_layer: AttnLayer,
    /// Norms at the end of the residual branches instead of before them (Swin v2; timm `block_fn` `ResPostBlock`).
    pub res_post_norm: bool,
    /// Norms after the sums of branch and residual (`post`; torch `TransformerEncoderLayer(norm_first=False)`) instead of
    /// within the branches (`pre`). No option of timm's.
    pub block_norm: BlockNorm,
    /// `E`: width of a head; `None`: `D / A`. No option of timm's `VisionTransformer`.
    pub attn_head_dim: Option<usize>,
    /// A norm on the pixels of each patch, before the projection (arXiv:2302.01327; key `patch_embed.norm_pixels`). No
    /// option of timm's.
    pub patch_norm: bool,
    /// A norm on the projected patches (timm `embed_norm_layer`; key `patch_embed.norm`).
    pub embed_norm: bool,
    /// A learned class token in front of the patches.
    pub class_token: bool,
    /// Number of register tokens (arXiv:2309.16588), after the class token.
    pub reg_tokens: usize,
    /// Position encoding.
    pub pos_embed: PosEmbed,
    /// Blocks after which the positions `cpe` act, in rising order; the I-th has the key `pos_block.I`. Other positions
    /// do not read this.
    pub cpe_blocks: Vec<usize>,
    /// Hidden width of the MLP of `rel_mlp` and `rel_mlp_shared`; `None`: 128, as in timm.
    pub rel_pos_dim: Option<usize>,
    /// Position table without rows for class and register tokens (DeiT-III, big_vision).
    pub no_embed_class: bool,
    /// A norm before the blocks, patch projection without bias (CLIP).
    pub pre_norm: bool,
    /// A norm after the blocks (`norm`), before pooling. Ignored if `fc_norm` replaces it.
    pub final_norm: bool,
    /// A norm after pooling (`fc_norm`) instead of before; `None`: with average and max pooling, as in timm.
    pub fc_norm: Option<bool>,
    /// How tokens are pooled to one vector.
    pub global_pool: GlobalPool,
    /// Pool over class and register tokens too.
    pub pool_include_prefix: bool,
    /// `Linear(D, R)` and tanh between pooling and head (paper section 3.1; key `pre_logits.fc`); the value is `R`.
    pub representation_size: Option<usize>,
    /// The form of the MLP. With `swiglu_packed`, `F` is the width of both hidden layers together, as in timm.
    pub mlp_layer: MlpLayer,
    /// Non-linearity of the MLP.
    pub act_layer: Activation,
    /// The form of every norm.
    pub norm_layer: NormLayer,
    /// Epsilon of every norm.
    pub norm_eps: f64,
    /// How a position table is resized to another grid.
    pub pos_resize: PosResize,
    /// Dropout before the head.
    pub drop_rate: f64,
    /// Dropout after adding positions.
    pub pos_drop_rate: f64,
    /// Share of patches left out in training (arXiv:2212.00794).
    pub patch_drop_rate: f64,
    /// Dropout after the projections of attention and MLP.
    pub proj_drop_rate: f64,
    /// Dropout on attention weights.
    pub attn_drop_rate: f64,
    /// Stochastic depth of the last block; it grows linearly from 0 at the first.
    pub drop_path_rate: f64,
    /// The initialisation of a fresh model.
    pub weight_init: WeightInit,
    /// Number of tokens that a derived family adds between class and register tokens. Not stored in files.
    #[serde(skip)]
    #[doc(hidden)]
    pub more_tokens: usize,
    /// What a derived family does in another way. Not stored in files.
    #[serde(skip)]
    #[doc(hidden)]
    pub derived: Derived,
}

/// What families derived from the Vision Transformer do in another way than timm's class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Derived {
    /// How queries, keys and values come from tokens.
    pub qkv: QkvForm,
    /// Whether gains are `gamma_1` and `gamma_2` instead of `ls1.gamma` and `ls2.gamma`.
    pub gains_are_vectors: bool,
    /// Whether only attention has a gain.
    pub gain_on_attention_only: bool,
    /// Heads of keys and values in each block; none: `A` everywhere.
    pub kv_heads: Vec<usize>,
    /// A table of relative biases for each block, under BEiT's name, beside `pos_embed`.
    pub block_table: bool,
    /// A table of relative biases for all blocks, under BEiT's name, beside `pos_embed`.
    pub shared_table: bool,
    /// How tables of relative biases are resized, if not like positions.
    pub bias_resize: Option<PosResize>,
    /// Whether a norm follows the blocks (`norm`) although another follows pooling (`fc_norm`).
    pub two_norms: bool,
    /// Rotations of queries and keys.
    pub rope: Option<RopeConfig>,
    /// `F`, if it does not follow from `mlp_ratio`.
    pub mlp_hidden_dim: Option<usize>,
    /// Attention pooling, if it does not follow from the blocks.
    pub attn_pool: Option<PoolConfig>,
    /// Whether gates of an MLP begin like other weights; else they begin open.
    pub gates_begin_small: bool,
}

/// How attention pooling is built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolConfig {
    /// Heads.
    pub num_heads: usize,
    /// Hidden width of the MLP.
    pub hidden: usize,
    /// Non-linearity of the MLP.
    pub act: Activation,
}

impl Default for VitConfig {
    /// ViT-B/16 at 224 pixels, 1000 classes.
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            patch_size: [16, 16],
            in_chans: 3,
            num_classes: 1000,
            embed_dim: 768,
            depth: 12,
            num_heads: 12,
            mlp_ratio: 4.0,
            qkv_bias: true,
            qk_norm: false,
            scale_attn_norm: false,
            scale_mlp_norm: false,
            proj_bias: true,
            init_values: None,
            block_fn: BlockFn::Block,
            attn_layer: AttnLayer::Attn,
            res_post_norm: false,
            block_norm: BlockNorm::Pre,
            attn_head_dim: None,
            patch_norm: false,
            embed_norm: false,
            class_token: true,
            reg_tokens: 0,
            pos_embed: PosEmbed::Learn,
            cpe_blocks: vec![0],
            rel_pos_dim: None,
            no_embed_class: false,
            pre_norm: false,
            final_norm: true,
            fc_norm: None,
            global_pool: GlobalPool::Token,
            pool_include_prefix: false,
            representation_size: None,
            mlp_layer: MlpLayer::Mlp,
            act_layer: Activation::Gelu,
            norm_layer: NormLayer::LayerNorm,
            norm_eps: 1e-6,
            pos_resize: PosResize::BicubicAntialias,
            drop_rate: 0.0,
            pos_drop_rate: 0.0,
            patch_drop_rate: 0.0,
            proj_drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
            weight_init: WeightInit::Timm,
            more_tokens: 0,
            derived: Derived::default(),
        }
    }
}

impl VitConfig {
    /// Rows and columns of patches, `[H / P, W / P]`.
    pub fn grid(&self) -> [usize; 2] {
        [self.img_size[0] / self.patch_size[0], self.img_size[1] / self.patch_size[1]]
    }

    /// Number of class, register and derived tokens in front of the patches.
    pub fn num_prefix_tokens(&self) -> usize {
        usize::from(self.class_token) + self.more_tokens + self.reg_tokens
    }

    /// `F`: width of the MLP, as timm counts it.
    pub fn mlp_hidden_dim(&self) -> usize {
        self.derived.mlp_hidden_dim.unwrap_or((self.embed_dim as f64 * self.mlp_ratio) as usize)
    }

    /// The form of every norm.
    pub fn norm(&self) -> NormConfig {
        NormConfig { layer: self.norm_layer, eps: self.norm_eps }
    }

    /// Whether a head has the difference of two maps.
    pub fn has_differential(&self) -> bool {
        self.attn_layer == AttnLayer::Diff || self.block_fn == BlockFn::DiffParallelScalingBlock
    }

    /// Heads of keys and values in block `index`.
    pub fn kv_heads(&self, index: usize) -> usize {
        self.derived.kv_heads.get(index).copied().unwrap_or(self.num_heads)
    }

    /// The MLP of a block.
    pub(super) fn mlp(&self) -> MlpConfig {
        let hidden = self.mlp_hidden_dim();
        MlpConfig {
            layer: self.mlp_layer,
            hidden: if self.mlp_layer == MlpLayer::SwigluPacked { hidden / 2 } else { hidden },
            act: self.act_layer,
            norm: self.scale_mlp_norm,
        }
    }

    /// Attention pooling.
    pub(super) fn attn_pool(&self) -> PoolConfig {
        let (num_heads, hidden, act) = (self.num_heads, self.mlp_hidden_dim(), self.act_layer);
        self.derived.attn_pool.unwrap_or(PoolConfig { num_heads, hidden, act })
    }

    /// Whether the scores have biases by offset.
    pub(super) fn has_relative_bias(&self) -> bool {
        self.pos_embed.is_relative() || self.derived.block_table || self.derived.shared_table
    }

    /// Whether the norm is after pooling (`fc_norm`) instead of before (`norm`).
    pub fn use_fc_norm(&self) -> bool {
        self.fc_norm
            .unwrap_or(matches!(self.global_pool, GlobalPool::Avg | GlobalPool::Max | GlobalPool::Avgmax))
    }

    /// Rows of the position table that belong to class and register tokens.
    pub fn prefix_rows(&self) -> usize {
        if self.no_embed_class { 0 } else { self.num_prefix_tokens() }
    }

    /// Hidden width of the MLP for a relative bias.
    pub fn rel_pos_dim(&self) -> usize {
        self.rel_pos_dim.unwrap_or(128)
    }

    /// Whether the branches have gains (LayerScale).
    pub fn has_layer_scale(&self) -> bool {
        self.init_values.is_some() && !self.res_post_norm
    }

    /// `E`: width of a head.
    pub fn head_dim(&self) -> usize {
        self.attn_head_dim.unwrap_or(self.embed_dim / self.num_heads)
    }

    /// Where the norms of the blocks stand.
    pub fn norms(&self) -> NormPlace {
        match self.block_norm {
            BlockNorm::Post => NormPlace::Sum,
            BlockNorm::Pre if self.res_post_norm => NormPlace::Branch,
            BlockNorm::Pre => NormPlace::Before,
        }
    }

    /// Inputs to the blocks' first values.
    pub(crate) fn block_init(&self) -> BlockInit {
        let norm = self.init_values.filter(|_| self.res_post_norm).unwrap_or(1.0);
        let open_gates = if self.derived.gates_begin_small { MlpLayer::Mlp } else { self.mlp_layer };
        BlockInit { layer_scale: self.init_values.unwrap_or(1.0), norm, open_gates }
    }

    /// Whether the norm `norm` follows the blocks.
    pub fn has_norm(&self) -> bool {
        self.final_norm && (!self.use_fc_norm() || self.derived.two_norms)
    }

    /// How tables of relative biases are resized to another grid.
    pub fn bias_resize(&self) -> PosResize {
        self.derived.bias_resize.unwrap_or(self.pos_resize)
    }

    pub(super) fn check_sizes(&self) -> Result<(), ConfigError> {
        let ([h, w], [p, q]) = (self.img_size, self.patch_size);
        let (d, a) = (self.embed_dim, self.num_heads);
        check_ranges([
            ("img_size", h, 1, MAX_SIDE),
            ("img_size", w, 1, MAX_SIDE),
            ("patch_size", p, 1, MAX_SIDE),
            ("patch_size", q, 1, MAX_SIDE),
            ("in_chans", self.in_chans, 1, MAX_CHANNELS),
            ("num_classes", self.num_classes, 0, MAX_CLASSES),
            ("embed_dim", d, 1, MAX_WIDTH),
            ("depth", self.depth, 1, MAX_DEPTH),
            ("num_heads", a, 1, MAX_WIDTH),
            ("attn_head_dim", self.attn_head_dim.unwrap_or(1), 1, MAX_WIDTH),
            ("reg_tokens", self.reg_tokens, 0, MAX_REGISTERS),
            ("rel_pos_dim", self.rel_pos_dim(), 1, MAX_WIDTH),
            ("representation_size", self.representation_size.unwrap_or(1), 1, MAX_WIDTH),
        ])?;
        if self.attn_head_dim.is_none() && !d.is_multiple_of(a) {
            return refuse("embed_dim", format!("{d} is not a multiple of num_heads {a}"));
        }
        if let Some(e) = self.attn_head_dim.filter(|e| e * a > MAX_WIDTH) {
            return refuse("attn_head_dim", format!("is {e}: {a} heads of it are wider than {MAX_WIDTH}"));
        }
        if self.grid().contains(&0) {
            return refuse("img_size", format!("{h}x{w} holds no patch of {p}x{q}"));
        }
        Ok(())
    }

    pub(super) fn check_numbers(&self) -> Result<(), ConfigError> {
        let (ratio, hidden) = (self.mlp_ratio, self.mlp_hidden_dim());
        if !(ratio > 0.0 && ratio <= 64.0 && (1..=MAX_WIDTH).contains(&hidden)) {
            return refuse(
                "mlp_ratio",
                format!("is {ratio}, expected a positive number up to 64 and an MLP 1 to {MAX_WIDTH} wide"),
            );
        }
        check_eps([("norm_eps", self.norm_eps)])?;
        if let Some(value) = self.init_values.filter(|value| !value.is_finite()) {
            return refuse("init_values", format!("is {value}, expected a finite number"));
        }
        check_rates([
            ("drop_rate", self.drop_rate),
            ("pos_drop_rate", self.pos_drop_rate),
            ("patch_drop_rate", self.patch_drop_rate),
            ("proj_drop_rate", self.proj_drop_rate),
            ("attn_drop_rate", self.attn_drop_rate),
            ("drop_path_rate", self.drop_path_rate),
        ])
    }

    pub(super) fn check_parts(&self) -> Result<(), ConfigError> {
        if self.global_pool == GlobalPool::Token && !self.class_token {
            return refuse("global_pool", "`token` needs a class token".into());
        }
        let pool_heads = self.attn_pool().num_heads;
        if self.global_pool == GlobalPool::Map && !self.embed_dim.is_multiple_of(pool_heads) {
            return refuse(
                "embed_dim",
                format!("`map` pools by num_heads {pool_heads}, which do not divide it"),
            );
        }
        if self.mlp_layer == MlpLayer::SwigluPacked && !self.mlp_hidden_dim().is_multiple_of(2) {
            let f = self.mlp_hidden_dim();
            return refuse(
                "mlp_ratio",
                format!("gives an MLP {f} wide, and `swiglu_packed` needs an even width"),
            );
        }
        self.check_blocks()?;
        if self.res_post_norm && self.block_norm == BlockNorm::Post {
            return refuse("block_norm", "`post` and res_post_norm exclude each other".into());
        }
        if matches!(self.pos_embed, PosEmbed::SinCos2dMae | PosEmbed::SinCos2dBigVision)
            && (!self.embed_dim.is_multiple_of(4) || self.embed_dim < 8)
        {
            let d = self.embed_dim;
            return refuse("pos_embed", format!("2-D sin-cos needs an embed_dim of 8, 12, 16, …, found {d}"));
        }
        if self.pos_embed == PosEmbed::Cpe {
            let blocks = &self.cpe_blocks;
            let rise = blocks.windows(2).all(|pair| pair[0] < pair[1]);
            if !rise || blocks.last().is_none_or(|&last| last >= self.depth) {
                let most = self.depth - 1;
                return refuse(
                    "cpe_blocks",
                    format!("is {blocks:?}, expected rising numbers from 0 to {most}"),
                );
            }
        }
        if self.patch_drop_rate > 0.0 && (self.has_relative_bias() || self.pos_embed == PosEmbed::Cpe) {
            let reason = "is not possible with this `pos_embed`, which needs every patch in its place";
            return refuse("patch_drop_rate", reason.into());
        }
        if self.has_relative_bias() && !self.pos_embed.is_key() && self.num_prefix_tokens() > 1 {
            return refuse("pos_embed", "with a relative bias knows one prefix token at most".into());
        }
        Ok(())
    }

    /// What the parallel blocks and differential attention do not have.
    fn check_blocks(&self) -> Result<(), ConfigError> {
        let name = |value: BlockFn| match value {
            BlockFn::Block => "block",
            BlockFn::ParallelScalingBlock => "parallel_scaling_block",
            BlockFn::DiffParallelScalingBlock => "diff_parallel_scaling_block",
            BlockFn::ParallelThingsBlock => "parallel_things_block",
        };
        let is_scaling = self.block_fn.is_scaling();
        let beside = [
            ("res_post_norm", self.res_post_norm),
            ("block_norm", self.block_norm == BlockNorm::Post),
            ("pos_embed", self.has_relative_bias()),
            ("attn_layer", is_scaling && self.attn_layer != AttnLayer::Attn),
            ("mlp_layer", is_scaling && self.mlp_layer != MlpLayer::Mlp),
            ("scale_attn_norm", is_scaling && self.scale_attn_norm),
            ("scale_mlp_norm", is_scaling && self.scale_mlp_norm),
        ];
        if let Some((field, _)) =
            beside.iter().find(|(_, differs)| self.block_fn != BlockFn::Block && *differs)
        {
            return refuse(
                field,
                format!("is not possible in this form with block_fn `{}`", name(self.block_fn)),
            );
        }
        if self.has_differential() && self.has_relative_bias() {
            return refuse("pos_embed", "is not possible on the scores of differential attention".into());
        }
        if self.has_differential() && !self.head_dim().is_multiple_of(2) {
            let e = self.head_dim();
            return refuse("num_heads", format!("gives heads {e} wide; differential attention halves them"));
        }
        Ok(())
    }

    pub(super) fn patch_embed(&self) -> PatchEmbedConfig {
        PatchEmbedConfig {
            in_chans: self.in_chans,
            patch_size: self.patch_size,
            dim: self.embed_dim,
            bias: !self.pre_norm,
            norm_pixels: self.patch_norm,
            norm: self.embed_norm,
            form: self.norm(),
        }
    }

    pub(in crate::models) fn block(&self, index: usize) -> BlockConfig {
        let last = self.depth.saturating_sub(1).max(1) as f64;
        BlockConfig {
            block_fn: self.block_fn,
            attention: AttentionConfig {
                dim: self.embed_dim,
                num_heads: self.num_heads,
                num_kv_heads: self.kv_heads(index),
                differential: self.has_differential().then(|| Differential::lambda_init(index)),
                head_dim: self.head_dim(),
                qkv: self.derived.qkv,
                qkv_bias: self.qkv_bias,
                qk_norm: self.qk_norm,
                scale_norm: self.scale_attn_norm,
                proj_bias: self.proj_bias,
                attn_drop: self.attn_drop_rate,
                proj_drop: self.proj_drop_rate,
                norm_layer: self.norm_layer,
                norm_eps: self.norm_eps,
                scale: None,
            },
            mlp: self.mlp(),
            gains: match (self.has_layer_scale(), self.derived.gains_are_vectors) {
                (false, _) => Gains::None,
                (true, false) => Gains::Modules,
                (true, true) if self.derived.gain_on_attention_only => Gains::AttentionVector,
                (true, true) => Gains::Vectors,
            },
            norms: self.norms(),
            drop_path: self.drop_path_rate * index as f64 / last,
        }
    }

    /// Inputs of the position encoding.
    pub fn position(&self) -> PositionConfig {
        PositionConfig {
            kind: self.pos_embed,
            grid: self.grid(),
            prefix_rows: self.prefix_rows(),
            prefix_tokens: self.num_prefix_tokens(),
            dim: self.embed_dim,
            num_heads: self.num_heads,
            head_dim: self.head_dim(),
            rel_pos_dim: self.rel_pos_dim(),
            resize: self.pos_resize,
            bias_resize: self.bias_resize(),
            block_table: self.derived.block_table,
            shared_table: self.derived.shared_table,
            rope: self.derived.rope,
        }
    }
}
