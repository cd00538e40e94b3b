//! Normalisation over a batch.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

use super::drop::training;
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
        }
    }

    /// `[.., C] -> [.., C]`. The observer's scope is this layer.
    ///
    /// # Panics
    /// If the last dimension is not `C`.
    pub fn forward<const R: usize>(&self, x: Tensor<R>, watch: &mut dyn Observer) -> Tensor<R> {
        let shape = x.dims();
        let (channels, dtype) = (shape[R - 1], x.dtype());
        let x: Tensor<2> = x.reshape([-1, channels as i32]);
        let (mean, var) = if training(&x) {
            self.batch(&x, watch)
        } else {
            (self.running_mean.val().unsqueeze(), self.running_var.val().unsqueeze())
        };
        let scale = (var + self.eps).sqrt().recip() * self.weight.val().cast(mean.dtype()).unsqueeze(); // [1, C]
        let y =
            (x.cast(mean.dtype()) - mean) * scale.clone() + self.bias.val().cast(scale.dtype()).unsqueeze();
        y.cast(dtype).reshape(shape)
    }

    /// Mean and biased variance of a batch `[M, C]`: `[1, C]` each, in f32 or wider.
    fn batch(&self, x: &Tensor<2>, watch: &mut dyn Observer) -> (Tensor<2>, Tensor<2>) {
        let [m, _] = x.dims();
        let wide = matches!(x.dtype(), DType::F32 | DType::F64);
        let x = if wide { x.clone() } else { x.clone().cast(DType::F32) };
        let mean = x.clone().mean_dim(0);
        let centred = x - mean.clone();
        let var = (centred.clone() * centred).mean_dim(0);
        let unbiased = var.clone().mul_scalar(m as f64 / (m.max(2) - 1) as f64);
        let statistics = BatchStatistics {
            mean: mean.clone().detach().squeeze_dim(0),
            var: unbiased.detach().squeeze_dim(0),
            momentum: self.momentum,
        };
        watch.statistics(format_args!(""), statistics);
        (mean, var)
    }
}
