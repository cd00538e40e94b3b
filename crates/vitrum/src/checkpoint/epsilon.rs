//! The effect of another norm epsilon on a model's output.

use burn::tensor::{DType, Device, Tensor, TensorData};

use serde_json::json;

use super::TensorMap;
use super::apply::{Excuses, apply};
use super::load::ModelError;
use crate::layers::observe::Silent;
use crate::models::{Config, ModelConfig, Network, Want};

/// The change of a model's output if its norms use `epsilon`: the largest difference over the largest value.
/// Measured on the logits of two noise images, or on the tokens if there is no head.
///
/// # Errors
/// An invalid configuration, and tensors that do not fit the model.
pub fn change_of_epsilon(map: &TensorMap, config: &ModelConfig, epsilon: f64) -> Result<f64, ModelError> {
    let own = outputs(map, config)?;
    let other = outputs(map, &config.with("norm_eps", json!(epsilon))?)?;
    let largest = own.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
    Ok(own.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest)
}

fn outputs(map: &TensorMap, config: &ModelConfig) -> Result<Vec<f64>, ModelError> {
    let device = Device::flex();
    let (model, _) = apply(config.skeleton(&device)?, map.clone(), DType::F32, &Excuses::default())?;
    let image = config.input().image();
    let shape = [2, image.channels, image.size[0], image.size[1]];
    let images =
        Tensor::<4>::from_data(TensorData::new(noise(shape.iter().product()), shape), (&device, DType::F32));
    let out = match model.classify().filter(|model| model.num_classes() > 0) {
        Some(classifier) => classifier.forward(images.into()).into_data(),
        None => {
            let features = model.as_backbone()?.features(images.into(), Want::Last, &mut Silent);
            features.last().tokens.into_data()
        }
    };
    Ok(out.iter::<f64>().collect())
}

/// Pseudo-random numbers in [-2, 2), the same on every run.
fn noise(count: usize) -> Vec<f32> {
    let number = |i: usize| {
        let x = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        4.0 * ((x >> 40) as f32 / (1 << 24) as f32) - 2.0
    };
    (0..count).map(number).collect()
}
