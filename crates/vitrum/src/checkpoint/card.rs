//! What travels with weights: the model they belong to, how images are prepared, labels, licence.
//!
//! timm keeps all of it in `config.json`; Hugging Face in `config.json` and `preprocessor_config.json`;
//! torchvision's and Google's files keep none of it, so that only what the tensors show is known.

mod huggingface;
mod timm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::LoadError;
pub use super::family::{Inferred, infer_config};
use super::read::{Limits, check_link, read_bounded};
use crate::data::Preprocess;
use crate::models::vit::Activation;
use crate::models::{Config, ModelConfig};

/// Where a card comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardSource {
    /// timm's `config.json`.
    Timm,
    /// Hugging Face transformers' `config.json`.
    HuggingFace,
    /// No file: what the tensors' names and shapes show.
    Tensors,
}

/// What is known about a checkpoint besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Name of the architecture as the file gives it, such as `vit_tiny_patch16_224` or `ViTForImageClassification`.
    pub architecture: Option<String>,
    /// Which training, after timm's dot: `augreg_in21k_ft_in1k`.
    pub tag: Option<String>,
    /// The model.
    pub config: ModelConfig,
    /// How images are prepared; `None` when no file says so. It is never guessed.
    pub preprocess: Option<Preprocess>,
    /// Name of each class.
    pub labels: Option<Vec<String>>,
    /// A longer description for each label name.
    pub label_descriptions: Option<BTreeMap<String, String>>,
    /// Licence of the weights.
    pub license: Option<String>,
    /// Where the card comes from.
    pub source: CardSource,
    /// The file the card was read from.
    pub path: PathBuf,
    /// What a user should know: values that were assumed, keys that could not be honoured.
    pub notes: Vec<String>,
    /// SHA-256 of the file of weights, hexadecimal, when it was computed.
    pub sha256: Option<String>,
}

/// Turns the name of an architecture into its configuration.
pub type Resolve<'a> = dyn Fn(&str) -> Result<ModelConfig, String> + 'a;

impl ModelCard {
    /// A card for `config` with nothing else known.
    pub fn new(config: impl Into<ModelConfig>, source: CardSource, path: impl Into<PathBuf>) -> Self {
        Self {
            architecture: None,
            tag: None,
            config: config.into(),
            preprocess: None,
            labels: None,
            label_descriptions: None,
            license: None,
            source,
            path: path.into(),
            notes: Vec::new(),
            sha256: None,
        }
    }

    /// The card in a folder, or beside a file of weights; `None` where there is no `config.json`.
    ///
    /// `resolve` turns an architecture's name, which is all that timm writes, into its configuration.
    ///
    /// # Errors
    /// A file that is not JSON, an unknown model, and values that describe no model.
    pub fn find(path: &Path, resolve: &Resolve<'_>) -> Result<Option<Self>, LoadError> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let config = folder.join("config.json");
        check_link(&config)?;
        if !config.is_file() {
            return Ok(None);
        }
        Self::read(&config, resolve).map(Some)
    }

    /// The card in a `config.json` of timm or Hugging Face (with the `preprocessor_config.json` beside it).
    pub fn read(path: &Path, resolve: &Resolve<'_>) -> Result<Self, LoadError> {
        let json = read_object(path)?;
        let fail = |reason: String| LoadError::config(path, reason);
        let mut card = if json.contains_key("architecture") {
            timm::card(&json, resolve).map_err(fail)?
        } else if json.contains_key("model_type") {
            let mut card = huggingface::card(&json).map_err(fail)?;
            huggingface::add_preprocess(&mut card, path)?;
            card
        } else {
            return Err(fail(
                "neither `architecture` (timm) nor `model_type` (Hugging Face) says which model this is"
                    .into(),
            ));
        };
        card.path = path.to_path_buf();
        card.config.validate().map_err(|error| fail(error.to_string()))?;
        if let Some(preprocess) = &card.preprocess {
            preprocess.check().map_err(|error| fail(error.to_string()))?;
        }
        if let Some(labels) = &card.labels
            && labels.len() != card.num_classes()
        {
            let note = format!("{} labels for {} classes were left out", labels.len(), card.num_classes());
            card.notes.push(note);
            card.labels = None;
        }
        Ok(card)
    }

    /// `K`; 0 for a model without a head, or of a family without classes.
    pub fn num_classes(&self) -> usize {
        self.config.num_classes()
    }

