//! What the tests of several families share.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use tempfile::TempDir;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::load::{LoadOptions, Loaded, load};
use vitrum::checkpoint::write::{WriteOptions, write_safetensors};
use vitrum::checkpoint::{HostTensor, ModelCard, TensorMap};
use vitrum::models::{Config, Model, ModelConfig, Precision, Sizes};

use crate::compare::largest;
use crate::formula;

/// A model's tensors far from their first values, under timm's names and with linear layers as matrices.
pub fn tensors(config: &impl Config) -> TensorMap {
    let mut map = collect(&config.init(&Device::flex(), 0).unwrap());
    for (key, tensor) in &mut map.tensors {
        let shape = tensor.shape().to_vec();
        *tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, &shape)).unwrap();
    }
    map
}

/// A card of timm's with this architecture.
pub fn card(config: &(impl Clone + Into<ModelConfig>), architecture: &str) -> ModelCard {
    let card = ModelCard::new(config.clone(), CardSource::Timm, "");
    ModelCard { architecture: Some(architecture.into()), ..card }
}

/// A file of a map alone, without a configuration.
pub fn file(map: &TensorMap) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, map, &WriteOptions::default()).unwrap();
    (folder, path)
}

/// A file or folder, loaded for images of a size.
pub fn loaded(path: &Path, precision: Precision, size: [usize; 2]) -> Loaded {
    let options = LoadOptions { precision, img_size: Some(size), ..LoadOptions::new(path.to_path_buf()) };
    load(&options, &Device::flex()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Two images of the formula.
pub fn images([h, w]: [usize; 2]) -> Tensor<4> {
    let shape = [2, 3, h, w];
    Tensor::from_data(TensorData::new(formula::images(shape, 1.0), shape), (&Device::flex(), DType::F32))
}

/// The logits of two images.
pub fn logits(model: &Model, size: [usize; 2]) -> Vec<f32> {
    model.logits_at(images(size), Sizes::Any).unwrap().into_data().try_to_vec().unwrap()
}

/// The largest difference.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    largest(a.iter().zip(b).map(|(a, b)| (a - b).abs())) as f32
}
