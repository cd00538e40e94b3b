//! Labelled pictures from a folder, a table, an archive or a binary file, as a stream.
//!
//! [`open_dataset`] recognises the kind by content:
//!
//! | given | pictures | classes |
//! |---|---|---|
//! | folder with class folders | all image files below, in timm's natural order | the folder of the image |
//! | folder of images, or one image | the images | none |
//! | `.csv`, `.tsv`, `.txt` | a column of paths; of the part wanted, where a column `split` names parts | a column of labels |
//! | `.tar`, `.tar.gz` of class folders | in archive order, never unpacked | the folder of the image |
//! | WebDataset `.tar`: `000.jpg` with `000.cls`, `.json` or `.txt` | in archive order | the companion's label |
//! | shards: folder of archives, `set-{000..009}.tar`, `set-*.tar` | shard by shard | as in one archive |
//! | CIFAR-10/100 binary: folder, `.bin`, `.tar.gz` | 32 x 32 pixels | `batches.meta.txt`, `fine_label_names.txt` |
//! | MNIST idx pair, also `.gz` | grey pixels | digits |
//! | `demo`, `demo:COUNT` | drawn by [`DemoSet`] | ten shapes |
//!
//! [`Source::into_indexed`] turns any of them into a list for reading in another order. [`splits_of`] lists the
//! parts.

mod cifar;
mod class_file;
mod class_map;
mod containers;
mod folder;
mod foreign;
mod idx;
mod indexed;
mod shards;
mod skipped;
mod table;
mod tar;
mod webdataset;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use class_map::ClassMap;
pub use folder::{IMAGE_EXTENSIONS, list_images, natural_order};
pub use foreign::is_foreign;
pub use indexed::{Entry, Indexed};
pub(crate) use indexed::{Place, dimensions};
use shards::Shards;
pub use skipped::Skipped;

use super::decode::{self, DecodeOptions, Decoded};
use super::demo::DemoSet;
use super::image::RgbImage;
use super::train_set::Held;

/// One picture with its name and label.
#[derive(Debug, Clone)]
pub struct Sample {
    /// A path, an archive member, or file and number.
    pub name: String,
    /// Index of its class, if known.
    pub label: Option<usize>,
    /// The picture; encoded pictures are not yet decoded.
    pub image: ImageSource,
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
    /// A picture of a training set, which may be in its cache.
    Held(Held),
}

impl ImageSource {
    /// The decoded picture. A [`Held`](Self::Held) one is decoded by its set's options, not by `options`.
    ///
    /// # Errors
    /// What is wrong with the picture. The text names its file, if there is one.
    pub fn decode(self, options: &DecodeOptions) -> Result<RgbImage, String> {
        self.decode_noting(options).map(|decoded| decoded.image)
    }

    /// [`decode`](Self::decode) with notes on faults of the file. Notes on a [`Held`](Self::Held) picture stay in
    /// its set.
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode).
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

/// A dataset that is read once, in a fixed order.
pub trait Source: Send {
    /// The class names, in the order of the labels; empty if there are no labels or only numbers.
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

/// A part of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// `train`, `training`.
    Train,
    /// `val`, `valid`, `validation`, `eval`, `evaluation`.
    Val,
    /// `test`, `testing`.
    Test,
}

impl Split {
    /// The split of a folder with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" | "eval" | "evaluation" => Some(Self::Val),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }

    /// The usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// The folder of `a/b/c/picture.jpg` that names the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClassFolder {
    /// The innermost, `c`, as in timm.
    #[default]
    Innermost,
    /// The outermost below the root or split, `a`, as in torchvision's `ImageFolder`.
    Outermost,
}

/// How to read a dataset.
#[derive(Debug, Clone, Default)]
pub struct DatasetOptions {
    /// Class names and their numbers, for instance those of the model's training. Without a map, the class folders
    /// are numbered from 0 in natural order. Pictures of other classes are skipped.
    pub class_map: Option<ClassMap>,
    /// Base of a table's relative paths; by default the table's folder.
    pub image_dir: Option<PathBuf>,
    /// The wanted part, if there are several.
    pub split: Option<Split>,
    /// The folder that names the class.
    pub class_folder: ClassFolder,
    /// Side of the demo set's pictures in pixels; by default 224.
    pub demo_size: Option<u32>,
}

/// The dataset cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct DatasetError {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: DatasetProblem,
}

