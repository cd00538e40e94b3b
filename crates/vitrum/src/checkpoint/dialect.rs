//! Detects a file's dialect by telltale names, and renames its tensors to timm's names.

use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::apply::expected_tensors;
use super::card::{CardSource, ModelCard};
use super::convert::{Patch, edit, undone, unstack};
use super::error::shorten;
use super::family::{Inferred, family, namings};
use super::key_file::KeyFile;
use super::keys::{self, Edit, Row};
use super::naming::Naming;
pub use super::naming::{Converted, Dialect};
use super::suggest::{Nearest, nearest};
use super::tensors::Tensors;
use super::{HostTensor, LoadError, TensorMap};
use crate::models::{Config, ModelConfig};

impl Dialect {
    /// The dialect of tensors, and the prefix of the image model's names (`module.`, `vit.`, `params/img/`, often
    /// empty).
    ///
    /// # Errors
    /// [`LoadError::Dialect`] if the tensors have no dialect's telltales.
    pub fn detect(map: &TensorMap) -> Result<(Self, String), LoadError> {
        let Detected { naming, prefix, .. } = detect(map, None)?;
        Ok((naming.dialect, prefix))
    }
}

/// The family, naming and prefix that a file was recognised by.
struct Detected {
    family: &'static str,
    naming: &'static Naming,
    prefix: String,
}

/// Detects family, naming and prefix of a file's tensors. A `family` known beforehand comes first.
fn detect(map: &TensorMap, family: Option<&str>) -> Result<Detected, LoadError> {
    let mut best: Option<(Detected, _)> = None;
    for (name, naming) in namings() {
        let Some(prefix) = prefix(map, naming) else { continue };
        // A model inside another has the longer prefix. On a tie the first in the list wins.
        let outside = usize::MAX - prefix.len();
        let (is_strong, telltales) = naming.rank();
        let rank = (family == Some(name), is_strong, outside, telltales);
        if best.as_ref().is_none_or(|(_, least)| rank > *least) {
            best = Some((Detected { family: name, naming, prefix }, rank));
        }
    }
    best.map(|(found, _)| found).ok_or_else(|| unknown_names(map, nearest(map)))
}

fn unknown_names(map: &TensorMap, nearest: Nearest) -> LoadError {
    let first: Vec<&str> = map.names().take(5).collect();
    LoadError::Dialect {
        path: map.path.clone(),
        first: shorten(&first.join(", ")),
        nearest: Box::new(nearest),
    }
}

/// The first naming of a configuration's family, if most tensors have the model's own names: a file that lacks a telltale.
fn of_config(map: &TensorMap, config: &ModelConfig) -> Option<Detected> {
    let expected = expected_tensors(&config.skeleton(&Device::flex()).ok()?);
    let own = map.names().filter(|name| expected.contains_key(*name)).count();
    let naming = family(config.family()).namings.first().filter(|_| 2 * own > map.len())?;
    Some(Detected { family: config.family(), naming, prefix: String::new() })
}

/// The prefix of a naming's telltales, if all of them are present. Of several prefixes the shortest.
fn prefix(map: &TensorMap, naming: &Naming) -> Option<String> {
    let whole = map.names().filter_map(|name| naming.prefix(name, |name| map.contains(name)));
    whole.min_by_key(|at| at.len()).map(str::to_string)
}

/// Facts about a file, known before its tensors are renamed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The family of the model. It comes before other families that fit the names.
    pub family: Option<&'a str>,
    /// The configuration of the model.
    pub config: Option<&'a ModelConfig>,
    /// Channels and size of the patches.
    pub patch: Patch,
    /// A key file with names or fields of the configuration.
    pub keys: Option<&'a KeyFile>,
}

impl<'a> Known<'a> {
    /// The family and patches of a configuration.
    pub fn of(config: &'a ModelConfig) -> Self {
        Known {
            family: Some(config.family()),
            config: Some(config),
            patch: patch(&config.fields()),
            keys: None,
        }
    }

