//! The MLP, applied to each token separately.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vitrum_kernels::{NormMlp, QuantizedWeight};

use super::Linear;
use super::drop::{dropout, training};
use super::norm::{GlobalResponseNorm, LayerNorm, NormConfig};
use super::swiglu::{SwiGlu, SwiGluConfig};

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
    /// Norm of the hidden layer after the non-linearity, over `F`.
    pub norm: Option<LayerNorm>,
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
            norm: None,
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

    /// With a norm of the hidden layer (sub-LN, arXiv:2210.06423).
    #[must_use]
    pub fn with_norm(self, norm: NormConfig, device: &Device) -> Self {
        let [hidden, _] = self.fc2.weight.lazy_shape().dims::<2>();
        Self { norm: Some(norm.build(hidden, device)), ..self }
    }

    /// Whether a norm acts on the hidden layer.
    fn norms_hidden(&self) -> bool {
        self.grn.is_some() || self.norm.is_some()
    }

    /// The norms of the hidden layer, `[B, T, F]`.
    fn normed(&self, x: Tensor<3>) -> Tensor<3> {
        let x = match &self.grn {
            Some(grn) => grn.forward(x),
            None => x,
        };
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// The weights of both layers, if both are int8 and no norm acts between them.
    fn int8(&self) -> Option<[&QuantizedWeight; 2]> {
        match self.norms_hidden() {
            true => None,
            false => Some([self.fc1.int8()?, self.fc2.int8()?]),
        }
    }

    /// `residual + gamma · forward(x)`, for inference: nothing is dropped.
    fn add(&self, residual: Tensor<3>, x: Tensor<3>, gamma: Option<Tensor<1>>) -> Tensor<3> {
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
        if self.norms_hidden() {
            let x = self.fc1.after(norm, x, self.act.into()); // [B, T, F]
            return self.fc2.add_to(residual, self.normed(x), gamma);
        }
        match (self.packed_after(norm), norm.gain_and_offset()) {
            (Some(layers), Some([gain, offset])) => {
                vitrum_kernels::norm_mlp_packed(x, gain, offset, &layers, residual, gamma)
            }
            _ => self.add(residual, norm.forward(x), gamma),
        }
    }

    /// The norm and both layers, if both are packed and nothing else acts between them.
    pub(super) fn packed_after(&self, norm: &LayerNorm) -> Option<NormMlp> {
        if self.norms_hidden() {
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
        if self.norms_hidden() || self.drop > 0.0 && training(&x) {
            let x = self.act.forward(self.fc1.forward(x)); // [B, T, F]
            let x = self.normed(dropout(x, self.drop));
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

/// The form of the MLP of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpLayer {
    /// Two layers with a non-linearity between (timm `Mlp`).
    #[default]
    Mlp,
    /// A product of two hidden layers with two weights (timm `SwiGLU`).
    Swiglu,
    /// The same with one weight (timm `SwiGLUPacked`).
    SwigluPacked,
}

/// How the MLP of a block is built.
#[derive(Clone, Copy, Debug)]
pub struct MlpConfig {
    /// The form.
    pub layer: MlpLayer,
    /// `F`: width of the hidden layer, after the product of a SwiGLU.
    pub hidden: usize,
    /// Non-linearity.
    pub act: Activation,
    /// A norm of the hidden layer (sub-LN).
    pub norm: bool,
}

impl MlpConfig {
    /// Two layers with GELU between.
    pub fn new(hidden: usize) -> Self {
        Self { layer: MlpLayer::Mlp, hidden, act: Activation::Gelu, norm: false }
    }
}

/// The MLP of a block.
// The size of a variant does not matter: a few dozen exist at most, beside megabytes of weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum BlockMlp {
    /// Two layers.
    Mlp(Mlp),
    /// A gated hidden layer.
    SwiGlu(SwiGlu),
}

impl BlockMlp {
    /// An MLP for tokens of width `dim`; `form` is that of a norm of the hidden layer.
    pub fn new(
        config: &MlpConfig,
        dim: usize,
        bias: bool,
        drop: f64,
        form: NormConfig,
        device: &Device,
    ) -> Self {
        let MlpConfig { layer, hidden, act, norm } = *config;
        if layer == MlpLayer::Mlp {
            let mlp = Mlp::new(dim, hidden, act, bias, drop, device);
            return Self::Mlp(if norm { mlp.with_norm(form, device) } else { mlp });
        }
        let is_packed = layer == MlpLayer::SwigluPacked;
        let norm = norm.then_some(form);
        Self::SwiGlu(SwiGlu::new(&SwiGluConfig { dim, hidden, is_packed, act, bias, drop, norm }, device))
    }

    /// `[B, T, D] -> [B, T, D]`.
    ///
    /// # Panics
    /// As [`Mlp::forward`].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Mlp(mlp) => mlp.forward(x),
            Self::SwiGlu(glu) => glu.forward(x),
        }
    }

    /// `residual + gamma · forward(norm(x))`, for inference: nothing is dropped.
    pub(super) fn add_after(
        &self,
        residual: Tensor<3>,
        norm: &LayerNorm,
        x: Tensor<3>,
        gamma: Option<Tensor<1>>,
    ) -> Tensor<3> {
        match self {
            Self::Mlp(mlp) => mlp.add_after(residual, norm, x, gamma),
            Self::SwiGlu(glu) => glu.add_after(residual, norm, x, gamma),
        }
    }

    /// The norm and both layers, if both are packed and nothing else acts between them.
    pub(super) fn packed_after(&self, norm: &LayerNorm) -> Option<NormMlp> {
        match self {
            Self::Mlp(mlp) => mlp.packed_after(norm),
            Self::SwiGlu(_) => None,
        }
    }

    /// The linear layers with their names in a block.
    pub fn linears(&self) -> Vec<(&'static str, &Linear)> {
        match self {
            Self::Mlp(Mlp { fc1, fc2, .. }) => vec![("mlp.fc1", fc1), ("mlp.fc2", fc2)],
            Self::SwiGlu(glu) => glu.linears(),
        }
    }

    /// [`linears`](BlockMlp::linears), mutable.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        match self {
            Self::Mlp(Mlp { fc1, fc2, .. }) => vec![("mlp.fc1", fc1), ("mlp.fc2", fc2)],
            Self::SwiGlu(glu) => glu.linears_mut(),
        }
    }
}
