//! Coefficients in arithmetic codes: sequential and progressive, as libjpeg's `jdarith.c` decodes them.

use super::scan::Band;
use super::source::{Cut, Source};
use super::tables::{NATURAL, State};

/// Size of the least probable interval, the next state after it (with 128: the symbols change places), and the next
/// state after the probable symbol.
#[rustfmt::skip]
const STATES: [(i32, u8, u8); 114] = [
    (0x5a1d, 129, 1), (0x2586, 14, 2), (0x1114, 16, 3), (0x080b, 18, 4), (0x03d8, 20, 5), (0x01da, 23, 6),
    (0x00e5, 25, 7), (0x006f, 28, 8), (0x0036, 30, 9), (0x001a, 33, 10), (0x000d, 35, 11), (0x0006, 9, 12),
    (0x0003, 10, 13), (0x0001, 12, 13), (0x5a7f, 143, 15), (0x3f25, 36, 16), (0x2cf2, 38, 17),
    (0x207c, 39, 18), (0x17b9, 40, 19), (0x1182, 42, 20), (0x0cef, 43, 21), (0x09a1, 45, 22),
    (0x072f, 46, 23), (0x055c, 48, 24), (0x0406, 49, 25), (0x0303, 51, 26), (0x0240, 52, 27),
    (0x01b1, 54, 28), (0x0144, 56, 29), (0x00f5, 57, 30), (0x00b7, 59, 31), (0x008a, 60, 32),
    (0x0068, 62, 33), (0x004e, 63, 34), (0x003b, 32, 35), (0x002c, 33, 9), (0x5ae1, 165, 37),
    (0x484c, 64, 38), (0x3a0d, 65, 39), (0x2ef1, 67, 40), (0x261f, 68, 41), (0x1f33, 69, 42),
    (0x19a8, 70, 43), (0x1518, 72, 44), (0x1177, 73, 45), (0x0e74, 74, 46), (0x0bfb, 75, 47),
    (0x09f8, 77, 48), (0x0861, 78, 49), (0x0706, 79, 50), (0x05cd, 48, 51), (0x04de, 50, 52),
    (0x040f, 50, 53), (0x0363, 51, 54), (0x02d4, 52, 55), (0x025c, 53, 56), (0x01f8, 54, 57),
    (0x01a4, 55, 58), (0x0160, 56, 59), (0x0125, 57, 60), (0x00f6, 58, 61), (0x00cb, 59, 62),
    (0x00ab, 61, 63), (0x008f, 61, 32), (0x5b12, 193, 65), (0x4d04, 80, 66), (0x412c, 81, 67),
    (0x37d8, 82, 68), (0x2fe8, 83, 69), (0x293c, 84, 70), (0x2379, 86, 71), (0x1edf, 87, 72),
    (0x1aa9, 87, 73), (0x174e, 72, 74), (0x1424, 72, 75), (0x119c, 74, 76), (0x0f6b, 74, 77),
    (0x0d51, 75, 78), (0x0bb6, 77, 79), (0x0a40, 77, 48), (0x5832, 208, 81), (0x4d1c, 88, 82),
    (0x438e, 89, 83), (0x3bdd, 90, 84), (0x34ee, 91, 85), (0x2eae, 92, 86), (0x299a, 93, 87),
    (0x2516, 86, 71), (0x5570, 216, 89), (0x4ca9, 95, 90), (0x44d9, 96, 91), (0x3e22, 97, 92),
    (0x3824, 99, 93), (0x32b4, 99, 94), (0x2e17, 93, 86), (0x56a8, 223, 96), (0x4f46, 101, 97),
    (0x47e5, 102, 98), (0x41cf, 103, 99), (0x3c3d, 104, 100), (0x375e, 99, 93), (0x5231, 105, 102),
    (0x4c0f, 106, 103), (0x4639, 107, 104), (0x415e, 103, 99), (0x5627, 233, 106), (0x50e7, 108, 107),
    (0x4b85, 109, 103), (0x5597, 110, 109), (0x504f, 111, 107), (0x5a10, 238, 111), (0x5522, 112, 109),
    (0x59eb, 240, 111), (0x5a1d, 113, 113),
];

/// The state of even odds that never learns.
const EVEN: u8 = 113;

