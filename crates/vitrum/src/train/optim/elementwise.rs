//! Element-wise optimisers: one pass over all parameters at once.

use burn::tensor::Tensor;
use vitrum_kernels::optim::{Adam, Descent, Lion, Momentum, Rule, Slot, update};

use super::{Item, OptimConfig};

/// Adam and variants; see [`Adam`] for `decoupled` and `nesterov`.
pub(super) fn adam(
    config: &OptimConfig,
    items: Vec<Item>,
    lr: f64,
    decoupled: bool,
    nesterov: bool,
) -> Vec<Item> {
    let (betas, eps) = (config.betas(), config.eps());
    apply(items, ["exp_avg", "exp_avg_sq"], |item| Adam {
        lr: lr * item.group.lr_scale,
        weight_decay: item.group.weight_decay,
        decoupled,
        nesterov,
        betas,
        eps,
        step: item.kept.step,
    })
}

/// SGD with momentum; plain SGD if it is 0.
pub(super) fn momentum(config: &OptimConfig, items: Vec<Item>, lr: f64, nesterov: bool) -> Vec<Item> {
    let momentum = config.momentum;
    if momentum == 0.0 {
        return apply(items, [], |item| Descent {
            lr: lr * item.group.lr_scale,
            weight_decay: item.group.weight_decay,
        });
    }
    apply(items, ["momentum_buffer"], |item| Momentum {
        lr: lr * item.group.lr_scale,
        weight_decay: item.group.weight_decay,
        momentum,
        nesterov,
        first: !item.kept.tensors.contains_key("momentum_buffer"),
    })
}

/// Lion.
pub(super) fn lion(config: &OptimConfig, items: Vec<Item>, lr: f64) -> Vec<Item> {
    let betas = config.betas();
    apply(items, ["exp_avg"], |item| Lion {
        lr: lr * item.group.lr_scale,
        weight_decay: item.group.weight_decay,
        betas,
    })
}

/// One step of a rule; `names` are the names of its state tensors.
fn apply<R: Rule<S>, const S: usize>(
    items: Vec<Item>,
    names: [&str; S],
    rule: impl Fn(&Item) -> R,
) -> Vec<Item> {
    let mut shells = Vec::with_capacity(items.len());
    let mut slots = Vec::with_capacity(items.len());
    for mut item in items {
        let rule = rule(&item);
        let state = names.map(|name| item.kept.take(name, &item.shape, &item.param));
        let Item { key, shape, layout, param, grad, group, kept } = item;
        slots.push(Slot { param, grad, state, rule });
        shells.push(move |param: Tensor<1>, grad| Item { key, shape, layout, param, grad, group, kept });
    }
    let filled = shells.into_iter().zip(update(slots)).map(|(shell, slot)| {
        let mut item = shell(slot.param, slot.grad);
        for (name, tensor) in names.into_iter().zip(slot.state) {
            item.kept.put(name, &item.shape, tensor);
        }
        item
    });
    filled.collect()
}
