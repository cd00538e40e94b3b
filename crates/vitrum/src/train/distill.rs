//! Distillation: a student learns from the labels and from a teacher's logits for the same images.
//!
//! Hinton et al. 2015, arXiv:1503.02531; DeiT's form with a separate head for the teacher's logits, Touvron et al.
//! 2020, arXiv:2012.12877, section 4. The loss is `DistillationLoss` of facebookresearch/deit, `losses.py`.

mod teacher;

use burn::tensor::Tensor;

pub use teacher::{Teacher, TeacherError, TeacherOptions};

use super::TrainError;
use super::objective::{Batch, ClassLoss, Classification, Objective, check_soft, tied};
pub use super::recipe::DistillationType;
use super::recipe::Recipe;
use crate::layers::observe::Observer;
use crate::models::{Features, Network};

/// The loss of distillation: `(1 - alpha) * base + alpha * distillation`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistillConfig {
    /// How the student learns from the teacher.
    pub kind: DistillationType,
    /// The teacher's share of the loss, from 0 to 1.
    pub alpha: f64,
    /// Temperature of [`DistillationType::Soft`]: logits are divided by it. Above 0.
    pub tau: f64,
}

impl From<&Recipe> for DistillConfig {
    fn from(recipe: &Recipe) -> Self {
        Self {
            kind: recipe.distillation_type,
            alpha: recipe.distillation_alpha,
            tau: recipe.distillation_tau,
        }
    }
}

impl DistillConfig {
    /// The loss, `[1]`, computed in f32 if the logits are narrower. All tensors are `[B, K]`.
    ///
    /// The student's logits `class` learn from `targets` by the loss `base`. Its logits `dist` learn from the logits
    /// `teacher`. A student with one head passes its logits twice. As in DeiT's code, `Soft` sums the divergence and
    /// divides it by `B * K`. `None` is the base loss alone, without a factor.
    ///
    /// # Panics
    /// If the tensors differ in shape.
    pub fn loss(
        &self,
        base: ClassLoss,
        class: Tensor<2>,
        dist: Tensor<2>,
        teacher: Tensor<2>,
        targets: Tensor<2>,
    ) -> Tensor<1> {
        let base = base.loss(class, targets);
        let distillation = match self.kind {
            DistillationType::None => return base,
            DistillationType::Soft => tied(dist, teacher, |x, teacher| soft(x, teacher, self.tau)),
            DistillationType::Hard => ClassLoss::CrossEntropy.loss(dist, most_probable(teacher)),
        };
        base * (1.0 - self.alpha) + distillation * self.alpha
    }

    /// Whether the loss depends on a teacher.
    pub fn asks_teacher(&self) -> bool {
        self.kind != DistillationType::None && self.alpha > 0.0
    }
}

/// Value `[1]` and gradient `[B, K]` of the KL divergence of softened probabilities, times `tau^2`, over `B * K`.
fn soft(x: Tensor<2>, teacher: Tensor<2>, tau: f64) -> (Tensor<1>, Tensor<2>) {
    let [b, k] = x.dims();
    let count = (b * k) as f64;
    let (log_student, log_teacher) = (log_softmax(x / tau), log_softmax(teacher / tau));
    let (student, teacher) = (log_student.clone().exp(), log_teacher.clone().exp());
    let value = (teacher.clone() * (log_teacher - log_student)).sum() * (tau * tau / count);
    (value, (student - teacher) * (tau / count))
}

fn log_softmax(x: Tensor<2>) -> Tensor<2> {
    let shifted = x.clone() - x.max_dim(1);
    shifted.clone() - shifted.exp().sum_dim(1).log()
}

/// 1 for the largest logit of each row, 0 elsewhere.
fn most_probable(logits: Tensor<2>) -> Tensor<2> {
    let [_, k] = logits.dims();
    let class = logits.clone().argmax(1).squeeze_dim::<1>(1);
    class.one_hot::<2>(k).float().cast(logits.dtype())
}

/// Image classification with a teacher. In a student with two heads, the first learns from the labels and the second
/// from the teacher's logits. A single head learns from both.
pub struct Distillation {
    /// The loss of the labels.
    pub base: ClassLoss,
    /// How the teacher's logits enter the loss.
    pub config: DistillConfig,
    /// The teacher.
    pub teacher: Teacher,
}

impl<M: Network> Objective<M> for Distillation {
    fn check(&self, model: &M) -> Result<(), TrainError> {
        Objective::<M>::check(&Classification { loss: self.base }, model)?;
        let (classes, heads) = (model.classify().map_or(0, |m| m.num_classes()), model.heads().len());
        if !(1..=2).contains(&heads) {
            return Err(TeacherError::Heads { found: heads }.into());
        }
        Ok(self.teacher.check_classes(classes)?)
    }

    fn check_batch(&self, model: &M, batch: &Batch) -> Result<(), TrainError> {
        check_soft(model, batch)
    }

    fn loss(&self, model: &M, features: Features, batch: &Batch, watch: &mut dyn Observer) -> Tensor<1> {
        let classifier = model.classify().expect("`check` saw that the model classifies");
        let mut logits = classifier.logits_of_heads(features, watch).into_iter();
        let class = logits.next().expect("`check` saw that the model has a head");
        let dist = logits.next().unwrap_or_else(|| class.clone());
        let teacher = Tensor::from_inner(self.teacher.answers(batch));
        self.config.loss(self.base, class, dist, teacher, batch.targets.soft())
    }
}
