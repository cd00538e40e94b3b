//! Squeeze and excitation: channels weighed by what the whole map shows.

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use vitrum_kernels::Squeeze;

use super::conv::{Conv, ConvConfig, Maps};
use super::mlp::Activation;

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
