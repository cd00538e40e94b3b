//! Layers in bf16: against products of rounded numbers in f64, and against the separate operations.

use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum_kernels::{
    Activation, AfterAttention, NormMlp, PackedWeight, activate, after_attention_packed, attention_bf16,
    bf16_level, layer_norm, linear_add_packed, linear_packed, norm_linear_packed, simd_level,
};

use crate::support::*;

const EPS: f64 = 1e-6;

/// The nearest number in bf16, ties to even, with integer arithmetic.
fn rounded(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    let (upper, lower) = (x.to_bits() >> 16, x.to_bits() & 0xffff);
    let up = lower > 0x8000 || lower == 0x8000 && upper % 2 == 1;
    f32::from_bits((upper + u32::from(up)) << 16)
}

fn floats<const R: usize>(x: &Tensor<R>) -> Vec<f32> {
    x.clone().into_data().try_to_vec().unwrap()
}

fn tensor<const R: usize>(shape: [usize; R], seed: u64) -> Tensor<R> {
    random(shape, 1.0, seed, &Device::flex(), DType::F32)
}

fn layer([k, n]: [usize; 2], bias: bool, seed: u64) -> PackedWeight {
    let weight = floats(&tensor([k, n], seed));
    let bias = bias.then(|| floats(&tensor([n], seed + 1)));
    PackedWeight::pack_bf16(&weight, [k, n], bias.as_deref())
}

/// Asserts that `found` is `residual + gamma · (x weight + bias)` of rounded x and weight. The tolerance is the
/// rounding of a sum in `f32`, far below the effect of a missing or different rounding.
fn assert_rounded_product(
    x: &Tensor<2>,
    weight: &PackedWeight,
    residual: Option<&Tensor<2>>,
    gamma: Option<&Tensor<1>>,
    found: &Tensor<2>,
    name: &str,
) {
    let ([m, k], [_, n]) = (x.dims(), weight.shape());
    assert_eq!(found.dims(), [m, n], "{name}");
    let (x, w, found) = (floats(x), weight.unpack(), floats(found));
    let (residual, gamma) = (residual.map(floats), gamma.map(floats));
    for i in 0..m {
        for j in 0..n {
            let products = (0..k).map(|p| f64::from(rounded(x[i * k + p])) * f64::from(w[p * n + j]));
            let bias = weight.bias().map_or(0.0, |bias| f64::from(bias[j]));
            let (sum, size) = products.fold((bias, bias.abs()), |(s, a), p| (s + p, a + p.abs()));
            let gain = gamma.as_ref().map_or(1.0, |gamma| f64::from(gamma[j]));
            let rest = residual.as_ref().map_or(0.0, |residual| f64::from(residual[i * n + j]));
            let bound =
                2f64.powi(-24) * (4.0 * (k as f64 + 1.0).sqrt() * size * gain.abs() + 2.0 * rest.abs());
            let gap = (f64::from(found[i * n + j]) - (rest + gain * sum)).abs();
            assert!(gap <= bound, "{name}: [{i}, {j}] is off by {gap:e}, may be by {bound:e}");
        }
    }
}

#[test]
fn a_weight_is_rounded_once() {
    for shape in [[1, 1], [3, 33], [32, 32], [511, 64], [513, 65], [1200, 7], [1024, 100]] {
        let weight = floats(&tensor(shape, 2));
        let packed = PackedWeight::pack_bf16(&weight, shape, Some(&weight[..shape[1]]));
        assert!(packed.is_bf16() && !PackedWeight::pack(&weight, shape, None).is_bf16());
        assert_eq!(packed.shape(), shape);
        let expected: Vec<f32> = weight.iter().copied().map(rounded).collect();
        assert_eq!(packed.unpack(), expected, "{shape:?}");
        assert_ne!(packed.unpack(), weight, "{shape:?}");
        assert_eq!(packed.bias().unwrap(), &weight[..shape[1]], "the bias stays as it is");
        let again = PackedWeight::pack_bf16(&expected, shape, None);
        assert_eq!(again.unpack(), expected, "what is rounded stays");
    }
    assert!(PackedWeight::pack_bf16(&[], [0, 5], None).unpack().is_empty());
    assert!(PackedWeight::pack_bf16(&[], [5, 0], None).unpack().is_empty());
}

