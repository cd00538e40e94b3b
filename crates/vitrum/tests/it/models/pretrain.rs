//! Golden cases of models that predict masked patches.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{DType, Device, Tensor};
use serde::Deserialize;
use tempfile::TempDir;
use vitrum::checkpoint::apply::{Excuses, apply};
use vitrum::checkpoint::dialect::{Known, to_timm_with};
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::checkpoint::write::to_safetensors;
use vitrum::checkpoint::{HostTensor, TensorMap};
use vitrum::layers::names::{Key, Visit};
use vitrum::models::{Config, Model, ModelConfig, PixelScale};

use crate::compare::largest;
use crate::formula;

#[derive(Deserialize)]
pub struct Case {
    pub dialect: String,
    pub config: ModelConfig,
    pub input: [usize; 4],
    pub hf_config: Option<serde_json::Value>,
    pub tensors: Vec<(String, Vec<usize>)>,
    /// Every how many of the predicted values the golden file holds.
    #[serde(default = "one")]
    pub stride: usize,
    #[serde(default)]
    pub mean: Vec<f32>,
    #[serde(default)]
    pub std: Vec<f32>,
}

fn one() -> usize {
    1
}

pub type Golden = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

pub fn cases(of: &str) -> Vec<(String, Case, Golden)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/pretrain");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".json").map(str::to_string))
        .filter(|name| name.contains(of))
        .collect();
    names.sort();
    let read = |name: String| {
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(key, view): (String, safetensors::tensor::TensorView<'_>)| {
            let values = view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
            (key, (view.shape().to_vec(), values.collect()))
        };
        let golden = file.tensors().into_iter().map(tensor).collect();
        let case = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, case, golden)
    };
    names.into_iter().map(read).collect()
}

/// The file of the source with the formula's weights.
pub fn source(case: &Case) -> TensorMap {
    let mut map = TensorMap::new("formula");
    for (key, shape) in &case.tensors {
        let tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, shape)).unwrap();
        map.tensors.insert(key.clone(), tensor);
    }
    map
}

/// The model through its file.
pub fn model(name: &str, case: &Case, dtype: DType, device: &Device) -> Model {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, to_safetensors(&source(case), None).unwrap()).unwrap();
    match &case.hf_config {
        Some(config) => {
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            let options = LoadOptions { dtype, ..LoadOptions::new(folder.path()) };
            let loaded = load(&options, device).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(loaded.model.config(), case.config, "{name}");
            loaded.model
        }
        None => {
            let map = vitrum::checkpoint::read(&path).unwrap();
            let converted = to_timm_with(map, &Known::default()).unwrap();
            let dialect = serde_json::to_value(converted.dialect).unwrap();
            assert_eq!(
                (converted.family, dialect.as_str().unwrap()),
                (case.config.family(), &*case.dialect),
                "{name}"
            );
            let skeleton = case.config.skeleton(device).unwrap();
            apply(skeleton, converted.map, dtype, &Excuses::default()).expect(name).0
        }
    }
}

pub fn scale() -> PixelScale {
    PixelScale::unit()
}

pub fn numbers<const R: usize>(x: Tensor<R>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

pub fn relative(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let whole = largest(theirs.iter().map(|value| value.abs()));
    largest(ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / whole))
}

/// The gradient of every parameter, in the file's order of axes.
pub struct Gradients<'a> {
    pub all: &'a burn::tensor::Gradients,
    pub found: BTreeMap<String, Vec<f64>>,
}

impl Visit for Gradients<'_> {
    fn float<const R: usize>(&mut self, key: &Key, param: &burn::module::Param<Tensor<R>>) {
        let value = param.val();
        if let Some(gradient) = value.grad(self.all) {
            let numbers = key.layout.to_files(numbers(gradient), &value.dims());
            self.found.insert(key.name.clone(), numbers);
        }
    }
}

/// What the golden file holds for tensors, under timm's names; of the others, the weights.
pub fn of_tensors(case: &Case, golden: &Golden, part: &str) -> BTreeMap<String, Vec<f64>> {
    let mut map = source(case);
    let named = golden.iter().filter_map(|(key, value)| Some((key.strip_prefix(part)?, value)));
    let named: BTreeMap<&str, &(Vec<usize>, Vec<f64>)> = named.collect();
    for (key, (shape, values)) in &named {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = HostTensor::new(vitrum::checkpoint::Dtype::F64, shape.clone(), bytes).unwrap();
        map.tensors.insert((*key).to_string(), tensor);
    }
    let known = Known { family: Some(case.config.family()), ..Known::of(&case.config) };
    let map = to_timm_with(map, &known).unwrap().map;
    map.tensors.iter().map(|(key, tensor)| (key.clone(), tensor.to_f64())).collect()
}
