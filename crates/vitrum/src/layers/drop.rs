//! Regularisers that drop something at random. They act only in training, on an autodiff device.
//!
//! Random numbers come from a generator of the thread that runs the forward pass; [`seed`] sets it. (Burn's
//! generator belongs to the whole process: two models in two threads would disturb each other.)

use std::cell::{Cell, RefCell};

use burn::tensor::{Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

thread_local! {
    static DROPS: RefCell<ChaCha8Rng> = RefCell::new(ChaCha8Rng::seed_from_u64(0));
    static RESTS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with layers that behave as for answers, though the device records gradients: in this thread nothing is dropped,
/// and batch norms use their running statistics.
pub fn at_rest<R>(f: impl FnOnce() -> R) -> R {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            RESTS.set(self.0);
        }
    }
    let _back = Back(RESTS.replace(true));
    f()
}

/// Seeds this thread's generator. The same seed and the same passes drop the same values.
pub fn seed(seed: u64) {
    DROPS.with_borrow_mut(|drops| *drops = ChaCha8Rng::seed_from_u64(seed));
}

/// A mask of `count` values with the device and type of `like`: `1 / keep` with probability `keep`, else 0.
fn mask<const R: usize, const Q: usize>(like: &Tensor<R>, shape: [usize; Q], keep: f64) -> Tensor<Q> {
    let limit = (keep * (1u64 << 32) as f64) as u64;
    let scale = (1.0 / keep) as f32;
    let count = shape.iter().product();
    let values: Vec<f32> = DROPS.with_borrow_mut(|drops| {
        (0..count).map(|_| if u64::from(drops.random::<u32>()) < limit { scale } else { 0.0 }).collect()
    });
    Tensor::from_data(TensorData::new(values, shape), (&like.device(), like.dtype()))
}

/// Whether the device of `x` keeps a graph for the backward pass. Then fast paths for answers alone are closed.
pub fn records<const R: usize>(x: &Tensor<R>) -> bool {
    x.device().is_autodiff()
}

/// Whether `x` is part of a training step: gradients are recorded, and the layers are not [at rest](at_rest).
pub fn training<const R: usize>(x: &Tensor<R>) -> bool {
    records(x) && !RESTS.get()
}

/// Dropout: zeroes single values with probability `rate` and scales the rest by `1 / (1 - rate)`.
pub fn dropout<const R: usize>(x: Tensor<R>, rate: f64) -> Tensor<R> {
    if rate <= 0.0 || !training(&x) {
        return x;
    }
    let mask = mask(&x, x.dims(), 1.0 - rate);
    x * mask
}

/// Stochastic depth, Huang et al. 2016 (arXiv:1603.09382): drops a residual branch `[B, T, D]` for
/// whole images with probability `rate` and scales the kept ones by `1 / (1 - rate)`.
pub fn drop_path(x: Tensor<3>, rate: f64) -> Tensor<3> {
    if rate <= 0.0 || !training(&x) {
        return x;
    }
    let [b, _, _] = x.dims();
    let mask = mask(&x, [b, 1, 1], 1.0 - rate);
    x * mask
}

/// Patch dropout (arXiv:2212.00794): keeps a random `max(1, floor(N (1 - rate)))` of the patches of `[B, prefix +
/// N, D]`. Each image draws its own patches; the prefix always stays. Kept patches are in random order, as in timm.
pub fn patch_dropout(x: Tensor<3>, prefix: usize, rate: f64) -> Tensor<3> {
    if rate <= 0.0 || !training(&x) {
        return x;
    }
    let [b, t, d] = x.dims();
    let n = t - prefix;
    let kept = (((n as f64) * (1.0 - rate)) as usize).max(1);
    let order: Vec<i64> = DROPS.with_borrow_mut(|drops| {
        let draw =
            |_| rand::seq::index::sample(drops, n, kept).into_iter().map(|i| i as i64).collect::<Vec<_>>();
        (0..b).flat_map(draw).collect()
    });
    let order = Tensor::<2, Int>::from_data(TensorData::new(order, [b, kept]), &x.device());
    let index = order.unsqueeze_dim::<3>(2).expand([b, kept, d]);
    let patches = x.clone().narrow(1, prefix, n).gather(1, index);
    if prefix == 0 { patches } else { Tensor::cat(vec![x.narrow(1, 0, prefix), patches], 1) }
}
