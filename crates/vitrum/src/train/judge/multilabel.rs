//! The judge of several classes per image.

use super::{Answers, Judge, named};
use crate::data::dataset::{Target, TargetKind};
use crate::tasks::evaluate::{Multilabel, MultilabelScores};
use crate::train::TrainError;
use crate::train::score::{Measure, Scores};
use crate::train::task::Task;

/// Loss (mean binary cross entropy in nats), mean average precision, F1 and the share of images without a mistake.
#[derive(Clone, Debug, Default)]
pub struct MultilabelJudge {
    num_classes: usize,
    all: Multilabel,
    newest: Multilabel,
}

impl MultilabelJudge {
    /// A judge of a model with `num_classes` classes.
    pub fn new(num_classes: usize) -> Self {
        Self { num_classes, ..Self::default() }
    }

    /// The scores so far; `None` before the first image.
    pub fn multilabel(&self) -> Option<MultilabelScores> {
        self.all.scores()
    }
}

impl Judge for MultilabelJudge {
    fn measures(&self) -> &[Measure] {
        Task::Multilabel.measures()
    }

    fn reset(&mut self, num_classes: usize) {
        *self = Self::new(num_classes);
    }

    fn add(&mut self, batch: &Answers<'_>) -> Result<(), TrainError> {
        self.newest = Multilabel::default();
        for (name, logits, target) in batch.targets(TargetKind::Classes)? {
            let Target::Classes(classes) = target else { continue };
            if let Some(&label) = classes.iter().find(|&&class| class >= self.num_classes) {
                return Err(TrainError::Label { name: name.clone(), label, classes: self.num_classes });
            }
            self.all.add(logits, classes);
            self.newest.add(logits, classes);
        }
        Ok(())
    }

    fn scores(&self) -> Scores {
        scores(&self.all)
    }

    fn newest(&self) -> Scores {
        scores(&self.newest)
    }
}

fn scores(of: &Multilabel) -> Scores {
    let values =
        |MultilabelScores { loss, map, f1, exact, .. }| named(Task::Multilabel, [loss, map, f1, exact]);
    of.scores().map(values).unwrap_or_default()
}
