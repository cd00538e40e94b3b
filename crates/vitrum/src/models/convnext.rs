//! ConvNeXt — Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545, and ConvNeXt V2 — Woo et al. 2023, "ConvNeXt
//! V2: Co-designing and scaling ConvNets with masked autoencoders", arXiv:2301.00808.
//!
//! ```text
//! image [B, C, H, W] → patches of 4x4, norm → stages at H/4, H/8, H/16, H/32 → mean → norm → logits [B, K]
//! block:      x + gamma · fc2(act(fc1(norm(depthwise 7x7(x)))))         fc1 is four times as wide as x
//!             x + fc2(grn(act(fc1(norm(depthwise 7x7(x))))))            V2
//! downsample: 2x2(norm(x)), before each stage but the first
//! ```
//!
//! Norms are over the channels of each position (LayerNorm). V2 replaces the gain gamma by a norm over the hidden maps,
//! [`GlobalResponseNorm`](crate::layers::norm::GlobalResponseNorm). The configuration also covers timm's variants: stems of
//! overlapping kernels, another size of kernels, a norm before pooling, a hidden layer in the head.
//!
//! Maps have their channels last, so a kernel of 1x1 is a linear layer. `conv_mlp` says only that timm's file holds it as a
//! kernel.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::bit::make_divisible;
use super::limits::{
    MAX_DEPTH, MAX_SIDE, MAX_WIDTH, check_eps, check_ranges, check_rates, image_ranges, refuse,
};
use super::network::{Config, Depth, ImageInput, Input};
use super::shapes::{Walk, long};
use super::stages::{MapHead, MapWalk, Part, Stages, Visitor, check_grid, drop_rate};
use crate::layers::conv::{Conv, ConvConfig, Maps, Padding};
use crate::layers::drop::{drop_path, records};
use crate::layers::init::{Draw, TABLE, norm};
use crate::layers::mlp::{Activation, Mlp};
use crate::layers::norm::{LayerNorm, NormConfig, NormLayer};
use crate::layers::observe::{Observer, Within};
use crate::layers::pool::MapPool;
use crate::layers::{Linear, parameter};

/// Width of the hidden layer of a block over that of its maps.
const EXPANSION: usize = 4;

/// The first convolutions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvNextStem {
    /// One kernel over patches that do not overlap.
    #[default]
    Patch,
    /// Two kernels of 3x3 at steps of 2.
    Overlap,
    /// The same, the first one half as wide.
    OverlapTiered,
    /// The same as `overlap`, with the non-linearity between.
    OverlapAct,
}

/// How a ConvNeXt is built. The default is ConvNeXt-T at 224 pixels, 1000 classes. Names are timm's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvNextConfig {
    /// Usual size of the images, `[H, W]` in pixels. The network takes any that leave a position in the last map.
    pub img_size: [usize; 2],
    /// `C`: channels of an image.
    pub in_chans: usize,
    /// `K`; 0 for no head.
    pub num_classes: usize,
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Width of each stage.
    pub dims: [usize; 4],
    /// Side of each stage's depthwise kernels, odd.
    pub kernel_sizes: [usize; 4],
    /// First value of the gains at the ends of the blocks (LayerScale); `None` for no gains, as in V2.
    pub ls_init_value: Option<f64>,
    /// The first convolutions.
    pub stem_type: ConvNextStem,
    /// Side of the patches of the stem `patch`, up to 7. After patches of 2 the first stage halves its map as the others do.
    pub patch_size: usize,
    /// Factor on the first values of the head.
    pub head_init_scale: f64,
    /// Whether the last norm acts before pooling.
    pub head_norm_first: bool,
    /// Width of a hidden layer before the classifier. Its non-linearity is GELU, whatever `act_layer` says.
    pub head_hidden_size: Option<usize>,
    /// Whether timm's file holds the linear layers of the blocks as kernels of 1x1. It computes the same.
    pub conv_mlp: bool,
    /// Whether convolutions have a bias. The linear layers of the blocks have one either way.
    pub conv_bias: bool,
    /// Whether the hidden maps of a block are normed (V2).
    pub use_grn: bool,
    /// Non-linearity.
    pub act_layer: Activation,
    /// The form of the norms.
    pub norm_layer: NormLayer,
    /// Added to the variance in the norms.
    pub norm_eps: f64,
    /// The same in the last norm; `None`: `norm_eps`. It is 1e-12 in transformers.
    pub head_norm_eps: Option<f64>,
    /// How the last map becomes one vector.
    pub global_pool: MapPool,
    /// Dropout before the head.
    pub drop_rate: f64,
    /// Stochastic depth of the last block; the first has none.
    pub drop_path_rate: f64,
}

