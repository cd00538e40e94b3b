//! Writing checkpoints: a safetensors file, timm's hub folder, Hugging Face's folder.
//!
//! Every file is written atomically: under a temporary name, synced to disk, and renamed.

mod huggingface;
mod timm;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::tensor::{Dtype as FileDtype, TensorView};
use serde_json::{Value, json};

use super::dialect::to_huggingface;
use super::finite::check_narrowing;
use super::quantize::{QuantizedLayer, config_entry};
use super::{Dtype, HostTensor, LoadError, ModelCard, TensorMap};
use crate::models::{ModelConfig, Precision};
use huggingface::{huggingface_config, huggingface_preprocess};
use timm::{floats, timm_config, timm_pretrained, timm_top};

/// Options for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Type of floating-point tensors in the file; `None` keeps each tensor's own.
    pub dtype: Option<Dtype>,
    /// Replace existing files.
    pub overwrite: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { dtype: Some(Dtype::F32), overwrite: false }
    }
}

/// A safetensors file as bytes, with `format = pt` in its metadata, as PyTorch's libraries expect.
///
/// # Errors
/// [`LoadError::TooSmallType`] for a value out of the type's range.
pub fn to_safetensors(map: &TensorMap, dtype: Option<Dtype>) -> Result<Vec<u8>, LoadError> {
    with_kernels(map, dtype, &[])
}

/// [`to_safetensors`] in timm's layout.
fn timm_safetensors(map: &TensorMap, card: &ModelCard, dtype: Option<Dtype>) -> Result<Vec<u8>, LoadError> {
    with_kernels(map, dtype, &card.config.kernels())
}

/// [`to_safetensors`] with these matrices `[N, C]` as kernels `[N, C, 1, 1]`.
fn with_kernels(map: &TensorMap, dtype: Option<Dtype>, kernels: &[String]) -> Result<Vec<u8>, LoadError> {
    if let Some(dtype) = dtype {
        check_narrowing(map, dtype)?;
    }
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
        let mut shape = tensor.shape().to_vec();
        if shape.len() == 2 && kernels.contains(name) {
            shape.extend([1, 1]);
        }
        let view = TensorView::new(file_dtype(tensor.dtype()), shape, tensor.bytes());
        views.push((name.as_str(), view.map_err(|e| LoadError::tensor(&map.path, name, e))?));
    }
    let mut metadata: HashMap<String, String> = map.metadata.clone().into_iter().collect();
    metadata.insert("format".to_string(), "pt".to_string());
    safetensors::serialize(views, Some(metadata)).map_err(|e| LoadError::format(&map.path, "safetensors", e))
}

/// Writes tensors as a safetensors file.
///
/// # Errors
/// [`LoadError::Exists`] if the file exists and must not be replaced; the system's errors.
pub fn write_safetensors(path: &Path, map: &TensorMap, options: &WriteOptions) -> Result<(), LoadError> {
    if path.exists() && !options.overwrite {
        return Err(LoadError::Exists { path: path.to_path_buf() });
    }
    write_atomically(path, &to_safetensors(map, options.dtype)?)
}

/// Writes timm's hub layout, `config.json` and `model.safetensors`. `timm.create_model("local-dir:…")` and
/// `hf-hub:` load it.
///
/// `map` has timm's names. `card.architecture` must be a name that timm knows. Differences from that architecture's
/// configuration, `base`, go into `model_args`.
///
/// # Errors
/// A folder that is not empty, and a configuration that timm's `VisionTransformer` cannot express.
pub fn write_timm(
    folder: &Path,
    map: &TensorMap,
    card: &ModelCard,
    base: &ModelConfig,
    options: &WriteOptions,
) -> Result<(), LoadError> {
    let config = timm_config(card, base).map_err(|reason| LoadError::config(&card.path, reason))?;
    let weights = timm_safetensors(map, card, options.dtype)?;
    write_folder(folder, &[("config.json", pretty(&config)), ("model.safetensors", weights)], options)
}

