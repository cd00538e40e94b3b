//! Optimisers, clipping, moving averages, schedules, losses and groups against torch and timm
//! (`fixtures/export_training.py`).

mod clip;
mod distill;
mod ema;
mod every_family;
mod fit;
mod gradients;
mod groups;
mod judge;
mod log;
mod objective;
mod optim;
mod own;
mod pretrain;
mod recipe;
mod resume;
mod run;
mod schedule;
mod stages;
mod targets;
mod tokens;

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum::layers::names::{Key, Visit, visit};
use vitrum::models::{Depth, Network};
use vitrum::train::optim::GradMap;

use crate::formula;

/// Key and shape (as torch has them) of the toy model's parameters.
const TOY: [(&str, &[usize]); 7] = [
    ("qkv.weight", &[20, 18]),
    ("bias", &[24]),
    ("patch", &[24, 3, 2, 2]),
    ("conv", &[17, 17, 1, 2]),
    ("pos_embed", &[1, 17, 18]),
    ("scalar", &[1]),
    ("head.weight", &[5, 18]),
];

/// Targets `[B, 5]` of labels.
fn soft_targets(labels: &[usize], smoothing: f64, device: &Device, dtype: DType) -> Tensor<2> {
    let mut values = vec![smoothing / 5.0; labels.len() * 5];
    for (row, &label) in values.chunks_exact_mut(5).zip(labels) {
        row[label] += 1.0 - smoothing;
    }
    Tensor::from_data(TensorData::new(values, [labels.len(), 5]), (device, dtype))
}

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/training").join(name)
}

/// Tensors of f64 by name.
fn golden(name: &str) -> BTreeMap<String, Vec<f64>> {
    let bytes = std::fs::read(golden_path(name)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    tensors
        .map(|(key, view)| {
            let values = view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
            (key, values.collect())
        })
        .collect()
}

/// A file of JSON.
fn golden_json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(golden_path(name)).unwrap()).unwrap()
}

/// Parameters of every kind: linear weights (turned in memory), vector, convolutions, table, number.
#[derive(Module, Debug)]
struct Toy {
    qkv: Linear,
    bias: Param<Tensor<1>>,
    patch: Param<Tensor<4>>,
    conv: Param<Tensor<4>>,
    pos_embed: Param<Tensor<3>>,
    scalar: Param<Tensor<1>>,
    head: Linear,
}

impl Network for Toy {
    fn linears(&self) -> Vec<(String, &vitrum::layers::Linear)> {
        Vec::new()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut vitrum::layers::Linear)> {
        Vec::new()
    }

    fn depth(&self, key: &str) -> Depth {
        if key == "pos_embed" { Depth::Stem } else { Depth::Head }
    }

    fn decays(&self, key: &str) -> bool {
        key != "pos_embed"
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head"]
    }
}

/// The formula's values of a key with a shape, as f64.
fn values(key: &str, shape: &[usize]) -> Vec<f64> {
    formula::weight(key, shape).into_iter().map(f64::from).collect()
}

fn shape_of(key: &str) -> &'static [usize] {
    TOY.iter().find(|(known, _)| *known == key).unwrap().1
}

/// The formula's tensor for `name`, shaped as the parameter `key`; linear weights turned as in memory.
fn tensor<const R: usize>(name: &str, key: &str, device: &Device, dtype: DType) -> Tensor<R> {
    let shape = shape_of(key);
    let tensor = |shape: [usize; R]| {
        Tensor::<R>::from_data(TensorData::new(values(name, shape_of(key)), shape), (device, dtype))
    };
    let tensor = tensor(shape.try_into().unwrap());
    if key.ends_with(".weight") { tensor.swap_dims(0, 1) } else { tensor }
}

/// The toy model with the formula's values.
fn toy(device: &Device, dtype: DType) -> Toy {
    fn param<const R: usize>(key: &str, device: &Device, dtype: DType) -> Param<Tensor<R>> {
        Param::initialized(ParamId::new(), tensor(key, key, device, dtype).require_grad())
    }
    let linear = |key| Linear { weight: param(key, device, dtype), bias: None };
    Toy {
        qkv: linear("qkv.weight"),
        bias: param("bias", device, dtype),
        patch: param("patch", device, dtype),
        conv: param("conv", device, dtype),
        pos_embed: param("pos_embed", device, dtype),
        scalar: param("scalar", device, dtype),
        head: linear("head.weight"),
    }
}

/// Gradients of step `step`, through a backward pass; the vector has none at every fifth step.
fn gradients(toy: &Toy, step: usize, scale: f64, device: &Device, dtype: DType) -> GradMap {
    fn part<const R: usize>(
        param: &Param<Tensor<R>>,
        key: &str,
        step: usize,
        device: &Device,
        dtype: DType,
    ) -> Tensor<1> {
        (param.val() * tensor::<R>(&format!("grad.{step}.{key}"), key, device, dtype)).sum()
    }
    let of = |key: &str| match key {
        "qkv.weight" => part(&toy.qkv.weight, key, step, device, dtype),
        "bias" => part(&toy.bias, key, step, device, dtype),
        "patch" => part(&toy.patch, key, step, device, dtype),
        "conv" => part(&toy.conv, key, step, device, dtype),
        "pos_embed" => part(&toy.pos_embed, key, step, device, dtype),
        "scalar" => part(&toy.scalar, key, step, device, dtype),
        "head.weight" => part(&toy.head.weight, key, step, device, dtype),
        _ => unreachable!(),
    };
    let parts = TOY.iter().filter(|(key, _)| !(*key == "bias" && step % 5 == 3)).map(|(key, _)| of(key));
    let loss = parts.reduce(|a, b| a + b).unwrap() * scale;
    GradMap::collect(toy, loss.backward())
}

/// Flattened values in memory's order to torch's order.
fn as_torch(key: &str, values: Vec<f64>) -> Vec<f64> {
    let shape = shape_of(key);
    let [rows, columns] = *shape else { return values };
    (0..rows * columns).map(|i| values[(i % columns) * rows + i / columns]).collect()
}

/// A model's parameters in torch's order.
fn parameters<M: Module>(model: &M) -> BTreeMap<String, Vec<f64>> {
    struct Collector(BTreeMap<String, Vec<f64>>);
    impl Visit for Collector {
        fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
            let value = param.val();
            let dims = value.dims();
            let mut values: Vec<f64> = value.into_data().iter::<f64>().collect();
            values = key.layout.to_files(values, &dims);
            self.0.insert(key.name.clone(), values);
        }
    }
    let mut collector = Collector(BTreeMap::new());
    visit(model, &mut collector);
    collector.0
}

/// The largest difference over the largest value.
fn relative(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let gap = |(a, b): (&f64, &f64)| {
        if a == b {
            0.0
        } else if a.is_nan() {
            f64::INFINITY
        } else {
            (a - b).abs()
        }
    };
    ours.iter().zip(theirs).map(gap).fold(0.0, f64::max) / largest
}
