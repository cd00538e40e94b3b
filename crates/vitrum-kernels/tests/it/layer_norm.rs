//! Layer normalisation and RMSNorm: the fast path against its definition, gradients, edge cases.

use burn::tensor::{DType, Device, Tensor};
use vitrum_kernels::{layer_norm, layer_norm_reference, rms_norm, rms_norm_reference};

use crate::support::*;

const EPS: f64 = 1e-6;

type Gradients = (Tensor<2>, Tensor<2>, Tensor<1>, Option<Tensor<1>>);

/// y and gradients of x, weight and bias for the loss Σ y · w.
fn with_gradients(
    op: impl Fn(Tensor<2>, Tensor<1>, Option<Tensor<1>>) -> Tensor<2>,
    x: &Tensor<2>,
    with_bias: bool,
    w: &Tensor<2>,
) -> Gradients {
    let device = Device::flex().autodiff();
    let (d, dtype) = (x.dims()[1], x.dtype());
    let lift = |x: &Tensor<2>| Tensor::<2>::from_data(x.clone().into_data(), (&device, dtype));
    let x = lift(x).require_grad();
    let weight = random([d], 2.0, 5, &device, dtype).require_grad();
    let bias = with_bias.then(|| random([d], 2.0, 6, &device, dtype).require_grad());
    let y = op(x.clone(), weight.clone(), bias.clone());
    let grads = (y.clone() * lift(w)).sum().backward();
    let found = "a gradient";
    let d_bias = bias.map(|bias| bias.grad(&grads).expect(found));
    (y.inner(), x.grad(&grads).expect(found), weight.grad(&grads).expect(found), d_bias)
}

fn compare(rows: usize, d: usize, with_bias: bool, dtype: DType) {
    let device = Device::flex();
    let x = random([rows, d], 3.0, (rows * d) as u64, &device, dtype) + 1.0;
    let w = random([rows, d], 1.0, 2, &device, dtype);
    let fast = with_gradients(|x, w, b| layer_norm(x, w, b, EPS), &x, with_bias, &w);
    // The f32 reference loses digits in rows of two similar numbers, and in sums over very many rows.
    let precise = if d < 4 || rows > 1000 { DType::F64 } else { dtype };
    let (slow_x, slow_w) = (x.clone().cast(precise), w.cast(precise));
    let slow = with_gradients(|x, w, b| layer_norm_reference(x, w, b, EPS), &slow_x, with_bias, &slow_w);
    let name = format!("[{rows}, {d}] bias {with_bias} {dtype:?}");
    let limit = if dtype == DType::F64 { 1e-13 } else { 2e-6 };
    // The gradient of x is a difference of terms of about 2 / deviation. In short rows they cancel almost completely.
    let centred = x.clone() - x.clone().mean_dim(1);
    let variance = (centred.clone() * centred).mean_dim(1);
    let terms = values(&(variance + EPS).sqrt().recip()).into_iter().fold(0.0, f64::max) * 2.0;
    let distances = [
        distance(&fast.0, &slow.0),
        distance_among(&fast.1, &slow.1, terms),
        distance_among(&fast.2, &slow.2, 1.0),
        fast.3.zip(slow.3).map_or(0.0, |(fast, slow)| distance(&fast, &slow)),
    ];
    assert!(distances.iter().all(|&d| d <= limit), "{name}: {distances:?}");
}

#[test]
fn fast_equals_reference_at_odd_sizes() {
    for dtype in [DType::F32, DType::F64] {
        for rows in [1, 2, 65, 197] {
            for d in [1, 2, 7, 16, 33, 192, 384, 771] {
                for with_bias in [true, false] {
                    compare(rows, d, with_bias, dtype);
                }
            }
        }
        compare(20_000, 5, true, dtype); // more rows than all blocks of the backward pass at their smallest
    }
}

#[test]
fn gradients_are_those_of_central_differences() {
    let device = Device::flex();
    let x = random([3, 9], 2.0, 1, &device, DType::F64);
    let w = random([3, 9], 1.0, 2, &device, DType::F64);
    let weight = random([9], 2.0, 5, &device, DType::F64);
    let bias = random([9], 2.0, 6, &device, DType::F64);
    let (_, d_x, d_weight, d_bias) = with_gradients(|x, w, b| layer_norm(x, w, b, 0.1), &x, true, &w);
    let loss = |x: &Tensor<2>, weight: &Tensor<1>, bias: &Tensor<1>| {
        dot(layer_norm(x.clone(), weight.clone(), bias.clone(), 0.1), &w)
    };
    let expected = central_differences(&x, 1e-5, |x| loss(&x, &weight, &bias));
    assert!(distance(&d_x, &expected) < 1e-8);
    let expected = central_differences(&weight, 1e-5, |weight| loss(&x, &weight, &bias));
    assert!(distance(&d_weight, &expected) < 1e-8);
    let expected = central_differences(&bias, 1e-5, |bias| loss(&x, &weight, &bias));
    assert!(distance(&d_bias.expect("a bias"), &expected) < 1e-8);
}

