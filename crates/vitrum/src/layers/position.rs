//! Position encodings (ViT paper, appendix D.4, and later ones).
//!
//! A [`Position`] acts in up to four places: on the tokens ([`add`](Position::add)), on the attention scores
//! ([`bias`](Position::bias), [`keys`](Position::keys)), on queries and keys ([`rotation`](Position::rotation)), and after a
//! block ([`between`](Position::between)). Each encoding uses the places it needs. Its parameters are at the top level of the
//! checkpoint, as in timm.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::attention::BlockBias;
use super::conv::{Conv, ConvConfig, Maps};
use super::drop::{dropout, training};
use super::kept::Kept;
pub use super::resample::PosResize;
use super::resample::{axis_weights, offset_weights};
use super::rope::{Rope, RopeConfig, Rotation};
use super::tokens::split;
use super::{Linear, lazy, parameter};

/// Position encodings by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PosEmbed {
    /// No positions: a bag of patches.
    None,
    /// A learned table `[1, N + prefix, D]`, key `pos_embed`.
    #[default]
    Learn,
    /// Learned tables for columns and rows, `D/2` each, keys `pos_embed_x [1, W, D/2]`, `pos_embed_y [1, H, D/2]`
    /// and, with prefix tokens, `pos_embed_prefix [1, prefix, D]`.
    #[serde(rename = "learn_2d")]
    Learn2d,
    /// Fixed 1-D sinusoids (T2T-ViT); row 0 is the class token.
    #[serde(rename = "sincos_1d")]
    SinCos1d,
    /// Fixed 2-D sin-cos as in MAE: column first, `omega = 10000^(-i/(D/4))`.
    #[serde(rename = "sincos_2d_mae")]
    SinCos2dMae,
    /// Fixed 2-D sin-cos as in big_vision: `omega = 10000^(-i/(D/4 - 1))`, order sin x, cos x, sin y, cos y.
    #[serde(rename = "sincos_2d_bv")]
    SinCos2dBigVision,
    /// A learned bias per head and offset on the attention scores, one table per block (Swin, BEiT; timm
    /// `RelPosBias`, key `blocks.N.attn.rel_pos.relative_position_bias_table`).
    RelBias,
    /// The same with one table for all blocks (key `shared_rel_pos.relative_position_bias_table`).
    RelBiasShared,
    /// An MLP from the logarithm of each offset to a bias per head, one per block (after Swin v2; timm `RelPosMlp`,
    /// keys `blocks.N.attn.rel_pos.mlp.*`).
    RelMlp,
    /// The same with one MLP for all blocks (keys `shared_rel_pos.mlp.*`).
    RelMlpShared,
    /// The ViT paper's own relative form (appendix D.4): every offset between two places in the sequence of tokens has a
    /// key. The product of a query with the key of its offset is added to their score. One table per block (key
    /// `blocks.N.attn.rel_pos.relative_key_table`). In no library; names are our own.
    RelKey,
    /// The same with one table for all blocks (key `shared_rel_pos.relative_key_table`).
    RelKeyShared,
    /// Conditional: a depthwise 3x3 convolution on the token grid after the first block, or after others
    /// (PEG, arXiv:2102.10882; keys `pos_block.I.proj.0`).
    Cpe,
}

impl PosEmbed {
    /// Whether a formula gives the table. It is never trained.
    pub fn is_fixed(self) -> bool {
        matches!(self, Self::SinCos1d | Self::SinCos2dMae | Self::SinCos2dBigVision)
    }

    /// Whether positions act on the attention scores, by offset.
    pub fn is_relative(self) -> bool {
        matches!(self, Self::RelBias | Self::RelMlp | Self::RelKey) || self.is_shared()
    }

    /// Whether all blocks share one relative bias.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::RelBiasShared | Self::RelMlpShared | Self::RelKeyShared)
    }

    /// Whether offsets have keys, which queries are multiplied with.
    pub fn is_key(self) -> bool {
        matches!(self, Self::RelKey | Self::RelKeyShared)
    }

    /// Whether an MLP computes the relative bias.
    pub fn is_mlp(self) -> bool {
        matches!(self, Self::RelMlp | Self::RelMlpShared)
    }
}

