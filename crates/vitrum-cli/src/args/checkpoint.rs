//! Arguments of `vitrum checkpoint`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::common::Format;
use super::values::parse_tolerance;

/// Layout of a converted checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// timm's hub folder: config.json and model.safetensors.
    Timm,
    /// Hugging Face's folder: config.json, preprocessor_config.json and model.safetensors.
    #[value(name = "hf", alias = "huggingface")]
    HuggingFace,
    /// A folder for vitrum: timm's if timm can express the model, else the whole configuration in config.json.
    Vitrum,
}

/// Element type of written weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightDtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit brain floats.
    Bf16,
}

/// `vitrum checkpoint`.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Tensors, types, statistics, dialect.
    #[command(
        after_help = "Examples:\n  vitrum checkpoint inspect model.safetensors\n  vitrum checkpoint inspect B_16.npz --format json\n  \
vitrum checkpoint inspect mine.pt --suggest-keys > keys.toml\n  \
vitrum checkpoint inspect mine.pt --keys keys.toml"
    )]
    Inspect {
        /// A file of weights, or a folder.
        path: PathBuf,
        /// Also minimum, maximum, mean and deviation of every tensor.
        #[arg(long)]
        stats: bool,
        /// Which of several sets of weights to describe, by its prefix.
        #[arg(long, value_name = "NAME", alias = "weights-key")]
        weight_set: Option<String>,
        /// A key file, for tensor names that no dialect has.
        #[arg(long, value_name = "FILE.toml")]
        keys: Option<PathBuf>,
        /// Print a first key file, and nothing else.
        #[arg(long, conflicts_with_all = ["keys", "stats", "format"])]
        suggest_keys: bool,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Convert from any dialect to a folder that timm, transformers or vitrum loads.
    #[command(after_help = "Examples:\n  \
vitrum checkpoint convert B_16.npz out/ -m vit_base_patch16_224 --to timm\n  \
vitrum checkpoint convert timm-folder/ out/ --to hf --dtype f16")]
    Convert {
        /// A file of weights, or a folder with its card.
        input: PathBuf,
        /// The folder to write.
        output: PathBuf,
        /// The model, if the input has no card: a name or a folder.
        #[arg(short, long)]
        model: Option<String>,
        /// Which of several sets of weights in the file, by its prefix.
        #[arg(long, value_name = "NAME", alias = "weights-key")]
        weight_set: Option<String>,
        /// A key file, for tensor names that no dialect has and fields that tensors do not show.
        #[arg(long, value_name = "FILE.toml")]
        keys: Option<PathBuf>,
        /// Only the encoder of a model for pretraining: what timm has of a masked autoencoder.
        #[arg(long)]
        encoder: bool,
        /// Layout to write.
        #[arg(long, value_enum, default_value_t = Layout::Timm)]
        to: Layout,
        /// With `--to timm`: use the epsilon of timm's architecture if timm's layout cannot hold the model's own, and
        /// report the effect.
        #[arg(long)]
        timm_epsilon: bool,
        /// Element type to write.
        #[arg(long, value_enum, default_value_t = WeightDtype::F32)]
        dtype: WeightDtype,
        /// Write into a folder that is not empty.
        #[arg(long)]
        overwrite: bool,
    },
    /// Differences between two files of weights; exit 3 if there are any.
    Diff {
        /// One file or folder.
        a: PathBuf,
        /// Another.
        b: PathBuf,
        /// Values count as equal if they differ by at most this share of the largest value.
        #[arg(long, default_value_t = 0.0, value_parser = parse_tolerance)]
        tolerance: f64,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Verify a file: structure, finite values, checksum.
    Verify {
        /// A file of weights, or a folder.
        path: PathBuf,
        /// The expected SHA-256.
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}
