//! Pictures to tensors.

use burn::tensor::{DType, Device};
use vitrum::data::Preprocess;
use vitrum::data::batch::{BatchError, of_images, to_tensor};

use super::pattern::pattern;

fn preprocess() -> Preprocess {
    Preprocess { input_size: [3, 8, 12], ..Preprocess::default() }
}

#[test]
fn tensors_hold_the_values_in_order() {
    let device = Device::default();
    let images = [pattern(0, 1, 20, 20), pattern(0, 2, 9, 31)];
    let values: Vec<f32> = images.iter().flat_map(|image| preprocess().apply(image).unwrap()).collect();
    let tensor = of_images(&images, &preprocess(), DType::F32, &device).unwrap();
    assert_eq!(tensor.dims(), [2, 3, 8, 12]);
    assert_eq!(tensor.into_data().try_to_vec::<f32>().unwrap(), values);
    let doubles = of_images(&images, &preprocess(), DType::F64, &device).unwrap().into_data();
    assert_eq!(doubles.dtype(), DType::F64);
    let expected: Vec<f64> = values.into_iter().map(f64::from).collect();
    assert_eq!(doubles.try_to_vec::<f64>().unwrap(), expected);
}

#[test]
fn wrong_lengths_and_types_are_errors() {
    let device = Device::default();
    let short = to_tensor(vec![0.0; 5], [1, 1, 2, 3], DType::F32, &device);
    assert!(matches!(short, Err(BatchError::Length { expected: 6, found: 5, .. })));
    let bytes = to_tensor(vec![0.0; 6], [1, 1, 2, 3], DType::U8, &device);
    assert!(matches!(bytes, Err(BatchError::Type(DType::U8))));
}
