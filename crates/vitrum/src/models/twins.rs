//! Twins — Chu et al. 2021, "Twins: Revisiting the Design of Spatial Attention in Vision Transformers", arXiv:2104.13840.
//!
//! ```text
//! image [B, C, H, W] → stages at H/4, H/8, H/16, H/32 → norm → mean → logits [B, K]
//! stage: patches of 4x4 (2x2 from the second stage on), norm → block 0 → x + depthwise 3x3(x) → blocks 1, 2, …
//! block: z' = z + attention(LN(z)), z = z' + MLP(LN(z'))
//! ```
//!
//! Positions come from the depthwise kernel after the first block of a stage ("PEG",
//! [`PosConv`]). Two models differ in their attention:
//!
//! - Twins-PCPVT: every position attends to a coarser grid ([`ReducedAttention`]).
//! - Twins-SVT: the blocks 0, 2, 4, … attend within windows of SxS positions (equation 4), the others to the coarser grid.
//!
//! A map that the windows do not fill gets zeros below and at the right. As in timm, they are keys like all others.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::limits::{
    MAX_DEPTH, MAX_SIDE, MAX_WIDTH, check_eps, check_ranges, check_rates, image_ranges, refuse,
};
use super::network::{Config, Depth, ImageInput, Input};
use super::shapes::{Walk, long, product};
use super::stages::{MapHead, MapWalk, Part, Stages, Visitor, drop_rate};
use crate::layers::Linear;
use crate::layers::attention::{Attention, AttentionConfig, BlockBias};
use crate::layers::conv::{Conv, ConvConfig, Maps, Padding};
use crate::layers::drop::{drop_path, dropout, records};
use crate::layers::init::{Draw, TABLE, norm};
use crate::layers::mlp::{Activation, Mlp};
use crate::layers::names::Flat;
use crate::layers::norm::LayerNorm;
use crate::layers::observe::{Observer, Within};
use crate::layers::pool::MapPool;
use crate::layers::position::PosConv;
use crate::layers::reduced_attention::{ReducedAttention, ReducedAttentionConfig};
use crate::layers::window::Windows;

/// Epsilon of the norms after patches and of coarser grids: torch's default, whatever `norm_eps` says.
const GRID_EPS: f64 = 1e-5;

/// How a Twins is built. The default is Twins-PCPVT-S at 224 pixels, 1000 classes. Names are timm's; lists have one
/// entry for each stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TwinsConfig {
    /// Usual size of the images, `[H, W]` in pixels. The network takes any whose maps hold the kernels of `sr_ratios`.
    pub img_size: [usize; 2],
    /// Side of the patches of the image.
    pub patch_size: usize,
    /// `C`: channels of an image.
    pub in_chans: usize,
    /// `K`; 0 for no head.
    pub num_classes: usize,
    /// `D`: width of the tokens.
    pub embed_dims: [usize; 4],
    /// `A`: heads of attention.
    pub num_heads: [usize; 4],
    /// `F / D`: width of the MLP over width of a token; `F = floor(D * mlp_ratio)`.
    pub mlp_ratios: [f64; 4],
    /// Number of blocks.
    pub depths: [usize; 4],
    /// `R`: positions along each axis that become one key of the coarser grid.
    pub sr_ratios: [usize; 4],
    /// `S`: side of the windows in the blocks 0, 2, …; 1 for no windows. `None`: no windows anywhere (PCPVT).
    pub wss: Option<[usize; 4]>,
    /// Epsilon of the norms of blocks and of the last one. The others have 1e-5.
    pub norm_eps: f64,
    /// Dropout before the head.
    pub drop_rate: f64,
    /// Dropout after the patches of each stage.
    pub pos_drop_rate: f64,
    /// Dropout after the projections of attention and MLP.
    pub proj_drop_rate: f64,
    /// Dropout on attention weights.
    pub attn_drop_rate: f64,
    /// Stochastic depth of the last block; the first has none.
    pub drop_path_rate: f64,
}

