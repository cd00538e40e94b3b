//! Images to feature vectors.

use burn::tensor::{DType, Device, Tensor};

use super::classify::preprocess_of;
use crate::Error;
use crate::checkpoint::load::{Loaded, ModelError};
use crate::data::{Preprocess, RgbImage, batch};
use crate::layers::observe::Silent;
use crate::models::{AnswerError, Model, Sizes, Want, in_parts};

/// A model with its preprocessing, for feature vectors. It needs no head.
#[derive(Debug)]
pub struct Embedder {
    model: Model,
    preprocess: Preprocess,
    device: Device,
}

impl Embedder {
    /// From a loaded model.
    ///
    /// # Errors
    /// [`Error::NoPreprocess`] if the preprocessing is unknown.
    pub fn new(loaded: Loaded, device: Device) -> Result<Self, Error> {
        loaded.model.as_backbone().map_err(ModelError::from)?;
        let preprocess = preprocess_of(&loaded)?;
        Ok(Self { model: loaded.model, preprocess, device })
    }

    /// Packs the weights for many pictures ([`Model::pack`]).
    pub fn pack(self) -> Self {
        Self { model: self.model.pack(), ..self }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// One vector per picture, `[B, D]` ([`pooled`]).
    ///
    /// # Errors
    /// A picture that cannot be preprocessed, and [`Error::NotFinite`].
    pub fn pooled(&self, images: &[RgbImage]) -> Result<Tensor<2>, Error> {
        let x = pooled(&self.model, self.batch(images)?).map_err(ModelError::from)?;
        check_finite(x.clone())?;
        Ok(x)
    }

    /// All tokens of each picture, `[B, T, D]` ([`tokens`]).
    ///
    /// # Errors
    /// As [`pooled`](Self::pooled).
    pub fn tokens(&self, images: &[RgbImage]) -> Result<Tensor<3>, Error> {
        let x = tokens(&self.model, self.batch(images)?).map_err(ModelError::from)?;
        check_finite(x.clone().flatten(1, 2))?;
        Ok(x)
    }

    fn batch(&self, images: &[RgbImage]) -> Result<Tensor<4>, Error> {
        Ok(batch::of_images(images, &self.preprocess, DType::F32, &self.device)?)
    }
}

/// Refuses features `[B, N]` with NaN or infinity.
fn check_finite(x: Tensor<2>) -> Result<(), Error> {
    // NaN and infinity survive the product; finite values become 0.
    let rest: Vec<f64> = (x * 0.0).sum_dim(1).into_data().iter::<f64>().collect();
    match rest.iter().position(|value| !value.is_finite()) {
        Some(image) => Err(Error::NotFinite { image }),
        None => Ok(()),
    }
}

/// One vector per image, `[B, C, H, W] -> [B, D]`: the input of the classifier.
///
/// # Errors
/// [`AnswerError`]: a model without features, or images of another shape, size or type than the model's.
pub fn pooled(model: &Model, images: Tensor<4>) -> Result<Tensor<2>, AnswerError> {
    pooled_at(model, images, Sizes::Own)
}

/// [`pooled`] for images of the accepted sizes.
///
/// # Errors
/// As [`pooled`], and a size that the model cannot take.
pub fn pooled_at(model: &Model, images: Tensor<4>, sizes: Sizes) -> Result<Tensor<2>, AnswerError> {
    let backbone = model.as_backbone()?;
    model.check_images(&images, sizes)?;
    let pooled = |images: Tensor<4>| {
        backbone.embedding(backbone.features(images.into(), Want::Head, &mut Silent), &mut Silent)
    };
    Ok(in_parts(images, pooled))
}

/// All tokens after the last norm, `[B, C, H, W] -> [B, T, D]`.
///
/// # Errors
/// As [`pooled`].
pub fn tokens(model: &Model, images: Tensor<4>) -> Result<Tensor<3>, AnswerError> {
    tokens_at(model, images, Sizes::Own)
}

/// [`tokens`] for images of the accepted sizes.
///
/// # Errors
/// As [`pooled_at`].
pub fn tokens_at(model: &Model, images: Tensor<4>, sizes: Sizes) -> Result<Tensor<3>, AnswerError> {
    let backbone = model.as_backbone()?;
    model.check_images(&images, sizes)?;
    let tokens = |images: Tensor<4>| backbone.features(images.into(), Want::Last, &mut Silent).last().tokens;
    Ok(in_parts(images, tokens))
}

/// Divides each row of `[B, D]` by its Euclidean length; a row of zeros stays.
pub fn normalized(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone() * x.clone()).sum_dim(1).sqrt();
    x / length.clamp_min(f64::from(f32::MIN_POSITIVE))
}
