//! Training in bf16: products read bf16, all sums are taken in f32.

use burn::tensor::{DType, Device, Tensor};
use vitrum_kernels::{attention, group_norm, layer_norm, linear, mlp};

use crate::support::*;

/// bf16 has 8 digits: the result of a rounding differs by at most 2⁻⁸ of the number.
const ROUNDING: f64 = 1.0 / 256.0;

fn rounded<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    let dtype = x.dtype();
    x.cast(DType::BF16).cast(dtype)
}

/// Result and gradients of `f` in bf16 against `f64` on the same rounded numbers, by the largest value of each.
fn compare<const N: usize>(
    inputs: [Tensor<3>; N],
    bar: f64,
    name: &str,
    f: impl Fn(&[Tensor<3>]) -> Tensor<3>,
) {
    let device = Device::flex().autodiff();
    let run = |dtype: DType| {
        let lift = |x: &Tensor<3>| {
            Tensor::<3>::from_data(rounded(x.clone()).into_data(), (&device, DType::F64))
                .cast(dtype)
                .require_grad()
        };
        let leaves: Vec<Tensor<3>> = inputs.iter().map(lift).collect();
        let y = f(&leaves);
        let weights = rounded(random(y.dims(), 1.0, 9, &Device::flex(), DType::F64));
        let weights = Tensor::<3>::from_data(weights.into_data(), (&device, DType::F64)).cast(dtype);
        let gradients = (y.clone() * weights).sum().backward();
        let gradients = leaves.iter().map(|x| x.grad(&gradients).expect("a gradient"));
        std::iter::once(y.inner()).chain(gradients).map(|x| x.cast(DType::F64)).collect::<Vec<_>>()
    };
    for (index, (narrow, wide)) in run(DType::BF16).into_iter().zip(run(DType::F64)).enumerate() {
        let most: f64 = wide.clone().abs().max().into_scalar();
        let error: f64 = (narrow - wide).abs().max().into_scalar();
        assert!(error <= bar * most, "{name}, output {index}: {:.1e} of the largest", error / most);
    }
}

fn drawn<const R: usize>(shape: [usize; R], seed: u64) -> Tensor<R> {
    random(shape, 1.0, seed, &Device::flex(), DType::F64)
}

/// Sums of bf16 numbers in bf16 stop growing after 256 equal terms, so long rows show them.
#[test]
fn sums_of_narrow_numbers_are_wide() {
    let vector = |x: &Tensor<3>| x.clone().reshape([-1]);
    compare(
        [drawn([2, 40, 2048], 1) + 3.0, drawn([1, 1, 2048], 2), drawn([1, 1, 2048], 3)],
        ROUNDING,
        "layer norm",
        |x| layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 1e-6),
    );
    compare(
        [drawn([2, 600, 32], 4) + 2.0, drawn([1, 1, 32], 5), drawn([1, 1, 32], 6)],
        ROUNDING,
        "group norm",
        |x| group_norm(x[0].clone(), 4, vector(&x[1]), vector(&x[2]), 1e-5, false),
    );
    // Almost equal scores: the weights of 1,500 tokens are about 1/1500 each.
    compare([drawn([1, 1500, 3 * 16], 7) * 0.05], 4.0 * ROUNDING, "attention", |x| {
        attention(x[0].clone(), 2, 0.35, None)
    });
    // 4,000 rows: gradients of biases are long sums.
    compare(
        [drawn([1, 4000, 8], 8) + 0.5, drawn([1, 8, 12], 9), drawn([1, 1, 12], 10)],
        4.0 * ROUNDING,
        "linear",
        |x| linear(x[0].clone(), x[1].clone().reshape([8, 12]), Some(vector(&x[2]))),
    );
    let shapes = [[1, 3000, 8], [1, 8, 16], [1, 1, 16], [1, 16, 8], [1, 1, 8]];
    let mut seed = 20;
    let inputs = shapes.map(|shape| {
        seed += 1;
        drawn(shape, seed)
    });
    compare(inputs, 4.0 * ROUNDING, "MLP", |x| {
        let weight = |x: &Tensor<3>| {
            let [_, rows, columns] = x.dims();
            x.clone().reshape([rows, columns])
        };
        let activation = vitrum_kernels::Activation::Gelu;
        mlp(x[0].clone(), weight(&x[1]), Some(vector(&x[2])), weight(&x[3]), Some(vector(&x[4])), activation)
    });
}
