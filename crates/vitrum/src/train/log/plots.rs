//! Curves: loss, other scores, learning rate, throughput.

use plotters::chart::SeriesLabelPosition;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::folder::RunFolder;
use super::results::is_accuracy;
use super::tables::History;
use super::{LogError, files, text};
use crate::data::RgbImage;
use crate::paint::{self, Drawing};
use crate::train::score::Validation;

/// Width and height of a plot in pixels.
pub const SIZE: (u32, u32) = (900, 600);

/// Largest number of points of a curve. Beyond it, neighbours are averaged.
const MAX_POINTS: usize = 1500;

/// A plot: curves on common axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    title: &'static str,
    x_name: &'static str,
    y_name: &'static str,
    y_format: Format,
    /// The corner of the legend.
    legend: Corner,
    curves: Vec<Curve>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    Plain,
    Exponent,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Corner {
    UpperRight,
    LowerRight,
}

#[derive(Clone, Debug, PartialEq)]
struct Curve {
    name: String,
    color: RGBColor,
    kind: Kind,
    points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// A thin, pale line.
    Pale,
    /// A thinner line, for secondary scores.
    Thin,
    Line,
    /// A line with a dot at each point, while they are few.
    Dotted,
}

/// Draws all plots of a run: `plots/NAME.svg`, `plots/NAME.png`, and all of them together in `results.png`.
///
/// # Errors
/// [`LogError::Picture`], [`LogError::Io`].
pub fn write(folder: &RunFolder, history: &History) -> Result<(), LogError> {
    let mut sheet = Vec::new();
    for (name, plot) in all(history) {
        let image = plot.pixels()?;
        let path = |ending: &str| folder.plots().join(format!("{name}.{ending}"));
        files::replace(&path("svg"), plot.svg()?.as_bytes())?;
        files::replace(&path("png"), &paint::png(&image)?)?;
        sheet.push(image);
    }
    files::replace(&folder.path().join("results.png"), &paint::png(&side_by_side(&sheet)?)?)
}

/// The plots of a run and the names of their files.
pub fn all(history: &History) -> [(&'static str, Plot); 4] {
    [
        ("loss", loss(history)),
        scores(history),
        ("lr", learning_rate(history)),
        ("throughput", throughput(history)),
    ]
}

/// Training loss per log line, smoothed, and validation loss per epoch.
pub fn loss(history: &History) -> Plot {
    let train = by_line(history, |line| line.loss);
    let smooth = smoothed(&train);
    let blue = |name: &str, kind, points| Curve { name: name.into(), color: paint::BLUE, kind, points };
    let curves = vec![
        blue("", Kind::Pale, train),
        blue("train", Kind::Line, smooth),
        by_epoch(history, "validation".into(), paint::ORANGE, |v| v.model_score("loss")),
        by_epoch(history, "validation (EMA)".into(), paint::GREEN, |v| v.ema_score("loss")),
    ];
    let unit = if is_classification(history) { "cross entropy" } else { "loss" };
    Plot::new("Loss", "epoch", unit, Corner::UpperRight, curves)
}

/// The scores of validation other than the loss, per epoch, and the name of the plot's files.
pub fn scores(history: &History) -> (&'static str, Plot) {
    let mut curves = Vec::new();
    let names: Vec<&str> = names(history).into_iter().filter(|name| *name != "loss").collect();
    for (ending, color) in [("", paint::ORANGE), (" (EMA)", paint::GREEN)] {
        for (index, name) in names.iter().enumerate() {
            let score = |validation: &Validation| match ending {
                "" => validation.model_score(name),
                _ => validation.ema_score(name),
            };
            let curve = by_epoch(history, text::score_name(name) + ending, color, score);
            curves.push(Curve { kind: if index == 0 { Kind::Dotted } else { Kind::Thin }, ..curve });
        }
    }
    let plot = |title, unit| Plot::new(title, "epoch", unit, Corner::LowerRight, curves);
    if is_classification(history) {
        ("accuracy", plot("Validation accuracy", "images right (%)"))
    } else {
        ("scores", plot("Validation scores", "score"))
    }
}

/// The names of the scores.
fn names(history: &History) -> Vec<&str> {
    history.epochs.last().map_or(Vec::new(), |s| s.validation.names.iter().map(String::as_str).collect())
}

/// Whether any score is an accuracy. A run without a finished epoch counts as classification.
fn is_classification(history: &History) -> bool {
    let names = names(history);
    names.is_empty() || names.into_iter().any(is_accuracy)
}

/// Learning rate per update.
pub fn learning_rate(history: &History) -> Plot {
    let points = history.train.iter().map(|line| (line.update as f64, line.lr)).collect();
    let curves = vec![Curve { name: String::new(), color: paint::PURPLE, kind: Kind::Line, points }];
    let plot = Plot::new("Learning rate", "update", "learning rate", Corner::UpperRight, curves);
    Plot { y_format: Format::Exponent, ..plot }
}

/// Images per second, including the wait for data.
pub fn throughput(history: &History) -> Plot {
    let points = by_line(history, |line| line.images_per_second);
    let smooth = smoothed(&points);
    let curves = vec![
        Curve { name: String::new(), color: paint::GREEN, kind: Kind::Pale, points },
        Curve { name: String::new(), color: paint::GREEN, kind: Kind::Line, points: smooth },
    ];
    Plot::new("Throughput", "epoch", "images per second", Corner::LowerRight, curves)
}

fn by_line(history: &History, value: fn(&super::TrainLine) -> f64) -> Vec<(f64, f64)> {
    let at =
        |line: &super::TrainLine| line.epoch as f64 + (line.batch + 1) as f64 / line.batches.max(1) as f64;
    history.train.iter().map(|line| (at(line), value(line))).collect()
}

/// A score at the end of each epoch.
fn by_epoch(
    history: &History,
    name: String,
    color: RGBColor,
    score: impl Fn(&Validation) -> Option<f64>,
) -> Curve {
    let epochs = history.epochs.iter();
    let points = epochs.filter_map(|s| Some((s.epoch as f64 + 1.0, score(&s.validation)?))).collect();
    Curve { name, color, kind: Kind::Dotted, points }
}

/// Centred means over a thirtieth of the curve; the window shrinks towards the ends, so nothing lags.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let points = drawable(points);
    let reach = (points.len() / 60).max(2);
    let mean = |index: usize| {
        let reach = reach.min(index).min(points.len() - 1 - index);
        let around = &points[index - reach..=index + reach];
        (points[index].0, around.iter().map(|point| point.1).sum::<f64>() / around.len() as f64)
    };
    (0..points.len()).map(mean).collect()
}

