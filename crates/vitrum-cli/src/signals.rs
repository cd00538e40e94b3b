//! Signals to a run.
//!
//! The first SIGINT (Ctrl-C) or SIGTERM asks it to save and stop. The second ends the process at once, with 130 or
//! 143 as shells expect. Every SIGHUP (the terminal closed, the connection broke) asks only to save and stop,
//! because a shell and its terminal may both send it. A process that ignores SIGHUP from its start, as under
//! `nohup`, keeps ignoring it. SIGUSR1 asks for a checkpoint now.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The requests so far.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    save: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers.
    pub fn install() -> io::Result<Self> {
        let signals = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag clear and sets it, the second finds it set.
            flag::register_conditional_shutdown(signal, 128 + signal, signals.stop.clone())?;
            flag::register(signal, signals.stop.clone())?;
        }
        #[cfg(unix)]
        {
            if !ignores_hangup() {
                flag::register(signal_hook::consts::SIGHUP, signals.stop.clone())?;
            }
            flag::register(signal_hook::consts::SIGUSR1, signals.save.clone())?;
        }
        Ok(signals)
    }

    /// Whether to save and stop.
    pub fn stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The flag that asks to save and stop.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Whether a checkpoint was requested since the last call.
    pub fn take_save(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }
}

/// Makes an error of a write beyond the limit on the size of a file (`ulimit -f`). Without a handler the system ends the
/// process at once, and without a word.
pub fn report_large_files() -> io::Result<()> {
    #[cfg(unix)]
    flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    Ok(())
}

/// Whether the process started with SIGHUP ignored, for instance by `nohup`. Only Linux tells; elsewhere a hangup
/// saves and stops.
#[cfg(unix)]
fn ignores_hangup() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| ignored(&status, signal_hook::consts::SIGHUP))
}

/// Reads the mask of ignored signals, in hex, from `/proc/self/status`.
#[cfg(unix)]
fn ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
