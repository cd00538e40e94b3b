//! From a recipe to the model that will be trained: its configuration, first values, and what stays frozen.

use std::path::{Path, PathBuf};

use burn::module::{Lora, Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::TrainError;
use super::recipe::{ImgSize, Recipe};
use crate::checkpoint::apply::Report;
use crate::checkpoint::load::{LoadOptions, load};
use crate::data::preprocess::Preprocess;
use crate::data::{CropMode, Interpolation};
use crate::layers::init::normal;
use crate::layers::names::{KeyPath, wildcard};
use crate::models::vit::VitConfig;
use crate::models::{Model, ModelConfig, catalogue};

/// What a run knows of its model beside the weights.
#[derive(Debug)]
pub struct Built {
    /// The model's configuration.
    pub config: VitConfig,
    /// How many parameters the model has.
    pub params: u64,
    /// Name of the catalogue it comes nearest to, for the card.
    pub architecture: String,
    /// How images are prepared.
    pub preprocess: Preprocess,
    /// What happened to pretrained weights.
    pub report: Option<Report>,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// Makes the recipe's model for `num_classes`. What is kept of it beside the model holds no weights: a step changes them in
/// place where nobody else does.
///
/// # Errors
/// A name nobody knows, weights that cannot be read or do not fit, and options that make no model.
pub fn build(
    recipe: &Recipe,
    num_classes: usize,
    device: &Device,
    offline: bool,
) -> Result<(Model, Built), TrainError> {
    let edit = |config: VitConfig| recipe.edit(config).map_err(|error| error.to_string());
    let (source, checkpoint) = source(recipe);
    let loaded = load(
        &LoadOptions {
            checkpoint,
            num_classes: Some(num_classes),
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
    let ModelConfig::Vit(config) = loaded.model.config();
    let card_name = loaded.card.as_ref().and_then(|card| card.architecture.clone());
    if let (Some(place), Some(of)) = (&recipe.pretrained, &card_name) {
        agree(recipe, place, of)?;
    }
    let architecture = [card_name, Some(recipe.model.clone())]
        .into_iter()
        .flatten()
        .find(|name| catalogue::entry(name).is_ok())
        .unwrap_or_else(|| catalogue::closest(&config).to_string());
    let preprocess = preprocess(recipe, loaded.preprocess, &architecture, &config)?;
    let model = set_head(loaded.model, recipe);
    let ModelConfig::Vit(config) = model.config();
    let (params, report, notes) = (model.num_params() as u64, loaded.report, loaded.notes);
    Ok((model, Built { config, params, architecture, preprocess, report, notes }))
}

/// Refuses the weights of another model than the one that was asked for.
fn agree(recipe: &Recipe, place: &str, of: &str) -> Result<(), TrainError> {
    let is_asked = recipe.is_named() && recipe.model != Recipe::default().model;
    if !is_asked || of == recipe.model || catalogue::entry(of).is_err() {
        return Ok(());
    }
    Err(TrainError::Option(format!(
        "{place} has the weights of {of}, not of {}\nhint: leave out `model`, or begin from other weights",
        recipe.model
    )))
}

/// Where the model comes from, and a file of weights for it.
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
    config: &VitConfig,
) -> Result<Preprocess, TrainError> {
    let mut preprocess = match (loaded, catalogue::entry(architecture)) {
        (Some(preprocess), _) => preprocess,
        (None, Ok(entry)) => Preprocess {
            mean: entry.preprocess.mean.clone(),
            std: entry.preprocess.std.clone(),
            crop_pct: entry.preprocess.crop_pct,
            interpolation: Interpolation::of_name(&entry.preprocess.interpolation).unwrap_or_default(),
            ..Preprocess::default()
        },
        (None, Err(_)) => Preprocess::default(),
    };
    preprocess.input_size = [config.in_chans, config.img_size[0], config.img_size[1]];
    let numbers = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<f32>>();
    if let Some(mean) = &recipe.mean {
        preprocess.mean = numbers(mean);
    }
    if let Some(std) = &recipe.std {
        preprocess.std = numbers(std);
    }
    for values in [&mut preprocess.mean, &mut preprocess.std] {
        // Colour statistics for a grey model: their mean.
        if config.in_chans == 1 && values.len() == 3 {
            *values = vec![values.iter().sum::<f32>() / 3.0];
        }
    }
    preprocess.crop_pct = recipe.crop_pct.unwrap_or(preprocess.crop_pct);
    if let Some(name) = &recipe.interpolation {
        preprocess.interpolation = Interpolation::of_name(name)
            .ok_or_else(|| TrainError::Option(format!("interpolation '{name}' is not known")))?;
    }
    if let Some(name) = &recipe.crop_mode {
        preprocess.crop_mode = CropMode::of_name(name)
            .ok_or_else(|| TrainError::Option(format!("crop_mode '{name}' is not known")))?;
    }
    preprocess.check()?;
    Ok(preprocess)
}

/// The head's first values as `head_init_scale` and `head_init_bias` ask.
fn set_head(model: Model, recipe: &Recipe) -> Model {
    struct Head<'a>(&'a Recipe, KeyPath);
    impl ModuleMapper for Head<'_> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.1.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.exit();
        }
        fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
            let factor = self.0.head_init_scale;
            match (self.1.key().as_str(), factor, self.0.head_init_bias) {
                ("head.weight", Some(factor), _) => param.map(|weight| weight * factor),
                ("head.bias", _, Some(bias)) => param.map(|old| old.zeros_like() + bias),
                ("head.bias", Some(factor), None) => param.map(|bias| bias * factor),
                _ => param,
            }
        }
    }
    if recipe.head_init_scale.is_none() && recipe.head_init_bias.is_none() {
        return model;
    }
    model.map(&mut Head(recipe, KeyPath::default()))
}

