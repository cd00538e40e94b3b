//! Remarks on stderr, as many as were asked for.

use std::fmt::Display;

use vitrum::data::dataset::Skipped;

use crate::output::complain;

/// How much goes to stderr.
#[derive(Clone, Copy)]
pub struct Talk {
    /// Nothing but errors.
    pub quiet: bool,
    /// `-v`: device and configuration; `-vv`: every key that was loaded, too.
    pub verbose: u8,
}

impl Talk {
    /// A remark on stderr.
    pub fn say(self, text: impl Display) {
        if !self.quiet {
            complain(text);
        }
    }

    /// A remark for those who asked for `level` times `-v`.
    pub fn detail(self, level: u8, text: impl Display) {
        if self.verbose >= level {
            self.say(text);
        }
    }

    /// What was left out of a dataset and how it was read: one line on stderr, and with `-v` a line for each entry.
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
