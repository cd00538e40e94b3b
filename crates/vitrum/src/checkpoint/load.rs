//! Loads a model by name or path: finds the files, reads the card, renames the tensors to timm's names, fills the
//! model, reports.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{DType, Device};
use serde_json::json;

mod error;
mod find;
mod known;
mod weights;

use super::apply::{ApplyError, Excuses, Report, ShapeChange, apply, expected_tensors};
use super::card::{CardSource, ModelCard};
use super::convert::flatten_kernels;
use super::dialect::{Converted, Dialect};
use super::error::LoadError;
use super::family::{Inferred, family};
use super::imagenet;
use super::quantize::{give_int8, is_quantized, shapes};
use super::tensors::TensorMap;
use crate::data::Preprocess;
use crate::layers::init::Draw;
use crate::layers::pool::GlobalPool;
use crate::layers::resample::PosResize;
use crate::models::network::is_in;
use crate::models::{Config, Model, ModelConfig, Network, Precision, catalogue};
pub use error::{BoxedError, EightBitsLimit, ModelError};
use find::{Found, adopt, find};
use weights::{int8_weights, weights};

/// Changes a configuration before the model is built.
pub type Edit<'a> = dyn Fn(ModelConfig) -> Result<ModelConfig, BoxedError> + 'a;

/// Callback for the progress of a download: file name, bytes on disk, total bytes (0 if unknown).
pub type Progress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// What to load, and how the model may differ from it.
pub struct LoadOptions<'a> {
    /// A folder with `config.json` and weights, a weights file, a catalogue name, `hf:ORG/NAME`, or `demo`.
    pub model: PathBuf,
    /// Weights that replace the model's own.
    pub checkpoint: Option<PathBuf>,
    /// The set of weights to take from a file with several, by its prefix: `student`, `state_dict`. Default: averaged
    /// weights before others, a teacher before its student.
    pub weight_set: Option<String>,
    /// A key file ([`KeyFile`]): names that no dialect has, and fields that tensors do not show.
    ///
    /// [`KeyFile`]: super::KeyFile
    pub keys: Option<PathBuf>,
    /// Number of classes. If it differs from the file's, the head is new; 0 drops the head.
    pub num_classes: Option<usize>,
    /// Whether to take only the encoder of a model for pretraining. A number of classes above 0 asks for that too.
    pub encoder_only: bool,
    /// Height and width of the input. Positions are resized to it.
    pub img_size: Option<[usize; 2]>,
    /// Height and width of a patch; the patch projection and the positions are resized as in timm.
    pub patch_size: Option<[usize; 2]>,
    /// Whether a Hugging Face processor's size is the input size if `img_size` is `None`. Positions are resized to it.
    /// If false, the model keeps the size in its `config.json`.
    pub size_of_processor: bool,
    /// Channels of the images. The patch projection is adapted as in timm.
    pub in_chans: Option<usize>,
    /// Pooling, overriding the card's. The norm of a token-pooling model moves after the pooling if the new pooling has
    /// its norm there.
    pub global_pool: Option<GlobalPool>,
    /// Method of resizing positions, overriding the card's.
    pub pos_resize: Option<PosResize>,
    /// Changes the configuration after all other options.
    pub edit: Option<&'a Edit<'a>>,
    /// Type of the model's values: f32 or f64.
    pub dtype: DType,
    /// Rounds loaded weights to bf16, or quantises them to int8. int8 weights of a file stay int8, and are refused with
    /// bf16.
    pub precision: Precision,
    /// Whether a file with int8 weights is refused. Training needs floating-point weights.
    pub floats_only: bool,
    /// Keys the file may lack; `*` matches any text.
    pub allow_missing: Vec<String>,
    /// Keys of the file that may be ignored; `*` matches any text.
    pub allow_unexpected: Vec<String>,
    /// Whether a model without weights is an error. If false, it gets fresh values.
    pub needs_weights: bool,
    /// Seed of fresh values.
    pub seed: u64,
    /// Never touch the network.
    pub offline: bool,
    /// Callback for the progress of downloads.
    pub progress: Option<Progress>,
}

