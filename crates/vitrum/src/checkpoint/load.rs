//! From what a user names to a model that answers: find the files, read the card, give the tensors
//! timm's names, fill the model, report.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{DType, Device};

mod error;
mod find;
mod weights;

use super::apply::{Excuses, Report, ShapeChange, apply, expected_tensors, resize_positions};
use super::card::{CardSource, ModelCard};
use super::convert::narrow_folded;
use super::dialect::{Converted, Dialect};
use super::error::LoadError;
use super::imagenet;
use super::quantize::{give_int8, is_quantized, shapes};
use super::tensors::TensorMap;
use crate::data::Preprocess;
use crate::models::vit::{GlobalPool, PosResize, VitConfig};
use crate::models::{Model, ModelConfig, Precision, catalogue};
pub use error::ModelError;
use find::{Found, adopt, find};
use weights::{int8_weights, weights};

/// Changes a configuration before a model is made of it; the error is a sentence for the user.
pub type Edit<'a> = dyn Fn(VitConfig) -> Result<VitConfig, String> + 'a;

/// Told how a download goes: the file's name, the bytes on disk, the bytes in all (0 if unknown).
pub type Progress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// What to load, and what may differ from it.
pub struct LoadOptions<'a> {
    /// A folder with `config.json` and weights, a file of weights, a name of the catalogue, `hf:ORG/NAME`, or `demo`.
    pub model: String,
    /// Weights instead of those that come with the model.
    pub checkpoint: Option<PathBuf>,
    /// Which of several sets of weights in the file, by the words in front of its tensors: `student`, `state_dict`.
    /// Without it averaged weights come before others, and a teacher before its student.
    pub weight_set: Option<String>,
    /// Number of classes; another than the file's means a new head.
    pub num_classes: Option<usize>,
    /// Height and width; positions are resized.
    pub img_size: Option<[usize; 2]>,
    /// Whether a Hugging Face processor's own size decides what enters the model, where `img_size` does not: positions
    /// are resized to it. Else the model keeps the size in its `config.json`.
    pub size_of_processor: bool,
    /// Channels of the images; the patch projection is adapted, as timm adapts it.
    pub in_chans: Option<usize>,
    /// How tokens become one vector, over the card's way; the norm of a model that pools one token moves behind the
    /// pooling where the new way has it there.
    pub global_pool: Option<GlobalPool>,
    /// How positions are resized, over the card's method.
    pub pos_resize: Option<PosResize>,
    /// A last word on the configuration.
    pub edit: Option<&'a Edit<'a>>,
    /// Type of the model's values: f32 or f64.
    pub dtype: DType,
    /// Whether weights are rounded to bf16 or turned into eight bits once they are loaded; those of a file that are in
    /// eight bits stay so, and are refused beside bf16.
    pub precision: Precision,
    /// Whether a file with weights in eight bits is refused: for training, which needs the floating-point ones.
    pub floats_only: bool,
    /// Keys the file may lack; `*` stands for any text.
    pub allow_missing: Vec<String>,
    /// Keys of the file that may be ignored; `*` stands for any text.
    pub allow_unexpected: Vec<String>,
    /// Whether a model without weights is an error; else it gets fresh values.
    pub needs_weights: bool,
    /// Seed of fresh values.
    pub seed: u64,
    /// Never touch the network.
    pub offline: bool,
    /// Told how downloads go.
    pub progress: Option<Progress>,
}

impl<'a> LoadOptions<'a> {
    /// `model` as it is, in f32, with its weights.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            checkpoint: None,
            weight_set: None,
            num_classes: None,
            img_size: None,
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
}

/// A model and all that came with it.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// What to call it.
    pub name: String,
    /// How images are prepared; `None` when nothing says so.
    pub preprocess: Option<Preprocess>,
    /// Name of each class.
    pub labels: Option<Vec<String>>,
    /// The card, where there is one.
    pub card: Option<ModelCard>,
    /// What happened to every tensor; `None` for a fresh model.
    pub report: Option<Report>,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// Loads a model on `device`.
