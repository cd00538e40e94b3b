//! Position tables against PyTorch and SciPy: brought to other grids, and given by formulas.
//! Golden values come from `fixtures/export_positions.py`.

use std::collections::BTreeSet;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use vitrum::checkpoint::tensors::TensorMap;
use vitrum::layers::position::{
    PosEmbed, PosResize, Position, PositionConfig, RelPos, RelPosBias, fixed_table,
};
use vitrum::layers::resample::{resample_grid, resample_offsets};

use crate::formula;

#[derive(Deserialize)]
struct Golden {
    resizes: Vec<Resize>,
    fixed: Vec<Fixed>,
    relative_indices: Vec<RelativeIndex>,
    relative_resizes: Vec<RelativeResize>,
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

#[derive(Deserialize)]
struct RelativeIndex {
    window: [usize; 2],
    class_token: bool,
    index: Vec<Vec<usize>>,
}

#[derive(Deserialize)]
struct RelativeResize {
    name: String,
    method: PosResize,
    key: String,
    shape: [usize; 2],
    old: [usize; 2],
    new: [usize; 2],
    extra: usize,
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
    crate::compare::largest(ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / largest))
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
            head_dim: dim,
            rel_pos_dim: 1,
            resize: PosResize::default(),
            bias_resize: PosResize::default(),
            block_table: false,
            shared_table: false,
            rope: None,
        };
        // Ours are rounded to single precision.
        let difference =
            relative_difference(&fixed_table(&config, grid), &values.get(&name).unwrap().to_f64());
        assert!(difference < 6e-8, "{name}: {difference:e}");
    }
}

fn relative_bias(grid: [usize; 2], prefix_tokens: usize, num_heads: usize, resize: PosResize) -> RelPosBias {
    let kind = PosEmbed::RelBias;
    let config = PositionConfig {
        kind,
        grid,
        prefix_rows: 0,
        prefix_tokens,
        dim: 8,
        num_heads,
        head_dim: 8 / num_heads,
        rel_pos_dim: 1,
        resize,
        bias_resize: resize,
        block_table: false,
        shared_table: false,
        rope: None,
    };
    let device = Device::flex();
    let Some(RelPos::Table(mut bias)) = Position::block_bias(&config, &device).rel_pos else {
        panic!("the encoding has a table");
    };
    let shape = bias.relative_position_bias_table.lazy_shape().dims::<2>();
    let key = format!("relative.{}x{}.{}", grid[0], grid[1], 3 * prefix_tokens);
    let table = TensorData::new(table(&key, &shape), shape);
    bias.relative_position_bias_table = Param::from_tensor(Tensor::from_data(table, (&device, DType::F64)));
    bias
}

fn values(tensor: Tensor<4>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

#[test]
fn relative_biases_are_numbered_as_timm_numbers_them() {
    let (cases, _) = golden();
    assert!(cases.relative_indices.len() >= 3);
    for RelativeIndex { window, class_token, index } in cases.relative_indices {
        let bias = relative_bias(window, usize::from(class_token), 2, PosResize::default());
        let rows: Vec<f64> = bias.relative_position_bias_table.val().into_data().iter::<f64>().collect();
        for (head, scores) in values(bias.bias(window)).chunks_exact(index.len() * index.len()).enumerate() {
            let expected: Vec<f64> = index.iter().flatten().map(|row| rows[row * 2 + head]).collect();
            assert_eq!(scores, expected, "{window:?}, head {head}");
        }
    }
}

#[test]
fn relative_tables_resize_as_timm_resizes_them() {
    let (cases, golden_values) = golden();
    assert!(cases.relative_resizes.len() >= 14);
    for RelativeResize { name, method, key, shape, old, new, extra } in cases.relative_resizes {
        let expected = golden_values.get(&name).unwrap().to_f64();
        let full = table(&key, &shape);
        let (offsets, rest) = full.split_at(full.len() - extra * shape[1]);
        let sides = |grid: [usize; 2]| grid.map(|side| 2 * side - 1);
        let mut ours = resample_offsets(offsets, shape[1], sides(old), sides(new), method);
        ours.extend(rest);
        let difference = relative_difference(&ours, &expected);
        assert!(difference < 1e-9, "{name}: {difference:e}");

        // A model that meets an image of another size does the same to its own table.
        let prefix = extra / 3;
        let seen = values(relative_bias(old, prefix, shape[1], method).bias(new));
        let mut resized = relative_bias(new, prefix, shape[1], method);
        let data = TensorData::new(expected, [ours.len() / shape[1], shape[1]]);
        resized.relative_position_bias_table =
            Param::from_tensor(Tensor::from_data(data, (&Device::flex(), DType::F64)));
        let difference = relative_difference(&seen, &values(resized.bias(new)));
        assert!(difference < 1e-9, "{name}, in the model: {difference:e}");
    }
}
