//! timm's `config.json`.

use serde_json::{Map, Value, json};

use crate::checkpoint::ModelCard;
use crate::models::vit::{Activation, GlobalPool, PosEmbed, VitConfig, WeightInit};

/// `config.json` as timm's `save_config_for_hf` writes it.
pub(super) fn timm_config(card: &ModelCard, base: &VitConfig) -> Result<Value, String> {
    if card.config.representation_size.is_some() {
        return Err("timm has no layer before the head (representation_size)".into());
    }
    let mut json = timm_top(card)?;
    json.insert("model_args".into(), Value::Object(timm_model_args(&card.config, base)?));
    json.insert("pretrained_cfg".into(), Value::Object(timm_pretrained(card)));
    Ok(Value::Object(json))
}

/// What stands at the top of `config.json`.
pub(super) fn timm_top(card: &ModelCard) -> Result<Map<String, Value>, String> {
    let config = &card.config;
    let architecture = card
        .architecture
        .as_deref()
        .ok_or("no architecture's name is known, which timm builds models from")?;
    let mut json = Map::new();
    json.insert("architecture".into(), json!(architecture));
    json.insert("num_classes".into(), json!(config.num_classes));
    json.insert("num_features".into(), json!(config.embed_dim));
    json.insert("global_pool".into(), json!(timm_pool(config.global_pool)));
    if let Some(labels) = &card.labels {
        json.insert("label_names".into(), json!(labels));
    }
    if let Some(descriptions) = &card.label_descriptions {
        json.insert("label_descriptions".into(), json!(descriptions));
    }
    Ok(json)
}

/// Arguments of timm's `VisionTransformer` that the architecture's name does not imply.
fn timm_model_args(config: &VitConfig, base: &VitConfig) -> Result<Map<String, Value>, String> {
    let mut args = Map::new();
    for (key, value) in [
        ("in_chans", json!(config.in_chans)),
        ("num_classes", json!(config.num_classes)),
        ("global_pool", json!(timm_pool(config.global_pool))),
        ("img_size", json!(config.img_size)),
    ] {
        args.insert(key.into(), value);
    }
    let changed = [
        ("patch_size", json!(config.patch_size), json!(base.patch_size)),
        ("embed_dim", json!(config.embed_dim), json!(base.embed_dim)),
        ("depth", json!(config.depth), json!(base.depth)),
        ("num_heads", json!(config.num_heads), json!(base.num_heads)),
        ("mlp_ratio", json!(config.mlp_ratio), json!(base.mlp_ratio)),
        ("qkv_bias", json!(config.qkv_bias), json!(base.qkv_bias)),
        ("qk_norm", json!(config.qk_norm), json!(base.qk_norm)),
        ("proj_bias", json!(config.proj_bias), json!(base.proj_bias)),
        ("init_values", json!(config.init_values), json!(base.init_values)),
        ("class_token", json!(config.class_token), json!(base.class_token)),
        ("reg_tokens", json!(config.reg_tokens), json!(base.reg_tokens)),
        ("no_embed_class", json!(config.no_embed_class), json!(base.no_embed_class)),
        ("pre_norm", json!(config.pre_norm), json!(base.pre_norm)),
        ("final_norm", json!(config.final_norm), json!(base.final_norm)),
        ("fc_norm", json!(config.fc_norm), json!(base.fc_norm)),
        ("pool_include_prefix", json!(config.pool_include_prefix), json!(base.pool_include_prefix)),
        ("rel_pos_dim", json!(config.rel_pos_dim), json!(base.rel_pos_dim)),
        ("act_layer", json!(timm_activation(config.act_layer)), json!(timm_activation(base.act_layer))),
        ("weight_init", json!(timm_init(config.weight_init)), json!(timm_init(base.weight_init))),
        ("drop_rate", json!(config.drop_rate), json!(base.drop_rate)),
        ("pos_drop_rate", json!(config.pos_drop_rate), json!(base.pos_drop_rate)),
        ("patch_drop_rate", json!(config.patch_drop_rate), json!(base.patch_drop_rate)),
        ("proj_drop_rate", json!(config.proj_drop_rate), json!(base.proj_drop_rate)),
        ("attn_drop_rate", json!(config.attn_drop_rate), json!(base.attn_drop_rate)),
        ("drop_path_rate", json!(config.drop_path_rate), json!(base.drop_path_rate)),
    ];
    args.extend(
        changed.into_iter().filter(|(_, new, old)| new != old).map(|(key, new, _)| (key.to_string(), new)),
    );
    if config.pos_embed != base.pos_embed {
        args.insert("pos_embed".into(), json!(timm_position(config.pos_embed, base.pos_embed)?));
    }
    if config.res_post_norm != base.res_post_norm {
        return Err("timm's config.json cannot state where the norms of the blocks stand".into());
    }
    if config.norm_eps != base.norm_eps {
        return Err(format!(
            "timm's config.json cannot state an epsilon of {:e} (the architecture has {:e})",
            config.norm_eps, base.norm_eps
        ));
    }
    Ok(args)
}

pub(super) fn timm_pretrained(card: &ModelCard) -> Map<String, Value> {
    let config = &card.config;
    let mut json = Map::new();
    let mut put = |key: &str, value: Value| json.insert(key.to_string(), value);
    if let Some(tag) = &card.tag {
        put("tag", json!(tag));
    }
    put("custom_load", json!(false));
    put("input_size", json!([config.in_chans, config.img_size[0], config.img_size[1]]));
    put("fixed_input_size", json!(true));
    if let Some(p) = &card.preprocess {
        put("interpolation", json!(p.interpolation));
        put("crop_pct", json!(p.crop_pct));
        put("crop_mode", json!(p.crop_mode));
        put("mean", floats(&p.mean));
        put("std", floats(&p.std));
    }
    put("num_classes", json!(config.num_classes));
    put("pool_size", Value::Null);
    put("first_conv", json!("patch_embed.proj"));
    put("classifier", if card.dist_head { json!(["head", "head_dist"]) } else { json!("head") });
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

fn timm_pool(pool: GlobalPool) -> &'static str {
    match pool {
        GlobalPool::Token => "token",
        GlobalPool::Avg => "avg",
        GlobalPool::Max => "max",
        GlobalPool::Avgmax => "avgmax",
        GlobalPool::Map => "map",
    }
}

/// The argument for a position encoding that is not the architecture's own.
fn timm_position(position: PosEmbed, of_architecture: PosEmbed) -> Result<&'static str, String> {
    match position {
        _ if of_architecture.is_relative() => {
            Err(format!("this architecture of timm's has {of_architecture:?} positions and no others"))
        }
        PosEmbed::Learn => Ok("learn"),
        PosEmbed::None => Ok("none"),
        other => Err(format!("timm's VisionTransformer has no position encoding {other:?}")),
    }
}

fn timm_activation(act: Activation) -> &'static str {
    match act {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_tanh",
        Activation::QuickGelu => "quick_gelu",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
    }
}

fn timm_init(init: WeightInit) -> &'static str {
    match init {
        WeightInit::Timm => "",
        WeightInit::Jax => "jax",
        WeightInit::JaxNlhb => "jax_nlhb",
        WeightInit::Moco => "moco",
    }
}