/// Writes Hugging Face's layout: `config.json`, `preprocessor_config.json` if preprocessing is known, and
/// `model.safetensors`. `from_pretrained` of transformers loads it.
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
    let dtype = options.dtype.unwrap_or_else(|| common_dtype(map, card));
    let config = huggingface_config(card, dtype).map_err(fail)?;
    let weights = to_safetensors(&to_huggingface(map, Some(card.config.family()))?, Some(dtype))?;
    let mut files = vec![("config.json", pretty(&config)), ("model.safetensors", weights)];
    if let Some(preprocess) = huggingface_preprocess(card).map_err(fail)? {
        files.push(("preprocessor_config.json", pretty(&preprocess)));
    }
    write_folder(folder, &files, options)
}

/// The type of the first convolution; in practice all weights share it.
fn common_dtype(map: &TensorMap, card: &ModelCard) -> Dtype {
    map.get(&format!("{}.weight", card.config.first_conv())).map_or(Dtype::F32, HostTensor::dtype)
}

/// Writes a model that was trained here, so that the library that loads it computes the same. The first layout that
/// can express the model is used: timm's ([`write_timm`]); transformers' ([`write_huggingface`], for instance for a
/// fine-tuned ViT with transformers' epsilon); our own folder. Our `config.json` has the whole configuration under
/// the key `vitrum` and an architecture name that timm does not know. Returns why timm cannot load the model, if it
/// cannot.
///
/// # Errors
/// A card without an architecture's name, and the system's errors.
pub fn write_model(
    folder: &Path,
    map: &TensorMap,
    card: &ModelCard,
    base: &ModelConfig,
    options: &WriteOptions,
) -> Result<Option<String>, LoadError> {
    let Err(reason) = timm_config(card, base) else {
        write_timm(folder, map, card, base, options)?;
        return Ok(None);
    };
    if is_huggingface(map, card) {
        write_huggingface(folder, map, card, options)?;
        return Ok(Some(format!("{reason}; transformers can, the folder has its layout")));
    }
    let (config, reason) = own_config(card, base)?;
    let weights = timm_safetensors(map, card, options.dtype)?;
    write_folder(folder, &[("config.json", pretty(&config)), ("model.safetensors", weights)], options)?;
    Ok(reason)
}

/// Whether transformers' layout fully expresses a model that resizes its positions as transformers does.
fn is_huggingface(map: &TensorMap, card: &ModelCard) -> bool {
    card.config.to_huggingface().is_ok_and(|model| model.is_own)
        && huggingface_config(card, common_dtype(map, card)).is_ok()
        && huggingface_preprocess(card).is_ok()
        && to_huggingface(map, Some(card.config.family())).is_ok()
}

/// Before the family's name: an architecture that timm does not know. timm then refuses a model that it would compute
/// differently.
const OWN: &str = "vitrum_";

/// timm's configuration, or our whole configuration beside the part that timm can express, with the reason.
fn own_config(card: &ModelCard, base: &ModelConfig) -> Result<(Value, Option<String>), LoadError> {
    let reason = match timm_config(card, base) {
        Ok(config) => return Ok((config, None)),
        Err(reason) => reason,
    };
    let mut json = timm_top(card).map_err(|reason| LoadError::config(&card.path, reason))?;
    if let Some(name) = json.insert("architecture".into(), json!(format!("{OWN}{}", card.config.family()))) {
        json.insert("base_architecture".into(), name);
    }
    json.insert("vitrum".into(), json!(card.config));
    json.insert("pretrained_cfg".into(), Value::Object(timm_pretrained(card)));
    Ok((Value::Object(json), Some(reason)))
}

/// Writes a model with weights in bf16, `map` holding them in that type: the layout of [`write_model`], plus
/// `vitrum_precision` in `config.json`, so that the model loads in that precision. Returns why timm cannot load the
/// model, if it cannot.
///
/// # Errors
/// As [`write_model`].
pub fn write_bf16(
    folder: &Path,
    map: &TensorMap,
    card: &ModelCard,
    base: &ModelConfig,
    options: &WriteOptions,
) -> Result<Option<String>, LoadError> {
    let (mut config, reason) = own_config(card, base)?;
    if let Value::Object(json) = &mut config {
        json.insert("vitrum_precision".into(), json!(Precision::Bf16));
    }
    let weights = timm_safetensors(map, card, None)?;
    write_folder(folder, &[("config.json", pretty(&config)), ("model.safetensors", weights)], options)?;
    Ok(reason)
}

