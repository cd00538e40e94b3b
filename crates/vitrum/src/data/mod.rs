//! Image files to pixels, and pixels to the model's input tensor.
//!
//! Reading order: [`image`] is the image type, [`decode`] reads it from files, [`resize`] and [`preprocess`] bring
//! it to a model's input, [`batch`] makes the tensor. [`dataset`], [`demo`] and [`loader`] do so for many pictures.

#[cfg(feature = "train")]
pub mod augment;
pub mod batch;
pub mod dataset;
pub mod decode;
pub mod demo;
pub mod image;
pub mod imagenet;
pub mod loader;
pub mod preprocess;
pub mod random;
pub mod resize;
#[cfg(feature = "train")]
pub mod train_loader;
#[cfg(feature = "train")]
pub mod train_set;

pub use self::image::RgbImage;
pub use dataset::{DatasetOptions, Source, list_images, open_dataset};
pub use decode::{DecodeError, DecodeOptions, Limits, open, open_all};
pub use demo::DemoSet;
pub use loader::{Loader, LoaderOptions, MaxBad};
pub use preprocess::{CropMode, Preprocess};
pub use resize::Interpolation;
