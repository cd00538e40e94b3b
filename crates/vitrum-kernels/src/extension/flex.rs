//! The fast paths of the CPU backend.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Flex, tensor::FloatTensor};
use burn::tensor::DType;

use super::VitrumOps;
use crate::activation::{self, Activation};
use crate::attention::{self, AttentionForm, AttentionInputs, Operands, Saved};
use crate::linear::{self, LinearWants};
use crate::mlp::{self, MlpWants};
use crate::tensors::{Maybe, contiguous};
use crate::{layer_norm, patch_embed, portable, unit_heads};

impl VitrumOps for Flex {
    fn vitrum_attention(
        inputs: AttentionInputs<Self>,
        form: AttentionForm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let forward = match inputs.dtype() {
            DType::F32 => attention::forward::<f32>,
            DType::F64 => attention::forward::<f64>,
            _ => return attention::portable::attention::<Self>(inputs, form),
        };
        forward(&Operands::new(inputs, form))
    }

    fn vitrum_attention_backward(
        inputs: AttentionInputs<Self>,
        context: FloatTensor<Self>,
        max: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        form: AttentionForm,
        want_bias: bool,
    ) -> (Vec<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        let backward = match inputs.dtype() {
            DType::F32 => attention::backward::<f32>,
            DType::F64 => attention::backward::<f64>,
            _ => return attention::portable::attention_backward::<Self>(inputs, grad, form, want_bias),
        };
        let [context, max, norm, grad] = [context, max, norm, grad].map(contiguous);
        backward(&Operands::new(inputs, form), &Saved { context, max, norm, grad }, want_bias)
    }

