//! RegNet — Radosavovic et al. 2020, "Designing network design spaces", arXiv:2003.13678.
//!
//! ```text
//! image [B, C, H, W] → stem [B, H/2·W/2, 32] → stages at H/4, H/8, H/16, H/32 → mean [B, D] → logits [B, K]
//! block: act(x + norm(1x1(gate(act(norm(3x3(act(norm(1x1(x))))))))), the 3x3 in groups
//! ```
//!
//! Four numbers, `depth`, `w0`, `wa` and `wm`, give the width of every block `j` (section 3.3). The blocks of one width
//! are a stage.
//!
//! ```text
//! u_j = w0 + wa · j                   0 ≤ j < depth              (2)
//! s_j = log(u_j / w0) / log(wm)       to a whole number          (3)
//! w_j = w0 · wm^s_j                   to a multiple of 8         (4)
//! ```
//!
//! RegNetY is RegNetX with a gate after the 3x3, squeeze and excitation (arXiv:1709.01507).

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::limits::{MAX_DEPTH, MAX_WIDTH, check_eps, check_ranges, check_rates, image_ranges, refuse};
use super::network::{Config, ImageInput, Input};
use super::shapes::Walk;
use super::stages::{MapHead, MapWalk, Part, Stages, Visitor, drop_rate};
use crate::layers::Linear;
use crate::layers::batch_norm::BatchNorm;
use crate::layers::conv::{Conv, ConvConfig, Maps, Then, conv_norm};
use crate::layers::drop::{drop_path, training};
use crate::layers::init::{Draw, norm};
use crate::layers::mlp::Activation;
use crate::layers::names::Numbered;
use crate::layers::observe::{Observer, Within};
use crate::layers::pool::MapPool;
use crate::layers::squeeze_excite::SqueezeExcite;

/// Widths are multiples of this.
const QUANTUM: usize = 8;

/// How a RegNet is built. The default is RegNetX with the design of timm's `RegNetCfg`, at 224 pixels, 1000 classes.
/// Names are timm's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegNetConfig {
    /// Usual size of the images, `[H, W]` in pixels. The network takes any.
    pub img_size: [usize; 2],
    /// `C`: channels of an image.
    pub in_chans: usize,
    /// `K`; 0 for no head.
    pub num_classes: usize,
    /// Blocks of all stages.
    pub depth: usize,
    /// Width of the first block, a multiple of 8.
    pub w0: usize,
    /// Growth of the width from block to block, before rounding.
    pub wa: f64,
    /// Width of a stage over that of the one before, before rounding.
    pub wm: f64,
    /// Channels of a group of the 3x3 kernels. A stage narrower than this has one group.
    pub group_size: usize,
    /// Width inside a block over its width.
    pub bottle_ratio: f64,
    /// Width of the gate over that of the block's input; 0: no gate (RegNetX).
    pub se_ratio: f64,
    /// How widths become multiples of the group. 0: the nearest multiple. Any other value, such as torchvision's 0.9: the
    /// nearest multiple, or the next one if the nearest is more than a tenth narrower.
    pub group_min_ratio: f64,
    /// Width of the stem.
    pub stem_width: usize,
    /// Non-linearity.
    pub act_layer: Activation,
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

impl Default for RegNetConfig {
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            in_chans: 3,
            num_classes: 1000,
            depth: 21,
            w0: 80,
            wa: 42.63,
            wm: 2.66,
            group_size: 24,
            bottle_ratio: 1.0,
            se_ratio: 0.0,
            group_min_ratio: 0.0,
            stem_width: 32,
            act_layer: Activation::Relu,
            norm_eps: 1e-5,
            global_pool: MapPool::Avg,
            drop_rate: 0.0,
            drop_path_rate: 0.0,
            zero_init_last: true,
        }
    }
}

/// A stage of a design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegNetStage {
    /// Blocks.
    pub depth: usize,
    /// Channels of the maps.
    pub width: usize,
    /// Channels inside a block.
    pub inner: usize,
    /// Groups of the 3x3 kernels.
    pub groups: usize,
}