impl Default for TwinsConfig {
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            patch_size: 4,
            in_chans: 3,
            num_classes: 1000,
            embed_dims: [64, 128, 320, 512],
            num_heads: [1, 2, 5, 8],
            mlp_ratios: [8.0, 8.0, 4.0, 4.0],
            depths: [3, 4, 6, 3],
            sr_ratios: [8, 4, 2, 1],
            wss: None,
            norm_eps: 1e-6,
            drop_rate: 0.0,
            pos_drop_rate: 0.0,
            proj_drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
        }
    }
}

impl TwinsConfig {
    /// Width of the last tokens.
    pub fn num_features(&self) -> usize {
        self.embed_dims[3]
    }

    /// `F`: width of the MLP.
    fn hidden(&self, stage: usize) -> usize {
        (self.embed_dims[stage] as f64 * self.mlp_ratios[stage]) as usize
    }

    /// Side of the windows of a block; `None`: it attends to the coarser grid.
    fn window(&self, stage: usize, block: usize) -> Option<usize> {
        self.wss.map(|sides| sides[stage]).filter(|&side| side > 1 && block.is_multiple_of(2))
    }

    /// Positions along each axis that a block of the stage needs.
    fn least_map(&self, stage: usize) -> usize {
        let is_reduced = |block| self.window(stage, block).is_none();
        if (0..self.depths[stage].min(2)).any(is_reduced) { self.sr_ratios[stage] } else { 1 }
    }

    /// Smallest side of an image, in pixels.
    fn least_side(&self) -> usize {
        let map = (0..4).rev().fold(0, |next, stage| self.least_map(stage).max(2 * next));
        self.patch_size * map
    }

    /// The kernel over the patches of a stage.
    fn patches(&self, stage: usize) -> ConvConfig {
        let (from, side) = match stage {
            0 => (self.in_chans, self.patch_size),
            _ => (self.embed_dims[stage - 1], 2),
        };
        let conv = ConvConfig::new(from, self.embed_dims[stage], side).stride(side);
        conv.padding(Padding::None).bias(true)
    }

    fn reduced(&self, stage: usize) -> ReducedAttentionConfig {
        ReducedAttentionConfig {
            dim: self.embed_dims[stage],
            num_heads: self.num_heads[stage],
            qkv_bias: true,
            sr_ratio: self.sr_ratios[stage],
            norm_eps: GRID_EPS,
            attn_drop: self.attn_drop_rate,
            proj_drop: self.proj_drop_rate,
        }
    }

    fn grouped(&self, stage: usize) -> AttentionConfig {
        AttentionConfig {
            attn_drop: self.attn_drop_rate,
            proj_drop: self.proj_drop_rate,
            norm_eps: self.norm_eps,
            ..AttentionConfig::new(self.embed_dims[stage], self.num_heads[stage])
        }
    }
}

/// Patches and their norm.
#[derive(Module, Debug)]
pub struct Patches {
    /// The kernel.
    pub proj: Conv,
    /// Its norm.
    pub norm: LayerNorm,
}

/// Self-attention within windows ("locally grouped").
#[derive(Module, Debug)]
pub struct GroupedAttention {
    /// The attention of one window.
    pub attn: Flat<Attention>,
    window: usize,
}

impl GroupedAttention {
    /// What enters the output projection: projected maps `[B, H·W, 3D] -> [B, H·W, D]`.
    fn context(&self, qkv: Tensor<3>, grid: [usize; 2], watch: &mut dyn Observer) -> Tensor<3> {
        let windows = Windows { grid, window: [self.window; 2], shift: [0, 0], pad_first: true };
        self.attn.context_in(qkv, &windows, watch)
    }
}

/// The attention of a block.
// The size of a variant does not matter: there are a few dozen, beside megabytes of weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum TwinsAttention {
    /// Within windows.
    Grouped(GroupedAttention),
    /// To a coarser grid.
    Reduced(ReducedAttention),
}

