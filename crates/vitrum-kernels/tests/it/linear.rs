//! Products, linear layers, activations and MLPs: the fast path against definitions, gradients, edge cases.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vitrum_kernels::{
    Activation, activate, activate_reference, linear, linear_add, linear_add_reference, linear_reference,
    mlp, mlp_reference,
};

use crate::support::*;

/// `[m, k] · [k, n]` in `f64`, and Σ |a b| of each element, the scale of its rounding.
fn naive(x: &[f64], w: &[f64], [m, k, n]: [usize; 3]) -> (Vec<f64>, Vec<f64>) {
    let (mut sums, mut sizes) = (vec![0.0; m * n], vec![0.0; m * n]);
    for i in 0..m {
        for p in 0..k {
            for j in 0..n {
                let term = x[i * k + p] * w[p * n + j];
                sums[i * n + j] += term;
                sizes[i * n + j] += term.abs();
            }
        }
    }
    (sums, sizes)
}

/// The worst error of `found`, relative to the sizes of the terms.
fn worst(found: &[f64], (sums, sizes): &(Vec<f64>, Vec<f64>)) -> f64 {
    assert_eq!(found.len(), sums.len());
    found.iter().zip(sums.iter().zip(sizes)).fold(0.0, |worst, (found, (sum, size))| {
        let gap = (found - sum).abs() / size.max(f64::MIN_POSITIVE);
        if gap.is_nan() { f64::INFINITY } else { f64::max(worst, gap) }
    })
}

/// All three products of a linear layer. They read their operands along rows and along columns.
fn check_products([m, k, n]: [usize; 3], dtype: DType) {
    let device = Device::flex().autodiff();
    let seed = (m * 10_000 + k * 100 + n) as u64;
    let x = random([m, k], 1.0, seed, &device, dtype).require_grad();
    let w = random([k, n], 1.0, seed + 1, &device, dtype).require_grad();
    let g = random([m, n], 1.0, seed + 2, &device, dtype);
    let y = linear(x.clone(), w.clone(), None);
    let grads = (y.clone() * g.clone()).sum().backward();
    let plain = |x: &Tensor<2>| values(&x.clone().inner());
    let transposed = |x: &Tensor<2>| values(&x.clone().inner().transpose());
    let errors = [
        worst(&values(&y.inner()), &naive(&plain(&x), &plain(&w), [m, k, n])),
        worst(&values(&x.grad(&grads).expect("d_x")), &naive(&plain(&g), &transposed(&w), [m, n, k])),
        worst(&values(&w.grad(&grads).expect("d_w")), &naive(&transposed(&x), &plain(&g), [k, m, n])),
    ];
    // Sums have blocks of 256 terms, each one chain, so rounding stays far below 256 units (6e-8, 1.1e-16).
    let limit = if dtype == DType::F64 { 1e-15 } else { 5e-7 };
    assert!(errors.iter().all(|&e| e < limit), "[{m}, {k}] [{k}, {n}] {dtype:?}: {errors:?}");
}

#[test]
fn products_fast_equals_naive_at_odd_sizes() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dtype in [DType::F32, DType::F64] {
        for _ in 0..60 {
            let mut size = || rng.random_range(1..70);
            check_products([size(), size(), size()], dtype);
        }
        for shape in [[197, 192, 96], [1, 300, 1000], [8, 257, 33], [300, 513, 10], [64, 768, 1], [3, 2, 531]]
        {
            check_products(shape, dtype);
        }
    }
    check_products([785, 200, 260], DType::F32); // several blocks of rows and of columns
}

/// Gradients of the loss Σ y · w for parents that are all tracked.
fn gradients<const R: usize>(
    parents: &[Tensor<2>],
    w: &Tensor<R>,
    op: impl Fn(Vec<Tensor<2>>) -> Tensor<R>,
) -> Vec<Tensor<2>> {
    let device = Device::flex().autodiff();
    let lift = |x: &Tensor<2>| Tensor::<2>::from_data(x.clone().into_data(), (&device, x.dtype()));
    let parents: Vec<Tensor<2>> = parents.iter().map(|x| lift(x).require_grad()).collect();
    let y = op(parents.clone());
    let w = Tensor::<R>::from_data(w.clone().into_data(), (&device, w.dtype()));
    let grads = (y * w).sum().backward();
    parents.iter().map(|x| x.grad(&grads).expect("a gradient")).collect()
}

