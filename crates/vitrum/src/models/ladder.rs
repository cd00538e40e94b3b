//! From ResNet-50 to ConvNeXt-T, step by step — Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545, section 2 and
//! table 10.
//!
//! ```text
//! ResNet-50:   image → 7x7 and a pool → 3, 4, 6, 3 blocks → mean → logits
//!              block: relu(x + norm(1x1(relu(norm(3x3(relu(norm(1x1(x)))))))))
//! ConvNeXt-T:  image → 4x4, norm → 3, 3, 9, 3 blocks → mean → norm → logits
//!              block: x + gamma · 1x1(gelu(1x1(norm(depthwise 7x7(x)))))
//! ```
//!
//! Each [`LadderStep`] changes one thing and keeps the rest. Every step is a model of its own. The authors published code
//! only for the two ends. Where their text leaves a choice, the networks here have the multiply-accumulates of their table.
//! That settles these points:
//!
//! - Width doubles in each stage. A block changes the width in its widening layer. If the depthwise kernel comes first, it
//!   has the width of the block's input.
//! - Only a block that changes the shape of its maps projects its shortcut. From the inverted bottleneck on, the first
//!   stage does not.
//! - A convolution without a norm behind it has a bias. The last step has biases everywhere, as ConvNeXt.
//! - From the step of fewer activations on, the stem has no activation.
//! - LayerScale comes with the last step. The paper's text counts it as part of the recipe.

#[cfg(feature = "plots")]
pub mod chart;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vitrum_kernels::Pool;

use super::ConfigError;
use super::limits::{check_ranges, check_rates, image_ranges, refuse};
use super::network::{Config, ImageInput, Input};
use super::shapes::{Walk, long};
use super::stages::{MapHead, MapWalk, Part, Stages, Visitor, check_grid, drop_rate};
use crate::layers::batch_norm::BatchNorm;
use crate::layers::conv::{Conv, ConvConfig, Maps, Padding, Then, conv_norm};
use crate::layers::drop::{drop_path, training};
use crate::layers::init::{Draw, TABLE, norm};
use crate::layers::mlp::Activation;
use crate::layers::norm::LayerNorm;
use crate::layers::observe::{Observer, Within};
use crate::layers::pool::MapPool;
use crate::layers::{Linear, parameter};

/// A step of the ladder. Each one builds on the step before it. The steps of 5, 9 and 11 are trials: the next step builds on
/// the kernel of 7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LadderStep {
    /// ResNet-50, trained with ConvNeXt's recipe.
    #[default]
    Resnet50,
    /// As many blocks in each stage as Swin-T has, in its ratio.
    StageRatio,
    /// Patches that do not overlap, in place of a large kernel and a pool.
    Patchify,
    /// Spatial kernels that do not mix channels.
    Depthwise,
    /// One and a half times as wide.
    Width,
    /// Blocks that are wide inside and narrow outside.
    InvertedBottleneck,
    /// The spatial kernel first, where the block is narrow.
    MoveUp,
    /// A kernel of 5x5.
    Kernel5,
    /// A kernel of 7x7.
    Kernel7,
    /// A kernel of 9x9.
    Kernel9,
    /// A kernel of 11x11.
    Kernel11,
    /// GELU in place of ReLU.
    Gelu,
    /// One non-linearity in each block.
    FewerActivations,
    /// One norm in each block.
    FewerNorms,
    /// Norms over channels in place of norms over the batch.
    LayerNorm,
    /// Layers of their own between stages: ConvNeXt-T.
    Downsample,
}

/// What the paper's table 10 says of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Published {
    /// Billions of multiply-accumulates of one image of 224 pixels.
    pub gmacs: f64,
    /// Top-1 accuracy on ImageNet-1k in percent, the mean of three runs.
    pub top1: f64,
}

