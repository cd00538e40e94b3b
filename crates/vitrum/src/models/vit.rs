//! Vision Transformer — Dosovitskiy et al. 2020, "An image is worth 16x16 words", arXiv:2010.11929.
//!
//! ```text
//! image [B, C, H, W] → patches [B, N, D] → [class; patches] + positions [B, T, D]
//!                    → L × block → norm → one vector [B, D] → logits [B, K]
//! ```
//!
//! The configuration also covers the paper's variants: class token or averages (appendix D.3), positions (D.4), a
//! head with a hidden layer (3.1). Later additions: registers (arXiv:2309.16588), attention pooling
//! (arXiv:2106.04560), LayerScale and stochastic depth (DeiT-III), the norm before the blocks (CLIP), norms on
//! queries and keys (arXiv:2302.05442), norms around the patch projection (arXiv:2302.01327), norms after the
//! residuals (arXiv:1706.03762), RMSNorm (arXiv:1910.07467), attention beside the MLP (arXiv:2302.05442,
//! arXiv:2203.09795), differential attention (arXiv:2410.05258).

mod config;
mod shapes;

use std::fmt::Display;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};

use super::ConfigError;
use super::network::{
    Backbone, Chain, Classify, Config, Depth, Features, ImageInput, Input, Inputs, Level, Network, Want,
};
use super::shapes::Walk;
use super::stages::{Part, Visitor};
pub use crate::layers::attention::AttnLayer;
pub use crate::layers::block::{BlockFn, BlockNorm};
pub use crate::layers::init::WeightInit;
pub use crate::layers::mlp::{Activation, MlpLayer};
pub use crate::layers::norm::NormLayer;
pub use crate::layers::pool::GlobalPool;
pub use crate::layers::position::{PosEmbed, PosResize};
pub use config::{Derived, PoolConfig, VitConfig};
pub(crate) use shapes::{encoder_steps, held, unread_behind};

use crate::layers::attention::BlockArgs;
use crate::layers::block::EncoderBlock;
use crate::layers::drop::{dropout, patch_dropout};
use crate::layers::init::{Draw, TABLE, TOKEN, norm};
use crate::layers::names::Flat;
use crate::layers::norm::LayerNorm;
use crate::layers::observe::{Observer, Within};
use crate::layers::patch_embed::PatchEmbed;
use crate::layers::pool::{AttentionPool, pool};
use crate::layers::position::Position;
use crate::layers::rope::Rotation;
use crate::layers::tokens::prepend;
use crate::layers::{Linear, parameter};

