//! A tar of class folders, read as a stream and never unpacked.
//!
//! One pass over the headers finds the classes, a second hands out the pictures. Nothing in the archive can name a
//! place on this machine: a path that is absolute or holds `..`, a link, a device is skipped by name, and the sizes
//! of members and of their long names are bounded before they are read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use tar::{EntryType, Header, PaxExtensions};

use super::cifar::{self, CifarSource};
use super::folder::{UNKNOWN_CLASS, class_name, is_image, none_of_the_classes};
use super::foreign::is_foreign;
use super::indexed::{Archive, Store};
use super::{
    ClassMap, DatasetError, DatasetOptions, DatasetProblem, Entry, ImageSource, Indexed, MAX_CLASSES,
    MAX_MEMBER, MAX_SAMPLES, Place, Sample, Skipped, Source, Split,
};

const BLOCK: usize = 512;
const REFUSED: &str = "that archives may not hold, or of the system";
/// Longest member name, pax record or other metadata, in bytes.
const MAX_METADATA: u64 = 64 << 10;

/// Whether a file that begins so (after decompression) is a tar: the magic, or a checksum that fits.
pub(super) fn is_tar(head: &[u8]) -> bool {
    head.first_chunk().is_some_and(|block: &[u8; BLOCK]| checksum_fits(block) && block[0] != 0)
}

pub(super) fn open(path: &Path, options: &DatasetOptions) -> Result<Box<dyn Source>, DatasetError> {
    let scan = Scan::of(path, options)?;
    if scan.is_cifar {
        return Ok(Box::new(open_cifar(path, options)?));
    }
    if scan.count == 0 {
        let hint = match scan.skipped.first.first() {
            Some(first) => format!("; {} were skipped, first {first}", scan.skipped.count),
            None => " in the archive".into(),
        };
        return Err(DatasetProblem::NoImages(hint).at(path));
    }
    Ok(Box::new(TarSource::open(path, options, scan)?))
}

/// The parts that the pictures' folders, or CIFAR's batches, are called after.
pub(super) fn splits_in(path: &Path) -> Result<Vec<Split>, DatasetError> {
    let mut splits = BTreeSet::new();
    let mut walk = Walk::open(path)?;
    while let Some(member) = walk.next()? {
        if member.is_file() && cifar::is_member(&member.name) {
            splits.extend(cifar::split_of(&member.name));
        } else if matches!(member.picture(), Picture::Yes) {
            match split_of(&member.name) {
                Some((split, _)) => _ = splits.insert(split),
                // Pictures outside of any part belong to all of them.
                None => return Ok(Vec::new()),
            }
        }
    }
    Ok(splits.into_iter().collect())
}

/// What a pass over the headers finds.
#[derive(Default)]
struct Scan {
    /// Of the pictures in the wanted split.
    classes: BTreeSet<String>,
    count: u64,
    is_cifar: bool,
    skipped: Skipped,
}

impl Scan {
    fn of(path: &Path, options: &DatasetOptions) -> Result<Self, DatasetError> {
        let mut scan = Self::default();
        let mut splits = BTreeSet::new();
        let mut splitless = false;
        let mut walk = Walk::open(path)?;
        while let Some(member) = walk.next()? {
            scan.is_cifar |= cifar::is_member(&member.name) && member.is_file();
            let name = match member.picture() {
                Picture::Yes => member.name,
                Picture::No => continue,
                Picture::Refused(reason) => {
                    scan.skipped.add(REFUSED, member.name.escape_debug(), reason);
                    continue;
                }
            };
            match split_of(&name) {
                Some((split, _)) => _ = splits.insert(split.name()),
                None => splitless = true,
            }
            if !in_split(&name, options.split) {
                continue;
            }
            scan.count += 1;
            if let Some(class) = class_of(&name, options) {
                scan.classes.insert(class);
            }
            if scan.classes.len() > MAX_CLASSES || scan.count > MAX_SAMPLES {
                let (what, found) = ("pictures or classes".to_string(), scan.count);
                return Err(DatasetProblem::TooLarge { what, found, limit: MAX_SAMPLES }.at(path));
            }
        }
        let available: Vec<String> = splits.into_iter().map(String::from).collect();
        let found = match options.split {
            None if available.len() > 1 && !splitless => "several splits".to_string(),
            Some(split) if !available.is_empty() && !available.iter().any(|name| name == split.name()) => {
                format!("no split `{}`", split.name())
            }
            _ => return Ok(scan),
        };
        Err(DatasetProblem::Split { found, available }.at(path))
    }
}