/// Inputs of a [`Position`].
#[derive(Clone, Copy, Debug)]
pub struct PositionConfig {
    /// Which encoding.
    pub kind: PosEmbed,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// Class and register tokens that have a row in the table.
    pub prefix_rows: usize,
    /// Class and register tokens in the sequence.
    pub prefix_tokens: usize,
    /// `D`.
    pub dim: usize,
    /// `A`.
    pub num_heads: usize,
    /// `E`: width of a head.
    pub head_dim: usize,
    /// Hidden width of the MLP for a relative bias.
    pub rel_pos_dim: usize,
    /// How tables of positions are resized to another grid.
    pub resize: PosResize,
    /// How tables of relative biases are resized.
    pub bias_resize: PosResize,
    /// Beside `kind`: a table of relative biases for each block, under BEiT's name.
    pub block_table: bool,
    /// Beside `kind`: a table for all blocks, under BEiT's name.
    pub shared_table: bool,
    /// Beside `kind`: rotations of queries and keys.
    pub rope: Option<RopeConfig>,
}

/// A position encoding. Its fields are keys at the top level of the checkpoint.
#[derive(Module, Debug)]
pub struct Position {
    /// `[1, prefix + N, D]`.
    pub pos_embed: Option<Param<Tensor<3>>>,
    /// Columns, `[1, W, D/2]`.
    pub pos_embed_x: Option<Param<Tensor<3>>>,
    /// Rows, `[1, H, D/2]`.
    pub pos_embed_y: Option<Param<Tensor<3>>>,
    /// Prefix tokens of the 2-D tables, `[1, prefix, D]`.
    pub pos_embed_prefix: Option<Param<Tensor<3>>>,
    /// One relative bias for all blocks.
    pub shared_rel_pos: Option<RelPos>,
    /// The same under BEiT's name.
    pub rel_pos_bias: Option<RelPosBias>,
    /// Rotations of queries and keys.
    pub rope: Option<Rope>,
    /// Convolutions on the token grid, in the order of their blocks.
    pub pos_block: Vec<PosConv>,
    /// The shared bias, of a prepared model.
    #[module(skip)]
    pub(crate) kept: Kept,
    /// The block that each of them follows.
    #[module(skip)]
    cpe_blocks: Vec<usize>,
    #[module(skip)]
    config: PositionConfig,
}

impl Position {
    /// The encoding `config.kind` with its tables. A conditional one acts after the blocks `cpe_blocks`.
    pub fn new(config: PositionConfig, cpe_blocks: &[usize], device: &Device) -> Self {
        let PositionConfig { kind, grid: [h, w], prefix_rows, dim, .. } = config;
        let learned_2d = kind == PosEmbed::Learn2d;
        let rows = prefix_rows + h * w;
        let cpe_blocks = if kind == PosEmbed::Cpe { cpe_blocks } else { &[] };
        let pos_embed = match kind {
            PosEmbed::Learn => Some(parameter([1, rows, dim], device)),
            fixed if fixed.is_fixed() => Some(lazy([1, rows, dim], device, false, move |device| {
                table_tensor(
                    fixed_table(&config, config.grid),
                    dim,
                    device,
                    device.settings().float_dtype.into(),
                )
            })),
            _ => None,
        };
        Self {
            pos_embed,
            pos_embed_x: learned_2d.then(|| parameter([1, w, dim / 2], device)),
            pos_embed_y: learned_2d.then(|| parameter([1, h, dim - dim / 2], device)),
            pos_embed_prefix: (learned_2d && prefix_rows > 0)
                .then(|| parameter([1, prefix_rows, dim], device)),
            shared_rel_pos: kind.is_shared().then(|| RelPos::of(&config, device)),
            rel_pos_bias: config.shared_table.then(|| RelPosBias::of(&config, device)),
            rope: config.rope.map(|rope| Rope::new(rope, device)),
            pos_block: cpe_blocks.iter().map(|_| PosConv::new(dim, device)).collect(),
            cpe_blocks: cpe_blocks.to_vec(),
            kept: Kept::default(),
            config,
        }
    }

