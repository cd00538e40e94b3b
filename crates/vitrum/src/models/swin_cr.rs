//! Swin V2 as timm has it beside the authors' code — Liu et al. 2022, "Swin Transformer V2: Scaling Up Capacity and
//! Resolution", arXiv:2111.09883; timm's `swin_transformer_v2_cr.py`, after code of Christoph Reich.
//!
//! ```text
//! block:      y = x + norm(windows(x));  z = y + norm(mlp(y));  norm(z) in some blocks
//! windows:    softmax(s cos(q, k) + mlp(log offset)) v            within windows of 1/8 of the first map
//! merging:    linear(norm(2x2 neighbours)), before each stage but the first
//! ```
//!
//! Differences from [Swin V2](super::swin):
//!
//! - The size of the windows follows from the map of the patches, and is the same in all stages.
//! - Offsets are `sign(o) ln(1 + |o|)` of positions, not of shares of a window. Their network has 384 hidden values, of which
//!   training drops an eighth, and nothing follows it.
//! - Keys have a bias.
//! - The norm of merging comes first, as in V1.
//! - The sum of a block has a norm in every `extra_norm_period`-th block, and at the ends of stages with
//!   `extra_norm_stage`. The last block always has it; no other norm follows.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::limits::{check_ranges, check_rates, refuse};
use super::network::{Config, ImageInput, Input};
use super::shapes::{Walk, long};
use super::stages::{MapHead, MapWalk, Part, Stages, Visitor};
use super::swin::{self, Head, MAX_WINDOW, PatchMerging, ScoreForm, SwinConfig, SwinVersion};
use crate::layers::Linear;
use crate::layers::conv::Maps;
use crate::layers::init::{Draw, WeightInit, norm};
use crate::layers::names::Flat;
use crate::layers::norm::LayerNorm;
use crate::layers::observe::{Observer, Within};
use crate::layers::patch_embed::PatchEmbed;
use crate::layers::pool::MapPool;
use crate::layers::window::{StageSizes, Windows};

/// A number for all stages, or one for each. A list of two numbers is two stages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StageRatios {
    /// For all stages.
    One(usize),
    /// For each.
    Stages(Vec<usize>),
}

impl StageRatios {
    /// The number of a stage, if there is one.
    fn at(&self, stage: usize) -> Option<usize> {
        match self {
            Self::One(ratio) => Some(*ratio),
            Self::Stages(ratios) => ratios.get(stage).copied(),
        }
    }

    fn fits(&self, stages: usize) -> bool {
        !matches!(self, Self::Stages(ratios) if ratios.len() != stages)
    }
}

/// How a Swin of this form is built. The default is timm's `swinv2_cr_tiny_224`, 1000 classes. Names are timm's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwinCrConfig {
    /// Usual size of the images, `[H, W]` in pixels. Windows follow from it. The network takes any image that holds a patch.
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
    /// Rows and columns of the windows; `None`: by `window_ratio`.
    pub window_size: Option<StageSizes>,
    /// Rows and columns of patches over those of a window, in every stage.
    pub window_ratio: StageRatios,
    /// Windows keep their size and are shifted on every map.
    pub always_partition: bool,
    /// Width of the MLP over width of a token; `F = floor(D * mlp_ratio)`.
    pub mlp_ratio: f64,
    /// First value of the weights of the norms at the ends of branches; `None`: 1.
    pub init_values: Option<f64>,
    /// Every block of a stage with a number that this divides ends with a norm; 0: none does.
    pub extra_norm_period: usize,
    /// Whether every stage ends with a norm, not only the last.
    pub extra_norm_stage: bool,
    /// Added to the variance in the norms.
    pub norm_eps: f64,
    /// How the last map becomes one vector.
    pub global_pool: MapPool,
    /// Dropout before the head.
    pub drop_rate: f64,
    /// Dropout after projections and in the MLP.
    pub proj_drop_rate: f64,
    /// Dropout on attention weights.
    pub attn_drop_rate: f64,
    /// Stochastic depth of the last block; the first has none.
    pub drop_path_rate: f64,
    /// Dropout in the networks of biases. No option of timm's, which always has 0.125.
    pub meta_drop_rate: f64,
}

