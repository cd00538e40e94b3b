//! The operations with gradients: each records a step whose backward pass calls that of the inner backend.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, AutodiffBackend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::Shape;

use super::MapOps;
use crate::conv::ConvForm;
use crate::extension::optional::{inner_maybe, or_constant};
use crate::gate::Squeeze;
use crate::linear::LinearWants;
use crate::map_norm::MapNorm;
use crate::pool::Pool;
use crate::portable::sum_rows;
use crate::tensors::Maybe;

impl<B: MapOps, C: CheckpointStrategy> MapOps for Autodiff<B, C> {
    fn vitrum_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        form: ConvForm,
    ) -> FloatTensor<Self> {
        let bias = bias.into_option();
        let inner = inner_maybe::<B, C>(&bias);
        let y = B::vitrum_conv(x.primitive().clone(), weight.primitive().clone(), inner, form);
        let bias = or_constant::<B, C>(bias, &x);
        let nodes = [x.node(), weight.node(), bias.node()];
        match Backward::<B, 3>::prepare::<C>(ConvStep(form), nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = [&x, &weight].map(|tensor| prep.checkpoint(tensor));
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn vitrum_pool(x: FloatTensor<Self>, form: ConvForm, pool: Pool) -> FloatTensor<Self> {
        let y = B::vitrum_pool(x.primitive().clone(), form, pool);
        match Backward::<B, 1>::prepare::<C>(PoolStep(form, pool), [x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let x = prep.checkpoint(&x);
                prep.finish(x, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn vitrum_map_norm(
        x: FloatTensor<Self>,
        weight: Maybe<Self>,
        bias: Maybe<Self>,
        residual: Maybe<Self>,
        norm: MapNorm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let options = [weight, bias, residual].map(Maybe::into_option);
        let [weight, bias, residual] = options.each_ref().map(inner_maybe::<B, C>);
        let (y, mean, var) = B::vitrum_map_norm(x.primitive().clone(), weight, bias, residual, norm);
        let step = MapNormStep { norm, weight: options[0].is_some(), residual: options[2].is_some() };
        let [weight, bias, residual] = options.map(|option| or_constant::<B, C>(option, &x));
        let stats = (mean.clone(), var.clone());
        let nodes = [x.node(), weight.node(), bias.node(), residual.node()];
        let y = match Backward::<B, 4>::prepare::<C>(step, nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&x, &weight].map(|tensor| prep.checkpoint(tensor));
                let rectified = norm.relu.then(|| y.clone());
                prep.finish((nodes, rectified, stats), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        let untracked = Self::from_inner;
        (y, untracked(mean), untracked(var))
    }

    fn vitrum_gate(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: Maybe<Self>,
        residual: bool,
    ) -> FloatTensor<Self> {
        let shift = shift.into_option();
        let inner = inner_maybe::<B, C>(&shift);
        let y = B::vitrum_gate(x.primitive().clone(), scale.primitive().clone(), inner, residual);
        let shift = or_constant::<B, C>(shift, &x);
        let nodes = [x.node(), scale.node(), shift.node()];
        match Backward::<B, 3>::prepare::<C>(GateStep { residual }, nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = [&x, &scale].map(|tensor| prep.checkpoint(tensor));
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn vitrum_squeeze(x: FloatTensor<Self>, squeeze: Squeeze) -> FloatTensor<Self> {
        let y = B::vitrum_squeeze(x.primitive().clone(), squeeze);
        match Backward::<B, 1>::prepare::<C>(SqueezeStep(squeeze), [x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let x = prep.checkpoint(&x);
                prep.finish((x, y.clone()), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// Backward step of a convolution. Its parents are x, weight and bias; the bias may be empty.
#[derive(Debug)]
struct ConvStep(ConvForm);

impl<B: MapOps> Backward<B, 3> for ConvStep {
    /// x and weight as nodes.
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x, weight] = ops.state.map(|node| checkpointer.retrieve_node_output(node));
        let [wants_x, wants_weight, bias] = ops.parents.each_ref().map(Option::is_some);
        let wants = LinearWants { x: wants_x, weight: wants_weight, bias };
        let (d_x, d_weight, d_bias) = B::vitrum_conv_backward(x, weight, grad, self.0, wants);
        for (node, gradient) in ops.parents.into_iter().zip([d_x, d_weight, d_bias]) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Backward step of a pooling.
#[derive(Debug)]
struct PoolStep(ConvForm, Pool);

impl<B: MapOps> Backward<B, 1> for PoolStep {
    /// x as a node.
    type State = NodeId;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output(ops.state);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::vitrum_pool_backward(x, grad, self.0, self.1));
        }
    }
}

/// Backward step of a norm of maps. Its parents are x, weight, bias and residual; the last three may be empty.
#[derive(Debug)]
struct MapNormStep {
    norm: MapNorm,
    weight: bool,
    residual: bool,
}

impl<B: MapOps> Backward<B, 4> for MapNormStep {
    /// x and weight as nodes; the rectified result, mean and variance as tensors.
    type State = ([NodeId; 2], Option<FloatTensor<B>>, (FloatTensor<B>, FloatTensor<B>));

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (nodes, rectified, (mean, var)) = ops.state;
        let [x, weight] = nodes.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let weight = Maybe::from_option(self.weight.then_some(weight));
        let residual = self.residual && ops.parents[3].is_some();
        let rectified = Maybe::from_option(rectified);
        let (d_x, d_weight, d_bias, d_residual) =
            B::vitrum_map_norm_backward(x, weight, rectified, mean, var, grad, self.norm, residual);
        let gradients = [Some(d_x), Some(d_weight), Some(d_bias), d_residual];
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Backward step of a gate. Its parents are x, scale and shift; the shift may be empty.
#[derive(Debug)]
struct GateStep {
    residual: bool,
}

impl<B: MapOps> Backward<B, 3> for GateStep {
    /// x and scale as nodes.
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x, scale] = ops.state.map(|node| checkpointer.retrieve_node_output(node));
        let [x_node, scale_node, shift_node] = ops.parents;
        if let Some(node) = shift_node {
            let shape = grad.shape();
            let rows = B::float_reshape(grad.clone(), Shape::new([shape[0] * shape[1], shape[2]]));
            grads.register::<B>(node.id, sum_rows::<B>(rows));
        }
        let (d_x, d_scale) = B::vitrum_gate_backward(x, scale, grad, self.residual);
        for (node, gradient) in [(x_node, d_x), (scale_node, d_scale)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Backward step of a squeeze.
#[derive(Debug)]
struct SqueezeStep(Squeeze);

impl<B: MapOps> Backward<B, 1> for SqueezeStep {
    /// x as a node, the result as a tensor.
    type State = (NodeId, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, squeezed) = ops.state;
        let x = checkpointer.retrieve_node_output(x);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::vitrum_squeeze_backward(x, squeezed, grad, self.0));
        }
    }
}
