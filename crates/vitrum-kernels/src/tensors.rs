//! Tensors in the form that operations need: some are optional, most must be contiguous.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, Dispatch, ExtensionType};
use burn::tensor::Tensor;

/// An optional tensor. (The macro that implements the extension for all backends does not accept `Option` arguments.)
#[derive(ExtensionType)]
pub enum Maybe<B: Backend> {
    /// No tensor.
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

/// An optional mask.
#[derive(ExtensionType)]
pub enum MaybeBool<B: Backend> {
    /// No mask.
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

/// The tensor as a contiguous one. It is copied only if it is not contiguous.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The optional tensor as an argument of an operation.
pub(crate) fn maybe<const R: usize>(tensor: Option<Tensor<R>>) -> Maybe<Dispatch> {
    tensor.map_or(Maybe::Absent, |tensor| Maybe::Present(tensor.into_dispatch()))
}
