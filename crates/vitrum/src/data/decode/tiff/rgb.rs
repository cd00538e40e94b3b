//! Samples to 8-bit RGB, as in Pillow's `convert("RGB")`.

use super::NAME;
use super::directory::{Directory, Tag};
use super::layout::{Layout, Mode, Packing};
use crate::data::decode::{DecodeProblem, damaged, rgb_of_cmyk};

pub(super) fn convert(
    directory: &Directory,
    layout: &Layout,
    samples: Vec<u8>,
) -> Result<Vec<u8>, DecodeProblem> {
    let samples = if layout.bits == 16 && layout.channels > 1 { high_bytes(&samples) } else { samples };
    let pixels = samples.chunks_exact(layout.channels);
    Ok(match layout.mode {
        Mode::Grey | Mode::GreyInverted => {
            let scale = 255 / (0xff_u8 >> (8 - layout.bits));
            let flip = if layout.mode == Mode::GreyInverted { 255 } else { 0 };
            pixels.flat_map(|pixel| [(pixel[0] * scale) ^ flip; 3]).collect()
        }
        Mode::Unsigned | Mode::Signed | Mode::Float => clipped(layout, &samples),
        Mode::Rgb if layout.channels == 3 => samples,
        Mode::Rgb => pixels.flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        Mode::RgbTimesAlpha => {
            pixels.flat_map(|pixel| [0, 1, 2].map(|channel| divided(pixel[channel], pixel[3]))).collect()
        }
        Mode::Palette => palette(directory, layout, &samples)?,
        Mode::Cmyk => pixels.flat_map(rgb_of_cmyk).collect(),
        Mode::YCbCr => of_ycc(directory, layout, samples)?,
    })
}

fn high_bytes(samples: &[u8]) -> Vec<u8> {
    samples.chunks_exact(2).map(|pair| (u16::from_ne_bytes([pair[0], pair[1]]) >> 8) as u8).collect()
}

/// The level before it was multiplied by `alpha`; 0 if alpha is 0.
fn divided(level: u8, alpha: u8) -> u8 {
    match alpha {
        0 => 0,
        alpha => (u32::from(level) * 255 / u32::from(alpha)).min(255) as u8,
    }
}

/// Single samples of more than 8 bits: Pillow clips them to 0 to 255 and does not scale them.
fn clipped(layout: &Layout, samples: &[u8]) -> Vec<u8> {
    let level = |sample: &[u8]| {
        let four = |s: &[u8]| [s[0], s[1], s[2], s[3]];
        match (layout.mode, sample.len()) {
            (Mode::Signed, 2) => i16::from_ne_bytes([sample[0], sample[1]]).clamp(0, 255) as u8,
            (Mode::Float, _) => f32::from_ne_bytes(four(sample)).clamp(0.0, 255.0) as u8,
            (_, 2) => u16::from_ne_bytes([sample[0], sample[1]]).min(255) as u8,
            // Pillow treats integers as signed, also unsigned ones in the file.
            _ => i32::from_ne_bytes(four(sample)).clamp(0, 255) as u8,
        }
    };
    samples.chunks_exact(layout.sample_bytes()).flat_map(|sample| [level(sample); 3]).collect()
}

fn palette(directory: &Directory, layout: &Layout, samples: &[u8]) -> Result<Vec<u8>, DecodeProblem> {
    let map = directory.numbers(Tag::ColorMap)?.unwrap_or_default();
    let entries = map.len() / 3;
    if entries == 0 {
        return Err(damaged(NAME, "a palette without colours"));
    }
    let color = |index: u8| {
        let level = |channel: usize| (map[channel * entries + usize::from(index)] >> 8) as u8;
        if usize::from(index) < entries { [0, 1, 2].map(level) } else { [0; 3] }
    };
    Ok(samples.chunks_exact(layout.channels).flat_map(|pixel| color(pixel[0])).collect())
}

