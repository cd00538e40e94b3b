//! LAMB (arXiv:1904.00962) as timm's `Lamb` with its defaults: all gradients are clipped to a common norm of 1,
//! decay is added to the step, and steps with decay are scaled to the weights' norm.

use burn::tensor::Tensor;
use vitrum_kernels::optim::{Lerp, Slot, sums_of_squares, update};

use super::{Item, OptimConfig};

/// Largest norm of all gradients together.
const MAX_GRAD_NORM: f64 = 1.0;

/// One step; `updates` counts this one.
pub(super) fn step(config: &OptimConfig, items: Vec<Item>, lr: f64, updates: u64) -> Vec<Item> {
    let grads: Vec<Tensor<1>> = items.iter().map(|item| item.grad.clone()).collect();
    let norm = sums_of_squares(&grads).iter().sum::<f64>().sqrt();
    let clip = (norm / MAX_GRAD_NORM).max(1.0);
    items.into_iter().map(|item| one(config, item, lr, updates, clip)).collect()
}

fn one(config: &OptimConfig, mut item: Item, lr: f64, updates: u64, clip: f64) -> Item {
    let [beta1, beta2] = config.betas();
    let [correction1, correction2] = [beta1, beta2].map(|beta| 1.0 - beta.powf(updates as f64));
    let decay = item.group.weight_decay;
    let grad = item.grad.clone().div_scalar(clip);
    let average = item.kept.take("exp_avg", &item.shape, &item.param);
    let squares = item.kept.take("exp_avg_sq", &item.shape, &item.param);
    let average = lerp(average, grad.clone(), 1.0 - beta1);
    let squares = squares.mul_scalar(beta2) + grad.clone().mul_scalar(1.0 - beta2) * grad;

    let root = squares.clone().sqrt().div_scalar(correction2.sqrt()).add_scalar(config.eps());
    let mut way = average.clone().div_scalar(correction1) / root;
    if decay != 0.0 {
        way = way + item.param.clone().mul_scalar(decay);
        let norms = sums_of_squares(&[item.param.clone(), way.clone()]);
        if norms.iter().all(|norm| *norm > 0.0) {
            way = way.mul_scalar((norms[0] / norms[1]).sqrt());
        }
    }
    item.param = item.param + way.mul_scalar(-lr * item.group.lr_scale);
    item.kept.put("exp_avg", &item.shape, average);
    item.kept.put("exp_avg_sq", &item.shape, squares);
    item
}

/// Linear interpolation from a to b by `weight`.
pub(super) fn lerp(a: Tensor<1>, b: Tensor<1>, weight: f64) -> Tensor<1> {
    update(vec![Slot { param: a, grad: b, state: [], rule: Lerp { weight } }]).remove(0).param
}
