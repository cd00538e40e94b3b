//! T2T-ViT — Yuan et al. 2021, "Tokens-to-token ViT: training Vision Transformers from scratch on ImageNet",
//! arXiv:2101.11986.
//!
//! ```text
//! image [B, C, H, W] → split 7x7, layer → split 3x3, layer → split 3x3 → linear [B, N, D]      H/16 x W/16 tokens
//!                    → [class; tokens] + waves → L × block → norm → class token → logits [B, K]
//! split:  all values under windows that overlap (torch's Unfold), at steps of 4, 2 and 2
//! layer:  x → k, q, v = linear(norm(x));  y = v + linear(attention(q, k, v));  y + mlp(norm(y))
//! ```
//!
//! Differences from the plain Vision Transformer ([`vit`](super::vit)):
//!
//! - patches become tokens in three steps. Each one joins neighbours into a longer token, and a narrow layer of attention
//!   mixes all of them and makes them short again. Its residual is the values, because a token and its result differ in
//!   width;
//! - this attention is a Performer's ([`performer`](crate::layers::performer)), or plain in `t2t_vit_t_*`;
//! - positions are fixed waves along the row of tokens. The file holds them;
//! - the blocks are narrow and many, without a bias on queries, keys and values.
//!
//! A Performer's attention and its projections compute in f32 at least, also where the model computes in bf16.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use vitrum_kernels::linear;

use super::ConfigError;
use super::limits::{MAX_DEPTH, MAX_WIDTH, check_eps, check_ranges, check_rates, image_ranges, refuse};
use super::network::{
    Backbone, Chain, Classify, Config, Depth, Features, ImageInput, Input, Inputs, Level, Network, Want,
};
use super::shapes::{Steps, Walk, held_by_block, long, product, unread};
use super::stages::drop_rate;
use super::vit::named;
use crate::layers::attention::{Attention, AttentionConfig, BlockArgs, BlockBias};
use crate::layers::block::{Block, BlockConfig};
use crate::layers::conv::Maps;
use crate::layers::drop::dropout;
use crate::layers::init::{BlockInit, Draw, TABLE, WeightInit, norm};
use crate::layers::mlp::{Activation, Mlp, MlpConfig, MlpLayer};
use crate::layers::names::Flat;
use crate::layers::norm::LayerNorm;
use crate::layers::observe::{Observer, Within};
use crate::layers::performer::{Directions, attention, widened};
use crate::layers::position::{PosEmbed, PosResize, PositionConfig, fixed_table, resized};
use crate::layers::tokens::{prepend, split};
use crate::layers::{Linear, lazy, parameter};

/// Side, step and zeros around of each split.
const SPLITS: [[usize; 3]; 3] = [[7, 4, 2], [3, 2, 1], [3, 2, 1]];
/// Least side of an image, in pixels.
const MIN_SIDE: usize = 3;

/// The attention that turns tokens into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokensType {
    /// Linear in the number of tokens, by random features.
    #[default]
    Performer,
    /// Plain.
    Transformer,
}

/// The factor on the scores of the blocks' attention. No tensor shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QkScale {
    /// `1 / sqrt(E)`. The published weights are trained and measured with it.
    #[default]
    HeadDim,
    /// `1 / sqrt(D)`. The authors' constructors set it if they are called with `pretrained=True`.
    EmbedDim,
    /// This number.
    #[serde(untagged)]
    Number(f64),
}

impl<'de> Deserialize<'de> for QkScale {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Width {
            HeadDim,
            EmbedDim,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Of(Width),
            Number(f64),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Of(Width::HeadDim)) => Ok(Self::HeadDim),
            Ok(Written::Of(Width::EmbedDim)) => Ok(Self::EmbedDim),
            Ok(Written::Number(scale)) => Ok(Self::Number(scale)),
            Err(_) => Err(D::Error::custom("expected a qk_scale of head_dim, embed_dim or a number")),
        }
    }
}

