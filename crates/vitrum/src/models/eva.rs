//! EVA — Fang et al. 2022, arXiv:2211.07636; EVA-02 — Fang et al. 2023, arXiv:2303.11331; Vision Transformers with rotary
//! positions — Heo et al. 2024, arXiv:2403.13298; DINOv3 — Siméoni et al. 2025, arXiv:2508.10104; Perception Encoder —
//! Bolya et al. 2025, arXiv:2504.13181; Sapiens2 — Khirodkar et al. 2026, arXiv:2604.21681.
//!
//! Differences from BEiT ([`beit`](super::beit)):
//!
//! - queries and keys turn by an angle for each row and column of the grid: `softmax(R q (R k)ᵀ / √E) v`
//!   ([`rope`](crate::layers::rope)), with or without a table of positions;
//! - the MLP may be a SwiGLU, `W₃ (silu(W₁ z) · W₂ z)`;
//! - a norm may stand within attention and within the MLP (sub-LN, arXiv:2210.06423);
//! - queries, keys and values may be three products;
//! - groups of queries may share their keys and values (arXiv:2305.13245), and norms may be RMSNorm (arXiv:1910.07467);
//! - class token, registers, attention pooling, and norms before the blocks or at the end of the branches are options.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::beit::{check_head_scale, first_value};
use super::limits::{MAX_DEPTH, MAX_REGISTERS, MAX_SIDE, MAX_WIDTH, check_ranges, refuse};
use super::network::{Backbone, Chain, Classify, Config, Depth, Features, Input, Inputs, Network, Want};
use super::shapes::Walk;
use super::vit::{
    Activation, Derived, GlobalPool, MlpLayer, NormLayer, PoolConfig, PosEmbed, PosResize, Vit, VitConfig,
    derived_from_vit,
};
use crate::layers::Linear;
use crate::layers::init::Draw;
use crate::layers::names::Flat;
use crate::layers::observe::Observer;
use crate::layers::qkv::QkvForm;
use crate::layers::rope::RopeConfig;
pub use crate::layers::rope::{GridIndexing, RopeType};

/// The form of the projection to queries, keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttnType {
    /// Keys have no bias; a fused product has its biases apart (timm `EvaAttention`).
    #[default]
    Eva,
    /// Keys have a bias like queries and values (timm `AttentionRope`).
    Rope,
}

/// Heads of keys and values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KvHeads {
    /// As many in every block.
    All(usize),
    /// As many in each block, `L` numbers.
    Each(Vec<usize>),
}

