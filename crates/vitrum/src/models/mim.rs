//! Masked image modelling with a Vision Transformer that sees every place: masked patch prediction — Dosovitskiy et al. 2020,
//! arXiv:2010.11929, appendix B.1.2; SimMIM — Xie et al. 2021, arXiv:2111.09886.
//!
//! ```text
//! image [B, C, H, W] → patches [B, N, D] → some become the mask token, or another patch → Vision Transformer [B, T, D]
//!                    → linear, for each patch [B, N, values]
//! loss: on the patches that were chosen
//! ```
//!
//! Masked patch prediction chooses half of the patches: of those 80 % become the mask token, 10 % another patch of the
//! image, 10 % stay. It predicts the mean colour of a patch in 3 bits per channel, the same for 4 x 4 parts of a patch, or
//! the pixels. SimMIM chooses 60 % in squares of 32 pixels, and predicts pixels with an absolute loss.

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::limits::refuse;
use super::network::{
    Backbone, Chain, Config, Depth, Features, Input, Inputs, Level, Masking, Network, PixelScale,
    Reconstruct, Want,
};
use super::shapes::{Walk, long, product};
use super::stages::Visitor;
use super::vit::{Vit, VitConfig, encoder_steps, held};
use crate::layers::init::{Draw, TABLE};
use crate::layers::mask::{Masks, patchify, unpatchify};
use crate::layers::names::Flat;
use crate::layers::observe::Observer;
use crate::layers::{Linear, parameter};

/// Levels of a channel: 3 bits.
const LEVELS: usize = 8;

/// Parts of a downsized patch, in each direction.
const PARTS: usize = 4;

/// What is predicted of a patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MimTarget {
    /// The class of the mean colour, 8 levels of each channel: 512 classes (ViT paper).
    #[default]
    MeanColor,
    /// The same for 4 x 4 parts of the patch: 16 predictions (ViT paper).
    Downsized,
    /// The pixels, with the mean squared error (ViT paper).
    Patch,
    /// The pixels, with the mean absolute error (SimMIM).
    Pixels,
}

/// How a Vision Transformer for masked image modelling is built: its fields and these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MimConfig {
    /// The Vision Transformer. On disk its fields stand at the same level as the others. It has no classes.
    #[serde(flatten)]
    pub vit: VitConfig,
    /// What is predicted.
    #[serde(default)]
    pub target: MimTarget,
    /// Share of the patches that are chosen.
    #[serde(default = "half")]
    pub mask_ratio: f64,
    /// Side of the squares that are chosen together, in pixels; `None`: single patches.
    #[serde(default)]
    pub mask_patch_size: Option<usize>,
}

fn half() -> f64 {
    0.5
}

impl Default for MimConfig {
    /// Masked patch prediction with ViT-B/16.
    fn default() -> Self {
        Self {
            vit: VitConfig { num_classes: 0, ..VitConfig::default() },
            target: MimTarget::MeanColor,
            mask_ratio: half(),
            mask_patch_size: None,
        }
    }
}

impl MimConfig {
    /// SimMIM with this Vision Transformer.
    pub fn simmim(vit: VitConfig) -> Self {
        Self { vit, target: MimTarget::Pixels, mask_ratio: 0.6, mask_patch_size: Some(32) }
    }

    /// Masked patch prediction with this Vision Transformer.
    pub fn mpp(vit: VitConfig) -> Self {
        Self { vit, ..Self::default() }
    }

    /// Classes of a colour.
    fn colors(&self) -> usize {
        LEVELS.pow(self.vit.in_chans as u32)
    }

    /// Values of a predicted patch.
    pub fn patch_values(&self) -> usize {
        match self.target {
            MimTarget::MeanColor => self.colors(),
            MimTarget::Downsized => PARTS * PARTS * self.colors(),
            MimTarget::Patch | MimTarget::Pixels => {
                self.vit.patch_size[0] * self.vit.patch_size[1] * self.vit.in_chans
            }
        }
    }

    /// Rows and columns of colours in a patch.
    fn parts(&self) -> usize {
        if self.target == MimTarget::Downsized { PARTS } else { 1 }
    }
}

/// The head: one linear layer. transformers has it as the first module of `decoder`.
#[derive(Module, Debug)]
pub struct MimHead {
    /// `D -> values`.
    pub _0: Linear,
}

