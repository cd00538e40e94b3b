//! Errors of probing.

use std::path::PathBuf;

use super::features::Part;
use crate::checkpoint::LoadError;
use crate::data::batch::BatchError;
use crate::data::dataset::DatasetError;
use crate::data::loader::LoaderError;
use crate::data::train_set::TrainDataError;
use crate::models::{AnswerError, CannotError};
use crate::train::TrainError;

/// Features cannot be computed or probed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The model has no features.
    #[error(transparent)]
    Cannot(#[from] CannotError),
    /// The model does not take the images.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// Training and validation data.
    #[error(transparent)]
    Data(#[from] TrainDataError),
    /// A dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Loading of images.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// A batch that cannot be made.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Training of a probe, or of the model.
    #[error(transparent)]
    Train(Box<TrainError>),
    /// The cache cannot be written.
    #[error(transparent)]
    Cache(#[from] LoadError),
    /// The picture of the results cannot be drawn.
    #[cfg(feature = "plots")]
    #[error(transparent)]
    Paint(#[from] crate::paint::PaintError),
    /// There are no validation images.
    #[error("{}: no validation images: a probe is scored on images that it did not learn from", data.display())]
    NoValidation {
        /// The dataset.
        data: PathBuf,
    },
    /// A part without a readable image.
    #[error("the {part} part has no image")]
    Empty {
        /// The part.
        part: Part,
    },
    /// Training images of a single class.
    #[error("every training image is of class {class}, expected two classes at least")]
    OneClass {
        /// The class.
        class: usize,
    },
    /// An image without a class.
    #[error("{part} image {name}: no class")]
    NoLabel {
        /// The part.
        part: Part,
        /// The image.
        name: String,
    },
    /// A class number that the dataset does not have.
    #[error("{part} image {name}: class {label}, but there are {classes} classes (0 to {last})", last = classes.saturating_sub(1))]
    Label {
        /// The part.
        part: Part,
        /// The image.
        name: String,
        /// Its class.
        label: usize,
        /// Number of classes.
        classes: usize,
    },
    /// Features that are NaN or infinite.
    #[error(
        "{part} image {name}: its features are not finite\nhint: the model's weights may be damaged, or too large for \
         its type of numbers"
    )]
    NotFinite {
        /// The part.
        part: Part,
        /// The image.
        name: String,
    },
    /// Values that do not fill their shape.
    #[error(
        "features of {images} images of {dim} numbers: found {values} numbers, {labels} labels, {names} names"
    )]
    Shape {
        /// Number of images.
        images: usize,
        /// Numbers of each.
        dim: usize,
        /// Numbers found.
        values: usize,
        /// Labels found.
        labels: usize,
        /// Names found.
        names: usize,
    },
    /// Validation features of another length than the training features.
    #[error("validation features have {found} numbers, the training features {expected}")]
    Dim {
        /// Numbers of a validation image.
        found: usize,
        /// Numbers of a training image.
        expected: usize,
    },
    /// Features that do not fit into memory.
    #[error(
        "features of {images} images, {dim} numbers each, take {} MiB, of which {} MiB may be used\nhint: fewer images, \
         or a pooling with fewer numbers",
        need.div_ceil(1 << 20), limit >> 20
    )]
    TooLarge {
        /// Number of images.
        images: usize,
        /// Numbers of each.
        dim: usize,
        /// Bytes needed.
        need: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The model has no class token.
    #[error("this {family} has no class token: its features are averages")]
    NoClassToken {
        /// The model's family.
        family: &'static str,
    },
    /// More neighbours than training images.
    #[error("k is {k}, but there are {images} training images")]
    TooManyNeighbours {
        /// Neighbours asked for.
        k: usize,
        /// Training images.
        images: usize,
    },
    /// An invalid option.
    #[error("{field} is {found}, expected {expected}")]
    Option {
        /// Its name.
        field: &'static str,
        /// Its value.
        found: String,
        /// Valid values.
        expected: &'static str,
    },
    /// Normal equations that have no solution in f64.
    #[error("ridge regression with l2 {l2}: the equations are singular in 64-bit numbers\nhint: a larger l2")]
    Singular {
        /// The regularisation.
        l2: f64,
    },
    /// The linear probe diverged.
    #[error("the linear probe diverged at update {update}: {reason}\nhint: a smaller learning rate")]
    Diverged {
        /// The update, from 1.
        update: u64,
        /// What was not finite.
        reason: String,
    },
    /// The fine-tuning was stopped before its end.
    #[error("fine-tuning was stopped after {epochs} epochs; its checkpoint is {}", checkpoint.display())]
    Stopped {
        /// Epochs done.
        epochs: usize,
        /// The checkpoint to resume from.
        checkpoint: PathBuf,
    },
    /// The fine-tuning has no validation score.
    #[error("{}: the run has no validation score", run.display())]
    NoScore {
        /// The run's folder.
        run: PathBuf,
    },
}

impl From<TrainError> for ProbeError {
    fn from(error: TrainError) -> Self {
        Self::Train(Box::new(error))
    }
}

/// An invalid option.
pub(super) fn refuse<T>(
    field: &'static str,
    found: impl ToString,
    expected: &'static str,
) -> Result<T, ProbeError> {
    Err(ProbeError::Option { field, found: found.to_string(), expected })
}
