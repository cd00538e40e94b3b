//! Gates of channels: channels weighed by what the whole map shows.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use serde::{Deserialize, Serialize};
use vitrum_kernels::Squeeze;

use super::conv::{Conv, ConvConfig, Maps};
use super::mlp::Activation;
use super::parameter;

/// Squeeze and excitation, Hu et al. 2017 (arXiv:1709.01507): `x · σ(fc2(act(fc1(mean(x)))))`.
#[derive(Module, Debug)]
pub struct SqueezeExcite {
    /// `C -> R`, a kernel of 1x1.
    pub fc1: Conv,
    /// `R -> C`, a kernel of 1x1.
    pub fc2: Conv,
    #[module(skip)]
    act: Activation,
}

impl SqueezeExcite {
    /// A gate for `channels`, over `reduced`.
    pub fn new(channels: usize, reduced: usize, act: Activation, device: &Device) -> Self {
        let conv = |from, to| ConvConfig::new(from, to, 1).bias(true).init(device);
        Self { fc1: conv(channels, reduced), fc2: conv(reduced, channels), act }
    }

    /// Maps `[B, H·W, C] -> [B, H·W, C]`.
    ///
    /// # Panics
    /// If the channels are not `C`, or the type is not that of the weights.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let mean = vitrum_kernels::squeeze(x.clone(), Squeeze::Mean).unsqueeze_dim::<3>(1); // [B, 1, C]
        let hidden = self.fc1.forward(&Maps { x: mean, grid: [1, 1] });
        let hidden = hidden.with(self.act.forward(hidden.x.clone()));
        let gate = activation::sigmoid(self.fc2.forward(&hidden).x.squeeze_dim::<2>(1)); // [B, C]
        vitrum_kernels::gate(x, gate, None, false)
    }
}

/// Efficient channel attention, Wang et al. 2019 (arXiv:1910.03151): `x · σ(conv(mean(x)))`, where the kernel runs along the
/// channels.
#[derive(Module, Debug)]
pub struct EfficientGate {
    /// The kernel.
    pub conv: ChannelKernel,
}

/// A kernel along the channels.
#[derive(Module, Debug)]
pub struct ChannelKernel {
    /// `[1, 1, k]`, k odd.
    pub weight: Param<Tensor<3>>,
}

impl EfficientGate {
    /// A gate for `channels`.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { conv: ChannelKernel { weight: parameter([1, 1, Self::kernel(channels)], device) } }
    }

    /// Size of the kernel for `channels` (paper, equation 12).
    pub fn kernel(channels: usize) -> usize {
        let size = (((channels as f64).log2() + 1.0) / 2.0) as usize;
        (if size % 2 == 1 { size } else { size + 1 }).max(3)
    }

    /// Maps `[B, H·W, C] -> [B, H·W, C]`.
    ///
    /// # Panics
    /// If the type is not that of the weight.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let mean = vitrum_kernels::squeeze(x.clone(), Squeeze::Mean); // [B, C]
        let weight = self.conv.weight.val();
        let ([b, c], [_, _, k]) = (mean.dims(), weight.dims());
        let outside = Tensor::zeros([b, k / 2], (&mean.device(), mean.dtype()));
        let wide = Tensor::cat(vec![outside.clone(), mean, outside], 1); // [B, C + k - 1]
        let tap = |at: usize| wide.clone().narrow(1, at, c) * weight.clone().narrow(2, at, 1).reshape([1, 1]);
        let sum = (1..k).map(tap).fold(tap(0), |sum, tap| sum + tap);
        vitrum_kernels::gate(x, activation::sigmoid(sum), None, false)
    }
}

/// The kind of a gate. The names are timm's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateLayer {
    /// No gate.
    #[default]
    #[serde(rename = "")]
    None,
    /// Squeeze and excitation.
    Se,
    /// Efficient channel attention.
    Eca,
}

/// A gate of either kind.
// The size of a variant does not matter: a few dozen exist at most, beside megabytes of weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum ChannelGate {
    /// Squeeze and excitation.
    Squeeze(SqueezeExcite),
    /// Efficient channel attention.
    Efficient(EfficientGate),
}

impl ChannelGate {
    /// Maps `[B, H·W, C] -> [B, H·W, C]`.
    ///
    /// # Panics
    /// As [`SqueezeExcite::forward`] and [`EfficientGate::forward`].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Squeeze(gate) => gate.forward(x),
            Self::Efficient(gate) => gate.forward(x),
        }
    }
}
