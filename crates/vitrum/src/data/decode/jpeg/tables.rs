//! What the segments around a scan define: tables, the restart interval, arithmetic conditioning and colours.

use super::frame::Color;
use super::huffman::Codes;
use super::source::Source;
use super::{NAME, bad, standard};
use crate::data::decode::{DecodeProblem, unsupported};

/// Where the coefficients of a block lie in natural order, by their place in zigzag order. Broken data reach 15
/// places further.
pub(super) const NATURAL: [usize; 80] = {
    let mut order = [63; 80];
    let (mut x, mut y, mut up, mut k) = (0_usize, 0_usize, true, 0);
    while k < 64 {
        order[k] = y * 8 + x;
        let (turn_x, turn_y) = if up { (x == 7, y == 0) } else { (x == 0, y == 7) };
        match (up, turn_x, turn_y) {
            (true, true, _) => y += 1,
            (true, _, true) => x += 1,
            (true, ..) => (x, y) = (x + 1, y - 1),
            (false, _, true) => x += 1,
            (false, true, _) => y += 1,
            (false, ..) => (x, y) = (x - 1, y + 1),
        }
        if turn_x || turn_y {
            up = !up;
        }
        k += 1;
    }
    order
};

/// What segments before a scan define.
#[derive(Clone)]
pub(super) struct State {
    pub(super) quantizers: [Option<[u16; 64]>; 4],
    pub(super) dc: [Option<Codes>; 4],
    pub(super) ac: [Option<Codes>; 4],
    pub(super) restart: usize,
    /// Arithmetic conditioning: bounds of DC categories, and the AC threshold.
    pub(super) dc_bounds: [(u8, u8); 16],
    pub(super) ac_bound: [u8; 16],
    jfif: bool,
    adobe: Option<u8>,
    /// TIFF says what the samples are, and the markers do not count.
    pub(super) color: Option<Color>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            quantizers: [None; 4],
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            restart: 0,
            dc_bounds: [(0, 1); 16],
            ac_bound: [5; 16],
            jfif: false,
            adobe: None,
            color: None,
        }
    }
}

impl State {
    /// Takes the standard's Huffman tables where the file brought none.
    pub(super) fn take_standard_tables(&mut self) {
        let [dc0, ac0, dc1, ac1] = standard::codes();
        let tables = self.dc.iter_mut().zip([dc0, dc1]).chain(self.ac.iter_mut().zip([ac0, ac1]));
        for (table, codes) in tables {
            table.get_or_insert(codes);
        }
    }

    /// Reads a stream of tables alone, as TIFF keeps them beside its strips.
    pub(super) fn read_tables(&mut self, bytes: &[u8]) -> Result<(), DecodeProblem> {
        let mut source = Source::new(bytes);
        loop {
            match source.take_marker()? {
                0xd8 => {}
                0xd9 => return Ok(()),
                marker => self.segment(marker, &mut source)?,
            }
        }
    }

    /// Any segment but frames and scans.
    pub(super) fn segment(&mut self, marker: u8, source: &mut Source) -> Result<(), DecodeProblem> {
        match marker {
            0x01 | 0xd0..=0xd7 => Ok(()),
            0xc4 => self.huffman_tables(source.segment()?),
            0xcc => self.conditioning(source.segment()?),
            0xdb => self.quantizers(source.segment()?),
            0xdd => match *source.segment()? {
                [high, low] => {
                    self.restart = usize::from(high) << 8 | usize::from(low);
                    Ok(())
                }
                _ => Err(bad("a restart interval of a wrong length")),
            },
            0xe0 => {
                let segment = source.segment()?;
                self.jfif |= segment.len() >= 14 && segment.starts_with(b"JFIF\0");
                Ok(())
            }
            0xee => {
                let segment = source.segment()?;
                if segment.len() >= 12 && segment.starts_with(b"Adobe") {
                    self.adobe = Some(segment[11]);
                }
                Ok(())
            }
            0xdc | 0xe1..=0xed | 0xef | 0xfe => {
                source.segment()?;
                Ok(())
            }
            0xd8 => Err(bad("a second start of image")),
            0xde | 0xdf | 0xc5..=0xc7 | 0xcd..=0xcf => Err(unsupported(NAME, "hierarchical coding")),
            _ => Err(bad(&format!("the unknown marker {marker:#04x}"))),
        }
    }

    fn huffman_tables(&mut self, mut rest: &[u8]) -> Result<(), DecodeProblem> {
        while rest.len() > 16 {
            let (index, counts) = (rest[0], <[u8; 16]>::try_from(&rest[1..17]).expect("16 bytes"));
            let count: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let symbols = rest.get(17..17 + count).filter(|_| count <= 256);
            let symbols = symbols.ok_or_else(|| bad("a Huffman table is cut short"))?.to_vec();
            rest = &rest[17 + count..];
            let tables = if index & 0x10 == 0 { &mut self.dc } else { &mut self.ac };
            let slot = tables.get_mut(usize::from(index & !0x10));
            *slot.ok_or_else(|| bad("a Huffman table of a wrong number"))? = Some(Codes { counts, symbols });
        }
        if rest.is_empty() { Ok(()) } else { Err(bad("a Huffman table is cut short")) }
    }

    fn quantizers(&mut self, mut rest: &[u8]) -> Result<(), DecodeProblem> {
        while let Some((&index, values)) = rest.split_first() {
            let bytes = if index >> 4 == 0 { 1 } else { 2 };
            let cut = || bad("a quantization table is cut short");
            let stored = values.get(..64 * bytes).ok_or_else(cut)?;
            let slot = self.quantizers.get_mut(usize::from(index & 15));
            let slot = slot.ok_or_else(|| bad("a quantization table of a wrong number"))?;
            let steps = slot.insert([0; 64]);
            for (value, &at) in stored.chunks_exact(bytes).zip(&NATURAL) {
                steps[at] = value.iter().fold(0, |step, &byte| step << 8 | u16::from(byte));
            }
            rest = &values[64 * bytes..];
        }
        Ok(())
    }

    fn conditioning(&mut self, segment: &[u8]) -> Result<(), DecodeProblem> {
        for pair in segment.chunks(2) {
            match *pair {
                [index @ 0..16, value] if value & 15 <= value >> 4 => {
                    self.dc_bounds[usize::from(index)] = (value & 15, value >> 4);
                }
                [index @ 16..32, value] => self.ac_bound[usize::from(index - 16)] = value,
                _ => return Err(bad("an arithmetic conditioning that is none")),
            }
        }
        Ok(())
    }

    /// As libjpeg's `default_decompress_parms` tells colours.
    pub(super) fn color(&self, ids: &[u8]) -> Color {
        if let Some(color) = self.color {
            return color;
        }
        match (ids, self.adobe) {
            ([_, _, _], _) if self.jfif => Color::YCbCr,
            ([_, _, _], Some(0)) | ([b'R', b'G', b'B'], None) => Color::Plain,
            ([_, _, _], _) => Color::YCbCr,
            ([_, _, _, _], Some(1..)) => Color::Ycck,
            _ => Color::Plain,
        }
    }
}
