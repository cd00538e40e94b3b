//! Position tables for another grid, patch kernels for another patch size.
//!
//! Every method is linear and acts on rows and columns apart, so each is one matrix per axis, computed in
//! `f64`. They agree with PyTorch's `interpolate` and SciPy's `zoom`; which of them a model was made for is
//! part of its configuration ([`PosResize`]), since their results differ by a tenth and more.

use super::HostTensor;
use super::tensors::{Dtype, TensorError};
use crate::models::vit::PosResize;

/// Brings a position table `[1, prefix + H·W, D]` from an old grid `[H, W]` to a new one.
///
/// The first `prefix` rows (class, distillation, register tokens) stay as they are. The type stays; arithmetic
/// is in `f64`.
///
/// # Errors
/// A table that does not have this shape, or a grid with no cells.
pub fn resize_pos_embed(
    table: &HostTensor,
    old_grid: [usize; 2],
    new_grid: [usize; 2],
    prefix: usize,
    method: PosResize,
) -> Result<HostTensor, TensorError> {
    let patches = old_grid[0].checked_mul(old_grid[1]).filter(|&n| n > 0);
    let rows = patches.and_then(|n| n.checked_add(prefix));
    let width = match *table.shape() {
        [1, found, width] if Some(found) == rows => width,
        _ => {
            let expected = format!("[1, {prefix} + {}·{}, D]", old_grid[0], old_grid[1]);
            return Err(TensorError::shape(expected, table.shape()));
        }
    };
    if old_grid == new_grid {
        return Ok(table.clone());
    }
    if new_grid.contains(&0) {
        return Err(TensorError::shape("with cells", &new_grid));
    }
    super::tensors::count(&[new_grid[0], new_grid[1], width, 8])?;
    let values = table.to_f64();
    let (front, cells) = values.split_at(prefix * width);
    let resized = resize_grid(cells, old_grid, new_grid, width, method);
    let new_rows = prefix + new_grid[0] * new_grid[1];
    let all = [front, &resized].concat();
    HostTensor::from_f64(vec![1, new_rows, width], &all)?.cast(float_or_f32(table.dtype()))
}

/// Cells `[H, W, D]` to `[H', W', D]`.
fn resize_grid(cells: &[f64], old: [usize; 2], new: [usize; 2], width: usize, method: PosResize) -> Vec<f64> {
    let columns = Weights::new(old[1], new[1], method);
    let rows = Weights::new(old[0], new[0], method);
    // Columns first, [H, W', D]; then rows.
    let mut across = vec![0.0; old[0] * new[1] * width];
    for y in 0..old[0] {
        for x in 0..new[1] {
            let target = &mut across[(y * new[1] + x) * width..][..width];
            for &(from, weight) in columns.taps(x) {
                add(target, &cells[(y * old[1] + from) * width..][..width], weight);
            }
        }
    }
    let mut out = vec![0.0; new[0] * new[1] * width];
    for (y, target) in out.chunks_exact_mut((new[1] * width).max(1)).enumerate() {
        for &(from, weight) in rows.taps(y) {
            add(target, &across[from * new[1] * width..][..new[1] * width], weight);
        }
    }
    out
}

fn add(target: &mut [f64], source: &[f64], weight: f64) {
    for (t, s) in target.iter_mut().zip(source) {
        *t += weight * s;
    }
}

/// For each new position, the old positions it is made of.
struct Weights(Vec<Vec<(usize, f64)>>);

impl Weights {
    /// The matrix of `method` from `old` positions to `new` ones.
    fn new(old: usize, new: usize, method: PosResize) -> Self {
        let taps = |i: usize| match method {
            PosResize::BicubicAntialias => antialias(i, old, new),
            PosResize::Bicubic => bicubic((i as f64 + 0.5) * (old as f64 / new as f64) - 0.5, old),
            // interpolate(scale_factor = (new + 0.1) / old) divides by that factor.
            PosResize::BicubicDino => {
                let scale = (new as f64 + 0.1) / old as f64;
                bicubic((i as f64 + 0.5) * (1.0 / scale) - 0.5, old)
            }
            PosResize::Bilinear => linear(((i as f64 + 0.5) * (old as f64 / new as f64) - 0.5).max(0.0), old),
            PosResize::BilinearAligned if new == 1 => vec![(0, 1.0)],
            PosResize::BilinearAligned => linear(i as f64 * ((old - 1) as f64 / (new - 1) as f64), old),
            PosResize::Nearest => {
                // PyTorch computes this index in single precision.
                let scale = old as f32 / new as f32;
                vec![((i as f32 * scale).floor() as usize, 1.0)]
            }
        };
        let clamp = |(at, weight): (usize, f64)| (at.min(old - 1), weight);
        Self((0..new).map(|i| taps(i).into_iter().map(clamp).collect()).collect())
    }

    fn taps(&self, i: usize) -> &[(usize, f64)] {
        &self.0[i]
    }

    /// The same as a dense matrix `[new][old]`.
    fn dense(&self, old: usize) -> Vec<Vec<f64>> {
        let row = |taps: &Vec<(usize, f64)>| {
            let mut row = vec![0.0; old];
            taps.iter().for_each(|&(at, weight)| row[at] += weight);
            row
        };
        self.0.iter().map(row).collect()
    }
}

/// Two neighbours of a position that is not negative.
fn linear(at: f64, old: usize) -> Vec<(usize, f64)> {
    let left = (at.floor() as usize).min(old - 1);
    let share = at - left as f64;
    vec![(left, 1.0 - share), ((left + 1).min(old - 1), share)]
}

