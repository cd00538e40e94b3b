//! Packed weights give the same bits as plain layers, alone and combined.

use burn::tensor::{DType, Device, Tensor};
use vitrum_kernels::{
    Activation, AfterAttention, NormMlp, PackedWeight, activate, after_attention_packed, layer_norm, linear,
    linear_add, linear_add_packed, linear_packed, mlp, norm_linear_packed, norm_mlp_packed, rotate,
    rotate_reference,
};

use crate::support::*;

const EPS: f64 = 1e-6;

fn floats<const R: usize>(x: &Tensor<R>) -> Vec<f32> {
    x.clone().into_data().try_to_vec().unwrap()
}

/// A weight `[k, n]` and a bias, plain and packed.
struct Layer {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    packed: PackedWeight,
}

impl Layer {
    fn new([k, n]: [usize; 2], with_bias: bool, seed: u64) -> Self {
        let (device, _) = devices();
        let weight = random([k, n], 0.5, seed, &device, DType::F32);
        let bias = with_bias.then(|| random([n], 1.0, seed + 1, &device, DType::F32));
        let packed = PackedWeight::pack(&floats(&weight), [k, n], bias.as_ref().map(floats).as_deref());
        Self { weight, bias, packed }
    }
}

fn vector(n: usize, seed: u64) -> Tensor<1> {
    random([n], 1.0, seed, &Device::flex(), DType::F32)
}

/// The layers after attention, as separate operations and as one.
fn after_attention(rows: usize, d: usize, f: usize, bias: bool, gains: bool) -> [Vec<f64>; 2] {
    let layers = [([d, d], 1), ([d, f], 3), ([f, d], 5)].map(|(shape, seed)| Layer::new(shape, bias, seed));
    let [proj, fc1, fc2] = &layers;
    let (norm_weight, norm_bias) = (vector(d, 7), vector(d, 8));
    let gammas = [9, 10].map(|seed| gains.then(|| vector(d, seed)));
    let [context, x] = [11, 12].map(|seed| random([1, rows, d], 1.0, seed, &Device::flex(), DType::F32));

    let sum =
        linear_add(context.clone(), proj.weight.clone(), proj.bias.clone(), x.clone(), gammas[0].clone());
    let normed = layer_norm(sum.clone(), norm_weight.clone(), norm_bias.clone(), EPS);
    let hidden = activate(linear(normed.clone(), fc1.weight.clone(), fc1.bias.clone()), Activation::Gelu);
    let expected = linear_add(hidden, fc2.weight.clone(), fc2.bias.clone(), sum.clone(), gammas[1].clone());
    if !gains {
        let branch = mlp(
            normed,
            fc1.weight.clone(),
            fc1.bias.clone(),
            fc2.weight.clone(),
            fc2.bias.clone(),
            Activation::Gelu,
        );
        assert_eq!(
            values(&(sum.clone() + branch)),
            values(&expected),
            "the two ways to the separate operations"
        );
    }
    let together = AfterAttention {
        proj: proj.packed.clone(),
        mlp: NormMlp {
            fc1: fc1.packed.clone(),
            fc2: fc2.packed.clone(),
            activation: Activation::Gelu,
            eps: EPS,
        },
    };
    let branch = norm_mlp_packed(
        sum.clone(),
        norm_weight.clone(),
        norm_bias.clone(),
        &together.mlp,
        sum,
        gammas[1].clone(),
    );
    assert_eq!(values(&expected), values(&branch), "the branch of the MLP alone");
    let found = after_attention_packed(context, x, norm_weight, norm_bias, &together, gammas);
    [values(&expected), values(&found)]
}

#[test]
fn a_packed_weight_holds_what_it_was_given() {
    for shape in [[1, 1], [3, 33], [31, 32], [256, 64], [257, 65], [600, 7], [1024, 100]] {
        let layer = Layer::new(shape, true, 2);
        assert_eq!(layer.packed.shape(), shape);
        assert_eq!(layer.packed.unpack(), floats(&layer.weight), "{shape:?}");
        assert_eq!(layer.packed.bias().unwrap(), floats(layer.bias.as_ref().unwrap()));
    }
    assert!(PackedWeight::pack(&[], [0, 5], None).unpack().is_empty());
    assert!(PackedWeight::pack(&[], [5, 0], None).unpack().is_empty());
}

