//! Datasets for training: any order, any part, repeated access.
//!
//! [`TrainSet`] is one opened dataset; a [`Subset`] is some of its pictures; [`TrainValSets`] are the two subsets
//! of a training run. Pictures, order and labels depend only on the dataset and the options. The cache of decoded
//! pictures only saves time.

mod cache;
mod split;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sha2::{Digest, Sha256};

pub use cache::{Cache, free_memory};
pub use split::{TrainDataOptions, TrainValSets};
pub(crate) use split::{below, shuffle};

pub use super::dataset::ImageFault;
use super::dataset::{
    DatasetError, DatasetOptions, DatasetProblem, Entry, Held, ImageSource, Indexed, MAX_CLASSES, Place,
    Sample, Skipped, Source, Target, TargetKind, dimensions, open_dataset,
};
use super::decode::{DecodeOptions, Decoded};
use super::image::RgbImage;
use super::loader::BadSample;

/// Options of a [`TrainSet`].
#[derive(Debug, Clone)]
pub struct TrainSetOptions {
    /// Part, classes, folders.
    pub dataset: DatasetOptions,
    /// Limits and orientation. The default ignores EXIF orientation, as in timm.
    pub decode: DecodeOptions,
    /// Also read plain archives from beginning to end, with a shuffle buffer. For disks that seek slowly.
    pub sequential: bool,
    /// Number of encoded pictures of a stream in the shuffle buffer, at least 1.
    pub shuffle_buffer: usize,
}

impl Default for TrainSetOptions {
    fn default() -> Self {
        Self {
            dataset: DatasetOptions::default(),
            decode: DecodeOptions::timm(),
            sequential: false,
            shuffle_buffer: 2048,
        }
    }
}

/// Unusable training data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainDataError {
    /// The dataset cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Pictures without a class.
    #[error(
        "{}: {count} of {total} images have no label, first {first}\n  hint: give a folder of class folders, or a \
         table with a column `label`", path.display()
    )]
    NoLabels {
        /// The dataset.
        path: PathBuf,
        /// Number of pictures without a label.
        count: usize,
        /// Number of all pictures.
        total: usize,
        /// Name of the first one.
        first: String,
    },
    /// Targets of another kind than the task's.
    #[error(
        "{}: the target of {first} is {found}, expected {expected}\n  hint: lists of classes and numbers come from a \
         table", path.display()
    )]
    OtherTargets {
        /// The dataset.
        path: PathBuf,
        /// Name of the first such picture.
        first: String,
        /// The kind of its target.
        found: TargetKind,
        /// The kind that the task needs.
        expected: TargetKind,
    },
    /// No picture has a class.
    #[error("{}: no image has a class", path.display())]
    NoClasses {
        /// The dataset.
        path: PathBuf,
    },
    /// A picture with another number of values than the first.
    #[error("{}: {name} has {found} values, expected {expected}", path.display())]
    Values {
        /// The dataset.
        path: PathBuf,
        /// The picture.
        name: String,
        /// Number of its values.
        found: usize,
        /// Number of the values of the first picture.
        expected: usize,
    },
    /// Validation pictures with other values than the training pictures.
    #[error(
        "{}: the values are {}, expected {} as the training images have", path.display(), listed(found),
        listed(expected)
    )]
    ValValues {
        /// The validation dataset.
        path: PathBuf,
        /// Names of its values.
        found: Vec<String>,
        /// Names of the training pictures' values.
        expected: Vec<String>,
    },
    /// Only one class.
    #[error("{}: every image is of class `{class}`\n  hint: training wants two classes at least", path.display())]
    OneClass {
        /// The dataset.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// Class numbers without a picture.
    #[error(
        "{}: {} of {total} classes have no training image: {}\n  hint: class numbers begin at 0 and have \
         no gaps; give the number of classes to keep the empty ones", path.display(), empty.len(), listed(empty)
    )]
    EmptyClasses {
        /// The dataset.
        path: PathBuf,
        /// Numbers without a picture.
        empty: Vec<String>,
        /// Number of all classes.
        total: usize,
    },
    /// Validation pictures of classes that training lacks.
    #[error(
        "{}: {} that the training images do not have: {}\n  hint: classes are matched by name; the training images \
         have {}", path.display(), classes_in_words(unknown.len()), listed(unknown), listed(known)
    )]
    ValClasses {
        /// The validation dataset.
        path: PathBuf,
        /// Classes that only validation images have.
        unknown: Vec<String>,
        /// Classes of the training images.
        known: Vec<String>,
    },
    /// An invalid option.
    #[error("training data: `{field}` is {found}, expected {expected}")]
    Option {
        /// Its name.
        field: &'static str,
        /// Its value.
        found: String,
        /// Valid values.
        expected: &'static str,
    },
    /// The requested cache is larger than the free memory.
    #[error(
        "{}: {images} decoded images need about {need} MiB, of which {free} MiB are free\n  hint: cache \
         = \"auto\" keeps them only if they fit", path.display()
    )]
    CacheTooLarge {
        /// The dataset.
        path: PathBuf,
        /// Number of pictures to keep.
        images: usize,
        /// Mebibytes needed.
        need: u64,
        /// Mebibytes free.
        free: u64,
    },
}

