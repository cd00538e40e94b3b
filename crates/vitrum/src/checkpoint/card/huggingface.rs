//! Hugging Face's `config.json` and `preprocessor_config.json` (transformers 4.x and 5.x).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{CardSource, ModelCard, labels, problem, read_object};
use crate::checkpoint::LoadError;
use crate::checkpoint::error::shorten;
use crate::checkpoint::family::families;
use crate::checkpoint::fields::{Fields, expected};
use crate::checkpoint::read::check_link;
use crate::data::Preprocess;
use crate::data::preprocess::PreprocessError;
use crate::models::Config;

/// The card from a transformers `config.json`. Preprocessing is in another file.
pub(super) fn card(json: &Map<String, Value>) -> Result<ModelCard, String> {
    let fields = Fields(json);
    let class = class_name(&fields)?;
    let model_type = fields.text("model_type")?.unwrap_or_default();
    let found = families().find_map(|(_, family)| (family.of_huggingface)(&fields, class));
    let config = found.ok_or_else(|| format!("`model_type` `{model_type}` is not a supported model"))??;
    let classes = if classifies(class) { num_labels(&fields)? } else { 0 };
    let config = config.with("num_classes", json!(classes)).map_err(|error| error.to_string())?;
    let mut card = ModelCard::new(config, CardSource::HuggingFace, "");
    if let Some(value) = fields.get("id2label").filter(|_| classifies(class)) {
        card.labels = Some(labels("id2label", value)?).filter(|names| !are_placeholders(names));
    }
    if classifies(class) {
        card.problem = problem(&fields)?;
    }
    card.architecture = class.map(str::to_string);
    card.license = fields.text("license")?.map(str::to_string);
    Ok(card)
}

/// The Python class the weights were saved from; absent in hand-written files.
fn class_name<'a>(fields: &'a Fields) -> Result<Option<&'a str>, String> {
    match fields.get("architectures") {
        Some(Value::Array(names)) => Ok(names.first().and_then(Value::as_str)),
        Some(other) => Err(expected("architectures", "a list of names", other)),
        None => Ok(None),
    }
}

fn classifies(class: Option<&str>) -> bool {
    class.is_none_or(|name| name.contains("ForImageClassification"))
}

/// Number of classes: the larger of `num_labels` and the count in `id2label`. Without both, transformers' default of 2.
fn num_labels(fields: &Fields) -> Result<usize, String> {
    let stated = fields.size("num_labels")?;
    let named = match fields.get("id2label") {
        Some(Value::Object(names)) => {
            let last = names.keys().filter_map(|class| class.parse::<usize>().ok()).max();
            // Classes may lack a name. `labels` refuses a class number far beyond the number of names.
            Some(last.map_or(0, |last| last.saturating_add(1)).max(names.len()))
        }
        Some(other) => return Err(expected("id2label", "a map of class number to name", other)),
        None => None,
    };
    Ok(named.max(stated).unwrap_or(2))
}

/// Names transformers invents: `LABEL_0`, `LABEL_1`, …
fn are_placeholders(names: &[String]) -> bool {
    names.iter().enumerate().all(|(i, name)| *name == format!("LABEL_{i}"))
}

/// Adds preprocessing from the processor's configuration beside `config`. Like transformers 5, it reads
/// `image_processor` in `processor_config.json`, else `preprocessor_config.json`.
pub(super) fn add_preprocess(card: &mut ModelCard, config: &Path) -> Result<(), LoadError> {
    let Some((path, json)) = processor(config)? else {
        card.notes.push("preprocessing is not known: no preprocessor_config.json".into());
        return Ok(());
    };
    match Preprocess::from_processor(&json, card.config.input().image().channels) {
        Ok((found, notes)) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            card.notes.extend(notes.into_iter().map(|note| format!("{name}: {note}")));
            card.preprocess = Some(found);
        }
        Err(PreprocessError::NotKnown(why)) => {
            card.notes.push(format!("preprocessing is not known: {}", shorten(&why)));
        }
        Err(PreprocessError::HuggingFace(reason)) => return Err(LoadError::config(&path, reason)),
        Err(error) => return Err(LoadError::config(&path, error)),
    }
    Ok(())
}

/// The file of the image processor, and its fields.
type Processor = (PathBuf, Map<String, Value>);

/// The newer processor file if present, else the older one.
fn processor(config: &Path) -> Result<Option<Processor>, LoadError> {
    let whole = config.with_file_name("processor_config.json");
    check_link(&whole)?;
    if whole.is_file()
        && let Some(Value::Object(inner)) = read_object(&whole)?.remove("image_processor")
    {
        return Ok(Some((whole, inner)));
    }
    let own = config.with_file_name("preprocessor_config.json");
    check_link(&own)?;
    match own.is_file() {
        true => Ok(Some((own.clone(), read_object(&own)?))),
        false => Ok(None),
    }
}