/// How a T2T-ViT is built. The default is T2T-ViT-14 at 224 pixels, 1000 classes. Names are the authors'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct T2tConfig {
    /// Height and width of the image, in pixels. For images of another size the positions are resized.
    pub img_size: [usize; 2],
    /// `C`: channels of an image.
    pub in_chans: usize,
    /// `K`; 0 for no head.
    pub num_classes: usize,
    /// The attention of the layers before the blocks.
    pub tokens_type: TokensType,
    /// Width of the tokens between the splits.
    pub token_dim: usize,
    /// `D`.
    pub embed_dim: usize,
    /// `L`.
    pub depth: usize,
    /// `A`.
    pub num_heads: usize,
    /// Width of the MLP over width of a token.
    pub mlp_ratio: f64,
    /// Bias on queries, keys and values of the blocks.
    pub qkv_bias: bool,
    /// Factor on the scores of the blocks.
    pub qk_scale: QkScale,
    /// Epsilon of every norm.
    pub norm_eps: f64,
    /// How positions are resized to another grid; the authors' transfer learning does it so.
    pub pos_resize: PosResize,
    /// Dropout in the layers of [`TokensType::Performer`], in the authors' code 0.1.
    pub token_drop_rate: f64,
    /// Dropout after adding positions, and in the blocks after the projections of attention and MLP.
    pub drop_rate: f64,
    /// Dropout on attention weights of the blocks.
    pub attn_drop_rate: f64,
    /// Stochastic depth of the last block; it grows linearly from 0 at the first.
    pub drop_path_rate: f64,
}

impl Default for T2tConfig {
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            in_chans: 3,
            num_classes: 1000,
            tokens_type: TokensType::Performer,
            token_dim: 64,
            embed_dim: 384,
            depth: 14,
            num_heads: 6,
            mlp_ratio: 3.0,
            qkv_bias: false,
            qk_scale: QkScale::HeadDim,
            norm_eps: 1e-5,
            pos_resize: PosResize::Bicubic,
            token_drop_rate: 0.1,
            drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
        }
    }
}

impl T2tConfig {
    /// Rows and columns of tokens after each split.
    fn grids(&self) -> [[usize; 2]; 3] {
        let mut grid = self.img_size;
        SPLITS.map(|[side, step, zeros]| {
            grid = grid.map(|size| (size + 2 * zeros - side) / step + 1);
            grid
        })
    }

    /// Rows and columns of tokens in the blocks.
    pub fn grid(&self) -> [usize; 2] {
        self.grids()[2]
    }

    /// Widths of the tokens after each split.
    fn widths(&self) -> [usize; 3] {
        let [first, second, third] = SPLITS.map(|[side, ..]| side * side);
        [self.in_chans * first, self.token_dim * second, self.token_dim * third]
    }

    /// Random directions of the Performer's layers.
    fn directions(&self) -> usize {
        self.token_dim / 2
    }

    /// `F`.
    fn mlp_hidden(&self) -> usize {
        (self.embed_dim as f64 * self.mlp_ratio) as usize
    }

    fn block(&self, index: usize) -> BlockConfig {
        let attention = AttentionConfig {
            qkv_bias: self.qkv_bias,
            attn_drop: self.attn_drop_rate,
            proj_drop: self.drop_rate,
            norm_eps: self.norm_eps,
            scale: match self.qk_scale {
                QkScale::HeadDim => None,
                QkScale::EmbedDim => Some((self.embed_dim as f64).powf(-0.5)),
                QkScale::Number(scale) => Some(scale),
            },
            ..AttentionConfig::new(self.embed_dim, self.num_heads)
        };
        let drop_path = drop_rate(self.drop_path_rate, &[self.depth], 0, index);
        BlockConfig { drop_path, ..BlockConfig::new(attention, MlpConfig::new(self.mlp_hidden())) }
    }

    /// A layer of plain attention before the blocks. The scale is that of its input's width.
    fn token_attention(&self, width: usize) -> AttentionConfig {
        AttentionConfig {
            head_dim: self.token_dim,
            qkv_bias: false,
            norm_eps: self.norm_eps,
            scale: Some((width as f64).powf(-0.5)),
            ..AttentionConfig::new(width, 1)
        }
    }

