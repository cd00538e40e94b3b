//! Attention: the fast path against its definition, gradients, edge cases.

use burn::tensor::{DType, Device, Tensor};
use vitrum_kernels::{attention, attention_of_first, attention_reference, attention_weights, has_fast_path};

use crate::support::*;

/// The largest distance allowed between fast path and reference.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F64 { 1e-13 } else { 2e-6 }
}

/// A packed projection, and a bias `[bias[0], bias[1], T, T]` if `bias` is given.
fn inputs(
    [b, t, a, e]: [usize; 4],
    bias: Option<[usize; 2]>,
    device: &Device,
    dtype: DType,
) -> (Tensor<3>, Option<Tensor<4>>) {
    let seed = (b * 1000 + t * 100 + a * 10 + e) as u64;
    let qkv = random([b, t, 3 * a * e], 2.0, seed, device, dtype);
    (qkv, bias.map(|[b, a]| random([b, a, t, t], 2.0, seed + 1, device, dtype)))
}

/// Compares forward and gradients of fast path and reference.
fn compare(shape: [usize; 4], bias: Option<[usize; 2]>, dtype: DType) {
    compare_first(shape[1], shape, bias, dtype);
}

/// The same for the first tokens only.
fn compare_first(queries: usize, shape: [usize; 4], bias: Option<[usize; 2]>, dtype: DType) {
    let [b, _, a, e] = shape;
    let (device, _) = devices();
    let (qkv, bias_values) = inputs(shape, bias, &device, dtype);
    let scale = (e as f64).powf(-0.5);
    let op = |qkv, bias| attention_of_first(qkv, queries, a, scale, bias);
    let reference = |qkv, bias| attention_reference(qkv, a, scale, bias).narrow(1, 0, queries);
    let plain = op(qkv.clone(), bias_values.clone());
    let w = random([b, queries, a * e], 1.0, 7, &device, dtype);
    let fast = with_gradients(op, qkv.clone(), bias_values.clone(), &w);
    let slow = with_gradients(reference, qkv, bias_values, &w);
    let name = format!("{queries} of {shape:?} bias {bias:?} {dtype:?}");
    let limit = tolerance(dtype);
    assert_eq!(values(&plain), values(&fast.0), "{name}: forward differs under autodiff");
    // Terms are up to 2 in the context, and about 2 (gradient times value) in the gradients. They may cancel.
    let forward = distance_among(&fast.0, &slow.0, 1.0);
    assert!(forward <= limit, "{name}: context is off by {forward:e}");
    // Gradients are sums over up to T more rows.
    let d_qkv = distance_among(&fast.1, &slow.1, 1.0);
    assert!(d_qkv <= 2.0 * limit, "{name}: gradient of qkv is off by {d_qkv:e}");
    if let (Some(fast), Some(slow)) = (fast.2, slow.2) {
        let d_bias = distance_among(&fast, &slow, 1.0);
        assert!(d_bias <= 2.0 * limit, "{name}: gradient of the bias is off by {d_bias:e}");
    }
}

#[test]
fn fast_equals_reference_at_odd_sizes() {
    assert!(
        has_fast_path(&Device::flex(), DType::F32) && has_fast_path(&Device::flex().autodiff(), DType::F64)
    );
    for dtype in [DType::F32, DType::F64] {
        for (t, b) in [(1, 3), (2, 2), (7, 1), (65, 2), (197, 1), (257, 1)] {
            for (e, a) in [(1, 2), (3, 3), (16, 1), (64, 2), (72, 1), (80, 2)] {
                compare([b, t, a, e], None, dtype);
            }
        }
    }
}

#[test]
fn fast_equals_reference_with_every_kind_of_bias() {
    for dtype in [DType::F32, DType::F64] {
        for bias in [[1, 1], [1, 3], [2, 1], [2, 3]] {
            for (t, e) in [(1, 4), (7, 3), (49, 32), (130, 16), (197, 5)] {
                compare([2, t, 3, e], Some(bias), dtype);
            }
        }
        // More heads per slot than parts, and a number of heads that the parts do not divide.
        compare([7, 9, 3, 4], Some([1, 3]), dtype);
        compare([7, 9, 3, 4], Some([1, 1]), dtype);
        compare([1, 9, 5, 4], Some([1, 1]), dtype);
    }
}

