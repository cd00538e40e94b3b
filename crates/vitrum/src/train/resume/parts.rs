//! The parts of a checkpoint: named tensors and JSON.

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
    /// `NAME.safetensors`: tensors by name, each with its own type.
    Tensors(BTreeMap<String, HostTensor>),
    /// `NAME.json`. Numbers read back bit for bit; numbers that are not finite cannot be stored.
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

    /// Adds a part of tensors.
    pub fn with_tensors(
        mut self,
        name: &str,
        tensors: impl IntoIterator<Item = (String, HostTensor)>,
    ) -> Self {
        self.insert(name, Part::Tensors(tensors.into_iter().collect()));
        self
    }

    /// Adds a part of JSON.
    pub fn with_json(mut self, name: &str, value: Value) -> Self {
        self.insert(name, Part::Json(value));
        self
    }

    /// A part by its name.
    pub fn get(&self, name: &str) -> Option<&Part> {
        self.0.get(name)
    }

    /// All parts, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Part)> {
        self.0.iter().map(|(name, part)| (name.as_str(), part))
    }

    /// Removes and returns the tensors of `name`; errors name `from` as the checkpoint.
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

    /// Removes and returns the JSON of `name`; errors name `from` as the checkpoint.
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

    /// Bytes of all tensors. They are nearly all bytes of a checkpoint.
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

/// The bytes of a part's file.
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

/// Reads a part from its file; the checksum was verified before.
pub(super) fn decode(path: &Path, file: &str) -> Result<(String, Part), ResumeError> {
    match file.rsplit_once('.') {
        Some((name, "safetensors")) => {
            // The checksum shows that this program wrote the file. An optimiser has many states.
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

/// Prefix of a number stored as text, because serde_json would read another number.
const NUMBER: &str = "f64:";
/// Prefix of a text that itself begins with one of these two prefixes.
const TEXT: &str = "text:";

/// `value` with inexact numbers as texts: serde_json reads about one number in a hundred with an error of one bit.
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
