//! Swin Transformer — Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
//! arXiv:2103.14030, and Swin V2 — Liu et al. 2022, "Swin Transformer V2: Scaling Up Capacity and Resolution",
//! arXiv:2111.09883.
//!
//! ```text
//! image [B, C, H, W] → patches of 4x4, norm → stages at H/4, H/8, H/16, H/32 → norm → mean → logits [B, K]
//! block:      z = x + windows(norm(x));  z + mlp(norm(z))
//!             z = x + norm(windows(x));  z + norm(mlp(z))                 V2
//! windows:    softmax(q kᵀ / sqrt(E) + table[offset]) v                   within windows of 7x7
//!             softmax(s cos(q, k) + 16 σ(mlp(log offset))) v              V2
//! merging:    linear(norm(2x2 neighbours)), before each stage but the first; norm(linear(…)) in V2
//! ```
//!
//! Every second block rolls its map by half a window, so that windows see across the edges of the others. By
//! default a window is not larger than the map of the configured image; see [`WindowFit`].

mod attention;

use burn::module::Module;
use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vitrum_kernels::Activation::Identity;

use super::ConfigError;
use super::limits::{
    MAX_DEPTH, MAX_SIDE, MAX_WIDTH, check_eps, check_ranges, check_rates, image_ranges, refuse,
};
use super::network::{Config, Depth, ImageInput, Input};
use super::shapes::{Walk, long, product};
use super::stages::{MapHead, MapWalk, Part, Stages, Visitor, drop_rate};
use crate::layers::Linear;
use crate::layers::conv::{ConvConfig, Maps, Padding};
use crate::layers::drop::{drop_path, records};
use crate::layers::init::{Draw, TABLE, WeightInit, norm};
use crate::layers::mlp::{Activation, Mlp};
use crate::layers::norm::{LayerNorm, NormConfig};
use crate::layers::observe::{Observer, Within};
use crate::layers::patch_embed::{PatchEmbed, PatchEmbedConfig};
use crate::layers::pool::MapPool;
use crate::layers::position::PosResize;
use crate::layers::window::{StageSizes, Windows};
pub(super) use attention::META_WIDTH;
pub(crate) use attention::log_shares;
pub use attention::{
    CosineScores, MetaScores, PositionMlp, ProductScores, ScoreForm, Scores, WindowAttention,
    WindowAttentionConfig,
};

/// Longest side of a window.
pub(super) const MAX_WINDOW: usize = 64;
/// Most stages.
const MAX_STAGES: usize = 8;

/// Which paper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwinVersion {
    /// Norms before attention and MLP, scores by products, a table of biases.
    #[default]
    V1,
    /// Norms at the end of the branches, scores by angles, biases from a network.
    V2,
}

/// What happens to windows that are not smaller than the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowFit {
    /// Windows fit the maps of an image of `img_size`: they shrink to the map, and are not shifted along a side that they
    /// cover. Images of other sizes have the same windows (timm).
    #[default]
    Config,
    /// Windows keep their size. They are not shifted along a side that they cover on the present map (torchvision).
    Image,
    /// As `image`, but they are not shifted at all if they cover the shorter side (transformers' Swin).
    ShorterSide,
}

