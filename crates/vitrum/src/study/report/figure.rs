//! The figures of a report: lines where an axis has places on a line, else bars.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Report, Row, Section, words};
use crate::paint::{self, Drawing};

pub use crate::paint::PaintError;

/// Colours of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Theme {
    paper: RGBColor,
    ink: RGBColor,
    faint: RGBColor,
    rule: RGBColor,
    series: [RGBColor; 8],
}

impl Theme {
    /// For white paper.
    pub const LIGHT: Self = Self {
        paper: WHITE,
        ink: paint::INK,
        faint: paint::FAINT_INK,
        rule: RGBColor(0xe4, 0xe7, 0xeb),
        series: [
            paint::BLUE,
            paint::ORANGE,
            paint::GREEN,
            paint::PURPLE,
            paint::WRONG,
            RGBColor(0x1d, 0x8f, 0xa3),
            RGBColor(0x8a, 0x62, 0x3c),
            RGBColor(0x5b, 0x63, 0x70),
        ],
    };
    /// For dark screens.
    pub const DARK: Self = Self {
        paper: RGBColor(0x16, 0x19, 0x1d),
        ink: RGBColor(0xe3, 0xe6, 0xea),
        faint: RGBColor(0x98, 0xa0, 0xab),
        rule: RGBColor(0x33, 0x3a, 0x43),
        series: [
            RGBColor(0x6b, 0xa5, 0xe8),
            RGBColor(0xf0, 0x9a, 0x55),
            RGBColor(0x5c, 0xc7, 0x91),
            RGBColor(0xb0, 0x92, 0xe6),
            RGBColor(0xff, 0x80, 0x78),
            RGBColor(0x55, 0xc4, 0xd6),
            RGBColor(0xc9, 0x9f, 0x76),
            RGBColor(0xa9, 0xb2, 0xbf),
        ],
    };
}

/// A figure of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The name of its files.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Name and unit of the values.
    unit: String,
    metric: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Lines {
        /// Name of the axis.
        axis: String,
        /// Places and labels along it.
        places: Vec<(f64, String)>,
        /// Whether the places are laid out by their logarithms.
        log: bool,
        series: Vec<Series>,
    },
    Bars(Vec<(String, Point)>),
}

#[derive(Clone, Debug, PartialEq)]
struct Series {
    name: String,
    points: Vec<(f64, Point)>,
}

/// Mean and deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    mean: f64,
    deviation: f64,
}

/// A figure for each group that has a result.
pub fn all(report: &Report) -> Vec<Figure> {
    let has_result = |section: &&Section| section.rows.iter().any(|row| row.group.count() > 0);
    report.sections.iter().filter(has_result).map(|section| figure(report, section)).collect()
}

fn figure(report: &Report, section: &Section) -> Figure {
    let name = if section.name.is_empty() { "results".into() } else { section.name.clone() };
    let title = match section.name.as_str() {
        "" => report.study.name.clone(),
        group => format!("{}: {group}", report.study.name),
    };
    let kind = match section.is_line.iter().position(|is_line| *is_line) {
        Some(axis) => lines(section, axis),
        None => {
            let bar = |row: &Row| Some((row.labels.join(", "), point(row)?));
            Kind::Bars(section.rows.iter().filter_map(bar).collect())
        }
    };
    let unit = format!("{} {}", words::score(&section.metric), words::taken(report.study.take));
    Figure { name, title, unit, metric: section.metric.clone(), kind }
}

fn point(row: &Row) -> Option<Point> {
    Some(Point { mean: row.group.mean()?, deviation: row.group.deviation().unwrap_or(0.0) })
}

