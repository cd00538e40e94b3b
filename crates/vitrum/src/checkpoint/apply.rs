//! Loads tensors from a file into a model, and reports what does not fit.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};

use super::convert::flatten_kernels;
pub use super::report::{Adaptation, Report, ShapeChange};
use super::tensors::{HostTensor, TensorMap};
use crate::layers::init::{Draw, FirstValue, NoFirstValue, initialize, kept};
use crate::layers::names::{Key, Map, Visit, map, shapes, visit, wildcard};
use crate::models::network::is_in;
use crate::models::{Config, Model, ModelConfig, Network};

/// Accepted differences between file and model.
#[derive(Clone, Debug, Default)]
pub struct Excuses {
    /// Keys the file may lack; the model keeps fresh values for them. `*` matches any text.
    pub missing: Vec<String>,
    /// Keys of the file that the model may ignore. `*` matches any text.
    pub unexpected: Vec<String>,
    /// Keys for pretraining alone that the file lacks; the model keeps fresh values for them.
    pub fresh: Vec<String>,
    /// Replaces the heads with fresh ones, for another number of classes.
    pub new_head: bool,
    /// The model that the file was made for, if known. Positions are resized from its grid, and the patch projection is
    /// adapted from its channels. Without it the position grid is assumed to be square.
    pub source: Option<ModelConfig>,
    /// Keys of int8 weights, with their shapes in the file's layout. The model gets these weights later. They count as
    /// loaded.
    pub held: BTreeMap<String, Vec<usize>>,
    /// Seed of fresh values.
    pub seed: u64,
}

/// Why tensors cannot be loaded into a model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// File and model differ, and the difference was not excused.
    #[error("the weights do not fit this model\n{0}")]
    Refused(Box<Report>),
    /// A fresh parameter without an initial value from the family.
    #[error(transparent)]
    NoFirstValue(#[from] NoFirstValue),
}

/// Fills a model with `tensors` under timm's keys, in `dtype` (f32 or f64). The family first adapts them to the model.
///
/// # Errors
/// [`ApplyError::Refused`] with the report, if a difference was not excused.
pub fn apply(
    model: Model,
    mut tensors: TensorMap,
    dtype: DType,
    excuses: &Excuses,
) -> Result<(Model, Report), ApplyError> {
    let config = model.config();
    let mut model = model;
    model.forget_prepared(); // they hold the old values
    let mut report = Report::default();
    flatten_kernels(&mut tensors.tensors, &excuses.source.as_ref().unwrap_or(&config).kernels());
    config.fit(&mut tensors, excuses.source.as_ref(), &mut report);
    fill(model, tensors, dtype, excuses, &|key, shape| config.first(key, shape), report)
}

/// Fills any module with `tensors`. `first` gives values to missing parameters. A parameter with [`Draw::Keep`] need
/// not be in the file. `report` lists the changes already made to the tensors.
///
/// # Errors
/// Those of [`apply`].
pub fn fill<M: Network>(
    model: M,
    mut tensors: TensorMap,
    dtype: DType,
    excuses: &Excuses,
    first: &FirstValue<'_>,
    report: Report,
) -> Result<(M, Report), ApplyError> {
    let heads = model.heads();
    let new_head = if excuses.new_head { set_heads_aside(&mut tensors, heads) } else { BTreeMap::new() };
    let held = excuses.held.clone();
    let mut filler = Filler { tensors, dtype, first, held, missing: Vec::new(), report };
    let model = map(model, &mut filler);
    let Filler { tensors, held, missing, mut report, .. } = filler;
    report.unexpected = tensors.names().map(str::to_string).chain(held.into_keys()).collect();
    for change in missing {
        match new_head.get(&change.key) {
            Some(found) => report.replaced.push(ShapeChange { found: found.clone(), ..change }),
            None if excuses.new_head && is_in(&change.key, heads) => report.replaced.push(change),
            None if excuses.fresh.contains(&change.key) => report.fresh.push(change.key),
            None => report.missing.push(change.key),
        }
    }
    let excused = |keys: &[String], patterns: &[String]| -> Vec<String> {
        keys.iter().filter(|key| patterns.iter().any(|pattern| wildcard(pattern, key))).cloned().collect()
    };
    report.excused = excused(&report.missing, &excuses.missing);
    report.excused.extend(excused(&report.unexpected, &excuses.unexpected));
    report.heads_differ = report.missing.iter().any(|key| is_in(key, heads))
        || report.mismatched.iter().any(|change| is_in(&change.key, heads));
    if report.is_refused() {
        return Err(ApplyError::Refused(Box::new(report)));
    }
    if report.missing.is_empty() && report.replaced.is_empty() && report.fresh.is_empty() {
        return Ok((model, report));
    }
    let loaded: BTreeSet<&str> = report.loaded.iter().map(String::as_str).collect();
    let rule = |key: &str, shape: &[usize]| match loaded.contains(key) {
        true => Some(Draw::Keep),
        false => first(key, shape),
    };
    let model = initialize(model, &rule, excuses.seed, dtype)?;
    Ok((model, report))
}

