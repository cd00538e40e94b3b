//! Normalisation.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vitrum_kernels::Squeeze;

use super::mlp::Activation;
use super::parameter;

/// The form of a norm over the features of a token. The names are timm's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormLayer {
    /// Around the mean, with an offset.
    #[default]
    LayerNorm,
    /// Around zero, without an offset (Zhang and Sennrich 2019, arXiv:1910.07467).
    RmsNorm,
    /// A token over its standard deviation, `x / sqrt(var + eps) * weight`, with the unbiased variance: neither centred nor
    /// with an offset (timm `SimpleNorm`).
    SimpleNorm,
}

impl NormLayer {
    /// The name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::LayerNorm => "LayerNorm",
            Self::RmsNorm => "RMSNorm",
            Self::SimpleNorm => "SimpleNorm",
        }
    }

    /// Vectors of parameters: a gain, and an offset if there is one.
    pub fn vectors(self) -> usize {
        match self {
            Self::LayerNorm => 2,
            Self::RmsNorm | Self::SimpleNorm => 1,
        }
    }
}

/// How a [`LayerNorm`] is built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormConfig {
    /// The form.
    pub layer: NormLayer,
    /// Added to the variance, or to the mean square.
    pub eps: f64,
}

impl NormConfig {
    /// A LayerNorm with this epsilon.
    pub fn layer_norm(eps: f64) -> Self {
        Self { layer: NormLayer::LayerNorm, eps }
    }

    /// A norm over `dim` features.
    pub fn build(self, dim: usize, device: &Device) -> LayerNorm {
        let bias = (self.layer == NormLayer::LayerNorm).then(|| parameter([dim], device));
        LayerNorm { weight: parameter([dim], device), bias, eps: self.eps, layer: self.layer }
    }
}

/// Layer normalisation over the last dimension, Ba et al. 2016 (arXiv:1607.06450):
/// `y = (x - mean) / sqrt(var + eps) * weight + bias`, with the biased variance.
///
/// RMSNorm (arXiv:1910.07467) is another form: `y = x / sqrt(mean(x²) + eps) * weight`.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Gain, `[D]`.
    pub weight: Param<Tensor<1>>,
    /// Offset, `[D]`. Only LayerNorm has one.
    pub bias: Option<Param<Tensor<1>>>,
    /// Added to the variance. Sources differ: 1e-6 in timm and JAX, 1e-12 in Hugging Face's ViT, 1e-5 in CLIP.
    pub eps: f64,
    #[module(skip)]
    layer: NormLayer,
}

impl LayerNorm {
    /// A norm over `dim` features, around their mean.
    pub fn new(dim: usize, eps: f64, device: &Device) -> Self {
        NormConfig::layer_norm(eps).build(dim, device)
    }

    /// `[.., D] -> [.., D]`.
    ///
    /// # Panics
    /// If the last dimension or the float type is not that of the weight.
    pub fn forward<const R: usize>(&self, x: Tensor<R>) -> Tensor<R> {
        match self.layer {
            NormLayer::LayerNorm => {
                let bias = self.bias.as_ref().map(|bias| bias.val());
                vitrum_kernels::layer_norm(x, self.weight.val(), bias, self.eps)
            }
            NormLayer::RmsNorm => vitrum_kernels::rms_norm(x, self.weight.val(), self.eps),
            NormLayer::SimpleNorm => {
                let others = (x.dims()[R - 1] as f64 - 1.0).max(1.0);
                let centred = x.clone() - x.clone().mean_dim(R - 1);
                // Not a division: its gradient would be rounded to f32.
                let variance = (centred.clone() * centred).sum_dim(R - 1) * others.recip();
                x / (variance + self.eps).sqrt() * self.weight.val().unsqueeze()
            }
        }
    }

    /// Gain and offset, for operations that contain this norm. They contain no form but LayerNorm.
    pub(crate) fn gain_and_offset(&self) -> Option<[Tensor<1>; 2]> {
        let bias = self.bias.as_ref().filter(|_| self.layer == NormLayer::LayerNorm)?;
        Some([self.weight.val(), bias.val()])
    }

    /// `D`.
    pub(crate) fn width(&self) -> usize {
        self.weight.lazy_shape().dims::<1>()[0]
    }
}

/// Group normalisation, Wu and He 2018 (arXiv:1803.08494): groups of channels of each map, with the biased variance.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// Gain, `[C]`.
    pub weight: Param<Tensor<1>>,
    /// Offset, `[C]`.
    pub bias: Param<Tensor<1>>,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// A norm over `groups` groups of `channels`.
    pub fn new(channels: usize, groups: usize, eps: f64, device: &Device) -> Self {
        Self { weight: parameter([channels], device), bias: parameter([channels], device), groups, eps }
    }

    /// `act(norm(x))`: maps `[B, H·W, C]`.
    ///
    /// # Panics
    /// If the channels are not `C`, or the type is not that of the weight.
    pub fn forward(&self, x: Tensor<3>, act: Option<Activation>) -> Tensor<3> {
        let rectifies = act == Some(Activation::Relu);
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let y = vitrum_kernels::group_norm(x, self.groups, weight, bias, self.eps, rectifies);
        match act {
            Some(act) if !rectifies => act.forward(y),
            _ => y,
        }
    }
}

/// Global response normalisation, Woo et al. 2023 (arXiv:2301.00808): `x + weight · x · n + bias`, where n is the length
/// of a channel over the map, divided by the mean length of the map's channels.
#[derive(Module, Debug)]
pub struct GlobalResponseNorm {
    /// Gain, `[C]`.
    pub weight: Param<Tensor<1>>,
    /// Offset, `[C]`.
    pub bias: Param<Tensor<1>>,
    eps: f64,
}

impl GlobalResponseNorm {
    /// A norm over `channels`.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { weight: parameter([channels], device), bias: parameter([channels], device), eps: 1e-6 }
    }

    /// Maps `[B, H·W, C] -> [B, H·W, C]`.
    ///
    /// # Panics
    /// If the channels are not `C`, or the type is not that of the weight.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let lengths = vitrum_kernels::squeeze(x.clone(), Squeeze::Length); // [B, C]
        let normed = lengths.clone() / (lengths.mean_dim(1) + self.eps);
        vitrum_kernels::gate(x, normed * self.weight.val().unsqueeze(), self.bias.val(), true)
    }
}