/// How a Swin is built. The default is Swin-T at 224 pixels, 1000 classes. Names are timm's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwinConfig {
    /// Usual size of the images, `[H, W]` in pixels. The network takes any that hold a patch.
    pub img_size: [usize; 2],
    /// `P`: height and width of a patch, in pixels.
    pub patch_size: [usize; 2],
    /// `C`: channels of an image.
    pub in_chans: usize,
    /// `K`; 0 for no head.
    pub num_classes: usize,
    /// Width of the first stage. Every other stage is twice as wide as the one before.
    pub embed_dim: usize,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// `A`: heads of each stage.
    pub num_heads: Vec<usize>,
    /// `E`: width of a head; `None`: that of the tokens divided by the heads. Only in V1.
    pub head_dim: Option<usize>,
    /// Rows and columns of the windows.
    pub window_size: StageSizes,
    /// Windows keep their size and are shifted on every map, whatever `window_fit` says.
    pub always_partition: bool,
    /// What happens to windows that are not smaller than the map. No option of timm's.
    pub window_fit: WindowFit,
    /// Whether a map is padded before it is rolled (torchvision, transformers), not after. It matters only for maps that
    /// the windows do not divide. No option of timm's.
    pub pad_first: bool,
    /// Width of the MLP over width of a token; `F = floor(D * mlp_ratio)`.
    pub mlp_ratio: f64,
    /// Bias on the query, key, value projection. The keys of V2 have none.
    pub qkv_bias: bool,
    /// Which paper; timm has a class for each.
    pub version: SwinVersion,
    /// Windows that the biases of V2 were learned for. Offsets are relative to them; 0: to the fitted window.
    pub pretrained_window_sizes: StageSizes,
    /// Non-linearity.
    pub act_layer: Activation,
    /// Added to the variance in the norms.
    pub norm_eps: f64,
    /// How the last map becomes one vector.
    pub global_pool: MapPool,
    /// How tables of biases are resized to other windows. `bicubic` is the authors' method.
    pub pos_resize: PosResize,
    /// Dropout before the head.
    pub drop_rate: f64,
    /// Dropout after projections and in the MLP.
    pub proj_drop_rate: f64,
    /// Dropout on attention weights.
    pub attn_drop_rate: f64,
    /// Stochastic depth of the last block; the first has none.
    pub drop_path_rate: f64,
}

impl Default for SwinConfig {
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            patch_size: [4, 4],
            in_chans: 3,
            num_classes: 1000,
            embed_dim: 96,
            depths: vec![2, 2, 6, 2],
            num_heads: vec![3, 6, 12, 24],
            head_dim: None,
            window_size: StageSizes::square(7),
            always_partition: false,
            window_fit: WindowFit::Config,
            pad_first: false,
            mlp_ratio: 4.0,
            qkv_bias: true,
            version: SwinVersion::V1,
            pretrained_window_sizes: StageSizes::square(0),
            act_layer: Activation::Gelu,
            norm_eps: 1e-5,
            global_pool: MapPool::Avg,
            pos_resize: PosResize::BicubicAntialias,
            drop_rate: 0.0,
            proj_drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
        }
    }
}

impl SwinConfig {
    /// Number of stages.
    fn stages(&self) -> usize {
        self.depths.len()
    }

    /// Width of a stage.
    pub fn width(&self, stage: usize) -> usize {
        self.embed_dim << stage
    }

    /// Channels of the last map.
    pub fn num_features(&self) -> usize {
        self.width(self.stages() - 1)
    }

    /// Rows and columns of a stage's map, for an image of `img_size`.
    pub fn grid(&self, stage: usize) -> [usize; 2] {
        [0, 1].map(|axis| (self.img_size[axis] / self.patch_size[axis]).div_ceil(1 << stage))
    }

    /// Rows and columns of a stage's windows. The table of biases has entries for this window.
    pub fn window(&self, stage: usize) -> [usize; 2] {
        let (window, grid) = (self.window_size.at(stage), self.grid(stage));
        let shrinks = !self.always_partition && self.window_fit == WindowFit::Config;
        if shrinks { [0, 1].map(|axis| window[axis].min(grid[axis])) } else { window }
    }

    /// The window that the biases of V2 are relative to.
    fn origin(&self, stage: usize) -> [usize; 2] {
        match self.pretrained_window_sizes.at(stage) {
            [0, _] => self.window(stage),
            pretrained => pretrained,
        }
    }

    /// The windows of a block on a map of this grid.
    pub fn windows(&self, stage: usize, block: usize, grid: [usize; 2]) -> Windows {
        let (window, own) = (self.window(stage), self.window_size.at(stage));
        let covers = |grid: [usize; 2]| [0, 1].map(|axis| grid[axis] <= window[axis]);
        let stays = match self.window_fit {
            _ if self.always_partition => [false; 2],
            WindowFit::Config => covers(self.grid(stage)),
            WindowFit::Image => covers(grid),
            WindowFit::ShorterSide => [covers(grid).contains(&true); 2],
        };
        let shifts = |axis: usize| block % 2 == 1 && !stays[axis];
        let shift = [0, 1].map(|axis| if shifts(axis) { own[axis] / 2 } else { 0 });
        Windows { grid, window, shift, pad_first: self.pad_first }
    }

