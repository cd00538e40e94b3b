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

mod archive;
mod cifar;
mod class_file;
mod class_map;
mod containers;
pub(super) mod error;
mod folder;
mod foreign;
mod idx;
pub(super) mod options;
pub(super) mod sample;
mod shards;
pub(super) mod skipped;
pub(super) mod source;
mod table;
#[cfg_attr(not(feature = "tar"), path = "dataset/tar_absent.rs")]
mod tar;
pub(super) mod target;
#[cfg(feature = "tar")]
mod webdataset;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use class_map::ClassMap;
pub use error::{DatasetError, DatasetProblem};
pub use folder::{IMAGE_EXTENSIONS, list_images, natural_order};
pub use foreign::is_foreign;
pub use options::{ClassFolder, DatasetOptions, Split};
pub(crate) use sample::dimensions;
pub use sample::{Held, ImageFault, ImageSource, Sample};
use shards::Shards;
pub use skipped::Skipped;
pub(crate) use source::Place;
pub use source::{Entry, Indexed, Source};
pub use target::{Target, TargetKind};

use super::demo::DemoSet;

/// Largest encoded picture accepted from an archive, in bytes.
const MAX_MEMBER: u64 = 256 << 20;
/// Most samples listed in memory: files of a folder, rows of a table.
const MAX_SAMPLES: u64 = 50_000_000;
/// Most classes.
pub(crate) const MAX_CLASSES: usize = 1_000_000;

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
        let sample = Listed { name, target: None, path: path.to_path_buf() };
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
    target: Option<Target>,
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
        let sample = |Listed { name, target, path }| Sample { name, target, image: ImageSource::Path(path) };
        Ok(self.samples.next().map(sample))
    }
}
