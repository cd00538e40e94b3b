//! The frame of a JPEG, its tables and its scans, read as libjpeg reads them.

use super::NAME;
use super::arithmetic::{Arithmetic, Slot};
use super::huffman::{Bits, Codes, Huffman, Table, Tables};
use super::idct;
use super::source::{Cut, Source};
use crate::data::decode::{DecodeProblem, Limits, damaged, unsupported};

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

/// The colour space of the samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Color {
    /// Grey, RGB or CMYK, as they are.
    Plain,
    YCbCr,
    /// YCbCr of the inks' complement, and black.
    Ycck,
}

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

pub(super) struct Component {
    id: u8,
    /// Sampling factors.
    pub(super) across: usize,
    pub(super) down: usize,
    quantizer: usize,
    /// The quantization steps at the component's first scan.
    pub(super) steps: Option<[u16; 64]>,
    /// Blocks per row and rows of blocks, padded to whole units.
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) blocks: Vec<[i16; 64]>,
    /// The samples of the blocks, in place of the blocks, where one scan gives all.
    pub(super) samples: Vec<u8>,
    /// For each of the first ten coefficients, the lowest bit that is known; -1 for none.
    known: [i8; 64],
}

pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    progressive: bool,
    arithmetic: bool,
    /// The largest sampling factors.
    pub(super) across: usize,
    pub(super) down: usize,
    pub(super) components: Vec<Component>,
    pub(super) color: Color,
    /// One scan gave all components.
    complete: bool,
    /// Whether something in the packed data was missing or superfluous.
    pub(super) faults: bool,
}

/// What segments before a scan define.
#[derive(Clone)]
pub(super) struct State {
    quantizers: [Option<[u16; 64]>; 4],
    dc: [Option<Codes>; 4],
    ac: [Option<Codes>; 4],
    restart: usize,
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
        let [dc0, ac0, dc1, ac1] = super::standard::codes().map(Some);
        Self {
            quantizers: [None; 4],
            dc: [dc0, dc1, None, None],
            ac: [ac0, ac1, None, None],
            restart: 0,
            dc_bounds: [(0, 1); 16],
            ac_bound: [5; 16],
            jfif: false,
            adobe: None,
            color: None,
        }
    }
}

fn bad(what: &str) -> DecodeProblem {
    damaged(NAME, what)
}

