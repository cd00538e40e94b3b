//! What a checkpoint holds: named tensors, and JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::ResumeError;
use crate::checkpoint::read::{self, Limits};
use crate::checkpoint::write::to_safetensors;
use crate::checkpoint::{HostTensor, TensorMap};

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// `NAME.safetensors`: tensors by name, each in its own type.
    Tensors(BTreeMap<String, HostTensor>),
    /// `NAME.json`. Numbers come back bit for bit; those that are not finite cannot be had.
    Json(Value),
}

/// The files of a checkpoint by name: `model`, `model_ema`, `optim`, `state`, …
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts(BTreeMap<String, Part>);

impl Parts {
    /// Adds a part, or replaces the one of that name.
    pub fn insert(&mut self, name: impl Into<String>, part: Part) {
        self.0.insert(name.into(), part);
    }

    /// With tensors besides.
    pub fn with_tensors(
        mut self,
        name: &str,
        tensors: impl IntoIterator<Item = (String, HostTensor)>,
    ) -> Self {
        self.insert(name, Part::Tensors(tensors.into_iter().collect()));
        self
    }

    /// With JSON besides.
    pub fn with_json(mut self, name: &str, value: Value) -> Self {
        self.insert(name, Part::Json(value));
        self
    }

    /// A part, if it is there.
    pub fn get(&self, name: &str) -> Option<&Part> {
        self.0.get(name)
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Part)> {
        self.0.iter().map(|(name, part)| (name.as_str(), part))
    }

    /// Takes out the tensors of `name`; `from` is the checkpoint that an error names.
    ///
    /// # Errors
    /// [`ResumeError::NoPart`].
    pub fn take_tensors(
        &mut self,
        name: &str,
        from: &Path,
    ) -> Result<BTreeMap<String, HostTensor>, ResumeError> {
        match self.0.remove(name) {
            Some(Part::Tensors(tensors)) => Ok(tensors),
            other => Err(self.lacks(name, "safetensors", other, from)),
        }
    }

    /// Takes out the JSON of `name`; `from` is the checkpoint that an error names.
    ///
    /// # Errors
    /// [`ResumeError::NoPart`].
    pub fn take_json(&mut self, name: &str, from: &Path) -> Result<Value, ResumeError> {
        match self.0.remove(name) {
            Some(Part::Json(value)) => Ok(value),
            other => Err(self.lacks(name, "json", other, from)),
        }
    }

    fn lacks(&mut self, name: &str, ending: &str, other: Option<Part>, from: &Path) -> ResumeError {
        if let Some(part) = other {
            self.insert(name, part);
        }
        let files: Vec<String> = self.iter().map(|(n, part)| format!("{n}.{}", part.ending())).collect();
        let found = if files.is_empty() { "nothing".into() } else { files.join(", ") };
        ResumeError::NoPart { path: from.to_path_buf(), name: format!("{name}.{ending}"), found }
    }

    /// Bytes of all tensors, which is nearly all that is written.
    pub(super) fn bytes(&self) -> u64 {
        let tensors = |part: &Part| match part {
            Part::Tensors(tensors) => tensors.values().map(|tensor| tensor.bytes().len() as u64).sum(),
            Part::Json(_) => 0,
        };
        self.0.values().map(tensors).sum()
    }
}

impl Part {
    fn ending(&self) -> &'static str {
        match self {
            Self::Tensors(_) => "safetensors",
            Self::Json(_) => "json",
        }
    }

    /// `optim.safetensors`.
    pub(super) fn file_name(&self, name: &str) -> Result<String, ResumeError> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty();
        if plain && name != "manifest" {
            Ok(format!("{name}.{}", self.ending()))
        } else {
            Err(ResumeError::PartName { name: name.into() })
        }
    }
}

/// A part as the bytes of its file.
pub(super) fn encode(path: &Path, part: &Part) -> Result<Vec<u8>, ResumeError> {
    match part {
        Part::Tensors(tensors) => {
            let map = TensorMap { tensors: tensors.clone(), ..TensorMap::new(path) };
            Ok(to_safetensors(&map, None)?)
        }
        Part::Json(value) => {
            let mut text = serde_json::to_vec_pretty(&to_exact(value)).expect("a JSON value can be written");
            text.push(b'\n');
            Ok(text)
        }
    }
}

/// A part from its file, whose checksum is right.
pub(super) fn decode(path: &Path, file: &str) -> Result<(String, Part), ResumeError> {
    match file.rsplit_once('.') {
        Some((name, "safetensors")) => {
            // Checked by its sum, so it may hold what this program writes: an optimiser's states are many.
            let limits = Limits { tensors: 1_000_000, header_bytes: 100_000_000, ..Limits::default() };
            let map = read::safetensors::read(path, &limits)?;
            Ok((name.into(), Part::Tensors(map.tensors)))
        }
        Some((name, "json")) => {
            let text = std::fs::read(path).map_err(|e| ResumeError::io("reading", path, e))?;
            let value = serde_json::from_slice(&text).map_err(|e| ResumeError::damaged(path, "JSON", e))?;
            Ok((name.into(), Part::Json(from_exact(value))))
        }
        _ => Err(ResumeError::damaged(path, "a .safetensors or .json file", file)),
    }
}

/// Before a number's text that JSON's reader would round to another number.
const NUMBER: &str = "f64:";
/// Before a text that begins like one of these two.
const TEXT: &str = "text:";

/// `value` with such numbers as texts: serde_json reads about one number in a hundred one bit away.
fn to_exact(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() && !is_read_back(number) => {
            Value::String(format!("{NUMBER}{number}"))
        }
        Value::String(text) if text.starts_with(NUMBER) || text.starts_with(TEXT) => {
            Value::String(format!("{TEXT}{text}"))
        }
        Value::Array(items) => Value::Array(items.iter().map(to_exact).collect()),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (key.clone(), to_exact(value))).collect())
        }
        other => other.clone(),
    }
}

fn is_read_back(number: &serde_json::Number) -> bool {
    let read: Option<f64> = serde_json::from_str(&number.to_string()).ok();
    read.zip(number.as_f64()).is_some_and(|(read, own)| read.to_bits() == own.to_bits())
}

fn from_exact(value: Value) -> Value {
    match value {
        Value::String(text) => match (text.strip_prefix(NUMBER), text.strip_prefix(TEXT)) {
            (Some(number), _) => {
                number.parse::<f64>().map_or_else(|_| Value::String(text.clone()), Value::from)
            }
            (_, Some(plain)) => Value::String(plain.into()),
            _ => Value::String(text),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(from_exact).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, value)| (key, from_exact(value))).collect())
        }
        other => other,
    }
}
