//! Which naming is a file in? Decided by telltale names; then everything is renamed to timm's.

use serde_json::{Map, Value};

use super::card::{CardSource, ModelCard};
use super::convert::{Patch, edit, unstack};
use super::error::shorten;
use super::family::{Inferred, family, namings};
use super::key_file::KeyFile;
use super::keys::{self, Edit};
use super::naming::Naming;
pub use super::naming::{Converted, Dialect};
use super::suggest::{Nearest, nearest};
use super::tensors::Tensors;
use super::{HostTensor, LoadError, TensorMap};
use crate::models::{Config, ModelConfig};

impl Dialect {
    /// The dialect of tensors, and what stands in front of every name of the image model (`module.`, `vit.`,
    /// `params/img/`, often nothing).
    ///
    /// # Errors
    /// [`LoadError::Dialect`] when no family's telltales are there.
    pub fn detect(map: &TensorMap) -> Result<(Self, String), LoadError> {
        let Detected { naming, prefix, .. } = detect(map, None)?;
        Ok((naming.dialect, prefix))
    }
}

/// Whose file it is.
struct Detected {
    family: &'static str,
    naming: &'static Naming,
    prefix: String,
}

/// The family, naming and prefix of a file's tensors. A family that is known beforehand goes before others.
fn detect(map: &TensorMap, family: Option<&str>) -> Result<Detected, LoadError> {
    let mut best: Option<(Detected, [usize; 3])> = None;
    for (name, naming) in namings() {
        let Some(prefix) = prefix(map, naming) else { continue };
        // Of equals the first in the list stays.
        let rank = [usize::from(family == Some(name)), usize::from(!naming.is_weak), naming.telltales.len()];
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

/// What stands in front of a naming's telltales, if all of them are there: of several the shortest.
fn prefix(map: &TensorMap, naming: &Naming) -> Option<String> {
    let whole = map.names().filter_map(|name| {
        name.strip_suffix(naming.telltale()).filter(|at| at.is_empty() || at.ends_with(['.', '/']))
    });
    let has_all = |at: &&str| {
        let is_there = |name: &&str| map.contains(&format!("{at}{name}"));
        naming.telltales[1..].iter().all(|name| is_there(name) || map.contains(name))
    };
    whole.filter(has_all).min_by_key(|at| at.len()).map(str::to_string)
}

/// What is known of a file before its tensors are renamed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The family of the model; it goes before others that fit the names.
    pub family: Option<&'a str>,
    /// Channels and size of the patches.
    pub patch: Patch,
    /// A file that tells names, or fields of the configuration.
    pub keys: Option<&'a KeyFile>,
}

impl Known<'_> {
    /// What a configuration says.
    pub fn of(config: &ModelConfig) -> Self {
        Known { family: Some(config.family()), patch: patch(&config.fields()), keys: None }
    }

    /// Fields that the file of names tells.
    fn told(&self) -> Map<String, Value> {
        self.keys.map(|keys| keys.config.clone()).unwrap_or_default()
    }

    /// The patches, as the file of names tells them, else as they are known.
    fn patch(&self) -> Patch {
        let Patch { channels, size } = patch(&self.told());
        Patch { channels: channels.or(self.patch.channels), size: size.or(self.patch.size) }
    }
}

/// What fields of a configuration say about patches.
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
    /// The card that the tensors alone allow: sizes from shapes, the rest as the library that wrote them does it.
    /// Preprocessing stays unknown.
    ///
    /// # Errors
    /// Tensors that are no model of the family that claims them.
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
    /// A configuration with the fields that a file of names tells.
    ///
    /// # Errors
    /// A field of another family, and fields that make no model.
    pub fn tell(&self, config: ModelConfig) -> Result<ModelConfig, LoadError> {
        if self.told.is_empty() {
            return Ok(config);
        }
        let told = config.with_all(self.told.iter().map(|(key, value)| (key.as_str(), value.clone())));
        let checked = told.and_then(|told| told.validate().map(|()| told));
        checked.map_err(|error| LoadError::config(&self.map.path, error))
    }

    /// `error`; or, where most names are still like another library's, that they are unknown.
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

    /// Height and width of the images, where a file of names tells them.
    pub(crate) fn img_size(&self) -> Option<[usize; 2]> {
        sides(self.told.get("img_size"))
    }
}

/// Renames and reshapes the tensors of any known dialect to timm's.
///
/// # Errors
/// Unknown names throughout, a tensor whose shape does not fit its name, and two tensors for one name.
pub fn to_timm(map: TensorMap) -> Result<Converted, LoadError> {
    to_timm_with(map, &Known::default())
}

