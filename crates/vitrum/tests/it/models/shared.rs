//! What the tests of several families share.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum::checkpoint::load::{LoadOptions, Loaded, load};
use vitrum::models::{Model, Precision, Sizes};

use crate::compare::largest;
use crate::formula;

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