#[test]
fn the_first_tokens_alone_get_what_they_get_among_all() {
    for dtype in [DType::F32, DType::F64] {
        for (queries, t) in [(1, 1), (1, 2), (1, 197), (2, 65), (65, 130), (129, 130)] {
            for bias in [None, Some([1, 1]), Some([1, 3]), Some([2, 3])] {
                compare_first(queries, [2, t, 3, 16], bias, dtype);
            }
        }
        let (device, _) = devices();
        let (qkv, bias) = inputs([2, 197, 3, 20], Some([1, 3]), &device, dtype);
        let all = attention(qkv.clone(), 3, 0.3, bias.clone());
        for queries in [1, 17, 64, 100, 197] {
            let some = attention_of_first(qkv.clone(), queries, 3, 0.3, bias.clone());
            assert_eq!(some.dims(), [2, queries, 60]);
            assert_eq!(values(&some), values(&all.clone().narrow(1, 0, queries)), "to the bit");
        }
    }
}

#[test]
#[should_panic(expected = "6 queries of 5 tokens")]
fn more_queries_than_tokens_are_refused() {
    attention_of_first(random([1, 5, 12], 1.0, 1, &Device::flex(), DType::F32), 6, 2, 0.5, None);
}

#[test]
fn gradients_are_those_of_central_differences() {
    let (device, _) = devices();
    for (shape, bias) in [([2, 3, 2, 3], Some([1, 2])), ([1, 5, 1, 2], Some([1, 1])), ([2, 4, 1, 5], None)] {
        let [b, t, a, e] = shape;
        let scale = 0.7;
        let (qkv, bias) = inputs(shape, bias, &device, DType::F64);
        let w = random([b, t, a * e], 1.0, 3, &device, DType::F64);
        let op = |qkv, bias| attention(qkv, a, scale, bias);
        let (_, d_qkv, d_bias) = with_gradients(op, qkv.clone(), bias.clone(), &w);
        let expected = central_differences(&qkv, 1e-5, |qkv| dot(op(qkv, bias.clone()), &w));
        assert!(distance(&d_qkv, &expected) < 1e-8, "qkv {shape:?}");
        if let (Some(bias), Some(d_bias)) = (bias, d_bias) {
            let expected = central_differences(&bias, 1e-5, |bias| dot(op(qkv.clone(), Some(bias)), &w));
            assert!(distance(&d_bias, &expected) < 1e-8, "bias {shape:?}");
        }
    }
}

#[test]
fn only_what_requires_gradients_gets_them() {
    let device = Device::flex().autodiff();
    let qkv = random([1, 5, 12], 1.0, 1, &device, DType::F32);
    let bias = random([1, 2, 5, 5], 1.0, 2, &device, DType::F32);
    let fixed = attention(qkv.clone(), 2, 0.5, Some(bias.clone()));
    assert!(!fixed.is_require_grad());
    let bias = bias.require_grad();
    let grads = attention(qkv.clone(), 2, 0.5, Some(bias.clone())).sum().backward();
    assert!(bias.grad(&grads).is_some() && qkv.grad(&grads).is_none());
    // A bias from a device without gradients is a constant.
    let constant = random([1, 2, 5, 5], 1.0, 2, &Device::flex(), DType::F32);
    let qkv = qkv.require_grad();
    let grads = attention(qkv.clone(), 2, 0.5, Some(constant)).sum().backward();
    assert!(qkv.grad(&grads).is_some());
}

#[test]
fn views_need_not_lie_in_one_piece() {
    let (device, _) = devices();
    let wide = random([2, 24, 40], 1.0, 5, &device, DType::F32);
    let transposed = wide.clone().swap_dims(1, 2); // [2, 40, 24]
    let narrowed = wide.narrow(1, 3, 21).narrow(2, 4, 24); // [2, 21, 24]
    for qkv in [transposed, narrowed] {
        let t = qkv.dims()[1];
        let bias = random([t, t, 1, 2], 1.0, 6, &device, DType::F32).permute([2, 3, 1, 0]);
        let fast = attention(qkv.clone(), 2, 0.5, Some(bias.clone()));
        assert!(distance(&fast, &attention_reference(qkv, 2, 0.5, Some(bias))) < 2e-6);
    }
}

