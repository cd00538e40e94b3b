//! int8 weights: writing to a file, reading from it, loading into a model.
//!
//! A file holds them as `blocks.N.attn.qkv.weight`, I8 `[d_out, d_in]`, and `blocks.N.attn.qkv.weight_scale`, F32
//! `[d_out]`. A weight is its value times the scale of its row. All other tensors are stored as usual.

use std::collections::BTreeMap;

use burn::tensor::Device;
use serde::Serialize;
use vitrum_kernels::quantize_weight_rows;

use super::LoadError;
use super::tensors::{Dtype, HostTensor, TensorMap};
use crate::models::{Config, ConfigError, Model, ModelConfig, Network, is_skipped};

/// Suffix of a weight's key for the key of its scales.
pub const SCALE: &str = "_scale";

/// The result of quantising one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuantizedLayer {
    /// The layer, such as `blocks.0.attn.qkv`.
    pub layer: String,
    /// Rows and columns of its weight, `[d_out, d_in]`.
    pub shape: [usize; 2],
    /// Quantisation error: root mean square of the differences over that of the weight.
    pub error: f64,
    /// Bytes of the original weight.
    pub bytes_before: usize,
    /// Bytes of values and scales.
    pub bytes_after: usize,
}

/// An int8 weight as in a file.
#[derive(Clone, Debug)]
pub struct Int8Tensor {
    values: HostTensor,
    scales: Vec<f32>,
}

impl Int8Tensor {
    /// Values `[d_out, d_in]` in I8, and a scale for each row.
    pub(super) fn new(values: HostTensor, scales: Vec<f32>) -> Self {
        Self { values, scales }
    }

    /// Quantises a weight `[d_out, d_in]`.
    fn of(weight: &HostTensor, [rows, columns]: [usize; 2]) -> Self {
        let (values, scales) = quantize_weight_rows(&weight.to_f32(), columns);
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let values = HostTensor::new(Dtype::I8, vec![rows, columns], bytes).expect("a value for each weight");
        Self { values, scales }
    }

    fn shape(&self) -> &[usize] {
        self.values.shape()
    }

    fn numbers(&self) -> Vec<i8> {
        self.values.bytes().iter().map(|&byte| byte.cast_signed()).collect()
    }
}

/// int8 weights taken out of a file's tensors, by key.
pub type Int8Map = BTreeMap<String, Int8Tensor>;

/// Whether a file holds int8 weights.
pub fn is_quantized(map: &TensorMap) -> bool {
    map.tensors
        .iter()
        .any(|(key, tensor)| tensor.dtype() == Dtype::I8 && map.contains(&format!("{key}{SCALE}")))
}

/// Takes the int8 weights and their scales out of a file's tensors.
///
/// # Errors
/// [`LoadError::Tensor`] for scales that do not belong to their weight.
pub fn take_int8(map: &mut TensorMap) -> Result<Int8Map, LoadError> {
    let is_weight =
        |key: &&String| map.tensors[*key].dtype() == Dtype::I8 && map.contains(&format!("{key}{SCALE}"));
    let keys: Vec<String> = map.tensors.keys().filter(is_weight).cloned().collect();
    let mut taken = Int8Map::new();
    for key in keys {
        let scale_key = format!("{key}{SCALE}");
        let (Some(values), Some(scale)) = (map.tensors.remove(&key), map.tensors.remove(&scale_key)) else {
            continue;
        };
        let fits =
            matches!(*values.shape(), [rows, _] if scale.shape() == [rows]) && scale.dtype().is_float();
        if !fits {
            let reason = format!(
                "expected a floating-point number for each row of a weight of shape {:?}, found {} {:?}",
                values.shape(),
                scale.dtype(),
                scale.shape()
            );
            return Err(LoadError::tensor(&map.path, &scale_key, reason));
        }
        taken.insert(key, Int8Tensor { scales: scale.to_f32(), values });
    }
    Ok(taken)
}

/// The layers to quantise in a model of this configuration, in execution order.
///
/// # Errors
/// A configuration that makes no model.
pub fn layers(config: &ModelConfig) -> Result<Vec<String>, ConfigError> {
    let skeleton = config.skeleton(&Device::flex())?;
    Ok(skeleton.linears().into_iter().map(|(name, _)| name).collect())
}

/// The layer of a weight's key, if it is one of `layers`.
fn layer_of<'a>(key: &'a str, layers: &[String]) -> Option<&'a str> {
    key.strip_suffix(".weight").filter(|layer| layers.iter().any(|known| known == layer))
}

