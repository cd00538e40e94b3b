//! Tars of class folders or WebDataset samples, read as a stream and never unpacked. Several are read as one.
//!
//! One pass over the headers finds the classes and reads the labels of samples. A second pass returns the pictures.
//! The archive cannot name a place on this machine: absolute paths, paths with `..`, links and devices are skipped
//! and reported. Sizes of members and of their long names are checked before reading.

mod walk;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::walk::{Member, Picture, Walk, checksum_fits};
use super::archive::Archive;
use super::cifar::{self, CifarSource};
use super::folder::{UNKNOWN_CLASS, class_name, none_of_the_classes};
use super::foreign::is_foreign;
use super::source::Store;
use super::webdataset::{Companions, Kind, Labels, MAX_COMPANION, member_name};
use super::{
    ClassMap, DatasetError, DatasetOptions, DatasetProblem, Entry, ImageSource, Indexed, MAX_CLASSES,
    MAX_MEMBER, MAX_SAMPLES, Place, Sample, Skipped, Source, Split, Target, TargetKind, refuse_empty,
};

const BLOCK: usize = 512;
const NO_LABEL: &str = "without a label";
const REFUSED: &str = "that archives may not hold, or of the system";
/// Longest member name, pax record or other metadata, in bytes.
const MAX_METADATA: u64 = 64 << 10;

/// Whether a file that begins with these bytes (after decompression) is a tar: the magic, or a correct checksum.
pub(super) fn is_tar(head: &[u8]) -> bool {
    head.first_chunk().is_some_and(|block: &[u8; BLOCK]| checksum_fits(block) && block[0] != 0)
}

pub(super) fn open(path: &Path, options: &DatasetOptions) -> Result<Box<dyn Source>, DatasetError> {
    open_shards(path, vec![path.to_path_buf()], options, Skipped::default())
}

/// Several archives, one after the other, as one dataset. `given` is their common name.
pub(super) fn open_shards(
    given: &Path,
    shards: Vec<PathBuf>,
    options: &DatasetOptions,
    mut skipped: Skipped,
) -> Result<Box<dyn Source>, DatasetError> {
    let scan = Scan::of(given, &shards, options)?;
    if let [path] = shards.as_slice()
        && scan.is_cifar
    {
        return Ok(Box::new(open_cifar(path, options)?));
    }
    if scan.count == 0 {
        let hint = match scan.skipped.first.first() {
            Some(first) => format!("; {} were skipped, first {first}", scan.skipped.count),
            None => " in the archive".into(),
        };
        return Err(DatasetProblem::NoImages(hint).at(given));
    }
    skipped.merge(&scan.skipped);
    Ok(Box::new(TarSource::open(given, shards, options, Scan { skipped, ..scan })?))
}

/// The parts that the pictures' folders, or CIFAR's batches, are named after.
pub(super) fn splits_in(path: &Path) -> Result<Vec<Split>, DatasetError> {
    let mut splits = BTreeSet::new();
    let mut walk = Walk::open(path)?;
    while let Some(member) = walk.next()? {
        if member.is_file() && cifar::is_member(&member.name) {
            splits.extend(cifar::split_of(&member.name));
        } else if matches!(member.picture(), Picture::Yes) {
            match split_of(&member.name) {
                Some((split, _)) => _ = splits.insert(split),
                // Pictures outside any part: then there are no parts.
                None => return Ok(Vec::new()),
            }
        }
    }
    Ok(splits.into_iter().collect())
}

/// The result of a pass over the headers.
#[derive(Default)]
struct Scan {
    /// Classes of the pictures in the wanted split.
    classes: BTreeSet<String>,
    count: u64,
    is_cifar: bool,
    is_compressed: bool,
    labels: Option<Labels>,
    skipped: Skipped,
    splits: BTreeSet<&'static str>,
    splitless: bool,
}

impl Scan {
    fn of(given: &Path, shards: &[PathBuf], options: &DatasetOptions) -> Result<Self, DatasetError> {
        let (mut scan, mut companions) = (Self::default(), Companions::default());
        for shard in shards {
            refuse_empty(shard)?;
            scan.shard(shard, options, &mut companions)?;
            companions.end_shard(shard)?;
        }
        scan.check_splits(given, options)?;
        if !scan.is_cifar {
            scan.labels = companions.finish(options, scan.classes.len(), &mut scan.skipped)?;
        }
        Ok(scan)
    }