fn row(x: &Tensor<2>) -> Tensor<1> {
    x.clone().reshape([-1])
}

fn wide(x: &[Tensor<2>]) -> Vec<Tensor<2>> {
    x.iter().map(|x| x.clone().cast(DType::F64)).collect()
}

/// The worst distance of each pair of tensors.
fn distances(found: &[Tensor<2>], expected: &[Tensor<2>]) -> Vec<f64> {
    found.iter().zip(expected).map(|(found, expected)| distance(found, expected)).collect()
}

fn compare_mlp([rows, d, f, n]: [usize; 4], activation: Activation, biases: bool, dtype: DType) {
    let device = Device::flex();
    let shapes = [[rows, d], [d, f], [f, n], [1, f], [1, n]];
    let parents: Vec<Tensor<2>> = shapes[..if biases { 5 } else { 3 }]
        .iter()
        .enumerate()
        .map(|(i, &shape)| random(shape, if i == 1 { 0.5 } else { 1.0 }, 7 + i as u64, &device, dtype))
        .collect();
    let w = random([rows, n], 1.0, 3, &device, dtype);
    let biases = |p: &[Tensor<2>]| (p.get(3).map(row), p.get(4).map(row));
    let fast = |p: Vec<Tensor<2>>| {
        let (b1, b2) = biases(&p);
        mlp(p[0].clone(), p[1].clone(), b1, p[2].clone(), b2, activation)
    };
    let slow = |p: Vec<Tensor<2>>| {
        let (b1, b2) = biases(&p);
        mlp_reference(p[0].clone(), p[1].clone(), b1, p[2].clone(), b2, activation)
    };
    let exact = wide(&parents);
    let limit = if dtype == DType::F64 { 1e-12 } else { 2e-6 };
    let name = format!("[{rows}, {d}] {f} {n} {activation:?} {dtype:?}");
    let forward = distance(&fast(parents.clone()), &slow(exact.clone()));
    assert!(forward < limit, "{name}: {forward}");
    let found = gradients(&parents, &w, fast);
    let expected = gradients(&exact, &w.cast(DType::F64), slow);
    let distances = distances(&found, &expected);
    assert!(distances.iter().all(|&d| d < limit), "{name}: {distances:?}");
}

#[test]
fn mlp_fast_equals_reference() {
    for dtype in [DType::F32, DType::F64] {
        for activation in Activation::ALL {
            for shape in [[1, 3, 5, 2], [37, 40, 70, 33], [13, 16, 64, 16]] {
                compare_mlp(shape, activation, shape[0] != 13, dtype);
            }
        }
    }
    compare_mlp([601, 24, 9000, 17], Activation::Gelu, true, DType::F32); // several blocks of rows
}

fn compare_linear_add(with_bias: bool, with_gamma: bool, dtype: DType) {
    let device = Device::flex();
    let (m, k, n) = (45, 50, 37);
    let mut parents: Vec<Tensor<2>> = [[m, k], [k, n], [m, n]]
        .iter()
        .enumerate()
        .map(|(i, &shape)| random(shape, 1.0, 20 + i as u64, &device, dtype))
        .collect();
    let vectors = usize::from(with_bias) + usize::from(with_gamma);
    parents.extend((0..vectors).map(|i| random([1, n], 1.0, 30 + i as u64, &device, dtype)));
    let vectors = |p: &[Tensor<2>]| {
        let bias = with_bias.then(|| row(&p[3]));
        (bias, with_gamma.then(|| row(&p[p.len() - 1])))
    };
    let fast = |p: Vec<Tensor<2>>| {
        let (bias, gamma) = vectors(&p);
        linear_add(p[0].clone(), p[1].clone(), bias, p[2].clone(), gamma)
    };
    let slow = |p: Vec<Tensor<2>>| {
        let (bias, gamma) = vectors(&p);
        linear_add_reference(p[0].clone(), p[1].clone(), bias, p[2].clone(), gamma)
    };
    let w = random([m, n], 1.0, 4, &device, dtype);
    let exact = wide(&parents);
    let limit = if dtype == DType::F64 { 1e-13 } else { 1e-6 };
    assert!(distance(&fast(parents.clone()), &slow(exact.clone())) < limit);
    let distances = distances(&gradients(&parents, &w, fast), &gradients(&exact, &w.cast(DType::F64), slow));
    assert!(distances.iter().all(|&d| d < limit), "{with_bias} {with_gamma} {dtype:?}: {distances:?}");
}

