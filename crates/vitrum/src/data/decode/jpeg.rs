//! JPEG through zune-jpeg, or through libjpeg-turbo where the feature `turbojpeg` is on.
//!
//! libjpeg-turbo is what Pillow uses: accurate integer DCT ("islow") and smooth chroma upsampling, its defaults.
//! With it the pixels equal Pillow's; zune-jpeg differs by a level here and there.

use ::image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{DecodeOptions, DecodeProblem, damaged, orient, rgb_image, rgb_of_cmyk};
use crate::data::image::RgbImage;

const NAME: &str = "JPEG";

pub(super) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, DecodeProblem> {
    let header = header(bytes, options)?;
    let rgb = pixels(bytes, &header)?;
    let image = rgb_image(NAME, header.width, header.height, rgb)?;
    Ok(orient(image, if options.exif_orientation { header.orientation } else { Orientation::NoTransforms }))
}

struct Header {
    /// Faults are errors; see [`decoder`].
    strict: bool,
    width: u32,
    height: u32,
    color: ColorSpace,
    orientation: Orientation,
}

fn header(bytes: &[u8], options: &DecodeOptions) -> Result<Header, DecodeProblem> {
    let strict = !has_end(bytes);
    let mut decoder = decoder(bytes, ColorSpace::RGB, strict);
    decoder.decode_headers().map_err(|error| damaged(NAME, error))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged(NAME, "no frame header"))?;
    let color = decoder.input_colorspace().ok_or_else(|| damaged(NAME, "no frame header"))?;
    // A JPEG's sides are 16-bit numbers.
    let (width, height) = (width as u32, height as u32);
    let samples = u64::from(width) * u64::from(height) * color.num_components() as u64;
    options.limits.check_samples(width, height, samples)?;
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    Ok(Header { strict, width, height, color, orientation })
}

/// A file that lacks its end marker is read strictly, so that a truncated one is an error, as in Pillow; otherwise
/// small faults are forgiven, as libjpeg does.
fn decoder(bytes: &[u8], out: ColorSpace, strict: bool) -> JpegDecoder<ZCursor<&[u8]>> {
    let options = DecoderOptions::default()
        .set_strict_mode(strict)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(out);
    JpegDecoder::new_with_options(ZCursor::new(bytes), options)
}

#[cfg(not(feature = "turbojpeg"))]
fn pixels(bytes: &[u8], header: &Header) -> Result<Vec<u8>, DecodeProblem> {
    zune(bytes, header)
}

/// libjpeg-turbo reports warnings and errors alike; a file it complains about gets zune-jpeg's verdict.
#[cfg(feature = "turbojpeg")]
fn pixels(bytes: &[u8], header: &Header) -> Result<Vec<u8>, DecodeProblem> {
    turbo(bytes, header).map_or_else(|_| zune(bytes, header), Ok)
}

fn zune(bytes: &[u8], header: &Header) -> Result<Vec<u8>, DecodeProblem> {
    let read = |out| decoder(bytes, out, header.strict).decode().map_err(|error| damaged(NAME, error));
    match header.color {
        ColorSpace::Luma => Ok(read(ColorSpace::Luma)?.iter().flat_map(|&v| [v; 3]).collect()),
        ColorSpace::CMYK => Ok(rgb_of_inks(&read(ColorSpace::CMYK)?)),
        ColorSpace::YCCK => Ok(rgb_of_inks(&cmyk_of_ycck(read(ColorSpace::YCCK)?))),
        _ => read(ColorSpace::RGB),
    }
}

#[cfg(feature = "turbojpeg")]
fn turbo(bytes: &[u8], header: &Header) -> turbojpeg::Result<Vec<u8>> {
    use turbojpeg::{Decompressor, Image, PixelFormat};
    let inks = matches!(header.color, ColorSpace::CMYK | ColorSpace::YCCK);
    let format = if inks { PixelFormat::CMYK } else { PixelFormat::RGB };
    let (width, height) = (header.width as usize, header.height as usize);
    let pitch = width * format.size();
    let mut pixels = vec![0; pitch * height];
    let image = Image { pixels: pixels.as_mut_slice(), width, pitch, height, format };
    Decompressor::new()?.decompress(bytes, image)?;
    Ok(if inks { rgb_of_inks(&pixels) } else { pixels })
}

/// Four inks per pixel to RGB. Pillow takes them for inverted, as Adobe writes them, whether a marker says so or not.
fn rgb_of_inks(inks: &[u8]) -> Vec<u8> {
    inks.chunks_exact(4).flat_map(|ink| rgb_of_cmyk(&[0, 1, 2, 3].map(|at| 255 - ink[at]))).collect()
}

/// libjpeg's `ycck_cmyk_convert`: the inks are the complement of the RGB that the first three samples stand for.
fn cmyk_of_ycck(mut samples: Vec<u8>) -> Vec<u8> {
    const HALF: i32 = 1 << 15;
    let clamp = |v: i32| v.clamp(0, 255) as u8;
    for ycck in samples.chunks_exact_mut(4) {
        let [y, cb, cr] = [i32::from(ycck[0]), i32::from(ycck[1]) - 128, i32::from(ycck[2]) - 128];
        // Factors in 16-bit fixed point: 1.402, 1.772, 0.71414, 0.34414.
        let red = (91881 * cr + HALF) >> 16;
        let blue = (116130 * cb + HALF) >> 16;
        let green = (-22554 * cb - 46802 * cr + HALF) >> 16;
        ycck[0] = clamp(255 - (y + red));
        ycck[1] = clamp(255 - (y + green));
        ycck[2] = clamp(255 - (y + blue));
    }
    samples
}

/// Whether there is an end-of-image marker behind the header of the first scan.
fn has_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[mark, kind, high, low]) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        if mark != 0xff || kind == 0xff {
            at += 1;
        } else if kind == 0xda {
            break;
        } else {
            at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
        }
    }
    // Inside a scan 0xff is always followed by 0x00 or a restart marker.
    bytes.get(at..).unwrap_or_default().windows(2).rev().any(|pair| pair == [0xff, 0xd9])
}
