//! Everything a training run depends on, in timm's words.
//!
//! A recipe is a TOML file of flat keys, the long flags of timm's `train.py` with `_` for `-`. It states only what
//! differs from the defaults; flags of the command line come on top; what results is written to the run's
//! `args.toml`, which is again a recipe. A key nobody knows is an error that names the nearest one.

mod builtin;
mod check;
mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use builtin::{BUILTIN, builtin};
pub use check::{DEVICES, METRICS, SCHEDULES};
use serde::{Deserialize, Serialize};

pub use crate::data::train_set::Cache;

/// A training run. See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    // ── data ──
    /// Training images: a folder of class folders, a table, an archive, a binary set, or `demo`.
    pub data: String,
    /// Validation images, when they lie elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_data: Option<String>,
    /// Name of the part to train on, where there are several.
    pub train_split: String,
    /// Name of the part to validate on.
    pub val_split: String,
    /// Share of the training images set aside for validation, per class, where there is no validation part.
    pub val_fraction: f64,
    /// Share of the training images used, per class.
    pub fraction: f64,
    /// File with the class names in the order of their numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_map: Option<PathBuf>,
    /// Where the paths of a table begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_dir: Option<PathBuf>,
    /// Threads that decode and augment; 0: one per core. The result does not depend on it.
    pub workers: usize,
    /// Whether decoded images stay in memory.
    pub cache: Cache,
    /// Read archives from beginning to end, shuffling what is held back; for disks that seek slowly.
    pub sequential: bool,
    /// Images of an archive held back for shuffling.
    pub shuffle_buffer: usize,
    /// Unreadable images tolerated: a share below 1, a number from 1 on.
    pub max_bad: f64,

    // ── model ──
    /// Name of the catalogue.
    pub model: String,
    /// Weights to begin from: a folder, a file, or `hf:ORG/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<String>,
    /// A file that tells the names in those weights, where no dialect knows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// Number of classes; by default the data's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_classes: Option<usize>,
    /// Height and width of the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub img_size: Option<ImgSize>,
    /// Channels of the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_chans: Option<usize>,
    /// Pooling: `token`, `avg`, `map`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gp: Option<String>,
    /// Dropout before the head (timm's `--drop`).
    pub drop: f64,
    /// Dropout after the projections of attention and MLP.
    pub proj_drop: f64,
    /// Dropout on attention weights.
    pub attn_drop: f64,
    /// Dropout after adding positions.
    pub pos_drop: f64,
    /// Share of patches left out.
    pub patch_drop: f64,
    /// Stochastic depth of the last block.
    pub drop_path: f64,
    /// Factor on the fresh head's weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_init_scale: Option<f64>,
    /// Fresh head's bias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_init_bias: Option<f64>,
    /// Other fields of the model's configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub model_kwargs: BTreeMap<String, toml::Value>,
    /// Parameters that stay as they are; `*` stands for any text.
    pub freeze: Vec<String>,
    /// Train the head alone.
    pub linear_probe: bool,
    /// Rank of low-rank updates to the blocks' weight matrices; 0: none.
    pub lora_rank: usize,
    /// Their scale is this over the rank.
    pub lora_alpha: f64,

    // ── optimiser ──
    /// `adamw`, `sgd`, `lamb`, `lion`, `adafactor`, `muon`, …
    pub opt: String,
    /// Learning rate; when absent, from `lr_base`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Learning rate for a batch of `lr_base_size`.
    pub lr_base: f64,
    /// See `lr_base`.
    pub lr_base_size: usize,
    /// `linear` or `sqrt`; when absent, `sqrt` for Adam's kin, `linear` for the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_base_scale: Option<String>,
    /// Weight decay.
    pub weight_decay: f64,
    /// Momentum of SGD and its kin.
    pub momentum: f64,
    /// Betas; when absent, the optimiser's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_betas: Option<Vec<f64>>,
    /// Epsilon; when absent, the optimiser's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_eps: Option<f64>,
    /// Clip gradients to this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_grad: Option<f64>,
    /// `norm` (of all together), `value` or `agc`.
    pub clip_mode: String,
    /// Learning rate of a layer over that of the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_decay: Option<f64>,
    /// Parameters without weight decay, besides all of one dimension, tokens and positions; `*` stands for any text.
    pub no_weight_decay: Vec<String>,

    // ── schedule ──
    /// `cosine`, `step`, `multistep`, `poly`, `plateau`, `linear` or `none`.
    pub sched: String,
    /// Advance the schedule at every update rather than every epoch.
    pub sched_on_updates: bool,
    /// Epochs of the schedule; the run adds `cooldown_epochs`.
    pub epochs: usize,
    /// End after so many updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Epochs of warm-up.
    pub warmup_epochs: f64,
    /// Updates of warm-up, over `warmup_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Learning rate at the start of the warm-up.
    pub warmup_lr: f64,
    /// The schedule begins after the warm-up instead of running below it.
    pub warmup_prefix: bool,
    /// Learning rate at the end.
    pub min_lr: f64,
    /// Epochs at `min_lr` at the end.
    pub cooldown_epochs: usize,
    /// Epochs between decays of `step`.
    pub decay_epochs: f64,
    /// Epochs of the decays of `multistep`.
    pub decay_milestones: Vec<f64>,
    /// Factor of `step`, `multistep`, `plateau`; power of `poly`.
    pub decay_rate: f64,
    /// Epochs without progress that `plateau` waits for.
    pub patience_epochs: usize,
    /// Stop after so many epochs without progress; 0: never.
    pub patience: usize,
    /// `k` of `cosine` and `poly`.
    pub lr_k_decay: f64,

    // ── augmentation ──
    /// Nothing random: resize and crop as in validation.
    pub no_aug: bool,
    /// Small images: random crop after padding by so many pixels, and flips, instead of random resized crops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pad: Option<u32>,
    /// What these pixels are: `constant` (black) or `reflect`.
    pub crop_pad_mode: String,
    /// Area of a random resized crop over that of the image, least and most.
    pub scale: [f64; 2],
    /// Its width over its height, least and most.
    pub ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub hflip: f64,
    /// Probability of a vertical flip.
    pub vflip: f64,
    /// Brightness, contrast and saturation change by up to this.
    pub color_jitter: f64,
    /// Probability that they do; by default always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_jitter_prob: Option<f64>,
    /// Probability of grey.
    pub grayscale_prob: f64,
    /// Probability of a blur.
    pub gaussian_blur_prob: f64,
    /// `rand-m9-mstd0.5-inc1`, `augmix-…`, `original`, `v0`, `3a`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aa: Option<String>,
    /// Times each image is used in a row of batches (repeated augmentation); 0: once.
    pub aug_repeats: usize,
    /// Probability of random erasing.
    pub reprob: f64,
    /// What erased parts are filled with: `const`, `rand` or `pixel`.
    pub remode: String,
    /// Erased parts per image.
    pub recount: usize,
    /// Alpha of mixup.
    pub mixup: f64,
    /// Alpha of CutMix.
    pub cutmix: f64,
    /// Shares of a CutMix box's sides, over `cutmix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutmix_minmax: Option<[f64; 2]>,
    /// Probability of either.
    pub mixup_prob: f64,
    /// Probability of CutMix where both are on.
    pub mixup_switch_prob: f64,
    /// `batch`, `pair` or `elem`.
    pub mixup_mode: String,
    /// No mixing from this epoch on; 0: always.
    pub mixup_off_epoch: usize,
    /// Label smoothing.
    pub smoothing: f64,
    /// Binary cross entropy, a yes or no per class.
    pub bce_loss: bool,
    /// With it, targets above this become 1 and others 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bce_target_thresh: Option<f64>,
    /// Sum over classes instead of mean.
    pub bce_sum: bool,
    /// Resampling of random crops: `random`, `bilinear`, `bicubic`, …
    pub train_interpolation: String,
    /// Resampling of validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<String>,
    /// Share of the resized side that validation keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pct: Option<f64>,
    /// `center`, `squash` or `border`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_mode: Option<String>,
    /// Mean of each channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// Deviation of each channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f64>>,

    // ── batch ──
    /// Images per update, over `grad_accum_steps`.
    pub batch_size: usize,
    /// Images per validation batch; by default `batch_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_batch_size: Option<usize>,
    /// Batches per update.
    pub grad_accum_steps: usize,
    /// Keep each block's input alone and compute the rest again in the backward pass.
    pub grad_checkpointing: bool,
    /// `none` or `bf16`.
    pub amp_dtype: String,

    // ── moving average ──
    /// Keep a moving average of the weights, and validate it too.
    pub model_ema: bool,
    /// Its decay per update.
    pub model_ema_decay: f64,
    /// Let the decay grow from 0.
    pub model_ema_warmup: bool,

    // ── run ──
    /// Where runs are kept.
    pub output: PathBuf,
    /// Name of this run's folder; by default the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    /// Write into a folder that exists.
    pub exist_ok: bool,
    /// Seed of all that is random.
    pub seed: u64,
    /// Batches between lines of the log.
    pub log_interval: usize,
    /// Epochs between validations.
    pub val_interval: usize,
    /// How often to save: `1epoch`, `500steps`, `10min`.
    pub checkpoint_every: Every,
    /// Checkpoints kept besides the best.
    pub checkpoint_hist: usize,
    /// What makes a checkpoint the best: `top1`, `top5` or `loss`.
    pub eval_metric: String,
    /// Save and stop after this long: `3.5h`, `90min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Span>,
    /// `auto`, `cpu`, `vulkan`, …
    pub device: String,
    /// Train on the first so many batches over and over, to see that the model can learn at all; 0: off.
    pub overfit_batches: usize,
}

