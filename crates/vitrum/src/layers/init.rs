//! First values of a fresh model. The rules are named after their source.
//!
//! The random numbers of a parameter depend only on the seed and the parameter's name, not on construction order,
//! device or threads.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::batch_norm::{RUNNING_MEAN, RUNNING_VAR};
use super::mlp::MlpLayer;
use super::names::{Key, Map, map};
use super::rope::mixed_frequencies;

/// The initialisation of a fresh model.
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
    /// MAE: Xavier uniform for every matrix, fused qkv and the projection of patches included; biases zero.
    Mae,
}

/// The first value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// Keep the present value: a table given by a formula.
    Keep,
    /// One number everywhere.
    Constant(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal with this standard deviation, truncated at this number of standard deviations.
    Truncated(f64, f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
    /// A matrix whose rows have this length and are orthogonal to each other; its columns, if it has more rows than
    /// columns (torch's `orthogonal_`).
    Orthogonal(f64),
    /// Frequencies of mixed rotary positions: for each head two progressions from this temperature, at right angles, in
    /// a random direction.
    Rotary {
        /// `E`.
        head_dim: usize,
        /// Base of the progressions.
        temperature: f64,
    },
    /// The two halves of the last axis, each by a rule of its own.
    Halves([Half; 2]),
}

/// The first values of a half of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Half {
    /// As [`Draw::Constant`].
    Constant(f64),
    /// As [`Draw::Normal`].
    Normal(f64),
    /// As [`Draw::Uniform`].
    Uniform(f64),
}

impl From<Half> for Draw {
    fn from(half: Half) -> Self {
        match half {
            Half::Constant(value) => Self::Constant(value),
            Half::Normal(deviation) => Self::Normal(deviation),
            Half::Uniform(bound) => Self::Uniform(bound),
        }
    }
}

/// The rule for the weight or the bias of a gate that begins open: weights are almost zero, the bias is 1 (timm).
fn open_gate(part: &str) -> Option<Half> {
    match part {
        "weight" => Some(Half::Normal(1e-6)),
        "bias" => Some(Half::Constant(1.0)),
        _ => None,
    }
}

/// The rule for a parameter's first value, from its key and its shape in memory (`[d_in, d_out]` for a linear
/// weight). `None`: the model's family has no such parameter.
pub type FirstValue<'a> = dyn Fn(&str, &[usize]) -> Option<Draw> + 'a;

/// The family has no first value for this parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: this model's family has no first value for a parameter of this name")]
pub struct NoFirstValue {
    /// The parameter's key.
    pub key: String,
}

/// Gives every parameter of `model` its first value by `rule`, in `dtype` (f32 or f64). Another seed gives other
/// values.
///
/// # Errors
/// The first parameter without a rule.
pub fn initialize<M: Module>(
    model: M,
    rule: &FirstValue<'_>,
    seed: u64,
    dtype: DType,
) -> Result<M, NoFirstValue> {
    let mut init = Init { rule, seed, dtype, unknown: None };
    let model = map(model, &mut init);
    match init.unknown {
        Some(key) => Err(NoFirstValue { key }),
        None => Ok(model),
    }
}

struct Init<'a> {
    rule: &'a FirstValue<'a>,
    seed: u64,
    dtype: DType,
    unknown: Option<String>,
}

impl Map for Init<'_> {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let shape: [usize; R] = param.lazy_shape().dims();
        let draw = match (self.rule)(&key.name, &shape) {
            Some(Draw::Keep) => return kept(param, self.dtype),
            Some(draw) => draw,
            None => {
                self.unknown.get_or_insert_with(|| key.name.clone());
                return param;
            }
        };
        let values = sample(draw, &shape, self.seed, &key.name);
        let value = Tensor::from_data(TensorData::new(values, shape), (&param.lazy_device(), self.dtype));
        let id = param.id;
        param.transform_for_load(value, id)
    }
}

