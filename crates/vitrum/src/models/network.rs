//! The waist: what a configuration says about itself, and what the rest of the system may ask of any model.
//!
//! A family implements [`Config`] for its configuration and [`Network`] for its model. It states its capabilities
//! with [`Backbone`], [`Classify`] and their kin. No other part of the system knows the family.

use std::fmt;

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::shapes::Walk;
use super::stages::Visitor;
use super::{ConfigError, InputError};
use crate::layers::Linear;
use crate::layers::init::{Draw, initialize};
use crate::layers::mask::Masks;
use crate::layers::observe::{Observer, Silent};
use crate::layers::tokens::split;

/// What a configuration says about itself.
pub trait Config:
    Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The model it describes.
    type Model: Network;

    /// Checks that a model can be built from this configuration and that its size is reasonable.
    ///
    /// # Errors
    /// The first invalid field or pair of fields.
    fn validate(&self) -> Result<(), ConfigError>;

    /// Builds the model. Its parameters take no memory until they are loaded or read. The configuration must be
    /// valid; [`skeleton`](Config::skeleton) checks it first.
    fn build(&self, device: &Device) -> Self::Model;

    /// What one example looks like.
    fn input(&self) -> Input;

    /// Rows and columns of the last feature map, for a backbone whose maps are not the patches of the image.
    fn map_grid(&self) -> Option<[usize; 2]> {
        None
    }

    /// Shapes, parameters and multiplications from the input to the answer.
    ///
    /// # Errors
    /// Those of [`validate`](Config::validate).
    fn walk(&self) -> Result<Walk, ConfigError>;

    /// The layers that compute class logits (`head`). They are replaced if the classes change.
    fn heads(&self) -> &'static [&'static str] {
        &[]
    }

    /// The method of pretraining without labels that the model is made for (`mae`).
    fn method(&self) -> Option<&'static str> {
        None
    }

    /// The first value of the parameter `key` with this in-memory shape. `None`: the family has no such parameter;
    /// that is an error, never a zero.
    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw>;

    /// A model whose parameters take no memory until they are loaded or read.
    ///
    /// # Errors
    /// Those of [`validate`](Config::validate).
    fn skeleton(&self, device: &Device) -> Result<Self::Model, ConfigError> {
        self.validate()?;
        Ok(self.build(device))
    }

    /// A fresh model with values drawn from `seed`, in the device's float type.
    ///
    /// # Errors
    /// Those of [`validate`](Config::validate), or a parameter without a first value.
    fn init(&self, device: &Device, seed: u64) -> Result<Self::Model, ConfigError> {
        self.init_as(device, seed, device.settings().float_dtype.into())
    }

    /// A fresh model with values drawn from `seed`, in `dtype` (f32 or f64).
    ///
    /// # Errors
    /// Those of [`init`](Config::init).
    fn init_as(&self, device: &Device, seed: u64, dtype: DType) -> Result<Self::Model, ConfigError> {
        let skeleton = self.skeleton(device)?;
        Ok(initialize(skeleton, &|key, shape| self.first(key, shape), seed, dtype)?)
    }
}

/// What one example looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Input {
    /// A picture.
    Image(ImageInput),
    /// A clip with this number of frames.
    Clip {
        /// `F`: frames.
        frames: usize,
        /// One frame.
        image: ImageInput,
    },
    /// A picture and a text of at most this number of tokens.
    ImageText {
        /// The picture.
        image: ImageInput,
        /// Longest text, in tokens.
        context: usize,
    },
}

/// The size of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ImageInput {
    /// `C`: channels.
    pub channels: usize,
    /// `[H, W]`, in pixels.
    pub size: [usize; 2],
}

impl Input {
    /// What the inputs are, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Image(_) => "images",
            Self::Clip { .. } => "clips",
            Self::ImageText { .. } => "images with texts",
        }
    }

    /// The picture, or one frame.
    pub fn image(&self) -> ImageInput {
        match *self {
            Self::Image(image) | Self::Clip { image, .. } | Self::ImageText { image, .. } => image,
        }
    }
}

/// What the system may ask of any model.
pub trait Network: Module + Sync {
    /// The linear layers that hold nearly all weights, with their names (`blocks.0.attn.qkv`). They can be
    /// quantised, packed, and given low-rank updates. May be empty.
    fn linears(&self) -> Vec<(String, &Linear)>;