impl Default for ConvNextConfig {
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            in_chans: 3,
            num_classes: 1000,
            depths: [3, 3, 9, 3],
            dims: [96, 192, 384, 768],
            kernel_sizes: [7; 4],
            ls_init_value: Some(1e-6),
            stem_type: ConvNextStem::Patch,
            patch_size: 4,
            head_init_scale: 1.0,
            head_norm_first: false,
            head_hidden_size: None,
            conv_mlp: false,
            conv_bias: true,
            use_grn: false,
            act_layer: Activation::Gelu,
            norm_layer: NormLayer::LayerNorm,
            norm_eps: 1e-6,
            head_norm_eps: None,
            global_pool: MapPool::Avg,
            drop_rate: 0.0,
            drop_path_rate: 0.0,
        }
    }
}

impl ConvNextConfig {
    /// Channels of the last map.
    pub fn num_features(&self) -> usize {
        self.dims[3]
    }

    /// Width before the classifier.
    fn head_width(&self) -> usize {
        self.head_hidden_size.unwrap_or(self.num_features())
    }

    /// The convolutions of the stem.
    fn stem(&self) -> Vec<ConvConfig> {
        let (from, to) = (self.in_chans, self.dims[0]);
        let middle = match self.stem_type {
            ConvNextStem::Patch => {
                let patches = ConvConfig::new(from, to, self.patch_size).stride(self.patch_size);
                return vec![patches.padding(Padding::None).bias(self.conv_bias)];
            }
            ConvNextStem::OverlapTiered => make_divisible((to / 2) as f64),
            ConvNextStem::Overlap | ConvNextStem::OverlapAct => to,
        };
        let conv = |from, to| ConvConfig::new(from, to, 3).stride(2).bias(self.conv_bias);
        vec![conv(from, middle), conv(middle, to)]
    }

    /// The convolution that coarsens the grid before a stage.
    fn downsample(&self, stage: usize) -> Option<ConvConfig> {
        let halves = stage > 0 || self.stem_type == ConvNextStem::Patch && self.patch_size == 2;
        let conv = ConvConfig::new(self.dims[stage.saturating_sub(1)], self.dims[stage], 2).stride(2);
        halves.then(|| conv.padding(Padding::None).bias(self.conv_bias))
    }

    /// The convolutions that coarsen the grid, in the order of the network.
    fn strided(&self) -> Vec<ConvConfig> {
        self.stem().into_iter().chain((0..4).filter_map(|stage| self.downsample(stage))).collect()
    }

    /// The depthwise convolution of a stage's blocks.
    fn depthwise(&self, stage: usize) -> ConvConfig {
        let (width, kernel) = (self.dims[stage], self.kernel_sizes[stage]);
        ConvConfig::new(width, width, kernel).groups(width).bias(self.conv_bias)
    }

    fn layer_norm(&self, width: usize, device: &Device) -> LayerNorm {
        NormConfig { layer: self.norm_layer, eps: self.norm_eps }.build(width, device)
    }

    /// The norm after the last stage, here or after pooling.
    fn last_norm(&self, device: &Device) -> LayerNorm {
        let eps = self.head_norm_eps.unwrap_or(self.norm_eps);
        NormConfig { layer: self.norm_layer, eps }.build(self.num_features(), device)
    }
}

