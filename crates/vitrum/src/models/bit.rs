//! BiT — Kolesnikov et al. 2019, "Big Transfer", arXiv:1912.11370: the ResNets of the Vision Transformer's paper.
//!
//! ```text
//! image [B, C, H, W] → stem [B, H/4·W/4, 64] → stages at H/4, H/8, H/16, H/32 → norm → mean [B, D] → logits [B, K]
//! block: x + 1x1(act(norm(3x3(act(norm(1x1(act(norm(x)))))))))
//! ```
//!
//! Differences from ResNet ([`resnet`](super::resnet)): norm and activation are before each convolution
//! (arXiv:1603.05027), norms are over groups of channels of each map (arXiv:1803.08494), and kernels are standardised
//! (arXiv:1903.10520). With `preact` false, norms are after the convolutions: the backbone of the paper's hybrid.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vitrum_kernels::Pool;

use super::ConfigError;
use super::limits::{MAX_DEPTH, MAX_WIDTH, check_eps, check_ranges, check_rates, image_ranges, refuse};
use super::network::{Config, Depth, ImageInput, Input};
use super::shapes::{Walk, long};
use super::stages::{MapHead, MapWalk, Part, Stages, Visitor, drop_rate};
use crate::layers::Linear;
use crate::layers::conv::{Conv, ConvConfig, Maps, Padding};
use crate::layers::drop::{drop_path, training};
use crate::layers::init::{Draw, norm};
use crate::layers::mlp::Activation;
use crate::layers::names::Flat;
use crate::layers::norm::GroupNorm;
use crate::layers::observe::Observer;
use crate::layers::pool::MapPool;

/// Padding of the stem's pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BitStem {
    /// PyTorch's padding. It is never the maximum.
    #[serde(rename = "")]
    Plain,
    /// One row of zeros on each side, as in BiT. A zero can be the maximum.
    #[default]
    Fixed,
    /// TensorFlow's SAME, as in the hybrid. It is never the maximum.
    Same,
}

/// How a BiT is built. The default is R50x1 at 224 pixels, 1000 classes. Names are those of timm's `ResNetV2`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BitConfig {
    /// Usual size of the images, `[H, W]` in pixels. The network takes any.
    pub img_size: [usize; 2],
    /// `C`: channels of an image.
    pub in_chans: usize,
    /// `K`; 0 for no head.
    pub num_classes: usize,
    /// Blocks of each stage. Without a stage the network is its stem.
    pub layers: Vec<usize>,
    /// Width of each stage, before `width_factor`.
    pub channels: Vec<usize>,
    /// Multiplies all widths.
    pub width_factor: usize,
    /// Width of the stem, before `width_factor`.
    pub stem_chs: usize,
    /// Padding of the stem's pool.
    pub stem_type: BitStem,
    /// Whether norms are before the convolutions. If not, they are after them.
    pub preact: bool,
    /// Whether kernels have TensorFlow's SAME padding.
    pub same_padding: bool,
    /// Width inside a block over the width outside.
    pub bottle_ratio: f64,
    /// Added to the variance of a kernel.
    pub conv_eps: f64,
    /// Added to the variance in the norms.
    pub norm_eps: f64,
    /// Groups of channels in the norms.
    pub num_groups: usize,
    /// Non-linearity.
    pub act_layer: Activation,
    /// How the last map becomes one vector.
    pub global_pool: MapPool,
    /// Dropout before the head.
    pub drop_rate: f64,
    /// Stochastic depth of the last block; the first has none.
    pub drop_path_rate: f64,
    /// Whether the last convolution of each block (its norm, without `preact`) begins at 0.
    pub zero_init_last: bool,
}

impl Default for BitConfig {
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            in_chans: 3,
            num_classes: 1000,
            layers: vec![3, 4, 6, 3],
            channels: vec![256, 512, 1024, 2048],
            width_factor: 1,
            stem_chs: 64,
            stem_type: BitStem::Fixed,
            preact: true,
            same_padding: false,
            bottle_ratio: 0.25,
            conv_eps: 1e-8,
            norm_eps: 1e-5,
            num_groups: 32,
            act_layer: Activation::Relu,
            global_pool: MapPool::Avg,
            drop_rate: 0.0,
            drop_path_rate: 0.0,
            zero_init_last: false,
        }
    }
}

