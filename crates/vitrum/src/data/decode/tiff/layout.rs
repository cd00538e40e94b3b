//! Format and place of a page's samples.

use super::NAME;
use super::directory::{Directory, Tag};
use crate::data::decode::{DecodeProblem, Limits, damaged, unsupported};

/// How the samples of a pixel become a colour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mode {
    /// Grey; further channels are ignored.
    Grey,
    /// Grey with white at zero.
    GreyInverted,
    /// Grey of 12, 16 or 32 bits: values are kept and clipped to 0 to 255.
    Unsigned,
    Signed,
    Float,
    Rgb,
    /// RGB premultiplied by the alpha after it.
    RgbTimesAlpha,
    Palette,
    Cmyk,
    YCbCr,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Packing {
    None,
    Group3,
    Group4,
    Lzw,
    Jpeg,
    Deflate,
    PackBits,
    WebP,
    Zstd,
}

pub(super) struct Layout {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) mode: Mode,
    pub(super) bits: usize,
    /// Samples of a pixel.
    pub(super) channels: usize,
    /// Each channel has its own chunks.
    pub(super) planar: bool,
    pub(super) packing: Packing,
    /// 1 none, 2 differences, 3 differences of floating-point bytes.
    pub(super) predictor: u64,
    pub(super) reversed_bits: bool,
    /// Size of a strip or tile.
    pub(super) chunk: (usize, usize),
    pub(super) tiled: bool,
    /// Luma samples per chroma sample, across and down.
    pub(super) subsampling: (usize, usize),
}

/// Key of Pillow's table of pixel modes.
struct Key<'a> {
    little: bool,
    photometric: u64,
    format: u64,
    reversed: bool,
    bits: u64,
    channels: usize,
    extra: &'a [u64],
}

impl Layout {
    pub(super) fn of(directory: &Directory, limits: &Limits) -> Result<Self, DecodeProblem> {
        let side = |tag| match directory.numbers(tag)?.as_deref() {
            Some(&[side, ..]) => u32::try_from(side).map_err(|_| damaged(NAME, "a side beyond all sizes")),
            _ => Err(damaged(NAME, "no width or no height")),
        };
        let (width, height) = (side(Tag::Width)?, side(Tag::Height)?);
        limits.check_size(width, height)?;
        let packing = packing(directory.number(Tag::Compression, 1)?)?;
        let planar = directory.number(Tag::PlanarConfiguration, 1)? == 2;
        let (bits, channels, extra) = samples(directory, planar)?;
        let key = Key {
            little: directory.little,
            photometric: directory.number(Tag::Photometric, 0)?,
            format: format(directory)?,
            reversed: directory.number(Tag::FillOrder, 1)? == 2,
            bits,
            channels,
            extra: &extra,
        };
        let mode = key.mode()?;
        let bytes = u64::from(width) * u64::from(height) * channels as u64 * bytes_of(bits as usize) as u64;
        limits.check_samples(width, height, bytes)?;
        let (chunk, tiled) = chunk(directory, width, height)?;
        let layout = Self {
            width: width as usize,
            height: height as usize,
            mode,
            bits: bits as usize,
            channels,
            planar: planar && channels > 1,
            packing,
            predictor: directory.number(Tag::Predictor, 1)?,
            reversed_bits: key.reversed,
            chunk,
            tiled,
            subsampling: if mode == Mode::YCbCr { subsampling(directory)? } else { (1, 1) },
        };
        // A chunk may be larger than the picture, and grows if its bits become bytes.
        let sizes = [layout.chunk.0, layout.chunk.1, layout.channels_together(), layout.sample_bytes()];
        let chunk_bytes = sizes.iter().fold(1_u64, |product, &size| product.saturating_mul(size as u64));
        limits.check_samples(width, height, chunk_bytes)?;
        Ok(layout)
    }

