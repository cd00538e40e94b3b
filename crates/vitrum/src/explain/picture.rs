//! Pictures of explanations: maps over an image, sheets with titles and legends.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Distances, Filters, HeatMap, PatchColours};
use crate::data::RgbImage;
use crate::data::resize::{Interpolation, resize};
use crate::paint::{self, Drawing, PaintError};

/// Colours of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Palette {
    /// From black over red to yellow: from little to much.
    Heat,
    /// Blue for negative, white for zero, red for positive numbers.
    Signed,
    /// From violet over green to yellow: from unlike to like.
    Likeness,
}

impl Palette {
    /// The colour of a number from 0 to 1.
    pub fn colour(self, share: f64) -> [u8; 3] {
        let share = share.clamp(0.0, 1.0);
        let color = match self {
            Self::Heat => colorous::INFERNO.eval_continuous(share),
            Self::Signed => colorous::RED_BLUE.eval_continuous(1.0 - share),
            Self::Likeness => colorous::VIRIDIS.eval_continuous(share),
        };
        [color.r, color.g, color.b]
    }
}

/// The colours of a map and the numbers at their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Legend {
    /// The colours.
    pub palette: Palette,
    /// The number of the first colour.
    pub low: f32,
    /// The number of the last colour.
    pub high: f32,
}

impl Legend {
    /// Colours for the numbers of a map. Of positive and negative numbers zero is in the middle. The ends leave out the
    /// largest of 200 numbers, so that single ones do not make all others pale.
    pub fn of(map: &HeatMap, palette: Palette) -> Self {
        let mut sizes: Vec<f32> = map.values.iter().map(|value| value.abs()).collect();
        sizes.sort_by(f32::total_cmp);
        let place = (sizes.len().saturating_sub(1) as f64 * 0.995).round() as usize;
        let high = sizes.get(place).copied().unwrap_or(0.0);
        let [low, most] = map.range();
        match palette {
            Palette::Signed => Self { palette, low: -high, high },
            // All of them are shown: a map of few cells, or one of cosines.
            Palette::Likeness => Self { palette, low, high: most },
            Palette::Heat if map.values.len() < 2000 => Self { palette, low, high: most },
            Palette::Heat => Self { palette, low, high },
        }
    }

    fn share(&self, value: f32) -> f64 {
        let span = self.high - self.low;
        if span > 0.0 { f64::from((value - self.low) / span) } else { 0.0 }
    }

    /// The colour of a number.
    pub fn colour(&self, value: f32) -> [u8; 3] {
        self.palette.colour(self.share(value))
    }
}

/// The image in a size for looking at it: the longer side has `side` pixels. Small images keep square pixels.
///
/// # Errors
/// An image too large to draw.
pub fn sized(image: &RgbImage, side: u32) -> Result<RgbImage, PaintError> {
    let longer = image.width().max(image.height());
    let to = if longer * 3 <= side { longer * (side / longer) } else { side };
    let filter = if longer * 3 <= side { Interpolation::Nearest } else { Interpolation::Bicubic };
    let scaled = |own: u32| (u64::from(own) * u64::from(to) / u64::from(longer)).max(1) as u32;
    resize(image, scaled(image.width()), scaled(image.height()), filter)
        .map_err(|error| PaintError::new("picture", error))
}

/// The image in grey with the map over it. Where a signed map is zero, the image is pale.
pub fn overlay(image: &RgbImage, map: &HeatMap, legend: &Legend) -> RgbImage {
    let mut shown = image.clone();
    let (width, height) = (image.width() as usize, image.height() as usize);
    for (at, pixel) in shown.data_mut().chunks_exact_mut(3).enumerate() {
        let value =
            map.at(((at / width) as f32 + 0.5) / height as f32, ((at % width) as f32 + 0.5) / width as f32);
        let share = legend.share(value).clamp(0.0, 1.0);
        let light = 0.299 * f64::from(pixel[0]) + 0.587 * f64::from(pixel[1]) + 0.114 * f64::from(pixel[2]);
        let (base, weight) = match legend.palette {
            Palette::Signed => (150.0 + 0.4 * light, (2.0 * share - 1.0).abs().sqrt()),
            _ => (light, 0.55),
        };
        for (own, color) in pixel.iter_mut().zip(legend.palette.colour(share)) {
            *own = (base * (1.0 - weight) + f64::from(color) * weight).round() as u8;
        }
    }
    shown
}

