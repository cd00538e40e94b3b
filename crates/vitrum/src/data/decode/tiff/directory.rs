//! The first directory of a TIFF or BigTIFF and its values.

use std::collections::HashMap;

use super::NAME;
use crate::data::decode::{DecodeProblem, damaged};

#[derive(Debug, Clone, Copy)]
pub(super) enum Tag {
    Width = 256,
    Height = 257,
    BitsPerSample = 258,
    Compression = 259,
    Photometric = 262,
    FillOrder = 266,
    StripOffsets = 273,
    Orientation = 274,
    SamplesPerPixel = 277,
    RowsPerStrip = 278,
    StripByteCounts = 279,
    PlanarConfiguration = 284,
    T4Options = 292,
    Predictor = 317,
    ColorMap = 320,
    TileWidth = 322,
    TileLength = 323,
    TileOffsets = 324,
    TileByteCounts = 325,
    ExtraSamples = 338,
    SampleFormat = 339,
    JpegTables = 347,
    YCbCrCoefficients = 529,
    YCbCrSubsampling = 530,
    ReferenceBlackWhite = 532,
}

/// The place of an entry's values.
struct Entry {
    kind: u16,
    count: usize,
    at: usize,
}

pub(super) struct Directory<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) little: bool,
    entries: HashMap<u16, Entry>,
}

fn cut() -> DecodeProblem {
    damaged(NAME, "the file is cut short")
}

impl<'a> Directory<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, DecodeProblem> {
        let little = bytes.starts_with(b"II");
        let mut directory = Self { bytes, little, entries: HashMap::new() };
        let big = directory.integer(2, 2)? == 43;
        let at = if big { directory.integer(8, 8)? } else { directory.integer(4, 4)? };
        let at = usize::try_from(at).map_err(|_| cut())?;
        let (count_size, entry_size, word) = if big { (8, 20, 8) } else { (2, 12, 4) };
        let count = directory.integer(at, count_size)?.min(1 << 16) as usize;
        for number in 0..count {
            let at = at.saturating_add(count_size).saturating_add(number * entry_size);
            let tag = directory.integer(at, 2)? as u16;
            let kind = directory.integer(at + 2, 2)? as u16;
            let count = usize::try_from(directory.integer(at + 4, word)?).map_err(|_| cut())?;
            let inline = at + 4 + word;
            let fits = count.checked_mul(size_of(kind)).is_some_and(|size| size <= word);
            let at = if fits { inline } else { directory.integer(inline, word)? as usize };
            directory.entries.entry(tag).or_insert(Entry { kind, count, at });
        }
        Ok(directory)
    }

    fn integer(&self, at: usize, size: usize) -> Result<u64, DecodeProblem> {
        let bytes = at.checked_add(size).and_then(|end| self.bytes.get(at..end)).ok_or_else(cut)?;
        let join = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        Ok(if self.little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) })
    }

    /// The stored bytes of a value and the size of one of its items.
    fn stored(&self, tag: Tag) -> Result<Option<(u16, &'a [u8])>, DecodeProblem> {
        let Some(entry) = self.entries.get(&(tag as u16)) else {
            return Ok(None);
        };
        let end = entry.count.checked_mul(size_of(entry.kind)).and_then(|size| entry.at.checked_add(size));
        let bytes = end.and_then(|end| self.bytes.get(entry.at..end)).ok_or_else(cut)?;
        Ok(Some((entry.kind, bytes)))
    }

    pub(super) fn bytes_of(&self, tag: Tag) -> Result<Option<&'a [u8]>, DecodeProblem> {
        Ok(self.stored(tag)?.map(|(_, bytes)| bytes))
    }

    /// Unsigned integers.
    pub(super) fn numbers(&self, tag: Tag) -> Result<Option<Vec<u64>>, DecodeProblem> {
        let Some((kind @ (1 | 3 | 4 | 6..=9 | 13 | 16), bytes)) = self.stored(tag)? else {
            return Ok(None);
        };
        let join = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        let number = |item: &[u8]| match self.little {
            true => item.iter().rev().fold(0, join),
            false => item.iter().fold(0, join),
        };
        Ok(Some(bytes.chunks_exact(size_of(kind)).map(number).collect()))
    }

    pub(super) fn number(&self, tag: Tag, default: u64) -> Result<u64, DecodeProblem> {
        Ok(self.numbers(tag)?.and_then(|numbers| numbers.first().copied()).unwrap_or(default))
    }

    /// Fractions, the same number as in `default`.
    pub(super) fn fractions<const N: usize>(
        &self,
        tag: Tag,
        default: [f32; N],
    ) -> Result<[f32; N], DecodeProblem> {
        let values = match self.stored(tag)? {
            Some((5, bytes)) => self.ratios(bytes),
            _ => Vec::new(),
        };
        Ok(values.first_chunk().copied().unwrap_or(default))
    }

    fn ratios(&self, bytes: &[u8]) -> Vec<f32> {
        let number = |item: &[u8]| {
            let four = [item[0], item[1], item[2], item[3]];
            if self.little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) }
        };
        let ratio = |item: &[u8]| match number(&item[4..]) {
            0 => 0.0,
            below => (f64::from(number(item)) / f64::from(below)) as f32,
        };
        bytes.chunks_exact(8).map(ratio).collect()
    }
}

fn size_of(kind: u16) -> usize {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16..=18 => 8,
        _ => 1,
    }
}
