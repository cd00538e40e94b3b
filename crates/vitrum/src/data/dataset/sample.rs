//! One picture of a dataset, and where its pixels come from.

use std::fmt::Debug;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::DatasetError;
use super::target::Target;
use crate::data::decode::{self, DecodeOptions, Decoded};
use crate::data::image::RgbImage;

/// One picture with its name and target.
#[derive(Debug, Clone)]
pub struct Sample {
    /// A path, an archive member, or file and number.
    pub name: String,
    /// What it is labelled with, if known.
    pub target: Option<Target>,
    /// The picture; encoded pictures are not yet decoded.
    pub image: ImageSource,
}

impl Sample {
    /// Index of its class, if its target is one class.
    pub fn label(&self) -> Option<usize> {
        self.target.as_ref()?.class()
    }
}

/// Where a picture's pixels come from.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// An image file.
    Path(PathBuf),
    /// An encoded image in memory.
    Encoded(Vec<u8>),
    /// Pixels.
    Pixels(RgbImage),
    /// A picture that something else holds, such as a training set with its cache.
    Held(Arc<dyn Held>),
}

impl ImageSource {
    /// The picture, read and decoded where it is not yet. A [`Held`](Self::Held) one is decoded as its
    /// holder does it, whatever `options`.
    ///
    /// # Errors
    /// What is wrong with the picture, in words that name its file where it has one.
    pub fn decode(self, options: &DecodeOptions) -> Result<RgbImage, String> {
        self.decode_noting(options).map(|decoded| decoded.image)
    }

    /// As [`decode`](Self::decode), with what was wrong with the file. Of a [`Held`](Self::Held) one its holder knows
    /// that.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_noting(self, options: &DecodeOptions) -> Result<Decoded, String> {
        let fine = |image| Decoded { image, notes: Vec::new() };
        match self {
            Self::Path(path) => decode::open_noting(path, options).map_err(|error| error.to_string()),
            Self::Encoded(bytes) => decode::decode_noting(&bytes, options).map_err(|error| error.to_string()),
            Self::Pixels(image) => Ok(fine(image)),
            Self::Held(held) => held
                .decode()
                .map(|image| fine(Arc::unwrap_or_clone(image)))
                .map_err(|fault| fault.to_string()),
        }
    }
}

/// A picture that its holder decodes, and may have in memory.
pub trait Held: Debug + Send + Sync {
    /// The picture, from memory where it is there.
    ///
    /// # Errors
    /// [`ImageFault`].
    fn decode(&self) -> Result<Arc<RgbImage>, ImageFault>;

    /// The picture as it lies, encoded where it is: never [`ImageSource::Held`].
    ///
    /// # Errors
    /// [`ImageFault::Broken`].
    fn raw(&self) -> Result<ImageSource, ImageFault>;
}

/// A picture is not available.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ImageFault {
    /// The picture is missing or damaged; others may be fine.
    #[error("{0}")]
    Bad(String),
    /// The dataset can no longer be read.
    #[error(transparent)]
    Broken(Arc<DatasetError>),
}

/// Width and height from an image's header.
pub(crate) fn dimensions(image: &ImageSource) -> Option<(u32, u32)> {
    match image {
        ImageSource::Path(path) => {
            ::image::ImageReader::open(path).ok()?.with_guessed_format().ok()?.into_dimensions().ok()
        }
        ImageSource::Encoded(bytes) => {
            let reader = ::image::ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
            reader.into_dimensions().ok()
        }
        ImageSource::Pixels(image) => Some((image.width(), image.height())),
        ImageSource::Held(held) => held.decode().ok().map(|image| (image.width(), image.height())),
    }
}
