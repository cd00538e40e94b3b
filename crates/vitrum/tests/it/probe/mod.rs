//! Probes of features against scikit-learn, big_vision's rule and MAE's (`fixtures/export_probe.py`).

mod features;
mod knn;
mod linear;
mod ridge;

use std::collections::BTreeMap;
use std::path::PathBuf;

use vitrum::probe::{FeatureSet, Features, Part};

use crate::formula;

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/probe").join(name)
}

/// A file of JSON.
fn golden_json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(golden_path(name)).unwrap()).unwrap()
}

/// Tensors of f64 by name.
fn golden(name: &str) -> BTreeMap<String, Vec<f64>> {
    let bytes = std::fs::read(golden_path(name)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers =
        |data: &[u8]| data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
    file.tensors().into_iter().map(|(key, view)| (key, numbers(view.data()))).collect()
}

/// The formula's features `[n, dim]`; rounded ones are quarters.
fn values(key: &str, n: usize, dim: usize, rounded: bool) -> Vec<f32> {
    // numpy rounds halves to even.
    let value = |u: f64| if rounded { (2.0 * u).round_ties_even() / 4.0 } else { u };
    formula::noise(key, n * dim).into_iter().map(|u| value(u) as f32).collect()
}

fn set(part: Part, dim: usize, values: Vec<f32>, labels: Vec<usize>) -> FeatureSet {
    let names = (0..labels.len()).map(|image| format!("{image}.png")).collect();
    FeatureSet::new(part, dim, values, labels, names).unwrap()
}

fn classes(count: usize) -> Vec<String> {
    (0..count).map(|class| format!("class {class}")).collect()
}

/// Clouds around one point for each class, `per_class` training images and as many validation images.
fn clouds(count: usize, per_class: usize, dim: usize, spread: f32) -> Features {
    let centres = values("centres", count, dim, false);
    let part = |part: Part, key: &str| {
        let noise = values(key, count * per_class, dim, false);
        let labels: Vec<usize> = (0..count * per_class).map(|image| image % count).collect();
        let near = noise.chunks_exact(dim).zip(&labels).flat_map(|(row, label)| {
            row.iter()
                .zip(&centres[label * dim..])
                .map(|(noise, centre)| centre + spread * noise)
                .collect::<Vec<_>>()
        });
        set(part, dim, near.collect(), labels)
    };
    Features::new(part(Part::Train, "train"), part(Part::Validation, "val"), classes(count)).unwrap()
}
