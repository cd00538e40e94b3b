//! Sheets of the model's input images, with captions.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::LogError;
use crate::data::RgbImage;
use crate::data::resize::{Interpolation, resize};
use crate::paint::{self, Drawing};
use crate::tasks::classify::{softmax, top_k};
use crate::tasks::reconstruct::VIEWS;

/// Largest number of tiles of a sheet: eight by eight.
pub const MAX_TILES: usize = 64;

/// Range of a tile's side in pixels. Smaller images are enlarged, larger ones reduced.
const TILE: std::ops::RangeInclusive<u32> = 96..=224;
const GAP: u32 = 8;
const FRAME: u32 = 3;
const FONT_SIZE: f64 = 12.5;
const LINE: u32 = 16;
/// Height of letters above their position.
const ASCENT: u32 = 5;

/// The model's input.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// `[B, C, H, W]`, normalised.
    pub values: &'a [f32],
    /// `[B, C, H, W]`.
    pub shape: [usize; 4],
    /// Mean of each channel, on the scale 0 to 1.
    pub mean: &'a [f32],
    /// Deviation of each channel.
    pub std: &'a [f32],
}

/// The caption of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caption {
    /// Its lines.
    pub lines: Vec<String>,
    /// Whether the prediction was wrong. If so, the image has a red frame.
    pub wrong: bool,
}

/// Captions of training images from their targets `[B, K]`: the class with the largest share. If the second class has a
/// tenth or more, as in mixed images, the caption shows both classes with their shares.
pub fn target_captions(targets: &[f32], names: &[String]) -> Vec<Caption> {
    let classes = names.len().max(1);
    let caption = |row: &[f32]| {
        let row: Vec<f64> = row.iter().map(|share| f64::from(*share)).collect();
        let best = top_k(&row, 2);
        let lines = match best[..] {
            [first, second, ..] if row[second] >= 0.1 => {
                let line = |class: usize| format!("{:.0} % {}", 100.0 * row[class], name(names, class));
                vec![line(first), line(second)]
            }
            [first, ..] => vec![name(names, first)],
            [] => Vec::new(),
        };
        Caption { lines, wrong: false }
    };
    targets.chunks(classes).map(caption).collect()
}

/// Captions of training images from their classes.
pub fn label_captions(labels: &[usize], names: &[String]) -> Vec<Caption> {
    labels.iter().map(|label| Caption { lines: vec![name(names, *label)], wrong: false }).collect()
}

/// Captions of validation images from the logits `[K]` of each: the predicted class, and the true class if they differ.
pub fn answer_captions(logits: &[Vec<f64>], labels: &[usize], names: &[String]) -> Vec<Caption> {
    let caption = |(logits, label): (&Vec<f64>, &usize)| {
        let probabilities = softmax(logits);
        let pred = top_k(&probabilities, 1).first().copied().unwrap_or_default();
        let share = probabilities.get(pred).copied().unwrap_or(f64::NAN);
        let mut lines = vec![format!("{} {:.0} %", name(names, pred), 100.0 * share)];
        if pred != *label {
            lines.push(format!("is {}", name(names, *label)));
        }
        Caption { lines, wrong: pred != *label }
    };
    logits.iter().zip(labels).map(caption).collect()
}

/// Captions of the four pictures of one image in [`Views`](crate::tasks::reconstruct::Views), from the share of its masked
/// patches and their loss.
pub fn view_captions(mask_ratio: f64, loss: f64) -> Vec<Caption> {
    let line = |view: &&str| match *view {
        "masked" => format!("{:.0} % masked", 100.0 * mask_ratio),
        "prediction" => format!("loss {loss:.3}"),
        view => view.to_string(),
    };
    VIEWS.iter().map(|view| Caption { lines: vec![line(view)], wrong: false }).collect()
}

fn name(names: &[String], class: usize) -> String {
    names.get(class).cloned().unwrap_or_else(|| class.to_string())
}

/// A sheet of the first [`MAX_TILES`] images, denormalised, with their captions.
///
/// # Errors
/// [`LogError::Batch`]: values and shape disagree. [`LogError::Picture`]: there is nothing to draw.
pub fn mosaic(pixels: &Pixels, captions: &[Caption]) -> Result<RgbImage, LogError> {
    let [count, channels, height, width] = pixels.shape;
    let shown = count.min(MAX_TILES);
    let whole = pixels.values.len() == [count, channels, height, width].iter().product::<usize>();
    if !whole || shown == count {
        return sheet(pixels, captions, columns(shown));
    }
    let values = &pixels.values[..shown * channels * height * width];
    sheet(&Pixels { values, shape: [shown, channels, height, width], ..*pixels }, captions, columns(shown))
}

/// All images in their own size, denormalised.
///
/// # Errors
/// As [`mosaic`].
pub fn images(pixels: &Pixels) -> Result<Vec<RgbImage>, LogError> {
    let [_, channels, height, width] = pixels.shape;
    let expected = pixels.shape.iter().fold(1_usize, |n, side| n.saturating_mul(*side));
    if expected != pixels.values.len() {
        return Err(LogError::Batch { shape: pixels.shape, expected, found: pixels.values.len() });
    }
    if expected == 0 {
        return Err(LogError::picture("samples", "a batch without pixels"));
    }
    pixels.values.chunks(channels * height * width).map(|values| image(pixels, values)).collect()
}

