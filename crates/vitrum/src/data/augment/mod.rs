//! Random changes to training images, with timm's names and meanings.
//!
//! Every step has two halves. `draw` makes the random choices; `apply` carries them out and is a plain function of
//! image and choices. `apply` equals Pillow 13, torchvision and timm 1.0.31 byte for byte (one exception,
//! [`blur::gaussian_blur_23`]). `draw` has the same distributions, from this library's own random streams.
//!
//! Reading order: [`geometry`], [`color`] and [`blur`] change pixels; [`op`] and [`auto_augment`] choose among
//! them; [`crop`], [`jitter`] and [`erasing`] are the other steps; [`transform`] puts them in timm's order for one
//! image; [`mix`] blends the images of a batch.

pub mod auto_augment;
pub mod blur;
pub mod color;
pub mod crop;
pub mod erasing;
pub mod geometry;
pub mod jitter;
pub mod mix;
pub mod op;
mod policies;
pub mod transform;

use rand::Rng;

use super::dataset::TargetKind;
use super::preprocess::PreprocessError;
use super::random::DataRng;
use super::resize::ResizeError;

pub use auto_augment::AutoAugment;
pub use crop::{Crop, CropFlip, crop_flip};
pub use erasing::RandomErasing;
pub use geometry::CropBox;
pub use mix::{MixConfig, MixMode, Mixup, smoothed_classes, smoothed_one_hot};
pub use transform::{TrainPlan, TrainTransform, TrainTransformConfig};

/// An invalid augmentation.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AugmentError {
    /// A field has an invalid value.
    #[error("augmentation: `{field}` is {found}\nhint: expected {expected}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// Its value.
        found: String,
        /// Valid values.
        expected: &'static str,
    },
    /// An invalid `aa` text.
    #[error("augmentation: `aa` is '{text}': {reason}\nhint: {hint}")]
    Policy {
        /// The whole text.
        text: String,
        /// What is wrong with it.
        reason: String,
        /// Valid texts.
        hint: &'static str,
    },
    /// A box that is empty or not inside the image.
    #[error("augmentation: the crop {found:?} does not lie inside the {width} x {height} image")]
    CropBox {
        /// The box.
        found: CropBox,
        /// Width of the image in pixels.
        width: u32,
        /// Height of the image in pixels.
        height: u32,
    },
    /// The number of values does not match the batch shape.
    #[error("augmentation: a batch of shape {shape:?} with {labels} labels has {found} numbers")]
    Batch {
        /// `[B, C, H, W]`.
        shape: [usize; 4],
        /// Number of labels; one per image expected.
        labels: usize,
        /// Number of values; the product of the shape expected.
        found: usize,
    },
    /// A label that is not a class.
    #[error("augmentation: label {label} of image {at} is no class: there are {num_classes}")]
    Label {
        /// Which image of the batch.
        at: usize,
        /// Its label.
        label: usize,
        /// Number of classes.
        num_classes: usize,
    },
    /// Another number of values than the model has outputs.
    #[error("augmentation: image {at} has {found} values, expected {expected}")]
    Values {
        /// Which image of the batch.
        at: usize,
        /// Number of its values.
        found: usize,
        /// Number of outputs.
        expected: usize,
    },
    /// Targets of different kinds in a batch.
    #[error("augmentation: the target of image {at} is {found}, expected {expected} as the first")]
    Kinds {
        /// Which image of the batch.
        at: usize,
        /// The kind of its target.
        found: TargetKind,
        /// The kind of the first image's target.
        expected: TargetKind,
    },
    /// Invalid preprocessing.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// An invalid size for a resize.
    #[error("augmentation: {0}")]
    Resize(#[from] ResizeError),
}

/// A random number from `low` to below `high`.
fn uniform(rng: &mut DataRng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// True with probability `p`.
fn chance(rng: &mut DataRng, p: f64) -> bool {
    rng.random::<f64>() < p
}

/// Refuses a number that is not a probability.
fn probability(field: &'static str, p: f64) -> Result<f64, AugmentError> {
    if (0.0..=1.0).contains(&p) { Ok(p) } else { Err(wrong(field, p, "a probability, 0 to 1")) }
}

/// Refuses a pair that is not a range of numbers above 0.
fn positive_range(field: &'static str, range: [f64; 2]) -> Result<[f64; 2], AugmentError> {
    let [low, high] = range;
    if low > 0.0 && low <= high && high.is_finite() {
        return Ok(range);
    }
    Err(wrong(field, format!("{range:?}"), "two numbers above 0, the smaller first"))
}

fn wrong(field: &'static str, found: impl ToString, expected: &'static str) -> AugmentError {
    AugmentError::Field { field, found: found.to_string(), expected }
}
