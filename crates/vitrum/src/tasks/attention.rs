//! Where a block of a model looks: its attention over an image.

use std::fmt::Arguments;

use burn::tensor::{DType, Tensor};

use crate::Error;
use crate::checkpoint::load::ModelError;
use crate::data::RgbImage;
use crate::layers::observe::{AttentionSites, Observer};
use crate::models::{Model, Want};

/// Attention of one block over the patches of an image, averaged over the heads. A head of differential attention counts
/// as two.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMap {
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// The weight of each patch, `[rows, columns]`. For a model with a class token, the attention of that token;
    /// otherwise the mean over all patches. Together with the tokens in front, a query's weights sum to 1.
    pub weights: Vec<f32>,
    /// The image as the model saw it: resized and cropped.
    pub image: RgbImage,
}

impl AttentionMap {
    /// The image with bright patches where the attention is high. The largest weight keeps the image's own colours.
    pub fn overlay(&self) -> RgbImage {
        let mut image = self.image.clone();
        let largest = self.weights.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let (width, height) = (image.width() as usize, image.height() as usize);
        for (at, pixel) in image.data_mut().chunks_exact_mut(3).enumerate() {
            let heat = between_cells(
                &self.weights,
                self.grid,
                (at / width) as f32 / height as f32,
                (at % width) as f32 / width as f32,
            ) / largest;
            let light = 0.15 + 0.85 * heat.clamp(0.0, 1.0);
            pixel.iter_mut().for_each(|value| *value = (f32::from(*value) * light).round() as u8);
        }
        image
    }
}

/// The number at a position of an image, from 0 to 1, bilinear between the centres of a grid's cells.
pub(crate) fn between_cells(values: &[f32], [rows, columns]: [usize; 2], y: f32, x: f32) -> f32 {
    let between = |position: f32, count: usize| {
        let place = (position * count as f32 - 0.5).clamp(0.0, (count - 1) as f32);
        let low = place.floor() as usize;
        (low, (low + 1).min(count - 1), place - low as f32)
    };
    let ((top, bottom, down), (left, right, across)) = (between(y, rows), between(x, columns));
    let row = |row: usize| {
        let values = &values[row * columns..];
        values[left] * (1.0 - across) + values[right] * across
    };
    row(top) * (1.0 - down) + row(bottom) * down
}

/// Keeps the attention weights of one block: of its attention, or of its attentions side by side.
struct OneBlock {
    /// The name of its attention.
    name: String,
    weights: Vec<Tensor<4>>,
}

impl OneBlock {
    fn is_it(&self, name: Arguments<'_>) -> bool {
        let name = name.to_string();
        let rest = name.strip_prefix(&self.name).and_then(|rest| rest.strip_suffix(".weights"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("s."))
    }
}

impl Observer for OneBlock {
    fn wants_tokens(&self) -> bool {
        true // A fused block has no weights to show.
    }

    fn wants_attention(&self, name: Arguments<'_>) -> bool {
        self.is_it(name)
    }

    fn attention(&mut self, name: Arguments<'_>, weights: Tensor<4>, _sites: &AttentionSites) -> Tensor<4> {
        if self.is_it(name) {
            self.weights.push(weights.clone());
        }
        weights
    }
}

/// The attention of block `block` of `model` over one image `[1, C, H, W]`, which shows `image`.
pub(super) fn attention(
    model: &Model,
    pixels: Tensor<4>,
    image: RgbImage,
    block: usize,
) -> Result<AttentionMap, Error> {
    let backbone = model.as_backbone().map_err(ModelError::from)?;
    let mut watch = OneBlock { name: format!("blocks.{block}.attn"), weights: Vec::new() };
    let features = backbone.features(pixels.into(), Want::Last, &mut watch).last();
    let (prefix, [rows, columns]) = (features.prefix, features.rows_columns());
    if watch.weights.is_empty() {
        return Err(Error::NoAttention { block, family: model.family() });
    }
    let weights = Tensor::cat(watch.weights, 1).mean_dim(1); // [1, 1, T, T]
    let weights = match has_class_token(model, prefix) {
        true => weights.narrow(2, 0, 1),
        false => weights.narrow(2, prefix, rows * columns).mean_dim(2),
    };
    let patches = weights.narrow(3, prefix, rows * columns).cast(DType::F32);
    let weights: Vec<f32> = patches.into_data().iter::<f32>().collect();
    if !weights.iter().all(|weight| weight.is_finite()) {
        return Err(Error::NotFinite { image: 0 });
    }
    Ok(AttentionMap { grid: [rows, columns], weights, image })
}

/// Whether the first of `prefix` tokens is a class token; registers alone are none. The field `class_token` says so. A
/// family without that field has a class token wherever it has a prefix.
fn has_class_token(model: &Model, prefix: usize) -> bool {
    let field = model.config().field("class_token");
    prefix > 0 && field.and_then(|value| value.as_bool()).unwrap_or(true)
}
