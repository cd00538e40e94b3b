//! One layer of the encoder.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vitrum_kernels::{AfterAttention, after_attention_packed};

use super::attention::{Attention, AttentionConfig, BlockArgs, BlockBias};
use super::drop::{drop_path, records};
use super::kept::Kept;
use super::mlp::{BlockMlp, MlpConfig};
use super::norm::LayerNorm;
use super::observe::{Observer, Within};
use super::parallel::{ParallelScalingBlock, ParallelThingsBlock};
use super::{Linear, parameter};

/// LayerScale, Touvron et al. 2021 (arXiv:2103.17239): a learned gain per channel.
#[derive(Module, Debug)]
pub struct LayerScale {
    /// `[D]`.
    pub gamma: Param<Tensor<1>>,
}

impl LayerScale {
    /// Gains of tokens of width `dim`.
    pub fn new(dim: usize, device: &Device) -> Self {
        Self { gamma: parameter([dim], device) }
    }
}

/// Where the norms of a block stand, as configurations say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockNorm {
    /// Before attention and MLP, or at the end of their branches where `res_post_norm` says so.
    #[default]
    Pre,
    /// After each sum of branch and residual (Vaswani et al. 2017; torch `TransformerEncoderLayer(norm_first=False)`).
    Post,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Before attention and MLP: `z + MSA(LN(z))`.
    Before,
    /// At the end of the branches: `z + LN(MSA(z))`.
    Branch,
    /// After the sums: `LN(z + MSA(z))`.
    Sum,
}

/// The gains of a block's branches (LayerScale), and how they are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gains {
    /// No gains.
    #[default]
    None,
    /// As modules: `ls1.gamma`, `ls2.gamma`.
    Modules,
    /// As vectors: `gamma_1`, `gamma_2` (BEiT, EVA).
    Vectors,
    /// As a vector, on attention alone: `gamma_1` (Sapiens2).
    AttentionVector,
}

/// How the branches of a block stand to each other. The names are those of timm's classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockFn {
    /// Attention, then the MLP.
    #[default]
    Block,
    /// Attention beside the MLP, after one norm and one projection (arXiv:2302.05442, section 2.1).
    ParallelScalingBlock,
    /// The same with differential attention (arXiv:2410.05258) and one projection at the end.
    DiffParallelScalingBlock,
    /// Two attentions beside each other, then two MLPs beside each other (arXiv:2203.09795, section 3).
    ParallelThingsBlock,
}

impl BlockFn {
    /// Whether attention stands beside the MLP.
    pub fn is_scaling(self) -> bool {
        matches!(self, Self::ParallelScalingBlock | Self::DiffParallelScalingBlock)
    }
}

/// How a [`Block`] is built.
#[derive(Clone, Copy, Debug)]
pub struct BlockConfig {
    /// How the branches stand to each other.
    pub block_fn: BlockFn,
    /// The attention of the block.
    pub attention: AttentionConfig,
    /// The MLP of the block.
    pub mlp: MlpConfig,
    /// Gains on both branches.
    pub gains: Gains,
    /// Where the norms stand.
    pub norms: NormPlace,
    /// Probability of dropping a branch.
    pub drop_path: f64,
}

impl BlockConfig {
    /// A block without gains and dropped branches, with its norms before the branches.
    pub fn new(attention: AttentionConfig, mlp: MlpConfig) -> Self {
        Self {
            block_fn: BlockFn::Block,
            attention,
            mlp,
            gains: Gains::None,
            norms: NormPlace::Before,
            drop_path: 0.0,
        }
    }
}

/// A pre-norm encoder layer (paper, equations 2 and 3): `z' = z + MSA(LN(z))`, `z = z' + MLP(LN(z'))`.
///
/// With [`NormPlace::Branch`] each norm is at the end of its branch (Swin v2, arXiv:2111.09883, section 3.2; timm
/// `ResPostBlock`): `z' = z + LN(MSA(z))`, `z = z' + LN(MLP(z'))`. With [`NormPlace::Sum`] it acts after the sum
/// (arXiv:1706.03762; torch `TransformerEncoderLayer`): `z' = LN(z + MSA(z))`, `z = LN(z' + MLP(z'))`.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm of attention, before or after it.
    pub norm1: LayerNorm,
    /// Multi-head self-attention.
    pub attn: Attention,
    /// Gain on attention.
    pub ls1: Option<LayerScale>,
    /// Gain on attention, `[D]`, under BEiT's name.
    pub gamma_1: Option<Param<Tensor<1>>>,
    /// The norm of the MLP, before or after it.
    pub norm2: LayerNorm,
    /// The MLP.
    pub mlp: BlockMlp,
    /// Gain on the MLP.
    pub ls2: Option<LayerScale>,
    /// Gain on the MLP, `[D]`, under BEiT's name.
    pub gamma_2: Option<Param<Tensor<1>>>,
    #[module(skip)]
    norms: NormPlace,
    drop_path: f64,
}

