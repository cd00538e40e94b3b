//! CIFAR-10 and CIFAR-100 in their binary form: records of one or two label bytes and 3 x 1024 pixel bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use super::{DatasetError, DatasetOptions, DatasetProblem, ImageSource, Sample, Skipped, Source, Split};
use crate::data::image::RgbImage;

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;
/// Larger than any batch that exists (CIFAR-100's training file has 154 MB).
const MAX_BATCH: u64 = 1 << 30;
const CIFAR10_CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cifar10,
    Cifar100,
}

impl Kind {
    /// Label bytes before the pixels; the last one counts (CIFAR-100 stores the coarse label first).
    fn label_bytes(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }

    fn class_count(self) -> usize {
        match self {
            Self::Cifar10 => 10,
            Self::Cifar100 => 100,
        }
    }

    fn record(self) -> usize {
        self.label_bytes() + 3 * PIXELS
    }

    fn class_file(self) -> &'static str {
        match self {
            Self::Cifar10 => "batches.meta.txt",
            Self::Cifar100 => "fine_label_names.txt",
        }
    }

    fn default_classes(self) -> Vec<String> {
        match self {
            Self::Cifar10 => CIFAR10_CLASSES.map(String::from).to_vec(),
            Self::Cifar100 => (0..100).map(|class| class.to_string()).collect(),
        }
    }
}

/// The kind and split of a batch file, by its name.
fn batch_kind(name: &str) -> Option<(Kind, Split)> {
    match name {
        "data_batch_1.bin" | "data_batch_2.bin" | "data_batch_3.bin" | "data_batch_4.bin"
        | "data_batch_5.bin" => Some((Kind::Cifar10, Split::Train)),
        "test_batch.bin" => Some((Kind::Cifar10, Split::Test)),
        "train.bin" => Some((Kind::Cifar100, Split::Train)),
        "test.bin" => Some((Kind::Cifar100, Split::Test)),
        _ => None,
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether the file has the name of a CIFAR batch.
pub(super) fn is_batch(path: &Path) -> bool {
    batch_kind(&file_name(path)).is_some()
}

/// Whether an archive member belongs to CIFAR.
pub(super) fn is_member(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or_default();
    batch_kind(name).is_some()
}

/// Whether an archive member lists CIFAR's classes.
pub(super) fn is_class_file(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or_default();
    [Kind::Cifar10, Kind::Cifar100].iter().any(|kind| kind.class_file() == name)
}

/// The test part, unless training data are requested.
fn wanted_split(options: &DatasetOptions) -> Split {
    if options.split == Some(Split::Train) { Split::Train } else { Split::Test }
}

/// The part of a file or archive member.
pub(super) fn split_of(name: &str) -> Option<Split> {
    batch_kind(name.rsplit('/').next().unwrap_or_default()).map(|(_, split)| split)
}

/// The parts whose batches are in the folder.
pub(super) fn splits_in(path: &Path) -> Vec<Split> {
    let inside = |folder: PathBuf| -> Vec<Split> {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| split_of(&name.to_string_lossy())).collect()
    };
    folders(path).map(inside).into_iter().find(|found| !found.is_empty()).unwrap_or_default()
}

/// Possible places of the batches: here, or in the folder that the official archive makes.
fn folders(path: &Path) -> [PathBuf; 3] {
    [path.to_path_buf(), path.join("cifar-10-batches-bin"), path.join("cifar-100-binary")]
}

/// Reads the folder, or the official archive's folder inside it, if it has batches.
pub(super) fn open_folder(
    path: &Path,
    options: &DatasetOptions,
) -> Result<Option<CifarSource>, DatasetError> {
    for folder in folders(path) {
        let mut batches = Vec::new();
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if let Some((kind, split)) = batch_kind(&entry.file_name().to_string_lossy()) {
                batches.push((kind, split, entry.path()));
            }
        }
        if let Some(&(kind, ..)) = batches.first() {
            let split = wanted_split(options);
            batches.retain(|&(found, in_split, _)| (found, in_split) == (kind, split));
            batches.sort_by(|a, b| a.2.cmp(&b.2));
            let files: Vec<PathBuf> = batches.into_iter().map(|(.., path)| path).collect();
            let names = std::fs::read_to_string(folder.join(kind.class_file())).unwrap_or_default();
            return CifarSource::open(&folder, kind, files, &names).map(Some);
        }
    }
    Ok(None)
}

/// Reads one batch file.
pub(super) fn open_batch(path: &Path, _options: &DatasetOptions) -> Result<CifarSource, DatasetError> {
    let Some((kind, _)) = batch_kind(&file_name(path)) else {
        return Err(DatasetProblem::Unknown("not a batch of CIFAR".into()).at(path));
    };
    let names = std::fs::read_to_string(path.with_file_name(kind.class_file())).unwrap_or_default();
    CifarSource::open(path, kind, vec![path.to_path_buf()], &names)
}

