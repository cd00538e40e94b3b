//! Forms of a model's weights that are made for answers alone: packed, bf16, eight bits.

use std::ops::Range;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Model, Network};
use crate::layers::names::wildcard;

/// The numbers that a forward pass multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Floating-point numbers, as the model holds them.
    #[default]
    F32,
    /// What the linear layers of the blocks and attention multiply is rounded to bf16 (eight digits of mantissa), and summed
    /// in `f32`; all else is in `f32`. For answers.
    Bf16,
    /// Whole numbers of eight bits in the linear layers of the blocks; attention as in `Bf16` where the processor has an
    /// instruction for it; all else in `f32`.
    Int8,
}

impl Precision {
    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// `pass` over a batch `[B, C, H, W]`, for answers alone. Its result for an image must not depend on the others.
pub(crate) fn in_parts<const R: usize>(
    images: Tensor<4>,
    pass: impl Fn(Tensor<4>) -> Tensor<R> + Sync,
) -> Tensor<R> {
    let [batch, c, h, w] = images.dims();
    let (device, dtype) = (images.device(), images.dtype());
    if batch == 0 {
        // Burn broadcasts nothing over an axis of length 0.
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
    /// Turns the weights of the linear layers of the blocks into eight bits, for answering alone, and gives up the
    /// floating-point ones. Layers whose name or weight's key matches one of `skip` (`*` stands for any text) stay. Where
    /// the processor has AVX512-BF16, attention behind them multiplies in bf16, as with
    /// [`round_to_bf16`](Self::round_to_bf16), which rounds less than eight bits do.
    ///
    /// Reading the parameters of such a model (`collect`, records) gives what the eight bits stand for. A model that is
    /// to be trained must not be quantised: its weights would get no gradient.
    ///
    /// # Errors
    /// [`ConfigError::Field`] if sums would be too long for 32 bits.
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

    /// Rounds the weights of the linear layers of the blocks to bf16, for answering alone, and gives up the other ones;
    /// what they are multiplied with is rounded, too, and summed in `f32`; so are the products of attention, unless somebody
    /// watches its weights. Patch embedding, norms, softmax, activations, residuals and the head stay in `f32`. The weights are
    /// packed for this processor with that. Layers in eight bits stay, and attention behind such a projection.
    ///
    /// Reading the parameters of such a model (`collect`, records) gives the rounded numbers. A model that is to be trained
    /// must not be rounded: its weights would get no gradient.
    pub fn round_to_bf16(mut self) -> Self {
        self.linears_mut().into_iter().for_each(|(_, layer)| layer.round_to_bf16());
        self
    }

    /// Packs the weights of the linear layers of the blocks for this processor, for many answers: the same bits, sooner
    /// (but where branches have gains, LayerScale, that meet the residual in one rounding then). It takes as long as a
    /// few answers. Layers that have a prepared form stay, and so does everything on other devices
    /// and in other types than `f32`.
    ///
    /// Reading the parameters unpacks them, each time anew. A model that is to be trained must not be packed: its weights
    /// would get no gradient.
    pub fn pack(mut self) -> Self {
        self.linears_mut().into_iter().for_each(|(_, layer)| layer.pack());
        self
    }

    /// Forgets all prepared forms of weights, so that the parameters are what counts again.
    pub fn forget_prepared(&mut self) {
        self.linears_mut().into_iter().for_each(|(_, layer)| layer.forget_prepared());
    }

    /// How many of the blocks' linear layers are in eight bits.
    pub fn quantized_layers(&self) -> usize {
        self.linears().into_iter().filter(|(_, layer)| layer.int8().is_some()).count()
    }

    /// How many of the blocks' linear layers are in bf16.
    pub fn bf16_layers(&self) -> usize {
        self.linears().into_iter().filter(|(_, layer)| layer.bf16().is_some()).count()
    }

    /// What the linear layers of the blocks are computed in: in eight bits or bf16 if one of them is.
    pub fn precision(&self) -> Precision {
        match (self.quantized_layers(), self.bf16_layers()) {
            (0, 0) => Precision::F32,
            (0, _) => Precision::Bf16,
            _ => Precision::Int8,
        }
    }
}