impl Default for Recipe {
    /// timm's defaults where it has one.
    fn default() -> Self {
        Self {
            data: String::new(),
            val_data: None,
            train_split: "train".into(),
            val_split: "validation".into(),
            val_fraction: 0.1,
            fraction: 1.0,
            class_map: None,
            image_dir: None,
            workers: 0,
            cache: Cache::Auto,
            sequential: false,
            shuffle_buffer: 2048,
            max_bad: 0.001,
            model: "vit_tiny_patch16_224".into(),
            pretrained: None,
            keys: None,
            num_classes: None,
            img_size: None,
            in_chans: None,
            gp: None,
            drop: 0.0,
            proj_drop: 0.0,
            attn_drop: 0.0,
            pos_drop: 0.0,
            patch_drop: 0.0,
            drop_path: 0.0,
            head_init_scale: None,
            head_init_bias: None,
            model_kwargs: BTreeMap::new(),
            freeze: Vec::new(),
            linear_probe: false,
            lora_rank: 0,
            lora_alpha: 16.0,
            opt: "adamw".into(),
            lr: None,
            lr_base: 5e-4,
            lr_base_size: 512,
            lr_base_scale: Some("linear".into()),
            weight_decay: 0.05,
            momentum: 0.9,
            opt_betas: None,
            opt_eps: None,
            clip_grad: None,
            clip_mode: "norm".into(),
            layer_decay: None,
            no_weight_decay: Vec::new(),
            sched: "cosine".into(),
            sched_on_updates: true,
            epochs: 300,
            max_steps: None,
            warmup_epochs: 5.0,
            warmup_steps: None,
            warmup_lr: 1e-6,
            warmup_prefix: false,
            min_lr: 0.0,
            cooldown_epochs: 0,
            decay_epochs: 90.0,
            decay_milestones: vec![90.0, 180.0, 270.0],
            decay_rate: 0.1,
            patience_epochs: 10,
            patience: 0,
            lr_k_decay: 1.0,
            no_aug: false,
            crop_pad: None,
            crop_pad_mode: "constant".into(),
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            hflip: 0.5,
            vflip: 0.0,
            color_jitter: 0.4,
            color_jitter_prob: None,
            grayscale_prob: 0.0,
            gaussian_blur_prob: 0.0,
            aa: None,
            aug_repeats: 0,
            reprob: 0.0,
            remode: "pixel".into(),
            recount: 1,
            mixup: 0.0,
            cutmix: 0.0,
            cutmix_minmax: None,
            mixup_prob: 1.0,
            mixup_switch_prob: 0.5,
            mixup_mode: "batch".into(),
            mixup_off_epoch: 0,
            smoothing: 0.1,
            bce_loss: false,
            bce_target_thresh: None,
            bce_sum: false,
            train_interpolation: "random".into(),
            interpolation: None,
            crop_pct: None,
            crop_mode: None,
            mean: None,
            std: None,
            batch_size: 128,
            validation_batch_size: None,
            grad_accum_steps: 1,
            grad_checkpointing: false,
            amp_dtype: "none".into(),
            model_ema: false,
            model_ema_decay: 0.9998,
            model_ema_warmup: false,
            output: "runs".into(),
            experiment: None,
            exist_ok: false,
            seed: 42,
            log_interval: 50,
            val_interval: 1,
            checkpoint_every: Every::Epochs(1),
            checkpoint_hist: 3,
            eval_metric: "top1".into(),
            time: None,
            device: "auto".into(),
            overfit_batches: 0,
        }
    }
}

