//! Strips and tiles to samples: decompression, prediction, placement.

use std::io::Read;

use flate2::bufread::ZlibDecoder;
use weezl::BitOrder;

use super::NAME;
use super::directory::{Directory, Tag};
use super::layout::{Layout, Mode, Packing};
use crate::data::decode::{DecodeProblem, Limits, damaged, jpeg, unsupported};

/// All samples, with the channels of a pixel side by side, each in one, two or four bytes in native order.
pub(super) fn read(
    directory: &Directory,
    layout: &Layout,
    limits: &Limits,
) -> Result<Vec<u8>, DecodeProblem> {
    let (chunk_width, chunk_height) = layout.chunk;
    let (across, down) = (layout.width.div_ceil(chunk_width), layout.height.div_ceil(chunk_height));
    let planes = if layout.planar { layout.channels } else { 1 };
    let places = Places::new(directory, layout)?;
    let mut samples = vec![0; layout.width * layout.height * layout.channels * layout.sample_bytes()];
    for number in 0..across * down * planes {
        let (plane, within) = (number / (across * down), number % (across * down));
        let (x, y) = (within % across * chunk_width, within / across * chunk_height);
        let rows = if layout.tiled { chunk_height } else { chunk_height.min(layout.height - y) };
        let stored = places.stored(number, layout, rows)?;
        let chunk = Unpacker { directory, layout, limits, rows }.unpack(stored)?;
        place(&chunk, (x, y, plane), layout, &mut samples);
    }
    Ok(samples)
}

/// Copies the part of a chunk that is inside the picture.
fn place(chunk: &[u8], (x, y, plane): (usize, usize, usize), layout: &Layout, samples: &mut [u8]) {
    let bytes = layout.sample_bytes();
    let together = layout.channels_together() * bytes;
    let (pixel, width) = (layout.channels * bytes, layout.chunk.0.min(layout.width - x));
    let rows = samples.chunks_exact_mut(layout.width * pixel).skip(y);
    for (row, chunk) in rows.zip(chunk.chunks_exact(layout.chunk.0 * together)) {
        let pixels = row[x * pixel..][..width * pixel].chunks_exact_mut(pixel);
        for (to, from) in pixels.zip(chunk.chunks_exact(together)) {
            to[plane * bytes..][..together].copy_from_slice(from);
        }
    }
}

/// Places of the chunks in the file.
struct Places<'a> {
    bytes: &'a [u8],
    offsets: Vec<u64>,
    counts: Option<Vec<u64>>,
}

impl<'a> Places<'a> {
    fn new(directory: &Directory<'a>, layout: &Layout) -> Result<Self, DecodeProblem> {
        let (offsets, counts) = if layout.tiled {
            (Tag::TileOffsets, Tag::TileByteCounts)
        } else {
            (Tag::StripOffsets, Tag::StripByteCounts)
        };
        let offsets = directory.numbers(offsets)?;
        let offsets = offsets.ok_or_else(|| unsupported(NAME, "a page without strips and tiles"))?;
        Ok(Self { bytes: directory.bytes, offsets, counts: directory.numbers(counts)? })
    }

    fn stored(&self, number: usize, layout: &Layout, rows: usize) -> Result<&'a [u8], DecodeProblem> {
        let missing = || damaged(NAME, format!("the strip or tile {number} is not in the file"));
        let &offset = self.offsets.get(number).ok_or_else(missing)?;
        let rest = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..));
        let rest = rest.ok_or_else(missing)?;
        let count = self.counts.as_ref().and_then(|counts| counts.get(number).copied());
        let size = match layout.packing {
            // Pillow ignores the stated number of bytes.
            Packing::None => chunk_bytes(layout, rows) as u64,
            _ => count.unwrap_or(rest.len() as u64).min(rest.len() as u64),
        };
        rest.get(..size as usize).ok_or_else(missing)
    }
}

