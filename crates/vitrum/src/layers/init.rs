//! First values of a fresh model, by the name of where they come from.
//!
//! Each parameter's stream of random numbers is a function of the seed and the parameter's name
//! alone, so the values do not depend on the order of construction, the device or the threads.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::names::KeyPath;

/// Which initialisation a fresh model gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightInit {
    /// timm: truncated normal 0.02, biases zero.
    #[default]
    Timm,
    /// The paper's JAX code: Xavier uniform, MLP biases N(0, 1e-6), head zero.
    Jax,
    /// As `jax` with the head's bias at `-ln K` (timm `jax_nlhb`).
    JaxNlhb,
    /// MoCo v3: fused qkv as three Xavier matrices.
    Moco,
}

/// A distribution of first values.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Draw {
    Constant(f64),
    Normal(f64),
    /// Standard deviation, cut at that many standard deviations.
    Truncated(f64, f64),
    /// Between minus and plus this bound.
    Uniform(f64),
}

/// What [`initialize`] needs to know.
#[derive(Clone, Copy, Debug)]
pub struct InitConfig<'a> {
    /// The scheme.
    pub scheme: WeightInit,
    /// First value of LayerScale's gains.
    pub layer_scale: f64,
    /// First value of the weights of the blocks' norms: 1, but that of LayerScale where the norms stand at the end of
    /// the branches and are their gains.
    pub block_norm: f64,
    /// Keys of parameters that keep the value they have (fixed tables).
    pub keep: &'a [&'a str],
    /// Another seed, other values.
    pub seed: u64,
    /// Type of the values, f32 or f64.
    pub dtype: DType,
}

/// Gives every parameter of `model` its first value.
pub fn initialize<M: Module>(model: M, config: InitConfig<'_>) -> M {
    model.map(&mut Init { config, path: KeyPath::default(), fan_in: None })
}

struct Init<'a> {
    config: InitConfig<'a>,
    path: KeyPath,
    /// Inputs per output of the convolution whose weight was visited last; its bias comes right after.
    fan_in: Option<usize>,
}

impl ModuleMapper for Init<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let name = self.path.key();
        if self.config.keep.contains(&name.as_str()) {
            return param;
        }
        let shape: [usize; R] = param.lazy_shape().dims();
        let draw = self.draw(&name, &shape);
        self.fan_in = (R == 4).then(|| shape[1..].iter().product());
        let values = sample(draw, shape.iter().product(), self.config.seed, &name);
        let device = param.lazy_device();
        let value = Tensor::from_data(TensorData::new(values, shape), (&device, self.config.dtype));
        let id = param.id;
        param.transform_for_load(value, id)
    }
}