/// The unchanged parameter in `dtype`. Its value is read only if the type changes.
pub(crate) fn kept<const R: usize>(param: Param<Tensor<R>>, dtype: DType) -> Param<Tensor<R>> {
    if dtype == param.lazy_device().settings().float_dtype.into() {
        return param;
    }
    let (id, value) = (param.id, param.val().cast(dtype));
    param.transform_for_load(value, id)
}

/// Position tables and learned biases: normal 0.02.
pub const TABLE: Draw = Draw::Truncated(0.02, 100.0);

/// Class, register and distillation tokens: almost zero, as in timm.
pub const TOKEN: Draw = Draw::Normal(1e-6);

/// A norm: weight 1, bias 0. BatchNorm also has running mean 0 and variance 1.
pub fn norm(part: &str) -> Option<Draw> {
    match part {
        "weight" | RUNNING_VAR => Some(Draw::Constant(1.0)),
        "bias" | RUNNING_MEAN => Some(Draw::Constant(0.0)),
        _ => None,
    }
}

/// Inputs to the first values of a transformer block, beside the scheme.
#[derive(Clone, Copy, Debug)]
pub struct BlockInit {
    /// First value of LayerScale's gains.
    pub layer_scale: f64,
    /// First value of the weights of the block's norms: usually 1. With norms at the end of the branches it is
    /// LayerScale's first value, because these norms are the gains.
    pub norm: f64,
    /// The form of an MLP whose gates begin open: a gate of its own, or the second half of the first layer, as in timm's
    /// Vision Transformer. [`MlpLayer::Mlp`]: none.
    pub open_gates: MlpLayer,
}

impl WeightInit {
    fn is_jax(self) -> bool {
        matches!(self, Self::Jax | Self::JaxNlhb)
    }

    /// `weight` and `bias` of a convolution; `fan_in` is the number of inputs of each output. PyTorch's default, or
    /// LeCun normal in JAX.
    pub fn convolution(self, part: &str, fan_in: usize) -> Option<Draw> {
        let deviation = (fan_in as f64).powf(-0.5);
        match (part, self.is_jax()) {
            // 0.8796 is the deviation of a unit normal truncated at two. Dividing gives truncated values the
            // requested deviation.
            ("weight", true) => Some(Draw::Truncated(deviation / 0.879_625_661_034_239_8, 2.0)),
            ("bias", true) => Some(Draw::Constant(0.0)),
            ("weight" | "bias", false) => Some(Draw::Uniform(deviation)),
            _ => None,
        }
    }

    /// The projection of patches of so many values to `d_out`.
    pub fn patches(self, part: &str, values: usize, d_out: usize) -> Option<Draw> {
        match (self, part) {
            (Self::Mae, "weight") => Some(xavier(values, d_out)),
            _ => self.convolution(part, values),
        }
    }

    /// A linear layer's `weight` `[d_in, d_out]` and `bias`.
    pub fn linear(self, part: &str, shape: &[usize]) -> Option<Draw> {
        match (part, shape) {
            ("weight", &[_, _]) if self == Self::Timm => Some(TABLE),
            ("weight", &[d_in, d_out]) => Some(xavier(d_in, d_out)),
            ("bias", _) => Some(Draw::Constant(0.0)),
            _ => None,
        }
    }

    /// The fused projection to queries, keys and values. MoCo treats it as three matrices.
    pub fn qkv(self, part: &str, shape: &[usize]) -> Option<Draw> {
        match (self, part, shape) {
            (Self::Moco, "weight", &[d_in, d_out]) => Some(xavier(d_in, d_out / 3)),
            _ => self.linear(part, shape),
        }
    }

    /// A layer of an MLP.
    pub fn mlp(self, part: &str, shape: &[usize]) -> Option<Draw> {
        match part {
            "bias" if self.is_jax() => Some(Draw::Normal(1e-6)),
            _ => self.linear(part, shape),
        }
    }

