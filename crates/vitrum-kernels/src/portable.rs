//! The operations in the primitive operations of any backend, for backends without a fast path.
//!
//! The mathematics is that of [`reference`](crate::reference) with explicit gradients, so that no backend keeps the
//! weights of attention between the forward and the backward pass.
//!
//! With f16 or bf16, matrix products read these types, and the device adds their terms in `f32`. All other sums, softmax,
//! norms and activations are computed in `f32` here and rounded once.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, FloatDType, Shape, Slice};

use crate::activation::{Activation, DENSITY, QUICK, TANH};
use crate::linear::{LinearGradients, LinearWants, with_last};
use crate::mlp::{MlpGradients, MlpWants};
use crate::unit_heads::SHORTEST;

/// f16 and bf16 as `f32`; other types as they are.
pub(crate) fn wide<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    match x.dtype() {
        DType::F16 | DType::BF16 => B::float_cast(x, FloatDType::F32),
        _ => x,
    }
}

/// The same numbers in a type.
pub(crate) fn in_type<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype { x } else { B::float_cast(x, dtype.into()) }
}

/// Deviations from the mean over these axes. If the mean is much larger than the deviations, its rounding error matters.
/// So the mean of the deviations is subtracted too.
pub(crate) fn deviations<B: Backend>(
    x: FloatTensor<B>,
    mean: FloatTensor<B>,
    axes: &[usize],
) -> FloatTensor<B> {
    let about = B::float_sub(x, mean);
    let left = axes.iter().fold(about.clone(), |left, &axis| B::float_mean_dim(left, axis));
    B::float_sub(about, left)
}

/// The normalised rows, and the mean and reciprocal deviation of each row, `[rows]`. Without `centred` the mean is taken to
/// be zero (RMSNorm).
pub(crate) fn layer_norm<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    eps: f64,
    centred: bool,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (shape, dtype) = (x.shape(), x.dtype());
    let (x, weight, bias) = (wide::<B>(x), wide::<B>(weight), bias.map(wide::<B>));
    let x = B::float_reshape(x, rows_of(&shape));
    let mean = match centred {
        true => B::float_mean_dim(x.clone(), 1), // [rows, 1]
        false => B::float_zeros(Shape::new([rows_of(&shape)[0], 1]), &x.device(), x.dtype().into()),
    };
    let centred = match centred {
        true => deviations::<B>(x, mean.clone(), &[1]),
        false => x,
    };
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let rstd = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, eps.into())));
    let mut y = B::float_mul(B::float_mul(centred, rstd.clone()), as_row::<B>(weight));
    if let Some(bias) = bias {
        y = B::float_add(y, as_row::<B>(bias));
    }
    let stats = || Shape::new([rows_of(&shape)[0]]);
    let y = in_type::<B>(y, dtype);
    (B::float_reshape(y, shape.clone()), B::float_reshape(mean, stats()), B::float_reshape(rstd, stats()))
}

/// Gradients of x, weight and bias, from the gradient of y.
pub(crate) fn layer_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    mean: FloatTensor<B>,
    rstd: FloatTensor<B>,
    grad: FloatTensor<B>,
    centred: bool,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (shape, dtype) = (x.shape(), x.dtype());
    let [x, weight, mean, rstd, grad] = [x, weight, mean, rstd, grad].map(wide::<B>);
    let rows = rows_of(&shape);
    let [n, d] = [rows[0], rows[1]];
    let column = |stat| B::float_reshape(stat, Shape::new([n, 1]));
    let rstd = column(rstd);
    let x = B::float_reshape(x, rows.clone());
    let shifted = if centred { deviations::<B>(x, column(mean), &[1]) } else { x };
    let normal = B::float_mul(shifted, rstd.clone()); // [rows, D]
    let grad = B::float_reshape(grad, rows);

    let d_bias = B::float_reshape(B::float_sum_dim(grad.clone(), 0), Shape::new([d]));
    let d_weight = B::float_sum_dim(B::float_mul(grad.clone(), normal.clone()), 0);
    let d_weight = B::float_reshape(d_weight, Shape::new([d]));

    let grad = B::float_mul(grad, as_row::<B>(weight));
    let mean_dot = B::float_mean_dim(B::float_mul(grad.clone(), normal.clone()), 1);
    let mut d_x = B::float_sub(grad.clone(), B::float_mul(normal, mean_dot));
    if centred {
        d_x = B::float_sub(d_x, B::float_mean_dim(grad, 1));
    }
    let d_x = B::float_reshape(B::float_mul(d_x, rstd), shape);
    let [d_x, d_weight, d_bias] = [d_x, d_weight, d_bias].map(|gradient| in_type::<B>(gradient, dtype));
    (d_x, d_weight, d_bias)
}

