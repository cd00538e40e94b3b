//! Convolutions of maps with channels last, `[B, H·W, C]`, and their backward passes.
//!
//! A convolution is a product of patches and kernel ([`dense`]); patches are packed straight from the maps into the
//! tiles of the product. Grouped convolutions are one product per group. With one channel per group the products would
//! have a single column, so a depthwise convolution runs directly along the rows of the maps ([`depthwise`]).

mod dense;
mod depthwise;
mod fold;
pub(crate) mod portable;
mod winograd;

pub use fold::PackedConv;
pub(crate) use fold::{Fold, folded};

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::linear::{LinearGradients, LinearWants, sum_rows};
use crate::simd::Real;
use crate::threads::written;
use winograd::Transformed;

/// How a window slides over maps, for convolutions and for pooling, which ignores the groups. Pairs are rows and
/// columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvForm {
    /// Size of the maps, `[H, W]`.
    pub grid: [usize; 2],
    /// Size of the kernel.
    pub kernel: [usize; 2],
    /// Step of the kernel.
    pub stride: [usize; 2],
    /// Zeros above and left of the maps.
    pub before: [usize; 2],
    /// Zeros below and right of the maps.
    pub after: [usize; 2],
    /// Distance between the pixels that a kernel reads; 1: neighbours.
    pub dilation: [usize; 2],
    /// Number of groups of channels; a result sees the channels of its group alone.
    pub groups: usize,
}

impl ConvForm {
    /// A convolution with stride 1 and without padding.
    pub fn new(grid: [usize; 2], kernel: [usize; 2]) -> Self {
        Self { grid, kernel, stride: [1, 1], before: [0, 0], after: [0, 0], dilation: [1, 1], groups: 1 }
    }

    /// With this step.
    pub fn stride(self, stride: [usize; 2]) -> Self {
        Self { stride, ..self }
    }

    /// With the same padding on opposite sides.
    pub fn padding(self, padding: [usize; 2]) -> Self {
        Self { before: padding, after: padding, ..self }
    }

    /// With TensorFlow's SAME padding, for a result of `[⌈H / stride⌉, ⌈W / stride⌉]`. If the number of zeros along an
    /// axis is odd, the extra one is below or right. Call it after kernel, stride and dilation are set.
    pub fn same(self) -> Self {
        let [rows, columns] = [0, 1].map(|axis| {
            let (size, stride) = (self.grid[axis], self.stride[axis].max(1));
            let reach = (size.div_ceil(stride).max(1) - 1) * stride + self.extent(axis);
            reach.saturating_sub(size)
        });
        let before = [rows / 2, columns / 2];
        Self { before, after: [rows - before[0], columns - before[1]], ..self }
    }

    /// With this number of groups.
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// With this distance between the pixels that a kernel reads.
    pub fn dilation(self, dilation: [usize; 2]) -> Self {
        Self { dilation, ..self }
    }

    /// Pixels that a kernel spans along an axis.
    pub(crate) fn extent(&self, axis: usize) -> usize {
        (self.kernel[axis].max(1) - 1).saturating_mul(self.dilation[axis]).saturating_add(1)
    }

    /// Size of the result; 0 where the padded maps are smaller than the kernel.
    pub fn out(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            let padded = self.grid[axis].saturating_add(self.before[axis]).saturating_add(self.after[axis]);
            padded
                .checked_sub(self.extent(axis))
                .map_or(0, |room| (room / self.stride[axis].max(1)).saturating_add(1))
        })
    }

    /// Whether a result is a weighted sum of the channels of its own pixel.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.out() == self.grid && self.before == [0, 0]
    }

    /// Offsets of the kernel's pixels from the position of the window.
    fn taps(&self) -> Vec<[isize; 2]> {
        let at = |axis: usize, tap: usize| (tap * self.dilation[axis]) as isize - self.before[axis] as isize;
        let [rows, columns] = self.kernel;
        (0..rows).flat_map(|y| (0..columns).map(move |x| [at(0, y), at(1, x)])).collect()
    }
}

