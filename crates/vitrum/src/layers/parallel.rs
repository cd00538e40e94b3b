//! Blocks whose branches stand beside each other.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use vitrum_kernels::Activation::Identity;

use super::attention::{Attention, AttentionConfig, AttentionCore, BlockArgs, BlockBias};
use super::block::{BlockConfig, BlockFn, Gains, LayerScale, first};
use super::drop::{drop_path, dropout, records};
use super::mlp::{Activation, BlockMlp};
use super::names::Flat;
use super::norm::LayerNorm;
use super::observe::{Observer, Within};
use super::{Linear, parameter};

/// Attention beside the MLP, Dehghani et al. 2023 (arXiv:2302.05442, section 2.1): one norm, one projection of the tokens to
/// queries, keys, values and the hidden layer.
///
/// ```text
/// h, q, k, v = in_proj(norm(z))
/// z          = z + attn_out_proj(attention(q, k, v)) + mlp_out_proj(act(h))
/// ```
#[derive(Module, Debug)]
pub struct ParallelScalingBlock {
    /// The norm of both branches.
    pub in_norm: LayerNorm,
    /// `D -> F + 3·D`: the hidden layer, then queries, keys and values.
    pub in_proj: Linear,
    /// Bias of the hidden layer, `[F]`, if the projection has none.
    pub mlp_bias: Option<Param<Tensor<1>>>,
    /// Attention between the projections.
    pub core: Flat<AttentionCore>,
    /// The projections at the end.
    pub out: Flat<OutProj>,
    /// Gain of both branches together.
    pub ls: Option<LayerScale>,
    #[module(skip)]
    act: Activation,
    hidden: usize,
    mlp_drop: f64,
    drop_path: f64,
}

/// The projections at the end of a [`ParallelScalingBlock`].
// The size of a variant does not matter: a few dozen exist at most, beside megabytes of weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum OutProj {
    /// One for each branch.
    Separate(SeparateOutProj),
    /// One for both.
    Fused(FusedOutProj),
}

/// A projection for each branch.
#[derive(Module, Debug)]
pub struct SeparateOutProj {
    /// `D -> D`.
    pub attn_out_proj: Linear,
    /// `F -> D`.
    pub mlp_out_proj: Linear,
}

/// One projection for both branches.
#[derive(Module, Debug)]
pub struct FusedOutProj {
    /// `D + F -> D`: attention, then the hidden layer.
    pub out_proj: Linear,
}

impl ParallelScalingBlock {
    /// A block without relative positions. The norms of a [`BlockConfig`] stand before its branches.
    pub fn new(config: &BlockConfig, device: &Device) -> Self {
        let attention = &config.attention;
        let AttentionConfig { dim, num_heads, head_dim, qkv_bias, proj_bias, proj_drop, .. } = *attention;
        let (inner, hidden) = (num_heads * head_dim, config.mlp.hidden);
        let linear = |d_in| Linear::new(d_in, dim, proj_bias, device);
        let out = match config.block_fn {
            BlockFn::DiffParallelScalingBlock => {
                OutProj::Fused(FusedOutProj { out_proj: linear(inner + hidden) })
            }
            _ => OutProj::Separate(SeparateOutProj {
                attn_out_proj: linear(inner),
                mlp_out_proj: linear(hidden),
            }),
        };
        Self {
            in_norm: attention.norm().build(dim, device),
            in_proj: Linear::new(dim, hidden + 3 * inner, qkv_bias, device),
            mlp_bias: (!qkv_bias).then(|| parameter([hidden], device)),
            core: Flat::new(AttentionCore::new(attention, BlockBias::default(), device)),
            out: Flat::new(out),
            ls: (config.gains != Gains::None).then(|| LayerScale::new(dim, device)),
            act: config.mlp.act,
            hidden,
            mlp_drop: proj_drop,
            drop_path: config.drop_path,
        }
    }