/// The nearest multiple of 8 that is not more than a tenth smaller (timm's `make_divisible`).
pub(crate) fn make_divisible(width: f64) -> usize {
    let near = ((width as usize + 4) / 8 * 8).max(8);
    if (near as f64) < 0.9 * width { near + 8 } else { near }
}

/// The convolutions of a block.
struct BlockConvs {
    convs: [ConvConfig; 3],
    projection: Option<ConvConfig>,
}

impl BitConfig {
    /// The backbone of the paper's hybrid: R50 without its last stage, which moves to the third.
    pub fn of_hybrid() -> Self {
        Self {
            num_classes: 0,
            layers: vec![3, 4, 9],
            stem_type: BitStem::Same,
            preact: false,
            same_padding: true,
            ..Self::default()
        }
    }

    fn conv(&self, from: usize, to: usize, kernel: usize, stride: usize) -> ConvConfig {
        let padding = if self.same_padding { Padding::Same } else { Padding::Symmetric };
        ConvConfig::new(from, to, kernel).stride(stride).padding(padding).standardize(Some(self.conv_eps))
    }

    fn stem_channels(&self) -> usize {
        make_divisible((self.stem_chs * self.width_factor) as f64)
    }

    fn stem_conv(&self) -> ConvConfig {
        self.conv(self.in_chans, self.stem_channels(), 7, 2)
    }

    /// Channels after a stage.
    fn width(&self, stage: usize) -> usize {
        make_divisible((self.channels[stage] * self.width_factor) as f64)
    }

    /// Channels of the last map.
    pub fn num_features(&self) -> usize {
        match self.layers.len().checked_sub(1) {
            Some(last) => self.width(last),
            None => self.stem_channels(),
        }
    }

    fn block(&self, stage: usize, block: usize) -> BlockConvs {
        let to = self.width(stage);
        let from = match (stage, block) {
            (0, 0) => self.stem_channels(),
            (_, 0) => self.width(stage - 1),
            _ => to,
        };
        let inner = make_divisible(to as f64 * self.bottle_ratio);
        let stride = if stage > 0 && block == 0 { 2 } else { 1 };
        BlockConvs {
            convs: [
                self.conv(from, inner, 1, 1),
                self.conv(inner, inner, 3, stride),
                self.conv(inner, to, 1, 1),
            ],
            projection: (block == 0).then(|| self.conv(from, to, 1, stride)),
        }
    }

    fn norm(&self, channels: usize, device: &Device) -> GroupNorm {
        GroupNorm::new(channels, self.num_groups, self.norm_eps, device)
    }

    /// The grid after the stem's pool.
    fn pooled(&self, grid: [usize; 2]) -> [usize; 2] {
        let (grid, padding) = match self.stem_type {
            BitStem::Plain => (grid, Padding::Symmetric),
            BitStem::Fixed => (grid.map(|side| side + 2), Padding::None),
            BitStem::Same => (grid, Padding::Same),
        };
        padding.form(grid, [3, 3], [2, 2], [1, 1]).out()
    }
}

/// The stem: 7x7 at a step of 2, then a pool.
#[derive(Module, Debug)]
pub struct Stem {
    /// 7x7.
    pub conv: Conv,
    /// Its norm, without `preact`.
    pub norm: Option<GroupNorm>,
}

/// The projection of a shortcut.
#[derive(Module, Debug)]
pub struct Projection {
    /// 1x1.
    pub conv: Conv,
    /// Its norm, without `preact`.
    pub norm: Option<GroupNorm>,
}

/// A residual block.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm of `conv1`: before it with `preact`, otherwise after it. The same holds for the other norms.
    pub norm1: GroupNorm,
    /// 1x1.
    pub conv1: Conv,
    /// The norm of `conv2`.
    pub norm2: GroupNorm,
    /// 3x3.
    pub conv2: Conv,
    /// The norm of `conv3`.
    pub norm3: GroupNorm,
    /// 1x1.
    pub conv3: Conv,
    /// The shortcut; `None`: the identity.
    pub downsample: Option<Projection>,
    #[module(skip)]
    act: Activation,
    preact: bool,
    drop_path: f64,
}