impl<'a> LoadOptions<'a> {
    /// Loads `model` unchanged, in f32, with its weights.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            checkpoint: None,
            weight_set: None,
            keys: None,
            num_classes: None,
            encoder_only: false,
            img_size: None,
            patch_size: None,
            size_of_processor: true,
            in_chans: None,
            global_pool: None,
            pos_resize: None,
            edit: None,
            dtype: DType::F32,
            precision: Precision::F32,
            floats_only: false,
            allow_missing: Vec::new(),
            allow_unexpected: Vec::new(),
            needs_weights: true,
            seed: 42,
            offline: false,
            progress: None,
        }
    }

    /// The requested model as text.
    fn spec(&self) -> String {
        self.model.display().to_string()
    }
}

/// A model and all that came with it. Clones share the weights.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// Its name for the user.
    pub name: String,
    /// Preprocessing of images; `None` if unknown.
    pub preprocess: Option<Preprocess>,
    /// Name of each class.
    pub labels: Option<Vec<String>>,
    /// The card, if there is one.
    pub card: Option<ModelCard>,
    /// What happened to every tensor; `None` for a fresh model.
    pub report: Option<Report>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Loads a model on `device`.
///
/// # Errors
/// [`ModelError`], naming the file.
pub fn load(options: &LoadOptions<'_>, device: &Device) -> Result<Loaded, ModelError> {
    check_precision(options, device)?;
    let mut found = find(options)?;
    let mut tensors = match found.weights.clone() {
        Some(path) => Some(weights(&path, &mut found, options)?),
        None if options.needs_weights => return Err(ModelError::NoWeights { model: options.spec() }),
        None => None,
    };
    let source = configuration(&mut found, tensors.as_ref(), options)?;
    let source = without_pretraining(source, tensors.as_mut(), &mut found, options);
    let config = edited(&source, &mut found, options)?;
    let source = match &mut tensors {
        Some(file) => with_pretraining(source, &config, file, &mut found, options)?,
        None => source,
    };
    if let Some(converted) = &mut tensors {
        // Quantising needs matrices.
        flatten_kernels(&mut converted.map.tensors, &source.kernels());
        drop_heads(&mut converted.map, &source, &config, &mut found);
    }
    let new_head = wants_new_head(&source, tensors.as_ref(), options);
    let preprocess = found.preprocess.take();
    let preprocess = preprocess.and_then(|preprocess| prepared_for(&config, preprocess, &mut found));
    let labels = labels(&mut found, config.num_classes(), new_head || options.num_classes == Some(0));
    if options.precision == Precision::F32 && rounds(&found, options) {
        found.notes.push(format!("{}: the weights were saved in bf16, and it computes in bf16", found.name));
    }
    let filled = match tensors {
        None => (fresh(&config, &mut found, options, device)?, None),
        Some(converted) => {
            let (model, report) = fill(&config, &source, converted.map, new_head, &found, options, device)?;
            (model, Some(report))
        }
    };
    let Found { name, card, notes, .. } = found;
    let (model, report) = filled;
    if options.precision != Precision::F32 && model.linears().is_empty() {
        return Err(ModelError::PrecisionLayers { precision: options.precision, family: model.family() });
    }
    Ok(Loaded { model, name, preprocess, labels, card, report, notes })
}

