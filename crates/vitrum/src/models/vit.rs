//! Vision Transformer — Dosovitskiy et al. 2020, "An image is worth 16x16 words", arXiv:2010.11929.
//!
//! ```text
//! image [B, C, H, W] → patches [B, N, D] → [class; patches] + positions [B, T, D]
//!                    → L × block → norm → one vector [B, D] → logits [B, K]
//! ```
//!
//! The configuration covers, beyond the paper's model: its class token or averages (appendix D.3),
//! its position variants (D.4), its head with a hidden layer (3.1); registers (arXiv:2309.16588);
//! attention pooling (arXiv:2106.04560); LayerScale and stochastic depth (DeiT-III); the norm before
//! the blocks of CLIP; norms on queries and keys (arXiv:2302.05442).

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, activation};
use serde::{Deserialize, Serialize};

use super::{Backbone, Chain, ConfigError, Features};
pub use crate::layers::init::WeightInit;
pub use crate::layers::mlp::Activation;
pub use crate::layers::pool::GlobalPool;
pub use crate::layers::position::{PosEmbed, PosResize};

use crate::layers::attention::{AttentionConfig, Place};
use crate::layers::block::{Block, BlockConfig};
use crate::layers::drop::{dropout, patch_dropout};
use crate::layers::init::{InitConfig, initialize};
use crate::layers::norm::LayerNorm;
use crate::layers::observe::{Observer, Silent};
use crate::layers::patch_embed::PatchEmbed;
use crate::layers::pool::{AttentionPool, pool};
use crate::layers::position::{Position, PositionConfig};
use crate::layers::tokens::prepend;
use crate::layers::{Linear, linear, parameter, project};

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
    /// Initial value of LayerScale (`ls1.gamma`, `ls2.gamma`); `None` leaves it out. With `res_post_norm` there is none,
    /// and it is the initial weight of the norms.
    pub init_values: Option<f64>,
    /// Norms at the end of the residual branches instead of before them (Swin v2; timm `block_fn` `ResPostBlock`).
    pub res_post_norm: bool,
    /// A learned class token in front of the patches.
    pub class_token: bool,
    /// Number of register tokens (arXiv:2309.16588), after the class token.
    pub reg_tokens: usize,
    /// Where a token is.
    pub pos_embed: PosEmbed,
    /// Width of the network of `rel_mlp` and `rel_mlp_shared`; `None`: 128, as timm.
    pub rel_pos_dim: Option<usize>,
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
            res_post_norm: false,
            class_token: true,
            reg_tokens: 0,
            pos_embed: PosEmbed::Learn,
            rel_pos_dim: None,
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

    /// Rows of the position table that belong to class and register tokens.
    pub fn prefix_rows(&self) -> usize {
        if self.no_embed_class { 0 } else { self.num_prefix_tokens() }
    }

    /// Width of the network that makes a relative bias.
    pub fn rel_pos_dim(&self) -> usize {
        self.rel_pos_dim.unwrap_or(128)
    }

    /// Whether the branches have gains of their own (LayerScale).
    pub fn has_layer_scale(&self) -> bool {
        self.init_values.is_some() && !self.res_post_norm
    }

    /// First value of the weights of the blocks' norms.
    pub(crate) fn block_norm(&self) -> f64 {
        self.init_values.filter(|_| self.res_post_norm).unwrap_or(1.0)
    }

    /// Whether the plain LayerNorm `norm` stands after the blocks.
    pub fn has_norm(&self) -> bool {
        self.final_norm && !self.use_fc_norm()
    }

    /// Checks that a model can be built from this, and that its size is that of a model.
    ///
    /// # Errors
    /// The first field, or pair of fields, that makes no model.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_numbers()?;
        self.check_parts()
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let ([h, w], [p, q]) = (self.img_size, self.patch_size);
        let (d, a) = (self.embed_dim, self.num_heads);
        for (field, value, least, most) in [
            ("img_size", h, 1, MAX_SIDE),
            ("img_size", w, 1, MAX_SIDE),
            ("patch_size", p, 1, MAX_SIDE),
            ("patch_size", q, 1, MAX_SIDE),
            ("in_chans", self.in_chans, 1, MAX_CHANNELS),
            ("num_classes", self.num_classes, 0, MAX_CLASSES),
            ("embed_dim", d, 1, MAX_WIDTH),
            ("depth", self.depth, 1, MAX_DEPTH),
            ("num_heads", a, 1, MAX_WIDTH),
            ("reg_tokens", self.reg_tokens, 0, MAX_REGISTERS),
            ("rel_pos_dim", self.rel_pos_dim(), 1, MAX_WIDTH),
            ("representation_size", self.representation_size.unwrap_or(1), 1, MAX_WIDTH),
        ] {
            if !(least..=most).contains(&value) {
                return refuse(field, format!("is {value}, expected {least} to {most}"));
            }
        }
        if !d.is_multiple_of(a) {
            return refuse("embed_dim", format!("{d} is not a multiple of num_heads {a}"));
        }
        if self.grid().contains(&0) {
            return refuse("img_size", format!("{h}x{w} holds no patch of {p}x{q}"));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let (ratio, hidden) = (self.mlp_ratio, self.mlp_hidden_dim());
        if !(ratio > 0.0 && ratio <= 64.0 && (1..=MAX_WIDTH).contains(&hidden)) {
            return refuse(
                "mlp_ratio",
                format!("is {ratio}, expected a positive number up to 64 and an MLP 1 to {MAX_WIDTH} wide"),
            );
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return refuse("norm_eps", format!("is {}, expected a small positive number", self.norm_eps));
        }
        if let Some(value) = self.init_values.filter(|value| !value.is_finite()) {
            return refuse("init_values", format!("is {value}, expected a finite number"));
        }
        for (field, rate) in [
            ("drop_rate", self.drop_rate),
            ("pos_drop_rate", self.pos_drop_rate),
            ("patch_drop_rate", self.patch_drop_rate),
            ("proj_drop_rate", self.proj_drop_rate),
            ("attn_drop_rate", self.attn_drop_rate),
            ("drop_path_rate", self.drop_path_rate),
        ] {
            if !(0.0..1.0).contains(&rate) {
                return refuse(field, format!("is {rate}, expected 0 up to but not 1"));
            }
        }
        Ok(())
    }

    fn check_parts(&self) -> Result<(), ConfigError> {
        if self.global_pool == GlobalPool::Token && !self.class_token {
            return refuse("global_pool", "`token` needs a class token".into());
        }
        if matches!(self.pos_embed, PosEmbed::SinCos2dMae | PosEmbed::SinCos2dBigVision)
            && (!self.embed_dim.is_multiple_of(4) || self.embed_dim < 8)
        {
            let d = self.embed_dim;
            return refuse("pos_embed", format!("2-D sin-cos needs an embed_dim of 8, 12, 16, …, found {d}"));
        }
        if self.pos_embed.is_relative() && self.num_prefix_tokens() > 1 {
            return refuse("pos_embed", "with a relative bias knows one prefix token at most".into());
        }
        Ok(())
    }

    /// A fresh model with values drawn from `seed`, in the device's own float type.
    ///
    /// # Errors
    /// Those of [`validate`](VitConfig::validate).
    pub fn init(&self, device: &Device, seed: u64) -> Result<Vit, ConfigError> {
        self.init_as(device, seed, device.settings().float_dtype.into())
    }

    /// A fresh model with values drawn from `seed`, in `dtype` (f32 or f64).
    ///
    /// # Errors
    /// Those of [`validate`](VitConfig::validate).
    pub fn init_as(&self, device: &Device, seed: u64, dtype: DType) -> Result<Vit, ConfigError> {
        let keep: &[&str] = if self.pos_embed.is_fixed() { &["pos_embed"] } else { &[] };
        let layer_scale = self.init_values.unwrap_or(1.0);
        let config = InitConfig {
            scheme: self.weight_init,
            layer_scale,
            block_norm: self.block_norm(),
            keep,
            seed,
            dtype,
        };
        let mut model = initialize(self.skeleton(device)?, config);
        if self.pos_embed.is_fixed() && dtype != device.settings().float_dtype.into() {
            model.position = model.position.cast_table(dtype);
        }
        Ok(model)
    }

    /// A model whose parameters take no memory until they are loaded or read.
    ///
    /// # Errors
    /// Those of [`validate`](VitConfig::validate).
    pub fn skeleton(&self, device: &Device) -> Result<Vit, ConfigError> {
        self.validate()?;
        Ok(Vit::new(self, device))
    }

    fn block(&self, index: usize) -> BlockConfig {
        let last = self.depth.saturating_sub(1).max(1) as f64;
        BlockConfig {
            attention: AttentionConfig {
                dim: self.embed_dim,
                num_heads: self.num_heads,
                qkv_bias: self.qkv_bias,
                qk_norm: self.qk_norm,
                proj_bias: self.proj_bias,
                attn_drop: self.attn_drop_rate,
                proj_drop: self.proj_drop_rate,
                norm_eps: self.norm_eps,
            },
            mlp_hidden: self.mlp_hidden_dim(),
            act: self.act_layer,
            layer_scale: self.has_layer_scale(),
            res_post_norm: self.res_post_norm,
            drop_path: self.drop_path_rate * index as f64 / last,
        }
    }

    /// What the position encoding needs to know.
    pub fn position(&self) -> PositionConfig {
        PositionConfig {
            kind: self.pos_embed,
            grid: self.grid(),
            prefix_rows: self.prefix_rows(),
            prefix_tokens: self.num_prefix_tokens(),
            dim: self.embed_dim,
            num_heads: self.num_heads,
            rel_pos_dim: self.rel_pos_dim(),
            resize: self.pos_resize,
        }
    }
}