/// A Vision Transformer for masked image modelling. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Mim {
    /// The Vision Transformer inside.
    pub vit: Flat<Vit>,
    /// `[1, 1, D]`.
    pub mask_token: Param<Tensor<3>>,
    /// The head.
    pub decoder: MimHead,
    #[module(skip)]
    config: MimConfig,
}

impl Mim {
    /// How this model is built.
    pub fn config(&self) -> &MimConfig {
        &self.config
    }

    /// Tokens with positions, `[B, T, D]`.
    fn enter(&self, inputs: Inputs, watch: &mut dyn Observer) -> (Tensor<3>, [usize; 2]) {
        let masks = inputs.masks().cloned();
        let (x, grid) = self.vit.patch_embed.forward(inputs.images()); // [B, N, D]
        let x = watch.tokens(format_args!("patch_embed"), x);
        let x = match masks {
            Some(masks) => watch.tokens(format_args!("masked"), masks.replace(x, self.mask_token.val())),
            None => x,
        };
        self.vit.place(x, grid, None, watch)
    }

    /// The classes of the colours of normalised images, `[B, N, parts²]`.
    pub fn colors(&self, images: Tensor<4>, scale: &PixelScale) -> Tensor<3, Int> {
        let ([b, c, h, w], [p, q]) = (images.dims(), self.config.vit.patch_size);
        let ([gh, gw], parts) = ([h / p, w / q], self.config.parts());
        // The mean over the pixels of each part, back on the scale 0 to 1.
        let whole = images.narrow(2, 0, gh * p).narrow(3, 0, gw * q);
        let means = whole.reshape([b, c, gh * parts, p / parts, gw * parts, q / parts]);
        let means = means.mean_dim(5).mean_dim(3).reshape([b, c, gh, parts, gw, parts]);
        let means = means.permute([0, 2, 4, 3, 5, 1]); // [B, H/P, W/P, parts, parts, C]
        let shape = [b, gh * gw, parts * parts];
        let values: Vec<f64> = means.into_data().iter::<f64>().collect();
        let level = |(at, value): (usize, &f64)| {
            let value = value * scale.std_of(at) + scale.mean_of(at);
            ((value * LEVELS as f64).floor().max(0.0) as usize).min(LEVELS - 1)
        };
        let class = |pixel: &[f64]| {
            pixel.iter().enumerate().fold(0, |class, pair| class * LEVELS + level(pair)) as i64
        };
        let classes: Vec<i64> = values.chunks(c).map(class).collect();
        Tensor::from_data(TensorData::new(classes, shape), &self.mask_token.val().device())
    }

    /// Normalised pixels `[B, N, P·P·C]` of predicted colours `[B, N, parts²·K]`.
    fn painted(&self, prediction: Tensor<3>, scale: &PixelScale) -> Tensor<3> {
        let ([b, n, _], parts, k) = (prediction.dims(), self.config.parts(), self.config.colors());
        let ([p, q], c) = (self.config.vit.patch_size, self.config.vit.in_chans);
        let (device, dtype) = (prediction.device(), prediction.dtype());
        let classes = prediction.reshape([b * n, parts * parts, k]).argmax(2);
        let classes: Vec<i64> = classes.into_data().iter::<i64>().collect();
        let value = |class: i64, channel: usize| {
            let level = class as usize / LEVELS.pow((c - 1 - channel) as u32) % LEVELS;
            ((level as f64 + 0.5) / LEVELS as f64 - scale.mean_of(channel)) / scale.std_of(channel)
        };
        let mut values = Vec::with_capacity(b * n * p * q * c);
        for patch in classes.chunks(parts * parts) {
            for place in 0..p * q {
                let part = place / q * parts / p * parts + place % q * parts / q;
                values.extend((0..c).map(|channel| value(patch[part], channel)));
            }
        }
        Tensor::from_data(TensorData::new(values, [b, n, p * q * c]), (&device, dtype))
    }

    /// The pixels in the order of transformers' head: channels, rows, columns; from that of [`patchify`].
    fn channels_first(&self, patches: Tensor<3>) -> Tensor<3> {
        let ([b, n, values], [p, q]) = (patches.dims(), self.config.vit.patch_size);
        patches.reshape([b, n, p * q, values / (p * q)]).swap_dims(2, 3).reshape([b, n, values])
    }
}

