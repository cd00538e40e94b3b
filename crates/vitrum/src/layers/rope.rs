//! Rotary positions: Su et al. 2021 (arXiv:2104.09864); for images Heo et al. 2024 (arXiv:2403.13298), EVA-02
//! (arXiv:2303.11331), DINOv3 (arXiv:2508.10104).
//!
//! Pairs of numbers of a query or key are points of a plane. A token's place turns them by an angle, the place times a
//! frequency: `[x, y] -> [x cos - y sin, y cos + x sin]`. The product of a query and a key then depends on the
//! difference of their places. Prefix tokens have no place and do not turn.

use std::f64::consts::{PI, TAU};

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::kept::{Keep, Kept};
use super::parameter;

/// Where the frequencies of rotary positions come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeType {
    /// A geometric progression for each axis; places are numbers of rows and columns (EVA-02; timm `RotaryEmbeddingCat`).
    #[default]
    Cat,
    /// Learned frequencies of both axes for each block and head (timm `RotaryEmbeddingMixed`; key `rope.freqs`).
    Mixed,
    /// A geometric progression of periods; places lie between -1 and 1 on each axis (timm `RotaryEmbeddingDinoV3`).
    #[serde(rename = "dinov3")]
    DinoV3,
}

/// The order of the axes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GridIndexing {
    /// Rows, then columns.
    #[default]
    Ij,
    /// Columns, then rows.
    Xy,
}

/// How a [`Rope`] is built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// Where the frequencies come from.
    pub kind: RopeType,
    /// `L`.
    pub depth: usize,
    /// `A`.
    pub num_heads: usize,
    /// `E`, a multiple of 4.
    pub head_dim: usize,
    /// Tokens that do not turn.
    pub prefix_tokens: usize,
    /// Base of the progressions.
    pub temperature: f64,
    /// Added to the number of every row and column. [`RopeType::Mixed`] has none.
    pub grid_offset: f64,
    /// The order of the axes.
    pub indexing: GridIndexing,
    /// Whether a pair is `i` and `i + E / 2`; else it is `2i` and `2i + 1`.
    pub rotate_half: bool,
    /// Rows and columns to which places of other grids are scaled; [`RopeType::Cat`] only.
    pub reference: Option<[usize; 2]>,
}

/// Rotary positions of a model.
#[derive(Module, Debug)]
pub struct Rope {
    /// Learned frequencies `[2, L, A, E / 2]`, first axis first.
    pub freqs: Option<Param<Tensor<4>>>,
    /// The rotations of a prepared model: that of all blocks, or of each block.
    #[module(skip)]
    pub(crate) kept: Vec<Kept<Rotation>>,
    #[module(skip)]
    config: RopeConfig,
}

impl Rope {
    /// Rotary positions without values.
    pub fn new(config: RopeConfig, device: &Device) -> Self {
        let RopeConfig { kind, depth, num_heads, head_dim, .. } = config;
        let learned = kind == RopeType::Mixed;
        let freqs = learned.then(|| parameter([2, depth, num_heads, head_dim / 2], device));
        let kept = vec![Kept::default(); if learned { depth } else { 1 }];
        Self { freqs, kept, config }
    }

    /// The rotation of all blocks; `None` if each has its own.
    pub fn shared(&self, grid: [usize; 2], dtype: DType, device: &Device) -> Option<Rotation> {
        if self.freqs.is_some() {
            return None;
        }
        Some(self.kept[0].get(grid, || self.of_all(grid, dtype, device)))
    }

    fn of_all(&self, grid: [usize; 2], dtype: DType, device: &Device) -> Rotation {
        let RopeConfig { kind, prefix_tokens, head_dim, .. } = self.config;
        let n = grid[0] * grid[1];
        let angles = self.angles(grid);
        let table = |of: fn(f64) -> f64| {
            let value = |angle: &f64| match kind {
                // timm keeps these tables in f32.
                RopeType::Cat => f64::from(of(*angle) as f32),
                _ => of(*angle),
            };
            let values: Vec<f64> = angles.iter().map(value).collect();
            Tensor::from_data(TensorData::new(values, [1, n, 1, head_dim / 2]), (device, dtype))
        };
        let [cos, sin] = [f64::cos, f64::sin].map(table);
        Rotation::new(cos, sin, prefix_tokens, self.config.rotate_half)
    }

    /// The rotation of block `index` in `dtype`, if each has its own. Angles are in the type of the frequencies, at least
    /// f32: those of a distant place have few digits behind the point in a narrower type.
    pub fn of_block(&self, index: usize, grid: [usize; 2], dtype: DType) -> Option<Rotation> {
        let freqs = self.freqs.as_ref()?;
        Some(self.kept[index].get(grid, || self.of_one(freqs.val(), index, grid, dtype)))
    }