struct Batch {
    name: PathBuf,
    reader: Box<dyn Read + Send>,
    records: u64,
}

/// The records of one or more batches, in order.
pub(super) struct CifarSource {
    kind: Kind,
    batches: VecDeque<Batch>,
    next: u64,
    count: u64,
    classes: Vec<String>,
    skipped: Skipped,
}

impl CifarSource {
    fn open(root: &Path, kind: Kind, files: Vec<PathBuf>, names: &str) -> Result<Self, DatasetError> {
        let mut batches = Vec::new();
        for path in files {
            let open = || -> std::io::Result<(u64, BufReader<File>)> {
                let file = File::open(&path)?;
                Ok((file.metadata()?.len(), BufReader::new(file)))
            };
            let (size, reader) = open().map_err(|error| DatasetProblem::from(error).at(&path))?;
            let records = records(kind, size).map_err(|problem| problem.at(&path))?;
            batches.push(Batch { name: path, reader: Box::new(reader), records });
        }
        Self::new(root, kind, batches, names)
    }

    /// Batches read from an archive: member name and content, with the content of the class file.
    pub(super) fn from_members(
        archive: &Path,
        members: Vec<(String, Vec<u8>)>,
        names: &str,
        options: &DatasetOptions,
    ) -> Result<Self, DatasetError> {
        let kind_of = |name: &str| batch_kind(name.rsplit('/').next().unwrap_or_default());
        let kind = members.iter().find_map(|(name, _)| kind_of(name)).map_or(Kind::Cifar10, |(kind, _)| kind);
        let mut batches = Vec::new();
        for (name, content) in members {
            if kind_of(&name) != Some((kind, wanted_split(options))) {
                continue;
            }
            let name = archive.join(name);
            let records = records(kind, content.len() as u64).map_err(|problem| problem.at(&name))?;
            batches.push(Batch { name, reader: Box::new(Cursor::new(content)), records });
        }
        batches.sort_by(|a, b| a.name.cmp(&b.name));
        Self::new(archive, kind, batches, names)
    }

    fn new(root: &Path, kind: Kind, batches: Vec<Batch>, names: &str) -> Result<Self, DatasetError> {
        if batches.is_empty() {
            return Err(DatasetProblem::NoImages(" of the split asked for".into()).at(root));
        }
        let names: Vec<String> =
            names.lines().map(str::trim).filter(|n| !n.is_empty()).map(String::from).collect();
        let classes = if names.len() == kind.class_count() { names } else { kind.default_classes() };
        let count = batches.iter().map(|batch| batch.records).sum();
        Ok(Self { kind, batches: batches.into(), next: 0, count, classes, skipped: Skipped::default() })
    }

    fn record(&mut self) -> Result<Option<Sample>, DatasetError> {
        while self.batches.front().is_some_and(|batch| batch.records == self.next) {
            self.batches.pop_front();
            self.next = 0;
        }
        let Some(batch) = self.batches.front_mut() else { return Ok(None) };
        let at =
            |what: String| DatasetProblem::Damaged(format!("record {}: {what}", self.next)).at(&batch.name);
        let mut record = vec![0; self.kind.record()];
        batch.reader.read_exact(&mut record).map_err(|error| at(error.to_string()))?;
        let (labels, planes) = record.split_at(self.kind.label_bytes());
        let label = usize::from(labels[labels.len() - 1]);
        if label >= self.kind.class_count() {
            return Err(at(format!("label {label}, expected less than {}", self.kind.class_count())));
        }
        let pixels =
            (0..PIXELS).flat_map(|at| [planes[at], planes[PIXELS + at], planes[2 * PIXELS + at]]).collect();
        let image = RgbImage::new(SIDE as u32, SIDE as u32, pixels).map_err(|error| at(error.to_string()))?;
        let name = format!("{}#{}", batch.name.display(), self.next);
        self.next += 1;
        Ok(Some(Sample { name, target: Some(label.into()), image: ImageSource::Pixels(image) }))
    }
}

fn records(kind: Kind, size: u64) -> Result<u64, DatasetProblem> {
    if size == 0 {
        return Err(DatasetProblem::Empty);
    }
    if size > MAX_BATCH {
        return Err(DatasetProblem::TooLarge {
            what: "bytes of a batch".into(),
            found: size,
            limit: MAX_BATCH,
        });
    }
    let record = kind.record() as u64;
    if !size.is_multiple_of(record) {
        return Err(DatasetProblem::Damaged(format!(
            "{size} bytes are not a whole number of {record}-byte records"
        )));
    }
    Ok(size / record)
}

impl Source for CifarSource {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn count(&self) -> Option<usize> {
        usize::try_from(self.count).ok()
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        self.record()
    }
}
