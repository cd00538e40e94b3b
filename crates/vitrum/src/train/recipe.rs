//! Everything that a training run depends on, in timm's words.
//!
//! A recipe is a TOML file of flat keys: the long flags of timm's `train.py`, with `_` instead of `-`. It states only
//! what differs from the defaults. Flags of the command line override it. The result is written to the run's `args.toml`,
//! which is again a recipe. An unknown key is an error that names the nearest known one.

mod builtin;
mod check;
mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use builtin::{BUILTIN, builtin};
pub use check::{DEVICES, METRICS, SCHEDULES};
use serde::{Deserialize, Serialize};

pub use crate::data::train_set::Cache;

/// How a student learns from a teacher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DistillationType {
    /// It does not learn from a teacher.
    #[default]
    None,
    /// Its probabilities approach the teacher's (Kullback-Leibler divergence).
    Soft,
    /// The teacher's most probable class is a label.
    Hard,
}

/// A training run. See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    // ── data ──
    /// Training images: a folder of class folders, a table, an archive, a binary set, or `demo`.
    pub data: String,
    /// Validation images, if they are elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_data: Option<String>,
    /// Name of the part to train on, if the data has several.
    pub train_split: String,
    /// Name of the part to validate on.
    pub val_split: String,
    /// Share of the training images that is set aside for validation, per class, if there is no validation part.
    pub val_fraction: f64,
    /// Share of the training images to use, per class.
    pub fraction: f64,
    /// File of the class names, in the order of their numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_map: Option<PathBuf>,
    /// Folder that the paths of a table are relative to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_dir: Option<PathBuf>,
    /// Threads that decode and augment; 0: one per core. Results do not depend on it.
    pub workers: usize,
    /// Whether decoded images stay in memory.
    pub cache: Cache,
    /// Read archives from beginning to end, and shuffle within a buffer; for disks that seek slowly.
    pub sequential: bool,
    /// Images in the shuffle buffer of an archive.
    pub shuffle_buffer: usize,
    /// Unreadable images to tolerate: a share below 1, or a number from 1 on.
    pub max_bad: f64,

    // ── model ──
    /// What the model is trained for: `classify`.
    pub task: String,
    /// A name of the catalogue, or a place of weights.
    pub model: String,
    /// Initial weights: a folder, a file, or `hf:ORG/NAME`.
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
    /// Share of patches to drop.
    pub patch_drop: f64,
    /// Stochastic depth: drop rate of the last block.
    pub drop_path: f64,
    /// Factor on the weights of a fresh head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_init_scale: Option<f64>,
    /// Bias of a fresh head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_init_bias: Option<f64>,
    /// Other fields of the model's configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub model_kwargs: BTreeMap<String, toml::Value>,
    /// Parameters to freeze; `*` matches any text.
    pub freeze: Vec<String>,
    /// Train only the head.
    pub linear_probe: bool,
    /// Rank of low-rank updates to the blocks' weight matrices; 0: none.
    pub lora_rank: usize,
    /// Scale of the low-rank updates, times the rank.
    pub lora_alpha: f64,

    // ── distillation ──
    /// The teacher: a folder, a file of weights, a name of the catalogue, or `hf:ORG/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// A file of weights for a teacher that is a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_checkpoint: Option<PathBuf>,
    /// How the model learns from the teacher: `none`, `soft` or `hard`.
    pub distillation_type: DistillationType,
    /// The teacher's share of the loss.
    pub distillation_alpha: f64,
    /// Temperature of `soft`.
    pub distillation_tau: f64,
    /// Keep the teacher's answer to each image; nothing may be augmented then.
    pub cache_teacher: bool,

    // ── optimiser ──
    /// `adamw`, `sgd`, `lamb`, `lion`, `adafactor`, `muon`, …
    pub opt: String,
    /// Learning rate; by default from `lr_base`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Learning rate for a batch of `lr_base_size`.
    pub lr_base: f64,
    /// Batch size that `lr_base` is given for.
    pub lr_base_size: usize,
    /// Scaling of `lr_base`: `linear` or `sqrt`; by default `sqrt` for Adam-like optimisers, else `linear`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_base_scale: Option<String>,
    /// Weight decay.
    pub weight_decay: f64,
    /// Momentum of SGD-like optimisers.
    pub momentum: f64,
    /// Betas; by default the optimiser's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_betas: Option<Vec<f64>>,
    /// Epsilon; by default the optimiser's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_eps: Option<f64>,
    /// Limit for clipping gradients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_grad: Option<f64>,
    /// Clipping by `norm` (of all gradients together), `value` or `agc`.
    pub clip_mode: String,
    /// Learning rate of a layer, divided by that of the next layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_decay: Option<f64>,
    /// More parameters without weight decay, besides vectors, tokens and positions; `*` matches any text.
    pub no_weight_decay: Vec<String>,

    // ── schedule ──
    /// `cosine`, `step`, `multistep`, `poly`, `plateau`, `linear` or `none`.
    pub sched: String,
    /// Advance the schedule at every update instead of every epoch.
    pub sched_on_updates: bool,
    /// Epochs of the schedule; the run adds `cooldown_epochs`.
    pub epochs: usize,
    /// End after this many updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Epochs of warm-up.
    pub warmup_epochs: f64,
    /// Updates of warm-up; overrides `warmup_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Learning rate at the start of the warm-up.
    pub warmup_lr: f64,
    /// Begin the schedule after the warm-up instead of during it.
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
    /// Epochs without progress before `plateau` lowers the rate.
    pub patience_epochs: usize,
    /// Stop after this many epochs without progress; 0: never.
    pub patience: usize,
    /// `k` of `cosine` and `poly`.
    pub lr_k_decay: f64,

    // ── augmentation ──
    /// Nothing random: resize and crop as in validation.
    pub no_aug: bool,
    /// For small images: pad by this many pixels, crop at random and flip, instead of random resized crops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pad: Option<u32>,
    /// Padding: `constant` (black) or `reflect`.
    pub crop_pad_mode: String,
    /// Range of a random resized crop's area, as a share of the image.
    pub scale: [f64; 2],
    /// Range of the crop's aspect ratio, width over height.
    pub ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub hflip: f64,
    /// Probability of a vertical flip.
    pub vflip: f64,
    /// Largest change of brightness, contrast and saturation.
    pub color_jitter: f64,
    /// Probability of that change; by default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_jitter_prob: Option<f64>,
    /// Probability of grey.
    pub grayscale_prob: f64,
    /// Probability of a blur.
    pub gaussian_blur_prob: f64,
    /// `rand-m9-mstd0.5-inc1`, `augmix-…`, `original`, `v0`, `3a`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aa: Option<String>,
    /// Repeated augmentation: use each image this many times in a row; 0: once.
    pub aug_repeats: usize,
    /// Probability of random erasing.
    pub reprob: f64,
    /// Fill of erased parts: `const`, `rand` or `pixel`.
    pub remode: String,
    /// Erased parts per image.
    pub recount: usize,
    /// Alpha of mixup.
    pub mixup: f64,
    /// Alpha of CutMix.
    pub cutmix: f64,
    /// Range of a CutMix box's sides, as shares of the image's; overrides `cutmix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutmix_minmax: Option<[f64; 2]>,
    /// Probability that a batch is mixed.
    pub mixup_prob: f64,
    /// Probability of CutMix if both are on.
    pub mixup_switch_prob: f64,
    /// Unit that shares one draw of the mixing: `batch`, `pair` or `elem`.
    pub mixup_mode: String,
    /// No mixing from this epoch on; 0: always.
    pub mixup_off_epoch: usize,
    /// Label smoothing.
    pub smoothing: f64,
    /// Binary cross entropy: one decision per class.
    pub bce_loss: bool,
    /// With `bce_loss`, targets above this become 1 and others 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bce_target_thresh: Option<f64>,
    /// With `bce_loss`, sum over classes instead of mean.
    pub bce_sum: bool,
    /// Resampling of random crops: `random`, `bilinear`, `bicubic`, …
    pub train_interpolation: String,
    /// Resampling of validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<String>,
    /// Share of the resized side that validation crops.
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
    /// Images per batch; an update takes `grad_accum_steps` batches.
    pub batch_size: usize,
    /// Images per validation batch; by default `batch_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_batch_size: Option<usize>,
    /// Batches per update.
    pub grad_accum_steps: usize,
    /// Keep only each block's input, and recompute the rest in the backward pass.
    pub grad_checkpointing: bool,
    /// `none` or `bf16`.
    pub amp_dtype: String,

    // ── moving average ──
    /// Keep a moving average of the weights, and validate it too.
    pub model_ema: bool,
    /// Decay of the average per update.
    pub model_ema_decay: f64,
    /// Let the decay grow from 0.
    pub model_ema_warmup: bool,

    // ── run ──
    /// Folder of all runs.
    pub output: PathBuf,
    /// Name of this run's folder; by default the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    /// Write into an existing folder.
    pub exist_ok: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Batches between lines of the log.
    pub log_interval: usize,
    /// Epochs between validations.
    pub val_interval: usize,
    /// How often to save: `1epoch`, `500steps`, `10min`.
    pub checkpoint_every: Every,
    /// Checkpoints kept besides the best.
    pub checkpoint_hist: usize,
    /// The score that chooses the best checkpoint: `top1`, `top5` or `loss`.
    pub eval_metric: String,
    /// Save and stop after this long: `3.5h`, `90min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Span>,
    /// `auto`, `cpu`, `vulkan`, …
    pub device: String,
    /// Train on the first few batches over and over, this many, to see that the model can learn at all; 0: off.
    pub overfit_batches: usize,
}

