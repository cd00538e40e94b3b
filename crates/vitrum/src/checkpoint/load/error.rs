//! What can go wrong between a name and a model.

use std::path::PathBuf;

use crate::checkpoint::LoadError;
use crate::checkpoint::apply::{ApplyError, Report};
use crate::models::{CannotError, ConfigError};

/// What stands between a name and a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A name or a configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model was asked for what its family cannot do.
    #[error(transparent)]
    Cannot(#[from] CannotError),
    /// Tensors that are not the model's.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::checkpoint::hub::HubError),
    /// This build knows no hub.
    #[error("{model}: this build cannot fetch models\nhint: build with the feature `hub`, or name a folder")]
    NoHub {
        /// What was asked for.
        model: String,
    },
    /// It looks like a path, and nothing is there.
    #[error(
        "{model}: no such file or folder\nhint: a model is a folder, a file of weights, a name of `vitrum models list`, or hf:ORG/NAME"
    )]
    NotFound {
        /// What was asked for.
        model: String,
    },
    /// A name without weights, where weights are needed.
    #[error(
        "{model}: a name alone has no weights\nhint: add --checkpoint FILE, or fetch published ones with -m hf:timm/{}",
        published(.model)
    )]
    NoWeights {
        /// What was asked for.
        model: String,
    },
    /// A flag that does not go with the model.
    #[error("{0}")]
    Edit(String),
    /// File and model differ, and the difference was not allowed by name.
    #[error(
        "{path}: these weights are not this model's\n{report}{left_out}\n{hint}",
        path = .path.display(),
        left_out = lines(.notes),
        hint = hint(.report)
    )]
    Refused {
        /// The weights.
        path: PathBuf,
        /// What differs.
        report: Box<Report>,
        /// What was taken of the file, and what was left out.
        notes: Vec<String>,
    },
    /// A model that names no classes was asked for classes.
    #[error("{model}: the model has no head, so it gives features and names no classes")]
    NoHead {
        /// The model as it was asked for.
        model: String,
    },
    /// A model of a kind that is not built yet.
    #[error("{path}: {what}", path = .path.display())]
    Unsupported {
        /// The card or weights.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

/// Where weights of a name of the catalogue are published; the name may have its tag already.
fn published(model: &str) -> String {
    match model.contains('.') {
        true => model.to_string(),
        false => format!("{model}.TAG (tags: `vitrum models info {model}`)"),
    }
}

fn lines(notes: &[String]) -> String {
    notes.iter().map(|note| format!("\n{note}")).collect()
}

fn hint(report: &Report) -> String {
    if report.heads_differ {
        return "hint: --num-classes K gives the model a new head, --num-classes 0 none".into();
    }
    if !report.mismatched.is_empty() {
        return "hint: is it another model? `vitrum checkpoint inspect` shows what the file holds".into();
    }
    if !report.missing.is_empty() && !report.unexpected.is_empty() {
        return "hint: if the file has other names for these tensors, a file of names tells them (--keys FILE; \
                `vitrum checkpoint inspect FILE --suggest-keys` prints one to begin from); \
                --allow-missing KEY and --allow-unexpected KEY excuse differences by name"
            .into();
    }
    "hint: --allow-missing KEY and --allow-unexpected KEY excuse differences by name".into()
}