/// What the position encoding gives to all blocks.
#[derive(Debug)]
pub(crate) struct Places {
    grid: [usize; 2],
    bias: Option<Tensor<4>>,
    rotation: Option<Rotation>,
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
    /// Position encoding; its fields are keys at the top level.
    pub position: Flat<Position>,
    /// Norm before the blocks.
    pub norm_pre: Option<LayerNorm>,
    /// The encoder.
    pub blocks: Vec<EncoderBlock>,
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
        let VitConfig { embed_dim: d, pre_norm, .. } = *config;
        let norm = |wanted: bool| wanted.then(|| config.norm().build(d, device));
        let position = config.position();
        let block = |i| EncoderBlock::new(&config.block(i), Position::block_bias(&position, device), device);
        let attn_pool = || {
            let PoolConfig { num_heads, hidden, act } = config.attn_pool();
            AttentionPool::new(d, num_heads, hidden, act, config.norm(), device)
        };
        let representation = config.representation_size;
        Self {
            patch_embed: PatchEmbed::new(&config.patch_embed(), device),
            cls_token: config.class_token.then(|| parameter([1, 1, d], device)),
            reg_token: (config.reg_tokens > 0).then(|| parameter([1, config.reg_tokens, d], device)),
            position: Flat::new(Position::new(position, &config.cpe_blocks, device)),
            norm_pre: norm(pre_norm),
            blocks: (0..config.depth).map(block).collect(),
            norm: norm(config.has_norm()),
            attn_pool: (config.global_pool == GlobalPool::Map).then(attn_pool),
            fc_norm: norm(config.final_norm && config.use_fc_norm()),
            pre_logits: representation.map(|r| PreLogits { fc: Linear::new(d, r, true, device) }),
            head: (config.num_classes > 0)
                .then(|| Linear::new(representation.unwrap_or(d), config.num_classes, true, device)),
            config: config.clone(),
        }
    }

    /// How this model is built.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Image to tokens with positions: `[B, C, H, W] -> ([B, T, D], grid)`.
    pub fn embed(&self, images: Tensor<4>, watch: &mut dyn Observer) -> (Tensor<3>, [usize; 2]) {
        self.embed_with(images, None, watch)
    }

    /// [`embed`](Vit::embed) with a derived model's token `[1, 1, D]` after the class token.
    pub(crate) fn embed_with(
        &self,
        images: Tensor<4>,
        token: Option<&Param<Tensor<3>>>,
        watch: &mut dyn Observer,
    ) -> (Tensor<3>, [usize; 2]) {
        let (x, grid) = self.patch_embed.forward(images); // [B, N, D]
        let x = watch.tokens(format_args!("patch_embed"), x);
        self.place(x, grid, token, watch)
    }

    /// From patches `[B, N, D]` to tokens with positions `[B, T, D]`.
    pub(crate) fn place(
        &self,
        x: Tensor<3>,
        grid: [usize; 2],
        token: Option<&Param<Tensor<3>>>,
        watch: &mut dyn Observer,
    ) -> (Tensor<3>, [usize; 2]) {
        let prefix = [self.cls_token.as_ref(), token, self.reg_token.as_ref()];
        let x = if self.config.no_embed_class {
            prepend(self.position.add(x, grid), &prefix)
        } else {
            self.position.add(prepend(x, &prefix), grid)
        };
        let x = watch.tokens(format_args!("pos_drop"), dropout(x, self.config.pos_drop_rate));
        let x = patch_dropout(x, self.config.num_prefix_tokens(), self.config.patch_drop_rate);
        match &self.norm_pre {
            Some(norm_pre) => (watch.tokens(format_args!("norm_pre"), norm_pre.forward(x)), grid),
            None => (x, grid),
        }
    }

    /// The encoder: `[B, T, D] -> [B, T, D]`.
    pub fn encode(&self, x: Tensor<3>, grid: [usize; 2], watch: &mut dyn Observer) -> Tensor<3> {
        let places = self.places(&x, grid);
        (0..self.blocks.len()).fold(x, |x, i| self.layer(i, x, &places, None, watch))
    }

    /// What the position encoding gives to all blocks, for tokens like `x`.
    pub(crate) fn places(&self, x: &Tensor<3>, grid: [usize; 2]) -> Places {
        Places { grid, bias: self.position.bias(grid), rotation: self.position.rotation(grid, x) }
    }

    /// Number of tokens that the head reads after block `index`: `tokens` after the last block if the head reads
    /// only the prefix; `None`: all.
    pub(crate) fn read_by_head(&self, index: usize, tokens: usize) -> Option<usize> {
        let last = index + 1 == self.blocks.len() && !self.position.is_between(index);
        (last && self.config.global_pool == GlobalPool::Token).then_some(tokens)
    }

    /// Block `index` and the position encoding after it: `[B, T, D] -> [B, T, D]`, or only the tokens that are
    /// read.
    pub(crate) fn layer(
        &self,
        index: usize,
        x: Tensor<3>,
        places: &Places,
        read: Option<usize>,
        watch: &mut dyn Observer,
    ) -> Tensor<3> {
        let Places { grid, bias, rotation } = places;
        let own = self.position.rotation_of(index, *grid, &x);
        let rotation = own.as_ref().or(rotation.as_ref());
        let (shared_bias, shared_keys) = (bias.as_ref(), self.position.keys());
        let args = BlockArgs { grid: *grid, shared_bias, shared_keys, rotation, read };
        let x = self.blocks[index].forward(x, args, &mut Within::new(watch, format_args!("blocks.{index}")));
        match self.position.between(&x, index, *grid) {
            Some((place, moved)) => watch.tokens(format_args!("pos_block.{place}"), moved),
            None => x,
        }
    }

    /// The norm after the encoder: `[B, T, D] -> [B, T, D]`.
    pub(crate) fn close(&self, x: Tensor<3>, watch: &mut dyn Observer) -> Tensor<3> {
        match &self.norm {
            Some(norm) => watch.tokens(format_args!("norm"), norm.forward(x)),
            None => x,
        }
    }

    /// From tokens with positions to the wanted features. `read` is the number of prefix tokens that the head reads
    /// if it pools tokens.
    pub(crate) fn features_of(
        &self,
        (mut x, grid): (Tensor<3>, [usize; 2]),
        want: Want<'_>,
        read: usize,
        watch: &mut dyn Observer,
    ) -> Features {
        let places = self.places(&x, grid);
        let level = |tokens| Level::of_image(tokens, self.config.num_prefix_tokens(), grid);
        let (mut levels, depth) = (Vec::new(), self.blocks.len());
        for index in 0..depth {
            let read = if want == Want::Head { self.read_by_head(index, read) } else { None };
            x = self.layer(index, x, &places, read, watch);
            if matches!(want, Want::Levels | Want::Blocks(_)) {
                levels.push(level(x.clone()));
            }
        }
        match want {
            Want::Head | Want::Last => level(self.close(x, watch)).into(),
            Want::Levels => Features { levels },
            Want::Blocks(wanted) => Features::of_blocks(&levels, wanted),
        }
    }

    /// One link of the chain: block `index`, for a head that reads `read` prefix tokens; `None`: all tokens.
    pub(crate) fn link_of(
        &self,
        index: usize,
        x: Features,
        read: Option<usize>,
        watch: &mut dyn Observer,
    ) -> Features {
        let x = x.last();
        let places = self.places(&x.tokens, x.rows_columns());
        let read = read.and_then(|read| self.read_by_head(index, read));
        Level { tokens: self.layer(index, x.tokens, &places, read, watch), ..x }.into()
    }

    /// Pooling with its norm: `[B, T, D] -> [B, D]` (timm `forward_head(pre_logits=True)`).
    pub fn pool(&self, tokens: Tensor<3>, watch: &mut dyn Observer) -> Tensor<2> {
        let VitConfig { global_pool, pool_include_prefix, .. } = self.config;
        let prefix = self.config.num_prefix_tokens();
        let x = match &self.attn_pool {
            Some(attn_pool) => {
                let skip = if pool_include_prefix { 0 } else { prefix };
                let t = tokens.dims()[1];
                let read = tokens.narrow(1, skip, t - skip);
                let x = attn_pool.forward(read, &mut Within::new(watch, format_args!("attn_pool")));
                watch.vectors(format_args!("attn_pool"), x)
            }
            None => pool(tokens, global_pool, prefix, pool_include_prefix),
        };
        match &self.fc_norm {
            Some(fc_norm) => watch.vectors(format_args!("fc_norm"), fc_norm.forward(x)),
            None => x,
        }
    }
}

