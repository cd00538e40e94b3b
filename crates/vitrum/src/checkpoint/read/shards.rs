//! A checkpoint in several files: `model.safetensors.index.json`, `pytorch_model.bin.index.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::entry::Listing;
use super::{Limits, at_most, list_file, read_bounded};
use crate::checkpoint::LoadError;

const FORMAT: &str = "index of shards";

/// The file of each tensor, beside the index.
#[derive(Deserialize)]
struct Index {
    weight_map: Places,
}

/// The contents of all files of an index. Each file must have exactly the tensors that the index places in it.
///
/// # Errors
/// An index that is broken, leaves its folder, or does not match its files; a missing file.
pub(super) fn list(path: &Path, limits: &Limits) -> Result<Listing, LoadError> {
    let text = read_bounded(path, "the index", limits.json_bytes)?;
    let any: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| LoadError::format(path, "JSON", e))?;
    if any.get("weight_map").is_none() {
        let hint = "name the folder, a file of weights, or an index such as `model.safetensors.index.json`";
        return Err(LoadError::foreign(path, "a JSON file, and no index of shards (`weight_map`)", hint));
    }
    let index: Index = serde_json::from_slice(&text).map_err(|e| LoadError::format(path, FORMAT, e))?;
    let Places { places, twice } = index.weight_map;
    if let Some(name) = twice {
        return Err(LoadError::tensor(path, &name, "occurs twice in the index"));
    }
    let shards: BTreeSet<&str> = places.values().map(String::as_str).collect();
    at_most(path, "the number of shards", shards.len(), limits.shards)?;
    if let Some(bad) = shards.iter().find(|name| !is_plain_name(name)) {
        return Err(LoadError::format(path, FORMAT, format!("shard `{bad}` is not a plain file name")));
    }
    let mut all = Listing::new(0);
    for shard in shards {
        add_shard(path, shard, &places, &mut all, limits)?;
    }
    match places.keys().find(|name| !all.entries.contains_key(*name)) {
        Some(missing) => {
            Err(LoadError::tensor(path, missing, "the index names it, its shard does not hold it"))
        }
        None => Ok(all),
    }
}

fn add_shard(
    path: &Path,
    shard: &str,
    places: &BTreeMap<String, String>,
    all: &mut Listing,
    limits: &Limits,
) -> Result<(), LoadError> {
    let file = path.parent().unwrap_or(Path::new("")).join(shard);
    if !file.is_file() {
        return Err(LoadError::format(path, FORMAT, format!("its shard `{shard}` is not in this folder")));
    }
    if shard.ends_with(".json") {
        return Err(LoadError::format(path, FORMAT, format!("shard `{shard}` is not a file of weights")));
    }
    let part = list_file(&file, limits)?;
    for (name, entry) in part.entries {
        if places.get(&name).map(String::as_str) != Some(shard) {
            let reason = format!("the index {} does not place it here", path.display());
            return Err(LoadError::tensor(&file, &name, reason));
        }
        all.entries.insert(name, entry);
    }
    all.metadata.extend(part.metadata);
    all.most_bytes = all.most_bytes.saturating_add(part.most_bytes);
    at_most(path, "the number of tensors", all.entries.len(), limits.tensors)
}

/// Whether a name is a file in the same folder: no separators, no `..`, no drive.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let single =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    single && !name.contains(['/', '\\', ':', '\0'])
}

/// The file of each tensor, and the first tensor that occurs twice.
struct Places {
    places: BTreeMap<String, String>,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Places;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map from tensors to files")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Places, A::Error> {
                let mut found = Places { places: BTreeMap::new(), twice: None };
                while let Some((name, file)) = map.next_entry::<String, String>()? {
                    if found.places.insert(name.clone(), file).is_some() {
                        found.twice.get_or_insert(name);
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_map(Map)
    }
}
