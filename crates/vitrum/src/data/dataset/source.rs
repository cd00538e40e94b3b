//! A dataset as a stream of samples, and as a list of places, so that its pictures can be had in any order.

use std::path::PathBuf;

use super::archive::Archive;
use super::error::{DatasetError, DatasetProblem};
use super::sample::{ImageFault, ImageSource, Sample, dimensions};
use super::skipped::Skipped;
use super::target::Target;
use crate::data::image::RgbImage;

/// A dataset that is read once, in a fixed order.
pub trait Source: Send {
    /// The class names, in the order of the labels; empty if there are no labels or only numbers. Of targets that are
    /// [`Target::Values`], the names of the values.
    fn classes(&self) -> &[String];

    /// Number of samples, if known before reading.
    fn count(&self) -> Option<usize>;

    /// The entries left out so far, with reasons.
    fn skipped(&self) -> &Skipped;

    /// Choices made while reading, for the user.
    fn notes(&self) -> &[String] {
        &self.skipped().notes
    }

    /// The next sample, or `None` at the end.
    ///
    /// # Errors
    /// [`DatasetError`] if the rest cannot be read.
    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError>;

    /// The remaining samples as a list. Files stay on disk. Pictures of a plain archive are read on demand, unless
    /// `sequential` asks for a stream. Pictures of binary sets are held in memory.
    ///
    /// # Errors
    /// [`DatasetError`] if the rest cannot be read.
    fn into_indexed(mut self: Box<Self>, sequential: bool) -> Result<Indexed, DatasetError> {
        // Only archives support both.
        let _ = sequential;
        Indexed::drain(&mut *self)
    }
}

/// One picture of an [`Indexed`] dataset.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, as in [`Sample::name`](super::Sample::name).
    pub name: String,
    /// What it is labelled with, if known.
    pub target: Option<Target>,
    pub(crate) place: Place,
}

impl Entry {
    /// Index of its class, if its target is one class.
    pub fn label(&self) -> Option<usize> {
        self.target.as_ref()?.class()
    }
}

/// The place of a picture.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// An image file.
    File(PathBuf),
    /// A range of bytes in one of the archives.
    Span { archive: u32, offset: u64, size: u64 },
    /// An encoded picture held in memory.
    Encoded(Vec<u8>),
    /// Pixels held in memory.
    Pixels(RgbImage),
    /// A picture that is drawn, by its number.
    Drawn(usize),
    /// The stream's next picture, of `size` encoded bytes.
    Streamed { size: u64 },
}

impl Place {
    /// Where the pixels of a sample come from.
    fn of(image: ImageSource) -> Result<Self, ImageFault> {
        match image {
            ImageSource::Path(path) => Ok(Self::File(path)),
            ImageSource::Encoded(bytes) => Ok(Self::Encoded(bytes)),
            ImageSource::Pixels(image) => Ok(Self::Pixels(image)),
            ImageSource::Held(held) => Self::of(held.raw()?),
        }
    }
}

/// Opens a stream from its beginning.
pub(super) type Reopen = Box<dyn Fn() -> Result<Box<dyn Source>, DatasetError> + Send + Sync>;

/// Draws the picture of a number.
pub(crate) type Draw = Box<dyn Fn(usize) -> RgbImage + Send + Sync>;

/// The data that the entries' places refer to.
#[derive(Default)]
pub(super) enum Store {
    /// Nothing: files and memory.
    #[default]
    None,
    /// Plain archives.
    Archives(Vec<Archive>),
    /// A stream; its k-th picture is entry k.
    Stream(Reopen),
    /// Pictures that are drawn when they are asked for, and the bytes of each.
    Drawn { draw: Draw, bytes: u64 },
}

/// A dataset of known length. Its pictures can be read in any order; those of a stream only in stream order.
pub struct Indexed {
    /// The class names, as [`Source::classes`].
    pub classes: Vec<String>,
    /// The entries left out.
    pub skipped: Skipped,
    /// The pictures, in the order of [`Source::next_sample`].
    pub entries: Vec<Entry>,
    store: Store,
}

impl Indexed {
    pub(super) fn new(classes: Vec<String>, skipped: Skipped, entries: Vec<Entry>, store: Store) -> Self {
        Self { classes, skipped, entries, store }
    }

