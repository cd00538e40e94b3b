//! How libraries name tensors, and tensors under timm's names.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::keys::{Edit, Row};
use super::tensors::Tensors;
use super::{LoadError, TensorMap};

/// A library's way of naming tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dialect {
    /// timm, and DeiT, MAE, DINO, DINOv2, OpenCLIP's timm towers.
    Timm,
    /// transformers 4.x and 5.x.
    HuggingFace,
    /// torchvision.
    Torchvision,
    /// vision_transformer and big_vision.
    Google,
    /// The image half of OpenAI's CLIP, of OpenCLIP's own towers, and Meta's Perception Encoder.
    Clip,
    /// lucidrains' vit-pytorch.
    Lucidrains,
    /// The code of the paper's authors: Facebook's ConvNeXt, ClassyVision, Microsoft's Swin and BEiT-3, Meta's DINOv3.
    Official,
    /// The names of a key file.
    Custom,
}

impl Dialect {
    /// The library's name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timm => "timm",
            Self::HuggingFace => "Hugging Face",
            Self::Torchvision => "torchvision",
            Self::Google => "Google (JAX)",
            Self::Clip => "OpenAI CLIP",
            Self::Lucidrains => "vit-pytorch",
            Self::Official => "the authors' code",
            Self::Custom => "custom",
        }
    }
}

/// How one library names the tensors of one family.
#[derive(Debug)]
pub struct Naming {
    /// The library.
    pub dialect: Dialect,
    /// Ends of names that every such file has. The prefix of the first one is the prefix of all the model's tensors. If
    /// several namings fit a file, the one with the most telltales wins.
    pub telltales: &'static [&'static str],
    /// Names after the prefix that no such file has.
    pub absent: &'static [&'static str],
    /// Whether other libraries use the telltale too. A weak naming loses to the others that fit.
    pub is_weak: bool,
    /// From the library's names to timm's.
    pub rows: &'static [&'static [Row]],
    /// Names outside the model's prefix: heads, in files of transformers.
    pub beside: &'static [Row],
    /// The model's prefix in a written file with a head.
    pub base: &'static str,
    /// Names of classifier heads in such files, the usual one first.
    pub heads: &'static [&'static str],
    /// Tensors whose first dimension is the width before the classifier, without the prefix. `{N}` is the number of the
    /// last stage. The first one that a file has counts. Empty: the first telltale.
    pub widths: &'static [&'static str],
    /// The reason to leave out a tensor; `None` to keep it. Arguments: the name without the prefix, and all tensors of
    /// the file.
    pub left_out: fn(&str, &Tensors) -> Option<&'static str>,
    /// Whether a tensor that is left out shows the configuration ([`Converted::shown`]). The argument is the name without
    /// the prefix.
    pub shows: fn(&str) -> bool,
    /// timm's name and the edit of a tensor that belongs to the model but lacks its prefix. Arguments: prefix and name.
    pub outside: fn(&str, &str) -> Option<(String, Edit)>,
    /// Prefixes of models within this one: their telltales mark no weights of their own.
    pub inside: &'static [&'static str],
    /// The prefix of tensors that stack all blocks, and the prefix of the same tensors block by block.
    pub stacked: Option<[&'static str; 2]>,
    /// Further conversion of renamed tensors. Returns the number of heads if they show it.
    pub finish: fn(&mut TensorMap) -> Result<Option<usize>, LoadError>,
    /// Adds the tensors that the library's own files have and a model here has not, before writing.
    pub complete: fn(&mut TensorMap) -> Result<(), LoadError>,
}

impl Naming {
    /// A naming with defaults for all other fields.
    pub const fn new(dialect: Dialect, telltales: &'static [&'static str]) -> Self {
        Self {
            dialect,
            telltales,
            absent: &[],
            is_weak: false,
            rows: &[],
            beside: &[],
            base: "",
            heads: &["head"],
            widths: &[],
            left_out: |_, _| None,
            shows: |_| false,
            outside: |_, _| None,
            inside: &[],
            stacked: None,
            finish: |_| Ok(None),
            complete: |_| Ok(()),
        }
    }

    /// The prefix of the model if `name` is its first telltale, in a file that has all the others. They may also stand
    /// in front of a part of the prefix. `has` tells whether the file has a name.
    pub(super) fn prefix<'a>(&self, name: &'a str, has: impl Fn(&str) -> bool) -> Option<&'a str> {
        let [first, others @ ..] = self.telltales else { return None };
        let prefix = name.strip_suffix(first).filter(|at| at.is_empty() || at.ends_with(['.', '/']))?;
        let ends = prefix.match_indices(['.', '/']).map(|(at, _)| at + 1);
        let places: Vec<&str> = std::iter::once(0).chain(ends).map(|end| &prefix[..end]).collect();
        let is_there = |name: &&str| places.iter().any(|place| has(&format!("{place}{name}")));
        let is_absent = |name: &&str| !has(&format!("{prefix}{name}"));
        (others.iter().all(is_there) && self.absent.iter().all(is_absent)).then_some(prefix)
    }

    /// Which of the namings that fit the same tensors counts: the one of the highest rank.
    pub(super) fn rank(&self) -> (bool, usize) {
        (!self.is_weak, self.telltales.len())
    }

    /// [`widths`](Naming::widths), or the first telltale.
    pub(super) fn widths(&self) -> &'static [&'static str] {
        if self.widths.is_empty() { &self.telltales[..1] } else { self.widths }
    }
}

/// Tensors under timm's names and in timm's layout.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The tensors. A name that no table knows is kept.
    pub map: TensorMap,
    /// The dialect of the file.
    pub dialect: Dialect,
    /// The detected family.
    pub family: &'static str,
    /// Number of attention heads, if the file's layout shows it (Google) or a key file states it.
    pub num_heads: Option<usize>,
    /// Fields of the configuration that a key file states.
    pub told: Map<String, Value>,
    /// Tensors that no model has, but that show its configuration: buffers of the library. Under timm's names.
    pub shown: Tensors,
}

/// Rows that do not form a dialect.
pub(super) struct ExtraTable {
    /// The library that uses the names.
    pub library: &'static str,
    /// The rows.
    pub rows: &'static [Row],
    /// Lines of a key file's `[config]` that usually fit these names.
    pub config: &'static [&'static str],
}
