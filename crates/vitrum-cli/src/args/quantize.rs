//! Arguments of `vitrum quantize`.

use std::path::PathBuf;

use clap::Args;

use super::common::{DeviceArgs, Format};

/// `vitrum quantize`.
#[derive(Debug, Args)]
#[command(
    after_help = "The folder holds model.safetensors with `blocks.N.attn.qkv.weight` as I8 [d_out, d_in] and \
                 `.weight_scale`\n\
                 F32 [d_out] for the four linear layers of each block, everything else in F32, and \
                 config.json.\n\
                 predict, val, embed, forward and bench use it like any model.\n\
                 \n\
                 Examples:\n  \
                 vitrum quantize -m hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k -o tiny-int8/ --images \
                 photos/\n  \
                 vitrum quantize -m model/ -o model-int8/ --skip blocks.0.* --skip *.mlp.fc2 --format json"
)]
pub struct QuantizeArgs {
    /// A folder with config.json and weights, a file of weights, a name (with --checkpoint), or hf:ORG/NAME.
    #[arg(short, long, env = "VITRUM_MODEL", value_name = "DIR|FILE|NAME|hf:ID")]
    pub model: String,
    /// Weights that replace the model's own.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Which of several sets of weights in the file, by its prefix.
    #[arg(long, value_name = "NAME", alias = "weights-key")]
    pub weight_set: Option<String>,
    /// A key file, for tensor names that no dialect has and fields that tensors do not show, such as num_heads.
    #[arg(long, value_name = "FILE.toml")]
    pub keys: Option<PathBuf>,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Layers to leave unchanged, such as blocks.0.attn.qkv; * matches any text.
    #[arg(long, value_name = "KEY")]
    pub skip: Vec<String>,
    /// Also compare the predictions for these images, or folders of images, with the original model's.
    #[arg(long, value_name = "IMG", num_args = 1..)]
    pub images: Vec<PathBuf>,
    /// Write into a folder that is not empty.
    #[arg(long)]
    pub overwrite: bool,
    /// Never use the network; use only the cache.
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Device and threads.
    #[command(flatten)]
    pub device: DeviceArgs,
}