/// The map alone, each cell a rectangle, as large as `like`.
pub fn cells(map: &HeatMap, legend: &Legend, like: &RgbImage) -> RgbImage {
    let [rows, columns] = map.grid;
    filled(like, |y, x| {
        legend.colour(map.values[(y * rows as f64) as usize * columns + (x * columns as f64) as usize])
    })
}

/// Colours of patches, each a rectangle, as large as `like`.
pub fn patches(colours: &PatchColours, like: &RgbImage) -> RgbImage {
    let [rows, columns] = colours.grid;
    filled(like, |y, x| {
        let at = (y * rows as f64) as usize * columns + (x * columns as f64) as usize;
        colours.values[at].map(|value| (value * 255.0).round() as u8)
    })
}

/// An image with the colour of each position from 0 to 1.
fn filled(like: &RgbImage, colour: impl Fn(f64, f64) -> [u8; 3]) -> RgbImage {
    let mut shown = like.clone();
    let (width, height) = (like.width() as usize, like.height() as usize);
    for (at, pixel) in shown.data_mut().chunks_exact_mut(3).enumerate() {
        let (y, x) = ((at / width) as f64 / height as f64, (at % width) as f64 / width as f64);
        pixel.copy_from_slice(&colour(y, x));
    }
    shown
}

/// A frame around the cell of a grid.
pub fn framed(image: &RgbImage, grid: [usize; 2], [row, column]: [usize; 2]) -> RgbImage {
    let mut shown = image.clone();
    let (width, height) = (image.width() as usize, image.height() as usize);
    let ends = |at: usize, count: usize, side: usize| {
        (at * side / count, ((at + 1) * side / count).max(at * side / count + 1))
    };
    let ((top, bottom), (left, right)) = (ends(row, grid[0], height), ends(column, grid[1], width));
    let is_edge = |y: usize, x: usize| {
        let within = |y: usize, x: usize, by: usize| {
            y + by >= top && y < bottom + by && x + by >= left && x < right + by
        };
        within(y, x, 2) && !within(y, x, 0)
    };
    for (at, pixel) in shown.data_mut().chunks_exact_mut(3).enumerate() {
        if is_edge(at / width, at % width) {
            pixel.copy_from_slice(&[255, 255, 255]);
        }
    }
    shown
}

/// The filters of the first layer, each scaled to its own range, in colour if they have three channels.
pub fn filters(filters: &Filters) -> Vec<RgbImage> {
    let [channels, height, width] = filters.shape;
    let area = height * width;
    let picture = |component: &Vec<f32>| {
        let ends = |f: fn(f32, f32) -> f32| component.iter().copied().reduce(f).unwrap_or(0.0);
        let (low, high) = (ends(f32::min), ends(f32::max));
        let level = |value: f32| (255.0 * (value - low) / (high - low).max(f32::MIN_POSITIVE)).round() as u8;
        let pixel = |at: usize| [0, 1, 2].map(|c| level(component[c % channels * area + at]));
        RgbImage::new(width as u32, height as u32, (0..area).flat_map(pixel).collect()).ok()
    };
    filters.components.iter().filter_map(picture).collect()
}

/// All maps of positions in one picture: the map of each patch at its place in the grid.
///
/// # Errors
/// Too many patches to draw.
pub fn positions(grid: [usize; 2], maps: &[HeatMap]) -> Result<RgbImage, PaintError> {
    let fail = |error: crate::data::image::ImageSizeError| PaintError::new("positions", error);
    let [rows, columns] = grid;
    let (cell, gap) = ((900 / (rows.max(columns) * rows.max(columns)).max(1)).clamp(1, 12) as u32, 2);
    let (width, height) = (columns as u32 * cell, rows as u32 * cell);
    let (step_x, step_y) = (width + gap, height + gap);
    let mut sheet = RgbImage::filled(columns as u32 * step_x - gap, rows as u32 * step_y - gap, [255; 3])
        .map_err(fail)?;
    let legend = Legend { palette: Palette::Likeness, low: -1.0, high: 1.0 };
    let like = RgbImage::filled(width, height, [0; 3]).map_err(fail)?;
    for (at, map) in maps.iter().enumerate() {
        let (row, column) = ((at / columns) as u32, (at % columns) as u32);
        paint::paste(&mut sheet, &cells(map, &legend, &like), column * step_x, row * step_y);
    }
    Ok(sheet)
}

/// One picture of a sheet.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The line above.
    pub title: String,
    /// The picture.
    pub image: RgbImage,
    /// The colours below.
    pub legend: Option<Legend>,
}

/// Pictures in rows, with a heading.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    /// Lines at the top; the first one is bold.
    pub heading: Vec<String>,
    /// Rows of pictures of one size.
    pub rows: Vec<Vec<Panel>>,
}