/// Longest side of an image or a patch, in pixels.
const MAX_SIDE: usize = 1 << 14;
/// Most channels of an image.
const MAX_CHANNELS: usize = 1 << 10;
/// Largest width of tokens, MLP and hidden layer of the head.
const MAX_WIDTH: usize = 1 << 16;
/// Most blocks.
const MAX_DEPTH: usize = 1000;
/// Most register tokens.
const MAX_REGISTERS: usize = 1 << 12;
/// Most classes.
const MAX_CLASSES: usize = 1 << 20;

fn refuse(field: &'static str, reason: String) -> Result<(), ConfigError> {
    Err(ConfigError::Field { field, reason })
}

/// Linear and tanh between pooling and head (paper, section 3.1).
#[derive(Module, Debug)]
pub struct PreLogits {
    /// `D -> R`.
    pub fc: Linear,
}

/// A Vision Transformer. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Vit {
    /// Patches to tokens.
    pub patch_embed: PatchEmbed,
    /// `[1, 1, D]`.
    pub cls_token: Option<Param<Tensor<3>>>,
    /// `[1, R, D]`.
    pub reg_token: Option<Param<Tensor<3>>>,
    /// Where a token is; its fields are keys at the top level.
    pub position: Position,
    /// Norm before the blocks.
    pub norm_pre: Option<LayerNorm>,
    /// The encoder.
    pub blocks: Vec<Block>,
    /// Norm after the blocks.
    pub norm: Option<LayerNorm>,
    /// Attention pooling.
    pub attn_pool: Option<AttentionPool>,
    /// Norm after pooling.
    pub fc_norm: Option<LayerNorm>,
    /// Hidden layer of the head.
    pub pre_logits: Option<PreLogits>,
    /// `D -> K`.
    pub head: Option<Linear>,
    #[module(skip)]
    config: VitConfig,
}

