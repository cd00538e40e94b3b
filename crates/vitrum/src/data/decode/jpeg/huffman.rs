//! Coefficients in Huffman codes: sequential and progressive.

use super::NAME;
use super::frame::{Band, NATURAL};
use super::source::{Cut, Source};
use crate::data::decode::{DecodeProblem, damaged};

/// A table as the file gives it: how many codes of each length there are, and their symbols.
#[derive(Clone)]
pub(super) struct Codes {
    pub(super) counts: [u8; 16],
    pub(super) symbols: Vec<u8>,
}

/// A table ready for decoding.
pub(super) struct Table {
    /// Length and symbol for every value of the next 8 bits; length 0 for a longer code.
    short: [(u8, u8); 256],
    /// The largest code of each length, -1 for none.
    largest: [i32; 17],
    /// What to add to a code of each length for the index of its symbol.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// A table of no code, where a scan needs none.
    pub(super) fn empty() -> Self {
        Self { short: [(0, 0); 256], largest: [-1; 17], offset: [0; 17], symbols: Vec::new() }
    }

    /// # Errors
    /// Counts that are no prefix code; symbols above `most`.
    pub(super) fn new(codes: &Codes, most: u8) -> Result<Self, DecodeProblem> {
        let bad = || damaged(NAME, "a Huffman table that is no code");
        let mut table = Self { symbols: codes.symbols.clone(), ..Self::empty() };
        let (mut code, mut at) = (0_i32, 0_usize);
        for (length, &count) in (1..=16).zip(&codes.counts) {
            table.offset[length] = at as i32 - code;
            for _ in 0..count {
                let &symbol = table.symbols.get(at).filter(|&&symbol| symbol <= most).ok_or_else(bad)?;
                if length <= 8 {
                    let first = (code as usize) << (8 - length);
                    let places = table.short.get_mut(first..first + (1 << (8 - length))).ok_or_else(bad)?;
                    places.fill((length as u8, symbol));
                }
                table.largest[length] = code;
                code += 1;
                at += 1;
            }
            // No code is all ones.
            if count > 0 && code >= 1 << length {
                return Err(bad());
            }
            code <<= 1;
        }
        Ok(table)
    }
}

/// Reads codes and numbers; behind a marker it reads zeros, and says so.
pub(super) struct Bits {
    buffer: u64,
    left: u32,
    /// More bits were asked for than there are before the next marker.
    pub(super) insufficient: bool,
}

impl Bits {
    pub(super) fn new() -> Self {
        Self { buffer: 0, left: 0, insufficient: false }
    }

    fn restart(&mut self, source: &Source) {
        self.left = 0;
        if source.marker == 0 {
            self.insufficient = false;
        }
    }

    /// At least `wanted` bits, at most 16.
    #[inline(never)]
    fn fill(&mut self, source: &mut Source, wanted: u32) -> Result<(), Cut> {
        if let Some(four) = source.four_plain() {
            self.buffer = self.buffer << 32 | u64::from(four);
            self.left += 32;
            return Ok(());
        }
        while self.left <= 48 {
            let Some(byte) = source.packed()? else {
                break;
            };
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.left += 8;
        }
        if self.left < wanted {
            self.insufficient = true;
            source.faults = true;
            self.buffer <<= 32;
            self.left += 32;
        }
        Ok(())
    }

    #[inline]
    fn number(&mut self, source: &mut Source, bits: u32) -> Result<i32, Cut> {
        if self.left < bits {
            self.fill(source, bits)?;
        }
        self.left -= bits;
        Ok((self.buffer >> self.left) as i32 & ((1 << bits) - 1))
    }

    /// A number of `bits` bits whose lower half stands for negative values.
    fn signed(&mut self, source: &mut Source, bits: u32) -> Result<i32, Cut> {
        if bits == 0 {
            return Ok(0);
        }
        let value = self.number(source, bits)?;
        Ok(if value < 1 << (bits - 1) { value - (1 << bits) + 1 } else { value })
    }

    #[inline]
    fn symbol(&mut self, source: &mut Source, table: &Table) -> Result<u8, Cut> {
        if self.left < 8 {
            self.fill(source, 0)?;
        }
        if self.left >= 8 {
            let (length, symbol) = table.short[(self.buffer >> (self.left - 8)) as usize & 0xff];
            if length > 0 {
                self.left -= u32::from(length);
                return Ok(symbol);
            }
        }
        self.long_symbol(source, table)
    }

    fn long_symbol(&mut self, source: &mut Source, table: &Table) -> Result<u8, Cut> {
        let mut code = 0;
        for length in 1..=16 {
            code = code << 1 | self.number(source, 1)?;
            if code <= table.largest[length] {
                return Ok(table.symbols[(code + table.offset[length]) as usize]);
            }
        }
        // One more bit, as libjpeg takes it, and then a zero for the code that does not exist.
        self.number(source, 1)?;
        source.faults = true;
        Ok(0)
    }
}

/// The tables that a component of a scan uses.
pub(super) struct Tables {
    pub(super) dc: Table,
    pub(super) ac: Table,
}