#[test]
fn layers_are_products_of_rounded_numbers() {
    for (m, k, n) in [
        (1, 1, 1),
        (1, 5, 3),
        (13, 64, 33),
        (40, 257, 100),
        (197, 192, 130),
        (31, 768, 200),
        (9, 1024, 40),
        (5, 2049, 70),
        (400, 300, 40),
    ] {
        for bias in [false, true] {
            let name = format!("{m} × {k} × {n}, bias {bias}");
            let (weight, x) = (layer([k, n], bias, 20), tensor([m, k], 3));
            let plain = linear_packed(x.clone(), &weight);
            assert_rounded_product(&x, &weight, None, None, &plain, &name);

            let residual = tensor([m, n], 4);
            for gamma in [None, Some(tensor([n], 5))] {
                let sum = linear_add_packed(x.clone(), &weight, residual.clone(), gamma.clone());
                let name = format!("{name}, with a residual");
                assert_rounded_product(&x, &weight, Some(&residual), gamma.as_ref(), &sum, &name);
            }

            let (norm_weight, norm_bias) = (tensor([k], 6), tensor([k], 7));
            let normed = layer_norm(x.clone(), norm_weight.clone(), norm_bias.clone(), EPS);
            let together = norm_linear_packed(x, norm_weight, norm_bias, EPS, &weight, Activation::Identity);
            assert_eq!(values(&linear_packed(normed, &weight)), values(&together), "{name}, behind a norm");
        }
    }
}

/// The layers after attention, as separate operations and as one. Some of the three layers may be in `f32`.
fn after_attention(rows: usize, d: usize, f: usize, gains: bool, in_bf16: [bool; 3]) -> [Vec<f64>; 2] {
    let shapes = [[d, d], [d, f], [f, d]];
    let [proj, fc1, fc2] = std::array::from_fn(|i| {
        let (weight, bias) = (floats(&tensor(shapes[i], 30 + i as u64)), floats(&tensor([shapes[i][1]], 40)));
        let pack = if in_bf16[i] { PackedWeight::pack_bf16 } else { PackedWeight::pack };
        pack(&weight, shapes[i], Some(&bias))
    });
    let (norm_weight, norm_bias) = (tensor([d], 7), tensor([d], 8));
    let gammas = [9, 10].map(|seed| gains.then(|| tensor([d], seed)));
    let [context, x] = [11, 12].map(|seed| tensor([rows, d], seed));
    let sum = linear_add_packed(context.clone(), &proj, x.clone(), gammas[0].clone());
    let normed = layer_norm(sum.clone(), norm_weight.clone(), norm_bias.clone(), EPS);
    let hidden = activate(linear_packed(normed, &fc1), Activation::Gelu);
    let expected = linear_add_packed(hidden, &fc2, sum, gammas[1].clone());
    let layers = AfterAttention { proj, mlp: NormMlp { fc1, fc2, activation: Activation::Gelu, eps: EPS } };
    let found = after_attention_packed(context, x, norm_weight, norm_bias, &layers, gammas);
    [values(&expected), values(&found)]
}

#[test]
fn what_follows_attention_gives_the_bits_of_its_steps_in_bf16() {
    for (rows, d, f) in [(1, 16, 40), (50, 24, 96), (197, 192, 768), (420, 48, 101), (97, 261, 1024)] {
        for in_bf16 in [[true; 3], [true, false, true], [false, true, false]] {
            let [expected, found] = after_attention(rows, d, f, in_bf16[0], in_bf16);
            assert_eq!(expected, found, "{rows} rows of {d}, {f} between, {in_bf16:?}");
        }
    }
}

