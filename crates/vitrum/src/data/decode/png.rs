//! PNG through the `png` crate, with Pillow's leniency: files with a wrong checksum or without an end.

use std::borrow::Cow;
use std::io::{BufRead, Cursor, Read, Seek};

use ::png::{BitDepth, ColorType, Decoder, Reader, Transformations};
use flate2::Crc;
use flate2::bufread::DeflateDecoder;

use super::orientation::{self, orient};
use super::{DecodeOptions, DecodeProblem, Limits, damaged, rgb_image};
use crate::data::image::RgbImage;

const NAME: &str = "PNG";
const SIGNATURE: usize = 8;

pub(super) fn decode(
    bytes: &[u8],
    options: &DecodeOptions,
    notes: &mut Vec<String>,
) -> Result<RgbImage, DecodeProblem> {
    check_header(bytes)?;
    match read(bytes, options) {
        Err(DecodeProblem::Damaged { reason, .. }) => {
            let (whole, faults) = repaired(bytes, &options.limits, &reason)?;
            notes.extend(faults.into_iter().map(String::from));
            read(&whole, options)
        }
        result => result,
    }
}

fn problem(error: ::png::DecodingError) -> DecodeProblem {
    damaged(NAME, error)
}

fn read(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, DecodeProblem> {
    let limits = ::png::Limits { bytes: options.limits.max_alloc.try_into().unwrap_or(usize::MAX) };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    // Expands grey of 1, 2 and 4 bits and palettes to 8 bits.
    decoder.set_transformations(Transformations::EXPAND);
    decoder.ignore_checksums(false);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let (width, height) = {
        let header = decoder.read_header_info().map_err(problem)?;
        (header.width, header.height)
    };
    options.limits.check_size(width, height)?;
    let mut reader = decoder.read_info().map_err(problem)?;
    let size = reader.output_buffer_size().ok_or_else(|| damaged(NAME, "its size overflows"))?;
    options.limits.check_samples(width, height, size as u64)?;
    let mut samples = vec![0; size];
    reader.next_frame(&mut samples).map_err(problem)?;
    let image = rgb_image(NAME, width, height, rgb_of_samples(&reader, &samples))?;
    let exif = reader.info().exif_metadata.as_deref();
    Ok(orient(image, orientation::of(exif, xmp(bytes).as_deref(), options)))
}

/// The high byte of 16-bit samples. Exception: 16-bit grey keeps its value, at most 255, as in Pillow's mode
/// `I;16`. Grey with alpha does not have that mode.
fn rgb_of_samples<R: BufRead + Seek>(reader: &Reader<R>, samples: &[u8]) -> Vec<u8> {
    let grey16 = |pair: &[u8]| if pair[0] > 0 { 255 } else { pair[1] };
    let (color, depth) = reader.output_color_type();
    let bytes = if depth == BitDepth::Sixteen { 2 } else { 1 };
    let pixels = samples.chunks_exact(bytes * color.samples());
    match color {
        _ if bytes == 2 && reader.info().color_type == ColorType::Grayscale => {
            pixels.flat_map(|pixel| [grey16(pixel); 3]).collect()
        }
        ColorType::Grayscale | ColorType::GrayscaleAlpha => pixels.flat_map(|pixel| [pixel[0]; 3]).collect(),
        _ => pixels.flat_map(|pixel| [pixel[0], pixel[bytes], pixel[2 * bytes]]).collect(),
    }
}

/// The uncompressed text chunk with this name, before or after the pixels.
fn xmp(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut at = SIGNATURE;
    while let Some(chunk) = chunk(bytes, at) {
        if &chunk.name == b"iTXt" && chunk.data.starts_with(b"XML:com.adobe.xmp\0\0") {
            return Some(chunk.data.to_vec());
        }
        at = chunk.end;
    }
    None
}

struct Chunk<'a> {
    name: [u8; 4],
    data: &'a [u8],
    /// Whether the checksum is present and correct.
    sound: bool,
    /// Offset of the next chunk.
    end: usize,
}

/// The chunk that begins at `at`; `None` if its data are incomplete.
fn chunk(bytes: &[u8], at: usize) -> Option<Chunk<'_>> {
    let length = u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?) as usize;
    let name = *bytes.get(at + 4..)?.first_chunk()?;
    let end = (at + 8).checked_add(length)?;
    let data = bytes.get(at + 8..end)?;
    let mut crc = Crc::new();
    crc.update(&bytes[at + 4..end]);
    let stored = bytes.get(end..).and_then(<[u8]>::first_chunk);
    let sound = stored.is_some_and(|&sum| u32::from_be_bytes(sum) == crc.sum());
    Some(Chunk { name, data, sound, end: end + 4 })
}

/// Pillow refuses a wrong checksum in any chunk before the pixels, even if the chunk does not affect them.
fn check_header(bytes: &[u8]) -> Result<(), DecodeProblem> {
    let mut at = SIGNATURE;
    // The decoder checks the checksums of the pixels.
    while bytes.get(at + 4..at + 8).is_some_and(|name| name != b"IDAT") {
        let chunk = chunk(bytes, at).ok_or_else(|| damaged(NAME, "the file ends before its pixels"))?;
        if !chunk.sound {
            let name = chunk.name.escape_ascii();
            return Err(damaged(NAME, format!("the checksum of the chunk {name} is wrong")));
        }
        at = chunk.end;
    }
    Ok(())
}