const GAP: u32 = 14;
const TITLE: u32 = 20;
const LEGEND: u32 = 30;
const LINE: u32 = 19;

impl Sheet {
    /// The sheet as one picture.
    ///
    /// # Errors
    /// A sheet too large to draw.
    pub fn draw(&self) -> Result<RgbImage, PaintError> {
        let mut sheet = paint::pixels(self)?;
        self.each(|panel, left, top| paint::paste(&mut sheet, &panel.image, left, top));
        Ok(sheet)
    }

    /// Width and height of the largest picture.
    fn tile(&self) -> (u32, u32) {
        let all = || self.rows.iter().flatten().map(|panel| &panel.image);
        (all().map(RgbImage::width).max().unwrap_or(1), all().map(RgbImage::height).max().unwrap_or(1))
    }

    fn has_legend(&self) -> bool {
        self.rows.iter().flatten().any(|panel| panel.legend.is_some())
    }

    fn step(&self) -> (u32, u32) {
        let (width, height) = self.tile();
        let legend = if self.has_legend() { LEGEND } else { 0 };
        (width + GAP, TITLE + height + legend + GAP / 2)
    }

    fn top(&self) -> u32 {
        GAP + LINE * self.heading.len() as u32
    }

    /// Calls `f` with each picture and its place.
    fn each(&self, mut f: impl FnMut(&Panel, u32, u32)) {
        let ((step_x, step_y), top) = (self.step(), self.top());
        for (row, panels) in self.rows.iter().enumerate() {
            for (column, panel) in panels.iter().enumerate() {
                f(panel, GAP + column as u32 * step_x, top + row as u32 * step_y + TITLE);
            }
        }
    }
}

impl Drawing for Sheet {
    fn name(&self) -> &str {
        "explanation"
    }

    fn size(&self) -> (u32, u32) {
        let (step_x, step_y) = self.step();
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
        let rows = self.rows.len() as u32;
        ((GAP + columns * step_x).max(320), self.top() + rows * step_y + GAP / 2)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<(), String> {
        let fail = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
        area.fill(&WHITE).map_err(fail)?;
        let (total, _) = self.size();
        let write =
            |line: &str, left: u32, top: f64, room: u32, style: TextStyle<'_>| -> Result<(), String> {
                let room = (f64::from(room) * scale) as u32;
                let line = paint::fitting(line, room, |text| {
                    area.estimate_text_size(text, &style).map(|size| size.0)
                });
                let place = ((f64::from(left) * scale) as i32, (top * scale) as i32);
                area.draw(&Text::new(line.map_err(fail)?, place, style)).map_err(fail)
            };
        for (number, line) in self.heading.iter().enumerate() {
            let top = f64::from(GAP / 2 + LINE * number as u32);
            let style = match number {
                0 => TextStyle::from(paint::bold(14.0 * scale)).color(&paint::INK),
                _ => paint::text(12.5 * scale, paint::FAINT_INK, HPos::Left, VPos::Top),
            };
            write(line, GAP, top, total - 2 * GAP, style)?;
        }
        let (tile_width, tile_height) = self.tile();
        let mut outcome = Ok(());
        self.each(|panel, left, top| {
            let draw = || -> Result<(), String> {
                let style = paint::text(12.0 * scale, paint::INK, HPos::Left, VPos::Top);
                write(&panel.title, left, f64::from(top) - 16.0, tile_width, style)?;
                let Some(legend) = &panel.legend else { return Ok(()) };
                let (y, steps) = (f64::from(top + tile_height) + 5.0, 64);
                for step in 0..steps {
                    let [r, g, b] = legend.palette.colour((f64::from(step) + 0.5) / f64::from(steps));
                    let x = |step: i32| {
                        ((f64::from(left)
                            + f64::from(panel.image.width()) * f64::from(step) / f64::from(steps))
                            * scale) as i32
                    };
                    let corners = [(x(step), (y * scale) as i32), (x(step + 1), ((y + 7.0) * scale) as i32)];
                    area.draw(&Rectangle::new(corners, RGBColor(r, g, b).filled())).map_err(fail)?;
                }
                let numbers = [(legend.low, HPos::Left, 0), (legend.high, HPos::Right, panel.image.width())];
                for (value, side, shift) in numbers {
                    let style = paint::text(10.5 * scale, paint::FAINT_INK, side, VPos::Top);
                    write(&number(value), left + shift, y + 9.0, tile_width, style)?;
                }
                Ok(())
            };
            if outcome.is_ok() {
                outcome = draw();
            }
        });
        outcome
    }
}

