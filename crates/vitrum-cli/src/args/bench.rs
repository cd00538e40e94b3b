//! Arguments of `vitrum bench`.

use std::path::PathBuf;

use clap::Args;

use super::common::{Format, ModelArgs};

/// `vitrum bench`.
#[derive(Debug, Args)]
#[command(
    after_help = "A name without weights is measured with random weights: the time is the same. Weights are packed \
                 first, as in `val`, except with --train.\n\
                 \n\
                 Example:\n  \
                 vitrum bench -m vit_tiny_patch16_224 vit_small_patch16_224 --batch-sizes 1,8 --threads 2\n  \
                 vitrum bench -m vit_tiny_patch16_224 --train --img-size 32 --model-kwargs patch_size=4 \
                 --batch-sizes 64"
)]
pub struct BenchArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// More models, measured one after the other. Peak memory is that of the process so far.
    #[arg(value_name = "MODEL")]
    pub more: Vec<String>,
    /// Measure whole training steps: forward, cross entropy, backward, AdamW. With --precision bf16, they run as in
    /// `vitrum train --amp-dtype bf16`.
    #[arg(long)]
    pub train: bool,
    /// Measure data loading instead, from files to batches: decode, resize, crop and normalise for the model, with
    /// --threads workers. A pass is all images of DATA.
    #[arg(long, value_name = "DATA", conflicts_with = "train")]
    pub data: Option<PathBuf>,
    /// Images per pass.
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_value = "1,8")]
    pub batch_sizes: Vec<usize>,
    /// Number of measured passes; the median is reported.
    #[arg(long, default_value_t = 10)]
    pub runs: usize,
    /// Keep measuring for this number of seconds if --runs passes take less.
    #[arg(long, default_value_t = 0.0)]
    pub seconds: f64,
    /// Passes before the measurement.
    #[arg(long, default_value_t = 2)]
    pub warmup: usize,
    /// Number of concurrent requests. Each has its share of --threads (at least one thread); all use the same weights.
    /// More requests give more images per second and a longer wait for each. The median is of one request.
    #[arg(long, default_value_t = 1, conflicts_with_all = ["train", "data"])]
    pub streams: usize,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