    /// The waves of the first tokens, `[1 + N, D]`.
    fn waves(&self) -> Vec<f64> {
        let config = PositionConfig {
            kind: PosEmbed::SinCos1d,
            grid: self.grid(),
            prefix_rows: 1,
            prefix_tokens: 1,
            dim: self.embed_dim,
            num_heads: self.num_heads,
            head_dim: self.embed_dim / self.num_heads,
            rel_pos_dim: 1,
            resize: self.pos_resize,
            bias_resize: self.pos_resize,
            block_table: false,
            shared_table: false,
            rope: None,
        };
        fixed_table(&config, config.grid)
    }
}

/// The MLP of a Performer's layer.
#[derive(Module, Debug)]
pub struct TokenMlp {
    /// `E -> E`.
    pub _0: Linear,
    /// `E -> E`, after a GELU.
    pub _2: Linear,
}

/// A layer of attention by random features: `[B, T, D] -> [B, T, E]`.
#[derive(Module, Debug)]
pub struct TokenPerformer {
    /// Norm of long tokens.
    pub norm1: LayerNorm,
    /// `D -> 3·E`: keys, queries, values.
    pub kqv: Linear,
    /// Random directions.
    pub directions: Flat<Directions>,
    /// `E -> E`.
    pub proj: Linear,
    /// Norm of short tokens.
    pub norm2: LayerNorm,
    /// The MLP.
    pub mlp: TokenMlp,
    drop: f64,
}

impl TokenPerformer {
    fn new(config: &T2tConfig, width: usize, device: &Device) -> Self {
        let (e, m) = (config.token_dim, config.directions());
        let linear = |from, to| Linear::new(from, to, true, device);
        Self {
            norm1: LayerNorm::new(width, config.norm_eps, device),
            kqv: linear(width, 3 * e),
            directions: Flat::new(Directions::new(m, e, device)),
            proj: linear(e, e),
            norm2: LayerNorm::new(e, config.norm_eps, device),
            mlp: TokenMlp { _0: linear(e, e), _2: linear(e, e) },
            drop: config.token_drop_rate,
        }
    }

    /// `[B, T, D] -> [B, T, E]`. Attention and its projections compute in f32 if the model's type is narrower.
    ///
    /// # Panics
    /// If the width or the float type is not that of the weights.
    pub fn forward(&self, x: Tensor<3>, watch: &mut dyn Observer) -> Tensor<3> {
        let dtype = x.dtype();
        let x = watch.tokens(format_args!("norm1"), self.norm1.forward(x));
        let kqv = watch.tokens(format_args!("kqv"), wide(&self.kqv, widened(x)));
        let e = self.directions.w.lazy_shape().dims::<2>()[1];
        let [k, q, v] = [0, 1, 2].map(|part| kqv.clone().narrow(2, part * e, e));
        let y = attention([q, k, v.clone()], widened(self.directions.w.val()));
        let y = watch.tokens(format_args!("proj"), wide(&self.proj, y));
        let x = (v + dropout(y, self.drop)).cast(dtype);
        let TokenMlp { _0, _2 } = &self.mlp;
        let y = watch.tokens(format_args!("norm2"), self.norm2.forward(x.clone()));
        let y = dropout(_2.forward(Activation::Gelu.forward(_0.forward(y))), self.drop);
        let y = watch.tokens(format_args!("mlp"), y);
        watch.tokens(format_args!(""), x + y)
    }
}

/// A linear layer in f32 if its weights are narrower.
fn wide(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let (weight, bias) = layer.values();
    linear(x, widened(weight), bias.map(widened))
}

/// A layer of plain attention with one head: `[B, T, D] -> [B, T, E]`.
#[derive(Module, Debug)]
pub struct TokenTransformer {
    /// Norm of long tokens.
    pub norm1: LayerNorm,
    /// Attention from `D` to `E`.
    pub attn: Attention,
    /// Norm of short tokens.
    pub norm2: LayerNorm,
    /// The MLP, as wide as a token.
    pub mlp: Mlp,
}

