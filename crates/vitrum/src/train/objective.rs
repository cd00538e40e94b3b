//! From logits and targets to the loss that training minimises.
//!
//! Each loss computes its value and its gradient by formula, and attaches the gradient to the logits. Autodiff through
//! the single steps could overflow, or meet a step without a gradient.

use burn::tensor::{DType, Int, Tensor};

use super::TrainError;
use super::pretext::Pretext;
use super::recipe::Recipe;
use super::regression::Regression;
use super::task::Task;
use crate::layers::observe::Observer;
use crate::models::{Features, Inputs, Network, PixelScale, Want};

/// A batch on the autodiff device.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The model's inputs.
    pub inputs: Inputs,
    /// The targets.
    pub targets: Targets,
    /// Index of each example in the training set, in order; empty if unknown.
    pub indexes: Vec<u32>,
}

impl Batch {
    /// A batch without indexes.
    pub fn new(inputs: impl Into<Inputs>, targets: Targets) -> Self {
        Self { inputs: inputs.into(), targets, indexes: Vec::new() }
    }
}

/// The targets of a batch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Targets {
    /// Soft targets, `[B, K]`: a share of every class for each example.
    Soft(Tensor<2>),
    /// A class for every pixel, `[B, H, W]`.
    Maps(Tensor<3, Int>),
    /// No targets: the loss needs only the inputs.
    Nothing,
}

impl Targets {
    /// The soft targets, `[B, K]`.
    ///
    /// # Panics
    /// If the targets are of another kind.
    pub fn soft(&self) -> Tensor<2> {
        match self {
            Self::Soft(targets) => targets.clone(),
            Self::Maps(_) | Self::Nothing => panic!("expected targets [B, K], a share of every class"),
        }
    }
}

/// The loss that training minimises. Each task has one.
///
/// A pass has two parts: the [`features`](Objective::features) of the inputs, then the [`loss`](Objective::loss) of the
/// features. Gradient checkpointing needs this split: it computes a model's links twice.
pub trait Objective<M: Network>: Send + Sync {
    /// Refuses a model that the objective cannot train.
    ///
    /// # Errors
    /// A [`TrainError`] that names what the model lacks.
    fn check(&self, model: &M) -> Result<(), TrainError>;

    /// Refuses a batch whose targets do not match its inputs and the model. The default accepts all.
    ///
    /// # Errors
    /// [`TrainError::Targets`].
    fn check_batch(&self, _model: &M, _batch: &Batch) -> Result<(), TrainError> {
        Ok(())
    }

    /// The features that the loss reads. They equal the features of the model's chain.
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

/// Image classification: the loss of the class logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classification {
    /// The loss of logits and soft targets.
    pub loss: ClassLoss,
}

impl<M: Network> Objective<M> for Classification {
    fn check(&self, model: &M) -> Result<(), TrainError> {
        match model.classify() {
            Some(_) => Ok(()),
            None => Err(TrainError::NoClasses),
        }
    }

    fn check_batch(&self, model: &M, batch: &Batch) -> Result<(), TrainError> {
        check_soft(model, batch)
    }

    fn loss(&self, model: &M, features: Features, batch: &Batch, watch: &mut dyn Observer) -> Tensor<1> {
        let classifier = model.classify().expect("`check` saw that the model classifies");
        self.loss.loss(classifier.head(features, watch), batch.targets.soft())
    }
}

/// The objective of a recipe's task, without a teacher.
///
/// # Errors
/// [`TrainError::Recipe`]: an unknown task.
pub fn objective_of<M: Network>(recipe: &Recipe) -> Result<Box<dyn Objective<M>>, TrainError> {
    Ok(match recipe.task()? {
        Task::Classify | Task::Multilabel => Box::new(Classification { loss: ClassLoss::from(recipe) }),
        Task::Regress => Box::new(Regression { loss: recipe.regression_loss }),
        Task::Pretrain => Box::new(Pretext { scale: PixelScale::unit() }),
    })
}

/// Refuses targets of another shape than `[B, K]`: examples, classes of the model.
pub(super) fn check_soft<M: Network>(model: &M, batch: &Batch) -> Result<(), TrainError> {
    let classes = model.classify().map_or(0, |classifier| classifier.num_classes());
    let expected = vec![batch.inputs.len(), classes];
    let found = match &batch.targets {
        Targets::Soft(targets) => targets.dims().to_vec(),
        Targets::Maps(maps) => maps.dims().to_vec(),
        Targets::Nothing => Vec::new(),
    };
    if found == expected { Ok(()) } else { Err(TrainError::Targets { found, expected }) }
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
        /// Sum over classes instead of the mean. Over the batch, it is always the mean.
        sum_classes: bool,
    },
}

impl From<&Recipe> for ClassLoss {
    /// `bce_loss` always applies. timm's `train.py` ignores it without mixing and smoothing. Several classes per image
    /// have it without being asked for.
    fn from(recipe: &Recipe) -> Self {
        if recipe.bce_loss || recipe.task == Task::Multilabel.name() {
            Self::Binary { threshold: recipe.bce_target_thresh, sum_classes: recipe.bce_sum }
        } else {
            Self::CrossEntropy
        }
    }
}

impl ClassLoss {
    /// The loss, `[1]`, of logits `[B, K]` and targets `[B, K]`. It is computed in f32 if the logits are narrower.
    ///
    /// # Panics
    /// If the two differ in shape.
    pub fn loss(&self, logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
        tied(logits, targets, |x, targets| match *self {
            Self::CrossEntropy => cross_entropy(x, targets),
            Self::Binary { threshold, sum_classes } => {
                let targets = match threshold {
                    Some(threshold) => targets.clone().greater_elem(threshold).float().cast(targets.dtype()),
                    None => targets,
                };
                binary(x, targets, sum_classes)
            }
        })
    }
}

/// A loss `[1]` of logits and targets, both `[B, K]`. The function `loss` returns its value and its gradient with
/// respect to the logits. It is computed in f32 if the logits are narrower.
///
/// # Panics
/// If the two differ in shape.
pub(super) fn tied(
    logits: Tensor<2>,
    targets: Tensor<2>,
    loss: impl FnOnce(Tensor<2>, Tensor<2>) -> (Tensor<1>, Tensor<2>),
) -> Tensor<1> {
    assert_eq!(logits.dims(), targets.dims(), "loss: logits and targets differ in shape");
    let wide = matches!(logits.dtype(), DType::F32 | DType::F64);
    let logits = if wide { logits } else { logits.cast(DType::F32) };
    let targets = targets.detach().cast(logits.dtype());
    let x = logits.clone().detach();
    let (value, slope) = loss(x.clone(), targets);
    // logits - x is zero, and carries the gradient.
    value + ((logits - x) * slope).sum()
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
