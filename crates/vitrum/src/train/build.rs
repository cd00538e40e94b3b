//! From a recipe to the model to train: its configuration, initial values and frozen parameters.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use burn::module::{Lora, Module, Param, ParamGroup, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::TrainError;
use super::recipe::{ImgSize, Recipe};
use crate::checkpoint::apply::Report;
use crate::checkpoint::load::{LoadOptions, load};
use crate::data::preprocess::Preprocess;
use crate::data::{CropMode, Interpolation};
use crate::layers::init::{Draw, normal};
use crate::layers::names::{Key, Map, Visit, map, visit, wildcard};
use crate::models::network::is_in;
use crate::models::stages::Part;
use crate::models::{Config, Model, ModelConfig, Network, catalogue};

/// Facts about a run's model, without the weights.
#[derive(Debug)]
pub struct Built {
    /// The model's configuration.
    pub config: ModelConfig,
    /// Number of parameters.
    pub params: u64,
    /// The closest name of the catalogue, for the card.
    pub architecture: String,
    /// The name for people: with a method, the pretrained model's, because the catalogue has few sizes of the whole.
    pub name: String,
    /// The preprocessing of images.
    pub preprocess: Preprocess,
    /// Report on loading pretrained weights.
    pub report: Option<Report>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Builds the recipe's model for `num_classes`; `None`: as many as it has. [`Built`] holds no weights, so that an update
/// can change them in place.
///
/// # Errors
/// An unknown name, weights that cannot be read or do not fit, and invalid options.
pub fn build(
    recipe: &Recipe,
    num_classes: Option<usize>,
    device: &Device,
    offline: bool,
) -> Result<(Model, Built), TrainError> {
    let edit = |config: ModelConfig| recipe.edit(config).map_err(Into::into);
    let (source, checkpoint) = source(recipe);
    let loaded = load(
        &LoadOptions {
            checkpoint,
            keys: recipe.keys.as_ref().map(Into::into),
            num_classes,
            img_size: recipe.img_size.map(|ImgSize(sides)| sides),
            in_chans: recipe.in_chans,
            global_pool: recipe.global_pool()?,
            edit: Some(&edit),
            needs_weights: recipe.pretrained.is_some() || !recipe.is_named(),
            seed: recipe.seed,
            offline,
            dtype: DType::F32,
            floats_only: true,
            ..LoadOptions::new(source)
        },
        device,
    )?;
    let config = loaded.model.config();
    let card_name = loaded.card.as_ref().and_then(|card| card.architecture.clone());
    if let (Some(place), Some(of)) = (&recipe.pretrained, &card_name) {
        agree(recipe, place, of)?;
    }
    // The card of a model for pretraining names the whole, and this may be its encoder; or the other way round.
    let is_of =
        |name: &String| catalogue::entry(name).is_ok_and(|entry| entry.config.family() == config.family());
    let card_name = card_name.filter(|name| catalogue::entry(name).is_err() || is_of(name));
    if let Some(place) = &recipe.pretrained {
        agree_around(recipe, place, &config)?;
    }
    let architecture = [card_name, Some(recipe.model.clone())]
        .into_iter()
        .flatten()
        .find(is_of)
        .or_else(|| catalogue::closest(&config).map(str::to_string))
        .unwrap_or_else(|| recipe.model.clone());
    let name = match (&recipe.method, config.encoder()) {
        (Some(method), Some(encoder)) if !is_of(&recipe.model) => {
            let own = catalogue::closest(&encoder).filter(|_| !asks_for_a_name(recipe));
            format!("{} ({method})", own.unwrap_or(&recipe.model))
        }
        _ => architecture.clone(),
    };
    let preprocess = preprocess(recipe, loaded.preprocess, &architecture, &config)?;
    let model = set_head(loaded.model, recipe);
    let config = model.config();
    let (params, report, notes) = (model.num_params() as u64, loaded.report, loaded.notes);
    Ok((model, Built { config, params, architecture, name, preprocess, report, notes }))
}

/// Whether the user named a model: weights of another one are then refused.
fn asks_for_a_name(recipe: &Recipe) -> bool {
    recipe.is_named() && recipe.model != Recipe::default().model
}

/// Refuses weights of another model than the requested one.
fn agree(recipe: &Recipe, place: &str, of: &str) -> Result<(), TrainError> {
    // A model for pretraining and its encoder go together.
    let is_around = |outer: &str, inner: &str| {
        let config = |name| catalogue::entry(name).ok().map(|entry| &entry.config);
        let encoder = config(outer).and_then(ModelConfig::encoder);
        encoder.zip(config(inner)).is_some_and(|(encoder, inner)| encoder.family() == inner.family())
    };
    if !asks_for_a_name(recipe)
        || of == recipe.model
        || catalogue::entry(of).is_err()
        || is_around(of, &recipe.model)
        || is_around(&recipe.model, of)
    {
        return Ok(());
    }
    let (found, expected) = (of.to_string(), recipe.model.clone());
    Err(TrainError::OtherWeights { place: place.to_string(), found, expected })
}

/// Refuses weights of an encoder of another size than that of the requested model for pretraining.
fn agree_around(recipe: &Recipe, place: &str, config: &ModelConfig) -> Result<(), TrainError> {
    let Some(encoder) =
        config.encoder().filter(|_| asks_for_a_name(recipe) && recipe.model_kwargs.is_empty())
    else {
        return Ok(());
    };
    let differences = |name: &str| {
        let entry = catalogue::entry(name).ok().filter(|entry| entry.config.family() == config.family())?;
        Some(encoder.differences(&entry.config.encoder()?).len())
    };
    let closest = catalogue::names().filter_map(|name| Some((differences(name)?, name))).min();
    let (Some((least, found)), Some(of_asked)) = (closest, differences(&recipe.model)) else { return Ok(()) };
    if of_asked == least {
        return Ok(());
    }
    let (found, expected) = (found.to_string(), recipe.model.clone());
    Err(TrainError::OtherWeights { place: place.to_string(), found, expected })
}

/// The source of the model, and a file of weights for it.
fn source(recipe: &Recipe) -> (String, Option<PathBuf>) {
    match &recipe.pretrained {
        None => (recipe.model.clone(), None),
        Some(place) if Path::new(place).is_file() && recipe.is_named() => {
            (recipe.model.clone(), Some(place.into()))
        }
        Some(place) => (place.clone(), None),
    }
}

fn preprocess(
    recipe: &Recipe,
    loaded: Option<Preprocess>,
    architecture: &str,
    config: &ModelConfig,
) -> Result<Preprocess, TrainError> {
    let mut preprocess = match (loaded, catalogue::entry(architecture)) {
        (Some(preprocess), _) => preprocess,
        (None, Ok(entry)) => entry.preprocess(),
        (None, Err(_)) => Preprocess::default(),
    };
    let image = config.input().image();
    preprocess.input_size = [image.channels, image.size[0], image.size[1]];
    let numbers = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<f32>>();
    if let Some(mean) = &recipe.mean {
        preprocess.mean = numbers(mean);
    }
    if let Some(std) = &recipe.std {
        preprocess.std = numbers(std);
    }
    for values in [&mut preprocess.mean, &mut preprocess.std] {
        // A grey model gets the mean of the colour statistics.
        if image.channels == 1 && values.len() == 3 {
            *values = vec![values.iter().sum::<f32>() / 3.0];
        }
    }
    let unknown = |key, found: &String| TrainError::UnknownValue { key, found: found.clone() };
    preprocess.crop_pct = recipe.crop_pct.unwrap_or(preprocess.crop_pct);
    if let Some(name) = &recipe.interpolation {
        preprocess.interpolation =
            Interpolation::of_name(name).ok_or_else(|| unknown("interpolation", name))?;
    }
    if let Some(name) = &recipe.crop_mode {
        preprocess.crop_mode = CropMode::of_name(name).ok_or_else(|| unknown("crop_mode", name))?;
    }
    preprocess.check()?;
    Ok(preprocess)
}

/// Applies `head_init_scale` and `head_init_bias` to the heads' initial values.
fn set_head(model: Model, recipe: &Recipe) -> Model {
    struct Head<'a>(&'a Recipe, &'static [&'static str]);
    impl Map for Head<'_> {
        fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
            let (factor, bias) = (self.0.head_init_scale, self.0.head_init_bias);
            let part = key.name.rsplit_once('.').filter(|(layer, _)| self.1.contains(layer));
            match (part.map(|(_, part)| part), factor, bias) {
                (Some("weight"), Some(factor), _) => param.map(|weight| weight * factor),
                (Some("bias"), _, Some(bias)) => param.map(|old| old.zeros_like() + bias),
                (Some("bias"), Some(factor), None) => param.map(|bias| bias * factor),
                _ => param,
            }
        }
    }
    if recipe.head_init_scale.is_none() && recipe.head_init_bias.is_none() {
        return model;
    }
    let heads = model.heads();
    map(model, &mut Head(recipe, heads))
}