/// The encoder of a model for pretraining, if a classifier is asked for or the file has nothing but the encoder. Drops the
/// tensors that only pretraining needs.
fn without_pretraining(
    config: ModelConfig,
    tensors: Option<&mut Converted>,
    found: &mut Found,
    options: &LoadOptions<'_>,
) -> ModelConfig {
    let Some(encoder) = config.encoder() else { return config };
    let asks = options.encoder_only || options.num_classes.is_some_and(|classes| classes > 0);
    let Some(file) = tensors else { return if asks { encoder } else { config } };
    let serves = |key: &str| config.serves_pretraining(key);
    let whole = file.map.names().any(serves);
    if whole && !asks {
        return config;
    }
    let before = file.map.len();
    file.map.tensors.retain(|key, _| !serves(key));
    let (path, family) = (file.map.path.display().to_string(), config.family());
    found.notes.push(match before - file.map.len() {
        0 => format!("{path}: only the encoder of a {family}; it cannot predict masked patches"),
        count => format!("{path}: only the encoder of the {family} is used; {count} tensors are left out"),
    });
    if let Some(card) = &mut found.card {
        card.config = encoder.clone();
    }
    encoder
}

/// The file's configuration as a model for pretraining, if `config` is one around the file's model. Drops the file's heads.
fn with_pretraining(
    source: ModelConfig,
    config: &ModelConfig,
    file: &mut Converted,
    found: &mut Found,
    options: &LoadOptions<'_>,
) -> Result<ModelConfig, ModelError> {
    let is_encoder = config.encoder().is_some_and(|encoder| encoder.family() == source.family());
    let Some(edit) = options.edit.filter(|_| is_encoder) else { return Ok(source) };
    let before = file.map.len();
    file.map.tensors.retain(|key, _| !is_in(key, source.heads()));
    let (path, family, seed) = (file.map.path.display(), config.family(), options.seed);
    let heads = match before - file.map.len() {
        0 => "",
        _ => ", without the head of the file",
    };
    found.notes.push(format!(
        "{path}: the encoder of the {family}{heads}; the {family}'s other tensors begin with fresh values from seed {seed}"
    ));
    edit(source).map_err(ModelError::Edit)
}

/// Tensors for pretraining alone, if the file has none of them: it is an encoder, and they get fresh values.
fn fresh_for_pretraining(config: &ModelConfig, model: &Model, tensors: &TensorMap) -> Vec<String> {
    let serves = |key: &str| config.serves_pretraining(key);
    if config.encoder().is_none() || tensors.names().any(serves) {
        return Vec::new();
    }
    expected_tensors(model).into_keys().filter(|key| serves(key)).collect()
}

/// Refuses a precision that the other options or the device do not support.
fn check_precision(options: &LoadOptions<'_>, device: &Device) -> Result<(), ModelError> {
    let dtype = options.dtype;
    if !vitrum_kernels::has_fast_path(device, dtype) && !device.supports_dtype(dtype) {
        return Err(ModelError::DtypeDevice { dtype });
    }
    if options.precision == Precision::F32 {
        return Ok(());
    }
    if options.dtype != DType::F32 {
        return Err(ModelError::PrecisionDtype { precision: options.precision, dtype: options.dtype });
    }
    let on_cpu = vitrum_kernels::has_fast_path(device, DType::F32);
    let can = on_cpu || options.precision == Precision::Bf16 && vitrum_kernels::narrows(device);
    if can { Ok(()) } else { Err(ModelError::PrecisionDevice { precision: options.precision }) }
}

/// The configuration of the file with the options applied.
fn edited(
    source: &ModelConfig,
    found: &mut Found,
    options: &LoadOptions<'_>,
) -> Result<ModelConfig, ModelError> {
    let config = source
        .with_some("num_classes", options.num_classes)?
        .with_some("img_size", image_size(source, found, options))?
        .with_some("patch_size", options.patch_size)?
        .with_some("in_chans", options.in_chans)?;
    let config = match options.global_pool {
        Some(pool) => config.with_argument("global_pool", json!(pool))?,
        None => config,
    };
    let config = config.with_some("pos_resize", options.pos_resize)?;
    match options.edit {
        Some(edit) => edit(config).map_err(ModelError::Edit),
        None => Ok(config),
    }
}

