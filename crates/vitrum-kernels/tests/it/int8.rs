//! Int8 layers: integers against a naive sum, layers against the promised error, edge cases.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vitrum_kernels::{
    Activation, QuantizeError, QuantizedWeight, activate, linear, linear_add_int8, linear_int8, mlp,
    mlp_add_int8, mlp_int8,
};

use crate::support::*;

fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F32))
}

fn numbers(x: Tensor<2>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32")
}

/// Rows of integers from `-zero` to `255 - zero`. Each row contains both ends, so the numbers equal their quantised
/// values, and the output is the integer sum.
fn whole_rows(m: usize, k: usize, rng: &mut ChaCha8Rng) -> Vec<i32> {
    let mut rows = Vec::new();
    for _ in 0..m {
        let zero = rng.random_range(0..256);
        let mut row: Vec<i32> = (0..k).map(|_| rng.random_range(0..256) - zero).collect();
        row[0] = -zero;
        row[k - 1] = 255 - zero;
        rows.extend(row);
    }
    rows
}

fn check_integers([m, k, n]: [usize; 3], rng: &mut ChaCha8Rng) {
    let x = whole_rows(m, k, rng);
    let values: Vec<i8> = (0..n * k).map(|_| rng.random_range(-128..=127) as i8).collect();
    let weight = QuantizedWeight::from_values(&values, &vec![1.0; n], [k, n], None).expect("a weight");
    assert_eq!(weight.values(), values);
    let mut expected = vec![0i32; m * n];
    for i in 0..m {
        for j in 0..n {
            expected[i * n + j] = (0..k).map(|p| x[i * k + p] * i32::from(values[j * k + p])).sum();
        }
    }
    let x = tensor(x.iter().map(|&x| x as f32).collect(), [m, k]);
    let found = numbers(linear_int8(x, &weight, Activation::Identity));
    let expected: Vec<f32> = expected.into_iter().map(|sum| sum as f32).collect();
    assert!(found == expected, "[{m}, {k}] [{k}, {n}]");
}

#[test]
fn int8_fast_equals_naive_integers_at_odd_sizes() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..60 {
        let (m, n) = (rng.random_range(1..70), rng.random_range(1..70));
        let k = rng.random_range(2..300);
        check_integers([m, k, n], &mut rng);
    }
    for shape in [[197, 192, 576], [1, 300, 1000], [300, 513, 10], [3, 768, 1], [2, 2, 531], [130, 64, 48]] {
        check_integers(shape, &mut rng);
    }
}

#[test]
fn int8_fast_equals_naive_integers_where_sums_are_largest() {
    let (k, n) = (65_793, 3);
    let extremes = [[0i32, 255], [-255, 0], [-128, 127]];
    let mut rows = Vec::new();
    for [low, high] in extremes {
        // One number of the other sign is needed, since 0 is part of the range.
        rows.extend((0..k).map(|p| if p == 0 { low as f32 } else { high as f32 }));
        rows.extend((0..k).map(|p| if p == 0 { high as f32 } else { low as f32 }));
    }
    let column = [-128i8, 127, 1];
    let values: Vec<i8> = column.iter().flat_map(|&value| vec![value; k]).collect();
    let weight = QuantizedWeight::from_values(&values, &[1.0; 3], [k, n], None).expect("a weight");
    let expected: Vec<f32> = rows
        .chunks_exact(k)
        .flat_map(|row| {
            let sum = row.iter().map(|&x| x as i64).sum::<i64>();
            column.map(|value| i32::try_from(sum * i64::from(value)).expect("32 bits hold it") as f32)
        })
        .collect();
    assert_eq!(numbers(linear_int8(tensor(rows, [6, k]), &weight, Activation::Identity)), expected);
    let error =
        QuantizedWeight::from_values(&vec![0; k + 1], &[1.0], [k + 1, 1], None).expect_err("too long");
    assert_eq!(error, QuantizeError::Terms { found: k + 1 });
}

fn weight_of(w: &Tensor<2>, bias: Option<&Tensor<1>>) -> QuantizedWeight {
    let values: Vec<f32> = numbers(w.clone());
    let bias: Option<Vec<f32>> = bias.map(|b| b.clone().into_data().try_to_vec().expect("f32"));
    QuantizedWeight::quantize(&values, w.dims(), bias.as_deref()).expect("a weight")
}

