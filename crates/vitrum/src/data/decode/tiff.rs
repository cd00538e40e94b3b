//! TIFF: the `image` crate's decoder, and by hand the layouts it leaves out or converts differently.

use std::io::Cursor;

use ::image::metadata::Orientation;
use ::image::{ImageDecoder, codecs::tiff::TiffDecoder};
use ::tiff::ColorType;
use ::tiff::decoder::{Decoder, DecodingResult};
use ::tiff::tags::Tag;

use super::{
    DecodeProblem, Limits, damaged, of_image_crate, orientation::orient, rgb_image, rgb_of_cmyk,
    rgb_of_samples, unsupported,
};
use crate::data::image::RgbImage;

const NAME: &str = "TIFF";

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, DecodeProblem> {
    match grey_of_palette(bytes) {
        Some(grey) => decode_layout(&grey, true, limits),
        None => decode_layout(bytes, false, limits),
    }
}

/// The decoder refuses palettes, though their indices are stored as grey values are: this is the file with its
/// photometric interpretation changed from palette to grey, when it is one.
fn grey_of_palette(bytes: &[u8]) -> Option<Vec<u8>> {
    const PHOTOMETRIC: u16 = 262;
    let little = bytes.starts_with(b"II");
    let short = |at: usize| {
        let two = *bytes.get(at..)?.first_chunk()?;
        Some(if little { u16::from_le_bytes(two) } else { u16::from_be_bytes(two) })
    };
    let four = *bytes.get(4..)?.first_chunk()?;
    let directory = if little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) } as usize;
    let entry = (0..usize::from(short(directory)?))
        .map(|entry| directory + 2 + entry * 12)
        .find(|&entry| short(entry) == Some(PHOTOMETRIC))?;
    if short(entry + 8)? != 3 {
        return None;
    }
    let mut grey = bytes.to_vec();
    grey[entry + 8..entry + 10].copy_from_slice(&if little {
        1_u16.to_le_bytes()
    } else {
        1_u16.to_be_bytes()
    });
    Some(grey)
}

fn decode_layout(bytes: &[u8], has_palette: bool, limits: &Limits) -> Result<RgbImage, DecodeProblem> {
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(problem)?;
    let mut tiff_limits = ::tiff::decoder::Limits::default();
    tiff_limits.decoding_buffer_size = limits.max_alloc as usize;
    tiff_limits.intermediate_buffer_size = limits.max_alloc as usize;
    tiff_limits.ifd_value_size = 1 << 20;
    decoder = decoder.with_limits(tiff_limits);
    let (width, height) = decoder.dimensions().map_err(problem)?;
    limits.check_size(width, height)?;
    let color = decoder.colortype().map_err(problem)?;
    let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
    let rgb = match color {
        ColorType::Gray(bits) if has_palette => palette(&mut decoder, bits, width, height, limits)?,
        ColorType::Gray(bits @ (1 | 2 | 4)) => grey(&mut decoder, bits, width, height, limits)?,
        ColorType::GrayA(8) | ColorType::Multiband { bit_depth: 8, num_samples: 2 } => {
            let pixels = u64::from(width) * u64::from(height);
            limits.check_samples(width, height, pixels * 2)?;
            interleaved(&mut decoder, pixels, 2)?.chunks_exact(2).flat_map(|s| [s[0]; 3]).collect()
        }
        ColorType::CMYK(8) => cmyk(&mut decoder, width, height, limits)?,
        _ => common(bytes, limits)?,
    };
    let orientation = orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    Ok(orient(rgb_image(NAME, width, height, rgb)?, orientation))
}

/// What the `image` crate converts as Pillow does.
fn common(bytes: &[u8], limits: &Limits) -> Result<Vec<u8>, DecodeProblem> {
    let problem = |error| of_image_crate(NAME, error);
    let mut decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(problem)?;
    let (width, height) = decoder.dimensions();
    limits.check_samples(width, height, decoder.total_bytes())?;
    decoder.set_limits(limits.of_image_crate()).map_err(problem)?;
    let color = decoder.color_type();
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples).map_err(problem)?;
    rgb_of_samples(color, false, samples)
        .ok_or_else(|| unsupported(NAME, format!("samples of type {color:?}")))
}