/// Drops heads of the file that the requested model does not have.
fn drop_heads(tensors: &mut TensorMap, source: &ModelConfig, config: &ModelConfig, found: &mut Found) {
    if source.family() != config.family() {
        return;
    }
    for head in source.heads().iter().filter(|head| !config.heads().contains(head)) {
        let before = tensors.len();
        tensors.tensors.retain(|key, _| !is_in(key, &[head]));
        if tensors.len() < before {
            found
                .notes
                .push(format!("{}: {head} is left out; the requested model has no such head", found.name));
        }
    }
}

/// Whether the requested number of classes differs from the file's.
fn wants_new_head(source: &ModelConfig, file: Option<&Converted>, options: &LoadOptions<'_>) -> bool {
    let Some(asked) = options.num_classes.filter(|asked| *asked != 0) else { return false };
    let rows = |file: &Converted| file.map.rows(&format!("{}.weight", source.heads().first()?));
    file.and_then(rows) != Some(asked)
}

/// A model with fresh values.
fn fresh(
    config: &ModelConfig,
    found: &mut Found,
    options: &LoadOptions<'_>,
    device: &Device,
) -> Result<Model, ModelError> {
    let seed = options.seed;
    found.notes.push(format!("{}: no weights, fresh values from seed {seed}", found.name));
    let model = config.init_as(device, seed, options.dtype)?;
    Ok(match options.precision {
        Precision::F32 => model,
        Precision::Bf16 => model.round_to_bf16(),
        Precision::Int8 => model.quantize(&[])?,
    })
}

/// A model with the weights of a file for `source`.
fn fill(
    config: &ModelConfig,
    source: &ModelConfig,
    mut tensors: TensorMap,
    new_head: bool,
    found: &Found,
    options: &LoadOptions<'_>,
    device: &Device,
) -> Result<(Model, Report), ModelError> {
    if let Some(card) = &found.card {
        card.check_size(tensors.num_elements())?;
    }
    if options.num_classes == Some(0) {
        tensors.tensors.retain(|key, _| !is_in(key, source.heads()));
    }
    let path = tensors.path.clone();
    let quantized = int8_weights(&mut tensors, config, options, device)?;
    let skeleton = config.skeleton(device)?;
    refuse_integers(&skeleton, &tensors)?;
    let excuses = Excuses {
        missing: options.allow_missing.clone(),
        fresh: fresh_for_pretraining(config, &skeleton, &tensors),
        unexpected: options.allow_unexpected.clone(),
        new_head,
        source: Some(source.clone()),
        held: shapes(&quantized),
        seed: options.seed,
    };
    let filled = apply(skeleton, tensors, options.dtype, &excuses);
    let (mut model, report) = filled.map_err(|error| match error {
        ApplyError::Refused(report) => {
            ModelError::Refused { path: path.clone(), report, notes: found.notes.clone() }
        }
        other => other.into(),
    })?;
    give_int8(&mut model, quantized).map_err(|(key, reason)| LoadError::tensor(&path, &key, reason))?;
    let model = if rounds(found, options) { model.round_to_bf16() } else { model };
    Ok((model, report))
}

/// Whether the weights are rounded to bf16: by request, or because they were saved so and nothing asks for floats.
fn rounds(found: &Found, options: &LoadOptions<'_>) -> bool {
    let saved = found.card.as_ref().is_some_and(|card| card.precision == Precision::Bf16);
    let floats = options.floats_only || options.dtype != DType::F32;
    options.precision == Precision::Bf16 || (options.precision == Precision::F32 && saved && !floats)
}