    /// `[B, T, D] -> [B, T, D]`; only the first [`BlockArgs::read`] tokens if that is set.
    ///
    /// # Panics
    /// As [`Block::forward`](super::block::Block::forward).
    pub fn forward(&self, x: Tensor<3>, args: BlockArgs, watch: &mut dyn Observer) -> Tensor<3> {
        let fuses = !watch.wants_tokens() && !records(&x);
        let y = match fuses {
            true => self.project_normed(x.clone()),
            false => self.project(watch.tokens(format_args!("in_norm"), self.in_norm.forward(x.clone()))),
        }; // [B, T, F + 3·D]
        let (f, width) = (self.hidden, y.dims()[2]);
        let rounds = self.in_proj.rounds_attention(&y.device(), y.dtype());
        let qkv = y.clone().narrow(2, f, width - f);
        let context = self.core.forward(qkv, args, rounds, &mut Within::new(watch, format_args!("attn")));
        let hidden = self.act.forward(first(y.narrow(2, 0, f), args.read)); // [B, T, F]
        let hidden = dropout(hidden, self.mlp_drop);
        let x = first(x, args.read);
        let gamma = self.ls.as_ref().map(|ls| ls.gamma.val());
        if fuses {
            return self.out.add_to(x, context, hidden, gamma);
        }
        let y = self.out.forward(context, hidden, watch);
        let y = match gamma {
            Some(gamma) => watch.tokens(format_args!("ls"), y * gamma.unsqueeze()),
            None => y,
        };
        watch.tokens(format_args!(""), x + drop_path(y, self.drop_path))
    }

    /// The first projection, of normed tokens.
    fn project(&self, x: Tensor<3>) -> Tensor<3> {
        match self.bias() {
            Some(bias) if self.in_proj.prepared().is_none() => {
                vitrum_kernels::linear(x, self.in_proj.weight.val(), bias)
            }
            _ => self.in_proj.forward(x),
        }
    }

    /// The norm and the first projection.
    fn project_normed(&self, x: Tensor<3>) -> Tensor<3> {
        match self.mlp_bias.is_none() || self.in_proj.prepared().is_some() {
            true => self.in_proj.after(&self.in_norm, x, Identity),
            false => self.project(self.in_norm.forward(x)),
        }
    }

    /// `[mlp_bias, 0]`, `[F + 3·D]`.
    fn bias(&self) -> Option<Tensor<1>> {
        let bias = self.mlp_bias.as_ref()?.val();
        let [_, width] = self.in_proj.weight.lazy_shape().dims::<2>();
        let rest = Tensor::zeros([width - self.hidden], (&bias.device(), bias.dtype()));
        Some(Tensor::cat(vec![bias, rest], 0))
    }

    /// The linear layers with their names, in execution order.
    pub fn linears(&self) -> Vec<(&'static str, &Linear)> {
        let mut layers = vec![("in_proj", &self.in_proj)];
        match &*self.out {
            OutProj::Separate(SeparateOutProj { attn_out_proj, mlp_out_proj }) => {
                layers.extend([("attn_out_proj", attn_out_proj), ("mlp_out_proj", mlp_out_proj)]);
            }
            OutProj::Fused(FusedOutProj { out_proj }) => layers.push(("out_proj", out_proj)),
        }
        layers
    }

    /// [`linears`](ParallelScalingBlock::linears), mutable. Prepared forms of the first one hold the bias of the hidden layer.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        if let Some(bias) = self.bias() {
            self.in_proj.set_outer_bias(&bias);
        }
        let mut layers = vec![("in_proj", &mut self.in_proj)];
        match &mut *self.out {
            OutProj::Separate(SeparateOutProj { attn_out_proj, mlp_out_proj }) => {
                layers.extend([("attn_out_proj", attn_out_proj), ("mlp_out_proj", mlp_out_proj)]);
            }
            OutProj::Fused(FusedOutProj { out_proj }) => layers.push(("out_proj", out_proj)),
        }
        layers
    }
}

