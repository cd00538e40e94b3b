//! Everything that a training run depends on, in timm's words.
//!
//! A recipe is a TOML file of flat keys: the long flags of timm's `train.py`, with `_` instead of `-`. It states only
//! what differs from the defaults. Flags of the command line override it. The result is written to the run's `args.toml`,
//! which is again a recipe. An unknown key is an error that names the nearest known one.

mod builtin;
mod check;
mod defaults;
mod error;
mod model;
mod read;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use builtin::{BUILTIN, builtin};
pub use check::{DEVICES, METRICS, SCHEDULES};
pub use error::RecipeError;
use error::{did_you_mean, nearest};
pub use read::{Overlay, keys, parse, read};
use serde::{Deserialize, Serialize};
pub use values::{Every, ImgSize, Span};

use super::task::Task;
pub use crate::data::train_set::Cache;
pub use crate::tasks::mask::MaskKind;
pub use crate::train::regression::RegressionLoss;

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
    /// Share of the training images that is set aside for validation if there is no validation part; per class if
    /// images have one class.
    pub val_fraction: f64,
    /// Share of the training images to use; per class if images have one class.
    pub fraction: f64,
    /// File of the class names, in the order of their numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_map: Option<PathBuf>,
    /// Folder that the paths of a table are relative to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_dir: Option<PathBuf>,
    /// Columns of a table that hold the targets of `multilabel` and `regress`; by default those of the usual names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_columns: Vec<String>,
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
    /// What the model is trained for: `classify`, `multilabel`, `regress` or `pretrain`.
    pub task: String,
    /// The loss of `regress`: `mse`, `l1` or `smooth_l1`.
    #[serde(skip_serializing_if = "RegressionLoss::is_default")]
    pub regression_loss: RegressionLoss,
    /// A name of the catalogue, or a place of weights.
    pub model: String,
    /// Initial weights: a folder, a file, or `hf:ORG/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<String>,
    /// A key file for those weights, if no dialect knows their names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// Number of classes, or of outputs; by default the data's.
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
    /// Parameters to freeze; `*` matches any text. Batch norms whose running statistics match keep and use them.
    pub freeze: Vec<String>,
    /// Train only the head. Batch norms keep and use their running statistics.
    pub linear_probe: bool,
    /// Freeze all batch norms: they use and keep their running statistics, and their weight and bias are not trained.
    pub freeze_bn: bool,
    /// Rank of low-rank updates to the blocks' weight matrices; 0: none.
    pub lora_rank: usize,
    /// Scale of the low-rank updates, times the rank.
    pub lora_alpha: f64,

    // ── pretraining ──
    /// How `pretrain` learns: `mae`, `mpp` or `simmim`; by default the model's own way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Share of the patches that are masked; by default the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_ratio: Option<f64>,
    /// Which patches are masked: `random`, `block` or `grid`.
    pub mask_kind: MaskKind,
    /// Whether the targets are pixels normalised within their patch; by default as the model says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_pix_loss: Option<bool>,
    /// Width of the decoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder_embed_dim: Option<usize>,
    /// Blocks of the decoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder_depth: Option<usize>,
    /// Heads of the decoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder_num_heads: Option<usize>,
    /// Epochs between pictures of predicted validation images; 0: none.
    pub picture_interval: usize,

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
    /// `adamw`, `sgd`, `lamb`, `lars`, `lion`, `adafactor`, `muon`, …
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
    /// Label smoothing; `regress` has none.
    pub smoothing: f64,
    /// Binary cross entropy: one decision per class. `multilabel` always has it.
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
    /// The score that chooses the best checkpoint. `classify`: `top1`, `top5` or `loss`; `multilabel`: `map`, `f1`,
    /// `exact` or `loss`; `regress`: `mae`, `rmse`, `r2` or `loss`. With another task, the default `top1` means its first
    /// score: `map` for `multilabel`, `mae` for `regress` ([`Recipe::resolved`]).
    pub eval_metric: String,
    /// Save and stop after this long: `3.5h`, `90min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Span>,
    /// `auto`, `cpu`, `vulkan`, …
    pub device: String,
    /// Train on the first few batches over and over, this many, to see that the model can learn at all; 0: off.
    pub overfit_batches: usize,
}

impl Recipe {
    /// The recipe with the task's own score as `eval_metric`, where that is the default and the task has no such score.
    pub fn resolved(self) -> Self {
        let own = self.task().map(|task| task.metric().name);
        match own {
            Ok(own) if self.eval_metric == Task::Classify.metric().name => {
                Self { eval_metric: own.into(), ..self }
            }
            _ => self,
        }
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