/// Bytes of `rows` rows of a decompressed chunk.
fn chunk_bytes(layout: &Layout, rows: usize) -> usize {
    let (across, down) = layout.subsampling;
    if (across, down) == (1, 1) || layout.packing == Packing::Jpeg {
        return layout.row_bytes(layout.chunk.0) * rows;
    }
    layout.chunk.0.div_ceil(across) * rows.div_ceil(down) * (across * down + 2)
}

struct Unpacker<'a> {
    directory: &'a Directory<'a>,
    layout: &'a Layout,
    limits: &'a Limits,
    rows: usize,
}

impl Unpacker<'_> {
    fn unpack(&self, stored: &[u8]) -> Result<Vec<u8>, DecodeProblem> {
        let layout = self.layout;
        let reversed: Vec<u8>;
        let stored = if layout.reversed_bits && layout.packing != Packing::Jpeg {
            reversed = stored.iter().map(|byte| byte.reverse_bits()).collect();
            &reversed
        } else {
            stored
        };
        match layout.packing {
            Packing::Jpeg => return self.jpeg(stored),
            Packing::WebP => return self.webp(stored),
            _ => {}
        }
        let size = chunk_bytes(layout, self.rows);
        let mut bytes = match layout.packing {
            Packing::None => stored.to_vec(),
            Packing::PackBits => pack_bits(stored, size),
            Packing::Lzw => lzw(stored, size),
            Packing::Deflate => inflate(stored, size),
            Packing::Zstd => zstd(stored, size)?,
            Packing::Group3 | Packing::Group4 => self.fax(stored)?,
            Packing::Jpeg | Packing::WebP => Vec::new(),
        };
        if bytes.len() < size {
            return Err(damaged(NAME, format!("{} of {size} bytes in a strip or tile", bytes.len())));
        }
        bytes.truncate(size);
        if layout.mode == Mode::YCbCr && layout.subsampling != (1, 1) {
            if layout.planar {
                return Err(unsupported(NAME, "subsampled chroma in separate planes"));
            }
            return Ok(self.upsampled(&bytes));
        }
        self.predict(&mut bytes)?;
        Ok(self.samples(&bytes))
    }

    /// Expands each sample to one, two or four bytes.
    fn samples(&self, bytes: &[u8]) -> Vec<u8> {
        let layout = self.layout;
        let row = layout.row_bytes(layout.chunk.0);
        let count = layout.chunk.0 * layout.channels_together();
        match layout.bits {
            bits @ (1 | 2 | 4) => {
                let per_byte = 8 / bits;
                let value = |row: &[u8], at: usize| {
                    row[at / per_byte] >> (8 - bits * (at % per_byte + 1)) & (0xff >> (8 - bits))
                };
                let rows = bytes.chunks_exact(row);
                rows.flat_map(|row| (0..count).map(move |at| value(row, at))).collect()
            }
            12 => {
                let value = |row: &[u8], at: usize| {
                    let three = |n: usize| u16::from(*row.get(at / 2 * 3 + n).unwrap_or(&0));
                    let first = three(0) << 4 | three(1) >> 4;
                    (if at.is_multiple_of(2) { first } else { (three(1) & 15) << 8 | three(2) }).to_ne_bytes()
                };
                let rows = bytes.chunks_exact(row);
                rows.flat_map(|row| (0..count).flat_map(move |at| value(row, at))).collect()
            }
            _ => bytes.to_vec(),
        }
    }

    /// Converts samples to native byte order and undoes the prediction.
    fn predict(&self, bytes: &mut [u8]) -> Result<(), DecodeProblem> {
        let layout = self.layout;
        let predicts = matches!(layout.packing, Packing::Lzw | Packing::Deflate | Packing::Zstd);
        let predictor = if predicts { layout.predictor } else { 1 };
        let size = layout.sample_bytes();
        if predictor != 3 && layout.bits >= 16 && self.directory.little != cfg!(target_endian = "little") {
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        let rows = bytes.chunks_exact_mut(layout.row_bytes(layout.chunk.0));
        let step = layout.channels_together();
        match (predictor, layout.bits) {
            (0 | 1, _) => {}
            (2, 8) => rows.for_each(|row| {
                (step..row.len()).for_each(|at| row[at] = row[at].wrapping_add(row[at - step]));
            }),
            (2, 16) => {
                rows.for_each(|row| add(row, step, u16::from_ne_bytes, u16::wrapping_add, u16::to_ne_bytes))
            }
            (2, 32) => {
                rows.for_each(|row| add(row, step, u32::from_ne_bytes, u32::wrapping_add, u32::to_ne_bytes))
            }
            (3, 32) if layout.mode == Mode::Float => rows.for_each(|row| add_bytes(row, step)),
            (predictor, bits) => {
                return Err(unsupported(NAME, format!("predictor {predictor} of samples of {bits} bits")));
            }
        }
        Ok(())
    }

    /// Converts blocks of luma samples with two chroma samples to three samples per pixel.
    fn upsampled(&self, bytes: &[u8]) -> Vec<u8> {
        let (across, down) = self.layout.subsampling;
        let width = self.layout.chunk.0;
        let per_row = width.div_ceil(across);
        let mut pixels = vec![0; width * self.rows * 3];
        for (number, block) in bytes.chunks_exact(across * down + 2).enumerate() {
            let (x, y) = (number % per_row * across, number / per_row * down);
            let (luma, chroma) = block.split_at(across * down);
            for (at, &luma) in luma.iter().enumerate() {
                let (x, y) = (x + at % across, y + at / across);
                if x < width && y < self.rows {
                    let pixel = &mut pixels[(y * width + x) * 3..][..3];
                    pixel.copy_from_slice(&[luma, chroma[0], chroma[1]]);
                }
            }
        }
        pixels
    }

    fn fax(&self, stored: &[u8]) -> Result<Vec<u8>, DecodeProblem> {
        let layout = self.layout;
        if layout.bits != 1 || layout.channels != 1 {
            return Err(damaged(NAME, "fax compression of samples that are not one bit"));
        }
        let width = u16::try_from(layout.chunk.0).map_err(|_| unsupported(NAME, "such a wide fax"))?;
        let row = layout.row_bytes(layout.chunk.0);
        let size = row * self.rows;
        let mut bytes = Vec::new();
        let line = |transitions: &[u16]| {
            if bytes.len() < size {
                let start = bytes.len();
                bytes.resize(start + row, 0);
                for (x, pel) in fax::decoder::pels(transitions, width).enumerate() {
                    if pel == fax::Color::Black {
                        bytes[start + x / 8] |= 0x80 >> (x % 8);
                    }
                }
            }
        };
        if layout.packing == Packing::Group4 {
            let rows = u16::try_from(self.rows).ok();
            fax::decoder::decode_g4(stored.iter().copied(), width, rows, line);
        } else if self.directory.number(Tag::T4Options, 0)? & 1 == 1 {
            return Err(unsupported(NAME, "two-dimensional Group 3 compression"));
        } else {
            // The decoder needs a mark after the last line; a strip may lack it.
            fax::decoder::decode_g3(stored.iter().copied().chain([0, 1]), line);
        }
        Ok(bytes)
    }

    fn jpeg(&self, stored: &[u8]) -> Result<Vec<u8>, DecodeProblem> {
        let layout = self.layout;
        if layout.bits != 8 {
            return Err(unsupported(NAME, format!("JPEG compression of samples of {} bits", layout.bits)));
        }
        let tables = self.directory.bytes_of(Tag::JpegTables)?;
        let is_ycc = layout.mode == Mode::YCbCr && !layout.planar;
        let picture = jpeg::strip(tables, stored, is_ycc, self.limits)?;
        let row = layout.row_bytes(layout.chunk.0);
        let fits = picture.channels == layout.channels_together()
            && picture.width == layout.chunk.0
            && picture.pixels.len() >= row * self.rows;
        if !fits {
            return Err(damaged(NAME, "a JPEG of another size than its strip or tile"));
        }
        Ok(picture.pixels[..row * self.rows].to_vec())
    }

    fn webp(&self, stored: &[u8]) -> Result<Vec<u8>, DecodeProblem> {
        let layout = self.layout;
        let problem = |error| damaged(NAME, error);
        let mut decoder = image_webp::WebPDecoder::new(std::io::Cursor::new(stored)).map_err(problem)?;
        let size = decoder.output_buffer_size().unwrap_or(usize::MAX);
        let channels = if decoder.has_alpha() { 4 } else { 3 };
        let (width, height) = decoder.dimensions();
        self.limits.check_samples(width, height, size as u64)?;
        if layout.bits != 8 || (width as usize, height as usize) != (layout.chunk.0, self.rows) {
            return Err(damaged(NAME, "a WebP of another size than its strip or tile"));
        }
        let mut pixels = vec![0; size];
        decoder.read_image(&mut pixels).map_err(problem)?;
        match (channels, layout.channels_together()) {
            (3, 3) | (4, 4) => Ok(pixels),
            (3, 4) => Ok(pixels.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect()),
            _ => Err(damaged(NAME, "a WebP of other channels than its strip or tile")),
        }
    }
}

