//! One error for callers who do not care which edge it came from.

use crate::checkpoint::card::ProblemType;
use crate::checkpoint::error::LoadError;
use crate::checkpoint::load::ModelError;
use crate::data::batch::BatchError;
use crate::data::dataset::DatasetError;
use crate::data::decode::DecodeError;
use crate::data::loader::LoaderError;
use crate::data::preprocess::PreprocessError;
use crate::models::ConfigError;

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
    /// The model's outputs do not mean what was asked for: the probabilities of a regression, or the numbers of a
    /// classification.
    #[error("the outputs of this model are those of `{found}`, not {asked}", found = .found.name())]
    OtherProblem {
        /// What the outputs mean.
        found: ProblemType,
        /// What was asked for.
        asked: &'static str,
    },
    /// An answer of the model is no number.
    #[error(
        "the model's answer to image {image} of the batch is not finite\nhint: its weights may be damaged, or too large for its type of numbers"
    )]
    NotFinite {
        /// Place of the image in its batch, from 0.
        image: usize,
    },
}
