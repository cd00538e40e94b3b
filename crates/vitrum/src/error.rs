//! One error for callers who do not care which edge it came from.

use crate::checkpoint::TensorError;
use crate::checkpoint::card::ProblemType;
use crate::checkpoint::error::LoadError;
use crate::checkpoint::load::ModelError;
#[cfg(feature = "train")]
use crate::data::augment::AugmentError;
use crate::data::batch::BatchError;
use crate::data::dataset::DatasetError;
use crate::data::decode::DecodeError;
use crate::data::image::{ImageSaveError, ImageSizeError};
use crate::data::loader::LoaderError;
use crate::data::preprocess::PreprocessError;
#[cfg(feature = "train")]
use crate::data::train_set::TrainDataError;
#[cfg(feature = "explain")]
use crate::explain::ExplainError;
use crate::models::{AnswerError, CannotError, ConfigError, InputError};
#[cfg(feature = "train")]
use crate::probe::ProbeError;
#[cfg(feature = "train")]
use crate::train::TrainError;

/// Any error of this library. Each edge (decoding, checkpoints, datasets, model names) has its own
/// typed error; this one only wraps them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model's name or configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint or its card.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A model that cannot be had.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An image file.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Invalid preprocessing.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// A batch that cannot be made.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Loading of a dataset.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// Nothing says how pictures are prepared for this model.
    #[error(
        "{model}: {}",
        why.as_deref().unwrap_or("no card says how images are prepared")
    )]
    NoPreprocess {
        /// The model as it was asked for.
        model: String,
        /// Why its card does not say it.
        why: Option<String>,
    },
    /// The model takes images of channels that no picture has.
    #[error("{model}: images of {channels} channels: pictures have 1 or 3\nhint: give the model tensors")]
    Channels {
        /// The model as it was asked for.
        model: String,
        /// Channels that it takes.
        channels: usize,
    },
    /// The block has no attention to show.
    #[error("block {block} of a {family} has no attention to show")]
    NoAttention {
        /// The block, from 0.
        block: usize,
        /// The model's family.
        family: &'static str,
    },
    /// An explanation.
    #[cfg(feature = "explain")]
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// Training.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Train(#[from] Box<TrainError>),
    /// Probing of features.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Probe(#[from] Box<ProbeError>),
    /// Training and validation data.
    #[cfg(feature = "train")]
    #[error(transparent)]
    TrainData(#[from] TrainDataError),
    /// Augmentation.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Augment(#[from] AugmentError),
    /// An image in memory.
    #[error(transparent)]
    ImageSize(#[from] ImageSizeError),
    /// An image that cannot be written.
    #[error(transparent)]
    ImageSave(#[from] ImageSaveError),
    /// A tensor in memory.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The model's outputs do not mean what was asked for: the probabilities of a regression, or the numbers of a
    /// classification.
    #[error("the outputs of this model are those of `{found}`, not {asked}", found = .found.name())]
    OtherProblem {
        /// What the outputs mean.
        found: ProblemType,
        /// What was asked for.
        asked: &'static str,
    },
    /// An answer of the model is NaN or infinite.
    #[error(
        "the model's answer to image {image} of the batch is not finite\nhint: its weights may be damaged, or too large for its type of numbers"
    )]
    NotFinite {
        /// Place of the image in its batch, from 0.
        image: usize,
    },
}

#[cfg(feature = "train")]
impl From<TrainError> for Error {
    fn from(error: TrainError) -> Self {
        Self::Train(Box::new(error))
    }
}

#[cfg(feature = "train")]
impl From<ProbeError> for Error {
    fn from(error: ProbeError) -> Self {
        Self::Probe(Box::new(error))
    }
}

impl From<CannotError> for Error {
    fn from(error: CannotError) -> Self {
        Self::Model(error.into())
    }
}

impl From<InputError> for Error {
    fn from(error: InputError) -> Self {
        Self::Model(error.into())
    }
}

impl From<AnswerError> for Error {
    fn from(error: AnswerError) -> Self {
        Self::Model(error.into())
    }
}
