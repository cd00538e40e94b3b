//! Results on stdout: tables, JSON, CSV. The only file that prints results.

use std::io::{self, Write};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// A table of text cells. Columns of numbers are right-aligned.
pub struct Rows {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    /// A table with these columns.
    pub fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push<const N: usize>(&mut self, row: [String; N]) {
        self.rows.push(row.into());
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Aligned text without rules.
    pub fn text(&self) -> Result<()> {
        self.render(presets::NOTHING)
    }

    /// A Markdown table.
    pub fn markdown(&self) -> Result<()> {
        self.render(presets::ASCII_MARKDOWN)
    }

    /// CSV with a header.
    pub fn csv(&self) -> Result<()> {
        let mut writer = csv::Writer::from_writer(io::stdout().lock());
        writer.write_record(&self.header).context("writing to stdout")?;
        for row in &self.rows {
            writer.write_record(row).context("writing to stdout")?;
        }
        writer.flush().context("writing to stdout")
    }

    fn render(&self, preset: &str) -> Result<()> {
        let mut table = Table::new();
        table.load_preset(preset).set_header(&self.header);
        self.rows.iter().for_each(|row| {
            table.add_row(row);
        });
        for (index, column) in table.column_iter_mut().enumerate() {
            let cell = |row: &Vec<String>| row.get(index).is_some_and(|cell| is_number(cell));
            if !self.rows.is_empty() && self.rows.iter().all(cell) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut out = io::stdout().lock();
        for line in table.lines() {
            let line = if preset == presets::NOTHING {
                line.trim_end().strip_prefix(' ').unwrap_or("")
            } else {
                &line
            };
            writeln!(out, "{line}").context("writing to stdout")?;
        }
        Ok(())
    }
}

fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell == "-" || cell.trim_end_matches(" %").replace(',', "").parse::<f64>().is_ok()
}

/// One JSON document, indented.
pub fn json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    bytes(&text)
}

/// Raw bytes.
pub fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("writing to stdout")
}

/// Prints a line on stderr. A write error is ignored.
pub fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A line of text.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    writeln!(io::stdout().lock(), "{text}").context("writing to stdout")
}

/// `86567656` as `86,567,656`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `[197, 768]` as `197 × 768`.
pub fn shape(sides: &[usize]) -> String {
    sides.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ")
}