impl Block {
    /// A block; `bias` has the relative position bias of this block, if any.
    pub fn new(config: &BlockConfig, bias: BlockBias, device: &Device) -> Self {
        let AttentionConfig { dim, proj_bias, proj_drop, .. } = config.attention;
        let form = config.attention.norm();
        let scale = || (config.gains == Gains::Modules).then(|| LayerScale::new(dim, device));
        let gamma = |gains: &[Gains]| gains.contains(&config.gains).then(|| parameter([dim], device));
        Self {
            norm1: form.build(dim, device),
            attn: Attention::new(&config.attention, bias, device),
            ls1: scale(),
            gamma_1: gamma(&[Gains::Vectors, Gains::AttentionVector]),
            norm2: form.build(dim, device),
            mlp: BlockMlp::new(&config.mlp, dim, proj_bias, proj_drop, form, device),
            ls2: scale(),
            gamma_2: gamma(&[Gains::Vectors]),
            norms: config.norms,
            drop_path: config.drop_path,
        }
    }

    /// `[B, T, D] -> [B, T, D]`; only the first [`BlockArgs::read`] tokens if that is set.
    ///
    /// # Panics
    /// If `x` is empty, its width or float type is not that of the weights, `args.grid` does not fit the number of tokens of
    /// a relative bias, or a training step meets a prepared weight.
    pub fn forward(&self, x: Tensor<3>, args: BlockArgs, watch: &mut dyn Observer) -> Tensor<3> {
        if !watch.wants_tokens() && self.norms == NormPlace::Before && !records(&x) {
            return self.answer(x, args, watch);
        }
        let [gain1, gain2] = self.gains();
        let attn = Branch { name: "attn", norm: ("norm1", &self.norm1), gain: gain1 };
        let mlp = Branch { name: "mlp", norm: ("norm2", &self.norm2), gain: gain2 };
        let x = self.add(attn, x, args.read, watch, |y, watch| self.attn.forward(y, args, watch));
        let x = self.add(mlp, x, None, watch, |y, _| self.mlp.forward(y));
        watch.tokens(format_args!(""), x)
    }

    /// `x + F(LN(x))` where `F` is attention or the MLP. The norm and the gain act where this block has them. Only the
    /// first `read` tokens are summed; `None`: all.
    fn add(
        &self,
        branch: Branch<'_>,
        x: Tensor<3>,
        read: Option<usize>,
        watch: &mut dyn Observer,
        f: impl FnOnce(Tensor<3>, &mut dyn Observer) -> Tensor<3>,
    ) -> Tensor<3> {
        let Branch { name, norm: (norm_name, norm), gain } = branch;
        let norm = |x, place, watch: &mut dyn Observer| match self.norms == place {
            true => watch.tokens(format_args!("{norm_name}"), norm.forward(x)),
            false => x,
        };
        let y = norm(x.clone(), NormPlace::Before, watch);
        let y = f(y, &mut Within::new(watch, format_args!("{name}")));
        let y = watch.tokens(format_args!("{name}"), y);
        let y = norm(y, NormPlace::Branch, watch);
        let y = match gain {
            Some((Some(gain_name), gamma)) => {
                watch.tokens(format_args!("{gain_name}"), y * gamma.unsqueeze())
            }
            Some((None, gamma)) => y * gamma.unsqueeze(),
            None => y,
        };
        norm(first(x, read) + drop_path(y, self.drop_path), NormPlace::Sum, watch)
    }

    /// The same pass without an observer of tokens and without dropout: the last product of each branch adds the
    /// residual.
    fn answer(&self, x: Tensor<3>, args: BlockArgs, watch: &mut dyn Observer) -> Tensor<3> {
        let qkv = self.attn.qkv.after(&self.norm1, x.clone());
        let context = self.attn.context(qkv, args, &mut Within::new(watch, format_args!("attn")));
        let x = first(x, args.read);
        let gains = self.gains().map(|gain| gain.map(|(_, gamma)| gamma));
        if let (Some(layers), Some([gain, offset])) = (self.after_attention(), self.norm2.gain_and_offset()) {
            return after_attention_packed(context, x, gain, offset, &layers, gains);
        }
        let [gain1, gain2] = gains;
        let x = self.attn.proj.add_to(x, context, gain1);
        self.mlp.add_after(x.clone(), &self.norm2, x, gain2)
    }