/// A sheet of all images, with so many in a row.
///
/// # Errors
/// As [`mosaic`].
pub fn sheet(pixels: &Pixels, captions: &[Caption], columns: usize) -> Result<RgbImage, LogError> {
    let tiles: Vec<RgbImage> = images(pixels)?.iter().map(tile).collect::<Result<_, _>>()?;
    let lines = captions.iter().map(|caption| caption.lines.len()).max().unwrap_or(0) as u32;
    let (tile_width, tile_height) = (tiles[0].width(), tiles[0].height());
    let columns = columns.max(1) as u32;
    let rows = (tiles.len() as u32).div_ceil(columns);
    let (step_x, step_y) =
        (tile_width + GAP + 2 * FRAME, tile_height + GAP + 2 * FRAME + strip_height(lines));
    let sheet = RgbImage::filled(columns * step_x + GAP, rows * step_y + GAP, [255; 3]);
    let mut sheet = sheet.map_err(|e| LogError::picture("samples", e))?;
    let none = Caption::default();
    for (index, image) in tiles.iter().enumerate() {
        let (left, top) = (GAP + index as u32 % columns * step_x, GAP + index as u32 / columns * step_y);
        let caption = captions.get(index).unwrap_or(&none);
        if caption.wrong {
            let RGBColor(r, g, b) = paint::WRONG;
            let frame = RgbImage::filled(tile_width + 2 * FRAME, tile_height + 2 * FRAME, [r, g, b]);
            paint::paste(&mut sheet, &frame.map_err(|e| LogError::picture("samples", e))?, left, top);
        }
        paint::paste(&mut sheet, image, left + FRAME, top + FRAME);
        if !caption.lines.is_empty() {
            let strip = Strip { caption, width: tile_width + 2 * FRAME };
            paint::paste(&mut sheet, &paint::pixels_finer(&strip, 4)?, left, top + tile_height + 2 * FRAME);
        }
    }
    Ok(sheet)
}

/// Columns of a nearly square sheet, at most eight.
fn columns(tiles: usize) -> usize {
    (1..=8).find(|columns| columns * columns >= tiles).unwrap_or(8)
}

/// The picture of one image `[C, H, W]`.
fn image(pixels: &Pixels, values: &[f32]) -> Result<RgbImage, LogError> {
    let [_, channels, height, width] = pixels.shape;
    let plane = height * width;
    // Three channels are RGB. Any other number shows only the first channel, in grey.
    let channel = |c: usize| if channels == 3 { c } else { 0 };
    let level = |c: usize, at: usize| {
        let of = |list: &[f32], otherwise: f32| {
            list.get(channel(c)).or(list.first()).copied().unwrap_or(otherwise)
        };
        let value = values[channel(c) * plane + at] * of(pixels.std, 1.0) + of(pixels.mean, 0.0);
        (value * 255.0).round().clamp(0.0, 255.0) as u8
    };
    let bytes = (0..plane).flat_map(|at| [0, 1, 2].map(|c| level(c, at))).collect();
    let side = |side: usize| u32::try_from(side).map_err(|_| failed(format!("{side} pixels a side")));
    RgbImage::new(side(width)?, side(height)?, bytes).map_err(failed)
}

/// The tile of an image: not too small to see, not too large for a sheet.
fn tile(image: &RgbImage) -> Result<RgbImage, LogError> {
    let (width, height) = (image.width(), image.height());
    let longer = width.max(height);
    let (least, most) = (*TILE.start(), *TILE.end());
    let (to, filter) = if longer < least {
        // Whole factors keep pixels square.
        (longer * least.div_ceil(longer), Interpolation::Nearest)
    } else {
        (longer.min(most), Interpolation::Bicubic)
    };
    let scaled = |side: u32| (u64::from(side) * u64::from(to) / u64::from(longer)).max(1) as u32;
    resize(image, scaled(width), scaled(height), filter).map_err(failed)
}

/// A picture that cannot be made.
fn failed(why: impl std::fmt::Display) -> LogError {
    LogError::picture("samples", why)
}

fn strip_height(lines: u32) -> u32 {
    if lines == 0 { 0 } else { lines * LINE + ASCENT }
}

/// The lines under a tile.
struct Strip<'a> {
    caption: &'a Caption,
    width: u32,
}

impl Drawing for Strip<'_> {
    fn name(&self) -> &str {
        "caption"
    }

    fn size(&self) -> (u32, u32) {
        (self.width, strip_height(self.caption.lines.len() as u32))
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<(), String> {
        let fail = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
        area.fill(&WHITE).map_err(fail)?;
        for (number, line) in self.caption.lines.iter().enumerate() {
            let color = match (self.caption.wrong, number) {
                (true, 0) => paint::WRONG,
                (true, _) => paint::FAINT_INK,
                (false, _) => paint::INK,
            };
            let style = TextStyle::from((paint::FONT, FONT_SIZE * scale).into_font()).color(&color);
            let room = (f64::from(self.width) * scale) as u32;
            let line =
                paint::fitting(line, room, |text| area.estimate_text_size(text, &style).map(|size| size.0));
            let top = f64::from(ASCENT + LINE * number as u32) * scale;
            area.draw(&Text::new(line.map_err(fail)?, (0, top as i32), style)).map_err(fail)?;
        }
        Ok(())
    }
}