impl Default for SwinCrConfig {
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            patch_size: [4, 4],
            in_chans: 3,
            num_classes: 1000,
            embed_dim: 96,
            depths: vec![2, 2, 6, 2],
            num_heads: vec![3, 6, 12, 24],
            window_size: None,
            window_ratio: StageRatios::One(8),
            always_partition: false,
            mlp_ratio: 4.0,
            init_values: Some(0.0),
            extra_norm_period: 0,
            extra_norm_stage: false,
            norm_eps: 1e-5,
            global_pool: MapPool::Avg,
            drop_rate: 0.0,
            proj_drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
            meta_drop_rate: 0.125,
        }
    }
}

impl SwinCrConfig {
    /// The windows of each stage on the maps of an image of `img_size`.
    fn window_sizes(&self) -> StageSizes {
        let patches = [0, 1].map(|axis| self.img_size[axis].checked_div(self.patch_size[axis]).unwrap_or(0));
        let of_stage = |stage: usize| {
            let ratio = self.window_ratio.at(stage).unwrap_or(0);
            patches.map(|side| side.checked_div(ratio).unwrap_or(0).max(1))
        };
        let of_ratios = || StageSizes::of_stages((0..self.depths.len().max(1)).map(of_stage).collect());
        self.window_size.clone().unwrap_or_else(of_ratios)
    }

    /// The Swin whose stages have the same maps, windows and branches.
    pub fn swin(&self) -> SwinConfig {
        SwinConfig {
            img_size: self.img_size,
            patch_size: self.patch_size,
            in_chans: self.in_chans,
            num_classes: self.num_classes,
            embed_dim: self.embed_dim,
            depths: self.depths.clone(),
            num_heads: self.num_heads.clone(),
            window_size: self.window_sizes(),
            always_partition: self.always_partition,
            mlp_ratio: self.mlp_ratio,
            version: SwinVersion::V2,
            norm_eps: self.norm_eps,
            global_pool: self.global_pool,
            drop_rate: self.drop_rate,
            proj_drop_rate: self.proj_drop_rate,
            attn_drop_rate: self.attn_drop_rate,
            drop_path_rate: self.drop_path_rate,
            ..SwinConfig::default()
        }
    }

    /// Whether a norm follows the sum of a block.
    pub fn has_extra_norm(&self, stage: usize, block: usize) -> bool {
        let is_last = |of: usize, index: usize| index + 1 == of;
        let in_period = self.extra_norm_period > 0 && (block + 1).is_multiple_of(self.extra_norm_period);
        let ends = is_last(self.depths[stage], block)
            && (self.extra_norm_stage || is_last(self.depths.len(), stage));
        in_period || ends
    }

    fn attention(&self, swin: &SwinConfig, stage: usize) -> swin::WindowAttentionConfig {
        let scores = ScoreForm::Meta(self.meta_drop_rate);
        swin::WindowAttentionConfig { scores, ..swin.attention(stage) }
    }
}

/// A block of Swin V2, then a norm in some of them.
#[derive(Module, Debug)]
pub struct Block {
    /// The residual branches.
    pub branches: Flat<swin::Block>,
    /// The norm of their sum.
    pub norm3: Option<LayerNorm>,
}

impl Block {
    /// Maps `[B, H·W, D] -> [B, H·W, D]`.
    ///
    /// # Panics
    /// If the map has another number of positions than the grid of `windows`.
    pub fn forward(&self, x: Tensor<3>, windows: &Windows, watch: &mut dyn Observer) -> Tensor<3> {
        let x = self.branches.branches(x, windows, watch);
        let x = match &self.norm3 {
            Some(norm) => watch.tokens(format_args!("norm3"), norm.forward(x)),
            None => x,
        };
        watch.tokens(format_args!(""), x)
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

/// A Swin of this form. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct SwinCr {
    /// From the image to the first grid.
    pub patch_embed: PatchEmbed,
    /// The stages, finest first.
    pub stages: Vec<Stage>,
    /// The head.
    pub head: Head,
    #[module(skip)]
    config: SwinCrConfig,
    #[module(skip)]
    swin: SwinConfig,
}

impl SwinCr {
    /// How this model is built.
    pub fn config(&self) -> &SwinCrConfig {
        &self.config
    }
}

impl Stages for SwinCr {
    fn depths(&self) -> Vec<usize> {
        self.config.depths.clone()
    }