    /// `F`: width of the MLP.
    pub(super) fn mlp_hidden(&self, stage: usize) -> usize {
        (self.width(stage) as f64 * self.mlp_ratio) as usize
    }

    fn is_v2(&self) -> bool {
        self.version == SwinVersion::V2
    }

    pub(super) fn attention(&self, stage: usize) -> WindowAttentionConfig {
        let (dim, num_heads, window) = (self.width(stage), self.num_heads[stage], self.window(stage));
        WindowAttentionConfig {
            dim,
            num_heads,
            head_dim: self.head_dim.unwrap_or(dim / num_heads),
            window,
            scores: if self.is_v2() { ScoreForm::Cosine(self.origin(stage)) } else { ScoreForm::Product },
            qkv_bias: self.qkv_bias,
            attn_drop: self.attn_drop_rate,
            proj_drop: self.proj_drop_rate,
        }
    }

    /// The projection of the patches.
    pub(super) fn embedding(&self) -> PatchEmbedConfig {
        PatchEmbedConfig {
            in_chans: self.in_chans,
            patch_size: self.patch_size,
            dim: self.embed_dim,
            bias: true,
            norm_pixels: false,
            norm: true,
            form: NormConfig::layer_norm(self.norm_eps),
        }
    }

    /// The same, as a convolution.
    pub(super) fn patches(&self) -> ConvConfig {
        let conv = ConvConfig::new(self.in_chans, self.embed_dim, 1);
        ConvConfig {
            kernel: self.patch_size,
            stride: self.patch_size,
            ..conv.padding(Padding::None).bias(true)
        }
    }

    pub(super) fn layer_norm(&self, width: usize, device: &Device) -> LayerNorm {
        LayerNorm::new(width, self.norm_eps, device)
    }
}

/// From 2x2 neighbours to one token of twice the width.
#[derive(Module, Debug)]
pub struct PatchMerging {
    /// A norm over the neighbours; in V2 over the new token.
    pub norm: LayerNorm,
    /// `4D -> 2D`.
    pub reduction: Linear,
    #[module(skip)]
    version: SwinVersion,
}

impl PatchMerging {
    /// The step to the grid of a stage.
    pub(super) fn new(config: &SwinConfig, version: SwinVersion, stage: usize, device: &Device) -> Self {
        let (from, to) = (4 * config.width(stage - 1), config.width(stage));
        let normed = if version == SwinVersion::V2 { to } else { from };
        Self {
            norm: config.layer_norm(normed, device),
            reduction: Linear::new(from, to, false, device),
            version,
        }
    }

    /// Maps `[B, H·W, D] -> [B, ⌈H/2⌉·⌈W/2⌉, 2D]`. Zeros complete an odd map.
    pub fn forward(&self, maps: Maps) -> Maps {
        let (x, grid) = neighbours(maps);
        let x = match self.version {
            SwinVersion::V1 => self.reduction.after(&self.norm, x, Identity),
            SwinVersion::V2 => self.norm.forward(self.reduction.forward(x)),
        };
        Maps { x, grid }
    }
}

/// 2x2 neighbours side by side, column by column: `[B, H·W, D] -> [B, ⌈H/2⌉·⌈W/2⌉, 4D]`.
fn neighbours(Maps { x, grid: [h, w] }: Maps) -> (Tensor<3>, [usize; 2]) {
    let [b, _, d] = x.dims();
    let x = x.reshape([b, h, w * d]);
    let x = x.pad((0, w % 2 * d, 0, h % 2), PadMode::Constant(0.0)); // below and at the right
    let [h, w] = [h.div_ceil(2), w.div_ceil(2)];
    let x = x.reshape([b, h, 2, w, 2, d]).permute([0, 1, 3, 4, 2, 5]); // [B, H/2, W/2, 2, 2, D]
    (x.reshape([b, h * w, 4 * d]), [h, w])
}

/// A residual block: attention within windows, then an MLP.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm of attention.
    pub norm1: LayerNorm,
    /// Attention within windows.
    pub attn: WindowAttention,
    /// The norm of the MLP.
    pub norm2: LayerNorm,
    /// The MLP.
    pub mlp: Mlp,
    #[module(skip)]
    version: SwinVersion,
    drop_path: f64,
}

