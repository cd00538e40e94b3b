//! Convolutions in the primitive operations of any backend.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::Shape;
use burn::tensor::ops::ConvOptions;

use super::ConvForm;
use crate::linear::{LinearGradients, LinearWants};
use crate::portable::sum_rows;

impl ConvForm {
    /// In Burn's terms.
    pub(crate) fn options(&self) -> ConvOptions<2> {
        let padding = [0, 1].map(|axis| (self.before[axis], self.after[axis]));
        ConvOptions { stride: self.stride, padding, dilation: self.dilation, groups: self.groups }
    }
}

/// Maps `[B, H·W, C]` as `[B, C, H, W]`.
pub(crate) fn channels_first<B: Backend>(x: FloatTensor<B>, [h, w]: [usize; 2]) -> FloatTensor<B> {
    let shape = x.shape();
    let x = B::float_permute(x, &[0, 2, 1]);
    B::float_reshape(x, Shape::new([shape[0], shape[2], h, w]))
}

/// Maps `[B, C, H, W]` as `[B, H·W, C]`.
pub(crate) fn channels_last<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let x = B::float_reshape(x, Shape::new([shape[0], shape[1], shape[2] * shape[3]]));
    B::float_permute(x, &[0, 2, 1])
}

/// The kernel in files' order, `[N, C / groups, kh, kw]`.
fn in_file_order<B: Backend>(weight: FloatTensor<B>) -> FloatTensor<B> {
    B::float_permute(weight, &[3, 2, 0, 1])
}

pub(crate) fn forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    form: ConvForm,
) -> FloatTensor<B> {
    let x = channels_first::<B>(x, form.grid);
    channels_last::<B>(B::conv2d(x, in_file_order::<B>(weight), bias, form.options()))
}

pub(crate) fn backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    form: ConvForm,
    wants: LinearWants,
) -> LinearGradients<FloatTensor<B>> {
    let (x, weight) = (channels_first::<B>(x, form.grid), in_file_order::<B>(weight));
    let rows = Shape::new([grad.shape()[0] * grad.shape()[1], grad.shape()[2]]);
    let d_bias = wants.bias.then(|| sum_rows::<B>(B::float_reshape(grad.clone(), rows)));
    let grad = channels_first::<B>(grad, form.out());
    let d_x = wants.x.then(|| {
        let d_x = B::conv2d_x_backward(x.clone(), weight.clone(), grad.clone(), form.options());
        channels_last::<B>(d_x)
    });
    let d_weight = wants
        .weight
        .then(|| B::float_permute(B::conv2d_weight_backward(x, weight, grad, form.options()), &[2, 3, 1, 0]));
    (d_x, d_weight, d_bias)
}