impl LadderStep {
    /// All steps, in their order.
    pub const ALL: [Self; 16] = [
        Self::Resnet50,
        Self::StageRatio,
        Self::Patchify,
        Self::Depthwise,
        Self::Width,
        Self::InvertedBottleneck,
        Self::MoveUp,
        Self::Kernel5,
        Self::Kernel7,
        Self::Kernel9,
        Self::Kernel11,
        Self::Gelu,
        Self::FewerActivations,
        Self::FewerNorms,
        Self::LayerNorm,
        Self::Downsample,
    ];

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resnet50 => "resnet50",
            Self::StageRatio => "stage_ratio",
            Self::Patchify => "patchify",
            Self::Depthwise => "depthwise",
            Self::Width => "width",
            Self::InvertedBottleneck => "inverted_bottleneck",
            Self::MoveUp => "move_up",
            Self::Kernel5 => "kernel5",
            Self::Kernel7 => "kernel7",
            Self::Kernel9 => "kernel9",
            Self::Kernel11 => "kernel11",
            Self::Gelu => "gelu",
            Self::FewerActivations => "fewer_activations",
            Self::FewerNorms => "fewer_norms",
            Self::LayerNorm => "layer_norm",
            Self::Downsample => "downsample",
        }
    }

    /// What the step changes.
    pub fn change(self) -> &'static str {
        match self {
            Self::Resnet50 => "ResNet-50 with ConvNeXt's recipe (76.13 % with its own)",
            Self::StageRatio => "blocks (3, 4, 6, 3) become (3, 3, 9, 3)",
            Self::Patchify => "4x4 at a step of 4 in place of 7x7 and a pool",
            Self::Depthwise => "3x3 kernels become depthwise",
            Self::Width => "width 64 becomes 96",
            Self::InvertedBottleneck => "four times as wide inside a block, not outside",
            Self::MoveUp => "the depthwise kernel comes first",
            Self::Kernel5 => "depthwise kernels of 5x5",
            Self::Kernel7 => "depthwise kernels of 7x7",
            Self::Kernel9 => "depthwise kernels of 9x9",
            Self::Kernel11 => "depthwise kernels of 11x11",
            Self::Gelu => "ReLU becomes GELU (kernels of 7x7)",
            Self::FewerActivations => "one activation per block, between the 1x1 kernels",
            Self::FewerNorms => "one norm per block, before the 1x1 kernels",
            Self::LayerNorm => "BatchNorm becomes LayerNorm",
            Self::Downsample => "norm and 2x2 between stages, a last norm: ConvNeXt-T",
        }
    }

    /// Whether the next steps build on this one. If not, it is a trial.
    pub fn is_kept(self) -> bool {
        !matches!(self, Self::Kernel5 | Self::Kernel9 | Self::Kernel11)
    }

    /// The paper's numbers. Its 4.46 for LayerNorm is probably a misprint: norms are not counted, and in its table of larger
    /// models this step changes nothing. Its 4.49 for the last step counts the norms between stages.
    pub fn published(self) -> Published {
        let (gmacs, top1) = match self {
            Self::Resnet50 => (4.09, 78.82),
            Self::StageRatio => (4.53, 79.36),
            Self::Patchify => (4.42, 79.51),
            Self::Depthwise => (2.35, 78.28),
            Self::Width => (5.27, 80.50),
            Self::InvertedBottleneck => (4.64, 80.64),
            Self::MoveUp => (4.07, 79.92),
            Self::Kernel5 => (4.10, 80.35),
            Self::Kernel7 => (4.15, 80.57),
            Self::Kernel9 => (4.21, 80.57),
            Self::Kernel11 => (4.29, 80.47),
            Self::Gelu => (4.15, 80.62),
            Self::FewerActivations => (4.15, 81.27),
            Self::FewerNorms => (4.15, 81.41),
            Self::LayerNorm => (4.46, 81.47),
            Self::Downsample => (4.49, 81.97),
        };
        Published { gmacs, top1 }
    }
}

/// A step with what the paper says of it and what the network here needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LadderRow {
    /// The step.
    pub step: LadderStep,
    /// What it changes.
    pub change: &'static str,
    /// Whether the next steps build on it.
    pub is_kept: bool,
    /// Parameters.
    pub params: u64,
    /// Multiply-accumulates of one image of 224 pixels.
    pub macs: u64,
    /// The paper's numbers.
    pub published: Published,
}

