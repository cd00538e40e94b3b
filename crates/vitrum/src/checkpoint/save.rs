//! Saving the model in hand, in any precision.

use std::path::Path;

use super::apply::collect;
use super::card::{CardSource, ModelCard};
use super::load::{Loaded, ModelError};
use super::quantize::{Int8Map, put_int8};
use super::write::{WriteOptions, write_bf16, write_int8, write_model};
use super::{Dtype, HostTensor, LoadError, TensorMap};
use crate::models::{Model, Network, Precision, catalogue};

impl Loaded {
    /// Writes the model with its preprocessing and labels as a folder that [`load`](super::load::load) and the `vitrum`
    /// command read. A model in f32 goes into timm's layout if timm can express it, else into transformers', else into
    /// our own; the result says why timm cannot load it. int8 and bf16 weights are kept as they are, and load again as
    /// such; only vitrum reads int8 ones.
    ///
    /// # Errors
    /// [`LoadError::Exists`] for a folder that is not empty, unless `overwrite` is set; I/O errors.
    pub fn save(
        &self,
        folder: impl AsRef<Path>,
        options: &WriteOptions,
    ) -> Result<Option<String>, ModelError> {
        save(folder, &self.model, &self.card(), options)
    }

    /// The card of the model as it is: with its present configuration, preprocessing and labels.
    fn card(&self) -> ModelCard {
        let config = self.model.config();
        let known = |name: &&String| catalogue::entry(name).is_ok();
        let card = match &self.card {
            Some(card) => ModelCard { config, ..card.clone() },
            None => ModelCard::new(config, CardSource::Tensors, &self.name),
        };
        let own = [card.architecture.clone(), Some(self.name.clone())].into_iter().flatten();
        let architecture = own.into_iter().find(|name| known(&name));
        ModelCard {
            architecture: architecture.or_else(|| catalogue::closest(&card.config).map(str::to_string)),
            preprocess: self.preprocess.clone(),
            labels: self.labels.clone(),
            ..card
        }
    }
}

/// Writes a model with its card, as [`Loaded::save`] does.
///
/// # Errors
/// As [`Loaded::save`].
pub fn save(
    folder: impl AsRef<Path>,
    model: &Model,
    card: &ModelCard,
    options: &WriteOptions,
) -> Result<Option<String>, ModelError> {
    let folder = folder.as_ref();
    let base = match &card.architecture {
        Some(name) => catalogue::entry(name)?.config.clone(),
        None => card.config.clone(),
    };
    let mut map = collect(model);
    map.path = folder.to_path_buf();
    let own_layout = |reason: &str| Some(format!("{reason}, which only vitrum reads"));
    Ok(match model.precision() {
        Precision::F32 => write_model(folder, &map, card, &base, options)?,
        Precision::Int8 => {
            let layers = keep_int8(model, &mut map)?;
            write_int8(folder, &map, card, &base, &layers, options)?;
            own_layout("the weights are in int8")
        }
        Precision::Bf16 => {
            keep_bf16(model, &mut map)?;
            write_bf16(folder, &map, card, &base, options)?
        }
    })
}

/// Replaces the dequantised weights by the int8 ones. Returns the layers.
fn keep_int8(model: &Model, map: &mut TensorMap) -> Result<Vec<String>, LoadError> {
    let (mut layers, mut quantized) = (Vec::new(), Int8Map::new());
    for (name, layer) in model.linears() {
        let Some(weight) = layer.int8() else { continue };
        let key = format!("{name}.weight");
        let [k, n] = weight.shape();
        let bytes = weight.values().into_iter().map(i8::cast_unsigned).collect();
        let values = HostTensor::new(Dtype::I8, vec![n, k], bytes)
            .map_err(|error| LoadError::tensor(&map.path, &key, error))?;
        map.tensors.remove(&key);
        quantized.insert(key, super::quantize::Int8Tensor::new(values, weight.scales().to_vec()));
        layers.push(name);
    }
    put_int8(map, quantized);
    Ok(layers)
}

/// Stores the rounded weights in bf16; their values stay.
fn keep_bf16(model: &Model, map: &mut TensorMap) -> Result<(), LoadError> {
    for (name, layer) in model.linears() {
        let key = format!("{name}.weight");
        if !layer.is_bf16() {
            continue;
        }
        let Some(tensor) = map.tensors.get(&key) else { continue };
        let narrow = tensor.cast(Dtype::BF16).map_err(|error| LoadError::tensor(&map.path, &key, error))?;
        map.tensors.insert(key, narrow);
    }
    Ok(())
}
