//! Weighted sums of 8-bit pixels in fixed point, for resizing.
//!
//! Compiled for each level of instructions, for the baseline of x86-64 has no product of 32-bit integers in vectors.
//! Integers are the same at every level.

use std::ops::Range;

use crate::simd::{self, Job, Simd};

/// Bits after the point of a weight: 8 for the pixel and 2 for filters that overshoot leave 22 of 32.
pub const PRECISION: u32 = 22;
const HALF: i32 = 1 << (PRECISION - 1);
/// Channels of a pixel.
const CHANNELS: usize = 3;
/// Sums that are held in registers while rows are added up.
const COLUMNS: usize = 64;

/// Which source pixels make one output pixel, and which of the weights belong to them.
#[derive(Clone, Debug)]
pub struct Taps {
    /// The first pixel.
    pub first: usize,
    /// A weight for it and each of the next.
    pub weights: Range<usize>,
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// A row of RGB pixels from the weighted sums of pixels of `source`, rounded and clipped.
///
/// `source` is at least as long as the taps reach; it is faster where a byte follows.
///
/// # Panics
/// If the taps reach further than pixels or weights, or `out` is not a pixel for each.
pub fn weigh_columns(source: &[u8], taps: &[Taps], weights: &[i32], out: &mut [u8]) {
    assert_eq!(out.len(), taps.len() * CHANNELS, "three bytes for each output pixel");
    simd::run(Columns { source, taps, weights, out });
}

struct Columns<'a> {
    source: &'a [u8],
    taps: &'a [Taps],
    weights: &'a [i32],
    out: &'a mut [u8],
}

impl Job for Columns<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (pixel, taps) in self.out.chunks_exact_mut(CHANNELS).zip(self.taps) {
            let weights = &self.weights[taps.weights.clone()];
            let from = &self.source[taps.first * CHANNELS..];
            // Four bytes at a time, of which the last belongs to the next pixel and is dropped in the end.
            let sums = if from.len() > weights.len() * CHANNELS {
                // SAFETY: there is a byte behind the pixels.
                unsafe { S::weigh_pixels(from.as_ptr(), weights, HALF) }
            } else {
                let mut padded = from[..weights.len() * CHANNELS].to_vec();
                padded.push(0);
                // SAFETY: likewise.
                unsafe { S::weigh_pixels(padded.as_ptr(), weights, HALF) }
            };
            for (to, &sum) in pixel.iter_mut().zip(&sums) {
                *to = clip(sum);
            }
        }
    }
}

/// A row from the weighted sum of rows of `source`, each as long as `out`, one for each of `weights`; rounded and clipped.
///
/// # Panics
/// If there are not as many rows.
pub fn weigh_rows(source: &[u8], weights: &[i32], out: &mut [u8]) {
    assert!(source.len() >= weights.len().saturating_mul(out.len()), "a row for each weight");
    simd::run(Rows { source, weights, out });
}

struct Rows<'a> {
    source: &'a [u8],
    weights: &'a [i32],
    out: &'a mut [u8],
}

impl Job for Rows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let stride = self.out.len();
        let mut blocks = self.out.chunks_exact_mut(COLUMNS);
        let mut start = 0;
        for out in blocks.by_ref() {
            let mut sums = [HALF; COLUMNS];
            for (row, &w) in self.source.chunks_exact(stride).zip(self.weights) {
                for (sum, &p) in sums.iter_mut().zip(&row[start..start + COLUMNS]) {
                    *sum += i32::from(p) * w;
                }
            }
            for (out, &sum) in out.iter_mut().zip(&sums) {
                *out = clip(sum);
            }
            start += COLUMNS;
        }
        for (at, out) in (start..).zip(blocks.into_remainder()) {
            let column = self.source[at..].iter().step_by(stride);
            *out = clip(column.zip(self.weights).fold(HALF, |sum, (&p, &w)| sum + i32::from(p) * w));
        }
    }
}