fn classes_in_words(count: usize) -> String {
    if count == 1 { "a class".into() } else { format!("{count} classes") }
}

fn listed(names: &[String]) -> String {
    let mut text = names.iter().take(10).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 10 {
        text.push_str(&format!(" and {} more", names.len() - 10));
    }
    text
}

/// One opened dataset of known length. Pictures have indexes from 0.
pub struct TrainSet {
    path: PathBuf,
    classes: Vec<String>,
    indexed: Indexed,
    decode: DecodeOptions,
    shuffle_buffer: usize,
    /// Pictures decoded so far, if they are kept.
    cache: Option<Vec<OnceLock<Arc<RgbImage>>>>,
    /// Faults of files that were read nevertheless, by index.
    faults: Mutex<BTreeMap<u32, String>>,
}

impl TrainSet {
    /// Opens any kind of dataset; see [`open_dataset`] for the kinds. Reads names and labels, not pictures.
    ///
    /// # Errors
    /// [`TrainDataError`] if it cannot be read, or an option is invalid.
    pub fn open(path: impl AsRef<Path>, options: &TrainSetOptions) -> Result<Self, TrainDataError> {
        let path = path.as_ref();
        check_buffer(options)?;
        let source = open_dataset(path, &options.dataset)?;
        Self::of(path, source, options)
    }

    /// A dataset of your own, called `name` in records and messages. Its samples are read once, in order; pictures that
    /// are not files stay in memory as the source gives them. `options.dataset` is not used.
    ///
    /// # Errors
    /// As [`open`](Self::open), and those of the source.
    pub fn from_source(
        name: impl AsRef<Path>,
        source: Box<dyn Source>,
        options: &TrainSetOptions,
    ) -> Result<Self, TrainDataError> {
        check_buffer(options)?;
        Self::of(name.as_ref(), source, options)
    }

    fn of(path: &Path, source: Box<dyn Source>, options: &TrainSetOptions) -> Result<Self, TrainDataError> {
        let indexed = source.into_indexed(options.sequential)?;
        // Tables with numeric labels have no class names.
        let targets = indexed.entries.iter().filter_map(|entry| entry.target.as_ref());
        let numbers = targets.map(Target::outputs).max().unwrap_or(0);
        if numbers > MAX_CLASSES {
            let (found, limit) = (numbers as u64, MAX_CLASSES as u64);
            return Err(DatasetProblem::TooLarge { what: "classes".into(), found, limit }.at(path).into());
        }
        let mut classes = indexed.classes.clone();
        classes.extend((classes.len()..numbers).map(|number| number.to_string()));
        Ok(Self {
            path: path.to_path_buf(),
            classes,
            indexed,
            decode: options.decode.clone(),
            shuffle_buffer: options.shuffle_buffer,
            cache: None,
            faults: Mutex::default(),
        })
    }

    /// The same pictures without classes and labels.
    #[must_use]
    pub fn without_targets(mut self) -> Self {
        self.classes.clear();
        self.indexed.classes.clear();
        self.indexed.entries.iter_mut().for_each(|entry| entry.target = Some(Target::Nothing));
        self
    }

    /// The opened path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The class names, in the order of the labels; of numbers, the names of the values.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Entries that were left out.
    pub fn skipped(&self) -> &Skipped {
        &self.indexed.skipped
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.indexed.entries.len()
    }

    /// Whether there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of a picture.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len). So do the other methods with an index.
    pub fn name(&self, index: u32) -> &str {
        &self.entry(index).name
    }