/// The value of the activation.
pub(crate) fn activate<B: Backend>(x: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        Activation::Identity => x,
        Activation::Relu => B::float_clamp_min(x, 0.0.into()),
        _ => {
            let dtype = x.dtype();
            let x = wide::<B>(x);
            in_type::<B>(B::float_mul(x.clone(), share::<B>(x, activation).0), dtype)
        }
    }
}

/// Value and derivative of the activation.
pub(crate) fn with_derivative<B: Backend>(
    x: FloatTensor<B>,
    activation: Activation,
) -> (FloatTensor<B>, FloatTensor<B>) {
    match activation {
        Activation::Identity => {
            let device = x.device();
            let ones = B::float_ones(x.shape(), &device, x.dtype().into());
            (x, ones)
        }
        Activation::Relu => {
            let least = B::float_clamp_min(x.clone(), 0.0.into());
            (least, B::float_clamp_min(B::float_sign(x), 0.0.into()))
        }
        _ => {
            let dtype = x.dtype();
            let x = wide::<B>(x);
            let (share, change) = share::<B>(x.clone(), activation);
            let derivative = B::float_add(share.clone(), B::float_mul(x.clone(), change));
            (in_type::<B>(B::float_mul(x, share), dtype), in_type::<B>(derivative, dtype))
        }
    }
}

/// The factor of x in the activation, and the derivative of that factor.
fn share<B: Backend>(x: FloatTensor<B>, activation: Activation) -> (FloatTensor<B>, FloatTensor<B>) {
    let scaled = |x: FloatTensor<B>, factor: f64| B::float_mul_scalar(x, factor.into());
    let (argument, argument_derivative) = match activation {
        Activation::Gelu => {
            let erf = B::float_erf(scaled(x.clone(), std::f64::consts::FRAC_1_SQRT_2));
            let share = scaled(B::float_add_scalar(erf, 1.0.into()), 0.5);
            let bell = B::float_exp(scaled(B::float_mul(x.clone(), x), -0.5));
            return (share, scaled(bell, DENSITY));
        }
        Activation::GeluTanh => {
            let squares = B::float_mul(x.clone(), x.clone());
            let part = |factor| {
                let sum = B::float_add_scalar(scaled(squares.clone(), factor * TANH[1]), 1.0.into());
                scaled(sum, 2.0 * TANH[0])
            };
            (B::float_mul(x, part(1.0)), Some(part(3.0)))
        }
        Activation::QuickGelu => (scaled(x, QUICK), None),
        _ => (x, None),
    };
    // σ(z) = 1 / (1 + e⁻ᶻ) = (1 + tanh(z / 2)) / 2, which does not overflow; σ' = σ (1 - σ).
    let share = scaled(B::float_add_scalar(B::float_tanh(scaled(argument, 0.5)), 1.0.into()), 0.5);
    let rest = B::float_add_scalar(B::float_neg(share.clone()), 1.0.into());
    let change = B::float_mul(share.clone(), rest);
    let change = match (argument_derivative, activation) {
        (Some(derivative), _) => B::float_mul(change, derivative),
        (None, Activation::QuickGelu) => scaled(change, QUICK),
        (None, _) => change,
    };
    (share, change)
}

/// `x weight + bias`; with a residual, `residual + gamma · (x weight + bias)`.
pub(crate) fn linear_add<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    residual: Option<FloatTensor<B>>,
    gamma: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let shape = with_last(&x.shape(), weight.shape()[1]);
    let mut y = B::float_matmul(flat::<B>(x), weight);
    if let Some(bias) = bias {
        y = B::float_add(y, as_row::<B>(bias));
    }
    if let Some(residual) = residual {
        if let Some(gamma) = gamma {
            y = B::float_mul(y, as_row::<B>(gamma));
        }
        y = B::float_add(flat::<B>(residual), y);
    }
    B::float_reshape(y, shape)
}

/// Gradients of x, weight and bias, as far as `wants` asks for them, from the gradient of `x weight + bias`.
pub(crate) fn linear_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    wants: LinearWants,
) -> LinearGradients<FloatTensor<B>> {
    let (shape, grad) = (x.shape(), flat::<B>(grad));
    let transposed = |x| B::float_swap_dims(x, 0, 1);
    let d_x = wants.x.then(|| B::float_reshape(B::float_matmul(grad.clone(), transposed(weight)), shape));
    let d_weight = wants.weight.then(|| B::float_matmul(transposed(flat::<B>(x)), grad.clone()));
    (d_x, d_weight, wants.bias.then(|| sum_rows::<B>(grad)))
}