impl RegNetConfig {
    /// The stages that `depth`, `w0`, `wa` and `wm` give, with widths that fit the groups. In f32 and with halves to
    /// even, as in timm.
    pub fn design(&self) -> Vec<RegNetStage> {
        let (w0, wa) = (self.w0 as f32, self.wa as f32);
        let mut stages: Vec<(usize, usize)> = Vec::new(); // width, depth
        for j in 0..self.depth {
            let u = j as f32 * wa + w0; // (2)
            let s = (ln(u / w0) / self.wm.ln() as f32).round_ties_even(); // (3)
            let w = self.quantized(s);
            match stages.last_mut() {
                Some((width, depth)) if *width == w => *depth += 1,
                _ => stages.push((w, 1)),
            }
        }
        stages.into_iter().map(|(width, depth)| self.stage(width, depth)).collect()
    }

    /// `w0 · wm^s`, to a multiple of 8 (4).
    pub(crate) fn quantized(&self, s: f32) -> usize {
        let (w0, quantum) = (self.w0 as f32, QUANTUM as f32);
        ((w0 * pow(self.wm as f32, s) / quantum).round_ties_even() * quantum) as usize
    }

    /// A stage of about this width: inside its blocks it is a multiple of the group.
    pub(crate) fn stage(&self, width: usize, depth: usize) -> RegNetStage {
        let inner = (width as f64 * self.bottle_ratio).floor();
        let group = inner.min(self.group_size as f64);
        let inner = match self.group_min_ratio > 0.0 {
            true => make_divisible(inner, group, 0.9),
            false => (inner / group).round_ties_even() * group,
        };
        let width = (inner / self.bottle_ratio) as usize;
        let inner = (width as f64 * self.bottle_ratio).round_ties_even() as usize;
        RegNetStage { depth, width, inner, groups: inner.checked_div(group as usize).unwrap_or(0) }
    }

    /// Channels of the last map.
    pub fn num_features(&self) -> usize {
        self.design().last().map_or(0, |stage| stage.width)
    }

    fn stem(&self) -> ConvConfig {
        ConvConfig::new(self.in_chans, self.stem_width, 3).stride(2)
    }

    /// The blocks of all stages, in their order.
    fn blocks(&self) -> Vec<BlockForm> {
        let design = self.design();
        let depths: Vec<usize> = design.iter().map(|stage| stage.depth).collect();
        let (mut blocks, mut from) = (Vec::new(), self.stem_width);
        for (stage, &RegNetStage { depth, width, inner, groups }) in design.iter().enumerate() {
            for block in 0..depth {
                blocks.push(BlockForm {
                    place: [stage, block],
                    channels: [from, inner, width],
                    groups,
                    reduced: self.reduced(from, inner),
                    drop_path: drop_rate(self.drop_path_rate, &depths, stage, block),
                });
                from = width;
            }
        }
        blocks
    }

    /// Width of a gate over `inner` channels; `None` without a gate.
    fn reduced(&self, from: usize, inner: usize) -> Option<usize> {
        let reduced = (from as f64 * self.se_ratio).round_ties_even() as usize;
        let usual = || make_divisible(inner as f64 / 16.0, 8.0, 0.0) as usize;
        (self.se_ratio > 0.0).then(|| if reduced > 0 { reduced } else { usual() })
    }

    fn conv_norm(&self, conv: ConvConfig, device: &Device) -> ConvNorm {
        let bn = BatchNorm { eps: self.norm_eps, ..BatchNorm::new(conv.channels[1], device) };
        ConvNorm { conv: conv.init(device), bn }
    }
}

/// The nearest f32 of the logarithm.
fn ln(x: f32) -> f32 {
    f64::from(x).ln() as f32
}

/// The nearest f32 of the power.
fn pow(base: f32, exponent: f32) -> f32 {
    f64::from(base).powf(f64::from(exponent)) as f32
}

/// The multiple of `divisor` nearest to `v`, one more if that is less than `limit · v` (timm's `make_divisible`).
fn make_divisible(v: f64, divisor: f64, limit: f64) -> f64 {
    let nearest = ((v + divisor / 2.0) / divisor).floor().max(1.0) * divisor;
    if nearest < limit * v { nearest + divisor } else { nearest }
}

