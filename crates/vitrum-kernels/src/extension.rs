//! The operations as an extension of Burn's backends.
//!
//! A method's default body is the portable one, for any backend; [`Flex`] overrides it where the numbers are `f32`
//! or `f64`; [`Autodiff`] records a step of its own whose backward pass calls the inner backend's.
//! Adding an operation: a forward and a backward method here with portable bodies, a step below, a safe function
//! in the crate's root.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, ExtensionType, Flex, TensorMetadata, backend_extension,
    ops::FloatTensorOps,
    tensor::{BoolTensor, FloatTensor},
};
use burn::tensor::{DType, Shape};

use crate::activation::{self, Activation};
use crate::attention::{self, AttentionForm, AttentionInputs, Operands, Saved};
use crate::linear::{self, LinearWants};
use crate::mlp::{self, MlpWants};
use crate::{layer_norm, patch_embed, portable};

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

/// Fused operations of vision transformers. Users call the safe functions of the crate's root.
///
/// On a backend that is not in the list below the generated dispatch panics; the safe functions use the reference
/// there instead.
#[backend_extension(Flex, Cube: cfg(any(feature = "vulkan", feature = "webgpu")), Autodiff)]
pub trait VitrumOps: Backend {
    /// Attention of the first `queries` rows of q; see [`cross_attention`](crate::cross_attention) and
    /// [`attention_of_first`](crate::attention_of_first) for the meaning of the arguments.
    ///
    /// Returns the context `[B, Q, V]` and what the backward pass needs to recompute the weights: of each row of
    /// scores its maximum and the reciprocal of Σ exp(score - maximum), `[B, A, Q]` each, without gradient.
    fn vitrum_attention(
        #[extension_type] inputs: AttentionInputs<Self>,
        form: AttentionForm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        attention::portable::attention::<Self>(inputs, form)
    }

    /// Gradients of the tensors that hold q, k and v, in their order, and of the bias if there is one and `want_bias` is
    /// set, given that of the context.
    ///
    /// `context`, `max` and `norm` are what the forward pass on the same backend returned.
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

    /// Layer normalisation over the last axis; see [`layer_norm`](crate::layer_norm).
    ///
    /// Returns y like x and two numbers per row, `[rows]` each, without gradient: mean and reciprocal deviation,
    /// in whatever form this backend's backward pass wants them.
    fn vitrum_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::layer_norm::<Self>(x, weight, bias.into_option(), eps)
    }

    /// Gradients of `x`, `weight` and the bias, given that of y; `mean` and `rstd` come from the forward pass on
    /// the same backend.
    fn vitrum_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::layer_norm_backward::<Self>(x, weight, mean, rstd, grad)
    }

    /// A function of each number; see [`activate`](crate::activate).
    fn vitrum_activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        portable::activate::<Self>(x, activation)
    }

    /// Gradient of `x`, given that of [`vitrum_activate`](Self::vitrum_activate).
    fn vitrum_activate_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let (_, slope) = portable::with_slope::<Self>(x, activation);
        Self::float_mul(grad, slope)
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

    /// Gradients of `x`, `weight` and the bias as far as they are asked for, given that of `x weight + bias`.
    #[allow(clippy::type_complexity)] // The macro that spreads the trait wants types written out.
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

    /// Gradients of images (`x`), `weight` and the bias as far as they are asked for, given that of the tokens.
    #[allow(clippy::type_complexity)] // As above.
    fn vitrum_patch_embed_backward(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        wants: LinearWants,
    ) -> (Option<FloatTensor<Self>>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        portable::patch_embed_backward::<Self>(images, weight, grad, wants)
    }

    /// Two linear layers with an activation between; see [`mlp`](crate::mlp).
    ///
    /// Returns the output and, if `keep` is set, the argument of the activation, `[rows, F]`, without gradient.
    #[allow(clippy::too_many_arguments)]
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

    /// Gradients of `x` and both layers' weights and biases as far as they are asked for, given that of the output;
    /// `kept` is what the forward pass on the same backend kept.
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

impl VitrumOps for Flex {
    fn vitrum_attention(
        inputs: AttentionInputs<Self>,
        form: AttentionForm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let forward = match inputs.dtype() {
            DType::F32 => attention::forward::<f32>,
            DType::F64 => attention::forward::<f64>,
            _ => return attention::portable::attention::<Self>(inputs, form),
        };
        forward(&Operands::new(inputs, form))
    }