fn add<T: Copy, const N: usize>(
    row: &mut [u8],
    step: usize,
    from: fn([u8; N]) -> T,
    sum: fn(T, T) -> T,
    to: fn(T) -> [u8; N],
) {
    let (values, _) = row.as_chunks_mut::<N>();
    for at in step..values.len() {
        values[at] = to(sum(from(values[at]), from(values[at - step])));
    }
}

/// The bytes of a row's floats are stored as differences, highest bytes of all floats first.
fn add_bytes(row: &mut [u8], step: usize) {
    (step..row.len()).for_each(|at| row[at] = row[at].wrapping_add(row[at - step]));
    let planes = row.to_vec();
    let count = row.len() / 4;
    for (at, value) in row.chunks_exact_mut(4).enumerate() {
        let bytes = [0, 1, 2, 3].map(|byte| planes[byte * count + at]);
        value.copy_from_slice(&u32::from_be_bytes(bytes).to_ne_bytes());
    }
}

fn pack_bits(mut stored: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((&head, rest)) = stored.split_first().filter(|_| out.len() < size) {
        let (count, taken) = match head {
            0..=127 => (usize::from(head) + 1, usize::from(head) + 1),
            128 => (0, 0),
            129.. => (257 - usize::from(head), 1),
        };
        let Some(bytes) = rest.get(..taken) else {
            break;
        };
        out.extend((0..count).map(|at| bytes[if taken == 1 { 0 } else { at }]));
        stored = &rest[taken..];
    }
    out
}

/// The old form, which libtiff also reads, has the opposite bit order.
fn lzw(stored: &[u8], size: usize) -> Vec<u8> {
    let old = matches!(stored, [0, second, ..] if second & 1 == 1);
    let mut decoder = match old {
        true => weezl::decode::Configuration::new(BitOrder::Lsb, 8).build(),
        false => weezl::decode::Configuration::with_tiff_size_switch(BitOrder::Msb, 8).build(),
    };
    let mut out = vec![0; size];
    let mut written = 0;
    let mut rest = stored;
    while written < size {
        let step = decoder.decode_bytes(rest, &mut out[written..]);
        written += step.consumed_out;
        rest = &rest[step.consumed_in..];
        match step.status {
            Ok(weezl::LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
            _ => break,
        }
    }
    out.truncate(written);
    out
}

fn inflate(stored: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    // The caller counts the bytes before a fault.
    ZlibDecoder::new(stored).take(size as u64).read_to_end(&mut out).ok();
    out
}

fn zstd(_stored: &[u8], _size: usize) -> Result<Vec<u8>, DecodeProblem> {
    Err(unsupported(NAME, "Zstandard compression"))
}