/// RMSNorm in the form of [`with_gradients`].
fn rms(op: impl Fn(Tensor<2>, Tensor<1>) -> Tensor<2>, x: &Tensor<2>, w: &Tensor<2>) -> Gradients {
    with_gradients(|x, weight, _| op(x, weight), x, false, w)
}

#[test]
fn rms_norm_equals_its_reference_at_odd_sizes() {
    let device = Device::flex();
    for dtype in [DType::F32, DType::F64] {
        for (rows, d) in [(1, 1), (2, 7), (65, 16), (197, 33), (3, 384), (65, 771), (20_000, 5)] {
            // A mean far from zero shows that nothing is centred.
            let x = random([rows, d], 1.0, (rows * d) as u64, &device, dtype) + 3.0;
            let w = random([rows, d], 1.0, 2, &device, dtype);
            let fast = rms(|x, weight| rms_norm(x, weight, EPS), &x, &w);
            let precise = if rows > 1000 || d == 1 { DType::F64 } else { dtype };
            let (slow_x, slow_w) = (x.clone().cast(precise), w.cast(precise));
            let slow = rms(|x, weight| rms_norm_reference(x, weight, EPS), &slow_x, &slow_w);
            let limit = if dtype == DType::F64 { 1e-13 } else { 2e-6 };
            let distances = [
                distance(&fast.0, &slow.0),
                distance_among(&fast.1, &slow.1, 1.0),
                distance_among(&fast.2, &slow.2, 1.0),
            ];
            assert!(distances.iter().all(|&d| d <= limit), "[{rows}, {d}] {dtype:?}: {distances:?}");
            let centred = layer_norm(x.clone(), Tensor::ones([d], (&device, dtype)), None, EPS);
            let plain = rms_norm(x, Tensor::ones([d], (&device, dtype)), EPS);
            assert!(distance(&plain, &centred) > 0.1, "[{rows}, {d}] {dtype:?}: LayerNorm gives the same");
        }
    }
}

#[test]
fn gradients_of_rms_norm_are_those_of_central_differences() {
    let device = Device::flex();
    let x = random([3, 9], 2.0, 1, &device, DType::F64);
    let w = random([3, 9], 1.0, 2, &device, DType::F64);
    let weight = random([9], 2.0, 5, &device, DType::F64);
    let (_, d_x, d_weight, _) = rms(|x, weight| rms_norm(x, weight, 0.1), &x, &w);
    let loss = |x: &Tensor<2>, weight: &Tensor<1>| dot(rms_norm(x.clone(), weight.clone(), 0.1), &w);
    assert!(distance(&d_x, &central_differences(&x, 1e-5, |x| loss(&x, &weight))) < 1e-8);
    assert!(distance(&d_weight, &central_differences(&weight, 1e-5, |weight| loss(&x, &weight))) < 1e-8);
}

#[test]
fn rms_norm_of_nothing_and_of_half_precision() {
    let device = Device::flex().autodiff();
    for shape in [[0, 8], [3, 0]] {
        let x = Tensor::<2>::zeros(shape, &device).require_grad();
        let weight = Tensor::<1>::ones([shape[1]], &device).require_grad();
        let grads = rms_norm(x.clone(), weight.clone(), EPS).sum().backward();
        assert_eq!(x.grad(&grads).expect("a gradient").dims(), shape);
        assert_eq!(weight.grad(&grads).expect("a gradient").dims(), [shape[1]]);
    }
    let device = Device::flex();
    let x = random([6, 40], 1.0, 1, &device, DType::F32);
    let w = random([6, 40], 1.0, 2, &device, DType::F32);
    let op = |x, weight| rms_norm(x, weight, 1e-3);
    let (full, half) = (rms(op, &x, &w), rms(op, &x.cast(DType::F16), &w.cast(DType::F16)));
    assert!(distance(&half.0.cast(DType::F32), &full.0) < 1e-2);
    assert!(distance(&half.1.cast(DType::F32), &full.1) < 1e-2);
    assert!(distance(&half.2.cast(DType::F32), &full.2) < 1e-2);
}