/// The split among a name's folders, and what follows it.
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

struct TarSource {
    path: PathBuf,
    walk: Walk,
    options: DatasetOptions,
    classes: ClassMap,
    labelled: bool,
    count: usize,
    handed_out: usize,
    skipped: Skipped,
}

impl TarSource {
    fn open(path: &Path, options: &DatasetOptions, scan: Scan) -> Result<Self, DatasetError> {
        let labelled = !scan.classes.is_empty();
        let classes = match &options.class_map {
            Some(map) if labelled => map.clone(),
            _ => ClassMap::sorted(scan.classes),
        };
        Ok(Self {
            path: path.to_path_buf(),
            walk: Walk::open(path)?,
            options: options.clone(),
            classes,
            labelled,
            count: scan.count as usize,
            handed_out: 0,
            skipped: scan.skipped,
        })
    }

    /// Goes on to the next picture that is wanted, whose content is then still to be read.
    fn next_member(&mut self) -> Result<Option<(Member, Option<usize>)>, DatasetError> {
        while let Some(member) = self.walk.next()? {
            // Refused members were counted by the first pass.
            if !matches!(member.picture(), Picture::Yes) || !in_split(&member.name, self.options.split) {
                continue;
            }
            match self.label(&member.name) {
                Ok(label) => {
                    self.handed_out += 1;
                    return Ok(Some((member, label)));
                }
                Err(reason) => self.skipped.add(UNKNOWN_CLASS, member.name, reason),
            }
        }
        if self.handed_out == 0 {
            return Err(none_of_the_classes(&self.skipped).at(&self.path));
        }
        Ok(None)
    }

    /// The same archive from its beginning.
    fn again(&self) -> Result<Self, DatasetError> {
        Ok(Self {
            path: self.path.clone(),
            walk: Walk::open(&self.path)?,
            options: self.options.clone(),
            classes: self.classes.clone(),
            labelled: self.labelled,
            count: self.count,
            handed_out: 0,
            skipped: Skipped::default(),
        })
    }

    /// The label, or why the member is left out.
    fn label(&self, name: &str) -> Result<Option<usize>, String> {
        if !self.labelled {
            return Ok(None);
        }
        let class = class_of(name, &self.options).ok_or("not in a class folder")?;
        match self.classes.get(&class) {
            Some(label) => Ok(Some(label)),
            None => Err(format!("class `{class}` is not in the class map")),
        }
    }
}

impl Source for TarSource {
    fn classes(&self) -> &[String] {
        self.classes.names()
    }

    /// Pictures in the wanted split; with a class map some of them may be skipped.
    fn count(&self) -> Option<usize> {
        Some(self.count)
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        let Some((member, label)) = self.next_member()? else { return Ok(None) };
        let image = ImageSource::Encoded(self.walk.read_content()?);
        Ok(Some(Sample { name: member.name, label, image }))
    }

    /// A pass over the headers. A compressed archive can only be read as a stream.
    fn into_indexed(mut self: Box<Self>, sequential: bool) -> Result<Indexed, DatasetError> {
        let streamed = sequential || self.walk.length.is_none();
        let mut entries = Vec::with_capacity(self.count);
        while let Some((Member { name, size, .. }, label)) = self.next_member()? {
            let offset = self.walk.position;
            let place = if streamed { Place::Streamed { size } } else { Place::Span { offset, size } };
            entries.push(Entry { name, label, place });
        }
        let (classes, skipped) = (self.classes.names().to_vec(), std::mem::take(&mut self.skipped));
        let store = if streamed {
            Store::Stream(Box::new(move || Ok(Box::new(self.again()?))))
        } else {
            Store::Archive(Archive::open(&self.path)?)
        };
        Ok(Indexed::new(classes, skipped, entries, store))
    }
}

