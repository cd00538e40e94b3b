//! Files to named tensors. The real size of a file bounds every reader.

mod entry;
mod folder;
#[cfg(feature = "npz")]
mod npz;
#[cfg(feature = "pytorch")]
mod pytorch;
pub mod safetensors;
mod sets;
mod shards;
mod sniff;
#[cfg(feature = "pytorch")]
mod torch_values;
#[cfg(feature = "pytorch")]
mod torchscript;

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

pub use folder::weights_in;
pub(crate) use sets::OTHER_SET;

pub use super::tensors::WeightSet;
use super::{LoadError, TensorMap};
use entry::{Entry, Listing};
use sniff::{Content, sniff};

/// Limits on a file's demands.
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
    /// Extra bytes that a compressed archive may unpack to, beyond 16 times its own size.
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

/// The tensors of a file or folder, under the file's names.
///
/// The content tells the format: safetensors, an index of shards, `.npz`, `.npy`, or a file of
/// `torch.save` or `torch.jit.save`.
/// [`weights_in`] chooses the file of a folder. If a file has several sets of weights, one is chosen, by the same
/// rule in every format: averaged weights before others, a teacher before its student ([`TensorMap::sets`]).
/// Prefixes of its names (`state_dict.`, `module.`) are removed. Other tensors are left out and listed
/// ([`TensorMap::dropped`]).
///
/// # Errors
/// [`LoadError`] with the file's name.
pub fn read(path: impl AsRef<Path>) -> Result<TensorMap, LoadError> {
    read_set(path, None)
}

/// As [`read`], with the set of weights to take, by its prefix: `student`, `model_ema`.
///
/// # Errors
/// [`LoadError`]; [`LoadError::Sets`] if the file has no such set, or several.
pub fn read_set(path: impl AsRef<Path>, weight_set: Option<&str>) -> Result<TensorMap, LoadError> {
    let (path, limits) = (path.as_ref(), Limits::default());
    check_link(path)?;
    let metadata = std::fs::metadata(path).map_err(|e| LoadError::io(path, e))?;
    if !metadata.is_dir() {
        return take(path, list_file(path, &limits)?, weight_set, &limits);
    }
    let (file, others) = folder::choose(path)?;
    let mut map = take(&file, list_file(&file, &limits)?, weight_set, &limits)?;
    if !others.is_empty() {
        let shown = others.iter().take(6).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let more = if others.len() > 6 { ", …" } else { "" };
        map.notes.insert(0, format!("{}: taken; left aside {shown}{more}", file.display()));
    }
    Ok(map)
}

/// The contents of a file of any format.
fn list_file(path: &Path, limits: &Limits) -> Result<Listing, LoadError> {
    check_link(path)?;
    match sniff(path)? {
        Content::Safetensors => safetensors::list(path, limits),
        Content::Index => shards::list(path, limits),
        #[cfg(feature = "npz")]
        Content::Npy => npz::list_npy(path),
        #[cfg(feature = "npz")]
        Content::Npz => npz::list(path, limits),
        #[cfg(feature = "pytorch")]
        Content::Pytorch => pytorch::list(path, limits),
        #[cfg(feature = "pytorch")]
        Content::TorchScript => torchscript::list(path, limits),
        #[cfg(not(feature = "npz"))]
        Content::Npy | Content::Npz => Err(LoadError::not_built(path, "arrays of NumPy", "npz")),
        #[cfg(not(feature = "pytorch"))]
        Content::Pytorch | Content::TorchScript => {
            Err(LoadError::not_built(path, "a file of PyTorch", "pytorch"))
        }
    }
}

/// Chooses a set of weights and reads it.
fn take(
    path: &Path,
    mut listing: Listing,
    weight_set: Option<&str>,
    limits: &Limits,
) -> Result<TensorMap, LoadError> {
    if listing.entries.is_empty() {
        return Err(LoadError::unknown(path, "it holds no tensors"));
    }
    let shapes =
        listing.entries.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice())).collect();
    let chosen = sets::select(path, &shapes, weight_set)?;
    at_most(path, "the number of tensors", chosen.names.len(), limits.tensors)?;
    let mut wanted: Vec<(String, Entry)> = Vec::with_capacity(chosen.names.len());
    for (name, new) in chosen.names {
        wanted.extend(listing.entries.remove(&name).map(|entry| (new, entry)));
    }
    let total = wanted.iter().map(|(_, entry)| entry.bytes()).fold(0u64, u64::saturating_add);
    if total > listing.most_bytes {
        let what = "the size of all tensors in bytes";
        return Err(LoadError::too_large(path, what, total, listing.most_bytes));
    }
    wanted.sort_by_key(|(_, entry)| entry.offset());
    let mut map = TensorMap { metadata: listing.metadata, ..TensorMap::new(path) };
    (map.dropped, map.sets, map.notes) = (chosen.dropped, chosen.sets, chosen.notes);
    for (name, entry) in wanted {
        let tensor = entry.read(&name)?;
        if map.tensors.insert(name.clone(), tensor).is_some() {
            return Err(LoadError::tensor(path, &name, "two tensors of the file have this name"));
        }
    }
    Ok(map)
}

/// Refuses a link without a target.
pub(crate) fn check_link(path: &Path) -> Result<(), LoadError> {
    if path.is_symlink() && !path.exists() {
        let target = std::fs::read_link(path).map_err(|e| LoadError::io(path, e))?;
        return Err(LoadError::Link { path: path.to_path_buf(), target });
    }
    Ok(())
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
        return Err(LoadError::too_large(path, format!("the size of {what} in bytes"), length, limit));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(limit).read_to_end(&mut bytes).map_err(|e| LoadError::io(path, e))?;
    Ok(bytes)
}

/// Refuses a number above its limit.
fn at_most(path: &Path, what: &str, found: usize, limit: usize) -> Result<(), LoadError> {
    if found > limit {
        return Err(LoadError::too_large(path, what, found as u64, limit as u64));
    }
    Ok(())
}

/// Runs a dependency's parser. A panic on a broken file becomes an error.
fn guarded<T>(
    path: &Path,
    format: &'static str,
    parse: impl FnOnce() -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(parse))
        .unwrap_or_else(|_| Err(LoadError::format(path, format, "the parser gave up on this file")))
}