/// Adapts preprocessing to the model's input. Grey images keep one mean and one std if all channels share them.
fn prepared_for(config: &ModelConfig, mut preprocess: Preprocess, found: &mut Found) -> Option<Preprocess> {
    let image = config.input().image();
    if !matches!(image.channels, 1 | 3) {
        found.notes.push(format!(
            "{}: preprocessing is not known: pictures have 1 or 3 channels, the model takes {}",
            found.name, image.channels
        ));
        return None;
    }
    preprocess.input_size = [image.channels, image.size[0], image.size[1]];
    let is_one = |levels: &[f32]| levels.windows(2).all(|pair| pair[0] == pair[1]);
    if image.channels == 1 && is_one(&preprocess.mean) && is_one(&preprocess.std) {
        preprocess.mean.truncate(1);
        preprocess.std.truncate(1);
    }
    Some(preprocess)
}

/// The input size from the options, else from the processor; `None` keeps the model's.
fn image_size(config: &ModelConfig, found: &mut Found, options: &LoadOptions<'_>) -> Option<[usize; 2]> {
    let of_hugging_face = found.card.as_ref().is_some_and(|card| card.source == CardSource::HuggingFace);
    if options.img_size.is_some() {
        return options.img_size;
    }
    let processor = found.preprocess.as_ref().filter(|_| of_hugging_face && options.size_of_processor)?;
    let ([_, height, width], own) = (processor.input_size, config.input().image().size);
    if [height, width] == own {
        return None;
    }
    let ([h, w], name) = (own, &found.name);
    found.notes.push(format!(
        "{name}: images enter as {height}x{width}, the size of the processor; config.json has {h}x{w}"
    ));
    Some([height, width])
}