/// One member's header.
struct Member {
    name: String,
    kind: EntryType,
    size: u64,
}

enum Picture {
    Yes,
    No,
    Refused(&'static str),
}

impl Member {
    fn is_file(&self) -> bool {
        matches!(self.kind, EntryType::Regular | EntryType::Continuous)
    }

    fn picture(&self) -> Picture {
        if self.kind.is_dir() || !is_image(Path::new(&self.name)) {
            return Picture::No;
        }
        let mut folders = self.name.split('/');
        if self.kind.is_symlink() || self.kind.is_hard_link() {
            Picture::Refused("a link")
        } else if !self.is_file() {
            Picture::Refused("not a regular file")
        } else if self.name.starts_with('/')
            || folders.any(|part| part == ".." || part.contains(['\0', '\\']))
        {
            Picture::Refused("a path that leads out of the archive")
        } else if self.name.split('/').any(is_foreign) {
            Picture::Refused("hidden, or of the system")
        } else if self.size > MAX_MEMBER {
            Picture::Refused("larger than the limit of 256 MiB")
        } else {
            Picture::Yes
        }
    }
}

enum Input {
    Plain(BufReader<File>),
    Gz(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Gz(file) => file.read(buffer),
        }
    }
}

/// Goes from header to header.
struct Walk {
    path: PathBuf,
    input: Input,
    /// Content and padding of the current member that are still to come.
    content: u64,
    padding: u64,
    /// Position in the (decompressed) archive, for messages.
    position: u64,
    /// Length of a plain archive.
    length: Option<u64>,
}

impl Walk {
    fn open(path: &Path) -> Result<Self, DatasetError> {
        let open = || -> std::io::Result<(Input, Option<u64>)> {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            let mut file = BufReader::with_capacity(64 << 10, file);
            if std::io::BufRead::fill_buf(&mut file)?.starts_with(&[0x1f, 0x8b]) {
                return Ok((Input::Gz(Box::new(MultiGzDecoder::new(file))), None));
            }
            Ok((Input::Plain(file), Some(length)))
        };
        let (input, length) = open().map_err(|error| DatasetProblem::from(error).at(path))?;
        Ok(Self { path: path.to_path_buf(), input, content: 0, padding: 0, position: 0, length })
    }

    fn damaged(&self, what: impl std::fmt::Display) -> DatasetError {
        DatasetProblem::Damaged(format!("tar, byte {}: {what}", self.position)).at(&self.path)
    }

    /// The next member, or `None` at the end of the archive.
    fn next(&mut self) -> Result<Option<Member>, DatasetError> {
        let mut long_name = None;
        loop {
            self.skip_rest()?;
            let Some(block) = self.block()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            let size = header.entry_size().map_err(|error| self.damaged(error))?;
            let kind = header.entry_type();
            self.content = if has_content(kind) { size } else { 0 };
            self.padding = self.content.next_multiple_of(BLOCK as u64) - self.content;
            match kind {
                EntryType::GNULongName => long_name = Some(self.metadata()?),
                EntryType::XHeader => {
                    let extensions = self.metadata()?;
                    self.check_pax(&extensions)?;
                    long_name = pax_path(&extensions).or(long_name);
                }
                EntryType::GNULongLink | EntryType::XGlobalHeader => {}
                _ => {
                    let bytes = long_name.unwrap_or_else(|| header.path_bytes().into_owned());
                    let bytes = bytes.split(|&b| b == 0).next().unwrap_or_default();
                    let name = String::from_utf8_lossy(bytes);
                    let name = name.trim_start_matches("./").to_owned();
                    return Ok(Some(Member { name, kind, size }));
                }
            }
        }
    }

