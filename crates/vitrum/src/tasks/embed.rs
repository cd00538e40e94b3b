//! Images to feature vectors.

use burn::tensor::Tensor;

use crate::layers::observe::Silent;
use crate::models::{Model, in_parts};

/// One vector per image, `[B, C, H, W] -> [B, D]`: what the classifier would see.
pub fn pooled(model: &Model, images: Tensor<4>) -> Tensor<2> {
    let backbone = model.backbone();
    in_parts(images, |images| backbone.embedding(backbone.read_features(images), &mut Silent))
}

/// All tokens after the last norm, `[B, C, H, W] -> [B, T, D]`.
pub fn tokens(model: &Model, images: Tensor<4>) -> Tensor<3> {
    in_parts(images, |images| model.backbone().features(images, &mut Silent).tokens)
}

/// Divides each row of `[B, D]` by its Euclidean length; a row of zeros stays.
pub fn normalized(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone() * x.clone()).sum_dim(1).sqrt();
    x / length.clamp_min(f64::from(f32::MIN_POSITIVE))
}