impl State {
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
    fn segment(&mut self, marker: u8, source: &mut Source) -> Result<(), DecodeProblem> {
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
    fn color(&self, ids: &[u8]) -> Color {
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

impl Frame {
    /// The frame without its memory.
    fn new(marker: u8, header: &[u8], limits: &Limits) -> Result<Self, DecodeProblem> {
        let &[bits, h1, h0, w1, w0, count, ref rest @ ..] = header else {
            return Err(bad("a frame header is cut short"));
        };
        let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
        limits.check_size(width.into(), height.into())?;
        if bits != 8 {
            return Err(unsupported(NAME, format!("samples of {bits} bits")));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(unsupported(NAME, format!("{count} components per pixel")));
        }
        if rest.len() != usize::from(count) * 3 {
            return Err(bad("a frame header of a wrong length"));
        }
        let components: Vec<Component> = rest.chunks_exact(3).map(Component::new).collect();
        if components.iter().any(|c| !(1..=4).contains(&c.across) || !(1..=4).contains(&c.down)) {
            return Err(bad("a sampling factor that is not from 1 to 4"));
        }
        let (across, down) = components.iter().fold((1, 1), |(a, d), c| (c.across.max(a), c.down.max(d)));
        if components.iter().any(|c| across % c.across > 0 || down % c.down > 0) {
            return Err(unsupported(NAME, "components sampled in a ratio that is not a whole number"));
        }
        Ok(Self {
            width: width.into(),
            height: height.into(),
            progressive: matches!(marker, 0xc2 | 0xca),
            arithmetic: marker >= 0xc9,
            across,
            down,
            components,
            color: Color::Plain,
            complete: false,
            faults: false,
        })
    }

    /// Units of the whole picture, across and down.
    fn units(&self) -> (usize, usize) {
        (self.width.div_ceil(8 * self.across), self.height.div_ceil(8 * self.down))
    }

    /// Takes the memory: for samples where the first scan, of `count` components, gives all, and else for blocks.
    fn allocate(&mut self, limits: &Limits, count: usize) -> Result<(), DecodeProblem> {
        let (across, down) = self.units();
        let mut bytes = 0;
        for component in &mut self.components {
            component.stride = across * component.across;
            component.rows = down * component.down;
            bytes += (component.stride * component.rows) as u64 * 128;
        }
        limits.check_samples(self.width as u32, self.height as u32, bytes)?;
        let is_direct = !self.progressive && count == self.components.len();
        for component in &mut self.components {
            let blocks = component.stride * component.rows;
            if is_direct {
                component.samples = vec![128; blocks * 64];
            } else {
                component.blocks = vec![[0; 64]; blocks];
            }
        }
        Ok(())
    }

    /// The next scan.
    fn scan(&mut self, header: &[u8], state: &State, source: &mut Source) -> Result<(), DecodeProblem> {
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

    fn blocks_of(&self, index: usize) -> (usize, usize) {
        let component = &self.components[index];
        let blocks = |side: usize, factor: usize, most: usize| (side * factor).div_ceil(8 * most);
        (blocks(self.width, component.across, self.across), blocks(self.height, component.down, self.down))
    }

    /// Whether the scans gave every bit of the ten lowest coefficients. Where they did not, libjpeg guesses them from
    /// the blocks around.
    pub(super) fn is_fine(&self) -> bool {
        !self.progressive || self.components.iter().all(|component| component.known[..10] == [0; 10])
    }
}

/// Reads a file from its start to its end.
pub(super) struct Reader<'a> {
    source: Source<'a>,
    state: State,
    frame: Option<Frame>,
    exif: Vec<u8>,
    xmp: Option<&'a [u8]>,
    /// The content of the header of the first scan.
    scan: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self::with(bytes, State::default())
    }

    pub(super) fn with(bytes: &'a [u8], state: State) -> Self {
        let source = Source::new(bytes);
        Self { source, state, frame: None, exif: Vec::new(), xmp: None, scan: &[] }
    }

    /// Everything before the first scan.
    pub(super) fn read_header(&mut self, limits: &Limits) -> Result<(), DecodeProblem> {
        loop {
            match (self.source.take_marker()?, &self.frame) {
                (0xd8, _) => {}
                (0xd9, _) => return Err(bad("no scan")),
                (marker @ (0xc0..=0xc2 | 0xc9 | 0xca), None) => {
                    self.frame = Some(Frame::new(marker, self.source.segment()?, limits)?);
                }
                (0xe1, _) => {
                    let segment = self.source.segment()?;
                    self.metadata(segment);
                }
                (0xda, Some(_)) => {
                    self.scan = self.source.segment()?;
                    return Ok(());
                }
                (marker, _) => self.segment(marker)?,
            }
        }
    }

    fn metadata(&mut self, segment: &'a [u8]) {
        if let Some(exif) = segment.strip_prefix(b"Exif\0\0") {
            self.exif.extend_from_slice(exif);
        } else if let Some(xmp) = segment.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
            self.xmp = Some(xmp);
        }
    }

    /// A segment that is no scan and not the frame.
    fn segment(&mut self, marker: u8) -> Result<(), DecodeProblem> {
        match marker {
            0xc0..=0xc2 | 0xc9 | 0xca => Err(bad("a second frame")),
            0xc3 | 0xcb => Err(unsupported(NAME, "lossless coding")),
            0xda => Err(bad("a scan before its frame")),
            marker => self.state.segment(marker, &mut self.source),
        }
    }

    fn frame(&self) -> &Frame {
        self.frame.as_ref().expect("read_header has read it")
    }

    pub(super) fn size(&self) -> (u32, u32) {
        (self.frame().width as u32, self.frame().height as u32)
    }

    /// 1, 3 or 4.
    pub(super) fn channels(&self) -> usize {
        self.frame().components.len()
    }

    pub(super) fn exif(&self) -> Option<&[u8]> {
        (!self.exif.is_empty()).then_some(&self.exif)
    }

    pub(super) fn xmp(&self) -> Option<&[u8]> {
        self.xmp
    }

    fn color(&self) -> Color {
        let ids: Vec<u8> = self.frame().components.iter().map(|component| component.id).collect();
        self.state.color(&ids)
    }

    #[cfg(feature = "turbojpeg")]
    /// Whether this is one of the forms that any decoder reads right: grey, or YCbCr with chroma sampled at most half
    /// as often, Huffman codes, and all components in the first scan.
    pub(super) fn is_plain(&self) -> bool {
        let frame = self.frame();
        let sampling = match &frame.components[..] {
            [_] => true,
            [y, cb, cr] => {
                let single = |c: &Component| c.across == 1 && c.down == 1;
                single(cb) && single(cr) && y.across <= 2 && y.down <= 2 && self.color() == Color::YCbCr
            }
            _ => false,
        };
        sampling && !frame.arithmetic && self.scan.first() == Some(&(frame.components.len() as u8))
    }

    /// The picture, from the first scan on; `limits` are checked before memory is taken.
    pub(super) fn read_scans(&mut self, limits: &Limits) -> Result<Frame, DecodeProblem> {
        let color = self.color();
        let mut frame = self.frame.take().expect("read_header has read it");
        frame.allocate(limits, self.scan.first().copied().unwrap_or(0).into())?;
        let read = self.read_to_end(&mut frame);
        // Of a picture of one scan libjpeg has all rows already when the end of the file is missing.
        if !(frame.complete && self.source.is_cut()) {
            read?;
        }
        frame.color = color;
        frame.faults = self.source.faults || self.source.is_cut();
        Ok(frame)
    }

    fn read_to_end(&mut self, frame: &mut Frame) -> Result<(), DecodeProblem> {
        frame.scan(self.scan, &self.state, &mut self.source)?;
        loop {
            match self.source.take_marker()? {
                0xd9 => return Ok(()),
                0xda if frame.complete => return Err(bad("a scan too many")),
                0xda => {
                    let header = self.source.segment()?;
                    frame.scan(header, &self.state, &mut self.source)?;
                }
                marker => self.segment(marker)?,
            }
        }
    }
}

impl Component {
    fn new(header: &[u8]) -> Self {
        Self {
            id: header[0],
            across: (header[1] >> 4).into(),
            down: (header[1] & 15).into(),
            quantizer: header[2].into(),
            steps: None,
            stride: 0,
            rows: 0,
            blocks: Vec::new(),
            samples: Vec::new(),
            known: [-1; 64],
        }
    }

    /// Takes what the tables say now, and notes what the scan will tell.
    fn prepare(&mut self, state: &State, band: Band) -> Result<(), DecodeProblem> {
        if self.steps.is_none() {
            let steps = state.quantizers.get(self.quantizer).copied().flatten();
            self.steps = Some(steps.ok_or_else(|| bad("a quantization table is missing"))?);
        }
        self.known[band.first..=band.last].fill(band.low as i8);
        Ok(())
    }

    /// Reads the block at `x` and `y`, and transforms it where no other scan can add to it.
    #[inline(always)]
    fn block(
        &mut self,
        x: usize,
        y: usize,
        read: impl FnOnce(&mut [i16; 64]) -> Result<(), Cut>,
    ) -> Result<(), Cut> {
        if let Some(block) = self.blocks.get_mut(y * self.stride + x) {
            return read(block);
        }
        let mut block = [0; 64];
        read(&mut block)?;
        let steps = self.steps.as_ref().unwrap_or(&[0; 64]);
        let at = (y * self.stride * 8 + x) * 8;
        idct::block(&block, steps, &mut self.samples[at..], self.stride * 8);
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