/// A kernel over patches and its norm. Field names are places in torch's `Sequential`.
#[derive(Module, Debug)]
pub struct PatchStem {
    /// The kernel.
    pub _0: Conv,
    /// Its norm.
    pub _1: LayerNorm,
}

/// Two kernels of 3x3 and a norm.
#[derive(Module, Debug)]
pub struct OverlapStem {
    /// 3x3 at a step of 2.
    pub _0: Conv,
    /// 3x3 at a step of 2.
    pub _1: Conv,
    /// Its norm.
    pub _2: LayerNorm,
}

/// Two kernels of 3x3 with a non-linearity between, and a norm.
#[derive(Module, Debug)]
pub struct OverlapActStem {
    /// 3x3 at a step of 2, before the non-linearity.
    pub _0: Conv,
    /// 3x3 at a step of 2.
    pub _2: Conv,
    /// Its norm.
    pub _3: LayerNorm,
}

/// The stem.
#[derive(Module, Debug)]
pub enum Stem {
    /// Patches.
    Patch(PatchStem),
    /// Two kernels of 3x3.
    Overlap(OverlapStem),
    /// The same with a non-linearity between.
    OverlapAct(OverlapActStem),
}

/// A norm, then a kernel of 2x2 at a step of 2.
#[derive(Module, Debug)]
pub struct Downsample {
    /// The norm.
    pub _0: LayerNorm,
    /// The kernel.
    pub _1: Conv,
}

/// A residual block.
#[derive(Module, Debug)]
pub struct Block {
    /// The depthwise kernel.
    pub conv_dw: Conv,
    /// Its norm.
    pub norm: LayerNorm,
    /// Two linear layers; in V2 with a norm between.
    pub mlp: Mlp,
    /// A gain per channel, `[D]` (LayerScale).
    pub gamma: Option<Param<Tensor<1>>>,
    drop_path: f64,
}

impl Block {
    fn new(config: &ConvNextConfig, stage: usize, block: usize, device: &Device) -> Self {
        let width = config.dims[stage];
        let mlp = Mlp::new(width, EXPANSION * width, config.act_layer, true, 0.0, device);
        Self {
            conv_dw: config.depthwise(stage).init(device),
            norm: config.layer_norm(width, device),
            mlp: if config.use_grn { mlp.with_grn(device) } else { mlp },
            gamma: config.ls_init_value.map(|_| parameter([width], device)),
            drop_path: drop_rate(config.drop_path_rate, &config.depths, stage, block),
        }
    }

    /// Maps `[B, H·W, D] -> [B, H·W, D]`.
    pub fn forward(&self, x: Maps, watch: &mut dyn Observer) -> Maps {
        let y = self.conv_dw.forward(&x).x;
        let gamma = self.gamma.as_ref().map(|gamma| gamma.val());
        if !watch.wants_tokens() && !records(&y) {
            return x.with(self.mlp.add_after(x.x.clone(), &self.norm, y, gamma));
        }
        let y = watch.tokens(format_args!("conv_dw"), y);
        let y = watch.tokens(format_args!("norm"), self.norm.forward(y));
        let y = watch.tokens(format_args!("mlp"), self.mlp.forward(y));
        let y = match gamma {
            Some(gamma) => y * gamma.unsqueeze(),
            None => y,
        };
        x.with(watch.tokens(format_args!(""), x.x.clone() + drop_path(y, self.drop_path)))
    }
}

/// Blocks on one grid.
#[derive(Module, Debug)]
pub struct Stage {
    /// From the grid of the stage before; `None` if this stage keeps it.
    pub downsample: Option<Downsample>,
    /// The blocks.
    pub blocks: Vec<Block>,
}

/// The hidden layer of a head.
#[derive(Module, Debug)]
pub struct PreLogits {
    /// `D -> F`.
    pub fc: Linear,
}

/// From the pooled vector to logits.
#[derive(Module, Debug)]
pub struct Head {
    /// The last norm, unless it acts before pooling.
    pub norm: Option<LayerNorm>,
    /// The hidden layer.
    pub pre_logits: Option<PreLogits>,
    /// The classifier.
    pub fc: Option<Linear>,
}

