//! Attention within windows of a map (Swin: Liu et al. 2021, arXiv:2103.14030, section 3.2).
//!
//! The map is rolled up and left by the shift, cut into windows, and put together again. Positions of a window that were
//! apart before the roll do not see each other. A map that windows do not divide is padded at the right and bottom.

use burn::tensor::{Int, Tensor, TensorData};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::drop::dropout;
use super::observe::{AttentionSites, Observer};

/// Added to the scores of positions that do not see each other, as in the authors' code.
const APART: f64 = -100.0;

/// Height and width, stage by stage.
///
/// Written as one number if all stages have the same square, as `[h, w]` if all have the same rectangle, else as a list
/// with an entry per stage. A list of two numbers is `[h, w]`, as in timm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageSizes(Vec<[usize; 2]>);

impl StageSizes {
    /// The same square in every stage.
    pub fn square(side: usize) -> Self {
        Self(vec![[side; 2]])
    }

    /// One size per stage. Equal sizes become one.
    pub fn of_stages(sizes: Vec<[usize; 2]>) -> Self {
        match sizes.first() {
            Some(&first) if sizes.iter().all(|size| *size == first) => Self(vec![first]),
            _ => Self(sizes),
        }
    }

    /// The size of a stage.
    ///
    /// # Panics
    /// If there are several sizes and none for this stage; see [`fits`](Self::fits).
    pub fn at(&self, stage: usize) -> [usize; 2] {
        if self.0.len() == 1 { self.0[0] } else { self.0[stage] }
    }

    /// The side, if all stages have the same square.
    pub fn one(&self) -> Option<usize> {
        match self.0[..] {
            [[h, w]] if h == w => Some(h),
            _ => None,
        }
    }

    /// Whether every one of `stages` stages has a size.
    pub fn fits(&self, stages: usize) -> bool {
        self.0.len() == 1 || self.0.len() == stages
    }

    /// Number of sizes: 1 if all stages have the same.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The different sides.
    pub fn sides(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flatten().copied()
    }
}

/// A square or a rectangle.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Size {
    Square(usize),
    Rectangle([usize; 2]),
}

impl From<Size> for [usize; 2] {
    fn from(size: Size) -> Self {
        match size {
            Size::Square(side) => [side; 2],
            Size::Rectangle(sides) => sides,
        }
    }
}

impl From<[usize; 2]> for Size {
    fn from([h, w]: [usize; 2]) -> Self {
        if h == w { Self::Square(h) } else { Self::Rectangle([h, w]) }
    }
}

impl Serialize for StageSizes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0[..] {
            [size] => Size::from(size).serialize(serializer),
            // Two numbers would be one rectangle.
            [_, _] => self.0.serialize(serializer),
            _ => serializer.collect_seq(self.0.iter().map(|size| Size::from(*size))),
        }
    }
}

impl<'de> Deserialize<'de> for StageSizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(Size),
            Stages(Vec<Size>),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::One(size)) => Ok(Self(vec![size.into()])),
            Ok(Written::Stages(sizes)) if !sizes.is_empty() => {
                Ok(Self::of_stages(sizes.into_iter().map(Into::into).collect()))
            }
            _ => Err(D::Error::custom("expected a side, [height, width], or a list of these for the stages")),
        }
    }
}

/// How a map is cut into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Rows and columns of the map.
    pub grid: [usize; 2],
    /// Rows and columns of a window.
    pub window: [usize; 2],
    /// Rows and columns by which the map is rolled up and left; fewer than those of a window.
    pub shift: [usize; 2],
    /// Whether the map is padded before it is rolled (torchvision, transformers), not after (timm). It matters only where
    /// there is both.
    pub pad_first: bool,
}

