//! Scores over a labelled dataset: accuracy and loss of classes; scores of several classes per image, and of numbers.

mod multilabel;
mod regression;

pub use multilabel::{Multilabel, MultilabelScores, average_precision};
pub use regression::{Regression, RegressionScores};
use serde::Serialize;

use super::classify::{softmax, top_k};

/// Running sums over images.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    images: usize,
    top1: usize,
    top5: usize,
    loss: f64,
}

/// The result of an [`Evaluation`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Images counted.
    pub images: usize,
    /// Percentage of images whose top class is correct.
    pub top1: f64,
    /// `100 - top1`.
    pub top1_err: f64,
    /// Percentage of images whose class is among the top five.
    pub top5: f64,
    /// `100 - top5`.
    pub top5_err: f64,
    /// Mean cross entropy, in nats.
    pub loss: f64,
}

/// The answer to one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The most probable class.
    pub pred: usize,
    /// Its probability.
    pub prob: f64,
}

impl Evaluation {
    /// Counts one image by its logits `[K]` and its class.
    pub fn add(&mut self, logits: &[f64], label: usize) -> Answer {
        let probabilities = softmax(logits);
        let best = top_k(&probabilities, 5);
        let pred = best.first().copied().unwrap_or_default();
        self.images += 1;
        self.top1 += usize::from(pred == label);
        self.top5 += usize::from(best.contains(&label));
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        self.loss += logits.get(label).map_or(f64::NAN, |logit| largest + total.ln() - logit);
        Answer { pred, prob: probabilities.get(pred).copied().unwrap_or(f64::NAN) }
    }

    /// The percentages so far; `None` before the first image.
    pub fn accuracy(&self) -> Option<Accuracy> {
        if self.images == 0 {
            return None;
        }
        let n = self.images as f64;
        let (top1, top5) = (100.0 * self.top1 as f64 / n, 100.0 * self.top5 as f64 / n);
        Some(Accuracy {
            images: self.images,
            top1,
            top1_err: 100.0 - top1,
            top5,
            top5_err: 100.0 - top5,
            loss: self.loss / n,
        })
    }
}