/// The file with correct checksums, uncompressed pixels and an end chunk, and a note on its faults.
///
/// Pillow stops after the last row. It checks no later checksum and no end chunk.
fn repaired(
    bytes: &[u8],
    limits: &Limits,
    reason: &str,
) -> Result<(Vec<u8>, Vec<&'static str>), DecodeProblem> {
    let gone = || damaged(NAME, reason);
    let mut at = SIGNATURE;
    let mut faults = Vec::new();
    let mut packed = Vec::new();
    let mut header = bytes[..SIGNATURE].to_vec();
    while let Some(chunk) = partial_chunk(bytes, at) {
        match &chunk.name {
            b"IDAT" => {
                packed.extend_from_slice(chunk.data);
                if !chunk.sound && faults.is_empty() {
                    faults.push("the checksum of its pixels is wrong: they may be damaged");
                }
            }
            _ if !packed.is_empty() => break,
            b"IHDR" | b"PLTE" | b"tRNS" | b"eXIf" => header.extend_from_slice(&bytes[at..chunk.end]),
            _ => {}
        }
        at = chunk.end;
    }
    let needed = raw_size(&header).ok_or_else(gone)?;
    limits.check_samples(1, 1, needed)?;
    let raw = rows(&packed, needed).ok_or_else(gone)?;
    if !has_end(bytes, at) {
        faults.push("the file lacks its end chunk");
    }
    Ok((with_rows(&header, &raw), faults))
}

/// `needed` bytes of the compressed stream. Its checksum must be correct if it is complete.
fn rows(packed: &[u8], needed: u64) -> Option<Vec<u8>> {
    let (head, stream) = packed.split_first_chunk::<2>()?;
    if head[0] & 15 != 8 || u16::from_be_bytes(*head) % 31 != 0 {
        return None;
    }
    let mut decoder = DeflateDecoder::new(stream);
    let mut raw = Vec::new();
    // A stream that ends after its last row is complete.
    (&mut decoder).take(needed).read_to_end(&mut raw).ok();
    if (raw.len() as u64) < needed {
        return None;
    }
    let ended = decoder.read(&mut [0]).is_ok_and(|more| more == 0);
    let sum = stream.get(decoder.total_in() as usize..).and_then(<[u8]>::first_chunk);
    match sum {
        Some(&sum) if ended && u32::from_be_bytes(sum) != adler32(&raw) => None,
        _ => Some(raw),
    }
}

/// As [`chunk`], but the last chunk of a file may be truncated.
fn partial_chunk(bytes: &[u8], at: usize) -> Option<Chunk<'_>> {
    chunk(bytes, at).or_else(|| {
        let name = *bytes.get(at.checked_add(4)?..)?.first_chunk()?;
        Some(Chunk { name, data: &bytes[at + 8..], sound: false, end: bytes.len() })
    })
}

fn has_end(bytes: &[u8], mut at: usize) -> bool {
    while let Some(chunk) = chunk(bytes, at) {
        if &chunk.name == b"IEND" {
            return true;
        }
        at = chunk.end;
    }
    false
}

/// Bytes of all rows with their filters, from the header chunk.
fn raw_size(header: &[u8]) -> Option<u64> {
    let number = |at: usize| Some(u64::from(u32::from_be_bytes(*header.get(at..)?.first_chunk()?)));
    let (width, height) = (number(16)?, number(20)?);
    let channels = match header.get(25)? {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let bits = u64::from(*header.get(24)?) * channels;
    let rows = |width: u64, height: u64| match width {
        0 => 0,
        _ => height.saturating_mul((width * bits).div_ceil(8) + 1),
    };
    if header.get(28)? == &0 {
        return Some(rows(width, height));
    }
    // Adam7: first column, first row, steps.
    let passes =
        [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)];
    let steps = |size: u64, first: u64, step: u64| size.saturating_sub(first).div_ceil(step);
    Some(passes.iter().map(|&(x, y, dx, dy)| rows(steps(width, x, dx), steps(height, y, dy))).sum())
}

/// `header`, the rows in stored (uncompressed) blocks, and an end chunk.
fn with_rows(header: &[u8], raw: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 1];
    let mut blocks = raw.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        stream.push(blocks.peek().is_none().into());
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    stream.extend(adler32(raw).to_be_bytes());
    let mut whole = header.to_vec();
    for (name, data) in [(b"IDAT", Cow::from(stream)), (b"IEND", Cow::default())] {
        let start = whole.len() + 4;
        whole.extend((data.len() as u32).to_be_bytes());
        whole.extend(name);
        whole.extend(data.iter());
        let mut crc = Crc::new();
        crc.update(&whole[start..]);
        whole.extend(crc.sum().to_be_bytes());
    }
    whole
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (1_u32, 0_u32);
    for &byte in bytes {
        low = (low + u32::from(byte)) % 65521;
        high = (high + low) % 65521;
    }
    high << 16 | low
}