#[test]
fn linear_add_fast_equals_reference() {
    for dtype in [DType::F32, DType::F64] {
        for (with_bias, with_gamma) in [(false, false), (true, false), (false, true), (true, true)] {
            compare_linear_add(with_bias, with_gamma, dtype);
        }
    }
}

/// The cumulative normal distribution at x to 20 digits, from mpmath.
const NORMAL: [(f64, f64); 6] = [
    (-30.0, 4.906_713_927_148_187e-198),
    (-8.5, 9.479_534_822_203_318e-18),
    (-2.75, 0.002_979_763_235_054_545_6),
    (-0.125, 0.450_261_775_169_887_1),
    (0.5, 0.691_462_461_274_013_1),
    (3.0, 0.998_650_101_968_369_9),
];

#[test]
fn gelu_keeps_its_digits_where_it_equals_its_definition() {
    let device = Device::flex();
    let x: Vec<f64> = NORMAL.iter().map(|pair| pair.0).collect();
    let x = Tensor::<1>::from_data(TensorData::new(x, [6]), (&device, DType::F64));
    let errors = |y: Tensor<1>| -> Vec<f64> {
        values(&y).iter().zip(NORMAL).map(|(y, (x, share))| (y / (x * share) - 1.0).abs()).collect()
    };
    let double = errors(activate(x.clone(), Activation::Gelu));
    assert!(double.iter().all(|&e| e < 2e-14), "{double:?}");
    let single = errors(activate(x.cast(DType::F32), Activation::Gelu));
    // The first is below the smallest f32. In the exponent of the tail, the last digit counts 36 times.
    assert!(single[1] < 5e-6 && single[2..].iter().all(|&e| e < 5e-7), "{single:?}");
}

#[test]
fn activations_fast_equals_reference() {
    let device = Device::flex();
    for dtype in [DType::F32, DType::F64] {
        for activation in Activation::ALL {
            for length in [1, 7, 40_003] {
                let x = random([length, 1], 12.0, length as u64, &device, dtype);
                let w = random([length, 1], 1.0, 2, &device, dtype);
                let (fast, slow) = (
                    |p: Vec<Tensor<2>>| activate(p[0].clone(), activation),
                    |p: Vec<Tensor<2>>| activate_reference(p[0].clone(), activation),
                );
                let (x, exact) = ([x.clone()], wide(&[x]));
                let found = gradients(&x, &w, fast);
                let expected = gradients(&exact, &w.cast(DType::F64), slow);
                let errors =
                    [distance(&fast(x.to_vec()), &slow(exact)), distance_among(&found[0], &expected[0], 1.0)];
                let limit = if dtype == DType::F64 { 1e-14 } else { 4e-7 };
                assert!(errors.iter().all(|&e| e < limit), "{activation:?} {dtype:?} {length}: {errors:?}");
            }
        }
    }
}

