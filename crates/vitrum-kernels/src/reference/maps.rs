//! The definitions of the operations on maps with channels last, `[B, H·W, C]`.

use burn::tensor::module::{avg_pool2d, conv2d, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions, PadMode};
use burn::tensor::{Tensor, activation};

use crate::check::{check_conv, check_gate, check_map_norm, check_pool};
use crate::conv::ConvForm;
use crate::gate::Squeeze;
use crate::map_norm::MapNorm;
use crate::pool::Pool;

/// `[B, H·W, C]` as `[B, C, H, W]`.
fn channels_first(x: Tensor<3>, [h, w]: [usize; 2]) -> Tensor<4> {
    let [b, _, c] = x.dims();
    x.swap_dims(1, 2).reshape([b, c, h, w])
}

/// `[B, C, H, W]` as `[B, H·W, C]`.
fn channels_last(x: Tensor<4>) -> Tensor<3> {
    let [b, c, h, w] = x.dims();
    x.reshape([b, c, h * w]).swap_dims(1, 2)
}

/// Maps `[B, C, H, W]` with a value around them.
fn padded(x: Tensor<4>, form: &ConvForm, value: f32) -> Tensor<4> {
    let ConvForm { before: [top, left], after: [bottom, right], .. } = *form;
    x.pad((left, right, top, bottom), PadMode::Constant(value))
}

/// A convolution of maps `x` `[B, H·W, C]` with a kernel `[kh, kw, C / groups, N]` and a bias `[N]`. Returns
/// `[B, H'·W', N]`.
///
/// # Panics
/// As [`conv`](crate::conv).
pub fn conv_reference(x: Tensor<3>, weight: Tensor<4>, bias: Option<Tensor<1>>, form: ConvForm) -> Tensor<3> {
    check_conv("conv", &x, weight.dims(), weight.dtype(), bias.as_ref(), &form);
    let x = padded(channels_first(x, form.grid), &form, 0.0);
    let options = ConvOptions::new(form.stride, [0, 0], form.dilation, form.groups);
    channels_last(conv2d(x, weight.permute([3, 2, 0, 1]), bias, options))
}

/// The maximum or the mean under a window. Returns `[B, H'·W', C]`.
///
/// # Panics
/// As [`pool`](crate::pool).
pub fn pool_reference(x: Tensor<3>, form: ConvForm, pool: Pool) -> Tensor<3> {
    check_pool(&x, &form);
    let maps = channels_first(x, form.grid);
    let (kernel_size, stride) = (form.kernel, form.stride);
    channels_last(match pool {
        Pool::Max => {
            let maps = padded(maps, &form, f32::NEG_INFINITY);
            max_pool2d(maps, MaxPoolOptions { stride, ..MaxPoolOptions::new(kernel_size) })
        }
        Pool::Avg => {
            let options = || AvgPoolOptions { stride, ..AvgPoolOptions::new(kernel_size) };
            let share = |maps| avg_pool2d(padded(maps, &form, 0.0), options());
            let ones = Tensor::ones(maps.dims(), (&maps.device(), maps.dtype()));
            share(maps) / share(ones)
        }
    })
}

/// `relu((x - mean) / sqrt(var + eps) · weight + bias + residual)` of maps `[.., C]`, with the mean and the biased
/// variance of each channel over all rows, or of each group of channels in each entry of the first axis.
///
/// # Panics
/// As [`batch_norm`](crate::batch_norm).
pub fn map_norm_reference<const R: usize>(
    x: Tensor<R>,
    weight: Option<Tensor<1>>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<R>>,
    norm: MapNorm,
) -> Tensor<R> {
    check_map_norm(&x, weight.as_ref(), bias.as_ref(), residual.as_ref(), &norm);
    let shape = x.dims();
    let (centred, _, var) = statistics(x, &norm);
    let sets = centred.dims();
    let mut y = centred / (var + norm.eps).sqrt();
    let beside = |vector: Tensor<1>| vector.reshape([1, 1, sets[2], sets[3]]);
    if let Some(weight) = weight {
        y = y * beside(weight);
    }
    if let Some(bias) = bias {
        y = y + beside(bias);
    }
    let mut y: Tensor<R> = y.reshape(shape);
    if let Some(residual) = residual {
        y = y + residual;
    }
    if norm.relu { activation::relu(y) } else { y }
}

/// Maps `[.., C]` as `[maps, positions, groups, channels of a group]` without their mean, with the mean and the biased
/// variance over positions and channels of a group.
pub(crate) fn statistics<const R: usize>(x: Tensor<R>, norm: &MapNorm) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let shape = x.dims();
    let c = shape[R - 1];
    let rows = shape.iter().product::<usize>() / c.max(1);
    let x: Tensor<4> = x.reshape(match norm.groups {
        None => [1, rows, c, 1],
        Some(groups) => [shape[0], rows / shape[0].max(1), groups, c / groups],
    });
    let mean = |x: Tensor<4>| x.mean_dim(1).mean_dim(3);
    let center = mean(x.clone());
    let centred = x - center.clone();
    let var = mean(centred.clone() * centred.clone());
    (centred, center, var)
}

/// `x · scale + shift`, plus x if `residual` is set: maps `[B, N, C]`, `scale` `[B, C]`, `shift` `[C]`.
///
/// # Panics
/// As [`gate`](crate::gate).
pub fn gate_reference(x: Tensor<3>, scale: Tensor<2>, shift: Option<Tensor<1>>, residual: bool) -> Tensor<3> {
    check_gate(&x, &scale, shift.as_ref());
    let y = x.clone() * scale.unsqueeze_dim(1);
    let y = match shift {
        Some(shift) => y + shift.unsqueeze(),
        None => y,
    };
    if residual { y + x } else { y }
}

/// The mean or the length of each channel of maps `[B, N, C]`. Returns `[B, C]`.
pub fn squeeze_reference(x: Tensor<3>, squeeze: Squeeze) -> Tensor<2> {
    let numbers: Tensor<3> = match squeeze {
        Squeeze::Mean => x.mean_dim(1),
        Squeeze::Length => (x.clone() * x).sum_dim(1).sqrt(),
    };
    numbers.squeeze_dim(1)
}