/// The state of one scan.
pub(super) struct Huffman {
    pub(super) bits: Bits,
    tables: Vec<Tables>,
    /// The last DC value of each component.
    last: Vec<i32>,
    /// How many more blocks have no coefficients in this band.
    empty_run: u32,
    band: Band,
}

impl Huffman {
    pub(super) fn new(tables: Vec<Tables>, band: Band) -> Self {
        let last = vec![0; tables.len()];
        Self { bits: Bits::new(), tables, last, empty_run: 0, band }
    }

    /// Behind a restart marker.
    pub(super) fn restart(&mut self, source: &Source) {
        self.bits.restart(source);
        self.last.fill(0);
        self.empty_run = 0;
    }

    /// The next block, of component `slot` of the scan.
    pub(super) fn block(
        &mut self,
        source: &mut Source,
        slot: usize,
        block: &mut [i16; 64],
    ) -> Result<(), Cut> {
        match self.band {
            Band { progressive: false, .. } => self.sequential(source, slot, block),
            Band { first: 0, refines: false, low, .. } => {
                block[0] = (self.dc(source, slot)? << low) as i16;
                Ok(())
            }
            Band { first: 0, low, .. } => {
                block[0] |= (self.bits.number(source, 1)? << low) as i16;
                Ok(())
            }
            Band { refines: false, .. } => self.first_band(source, block),
            _ => self.refined_band(source, block),
        }
    }

    fn dc(&mut self, source: &mut Source, slot: usize) -> Result<i32, Cut> {
        let table = &self.tables[slot].dc;
        let bits = self.bits.symbol(source, table)?;
        let step = self.bits.signed(source, bits.into())?;
        self.last[slot] = self.last[slot].wrapping_add(step);
        Ok(self.last[slot])
    }

    fn sequential(&mut self, source: &mut Source, slot: usize, block: &mut [i16; 64]) -> Result<(), Cut> {
        block[0] = self.dc(source, slot)? as i16;
        let table = &self.tables[slot].ac;
        let mut k = 1;
        while k < 64 {
            let symbol = self.bits.symbol(source, table)?;
            let (run, bits) = (usize::from(symbol >> 4), symbol & 15);
            if bits > 0 {
                k += run;
                block[NATURAL[k]] = self.bits.signed(source, bits.into())? as i16;
            } else if run == 15 {
                k += 15;
            } else {
                break;
            }
            k += 1;
        }
        Ok(())
    }

    fn first_band(&mut self, source: &mut Source, block: &mut [i16; 64]) -> Result<(), Cut> {
        if self.empty_run > 0 {
            self.empty_run -= 1;
            return Ok(());
        }
        let table = &self.tables[0].ac;
        let mut k = self.band.first;
        while k <= self.band.last {
            let symbol = self.bits.symbol(source, table)?;
            let (run, bits) = (usize::from(symbol >> 4), symbol & 15);
            if bits > 0 {
                k += run;
                let value = self.bits.signed(source, bits.into())?;
                block[NATURAL[k]] = (value << self.band.low) as i16;
            } else if run == 15 {
                k += 15;
            } else {
                self.empty_run = (1 << run) - 1 + self.bits.number(source, run as u32)? as u32;
                break;
            }
            k += 1;
        }
        Ok(())
    }

    fn refined_band(&mut self, source: &mut Source, block: &mut [i16; 64]) -> Result<(), Cut> {
        let (mut k, last, low) = (self.band.first, self.band.last, self.band.low);
        if self.empty_run == 0 {
            while k <= last {
                let table = &self.tables[0].ac;
                let symbol = self.bits.symbol(source, table)?;
                let (run, bits) = (usize::from(symbol >> 4), symbol & 15);
                let mut value = 0;
                if bits > 0 {
                    value = if self.bits.number(source, 1)? > 0 { 1 << low } else { -1 << low };
                } else if run < 15 {
                    self.empty_run = (1 << run) + self.bits.number(source, run as u32)? as u32;
                    break;
                }
                k = self.refine(source, block, k, Some(run))?;
                if value != 0 {
                    block[NATURAL[k]] = value;
                }
                k += 1;
            }
        }
        if self.empty_run > 0 {
            self.refine(source, block, k, None)?;
            self.empty_run -= 1;
        }
        Ok(())
    }

    /// Corrects the coefficients that are not zero from `k` on, up to the band's end or past `zeros` zeros.
    fn refine(
        &mut self,
        source: &mut Source,
        block: &mut [i16; 64],
        mut k: usize,
        zeros: Option<usize>,
    ) -> Result<usize, Cut> {
        let mut zeros = zeros.map_or(64, |zeros| zeros);
        let plus = 1_i16 << self.band.low;
        while k <= self.band.last {
            let value = &mut block[NATURAL[k]];
            if *value != 0 {
                if self.bits.number(source, 1)? > 0 && *value & plus == 0 {
                    *value = value.wrapping_add(if *value >= 0 { plus } else { -plus });
                }
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            k += 1;
        }
        Ok(k)
    }
}
