//! Checks that a model or batch fits into memory, before work begins.

use anyhow::{Result, bail};
use vitrum::models::{Config, ModelConfig};

use crate::args::Dtype;

/// Refuses a model whose values alone exceed the free memory. Building refuses an invalid one.
pub fn check_model(config: &ModelConfig, dtype: Dtype) -> Result<()> {
    let Ok(walk) = config.walk() else { return Ok(()) };
    // Resizing a position table uses two copies in f64.
    let tables = walk.steps.iter().filter(|step| step.name == "pos_embed");
    let positions = tables.fold(0, |sum: u64, step| sum.saturating_add(step.params.saturating_mul(2 * 8)));
    let bytes = walk.params.saturating_mul(width(dtype)).saturating_add(positions);
    refuse(bytes, || {
        let [h, w] = config.input().image().size;
        format!("this model ({} parameters at {h}x{w} pixels)", walk.params)
    })
}

/// Refuses a batch of images of the configuration's size that does not fit, by a lower bound
/// ([`Walk::held`](vitrum::models::shapes::Walk)).
pub fn check_batch(config: &ModelConfig, batch: usize, dtype: Dtype) -> Result<()> {
    let Ok(walk) = config.walk() else { return Ok(()) };
    let bytes = walk.held.saturating_mul(batch as u64).saturating_mul(width(dtype));
    let [h, w] = config.input().image().size;
    refuse(bytes, || format!("a batch of {batch} images of {h}x{w} pixels"))
}

fn refuse(bytes: u64, what: impl Fn() -> String) -> Result<()> {
    match available() {
        Some(free) if bytes > free => {
            let gigabytes = |bytes: u64| bytes as f64 / 1e9;
            bail!(
                "{} takes {:.1} GB of memory at least, {:.1} GB are free\nhint: a smaller --img-size or --batch-size",
                what(),
                gigabytes(bytes),
                gigabytes(free)
            )
        }
        _ => Ok(()),
    }
}

fn width(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => 4,
        Dtype::F64 => 8,
    }
}

/// Free memory in bytes, if the system tells it.
fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

/// Requests small pages from now on, for commands that use little memory and end soon.
///
/// The allocator asks for pages of 2 MB, which are slightly faster for long work. The system may have to move other
/// pages first: the first answer of ViT-Ti took 0.25 s instead of 0.07, and 80 MB instead of 58.
pub fn small_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true); // A failure does no harm.
}

/// Peak memory of this process in MB, on Linux.
pub fn peak_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}
