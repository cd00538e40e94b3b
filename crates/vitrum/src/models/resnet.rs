//! ResNet — He et al. 2015, "Deep residual learning for image recognition", arXiv:1512.03385.
//!
//! ```text
//! image [B, C, H, W] → stem [B, H/4·W/4, 64] → stages at H/4, H/8, H/16, H/32 → mean [B, D] → logits [B, K]
//! block: act(x + norm(conv(act(norm(conv(x))))))        basic, two kernels of 3x3
//!        act(x + 1x1(3x3(1x1(x))))                      bottleneck, a quarter as wide inside
//! ```
//!
//! The step of 2 is in the 3x3 of a bottleneck ("v1.5"), as in torchvision and timm. The configuration also covers ResNeXt
//! (arXiv:1611.05431: `cardinality`), Wide ResNet (arXiv:1605.07146: `base_width`), and ResNet-C, -D and -T
//! (arXiv:1812.01187: `stem_type`, `avg_down`), gates of channels (SE, arXiv:1709.01507; ECA, arXiv:1910.03151:
//! `attn_layer`), means and blurs in place of steps (arXiv:1904.11486: `aa_layer`), ResNet-RS (arXiv:2103.07579) and SENet
//! (`block_reduce_first`, `down_kernel_size`).

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vitrum_kernels::Pool;

use super::ConfigError;
use super::limits::{
    MAX_DEPTH, MAX_SIDE, MAX_WIDTH, check_eps, check_ranges, check_rates, image_ranges, refuse,
};
use super::network::{Config, ImageInput, Input};
use super::shapes::{Walk, long, product};
use super::stages::{MapHead, MapWalk, Part, Stages, Visitor, drop_rate};
use crate::layers::Linear;
use crate::layers::batch_norm::BatchNorm;
pub use crate::layers::conv::{Antialias, MapNormLayer};
use crate::layers::conv::{Conv, ConvConfig, MapNorm, Maps, Padding, Then, conv_norm};
use crate::layers::drop::{drop_path, training};
use crate::layers::init::{Draw, norm};
use crate::layers::mlp::Activation;
use crate::layers::norm::GroupNorm;
use crate::layers::observe::{Observer, Within};
use crate::layers::pool::MapPool;
pub use crate::layers::squeeze_excite::GateLayer;
use crate::layers::squeeze_excite::{ChannelGate, EfficientGate, SqueezeExcite};

/// Groups of GroupNorm, as in timm.
const GROUPS: usize = 32;

/// The form of the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResNetBlock {
    /// Two kernels of 3x3.
    Basic,
    /// 1x1, 3x3, 1x1, with a quarter of the channels inside.
    #[default]
    Bottleneck,
}

/// The first convolutions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResNetStem {
    /// One kernel of 7x7.
    #[default]
    #[serde(rename = "")]
    Plain,
    /// Three kernels of 3x3 (ResNet-C and -D).
    Deep,
    /// Three kernels of 3x3, the first one narrower (ResNet-T).
    DeepTiered,
}

