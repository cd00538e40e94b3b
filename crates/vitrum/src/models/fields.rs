//! Configurations through serde: reading, changing fields, comparing.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::{ConfigError, ModelConfig};

/// The key that names the family of a configuration.
const FAMILY: &str = "family";

impl<'de> Deserialize<'de> for ModelConfig {
    /// Without `family` the fields are those of a `vit`: older files have no such key.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut fields = Map::<String, Value>::deserialize(deserializer)?;
        let family = match fields.remove(FAMILY) {
            None => "vit".to_string(),
            Some(Value::String(name)) => name,
            Some(other) => {
                return Err(D::Error::custom(format!("`{FAMILY}` should be a name, found {other}")));
            }
        };
        let given: Vec<String> = fields.keys().cloned().collect();
        let config = Self::of_family(&family, Value::Object(fields.clone()))
            .map_err(|error| D::Error::custom(at_fault(&family, &fields, &error)))?;
        // serde cannot refuse unknown fields of a configuration with a flattened one inside.
        let known = config.fields();
        match given.iter().find(|key| !known.contains_key(*key)) {
            Some(key) => Err(D::Error::custom(format!("unknown field `{key}`"))),
            None => Ok(config),
        }
    }
}

impl ModelConfig {
    /// All fields with their values, without `family`.
    pub fn fields(&self) -> Map<String, Value> {
        let mut fields = match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(), // a configuration is an object of plain values
        };
        fields.remove(FAMILY);
        fields
    }

    /// The value of a field, if the family has it.
    pub fn field(&self, name: &str) -> Option<Value> {
        self.fields().remove(name)
    }

    /// `K`: the field `num_classes`; 0 for a model without a head or a family without classes.
    pub fn num_classes(&self) -> usize {
        self.field("num_classes").and_then(|value| value.as_u64()).map_or(0, |classes| classes as usize)
    }

    /// The configuration with `value` in the field `name`. One number sets both height and width; equal numbers set a
    /// field of one number; the text `none` clears an optional field.
    ///
    /// # Errors
    /// [`ConfigError::UnknownField`], or [`ConfigError::Value`] for a value of the wrong kind.
    /// [`validate`](super::Config::validate) checks the whole configuration.
    pub fn with(&self, name: &str, value: Value) -> Result<Self, ConfigError> {
        let mut fields = self.fields();
        let Some(old) = fields.get(name) else {
            return Err(ConfigError::UnknownField {
                field: name.into(),
                family: self.family(),
                nearest: nearest(name, fields.keys()),
            });
        };
        let value = suited(old, value);
        // A list where one number is usual: some fields take either.
        let sides = if old.is_number() { value.as_array().cloned() } else { None };
        let none = value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("none"));
        let read = |fields: Map<String, Value>| Self::of_family(self.family(), Value::Object(fields));
        let twice = json!([old.clone(), old.clone()]);
        let takes_list = sides.is_some() && {
            let mut fields = fields.clone();
            replaced(&mut fields, name, twice);
            read(fields).is_ok()
        };
        fields.insert(name.into(), value);
        match read(fields.clone()) {
            Ok(config) => Ok(config),
            Err(_) if none && replaced(&mut fields, name, Value::Null) && read(fields.clone()).is_ok() => {
                read(fields).map_err(|error| wrong(name, &error))
            }
            Err(error) => match sides {
                Some(sides) if !takes_list => {
                    fields.insert(name.into(), one_of(name, &sides)?);
                    read(fields).map_err(|error| wrong(name, &error))
                }
                _ => Err(wrong(name, &error)),
            },
        }
    }

    /// [`with`](ModelConfig::with) for several fields, in their order.
    ///
    /// # Errors
    /// Those of [`with`](ModelConfig::with), for the first field that is wrong.
    pub fn with_all<'a>(
        &self,
        pairs: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<Self, ConfigError> {
        let pairs: Vec<(&str, Value)> = pairs.into_iter().collect();
        let mut fields = self.fields();
        let is_known = pairs.iter().all(|(name, value)| {
            let new = fields.get(*name).map(|old| suited(old, value.clone()));
            new.is_some_and(|new| replaced(&mut fields, name, new))
        });
        // Reading all fields once is usually enough; one by one, each gets its other forms or its error.
        if is_known && let Ok(config) = Self::of_family(self.family(), Value::Object(fields)) {
            return Ok(config);
        }
        pairs.into_iter().try_fold(self.clone(), |config, (name, value)| config.with(name, value))
    }

    /// The configuration with `value` in the field `name`; unchanged if `value` is `None`.
    ///
    /// # Errors
    /// Those of [`with`](ModelConfig::with).
    pub fn with_some(&self, name: &str, value: Option<impl serde::Serialize>) -> Result<Self, ConfigError> {
        match value {
            Some(value) => self.with(name, json!(value)),
            None => Ok(self.clone()),
        }
    }

    /// The fields whose values differ from those of `base`, with the values of this configuration. All fields if
    /// `base` is of another family.
    pub fn differences(&self, base: &Self) -> Map<String, Value> {
        let theirs = if self.family() == base.family() { base.fields() } else { Map::new() };
        self.fields().into_iter().filter(|(name, value)| theirs.get(name) != Some(value)).collect()
    }
}

/// A new value in the form of the old one: two sides, where one number is given for them.
fn suited(old: &Value, new: Value) -> Value {
    match (old, new) {
        (Value::Array(_), Value::Number(side)) => json!([side, side]),
        (_, new) => new,
    }
}

/// serde's message with the name of the field, if a single one is wrong by itself.
fn at_fault(family: &str, fields: &Map<String, Value>, error: &serde_json::Error) -> String {
    let reads = |fields: Map<String, Value>| ModelConfig::of_family(family, Value::Object(fields)).is_ok();
    let alone =
        |(name, value): &(&String, &Value)| reads(Map::from_iter([((*name).clone(), (*value).clone())]));
    let text = error.to_string();
    match fields.iter().find(|field| !alone(field)) {
        Some((name, _)) if reads(Map::new()) && !text.contains(name.as_str()) => format!("{name}: {text}"),
        _ => text,
    }
}

/// The one number that a field of one number takes.
fn one_of(field: &str, sides: &[Value]) -> Result<Value, ConfigError> {
    match sides {
        [first, rest @ ..] if rest.iter().all(|side| side == first) => Ok(first.clone()),
        _ => Err(ConfigError::Value {
            field: field.into(),
            reason: format!("takes one number, found {}", json!(sides)),
        }),
    }
}

fn replaced(fields: &mut Map<String, Value>, name: &str, value: Value) -> bool {
    fields.insert(name.into(), value).is_some()
}

fn wrong(field: &str, error: &serde_json::Error) -> ConfigError {
    ConfigError::Value { field: field.into(), reason: error.to_string() }
}

/// The most similar name, if one is close.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> Option<String> {
    let scored = names.map(|other| (strsim::jaro_winkler(name, other), other));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)))?;
    (best.0 > 0.7).then(|| best.1.clone())
}

/// A value as typed after `=`: `null` and `none`, `true`, numbers, JSON; anything else is text.
pub fn read_value(text: &str) -> Value {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "null" => Value::Null,
        "true" | "false" => Value::Bool(lower == "true"),
        _ => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into())),
    }
}