/// A ConvNeXt. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct ConvNext {
    /// From the image to the first grid.
    pub stem: Stem,
    /// The stages, finest first.
    pub stages: Vec<Stage>,
    /// The last norm, if it acts before pooling.
    pub norm_pre: Option<LayerNorm>,
    /// The head.
    pub head: Head,
    #[module(skip)]
    config: ConvNextConfig,
}

impl ConvNext {
    /// How this model is built.
    pub fn config(&self) -> &ConvNextConfig {
        &self.config
    }
}

impl Stages for ConvNext {
    fn depths(&self) -> Vec<usize> {
        self.config.depths.to_vec()
    }

    fn stem(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps {
        let x = Maps::of_images(images);
        let (x, norm) = match &self.stem {
            Stem::Patch(PatchStem { _0, _1 }) => (_0.forward(&x), _1),
            Stem::Overlap(OverlapStem { _0, _1, _2 }) => (_1.forward(&_0.forward(&x)), _2),
            Stem::OverlapAct(OverlapActStem { _0, _2, _3 }) => {
                let x = _0.forward(&x);
                (_2.forward(&x.with(self.config.act_layer.forward(x.x.clone()))), _3)
            }
        };
        x.with(watch.tokens(format_args!("stem"), norm.forward(x.x.clone())))
    }

    fn block(&self, stage: usize, block: usize, maps: Maps, watch: &mut dyn Observer) -> Maps {
        let Stage { downsample, blocks } = &self.stages[stage];
        let maps = match downsample {
            Some(Downsample { _0, _1 }) if block == 0 => {
                let x = _1.forward(&maps.with(_0.forward(maps.x.clone())));
                x.with(watch.tokens(format_args!("stages.{stage}.downsample"), x.x.clone()))
            }
            _ => maps,
        };
        blocks[block].forward(maps, &mut Within::new(watch, format_args!("stages.{stage}.blocks.{block}")))
    }

    fn close(&self, maps: Maps, watch: &mut dyn Observer) -> Maps {
        match &self.norm_pre {
            Some(norm) => maps.with(watch.tokens(format_args!("norm_pre"), norm.forward(maps.x.clone()))),
            None => maps,
        }
    }

    fn map_head(&self) -> MapHead<'_> {
        let ConvNextConfig { global_pool: pool, drop_rate, .. } = self.config;
        MapHead { pool, drop_rate, fc: self.head.fc.as_ref() }
    }

    fn after_pool(&self, x: Tensor<2>, watch: &mut dyn Observer) -> Tensor<2> {
        let Head { norm, pre_logits, .. } = &self.head;
        let x = match norm {
            Some(norm) => watch.vectors(format_args!("head.norm"), norm.forward(x)),
            None => x,
        };
        match pre_logits {
            Some(PreLogits { fc }) => {
                watch.vectors(format_args!("head.pre_logits"), Activation::Gelu.forward(fc.forward(x)))
            }
            None => x,
        }
    }

    fn drop_map_head(&mut self) {
        self.head = Head { norm: None, pre_logits: None, fc: None };
    }

    fn each_part(&mut self, visit: &mut Visitor<'_>) {
        match &mut self.stem {
            Stem::Patch(PatchStem { _0, .. }) => visit(Part::Conv(_0)),
            Stem::Overlap(OverlapStem { _0, _1, .. }) => {
                [_0, _1].into_iter().for_each(|conv| visit(Part::Conv(conv)))
            }
            Stem::OverlapAct(OverlapActStem { _0, _2, .. }) => {
                [_0, _2].into_iter().for_each(|conv| visit(Part::Conv(conv)));
            }
        }
        for Stage { downsample, blocks } in &mut self.stages {
            downsample.iter_mut().for_each(|downsample| visit(Part::Conv(&mut downsample._1)));
            blocks.iter_mut().for_each(|block| visit(Part::Conv(&mut block.conv_dw)));
        }
    }