/// How a ResNet is built. The default is ResNet-50 at 224 pixels, 1000 classes. Names are timm's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResNetConfig {
    /// Usual size of the images, `[H, W]` in pixels. The network takes any.
    pub img_size: [usize; 2],
    /// `C`: channels of an image.
    pub in_chans: usize,
    /// `K`; 0 for no head.
    pub num_classes: usize,
    /// The form of the blocks.
    pub block: ResNetBlock,
    /// Blocks of each stage, up to four stages.
    pub layers: Vec<usize>,
    /// Width of each stage. For bottlenecks this is the width inside; the maps have four times as many channels.
    pub channels: Vec<usize>,
    /// The first convolutions.
    pub stem_type: ResNetStem,
    /// Width of the first convolutions of a deep stem.
    pub stem_width: usize,
    /// Whether a kernel of 3x3 with a norm stands in place of the stem's maximum (ResNet-RS). Not with `aa_layer`.
    pub replace_stem_pool: bool,
    /// Divides the width between the first two convolutions of a block (SENet).
    pub block_reduce_first: usize,
    /// Size of the kernel of a shortcut at a step of 2, odd (SENet). With `avg_down` it is 1.
    pub down_kernel_size: usize,
    /// Whether the shortcut takes a mean over 2x2 before its projection (ResNet-D).
    pub avg_down: bool,
    /// Groups of the 3x3 kernels of a bottleneck (ResNeXt).
    pub cardinality: usize,
    /// Width of a group of the 3x3 kernels, in 64ths of the stage's width.
    pub base_width: usize,
    /// The gate at the end of each block's branch. In timm it is part of `block_args`.
    pub attn_layer: GateLayer,
    /// Width inside the gate `se` over the channels, rounded to a multiple of 8.
    pub rd_ratio: f64,
    /// How maps are halved. `avg` needs maps with even sides.
    pub aa_layer: Antialias,
    /// Non-linearity.
    pub act_layer: Activation,
    /// The form of the norms. `groupnorm` has 32 groups.
    pub norm_layer: MapNormLayer,
    /// Added to the variance in the norms.
    pub norm_eps: f64,
    /// How the last map becomes one vector.
    pub global_pool: MapPool,
    /// Dropout before the head.
    pub drop_rate: f64,
    /// Stochastic depth of the last block; the first has none.
    pub drop_path_rate: f64,
    /// Whether the last norm of each block begins at 0, so that the block begins as its shortcut.
    pub zero_init_last: bool,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            in_chans: 3,
            num_classes: 1000,
            block: ResNetBlock::Bottleneck,
            layers: vec![3, 4, 6, 3],
            channels: vec![64, 128, 256, 512],
            stem_type: ResNetStem::Plain,
            stem_width: 64,
            replace_stem_pool: false,
            block_reduce_first: 1,
            down_kernel_size: 1,
            avg_down: false,
            cardinality: 1,
            base_width: 64,
            attn_layer: GateLayer::None,
            rd_ratio: 1.0 / 16.0,
            aa_layer: Antialias::None,
            act_layer: Activation::Relu,
            norm_layer: MapNormLayer::BatchNorm2d,
            norm_eps: 1e-5,
            global_pool: MapPool::Avg,
            drop_rate: 0.0,
            drop_path_rate: 0.0,
            zero_init_last: true,
        }
    }
}

impl ResNetConfig {
    /// Channels after a block over its width.
    fn expansion(&self) -> usize {
        match self.block {
            ResNetBlock::Basic => 1,
            ResNetBlock::Bottleneck => 4,
        }
    }

    /// Channels after the stem.
    fn stem_channels(&self) -> usize {
        if self.stem_type == ResNetStem::Plain { 64 } else { 2 * self.stem_width }
    }

    /// Channels of the stem's first two convolutions.
    fn deep_channels(&self) -> [usize; 2] {
        match self.stem_type {
            ResNetStem::DeepTiered => [3 * (self.stem_width / 4), self.stem_width],
            ResNetStem::Plain | ResNetStem::Deep => [self.stem_width; 2],
        }
    }

    /// Channels of the last map.
    pub fn num_features(&self) -> usize {
        self.channels.last().map_or(0, |width| width * self.expansion())
    }

    /// Channels before a block.
    fn channels_before(&self, stage: usize, block: usize) -> usize {
        match (stage, block) {
            (0, 0) => self.stem_channels(),
            (_, 0) => self.channels[stage - 1] * self.expansion(),
            _ => self.channels[stage] * self.expansion(),
        }
    }

    /// Width inside a block.
    fn inner(&self, stage: usize) -> usize {
        match self.block {
            ResNetBlock::Basic => self.channels[stage],
            ResNetBlock::Bottleneck => self.channels[stage] * self.base_width / 64 * self.cardinality,
        }
    }

    /// The convolutions of the stem, by their place in it.
    fn stem(&self) -> Vec<ConvConfig> {
        let [first, second] = self.deep_channels();
        match self.stem_type {
            ResNetStem::Plain => vec![ConvConfig::new(self.in_chans, 64, 7).stride(2)],
            ResNetStem::Deep | ResNetStem::DeepTiered => vec![
                ConvConfig::new(self.in_chans, first, 3).stride(2),
                ConvConfig::new(first, second, 3),
                ConvConfig::new(second, self.stem_channels(), 3),
            ],
        }
    }