/// Tokens `[B, N, D]` of images `[B, C, H, W]` with a kernel `[D, C, P, Q]`.
pub(crate) fn patch_embed<B: Backend>(
    images: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let grid = Grid::new(&images.shape(), &weight.shape());
    let kernel = B::float_swap_dims(grid.matrix::<B>(weight), 0, 1);
    let tokens = linear_add::<B>(grid.patches::<B>(images), kernel, bias, None, None);
    B::float_reshape(tokens, grid.tokens())
}

/// Gradients of images, weight and bias, as far as `wants` asks for them, from the gradient of the tokens.
pub(crate) fn patch_embed_backward<B: Backend>(
    images: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    wants: LinearWants,
) -> LinearGradients<FloatTensor<B>> {
    let (shape, kernel) = (images.shape(), weight.shape());
    let grid = Grid::new(&shape, &kernel);
    let grad = flat::<B>(grad);
    let d_images = wants.x.then(|| {
        let d_patches = B::float_matmul(grad.clone(), grid.matrix::<B>(weight));
        let zeros = B::float_zeros(shape, &grad.device(), grad.dtype().into());
        B::float_slice_assign(zeros, &grid.covered(), grid.images::<B>(d_patches))
    });
    let d_weight = wants.weight.then(|| {
        let transposed = B::float_swap_dims(grad.clone(), 0, 1);
        B::float_reshape(B::float_matmul(transposed, grid.patches::<B>(images)), kernel)
    });
    (d_images, d_weight, wants.bias.then(|| sum_rows::<B>(grad)))
}

/// How a kernel `[D, C, P, Q]` cuts images `[B, C, H, W]` into patches.
struct Grid {
    b: usize,
    c: usize,
    d: usize,
    patch: [usize; 2],
    grid: [usize; 2],
}

impl Grid {
    fn new(images: &Shape, kernel: &Shape) -> Self {
        let patch = [kernel[2], kernel[3]];
        let grid = [images[2] / patch[0], images[3] / patch[1]];
        Self { b: images[0], c: images[1], d: kernel[0], patch, grid }
    }

    fn tokens(&self) -> Shape {
        Shape::new([self.b, self.grid[0] * self.grid[1], self.d])
    }

    /// The pixels that belong to whole patches.
    fn covered(&self) -> [Slice; 4] {
        let [[p, q], [gh, gw]] = [self.patch, self.grid];
        [self.b, self.c, gh * p, gw * q].map(|end| Slice::from(0..end))
    }

    /// The kernel as `[D, C·P·Q]`.
    fn matrix<B: Backend>(&self, kernel: FloatTensor<B>) -> FloatTensor<B> {
        B::float_reshape(kernel, Shape::new([self.d, self.c * self.patch[0] * self.patch[1]]))
    }

    /// `[B·N, C·P·Q]`
    fn patches<B: Backend>(&self, images: FloatTensor<B>) -> FloatTensor<B> {
        let Self { b, c, patch: [p, q], grid: [gh, gw], .. } = *self;
        let images = B::float_slice(images, &self.covered());
        let cut = B::float_reshape(images, Shape::new([b, c, gh, p, gw, q]));
        B::float_reshape(B::float_permute(cut, &[0, 2, 4, 1, 3, 5]), Shape::new([b * gh * gw, c * p * q]))
    }

    /// Patches as the covered part of the images.
    fn images<B: Backend>(&self, patches: FloatTensor<B>) -> FloatTensor<B> {
        let Self { b, c, patch: [p, q], grid: [gh, gw], .. } = *self;
        let cut = B::float_reshape(patches, Shape::new([b, gh, gw, c, p, q]));
        B::float_reshape(B::float_permute(cut, &[0, 3, 1, 4, 2, 5]), Shape::new([b, c, gh * p, gw * q]))
    }
}

/// The output of the MLP and, if `keep` is set, the argument of the activation, `[rows, F]`.
pub(crate) fn mlp<B: Backend>(
    x: FloatTensor<B>,
    fc1: (FloatTensor<B>, Option<FloatTensor<B>>),
    fc2: (FloatTensor<B>, Option<FloatTensor<B>>),
    activation: Activation,
    keep: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let hidden = linear_add::<B>(x, fc1.0, fc1.1, None, None);
    let kept = keep.then(|| flat::<B>(hidden.clone()));
    (linear_add::<B>(activate::<B>(hidden, activation), fc2.0, fc2.1, None, None), kept)
}