///
/// # Errors
/// [`ModelError`], naming the file.
pub fn load(options: &LoadOptions<'_>, device: &Device) -> Result<Loaded, ModelError> {
    let mut found = find(options)?;
    let tensors = match found.weights.clone() {
        Some(path) => Some(weights(&path, &mut found, options)?),
        None if options.needs_weights => return Err(ModelError::NoWeights { model: options.model.clone() }),
        None => None,
    };
    let mut config = configuration(&mut found, tensors.as_ref(), options)?;
    let (source_grid, source_chans) = (config.grid(), config.in_chans);
    let head_in_file = tensors
        .as_ref()
        .and_then(|converted| Some(converted.map.get("head.weight")?.shape().first().copied().unwrap_or(0)));
    let new_head = match (options.num_classes, head_in_file) {
        (Some(asked), Some(held)) => asked != held && asked != 0,
        (Some(asked), None) => asked != 0,
        (None, _) => false,
    };
    config.num_classes = options.num_classes.unwrap_or(config.num_classes);
    config.img_size = image_size(&config, &mut found, options);
    config.in_chans = options.in_chans.unwrap_or(config.in_chans);
    config.global_pool = options.global_pool.unwrap_or(config.global_pool);
    config.pos_resize = options.pos_resize.unwrap_or(config.pos_resize);
    if let Some(edit) = options.edit {
        config = edit(config).map_err(ModelError::Edit)?;
    }
    let preprocess = found.preprocess.take().map(|preprocess| prepared_for(&config, preprocess));
    let labels = labels(&mut found, config.num_classes, new_head || options.num_classes == Some(0));
    let seed = options.seed;
    if options.precision != Precision::F32 && options.dtype != DType::F32 {
        return Err(ModelError::Edit(format!(
            "--precision {} computes the rest in f32\nhint: leave out --dtype, or --precision",
            options.precision.name()
        )));
    }
    if options.precision == Precision::Bf16 && !vitrum_kernels::has_fast_path(device, DType::F32) {
        let reason = "--precision bf16 is computed on the CPU\nhint: leave out --device, or --precision";
        return Err(ModelError::Edit(reason.into()));
    }
    let Some(Converted { map: mut tensors, .. }) = tensors else {
        let note = format!("{}: no weights, fresh values from seed {seed}", found.name);
        found.notes.push(note);
        let model = Model::Vit(config.init_as(device, seed, options.dtype)?);
        let model = match options.precision {
            Precision::F32 => model,
            Precision::Bf16 => model.round_to_bf16(),
            Precision::Int8 => model.quantize(&[])?,
        };
        let Found { name, card, notes, .. } = found;
        return Ok(Loaded { model, name, preprocess, labels, card, report: None, notes });
    };
    if let Some(card) = &found.card {
        card.check_size(tensors.num_elements())?;
    }
    if options.num_classes == Some(0) {
        tensors.tensors.retain(|key, _| !key.starts_with("head."));
    }
    let path = tensors.path.clone();
    let quantized = int8_weights(&mut tensors, options)?;
    let skeleton = ModelConfig::Vit(config).skeleton(device)?;
    let excuses = Excuses {
        missing: options.allow_missing.clone(),
        unexpected: options.allow_unexpected.clone(),
        new_head,
        source_grid: Some(source_grid),
        source_chans: Some(source_chans),
        held: shapes(&quantized),
        seed,
    };
    let (mut model, report) = apply(skeleton, tensors, options.dtype, &excuses);
    if report.is_refused() {
        return Err(ModelError::Refused { path, report: Box::new(report), notes: found.notes });
    }
    give_int8(&mut model, quantized).map_err(|(key, reason)| LoadError::tensor(&path, &key, reason))?;
    if options.precision == Precision::Bf16 {
        model = model.round_to_bf16();
    }
    let Found { name, card, notes, .. } = found;
    Ok(Loaded { model, name, preprocess, labels, card, report: Some(report), notes })
}