    /// The gains of attention and MLP, `[D]`, with the names of their modules if they have one.
    fn gains(&self) -> [Option<(Option<&'static str>, Tensor<1>)>; 2] {
        let gain = |name, scale: &Option<LayerScale>, gamma: &Option<Param<Tensor<1>>>| match (scale, gamma) {
            (Some(scale), _) => Some((Some(name), scale.gamma.val())),
            (None, Some(gamma)) => Some((None, gamma.val())),
            (None, None) => None,
        };
        [gain("ls1", &self.ls1, &self.gamma_1), gain("ls2", &self.ls2, &self.gamma_2)]
    }

    /// The linear layers with their names, in execution order.
    pub fn linears(&self) -> Vec<(&'static str, &Linear)> {
        let Self { attn, mlp, .. } = self;
        let mut layers = attn.qkv.linears();
        layers.push(("attn.proj", &attn.proj));
        layers.extend(mlp.linears());
        layers
    }

    /// [`linears`](Block::linears), mutable.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let Self { attn, mlp, .. } = self;
        let mut layers = attn.qkv.linears_mut();
        layers.push(("attn.proj", &mut attn.proj));
        layers.extend(mlp.linears_mut());
        layers
    }

    /// The layers after attention, if all of them are packed and the heads together are as wide as a token.
    fn after_attention(&self) -> Option<AfterAttention> {
        let proj = self.attn.proj.packed().filter(|proj| proj.shape()[0] == proj.shape()[1])?;
        Some(AfterAttention { proj: proj.clone(), mlp: self.mlp.packed_after(&self.norm2)? })
    }
}

/// One of the two branches of a block: the names of its parts, its norm, and its gain. Not every gain has a name.
struct Branch<'a> {
    name: &'a str,
    norm: (&'a str, &'a LayerNorm),
    gain: Option<(Option<&'static str>, Tensor<1>)>,
}

/// The first `tokens` tokens; `None`: all.
pub(super) fn first(x: Tensor<3>, tokens: Option<usize>) -> Tensor<3> {
    match tokens {
        Some(tokens) => x.narrow(1, 0, tokens),
        None => x,
    }
}

/// One layer of an encoder, in any of its forms ([`BlockFn`]).
// The size of a variant does not matter: a few dozen exist at most, beside megabytes of weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum EncoderBlock {
    /// Attention, then the MLP.
    Block(Block),
    /// Attention beside the MLP.
    Scaling(ParallelScalingBlock),
    /// Two attentions, then two MLPs.
    Things(ParallelThingsBlock),
}

impl EncoderBlock {
    /// A block; `bias` has the relative position bias of this block, if any. The parallel forms have none.
    pub fn new(config: &BlockConfig, bias: BlockBias, device: &Device) -> Self {
        match config.block_fn {
            BlockFn::Block => Self::Block(Block::new(config, bias, device)),
            BlockFn::ParallelScalingBlock | BlockFn::DiffParallelScalingBlock => {
                Self::Scaling(ParallelScalingBlock::new(config, device))
            }
            BlockFn::ParallelThingsBlock => Self::Things(ParallelThingsBlock::new(config, device)),
        }
    }

    /// `[B, T, D] -> [B, T, D]`; only the first [`BlockArgs::read`] tokens if that is set.
    ///
    /// # Panics
    /// As [`Block::forward`].
    pub fn forward(&self, x: Tensor<3>, args: BlockArgs, watch: &mut dyn Observer) -> Tensor<3> {
        match self {
            Self::Block(block) => block.forward(x, args, watch),
            Self::Scaling(block) => block.forward(x, args, watch),
            Self::Things(block) => block.forward(x, args, watch),
        }
    }

    /// The linear layers with their names, in execution order.
    pub fn linears(&self) -> Vec<(String, &Linear)> {
        match self {
            Self::Block(block) => owned(block.linears()).collect(),
            Self::Scaling(block) => owned(block.linears()).collect(),
            Self::Things(block) => block.linears(),
        }
    }

    /// [`linears`](EncoderBlock::linears), mutable.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        match self {
            Self::Block(block) => owned(block.linears_mut()).collect(),
            Self::Scaling(block) => owned(block.linears_mut()).collect(),
            Self::Things(block) => block.linears_mut(),
        }
    }

    /// The bias that a prepared model keeps, if this block has one of its own.
    pub(crate) fn kept_mut(&mut self) -> Option<&mut Kept> {
        match self {
            Self::Block(block) => Some(&mut block.attn.core.kept),
            Self::Scaling(_) | Self::Things(_) => None,
        }
    }
}

fn owned<T>(layers: Vec<(&'static str, T)>) -> impl Iterator<Item = (String, T)> {
    layers.into_iter().map(|(name, layer)| (name.to_string(), layer))
}
