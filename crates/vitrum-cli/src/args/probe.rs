//! Arguments of `vitrum probe`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use vitrum::probe::{Pool, Shots};

use super::common::{Format, LimitArgs, ModelArgs, PreprocessArgs};
use super::values::{parse_max_bad, parse_pair};

/// A way to read features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Method {
    /// The classes of the nearest training images.
    Knn,
    /// Few-shot linear regression in closed form.
    Ridge,
    /// A linear probe, trained by LARS.
    Linear,
    /// Fine-tuning of the whole model.
    Finetune,
}

/// Distances between features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetricName {
    /// Angles; votes are weighted by them.
    Cosine,
    /// Lengths of differences; votes are equal.
    Euclidean,
}

/// `vitrum probe`.
#[derive(Debug, Args)]
#[command(
    after_help = "DATA: a folder of class folders (train/, val/), labels.csv or .tsv, cifar-10-batches-bin or\n\
cifar-100-binary, MNIST idx(.gz) files, a .tar of class folders, WebDataset shards, or demo:N.\n\n\
Everything random follows --seed. Features are computed once and kept in --cache.\n\n\
Examples:\n  \
vitrum probe flowers/ -m hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k\n  \
vitrum probe flowers/ -m model/ --method knn --k 1,5,20 --pool both --format json\n  \
vitrum probe flowers/ -m model/ --method linear,finetune --recipe-overrides epochs=4 lr=1e-4 --plot probe.svg"
)]
pub struct ProbeArgs {
    /// Labelled images.
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// Methods: knn, ridge, linear, finetune.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "knn,ridge,linear",
        value_name = "NAME,…"
    )]
    pub method: Vec<Method>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Draw the table as a picture.
    #[arg(long, value_name = "FILE.svg|png")]
    pub plot: Option<PathBuf>,
    /// Folder of the features and of the fine-tuning's run.
    #[arg(long, value_name = "DIR", default_value = "runs/probe")]
    pub output: PathBuf,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The dataset.
    #[command(flatten)]
    pub parts: PartArgs,
    /// The features.
    #[command(flatten)]
    pub features: FeatureArgs,
    /// Preprocessing.
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    /// Nearest neighbours.
    #[command(flatten)]
    pub knn: KnnArgs,
    /// Regression.
    #[command(flatten)]
    pub ridge: RidgeArgs,
    /// The linear probe.
    #[command(flatten)]
    pub linear: LinearArgs,
    /// Changes to the recipe of `finetune`, by its keys: --recipe-overrides epochs=4 lr=1e-4.
    #[arg(
        long, value_name = "KEY=VALUE", num_args = 1.., action = clap::ArgAction::Append, value_parser = parse_pair,
        help_heading = "Fine-tuning"
    )]
    pub recipe_overrides: Vec<(String, String)>,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// The parts of a dataset, as in training.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub struct PartArgs {
    /// Validation images, if they are elsewhere.
    #[arg(long, value_name = "DATA")]
    pub val_data: Option<PathBuf>,
    /// Name of the part to learn from, if there are several.
    #[arg(long, value_name = "NAME", default_value = "train")]
    pub train_split: String,
    /// Name of the part to score on.
    #[arg(long, value_name = "NAME", default_value = "validation")]
    pub val_split: String,
    /// Share of the training images set aside for validation, per class, if there is no validation part.
    #[arg(long, value_name = "F", default_value_t = 0.1)]
    pub val_fraction: f64,
    /// Share of the training images used, per class.
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    pub fraction: f64,
    /// Class names in the order of their numbers, one per line.
    #[arg(long, value_name = "FILE")]
    pub class_map: Option<PathBuf>,
    /// Base folder of a table's relative paths.
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// Threads that decode images; 0: one per core.
    #[arg(short = 'j', long, default_value_t = 0, hide_default_value = true)]
    pub workers: usize,
    /// Unreadable images to skip, a number or a share below 1; one more ends the run.
    #[arg(long, value_name = "N|F", default_value = "0.001", value_parser = parse_max_bad)]
    pub max_bad: f64,
}

/// How features are computed and kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "Features")]
pub struct FeatureArgs {
    /// The vector of an image: head (what the head reads), token (class token), avg (mean of the patches) or both.
    #[arg(long, value_name = "POOL", default_value = "head")]
    pub pool: Pool,
    /// Images per forward pass.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub feature_batch_size: usize,
    /// Folder that keeps features [default: features/ in --output].
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub cache: Option<PathBuf>,
    /// Neither read nor keep features.
    #[arg(long)]
    pub no_cache: bool,
    /// Largest size of all features, in MiB [default: three quarters of the free memory].
    #[arg(long, value_name = "MIB")]
    pub max_memory: Option<u64>,
}

/// Options of `--method knn`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Nearest neighbours")]
pub struct KnnArgs {
    /// Numbers of neighbours [default: those of 1, 5 and 20 that the training images allow].
    #[arg(long, value_name = "K,…", value_delimiter = ',')]
    pub k: Vec<usize>,
    /// Distances: cosine, euclidean.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "cosine,euclidean",
        value_name = "NAME,…"
    )]
    pub metric: Vec<MetricName>,
    /// Temperature of the votes by cosine.
    #[arg(long, value_name = "T", default_value_t = 0.07)]
    pub temperature: f64,
}

/// Options of `--method ridge`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Few-shot regression")]
pub struct RidgeArgs {
    /// Training images of each class: numbers, or all.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,5,10,all")]
    pub shots: Vec<Shots>,
    /// Draws of few shots.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub draws: usize,
    /// Regularisation; of several values the best on held-out training images is taken.
    #[arg(long, value_name = "L2,…", value_delimiter = ',', default_value = "1,32,1024,32768")]
    pub l2: Vec<f64>,
    /// Do not whiten the features.
    #[arg(long)]
    pub no_whiten: bool,
    /// The number that stands for the bias among the features; 0: no bias.
    #[arg(long, value_name = "B", default_value_t = 100.0, allow_negative_numbers = true)]
    pub bias: f64,
}

/// Options of `--method linear`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Linear probe")]
pub struct LinearArgs {
    /// Epochs, warm-up included.
    #[arg(long, value_name = "N", default_value_t = 90)]
    pub epochs: usize,
    /// Epochs of the warm-up.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub warmup_epochs: usize,
    /// Images per update.
    #[arg(short, long, value_name = "N", default_value_t = 256)]
    pub batch_size: usize,
    /// Learning rate for a batch of 256; of several values the best on held-out training images is taken. MAE has 0.1.
    #[arg(long, value_name = "LR,…", value_delimiter = ',', default_value = "0.1,1,10,100")]
    pub blr: Vec<f64>,
    /// Optimiser, as in training.
    #[arg(long, value_name = "NAME", default_value = "lars_moco")]
    pub opt: String,
    /// Weight decay.
    #[arg(long, value_name = "F", default_value_t = 0.0)]
    pub weight_decay: f64,
}