    /// The convolutions of a block.
    fn block(&self, stage: usize, block: usize) -> Vec<ConvConfig> {
        let (from, inner) = (self.channels_before(stage, block), self.inner(stage));
        let (to, first) = (self.channels_after(stage), inner / self.block_reduce_first);
        let stride = if self.aa_layer == Antialias::None { self.stride(stage, block) } else { 1 };
        match self.block {
            ResNetBlock::Basic => {
                vec![ConvConfig::new(from, first, 3).stride(stride), ConvConfig::new(first, to, 3)]
            }
            ResNetBlock::Bottleneck => vec![
                ConvConfig::new(from, first, 1),
                ConvConfig::new(first, inner, 3).stride(stride).groups(self.cardinality),
                ConvConfig::new(inner, to, 1),
            ],
        }
    }

    /// Channels after a block.
    fn channels_after(&self, stage: usize) -> usize {
        self.channels[stage] * self.expansion()
    }

    /// Width inside the gate `se` of a stage (timm's `make_divisible` without its lower limit).
    fn reduced(&self, stage: usize) -> usize {
        let width = self.channels_after(stage) as f64 * self.rd_ratio;
        ((width + 4.0) as usize / 8 * 8).max(8)
    }

    fn gate(&self, stage: usize, device: &Device) -> Option<ChannelGate> {
        let channels = self.channels_after(stage);
        match self.attn_layer {
            GateLayer::None => None,
            GateLayer::Se => {
                let gate = SqueezeExcite::new(channels, self.reduced(stage), Activation::Relu, device);
                Some(ChannelGate::Squeeze(gate))
            }
            GateLayer::Eca => Some(ChannelGate::Efficient(EfficientGate::new(channels, device))),
        }
    }

    /// The kernel in place of the stem's maximum.
    fn stem_pool(&self) -> Option<ConvConfig> {
        let width = self.stem_channels();
        self.replace_stem_pool.then(|| ConvConfig::new(width, width, 3).stride(2))
    }

    /// The grid behind the stem's convolutions, and that behind its pool.
    fn stem_grids(&self) -> [[usize; 2]; 2] {
        let grid = self.stem().iter().fold(self.img_size, |grid, conv| conv.out(grid));
        let pooled = match self.aa_layer {
            Antialias::None => Padding::Symmetric.form(grid, [3, 3], [2, 2], [1, 1]).out(),
            halved => halved.out(grid),
        };
        [grid, pooled]
    }

    /// Refuses images whose maps cannot be halved, or not as the shortcuts beside them.
    fn check_halves(&self) -> Result<(), ConfigError> {
        let [before, mut grid] = self.stem_grids();
        let [h, w] = self.img_size;
        let is_small = |grid: [usize; 2]| grid.iter().any(|side| *side < 2);
        for stage in 0..self.layers.len() {
            let halved = if stage == 0 { before } else { grid };
            let is_odd = stage > 0 && halved.iter().any(|side| side % 2 == 1);
            if self.aa_layer == Antialias::Avg && (is_odd || is_small(halved)) {
                return refuse(
                    "img_size",
                    format!("{h}x{w} leaves maps with odd sides, which aa_layer `avg` cannot halve"),
                );
            }
            if self.aa_layer == Antialias::Blur && is_small(halved) {
                return refuse("img_size", format!("{h}x{w} is too small for aa_layer `blur`"));
            }
            grid = if stage == 0 { grid } else { grid.map(|side| side.div_ceil(2)) };
        }
        Ok(())
    }

    fn stride(&self, stage: usize, block: usize) -> usize {
        if stage > 0 && block == 0 { 2 } else { 1 }
    }

    /// The projection of the shortcut; `None`: the shortcut is the identity.
    fn projection(&self, stage: usize, block: usize) -> Option<ConvConfig> {
        let (from, to) = (self.channels_before(stage, block), self.channels[stage] * self.expansion());
        let stride = self.stride(stage, block);
        let conv = match (self.avg_down, stride) {
            (true, _) | (_, 1) => ConvConfig::new(from, to, 1),
            (false, _) => ConvConfig::new(from, to, self.down_kernel_size).stride(stride),
        };
        (block == 0 && (stride > 1 || from != to)).then_some(conv)
    }
}

/// The stem's convolutions. Field names are places in torch's `Sequential`.
#[derive(Module, Debug)]
pub struct DeepStem {
    /// 3x3 at a step of 2.
    pub _0: Conv,
    /// Its norm.
    pub _1: MapNorm,
    /// 3x3.
    pub _3: Conv,
    /// Its norm.
    pub _4: MapNorm,
    /// 3x3, to the width of the stem.
    pub _6: Conv,
}

