//! Arguments of `vitrum data`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::common::{Format, LimitArgs};
use super::values::parse_max_bad;

/// `vitrum data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Decode every image; report files that are damaged, duplicate, mislabelled, or in both training and
    /// validation.
    Check(DataCheckArgs),
    /// Images per class, sizes, formats, mean and deviation of the channels.
    Stats(DataStatsArgs),
    /// Set aside a share of every class for validation, as training does.
    Split(DataSplitArgs),
}

/// The images, and how to read them.
#[derive(Clone, Debug, Args)]
pub struct DataReadArgs {
    /// Folder of the files in a CSV [default: the CSV's own].
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// Class names in the order of their numbers, one per line.
    #[arg(long, value_name = "FILE")]
    pub class_map: Option<PathBuf>,
    /// Threads that decode images; 0: one per core.
    #[arg(short = 'j', long, default_value_t = 0, hide_default_value = true)]
    pub workers: usize,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// `vitrum data check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Kinds of findings: unreadable, leak (the same pixels in two parts), conflict (the same\n\
                 pixels under two classes), duplicate, small, extension (the content is of another format),\n\
                 imbalance, left-out.\n\
                 Exit code 1 if more images are unreadable than --max-bad allows; with --strict, 3 for any\n\
                 finding.\n\
                 \n\
                 Examples:\n  \
                 vitrum data check flowers/\n  \
                 vitrum data check train.csv val.csv --image-dir images --strict\n  \
                 vitrum data check photos.tar --format json > findings.json"
)]
pub struct DataCheckArgs {
    /// Datasets. Several datasets are parts of one, and so are folders called train, val, test.
    #[arg(required = true, value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// How to read them.
    #[command(flatten)]
    pub read: DataReadArgs,
    /// Unreadable images allowed, a number or a share below 1.
    #[arg(long, value_name = "N|F", default_value = "0", value_parser = parse_max_bad)]
    pub max_bad: f64,
    /// Exit with 3 for any finding.
    #[arg(long)]
    pub strict: bool,
    /// Report images with a side shorter than this.
    #[arg(long, value_name = "PIXELS", default_value_t = 16)]
    pub min_size: u32,
    /// Report classes if the largest is more than this many times the smallest.
    #[arg(long, value_name = "F", default_value_t = 10.0)]
    pub max_imbalance: f64,
    /// Findings of each kind to list as text; JSON and CSV list all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `vitrum data stats`.
#[derive(Debug, Args)]
#[command(after_help = "Mean and deviation are over all pixels, on the scale 0 to 1.\n\
                       \n\
                       Examples:\n  \
                       vitrum data stats flowers/\n  \
                       vitrum data stats cifar-10-batches-bin --format json")]
pub struct DataStatsArgs {
    /// Datasets. Several datasets are parts of one, and so are folders called train, val, test.
    #[arg(required = true, value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// How to read them.
    #[command(flatten)]
    pub read: DataReadArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `vitrum data split`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("to").required(true).args(["output", "output_dir"]),
    after_help = "Tables have columns file,label (and class_index if a class name is another class's number).\n\
                 Read them with --image-dir DATA. Training with the same --seed and --val-fraction sets aside the\n\
                 same images.\n\
                 \n\
                 Examples:\n  \
                 vitrum data split flowers/ --val-fraction 0.2 --output-dir tables/\n  \
                 vitrum data split flowers/ --output all.csv\n  \
                 vitrum data split photos.tar --seed 1 --output-dir photos/ --copy"
)]
pub struct DataSplitArgs {
    /// Labelled images.
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// Share of each class for validation.
    #[arg(long, value_name = "F", default_value_t = 0.1)]
    pub val_fraction: f64,
    /// Seed of the split.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// One table with a column `part`.
    #[arg(short, long, value_name = "FILE.csv")]
    pub output: Option<PathBuf>,
    /// A folder for train.csv and val.csv; with --copy or --link, for images: train/CLASS and val/CLASS.
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Copy the images; those of an archive are unpacked, raw pixels become PNG.
    #[arg(long, conflicts_with_all = ["link", "output"])]
    pub copy: bool,
    /// Make hard links to the images.
    #[arg(long, conflicts_with = "output")]
    pub link: bool,
    /// Replace existing tables.
    #[arg(long)]
    pub overwrite: bool,
    /// Folder of the files in a CSV [default: the CSV's own].
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// Class names in the order of their numbers, one per line.
    #[arg(long, value_name = "FILE")]
    pub class_map: Option<PathBuf>,
}
