//! Int8 weights, packed for the dot products.

use std::sync::Arc;

use rayon::prelude::*;

use super::dot::{PANEL, TERMS};

/// Most terms of a sum. With activations of 0 … 255 and weights of -128 … 127, a sum of this many products and all its
/// partial sums fit 32 bits: 65 793 · 255 · 128 < 2³¹.
pub(super) const MAX_TERMS: usize = 65_793;

/// Why a weight cannot be quantised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuantizeError {
    /// The number of values, scales or biases does not match the shape.
    Length {
        /// Which: values, scales or bias.
        what: &'static str,
        /// Expected number.
        expected: usize,
        /// Number found.
        found: usize,
    },
    /// A sum has more terms than 32 bits can always hold.
    Terms {
        /// Number of terms.
        found: usize,
    },
}

impl std::fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length { what, expected, found } => write!(f, "{what}: expected {expected}, found {found}"),
            Self::Terms { found } => {
                write!(f, "a sum has {found} terms, but 32 bits hold at most {MAX_TERMS}")
            }
        }
    }
}

impl std::error::Error for QuantizeError {}

/// The weight of a linear layer in eight bits, with one scale per column of its output, and its bias in `f32`.
///
/// `weight[p, j] ≈ scale[j] · value[p, j]`, symmetric about 0. Clones share the numbers.
#[derive(Clone)]
pub struct QuantizedWeight(Arc<Parts>);

/// Quantises a weight stored as checkpoints do, one row of `k` numbers per output column. Returns the values and the
/// scale of each row, as [`QuantizedWeight::quantize`] computes them.
///
/// # Panics
/// If `k` does not divide the number of values.
pub fn quantize_weight_rows(weight: &[f32], k: usize) -> (Vec<i8>, Vec<f32>) {
    assert!(
        weight.len().is_multiple_of(k.max(1)),
        "quantize_weight_rows: {} values in rows of {k}",
        weight.len()
    );
    let mut values = vec![0; weight.len()];
    let rows = weight.par_chunks_exact(k.max(1)).zip(values.par_chunks_exact_mut(k.max(1)));
    let scales = rows.map(|(row, values)| {
        let scale = scale_of(row.iter().copied().fold(0.0, larger));
        let inverse = inverse_of(scale);
        values.iter_mut().zip(row).for_each(|(value, &w)| *value = rounded(w, inverse));
        scale
    });
    let scales = scales.collect();
    (values, scales)
}

/// The larger magnitude. Once NaN, it stays NaN.
fn larger(largest: f32, value: f32) -> f32 {
    if value.abs() <= largest { largest } else { value.abs() + largest * 0.0 }
}

fn scale_of(largest: f32) -> f32 {
    if largest.is_finite() { largest / 127.0 } else { f32::NAN }
}

fn inverse_of(scale: f32) -> f32 {
    if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 }
}

fn rounded(w: f32, inverse: f32) -> i8 {
    (w * inverse).round_ties_even().clamp(-127.0, 127.0) as i8
}

/// Vectors are padded to whole panels; everything after the last column is 0.
pub(super) struct Parts {
    pub k: usize,
    pub n: usize,
    /// Panels of [`PANEL`] columns, each `[groups, PANEL, TERMS]`.
    pub packed: Vec<i8>,
    pub scales: Vec<f32>,
    /// The sum of the values of each column.
    pub sums: Vec<i32>,
    pub bias: Vec<f32>,
    pub has_bias: bool,
}

impl Parts {
    pub(super) fn groups(&self) -> usize {
        self.k.div_ceil(TERMS)
    }

    /// Bytes per panel.
    pub(super) fn panel(&self) -> usize {
        self.groups() * PANEL * TERMS
    }

    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    fn place(&self, p: usize, j: usize) -> usize {
        let (panel, column) = (j / PANEL, j % PANEL);
        panel * self.panel() + (p / TERMS * PANEL + column) * TERMS + p % TERMS
    }
}

impl std::fmt::Debug for QuantizedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QuantizedWeight([{}, {}])", self.0.k, self.0.n)
    }
}