    /// Fields of the configuration that the key file states.
    fn told(&self) -> Map<String, Value> {
        self.keys.map(|keys| keys.config.clone()).unwrap_or_default()
    }

    /// Patches from the key file, else from the known configuration.
    fn patch(&self) -> Patch {
        let Patch { channels, size } = patch(&self.told());
        Patch { channels: channels.or(self.patch.channels), size: size.or(self.patch.size) }
    }
}

/// The patches that fields of a configuration describe.
fn patch(fields: &Map<String, Value>) -> Patch {
    Patch { channels: number(fields.get("in_chans")), size: sides(fields.get("patch_size")) }
}

fn number(value: Option<&Value>) -> Option<usize> {
    usize::try_from(value?.as_u64()?).ok()
}

fn sides(value: Option<&Value>) -> Option<[usize; 2]> {
    let [h, w] = value?.as_array()?.as_slice() else { return None };
    Some([number(Some(h))?, number(Some(w))?])
}

impl Converted {
    /// A card from the tensors alone: sizes from shapes, the rest from the defaults of the dialect's library.
    /// Preprocessing stays unknown.
    ///
    /// # Errors
    /// Tensors that do not form a model of the detected family.
    pub fn card(&self) -> Result<ModelCard, LoadError> {
        let inferred = (family(self.family).infer)(self);
        let Inferred { config, notes } = inferred.map_err(|error| self.unless_named_otherwise(error))?;
        let config = self.tell(config)?;
        let mut card = ModelCard::new(config, CardSource::Tensors, &self.map.path);
        card.notes = notes;
        card.notes.push("preprocessing is not known: there is no configuration beside the weights".into());
        Ok(card)
    }
}

impl Converted {
    /// Applies the fields of the key file to a configuration.
    ///
    /// # Errors
    /// A field of another family, and an invalid configuration.
    pub fn tell(&self, config: ModelConfig) -> Result<ModelConfig, LoadError> {
        if self.told.is_empty() {
            return Ok(config);
        }
        let told = config.with_all(self.told.iter().map(|(key, value)| (key.as_str(), value.clone())));
        let checked = told.and_then(|told| told.validate().map(|()| told));
        checked.map_err(|error| LoadError::config(&self.map.path, error))
    }

    /// An inferred configuration with the fields of the key file.
    ///
    /// # Errors
    /// As [`tell`](Converted::tell), also without a key file.
    pub(crate) fn checked<C>(&self, config: C) -> Result<C, LoadError>
    where
        C: Config + Into<ModelConfig> + TryFrom<ModelConfig>,
    {
        let told = self.tell(config.into())?;
        told.validate().map_err(|error| LoadError::config(&self.map.path, error))?;
        C::try_from(told).map_err(|_| LoadError::config(&self.map.path, "the key file is of another family"))
    }

    /// Whether the key file states a field.
    pub(crate) fn tells(&self, field: &str) -> bool {
        self.told.contains_key(field)
    }

    /// The value of a field, if the key file states it.
    pub(crate) fn told_as<T: DeserializeOwned>(&self, field: &str) -> Option<T> {
        serde_json::from_value(self.told.get(field)?.clone()).ok()
    }

    /// `error`, or an error about unknown names if another library's names are still the nearest.
    fn unless_named_otherwise(&self, error: LoadError) -> LoadError {
        let nearest = nearest(&self.map);
        match self.dialect == Dialect::Custom
            || nearest.library == Dialect::Timm.name()
            || nearest.matched == 0
        {
            true => error,
            false => unknown_names(&self.map, nearest),
        }
    }

    /// Height and width of the images, if the key file states them.
    pub(crate) fn img_size(&self) -> Option<[usize; 2]> {
        sides(self.told.get("img_size"))
    }
}

/// Renames and reshapes the tensors of any known dialect to timm's.
///
/// # Errors
/// Names of no known dialect, a tensor whose shape does not fit its name, and two tensors with one new name.
pub fn to_timm(map: TensorMap) -> Result<Converted, LoadError> {
    to_timm_with(map, &Known::default())
}

