//! Judges: from a model's logits to scores.

mod multilabel;
mod regress;

pub use multilabel::MultilabelJudge;
pub use regress::RegressJudge;

use super::TrainError;
use super::log::{Confusion, LogError, RunFolder};
use super::pretext::PretrainJudge;
use super::recipe::Recipe;
use super::score::{Measure, Scores};
use super::task::Task;
use crate::data::dataset::{Target, TargetKind};
use crate::tasks::evaluate::{Accuracy, Answer, Evaluation};

/// One evaluated batch.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Answers<'a> {
    /// Images and their classes.
    Classes {
        /// The images' names.
        names: &'a [String],
        /// The logits of each image, `[K]`.
        logits: &'a [Vec<f64>],
        /// The true class of each image.
        labels: &'a [usize],
    },
    /// Images and targets that are not one class.
    Targets {
        /// The images' names.
        names: &'a [String],
        /// The logits, or the predicted numbers, of each image, `[K]`.
        logits: &'a [Vec<f64>],
        /// The target of each image.
        targets: &'a [Target],
    },
}

impl<'a> Answers<'a> {
    /// Number of images.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes { names, .. } | Self::Targets { names, .. } => names.len(),
        }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name, logits `[K]` and target of each image.
    ///
    /// # Errors
    /// [`TrainError::Target`] if a target is not of this kind.
    pub fn targets(
        &self,
        expected: TargetKind,
    ) -> Result<impl Iterator<Item = (&'a String, &'a Vec<f64>, &'a Target)>, TrainError> {
        let (names, logits, targets) = match *self {
            Self::Targets { names, logits, targets } => (names, logits, targets),
            Self::Classes { names, .. } => {
                return match names.first() {
                    Some(name) => {
                        Err(TrainError::Target { name: name.clone(), found: TargetKind::Class, expected })
                    }
                    None => Ok(triples(names, &[], &[])),
                };
            }
        };
        match names.iter().zip(targets).find(|(_, target)| target.kind() != expected) {
            Some((name, target)) => {
                Err(TrainError::Target { name: name.clone(), found: target.kind(), expected })
            }
            None => Ok(triples(names, logits, targets)),
        }
    }
}

fn triples<'a>(
    names: &'a [String],
    logits: &'a [Vec<f64>],
    targets: &'a [Target],
) -> impl Iterator<Item = (&'a String, &'a Vec<f64>, &'a Target)> {
    names.iter().zip(logits).zip(targets).map(|((name, logits), target)| (name, logits, target))
}

/// Measures a model over a dataset, batch by batch.
pub trait Judge {
    /// The scores that this judge measures, known before any batch.
    fn measures(&self) -> &[Measure];

    /// Forgets everything; the next batches come from a model of `num_classes` classes.
    fn reset(&mut self, num_classes: usize);