    /// [`linears`](Network::linears), mutable.
    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)>;

    /// Shows the convolutions and batch norms, whose modes can be set. The default has none.
    fn visit_parts(&mut self, _visit: &mut Visitor<'_>) {}

    /// The layer of a parameter, in the order of the network.
    fn depth(&self, key: &str) -> Depth;

    /// Whether weight decay applies to a parameter of more than one dimension. It does not apply to tokens and
    /// position tables.
    fn decays(&self, _key: &str) -> bool {
        true
    }

    /// The layers that compute class logits (`head`). They are replaced if the classes change.
    fn heads(&self) -> &'static [&'static str] {
        &[]
    }

    /// The model as a chain of links, for training that recomputes activations; `None` if it cannot.
    fn chain(&self) -> Option<&dyn Chain> {
        None
    }

    /// Pixels to features.
    fn backbone(&self) -> Option<&dyn Backbone> {
        None
    }

    /// Features to classes.
    fn classify(&self) -> Option<&dyn Classify> {
        None
    }

    /// Masked patches to what was there.
    fn reconstruct(&self) -> Option<&dyn Reconstruct> {
        None
    }

    /// Drops what follows the last feature map, for a model inside another. The default has nothing there without a
    /// classifier.
    fn drop_head(&mut self) {}

    /// Refuses inputs that the model does not take. The default accepts all.
    ///
    /// # Errors
    /// [`InputError`]: another kind, shape, size or type.
    fn check_inputs(&self, _inputs: &Inputs) -> Result<(), InputError> {
        Ok(())
    }

    /// Whether a parameter belongs to one of the [`heads`](Network::heads).
    fn is_head(&self, key: &str) -> bool {
        is_in(key, self.heads())
    }
}

/// Whether the key belongs to a parameter of one of these layers.
pub(crate) fn is_in(key: &str, layers: &[&str]) -> bool {
    layers.iter().any(|layer| key.strip_prefix(layer).is_some_and(|rest| rest.starts_with('.')))
}

/// The layer of a parameter, in order from pixels to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Before the first layer: patches, tokens, positions.
    Stem,
    /// The layer of this index.
    Layer(usize),
    /// After the last layer, with its learning rate: the norm.
    Close,
    /// The head and everything else.
    Head,
}

/// What enters a model, on its device.
#[derive(Clone, Debug)]
// One of them is alive at a time, beside megabytes of pixels.
#[allow(clippy::large_enum_variant)]
#[non_exhaustive]
pub enum Inputs {
    /// Normalised images `[B, C, H, W]`.
    Images(Tensor<4>),
    /// Clips `[B, C, F, H, W]`.
    Clips(Tensor<5>),
    /// Images `[B, C, H, W]`, each with a text `[B, context]` of token numbers.
    ImageText(Tensor<4>, Tensor<2, Int>),
    /// Images `[B, C, H, W]` with masks of their patches.
    Masked(Tensor<4>, Masks),
}

impl From<Tensor<4>> for Inputs {
    fn from(images: Tensor<4>) -> Self {
        Self::Images(images)
    }
}

impl Inputs {
    /// The images.
    ///
    /// # Panics
    /// If these are clips. [`Config::input`] tells which input a family takes.
    pub fn images(self) -> Tensor<4> {
        match self {
            Self::Images(images) | Self::ImageText(images, _) | Self::Masked(images, _) => images,
            Self::Clips(clips) => panic!("expected images [B, C, H, W], found clips {:?}", clips.dims()),
        }
    }

    /// The masks of the images' patches, if there are any.
    pub fn masks(&self) -> Option<&Masks> {
        match self {
            Self::Masked(_, masks) => Some(masks),
            Self::Images(_) | Self::Clips(_) | Self::ImageText(..) => None,
        }
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Self::Images(images) | Self::ImageText(images, _) | Self::Masked(images, _) => images.dims()[0],
            Self::Clips(clips) => clips.dims()[0],
        }
    }

    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pixels in another float type.
    #[must_use]
    pub fn cast(self, dtype: DType) -> Self {
        match self {
            Self::Images(images) => Self::Images(images.cast(dtype)),
            Self::Clips(clips) => Self::Clips(clips.cast(dtype)),
            Self::ImageText(images, text) => Self::ImageText(images.cast(dtype), text),
            Self::Masked(images, masks) => Self::Masked(images.cast(dtype), masks),
        }
    }

    /// The same on the device without autodiff.
    #[must_use]
    pub fn inner(self) -> Self {
        match self {
            Self::Images(images) => Self::Images(images.inner()),
            Self::Clips(clips) => Self::Clips(clips.inner()),
            Self::ImageText(images, text) => Self::ImageText(images.inner(), text.inner()),
            Self::Masked(images, masks) => Self::Masked(images.inner(), masks),
        }
    }
}

