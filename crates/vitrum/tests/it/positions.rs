//! Position tables against PyTorch and SciPy: brought to other grids, and given by formulas.
//! Golden values come from `fixtures/export_positions.py`.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use vitrum::checkpoint::tensors::TensorMap;
use vitrum::layers::position::{PosEmbed, PosResize, PositionConfig, fixed_table};
use vitrum::layers::resample::resample_grid;

use crate::formula;

#[derive(Deserialize)]
struct Golden {
    resizes: Vec<Resize>,
    fixed: Vec<Fixed>,
}

#[derive(Deserialize)]
struct Resize {
    name: String,
    method: PosResize,
    key: String,
    shape: [usize; 3],
    old: [usize; 2],
    new: [usize; 2],
}

#[derive(Deserialize)]
struct Fixed {
    name: String,
    kind: PosEmbed,
    grid: [usize; 2],
    dim: usize,
}

fn golden() -> (Golden, TensorMap) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/pos_resize.json");
    let cases = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    (cases, vitrum::checkpoint::read(path.with_extension("safetensors")).unwrap())
}

fn table(key: &str, shape: &[usize]) -> Vec<f64> {
    formula::weight(key, shape).into_iter().map(f64::from).collect()
}

/// The largest difference, over the largest value.
fn relative_difference(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

#[test]
fn tables_resize_as_pytorch_and_scipy_resize_them() {
    let (cases, values) = golden();
    let mut methods = BTreeSet::new();
    for Resize { name, method, key, shape, old, new } in &cases.resizes {
        let ours = resample_grid(&table(key, shape), shape[2], *old, *new, *method);
        let difference = relative_difference(&ours, &values.get(name).unwrap().to_f64());
        assert!(difference < 1e-12, "{name}: {difference:e}");
        methods.insert(format!("{method:?}"));
    }
    assert!(cases.resizes.len() >= 66 && methods.len() == 6, "{methods:?}");
}

#[test]
fn fixed_tables_follow_the_published_formulas() {
    let (cases, values) = golden();
    assert!(cases.fixed.len() >= 9);
    for Fixed { name, kind, grid, dim } in cases.fixed {
        let config = PositionConfig {
            kind,
            grid,
            prefix_rows: usize::from(kind == PosEmbed::SinCos1d),
            prefix_tokens: 1,
            dim,
            num_heads: 1,
            resize: PosResize::default(),
        };
        // Ours are rounded to single precision.
        let difference =
            relative_difference(&fixed_table(&config, grid), &values.get(&name).unwrap().to_f64());
        assert!(difference < 6e-8, "{name}: {difference:e}");
    }
}