/// The decoder of binary decisions.
struct Decisions {
    code: i32,
    interval: i32,
    /// Bits until the next byte; below zero while the first two are read.
    count: i32,
}

impl Decisions {
    fn new() -> Self {
        Self { code: 0, interval: 0, count: -16 }
    }

    /// The next decision under the statistics `bin`, which learns from it.
    fn next(&mut self, source: &mut Source, bin: &mut u8) -> Result<bool, Cut> {
        while self.interval < 0x8000 {
            self.count -= 1;
            if self.count < 0 {
                // Behind a marker come zeros; that is no fault here.
                let byte = source.packed()?.unwrap_or(0);
                self.code = self.code << 8 | i32::from(byte);
                self.count += 8;
                if self.count < 0 {
                    self.count += 1;
                    if self.count == 0 {
                        self.interval = 0x8000;
                    }
                }
            }
            self.interval <<= 1;
        }
        let (size, after_rare, after_usual) = STATES[usize::from(*bin & 0x7f)];
        let mut symbol = *bin & 0x80;
        self.interval -= size;
        let bound = self.interval << self.count;
        let rare = self.code >= bound;
        if rare || self.interval < 0x8000 {
            // The rare symbol always gets the smaller interval.
            let exchanged = self.interval < size;
            if rare {
                self.code -= bound;
                self.interval = size;
            }
            if rare == exchanged {
                *bin = symbol ^ after_usual;
            } else {
                *bin = symbol ^ after_rare;
                symbol ^= 0x80;
            }
        }
        Ok(symbol > 0)
    }

    fn even(&mut self, source: &mut Source) -> Result<bool, Cut> {
        self.next(source, &mut { EVEN })
    }
}

/// The state of one scan.
pub(super) struct Arithmetic {
    decisions: Decisions,
    /// DC and AC statistics by table number.
    dc: Vec<[u8; 64]>,
    ac: Vec<[u8; 256]>,
    /// Table numbers, last DC value and DC category of each component.
    slots: Vec<Slot>,
    dc_bounds: [(u8, u8); 16],
    ac_bound: [u8; 16],
    band: Band,
    /// The rest up to the next restart marker cannot be read.
    broken: bool,
}

pub(super) struct Slot {
    pub(super) dc: usize,
    pub(super) ac: usize,
    pub(super) last: i32,
    pub(super) category: usize,
}

impl Arithmetic {
    pub(super) fn new(slots: Vec<Slot>, state: &State, band: Band) -> Self {
        Self {
            decisions: Decisions::new(),
            dc: vec![[0; 64]; 16],
            ac: vec![[0; 256]; 16],
            slots,
            dc_bounds: state.dc_bounds,
            ac_bound: state.ac_bound,
            band,
            broken: false,
        }
    }

    /// Behind a restart marker.
    pub(super) fn restart(&mut self) {
        self.decisions = Decisions::new();
        self.dc.fill([0; 64]);
        self.ac.fill([0; 256]);
        self.broken = false;
        for slot in &mut self.slots {
            (slot.last, slot.category) = (0, 0);
        }
    }

    /// The next block, of component `slot` of the scan.
    pub(super) fn block(
        &mut self,
        source: &mut Source,
        slot: usize,
        block: &mut [i16; 64],
    ) -> Result<(), Cut> {
        if let Band { first: 0, refines: true, low, .. } = self.band {
            block[0] |= i16::from(self.decisions.even(source)?) << low;
            return Ok(());
        }
        if self.broken {
            return Ok(());
        }
        let read = match self.band {
            Band { progressive: false, .. } => self.sequential(source, slot, block)?,
            Band { first: 0, .. } => self.dc(source, slot, block)?,
            Band { refines: false, .. } => self.ac(source, slot, block)?,
            _ => self.refined_band(source, block)?,
        };
        if read.is_none() {
            self.broken = true;
            source.faults = true;
        }
        Ok(())
    }

    fn sequential(
        &mut self,
        source: &mut Source,
        slot: usize,
        block: &mut [i16; 64],
    ) -> Result<Option<()>, Cut> {
        match self.dc(source, slot, block)? {
            Some(()) => self.ac(source, slot, block),
            None => Ok(None),
        }
    }