/// The points that can be drawn. If there are more than [`MAX_POINTS`], groups of neighbours are averaged.
fn drawable(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let usable = |(x, y): &&(f64, f64)| x.abs() < 1e15 && y.abs() < 1e15;
    let usable: Vec<(f64, f64)> = points.iter().filter(usable).copied().collect();
    let group = usable.len().div_ceil(MAX_POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / points.len() as f64, sum.1 / points.len() as f64)
    };
    usable.chunks(group).map(mean).collect()
}

impl Plot {
    fn new(
        title: &'static str,
        x_name: &'static str,
        y_name: &'static str,
        legend: Corner,
        curves: Vec<Curve>,
    ) -> Self {
        let curves = curves.into_iter().map(|curve| Curve { points: drawable(&curve.points), ..curve });
        let curves = curves.filter(|curve| !curve.points.is_empty()).collect();
        Self { title, x_name, y_name, y_format: Format::Plain, legend, curves }
    }

    /// As an SVG document.
    ///
    /// # Errors
    /// [`LogError::Picture`].
    pub fn svg(&self) -> Result<String, LogError> {
        Ok(paint::svg(self)?)
    }

    /// As pixels, of [`SIZE`].
    ///
    /// # Errors
    /// [`LogError::Picture`].
    pub fn pixels(&self) -> Result<RgbImage, LogError> {
        Ok(paint::pixels(self)?)
    }

    /// Smallest and largest value, with a margin.
    fn range(&self) -> [f64; 2] {
        let values = || self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
        let (low, high) =
            values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return [0.0, 1.0];
        }
        let span = high - low;
        if span <= 1e-6 * high.abs().max(low.abs()) || span < 1e-12 {
            let half = (0.1 * high.abs()).max(1e-3);
            return [low - half, high + half];
        }
        [low - 0.06 * span, high + 0.06 * span]
    }

    /// From 0, unless the curves begin far from it.
    fn x_range(&self) -> [f64; 2] {
        let xs = || self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.0);
        let (low, high) = (xs().fold(f64::INFINITY, f64::min), xs().fold(0.0, f64::max));
        let low = if low > 0.3 * high && low < high { low } else { 0.0 };
        if high > low { [low, high] } else { [0.0, 1.0] }
    }

    /// The axis begins below 0 only if a value is negative.
    fn y_range(&self) -> [f64; 2] {
        let [low, high] = self.range();
        let negative = self.curves.iter().flat_map(|curve| &curve.points).any(|point| point.1 < 0.0);
        if low < 0.0 && !negative { [0.0, high] } else { [low, high] }
    }

    fn y_label(&self, value: f64, span: f64) -> String {
        match self.y_format {
            Format::Exponent if value == 0.0 => "0".into(),
            Format::Exponent => super::text::exponential(value, 1).replace("e-0", "e-").replace("e+0", "e+"),
            Format::Plain => decimal(value, span),
        }
    }
}