impl Vit {
    fn new(config: &VitConfig, device: &Device) -> Self {
        let VitConfig { embed_dim: d, norm_eps, pre_norm, .. } = *config;
        let norm = |wanted: bool| wanted.then(|| LayerNorm::new(d, norm_eps, device));
        let position = config.position();
        let block = |i| Block::new(&config.block(i), Position::block_bias(&position, device), device);
        let attn_pool = || {
            AttentionPool::new(
                d,
                config.num_heads,
                config.mlp_hidden_dim(),
                config.act_layer,
                norm_eps,
                device,
            )
        };
        let representation = config.representation_size;
        Self {
            patch_embed: PatchEmbed::new(config.in_chans, config.patch_size, d, !pre_norm, device),
            cls_token: config.class_token.then(|| parameter([1, 1, d], device)),
            reg_token: (config.reg_tokens > 0).then(|| parameter([1, config.reg_tokens, d], device)),
            position: Position::new(position, device),
            norm_pre: norm(pre_norm),
            blocks: (0..config.depth).map(block).collect(),
            norm: norm(config.has_norm()),
            attn_pool: (config.global_pool == GlobalPool::Map).then(attn_pool),
            fc_norm: norm(config.final_norm && config.use_fc_norm()),
            pre_logits: representation.map(|r| PreLogits { fc: linear(d, r, true, device) }),
            head: (config.num_classes > 0)
                .then(|| linear(representation.unwrap_or(d), config.num_classes, true, device)),
            config: config.clone(),
        }
    }

