//! Normalisation over a batch.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

use super::conv::Then;
use super::drop::training;
use super::mlp::Activation;
use super::observe::{BatchStatistics, Observer};
use super::{lazy, parameter};

/// The field of the running means.
pub const RUNNING_MEAN: &str = "running_mean";
/// The field of the running variances.
pub const RUNNING_VAR: &str = "running_var";

/// Batch normalisation over all but the last dimension, Ioffe and Szegedy 2015 (arXiv:1502.03167): `y = (x - mean)
/// / sqrt(var + eps) * weight + bias`. In training, mean and biased variance are those of the batch; otherwise the
/// running ones.
///
/// A forward pass never changes the layer. In training it hands the batch's statistics to the observer. The trainer
/// updates the running ones once the update is accepted.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Gain, `[C]`.
    pub weight: Param<Tensor<1>>,
    /// Offset, `[C]`.
    pub bias: Param<Tensor<1>>,
    /// Mean of the batches so far, `[C]`; not trained.
    pub running_mean: Param<Tensor<1>>,
    /// Unbiased variance of the batches so far, `[C]`; not trained.
    pub running_var: Param<Tensor<1>>,
    /// Added to the variance; 1e-5 in PyTorch.
    pub eps: f64,
    /// Weight of a new batch in the running statistics; 0.1 in PyTorch.
    pub momentum: f64,
    /// Whether training uses the running statistics and leaves them as they are.
    pub frozen: bool,
}

impl BatchNorm {
    /// A norm over `channels`, with PyTorch's epsilon and momentum.
    pub fn new(channels: usize, device: &Device) -> Self {
        let buffer = || lazy([channels], device, false, move |device| Tensor::zeros([channels], device));
        Self {
            weight: parameter([channels], device),
            bias: parameter([channels], device),
            running_mean: buffer(),
            running_var: buffer(),
            eps: 1e-5,
            momentum: 0.1,
            frozen: false,
        }
    }

    /// `[.., C] -> [.., C]`. The observer's scope is this layer.
    ///
    /// # Panics
    /// If the last dimension is not `C`.
    pub fn forward<const R: usize>(&self, x: Tensor<R>, watch: &mut dyn Observer) -> Tensor<R> {
        if training(&x) && !self.frozen { self.batch(x, None, false, watch) } else { self.running(x) }
    }

    /// `act(norm(x) + residual)`.
    ///
    /// # Panics
    /// If the last dimension is not `C`, or the residual is not like x.
    pub fn forward_then(&self, x: Tensor<3>, then: Then, watch: &mut dyn Observer) -> Tensor<3> {
        let Then { residual, act } = then;
        let rectifies = act == Some(Activation::Relu);
        if training(&x) && !self.frozen && (rectifies || act.is_none()) {
            return self.batch(x, residual, rectifies, watch);
        }
        let y = self.forward(x, watch);
        let y = match residual {
            Some(residual) => y + residual,
            None => y,
        };
        match act {
            Some(act) => act.forward(y),
            None => y,
        }
    }

    /// The norm with the running statistics.
    fn running<const R: usize>(&self, x: Tensor<R>) -> Tensor<R> {
        let dtype = x.dtype();
        let wide = self.running_mean.val().dtype();
        let (scale, shift) = self.affine(wide);
        (x.cast(wide) * scale.unsqueeze() + shift.unsqueeze()).cast(dtype)
    }

    /// The norm with the running statistics as `x · scale + shift`, `[C]` each.
    pub fn affine(&self, dtype: DType) -> (Tensor<1>, Tensor<1>) {
        let (mean, var) = (self.running_mean.val(), self.running_var.val());
        let wide = mean.dtype();
        let scale = (var + self.eps).sqrt().recip() * self.weight.val().cast(wide);
        let shift = self.bias.val().cast(wide) - mean * scale.clone();
        (scale.cast(dtype), shift.cast(dtype))
    }

    /// The norm with the statistics of a batch, in f32 or wider. They go to the observer.
    fn batch<const R: usize>(
        &self,
        x: Tensor<R>,
        residual: Option<Tensor<R>>,
        relu: bool,
        watch: &mut dyn Observer,
    ) -> Tensor<R> {
        let (dtype, shape) = (x.dtype(), x.dims());
        let wide = if matches!(dtype, DType::F32 | DType::F64) { dtype } else { DType::F32 };
        let [weight, bias] = [&self.weight, &self.bias].map(|param| param.val().cast(wide));
        let residual = residual.map(|residual| residual.cast(wide));
        let (y, mean, var) = vitrum_kernels::batch_norm(x.cast(wide), weight, bias, residual, self.eps, relu);
        let count = shape[..R - 1].iter().product::<usize>();
        let statistics = BatchStatistics {
            mean: mean.detach(),
            var: var.detach().mul_scalar(count as f64 / (count.max(2) - 1) as f64), // unbiased
            count,
            momentum: self.momentum,
        };
        watch.statistics(format_args!(""), statistics);
        y.cast(dtype)
    }
}