/// The whole ladder at the paper's sizes.
///
/// # Errors
/// None for these sizes; the type is that of [`Config::walk`].
pub fn rows() -> Result<Vec<LadderRow>, ConfigError> {
    let row = |step: LadderStep| {
        let Walk { params, macs, .. } = LadderConfig { step, ..LadderConfig::default() }.walk()?;
        let (change, is_kept, published) = (step.change(), step.is_kept(), step.published());
        Ok(LadderRow { step, change, is_kept, params, macs, published })
    };
    LadderStep::ALL.into_iter().map(row).collect()
}

/// How a step of the ladder is built. The default is ResNet-50 at 224 pixels, 1000 classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LadderConfig {
    /// Usual size of the images, `[H, W]` in pixels. The network takes any that leave a position in the last map.
    pub img_size: [usize; 2],
    /// `C`: channels of an image.
    pub in_chans: usize,
    /// `K`; 0 for no head.
    pub num_classes: usize,
    /// The step.
    pub step: LadderStep,
    /// Width of the first stage, even; from the step of width on it is one and a half times as wide.
    pub width: usize,
    /// Dropout before the head.
    pub drop_rate: f64,
    /// Stochastic depth of the last block; the first has none.
    pub drop_path_rate: f64,
}

impl Default for LadderConfig {
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            in_chans: 3,
            num_classes: 1000,
            step: LadderStep::Resnet50,
            width: 64,
            drop_rate: 0.0,
            drop_path_rate: 0.0,
        }
    }
}

/// Epsilon of batch norms, as in PyTorch.
const BATCH_EPS: f64 = 1e-5;
/// Epsilon of layer norms, as in ConvNeXt.
const LAYER_EPS: f64 = 1e-6;
/// First value of LayerScale's gains.
const LAYER_SCALE: f64 = 1e-6;

/// A convolution with what follows it.
#[derive(Clone, Copy, Debug)]
struct LayerConfig {
    conv: ConvConfig,
    norm: bool,
    act: Option<Activation>,
}

/// The design that the steps change.
impl LadderConfig {
    /// Whether a step is done.
    fn has(&self, step: LadderStep) -> bool {
        self.step >= step
    }

    /// Blocks of each stage.
    pub fn depths(&self) -> [usize; 4] {
        if self.has(LadderStep::StageRatio) { [3, 3, 9, 3] } else { [3, 4, 6, 3] }
    }

    /// The narrow width of a stage.
    fn narrow(&self, stage: usize) -> usize {
        let width = if self.has(LadderStep::Width) { self.width * 3 / 2 } else { self.width };
        width << stage
    }

    /// Width of a stage's maps.
    fn outside(&self, stage: usize) -> usize {
        if self.has(LadderStep::InvertedBottleneck) { self.narrow(stage) } else { 4 * self.narrow(stage) }
    }

    /// Width inside a stage's blocks.
    fn inside(&self, stage: usize) -> usize {
        if self.has(LadderStep::InvertedBottleneck) { 4 * self.narrow(stage) } else { self.narrow(stage) }
    }

    /// Channels of the last map.
    pub fn num_features(&self) -> usize {
        self.outside(3)
    }

    /// Side of the spatial kernels.
    fn kernel(&self) -> usize {
        match self.step {
            LadderStep::Kernel5 => 5,
            LadderStep::Kernel9 => 9,
            LadderStep::Kernel11 => 11,
            step if step >= LadderStep::Kernel7 => 7,
            _ => 3,
        }
    }

    fn act(&self) -> Activation {
        if self.has(LadderStep::Gelu) { Activation::Gelu } else { Activation::Relu }
    }

    /// The non-linearity where only the earlier steps have one.
    fn earlier_act(&self) -> Option<Activation> {
        (!self.has(LadderStep::FewerActivations)).then(|| self.act())
    }

    /// Whether a layer of its own stands before each stage but the first.
    fn is_separate(&self) -> bool {
        self.has(LadderStep::Downsample)
    }