    /// The linear layers of the blocks with their names, such as `blocks.0.attn.qkv`: nearly all of the weights.
    pub fn block_layers(&mut self) -> impl Iterator<Item = (String, &mut Linear)> {
        self.blocks.iter_mut().enumerate().flat_map(|(i, block)| {
            let name = move |layer: &str| format!("blocks.{i}.{layer}");
            [
                (name("attn.qkv"), &mut block.attn.qkv),
                (name("attn.proj"), &mut block.attn.proj),
                (name("mlp.fc1"), &mut block.mlp.fc1),
                (name("mlp.fc2"), &mut block.mlp.fc2),
            ]
        })
    }

    /// How this model is built.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Image to tokens with positions: `[B, C, H, W] -> ([B, T, D], grid)`.
    pub fn embed(&self, images: Tensor<4>, watch: &mut dyn Observer) -> (Tensor<3>, [usize; 2]) {
        let (x, grid) = self.patch_embed.forward(images); // [B, N, D]
        watch.tokens(format_args!("patch_embed"), &x);
        let prefix = [self.cls_token.as_ref(), self.reg_token.as_ref()];
        let x = if self.config.no_embed_class {
            prepend(self.position.add(x, grid), &prefix)
        } else {
            self.position.add(prepend(x, &prefix), grid)
        };
        let x = dropout(x, self.config.pos_drop_rate);
        watch.tokens(format_args!("pos_drop"), &x);
        let x = patch_dropout(x, self.config.num_prefix_tokens(), self.config.patch_drop_rate);
        let Some(norm_pre) = &self.norm_pre else { return (x, grid) };
        let x = norm_pre.forward(x);
        watch.tokens(format_args!("norm_pre"), &x);
        (x, grid)
    }

    /// The encoder: `[B, T, D] -> [B, T, D]`.
    pub fn encode(&self, x: Tensor<3>, grid: [usize; 2], watch: &mut dyn Observer) -> Tensor<3> {
        self.through(x, grid, |_| None, watch)
    }

    /// All blocks, of which some keep fewer tokens than they get.
    fn through(
        &self,
        x: Tensor<3>,
        grid: [usize; 2],
        read: impl Fn(usize) -> Option<usize>,
        watch: &mut dyn Observer,
    ) -> Tensor<3> {
        let bias = self.position.bias(grid);
        let place = |index| Place { index, grid, shared_bias: bias.as_ref(), read: read(index) };
        (0..self.blocks.len()).fold(x, |x, i| self.layer(x, place(i), watch))
    }