/// Preprocessing for the model's images. Grey ones keep the level that all channels share, where they share one.
fn prepared_for(config: &VitConfig, mut preprocess: Preprocess) -> Preprocess {
    preprocess.input_size = [config.in_chans, config.img_size[0], config.img_size[1]];
    let is_one = |levels: &[f32]| levels.windows(2).all(|pair| pair[0] == pair[1]);
    if config.in_chans == 1 && is_one(&preprocess.mean) && is_one(&preprocess.std) {
        preprocess.mean.truncate(1);
        preprocess.std.truncate(1);
    }
    preprocess
}

/// Height and width of the images: those asked for, else the processor's, else the model's own.
fn image_size(config: &VitConfig, found: &mut Found, options: &LoadOptions<'_>) -> [usize; 2] {
    let own = config.img_size;
    let of_hugging_face = found.card.as_ref().is_some_and(|card| card.source == CardSource::HuggingFace);
    if let Some(asked) = options.img_size {
        return asked;
    }
    let Some(processor) = found.preprocess.as_ref().filter(|_| of_hugging_face && options.size_of_processor)
    else {
        return own;
    };
    let [_, height, width] = processor.input_size;
    if [height, width] != own {
        let ([h, w], name) = (own, &found.name);
        found.notes.push(format!(
            "{name}: images enter as {height}x{width}, the size of the processor; config.json has {h}x{w}"
        ));
    }
    [height, width]
}