impl OutProj {
    /// What both branches say together, `[B, T, D]`.
    fn forward(&self, context: Tensor<3>, hidden: Tensor<3>, watch: &mut dyn Observer) -> Tensor<3> {
        match self {
            Self::Separate(SeparateOutProj { attn_out_proj, mlp_out_proj }) => {
                let context = watch.tokens(format_args!("attn_out_proj"), attn_out_proj.forward(context));
                context + watch.tokens(format_args!("mlp_out_proj"), mlp_out_proj.forward(hidden))
            }
            Self::Fused(FusedOutProj { out_proj }) => {
                let both = Tensor::cat(vec![context, hidden], 2);
                watch.tokens(format_args!("out_proj"), out_proj.forward(both))
            }
        }
    }

    /// `residual + gamma · forward(context, hidden)`, for inference.
    fn add_to(
        &self,
        residual: Tensor<3>,
        context: Tensor<3>,
        hidden: Tensor<3>,
        gamma: Option<Tensor<1>>,
    ) -> Tensor<3> {
        match self {
            Self::Separate(SeparateOutProj { attn_out_proj, mlp_out_proj }) => {
                let x = attn_out_proj.add_to(residual, context, gamma.clone());
                mlp_out_proj.add_to(x, hidden, gamma)
            }
            Self::Fused(FusedOutProj { out_proj }) => {
                out_proj.add_to(residual, Tensor::cat(vec![context, hidden], 2), gamma)
            }
        }
    }
}

/// Attentions beside each other, then MLPs beside each other, Touvron et al. 2022 (arXiv:2203.09795, section 3):
///
/// ```text
/// z' = z + Σᵢ MSAᵢ(LNᵢ(z))
/// z  = z' + Σᵢ MLPᵢ(LNᵢ(z'))
/// ```
#[derive(Module, Debug)]
pub struct ParallelThingsBlock {
    /// The attentions.
    pub attns: Vec<AttentionBranch>,
    /// The MLPs.
    pub ffns: Vec<MlpBranch>,
    drop_path: f64,
}

/// What all branches of a pass share.
#[derive(Clone, Copy)]
struct Pass {
    /// Whether the last product of a branch adds to the sum.
    fuses: bool,
    drop_path: f64,
}

/// One attention with its norm and its gain.
#[derive(Module, Debug)]
pub struct AttentionBranch {
    /// The norm before attention.
    pub norm: LayerNorm,
    /// Multi-head self-attention.
    pub attn: Attention,
    /// Gain on attention.
    pub ls: Option<LayerScale>,
}

/// One MLP with its norm and its gain.
#[derive(Module, Debug)]
pub struct MlpBranch {
    /// The norm before the MLP.
    pub norm: LayerNorm,
    /// The MLP.
    pub mlp: BlockMlp,
    /// Gain on the MLP.
    pub ls: Option<LayerScale>,
}

impl ParallelThingsBlock {
    /// Branches beside each other, as many as in the paper's models and in timm.
    pub const PARALLEL: usize = 2;

    /// A block without relative positions. The norms of a [`BlockConfig`] stand before its branches.
    pub fn new(config: &BlockConfig, device: &Device) -> Self {
        let attention = &config.attention;
        let AttentionConfig { dim, proj_bias, proj_drop, .. } = *attention;
        let form = attention.norm();
        let ls = || (config.gains != Gains::None).then(|| LayerScale::new(dim, device));
        let attn = |_| AttentionBranch {
            norm: form.build(dim, device),
            attn: Attention::new(attention, BlockBias::default(), device),
            ls: ls(),
        };
        let ffn = |_| MlpBranch {
            norm: form.build(dim, device),
            mlp: BlockMlp::new(&config.mlp, dim, proj_bias, proj_drop, form, device),
            ls: ls(),
        };
        Self {
            attns: (0..Self::PARALLEL).map(attn).collect(),
            ffns: (0..Self::PARALLEL).map(ffn).collect(),
            drop_path: config.drop_path,
        }
    }

