//! The arguments that changed since a run began.

use toml::Value;

use crate::train::recipe::{Recipe, keys};

/// A changed argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The recipe's key.
    pub key: String,
    /// The old value; `none` if it was absent.
    pub old: String,
    /// The new value.
    pub new: String,
}

/// The changed arguments that the run's numbers depend on, in the order of the recipe.
pub fn changed(old: &Recipe, new: &Recipe) -> Vec<Change> {
    let (before, after) = (old.to_table(), new.to_table());
    let differs = |key: &String| before.get(key) != after.get(key);
    let counts = |key: &String| {
        let validation_steers = [old, new].iter().any(|recipe| recipe.validation_steers());
        neutral(key).is_none() && (validation_steers || only_measures(key).is_none())
    };
    let text = |value: Option<&Value>| value.map_or_else(|| "none".to_string(), plain);
    let change = |key: String| {
        let (old, new) = (text(before.get(&key)), text(after.get(&key)));
        Change { key, old, new }
    };
    keys().into_iter().filter(differs).filter(counts).map(change).collect()
}

impl Recipe {
    /// Whether validation influences training.
    fn validation_steers(&self) -> bool {
        self.sched == "plateau" || self.patience > 0
    }
}

/// The reason why this key does not change a run's numbers; `None` if it may change them.
pub fn neutral(key: &str) -> Option<&'static str> {
    Some(match key {
        "workers" => "batches and augmentation are functions of seed, epoch and index, not of threads",
        "cache" => "a cached image equals the decoded image",
        "max_bad" => "it only decides when a run gives up",
        "log_interval" => "it only decides when a line is written",
        "output" | "experiment" | "exist_ok" => "it only names the folder of a run",
        "checkpoint_every" | "checkpoint_hist" => "saving does not change the state that is saved",
        "time" => "it only decides when a run pauses",
        _ => return None,
    })
}

/// The reason why only measurements depend on this key, if validation does not influence training.
fn only_measures(key: &str) -> Option<&'static str> {
    Some(match key {
        "val_interval" => "validation draws no random numbers and changes no weights",
        "validation_batch_size" => "a forward pass computes each image independently",
        "eval_metric" => "it only names the best checkpoint",
        _ => return None,
    })
}

/// The value as on a command line: `5e-4` for 0.0005, text without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Float(number) if *number != 0.0 && !(1e-3..1e6).contains(&number.abs()) => {
            format!("{number:e}")
        }
        Value::Float(number) => number.to_string(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Table(fields) => {
            fields.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}
