//! Drawing surfaces and the font, for plots and pictures.

use std::sync::OnceLock;

use image::ImageEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::data::RgbImage;
use crate::data::resize::{Interpolation, resize};

/// A picture that cannot be drawn or encoded.
#[derive(Debug, thiserror::Error)]
#[error("{what}: cannot be drawn: {reason}")]
pub struct PaintError {
    /// The picture's name.
    pub what: String,
    /// Why.
    pub reason: String,
}

impl PaintError {
    pub(crate) fn new(what: &str, reason: impl std::fmt::Display) -> Self {
        Self { what: what.into(), reason: reason.to_string() }
    }
}

/// The font's name in plots; an SVG viewer uses its own font of that name.
pub const FONT: &str = "sans-serif";

pub const INK: RGBColor = RGBColor(0x33, 0x37, 0x3d);
pub const FAINT_INK: RGBColor = RGBColor(0x77, 0x7c, 0x85);
pub const BLUE: RGBColor = RGBColor(0x2f, 0x6d, 0xb5);
pub const ORANGE: RGBColor = RGBColor(0xe0, 0x7b, 0x2a);
pub const GREEN: RGBColor = RGBColor(0x2c, 0x94, 0x5e);
pub const PURPLE: RGBColor = RGBColor(0x7d, 0x56, 0xb8);
pub const WRONG: RGBColor = RGBColor(0xc9, 0x2a, 0x2a);

/// Supersampling factor: pixels are drawn this many times finer and averaged.
const FINER: u32 = 2;

/// A drawing of a fixed size that looks the same on every surface.
pub trait Drawing {
    /// The name for errors.
    fn name(&self) -> &str;
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);
    /// Draws on a surface of `scale` times the size.
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<(), String>;
}

/// The drawing as an SVG document.
pub fn svg(drawing: &impl Drawing) -> Result<String, PaintError> {
    register(drawing.name())?;
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, drawing.size()).into_drawing_area();
    let drawn = drawing.draw(&area, 1.0).and_then(|()| area.present().map_err(|e| e.to_string()));
    drop(area);
    drawn.map_err(|reason| PaintError::new(drawing.name(), reason))?;
    Ok(text)
}

/// The drawing as pixels.
pub fn pixels(drawing: &impl Drawing) -> Result<RgbImage, PaintError> {
    pixels_finer(drawing, FINER)
}

/// The drawing as pixels, each the mean of `finer` × `finer` drawn ones.
pub fn pixels_finer(drawing: &impl Drawing, finer: u32) -> Result<RgbImage, PaintError> {
    register(drawing.name())?;
    let fail = |reason: String| PaintError::new(drawing.name(), reason);
    let (width, height) = drawing.size();
    let (w, h) = (width * finer, height * finer);
    let mut sheet = RgbImage::filled(w, h, [255; 3]).map_err(|e| fail(e.to_string()))?;
    let area = BitMapBackend::with_buffer(sheet.data_mut(), (w, h)).into_drawing_area();
    let drawn = drawing.draw(&area, finer.into()).and_then(|()| area.present().map_err(|e| e.to_string()));
    drop(area);
    drawn.map_err(fail)?;
    resize(&sheet, width, height, Interpolation::Box).map_err(|e| fail(e.to_string()))
}

/// The style of text: size, colour, and side of its point.
pub fn text<'a>(size: f64, color: RGBColor, h: HPos, v: VPos) -> TextStyle<'a> {
    let font = (FONT, size).into_font();
    TextStyle { font, color: color.to_backend_color(), pos: Pos::new(h, v) }
}

/// The bold font.
pub fn bold<'a>(size: f64) -> FontDesc<'a> {
    FontDesc::new(FontFamily::SansSerif, size, FontStyle::Bold)
}

/// The image as PNG.
pub fn png(image: &RgbImage) -> Result<Vec<u8>, PaintError> {
    let mut bytes = Vec::new();
    encode(PngEncoder::new(&mut bytes), image)?;
    Ok(bytes)
}

/// The image as JPEG.
pub fn jpeg(image: &RgbImage) -> Result<Vec<u8>, PaintError> {
    let mut bytes = Vec::new();
    encode(JpegEncoder::new_with_quality(&mut bytes, 92), image)?;
    Ok(bytes)
}

fn encode(encoder: impl ImageEncoder, image: &RgbImage) -> Result<(), PaintError> {
    let kind = image::ExtendedColorType::Rgb8;
    let written = encoder.write_image(image.data(), image.width(), image.height(), kind);
    written.map_err(|e| PaintError::new("picture", e))
}

fn register(drawing: &str) -> Result<(), PaintError> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let registered = REGISTERED.get_or_init(|| {
        let fonts = [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())];
        fonts.into_iter().all(|(style, bytes)| register_font(FONT, style, bytes).is_ok())
    });
    if *registered { Ok(()) } else { Err(PaintError::new(drawing, "the font cannot be read")) }
}

/// Copies an image onto a sheet; parts outside are cut off.
pub fn paste(sheet: &mut RgbImage, image: &RgbImage, left: u32, top: u32) {
    let width = image.width().min(sheet.width().saturating_sub(left)) as usize * 3;
    let height = image.height().min(sheet.height().saturating_sub(top));
    let stride = sheet.width() as usize * 3;
    for y in 0..height {
        let at = (top + y) as usize * stride + left as usize * 3;
        sheet.data_mut()[at..at + width].copy_from_slice(&image.row(y)[..width]);
    }
}

/// The text, shortened with an ellipsis if it does not fit.
pub fn fitting<E>(text: &str, room: u32, width: impl Fn(&str) -> Result<u32, E>) -> Result<String, E> {
    let mut kept: Vec<char> = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut shown: String = kept.iter().collect();
    while width(&shown)? > room && kept.pop().is_some() {
        shown = kept.iter().chain(&['…']).collect();
    }
    Ok(shown)
}