impl TwinsAttention {
    /// What enters the output projection, of the normed maps: `[B, H·W, D] -> [B, H·W, D]`.
    fn context(&self, maps: &Maps, norm: &LayerNorm, watch: &mut dyn Observer) -> Tensor<3> {
        match self {
            Self::Grouped(grouped) if !watch.wants_tokens() && !records(&maps.x) => {
                let qkv = grouped.attn.qkv.after(norm, maps.x.clone());
                grouped.context(qkv, maps.grid, &mut Within::new(watch, format_args!("attn")))
            }
            _ => {
                let y = maps.with(watch.tokens(format_args!("norm1"), norm.forward(maps.x.clone())));
                let attn = &mut Within::new(watch, format_args!("attn"));
                match self {
                    Self::Grouped(grouped) => grouped.context(grouped.attn.qkv.forward(y.x), y.grid, attn),
                    Self::Reduced(reduced) => reduced.context(&y, attn),
                }
            }
        }
    }

    /// The output projection with its dropout.
    fn project(&self, context: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Grouped(attention) => attention.attn.project(context),
            Self::Reduced(attention) => attention.project(context),
        }
    }

    /// The output projection.
    fn proj(&self) -> &Linear {
        match self {
            Self::Grouped(attention) => &attention.attn.proj,
            Self::Reduced(attention) => &attention.proj,
        }
    }
}

/// A block.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm before attention.
    pub norm1: LayerNorm,
    /// Attention.
    pub attn: TwinsAttention,
    /// The norm before the MLP.
    pub norm2: LayerNorm,
    /// The MLP.
    pub mlp: Mlp,
    drop_path: f64,
}

impl Block {
    fn new(config: &TwinsConfig, stage: usize, block: usize, device: &Device) -> Self {
        let (d, hidden) = (config.embed_dims[stage], config.hidden(stage));
        let attention = || Flat::new(Attention::new(&config.grouped(stage), BlockBias::default(), device));
        Self {
            norm1: LayerNorm::new(d, config.norm_eps, device),
            attn: match config.window(stage, block) {
                Some(window) => TwinsAttention::Grouped(GroupedAttention { attn: attention(), window }),
                None => TwinsAttention::Reduced(ReducedAttention::new(&config.reduced(stage), device)),
            },
            norm2: LayerNorm::new(d, config.norm_eps, device),
            mlp: Mlp::new(d, hidden, Activation::Gelu, true, config.proj_drop_rate, device),
            drop_path: drop_rate(config.drop_path_rate, &config.depths, stage, block),
        }
    }

    /// Maps `[B, H·W, D] -> [B, H·W, D]`.
    pub fn forward(&self, maps: &Maps, watch: &mut dyn Observer) -> Maps {
        let x = maps.x.clone();
        let context = self.attn.context(maps, &self.norm1, watch);
        if !watch.wants_tokens() && !records(&x) {
            let x = self.attn.proj().add_to(x, context, None);
            return maps.with(self.mlp.add_after(x.clone(), &self.norm2, x, None));
        }
        let y = watch.tokens(format_args!("attn"), self.attn.project(context));
        let x = x + drop_path(y, self.drop_path);
        let y = watch.tokens(format_args!("norm2"), self.norm2.forward(x.clone()));
        let y = watch.tokens(format_args!("mlp"), self.mlp.forward(y));
        maps.with(watch.tokens(format_args!(""), x + drop_path(y, self.drop_path)))
    }

    fn linears(&self) -> Vec<(&'static str, &Linear)> {
        let mut layers = match &self.attn {
            TwinsAttention::Grouped(GroupedAttention { attn, .. }) => {
                let mut layers = attn.qkv.linears();
                layers.push(("attn.proj", &attn.proj));
                layers
            }
            TwinsAttention::Reduced(attn) => {
                vec![("attn.q", &attn.q), ("attn.kv", &attn.kv), ("attn.proj", &attn.proj)]
            }
        };
        layers.extend([("mlp.fc1", &self.mlp.fc1), ("mlp.fc2", &self.mlp.fc2)]);
        layers
    }

    fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let mut layers = match &mut self.attn {
            TwinsAttention::Grouped(GroupedAttention { attn, .. }) => {
                let Attention { qkv, proj, .. } = &mut attn.inner;
                let mut layers = qkv.linears_mut();
                layers.push(("attn.proj", proj));
                layers
            }
            TwinsAttention::Reduced(ReducedAttention { q, kv, proj, .. }) => {
                vec![("attn.q", q), ("attn.kv", kv), ("attn.proj", proj)]
            }
        };
        layers.extend([("mlp.fc1", &mut self.mlp.fc1), ("mlp.fc2", &mut self.mlp.fc2)]);
        layers
    }
}

/// A Twins. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Twins {
    /// The patches of each stage.
    pub patch_embeds: Vec<Patches>,
    /// The blocks of each stage.
    pub blocks: Vec<Vec<Block>>,
    /// The positions of each stage, after its first block.
    pub pos_block: Vec<PosConv>,
    /// The last norm.
    pub norm: LayerNorm,
    /// `D -> K`.
    pub head: Option<Linear>,
    #[module(skip)]
    config: TwinsConfig,
}

impl Twins {
    /// How this model is built.
    pub fn config(&self) -> &TwinsConfig {
        &self.config
    }

    /// The patches of a stage: images or the maps of the stage before to `[B, H·W, D]`.
    fn embed(&self, stage: usize, maps: &Maps, watch: &mut dyn Observer) -> Maps {
        let Patches { proj, norm } = &self.patch_embeds[stage];
        let maps = proj.forward(maps);
        let x = watch.tokens(format_args!("patch_embeds.{stage}"), norm.forward(maps.x.clone()));
        maps.with(watch.tokens(format_args!("pos_drops.{stage}"), dropout(x, self.config.pos_drop_rate)))
    }
}

impl Stages for Twins {
    const HEAD: &'static str = "head";

    fn depths(&self) -> Vec<usize> {
        self.config.depths.to_vec()
    }

    fn stem(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps {
        self.embed(0, &Maps::of_images(images), watch)
    }

    fn block(&self, stage: usize, block: usize, maps: Maps, watch: &mut dyn Observer) -> Maps {
        let maps = if stage > 0 && block == 0 { self.embed(stage, &maps, watch) } else { maps };
        let maps = self.blocks[stage][block]
            .forward(&maps, &mut Within::new(watch, format_args!("blocks.{stage}.{block}")));
        if block > 0 {
            return maps;
        }
        let maps = self.pos_block[stage].of_maps(&maps);
        maps.with(watch.tokens(format_args!("pos_block.{stage}"), maps.x.clone()))
    }

    fn close(&self, maps: Maps, watch: &mut dyn Observer) -> Maps {
        maps.with(watch.tokens(format_args!("norm"), self.norm.forward(maps.x.clone())))
    }

    fn map_head(&self) -> MapHead<'_> {
        MapHead { pool: MapPool::Avg, drop_rate: self.config.drop_rate, fc: self.head.as_ref() }
    }

    fn drop_map_head(&mut self) {
        self.head = None;
    }

    fn each_part(&mut self, visit: &mut Visitor<'_>) {
        self.patch_embeds.iter_mut().for_each(|patches| visit(Part::Conv(&mut patches.proj)));
        for block in self.blocks.iter_mut().flatten() {
            if let TwinsAttention::Reduced(ReducedAttention { sr: Some(conv), .. }) = &mut block.attn {
                visit(Part::Conv(conv));
            }
        }
        self.pos_block.iter_mut().for_each(|encoding| visit(Part::Conv(&mut encoding.proj._0)));
    }

    fn block_linears(&self) -> Vec<(String, &Linear)> {
        named(self.blocks.iter().map(|stage| stage.iter().map(Block::linears)))
    }

    fn block_linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        named(self.blocks.iter_mut().map(|stage| stage.iter_mut().map(Block::linears_mut)))
    }

    /// timm's `group_matcher`: patches and positions of a stage belong to its first block.
    fn block_of(key: &str) -> Option<(usize, usize)> {
        let (list, rest) = key.split_once('.')?;
        let mut numbers = rest.split('.').map_while(|part| part.parse().ok());
        let stage = numbers.next()?;
        match list {
            "blocks" => Some((stage, numbers.next()?)),
            "pos_block" => Some((stage, 0)),
            "patch_embeds" if stage > 0 => Some((stage, 0)),
            _ => None,
        }
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
        !key.starts_with("pos_block.")
    }
}

