//! The frame of a JPEG: its size, its components and their memory.

use super::scan::Band;
use super::source::Cut;
use super::tables::State;
use super::{NAME, bad, idct};
use crate::data::decode::{DecodeProblem, Limits, unsupported};

/// The colour space of the samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Color {
    /// Grey, RGB or CMYK, as they are.
    Plain,
    YCbCr,
    /// YCbCr of the inks' complement, and black.
    Ycck,
}

pub(super) struct Component {
    pub(super) id: u8,
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
    pub(super) progressive: bool,
    pub(super) arithmetic: bool,
    /// The largest sampling factors.
    pub(super) across: usize,
    pub(super) down: usize,
    pub(super) components: Vec<Component>,
    pub(super) color: Color,
    /// One scan gave all components.
    pub(super) complete: bool,
    /// Whether something in the packed data was missing or superfluous.
    pub(super) faults: bool,
}

impl Frame {
    /// The frame without its memory.
    pub(super) fn new(marker: u8, header: &[u8], limits: &Limits) -> Result<Self, DecodeProblem> {
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
    pub(super) fn units(&self) -> (usize, usize) {
        (self.width.div_ceil(8 * self.across), self.height.div_ceil(8 * self.down))
    }

    /// Takes the memory: for samples where the first scan, of `count` components, gives all, and else for blocks.
    pub(super) fn allocate(&mut self, limits: &Limits, count: usize) -> Result<(), DecodeProblem> {
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

    pub(super) fn blocks_of(&self, index: usize) -> (usize, usize) {
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
    pub(super) fn prepare(&mut self, state: &State, band: Band) -> Result<(), DecodeProblem> {
        if self.steps.is_none() {
            let steps = state.quantizers.get(self.quantizer).copied().flatten();
            self.steps = Some(steps.ok_or_else(|| bad("a quantization table is missing"))?);
        }
        self.known[band.first..=band.last].fill(band.low as i8);
        Ok(())
    }

    /// Reads the block at `x` and `y`, and transforms it where no other scan can add to it.
    #[inline(always)]
    pub(super) fn block(
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