/// What is wrong with a dataset.
#[derive(Debug, thiserror::Error)]
pub enum DatasetProblem {
    /// It cannot be opened or read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Its kind is unknown.
    #[error(
        "not a dataset: {0}\n  hint: give a folder of class folders, a .csv or .tsv, a .tar, \
         CIFAR's or MNIST's binary files, or `demo`"
    )]
    Unknown(String),
    /// A known kind that is not supported.
    #[error("{what}, which is not read\n  hint: {hint}")]
    Foreign {
        /// What it is.
        what: &'static str,
        /// How to convert it.
        hint: &'static str,
    },
    /// An empty file.
    #[error("the file is empty")]
    Empty,
    /// No images in it.
    #[error("no images found{0}")]
    NoImages(String),
    /// Several splits, or not the requested one.
    #[error("{found}\n  hint: the splits present are {}; choose one", available.join(", "))]
    Split {
        /// The requested one.
        found: String,
        /// The splits present.
        available: Vec<String>,
    },
    /// Its content contradicts its format.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Larger than any sensible dataset of its kind.
    #[error("{what}: {found} is more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A row of a table is invalid.
    #[error("line {line}: {reason}")]
    Row {
        /// Line number, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A member of an archive is invalid.
    #[error("member `{name}`: {reason}")]
    Member {
        /// The member.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A WebDataset sample with more than one picture.
    #[error(
        "key `{key}`: several pictures, the second is `{second}`\n  hint: a sample is one picture and its label; a key \
         ends at the first dot of the file's name"
    )]
    SeveralImages {
        /// The common key of the sample's members.
        key: String,
        /// The second picture.
        second: String,
    },
    /// A shard of a range is missing.
    #[error(
        "{} is missing ({missing} of {of} shards are)\n  hint: check the range in braces, or fetch the shard again",
        first.display()
    )]
    MissingShard {
        /// The first missing one.
        first: PathBuf,
        /// How many are missing.
        missing: usize,
        /// How many the range names.
        of: usize,
    },
    /// No archive matches the pattern.
    #[error(
        "no .tar, .tar.gz or .tgz matches the pattern\n  \
        hint: `*` and `?` match parts of a file's name, not of a folder's"
    )]
    NoShards,
    /// The class map is invalid.
    #[error("class map: {0}")]
    ClassMap(String),
    /// The table's header has no column of paths.
    #[error(
        "no column of paths in the header: {}\n  hint: name it `file`, `path`, `image` or `filename`, or another of its \
         usual names",
        header.join(", ")
    )]
    Header {
        /// The names of the columns.
        header: Vec<String>,
    },
}

impl DatasetProblem {
    fn at(self, path: impl Into<PathBuf>) -> DatasetError {
        DatasetError { path: path.into(), problem: self }
    }
}

/// Largest encoded picture accepted from an archive, in bytes.
const MAX_MEMBER: u64 = 256 << 20;
/// Most samples listed in memory: files of a folder, rows of a table.
const MAX_SAMPLES: u64 = 50_000_000;
/// Most classes.
const MAX_CLASSES: usize = 1_000_000;

/// Opens a dataset of any kind listed in the [module](self).
///
/// # Errors
/// [`DatasetError`] with the file if its kind is unknown, or it is damaged or ambiguous.
pub fn open_dataset(
    path: impl AsRef<Path>,
    options: &DatasetOptions,
) -> Result<Box<dyn Source>, DatasetError> {
    let path = path.as_ref();
    if let Some(train_count) = demo_count(path)? {
        let size = options.demo_size.unwrap_or(224);
        return Ok(Box::new(DemoSet::part(size, train_count, options.split.unwrap_or(Split::Val))));
    }
    if let Some(shards) = Shards::of_pattern(path)? {
        return shards.open(options);
    }
    let kind = std::fs::metadata(path).map_err(|error| DatasetProblem::from(error).at(path))?;
    if kind.is_dir() {
        return open_folder(path, options);
    }
    refuse_empty(path)?;
    open_file(path, options)
}

/// The number of training pictures in `demo` or `demo:COUNT`, unless a file of that name exists.
fn demo_count(path: &Path) -> Result<Option<usize>, DatasetError> {
    let Some(rest) = path.to_str().and_then(|name| name.strip_prefix("demo")).filter(|_| !path.exists())
    else {
        return Ok(None);
    };
    if rest.is_empty() {
        return Ok(Some(DemoSet::TRAIN_COUNT));
    }
    let Some(count) = rest.strip_prefix(':') else { return Ok(None) };
    match count.parse() {
        Ok(count) if (1..=MAX_SAMPLES as usize).contains(&count) => Ok(Some(count)),
        _ => Err(DatasetProblem::Unknown(format!("want demo:COUNT, 1 to {MAX_SAMPLES}")).at(path)),
    }
}

