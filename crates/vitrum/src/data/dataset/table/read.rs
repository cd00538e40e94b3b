//! Lines and fields of a table with any separator.

use std::path::Path;

use csv::{ReaderBuilder, Trim};

use crate::data::dataset::DatasetProblem;
use crate::data::dataset::folder::is_image;

/// Number of lines used to detect the separator.
const LOOKED_AT: usize = 20;

/// A table as text.
pub(super) struct Table {
    pub lines: Vec<Line>,
    separator: Separator,
}

/// One row.
pub(super) struct Line {
    /// From 1.
    pub number: u64,
    pub fields: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Separator {
    Byte(u8),
    /// `path label`, separated by a blank.
    Blank,
    /// One path per line.
    None,
}

impl Table {
    pub(super) fn read(text: &str) -> Result<Self, DatasetProblem> {
        // Excel may name its separator in a first line.
        let (text, skipped, told) = match text.split_once('\n') {
            Some((first, rest)) if first.to_ascii_lowercase().starts_with("sep=") => {
                (rest, 1, first.trim_end().as_bytes().get(4).copied())
            }
            _ => (text, 0, None),
        };
        let separator = told.map_or_else(|| Separator::of(text), Separator::Byte);
        let mut lines = match separator {
            Separator::Byte(byte) => split_by(text, byte)?,
            Separator::Blank => by_line(text, |line| {
                let (path, label) = path_and_label(line).unwrap_or((line, ""));
                vec![path.to_string(), label.to_string()]
            }),
            Separator::None => by_line(text, |line| vec![line.to_string()]),
        };
        lines.iter_mut().for_each(|line| line.number += skipped);
        Ok(Self { lines, separator })
    }

    /// The separator, if it is neither a comma nor a tab.
    pub(super) fn unusual_delimiter(&self) -> Option<String> {
        match self.separator {
            Separator::Byte(b',' | b'\t') | Separator::None => None,
            Separator::Byte(byte) => Some(format!("`{}`", char::from(byte))),
            Separator::Blank => Some("the last blank".into()),
        }
    }
}

impl Separator {
    fn of(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(LOOKED_AT).collect();
        let first = lines.first().copied().unwrap_or_default();
        let count = |line: &str, byte: u8| line.bytes().filter(|&b| b == byte).count();
        let candidates = [b'\t', b',', b';', b'|'];
        // Prefer a separator that occurs equally often in every line; otherwise one in the first line.
        let even = candidates.into_iter().find(|&byte| {
            let expected = count(first, byte);
            expected > 0 && lines.iter().all(|line| count(line, byte) == expected)
        });
        let some = || candidates.into_iter().find(|&byte| count(first, byte) > 0);
        match even.or_else(some) {
            Some(byte) => Self::Byte(byte),
            None if lines.iter().skip(1).chain(lines.first()).all(|line| path_and_label(line).is_some()) => {
                Self::Blank
            }
            None => Self::None,
        }
    }
}

/// `images/my cat.jpg 3` is a path and a label.
fn path_and_label(line: &str) -> Option<(&str, &str)> {
    let (path, label) = line.trim().rsplit_once([' ', '\t'])?;
    is_image(Path::new(path.trim_end())).then_some((path.trim_end(), label))
}

fn by_line(text: &str, fields: impl Fn(&str) -> Vec<String>) -> Vec<Line> {
    let numbered = text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty());
    numbered.map(|(line, number)| Line { number, fields: fields(line) }).collect()
}

fn split_by(text: &str, delimiter: u8) -> Result<Vec<Line>, DatasetProblem> {
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .from_reader(text.as_bytes());
    let line = |record: csv::Result<csv::StringRecord>| {
        let record = record.map_err(|error| problem(&error))?;
        let number = record.position().map_or(0, csv::Position::line);
        Ok(Line { number, fields: record.iter().map(String::from).collect() })
    };
    reader.records().map(line).collect()
}

fn problem(error: &csv::Error) -> DatasetProblem {
    match error.position() {
        Some(position) => DatasetProblem::Row { line: position.line(), reason: error.to_string() },
        None => DatasetProblem::Damaged(error.to_string()),
    }
}

/// A column's name without case, blanks, `_` and `-`.
pub(super) fn plain(name: &str) -> String {
    name.chars().filter(|c| !c.is_whitespace() && !['_', '-'].contains(c)).collect::<String>().to_lowercase()
}
