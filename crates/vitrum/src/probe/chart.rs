//! The table as a picture: a bar for each row, with the deviation over the draws.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Row;
use crate::paint::{self, Drawing};

pub use crate::paint::PaintError;

/// Width in pixels.
const WIDTH: u32 = 1000;
/// Height of a row, in pixels.
const ROW: f64 = 30.0;
/// Height of what is above the rows, and of what is below.
const TOP: f64 = 76.0;
const BELOW: f64 = 64.0;
/// Left and right of the bars.
const SIDES: [f64; 2] = [370.0, 860.0];

/// A picture of rows.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    title: &'a str,
    rows: &'a [Row],
}

impl<'a> Chart<'a> {
    /// A picture of these rows, from top to bottom.
    pub fn new(title: &'a str, rows: &'a [Row]) -> Self {
        Self { title, rows }
    }

    /// As an SVG document.
    ///
    /// # Errors
    /// [`PaintError`].
    pub fn svg(&self) -> Result<String, PaintError> {
        paint::svg(self)
    }

    /// As a PNG file.
    ///
    /// # Errors
    /// [`PaintError`].
    pub fn png(&self) -> Result<Vec<u8>, PaintError> {
        paint::png(&paint::pixels(self)?)
    }
}

/// The colour of a method.
fn color(method: &str) -> RGBColor {
    match method {
        "knn" => paint::BLUE,
        "ridge" => paint::GREEN,
        "linear" => paint::ORANGE,
        _ => paint::PURPLE,
    }
}

/// The place of a percentage.
fn x(percent: f64) -> f64 {
    SIDES[0] + percent.clamp(0.0, 100.0) / 100.0 * (SIDES[1] - SIDES[0])
}

impl Drawing for Chart<'_> {
    fn name(&self) -> &str {
        "probe"
    }

    fn size(&self) -> (u32, u32) {
        (WIDTH, (TOP + ROW * self.rows.len().max(1) as f64 + BELOW) as u32)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<(), String> {
        let fail = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
        let at = |x: f64, y: f64| ((x * scale).round() as i32, (y * scale).round() as i32);
        let write = |text: &str, x: f64, y: f64, style: TextStyle<'_>| {
            area.draw(&Text::new(text.to_string(), at(x, y), style)).map_err(fail)
        };
        let plain = |size: f64, color, side| paint::text(size * scale, color, side, VPos::Center);
        let bar = |from: (f64, f64), to: (f64, f64), color: RGBAColor| {
            area.draw(&Rectangle::new([at(from.0, from.1), at(to.0, to.1)], color.filled())).map_err(fail)
        };
        area.fill(&WHITE).map_err(fail)?;
        // A long path gets smaller letters.
        let size = (1500.0 / self.title.chars().count().max(1) as f64).min(20.0);
        let title = TextStyle { font: paint::bold(size * scale), ..plain(size, paint::INK, HPos::Center) };
        write(self.title, f64::from(WIDTH) / 2.0, 28.0, title)?;
        let bottom = TOP + ROW * self.rows.len() as f64;
        for percent in [0.0, 20.0, 40.0, 60.0, 80.0, 100.0] {
            bar((x(percent) - 0.5, TOP), (x(percent) + 0.5, bottom), RGBColor(0xe4, 0xe7, 0xeb).to_rgba())?;
            let label = plain(13.0, paint::FAINT_INK, HPos::Center);
            write(&format!("{percent}"), x(percent), bottom + 16.0, label)?;
        }
        let middle = (SIDES[0] + SIDES[1]) / 2.0;
        write("validation images right (%)", middle, bottom + 42.0, plain(15.0, paint::INK, HPos::Center))?;
        for (index, row) in self.rows.iter().enumerate() {
            let middle = TOP + (index as f64 + 0.5) * ROW;
            let half = 0.34 * ROW;
            let ink = color(row.method);
            let name = format!("{}  {}", row.method, row.setting);
            write(&name, SIDES[0] - 10.0, middle, plain(13.0, paint::INK, HPos::Right))?;
            bar((SIDES[0], middle - half), (x(row.top1), middle + half), ink.mix(0.85))?;
            let mut said = format!("{:.1}", row.top1);
            let mut end = x(row.top1);
            if let Some(std) = row.top1_std {
                let [low, high] = [x(row.top1 - std), x(row.top1 + std)];
                bar((low, middle - 1.0), (high, middle + 1.0), paint::INK.to_rgba())?;
                for side in [low, high] {
                    bar(
                        (side - 1.0, middle - 0.4 * half),
                        (side + 1.0, middle + 0.4 * half),
                        paint::INK.to_rgba(),
                    )?;
                }
                said.push_str(&format!(" ± {std:.1}"));
                end = end.max(high);
            }
            write(&said, end + 8.0, middle, plain(13.0, paint::INK, HPos::Left))?;
        }
        Ok(())
    }
}
