//! A cache of decoded pictures, if they fit into memory.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::{TrainDataError, TrainSet};

/// Whether decoded pictures stay in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// If they need at most a quarter of the free memory.
    #[default]
    Auto,
    /// Never.
    None,
    /// Always; an error if they do not fit.
    Ram,
}

/// A quarter of the free memory, if the system does not tell how much is free.
const UNKNOWN_QUARTER: u64 = 1 << 30;
/// Number of pictures whose headers give the estimate.
const PROBES: usize = 64;

impl TrainSet {
    /// The set with or without a cache, by `mode`, for `images` of its pictures. The estimate of memory uses the
    /// headers of some pictures. Decoding fills the cache.
    ///
    /// Pictures that are in memory anyway, those of binary sets, are not cached.
    ///
    /// # Errors
    /// [`TrainDataError::CacheTooLarge`] for [`Cache::Ram`] without enough memory.
    pub fn with_cache(mut self, mode: Cache, images: usize) -> Result<Self, TrainDataError> {
        self.cache = None;
        if mode == Cache::None {
            return Ok(self);
        }
        let Some(each) = self.bytes_per_image() else { return Ok(self) };
        let (need, free) = (each.saturating_mul(images as u64), free_memory());
        let limit = match mode {
            Cache::Ram => free.unwrap_or(u64::MAX),
            _ => free.map_or(UNKNOWN_QUARTER, |free| free / 4),
        };
        if need <= limit {
            self.cache = Some((0..self.len()).map(|_| OnceLock::new()).collect());
        } else if mode == Cache::Ram {
            let (path, mib) = (self.path.clone(), |bytes: u64| bytes >> 20);
            return Err(TrainDataError::CacheTooLarge { path, images, need: mib(need), free: mib(limit) });
        }
        Ok(self)
    }

    /// The mean over pictures spread evenly over the set, or the first ones of a stream. `None` if no header gives
    /// a size, or pixels are in memory anyway.
    fn bytes_per_image(&self) -> Option<u64> {
        let sizes: Vec<u64> = if let Ok(Some(mut stream)) = self.stream() {
            let samples = std::iter::from_fn(|| stream.next_sample().ok().flatten()).take(PROBES);
            let size = |(width, height)| u64::from(width) * u64::from(height) * 3;
            samples.filter_map(|sample| super::dimensions(&sample.image).map(size)).collect()
        } else {
            let probes = self.len().min(PROBES);
            (0..probes).filter_map(|probe| self.indexed.decoded_bytes(probe * self.len() / probes)).collect()
        };
        if sizes.is_empty() {
            return None;
        }
        // The picture, its place in the table, and the allocator's overhead.
        Some(sizes.iter().sum::<u64>() / sizes.len() as u64 + 128)
    }
}

/// Free memory in bytes, if the system tells: on Linux the kernel's "available", limited by the process's control
/// group.
pub fn free_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10;
    let group = |file: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse().ok()
    };
    let left = group("memory.max").zip(group("memory.current")).map(|(most, now)| most.saturating_sub(now));
    Some(left.map_or(available, |left| left.min(available)))
}