#[test]
fn packed_layers_give_the_bits_of_the_plain_ones() {
    for (rows, k, n) in
        [(1, 5, 3), (13, 64, 33), (40, 257, 100), (197, 192, 576), (197, 768, 192), (400, 300, 40)]
    {
        for bias in [false, true] {
            let name = format!("{rows} × {k} × {n}, bias {bias}");
            let layer = Layer::new([k, n], bias, 20);
            let (weight, bias) = (layer.weight.clone(), layer.bias.clone());
            let x = random([1, rows, k], 1.0, 3, &Device::flex(), DType::F32);
            let plain = linear(x.clone(), weight.clone(), bias.clone());
            assert_eq!(values(&plain), values(&linear_packed(x.clone(), &layer.packed)), "{name}");

            let residual = random([1, rows, n], 1.0, 4, &Device::flex(), DType::F32);
            for gamma in [None, Some(vector(n, 5))] {
                let plain =
                    linear_add(x.clone(), weight.clone(), bias.clone(), residual.clone(), gamma.clone());
                let packed = linear_add_packed(x.clone(), &layer.packed, residual.clone(), gamma);
                assert_eq!(values(&plain), values(&packed), "{name}, with a residual");
            }

            let (norm_weight, norm_bias) = (vector(k, 6), vector(k, 7));
            let normed = layer_norm(x.clone(), norm_weight.clone(), norm_bias.clone(), EPS);
            let plain = linear(normed, weight, bias);
            for activation in [Activation::Identity, Activation::Gelu] {
                let plain = activate(plain.clone(), activation);
                let (x, weight, bias) = (x.clone(), norm_weight.clone(), norm_bias.clone());
                let packed = norm_linear_packed(x, weight, bias, EPS, &layer.packed, activation);
                assert_eq!(values(&plain), values(&packed), "{name}, behind a norm, {activation:?}");
            }
        }
    }
}

#[test]
fn what_follows_attention_gives_the_bits_of_its_steps() {
    for (rows, d, f) in [(1, 16, 40), (50, 24, 96), (197, 192, 768), (420, 48, 100), (97, 260, 515)] {
        for (bias, gains) in [(true, false), (true, true), (false, true)] {
            let [expected, found] = after_attention(rows, d, f, bias, gains);
            assert_eq!(expected, found, "{rows} rows of {d}, {f} between, bias {bias}, gains {gains}");
        }
    }
}

