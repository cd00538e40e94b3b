//! What networks of stages share: a stem, then stages of blocks, each stage on a coarser grid, then a head.

use burn::module::Module;
use burn::tensor::Tensor;

use super::ConfigError;
use super::limits::refuse;
use super::network::{Backbone, Chain, Classify, Depth, Features, Inputs, Level, Network, Want};
use super::shapes::{Steps, Walk, long, product};
use crate::layers::Linear;
use crate::layers::batch_norm::BatchNorm;
use crate::layers::conv::{Conv, ConvConfig, Maps};
use crate::layers::drop::dropout;
use crate::layers::kept::Kept;
use crate::layers::observe::Observer;
use crate::layers::pool::MapPool;
use crate::layers::rope::Rotation;

/// A network of stages. It is a [`Network`], a [`Backbone`], a [`Classify`], and a [`Chain`] of its blocks.
pub trait Stages: Module + Sync {
    /// The classifier's name.
    const HEAD: &'static str = "head.fc";
    /// What precedes the number of a stage in a key.
    const STAGE: &'static str = "stages.";

    /// Number of blocks of each stage.
    fn depths(&self) -> Vec<usize>;

    /// Images `[B, C, H, W]` to the maps that enter the first stage.
    fn stem(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps;

    /// One block. The first one of a stage may coarsen the grid.
    fn block(&self, stage: usize, block: usize, maps: Maps, watch: &mut dyn Observer) -> Maps;

    /// What follows the last stage, before pooling. The default has nothing there.
    fn close(&self, maps: Maps, _watch: &mut dyn Observer) -> Maps {
        maps
    }

    /// The head.
    fn map_head(&self) -> MapHead<'_>;

    /// What follows pooling, before the classifier: `[B, D] -> [B, F]`. The default has nothing there.
    fn after_pool(&self, x: Tensor<2>, _watch: &mut dyn Observer) -> Tensor<2> {
        x
    }

    /// As [`Network::drop_head`]. The default has nothing to drop.
    fn drop_map_head(&mut self) {}

    /// Shows the convolutions and batch norms.
    fn each_part(&mut self, visit: &mut Visitor<'_>);

    /// The linear layers of the blocks, with their names. The default has none.
    fn block_linears(&self) -> Vec<(String, &Linear)> {
        Vec::new()
    }

    /// [`block_linears`](Stages::block_linears), mutable.
    fn block_linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        Vec::new()
    }

    /// Stage and block of a parameter, from 0 on; `None` outside the stages. What precedes the blocks of a stage belongs
    /// to the first one. The default reads [`STAGE`](Stages::STAGE), then `N.blocks.M`.
    fn block_of(key: &str) -> Option<(usize, usize)> {
        let (stage, rest) = key.strip_prefix(Self::STAGE)?.split_once('.')?;
        let block = match rest.strip_prefix("blocks.") {
            Some(rest) => rest.split('.').next()?.parse().ok()?,
            None => 0,
        };
        Some((stage.parse().ok()?, block))
    }

    /// The layer of a parameter outside the stages. By default, keys with the first word of [`HEAD`](Stages::HEAD) belong
    /// to the head, and all others to the stem.
    fn depth_outside(&self, key: &str) -> Depth {
        let is_head = key.split('.').next() == Self::HEAD.split('.').next();
        if is_head { Depth::Head } else { Depth::Stem }
    }

    /// As [`Network::decays`]. By default it applies to all.
    fn weight_decays(&self, _key: &str) -> bool {
        true
    }
}

/// From the last map to logits: pool, dropout, classifier.
pub struct MapHead<'a> {
    /// How the map becomes one vector.
    pub pool: MapPool,
    /// Dropout before the classifier.
    pub drop_rate: f64,
    /// `D -> K`; `None`: the network has no classes.
    pub fc: Option<&'a Linear>,
}

impl<N: Stages> Network for N {
    fn linears(&self) -> Vec<(String, &Linear)> {
        self.block_linears()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        self.block_linears_mut()
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        self.each_part(visit);
    }