fn lines(section: &Section, axis: usize) -> Kind {
    let mut places: Vec<(f64, String)> = Vec::new();
    let mut series: Vec<Series> = Vec::new();
    for row in &section.rows {
        let Some(x) = row.places[axis] else { continue };
        if !places.iter().any(|(place, _)| *place == x) {
            places.push((x, row.labels[axis].clone()));
        }
        let others = row.labels.iter().enumerate().filter(|(index, _)| *index != axis);
        let name = others.map(|(_, label)| label.as_str()).collect::<Vec<_>>().join(", ");
        let at = series.iter().position(|series| series.name == name).unwrap_or_else(|| {
            series.push(Series { name, points: Vec::new() });
            series.len() - 1
        });
        series[at].points.extend(point(row).map(|point| (x, point)));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    series.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    let (first, last) =
        (places.first().map_or(0.0, |place| place.0), places.last().map_or(0.0, |place| place.0));
    let log = first > 0.0 && last >= 16.0 * first;
    Kind::Lines { axis: section.axes[axis].clone(), places, log, series }
}

impl Figure {
    /// As an SVG document.
    ///
    /// # Errors
    /// [`PaintError`].
    pub fn svg(&self, theme: Theme) -> Result<String, PaintError> {
        paint::svg(&Themed { figure: self, theme })
    }

    /// As a PNG file, in light colours.
    ///
    /// # Errors
    /// [`PaintError`].
    pub fn png(&self) -> Result<Vec<u8>, PaintError> {
        paint::png(&paint::pixels(&Themed { figure: self, theme: Theme::LIGHT })?)
    }

    /// Every value with its deviation, for the range of the figure.
    fn range(&self) -> [f64; 2] {
        let points: Vec<Point> = match &self.kind {
            Kind::Lines { series, .. } => {
                series.iter().flat_map(|series| &series.points).map(|(_, point)| *point).collect()
            }
            Kind::Bars(bars) => bars.iter().map(|(_, point)| *point).collect(),
        };
        let low = points.iter().map(|point| point.mean - point.deviation).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|point| point.mean + point.deviation).fold(f64::NEG_INFINITY, f64::max);
        if !(low.is_finite() && high.is_finite()) {
            return [0.0, 1.0];
        }
        // From 0 where that costs less than half of the room.
        let low = if low >= 0.0 && low < 0.5 * high { 0.0 } else { low };
        let step = step(((high - low) / 5.0).max(high.abs() * 1e-3).max(1e-6));
        let from = if low == 0.0 { 0.0 } else { (low / step - 0.2).floor() * step };
        [from, (high / step + 0.2).ceil() * step]
    }
}

/// The next of 1, 2, 5, 10, … times a power of ten.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

/// A figure in colours.
struct Themed<'a> {
    figure: &'a Figure,
    theme: Theme,
}

/// Where things stand, in pixels.
const WIDTH: f64 = 900.0;
const TOP: f64 = 84.0;
const LEFT: f64 = 76.0;
/// Right side of the lines, left of their names.
const RIGHT: f64 = 660.0;
const LINES_BOTTOM: f64 = 470.0;
const LINES_HEIGHT: f64 = 540.0;
/// Left side of the bars, right of their names.
const BARS_LEFT: f64 = 290.0;
const BARS_RIGHT: f64 = 760.0;
const BAR: f64 = 34.0;

impl Drawing for Themed<'_> {
    fn name(&self) -> &str {
        &self.figure.name
    }

    fn size(&self) -> (u32, u32) {
        let height = match &self.figure.kind {
            Kind::Lines { series, .. } => LINES_HEIGHT.max(TOP + 26.0 * series.len() as f64 + 40.0),
            Kind::Bars(bars) => TOP + BAR * bars.len() as f64 + 46.0,
        };
        (WIDTH as u32, height as u32)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<(), String> {
        let pen = Pen { area, scale, theme: self.theme };
        area.fill(&self.theme.paper).map_err(|error| error.to_string())?;
        let title = TextStyle {
            font: paint::bold(22.0 * scale),
            ..paint::text(22.0 * scale, self.theme.ink, HPos::Left, VPos::Center)
        };
        pen.styled(&self.figure.title, 24.0, 30.0, title)?;
        pen.text(&self.figure.unit, 24.0, 58.0, 15.0, self.theme.faint, HPos::Left)?;
        match &self.figure.kind {
            Kind::Lines { axis, places, log, series } => self.draw_lines(&pen, axis, places, *log, series),
            Kind::Bars(bars) => self.draw_bars(&pen, bars),
        }
    }
}

