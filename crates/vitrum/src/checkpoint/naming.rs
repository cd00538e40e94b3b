//! How libraries name tensors, and tensors under timm's names.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::keys::{Edit, Row};
use super::tensors::Tensors;
use super::{LoadError, TensorMap};

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
    /// lucidrains' vit-pytorch.
    Lucidrains,
    /// The names of a key file.
    Custom,
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
            Self::Lucidrains => "vit-pytorch",
            Self::Custom => "custom",
        }
    }
}

/// How one library names the tensors of one family.
#[derive(Debug)]
pub struct Naming {
    /// The library.
    pub dialect: Dialect,
    /// Ends of names that every such file has. What stands in front of the first one stands in front of all tensors of
    /// the model. Of two families that fit a file, the one with more telltales has it.
    pub telltales: &'static [&'static str],
    /// Whether other libraries use the telltale's word, too.
    pub is_weak: bool,
    /// From the library's names to timm's.
    pub rows: &'static [&'static [Row]],
    /// Names that stand beside the model, never under its prefix: heads, in files of transformers.
    pub beside: &'static [Row],
    /// What the library puts in front of the model's names beside a head, when the file is written.
    pub base: &'static str,
    /// Layers that make logits in such files, the usual one first.
    pub heads: &'static [&'static str],
    /// Why a tensor of this name, without the prefix, may be left out; `None` if it may not. The tensors are the whole
    /// file's.
    pub left_out: fn(&str, &Tensors) -> Option<&'static str>,
    /// timm's name of a tensor outside the prefix (the first argument) that belongs to the model.
    pub outside: fn(&str, &str) -> Option<(String, Edit)>,
    /// What stands in front of tensors that hold all blocks, and in front of the same block by block.
    pub stacked: Option<[&'static str; 2]>,
    /// The further steps of renamed tensors; returns the number of heads, if they show it.
    pub finish: fn(&mut TensorMap) -> Result<Option<usize>, LoadError>,
}

impl Naming {
    /// A naming without any of the exceptions.
    pub const fn new(dialect: Dialect, telltales: &'static [&'static str]) -> Self {
        Self {
            dialect,
            telltales,
            is_weak: false,
            rows: &[],
            beside: &[],
            base: "",
            heads: &["head"],
            left_out: |_, _| None,
            outside: |_, _| None,
            stacked: None,
            finish: |_| Ok(None),
        }
    }

    /// The name whose prefix is the model's.
    pub fn telltale(&self) -> &'static str {
        self.telltales[0]
    }
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
    /// Heads of attention, where the file's layout shows them (Google), or a key file states them.
    pub num_heads: Option<usize>,
    /// Fields of the configuration that a key file states.
    pub told: Map<String, Value>,
}

/// Rows that are no dialect of their own.
pub(super) struct ExtraTable {
    /// Whose names they are.
    pub library: &'static str,
    /// The rows.
    pub rows: &'static [Row],
    /// Lines of `[config]` that usually go with them.
    pub config: &'static [&'static str],
}