    fn vitrum_attention_backward(
        inputs: AttentionInputs<Self>,
        context: FloatTensor<Self>,
        max: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        form: AttentionForm,
        want_bias: bool,
    ) -> (Vec<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        let backward = match inputs.dtype() {
            DType::F32 => attention::backward::<f32>,
            DType::F64 => attention::backward::<f64>,
            _ => return attention::portable::attention_backward::<Self>(inputs, grad, form, want_bias),
        };
        let [context, max, norm, grad] = [context, max, norm, grad].map(in_one_piece);
        backward(&Operands::new(inputs, form), &Saved { context, max, norm, grad }, want_bias)
    }

    fn vitrum_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let bias = bias.into_option().map(in_one_piece);
        let forward = match x.dtype() {
            DType::F32 => layer_norm::forward::<f32>,
            DType::F64 => layer_norm::forward::<f64>,
            _ => return portable::layer_norm::<Self>(x, weight, bias, eps),
        };
        forward(&in_one_piece(x), &in_one_piece(weight), bias.as_ref(), eps)
    }

    fn vitrum_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let backward = match x.dtype() {
            DType::F32 => layer_norm::backward::<f32>,
            DType::F64 => layer_norm::backward::<f64>,
            _ => return portable::layer_norm_backward::<Self>(x, weight, mean, rstd, grad),
        };
        let [x, weight, mean, rstd, grad] = [x, weight, mean, rstd, grad].map(in_one_piece);
        backward(&x, &weight, &mean, &rstd, &grad)
    }

    fn vitrum_activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        match x.dtype() {
            DType::F32 => activation::forward::<f32>(&in_one_piece(x), activation),
            DType::F64 => activation::forward::<f64>(&in_one_piece(x), activation),
            _ => portable::activate::<Self>(x, activation),
        }
    }

    fn vitrum_activate_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let backward = match x.dtype() {
            DType::F32 => activation::backward::<f32>,
            DType::F64 => activation::backward::<f64>,
            _ => {
                let (_, slope) = portable::with_slope::<Self>(x, activation);
                return <Self as FloatTensorOps<Self>>::float_mul(grad, slope);
            }
        };
        backward(&in_one_piece(x), &in_one_piece(grad), activation)
    }

    fn vitrum_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        residual: Maybe<Self>,
        gamma: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let [bias, residual, gamma] = [bias, residual, gamma].map(|it| it.into_option().map(in_one_piece));
        let forward = match x.dtype() {
            DType::F32 => linear::forward::<f32>,
            DType::F64 => linear::forward::<f64>,
            _ => return portable::linear_add::<Self>(x, weight, bias, residual, gamma),
        };
        let [x, weight] = [x, weight].map(in_one_piece);
        forward(&x, &weight, bias.as_ref(), residual.as_ref(), gamma.as_ref())
    }

    fn vitrum_linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        wants: LinearWants,
    ) -> linear::LinearGradients<FloatTensor<Self>> {
        let backward = match x.dtype() {
            DType::F32 => linear::backward::<f32>,
            DType::F64 => linear::backward::<f64>,
            _ => return portable::linear_backward::<Self>(x, weight, grad, wants),
        };
        let [x, weight, grad] = [x, weight, grad].map(in_one_piece);
        backward(&x, &weight, &grad, wants)
    }

    fn vitrum_patch_embed(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let bias = bias.into_option().map(in_one_piece);
        let forward = match images.dtype() {
            DType::F32 => patch_embed::forward::<f32>,
            DType::F64 => patch_embed::forward::<f64>,
            _ => return portable::patch_embed::<Self>(images, weight, bias),
        };
        let [images, weight] = [images, weight].map(in_one_piece);
        forward(&images, &weight, bias.as_ref())
    }

    fn vitrum_patch_embed_backward(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        wants: LinearWants,
    ) -> linear::LinearGradients<FloatTensor<Self>> {
        let backward = match images.dtype() {
            DType::F32 => patch_embed::backward::<f32>,
            DType::F64 => patch_embed::backward::<f64>,
            _ => return portable::patch_embed_backward::<Self>(images, weight, grad, wants),
        };
        let [images, weight, grad] = [images, weight, grad].map(in_one_piece);
        backward(&images, &weight, &grad, wants)
    }

    fn vitrum_mlp(
        x: FloatTensor<Self>,
        fc1_weight: FloatTensor<Self>,
        fc1_bias: Maybe<Self>,
        fc2_weight: FloatTensor<Self>,
        fc2_bias: Maybe<Self>,
        activation: Activation,
        keep: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let [fc1_bias, fc2_bias] = [fc1_bias, fc2_bias].map(|bias| bias.into_option().map(in_one_piece));
        let forward = match x.dtype() {
            DType::F32 => mlp::forward::<f32>,
            DType::F64 => mlp::forward::<f64>,
            _ => {
                let (fc1, fc2) = ((fc1_weight, fc1_bias), (fc2_weight, fc2_bias));
                return portable::mlp::<Self>(x, fc1, fc2, activation, keep);
            }
        };
        let [x, fc1, fc2] = [x, fc1_weight, fc2_weight].map(in_one_piece);
        forward(&x, (&fc1, fc1_bias.as_ref()), (&fc2, fc2_bias.as_ref()), activation, keep)
    }

    fn vitrum_mlp_backward(
        x: FloatTensor<Self>,
        fc1_weight: FloatTensor<Self>,
        fc2_weight: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
        wants: MlpWants,
    ) -> mlp::MlpGradients<FloatTensor<Self>> {
        let backward = match x.dtype() {
            DType::F32 => mlp::backward::<f32>,
            DType::F64 => mlp::backward::<f64>,
            _ => {
                return portable::mlp_backward::<Self>(
                    x, fc1_weight, fc2_weight, kept, grad, activation, wants,
                );
            }
        };
        let [x, fc1, fc2, kept, grad] = [x, fc1_weight, fc2_weight, kept, grad].map(in_one_piece);
        backward(&x, &fc1, &fc2, &kept, &grad, activation, wants)
    }
}

