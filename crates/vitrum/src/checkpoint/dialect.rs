//! Which naming is a file in? Decided by telltale names; then everything is renamed to timm's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::card::{CardSource, Inferred, ModelCard, infer};
use super::convert::{edit, fold_registers, join, unflatten_patches, unstack};
use super::error::shorten;
use super::keys::{self, Edit, Row};
use super::{HostTensor, LoadError, TensorMap};
use crate::models::vit::{Activation, PosResize};

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
    pub(crate) const ALL: [Self; 5] =
        [Self::Timm, Self::HuggingFace, Self::Torchvision, Self::Google, Self::Clip];

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

    /// The end of a name that every file of this naming has.
    pub(crate) fn telltale(self) -> &'static str {
        match self {
            Self::Timm => keys::timm::TELLTALE,
            Self::HuggingFace => keys::huggingface::TELLTALE,
            Self::Torchvision => keys::torchvision::TELLTALE,
            Self::Google => keys::google::TELLTALE,
            Self::Clip => keys::clip::TELLTALE,
        }
    }

    fn rows(self) -> &'static [Row] {
        match self {
            Self::Timm => &keys::timm::ROWS,
            Self::HuggingFace => &keys::huggingface::ROWS,
            Self::Torchvision => &keys::torchvision::ROWS,
            Self::Google => &keys::google::ROWS,
            Self::Clip => &keys::clip::ROWS,
        }
    }

    /// The dialect of tensors, and what stands in front of every name of the image model (`module.`, `vit.`,
    /// `params/img/`, often nothing).
    ///
    /// # Errors
    /// [`LoadError::Dialect`] when no telltale is there.
    pub fn detect(map: &TensorMap) -> Result<(Self, String), LoadError> {
        for dialect in Self::ALL {
            let prefixes = map.names().filter_map(|name| name.strip_suffix(dialect.telltale()));
            let whole = prefixes.filter(|prefix| prefix.is_empty() || prefix.ends_with(['.', '/']));
            if let Some(prefix) = whole.min_by_key(|prefix| prefix.len()) {
                return Ok((dialect, prefix.to_string()));
            }
        }
        let first: Vec<&str> = map.names().take(5).collect();
        Err(LoadError::Dialect { path: map.path.clone(), first: shorten(&first.join(", ")) })
    }
}

/// Tensors under timm's names and in timm's layout.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The tensors; what no table knows keeps its own name.
    pub map: TensorMap,
    /// The naming the file had.
    pub dialect: Dialect,
    /// Heads of attention, where the file's layout shows them (Google).
    pub num_heads: Option<usize>,
}

impl Converted {
    /// The card that the tensors alone allow: sizes from shapes, the rest as the library that wrote them does it.
    /// Preprocessing stays unknown.
    pub fn card(&self) -> Result<ModelCard, LoadError> {
        let Inferred { mut config, dist_token, dist_head, notes } = infer(&self.map, None, self.num_heads)?;
        let (act, eps, resize) = match self.dialect {
            Dialect::Timm => (Activation::Gelu, 1e-6, PosResize::BicubicAntialias),
            Dialect::HuggingFace => (Activation::Gelu, 1e-12, PosResize::Bicubic),
            Dialect::Torchvision => (Activation::Gelu, 1e-6, PosResize::Bicubic),
            // flax's `gelu` is the tanh approximation unless told otherwise.
            Dialect::Google => (Activation::GeluTanh, 1e-6, PosResize::BilinearAligned),
            Dialect::Clip => (Activation::QuickGelu, 1e-5, PosResize::BicubicAntialias),
        };
        // transformers resizes the positions of its model with registers in another way than the rest.
        let registers = self.dialect == Dialect::HuggingFace && config.reg_tokens > 0;
        let resize = if registers { PosResize::BicubicAntialias } else { resize };
        (config.act_layer, config.norm_eps, config.pos_resize) = (act, eps, resize);
        let mut card = ModelCard::new(config, CardSource::Tensors, &self.map.path);
        card.dist_token = dist_token;
        card.dist_head = dist_head;
        card.notes = notes;
        card.notes.push(format!("activation and epsilon are those usual for {}", self.dialect.name()));
        card.notes.push("preprocessing is not known: there is no configuration beside the weights".into());
        Ok(card)
    }
}