    /// Refuses a card that describes far more parameters than the file of weights holds, before any model is
    /// made from it.
    ///
    /// # Errors
    /// [`LoadError::TooLarge`], and [`LoadError::Config`] for a configuration that makes no model.
    pub fn check_size(&self, elements_in_file: usize) -> Result<(), LoadError> {
        // Room for another head and a larger position table.
        let limit = (elements_in_file as u64).saturating_mul(2).saturating_add(64 << 20);
        let walk = self.config.walk();
        let wanted = walk.map_err(|error| LoadError::config(&self.path, error))?.params;
        match wanted > limit {
            true => {
                Err(LoadError::too_large(&self.path, "the number of parameters described", wanted, limit))
            }
            false => Ok(()),
        }
    }
}

/// A JSON object from a file.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, LoadError> {
    let text = read_bounded(path, "the configuration", Limits::default().json_bytes)?;
    if text.trim_ascii().is_empty() {
        return Err(LoadError::format(path, "JSON object", "the file is empty"));
    }
    serde_json::from_slice(&text).map_err(|e| LoadError::format(path, "JSON object", e))
}

/// `F / D` such that `floor(D * ratio)` is `F` again.
pub(crate) fn mlp_ratio(hidden: usize, width: usize) -> f64 {
    let ratio = hidden as f64 / width.max(1) as f64;
    match (width as f64 * ratio) as usize == hidden {
        true => ratio,
        false => (hidden as f64 + 0.5) / width.max(1) as f64,
    }
}

/// Values of a JSON object, with the key in every error.
pub struct Fields<'a>(pub &'a Map<String, Value>);

impl Fields<'_> {
    /// The value of a key that is present and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, String> {
        self.get(key).map(|v| as_size(v).ok_or_else(|| expected(key, "a whole number", v))).transpose()
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let finite = |v: &Value| v.as_f64().filter(|n| n.is_finite());
        self.get(key).map(|v| finite(v).ok_or_else(|| expected(key, "a number", v))).transpose()
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| expected(key, "true or false", v))).transpose()
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, String> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| expected(key, "a text", v))).transpose()
    }

    /// One number for both sides, or height and width.
    pub(crate) fn pair(&self, key: &str) -> Result<Option<[usize; 2]>, String> {
        let pair = |v: &Value| match v {
            Value::Array(sides) => match sides.as_slice() {
                [side] => as_size(side).map(|n| [n, n]),
                [height, width] => Some([as_size(height)?, as_size(width)?]),
                _ => None,
            },
            v => as_size(v).map(|n| [n, n]),
        };
        self.get(key).map(|v| pair(v).ok_or_else(|| expected(key, "one or two whole numbers", v))).transpose()
    }

    /// Numbers in a list, or one number.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, String> {
        let numbers = |v: &Value| match v {
            Value::Array(items) => items.iter().map(|v| v.as_f64().map(|n| n as f32)).collect(),
            v => v.as_f64().map(|n| vec![n as f32]),
        };
        self.get(key).map(|v| numbers(v).ok_or_else(|| expected(key, "a list of numbers", v))).transpose()
    }
}

fn as_size(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// `key` should hold something else.
pub(crate) fn expected(key: &str, what: &str, found: &Value) -> String {
    let found: String = found.to_string().chars().take(80).collect();
    format!("`{key}` should be {what}, found {found}")
}

/// Class names from a list, or from a map of class number to name. Numbers without a name get themselves.
pub(crate) fn labels(key: &str, value: &Value) -> Result<Vec<String>, String> {
    const MOST: usize = 10_000_000;
    let text = |v: &Value| v.as_str().map(str::to_string).ok_or_else(|| expected(key, "names", v));
    match value {
        Value::Array(names) => names.iter().map(text).collect(),
        Value::Object(names) => {
            let mut by_class = BTreeMap::new();
            for (class, name) in names {
                let class: usize =
                    class.parse().map_err(|_| format!("`{key}`: `{class}` is not a class number"))?;
                by_class.insert(class, text(name)?);
            }
            let classes = by_class.last_key_value().map_or(0, |(&last, _)| last.saturating_add(1));
            // A few gaps are real; a class number far beyond the names is not.
            if classes > MOST || classes > by_class.len().saturating_mul(100).saturating_add(1000) {
                return Err(format!("`{key}` names class {} among {} classes", classes - 1, by_class.len()));
            }
            Ok((0..classes)
                .map(|class| by_class.remove(&class).unwrap_or_else(|| class.to_string()))
                .collect())
        }
        other => Err(expected(key, "a list or a map of names", other)),
    }
}

/// timm's and Hugging Face's names of non-linearities.
pub(crate) fn activation(key: &str, name: &str) -> Result<Activation, String> {
    Ok(match name {
        "gelu" | "GELU" => Activation::Gelu,
        "gelu_tanh" | "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        "quick_gelu" | "quickgelu" => Activation::QuickGelu,
        "relu" | "ReLU" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        other => return Err(format!("`{key}`: unknown activation `{other}`")),
    })
}