impl Block {
    /// A block of zeros.
    pub(super) fn new(
        config: &SwinConfig,
        attention: WindowAttentionConfig,
        stage: usize,
        block: usize,
        device: &Device,
    ) -> Self {
        let (width, hidden) = (config.width(stage), config.mlp_hidden(stage));
        Self {
            norm1: config.layer_norm(width, device),
            attn: WindowAttention::new(attention, device),
            norm2: config.layer_norm(width, device),
            mlp: Mlp::new(width, hidden, config.act_layer, true, config.proj_drop_rate, device),
            version: config.version,
            drop_path: drop_rate(config.drop_path_rate, &config.depths, stage, block),
        }
    }

    /// Maps `[B, H·W, D] -> [B, H·W, D]`.
    ///
    /// # Panics
    /// If the map has another number of positions than the grid of `windows`.
    pub fn forward(&self, x: Tensor<3>, windows: &Windows, watch: &mut dyn Observer) -> Tensor<3> {
        let x = self.branches(x, windows, watch);
        watch.tokens(format_args!(""), x)
    }

    /// [`forward`](Self::forward) without the name of the result.
    pub(super) fn branches(&self, x: Tensor<3>, windows: &Windows, watch: &mut dyn Observer) -> Tensor<3> {
        let attend = |y: Tensor<3>, watch: &mut dyn Observer| {
            let y = self.attn.forward(y, windows, &mut Within::new(watch, format_args!("attn")));
            watch.tokens(format_args!("attn"), y)
        };
        match self.version {
            SwinVersion::V1 if !watch.wants_tokens() && !records(&x) => self.answer(x, windows, watch),
            SwinVersion::V1 => {
                let y = watch.tokens(format_args!("norm1"), self.norm1.forward(x.clone()));
                let x = x + drop_path(attend(y, watch), self.drop_path);
                let y = watch.tokens(format_args!("norm2"), self.norm2.forward(x.clone()));
                x + drop_path(watch.tokens(format_args!("mlp"), self.mlp.forward(y)), self.drop_path)
            }
            SwinVersion::V2 => {
                let y = self.norm1.forward(attend(x.clone(), watch));
                let x = x + drop_path(watch.tokens(format_args!("norm1"), y), self.drop_path);
                let y = watch.tokens(format_args!("mlp"), self.mlp.forward(x.clone()));
                x + drop_path(watch.tokens(format_args!("norm2"), self.norm2.forward(y)), self.drop_path)
            }
        }
    }

    /// The linear layers, with their names.
    pub(super) fn linears(&self) -> [(&'static str, &Linear); 4] {
        let Self { attn: WindowAttention { qkv, proj, .. }, mlp: Mlp { fc1, fc2, .. }, .. } = self;
        [("attn.qkv", &qkv.qkv), ("attn.proj", proj), ("mlp.fc1", fc1), ("mlp.fc2", fc2)]
    }

    /// [`linears`](Self::linears), mutable.
    pub(super) fn linears_mut(&mut self) -> [(&'static str, &mut Linear); 4] {
        let Self { attn: WindowAttention { qkv, proj, .. }, mlp: Mlp { fc1, fc2, .. }, .. } = self;
        [("attn.qkv", qkv.linear_mut()), ("attn.proj", proj), ("mlp.fc1", fc1), ("mlp.fc2", fc2)]
    }

    /// The same pass of the first version without an observer of tokens and without dropout: the last product of each
    /// branch adds the residual.
    fn answer(&self, x: Tensor<3>, windows: &Windows, watch: &mut dyn Observer) -> Tensor<3> {
        let qkv = self.attn.qkv.qkv.after(&self.norm1, x.clone(), Identity);
        let context = self.attn.context(qkv, windows, &mut Within::new(watch, format_args!("attn")));
        let x = self.attn.proj.add_to(x, context, None);
        self.mlp.add_after(x.clone(), &self.norm2, x, None)
    }
}

/// Blocks on one grid.
#[derive(Module, Debug)]
pub struct Stage {
    /// From the grid of the stage before; the first stage has none.
    pub downsample: Option<PatchMerging>,
    /// The blocks.
    pub blocks: Vec<Block>,
}

/// From the pooled vector to logits.
#[derive(Module, Debug)]
pub struct Head {
    /// The classifier.
    pub fc: Option<Linear>,
}

impl Head {
    /// A head of zeros; without classes it has no classifier.
    pub(super) fn new(width: usize, num_classes: usize, device: &Device) -> Self {
        Self { fc: (num_classes > 0).then(|| Linear::new(width, num_classes, true, device)) }
    }
}

/// A Swin. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Swin {
    /// From the image to the first grid.
    pub patch_embed: PatchEmbed,
    /// The stages, finest first.
    pub layers: Vec<Stage>,
    /// The norm after the last stage.
    pub norm: LayerNorm,
    /// The head.
    pub head: Head,
    #[module(skip)]
    config: SwinConfig,
}

impl Swin {
    /// How this model is built.
    pub fn config(&self) -> &SwinConfig {
        &self.config
    }
}

impl Stages for Swin {
    const STAGE: &'static str = "layers.";