/// The shapes of a block.
struct BlockForm {
    /// Stage and number in it.
    place: [usize; 2],
    /// Before, inside and after.
    channels: [usize; 3],
    groups: usize,
    /// Width of the gate.
    reduced: Option<usize>,
    drop_path: f64,
}

impl BlockForm {
    fn name(&self) -> String {
        format!("s{}.b{}", self.place[0] + 1, self.place[1] + 1)
    }

    fn stride(&self) -> usize {
        if self.place[1] == 0 { 2 } else { 1 }
    }

    /// 1x1, 3x3, 1x1.
    fn convs(&self) -> [ConvConfig; 3] {
        let [from, inner, to] = self.channels;
        let middle = ConvConfig::new(inner, inner, 3).stride(self.stride()).groups(self.groups);
        [ConvConfig::new(from, inner, 1), middle, ConvConfig::new(inner, to, 1)]
    }

    /// The projection of the shortcut; `None`: the shortcut is the identity.
    fn downsample(&self) -> Option<ConvConfig> {
        let [from, _, to] = self.channels;
        (self.stride() > 1 || from != to).then(|| ConvConfig::new(from, to, 1).stride(self.stride()))
    }
}

/// A convolution and its norm.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// The convolution.
    pub conv: Conv,
    /// Its norm.
    pub bn: BatchNorm,
}

impl ConvNorm {
    /// Maps `[B, H·W, C] -> [B, H'·W', N]`: `act(norm(conv(x)) + residual)`. `name` is the module's.
    fn forward(&self, name: &str, x: &Maps, then: Then, watch: &mut dyn Observer) -> Maps {
        conv_norm(&self.conv, ("bn", &self.bn), x, then, &mut Within::new(watch, format_args!("{name}")))
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        visit(Part::Conv(&mut self.conv));
        visit(Part::BatchNorm(&mut self.bn));
    }
}

/// A residual block.
#[derive(Module, Debug)]
pub struct Block {
    /// 1x1.
    pub conv1: ConvNorm,
    /// 3x3, in groups.
    pub conv2: ConvNorm,
    /// The gate of RegNetY.
    pub se: Option<SqueezeExcite>,
    /// 1x1.
    pub conv3: ConvNorm,
    /// The projection of the shortcut; `None`: the shortcut is the identity.
    pub downsample: Option<ConvNorm>,
    #[module(skip)]
    act: Activation,
    drop_path: f64,
}

impl Block {
    fn new(config: &RegNetConfig, form: &BlockForm, device: &Device) -> Self {
        let [conv1, conv2, conv3] = form.convs().map(|conv| config.conv_norm(conv, device));
        let gate = |reduced| SqueezeExcite::new(form.channels[1], reduced, config.act_layer, device);
        Self {
            conv1,
            conv2,
            se: form.reduced.map(gate),
            conv3,
            downsample: form.downsample().map(|conv| config.conv_norm(conv, device)),
            act: config.act_layer,
            drop_path: form.drop_path,
        }
    }

    /// Maps `[B, H·W, C] -> [B, H'·W', D]`.
    pub fn forward(&self, x: Maps, watch: &mut dyn Observer) -> Maps {
        let shortcut = match &self.downsample {
            None => x.x.clone(),
            Some(conv) => conv.forward("downsample", &x, Then::default(), watch).x,
        };
        let y = self.conv1.forward("conv1", &x, Then::act(self.act), watch);
        let mut y = self.conv2.forward("conv2", &y, Then::act(self.act), watch);
        if let Some(gate) = &self.se {
            y = y.with(watch.tokens(format_args!("se"), gate.forward(y.x.clone())));
        }
        if self.drop_path == 0.0 || !training(&y.x) {
            return self.conv3.forward("conv3", &y, Then::add(shortcut, self.act), watch);
        }
        let y = self.conv3.forward("conv3", &y, Then::default(), watch);
        y.with(self.act.forward(drop_path(y.x.clone(), self.drop_path) + shortcut))
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        let convs =
            [&mut self.conv1, &mut self.conv2, &mut self.conv3].into_iter().chain(&mut self.downsample);
        convs.for_each(|conv| conv.visit_parts(visit));
        if let Some(SqueezeExcite { fc1, fc2, .. }) = &mut self.se {
            [fc1, fc2].into_iter().for_each(|conv| visit(Part::Conv(conv)));
        }
    }
}

