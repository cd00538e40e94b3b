//! JPEG, bit for bit as in libjpeg-turbo, which Pillow uses: accurate integer DCT ("islow"), smooth upsampling of
//! chroma, the same guesses about colours, and the same recovery after damage. Scans may hold any of the
//! components, with any sampling in whole ratios, in Huffman or arithmetic codes, sequential or progressive.
//!
//! With the feature `turbojpeg`, libjpeg-turbo itself reads ordinary files without faults; the pixels are the same.

mod arithmetic;
mod frame;
mod huffman;
mod idct;
mod planes;
mod reader;
mod scan;
mod source;
mod standard;
mod tables;

use self::frame::{Color, Frame};
use self::planes::Plane;
use self::reader::Reader;
use self::tables::State;
use super::orientation::{self, orient};
use super::{DecodeOptions, DecodeProblem, Limits, damaged, rgb_image, rgb_of_cmyk};
use crate::data::image::RgbImage;

const NAME: &str = "JPEG";

fn bad(what: &str) -> DecodeProblem {
    damaged(NAME, what)
}

pub(super) fn decode(
    bytes: &[u8],
    options: &DecodeOptions,
    notes: &mut Vec<String>,
) -> Result<RgbImage, DecodeProblem> {
    let mut reader = Reader::new(bytes);
    reader.read_header(&options.limits)?;
    let (width, height) = reader.size();
    let channels = reader.channels();
    let orientation = orientation::of(reader.exif(), reader.xmp(), options);
    let pixels = match fast_pixels(bytes, &reader) {
        Some(pixels) => pixels,
        None => exact_pixels(reader, &options.limits, notes)?,
    };
    Ok(orient(rgb_image(NAME, width, height, rgb(pixels, channels))?, orientation))
}

fn rgb(pixels: Vec<u8>, channels: usize) -> Vec<u8> {
    match channels {
        1 => pixels.iter().flat_map(|&v| [v; 3]).collect(),
        3 => pixels,
        // Pillow assumes inverted inks, as Adobe writes them, with or without a marker.
        _ => pixels
            .chunks_exact(4)
            .flat_map(|ink| rgb_of_cmyk(&[0, 1, 2, 3].map(|at| 255 - ink[at])))
            .collect(),
    }
}

#[cfg(not(feature = "turbojpeg"))]
fn fast_pixels(_: &[u8], _: &Reader) -> Option<Vec<u8>> {
    None
}

/// Grey or RGB of an ordinary file. libjpeg-turbo does not separate warnings from errors; our decoder reads such
/// files.
#[cfg(feature = "turbojpeg")]
fn fast_pixels(bytes: &[u8], reader: &Reader) -> Option<Vec<u8>> {
    use turbojpeg::{Decompressor, Image, PixelFormat};
    if !reader.is_plain() {
        return None;
    }
    let format = if reader.channels() == 1 { PixelFormat::GRAY } else { PixelFormat::RGB };
    let mut decoder = Decompressor::new().ok()?;
    let header = decoder.read_header(bytes).ok()?;
    let (width, height, pitch) = (header.width, header.height, header.width * format.size());
    let mut pixels = vec![0; pitch * height];
    let image = Image { pixels: pixels.as_mut_slice(), width, pitch, height, format };
    decoder.decompress(bytes, image).ok()?;
    Some(pixels)
}

fn exact_pixels(
    mut reader: Reader,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Vec<u8>, DecodeProblem> {
    let frame = reader.read_scans(limits)?;
    if !frame.is_fine() {
        return Err(bad("scans of the progressive picture are missing"));
    }
    if frame.faults {
        notes.push("its packed data are damaged: some of the pixels may be wrong".into());
    }
    Ok(pixels(frame))
}

/// The samples of one JPEG of a TIFF.
pub(super) struct Strip {
    pub(super) width: usize,
    pub(super) channels: usize,
    /// RGB if the file has YCbCr; otherwise the stored channels.
    pub(super) pixels: Vec<u8>,
}

/// A JPEG inside a TIFF, which stores the tables separately. Its markers do not give its colours.
pub(super) fn strip(
    tables: Option<&[u8]>,
    bytes: &[u8],
    is_ycc: bool,
    limits: &Limits,
) -> Result<Strip, DecodeProblem> {
    let color = if is_ycc { Color::YCbCr } else { Color::Plain };
    let mut state = State::default();
    state.color = Some(color);
    if let Some(tables) = tables {
        state.read_tables(tables)?;
    }
    let mut reader = Reader::with(bytes, state);
    reader.read_header(limits)?;
    if is_ycc && reader.channels() != 3 {
        return Err(bad("YCbCr of other than three components"));
    }
    let (width, channels) = (reader.size().0 as usize, reader.channels());
    let pixels = exact_pixels(reader, limits, &mut Vec::new())?;
    Ok(Strip { width, channels, pixels })
}

fn pixels(mut frame: Frame) -> Vec<u8> {
    let components = std::mem::take(&mut frame.components);
    let planes: Vec<Plane> = components.into_iter().map(|component| Plane::new(component, &frame)).collect();
    planes::pixels(&planes, &frame)
}