/// A checkpoint under timm's names, with its card.
#[derive(Debug)]
pub struct Opened {
    /// The tensors, under timm's names and in timm's layouts.
    pub tensors: TensorMap,
    /// The naming the file had.
    pub dialect: Dialect,
    /// What is known of it, from its own card, the catalogue, or its shapes.
    pub card: ModelCard,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// Reads a checkpoint without making a model of it. Positions are brought to the size that [`load`] would give the
/// model.
///
/// # Errors
/// [`ModelError`], naming the file.
pub fn open(options: &LoadOptions<'_>) -> Result<Opened, ModelError> {
    let mut found = find(options)?;
    let Some(path) = found.weights.clone() else {
        return Err(ModelError::NoWeights { model: options.model.clone() });
    };
    let converted = weights(&path, &mut found, options)?;
    let mut config = configuration(&mut found, Some(&converted), options)?;
    let Converted { map: mut tensors, dialect, .. } = converted;
    if is_quantized(&tensors) {
        return Err(ModelError::Unsupported {
            path: tensors.path,
            what: "weights in eight bits, which are neither converted nor quantised again\nhint: begin from the model they were made from",
        });
    }
    let path = tensors.path.clone();
    narrow_folded(&mut tensors.tensors).map_err(|(key, reason)| LoadError::tensor(&path, &key, reason))?;
    if let Some(card) = &found.card {
        card.check_size(tensors.num_elements())?;
    }
    check_shapes(&config, &tensors, &found.notes)?;
    let source_grid = config.grid();
    config.img_size = image_size(&config, &mut found, options);
    if config.grid() != source_grid {
        resize_positions(&config, &mut tensors, Some(source_grid), &mut Report::default());
    }
    let mut card = match found.card {
        Some(card) => ModelCard { config, ..card },
        None => ModelCard::new(config, CardSource::Tensors, path),
    };
    card.preprocess = found.preprocess;
    if card.architecture.as_deref().is_none_or(|name| catalogue::entry(name).is_err()) {
        let name = if found.named.is_some() { found.name.as_str() } else { catalogue::closest(&card.config) };
        card.architecture = Some(name.to_string());
    }
    Ok(Opened { tensors, dialect, card, notes: found.notes })
}

/// Refuses tensors that are not those of the model described; what the model does not know may be there.
fn check_shapes(config: &VitConfig, tensors: &TensorMap, notes: &[String]) -> Result<(), ModelError> {
    let skeleton = ModelConfig::Vit(config.clone()).skeleton(&Device::flex())?;
    let mut report = Report::default();
    for (key, expected) in expected_tensors(&skeleton) {
        match tensors.get(&key) {
            Some(tensor) if tensor.shape() == expected => report.loaded.push(key),
            Some(tensor) => {
                report.mismatched.push(ShapeChange { key, found: tensor.shape().to_vec(), expected });
            }
            None if key == "pos_embed" && config.pos_embed.is_fixed() => {}
            None => report.missing.push(key),
        }
    }
    if report.is_refused() {
        let (path, notes) = (tensors.path.clone(), notes.to_vec());
        return Err(ModelError::Refused { path, report: Box::new(report), notes });
    }
    Ok(())
}

/// The card's labels; where there are none, a thousand classes are taken for ImageNet's, as timm takes them.
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

/// The configuration before the user's changes: the card's, the catalogue's, or what the tensors show.
fn configuration(
    found: &mut Found,
    tensors: Option<&Converted>,
    options: &LoadOptions<'_>,
) -> Result<VitConfig, ModelError> {
    if let Some(card) = &mut found.card {
        if let Some(converted) = tensors {
            found.notes.extend(fit_to_tensors(card, &converted.map));
            found.labels.clone_from(&card.labels);
        }
        return Ok(card.config.clone());
    }
    let Some(converted) = tensors else {
        return found.named.clone().ok_or_else(|| ModelError::NotFound { model: options.model.clone() });
    };
    let Some(mut config) = found.named.clone() else {
        let card = converted.card()?;
        let config = card.config.clone();
        adopt(card, found)?;
        found.card = None; // it describes the tensors, so it cannot be checked against them
        return Ok(config);
    };
    // A file that has another number of classes than the catalogue's 1000 is right about itself.
    config.num_classes = rows(&converted.map, "head.weight").unwrap_or(0);
    config.representation_size = rows(&converted.map, "pre_logits.fc.weight");
    if config.num_classes == 0 && options.num_classes.is_none() {
        let path = converted.map.path.display();
        found.notes.push(format!("{path}: no head in this file: a model of features, without classes"));
    }
    if converted.dialect != Dialect::Timm {
        let shown = converted.card()?.config;
        let VitConfig { act_layer, norm_eps, pos_resize, .. } = shown;
        found.notes.push(format!(
            "{}: {} names, so act_layer={}, norm_eps={norm_eps:e}, pos_resize={} (--model-kwargs sets others)",
            converted.map.path.display(),
            converted.dialect.name(),
            spelled(act_layer),
            spelled(pos_resize),
        ));
        config = VitConfig { act_layer, norm_eps, pos_resize, ..config };
    }
    Ok(config)
}

/// What Hugging Face's `config.json` does not say: whether a model of no stated class has a head, and whether a bare
/// model has a pooler.
fn fit_to_tensors(card: &mut ModelCard, map: &TensorMap) -> Option<String> {
    const POOLER: &str = "pre_logits.fc.weight";
    if card.source != CardSource::HuggingFace || map.contains("head.weight") {
        return None;
    }
    if card.architecture.is_none() {
        card.config.num_classes = 0;
        card.config.representation_size = rows(map, POOLER);
        card.labels = None;
    } else if card.config.num_classes == 0
        && card.config.representation_size.is_some()
        && !map.contains(POOLER)
    {
        card.config.representation_size = None;
        return Some(format!("{}: no pooler in this file: the class token as it is", map.path.display()));
    }
    None
}

fn rows(map: &TensorMap, key: &str) -> Option<usize> {
    map.get(key)?.shape().first().copied()
}

/// The name that a configuration file uses.
fn spelled(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_string)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::find::preprocess_of;
    use super::*;

    #[test]
    fn every_named_model_has_preprocessing() {
        for name in catalogue::names() {
            let entry = catalogue::entry(name).unwrap();
            let preprocess = preprocess_of(entry).unwrap_or_else(|reason| panic!("{name}: {reason}"));
            preprocess.check().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(preprocess.interpolation.name(), entry.preprocess.interpolation, "{name}");
            assert_eq!(preprocess.crop_mode.name(), entry.preprocess.crop_mode, "{name}");
        }
    }
}
