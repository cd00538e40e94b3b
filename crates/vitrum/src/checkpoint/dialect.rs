//! Which naming is a file in? Decided by telltale names; then everything is renamed to timm's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::card::{CardSource, ModelCard};
use super::convert::{edit, unstack};
use super::error::shorten;
use super::family::{Inferred, Naming, family, namings};
use super::keys::{self, Edit};
use super::{HostTensor, LoadError, TensorMap};

/// A library's way of naming tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// timm, and DeiT, MAE, DINO, DINOv2, OpenCLIP's timm towers.
    Timm,
    /// transformers 4.x and 5.x.
    HuggingFace,
    /// torchvision.
    Torchvision,
    /// vision_transformer and big_vision.
    Google,
    /// OpenAI's CLIP, image half.
    Clip,
}

impl Dialect {
    /// The library's name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timm => "timm",
            Self::HuggingFace => "Hugging Face",
            Self::Torchvision => "torchvision",
            Self::Google => "Google (JAX)",
            Self::Clip => "OpenAI CLIP",
        }
    }

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
    best.map(|(found, _)| found).ok_or_else(|| {
        let first: Vec<&str> = map.names().take(5).collect();
        LoadError::Dialect { path: map.path.clone(), first: shorten(&first.join(", ")) }
    })
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

/// Tensors under timm's names and in timm's layout.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The tensors; what no table knows keeps its own name.
    pub map: TensorMap,
    /// The naming the file had.
    pub dialect: Dialect,
    /// The family that claims the file.
    pub family: &'static str,
    /// Heads of attention, where the file's layout shows them (Google).
    pub num_heads: Option<usize>,
}

impl Converted {
    /// The card that the tensors alone allow: sizes from shapes, the rest as the library that wrote them does it.
    /// Preprocessing stays unknown.
    ///
    /// # Errors
    /// Tensors that are no model of the family that claims them.
    pub fn card(&self) -> Result<ModelCard, LoadError> {
        let Inferred { config, notes } = (family(self.family).infer)(self)?;
        let mut card = ModelCard::new(config, CardSource::Tensors, &self.map.path);
        card.notes = notes;
        card.notes.push("preprocessing is not known: there is no configuration beside the weights".into());
        Ok(card)
    }
}

/// Renames and reshapes the tensors of any known dialect to timm's.
///
/// # Errors
/// Unknown names throughout, a tensor whose shape does not fit its name, and two tensors for one name.
pub fn to_timm(map: TensorMap) -> Result<Converted, LoadError> {
    to_timm_as(map, None)
}

/// [`to_timm`] for a file of a family that is known beforehand.
///
/// # Errors
/// Those of [`to_timm`].
pub fn to_timm_as(map: TensorMap, known: Option<&str>) -> Result<Converted, LoadError> {
    let Detected { family: name, naming, prefix } = detect(&map, known)?;
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
        let tensor = edit(&tensor, how).map_err(|e| LoadError::tensor(&path, &name, e))?;
        insert(&mut out, new_name, tensor)?;
    }
    (family(name).finish)(&mut out)?;
    Ok(Converted { map: out, dialect: naming.dialect, family: name, num_heads })
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

/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, HostTensor>;
