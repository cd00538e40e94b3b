//! Muon (Jordan 2024, kellerjordan.github.io/posts/muon) as in timm with its defaults. The step of a matrix is its
//! averaged gradient with all singular values near 1, scaled as in arXiv:2502.16982. The rest uses AdamW.

use burn::tensor::Tensor;

use super::lamb::lerp;
use super::{Item, OptimConfig, elementwise};
use crate::layers::names::Layout;

/// Coefficients of the five iterations (github.com/KellerJordan/modded-nanogpt, derived by F. L. Cesista).
const COEFFICIENTS: [[f64; 3]; 5] = [
    [4.0848, -6.8946, 2.9270],
    [3.9505, -6.3029, 2.6377],
    [3.7418, -5.5913, 2.3037],
    [2.8769, -3.1427, 1.2046],
    [2.8366, -3.0525, 1.2012],
];
/// Matrices with a side shorter than this use AdamW.
const MIN_SIDE: usize = 4;
/// Matrices whose sides have a larger ratio than this use AdamW, too.
const MAX_RATIO: f64 = 128.0;

const MOMENTUM: &str = "momentum_buffer";

/// One step.
pub(super) fn step(config: &OptimConfig, items: Vec<Item>, lr: f64, nesterov: bool) -> Vec<Item> {
    let (matrices, rest): (Vec<Item>, Vec<Item>) =
        items.into_iter().partition(|item| matrix_of(item).is_some());
    let mut moved = elementwise::adam(config, rest, lr, true, nesterov);
    moved.extend(matrices.into_iter().map(|item| one(config, item, lr, nesterov)));
    moved
}

/// Rows and columns in memory for orthogonalisation, if the tensor qualifies (timm's rules). A kernel is a matrix with a
/// column per channel of the result.
fn matrix_of(item: &Item) -> Option<[usize; 2]> {
    let shape = match item.layout {
        Layout::Kernel => item.layout.shape_in_files(&item.shape),
        Layout::AsInFiles | Layout::Linear => item.shape.clone(),
    };
    let [rows, second, ..] = shape[..] else { return None };
    let columns = shape[1..].iter().product::<usize>();
    let (short, long) = (rows.min(columns), rows.max(columns));
    let fits = rows > 1 && second > 1 && short >= MIN_SIDE && long as f64 / short as f64 <= MAX_RATIO;
    let matrix = if item.layout == Layout::Kernel { [columns, rows] } else { [rows, columns] };
    fits.then_some(matrix)
}

fn one(config: &OptimConfig, mut item: Item, lr: f64, nesterov: bool) -> Item {
    let Some([rows, columns]) = matrix_of(&item) else { return item };
    let lr = lr * item.group.lr_scale;
    let average = item.kept.take(MOMENTUM, &item.shape, &item.param);
    let average = lerp(average, item.grad.clone(), 1.0 - config.momentum);
    let way =
        if nesterov { lerp(item.grad.clone(), average.clone(), config.momentum) } else { average.clone() };
    item.kept.put(MOMENTUM, &item.shape, average);
    let way = orthogonal(way.reshape([rows, columns]), config.eps()).reshape([rows * columns]);
    let scale = 0.2 * (rows.max(columns) as f64).sqrt();
    item.param = item.param.mul_scalar(1.0 - lr * item.group.weight_decay) + way.mul_scalar(-lr * scale);
    item
}

/// Brings the singular values of a matrix `[m, n]` near 1 by Newton-Schulz iterations.
fn orthogonal(x: Tensor<2>, eps: f64) -> Tensor<2> {
    let [rows, columns] = x.dims();
    let tall = rows > columns;
    let x = if tall { x.transpose() } else { x };
    let norm = x.clone().square().sum().sqrt().clamp_min(eps);
    let mut x = x / norm.unsqueeze();
    for [a, b, c] in COEFFICIENTS {
        let square = x.clone().matmul(x.clone().transpose());
        let mixed = square.clone().mul_scalar(b) + square.clone().matmul(square).mul_scalar(c);
        x = x.clone().mul_scalar(a) + mixed.matmul(x);
    }
    if tall { x.transpose() } else { x }
}