#[test]
fn int8_fast_equals_floats_within_half_a_step() {
    let device = Device::flex();
    for ([m, k, n], seed) in [([5, 33, 17], 1), ([197, 192, 70], 2), ([64, 768, 64], 3), ([1, 1, 1], 4)] {
        let x = random([m, k], 3.0, seed, &device, DType::F32) + 0.7;
        let w = random([k, n], 0.5, seed + 10, &device, DType::F32);
        let bias = random([n], 1.0, seed + 20, &device, DType::F32);
        let weight = weight_of(&w, Some(&bias));
        let found = values(&linear_int8(x.clone(), &weight, Activation::Identity));
        let exact =
            values(&linear(x.clone().cast(DType::F64), w.clone().cast(DType::F64), bias.cast(DType::F64)));
        let (x, w) = (values(&x), values(&w));
        let scales = weight.scales();
        let mut error = 0.0;
        for i in 0..m {
            let row = &x[i * k..(i + 1) * k];
            let ends = row.iter().fold((0f64, 0f64), |(low, high), &x| (low.min(x), high.max(x)));
            let step = (ends.1 - ends.0) / 255.0;
            for j in 0..n {
                let half = f64::from(scales[j]) / 2.0;
                // The largest number may lose as much again if the zero point is rounded up.
                let promised: f64 =
                    (0..k).map(|p| step * (w[p * n + j].abs() + half) + row[p].abs() * half).sum();
                let gap = (found[i * n + j] - exact[i * n + j]).abs();
                assert!(gap <= promised * 1.001, "[{m}, {k}] [{k}, {n}]: {gap} of {promised}");
                error += gap * gap;
            }
        }
        let size: f64 = exact.iter().map(|y| y * y).sum();
        assert!((error / size).sqrt() < 0.02, "[{m}, {k}] [{k}, {n}]: {}", (error / size).sqrt());
    }
}

#[test]
fn int8_fast_equals_its_definition_with_activations_and_in_mlps() {
    let device = Device::flex();
    for rows in [1, 7, 50, 197] {
        let x = random([rows, 96], 2.0, 5, &device, DType::F32);
        let (fc1, b1) =
            (random([96, 130], 0.3, 6, &device, DType::F32), random([130], 0.3, 7, &device, DType::F32));
        let (fc2, b2) =
            (random([130, 40], 0.3, 8, &device, DType::F32), random([40], 0.3, 9, &device, DType::F32));
        let (first, second) = (weight_of(&fc1, Some(&b1)), weight_of(&fc2, Some(&b2)));
        for activation in Activation::ALL {
            let plain = activate(linear_int8(x.clone(), &first, Activation::Identity), activation);
            let hidden = linear_int8(x.clone(), &first, activation);
            // GELU uses a short polynomial, since its value is quantised next.
            let limit = if activation == Activation::Gelu { 6e-5 } else { 1e-6 };
            assert!(distance(&hidden, &plain) < limit, "{activation:?}");
            let twice = linear_int8(hidden, &second, Activation::Identity);
            let fused = mlp_int8(x.clone(), &first, &second, activation);
            assert_eq!(values(&fused), values(&twice), "{activation:?}");
            let residual = random([rows, 40], 1.0, 11, &device, DType::F32);
            let added = mlp_add_int8(x.clone(), &first, &second, activation, residual.clone());
            assert_eq!(values(&added), values(&(residual.clone() + fused.clone())), "{activation:?}");
            let hidden = linear_int8(x.clone(), &first, activation);
            assert_eq!(values(&linear_add_int8(hidden, &second, residual)), values(&added), "{activation:?}");
            let exact = mlp(x.clone(), fc1.clone(), b1.clone(), fc2.clone(), b2.clone(), activation);
            assert!(distance(&fused, &exact) < 0.03, "{activation:?}: {}", distance(&fused, &exact));
        }
    }
}

#[test]
fn rows_and_threads_change_no_bit_of_int8() {
    let device = Device::flex();
    let x = random([211, 64], 2.0, 1, &device, DType::F32);
    let (fc1, fc2) =
        (random([64, 256], 0.3, 2, &device, DType::F32), random([256, 64], 0.3, 3, &device, DType::F32));
    let (fc1, fc2) = (weight_of(&fc1, None), weight_of(&fc2, None));
    let both = |x: Tensor<2>| {
        let one = values(&linear_int8(x.clone(), &fc1, Activation::Gelu));
        (one, values(&mlp_int8(x, &fc1, &fc2, Activation::Gelu)))
    };
    let (one, two) = with_threads(1, || both(x.clone()));
    for threads in [2, 3, 8] {
        assert!(with_threads(threads, || both(x.clone())) == (one.clone(), two.clone()), "{threads} threads");
    }
    for (first, rows) in [(0, 1), (210, 1), (17, 100)] {
        let (part, second) = both(x.clone().narrow(0, first, rows));
        assert!(part[..] == one[first * 256..][..rows * 256], "{rows} rows from {first}");
        assert!(second[..] == two[first * 64..][..rows * 64], "{rows} rows from {first}");
    }
}