/// The blocks of a stage, `b1`, `b2`, ….
pub type Stage = Numbered<'b', Block>;

/// The head.
#[derive(Module, Debug)]
pub struct Head {
    /// `D -> K`.
    pub fc: Option<Linear>,
}

/// A RegNet. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct RegNet {
    /// 3x3 at a step of 2.
    pub stem: ConvNorm,
    /// The stage at a quarter of the image's size.
    pub s1: Stage,
    /// At an eighth.
    pub s2: Stage,
    /// At a sixteenth.
    pub s3: Stage,
    /// At a thirty-second.
    pub s4: Stage,
    /// The head.
    pub head: Head,
    #[module(skip)]
    config: RegNetConfig,
}

impl RegNet {
    /// How this model is built.
    pub fn config(&self) -> &RegNetConfig {
        &self.config
    }

    fn stages(&self) -> [&Stage; 4] {
        [&self.s1, &self.s2, &self.s3, &self.s4]
    }
}

impl Stages for RegNet {
    fn depths(&self) -> Vec<usize> {
        self.stages().iter().map(|stage| stage.len()).collect()
    }

    fn stem(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps {
        let x = self.stem.forward("stem", &Maps::of_images(images), Then::act(self.config.act_layer), watch);
        x.with(watch.tokens(format_args!("stem"), x.x.clone()))
    }

    fn block(&self, stage: usize, block: usize, maps: Maps, watch: &mut dyn Observer) -> Maps {
        let (s, b) = (stage + 1, block + 1);
        let y = self.stages()[stage][block].forward(maps, &mut Within::new(watch, format_args!("s{s}.b{b}")));
        y.with(watch.tokens(format_args!("s{s}.b{b}"), y.x.clone()))
    }

    fn map_head(&self) -> MapHead<'_> {
        let RegNetConfig { global_pool: pool, drop_rate, .. } = self.config;
        MapHead { pool, drop_rate, fc: self.head.fc.as_ref() }
    }

    fn each_part(&mut self, visit: &mut Visitor<'_>) {
        self.stem.visit_parts(visit);
        for stage in [&mut self.s1, &mut self.s2, &mut self.s3, &mut self.s4] {
            stage.iter_mut().for_each(|block| block.visit_parts(visit));
        }
    }

    fn block_of(key: &str) -> Option<(usize, usize)> {
        let mut parts = key.split('.');
        let mut number =
            |letter: char| parts.next()?.strip_prefix(letter)?.parse::<usize>().ok()?.checked_sub(1);
        Some((number('s')?, number('b')?))
    }
}

impl Config for RegNetConfig {
    type Model = RegNet;

