//! PiT, the pooling-based Vision Transformer — Heo et al. 2021, "Rethinking spatial dimensions of Vision Transformers",
//! arXiv:2103.16302.
//!
//! ```text
//! image [B, C, H, W] → overlapping patches, a map → + positions → stages of blocks at H/8, H/16, H/32
//!                    → norm of the class token → logits [B, K]
//! stage:   [class; map] → blocks of a Vision Transformer
//! pooling: map → depthwise 3x3 at a step of 2, class token → linear;          before each stage but the first
//! ```
//!
//! Differences from the plain Vision Transformer ([`vit`](super::vit)):
//!
//! - patches overlap: a kernel of 16 at a step of 8, without padding;
//! - positions are a map that is added to the patches; the class token has none;
//! - pooling halves the map and widens all tokens, so each stage has more and wider heads on fewer tokens;
//! - the last norm acts on the class token alone.
//!
//! A distilled PiT has a second class token and a second head on it, as [`deit`](super::deit) has.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::deit::{DeitAnswer, logits_of};
use super::limits::{MAX_DEPTH, MAX_SIDE, MAX_WIDTH, check_ranges, check_rates, image_ranges, refuse};
use super::network::{
    Backbone, Chain, Classify, Config, Depth, Features, ImageInput, Input, Inputs, Level, Network, Want,
};
use super::shapes::{Steps, Walk, held_by_block, long, product, unread};
use super::stages::{Part, Visitor, drop_rate};
use crate::layers::attention::{AttentionConfig, BlockArgs, BlockBias};
use crate::layers::block::{Block, BlockConfig};
use crate::layers::conv::{Conv, ConvConfig, Maps, Padding};
use crate::layers::drop::dropout;
use crate::layers::init::{Draw, TABLE, WeightInit, norm};
use crate::layers::mlp::MlpConfig;
use crate::layers::norm::LayerNorm;
use crate::layers::observe::{Observer, Within};
use crate::layers::position::{PosResize, resized};
use crate::layers::tokens::{prepend, split};
use crate::layers::{Linear, parameter};

/// Epsilon of every norm.
const EPS: f64 = 1e-6;
/// Most stages.
const MAX_STAGES: usize = 8;

/// How a PiT is built. The default is PiT-Ti at 224 pixels, 1000 classes. Names are timm's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PitConfig {
    /// Height and width of the image, in pixels. For images of another size the positions are resized.
    pub img_size: [usize; 2],
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Pixels from one patch to the next.
    pub stride: usize,
    /// `C`: channels of an image.
    pub in_chans: usize,
    /// `K`; 0 for no head.
    pub num_classes: usize,
    /// Width of a head in each stage.
    pub base_dims: Vec<usize>,
    /// Blocks of each stage.
    pub depth: Vec<usize>,
    /// Heads of attention in each stage. A token of the stage is as wide as all of them.
    pub heads: Vec<usize>,
    /// Width of the MLP over width of a token.
    pub mlp_ratio: f64,
    /// A second class token with its own head, which learns from a teacher.
    pub distilled: bool,
    /// The head that gives the answer of a distilled model. timm has the mean alone.
    pub answer: DeitAnswer,
    /// How positions are resized to another grid. timm does not resize them.
    pub pos_resize: PosResize,
    /// Dropout before the head.
    pub drop_rate: f64,
    /// Dropout after adding positions.
    pub pos_drop_rate: f64,
    /// Dropout after the projections of attention and MLP.
    pub proj_drop_rate: f64,
    /// Dropout on attention weights.
    pub attn_drop_rate: f64,
    /// Stochastic depth of the last block; it grows linearly from 0 at the first.
    pub drop_path_rate: f64,
}