#[test]
fn threads_and_other_rows_do_not_change_a_bit() {
    let run = |threads| {
        with_threads(threads, move || {
            let weight = layer([97, 130], true, 20);
            let x = tensor([300, 97], 3);
            let normed = norm_linear_packed(
                x.clone(),
                tensor([97], 6),
                tensor([97], 7),
                EPS,
                &weight,
                Activation::Identity,
            );
            let plain = linear_packed(x, &weight);
            (values(&normed), values(&plain), after_attention(300, 64, 256, true, [true; 3])[1].clone())
        })
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        assert_eq!(one, run(threads), "{threads} threads");
    }
    let (weight, x) = (layer([97, 130], true, 20), tensor([300, 97], 3));
    for row in [0, 150, 299] {
        let alone = values(&linear_packed(x.clone().narrow(0, row, 1), &weight));
        assert_eq!(alone, one.1[row * 130..][..130], "row {row}");
    }
}

#[test]
fn nan_and_infinity_stay_in_their_row_and_column() {
    let (m, k, n) = (5, 40, 50);
    let weight = floats(&tensor([k, n], 1));
    let packed = PackedWeight::pack_bf16(&weight, [k, n], None);
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut x = floats(&tensor([m, k], 2));
        let clean = values(&linear_packed(
            Tensor::<2>::from_data(TensorData::new(x.clone(), [m, k]), &Device::flex()),
            &packed,
        ));
        x[2 * k + 7] = odd;
        let x = Tensor::<2>::from_data(TensorData::new(x, [m, k]), &Device::flex());
        let found = values(&linear_packed(x, &packed));
        for (i, (found, clean)) in found.iter().zip(&clean).enumerate() {
            if i / n != 2 {
                assert_eq!(found, clean, "beside {odd}");
            } else if odd.is_nan() {
                assert!(found.is_nan());
            } else {
                // f32::MAX is nearer to the next power of two, and so to infinity, than to the largest bf16 number.
                let sign = f64::from(weight[7 * n + i % n].signum() * odd.signum());
                assert_eq!(*found, sign * f64::INFINITY, "{odd}");
            }
        }
    }
    let mut weight = weight;
    weight[3 * n + 4] = f32::NAN;
    let packed = PackedWeight::pack_bf16(&weight, [k, n], None);
    assert!(packed.unpack()[3 * n + 4].is_nan());
    let found = values(&linear_packed(tensor([m, k], 2), &packed));
    assert!(found.iter().enumerate().all(|(i, x)| x.is_nan() == (i % n == 4)));
}

#[test]
fn other_types_and_training_take_rounded_floats() {
    let weight = layer([41, 24], true, 20);
    let x = tensor([9, 41], 3);
    let wide = linear_packed(x.clone().cast(DType::F64), &weight);
    assert_eq!(wide.dtype(), DType::F64);
    assert_rounded_product(&x, &weight, None, None, &wide.cast(DType::F32), "in f64");

    let (_, training) = devices();
    let traced = Tensor::<2>::from_data(x.clone().into_data(), (&training, DType::F32)).require_grad();
    let y = linear_packed(traced.clone(), &weight);
    assert_rounded_product(&x, &weight, None, None, &y.clone().inner(), "with a gradient");
    let grads = y.sum().backward();
    let d_x = traced.grad(&grads).expect("a gradient of x");
    let rows = Tensor::<2>::from_data(TensorData::new(weight.unpack(), [41, 24]), &Device::flex());
    let row_sums = rows.sum_dim(1).reshape([1, 41]).expand([9, 41]);
    assert!(distance(&d_x, &row_sums) < 1e-2, "a gradient passes through rounding, itself rounded");
}

