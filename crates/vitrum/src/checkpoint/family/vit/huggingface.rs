//! transformers' `config.json` of ViT, ViT-MAE and DINOv2.

use serde_json::{Map, Value, json};

use crate::checkpoint::family::HuggingFaceModel;
use crate::checkpoint::fields::{Fields, activation, mlp_ratio};
use crate::models::vit::{Activation, GlobalPool, MlpLayer, PosEmbed, PosResize, VitConfig};

/// The configuration from these fields; `None` if the `model_type` belongs to another family.
pub(super) fn read(fields: &Fields<'_>, class: Option<&str>) -> Option<Result<VitConfig, String>> {
    let read = || {
        let mut config = common(fields)?;
        if fields.text("model_type")?.is_some_and(|name| name.starts_with("dinov2")) {
            dinov2(&mut config, fields, class)?;
        }
        config.representation_size = pooler(fields, class)?;
        Ok(config)
    };
    match fields.text("model_type") {
        // Another family.
        Ok(Some("vit")) if class == Some("ViTForMaskedImageModeling") => None,
        Ok(Some("vit" | "dinov2" | "dinov2_with_registers")) => Some(read()),
        // The encoder alone.
        Ok(Some("vit_mae")) if class.is_some_and(|class| class != "ViTMAEForPreTraining") => Some(read()),
        _ => None,
    }
}

/// Fields that ViT, DeiT, ViT-MAE and DINOv2 share, with transformers' defaults.
pub(in crate::checkpoint::family) fn common(fields: &Fields) -> Result<VitConfig, String> {
    let width = fields.size("hidden_size")?.unwrap_or(768);
    let hidden = fields.size("intermediate_size")?.unwrap_or(3072);
    Ok(VitConfig {
        img_size: fields.pair("image_size")?.unwrap_or([224, 224]),
        patch_size: fields.pair("patch_size")?.unwrap_or([16, 16]),
        in_chans: fields.size("num_channels")?.unwrap_or(3),
        embed_dim: width,
        depth: fields.size("num_hidden_layers")?.unwrap_or(12),
        num_heads: fields.size("num_attention_heads")?.unwrap_or(12),
        mlp_ratio: mlp_ratio(hidden, width),
        qkv_bias: fields.flag("qkv_bias")?.unwrap_or(true),
        act_layer: match fields.text("hidden_act")? {
            Some(name) => activation("hidden_act", name)?,
            None => Activation::Gelu,
        },
        norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-12),
        proj_drop_rate: fields.number("hidden_dropout_prob")?.unwrap_or(0.0),
        attn_drop_rate: fields.number("attention_probs_dropout_prob")?.unwrap_or(0.0),
        pos_resize: PosResize::Bicubic,
        ..VitConfig::default()
    })
}

/// Applies DINOv2's fields: the MLP ratio, LayerScale, and the registers of one variant.
fn dinov2(config: &mut VitConfig, fields: &Fields, class: Option<&str>) -> Result<(), String> {
    if class.is_some_and(|name| name.contains("ForImageClassification")) {
        return Err(format!(
            "{} classifies from two tokens at once, which is not supported",
            class.unwrap_or_default()
        ));
    }
    config.mlp_ratio = fields.number("mlp_ratio")?.unwrap_or(4.0);
    if fields.flag("use_swiglu_ffn")? == Some(true) {
        (config.mlp_layer, config.act_layer) = (MlpLayer::SwigluPacked, Activation::Silu);
        // Two thirds of the width, rounded up to a multiple of 8; timm counts both halves.
        let hidden = (config.embed_dim as f64 * config.mlp_ratio) as usize;
        let gated = ((hidden as f64 * 2.0 / 3.0) as usize).div_ceil(8).saturating_mul(16);
        config.mlp_ratio = mlp_ratio(gated, config.embed_dim);
    }
    config.init_values = Some(fields.number("layerscale_value")?.unwrap_or(1.0));
    config.norm_eps = fields.number("layer_norm_eps")?.unwrap_or(1e-6);
    if fields.text("model_type")? == Some("dinov2_with_registers") {
        config.reg_tokens = fields.size("num_register_tokens")?.unwrap_or(4);
        // Registers get no position. Conversion adds the class token's position to the token.
        config.no_embed_class = true;
        // Since 4.48, and only in this model, transformers uses `antialias=True`.
        config.pos_resize = PosResize::BicubicAntialias;
    }
    Ok(())
}