impl Themed<'_> {
    fn draw_lines<DB: DrawingBackend>(
        &self,
        pen: &Pen<'_, DB>,
        axis: &str,
        places: &[(f64, String)],
        log: bool,
        series: &[Series],
    ) -> Result<(), String> {
        let [low, high] = self.figure.range();
        let y = |value: f64| LINES_BOTTOM - (value - low) / (high - low) * (LINES_BOTTOM - TOP);
        let along = |x: f64| if log { x.log10() } else { x };
        let (first, last) = (along(places[0].0), along(places[places.len() - 1].0));
        let span = if last > first { last - first } else { 1.0 };
        let x = |place: f64| LEFT + 26.0 + (along(place) - first) / span * (RIGHT - LEFT - 52.0);
        for value in marks(low, high) {
            pen.line(&[(LEFT, y(value)), (RIGHT, y(value))], self.theme.rule, 1.0)?;
            let label = decimal(value, high - low);
            pen.text(&label, LEFT - 10.0, y(value), 14.0, self.theme.faint, HPos::Right)?;
        }
        pen.line(&[(LEFT, LINES_BOTTOM), (RIGHT, LINES_BOTTOM)], self.theme.faint, 1.0)?;
        for (place, label) in places {
            pen.line(&[(x(*place), LINES_BOTTOM), (x(*place), LINES_BOTTOM + 5.0)], self.theme.faint, 1.0)?;
            pen.text(label, x(*place), LINES_BOTTOM + 18.0, 14.0, self.theme.faint, HPos::Center)?;
        }
        pen.text(axis, (LEFT + RIGHT) / 2.0, LINES_BOTTOM + 46.0, 15.0, self.theme.ink, HPos::Center)?;
        let count = series.len();
        for (index, series) in series.iter().enumerate() {
            let color = self.theme.series[index % self.theme.series.len()];
            // Neighbours at the same place stand a little apart, so that their deviations can be told.
            let aside = (index as f64 - (count as f64 - 1.0) / 2.0) * 5.0_f64.min(30.0 / count as f64);
            let at = |(place, point): &(f64, Point)| (x(*place) + aside, y(point.mean));
            let line: Vec<(f64, f64)> = series.points.iter().map(at).collect();
            pen.line(&line, color, 2.4)?;
            for (place, point) in &series.points {
                let (middle, end) = (x(*place) + aside, point.deviation);
                if end > 0.0 {
                    let (up, down) = (y(point.mean + end), y(point.mean - end));
                    pen.line(&[(middle, up), (middle, down)], color, 1.4)?;
                    for side in [up, down] {
                        pen.line(&[(middle - 4.0, side), (middle + 4.0, side)], color, 1.4)?;
                    }
                }
                pen.dot(middle, y(point.mean), color, index < self.theme.series.len())?;
            }
            let height = TOP + 12.0 + 26.0 * index as f64;
            pen.line(&[(RIGHT + 22.0, height), (RIGHT + 46.0, height)], color, 2.4)?;
            pen.dot(RIGHT + 34.0, height, color, index < self.theme.series.len())?;
            pen.text(&short(&series.name, 24), RIGHT + 56.0, height, 14.5, self.theme.ink, HPos::Left)?;
        }
        Ok(())
    }

    fn draw_bars<DB: DrawingBackend>(
        &self,
        pen: &Pen<'_, DB>,
        bars: &[(String, Point)],
    ) -> Result<(), String> {
        let [low, high] = self.figure.range();
        let x = |value: f64| BARS_LEFT + (value - low) / (high - low) * (BARS_RIGHT - BARS_LEFT);
        let bottom = TOP + BAR * bars.len() as f64;
        for value in marks(low, high) {
            pen.line(&[(x(value), TOP), (x(value), bottom)], self.theme.rule, 1.0)?;
            let label = decimal(value, high - low);
            pen.text(&label, x(value), bottom + 16.0, 14.0, self.theme.faint, HPos::Center)?;
        }
        for (index, (name, point)) in bars.iter().enumerate() {
            let middle = TOP + (index as f64 + 0.5) * BAR;
            let color = self.theme.series[0];
            pen.text(&short(name, 34), BARS_LEFT - 12.0, middle, 14.5, self.theme.ink, HPos::Right)?;
            pen.bar((BARS_LEFT, middle - 10.0), (x(point.mean), middle + 10.0), color)?;
            if point.deviation > 0.0 {
                let (from, to) = (x(point.mean - point.deviation), x(point.mean + point.deviation));
                pen.line(&[(from, middle), (to, middle)], self.theme.ink, 1.4)?;
                for end in [from, to] {
                    pen.line(&[(end, middle - 4.0), (end, middle + 4.0)], self.theme.ink, 1.4)?;
                }
            }
            let value = words::value(&self.figure.metric, point.mean);
            let text = match point.deviation {
                0.0 => value,
                deviation => format!("{value} ± {}", words::value(&self.figure.metric, deviation)),
            };
            pen.text(&text, BARS_RIGHT + 12.0, middle, 14.0, self.theme.ink, HPos::Left)?;
        }
        pen.line(&[(BARS_LEFT, TOP), (BARS_LEFT, bottom)], self.theme.faint, 1.0)?;
        if low != 0.0 {
            let text = format!("bars from {}", decimal(low, high - low));
            pen.text(&text, BARS_LEFT, bottom + 34.0, 13.0, self.theme.faint, HPos::Left)?;
        }
        Ok(())
    }
}

