//! Weights in eight bits, packed for the dot products.

use std::sync::Arc;

use rayon::prelude::*;

use super::dot::{PANEL, TERMS};

/// Most terms of a sum. With activations of 0 … 255 and weights of -128 … 127 no sum of so many products, and no
/// part of it, leaves 32 bits: 65 793 · 255 · 128 < 2³¹.
pub(super) const MAX_TERMS: usize = 65_793;

/// What makes no quantised weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuantizeError {
    /// Values, scales or bias are not as many as the shape asks for.
    Length {
        /// Which.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// More terms in a sum than 32 bits can be sure to hold.
    Terms {
        /// How many.
        found: usize,
    },
}

impl std::fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length { what, expected, found } => write!(f, "{what}: expected {expected}, found {found}"),
            Self::Terms { found } => {
                write!(f, "sums of {found} terms, 32 bits are sure to hold {MAX_TERMS} at most")
            }
        }
    }
}

impl std::error::Error for QuantizeError {}

/// The weight of a linear layer in eight bits, one scale for each column of its output, and its bias in `f32`.
///
/// `weight[p, j] ≈ scale[j] · value[p, j]`, symmetric about 0. Cloning shares the numbers.
#[derive(Clone)]
pub struct QuantizedWeight(Arc<Parts>);

/// Quantises a weight of rows of `k` numbers, an output column after the other as checkpoints hold them: its values and
/// the scale of each row, as [`QuantizedWeight::quantize`] makes them.
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

/// The larger magnitude; NaN stays, once met.
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

/// Vectors reach to the end of the last panel; what stands behind the last column is 0.
pub(super) struct Parts {
    pub k: usize,
    pub n: usize,
    /// Panels of [`PANEL`] columns, in each `[groups, PANEL, TERMS]`.
    pub packed: Vec<i8>,
    pub scales: Vec<f32>,
    /// Sum of each column's values.
    pub sums: Vec<i32>,
    pub bias: Vec<f32>,
    pub has_bias: bool,
}

impl Parts {
    pub(super) fn groups(&self) -> usize {
        self.k.div_ceil(TERMS)
    }

    /// Bytes of a panel.
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
    /// Quantises a weight `[k, n]`, row by row, and takes over the bias `[n]`.
    ///
    /// The scale of a column is its largest magnitude over 127, and a value the nearest multiple of it, so no value is
    /// off by more than half a scale. A column of zeros has scale 0; one that holds NaN or an infinity has scale NaN,
    /// and so has what is computed with it.
    ///
    /// # Errors
    /// [`QuantizeError`] if the numbers are not as many as the shape says, or `k` is above 65 793.
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

    /// A weight from values `[n, k]`, an output column after the other as checkpoints hold them, their scales `[n]` and
    /// the bias `[n]`.
    ///
    /// # Errors
    /// [`QuantizeError`] if the numbers are not as many as the shape says, or `k` is above 65 793.
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

    /// The values `[n, k]`, an output column after the other.
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

    /// The weight that the values stand for, `[k, n]` row by row.
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
