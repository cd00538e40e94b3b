//! Masked patches to what was there: losses and pictures.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::classify::preprocess_of;
use super::mask::{MaskKind, MaskSampler};
use crate::Error;
use crate::checkpoint::load::{Loaded, ModelError};
use crate::data::{Preprocess, RgbImage, batch};
use crate::layers::mask::{Masks, Patch, unpatchify};
use crate::layers::observe::Silent;
use crate::models::{AnswerError, Inputs, Masking, Model, PixelScale, Reconstruct, Want};

impl From<&Preprocess> for PixelScale {
    fn from(preprocess: &Preprocess) -> Self {
        Self { mean: preprocess.mean.clone(), std: preprocess.std.clone() }
    }
}

/// The answers to a batch of masked images.
#[derive(Debug)]
pub struct Reconstructed {
    /// Predictions for every patch, `[B, N, T]`.
    pub prediction: Tensor<3>,
    /// The mean loss of the masked patches of each image.
    pub losses: Vec<f64>,
}

/// Predicts the masked patches of normalised images `[B, C, H, W]`.
///
/// # Panics
/// If the masks do not fit the images; [`Network::check_inputs`](crate::models::Network::check_inputs) refuses them with an
/// error.
pub fn reconstruct(
    model: &dyn Reconstruct,
    images: Tensor<4>,
    masks: &Masks,
    scale: &PixelScale,
) -> Reconstructed {
    let inputs = Inputs::Masked(images.clone(), masks.clone());
    let features = model.features(inputs, Want::Last, &mut Silent);
    let prediction = model.predict(features, masks, &mut Silent);
    let losses = model.losses(prediction.clone(), images, scale).cast(DType::F64);
    let losses: Vec<f64> = losses.into_data().iter::<f64>().collect();
    let of_image = |(losses, patches): (&[f64], &[Patch])| {
        let pairs = losses.iter().zip(patches);
        let masked: Vec<f64> =
            pairs.filter(|(_, patch)| **patch != Patch::Seen).map(|(loss, _)| *loss).collect();
        masked.iter().sum::<f64>() / masked.len().max(1) as f64
    };
    let count = masks.num_patches();
    let losses = losses.chunks(count).zip(masks.patches().chunks(count)).map(of_image).collect();
    Reconstructed { prediction, losses }
}

/// Four normalised pictures of each image, one after another: the image, the image with grey in the place of masked
/// patches, the prediction of every patch, and the image with the predictions of masked patches.
#[derive(Clone, Debug)]
pub struct Views {
    /// `[4·B, C, H, W]`, without pixels that fill no patch.
    pub values: Vec<f32>,
    /// `[4·B, C, H, W]`.
    pub shape: [usize; 4],
    /// The mean loss of the masked patches of each image.
    pub losses: Vec<f64>,
}

impl Views {
    /// The pictures, if all their numbers and losses are finite.
    fn finite(self) -> Result<Self, Error> {
        let images = self.losses.len();
        let values = self.values.chunks((self.values.len() / images.max(1)).max(1));
        let is_finite =
            |(loss, values): (&f64, &[f32])| loss.is_finite() && values.iter().all(|v| v.is_finite());
        match self.losses.iter().zip(values).position(|of_image| !is_finite(of_image)) {
            Some(image) => Err(Error::NotFinite { image }),
            None => Ok(self),
        }
    }
}

/// What the pictures of [`Views`] show, in order.
pub const VIEWS: [&str; 4] = ["original", "masked", "prediction", "pasted"];

/// The [`Views`] of normalised images `[B, C, H, W]`.
///
/// # Panics
/// As [`reconstruct`].
pub fn views(model: &dyn Reconstruct, images: Tensor<4>, masks: &Masks, scale: &PixelScale) -> Views {
    let Reconstructed { prediction, losses } = reconstruct(model, images.clone(), masks, scale);
    let predicted = model.pixels(prediction, images.clone(), scale);
    let [b, c, h, w] = predicted.dims();
    let images = images.narrow(2, 0, h).narrow(3, 0, w);
    let [rows, columns] = model.grid();
    let patch = [h / rows, w / columns];
    let (device, dtype) = (images.device(), images.dtype());
    // One where a pixel is masked.
    let mask = masks.tensor(&device, dtype).reshape([b, rows * columns, 1]);
    let mask = unpatchify(mask.expand([b, rows * columns, patch[0] * patch[1] * c]), patch, [rows, columns]);
    let grey: Vec<f64> = (0..c).map(|at| (0.5 - scale.mean_of(at)) / scale.std_of(at)).collect();
    let grey = Tensor::<4>::from_data(TensorData::new(grey, [1, c, 1, 1]), (&device, dtype));
    let seen = mask.clone().neg() + 1.0;
    let masked = images.clone() * seen.clone() + grey.expand([b, c, h, w]) * mask.clone();
    let pasted = images.clone() * seen + predicted.clone() * mask;
    let all: Tensor<5> = Tensor::stack(vec![images, masked, predicted, pasted], 1); // [B, 4, C, H, W]
    let values = all.cast(DType::F32).into_data().iter::<f32>().collect();
    Views { values, shape: [4 * b, c, h, w], losses }
}

/// A model that predicts masked patches, with its preprocessing.
#[derive(Debug)]
pub struct Reconstructor {
    model: Model,
    preprocess: Preprocess,
    device: Device,
    masking: Masking,
    grid: [usize; 2],
}

impl Reconstructor {
    /// From a loaded model.
    ///
    /// # Errors
    /// A model that does not predict masked patches, and [`Error::NoPreprocess`] if the preprocessing is unknown.
    pub fn new(loaded: Loaded, device: Device) -> Result<Self, Error> {
        let model = loaded.model.as_reconstruct().map_err(ModelError::from)?;
        let (masking, grid) = (model.masking(), model.grid());
        let preprocess = preprocess_of(&loaded)?;
        Ok(Self { model: loaded.model, preprocess, device, masking, grid })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The preprocessing.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Draws masks for the model as its paper does, except for the kind.
    ///
    /// # Errors
    /// None for a model that [`new`](Self::new) accepted.
    pub fn sampler(&self, kind: MaskKind, seed: u64) -> Result<MaskSampler, Error> {
        Ok(MaskSampler::new(self.model.as_reconstruct().map_err(ModelError::from)?, kind, seed))
    }

    /// How the model's paper masks patches.
    pub fn masking(&self) -> Masking {
        self.masking
    }

    /// Rows and columns of patches.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// The [`Views`] of pictures.
    ///
    /// # Errors
    /// A picture that cannot be preprocessed, masks that do not fit, and [`Error::NotFinite`].
    pub fn views(&self, images: &[RgbImage], masks: &Masks) -> Result<Views, Error> {
        let images = batch::of_images(images, &self.preprocess, self.model.dtype(), &self.device)?;
        self.model.check_masks(&images, masks).map_err(AnswerError::from).map_err(ModelError::from)?;
        let model = self.model.as_reconstruct().map_err(ModelError::from)?;
        views(model, images, masks, &PixelScale::from(&self.preprocess)).finite()
    }
}