fn of_ycc(directory: &Directory, layout: &Layout, mut samples: Vec<u8>) -> Result<Vec<u8>, DecodeProblem> {
    let convert: Box<dyn Fn([u8; 3]) -> [u8; 3]> = match layout.packing {
        // The JPEG decoder has already made RGB.
        Packing::Jpeg if !layout.planar => return Ok(samples),
        // Pillow reads uncompressed data itself and leaves the rest to libtiff.
        Packing::None if layout.subsampling == (1, 1) => Box::new(rgb_of_ycc),
        _ => Box::new(Converter::new(directory)?.into_rgb()),
    };
    for pixel in samples.chunks_exact_mut(3) {
        pixel.copy_from_slice(&convert([pixel[0], pixel[1], pixel[2]]));
    }
    Ok(samples)
}

/// Pillow's own conversion, in 6-bit fixed point.
fn rgb_of_ycc([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    // Rounded towards zero, like Pillow's tables.
    let table = |factor: f64, level: u8| (factor * (f64::from(level) - 128.0) * 64.0 + 0.5) as i32;
    let clamp = |shift: i32| (i32::from(y) + (shift >> 6)).clamp(0, 255) as u8;
    [clamp(table(1.402, cr)), clamp(table(-0.34414, cb) + table(-0.71414, cr)), clamp(table(1.772, cb))]
}

/// libtiff's conversion (`TIFFYCbCrToRGBInit`), with the file's coefficients and reference black and white.
struct Converter {
    y: [i32; 256],
    red: [i32; 256],
    green: ([i32; 256], [i32; 256]),
    blue: [i32; 256],
}

impl Converter {
    fn new(directory: &Directory) -> Result<Self, DecodeProblem> {
        let luma = directory.fractions(Tag::YCbCrCoefficients, [0.299, 0.587, 0.114])?;
        let range =
            directory.fractions(Tag::ReferenceBlackWhite, [0.0, 255.0, 128.0, 255.0, 128.0, 255.0])?;
        let fixed = |factor: f32| (factor.clamp(0.0, 2.0) * 65536.0 + 0.5) as i32;
        let (r, b) = (2.0 - 2.0 * luma[0], 2.0 - 2.0 * luma[2]);
        let green = |part: f32| if luma[1] == 0.0 { 0 } else { -fixed(part / luma[1]) };
        let value = |code: f32, black: f32, white: f32, most: f32| {
            let span = if white == black { 1.0 } else { white - black };
            ((code - black.trunc()) * most / span).clamp(-4096.0, 4096.0) as i32
        };
        let chroma = |level: usize, at: usize| {
            value(level as f32 - 128.0, range[at] - 128.0, range[at + 1] - 128.0, 127.0)
        };
        const HALF: i32 = 1 << 15;
        Ok(Self {
            y: std::array::from_fn(|level| value(level as f32, range[0], range[1], 255.0)),
            red: std::array::from_fn(|level| (fixed(r) * chroma(level, 4) + HALF) >> 16),
            blue: std::array::from_fn(|level| (fixed(b) * chroma(level, 2) + HALF) >> 16),
            green: (
                std::array::from_fn(|level| green(luma[2] * b).wrapping_mul(chroma(level, 2)) + HALF),
                std::array::from_fn(|level| green(luma[0] * r).wrapping_mul(chroma(level, 4))),
            ),
        })
    }

    fn into_rgb(self) -> impl Fn([u8; 3]) -> [u8; 3] {
        move |[y, cb, cr]| {
            let (cb, cr) = (usize::from(cb), usize::from(cr));
            let clamp = |shift: i32| (self.y[usize::from(y)] + shift).clamp(0, 255) as u8;
            let green = self.green.0[cb].wrapping_add(self.green.1[cr]) >> 16;
            [clamp(self.red[cr]), clamp(green), clamp(self.blue[cb])]
        }
    }
}