impl Default for PitConfig {
    fn default() -> Self {
        Self {
            img_size: [224, 224],
            patch_size: 16,
            stride: 8,
            in_chans: 3,
            num_classes: 1000,
            base_dims: vec![32; 3],
            depth: vec![2, 6, 4],
            heads: vec![2, 4, 8],
            mlp_ratio: 4.0,
            distilled: false,
            answer: DeitAnswer::Mean,
            pos_resize: PosResize::BicubicAntialias,
            drop_rate: 0.0,
            pos_drop_rate: 0.0,
            proj_drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
        }
    }
}

impl PitConfig {
    /// `D` of a stage.
    pub fn width(&self, stage: usize) -> usize {
        self.base_dims[stage] * self.heads[stage]
    }

    /// `D` of the last stage.
    pub fn num_features(&self) -> usize {
        self.width(self.depth.len() - 1)
    }

    /// Number of class tokens.
    pub fn num_prefix_tokens(&self) -> usize {
        if self.distilled { 2 } else { 1 }
    }

    /// Rows and columns of the first map.
    pub fn grid(&self) -> [usize; 2] {
        self.patches().out(self.img_size)
    }

    /// Whether there is a second head.
    pub fn has_both_heads(&self) -> bool {
        self.distilled && self.num_classes > 0
    }

    fn patches(&self) -> ConvConfig {
        let kernel = ConvConfig::new(self.in_chans, self.width(0), self.patch_size);
        kernel.stride(self.stride).padding(Padding::None).bias(true)
    }

    /// The kernel before a stage but the first.
    fn pool(&self, stage: usize) -> ConvConfig {
        let (from, to) = (self.width(stage - 1), self.width(stage));
        ConvConfig::new(from, to, 3).stride(2).groups(from).bias(true)
    }

    /// `F` of a stage.
    fn mlp_hidden(&self, stage: usize) -> usize {
        (self.width(stage) as f64 * self.mlp_ratio) as usize
    }

    fn block(&self, stage: usize, block: usize) -> BlockConfig {
        let attention = AttentionConfig {
            head_dim: self.base_dims[stage],
            attn_drop: self.attn_drop_rate,
            proj_drop: self.proj_drop_rate,
            norm_eps: EPS,
            ..AttentionConfig::new(self.width(stage), self.heads[stage])
        };
        let drop_path = drop_rate(self.drop_path_rate, &self.depth, stage, block);
        BlockConfig { drop_path, ..BlockConfig::new(attention, MlpConfig::new(self.mlp_hidden(stage))) }
    }

    /// Inputs of each output of a layer with torch's first values.
    fn fan_in(&self, layer: &str) -> Option<usize> {
        if matches!(layer, "head" | "head_dist") {
            return Some(self.num_features());
        }
        if layer == "patch_embed.conv" {
            return Some(self.in_chans * self.patch_size * self.patch_size);
        }
        let (stage, rest) = layer.strip_prefix("transformers.")?.split_once('.')?;
        let stage = stage.parse::<usize>().ok().filter(|stage| *stage < self.depth.len())?;
        match rest {
            "pool.conv" => Some(9),
            "pool.fc" => Some(self.width(stage.checked_sub(1)?)),
            _ if rest.ends_with(".mlp.fc2") => Some(self.mlp_hidden(stage)),
            _ if [".attn.qkv", ".attn.proj", ".mlp.fc1"].iter().any(|end| rest.ends_with(end)) => {
                Some(self.width(stage))
            }
            _ => None,
        }
    }
}

/// Overlapping patches.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// The kernel.
    pub conv: Conv,
}

/// From the grid of one stage to that of the next.
#[derive(Module, Debug)]
pub struct Pooling {
    /// For the map.
    pub conv: Conv,
    /// For the class tokens.
    pub fc: Linear,
}

