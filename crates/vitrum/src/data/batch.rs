//! Normalised pictures to a tensor. Only this file of `data` uses Burn.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use super::image::RgbImage;
use super::preprocess::{Preprocess, PreprocessError};

/// The numbers cannot make a tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Their count does not match the shape.
    #[error("a batch of shape {shape:?} needs {expected} numbers, found {found}")]
    Length {
        /// `[B, C, H, W]`.
        shape: [usize; 4],
        /// Product of the shape.
        expected: usize,
        /// Number of values given.
        found: usize,
    },
    /// Not a float type for pictures.
    #[error("a batch cannot be of type {0:?}; expected F32 or F64")]
    Type(DType),
    /// The picture cannot be preprocessed.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
}

/// `values`, `[B, C, H, W]` row by row, as a tensor of 32- or 64-bit floats on `device`.
///
/// # Errors
/// [`BatchError`] if the count does not match the shape or `dtype` is neither F32 nor F64.
pub fn to_tensor(
    values: Vec<f32>,
    shape: [usize; 4],
    dtype: DType,
    device: &Device,
) -> Result<Tensor<4>, BatchError> {
    let expected = shape.iter().product();
    if values.len() != expected {
        return Err(BatchError::Length { shape, expected, found: values.len() });
    }
    let data = match dtype {
        DType::F32 => TensorData::new(values, shape),
        DType::F64 => TensorData::new(values.into_iter().map(f64::from).collect::<Vec<f64>>(), shape),
        other => return Err(BatchError::Type(other)),
    };
    Ok(Tensor::from_data(data, (device, dtype)))
}

/// Preprocesses pictures of any size into one batch, `[B, C, H, W]`, on rayon's threads.
///
/// # Errors
/// [`BatchError`] from [`Preprocess::apply`] and [`to_tensor`].
pub fn of_images(
    images: &[RgbImage],
    preprocess: &Preprocess,
    dtype: DType,
    device: &Device,
) -> Result<Tensor<4>, BatchError> {
    let rows = images.par_iter().map(|image| preprocess.apply(image));
    let values = rows.collect::<Result<Vec<_>, _>>()?.concat();
    let [channels, height, width] = preprocess.input_size;
    to_tensor(values, [images.len(), channels, height, width], dtype, device)
}
