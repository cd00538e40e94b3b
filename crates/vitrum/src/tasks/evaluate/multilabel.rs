//! Scores of models with a yes or no for each class.

use serde::Serialize;

use crate::tasks::classify::sigmoid;

/// Logits and classes of the images so far.
#[derive(Clone, Debug, Default)]
pub struct Multilabel {
    /// The logits and the truth of every image, by class.
    classes: Vec<Vec<(f64, bool)>>,
    images: usize,
    loss: f64,
    counts: Counts,
    exact: usize,
}

/// Decisions that are yes, by whether they are right.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    right: usize,
    /// Yes instead of no.
    extra: usize,
    /// No instead of yes.
    missed: usize,
}

/// The result of a [`Multilabel`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MultilabelScores {
    /// Images counted.
    pub images: usize,
    /// Mean binary cross entropy over images and classes, in nats.
    pub loss: f64,
    /// Mean average precision of the classes that an image has, from 0 to 1 (of each, scikit-learn's
    /// `average_precision_score` of the logits). NaN if no image has a class.
    pub map: f64,
    /// F1 of all decisions together, from 0 to 1. A class is decided for at a probability above 0.5. 0 if neither
    /// images nor decisions have a class.
    pub f1: f64,
    /// Share of the images with every class decided right.
    pub exact: f64,
}

impl Multilabel {
    /// Counts one image by its logits `[K]` and its classes, which are below `K`.
    pub fn add(&mut self, logits: &[f64], classes: &[usize]) {
        self.classes.resize_with(self.classes.len().max(logits.len()), Vec::new);
        self.images += 1;
        let (mut loss, mut wrong) = (0.0, 0);
        for (class, &logit) in logits.iter().enumerate() {
            let truth = classes.contains(&class);
            let decided = sigmoid(logit) > 0.5;
            let target = f64::from(u8::from(truth));
            loss += logit.max(0.0) - logit * target + (-logit.abs()).exp().ln_1p();
            match (truth, decided) {
                (true, true) => self.counts.right += 1,
                (false, true) => self.counts.extra += 1,
                (true, false) => self.counts.missed += 1,
                (false, false) => {}
            }
            wrong += usize::from(truth != decided);
            self.classes[class].push((logit, truth));
        }
        // The maximum of NaN and 0 is 0.
        let broken = logits.iter().any(|logit| logit.is_nan());
        self.loss += if broken { f64::NAN } else { loss / logits.len().max(1) as f64 };
        self.exact += usize::from(wrong == 0);
    }

    /// The scores so far; `None` before the first image.
    pub fn scores(&self) -> Option<MultilabelScores> {
        if self.images == 0 {
            return None;
        }
        let n = self.images as f64;
        let Counts { right, extra, missed } = self.counts;
        let decisions = 2 * right + extra + missed;
        let precisions: Vec<f64> = self.classes.iter().filter_map(|class| average_precision(class)).collect();
        Some(MultilabelScores {
            images: self.images,
            loss: self.loss / n,
            map: precisions.iter().sum::<f64>() / precisions.len() as f64,
            f1: if decisions == 0 { 0.0 } else { 2.0 * right as f64 / decisions as f64 },
            exact: self.exact as f64 / n,
        })
    }
}

/// The average precision of scores with their truths: the sum over distinct scores, from the largest on, of the gain
/// in recall times the precision. `None` if nothing is true.
pub fn average_precision(scores: &[(f64, bool)]) -> Option<f64> {
    let positives = scores.iter().filter(|(_, truth)| *truth).count();
    if positives == 0 {
        return None;
    }
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut seen, mut found, mut sum) = (0, 0, 0.0);
    // Equal scores are one step.
    for step in sorted.chunk_by(|a, b| a.0 == b.0) {
        let gain = step.iter().filter(|(_, truth)| *truth).count();
        seen += step.len();
        found += gain;
        sum += gain as f64 * found as f64 / seen as f64;
    }
    Some(sum / positives as f64)
}