/// A number of a legend, in three digits.
fn number(value: f32) -> String {
    let size = value.abs();
    match size {
        _ if size == 0.0 => "0".into(),
        _ if !(1e-3..1e4).contains(&size) => format!("{value:.1e}"),
        _ if size < 0.1 => format!("{value:.4}"),
        _ if size < 10.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

/// Attention distances: a point for each head, over the layers.
#[derive(Clone, Debug)]
pub struct DistancePlot<'a>(pub &'a Distances);

impl DistancePlot<'_> {
    /// The plot as a picture.
    ///
    /// # Errors
    /// A plot that cannot be drawn.
    pub fn draw(&self) -> Result<RgbImage, PaintError> {
        paint::pixels(self)
    }
}

impl Drawing for DistancePlot<'_> {
    fn name(&self) -> &str {
        "attention distances"
    }

    fn size(&self) -> (u32, u32) {
        (720, 420)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<(), String> {
        let fail = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
        area.fill(&WHITE).map_err(fail)?;
        let layers = &self.0.layers;
        let all = || layers.iter().flat_map(|(_, heads)| heads).copied().filter(|value| value.is_finite());
        let most = all().fold(1.0, f64::max) * 1.05;
        let size = |of: f64| (of * scale) as i32;
        let mut chart = ChartBuilder::on(area)
            .margin(size(14.0))
            .caption(
                "Mean attention distance, by layer and head",
                paint::bold(14.0 * scale).color(&paint::INK),
            )
            .x_label_area_size(size(40.0))
            .y_label_area_size(size(56.0))
            .build_cartesian_2d(-0.6..layers.len() as f64 - 0.4, 0.0..most)
            .map_err(fail)?;
        let words = paint::text(11.0 * scale, paint::INK, HPos::Left, VPos::Top);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_labels(layers.len().min(24))
            .x_label_formatter(&|x| if x.fract().abs() < 1e-6 { format!("{x:.0}") } else { String::new() })
            .label_style(words)
            .x_desc("layer")
            .y_desc("pixels")
            .draw()
            .map_err(fail)?;
        let points = layers.iter().enumerate().flat_map(|(layer, (_, heads))| {
            heads.iter().filter(|value| value.is_finite()).map(move |value| (layer as f64, *value))
        });
        let dot = |at| Circle::new(at, size(4.0), paint::BLUE.mix(0.75).filled());
        chart.draw_series(points.map(dot)).map_err(fail)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(values: &[f32]) -> HeatMap {
        HeatMap { grid: [1, values.len()], values: values.to_vec() }
    }

    #[test]
    fn zero_is_in_the_middle_of_a_signed_map() {
        let map = map(&[-1.0, 0.0, 3.0]);
        let legend = Legend::of(&map, Palette::Signed);
        assert_eq!((legend.low, legend.high), (-3.0, 3.0));
        let [r, g, b] = legend.colour(0.0);
        assert!(r > 230 && g > 230 && b > 230, "{r} {g} {b}");
        let [negative, positive] = [-3.0, 3.0].map(|value| legend.colour(value));
        assert!(negative[2] > negative[0] && positive[0] > positive[2]);
    }

    #[test]
    fn a_flat_map_has_one_colour() {
        let map = map(&[0.5, 0.5]);
        let legend = Legend::of(&map, Palette::Heat);
        let image = RgbImage::filled(8, 8, [100; 3]).unwrap();
        let shown = overlay(&image, &map, &legend);
        assert!(shown.data().chunks(3).all(|pixel| pixel == &shown.data()[..3]));
    }

    #[test]
    fn small_images_keep_square_pixels() {
        let image = RgbImage::new(2, 1, vec![255, 0, 0, 0, 0, 255]).unwrap();
        let shown = sized(&image, 10).unwrap();
        assert_eq!((shown.width(), shown.height()), (10, 5));
        assert_eq!(
            (shown.data()[..3].to_vec(), shown.data()[15..18].to_vec()),
            (vec![255, 0, 0], vec![0, 0, 255])
        );
        let large = RgbImage::filled(640, 320, [7; 3]).unwrap();
        assert_eq!(sized(&large, 320).unwrap().height(), 160);
    }

    #[test]
    fn numbers_of_legends() {
        let texts = [0.0, 0.00012, -0.0123, 0.5, 12.0, 123_456.0].map(number);
        assert_eq!(texts, ["0", "1.2e-4", "-0.0123", "0.50", "12", "1.2e5"]);
    }
}
