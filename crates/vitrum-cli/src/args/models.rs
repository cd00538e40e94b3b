//! Arguments of `vitrum models`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::common::Format;
use super::values::{Size, parse_pair, parse_size};

/// `vitrum models`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Names, sizes, parameters, multiply-accumulates.
    #[command(
        after_help = "Examples:\n  vitrum models list\n  vitrum models list 'vit_*_patch14_*' --format csv"
    )]
    List {
        /// Only matching names; * matches any text.
        filter: Option<String>,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// One model: configuration, preprocessing, published weights.
    Info {
        /// A name.
        name: String,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// The walk from image to logits: shape, parameters and multiplications of every layer.
    Shapes(ShapesArgs),
    /// The steps from ResNet-50 to ConvNeXt-T: what each one changes, its size, and the paper's accuracy.
    Ladder(LadderArgs),
}

/// `vitrum models ladder`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every step is a model: ladder_resnet50, ladder_stage_ratio, …, ladder_downsample.\n\n\
Examples:\n  \
vitrum models ladder\n  \
vitrum models ladder --format csv --plot ladder.svg"
)]
pub struct LadderArgs {
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Also draw the ladder to a file, .svg or .png.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// Format of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShapesFormat {
    /// A table for people.
    Text,
    /// One JSON document.
    Json,
    /// A table in Markdown.
    Markdown,
}

/// `vitrum models shapes`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
vitrum models shapes vit_base_patch16_224\n  \
vitrum models shapes vit_base_patch16_224 --img-size 384 --format markdown\n  \
vitrum models shapes --img-size 256 --patch-size 32 --embed-dim 1024 --depth 6 --num-heads 16")]
pub struct ShapesArgs {
    /// A name.
    #[arg(default_value = "vit_base_patch16_224")]
    pub name: String,
    /// Image size in pixels, N or HxW.
    #[arg(long, value_parser = parse_size, value_name = "N|HxW", alias = "imgsz")]
    pub img_size: Option<Size>,
    /// Patch size in pixels, N or HxW.
    #[arg(long, value_parser = parse_size, value_name = "N|HxW")]
    pub patch_size: Option<Size>,
    /// Channels of the image.
    #[arg(long, value_name = "C")]
    pub in_chans: Option<usize>,
    /// Width of a token.
    #[arg(long, value_name = "D")]
    pub embed_dim: Option<usize>,
    /// Number of blocks.
    #[arg(long, value_name = "L")]
    pub depth: Option<usize>,
    /// Heads of attention.
    #[arg(long, value_name = "A")]
    pub num_heads: Option<usize>,
    /// Width of the MLP over width of a token.
    #[arg(long, value_name = "F")]
    pub mlp_ratio: Option<f64>,
    /// Number of classes.
    #[arg(long, value_name = "K")]
    pub num_classes: Option<usize>,
    /// Other fields by timm's names: --model-kwargs class_token=false global_pool=avg.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = parse_pair)]
    pub model_kwargs: Vec<(String, String)>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = ShapesFormat::Text)]
    pub format: ShapesFormat,
}