    fn of_one(&self, freqs: Tensor<4>, index: usize, grid: [usize; 2], dtype: DType) -> Rotation {
        let freqs = if freqs.dtype() == DType::F64 { freqs } else { freqs.cast(DType::F32) };
        let RopeConfig { prefix_tokens, num_heads: a, head_dim: e, .. } = self.config;
        let n = grid[0] * grid[1];
        let [first, second] = self.places(grid);
        let product = |axis: usize, places: Vec<f64>| {
            let places = TensorData::new(places, [1, n, 1, 1]);
            let places = Tensor::<4>::from_data(places, (&freqs.device(), freqs.dtype()));
            let freqs = freqs.clone().narrow(0, axis, 1).narrow(1, index, 1).reshape([1, 1, a, e / 2]);
            places * freqs // [1, N, A, E/2]
        };
        let angles = product(0, first) + product(1, second);
        // Queries and keys turn alike.
        let [cos, sin] = [angles.clone().cos(), angles.sin()]
            .map(|part| Tensor::cat(vec![part.clone(), part], 2).cast(dtype));
        Rotation::new(cos, sin, prefix_tokens, self.config.rotate_half)
    }

    /// The places of all patches on the first and the second axis, row by row. As in timm they are f32 numbers in models of
    /// any type.
    fn places(&self, grid: [usize; 2]) -> [Vec<f64>; 2] {
        let RopeConfig { kind, grid_offset, reference, indexing, .. } = self.config;
        let offset = grid_offset as f32;
        let place = |axis: usize, at: usize| {
            let (at, size) = (at as f32, grid[axis] as f32);
            f64::from(match (kind, reference) {
                (RopeType::Mixed, _) => at,
                (RopeType::DinoV3, _) => 2.0 * ((at + 0.5 + offset) / size) - 1.0,
                (RopeType::Cat, None) => at + offset,
                (RopeType::Cat, Some(reference)) => (at + offset) / size * reference[axis] as f32,
            })
        };
        let patches = || (0..grid[0]).flat_map(|y| (0..grid[1]).map(move |x| [y, x]));
        let axes = match indexing {
            GridIndexing::Ij => [0, 1],
            GridIndexing::Xy => [1, 0],
        };
        axes.map(|axis| patches().map(|at| place(axis, at[axis])).collect())
    }

    /// The angle of each patch and pair, `[N, E / 2]`. timm rounds periods and frequencies to f32, and the angles of `Cat`.
    fn angles(&self, grid: [usize; 2]) -> Vec<f64> {
        let RopeConfig { kind, head_dim, temperature, .. } = self.config;
        let quarter = head_dim / 4;
        let power = |exponent: f32| temperature.powf(f64::from(exponent)) as f32;
        // Of DINOv3 periods, else frequencies.
        let constants: Vec<f32> = match kind {
            RopeType::DinoV3 => (0..quarter).map(|i| power(2.0 * i as f32 / (head_dim / 2) as f32)).collect(),
            _ => (0..quarter).map(|i| 1.0 / power(i as f32 / quarter as f32)).collect(),
        };
        let angle = |place: f64, constant: f32| match kind {
            RopeType::DinoV3 => TAU * place / f64::from(constant),
            _ => f64::from(place as f32 * constant),
        };
        let [first, second] = self.places(grid);
        let of_place = |place: f64| constants.iter().map(move |constant| angle(place, *constant));
        first.iter().zip(&second).flat_map(|(a, b)| of_place(*a).chain(of_place(*b))).collect()
    }
}

/// A rotation of queries and keys: a factor for each number, and a factor for the other number of its pair.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[1, T, heads, E]`; one head, or all queries and then all keys.
    cos: Tensor<4>,
    /// The same with the sign of the pair's other number.
    sin: Tensor<4>,
    half: bool,
}

impl Keep for Rotation {
    fn bytes(&self) -> usize {
        self.cos.bytes() + self.sin.bytes()
    }
}

impl Rotation {
    /// From cosines and sines of the patches, `[1, N, heads, E / 2]`.
    fn new(cos: Tensor<4>, sin: Tensor<4>, prefix: usize, half: bool) -> Self {
        let pairs = |first: Tensor<4>, second: Tensor<4>, still: f64| {
            let [_, n, heads, pairs] = first.dims();
            let all = match half {
                true => Tensor::cat(vec![first, second], 3),
                false => Tensor::<4>::stack::<5>(vec![first, second], 4).reshape([1, n, heads, 2 * pairs]),
            };
            if prefix == 0 {
                return all;
            }
            let still = Tensor::full([1, prefix, heads, 2 * pairs], still, (&all.device(), all.dtype()));
            Tensor::cat(vec![still, all], 1)
        };
        Self { cos: pairs(cos.clone(), cos, 1.0), sin: pairs(-sin.clone(), sin, 0.0), half }
    }

