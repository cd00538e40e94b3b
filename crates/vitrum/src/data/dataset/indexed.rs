//! A dataset as a list of places, so that pictures can be read in any order.

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::{DatasetError, DatasetProblem, ImageSource, Skipped, Source};
use crate::data::demo::DemoSet;
use crate::data::image::RgbImage;

/// One picture of an [`Indexed`] dataset.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, as in [`Sample::name`](super::Sample::name).
    pub name: String,
    /// Index of its class, if known.
    pub label: Option<usize>,
    pub(crate) place: Place,
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
    /// A picture of the demo set.
    Drawn(usize),
    /// The stream's next picture, of `size` encoded bytes.
    Streamed { size: u64 },
}

/// Opens a stream from its beginning.
pub(super) type Reopen = Box<dyn Fn() -> Result<Box<dyn Source>, DatasetError> + Send + Sync>;

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
    /// The demo set.
    Demo(DemoSet),
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

    /// Pictures of the demo set.
    pub(crate) fn drawn(set: DemoSet, entries: Vec<Entry>) -> Self {
        Self::new(set.classes().to_vec(), Skipped::default(), entries, Store::Demo(set))
    }

    /// Every sample of a source, held in memory unless it is a file.
    pub(super) fn drain(source: &mut (impl Source + ?Sized)) -> Result<Self, DatasetError> {
        let mut entries = Vec::new();
        while let Some(sample) = source.next_sample()? {
            let place = match sample.image {
                ImageSource::Path(path) => Place::File(path),
                ImageSource::Encoded(bytes) => Place::Encoded(bytes),
                ImageSource::Pixels(image) => Place::Pixels(image),
                ImageSource::Held(held) => held.entry().place.clone(),
            };
            entries.push(Entry { name: sample.name, label: sample.label, place });
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
            (Place::Drawn(number), Store::Demo(set)) => ImageSource::Pixels(set.image(*number)),
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
        let Store::Demo(set) = &self.store else { return 0 };
        u64::from(set.size()).pow(2) * 3
    }
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

/// Largest number of archives held open.
const MAX_OPEN: usize = 128;

/// A plain archive; any number of threads can read it at once.
pub(super) struct Archive {
    path: PathBuf,
    /// Held open if there are few archives and the system lets threads share the file.
    file: Option<File>,
}

impl Archive {
    /// All of a dataset's archives.
    pub(super) fn open_all(paths: &[PathBuf]) -> Result<Vec<Self>, DatasetError> {
        let open = |path: &PathBuf| -> std::io::Result<Self> {
            let file = File::open(path)?;
            let held = cfg!(unix) && paths.len() <= MAX_OPEN;
            Ok(Self { path: path.clone(), file: held.then_some(file) })
        };
        paths.iter().map(|path| open(path).map_err(|error| DatasetProblem::from(error).at(path))).collect()
    }

    /// `size` bytes. The listing checked that they are inside the archive.
    fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>, DatasetError> {
        let mut bytes = Vec::with_capacity(size.min(1 << 20) as usize);
        self.read_to(offset, size, &mut bytes).map_err(|error| DatasetProblem::from(error).at(&self.path))?;
        if bytes.len() as u64 != size {
            let missing = size - bytes.len() as u64;
            let what = format!("tar, byte {offset}: the archive now ends {missing} bytes too early");
            return Err(DatasetProblem::Damaged(what).at(&self.path));
        }
        Ok(bytes)
    }

    fn read_to(&self, offset: u64, size: u64, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
        #[cfg(unix)]
        if let Some(file) = &self.file {
            return At { file, offset }.take(size).read_to_end(bytes);
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.take(size).read_to_end(bytes)
    }
}

/// Reads a shared file at its own position.
#[cfg(unix)]
struct At<'a> {
    file: &'a File,
    offset: u64,
}

#[cfg(unix)]
impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
