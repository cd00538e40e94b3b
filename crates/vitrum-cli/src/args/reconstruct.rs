//! Arguments of `vitrum reconstruct`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::common::{Format, ImagesArgs};

/// Which patches are masked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MaskKindName {
    /// Any, all equally likely.
    #[default]
    Random,
    /// Rectangles.
    Block,
    /// All but one of each square of patches.
    Grid,
}

/// `vitrum reconstruct`.
#[derive(Debug, Args)]
#[command(
    after_help = "The picture has four columns: the image, the image with grey in the place of masked patches, the \
                 prediction\nof every patch, and the image with the predictions of masked patches.\n\
                 \n\
                 Examples:\n  \
                 vitrum reconstruct cat.jpg -m runs/pretrain/mae/model -o cat.png\n  \
                 vitrum reconstruct photos/ -m hf:facebook/vit-mae-base --mask-ratio 0.9 --seed 1 -o photos.png\n  \
                 vitrum reconstruct cat.jpg -m runs/pretrain/mae/model --reveal -o cat.png"
)]
pub struct ReconstructArgs {
    /// Images and model.
    #[command(flatten)]
    pub input: ImagesArgs,
    /// The picture to write, .png or .jpg.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Share of the patches that are masked [default: the model's].
    #[arg(long, value_name = "F")]
    pub mask_ratio: Option<f64>,
    /// Which patches are masked.
    #[arg(long, value_enum, default_value_t = MaskKindName::Random)]
    pub mask_kind: MaskKindName,
    /// Several rows for each image: 95 % of the patches are masked, then fewer and fewer.
    #[arg(long)]
    pub reveal: bool,
    /// Replace an existing picture.
    #[arg(long)]
    pub overwrite: bool,
    /// Output format of the table of losses.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
