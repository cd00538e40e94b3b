//! What layers share whose weights have a form of their own for answers: where it serves, and what is done elsewhere.

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Tensor, TensorData};

/// Whether such layers take tensors like this one: in `f32` on the CPU, outside of training.
pub(crate) fn is_fast<const R: usize>(x: &Tensor<R>) -> bool {
    let device = x.device();
    x.dtype() == DType::F32
        && matches!(device.as_dispatch(), DispatchDevice::Flex(_))
        && !device.is_autodiff()
}

/// Panics unless a weight `[rows, _]` takes an input of `k` columns.
pub(crate) fn check(name: &str, k: usize, [rows, _]: [usize; 2]) {
    assert_eq!(rows, k, "{name}: the weight must have a row for each of the {k} columns of its input");
}

/// The numbers of a weight and its bias as tensors like x.
pub(crate) fn floats<const R: usize>(
    weight: Vec<f32>,
    shape: [usize; 2],
    bias: Option<&[f32]>,
    x: &Tensor<R>,
) -> (Tensor<2>, Option<Tensor<1>>) {
    let (device, dtype) = (x.device(), x.dtype());
    let weight = Tensor::<2>::from_data(TensorData::new(weight, shape), (&device, DType::F32)).cast(dtype);
    let bias = bias.map(|bias| {
        let data = TensorData::new(bias.to_vec(), [bias.len()]);
        Tensor::<1>::from_data(data, (&device, DType::F32)).cast(dtype)
    });
    (weight, bias)
}
