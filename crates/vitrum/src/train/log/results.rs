//! What a run came to.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::event::{EpochSummary, number};
use super::folder::RunFolder;
use super::{LogError, files};

/// A validation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Mean cross entropy.
    #[serde(with = "number")]
    pub loss: f64,
    /// Percentage right.
    #[serde(with = "number")]
    pub top1: f64,
    /// Percentage among the five likeliest.
    #[serde(with = "number")]
    pub top5: f64,
}

impl Scores {
    /// Whether all are numbers.
    pub fn is_finite(&self) -> bool {
        [self.loss, self.top1, self.top5].iter().all(|score| score.is_finite())
    }
}

/// What a run came to; `results.json` has these fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Name of the model.
    pub model: String,
    /// Its parameters.
    pub params: u64,
    /// Height and width of the input in pixels.
    pub img_size: [usize; 2],
    /// The run's folder.
    pub run: PathBuf,
    /// The best weights, ready for use, where there are any.
    pub model_dir: Option<PathBuf>,
    /// What makes a checkpoint the best: `top1`, `top5` or `loss`.
    pub eval_metric: String,
    /// Its best value.
    pub best_metric: Option<f64>,
    /// The epoch it was reached in, from 0.
    pub best_epoch: Option<usize>,
    /// The validation of that epoch.
    pub best: Option<Scores>,
    /// The last epoch.
    pub last: Option<EpochSummary>,
    /// Epochs done.
    pub epochs: usize,
    /// Updates done.
    pub updates: u64,
    /// Training images per second.
    #[serde(with = "number")]
    pub images_per_second: f64,
    /// Length of the run in this process.
    #[serde(with = "number")]
    pub seconds: f64,
    /// Entries of the data that were left out.
    #[serde(default)]
    pub left_out: usize,
    /// Training images that cannot be used; another took the place of each.
    #[serde(default)]
    pub replaced: usize,
    /// Validation images that cannot be used, and were left out.
    #[serde(default)]
    pub unreadable: usize,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

impl Finished {
    /// Writes `results.json`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn write(&self, folder: &RunFolder) -> Result<(), LogError> {
        let path = folder.results();
        let text = serde_json::to_string_pretty(self).map_err(|e| LogError::io(&path, e.into()))?;
        files::replace(&path, (text + "\n").as_bytes())
    }

    /// The object behind `--result`, on one line, with the keys of timm's `validate.py` first; `param_count` is in
    /// millions.
    pub fn result_json(&self) -> String {
        let rounded = |value: f64, digits: i32| {
            let scale = 10_f64.powi(digits);
            (value * scale).round() / scale
        };
        let score = |of: fn(&Scores) -> f64| self.best.as_ref().map(|scores| rounded(of(scores), 4));
        let [height, width] = self.img_size;
        json!({
            "model": self.model,
            "top1": score(|s| s.top1),
            "top1_err": score(|s| 100.0 - s.top1),
            "top5": score(|s| s.top5),
            "top5_err": score(|s| 100.0 - s.top5),
            "loss": score(|s| s.loss),
            "param_count": rounded(self.params as f64 / 1e6, 2),
            "img_size": if height == width { json!(width) } else { json!([height, width]) },
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "images_per_second": rounded(self.images_per_second, 2),
            "seconds": rounded(self.seconds, 1),
            "left_out": self.left_out,
            "replaced": self.replaced,
            "unreadable": self.unreadable,
            "run": self.run.display().to_string(),
        })
        .to_string()
    }
}