impl Block {
    fn new(config: &BitConfig, stage: usize, block: usize, device: &Device) -> Self {
        let BlockConvs { convs, projection } = config.block(stage, block);
        // A norm has the width of its convolution's input or output.
        let norm = |conv: &ConvConfig| {
            let [from, to] = conv.channels;
            config.norm(if config.preact { from } else { to }, device)
        };
        let project = |conv: ConvConfig| Projection {
            conv: conv.init(device),
            norm: (!config.preact).then(|| norm(&conv)),
        };
        let [conv1, conv2, conv3] = convs;
        Self {
            norm1: norm(&conv1),
            conv1: conv1.init(device),
            norm2: norm(&conv2),
            conv2: conv2.init(device),
            norm3: norm(&conv3),
            conv3: conv3.init(device),
            downsample: projection.map(project),
            act: config.act_layer,
            preact: config.preact,
            drop_path: drop_rate(config.drop_path_rate, &config.layers, stage, block),
        }
    }

    /// Maps `[B, H·W, C] -> [B, H'·W', D]`.
    pub fn forward(&self, x: Maps) -> Maps {
        if self.preact { self.before(x) } else { self.after(x) }
    }

    /// [`forward`](Self::forward) with norms before the convolutions.
    fn before(&self, x: Maps) -> Maps {
        let active = |norm: &GroupNorm, x: Maps| x.with(norm.forward(x.x.clone(), Some(self.act)));
        let start = active(&self.norm1, x.clone());
        let shortcut = match &self.downsample {
            Some(Projection { conv, .. }) => conv.forward(&start),
            None => x,
        };
        let y = self.conv1.forward(&start);
        let y = self.conv2.forward(&active(&self.norm2, y));
        let y = active(&self.norm3, y);
        if self.drop_path == 0.0 || !training(&y.x) {
            return self.conv3.add_to(shortcut.x, &y);
        }
        let y = self.conv3.forward(&y);
        y.with(drop_path(y.x.clone(), self.drop_path) + shortcut.x)
    }

    /// [`forward`](Self::forward) with norms after the convolutions.
    fn after(&self, x: Maps) -> Maps {
        let normed = |(conv, norm): (&Conv, &GroupNorm), x: &Maps, act| {
            let y = conv.forward(x);
            y.with(norm.forward(y.x.clone(), act))
        };
        let shortcut = match &self.downsample {
            Some(Projection { conv, norm: Some(norm) }) => normed((conv, norm), &x, None),
            _ => x.clone(),
        };
        let y = normed((&self.conv1, &self.norm1), &x, Some(self.act));
        let y = normed((&self.conv2, &self.norm2), &y, Some(self.act));
        let y = normed((&self.conv3, &self.norm3), &y, None);
        y.with(self.act.forward(drop_path(y.x.clone(), self.drop_path) + shortcut.x))
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        let own = [&mut self.conv1, &mut self.conv2, &mut self.conv3];
        let shortcut = self.downsample.as_mut().map(|projection| &mut projection.conv);
        own.into_iter().chain(shortcut).for_each(|conv| visit(Part::Conv(conv)));
    }
}

/// A stage.
#[derive(Module, Debug)]
pub struct Stage {
    /// Its blocks.
    pub blocks: Vec<Block>,
}

/// The head.
#[derive(Module, Debug)]
pub struct Head {
    /// `D -> K`; in timm's files a kernel of 1x1.
    pub fc: Option<Linear>,
}

/// A BiT. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Bit {
    /// The stem of a network with stages.
    pub stem: Option<Stem>,
    /// The stem of a network without stages, whose keys have no `stem.`.
    pub alone: Option<Flat<Stem>>,
    /// The stages.
    pub stages: Vec<Stage>,
    /// The last norm, with `preact`.
    pub norm: Option<GroupNorm>,
    /// The head.
    pub head: Head,
    #[module(skip)]
    config: BitConfig,
}

