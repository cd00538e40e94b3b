//! What can go wrong between a name and a model.

use std::path::PathBuf;

use burn::tensor::DType;

use crate::checkpoint::LoadError;
use crate::checkpoint::apply::{ApplyError, Report};
use crate::models::{CannotError, ConfigError, Precision};

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
    /// The family does not support the requested operation.
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
        /// The requested pattern.
        model: String,
    },
    /// It looks like a path, and nothing is there.
    #[error("{model}: no such file or folder")]
    NotFound {
        /// The requested pattern.
        model: String,
    },
    /// A name without weights, where weights are needed.
    #[error("{model}: a name alone has no weights")]
    NoWeights {
        /// The requested pattern.
        model: String,
    },
    /// What [`LoadOptions::edit`](super::LoadOptions::edit) says against the configuration.
    #[error(transparent)]
    Edit(BoxedError),
    /// A precision other than f32 beside a type of values other than f32.
    #[error("precision {}: the rest is computed in f32, not in {}", .precision.name(), .dtype.name())]
    PrecisionDtype {
        /// The precision asked for.
        precision: Precision,
        /// The type of values asked for.
        dtype: DType,
    },
    /// A precision that the device does not compute.
    #[error("precision {} is computed on the CPU", .precision.name())]
    PrecisionDevice {
        /// The precision asked for.
        precision: Precision,
    },
    /// File and model differ, and the difference was not allowed by name.
    #[error(
        "{path}: these weights are not this model's\n{report}{left_out}",
        path = .path.display(),
        left_out = lines(.notes)
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
    /// Weights in eight bits, where they do not serve.
    #[error("{path}: weights in eight bits, which {limit}", path = .path.display())]
    EightBits {
        /// The weights.
        path: PathBuf,
        /// What they do not serve for.
        limit: EightBitsLimit,
    },
}

/// Any error of a caller's.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// What weights in eight bits do not serve for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EightBitsLimit {
    /// Training.
    #[error("cannot be trained\nhint: begin from the model they were made from")]
    Training,
    /// Values of another type than f32.
    #[error("are computed with in f32 alone")]
    Dtype,
    /// Precision bf16.
    #[error("are not computed with in bf16")]
    Bf16,
    /// Conversion to another layout, and quantising once more.
    #[error("are neither converted nor quantised again\nhint: begin from the model they were made from")]
    Writing,
}

fn lines(notes: &[String]) -> String {
    notes.iter().map(|note| format!("\n{note}")).collect()
}
