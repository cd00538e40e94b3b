//! The judge of numbers.

use super::{Answers, Judge, named};
use crate::data::dataset::{Target, TargetKind};
use crate::tasks::evaluate::{Regression, RegressionScores};
use crate::train::TrainError;
use crate::train::regression::RegressionLoss;
use crate::train::score::{Measure, Scores};
use crate::train::task::Task;

/// Loss, mean absolute error, root of the mean squared error, and R².
#[derive(Clone, Debug, Default)]
pub struct RegressJudge {
    loss: RegressionLoss,
    outputs: usize,
    all: Sums,
    newest: Sums,
}

#[derive(Clone, Debug, Default)]
struct Sums {
    regression: Regression,
    loss: f64,
}

impl RegressJudge {
    /// A judge of a model with so many outputs, that was trained with `loss`.
    pub fn new(loss: RegressionLoss, outputs: usize) -> Self {
        Self { loss, outputs, ..Self::default() }
    }

    /// The scores so far without the loss; `None` before the first image.
    pub fn regression(&self) -> Option<RegressionScores> {
        self.all.regression.scores()
    }
}

impl Judge for RegressJudge {
    fn measures(&self) -> &[Measure] {
        Task::Regress.measures()
    }

    fn reset(&mut self, num_classes: usize) {
        *self = Self::new(self.loss, num_classes);
    }

    fn add(&mut self, batch: &Answers<'_>) -> Result<(), TrainError> {
        self.newest = Sums::default();
        for (name, answers, target) in batch.targets(TargetKind::Values)? {
            let Target::Values(values) = target else { continue };
            if values.len() != self.outputs {
                let (found, expected) = (values.len(), self.outputs);
                return Err(TrainError::Values { name: name.clone(), found, expected });
            }
            self.all.add(self.loss, answers, values);
            self.newest.add(self.loss, answers, values);
        }
        Ok(())
    }

    fn scores(&self) -> Scores {
        self.all.scores()
    }

    fn newest(&self) -> Scores {
        self.newest.scores()
    }
}

impl Sums {
    fn add(&mut self, loss: RegressionLoss, answers: &[f64], values: &[f32]) {
        self.regression.add(answers, values);
        let differences = answers.iter().zip(values).map(|(answer, value)| answer - f64::from(*value));
        let sum: f64 = differences.map(|difference| loss.of_difference(difference)).sum();
        self.loss += sum / values.len().max(1) as f64;
    }

    fn scores(&self) -> Scores {
        let Some(RegressionScores { images, mae, rmse, r2 }) = self.regression.scores() else {
            return Scores::default();
        };
        named(Task::Regress, [self.loss / images as f64, mae, rmse, r2])
    }
}