impl Backbone for Vit {
    fn has_class_token(&self) -> bool {
        self.cls_token.is_some()
    }

    fn features(&self, inputs: Inputs, want: Want<'_>, watch: &mut dyn Observer) -> Features {
        let x = self.embed(inputs.images(), watch); // [B, T, D]
        self.features_of(x, want, 1, watch)
    }

    fn embedding(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        self.pool(features.last().tokens, watch)
    }

    fn positions(&self) -> Option<Level> {
        let (table, prefix, grid) = self.position.own_table()?;
        Some(Level::of_image(table, prefix, grid))
    }
}

impl Classify for Vit {
    fn num_classes(&self) -> usize {
        self.config.num_classes
    }

    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        let mut x = self.pool(features.last().tokens, watch); // [B, D]
        if let Some(pre_logits) = &self.pre_logits {
            x = activation::tanh(pre_logits.fc.forward(x)); // [B, R]
            x = watch.vectors(format_args!("pre_logits"), x);
        }
        let Some(head) = &self.head else { return x };
        watch.vectors(format_args!("head"), head.forward(dropout(x, self.config.drop_rate))) // [B, K]
    }
}

impl Chain for Vit {
    fn links(&self) -> usize {
        self.blocks.len()
    }

    fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        let (x, grid) = self.embed(inputs.images(), watch);
        Level::of_image(x, self.config.num_prefix_tokens(), grid).into()
    }

    fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features {
        self.link_of(index, x, Some(1), watch)
    }

    fn last(&self, x: Features, watch: &mut dyn Observer) -> Features {
        let x = x.last();
        Level { tokens: self.close(x.tokens, watch), ..x }.into()
    }
}

