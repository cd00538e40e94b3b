//! What a signal asks of a run.
//!
//! The first SIGINT (Ctrl-C) or SIGTERM asks it to save and stop; the second ends the process at once, with 130 or 143
//! as shells expect. SIGUSR1 asks for a checkpoint now.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The requests that came so far.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    save: Arc<AtomicBool>,
}

impl Signals {
    /// Listens from now on.
    pub fn install() -> io::Result<Self> {
        let signals = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down and raises it, the second finds it up.
            flag::register_conditional_shutdown(signal, 128 + signal, signals.stop.clone())?;
            flag::register(signal, signals.stop.clone())?;
        }
        #[cfg(unix)]
        flag::register(signal_hook::consts::SIGUSR1, signals.save.clone())?;
        Ok(signals)
    }

    /// Whether to save and stop.
    pub fn stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What asks to save and stop when it is raised.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Whether a checkpoint was asked for since this was last asked.
    pub fn take_save(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }
}
