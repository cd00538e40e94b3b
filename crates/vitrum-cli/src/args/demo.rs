//! Arguments of `vitrum demo`.

use std::path::PathBuf;

use clap::Args;

/// `vitrum demo`.
#[derive(Debug, Args)]
#[command(after_help = "Ten classes of drawn shapes that depend only on seed and index.\n\
                 \n\
                 Example:\n  \
                 vitrum demo pictures/ --count 40 --size 96")]
pub struct DemoArgs {
    /// The folder to write: one folder per class, PNG files.
    pub output: PathBuf,
    /// Number of pictures.
    #[arg(long, default_value_t = 100)]
    pub count: usize,
    /// Side in pixels.
    #[arg(long, default_value_t = 96)]
    pub size: u32,
    /// Seed of the pictures.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Also write one picture of all, in rows.
    #[arg(long, value_name = "FILE.png")]
    pub sheet: Option<PathBuf>,
}