    /// The content of the member that [`next`](Self::next) returned. The caller has checked its size.
    fn read_content(&mut self) -> Result<Vec<u8>, DatasetError> {
        // The size is the header's word; memory follows what really comes.
        let mut content = Vec::with_capacity(self.content.min(1 << 20) as usize);
        let read = (&mut self.input).take(self.content).read_to_end(&mut content);
        let read = read.map_err(|error| self.damaged(error))? as u64;
        if read != self.content {
            return Err(self.damaged(format!("the archive ends {} bytes too early", self.content - read)));
        }
        self.position += read;
        self.content = 0;
        Ok(content)
    }

    fn metadata(&mut self) -> Result<Vec<u8>, DatasetError> {
        if self.content > MAX_METADATA {
            let what = format!(
                "a name or extension of {} bytes, more than the limit of {MAX_METADATA}",
                self.content
            );
            return Err(self.damaged(what));
        }
        self.read_content()
    }

    /// A size told twice is how archives smuggle members past one reader and not the other.
    fn check_pax(&self, extensions: &[u8]) -> Result<(), DatasetError> {
        for extension in PaxExtensions::new(extensions) {
            let extension = extension.map_err(|error| self.damaged(error))?;
            if matches!(extension.key_bytes(), b"size" | b"GNU.sparse.realsize" | b"GNU.sparse.size") {
                return Err(
                    self.damaged("a pax size; members of more than 8 GiB and sparse ones are not supported")
                );
            }
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), DatasetError> {
        let left = self.content.saturating_add(self.padding);
        let skipped = match (&mut self.input, self.length) {
            (Input::Plain(file), Some(length)) => {
                if left > length.saturating_sub(self.position) {
                    return Err(
                        self.damaged(format!("a member of {left} bytes reaches beyond the archive's end"))
                    );
                }
                file.seek_relative(left as i64).map(|()| left)
            }
            (input, _) => std::io::copy(&mut input.take(left), &mut std::io::sink()),
        };
        let skipped = skipped.map_err(|error| self.damaged(error))?;
        // Some writers leave out the last padding.
        if skipped < self.content {
            return Err(self.damaged(format!("the archive ends {} bytes too early", left - skipped)));
        }
        self.position += skipped;
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header, or `None` where the archive ends.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, DatasetError> {
        let mut bytes = Vec::with_capacity(BLOCK);
        let read = (&mut self.input).take(BLOCK as u64).read_to_end(&mut bytes);
        read.map_err(|error| self.damaged(error))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let Ok(block) = <[u8; BLOCK]>::try_from(bytes) else {
            return Err(self.damaged("the archive ends inside a header"));
        };
        self.position += BLOCK as u64;
        if block == [0; BLOCK] {
            return Ok(None);
        }
        if !checksum_fits(&block) {
            return Err(self.damaged("a header whose checksum is wrong"));
        }
        Ok(Some(block))
    }
}

/// Links, devices and folders have none, whatever their header says.
fn has_content(kind: EntryType) -> bool {
    !(kind.is_symlink()
        || kind.is_hard_link()
        || kind.is_dir()
        || kind.is_character_special()
        || kind.is_block_special()
        || kind.is_fifo())
}

fn pax_path(extensions: &[u8]) -> Option<Vec<u8>> {
    let path = |e: tar::PaxExtension<'_>| (e.key_bytes() == b"path").then(|| e.value_bytes().to_vec());
    PaxExtensions::new(extensions).flatten().find_map(path)
}

fn checksum_fits(block: &[u8; BLOCK]) -> bool {
    let stored = Header::from_byte_slice(block).cksum().ok();
    let outside = block[..148].iter().chain(&block[156..]).map(|&b| u32::from(b)).sum::<u32>();
    stored == Some(outside + 8 * u32::from(b' '))
}