/// [`to_timm`] with facts known beforehand.
///
/// # Errors
/// Those of [`to_timm`].
pub fn to_timm_with(mut map: TensorMap, known: &Known<'_>) -> Result<Converted, LoadError> {
    if let Some(keys) = known.keys {
        if !keys.rows.is_empty() {
            return by_key_file(map, keys, known);
        }
        leave_out(&mut map, keys);
    }
    let detected = detect(&map, known.family);
    let Detected { family: name, naming, prefix } =
        detected.or_else(|error| known.config.and_then(|config| of_config(&map, config)).ok_or(error))?;
    let path = map.path.clone();
    let mut out = map.without_tensors();
    let tensors = match naming.stacked {
        Some([stacked, numbered]) => {
            unstack(map.tensors, &format!("{prefix}{stacked}"), &format!("{prefix}{numbered}"))
                .map_err(|(name, e)| LoadError::tensor(&path, &name, e))?
        }
        None => map.tensors,
    };
    let destinations: Vec<Destination> =
        tensors.keys().map(|name| destination(naming, &prefix, name, &tensors)).collect();
    let (mut num_heads, mut shown) = (None, Tensors::new());
    for ((name, tensor), destination) in tensors.into_iter().zip(destinations) {
        let (new_name, how) = match destination {
            Destination::As(name, how) => (name, how),
            Destination::Dropped(reason) => {
                if let Some(name) = shows(naming, &prefix, &name) {
                    shown.insert(name, tensor);
                }
                out.dropped.push((name, reason));
                continue;
            }
        };
        if how == Edit::ToHeads && num_heads.is_none() {
            num_heads = tensor.shape().get(1).copied().filter(|&n| n > 0);
        }
        let tensor = edit(&tensor, how, known.patch()).map_err(|e| LoadError::tensor(&path, &name, e))?;
        insert(&mut out, new_name, tensor)?;
    }
    let heads = (naming.finish)(&mut out)?;
    (family(name).finish)(&mut out)?;
    let told = known.told();
    let num_heads = number(told.get("num_heads")).or(num_heads).or(heads);
    Ok(Converted { map: out, dialect: naming.dialect, family: name, num_heads, told, shown })
}

/// Renames and reshapes the tensors by a key file.
fn by_key_file(mut map: TensorMap, keys: &KeyFile, known: &Known<'_>) -> Result<Converted, LoadError> {
    leave_out(&mut map, keys);
    let path = map.path.clone();
    let mut out = map.without_tensors();
    for (name, tensor) in map.tensors {
        let inner = keys.inner(&name);
        let (new_name, how) = keys.lookup(inner).unwrap_or_else(|| (inner.to_string(), Edit::Keep));
        let tensor = edit(&tensor, how, known.patch()).map_err(|e| LoadError::tensor(&path, &name, e))?;
        insert(&mut out, new_name, tensor)?;
    }
    (family(keys.family).finish)(&mut out)?;
    let told = known.told();
    let num_heads = number(told.get("num_heads"));
    Ok(Converted {
        map: out,
        dialect: Dialect::Custom,
        family: keys.family,
        num_heads,
        told,
        shown: Tensors::new(),
    })
}

/// timm's name of a tensor that is left out but shows the configuration.
fn shows(naming: &Naming, prefix: &str, name: &str) -> Option<String> {
    let inner = name.strip_prefix(prefix).filter(|inner| (naming.shows)(inner))?;
    let renamed = naming.rows.iter().find_map(|rows| keys::lookup(rows, inner));
    Some(renamed.map_or_else(|| inner.to_string(), |(name, _)| name))
}

/// Removes the tensors that the key file leaves out.
fn leave_out(map: &mut TensorMap, keys: &KeyFile) {
    let names: Vec<String> = map.names().filter(|name| keys.is_left_out(name)).map(str::to_string).collect();
    for name in names {
        map.tensors.remove(&name);
        map.dropped.push((name, format!("left out by {}", keys.path.display())));
    }
}

/// Where a tensor goes.
enum Destination {
    As(String, Edit),
    Dropped(String),
}

