//! The ladder as a picture, as in figure 2 of the paper: accuracy and multiply-accumulates of every step.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::LadderRow;
use crate::paint::{self, Drawing};

pub use crate::paint::PaintError;

/// Width and height in pixels.
pub const SIZE: (u32, u32) = (1000, 640);

/// Where things stand, in pixels.
const TOP: f64 = 92.0;
const BOTTOM: f64 = 600.0;
/// The right side of the names.
const NAMES: f64 = 196.0;
/// Left and right of the bars of accuracy, and of the bars of multiply-accumulates.
const PANELS: [[f64; 2]; 2] = [[206.0, 590.0], [660.0, 930.0]];

/// A picture of the ladder.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    rows: &'a [LadderRow],
}

/// A panel of bars: title, values, lowest and highest value, and the digits of a value.
struct Panel {
    title: &'static str,
    color: RGBColor,
    sides: [f64; 2],
    range: [f64; 2],
    digits: usize,
}

impl Panel {
    /// The place of a value.
    fn x(&self, value: f64) -> f64 {
        let [low, high] = self.range;
        self.sides[0] + (value - low).clamp(0.0, high - low) / (high - low) * (self.sides[1] - self.sides[0])
    }
}

impl<'a> Chart<'a> {
    /// A picture of these rows, from top to bottom.
    pub fn new(rows: &'a [LadderRow]) -> Self {
        Self { rows }
    }

    /// As an SVG document.
    ///
    /// # Errors
    /// [`PaintError`].
    pub fn svg(&self) -> Result<String, PaintError> {
        paint::svg(self)
    }

    /// As a PNG file of [`SIZE`].
    ///
    /// # Errors
    /// [`PaintError`].
    pub fn png(&self) -> Result<Vec<u8>, PaintError> {
        paint::png(&paint::pixels(self)?)
    }
}

impl Drawing for Chart<'_> {
    fn name(&self) -> &str {
        "ladder"
    }

    fn size(&self) -> (u32, u32) {
        SIZE
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
        let title = TextStyle { font: paint::bold(24.0 * scale), ..plain(24.0, paint::INK, HPos::Center) };
        write("From ResNet-50 to ConvNeXt-T", f64::from(SIZE.0) / 2.0, 30.0, title)?;
        let [accuracy, cost] = [
            Panel {
                title: "ImageNet-1k top-1 of the paper (%), bars from 77",
                color: paint::BLUE,
                sides: PANELS[0],
                range: [77.0, 82.5],
                digits: 2,
            },
            Panel {
                title: "GMACs of the networks here",
                color: paint::ORANGE,
                sides: PANELS[1],
                range: [0.0, 6.0],
                digits: 3,
            },
        ];
        let height = (BOTTOM - TOP) / self.rows.len().max(1) as f64;
        for panel in [&accuracy, &cost] {
            let middle = (panel.sides[0] + panel.sides[1]) / 2.0;
            write(panel.title, middle, 68.0, plain(16.0, paint::INK, HPos::Center))?;
            let [left, _] = panel.sides;
            bar((left - 1.0, TOP), (left, BOTTOM), paint::FAINT_INK.to_rgba())?;
        }
        for (index, row) in self.rows.iter().enumerate() {
            let middle = TOP + (index as f64 + 0.5) * height;
            let half = 0.36 * height;
            let (ink, shade) = if row.is_kept { (paint::INK, 1.0) } else { (paint::FAINT_INK, 0.4) };
            write(row.step.name(), NAMES, middle, plain(14.0, ink, HPos::Right))?;
            for (panel, value) in [(&accuracy, row.published.top1), (&cost, row.macs as f64 / 1e9)] {
                let end = panel.x(value);
                bar((panel.sides[0], middle - half), (end, middle + half), panel.color.mix(shade))?;
                let said = format!("{value:.0$}", panel.digits);
                write(&said, end + 8.0, middle, plain(13.0, ink, HPos::Left))?;
            }
        }
        let note = "pale: trials that the next step does not build on";
        write(note, f64::from(SIZE.0) / 2.0, 622.0, plain(13.0, paint::FAINT_INK, HPos::Center))
    }
}
