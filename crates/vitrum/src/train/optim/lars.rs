//! LARS (arXiv:1708.03888): momentum whose gradients are scaled to the norm of their parameter. Two libraries have two
//! forms of it:
//!
//! | | timm's `Lars` | MoCo v3's `LARS`, also MAE's |
//! |---|---|---|
//! | scaled | parameters with weight decay | parameters of more than one dimension |
//! | decays | by its group | parameters of more than one dimension |
//! | gradient `g` of `w` becomes | `(g + d w) · 0.001 ‖w‖ / (‖g‖ + d ‖w‖ + eps)` | `(g + d w) · 0.001 ‖w‖ / ‖g + d w‖` |
//!
//! So timm's without weight decay is plain momentum; MoCo's is not. Where a norm is zero, nothing is scaled.

use burn::tensor::Tensor;
use vitrum_kernels::optim::sums_of_squares;

use super::{Item, OptimConfig, elementwise};

/// The ratio of a step to its parameter.
const TRUST: f64 = 0.001;

/// Whose LARS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Timm,
    Moco,
}

/// One step.
pub(super) fn step(config: &OptimConfig, items: Vec<Item>, lr: f64, form: Form) -> Vec<Item> {
    let items = items.into_iter().map(|item| scaled(item, form, config.eps())).collect();
    elementwise::momentum(config, items, lr, false)
}

/// The item with the gradient that momentum takes.
fn scaled(mut item: Item, form: Form, eps: f64) -> Item {
    let decay = std::mem::replace(&mut item.group.weight_decay, 0.0);
    let is_scaled = match form {
        Form::Timm => decay != 0.0,
        Form::Moco => item.shape.len() > 1,
    };
    if !is_scaled {
        return item;
    }
    let grad = item.grad.clone() + item.param.clone().mul_scalar(decay);
    let of_grad = match form {
        Form::Timm => item.grad.clone(),
        Form::Moco => grad.clone(),
    };
    let [weight_norm, grad_norm] = norms(item.param.clone(), of_grad);
    let below = match form {
        Form::Timm => grad_norm + weight_norm * decay + eps,
        Form::Moco => grad_norm + eps,
    };
    let ratio = if weight_norm > 0.0 && grad_norm > 0.0 { TRUST * weight_norm / below } else { 1.0 };
    item.grad = grad.mul_scalar(ratio);
    item
}

fn norms(param: Tensor<1>, grad: Tensor<1>) -> [f64; 2] {
    let squares = sums_of_squares(&[param, grad]);
    [squares[0].sqrt(), squares[1].sqrt()]
}
