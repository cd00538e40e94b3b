//! Coefficients in Huffman codes: sequential and progressive.

use super::NAME;
use super::scan::Band;
use super::source::{Cut, Source};
use super::tables::NATURAL;
use crate::data::decode::{DecodeProblem, damaged};

/// A table as the file gives it: how many codes of each length there are, and their symbols.
#[derive(Clone)]
pub(super) struct Codes {
    pub(super) counts: [u8; 16],
    pub(super) symbols: Vec<u8>,
}

/// How many bits the lookup of codes sees at once.
const AHEAD: u32 = 10;

/// What the next bits begin with: a code, and the number behind it.
#[derive(Clone, Copy)]
#[repr(align(4))]
struct Entry {
    symbol: u8,
    /// Bits of the code; 0 for a code longer than the lookup sees.
    length: u8,
    /// Bits of the code and of its number; more than there ever are where the code is too long.
    whole: u8,
}

const LONG: Entry = Entry { symbol: 0, length: 0, whole: u8::MAX };

/// A table ready for decoding.
pub(super) struct Table {
    /// The entry for every value of the next bits.
    short: [Entry; 1 << AHEAD],
    /// The largest code of each length, -1 for none.
    largest: [i32; 17],
    /// What to add to a code of each length for the index of its symbol.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// A table of no code, where a scan needs none.
    pub(super) fn empty() -> Self {
        Self { short: [LONG; 1 << AHEAD], largest: [-1; 17], offset: [0; 17], symbols: Vec::new() }
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
                if length <= AHEAD as usize {
                    let places = 1 << (AHEAD as usize - length);
                    let first = code as usize * places;
                    let places = table.short.get_mut(first..first + places).ok_or_else(bad)?;
                    places.fill(Entry { symbol, length: length as u8, whole: length as u8 + (symbol & 15) });
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

/// A symbol, and the number in as many bits behind it as its lower four bits say.
struct Coded {
    symbol: u8,
    value: i32,
}

impl Coded {
    /// How many zeros come before the value, and the bits of the value.
    #[inline(always)]
    fn run(&self) -> (usize, u8) {
        (usize::from(self.symbol >> 4), self.symbol & 15)
    }
}

/// Reads codes and numbers; behind a marker it reads zeros, and says so. A copy of it can stay in registers.
#[derive(Clone, Copy)]
pub(super) struct Bits {
    /// The next bits from the highest one down, and zeros below them.
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
        (self.buffer, self.left) = (0, 0);
        if source.marker == 0 {
            self.insufficient = false;
        }
    }

    /// At least `wanted` bits, at most 16. How far it reads ahead decides which bytes before a marker are superfluous.
    #[inline(always)]
    fn filled(mut self, source: &mut Source, wanted: u32) -> Result<Self, Cut> {
        if let Some(four) = source.four_plain() {
            self.buffer |= u64::from(four) << (32 - self.left);
            self.left += 32;
            return Ok(self);
        }
        self.filled_by_bytes(source, wanted)
    }

    #[inline(never)]
    fn filled_by_bytes(mut self, source: &mut Source, wanted: u32) -> Result<Self, Cut> {
        while self.left <= 48 {
            let Some(byte) = source.packed()? else {
                break;
            };
            self.buffer |= u64::from(byte) << (56 - self.left);
            self.left += 8;
        }
        if self.left < wanted {
            self.insufficient = true;
            source.faults = true;
            self.left += 32;
        }
        Ok(self)
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.left -= bits;
    }

    #[inline(always)]
    fn number(&mut self, source: &mut Source, bits: u32) -> Result<i32, Cut> {
        if self.left < bits {
            *self = self.filled(source, bits)?;
        }
        let value = leading(self.buffer, bits);
        self.skip(bits);
        Ok(value)
    }

    /// A symbol and its number.
    #[inline(always)]
    fn coded(&mut self, source: &mut Source, table: &Table) -> Result<Coded, Cut> {
        if self.left < 8 {
            *self = self.filled(source, 0)?;
        }
        let entry = table.short[(self.buffer >> (64 - AHEAD)) as usize];
        if u32::from(entry.whole) <= self.left {
            let value = signed(self.buffer << entry.length, (entry.symbol & 15).into());
            self.skip(entry.whole.into());
            return Ok(Coded { symbol: entry.symbol, value });
        }
        let (bits, coded) = self.long_coded(source, table)?;
        *self = bits;
        Ok(coded)
    }

    /// As `coded`, where the code is long or bits are missing.
    #[inline(never)]
    fn long_coded(mut self, source: &mut Source, table: &Table) -> Result<(Self, Coded), Cut> {
        let symbol = self.symbol(source, table)?;
        let bits = u32::from(symbol & 15);
        if self.left < bits {
            self = self.filled(source, bits)?;
        }
        let value = signed(self.buffer, bits);
        self.skip(bits);
        Ok((self, Coded { symbol, value }))
    }

    fn symbol(&mut self, source: &mut Source, table: &Table) -> Result<u8, Cut> {
        if self.left < 8 {
            *self = self.filled(source, 0)?;
        }
        let entry = table.short[(self.buffer >> (64 - AHEAD)) as usize];
        if entry.length > 0 && u32::from(entry.length) <= self.left {
            self.skip(entry.length.into());
            return Ok(entry.symbol);
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

/// The first bits of `buffer`, from 0 to 15 or 16 of them.
#[inline(always)]
fn leading(buffer: u64, bits: u32) -> i32 {
    (buffer >> 1 >> (63 - bits)) as i32
}

/// The first bits of `buffer` as a signed number: the lower half of the codes is negative.
#[inline(always)]
fn signed(buffer: u64, bits: u32) -> i32 {
    let is_negative = !((buffer as i64 >> 63) as i32);
    leading(buffer, bits) - (is_negative & ((1 << bits) - 1))
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

    #[inline(always)]
    fn dc(&mut self, source: &mut Source, slot: usize) -> Result<i32, Cut> {
        let step = self.bits.coded(source, &self.tables[slot].dc)?.value;
        self.last[slot] = self.last[slot].wrapping_add(step);
        Ok(self.last[slot])
    }

    #[inline(never)]
    fn sequential(&mut self, source: &mut Source, slot: usize, block: &mut [i16; 64]) -> Result<(), Cut> {
        block[0] = self.dc(source, slot)? as i16;
        let (table, mut bits) = (&self.tables[slot].ac, self.bits);
        let mut k = 1;
        while k < 64 {
            let coded = bits.coded(source, table)?;
            match coded.run() {
                (15, 0) => k += 15,
                (_, 0) => break,
                (run, _) => {
                    k += run;
                    block[NATURAL[k] & 63] = coded.value as i16;
                }
            }
            k += 1;
        }
        self.bits = bits;
        Ok(())
    }

    #[inline(never)]
    fn first_band(&mut self, source: &mut Source, block: &mut [i16; 64]) -> Result<(), Cut> {
        if self.empty_run > 0 {
            self.empty_run -= 1;
            return Ok(());
        }
        let (table, mut bits) = (&self.tables[0].ac, self.bits);
        let mut k = self.band.first;
        while k <= self.band.last {
            let coded = bits.coded(source, table)?;
            match coded.run() {
                (15, 0) => k += 15,
                (run, 0) => {
                    self.empty_run = (1 << run) - 1 + bits.number(source, run as u32)? as u32;
                    break;
                }
                (run, _) => {
                    k += run;
                    block[NATURAL[k] & 63] = (coded.value << self.band.low) as i16;
                }
            }
            k += 1;
        }
        self.bits = bits;
        Ok(())
    }

    #[inline(never)]
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