impl Init<'_> {
    /// The rule for one parameter, from its name and shape. Linear weights are `[d_in, d_out]`.
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        let (parent, last) = name.rsplit_once('.').unwrap_or(("", name));
        let is_norm = parent.rsplit('.').next().is_some_and(|layer| layer.contains("norm"));
        match (last, shape) {
            ("gamma", _) => Draw::Constant(self.config.layer_scale),
            ("cls_token" | "reg_token", _) => Draw::Normal(1e-6),
            ("latent", &[.., d]) => Draw::Truncated((d as f64).powf(-0.5), 2.0),
            (table, _) if table.starts_with("pos_embed") => Draw::Truncated(0.02, 100.0),
            ("relative_position_bias_table", _) => Draw::Truncated(0.02, 100.0),
            ("weight", [_]) if name.starts_with("blocks.") && parent.ends_with(['1', '2']) && is_norm => {
                Draw::Constant(self.config.block_norm)
            }
            ("weight", [_]) if is_norm => Draw::Constant(1.0),
            ("bias", _) if is_norm => Draw::Constant(0.0),
            ("weight", &[_, c, p, q]) => self.convolution(c * p * q),
            ("bias", _) if self.fan_in.is_some() => self.convolution_bias(),
            ("weight", &[d_in, d_out]) => self.linear(parent, d_in, d_out),
            ("bias", &[k]) => self.linear_bias(parent, k),
            _ => Draw::Constant(0.0),
        }
    }

    fn is_jax(&self) -> bool {
        matches!(self.config.scheme, WeightInit::Jax | WeightInit::JaxNlhb)
    }

    /// PyTorch's default for convolutions; LeCun normal in JAX.
    fn convolution(&self, fan_in: usize) -> Draw {
        let deviation = (fan_in as f64).powf(-0.5);
        // 0.8796: the deviation of a unit normal cut at two, so that the cut values have the deviation asked for.
        if self.is_jax() {
            Draw::Truncated(deviation / 0.879_625_661_034_239_8, 2.0)
        } else {
            Draw::Uniform(deviation)
        }
    }

    fn convolution_bias(&self) -> Draw {
        match self.fan_in {
            Some(fan_in) if !self.is_jax() => Draw::Uniform((fan_in as f64).powf(-0.5)),
            _ => Draw::Constant(0.0),
        }
    }

    fn linear(&self, parent: &str, d_in: usize, d_out: usize) -> Draw {
        let xavier = |d_in: usize, d_out: usize| Draw::Uniform((6.0 / (d_in + d_out) as f64).sqrt());
        match self.config.scheme {
            WeightInit::Timm => Draw::Truncated(0.02, 100.0),
            WeightInit::Jax | WeightInit::JaxNlhb if parent.starts_with("head") => Draw::Constant(0.0),
            WeightInit::Moco if parent.ends_with("qkv") => xavier(d_in, d_out / 3),
            WeightInit::Jax | WeightInit::JaxNlhb | WeightInit::Moco => xavier(d_in, d_out),
        }
    }

    fn linear_bias(&self, parent: &str, k: usize) -> Draw {
        match self.config.scheme {
            WeightInit::JaxNlhb if parent.starts_with("head") => Draw::Constant(-(k as f64).ln()),
            WeightInit::Jax | WeightInit::JaxNlhb if parent.contains("mlp") => Draw::Normal(1e-6),
            _ => Draw::Constant(0.0),
        }
    }
}

/// `n` values from the stream of (`seed`, `name`).
fn sample(draw: Draw, n: usize, seed: u64, name: &str) -> Vec<f64> {
    let rng = stream(seed, name);
    match draw {
        Draw::Constant(value) => vec![value; n],
        // From 9 on there is nothing to cut: see `unit_normal`.
        Draw::Normal(deviation) | Draw::Truncated(deviation, 9.0..) => {
            drawn(rng, n, 4, |rng| unit_normal(rng) * deviation)
        }
        Draw::Truncated(deviation, cut) => {
            let mut rng = rng;
            let mut within = || std::iter::repeat_with(|| unit_normal(&mut rng)).find(|x| x.abs() <= cut);
            (0..n).map(|_| within().expect("an endless row") * deviation).collect()
        }
        Draw::Uniform(bound) => drawn(rng, n, 2, |rng| (rng.random::<f64>() * 2.0 - 1.0) * bound),
    }
}

/// Box and Muller 1958; at most 8.6, for 1 - u is at least 2⁻⁵³.
fn unit_normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// `n` values, each of so many words of the stream, side by side: the same whatever the number of threads.
fn drawn(rng: ChaCha8Rng, n: usize, words: u128, value: impl Fn(&mut ChaCha8Rng) -> f64 + Sync) -> Vec<f64> {
    const PART: usize = 1 << 14;
    let mut values = vec![0.0; n];
    values.par_chunks_mut(PART).enumerate().for_each(|(index, part)| {
        let mut rng = rng.clone();
        rng.set_word_pos((index * PART) as u128 * words);
        part.fill_with(|| value(&mut rng));
    });
    values
}

/// `n` normal values of this deviation, a function of seed and name as every parameter's first values.
pub(crate) fn normal(deviation: f64, n: usize, seed: u64, name: &str) -> Vec<f64> {
    sample(Draw::Normal(deviation), n, seed, name)
}

/// FNV-1a of the name, mixed into the seed.
fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(hash);
    rng
}
