//! transformers' `config.json` of Swin and Swin V2.

use serde_json::{Value, json};

use crate::checkpoint::family::HuggingFaceModel;
use crate::checkpoint::family::vit::huggingface::{huggingface_activation, side};
use crate::checkpoint::fields::{Fields, activation};
use crate::layers::window::{StageSizes, Windows};
use crate::models::Config;
use crate::models::swin::{SwinConfig, SwinVersion, WindowFit};
use crate::models::vit::Activation;

/// The configuration of transformers' `SwinConfig` or `Swinv2Config`.
pub(super) fn read(fields: &Fields<'_>, version: SwinVersion) -> Result<SwinConfig, String> {
    let plain = SwinConfig::default();
    if fields.flag("use_absolute_embeddings")? == Some(true) {
        return Err("`use_absolute_embeddings` is not supported".into());
    }
    let eps = fields.number("layer_norm_eps")?.unwrap_or(plain.norm_eps);
    if eps != plain.norm_eps {
        // Only the norms of the blocks and the last one have it.
        return Err(format!("`layer_norm_eps` {eps:e} is not supported, only {:e}", plain.norm_eps));
    }
    let window = fields.size("window_size")?.unwrap_or(7);
    let depths = fields.sizes("depths")?.unwrap_or_else(|| plain.depths.clone());
    let pretrained = fields.sizes("pretrained_window_sizes")?.unwrap_or_else(|| vec![0; depths.len()]);
    let config = SwinConfig {
        img_size: fields.pair("image_size")?.unwrap_or(plain.img_size),
        patch_size: fields.pair("patch_size")?.unwrap_or(plain.patch_size),
        in_chans: fields.size("num_channels")?.unwrap_or(plain.in_chans),
        embed_dim: fields.size("embed_dim")?.unwrap_or(plain.embed_dim),
        num_heads: fields.sizes("num_heads")?.unwrap_or_else(|| plain.num_heads.clone()),
        window_size: StageSizes::square(window),
        window_fit: own_fit(version),
        pad_first: true,
        mlp_ratio: fields.number("mlp_ratio")?.unwrap_or(plain.mlp_ratio),
        qkv_bias: fields.flag("qkv_bias")?.unwrap_or(true),
        version,
        pretrained_window_sizes: match version {
            SwinVersion::V1 => StageSizes::square(0),
            SwinVersion::V2 => StageSizes::of_stages(pretrained.into_iter().map(|side| [side; 2]).collect()),
        },
        act_layer: match fields.text("hidden_act")? {
            Some(name) => activation("hidden_act", name)?,
            None => Activation::Gelu,
        },
        proj_drop_rate: fields.number("hidden_dropout_prob")?.unwrap_or(0.0),
        attn_drop_rate: fields.number("attention_probs_dropout_prob")?.unwrap_or(0.0),
        drop_path_rate: fields.number("drop_path_rate")?.unwrap_or(0.1),
        depths,
        ..plain
    };
    config.validate().map_err(|error| error.to_string())?;
    check_patches(&config)?;
    if version == SwinVersion::V2 { check_windows(&config, window).map(|()| config) } else { Ok(config) }
}

/// The model as transformers' `SwinModel`, `SwinForImageClassification`, `Swinv2Model` or
/// `Swinv2ForImageClassification`.
pub(super) fn write(config: &SwinConfig) -> Result<HuggingFaceModel, String> {
    let plain = SwinConfig::default();
    let is_v2 = config.version == SwinVersion::V2;
    for (key, differs) in [
        ("head_dim", config.head_dim.is_some()),
        ("norm_eps", config.norm_eps != plain.norm_eps),
        ("global_pool", config.global_pool != plain.global_pool),
    ] {
        if differs {
            return Err(format!("transformers' Swin has no counterpart for this value of {key}"));
        }
    }
    let Some(window) = config.window_size.one() else {
        return Err("transformers' Swin has the same square windows in all stages (window_size)".into());
    };
    check_patches(config)?;
    check_windows(config, window)?;
    let fields = json!({
        "image_size": side(config.img_size),
        "patch_size": side(config.patch_size),
        "num_channels": config.in_chans,
        "embed_dim": config.embed_dim,
        "depths": config.depths,
        "num_heads": config.num_heads,
        "window_size": window,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        "hidden_dropout_prob": config.proj_drop_rate,
        "attention_probs_dropout_prob": config.attn_drop_rate,
        "drop_path_rate": config.drop_path_rate,
        "hidden_act": huggingface_activation(config.act_layer),
        "use_absolute_embeddings": false,
        "initializer_range": 0.02,
        "layer_norm_eps": config.norm_eps,
        "encoder_stride": config.patch_size[0] << (config.depths.len() - 1),
        "hidden_size": config.num_features(),
    });
    let Value::Object(mut fields) = fields else { unreachable!("an object") };
    if is_v2 {
        let square = |stage| match config.pretrained_window_sizes.at(stage) {
            [h, w] if h == w => Ok(h),
            [h, w] => Err(format!("transformers' Swin has no pretrained windows of {h}x{w}, only squares")),
        };
        let sides = (0..config.depths.len()).map(square).collect::<Result<Vec<usize>, _>>()?;
        fields.insert("pretrained_window_sizes".into(), json!(sides));
    }
    let (model_type, class) = match (config.version, config.num_classes > 0) {
        (SwinVersion::V1, true) => ("swin", "SwinForImageClassification"),
        (SwinVersion::V1, false) => ("swin", "SwinModel"),
        (SwinVersion::V2, true) => ("swinv2", "Swinv2ForImageClassification"),
        (SwinVersion::V2, false) => ("swinv2", "Swinv2Model"),
    };
    let is_own = config.pad_first && config.window_fit == own_fit(config.version);
    Ok(HuggingFaceModel { model_type, class, fields, is_own })
}

/// What transformers does with windows that are not smaller than the map.
fn own_fit(version: SwinVersion) -> WindowFit {
    match version {
        SwinVersion::V1 => WindowFit::ShorterSide,
        SwinVersion::V2 => WindowFit::Config,
    }
}

/// Refuses images whose patches transformers would complete with zeros.
fn check_patches(config: &SwinConfig) -> Result<(), String> {
    let divides = |axis: usize| config.img_size[axis].is_multiple_of(config.patch_size[axis]);
    match divides(0) && divides(1) {
        true => Ok(()),
        false => {
            Err("transformers completes images that patches do not divide, which is not supported".into())
        }
    }
}

/// Refuses a model that transformers cuts into other windows. `window` is the side of all its windows.
fn check_windows(config: &SwinConfig, window: usize) -> Result<(), String> {
    let sizes = [0, 1].map(|axis| config.img_size[axis] / config.patch_size[axis]);
    for stage in 0..config.depths.len() {
        let grid = config.grid(stage);
        let (side, shift) = match config.version {
            SwinVersion::V1 => {
                let shorter = grid[0].min(grid[1]);
                if shorter < window {
                    return Err(format!(
                        "transformers' Swin has no windows of {window} on a map of {grid:?}"
                    ));
                }
                (window, if shorter == window { 0 } else { window / 2 })
            }
            // It measures the height alone, and rounds it down.
            SwinVersion::V2 => match sizes[0] >> stage {
                rows if rows <= window => (rows, 0),
                _ => (window, window / 2),
            },
        };
        let theirs = Windows { grid, window: [side.max(1); 2], shift: [shift; 2], pad_first: true };
        if !config.windows(stage, 1, grid).same(&theirs) {
            return Err(format!("transformers cuts maps of {grid:?} into other windows"));
        }
    }
    Ok(())
}
