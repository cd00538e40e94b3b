//! What can be wrong with a recipe.

use std::path::PathBuf;

use super::BUILTIN;

/// An invalid recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The library has no recipe of this name.
    #[error("no recipe '{name}', neither a file nor one that is built in\nhint: {}", or_built_in(.nearest))]
    UnknownRecipe {
        /// The name.
        name: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// Not TOML.
    #[error("{origin}: not a TOML file: {reason}")]
    Syntax {
        /// The file.
        origin: String,
        /// Where and why.
        reason: String,
    },
    /// An unknown key.
    #[error("{origin}: unknown key '{key}'{hint}", hint = did_you_mean(.nearest))]
    UnknownKey {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// The most similar key.
        nearest: Option<String>,
    },
    /// A value of the wrong kind.
    #[error("{origin}: {key}: {reason}")]
    Value {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// An unknown task.
    #[error("task '{name}' is not known: want {}{}", .known.join(", "), did_you_mean(.nearest))]
    UnknownTask {
        /// The name.
        name: String,
        /// The most similar name.
        nearest: Option<String>,
        /// Every name.
        known: Vec<String>,
    },
    /// An invalid value, or two values that contradict each other.
    #[error("{key} {reason}")]
    Field {
        /// The key.
        key: &'static str,
        /// The rest of a sentence that begins with the key.
        reason: String,
    },
}

/// The known name that is most like `key`, if one is alike at all.
pub(super) fn nearest(key: &str, known: &[String]) -> Option<String> {
    let key = key.replace('-', "_");
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(&key, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.7)
        .map(|(_, name)| name.clone())
}

pub(super) fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("\nhint: did you mean '{name}'?")).unwrap_or_default()
}

fn or_built_in(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("did you mean '{name}'?"),
        None => {
            format!("built in are {}", BUILTIN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "))
        }
    }
}
