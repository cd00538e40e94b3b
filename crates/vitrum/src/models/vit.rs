//! Vision Transformer — Dosovitskiy et al. 2020, arXiv:2010.11929.

use serde::{Deserialize, Serialize};

/// How a Vision Transformer is built. Field names and meanings are timm's (`VisionTransformer`), the paper's letters stand in the docs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VitConfig {
    /// Height and width of the image, in pixels.
    pub img_size: [usize; 2],
    /// `P`: height and width of a patch, in pixels.
    pub patch_size: [usize; 2],
    /// `C`: channels of the image.
    pub in_chans: usize,
    /// `K`: classes; 0 leaves out the head, and the logits are the pooled features.
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
    /// LayerNorm on queries and keys, per head (keys `attn.q_norm`, `attn.k_norm`).
    pub qk_norm: bool,
    /// Bias on the output projections of attention and MLP.
    pub proj_bias: bool,
    /// Initial value of LayerScale (`ls1.gamma`, `ls2.gamma`); `None` leaves it out.
    pub init_values: Option<f64>,
    /// A learned class token in front of the patches.
    pub class_token: bool,
    /// Number of register tokens (arXiv:2309.16588), after the class token.
    pub reg_tokens: usize,
    /// Where a token is.
    pub pos_embed: PosEmbed,
    /// Position table without rows for class and register tokens (DeiT-III, big_vision).
    pub no_embed_class: bool,
    /// LayerNorm before the blocks, patch projection without bias (CLIP).
    pub pre_norm: bool,
    /// LayerNorm after the blocks (`norm`), before pooling. Ignored when `fc_norm` takes its place.
    pub final_norm: bool,
    /// LayerNorm after pooling (`fc_norm`) instead of before; `None`: as timm, with average and max pooling.
    pub fc_norm: Option<bool>,
    /// Many tokens to one vector.
    pub global_pool: GlobalPool,
    /// Pool over class and register tokens too.
    pub pool_include_prefix: bool,
    /// `Linear(D, R)` and tanh between pooling and head (paper section 3.1; key `pre_logits.fc`); the value is `R`.
    pub representation_size: Option<usize>,
    /// Non-linearity of the MLP.
    pub act_layer: Activation,
    /// Epsilon of every LayerNorm.
    pub norm_eps: f64,
    /// How a position table is brought to another grid.
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
    /// Stochastic depth of the last block, growing linearly from 0 at the first.
    pub drop_path_rate: f64,
    /// Which initialisation a fresh model gets.
    pub weight_init: WeightInit,
}

/// Position encodings (paper, appendix D.4, and later work).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PosEmbed {
    /// A bag of patches.
    None,
    /// A learned table `[1, N + prefix, D]`, key `pos_embed`.
    #[default]
    Learn,
    /// Learned tables for columns and rows, `D/2` each, keys `pos_embed_x [1, W, D/2]`,
    /// `pos_embed_y [1, H, D/2]` and, with prefix tokens, `pos_embed_prefix [1, prefix, D]`.
    #[serde(rename = "learn_2d")]
    Learn2d,
    /// Fixed 1-D sinusoids (T2T-ViT); row 0 is the class token.
    #[serde(rename = "sincos_1d")]
    SinCos1d,
    /// Fixed 2-D sin-cos as in MAE: column first, `omega = 10000^(-i/(D/4))`.
    #[serde(rename = "sincos_2d_mae")]
    SinCos2dMae,
    /// Fixed 2-D sin-cos as in big_vision: `omega = 10000^(-i/(D/4 - 1))`, order sin x, cos x, sin y, cos y.
    #[serde(rename = "sincos_2d_bv")]
    SinCos2dBigVision,
    /// A learned bias per head and offset on the attention scores, one table per block
    /// (Swin, BEiT; timm `RelPosBias`, key `blocks.N.attn.rel_pos.relative_position_bias_table`).
    RelBias,
    /// The same with one table for all blocks (key `shared_rel_pos.relative_position_bias_table`).
    RelBiasShared,
    /// Conditional: a depthwise 3x3 convolution on the token grid after the first block
    /// (PEG, arXiv:2102.10882; key `pos_block.0.proj.0`).
    Cpe,
}

/// Many tokens to one vector.
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

/// Non-linearity of the MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Φ(x)`, with the error function: PyTorch, timm, Hugging Face.
    #[default]
    Gelu,
    /// GELU's tanh approximation: the default of flax, so of Google's own models.
    GeluTanh,
    /// `x σ(1.702 x)` (OpenAI CLIP).
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x σ(x)`.
    Silu,
}

/// How a position table is brought to another grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PosResize {
    /// Bicubic with antialiasing: timm.
    #[default]
    BicubicAntialias,
    /// Bicubic without antialiasing: DeiT, MAE, torchvision, Hugging Face.
    Bicubic,
    /// Bicubic with the scale factor `(new + 0.1) / old`: DINO, DINOv2.
    BicubicDino,
    /// Bilinear, half-pixel centres: timm's npz loader, SETR.
    Bilinear,
    /// Bilinear with aligned corners (`scipy.ndimage.zoom`, order 1): Google's vision_transformer.
    BilinearAligned,
    /// Nearest neighbour.
    Nearest,
}

/// Which initialisation a fresh model gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightInit {
    /// timm: truncated normal 0.02, biases zero.
    #[default]
    Timm,
    /// The paper's JAX code: Xavier uniform, MLP biases N(0, 1e-6), head zero.
    Jax,
    /// As `jax` with the head's bias at `-ln K` (timm `jax_nlhb`).
    JaxNlhb,
    /// MoCo v3: fused qkv as three Xavier matrices.
    Moco,
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
            proj_bias: true,
            init_values: None,
            class_token: true,
            reg_tokens: 0,
            pos_embed: PosEmbed::Learn,
            no_embed_class: false,
            pre_norm: false,
            final_norm: true,
            fc_norm: None,
            global_pool: GlobalPool::Token,
            pool_include_prefix: false,
            representation_size: None,
            act_layer: Activation::Gelu,
            norm_eps: 1e-6,
            pos_resize: PosResize::BicubicAntialias,
            drop_rate: 0.0,
            pos_drop_rate: 0.0,
            patch_drop_rate: 0.0,
            proj_drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
            weight_init: WeightInit::Timm,
        }
    }
}

impl VitConfig {
    /// Rows and columns of patches, `[H / P, W / P]`.
    pub fn grid(&self) -> [usize; 2] {
        [self.img_size[0] / self.patch_size[0], self.img_size[1] / self.patch_size[1]]
    }

    /// Class and register tokens in front of the patches.
    pub fn num_prefix_tokens(&self) -> usize {
        usize::from(self.class_token) + self.reg_tokens
    }

    /// `F`: width of the MLP.
    pub fn mlp_hidden_dim(&self) -> usize {
        (self.embed_dim as f64 * self.mlp_ratio) as usize
    }

    /// Whether the norm sits after pooling (`fc_norm`) instead of before (`norm`).
    pub fn use_fc_norm(&self) -> bool {
        self.fc_norm
            .unwrap_or(matches!(self.global_pool, GlobalPool::Avg | GlobalPool::Max | GlobalPool::Avgmax))
    }
}
