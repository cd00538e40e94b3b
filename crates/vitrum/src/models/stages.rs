//! What convolutional networks share: a stem, then stages of blocks, each stage on a coarser grid.

use burn::tensor::Tensor;

use super::network::{Chain, Depth, Features, Inputs, Level, Want};
use super::shapes::{Steps, long, product};
use crate::layers::batch_norm::BatchNorm;
use crate::layers::conv::{Conv, ConvConfig, Maps};
use crate::layers::observe::Observer;

/// A network of stages. It is a [`Chain`] of its blocks.
pub trait Stages: Sync {
    /// Number of blocks of each stage.
    fn depths(&self) -> Vec<usize>;

    /// Images `[B, C, H, W]` to the maps that enter the first stage.
    fn stem(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Maps;

    /// One block. The first one of a stage may coarsen the grid.
    fn block(&self, stage: usize, block: usize, maps: Maps, watch: &mut dyn Observer) -> Maps;

    /// What follows the last stage, before pooling.
    fn close(&self, maps: Maps, watch: &mut dyn Observer) -> Maps;
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

/// [`Backbone::features`](super::Backbone::features) of a network of stages. Its levels are the outputs of the stages.
pub(crate) fn features(
    net: &impl Stages,
    inputs: Inputs,
    want: Want<'_>,
    watch: &mut dyn Observer,
) -> Features {
    let mut x = net.stem(inputs.images(), watch);
    let (mut ends, mut blocks) = (Vec::new(), Vec::new());
    for (stage, depth) in net.depths().into_iter().enumerate() {
        for block in 0..depth {
            x = net.block(stage, block, x, watch);
            if matches!(want, Want::Blocks(_)) {
                blocks.push(level(x.clone()));
            }
        }
        if want == Want::Levels {
            ends.push(level(x.clone()));
        }
    }
    match want {
        Want::Head | Want::Last => level(net.close(x, watch)).into(),
        Want::Levels => Features { levels: ends },
        Want::Blocks(wanted) => {
            Features { levels: wanted.iter().filter_map(|index| blocks.get(*index).cloned()).collect() }
        }
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

/// The layer of block `block` of stage `stage`.
pub(crate) fn block_depth(depths: &[usize], stage: usize, block: usize) -> Depth {
    Depth::Layer(depths[..stage.min(depths.len())].iter().sum::<usize>() + block)
}

/// The drop rates of all blocks: from 0 to `rate`, linear.
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
}

/// Receives the parts of a model.
pub type Visitor<'a> = dyn FnMut(Part<'_>) + 'a;

/// The walk over convolutions: steps, the present grid, and the largest maps that stand side by side.
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

    /// The most numbers that stand side by side.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }
}