    fn depths(&self) -> Vec<usize> {
        self.config.depths.clone()
    }

    fn stem(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps {
        let (x, grid) = self.patch_embed.forward(images);
        Maps { x: watch.tokens(format_args!("patch_embed"), x), grid }
    }

    fn block(&self, stage: usize, block: usize, maps: Maps, watch: &mut dyn Observer) -> Maps {
        let Stage { downsample, blocks } = &self.layers[stage];
        let maps = match downsample {
            Some(merging) if block == 0 => {
                let x = merging.forward(maps);
                x.with(watch.tokens(format_args!("layers.{stage}.downsample"), x.x.clone()))
            }
            _ => maps,
        };
        let windows = self.config.windows(stage, block, maps.grid);
        let scope = format_args!("layers.{stage}.blocks.{block}");
        maps.with(blocks[block].forward(maps.x.clone(), &windows, &mut Within::new(watch, scope)))
    }

    fn close(&self, maps: Maps, watch: &mut dyn Observer) -> Maps {
        maps.with(watch.tokens(format_args!("norm"), self.norm.forward(maps.x.clone())))
    }

    fn map_head(&self) -> MapHead<'_> {
        let SwinConfig { global_pool: pool, drop_rate, .. } = self.config;
        MapHead { pool, drop_rate, fc: self.head.fc.as_ref() }
    }

    fn each_part(&mut self, visit: &mut Visitor<'_>) {
        let blocks = self.layers.iter_mut().flat_map(|stage| &mut stage.blocks);
        blocks.for_each(|block| visit(Part::Bias(&mut block.attn.kept)));
    }

    fn block_linears(&self) -> Vec<(String, &Linear)> {
        let mut linears = Vec::new();
        for (stage, Stage { downsample, blocks }) in self.layers.iter().enumerate() {
            let merging = downsample.iter().map(|merging| &merging.reduction);
            linears.extend(merging.map(|layer| (format!("layers.{stage}.downsample.reduction"), layer)));
            for (index, block) in blocks.iter().enumerate() {
                let named = |(name, layer)| (format!("layers.{stage}.blocks.{index}.{name}"), layer);
                linears.extend(block.linears().map(named));
            }
        }
        linears
    }

    fn block_linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let mut linears = Vec::new();
        for (stage, Stage { downsample, blocks }) in self.layers.iter_mut().enumerate() {
            let merging = downsample.iter_mut().map(|merging| &mut merging.reduction);
            linears.extend(merging.map(|layer| (format!("layers.{stage}.downsample.reduction"), layer)));
            for (index, block) in blocks.iter_mut().enumerate() {
                let named = |(name, layer)| (format!("layers.{stage}.blocks.{index}.{name}"), layer);
                linears.extend(block.linears_mut().map(named));
            }
        }
        linears
    }

    fn depth_outside(&self, key: &str) -> Depth {
        match key {
            _ if key.starts_with("head.") => Depth::Head,
            _ if key.starts_with("norm.") => Depth::Close,
            _ => Depth::Stem,
        }
    }

    /// timm's `no_weight_decay`.
    fn weight_decays(&self, key: &str) -> bool {
        !["relative_position_bias_table", "cpb_mlp", "logit_scale"].iter().any(|part| key.contains(part))
    }
}

impl Config for SwinConfig {
    type Model = Swin;