/// Renames and reshapes the tensors of any known dialect to timm's.
///
/// # Errors
/// Unknown names throughout, a tensor whose shape does not fit its name, and two tensors for one name.
pub fn to_timm(map: TensorMap) -> Result<Converted, LoadError> {
    let (dialect, prefix) = Dialect::detect(&map)?;
    let path = map.path.clone();
    let mut out = map.without_tensors();
    let tensors = match dialect {
        Dialect::Google => unstack(
            map.tensors,
            &format!("{prefix}{}", keys::google::STACKED),
            &format!("{prefix}{}", keys::google::NUMBERED),
        )
        .map_err(|(name, e)| LoadError::tensor(&path, &name, e))?,
        _ => map.tensors,
    };
    let has_classifier =
        tensors.keys().any(|name| name == "classifier.weight" || name == "cls_classifier.weight");
    let mut num_heads = None;
    for (name, tensor) in tensors {
        let (new_name, how) = match place(dialect, &prefix, &name, has_classifier) {
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
    let fix = |(name, e): (String, super::tensors::TensorError)| LoadError::tensor(&path, &name, e);
    join(&mut out.tensors).map_err(fix)?;
    unflatten_patches(&mut out.tensors).map_err(fix)?;
    fold_registers(&mut out.tensors).map_err(fix)?;
    add_head_bias(&mut out)?;
    Ok(Converted { map: out, dialect, num_heads })
}

/// Where a tensor goes.
enum Place {
    As(String, Edit),
    Dropped(String),
}

fn place(dialect: Dialect, prefix: &str, name: &str, has_classifier: bool) -> Place {
    let Some(inner) = name.strip_prefix(prefix) else {
        return place_outside(dialect, prefix, name);
    };
    let reason = match dialect {
        Dialect::Timm => keys::official::left_out(inner),
        Dialect::HuggingFace => keys::huggingface::left_out(inner),
        _ => None,
    };
    if let Some(reason) = reason {
        return Place::Dropped(reason.to_string());
    }
    if dialect == Dialect::HuggingFace {
        if inner.starts_with("pooler.") && has_classifier {
            return Place::Dropped("the classifier does not use the pooler".to_string());
        }
        if let Some((name, how)) = keys::lookup(&keys::huggingface::HEADS, inner) {
            return Place::As(name, how);
        }
    }
    match keys::lookup(dialect.rows(), inner) {
        Some((name, how)) => Place::As(name, how),
        None => Place::As(inner.to_string(), Edit::Keep),
    }
}

/// Names that do not stand under the image model's prefix.
fn place_outside(dialect: Dialect, prefix: &str, name: &str) -> Place {
    match dialect {
        Dialect::HuggingFace => {
            if let Some((name, how)) = keys::lookup(&keys::huggingface::HEADS, name) {
                return Place::As(name, how);
            }
            match keys::huggingface::left_out(name) {
                Some(reason) => Place::Dropped(reason.to_string()),
                None => Place::As(name.to_string(), Edit::Keep),
            }
        }
        // OpenCLIP keeps the projection into the shared space beside timm's trunk.
        Dialect::Timm if prefix.ends_with("visual.trunk.") && name.ends_with("visual.head.proj.weight") => {
            Place::As("head.weight".to_string(), Edit::Keep)
        }
        _ => Place::Dropped(format!("not part of the image model under `{}`", shorten(prefix))),
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

/// A projection without a bias (CLIP) becomes a head with a bias of zeros.
fn add_head_bias(map: &mut TensorMap) -> Result<(), LoadError> {
    let Some(weight) = map.tensors.get("head.weight") else { return Ok(()) };
    if map.contains("head.bias") {
        return Ok(());
    }
    let classes = weight.shape().first().copied().unwrap_or(0);
    let bytes =
        classes.checked_mul(weight.dtype().size()).filter(|&n| n <= weight.bytes().len()).unwrap_or(0);
    let bias = HostTensor::new(weight.dtype(), vec![classes], vec![0; bytes])
        .map_err(|e| LoadError::tensor(&map.path, "head.weight", e))?;
    map.tensors.insert("head.bias".to_string(), bias);
    Ok(())
}

/// Renames timm's tensors to transformers', as files have them: the base model's name in front, query, key
/// and value apart.
///
/// With a distillation token the base is `deit`, else `vit`; without a head the base model itself is written,
/// whose names have nothing in front.
///
/// # Errors
/// A tensor that transformers' ViT has no place for.
pub fn to_huggingface(map: &TensorMap) -> Result<TensorMap, LoadError> {
    let fail = |name: &str, reason: &str| Err(LoadError::tensor(&map.path, name, reason));
    let deit = map.contains("dist_token");
    let prefix = match (map.contains("head.weight"), deit) {
        (false, _) => "",
        (true, true) => "deit.",
        (true, false) => "vit.",
    };
    let mut out = TensorMap { metadata: map.metadata.clone(), ..TensorMap::new(&map.path) };
    let parts =
        super::convert::split(&map.tensors).map_err(|(name, e)| LoadError::tensor(&map.path, &name, e))?;
    for (name, tensor) in parts {
        let head = match name.strip_prefix("head.") {
            Some(tail) if map.contains("head_dist.weight") => Some(format!("cls_classifier.{tail}")),
            _ => keys::lookup_back(&keys::huggingface::HEADS, &name),
        };
        let base =
            || keys::lookup_back(&keys::huggingface::ROWS, &name).map(|name| format!("{prefix}{name}"));
        let Some(new_name) = head.or_else(base) else {
            return fail(&name, "transformers' ViT has no place for it");
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
