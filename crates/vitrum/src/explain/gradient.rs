//! Gradients of a score: of attention weights, of feature maps, of pixels.
//!
//! A value inside the model gets a gradient by adding zeros that are tracked: the gradient of the zeros is that of the value.
//! The model is at rest ([`at_rest`](crate::layers::drop::at_rest)): nothing is dropped, and batch norms use their running
//! statistics.

use burn::tensor::{Gradients, Tensor};

use super::flow::Tokens;
use super::{ExplainError, Explainer, HeatMap, View, host};
use crate::Error;
use crate::data::Preprocess;
use crate::data::preprocess::PreprocessError;
use crate::data::resize::{Interpolation, resize};
use crate::data::{RgbImage, batch};
use crate::layers::drop::at_rest;
use crate::layers::observe::{Observer, Silent};
use crate::models::{Backbone, Classify, Inputs, Level, Want};

/// Zeros like `x` that get a gradient, and `x` with them.
pub(super) fn tracked<const R: usize>(x: Tensor<R>) -> (Tensor<R>, Tensor<R>) {
    let zeros = x.zeros_like().detach().require_grad();
    (zeros.clone(), x + zeros)
}

/// The sum over images of the logit of `class`, with its backward pass. `pixels` are on the recording device.
pub(super) fn backward(
    model: &dyn Classify,
    pixels: Tensor<4>,
    class: usize,
    watch: &mut dyn Observer,
) -> Gradients {
    at_rest(|| {
        let features = model.features(pixels.into(), Want::Head, watch);
        logit(model.head(features, watch), class).backward()
    })
}

/// The sum over images of the logit of a class, `[1]`.
pub(super) fn logit(logits: Tensor<2>, class: usize) -> Tensor<1> {
    logits.narrow(1, class, 1).sum()
}

/// For each token of the last level, an equal share of 1 if the head reads it, else 0. A token that the head does not read
/// has no gradient.
pub(super) fn read_tokens(model: &dyn Backbone, level: Level) -> Result<Tokens, Error> {
    let count = level.tokens.dims()[1];
    let (prefix, grid) = (level.prefix, level.rows_columns());
    let tokens = Tensor::from_inner(level.tokens.clone()).require_grad();
    let gradients = at_rest(|| {
        let features = Level { tokens: tokens.clone(), ..level }.into();
        // A product with different numbers: the plain sum of what a norm gives has no gradient.
        let x = model.embedding(features, &mut Silent);
        let weights: Vec<f32> = (0..x.dims()[1]).map(|at| 1.0 + (at * 7 % 13) as f32).collect();
        let weights = Tensor::<1>::from_floats(weights.as_slice(), &x.device()).cast(x.dtype());
        (x * weights.unsqueeze::<2>()).sum().backward()
    });
    let gradient = tokens.grad(&gradients).map(|gradient| host(gradient.abs().sum_dim(2)));
    let is_read: Vec<bool> = match gradient {
        Some(sums) => sums.iter().map(|sum| *sum > 0.0).collect(),
        None => vec![true; count],
    };
    let read = is_read.iter().filter(|is| **is).count().max(1) as f64;
    let mut shares: Vec<f64> = is_read.into_iter().map(|is| if is { 1.0 / read } else { 0.0 }).collect();
    let cells = shares.split_off(prefix);
    Ok(Tokens { prefix: shares, grid, cells })
}

/// How [integrated gradients](Explainer::integrated_gradients) are computed.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegrationOptions {
    /// Points on the way from the baseline to the image.
    pub steps: usize,
    /// Images of a pass.
    pub batch_size: usize,
    /// Where the way begins.
    pub baseline: Baseline,
}

impl Default for IntegrationOptions {
    fn default() -> Self {
        Self { steps: 64, batch_size: 8, baseline: Baseline::Black }
    }
}

/// The image that says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Baseline {
    /// Black pixels.
    #[default]
    Black,
    /// White pixels.
    White,
    /// The mean colour of the model's training images: zeros after normalisation.
    Mean,
    /// The image itself, blurred to 8 x 8 pixels.
    Blur,
}

