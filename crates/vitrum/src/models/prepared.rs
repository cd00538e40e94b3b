//! Weights prepared for inference: packed, bf16, int8.

use std::ops::Range;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::stages::Part;
use super::{ConfigError, Model, Network};
use crate::layers::kept::Budget;
use crate::layers::names::wildcard;

/// Bytes of the biases and rotations that a packed model keeps.
const MOST_KEPT: usize = 256 << 20;

/// The number format of the products in a forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// Floating point, as the model holds it.
    #[default]
    F32,
    /// The operands of the blocks' linear layers and of attention are rounded to bf16 (eight digits of mantissa);
    /// sums are in `f32`. Everything else is in `f32`. For inference.
    Bf16,
    /// int8 in the linear layers of the blocks. Attention as in `Bf16` if the processor has the instruction.
    /// Everything else in `f32`.
    Int8,
}

impl Precision {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// `pass` over a batch `[B, C, H, W]`, for inference. Its result for an image must not depend on the others.
pub(crate) fn in_parts<const R: usize>(
    images: Tensor<4>,
    pass: impl Fn(Tensor<4>) -> Tensor<R> + Sync,
) -> Tensor<R> {
    let [batch, c, h, w] = images.dims();
    let (device, dtype) = (images.device(), images.dtype());
    if batch == 0 {
        // Burn does not broadcast over an axis of length 0.
        let mut shape = pass(Tensor::zeros([1, c, h, w], (&device, dtype))).dims();
        shape[0] = 0;
        return Tensor::zeros(shape, (&device, dtype));
    }
    if !vitrum_kernels::has_fast_path(&device, dtype) {
        return pass(images);
    }
    let part = |part: Range<usize>| pass(images.clone().slice_dim(0, part));
    let mut parts = vitrum_kernels::in_parts(batch, part);
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) }
}

/// Whether a layer, or the key of its weight, matches a pattern.
pub(crate) fn is_skipped(layer: &str, skip: &[String]) -> bool {
    skip.iter().any(|pattern| wildcard(pattern, layer) || wildcard(pattern, &format!("{layer}.weight")))
}

impl Model {
    /// Quantises the weights of the blocks' linear layers to int8, for inference, and frees the floating-point
    /// ones. Layers whose name or weight key matches one of `skip` stay (`*` matches any text). With AVX512-BF16,
    /// the attention after them multiplies in bf16, as with [`round_to_bf16`](Self::round_to_bf16); that rounds
    /// less than int8 does.
    ///
    /// Reading the parameters of such a model (`collect`, records) gives the quantised values. Do not train it: its
    /// weights would get no gradient.
    ///
    /// # Errors
    /// [`ConfigError::Field`] if sums would overflow 32 bits.
    pub fn quantize(mut self, skip: &[String]) -> Result<Self, ConfigError> {
        for (name, layer) in self.linears_mut() {
            if !is_skipped(&name, skip) {
                layer.quantize().map_err(|error| ConfigError::Field {
                    field: "embed_dim",
                    reason: format!("cannot be quantised: {name}: {error}"),
                })?;
            }
        }
        Ok(self)
    }

    /// Rounds the weights of the blocks' linear layers to bf16, for inference, and frees the original ones. Inputs
    /// are rounded too; sums stay `f32`. Attention likewise, unless its weights are observed. Patch embedding,
    /// norms, softmax, activations, residuals and the head stay in `f32`. On the CPU, the weights are also packed for
    /// the processor; on other devices, results of the products are rounded to bf16 too. int8 layers stay, with the
    /// attention after them. On a device without bf16 nothing changes.
    ///
    /// Reading the parameters of such a model (`collect`, records) gives the rounded values. Do not train it: its
    /// weights would get no gradient.
    pub fn round_to_bf16(mut self) -> Self {
        self.linears_mut().into_iter().for_each(|(_, layer)| layer.round_to_bf16());
        self
    }

    /// Packs the weights of the blocks' linear layers and of the convolutions for this processor, for many images. Biases of
    /// scores and rotations of queries and keys are kept from the first pass on, for the grid of the last image. A bias
    /// takes 4 A T² bytes, and a BEiT has one in each block: 22 MB in all for a BEiT-B/16 at 224 pixels, 190 MB at 384. At
    /// most 256 MiB are kept; what exceeds them is computed in each pass, as without packing.
    /// Results have the same bits and come faster. Exception: with LayerScale the gains meet the residual in one
    /// rounding. Packing takes the time of a few images. Layers with a prepared form stay, and so does everything on
    /// other devices and in other types than `f32`.
    ///
    /// Reading the parameters unpacks them each time. Do not train such a model: its weights would get no gradient.
    pub fn pack(mut self) -> Self {
        let budget = Budget::new(MOST_KEPT);
        self.linears_mut().into_iter().for_each(|(_, layer)| layer.pack());
        self.visit_parts(&mut |part| match part {
            Part::Conv(conv) => conv.pack(),
            Part::Bias(kept) => kept.keep(&budget),
            Part::Rotation(kept) => kept.keep(&budget),
            Part::BatchNorm(_) => {}
        });
        self
    }

    /// Drops all prepared forms of weights. Forward passes use the parameters again.
    pub fn forget_prepared(&mut self) {
        self.linears_mut().into_iter().for_each(|(_, layer)| layer.forget_prepared());
        self.visit_parts(&mut |part| match part {
            Part::Conv(conv) => conv.forget_prepared(),
            Part::Bias(kept) => kept.forget(),
            Part::Rotation(kept) => kept.forget(),
            Part::BatchNorm(_) => {}
        });
    }

    /// Number of the blocks' linear layers in int8.
    pub fn quantized_layers(&self) -> usize {
        self.linears().into_iter().filter(|(_, layer)| layer.int8().is_some()).count()
    }

    /// Number of the blocks' linear layers in bf16.
    pub fn bf16_layers(&self) -> usize {
        self.linears().into_iter().filter(|(_, layer)| layer.is_bf16()).count()
    }

    /// The precision of the blocks' linear layers: int8 or bf16 if one of them has it.
    pub fn precision(&self) -> Precision {
        match (self.quantized_layers(), self.bf16_layers()) {
            (0, 0) => Precision::F32,
            (0, _) => Precision::Bf16,
            _ => Precision::Int8,
        }
    }
}