    /// The position table of a `grid`, `[1, prefix_rows + N, D]`; `None` if nothing is added to the tokens.
    pub fn table(&self, grid: [usize; 2], dtype: DType, device: &Device) -> Option<Tensor<3>> {
        let PositionConfig { kind, dim, prefix_rows, .. } = self.config;
        if let (Some(x), Some(y)) = (&self.pos_embed_x, &self.pos_embed_y) {
            return Some(self.table_2d(x.val(), y.val(), grid));
        }
        let table = self.pos_embed.as_ref()?.val();
        if grid == self.config.grid {
            return Some(table);
        }
        if kind.is_fixed() {
            return Some(table_tensor(fixed_table(&self.config, grid), dim, device, dtype));
        }
        let (prefix, patches) = split(table, prefix_rows);
        let patches = resized(patches, self.config.grid, grid, self.config.resize);
        Some(Tensor::cat(prefix.into_iter().chain([patches]).collect(), 1))
    }

    /// The table of the model's own grid, `[1, prefix + N, D]`, its number of tokens in front, and the grid; `None` if nothing
    /// is added to the tokens.
    pub fn own_table(&self) -> Option<(Tensor<3>, usize, [usize; 2])> {
        let PositionConfig { prefix_rows, grid, .. } = self.config;
        let table = match (&self.pos_embed_x, &self.pos_embed_y) {
            (Some(x), Some(y)) => self.table_2d(x.val(), y.val(), grid),
            _ => self.pos_embed.as_ref()?.val(),
        };
        Some((table, prefix_rows, grid))
    }

    /// Adds positions to patches with their prefix, `[B, prefix_rows + N, D]`.
    ///
    /// # Panics
    /// If the grid does not fit the number of tokens.
    pub fn add(&self, x: Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        match self.table(grid, x.dtype(), &x.device()) {
            Some(table) => x + table,
            None => x,
        }
    }

    /// A bias on the scores, shared by all blocks, `[1, A, T, T]`.
    pub fn bias(&self, grid: [usize; 2]) -> Option<Tensor<4>> {
        match (&self.shared_rel_pos, &self.rel_pos_bias) {
            (Some(RelPos::Keys(_)), _) | (None, None) => None,
            (Some(RelPos::Table(table)), _) | (None, Some(table)) => {
                Some(self.kept.get(grid, || table.bias(grid)))
            }
            (Some(RelPos::Network(network)), _) => Some(self.kept.get(grid, || network.bias(grid))),
        }
    }

    /// The rotation of queries and keys in all blocks, for tokens like `x`.
    pub fn rotation(&self, grid: [usize; 2], x: &Tensor<3>) -> Option<Rotation> {
        self.rope.as_ref()?.shared(grid, x.dtype(), &x.device())
    }

    /// The rotation of block `index` for tokens like `x`, if each block has its own.
    pub fn rotation_of(&self, index: usize, grid: [usize; 2], x: &Tensor<3>) -> Option<Rotation> {
        self.rope.as_ref()?.of_block(index, grid, x.dtype())
    }

    /// Keys of offsets, shared by all blocks.
    pub fn keys(&self) -> Option<&RelKeys> {
        self.shared_rel_pos.as_ref().and_then(RelPos::keys)
    }

    /// The tokens `[B, T, D]` after block `index`, if the encoding acts there, with the number of its convolution; else
    /// `None`.
    pub fn between(&self, x: &Tensor<3>, index: usize, grid: [usize; 2]) -> Option<(usize, Tensor<3>)> {
        let place = self.cpe_blocks.iter().position(|&block| block == index)?;
        Some((place, self.pos_block[place].forward(x.clone(), self.config.prefix_tokens, grid)))
    }

    /// Whether [`between`](Self::between) acts after block `index`.
    pub fn is_between(&self, index: usize) -> bool {
        self.cpe_blocks.contains(&index)
    }

    /// The relative bias of one block, if the encoding has one per block.
    pub fn block_bias(config: &PositionConfig, device: &Device) -> BlockBias {
        let own = config.kind.is_relative() && !config.kind.is_shared();
        BlockBias {
            rel_pos: own.then(|| RelPos::of(config, device)),
            table: config.block_table.then(|| RelPosBias::of(config, device)),
        }
    }

    /// Columns in the first half of the features, rows in the second.
    fn table_2d(&self, x: Tensor<3>, y: Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        let PositionConfig { grid: [old_h, old_w], resize, .. } = self.config;
        let [h, w] = grid;
        let x = if w == old_w { x } else { axis(old_w, w, resize, &x).matmul(x) }; // [1, W, D/2]
        let y = if h == old_h { y } else { axis(old_h, h, resize, &y).matmul(y) }; // [1, H, D/2]
        let (dx, dy) = (x.dims()[2], y.dims()[2]);
        let x = x.reshape([1, 1, w, dx]).expand([1, h, w, dx]);
        let y = y.reshape([1, h, 1, dy]).expand([1, h, w, dy]);
        let patches = Tensor::cat(vec![x, y], 3).reshape([1, h * w, dx + dy]);
        let prefix = self.pos_embed_prefix.as_ref().map(|prefix| prefix.val());
        Tensor::cat(prefix.into_iter().chain([patches]).collect(), 1)
    }
}