impl Baseline {
    /// The baseline of a view, `[1, C, H, W]`, normalised.
    pub(super) fn pixels(self, view: &View, preprocess: &Preprocess) -> Result<Tensor<4>, Error> {
        let [width, height] = [view.image.width(), view.image.height()];
        let image = match self {
            Self::Mean => return Ok(view.pixels.zeros_like()),
            Self::Black => RgbImage::filled(width, height, [0; 3])?,
            Self::White => RgbImage::filled(width, height, [255; 3])?,
            Self::Blur => {
                let resized = |image: &RgbImage, width, height, filter| {
                    resize(image, width, height, filter).map_err(PreprocessError::from)
                };
                let coarse = resized(&view.image, 8, 8, Interpolation::Box)?;
                resized(&coarse, width, height, Interpolation::Bilinear)?
            }
        };
        let values = preprocess.normalize(&image)?;
        let [channels, height, width] = preprocess.input_size;
        Ok(batch::to_tensor(
            values,
            [1, channels, height, width],
            view.pixels.dtype(),
            &view.pixels.device(),
        )?)
    }
}

/// Integrated gradients of the pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegratedGradients {
    /// The attribution of each pixel, the sum over its channels.
    pub map: HeatMap,
    /// The attributions of all channels, `[C, H, W]`.
    pub channels: Vec<f32>,
    /// The logit of the image minus that of the baseline. The attributions would sum to it if there were infinitely many
    /// steps.
    pub difference: f64,
    /// The sum of the attributions.
    pub sum: f64,
}

impl Explainer {
    /// Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) of the logit of a class: `(x - x') ∫ ∂y/∂x`, the
    /// integral by the midpoint rule.
    ///
    /// # Errors
    /// [`ExplainError::NoClasses`], [`ExplainError::NoClass`], [`ExplainError::Range`] without steps or a batch size;
    /// [`ExplainError::Cancelled`] between two passes.
    pub fn integrated_gradients(
        &self,
        view: &View,
        class: usize,
        options: &IntegrationOptions,
    ) -> Result<IntegratedGradients, Error> {
        self.check_class(class)?;
        let IntegrationOptions { steps, batch_size, baseline } = *options;
        for (what, found) in [("steps", steps), ("batch size", batch_size)] {
            if found == 0 {
                let (found, expected) = (found.to_string(), "at least 1".into());
                return Err(ExplainError::Range { what, found, expected }.into());
            }
        }
        let [_, c, h, w] = view.pixels.dims();
        let start = baseline.pixels(view, &self.preprocess)?;
        let way = view.pixels.clone() - start.clone();
        let mut sum = view.pixels.zeros_like();
        for first in (0..steps).step_by(batch_size) {
            let model = self.recording()?;
            let at = |step: usize| start.clone() + way.clone() * ((step as f64 + 0.5) / steps as f64);
            let those = first..first.saturating_add(batch_size).min(steps);
            let pixels = Tensor::cat(those.map(at).collect(), 0);
            let pixels = Tensor::from_inner(pixels).require_grad();
            let gradients = backward(model, pixels.clone(), class, &mut Silent);
            if let Some(gradient) = pixels.grad(&gradients) {
                sum = sum + gradient.sum_dim(0);
            }
        }
        let attributions = way * sum / steps as f64;
        let channels = host(attributions);
        let area = h * w;
        let pixel = |at: usize| (0..c).map(|channel| channels[channel * area + at]).sum();
        let map = HeatMap { grid: [h, w], values: (0..area).map(pixel).collect() }.finite()?;
        let logits = self.logits(Tensor::cat(vec![view.pixels.clone(), start], 0))?;
        let difference = logits[0][class] - logits[1][class];
        let sum = channels.iter().map(|value| f64::from(*value)).sum();
        Ok(IntegratedGradients { map, channels, difference, sum })
    }
}

/// Pixels on the recording device.
pub(super) fn recorded(pixels: &Tensor<4>) -> Inputs {
    Tensor::from_inner(pixels.clone()).into()
}