/// The stem.
#[derive(Module, Debug)]
// A model has one stem, and its weights are on the heap.
#[allow(clippy::large_enum_variant)]
pub enum Stem {
    /// 7x7 at a step of 2.
    Plain(Conv),
    /// Three times 3x3.
    Deep(DeepStem),
}

/// The kernel in place of the stem's maximum.
#[derive(Module, Debug)]
pub struct StemPool {
    /// 3x3 at a step of 2.
    pub _0: Conv,
    /// Its norm.
    pub _1: MapNorm,
}

/// The projection of a shortcut.
#[derive(Module, Debug)]
pub struct Projection {
    /// 1x1.
    pub _0: Conv,
    /// Its norm.
    pub _1: MapNorm,
}

/// The projection of a shortcut after a mean over 2x2.
#[derive(Module, Debug)]
pub struct AvgProjection {
    /// 1x1.
    pub _1: Conv,
    /// Its norm.
    pub _2: MapNorm,
}

/// The shortcut of a block that changes the shape of its maps.
#[derive(Module, Debug)]
pub enum Downsample {
    /// A projection at the step of the block.
    Conv(Projection),
    /// A mean over 2x2, then a projection.
    Avg(AvgProjection),
}

/// A residual block.
#[derive(Module, Debug)]
pub struct Block {
    /// 1x1 in a bottleneck, 3x3 in a basic block.
    pub conv1: Conv,
    /// Its norm.
    pub bn1: MapNorm,
    /// 3x3.
    pub conv2: Conv,
    /// Its norm.
    pub bn2: MapNorm,
    /// 1x1 of a bottleneck.
    pub conv3: Option<Conv>,
    /// Its norm.
    pub bn3: Option<MapNorm>,
    /// The gate at the end of the branch.
    pub se: Option<ChannelGate>,
    /// The shortcut; `None`: the identity.
    pub downsample: Option<Downsample>,
    #[module(skip)]
    act: Activation,
    #[module(skip)]
    antialias: Antialias,
    drop_path: f64,
    stride: usize,
}

impl Block {
    fn new(config: &ResNetConfig, stage: usize, block: usize, device: &Device) -> Self {
        let convs = config.block(stage, block);
        let bn = |conv: &ConvConfig| config.bn(conv.channels[1], device);
        let stride = config.stride(stage, block);
        let downsample = |conv: ConvConfig| match config.avg_down {
            false => Downsample::Conv(Projection { _0: conv.init(device), _1: bn(&conv) }),
            true => Downsample::Avg(AvgProjection { _1: conv.init(device), _2: bn(&conv) }),
        };
        Self {
            conv1: convs[0].init(device),
            bn1: bn(&convs[0]),
            conv2: convs[1].init(device),
            bn2: bn(&convs[1]),
            conv3: convs.get(2).map(|conv| conv.init(device)),
            bn3: convs.get(2).map(bn),
            se: config.gate(stage, device),
            downsample: config.projection(stage, block).map(downsample),
            act: config.act_layer,
            antialias: config.aa_layer,
            drop_path: drop_rate(config.drop_path_rate, &config.layers, stage, block),
            stride,
        }
    }

    /// Maps `[B, H·W, C] -> [B, H'·W', D]`.
    pub fn forward(&self, x: Maps, watch: &mut dyn Observer) -> Maps {
        let shortcut = self.shortcut(&x, watch).x;
        let y = conv_norm(&self.conv1, ("bn1", &self.bn1), &x, Then::act(self.act), watch);
        match (&self.conv3, &self.bn3) {
            (Some(conv3), Some(bn3)) => {
                let y = conv_norm(&self.conv2, ("bn2", &self.bn2), &y, Then::act(self.act), watch);
                let y = self.halved(y);
                self.join(conv3, ("bn3", bn3), &y, shortcut, watch)
            }
            _ => self.join(&self.conv2, ("bn2", &self.bn2), &self.halved(y), shortcut, watch),
        }
    }

    /// Half of the maps behind the convolution that would have the step.
    fn halved(&self, y: Maps) -> Maps {
        if self.stride > 1 { self.antialias.halve(&y) } else { y }
    }