/// Height and width in pixels: `224`, `[224, 160]` or `"224x160"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ImgSizeRepr", into = "ImgSizeRepr")]
pub struct ImgSize(pub [usize; 2]);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ImgSizeRepr {
    Side(usize),
    Sides([usize; 2]),
    Text(String),
}

impl TryFrom<ImgSizeRepr> for ImgSize {
    type Error = String;

    fn try_from(repr: ImgSizeRepr) -> Result<Self, String> {
        match repr {
            ImgSizeRepr::Side(side) => Ok(Self([side, side])),
            ImgSizeRepr::Sides(sides) => Ok(Self(sides)),
            ImgSizeRepr::Text(text) => text.parse(),
        }
    }
}

impl From<ImgSize> for ImgSizeRepr {
    fn from(ImgSize([h, w]): ImgSize) -> Self {
        if h == w { Self::Side(h) } else { Self::Sides([h, w]) }
    }
}

impl std::str::FromStr for ImgSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no image size: want N or HxW");
        let side = |text: &str| text.parse().map_err(|_| wrong());
        match text.split_once('x') {
            Some((h, w)) => Ok(Self([side(h)?, side(w)?])),
            None => side(text).map(|side| Self([side, side])),
        }
    }
}

/// How often something happens: `2epochs`, `500steps`, `10min`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Every {
    /// At the end of every so many epochs.
    Epochs(u64),
    /// After so many updates.
    Steps(u64),
    /// After so much time.
    Time(Span),
}