/// Decides what is trained: `linear_probe` leaves the head alone, `freeze` holds parameters by pattern,
/// `lora_rank` holds all but the head and adds low-rank updates to the blocks' matrices (arXiv:2106.09685).
///
/// # Errors
/// A pattern that matches nothing, or nothing left to train.
pub fn freeze(model: Model, recipe: &Recipe) -> Result<Model, TrainError> {
    let ModelConfig::Vit(config) = model.config();
    let fixed = config.pos_embed.is_fixed();
    let parameters = parameters(&model);
    for pattern in &recipe.freeze {
        if !parameters.iter().any(|(key, ..)| wildcard(pattern, key)) {
            return Err(TrainError::Option(format!("freeze '{pattern}' matches no parameter of the model")));
        }
    }
    let lora = recipe.lora_rank > 0;
    let held = |key: &str| {
        recipe.freeze.iter().any(|pattern| wildcard(pattern, key))
            || (fixed && key == "pos_embed")
            || ((lora || recipe.linear_probe) && !is_head(key))
    };
    let model = if lora { with_lora(model, recipe, &parameters) } else { model };
    let mut setter = Setter {
        trains: &|key: &str| key.contains(".lora.") || !held(key),
        path: KeyPath::default(),
        trained: 0,
    };
    let model = model.map(&mut setter);
    if setter.trained == 0 {
        return Err(TrainError::Option("every parameter is frozen: nothing is left to train".into()));
    }
    Ok(model)
}

fn is_head(key: &str) -> bool {
    key.starts_with("head.")
}

fn with_lora(model: Model, recipe: &Recipe, parameters: &[(String, usize, ParamId)]) -> Model {
    let adapted = |(key, rank, _): &&(String, usize, ParamId)| {
        *rank == 2
            && key.starts_with("blocks.")
            && key.ends_with(".weight")
            && !recipe.freeze.iter().any(|pattern| wildcard(pattern, key))
    };
    let ids = parameters.iter().filter(adapted).map(|(.., id)| *id).collect();
    let lora = Lora::new(recipe.lora_rank, recipe.lora_alpha).set_param_group(ParamGroup::from_ids(ids));
    let deviation = 1.0 / recipe.lora_rank as f64;
    model.apply_lora(lora).map(&mut FirstFactor { seed: recipe.seed, deviation, path: KeyPath::default() })
}

/// First values of the factors A of low-rank updates, of which Burn's would depend on the whole process; the factors B
/// are zero.
struct FirstFactor {
    seed: u64,
    deviation: f64,
    path: KeyPath,
}

impl ModuleMapper for FirstFactor {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let key = self.path.key();
        if !key.ends_with(".lora.a") {
            return param;
        }
        param.map(|old| {
            let values = normal(self.deviation, old.shape().num_elements(), self.seed, &key);
            Tensor::from_data(TensorData::new(values, old.shape()), (&old.device(), old.dtype()))
        })
    }
}

/// Key, rank and identity of all parameters.
fn parameters(model: &Model) -> Vec<(String, usize, ParamId)> {
    struct All(Vec<(String, usize, ParamId)>, KeyPath);
    impl ModuleVisitor for All {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.1.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.exit();
        }
        fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
            self.0.push((self.1.key(), R, param.id));
        }
    }
    let mut all = All(Vec::new(), KeyPath::default());
    model.visit(&mut all);
    all.0
}

struct Setter<'a> {
    trains: &'a dyn Fn(&str) -> bool,
    path: KeyPath,
    trained: usize,
}

impl ModuleMapper for Setter<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let trains = (self.trains)(&self.path.key());
        self.trained += usize::from(trains);
        param.set_require_grad(trains)
    }
}
