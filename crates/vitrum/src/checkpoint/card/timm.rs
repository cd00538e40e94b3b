//! timm's `config.json` (`timm/models/_hub.py`, `save_config_for_hf`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{CardSource, Fields, ModelCard, Resolve, activation, expected, labels};
use crate::data::{CropMode, Interpolation, Preprocess};
use crate::models::vit::{GlobalPool, PosEmbed, VitConfig, WeightInit};

/// The card a timm `config.json` describes.
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
    // A model of ours that timm's arguments cannot express (`write_model`) names the nearest architecture aside.
    let own = top.get("vitrum");
    let name = match own {
        Some(_) => top.text("base_architecture")?.unwrap_or(name),
        None => name,
    };
    let base = resolve(name).map_err(|reason| format!("architecture `{name}`: {reason}"))?;
    let mut card = ModelCard::new(base, CardSource::Timm, "");
    card.architecture = Some(name.to_string());
    card.tag = pretrained.text("tag")?.or(name_tag).map(str::to_string);
    card.dist_token = name.contains("_distilled_");
    card.dist_head = card.dist_token;
    apply_pretrained(&mut card.config, &top, &pretrained)?;
    apply_model_args(&mut card, &top)?;
    if let Some(whole) = own {
        card.config = serde_json::from_value(whole.clone()).map_err(|error| format!("`vitrum`: {error}"))?;
    }
    note_pool(&mut card, &top)?;
    card.preprocess = preprocess(&pretrained, &mut card.notes)?;
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

/// What timm's builder takes from `pretrained_cfg` when the arguments do not say otherwise.
fn apply_pretrained(config: &mut VitConfig, top: &Fields, pretrained: &Fields) -> Result<(), String> {
    if let Some([channels, height, width]) = input_size(pretrained)? {
        config.in_chans = channels;
        if pretrained.flag("fixed_input_size")? != Some(false) {
            config.img_size = [height, width];
        }
    }
    if let Some(classes) = top.size("num_classes")?.or(pretrained.size("num_classes")?) {
        config.num_classes = classes;
    }
    Ok(())
}

fn input_size(pretrained: &Fields) -> Result<Option<[usize; 3]>, String> {
    let Some(value) = pretrained.get("input_size") else { return Ok(None) };
    let size = || {
        let sides = value.as_array()?.iter().map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok()));
        <[usize; 3]>::try_from(sides.collect::<Option<Vec<_>>>()?).ok()
    };
    size().map(Some).ok_or_else(|| expected("input_size", "three whole numbers", value))
}

/// Arguments the model was made with, over those of the architecture.
fn apply_model_args(card: &mut ModelCard, top: &Fields) -> Result<(), String> {
    let args = match top.get("model_args") {
        Some(Value::Object(args)) => Fields(args),
        Some(other) => return Err(expected("model_args", "an object", other)),
        None => return Ok(()),
    };
    for (key, value) in args.0.iter().filter(|(_, value)| !value.is_null()) {
        apply_model_arg(&mut card.config, &args, key, value).map_err(|e| format!("model_args: {e}"))?;
    }
    Ok(())
}

