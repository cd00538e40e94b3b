//! Attention that is linear in the number of tokens — Choromanski et al. 2020, "Rethinking attention with Performers",
//! arXiv:2009.14794.
//!
//! ```text
//! phi(x) = exp(w x - |x|²/2) / sqrt(m)                     w: m random directions, never trained
//! y = phi(q) (phi(k)ᵀ v) / (phi(q) · Σ phi(k) + 1e-8)      exp(q·k) is the mean of phi(q)·phi(k) over w
//! ```

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

use super::lazy;

/// Added to the denominator. It is zero in half precision, which is why the sums are in f32 at least.
const EPS: f64 = 1e-8;

/// Random directions, never trained. Passes in a narrower type have them as they are.
#[derive(Module, Debug)]
pub struct Directions {
    /// `[m, E]`.
    pub w: Param<Tensor<2>>,
}

impl Directions {
    /// `m` directions of zeros.
    pub fn new(m: usize, width: usize, device: &Device) -> Self {
        Self { w: lazy([m, width], device, false, move |device| Tensor::zeros([m, width], device)) }
    }
}

/// Positive random features: `[B, T, E] -> [B, T, m]`, for directions `[m, E]`.
///
/// # Panics
/// If the width or the float type is not that of the directions.
pub fn features(x: Tensor<3>, directions: Tensor<2>) -> Tensor<3> {
    let m = directions.dims()[0] as f64;
    let half = (x.clone() * x.clone()).sum_dim(2) / 2.0; // [B, T, 1]
    let along = x.matmul(directions.transpose().unsqueeze()); // [B, T, m]
    // A product: Burn rounds the gradient of a quotient by a number to f32.
    (along - half).exp() * m.powf(-0.5)
}

/// `softmax(q kᵀ) v` by random features, without a scale: `[B, T, E]` each, `w` is `[m, E]`.
///
/// # Panics
/// If the shapes differ, or the float types.
pub fn attention([q, k, v]: [Tensor<3>; 3], w: Tensor<2>) -> Tensor<3> {
    let (k, q) = (features(k, w.clone()), features(q, w)); // [B, T, m]
    let whole = (q.clone() * k.clone().sum_dim(1)).sum_dim(2); // [B, T, 1]
    let sums = k.swap_dims(1, 2).matmul(v); // [B, m, E]
    q.matmul(sums) / (whole + EPS)
}

/// The numbers in f32 if they are narrower.
pub fn widened<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}