/// Writes a model with int8 weights: the layout of [`write_model`], plus the description of the int8 weights in
/// `config.json` under `vitrum_quantization`. Returns the bytes of the weights.
///
/// # Errors
/// As [`write_model`].
pub fn write_quantized(
    folder: &Path,
    map: &TensorMap,
    card: &ModelCard,
    base: &ModelConfig,
    layers: &[QuantizedLayer],
    options: &WriteOptions,
) -> Result<usize, LoadError> {
    let names: Vec<String> = layers.iter().map(|layer| layer.layer.clone()).collect();
    write_int8(folder, map, card, base, &names, options)
}

/// [`write_quantized`] for layers of these names.
pub(super) fn write_int8(
    folder: &Path,
    map: &TensorMap,
    card: &ModelCard,
    base: &ModelConfig,
    layers: &[String],
    options: &WriteOptions,
) -> Result<usize, LoadError> {
    let (mut config, _) = own_config(card, base)?;
    if let Value::Object(json) = &mut config {
        json.insert("vitrum_quantization".into(), config_entry(layers));
    }
    let weights = timm_safetensors(map, card, options.dtype)?;
    let bytes = weights.len();
    write_folder(folder, &[("config.json", pretty(&config)), ("model.safetensors", weights)], options)?;
    Ok(bytes)
}

fn pretty(json: &Value) -> Vec<u8> {
    // Writing a `Value` to memory cannot fail: its keys are strings, and memory gives no I/O errors.
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

/// Writes files into a folder. The folder is created if absent; it must be empty unless `overwrite` is set.
fn write_folder(folder: &Path, files: &[(&str, Vec<u8>)], options: &WriteOptions) -> Result<(), LoadError> {
    std::fs::create_dir_all(folder).map_err(|e| LoadError::io(folder, e))?;
    let mut entries = std::fs::read_dir(folder).map_err(|e| LoadError::io(folder, e))?;
    if !options.overwrite && entries.next().is_some() {
        return Err(LoadError::Exists { path: folder.to_path_buf() });
    }
    drop(entries);
    // All files are on disk before the first is renamed, so a full disk leaves no partial model.
    let mut staged = Vec::new();
    for (name, bytes) in files {
        match stage(&folder.join(name), bytes) {
            Ok(file) => staged.push(file),
            Err(error) => {
                drop(staged);
                let _ = std::fs::remove_dir(folder); // Removes the folder only if it is empty.
                return Err(error);
            }
        }
    }
    staged.into_iter().try_for_each(Staged::place)
}

/// Writes a file under a temporary name, syncs it to disk and renames it, so that no reader sees a partial file.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), LoadError> {
    stage(path, bytes)?.place()
}

/// [`write_atomically`] of what `fill` writes.
pub(crate) fn write_atomically_with(
    path: &Path,
    fill: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<(), LoadError> {
    stage_with(path, fill)?.place()
}

/// A file on disk under a temporary name; removed unless it is placed.
struct Staged {
    temporary: PathBuf,
    path: PathBuf,
}

fn stage(path: &Path, bytes: &[u8]) -> Result<Staged, LoadError> {
    stage_with(path, |file| file.write_all(bytes))
}

fn stage_with(path: &Path, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<Staged, LoadError> {
    let (mut file, temporary) = temporary_beside(path, folder_of(path))?;
    let staged = Staged { temporary, path: path.to_path_buf() };
    fill(&mut file).and_then(|()| file.sync_all()).map_err(|e| LoadError::io(path, e))?;
    Ok(staged)
}

impl Staged {
    /// Gives the file its name.
    fn place(self) -> Result<(), LoadError> {
        std::fs::rename(&self.temporary, &self.path).map_err(|e| LoadError::io(&self.path, e))?;
        // Syncs the new name. Some file systems cannot sync a folder; the file is complete regardless.
        let _ = File::open(folder_of(&self.path)).and_then(|f| f.sync_all());
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename it no longer exists. If it cannot be removed, nothing else can be done.
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