    /// The last convolution with its norm, then the sum: `act(norm(conv(y)) + shortcut)`.
    fn join(
        &self,
        conv: &Conv,
        norm: (&str, &MapNorm),
        y: &Maps,
        shortcut: Tensor<3>,
        watch: &mut dyn Observer,
    ) -> Maps {
        if let Some(gate) = &self.se {
            let y = conv_norm(conv, norm, y, Then::default(), watch);
            let gated = watch.tokens(format_args!("se"), gate.forward(y.x.clone()));
            return y.with(self.act.forward(drop_path(gated, self.drop_path) + shortcut));
        }
        if self.drop_path == 0.0 || !training(&y.x) {
            return conv_norm(conv, norm, y, Then::add(shortcut, self.act), watch);
        }
        let y = conv_norm(conv, norm, y, Then::default(), watch);
        y.with(self.act.forward(drop_path(y.x.clone(), self.drop_path) + shortcut))
    }

    fn shortcut(&self, x: &Maps, watch: &mut dyn Observer) -> Maps {
        let mut watch = Within::new(watch, format_args!("downsample"));
        match &self.downsample {
            None => x.clone(),
            Some(Downsample::Conv(Projection { _0: conv, _1: norm })) => {
                conv_norm(conv, ("1", norm), x, Then::default(), &mut watch)
            }
            Some(Downsample::Avg(AvgProjection { _1: conv, _2: norm })) => {
                let x = match self.stride {
                    1 => x.clone(),
                    stride => x.pool(Pool::Avg, 2, stride, Padding::Ceil),
                };
                conv_norm(conv, ("2", norm), &x, Then::default(), &mut watch)
            }
        }
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        for conv in [&mut self.conv1, &mut self.conv2].into_iter().chain(&mut self.conv3) {
            visit(Part::Conv(conv));
        }
        for norm in [&mut self.bn1, &mut self.bn2].into_iter().chain(&mut self.bn3) {
            visit_norm(norm, visit);
        }
        if let Some(ChannelGate::Squeeze(SqueezeExcite { fc1, fc2, .. })) = &mut self.se {
            [fc1, fc2].into_iter().for_each(|conv| visit(Part::Conv(conv)));
        }
        match &mut self.downsample {
            None => {}
            Some(
                Downsample::Conv(Projection { _0: conv, _1: norm })
                | Downsample::Avg(AvgProjection { _1: conv, _2: norm }),
            ) => {
                visit(Part::Conv(conv));
                visit_norm(norm, visit);
            }
        }
    }
}

fn visit_norm(norm: &mut MapNorm, visit: &mut Visitor<'_>) {
    if let Some(norm) = norm.batch_mut() {
        visit(Part::BatchNorm(norm));
    }
}

/// A ResNet. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct ResNet {
    /// The stem's convolutions.
    pub conv1: Stem,
    /// The norm after the last of them.
    pub bn1: MapNorm,
    /// The kernel in place of the maximum.
    pub maxpool: Option<StemPool>,
    /// The stage at a quarter of the image's size.
    pub layer1: Vec<Block>,
    /// At an eighth.
    pub layer2: Vec<Block>,
    /// At a sixteenth.
    pub layer3: Vec<Block>,
    /// At a thirty-second.
    pub layer4: Vec<Block>,
    /// `D -> K`.
    pub fc: Option<Linear>,
    #[module(skip)]
    config: ResNetConfig,
}

impl ResNet {
    /// How this model is built.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    fn stages(&self) -> [&Vec<Block>; 4] {
        [&self.layer1, &self.layer2, &self.layer3, &self.layer4]
    }
}

impl Stages for ResNet {
    const HEAD: &'static str = "fc";

    fn depths(&self) -> Vec<usize> {
        self.config.layers.clone()
    }