    fn block_linears(&self) -> Vec<(String, &Linear)> {
        let stages = self.stages.iter().map(|stage| stage.blocks.iter());
        named(stages.map(|blocks| blocks.map(|Block { mlp, .. }| [&mlp.fc1, &mlp.fc2])))
    }

    fn block_linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let stages = self.stages.iter_mut().map(|stage| stage.blocks.iter_mut());
        named(stages.map(|blocks| blocks.map(|Block { mlp, .. }| [&mut mlp.fc1, &mut mlp.fc2])))
    }

    fn depth_outside(&self, key: &str) -> Depth {
        match key {
            _ if key.starts_with("head.") => Depth::Head,
            _ if key.starts_with("norm_pre.") => Depth::Close,
            _ => Depth::Stem,
        }
    }
}

/// Names the layers of the MLPs of all stages.
fn named<T>(stages: impl Iterator<Item = impl Iterator<Item = [T; 2]>>) -> Vec<(String, T)> {
    let mut named = Vec::new();
    for (stage, blocks) in stages.enumerate() {
        for (block, layers) in blocks.enumerate() {
            let name = |layer| format!("stages.{stage}.blocks.{block}.mlp.{layer}");
            named.extend(["fc1", "fc2"].map(name).into_iter().zip(layers));
        }
    }
    named
}

impl Config for ConvNextConfig {
    type Model = ConvNext;

    fn validate(&self) -> Result<(), ConfigError> {
        check_ranges(image_ranges(self.img_size, self.in_chans, self.num_classes))?;
        check_ranges(self.depths.map(|depth| ("depths", depth, 1, MAX_DEPTH)))?;
        check_ranges(self.dims.map(|width| ("dims", width, 1, MAX_WIDTH / EXPANSION)))?;
        check_ranges(self.kernel_sizes.map(|side| ("kernel_sizes", side, 1, MAX_SIDE)))?;
        if let Some(even) = self.kernel_sizes.iter().find(|side| side.is_multiple_of(2)) {
            return refuse("kernel_sizes", format!("has {even}, expected odd numbers"));
        }
        if self.stem_type == ConvNextStem::Patch {
            // With patches of 8 and more, timm dilates the kernels of the last stage.
            check_ranges([("patch_size", self.patch_size, 1, 7)])?;
        }
        if let Some(hidden) = self.head_hidden_size {
            check_ranges([("head_hidden_size", hidden, 1, MAX_WIDTH)])?;
            if self.head_norm_first {
                return refuse("head_hidden_size", "does not go together with head_norm_first".into());
            }
        }
        let numbers =
            [("ls_init_value", self.ls_init_value.unwrap_or(0.0)), ("head_init_scale", self.head_init_scale)];
        if let Some((field, value)) = numbers.into_iter().find(|(_, value)| !value.is_finite()) {
            return refuse(field, format!("is {value}, expected a finite number"));
        }
        check_eps([
            ("norm_eps", self.norm_eps),
            ("head_norm_eps", self.head_norm_eps.unwrap_or(self.norm_eps)),
        ])?;
        check_rates([("drop_rate", self.drop_rate), ("drop_path_rate", self.drop_path_rate)])?;
        check_grid(self.img_size, &self.strided())
    }