impl std::str::FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no interval: want 1epoch, 500steps or 10min");
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let whole = || if number >= 1.0 && number.fract() == 0.0 { Ok(number as u64) } else { Err(wrong()) };
        match unit {
            "epoch" | "epochs" => Ok(Self::Epochs(whole()?)),
            "step" | "steps" | "update" | "updates" => Ok(Self::Steps(whole()?)),
            _ => text.parse().map(Self::Time).map_err(|_| wrong()),
        }
    }
}

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Every> for String {
    fn from(every: Every) -> Self {
        match every {
            Every::Epochs(1) => "1epoch".into(),
            Every::Epochs(n) => format!("{n}epochs"),
            Every::Steps(n) => format!("{n}steps"),
            Every::Time(span) => span.into(),
        }
    }
}

/// A length of time: `90s`, `10min`, `3.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    /// In seconds.
    pub seconds: f64,
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no length of time: want 90s, 10min or 3.5h");
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let scale = match unit {
            "s" | "sec" | "seconds" => 1.0,
            "m" | "min" | "minutes" => 60.0,
            "h" | "hours" => 3600.0,
            "d" | "days" => 86400.0,
            _ => return Err(wrong()),
        };
        Ok(Self { seconds: number * scale })
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(Span { seconds }: Span) -> Self {
        match seconds {
            s if s >= 3600.0 && (s / 36.0).fract() == 0.0 => format!("{}h", s / 3600.0),
            s if s >= 60.0 && (s / 0.6).fract() == 0.0 => format!("{}min", s / 60.0),
            s => format!("{s}s"),
        }
    }
}

fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(end);
    let number = number.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0)?;
    Some((number, unit.trim()))
}

/// A recipe that cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No recipe of this name travels with the library.
    #[error("no recipe '{name}', neither a file nor one that is built in\nhint: {}", or_built_in(.nearest))]
    UnknownRecipe {
        /// What was asked for.
        name: String,
        /// The name most like it.
        nearest: Option<String>,
    },
    /// Not TOML.
    #[error("{origin}: not a TOML file: {reason}")]
    Syntax {
        /// The file.
        origin: String,
        /// Where and why.
        reason: String,
    },
    /// A key nobody knows.
    #[error("{origin}: unknown key '{key}'{hint}", hint = .nearest.as_ref().map(|n| format!("\nhint: did you mean '{n}'?")).unwrap_or_default())]
    UnknownKey {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// The key most like it.
        nearest: Option<String>,
    },
    /// A value of the wrong kind.
    #[error("{origin}: {key}: {reason}")]
    Value {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A value, or two together, that make no run.
    #[error("{key} {reason}")]
    Field {
        /// The key.
        key: &'static str,
        /// A sentence that begins with it.
        reason: String,
    },
}

/// Keys and values that are laid over a recipe.
pub type Overlay = toml::Table;