/// How an EVA is built. Field names and meanings are timm's (`Eva`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaConfig {
    /// Height and width of the image, in pixels.
    pub img_size: [usize; 2],
    /// `P`: height and width of a patch, in pixels.
    pub patch_size: [usize; 2],
    /// `C`: channels of the image.
    pub in_chans: usize,
    /// `K`: classes; 0 means no head: the logits are the pooled features.
    pub num_classes: usize,
    /// How tokens are pooled to one vector. `token` takes the class token, `map` pools over all tokens, the others over
    /// patches.
    pub global_pool: GlobalPool,
    /// `D`: width of a token.
    pub embed_dim: usize,
    /// `L`: number of blocks.
    pub depth: usize,
    /// `A`: heads of attention.
    pub num_heads: usize,
    /// Heads of keys and values, divisors of `A`: each belongs to a group of queries. `None`: `A`. Fewer need three products
    /// and `attn_type` `rope`.
    pub num_kv_heads: Option<KvHeads>,
    /// Bias on queries and values, and with `attn_type` `rope` on keys.
    pub qkv_bias: bool,
    /// One product for queries, keys and values (key `attn.qkv`) instead of three (`attn.q_proj`, `k_proj`, `v_proj`).
    pub qkv_fused: bool,
    /// A norm on queries and keys, per head.
    pub qk_norm: bool,
    /// `F / D`: width of the MLP over width of a token.
    pub mlp_ratio: f64,
    /// SwiGLU instead of the MLP: one weight for both products (`mlp.fc1`), two (`mlp.fc1_g`, `mlp.fc1_x`) with
    /// `scale_mlp` or `swiglu_align_to`.
    pub swiglu_mlp: bool,
    /// Rounds `F` of a SwiGLU up to a multiple of this number; 0: as it is.
    pub swiglu_align_to: usize,
    /// A norm of the MLP's hidden layer (key `mlp.norm`).
    pub scale_mlp: bool,
    /// A norm between attention and its output projection (key `attn.norm`).
    pub scale_attn_inner: bool,
    /// The form of the projection to queries, keys and values.
    pub attn_type: AttnType,
    /// First value of the gains (`gamma_1`, `gamma_2`); `None`: no gains. With `use_post_norm` there are none.
    pub init_values: Option<f64>,
    /// A gain on attention alone (`gamma_1`).
    pub attn_only_layer_scale: bool,
    /// A learned class token in front of the patches.
    pub class_token: bool,
    /// Number of register tokens, after the class token.
    pub num_reg_tokens: usize,
    /// Position table without rows for class and register tokens.
    pub no_embed_class: bool,
    /// A learned table of positions, added to the tokens (key `pos_embed`).
    pub use_abs_pos_emb: bool,
    /// Rotary positions.
    pub use_rot_pos_emb: bool,
    /// Where the frequencies of rotary positions come from.
    pub rope_type: RopeType,
    /// Added to the number of every row and column; not with `mixed`.
    pub rope_grid_offset: f64,
    /// The order of the axes: rows first (`ij`) or columns first (`xy`).
    pub rope_grid_indexing: GridIndexing,
    /// Base of the frequencies.
    pub rope_temperature: f64,
    /// Whether a pair of numbers that turn together is `i` and `i + E / 2`; else it is `2i` and `2i + 1`.
    pub rope_rotate_half: bool,
    /// Rows and columns to which places are scaled, with `rope_type` `cat`; `None`: not scaled.
    pub ref_feat_shape: Option<[usize; 2]>,
    /// Norms at the end of the branches instead of before them.
    pub use_post_norm: bool,
    /// A norm before the blocks, patch projection without bias (key `norm_pre`).
    pub use_pre_transformer_norm: bool,
    /// A norm after the blocks (`norm`), perhaps beside `fc_norm`; `None`: only without `fc_norm`.
    pub use_post_transformer_norm: Option<bool>,
    /// A norm after pooling (`fc_norm`); `None`: with `avg`.
    pub use_fc_norm: Option<bool>,
    /// Heads of attention pooling; `None`: `num_heads`.
    pub attn_pool_num_heads: Option<usize>,
    /// `mlp_ratio` of attention pooling; `None`: that of the blocks.
    pub attn_pool_mlp_ratio: Option<f64>,
    /// Factor on the head's first weights; 0 means none.
    pub head_init_scale: f64,
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
    /// Dropout after the projections of attention and MLP.
    pub proj_drop_rate: f64,
    /// Dropout on attention weights.
    pub attn_drop_rate: f64,
    /// Stochastic depth of the last block; it grows linearly from 0 at the first.
    pub drop_path_rate: f64,
}

impl Default for EvaConfig {
    /// The defaults of timm's `Eva`.
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            patch_size: [16, 16],
            in_chans: 3,
            num_classes: 1000,
            global_pool: GlobalPool::Avg,
            embed_dim: 768,
            depth: 12,
            num_heads: 12,
            num_kv_heads: None,
            qkv_bias: true,
            qkv_fused: true,
            qk_norm: false,
            mlp_ratio: 4.0,
            swiglu_mlp: false,
            swiglu_align_to: 0,
            scale_mlp: false,
            scale_attn_inner: false,
            attn_type: AttnType::Eva,
            init_values: None,
            attn_only_layer_scale: false,
            class_token: true,
            num_reg_tokens: 0,
            no_embed_class: false,
            use_abs_pos_emb: true,
            use_rot_pos_emb: false,
            rope_type: RopeType::Cat,
            rope_grid_offset: 0.0,
            rope_grid_indexing: GridIndexing::Ij,
            rope_temperature: 10000.0,
            rope_rotate_half: false,
            ref_feat_shape: None,
            use_post_norm: false,
            use_pre_transformer_norm: false,
            use_post_transformer_norm: None,
            use_fc_norm: None,
            attn_pool_num_heads: None,
            attn_pool_mlp_ratio: None,
            head_init_scale: 0.001,
            norm_layer: NormLayer::LayerNorm,
            norm_eps: 1e-6,
            pos_resize: PosResize::BicubicAntialias,
            drop_rate: 0.0,
            pos_drop_rate: 0.0,
            proj_drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
        }
    }
}