    fn shard(
        &mut self,
        path: &Path,
        options: &DatasetOptions,
        companions: &mut Companions,
    ) -> Result<(), DatasetError> {
        let mut walk = Walk::open(path)?;
        self.is_compressed |= walk.length.is_none();
        while let Some(member) = walk.next()? {
            self.is_cifar |= cifar::is_member(&member.name) && member.is_file();
            match member.picture() {
                Picture::Yes => {}
                Picture::No => {
                    if options.targets != TargetKind::Nothing {
                        read_companion(&mut walk, &member, companions)?;
                    }
                    continue;
                }
                Picture::Refused(reason) => {
                    self.skipped.add(REFUSED, member.name.escape_debug(), reason);
                    continue;
                }
            }
            self.picture(path, &member.name, options)?;
            if in_split(&member.name, options.split) && options.targets != TargetKind::Nothing {
                companions.image(path, &member.name);
            }
        }
        Ok(())
    }

    fn picture(&mut self, path: &Path, name: &str, options: &DatasetOptions) -> Result<(), DatasetError> {
        match split_of(name) {
            Some((split, _)) => _ = self.splits.insert(split.name()),
            None => self.splitless = true,
        }
        if !in_split(name, options.split) {
            return Ok(());
        }
        self.count += 1;
        self.classes.extend(class_of(name, options));
        if self.classes.len() > MAX_CLASSES || self.count > MAX_SAMPLES {
            let (what, found) = ("pictures or classes".to_string(), self.count);
            return Err(DatasetProblem::TooLarge { what, found, limit: MAX_SAMPLES }.at(path));
        }
        Ok(())
    }

    fn check_splits(&self, given: &Path, options: &DatasetOptions) -> Result<(), DatasetError> {
        let available: Vec<String> = self.splits.iter().copied().map(String::from).collect();
        let found = match options.split {
            None if available.len() > 1 && !self.splitless => "several splits".to_string(),
            Some(split) if !available.is_empty() && !self.splits.contains(split.name()) => {
                format!("no split `{}`", split.name())
            }
            _ => return Ok(()),
        };
        Err(DatasetProblem::Split { found, available }.at(given))
    }
}

/// Reads a member that may be a sample's label.
fn read_companion(walk: &mut Walk, member: &Member, companions: &mut Companions) -> Result<(), DatasetError> {
    let name = &member.name;
    let Some(kind) = Kind::of(name).filter(|_| member.is_file() && !name.split('/').any(is_foreign)) else {
        return Ok(());
    };
    if member.size > MAX_COMPANION {
        companions.leave_unread(name);
        return Ok(());
    }
    let content = walk.read_content()?;
    companions.companion(&walk.path, name, kind, &content)
}

/// The split among a path's folders, and the rest after it.
fn split_of(name: &str) -> Option<(Split, &str)> {
    let mut rest = name;
    while let Some((folder, tail)) = rest.split_once('/') {
        // The innermost folder is the class, unless it is the only one.
        if let Some(split) = Split::of_name(folder).filter(|_| tail.contains('/')) {
            return Some((split, tail));
        }
        rest = tail;
    }
    None
}

fn in_split(name: &str, wanted: Option<Split>) -> bool {
    match (wanted, split_of(name)) {
        (Some(wanted), Some((split, _))) => wanted == split,
        _ => true,
    }
}

fn class_of(name: &str, options: &DatasetOptions) -> Option<String> {
    if options.targets == TargetKind::Nothing {
        return None;
    }
    let below = split_of(name).map_or(name, |(_, rest)| rest);
    class_name(below, options.class_folder)
}

fn open_cifar(path: &Path, options: &DatasetOptions) -> Result<CifarSource, DatasetError> {
    let mut walk = Walk::open(path)?;
    let (mut members, mut names) = (Vec::new(), String::new());
    while let Some(member) = walk.next()? {
        if !member.is_file() || member.size > MAX_MEMBER {
            continue;
        }
        if cifar::is_class_file(&member.name) && member.size <= MAX_METADATA {
            names = String::from_utf8_lossy(&walk.read_content()?).into_owned();
        } else if cifar::is_member(&member.name) && members.len() < 6 {
            members.push((member.name, walk.read_content()?));
        }
    }
    CifarSource::from_members(path, members, &names, options)
}

/// How pictures are labelled.
#[derive(Clone)]
enum Classes {
    Unlabelled,
    Folders(ClassMap),
    Companions(Arc<Labels>),
}

struct TarSource {
    /// The common name of the shards.
    path: PathBuf,
    shards: Arc<[PathBuf]>,
    /// Index of the shard that `walk` reads.
    at: usize,
    walk: Walk,
    options: DatasetOptions,
    classes: Classes,
    is_compressed: bool,
    count: usize,
    /// Number of pictures of the split so far, with or without a class.
    seen: usize,
    handed_out: usize,
    skipped: Skipped,
}

