//! Attention with gradients.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend};

use super::VitrumOps;
use super::autodiff::{inner_maybe, or_constant};
use crate::attention::{AttentionForm, AttentionInputs, Projections};
use crate::tensors::{Maybe, MaybeBool};

/// Backward step of attention. Its parents are up to three projections and the bias; absent ones are empty.
#[derive(Debug)]
struct AttentionStep(AttentionForm);

/// State for the backward pass of attention. Projections and bias are stored as nodes; mask, context, maxima and norms
/// as tensors. `tensors` counts the projections.
#[derive(Clone, Debug)]
struct AttentionState<B: Backend> {
    nodes: [NodeId; 4],
    tensors: usize,
    has_bias: bool,
    key_padding: Option<BoolTensor<B>>,
    saved: (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

/// Context, maxima and norms, as the operation returns them.
type Answer<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

/// Runs the operation of the inner backend and records its step.
pub(super) fn attention<B: VitrumOps, C: CheckpointStrategy>(
    inputs: AttentionInputs<Autodiff<B, C>>,
    form: AttentionForm,
) -> Answer<Autodiff<B, C>> {
    let AttentionInputs { projections, bias, key_padding } = inputs;
    let (tensors, bias, key_padding) =
        (projections.into_tensors(), bias.into_option(), key_padding.into_option());
    let inner = tensors.iter().map(|tensor| tensor.primitive().clone()).collect();
    let inner = AttentionInputs {
        projections: Projections::of(inner),
        bias: inner_maybe::<B, C>(&bias),
        key_padding: MaybeBool::from_option(key_padding.clone()),
    };
    let (context, max, norm) = B::vitrum_attention(inner, form);
    let saved = (context.clone(), max.clone(), norm.clone());
    let (count, has_bias) = (tensors.len(), bias.is_some());
    let like = tensors[0].clone();
    let mut tensors = tensors.into_iter();
    let parents = [tensors.next(), tensors.next(), tensors.next(), bias];
    let parents = parents.map(|tensor| or_constant::<B, C>(tensor, &like));
    let nodes = parents.each_ref().map(|tensor| tensor.node());
    let context = match Backward::<B, 4>::prepare::<C>(AttentionStep(form), nodes).compute_bound().stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let nodes = parents.each_ref().map(|tensor| prep.checkpoint(tensor));
            let state = AttentionState { nodes, tensors: count, has_bias, key_padding, saved };
            prep.finish(state, context)
        }
        OpsKind::UnTracked(prep) => prep.finish(context),
    };
    let untracked = Autodiff::<B, C>::from_inner;
    (context, untracked(max), untracked(norm))
}

impl<B: VitrumOps> Backward<B, 4> for AttentionStep {
    type State = AttentionState<B>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let AttentionState { nodes, tensors, has_bias, key_padding, saved } = ops.state;
        let mut retrieve = |node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node);
        let inputs = AttentionInputs {
            projections: Projections::of(nodes[..tensors].iter().map(|&node| retrieve(node)).collect()),
            bias: Maybe::from_option(has_bias.then(|| retrieve(nodes[3]))),
            key_padding: MaybeBool::from_option(key_padding),
        };
        let (context, max, norm) = saved;
        let [.., bias] = &ops.parents;
        let want_bias = has_bias && bias.is_some();
        let (gradients, d_bias) =
            B::vitrum_attention_backward(inputs, context, max, norm, grad, self.0, want_bias);
        let [q, k, v, bias] = ops.parents;
        let pairs = [q, k, v].into_iter().zip(gradients).chain(bias.into_iter().map(Some).zip(d_bias));
        for (node, gradient) in pairs {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}