/// [`to_timm`] for a file of which something is known beforehand.
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
    let Detected { family: name, naming, prefix } = detect(&map, known.family)?;
    let path = map.path.clone();
    let mut out = map.without_tensors();
    let tensors = match naming.stacked {
        Some([stacked, numbered]) => {
            unstack(map.tensors, &format!("{prefix}{stacked}"), &format!("{prefix}{numbered}"))
                .map_err(|(name, e)| LoadError::tensor(&path, &name, e))?
        }
        None => map.tensors,
    };
    let places: Vec<Place> = tensors.keys().map(|name| place(naming, &prefix, name, &tensors)).collect();
    let mut num_heads = None;
    for ((name, tensor), place) in tensors.into_iter().zip(places) {
        let (new_name, how) = match place {
            Place::As(name, how) => (name, how),
            Place::Dropped(reason) => {
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
    let shown = (naming.finish)(&mut out)?;
    (family(name).finish)(&mut out)?;
    let told = known.told();
    let num_heads = number(told.get("num_heads")).or(num_heads).or(shown);
    Ok(Converted { map: out, dialect: naming.dialect, family: name, num_heads, told })
}

/// The tensors under the names that a file tells.
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
    Ok(Converted { map: out, dialect: Dialect::Custom, family: keys.family, num_heads, told })
}

/// Takes out the tensors that a file of names leaves out.
fn leave_out(map: &mut TensorMap, keys: &KeyFile) {
    let names: Vec<String> = map.names().filter(|name| keys.is_left_out(name)).map(str::to_string).collect();
    for name in names {
        map.tensors.remove(&name);
        map.dropped.push((name, format!("left out by {}", keys.path.display())));
    }
}

/// Where a tensor goes.
enum Place {
    As(String, Edit),
    Dropped(String),
}

fn place(naming: &Naming, prefix: &str, name: &str, file: &Tensors) -> Place {
    let Some(inner) = name.strip_prefix(prefix) else {
        return place_outside(naming, prefix, name, file);
    };
    if let Some(reason) = (naming.left_out)(inner, file) {
        return Place::Dropped(reason.to_string());
    }
    let found = naming.rows.iter().find_map(|rows| keys::lookup(rows, inner));
    match keys::lookup(naming.beside, inner).or(found) {
        Some((name, how)) => Place::As(name, how),
        None => Place::As(inner.to_string(), Edit::Keep),
    }
}

/// Names that do not stand under the image model's prefix.
fn place_outside(naming: &Naming, prefix: &str, name: &str, file: &Tensors) -> Place {
    if let Some((name, how)) = (naming.outside)(prefix, name).or_else(|| keys::lookup(naming.beside, name)) {
        return Place::As(name, how);
    }
    if naming.beside.is_empty() {
        return Place::Dropped(format!("not part of the image model under `{}`", shorten(prefix)));
    }
    match (naming.left_out)(name, file) {
        Some(reason) => Place::Dropped(reason.to_string()),
        None => Place::As(name.to_string(), Edit::Keep),
    }
}

fn insert(map: &mut TensorMap, name: String, tensor: HostTensor) -> Result<(), LoadError> {
    match map.tensors.contains_key(&name) {
        true => Err(LoadError::tensor(&map.path, &name, "two tensors of the file go by this name")),
        false => {
            map.tensors.insert(name, tensor);
            Ok(())
        }
    }
}

/// Renames timm's tensors to transformers', as files have them: the base model's name in front, query, key
/// and value apart.
///
/// Without a head the base model itself is written, whose names have nothing in front.
///
/// # Errors
/// A tensor that transformers' model has no place for, and a family that transformers does not have.
pub fn to_huggingface(map: &TensorMap) -> Result<TensorMap, LoadError> {
    let fail = |name: &str, reason: &str| Err(LoadError::tensor(&map.path, name, reason));
    let family_name = detect(map, None)?.family;
    let of_library = family(family_name).namings.iter().filter(|n| n.dialect == Dialect::HuggingFace);
    let is_complete = |naming: &&&Naming| {
        naming.beside.iter().all(|(_, layer, _)| map.contains(&format!("{layer}.weight")))
    };
    let all: Vec<&Naming> = of_library.collect();
    let Some(naming) = all.iter().find(is_complete).or(all.last()) else {
        return fail("", &format!("transformers' {family_name} is not written"));
    };
    let has_head = naming.beside.iter().any(|(_, layer, _)| map.contains(&format!("{layer}.weight")));
    let prefix = if has_head { naming.base } else { "" };
    let mut out = TensorMap { metadata: map.metadata.clone(), ..TensorMap::new(&map.path) };
    let parts =
        super::convert::split(&map.tensors).map_err(|(name, e)| LoadError::tensor(&map.path, &name, e))?;
    for (name, tensor) in parts {
        let base = || {
            let inner = naming.rows.iter().find_map(|rows| keys::lookup_back(rows, &name));
            inner.map(|inner| format!("{prefix}{inner}"))
        };
        let Some(new_name) = keys::lookup_back(naming.beside, &name).or_else(base) else {
            return fail(&name, "transformers' model has no place for it");
        };
        if name.starts_with("pre_logits") && !prefix.is_empty() {
            return fail(&name, "transformers' classifier has no layer before the head");
        }
        out.tensors.insert(new_name, tensor);
    }
    Ok(out)
}