#[test]
fn almost_constant_rows_keep_their_deviation() {
    let device = Device::flex();
    // Deviations from 0 to one ulp of the mean and more. Here eps matters.
    for (mean, size) in [(1000.0, 1e-3_f64), (1000.0, 2e-4), (-5.0, 1e-6), (3.0, 0.0)] {
        let noise = random([4, 384], size.max(f64::MIN_POSITIVE), 1, &device, DType::F64) + mean;
        let x = noise.cast(DType::F32);
        let w = random([4, 384], 1.0, 2, &device, DType::F32);
        let fast = with_gradients(|x, w, b| layer_norm(x, w, b, EPS), &x, true, &w);
        let wide = |x: &Tensor<2>| x.clone().cast(DType::F64);
        let exact = with_gradients(|x, w, b| layer_norm_reference(x, w, b, EPS), &wide(&x), true, &wide(&w));
        // weight and bias are drawn from the same numbers in each type, so they differ only by rounding.
        let distances =
            [distance(&fast.0, &exact.0), distance(&fast.1, &exact.1), distance(&fast.2, &exact.2)];
        let largest = if size == 0.0 { 0.0 } else { distances[2] };
        assert!(distances[0] < 2e-6 && distances[1] < 2e-6 && largest < 2e-6, "{mean} {size}: {distances:?}");
    }
}

#[test]
fn a_first_number_far_from_the_others_does_no_harm() {
    let device = Device::flex();
    let x = random([2, 768], 1.0, 1, &device, DType::F32);
    let x = x.slice_assign([0..2, 0..1], Tensor::full([2, 1], 3e4, &device));
    let ones = Tensor::<1>::ones([768], &device);
    let exact = layer_norm_reference(x.clone().cast(DType::F64), ones.clone().cast(DType::F64), None, EPS);
    assert!(distance(&layer_norm(x, ones, None, EPS), &exact) < 1e-6);
}

#[test]
fn views_and_other_ranks() {
    let device = Device::flex();
    let x = random([4, 33, 5], 1.0, 1, &device, DType::F32).permute([2, 0, 1]); // [5, 4, 33]
    let weight = random([66], 1.0, 2, &device, DType::F32).slice([burn::tensor::Slice::new(0, None, 2)]);
    let bias = random([40], 1.0, 3, &device, DType::F32).narrow(0, 7, 33);
    let fast = layer_norm(x.clone(), weight.clone(), bias.clone(), EPS);
    let slow = layer_norm_reference(x.clone(), weight.clone(), Some(bias.clone()), EPS);
    assert!(distance(&fast, &slow) < 2e-6);
    let row = layer_norm(x.slice([1..2, 2..3]).reshape([33]), weight, bias, EPS);
    assert!(distance(&row.reshape([1, 1, 33]), &fast.slice([1..2, 2..3])) < 2e-6);
}

#[test]
fn nothing_in_nothing_out() {
    let device = Device::flex().autodiff();
    for shape in [[0, 8], [3, 0]] {
        let x = Tensor::<2>::zeros(shape, &device).require_grad();
        let weight = Tensor::<1>::ones([shape[1]], &device).require_grad();
        let y = layer_norm(x.clone(), weight.clone(), weight.clone(), EPS);
        assert_eq!(y.dims(), shape);
        let grads = y.sum().backward();
        assert_eq!(x.grad(&grads).expect("a gradient").dims(), shape);
        assert_eq!(weight.grad(&grads).expect("a gradient").dims(), [shape[1]]);
    }
}

#[test]
fn half_precision_takes_the_portable_way() {
    let device = Device::flex();
    let x = random([6, 40], 1.0, 1, &device, DType::F32);
    let ones = Tensor::<1>::ones([40], &device);
    let half = layer_norm(x.clone().cast(DType::F16), ones.clone().cast(DType::F16), None, EPS);
    assert!(distance(&half.cast(DType::F32), &layer_norm(x.clone(), ones, None, EPS)) < 1e-2);
    let w = random([6, 40], 1.0, 2, &device, DType::F32);
    let op = |x, w, b| layer_norm(x, w, b, 1e-3);
    let full = with_gradients(op, &x, true, &w);
    let half = with_gradients(op, &x.cast(DType::F16), true, &w.cast(DType::F16));
    assert!(distance(&half.1.cast(DType::F32), &full.1) < 1e-2);
    assert!(distance(&half.2.cast(DType::F32), &full.2) < 1e-2);
    let (half, full) = (half.3.expect("a gradient"), full.3.expect("a gradient"));
    assert!(distance(&half.cast(DType::F32), &full) < 1e-2);
}

#[test]
fn one_thread_and_many_give_the_same_bits() {
    let device = Device::flex();
    let x = random([1576, 192], 1.0, 1, &device, DType::F32);
    let w = random([1576, 192], 1.0, 2, &device, DType::F32);
    let run = |threads| {
        let (x, w) = (x.clone(), w.clone());
        with_threads(threads, move || {
            let (y, d_x, d_weight, d_bias) = with_gradients(|x, w, b| layer_norm(x, w, b, EPS), &x, true, &w);
            (values(&y), values(&d_x), values(&d_weight), d_bias.map(|d| values(&d)))
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
#[should_panic(expected = "the weight must have the 8 entries")]
fn the_weight_must_fit() {
    let device = Device::flex();
    layer_norm(Tensor::<2>::zeros([2, 8], &device), Tensor::ones([7], &device), None, EPS);
}
