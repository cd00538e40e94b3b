//! The fast paths of the CPU backend.

use burn::backend::{Flex, tensor::FloatTensor};
use burn::tensor::DType;

use super::{MapOps, portable};
use crate::conv::{self, ConvForm};
use crate::gate::{self, Squeeze};
use crate::linear::{LinearGradients, LinearWants};
use crate::map_norm::{self, MapNorm, MapNormGradients, Normed, Saved};
use crate::pool::{self, Pool};
use crate::tensors::{Maybe, contiguous};

impl MapOps for Flex {
    fn vitrum_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        form: ConvForm,
    ) -> FloatTensor<Self> {
        let bias = bias.into_option().map(contiguous);
        let forward = match x.dtype() {
            DType::F32 => conv::forward::<f32>,
            DType::F64 => conv::forward::<f64>,
            _ => return conv::portable::forward::<Self>(x, weight, bias, form),
        };
        forward(&contiguous(x), &contiguous(weight), bias.as_ref(), form)
    }

    fn vitrum_conv_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        form: ConvForm,
        wants: LinearWants,
    ) -> LinearGradients<FloatTensor<Self>> {
        let backward = match x.dtype() {
            DType::F32 => conv::backward::<f32>,
            DType::F64 => conv::backward::<f64>,
            _ => return conv::portable::backward::<Self>(x, weight, grad, form, wants),
        };
        let [x, weight, grad] = [x, weight, grad].map(contiguous);
        backward(&x, &weight, &grad, form, wants)
    }

    fn vitrum_pool(x: FloatTensor<Self>, form: ConvForm, pool: Pool) -> FloatTensor<Self> {
        match x.dtype() {
            DType::F32 => pool::forward::<f32>(&contiguous(x), form, pool),
            DType::F64 => pool::forward::<f64>(&contiguous(x), form, pool),
            _ => portable::pool::<Self>(x, form, pool),
        }
    }

    fn vitrum_pool_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        form: ConvForm,
        pool: Pool,
    ) -> FloatTensor<Self> {
        let backward = match x.dtype() {
            DType::F32 => pool::backward::<f32>,
            DType::F64 => pool::backward::<f64>,
            _ => return portable::pool_backward::<Self>(x, grad, form, pool),
        };
        backward(&contiguous(x), &contiguous(grad), form, pool)
    }

    fn vitrum_map_norm(
        x: FloatTensor<Self>,
        weight: Maybe<Self>,
        bias: Maybe<Self>,
        residual: Maybe<Self>,
        norm: MapNorm,
    ) -> Normed<FloatTensor<Self>> {
        let [weight, bias, residual] =
            [weight, bias, residual].map(|part| part.into_option().map(contiguous));
        let forward = match x.dtype() {
            DType::F32 => map_norm::forward::<f32>,
            DType::F64 => map_norm::forward::<f64>,
            _ => return portable::map_norm::<Self>(x, weight, bias, residual, norm),
        };
        forward(&contiguous(x), weight.as_ref(), bias.as_ref(), residual.as_ref(), norm)
    }

    fn vitrum_map_norm_backward(
        x: FloatTensor<Self>,
        weight: Maybe<Self>,
        y: Maybe<Self>,
        mean: FloatTensor<Self>,
        var: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        norm: MapNorm,
        residual: bool,
    ) -> MapNormGradients<FloatTensor<Self>> {
        let [weight, y] = [weight, y].map(|part| part.into_option().map(contiguous));
        let backward = match x.dtype() {
            DType::F32 => map_norm::backward::<f32>,
            DType::F64 => map_norm::backward::<f64>,
            _ => {
                return portable::map_norm_backward::<Self>(x, weight, y, [mean, var], grad, norm, residual);
            }
        };
        let [x, mean, var, grad] = [x, mean, var, grad].map(contiguous);
        let (weight, y) = (weight.as_ref(), y.as_ref());
        backward(&Saved { x: &x, weight, y, mean: &mean, var: &var, grad: &grad }, norm, residual)
    }

    fn vitrum_gate(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: Maybe<Self>,
        residual: bool,
    ) -> FloatTensor<Self> {
        let shift = shift.into_option().map(contiguous);
        let forward = match x.dtype() {
            DType::F32 => gate::forward::<f32>,
            DType::F64 => gate::forward::<f64>,
            _ => return portable::gate::<Self>(x, scale, shift, residual),
        };
        forward(&contiguous(x), &contiguous(scale), shift.as_ref(), residual)
    }

    fn vitrum_gate_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        residual: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let backward = match x.dtype() {
            DType::F32 => gate::backward::<f32>,
            DType::F64 => gate::backward::<f64>,
            _ => return portable::gate_backward::<Self>(x, scale, grad, residual),
        };
        let [x, scale, grad] = [x, scale, grad].map(contiguous);
        backward(&x, &scale, &grad, residual)
    }

    fn vitrum_squeeze(x: FloatTensor<Self>, squeeze: Squeeze) -> FloatTensor<Self> {
        match x.dtype() {
            DType::F32 => gate::squeeze::<f32>(&contiguous(x), squeeze),
            DType::F64 => gate::squeeze::<f64>(&contiguous(x), squeeze),
            _ => portable::squeeze::<Self>(x, squeeze),
        }
    }

    fn vitrum_squeeze_backward(
        x: FloatTensor<Self>,
        squeezed: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        squeeze: Squeeze,
    ) -> FloatTensor<Self> {
        let backward = match x.dtype() {
            DType::F32 => gate::squeeze_backward::<f32>,
            DType::F64 => gate::squeeze_backward::<f64>,
            _ => return portable::squeeze_backward::<Self>(x, squeezed, grad, squeeze),
        };
        let [x, squeezed, grad] = [x, squeezed, grad].map(contiguous);
        backward(&x, &squeezed, &grad, squeeze)
    }
}
