//! Entries left out of a dataset, and choices made while reading it.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

/// Number of entries whose names and reasons are kept.
const DETAILS: usize = 100;

/// Entries left out of a dataset, and notes on how it was read. [`Display`] gives one line.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// Number of entries left out.
    pub count: usize,
    /// Name and reason of the first hundred.
    pub first: Vec<String>,
    /// Number of entries left out per kind of reason.
    pub reasons: BTreeMap<&'static str, usize>,
    /// Choices made while reading, for the user.
    pub notes: Vec<String>,
}

impl Skipped {
    /// Nothing left out, no notes.
    pub const NONE: Self = Self { count: 0, first: Vec::new(), reasons: BTreeMap::new(), notes: Vec::new() };

    /// Records an entry as left out. `kind` is the group of the reason.
    pub(crate) fn add(&mut self, kind: &'static str, name: impl Display, reason: impl Display) {
        self.count += 1;
        *self.reasons.entry(kind).or_default() += 1;
        if self.first.len() < DETAILS {
            self.first.push(format!("{name}: {reason}"));
        }
    }

    /// Adds a note, unless it exists.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Adds the entries and notes of another part of the data.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.first.extend(other.first.iter().take(DETAILS - self.first.len()).cloned());
        for (kind, count) in &other.reasons {
            *self.reasons.entry(kind).or_default() += count;
        }
        other.notes.iter().for_each(|note| self.note(note));
    }

    /// Whether nothing was left out or noted.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.notes.is_empty()
    }
}

/// `left out 3: 2 hidden or of the system, 1 without a class folder; first .git: …; columns: …`.
impl Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.count > 0 {
            let kinds: Vec<String> =
                self.reasons.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            parts.push(format!("left out {}: {}", self.count, kinds.join(", ")));
            parts.extend(self.first.first().map(|first| format!("first {first}")));
        }
        parts.extend(self.notes.iter().cloned());
        f.write_str(&parts.join("; "))
    }
}