    fn validate(&self) -> Result<(), ConfigError> {
        check_ranges(image_ranges(self.img_size, self.in_chans, self.num_classes))?;
        check_ranges(self.patch_size.map(|side| ("patch_size", side, 1, MAX_SIDE)))?;
        if !(1..=MAX_STAGES).contains(&self.stages()) {
            return refuse("depths", format!("has {} stages, expected 1 to {MAX_STAGES}", self.stages()));
        }
        // Four neighbours of the last but one stage are twice as wide as the last.
        check_ranges([("embed_dim", self.embed_dim, 1, (MAX_WIDTH / 4) >> (self.stages() - 1))])?;
        check_ranges(self.depths.iter().map(|&depth| ("depths", depth, 1, MAX_DEPTH)))?;
        check_ranges(self.head_dim.map(|width| ("head_dim", width, 1, MAX_WIDTH / 4)))?;
        check_ranges(self.window_size.sides().map(|side| ("window_size", side, 1, MAX_WINDOW)))?;
        let pretrained = self.pretrained_window_sizes.sides();
        check_ranges(pretrained.map(|side| ("pretrained_window_sizes", side, 0, MAX_WINDOW)))?;
        for (field, stages, may_be_one) in [
            ("num_heads", self.num_heads.len(), false),
            ("window_size", self.window_size.count(), true),
            ("pretrained_window_sizes", self.pretrained_window_sizes.count(), true),
        ] {
            if stages != self.stages() && !(may_be_one && stages == 1) {
                return refuse(field, format!("has {stages} stages, but depths has {}", self.stages()));
            }
        }
        self.check_heads()?;
        if [0, 1].iter().any(|&axis| self.img_size[axis] < self.patch_size[axis]) {
            let ([h, w], [p, q]) = (self.img_size, self.patch_size);
            return refuse("img_size", format!("is {h}x{w}, expected at least a patch, {p}x{q}"));
        }
        for stage in 0..self.stages() {
            let hidden = self.width(stage) as f64 * self.mlp_ratio;
            if !(1.0..=MAX_WIDTH as f64).contains(&hidden) {
                return refuse("mlp_ratio", format!("makes an MLP of {hidden}, expected 1 to {MAX_WIDTH}"));
            }
        }
        if !self.is_v2() && self.pretrained_window_sizes != StageSizes::square(0) {
            return refuse("pretrained_window_sizes", "belongs to version v2".into());
        }
        if self.is_v2() && self.head_dim.is_some() {
            return refuse("head_dim", "belongs to version v1".into());
        }
        check_eps([("norm_eps", self.norm_eps)])?;
        check_rates([
            ("drop_rate", self.drop_rate),
            ("proj_drop_rate", self.proj_drop_rate),
            ("attn_drop_rate", self.attn_drop_rate),
            ("drop_path_rate", self.drop_path_rate),
        ])
    }

    fn build(&self, device: &Device) -> Swin {
        let block =
            |stage: usize, block: usize| Block::new(self, self.attention(stage), stage, block, device);
        let stage = |stage: usize| Stage {
            downsample: (stage > 0).then(|| PatchMerging::new(self, self.version, stage, device)),
            blocks: (0..self.depths[stage]).map(|index| block(stage, index)).collect(),
        };
        let d = self.num_features();
        Swin {
            patch_embed: PatchEmbed::new(&self.embedding(), device),
            layers: (0..self.stages()).map(stage).collect(),
            norm: self.layer_norm(d, device),
            head: Head::new(d, self.num_classes, device),
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn map_grid(&self) -> Option<[usize; 2]> {
        Some(self.grid(self.stages() - 1))
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let mut walk = MapWalk::new(self.in_chans, self.img_size);
        walk.conv("patch_embed", &self.patches(), 2 * self.embed_dim, ", norm");
        for stage in 0..self.stages() {
            let name = format!("layers.{stage}");
            if stage > 0 {
                self.walk_merging(&mut walk, &name, self.version, stage);
            }
            self.walk_blocks(&mut walk, &name, self.attention(stage), stage);
        }
        let d = self.num_features();
        walk.step("norm", "layer norm".into(), d, 2 * long(d), 0);
        walk.global_pool("head.global_pool", d);
        if self.num_classes > 0 {
            walk.linear("head.fc", [d, self.num_classes], 0, "");
        }
        Ok(walk.end())
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head.fc"]
    }

    /// timm's first values: a truncated normal draw for the tables and the weights of linear layers, zeros for biases. The
    /// norms of V2's branches begin at 0.
    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let (layer, part) = key.rsplit_once('.')?;
        let is_in_block = key.contains(".blocks.");
        match part {
            "relative_position_bias_table" => Some(TABLE),
            "logit_scale" => Some(Draw::Constant(10f64.ln())),
            "q_bias" | "v_bias" => Some(Draw::Constant(0.0)),
            "weight" if self.is_v2() && is_in_block && layer.contains(".norm") => Some(Draw::Constant(0.0)),
            "weight" | "bias" if layer == "patch_embed.proj" => {
                let fan_in = self.in_chans * self.patch_size[0] * self.patch_size[1];
                WeightInit::Timm.convolution(part, fan_in)
            }
            "weight" if shape.len() == 2 => WeightInit::Timm.linear(part, shape),
            _ => norm(part),
        }
    }
}

impl SwinConfig {
    fn check_heads(&self) -> Result<(), ConfigError> {
        for (stage, &heads) in self.num_heads.iter().enumerate() {
            let width = self.width(stage);
            check_ranges([("num_heads", heads, 1, width.max(1))])?;
            if self.head_dim.is_none() && !width.is_multiple_of(heads) {
                return refuse("num_heads", format!("has {heads}, which do not divide a width of {width}"));
            }
            let inner = heads * self.head_dim.unwrap_or(0); // both are within their limits
            check_ranges([("head_dim", inner, 0, MAX_WIDTH / 4)])?;
        }
        Ok(())
    }

