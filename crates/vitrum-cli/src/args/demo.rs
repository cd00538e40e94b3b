//! `vitrum demo` as typed.

use std::path::PathBuf;

use clap::Args;

/// `vitrum demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Ten classes of drawn shapes, a function of seed and index alone.\n\nExample:\n  vitrum demo pictures/ --count 40 --size 96"
)]
pub struct DemoArgs {
    /// The folder to write: one folder per class, PNG files.
    pub output: PathBuf,
    /// How many pictures.
    #[arg(long, default_value_t = 100)]
    pub count: usize,
    /// Side in pixels.
    #[arg(long, default_value_t = 96)]
    pub size: u32,
    /// Another seed, other pictures.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Also one picture of them all, in rows.
    #[arg(long, value_name = "FILE.png")]
    pub sheet: Option<PathBuf>,
}
