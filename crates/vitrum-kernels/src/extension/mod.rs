//! The operations as an extension of Burn's backends.
//!
//! The default body of a method is the portable one, for any backend. `flex.rs` overrides it for `f32` and `f64` on the
//! CPU. `autodiff.rs` records a step whose backward pass calls that of the inner backend.
//!
//! The methods do not check shapes, and the fast bodies would read out of bounds. So the traits are not public: users
//! call the safe functions of the crate's root.
//!
//! To add an operation: write a forward and a backward method here with portable bodies, a step in `autodiff.rs`, and a
//! safe function in `functions`.

mod attention_step;
mod autodiff;
mod flex;
mod int8;
mod maps;
mod optional;
mod packed;

pub use int8::Int8Ops;
pub use maps::{FoldedOps, MapOps};
pub use packed::PackedOps;

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

use crate::activation::Activation;
use crate::attention::{self, AttentionForm, AttentionInputs};
use crate::linear::LinearWants;
use crate::mlp::MlpWants;
use crate::portable;
use crate::tensors::Maybe;

/// Fused operations of vision models.
///
/// The generated dispatch panics for backends that are not in the list below. The safe functions use the reference
/// there.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait VitrumOps: Backend {
    /// Attention of the first `queries` rows of q. For the arguments see [`cross_attention`](crate::cross_attention)
    /// and [`attention_of_first`](crate::attention_of_first).
    ///
    /// Returns the context `[B, Q, V]`, and for each row of scores the maximum and the reciprocal of Σ exp(score -
    /// maximum), `[B, A, Q]` each. The backward pass recomputes the weights from them. They carry no gradient.
    fn vitrum_attention(
        #[extension_type] inputs: AttentionInputs<Self>,
        form: AttentionForm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        attention::portable::attention::<Self>(inputs, form)
    }

    /// Gradients of the tensors that hold q, k and v, in their order, and of the bias if it is present and `want_bias`
    /// is set, from the gradient of the context.
    ///
    /// `context`, `max` and `norm` come from the forward pass on the same backend.
    fn vitrum_attention_backward(
        #[extension_type] inputs: AttentionInputs<Self>,
        context: FloatTensor<Self>,
        max: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        form: AttentionForm,
        want_bias: bool,
    ) -> (Vec<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        let _ = (context, max, norm);
        attention::portable::attention_backward::<Self>(inputs, grad, form, want_bias)
    }

    /// Layer normalisation over the last axis, see [`layer_norm`](crate::layer_norm); without `centred` it is
    /// [`rms_norm`](crate::rms_norm).
    ///
    /// Returns y with the shape of x, and for each row the mean and the reciprocal deviation, `[rows]` each. Their
    /// exact meaning is up to the backend. They carry no gradient.
    fn vitrum_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        eps: f64,
        centred: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::layer_norm::<Self>(x, weight, bias.into_option(), eps, centred)
    }

    /// Gradients of `x`, `weight` and the bias, from the gradient of y. `mean` and `rstd` come from the forward pass on
    /// the same backend.
    fn vitrum_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        centred: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::layer_norm_backward::<Self>(x, weight, mean, rstd, grad, centred)
    }

    /// Queries and keys of length 1; see [`unit_heads`](crate::unit_heads).
    fn vitrum_unit_heads(qkv: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::unit_heads::<Self>(qkv, scale)
    }

    /// Gradients of `qkv` and `scale`, from the gradient of the result.
    fn vitrum_unit_heads_backward(
        qkv: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::unit_heads_backward::<Self>(qkv, scale, grad)
    }

    /// An activation function; see [`activate`](crate::activate).
    fn vitrum_activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        portable::activate::<Self>(x, activation)
    }

    /// Gradient of `x`, from the gradient of [`vitrum_activate`](Self::vitrum_activate).
    fn vitrum_activate_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let (_, derivative) = portable::with_derivative::<Self>(x, activation);
        Self::float_mul(grad, derivative)
    }

    /// A linear layer; see [`linear`](crate::linear) and, with a residual, [`linear_add`](crate::linear_add).
    fn vitrum_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        #[extension_type] residual: Maybe<Self>,
        #[extension_type] gamma: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let [bias, residual, gamma] = [bias, residual, gamma].map(Maybe::into_option);
        portable::linear_add::<Self>(x, weight, bias, residual, gamma)
    }

    /// Gradients of `x`, `weight` and the bias, as far as `wants` asks for them, from the gradient of `x weight +
    /// bias`.
    #[allow(clippy::type_complexity)] // The macro that implements the trait for all backends needs the types written out.
    fn vitrum_linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        wants: LinearWants,
    ) -> (Option<FloatTensor<Self>>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        portable::linear_backward::<Self>(x, weight, grad, wants)
    }

    /// Patches and their projection; see [`patch_embed`](crate::patch_embed).
    fn vitrum_patch_embed(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
    ) -> FloatTensor<Self> {
        portable::patch_embed::<Self>(images, weight, bias.into_option())
    }

    /// Gradients of images (`x`), `weight` and the bias, as far as `wants` asks for them, from the gradient of the
    /// tokens.
    #[allow(clippy::type_complexity)] // As above.
    fn vitrum_patch_embed_backward(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        wants: LinearWants,
    ) -> (Option<FloatTensor<Self>>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        portable::patch_embed_backward::<Self>(images, weight, grad, wants)
    }

    /// Two linear layers with an activation between them; see [`mlp`](crate::mlp).
    ///
    /// Returns the output and, if `keep` is set, the argument of the activation, `[rows, F]`, without gradient.
    #[allow(clippy::too_many_arguments)] // The macro that implements the trait forwards plain tensors, not structs.
    fn vitrum_mlp(
        x: FloatTensor<Self>,
        fc1_weight: FloatTensor<Self>,
        #[extension_type] fc1_bias: Maybe<Self>,
        fc2_weight: FloatTensor<Self>,
        #[extension_type] fc2_bias: Maybe<Self>,
        activation: Activation,
        keep: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let (fc1, fc2) = ((fc1_weight, fc1_bias.into_option()), (fc2_weight, fc2_bias.into_option()));
        portable::mlp::<Self>(x, fc1, fc2, activation, keep)
    }

    /// Gradients of `x` and of both layers' weights and biases, as far as `wants` asks for them, from the gradient of
    /// the output. `kept` comes from the forward pass on the same backend.
    #[allow(clippy::type_complexity)] // As above.
    fn vitrum_mlp_backward(
        x: FloatTensor<Self>,
        fc1_weight: FloatTensor<Self>,
        fc2_weight: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
        wants: MlpWants,
    ) -> (
        Option<FloatTensor<Self>>,
        Option<FloatTensor<Self>>,
        Option<FloatTensor<Self>>,
        Option<FloatTensor<Self>>,
        Option<FloatTensor<Self>>,
    ) {
        portable::mlp_backward::<Self>(x, fc1_weight, fc2_weight, kept, grad, activation, wants)
    }
}

#[cfg(feature = "cube")]
impl VitrumOps for burn::backend::Cube {}