type Reader<'a> = Decoder<Cursor<&'a [u8]>>;

/// The 8-bit values of an image of `channels` samples per pixel.
fn samples(decoder: &mut Reader, pixels: u64, channels: u64) -> Result<Vec<u8>, DecodeProblem> {
    let DecodingResult::U8(samples) = decoder.read_image().map_err(problem)? else {
        return Err(unsupported(NAME, "samples that are not 8-bit"));
    };
    if (samples.len() as u64) < pixels * channels {
        return Err(damaged(NAME, format!("{} samples for {pixels} pixels", samples.len())));
    }
    Ok(samples)
}

/// One number of `bits` bits per pixel; rows are padded to whole bytes.
fn packed(decoder: &mut Reader, bits: u8, width: u32, height: u32) -> Result<Vec<u8>, DecodeProblem> {
    let (bits, width, height) = (usize::from(bits), width as usize, height as usize);
    let stride = (width * bits).div_ceil(8);
    let rows = samples(decoder, (stride * height) as u64, 1)?;
    let per_byte = 8 / bits;
    let value = |row: &[u8], x: usize| {
        let shift = 8 - bits * (x % per_byte + 1);
        (row[x / per_byte] >> shift) & (0xff >> (8 - bits))
    };
    Ok(rows
        .chunks_exact(stride)
        .take(height)
        .flat_map(|row| (0..width).map(move |x| value(row, x)))
        .collect())
}

fn grey(
    decoder: &mut Reader,
    bits: u8,
    width: u32,
    height: u32,
    limits: &Limits,
) -> Result<Vec<u8>, DecodeProblem> {
    limits.check_samples(width, height, u64::from(width) * u64::from(height))?;
    let scale = 255 / (0xff >> (8 - bits));
    Ok(packed(decoder, bits, width, height)?.into_iter().flat_map(|v| [v * scale; 3]).collect())
}

fn palette(
    decoder: &mut Reader,
    bits: u8,
    width: u32,
    height: u32,
    limits: &Limits,
) -> Result<Vec<u8>, DecodeProblem> {
    if !matches!(bits, 1 | 2 | 4 | 8) {
        return Err(unsupported(NAME, format!("a palette of {bits}-bit indices")));
    }
    limits.check_samples(width, height, u64::from(width) * u64::from(height))?;
    let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(problem)?;
    let entries = 1 << bits;
    if map.len() < entries * 3 {
        return Err(damaged(NAME, format!("a colour map of {} values, {} needed", map.len(), entries * 3)));
    }
    let color = |index: u8| [0, 1, 2].map(|channel| (map[channel * entries + usize::from(index)] >> 8) as u8);
    Ok(packed(decoder, bits, width, height)?.into_iter().flat_map(color).collect())
}

fn cmyk(decoder: &mut Reader, width: u32, height: u32, limits: &Limits) -> Result<Vec<u8>, DecodeProblem> {
    let pixels = u64::from(width) * u64::from(height);
    limits.check_samples(width, height, pixels * 4)?;
    Ok(interleaved(decoder, pixels, 4)?.chunks_exact(4).flat_map(rgb_of_cmyk).collect())
}

/// Exactly `pixels` pixels of `channels` 8-bit samples, which must lie side by side.
fn interleaved(decoder: &mut Reader, pixels: u64, channels: u64) -> Result<Vec<u8>, DecodeProblem> {
    if decoder.image_buffer_layout().map_err(problem)?.planes > 1 {
        return Err(unsupported(NAME, "channels in separate planes"));
    }
    let mut samples = samples(decoder, pixels, channels)?;
    samples.truncate((pixels * channels) as usize);
    Ok(samples)
}

fn problem(error: ::tiff::TiffError) -> DecodeProblem {
    match error {
        ::tiff::TiffError::UnsupportedError(error) => unsupported(NAME, error),
        error => damaged(NAME, error),
    }
}