/// Quantises the weights of `layers` that match no pattern of `skip`, and takes them out of the tensors.
pub fn quantize_tensors(map: &mut TensorMap, layers: &[String], skip: &[String]) -> Int8Map {
    let is_wanted = |key: &&String| {
        layer_of(key, layers).is_some_and(|layer| !is_skipped(layer, skip))
            && map.tensors[*key].dtype().is_float()
    };
    let keys: Vec<String> = map.tensors.keys().filter(is_wanted).cloned().collect();
    let mut taken = Int8Map::new();
    for key in keys {
        let Some(shape) = map.get(&key).and_then(|weight| <[usize; 2]>::try_from(weight.shape()).ok()) else {
            continue; // A tensor that is not a matrix is reported with the wrong shapes.
        };
        if let Some(weight) = map.tensors.remove(&key) {
            taken.insert(key, Int8Tensor::of(&weight, shape));
        }
    }
    taken
}

/// Adds int8 weights and their scales to the tensors to be written.
pub fn put_int8(map: &mut TensorMap, quantized: Int8Map) {
    for (key, Int8Tensor { values, scales }) in quantized {
        let scale = HostTensor::from_f32(vec![scales.len()], &scales).expect("as many as they are");
        map.tensors.insert(format!("{key}{SCALE}"), scale);
        map.tensors.insert(key, values);
    }
}

/// Refuses a pattern of `skip` that matches none of the layers to quantise.
///
/// # Errors
/// [`LoadError::NoLayer`] with the first such pattern.
pub fn check_skip(map: &TensorMap, layers: &[String], skip: &[String]) -> Result<(), LoadError> {
    let idle = skip.iter().find(|pattern| {
        let pattern = std::slice::from_ref(*pattern);
        !layers.iter().any(|layer| is_skipped(layer, pattern))
    });
    match idle {
        None => Ok(()),
        Some(pattern) => Err(LoadError::NoLayer {
            path: map.path.clone(),
            pattern: pattern.clone(),
            example: layers.first().cloned().unwrap_or_else(|| "none".into()),
        }),
    }
}

/// Quantises the weights of `layers` in a file's tensors and returns each error.
pub fn quantize_file(map: &mut TensorMap, layers: &[String], skip: &[String]) -> Vec<QuantizedLayer> {
    let before: BTreeMap<String, HostTensor> = map
        .tensors
        .iter()
        .filter(|(key, _)| layer_of(key, layers).is_some())
        .map(|(k, t)| (k.clone(), t.clone()))
        .collect();
    let quantized = quantize_tensors(map, layers, skip);
    let mut report: Vec<QuantizedLayer> = Vec::new();
    for (key, tensor) in &quantized {
        let Some(weight) = before.get(key) else { continue };
        let [rows, columns] = [weight.shape()[0], weight.shape()[1]];
        let (values, floats) = (tensor.numbers(), weight.to_f32());
        let (mut lost, mut whole) = (0.0, 0.0);
        for (at, &w) in floats.iter().enumerate() {
            let shown = f64::from(values[at]) * f64::from(tensor.scales[at / columns.max(1)]);
            lost += (f64::from(w) - shown).powi(2);
            whole += f64::from(w).powi(2);
        }
        report.push(QuantizedLayer {
            layer: key.trim_end_matches(".weight").to_string(),
            shape: [rows, columns],
            error: if whole > 0.0 { (lost / whole).sqrt() } else { 0.0 },
            bytes_before: weight.bytes().len(),
            bytes_after: values.len() + 4 * tensor.scales.len(),
        });
    }
    report.sort_by_key(|done| layers.iter().position(|layer| *layer == done.layer));
    put_int8(map, quantized);
    report
}

/// Keys and shapes, for the report of loading.
pub(crate) fn shapes(quantized: &Int8Map) -> BTreeMap<String, Vec<usize>> {
    quantized.iter().map(|(key, tensor)| (key.clone(), tensor.shape().to_vec())).collect()
}

/// Moves int8 weights into a model; `quantized` shrinks layer by layer.
///
/// # Errors
/// The key and what is wrong with its tensor.
pub(crate) fn give_int8(model: &mut Model, mut quantized: Int8Map) -> Result<(), (String, String)> {
    if quantized.is_empty() {
        return Ok(());
    }
    for (name, layer) in model.linears_mut() {
        let key = format!("{name}.weight");
        let Some(tensor) = quantized.remove(&key) else { continue };
        let numbers = tensor.numbers();
        let Int8Tensor { values, scales } = tensor;
        drop(values);
        layer.take_int8(&numbers, &scales).map_err(|error| (key, error.to_string()))?;
    }
    Ok(())
}

/// The description of int8 weights in `config.json`, key `vitrum_quantization`.
pub fn config_entry(layers: &[String]) -> serde_json::Value {
    serde_json::json!({
        "weights": "int8, one scale for each row of [d_out, d_in], symmetric",
        "activations": "uint8, one scale and zero for each token, found while running",
        "layers": layers,
    })
}
