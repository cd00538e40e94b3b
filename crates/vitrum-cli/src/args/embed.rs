//! Arguments of `vitrum embed`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::common::ImagesArgs;

/// File format of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EmbedFormat {
    /// One tensor `features` [N, D], with the files' names in the metadata.
    Safetensors,
    /// A NumPy array [N, D].
    Npy,
    /// A line of JSON per image.
    #[value(name = "jsonl", alias = "json")]
    JsonLines,
}

/// Kind of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EmbedKind {
    /// One vector per image: the input of the head.
    Pooled,
    /// All tokens, [N, T, D].
    Tokens,
}

/// `vitrum embed`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
vitrum embed photos/ -m model/ --output features.npy\n  \
vitrum embed a.jpg b.jpg -m model/ --normalize > vectors.jsonl")]
pub struct EmbedArgs {
    /// Images and model.
    #[command(flatten)]
    pub input: ImagesArgs,
    /// The file to write [default: JSON lines to stdout].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Format [default: by the output's extension, otherwise jsonl].
    #[arg(long, value_enum)]
    pub format: Option<EmbedFormat>,
    /// Kind of features.
    #[arg(long, value_enum, default_value_t = EmbedKind::Pooled)]
    pub kind: EmbedKind,
    /// Divide each vector by its length.
    #[arg(long)]
    pub normalize: bool,
}
