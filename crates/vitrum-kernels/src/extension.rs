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
    Autodiff, AutodiffBackend, Backend, ExtensionType, Flex, backend_extension, tensor::FloatTensor,
};
use burn::tensor::DType;

use crate::{attention, layer_norm, portable};

/// A tensor that may be missing. (The macro that spreads the trait over backends knows no `Option` arguments.)
#[derive(ExtensionType)]
pub enum Maybe<B: Backend> {
    /// Nothing.
    Absent,
    /// A tensor.
    Present(FloatTensor<B>),
}

impl<B: Backend> Maybe<B> {
    fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Maybe::Absent => None,
            Maybe::Present(tensor) => Some(tensor),
        }
    }

    fn from_option(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Maybe::Absent, Maybe::Present)
    }
}

/// Fused operations of vision transformers. Users call the safe functions of the crate's root.
///
/// On a backend that is not in the list below the generated dispatch panics; the safe functions use the reference
/// there instead.
#[backend_extension(Flex, Cube: cfg(any(feature = "vulkan", feature = "webgpu")), Autodiff)]
pub trait VitrumOps: Backend {
    /// Attention over a packed projection; see [`attention`](crate::attention) for the meaning of the arguments.
    ///
    /// Returns the context `[B, T, D]` and what the backward pass needs to recompute the weights: of each row of
    /// scores its maximum and the reciprocal of Σ exp(score - maximum), `[B, A, T]` each, without gradient.
    fn vitrum_attention(
        qkv: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        num_heads: usize,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::attention::<Self>(qkv, bias.into_option(), num_heads, scale)
    }

    /// Gradients of `qkv`, and of `bias` if there is one and `want_bias` is set, given that of the context.
    ///
    /// `context`, `max` and `norm` are what the forward pass on the same backend returned.
    #[allow(clippy::too_many_arguments)]
    fn vitrum_attention_backward(
        qkv: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        context: FloatTensor<Self>,
        max: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        num_heads: usize,
        scale: f64,
        want_bias: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let _ = (context, max, norm);
        portable::attention_backward::<Self>(qkv, bias.into_option(), grad, num_heads, scale, want_bias)
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
}

impl VitrumOps for Flex {
    fn vitrum_attention(
        qkv: FloatTensor<Self>,
        bias: Maybe<Self>,
        num_heads: usize,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let bias = bias.into_option().map(in_one_piece);
        match qkv.dtype() {
            DType::F32 => attention::forward::<f32>(&in_one_piece(qkv), bias.as_ref(), num_heads, scale),
            DType::F64 => attention::forward::<f64>(&in_one_piece(qkv), bias.as_ref(), num_heads, scale),
            _ => portable::attention::<Self>(qkv, bias, num_heads, scale),
        }
    }

    fn vitrum_attention_backward(
        qkv: FloatTensor<Self>,
        bias: Maybe<Self>,
        context: FloatTensor<Self>,
        max: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        num_heads: usize,
        scale: f64,
        want_bias: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let bias = bias.into_option().map(in_one_piece);
        let backward = match qkv.dtype() {
            DType::F32 => attention::backward::<f32>,
            DType::F64 => attention::backward::<f64>,
            _ => return portable::attention_backward::<Self>(qkv, bias, grad, num_heads, scale, want_bias),
        };
        let [qkv, context, max, norm, grad] = [qkv, context, max, norm, grad].map(in_one_piece);
        backward(&qkv, bias.as_ref(), &context, &max, &norm, &grad, num_heads, scale, want_bias)
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
}

/// The tensor with its numbers in order and side by side; copies only if they are not.
fn in_one_piece(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

#[cfg(any(feature = "vulkan", feature = "webgpu"))]
impl VitrumOps for burn::backend::Cube {}

impl<B: VitrumOps, C: CheckpointStrategy> VitrumOps for Autodiff<B, C> {
    fn vitrum_attention(
        qkv: FloatTensor<Self>,
        bias: Maybe<Self>,
        num_heads: usize,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let step = AttentionStep { num_heads, scale };
        let bias = bias.into_option();
        let inner = Maybe::from_option(bias.as_ref().map(|bias| bias.primitive().clone()));
        let (context, max, norm) = B::vitrum_attention(qkv.primitive().clone(), inner, num_heads, scale);
        let saved = (context.clone(), max.clone(), norm.clone());
        let context = match bias {
            None => match Backward::<B, 1>::prepare::<C>(step, [qkv.node()]).compute_bound().stateful() {
                OpsKind::Tracked(mut prep) => {
                    let state = AttentionState { qkv: prep.checkpoint(&qkv), bias: None, saved };
                    prep.finish(state, context)
                }
                OpsKind::UnTracked(prep) => prep.finish(context),
            },
            Some(bias) => {
                let nodes = [qkv.node(), bias.node()];
                match Backward::<B, 2>::prepare::<C>(step, nodes).compute_bound().stateful() {
                    OpsKind::Tracked(mut prep) => {
                        let qkv = prep.checkpoint(&qkv);
                        let state = AttentionState { qkv, bias: Some(prep.checkpoint(&bias)), saved };
                        prep.finish(state, context)
                    }
                    OpsKind::UnTracked(prep) => prep.finish(context),
                }
            }
        };
        (context, Self::from_inner(max), Self::from_inner(norm))
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
}

/// Backward step of attention; N is 2 with a bias, 1 without.
#[derive(Debug)]
struct AttentionStep {
    num_heads: usize,
    scale: f64,
}

/// What the backward pass of attention starts from: inputs by node, and context, max and norm themselves.
#[derive(Clone, Debug)]
struct AttentionState<B: Backend> {
    qkv: NodeId,
    bias: Option<NodeId>,
    saved: (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

impl<B: VitrumOps, const N: usize> Backward<B, N> for AttentionStep {
    type State = AttentionState<B>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let AttentionState { qkv, bias, saved: (context, max, norm) } = ops.state;
        let qkv = checkpointer.retrieve_node_output(qkv);
        let bias = Maybe::from_option(bias.map(|bias| checkpointer.retrieve_node_output(bias)));
        let mut parents = ops.parents.into_iter();
        let (qkv_node, bias_node) = (parents.next().flatten(), parents.next().flatten());
        let (d_qkv, d_bias) = B::vitrum_attention_backward(
            qkv,
            bias,
            context,
            max,
            norm,
            grad,
            self.num_heads,
            self.scale,
            bias_node.is_some(),
        );
        if let Some(node) = qkv_node {
            grads.register::<B>(node.id, d_qkv);
        }
        if let (Some(node), Some(d_bias)) = (bias_node, d_bias) {
            grads.register::<B>(node.id, d_bias);
        }
    }
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
