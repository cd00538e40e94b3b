//! A file from its start to its end: segments, the frame, the scans.

use super::frame::{Color, Frame};
use super::source::Source;
use super::tables::State;
use super::{NAME, bad};
use crate::data::decode::{DecodeProblem, Limits, unsupported};

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

    /// Whether this is one of the forms that any decoder reads right: grey, or YCbCr with chroma sampled at most half
    /// as often, Huffman codes, and all components in the first scan.
    #[cfg(feature = "turbojpeg")]
    pub(super) fn is_plain(&self) -> bool {
        let frame = self.frame();
        let sampling = match &frame.components[..] {
            [_] => true,
            [y, cb, cr] => {
                let single = [cb, cr].iter().all(|c| c.across == 1 && c.down == 1);
                single && y.across <= 2 && y.down <= 2 && self.color() == Color::YCbCr
            }
            _ => false,
        };
        sampling && !frame.arithmetic && self.scan.first() == Some(&(frame.components.len() as u8))
    }

    /// The picture, from the first scan on; `limits` are checked before memory is taken.
    pub(super) fn read_scans(&mut self, limits: &Limits) -> Result<Frame, DecodeProblem> {
        let color = self.color();
        let mut frame = self.frame.take().expect("read_header has read it");
        // libjpeg does so before the first scan of a sequential frame, and refuses a progressive one.
        if !frame.progressive {
            self.state.take_standard_tables();
        }
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
