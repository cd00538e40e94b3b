//! Encoded bytes to [`RgbImage`], with limits for untrusted input.
//!
//! The format is recognised by content, never by the file's extension. Sides and pixels are checked in the header,
//! before decoding. Every picture becomes 8-bit RGB as by Pillow's `convert("RGB")`, which timm uses:
//!
//! | source | result |
//! |---|---|
//! | grey, grey with alpha | the grey value three times |
//! | 16-bit grey | values above 255 become 255 (Pillow clips, it does not scale) |
//! | other 16-bit channels | the high byte |
//! | 1 bit | 0 or 255 |
//! | palette, also with transparency | the palette's colour |
//! | alpha | dropped, not composited |
//! | CMYK and YCCK | `K - C * K / 255` with `K` counting paper; a JPEG's inks are inverted first |
//! | animations | the first frame |
//!
//! Orientation: timm opens files with Pillow and ignores the EXIF orientation of JPEG, PNG and WebP. Measured
//! accuracy therefore equals timm's only with [`DecodeOptions::exif_orientation`] off. It is on by default, because
//! users expect a phone's photo upright. TIFF's orientation tag is always applied, also by Pillow.

mod gif;
mod jpeg;
mod orientation;
mod png;
mod tiff;

use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::image::codecs::{bmp::BmpDecoder, webp::WebPDecoder};
use ::image::{ColorType, ImageDecoder, ImageError, ImageFormat};

use rayon::prelude::*;

use super::image::RgbImage;

/// Size limits of an image. The defaults suit untrusted input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels (width times height). Default 89,478,485: Pillow warns of a decompression bomb from there.
    pub max_pixels: u64,
    /// Longest side in pixels. Default 16,384.
    pub max_side: u32,
    /// Largest encoded image in bytes. Default 256 MiB.
    pub max_bytes: u64,
    /// Most memory for the decoded samples in their own format, in bytes. Default 512 MiB.
    pub max_alloc: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 89_478_485, max_side: 16_384, max_bytes: 256 << 20, max_alloc: 512 << 20 }
    }
}

impl Limits {
    /// Checks the sides in a header.
    ///
    /// # Errors
    /// [`DecodeProblem::Empty`] or [`DecodeProblem::TooLarge`].
    pub fn check_size(&self, width: u32, height: u32) -> Result<(), DecodeProblem> {
        if width == 0 || height == 0 {
            return Err(DecodeProblem::Empty { width, height });
        }
        let too_large =
            |what: &'static str, limit: u64| DecodeProblem::TooLarge { width, height, what, limit };
        if width.max(height) > self.max_side {
            return Err(too_large("pixels per side", self.max_side.into()));
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(too_large("pixels", self.max_pixels));
        }
        Ok(())
    }

    fn check_samples(&self, width: u32, height: u32, bytes: u64) -> Result<(), DecodeProblem> {
        self.check_size(width, height)?;
        if bytes > self.max_alloc {
            let limit = self.max_alloc;
            return Err(DecodeProblem::TooLarge { width, height, what: "bytes of decoded samples", limit });
        }
        Ok(())
    }

    fn of_image_crate(&self) -> ::image::Limits {
        let mut limits = ::image::Limits::no_limits();
        limits.max_alloc = Some(self.max_alloc);
        limits
    }
}

/// Limits and orientation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Size limits of an image.
    pub limits: Limits,
    /// Turn the picture upright by its EXIF orientation (default true). timm does not.
    pub exif_orientation: bool,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), exif_orientation: true }
    }
}

impl DecodeOptions {
    /// timm's evaluation: EXIF orientation is ignored.
    pub fn timm() -> Self {
        Self { exif_orientation: false, ..Self::default() }
    }
}

/// The image could not be decoded.
#[derive(Debug, thiserror::Error)]
#[error("{}{problem}", file.as_ref().map(|name| format!("{name}: ")).unwrap_or_default())]
pub struct DecodeError {
    /// The file or archive member, if the bytes have a name.
    pub file: Option<String>,
    /// What is wrong with it.
    #[source]
    pub problem: DecodeProblem,
}

impl DecodeError {
    /// The same error with the file's name.
    pub fn named(self, file: impl Into<String>) -> Self {
        Self { file: Some(file.into()), ..self }
    }
}

impl From<DecodeProblem> for DecodeError {
    fn from(problem: DecodeProblem) -> Self {
        Self { file: None, problem }
    }
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeProblem {
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// There is no content.
    #[error("the file is empty")]
    NoBytes,
    /// An unknown format.
    #[error(
        "not a known image format: it begins with {begins:?}\n  hint: JPEG, PNG, WebP, GIF, BMP and TIFF can be read"
    )]
    UnknownFormat {
        /// The first bytes, printable ones as characters.
        begins: String,
    },
    /// A valid file with an unsupported feature.
    #[error("{format}: unsupported: {reason}")]
    Unsupported {
        /// The format.
        format: &'static str,
        /// What is unsupported.
        reason: String,
    },
    /// The content is damaged.
    #[error("{format}: damaged: {reason}")]
    Damaged {
        /// The format.
        format: &'static str,
        /// The decoder's message.
        reason: String,
    },
    /// The header declares no pixels.
    #[error("an image of {width} x {height} pixels has no pixels")]
    Empty {
        /// Declared width.
        width: u32,
        /// Declared height.
        height: u32,
    },
    /// The header declares more than the limits allow.
    #[error(
        "{width} x {height} pixels is more than the limit of {limit} {what}\n  hint: \
         such a size is often an attack; raise the limit only for files you trust"
    )]
    TooLarge {
        /// Declared width.
        width: u32,
        /// Declared height.
        height: u32,
        /// The unit of the limit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The encoded bytes are more than the limits allow.
    #[error("more than the limit of {limit} encoded bytes")]
    TooManyBytes {
        /// The limit.
        limit: u64,
    },
}