    /// Channels in one chunk.
    pub(super) fn channels_together(&self) -> usize {
        if self.planar { 1 } else { self.channels }
    }

    /// Bytes of a row of a chunk `width` pixels wide.
    pub(super) fn row_bytes(&self, width: usize) -> usize {
        width.saturating_mul(self.channels_together() * self.bits).div_ceil(8)
    }

    /// Bytes of a decompressed sample.
    pub(super) fn sample_bytes(&self) -> usize {
        bytes_of(self.bits)
    }
}

fn bytes_of(bits: usize) -> usize {
    match bits {
        0..=8 => 1,
        9..=16 => 2,
        _ => 4,
    }
}

fn packing(number: u64) -> Result<Packing, DecodeProblem> {
    let name = match number {
        1 => return Ok(Packing::None),
        3 => return Ok(Packing::Group3),
        4 => return Ok(Packing::Group4),
        5 => return Ok(Packing::Lzw),
        7 => return Ok(Packing::Jpeg),
        8 | 32946 => return Ok(Packing::Deflate),
        32773 => return Ok(Packing::PackBits),
        50001 => return Ok(Packing::WebP),
        50000 => return Ok(Packing::Zstd),
        2 => "CCITT run length (modified Huffman)",
        6 => "old-style JPEG",
        34925 => "LZMA",
        34676 | 34677 => "SGI LogLuv",
        34712 => "JPEG 2000",
        34887 => "LERC",
        number => return Err(unsupported(NAME, format!("compression {number}"))),
    };
    Err(unsupported(NAME, format!("{name} compression")))
}

/// Bits and number of a pixel's samples, and the meaning of extra ones, as Pillow interprets them.
fn samples(directory: &Directory, planar: bool) -> Result<(u64, usize, Vec<u64>), DecodeProblem> {
    let mut bits = directory.numbers(Tag::BitsPerSample)?.unwrap_or_else(|| vec![1]);
    let mut extra = directory.numbers(Tag::ExtraSamples)?.unwrap_or_default();
    let mut count = directory.number(Tag::SamplesPerPixel, 1)? as usize;
    // Unspecified planes at the end need not be read.
    if planar && extra.iter().max() == Some(&0) {
        bits.truncate(bits.len().saturating_sub(extra.len()).max(1));
        count = count.saturating_sub(extra.len());
        extra.clear();
    }
    if count < bits.len() {
        bits.truncate(count);
    } else if bits.len() > 1 && bits.len() < count {
        return Err(unsupported(
            NAME,
            format!("{count} samples per pixel of which {} have bits", bits.len()),
        ));
    }
    match bits[..] {
        [first, ..] if bits.iter().all(|&bits| bits == first) => Ok((first, count, extra)),
        _ => Err(unsupported(NAME, format!("samples of {bits:?} bits"))),
    }
}

fn format(directory: &Directory) -> Result<u64, DecodeProblem> {
    let formats = directory.numbers(Tag::SampleFormat)?.unwrap_or_default();
    match formats[..] {
        [] => Ok(1),
        [first, ..] if formats.iter().all(|&format| format == first) => Ok(first),
        _ => Err(unsupported(NAME, format!("samples of the formats {formats:?}"))),
    }
}

fn chunk(directory: &Directory, width: u32, height: u32) -> Result<((usize, usize), bool), DecodeProblem> {
    let tiled = directory.numbers(Tag::TileOffsets)?.is_some();
    let (width, height) = if tiled {
        (directory.number(Tag::TileWidth, 0)?, directory.number(Tag::TileLength, 0)?)
    } else {
        (width.into(), directory.number(Tag::RowsPerStrip, u64::MAX)?.min(height.into()))
    };
    let side = |side| u32::try_from(side).ok().filter(|&side| side > 0).map(|side| side as usize);
    match (side(width), side(height)) {
        (Some(width), Some(height)) => Ok(((width, height), tiled)),
        _ => Err(damaged(NAME, "strips or tiles without a size")),
    }
}

