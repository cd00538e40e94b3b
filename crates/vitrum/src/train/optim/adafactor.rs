//! Adafactor (arXiv:1804.04235) as in timm with an external learning rate. Second moments of large matrices are
//! kept as means of rows and columns. Steps are clipped to a root mean square of 1.

use burn::tensor::Tensor;
use vitrum_kernels::optim::sums_of_squares;

use super::lamb::lerp;
use super::{Item, OptimConfig};
use crate::layers::names::Layout;

/// Largest root mean square of a step before the learning rate.
const CLIP_THRESHOLD: f64 = 1.0;
/// The average of squares decays by `1 - step^this`.
const DECAY_RATE: f64 = -0.8;
/// Matrices with both sides longer than this are factored into rows and columns.
const MIN_SIDE: usize = 16;

const ROWS: &str = "exp_avg_sq_row";
const COLUMNS: &str = "exp_avg_sq_col";

/// One step. The average of steps is kept only if betas are given.
pub(super) fn step(config: &OptimConfig, items: Vec<Item>, lr: f64) -> Vec<Item> {
    items.into_iter().map(|item| one(config, item, lr)).collect()
}

fn one(config: &OptimConfig, mut item: Item, lr: f64) -> Item {
    let lr = lr * item.group.lr_scale;
    let share = (item.kept.step as f64).powf(DECAY_RATE);
    let grad = item.grad.clone();
    let squares = grad.clone().square().add_scalar(config.eps());
    let way = match Factors::of(&item.shape, item.layout) {
        Some(factors) => factors.scale(&mut item, squares, share) * grad,
        None => {
            let kept = item.kept.take("exp_avg_sq", &item.shape, &item.param);
            let kept = lerp(kept, squares, share);
            item.kept.put("exp_avg_sq", &item.shape, kept.clone());
            kept.sqrt().recip() * grad
        }
    };
    let size = (sums_of_squares(std::slice::from_ref(&way))[0] / way.dims()[0] as f64).sqrt();
    let mut way = way.div_scalar((size / CLIP_THRESHOLD).max(1.0)).mul_scalar(lr);
    if let Some([beta1, _]) = config.betas {
        let average = item.kept.take("exp_avg", &item.shape, &item.param);
        way = lerp(average, way, 1.0 - beta1);
        item.kept.put("exp_avg", &item.shape, way.clone());
    }
    let decay = item.group.weight_decay;
    if decay != 0.0 {
        item.param = item.param.clone() + item.param.mul_scalar(-decay * lr);
    }
    item.param = item.param - way;
    item
}

/// A tensor as `[before, rows, columns, after]` with the two factored axes. `before` or `after` is 1.
#[derive(Clone, Copy)]
struct Factors {
    before: usize,
    rows: usize,
    columns: usize,
    after: usize,
    /// Index of the rows' axis.
    axis: usize,
}

impl Factors {
    /// timm's choice: the channels of convolutions if both numbers are large, otherwise the last two axes. A kernel in
    /// memory begins with the axes that are last in files.
    fn of(shape: &[usize], layout: Layout) -> Option<Self> {
        let long = |axis: usize| shape[axis] > MIN_SIDE && shape[axis + 1] > MIN_SIDE;
        let last = shape.len().checked_sub(2)?;
        let [first, second] = if layout == Layout::Kernel { [last, 0] } else { [0, last] };
        let axis = [first, second].into_iter().find(|&axis| long(axis))?;
        let before = shape[..axis].iter().product();
        let after = shape[axis + 2..].iter().product();
        Some(Self { before, rows: shape[axis], columns: shape[axis + 1], after, axis })
    }

    /// Shapes of the row and column state.
    fn shapes(&self, shape: &[usize]) -> [Vec<usize>; 2] {
        [self.axis + 1, self.axis].map(|gone| {
            let mut left = shape.to_vec();
            left.remove(gone);
            left
        })
    }

    /// One over the root of the average of squares, `[n]`.
    fn scale(&self, item: &mut Item, squares: Tensor<1>, share: f64) -> Tensor<1> {
        let Self { before, rows, columns, after, .. } = *self;
        let squares = squares.reshape([before, rows, columns, after]);
        let [row_shape, column_shape] = self.shapes(&item.shape);
        let mut average = |name: &str, shape: &[usize], new: Tensor<4>| {
            let kept = item.kept.take(name, shape, &item.param);
            let kept = lerp(kept, new.reshape([shape.iter().product::<usize>()]), share);
            item.kept.put(name, shape, kept.clone());
            kept
        };
        let row = average(ROWS, &row_shape, squares.clone().mean_dim(2)).reshape([before, rows, 1, after]);
        let column =
            average(COLUMNS, &column_shape, squares.mean_dim(1)).reshape([before, 1, columns, after]);
        let row = row.clone() / row.mean_dim(1);
        let scale = row.sqrt().recip() * column.sqrt().recip();
        scale.reshape([before * rows * columns * after])
    }
}

/// The shape of a parameter's state tensor with this name, if it holds rows or columns.
pub(super) fn factored_shape(name: &str, shape: &[usize], layout: Layout) -> Option<Vec<usize>> {
    let which = [ROWS, COLUMNS].iter().position(|known| *known == name)?;
    let factors = Factors::of(shape, layout)?;
    Some(factors.shapes(shape)[which].clone())
}