/// Four neighbours, cubic convolution with `a = -0.75`; beyond the edge the edge is repeated.
fn bicubic(at: f64, old: usize) -> Vec<(usize, f64)> {
    let left = at.floor();
    let share = at - left;
    (-1..=2)
        .map(|k: i32| {
            let from = (left + f64::from(k)).clamp(0.0, (old - 1) as f64) as usize;
            (from, cubic(f64::from(k) - share, -0.75))
        })
        .collect()
}

/// As Pillow's reducing filter: the kernel widened by the scale, `a = -0.5`, cut at the edge, normalised.
fn antialias(i: usize, old: usize, new: usize) -> Vec<(usize, f64)> {
    let scale = old as f64 / new as f64;
    let widen = scale.max(1.0);
    let support = 2.0 * widen;
    let center = scale * (i as f64 + 0.5);
    let first = (center - support + 0.5).max(0.0) as usize;
    let last = ((center + support + 0.5) as usize).min(old);
    let weight = |j: usize| cubic((j as f64 - center + 0.5) / widen, -0.5);
    let total: f64 = (first..last).map(weight).sum();
    (first..last).map(|j| (j, weight(j) / total)).collect()
}

/// Keys' cubic convolution kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

/// Brings a patch kernel `[D, C, P, P]` to another patch size such that a resized patch gives the token the
/// old patch gave, as nearly as possible (PI-resize, FlexiViT, arXiv:2212.08013, section 3.4): the kernel is
/// multiplied by the pseudo-inverse of the matrix that resizes patches.
///
/// # Errors
/// A tensor that is no kernel, or sizes for which the resizing has no pseudo-inverse of full rank.
pub fn resize_patch_embed(
    kernel: &HostTensor,
    new: [usize; 2],
    method: PosResize,
) -> Result<HostTensor, TensorError> {
    let &[out, channels, rows, columns] = kernel.shape() else {
        return Err(TensorError::shape("[D, C, P, P]", kernel.shape()));
    };
    if [rows, columns] == new {
        return Ok(kernel.clone());
    }
    const LARGEST: usize = 256; // the pseudo-inverse costs the cube of it
    if new.iter().chain([&rows, &columns]).any(|&side| side == 0 || side > LARGEST) {
        return Err(TensorError::shape(
            format!("with sides of 1 to {LARGEST} pixels, to become {new:?}"),
            kernel.shape(),
        ));
    }
    super::tensors::count(&[out, channels, new[0], new[1], 8])?;
    let singular = || TensorError::shape(format!("that can be resampled to {new:?}"), kernel.shape());
    // The matrix of both axes is the product of one per axis, and so is its pseudo-inverse.
    let down = pseudo_inverse(&Weights::new(rows, new[0], method).dense(rows)).ok_or_else(singular)?;
    let across =
        pseudo_inverse(&Weights::new(columns, new[1], method).dense(columns)).ok_or_else(singular)?;
    let values = kernel.to_f64();
    let mut resized = Vec::with_capacity(out * channels * new[0] * new[1]);
    for patch in values.chunks_exact(rows * columns) {
        let half: Vec<Vec<f64>> = patch
            .chunks_exact(columns)
            .map(|row| (0..new[1]).map(|x| row.iter().zip(&across).map(|(v, p)| v * p[x]).sum()).collect())
            .collect();
        for y in 0..new[0] {
            resized.extend(
                (0..new[1]).map(|x| half.iter().zip(&down).map(|(row, p)| row[x] * p[y]).sum::<f64>()),
            );
        }
    }
    HostTensor::from_f64(vec![out, channels, new[0], new[1]], &resized)?.cast(float_or_f32(kernel.dtype()))
}

type Matrix = Vec<Vec<f64>>;

/// `[n][m]` for a matrix `[m][n]` of full rank; `None` if the rank is less.
fn pseudo_inverse(matrix: &Matrix) -> Option<Matrix> {
    let (tall, wide) = (matrix.len(), matrix[0].len());
    let turned = transpose(matrix);
    if tall >= wide {
        solve(multiply(&turned, matrix), turned) // (AᵀA)⁻¹ Aᵀ
    } else {
        solve(multiply(matrix, &turned), matrix.clone()).map(|x| transpose(&x)) // Aᵀ (A Aᵀ)⁻¹
    }
}

fn transpose(a: &Matrix) -> Matrix {
    (0..a[0].len()).map(|j| a.iter().map(|row| row[j]).collect()).collect()
}

fn multiply(a: &Matrix, b: &Matrix) -> Matrix {
    let columns = b[0].len();
    let entry = |row: &[f64], j: usize| row.iter().zip(b).map(|(x, other)| x * other[j]).sum();
    a.iter().map(|row| (0..columns).map(|j| entry(row, j)).collect()).collect()
}

/// `X` with `A X = B`, by elimination with pivots; `None` if `A` is singular.
fn solve(mut a: Matrix, mut b: Matrix) -> Option<Matrix> {
    let n = a.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|&i, &j| a[i][column].abs().total_cmp(&a[j][column].abs()))?;
        if a[pivot][column].abs() < 1e-9 {
            return None;
        }
        a.swap(column, pivot);
        b.swap(column, pivot);
        let (a_pivot, b_pivot) = (a[column].clone(), b[column].clone());
        for row in (0..n).filter(|&row| row != column) {
            let factor = a[row][column] / a_pivot[column];
            add(&mut a[row], &a_pivot, -factor);
            add(&mut b[row], &b_pivot, -factor);
        }
    }
    for (row, values) in b.iter_mut().enumerate() {
        values.iter_mut().for_each(|v| *v /= a[row][row]);
    }
    Some(b)
}

fn float_or_f32(dtype: Dtype) -> Dtype {
    if dtype.is_float() { dtype } else { Dtype::F32 }
}
