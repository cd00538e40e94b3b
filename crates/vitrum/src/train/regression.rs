//! Regression: from a model's outputs and true values to the loss that training minimises.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::objective::{Batch, Objective, check_soft, tied};
use crate::layers::observe::Observer;
use crate::models::{Features, Network};

/// A loss of outputs `[B, K]` and true values `[B, K]`, mean over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegressionLoss {
    /// The square of the difference (torch's `MSELoss`).
    #[default]
    Mse,
    /// The absolute difference (torch's `L1Loss`).
    L1,
    /// Half the square of a difference below 1, else the absolute difference less a half (torch's `SmoothL1Loss`).
    SmoothL1,
}

impl RegressionLoss {
    /// Whether it is the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The loss, `[1]`, of outputs `[B, K]` and true values `[B, K]`. It is computed in f32 if the outputs are
    /// narrower.
    ///
    /// # Panics
    /// If the two differ in shape.
    pub fn loss(self, outputs: Tensor<2>, values: Tensor<2>) -> Tensor<1> {
        tied(outputs, values, |x, values| {
            let [b, k] = x.dims();
            let (sums, slope) = self.terms(x - values);
            (sums.sum().div_scalar((b * k) as f64), slope.div_scalar((b * k) as f64))
        })
    }

    /// The terms of the loss and their slopes, from differences `[B, K]`.
    fn terms(self, difference: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match self {
            Self::Mse => (difference.clone() * difference.clone(), difference * 2.0),
            Self::L1 => (difference.clone().abs(), difference.sign()),
            Self::SmoothL1 => {
                let length = difference.clone().abs();
                let near = length.clone().clamp_max(1.0);
                (near.clone() * near.clone() * 0.5 + (length - near), difference.clamp(-1.0, 1.0))
            }
        }
    }

    /// The loss of one answer, from its difference to the true value.
    pub fn of_difference(self, difference: f64) -> f64 {
        let length = difference.abs();
        match self {
            Self::Mse => difference * difference,
            Self::L1 => length,
            Self::SmoothL1 if length < 1.0 => 0.5 * length * length,
            Self::SmoothL1 => length - 0.5,
        }
    }
}

/// Regression: each output of the model's head is a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regression {
    /// The loss of outputs and true values.
    pub loss: RegressionLoss,
}

impl<M: Network> Objective<M> for Regression {
    fn check(&self, model: &M) -> Result<(), TrainError> {
        model.classify().map(|_| ()).ok_or(TrainError::NoClasses)
    }

    fn check_batch(&self, model: &M, batch: &Batch) -> Result<(), TrainError> {
        check_soft(model, batch)
    }

    fn loss(&self, model: &M, features: Features, batch: &Batch, watch: &mut dyn Observer) -> Tensor<1> {
        let head = model.classify().expect("`check` saw that the model has a head");
        self.loss.loss(head.head(features, watch), batch.targets.soft())
    }
}
