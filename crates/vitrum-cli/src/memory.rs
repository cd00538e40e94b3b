//! Whether what was asked for fits into this machine, before it is begun.

use anyhow::{Result, bail};
use vitrum::models::{ModelConfig, VitConfig};

use crate::args::Dtype;

/// Refuses a model whose values alone are more than the memory that is free; one that cannot be built is left
/// to whoever builds it.
pub fn check_model(config: &VitConfig, dtype: Dtype) -> Result<()> {
    let Ok(walk) = ModelConfig::Vit(config.clone()).walk() else { return Ok(()) };
    let [rows, columns] = config.grid();
    // A position table is brought to another grid in f64, from a copy into a copy.
    let positions = product(&[rows, columns, config.embed_dim, 2 * 8]);
    let bytes = walk.params.saturating_mul(width(dtype)).saturating_add(positions);
    refuse(bytes, || {
        let [h, w] = config.img_size;
        format!("this model ({} parameters at {h}x{w} pixels)", walk.params)
    })
}

/// Refuses a batch `[B, C, H, W]` whose tokens cannot be held.
///
/// The bound is low: pixels, and what one block has at a time (tokens in and out, and the wider of query,
/// key, value and the MLP's middle).
pub fn check_batch(config: &VitConfig, batch: usize, [h, w]: [usize; 2], dtype: Dtype) -> Result<()> {
    let [p, q] = config.patch_size;
    let tokens = product(&[h / p, w / q]).saturating_add(config.num_prefix_tokens() as u64);
    let d = config.embed_dim as u64;
    let per_token = 2 * d + (3 * d).max(config.mlp_hidden_dim() as u64);
    let values = tokens.saturating_mul(per_token).saturating_add(product(&[config.in_chans, h, w]));
    let bytes = values.saturating_mul(batch as u64).saturating_mul(width(dtype));
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

fn product(sides: &[usize]) -> u64 {
    sides.iter().fold(1, |n: u64, side| n.saturating_mul(*side as u64))
}

fn width(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => 4,
        Dtype::F64 => 8,
    }
}

/// Bytes that are free, where the system tells it.
fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

/// Asks for memory in the system's small pages from now on, for commands that take little and end soon.
///
/// The allocator asks for pages of 2 MB, which serve long work a little faster. The system may have to move others'
/// pages out of the way first: the first answer of ViT-Ti took 0.25 s instead of 0.07, and 80 MB instead of 58.
pub fn small_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true); // Where it cannot be had, nothing is lost.
}

/// Most memory this process ever had, in MB; Linux tells it.
pub fn peak_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}
