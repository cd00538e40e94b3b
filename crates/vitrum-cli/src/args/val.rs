//! Arguments of `vitrum val`.

use std::path::PathBuf;

use clap::Args;

use super::common::{Format, LimitArgs, ModelArgs, PreprocessArgs};
use super::values::{parse_max_bad, parse_percent};

/// `vitrum val`.
#[derive(Debug, Args)]
#[command(
    after_help = "DATA: a folder of class folders, labels.csv or .tsv with columns file and class_index (or class),\n\
cifar-10-batches-bin or cifar-100-binary, MNIST idx(.gz) files, a .tar of class folders, WebDataset shards, or demo. A model of several classes per image or of\n\
numbers needs a table of them.\n\n\
Examples:\n  \
vitrum val imagenet/val -m hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k\n  \
vitrum val labels.csv --image-dir images -m model/ --format json\n  \
vitrum val flowers/test -m model/ --min-top1 95 --results-file out.csv"
)]
pub struct ValArgs {
    /// Labelled images.
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Images per forward pass.
    #[arg(short, long, default_value_t = 32)]
    pub batch_size: usize,
    /// Threads that decode images; 0: one per core.
    #[arg(short = 'j', long, default_value_t = 0, hide_default_value = true)]
    pub workers: usize,
    /// Folder of the files in a CSV [default: the CSV's own].
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// Column of a table with the targets of a model of several classes or of numbers; may be given repeatedly
    /// [default: the model's own, or those of the usual names].
    #[arg(long, value_name = "NAME", action = clap::ArgAction::Append)]
    pub target_columns: Vec<String>,
    /// Class names in the order of their numbers, one per line.
    #[arg(long, value_name = "FILE")]
    pub class_map: Option<PathBuf>,
    /// Part of the data: train, validation, test.
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Only the first N images.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Unreadable images to skip, a number or a share below 1; one more ends the run.
    #[arg(long, value_name = "N|F", default_value = "0.001", value_parser = parse_max_bad)]
    pub max_bad: f64,
    /// Per-image results: file,label,pred,prob; of several classes file,labels,preds; of numbers
    /// file,index,label,value,pred.
    #[arg(long, value_name = "FILE.csv")]
    pub results_file: Option<PathBuf>,
    /// Exit with 3 if top-1 is below this percentage; for a model of one class per image.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub min_top1: Option<f64>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Preprocessing.
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
}
