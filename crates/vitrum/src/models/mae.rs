//! MAE — He et al. 2021, "Masked autoencoders are scalable vision learners", arXiv:2111.06377.
//!
//! ```text
//! image [B, C, H, W] → patches + positions [B, N, D] → drop 75 % → [class; seen] → encoder → norm [B, 1 + S, D]
//!   → linear → [class; seen, mask token elsewhere] + positions [B, 1 + N, D'] → decoder → norm → linear [B, N, P·P·C]
//! loss: mean squared error of the dropped patches
//! ```
//!
//! The encoder is a Vision Transformer ([`vit`](super::vit)) that sees a quarter of the patches. Only pretraining needs the
//! decoder. With `norm_pix_loss` the targets are the pixels of each patch, less their mean, over their deviation (section
//! 4.1, "reconstruction target"; the variance is the unbiased one).

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::limits::{MAX_DEPTH, MAX_WIDTH, check_ranges, refuse};
use super::network::{
    Backbone, Chain, Config, Depth, Features, Input, Inputs, Level, Masking, Network, PixelScale,
    Reconstruct, Want,
};
use super::shapes::{Steps, Walk, long, product};
use super::stages::Visitor;
use super::vit::{GlobalPool, PosEmbed, Vit, VitConfig, WeightInit, encoder_steps, held};
use crate::layers::attention::{BlockArgs, BlockBias};
use crate::layers::block::EncoderBlock;
use crate::layers::init::{Draw, TABLE, norm};
use crate::layers::mask::{Masks, patchify, seen_of, unpatchify};
use crate::layers::names::Flat;
use crate::layers::norm::LayerNorm;
use crate::layers::observe::{Observer, Within};
use crate::layers::position::fixed_table;
use crate::layers::{Linear, lazy, parameter};

/// Added to the variance of a patch's pixels.
const PIXEL_EPS: f64 = 1e-6;

/// How an MAE is built: the fields of a Vision Transformer and these. Names and meanings are those of the authors' code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaeConfig {
    /// The encoder. On disk its fields stand at the same level as the others. It has no classes.
    #[serde(flatten)]
    pub vit: VitConfig,
    /// `D'`: width of the decoder.
    #[serde(default = "decoder::embed_dim")]
    pub decoder_embed_dim: usize,
    /// Number of blocks of the decoder.
    #[serde(default = "decoder::depth")]
    pub decoder_depth: usize,
    /// Heads of the decoder.
    #[serde(default = "decoder::num_heads")]
    pub decoder_num_heads: usize,
    /// Width of the decoder's MLP over `D'`.
    #[serde(default = "decoder::mlp_ratio")]
    pub decoder_mlp_ratio: f64,
    /// Whether the targets are normalised by mean and deviation of their patch.
    #[serde(default)]
    pub norm_pix_loss: bool,
    /// Share of the patches that the encoder does not see.
    #[serde(default = "decoder::mask_ratio")]
    pub mask_ratio: f64,
}

/// The paper's values.
mod decoder {
    pub fn embed_dim() -> usize {
        512
    }
    pub fn depth() -> usize {
        8
    }
    pub fn num_heads() -> usize {
        16
    }
    pub fn mlp_ratio() -> f64 {
        4.0
    }
    pub fn mask_ratio() -> f64 {
        0.75
    }
}

impl Default for MaeConfig {
    /// The authors' `mae_vit_base_patch16`.
    fn default() -> Self {
        Self {
            vit: VitConfig {
                num_classes: 0,
                pos_embed: PosEmbed::SinCos2dMae,
                weight_init: WeightInit::Mae,
                ..VitConfig::default()
            },
            decoder_embed_dim: decoder::embed_dim(),
            decoder_depth: decoder::depth(),
            decoder_num_heads: decoder::num_heads(),
            decoder_mlp_ratio: decoder::mlp_ratio(),
            norm_pix_loss: false,
            mask_ratio: decoder::mask_ratio(),
        }
    }
}

impl MaeConfig {
    /// The encoder as a Vision Transformer of its own. Its positions are a table that learns, as in the authors' fine-tuning.
    pub fn encoder(&self) -> VitConfig {
        let pos_embed = if self.vit.pos_embed.is_fixed() { PosEmbed::Learn } else { self.vit.pos_embed };
        VitConfig { pos_embed, weight_init: WeightInit::Timm, ..self.vit.clone() }
    }

    /// The decoder's blocks, as those of a Vision Transformer.
    fn decoder(&self) -> VitConfig {
        VitConfig {
            embed_dim: self.decoder_embed_dim,
            depth: self.decoder_depth,
            num_heads: self.decoder_num_heads,
            mlp_ratio: self.decoder_mlp_ratio,
            attn_head_dim: None,
            pos_embed: PosEmbed::SinCos2dMae,
            pos_drop_rate: 0.0,
            proj_drop_rate: 0.0,
            attn_drop_rate: 0.0,
            drop_path_rate: 0.0,
            ..self.vit.clone()
        }
    }