fn destination(naming: &Naming, prefix: &str, name: &str, file: &Tensors) -> Destination {
    let Some(inner) = name.strip_prefix(prefix) else {
        return destination_outside(naming, prefix, name, file);
    };
    if let Some(reason) = (naming.left_out)(inner, file) {
        return Destination::Dropped(reason.to_string());
    }
    let found = naming.rows.iter().find_map(|rows| keys::lookup(rows, inner));
    match keys::lookup(naming.beside, inner).or(found) {
        Some((name, how)) => Destination::As(name, how),
        None => Destination::As(inner.to_string(), Edit::Keep),
    }
}

/// The destination of a tensor outside the image model's prefix.
fn destination_outside(naming: &Naming, prefix: &str, name: &str, file: &Tensors) -> Destination {
    if let Some((name, how)) = (naming.outside)(prefix, name).or_else(|| keys::lookup(naming.beside, name)) {
        return Destination::As(name, how);
    }
    if naming.beside.is_empty() {
        return Destination::Dropped(format!("not part of the image model under `{}`", shorten(prefix)));
    }
    match (naming.left_out)(name, file) {
        Some(reason) => Destination::Dropped(reason.to_string()),
        None => Destination::As(name.to_string(), Edit::Keep),
    }
}

fn insert(map: &mut TensorMap, name: String, tensor: HostTensor) -> Result<(), LoadError> {
    match map.tensors.contains_key(&name) {
        true => Err(LoadError::tensor(&map.path, &name, "two tensors of the file map to this name")),
        false => {
            map.tensors.insert(name, tensor);
            Ok(())
        }
    }
}

/// Renames timm's tensors to the names in transformers' files: with the base model's prefix, and with query, key and
/// value as separate tensors.
///
/// Without a head the names have no prefix: the file is one of the base model itself. A `family` known beforehand comes
/// before others that fit the names.
///
/// # Errors
/// A tensor that transformers' model lacks, and a family that transformers lacks.
pub fn to_huggingface(map: &TensorMap, family_name: Option<&str>) -> Result<TensorMap, LoadError> {
    let fail = |name: &str, reason: &str| Err(LoadError::tensor(&map.path, name, reason));
    let family_name = detect(map, family_name)?.family;
    let parts =
        super::convert::split(&map.tensors).map_err(|(name, e)| LoadError::tensor(&map.path, &name, e))?;
    let has = |row: &Row| map.contains(&format!("{}.weight", row.1));
    let places = |naming: &Naming, name: &String| {
        naming.rows.iter().chain([&naming.beside]).any(|rows| keys::lookup_back(rows, name).is_some())
    };
    // The naming of a model with the same heads, with places for the most tensors; on a tie the first.
    let of_library = family(family_name).namings.iter().filter(|n| n.dialect == Dialect::HuggingFace);
    let fitting = of_library.rev().max_by_key(|naming| {
        let placed = parts.keys().filter(|name| places(naming, name)).count();
        (naming.beside.iter().all(has), placed)
    });
    let Some(naming) = fitting else {
        return fail("", &format!("a {family_name} cannot be written in transformers' layout"));
    };
    let prefix = if naming.beside.iter().any(has) { naming.base } else { "" };
    let mut out = TensorMap { metadata: map.metadata.clone(), ..TensorMap::new(&map.path) };
    for (name, tensor) in parts {
        let base = || {
            let inner = naming.rows.iter().find_map(|rows| keys::lookup_back(rows, &name));
            inner.map(|(inner, edit)| (format!("{prefix}{inner}"), edit))
        };
        let Some((new_name, edit)) = keys::lookup_back(naming.beside, &name).or_else(base) else {
            return fail(&name, "transformers' model has no place for it");
        };
        if name.starts_with("pre_logits") && !prefix.is_empty() {
            return fail(&name, "transformers' classifier has no layer before the head");
        }
        let tensor = undone(tensor, edit).map_err(|e| LoadError::tensor(&map.path, &name, e))?;
        out.tensors.insert(new_name, tensor);
    }
    (naming.complete)(&mut out)?;
    Ok(out)
}