/// A position table `[1, N, D]` of the grid `old` for the grid `new`, by a product with a fixed matrix for each axis.
///
/// # Panics
/// If the table does not have a row for each cell of `old`.
pub fn resized(table: Tensor<3>, old: [usize; 2], new: [usize; 2], method: PosResize) -> Tensor<3> {
    if old == new {
        return table;
    }
    let [_, _, d] = table.dims();
    let rows = axis(old[0], new[0], method, &table); // [1, H', H]
    let columns = axis(old[1], new[1], method, &table); // [1, W', W]
    let x = table.reshape([old[0], old[1], d]); // [H, W, D]
    let x = columns.expand([old[0], new[1], old[1]]).matmul(x); // [H, W', D]
    let x = rows.matmul(x.reshape([1, old[0], new[1] * d])); // [1, H', W'·D]
    x.reshape([1, new[0] * new[1], d])
}

/// [`axis_weights`] as a tensor `[1, new, old]` with the device and type of `like`.
fn axis(old: usize, new: usize, method: PosResize, like: &Tensor<3>) -> Tensor<3> {
    matrix(axis_weights(old, new, method), new, old, like)
}

/// A matrix of weights as a tensor `[1, rows, columns]` with the device and type of `like`.
fn matrix(weights: Vec<f64>, rows: usize, columns: usize, like: &Tensor<3>) -> Tensor<3> {
    let data = TensorData::new(weights, [1, rows, columns]);
    Tensor::from_data(data, (&like.device(), like.dtype()))
}

fn table_tensor(table: Vec<f64>, dim: usize, device: &Device, dtype: DType) -> Tensor<3> {
    let rows = table.len() / dim;
    Tensor::from_data(TensorData::new(table, [1, rows, dim]), (device, dtype))
}

/// The fixed table `[prefix_rows + H·W, D]` of a sin-cos encoding, rounded to f32 as in every source.
pub fn fixed_table(config: &PositionConfig, grid: [usize; 2]) -> Vec<f64> {
    exact_table(config, grid).into_iter().map(|value| f64::from(value as f32)).collect()
}

fn exact_table(config: &PositionConfig, grid: [usize; 2]) -> Vec<f64> {
    let PositionConfig { kind, prefix_rows, dim, .. } = *config;
    let [h, w] = grid;
    let mut table = Vec::with_capacity((prefix_rows + h * w) * dim);
    if kind == PosEmbed::SinCos1d {
        for position in 0..prefix_rows + h * w {
            table.extend((0..dim).map(|j| {
                let angle = position as f64 / 10000f64.powf(2.0 * (j / 2) as f64 / dim as f64);
                if j % 2 == 0 { angle.sin() } else { angle.cos() }
            }));
        }
        return table;
    }
    table.resize(prefix_rows * dim, 0.0);
    let quarter = dim / 4;
    let last = if kind == PosEmbed::SinCos2dMae { quarter as f64 } else { quarter as f64 - 1.0 };
    let omega: Vec<f64> = (0..quarter).map(|i| 10000f64.powf(-(i as f64) / last)).collect();
    for y in 0..h {
        for x in 0..w {
            for coordinate in [x, y] {
                table.extend(omega.iter().map(|o| (coordinate as f64 * o).sin()));
                table.extend(omega.iter().map(|o| (coordinate as f64 * o).cos()));
            }
        }
    }
    table
}

/// A bias per head on the attention scores, by the offset between two tokens.
// The size of a variant does not matter: a dozen exist at most, beside megabytes of weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum RelPos {
    /// Looked up in a table.
    Table(RelPosBias),
    /// Computed by an MLP.
    Network(RelPosMlp),
    /// Products of the queries with keys.
    Keys(RelKeys),
}

impl RelPos {
    fn of(config: &PositionConfig, device: &Device) -> Self {
        match config.kind {
            kind if kind.is_mlp() => Self::Network(RelPosMlp::of(config, device)),
            kind if kind.is_key() => Self::Keys(RelKeys::of(config, device)),
            _ => Self::Table(RelPosBias::of(config, device)),
        }
    }

