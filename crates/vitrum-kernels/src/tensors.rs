//! Tensors as operations take them: some may be missing, most must be contiguous.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, Dispatch, ExtensionType};
use burn::tensor::Tensor;

/// A tensor that may be missing. (The macro that spreads the trait over backends knows no `Option` arguments.)
#[derive(ExtensionType)]
pub enum Maybe<B: Backend> {
    /// Nothing.
    Absent,
    /// A tensor.
    Present(FloatTensor<B>),
}

impl<B: Backend> Maybe<B> {
    pub(crate) fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Maybe::Absent => None,
            Maybe::Present(tensor) => Some(tensor),
        }
    }

    pub(crate) fn from_option(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Maybe::Absent, Maybe::Present)
    }
}

/// A mask that may be missing.
#[derive(ExtensionType)]
pub enum MaybeBool<B: Backend> {
    /// Nothing.
    Absent,
    /// A mask.
    Present(BoolTensor<B>),
}

impl<B: Backend> MaybeBool<B> {
    pub(crate) fn into_option(self) -> Option<BoolTensor<B>> {
        match self {
            MaybeBool::Absent => None,
            MaybeBool::Present(mask) => Some(mask),
        }
    }

    pub(crate) fn from_option(mask: Option<BoolTensor<B>>) -> Self {
        mask.map_or(MaybeBool::Absent, MaybeBool::Present)
    }
}

/// The tensor with its numbers in order and side by side; copies only if they are not.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The tensor as an argument of an operation.
pub(crate) fn maybe<const R: usize>(tensor: Option<Tensor<R>>) -> Maybe<Dispatch> {
    tensor.map_or(Maybe::Absent, |tensor| Maybe::Present(tensor.into_dispatch()))
}
