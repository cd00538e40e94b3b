//! Convolutions for answers as an extension of the CPU backend.

use burn::backend::{Backend, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::DType;

use crate::activation::Activation;
use crate::conv::{self, ConvForm, Fold, PackedConv};
use crate::simd::Real;
use crate::tensors::{Maybe, contiguous};

/// Convolutions with what follows them, without gradients.
#[backend_extension(Flex)]
pub trait FoldedOps: Backend {
    /// See [`conv_folded`](crate::conv_folded).
    fn vitrum_conv_folded(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] scale: Maybe<Self>,
        #[extension_type] shift: Maybe<Self>,
        #[extension_type] residual: Maybe<Self>,
        form: ConvForm,
        activation: Activation,
    ) -> FloatTensor<Self>;

    /// See [`conv_packed`](crate::conv_packed).
    fn vitrum_conv_packed(
        x: FloatTensor<Self>,
        weight: PackedConv,
        #[extension_type] scale: Maybe<Self>,
        #[extension_type] shift: Maybe<Self>,
        #[extension_type] residual: Maybe<Self>,
        form: ConvForm,
        activation: Activation,
    ) -> FloatTensor<Self>;
}

impl FoldedOps for Flex {
    fn vitrum_conv_folded(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: Maybe<Self>,
        shift: Maybe<Self>,
        residual: Maybe<Self>,
        form: ConvForm,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let parts = [scale, shift, residual].map(|part| part.into_option().map(contiguous));
        let [x, weight] = [x, weight].map(contiguous);
        match x.dtype() {
            DType::F64 => conv::folded(&x, &weight, form, &fold::<f64>(&parts, activation)),
            _ => conv::folded(&x, &weight, form, &fold::<f32>(&parts, activation)),
        }
    }

    fn vitrum_conv_packed(
        x: FloatTensor<Self>,
        weight: PackedConv,
        scale: Maybe<Self>,
        shift: Maybe<Self>,
        residual: Maybe<Self>,
        form: ConvForm,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let parts = [scale, shift, residual].map(|part| part.into_option().map(contiguous));
        weight.run(&contiguous(x), form, &fold::<f32>(&parts, activation))
    }
}

fn fold<T: Real>(
    [scale, shift, residual]: &[Option<FloatTensor<Flex>>; 3],
    activation: Activation,
) -> Fold<'_, T> {
    Fold {
        scale: scale.as_ref().map(T::slice),
        shift: shift.as_ref().map(T::slice),
        residual: residual.as_ref().map(T::slice),
        activation,
    }
}
