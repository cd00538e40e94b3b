//! Arguments of `vitrum forward` and `vitrum verify`.

use std::path::PathBuf;

use clap::Args;

use super::common::{Dtype, Format, ModelArgs};
use super::values::parse_tolerance;

/// `vitrum forward`.
#[derive(Debug, Args)]
#[command(after_help = "Reads the normalised tensor `input` [B, C, H, W]; writes `logits` [B, K] and\n\
                 `features` [B, T, D] (timm's forward_features).\n\
                 A model that predicts masked patches reads `noise` [B, N] too, and writes `loss`, `pred` [B, N, P·P·C]\n\
                 and `mask` [B, N]; `features` are those of the patches that it sees. Patches with small noise stay.\n\
                 \n\
                 Examples:\n  \
                 vitrum forward -m model/ --checkpoint w.npz --input in.safetensors --output out.safetensors\n  \
                 vitrum forward -m model/ --input in.safetensors --output out.safetensors --dtype f64 --trace")]
pub struct ForwardArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// A safetensors file with `input`.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Element type of the computation and of the output.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Also write every named intermediate (`blocks.0.attn` …).
    #[arg(long)]
    pub trace: bool,
    /// With --trace, also write attention weights (`blocks.0.attn.weights` [B, A, T, T]).
    #[arg(long, requires = "trace")]
    pub attention: bool,
    /// Images per forward pass; 0: all at once.
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    pub batch_size: usize,
}

/// `vitrum verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "The reference holds `input` and another implementation's results: `logits`, `features` and \
                 any\n\
                 intermediates under timm's module names (`blocks.0.attn`, `blocks.0`, `norm` …).\n\
                 \n\
                 Examples:\n  \
                 vitrum verify --against reference.safetensors -m model/\n  \
                 vitrum verify --against reference.safetensors -m model/ --dtype f64 --tolerance 1e-9"
)]
pub struct VerifyArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// A safetensors file with `input` and expected values.
    #[arg(long, value_name = "FILE")]
    pub against: PathBuf,
    /// Element type of the computation.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Largest allowed difference over largest value [default: 5e-6 for f32, 1e-9 for f64].
    #[arg(long, value_name = "F", value_parser = parse_tolerance)]
    pub tolerance: Option<f64>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