    fn stem(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps {
        let (x, grid) = self.patch_embed.forward(images);
        Maps { x: watch.tokens(format_args!("patch_embed"), x), grid }
    }

    fn block(&self, stage: usize, block: usize, maps: Maps, watch: &mut dyn Observer) -> Maps {
        let Stage { downsample, blocks } = &self.stages[stage];
        let maps = match downsample {
            Some(merging) if block == 0 => {
                let x = merging.forward(maps);
                x.with(watch.tokens(format_args!("stages.{stage}.downsample"), x.x.clone()))
            }
            _ => maps,
        };
        let windows = self.swin.windows(stage, block, maps.grid);
        let scope = format_args!("stages.{stage}.blocks.{block}");
        maps.with(blocks[block].forward(maps.x.clone(), &windows, &mut Within::new(watch, scope)))
    }

    fn map_head(&self) -> MapHead<'_> {
        let SwinCrConfig { global_pool: pool, drop_rate, .. } = self.config;
        MapHead { pool, drop_rate, fc: self.head.fc.as_ref() }
    }

    fn each_part(&mut self, visit: &mut Visitor<'_>) {
        let blocks = self.stages.iter_mut().flat_map(|stage| &mut stage.blocks);
        blocks.for_each(|block| visit(Part::Bias(&mut block.branches.attn.kept)));
    }

    fn block_linears(&self) -> Vec<(String, &Linear)> {
        let mut linears = Vec::new();
        for (stage, Stage { downsample, blocks }) in self.stages.iter().enumerate() {
            let merging = downsample.iter().map(|merging| &merging.reduction);
            linears.extend(merging.map(|layer| (format!("stages.{stage}.downsample.reduction"), layer)));
            for (index, block) in blocks.iter().enumerate() {
                let named = |(name, layer)| (format!("stages.{stage}.blocks.{index}.{name}"), layer);
                linears.extend(block.branches.linears().map(named));
            }
        }
        linears
    }

    fn block_linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let mut linears = Vec::new();
        for (stage, Stage { downsample, blocks }) in self.stages.iter_mut().enumerate() {
            let merging = downsample.iter_mut().map(|merging| &mut merging.reduction);
            linears.extend(merging.map(|layer| (format!("stages.{stage}.downsample.reduction"), layer)));
            for (index, block) in blocks.iter_mut().enumerate() {
                let named = |(name, layer)| (format!("stages.{stage}.blocks.{index}.{name}"), layer);
                linears.extend(block.branches.linears_mut().map(named));
            }
        }
        linears
    }
}

impl Config for SwinCrConfig {
    type Model = SwinCr;

    fn validate(&self) -> Result<(), ConfigError> {
        let stages = self.depths.len();
        if !self.window_ratio.fits(stages) {
            let reason = format!("has another number of stages than depths, {stages}");
            return refuse("window_ratio", reason);
        }
        check_ranges((0..stages).filter_map(|stage| {
            let ratio = self.window_ratio.at(stage)?;
            Some(("window_ratio", ratio, 1, usize::MAX))
        }))?;
        let large = self.window_sizes().sides().find(|side| *side > MAX_WINDOW);
        if let (Some(side), None) = (large, &self.window_size) {
            let reason = format!("makes windows of {side}, expected at most {MAX_WINDOW}");
            return refuse("window_ratio", reason);
        }
        if let Some(value) = self.init_values.filter(|value| !value.is_finite()) {
            return refuse("init_values", format!("is {value}, expected a finite number"));
        }
        check_rates([("meta_drop_rate", self.meta_drop_rate)])?;
        self.swin().validate()
    }

