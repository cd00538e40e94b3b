//! The bytes of a JPEG: segments, markers, restarts.

use super::NAME;
use crate::data::decode::{DecodeProblem, damaged};

/// Bytes were asked for behind the end of the file. Small, for it is returned for every bit.
#[derive(Debug)]
pub(super) struct Cut;

impl From<Cut> for DecodeProblem {
    fn from(Cut: Cut) -> Self {
        damaged(NAME, "the file is cut short")
    }
}

/// A place in the file, and the marker that was met there and not yet treated.
pub(super) struct Source<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The second byte of a marker at which the packed data end; 0 for none.
    pub(super) marker: u8,
    /// Whether something was not as it should be, though it can be read.
    pub(super) faults: bool,
    cut: bool,
}

impl<'a> Source<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, marker: 0, faults: false, cut: false }
    }

    /// Whether bytes were asked for behind the end of the file.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    fn cut(&mut self) -> Cut {
        self.cut = true;
        Cut
    }

    pub(super) fn byte(&mut self) -> Result<u8, Cut> {
        let Some(&byte) = self.bytes.get(self.at) else {
            return Err(self.cut());
        };
        self.at += 1;
        Ok(byte)
    }

    fn short(&mut self) -> Result<usize, Cut> {
        Ok(usize::from(self.byte()?) << 8 | usize::from(self.byte()?))
    }

    /// The content of a segment, which begins with its own length.
    pub(super) fn segment(&mut self) -> Result<&'a [u8], Cut> {
        let length = self.short()?.saturating_sub(2);
        let content = self.bytes.get(self.at..self.at + length);
        self.at += length;
        content.ok_or_else(|| self.cut())
    }

    /// The marker that waits, or the next one in the file; bytes before it are skipped.
    pub(super) fn take_marker(&mut self) -> Result<u8, Cut> {
        if self.marker == 0 {
            self.find_marker()?;
        }
        Ok(std::mem::take(&mut self.marker))
    }

    fn find_marker(&mut self) -> Result<(), Cut> {
        loop {
            while self.byte()? != 0xff {
                self.faults = true;
            }
            match self.kind()? {
                0 => self.faults = true,
                kind => {
                    self.marker = kind;
                    return Ok(());
                }
            }
        }
    }

    /// The byte behind one or more bytes 0xff.
    fn kind(&mut self) -> Result<u8, Cut> {
        loop {
            let kind = self.byte()?;
            if kind != 0xff {
                return Ok(kind);
            }
        }
    }

    /// The next four bytes of packed data, when none of them is 0xff, which could be a marker's.
    #[inline]
    pub(super) fn four_plain(&mut self) -> Option<u32> {
        let &four = self.bytes.get(self.at..)?.first_chunk()?;
        let four = u32::from_be_bytes(four);
        let has_ones = four & 0x8080_8080 & (!four).wrapping_sub(0x0101_0101) != 0;
        if self.marker != 0 || has_ones {
            return None;
        }
        self.at += 4;
        Some(four)
    }

    /// The next byte of packed data; `None` at a marker, which then waits.
    pub(super) fn packed(&mut self) -> Result<Option<u8>, Cut> {
        if self.marker != 0 {
            return Ok(None);
        }
        match self.byte()? {
            0xff => match self.kind()? {
                0 => Ok(Some(0xff)),
                kind => {
                    self.marker = kind;
                    Ok(None)
                }
            },
            byte => Ok(Some(byte)),
        }
    }

    /// Goes on behind the restart marker of number `wanted`. Where another one stands, libjpeg's rule
    /// (`jpeg_resync_to_restart`) says whether it is skipped or left for later, with no data until then.
    pub(super) fn restart(&mut self, wanted: u8) -> Result<(), Cut> {
        if self.marker == 0 {
            self.find_marker()?;
        }
        if self.marker == 0xd0 + wanted {
            self.marker = 0;
            return Ok(());
        }
        self.faults = true;
        loop {
            let ahead = self.marker.wrapping_sub(0xd0 + wanted) & 7;
            match self.marker {
                0..0xc0 => self.find_marker()?,
                0xd0..=0xd7 if matches!(ahead, 1 | 2) => return Ok(()),
                0xd0..=0xd7 if matches!(ahead, 6 | 7) => self.find_marker()?,
                0xd0..=0xd7 => {
                    self.marker = 0;
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
    }
}
