//! The machine and the program of a run, for `env.json`.

use std::path::Path;

use burn::tensor::Device;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::folder::RunFolder;
use super::{LogError, files};

/// The version of Burn; Burn itself does not export it.
pub const BURN_VERSION: &str = "0.22.1";

/// What a run's numbers and speed may depend on, besides its recipe.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Environment {
    /// Version of this crate.
    pub vitrum: String,
    /// Version of Burn.
    pub burn: String,
    /// `release` or `debug`.
    pub profile: String,
    /// Name of the machine.
    pub host: String,
    /// Operating system.
    pub os: String,
    /// Kind of processor: `x86_64`, `aarch64`, …
    pub arch: String,
    /// The processor's own name.
    pub cpu: String,
    /// Logical cores that the process may use.
    pub cores: usize,
    /// Compute threads.
    pub threads: usize,
    /// Instructions the kernels use.
    pub simd: String,
    /// Memory of the machine in MB, if the system reports it.
    pub memory_mb: Option<f64>,
    /// The device of the model.
    pub device: String,
    /// The time of the start, UTC, RFC 3339.
    pub started: String,
    /// The process id.
    pub pid: u32,
    /// The command line.
    pub command: Vec<String>,
    /// Fingerprint of the dataset.
    pub dataset: String,
}

impl Environment {
    /// This machine, process and moment.
    pub fn gather(device: &str, dataset: &str, command: Vec<String>) -> Self {
        Self {
            vitrum: env!("CARGO_PKG_VERSION").into(),
            burn: BURN_VERSION.into(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            os: system(),
            arch: std::env::consts::ARCH.into(),
            cpu: processor(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            simd: vitrum_kernels::simd_level().into(),
            memory_mb: megabytes("/proc/meminfo", "MemTotal:"),
            device: device.into(),
            started: now(),
            pid: std::process::id(),
            command,
            dataset: dataset.into(),
        }
    }

    /// Writes `env.json`. A resumed run appends to `resumed` in the existing file.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn write(&self, folder: &RunFolder, resumed: bool) -> Result<(), LogError> {
        let path = folder.env();
        let this = serde_json::to_value(self).map_err(|e| LogError::io(&path, e.into()))?;
        let first = if resumed { first_of(&path)? } else { None };
        let whole = match first {
            Some(mut first) => {
                match first.get_mut("resumed") {
                    Some(Value::Array(later)) => later.push(this),
                    _ => first["resumed"] = Value::Array(vec![this]),
                }
                first
            }
            None => this,
        };
        files::replace(&path, format!("{whole:#}\n").as_bytes())
    }
}

/// The JSON object of the file, if it has one.
fn first_of(path: &Path) -> Result<Option<Value>, LogError> {
    Ok(serde_json::from_slice(&files::read(path)?).ok().filter(Value::is_object))
}

/// Memory in MB: what the allocator of a GPU holds, otherwise what this process holds.
pub fn memory_mb(device: &Device) -> Option<f64> {
    let reserved = device.memory_pool_usage().map(|usage| usage.bytes_reserved);
    reserved.map(|bytes| (bytes as f64 / 1024.0 / 1024.0).round()).or_else(resident_mb)
}

/// Memory of this process in MB, if the system reports it.
pub fn resident_mb() -> Option<f64> {
    megabytes("/proc/self/status", "VmRSS:")
}

/// Now, UTC, as RFC 3339.
pub fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> f64 {
    OffsetDateTime::now_utc().unix_timestamp_nanos() as f64 / 1e9
}

fn megabytes(file: &str, key: &str) -> Option<f64> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: f64 = value.trim().trim_end_matches(" kB").parse().ok()?;
    Some((kilobytes / 1024.0).round())
}

fn system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    match name {
        Some(name) => format!("{} ({})", std::env::consts::OS, name.trim_matches('"')),
        None => std::env::consts::OS.into(),
    }
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.to_string())
}