    /// Turns the queries and keys of `[B, T, 3·A·E]`.
    ///
    /// # Panics
    /// If `T` is not the rotation's, or the width does not fit its heads.
    pub(super) fn turn(&self, qkv: Tensor<3>) -> Tensor<3> {
        vitrum_kernels::rotate(qkv, self.cos.clone(), self.sin.clone(), self.half)
    }
}

/// First values of learned frequencies `[2, L, A, E / 2]` from one angle for each block and head, uniform in `[0, 2π)`:
/// two progressions at right angles (Heo et al. 2024; timm `init_random_2d_freqs`).
pub(super) fn mixed_frequencies(turns: &[f64], head_dim: usize, temperature: f64) -> Vec<f64> {
    let sizes: Vec<f64> =
        (0..head_dim / 4).map(|i| temperature.powf(-((4 * i) as f64) / head_dim as f64)).collect();
    let axis = |of: fn(f64) -> f64| {
        let of_head = |turn: &f64| {
            [*turn, turn + PI / 2.0]
                .into_iter()
                .flat_map(|angle| sizes.iter().map(move |size| size * of(angle)).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        };
        turns.iter().flat_map(of_head).collect::<Vec<f64>>()
    };
    [axis(f64::cos), axis(f64::sin)].concat()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Tensor, TensorData};

    use super::super::kept::Budget;
    use super::*;

    const HEADS: usize = 2;
    const DIM: usize = 16;

    fn config(kind: RopeType) -> RopeConfig {
        RopeConfig {
            kind,
            depth: 2,
            num_heads: HEADS,
            head_dim: DIM,
            prefix_tokens: 1,
            temperature: 10.0,
            grid_offset: 0.0,
            indexing: GridIndexing::Xy,
            rotate_half: false,
            reference: None,
        }
    }

    /// Learned frequencies from one angle for each block and head.
    fn mixed(turns: [f64; 4]) -> (Rope, Vec<f64>) {
        let device = Device::flex();
        let values = mixed_frequencies(&turns, DIM, 10.0);
        let shape = [2, 2, HEADS, DIM / 2];
        let freqs = Tensor::from_data(TensorData::new(values.clone(), shape), (&device, DType::F32));
        (
            Rope { freqs: Some(Param::from_tensor(freqs)), ..Rope::new(config(RopeType::Mixed), &device) },
            values,
        )
    }

    /// Angles reach 40; in bf16 they would be off by up to 0.1.
    #[test]
    fn narrow_rotations_have_exact_angles() {
        let (rope, freqs) = mixed([0.3, 1.7, 2.9, 5.1]);
        let grid = [32, 32];
        let rotation = rope.of_block(1, grid, DType::BF16).unwrap();
        assert_eq!(rotation.cos.dtype(), DType::BF16);
        let cos: Vec<f64> = rotation.cos.into_data().iter::<f64>().collect();
        let mut worst = 0.0_f64;
        for patch in 0..grid[0] * grid[1] {
            let places = [(patch % grid[1]) as f64, (patch / grid[1]) as f64];
            for head in 0..HEADS {
                for pair in 0..DIM / 2 {
                    let of = |axis: usize| freqs[((axis * 2 + 1) * HEADS + head) * DIM / 2 + pair];
                    let angle = places[0] * of(0) + places[1] * of(1);
                    let ours = cos[((1 + patch) * 2 * HEADS + head) * DIM + 2 * pair];
                    worst = worst.max((ours - angle.cos()).abs());
                }
            }
        }
        assert!(worst > 0.0 && worst < 0.0025, "{worst}"); // bf16 has 8 digits
    }

    /// A prepared rope does not look at its frequencies again, until the grid is another.
    #[test]
    fn rotations_are_kept() {
        let (mut rope, _) = mixed([0.3, 1.7, 2.9, 5.1]);
        let cos = |rope: &Rope, grid| rope.of_block(0, grid, DType::F32).unwrap().cos.into_data();
        let before = cos(&rope, [2, 3]);
        rope.kept.iter_mut().for_each(|kept| kept.keep(&Budget::new(1 << 20)));
        assert_eq!(cos(&rope, [2, 3]), before);
        rope.freqs = mixed([1.0, 2.0, 3.0, 4.0]).0.freqs;
        assert_eq!(cos(&rope, [2, 3]), before);
        assert_ne!(cos(&rope, [3, 2]), before);
        assert_ne!(cos(&rope, [2, 3]), before);
        rope.kept.iter_mut().for_each(Kept::forget);

        let device = Device::flex();
        let mut shared = Rope::new(config(RopeType::Cat), &device);
        let cos = |rope: &Rope| rope.shared([2, 3], DType::F32, &device).unwrap().cos.into_data();
        let before = cos(&shared);
        shared.kept.iter_mut().for_each(|kept| kept.keep(&Budget::new(1 << 20)));
        assert_eq!(cos(&shared), before);
        shared.config.temperature = 100.0;
        assert_eq!(cos(&shared), before);
    }
}
