//! Files to named tensors. Every reader is bounded by the real size of the file it reads.

pub mod npz;
pub mod pytorch;
pub mod safetensors;

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{LoadError, TensorMap};

/// What a file may ask for before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a safetensors header.
    pub header_bytes: u64,
    /// Bytes of a JSON file.
    pub json_bytes: u64,
    /// Tensors in a checkpoint.
    pub tensors: usize,
    /// Files of a sharded checkpoint.
    pub shards: usize,
    /// Bytes a compressed archive may unpack to, beyond 16 times its own size.
    pub unpacked_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 10 << 20,
            json_bytes: 16 << 20,
            tensors: 10_000,
            shards: 1_000,
            unpacked_bytes: 64 << 20,
        }
    }
}

impl Limits {
    /// Most bytes that may come out of an archive of `file_bytes`.
    fn unpacked(&self, file_bytes: u64) -> u64 {
        file_bytes.saturating_mul(16).saturating_add(self.unpacked_bytes)
    }
}

/// The tensors of a file or folder, under the names the file gives them.
///
/// The format is told from the content: safetensors, a sharded safetensors index, `.npz`, `.npy`, or what
/// `torch.save` writes. In a folder the first of `model.safetensors`, `model.safetensors.index.json`,
/// `pytorch_model.bin`, … is taken, else the only file of weights.
///
/// # Errors
/// [`LoadError`], naming the file.
pub fn read(path: impl AsRef<Path>) -> Result<TensorMap, LoadError> {
    read_with(path.as_ref(), &Limits::default())
}

/// As [`read`], with other limits.
pub fn read_with(path: &Path, limits: &Limits) -> Result<TensorMap, LoadError> {
    let metadata = std::fs::metadata(path).map_err(|e| LoadError::io(path, e))?;
    if metadata.is_dir() {
        return read_file(&weights_in(path)?, limits);
    }
    read_file(path, limits)
}

fn read_file(path: &Path, limits: &Limits) -> Result<TensorMap, LoadError> {
    let map = match sniff(path)? {
        Content::Safetensors => safetensors::read(path, limits),
        Content::Index => safetensors::read_sharded(path, limits),
        Content::Npy => npz::read_npy(path, limits),
        Content::Zip => match npz::zip_kind(path)? {
            npz::ZipKind::Npz => npz::read(path, limits),
            npz::ZipKind::Pytorch => pytorch::read(path, limits),
        },
        Content::Pickle => pytorch::read(path, limits),
    }?;
    if map.is_empty() {
        return Err(LoadError::unknown(path, "it holds no tensors"));
    }
    Ok(map)
}

/// Names looked for in a folder, in this order.
const PREFERRED: [&str; 8] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
];

/// Endings looked for in a folder without any of the preferred names, in this order.
const ENDINGS: [&str; 7] = ["safetensors", "npz", "pth", "pt", "bin", "ckpt", "npy"];

/// The file of weights in a folder.
///
/// # Errors
/// [`LoadError::Folder`] when there is none, or several of the same kind.
pub fn weights_in(folder: &Path) -> Result<PathBuf, LoadError> {
    if let Some(found) = PREFERRED.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        return Ok(found);
    }
    let entries = std::fs::read_dir(folder).map_err(|e| LoadError::io(folder, e))?;
    let mut files: Vec<PathBuf> =
        entries.filter_map(|e| e.ok()).map(|e| e.path()).filter(|p| p.is_file()).collect();
    files.sort();
    for ending in ENDINGS {
        let mut found = files.iter().filter(|p| p.extension().is_some_and(|e| e == ending));
        match (found.next(), found.next()) {
            (Some(one), None) => return Ok(one.clone()),
            (Some(one), Some(two)) => {
                let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Err(LoadError::folder(
                    folder,
                    format!("several files could be meant, among them {} and {}", name(one), name(two)),
                ));
            }
            _ => {}
        }
    }
    Err(LoadError::folder(folder, "no file of weights in this folder"))
}

/// Kinds of content told apart by their first bytes.
enum Content {
    Safetensors,
    Index,
    Npy,
    Zip,
    Pickle,
}

/// The kind of a file from its first bytes.
fn sniff(path: &Path) -> Result<Content, LoadError> {
    let (file, length) = open(path)?;
    let mut head = Vec::new();
    file.take(512).read_to_end(&mut head).map_err(|e| LoadError::io(path, e))?;
    let first = head.iter().copied().find(|b| !b.is_ascii_whitespace());
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        Ok(Content::Zip)
    } else if head.starts_with(b"\x93NUMPY") {
        Ok(Content::Npy)
    } else if head.get(257..262) == Some(b"ustar") {
        Err(LoadError::unknown(
            path,
            "a tar archive; PyTorch has not written checkpoints this way since 2017",
        ))
    } else if head.get(8) == Some(&b'{') && head[0] != b'{' {
        Ok(Content::Safetensors)
    } else if head.starts_with(b"version https://git-lfs") {
        Err(LoadError::unknown(path, "a Git LFS pointer, not the file itself; run `git lfs pull`"))
    } else if first == Some(b'{') {
        Ok(Content::Index)
    } else if first == Some(b'<') {
        Err(LoadError::unknown(path, "a web page, not the file itself"))
    } else if length == 0 {
        Err(LoadError::unknown(path, "the file is empty"))
    } else if matches!(head[0], 0x80 | b'(' | b']' | b'c') {
        Ok(Content::Pickle)
    } else if head.get(8).is_none() || head[7] == 0 {
        // A length below 2^56 stands in the first eight bytes of every safetensors file.
        Ok(Content::Safetensors)
    } else {
        Err(LoadError::unknown(path, "its first bytes belong to no known format"))
    }
}

/// A regular file and its length in bytes.
pub(crate) fn open(path: &Path) -> Result<(File, u64), LoadError> {
    let metadata = std::fs::metadata(path).map_err(|e| LoadError::io(path, e))?;
    if !metadata.is_file() {
        return Err(LoadError::unknown(path, "not a regular file"));
    }
    let file = File::open(path).map_err(|e| LoadError::io(path, e))?;
    Ok((file, metadata.len()))
}

/// A whole file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, what: &str, limit: u64) -> Result<Vec<u8>, LoadError> {
    let (file, length) = open(path)?;
    if length > limit {
        return Err(LoadError::too_large(path, format!("{what} in bytes"), length, limit));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(limit).read_to_end(&mut bytes).map_err(|e| LoadError::io(path, e))?;
    Ok(bytes)
}

/// Refuses more things in a file than are accepted.
fn at_most(path: &Path, what: &str, found: usize, limit: usize) -> Result<(), LoadError> {
    if found > limit {
        return Err(LoadError::too_large(path, what, found as u64, limit as u64));
    }
    Ok(())
}

/// Runs a dependency's parser; should it panic on a broken file, that becomes an error as well.
fn guarded<T>(
    path: &Path,
    format: &'static str,
    parse: impl FnOnce() -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(parse))
        .unwrap_or_else(|_| Err(LoadError::format(path, format, "the parser gave up on this file")))
}