/// Values with a line across the figure.
fn marks(low: f64, high: f64) -> Vec<f64> {
    let step = step((high - low) / 6.0);
    let first = (low / step).ceil() as i64;
    (first..).map(|mark| mark as f64 * step).take_while(|value| *value <= high + 1e-9 * step).collect()
}

/// A number with the decimals that neighbours need.
fn decimal(value: f64, span: f64) -> String {
    let digits = (6.0 / span).log10().ceil().clamp(0.0, 6.0) as usize;
    format!("{:.digits$}", if value == 0.0 { 0.0 } else { value })
}

/// A text of at most so many characters.
fn short(text: &str, most: usize) -> String {
    match text.chars().count() {
        count if count <= most => text.into(),
        _ => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

/// Draws in pixels of the unscaled figure.
struct Pen<'a, DB: DrawingBackend> {
    area: &'a DrawingArea<DB, Shift>,
    scale: f64,
    theme: Theme,
}

impl<DB: DrawingBackend> Pen<'_, DB> {
    fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        ((x * self.scale).round() as i32, (y * self.scale).round() as i32)
    }

    fn line(&self, points: &[(f64, f64)], color: RGBColor, width: f64) -> Result<(), String> {
        let points: Vec<(i32, i32)> = points.iter().map(|point| self.at(*point)).collect();
        let style = ShapeStyle::from(&color).stroke_width((width * self.scale).round().max(1.0) as u32);
        self.area.draw(&PathElement::new(points, style)).map_err(|error| error.to_string())
    }

    /// A filled or a hollow dot.
    fn dot(&self, x: f64, y: f64, color: RGBColor, filled: bool) -> Result<(), String> {
        let circle = |radius: f64, color: RGBColor| {
            let circle = Circle::new(self.at((x, y)), (radius * self.scale).round() as i32, color.filled());
            self.area.draw(&circle).map_err(|error| error.to_string())
        };
        circle(4.5, color)?;
        if filled { Ok(()) } else { circle(2.5, self.theme.paper) }
    }

    fn bar(&self, from: (f64, f64), to: (f64, f64), color: RGBColor) -> Result<(), String> {
        let rectangle = Rectangle::new([self.at(from), self.at(to)], color.mix(0.85).filled());
        self.area.draw(&rectangle).map_err(|error| error.to_string())
    }

    fn text(&self, text: &str, x: f64, y: f64, size: f64, color: RGBColor, side: HPos) -> Result<(), String> {
        self.styled(text, x, y, paint::text(size * self.scale, color, side, VPos::Center))
    }

    fn styled(&self, text: &str, x: f64, y: f64, style: TextStyle<'_>) -> Result<(), String> {
        self.area
            .draw(&Text::new(text.to_string(), self.at((x, y)), style))
            .map_err(|error| error.to_string())
    }
}