/// Formats a number with enough decimals to distinguish about eight neighbouring labels.
fn decimal(value: f64, span: f64) -> String {
    let digits = (8.0 / span).log10().ceil().clamp(0.0, 6.0) as usize;
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-6..1e7).contains(&size) => super::text::exponential(value, 1),
        size if digits == 0 && size >= 10_000.0 => {
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", super::text::grouped(size.round() as u64))
        }
        _ => format!("{value:.digits$}"),
    }
}

impl Drawing for Plot {
    fn name(&self) -> &str {
        self.title
    }

    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<(), String> {
        let px = |length: f64| (length * scale).round() as i32;
        let fail = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
        area.fill(&WHITE).map_err(fail)?;
        let ([x0, x1], [y0, y1]) = (self.x_range(), self.y_range());
        let caption = paint::bold(24.0 * scale).color(&paint::INK);
        let mut chart = ChartBuilder::on(area)
            .margin(px(18.0))
            .margin_right(px(34.0))
            .caption(self.title, caption)
            .x_label_area_size(px(54.0))
            .y_label_area_size(px(86.0))
            .build_cartesian_2d(x0..x1, y0..y1)
            .map_err(fail)?;
        let label = (paint::FONT, 15.0 * scale).into_font().color(&paint::FAINT_INK);
        let name = (paint::FONT, 17.0 * scale).into_font().color(&paint::INK);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(ShapeStyle::from(&RGBColor(0xe4, 0xe7, 0xeb)).stroke_width(scale as u32))
            .axis_style(ShapeStyle::from(&RGBColor(0x9a, 0xa0, 0xa8)).stroke_width(scale as u32))
            .x_labels(9)
            .y_labels(8)
            .set_all_tick_mark_size(px(5.0))
            .x_label_style(label.clone())
            .y_label_style(label)
            .axis_desc_style(name)
            .x_desc(self.x_name)
            .y_desc(self.y_name)
            .x_label_formatter(&|value| decimal(*value, x1 - x0))
            .y_label_formatter(&|value| self.y_label(*value, y1 - y0))
            .draw()
            .map_err(fail)?;
        for curve in &self.curves {
            draw_curve(&mut chart, curve, scale).map_err(fail)?;
        }
        if self.curves.is_empty() {
            let style = paint::text(20.0 * scale, paint::FAINT_INK, HPos::Center, VPos::Center);
            let middle = (px(f64::from(SIZE.0) / 2.0 + 30.0), px(f64::from(SIZE.1) / 2.0));
            area.draw(&Text::new("no values yet", middle, style)).map_err(fail)?;
        }
        if self.curves.iter().any(|curve| !curve.name.is_empty()) {
            let corner = match self.legend {
                Corner::UpperRight => SeriesLabelPosition::UpperRight,
                Corner::LowerRight => SeriesLabelPosition::LowerRight,
            };
            chart
                .configure_series_labels()
                .position(corner)
                .margin(px(12.0))
                .legend_area_size(px(34.0))
                .background_style(WHITE.mix(0.85))
                .border_style(RGBColor(0xd5, 0xd9, 0xde))
                .label_font((paint::FONT, 16.0 * scale).into_font().color(&paint::INK))
                .draw()
                .map_err(fail)?;
        }
        Ok(())
    }
}

type Chart<'a, DB> = ChartContext<
    'a,
    DB,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn draw_curve<DB: DrawingBackend>(
    chart: &mut Chart<'_, DB>,
    curve: &Curve,
    scale: f64,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let (width, color) = match curve.kind {
        Kind::Pale => (1.2, curve.color.mix(0.4)),
        Kind::Thin => (1.6, curve.color.mix(0.75)),
        Kind::Line | Kind::Dotted => (2.5, curve.color.to_rgba()),
    };
    let style = ShapeStyle::from(color).stroke_width((width * scale).round() as u32);
    let dots = match curve.kind {
        _ if curve.points.len() == 1 => 4.0,
        Kind::Dotted if curve.points.len() <= 40 => 4.0,
        _ => 0.0,
    };
    let drawn = chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
    if !curve.name.is_empty() {
        let length = (26.0 * scale) as i32;
        drawn
            .label(curve.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + length, y)], style));
    }
    if dots > 0.0 {
        let dot = |point: &(f64, f64)| Circle::new(*point, (dots * scale) as i32, color.filled());
        chart.draw_series(curve.points.iter().map(dot))?;
    }
    Ok(())
}

/// Two pictures of the same size per row.
fn side_by_side(images: &[RgbImage]) -> Result<RgbImage, LogError> {
    let (width, height) = SIZE;
    let rows = images.len().div_ceil(2).max(1) as u32;
    let sheet = RgbImage::filled(2 * width, rows * height, [255; 3]);
    let mut sheet = sheet.map_err(|e| LogError::picture("results.png", e))?;
    for (index, image) in images.iter().enumerate() {
        let (left, top) = (index as u32 % 2 * width, index as u32 / 2 * height);
        paint::paste(&mut sheet, image, left, top);
    }
    Ok(sheet)
}