    fn stem(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps {
        let (x, act) = (Maps::of_images(images), Then::act(self.config.act_layer));
        let x = match &self.conv1 {
            Stem::Plain(conv) => conv_norm(conv, ("bn1", &self.bn1), &x, act.clone(), watch),
            Stem::Deep(DeepStem { _0, _1, _3, _4, _6 }) => {
                let mut inside = Within::new(watch, format_args!("conv1"));
                let x = conv_norm(_0, ("1", _1), &x, act.clone(), &mut inside);
                let x = conv_norm(_3, ("4", _4), &x, act.clone(), &mut inside);
                conv_norm(_6, ("bn1", &self.bn1), &x, act.clone(), watch)
            }
        };
        let x = match (&self.maxpool, self.config.aa_layer) {
            (Some(StemPool { _0, _1 }), _) => {
                conv_norm(_0, ("1", _1), &x, act, &mut Within::new(watch, format_args!("maxpool")))
            }
            (None, Antialias::None) => x.pool(Pool::Max, 3, 2, Padding::Symmetric),
            (None, Antialias::Avg) => Antialias::Avg.halve(&x),
            (None, Antialias::Blur) => x.pool(Pool::Max, 3, 1, Padding::Symmetric).blur(),
        };
        x.with(watch.tokens(format_args!("maxpool"), x.x.clone()))
    }

    fn block(&self, stage: usize, block: usize, maps: Maps, watch: &mut dyn Observer) -> Maps {
        let name = stage + 1;
        let layer = &self.stages()[stage][block];
        let y = layer.forward(maps, &mut Within::new(watch, format_args!("layer{name}.{block}")));
        y.with(watch.tokens(format_args!("layer{name}.{block}"), y.x.clone()))
    }

    fn map_head(&self) -> MapHead<'_> {
        let ResNetConfig { global_pool: pool, drop_rate, .. } = self.config;
        MapHead { pool, drop_rate, fc: self.fc.as_ref() }
    }

    fn each_part(&mut self, visit: &mut Visitor<'_>) {
        match &mut self.conv1 {
            Stem::Plain(conv) => visit(Part::Conv(conv)),
            Stem::Deep(DeepStem { _0, _1, _3, _4, _6 }) => {
                [_0, _3, _6].into_iter().for_each(|conv| visit(Part::Conv(conv)));
                [_1, _4].into_iter().for_each(|norm| visit_norm(norm, visit));
            }
        }
        visit_norm(&mut self.bn1, visit);
        if let Some(StemPool { _0, _1 }) = &mut self.maxpool {
            visit(Part::Conv(_0));
            visit_norm(_1, visit);
        }
        let stages = [&mut self.layer1, &mut self.layer2, &mut self.layer3, &mut self.layer4];
        stages.into_iter().flatten().for_each(|block| block.visit_parts(visit));
    }

    fn block_of(key: &str) -> Option<(usize, usize)> {
        let (stage, rest) = key.strip_prefix("layer")?.split_once('.')?;
        Some((stage.parse::<usize>().ok()?.checked_sub(1)?, rest.split('.').next()?.parse().ok()?))
    }
}

impl ResNetConfig {
    /// The gate of a block, whose products are on one vector for each image.
    fn walk_gate(&self, name: &str, stage: usize, walk: &mut MapWalk) {
        let (c, r) = (long(self.channels_after(stage)), long(self.reduced(stage)));
        let channels = self.channels_after(stage);
        match self.attn_layer {
            GateLayer::None => {}
            GateLayer::Se => {
                let what = format!("gate of channels: {c} → {r} → {c}");
                walk.step(&format!("{name}.se"), what, channels, 2 * c * r + c + r, 2 * product(1, c, r));
            }
            GateLayer::Eca => {
                let k = long(EfficientGate::kernel(channels));
                let what = format!("gate of channels: a kernel of {k} along them");
                walk.step(&format!("{name}.se"), what, channels, k, product(1, c, k));
            }
        }
    }

    fn bn(&self, channels: usize, device: &Device) -> MapNorm {
        match self.norm_layer {
            MapNormLayer::BatchNorm2d => {
                MapNorm::Batch(BatchNorm { eps: self.norm_eps, ..BatchNorm::new(channels, device) })
            }
            MapNormLayer::GroupNorm => {
                MapNorm::Group(GroupNorm::new(channels, GROUPS, self.norm_eps, device))
            }
        }
    }

    /// Refuses widths that groups do not divide.
    fn check_groups(&self) -> Result<(), ConfigError> {
        let stages = (0..self.layers.len()).flat_map(|stage| self.block(stage, 0));
        let mut widths = self.stem().into_iter().chain(stages).map(|conv| conv.channels[1]);
        match widths.find(|width| !width.is_multiple_of(GROUPS)) {
            Some(width) if self.norm_layer == MapNormLayer::GroupNorm => refuse(
                "norm_layer",
                format!("`groupnorm` has {GROUPS} groups, which do not divide {width} channels"),
            ),
            _ => Ok(()),
        }
    }
}

/// A blur to every second position.
fn blur(walk: &mut MapWalk, name: &str, channels: usize, what: &str) {
    walk.grid = Antialias::Blur.out(walk.grid);
    let macs = product(product(long(walk.grid[0]), long(walk.grid[1]), 9), long(channels), 1);
    walk.step(name, format!("blur of 3 × 3 at a step of 2{what}"), channels, 0, macs);
}

