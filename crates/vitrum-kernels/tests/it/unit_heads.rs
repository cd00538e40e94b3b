//! Queries and keys of length 1: the fast path and the portable one against the definition, and short vectors.

use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum_kernels::{unit_heads, unit_heads_reference};

use crate::support::*;

type Op = fn(Tensor<3>, Tensor<1>) -> Tensor<3>;

/// The result, and the gradients of Σ y · w with respect to both arguments.
fn pass(op: Op, qkv: &Tensor<3>, scale: &Tensor<1>) -> [Vec<f64>; 3] {
    let device = qkv.device().autodiff();
    let x = Tensor::<3>::from_data(qkv.to_data(), (&device, qkv.dtype())).require_grad();
    let s = Tensor::<1>::from_data(scale.to_data(), (&device, scale.dtype())).require_grad();
    let y = op(x.clone(), s.clone());
    let w = random(y.dims(), 1.0, 99, &device, qkv.dtype());
    let grads = (y.clone() * w).sum().backward();
    [values(&y.inner()), values(&x.grad(&grads).unwrap()), values(&s.grad(&grads).unwrap())]
}

/// The largest difference, as a share of the largest value.
fn off(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-30f64, |max, x| max.max(x.abs()));
    found.iter().zip(expected).fold(0.0, |max: f64, (f, e)| max.max((f - e).abs())) / largest
}

#[test]
fn heads_of_length_1_fast_equals_the_definition() {
    let device = Device::flex();
    for ([b, t, a, e], seed) in
        [[2, 49, 3, 32], [1, 1, 1, 3], [3, 35, 2, 5], [1, 70, 4, 24], [2, 3, 2, 4]].into_iter().zip(1..)
    {
        let at = |dtype| {
            let qkv = random([b, t, 3 * a * e], 2.0, seed, &device, DType::F32).cast(dtype);
            (qkv, random([a], 1.0, seed + 50, &device, DType::F32).cast(dtype))
        };
        let (qkv, scale) = at(DType::F64);
        let expected = pass(unit_heads_reference, &qkv, &scale);
        // bf16 takes the portable path.
        for (dtype, limit) in [(DType::F32, 2e-6), (DType::F64, 1e-13), (DType::BF16, 4e-2)] {
            let (qkv, scale) = at(dtype);
            let found = pass(unit_heads, &qkv, &scale);
            assert_eq!(
                values(&unit_heads(qkv, scale)),
                found[0],
                "{dtype:?}: forward differs under autodiff"
            );
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let off = off(found, expected);
                assert!(off <= limit, "{b} {t} {a} {e} {dtype:?}, {index}: off by {off:e}");
            }
        }
    }
}

#[test]
fn short_heads_are_divided_by_the_bound_and_what_follows_has_finite_gradients() {
    let device = Device::flex();
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        // A query of zeros, one of 1e-13, a key of zeros, one of length 5; two values.
        let numbers = vec![0.0, 0.0, 6e-14, 8e-14, 0.0, 0.0, 3.0, 4.0, 7.0, 8.0, 9.0, 1.0];
        let qkv = Tensor::<3>::from_data(TensorData::new(numbers, [1, 1, 12]), (&device, dtype));
        let scale = Tensor::<1>::from_data(TensorData::new(vec![2.0, 3.0], [2]), (&device, dtype));
        let found = pass(unit_heads, &qkv, &scale);
        let expected = pass(unit_heads_reference, &qkv, &scale);
        let limit = if dtype == DType::BF16 { 2e-2 } else { 1e-6 };
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                found.iter().all(|x| x.is_finite()) && off(found, expected) < limit,
                "{dtype:?}: {found:?}"
            );
        }
        let near = |at: usize, x: f64| (found[0][at] - x).abs() <= limit * x.abs();
        assert!(near(2, 0.18) && near(3, 0.24) && near(6, 0.6) && near(7, 0.8), "{dtype:?}: {:?}", found[0]);
    }
}

#[test]
fn nan_is_the_length_of_a_head_with_nan() {
    let device = Device::flex();
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        let mut numbers = vec![1.0; 12];
        numbers[1] = f64::NAN;
        let qkv = Tensor::<3>::from_data(TensorData::new(numbers, [1, 1, 12]), (&device, dtype));
        let y = values(&unit_heads(qkv, Tensor::ones([2], (&device, dtype))));
        assert!(y[0].is_nan() && y[1].is_nan() && y[2..].iter().all(|y| y.is_finite()), "{dtype:?}: {y:?}");
    }
}

#[test]
fn no_tokens_no_heads() {
    let device = Device::flex();
    let y = unit_heads(Tensor::zeros([0, 3, 12], &device), Tensor::ones([2], &device));
    assert_eq!(y.dims(), [0, 3, 12]);
}

#[test]
#[should_panic(expected = "unit_heads: 10 numbers for three times 2 heads")]
fn heads_that_do_not_fit_are_refused() {
    let device = Device::flex();
    let _ = unit_heads(Tensor::zeros([1, 1, 10], &device), Tensor::zeros([2], &device));
}