/// The parts that a dataset says it has: folders called `train`, `val`, `test` and the like, at the top of a folder
/// or within an archive, the files of a binary set, or what a table's column `split` or `part` holds. Empty where all
/// pictures are in one part.
///
/// A single folder called `test` beside others is a class.
///
/// # Errors
/// [`DatasetError`] if the folder or archive cannot be read.
pub fn splits_of(path: impl AsRef<Path>) -> Result<Vec<Split>, DatasetError> {
    let path = path.as_ref();
    if demo_count(path)?.is_some() {
        return Ok(vec![Split::Train, Split::Val]);
    }
    if let Some(shards) = Shards::of_pattern(path)? {
        return sorted(shards.splits()?);
    }
    let kind = std::fs::metadata(path).map_err(|error| DatasetProblem::from(error).at(path))?;
    let splits = if kind.is_dir() {
        splits_in_folder(path)?
    } else if is_table(path) {
        refuse_empty(path)?;
        table::splits_in(path)?
    } else {
        let head = head(path).map_err(|error| DatasetProblem::from(error).at(path))?;
        if tar::is_tar(&head) { tar::splits_in(path)? } else { Vec::new() }
    };
    sorted(splits)
}

fn sorted(mut splits: Vec<Split>) -> Result<Vec<Split>, DatasetError> {
    splits.sort();
    splits.dedup();
    Ok(splits)
}

fn splits_in_folder(path: &Path) -> Result<Vec<Split>, DatasetError> {
    let found = [idx::splits_in(path)?, cifar::splits_in(path)];
    if let Some(found) = found.into_iter().find(|found| !found.is_empty()) {
        return Ok(found);
    }
    match Shards::in_folder(path)? {
        Some(shards) => shards.splits(),
        None => folder::splits_in(path),
    }
}

fn open_folder(path: &Path, options: &DatasetOptions) -> Result<Box<dyn Source>, DatasetError> {
    if let Some(images) = idx::images_in(path, options.split)? {
        return Ok(Box::new(idx::IdxSource::open(&images)?));
    }
    if let Some(source) = cifar::open_folder(path, options)? {
        return Ok(Box::new(source));
    }
    if let Some(problem) = containers::folder(path) {
        return Err(problem.at(path));
    }
    if let Some(shards) = Shards::in_folder(path)? {
        return shards.open(options);
    }
    Ok(Box::new(folder::open(path, options)?))
}

fn open_file(path: &Path, options: &DatasetOptions) -> Result<Box<dyn Source>, DatasetError> {
    if is_table(path) {
        return Ok(Box::new(table::open(path, options)?));
    }
    let head = head(path).map_err(|error| DatasetProblem::from(error).at(path))?;
    if idx::is_images(&head) {
        return Ok(Box::new(idx::IdxSource::open(path)?));
    }
    if tar::is_tar(&head) {
        return tar::open(path, options);
    }
    if cifar::is_batch(path) {
        return Ok(Box::new(cifar::open_batch(path, options)?));
    }
    if folder::is_image(path) || ::image::guess_format(&head).is_ok() {
        let name = path.display().to_string();
        let sample = Listed { name, label: None, path: path.to_path_buf() };
        return Ok(Box::new(ListSource::new(vec![sample], Vec::new(), Skipped::default())));
    }
    if head.is_empty() {
        return Err(DatasetProblem::Empty.at(path));
    }
    if let Some(problem) = containers::file(path, &head) {
        return Err(problem.at(path));
    }
    let begins = head[..head.len().min(16)].escape_ascii().to_string();
    Err(DatasetProblem::Unknown(format!("a file that begins with \"{begins}\"")).at(path))
}

fn is_table(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    matches!(extension.as_str(), "csv" | "tsv" | "txt")
}

fn refuse_empty(path: &Path) -> Result<(), DatasetError> {
    match std::fs::metadata(path) {
        Ok(file) if file.is_file() && file.len() == 0 => Err(DatasetProblem::Empty.at(path)),
        _ => Ok(()),
    }
}

/// The first 512 bytes, after decompression if the file is compressed.
fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    open_maybe_gz(path)?.take(512).read_to_end(&mut head)?;
    Ok(head)
}

fn open_maybe_gz(path: &Path) -> std::io::Result<Box<dyn Read + Send>> {
    let mut file = std::io::BufReader::new(File::open(path)?);
    let is_gz = std::io::BufRead::fill_buf(&mut file)?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_gz { Box::new(flate2::bufread::MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// One file of a list.
struct Listed {
    name: String,
    label: Option<usize>,
    path: PathBuf,
}

/// Files listed beforehand.
struct ListSource {
    samples: std::vec::IntoIter<Listed>,
    count: usize,
    classes: Vec<String>,
    skipped: Skipped,
}

impl ListSource {
    fn new(samples: Vec<Listed>, classes: Vec<String>, skipped: Skipped) -> Self {
        Self { count: samples.len(), samples: samples.into_iter(), classes, skipped }
    }
}

impl Source for ListSource {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn count(&self) -> Option<usize> {
        Some(self.count)
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        let sample = |Listed { name, label, path }| Sample { name, label, image: ImageSource::Path(path) };
        Ok(self.samples.next().map(sample))
    }
}