impl Pooling {
    /// The class tokens and the map of one stage to those of the next.
    ///
    /// # Panics
    /// If they have another width or float type.
    pub fn forward(&self, x: Level, watch: &mut dyn Observer) -> Level {
        let (prefix, grid) = (x.prefix, x.rows_columns());
        let (class, patches) = split(x.tokens, prefix);
        let maps = self.conv.forward(&Maps { x: patches, grid });
        let tokens = class.map(|class| self.fc.forward(class)).into_iter().chain([maps.x]).collect();
        let tokens = watch.tokens(format_args!("pool"), Tensor::cat(tokens, 1));
        Level::of_image(tokens, prefix, maps.grid)
    }
}

/// Blocks on one grid.
#[derive(Module, Debug)]
pub struct Transformer {
    /// From the stage before; the first one has none.
    pub pool: Option<Pooling>,
    /// The blocks.
    pub blocks: Vec<Block>,
}

/// A PiT. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Pit {
    /// Image to map.
    pub patch_embed: PatchEmbed,
    /// A map `[1, D, H, W]`.
    pub pos_embed: Param<Tensor<4>>,
    /// `[1, 1, D]`; two tokens if the model is distilled.
    pub cls_token: Param<Tensor<3>>,
    /// The stages, finest first.
    pub transformers: Vec<Transformer>,
    /// Norm of the class tokens.
    pub norm: LayerNorm,
    /// `D -> K`.
    pub head: Option<Linear>,
    /// `D -> K`, on the second class token.
    pub head_dist: Option<Linear>,
    #[module(skip)]
    config: PitConfig,
}

impl Pit {
    /// How this model is built.
    pub fn config(&self) -> &PitConfig {
        &self.config
    }

    /// The positions of the first stage's patches, `[1, N, D]`.
    fn table(&self) -> Tensor<3> {
        self.pos_embed.val().flatten::<3>(2, 3).swap_dims(1, 2)
    }

    /// Image to tokens of the first stage: `[B, C, H, W] -> [B, T, D]`.
    fn embed(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Level {
        let Maps { x, grid } = self.patch_embed.conv.forward(&Maps::of_images(images)); // [B, N, D]
        let x = watch.tokens(format_args!("patch_embed"), x);
        let x = x + resized(self.table(), self.config.grid(), grid, self.config.pos_resize);
        let x = watch.tokens(format_args!("pos_drop"), dropout(x, self.config.pos_drop_rate));
        Level::of_image(prepend(x, &[Some(&self.cls_token)]), self.config.num_prefix_tokens(), grid)
    }

    /// Block `block` of a stage, after the pooling if it is the first. Behind the last block a head reads only the class
    /// tokens.
    fn block(
        &self,
        [stage, block]: [usize; 2],
        x: Level,
        is_for_head: bool,
        watch: &mut dyn Observer,
    ) -> Level {
        let Transformer { pool, blocks } = &self.transformers[stage];
        let x = match pool {
            Some(pool) if block == 0 => {
                pool.forward(x, &mut Within::new(watch, format_args!("transformers.{stage}")))
            }
            _ => x,
        };
        let is_last = [stage + 1, block + 1] == [self.transformers.len(), blocks.len()];
        let read = (is_for_head && is_last).then_some(x.prefix);
        let args = BlockArgs { read, ..BlockArgs::new(x.rows_columns()) };
        let tokens = blocks[block].forward(
            x.tokens,
            args,
            &mut Within::new(watch, format_args!("transformers.{stage}.blocks.{block}")),
        );
        Level { tokens, ..x }
    }

    /// Norms the class tokens.
    fn close(&self, x: Level, watch: &mut dyn Observer) -> Level {
        let t = x.tokens.dims()[1];
        let class = self.norm.forward(x.tokens.clone().narrow(1, 0, x.prefix));
        let class = watch.tokens(format_args!("norm"), class);
        let tokens = match t - x.prefix {
            0 => class,
            n => Tensor::cat(vec![class, x.tokens.narrow(1, x.prefix, n)], 1),
        };
        Level { tokens, ..x }
    }

    /// A class token, `[B, T, D] -> [B, D]`, after the dropout before the heads.
    fn token(&self, tokens: &Tensor<3>, index: usize) -> Tensor<2> {
        dropout(tokens.clone().narrow(1, index, 1).squeeze_dim(1), self.config.drop_rate)
    }

    /// Stage and block of every block, in order.
    fn places(&self) -> impl Iterator<Item = [usize; 2]> {
        let stages = self.config.depth.iter().enumerate();
        stages.flat_map(|(stage, &depth)| (0..depth).map(move |block| [stage, block]))
    }
}

impl Backbone for Pit {
    fn has_class_token(&self) -> bool {
        true
    }