/// A picture and notes on its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The picture.
    pub image: RgbImage,
    /// Short sentences on faults of the file or parts left out, without the file's name. Usually empty.
    pub notes: Vec<String>,
}

/// Decodes an image in memory; notes of [`decode_noting`] are dropped.
///
/// # Errors
/// [`DecodeError`] without a file name; add one with [`DecodeError::named`].
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, DecodeError> {
    decode_noting(bytes, options).map(|decoded| decoded.image)
}

/// Decodes an image in memory.
///
/// A decoder that panics on damaged input is caught and reported as [`DecodeProblem::Damaged`]. The panic hook,
/// which by default writes to standard error, still runs. It may call [`is_guarded`] to stay silent.
///
/// # Errors
/// [`DecodeError`] without a file name; add one with [`DecodeError::named`].
pub fn decode_noting(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    if bytes.len() as u64 > options.limits.max_bytes {
        return Err(DecodeProblem::TooManyBytes { limit: options.limits.max_bytes }.into());
    }
    let format = format_of(bytes)?;
    GUARDED.set(true);
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let mut notes = Vec::new();
        let image = decode_as(format, bytes, options, &mut notes)?;
        Ok(Decoded { image, notes })
    }));
    GUARDED.set(false);
    let panicked = |_| Err(damaged(format_name(format), "the decoder gave up"));
    decoded.unwrap_or_else(panicked).map_err(DecodeError::from)
}

std::thread_local! {
    static GUARDED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether this thread is inside a decoder whose panics become errors. A panic hook can then stay silent.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Reads and decodes an image file; notes of [`open_noting`] are dropped.
///
/// # Errors
/// [`DecodeError`] with the file's name.
pub fn open(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<RgbImage, DecodeError> {
    open_noting(path, options).map(|decoded| decoded.image)
}

/// Decodes many files, on rayon's threads, in their order.
///
/// # Errors
/// The error of the first file that cannot be read or decoded.
pub fn open_all(
    paths: &[impl AsRef<Path> + Sync],
    options: &DecodeOptions,
) -> Result<Vec<RgbImage>, DecodeError> {
    paths.par_iter().map(|path| open(path, options)).collect()
}

/// Reads and decodes an image file.
///
/// # Errors
/// [`DecodeError`] with the file's name.
pub fn open_noting(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    let path = path.as_ref();
    let named = |error: DecodeError| error.named(path.display().to_string());
    let bytes = read_limited(path, options.limits.max_bytes).map_err(|problem| named(problem.into()))?;
    decode_noting(&bytes, options).map_err(named)
}

/// All bytes of a file of at most `limit` bytes.
fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, DecodeProblem> {
    let file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    if size > limit {
        return Err(DecodeProblem::TooManyBytes { limit });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    // The size of a pipe or a growing file is not reliable.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(DecodeProblem::TooManyBytes { limit });
    }
    Ok(bytes)
}

fn format_of(bytes: &[u8]) -> Result<ImageFormat, DecodeProblem> {
    match ::image::guess_format(bytes) {
        Ok(
            format @ (ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::WebP
            | ImageFormat::Gif
            | ImageFormat::Bmp
            | ImageFormat::Tiff),
        ) => Ok(format),
        _ if bytes.starts_with(b"II\x2b\0") || bytes.starts_with(b"MM\0\x2b") => Ok(ImageFormat::Tiff),
        _ if bytes.is_empty() => Err(DecodeProblem::NoBytes),
        _ => {
            let begins = bytes[..bytes.len().min(12)].escape_ascii().to_string();
            Err(DecodeProblem::UnknownFormat { begins })
        }
    }
}

fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        _ => "TIFF",
    }
}

fn decode_as(
    format: ImageFormat,
    bytes: &[u8],
    options: &DecodeOptions,
    notes: &mut Vec<String>,
) -> Result<RgbImage, DecodeProblem> {
    let limits = &options.limits;
    let problem = |error| of_image_crate(format_name(format), error);
    match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, options, notes),
        ImageFormat::Gif => gif::decode(bytes, limits),
        ImageFormat::Png => png::decode(bytes, options, notes),
        ImageFormat::WebP => {
            decode_with(WebPDecoder::new(Cursor::new(bytes)).map_err(problem)?, format, false, options)
        }
        ImageFormat::Bmp => {
            let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(problem)?;
            let image = decode_with(decoder, format, false, options)?;
            Ok(if bmp_is_16_bit(bytes) { bmp_levels(image, bytes) } else { image })
        }
        _ => tiff::decode(bytes, limits),
    }
}