impl Bit {
    /// How this model is built.
    pub fn config(&self) -> &BitConfig {
        &self.config
    }

    fn the_stem(&self) -> &Stem {
        match (&self.stem, &self.alone) {
            (Some(stem), _) => stem,
            (None, Some(stem)) => stem,
            (None, None) => unreachable!("`build` makes one of them"),
        }
    }
}

impl Stages for Bit {
    fn depths(&self) -> Vec<usize> {
        self.config.layers.clone()
    }

    fn stem(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps {
        let Stem { conv, norm } = self.the_stem();
        let y = conv.forward(&Maps::of_images(images));
        let y = match norm {
            Some(norm) => y.with(norm.forward(y.x.clone(), Some(self.config.act_layer))),
            None => y,
        };
        let y = match self.config.stem_type {
            BitStem::Plain => y.pool(Pool::Max, 3, 2, Padding::Symmetric),
            BitStem::Fixed => y.surrounded(1).pool(Pool::Max, 3, 2, Padding::None),
            BitStem::Same => y.pool(Pool::Max, 3, 2, Padding::Same),
        };
        y.with(watch.tokens(format_args!("stem"), y.x.clone()))
    }

    fn block(&self, stage: usize, block: usize, maps: Maps, watch: &mut dyn Observer) -> Maps {
        let y = self.stages[stage].blocks[block].forward(maps);
        y.with(watch.tokens(format_args!("stages.{stage}.blocks.{block}"), y.x.clone()))
    }

    fn close(&self, maps: Maps, watch: &mut dyn Observer) -> Maps {
        let Some(norm) = &self.norm else { return maps };
        let x = norm.forward(maps.x.clone(), Some(self.config.act_layer));
        maps.with(watch.tokens(format_args!("norm"), x))
    }

    fn map_head(&self) -> MapHead<'_> {
        let BitConfig { global_pool: pool, drop_rate, .. } = self.config;
        MapHead { pool, drop_rate, fc: self.head.fc.as_ref() }
    }

    fn each_part(&mut self, visit: &mut Visitor<'_>) {
        let stems = self.stem.as_mut().into_iter().chain(self.alone.as_mut().map(|stem| &mut stem.inner));
        stems.for_each(|stem| visit(Part::Conv(&mut stem.conv)));
        let blocks = self.stages.iter_mut().flat_map(|stage| &mut stage.blocks);
        blocks.for_each(|block| block.visit_parts(visit));
    }

    fn depth_outside(&self, key: &str) -> Depth {
        match key {
            _ if key.starts_with("head.") => Depth::Head,
            _ if key.starts_with("norm.") && self.stem.is_some() => Depth::Close,
            _ => Depth::Stem,
        }
    }
}

impl Config for BitConfig {
    type Model = Bit;

    fn validate(&self) -> Result<(), ConfigError> {
        check_ranges(image_ranges(self.img_size, self.in_chans, self.num_classes))?;
        check_ranges([("layers", self.layers.len(), 0, 4)])?;
        if self.layers.len() > self.channels.len() {
            let (layers, channels) = (self.layers.len(), self.channels.len());
            return refuse("channels", format!("has {channels} widths for {layers} stages"));
        }
        if self.layers.is_empty() && self.num_classes > 0 {
            return refuse("layers", "is empty: a stem alone has no classes".into());
        }
        check_ranges(self.layers.iter().map(|&depth| ("layers", depth, 1, MAX_DEPTH)))?;
        check_ranges(self.channels.iter().map(|&width| ("channels", width, 1, MAX_WIDTH)))?;
        check_ranges([
            ("width_factor", self.width_factor, 1, 64),
            ("stem_chs", self.stem_chs, 1, MAX_WIDTH),
            ("num_groups", self.num_groups, 1, MAX_WIDTH),
        ])?;
        if !(self.bottle_ratio > 0.0 && self.bottle_ratio <= 4.0) {
            return refuse(
                "bottle_ratio",
                format!("is {}, expected a positive number up to 4", self.bottle_ratio),
            );
        }
        let mut widths = vec![self.stem_channels()];
        for stage in 0..self.layers.len() {
            widths.extend([self.width(stage), make_divisible(self.width(stage) as f64 * self.bottle_ratio)]);
        }
        check_ranges(widths.iter().map(|&width| ("channels", width, 1, MAX_WIDTH)))?;
        if let Some(width) = widths.iter().find(|width| !width.is_multiple_of(self.num_groups)) {
            return refuse(
                "num_groups",
                format!("is {}, which does not divide {width} channels", self.num_groups),
            );
        }
        check_eps([("conv_eps", self.conv_eps), ("norm_eps", self.norm_eps)])?;
        check_rates([("drop_rate", self.drop_rate), ("drop_path_rate", self.drop_path_rate)])
    }