/// The tensor with its numbers in order and side by side; copies only if they are not.
pub(crate) fn in_one_piece(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

#[cfg(any(feature = "vulkan", feature = "webgpu"))]
impl VitrumOps for burn::backend::Cube {}

impl<B: VitrumOps, C: CheckpointStrategy> VitrumOps for Autodiff<B, C> {
    fn vitrum_attention(
        inputs: AttentionInputs<Self>,
        form: AttentionForm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        attention::step::attention::<B, C>(inputs, form)
    }

    fn vitrum_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let bias = bias.into_option();
        let inner = Maybe::from_option(bias.as_ref().map(|bias| bias.primitive().clone()));
        let (y, mean, rstd) =
            B::vitrum_layer_norm(x.primitive().clone(), weight.primitive().clone(), inner, eps);
        let saved = (mean.clone(), rstd.clone());
        let y = match bias {
            None => {
                let nodes = [x.node(), weight.node()];
                match Backward::<B, 2>::prepare::<C>(LayerNormStep, nodes).compute_bound().stateful() {
                    OpsKind::Tracked(mut prep) => {
                        let state = (prep.checkpoint(&x), prep.checkpoint(&weight), saved);
                        prep.finish(state, y)
                    }
                    OpsKind::UnTracked(prep) => prep.finish(y),
                }
            }
            Some(bias) => {
                let nodes = [x.node(), weight.node(), bias.node()];
                match Backward::<B, 3>::prepare::<C>(LayerNormStep, nodes).compute_bound().stateful() {
                    OpsKind::Tracked(mut prep) => {
                        let state = (prep.checkpoint(&x), prep.checkpoint(&weight), saved);
                        prep.finish(state, y)
                    }
                    OpsKind::UnTracked(prep) => prep.finish(y),
                }
            }
        };
        (y, Self::from_inner(mean), Self::from_inner(rstd))
    }

    fn vitrum_activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let y = B::vitrum_activate(x.primitive().clone(), activation);
        match Backward::<B, 1>::prepare::<C>(ActivateStep(activation), [x.node()]).compute_bound().stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let x = prep.checkpoint(&x);
                prep.finish(x, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn vitrum_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        residual: Maybe<Self>,
        gamma: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let options = [bias, residual, gamma].map(Maybe::into_option);
        let [bias, residual, gamma] = options.each_ref().map(inner_maybe::<B, C>);
        let y = B::vitrum_linear(x.primitive().clone(), weight.primitive().clone(), bias, residual, gamma);
        let step = LinearStep { bias: options[0].is_some(), gamma: options[2].is_some() };
        let [bias, residual, gamma] = options.map(|option| or_constant::<B, C>(option, &x));
        let nodes = [x.node(), weight.node(), bias.node(), residual.node(), gamma.node()];
        match Backward::<B, 5>::prepare::<C>(step, nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = [&x, &weight, &bias, &gamma].map(|tensor| prep.checkpoint(tensor));
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn vitrum_patch_embed(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let bias = bias.into_option();
        let inner = inner_maybe::<B, C>(&bias);
        let tokens = B::vitrum_patch_embed(images.primitive().clone(), weight.primitive().clone(), inner);
        let bias = or_constant::<B, C>(bias, &images);
        let nodes = [images.node(), weight.node(), bias.node()];
        match Backward::<B, 3>::prepare::<C>(PatchEmbedStep, nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = [&images, &weight].map(|tensor| prep.checkpoint(tensor));
                prep.finish(state, tokens)
            }
            OpsKind::UnTracked(prep) => prep.finish(tokens),
        }
    }

    fn vitrum_mlp(
        x: FloatTensor<Self>,
        fc1_weight: FloatTensor<Self>,
        fc1_bias: Maybe<Self>,
        fc2_weight: FloatTensor<Self>,
        fc2_bias: Maybe<Self>,
        activation: Activation,
        _keep: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let biases = [fc1_bias, fc2_bias].map(Maybe::into_option);
        let [fc1_inner, fc2_inner] = biases.each_ref().map(inner_maybe::<B, C>);
        let forward = |keep| {
            let [x, fc1, fc2] = [&x, &fc1_weight, &fc2_weight].map(|tensor| tensor.primitive().clone());
            B::vitrum_mlp(x, fc1, fc1_inner, fc2, fc2_inner, activation, keep)
        };
        let [fc1_bias, fc2_bias] = biases.map(|bias| or_constant::<B, C>(bias, &x));
        let nodes = [x.node(), fc1_weight.node(), fc1_bias.node(), fc2_weight.node(), fc2_bias.node()];
        let y = match Backward::<B, 5>::prepare::<C>(MlpStep(activation), nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let (y, kept) = forward(true);
                let nodes = [&x, &fc1_weight, &fc2_weight].map(|tensor| prep.checkpoint(tensor));
                let kept = kept.expect("the forward pass keeps what it is told to");
                prep.finish((nodes, kept), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(forward(false).0),
        };
        (y, None)
    }
}

/// The same without gradient.
pub(crate) fn inner_maybe<B: Backend, C: CheckpointStrategy>(
    tensor: &Option<FloatTensor<Autodiff<B, C>>>,
) -> Maybe<B> {
    Maybe::from_option(tensor.as_ref().map(|tensor| tensor.primitive().clone()))
}

/// The tensor, or an empty one without gradient in its place, so that a step always has as many parents.
pub(crate) fn or_constant<B: Backend, C: CheckpointStrategy>(
    tensor: Option<FloatTensor<Autodiff<B, C>>>,
    like: &FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    tensor.unwrap_or_else(|| {
        let like = like.primitive();
        let empty = B::float_empty(Shape::new([0]), &like.device(), like.dtype().into());
        Autodiff::<B, C>::from_inner(empty)
    })
}

/// Backward step of layer normalisation; N is 3 with a bias, 2 without.
#[derive(Debug)]
struct LayerNormStep;

impl<B: VitrumOps, const N: usize> Backward<B, N> for LayerNormStep {
    /// x and weight by node, mean and reciprocal deviation themselves.
    type State = (NodeId, NodeId, (FloatTensor<B>, FloatTensor<B>));

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, (mean, rstd)) = ops.state;
        let x = checkpointer.retrieve_node_output(x);
        let weight = checkpointer.retrieve_node_output(weight);
        let (d_x, d_weight, d_bias) = B::vitrum_layer_norm_backward(x, weight, mean, rstd, grad);
        for (node, gradient) in ops.parents.into_iter().zip([d_x, d_weight, d_bias]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Backward step of an activation.
#[derive(Debug)]
struct ActivateStep(Activation);

impl<B: VitrumOps> Backward<B, 1> for ActivateStep {
    /// x by node.
    type State = NodeId;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output(ops.state);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::vitrum_activate_backward(x, grad, self.0));
        }
    }
}

