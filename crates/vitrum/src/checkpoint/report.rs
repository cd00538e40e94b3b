//! What happened to tensors on their way from a file into a model.

use std::fmt;

use serde::Serialize;

/// A tensor whose shape in the file is not the model's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShapeChange {
    /// The key.
    pub key: String,
    /// Shape in the file.
    pub found: Vec<usize>,
    /// Shape in the model.
    pub expected: Vec<usize>,
}

/// A tensor that was changed, or given to another parameter, to fit the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Adaptation {
    /// The key in the model.
    pub key: String,
    /// The key in the file.
    pub source: String,
    /// Shape in the file.
    pub found: Vec<usize>,
    /// Shape in the model.
    pub expected: Vec<usize>,
}

/// What happened to every tensor of the file and every parameter of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Parameters that took their values from the file.
    pub loaded: Vec<String>,
    /// Position tables brought to the model's grid.
    pub resized: Vec<ShapeChange>,
    /// Tensors of a model with other channels or another pooling, made this model's.
    pub adapted: Vec<Adaptation>,
    /// Parameters of a replaced head, fresh in the model.
    pub replaced: Vec<ShapeChange>,
    /// Parameters for pretraining alone, fresh in the model because the file is an encoder.
    pub fresh: Vec<String>,
    /// Parameters the file has no tensor for.
    pub missing: Vec<String>,
    /// Tensors the model has no parameter for.
    pub unexpected: Vec<String>,
    /// Tensors of another shape than the model's.
    pub mismatched: Vec<ShapeChange>,
    /// Keys among `missing` and `unexpected` that were excused by name.
    pub excused: Vec<String>,
    /// Whether a head is among `missing` and `mismatched`.
    #[serde(skip)]
    pub heads_differ: bool,
}

impl Report {
    /// Whether some difference was not excused.
    pub fn is_refused(&self) -> bool {
        let excused = |key: &String| self.excused.contains(key);
        !self.mismatched.is_empty()
            || !self.missing.iter().all(excused)
            || !self.unexpected.iter().all(excused)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loaded {}, ", self.loaded.len())?;
        write!(f, "missing {}, unexpected {}, ", self.missing.len(), self.unexpected.len())?;
        write!(f, "resized {}", self.resized.len())?;
        for change in &self.resized {
            write!(f, "\n  resized     {}", Changed(change))?;
        }
        for Adaptation { key, source, found, expected } in &self.adapted {
            match key == source {
                true => write!(f, "\n  adapted     {key} {found:?} -> {expected:?}")?,
                false => write!(f, "\n  adapted     {source} -> {key}")?,
            }
        }
        for change in &self.replaced {
            write!(f, "\n  new head    {}", Changed(change))?;
        }
        if let [first, .., last] = self.fresh.as_slice() {
            write!(f, "\n  fresh       {} tensors, {first} to {last}", self.fresh.len())?;
        } else if let [only] = self.fresh.as_slice() {
            write!(f, "\n  fresh       {only}")?;
        }
        for change in &self.mismatched {
            write!(f, "\n  mismatched  {}", Changed(change))?;
        }
        let excuse = |key: &String| if self.excused.contains(key) { " (excused)" } else { "" };
        for key in &self.missing {
            write!(f, "\n  missing     {key}{}", excuse(key))?;
        }
        for key in &self.unexpected {
            write!(f, "\n  unexpected  {key}{}", excuse(key))?;
        }
        Ok(())
    }
}

struct Changed<'a>(&'a ShapeChange);

impl fmt::Display for Changed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShapeChange { key, found, expected } = self.0;
        write!(f, "{key} {found:?} -> {expected:?}")
    }
}