#[test]
fn nothing_is_rounded_of_no_rows() {
    let weight = layer([16, 8], true, 1);
    let none = Tensor::<2>::zeros([0, 16], &Device::flex());
    assert_eq!(linear_packed(none.clone(), &weight).dims(), [0, 8]);
    assert_eq!(
        norm_linear_packed(none, tensor([16], 1), tensor([16], 2), EPS, &weight, Activation::Identity).dims(),
        [0, 8]
    );
    let empty = PackedWeight::pack_bf16(&[], [0, 3], Some(&[1.0, 2.0, 3.0]));
    let found = linear_packed(Tensor::<2>::zeros([2, 0], &Device::flex()), &empty);
    assert_eq!(values(&found), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
}

#[test]
fn the_level_in_use_is_known() {
    assert!(bf16_level() == "avx512_bf16" || bf16_level() == simd_level());
    assert!(bf16_level() != "avx512_bf16" || simd_level() == "avx512f");
    if let Some(held) = std::env::var_os("VITRUM_BF16") {
        assert_eq!(Some(bf16_level()), held.to_str());
    }
}

/// Attention `[B, Q, D]` in f64 of rounded q, k and v, with q rounded after scaling; and the most that rounding of the
/// weights can change.
fn attention_of_rounded(
    qkv: &Tensor<3>,
    queries: usize,
    heads: usize,
    scale: f32,
    bias: Option<&Tensor<4>>,
) -> (Vec<f64>, Vec<f64>) {
    let [b, t, d3] = qkv.dims();
    let (d, e) = (d3 / 3, d3 / 3 / heads);
    let (qkv, bias) = (floats(qkv), bias.map(|bias| (bias.dims(), floats(bias))));
    let number = |image: usize, token: usize, part: usize, column: usize| {
        let x = qkv[(image * t + token) * d3 + part * d + column];
        f64::from(rounded(if part == 0 { x * scale } else { x }))
    };
    let (mut all, mut bounds) = (Vec::new(), Vec::new());
    for (image, query) in (0..b).flat_map(|image| (0..queries).map(move |query| (image, query))) {
        for head in 0..heads {
            let score = |key: usize| {
                let columns = head * e..(head + 1) * e;
                let product: f64 =
                    columns.map(|c| number(image, query, 0, c) * number(image, key, 1, c)).sum();
                product
                    + bias.as_ref().map_or(0.0, |([bb, ba, ..], bias)| {
                        let index = (image % bb) * ba + head % ba;
                        f64::from(bias[(index * t + query) * t + key])
                    })
            };
            let scores: Vec<f64> = (0..t).map(score).collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for column in head * e..(head + 1) * e {
                let parts = (0..t).map(|key| weights[key] / sum * number(image, key, 2, column));
                let (value, size) = parts.fold((0.0, 0.0), |(v, s), part| (v + part, s + part.abs()));
                all.push(value);
                // A weight has an error of half a unit of eight digits; the rest is rounding in f32.
                bounds.push((2f64.powi(-9) + 1e-5) * size);
            }
        }
    }
    (all, bounds)
}

#[test]
fn attention_is_that_of_rounded_numbers() {
    for (b, t, heads, e, queries) in [
        (1, 1, 1, 1, 1),
        (2, 3, 2, 5, 3),
        (1, 197, 3, 64, 197),
        (2, 50, 2, 16, 50),
        (1, 130, 1, 33, 70),
        (1, 257, 2, 80, 1),
        (1, 65, 4, 8, 17),
    ] {
        let qkv = random([b, t, 3 * heads * e], 2.0, 5, &Device::flex(), DType::F32);
        let scale = (e as f64).powf(-0.5);
        let shared = random([1, heads, t, t], 1.0, 6, &Device::flex(), DType::F32);
        let own = random([b, 1, t, t], 1.0, 7, &Device::flex(), DType::F32);
        for bias in [None, Some(shared), Some(own)] {
            let (expected, bounds) = attention_of_rounded(&qkv, queries, heads, scale as f32, bias.as_ref());
            let found = attention_bf16(qkv.clone(), queries, heads, scale, bias);
            assert_eq!(found.dims(), [b, queries, heads * e]);
            for (i, (found, (expected, bound))) in
                values(&found).iter().zip(expected.iter().zip(&bounds)).enumerate()
            {
                let gap = (found - expected).abs();
                assert!(
                    gap <= *bound,
                    "{b} {t} {heads} {e} {queries}: {i} is off by {gap:e}, may be by {bound:e}"
                );
            }
        }
    }
}

#[test]
fn attention_in_bf16_does_not_depend_on_company_or_threads() {
    let qkv: Tensor<3> = random([5, 99, 3 * 2 * 24], 2.0, 5, &Device::flex(), DType::F32);
    let run = |threads| with_threads(threads, || values(&attention_bf16(qkv.clone(), 99, 2, 0.2, None)));
    let all = run(1);
    for threads in [2, 3] {
        assert_eq!(all, run(threads), "{threads} threads");
    }
    for image in [0, 4] {
        let alone = attention_bf16(qkv.clone().narrow(0, image, 1), 99, 2, 0.2, None);
        assert_eq!(values(&alone), all[image * 99 * 48..][..99 * 48], "image {image}");
    }
    let none = Tensor::<3>::zeros([0, 99, 144], &Device::flex());
    assert_eq!(attention_bf16(none, 7, 2, 0.2, None).dims(), [0, 7, 48]);
}

#[test]
fn masks_and_nan_in_bf16() {
    let (t, e) = (40, 16);
    let qkv: Tensor<3> = random([1, t, 3 * e], 2.0, 5, &Device::flex(), DType::F32);
    // Keys from 10 on are masked, and the first token sees no key.
    let mask: Vec<f32> =
        (0..t * t).map(|i| if i % t >= 10 || i < t { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::<4>::from_data(TensorData::new(mask, [1, 1, t, t]), &Device::flex());
    let masked = values(&attention_bf16(qkv.clone(), t, 1, 0.25, Some(mask)));
    let first = qkv.clone().narrow(1, 0, 10);
    let seen = values(&attention_bf16(first, 10, 1, 0.25, None));
    assert!(masked[..e].iter().all(|&x| x == 0.0), "a row that sees nothing");
    for (masked, seen) in masked[e..10 * e].iter().zip(&seen[e..]) {
        assert!((masked - seen).abs() <= 1e-6 * seen.abs().max(1e-3), "{masked} {seen}");
    }
    // A NaN in the value of a token reaches only its column; a NaN in a query reaches only its row.
    let with = |token: usize, column: usize| {
        let mut numbers = floats(&qkv);
        numbers[token * 3 * e + column] = f32::NAN;
        let qkv = Tensor::<3>::from_data(TensorData::new(numbers, [1, t, 3 * e]), &Device::flex());
        values(&attention_bf16(qkv, t, 1, 0.25, None))
    };
    assert!(with(17, 2 * e + 3).iter().enumerate().all(|(i, x)| x.is_nan() == (i % e == 3)));
    assert!(with(17, 3).iter().enumerate().all(|(i, x)| x.is_nan() == (i / e == 17)));
}

#[test]
fn attention_of_other_types_rounds_the_projection() {
    let qkv: Tensor<3> = random([2, 9, 24], 1.0, 5, &Device::flex(), DType::F64);
    let found = attention_bf16(qkv.clone(), 4, 2, 0.5, None);
    let rounded = qkv.clone().cast(DType::BF16).cast(DType::F64);
    let expected = vitrum_kernels::attention_of_first(rounded, 4, 2, 0.5, None);
    assert_eq!((found.dtype(), values(&found)), (DType::F64, values(&expected)));
    assert_ne!(values(&found), values(&vitrum_kernels::attention_of_first(qkv, 4, 2, 0.5, None)));
}