    /// A picture's class, if its target is one class.
    pub fn label(&self, index: u32) -> Option<usize> {
        self.entry(index).label()
    }

    /// What a picture is labelled with, if known.
    pub fn target(&self, index: u32) -> Option<&Target> {
        self.entry(index).target.as_ref()
    }

    /// Stored size of a picture in bytes.
    pub fn size(&self, index: u32) -> u64 {
        self.indexed.size(index as usize)
    }

    /// The file of a picture, if the file holds nothing else.
    pub fn file(&self, index: u32) -> Option<&Path> {
        match &self.entry(index).place {
            Place::File(path) => Some(path),
            _ => None,
        }
    }

    /// Whether pictures can only be read in order.
    pub fn is_stream(&self) -> bool {
        self.indexed.is_stream()
    }

    /// Number of encoded pictures of a stream in the shuffle buffer.
    pub(crate) fn shuffle_buffer(&self) -> usize {
        self.shuffle_buffer
    }

    /// A stream from its beginning; its k-th sample is picture k. `None` if pictures can be read in any order.
    ///
    /// # Errors
    /// [`DatasetError`] if it cannot be opened.
    pub(crate) fn stream(&self) -> Result<Option<Box<dyn Source>>, DatasetError> {
        self.indexed.stream()
    }

    /// A decoded picture, from the cache if it is there. For a stream, uncached pictures are read from the
    /// beginning.
    ///
    /// # Errors
    /// [`ImageFault`].
    pub fn image(&self, index: u32) -> Result<Arc<RgbImage>, ImageFault> {
        match self.kept(index) {
            Some(image) => Ok(image),
            None => self.decoded(index, self.raw(index)?),
        }
    }

    /// A picture as stored, usually encoded. Does not use the cache.
    ///
    /// # Errors
    /// [`ImageFault::Broken`] if the dataset can no longer be read.
    pub fn raw(&self, index: u32) -> Result<ImageSource, ImageFault> {
        self.indexed.image(index as usize).map_err(|error| ImageFault::Broken(Arc::new(error)))
    }

    /// Decodes `image`, and caches it if the set has a cache.
    pub(crate) fn decoded(&self, index: u32, image: ImageSource) -> Result<Arc<RgbImage>, ImageFault> {
        if let Some(kept) = self.kept(index) {
            return Ok(kept);
        }
        let Decoded { image, notes } = image.decode_noting(&self.decode).map_err(ImageFault::Bad)?;
        if !notes.is_empty() {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            faults.entry(index).or_insert_with(|| notes.join("; "));
        }
        let image = Arc::new(image);
        if let Some(cache) = &self.cache {
            // Another thread may have stored the same picture first.
            let _ = cache[index as usize].set(Arc::clone(&image));
        }
        Ok(image)
    }

    /// Pictures read so far whose files have faults, in the order of the set.
    pub fn faults(&self) -> Vec<BadSample> {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = |(&index, reason): (&u32, &String)| BadSample {
            name: self.name(index).into(),
            reason: reason.clone(),
        };
        faults.iter().map(fault).collect()
    }

    /// The picture, if it is cached.
    pub(crate) fn kept(&self, index: u32) -> Option<Arc<RgbImage>> {
        self.cache.as_ref()?[index as usize].get().cloned()
    }

    /// Whether decoded pictures are cached.
    pub fn is_cached(&self) -> bool {
        self.cache.is_some()
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.indexed.entries[index as usize]
    }
}

fn check_buffer(options: &TrainSetOptions) -> Result<(), TrainDataError> {
    let (field, found) = ("shuffle_buffer", "0".into());
    match options.shuffle_buffer {
        0 => Err(TrainDataError::Option { field, found, expected: "at least 1" }),
        _ => Ok(()),
    }
}

impl std::fmt::Debug for TrainSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrainSet({}, {} images)", self.path.display(), self.len())
    }
}

/// One picture of a [`TrainSet`], not yet decoded.
#[derive(Debug)]
struct HeldBySet {
    set: Arc<TrainSet>,
    index: u32,
}

impl Held for HeldBySet {
    fn decode(&self) -> Result<Arc<RgbImage>, ImageFault> {
        self.set.image(self.index)
    }

    fn raw(&self) -> Result<ImageSource, ImageFault> {
        self.set.raw(self.index)
    }
}