/// Backward step of a linear layer with parents x, weight, bias, residual, gamma, the last three perhaps empty.
#[derive(Debug)]
struct LinearStep {
    bias: bool,
    gamma: bool,
}

impl<B: VitrumOps> Backward<B, 5> for LinearStep {
    /// x, weight, bias and gamma by node.
    type State = [NodeId; 4];

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let retrieve = |node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node);
        let [x, weight, bias, gamma] = ops.state.map(retrieve);
        let [x_node, weight_node, bias_node, residual_node, gamma_node] = ops.parents;
        let wants_gamma = gamma_node.is_some();
        let wants = LinearWants {
            x: x_node.is_some(),
            weight: weight_node.is_some() || wants_gamma,
            bias: bias_node.is_some() || wants_gamma && self.bias,
        };
        let gained = if self.gamma {
            B::float_mul(weight.clone(), portable::as_row::<B>(gamma.clone()))
        } else {
            weight.clone()
        };
        // With a gain, weight and bias see it later; that of the gain itself is their products with these gradients.
        let (d_x, d_weight, d_bias) = B::vitrum_linear_backward(x, gained, grad.clone(), wants);
        let mut gradients = vec![(x_node, d_x), (residual_node, Some(grad))];
        if wants_gamma {
            let d_weight = d_weight.clone().expect("asked for");
            let mut d_gamma = portable::sum_rows::<B>(B::float_mul(weight, d_weight));
            if let Some(d_bias) = d_bias.clone() {
                d_gamma = B::float_add(d_gamma, B::float_mul(bias, d_bias));
            }
            gradients.push((gamma_node, Some(d_gamma)));
        }
        let with_gain = |d: FloatTensor<B>, gain| if self.gamma { B::float_mul(d, gain) } else { d };
        if weight_node.is_some() {
            let gain = || portable::as_row::<B>(gamma.clone());
            gradients.push((weight_node, d_weight.map(|d| with_gain(d, gain()))));
        }
        if bias_node.is_some() {
            gradients.push((bias_node, d_bias.map(|d| with_gain(d, gamma))));
        }
        for (node, gradient) in gradients {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Backward step of a projection of patches with parents images, weight and bias, the last perhaps empty.
#[derive(Debug)]
struct PatchEmbedStep;

impl<B: VitrumOps> Backward<B, 3> for PatchEmbedStep {
    /// Images and weight by node.
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [images, weight] = ops.state.map(|node| checkpointer.retrieve_node_output(node));
        let [x, w, b] = ops.parents.each_ref().map(Option::is_some);
        let wants = LinearWants { x, weight: w, bias: b };
        let (d_images, d_weight, d_bias) = B::vitrum_patch_embed_backward(images, weight, grad, wants);
        for (node, gradient) in ops.parents.into_iter().zip([d_images, d_weight, d_bias]) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Backward step of an MLP with parents x, first weight and bias, second weight and bias, the biases perhaps empty.
#[derive(Debug)]
struct MlpStep(Activation);

impl<B: VitrumOps> Backward<B, 5> for MlpStep {
    /// x and both weights by node, and what the forward pass kept.
    type State = ([NodeId; 3], FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (nodes, kept) = ops.state;
        let [x, fc1, fc2] = nodes.map(|node| checkpointer.retrieve_node_output(node));
        let [x_want, fc1_weight, fc1_bias, fc2_weight, fc2_bias] =
            ops.parents.each_ref().map(Option::is_some);
        let wants = MlpWants { x: x_want, fc1_weight, fc1_bias, fc2_weight, fc2_bias };
        let (a, b, c, d, e) = B::vitrum_mlp_backward(x, fc1, fc2, kept, grad, self.0, wants);
        for (node, gradient) in ops.parents.into_iter().zip([a, b, c, d, e]) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}
