//! The card of a checkpoint: model config, preprocessing, labels, licence.
//!
//! timm keeps it in `config.json`, Hugging Face in `config.json` and `preprocessor_config.json`. torchvision's and
//! Google's files have no card: only the tensors are known.

mod huggingface;
mod timm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::LoadError;
pub use super::family::{Inferred, infer_config};
pub use super::fields::Fields;
use super::fields::expected;
use super::read::{Limits, check_link, read_bounded};
use crate::data::Preprocess;
use crate::models::{Config, ModelConfig, Precision};

/// Where a card comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CardSource {
    /// timm's `config.json`.
    Timm,
    /// Hugging Face transformers' `config.json`.
    HuggingFace,
    /// No file: inferred from the tensors' names and shapes.
    Tensors,
}

/// What the outputs of a model's head mean: Hugging Face's `problem_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemType {
    /// Logits of classes of which one is right: softmax. Files do not name it.
    #[default]
    #[serde(rename = "single_label_classification")]
    SingleLabel,
    /// Logits of classes of which any number is right: a sigmoid for each.
    #[serde(rename = "multi_label_classification")]
    MultiLabel,
    /// Numbers.
    #[serde(rename = "regression")]
    Regression,
}

impl ProblemType {
    /// Every problem type.
    pub const ALL: [Self; 3] = [Self::SingleLabel, Self::MultiLabel, Self::Regression];

    /// Hugging Face's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SingleLabel => "single_label_classification",
            Self::MultiLabel => "multi_label_classification",
            Self::Regression => "regression",
        }
    }

    /// Whether it is the default, which files do not name.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is known about a checkpoint besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Name of the architecture as the file gives it, such as `vit_tiny_patch16_224` or `ViTForImageClassification`.
    pub architecture: Option<String>,
    /// Training tag, after the dot in timm's name: `augreg_in21k_ft_in1k`.
    pub tag: Option<String>,
    /// The model.
    pub config: ModelConfig,
    /// Preprocessing of images; `None` if no file states it. Never guessed.
    pub preprocess: Option<Preprocess>,
    /// What the outputs of the head mean.
    #[serde(default, skip_serializing_if = "ProblemType::is_default")]
    pub problem: ProblemType,
    /// Name of each class, or of each number of a regression.
    pub labels: Option<Vec<String>>,
    /// A longer description for each label name.
    pub label_descriptions: Option<BTreeMap<String, String>>,
    /// The precision that the weights were saved for; f32 if the file says nothing.
    #[serde(default)]
    pub precision: Precision,
    /// Licence of the weights.
    pub license: Option<String>,
    /// Where the card comes from.
    pub source: CardSource,
    /// The file the card was read from.
    pub path: PathBuf,
    /// Notes for the user: assumed values, ignored keys.
    pub notes: Vec<String>,
    /// SHA-256 of the weights file, hexadecimal, if computed.
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
            problem: ProblemType::default(),
            labels: None,
            label_descriptions: None,
            precision: Precision::F32,
            license: None,
            source,
            path: path.into(),
            notes: Vec::new(),
            sha256: None,
        }
    }

    /// The card in a folder, or beside a weights file; `None` without a `config.json`.
    ///
    /// `resolve` turns an architecture's name into its configuration: timm's file has only the name.
    ///
    /// # Errors
    /// A file that is not JSON, an unknown model, and an invalid configuration.
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
            let note = format!("ignored {} labels for {} classes", labels.len(), card.num_classes());
            card.notes.push(note);
            card.labels = None;
        }
        Ok(card)
    }

    /// `K`; 0 for a model without a head, or of a family without classes.
    pub fn num_classes(&self) -> usize {
        self.config.num_classes()
    }

    /// Refuses a card with far more parameters than the weights file holds, before a model is built from it.
    ///
    /// # Errors
    /// [`LoadError::TooLarge`], and [`LoadError::Config`] for an invalid configuration.
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

/// `problem_type`; null or absent is the default.
fn problem(fields: &Fields) -> Result<ProblemType, String> {
    let Some(name) = fields.text("problem_type")? else { return Ok(ProblemType::default()) };
    let known = ProblemType::ALL.map(ProblemType::name);
    let found = ProblemType::ALL.into_iter().find(|problem| problem.name() == name);
    found.ok_or_else(|| format!("`problem_type` is `{name}`, expected one of {}", known.join(", ")))
}

/// A JSON object from a file.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, LoadError> {
    let text = read_bounded(path, "the configuration", Limits::default().json_bytes)?;
    if text.trim_ascii().is_empty() {
        return Err(LoadError::format(path, "JSON object", "the file is empty"));
    }
    serde_json::from_slice(&text).map_err(|e| LoadError::format(path, "JSON object", e))
}

/// Class names from a list, or from a map of class number to name. A class without a name is named by its number.
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
            // Allow gaps, but refuse a class number far beyond the number of names.
            if classes > MOST || classes > by_class.len().saturating_mul(100).saturating_add(1000) {
                return Err(format!("`{key}` has class {} but only {} names", classes - 1, by_class.len()));
            }
            Ok((0..classes)
                .map(|class| by_class.remove(&class).unwrap_or_else(|| class.to_string()))
                .collect())
        }
        other => Err(expected(key, "a list or a map of names", other)),
    }
}