/// A checkpoint under timm's names, with its card.
#[derive(Debug)]
pub struct Opened {
    /// The tensors, under timm's names and in timm's layouts.
    pub tensors: TensorMap,
    /// The dialect of the file.
    pub dialect: Dialect,
    /// Its card: its own, or one from the catalogue or its shapes.
    pub card: ModelCard,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Reads a checkpoint without building a model. Positions are resized to the input size that [`load`] would use.
///
/// # Errors
/// [`ModelError`], naming the file.
pub fn open(options: &LoadOptions<'_>) -> Result<Opened, ModelError> {
    let mut found = find(options)?;
    let Some(path) = found.weights.clone() else {
        return Err(ModelError::NoWeights { model: options.spec() });
    };
    let mut converted = weights(&path, &mut found, options)?;
    let config = configuration(&mut found, Some(&converted), options)?;
    let mut config = without_pretraining(config, Some(&mut converted), &mut found, options);
    let Converted { map: mut tensors, dialect, .. } = converted;
    flatten_kernels(&mut tensors.tensors, &config.kernels());
    if is_quantized(&tensors) {
        return Err(ModelError::EightBits { path: tensors.path, limit: EightBitsLimit::Writing });
    }
    let path = tensors.path.clone();
    (family(config.family()).narrow)(&mut tensors)?;
    if let Some(card) = &found.card {
        card.check_size(tensors.num_elements())?;
    }
    check_shapes(&config, &tensors, &found.notes)?;
    let source = config.clone();
    config = config.with_some("img_size", image_size(&source, &mut found, options))?;
    if config != source {
        config.fit(&mut tensors, Some(&source), &mut Report::default());
    }
    let mut card = match found.card {
        Some(card) => ModelCard { config, ..card },
        None => ModelCard::new(config, CardSource::Tensors, path),
    };
    card.preprocess = found.preprocess;
    let family = card.config.family();
    let is_of = |name: &str| catalogue::entry(name).is_ok_and(|entry| entry.config.family() == family);
    if !card.architecture.as_deref().is_some_and(is_of) {
        card.architecture = match found.named {
            Some(named) if is_of(&named.name) => Some(named.name),
            _ => catalogue::closest(&card.config).map(str::to_string),
        };
    }
    Ok(Opened { tensors, dialect, card, notes: found.notes })
}

/// Refuses missing tensors and wrong shapes. Extra tensors are allowed.
fn check_shapes(config: &ModelConfig, tensors: &TensorMap, notes: &[String]) -> Result<(), ModelError> {
    let skeleton = config.skeleton(&Device::flex())?;
    refuse_integers(&skeleton, tensors)?;
    let mut report = Report::default();
    for (key, expected) in expected_tensors(&skeleton) {
        match tensors.get(&key) {
            Some(tensor) if tensor.shape() == expected => report.loaded.push(key),
            Some(tensor) => {
                report.mismatched.push(ShapeChange { key, found: tensor.shape().to_vec(), expected });
            }
            None if config.first(&key, &expected) == Some(Draw::Keep) => {}
            None => report.missing.push(key),
        }
    }
    let heads = config.heads();
    report.heads_differ = report.missing.iter().any(|key| is_in(key, heads))
        || report.mismatched.iter().any(|change| is_in(&change.key, heads));
    if report.is_refused() {
        let (path, notes) = (tensors.path.clone(), notes.to_vec());
        return Err(ModelError::Refused { path, report: Box::new(report), notes });
    }
    Ok(())
}

/// Refuses whole numbers in the place of weights: they are another program's quantised weights, or no weights.
fn refuse_integers(skeleton: &Model, tensors: &TensorMap) -> Result<(), LoadError> {
    for key in expected_tensors(skeleton).keys() {
        if let Some(tensor) = tensors.get(key).filter(|tensor| !tensor.dtype().is_float()) {
            let reason = format!("is of type {}, expected floating-point numbers", tensor.dtype());
            return Err(LoadError::tensor(&tensors.path, key, reason));
        }
    }
    Ok(())
}

/// The card's labels. Without labels, 1000 classes get those of ImageNet-1k, as in timm.
fn labels(found: &mut Found, num_classes: usize, head_is_new: bool) -> Option<Vec<String>> {
    if head_is_new {
        return None;
    }
    match found.labels.take() {
        Some(labels) => Some(labels).filter(|labels| labels.len() == num_classes),
        None if num_classes == 1000 => {
            found.notes.push(format!("{}: no labels; 1000 classes are taken for ImageNet-1k's", found.name));
            Some(imagenet::names())
        }
        None => None,
    }
}

/// The configuration before the options are applied, with the fields of the key file.
fn configuration(
    found: &mut Found,
    tensors: Option<&Converted>,
    options: &LoadOptions<'_>,
) -> Result<ModelConfig, ModelError> {
    let config = described(found, tensors, options)?;
    match tensors {
        Some(converted) => Ok(converted.tell(config)?),
        None => Ok(config),
    }
}

/// The configuration from the card, else from the catalogue, else inferred from the tensors.
fn described(
    found: &mut Found,
    tensors: Option<&Converted>,
    options: &LoadOptions<'_>,
) -> Result<ModelConfig, ModelError> {
    if let Some(card) = &mut found.card {
        if let Some(converted) = tensors.filter(|_| card.source == CardSource::HuggingFace) {
            let path = converted.map.path.display();
            let settled =
                card.config.clone().settle_huggingface(&converted.map, card.architecture.as_deref())?;
            found.notes.extend(settled.notes.iter().map(|note| format!("{path}: {note}")));
            if settled.config.num_classes() != card.num_classes() {
                card.labels = None;
            }
            card.config = settled.config;
            found.labels.clone_from(&card.labels);
        }
        return Ok(card.config.clone());
    }
    let Some(converted) = tensors else {
        return found.config().cloned().ok_or_else(|| ModelError::NotFound { model: options.spec() });
    };
    let Some(named) = found.config().cloned() else {
        let card = converted.card()?;
        let config = card.config.clone();
        adopt(card, found);
        found.card = None; // it describes the tensors, so it cannot be checked against them
        return Ok(config);
    };
    let Inferred { config, notes } = named.settle_named(converted)?;
    let path = converted.map.path.display();
    let no_news = |note: &&String| note.starts_with("no head") && options.num_classes.is_some();
    found.notes.extend(notes.iter().filter(|note| !no_news(note)).map(|note| format!("{path}: {note}")));
    Ok(config)
}