    /// timm's `group_matcher`.
    fn depth(&self, key: &str) -> Depth {
        match N::block_of(key) {
            Some((stage, block)) => block_depth(&self.depths(), stage, block),
            None => self.depth_outside(key),
        }
    }

    fn decays(&self, key: &str) -> bool {
        self.weight_decays(key)
    }

    fn heads(&self) -> &'static [&'static str] {
        const { &[N::HEAD] }
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

    fn drop_head(&mut self) {
        self.drop_map_head();
    }
}

impl<N: Stages> Backbone for N {
    /// The levels are the outputs of the stages.
    fn features(&self, inputs: Inputs, want: Want<'_>, watch: &mut dyn Observer) -> Features {
        let mut x = self.stem(inputs.images(), watch);
        let (mut ends, mut blocks) = (Vec::new(), Vec::new());
        for (stage, depth) in self.depths().into_iter().enumerate() {
            for block in 0..depth {
                x = self.block(stage, block, x, watch);
                if matches!(want, Want::Blocks(_)) {
                    blocks.push(level(x.clone()));
                }
            }
            if want == Want::Levels {
                ends.push(level(x.clone()));
            }
        }
        match want {
            Want::Head | Want::Last => level(self.close(x, watch)).into(),
            Want::Levels => Features { levels: ends },
            Want::Blocks(wanted) => Features::of_blocks(&blocks, wanted),
        }
    }

    fn embedding(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        let x = self.map_head().pool.forward(features.last().tokens); // [B, D]
        let scope = N::HEAD.strip_suffix("fc").unwrap_or_default();
        let x = watch.vectors(format_args!("{scope}global_pool"), x);
        self.after_pool(x, watch)
    }
}

impl<N: Stages> Classify for N {
    fn num_classes(&self) -> usize {
        self.map_head().fc.map_or(0, |fc| fc.weight.lazy_shape().dims::<2>()[1])
    }

    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        let x = self.embedding(features, watch); // [B, D]
        let MapHead { fc: Some(fc), drop_rate, .. } = self.map_head() else { return x };
        watch.vectors(format_args!("{}", N::HEAD), fc.forward(dropout(x, drop_rate))) // [B, K]
    }
}

impl<N: Stages> Chain for N {
    fn links(&self) -> usize {
        self.depths().iter().sum()
    }

    fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        level(self.stem(inputs.images(), watch)).into()
    }

    fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features {
        let (stage, block) = place(&self.depths(), index);
        level(self.block(stage, block, maps(x.last()), watch)).into()
    }

    fn last(&self, x: Features, watch: &mut dyn Observer) -> Features {
        level(self.close(maps(x.last()), watch)).into()
    }
}

/// The stage of a block, and its number there.
fn place(depths: &[usize], mut index: usize) -> (usize, usize) {
    for (stage, &depth) in depths.iter().enumerate() {
        match index.checked_sub(depth) {
            Some(rest) => index = rest,
            None => return (stage, index),
        }
    }
    panic!("block {index} after the last stage")
}

fn level(maps: Maps) -> Level {
    Level::of_image(maps.x, 0, maps.grid)
}

fn maps(level: Level) -> Maps {
    let grid = level.rows_columns();
    Maps { x: level.tokens, grid }
}

/// The layer of block `block` of stage `stage`.
fn block_depth(depths: &[usize], stage: usize, block: usize) -> Depth {
    Depth::Layer(depths[..stage.min(depths.len())].iter().sum::<usize>() + block)
}

/// Refuses images whose last map would be empty. `strided` are the convolutions that coarsen the grid, in the order of
/// the network. It may end with the last one without padding: the others turn one position into one position.
pub(crate) fn check_grid([h, w]: [usize; 2], strided: &[ConvConfig]) -> Result<(), ConfigError> {
    let [least_h, least_w] = strided.iter().rev().fold([1, 1], |grid, conv| conv.least_grid(grid));
    if h < least_h || w < least_w {
        return refuse("img_size", format!("is {h}x{w}, expected at least {least_h}x{least_w}"));
    }
    Ok(())
}