    /// Values of a predicted patch, `P·P·C`.
    pub fn patch_values(&self) -> usize {
        self.vit.patch_size[0] * self.vit.patch_size[1] * self.vit.in_chans
    }

    /// Number of patches that the encoder sees.
    pub fn num_seen(&self) -> usize {
        let [rows, columns] = self.vit.grid();
        seen_of(rows * columns, self.mask_ratio)
    }

    /// The walk from the encoder's norm to the predicted pixels.
    fn add_decoder(&self, steps: &mut Steps) {
        let decoder = self.decoder();
        let [d, wide, values] = [self.vit.embed_dim, self.decoder_embed_dim, self.patch_values()].map(long);
        let (seen, n) = (long(self.num_seen()), long(decoder.grid().iter().product()));
        let prefix = long(decoder.num_prefix_tokens());
        let t = prefix + n;
        let what = format!("linear {d} → {wide}");
        steps.add(
            "decoder_embed",
            what,
            &[prefix + seen, wide],
            d * wide + wide,
            product(prefix + seen, d, wide),
        );
        steps.add("mask_token", format!("in the place of {} masked patches", n - seen), &[t, wide], wide, 0);
        steps.add("decoder_pos_embed", "fixed sinusoids".into(), &[t, wide], t * wide, 0);
        let first = steps.0.len();
        steps.block("decoder_blocks.N", &decoder.block(0), t);
        steps.0[first..].iter_mut().for_each(|step| step.repeat = decoder.depth);
        steps.add("decoder_norm", "LayerNorm".into(), &[t, wide], 2 * wide, 0);
        let params = wide * values + values;
        steps.add(
            "decoder_pred",
            format!("linear {wide} → {values}"),
            &[n, values],
            params,
            product(n, wide, values),
        );
    }

    fn decoder_table(&self, grid: [usize; 2], dtype: DType, device: &Device) -> Tensor<3> {
        let position = self.decoder().position();
        let rows = position.prefix_rows + grid[0] * grid[1];
        let values = TensorData::new(fixed_table(&position, grid), [1, rows, position.dim]);
        Tensor::from_data(values, (device, dtype))
    }
}

/// An MAE. Field names are the checkpoint's names.
#[derive(Module, Debug)]
pub struct Mae {
    /// The encoder.
    pub vit: Flat<Vit>,
    /// `D -> D'`.
    pub decoder_embed: Linear,
    /// `[1, 1, D']`, in the place of every patch that the encoder did not see.
    pub mask_token: Param<Tensor<3>>,
    /// `[1, 1 + N, D']`, given by a formula.
    pub decoder_pos_embed: Param<Tensor<3>>,
    /// The decoder.
    pub decoder_blocks: Vec<EncoderBlock>,
    /// Norm after the decoder.
    pub decoder_norm: LayerNorm,
    /// `D' -> P·P·C`.
    pub decoder_pred: Linear,
    #[module(skip)]
    config: MaeConfig,
}

impl Mae {
    /// How this model is built.
    pub fn config(&self) -> &MaeConfig {
        &self.config
    }

    fn prefix(&self) -> usize {
        self.config.vit.num_prefix_tokens()
    }

    /// Tokens with positions, without the masked patches: `[B, 1 + S, D]`.
    fn enter(&self, inputs: Inputs, watch: &mut dyn Observer) -> (Tensor<3>, [usize; 2]) {
        let masks = inputs.masks().cloned();
        let (x, grid) = self.vit.embed(inputs.images(), watch); // [B, 1 + N, D]
        match masks {
            Some(masks) => (watch.tokens(format_args!("seen"), masks.keep_seen(x, self.prefix())), grid),
            None => (x, grid),
        }
    }

    /// The targets, `[B, N, P·P·C]`.
    fn targets(&self, images: Tensor<4>) -> Tensor<3> {
        let targets = patchify(images, self.config.vit.patch_size);
        if !self.config.norm_pix_loss {
            return targets;
        }
        let [mean, deviation] = moments(&targets);
        (targets - mean) / deviation
    }
}

/// Mean and deviation of the values of each patch, `[B, N, P·P·C] -> [B, N, 1]`.
fn moments(patches: &Tensor<3>) -> [Tensor<3>; 2] {
    let count = patches.dims()[2] as f64;
    let mean = patches.clone().mean_dim(2);
    let centred = patches.clone() - mean.clone();
    let variance = (centred.clone() * centred).sum_dim(2).div_scalar((count - 1.0).max(1.0)); // unbiased
    [mean, (variance + PIXEL_EPS).sqrt()]
}

