//! A single safetensors file (<https://github.com/huggingface/safetensors>).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype as FileDtype, Metadata};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::entry::{Entry, Listing, Source};
use super::{Limits, at_most, guarded, open};
use crate::checkpoint::{Dtype, LoadError, TensorMap};

const FORMAT: &str = "safetensors";

/// All tensors of one safetensors file, under its own names.
pub fn read(path: &Path, limits: &Limits) -> Result<TensorMap, LoadError> {
    let Listing { entries, metadata, .. } = list(path, limits)?;
    let mut map = TensorMap { metadata, ..TensorMap::new(path) };
    let mut entries: Vec<(String, Entry)> = entries.into_iter().collect();
    entries.sort_by_key(|(_, entry)| entry.offset());
    for (name, entry) in entries {
        let tensor = entry.read(&name)?;
        map.tensors.insert(name, tensor);
    }
    Ok(map)
}

/// The contents of one safetensors file.
pub(super) fn list(path: &Path, limits: &Limits) -> Result<Listing, LoadError> {
    let (file, length) = open(path)?;
    let mut reader = BufReader::with_capacity(1 << 16, &file);
    let (metadata, header) = read_header(path, &mut reader, length, limits)?;
    if metadata.data_len() as u64 != length - header {
        let reason = format!(
            "the header describes {} bytes of tensors, the file holds {}",
            metadata.data_len(),
            length - header
        );
        return Err(LoadError::format(path, FORMAT, reason));
    }
    let mut listing = Listing::new(u64::MAX);
    listing.metadata = metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    let (file, place) = (Arc::new(file), Arc::new(path.to_path_buf()));
    // The header's parser checks that offsets are gapless and inside the file.
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let dtype = dtype(info.dtype)
            .ok_or_else(|| LoadError::tensor(path, &name, format!("type {} is not read", info.dtype)))?;
        let (first, end) = info.data_offsets;
        let source = Source::Bytes(file.clone(), header + first as u64, end - first);
        let entry = Entry { file: place.clone(), dtype, shape: info.shape.clone(), source };
        listing.entries.insert(name, entry);
    }
    Ok(listing)
}

/// The parsed header, and the offset of the tensors.
fn read_header(
    path: &Path,
    file: &mut BufReader<&File>,
    length: u64,
    limits: &Limits,
) -> Result<(Metadata, u64), LoadError> {
    let mut size = [0; 8];
    file.read_exact(&mut size)
        .map_err(|_| LoadError::format(path, FORMAT, "shorter than its 8-byte header length"))?;
    let size = u64::from_le_bytes(size);
    if size > limits.header_bytes {
        return Err(LoadError::too_large(path, "the safetensors header in bytes", size, limits.header_bytes));
    }
    if size > length.saturating_sub(8) {
        let reason = format!("a header of {size} bytes is announced, {} follow", length.saturating_sub(8));
        return Err(LoadError::format(path, FORMAT, reason));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(|e| LoadError::io(path, e))?;
    let Names(names) = serde_json::from_slice(&header).map_err(|e| LoadError::format(path, FORMAT, e))?;
    check_names(path, &names, limits)?;
    let metadata = guarded(path, FORMAT, || {
        serde_json::from_slice::<Metadata>(&header).map_err(|e| LoadError::format(path, FORMAT, e))
    })?;
    Ok((metadata, 8 + size))
}

fn check_names(path: &Path, names: &[String], limits: &Limits) -> Result<(), LoadError> {
    at_most(path, "the number of tensors", names.len(), limits.tensors)?;
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(LoadError::tensor(path, twice, "occurs twice in the header")),
        None => Ok(()),
    }
}

/// The keys of a JSON object with duplicates, which a map would hide.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// Our type for the file's type; `None` for the 4-, 6- and 8-bit floats and complex numbers.
fn dtype(dtype: FileDtype) -> Option<Dtype> {
    Some(match dtype {
        FileDtype::F64 => Dtype::F64,
        FileDtype::F32 => Dtype::F32,
        FileDtype::F16 => Dtype::F16,
        FileDtype::BF16 => Dtype::BF16,
        FileDtype::I64 => Dtype::I64,
        FileDtype::I32 => Dtype::I32,
        FileDtype::I16 => Dtype::I16,
        FileDtype::I8 => Dtype::I8,
        FileDtype::U64 => Dtype::U64,
        FileDtype::U32 => Dtype::U32,
        FileDtype::U16 => Dtype::U16,
        FileDtype::U8 => Dtype::U8,
        FileDtype::BOOL => Dtype::Bool,
        _ => return None,
    })
}