    /// A layer that computes class logits.
    pub fn head(self, part: &str, shape: &[usize]) -> Option<Draw> {
        match (self, part, shape) {
            (Self::Jax | Self::JaxNlhb, "weight", _) => Some(Draw::Constant(0.0)),
            (Self::JaxNlhb, "bias", &[k]) => Some(Draw::Constant(-(k as f64).ln())),
            _ => self.linear(part, shape),
        }
    }

    /// A parameter of a [`Block`](super::block::Block), by its key within the block (`attn.qkv.weight`).
    pub fn block(self, key: &str, shape: &[usize], init: BlockInit) -> Option<Draw> {
        if let Some(key) = key.strip_prefix("attn.rel_pos.") {
            return self.relative_positions(key, shape);
        }
        match key {
            "gamma_1" | "gamma_2" => return Some(Draw::Constant(init.layer_scale)),
            "attn.q_bias" | "attn.v_bias" | "attn.relative_position_bias_table" => {
                return Some(Draw::Constant(0.0));
            }
            _ => {}
        }
        if let Some(branch) = key.strip_prefix("attns.").or_else(|| key.strip_prefix("ffns.")) {
            return self.block(branch.split_once('.')?.1, shape, init);
        }
        match key.strip_prefix("attn.").unwrap_or(key) {
            "mlp_bias" => return Some(Draw::Constant(0.0)),
            "lambda_q1" | "lambda_k1" | "lambda_q2" | "lambda_k2" => return Some(Draw::Normal(0.1)),
            _ => {}
        }
        let (layer, part) = key.rsplit_once('.')?;
        match layer {
            "norm1" | "norm2" if part == "weight" => Some(Draw::Constant(init.norm)),
            "norm1" | "norm2" | "attn.q_norm" | "attn.k_norm" | "attn.norm" | "mlp.norm" => norm(part),
            "norm" | "in_norm" | "q_norm" | "k_norm" | "sub_norm" | "attn.sub_norm" => norm(part),
            "ls" | "ls1" | "ls2" if part == "gamma" => Some(Draw::Constant(init.layer_scale)),
            "attn.qkv" => self.qkv(part, shape),
            "attn.q_proj" | "attn.k_proj" | "attn.v_proj" | "attn.proj" => self.linear(part, shape),
            "in_proj" | "attn_out_proj" | "out_proj" => self.linear(part, shape),
            "mlp.fc1_g" if init.open_gates == MlpLayer::Swiglu => open_gate(part).map(Draw::from),
            "mlp.fc1" if init.open_gates == MlpLayer::SwigluPacked => {
                let values = match self.mlp(part, shape)? {
                    Draw::Constant(value) => Half::Constant(value),
                    Draw::Normal(deviation) | Draw::Truncated(deviation, 9.0..) => Half::Normal(deviation),
                    Draw::Uniform(bound) => Half::Uniform(bound),
                    _ => return None,
                };
                Some(Draw::Halves([values, open_gate(part)?]))
            }
            "mlp.fc1" | "mlp.fc1_g" | "mlp.fc1_x" | "mlp.fc2" | "mlp_out_proj" => self.mlp(part, shape),
            _ => None,
        }
    }

    /// A parameter of [`RelPos`](super::position::RelPos), by its key within it.
    pub fn relative_positions(self, key: &str, shape: &[usize]) -> Option<Draw> {
        match key.rsplit_once('.') {
            None if matches!(key, "relative_position_bias_table" | "relative_key_table") => Some(TABLE),
            Some(("mlp.fc1" | "mlp.fc2", part)) => self.mlp(part, shape),
            _ => None,
        }
    }

    /// A parameter of [`AttentionPool`](super::pool::AttentionPool), by its key within it.
    pub fn attention_pool(self, key: &str, shape: &[usize]) -> Option<Draw> {
        match (key.rsplit_once('.'), shape) {
            (None, &[.., d]) if key == "latent" => Some(Draw::Truncated((d as f64).powf(-0.5), 2.0)),
            (Some(("q" | "kv" | "proj", part)), _) => self.linear(part, shape),
            (Some(("norm", part)), _) => norm(part),
            (Some(("mlp.fc1" | "mlp.fc2", part)), _) => self.mlp(part, shape),
            _ => None,
        }
    }
}

