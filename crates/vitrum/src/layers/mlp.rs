//! The MLP, applied to each token separately.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vitrum_kernels::{NormMlp, QuantizedWeight};

use super::Linear;
use super::drop::{dropout, training};
use super::norm::{GlobalResponseNorm, LayerNorm};

/// Non-linearity of the MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Φ(x)`, with the error function: PyTorch, timm, Hugging Face.
    #[default]
    Gelu,
    /// GELU's tanh approximation: the default of flax, and so of Google's models.
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
        vitrum_kernels::activate(x, self.into())
    }
}

impl From<Activation> for vitrum_kernels::Activation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Gelu => Self::Gelu,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::QuickGelu => Self::QuickGelu,
            Activation::Relu => Self::Relu,
            Activation::Silu => Self::Silu,
        }
    }
}

/// Two layers with a non-linearity between (paper, equation 3): `fc2(act(fc1(x)))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `D -> F`.
    pub fc1: Linear,
    /// Norm of the hidden maps after the non-linearity.
    pub grn: Option<GlobalResponseNorm>,
    /// `F -> D`.
    pub fc2: Linear,
    #[module(skip)]
    pub(super) act: Activation,
    drop: f64,
}

impl Mlp {
    /// An MLP from `dim` over `hidden` back to `dim`; `drop` is the dropout after each layer.
    pub fn new(dim: usize, hidden: usize, act: Activation, bias: bool, drop: f64, device: &Device) -> Self {
        Self {
            fc1: Linear::new(dim, hidden, bias, device),
            grn: None,
            fc2: Linear::new(hidden, dim, bias, device),
            act,
            drop,
        }
    }

    /// With a norm of the hidden maps. All tokens of an image must then enter together.
    #[must_use]
    pub fn with_grn(self, device: &Device) -> Self {
        let [hidden, _] = self.fc2.weight.lazy_shape().dims::<2>();
        Self { grn: Some(GlobalResponseNorm::new(hidden, device)), ..self }
    }

    /// The weights of both layers, if both are int8 and nothing acts between them.
    fn int8(&self) -> Option<[&QuantizedWeight; 2]> {
        match &self.grn {
            Some(_) => None,
            None => Some([self.fc1.int8()?, self.fc2.int8()?]),
        }
    }

    /// `residual + gamma · forward(x)`, for inference: nothing is dropped.
    pub(super) fn add(&self, residual: Tensor<3>, x: Tensor<3>, gamma: Option<Tensor<1>>) -> Tensor<3> {
        match (self.int8(), gamma) {
            (Some([fc1, fc2]), None) => vitrum_kernels::mlp_add_int8(x, fc1, fc2, self.act.into(), residual),
            (_, None) => residual + self.forward(x),
            (_, Some(gamma)) => residual + self.forward(x) * gamma.unsqueeze(),
        }
    }

    /// `residual + gamma · forward(norm(x))`, for inference: nothing is dropped.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), and for a residual of another shape.
    pub fn add_after(
        &self,
        residual: Tensor<3>,
        norm: &LayerNorm,
        x: Tensor<3>,
        gamma: Option<Tensor<1>>,
    ) -> Tensor<3> {
        if let Some(grn) = &self.grn {
            let x = self.fc1.after(norm, x, self.act.into()); // [B, T, F]
            return self.fc2.add_to(residual, grn.forward(x), gamma);
        }
        match self.packed_after(norm) {
            Some(layers) => {
                let LayerNorm { weight, bias, .. } = norm;
                vitrum_kernels::norm_mlp_packed(x, weight.val(), bias.val(), &layers, residual, gamma)
            }
            None => self.add(residual, norm.forward(x), gamma),
        }
    }

    /// The norm and both layers, if both are packed and nothing else acts between them.
    pub(super) fn packed_after(&self, norm: &LayerNorm) -> Option<NormMlp> {
        if self.grn.is_some() {
            return None;
        }
        Some(NormMlp {
            fc1: self.fc1.packed()?.clone(),
            fc2: self.fc2.packed()?.clone(),
            activation: self.act.into(),
            eps: norm.eps,
        })
    }

    /// `[B, T, D] -> [B, T, D]`, in one operation unless dropout or a norm acts between the layers.
    ///
    /// # Panics
    /// If the width or the float type is not that of the weights, or a training step meets a prepared weight.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        if self.grn.is_some() || self.drop > 0.0 && training(&x) {
            let x = self.act.forward(self.fc1.forward(x)); // [B, T, F]
            let x = dropout(x, self.drop);
            let x = match &self.grn {
                Some(grn) => grn.forward(x),
                None => x,
            };
            return dropout(self.fc2.forward(x), self.drop); // [B, T, D]
        }
        if let Some([fc1, fc2]) = self.int8() {
            return vitrum_kernels::mlp_int8(x, fc1, fc2, self.act.into());
        }
        if self.fc1.prepared().is_some() || self.fc2.prepared().is_some() {
            return self.fc2.forward(self.act.forward(self.fc1.forward(x)));
        }
        let [(fc1, fc1_bias), (fc2, fc2_bias)] = [&self.fc1, &self.fc2].map(Linear::values);
        vitrum_kernels::mlp(x, fc1, fc1_bias, fc2, fc2_bias, self.act.into())
    }
}
