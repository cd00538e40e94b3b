//! Clipping of gradients: by their common norm, by value, or by the norms of weights (arXiv:2102.06171).

use std::collections::HashMap;

use burn::module::Param;
use burn::tensor::Tensor;

use super::optim::{GradMap, flat, nearest};
use crate::layers::names::{Key, Layout, Visit, visit};
use crate::models::Network;

/// How gradients are clipped. Names and meanings are timm's `clip_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipMode {
    /// `norm`: all gradients are scaled together, so that their common norm is at most the value.
    Norm,
    /// `value`: every number is clamped to ± the value.
    Value,
    /// `agc`: the gradient norm of a unit (one output of a layer) is at most the value times the norm of its
    /// weights. Heads are not clipped.
    Agc,
}

/// No clip mode has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("clip_mode: unknown mode '{name}'\nhint: did you mean {}?", .nearest.join(", "))]
pub struct ClipModeError {
    /// The requested name.
    pub name: String,
    /// Similar names, nearest first.
    pub nearest: Vec<String>,
}

impl std::str::FromStr for ClipMode {
    type Err = ClipModeError;

    fn from_str(name: &str) -> Result<Self, ClipModeError> {
        match name {
            "norm" => Ok(Self::Norm),
            "value" => Ok(Self::Value),
            "agc" => Ok(Self::Agc),
            _ => Err(ClipModeError { name: name.into(), nearest: nearest(name, &["norm", "value", "agc"]) }),
        }
    }
}

/// Clips the gradients of `model`'s parameters. Returns their common norm before clipping.
///
/// As in torch, a norm that is not finite makes all gradients non-finite. Check [`GradMap::first_non_finite`]
/// first.
pub fn clip<M: Network>(grads: GradMap, model: &M, mode: ClipMode, value: f64) -> (GradMap, f64) {
    let norm = grads.norm();
    let clipped = match mode {
        ClipMode::Norm => {
            let factor = value / (norm + 1e-6);
            if factor >= 1.0 { grads } else { grads.scale(factor) }
        }
        ClipMode::Value => grads.map(|grad| grad.value.clone().clamp(-value, value)),
        ClipMode::Agc => clip_units(grads, model, value),
    };
    (clipped, norm)
}

/// [`clip`] from the gradients' sums of squares, `[P]`, which stay on the device. Nothing waits for it.
pub(crate) fn clip_by<M: Network>(
    grads: GradMap,
    squares: Tensor<1>,
    model: &M,
    mode: ClipMode,
    value: f64,
) -> GradMap {
    match mode {
        ClipMode::Norm => {
            let factor = (squares.sum().sqrt() + 1e-6).recip().mul_scalar(value).clamp_max(1.0);
            grads.map(|grad| grad.value.clone() * factor.clone().cast(grad.value.dtype()))
        }
        ClipMode::Value => grads.map(|grad| grad.value.clone().clamp(-value, value)),
        ClipMode::Agc => clip_units(grads, model, value),
    }
}

/// timm's `adaptive_clip_grad` with its epsilon.
fn clip_units<M: Network>(grads: GradMap, model: &M, factor: f64) -> GradMap {
    let mut values = Values(HashMap::new());
    visit(model, &mut values);
    grads.map(|grad| {
        let value = values.0.get(&grad.key);
        let Some(value) = value.filter(|_| !model.is_head(&grad.key)) else { return grad.value.clone() };
        let [rows, columns, axis] = units(&grad.shape, grad.layout);
        let gradient = grad.value.clone().reshape([rows, columns]);
        let most = norms(value.clone().reshape([rows, columns]), axis).clamp_min(1e-3).mul_scalar(factor);
        let norm = norms(gradient.clone(), axis);
        let clipped = gradient.clone() * (most.clone() / norm.clone().clamp_min(1e-6));
        let within = norm.lower(most).expand([rows, columns]);
        clipped.mask_where(within, gradient).reshape([rows * columns])
    })
}

/// The rows and columns of a tensor as a matrix, and the axis of a unit's weights.
fn units(shape: &[usize], layout: Layout) -> [usize; 3] {
    match shape {
        [] => [1, 1, 1],
        [n] => [1, *n, 1],
        [inputs @ .., outputs] if layout != Layout::AsInFiles => [inputs.iter().product(), *outputs, 0],
        [rows, rest @ ..] => [*rows, rest.iter().product(), 1],
    }
}

/// Norms along an axis, which stays with length 1.
fn norms(x: Tensor<2>, axis: usize) -> Tensor<2> {
    (x.clone() * x).sum_dim(axis).sqrt()
}

/// Flattened parameters by key.
struct Values(HashMap<String, Tensor<1>>);

impl Visit for Values {
    fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
        self.0.insert(key.name.clone(), flat(param.base()));
    }
}
