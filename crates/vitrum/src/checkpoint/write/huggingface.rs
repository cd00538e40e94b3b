//! Hugging Face's `config.json` and `preprocessor_config.json`.

use serde_json::{Map, Value, json};

use super::floats;
use crate::checkpoint::{Dtype, ModelCard};
use crate::data::CropMode;
use crate::models::vit::{Activation, GlobalPool, PosEmbed, VitConfig};

/// `config.json` as transformers 5.23 writes it for ViT and DeiT.
pub(super) fn huggingface_config(card: &ModelCard, dtype: Dtype) -> Result<Value, String> {
    let config = &card.config;
    check_huggingface(card)?;
    let class = match (config.num_classes > 0, card.dist_token, card.dist_head) {
        (false, false, _) => "ViTModel",
        (false, true, _) => "DeiTModel",
        (true, false, _) => "ViTForImageClassification",
        (true, true, false) => "DeiTForImageClassification",
        (true, true, true) => "DeiTForImageClassificationWithTeacher",
    };
    let mut json = Map::new();
    let mut put = |key: &str, value: Value| json.insert(key.to_string(), value);
    put("architectures", json!([class]));
    put("attention_probs_dropout_prob", json!(config.attn_drop_rate));
    put("dtype", json!(torch_dtype(dtype)?));
    put("encoder_stride", json!(config.patch_size[0]));
    put("hidden_act", json!(huggingface_activation(config.act_layer)));
    put("hidden_dropout_prob", json!(config.proj_drop_rate));
    put("hidden_size", json!(config.embed_dim));
    if config.num_classes > 0 {
        let name =
            |i: usize| card.labels.as_ref().and_then(|l| l.get(i).cloned()).unwrap_or(format!("LABEL_{i}"));
        let names: Vec<String> = (0..config.num_classes).map(name).collect();
        let by_number: Map<String, Value> =
            names.iter().enumerate().map(|(i, n)| (i.to_string(), json!(n))).collect();
        let by_name: Map<String, Value> =
            names.iter().enumerate().map(|(i, n)| (n.clone(), json!(i))).collect();
        put("id2label", Value::Object(by_number));
        put("label2id", Value::Object(by_name));
    }
    put("image_size", side(config.img_size));
    put("initializer_range", json!(0.02));
    put("intermediate_size", json!(config.mlp_hidden_dim()));
    put("layer_norm_eps", json!(config.norm_eps));
    put("model_type", json!(if card.dist_token { "deit" } else { "vit" }));
    put("num_attention_heads", json!(config.num_heads));
    put("num_channels", json!(config.in_chans));
    put("num_hidden_layers", json!(config.depth));
    put("patch_size", side(config.patch_size));
    put("pooler_act", json!("tanh"));
    put("pooler_output_size", json!(config.representation_size.unwrap_or(config.embed_dim)));
    put("qkv_bias", json!(config.qkv_bias));
    Ok(Value::Object(json))
}

/// Refuses what transformers' ViT has no field for.
pub(super) fn check_huggingface(card: &ModelCard) -> Result<(), String> {
    let config = &card.config;
    let plain = VitConfig::default();
    let differs = [
        ("class_token", !config.class_token),
        ("reg_tokens", config.reg_tokens > 0),
        ("pos_embed", config.pos_embed != PosEmbed::Learn),
        ("no_embed_class", config.no_embed_class),
        ("pre_norm", config.pre_norm),
        ("final_norm", config.final_norm != plain.final_norm),
        ("fc_norm", config.use_fc_norm()),
        ("global_pool", config.global_pool != GlobalPool::Token),
        ("init_values", config.init_values.is_some()),
        ("res_post_norm", config.res_post_norm),
        ("qk_norm", config.qk_norm),
        ("proj_bias", !config.proj_bias),
        ("representation_size with a head", config.representation_size.is_some() && config.num_classes > 0),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((key, _)) => Err(format!("transformers' ViT has no counterpart for this value of {key}")),
        None => Ok(()),
    }
}

/// One number for a square.
fn side(size: [usize; 2]) -> Value {
    if size[0] == size[1] { json!(size[0]) } else { json!(size) }
}

fn huggingface_activation(act: Activation) -> &'static str {
    match act {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::QuickGelu => "quick_gelu",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
    }
}

fn torch_dtype(dtype: Dtype) -> Result<&'static str, String> {
    match dtype {
        Dtype::F32 => Ok("float32"),
        Dtype::F16 => Ok("float16"),
        Dtype::BF16 => Ok("bfloat16"),
        Dtype::F64 => Ok("float64"),
        other => Err(format!("weights of type {other} are not written")),
    }
}

/// `preprocessor_config.json`; `None` when preprocessing is not known.
pub(super) fn huggingface_preprocess(card: &ModelCard) -> Result<Option<Value>, String> {
    let Some(p) = &card.preprocess else { return Ok(None) };
    let [_, height, width] = p.input_size;
    let resized = |side: usize| (side as f64 / p.crop_pct).floor() as usize;
    let exact = resized(height) == height && resized(width) == width;
    let size = match p.crop_mode {
        CropMode::Squash => json!({"height": resized(height), "width": resized(width)}),
        CropMode::Center if height == width => json!({"shortest_edge": resized(height)}),
        other => {
            let mode = other.name();
            return Err(format!(
                "crop_mode `{mode}` at {height} by {width} has no counterpart in transformers"
            ));
        }
    };
    let crop = p.crop_mode == CropMode::Center || !exact;
    // ViTImageProcessor knows neither crops nor `shortest_edge`; CLIP's knows both.
    let processor = match (crop, p.crop_mode) {
        (false, _) => "ViTImageProcessor",
        (true, CropMode::Squash) => "DeiTImageProcessor",
        (true, _) => "CLIPImageProcessor",
    };
    let mut json = Map::new();
    let mut put = |key: &str, value: Value| json.insert(key.to_string(), value);
    if crop {
        put("crop_size", json!({"height": height, "width": width}));
        put("do_center_crop", json!(true));
    }
    put("do_normalize", json!(true));
    put("do_rescale", json!(true));
    put("do_resize", json!(true));
    put("image_mean", floats(&p.mean));
    put("image_processor_type", json!(processor));
    put("image_std", floats(&p.std));
    put("resample", json!(p.interpolation.pillow_code()));
    put("rescale_factor", json!(1.0 / 255.0));
    put("size", size);
    Ok(Some(Value::Object(json)))
}