    /// The levels are the outputs of the stages.
    fn features(&self, inputs: Inputs, want: Want<'_>, watch: &mut dyn Observer) -> Features {
        let mut x = self.embed(inputs.images(), watch);
        let (mut ends, mut blocks) = (Vec::new(), Vec::new());
        for [stage, block] in self.places() {
            x = self.block([stage, block], x, want == Want::Head, watch);
            if matches!(want, Want::Blocks(_)) {
                blocks.push(x.clone());
            }
            if want == Want::Levels && block + 1 == self.config.depth[stage] {
                ends.push(x.clone());
            }
        }
        match want {
            Want::Head | Want::Last => self.close(x, watch).into(),
            Want::Levels => Features { levels: ends },
            Want::Blocks(wanted) => Features::of_blocks(&blocks, wanted),
        }
    }

    /// The class token; of a distilled model the one whose head answers, or the mean of both.
    fn embedding(&self, features: Features, _: &mut dyn Observer) -> Tensor<2> {
        let tokens = features.last().tokens;
        self.config.answer.of(self.config.distilled, |index| self.token(&tokens, index))
    }

    fn positions(&self) -> Option<Level> {
        Some(Level::of_image(self.table(), 0, self.config.grid()))
    }
}

impl Classify for Pit {
    fn num_classes(&self) -> usize {
        self.config.num_classes
    }

    fn logits_of_heads(&self, features: Features, watch: &mut dyn Observer) -> Vec<Tensor<2>> {
        let tokens = features.last().tokens;
        logits_of([&self.head, &self.head_dist], |index| self.token(&tokens, index), watch)
    }

    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        if self.config.num_classes == 0 {
            return self.embedding(features, watch);
        }
        let logits = self.logits_of_heads(features, watch);
        self.config.answer.of(logits.len() == 2, |index| logits[index].clone())
    }
}

impl Chain for Pit {
    fn links(&self) -> usize {
        self.config.depth.iter().sum()
    }

    fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        self.embed(inputs.images(), watch).into()
    }

    fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features {
        let place = self.places().nth(index).expect("a link of this model");
        self.block(place, x.last(), true, watch).into()
    }

    fn last(&self, x: Features, watch: &mut dyn Observer) -> Features {
        self.close(x.last(), watch).into()
    }
}

impl Network for Pit {
    fn linears(&self) -> Vec<(String, &Linear)> {
        let stages = self.transformers.iter().map(|stage| stage.blocks.iter());
        named(stages.map(|blocks| blocks.map(Block::linears)))
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let stages = self.transformers.iter_mut().map(|stage| stage.blocks.iter_mut());
        named(stages.map(|blocks| blocks.map(Block::linears_mut)))
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        visit(Part::Conv(&mut self.patch_embed.conv));
        for stage in &mut self.transformers {
            stage.pool.iter_mut().for_each(|pool| visit(Part::Conv(&mut pool.conv)));
        }
    }

    /// Pooling belongs to the block that follows it.
    fn depth(&self, key: &str) -> Depth {
        let place = || {
            let (stage, rest) = key.strip_prefix("transformers.")?.split_once('.')?;
            let stage = stage.parse::<usize>().ok()?;
            let block = match rest.strip_prefix("blocks.") {
                Some(rest) => rest.split('.').next()?.parse().ok()?,
                None => 0,
            };
            Some(self.config.depth.get(..stage)?.iter().sum::<usize>() + block)
        };
        match place() {
            Some(index) => Depth::Layer(index),
            None if key.starts_with("norm.") => Depth::Close,
            None if key.starts_with("head") => Depth::Head,
            None => Depth::Stem,
        }
    }

