//! One paper, one file; and the narrow waist the rest of the system sees.

pub mod catalogue;
pub mod shapes;
pub mod vit;

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::layers::Linear;
use crate::layers::names::wildcard;
use crate::layers::observe::{Observer, Silent};
use crate::layers::tokens::split;
pub use vit::{Vit, VitConfig};

/// What a configuration or a model's name can be wrong about.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A field, alone or beside another, makes no model.
    #[error("{field} {reason}")]
    Field {
        /// The field's name, as timm spells it.
        field: &'static str,
        /// What is wrong with it; a sentence that begins with the field.
        reason: String,
    },
    /// No model has this name.
    #[error("unknown model '{name}'\nhint: did you mean {}?", .nearest.join(", "))]
    UnknownName {
        /// What was asked for.
        name: String,
        /// Names like it, nearest first.
        nearest: Vec<String>,
    },
}

/// Tokens after the encoder and its norm (timm's `forward_features`).
#[derive(Clone, Debug)]
pub struct Features {
    /// `[B, T, D]`: prefix, then patches row by row.
    pub tokens: Tensor<3>,
    /// Class, register and other tokens in front.
    pub num_prefix_tokens: usize,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
}

impl Features {
    /// The prefix `[B, prefix, D]`, if there is one, and the patches `[B, N, D]`.
    pub fn split(self) -> (Option<Tensor<3>>, Tensor<3>) {
        split(self.tokens, self.num_prefix_tokens)
    }
}

/// What the rest of the system knows of a model.
pub trait Backbone: Sync {
    /// Normalised images `[B, C, H, W]` to tokens.
    fn features(&self, images: Tensor<4>, watch: &mut dyn Observer) -> Features;

    /// [`features`](Self::features) as far as [`embedding`](Self::embedding) and [`head`](Self::head) read them: tokens
    /// behind the first ones may be missing. What these make of it is the same.
    fn read_features(&self, images: Tensor<4>) -> Features {
        self.features(images, &mut Silent)
    }

    /// Tokens to one vector per image, `[B, D]`, before any classifier.
    fn embedding(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2>;

    /// Tokens to logits `[B, K]`; to the embedding where there is no head.
    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2>;

    /// Normalised images `[B, C, H, W]` to logits `[B, K]`.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head(self.read_features(images), &mut Silent)
    }
}

/// A model as a chain of links, for training that keeps the links' inputs alone and computes the rest again.
///
/// `last(link(n - 1, … link(0, first(images))))` is [`Backbone::forward`].
pub trait Chain {
    /// How many links lie between the first and the last.
    fn links(&self) -> usize;

    /// Images `[B, C, H, W]` to tokens `[B, T, D]`, and the grid of patches.
    fn first(&self, images: Tensor<4>) -> (Tensor<3>, [usize; 2]);

    /// One link: `[B, T, D] -> [B, T, D]`; behind the last, tokens that `last` does not read may be missing.
    fn link(&self, index: usize, x: Tensor<3>, grid: [usize; 2]) -> Tensor<3>;

    /// Tokens to logits `[B, K]`.
    fn last(&self, x: Tensor<3>, grid: [usize; 2]) -> Tensor<2>;
}

/// The configuration of a model of any family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum ModelConfig {
    /// The plain Vision Transformer.
    Vit(VitConfig),
}

/// A model of any family.
#[derive(Module, Debug)]
pub enum Model {
    /// The plain Vision Transformer.
    Vit(Vit),
}

impl ModelConfig {
    /// A fresh model with values drawn from `seed`.
    ///
    /// # Errors
    /// [`ConfigError::Field`] if the configuration makes no model.
    pub fn init(&self, device: &Device, seed: u64) -> Result<Model, ConfigError> {
        match self {
            Self::Vit(config) => Ok(Model::Vit(config.init(device, seed)?)),
        }
    }

    /// A model whose parameters take no memory until they are loaded or read.
    ///
    /// # Errors
    /// [`ConfigError::Field`] if the configuration makes no model.
    pub fn skeleton(&self, device: &Device) -> Result<Model, ConfigError> {
        match self {
            Self::Vit(config) => Ok(Model::Vit(config.skeleton(device)?)),
        }
    }
}

/// The numbers that a forward pass multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Floating-point numbers, as the model holds them.
    #[default]
    F32,
    /// What the linear layers of the blocks and attention multiply is rounded to bf16 (eight digits of mantissa), and summed
    /// in `f32`; all else is in `f32`. For answers.
    Bf16,
    /// Whole numbers of eight bits in the linear layers of the blocks; attention as in `Bf16` where the processor has an
    /// instruction for it; all else in `f32`.
    Int8,
}

impl Precision {
    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// `pass` over a batch `[B, C, H, W]`, for answers alone: what it gives for an image must not depend on the others.
pub(crate) fn in_parts<const R: usize>(
    images: Tensor<4>,
    pass: impl Fn(Tensor<4>) -> Tensor<R> + Sync,
) -> Tensor<R> {
    let [batch, c, h, w] = images.dims();
    let (device, dtype) = (images.device(), images.dtype());
    if batch == 0 {
        // Burn broadcasts nothing over an axis of length 0.
        let mut shape = pass(Tensor::zeros([1, c, h, w], (&device, dtype))).dims();
        shape[0] = 0;
        return Tensor::zeros(shape, (&device, dtype));
    }
    if !vitrum_kernels::has_fast_path(&device, dtype) {
        return pass(images);
    }
    let part = |part: Range<usize>| pass(images.clone().slice_dim(0, part));
    let mut parts = vitrum_kernels::in_parts(batch, part);
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) }
}

