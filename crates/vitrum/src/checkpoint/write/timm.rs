//! timm's `config.json`.

use serde_json::{Map, Value, json};

use crate::checkpoint::ModelCard;
use crate::models::{Config, ModelConfig};

/// `config.json` as timm's `save_config_for_hf` writes it.
pub(super) fn timm_config(card: &ModelCard, base: &ModelConfig) -> Result<Value, String> {
    let mut args = card.config.timm_args(base)?;
    args.remove("img_size");
    // timm's arguments whatever the architecture.
    let size = card.config.timm_takes_size().then_some("img_size");
    for field in ["in_chans", "num_classes", "global_pool"].into_iter().chain(size) {
        if let Some(value) = card.config.field(field) {
            args.insert(field.into(), value);
        }
    }
    let mut json = timm_top(card)?;
    json.insert("model_args".into(), Value::Object(args));
    json.insert("pretrained_cfg".into(), Value::Object(timm_pretrained(card)));
    Ok(Value::Object(json))
}

/// What stands at the top of `config.json`.
pub(super) fn timm_top(card: &ModelCard) -> Result<Map<String, Value>, String> {
    let architecture = card
        .architecture
        .as_deref()
        .ok_or("no architecture's name is known, which timm builds models from")?;
    let mut json = Map::new();
    json.insert("architecture".into(), json!(architecture));
    json.insert("num_classes".into(), json!(card.num_classes()));
    json.insert("num_features".into(), json!(card.config.num_features()));
    if let Some(pool) = card.config.field("global_pool") {
        json.insert("global_pool".into(), pool);
    }
    if !card.problem.is_default() {
        json.insert("problem_type".into(), json!(card.problem));
    }
    if let Some(labels) = &card.labels {
        json.insert("label_names".into(), json!(labels));
    }
    if let Some(descriptions) = &card.label_descriptions {
        json.insert("label_descriptions".into(), json!(descriptions));
    }
    Ok(json)
}

pub(super) fn timm_pretrained(card: &ModelCard) -> Map<String, Value> {
    let image = card.config.input().image();
    let mut json = Map::new();
    let mut put = |key: &str, value: Value| json.insert(key.to_string(), value);
    if let Some(tag) = &card.tag {
        put("tag", json!(tag));
    }
    put("custom_load", json!(false));
    put("input_size", json!([image.channels, image.size[0], image.size[1]]));
    put("fixed_input_size", json!(card.config.timm_takes_size()));
    if let Some(p) = &card.preprocess {
        put("interpolation", json!(p.interpolation));
        put("crop_pct", json!(p.crop_pct));
        put("crop_mode", json!(p.crop_mode));
        put("mean", floats(&p.mean));
        put("std", floats(&p.std));
    }
    put("num_classes", json!(card.num_classes()));
    put("pool_size", Value::Null);
    put("first_conv", json!(card.config.first_conv()));
    put(
        "classifier",
        match card.config.heads() {
            [head] => json!(head),
            heads => json!(heads),
        },
    );
    if let Some(license) = &card.license {
        put("license", json!(license));
    }
    json
}

/// Single precision numbers by their shortest text: 0.485, not 0.48500001430511475.
pub(super) fn floats(values: &[f32]) -> Value {
    Value::Array(
        values.iter().map(|v| v.to_string().parse::<f64>().map_or(Value::Null, |v| json!(v))).collect(),
    )
}
