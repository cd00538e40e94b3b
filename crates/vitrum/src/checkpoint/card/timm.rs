//! timm's `config.json` (`timm/models/_hub.py`, `save_config_for_hf`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{CardSource, ModelCard, Resolve, labels, problem};
use crate::checkpoint::fields::{Fields, expected};
use crate::data::{CropMode, Interpolation, Preprocess};
use crate::models::{ModelConfig, catalogue};

/// The card from a timm `config.json`.
///
/// The oldest files have the fields of `pretrained_cfg` at the top level.
pub(super) fn card(json: &Map<String, Value>, resolve: &Resolve<'_>) -> Result<ModelCard, String> {
    let top = Fields(json);
    let nested = match top.get("pretrained_cfg") {
        Some(Value::Object(cfg)) => Some(cfg),
        Some(other) => return Err(expected("pretrained_cfg", "an object", other)),
        None => None,
    };
    let pretrained = Fields(nested.unwrap_or(json));
    let full_name = top.text("architecture")?.ok_or("`architecture` is null")?;
    let (name, name_tag) = match full_name.split_once('.') {
        Some((name, tag)) => (name, Some(tag)),
        None => (full_name, None),
    };
    // vitrum's own file (`write_model`, for what timm's arguments cannot express) has the nearest architecture in
    // `base_architecture`.
    let own = top.get("vitrum");
    let name = match own {
        Some(_) => top.text("base_architecture")?.unwrap_or(name),
        None => name,
    };
    let base = resolve(name).map_err(|reason| format!("architecture `{name}`: {reason}"))?;
    let mut card = ModelCard::new(base, CardSource::Timm, "");
    let (renamed, new_tag) = match catalogue::renamed(name) {
        Some(new) => {
            card.notes.push(format!("architecture `{name}`: timm's name is now {new}"));
            new.split_once('.').map_or((new, None), |(new, tag)| (new, Some(tag)))
        }
        None => (name, None),
    };
    card.architecture = Some(renamed.to_string());
    card.tag = pretrained.text("tag")?.or(name_tag).or(new_tag).map(str::to_string);
    card.config = with_pretrained(card.config, &top, &pretrained)?;
    card.config = with_model_args(card.config, &top)?;
    if let Some(whole) = own {
        card.config = serde_json::from_value(whole.clone()).map_err(|error| format!("`vitrum`: {error}"))?;
    }
    card.problem = problem(&top)?;
    note_pool(&mut card, &top)?;
    card.preprocess = preprocess(&pretrained, &mut card.notes)?;
    if let Some(precision) = top.get("vitrum_precision") {
        card.precision = serde_json::from_value(precision.clone())
            .map_err(|_| expected("vitrum_precision", "f32, bf16 or int8", precision))?;
    }
    card.license = pretrained.text("license")?.or(top.text("license")?).map(str::to_string);
    let names =
        ["label_names", "labels"].iter().find_map(|key| Some((*key, top.get(key).or(pretrained.get(key))?)));
    if let Some((key, value)) = names {
        card.labels = Some(labels(key, value)?);
    }
    if let Some(value) = top.get("label_descriptions").or(pretrained.get("label_descriptions")) {
        card.label_descriptions = Some(descriptions(value)?);
    }
    Ok(card)
}

/// Applies what timm's builder takes from `pretrained_cfg`. `model_args` override it.
fn with_pretrained(config: ModelConfig, top: &Fields, pretrained: &Fields) -> Result<ModelConfig, String> {
    // A model of any size is used at the size it was made for.
    let is_fixed = !config.timm_takes_size() || pretrained.flag("fixed_input_size")? != Some(false);
    let mut config = config;
    let mut set = |field: &str, value: Value| {
        config = config.with(field, value).map_err(|error| error.to_string())?;
        Ok::<(), String>(())
    };
    if let Some([channels, height, width]) = input_size(pretrained)? {
        set("in_chans", json!(channels))?;
        if is_fixed {
            set("img_size", json!([height, width]))?;
        }
    }
    if let Some(classes) = top.size("num_classes")?.or(pretrained.size("num_classes")?) {
        set("num_classes", json!(classes))?;
    }
    Ok(config)
}