    /// The first convolution; a pool follows before the step of patches.
    fn stem(&self) -> LayerConfig {
        let conv = |kernel| ConvConfig::new(self.in_chans, self.narrow(0), kernel).bias(self.is_separate());
        let conv = match self.has(LadderStep::Patchify) {
            true => conv(4).stride(4).padding(Padding::None),
            false => conv(7).stride(2),
        };
        LayerConfig { conv, norm: true, act: self.earlier_act() }
    }

    /// The convolution that coarsens the grid before a stage, after a norm.
    fn downsample(&self, stage: usize) -> Option<ConvConfig> {
        let conv = || ConvConfig::new(self.outside(stage - 1), self.outside(stage), 2).stride(2);
        (stage > 0 && self.is_separate()).then(|| conv().padding(Padding::None).bias(true))
    }

    /// Channels before a block.
    fn before(&self, stage: usize, block: usize) -> usize {
        match (stage, block) {
            (0, 0) => self.narrow(0),
            (_, 0) if !self.is_separate() => self.outside(stage - 1),
            _ => self.outside(stage),
        }
    }

    /// The step of a block's spatial kernel.
    fn stride(&self, stage: usize, block: usize) -> usize {
        if stage > 0 && block == 0 && !self.is_separate() { 2 } else { 1 }
    }

    /// The three convolutions of a block.
    fn block(&self, stage: usize, block: usize) -> [LayerConfig; 3] {
        let (from, inside, to) = (self.before(stage, block), self.inside(stage), self.outside(stage));
        let spatial = |width: usize| {
            let groups = if self.has(LadderStep::Depthwise) { width } else { 1 };
            ConvConfig::new(width, width, self.kernel()).stride(self.stride(stage, block)).groups(groups)
        };
        let convs = match self.has(LadderStep::MoveUp) {
            true => [spatial(from), ConvConfig::new(from, inside, 1), ConvConfig::new(inside, to, 1)],
            false => [ConvConfig::new(from, inside, 1), spatial(inside), ConvConfig::new(inside, to, 1)],
        };
        let norms = if self.has(LadderStep::FewerNorms) { [true, false, false] } else { [true; 3] };
        // Before the step of fewer activations the last one follows the sum.
        let acts = [self.earlier_act(), Some(self.act()), None];
        [0, 1, 2].map(|place| LayerConfig {
            conv: convs[place].bias(self.is_separate() || !norms[place]),
            norm: norms[place],
            act: acts[place],
        })
    }

    /// The projection of a shortcut; `None`: the shortcut is the identity.
    fn shortcut(&self, stage: usize, block: usize) -> Option<LayerConfig> {
        let (from, to) = (self.before(stage, block), self.outside(stage));
        let stride = self.stride(stage, block);
        let conv = ConvConfig::new(from, to, 1).stride(stride);
        (stride > 1 || from != to).then_some(LayerConfig { conv, norm: true, act: None })
    }
}

/// A norm of maps.
#[derive(Module, Debug)]
// A network has few norms, and their weights are on the heap.
#[allow(clippy::large_enum_variant)]
pub enum Norm {
    /// Over the batch and the map.
    Batch(BatchNorm),
    /// Over the channels.
    Layer(LayerNorm),
}

/// A convolution with its norm and its non-linearity.
#[derive(Module, Debug)]
pub struct Layer {
    /// The convolution.
    pub conv: Conv,
    /// Its norm.
    pub norm: Option<Norm>,
    #[module(skip)]
    act: Option<Activation>,
}

impl Layer {
    /// `act(norm(conv(x)) + residual)`; the observer's scope is this layer.
    fn forward(&self, x: &Maps, then: Then, watch: &mut dyn Observer) -> Maps {
        let then = Then { act: then.act.or(self.act), ..then };
        let y = match &self.norm {
            Some(Norm::Batch(norm)) => return conv_norm(&self.conv, ("norm", norm), x, then, watch),
            Some(Norm::Layer(norm)) => {
                let y = self.conv.forward(x);
                y.with(norm.forward(y.x.clone()))
            }
            None => self.conv.forward(x),
        };
        let Maps { x, grid } = y;
        let x = match then.residual {
            Some(residual) => x + residual,
            None => x,
        };
        Maps { x: then.act.map_or(x.clone(), |act| act.forward(x)), grid }
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        visit(Part::Conv(&mut self.conv));
        if let Some(Norm::Batch(norm)) = &mut self.norm {
            visit(Part::BatchNorm(norm));
        }
    }
}