    /// `None` for an overflow.
    fn dc(&mut self, source: &mut Source, slot: usize, block: &mut [i16; 64]) -> Result<Option<()>, Cut> {
        let slot = &mut self.slots[slot];
        let (bins, decisions) = (&mut self.dc[slot.dc], &mut self.decisions);
        let first = slot.category;
        if !decisions.next(source, &mut bins[first])? {
            slot.category = 0;
        } else {
            let negative = decisions.next(source, &mut bins[first + 1])?;
            let mut at = first + 2 + usize::from(negative);
            let mut size = i32::from(decisions.next(source, &mut bins[at])?);
            if size > 0 {
                at = 20;
                while decisions.next(source, &mut bins[at])? {
                    size <<= 1;
                    if size == 0x8000 {
                        return Ok(None);
                    }
                    at += 1;
                }
            }
            let (low, high) = self.dc_bounds[slot.dc];
            let sign = if negative { 4 } else { 0 };
            slot.category = match size {
                _ if size < (1 << low) >> 1 => 0,
                _ if size > (1 << high) >> 1 => 12 + sign,
                _ => 4 + sign,
            };
            let value = magnitude(decisions, source, &mut bins[at + 14], size)?;
            slot.last = (slot.last + if negative { -value } else { value }) & 0xffff;
        }
        block[0] = (slot.last << self.band.low) as i16;
        Ok(Some(()))
    }

    /// `None` for an overflow.
    fn ac(&mut self, source: &mut Source, slot: usize, block: &mut [i16; 64]) -> Result<Option<()>, Cut> {
        let number = self.slots[slot].ac;
        let (bins, decisions) = (&mut self.ac[number], &mut self.decisions);
        let mut k = self.band.first.max(1);
        while k <= self.band.last {
            let mut at = 3 * (k - 1);
            if decisions.next(source, &mut bins[at])? {
                break;
            }
            while !decisions.next(source, &mut bins[at + 1])? {
                at += 3;
                k += 1;
                if k > self.band.last {
                    return Ok(None);
                }
            }
            let negative = decisions.even(source)?;
            at += 2;
            let mut size = i32::from(decisions.next(source, &mut bins[at])?);
            if size > 0 && decisions.next(source, &mut bins[at])? {
                size = 2;
                at = if k <= usize::from(self.ac_bound[number]) { 189 } else { 217 };
                while decisions.next(source, &mut bins[at])? {
                    size <<= 1;
                    if size == 0x8000 {
                        return Ok(None);
                    }
                    at += 1;
                }
            }
            let value = magnitude(decisions, source, &mut bins[at + 14], size)?;
            let value = if negative { -value } else { value };
            block[NATURAL[k]] = (value << self.band.low) as i16;
            k += 1;
        }
        Ok(Some(()))
    }

    fn refined_band(&mut self, source: &mut Source, block: &mut [i16; 64]) -> Result<Option<()>, Cut> {
        let (first, last) = (self.band.first, self.band.last);
        let plus = 1_i16 << self.band.low;
        let (bins, decisions) = (&mut self.ac[self.slots[0].ac], &mut self.decisions);
        let end = (1..=last).rev().find(|&k| block[NATURAL[k]] != 0).unwrap_or(0);
        let mut k = first;
        while k <= last {
            let mut at = 3 * (k - 1);
            if k > end && decisions.next(source, &mut bins[at])? {
                break;
            }
            loop {
                let value = &mut block[NATURAL[k]];
                if *value != 0 {
                    if decisions.next(source, &mut bins[at + 2])? {
                        *value = value.wrapping_add(if *value < 0 { -plus } else { plus });
                    }
                    break;
                }
                if decisions.next(source, &mut bins[at + 1])? {
                    *value = if decisions.even(source)? { -plus } else { plus };
                    break;
                }
                at += 3;
                k += 1;
                if k > last {
                    return Ok(None);
                }
            }
            k += 1;
        }
        Ok(Some(()))
    }
}

/// A number of the magnitude category `size`, at least 1.
fn magnitude(decisions: &mut Decisions, source: &mut Source, bin: &mut u8, size: i32) -> Result<i32, Cut> {
    let (mut value, mut bit) = (size, size >> 1);
    while bit > 0 {
        if decisions.next(source, bin)? {
            value |= bit;
        }
        bit >>= 1;
    }
    Ok(value + 1)
}
