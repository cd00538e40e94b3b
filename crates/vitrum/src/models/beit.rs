//! BEiT — Bao et al. 2021, "BEiT: BERT pre-training of image transformers", arXiv:2106.08254; BEiT v2 — Peng et al. 2022,
//! arXiv:2208.06366; data2vec for images — Baevski et al. 2022, arXiv:2202.03555.
//!
//! Differences from the plain Vision Transformer ([`vit`](super::vit)):
//!
//! - positions are biases on the attention scores, by the offset of two patches, `softmax(q kᵀ / √E + b) v`: a table for each
//!   block or one for all, `[(2H - 1)(2W - 1) + 3, A]`. The last three rows are for pairs with the class token;
//! - queries and values have a bias, keys have none: it would move all scores of a query alike;
//! - gains on both branches, `z + γ₁ · MSA(LN(z))`, `z + γ₂ · MLP(LN(z))` (CaiT, arXiv:2103.17239);
//! - the head reads the mean over the patches, through a norm.
//!
//! BEiT-3's vision path (arXiv:2208.10442) is a plain Vision Transformer with `scale_attn_norm` and `scale_mlp_norm`.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::network::{Backbone, Chain, Classify, Config, Depth, Features, Input, Inputs, Network, Want};
use super::shapes::Walk;
use super::vit::{
    Activation, Derived, GlobalPool, MlpLayer, PosEmbed, PosResize, Vit, VitConfig, derived_from_vit,
};
use super::{ConfigError, limits::refuse};
use crate::layers::Linear;
use crate::layers::init::{Draw, TABLE};
use crate::layers::names::Flat;
use crate::layers::observe::Observer;
use crate::layers::qkv::QkvForm;

/// How a BEiT is built. Field names and meanings are timm's (`Beit`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BeitConfig {
    /// Height and width of the image, in pixels.
    pub img_size: [usize; 2],
    /// `P`: height and width of a patch, in pixels.
    pub patch_size: [usize; 2],
    /// `C`: channels of the image.
    pub in_chans: usize,
    /// `K`: classes; 0 means no head: the logits are the pooled features.
    pub num_classes: usize,
    /// `avg`, the mean over the patches, or `token`, the class token.
    pub global_pool: GlobalPool,
    /// `D`: width of a token.
    pub embed_dim: usize,
    /// `L`: number of blocks.
    pub depth: usize,
    /// `A`: heads of attention.
    pub num_heads: usize,
    /// Bias on queries and values.
    pub qkv_bias: bool,
    /// `F / D`: width of the MLP over width of a token.
    pub mlp_ratio: f64,
    /// SwiGLU instead of the MLP (keys `mlp.fc1_g`, `mlp.fc1_x`, `mlp.fc2`).
    pub swiglu_mlp: bool,
    /// LayerNorm of the MLP's hidden layer (key `mlp.norm`).
    pub scale_mlp: bool,
    /// First value of the gains (`gamma_1`, `gamma_2`); `None` or 0: no gains.
    pub init_values: Option<f64>,
    /// A learned table of positions, added to the tokens (key `pos_embed`).
    pub use_abs_pos_emb: bool,
    /// A table of relative biases for each block.
    pub use_rel_pos_bias: bool,
    /// A table of relative biases for all blocks (key `rel_pos_bias.relative_position_bias_table`).
    pub use_shared_rel_pos_bias: bool,
    /// Factor on the head's first weights; 0 means none.
    pub head_init_scale: f64,
    /// The last norm after pooling (`fc_norm`) instead of before (`norm`); `None`: with `avg`.
    pub use_fc_norm: Option<bool>,
    /// Non-linearity of the MLP. timm's is always GELU.
    pub act_layer: Activation,
    /// Epsilon of every LayerNorm.
    pub norm_eps: f64,
    /// How a table of positions is resized to another grid.
    pub pos_resize: PosResize,
    /// How tables of relative biases are resized: `bicubic_antialias` means timm's geometric spacing; `None`: as
    /// `pos_resize`.
    pub bias_resize: Option<PosResize>,
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

impl Default for BeitConfig {
    /// The defaults of timm's `Beit`.
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
            qkv_bias: true,
            mlp_ratio: 4.0,
            swiglu_mlp: false,
            scale_mlp: false,
            init_values: None,
            use_abs_pos_emb: true,
            use_rel_pos_bias: false,
            use_shared_rel_pos_bias: false,
            head_init_scale: 0.001,
            use_fc_norm: None,
            act_layer: Activation::Gelu,
            norm_eps: 1e-6,
            pos_resize: PosResize::BicubicAntialias,
            bias_resize: None,
            drop_rate: 0.0,
            pos_drop_rate: 0.0,
            proj_drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
        }
    }
}