/// Width of the pooler of `ViTModel` and `DeiTModel`: dense layer and tanh on the class token, the paper's pre-logits.
pub(in crate::checkpoint::family) fn pooler(
    fields: &Fields,
    class: Option<&str>,
) -> Result<Option<usize>, String> {
    if !matches!(class, Some("ViTModel" | "DeiTModel")) {
        return Ok(None);
    }
    if let Some(act) = fields.text("pooler_act")?
        && act != "tanh"
    {
        return Err(format!("`pooler_act` `{act}` is not supported, only `tanh`"));
    }
    Ok(Some(match fields.size("pooler_output_size")? {
        Some(size) => size,
        None => fields.size("hidden_size")?.unwrap_or(768),
    }))
}

/// The model as transformers' `ViTModel` or `ViTForImageClassification`.
pub(super) fn write(config: &VitConfig) -> Result<HuggingFaceModel, String> {
    let class = if config.num_classes > 0 { "ViTForImageClassification" } else { "ViTModel" };
    Ok(HuggingFaceModel { model_type: "vit", class, fields: fields(config)?, is_own: is_own(config) })
}

/// Whether a model resizes positions like transformers and has another epsilon than timm's default.
pub(in crate::checkpoint::family) fn is_own(config: &VitConfig) -> bool {
    config.pos_resize == PosResize::Bicubic && config.norm_eps != VitConfig::default().norm_eps
}

/// The fields that transformers' ViT and its relatives share.
pub(in crate::checkpoint::family) fn fields(config: &VitConfig) -> Result<Map<String, Value>, String> {
    check(config)?;
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| fields.insert(key.to_string(), value);
    put("attention_probs_dropout_prob", json!(config.attn_drop_rate));
    put("encoder_stride", json!(config.patch_size[0]));
    put("hidden_act", json!(huggingface_activation(config.act_layer)));
    put("hidden_dropout_prob", json!(config.proj_drop_rate));
    put("hidden_size", json!(config.embed_dim));
    put("image_size", side(config.img_size));
    put("initializer_range", json!(0.02));
    put("intermediate_size", json!(config.mlp_hidden_dim()));
    put("layer_norm_eps", json!(config.norm_eps));
    put("num_attention_heads", json!(config.num_heads));
    put("num_channels", json!(config.in_chans));
    put("num_hidden_layers", json!(config.depth));
    put("patch_size", side(config.patch_size));
    put("pooler_act", json!("tanh"));
    put("pooler_output_size", json!(config.representation_size.unwrap_or(config.embed_dim)));
    put("qkv_bias", json!(config.qkv_bias));
    Ok(fields)
}

/// Refuses values that transformers' ViT has no field for.
fn check(config: &VitConfig) -> Result<(), String> {
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
        ("block_fn", config.block_fn != plain.block_fn),
        ("attn_layer", config.attn_layer != plain.attn_layer),
        ("norm_layer", config.norm_layer != plain.norm_layer),
        ("res_post_norm", config.res_post_norm),
        ("block_norm", config.block_norm != plain.block_norm),
        ("attn_head_dim", config.attn_head_dim.is_some()),
        ("patch_norm", config.patch_norm),
        ("embed_norm", config.embed_norm),
        ("qk_norm", config.qk_norm),
        ("scale_attn_norm", config.scale_attn_norm),
        ("scale_mlp_norm", config.scale_mlp_norm),
        ("mlp_layer", config.mlp_layer != plain.mlp_layer),
        ("proj_bias", !config.proj_bias),
        ("representation_size with a head", config.representation_size.is_some() && config.num_classes > 0),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((key, _)) => Err(format!("transformers' ViT has no counterpart for this value of {key}")),
        None => Ok(()),
    }
}

/// A size as JSON: one number for a square, else two.
pub(in crate::checkpoint::family) fn side(size: [usize; 2]) -> Value {
    if size[0] == size[1] { json!(size[0]) } else { json!(size) }
}

/// transformers' name of an activation.
pub(in crate::checkpoint::family) fn huggingface_activation(act: Activation) -> &'static str {
    match act {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::QuickGelu => "quick_gelu",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
    }
}
