//! Tensors with gradients that may be absent, as parents of a step.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::Shape;

use crate::tensors::Maybe;

/// The tensor of the inner backend.
pub(super) fn inner_maybe<B: Backend, C: CheckpointStrategy>(
    tensor: &Option<FloatTensor<Autodiff<B, C>>>,
) -> Maybe<B> {
    Maybe::from_option(tensor.as_ref().map(|tensor| tensor.primitive().clone()))
}

/// The tensor, or an empty constant if it is absent, so that the number of parents is fixed.
pub(super) fn or_constant<B: Backend, C: CheckpointStrategy>(
    tensor: Option<FloatTensor<Autodiff<B, C>>>,
    like: &FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    tensor.unwrap_or_else(|| {
        let like = like.primitive();
        let empty = B::float_empty(Shape::new([0]), &like.device(), like.dtype().into());
        Autodiff::<B, C>::from_inner(empty)
    })
}
