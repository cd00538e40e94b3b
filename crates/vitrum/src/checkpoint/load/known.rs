//! Which known models a file without a configuration can be. Tensors do not show everything: a Vision Transformer with
//! rotary positions has the tensors of one without. The models of the catalogue and the file's name say more.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Map, Value, json};

use super::expected_tensors;
use super::find::{Found, Named};
use crate::checkpoint::TensorMap;
use crate::checkpoint::convert::flatten_kernels;
use crate::checkpoint::dialect::{Converted, Dialect, Known, to_timm_with};
use crate::checkpoint::family::family;
use crate::layers::init::Draw;
use crate::models::{Config, ModelConfig, catalogue};

/// A model of the catalogue that has the tensors of a file.
struct Candidate {
    name: &'static str,
    /// Its configuration, for images of the file's size.
    named: ModelConfig,
    /// The same with what the file shows: its classes, its library.
    config: ModelConfig,
    /// The place of the file under the names of the model's family.
    file: usize,
}

/// Looks for known models with the tensors of `file`; `original` has them under timm's names of any family. If one of them
/// is another model than the tensors alone show, it becomes the named model of `found`. Returns the file under the names of
/// the model's family. Notes the choice, and the models that compute something else of the same tensors.
pub(super) fn recognise(file: Converted, original: Option<TensorMap>, found: &mut Found) -> Converted {
    let path = file.map.path.clone();
    let shown = (family(file.family).infer)(&file).ok().map(|inferred| inferred.config);
    let others = original.map(|original| in_other_families(file.family, &original));
    let mut files = vec![file];
    files.extend(others.unwrap_or_default());
    let mut candidates: Vec<Candidate> =
        files.iter().enumerate().flat_map(|(at, file)| candidates(at, file, shown.as_ref())).collect();
    let distance = |candidate: &Candidate| shown.as_ref().map_or(0, |shown| apart(&candidate.config, shown));
    candidates.sort_by_cached_key(|candidate| (candidate.file, distance(candidate), candidate.name.len()));
    let by_name = candidates.iter().position(|candidate| names(&path, candidate.name));
    if candidates.is_empty() {
        return files.swap_remove(0);
    }
    let chosen = candidates.remove(by_name.unwrap_or(0));
    let path = path.display();
    if by_name.is_some() || shown.is_none() || distance(&chosen) > 0 {
        let has = if by_name.is_some() { "the name and the tensors" } else { "the tensors" };
        let [height, width] = chosen.config.input().image().size;
        found.notes.push(format!(
            "{path}: it has {has} of {}, and is taken for that model, with images of {height}x{width}",
            chosen.name
        ));
        found.notes.push(format!(
            "{path}: preprocessing is not known: there is no configuration beside the weights"
        ));
        found.named = Some(Named { name: chosen.name.into(), config: chosen.named });
    }
    let others: Vec<&str> = candidates
        .iter()
        .filter(|candidate| apart(&candidate.config, &chosen.config) > 0)
        .map(|candidate| candidate.name)
        .collect();
    if by_name.is_none() && !others.is_empty() {
        found.notes.push(format!(
            "{path}: {} would compute something else of the same tensors; if it is one of them, load that name with \
             this file as its checkpoint",
            listed(&others)
        ));
    }
    files.swap_remove(chosen.file)
}

/// The file under the names of the families that know its names, besides `known`.
fn in_other_families(known: &str, original: &TensorMap) -> Vec<Converted> {
    let others = ModelConfig::FAMILIES.iter().filter(|name| **name != known);
    let convert = |name: &str| {
        let converted = to_timm_with(original.clone(), &Known { family: Some(name), ..Known::default() });
        converted.ok().filter(|converted| converted.family == name && converted.dialect == Dialect::Timm)
    };
    others.filter_map(|name| convert(name)).collect()
}

/// The models of the file's family with its tensors, for images of their own size or of the size that the tensors show.
fn candidates(at: usize, file: &Converted, shown: Option<&ModelConfig>) -> Vec<Candidate> {
    let elements = file.map.num_elements() as u64;
    let size = shown.map(|shown| shown.input().image().size);
    // What the file would be as this model, and how many parameters that has.
    let as_model = |named: &ModelConfig| {
        let config = named.clone().settle_named(file).ok()?.config;
        let params = config.walk().ok()?.params;
        Some((config, params))
    };
    let of_name = |name: &'static str| {
        let own = &catalogue::entry(name).ok()?.config;
        if own.family() != file.family {
            return None;
        }
        let (config, params) = as_model(own)?;
        // Running statistics and positions of another grid are few beside the parameters.
        if params.abs_diff(elements) > elements / 4 {
            return None;
        }
        if has_tensors(&config, file) {
            return Some(Candidate { name, named: own.clone(), config, file: at });
        }
        let named = own.with("img_size", json!(size?)).ok()?;
        let (config, _) = as_model(&named)?;
        has_tensors(&config, file).then_some(Candidate { name, named, config, file: at })
    };
    catalogue::names().filter_map(of_name).collect()
}

/// Whether a model has the tensors of a file, all of them and no others.
fn has_tensors(config: &ModelConfig, file: &Converted) -> bool {
    let Ok(skeleton) = config.skeleton(&Device::flex()) else { return false };
    let mut tensors = file.map.tensors.clone();
    flatten_kernels(&mut tensors, &config.kernels());
    let is_there = |(key, shape): (&String, &Vec<usize>)| match tensors.get(key) {
        Some(tensor) => tensor.shape() == shape,
        None => config.first(key, shape) == Some(Draw::Keep),
    };
    let expected = expected_tensors(&skeleton);
    tensors.keys().all(|key| expected.contains_key(key)) && expected.iter().all(is_there)
}

/// Number of fields in which two models with the same tensors compute something else.
fn apart(a: &ModelConfig, b: &ModelConfig) -> usize {
    if a.family() != b.family() {
        return usize::MAX;
    }
    let [a, b] = [a, b].map(|config| computed(config.fields()));
    a.iter().filter(|(field, value)| b.get(*field) != Some(value)).count()
}

/// The fields that decide what a model computes of an image and its tensors.
fn computed(fields: Map<String, Value>) -> Map<String, Value> {
    let is_not = |field: &str| {
        field == "img_size" || ["_rate", "init", "ratio"].iter().any(|part| field.contains(part))
    };
    let inner = |value| match value {
        Value::Object(fields) => Value::Object(computed(fields)),
        other => other,
    };
    fields
        .into_iter()
        .filter(|(field, _)| !is_not(field))
        .map(|(field, value)| (field, inner(value)))
        .collect()
}

/// Whether the name of a file, or of its folder, is that of a model: `vit_small_patch16_rope_224.naver_in1k.safetensors`.
fn names(path: &Path, model: &str) -> bool {
    let is_name = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.split('.').next() == Some(model)
    };
    is_name(path) || path.parent().is_some_and(is_name)
}

/// Names in a sentence.
fn listed(names: &[&str]) -> String {
    const MOST: usize = 6;
    let (shown, more) = names.split_at(names.len().min(MOST));
    match more.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