    fn validate(&self) -> Result<(), ConfigError> {
        check_ranges(image_ranges(self.img_size, self.in_chans, self.num_classes))?;
        check_ranges([
            ("depth", self.depth, 1, MAX_DEPTH),
            ("w0", self.w0, QUANTUM, MAX_WIDTH),
            ("group_size", self.group_size, 1, MAX_WIDTH),
            ("stem_width", self.stem_width, 1, MAX_WIDTH),
        ])?;
        if !self.w0.is_multiple_of(QUANTUM) {
            return refuse("w0", format!("is {}, expected a multiple of {QUANTUM}", self.w0));
        }
        let most = MAX_WIDTH as f64;
        for (field, value, is_good, expected) in [
            ("wa", self.wa, (0.0..=most).contains(&self.wa), "0 or more"),
            ("wm", self.wm, self.wm > 1.0 && self.wm <= most, "more than 1"),
            (
                "bottle_ratio",
                self.bottle_ratio,
                self.bottle_ratio > 0.0 && self.bottle_ratio <= most,
                "more than 0",
            ),
            ("se_ratio", self.se_ratio, (0.0..=most).contains(&self.se_ratio), "0 or more"),
            ("group_min_ratio", self.group_min_ratio, (0.0..=1.0).contains(&self.group_min_ratio), "0 to 1"),
        ] {
            if !is_good {
                return refuse(field, format!("is {value}, expected {expected}"));
            }
        }
        let design = self.design();
        if design.len() != 4 {
            let widths: Vec<usize> = design.iter().take(8).map(|stage| stage.width).collect();
            let number = design.len();
            return refuse(
                "depth",
                format!("with w0, wa and wm gives {number} stages, expected 4: {widths:?}"),
            );
        }
        for block in self.blocks() {
            let [_, inner, width] = block.channels;
            check_ranges([("wa", width, 1, MAX_WIDTH), ("bottle_ratio", inner, 1, MAX_WIDTH)])?;
            check_ranges([("se_ratio", block.reduced.unwrap_or(1), 1, MAX_WIDTH)])?;
            if block.groups == 0 || !inner.is_multiple_of(block.groups) {
                let reason = format!("does not divide {inner} channels of stage {}", block.place[0] + 1);
                return refuse("group_size", reason);
            }
        }
        check_eps([("norm_eps", self.norm_eps)])?;
        check_rates([("drop_rate", self.drop_rate), ("drop_path_rate", self.drop_path_rate)])
    }

    fn build(&self, device: &Device) -> RegNet {
        let forms = self.blocks();
        let stage = |stage: usize| {
            let forms = forms.iter().filter(|form| form.place[0] == stage);
            forms.map(|form| Block::new(self, form, device)).collect()
        };
        let (d, k) = (self.num_features(), self.num_classes);
        RegNet {
            stem: self.conv_norm(self.stem(), device),
            s1: stage(0),
            s2: stage(1),
            s3: stage(2),
            s4: stage(3),
            head: Head { fc: (k > 0).then(|| Linear::new(d, k, true, device)) },
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn map_grid(&self) -> Option<[usize; 2]> {
        let stem = self.stem().out(self.img_size);
        Some(self.design().iter().fold(stem, |[h, w], _| [h.div_ceil(2), w.div_ceil(2)]))
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let mut walk = MapWalk::new(self.in_chans, self.img_size);
        let conv_norm = |walk: &mut MapWalk, name: &str, conv: &ConvConfig| {
            walk.conv(name, conv, 2 * conv.channels[1], ", norm");
        };
        conv_norm(&mut walk, "stem", &self.stem());
        for form in self.blocks() {
            let (name, before) = (form.name(), walk.grid);
            let [conv1, conv2, conv3] = form.convs();
            conv_norm(&mut walk, &format!("{name}.conv1"), &conv1);
            conv_norm(&mut walk, &format!("{name}.conv2"), &conv2);
            let after = walk.grid;
            if let Some(reduced) = form.reduced {
                let inner = form.channels[1];
                walk.grid = [1, 1];
                for (fc, from, to) in [("fc1", inner, reduced), ("fc2", reduced, inner)] {
                    walk.conv(&format!("{name}.se.{fc}"), &ConvConfig::new(from, to, 1).bias(true), 0, "");
                }
                walk.grid = after;
            }
            conv_norm(&mut walk, &format!("{name}.conv3"), &conv3);
            if let Some(conv) = form.downsample() {
                walk.grid = before;
                conv_norm(&mut walk, &format!("{name}.downsample"), &conv);
            }
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

    /// timm's first values: He's normal draw for convolutions, a small normal draw for the head.
    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let (layer, part) = key.rsplit_once('.')?;
        match (part, shape) {
            ("weight", &[kh, kw, c, n]) => {
                // Only the 3x3 kernels of blocks are in groups, and these keep the width.
                let groups = if layer.ends_with(".conv2.conv") { n.checked_div(c)? } else { 1 };
                Some(Draw::Normal((2.0 / (kh * kw * n / groups) as f64).sqrt()))
            }
            ("weight", _) if layer == "head.fc" => Some(Draw::Normal(0.01)),
            ("weight", &[_]) if self.zero_init_last && layer.ends_with(".conv3.bn") => {
                Some(Draw::Constant(0.0))
            }
            _ => norm(part),
        }
    }
}