impl Windows {
    /// Rows and columns of the padded map.
    pub fn padded(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.grid[axis].next_multiple_of(self.window[axis]))
    }

    /// Number of windows.
    pub fn count(&self) -> usize {
        let padded = self.padded();
        (padded[0] / self.window[0]) * (padded[1] / self.window[1])
    }

    /// Positions of a window.
    pub fn area(&self) -> usize {
        self.window[0] * self.window[1]
    }

    /// Whether windows divide the map.
    pub fn divide(&self) -> bool {
        self.padded() == self.grid
    }

    /// Whether both cut the same map in the same way.
    pub fn same(&self, other: &Self) -> bool {
        let order_matters = !self.divide() && self.shift != [0, 0];
        *self == Self { pad_first: if order_matters { other.pad_first } else { self.pad_first }, ..*other }
    }

    /// Where a row (axis 0) or column (axis 1) of the padded and rolled map comes from; `None` for padding.
    fn source(&self, axis: usize, at: usize) -> Option<usize> {
        let (length, shift) = (self.grid[axis], self.shift[axis]);
        match self.pad_first {
            true => Some((at + shift) % self.padded()[axis]).filter(|source| *source < length),
            false => (at < length).then(|| (at + shift) % length),
        }
    }

    /// Row and column on the padded and rolled map of every position, window by window.
    fn positions(&self) -> impl Iterator<Item = [usize; 2]> {
        let ([h, w], [ph, pw]) = (self.window, self.padded());
        let windows = (0..ph / h).flat_map(move |y| (0..pw / w).map(move |x| [y * h, x * w]));
        windows.flat_map(move |[y, x]| (0..h).flat_map(move |i| (0..w).map(move |j| [y + i, x + j])))
    }

    /// The place on the map, row by row, of every position; `None` for padding.
    pub fn places(&self) -> Vec<Option<usize>> {
        let place = |[y, x]: [usize; 2]| Some(self.source(0, y)? * self.grid[1] + self.source(1, x)?);
        self.positions().map(place).collect()
    }

    /// Maps `[B, H·W, D]` as windows `[B · windows, N, D]`, the windows of an image side by side. `padding` is the value of
    /// what is added, `[D]`; zeros if absent.
    ///
    /// # Panics
    /// If the map has another number of positions than `grid`, or `padding` another width.
    pub fn partition(&self, x: Tensor<3>, padding: Option<Tensor<1>>) -> Tensor<3> {
        let [b, n, d] = x.dims();
        let device = x.device();
        let places = self.places();
        let mut rows = x.reshape([b * n, d]);
        if !self.divide() {
            let value = padding.unwrap_or_else(|| Tensor::zeros([d], (&device, rows.dtype())));
            rows = Tensor::cat(vec![rows, value.reshape([1, d])], 0);
        }
        let index = (0..b).flat_map(|image| {
            places.iter().map(move |place| place.map_or(b * n, |place| image * n + place) as i64)
        });
        let index = TensorData::new(index.collect::<Vec<i64>>(), [b * places.len()]);
        let rows = rows.select(0, Tensor::<1, Int>::from_data(index, &device));
        rows.reshape([b * self.count(), self.area(), d])
    }

    /// Windows `[B · windows, N, D]` as maps `[B, H·W, D]`, without the padding.
    ///
    /// # Panics
    /// If the number or size of the windows is another.
    pub fn reverse(&self, x: Tensor<3>) -> Tensor<3> {
        let [all, area, d] = x.dims();
        let (b, n) = (all / self.count(), self.grid[0] * self.grid[1]);
        let mut index = vec![0; b * n];
        for (position, place) in self.places().into_iter().enumerate() {
            let Some(place) = place else { continue };
            (0..b)
                .for_each(|image| index[image * n + place] = (image * self.count() * area + position) as i64);
        }
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [b * n]), &x.device());
        x.reshape([all * area, d]).select(0, index).reshape([b, n, d])
    }

    /// The mask of the scores, `[windows, 1, N, N]`: 0, or -100 between positions that the roll brought together. `None`
    /// without a shift.
    fn mask(&self, like: &Tensor<3>) -> Option<Tensor<4>> {
        if self.shift == [0, 0] {
            return None;
        }
        let padded = self.padded();
        // What was rolled over the edge is another region than the rest.
        let is_rolled =
            |axis: usize, at: usize| at + self.shift[axis] >= padded[axis] && self.shift[axis] > 0;
        let regions: Vec<[bool; 2]> =
            self.positions().map(|[y, x]| [is_rolled(0, y), is_rolled(1, x)]).collect();
        let mut mask = Vec::with_capacity(regions.len() * self.area());
        for window in regions.chunks_exact(self.area()) {
            for query in window {
                mask.extend(window.iter().map(|key| if key == query { 0.0 } else { APART }));
            }
        }
        let data = TensorData::new(mask, [self.count(), 1, self.area(), self.area()]);
        Some(Tensor::from_data(data, (&like.device(), like.dtype())))
    }

    /// Mask and bias of the scores, `[1 or windows, A, N, N]`.
    fn scores_bias(&self, bias: Option<Tensor<3>>, like: &Tensor<3>) -> Option<Tensor<4>> {
        match (bias.map(|bias| bias.unsqueeze::<4>()), self.mask(like)) {
            (Some(bias), Some(mask)) => Some(bias + mask),
            (bias, mask) => bias.or(mask),
        }
    }
}