    /// The bias of every pair of tokens, `[1, A, T, T]` or `[B, A, T, T]`, rows are queries. `queries` gives
    /// `[B, A, T, E]`, already scaled.
    pub fn bias(&self, grid: [usize; 2], queries: impl FnOnce() -> Tensor<4>) -> Tensor<4> {
        match self {
            Self::Table(table) => table.bias(grid),
            Self::Network(network) => network.bias(grid),
            Self::Keys(keys) => keys.bias(queries()),
        }
    }

    /// The keys, if the bias is made of them.
    pub fn keys(&self) -> Option<&RelKeys> {
        match self {
            Self::Keys(keys) => Some(keys),
            _ => None,
        }
    }
}

/// A key per head for every offset between two places in the sequence (ViT paper, appendix D.4): the query of token `p`
/// and the key of token `q` get `scale · query(p) · key(p - q)` beside their score. Places count prefix tokens first,
/// then patches row by row.
#[derive(Module, Debug)]
pub struct RelKeys {
    /// `[2T - 1, A·E]`: offsets from `1 - T` to `T - 1`.
    pub relative_key_table: Param<Tensor<2>>,
}

impl RelKeys {
    fn of(config: &PositionConfig, device: &Device) -> Self {
        let PositionConfig { grid: [h, w], prefix_tokens, num_heads, head_dim, .. } = *config;
        let rows = 2 * (prefix_tokens + h * w) - 1;
        Self { relative_key_table: parameter([rows, num_heads * head_dim], device) }
    }

    /// The bias of every pair of tokens, `[B, A, T, T]`, rows are queries, of scaled queries `[B, A, T, E]`. Offsets that
    /// the table does not reach have the key of its end.
    ///
    /// # Panics
    /// If the heads are not as wide as those of the table.
    pub fn bias(&self, queries: Tensor<4>) -> Tensor<4> {
        let [b, a, t, e] = queries.dims();
        let table = self.relative_key_table.val();
        let offsets = 2 * t - 1;
        let index = key_rows(table.dims()[0], t);
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [offsets]), &table.device());
        let keys = table.select(0, index).reshape([offsets, a, e]).permute([1, 2, 0]); // [A, E, 2T - 1]
        let queries = queries.swap_dims(0, 1).reshape([a, b * t, e]);
        let products = queries.matmul(keys).reshape([a, b, t, offsets]);
        // Row i begins at its own place: entry j of the result is entry j - i + T - 1. A column more makes rows of 2T,
        // which read as rows of 2T - 1 move by one from row to row.
        let column = Tensor::zeros([a, b, t, 1], (&products.device(), products.dtype()));
        let rows = Tensor::cat(vec![products, column], 3).reshape([a, b, 2 * t * t]);
        let rows = rows.narrow(2, t - 1, t * offsets).reshape([a, b, t, offsets]);
        rows.narrow(3, 0, t).swap_dims(0, 1)
    }
}

/// Row of a table of `rows` keys for the offsets from `T - 1` down to `1 - T`.
fn key_rows(rows: usize, t: usize) -> Vec<i64> {
    let (rows, t) = (rows as i64, t as i64);
    (1 - t..t).rev().map(|offset| (offset + rows / 2).clamp(0, rows - 1)).collect()
}

/// A learned bias per head for every offset between two patches (Swin, BEiT; timm `RelPosBias`). With prefix
/// tokens, three more rows follow: prefix to patch, patch to prefix, prefix to prefix.
#[derive(Module, Debug)]
pub struct RelPosBias {
    /// `[(2H - 1)(2W - 1) (+ 3), A]`.
    pub relative_position_bias_table: Param<Tensor<2>>,
    grid: [usize; 2],
    prefix_tokens: usize,
    #[module(skip)]
    resize: PosResize,
}

impl RelPosBias {
    fn of(config: &PositionConfig, device: &Device) -> Self {
        let PositionConfig { grid: [h, w], prefix_tokens, num_heads, bias_resize: resize, .. } = *config;
        let rows = (2 * h - 1) * (2 * w - 1) + if prefix_tokens > 0 { 3 } else { 0 };
        Self {
            relative_position_bias_table: parameter([rows, num_heads], device),
            grid: [h, w],
            prefix_tokens,
            resize,
        }
    }

