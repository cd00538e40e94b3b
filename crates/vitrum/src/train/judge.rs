//! Judges: from a model's logits to scores.

use super::TrainError;
use super::log::{Confusion, LogError, RunFolder};
use super::score::{Measure, Scores};
use super::task::Task;
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

/// The judge of a task.
pub fn judge(task: Task) -> Box<dyn Judge> {
    match task {
        Task::Classify => Box::new(ClassifyJudge::default()),
    }
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
        let Answers::Classes { names, logits, labels } = *batch;
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
        let scores = |Accuracy { loss, top1, top5, .. }| named([loss, top1, top5]);
        self.accuracy().map(scores).unwrap_or_default()
    }

    fn newest(&self) -> Scores {
        self.newest.map(named).unwrap_or_default()
    }

    fn write(&self, folder: &RunFolder, classes: &[String]) -> Result<(), LogError> {
        self.confusion.write(folder, classes)
    }
}

/// Values in the order of the task's measures.
fn named(values: [f64; 3]) -> Scores {
    Task::Classify.measures().iter().map(|measure| measure.name).zip(values).collect()
}
