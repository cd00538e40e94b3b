//! SwiGLU, Shazeer 2020 (arXiv:2002.05202): an MLP whose hidden layer is a product of two.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use vitrum_kernels::Activation::Identity;

use super::Linear;
use super::drop::{dropout, training};
use super::mlp::Activation;
use super::names::Flat;
use super::norm::{LayerNorm, NormConfig};

/// `fc2(norm(act(gate(x)) · value(x)))`; the activation is SiLU in SwiGLU. The norm is optional.
#[derive(Module, Debug)]
pub struct SwiGlu {
    /// `D -> F`, twice.
    pub input: Flat<GluInput>,
    /// Norm of the hidden layer, over `F`.
    pub norm: Option<LayerNorm>,
    /// `F -> D`.
    pub fc2: Linear,
    #[module(skip)]
    act: Activation,
    drop: f64,
}

/// The two products of the hidden layer.
// The size of a variant does not matter: a few dozen exist at most, beside megabytes of weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum GluInput {
    /// In one weight.
    Packed(PackedGlu),
    /// In two.
    Separate(SeparateGlu),
}

/// Both products in one weight (timm `GluMlp`).
#[derive(Module, Debug)]
pub struct PackedGlu {
    /// `D -> 2F`: the gate, then the value.
    pub fc1: Linear,
}

/// Two weights (timm `SwiGLU`).
#[derive(Module, Debug)]
pub struct SeparateGlu {
    /// The gate, `D -> F`.
    pub fc1_g: Linear,
    /// The value, `D -> F`.
    pub fc1_x: Linear,
}

/// Sizes and options of a [`SwiGlu`].
#[derive(Clone, Copy, Debug)]
pub struct SwiGluConfig {
    /// `D`.
    pub dim: usize,
    /// `F`.
    pub hidden: usize,
    /// Whether one weight holds both products.
    pub is_packed: bool,
    /// Activation of the gate.
    pub act: Activation,
    /// Bias on every product.
    pub bias: bool,
    /// Dropout after each layer.
    pub drop: f64,
    /// The norm of the hidden layer, if there is one.
    pub norm: Option<NormConfig>,
}

impl SwiGlu {
    /// A SwiGLU of these sizes.
    pub fn new(config: &SwiGluConfig, device: &Device) -> Self {
        let SwiGluConfig { dim, hidden, is_packed, act, bias, drop, norm } = *config;
        let linear = |d_out| Linear::new(dim, d_out, bias, device);
        let input = match is_packed {
            true => GluInput::Packed(PackedGlu { fc1: linear(2 * hidden) }),
            false => GluInput::Separate(SeparateGlu { fc1_g: linear(hidden), fc1_x: linear(hidden) }),
        };
        Self {
            input: Flat::new(input),
            norm: norm.map(|norm| norm.build(hidden, device)),
            fc2: Linear::new(hidden, dim, bias, device),
            act,
            drop,
        }
    }

    /// `[B, T, D] -> [B, T, D]`.
    ///
    /// # Panics
    /// If the width or the float type is not that of the weights, or a training step meets a prepared weight.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let is_dropping = self.drop > 0.0 && training(&x);
        let [gate, value] = match &*self.input {
            GluInput::Packed(PackedGlu { fc1 }) => halves(fc1.forward(x)),
            GluInput::Separate(SeparateGlu { fc1_g, fc1_x }) => {
                [fc1_g, fc1_x].map(|fc| fc.forward(x.clone()))
            }
        };
        let x = self.act.forward(gate) * value; // [B, T, F]
        let x = self.normed(if is_dropping { dropout(x, self.drop) } else { x });
        dropout(self.fc2.forward(x), self.drop) // [B, T, D]
    }

    /// `residual + gamma · forward(norm(x))`, for inference: nothing is dropped.
    pub(super) fn add_after(
        &self,
        residual: Tensor<3>,
        norm: &LayerNorm,
        x: Tensor<3>,
        gamma: Option<Tensor<1>>,
    ) -> Tensor<3> {
        let x = match &*self.input {
            GluInput::Packed(PackedGlu { fc1 }) => {
                let [gate, value] = halves(fc1.after(norm, x, Identity));
                self.act.forward(gate) * value
            }
            GluInput::Separate(SeparateGlu { fc1_g, fc1_x }) if fc1_g.packed().is_some() => {
                fc1_g.after(norm, x.clone(), self.act.into()) * fc1_x.after(norm, x, Identity)
            }
            GluInput::Separate(SeparateGlu { fc1_g, fc1_x }) => {
                let x = norm.forward(x);
                self.act.forward(fc1_g.forward(x.clone())) * fc1_x.forward(x)
            }
        };
        self.fc2.add_to(residual, self.normed(x), gamma)
    }

    fn normed(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// The linear layers with their names in a block.
    pub fn linears(&self) -> Vec<(&'static str, &Linear)> {
        let mut layers = match &*self.input {
            GluInput::Packed(PackedGlu { fc1 }) => vec![("mlp.fc1", fc1)],
            GluInput::Separate(SeparateGlu { fc1_g, fc1_x }) => {
                vec![("mlp.fc1_g", fc1_g), ("mlp.fc1_x", fc1_x)]
            }
        };
        layers.push(("mlp.fc2", &self.fc2));
        layers
    }

    /// [`linears`](SwiGlu::linears), mutable.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let mut layers = match &mut *self.input {
            GluInput::Packed(PackedGlu { fc1 }) => vec![("mlp.fc1", fc1)],
            GluInput::Separate(SeparateGlu { fc1_g, fc1_x }) => {
                vec![("mlp.fc1_g", fc1_g), ("mlp.fc1_x", fc1_x)]
            }
        };
        layers.push(("mlp.fc2", &mut self.fc2));
        layers
    }
}

/// The first and the second half of the last dimension.
fn halves(x: Tensor<3>) -> [Tensor<3>; 2] {
    let half = x.dims()[2] / 2;
    [x.clone().narrow(2, 0, half), x.narrow(2, half, half)]
}
