//! Resizing position tables to another grid, and patch kernels to another patch size.
//!
//! The matrices come from [`crate::layers::resample`]. The method is part of a model's configuration
//! ([`PosResize`]).

use super::HostTensor;
use super::tensors::{Dtype, TensorError};
use crate::layers::resample::{PosResize, axis_weights, resample_grid};

/// Resizes a position table `[1, prefix + H·W, D]` from an old grid `[H, W]` to a new one.
///
/// The first `prefix` rows (class, distillation, register tokens) stay as they are. The type stays; arithmetic is
/// in `f64`.
///
/// # Errors
/// A table without this shape, or a grid without cells.
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
    let resized = resample_grid(cells, width, old_grid, new_grid, method);
    let new_rows = prefix + new_grid[0] * new_grid[1];
    let all = [front, &resized].concat();
    HostTensor::from_f64(vec![1, new_rows, width], &all)?.cast(float_or_f32(table.dtype()))
}

/// Resizes a patch kernel `[D, C, P, P]` to another patch size. A resized patch then gives nearly the same token as
/// the old patch (PI-resize, FlexiViT, arXiv:2212.08013, section 3.4). The kernel is multiplied by the
/// pseudo-inverse of the matrix that resizes patches.
///
/// # Errors
/// A tensor that is not a kernel, or sizes without a pseudo-inverse of full rank.
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
    const LARGEST: usize = 256; // The pseudo-inverse costs the cube of this.
    if new.iter().chain([&rows, &columns]).any(|&side| side == 0 || side > LARGEST) {
        return Err(TensorError::shape(
            format!("with sides of 1 to {LARGEST} pixels, to become {new:?}"),
            kernel.shape(),
        ));
    }
    super::tensors::count(&[out, channels, new[0], new[1], 8])?;
    let singular = || TensorError::shape(format!("that can be resampled to {new:?}"), kernel.shape());
    // The matrix of both axes is the Kronecker product of one per axis, and so is its pseudo-inverse.
    let inverse = |old: usize, new: usize| {
        let weights = axis_weights(old, new, method);
        pseudo_inverse(&weights.chunks_exact(old).map(<[f64]>::to_vec).collect()).ok_or_else(singular)
    };
    let (down, across) = (inverse(rows, new[0])?, inverse(columns, new[1])?);
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

/// `[n][m]` for a matrix `[m][n]` of full rank; `None` for a lower rank.
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

/// `X` with `A X = B`, by Gaussian elimination with pivoting; `None` if `A` is singular.
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
            subtract(&mut a[row], &a_pivot, factor);
            subtract(&mut b[row], &b_pivot, factor);
        }
    }
    for (row, values) in b.iter_mut().enumerate() {
        values.iter_mut().for_each(|v| *v /= a[row][row]);
    }
    Some(b)
}

/// `row -= factor * other`
fn subtract(row: &mut [f64], other: &[f64], factor: f64) {
    row.iter_mut().zip(other).for_each(|(a, b)| *a -= factor * b);
}

fn float_or_f32(dtype: Dtype) -> Dtype {
    if dtype.is_float() { dtype } else { Dtype::F32 }
}