impl EvaConfig {
    /// The Vision Transformer with EVA's options.
    pub fn encoder(&self) -> VitConfig {
        let map = self.global_pool == GlobalPool::Map;
        let [fc_norm, norm] = self.norms();
        let mlp_layer = self.mlp_layer();
        VitConfig {
            img_size: self.img_size,
            patch_size: self.patch_size,
            in_chans: self.in_chans,
            num_classes: self.num_classes,
            embed_dim: self.embed_dim,
            depth: self.depth,
            num_heads: self.num_heads,
            mlp_ratio: self.mlp_ratio,
            qkv_bias: self.qkv_bias,
            qk_norm: self.qk_norm,
            scale_attn_norm: self.scale_attn_inner,
            scale_mlp_norm: self.scale_mlp,
            init_values: self.init_values.filter(|_| !self.use_post_norm),
            res_post_norm: self.use_post_norm,
            class_token: self.class_token,
            reg_tokens: self.num_reg_tokens,
            pos_embed: if self.use_abs_pos_emb { PosEmbed::Learn } else { PosEmbed::None },
            no_embed_class: self.no_embed_class,
            pre_norm: self.use_pre_transformer_norm,
            final_norm: fc_norm || norm,
            fc_norm: Some(fc_norm),
            global_pool: self.global_pool,
            pool_include_prefix: map,
            mlp_layer,
            act_layer: if self.swiglu_mlp { Activation::Silu } else { Activation::Gelu },
            norm_layer: self.norm_layer,
            norm_eps: self.norm_eps,
            pos_resize: self.pos_resize,
            drop_rate: self.drop_rate,
            pos_drop_rate: self.pos_drop_rate,
            proj_drop_rate: self.proj_drop_rate,
            attn_drop_rate: self.attn_drop_rate,
            drop_path_rate: self.drop_path_rate,
            derived: Derived {
                qkv: match (self.qkv_fused, self.attn_type) {
                    (true, AttnType::Eva) => QkvForm::FusedWithoutKeyBias,
                    (true, AttnType::Rope) => QkvForm::Fused,
                    (false, AttnType::Eva) => QkvForm::SeparateWithoutKeyBias,
                    (false, AttnType::Rope) => QkvForm::Separate,
                },
                gains_are_vectors: true,
                gain_on_attention_only: self.attn_only_layer_scale,
                kv_heads: self.kv_heads(),
                rope: self.rope(),
                mlp_hidden_dim: Some(self.mlp_hidden_dim()),
                attn_pool: Some(self.attn_pool()),
                gates_begin_small: true,
                two_norms: fc_norm && norm,
                ..Derived::default()
            },
            ..VitConfig::default()
        }
    }

    /// Heads of keys and values in each block.
    fn kv_heads(&self) -> Vec<usize> {
        match &self.num_kv_heads {
            Some(KvHeads::Each(heads)) => heads.clone(),
            Some(KvHeads::All(heads)) => vec![*heads; self.depth.min(MAX_DEPTH)],
            None => Vec::new(),
        }
    }

