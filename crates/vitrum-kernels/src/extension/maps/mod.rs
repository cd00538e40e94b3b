//! Operations on maps with channels last, `[B, H·W, C]`, as an extension of Burn's backends.

mod autodiff;
mod flex;
mod folded;
pub(crate) mod portable;

pub use folded::FoldedOps;

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

use crate::conv::{self, ConvForm};
use crate::gate::Squeeze;
use crate::linear::LinearWants;
use crate::map_norm::MapNorm;
use crate::pool::Pool;
use crate::tensors::Maybe;

/// Operations of convolutional networks. For other backends see [`VitrumOps`](crate::extension::VitrumOps).
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait MapOps: Backend {
    /// A convolution; see [`conv`](crate::conv).
    fn vitrum_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        form: ConvForm,
    ) -> FloatTensor<Self> {
        conv::portable::forward::<Self>(x, weight, bias.into_option(), form)
    }

    /// Gradients of `x`, `weight` and the bias, as far as `wants` asks for them, from the gradient of the result.
    #[allow(clippy::type_complexity)] // The macro that implements the trait for all backends needs the types written out.
    fn vitrum_conv_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        form: ConvForm,
        wants: LinearWants,
    ) -> (Option<FloatTensor<Self>>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        conv::portable::backward::<Self>(x, weight, grad, form, wants)
    }

    /// Pooling; see [`pool`](crate::pool).
    fn vitrum_pool(x: FloatTensor<Self>, form: ConvForm, pool: Pool) -> FloatTensor<Self> {
        portable::pool::<Self>(x, form, pool)
    }

    /// Gradient of `x`, from the gradient of [`vitrum_pool`](Self::vitrum_pool).
    fn vitrum_pool_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        form: ConvForm,
        pool: Pool,
    ) -> FloatTensor<Self> {
        portable::pool_backward::<Self>(x, grad, form, pool)
    }

    /// A norm of maps; see [`batch_norm`](crate::batch_norm) and [`group_norm`](crate::group_norm).
    ///
    /// Returns the result, and mean and biased variance of each set of statistics, which carry no gradient.
    fn vitrum_map_norm(
        x: FloatTensor<Self>,
        #[extension_type] weight: Maybe<Self>,
        #[extension_type] bias: Maybe<Self>,
        #[extension_type] residual: Maybe<Self>,
        norm: MapNorm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [weight, bias, residual] = [weight, bias, residual].map(Maybe::into_option);
        portable::map_norm::<Self>(x, weight, bias, residual, norm)
    }

    /// Gradients of `x`, `weight`, the bias and, if `residual` is set, the residual. `y`, the result, must be present
    /// if it was rectified. `mean` and `var` come from the forward pass.
    #[allow(clippy::type_complexity)] // As above.
    #[allow(clippy::too_many_arguments)] // The macro that implements the trait forwards plain tensors, not structs.
    fn vitrum_map_norm_backward(
        x: FloatTensor<Self>,
        #[extension_type] weight: Maybe<Self>,
        #[extension_type] y: Maybe<Self>,
        mean: FloatTensor<Self>,
        var: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        norm: MapNorm,
        residual: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let [weight, y] = [weight, y].map(Maybe::into_option);
        portable::map_norm_backward::<Self>(x, weight, y, [mean, var], grad, norm, residual)
    }

    /// Maps times numbers per channel; see [`gate`](crate::gate).
    fn vitrum_gate(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        #[extension_type] shift: Maybe<Self>,
        residual: bool,
    ) -> FloatTensor<Self> {
        portable::gate::<Self>(x, scale, shift.into_option(), residual)
    }

    /// Gradients of `x` and `scale`, from the gradient of [`vitrum_gate`](Self::vitrum_gate).
    fn vitrum_gate_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        residual: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::gate_backward::<Self>(x, scale, grad, residual)
    }

    /// A number per channel of each map; see [`squeeze`](crate::squeeze).
    fn vitrum_squeeze(x: FloatTensor<Self>, squeeze: Squeeze) -> FloatTensor<Self> {
        portable::squeeze::<Self>(x, squeeze)
    }

    /// Gradient of `x`, from the result of [`vitrum_squeeze`](Self::vitrum_squeeze) and its gradient.
    fn vitrum_squeeze_backward(
        x: FloatTensor<Self>,
        squeezed: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        squeeze: Squeeze,
    ) -> FloatTensor<Self> {
        portable::squeeze_backward::<Self>(x, squeezed, grad, squeeze)
    }
}

#[cfg(feature = "cube")]
impl MapOps for burn::backend::Cube {}
