//! Errors of loading a model.

use std::path::PathBuf;

use burn::tensor::DType;

use crate::checkpoint::LoadError;
use crate::checkpoint::apply::{ApplyError, Report};
use crate::models::{AnswerError, CannotError, ConfigError, InputError, Precision};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// An error of a file.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An unknown name or an invalid configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The family does not support the requested operation.
    #[error(transparent)]
    Cannot(#[from] CannotError),
    /// Images that the model does not take.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Tensors that do not fit the model.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An error of the hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::checkpoint::hub::HubError),
    /// This build lacks the feature `hub`.
    #[error("{model}: this build cannot fetch models\nhint: build with the feature `hub`, or name a folder")]
    NoHub {
        /// The requested pattern.
        model: String,
    },
    /// A path that does not exist.
    #[error("{model}: no such file or folder")]
    NotFound {
        /// The requested pattern.
        model: String,
    },
    /// A catalogue name without weights, although weights are required.
    #[error("{model}: a name alone has no weights")]
    NoWeights {
        /// The requested pattern.
        model: String,
    },
    /// The error of [`LoadOptions::edit`](super::LoadOptions::edit).
    #[error(transparent)]
    Edit(BoxedError),
    /// A precision other than f32 with a dtype other than f32.
    #[error("precision {}: the rest is computed in f32, not in {}", .precision.name(), .dtype.name())]
    PrecisionDtype {
        /// The requested precision.
        precision: Precision,
        /// The requested dtype.
        dtype: DType,
    },
    /// A dtype that the device does not compute in.
    #[error("this device does not compute in {}", .dtype.name())]
    DtypeDevice {
        /// The requested dtype.
        dtype: DType,
    },
    /// A precision that the device does not support.
    #[error("precision {} is not computed on this device", .precision.name())]
    PrecisionDevice {
        /// The requested precision.
        precision: Precision,
    },
    /// A precision for linear layers, requested of a model that has none.
    #[error("precision {}: a {family} has no linear layers but its head", .precision.name())]
    PrecisionLayers {
        /// The requested precision.
        precision: Precision,
        /// The model's family.
        family: &'static str,
    },
    /// File and model differ, and the options do not allow the difference.
    #[error(
        "{path}: the weights do not fit this model\n{report}{left_out}",
        path = .path.display(),
        left_out = lines(.notes)
    )]
    Refused {
        /// The weights.
        path: PathBuf,
        /// What differs.
        report: Box<Report>,
        /// Notes on what was taken from the file and what was left out.
        notes: Vec<String>,
    },
    /// Classes were requested from a model without a head.
    #[error("{model}: the model has no head, so it gives features and names no classes")]
    NoHead {
        /// The model as requested.
        model: String,
    },
    /// int8 weights in a use that does not support them.
    #[error("{path}: int8 weights, which {limit}", path = .path.display())]
    EightBits {
        /// The weights.
        path: PathBuf,
        /// The unsupported use.
        limit: EightBitsLimit,
    },
}

impl From<AnswerError> for ModelError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Cannot(error) => error.into(),
            AnswerError::Input(error) => error.into(),
        }
    }
}

/// Any error of the caller.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// A use that does not support int8 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EightBitsLimit {
    /// Training.
    #[error("cannot be trained\nhint: begin from the model they were made from")]
    Training,
    /// A dtype other than f32.
    #[error("run only in f32")]
    Dtype,
    /// A device other than the CPU.
    #[error("run only on the CPU")]
    Device,
    /// Precision bf16.
    #[error("do not run in bf16")]
    Bf16,
    /// Conversion to another layout, and quantising again.
    #[error("are neither converted nor quantised again\nhint: begin from the model they were made from")]
    Writing,
}

fn lines(notes: &[String]) -> String {
    notes.iter().map(|note| format!("\n{note}")).collect()
}
