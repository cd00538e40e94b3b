//! MNIST's idx pairs (`train-images-idx3-ubyte` and `train-labels-idx1-ubyte`), plain or gzipped.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::target::Target;
use super::{
    DatasetError, DatasetProblem, ImageSource, Sample, Skipped, Source, Split, open_maybe_gz, refuse_empty,
};
use crate::data::image::RgbImage;

/// The magic number: bytes (0x08) in one or three dimensions.
const LABELS: [u8; 4] = [0, 0, 8, 1];
const IMAGES: [u8; 4] = [0, 0, 8, 3];
const MAX_SIDE: u32 = 4096;
const MAX_COUNT: u32 = 100_000_000;

pub(super) fn is_images(head: &[u8]) -> bool {
    head.starts_with(&IMAGES)
}

/// The file of images in a folder of idx files; `None` for other folders. Without a split, the test images.
pub(super) fn images_in(folder: &Path, split: Option<Split>) -> Result<Option<PathBuf>, DatasetError> {
    let entries = std::fs::read_dir(folder).map_err(|error| DatasetProblem::from(error).at(folder))?;
    let name = |path: &PathBuf| {
        path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
    };
    let is_images = |path: &PathBuf| {
        let name = name(path);
        name.contains("images") && name.contains("idx3-ubyte")
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_images).collect();
    found.sort();
    if found.is_empty() {
        return Ok(None);
    }
    let is_train = |path: &&PathBuf| name(path).contains("train");
    let wanted = match split {
        Some(Split::Train) => found.iter().find(is_train),
        _ => found.iter().find(|path| !is_train(path)),
    };
    match wanted.or(found.first().filter(|_| split.is_none())) {
        Some(path) => Ok(Some(path.clone())),
        None => {
            let found_name = format!("no split `{}`", split.map_or("test", Split::name));
            let available = found.iter().map(name).collect();
            Err(DatasetProblem::Split { found: found_name, available }.at(folder))
        }
    }
}

/// The parts whose images are in the folder.
pub(super) fn splits_in(folder: &Path) -> Result<Vec<Split>, DatasetError> {
    let mut splits = Vec::new();
    for split in [Split::Train, Split::Test] {
        match images_in(folder, Some(split)) {
            Ok(Some(_)) => splits.push(split),
            Ok(None) | Err(DatasetError { problem: DatasetProblem::Split { .. }, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(splits)
}

pub(super) struct IdxSource {
    path: PathBuf,
    images: Box<dyn Read + Send>,
    labels: Option<(PathBuf, Box<dyn Read + Send>)>,
    count: u32,
    rows: u32,
    columns: u32,
    next: u32,
    classes: Vec<String>,
    skipped: Skipped,
}

impl IdxSource {
    /// Opens a file of images, and the file of labels beside it if there is one.
    pub(super) fn open(path: &Path) -> Result<Self, DatasetError> {
        let (mut images, head) = open_idx(path, IMAGES)?;
        let [count, rows, columns] = [head, big_endian(path, &mut images)?, big_endian(path, &mut images)?];
        if rows == 0 || columns == 0 || rows > MAX_SIDE || columns > MAX_SIDE || count > MAX_COUNT {
            let problem =
                format!("{count} images of {columns} x {rows} pixels, expected sides from 1 to {MAX_SIDE}");
            return Err(DatasetProblem::Damaged(problem).at(path));
        }
        let labels = labels_beside(path).filter(|labels| labels.exists());
        let labels = match labels {
            Some(file) => {
                let (reader, label_count) = open_idx(&file, LABELS)?;
                if label_count != count {
                    let problem = format!("{label_count} labels for {count} images of {}", path.display());
                    return Err(DatasetProblem::Damaged(problem).at(file));
                }
                Some((file, reader))
            }
            None => None,
        };
        let classes =
            if labels.is_some() { (0..10).map(|digit| digit.to_string()).collect() } else { Vec::new() };
        let path = path.to_path_buf();
        Ok(Self { path, images, labels, count, rows, columns, next: 0, classes, skipped: Skipped::default() })
    }
}

impl Source for IdxSource {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn count(&self) -> Option<usize> {
        Some(self.count as usize)
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        if self.next == self.count {
            return Ok(None);
        }
        let mut grey = vec![0; self.rows as usize * self.columns as usize];
        self.images.read_exact(&mut grey).map_err(|error| ends(&self.path, self.next, self.count, &error))?;
        let label = match &mut self.labels {
            Some((path, labels)) => {
                let mut label = [0];
                labels.read_exact(&mut label).map_err(|error| ends(path, self.next, self.count, &error))?;
                Some(usize::from(label[0]))
            }
            None => None,
        };
        let image = RgbImage::from_grey(self.columns, self.rows, &grey)
            .map_err(|error| DatasetProblem::Damaged(error.to_string()).at(&self.path))?;
        let name = format!("{}#{}", self.path.display(), self.next);
        self.next += 1;
        Ok(Some(Sample { name, target: label.map(Target::Class), image: ImageSource::Pixels(image) }))
    }
}

fn ends(path: &Path, at: u32, count: u32, error: &std::io::Error) -> DatasetError {
    DatasetProblem::Damaged(format!("record {at} of {count}: {error}")).at(path)
}

/// A reader positioned after magic number and count, and the count.
fn open_idx(path: &Path, expected: [u8; 4]) -> Result<(Box<dyn Read + Send>, u32), DatasetError> {
    refuse_empty(path)?;
    let mut reader = open_maybe_gz(path).map_err(|error| DatasetProblem::from(error).at(path))?;
    let magic = big_endian(path, &mut reader)?.to_be_bytes();
    if magic != expected {
        let problem = format!("begins with {magic:02x?}, expected {expected:02x?}");
        return Err(DatasetProblem::Damaged(problem).at(path));
    }
    let count = big_endian(path, &mut reader)?;
    Ok((reader, count))
}

fn big_endian(path: &Path, reader: &mut dyn Read) -> Result<u32, DatasetError> {
    let mut bytes = [0; 4];
    reader
        .read_exact(&mut bytes)
        .map_err(|error| DatasetProblem::Damaged(format!("header: {error}")).at(path))?;
    Ok(u32::from_be_bytes(bytes))
}

/// `train-images-idx3-ubyte.gz` -> `train-labels-idx1-ubyte.gz`.
fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let labels = name.replace("images", "labels").replace("idx3", "idx1");
    (labels != name).then(|| images.with_file_name(labels))
}
