//! Helpers of the tests: seeded tensors, distances, central differences.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The CPU backend without and with gradients.
pub fn devices() -> (Device, Device) {
    (Device::flex(), Device::flex().autodiff())
}

/// Numbers in [-1, 1) · `size`, fixed by the seed.
pub fn random<const R: usize>(
    shape: [usize; R],
    size: f64,
    seed: u64,
    device: &Device,
    dtype: DType,
) -> Tensor<R> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| rng.random_range(-size..size)).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, dtype))
}

/// The numbers of a tensor as `f64`.
pub fn values<const R: usize>(x: &Tensor<R>) -> Vec<f64> {
    x.clone().cast(DType::F64).into_data().try_to_vec().expect("a float tensor")
}

/// The largest difference, relative to the largest magnitude of `expected`.
pub fn distance<const R: usize>(found: &Tensor<R>, expected: &Tensor<R>) -> f64 {
    distance_among(found, expected, f64::MIN_POSITIVE)
}

/// The largest difference, relative to the largest magnitude of `expected` or of the `terms` that cancel in it.
pub fn distance_among<const R: usize>(found: &Tensor<R>, expected: &Tensor<R>, terms: f64) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (values(found), values(expected));
    let largest = expected.iter().fold(terms, |m, x| m.max(x.abs()));
    found.iter().zip(&expected).fold(0.0, |worst, (f, e)| {
        let gap = (f - e).abs() / largest;
        if gap.is_nan() { f64::INFINITY } else { f64::max(worst, gap) }
    })
}

/// Central differences of `loss` with respect to every entry of `x` (which should be `f64`).
pub fn central_differences<const R: usize>(
    x: &Tensor<R>,
    step: f64,
    loss: impl Fn(Tensor<R>) -> f64,
) -> Tensor<R> {
    let (shape, device) = (x.dims(), x.device());
    let start = values(x);
    let moved = |i: usize, by: f64| {
        let mut at = start.clone();
        at[i] += by;
        loss(Tensor::from_data(TensorData::new(at, shape), (&device, DType::F64)))
    };
    let slopes = (0..start.len()).map(|i| (moved(i, step) - moved(i, -step)) / (2.0 * step)).collect();
    Tensor::from_data(TensorData::new::<f64, _>(slopes, shape), (&device, DType::F64))
}

/// Σ x · w as a number.
pub fn dot<const R: usize>(x: Tensor<R>, w: &Tensor<R>) -> f64 {
    values(&(x * w.clone())).iter().sum()
}

/// Runs `work` in a pool of `threads` threads.
pub fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool").install(work)
}

/// Context and gradients of qkv and bias for the loss Σ context · w.
pub fn with_gradients(
    op: impl Fn(Tensor<3>, Option<Tensor<4>>) -> Tensor<3>,
    qkv: Tensor<3>,
    bias: Option<Tensor<4>>,
    w: &Tensor<3>,
) -> (Tensor<3>, Tensor<3>, Option<Tensor<4>>) {
    let device = Device::flex().autodiff();
    let lift = |x: Tensor<3>| Tensor::from_data(x.clone().into_data(), (&device, x.dtype()));
    let qkv = lift(qkv).require_grad();
    let bias =
        bias.map(|x| Tensor::<4>::from_data(x.clone().into_data(), (&device, x.dtype())).require_grad());
    let context = op(qkv.clone(), bias.clone());
    let grads = (context.clone() * lift(w.clone())).sum().backward();
    let d_qkv = qkv.grad(&grads).expect("a gradient of qkv");
    let d_bias = bias.map(|bias| bias.grad(&grads).expect("a gradient of the bias"));
    (context.inner(), d_qkv, d_bias)
}