/// A residual block of three convolutions.
#[derive(Module, Debug)]
pub struct Block {
    /// The first convolution.
    pub a: Layer,
    /// The second.
    pub b: Layer,
    /// The third, to the width outside.
    pub c: Layer,
    /// The projection of the shortcut; `None`: the identity.
    pub shortcut: Option<Layer>,
    /// A gain per channel (LayerScale), in the last step.
    pub gamma: Option<Param<Tensor<1>>>,
    #[module(skip)]
    act: Option<Activation>,
    drop_path: f64,
}

impl Block {
    fn new(config: &LadderConfig, stage: usize, block: usize, device: &Device) -> Self {
        let [a, b, c] = config.block(stage, block).map(|layer| config.layer(&layer, device));
        Self {
            a,
            b,
            c,
            shortcut: config.shortcut(stage, block).map(|layer| config.layer(&layer, device)),
            gamma: config.is_separate().then(|| parameter([config.outside(stage)], device)),
            act: config.earlier_act(),
            drop_path: drop_rate(config.drop_path_rate, &config.depths(), stage, block),
        }
    }

    /// Maps `[B, H·W, C] -> [B, H'·W', D]`.
    pub fn forward(&self, x: Maps, watch: &mut dyn Observer) -> Maps {
        let mut layer = |layer: &Layer, name: &str, x: &Maps, then: Then| {
            layer.forward(x, then, &mut Within::new(watch, format_args!("{name}")))
        };
        let shortcut = match &self.shortcut {
            Some(shortcut) => layer(shortcut, "shortcut", &x, Then::default()).x,
            None => x.x.clone(),
        };
        let y = layer(&self.a, "a", &x, Then::default());
        let y = layer(&self.b, "b", &y, Then::default());
        let drops = self.drop_path > 0.0 && training(&y.x);
        if self.gamma.is_none() && !drops {
            return layer(&self.c, "c", &y, Then { residual: Some(shortcut), act: self.act });
        }
        let Maps { x: y, grid } = layer(&self.c, "c", &y, Then::default());
        let y = match &self.gamma {
            Some(gamma) => y * gamma.val().unsqueeze(),
            None => y,
        };
        let x = drop_path(y, self.drop_path) + shortcut;
        Maps { x: self.act.map_or(x.clone(), |act| act.forward(x)), grid }
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        let own = [&mut self.a, &mut self.b, &mut self.c];
        own.into_iter().chain(&mut self.shortcut).for_each(|layer| layer.visit_parts(visit));
    }
}

/// A norm, then a kernel of 2x2 at a step of 2.
#[derive(Module, Debug)]
pub struct Downsample {
    /// The norm.
    pub norm: LayerNorm,
    /// The kernel.
    pub conv: Conv,
}

/// Blocks on one grid.
#[derive(Module, Debug)]
pub struct Stage {
    /// From the grid of the stage before, in the last step.
    pub downsample: Option<Downsample>,
    /// The blocks.
    pub blocks: Vec<Block>,
}

/// From the pooled vector to logits.
#[derive(Module, Debug)]
pub struct Head {
    /// The last norm, in the last step.
    pub norm: Option<LayerNorm>,
    /// The classifier.
    pub fc: Option<Linear>,
}

/// A step of the ladder.
#[derive(Module, Debug)]
pub struct Ladder {
    /// From the image to the first grid.
    pub stem: Layer,
    /// The stages, finest first.
    pub stages: Vec<Stage>,
    /// The head.
    pub head: Head,
    #[module(skip)]
    config: LadderConfig,
}