impl TokenTransformer {
    fn new(config: &T2tConfig, width: usize, device: &Device) -> Self {
        let e = config.token_dim;
        let attn = Attention::new(&config.token_attention(width), BlockBias::default(), device);
        Self {
            norm1: LayerNorm::new(width, config.norm_eps, device),
            attn: attn.with_output(e, device),
            norm2: LayerNorm::new(e, config.norm_eps, device),
            mlp: Mlp::new(e, e, Activation::Gelu, true, 0.0, device),
        }
    }

    /// `[B, T, D] -> [B, T, E]`.
    ///
    /// # Panics
    /// If the width or the float type is not that of the weights.
    pub fn forward(&self, x: Tensor<3>, grid: [usize; 2], watch: &mut dyn Observer) -> Tensor<3> {
        let x = watch.tokens(format_args!("norm1"), self.norm1.forward(x));
        let qkv = self.attn.qkv.forward(x);
        let e = qkv.dims()[2] / 3;
        let v = qkv.clone().narrow(2, 2 * e, e);
        let args = BlockArgs::new(grid);
        let y = self.attn.context(qkv, args, &mut Within::new(watch, format_args!("attn")));
        let x = watch.tokens(format_args!("attn"), v + self.attn.proj.forward(y));
        let y = watch.tokens(format_args!("norm2"), self.norm2.forward(x.clone()));
        let y = watch.tokens(format_args!("mlp"), self.mlp.forward(y));
        watch.tokens(format_args!(""), x + y)
    }
}

/// A layer before the blocks.
// The size of a variant does not matter: two exist, beside megabytes of weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum TokenLayer {
    /// By random features.
    Performer(TokenPerformer),
    /// Plain.
    Transformer(TokenTransformer),
}

impl TokenLayer {
    fn new(config: &T2tConfig, width: usize, device: &Device) -> Self {
        match config.tokens_type {
            TokensType::Performer => Self::Performer(TokenPerformer::new(config, width, device)),
            TokensType::Transformer => Self::Transformer(TokenTransformer::new(config, width, device)),
        }
    }

    fn forward(&self, maps: Maps, watch: &mut dyn Observer) -> Maps {
        let grid = maps.grid;
        let x = match self {
            Self::Performer(layer) => layer.forward(maps.x, watch),
            Self::Transformer(layer) => layer.forward(maps.x, grid, watch),
        };
        Maps { x, grid }
    }
}

/// Image to tokens.
#[derive(Module, Debug)]
pub struct TokensToToken {
    /// After the first split.
    pub attention1: TokenLayer,
    /// After the second split.
    pub attention2: TokenLayer,
    /// After the third split, to `D`.
    pub project: Linear,
}

impl TokensToToken {
    /// Images `[B, C, H, W]` to tokens `[B, N, D]` on their grid.
    fn forward(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps {
        let mut maps = Maps::of_images(images);
        for (index, [side, step, zeros]) in SPLITS.into_iter().enumerate() {
            maps = maps.unfold(side, step, zeros);
            maps.x = watch.tokens(format_args!("soft_split{index}"), maps.x);
            let (layer, name) = match index {
                0 => (&self.attention1, "attention1"),
                1 => (&self.attention2, "attention2"),
                _ => break,
            };
            maps = layer.forward(maps, &mut Within::new(watch, format_args!("{name}")));
        }
        let x = watch.tokens(format_args!("project"), self.project.forward(maps.x.clone()));
        maps.with(watch.tokens(format_args!(""), x))
    }
}

/// A T2T-ViT. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct T2t {
    /// Image to tokens.
    pub tokens_to_token: TokensToToken,
    /// `[1, 1, D]`.
    pub cls_token: Param<Tensor<3>>,
    /// Waves `[1, 1 + N, D]`, never trained; row 0 is the class token's.
    pub pos_embed: Param<Tensor<3>>,
    /// The encoder.
    pub blocks: Vec<Block>,
    /// Norm after the blocks.
    pub norm: LayerNorm,
    /// `D -> K`.
    pub head: Option<Linear>,
    #[module(skip)]
    config: T2tConfig,
}

impl T2t {
    /// How this model is built.
    pub fn config(&self) -> &T2tConfig {
        &self.config
    }

