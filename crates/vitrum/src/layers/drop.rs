//! Regularisers that drop something at random, only while training (on an autodiff device).

use burn::tensor::{Distribution, Int, Tensor};

/// Whether `x` is part of a training step: its device keeps a graph for the backward pass.
pub fn training<const R: usize>(x: &Tensor<R>) -> bool {
    x.device().is_autodiff()
}

/// Dropout: zeroes single values with probability `rate` and scales the rest by `1 / (1 - rate)`.
pub fn dropout<const R: usize>(x: Tensor<R>, rate: f64) -> Tensor<R> {
    if rate <= 0.0 || !training(&x) {
        return x;
    }
    let keep = 1.0 - rate;
    let mask = x.random_like(Distribution::Bernoulli(keep));
    x * mask / keep
}

/// Stochastic depth, Huang et al. 2016 (arXiv:1603.09382): drops a residual branch `[B, T, D]` for
/// whole images with probability `rate` and scales the kept ones by `1 / (1 - rate)`.
pub fn drop_path(x: Tensor<3>, rate: f64) -> Tensor<3> {
    if rate <= 0.0 || !training(&x) {
        return x;
    }
    let keep = 1.0 - rate;
    let [b, _, _] = x.dims();
    let mask = Tensor::<3>::random([b, 1, 1], Distribution::Bernoulli(keep), (&x.device(), x.dtype()));
    x * mask / keep
}

/// Patch dropout (arXiv:2212.00794): keeps a random `max(1, floor(N (1 - rate)))` of the patches of
/// `[B, prefix + N, D]`, other ones for every image, the prefix always. Kept patches are in random order, as in timm.
pub fn patch_dropout(x: Tensor<3>, prefix: usize, rate: f64) -> Tensor<3> {
    if rate <= 0.0 || !training(&x) {
        return x;
    }
    let [b, t, d] = x.dims();
    let n = t - prefix;
    let kept = (((n as f64) * (1.0 - rate)) as usize).max(1);
    let noise = Tensor::<2>::random([b, n], Distribution::Normal(0.0, 1.0), &x.device());
    let order: Tensor<2, Int> = noise.argsort(1).narrow(1, 0, kept);
    let index = order.unsqueeze_dim::<3>(2).expand([b, kept, d]);
    let patches = x.clone().narrow(1, prefix, n).gather(1, index);
    if prefix == 0 { patches } else { Tensor::cat(vec![x.narrow(1, 0, prefix), patches], 1) }
}
