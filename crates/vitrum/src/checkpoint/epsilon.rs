//! What another epsilon of the norms does to a model's answers.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::TensorMap;
use super::apply::{Excuses, apply};
use crate::layers::observe::Silent;
use crate::models::vit::VitConfig;
use crate::models::{ConfigError, ModelConfig};

/// How much a model's output changes when its norms take `epsilon` in place of its own: the largest difference over
/// the largest value, of the logits (of the tokens where there is no head) for two images of noise.
///
/// # Errors
/// A configuration that makes no model.
pub fn change_of_epsilon(map: &TensorMap, config: &VitConfig, epsilon: f64) -> Result<f64, ConfigError> {
    let own = outputs(map, config)?;
    let other = outputs(map, &VitConfig { norm_eps: epsilon, ..config.clone() })?;
    let largest = own.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
    Ok(own.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest)
}

fn outputs(map: &TensorMap, config: &VitConfig) -> Result<Vec<f64>, ConfigError> {
    let device = Device::flex();
    let skeleton = ModelConfig::Vit(config.clone()).skeleton(&device)?;
    let (model, _) = apply(skeleton, map.clone(), DType::F32, &Excuses::default());
    let shape = [2, config.in_chans, config.img_size[0], config.img_size[1]];
    let images =
        Tensor::<4>::from_data(TensorData::new(noise(shape.iter().product()), shape), (&device, DType::F32));
    let backbone = model.backbone();
    let features = backbone.features(images, &mut Silent);
    let out = match config.num_classes {
        0 => features.tokens.into_data(),
        _ => backbone.head(features, &mut Silent).into_data(),
    };
    Ok(out.iter::<f64>().collect())
}

/// Numbers in [-2, 2), the same on every run.
fn noise(count: usize) -> Vec<f32> {
    let number = |i: usize| {
        let x = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        4.0 * ((x >> 40) as f32 / (1 << 24) as f32) - 2.0
    };
    (0..count).map(number).collect()
}