impl Config for ResNetConfig {
    type Model = ResNet;

    fn validate(&self) -> Result<(), ConfigError> {
        check_ranges(image_ranges(self.img_size, self.in_chans, self.num_classes))?;
        check_ranges([("layers", self.layers.len(), 1, 4)])?;
        if self.layers.len() != self.channels.len() {
            let (layers, channels) = (self.layers.len(), self.channels.len());
            return refuse("channels", format!("has {channels} widths for {layers} stages"));
        }
        check_ranges(self.layers.iter().map(|&depth| ("layers", depth, 1, MAX_DEPTH)))?;
        check_ranges(self.channels.iter().map(|&width| ("channels", width, 1, MAX_WIDTH)))?;
        check_ranges([
            (
                "stem_width",
                self.stem_width,
                if self.stem_type == ResNetStem::DeepTiered { 4 } else { 1 },
                MAX_WIDTH,
            ),
            ("cardinality", self.cardinality, 1, MAX_WIDTH),
            ("base_width", self.base_width, 1, MAX_WIDTH),
            ("block_reduce_first", self.block_reduce_first, 1, MAX_WIDTH),
            ("down_kernel_size", self.down_kernel_size, 1, MAX_SIDE),
        ])?;
        if self.down_kernel_size.is_multiple_of(2) {
            return refuse(
                "down_kernel_size",
                format!("is {}, expected an odd number", self.down_kernel_size),
            );
        }
        if !(self.rd_ratio > 0.0 && self.rd_ratio <= 64.0) {
            return refuse("rd_ratio", format!("is {}, expected a positive number up to 64", self.rd_ratio));
        }
        if self.replace_stem_pool && self.aa_layer != Antialias::None {
            return refuse("replace_stem_pool", "does not go together with aa_layer".into());
        }
        if self.block == ResNetBlock::Basic && (self.cardinality, self.base_width) != (1, 64) {
            return refuse(
                "block",
                "`basic` has one group of the usual width (cardinality 1, base_width 64)".into(),
            );
        }
        check_ranges((0..self.layers.len()).map(|stage| ("base_width", self.inner(stage), 1, MAX_WIDTH)))?;
        for stage in 0..self.layers.len() {
            let first = self.inner(stage) / self.block_reduce_first;
            if first == 0 || !first.is_multiple_of(self.cardinality) {
                let cardinality = self.cardinality;
                return refuse(
                    "block_reduce_first",
                    format!("leaves {first} channels, expected a multiple of cardinality {cardinality}"),
                );
            }
            check_ranges([("rd_ratio", self.reduced(stage), 1, MAX_WIDTH)])?;
        }
        check_ranges([("channels", self.num_features(), 1, MAX_WIDTH)])?;
        self.check_halves()?;
        self.check_groups()?;
        check_eps([("norm_eps", self.norm_eps)])?;
        check_rates([("drop_rate", self.drop_rate), ("drop_path_rate", self.drop_path_rate)])
    }

