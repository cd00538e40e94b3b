//! Checkpoints to disk: a safetensors file, timm's hub folder, Hugging Face's folder.
//!
//! Every file appears whole or not at all: it is written beside its place, forced to disk, and renamed.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::tensor::{Dtype as FileDtype, TensorView};
use serde_json::{Map, Value, json};

use super::dialect::to_huggingface;
use super::quantize::{QuantizedLayer, config_entry};
use super::{Dtype, HostTensor, LoadError, ModelCard, TensorMap};
use crate::data::CropMode;
use crate::models::vit::{Activation, GlobalPool, PosEmbed, VitConfig, WeightInit};

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Type of floating-point tensors in the file; `None` keeps each tensor's own.
    pub dtype: Option<Dtype>,
    /// Replace files that are there.
    pub overwrite: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { dtype: Some(Dtype::F32), overwrite: false }
    }
}

/// A safetensors file as bytes, with `format = pt` in its metadata as PyTorch's libraries expect.
pub fn to_safetensors(map: &TensorMap, dtype: Option<Dtype>) -> Result<Vec<u8>, LoadError> {
    let cast = |(name, tensor): (&String, &HostTensor)| {
        let tensor = match dtype {
            Some(dtype) if tensor.dtype().is_float() => {
                tensor.cast(dtype).map_err(|e| LoadError::tensor(&map.path, name, e))?
            }
            _ => tensor.clone(),
        };
        Ok((name.clone(), tensor))
    };
    let tensors: Vec<(String, HostTensor)> =
        map.tensors.iter().map(cast).collect::<Result<_, LoadError>>()?;
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in &tensors {
        let view = TensorView::new(file_dtype(tensor.dtype()), tensor.shape().to_vec(), tensor.bytes());
        views.push((name.as_str(), view.map_err(|e| LoadError::tensor(&map.path, name, e))?));
    }
    let mut metadata: HashMap<String, String> = map.metadata.clone().into_iter().collect();
    metadata.insert("format".to_string(), "pt".to_string());
    safetensors::serialize(views, Some(metadata)).map_err(|e| LoadError::format(&map.path, "safetensors", e))
}

/// Writes tensors as a safetensors file.
///
/// # Errors
/// [`LoadError::Exists`] if the file is there and may not be replaced; the system's errors.
pub fn write_safetensors(path: &Path, map: &TensorMap, options: &WriteOptions) -> Result<(), LoadError> {
    if path.exists() && !options.overwrite {
        return Err(LoadError::Exists { path: path.to_path_buf() });
    }
    write_atomically(path, &to_safetensors(map, options.dtype)?)
}

/// Writes timm's hub layout: `config.json` and `model.safetensors`, which `timm.create_model("local-dir:…")`
/// and `hf-hub:` load.
///
/// `map` has timm's names. `card.architecture` must be a name timm knows; what differs from that
/// architecture's own configuration, `base`, goes into `model_args`.
///
/// # Errors
/// A folder that is not empty, and a configuration that timm's `VisionTransformer` cannot express.
pub fn write_timm(
    folder: &Path,
    map: &TensorMap,
    card: &ModelCard,
    base: &VitConfig,
    options: &WriteOptions,
) -> Result<(), LoadError> {
    let config = timm_config(card, base).map_err(|reason| LoadError::config(&card.path, reason))?;
    let weights = to_safetensors(map, options.dtype)?;
    write_folder(folder, &[("config.json", pretty(&config)), ("model.safetensors", weights)], options)
}

