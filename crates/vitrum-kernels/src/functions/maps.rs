//! Operations on maps with channels last, `[B, H·W, C]`, on tensors.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor, TensorData};

use super::activate;
use crate::activation::Activation;
use crate::check::{check_conv, check_fold, check_gate, check_map_norm, check_pool};
use crate::conv::{ConvForm, PackedConv};
use crate::device::{has_extension, has_fast_path, is_fast};
use crate::extension::{FoldedOps, MapOps};
use crate::gate::Squeeze;
use crate::map_norm::MapNorm;
use crate::pool::Pool;
use crate::reference::{
    conv_reference, gate_reference, map_norm_reference, pool_reference, squeeze_reference, statistics,
};
use crate::tensors::maybe;

/// A convolution of maps with channels last.
///
/// `x` is `[B, H·W, C]`, row by row, with H and W from the form. `weight` is `[kh, kw, C / groups, N]`, `bias` `[N]`.
/// Returns `[B, H'·W', N]` with the size of [`ConvForm::out`]. Equals [`conv_reference`]. Where a result would be
/// infinite it may be NaN.
///
/// # Panics
/// If a tensor has another shape or type, the kernel does not fit on the padded maps, a kernel, step or dilation is 0,
/// or a number of the form exceeds 2²⁴.
pub fn conv(
    x: Tensor<3>,
    weight: Tensor<4>,
    bias: impl Into<Option<Tensor<1>>>,
    form: ConvForm,
) -> Tensor<3> {
    let bias = bias.into();
    check_conv("conv", &x, weight.dims(), weight.dtype(), bias.as_ref(), &form);
    if !has_extension(&x.device()) {
        return conv_reference(x, weight, bias, form);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::vitrum_conv(x, weight, maybe(bias), form))
}

/// What follows a convolution: `activation(scale · y + shift + residual)`.
#[derive(Clone, Debug, Default)]
pub struct Folding {
    /// `[N]`; 1 if absent.
    pub scale: Option<Tensor<1>>,
    /// `[N]`; 0 if absent.
    pub shift: Option<Tensor<1>>,
    /// Like the result of the convolution.
    pub residual: Option<Tensor<3>>,
    /// The last step.
    pub activation: Activation,
}

/// A convolution with what follows it, for inference: a folded norm, the end of a residual branch, an activation. For
/// `x`, `weight` and `form` see [`conv`].
///
/// On the CPU without gradients it is one operation. Elsewhere it is [`conv`] and the steps one by one.
///
/// # Panics
/// As [`conv`], and if a tensor of the folding does not fit the result.
pub fn conv_folded(x: Tensor<3>, weight: Tensor<4>, form: ConvForm, folding: Folding) -> Tensor<3> {
    check_conv("conv_folded", &x, weight.dims(), weight.dtype(), None, &form);
    check_fold("conv_folded", &x, weight.dims()[3], &form, &folding);
    if !has_fast_path(&x.device(), x.dtype()) || x.device().is_autodiff() {
        return one_by_one(conv(x, weight, None, form), folding);
    }
    let Folding { scale, shift, residual, activation } = folding;
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::vitrum_conv_folded(
        x,
        weight,
        maybe(scale),
        maybe(shift),
        maybe(residual),
        form,
        activation,
    ))
}

/// [`conv_folded`] with a packed kernel. The results are the same, to the bit.
///
/// The fast path is for `f32` on the CPU without gradients. Elsewhere each call unpacks the kernel.
///
/// # Panics
/// As [`conv_folded`], and if the kernel was packed for another number of groups.
pub fn conv_packed(x: Tensor<3>, weight: &PackedConv, form: ConvForm, folding: Folding) -> Tensor<3> {
    assert_eq!(
        weight.groups(),
        form.groups,
        "conv_packed: the kernel was packed for another number of groups"
    );
    if !is_fast(&x) {
        let data = TensorData::new(weight.unpack(), weight.shape());
        let weight = Tensor::<4>::from_data(data, (&x.device(), DType::F32)).cast(x.dtype());
        return conv_folded(x, weight, form, folding);
    }
    check_conv("conv_packed", &x, weight.shape(), DType::F32, None, &form);
    check_fold("conv_packed", &x, weight.shape()[3], &form, &folding);
    let Folding { scale, shift, residual, activation } = folding;
    Tensor::from_dispatch(Dispatch::vitrum_conv_packed(
        x.into_dispatch(),
        weight.clone(),
        maybe(scale),
        maybe(shift),
        maybe(residual),
        form,
        activation,
    ))
}

fn one_by_one(y: Tensor<3>, folding: Folding) -> Tensor<3> {
    let Folding { scale, shift, residual, activation } = folding;
    let y = match scale {
        Some(scale) => y * scale.unsqueeze(),
        None => y,
    };
    let y = match shift {
        Some(shift) => y + shift.unsqueeze(),
        None => y,
    };
    let y = match residual {
        Some(residual) => y + residual,
        None => y,
    };
    activate(y, activation)
}

