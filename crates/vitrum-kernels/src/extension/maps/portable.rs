//! Operations on maps in the primitive operations of any backend.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{IntDType, Shape, Slice};

use crate::conv::ConvForm;
use crate::conv::portable::{channels_first, channels_last};
use crate::gate::Squeeze;
use crate::map_norm::{MapNorm, MapNormGradients, Normed};
use crate::pool::Pool;
use crate::portable::{deviations, in_type, wide};

fn full<B: Backend>(like: &FloatTensor<B>, shape: Shape, value: f64) -> FloatTensor<B> {
    B::float_full(shape, value.into(), &like.device(), like.dtype().into())
}

/// Maps `[B, C, H, W]` with a value around them.
fn padded<B: Backend>(x: FloatTensor<B>, form: &ConvForm, value: f64) -> FloatTensor<B> {
    let shape = x.shape();
    let [h, w] = [0, 1].map(|axis| form.grid[axis] + form.before[axis] + form.after[axis]);
    let all = full::<B>(&x, Shape::new([shape[0], shape[1], h, w]), value);
    B::float_slice_assign(all, &inside(form), x)
}

/// The maps within the padded ones.
fn inside(form: &ConvForm) -> [Slice; 4] {
    let [y, x] = [0, 1].map(|axis| {
        let from = form.before[axis] as isize;
        Slice::new(from, Some(from + form.grid[axis] as isize), 1)
    });
    [Slice::full(), Slice::full(), y, x]
}

/// The share of each window that lies on the maps, `[1, 1, H', W']`.
fn share_inside<B: Backend>(like: &FloatTensor<B>, form: &ConvForm) -> FloatTensor<B> {
    let ones = full::<B>(like, Shape::new([1, 1, form.grid[0], form.grid[1]]), 1.0);
    B::avg_pool2d(padded::<B>(ones, form, 0.0), form.kernel, form.stride, [0, 0], true, false)
}

pub(crate) fn pool<B: Backend>(x: FloatTensor<B>, form: ConvForm, pool: Pool) -> FloatTensor<B> {
    let x = channels_first::<B>(x, form.grid);
    channels_last::<B>(match pool {
        Pool::Max => {
            let padded = padded::<B>(x, &form, f64::NEG_INFINITY);
            B::max_pool2d(padded, form.kernel, form.stride, [0, 0], form.dilation, false)
        }
        Pool::Avg => {
            let share = share_inside::<B>(&x, &form);
            let mean =
                B::avg_pool2d(padded::<B>(x, &form, 0.0), form.kernel, form.stride, [0, 0], true, false);
            B::float_div(mean, share)
        }
    })
}

pub(crate) fn pool_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    form: ConvForm,
    pool: Pool,
) -> FloatTensor<B> {
    let (x, grad) = (channels_first::<B>(x, form.grid), channels_first::<B>(grad, form.out()));
    let d_padded = match pool {
        Pool::Max => {
            let x = padded::<B>(x, &form, f64::NEG_INFINITY);
            let (kernel, stride, dilation) = (form.kernel, form.stride, form.dilation);
            let found =
                B::max_pool2d_with_indices(x.clone(), kernel, stride, [0, 0], dilation, false, IntDType::I64);
            let indices = found.indices;
            B::max_pool2d_with_indices_backward(x, kernel, stride, [0, 0], dilation, false, grad, indices)
                .x_grad
        }
        Pool::Avg => {
            let grad = B::float_div(grad, share_inside::<B>(&x, &form));
            let x = padded::<B>(x, &form, 0.0);
            B::avg_pool2d_backward(x, grad, form.kernel, form.stride, [0, 0], true, false)
        }
    };
    channels_last::<B>(B::float_slice(d_padded, &inside(&form)))
}

/// Maps as `[maps, positions, groups, channels of a group]`. Statistics go over positions and the channels of a group.
/// A norm over the batch has one map, and a group per channel.
fn in_sets(shape: &Shape, norm: &MapNorm) -> Shape {
    let rank = shape.num_dims();
    let c = shape[rank - 1];
    let rows = shape.num_elements().checked_div(c).unwrap_or(0);
    match norm.groups {
        None => Shape::new([1, rows, c, 1]),
        Some(groups) => {
            Shape::new([shape[0], rows.checked_div(shape[0]).unwrap_or(0), groups, c / groups.max(1)])
        }
    }
}

fn mean_of_sets<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mean_dim(B::float_mean_dim(x, 1), 3)
}

/// A vector `[C]` beside maps in sets.
fn beside<B: Backend>(vector: FloatTensor<B>, sets: &Shape) -> FloatTensor<B> {
    B::float_reshape(vector, Shape::new([1, 1, sets[2], sets[3]]))
}

pub(crate) fn map_norm<B: Backend>(
    x: FloatTensor<B>,
    weight: Option<FloatTensor<B>>,
    bias: Option<FloatTensor<B>>,
    residual: Option<FloatTensor<B>>,
    norm: MapNorm,
) -> Normed<FloatTensor<B>> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let (x, weight, bias) = (wide::<B>(x), weight.map(wide::<B>), bias.map(wide::<B>));
    let sets = in_sets(&shape, &norm);
    let x = B::float_reshape(x, sets.clone());
    let mean = mean_of_sets::<B>(x.clone());
    let centred = deviations::<B>(x, mean.clone(), &[1, 3]);
    let var = mean_of_sets::<B>(B::float_mul(centred.clone(), centred.clone()));
    let rstd = B::float_recip(B::float_sqrt(B::float_add_scalar(var.clone(), norm.eps.into())));
    let mut y = B::float_mul(centred, rstd);
    if let Some(weight) = weight {
        y = B::float_mul(y, beside::<B>(weight, &sets));
    }
    if let Some(bias) = bias {
        y = B::float_add(y, beside::<B>(bias, &sets));
    }
    let mut y = B::float_reshape(y, shape);
    if let Some(residual) = residual {
        y = B::float_add(y, wide::<B>(residual));
    }
    if norm.relu {
        y = B::float_clamp_min(y, 0.0.into());
    }
    let y = in_type::<B>(y, dtype);
    let stats = norm.stats_shape(sets[0], sets[2]);
    (y, B::float_reshape(mean, stats.clone()), B::float_reshape(var, stats))
}

