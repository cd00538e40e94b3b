//! `vitrum quantize` as typed.

use std::path::PathBuf;

use clap::Args;

use super::common::{DeviceArgs, Format};

/// `vitrum quantize`.
#[derive(Debug, Args)]
#[command(
    after_help = "The folder holds model.safetensors with `blocks.N.attn.qkv.weight` as I8 [d_out, d_in] and `.weight_scale`\n\
F32 [d_out] for the four linear layers of each block, everything else as it was in F32, and config.json.\n\
predict, val, embed, forward and bench take it as any model.\n\n\
Examples:\n  \
vitrum quantize -m hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k -o tiny-int8/ --images photos/\n  \
vitrum quantize -m model/ -o model-int8/ --skip blocks.0.* --skip *.mlp.fc2 --format json"
)]
pub struct QuantizeArgs {
    /// A folder with config.json and weights, a file of weights, a name (with --checkpoint), or hf:ORG/NAME.
    #[arg(short, long, env = "VITRUM_MODEL", value_name = "DIR|FILE|NAME|hf:ID")]
    pub model: String,
    /// Weights instead of those that come with the model.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Which of several sets of weights in the file, by the words in front of its tensors.
    #[arg(long, value_name = "NAME", alias = "weights-key")]
    pub weight_set: Option<String>,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Layers that stay as they are, such as blocks.0.attn.qkv; * stands for any text.
    #[arg(long, value_name = "KEY")]
    pub skip: Vec<String>,
    /// Also compare the answers to these images, or folders of images, with those of the model before.
    #[arg(long, value_name = "IMG", num_args = 1..)]
    pub images: Vec<PathBuf>,
    /// Write into a folder that holds something already.
    #[arg(long)]
    pub overwrite: bool,
    /// Never touch the network; use what is in the cache.
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Device and threads.
    #[command(flatten)]
    pub device: DeviceArgs,
}