    /// How many tokens behind block `index` serve the head: behind the last, of a class token that one; else all.
    fn read_by_head(&self, index: usize) -> Option<usize> {
        let last = index + 1 == self.blocks.len() && !self.position.is_between(index);
        (last && self.config.global_pool == GlobalPool::Token).then_some(1)
    }

    /// A block and what its position encoding does behind it: `[B, T, D] -> [B, T, D]`, or as many tokens as are read.
    fn layer(&self, x: Tensor<3>, place: Place, watch: &mut dyn Observer) -> Tensor<3> {
        let x = self.blocks[place.index].forward(x, place, watch);
        let Some(moved) = self.position.between(&x, place.index, place.grid) else { return x };
        watch.tokens(format_args!("pos_block.{}", place.index), &moved);
        moved
    }

    /// Behind the encoder: `[B, T, D] -> [B, T, D]`.
    fn normed(&self, x: Tensor<3>, grid: [usize; 2], watch: &mut dyn Observer) -> Features {
        let tokens = match &self.norm {
            Some(norm) => {
                let x = norm.forward(x);
                watch.tokens(format_args!("norm"), &x);
                x
            }
            None => x,
        };
        Features { tokens, num_prefix_tokens: self.config.num_prefix_tokens(), grid }
    }

    /// Many tokens to one vector, normed: `[B, T, D] -> [B, D]` (timm `forward_head(pre_logits=True)`).
    pub fn pool(&self, tokens: Tensor<3>, watch: &mut dyn Observer) -> Tensor<2> {
        let VitConfig { global_pool, pool_include_prefix, .. } = self.config;
        let prefix = self.config.num_prefix_tokens();
        let x = match &self.attn_pool {
            Some(attn_pool) => {
                let skip = if pool_include_prefix { 0 } else { prefix };
                let t = tokens.dims()[1];
                let x = attn_pool.forward(tokens.narrow(1, skip, t - skip));
                watch.vectors(format_args!("attn_pool"), &x);
                x
            }
            None => pool(tokens, global_pool, prefix, pool_include_prefix),
        };
        let Some(fc_norm) = &self.fc_norm else { return x };
        let x = fc_norm.forward(x);
        watch.vectors(format_args!("fc_norm"), &x);
        x
    }
}

impl Backbone for Vit {
    fn features(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Features {
        let (x, grid) = self.embed(images, watch); // [B, T, D]
        let x = self.encode(x, grid, watch);
        self.normed(x, grid, watch)
    }

    fn read_features(&self, images: Tensor<4>) -> Features {
        let (x, grid) = self.embed(images, &mut Silent); // [B, T, D]
        let x = self.through(x, grid, |index| self.read_by_head(index), &mut Silent);
        self.normed(x, grid, &mut Silent)
    }

    fn embedding(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        self.pool(features.tokens, watch)
    }

    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        let mut x = self.pool(features.tokens, watch); // [B, D]
        if let Some(pre_logits) = &self.pre_logits {
            x = activation::tanh(project(&pre_logits.fc, x)); // [B, R]
            watch.vectors(format_args!("pre_logits"), &x);
        }
        let Some(head) = &self.head else { return x };
        let logits = project(head, dropout(x, self.config.drop_rate)); // [B, K]
        watch.vectors(format_args!("head"), &logits);
        logits
    }
}

impl Chain for Vit {
    fn links(&self) -> usize {
        self.blocks.len()
    }

    fn first(&self, images: Tensor<4>) -> (Tensor<3>, [usize; 2]) {
        self.embed(images, &mut Silent)
    }

    fn link(&self, index: usize, x: Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        let bias = self.position.bias(grid);
        let place = Place { index, grid, shared_bias: bias.as_ref(), read: self.read_by_head(index) };
        self.layer(x, place, &mut Silent)
    }

    fn last(&self, x: Tensor<3>, grid: [usize; 2]) -> Tensor<2> {
        self.head(self.normed(x, grid, &mut Silent), &mut Silent)
    }
}