    /// Image to tokens with positions: `[B, C, H, W] -> [B, 1 + N, D]`.
    fn embed(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Level {
        let split_up = &mut Within::new(watch, format_args!("tokens_to_token"));
        let Maps { x, grid } = self.tokens_to_token.forward(images, split_up);
        let (class, patches) = split(self.pos_embed.val(), 1);
        let patches = resized(patches, self.config.grid(), grid, self.config.pos_resize);
        let table = Tensor::cat(class.into_iter().chain([patches]).collect(), 1); // [1, 1 + N, D]
        let x = prepend(x, &[Some(&self.cls_token)]) + table;
        let x = watch.tokens(format_args!("pos_drop"), dropout(x, self.config.drop_rate));
        Level::of_image(x, 1, grid)
    }

    /// Block `index`. Behind the last one a head reads only the class token.
    fn block(&self, index: usize, x: Level, is_for_head: bool, watch: &mut dyn Observer) -> Level {
        let read = (is_for_head && index + 1 == self.blocks.len()).then_some(1);
        let args = BlockArgs { read, ..BlockArgs::new(x.rows_columns()) };
        let tokens = self.blocks[index].forward(
            x.tokens,
            args,
            &mut Within::new(watch, format_args!("blocks.{index}")),
        );
        Level { tokens, ..x }
    }

    fn close(&self, x: Level, watch: &mut dyn Observer) -> Level {
        Level { tokens: watch.tokens(format_args!("norm"), self.norm.forward(x.tokens)), ..x }
    }
}

impl Backbone for T2t {
    fn has_class_token(&self) -> bool {
        true
    }

    fn features(&self, inputs: Inputs, want: Want<'_>, watch: &mut dyn Observer) -> Features {
        let mut x = self.embed(inputs.images(), watch);
        let mut levels = Vec::new();
        for index in 0..self.blocks.len() {
            x = self.block(index, x, want == Want::Head, watch);
            if matches!(want, Want::Levels | Want::Blocks(_)) {
                levels.push(x.clone());
            }
        }
        match want {
            Want::Head | Want::Last => self.close(x, watch).into(),
            Want::Levels => Features { levels },
            Want::Blocks(wanted) => Features::of_blocks(&levels, wanted),
        }
    }

    /// The class token.
    fn embedding(&self, features: Features, _: &mut dyn Observer) -> Tensor<2> {
        features.last().tokens.narrow(1, 0, 1).squeeze_dim(1)
    }

    fn positions(&self) -> Option<Level> {
        Some(Level::of_image(self.pos_embed.val(), 1, self.config.grid()))
    }
}

impl Classify for T2t {
    fn num_classes(&self) -> usize {
        self.config.num_classes
    }

    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        let x = self.embedding(features, watch); // [B, D]
        let Some(head) = &self.head else { return x };
        watch.vectors(format_args!("head"), head.forward(x)) // [B, K]
    }
}

impl Chain for T2t {
    fn links(&self) -> usize {
        self.blocks.len()
    }

    fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        self.embed(inputs.images(), watch).into()
    }

    fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features {
        self.block(index, x.last(), true, watch).into()
    }

    fn last(&self, x: Features, watch: &mut dyn Observer) -> Features {
        self.close(x.last(), watch).into()
    }
}

impl Network for T2t {
    fn linears(&self) -> Vec<(String, &Linear)> {
        let blocks = self.blocks.iter().enumerate();
        blocks.flat_map(|(index, block)| named(index, block.linears())).collect()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let blocks = self.blocks.iter_mut().enumerate();
        blocks.flat_map(|(index, block)| named(index, block.linears_mut())).collect()
    }

