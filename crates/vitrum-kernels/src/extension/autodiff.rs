//! The operations with gradients: each records a step whose backward pass calls that of the inner backend.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, AutodiffBackend, tensor::FloatTensor};

use super::optional::{inner_maybe, or_constant};
use super::{VitrumOps, attention_step};
use crate::activation::Activation;
use crate::attention::{AttentionForm, AttentionInputs};
use crate::linear::LinearWants;
use crate::mlp::MlpWants;
use crate::portable;
use crate::tensors::Maybe;

impl<B: VitrumOps, C: CheckpointStrategy> VitrumOps for Autodiff<B, C> {
    fn vitrum_attention(
        inputs: AttentionInputs<Self>,
        form: AttentionForm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        attention_step::attention::<B, C>(inputs, form)
    }

    fn vitrum_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        eps: f64,
        centred: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let bias = bias.into_option();
        let inner = Maybe::from_option(bias.as_ref().map(|bias| bias.primitive().clone()));
        let (y, mean, rstd) =
            B::vitrum_layer_norm(x.primitive().clone(), weight.primitive().clone(), inner, eps, centred);
        let (saved, step) = ((mean.clone(), rstd.clone()), LayerNormStep { centred });
        let y = match bias {
            None => {
                let nodes = [x.node(), weight.node()];
                match Backward::<B, 2>::prepare::<C>(step, nodes).compute_bound().stateful() {
                    OpsKind::Tracked(mut prep) => {
                        let state = (prep.checkpoint(&x), prep.checkpoint(&weight), saved);
                        prep.finish(state, y)
                    }
                    OpsKind::UnTracked(prep) => prep.finish(y),
                }
            }
            Some(bias) => {
                let nodes = [x.node(), weight.node(), bias.node()];
                match Backward::<B, 3>::prepare::<C>(step, nodes).compute_bound().stateful() {
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

    fn vitrum_unit_heads(qkv: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self> {
        let y = B::vitrum_unit_heads(qkv.primitive().clone(), scale.primitive().clone());
        let nodes = [qkv.node(), scale.node()];
        match Backward::<B, 2>::prepare::<C>(UnitHeadsStep, nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = [&qkv, &scale].map(|tensor| prep.checkpoint(tensor));
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
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
                let kept = kept.expect("the forward pass keeps the argument if `keep` is set");
                prep.finish((nodes, kept), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(forward(false).0),
        };
        (y, None)
    }
}

/// Backward step of layer normalisation; N is 3 with a bias, 2 without.
#[derive(Debug)]
struct LayerNormStep {
    centred: bool,
}

impl<B: VitrumOps, const N: usize> Backward<B, N> for LayerNormStep {
    /// x and weight as nodes; mean and reciprocal deviation as tensors.
    type State = (NodeId, NodeId, (FloatTensor<B>, FloatTensor<B>));

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, (mean, rstd)) = ops.state;
        let x = checkpointer.retrieve_node_output(x);
        let weight = checkpointer.retrieve_node_output(weight);
        let (d_x, d_weight, d_bias) =
            B::vitrum_layer_norm_backward(x, weight, mean, rstd, grad, self.centred);
        for (node, gradient) in ops.parents.into_iter().zip([d_x, d_weight, d_bias]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Backward step of queries and keys of length 1.
#[derive(Debug)]
struct UnitHeadsStep;

impl<B: VitrumOps> Backward<B, 2> for UnitHeadsStep {
    /// Queries, keys and values, and the scale, as nodes.
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [qkv, scale] = ops.state.map(|node| checkpointer.retrieve_node_output(node));
        let (d_qkv, d_scale) = B::vitrum_unit_heads_backward(qkv, scale, grad);
        for (node, gradient) in ops.parents.into_iter().zip([d_qkv, d_scale]) {
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
    /// x as a node.
    type State = NodeId;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output(ops.state);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::vitrum_activate_backward(x, grad, self.0));
        }
    }
}

/// Backward step of a linear layer. Its parents are x, weight, bias, residual and gamma; the last three may be empty.
#[derive(Debug)]
struct LinearStep {
    bias: bool,
    gamma: bool,
}

impl<B: VitrumOps> Backward<B, 5> for LinearStep {
    /// x, weight, bias and gamma as nodes.
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
        // These are the gradients before gamma. Those of weight and bias are multiplied with gamma below; the gradient
        // of gamma is their product with weight and bias.
        let (d_x, d_weight, d_bias) = B::vitrum_linear_backward(x, gained, grad.clone(), wants);
        let mut gradients = vec![(x_node, d_x), (residual_node, Some(grad))];
        if wants_gamma {
            let d_weight = d_weight.clone().expect("a requested gradient");
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

/// Backward step of a projection of patches. Its parents are images, weight and bias; the bias may be empty.
#[derive(Debug)]
struct PatchEmbedStep;

impl<B: VitrumOps> Backward<B, 3> for PatchEmbedStep {
    /// Images and weight as nodes.
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

/// Backward step of an MLP. Its parents are x, first weight and bias, second weight and bias; the biases may be empty.
#[derive(Debug)]
struct MlpStep(Activation);

impl<B: VitrumOps> Backward<B, 5> for MlpStep {
    /// x and both weights as nodes, and the tensor that the forward pass kept.
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
