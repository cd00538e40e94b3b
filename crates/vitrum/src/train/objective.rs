//! From logits and targets to the number that is made small.
//!
//! Each loss is computed with its gradient, which is then tied to the logits: so the gradient is the formula's, also
//! where steps of its computation would overflow or have none.

use burn::tensor::{DType, Int, Tensor};

use super::TrainError;
use super::recipe::Recipe;
use crate::layers::observe::Observer;
use crate::models::{Features, Inputs, Network, Want};

/// A batch on the device that keeps a graph.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What enters the model.
    pub inputs: Inputs,
    /// What should come out.
    pub targets: Targets,
}

/// What should come out of a model for a batch.
#[derive(Clone, Debug)]
pub enum Targets {
    /// A share of every class for each example, `[B, K]`.
    Soft(Tensor<2>),
    /// A class for every pixel, `[B, H, W]`.
    Maps(Tensor<3, Int>),
    /// The inputs are all there is to know.
    Nothing,
}

impl Targets {
    /// Shares of classes.
    ///
    /// # Panics
    /// If these are other targets.
    pub fn soft(&self) -> Tensor<2> {
        match self {
            Self::Soft(targets) => targets.clone(),
            Self::Maps(_) | Self::Nothing => panic!("expected targets [B, K], a share of every class"),
        }
    }
}

/// What training makes small: one per task.
///
/// A pass has two parts, so that a model's links can be computed twice: [`features`](Objective::features) of the inputs,
/// then the [`loss`](Objective::loss) of these.
pub trait Objective<M: Network>: Send + Sync {
    /// Refuses a model that the objective cannot train.
    ///
    /// # Errors
    /// What the model lacks.
    fn check(&self, model: &M) -> Result<(), TrainError>;

    /// The features that the loss reads; they are also those of the model's chain.
    fn features(&self, model: &M, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        match (model.backbone(), model.chain()) {
            (Some(backbone), _) => backbone.features(inputs, Want::Head, watch),
            (None, Some(chain)) => {
                let links = 0..chain.links();
                let first = chain.first(inputs, watch);
                let x = links.fold(first, |x, index| chain.link(index, x, watch));
                chain.last(x, watch)
            }
            (None, None) => {
                panic!("a model without a backbone needs an objective that computes its features")
            }
        }
    }

    /// The loss of a batch, `[1]`, from its features.
    fn loss(&self, model: &M, features: Features, batch: &Batch, watch: &mut dyn Observer) -> Tensor<1>;
}

/// Classes from images: the loss of the answer's logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classification {
    /// Of logits and soft targets.
    pub loss: ClassLoss,
}

impl<M: Network> Objective<M> for Classification {
    fn check(&self, model: &M) -> Result<(), TrainError> {
        match model.classify() {
            Some(_) => Ok(()),
            None => {
                Err(TrainError::Option("this model's family names no classes, which the task needs".into()))
            }
        }
    }

    fn loss(&self, model: &M, features: Features, batch: &Batch, watch: &mut dyn Observer) -> Tensor<1> {
        let classifier = model.classify().expect("`check` saw that the model classifies");
        self.loss.loss(classifier.head(features, watch), batch.targets.soft())
    }
}

/// A loss of logits `[B, K]` and soft targets `[B, K]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClassLoss {
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

impl From<&Recipe> for ClassLoss {
    /// `bce_loss` is followed always; timm's `train.py` ignores it where there is neither mixing nor smoothing.
    fn from(recipe: &Recipe) -> Self {
        if recipe.bce_loss {
            Self::Binary { threshold: recipe.bce_target_thresh, sum_classes: recipe.bce_sum }
        } else {
            Self::CrossEntropy
        }
    }
}

impl ClassLoss {
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