/// Writes Hugging Face's layout: `config.json`, `preprocessor_config.json` where preprocessing is known, and
/// `model.safetensors`, which `from_pretrained` of transformers loads.
///
/// `map` has timm's names.
///
/// # Errors
/// A folder that is not empty, and a model that transformers' ViT or DeiT cannot express.
pub fn write_huggingface(
    folder: &Path,
    map: &TensorMap,
    card: &ModelCard,
    options: &WriteOptions,
) -> Result<(), LoadError> {
    let fail = |reason: String| LoadError::config(&card.path, reason);
    let dtype = options.dtype.unwrap_or_else(|| common_dtype(map));
    let config = huggingface_config(card, dtype).map_err(fail)?;
    let weights = to_safetensors(&to_huggingface(map)?, Some(dtype))?;
    let mut files = vec![("config.json", pretty(&config)), ("model.safetensors", weights)];
    if let Some(preprocess) = huggingface_preprocess(card).map_err(fail)? {
        files.push(("preprocessor_config.json", pretty(&preprocess)));
    }
    write_folder(folder, &files, options)
}

/// The type of the patch projection, which all weights share in practice.
fn common_dtype(map: &TensorMap) -> Dtype {
    map.get("patch_embed.proj.weight").map_or(Dtype::F32, HostTensor::dtype)
}

/// Writes a model that was trained here: timm's hub layout as [`write_timm`] writes it and, where timm's
/// `VisionTransformer` cannot express the model, the whole configuration beside it, under the key `vitrum`. Returns
/// why timm cannot load it, where it cannot.
///
/// # Errors
/// A card without an architecture's name, and the system's errors.
pub fn write_model(
    folder: &Path,
    map: &TensorMap,
    card: &ModelCard,
    base: &VitConfig,
    options: &WriteOptions,
) -> Result<Option<String>, LoadError> {
    let (config, reason) = own_config(card, base)?;
    let weights = to_safetensors(map, options.dtype)?;
    write_folder(folder, &[("config.json", pretty(&config)), ("model.safetensors", weights)], options)?;
    Ok(reason)
}

/// timm's configuration, or all of ours beside what timm can express, and why it needs to be ours.
fn own_config(card: &ModelCard, base: &VitConfig) -> Result<(Value, Option<String>), LoadError> {
    let reason = match timm_config(card, base) {
        Ok(config) => return Ok((config, None)),
        Err(reason) => reason,
    };
    let mut json = timm_top(card).map_err(|reason| LoadError::config(&card.path, reason))?;
    json.insert("vitrum".into(), json!(card.config));
    json.insert("pretrained_cfg".into(), Value::Object(timm_pretrained(card)));
    Ok((Value::Object(json), Some(reason)))
}

/// Writes a model with weights in eight bits: the layout of [`write_model`], and in `config.json` under the key
/// `vitrum_quantization` how they are to be read. Returns the bytes of the weights.
///
/// # Errors
/// As [`write_model`].
pub fn write_quantized(
    folder: &Path,
    map: &TensorMap,
    card: &ModelCard,
    base: &VitConfig,
    layers: &[QuantizedLayer],
    options: &WriteOptions,
) -> Result<usize, LoadError> {
    let (mut config, _) = own_config(card, base)?;
    if let Value::Object(json) = &mut config {
        json.insert("vitrum_quantization".into(), config_entry(layers));
    }
    let weights = to_safetensors(map, options.dtype)?;
    let bytes = weights.len();
    write_folder(folder, &[("config.json", pretty(&config)), ("model.safetensors", weights)], options)?;
    Ok(bytes)
}

/// `config.json` as timm's `save_config_for_hf` writes it.
fn timm_config(card: &ModelCard, base: &VitConfig) -> Result<Value, String> {
    if card.config.representation_size.is_some() {
        return Err("timm has no layer before the head (representation_size)".into());
    }
    let mut json = timm_top(card)?;
    json.insert("model_args".into(), Value::Object(timm_model_args(&card.config, base)?));
    json.insert("pretrained_cfg".into(), Value::Object(timm_pretrained(card)));
    Ok(Value::Object(json))
}

/// What stands at the top of `config.json`.
fn timm_top(card: &ModelCard) -> Result<Map<String, Value>, String> {
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
            "timm's config.json cannot state an epsilon of {} (the architecture has {})",
            config.norm_eps, base.norm_eps
        ));
    }
    Ok(args)
}