impl Default for Recipe {
    /// timm's defaults, if it has one.
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
            task: "classify".into(),
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
            teacher: None,
            teacher_checkpoint: None,
            distillation_type: DistillationType::None,
            distillation_alpha: 0.5,
            distillation_tau: 1.0,
            cache_teacher: false,
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
    /// After this many epochs.
    Epochs(u64),
    /// After this many updates.
    Steps(u64),
    /// After this time.
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

/// An invalid recipe.
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
    /// The library has no recipe of this name.
    #[error("no recipe '{name}', neither a file nor one that is built in\nhint: {}", or_built_in(.nearest))]
    UnknownRecipe {
        /// The name.
        name: String,
        /// The most similar name.
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
    /// An unknown key.
    #[error("{origin}: unknown key '{key}'{hint}", hint = did_you_mean(.nearest))]
    UnknownKey {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// The most similar key.
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
    /// An unknown task.
    #[error("task '{name}' is not known: want {}{}", .known.join(", "), did_you_mean(.nearest))]
    UnknownTask {
        /// The name.
        name: String,
        /// The most similar name.
        nearest: Option<String>,
        /// Every name.
        known: Vec<String>,
    },
    /// An invalid value, or two values that contradict each other.
    #[error("{key} {reason}")]
    Field {
        /// The key.
        key: &'static str,
        /// The rest of a sentence that begins with the key.
        reason: String,
    },
}

/// Keys and values that override those of a recipe.
pub type Overlay = toml::Table;

/// Reads a recipe file.
///
/// # Errors
/// [`RecipeError`]: an I/O error, a syntax error, an unknown key or an invalid value.
pub fn read(path: &Path) -> Result<Overlay, RecipeError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| RecipeError::Io { path: path.to_path_buf(), source })?;
    parse(&text, &path.display().to_string())
}