fn subsampling(directory: &Directory) -> Result<(usize, usize), DecodeProblem> {
    let factors = directory.numbers(Tag::YCbCrSubsampling)?.unwrap_or_else(|| vec![2, 2]);
    match factors[..] {
        [across @ (1 | 2 | 4), down @ (1 | 2 | 4)] => Ok((across as usize, down as usize)),
        _ => Err(unsupported(NAME, format!("chroma sampled {factors:?}"))),
    }
}

impl Key<'_> {
    /// Pillow's table `OPEN_INFO`.
    fn mode(&self) -> Result<Mode, DecodeProblem> {
        let ordered = !self.reversed;
        let mode = match (self.photometric, self.format, self.bits, self.channels, self.extra) {
            (0, 1, 1 | 2 | 4 | 8, 1, []) => Mode::GreyInverted,
            (1, 1, 1 | 2 | 4 | 8, 1, []) => Mode::Grey,
            (1, 2, 8, 1, []) if ordered => Mode::Grey,
            (1, 1, 12, 1, []) if ordered && self.little => Mode::Unsigned,
            (0, 1, 16, 1, []) if ordered && self.little => Mode::Unsigned,
            (1, 1, 16, 1, []) if ordered || self.little => Mode::Unsigned,
            (1, 1, 32, 1, []) if ordered => Mode::Unsigned,
            (1, 2, 16 | 32, 1, []) if ordered => Mode::Signed,
            (0 | 1, 3, 32, 1, []) if ordered => Mode::Float,
            (1, 1, 8, 2, [0 | 2]) if ordered => Mode::Grey,
            (2, 1, 8, 3, []) => Mode::Rgb,
            (2, 1, 16, 3, []) if ordered => Mode::Rgb,
            (2, 1, 8 | 16, 4, [] | [0 | 2]) if ordered => Mode::Rgb,
            (2, 1, 8 | 16, 4, [1]) if ordered => Mode::RgbTimesAlpha,
            (2, 1, 8, 4, [999]) if ordered => Mode::Rgb,
            (2, 1, 8, 5, [0 | 2, 0]) | (2, 1, 8, 6, [0 | 2, 0, 0]) if ordered => Mode::Rgb,
            (2, 1, 8, 5, [1, 0]) | (2, 1, 8, 6, [1, 0, 0]) if ordered => Mode::RgbTimesAlpha,
            (3, 1, 1 | 2 | 4 | 8, 1, []) => Mode::Palette,
            (3, 1, 8, 2, [0 | 2]) if ordered => Mode::Palette,
            (5, 1, 8 | 16, 4, []) if ordered => Mode::Cmyk,
            (5, 1, 8, 5, [0]) | (5, 1, 8, 6, [0, 0]) if ordered => Mode::Cmyk,
            (6, 1, 8, 1, []) if ordered => Mode::Grey,
            (6, 1, 8, 3, []) if ordered => Mode::YCbCr,
            _ => return Err(unsupported(NAME, self.words())),
        };
        Ok(mode)
    }

    fn words(&self) -> String {
        let color = match self.photometric {
            0 | 1 => "grey".into(),
            2 => "RGB".into(),
            3 => "palette".into(),
            4 => "mask".into(),
            5 => "CMYK".into(),
            6 => "YCbCr".into(),
            8..=10 => "Lab".into(),
            number => format!("photometric {number}"),
        };
        let kind = match self.format {
            1 => "",
            2 => "signed ",
            3 => "floating-point ",
            5 | 6 => "complex ",
            _ => "undefined ",
        };
        let order = if self.reversed { " in reversed order" } else { "" };
        let extra = match self.extra {
            [] => String::new(),
            extra => format!(", extra samples of the kinds {extra:?}"),
        };
        let Self { bits, channels, .. } = self;
        format!("{color} of {channels} {kind}samples of {bits} bits{order}{extra}")
    }
}
