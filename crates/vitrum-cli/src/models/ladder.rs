//! `vitrum models ladder`: the steps from ResNet-50 to ConvNeXt-T.

use std::path::Path;

use anyhow::{Context, Result, bail};
use vitrum::checkpoint::write::write_atomically;
use vitrum::models::ladder::chart::Chart;
use vitrum::models::ladder::{LadderRow, rows};

use crate::args::{Format, LadderArgs};
use crate::output::{self, Rows};
use crate::target;

/// Runs the command.
pub fn run(args: &LadderArgs) -> Result<()> {
    let ladder = rows()?;
    if let Some(path) = &args.plot {
        draw(&ladder, path)?;
    }
    match args.format {
        Format::Json => output::json(&ladder),
        Format::Csv => table(&ladder).csv(),
        Format::Text => table(&ladder).text(),
    }
}

fn draw(ladder: &[LadderRow], path: &Path) -> Result<()> {
    target::check(path)?;
    let chart = Chart::new(ladder);
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let bytes = match ending.as_deref() {
        Some("svg") => chart.svg()?.into_bytes(),
        Some("png") => chart.png()?,
        _ => bail!("--plot {}: want a name that ends in .svg or .png", path.display()),
    };
    write_atomically(path, &bytes).context("--plot")
}

fn table(ladder: &[LadderRow]) -> Rows {
    let mut table =
        Rows::new(&["step", "what changes", "params (M)", "GMACs", "GMACs (paper)", "top-1 % (paper)"]);
    for row in ladder {
        table.push([
            row.step.name().into(),
            if row.is_kept { row.change.into() } else { format!("{} (a trial)", row.change) },
            format!("{:.3}", row.params as f64 / 1e6),
            format!("{:.3}", row.macs as f64 / 1e9),
            format!("{:.2}", row.published.gmacs),
            format!("{:.2}", row.published.top1),
        ]);
    }
    table
}