/// Whether a layer, or the key of its weight, matches a pattern.
pub(crate) fn is_skipped(layer: &str, skip: &[String]) -> bool {
    skip.iter().any(|pattern| wildcard(pattern, layer) || wildcard(pattern, &format!("{layer}.weight")))
}

impl Model {
    /// [`Backbone::forward`] for answers alone: as fast as this machine can, so on the threads that the operations
    /// are shared among, each with images of its own; faster still once [packed](Self::pack). Not for training: what is
    /// dropped is drawn by the calling thread.
    ///
    /// Several threads may ask one model at a time. Most images per second come of requests that share no threads: each
    /// asked within `rayon::ThreadPool::install` of a pool of its own with one thread (`vitrum bench --streams`).
    pub fn logits(&self, images: Tensor<4>) -> Tensor<2> {
        in_parts(images, |images| self.backbone().forward(images))
    }

    /// The linear layers of the blocks with their names, such as `blocks.0.attn.qkv`.
    pub fn block_layers(&mut self) -> Box<dyn Iterator<Item = (String, &mut Linear)> + '_> {
        match self {
            Self::Vit(vit) => Box::new(vit.block_layers()),
        }
    }

    /// Turns the weights of the linear layers of the blocks into eight bits, for answering alone, and gives up the
    /// floating-point ones. Layers whose name or weight's key matches one of `skip` (`*` stands for any text) stay. Where
    /// the processor has AVX512-BF16, attention behind them multiplies in bf16, as with
    /// [`round_to_bf16`](Self::round_to_bf16), which rounds less than eight bits do.
    ///
    /// Reading the parameters of such a model (`collect`, records) gives what the eight bits stand for. A model that is
    /// to be trained must not be quantised: its weights would get no gradient.
    ///
    /// # Errors
    /// [`ConfigError::Field`] if sums would be too long for 32 bits.
    pub fn quantize(mut self, skip: &[String]) -> Result<Self, ConfigError> {
        for (name, layer) in self.block_layers() {
            if !is_skipped(&name, skip) {
                layer.quantize().map_err(|error| ConfigError::Field {
                    field: "embed_dim",
                    reason: format!("cannot be quantised: {name}: {error}"),
                })?;
            }
        }
        Ok(self)
    }

    /// Rounds the weights of the linear layers of the blocks to bf16, for answering alone, and gives up the other ones;
    /// what they are multiplied with is rounded, too, and summed in `f32`; so are the products of attention, unless somebody
    /// watches its weights. Patch embedding, norms, softmax, activations, residuals and the head stay in `f32`. The weights are
    /// packed for this processor with that. Layers in eight bits stay, and attention behind such a projection.
    ///
    /// Reading the parameters of such a model (`collect`, records) gives the rounded numbers. A model that is to be trained
    /// must not be rounded: its weights would get no gradient.
    pub fn round_to_bf16(mut self) -> Self {
        self.block_layers().for_each(|(_, layer)| layer.round_to_bf16());
        self
    }

    /// Packs the weights of the linear layers of the blocks for this processor, for many answers: the same bits, sooner
    /// (but where branches have gains, LayerScale, that meet the residual in one rounding then). It takes as long as a
    /// few answers. Layers that have a prepared form stay, and so does everything on other devices
    /// and in other types than `f32`.
    ///
    /// Reading the parameters unpacks them, each time anew. A model that is to be trained must not be packed: its weights
    /// would get no gradient.
    pub fn pack(mut self) -> Self {
        self.block_layers().for_each(|(_, layer)| layer.pack());
        self
    }

    /// Forgets all prepared forms of weights, so that the parameters are what counts again.
    pub fn forget_prepared(&mut self) {
        self.block_layers().for_each(|(_, layer)| layer.forget_prepared());
    }

    /// How many of the blocks' linear layers are in eight bits.
    pub fn quantized_layers(&mut self) -> usize {
        self.block_layers().filter(|(_, layer)| layer.int8().is_some()).count()
    }

    /// How many of the blocks' linear layers are in bf16.
    pub fn bf16_layers(&mut self) -> usize {
        self.block_layers().filter(|(_, layer)| layer.bf16().is_some()).count()
    }

    /// What the linear layers of the blocks are computed in: in eight bits or bf16 if one of them is.
    pub fn precision(&mut self) -> Precision {
        match (self.quantized_layers(), self.bf16_layers()) {
            (0, 0) => Precision::F32,
            (0, _) => Precision::Bf16,
            _ => Precision::Int8,
        }
    }

    /// The model behind the waist.
    pub fn backbone(&self) -> &dyn Backbone {
        match self {
            Self::Vit(vit) => vit,
        }
    }

    /// The model as a chain of blocks.
    pub fn chain(&self) -> &dyn Chain {
        match self {
            Self::Vit(vit) => vit,
        }
    }

    /// How this model is built.
    pub fn config(&self) -> ModelConfig {
        match self {
            Self::Vit(vit) => ModelConfig::Vit(vit.config().clone()),
        }
    }
}