#[test]
fn shares_of_rows_do_not_change_a_bit() {
    let run = |threads| {
        with_threads(threads, move || {
            let layer = Layer::new([96, 130], true, 20);
            let x = random([2, 150, 96], 1.0, 3, &Device::flex(), DType::F32);
            let normed =
                norm_linear_packed(x, vector(96, 6), vector(96, 7), EPS, &layer.packed, Activation::Identity);
            (values(&normed), after_attention(300, 64, 256, true, true)[1].clone())
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
    assert_eq!(one, run(7), "with few rows for each thread");
}

#[test]
fn other_types_and_training_take_the_floats() {
    let layer = Layer::new([40, 24], true, 20);
    let wide = random([1, 9, 40], 1.0, 3, &Device::flex(), DType::F64);
    let bias = layer.bias.clone().unwrap();
    let expected = linear(wide.clone(), layer.weight.clone().cast(DType::F64), bias.cast(DType::F64));
    let found = linear_packed(wide.clone(), &layer.packed);
    assert_eq!((found.dtype(), values(&found)), (DType::F64, values(&expected)));
    let norms = || [6, 7].map(|seed| vector(40, seed).cast(DType::F64));
    let ([w1, b1], [w2, b2]) = (norms(), norms());
    let normed = norm_linear_packed(wide.clone(), w1, b1, EPS, &layer.packed, Activation::Identity);
    let plain = linear_packed(layer_norm(wide.clone(), w2, b2, EPS), &layer.packed);
    assert_eq!(values(&normed), values(&plain));

    // The input receives a gradient; the weight is a constant.
    let (_, training) = devices();
    let data = wide.cast(DType::F32).into_data();
    let x = Tensor::<3>::from_data(data, (&training, DType::F32)).require_grad();
    let grads = linear_packed(x.clone(), &layer.packed).sum().backward();
    let d_x = x.grad(&grads).expect("a gradient of x");
    let row_sums = layer.weight.clone().sum_dim(1).reshape([1, 1, 40]).expand([1, 9, 40]);
    assert!(distance(&d_x, &row_sums) < 1e-5);
    let [expected, _] = after_attention(9, 16, 32, true, true);
    assert!(expected.iter().all(|x| x.is_finite()));
}

#[test]
fn nothing_is_computed_of_no_rows() {
    let layer = Layer::new([16, 8], true, 1);
    let none = Tensor::<3>::zeros([0, 5, 16], &Device::flex());
    assert_eq!(linear_packed(none.clone(), &layer.packed).dims(), [0, 5, 8]);
    assert_eq!(
        norm_linear_packed(none, vector(16, 1), vector(16, 2), EPS, &layer.packed, Activation::Identity)
            .dims(),
        [0, 5, 8]
    );
}

#[test]
#[should_panic(expected = "linear_packed: the weight must have a row for each of the 5 columns of its input")]
fn an_input_of_another_width_is_refused() {
    linear_packed(Tensor::<2>::zeros([3, 5], &Device::flex()), &Layer::new([4, 4], false, 1).packed);
}

#[test]
#[should_panic(
    expected = "after_attention_packed, fc2: the weight must have a row for each of the 12 columns"
)]
fn layers_that_do_not_follow_on_one_another_are_refused() {
    let [proj, fc1, fc2] = [[8, 8], [8, 12], [8, 8]].map(|shape| Layer::new(shape, false, 1).packed);
    let layers = AfterAttention { proj, mlp: NormMlp { fc1, fc2, activation: Activation::Gelu, eps: EPS } };
    let x = Tensor::<2>::zeros([3, 8], &Device::flex());
    after_attention_packed(x.clone(), x, vector(8, 1), vector(8, 2), &layers, [None, None]);
}

#[test]
#[should_panic(expected = "norm_mlp_packed: the residual must have the shape of x")]
fn a_branch_that_changes_the_width_is_refused() {
    let [fc1, fc2] = [[8, 12], [12, 9]].map(|shape| Layer::new(shape, false, 1).packed);
    let layers = NormMlp { fc1, fc2, activation: Activation::Gelu, eps: EPS };
    let zeros = |width| Tensor::<2>::zeros([3, width], &Device::flex());
    norm_mlp_packed(zeros(8), vector(8, 1), vector(8, 2), &layers, zeros(9), None);
}

#[test]
#[should_panic(expected = "a weight of [2, 3]")]
fn a_weight_of_another_length_is_refused() {
    PackedWeight::pack(&[0.0; 5], [2, 3], None);
}

/// Queries and keys turn, values do not; large batches are divided among threads.
#[test]
fn rotations_equal_the_reference_to_the_bit() {
    for ([b, t, a, e], own) in
        [([2, 5, 3, 8], false), ([1, 7, 2, 4], true), ([3, 1, 1, 2], true), ([40, 50, 4, 64], false)]
    {
        let heads = if own { 2 * a } else { 1 };
        for half in [false, true] {
            let (device, _) = devices();
            let x = random([b, t, 3 * a * e], 1.0, 1, &device, DType::F32);
            let [cos, sin] = [2, 3].map(|seed| random([1, t, heads, e], 1.0, seed, &device, DType::F32));
            let found = floats(&rotate(x.clone(), cos.clone(), sin.clone(), half));
            assert_eq!(
                found,
                floats(&rotate_reference(x.clone(), cos, sin, half)),
                "{b}, {t}, {a}, {e}, {half}"
            );
            let plain = floats(&x);
            let width = 3 * a * e;
            for (row, numbers) in found.chunks_exact(width).enumerate() {
                assert_eq!(numbers[2 * a * e..], plain[row * width + 2 * a * e..(row + 1) * width]);
            }
        }
    }
}
