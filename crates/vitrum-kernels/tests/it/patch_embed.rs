//! The projection of patches: the fast path against the convolution, gradients, edge cases.

use burn::tensor::{DType, Device, Tensor};
use vitrum_kernels::{patch_embed, patch_embed_reference};

use crate::support::*;

type Op = fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>) -> Tensor<3>;

fn fast(images: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<3> {
    patch_embed(images, weight, bias)
}

/// Images `[B, C, H, W]` and kernel `[D, P, Q]`.
struct Case([usize; 4], [usize; 3]);

/// Images, weight and bias of a case.
fn parents(case: &Case, dtype: DType) -> (Tensor<4>, Tensor<4>, Tensor<1>) {
    let Case(images, [d, p, q]) = *case;
    let device = Device::flex();
    let weight = random([d, images[1], p, q], 0.5, 2, &device, dtype);
    (random(images, 1.0, 1, &device, dtype), weight, random([d], 1.0, 3, &device, dtype))
}

/// Tokens, and the gradients of images, weight and bias for a loss Σ tokens · w.
fn pass(case: &Case, with_bias: bool, compute: DType, op: Op) -> Vec<Vec<f64>> {
    let device = Device::flex().autodiff();
    let (images, weight, bias) = parents(case, DType::F32); // the same numbers for every type
    let lift4 = |x: Tensor<4>| Tensor::<4>::from_data(x.into_data(), (&device, compute)).require_grad();
    let (images, weight) = (lift4(images), lift4(weight));
    let bias = Tensor::<1>::from_data(bias.into_data(), (&device, compute)).require_grad();
    let tokens = op(images.clone(), weight.clone(), with_bias.then(|| bias.clone()));
    let w = random(tokens.dims(), 1.0, 4, &device, compute);
    let grads = (tokens.clone() * w).sum().backward();
    let mut found = vec![values(&tokens.inner())];
    found.push(values(&images.grad(&grads).expect("d_images")));
    found.push(values(&weight.grad(&grads).expect("d_weight")));
    found.extend(bias.grad(&grads).map(|d_bias| values(&d_bias)));
    assert_eq!(found.len(), 3 + usize::from(with_bias));
    found
}

/// The largest differences, each relative to the largest expected number.
fn distances(found: &[Vec<f64>], expected: &[Vec<f64>]) -> Vec<f64> {
    let distance = |(found, expected): (&Vec<f64>, &Vec<f64>)| {
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
        let gap = |(f, e): (&f64, &f64)| if f.is_nan() { f64::INFINITY } else { (f - e).abs() / largest };
        found.iter().zip(expected).map(gap).fold(0.0, f64::max)
    };
    found.iter().zip(expected).map(distance).collect()
}

const CASES: [Case; 6] = [
    Case([2, 3, 32, 48], [20, 16, 16]),
    Case([1, 1, 7, 5], [3, 1, 1]),
    Case([3, 2, 23, 30], [17, 4, 7]),
    Case([2, 3, 29, 31], [33, 14, 14]), // rows and columns left over
    Case([1, 4, 6, 6], [5, 6, 6]),      // one patch
    Case([5, 3, 112, 112], [48, 8, 8]), // several blocks
];

#[test]
fn patches_fast_equals_the_convolution() {
    for case in &CASES {
        for with_bias in [true, false] {
            let expected = pass(case, with_bias, DType::F64, patch_embed_reference);
            for (dtype, limit) in [(DType::F32, 2e-6), (DType::F64, 1e-13)] {
                let distances = distances(&pass(case, with_bias, dtype, fast), &expected);
                let name = format!("{:?} {:?} {with_bias} {dtype:?}", case.0, case.1);
                assert!(distances.iter().all(|&d| d < limit), "{name}: {distances:?}");
            }
        }
    }
}

#[test]
fn half_precision_patches_take_the_portable_way() {
    for case in &CASES[2..5] {
        let expected = pass(case, true, DType::F64, patch_embed_reference);
        let distances = distances(&pass(case, true, DType::F16, fast), &expected);
        assert!(distances.iter().all(|&d| d < 2e-2), "{distances:?}");
    }
}

#[test]
fn patches_do_not_depend_on_threads_or_on_other_images() {
    let case = &CASES[5];
    let all = |threads| with_threads(threads, || pass(case, true, DType::F32, fast));
    let one = all(1);
    assert_eq!(one, all(2));
    assert_eq!(one, all(3));
    let (images, weight, bias) = parents(case, DType::F32);
    let tokens = values(&patch_embed(images.clone(), weight.clone(), bias.clone()));
    let third = values(&patch_embed(images.slice_dim(0, 2..3), weight, bias));
    assert_eq!(third, tokens[2 * third.len()..3 * third.len()]);
}

#[test]
fn views_and_frozen_images() {
    let tracking = Device::flex().autodiff();
    let images = random([2, 9, 8, 3], 1.0, 1, &Device::flex(), DType::F32).permute([0, 3, 1, 2]);
    let weight = random([4, 4, 3, 6], 1.0, 2, &Device::flex(), DType::F32).permute([3, 2, 0, 1]);
    let found = patch_embed(images.clone(), weight.clone(), None);
    assert!(distance(&found, &patch_embed_reference(images.clone(), weight.clone(), None)) < 1e-6);
    let images = Tensor::<4>::from_data(images.into_data(), &tracking);
    let weight = Tensor::<4>::from_data(weight.into_data(), &tracking).require_grad();
    let grads = patch_embed(images.clone(), weight.clone(), None).sum().backward();
    assert!(images.grad(&grads).is_none() && weight.grad(&grads).is_some());
}

#[test]
fn no_images_no_tokens() {
    let device = Device::flex();
    let weight = Tensor::<4>::ones([5, 3, 4, 4], &device);
    assert_eq!(patch_embed(Tensor::zeros([0, 3, 8, 8], &device), weight.clone(), None).dims(), [0, 4, 5]);
    assert_eq!(patch_embed(Tensor::zeros([2, 3, 3, 9], &device), weight, None).dims(), [2, 0, 5]);
}

#[test]
#[should_panic(expected = "images must have the 3 channels")]
fn channels_must_fit() {
    let device = Device::flex();
    patch_embed(Tensor::zeros([1, 1, 8, 8], &device), Tensor::zeros([5, 3, 4, 4], &device), None);
}