    /// Adds one batch.
    ///
    /// # Errors
    /// [`TrainError::Label`]: a label outside of the model's classes. Other judges have other errors.
    fn add(&mut self, batch: &Answers<'_>) -> Result<(), TrainError>;

    /// The scores of all batches so far, in the order of [`measures`](Self::measures); empty before the first image.
    fn scores(&self) -> Scores;

    /// The scores of the newest batch alone. A judge whose scores need the whole dataset returns the scores so far.
    fn newest(&self) -> Scores {
        self.scores()
    }

    /// Writes the judge's files of a finished run, besides the scores. `classes` are the names of the classes.
    ///
    /// # Errors
    /// [`LogError`]: a file that cannot be drawn or written.
    fn write(&self, _folder: &RunFolder, _classes: &[String]) -> Result<(), LogError> {
        Ok(())
    }
}

/// The judge of a task. Its loss of numbers is the mean squared error.
pub fn judge(task: Task) -> Box<dyn Judge> {
    match task {
        Task::Classify => Box::new(ClassifyJudge::default()),
        Task::Multilabel => Box::new(MultilabelJudge::default()),
        Task::Regress => Box::new(RegressJudge::default()),
        Task::Pretrain => Box::new(PretrainJudge::default()),
    }
}

/// The judge of a recipe's task, with the recipe's loss of numbers.
///
/// # Errors
/// [`TrainError::Recipe`]: an unknown task.
pub fn judge_of(recipe: &Recipe) -> Result<Box<dyn Judge>, TrainError> {
    Ok(match recipe.task()? {
        Task::Regress => Box::new(RegressJudge::new(recipe.regression_loss, 0)),
        task => judge(task),
    })
}

/// Loss (mean cross entropy in nats), top-1 and top-5 (percentages of images), and the confusion matrix.
#[derive(Clone, Debug, Default)]
pub struct ClassifyJudge {
    num_classes: usize,
    evaluation: Evaluation,
    confusion: Confusion,
    answers: Vec<Answer>,
    newest: Option<[f64; 3]>,
}

impl ClassifyJudge {
    /// A judge of a model with `num_classes` classes.
    pub fn new(num_classes: usize) -> Self {
        Self { num_classes, confusion: Confusion::new(num_classes), ..Self::default() }
    }

    /// Percentages and loss so far; `None` before the first image.
    pub fn accuracy(&self) -> Option<Accuracy> {
        self.evaluation.accuracy()
    }

    /// The confusion matrix so far.
    pub fn confusion(&self) -> &Confusion {
        &self.confusion
    }

    /// The predictions for the images of the newest batch, in order.
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// Images, and the sums over them of loss, top-1 and top-5.
    fn sums(&self) -> [f64; 4] {
        self.accuracy().map_or([0.0; 4], |accuracy| {
            let n = accuracy.images as f64;
            [n, accuracy.loss * n, accuracy.top1 * n, accuracy.top5 * n]
        })
    }
}

impl Judge for ClassifyJudge {
    fn measures(&self) -> &[Measure] {
        Task::Classify.measures()
    }

    fn reset(&mut self, num_classes: usize) {
        *self = Self::new(num_classes);
    }

    fn add(&mut self, batch: &Answers<'_>) -> Result<(), TrainError> {
        let (names, logits, labels) = match *batch {
            Answers::Classes { names, logits, labels } => (names, logits, labels),
            Answers::Targets { names, targets, .. } => {
                let expected = TargetKind::Class;
                let mut all = names.iter().zip(targets).map(|(name, target)| (name, target.kind()));
                return match all.find(|(_, found)| *found != expected) {
                    Some((name, found)) => Err(TrainError::Target { name: name.clone(), found, expected }),
                    None => Ok(()),
                };
            }
        };
        let before = self.sums();
        self.answers.clear();
        for ((name, logits), &label) in names.iter().zip(logits).zip(labels) {
            if label >= self.num_classes {
                return Err(TrainError::Label { name: name.clone(), label, classes: self.num_classes });
            }
            let answer = self.evaluation.add(logits, label);
            self.confusion.add(label, answer.pred);
            self.answers.push(answer);
        }
        let after = self.sums();
        let count = after[0] - before[0];
        self.newest = (count > 0.0).then(|| [1, 2, 3].map(|i| (after[i] - before[i]) / count));
        Ok(())
    }

    fn scores(&self) -> Scores {
        let scores = |Accuracy { loss, top1, top5, .. }| named(Task::Classify, [loss, top1, top5]);
        self.accuracy().map(scores).unwrap_or_default()
    }

    fn newest(&self) -> Scores {
        self.newest.map(|values| named(Task::Classify, values)).unwrap_or_default()
    }

    fn write(&self, folder: &RunFolder, classes: &[String]) -> Result<(), LogError> {
        self.confusion.write(folder, classes)
    }
}

/// Values in the order of the task's measures.
fn named<const COUNT: usize>(task: Task, values: [f64; COUNT]) -> Scores {
    task.measures().iter().map(|measure| measure.name).zip(values).collect()
}
