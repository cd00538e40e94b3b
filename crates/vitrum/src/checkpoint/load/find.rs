//! Finds the files and the card of a model by name or path.

use std::path::{Path, PathBuf};

use super::{LoadOptions, ModelError};
use crate::checkpoint::card::ModelCard;
use crate::checkpoint::demo;
use crate::checkpoint::read::check_link;
use crate::data::Preprocess;
use crate::models::{ModelConfig, catalogue};

/// The result of [`find`].
pub(super) struct Found {
    pub name: String,
    pub card: Option<ModelCard>,
    /// The model of a catalogue name.
    pub named: Option<Named>,
    pub weights: Option<PathBuf>,
    pub preprocess: Option<Preprocess>,
    pub labels: Option<Vec<String>>,
    pub notes: Vec<String>,
}

/// A model of the catalogue.
pub(super) struct Named {
    pub name: String,
    pub config: ModelConfig,
}

impl Found {
    /// The configuration of the card, else of the catalogue name.
    pub fn config(&self) -> Option<&ModelConfig> {
        let card = self.card.as_ref().map(|card| &card.config);
        card.or(self.named.as_ref().map(|named| &named.config))
    }
}

/// Finds the files or the catalogue entry for `options.model`.
pub(super) fn find(options: &LoadOptions<'_>) -> Result<Found, ModelError> {
    let spec = &*options.spec();
    if names_hub(spec) {
        return of_path(&fetch(options)?, spec, options);
    }
    let path = options.model.as_path();
    check_link(path)?;
    if path.exists() {
        return of_path(path, spec, options);
    }
    if spec == demo::NAME {
        return of_path(&demo::folder()?, spec, options);
    }
    match catalogue::entry(spec) {
        Ok(entry) => Ok(of_name(spec, entry, options)),
        Err(_) if looks_like_path(spec) => Err(ModelError::NotFound { model: spec.into() }),
        Err(error) => Err(error.into()),
    }
}

fn looks_like_path(spec: &str) -> bool {
    let extensions =
        [".safetensors", ".npz", ".pth", ".pt", ".tar", ".bin", ".ckpt", ".json", ".pt2", ".onnx", ".h5"];
    spec.contains(['/', '\\']) || spec.starts_with('.') || extensions.iter().any(|end| spec.ends_with(end))
}

#[cfg(feature = "hub")]
fn names_hub(spec: &str) -> bool {
    crate::checkpoint::hub::is_hub_spec(spec)
}

/// Recognises hub names without the hub module, so that the error can say what this build lacks.
#[cfg(not(feature = "hub"))]
fn names_hub(spec: &str) -> bool {
    spec.starts_with("hf:") || spec.starts_with("hf-hub:")
}

#[cfg(feature = "hub")]
fn fetch(options: &LoadOptions<'_>) -> Result<PathBuf, ModelError> {
    let mut hub = crate::checkpoint::hub::HubOptions::from_env();
    hub.offline |= options.offline;
    hub.progress.clone_from(&options.progress);
    Ok(crate::checkpoint::hub::fetch(&options.spec(), &hub)?)
}

#[cfg(not(feature = "hub"))]
fn fetch(options: &LoadOptions<'_>) -> Result<PathBuf, ModelError> {
    Err(ModelError::NoHub { model: options.spec() })
}

/// Resolves a folder, a `config.json`, or a weights file with or without a card beside it.
fn of_path(path: &Path, spec: &str, options: &LoadOptions<'_>) -> Result<Found, ModelError> {
    let card = card_of(path)?;
    let is_card = path.extension().is_some_and(|extension| extension == "json") && !is_index(path);
    let own =
        if is_card { path.parent().unwrap_or(Path::new(".")).to_path_buf() } else { path.to_path_buf() };
    let name = spec.trim_end_matches('/').to_string();
    let mut found = Found {
        name,
        card: None,
        named: None,
        weights: Some(options.checkpoint.clone().unwrap_or(own)),
        preprocess: None,
        labels: None,
        notes: Vec::new(),
    };
    if let Some(card) = card {
        adopt(card, &mut found);
    }
    Ok(found)
}

fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".index.json"))
}

fn card_of(path: &Path) -> Result<Option<ModelCard>, ModelError> {
    let resolve = |name: &str| match catalogue::entry(name) {
        Ok(entry) => Ok(entry.config.clone()),
        Err(error) => Err(error.to_string()),
    };
    Ok(ModelCard::find(path, &resolve)?)
}

/// Stores a card, and copies its notes, preprocessing and labels.
pub(super) fn adopt(card: ModelCard, found: &mut Found) {
    found.notes.extend(card.notes.iter().map(|note| format!("{}: {note}", card.path.display())));
    found.preprocess.clone_from(&card.preprocess);
    found.labels.clone_from(&card.labels);
    found.card = Some(card);
}

/// Resolves a catalogue name: configuration and preprocessing from the catalogue, weights from `checkpoint`.
fn of_name(spec: &str, entry: &catalogue::Entry, options: &LoadOptions<'_>) -> Found {
    Found {
        name: spec.into(),
        card: None,
        named: Some(Named { name: spec.into(), config: entry.config.clone() }),
        weights: options.checkpoint.clone(),
        preprocess: Some(entry.preprocess()),
        labels: None,
        notes: catalogue::renamed(spec)
            .map(|new| format!("{spec}: timm's name is now {new}"))
            .into_iter()
            .collect(),
    }
}