    fn check_kv_heads(&self) -> Result<(), ConfigError> {
        let field = "num_kv_heads";
        let heads = self.kv_heads();
        if matches!(self.num_kv_heads, Some(KvHeads::Each(_))) && heads.len() != self.depth {
            return refuse(field, format!("has {} numbers for {} blocks", heads.len(), self.depth));
        }
        let divides = |heads: &&usize| **heads == 0 || !self.num_heads.is_multiple_of(**heads);
        if let Some(heads) = heads.iter().find(divides) {
            return refuse(field, format!("is {heads}, expected a divisor of num_heads {}", self.num_heads));
        }
        let is_grouped = heads.iter().any(|heads| *heads != self.num_heads);
        if is_grouped && (self.qkv_fused || self.attn_type != AttnType::Rope) {
            return refuse(field, "below num_heads needs qkv_fused=false and attn_type=rope".into());
        }
        if is_grouped && self.use_rot_pos_emb && self.rope_type == RopeType::Mixed {
            return refuse(field, "below num_heads is not possible with rope_type `mixed`".into());
        }
        if self.use_post_norm && self.num_kv_heads.is_some() {
            return refuse(field, "is not possible with use_post_norm".into());
        }
        Ok(())
    }

    /// Whether a norm is after pooling, and whether one is before.
    pub fn norms(&self) -> [bool; 2] {
        let after = self.use_fc_norm.unwrap_or(self.global_pool == GlobalPool::Avg);
        [after, self.use_post_transformer_norm.unwrap_or(!after)]
    }

    fn mlp_layer(&self) -> MlpLayer {
        match (self.swiglu_mlp, self.separates_mlp()) {
            (false, _) => MlpLayer::Mlp,
            (true, true) => MlpLayer::Swiglu,
            (true, false) => MlpLayer::SwigluPacked,
        }
    }

    /// Whether a SwiGLU has two weights.
    fn separates_mlp(&self) -> bool {
        self.scale_mlp || self.swiglu_align_to > 0 && !self.use_post_norm
    }

    /// Width of the MLP, of a SwiGLU in one weight that of both halves.
    fn mlp_hidden_dim(&self) -> usize {
        let hidden = (self.embed_dim as f64 * self.mlp_ratio) as usize;
        match self.mlp_layer() {
            MlpLayer::Mlp => hidden,
            MlpLayer::SwigluPacked => hidden.saturating_mul(2),
            MlpLayer::Swiglu if self.swiglu_align_to == 0 => hidden,
            MlpLayer::Swiglu => hidden.checked_next_multiple_of(self.swiglu_align_to).unwrap_or(usize::MAX),
        }
    }

    /// Attention pooling. Its MLP has no gate, even if those of the blocks have one.
    fn attn_pool(&self) -> PoolConfig {
        let ratio = self.attn_pool_mlp_ratio.unwrap_or(self.mlp_ratio);
        PoolConfig {
            num_heads: self.attn_pool_num_heads.unwrap_or(self.num_heads),
            hidden: (self.embed_dim as f64 * ratio) as usize,
            act: Activation::Gelu,
        }
    }

    fn rope(&self) -> Option<RopeConfig> {
        self.use_rot_pos_emb.then(|| RopeConfig {
            kind: self.rope_type,
            depth: self.depth,
            num_heads: self.num_heads,
            head_dim: self.embed_dim / self.num_heads.max(1),
            prefix_tokens: usize::from(self.class_token) + self.num_reg_tokens,
            temperature: self.rope_temperature,
            grid_offset: self.rope_grid_offset,
            indexing: self.rope_grid_indexing,
            rotate_half: self.rope_rotate_half,
            reference: self.ref_feat_shape,
        })
    }