/// The tensors of a model under timm's keys and layouts, in the model's dtype (f32 or f64).
pub fn collect<M: Module>(model: &M) -> TensorMap {
    let mut collector = Collector(TensorMap::default());
    visit(model, &mut collector);
    collector.0
}

/// Keys and shapes (timm's layouts) of a model's parameters, without reading any value.
pub fn expected_tensors<M: Module>(model: &M) -> BTreeMap<String, Vec<usize>> {
    let in_files = |(key, shape): (Key, Vec<usize>)| (key.name, key.layout.shape_in_files(&shape));
    shapes(model).into_iter().map(in_files).collect()
}

/// Takes the heads out of the file, keeping the shapes for the report.
fn set_heads_aside(tensors: &mut TensorMap, heads: &[&str]) -> BTreeMap<String, Vec<usize>> {
    let names: Vec<String> = tensors.tensors.keys().filter(|key| is_in(key, heads)).cloned().collect();
    let taken = names.into_iter().filter_map(|name| tensors.tensors.remove_entry(&name));
    taken.map(|(key, tensor)| (key, tensor.shape().to_vec())).collect()
}

struct Filler<'a> {
    tensors: TensorMap,
    dtype: DType,
    first: &'a FirstValue<'a>,
    held: BTreeMap<String, Vec<usize>>,
    missing: Vec<ShapeChange>,
    report: Report,
}

impl Map for Filler<'_> {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let shape = param.lazy_shape().dims::<R>();
        let expected = key.layout.shape_in_files(&shape);
        let name = key.name.clone();
        if let Some(found) = self.held.remove(&name) {
            match found == expected {
                true => self.report.loaded.push(name),
                false => self.report.mismatched.push(ShapeChange { key: name, found, expected }),
            }
            return param;
        }
        let Some(tensor) = self.tensors.tensors.remove(&name) else {
            if (self.first)(&name, &shape) == Some(Draw::Keep) {
                self.report.loaded.push(name);
                return kept(param, self.dtype);
            }
            self.missing.push(ShapeChange { key: name, found: Vec::new(), expected });
            return param;
        };
        if tensor.shape() != expected {
            self.report.mismatched.push(ShapeChange { key: name, found: tensor.shape().to_vec(), expected });
            return param;
        }
        let data = match self.dtype {
            DType::F64 => TensorData::new(key.layout.to_memory(tensor.to_f64(), &expected), shape),
            _ => TensorData::new(key.layout.to_memory(tensor.to_f32(), &expected), shape),
        };
        let value = Tensor::from_data(data, (&param.lazy_device(), self.dtype));
        self.report.loaded.push(name);
        let id = param.id;
        param.transform_for_load(value, id)
    }
}

struct Collector(TensorMap);

impl Visit for Collector {
    fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
        let tensor = param.val();
        let shape: Vec<usize> = tensor.dims().to_vec();
        let data = tensor.into_data();
        let wide = data.dtype() == DType::F64;
        let values: Vec<f64> = data.iter::<f64>().collect();
        let (values, shape) = (key.layout.to_files(values, &shape), key.layout.shape_in_files(&shape));
        let host = if wide {
            HostTensor::from_f64(shape, &values)
        } else {
            HostTensor::from_f32(shape, &values.iter().map(|v| *v as f32).collect::<Vec<_>>())
        };
        self.0.tensors.insert(key.name.clone(), host.expect("a tensor's values fill its shape"));
    }
}