/// Gradients of x and of both layers' weights and biases, as far as `wants` asks for them, from the gradient of the
/// output.
pub(crate) fn mlp_backward<B: Backend>(
    x: FloatTensor<B>,
    fc1_weight: FloatTensor<B>,
    fc2_weight: FloatTensor<B>,
    kept: FloatTensor<B>,
    grad: FloatTensor<B>,
    activation: Activation,
    wants: MlpWants,
) -> MlpGradients<FloatTensor<B>> {
    let (active, derivative) = with_derivative::<B>(kept, activation);
    let before = wants.x || wants.fc1_weight || wants.fc1_bias;
    let outer = LinearWants { x: before, weight: wants.fc2_weight, bias: wants.fc2_bias };
    let (d_active, d_fc2, d_fc2_bias) = linear_backward::<B>(active, fc2_weight, grad, outer);
    let Some(d_active) = d_active else { return (None, None, None, d_fc2, d_fc2_bias) };
    let inner = LinearWants { x: wants.x, weight: wants.fc1_weight, bias: wants.fc1_bias };
    let (d_x, d_fc1, d_fc1_bias) =
        linear_backward::<B>(x, fc1_weight, B::float_mul(d_active, derivative), inner);
    (d_x, d_fc1, d_fc1_bias, d_fc2, d_fc2_bias)
}

/// `[..., D]` as `[rows, D]`.
fn flat<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = rows_of(&x.shape());
    B::float_reshape(x, shape)
}

/// Sums of the columns of `[rows, D]`, `[D]`.
pub(crate) fn sum_rows<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let (d, dtype) = (x.shape()[1], x.dtype());
    in_type::<B>(B::float_reshape(B::float_sum_dim(wide::<B>(x), 0), Shape::new([d])), dtype)
}

/// Queries, keys and values `[B, T, 3·A·E]` as `[B, T, 3, A, E]`, cut into queries with keys and values.
fn cut_heads<B: Backend>(qkv: FloatTensor<B>, heads: usize) -> (FloatTensor<B>, FloatTensor<B>) {
    let shape = qkv.shape();
    let (b, t) = (shape[0], shape[1]);
    let qkv = B::float_reshape(qkv, Shape::new([b, t, 3, heads, shape[2] / (3 * heads).max(1)]));
    let part = |from, to| {
        let slices =
            [Slice::full(), Slice::full(), Slice::new(from, Some(to), 1), Slice::full(), Slice::full()];
        B::float_slice(qkv.clone(), &slices)
    };
    (part(0, 2), part(2, 3))
}

/// The reciprocal lengths of queries and keys `[B, T, 2, A, E]`, and 1 for those that are not too short, 0 for the rest.
fn rates<B: Backend>(x: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let least = SHORTEST * SHORTEST;
    let square = B::float_sum_dim(B::float_mul(x.clone(), x), 4);
    let above = B::float_clamp_min(B::float_sub_scalar(square.clone(), least.into()), 0.0.into());
    (B::float_recip(B::float_sqrt(B::float_clamp_min(square, least.into()))), B::float_sign(above))
}

/// The scales of queries and, all 1, of keys: `[1, 1, 2, A, 1]`.
fn scales<B: Backend>(scale: FloatTensor<B>) -> FloatTensor<B> {
    let shape = Shape::new([1, 1, 1, scale.shape()[0], 1]);
    let ones = B::float_ones(shape.clone(), &scale.device(), scale.dtype().into());
    B::float_cat(vec![B::float_reshape(scale, shape), ones], 2)
}

/// See [`unit_heads`](crate::unit_heads).
pub(crate) fn unit_heads<B: Backend>(qkv: FloatTensor<B>, scale: FloatTensor<B>) -> FloatTensor<B> {
    let (shape, dtype) = (qkv.shape(), qkv.dtype());
    let (x, values) = cut_heads::<B>(wide::<B>(qkv), scale.shape()[0]);
    let scale = wide::<B>(scale);
    let factor = B::float_mul(rates::<B>(x.clone()).0, scales::<B>(scale));
    let parts = [B::float_mul(x, factor), values].map(|part| in_type::<B>(part, dtype));
    B::float_reshape(B::float_cat(parts.to_vec(), 2), shape)
}