/// Some pictures of a set, each once, in the set's order.
#[derive(Debug, Clone)]
pub struct Subset {
    set: Arc<TrainSet>,
    indexes: Arc<Vec<u32>>,
}

impl Subset {
    /// The pictures with these indexes; the constructor sorts them.
    ///
    /// # Panics
    /// If an index is not below the set's length.
    pub fn new(set: Arc<TrainSet>, mut indexes: Vec<u32>) -> Self {
        indexes.sort_unstable();
        indexes.dedup();
        assert!(indexes.last().is_none_or(|&last| (last as usize) < set.len()), "an index of the set");
        Self { set, indexes: Arc::new(indexes) }
    }

    /// All of a set.
    pub fn all(set: Arc<TrainSet>) -> Self {
        // Datasets are limited to 50 million pictures.
        let count = set.len() as u32;
        Self::new(set, (0..count).collect())
    }

    /// The set.
    pub fn set(&self) -> &Arc<TrainSet> {
        &self.set
    }

    /// Indexes into the set, ascending.
    pub fn indexes(&self) -> &[u32] {
        &self.indexes
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.indexes.len()
    }

    /// Whether there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    /// Number of pictures per class of the set. A picture with several classes counts for each.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.set.classes().len()];
        for target in self.indexes.iter().filter_map(|&index| self.set.target(index)) {
            target.class_indexes().iter().for_each(|&class| counts[class] += 1);
        }
        counts
    }

    /// SHA-256, in hex, of the number of classes and of every picture's name, target and size. It is equal for equal
    /// data at any place: names are relative to the dataset. The content is not read.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let root = self.set.path().display().to_string();
        for class in self.set.classes() {
            hash.update(class.as_bytes());
            hash.update([0]);
        }
        for &index in self.indexes() {
            let name = self.set.name(index);
            hash.update(name.strip_prefix(&root).unwrap_or(name).as_bytes());
            hash.update([0]);
            hash_target(&mut hash, self.set.target(index));
            hash.update(self.set.size(index).to_le_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The pictures in order, each once, for [`Loader`](super::Loader).
    ///
    /// # Errors
    /// [`DatasetError`] if a stream cannot be opened.
    pub fn source(&self) -> Result<Box<dyn Source>, DatasetError> {
        let stream = self.set.stream()?;
        Ok(Box::new(SubsetSource { subset: self.clone(), stream, read: 0, next: 0 }))
    }
}

/// One class enters as its number alone. Other kinds begin with a number that no class has.
fn hash_target(hash: &mut Sha256, target: Option<&Target>) {
    let mut number = |number: u64| hash.update(number.to_le_bytes());
    match target {
        None => number(u64::MAX),
        Some(Target::Class(class)) => number(*class as u64),
        Some(Target::Classes(classes)) => {
            number(u64::MAX - 1);
            number(classes.len() as u64);
            classes.iter().for_each(|class| number(*class as u64));
        }
        Some(Target::Values(values)) => {
            number(u64::MAX - 2);
            number(values.len() as u64);
            values.iter().for_each(|value| number(u64::from(value.to_bits())));
        }
        Some(Target::Nothing) => number(u64::MAX - 3),
    }
}

/// See [`Subset::source`].
struct SubsetSource {
    subset: Subset,
    stream: Option<Box<dyn Source>>,
    /// Samples of the stream read so far.
    read: u32,
    /// Place in the subset.
    next: usize,
}

impl Source for SubsetSource {
    fn classes(&self) -> &[String] {
        self.subset.set.classes()
    }

    fn count(&self) -> Option<usize> {
        Some(self.subset.len())
    }

    fn skipped(&self) -> &Skipped {
        self.subset.set.skipped()
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        let Some(&index) = self.subset.indexes.get(self.next) else { return Ok(None) };
        self.next += 1;
        let set = &self.subset.set;
        let held = HeldBySet { set: Arc::clone(set), index };
        let (name, target) = (set.name(index).to_owned(), set.target(index).cloned());
        let mut image = ImageSource::Held(Arc::new(held));
        if let Some(stream) = self.stream.as_mut().filter(|_| set.kept(index).is_none()) {
            while self.read <= index {
                let Some(sample) = stream.next_sample()? else { break };
                self.read += 1;
                if self.read > index && sample.name == name {
                    image = sample.image;
                }
            }
        }
        Ok(Some(Sample { name, target, image }))
    }
}
