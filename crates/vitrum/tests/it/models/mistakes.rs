//! Well-known mistakes of implementations, made on purpose: the golden cases tell each of them.
//!
//! A mistake is an option with another value, weights in another order, or attention weights that an observer changes.
//! Without it the same model is within the bar of `parity.rs`.

use std::fmt::Arguments;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::{Value, json};
use vitrum::checkpoint::apply::{Excuses, apply};
use vitrum::checkpoint::dialect::{Known, to_timm_with};
use vitrum::checkpoint::{HostTensor, TensorMap};
use vitrum::layers::observe::{AttentionSites, Observer, Silent};
use vitrum::models::{Config, ModelConfig, Want};

use crate::formula;

/// The bars of `parity.rs`.
const F64: f64 = 1e-9;
const F32: f64 = 5e-6;

/// The largest difference of the logits to those of a golden case, over the largest logit. In f64.
fn error(
    case: &str,
    options: &[(&str, Value)],
    change: impl Fn(&str, HostTensor) -> HostTensor,
    watch: &mut dyn Observer,
) -> f64 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/parity");
    let json: Value =
        serde_json::from_slice(&std::fs::read(folder.join(format!("{case}.json"))).unwrap()).unwrap();
    let config: ModelConfig = serde_json::from_value(json["config"].clone()).unwrap();
    let mut map = TensorMap::new(case);
    let tensors: Vec<(String, Vec<usize>)> = serde_json::from_value(json["tensors"].clone()).unwrap();
    for (key, shape) in tensors {
        let values = formula::weight(&key, &shape);
        map.tensors.insert(key, HostTensor::from_f32(shape, &values).unwrap());
    }
    let mut map = to_timm_with(map, &Known::of(&config)).unwrap().map;
    map.tensors = map.tensors.into_iter().map(|(key, tensor)| (key.clone(), change(&key, tensor))).collect();
    let config = config.with_all(options.iter().map(|(key, value)| (*key, value.clone()))).unwrap();
    let device = Device::flex();
    let skeleton = config.skeleton(&device).unwrap();
    let (model, _) = apply(skeleton, map, DType::F64, &Excuses::default()).unwrap();

    let shape: [usize; 4] = serde_json::from_value(json["input"].clone()).unwrap();
    let images = TensorData::new(formula::images(shape, json["input_scale"].as_f64().unwrap_or(1.0)), shape);
    let images = Tensor::<4>::from_data(images, (&device, DType::F64));
    let classifier = model.as_classifier().unwrap();
    let features = classifier.features(images.into(), Want::Head, watch);
    let logits = classifier.head(features, watch).into_data();

    let bytes = std::fs::read(folder.join(format!("{case}.safetensors"))).unwrap();
    let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let theirs = golden.tensor("logits").unwrap();
    let theirs = theirs.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()));
    let (mut apart, mut largest) = (0.0_f64, 0.0_f64);
    for (ours, theirs) in logits.iter::<f64>().zip(theirs) {
        (apart, largest) = (apart.max((ours - theirs).abs()), largest.max(theirs.abs()));
    }
    apart / largest
}

/// Refuses a mistake that does not move the logits of a case by ten times `bar`, and a model without it that is not within
/// the bar of f64.
fn tells(
    what: &str,
    case: &str,
    bar: f64,
    options: &[(&str, Value)],
    change: impl Fn(&str, HostTensor) -> HostTensor,
    watch: &mut dyn Observer,
) {
    let right = error(case, &[], |_, tensor| tensor, &mut Silent);
    assert!(right < F64, "{case}: {right:.1e}");
    let wrong = error(case, options, change, watch);
    println!("{what}, {case}: {wrong:.1e}");
    assert!(wrong > 10.0 * bar, "{what}, {case}: only {wrong:.1e}");
}

/// A mistake in an option.
fn option_tells(what: &str, case: &str, bar: f64, key: &str, value: Value) {
    tells(what, case, bar, &[(key, value)], |_, tensor| tensor, &mut Silent);
}

/// A mistake in the order of weights.
fn order_tells(what: &str, case: &str, change: impl Fn(&str, HostTensor) -> HostTensor) {
    tells(what, case, F32, &[], change, &mut Silent);
}

/// A matrix or vector with its rows, or columns, in another order: entry `i` is entry `order(i)` of the given one.
fn reordered(tensor: &HostTensor, columns: bool, order: impl Fn(usize) -> usize) -> HostTensor {
    let (values, shape) = (tensor.to_f64(), tensor.shape().to_vec());
    let width = if shape.len() == 1 { 1 } else { shape[1] };
    let from = |place: usize| match columns {
        true => values[place / width * width + order(place % width)],
        false => values[order(place / width) * width + place % width],
    };
    let values: Vec<f64> = (0..values.len()).map(from).collect();
    HostTensor::from_f64(shape, &values).unwrap()
}