#[test]
fn nan_is_kept_in_its_row_and_column_by_int8() {
    let w = QuantizedWeight::quantize(&[1.0, 2.0, f32::NAN, -3.0, 0.5, 1.0], [2, 3], None).expect("a weight");
    assert!(w.scales()[2].is_nan() && w.scales()[0].is_finite());
    let infinite = QuantizedWeight::quantize(&[f32::INFINITY, 1.0], [2, 1], None).expect("a weight");
    assert!(infinite.scales()[0].is_nan());
    let rows = [[1.0, f32::NAN], [f32::NEG_INFINITY, 1.0], [f32::INFINITY, 1.0], [1.0, 2.0], [0.0, 0.0]];
    let x = tensor(rows.concat(), [5, 2]);
    let y = numbers(linear_int8(x, &w, Activation::Identity));
    assert!(y[..9].iter().all(|y| y.is_nan()), "{y:?}");
    assert!((y[9] + 5.0).abs() < 0.1 && (y[10] - 3.0).abs() < 0.1 && y[11].is_nan(), "{y:?}");
    assert_eq!(y[12..14], [0.0, 0.0]);
    // The largest and the smallest numbers of `f32`.
    let w = QuantizedWeight::quantize(&[1.0, 1.0], [2, 1], Some(&[0.5])).expect("a weight");
    let rows = [[f32::MAX, f32::MIN], [1e-42, -1e-42], [f32::MAX, 0.0]];
    let y = numbers(linear_int8(tensor(rows.concat(), [3, 2]), &w, Activation::Identity));
    assert!(y[0].abs() < f32::MAX / 100.0 && y[1] == 0.5 && y[2] > f32::MAX * 0.99, "{y:?}");
}

#[test]
fn nothing_is_computed_of_nothing() {
    let w = QuantizedWeight::quantize(&[], [0, 3], Some(&[1.0, 2.0, 3.0])).expect("a weight");
    assert_eq!(numbers(linear_int8(tensor(vec![], [0, 0]), &w, Activation::Identity)), Vec::<f32>::new());
    assert_eq!(
        numbers(linear_int8(tensor(vec![], [2, 0]), &w, Activation::Identity)),
        [1., 2., 3., 1., 2., 3.]
    );
    let narrow = QuantizedWeight::quantize(&[], [4, 0], None).expect("a weight");
    assert_eq!(linear_int8(tensor(vec![0.0; 8], [2, 4]), &narrow, Activation::Gelu).dims(), [2, 0]);
    let zero = QuantizedWeight::quantize(&[0.0; 8], [4, 2], None).expect("a weight");
    assert_eq!(numbers(linear_int8(tensor(vec![7.0; 4], [1, 4]), &zero, Activation::Identity)), [0.0, 0.0]);
}

#[test]
fn other_types_and_training_take_the_floats() {
    let device = Device::flex();
    let w = random([12, 5], 1.0, 2, &device, DType::F32);
    let weight = weight_of(&w, None);
    let shown = tensor(weight.dequantize(), [12, 5]);
    assert!(distance(&shown, &w) < 0.5 / 127.0 + 1e-6);
    let x = random([3, 12], 1.0, 1, &device, DType::F64);
    let y = linear_int8(x.clone(), &weight, Activation::Gelu);
    assert_eq!(y.dtype(), DType::F64);
    let exact = activate(linear(x.clone(), shown.clone().cast(DType::F64), None), Activation::Gelu);
    assert!(distance(&y, &exact) < 1e-12);
    let tracked = Tensor::<2>::from_data(x.into_data(), (&device.autodiff(), DType::F32)).require_grad();
    let grads = linear_int8(tracked.clone(), &weight, Activation::Identity).sum().backward();
    let expected = shown.sum_dim(1).reshape([1, 12]).expand([3, 12]);
    assert!(distance(&tracked.grad(&grads).expect("a gradient").inner(), &expected) < 1e-6);
}

#[test]
fn invalid_weights_are_refused() {
    let length = |what, expected, found| QuantizeError::Length { what, expected, found };
    let error = QuantizedWeight::quantize(&[0.0; 5], [2, 3], None).expect_err("too few");
    assert_eq!(error, length("values", 6, 5));
    let error = QuantizedWeight::from_values(&[0; 6], &[1.0; 2], [2, 3], None).expect_err("too few");
    assert_eq!(error, length("scales", 3, 2));
    let error = QuantizedWeight::quantize(&[0.0; 6], [2, 3], Some(&[0.0])).expect_err("too few");
    assert_eq!(error, length("bias", 3, 1));
}