/// The drop rate of a block. Rates grow linearly from 0 in the first block to `rate` in the last.
pub(crate) fn drop_rate(rate: f64, depths: &[usize], stage: usize, block: usize) -> f64 {
    let last = depths.iter().sum::<usize>().saturating_sub(1).max(1) as f64;
    rate * (depths[..stage].iter().sum::<usize>() + block) as f64 / last
}

/// A part of a model that has a mode besides its numbers.
pub enum Part<'a> {
    /// A convolution, whose kernel can be packed.
    Conv(&'a mut Conv),
    /// A batch norm, whose statistics can be frozen.
    BatchNorm(&'a mut BatchNorm),
    /// A bias of scores, which can be kept.
    Bias(&'a mut Kept),
    /// A rotation of queries and keys, which can be kept.
    Rotation(&'a mut Kept<Rotation>),
}

/// Receives the parts of a model.
pub type Visitor<'a> = dyn FnMut(Part<'_>) + 'a;

/// The walk over convolutions: steps, the present grid, and the largest pair of maps that are in memory together.
pub(crate) struct MapWalk {
    /// The steps so far.
    pub steps: Steps,
    /// The present grid.
    pub grid: [usize; 2],
    held: u64,
}

impl MapWalk {
    /// A walk that begins at an image of this size.
    pub(crate) fn new(channels: usize, grid: [usize; 2]) -> Self {
        let mut steps = Steps::default();
        let [h, w] = grid.map(long);
        steps.add("image", "C × H × W".into(), &[long(channels), h, w], 0, 0);
        Self { steps, grid, held: long(channels) * h * w }
    }

    /// The shape of maps with these channels.
    fn shape(&self, channels: usize) -> [u64; 3] {
        let [h, w] = self.grid.map(long);
        [h, w, long(channels)]
    }

    /// A convolution with a norm of `norm` parameters.
    pub(crate) fn conv(&mut self, name: &str, conv: &ConvConfig, norm: usize, what: &str) {
        let before = self.shape(conv.channels[0]);
        self.grid = conv.out(self.grid);
        let ([from, to], [kh, kw]) = (conv.channels.map(long), conv.kernel.map(long));
        let terms = kh * kw * (from / long(conv.groups));
        let shape = self.shape(conv.channels[1]);
        let bias = if conv.bias { to } else { 0 };
        let groups = if conv.groups > 1 { format!(", {} groups", conv.groups) } else { String::new() };
        let what = format!("{kh} × {kw}, {from} → {to}{groups}{what}");
        let positions = shape[0].saturating_mul(shape[1]);
        self.steps.add(name, what, &shape, terms * to + bias + long(norm), product(positions, terms, to));
        let size = |shape: [u64; 3]| shape.into_iter().fold(1, u64::saturating_mul);
        self.held = self.held.max(size(before).saturating_add(size(shape)));
    }

    /// States that so many values are in memory together.
    pub(crate) fn hold(&mut self, values: u64) {
        self.held = self.held.max(values);
    }

    /// A step that keeps the grid.
    pub(crate) fn step(&mut self, name: &str, what: String, channels: usize, params: u64, macs: u64) {
        let shape = self.shape(channels);
        self.steps.add(name, what, &shape, params, macs);
    }

    /// A step that changes the grid.
    pub(crate) fn pool(&mut self, name: &str, what: &str, channels: usize, grid: [usize; 2]) {
        self.grid = grid;
        self.step(name, what.into(), channels, 0, 0);
    }

    /// A linear layer with a bias, at each position, and `more` other parameters.
    pub(crate) fn linear(&mut self, name: &str, [from, to]: [usize; 2], more: usize, what: &str) {
        let [d_in, d_out] = [from, to].map(long);
        let positions = self.grid.map(long).iter().product();
        let what = format!("linear {from} → {to}{what}");
        self.step(name, what, to, d_in * d_out + d_out + long(more), product(positions, d_in, d_out));
    }

    /// The last map to one vector.
    pub(crate) fn global_pool(&mut self, name: &str, channels: usize) {
        self.pool(name, "one vector", channels, [1, 1]);
    }

    /// The whole walk.
    pub(crate) fn end(self) -> Walk {
        Walk::new(self.steps.0, 0, self.held)
    }
}