    /// The bias of every pair of tokens, `[1, A, T, T]`, rows are queries. For another grid than the model's,
    /// [`offset_weights`] resizes the table.
    pub fn bias(&self, grid: [usize; 2]) -> Tensor<4> {
        pairs(self.resized(self.relative_position_bias_table.val(), grid), grid, self.prefix_tokens)
    }

    fn resized(&self, table: Tensor<2>, grid: [usize; 2]) -> Tensor<2> {
        if grid == self.grid {
            return table;
        }
        let [rows, a] = table.dims();
        let [old_h, old_w] = self.grid.map(|side| 2 * side - 1);
        let [h, w] = grid.map(|side| 2 * side - 1);
        let offsets = table.clone().narrow(0, 0, old_h * old_w).reshape([old_h, old_w, a]);
        let weights =
            |old, new, like: &Tensor<3>| matrix(offset_weights(old, new, self.resize), new, old, like);
        let columns = weights(old_w, w, &offsets).expand([old_h, w, old_w]);
        let offsets = columns.matmul(offsets); // [old_h, w, A]
        let heights = weights(old_h, h, &offsets);
        let offsets = heights.matmul(offsets.reshape([1, old_h, w * a])).reshape([h * w, a]);
        let extra = rows - old_h * old_w;
        if extra == 0 {
            return offsets;
        }
        Tensor::cat(vec![offsets, table.narrow(0, old_h * old_w, extra)], 0)
    }
}

/// An MLP from offsets to biases: `fc2(relu(fc1(sign(o) ln(1 + |o|))))` of the offset `o` in rows and columns (Liu
/// et al. 2021, arXiv:2111.09883, section 3.3; timm's `RelPosMlp` in mode `cr`). Pairs with a prefix token have no
/// bias. It works for any grid without resizing.
#[derive(Module, Debug)]
pub struct RelPosMlp {
    /// The MLP.
    pub mlp: OffsetMlp,
    /// Dropout between its layers in training; always 0.125, as in timm.
    pub drop: f64,
    prefix_tokens: usize,
}

/// Two layers from an offset to a bias per head: `fc2(relu(fc1(sign(o) ln(1 + |o|))))`.
#[derive(Module, Debug)]
pub struct OffsetMlp {
    /// `2 -> F`.
    pub fc1: Linear,
    /// `F -> A`.
    pub fc2: Linear,
}

impl OffsetMlp {
    /// Zeros.
    pub(crate) fn new(hidden: usize, num_heads: usize, device: &Device) -> Self {
        Self { fc1: Linear::new(2, hidden, true, device), fc2: Linear::new(hidden, num_heads, true, device) }
    }

    /// Logarithms of offsets `[n, 2]` to biases `[n, A]`.
    fn forward(&self, offsets: Tensor<2>, drop: f64) -> Tensor<2> {
        self.fc2.forward(dropout(relu(self.fc1.forward(offsets)), drop))
    }

    /// The logarithms of all offsets of a grid, `[(2H - 1)(2W - 1), 2]`.
    fn offsets(&self, grid: [usize; 2]) -> Tensor<2> {
        let weight = self.fc1.weight.val();
        let offsets = log_offsets(grid);
        let n = offsets.len() / 2;
        Tensor::from_data(TensorData::new(offsets, [n, 2]), (&weight.device(), weight.dtype()))
    }

    /// The bias of every pair of positions of a grid, `[1, A, N, N]`, rows are queries. In training every pair drops hidden
    /// values of its own at the rate `drop`, also pairs with the same offset.
    pub(crate) fn bias(&self, grid: [usize; 2], drop: f64) -> Tensor<4> {
        let offsets = self.offsets(grid);
        if drop <= 0.0 || !training(&offsets) {
            return pairs(self.forward(offsets, 0.0), grid, 0);
        }
        let n = grid[0] * grid[1];
        let of_pairs = pairs(offsets, grid, 0).permute([0, 2, 3, 1]); // [1, N, N, 2]
        let bias = self.forward(of_pairs.reshape([n * n, 2]), drop); // [N·N, A]
        bias.reshape([1, n as i64, n as i64, -1]).permute([0, 3, 1, 2])
    }
}

impl RelPosMlp {
    fn of(config: &PositionConfig, device: &Device) -> Self {
        let PositionConfig { rel_pos_dim, num_heads, prefix_tokens, .. } = *config;
        Self { mlp: OffsetMlp::new(rel_pos_dim, num_heads, device), drop: 0.125, prefix_tokens }
    }

