//! A table of a study's file, whose errors say where they are.

use toml::{Table, Value};

use crate::study::StudyError;
use crate::study::error::nearest;
use crate::train::recipe::{Overlay, keys};

/// Keys of a recipe that belong to the study.
const OWN: &[&str] = &["seed", "output", "experiment", "exist_ok", "time"];

/// A table with its place, for errors.
pub(super) struct Reader<'a> {
    pub origin: &'a str,
    pub place: String,
    pub table: &'a Table,
}

impl Reader<'_> {
    pub fn at(&self, place: &str) -> Self {
        Self { origin: self.origin, place: place.into(), table: self.table }
    }

    pub fn wrong(&self, reason: String) -> StudyError {
        StudyError::Value { origin: self.origin.into(), place: self.place.clone(), reason }
    }

    /// Refuses keys that are not known.
    pub fn known(&self, known: &[&str]) -> Result<(), StudyError> {
        match self.table.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(self.unknown(key, nearest(key, known.iter().copied()))),
            None => Ok(()),
        }
    }

    pub fn unknown(&self, key: &str, nearest: Option<String>) -> StudyError {
        let (origin, place) = (self.origin.into(), self.place.clone());
        StudyError::UnknownKey { origin, place, key: key.into(), nearest }
    }

    /// Refuses what is no key of a recipe, and keys that the study sets itself.
    pub fn recipe_keys(&self, overlay: &Overlay) -> Result<(), StudyError> {
        let known = keys();
        for key in overlay.keys() {
            if !known.contains(key) {
                return Err(self.unknown(key, nearest(key, known.iter().map(String::as_str))));
            }
            if OWN.contains(&key.as_str()) {
                return Err(self.wrong(format!("the study itself decides on '{key}'")));
            }
        }
        Ok(())
    }

    pub fn optional<T>(&self, key: &str, of: fn(&Value) -> Option<T>) -> Result<Option<T>, StudyError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(value) => match of(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.wrong(format!("{key} is {}, a value of the wrong kind", plain(value)))),
            },
        }
    }

    /// A list; a single value is a list of one.
    pub fn list<T>(&self, key: &str, of: fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>, StudyError> {
        let values = match self.table.get(key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let wrong =
            |value: &Value| self.wrong(format!("{key} has {}, a value of the wrong kind", plain(value)));
        values.iter().map(|value| of(value).ok_or_else(|| wrong(value))).collect::<Result<_, _>>().map(Some)
    }

    pub fn text(&self, key: &str) -> Result<String, StudyError> {
        self.optional(key, text_of)?.ok_or_else(|| self.wrong(format!("no `{key}`")))
    }

    pub fn text_or(&self, key: &str, usual: &str) -> Result<String, StudyError> {
        Ok(self.optional(key, text_of)?.unwrap_or_else(|| usual.into()))
    }

    pub fn table(&self, key: &str) -> Result<Option<Table>, StudyError> {
        self.optional(key, |value| value.as_table().cloned())
    }

    pub fn tables(&self, key: &str) -> Result<Vec<Table>, StudyError> {
        Ok(self.list(key, |value| value.as_table().cloned())?.unwrap_or_default())
    }

    pub fn some<T>(&self, key: &str, items: &[T]) -> Result<(), StudyError> {
        if items.is_empty() { Err(self.wrong(format!("no `{key}`"))) } else { Ok(()) }
    }
}

pub(super) fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(String::from)
}

pub(super) fn seed_of(value: &Value) -> Option<u64> {
    value.as_integer().and_then(|seed| u64::try_from(seed).ok())
}

pub(super) fn number_of(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))
}

/// A value as a person writes it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Refuses a name that is not good for a folder on every system.
pub(super) fn folder_name(place: &str, origin: &str, name: String) -> Result<String, StudyError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if !name.is_empty() && name.chars().all(good) && !name.starts_with('.') {
        return Ok(name);
    }
    let reason = format!("the name '{name}' should have letters, digits, '-', '_', '+' and '.' alone");
    Err(StudyError::Value { origin: origin.into(), place: place.into(), reason })
}
