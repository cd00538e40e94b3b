//! From logits and targets to the number that is made small.
//!
//! Each loss is computed with its gradient, which is then tied to the logits: so the gradient is the formula's, also
//! where steps of its computation would overflow or have none.

use burn::tensor::{DType, Tensor};

use super::recipe::Recipe;

/// A loss of logits `[B, K]` and soft targets `[B, K]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Cross entropy of the softmax, mean over the batch (timm's `SoftTargetCrossEntropy`; with targets of
    /// [`smoothed_one_hot`](crate::data::augment::smoothed_one_hot) its `LabelSmoothingCrossEntropy`).
    CrossEntropy,
    /// Cross entropy of a sigmoid per class (timm's `BinaryCrossEntropy`).
    Binary {
        /// Targets above this become 1, others 0.
        threshold: Option<f64>,
        /// Sum over classes instead of mean; the mean is over the batch in any case.
        sum_classes: bool,
    },
}

impl From<&Recipe> for Objective {
    /// `bce_loss` is followed always; timm's `train.py` ignores it where there is neither mixing nor smoothing.
    fn from(recipe: &Recipe) -> Self {
        if recipe.bce_loss {
            Self::Binary { threshold: recipe.bce_target_thresh, sum_classes: recipe.bce_sum }
        } else {
            Self::CrossEntropy
        }
    }
}

impl Objective {
    /// The loss, `[1]`, of logits `[B, K]` and targets `[B, K]`; in f32 where the logits are narrower.
    ///
    /// # Panics
    /// If the two differ in shape.
    pub fn loss(&self, logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
        assert_eq!(logits.dims(), targets.dims(), "loss: logits and targets differ in shape");
        let wide = matches!(logits.dtype(), DType::F32 | DType::F64);
        let logits = if wide { logits } else { logits.cast(DType::F32) };
        let targets = targets.detach().cast(logits.dtype());
        let x = logits.clone().detach();
        let (value, slope) = match *self {
            Self::CrossEntropy => cross_entropy(x.clone(), targets),
            Self::Binary { threshold, sum_classes } => {
                let targets = match threshold {
                    Some(threshold) => targets.clone().greater_elem(threshold).float().cast(targets.dtype()),
                    None => targets,
                };
                binary(x.clone(), targets, sum_classes)
            }
        };
        // logits - x is zero, and carries the gradient.
        value + ((logits - x) * slope).sum()
    }
}

/// Value `[1]` and gradient `[B, K]`.
fn cross_entropy(x: Tensor<2>, targets: Tensor<2>) -> (Tensor<1>, Tensor<2>) {
    let b = x.dims()[0] as f64;
    let shifted = x.clone() - x.max_dim(1);
    let exp = shifted.clone().exp();
    let sum = exp.clone().sum_dim(1); // at least 1
    let log_probs = shifted - sum.clone().log();
    let value = (targets.clone() * log_probs).sum().div_scalar(-b);
    let slope = (exp / sum * targets.clone().sum_dim(1) - targets).div_scalar(b);
    (value, slope)
}

/// Value `[1]` and gradient `[B, K]`.
fn binary(x: Tensor<2>, targets: Tensor<2>, sum_classes: bool) -> (Tensor<1>, Tensor<2>) {
    let [b, k] = x.dims();
    let count = if sum_classes { b } else { b * k } as f64;
    let exp = x.clone().abs().neg().exp(); // at most 1
    let negative = x.clone().lower_elem(0.0);
    let recip = (exp.clone() + 1.0).recip();
    let sigmoid = recip.clone().mask_where(negative, exp.clone() * recip);
    let losses = x.clone().clamp_min(0.0) - x * targets.clone() + exp.log1p();
    (losses.sum().div_scalar(count), (sigmoid - targets).div_scalar(count))
}