fn timm_pretrained(card: &ModelCard) -> Map<String, Value> {
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
fn floats(values: &[f32]) -> Value {
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

/// `config.json` as transformers 5.23 writes it for ViT and DeiT.
fn huggingface_config(card: &ModelCard, dtype: Dtype) -> Result<Value, String> {
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
fn check_huggingface(card: &ModelCard) -> Result<(), String> {
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
fn huggingface_preprocess(card: &ModelCard) -> Result<Option<Value>, String> {
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

fn pretty(json: &Value) -> Vec<u8> {
    // Writing a `Value` to memory cannot fail: its keys are texts and memory has no errors.
    let mut text = serde_json::to_vec_pretty(json).unwrap_or_default();
    text.push(b'\n');
    text
}

fn file_dtype(dtype: Dtype) -> FileDtype {
    match dtype {
        Dtype::F64 => FileDtype::F64,
        Dtype::F32 => FileDtype::F32,
        Dtype::F16 => FileDtype::F16,
        Dtype::BF16 => FileDtype::BF16,
        Dtype::I64 => FileDtype::I64,
        Dtype::I32 => FileDtype::I32,
        Dtype::I16 => FileDtype::I16,
        Dtype::I8 => FileDtype::I8,
        Dtype::U64 => FileDtype::U64,
        Dtype::U32 => FileDtype::U32,
        Dtype::U16 => FileDtype::U16,
        Dtype::U8 => FileDtype::U8,
        Dtype::Bool => FileDtype::BOOL,
    }
}

/// Writes files into a folder, which is made if need be and must be empty unless `overwrite` is set.
fn write_folder(folder: &Path, files: &[(&str, Vec<u8>)], options: &WriteOptions) -> Result<(), LoadError> {
    std::fs::create_dir_all(folder).map_err(|e| LoadError::io(folder, e))?;
    let mut entries = std::fs::read_dir(folder).map_err(|e| LoadError::io(folder, e))?;
    if !options.overwrite && entries.next().is_some() {
        return Err(LoadError::Exists { path: folder.to_path_buf() });
    }
    drop(entries);
    // All of them are on disk before the first gets its name, so that a full disk leaves no half of a model.
    let mut staged = Vec::new();
    for (name, bytes) in files {
        match stage(&folder.join(name), bytes) {
            Ok(file) => staged.push(file),
            Err(error) => {
                drop(staged);
                let _ = std::fs::remove_dir(folder); // goes only if nothing is in it
                return Err(error);
            }
        }
    }
    staged.into_iter().try_for_each(Staged::place)
}

/// Writes a file beside its place, forces it to disk and renames it, so that no reader sees half of it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), LoadError> {
    stage(path, bytes)?.place()
}

/// A file that is on disk under another name; removed unless it is placed.
struct Staged {
    temporary: PathBuf,
    path: PathBuf,
}

fn stage(path: &Path, bytes: &[u8]) -> Result<Staged, LoadError> {
    let (mut file, temporary) = temporary_beside(path, folder_of(path))?;
    let staged = Staged { temporary, path: path.to_path_buf() };
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| LoadError::io(path, e))?;
    Ok(staged)
}

impl Staged {
    /// Gives the file its name.
    fn place(self) -> Result<(), LoadError> {
        std::fs::rename(&self.temporary, &self.path).map_err(|e| LoadError::io(&self.path, e))?;
        // The new name itself; some file systems cannot sync a folder, and the file is whole regardless.
        let _ = File::open(folder_of(&self.path)).and_then(|f| f.sync_all());
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already where it was placed; nothing can be done about one that cannot be removed either.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn temporary_beside(path: &Path, folder: &Path) -> Result<(File, PathBuf), LoadError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unique = format!(".{name}.{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let temporary = folder.join(unique);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)
        .map_err(|e| LoadError::io(path, e))?;
    Ok((file, temporary))
}
