//! Arguments of `vitrum checks`.

use clap::Args;

use super::common::{DeviceArgs, Format};

/// `vitrum checks`.
#[derive(Debug, Args)]
pub struct ChecksArgs {
    /// Device and threads.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
