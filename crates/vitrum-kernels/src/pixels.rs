//! Weighted sums of 8-bit pixels in fixed point, for resizing.
//!
//! The code is compiled for each level of instructions, since the baseline of x86-64 cannot multiply vectors of 32-bit
//! integers. Results are the same at every level.

use std::ops::Range;

use crate::simd::{self, Kernel, Simd};

/// Fractional bits of a weight: 32 bits less 8 for the pixel and 2 for filters that overshoot.
pub const PRECISION: u32 = 22;
const HALF: i32 = 1 << (PRECISION - 1);
/// Channels per pixel.
const CHANNELS: usize = 3;
/// Sums that stay in registers while rows are added.
const COLUMNS: usize = 64;

/// The source pixels of one output pixel, and the weights for them.
#[derive(Clone, Debug)]
pub struct Taps {
    /// The first source pixel.
    pub first: usize,
    /// One weight for each source pixel from `first` on.
    pub weights: Range<usize>,
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// A row of RGB pixels from weighted sums of pixels of `source`, rounded and clipped.
///
/// `source` must cover all taps. It is faster if at least one byte follows them.
///
/// # Panics
/// If the taps exceed pixels or weights, or `out` does not have one pixel per tap.
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

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (pixel, taps) in self.out.chunks_exact_mut(CHANNELS).zip(self.taps) {
            let weights = &self.weights[taps.weights.clone()];
            let from = &self.source[taps.first * CHANNELS..];
            // Four bytes at a time; the fourth belongs to the next pixel and is dropped at the end.
            let sums = if from.len() > weights.len() * CHANNELS {
                // SAFETY: a byte follows the pixels.
                unsafe { S::weigh_pixels(from.as_ptr(), weights, HALF) }
            } else {
                let mut padded = from[..weights.len() * CHANNELS].to_vec();
                padded.push(0);
                // SAFETY: a byte follows the pixels.
                unsafe { S::weigh_pixels(padded.as_ptr(), weights, HALF) }
            };
            for (to, &sum) in pixel.iter_mut().zip(&sums) {
                *to = clip(sum);
            }
        }
    }
}

/// A row as the weighted sum of rows of `source`, rounded and clipped. Each row is as long as `out`, and each has one
/// of `weights`.
///
/// # Panics
/// If `source` has fewer rows than `weights`.
pub fn weigh_rows(source: &[u8], weights: &[i32], out: &mut [u8]) {
    assert!(source.len() >= weights.len().saturating_mul(out.len()), "a row for each weight");
    simd::run(Rows { source, weights, out });
}

struct Rows<'a> {
    source: &'a [u8],
    weights: &'a [i32],
    out: &'a mut [u8],
}

impl Kernel for Rows<'_> {
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
