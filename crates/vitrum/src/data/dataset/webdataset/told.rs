//! The content of one companion.

use serde_json::Value;

use crate::data::dataset::table::{Label, check, read};

/// Longest class name, in characters; a longer text is a caption.
const MAX_NAME: usize = 100;
const NUMBER_FIELDS: [&str; 6] = ["label", "cls", "class", "class_index", "class_id", "target"];
const NAME_FIELDS: [&str; 7] = ["class_name", "label_name", "label", "cls", "class", "class_id", "target"];

/// Companions that may hold labels, preferred first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::data::dataset) enum Kind {
    Cls,
    Label,
    Index,
    Json,
    Txt,
}

impl Kind {
    pub(super) const COUNT: usize = 5;
    const ALL: [Self; Self::COUNT] = [Self::Cls, Self::Label, Self::Index, Self::Json, Self::Txt];

    /// The kind of a member, by its last extension.
    pub(in crate::data::dataset) fn of(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit('/').next()?.rsplit_once('.')?;
        Self::ALL.into_iter().find(|kind| extension.eq_ignore_ascii_case(kind.name()))
    }

    pub(super) fn name(self) -> &'static str {
        ["cls", "label", "index", "json", "txt"][self as usize]
    }
}

/// A label as written, and the name beside a number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Told {
    pub kind: Kind,
    pub text: String,
    pub name: Option<String>,
}

impl Told {
    pub(super) fn is_number(&self) -> bool {
        matches!(read(&self.text), Label::Number(_))
    }
}

pub(super) enum Answer {
    Told(Told),
    Nothing,
    Caption,
    Bad(String),
}

pub(super) fn parse(kind: Kind, content: &[u8]) -> Answer {
    let Ok(text) = std::str::from_utf8(content) else {
        return if kind == Kind::Txt {
            Answer::Nothing
        } else {
            Answer::Bad("text that is not UTF-8".into())
        };
    };
    let text = text.trim_start_matches('\u{feff}').trim_matches(|c: char| c.is_whitespace() || c == '\0');
    match kind {
        Kind::Json => json(text),
        Kind::Txt if text.chars().count() > MAX_NAME || text.contains('\n') => Answer::Caption,
        Kind::Txt if is_score(text) || are_numbers(text) => Answer::Nothing,
        _ if are_numbers(text) => Answer::Bad(format!(
            "{} is more than one number\n  hint: a picture has one class",
            shortened(text)
        )),
        _ if text.contains('\n') || text.chars().count() > MAX_NAME => {
            Answer::Bad(format!("{} is neither a number nor the name of a class", shortened(text)))
        }
        _ => told(kind, text.into(), None),
    }
}

/// Several numbers: boxes, or several labels.
fn are_numbers(text: &str) -> bool {
    let parts = || text.split(|c: char| c.is_whitespace() || c == ',').filter(|part| !part.is_empty());
    parts().count() > 1 && parts().all(|part| part.parse::<f64>().is_ok())
}

fn is_score(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(|number| number.is_finite() && number.fract() != 0.0)
}

fn shortened(text: &str) -> String {
    format!("\"{}\"", text.chars().take(40).collect::<String>().escape_debug())
}

/// `3`, `03` and `3.0` are one label.
fn told(kind: Kind, text: String, name: Option<String>) -> Answer {
    if let Err(reason) = check(&text) {
        return Answer::Bad(reason);
    }
    match read(&text) {
        Label::Missing => Answer::Nothing,
        Label::Number(number) => Answer::Told(Told { kind, text: number.to_string(), name }),
        Label::Name => Answer::Told(Told { kind, text, name: None }),
    }
}

fn json(text: &str) -> Answer {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(_) if text.is_empty() => return Answer::Nothing,
        Err(error) => return Answer::Bad(format!("not JSON: {error}")),
    };
    let Value::Object(fields) = &value else {
        return scalar(&value).map_or(Answer::Nothing, |text| told(Kind::Json, text, None));
    };
    if let Some((field, Value::Array(list))) =
        fields.iter().find(|(field, value)| NUMBER_FIELDS.contains(&field.as_str()) && is_several(value))
    {
        return Answer::Bad(format!(
            "`{field}` holds {} labels\n  hint: a picture has one class",
            list.len()
        ));
    }
    let find = |names: &[&str], wanted: fn(&str) -> bool| {
        names.iter().filter_map(|name| scalar(fields.get(*name)?)).find(|text| wanted(text))
    };
    let name = find(&NAME_FIELDS, |text| matches!(read(text), Label::Name) && text.parse::<f64>().is_err());
    match find(&NUMBER_FIELDS, |text| text.parse::<f64>().is_ok()) {
        Some(number) => told(Kind::Json, number, name),
        None => name.map_or(Answer::Nothing, |name| told(Kind::Json, name, None)),
    }
}

fn is_several(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.len() > 1)
}

/// A number or text as text; for a list of one, its item.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.trim().to_string()),
        Value::Array(list) if list.len() == 1 => scalar(list.first().filter(|value| !value.is_array())?),
        _ => None,
    }
}
