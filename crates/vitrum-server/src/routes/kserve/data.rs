//! What a tensor of a request holds, read without building a tree of JSON: a tree takes tens of bytes for each of its
//! numbers.

use std::fmt::Formatter;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::upload::Encoded;

/// The elements of a tensor, row by row, nested or not.
#[derive(Debug, Default)]
pub struct Data {
    /// Its numbers.
    pub numbers: Vec<f32>,
    /// Its texts.
    pub texts: Encoded,
}

impl Data {
    /// The number of elements.
    pub fn count(&self) -> usize {
        self.numbers.len() + self.texts.count()
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut data = Self::default();
        Elements(&mut data).deserialize(deserializer)?;
        Ok(data)
    }
}

/// Reads an element, or lists of them.
struct Elements<'a>(&'a mut Data);

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("numbers or texts, in lists or not")
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.0.numbers.push(number as f32);
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.texts.push(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Elements(self.0))?.is_some() {}
        Ok(())
    }
}

/// The value of a parameter. Only flags and counts are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// True or false.
    Flag(bool),
    /// A whole number.
    Count(u64),
    /// Anything else.
    Other,
}

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyParameter)
    }
}

/// Reads any value, and keeps what a parameter can be.
struct AnyParameter;

impl<'de> Visitor<'de> for AnyParameter {
    type Value = Parameter;

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Parameter, E> {
        Ok(Parameter::Flag(flag))
    }

    fn visit_u64<E: Error>(self, count: u64) -> Result<Parameter, E> {
        Ok(Parameter::Count(count))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Parameter, E> {
        Ok(Parameter::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Parameter, E> {
        Ok(Parameter::Other)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Parameter, E> {
        Ok(Parameter::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Parameter, E> {
        Ok(Parameter::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Parameter, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Parameter::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Parameter, A::Error> {
        while values.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Parameter::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(json: &str) -> Result<Data, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn lists_of_any_depth_are_flat() {
        let numbers = data("[[1, -2.5], [[3]], [], 4]").unwrap();
        assert_eq!((&numbers.numbers[..], numbers.count()), (&[1.0, -2.5, 3.0, 4.0][..], 4));
        let texts = data(r#"["aGVsbG8=", ["YQ"]]"#).unwrap();
        assert_eq!((texts.count(), texts.texts.images().unwrap().len()), (2, 2));
        assert_eq!(data("7").unwrap().numbers, [7.0]);
        for other in ["[null]", "[true]", "{}", "[{\"a\": 1}]"] {
            let error = data(other).unwrap_err().to_string();
            assert!(error.contains("numbers or texts"), "{error}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(data(&deep).unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn parameters_are_flags_counts_or_neither() {
        let of = |json: &str| serde_json::from_str::<Parameter>(json).unwrap();
        assert_eq!((of("true"), of("12")), (Parameter::Flag(true), Parameter::Count(12)));
        for other in ["-1", "1.5", "\"x\"", "null", "[1, {}]", "{\"a\": [2]}"] {
            assert_eq!(of(other), Parameter::Other, "{other}");
        }
    }
}