#[test]
fn linear_gradients_are_those_of_central_differences() {
    let device = Device::flex();
    let x = random([3, 4], 1.0, 1, &device, DType::F64);
    let fc1 = random([4, 5], 1.0, 2, &device, DType::F64);
    let fc2 = random([5, 2], 1.0, 3, &device, DType::F64);
    let w = random([3, 2], 1.0, 4, &device, DType::F64);
    for activation in Activation::ALL {
        let op = |p: Vec<Tensor<2>>| mlp(p[0].clone(), p[1].clone(), None, p[2].clone(), None, activation);
        let parents = [x.clone(), fc1.clone(), fc2.clone()];
        let found = gradients(&parents, &w, op);
        for (i, found) in found.iter().enumerate() {
            let expected = central_differences(&parents[i], 1e-5, |moved| {
                let mut parents = parents.to_vec();
                parents[i] = moved;
                dot(op(parents), &w)
            });
            assert!(distance(found, &expected) < 1e-8, "{activation:?}, parent {i}");
        }
    }
}

#[test]
fn numbers_do_not_depend_on_threads_or_on_other_rows() {
    let device = Device::flex();
    let shapes = [[397, 200], [200, 290], [290, 70], [1, 290], [1, 70]];
    let parents: Vec<Tensor<2>> =
        shapes.iter().map(|&shape| random(shape, 1.0, 9, &device, DType::F32)).collect();
    let w = random([397, 70], 1.0, 3, &device, DType::F32);
    let op = |p: Vec<Tensor<2>>| {
        mlp(p[0].clone(), p[1].clone(), row(&p[3]), p[2].clone(), row(&p[4]), Activation::Gelu)
    };
    let run = |threads| {
        let (parents, w) = (parents.clone(), w.clone());
        with_threads(threads, move || {
            let y = values(&op(parents.clone()));
            (y, gradients(&parents, &w, op).iter().map(values).collect::<Vec<_>>())
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
    let mut single = parents.clone();
    single[0] = single[0].clone().narrow(0, 100, 1);
    assert_eq!(values(&op(single)), one.0[100 * 70..101 * 70]);
}

#[test]
fn views_ranks_and_untracked_parents() {
    let (device, tracking) = devices();
    let x = random([6, 5, 4], 1.0, 1, &device, DType::F32).permute([2, 1, 0]); // [4, 5, 6]
    let weight = random([9, 6], 1.0, 2, &device, DType::F32).transpose(); // [6, 9]
    let bias = random([20], 1.0, 3, &device, DType::F32).narrow(0, 3, 9);
    let y = linear(x.clone(), weight.clone(), bias.clone());
    assert_eq!(y.dims(), [4, 5, 9]);
    assert!(distance(&y, &linear_reference(x.clone(), weight.clone(), Some(bias.clone()))) < 1e-6);
    let one = linear(x.clone().slice([1..2, 2..3]).reshape([6]), weight.clone(), bias);
    assert!(distance(&one.reshape([1, 1, 9]), &y.slice([1..2, 2..3])) < 1e-6);

    let lift = |x: Tensor<2>| Tensor::<2>::from_data(x.into_data(), (&tracking, DType::F32));
    let fc1 = lift(weight.clone());
    let fc2 = lift(weight.clone().transpose()).require_grad();
    let input = lift(random([7, 6], 1.0, 4, &device, DType::F32));
    let y = mlp(input.clone(), fc1.clone(), None, fc2.clone(), None, Activation::Silu);
    let grads = y.sum().backward();
    assert!(input.grad(&grads).is_none() && fc1.grad(&grads).is_none());
    let slow = mlp_reference(input, fc1, None, fc2.clone(), None, Activation::Silu).sum().backward();
    let (found, expected) = (fc2.grad(&grads).expect("d"), fc2.grad(&slow).expect("d"));
    assert!(distance(&found, &expected) < 1e-6);
}

#[test]
fn nan_is_not_hidden_and_infinity_stays_by_products() {
    let device = Device::flex();
    let x = random([20, 30], 1.0, 1, &device, DType::F32);
    let x = x.slice_assign([3..4, 7..8], Tensor::full([1, 1], f32::NAN, &device));
    let x = x.slice_assign([5..6, 0..1], Tensor::full([1, 1], f32::INFINITY, &device));
    let weight = random([30, 40], 1.0, 2, &device, DType::F32);
    let y = values(&linear(x, weight, None));
    for (i, row) in y.chunks(40).enumerate() {
        let right: fn(&f64) -> bool = match i {
            3 => |y| y.is_nan(),
            5 => |y| y.is_infinite(),
            _ => |y| y.is_finite(),
        };
        assert!(row.iter().all(right), "row {i}: {row:?}");
    }
    for dtype in [DType::F32, DType::F64] {
        let ends = [f64::NAN, f64::INFINITY, 1e30, -1e30, -0.0];
        let ends = Tensor::<1>::from_data(TensorData::new(ends.to_vec(), [5]), (&device, dtype));
        for activation in Activation::ALL {
            let y = values(&activate(ends.clone(), activation));
            assert!(y[0].is_nan() && y[1] == f64::INFINITY, "{activation:?} {dtype:?}: {y:?}");
            let low = if activation == Activation::Identity { -1e30 } else { 0.0 };
            assert!((y[2] / 1e30 - 1.0).abs() < 1e-6 && (y[3] - low).abs() < 1e24 && y[4] == 0.0, "{y:?}");
        }
    }
}

#[test]
fn nothing_in_nothing_out_of_layers() {
    let (_, device) = devices();
    for [m, k, n] in [[0, 8, 5], [3, 0, 5], [3, 8, 0], [0, 0, 0]] {
        let x = Tensor::<2>::ones([m, k], &device).require_grad();
        let weight = Tensor::<2>::ones([k, n], &device).require_grad();
        let bias = Tensor::<1>::ones([n], &device).require_grad();
        let back = Tensor::<2>::ones([n, k], &device).require_grad();
        let y = linear(x.clone(), weight.clone(), bias.clone());
        assert_eq!(y.dims(), [m, n]);
        if k == 0 {
            assert!(values(&y.clone().inner()).iter().all(|&y| y == 1.0));
        }
        let z = mlp(x.clone(), weight.clone(), bias.clone(), back.clone(), None, Activation::Gelu);
        let grads = (y.sum() + z.sum()).backward();
        assert_eq!(x.grad(&grads).expect("d_x").dims(), [m, k]);
        let d_weight = weight.grad(&grads).expect("d_weight");
        assert_eq!(d_weight.dims(), [k, n]);
        if m == 0 {
            assert!(values(&d_weight).iter().all(|&d| d == 0.0));
        }
        assert_eq!(bias.grad(&grads).expect("d_bias").dims(), [n]);
        assert_eq!(back.grad(&grads).expect("d_back").dims(), [n, k]);
    }
}

#[test]
fn half_precision_layers_take_the_portable_way() {
    let device = Device::flex();
    let shapes = [[6, 20], [20, 24], [24, 9], [1, 24], [1, 9]];
    let parents: Vec<Tensor<2>> =
        shapes.iter().map(|&shape| random(shape, 0.5, 3, &device, DType::F32)).collect();
    let w = random([6, 9], 1.0, 2, &device, DType::F32);
    for activation in Activation::ALL {
        let op = |p: Vec<Tensor<2>>| {
            mlp(p[0].clone(), p[1].clone(), row(&p[3]), p[2].clone(), row(&p[4]), activation)
        };
        let full = gradients(&parents, &w, op);
        let half: Vec<Tensor<2>> = parents.iter().map(|x| x.clone().cast(DType::F16)).collect();
        let half = gradients(&half, &w.clone().cast(DType::F16), op);
        for (half, full) in half.iter().zip(&full) {
            assert!(distance(&half.clone().cast(DType::F32), full) < 1e-2, "{activation:?}");
        }
        let x = parents[0].clone() * 4.0;
        let half = activate(x.clone().cast(DType::F16), activation).cast(DType::F32);
        assert!(distance(&half, &activate(x, activation)) < 1e-2, "{activation:?}");
    }
}

#[test]
#[should_panic(expected = "the weight must have a row for each of the 8 columns")]
fn the_weight_must_fit_its_input() {
    let device = Device::flex();
    linear(Tensor::<2>::zeros([2, 8], &device), Tensor::zeros([7, 3], &device), None);
}