/// Sizes of maps `[B, H·W, C]` under a kernel `[kh, kw, C / groups, N]`.
#[derive(Clone, Copy)]
struct Sizes {
    /// Number of maps.
    b: usize,
    /// Channels of the maps.
    c: usize,
    /// Channels of the result.
    n: usize,
    /// Positions of the result, of all maps.
    m: usize,
    form: ConvForm,
}

impl Sizes {
    fn new(x: &Shape, weight: &Shape, form: ConvForm) -> Self {
        let [rows, columns] = form.out();
        Self { b: x[0], c: x[2], n: weight[3], m: x[0] * rows * columns, form }
    }

    fn is_depthwise(&self) -> bool {
        self.form.groups > 1 && self.form.groups == self.c && self.n == self.c
    }

    /// Channels of the maps and of the result in a group.
    fn group(&self) -> [usize; 2] {
        [self.c / self.form.groups, self.n / self.form.groups]
    }

    /// The sizes of the convolution that turns the gradient of the result into that of the maps. `None` for larger
    /// steps, and for padding wider than the kernel reaches.
    fn turned(&self) -> Option<Self> {
        let form = self.form;
        let around = |zeros: [usize; 2]| -> Option<[usize; 2]> {
            let [rows, columns] = [0, 1].map(|axis| (form.extent(axis) - 1).checked_sub(zeros[axis]));
            Some([rows?, columns?])
        };
        let turned =
            ConvForm { grid: form.out(), before: around(form.before)?, after: around(form.after)?, ..form };
        let [h, w] = form.grid;
        (form.stride == [1, 1]).then_some(Self {
            c: self.n,
            n: self.c,
            m: self.b * h * w,
            form: turned,
            ..*self
        })
    }

    fn out_shape(&self) -> Shape {
        let [rows, columns] = self.form.out();
        Shape::new([self.b, rows * columns, self.n])
    }
}

/// The convolution `[B, H'·W', N]`. Tensors must be contiguous.
pub(crate) fn forward<T: Real>(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    form: ConvForm,
) -> FlexTensor {
    folded(x, weight, form, &Fold { shift: bias.map(T::slice), ..Fold::default() })
}

/// The convolution `[B, H'·W', N]` with what follows it.
fn convolve<T: Real>(x: &[T], weight: &[T], fold: &Fold<T>, sizes: Sizes) -> Vec<T> {
    if sizes.is_depthwise() {
        depthwise::forward(x, weight, fold, sizes)
    } else if winograd::pays::<T>(&sizes) {
        winograd::forward(x, &Transformed::new(weight, sizes), fold, sizes)
    } else {
        dense::forward(x, dense::Kernel::Plain(weight), fold, sizes)
    }
}

/// Gradients of x, weight and bias, as far as `wants` asks for them, from the gradient of the result.
pub(crate) fn backward<T: Real>(
    x: &FlexTensor,
    weight: &FlexTensor,
    grad: &FlexTensor,
    form: ConvForm,
    wants: LinearWants,
) -> LinearGradients<FlexTensor> {
    let (x_shape, weight_shape) = (x.shape(), weight.shape());
    let sizes = Sizes::new(&x_shape, &weight_shape, form);
    let [x, weight, grad] = [x, weight, grad].map(T::slice);
    let depthwise = sizes.is_depthwise();
    let d_x = wants.x.then(|| match sizes.turned() {
        _ if depthwise => depthwise::d_x(weight, grad, sizes),
        Some(turned) if winograd::pays::<T>(&turned) => {
            winograd::forward(grad, &Transformed::turned(weight, sizes), &Fold::default(), turned)
        }
        _ => dense::d_x(weight, grad, sizes),
    });
    let d_weight = wants.weight.then(|| match depthwise {
        true => depthwise::d_weight(x, grad, sizes),
        false => dense::d_weight(x, grad, sizes),
    });
    let d_bias = wants.bias.then(|| {
        // SAFETY: all sums are written.
        unsafe { written(sizes.n, |sums| sum_rows(grad, sizes.n, false, sums)) }
    });
    (
        d_x.map(|d_x| T::tensor(d_x, x_shape)),
        d_weight.map(|d_weight| T::tensor(d_weight, weight_shape)),
        d_bias.map(|d_bias| T::tensor(d_bias, Shape::new([sizes.n]))),
    )
}