    /// The bias of every pair of tokens, `[1, A, T, T]`, rows are queries.
    pub fn bias(&self, grid: [usize; 2]) -> Tensor<4> {
        let table = self.mlp.forward(self.mlp.offsets(grid), self.drop); // [offsets, A]
        let [_, a] = table.dims();
        let nothing = Tensor::zeros([3, a], (&table.device(), table.dtype()));
        pairs(Tensor::cat(vec![table, nothing], 0), grid, self.prefix_tokens)
    }
}

/// `sign(o) ln(1 + |o|)` of every offset, rows before columns, rounded to f32 as in timm.
fn log_offsets([h, w]: [usize; 2]) -> Vec<f64> {
    let side = |n: usize| 1 - n as i64..n as i64;
    let log = |offset: i64| {
        let value = (offset.abs() as f64).ln_1p() as f32;
        f64::from(if offset < 0 { -value } else { value })
    };
    side(h).flat_map(|y| side(w).flat_map(move |x| [log(y), log(x)])).collect()
}

/// A bias for every pair of tokens, `[1, A, T, T]`, from a table `[offsets + 3, A]`. The last three rows are for
/// pairs with a prefix token; they may be absent if there are no prefix tokens.
pub(crate) fn pairs(table: Tensor<2>, grid: [usize; 2], prefix_tokens: usize) -> Tensor<4> {
    let a = table.dims()[1];
    let t = prefix_tokens + grid[0] * grid[1];
    let index = relative_index(grid, prefix_tokens);
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [t * t]), &table.device());
    table.select(0, index).reshape([1, t, t, a]).permute([0, 3, 1, 2])
}

/// Row of the bias table for every pair of tokens, `T·T` entries, query by query.
fn relative_index([h, w]: [usize; 2], prefix: usize) -> Vec<i64> {
    let t = prefix + h * w;
    let offsets = (2 * h - 1) * (2 * w - 1);
    let row = |query: usize, key: usize| match (query < prefix, key < prefix) {
        (true, true) => offsets + 2,
        (true, false) => offsets,
        (false, true) => offsets + 1,
        (false, false) => {
            let (q, k) = (query - prefix, key - prefix);
            let (dy, dx) = (q / w + h - 1 - k / w, q % w + w - 1 - k % w);
            dy * (2 * w - 1) + dx
        }
    };
    (0..t * t).map(|pair| row(pair / t, pair % t) as i64).collect()
}

/// Conditional positions, Chu et al. 2021 (arXiv:2102.10882, "PEG"; timm `PosConv`): a depthwise 3x3 convolution
/// over the grid, added to the tokens. Prefix tokens are unchanged.
#[derive(Module, Debug)]
pub struct PosConv {
    /// The convolution.
    pub proj: PosKernel,
}

/// The kernel of a [`PosConv`]. The field's name is its place in torch's `Sequential`.
#[derive(Module, Debug)]
pub struct PosKernel {
    /// `[D, 1, 3, 3]` in files.
    pub _0: Conv,
}

impl PosConv {
    /// The convolution for tokens of width `dim`.
    pub fn config(dim: usize) -> ConvConfig {
        ConvConfig::new(dim, dim, 3).groups(dim).bias(true)
    }

    /// An encoding of tokens of width `dim`.
    pub fn new(dim: usize, device: &Device) -> Self {
        Self { proj: PosKernel { _0: Self::config(dim).init(device) } }
    }

    /// `[B, T, D] -> [B, T, D]`.
    ///
    /// # Panics
    /// If `T` is not `prefix + h·w`, or the width is not `D`.
    pub fn forward(&self, x: Tensor<3>, prefix: usize, grid: [usize; 2]) -> Tensor<3> {
        let (first, patches) = split(x, prefix);
        let patches = self.of_maps(&Maps { x: patches, grid }).x;
        match first {
            Some(first) => Tensor::cat(vec![first, patches], 1),
            None => patches,
        }
    }

    /// Maps `[B, H·W, D] -> [B, H·W, D]`.
    ///
    /// # Panics
    /// If the width is not `D`.
    pub fn of_maps(&self, maps: &Maps) -> Maps {
        self.proj._0.add_to(maps.x.clone(), maps)
    }
}