impl QuantizedWeight {
    /// Quantises a weight `[k, n]`, row by row, and stores the bias `[n]`.
    ///
    /// The scale of a column is its largest magnitude over 127. A value is the nearest multiple of the scale, so its
    /// error is at most half a scale. A column of zeros has scale 0. A column with NaN or an infinity has scale NaN,
    /// and all results of it are NaN.
    ///
    /// # Errors
    /// [`QuantizeError`] if a length does not match the shape, or `k` is above 65 793.
    pub fn quantize(weight: &[f32], [k, n]: [usize; 2], bias: Option<&[f32]>) -> Result<Self, QuantizeError> {
        check("values", k * n, weight.len())?;
        let mut largest = vec![0f32; n];
        for row in weight.chunks_exact(n.max(1)) {
            largest.iter_mut().zip(row).for_each(|(largest, &value)| *largest = larger(*largest, value));
        }
        let scales: Vec<f32> = largest.into_iter().map(scale_of).collect();
        let inverse: Vec<f32> = scales.iter().map(|&scale| inverse_of(scale)).collect();
        let value = |p: usize, j: usize| rounded(weight[p * n + j], inverse[j]);
        Self::pack(value, scales, [k, n], bias)
    }

    /// A weight from values `[n, k]`, stored as checkpoints do with one row per output column, their scales `[n]` and
    /// the bias `[n]`.
    ///
    /// # Errors
    /// [`QuantizeError`] if a length does not match the shape, or `k` is above 65 793.
    pub fn from_values(
        values: &[i8],
        scales: &[f32],
        [k, n]: [usize; 2],
        bias: Option<&[f32]>,
    ) -> Result<Self, QuantizeError> {
        check("values", k * n, values.len())?;
        check("scales", n, scales.len())?;
        Self::pack(|p, j| values[j * k + p], scales.to_vec(), [k, n], bias)
    }

    fn pack(
        value: impl Fn(usize, usize) -> i8 + Sync,
        mut scales: Vec<f32>,
        [k, n]: [usize; 2],
        bias: Option<&[f32]>,
    ) -> Result<Self, QuantizeError> {
        if k > MAX_TERMS {
            return Err(QuantizeError::Terms { found: k });
        }
        if let Some(bias) = bias {
            check("bias", n, bias.len())?;
        }
        let width = n.next_multiple_of(PANEL);
        scales.resize(width, 0.0);
        let mut all_bias = bias.unwrap_or_default().to_vec();
        all_bias.resize(width, 0.0);
        let has_bias = bias.is_some();
        let mut parts =
            Parts { k, n, packed: Vec::new(), scales, sums: vec![0; width], bias: all_bias, has_bias };
        parts.packed = vec![0; parts.panels() * parts.panel()];
        let panel = parts.panel();
        let panels =
            parts.packed.par_chunks_exact_mut(panel.max(1)).zip(parts.sums.par_chunks_exact_mut(PANEL));
        panels.enumerate().for_each(|(index, (packed, sums))| {
            let columns = PANEL.min(n - index * PANEL);
            for p in 0..k {
                for column in 0..columns {
                    let value = value(p, index * PANEL + column);
                    packed[(p / TERMS * PANEL + column) * TERMS + p % TERMS] = value;
                    sums[column] += i32::from(value);
                }
            }
        });
        Ok(Self(Arc::new(parts)))
    }

    /// Rows and columns, `[k, n]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.0.k, self.0.n]
    }

    /// The values `[n, k]`, one row per output column.
    pub fn values(&self) -> Vec<i8> {
        let parts = self.parts();
        (0..parts.n).flat_map(|j| (0..parts.k).map(move |p| parts.packed[parts.place(p, j)])).collect()
    }

    /// The scale of each column, `[n]`.
    pub fn scales(&self) -> &[f32] {
        &self.0.scales[..self.0.n]
    }

    /// The bias `[n]`.
    pub fn bias(&self) -> Option<&[f32]> {
        self.0.has_bias.then(|| &self.0.bias[..self.0.n])
    }

    /// The dequantised weight, `[k, n]` row by row.
    pub fn dequantize(&self) -> Vec<f32> {
        let parts = self.parts();
        let number = |p: usize, j: usize| f32::from(parts.packed[parts.place(p, j)]) * parts.scales[j];
        (0..parts.k).flat_map(|p| (0..parts.n).map(move |j| number(p, j))).collect()
    }

    /// Bytes in memory.
    pub fn num_bytes(&self) -> usize {
        let parts = self.parts();
        parts.packed.len() + 4 * (parts.scales.len() + parts.sums.len() + parts.bias.len())
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0
    }
}

fn check(what: &'static str, expected: usize, found: usize) -> Result<(), QuantizeError> {
    if expected == found { Ok(()) } else { Err(QuantizeError::Length { what, expected, found }) }
}