/// The maximum or the mean under a window that slides over maps `[B, H·W, C]`. Returns `[B, H'·W', C]` with the size of
/// [`ConvForm::out`]. Padding is -∞ for the maximum, and does not count in the mean. Equals [`pool_reference`].
///
/// # Panics
/// If the maps do not fit the form, a kernel or step is 0, a number of the form exceeds 2²⁴, the dilation is not 1, or a
/// window can lie outside the maps.
pub fn pool(x: Tensor<3>, form: ConvForm, pool: Pool) -> Tensor<3> {
    check_pool(&x, &form);
    if !has_extension(&x.device()) {
        return pool_reference(x, form, pool);
    }
    Tensor::from_dispatch(Dispatch::vitrum_pool(x.into_dispatch(), form, pool))
}

/// Batch normalisation with the statistics of this batch (arXiv:1502.03167): each channel of `[.., C]` over all rows,
/// then `weight`, `bias` and residual, then the rectification if `relu` is set.
///
/// Returns the result, and mean and biased variance of each channel, `[C]`, which carry no gradient. Without rows both
/// are 0. Equals [`map_norm_reference`].
///
/// # Panics
/// If a tensor has another shape or type.
pub fn batch_norm<const R: usize>(
    x: Tensor<R>,
    weight: impl Into<Option<Tensor<1>>>,
    bias: impl Into<Option<Tensor<1>>>,
    residual: Option<Tensor<R>>,
    eps: f64,
    relu: bool,
) -> (Tensor<R>, Tensor<1>, Tensor<1>) {
    let norm = MapNorm { groups: None, eps, relu };
    let (weight, bias) = (weight.into(), bias.into());
    check_map_norm(&x, weight.as_ref(), bias.as_ref(), residual.as_ref(), &norm);
    if !has_extension(&x.device()) {
        let c = x.dims()[R - 1];
        let (_, mean, var) = statistics(x.clone().detach(), &norm);
        let y = map_norm_reference(x, weight, bias, residual, norm);
        return (y, mean.reshape([c]), var.reshape([c]));
    }
    let (y, mean, var) =
        Dispatch::vitrum_map_norm(x.into_dispatch(), maybe(weight), maybe(bias), maybe(residual), norm);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(mean), Tensor::from_dispatch(var))
}

/// Group normalisation (arXiv:1803.08494): each group of channels of each map `[B, .., C]`, then `weight` and `bias`,
/// then the rectification if `relu` is set. Equals [`map_norm_reference`].
///
/// # Panics
/// If a tensor has another shape or type, x has a single axis or no channels, or the channels cannot be divided by
/// `groups`.
pub fn group_norm<const R: usize>(
    x: Tensor<R>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
    relu: bool,
) -> Tensor<R> {
    let norm = MapNorm { groups: Some(groups), eps, relu };
    check_map_norm(&x, Some(&weight), Some(&bias), None, &norm);
    if !has_extension(&x.device()) {
        return map_norm_reference(x, Some(weight), Some(bias), None, norm);
    }
    let (x, weight, bias) = (x.into_dispatch(), maybe(Some(weight)), maybe(Some(bias)));
    let (y, _, _) = Dispatch::vitrum_map_norm(x, weight, bias, maybe::<1>(None), norm);
    Tensor::from_dispatch(y)
}

/// `x · scale + shift`, plus x if `residual` is set: maps `[B, N, C]` with a number per map and channel, `scale`
/// `[B, C]`, and per channel, `shift` `[C]`. Equals [`gate_reference`].
///
/// # Panics
/// If a tensor has another shape or type.
pub fn gate(
    x: Tensor<3>,
    scale: Tensor<2>,
    shift: impl Into<Option<Tensor<1>>>,
    residual: bool,
) -> Tensor<3> {
    let shift = shift.into();
    check_gate(&x, &scale, shift.as_ref());
    if !has_extension(&x.device()) {
        return gate_reference(x, scale, shift, residual);
    }
    let (x, scale) = (x.into_dispatch(), scale.into_dispatch());
    Tensor::from_dispatch(Dispatch::vitrum_gate(x, scale, maybe(shift), residual))
}

/// The mean or the length of each channel of maps `[B, N, C]`. Returns `[B, C]`. Equals [`squeeze_reference`]. The
/// gradient of the length of a channel of zeros is 0, as in PyTorch.
pub fn squeeze(x: Tensor<3>, squeeze: Squeeze) -> Tensor<2> {
    if !has_extension(&x.device()) {
        return squeeze_reference(x, squeeze);
    }
    Tensor::from_dispatch(Dispatch::vitrum_squeeze(x.into_dispatch(), squeeze))
}