#[test]
fn huge_scores_and_masks_stay_finite_and_right() {
    let (device, _) = devices();
    let [b, t, a, e] = [2, 150, 2, 16];
    let qkv = random([b, t, 3 * a * e], 60.0, 9, &device, DType::F32); // scores of some ten thousand
    let w = random([b, t, a * e], 1.0, 3, &device, DType::F32);
    let fast = with_gradients(|qkv, bias| attention(qkv, a, 1.0, bias), qkv.clone(), None, &w);
    let wide = |qkv: Tensor<3>| qkv.cast(DType::F64);
    let exact = with_gradients(
        |qkv, bias| attention_reference(qkv, a, 1.0, bias),
        wide(qkv.clone()),
        None,
        &wide(w.clone()),
    );
    assert!(values(&fast.0).iter().chain(&values(&fast.1)).all(|x| x.is_finite()));
    // A score of 1e4 has an error of 5e-4 in f32, and so have the weights of near ties.
    assert!(distance(&fast.0, &exact.0) < 5e-3);

    // Query i sees keys up to i. Query 3, and every query of the second image, sees no key.
    let qkv = random([b, t, 3 * a * e], 2.0, 10, &device, DType::F32);
    let mask: Vec<f32> = (0..b * t * t)
        .map(|at| {
            let (image, i, j) = (at / t / t, at / t % t, at % t);
            if j > i || i == 3 || image == 1 { f32::NEG_INFINITY } else { 0.0 }
        })
        .collect();
    let mask = Tensor::<4>::from_data(burn::tensor::TensorData::new(mask, [b, 1, t, t]), &device);
    let fast = with_gradients(|qkv, bias| attention(qkv, a, 0.25, bias), qkv.clone(), Some(mask.clone()), &w);
    let slow = with_gradients(
        |qkv, bias| attention_reference(qkv, a, 0.25, bias),
        qkv.clone(),
        Some(mask.clone()),
        &w,
    );
    assert!(distance(&fast.0, &slow.0) < 2e-6);
    assert!(distance(&fast.1, &slow.1) < 4e-6);
    let empty = fast.0.clone().narrow(0, 1, 1);
    assert_eq!(values(&empty).iter().map(|x| x.abs()).sum::<f64>(), 0.0);
    // A masked key has a weight of exactly zero.
    let spoiled = qkv
        .clone()
        .slice_assign([0..1, t - 1..t, 0..3 * a * e], Tensor::full([1, 1, 3 * a * e], 9.0, &device));
    let other = attention(spoiled, a, 0.25, Some(mask));
    let head = |x: Tensor<3>| values(&x.narrow(0, 0, 1).narrow(1, 0, t - 1));
    assert_eq!(head(other), head(fast.0));
}

#[test]
fn nan_is_not_swallowed() {
    let (device, _) = devices();
    let qkv = random([1, 70, 24], 1.0, 1, &device, DType::F32);
    let spoiled = qkv.slice_assign([0..1, 40..41, 8..9], Tensor::full([1, 1, 1], f32::NAN, &device)); // one key
    let context = attention(spoiled, 2, 0.5, None);
    assert!(values(&context.narrow(2, 0, 4)).iter().all(|x| x.is_nan()));
}

#[test]
fn accuracy_is_that_of_single_precision() {
    let (device, _) = devices();
    let (qkv, _) = inputs([1, 577, 2, 64], None, &device, DType::F32);
    let exact = attention_reference(qkv.clone().cast(DType::F64), 2, 0.125, None);
    let reference = distance(&attention_reference(qkv.clone(), 2, 0.125, None), &exact);
    let error = distance(&attention(qkv, 2, 0.125, None), &exact);
    assert!(error < 1e-6, "{error:e}; of the reference in f32: {reference:e}");
}