impl Backbone for Mae {
    fn has_class_token(&self) -> bool {
        self.vit.has_class_token()
    }

    /// With [`Want::Head`] all tokens, because the decoder reads all.
    fn features(&self, inputs: Inputs, want: Want<'_>, watch: &mut dyn Observer) -> Features {
        let x = self.enter(inputs, watch);
        let want = if want == Want::Head { Want::Last } else { want };
        self.vit.features_of(x, want, self.prefix(), watch)
    }

    fn embedding(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        self.vit.embedding(features, watch)
    }

    fn positions(&self) -> Option<Level> {
        self.vit.positions()
    }
}

impl Reconstruct for Mae {
    fn masking(&self) -> Masking {
        Masking { ratio: self.config.mask_ratio, unit: 1, corrupt: [1.0, 0.0], drops: true }
    }

    fn grid(&self) -> [usize; 2] {
        self.config.vit.grid()
    }

    fn predict(&self, features: Features, masks: &Masks, watch: &mut dyn Observer) -> Tensor<3> {
        let level = features.last();
        let (grid, prefix) = (level.rows_columns(), self.prefix());
        let x = watch.tokens(format_args!("decoder_embed"), self.decoder_embed.forward(level.tokens));
        let x = masks.fill(x, prefix, self.mask_token.val()); // [B, 1 + N, D']
        let table = match grid == self.config.vit.grid() {
            true => self.decoder_pos_embed.val(),
            false => self.config.decoder_table(grid, x.dtype(), &x.device()),
        };
        let x = watch.tokens(format_args!("decoder_pos_embed"), x + table);
        let args = BlockArgs { grid, shared_bias: None, shared_keys: None, rotation: None, read: None };
        let x = self.decoder_blocks.iter().enumerate().fold(x, |x, (i, block)| {
            block.forward(x, args, &mut Within::new(watch, format_args!("decoder_blocks.{i}")))
        });
        let x = watch.tokens(format_args!("decoder_norm"), self.decoder_norm.forward(x));
        let t = x.dims()[1];
        let x = self.decoder_pred.forward(x.narrow(1, prefix, t - prefix));
        watch.tokens(format_args!("decoder_pred"), x) // [B, N, P·P·C]
    }

    fn losses(&self, prediction: Tensor<3>, images: Tensor<4>, _: &PixelScale) -> Tensor<2> {
        let wide = if prediction.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let difference = prediction.cast(wide) - self.targets(images.cast(wide));
        (difference.clone() * difference).mean_dim(2).squeeze_dim(2)
    }

    fn pixels(&self, prediction: Tensor<3>, images: Tensor<4>, _: &PixelScale) -> Tensor<4> {
        let [_, _, h, w] = images.dims();
        let [p, q] = self.config.vit.patch_size;
        let patches = if self.config.norm_pix_loss {
            let [mean, deviation] = moments(&patchify(images, [p, q]));
            prediction * deviation + mean
        } else {
            prediction
        };
        unpatchify(patches, [p, q], [h / p, w / q])
    }
}

impl Chain for Mae {
    fn links(&self) -> usize {
        self.vit.links()
    }

    fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        let (x, grid) = self.enter(inputs, watch);
        Level::of_image(x, self.prefix(), grid).into()
    }

    fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features {
        self.vit.link_of(index, x, None, watch)
    }

    fn last(&self, x: Features, watch: &mut dyn Observer) -> Features {
        self.vit.last(x, watch)
    }
}

impl Network for Mae {
    fn linears(&self) -> Vec<(String, &Linear)> {
        let blocks = self.decoder_blocks.iter().enumerate().flat_map(|(i, block)| {
            block
                .linears()
                .into_iter()
                .map(move |(name, layer)| (format!("decoder_blocks.{i}.{name}"), layer))
        });
        self.vit.linears().into_iter().chain(blocks).collect()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let blocks = self.decoder_blocks.iter_mut().enumerate().flat_map(|(i, block)| {
            block
                .linears_mut()
                .into_iter()
                .map(move |(name, layer)| (format!("decoder_blocks.{i}.{name}"), layer))
        });
        self.vit.inner.linears_mut().into_iter().chain(blocks).collect()
    }

    fn visit_parts(&mut self, visit: &mut Visitor<'_>) {
        self.vit.visit_parts(visit);
    }

    fn depth(&self, key: &str) -> Depth {
        if is_decoder(key) { Depth::Head } else { self.vit.depth(key) }
    }