    fn check_rope(&self) -> Result<(), ConfigError> {
        let head = self.embed_dim / self.num_heads.max(1);
        if !head.is_multiple_of(4) || head == 0 {
            return refuse(
                "num_heads",
                format!("gives heads {head} wide; rotary positions need a multiple of 4"),
            );
        }
        if self.rope_type == RopeType::Mixed && self.rope_rotate_half {
            return refuse("rope_rotate_half", "is not possible with rope_type `mixed`".into());
        }
        if !(self.rope_temperature.is_finite() && self.rope_temperature > 0.0) {
            return refuse(
                "rope_temperature",
                format!("is {}, expected a positive number", self.rope_temperature),
            );
        }
        if !self.rope_grid_offset.is_finite() {
            return refuse("rope_grid_offset", format!("is {}, expected a number", self.rope_grid_offset));
        }
        let [rows, columns] = self.ref_feat_shape.unwrap_or([1, 1]);
        check_ranges([("ref_feat_shape", rows, 1, MAX_SIDE), ("ref_feat_shape", columns, 1, MAX_SIDE)])
    }
}

/// An error of the Vision Transformer inside, with EVA's names of the fields.
fn in_evas_words(error: ConfigError) -> ConfigError {
    let ConfigError::Field { field, reason } = error else { return error };
    let field = match field {
        "reg_tokens" => "num_reg_tokens",
        "scale_attn_norm" => "scale_attn_inner",
        "scale_mlp_norm" => "scale_mlp",
        "res_post_norm" => "use_post_norm",
        "pos_embed" => "use_abs_pos_emb",
        "pre_norm" => "use_pre_transformer_norm",
        "final_norm" => "use_post_transformer_norm",
        "fc_norm" => "use_fc_norm",
        "mlp_layer" => "swiglu_mlp",
        "attn_head_dim" => "num_heads",
        same => same,
    };
    ConfigError::Field { field, reason }
}

/// An EVA. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Eva {
    /// The Vision Transformer inside.
    pub vit: Flat<Vit>,
    #[module(skip)]
    config: EvaConfig,
}

impl Eva {
    /// How this model is built.
    pub fn config(&self) -> &EvaConfig {
        &self.config
    }

    /// timm's `no_weight_decay`.
    fn is_decayed(&self, key: &str) -> bool {
        key != "rope.freqs" && self.vit.decays(key)
    }
}

derived_from_vit!(Eva);

impl Config for EvaConfig {
    type Model = Eva;

    fn validate(&self) -> Result<(), ConfigError> {
        check_ranges([
            ("num_reg_tokens", self.num_reg_tokens, 0, MAX_REGISTERS),
            ("attn_pool_num_heads", self.attn_pool_num_heads.unwrap_or(1), 1, MAX_WIDTH),
            ("swiglu_align_to", self.swiglu_align_to, 0, MAX_WIDTH),
        ])?;
        if self.use_post_norm && self.qk_norm {
            return refuse("qk_norm", "is not possible with use_post_norm".into());
        }
        if self.use_post_norm && self.attn_only_layer_scale {
            return refuse("attn_only_layer_scale", "is not possible with use_post_norm".into());
        }
        check_head_scale(self.head_init_scale)?;
        check_ranges([("depth", self.depth, 1, MAX_DEPTH)])?;
        self.check_kv_heads()?;
        let pool_heads = self.attn_pool_num_heads.filter(|_| self.global_pool == GlobalPool::Map);
        if let Some(heads) = pool_heads.filter(|heads| !self.embed_dim.is_multiple_of(*heads)) {
            let reason = format!("is {heads}, expected a divisor of embed_dim {}", self.embed_dim);
            return refuse("attn_pool_num_heads", reason);
        }
        self.encoder().validate().map_err(in_evas_words)?;
        let pool_hidden = self.attn_pool_mlp_ratio.map_or(1, |_| self.attn_pool().hidden);
        check_ranges([("attn_pool_mlp_ratio", pool_hidden, 1, MAX_WIDTH)])?;
        if self.use_rot_pos_emb { self.check_rope() } else { Ok(()) }
    }

    fn build(&self, device: &Device) -> Eva {
        Eva { vit: Flat::new(self.encoder().build(device)), config: self.clone() }
    }

    fn input(&self) -> Input {
        self.encoder().input()
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        self.encoder().walk()
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head"]
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        first_value(&self.encoder(), self.head_init_scale, key, shape)
    }
}