impl Ladder {
    /// How this model is built.
    pub fn config(&self) -> &LadderConfig {
        &self.config
    }
}

impl Stages for Ladder {
    fn depths(&self) -> Vec<usize> {
        self.config.depths().to_vec()
    }

    fn stem(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps {
        let inside = &mut Within::new(watch, format_args!("stem"));
        let x = self.stem.forward(&Maps::of_images(images), Then::default(), inside);
        let x = match self.config.has(LadderStep::Patchify) {
            true => x,
            false => x.pool(Pool::Max, 3, 2, Padding::Symmetric),
        };
        x.with(watch.tokens(format_args!("stem"), x.x.clone()))
    }

    fn block(&self, stage: usize, block: usize, maps: Maps, watch: &mut dyn Observer) -> Maps {
        let Stage { downsample, blocks } = &self.stages[stage];
        let maps = match downsample {
            Some(Downsample { norm, conv }) if block == 0 => {
                let x = conv.forward(&maps.with(norm.forward(maps.x.clone())));
                x.with(watch.tokens(format_args!("stages.{stage}.downsample"), x.x.clone()))
            }
            _ => maps,
        };
        let y = blocks[block]
            .forward(maps, &mut Within::new(watch, format_args!("stages.{stage}.blocks.{block}")));
        y.with(watch.tokens(format_args!("stages.{stage}.blocks.{block}"), y.x.clone()))
    }

    fn map_head(&self) -> MapHead<'_> {
        MapHead { pool: MapPool::Avg, drop_rate: self.config.drop_rate, fc: self.head.fc.as_ref() }
    }

    fn after_pool(&self, x: Tensor<2>, watch: &mut dyn Observer) -> Tensor<2> {
        match &self.head.norm {
            Some(norm) => watch.vectors(format_args!("head.norm"), norm.forward(x)),
            None => x,
        }
    }

    fn drop_map_head(&mut self) {
        self.head = Head { norm: None, fc: None };
    }

    fn each_part(&mut self, visit: &mut Visitor<'_>) {
        self.stem.visit_parts(visit);
        for Stage { downsample, blocks } in &mut self.stages {
            downsample.iter_mut().for_each(|downsample| visit(Part::Conv(&mut downsample.conv)));
            blocks.iter_mut().for_each(|block| block.visit_parts(visit));
        }
    }
}

impl LadderConfig {
    fn norm(&self, channels: usize, device: &Device) -> Norm {
        match self.has(LadderStep::LayerNorm) {
            true => Norm::Layer(LayerNorm::new(channels, LAYER_EPS, device)),
            false => Norm::Batch(BatchNorm { eps: BATCH_EPS, ..BatchNorm::new(channels, device) }),
        }
    }

    fn layer(&self, layer: &LayerConfig, device: &Device) -> Layer {
        let LayerConfig { conv, norm, act } = *layer;
        Layer { conv: conv.init(device), norm: norm.then(|| self.norm(conv.channels[1], device)), act }
    }

    /// The grid after the stem.
    fn first_grid(&self) -> [usize; 2] {
        let grid = self.stem().conv.out(self.img_size);
        match self.has(LadderStep::Patchify) {
            true => grid,
            false => Padding::Symmetric.form(grid, [3, 3], [2, 2], [1, 1]).out(),
        }
    }

    /// The grid of a stage from that of the stage before.
    fn next_grid(&self, grid: [usize; 2], stage: usize) -> [usize; 2] {
        match self.downsample(stage) {
            Some(conv) => conv.out(grid),
            None => self.block(stage, 0).iter().fold(grid, |grid, layer| layer.conv.out(grid)),
        }
    }