impl BeitConfig {
    /// The Vision Transformer with BEiT's options.
    pub fn encoder(&self) -> VitConfig {
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
            scale_mlp_norm: self.scale_mlp,
            init_values: self.init_values.filter(|value| *value != 0.0),
            pos_embed: if self.use_abs_pos_emb { PosEmbed::Learn } else { PosEmbed::None },
            fc_norm: Some(self.has_fc_norm()),
            global_pool: self.global_pool,
            mlp_layer: if self.swiglu_mlp { MlpLayer::Swiglu } else { MlpLayer::Mlp },
            act_layer: if self.swiglu_mlp { Activation::Silu } else { self.act_layer },
            norm_eps: self.norm_eps,
            pos_resize: self.pos_resize,
            drop_rate: self.drop_rate,
            pos_drop_rate: self.pos_drop_rate,
            proj_drop_rate: self.proj_drop_rate,
            attn_drop_rate: self.attn_drop_rate,
            drop_path_rate: self.drop_path_rate,
            derived: Derived {
                qkv: QkvForm::FusedWithoutKeyBias,
                gains_are_vectors: true,
                block_table: self.use_rel_pos_bias,
                shared_table: self.use_shared_rel_pos_bias,
                gates_begin_small: true,
                bias_resize: self.bias_resize,
                ..Derived::default()
            },
            ..VitConfig::default()
        }
    }

    /// Whether the last norm is after pooling (`fc_norm`) instead of before (`norm`).
    pub fn has_fc_norm(&self) -> bool {
        self.use_fc_norm.unwrap_or(self.global_pool == GlobalPool::Avg)
    }
}

/// A BEiT. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Beit {
    /// The Vision Transformer inside.
    pub vit: Flat<Vit>,
    #[module(skip)]
    config: BeitConfig,
}

impl Beit {
    /// How this model is built.
    pub fn config(&self) -> &BeitConfig {
        &self.config
    }

    /// timm's `no_weight_decay`.
    fn is_decayed(&self, key: &str) -> bool {
        !key.ends_with("relative_position_bias_table") && self.vit.decays(key)
    }
}

derived_from_vit!(Beit);

impl Config for BeitConfig {
    type Model = Beit;

    fn validate(&self) -> Result<(), ConfigError> {
        if !matches!(self.global_pool, GlobalPool::Avg | GlobalPool::Token) {
            return refuse("global_pool", "of a BEiT is `avg` or `token`".into());
        }
        check_head_scale(self.head_init_scale)?;
        self.encoder().validate()
    }

    fn build(&self, device: &Device) -> Beit {
        Beit { vit: Flat::new(self.encoder().build(device)), config: self.clone() }
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

/// Refuses a factor on the head's first weights outside 0 to 1.
pub(super) fn check_head_scale(scale: f64) -> Result<(), ConfigError> {
    match (0.0..=1.0).contains(&scale) {
        true => Ok(()),
        false => refuse("head_init_scale", format!("is {scale}, expected 0 to 1")),
    }
}

/// First values as in timm's `Beit` and `Eva`: output layers of block `i` (from 0) are divided by `√(2 (i + 1))`, weights of
/// the head multiplied by a factor, and tokens drawn like positions.
pub(super) fn first_value(
    encoder: &VitConfig,
    head_init_scale: f64,
    key: &str,
    shape: &[usize],
) -> Option<Draw> {
    let scaled = |draw: Draw, by: f64| match draw {
        Draw::Truncated(deviation, cut) => Draw::Truncated(deviation * by, cut),
        other => other,
    };
    if matches!(key, "cls_token" | "reg_token") {
        return Some(TABLE);
    }
    let draw = encoder.first(key, shape)?;
    if key == "head.weight" && head_init_scale != 0.0 {
        return Some(scaled(draw, head_init_scale));
    }
    let block = key.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    match block {
        Some((index, "attn.proj.weight" | "mlp.fc2.weight")) => {
            let index: u32 = index.parse().ok()?;
            Some(scaled(draw, (2.0 * (f64::from(index) + 1.0)).powf(-0.5)))
        }
        _ => Some(draw),
    }
}