    fn depth(&self, key: &str) -> Depth {
        let block = key.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse().ok());
        match block {
            Some(index) => Depth::Layer(index),
            None if key.starts_with("norm.") => Depth::Close,
            None if key.starts_with("head.") => Depth::Head,
            None => Depth::Stem,
        }
    }

    /// The authors' `no_weight_decay`, and what is never trained.
    fn decays(&self, key: &str) -> bool {
        !matches!(key, "cls_token" | "pos_embed") && !key.ends_with(".w")
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

impl Config for T2tConfig {
    type Model = T2t;

    fn validate(&self) -> Result<(), ConfigError> {
        check_ranges(image_ranges(self.img_size, self.in_chans, self.num_classes))?;
        let (d, a, hidden) = (self.embed_dim, self.num_heads, self.mlp_hidden());
        check_ranges([
            ("token_dim", self.token_dim, 2, MAX_WIDTH / 9),
            ("in_chans", self.in_chans, 1, MAX_WIDTH / 49),
            ("embed_dim", d, 1, MAX_WIDTH),
            ("depth", self.depth, 1, MAX_DEPTH),
            ("num_heads", a, 1, MAX_WIDTH),
        ])?;
        if !d.is_multiple_of(a) {
            return refuse("embed_dim", format!("{d} is not a multiple of num_heads {a}"));
        }
        let ratio = self.mlp_ratio;
        if !(ratio > 0.0 && (1..=MAX_WIDTH).contains(&hidden)) {
            return refuse(
                "mlp_ratio",
                format!("is {ratio}, expected a positive number and an MLP 1 to {MAX_WIDTH} wide"),
            );
        }
        if let QkScale::Number(scale) = self.qk_scale
            && !(scale > 0.0 && scale.is_finite())
        {
            return refuse(
                "qk_scale",
                format!("is {scale}, expected head_dim, embed_dim or a positive number"),
            );
        }
        check_eps([("norm_eps", self.norm_eps)])?;
        check_rates([
            ("token_drop_rate", self.token_drop_rate),
            ("drop_rate", self.drop_rate),
            ("attn_drop_rate", self.attn_drop_rate),
            ("drop_path_rate", self.drop_path_rate),
        ])?;
        let [h, w] = self.img_size;
        if h.min(w) < MIN_SIDE {
            return refuse("img_size", format!("is {h}x{w}, expected at least {MIN_SIDE}x{MIN_SIDE}"));
        }
        Ok(())
    }

    fn build(&self, device: &Device) -> T2t {
        let d = self.embed_dim;
        let [first, second, third] = self.widths();
        let [rows, columns] = self.grid();
        let shape = [1, 1 + rows * columns, d];
        let waves = self.clone();
        T2t {
            tokens_to_token: TokensToToken {
                attention1: TokenLayer::new(self, first, device),
                attention2: TokenLayer::new(self, second, device),
                project: Linear::new(third, d, true, device),
            },
            cls_token: parameter([1, 1, d], device),
            pos_embed: lazy(shape, device, false, move |device| {
                let dtype = device.settings().float_dtype;
                Tensor::from_data(TensorData::new(waves.waves(), shape), (device, dtype.into()))
            }),
            blocks: (0..self.depth)
                .map(|index| Block::new(&self.block(index), BlockBias::default(), device))
                .collect(),
            norm: LayerNorm::new(d, self.norm_eps, device),
            head: (self.num_classes > 0).then(|| Linear::new(d, self.num_classes, true, device)),
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let [c, h, w, d, k] =
            [self.in_chans, self.img_size[0], self.img_size[1], self.embed_dim, self.num_classes].map(long);
        let mut steps = Steps::default();
        steps.add("image", "C × H × W".into(), &[c, h, w], 0, 0);
        let mut held = 0;
        for (index, (grid, width)) in self.grids().into_iter().zip(self.widths()).enumerate() {
            let ([side, step, _], t) = (SPLITS[index], product(1, long(grid[0]), long(grid[1])));
            let what = format!("{side} × {side} at a step of {step}: neighbours join");
            steps.add(&format!("tokens_to_token.soft_split{index}"), what, &[t, long(width)], 0, 0);
            if index < 2 {
                self.walk_tokens(
                    &format!("tokens_to_token.attention{}", index + 1),
                    t,
                    long(width),
                    &mut steps,
                );
            }
            held = held.max(t.saturating_mul(long(width) + 3 * long(self.token_dim)));
        }
        let [rows, columns] = self.grid().map(long);
        let (n, third) = (product(1, rows, columns), long(self.widths()[2]));
        let t = n + 1;
        steps.add(
            "tokens_to_token.project",
            format!("linear {third} → {d}"),
            &[n, d],
            third * d + d,
            product(n, third, d),
        );
        steps.add("cls_token", "class token in front".into(), &[t, d], d, 0);
        steps.add("pos_embed", "fixed sinusoids".into(), &[t, d], product(1, t, d), 0);
        let (before, block) = (steps.0.len(), self.block(0));
        steps.block("blocks.N", &block, t);
        steps.0[before..].iter_mut().for_each(|step| step.repeat = self.depth);
        steps.add("norm", "LayerNorm".into(), &[t, d], 2 * d, 0);
        if k > 0 {
            steps.add("head", format!("linear {d} → {k}, on the class token"), &[k], d * k + k, d * k);
        }
        let behind = unread(&steps.0, "blocks.N", t, 1);
        let held = held.max(held_by_block(&block, t)).saturating_add(product(c, h, w));
        Ok(Walk::new(steps.0, behind, held))
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head"]
    }

    /// The authors' first values: a truncated normal draw for all weights, zeros for biases, orthogonal directions.
    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        if let Some((_, rest)) = key.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            let init = BlockInit { layer_scale: 1.0, norm: 1.0, open_gates: MlpLayer::Mlp };
            return WeightInit::Timm.block(rest, shape, init);
        }
        match key {
            "cls_token" => return Some(TABLE),
            "pos_embed" => return Some(Draw::Keep),
            _ if key.ends_with(".w") => return Some(Draw::Orthogonal((self.directions() as f64).sqrt())),
            _ => {}
        }
        let (layer, part) = key.rsplit_once('.')?;
        match layer.rsplit('.').next() {
            Some("norm" | "norm1" | "norm2") => norm(part),
            _ => WeightInit::Timm.linear(part, shape),
        }
    }
}

