//! Walks the members of a tar and decides which may be read.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use tar::{EntryType, Header, PaxExtensions};

use super::{BLOCK, MAX_METADATA};
use crate::data::dataset::folder::is_image;
use crate::data::dataset::foreign::is_foreign;
use crate::data::dataset::{DatasetError, DatasetProblem, MAX_MEMBER};

/// One member's header.
pub(super) struct Member {
    pub name: String,
    pub kind: EntryType,
    pub size: u64,
}

pub(super) enum Picture {
    Yes,
    No,
    Refused(&'static str),
}

impl Member {
    pub fn is_file(&self) -> bool {
        matches!(self.kind, EntryType::Regular | EntryType::Continuous)
    }

    pub fn picture(&self) -> Picture {
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

/// Walks from header to header.
pub(super) struct Walk {
    pub path: PathBuf,
    input: Input,
    /// Remaining bytes of the current member's content and padding.
    content: u64,
    padding: u64,
    /// Position in the (decompressed) archive, for messages.
    pub position: u64,
    /// Length of a plain archive.
    pub length: Option<u64>,
}

impl Walk {
    pub fn open(path: &Path) -> Result<Self, DatasetError> {
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
    pub fn next(&mut self) -> Result<Option<Member>, DatasetError> {
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

    /// The content of the member that [`next`](Self::next) returned. The caller must have checked its size.
    pub fn read_content(&mut self) -> Result<Vec<u8>, DatasetError> {
        // The header's size may be false; memory grows with the bytes that arrive.
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

    /// Refuses a pax size. With two sizes, two readers may see different members.
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
        // Some writers omit the last padding.
        if skipped < self.content {
            return Err(self.damaged(format!("the archive ends {} bytes too early", left - skipped)));
        }
        self.position += skipped;
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header, or `None` at the end of the archive.
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

/// Links, devices and folders have no content, whatever their header says.
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

pub(super) fn checksum_fits(block: &[u8; BLOCK]) -> bool {
    let stored = Header::from_byte_slice(block).cksum().ok();
    let outside = block[..148].iter().chain(&block[156..]).map(|&b| u32::from(b)).sum::<u32>();
    stored == Some(outside + 8 * u32::from(b' '))
}