fn input_size(pretrained: &Fields) -> Result<Option<[usize; 3]>, String> {
    let Some(value) = pretrained.get("input_size") else { return Ok(None) };
    let size = || {
        let sides = value.as_array()?.iter().map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok()));
        <[usize; 3]>::try_from(sides.collect::<Option<Vec<_>>>()?).ok()
    };
    size().map(Some).ok_or_else(|| expected("input_size", "three whole numbers", value))
}

/// Applies `model_args` over the architecture's configuration.
fn with_model_args(config: ModelConfig, top: &Fields) -> Result<ModelConfig, String> {
    let args = match top.get("model_args") {
        Some(Value::Object(args)) => args,
        Some(other) => return Err(expected("model_args", "an object", other)),
        None => return Ok(config),
    };
    args.iter().try_fold(config, |config, (key, value)| match config.with_timm_arg(key, value) {
        // `null` for a field that must have a value keeps the architecture's.
        Err(_) if value.is_null() => Ok(config),
        applied => applied.map_err(|error| format!("model_args: {error}")),
    })
}

/// Notes a top-level `global_pool` that differs from the model's. timm ignores it and builds from architecture and
/// arguments.
fn note_pool(card: &mut ModelCard, top: &Fields) -> Result<(), String> {
    if let Some(stated) = top.text("global_pool")?
        && let Some(own) = card.config.field("global_pool")
        && own != json!(stated)
    {
        card.notes.push(format!(
            "`global_pool` is `{stated}` at the top level, but the architecture and its arguments give {own}"
        ));
    }
    Ok(())
}

/// The preprocessing, if the file states all of it.
fn preprocess(pretrained: &Fields, notes: &mut Vec<String>) -> Result<Option<Preprocess>, String> {
    let missing: Vec<&str> = ["input_size", "interpolation", "crop_pct", "mean", "std"]
        .into_iter()
        .filter(|key| pretrained.get(key).is_none())
        .collect();
    if !missing.is_empty() {
        notes.push(format!("preprocessing is not known: {} missing", missing.join(", ")));
        return Ok(None);
    }
    let input_size = input_size(pretrained)?.unwrap_or_default();
    let channels = input_size[0];
    if !matches!(channels, 1 | 3) {
        notes.push(format!("preprocessing is not known: images of {channels} channels are not supported"));
        return Ok(None);
    }
    let per_channel = |key: &str| -> Result<Vec<f32>, String> {
        let values = pretrained.numbers(key)?.unwrap_or_default();
        Ok(if values.len() == 1 { vec![values[0]; channels] } else { values })
    };
    let filters = Interpolation::ALL.map(Interpolation::name);
    let modes = CropMode::ALL.map(CropMode::name);
    Ok(Some(Preprocess {
        input_size,
        interpolation: named(pretrained, "interpolation", Interpolation::of_name, &filters)?
            .unwrap_or_default(),
        crop_pct: pretrained.number("crop_pct")?.unwrap_or_default(),
        // Older files lack the key; their crop mode is `center`.
        crop_mode: named(pretrained, "crop_mode", CropMode::of_name, &modes)?.unwrap_or(CropMode::Center),
        mean: per_channel("mean")?,
        std: per_channel("std")?,
    }))
}

/// The value of a key that takes one of `names`.
fn named<T>(
    fields: &Fields,
    key: &str,
    of_name: fn(&str) -> Option<T>,
    names: &[&str],
) -> Result<Option<T>, String> {
    let Some(name) = fields.text(key)? else { return Ok(None) };
    let unknown = || format!("`{key}` is `{name}`, expected one of {}", names.join(", "));
    of_name(name).map(Some).ok_or_else(unknown)
}

fn descriptions(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let text =
        |v: &Value| v.as_str().map(str::to_string).ok_or_else(|| expected("label_descriptions", "texts", v));
    match value {
        Value::Object(map) => map.iter().map(|(name, v)| Ok((name.clone(), text(v)?))).collect(),
        other => Err(expected("label_descriptions", "a map of name to text", other)),
    }
}
