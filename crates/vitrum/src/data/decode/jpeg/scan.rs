//! The scans of a frame, read as libjpeg reads them.

use super::arithmetic::{Arithmetic, Slot};
use super::frame::Frame;
use super::huffman::{Bits, Codes, Huffman, Table, Tables};
use super::source::{Cut, Source};
use super::tables::State;
use super::{NAME, bad};
use crate::data::decode::{DecodeProblem, unsupported};

/// Which coefficients a scan holds, and which of their bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    pub(super) progressive: bool,
    pub(super) first: usize,
    pub(super) last: usize,
    /// The scan adds one bit to what earlier scans gave.
    pub(super) refines: bool,
    /// The lowest bit of the scan.
    pub(super) low: u32,
}

impl Frame {
    /// The next scan.
    pub(super) fn scan(
        &mut self,
        header: &[u8],
        state: &State,
        source: &mut Source,
    ) -> Result<(), DecodeProblem> {
        let (slots, band) = self.scan_header(header)?;
        let indices: Vec<usize> = slots.iter().map(|slot| slot.component).collect();
        self.check_unit(&indices)?;
        for &index in &indices {
            self.components[index].prepare(state, band)?;
        }
        let mut coder = if self.arithmetic {
            let slot = |slot: &ScanSlot| Slot { dc: slot.dc, ac: slot.ac, last: 0, category: 0 };
            Coder::Arithmetic(Arithmetic::new(slots.iter().map(slot).collect(), state, band))
        } else {
            let tables = slots.iter().map(|slot| slot.tables(state, band)).collect::<Result<_, _>>()?;
            Coder::Huffman(Huffman::new(tables, band))
        };
        self.units_of_scan(&indices, &mut coder, state.restart, source)?;
        self.complete = !self.progressive && indices.len() == self.components.len();
        Ok(())
    }

    fn scan_header(&self, header: &[u8]) -> Result<(Vec<ScanSlot>, Band), DecodeProblem> {
        let cut = || bad("a scan header of a wrong length");
        let (&count, rest) = header.split_first().ok_or_else(cut)?;
        if !(1..=4).contains(&count) || rest.len() != usize::from(count) * 2 + 3 {
            return Err(cut());
        }
        let (pairs, band) = rest.split_at(usize::from(count) * 2);
        let mut slots: Vec<ScanSlot> = Vec::new();
        for pair in pairs.chunks_exact(2) {
            let free = |index: &usize| {
                self.components[*index].id == pair[0] && slots.iter().all(|slot| slot.component != *index)
            };
            let component = (0..self.components.len()).find(free);
            let component = component.ok_or_else(|| bad("a scan of a component that is not there"))?;
            slots.push(ScanSlot { component, dc: (pair[1] >> 4).into(), ac: (pair[1] & 15).into() });
        }
        Ok((slots, self.band(band)?))
    }

    fn band(&self, bytes: &[u8]) -> Result<Band, DecodeProblem> {
        let (first, last, high, low) = (bytes[0], bytes[1], bytes[2] >> 4, bytes[2] & 15);
        if !self.progressive {
            return Ok(Band { progressive: false, first: 0, last: 63, refines: false, low: 0 });
        }
        let range = if first == 0 { last == 0 } else { first <= last && last < 64 };
        if !range || high > 0 && high != low + 1 || low > 13 {
            return Err(bad("a scan whose coefficients make no sense"));
        }
        Ok(Band {
            progressive: true,
            first: first.into(),
            last: last.into(),
            refines: high > 0,
            low: low.into(),
        })
    }

    /// libjpeg reads ten blocks per unit at most.
    fn check_unit(&self, indices: &[usize]) -> Result<(), DecodeProblem> {
        let blocks: usize =
            indices.iter().map(|&i| self.components[i].across * self.components[i].down).sum();
        if indices.len() > 1 && blocks > 10 {
            return Err(unsupported(NAME, format!("units of {blocks} blocks")));
        }
        Ok(())
    }

    fn units_of_scan(
        &mut self,
        indices: &[usize],
        coder: &mut Coder,
        restart: usize,
        source: &mut Source,
    ) -> Result<(), Cut> {
        let (across, down) = match *indices {
            // The blocks of one component come without the padding to whole units.
            [index] => self.blocks_of(index),
            _ => self.units(),
        };
        let (mut left, mut number) = (restart, 0);
        for unit in 0..across * down {
            if restart > 0 {
                if left == 0 {
                    source.restart(number)?;
                    coder.restart(source);
                    number = (number + 1) & 7;
                    left = restart;
                }
                left -= 1;
            }
            if coder.is_out_of_data() {
                if restart == 0 {
                    break;
                }
                continue;
            }
            self.unit(indices, coder, (unit % across, unit / across), source)?;
        }
        Ok(())
    }

    fn unit(
        &mut self,
        indices: &[usize],
        coder: &mut Coder,
        (x, y): (usize, usize),
        source: &mut Source,
    ) -> Result<(), Cut> {
        if let [index] = *indices {
            return self.components[index].block(x, y, |block| coder.block(source, 0, block));
        }
        for (slot, &index) in indices.iter().enumerate() {
            let component = &mut self.components[index];
            for down in 0..component.down {
                for across in 0..component.across {
                    let (x, y) = (x * component.across + across, y * component.down + down);
                    component.block(x, y, |block| coder.block(source, slot, block))?;
                }
            }
        }
        Ok(())
    }
}

/// A component of a scan and its tables.
struct ScanSlot {
    component: usize,
    dc: usize,
    ac: usize,
}

impl ScanSlot {
    fn tables(&self, state: &State, band: Band) -> Result<Tables, DecodeProblem> {
        let missing = || bad("a Huffman table is missing");
        let table = |codes: &[Option<Codes>; 4], at: usize, most: u8| {
            let codes = codes.get(at).and_then(Option::as_ref).ok_or_else(missing)?;
            Table::new(codes, most)
        };
        let needs_dc = band.first == 0 && !band.refines;
        let needs_ac = band.last > 0;
        Ok(Tables {
            dc: if needs_dc { table(&state.dc, self.dc, 15)? } else { Table::empty() },
            ac: if needs_ac { table(&state.ac, self.ac, 255)? } else { Table::empty() },
        })
    }
}

enum Coder {
    Huffman(Huffman),
    Arithmetic(Arithmetic),
}

impl Coder {
    fn block(&mut self, source: &mut Source, slot: usize, block: &mut [i16; 64]) -> Result<(), Cut> {
        match self {
            Self::Huffman(coder) => coder.block(source, slot, block),
            Self::Arithmetic(coder) => coder.block(source, slot, block),
        }
    }

    fn restart(&mut self, source: &Source) {
        match self {
            Self::Huffman(coder) => coder.restart(source),
            Self::Arithmetic(coder) => coder.restart(),
        }
    }

    /// Whether units up to the next restart marker stay as they are.
    fn is_out_of_data(&self) -> bool {
        matches!(self, Self::Huffman(Huffman { bits: Bits { insufficient: true, .. }, .. }))
    }
}
