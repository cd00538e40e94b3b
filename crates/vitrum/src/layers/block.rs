//! One layer of the encoder.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vitrum_kernels::Activation::Identity;
use vitrum_kernels::{AfterAttention, after_attention_packed};

use super::attention::{Attention, AttentionConfig, BlockArgs};
use super::drop::{drop_path, training};
use super::mlp::{Activation, Mlp};
use super::norm::LayerNorm;
use super::observe::{Observer, Within};
use super::position::RelPos;
use super::{Linear, parameter};

/// LayerScale, Touvron et al. 2021 (arXiv:2103.17239): a learned gain per channel.
#[derive(Module, Debug)]
pub struct LayerScale {
    /// `[D]`.
    pub gamma: Param<Tensor<1>>,
}

impl LayerScale {
    /// `[B, T, D] -> [B, T, D]`.
    ///
    /// # Panics
    /// If the width is not `D`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        x * self.gamma.val().unsqueeze()
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

/// How a [`Block`] is built.
#[derive(Clone, Copy, Debug)]
pub struct BlockConfig {
    /// The attention of the block.
    pub attention: AttentionConfig,
    /// `F`.
    pub mlp_hidden: usize,
    /// Non-linearity of the MLP.
    pub act: Activation,
    /// Gains on both branches.
    pub layer_scale: bool,
    /// Where the norms stand.
    pub norms: NormPlace,
    /// Probability of dropping a branch.
    pub drop_path: f64,
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
    /// The norm of the MLP, before or after it.
    pub norm2: LayerNorm,
    /// The MLP.
    pub mlp: Mlp,
    /// Gain on the MLP.
    pub ls2: Option<LayerScale>,
    #[module(skip)]
    norms: NormPlace,
    drop_path: f64,
}

impl Block {
    /// A block; `rel_pos` is the relative position bias of this block, if any.
    pub fn new(config: &BlockConfig, rel_pos: Option<RelPos>, device: &Device) -> Self {
        let AttentionConfig { dim, norm_eps, proj_bias, proj_drop, .. } = config.attention;
        let scale = || config.layer_scale.then(|| LayerScale { gamma: parameter([dim], device) });
        Self {
            norm1: LayerNorm::new(dim, norm_eps, device),
            attn: Attention::new(&config.attention, rel_pos, device),
            ls1: scale(),
            norm2: LayerNorm::new(dim, norm_eps, device),
            mlp: Mlp::new(dim, config.mlp_hidden, config.act, proj_bias, proj_drop, device),
            ls2: scale(),
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
        if !watch.wants_tokens() && self.norms == NormPlace::Before && !training(&x) {
            return self.answer(x, args, watch);
        }
        let attn = Branch { name: "attn", norm: ("norm1", &self.norm1), gain: ("ls1", &self.ls1) };
        let mlp = Branch { name: "mlp", norm: ("norm2", &self.norm2), gain: ("ls2", &self.ls2) };
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
        let Branch { name, norm: (norm_name, norm), gain: (gain_name, gain) } = branch;
        let norm = |x, place, watch: &mut dyn Observer| match self.norms == place {
            true => watch.tokens(format_args!("{norm_name}"), norm.forward(x)),
            false => x,
        };
        let y = norm(x.clone(), NormPlace::Before, watch);
        let y = f(y, &mut Within::new(watch, format_args!("{name}")));
        let y = watch.tokens(format_args!("{name}"), y);
        let y = norm(y, NormPlace::Branch, watch);
        let y = match gain {
            Some(gain) => watch.tokens(format_args!("{gain_name}"), gain.forward(y)),
            None => y,
        };
        norm(first(x, read) + drop_path(y, self.drop_path), NormPlace::Sum, watch)
    }

    /// The same pass without an observer of tokens and without dropout: the last product of each branch adds the
    /// residual.
    fn answer(&self, x: Tensor<3>, args: BlockArgs, watch: &mut dyn Observer) -> Tensor<3> {
        let gain = |scale: &Option<LayerScale>| scale.as_ref().map(|scale| scale.gamma.val());
        let qkv = self.attn.qkv.after(&self.norm1, x.clone(), Identity);
        let context = self.attn.context(qkv, args, &mut Within::new(watch, format_args!("attn")));
        let x = first(x, args.read);
        let gains = [gain(&self.ls1), gain(&self.ls2)];
        if let Some(layers) = self.after_attention() {
            let LayerNorm { weight, bias, .. } = &self.norm2;
            return after_attention_packed(context, x, weight.val(), bias.val(), &layers, gains);
        }
        let [gain1, gain2] = gains;
        let x = self.attn.proj.add_to(x, context, gain1);
        let y = self.norm2.forward(x.clone());
        self.mlp.add(x, y, gain2)
    }

    /// The linear layers with their names.
    pub fn linears(&self) -> [(&'static str, &Linear); 4] {
        let Self { attn, mlp, .. } = self;
        [("attn.qkv", &attn.qkv), ("attn.proj", &attn.proj), ("mlp.fc1", &mlp.fc1), ("mlp.fc2", &mlp.fc2)]
    }

    /// [`linears`](Block::linears), mutable.
    pub fn linears_mut(&mut self) -> [(&'static str, &mut Linear); 4] {
        let Self { attn, mlp, .. } = self;
        [
            ("attn.qkv", &mut attn.qkv),
            ("attn.proj", &mut attn.proj),
            ("mlp.fc1", &mut mlp.fc1),
            ("mlp.fc2", &mut mlp.fc2),
        ]
    }

    /// The layers after attention, if all of them are packed and the heads together are as wide as a token.
    fn after_attention(&self) -> Option<AfterAttention> {
        let proj = self.attn.proj.packed().filter(|proj| proj.shape()[0] == proj.shape()[1])?;
        Some(AfterAttention { proj: proj.clone(), mlp: self.mlp.packed_after(&self.norm2)? })
    }
}

/// One of the two branches of a block: the names of its parts, its norm, and its gain.
struct Branch<'a> {
    name: &'a str,
    norm: (&'a str, &'a LayerNorm),
    gain: (&'a str, &'a Option<LayerScale>),
}

/// The first `tokens` tokens; `None`: all.
fn first(x: Tensor<3>, tokens: Option<usize>) -> Tensor<3> {
    match tokens {
        Some(tokens) => x.narrow(1, 0, tokens),
        None => x,
    }
}
