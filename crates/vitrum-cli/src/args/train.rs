//! Arguments of `vitrum train`, `vitrum finetune` and `vitrum distill`.

use clap::{Args, ValueEnum};
use vitrum::train::resume::Resume;

use super::flags::RecipeFlags;

/// Format of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// As timm writes them.
    #[default]
    Text,
    /// A JSON object per event.
    Json,
}

/// Whether to show a run full-screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Tui {
    /// If stderr is a terminal and the log lines are text.
    Auto,
    /// Always.
    On,
    /// Never.
    #[default]
    Off,
}

/// What follows the flags of `vitrum pretrain`.
pub const PRETRAIN: &str = "DATA: images in folders of any names, a table, an archive, a binary set, shards, or demo. Labels are not read.

The result, RUN/model, is the whole model: predictions, `vitrum reconstruct`, further pretraining. `vitrum finetune` and
`vitrum train --pretrained` take its encoder.

Recipes that are built in: pretrain/demo_mae, pretrain/cifar10_mae_tiny, pretrain/mae_vit_base_800ep. Recipes for what
follows: finetune/mae_vit_base, finetune/cifar10_from_mae.

Examples:
  vitrum pretrain photos/ -m mae_vit_tiny_patch4_32 --mask-ratio 0.75
  vitrum pretrain photos/ -m vit_tiny_patch16_224 --method mae --norm-pix-loss
  vitrum pretrain demo
  vitrum finetune flowers/ -m vit_tiny_patch16_224 --pretrained runs/pretrain/NAME/model --gp avg";

/// `vitrum train`, `vitrum finetune`, `vitrum pretrain`, `vitrum distill`.
#[derive(Debug, Args)]
#[command(
    after_help = "DATA: a folder of class folders (train/, val/), labels.csv or .tsv, cifar-10-batches-bin or\n\
cifar-100-binary, MNIST idx(.gz) files, a .tar of class folders, WebDataset shards, or demo.\n\n\
Values come from the defaults, then the files of -c in order, then the flags; later ones override.\n\
Recipes that are built in: demo, cifar/cifar10_test_vit_patch4, cifar/cifar10_vit_tiny_patch4,\n\
cifar/cifar100_vit_tiny_patch4, cifar/cifar10_resnet_64, cifar/cifar10_deit_64,\n\
finetune/small_folder, finetune/linear_probe, finetune/bit_hyperrule, finetune/beit_base,\n\
finetune/mae_vit_base, finetune/cifar10_from_mae,\n\
imagenet/resnet50, imagenet/resnet50_a2, imagenet/regnety_040, imagenet/convnext_tiny, imagenet/swin_tiny,\n\
imagenet/twins_svt_base, imagenet/cpvt_tiny,\n\
imagenet/hybrid_r26_s32_300ep, imagenet/deit_small, imagenet/deit_small_distilled,\n\
imagenet/pit_small, imagenet/pit_small_distilled, imagenet/t2t_vit_14, imagenet/t2t_vit_7,\n\
imagenet/augreg_s16_300ep, imagenet/bigvision_s16_90ep, imagenet/vit_b16_paper_scratch, imagenet/vit_b16_finetune_384,\n\
pretrain/demo_mae, pretrain/cifar10_mae_tiny, pretrain/mae_vit_base_800ep.\n\n\
Exit codes: 0 done, 1 run-time error, 2 usage, 75 stopped after saving: go on with --resume auto.\n\n\
Examples:\n  \
vitrum train demo\n  \
vitrum train flowers/ -m vit_tiny_patch16_224 --epochs 30 -b 64 --lr 5e-4 --model-ema\n  \
vitrum train imagenet/ -c imagenet/deit_small --show-recipe\n  \
vitrum train tags.csv --task multilabel\n  \
vitrum train prices.csv --task regress --target-columns price"
)]
pub struct TrainArgs {
    /// Training images.
    #[arg(value_name = "DATA", conflicts_with = "data")]
    pub positional: Option<String>,
    /// A recipe: a TOML file, or the name of a built-in one; later ones override earlier ones.
    #[arg(short, long = "config", alias = "recipe", value_name = "FILE|NAME")]
    pub config: Vec<String>,
    /// Print the resolved recipe as TOML, and stop.
    #[arg(long)]
    pub show_recipe: bool,
    /// Check the recipe, build the model's shapes, print the recipe, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Resume a stopped run. Without a value: from this run's newest checkpoint. auto: the same, or a new run if
    /// there is none. PATH: a run's folder, its checkpoints, or one of them.
    #[arg(long, value_name = "PATH|auto", num_args = 0..=1, default_missing_value = "",
          value_parser = |text: &str| text.parse::<Resume>(),
          aliases = ["resume-from-checkpoint", "resume_from_checkpoint"])]
    pub resume: Option<Resume>,
    /// Resume even if arguments that affect the numbers have changed.
    #[arg(long)]
    pub allow_changed_args: bool,
    /// Show the run full-screen.
    #[arg(long, value_enum, default_value_t = Tui::Off)]
    pub tui: Tui,
    /// Format of the log lines.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Number of threads; 0: all.
    #[arg(long, env = "VITRUM_THREADS", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Never use the network; use only the cache.
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
    /// The recipe's keys.
    #[command(flatten)]
    pub recipe: RecipeFlags,
}