/// Reads the file of a recipe.
///
/// # Errors
/// [`RecipeError`] when it cannot be read, is not TOML, or has a key or value nobody knows.
pub fn read(path: &Path) -> Result<Overlay, RecipeError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| RecipeError::Io { path: path.to_path_buf(), source })?;
    parse(&text, &path.display().to_string())
}

/// Reads the text of a recipe; `origin` is who an error names.
///
/// # Errors
/// [`RecipeError`] when it is not TOML, or has a key or value nobody knows.
pub fn parse(text: &str, origin: &str) -> Result<Overlay, RecipeError> {
    let overlay: Overlay = toml::from_str(text)
        .map_err(|error| RecipeError::Syntax { origin: origin.into(), reason: error.to_string() })?;
    Recipe::default().with(&overlay, origin)?;
    Ok(overlay)
}

impl Recipe {
    /// What a fine-tuning run does when nothing else is said: for a folder of a few hundred images and a
    /// pretrained model.
    pub fn finetune() -> Self {
        Self {
            epochs: 12,
            batch_size: 32,
            lr_base: 1e-4,
            lr_base_size: 32,
            warmup_epochs: 1.0,
            warmup_lr: 1e-6,
            weight_decay: 0.05,
            layer_decay: Some(0.75),
            clip_grad: Some(1.0),
            scale: [0.4, 1.0],
            color_jitter: 0.2,
            smoothing: 0.1,
            drop_path: 0.05,
            ..Self::default()
        }
    }

    /// This recipe with the keys of `overlay` laid over it; `origin` is who an error names.
    ///
    /// # Errors
    /// [`RecipeError::UnknownKey`], [`RecipeError::Value`].
    pub fn with(&self, overlay: &Overlay, origin: &str) -> Result<Self, RecipeError> {
        let known = keys();
        for key in overlay.keys() {
            if !known.contains(key) {
                let nearest = nearest(key, &known);
                return Err(RecipeError::UnknownKey { origin: origin.into(), key: key.clone(), nearest });
            }
        }
        let mut recipe = self.clone();
        for (key, value) in overlay {
            let mut table = recipe.to_table();
            table.insert(key.clone(), value.clone());
            recipe = table.try_into().map_err(|error: toml::de::Error| RecipeError::Value {
                origin: origin.into(),
                key: key.clone(),
                reason: error.message().trim().to_string(),
            })?;
        }
        Ok(recipe)
    }

    /// As a table of TOML; absent options are left out.
    pub fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("a recipe is made of numbers, texts and lists")
    }

    /// Images per update.
    pub fn global_batch(&self) -> usize {
        self.batch_size * self.grad_accum_steps
    }

    /// The learning rate at its peak: `lr`, or `lr_base` scaled by the images per update (timm's rule).
    pub fn peak_lr(&self) -> f64 {
        self.lr.unwrap_or_else(|| {
            let ratio = self.global_batch() as f64 / self.lr_base_size as f64;
            let adam_like = ["ada", "lamb"].iter().any(|kin| self.opt.contains(kin));
            let by_root = match self.lr_base_scale.as_deref() {
                Some(scale) => scale == "sqrt",
                None => adam_like,
            };
            self.lr_base * if by_root { ratio.sqrt() } else { ratio }
        })
    }
}

/// Every key a recipe may have.
pub fn keys() -> Vec<String> {
    /// Catches the names that the derived code asks for.
    struct Fields;
    impl<'de> serde::Deserializer<'de> for Fields {
        type Error = Names;
        fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
            Err(Names(&[]))
        }
        fn deserialize_struct<V: serde::de::Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Names> {
            Err(Names(fields))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    #[derive(Debug)]
    struct Names(&'static [&'static str]);
    impl std::fmt::Display for Names {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:?}", self.0)
        }
    }
    impl std::error::Error for Names {}
    impl serde::de::Error for Names {
        fn custom<T: std::fmt::Display>(_: T) -> Self {
            Self(&[])
        }
    }
    match Recipe::deserialize(Fields) {
        Err(Names(fields)) => fields.iter().map(|field| (*field).to_string()).collect(),
        Ok(_) => unreachable!("the deserializer above yields no value"),
    }
}

fn nearest(key: &str, known: &[String]) -> Option<String> {
    let key = key.replace('-', "_");
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(&key, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.7)
        .map(|(_, name)| name.clone())
}

fn or_built_in(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("did you mean '{name}'?"),
        None => {
            format!("built in are {}", BUILTIN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "))
        }
    }
}