    fn build(&self, device: &Device) -> ConvNext {
        let first_norm = self.layer_norm(self.dims[0], device);
        let stem: Vec<Conv> = self.stem().into_iter().map(|conv| conv.init(device)).collect();
        let stem = match <[Conv; 2]>::try_from(stem) {
            Ok([first, second]) if self.stem_type == ConvNextStem::OverlapAct => {
                Stem::OverlapAct(OverlapActStem { _0: first, _2: second, _3: first_norm })
            }
            Ok([first, second]) => Stem::Overlap(OverlapStem { _0: first, _1: second, _2: first_norm }),
            Err(mut one) => Stem::Patch(PatchStem { _0: one.remove(0), _1: first_norm }),
        };
        let downsample = |conv: ConvConfig| Downsample {
            _0: self.layer_norm(conv.channels[0], device),
            _1: conv.init(device),
        };
        let stage = |stage: usize| Stage {
            downsample: self.downsample(stage).map(downsample),
            blocks: (0..self.depths[stage]).map(|block| Block::new(self, stage, block, device)).collect(),
        };
        let linear = |from, to| Linear::new(from, to, true, device);
        let d = self.num_features();
        ConvNext {
            stem,
            stages: (0..4).map(stage).collect(),
            norm_pre: self.head_norm_first.then(|| self.last_norm(device)),
            head: Head {
                norm: (!self.head_norm_first).then(|| self.last_norm(device)),
                pre_logits: self.head_hidden_size.map(|hidden| PreLogits { fc: linear(d, hidden) }),
                fc: (self.num_classes > 0).then(|| linear(self.head_width(), self.num_classes)),
            },
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn map_grid(&self) -> Option<[usize; 2]> {
        Some(self.strided().iter().fold(self.img_size, |grid, conv| conv.out(grid)))
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let mut walk = MapWalk::new(self.in_chans, self.img_size);
        let (form, vectors) = (self.norm_layer, self.norm_layer.vectors());
        let stem = self.stem();
        for (index, conv) in stem.iter().enumerate() {
            let is_last = index + 1 == stem.len();
            let place = if self.stem_type == ConvNextStem::OverlapAct { 2 * index } else { index };
            let (norm, what) = if is_last { (vectors * self.dims[0], ", norm") } else { (0, "") };
            walk.conv(&format!("stem.{place}"), conv, norm, what);
        }
        for (stage, (&depth, &width)) in self.depths.iter().zip(&self.dims).enumerate() {
            if let Some(conv) = self.downsample(stage) {
                walk.conv(
                    &format!("stages.{stage}.downsample"),
                    &conv,
                    vectors * conv.channels[0],
                    ", after a norm",
                );
            }
            let first = walk.steps.0.len();
            let name = |layer: &str| format!("stages.{stage}.blocks.N.{layer}");
            walk.conv(&name("conv_dw"), &self.depthwise(stage), vectors * width, ", norm");
            let hidden = EXPANSION * width;
            let (response, what) = if self.use_grn { (2 * hidden, ", response norm") } else { (0, "") };
            walk.linear(&name("mlp.fc1"), [width, hidden], response, &format!(", activation{what}"));
            let (gain, what) = if self.ls_init_value.is_some() { (width, ", gain") } else { (0, "") };
            walk.linear(&name("mlp.fc2"), [hidden, width], gain, &format!("{what}, plus the block's input"));
            walk.steps.0[first..].iter_mut().for_each(|step| step.repeat = depth);
        }
        let d = self.num_features();
        let norm = |walk: &mut MapWalk, name| walk.step(name, form.name().into(), d, long(vectors * d), 0);
        if self.head_norm_first {
            norm(&mut walk, "norm_pre");
        }
        walk.global_pool("head.global_pool", d);
        if !self.head_norm_first {
            norm(&mut walk, "head.norm");
        }
        if let Some(hidden) = self.head_hidden_size {
            walk.linear("head.pre_logits", [d, hidden], 0, ", activation");
        }
        if self.num_classes > 0 {
            walk.linear("head.fc", [self.head_width(), self.num_classes], 0, "");
        }
        Ok(walk.end())
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head.fc"]
    }

    /// timm's first values: a truncated normal draw for all weights, zeros for biases and for V2's norms.
    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let (layer, part) = key.rsplit_once('.')?;
        let is_head = key.starts_with("head.");
        match (part, shape) {
            ("gamma", _) => self.ls_init_value.map(Draw::Constant),
            _ if layer.ends_with(".grn") => Some(Draw::Constant(0.0)),
            ("weight", &[_, _]) if is_head => Some(scaled(TABLE, self.head_init_scale)),
            ("weight", &[_, _] | &[_, _, _, _]) => Some(TABLE),
            _ => norm(part),
        }
    }
}

/// A draw times a factor.
fn scaled(draw: Draw, factor: f64) -> Draw {
    match draw {
        Draw::Truncated(deviation, at) => Draw::Truncated(deviation * factor, at),
        other => other,
    }
}