/// Xavier's uniform draw, Glorot and Bengio 2010.
fn xavier(d_in: usize, d_out: usize) -> Draw {
    Draw::Uniform((6.0 / (d_in + d_out) as f64).sqrt())
}

/// Values of this shape from the stream of (`seed`, `name`).
fn sample(draw: Draw, shape: &[usize], seed: u64, name: &str) -> Vec<f64> {
    let rng = stream(seed, name);
    let n = shape.iter().product();
    match draw {
        Draw::Keep => Vec::new(), // `initialize` draws nothing for it
        Draw::Constant(value) => vec![value; n],
        // The cut never acts from 9 on: see `unit_normal`.
        Draw::Normal(deviation) | Draw::Truncated(deviation, 9.0..) => {
            drawn(rng, n, 4, |rng| unit_normal(rng) * deviation)
        }
        Draw::Truncated(deviation, cut) => {
            let mut rng = rng;
            let mut within = || std::iter::repeat_with(|| unit_normal(&mut rng)).find(|x| x.abs() <= cut);
            (0..n).map(|_| within().expect("an endless row") * deviation).collect()
        }
        Draw::Rotary { head_dim, temperature } => {
            let full_turn = |rng: &mut ChaCha8Rng| rng.random::<f64>() * std::f64::consts::TAU;
            mixed_frequencies(&drawn(rng, n / head_dim.max(1), 2, full_turn), head_dim, temperature)
        }
        Draw::Halves([first, second]) => {
            let width = shape.last().copied().unwrap_or(0);
            let half = width / 2;
            let mut values = sample(first.into(), shape, seed, name);
            let others = sample(
                second.into(),
                &[n / width.max(1) * (width - half)],
                seed,
                &format!("{name}, second half"),
            );
            let rows = values.chunks_exact_mut(width.max(1)).zip(others.chunks_exact((width - half).max(1)));
            rows.for_each(|(row, others)| row[half..].copy_from_slice(others));
            values
        }
        Draw::Uniform(bound) => drawn(rng, n, 2, |rng| (rng.random::<f64>() * 2.0 - 1.0) * bound),
        Draw::Orthogonal(length) => {
            let columns = shape.last().copied().unwrap_or(1);
            orthogonal(drawn(rng, n, 4, unit_normal), columns).iter().map(|value| value * length).collect()
        }
    }
}

/// Makes the rows of a matrix orthonormal; if it has more rows than columns, its columns. Gram-Schmidt runs twice for each
/// row: the second pass removes the rounding of the first.
fn orthogonal(values: Vec<f64>, columns: usize) -> Vec<f64> {
    let rows = values.len() / columns.max(1);
    let turns = |values: &[f64], columns: usize, rows: usize| -> Vec<f64> {
        (0..columns)
            .flat_map(|x| (0..rows).map(move |y| (y, x)))
            .map(|(y, x)| values[y * columns + x])
            .collect()
    };
    if rows > columns {
        return turns(&orthogonal(turns(&values, columns, rows), rows), rows, columns);
    }
    let mut done: Vec<Vec<f64>> = Vec::with_capacity(rows);
    for row in values.chunks_exact(columns.max(1)) {
        let mut row = row.to_vec();
        for _ in 0..2 {
            for other in &done {
                let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
            let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
            row.iter_mut().for_each(|value| *value /= length);
        }
        done.push(row);
    }
    done.concat()
}

/// Box and Muller 1958. Values are at most 8.6, because 1 - u is at least 2⁻⁵³.
fn unit_normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// `n` values in parallel, each from `words` words of the stream. The result is the same for any number of threads.
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

/// `n` normal values of this deviation. They depend only on seed and name, like every parameter's first values.
pub(crate) fn normal(deviation: f64, n: usize, seed: u64, name: &str) -> Vec<f64> {
    sample(Draw::Normal(deviation), &[n], seed, name)
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
