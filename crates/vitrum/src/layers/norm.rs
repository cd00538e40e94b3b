//! Normalisation.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::parameter;

/// Layer normalisation over the last dimension, Ba et al. 2016 (arXiv:1607.06450):
/// `y = (x - mean) / sqrt(var + eps) * weight + bias`, with the biased variance.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Gain, `[D]`.
    pub weight: Param<Tensor<1>>,
    /// Offset, `[D]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance. Sources differ: 1e-6 in timm and JAX, 1e-12 in Hugging Face's ViT, 1e-5 in CLIP.
    pub eps: f64,
}

impl LayerNorm {
    /// A norm over `dim` features.
    pub fn new(dim: usize, eps: f64, device: &Device) -> Self {
        Self { weight: parameter([dim], device), bias: parameter([dim], device), eps }
    }

    /// `[.., D] -> [.., D]`.
    ///
    /// # Panics
    /// If the last dimension or the float type is not that of the weight.
    pub fn forward<const R: usize>(&self, x: Tensor<R>) -> Tensor<R> {
        vitrum_kernels::layer_norm(x, self.weight.val(), self.bias.val(), self.eps)
    }
}