impl Network for Vit {
    fn linears(&self) -> Vec<(String, &Linear)> {
        let blocks = self.blocks.iter().enumerate();
        blocks.flat_map(|(i, block)| named(i, block.linears())).collect()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let blocks = self.blocks.iter_mut().enumerate();
        blocks.flat_map(|(i, block)| named(i, block.linears_mut())).collect()
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        self.position.pos_block.iter_mut().for_each(|encoding| visit(Part::Conv(&mut encoding.proj._0)));
        visit(Part::Bias(&mut self.position.kept));
        let rotations = self.position.rope.iter_mut().flat_map(|rope| rope.kept.iter_mut());
        rotations.for_each(|kept| visit(Part::Rotation(kept)));
        self.blocks.iter_mut().filter_map(EncoderBlock::kept_mut).for_each(|kept| visit(Part::Bias(kept)));
    }

    /// timm's `group_matcher`; a `pos_block` belongs to the block that it follows.
    fn depth(&self, key: &str) -> Depth {
        let stem = ["cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre", "rel_pos_bias"];
        if stem.iter().any(|start| key.starts_with(start)) {
            return Depth::Stem;
        }
        let number = |list: &str| key.strip_prefix(list)?.split('.').next()?.parse().ok();
        let follows = |place: usize| self.config.cpe_blocks.get(place).copied();
        if let Some(index) = number("blocks.").or_else(|| follows(number("pos_block.")?)) {
            return Depth::Layer(index);
        }
        if key.starts_with("norm") { Depth::Close } else { Depth::Head }
    }

    /// timm's `no_weight_decay`.
    fn decays(&self, key: &str) -> bool {
        !(matches!(key, "cls_token" | "reg_token") || key.starts_with("pos_embed"))
    }

    fn heads(&self) -> &'static [&'static str] {
        self.config.heads()
    }

    fn chain(&self) -> Option<&dyn Chain> {
        Some(self)
    }

    fn backbone(&self) -> Option<&dyn Backbone> {
        Some(self)
    }

    fn classify(&self) -> Option<&dyn Classify> {
        Some(self)
    }
}

