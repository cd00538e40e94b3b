//! The result of a run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::folder::RunFolder;
use super::line::{EpochSummary, number};
use super::{LogError, files};
use crate::train::score::Scores;

/// The result of a run; the fields of `results.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The model's name.
    pub model: String,
    /// Number of parameters.
    pub params: u64,
    /// Height and width of the input in pixels.
    pub img_size: [usize; 2],
    /// The run's folder.
    pub run: PathBuf,
    /// Folder of the best weights, once they are written.
    pub model_dir: Option<PathBuf>,
    /// The score that chooses the best checkpoint.
    pub eval_metric: String,
    /// The best value of that score.
    pub best_metric: Option<f64>,
    /// The epoch of the best value, from 0.
    pub best_epoch: Option<usize>,
    /// All scores of that epoch.
    pub best: Option<Scores>,
    /// The results of the last epoch.
    pub last: Option<EpochSummary>,
    /// Epochs done.
    pub epochs: usize,
    /// Updates done.
    pub updates: u64,
    /// Training images per second.
    #[serde(with = "number")]
    pub images_per_second: f64,
    /// Seconds of the run in this process.
    #[serde(with = "number")]
    pub seconds: f64,
    /// Number of dataset entries that were left out.
    #[serde(default)]
    pub left_out: usize,
    /// Number of unusable training images; each was replaced by another.
    #[serde(default)]
    pub replaced: usize,
    /// Number of unusable validation images; they were left out.
    #[serde(default)]
    pub unreadable: usize,
    /// Whether the run was stopped before its end.
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

    /// The result as one line of JSON, with the keys of timm's `validate.py` first. `param_count` is in millions.
    pub fn result_json(&self) -> String {
        let [height, width] = self.img_size;
        let mut result = Map::from_iter([("model".to_string(), json!(self.model))]);
        result.extend(self.best_scores());
        let rest = [
            ("param_count", json!(rounded(self.params as f64 / 1e6, 2))),
            ("img_size", if height == width { json!(width) } else { json!([height, width]) }),
            ("best_epoch", json!(self.best_epoch)),
            ("epochs", json!(self.epochs)),
            ("images_per_second", json!(rounded(self.images_per_second, 2))),
            ("seconds", json!(rounded(self.seconds, 1))),
            ("left_out", json!(self.left_out)),
            ("replaced", json!(self.replaced)),
            ("unreadable", json!(self.unreadable)),
            ("run", json!(self.run.display().to_string())),
        ];
        result.extend(rest.map(|(key, value)| (key.to_string(), value)));
        Value::Object(result).to_string()
    }

    /// The best scores in timm's order: each percentage with its error, the loss last; `null` without a validation.
    fn best_scores(&self) -> Vec<(String, Value)> {
        let value = |name: &str| self.best.as_ref().and_then(|best| best.get(name));
        let mut fields = Vec::new();
        let (losses, others): (Vec<&str>, Vec<&str>) =
            self.names().into_iter().partition(|name| *name == "loss");
        for name in others.into_iter().chain(losses) {
            fields.push((name.to_string(), json!(value(name).map(|value| rounded(value, 4)))));
            if is_accuracy(name) {
                let error = value(name).map(|value| rounded(100.0 - value, 4));
                fields.push((format!("{name}_err"), json!(error)));
            }
        }
        fields
    }

    /// The names of the scores, also if no epoch was validated.
    fn names(&self) -> Vec<&str> {
        match (&self.best, &self.last) {
            (Some(best), _) => best.names().collect(),
            (None, Some(last)) => last.validation.names.iter().map(String::as_str).collect(),
            (None, None) => Vec::new(),
        }
    }
}

/// Whether a score is the percentage of images whose class is among the most probable: `top1`, `top5`, …
pub(super) fn is_accuracy(name: &str) -> bool {
    rank(name).is_some()
}

/// `5` of `top5`.
pub(super) fn rank(name: &str) -> Option<&str> {
    let digits = name.strip_prefix("top")?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(digits)
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}
