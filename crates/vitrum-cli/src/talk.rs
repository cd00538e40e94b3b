//! Messages on stderr, by verbosity.

use std::fmt::Display;

use vitrum::data::dataset::Skipped;

use crate::output::complain;

/// Verbosity on stderr.
#[derive(Clone, Copy)]
pub struct Talk {
    /// Only errors.
    pub quiet: bool,
    /// `-v`: device and configuration; `-vv`: also every loaded key.
    pub verbose: u8,
}

impl Talk {
    /// Prints a message on stderr.
    pub fn say(self, text: impl Display) {
        if !self.quiet {
            complain(text);
        }
    }

    /// Prints a message if `-v` was given at least `level` times.
    pub fn detail(self, level: u8, text: impl Display) {
        if self.verbose >= level {
            self.say(text);
        }
    }

    /// Reports entries left out of a dataset and how it was read: one line on stderr, and with `-v` a line for each
    /// entry.
    pub fn left_out(self, data: impl Display, skipped: &Skipped) {
        if skipped.is_empty() {
            return;
        }
        self.say(format_args!("{data}: {skipped}"));
        if self.verbose > 0 {
            skipped.first.iter().for_each(|entry| self.say(format_args!("  left out {entry}")));
        }
    }
}