/// Gradients of `qkv` and `scale` of [`unit_heads`].
pub(crate) fn unit_heads_backward<B: Backend>(
    qkv: FloatTensor<B>,
    scale: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (shape, heads, dtype) = (qkv.shape(), scale.shape(), qkv.dtype());
    let [qkv, scale, grad] = [qkv, scale, grad].map(wide::<B>);
    let (x, _) = cut_heads::<B>(qkv, heads[0]);
    let (grad, d_values) = cut_heads::<B>(grad, heads[0]);
    let (rate, turns) = rates::<B>(x.clone());
    let unit = B::float_mul(x, rate.clone());
    let along = B::float_sum_dim(B::float_mul(grad.clone(), unit.clone()), 4); // [B, T, 2, A, 1]
    let across = B::float_sub(grad, B::float_mul(unit, B::float_mul(along.clone(), turns)));
    let d_x = B::float_mul(across, B::float_mul(rate, scales::<B>(scale)));
    let d_qkv = B::float_reshape(B::float_cat(vec![d_x, d_values], 2), shape);
    let of_queries = [Slice::full(), Slice::full(), Slice::new(0, Some(1), 1), Slice::full(), Slice::full()];
    let along = B::float_sum_dim(B::float_sum_dim(B::float_slice(along, &of_queries), 0), 1);
    (in_type::<B>(d_qkv, dtype), in_type::<B>(B::float_reshape(along, heads), dtype))
}

/// Sums `grad` over the axes along which `shape` was broadcast.
pub(crate) fn sum_to<B: Backend>(grad: FloatTensor<B>, shape: &Shape) -> FloatTensor<B> {
    let (from, dtype) = (grad.shape(), grad.dtype());
    let mut broadcast = (0..from.num_dims()).filter(|&axis| shape[axis] != from[axis]).peekable();
    if broadcast.peek().is_none() {
        return grad;
    }
    in_type::<B>(broadcast.fold(wide::<B>(grad), B::float_sum_dim), dtype)
}

/// `[..., D]` as `[rows, D]`.
fn rows_of(shape: &Shape) -> Shape {
    let axes = shape.num_dims();
    Shape::new([(0..axes - 1).map(|axis| shape[axis]).product(), shape[axes - 1]])
}

/// `[D]` as `[1, D]`.
pub(crate) fn as_row<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let d = x.shape()[0];
    B::float_reshape(x, Shape::new([1, d]))
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::backend::tensor::FloatTensor;
    use burn::tensor::{DType, Device, Distribution, Tensor};

    use super::{layer_norm, layer_norm_backward};
    use crate::reference::layer_norm_reference;

    fn primitive<const R: usize>(x: &Tensor<R>) -> FloatTensor<Flex> {
        x.clone().try_into_primitive::<Flex>().expect("a tensor of the CPU backend")
    }

    /// Almost constant rows, forward and backward, against `f64`.
    #[test]
    fn almost_equal_numbers_keep_their_digits() {
        let device = Device::flex();
        device.seed(1);
        let draw = |rows, scale: f64| {
            Tensor::<2>::random([rows, 96], Distribution::Normal(0.0, scale), (&device, DType::F32))
        };
        let (x, weight, grad) = (draw(7, 1e-3) + 3.0, draw(1, 1.0).reshape([96]), draw(7, 1.0));
        let (y, mean, rstd) = layer_norm::<Flex>(primitive(&x), primitive::<1>(&weight), None, 1e-12, true);
        let (d_x, d_weight, _) = layer_norm_backward::<Flex>(
            primitive(&x),
            primitive::<1>(&weight),
            mean,
            rstd,
            primitive(&grad),
            true,
        );

        let exact = device.autodiff();
        let lift = |x: &Tensor<2>| Tensor::<2>::from_data(x.clone().into_data(), (&exact, DType::F64));
        let wide = lift(&x).require_grad();
        let gains = Tensor::<1>::from_data(weight.into_data(), (&exact, DType::F64)).require_grad();
        let reference = layer_norm_reference(wide.clone(), gains.clone(), None, 1e-12);
        let gradients = (reference.clone() * lift(&grad)).sum().backward();
        let pairs = [
            ("y", Tensor::<2>::from_primitive::<Flex>(y), reference.inner()),
            ("d_x", Tensor::from_primitive::<Flex>(d_x), wide.grad(&gradients).expect("a gradient")),
            (
                "d_weight",
                Tensor::<1>::from_primitive::<Flex>(d_weight).reshape([1, 96]),
                gains.grad(&gradients).expect("a gradient").reshape([1, 96]),
            ),
        ];
        for (name, ours, exact) in pairs {
            let most: f64 = exact.clone().abs().max().into_scalar();
            let error: f64 = (ours.cast(DType::F64) - exact).abs().max().into_scalar();
            assert!(error < 2e-6 * most, "{name}: {:.1e} of the largest", error / most);
        }
    }
}
