//! Scores of models that predict numbers.

use serde::Serialize;

/// Sums over the images so far.
#[derive(Clone, Debug, Default)]
pub struct Regression {
    outputs: Vec<Output>,
    images: usize,
}

/// Sums of one output.
#[derive(Clone, Copy, Debug, Default)]
struct Output {
    absolute: f64,
    squared: f64,
    /// Mean of the true values so far, and the sum of their squared distances from it.
    mean: f64,
    spread: f64,
}

/// The result of a [`Regression`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RegressionScores {
    /// Images counted.
    pub images: usize,
    /// Mean absolute error over images and outputs.
    pub mae: f64,
    /// Root of the mean squared error over images and outputs.
    pub rmse: f64,
    /// Coefficient of determination, the mean over outputs (scikit-learn's `r2_score`). Of an output whose true
    /// values are all equal: 1 if every answer is right, else 0.
    pub r2: f64,
}

impl Regression {
    /// Counts one image by the model's answers `[K]` and its true values `[K]`.
    pub fn add(&mut self, answers: &[f64], values: &[f32]) {
        self.outputs.resize(self.outputs.len().max(values.len()), Output::default());
        self.images += 1;
        for (output, (answer, value)) in self.outputs.iter_mut().zip(answers.iter().zip(values)) {
            let value = f64::from(*value);
            let error = answer - value;
            output.absolute += error.abs();
            output.squared += error * error;
            let before = value - output.mean;
            output.mean += before / self.images as f64;
            output.spread += before * (value - output.mean);
        }
    }

    /// The scores so far; `None` before the first image.
    pub fn scores(&self) -> Option<RegressionScores> {
        if self.images == 0 || self.outputs.is_empty() {
            return None;
        }
        let outputs = self.outputs.len() as f64;
        let numbers = outputs * self.images as f64;
        let sum = |of: fn(&Output) -> f64| self.outputs.iter().map(of).sum::<f64>();
        Some(RegressionScores {
            images: self.images,
            mae: sum(|output| output.absolute) / numbers,
            rmse: (sum(|output| output.squared) / numbers).sqrt(),
            r2: sum(Output::r2) / outputs,
        })
    }
}

impl Output {
    fn r2(&self) -> f64 {
        match (self.squared == 0.0, self.spread == 0.0) {
            (_, false) => 1.0 - self.squared / self.spread,
            (true, true) => 1.0,
            (false, true) => 0.0 * self.squared,
        }
    }
}