    /// One block of the walk.
    fn walk_block(&self, walk: &mut MapWalk, name: &str, stage: usize, block: usize) {
        let grid = walk.grid;
        let norm = |layer: &LayerConfig| match layer.norm {
            true => (2 * layer.conv.channels[1], ", norm"),
            false => (0, ""),
        };
        for (layer, place) in self.block(stage, block).iter().zip(["a", "b", "c"]) {
            let (mut params, what) = norm(layer);
            if place == "c" && self.is_separate() {
                params += layer.conv.channels[1]; // the gains
            }
            let act = if layer.act.is_some() { ", activation" } else { "" };
            walk.conv(&format!("{name}.{place}"), &layer.conv, params, &format!("{what}{act}"));
        }
        let after = walk.grid;
        if let Some(layer) = self.shortcut(stage, block) {
            walk.grid = grid;
            walk.conv(&format!("{name}.shortcut"), &layer.conv, norm(&layer).0, ", norm");
        }
        walk.grid = after;
    }
}

impl Config for LadderConfig {
    type Model = Ladder;

    fn validate(&self) -> Result<(), ConfigError> {
        check_ranges(image_ranges(self.img_size, self.in_chans, self.num_classes))?;
        // The last maps are up to 48 times as wide.
        check_ranges([("width", self.width, 2, 1024)])?;
        if !self.width.is_multiple_of(2) {
            return refuse("width", format!("is {}, expected an even number", self.width));
        }
        check_rates([("drop_rate", self.drop_rate), ("drop_path_rate", self.drop_path_rate)])?;
        let downsampling = (1..4).filter_map(|stage| self.downsample(stage));
        check_grid(self.img_size, &[self.stem().conv].into_iter().chain(downsampling).collect::<Vec<_>>())
    }

    fn build(&self, device: &Device) -> Ladder {
        let downsample = |conv: ConvConfig| Downsample {
            norm: LayerNorm::new(conv.channels[0], LAYER_EPS, device),
            conv: conv.init(device),
        };
        let stage = |stage: usize| Stage {
            downsample: self.downsample(stage).map(downsample),
            blocks: (0..self.depths()[stage]).map(|block| Block::new(self, stage, block, device)).collect(),
        };
        let d = self.num_features();
        Ladder {
            stem: self.layer(&self.stem(), device),
            stages: (0..4).map(stage).collect(),
            head: Head {
                norm: self.is_separate().then(|| LayerNorm::new(d, LAYER_EPS, device)),
                fc: (self.num_classes > 0).then(|| Linear::new(d, self.num_classes, true, device)),
            },
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn map_grid(&self) -> Option<[usize; 2]> {
        Some((1..4).fold(self.first_grid(), |grid, stage| self.next_grid(grid, stage)))
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let mut walk = MapWalk::new(self.in_chans, self.img_size);
        let stem = self.stem().conv;
        walk.conv("stem", &stem, 2 * stem.channels[1], ", norm");
        if !self.has(LadderStep::Patchify) {
            walk.pool("stem.pool", "3 × 3, the maximum", stem.channels[1], self.first_grid());
        }
        for (stage, depth) in self.depths().into_iter().enumerate() {
            if let Some(conv) = self.downsample(stage) {
                walk.conv(
                    &format!("stages.{stage}.downsample"),
                    &conv,
                    2 * conv.channels[0],
                    ", after a norm",
                );
            }
            self.walk_block(&mut walk, &format!("stages.{stage}.blocks.0"), stage, 0);
            let first = walk.steps.0.len();
            self.walk_block(&mut walk, &format!("stages.{stage}.blocks.N"), stage, 1);
            walk.steps.0[first..].iter_mut().for_each(|step| step.repeat = depth - 1);
        }
        let d = self.num_features();
        walk.global_pool("head.global_pool", d);
        if self.is_separate() {
            walk.step("head.norm", "layer norm".into(), d, 2 * long(d), 0);
        }
        if self.num_classes > 0 {
            walk.linear("head.fc", [d, self.num_classes], 0, "");
        }
        Ok(walk.end())
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head.fc"]
    }

    /// ConvNeXt's first values at every step, since the paper trains all of them with one recipe.
    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let (_, part) = key.rsplit_once('.')?;
        match (part, shape) {
            ("gamma", _) => Some(Draw::Constant(LAYER_SCALE)),
            ("weight", &[_, _] | &[_, _, _, _]) => Some(TABLE),
            _ => norm(part),
        }
    }
}
