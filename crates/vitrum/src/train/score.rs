//! Scores by name: what an evaluation measures, and in which direction each score improves.
//!
//! The run, its logs, its schedule and its checkpoints know names, values and directions. Only a
//! [`Judge`](super::judge::Judge) knows what a name means.

use serde::de::Deserializer;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The direction in which a score improves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// A larger value is better, as for an accuracy.
    #[default]
    Higher,
    /// A smaller value is better, as for a loss.
    Lower,
}

impl Better {
    /// Whether `value` is better than `best`. NaN is never better, and nothing is better than NaN.
    pub fn improves(self, value: f64, best: f64) -> bool {
        match self {
            Self::Higher => value > best,
            Self::Lower => value < best,
        }
    }
}

/// The name and the direction of a score, known before any image is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// The name. It becomes a column of `summary.csv` (`eval_NAME`) and a TensorBoard tag (`eval/NAME`), so it has no
    /// comma, quote or line break.
    pub name: &'static str,
    /// The direction.
    pub better: Better,
}

impl Measure {
    /// A score that improves as it grows.
    pub const fn higher(name: &'static str) -> Self {
        Self { name, better: Better::Higher }
    }

    /// A score that improves as it falls.
    pub const fn lower(name: &'static str) -> Self {
        Self { name, better: Better::Lower }
    }

    /// This measure's score among `scores`.
    pub fn of(&self, scores: &Scores) -> Option<Score> {
        let value = scores.get(self.name)?;
        Some(Score { name: self.name, value, better: self.better })
    }
}

/// A measured value with its name and direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The name.
    pub name: &'static str,
    /// The value.
    pub value: f64,
    /// The direction.
    pub better: Better,
}

impl Score {
    /// Whether this score is better than an earlier value of it.
    pub fn beats(&self, best: f64) -> bool {
        self.better.improves(self.value, best)
    }
}

/// Values by name, in the order of the judge. JSON: an object of numbers; a value that is not finite is `null`, and
/// reads back as NaN. Directions are not written: they belong to the judge.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores(Vec<(String, f64)>);

impl Scores {
    /// The value of a score; `None` if there is no such name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    /// Whether there is no score.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every value is finite.
    pub fn is_finite(&self) -> bool {
        self.iter().all(|(_, value)| value.is_finite())
    }
}

impl<N: Into<String>> FromIterator<(N, f64)> for Scores {
    fn from_iter<I: IntoIterator<Item = (N, f64)>>(scores: I) -> Self {
        Self(scores.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

impl<N: Into<String>, const COUNT: usize> From<[(N, f64); COUNT]> for Scores {
    fn from(scores: [(N, f64); COUNT]) -> Self {
        scores.into_iter().collect()
    }
}

impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Scores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Map::deserialize(deserializer)?.into_iter().map(|(name, value)| (name, number(&value))).collect())
    }
}

/// JSON has no NaN: it is written as `null`.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// A score during an evaluation, as timm's `AverageMeter`.
#[derive(Clone, Debug, PartialEq)]
pub struct Meter {
    /// The score's name.
    pub name: String,
    /// The value of the newest batch.
    pub value: f64,
    /// The value of all batches so far.
    pub mean: f64,
}

/// The meters of an evaluation, in the order of the judge. JSON: `NAME` and `NAME_avg` of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meters(Vec<Meter>);

impl Meters {
    /// Meters of the newest batch and of all batches so far. A score that the batch lacks gets the value so far.
    pub fn new(newest: &Scores, so_far: &Scores) -> Self {
        let meter = |(name, mean): (&str, f64)| Meter {
            name: name.to_string(),
            value: newest.get(name).unwrap_or(mean),
            mean,
        };
        Self(so_far.iter().map(meter).collect())
    }

    /// The meters, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Meter> {
        self.0.iter()
    }
}

impl Serialize for Meters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2 * self.0.len()))?;
        for Meter { name, value, mean } in &self.0 {
            map.serialize_entry(name, value)?;
            map.serialize_entry(&format!("{name}{MEAN}"), mean)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Meters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields: Map<String, Value> = Map::deserialize(deserializer)?;
        let meter = |(name, value): (&String, &Value)| {
            let mean = number(fields.get(&format!("{name}{MEAN}"))?);
            Some(Meter { name: name.clone(), value: number(value), mean })
        };
        Ok(Self(fields.iter().filter_map(meter).collect()))
    }
}

/// Suffix of the key of a mean.
const MEAN: &str = "_avg";

/// The validation of an epoch. JSON: `eval_NAME` and `ema_NAME` of each score, `null` if it was not measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Validation {
    /// Names of the judge's scores, even if the epoch was not validated.
    pub names: Vec<String>,
    /// Scores of the model; `None`: the epoch was not validated.
    pub model: Option<Scores>,
    /// Scores of the moving average of the weights; `None`: there is none, or the epoch was not validated.
    pub ema: Option<Scores>,
}

impl Validation {
    /// The scores that choose the best checkpoint: those of the moving average, if one is kept.
    pub fn decisive(&self) -> Option<&Scores> {
        self.ema.as_ref().or(self.model.as_ref())
    }

    /// The model's value of a score.
    pub fn model_score(&self, name: &str) -> Option<f64> {
        self.model.as_ref()?.get(name)
    }

    /// The moving average's value of a score.
    pub fn ema_score(&self, name: &str) -> Option<f64> {
        self.ema.as_ref()?.get(name)
    }

    fn scores_of(fields: &Map<String, Value>, prefix: &str) -> Option<Scores> {
        let own = || fields.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
        let is_measured = own().any(|(_, value)| value.is_number());
        is_measured.then(|| own().map(|(name, value)| (name, number(value))).collect())
    }
}

/// Prefix of the model's scores.
const MODEL: &str = "eval_";
/// Prefix of the moving average's scores.
const EMA: &str = "ema_";

impl Serialize for Validation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2 * self.names.len()))?;
        for name in &self.names {
            map.serialize_entry(&format!("{MODEL}{name}"), &self.model_score(name))?;
        }
        for name in &self.names {
            map.serialize_entry(&format!("{EMA}{name}"), &self.ema_score(name))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Validation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields: Map<String, Value> = Map::deserialize(deserializer)?;
        let names = fields.keys().filter_map(|key| key.strip_prefix(MODEL)).map(String::from).collect();
        Ok(Self { names, model: Self::scores_of(&fields, MODEL), ema: Self::scores_of(&fields, EMA) })
    }
}
