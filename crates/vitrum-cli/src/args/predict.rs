//! Arguments of `vitrum predict`.

use std::path::PathBuf;

use clap::Args;

use super::common::{Format, ImagesArgs};

/// `vitrum predict`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
vitrum predict demo\n  \
vitrum predict cat.jpg dog.png -m hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k\n  \
vitrum predict photos/ -m model/ --topk 1 --format csv > answers.csv\n  \
vitrum predict x.jpg -m vit_base_patch16_224 --checkpoint B_16.npz --format json")]
pub struct PredictArgs {
    /// Images and model.
    #[command(flatten)]
    pub input: ImagesArgs,
    /// Number of classes per image; a model of numbers gives all of them.
    #[arg(long, default_value_t = 5)]
    pub topk: usize,
    /// Names of the classes, one per line; replaces the card's.
    #[arg(long, value_name = "FILE")]
    pub class_map: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