    /// The authors' code decays everything with more than one dimension, tokens too.
    fn decays(&self, _: &str) -> bool {
        true
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
pub(crate) fn is_decoder(key: &str) -> bool {
    key.starts_with("decoder_") || key == "mask_token"
}

impl Config for MaeConfig {
    type Model = Mae;

    fn validate(&self) -> Result<(), ConfigError> {
        self.vit.validate()?;
        check_ranges([
            ("decoder_embed_dim", self.decoder_embed_dim, 1, MAX_WIDTH),
            ("decoder_depth", self.decoder_depth, 1, MAX_DEPTH),
            ("decoder_num_heads", self.decoder_num_heads, 1, MAX_WIDTH),
        ])?;
        let (d, a) = (self.decoder_embed_dim, self.decoder_num_heads);
        if !d.is_multiple_of(a) {
            return refuse("decoder_embed_dim", format!("{d} is not a multiple of decoder_num_heads {a}"));
        }
        if !d.is_multiple_of(4) || d < 8 {
            return refuse("decoder_embed_dim", format!("is {d}; its sin-cos positions need 8, 12, 16, …"));
        }
        if !(0.0..1.0).contains(&self.mask_ratio) {
            return refuse(
                "mask_ratio",
                format!("is {}, expected a share from 0 to below 1", self.mask_ratio),
            );
        }
        let vit = &self.vit;
        let pools_tokens = vit.global_pool == GlobalPool::Token || vit.global_pool == GlobalPool::Avg;
        for (field, right, reason) in [
            ("num_classes", vit.num_classes == 0, "is not 0; an MAE names no classes"),
            ("class_token", vit.class_token, "is false; an MAE has a class token"),
            ("no_embed_class", !vit.no_embed_class, "is true; the class token of an MAE has a position"),
            (
                "global_pool",
                pools_tokens && vit.has_norm(),
                "is not `token`; an MAE's norm follows its blocks",
            ),
            ("representation_size", vit.representation_size.is_none(), "is set; an MAE has no head"),
            (
                "pos_embed",
                vit.pos_embed == PosEmbed::None
                    || vit.pos_embed == PosEmbed::Learn
                    || vit.pos_embed == PosEmbed::Learn2d
                    || vit.pos_embed.is_fixed(),
                "acts between patches; an MAE's encoder does not see all of them",
            ),
            ("patch_drop_rate", vit.patch_drop_rate == 0.0, "is not 0; an MAE drops patches by mask_ratio"),
        ] {
            if !right {
                return refuse(field, reason.into());
            }
        }
        let decoder = self.decoder();
        let named = |error: ConfigError| match error {
            ConfigError::Field { field: "mlp_ratio", reason } => {
                ConfigError::Field { field: "decoder_mlp_ratio", reason }
            }
            other => other,
        };
        decoder.validate().map_err(named)
    }

    fn build(&self, device: &Device) -> Mae {
        let decoder = self.decoder();
        let VitConfig { embed_dim: d, depth, .. } = decoder;
        let rows = decoder.prefix_rows() + decoder.grid().iter().product::<usize>();
        let config = self.clone();
        let table = move |device: &Device| {
            config.decoder_table(config.vit.grid(), device.settings().float_dtype.into(), device)
        };
        let block = |index| EncoderBlock::new(&decoder.block(index), BlockBias::default(), device);
        Mae {
            vit: Flat::new(self.vit.build(device)),
            decoder_embed: Linear::new(self.vit.embed_dim, d, true, device),
            mask_token: parameter([1, 1, d], device),
            decoder_pos_embed: lazy([1, rows, d], device, false, table),
            decoder_blocks: (0..depth).map(block).collect(),
            decoder_norm: decoder.norm().build(d, device),
            decoder_pred: Linear::new(d, self.patch_values(), true, device),
            config: self.clone(),
        }
    }

    fn input(&self) -> Input {
        self.vit.input()
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        let mut steps = encoder_steps(&self.vit, Some(self.num_seen()));
        self.add_decoder(&mut steps);
        Ok(Walk::new(steps.0, 0, held(&self.vit)))
    }

    fn method(&self) -> Option<&'static str> {
        Some("mae")
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let init = self.vit.weight_init;
        if let Some((_, rest)) = key.strip_prefix("decoder_blocks.").and_then(|rest| rest.split_once('.')) {
            return init.block(rest, shape, self.vit.block_init());
        }
        match key.rsplit_once('.') {
            None if key == "decoder_pos_embed" => Some(Draw::Keep),
            None if key == "mask_token" => Some(TABLE),
            Some(("decoder_embed" | "decoder_pred", part)) => init.linear(part, shape),
            Some(("decoder_norm", part)) => norm(part),
            _ => self.vit.first(key, shape),
        }
    }
}
