//! From what a user names to a model that answers: find the files, read the card, give the tensors
//! timm's names, fill the model, report.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, Device};

use super::apply::{Excuses, Report, ShapeChange, apply, expected_tensors};
use super::card::{CardSource, ModelCard};
use super::demo;
use super::dialect::{Converted, Dialect, to_timm};
use super::error::LoadError;
use super::imagenet;
use super::quantize::{Int8Map, give_int8, is_quantized, quantize_tensors, shapes, take_int8};
use super::read::read;
use super::tensors::TensorMap;
use crate::data::{CropMode, Interpolation, Preprocess};
use crate::models::vit::{GlobalPool, PosResize, VitConfig};
use crate::models::{ConfigError, Model, ModelConfig, Precision, catalogue};

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
    /// Number of classes; another than the file's means a new head.
    pub num_classes: Option<usize>,
    /// Height and width; positions are resized.
    pub img_size: Option<[usize; 2]>,
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
            num_classes: None,
            img_size: None,
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

/// What stands between a name and a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A name or a configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] super::hub::HubError),
    /// This build knows no hub.
    #[error("{model}: this build cannot fetch models\nhint: build with the feature `hub`, or name a folder")]
    NoHub {
        /// What was asked for.
        model: String,
    },
    /// It looks like a path, and nothing is there.
    #[error(
        "{model}: no such file or folder\nhint: a model is a folder, a file of weights, a name of `vitrum models list`, or hf:ORG/NAME"
    )]
    NotFound {
        /// What was asked for.
        model: String,
    },
    /// A name without weights, where weights are needed.
    #[error(
        "{model}: a name alone has no weights\nhint: add --checkpoint FILE, or fetch published ones with -m hf:timm/{model}.TAG (tags: `vitrum models info {model}`)"
    )]
    NoWeights {
        /// What was asked for.
        model: String,
    },
    /// A flag that does not go with the model.
    #[error("{0}")]
    Edit(String),
    /// File and model differ in ways nobody excused.
    #[error("{path}: these weights are not this model's\n{report}\n{hint}", path = .path.display(), hint = hint(.report))]
    Refused {
        /// The weights.
        path: PathBuf,
        /// What differs.
        report: Box<Report>,
    },
    /// A model of a kind that is not built yet.
    #[error("{path}: {what}", path = .path.display())]
    Unsupported {
        /// The card or weights.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

fn hint(report: &Report) -> String {
    let heads = |keys: &[String]| keys.iter().any(|key| key.starts_with("head."));
    if heads(&report.missing) || report.mismatched.iter().any(|change| change.key.starts_with("head.")) {
        return "hint: --num-classes K gives the model a new head, --num-classes 0 none".into();
    }
    if !report.mismatched.is_empty() {
        return "hint: is it another model? `vitrum checkpoint inspect` shows what the file holds".into();
    }
    "hint: --allow-missing KEY and --allow-unexpected KEY excuse differences by name".into()
}

/// Loads a model on `device`.
///
/// # Errors
/// [`ModelError`], naming the file.
pub fn load(options: &LoadOptions<'_>, device: &Device) -> Result<Loaded, ModelError> {
    let mut found = find(options)?;
    let tensors = match &found.weights {
        Some(path) => Some(to_timm(read(path)?)?),
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
    config.img_size = options.img_size.unwrap_or(config.img_size);
    config.in_chans = options.in_chans.unwrap_or(config.in_chans);
    config.global_pool = options.global_pool.unwrap_or(config.global_pool);
    config.pos_resize = options.pos_resize.unwrap_or(config.pos_resize);
    if let Some(edit) = options.edit {
        config = edit(config).map_err(ModelError::Edit)?;
    }
    let preprocess = found.preprocess.take().map(|preprocess| Preprocess {
        input_size: [config.in_chans, config.img_size[0], config.img_size[1]],
        ..preprocess
    });
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
        return Err(ModelError::Refused { path, report: Box::new(report) });
    }
    give_int8(&mut model, quantized).map_err(|(key, reason)| LoadError::tensor(&path, &key, reason))?;
    if options.precision == Precision::Bf16 {
        model = model.round_to_bf16();
    }
    let Found { name, card, notes, .. } = found;
    Ok(Loaded { model, name, preprocess, labels, card, report: Some(report), notes })
}

/// The weights in eight bits: those of the file, and, where they are asked for, the others turned into such.
fn int8_weights(tensors: &mut TensorMap, options: &LoadOptions<'_>) -> Result<Int8Map, ModelError> {
    let refuse = |what| Err(ModelError::Unsupported { path: tensors.path.clone(), what });
    if is_quantized(tensors) {
        if options.floats_only {
            return refuse(
                "weights in eight bits, which cannot be trained\nhint: begin from the model they were made from",
            );
        }
        if options.dtype != DType::F32 {
            return refuse(
                "weights in eight bits, which are computed with in f32 alone\nhint: leave out --dtype",
            );
        }
        if options.precision == Precision::Bf16 {
            return refuse(
                "weights in eight bits, which are not computed with in bf16\nhint: leave out --precision, or begin from the model they were made from",
            );
        }
    }
    let mut quantized = take_int8(tensors)?;
    if options.precision == Precision::Int8 {
        quantized.extend(quantize_tensors(tensors, &[]));
    }
    Ok(quantized)
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

/// Reads a checkpoint without making a model of it.
///
/// # Errors
/// [`ModelError`], naming the file.
pub fn open(options: &LoadOptions<'_>) -> Result<Opened, ModelError> {
    let mut found = find(options)?;
    let Some(path) = &found.weights else {
        return Err(ModelError::NoWeights { model: options.model.clone() });
    };
    let converted = to_timm(read(path)?)?;
    let config = configuration(&mut found, Some(&converted), options)?;
    let Converted { map: tensors, dialect, .. } = converted;
    if is_quantized(&tensors) {
        return Err(ModelError::Unsupported {
            path: tensors.path,
            what: "weights in eight bits, which are neither converted nor quantised again\nhint: begin from the model they were made from",
        });
    }
    if let Some(card) = &found.card {
        card.check_size(tensors.num_elements())?;
    }
    check_shapes(&config, &tensors)?;
    let mut card =
        found.card.unwrap_or_else(|| ModelCard::new(config, CardSource::Tensors, tensors.path.clone()));
    card.preprocess = found.preprocess;
    if card.architecture.as_deref().is_none_or(|name| catalogue::entry(name).is_err()) {
        let name = if found.named.is_some() { found.name.as_str() } else { catalogue::closest(&card.config) };
        card.architecture = Some(name.to_string());
    }
    Ok(Opened { tensors, dialect, card, notes: found.notes })
}

/// Refuses tensors that are not those of the model described; what the model does not know may be there.
fn check_shapes(config: &VitConfig, tensors: &TensorMap) -> Result<(), ModelError> {
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
        return Err(ModelError::Refused { path: tensors.path.clone(), report: Box::new(report) });
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

/// What the name led to.
struct Found {
    name: String,
    card: Option<ModelCard>,
    /// The configuration of a catalogue name.
    named: Option<VitConfig>,
    weights: Option<PathBuf>,
    preprocess: Option<Preprocess>,
    labels: Option<Vec<String>>,
    notes: Vec<String>,
}

fn find(options: &LoadOptions<'_>) -> Result<Found, ModelError> {
    let spec = options.model.as_str();
    if names_hub(spec) {
        return of_path(&fetch(options)?, spec, options);
    }
    let path = Path::new(spec);
    if path.exists() {
        return of_path(path, spec, options);
    }
    if spec == demo::NAME {
        return of_path(&demo::folder()?, spec, options);
    }
    match catalogue::entry(spec) {
        Ok(entry) => of_name(spec, entry, options),
        Err(_) if looks_like_path(spec) => Err(ModelError::NotFound { model: spec.into() }),
        Err(error) => Err(error.into()),
    }
}

fn looks_like_path(spec: &str) -> bool {
    let extensions = [".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".json"];
    spec.contains(['/', '\\']) || spec.starts_with('.') || extensions.iter().any(|end| spec.ends_with(end))
}

#[cfg(feature = "hub")]
fn names_hub(spec: &str) -> bool {
    super::hub::is_hub_spec(spec)
}

/// Without the hub's module, enough to say that this build cannot fetch.
#[cfg(not(feature = "hub"))]
fn names_hub(spec: &str) -> bool {
    spec.starts_with("hf:") || spec.starts_with("hf-hub:")
}

#[cfg(feature = "hub")]
fn fetch(options: &LoadOptions<'_>) -> Result<PathBuf, ModelError> {
    let mut hub = super::hub::HubOptions::from_env();
    hub.offline |= options.offline;
    hub.progress.clone_from(&options.progress);
    Ok(super::hub::fetch(&options.model, &hub)?)
}

#[cfg(not(feature = "hub"))]
fn fetch(options: &LoadOptions<'_>) -> Result<PathBuf, ModelError> {
    Err(ModelError::NoHub { model: options.model.clone() })
}

/// A folder, a `config.json`, or a file of weights with or without a card beside it.
fn of_path(path: &Path, spec: &str, options: &LoadOptions<'_>) -> Result<Found, ModelError> {
    let card = card_of(path)?;
    let is_card = path.extension().is_some_and(|extension| extension == "json") && !is_index(path);
    let own =
        if is_card { path.parent().unwrap_or(Path::new(".")).to_path_buf() } else { path.to_path_buf() };
    let name = spec.trim_end_matches('/').to_string();
    let mut found = Found {
        name,
        card: None,
        named: None,
        weights: Some(options.checkpoint.clone().unwrap_or(own)),
        preprocess: None,
        labels: None,
        notes: Vec::new(),
    };
    if let Some(card) = card {
        adopt(card, &mut found)?;
    }
    Ok(found)
}

fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".index.json"))
}

fn card_of(path: &Path) -> Result<Option<ModelCard>, ModelError> {
    let resolve = |name: &str| match catalogue::entry(name) {
        Ok(entry) => Ok(entry.config.clone()),
        Err(error) => Err(error.to_string()),
    };
    Ok(ModelCard::find(path, &resolve)?)
}

fn adopt(card: ModelCard, found: &mut Found) -> Result<(), ModelError> {
    if card.dist_token || card.dist_head {
        return Err(ModelError::Unsupported {
            path: card.path,
            what: "a distilled DeiT with a second head: this family is not built yet",
        });
    }
    found.notes.extend(card.notes.iter().map(|note| format!("{}: {note}", card.path.display())));
    found.preprocess.clone_from(&card.preprocess);
    found.labels.clone_from(&card.labels);
    found.card = Some(card);
    Ok(())
}

/// A name of the catalogue; a card beside the checkpoint still says how images are prepared.
fn of_name(spec: &str, entry: &catalogue::Entry, options: &LoadOptions<'_>) -> Result<Found, ModelError> {
    Ok(Found {
        name: spec.into(),
        card: None,
        named: Some(entry.config.clone()),
        weights: options.checkpoint.clone(),
        preprocess: Some(
            preprocess_of(entry).map_err(|reason| ModelError::Edit(format!("{spec}: {reason}")))?,
        ),
        labels: None,
        notes: Vec::new(),
    })
}

/// The catalogue's words for preprocessing, understood.
fn preprocess_of(entry: &catalogue::Entry) -> Result<Preprocess, String> {
    let catalogue::NamedPreprocess { mean, std, interpolation, crop_pct, crop_mode } = &entry.preprocess;
    let [height, width] = entry.config.img_size;
    Ok(Preprocess {
        input_size: [entry.config.in_chans, height, width],
        interpolation: Interpolation::of_name(interpolation)
            .ok_or_else(|| format!("unknown interpolation `{interpolation}`"))?,
        crop_pct: *crop_pct,
        crop_mode: CropMode::of_name(crop_mode).ok_or_else(|| format!("unknown crop_mode `{crop_mode}`"))?,
        mean: mean.clone(),
        std: std.clone(),
    })
}

/// The configuration before the user's changes: the card's, the catalogue's, or what the tensors show.
fn configuration(
    found: &mut Found,
    tensors: Option<&Converted>,
    options: &LoadOptions<'_>,
) -> Result<VitConfig, ModelError> {
    if let Some(card) = &found.card {
        let mut config = card.config.clone();
        if card.source != CardSource::Timm {
            config.pos_resize = PosResize::Bicubic;
        }
        return Ok(config);
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
    let rows = |key: &str| converted.map.get(key).and_then(|tensor| tensor.shape().first().copied());
    config.num_classes = rows("head.weight").unwrap_or(0);
    config.representation_size = rows("pre_logits.fc.weight");
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

/// The name that a configuration file uses.
fn spelled(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_string)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
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
