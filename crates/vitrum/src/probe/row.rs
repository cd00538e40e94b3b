//! Scores of one method with one setting: a row of the table.

use serde::Serialize;

/// The result of a method with one setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// `knn`, `ridge`, `linear` or `finetune`.
    pub method: &'static str,
    /// What was set: `k=5 cosine`.
    pub setting: String,
    /// Percentage of validation images whose class is the first answer; the mean over the draws.
    pub top1: f64,
    /// Standard deviation over the draws (divided by their number less 1), if there are several.
    pub top1_std: Option<f64>,
    /// Percentage of validation images whose class is among the first five answers; `None` where a method gives fewer
    /// answers, or there are at most five classes.
    pub top5: Option<f64>,
    /// Standard deviation of `top5`.
    pub top5_std: Option<f64>,
    /// Number of draws of training images.
    pub draws: usize,
    /// Training images of a draw.
    pub images: usize,
    /// Seconds, without those of the features.
    pub seconds: f64,
}

impl Row {
    /// The row of these draws. `top5` says whether the second score makes sense.
    pub(super) fn of(
        method: &'static str,
        setting: String,
        draws: &[Tally],
        top5: bool,
        images: usize,
        seconds: f64,
    ) -> Self {
        let [first, second] = [Tally::top1, Tally::top5]
            .map(|score| Moments::of(&draws.iter().map(score).collect::<Vec<f64>>()));
        Self {
            method,
            setting,
            top1: first.mean,
            top1_std: first.std,
            top5: top5.then_some(second.mean),
            top5_std: second.std.filter(|_| top5),
            draws: draws.len(),
            images,
            seconds,
        }
    }
}

struct Moments {
    mean: f64,
    std: Option<f64>,
}

impl Moments {
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        Self { mean, std: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) }
    }
}

/// Counts right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    images: usize,
    first: usize,
    five: usize,
}

impl Tally {
    /// Counts an image by the score of each class. Of classes with the same score, the one with the smaller number goes
    /// first. A score of minus infinity is no answer.
    pub fn add(&mut self, scores: &[f64], label: usize) {
        self.images += 1;
        let Some(own) = scores.get(label).copied().filter(|own| *own > f64::NEG_INFINITY) else { return };
        let before = |(class, score): &(usize, &f64)| **score > own || (**score == own && *class < label);
        let rank = scores.iter().enumerate().filter(before).count();
        self.first += usize::from(rank == 0);
        self.five += usize::from(rank < 5);
    }

    /// Images counted.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Percentage of images whose class is the first answer; NaN without an image.
    pub fn top1(&self) -> f64 {
        100.0 * self.first as f64 / self.images as f64
    }

    /// Percentage of images whose class is among the first five answers; NaN without an image.
    pub fn top5(&self) -> f64 {
        100.0 * self.five as f64 / self.images as f64
    }
}
