//! Normalised pictures to a tensor; the one place of `data` that knows Burn.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::image::RgbImage;
use super::preprocess::{Preprocess, PreprocessError};

/// A tensor that cannot be made from the numbers given.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BatchError {
    /// The numbers do not fill the shape.
    #[error("a batch of shape {shape:?} needs {expected} numbers, found {found}")]
    Length {
        /// `[B, C, H, W]`.
        shape: [usize; 4],
        /// Product of the shape.
        expected: usize,
        /// Numbers given.
        found: usize,
    },
    /// Not a type that pictures are computed in.
    #[error("a batch cannot be of type {0:?}; expected F32 or F64")]
    Type(DType),
    /// A picture that cannot be preprocessed.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
}

/// `values`, `[B, C, H, W]` row by row, as a tensor of 32- or 64-bit floats on `device`.
///
/// # Errors
/// [`BatchError`] when the shape is not filled or `dtype` is neither F32 nor F64.
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

/// Preprocesses pictures of any size into one batch, `[B, C, H, W]`.
///
/// # Errors
/// [`BatchError`], as [`Preprocess::apply`] and [`to_tensor`].
pub fn of_images(
    images: &[RgbImage],
    preprocess: &Preprocess,
    dtype: DType,
    device: &Device,
) -> Result<Tensor<4>, BatchError> {
    let mut values = Vec::new();
    for image in images {
        values.extend(preprocess.apply(image)?);
    }
    let [channels, height, width] = preprocess.input_size;
    to_tensor(values, [images.len(), channels, height, width], dtype, device)
}