    fn build(&self, device: &Device) -> SwinCr {
        let swin = self.swin();
        let block = |stage: usize, block: usize| {
            let branches = swin::Block::new(&swin, self.attention(&swin, stage), stage, block, device);
            let norm = || swin.layer_norm(swin.width(stage), device);
            Block { branches: Flat::new(branches), norm3: self.has_extra_norm(stage, block).then(norm) }
        };
        let stage = |stage: usize| Stage {
            downsample: (stage > 0).then(|| PatchMerging::new(&swin, SwinVersion::V1, stage, device)),
            blocks: (0..self.depths[stage]).map(|index| block(stage, index)).collect(),
        };
        SwinCr {
            patch_embed: PatchEmbed::new(&swin.embedding(), device),
            stages: (0..self.depths.len()).map(stage).collect(),
            head: Head::new(swin.num_features(), self.num_classes, device),
            config: self.clone(),
            swin,
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn map_grid(&self) -> Option<[usize; 2]> {
        self.swin().map_grid()
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let swin = self.swin();
        let mut walk = MapWalk::new(self.in_chans, self.img_size);
        walk.conv("patch_embed", &swin.patches(), 2 * self.embed_dim, ", norm");
        for (stage, &depth) in self.depths.iter().enumerate() {
            let name = format!("stages.{stage}");
            if stage > 0 {
                swin.walk_merging(&mut walk, &name, SwinVersion::V1, stage);
            }
            swin.walk_blocks(&mut walk, &name, self.attention(&swin, stage), stage);
            let norms = (0..depth).filter(|&block| self.has_extra_norm(stage, block)).count();
            if norms > 0 {
                let width = swin.width(stage);
                let name = format!("{name}.blocks.N.norm3");
                walk.step(&name, "layer norm of the sum".into(), width, 2 * long(width), 0);
                walk.steps.0.last_mut().into_iter().for_each(|step| step.repeat = norms);
            }
        }
        let d = swin.num_features();
        walk.global_pool("head.global_pool", d);
        if self.num_classes > 0 {
            walk.linear("head.fc", [d, self.num_classes], 0, "");
        }
        Ok(walk.end())
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head.fc"]
    }

    /// timm's first values: torch's for all layers, the norms at the ends of branches `init_values`, scales of 10.
    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let (layer, part) = key.rsplit_once('.')?;
        match layer.rsplit('.').next()? {
            "attn" if part == "logit_scale" => Some(Draw::Constant(10f64.ln())),
            "norm1" | "norm2" if part == "weight" => Some(Draw::Constant(self.init_values.unwrap_or(1.0))),
            "norm" | "norm1" | "norm2" | "norm3" => norm(part),
            _ => WeightInit::Timm.convolution(part, self.fan_in(layer, shape)?),
        }
    }
}

impl SwinCrConfig {
    /// Inputs of each output of a layer with this name. `shape` is that of its weight or its bias.
    fn fan_in(&self, layer: &str, shape: &[usize]) -> Option<usize> {
        let swin = self.swin();
        if layer == "patch_embed.proj" {
            return Some(self.in_chans * self.patch_size[0] * self.patch_size[1]);
        }
        if let &[inputs, _] = shape {
            return Some(inputs);
        }
        if layer == "head.fc" {
            return Some(swin.num_features());
        }
        let (stage, layer) = layer.strip_prefix("stages.")?.split_once(".blocks.")?;
        let stage = stage.parse::<usize>().ok().filter(|stage| *stage < self.depths.len())?;
        match layer.split_once('.')?.1 {
            "attn.qkv" | "attn.proj" | "mlp.fc1" => Some(swin.width(stage)),
            "mlp.fc2" => Some(swin.mlp_hidden(stage)),
            "attn.meta_mlp.fc1" => Some(2),
            "attn.meta_mlp.fc2" => Some(swin::META_WIDTH),
            _ => None,
        }
    }
}