impl TarSource {
    fn open(
        path: &Path,
        shards: Vec<PathBuf>,
        options: &DatasetOptions,
        scan: Scan,
    ) -> Result<Self, DatasetError> {
        let count = scan.labels.as_ref().map_or(scan.count as usize, Labels::count);
        let classes = match (scan.labels, &options.class_map) {
            (Some(labels), _) => Classes::Companions(Arc::new(labels)),
            _ if scan.classes.is_empty() => Classes::Unlabelled,
            (None, Some(map)) => Classes::Folders(map.clone()),
            (None, None) => Classes::Folders(ClassMap::sorted(scan.classes)),
        };
        Ok(Self {
            path: path.to_path_buf(),
            walk: Walk::open(&shards[0])?,
            shards: shards.into(),
            at: 0,
            options: options.clone(),
            classes,
            is_compressed: scan.is_compressed,
            count,
            seen: 0,
            handed_out: 0,
            skipped: scan.skipped,
        })
    }

    /// Advances to the next wanted picture; its content is still unread.
    fn next_member(&mut self) -> Result<Option<(Member, Option<usize>)>, DatasetError> {
        while let Some(mut member) = self.next_of_shards()? {
            // The first pass counted refused members.
            if !matches!(member.picture(), Picture::Yes) || !in_split(&member.name, self.options.split) {
                continue;
            }
            let label = self.label(&member.name);
            self.seen += 1;
            member.name = member_name(&self.shards, self.at, &member.name);
            match label {
                Ok(label) => {
                    self.handed_out += 1;
                    return Ok(Some((member, label)));
                }
                Err((kind, reason)) => self.skipped.add(kind, member.name, reason),
            }
        }
        if self.handed_out == 0 {
            return Err(none_of_the_classes(&self.skipped).at(&self.path));
        }
        Ok(None)
    }

    fn next_of_shards(&mut self) -> Result<Option<Member>, DatasetError> {
        loop {
            if let Some(member) = self.walk.next()? {
                return Ok(Some(member));
            }
            let Some(next) = self.shards.get(self.at + 1) else { return Ok(None) };
            self.walk = Walk::open(next)?;
            self.at += 1;
        }
    }

    /// Opens the same archives from their beginning.
    fn again(&self) -> Result<Self, DatasetError> {
        Ok(Self {
            path: self.path.clone(),
            shards: self.shards.clone(),
            at: 0,
            walk: Walk::open(&self.shards[0])?,
            options: self.options.clone(),
            classes: self.classes.clone(),
            is_compressed: self.is_compressed,
            count: self.count,
            seen: 0,
            handed_out: 0,
            skipped: Skipped::default(),
        })
    }

    /// The label; or why the member is left out, with the kind of reason.
    fn label(&self, name: &str) -> Result<Option<usize>, (&'static str, String)> {
        let map = match &self.classes {
            Classes::Unlabelled => return Ok(None),
            Classes::Folders(map) => map,
            Classes::Companions(labels) => {
                return match labels.get(self.seen) {
                    Some(Ok(label)) => Ok(Some(*label)),
                    Some(Err(reason)) => Err((UNKNOWN_CLASS, reason.clone())),
                    None => Err((NO_LABEL, "no member with its key holds a label".into())),
                };
            }
        };
        let not_in = || (UNKNOWN_CLASS, "not in a class folder".to_string());
        let class = class_of(name, &self.options).ok_or_else(not_in)?;
        let unknown = || (UNKNOWN_CLASS, format!("class `{class}` is not in the class map"));
        map.get(&class).map(Some).ok_or_else(unknown)
    }
}

impl Source for TarSource {
    fn classes(&self) -> &[String] {
        match &self.classes {
            Classes::Unlabelled => &[],
            Classes::Folders(map) => map.names(),
            Classes::Companions(labels) => &labels.names,
        }
    }

    /// Number of pictures in the wanted split. A class map may skip some of them.
    fn count(&self) -> Option<usize> {
        Some(self.count)
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        let Some((member, label)) = self.next_member()? else { return Ok(None) };
        let image = ImageSource::Encoded(self.walk.read_content()?);
        Ok(Some(Sample { name: member.name, target: label.map(Target::Class), image }))
    }

    /// One pass over the headers. A compressed archive can only be read as a stream.
    fn into_indexed(mut self: Box<Self>, sequential: bool) -> Result<Indexed, DatasetError> {
        let streamed = sequential || self.is_compressed;
        let mut entries = Vec::with_capacity(self.count);
        while let Some((Member { name, size, .. }, label)) = self.next_member()? {
            let (archive, offset) = (self.at as u32, self.walk.position);
            let place =
                if streamed { Place::Streamed { size } } else { Place::Span { archive, offset, size } };
            entries.push(Entry { name, target: label.map(Target::Class), place });
        }
        let (classes, skipped) = (self.classes().to_vec(), std::mem::take(&mut self.skipped));
        let store = if streamed {
            Store::Stream(Box::new(move || Ok(Box::new(self.again()?))))
        } else {
            Store::Archives(Archive::open_all(&self.shards)?)
        };
        Ok(Indexed::new(classes, skipped, entries, store))
    }
}