    fn build(&self, device: &Device) -> Bit {
        let stem = Stem {
            conv: self.stem_conv().init(device),
            norm: (!self.preact).then(|| self.norm(self.stem_channels(), device)),
        };
        let (stem, alone) =
            if self.layers.is_empty() { (None, Some(Flat::new(stem))) } else { (Some(stem), None) };
        let stage = |(stage, &depth): (usize, &usize)| Stage {
            blocks: (0..depth).map(|block| Block::new(self, stage, block, device)).collect(),
        };
        let d = self.num_features();
        Bit {
            stem,
            alone,
            stages: self.layers.iter().enumerate().map(stage).collect(),
            norm: (self.preact && !self.layers.is_empty()).then(|| self.norm(d, device)),
            head: Head { fc: (self.num_classes > 0).then(|| Linear::new(d, self.num_classes, true, device)) },
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn map_grid(&self) -> Option<[usize; 2]> {
        let mut grid = self.pooled(self.stem_conv().out(self.img_size));
        for (stage, &depth) in self.layers.iter().enumerate() {
            for block in 0..depth {
                grid = self.block(stage, block).convs[1].out(grid);
            }
        }
        Some(grid)
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let mut walk = MapWalk::new(self.in_chans, self.img_size);
        let own_norm = |conv: &ConvConfig| if self.preact { 0 } else { 2 * conv.channels[1] };
        let conv = self.stem_conv();
        walk.conv("stem.conv", &conv, own_norm(&conv), "");
        walk.pool("stem.pool", "3 × 3, the maximum", self.stem_channels(), self.pooled(walk.grid));
        for (stage, &depth) in self.layers.iter().enumerate() {
            for block in 0..depth {
                let name = format!("stages.{stage}.blocks.{block}");
                let BlockConvs { convs, projection } = self.block(stage, block);
                let before = walk.grid;
                for (index, conv) in convs.iter().enumerate() {
                    let [from, to] = conv.channels;
                    let norm = 2 * if self.preact { from } else { to };
                    let what = if self.preact { ", after a norm" } else { ", norm" };
                    walk.conv(&format!("{name}.conv{}", index + 1), conv, norm, what);
                }
                let after = walk.grid;
                if let Some(conv) = projection {
                    walk.grid = before;
                    walk.conv(&format!("{name}.downsample"), &conv, own_norm(&conv), "");
                }
                walk.grid = after;
            }
        }
        if self.preact && !self.layers.is_empty() {
            let (d, groups) = (self.num_features(), self.num_groups);
            walk.step("norm", format!("GroupNorm, {groups} groups"), d, 2 * long(d), 0);
        }
        walk.global_pool("head.global_pool", self.num_features());
        if self.num_classes > 0 {
            walk.linear("head.fc", [self.num_features(), self.num_classes], 0, "");
        }
        Ok(walk.end())
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head.fc"]
    }

    /// timm's first values: He's normal draw for convolutions, a narrow one for the head.
    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let (layer, part) = key.rsplit_once('.')?;
        let last = layer.ends_with(if self.preact { ".conv3" } else { ".norm3" });
        match (part, shape) {
            ("weight", _) if self.zero_init_last && last => Some(Draw::Constant(0.0)),
            ("weight", &[kh, kw, _, n]) => Some(Draw::Normal((2.0 / (kh * kw * n) as f64).sqrt())),
            ("weight", _) if layer == "head.fc" => Some(Draw::Normal(0.01)),
            _ => norm(part),
        }
    }
}
