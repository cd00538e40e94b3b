//! Hugging Face's `config.json` and `preprocessor_config.json`.

use serde_json::{Map, Value, json};

use super::floats;
use crate::checkpoint::family::HuggingFaceModel;
use crate::checkpoint::{Dtype, ModelCard};
use crate::data::CropMode;

/// `config.json` as transformers 5.23 writes it.
pub(super) fn huggingface_config(card: &ModelCard, dtype: Dtype) -> Result<Value, String> {
    let HuggingFaceModel { model_type, class, fields, .. } = card.config.to_huggingface()?;
    let mut json = fields;
    json.insert("architectures".into(), json!([class]));
    json.insert("model_type".into(), json!(model_type));
    json.insert("dtype".into(), json!(torch_dtype(dtype)?));
    let classes = card.num_classes();
    if classes > 0 {
        let name =
            |i: usize| card.labels.as_ref().and_then(|l| l.get(i).cloned()).unwrap_or(format!("LABEL_{i}"));
        let names: Vec<String> = (0..classes).map(name).collect();
        let by_number: Map<String, Value> =
            names.iter().enumerate().map(|(i, n)| (i.to_string(), json!(n))).collect();
        let by_name: Map<String, Value> =
            names.iter().enumerate().map(|(i, n)| (n.clone(), json!(i))).collect();
        json.insert("id2label".into(), Value::Object(by_number));
        json.insert("label2id".into(), Value::Object(by_name));
        if !card.problem.is_default() {
            json.insert("problem_type".into(), json!(card.problem));
        }
    }
    Ok(Value::Object(json))
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