    fn vitrum_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        eps: f64,
        centred: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let bias = bias.into_option().map(contiguous);
        let forward = match x.dtype() {
            DType::F32 => layer_norm::forward::<f32>,
            DType::F64 => layer_norm::forward::<f64>,
            _ => return portable::layer_norm::<Self>(x, weight, bias, eps, centred),
        };
        forward(&contiguous(x), &contiguous(weight), bias.as_ref(), eps, centred)
    }

    fn vitrum_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        centred: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let backward = match x.dtype() {
            DType::F32 => layer_norm::backward::<f32>,
            DType::F64 => layer_norm::backward::<f64>,
            _ => return portable::layer_norm_backward::<Self>(x, weight, mean, rstd, grad, centred),
        };
        let [x, weight, mean, rstd, grad] = [x, weight, mean, rstd, grad].map(contiguous);
        backward(&x, &weight, &mean, &rstd, &grad, centred)
    }

    fn vitrum_unit_heads(qkv: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self> {
        let forward = match qkv.dtype() {
            DType::F32 => unit_heads::forward::<f32>,
            DType::F64 => unit_heads::forward::<f64>,
            _ => return portable::unit_heads::<Self>(qkv, scale),
        };
        forward(&contiguous(qkv), &contiguous(scale))
    }

    fn vitrum_unit_heads_backward(
        qkv: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let backward = match qkv.dtype() {
            DType::F32 => unit_heads::backward::<f32>,
            DType::F64 => unit_heads::backward::<f64>,
            _ => return portable::unit_heads_backward::<Self>(qkv, scale, grad),
        };
        backward(&contiguous(qkv), &contiguous(scale), &contiguous(grad))
    }

    fn vitrum_activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        match x.dtype() {
            DType::F32 => activation::forward::<f32>(&contiguous(x), activation),
            DType::F64 => activation::forward::<f64>(&contiguous(x), activation),
            _ => portable::activate::<Self>(x, activation),
        }
    }

    fn vitrum_activate_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let backward = match x.dtype() {
            DType::F32 => activation::backward::<f32>,
            DType::F64 => activation::backward::<f64>,
            _ => {
                let (_, derivative) = portable::with_derivative::<Self>(x, activation);
                return <Self as FloatTensorOps<Self>>::float_mul(grad, derivative);
            }
        };
        backward(&contiguous(x), &contiguous(grad), activation)
    }

    fn vitrum_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        residual: Maybe<Self>,
        gamma: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let [bias, residual, gamma] = [bias, residual, gamma].map(|it| it.into_option().map(contiguous));
        let forward = match x.dtype() {
            DType::F32 => linear::forward::<f32>,
            DType::F64 => linear::forward::<f64>,
            _ => return portable::linear_add::<Self>(x, weight, bias, residual, gamma),
        };
        let [x, weight] = [x, weight].map(contiguous);
        forward(&x, &weight, bias.as_ref(), residual.as_ref(), gamma.as_ref())
    }

    fn vitrum_linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        wants: LinearWants,
    ) -> linear::LinearGradients<FloatTensor<Self>> {
        let backward = match x.dtype() {
            DType::F32 => linear::backward::<f32>,
            DType::F64 => linear::backward::<f64>,
            _ => return portable::linear_backward::<Self>(x, weight, grad, wants),
        };
        let [x, weight, grad] = [x, weight, grad].map(contiguous);
        backward(&x, &weight, &grad, wants)
    }

    fn vitrum_patch_embed(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let bias = bias.into_option().map(contiguous);
        let forward = match images.dtype() {
            DType::F32 => patch_embed::forward::<f32>,
            DType::F64 => patch_embed::forward::<f64>,
            _ => return portable::patch_embed::<Self>(images, weight, bias),
        };
        let [images, weight] = [images, weight].map(contiguous);
        forward(&images, &weight, bias.as_ref())
    }

    fn vitrum_patch_embed_backward(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        wants: LinearWants,
    ) -> linear::LinearGradients<FloatTensor<Self>> {
        let backward = match images.dtype() {
            DType::F32 => patch_embed::backward::<f32>,
            DType::F64 => patch_embed::backward::<f64>,
            _ => return portable::patch_embed_backward::<Self>(images, weight, grad, wants),
        };
        let [images, weight, grad] = [images, weight, grad].map(contiguous);
        backward(&images, &weight, &grad, wants)
    }

    fn vitrum_mlp(
        x: FloatTensor<Self>,
        fc1_weight: FloatTensor<Self>,
        fc1_bias: Maybe<Self>,
        fc2_weight: FloatTensor<Self>,
        fc2_bias: Maybe<Self>,
        activation: Activation,
        keep: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let [fc1_bias, fc2_bias] = [fc1_bias, fc2_bias].map(|bias| bias.into_option().map(contiguous));
        let forward = match x.dtype() {
            DType::F32 => mlp::forward::<f32>,
            DType::F64 => mlp::forward::<f64>,
            _ => {
                let (fc1, fc2) = ((fc1_weight, fc1_bias), (fc2_weight, fc2_bias));
                return portable::mlp::<Self>(x, fc1, fc2, activation, keep);
            }
        };
        let [x, fc1, fc2] = [x, fc1_weight, fc2_weight].map(contiguous);
        forward(&x, (&fc1, fc1_bias.as_ref()), (&fc2, fc2_bias.as_ref()), activation, keep)
    }

    fn vitrum_mlp_backward(
        x: FloatTensor<Self>,
        fc1_weight: FloatTensor<Self>,
        fc2_weight: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
        wants: MlpWants,
    ) -> mlp::MlpGradients<FloatTensor<Self>> {
        let backward = match x.dtype() {
            DType::F32 => mlp::backward::<f32>,
            DType::F64 => mlp::backward::<f64>,
            _ => {
                return portable::mlp_backward::<Self>(
                    x, fc1_weight, fc2_weight, kept, grad, activation, wants,
                );
            }
        };
        let [x, fc1, fc2, kept, grad] = [x, fc1_weight, fc2_weight, kept, grad].map(contiguous);
        backward(&x, &fc1, &fc2, &kept, &grad, activation, wants)
    }
}