/// Gives a model with the field `vit` the traits of the Vision Transformer in it. Its weight decay is `is_decayed`.
macro_rules! derived_from_vit {
    ($model:ident) => {
        impl Backbone for $model {
            fn has_class_token(&self) -> bool {
                self.vit.has_class_token()
            }

            fn features(&self, inputs: Inputs, want: Want<'_>, watch: &mut dyn Observer) -> Features {
                self.vit.features(inputs, want, watch)
            }

            fn embedding(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
                self.vit.embedding(features, watch)
            }

            fn positions(&self) -> Option<$crate::models::Level> {
                self.vit.positions()
            }
        }

        impl Classify for $model {
            fn num_classes(&self) -> usize {
                self.config.num_classes
            }

            fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
                self.vit.head(features, watch)
            }
        }

        impl Chain for $model {
            fn links(&self) -> usize {
                self.vit.links()
            }

            fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features {
                self.vit.first(inputs, watch)
            }

            fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features {
                self.vit.link(index, x, watch)
            }

            fn last(&self, x: Features, watch: &mut dyn Observer) -> Features {
                self.vit.last(x, watch)
            }
        }

        impl Network for $model {
            fn linears(&self) -> Vec<(String, &Linear)> {
                self.vit.linears()
            }

            fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
                self.vit.linears_mut()
            }

            fn visit_parts(&mut self, visit: &mut $crate::models::stages::Visitor<'_>) {
                self.vit.visit_parts(visit);
            }

            fn depth(&self, key: &str) -> Depth {
                self.vit.depth(key)
            }

            fn decays(&self, key: &str) -> bool {
                self.is_decayed(key)
            }

            fn heads(&self) -> &'static [&'static str] {
                self.config.heads()
            }

            fn chain(&self) -> Option<&dyn Chain> {
                Some(self)
            }

            fn backbone(&self) -> Option<&dyn Backbone> {
                Some(self)
            }

            fn classify(&self) -> Option<&dyn Classify> {
                Some(self)
            }
        }
    };
}

pub(crate) use derived_from_vit;

/// The layers of a block with their names in the model.
pub(crate) fn named<S: Display, T>(block: usize, layers: Vec<(S, T)>) -> impl Iterator<Item = (String, T)> {
    layers.into_iter().map(move |(name, layer)| (format!("blocks.{block}.{name}"), layer))
}

impl Config for VitConfig {
    type Model = Vit;

    fn validate(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_numbers()?;
        self.check_parts()
    }

    fn build(&self, device: &Device) -> Vit {
        Vit::new(self, device)
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        shapes::walk(self)
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head"]
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let init = self.weight_init;
        let numbered = |list: &str| key.strip_prefix(list)?.split_once('.').map(|(_, rest)| rest);
        if let Some(rest) = numbered("blocks.") {
            return init.block(rest, shape, self.block_init());
        }
        if let Some(rest) = numbered("pos_block.") {
            return init.convolution(rest.strip_prefix("proj.0.")?, 9); // 3x3, depthwise
        }
        let Some((layer, part)) = key.rsplit_once('.') else {
            return match key {
                "cls_token" | "reg_token" if init == WeightInit::Mae => Some(TABLE),
                "cls_token" | "reg_token" => Some(TOKEN),
                "pos_embed" if self.pos_embed.is_fixed() => Some(Draw::Keep),
                "pos_embed" | "pos_embed_x" | "pos_embed_y" | "pos_embed_prefix" => Some(TABLE),
                _ => None,
            };
        };
        if let ("rope.freqs", Some(rope)) = (key, self.derived.rope) {
            return Some(Draw::Rotary { head_dim: rope.head_dim, temperature: rope.temperature });
        }
        match layer {
            "patch_embed.proj" => {
                let pixels = self.in_chans * self.patch_size[0] * self.patch_size[1];
                init.patches(part, pixels, self.embed_dim)
            }
            "patch_embed.norm_pixels" | "patch_embed.norm" | "norm_pre" | "norm" | "fc_norm" => norm(part),
            "rel_pos_bias" => Some(Draw::Constant(0.0)),
            "pre_logits.fc" => init.linear(part, shape),
            "head" => init.head(part, shape),
            _ => match key.strip_prefix("shared_rel_pos.") {
                Some(rest) => init.relative_positions(rest, shape),
                None => init.attention_pool(key.strip_prefix("attn_pool.")?, shape),
            },
        }
    }
}
