//! Hugging Face's `config.json` and `preprocessor_config.json` (transformers 4.x and 5.x).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{CardSource, Fields, ModelCard, activation, expected, labels, mlp_ratio, read_object};
use crate::checkpoint::LoadError;
use crate::checkpoint::error::shorten;
use crate::checkpoint::read::check_link;
use crate::data::Preprocess;
use crate::data::preprocess::PreprocessError;
use crate::models::vit::{Activation, PosResize, VitConfig};

/// The card a transformers `config.json` describes; preprocessing lies in another file.
pub(super) fn card(json: &Map<String, Value>) -> Result<ModelCard, String> {
    let fields = Fields(json);
    let model_type = fields.text("model_type")?.unwrap_or_default();
    let class = class_name(&fields)?;
    let mut config = common(&fields)?;
    let mut card = ModelCard::new(config.clone(), CardSource::HuggingFace, "");
    match model_type {
        "vit" | "vit_mae" | "deit" => {}
        "dinov2" | "dinov2_with_registers" => dinov2(&mut config, &fields, class)?,
        other => {
            return Err(format!(
                "`model_type` `{other}` is not a plain Vision Transformer this program knows"
            ));
        }
    }
    // DeiT's token is always there in transformers, the second head only in one class.
    card.dist_token = model_type == "deit";
    card.dist_head = class == Some("DeiTForImageClassificationWithTeacher");
    if classifies(class) {
        config.num_classes = num_labels(&fields)?;
        if let Some(value) = fields.get("id2label") {
            card.labels = Some(labels("id2label", value)?).filter(|names| !are_placeholders(names));
        }
    } else {
        config.num_classes = 0;
    }
    config.representation_size = pooler(&fields, class)?;
    card.config = config;
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

/// Fields that ViT, DeiT, ViT-MAE and DINOv2 share, with transformers' defaults.
fn common(fields: &Fields) -> Result<VitConfig, String> {
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

/// DINOv2 states the MLP as a ratio, has LayerScale, and in one variant registers.
fn dinov2(config: &mut VitConfig, fields: &Fields, class: Option<&str>) -> Result<(), String> {
    if fields.flag("use_swiglu_ffn")? == Some(true) {
        return Err("`use_swiglu_ffn` is not supported by the plain Vision Transformer".into());
    }
    if class.is_some() && classifies(class) {
        return Err(format!(
            "{} classifies from two tokens at once, which is not supported",
            class.unwrap_or_default()
        ));
    }
    config.mlp_ratio = fields.number("mlp_ratio")?.unwrap_or(4.0);
    config.init_values = Some(fields.number("layerscale_value")?.unwrap_or(1.0));
    config.norm_eps = fields.number("layer_norm_eps")?.unwrap_or(1e-6);
    if fields.text("model_type")? == Some("dinov2_with_registers") {
        config.reg_tokens = fields.size("num_register_tokens")?.unwrap_or(4);
        // Registers get no position; the class token's is added to it when the names are converted.
        config.no_embed_class = true;
        // Alone among transformers' models, in 4.48 and later: `antialias=True`.
        config.pos_resize = PosResize::BicubicAntialias;
    }
    Ok(())
}

/// Classes: as many as `id2label` reaches and `num_labels` says, else transformers' default.
fn num_labels(fields: &Fields) -> Result<usize, String> {
    let stated = fields.size("num_labels")?;
    let named = match fields.get("id2label") {
        Some(Value::Object(names)) => {
            let last = names.keys().filter_map(|class| class.parse::<usize>().ok()).max();
            // A few classes may have no name; a number far beyond the names is refused with the labels.
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

/// `ViTModel` has a dense layer and a non-linearity on the class token: the paper's pre-logits.
fn pooler(fields: &Fields, class: Option<&str>) -> Result<Option<usize>, String> {
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

/// Reads the processor's configuration beside `config` into the card, if it is there. As transformers 5 does it: the
/// `image_processor` within `processor_config.json`, else `preprocessor_config.json`.
pub(super) fn add_preprocess(card: &mut ModelCard, config: &Path) -> Result<(), LoadError> {
    let Some((path, json)) = processor(config)? else {
        card.notes.push("preprocessing is not known: no preprocessor_config.json".into());
        return Ok(());
    };
    match Preprocess::from_processor(&json, card.config.in_chans) {
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

/// The fields of the image processor, and the file they stand in.
type Processor = (PathBuf, Map<String, Value>);

/// The newer file of the processor where it is there, else the older one.
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