/// The table as if columns of windows came before rows.
fn transposed(key: &str, tensor: HostTensor) -> HostTensor {
    if !key.ends_with("relative_position_bias_table") {
        return tensor;
    }
    let side = tensor.shape()[0].isqrt(); // rows of the class token follow a square
    reordered(&tensor, false, |row| if row < side * side { row % side * side + row / side } else { row })
}

/// Neighbours as if the one at the right came before the one below.
fn swapped_neighbours(key: &str, tensor: HostTensor) -> HostTensor {
    if !key.contains(".downsample.") {
        return tensor;
    }
    let is_matrix = tensor.shape().len() == 2;
    let quarter = tensor.shape()[usize::from(is_matrix)] / 4;
    reordered(&tensor, is_matrix, |place| [0, 2, 1, 3][place / quarter] * quarter + place % quarter)
}

/// The biases of the class token for patches, and of patches for the class token, in each other's place.
fn swapped_class_rows(key: &str, tensor: HostTensor) -> HostTensor {
    if !key.ends_with("relative_position_bias_table") {
        return tensor;
    }
    let rows = tensor.shape()[0];
    reordered(&tensor, false, |row| match rows - row {
        3 => row + 1,
        2 => row - 1,
        _ => row,
    })
}

/// Takes the mask back: a masked weight is e^-100 of what it would be.
struct Unmasked;

impl Observer for Unmasked {
    fn wants_attention(&self, _name: Arguments<'_>) -> bool {
        true
    }

    fn attention(&mut self, _name: Arguments<'_>, weights: Tensor<4>, _sites: &AttentionSites) -> Tensor<4> {
        let is_masked = weights.clone().lower_elem(1e-20);
        let larger = weights.clone() * 100_f64.exp();
        let weights = weights.mask_where(is_masked, larger);
        weights.clone() / weights.sum_dim(3)
    }
}

#[test]
fn swins_windows_positions_and_neighbours() {
    for case in ["swin", "swin_even", "torchvision_swin", "hf4_swin", "official_swin"] {
        order_tells("a transposed table", case, transposed);
        tells("no mask of shifted windows", case, F32, &[], |_, tensor| tensor, &mut Unmasked);
        order_tells("swapped neighbours", case, swapped_neighbours);
    }
    for case in ["swin_v2", "swin_cr"] {
        tells("no mask of shifted windows", case, F32, &[], |_, tensor| tensor, &mut Unmasked);
    }
    order_tells("swapped neighbours", "swin_cr", swapped_neighbours);
    // The norm of V2 comes after the step.
    let of_matrix = |key: &str, tensor: HostTensor| match key.ends_with("reduction.weight") {
        true => swapped_neighbours(key, tensor),
        false => tensor,
    };
    order_tells("swapped neighbours", "swin_v2", of_matrix);
}

#[test]
fn swins_epsilon_and_activation() {
    for case in ["swin", "swin_v2", "swin_cr"] {
        option_tells("an epsilon of 1e-6 in place of 1e-5", case, F64, "norm_eps", json!(1e-6));
    }
    for case in ["swin_eps_large", "swin_v2_eps_large", "swin_cr_eps_large"] {
        option_tells("an epsilon of 1e-5 in place of 0.03", case, F32, "norm_eps", json!(1e-5));
    }
    for case in ["swin", "swin_v2"] {
        option_tells("the tanh form of GELU", case, F32, "act_layer", json!("gelu_tanh"));
    }
    option_tells("the error function's form of GELU", "swin_v2_gelu_tanh", F32, "act_layer", json!("gelu"));
}

#[test]
fn both_heads_answer() {
    for case in ["deit", "pit_distilled", "hf4_deit_teacher"] {
        option_tells("the class head alone", case, F32, "answer", json!("class"));
        option_tells("the distillation head alone", case, F32, "answer", json!("dist"));
    }
}

#[test]
fn beits_biases() {
    for case in ["beit", "beit_shared", "beit_rectangular"] {
        order_tells("swapped biases of the class token", case, swapped_class_rows);
    }
    order_tells("a transposed table", "beit", transposed);
}

#[test]
fn rotations_turn_the_right_pairs_by_the_right_axis() {
    for (case, half) in [("eva02", true), ("eva_rope_half", false), ("eva_dinov3", false)] {
        option_tells("other pairs", case, F32, "rope_rotate_half", json!(half));
    }
    for case in ["eva02", "eva02_rectangular", "eva_rope_half"] {
        option_tells("columns before rows", case, F32, "rope_grid_indexing", json!("xy"));
    }
    option_tells("rows before columns", "eva_rope_mixed", F32, "rope_grid_indexing", json!("ij"));
}

#[test]
fn the_scale_of_scores_is_that_of_a_head() {
    for case in ["t2t", "t2t_t"] {
        option_tells("a scale of the tokens' width", case, F32, "qk_scale", json!("embed_dim"));
    }
}