/// Reads the text of a recipe; errors name `origin` as its source.
///
/// # Errors
/// [`RecipeError`]: a syntax error, an unknown key or an invalid value.
pub fn parse(text: &str, origin: &str) -> Result<Overlay, RecipeError> {
    let overlay: Overlay = toml::from_str(text)
        .map_err(|error| RecipeError::Syntax { origin: origin.into(), reason: error.to_string() })?;
    Recipe::default().with(&overlay, origin)?;
    Ok(overlay)
}

impl Recipe {
    /// The defaults of fine-tuning: for a pretrained model and a folder of a few hundred images.
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

    /// What `vitrum distill` does when nothing else is said: hard distillation, which DeiT's paper finds best.
    pub fn distill() -> Self {
        Self { distillation_type: DistillationType::Hard, ..Self::default() }
    }

    /// This recipe with the values of `overlay`; errors name `origin` as their source.
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

    /// The recipe as a TOML table, without absent options.
    pub fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("a recipe is made of numbers, texts and lists")
    }

    /// Images per update.
    pub fn global_batch(&self) -> usize {
        self.batch_size * self.grad_accum_steps
    }

    /// The peak learning rate: `lr`, or `lr_base` scaled by the images per update, as in timm.
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

/// Every key of a recipe.
pub fn keys() -> Vec<String> {
    /// Records the field names that the derived code asks for.
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

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("\nhint: did you mean '{name}'?")).unwrap_or_default()
}

fn or_built_in(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("did you mean '{name}'?"),
        None => {
            format!("built in are {}", BUILTIN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "))
        }
    }
}