    fn build(&self, device: &Device) -> ResNet {
        let stem: Vec<Conv> = self.stem().into_iter().map(|conv| conv.init(device)).collect();
        let bn = |channels| self.bn(channels, device);
        let [first, second] = self.deep_channels();
        let conv1 = match <[Conv; 3]>::try_from(stem) {
            Ok([first_conv, second_conv, third_conv]) => Stem::Deep(DeepStem {
                _0: first_conv,
                _1: bn(first),
                _3: second_conv,
                _4: bn(second),
                _6: third_conv,
            }),
            Err(mut one) => Stem::Plain(one.remove(0)),
        };
        let stage = |stage: usize| {
            let depth = self.layers.get(stage).copied().unwrap_or(0);
            (0..depth).map(|block| Block::new(self, stage, block, device)).collect()
        };
        let d = self.num_features();
        ResNet {
            conv1,
            bn1: bn(self.stem_channels()),
            maxpool: self
                .stem_pool()
                .map(|conv| StemPool { _0: conv.init(device), _1: bn(conv.channels[1]) }),
            layer1: stage(0),
            layer2: stage(1),
            layer3: stage(2),
            layer4: stage(3),
            fc: (self.num_classes > 0).then(|| Linear::new(d, self.num_classes, true, device)),
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn map_grid(&self) -> Option<[usize; 2]> {
        let [_, grid] = self.stem_grids();
        let halved = (1..self.layers.len())
            .fold(grid, |grid, _| Padding::Symmetric.form(grid, [3, 3], [2, 2], [1, 1]).out());
        Some(halved)
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let mut walk = MapWalk::new(self.in_chans, self.img_size);
        for (index, conv) in self.stem().iter().enumerate() {
            let name = if self.stem_type == ResNetStem::Plain {
                "conv1".into()
            } else {
                format!("conv1.{}", 3 * index)
            };
            walk.conv(&name, conv, 2 * conv.channels[1], ", norm");
        }
        let [_, pooled] = self.stem_grids();
        match (self.stem_pool(), self.aa_layer) {
            (Some(conv), _) => walk.conv("maxpool.0", &conv, 2 * conv.channels[1], ", norm"),
            (None, Antialias::None) => {
                walk.pool("maxpool", "3 × 3, the maximum", self.stem_channels(), pooled);
            }
            (None, Antialias::Avg) => {
                walk.pool("maxpool", "2 × 2, the mean", self.stem_channels(), pooled);
            }
            (None, Antialias::Blur) => {
                blur(&mut walk, "maxpool", self.stem_channels(), ", of the maximum over 3 × 3")
            }
        }
        for (stage, &depth) in self.layers.iter().enumerate() {
            for block in 0..depth {
                let name = format!("layer{}.{block}", stage + 1);
                let grid = walk.grid;
                for (index, conv) in self.block(stage, block).iter().enumerate() {
                    let name = format!("{name}.conv{}", index + 1);
                    walk.conv(&name, conv, 2 * conv.channels[1], ", norm");
                    // A mean or blur follows the convolution that would have the step.
                    let steps = index + 1 == if self.block == ResNetBlock::Basic { 1 } else { 2 };
                    if steps && self.stride(stage, block) > 1 {
                        let (channels, grid) = (conv.channels[1], self.aa_layer.out(walk.grid));
                        match self.aa_layer {
                            Antialias::None => {}
                            Antialias::Avg => {
                                walk.pool(&format!("{name}, aa"), "2 × 2, the mean", channels, grid)
                            }
                            Antialias::Blur => blur(&mut walk, &format!("{name}, aa"), channels, ""),
                        }
                    }
                }
                self.walk_gate(&name, stage, &mut walk);
                let after = walk.grid;
                if let Some(conv) = self.projection(stage, block) {
                    walk.grid = if self.avg_down { after } else { grid };
                    let what = if self.avg_down { ", norm, after a mean over 2 × 2" } else { ", norm" };
                    walk.conv(&format!("{name}.downsample"), &conv, 2 * conv.channels[1], what);
                }
                walk.grid = after;
            }
        }
        walk.global_pool("global_pool", self.num_features());
        if self.num_classes > 0 {
            walk.linear("fc", [self.num_features(), self.num_classes], 0, "");
        }
        Ok(walk.end())
    }

    fn heads(&self) -> &'static [&'static str] {
        &["fc"]
    }

    /// timm's first values: He's normal draw for convolutions, PyTorch's for the head.
    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let (layer, part) = key.rsplit_once('.')?;
        let last = match self.block {
            ResNetBlock::Basic => ".bn2",
            ResNetBlock::Bottleneck => ".bn3",
        };
        if let Some((stage, _)) = ResNet::block_of(key).filter(|_| key.contains(".se.")) {
            let inputs = |n: usize| Some(Draw::Uniform((n.max(1) as f64).powf(-0.5))); // PyTorch's usual draw
            match (layer.rsplit('.').next(), part, shape) {
                (Some("fc1"), "bias", _) => return inputs(*self.channels.get(stage)? * self.expansion()),
                (Some("fc2"), "bias", _) => return inputs(self.reduced(stage)),
                (Some("conv"), "weight", &[_, _, k]) => return inputs(k),
                _ => {}
            }
        }
        match (part, shape) {
            ("weight", &[kh, kw, _, n]) => Some(Draw::Normal((2.0 / (kh * kw * n) as f64).sqrt())),
            (_, _) if layer == "fc" => Some(Draw::Uniform((self.num_features() as f64).powf(-0.5))),
            ("weight", &[_]) if self.zero_init_last && layer.ends_with(last) => Some(Draw::Constant(0.0)),
            _ => norm(part),
        }
    }
}