/// Layers of all blocks with their names.
fn named<T>(stages: impl Iterator<Item = impl Iterator<Item = Vec<(&'static str, T)>>>) -> Vec<(String, T)> {
    let mut named = Vec::new();
    for (stage, blocks) in stages.enumerate() {
        for (block, layers) in blocks.enumerate() {
            let name = |(layer, of)| (format!("blocks.{stage}.{block}.{layer}"), of);
            named.extend(layers.into_iter().map(name));
        }
    }
    named
}

impl Config for TwinsConfig {
    type Model = Twins;

    fn validate(&self) -> Result<(), ConfigError> {
        check_ranges(image_ranges(self.img_size, self.in_chans, self.num_classes))?;
        check_ranges([("patch_size", self.patch_size, 1, MAX_SIDE)])?;
        check_ranges(self.embed_dims.map(|width| ("embed_dims", width, 1, MAX_WIDTH)))?;
        check_ranges(self.num_heads.map(|heads| ("num_heads", heads, 1, MAX_WIDTH)))?;
        check_ranges(self.depths.map(|depth| ("depths", depth, 1, MAX_DEPTH)))?;
        check_ranges(self.sr_ratios.map(|ratio| ("sr_ratios", ratio, 1, MAX_SIDE)))?;
        check_ranges(self.wss.unwrap_or([1; 4]).map(|side| ("wss", side, 1, MAX_WINDOW)))?;
        for stage in 0..4 {
            let (d, heads) = (self.embed_dims[stage], self.num_heads[stage]);
            if !d.is_multiple_of(heads) {
                return refuse(
                    "embed_dims",
                    format!("has {d}, which is not a multiple of num_heads {heads}"),
                );
            }
            let (ratio, hidden) = (self.mlp_ratios[stage], self.hidden(stage));
            if !(ratio > 0.0 && ratio <= 64.0 && (1..=MAX_WIDTH).contains(&hidden)) {
                let expected = format!("positive numbers up to 64 and an MLP 1 to {MAX_WIDTH} wide");
                return refuse("mlp_ratios", format!("has {ratio}, expected {expected}"));
            }
        }
        check_eps([("norm_eps", self.norm_eps)])?;
        check_rates([
            ("drop_rate", self.drop_rate),
            ("pos_drop_rate", self.pos_drop_rate),
            ("proj_drop_rate", self.proj_drop_rate),
            ("attn_drop_rate", self.attn_drop_rate),
            ("drop_path_rate", self.drop_path_rate),
        ])?;
        let ([h, w], least) = (self.img_size, self.least_side());
        if h < least || w < least {
            return refuse("img_size", format!("is {h}x{w}, expected at least {least}x{least}"));
        }
        Ok(())
    }

    fn build(&self, device: &Device) -> Twins {
        let d = self.num_features();
        let patches = |stage: usize| Patches {
            proj: self.patches(stage).init(device),
            norm: LayerNorm::new(self.embed_dims[stage], GRID_EPS, device),
        };
        let blocks =
            |stage: usize| (0..self.depths[stage]).map(|i| Block::new(self, stage, i, device)).collect();
        Twins {
            patch_embeds: (0..4).map(patches).collect(),
            blocks: (0..4).map(blocks).collect(),
            pos_block: self.embed_dims.iter().map(|&width| PosConv::new(width, device)).collect(),
            norm: LayerNorm::new(d, self.norm_eps, device),
            head: (self.num_classes > 0).then(|| Linear::new(d, self.num_classes, true, device)),
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn map_grid(&self) -> Option<[usize; 2]> {
        Some((0..4).fold(self.img_size, |grid, stage| self.patches(stage).out(grid)))
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let mut walk = MapWalk::new(self.in_chans, self.img_size);
        for stage in 0..4 {
            let (depth, d) = (self.depths[stage], self.embed_dims[stage]);
            walk.conv(&format!("patch_embeds.{stage}"), &self.patches(stage), 2 * d, ", norm");
            match self.window(stage, 0) {
                Some(window) => {
                    self.walk_blocks(&mut walk, stage, ("0", "2N", depth.div_ceil(2)), Some(window));
                    self.walk_blocks(&mut walk, stage, ("1", "2N+1", depth / 2), None);
                }
                None => self.walk_blocks(&mut walk, stage, ("0", "N", depth), None),
            }
            let what = ", added to what leaves block 0";
            walk.conv(&format!("pos_block.{stage}"), &PosConv::config(d), 0, what);
        }
        let d = self.num_features();
        walk.step("norm", "layer norm".into(), d, 2 * long(d), 0);
        walk.global_pool("global_pool", d);
        if self.num_classes > 0 {
            walk.linear("head", [d, self.num_classes], 0, "");
        }
        Ok(walk.end())
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head"]
    }

    /// timm's first values: normal draws, of deviation 0.02 for linear layers, by He et al. 2015 for kernels.
    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let (layer, part) = key.rsplit_once('.')?;
        match (part, shape) {
            ("weight", &[_, _]) => Some(TABLE),
            ("weight", &[height, width, _, outputs]) => {
                let groups = if layer.starts_with("pos_block.") { outputs } else { 1 };
                Some(Draw::Normal((2.0 / (height * width * outputs / groups) as f64).sqrt()))
            }
            _ => norm(part),
        }
    }
}

/// Largest side of a window.
const MAX_WINDOW: usize = 1 << 8;

impl TwinsConfig {
    /// The steps of `count` blocks of a stage with the same attention. In names the only one has the number `first`,
    /// several have `each`.
    fn walk_blocks(
        &self,
        walk: &mut MapWalk,
        stage: usize,
        (first, each, count): (&str, &str, usize),
        window: Option<usize>,
    ) {
        if count == 0 {
            return;
        }
        let index = if count == 1 { first } else { each };
        let (before, grid) = (walk.steps.0.len(), walk.grid);
        let (d, hidden, heads) = (self.embed_dims[stage], self.hidden(stage), self.num_heads[stage]);
        let name = |layer: &str| format!("blocks.{stage}.{index}.{layer}");
        let positions = |grid: [usize; 2]| grid.map(long).iter().product::<u64>();
        let keys = match window {
            Some(side) => {
                walk.grid = grid.map(|positions| positions.div_ceil(side) * side);
                let what = format!(", of windows of {side} × {side}, after a norm");
                walk.linear(&name("attn.qkv"), [d, 3 * d], 2 * d, &what);
                side * side
            }
            None => {
                walk.linear(&name("attn.q"), [d, d], 2 * d, ", after a norm");
                if let Some(conv) = self.reduced(stage).reduction() {
                    walk.conv(&name("attn.sr"), &conv, 2 * d, ", norm");
                }
                walk.linear(&name("attn.kv"), [d, 2 * d], 0, "");
                walk.grid.iter().product()
            }
        };
        let queries = if window.is_some() { walk.grid } else { grid };
        walk.grid = queries;
        let macs = product(positions(queries), long(keys), long(d));
        let scores = heads.saturating_mul(keys);
        walk.step(&name("attn.scores"), "softmax(q·kᵀ / √E)".into(), scores, 0, macs);
        walk.step(&name("attn.context"), "scores · v, heads side by side".into(), d, 0, macs);
        walk.hold(product(positions(queries), 4, long(d)));
        walk.grid = grid;
        walk.linear(&name("attn.proj"), [d, d], 0, ", plus the block's input");
        walk.linear(&name("mlp.fc1"), [d, hidden], 2 * d, ", activation, after a norm");
        walk.linear(&name("mlp.fc2"), [hidden, d], 0, ", plus the MLP's input");
        walk.hold(product(positions(grid), 1, long(2 * d + hidden)));
        walk.steps.0[before..].iter_mut().for_each(|step| step.repeat = count);
    }
}