impl T2tConfig {
    /// A layer before the blocks, on `t` tokens of width `d`.
    fn walk_tokens(&self, name: &str, t: u64, d: u64, steps: &mut Steps) {
        let [e, m] = [self.token_dim, self.directions()].map(long);
        let mut add = |layer: &str, what: String, shape: &[u64], params, macs| {
            steps.add(&format!("{name}.{layer}"), what, shape, params, macs);
        };
        let linear = |from: u64, to: u64| (from * to + to, product(t, from, to));
        add("norm1", "LayerNorm".into(), &[t, d], 2 * d, 0);
        match self.tokens_type {
            TokensType::Performer => {
                let (params, macs) = linear(d, 3 * e);
                add("kqv", format!("k, q, v: linear {d} → 3 · {e}"), &[3, t, e], params, macs);
                let features = "exp(w·x - |x|²/2) / √m of k and q".into();
                add("features", features, &[2, t, m], m * e, product(2 * t, e, m));
                let sums = product(2 * t, e, m).saturating_add(product(t, m, 1));
                add("context", "features of q · (features of k · v)".into(), &[t, e], 0, sums);
                let (params, macs) = linear(e, e);
                add("proj", format!("linear {e} → {e}, plus v"), &[t, e], params, macs);
            }
            TokensType::Transformer => {
                let (_, macs) = linear(d, 3 * e);
                let what = format!("q, k, v: linear {d} → 3 · {e}");
                add("attn.qkv", what, &[3, 1, t, e], 3 * d * e, macs);
                let scores = format!("softmax(q·kᵀ / √{d})");
                add("attn.scores", scores, &[1, t, t], 0, product(t, e, t));
                add("attn.context", "scores · v".into(), &[t, e], 0, product(t, t, e));
                let (params, macs) = linear(e, e);
                add("attn.proj", format!("linear {e} → {e}, plus v"), &[t, e], params, macs);
            }
        }
        add("norm2", "LayerNorm".into(), &[t, e], 2 * e, 0);
        let layers = match self.tokens_type {
            TokensType::Performer => ["mlp.0", "mlp.2"],
            TokensType::Transformer => ["mlp.fc1", "mlp.fc2"],
        };
        for layer in layers {
            let (params, macs) = linear(e, e);
            add(layer, format!("linear {e} → {e}"), &[t, e], params, macs);
        }
    }
}