/// Softmax attention within windows, `softmax(scale · q kᵀ + bias + mask) v`: projected maps `[B, H·W, 3D]` to
/// `[B, H·W, D]`.
///
/// `qkv` holds queries, keys and values of the unpadded map, heads side by side. `bias` is that of one window,
/// `[A, N, N]`. `padding` is the projection of a padded position, `[3D]`; zeros if absent. With `rounds`, products are in
/// bf16.
///
/// # Panics
/// If `qkv` has another number of positions than `windows.grid`, or bias or padding another shape.
pub fn window_attention(
    qkv: Tensor<3>,
    windows: &Windows,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<3>>,
    padding: Option<Tensor<1>>,
    rounds: bool,
) -> Tensor<3> {
    if windows.divide() && !rounds {
        let Windows { grid, window, shift, .. } = *windows;
        let kernel = vitrum_kernels::Windows { grid, window, shift };
        let bias = bias.map(|bias| bias.unsqueeze::<4>());
        return vitrum_kernels::window_attention(qkv, kernel, num_heads, scale, bias);
    }
    let bias = windows.scores_bias(bias, &qkv);
    let qkv = windows.partition(qkv, padding); // [B · windows, N, 3D]
    let context = match rounds {
        true => vitrum_kernels::attention_bf16(qkv, windows.area(), num_heads, scale, bias),
        false => vitrum_kernels::attention(qkv, num_heads, scale, bias),
    };
    windows.reverse(context)
}

/// [`window_attention`] with its weights `[B · windows, A, N, N]` shown to the observer as `weights`, and dropped at the
/// rate `drop` in training.
#[allow(clippy::too_many_arguments)] // those of `window_attention`, and what acts on the weights
pub fn window_attention_weights(
    qkv: Tensor<3>,
    windows: &Windows,
    num_heads: usize,
    scale: f64,
    bias: Option<Tensor<3>>,
    padding: Option<Tensor<1>>,
    drop: f64,
    watch: &mut dyn Observer,
) -> Tensor<3> {
    let bias = windows.scores_bias(bias, &qkv);
    let qkv = windows.partition(qkv, padding); // [B · windows, N, 3D]
    let [b, n, d3] = qkv.dims();
    let (d, a) = (d3 / 3, num_heads);
    let weights = vitrum_kernels::attention_weights(qkv.clone(), a, scale, bias); // [B · windows, A, N, N]
    let sites = AttentionSites::Windows(*windows);
    let weights = dropout(watch.attention(format_args!("weights"), weights, &sites), drop);
    let v = qkv.narrow(2, 2 * d, d).reshape([b, n, a, d / a]).swap_dims(1, 2); // [B · windows, A, N, E]
    windows.reverse(weights.matmul(v).swap_dims(1, 2).reshape([b, n, d]))
}
