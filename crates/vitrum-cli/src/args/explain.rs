//! Arguments of `vitrum explain`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::common::{Format, ImagesArgs};
use super::values::{Size, parse_size};

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExplainMethod {
    /// Attention of every layer and head.
    Attention,
    /// Attention through all layers (arXiv:2005.00928); knows no class.
    Rollout,
    /// Attention through all layers, weighted by gradients, for the class (Chefer, arXiv:2103.15679).
    #[value(alias = "chefer")]
    Relevance,
    /// Feature maps, weighted by gradients, for the class (arXiv:1610.02391).
    #[value(alias = "gradcam")]
    GradCam,
    /// Gradients of pixels on the way from a baseline to the image (arXiv:1703.01365).
    #[value(alias = "ig")]
    IntegratedGradients,
    /// What the class loses when a part of the image is hidden (arXiv:1311.2901).
    Occlusion,
    /// Principal components of patch features as colours, the same for all images.
    #[value(alias = "pca")]
    Colours,
    /// Similarity of all patches to one.
    Similarity,
    /// Principal components of the first layer's filters.
    Filters,
    /// Similarity of position embeddings.
    Positions,
    /// Mean attention distance by layer and head, over all images.
    Distances,
    /// All that the model has.
    All,
}

/// How maps of heads become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FusionName {
    /// Their mean.
    Mean,
    /// The largest weight.
    Max,
    /// The smallest weight.
    Min,
}

/// Where the way of integrated gradients begins, and what hides a part of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BaselineName {
    /// Black.
    Black,
    /// White.
    White,
    /// The mean colour of the model's training images.
    Mean,
    /// The image, blurred.
    Blur,
}

/// Row and column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub [usize; 2]);

fn parse_place(text: &str) -> Result<Place, String> {
    let numbers = text
        .split_once(',')
        .and_then(|(row, column)| Some(Place([row.trim().parse().ok()?, column.trim().parse().ok()?])));
    numbers.ok_or_else(|| format!("'{text}' is not ROW,COLUMN, such as 3,7"))
}

/// `vitrum explain`.
#[derive(Debug, Args)]
#[command(after_help = "Without --method: rollout, relevance and grad-cam, those that the model has.\n\
                  The folder gets IMAGE.png (all maps beside the image), IMAGE-attention.png (a map for each layer and\n\
                  head), IMAGE.json (the numbers), filters.png, positions.png, distances.png, and index.html: one page\n\
                  with everything, and sliders for layer and head.\n\
                  \n\
                  Examples:\n  \
                  vitrum explain demo\n  \
                  vitrum explain cat.jpg -m hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k\n  \
                  vitrum explain cat.jpg -m resnet/ --method grad-cam,occlusion --target 'tabby'\n  \
                  vitrum explain photos/ -m vit/ --method all -o explained/")]
pub struct ExplainArgs {
    /// Images and model.
    #[command(flatten)]
    pub input: ImagesArgs,
    /// What is shown, one or several.
    #[arg(long, value_enum, value_name = "METHOD", value_delimiter = ',')]
    pub method: Vec<ExplainMethod>,
    /// The class that is explained, by number or name [default: the best one of each image].
    #[arg(long, value_name = "CLASS")]
    pub target: Option<String>,
    /// Folder of the results.
    #[arg(short, long, value_name = "DIR", default_value = "explained")]
    pub output: PathBuf,
    /// Replace files that are there.
    #[arg(long)]
    pub overwrite: bool,
    /// A patch by row and column: attention and similarity of this one [default: attention of the class token, or the
    /// mean of all; similarity to the middle].
    #[arg(long, value_name = "ROW,COLUMN", value_parser = parse_place)]
    pub patch: Option<Place>,
    /// Grad-CAM: the block whose output is shown, from 0 [default: the last one that has patches].
    #[arg(long, value_name = "N")]
    pub block: Option<usize>,
    /// Rollout: how the maps of the heads become one.
    #[arg(long, value_enum, default_value_t = FusionName::Mean)]
    pub head_fusion: FusionName,
    /// Rollout: share of the smallest weights of each layer that are left out.
    #[arg(long, value_name = "F", default_value_t = 0.0)]
    pub discard_ratio: f64,
    /// Integrated gradients: number of steps.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub steps: usize,
    /// Where integrated gradients begin [default: black], and what hides a part of the image [default: mean].
    #[arg(long, value_enum)]
    pub baseline: Option<BaselineName>,
    /// Occlusion: size of the hidden part in pixels [default: a seventh of the image].
    #[arg(long, value_name = "N|HxW", value_parser = parse_size)]
    pub window: Option<Size>,
    /// Occlusion: pixels from one part to the next [default: half of the part].
    #[arg(long, value_name = "N|HxW", value_parser = parse_size)]
    pub stride: Option<Size>,
    /// Number of classes named for each image.
    #[arg(long, default_value_t = 5)]
    pub topk: usize,
    /// Output format of the list of results on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