    /// Pictures that are drawn when they are asked for, of so many bytes each.
    pub(crate) fn drawn(classes: Vec<String>, entries: Vec<Entry>, bytes: u64, draw: Draw) -> Self {
        Self::new(classes, Skipped::default(), entries, Store::Drawn { draw, bytes })
    }

    /// Every sample of a source, held in memory unless it is a file.
    pub(super) fn drain(source: &mut (impl Source + ?Sized)) -> Result<Self, DatasetError> {
        let mut entries = Vec::new();
        while let Some(sample) = source.next_sample()? {
            let Sample { name, target, image } = sample;
            let damaged = |reason: String| DatasetProblem::Damaged(reason).at(&name);
            let place = Place::of(image).map_err(|fault| damaged(fault.to_string()))?;
            entries.push(Entry { name, target, place });
        }
        Ok(Self::new(source.classes().to_vec(), source.skipped().clone(), entries, Store::None))
    }

    /// Whether pictures can only be read in order, as from a compressed archive.
    pub fn is_stream(&self) -> bool {
        matches!(self.store, Store::Stream(_))
    }

    /// Opens a stream from its beginning: its k-th sample is entry k. `None` if pictures can be read in any order.
    ///
    /// # Errors
    /// [`DatasetError`] if the archive cannot be opened.
    pub fn stream(&self) -> Result<Option<Box<dyn Source>>, DatasetError> {
        match &self.store {
            Store::Stream(open) => open().map(Some),
            _ => Ok(None),
        }
    }

    /// Picture `index`. For a stream this reads from the beginning, which is slow.
    ///
    /// # Errors
    /// [`DatasetError`] if the archive cannot be read, or ends before the picture.
    pub fn image(&self, index: usize) -> Result<ImageSource, DatasetError> {
        let entry = &self.entries[index];
        let nothing = || DatasetProblem::Damaged("the archive ended or changed".into()).at(&entry.name);
        Ok(match (&entry.place, &self.store) {
            (Place::File(path), _) => ImageSource::Path(path.clone()),
            (Place::Encoded(bytes), _) => ImageSource::Encoded(bytes.clone()),
            (Place::Pixels(image), _) => ImageSource::Pixels(image.clone()),
            (Place::Drawn(number), Store::Drawn { draw, .. }) => ImageSource::Pixels(draw(*number)),
            (Place::Span { archive, offset, size }, Store::Archives(archives)) => {
                let archive = archives.get(*archive as usize).ok_or_else(nothing)?;
                ImageSource::Encoded(archive.read(*offset, *size)?)
            }
            (Place::Streamed { .. }, Store::Stream(open)) => {
                let mut source = open()?;
                for _ in 0..index {
                    source.next_sample()?.ok_or_else(nothing)?;
                }
                source.next_sample()?.filter(|found| found.name == entry.name).ok_or_else(nothing)?.image
            }
            _ => return Err(nothing()),
        })
    }

    /// Stored size of entry `index` in bytes: of the file, of the encoded picture in the archive, or of its pixels.
    /// 0 if the file's size is unknown.
    pub fn size(&self, index: usize) -> u64 {
        match &self.entries[index].place {
            Place::File(path) => std::fs::metadata(path).map_or(0, |file| file.len()),
            Place::Span { size, .. } | Place::Streamed { size } => *size,
            Place::Encoded(bytes) => bytes.len() as u64,
            Place::Pixels(image) => image.data().len() as u64,
            Place::Drawn(_) => self.drawn_bytes(),
        }
    }

    /// Decoded size of entry `index` in bytes, from its header. `None` if unknown, or if pixels are in memory
    /// anyway.
    pub(crate) fn decoded_bytes(&self, index: usize) -> Option<u64> {
        let (width, height) = match self.entries[index].place {
            Place::Drawn(_) => return Some(self.drawn_bytes()),
            Place::Pixels(_) | Place::Streamed { .. } => return None,
            _ => dimensions(&self.image(index).ok()?)?,
        };
        Some(u64::from(width) * u64::from(height) * 3)
    }

    fn drawn_bytes(&self) -> u64 {
        let Store::Drawn { bytes, .. } = self.store else { return 0 };
        bytes
    }
}
