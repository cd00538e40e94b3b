//! Layers with packed weights, and rotations, as an extension of the CPU backend. They are for inference.

use burn::backend::{Backend, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};

use crate::activation::Activation;
use crate::attention::{self, AttentionForm, AttentionInputs, Operands};
use crate::linear::{rows_of, with_last};
use crate::packed::{self, AfterAttention, Branches, MlpBranch, Norm, NormMlp, PackedWeight};
use crate::rotate::{self, Turn};
use crate::simd::Real;
use crate::tensors::{Maybe, contiguous};

/// Layers with packed weights, and rotations.
#[backend_extension(Flex)]
pub trait PackedOps: Backend {
    /// See [`linear_packed`](crate::linear_packed) and [`linear_add_packed`](crate::linear_add_packed).
    fn vitrum_linear_packed(
        x: FloatTensor<Self>,
        weight: PackedWeight,
        #[extension_type] residual: Maybe<Self>,
        #[extension_type] gamma: Maybe<Self>,
    ) -> FloatTensor<Self>;

    /// See [`norm_linear_packed`](crate::norm_linear_packed).
    fn vitrum_norm_linear_packed(
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        eps: f64,
        weight: PackedWeight,
        activation: Activation,
    ) -> FloatTensor<Self>;

    /// See [`norm_mlp_packed`](crate::norm_mlp_packed).
    fn vitrum_norm_mlp_packed(
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        layers: NormMlp,
        residual: FloatTensor<Self>,
        #[extension_type] gamma: Maybe<Self>,
    ) -> FloatTensor<Self>;

    /// See [`after_attention_packed`](crate::after_attention_packed).
    fn vitrum_after_attention_packed(
        context: FloatTensor<Self>,
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        layers: AfterAttention,
        #[extension_type] gamma1: Maybe<Self>,
        #[extension_type] gamma2: Maybe<Self>,
    ) -> FloatTensor<Self>;

    /// See [`rotate`](crate::rotate); all tensors are `f32`.
    fn vitrum_rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        half: bool,
    ) -> FloatTensor<Self>;

    /// See [`attention_bf16`](crate::attention_bf16).
    fn vitrum_attention_bf16(
        #[extension_type] inputs: AttentionInputs<Self>,
        form: AttentionForm,
    ) -> FloatTensor<Self>;
}

impl PackedOps for Flex {
    fn vitrum_linear_packed(
        x: FloatTensor<Self>,
        weight: PackedWeight,
        residual: Maybe<Self>,
        gamma: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let x = contiguous(x);
        let [residual, gamma] = [residual, gamma].map(|part| part.into_option().map(contiguous));
        let [residual, gamma] = [&residual, &gamma].map(|part| part.as_ref().map(f32::slice));
        let shape = x.shape();
        let y = packed::linear(f32::slice(&x), rows_of(&shape), &weight, residual, gamma);
        f32::tensor(y, with_last(&shape, weight.shape()[1]))
    }

    fn vitrum_norm_linear_packed(
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        eps: f64,
        weight: PackedWeight,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let [x, norm_weight, norm_bias] = [x, norm_weight, norm_bias].map(contiguous);
        let norm = Norm::new(&norm_weight, &norm_bias, eps);
        let shape = x.shape();
        let y = packed::norm_linear(f32::slice(&x), rows_of(&shape), norm, &weight, activation);
        f32::tensor(y, with_last(&shape, weight.shape()[1]))
    }

    fn vitrum_norm_mlp_packed(
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        layers: NormMlp,
        residual: FloatTensor<Self>,
        gamma: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let [x, norm_weight, norm_bias, residual] = [x, norm_weight, norm_bias, residual].map(contiguous);
        let gamma = gamma.into_option().map(contiguous);
        let branch = MlpBranch {
            norm: Norm::new(&norm_weight, &norm_bias, layers.eps),
            gamma: gamma.as_ref().map(f32::slice),
            layers: &layers,
        };
        let shape = x.shape();
        f32::tensor(branch.run(f32::slice(&x), f32::slice(&residual), rows_of(&shape)), shape)
    }

    fn vitrum_after_attention_packed(
        context: FloatTensor<Self>,
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        layers: AfterAttention,
        gamma1: Maybe<Self>,
        gamma2: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let [context, x, norm_weight, norm_bias] = [context, x, norm_weight, norm_bias].map(contiguous);
        let gammas = [gamma1, gamma2].map(|gamma| gamma.into_option().map(contiguous));
        let [gamma1, gamma2] = gammas.each_ref().map(|gamma| gamma.as_ref().map(f32::slice));
        let AfterAttention { proj, mlp } = &layers;
        let norm = Norm::new(&norm_weight, &norm_bias, mlp.eps);
        let mlp = MlpBranch { layers: mlp, norm, gamma: gamma2 };
        let shape = x.shape();
        let branches = Branches { proj, gamma: gamma1, mlp };
        f32::tensor(branches.run(f32::slice(&context), f32::slice(&x), rows_of(&shape)), shape)
    }

    fn vitrum_rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        half: bool,
    ) -> FloatTensor<Self> {
        let [x, cos, sin] = [x, cos, sin].map(contiguous);
        let (shape, factors) = (x.shape(), cos.shape());
        let (width, [own, head]) = (shape[2], [factors[2], factors[3]]);
        let heads = width / 3 * 2 / head;
        let turn = Turn { tokens: shape[1], width, heads, head, own: own > 1, half };
        f32::tensor(rotate::forward(f32::slice(&x), f32::slice(&cos), f32::slice(&sin), turn), shape)
    }

    fn vitrum_attention_bf16(inputs: AttentionInputs<Self>, form: AttentionForm) -> FloatTensor<Self> {
        attention::forward_bf16(&Operands::new(inputs, form))
    }
}