/// Decides which parameters are trained. `linear_probe` trains only the head. `freeze` freezes parameters by
/// pattern, `freeze_bn` the batch norms. `lora_rank` freezes all but the head and adds low-rank updates to the blocks'
/// matrices (arXiv:2106.09685).
///
/// A batch norm whose running statistics are among the frozen parameters keeps them: training uses them as they are, as
/// timm's `freeze` does.
///
/// Returns the model, and notes for the user.
///
/// # Errors
/// A pattern without a match, `freeze_bn` without batch norms, `lora_rank` without linear layers, or nothing left to train.
pub fn freeze(model: Model, recipe: &Recipe) -> Result<(Model, Vec<String>), TrainError> {
    let (config, heads) = (model.config(), model.heads());
    let parameters = parameters(&model);
    for pattern in &recipe.freeze {
        if !parameters.iter().any(|parameter| wildcard(pattern, &parameter.key)) {
            return Err(TrainError::FreezesNothing { pattern: pattern.clone() });
        }
    }
    let lora = recipe.lora_rank > 0;
    let is_asked = |key: &str| {
        recipe.freeze.iter().any(|pattern| wildcard(pattern, key))
            || ((lora || recipe.linear_probe) && !is_in(key, heads))
    };
    let mut held: BTreeSet<String> = BTreeSet::new();
    for Parameter { key, shape, is_statistic, .. } in &parameters {
        let by_formula = config.first(key, shape) == Some(Draw::Keep);
        if is_asked(key) || by_formula || *is_statistic {
            held.insert(key.clone());
        }
    }
    let mut model = if lora { with_lora(model, recipe, &parameters)? } else { model };
    let notes = freeze_norms(&mut model, recipe.freeze_bn, &parameters, &is_asked, &mut held)?;
    let mut setter = Setter { held: &held, trained: 0 };
    let model = map(model, &mut setter);
    if setter.trained == 0 {
        return Err(TrainError::FreezesAll);
    }
    Ok((model, notes))
}

