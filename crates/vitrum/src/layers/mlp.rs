//! The network applied to each token by itself.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, activation};
use serde::{Deserialize, Serialize};

use super::drop::dropout;
use super::linear;

/// Non-linearity of the MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Φ(x)`, with the error function: PyTorch, timm, Hugging Face.
    #[default]
    Gelu,
    /// GELU's tanh approximation: the default of flax, so of Google's own models.
    GeluTanh,
    /// `x σ(1.702 x)` (OpenAI CLIP).
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x σ(x)`.
    Silu,
}

impl Activation {
    /// Element by element; the shape stays.
    pub fn forward<const R: usize>(self, x: Tensor<R>) -> Tensor<R> {
        match self {
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
            Self::Relu => activation::relu(x),
            Self::Silu => activation::silu(x),
        }
    }
}

/// Two layers with a non-linearity between (paper, equation 3): `fc2(act(fc1(x)))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `D -> F`.
    pub fc1: Linear,
    /// `F -> D`.
    pub fc2: Linear,
    #[module(skip)]
    act: Activation,
    drop: f64,
}

impl Mlp {
    /// An MLP from `dim` over `hidden` back to `dim`; `drop` is the dropout after each layer.
    pub fn new(dim: usize, hidden: usize, act: Activation, bias: bool, drop: f64, device: &Device) -> Self {
        Self { fc1: linear(dim, hidden, bias, device), fc2: linear(hidden, dim, bias, device), act, drop }
    }

    /// `[B, T, D] -> [B, T, D]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.act.forward(self.fc1.forward(x)); // [B, T, F]
        let x = self.fc2.forward(dropout(x, self.drop)); // [B, T, D]
        dropout(x, self.drop)
    }
}