/// The common path: header, limits, orientation, samples, RGB.
fn decode_with(
    mut decoder: impl ImageDecoder,
    format: ImageFormat,
    grey16: bool,
    options: &DecodeOptions,
) -> Result<RgbImage, DecodeProblem> {
    let name = format_name(format);
    let (width, height) = decoder.dimensions();
    options.limits.check_samples(width, height, decoder.total_bytes())?;
    decoder.set_limits(options.limits.of_image_crate()).map_err(|error| of_image_crate(name, error))?;
    // Damaged metadata do not prevent decoding.
    let exif = decoder.exif_metadata().unwrap_or_default();
    let xmp = decoder.xmp_metadata().unwrap_or_default();
    let orientation = orientation::of(exif.as_deref(), xmp.as_deref(), options);
    let color = decoder.color_type();
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples).map_err(|error| of_image_crate(name, error))?;
    let rgb = rgb_of_samples(color, grey16, samples)
        .ok_or_else(|| unsupported(name, format!("samples of type {color:?}")))?;
    Ok(orientation::orient(rgb_image(name, width, height, rgb)?, orientation))
}

fn bmp_is_16_bit(bytes: &[u8]) -> bool {
    bytes.get(28..30) == Some(&[16, 0])
}

/// Levels of a 16-bit BMP, 5 or 6 bits per channel, rounded down as in Pillow instead of to the nearest.
fn bmp_levels(mut image: RgbImage, bytes: &[u8]) -> RgbImage {
    let masks = bytes.get(30) == Some(&3);
    let green_bits = if masks && bytes.get(58..62) == Some(&[0xe0, 0x07, 0, 0]) { 6 } else { 5 };
    for pixel in image.data_mut().chunks_exact_mut(3) {
        for (level, bits) in pixel.iter_mut().zip([5, green_bits, 5]) {
            let stored = u32::from(*level >> (8 - bits));
            *level = (stored * 255 / ((1 << bits) - 1)) as u8;
        }
    }
    image
}

/// Samples of the `image` crate (16-bit ones in native byte order) to RGB.
fn rgb_of_samples(color: ColorType, grey16: bool, samples: Vec<u8>) -> Option<Vec<u8>> {
    let repeat = |channels: usize| samples.chunks_exact(channels).flat_map(|s| [s[0]; 3]).collect();
    let first_three =
        |channels: usize| samples.chunks_exact(channels).flat_map(|s| [s[0], s[1], s[2]]).collect();
    let sample = |s: &[u8], at: usize| u16::from_ne_bytes([s[2 * at], s[2 * at + 1]]);
    let high = |s: &[u8], at: usize| (sample(s, at) >> 8) as u8;
    Some(match color {
        ColorType::L8 => repeat(1),
        ColorType::La8 => repeat(2),
        ColorType::Rgb8 => samples,
        ColorType::Rgba8 => first_three(4),
        ColorType::L16 => samples.chunks_exact(2).flat_map(|s| [sample(s, 0).min(255) as u8; 3]).collect(),
        ColorType::La16 if grey16 => {
            samples.chunks_exact(4).flat_map(|s| [sample(s, 0).min(255) as u8; 3]).collect()
        }
        ColorType::La16 => samples.chunks_exact(4).flat_map(|s| [high(s, 0); 3]).collect(),
        ColorType::Rgb16 => samples.chunks_exact(2).map(|s| high(s, 0)).collect(),
        ColorType::Rgba16 => {
            samples.chunks_exact(8).flat_map(|s| [high(s, 0), high(s, 1), high(s, 2)]).collect()
        }
        _ => return None,
    })
}

/// Pillow's `cmyk2rgb`: `k - c * k / 255` with rounding, `c` and `k` counting ink.
fn rgb_of_cmyk(cmyk: &[u8]) -> [u8; 3] {
    let paper = 255 - i32::from(cmyk[3]);
    let channel = |ink: u8| {
        let product = i32::from(ink) * paper + 128;
        (paper - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    };
    [channel(cmyk[0]), channel(cmyk[1]), channel(cmyk[2])]
}

/// Turns a wrong number of samples from a decoder into an error instead of a panic.
fn rgb_image(
    format: &'static str,
    width: u32,
    height: u32,
    data: Vec<u8>,
) -> Result<RgbImage, DecodeProblem> {
    RgbImage::new(width, height, data).map_err(|error| damaged(format, error))
}

fn damaged(format: &'static str, reason: impl std::fmt::Display) -> DecodeProblem {
    DecodeProblem::Damaged { format, reason: reason.to_string() }
}

fn unsupported(format: &'static str, reason: impl std::fmt::Display) -> DecodeProblem {
    DecodeProblem::Unsupported { format, reason: reason.to_string() }
}

fn of_image_crate(format: &'static str, error: ImageError) -> DecodeProblem {
    match error {
        ImageError::Unsupported(error) => unsupported(format, error),
        error => damaged(format, error),
    }
}
