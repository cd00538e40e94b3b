//! The studies of the crate's folder `studies/`, built into the library.

use super::StudyError;
use super::error::nearest;
use super::file::Study;

macro_rules! studies {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each study.
        pub const BUILTIN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../studies/", $name, ".toml")))),*];
    };
}

studies!["convnext-ladder", "data-size", "distill", "mask-ratio", "pooling", "positions", "transfer"];

/// A study by its name.
///
/// # Errors
/// [`StudyError::UnknownStudy`] with the most similar name.
pub fn builtin(name: &str) -> Result<Study, StudyError> {
    match BUILTIN.iter().find(|(known, _)| *known == name) {
        Some((known, text)) => Study::parse(text, known),
        None => {
            let nearest = nearest(name, BUILTIN.iter().map(|(known, _)| *known));
            Err(StudyError::UnknownStudy { name: name.into(), nearest })
        }
    }
}

/// What a built-in study is about.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Head {
    /// Its name.
    pub name: String,
    /// What it asks.
    pub question: String,
    /// What it costs, in words.
    pub cost: String,
    /// The paper.
    pub paper: String,
}

/// The heads of all built-in studies. Their recipes are not read.
///
/// # Errors
/// None for the files of this crate; the type is that of [`builtin`].
pub fn heads() -> Result<Vec<Head>, StudyError> {
    let head = |(name, text): &(&str, &str)| {
        let table: toml::Table = toml::from_str(text).map_err(|error: toml::de::Error| {
            StudyError::Syntax { origin: (*name).into(), reason: error.to_string() }
        })?;
        let text = |key: &str| table.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_string();
        Ok(Head {
            name: (*name).into(),
            question: text("question"),
            cost: text("cost"),
            paper: text("paper"),
        })
    };
    BUILTIN.iter().map(head).collect()
}