/// Freezes the batch norms whose statistics `is_asked` names; with `all`, every one, and its weight and bias.
fn freeze_norms(
    model: &mut Model,
    all: bool,
    parameters: &[Parameter],
    is_asked: &dyn Fn(&str) -> bool,
    held: &mut BTreeSet<String>,
) -> Result<Vec<String>, TrainError> {
    let keys: HashMap<ParamId, &str> =
        parameters.iter().map(|parameter| (parameter.id, parameter.key.as_str())).collect();
    let (mut frozen, mut found) = (0, 0);
    model.visit_parts(&mut |part| {
        let Part::BatchNorm(norm) = part else { return };
        found += 1;
        if all {
            held.extend([norm.weight.id, norm.bias.id].map(|id| keys[&id].to_string()));
        }
        norm.frozen = all || [norm.running_mean.id, norm.running_var.id].iter().any(|id| is_asked(keys[id]));
        frozen += usize::from(norm.frozen);
    });
    match (found, frozen) {
        (0, _) if all => Err(TrainError::NoBatchNorms { family: model.family() }),
        (_, 0) => Ok(Vec::new()),
        (1, _) => Ok(vec!["the batch norm is frozen".into()]),
        _ if frozen == found => Ok(vec![format!("{found} batch norms are frozen")]),
        (_, 1) => Ok(vec![format!("1 of {found} batch norms is frozen")]),
        _ => Ok(vec![format!("{frozen} of {found} batch norms are frozen")]),
    }
}

fn with_lora(model: Model, recipe: &Recipe, parameters: &[Parameter]) -> Result<Model, TrainError> {
    let layers: BTreeSet<String> =
        model.linears().into_iter().map(|(layer, _)| format!("{layer}.weight")).collect();
    if layers.is_empty() {
        return Err(TrainError::NoLinears { family: model.family() });
    }
    let adapted = |parameter: &&Parameter| {
        layers.contains(&parameter.key)
            && !recipe.freeze.iter().any(|pattern| wildcard(pattern, &parameter.key))
    };
    let ids = parameters.iter().filter(adapted).map(|parameter| parameter.id).collect();
    let lora = Lora::new(recipe.lora_rank, recipe.lora_alpha).set_param_group(ParamGroup::from_ids(ids));
    let deviation = 1.0 / recipe.lora_rank as f64;
    Ok(map(model.apply_lora(lora), &mut FirstFactor { seed: recipe.seed, deviation }))
}

/// Initial values of the factors A of low-rank updates, from the recipe's seed. Burn's own values would depend on the
/// whole process. The factors B are zero.
struct FirstFactor {
    seed: u64,
    deviation: f64,
}

impl Map for FirstFactor {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        if !key.name.ends_with(".lora.a") {
            return param;
        }
        param.map(|old| {
            let values = normal(self.deviation, old.shape().num_elements(), self.seed, &key.name);
            Tensor::from_data(TensorData::new(values, old.shape()), (&old.device(), old.dtype()))
        })
    }
}

/// One parameter of a model.
struct Parameter {
    key: String,
    /// Shape in memory.
    shape: Vec<usize>,
    id: ParamId,
    is_statistic: bool,
}

fn parameters(model: &Model) -> Vec<Parameter> {
    struct All(Vec<Parameter>);
    impl Visit for All {
        fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
            let shape = param.lazy_shape().dims::<R>().to_vec();
            self.0.push(Parameter {
                key: key.name.clone(),
                shape,
                id: param.id,
                is_statistic: key.is_statistic,
            });
        }
    }
    let mut all = All(Vec::new());
    visit(model, &mut all);
    all.0
}

/// Turns gradients off for the parameters in `held`, and on for all others. Low-rank updates are never in `held`.
struct Setter<'a> {
    held: &'a BTreeSet<String>,
    trained: usize,
}

impl Map for Setter<'_> {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let trains = !self.held.contains(&key.name);
        self.trained += usize::from(trains);
        param.set_require_grad(trains)
    }
}