#[test]
fn weights_are_the_softmax_of_the_scores() {
    let (device, _) = devices();
    let (qkv, bias) = inputs([2, 9, 3, 4], Some([1, 3]), &device, DType::F64);
    let weights = attention_weights(qkv.clone(), 3, 0.5, bias.clone());
    assert_eq!(weights.dims(), [2, 3, 9, 9]);
    assert!(values(&weights.clone().sum_dim(3)).iter().all(|sum| (sum - 1.0).abs() < 1e-12));
    let v = qkv.clone().narrow(2, 24, 12).reshape([2, 9, 3, 4]).swap_dims(1, 2);
    let context = weights.matmul(v).swap_dims(1, 2).reshape([2, 9, 12]);
    assert!(distance(&attention(qkv, 3, 0.5, bias), &context) < 1e-13);
}

#[test]
fn nothing_in_nothing_out() {
    let (device, autodiff) = devices();
    for shape in [[0, 5, 12], [2, 0, 12], [2, 5, 0]] {
        let [b, t, d3] = shape;
        assert_eq!(attention(Tensor::zeros(shape, &device), 2, 1.0, None).dims(), [b, t, d3 / 3]);
        let qkv = Tensor::<3>::zeros(shape, &autodiff).require_grad();
        let bias = Tensor::<4>::zeros([1, 2, t, t], &autodiff).require_grad();
        let grads = attention(qkv.clone(), 2, 1.0, Some(bias.clone())).sum().backward();
        assert_eq!(qkv.grad(&grads).expect("a gradient").dims(), shape);
        assert_eq!(bias.grad(&grads).expect("a gradient").dims(), [1, 2, t, t]);
    }
}

#[test]
fn half_precision_takes_the_portable_way() {
    let (device, _) = devices();
    let (qkv, _) = inputs([1, 20, 2, 8], None, &device, DType::F32);
    let half = attention(qkv.clone().cast(DType::F16), 2, 0.3, None);
    assert_eq!(half.dtype(), DType::F16);
    assert!(!has_fast_path(&device, DType::F16));
    assert!(distance(&half.cast(DType::F32), &attention(qkv, 2, 0.3, None)) < 1e-2);
    for (queries, bias) in [(20, [1, 2]), (20, [2, 1]), (3, [1, 2])] {
        let (qkv, bias) = inputs([2, 20, 2, 8], Some(bias), &device, DType::F32);
        let w = random([2, queries, 16], 1.0, 3, &device, DType::F32);
        let op = |qkv, bias| attention_of_first(qkv, queries, 2, 0.3, bias);
        let full = with_gradients(op, qkv.clone(), bias.clone(), &w);
        let bias = bias.map(|bias| bias.cast(DType::F16));
        let half = with_gradients(op, qkv.cast(DType::F16), bias, &w.cast(DType::F16));
        assert!(distance(&half.0.cast(DType::F32), &full.0) < 1e-2);
        assert!(distance(&half.1.cast(DType::F32), &full.1) < 1e-2);
        let (half, full) = (half.2.expect("a gradient"), full.2.expect("a gradient"));
        assert!(distance(&half.cast(DType::F32), &full) < 1e-2);
    }
}

#[test]
fn one_thread_and_many_give_the_same_bits() {
    let (device, _) = devices();
    for bias in [None, Some([1, 3]), Some([1, 1])] {
        let (qkv, bias) = inputs([3, 197, 3, 16], bias, &device, DType::F32);
        let w = random([3, 197, 48], 1.0, 3, &device, DType::F32);
        let run = |threads| {
            let (qkv, bias, w) = (qkv.clone(), bias.clone(), w.clone());
            with_threads(threads, move || {
                let (y, d_qkv, d_bias) =
                    with_gradients(|qkv, bias| attention(qkv, 3, 0.25, bias), qkv, bias, &w);
                (values(&y), values(&d_qkv), d_bias.map(|d| values(&d)))
            })
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(5));
    }
}

#[test]
#[should_panic(expected = "does not hold q, k and v of 5 heads")]
fn heads_must_divide_the_width() {
    attention(Tensor::zeros([1, 2, 36], &Device::flex()), 5, 1.0, None);
}

#[test]
#[should_panic(expected = "the bias must be [1 or 2, 1 or 3, 4, 4]")]
fn the_bias_must_fit() {
    let device = Device::flex();
    attention(Tensor::zeros([2, 4, 36], &device), 3, 1.0, Some(Tensor::zeros([1, 2, 4, 4], &device)));
}
