//! safetensors, one file or several with an index (<https://github.com/huggingface/safetensors>).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path};

use safetensors::tensor::{Dtype as FileDtype, Metadata};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::{Limits, at_most, guarded, open, read_bounded};
use crate::checkpoint::{Dtype, HostTensor, LoadError, TensorMap};

const FORMAT: &str = "safetensors";

/// The tensors of one safetensors file.
pub fn read(path: &Path, limits: &Limits) -> Result<TensorMap, LoadError> {
    let (file, length) = open(path)?;
    let mut file = BufReader::with_capacity(1 << 16, file);
    let (metadata, header) = read_header(path, &mut file, length, limits)?;
    if metadata.data_len() as u64 != length - header {
        let reason = format!(
            "the header describes {} bytes of tensors, the file holds {}",
            metadata.data_len(),
            length - header
        );
        return Err(LoadError::format(path, FORMAT, reason));
    }
    let mut map = TensorMap::new(path);
    map.metadata = metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    // Offsets are checked by the header's parser to be gapless, so tensors follow each other in the file.
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let dtype = dtype(info.dtype)
            .ok_or_else(|| LoadError::tensor(path, &name, format!("type {} is not read", info.dtype)))?;
        let mut data = vec![0; info.data_offsets.1 - info.data_offsets.0];
        file.read_exact(&mut data).map_err(|e| LoadError::io(path, e))?;
        let tensor = HostTensor::new(dtype, info.shape.clone(), data)
            .map_err(|e| LoadError::tensor(path, &name, e))?;
        map.tensors.insert(name, tensor);
    }
    Ok(map)
}

/// The parsed header and where the tensors begin.
fn read_header(
    path: &Path,
    file: &mut BufReader<File>,
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

/// The keys of a JSON object with repetitions, which a map would hide.
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

/// Our name for a type of the file; `None` for the 4-, 6- and 8-bit floats and complex numbers.
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

/// `model.safetensors.index.json`: which tensor lies in which file beside it.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The tensors of a sharded checkpoint, from its index.
pub fn read_sharded(path: &Path, limits: &Limits) -> Result<TensorMap, LoadError> {
    const FORMAT: &str = "safetensors index";
    let text = read_bounded(path, "the index", limits.json_bytes)?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| LoadError::format(path, FORMAT, e))?;
    let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    at_most(path, "the number of shards", shards.len(), limits.shards)?;
    if let Some(bad) = shards.iter().find(|name| !is_plain_name(name)) {
        return Err(LoadError::format(path, FORMAT, format!("shard `{bad}` is not a plain file name")));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut map = TensorMap::new(path);
    for shard in shards {
        let file = folder.join(shard);
        let part = read(&file, limits)?;
        for (name, tensor) in part.tensors {
            if index.weight_map.get(&name).map(String::as_str) != Some(shard) {
                return Err(LoadError::tensor(
                    &file,
                    &name,
                    format!("the index {} does not place it here", path.display()),
                ));
            }
            map.tensors.insert(name, tensor);
        }
        map.metadata.extend(part.metadata);
        at_most(path, "the number of tensors", map.len(), limits.tensors)?;
    }
    match index.weight_map.keys().find(|name| !map.contains(name)) {
        Some(missing) => {
            Err(LoadError::tensor(path, missing, "the index names it, its shard does not hold it"))
        }
        None => Ok(map),
    }
}

/// Whether a name is one file in the same folder: no separators, no `..`, no drive.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let single =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    single && !name.contains(['/', '\\', ':', '\0'])
}