pub(crate) fn map_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: Option<FloatTensor<B>>,
    y: Option<FloatTensor<B>>,
    [mean, var]: [FloatTensor<B>; 2],
    grad: FloatTensor<B>,
    norm: MapNorm,
    residual: bool,
) -> MapNormGradients<FloatTensor<B>> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let (x, mean, var, grad) = (wide::<B>(x), wide::<B>(mean), wide::<B>(var), wide::<B>(grad));
    let (weight, y) = (weight.map(wide::<B>), y.map(wide::<B>));
    let narrow = |gradient| in_type::<B>(gradient, dtype);
    let sets = in_sets(&shape, &norm);
    let grad = match y {
        None => grad,
        Some(y) => B::float_mul(grad, B::float_sign(y)), // a rectified number is 0 or positive
    };
    let d_residual = residual.then(|| grad.clone());
    let at_sets = Shape::new([sets[0], 1, sets[2], 1]);
    let [mean, var] = [mean, var].map(|stat| B::float_reshape(stat, at_sets.clone()));
    let rstd = B::float_recip(B::float_sqrt(B::float_add_scalar(var, norm.eps.into())));
    let centred = deviations::<B>(B::float_reshape(x, sets.clone()), mean, &[1, 3]);
    let normal = B::float_mul(centred, rstd.clone());
    let grad = B::float_reshape(grad, sets.clone());
    let c = sets[2] * sets[3];
    let per_channel = |numbers: FloatTensor<B>| {
        B::float_reshape(B::float_sum_dim(B::float_sum_dim(numbers, 1), 0), Shape::new([c]))
    };
    let d_weight = per_channel(B::float_mul(grad.clone(), normal.clone()));
    let d_bias = per_channel(grad.clone());
    let grad = match weight {
        Some(weight) => B::float_mul(grad, beside::<B>(weight, &sets)),
        None => grad,
    };
    let mean_grad = mean_of_sets::<B>(grad.clone());
    let mean_dot = mean_of_sets::<B>(B::float_mul(grad.clone(), normal.clone()));
    let d_x = B::float_sub(B::float_sub(grad, mean_grad), B::float_mul(normal, mean_dot));
    let d_x = B::float_reshape(B::float_mul(d_x, rstd), shape);
    (narrow(d_x), narrow(d_weight), narrow(d_bias), d_residual.map(narrow))
}

/// `[B, C]` beside maps `[B, N, C]`.
fn per_map<B: Backend>(numbers: FloatTensor<B>) -> FloatTensor<B> {
    let shape = numbers.shape();
    B::float_reshape(numbers, Shape::new([shape[0], 1, shape[1]]))
}

pub(crate) fn gate<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    shift: Option<FloatTensor<B>>,
    residual: bool,
) -> FloatTensor<B> {
    let y = B::float_mul(x.clone(), per_map::<B>(scale));
    let y = match shift {
        Some(shift) => {
            let c = shift.shape()[0];
            B::float_add(y, B::float_reshape(shift, Shape::new([1, 1, c])))
        }
        None => y,
    };
    if residual { B::float_add(y, x) } else { y }
}

pub(crate) fn gate_backward<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    grad: FloatTensor<B>,
    residual: bool,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (shape, dtype) = (scale.shape(), scale.dtype());
    let d_scale = B::float_sum_dim(B::float_mul(wide::<B>(x), wide::<B>(grad.clone())), 1);
    let d_scale = in_type::<B>(d_scale, dtype);
    (gate::<B>(grad, scale, None, residual), B::float_reshape(d_scale, shape))
}

pub(crate) fn squeeze<B: Backend>(x: FloatTensor<B>, squeeze: Squeeze) -> FloatTensor<B> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let x = wide::<B>(x);
    let numbers = match squeeze {
        Squeeze::Mean => B::float_mean_dim(x, 1),
        Squeeze::Length => B::float_sqrt(B::float_sum_dim(B::float_mul(x.clone(), x), 1)),
    };
    B::float_reshape(in_type::<B>(numbers, dtype), Shape::new([shape[0], shape[2]]))
}

pub(crate) fn squeeze_backward<B: Backend>(
    x: FloatTensor<B>,
    squeezed: FloatTensor<B>,
    grad: FloatTensor<B>,
    squeeze: Squeeze,
) -> FloatTensor<B> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let [x, squeezed, grad] = [x, squeezed, grad].map(wide::<B>);
    let gradient = match squeeze {
        Squeeze::Mean => {
            let share = B::float_mul_scalar(per_map::<B>(grad), (1.0 / shape[1] as f64).into());
            B::float_expand(share, shape)
        }
        Squeeze::Length => {
            // A channel of zeros has no direction: its gradient is 0.
            let is_there = B::float_sign(squeezed.clone());
            let is_zero = B::float_add_scalar(B::float_neg(is_there.clone()), 1.0.into());
            let length = B::float_add(squeezed, is_zero); // 1 where it is 0
            let slope = B::float_mul(B::float_div(grad, length), is_there);
            B::float_mul(x, per_map::<B>(slope))
        }
    };
    in_type::<B>(gradient, dtype)
}
