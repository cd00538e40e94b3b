//! Numbers against timm, transformers, torchvision and the Google layout, on tiny models.
//!
//! Weights are a formula of the source's own key names (see `fixtures/README.md`), so the mapping of
//! names and layouts is tested by the same comparison as the arithmetic.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use vitrum::checkpoint::apply::{Excuses, apply};
use vitrum::checkpoint::tensors::{HostTensor, TensorMap};
use vitrum::layers::observe::Silent;
use vitrum::models::{Model, ModelConfig, VitConfig};

use crate::formula;

#[derive(Deserialize)]
struct Case {
    dialect: String,
    config: VitConfig,
    input: [usize; 4],
    #[serde(default = "one")]
    input_scale: f64,
    tensors: Vec<(String, Vec<usize>)>,
    source_img_size: Option<[usize; 2]>,
}

fn one() -> f64 {
    1.0
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/parity")
}

fn cases() -> BTreeMap<String, Case> {
    let mut cases = BTreeMap::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let case = serde_json::from_str(&std::fs::read_to_string(&path).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            cases.insert(name, case);
        }
    }
    cases
}

fn golden(name: &str) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(key, view)| {
            let values = view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
            (key, (view.shape().to_vec(), values.collect()))
        })
        .collect()
}

fn model(case: &Case, dtype: DType) -> Model {
    let mut tensors = TensorMap::new("formula");
    for (key, shape) in &case.tensors {
        let tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, shape)).unwrap();
        tensors.tensors.insert(key.clone(), tensor);
    }
    let skeleton = ModelConfig::Vit(case.config.clone()).skeleton(&Device::flex()).unwrap();
    let source_grid = case.source_img_size.map(|[h, w]| {
        let [p, q] = case.config.patch_size;
        [h / p, w / q]
    });
    let (model, report) = apply(skeleton, tensors, dtype, &Excuses { source_grid, ..Excuses::default() });
    assert!(!report.is_refused(), "{report}");
    model
}

/// The largest difference over the largest value.
fn relative(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    ours.iter()
        .zip(theirs)
        .fold(0.0_f64, |m, (a, b)| if a.is_nan() { f64::NAN } else { m.max((a - b).abs()) })
        / largest
}

fn check(dtype: DType, bar: impl Fn(&str) -> f64) {
    let mut failures = Vec::new();
    let mut worst = (0.0, String::new());
    for (name, case) in cases() {
        if case.dialect != "timm" {
            continue;
        }
        let values = formula::images(case.input, case.input_scale);
        let device = Device::flex();
        let images = Tensor::<4>::from_data(TensorData::new(values, case.input), (&device, dtype));
        let model = model(&case, dtype);
        let features = model.backbone().features(images, &mut Silent);
        let tokens = features.tokens.clone();
        let logits = model.backbone().head(features, &mut Silent);
        let golden = golden(&name);
        let mut compare = |what: &str, ours: Vec<f64>| {
            let Some((_, theirs)) = golden.get(what) else { return };
            let error = relative(&ours, theirs);
            if error > worst.0 {
                worst = (error, name.clone());
            }
            if !(error <= bar(&name)) {
                failures.push(format!("{name}: {what} {error:.2e}"));
            }
        };
        compare("features", tokens.into_data().iter::<f64>().collect());
        compare("logits", logits.into_data().iter::<f64>().collect());
    }
    println!("worst: {worst:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn f32_within_5e_6() {
    check(DType::F32, |_| 5e-6);
}

#[test]
fn f64_within_1e_9() {
    check(DType::F64, |_| 1e-9);
}
