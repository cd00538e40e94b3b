//! Which instructions are in use.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::sync::OnceLock;

use super::{Job, Scalar, Simd};

/// Runs a job at the best level.
pub(crate) fn run<J: Job>(job: J) -> J::Output {
    match level() {
        // SAFETY: `level` has seen the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { super::Avx512::vectorize(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { super::Avx2::vectorize(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { super::Neon::vectorize(job) },
        // SAFETY: needs no special instructions.
        Level::Plain => unsafe { Scalar::vectorize(job) },
    }
}

/// The instructions the fast paths use on this machine: `avx512f`, `avx2+fma`, `neon` or `scalar` (plain Rust,
/// vectorised by the compiler only). The environment variable `VITRUM_SIMD`, read once, can lower it.
pub fn simd_level() -> &'static str {
    level().name()
}

#[derive(Clone, Copy, PartialEq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Plain,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512f",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2+fma",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            Level::Plain => "scalar",
        }
    }

    /// What the processor has, best first.
    fn available() -> Vec<Level> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                levels.push(Level::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                levels.push(Level::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if is_aarch64_feature_detected!("neon") {
            levels.push(Level::Neon);
        }
        levels.push(Level::Plain);
        levels
    }
}

/// The level in use: the best, or the one `VITRUM_SIMD` names if it is available.
fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| choose(&Level::available(), Level::name, "VITRUM_SIMD"))
}

/// The first of the levels, or the one that the environment variable names if it is among them.
pub(crate) fn choose<L: Copy>(available: &[L], name: fn(L) -> &'static str, variable: &str) -> L {
    let wanted = std::env::var(variable).ok();
    let named = available.iter().find(|&&level| Some(name(level)) == wanted.as_deref());
    *named.unwrap_or(&available[0])
}