/// One argument of timm's `VisionTransformer`.
fn apply_model_arg(config: &mut VitConfig, args: &Fields, key: &str, value: &Value) -> Result<(), String> {
    // Values are not null, so each reader returns `Some`.
    match key {
        "img_size" => config.img_size = args.pair(key)?.unwrap_or(config.img_size),
        "patch_size" => config.patch_size = args.pair(key)?.unwrap_or(config.patch_size),
        "in_chans" => config.in_chans = args.size(key)?.unwrap_or_default(),
        "num_classes" => config.num_classes = args.size(key)?.unwrap_or_default(),
        "embed_dim" => config.embed_dim = args.size(key)?.unwrap_or_default(),
        "depth" => config.depth = args.size(key)?.unwrap_or_default(),
        "num_heads" => config.num_heads = args.size(key)?.unwrap_or_default(),
        "rel_pos_dim" => config.rel_pos_dim = args.size(key)?,
        "reg_tokens" => config.reg_tokens = args.size(key)?.unwrap_or_default(),
        "mlp_ratio" => config.mlp_ratio = args.number(key)?.unwrap_or_default(),
        "init_values" => config.init_values = args.number(key)?,
        "drop_rate" => config.drop_rate = args.number(key)?.unwrap_or_default(),
        "pos_drop_rate" => config.pos_drop_rate = args.number(key)?.unwrap_or_default(),
        "patch_drop_rate" => config.patch_drop_rate = args.number(key)?.unwrap_or_default(),
        "proj_drop_rate" => config.proj_drop_rate = args.number(key)?.unwrap_or_default(),
        "attn_drop_rate" => config.attn_drop_rate = args.number(key)?.unwrap_or_default(),
        "drop_path_rate" => config.drop_path_rate = args.number(key)?.unwrap_or_default(),
        "qkv_bias" => config.qkv_bias = args.flag(key)?.unwrap_or_default(),
        "qk_norm" => config.qk_norm = args.flag(key)?.unwrap_or_default(),
        "proj_bias" => config.proj_bias = args.flag(key)?.unwrap_or_default(),
        "class_token" => config.class_token = args.flag(key)?.unwrap_or_default(),
        "no_embed_class" => config.no_embed_class = args.flag(key)?.unwrap_or_default(),
        "pre_norm" => config.pre_norm = args.flag(key)?.unwrap_or_default(),
        "final_norm" => config.final_norm = args.flag(key)?.unwrap_or_default(),
        "fc_norm" => config.fc_norm = args.flag(key)?,
        "pool_include_prefix" => config.pool_include_prefix = args.flag(key)?.unwrap_or_default(),
        "global_pool" => config.global_pool = pool(args.text(key)?.unwrap_or_default())?,
        "pos_embed" => config.pos_embed = position(args.text(key)?.unwrap_or_default())?,
        "act_layer" => config.act_layer = activation(key, args.text(key)?.unwrap_or_default())?,
        "weight_init" => config.weight_init = weight_init(args.text(key)?.unwrap_or_default())?,
        "norm_layer" => match args.text(key)?.unwrap_or_default() {
            "layernorm" | "LayerNorm" => {}
            other => return Err(format!("`norm_layer` `{other}` is not supported")),
        },
        // How the image is fed or the weights begin, not what the model computes.
        "dynamic_img_size" | "strict_img_size" | "fix_init" => {
            args.flag(key)?;
        }
        "dynamic_img_pad" | "scale_attn_norm" | "scale_mlp_norm" if value == &Value::Bool(false) => {}
        other => return Err(format!("unknown argument `{other}` = {}", expected(other, "absent", value))),
    }
    Ok(())
}

fn pool(name: &str) -> Result<GlobalPool, String> {
    Ok(match name {
        "token" => GlobalPool::Token,
        "avg" => GlobalPool::Avg,
        "max" => GlobalPool::Max,
        "avgmax" => GlobalPool::Avgmax,
        "map" => GlobalPool::Map,
        other => return Err(format!("`global_pool` `{other}` is not supported")),
    })
}

fn position(name: &str) -> Result<PosEmbed, String> {
    Ok(match name {
        "learn" => PosEmbed::Learn,
        "" | "none" => PosEmbed::None,
        other => return Err(format!("`pos_embed` `{other}` is not supported")),
    })
}

fn weight_init(name: &str) -> Result<WeightInit, String> {
    Ok(match name {
        "" | "skip" | "reset" => WeightInit::Timm,
        "jax" => WeightInit::Jax,
        "jax_nlhb" => WeightInit::JaxNlhb,
        "moco" => WeightInit::Moco,
        other => return Err(format!("`weight_init` `{other}` is not supported")),
    })
}

/// `global_pool` at the top is there for people; timm builds from architecture and arguments.
fn note_pool(card: &mut ModelCard, top: &Fields) -> Result<(), String> {
    if let Some(stated) = top.text("global_pool")?
        && pool(stated).ok() != Some(card.config.global_pool)
    {
        card.notes.push(format!(
            "`global_pool` is `{stated}` at the top level, the architecture and its arguments give {:?}",
            card.config.global_pool
        ));
    }
    Ok(())
}

/// The preparation of images, if all of it is stated.
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
        notes.push(format!("preprocessing is not known: images of {channels} channels are not made here"));
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
        // Files older than the key mean the centre.
        crop_mode: named(pretrained, "crop_mode", CropMode::of_name, &modes)?.unwrap_or(CropMode::Center),
        mean: per_channel("mean")?,
        std: per_channel("std")?,
    }))
}

/// The value of a key that holds one of a few names.
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