impl Backbone for Mim {
    fn has_class_token(&self) -> bool {
        self.vit.has_class_token()
    }

    /// With [`Want::Head`] all tokens, because the head reads all patches.
    fn features(&self, inputs: Inputs, want: Want<'_>, watch: &mut dyn Observer) -> Features {
        let x = self.enter(inputs, watch);
        let want = if want == Want::Head { Want::Last } else { want };
        self.vit.features_of(x, want, 1, watch)
    }

    fn embedding(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        self.vit.embedding(features, watch)
    }

    fn positions(&self) -> Option<Level> {
        self.vit.positions()
    }
}

impl Reconstruct for Mim {
    fn masking(&self) -> Masking {
        let MimConfig { target, mask_ratio, mask_patch_size, ref vit } = self.config;
        let unit = mask_patch_size.map_or(1, |side| side / vit.patch_size[0]).max(1);
        let corrupt = if target == MimTarget::Pixels { [1.0, 0.0] } else { [0.8, 0.1] };
        Masking { ratio: mask_ratio, unit, corrupt, drops: false }
    }

    fn grid(&self) -> [usize; 2] {
        self.config.vit.grid()
    }

    fn predict(&self, features: Features, _: &Masks, watch: &mut dyn Observer) -> Tensor<3> {
        let (_, patches) = features.last().split();
        watch.tokens(format_args!("decoder.0"), self.decoder._0.forward(patches))
    }

    fn losses(&self, prediction: Tensor<3>, images: Tensor<4>, scale: &PixelScale) -> Tensor<2> {
        let wide = if prediction.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let (prediction, images) = (prediction.cast(wide), images.cast(wide));
        let [b, n, _] = prediction.dims();
        match self.config.target {
            MimTarget::MeanColor | MimTarget::Downsized => {
                let (parts, k) = (self.config.parts().pow(2), self.config.colors());
                let classes = self.colors(images, scale).reshape([b, n * parts, 1]);
                let losses = log_softmax(prediction.reshape([b, n * parts, k]), 2).gather(2, classes).neg();
                losses.reshape([b, n, parts]).mean_dim(2).squeeze_dim(2)
            }
            MimTarget::Patch | MimTarget::Pixels => {
                let targets = self.channels_first(patchify(images, self.config.vit.patch_size));
                let difference = prediction - targets;
                let losses = match self.config.target {
                    MimTarget::Pixels => difference.abs(),
                    _ => difference.clone() * difference,
                };
                losses.mean_dim(2).squeeze_dim(2)
            }
        }
    }

    fn loss(&self, prediction: Tensor<3>, images: Tensor<4>, masks: &Masks, scale: &PixelScale) -> Tensor<1> {
        let losses = self.losses(prediction, images, scale);
        let (device, dtype) = (losses.device(), losses.dtype());
        if self.config.target != MimTarget::Pixels {
            return (losses * masks.mean_weights(&device, dtype)).sum();
        }
        // As in transformers: the sum over masked pixels, by their number and 1e-5, which it adds in f32.
        let masked = masks.num_masked();
        let pixels = (masked * self.config.vit.patch_size[0] * self.config.vit.patch_size[1]) as f32;
        let weight = f64::from(pixels) / f64::from(pixels + 1e-5) / masked.max(1) as f64;
        (losses * masks.weighted(weight, &device, dtype)).sum()
    }

    fn pixels(&self, prediction: Tensor<3>, images: Tensor<4>, scale: &PixelScale) -> Tensor<4> {
        let ([_, _, h, w], [p, q]) = (images.dims(), self.config.vit.patch_size);
        let patches = match self.config.target {
            MimTarget::MeanColor | MimTarget::Downsized => self.painted(prediction, scale),
            MimTarget::Patch | MimTarget::Pixels => {
                let [b, n, values] = prediction.dims();
                prediction.reshape([b, n, values / (p * q), p * q]).swap_dims(2, 3).reshape([b, n, values])
            }
        };
        unpatchify(patches, [p, q], [h / p, w / q])
    }
}

impl Chain for Mim {
    fn links(&self) -> usize {
        self.vit.links()
    }

    fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        let (x, grid) = self.enter(inputs, watch);
        Level::of_image(x, self.config.vit.num_prefix_tokens(), grid).into()
    }

    fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features {
        self.vit.link_of(index, x, None, watch)
    }

    fn last(&self, x: Features, watch: &mut dyn Observer) -> Features {
        self.vit.last(x, watch)
    }
}

impl Network for Mim {
    fn linears(&self) -> Vec<(String, &Linear)> {
        self.vit.linears()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        self.vit.linears_mut()
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        self.vit.visit_parts(visit);
    }

    fn depth(&self, key: &str) -> Depth {
        match key {
            "mask_token" => Depth::Stem,
            key if is_head(key) => Depth::Head,
            key => self.vit.depth(key),
        }
    }

    fn decays(&self, key: &str) -> bool {
        key != "mask_token" && self.vit.decays(key)
    }

    fn chain(&self) -> Option<&dyn Chain> {
        Some(self)
    }

    fn backbone(&self) -> Option<&dyn Backbone> {
        Some(self)
    }

    fn reconstruct(&self) -> Option<&dyn Reconstruct> {
        Some(self)
    }
}

/// Whether a parameter serves pretraining alone.
pub(crate) fn is_head(key: &str) -> bool {
    key.starts_with("decoder.") || key == "mask_token"
}

impl Config for MimConfig {
    type Model = Mim;

    fn validate(&self) -> Result<(), ConfigError> {
        self.vit.validate()?;
        let VitConfig { num_classes, in_chans, patch_size: [p, q], patch_drop_rate, .. } = self.vit;
        if num_classes != 0 {
            return refuse("num_classes", "is not 0; a model for masked patches names no classes".into());
        }
        if patch_drop_rate > 0.0 {
            return refuse("patch_drop_rate", "is not 0; every place is needed to predict patches".into());
        }
        if !(self.mask_ratio > 0.0 && self.mask_ratio < 1.0) {
            return refuse(
                "mask_ratio",
                format!("is {}, expected a share above 0 and below 1", self.mask_ratio),
            );
        }
        let counts_colors = matches!(self.target, MimTarget::MeanColor | MimTarget::Downsized);
        if counts_colors && in_chans > 3 {
            return refuse("in_chans", format!("is {in_chans}; colours have 1 to 3 channels"));
        }
        if self.target == MimTarget::Downsized && (p % PARTS != 0 || q % PARTS != 0) {
            return refuse(
                "patch_size",
                format!("{p}x{q} has no {PARTS}x{PARTS} equal parts for this target"),
            );
        }
        if let Some(side) = self.mask_patch_size.filter(|side| side % p != 0 || *side == 0 || p != q) {
            return refuse("mask_patch_size", format!("is {side}, no multiple of patches of {p}x{q}"));
        }
        Ok(())
    }

    fn build(&self, device: &Device) -> Mim {
        let d = self.vit.embed_dim;
        Mim {
            vit: Flat::new(self.vit.build(device)),
            mask_token: parameter([1, 1, d], device),
            decoder: MimHead { _0: Linear::new(d, self.patch_values(), true, device) },
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        self.vit.input()
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let mut steps = encoder_steps(&self.vit, None);
        let [d, values, n] =
            [self.vit.embed_dim, self.patch_values(), self.vit.grid().iter().product()].map(long);
        let behind = steps.0.iter().position(|step| step.name == "patch_embed").map_or(0, |at| at + 1);
        let mut token = super::shapes::Steps::default();
        token.add("mask_token", "in the place of masked patches".into(), &[n, d], d, 0);
        steps.0.splice(behind..behind, token.0);
        let what = format!("linear {d} → {values}, for each patch");
        steps.add("decoder.0", what, &[n, values], d * values + values, product(n, d, values));
        Ok(Walk::new(steps.0, 0, held(&self.vit)))
    }

    fn method(&self) -> Option<&'static str> {
        Some(if self.target == MimTarget::Pixels { "simmim" } else { "mpp" })
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        match key.rsplit_once('.') {
            None if key == "mask_token" => Some(TABLE),
            Some(("decoder.0", part)) => self.vit.weight_init.linear(part, shape),
            _ => self.vit.first(key, shape),
        }
    }
}