/// The part of its features that a backbone computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Want<'a> {
    /// The tokens that the head reads. Others may be missing; the head's answer is the same.
    Head,
    /// All tokens of the last level, after the closing norm (timm's `forward_features`).
    Last,
    /// Every level, finest first. For a plain encoder: the output of every block, without the closing norm.
    Levels,
    /// The outputs of these blocks only, in this order, without the closing norm.
    Blocks(&'a [usize]),
}

/// Tokens on grids, finest first.
#[derive(Clone, Debug)]
pub struct Features {
    /// At least one.
    pub levels: Vec<Level>,
}

impl Features {
    /// The wanted ones of the blocks' outputs.
    pub(super) fn of_blocks(blocks: &[Level], wanted: &[usize]) -> Self {
        Self { levels: wanted.iter().filter_map(|index| blocks.get(*index).cloned()).collect() }
    }
}

/// Tokens on a grid. A feature map is tokens without a prefix, channels last.
#[derive(Clone, Debug)]
pub struct Level {
    /// `[B, T, D]`: prefix, then frame by frame, row by row.
    pub tokens: Tensor<3>,
    /// Number of class, register and other tokens in front.
    pub prefix: usize,
    /// Frames, rows and columns.
    pub grid: [usize; 3],
}

impl Level {
    /// Tokens of single images.
    pub fn of_image(tokens: Tensor<3>, prefix: usize, [rows, columns]: [usize; 2]) -> Self {
        Self { tokens, prefix, grid: [1, rows, columns] }
    }

    /// Rows and columns.
    pub fn rows_columns(&self) -> [usize; 2] {
        [self.grid[1], self.grid[2]]
    }

    /// The prefix `[B, prefix, D]`, if there is one, and the patches `[B, N, D]`.
    pub fn split(self) -> (Option<Tensor<3>>, Tensor<3>) {
        split(self.tokens, self.prefix)
    }

    /// The patches as a feature map, `[B, D, H, W]`. For clips, frames are stacked vertically.
    pub fn map(self) -> Tensor<4> {
        let [frames, rows, columns] = self.grid;
        let (_, patches) = self.split();
        let [b, _, d] = patches.dims();
        patches.swap_dims(1, 2).reshape([b, d, frames * rows, columns])
    }
}

impl From<Level> for Features {
    fn from(level: Level) -> Self {
        Self { levels: vec![level] }
    }
}

impl Features {
    /// The coarsest level. A plain encoder has only one.
    ///
    /// # Panics
    /// Without a level.
    pub fn last(mut self) -> Level {
        self.levels.pop().expect("features have at least one level")
    }
}