    /// The step to the grid of a stage, whose name is `name`.
    pub(super) fn walk_merging(&self, walk: &mut MapWalk, name: &str, version: SwinVersion, stage: usize) {
        let (from, to) = (4 * self.width(stage - 1), self.width(stage));
        walk.grid = self.grid(stage);
        let positions = walk.grid.map(long).iter().product();
        let norm = if version == SwinVersion::V2 { to } else { from };
        let (params, macs) = (long(from * to + 2 * norm), product(positions, long(from), long(to)));
        let what = format!("2 × 2 neighbours, norm, linear {from} → {to}");
        walk.step(&format!("{name}.downsample"), what, to, params, macs);
    }

    /// The steps of the blocks of a stage, whose name is `name`.
    pub(super) fn walk_blocks(
        &self,
        walk: &mut MapWalk,
        name: &str,
        attention: WindowAttentionConfig,
        stage: usize,
    ) {
        let first = walk.steps.0.len();
        let name = |layer: &str| format!("{name}.blocks.N.{layer}");
        let WindowAttentionConfig { dim, num_heads, head_dim, window: [h, w], .. } = attention;
        let windows = self.windows(stage, 0, self.grid(stage));
        let (inner, hidden) = (num_heads * head_dim, self.mlp_hidden(stage));
        let positions = walk.grid.map(long).iter().product();
        let qkv = dim * 3 * inner + 2 * dim + attention.qkv_biases();
        let what = format!("norm, linear {dim} → {}", 3 * inner);
        walk.step(
            &name("attn.qkv"),
            what,
            3 * inner,
            long(qkv),
            product(positions, long(dim), long(3 * inner)),
        );
        let area = long(windows.area());
        let scores = product(long(windows.count()) * area, area, 2 * long(inner));
        let [params, of_bias] = attention.bias_costs();
        let rolled = self.windows(stage, 1, self.grid(stage));
        // A mask per window joins the bias of a map that is rolled and that the windows do not divide.
        let is_masked = self.depths[stage] > 1 && rolled.shift != [0, 0] && !rolled.divide();
        let masks = if is_masked { long(rolled.count()) } else { 0 };
        walk.hold(product(long(num_heads), area, area).saturating_mul(1 + masks));
        let what = format!("{num_heads} heads within windows of {h} × {w}, a bias per offset");
        walk.step(&name("attn"), what, inner, params, scores.saturating_add(of_bias));
        walk.linear(&name("attn.proj"), [inner, dim], 0, ", plus the block's input");
        walk.linear(&name("mlp.fc1"), [dim, hidden], 2 * dim, ", norm, activation");
        walk.linear(&name("mlp.fc2"), [hidden, dim], 0, ", plus the block's input");
        walk.steps.0[first..].iter_mut().for_each(|step| step.repeat = self.depths[stage]);
    }
}