    /// `[B, T, D] -> [B, T, D]`; only the first [`BlockArgs::read`] tokens if that is set.
    ///
    /// # Panics
    /// As [`Block::forward`](super::block::Block::forward).
    pub fn forward(&self, x: Tensor<3>, args: BlockArgs, watch: &mut dyn Observer) -> Tensor<3> {
        let fuses = !watch.wants_tokens() && !records(&x);
        let pass = Pass { fuses, drop_path: self.drop_path };
        let mut sum = first(x.clone(), args.read);
        for (i, branch) in self.attns.iter().enumerate() {
            sum =
                branch.add_to(sum, x.clone(), args, pass, &mut Within::new(watch, format_args!("attns.{i}")));
        }
        let x = sum.clone();
        for (i, branch) in self.ffns.iter().enumerate() {
            sum = branch.add_to(sum, x.clone(), pass, &mut Within::new(watch, format_args!("ffns.{i}")));
        }
        watch.tokens(format_args!(""), sum)
    }

    /// The linear layers with their names, in execution order.
    pub fn linears(&self) -> Vec<(String, &Linear)> {
        let attns = self.attns.iter().enumerate().flat_map(|(i, AttentionBranch { attn, .. })| {
            let layers = attn.qkv.linears().into_iter().chain([("attn.proj", &attn.proj)]);
            layers.map(move |(name, layer)| (format!("attns.{i}.{name}"), layer))
        });
        let ffns = self.ffns.iter().enumerate().flat_map(|(i, branch)| {
            branch.mlp.linears().into_iter().map(move |(name, layer)| (format!("ffns.{i}.{name}"), layer))
        });
        attns.chain(ffns).collect()
    }

    /// [`linears`](ParallelThingsBlock::linears), mutable.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let attns = self.attns.iter_mut().enumerate().flat_map(|(i, AttentionBranch { attn, .. })| {
            let layers = attn.qkv.linears_mut().into_iter().chain([("attn.proj", &mut attn.proj)]);
            layers.map(move |(name, layer)| (format!("attns.{i}.{name}"), layer))
        });
        let ffns = self.ffns.iter_mut().enumerate().flat_map(|(i, branch)| {
            branch.mlp.linears_mut().into_iter().map(move |(name, layer)| (format!("ffns.{i}.{name}"), layer))
        });
        attns.chain(ffns).collect()
    }
}

impl AttentionBranch {
    /// `sum` and this branch of `x`.
    fn add_to(
        &self,
        sum: Tensor<3>,
        x: Tensor<3>,
        args: BlockArgs,
        pass: Pass,
        watch: &mut dyn Observer,
    ) -> Tensor<3> {
        let gamma = self.ls.as_ref().map(|ls| ls.gamma.val());
        if pass.fuses {
            let qkv = self.attn.qkv.after(&self.norm, x);
            let context = self.attn.context(qkv, args, &mut Within::new(watch, format_args!("attn")));
            return self.attn.proj.add_to(sum, context, gamma);
        }
        let y = watch.tokens(format_args!("norm"), self.norm.forward(x));
        let y = self.attn.forward(y, args, &mut Within::new(watch, format_args!("attn")));
        let y = watch.tokens(format_args!("attn"), y);
        sum + drop_path(scaled(y, gamma, watch), pass.drop_path)
    }
}

impl MlpBranch {
    /// `sum` and this branch of `x`.
    fn add_to(&self, sum: Tensor<3>, x: Tensor<3>, pass: Pass, watch: &mut dyn Observer) -> Tensor<3> {
        let gamma = self.ls.as_ref().map(|ls| ls.gamma.val());
        if pass.fuses {
            return self.mlp.add_after(sum, &self.norm, x, gamma);
        }
        let y = watch.tokens(format_args!("norm"), self.norm.forward(x));
        let y = watch.tokens(format_args!("mlp"), self.mlp.forward(y));
        sum + drop_path(scaled(y, gamma, watch), pass.drop_path)
    }
}

/// A branch with its gain, `ls`.
fn scaled(x: Tensor<3>, gamma: Option<Tensor<1>>, watch: &mut dyn Observer) -> Tensor<3> {
    match gamma {
        Some(gamma) => watch.tokens(format_args!("ls"), x * gamma.unsqueeze()),
        None => x,
    }
}