    /// timm's `no_weight_decay`.
    fn decays(&self, key: &str) -> bool {
        !matches!(key, "cls_token" | "pos_embed")
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

/// Names the layers of the blocks of all stages.
fn named<T>(stages: impl Iterator<Item = impl Iterator<Item = Vec<(&'static str, T)>>>) -> Vec<(String, T)> {
    let mut named = Vec::new();
    for (stage, blocks) in stages.enumerate() {
        for (block, layers) in blocks.enumerate() {
            let name = |layer| format!("transformers.{stage}.blocks.{block}.{layer}");
            named.extend(layers.into_iter().map(|(layer, found)| (name(layer), found)));
        }
    }
    named
}

impl Config for PitConfig {
    type Model = Pit;

    fn validate(&self) -> Result<(), ConfigError> {
        check_ranges(image_ranges(self.img_size, self.in_chans, self.num_classes))?;
        let stages = self.depth.len();
        check_ranges([("patch_size", self.patch_size, 1, MAX_SIDE), ("stride", self.stride, 1, MAX_SIDE)])?;
        if !(1..=MAX_STAGES).contains(&stages) {
            return refuse("depth", format!("has {stages} stages, expected 1 to {MAX_STAGES}"));
        }
        for (field, list) in [("base_dims", &self.base_dims), ("heads", &self.heads)] {
            if list.len() != stages {
                let found = list.len();
                return refuse(field, format!("has {found} stages, but depth has {stages}"));
            }
            check_ranges(list.iter().map(|&number| (field, number, 1, MAX_WIDTH)))?;
        }
        check_ranges(self.depth.iter().map(|&blocks| ("depth", blocks, 1, MAX_DEPTH)))?;
        for stage in 0..stages {
            let (width, hidden) = (self.width(stage), self.mlp_hidden(stage));
            if width > MAX_WIDTH {
                return refuse("heads", format!("of stage {stage} are wider than {MAX_WIDTH} together"));
            }
            if !(self.mlp_ratio > 0.0 && (1..=MAX_WIDTH).contains(&hidden)) {
                let ratio = self.mlp_ratio;
                return refuse(
                    "mlp_ratio",
                    format!("is {ratio}, expected a positive number and an MLP 1 to {MAX_WIDTH} wide"),
                );
            }
            if stage > 0 && !width.is_multiple_of(self.width(stage - 1)) {
                let before = self.width(stage - 1);
                return refuse(
                    "heads",
                    format!("of stage {stage} are {width} wide together, no multiple of the {before} before"),
                );
            }
        }
        check_rates([
            ("drop_rate", self.drop_rate),
            ("pos_drop_rate", self.pos_drop_rate),
            ("proj_drop_rate", self.proj_drop_rate),
            ("attn_drop_rate", self.attn_drop_rate),
            ("drop_path_rate", self.drop_path_rate),
        ])?;
        let ([h, w], p) = (self.img_size, self.patch_size);
        if h < p || w < p {
            return refuse("img_size", format!("is {h}x{w}, expected at least {p}x{p}"));
        }
        Ok(())
    }

    fn build(&self, device: &Device) -> Pit {
        let (first, last) = (self.width(0), self.num_features());
        let [rows, columns] = self.grid();
        let linear = |wanted: bool| wanted.then(|| Linear::new(last, self.num_classes, true, device));
        let stage = |stage: usize| Transformer {
            pool: (stage > 0).then(|| Pooling {
                conv: self.pool(stage).init(device),
                fc: Linear::new(self.width(stage - 1), self.width(stage), true, device),
            }),
            blocks: (0..self.depth[stage])
                .map(|block| Block::new(&self.block(stage, block), BlockBias::default(), device))
                .collect(),
        };
        Pit {
            patch_embed: PatchEmbed { conv: self.patches().init(device) },
            pos_embed: parameter([1, first, rows, columns], device),
            cls_token: parameter([1, self.num_prefix_tokens(), first], device),
            transformers: (0..self.depth.len()).map(stage).collect(),
            norm: LayerNorm::new(last, EPS, device),
            head: linear(self.num_classes > 0),
            head_dist: linear(self.has_both_heads()),
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: self.in_chans, size: self.img_size })
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let [c, h, w, k] = [self.in_chans, self.img_size[0], self.img_size[1], self.num_classes].map(long);
        let prefix = long(self.num_prefix_tokens());
        let mut grid = self.grid();
        let mut steps = Steps::default();
        steps.add("image", "C × H × W".into(), &[c, h, w], 0, 0);
        let (d, side, step) = (long(self.width(0)), long(self.patch_size), self.stride);
        let pixels = c * side * side;
        let n = product(1, long(grid[0]), long(grid[1]));
        steps.add(
            "patch_embed",
            format!("{side} × {side} at a step of {step}, {c} → {d}"),
            &[n, d],
            pixels * d + d,
            product(n, pixels, d),
        );
        steps.add("pos_embed", "learned positions".into(), &[n, d], n * d, 0);
        let what = if self.distilled { "two class tokens in front" } else { "class token in front" };
        steps.add("cls_token", what.into(), &[n + prefix, d], prefix * d, 0);
        let (mut held, mut behind) = (0, 0);
        for (stage, &depth) in self.depth.iter().enumerate() {
            if stage > 0 {
                let (conv, from, to) =
                    (self.pool(stage), long(self.width(stage - 1)), long(self.width(stage)));
                grid = conv.out(grid);
                let n = product(1, long(grid[0]), long(grid[1]));
                steps.add(
                    &format!("transformers.{stage}.pool"),
                    format!("map: depthwise 3 × 3 at a step of 2; class token: linear; {from} → {to}"),
                    &[n + prefix, to],
                    9 * to + to + from * to + to,
                    product(n, 9, to).saturating_add(product(prefix, from, to)),
                );
            }
            let t = product(1, long(grid[0]), long(grid[1])) + prefix;
            let (name, before) = (format!("transformers.{stage}.blocks.N"), steps.0.len());
            let block = self.block(stage, 0);
            steps.block(&name, &block, t);
            steps.0[before..].iter_mut().for_each(|step| step.repeat = depth);
            held = held.max(held_by_block(&block, t));
            behind = unread(&steps.0, &name, t, prefix);
        }
        let d = long(self.num_features());
        steps.add("norm", "LayerNorm of the class token".into(), &[prefix, d], 2 * d, 0);
        for (name, is_there) in [("head", k > 0), ("head_dist", self.has_both_heads())] {
            if is_there {
                steps.add(name, format!("linear {d} → {k}"), &[k], d * k + k, d * k);
            }
        }
        Ok(Walk::new(steps.0, behind, held.saturating_add(product(c, h, w))))
    }

    fn heads(&self) -> &'static [&'static str] {
        if self.distilled { &["head", "head_dist"] } else { &["head"] }
    }

    /// timm's first values: torch's for all layers, a normal draw for tokens and positions.
    fn first(&self, key: &str, _shape: &[usize]) -> Option<Draw> {
        let Some((layer, part)) = key.rsplit_once('.') else {
            return matches!(key, "cls_token" | "pos_embed").then_some(TABLE);
        };
        match layer.rsplit('.').next() {
            Some("norm" | "norm1" | "norm2") => norm(part),
            _ => WeightInit::Timm.convolution(part, self.fan_in(layer)?),
        }
    }
}