/// Pixels to tokens on grids.
pub trait Backbone: Sync {
    /// Normalised pixels to features; the observer sees every step. Images may have any size that holds a patch.
    ///
    /// # Panics
    /// For inputs of another kind, number of channels or float type than the model's, for an empty batch, and for images
    /// without a patch. [`Model::check_images`](super::Model::check_images) refuses them with an error.
    fn features(&self, inputs: Inputs, want: Want<'_>, watch: &mut dyn Observer) -> Features;

    /// Whether the first token of the last level is a class token. The default has none.
    fn has_class_token(&self) -> bool {
        false
    }

    /// The position embeddings that are added to the tokens of an image of the model's size, `[1, T, D]`. The default has
    /// none.
    fn positions(&self) -> Option<Level> {
        None
    }

    /// Tokens to one vector per example, `[B, D]`, before any classifier (timm's `forward_head(pre_logits=True)`).
    fn embedding(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2>;
}

/// Features to classes.
pub trait Classify: Backbone {
    /// `K`; 0 if the model has no head.
    fn num_classes(&self) -> usize;

    /// The logits of each head, `[B, K]`, in the order of [`Network::heads`]; the embedding if there is no head.
    fn logits_of_heads(&self, features: Features, watch: &mut dyn Observer) -> Vec<Tensor<2>> {
        vec![self.head(features, watch)]
    }

    /// The answer, `[B, K]`; the embedding if there is no head.
    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2>;

    /// Normalised pixels to the answer, `[B, K]`.
    ///
    /// # Panics
    /// As [`features`](Backbone::features). [`Model::logits`](super::Model::logits) returns an error instead.
    fn forward(&self, inputs: Inputs) -> Tensor<2> {
        self.head(self.features(inputs, Want::Head, &mut Silent), &mut Silent)
    }
}

/// The statistics that normalised an image: `pixel = value · std + mean`, with pixels from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct PixelScale {
    /// Of each channel, or one for all.
    pub mean: Vec<f32>,
    /// Of each channel, or one for all.
    pub std: Vec<f32>,
}

impl PixelScale {
    /// The scale of images that were not normalised.
    pub fn unit() -> Self {
        Self { mean: vec![0.0], std: vec![1.0] }
    }

    /// The mean of a channel. The first one stands for channels that have none.
    pub fn mean_of(&self, channel: usize) -> f64 {
        f64::from(self.mean.get(channel).or(self.mean.first()).copied().unwrap_or(0.0))
    }

    /// The deviation of a channel. The first one stands for channels that have none.
    pub fn std_of(&self, channel: usize) -> f64 {
        f64::from(self.std.get(channel).or(self.std.first()).copied().unwrap_or(1.0))
    }
}

/// Masked patches to what was there: pretraining without labels.
///
/// Features of [`Inputs::Masked`] are those of masked images. With [`Inputs::Images`] the model sees every patch.
pub trait Reconstruct: Backbone {
    /// How the model's paper masks patches.
    fn masking(&self) -> Masking;

    /// Rows and columns of patches of the model's images.
    fn grid(&self) -> [usize; 2];

    /// Predictions for every patch, `[B, N, T]`, from the features ([`Want::Last`]) of masked images.
    ///
    /// # Panics
    /// If the features are not those of images with these masks.
    fn predict(&self, features: Features, masks: &Masks, watch: &mut dyn Observer) -> Tensor<3>;

    /// The loss of each patch, `[B, N]`, masked or not, of predictions `[B, N, T]` for normalised `images`. It is computed
    /// in f32 if the predictions are narrower.
    fn losses(&self, prediction: Tensor<3>, images: Tensor<4>, scale: &PixelScale) -> Tensor<2>;

    /// The loss of a batch, `[1]`: the mean over the masked patches.
    fn loss(&self, prediction: Tensor<3>, images: Tensor<4>, masks: &Masks, scale: &PixelScale) -> Tensor<1> {
        let losses = self.losses(prediction, images, scale);
        let weights = masks.mean_weights(&losses.device(), losses.dtype());
        (losses * weights).sum()
    }

    /// The predictions as normalised pixels, `[B, C, H, W]`, without what fills no patch. A prediction of a patch's normalised
    /// pixels gets mean and deviation of the patch in `images`.
    fn pixels(&self, prediction: Tensor<3>, images: Tensor<4>, scale: &PixelScale) -> Tensor<4>;
}

/// How patches are chosen for masks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masking {
    /// Share of the patches that are masked.
    pub ratio: f64,
    /// Side of the squares of patches that are masked together; 1: single patches.
    pub unit: usize,
    /// Of the masked patches, the shares that become a learned token, and another patch of the image. The rest enters
    /// the model as it is.
    pub corrupt: [f64; 2],
    /// Whether the model leaves masked patches out, so that every image must show the same number.
    pub drops: bool,
}

/// A model as a chain of links. Training can keep only the links' inputs and recompute the rest.
///
/// `last(link(n - 1, … link(0, first(inputs))))` is [`Backbone::features`] with [`Want::Head`]. Levels may change
/// their number, grid and width from link to link.
pub trait Chain: Sync {
    /// Number of links between the first and the last part.
    fn links(&self) -> usize;

    /// The part before the links.
    fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features;

    /// One link.
    fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features;

    /// The part after the links, before the head.
    fn last(&self, x: Features, watch: &mut dyn Observer) -> Features;
}
