//! Resizing that equals Pillow's, byte for byte.
//!
//! Pillow resizes 8-bit images in two passes, usually horizontal first. Each pass rounds to 8 bits and uses
//! coefficients in 22-bit fixed point (`src/libImaging/Resample.c`; here as in Pillow 13). Differences of a single
//! level change a network's answers, so this file does the same integer arithmetic.
//!
//! The passes are separable and output pixels are independent. [`resize_region`] therefore computes only the part
//! that a crop keeps: a 1 x 10,000 picture costs no more than its crop.

use std::borrow::Cow;
use std::f64::consts::PI;
use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vitrum_kernels::pixels::{PRECISION, Taps, weigh_columns, weigh_rows};

use super::image::RgbImage;

/// Resize filters, with timm's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest source pixel, no averaging.
    Nearest,
    /// Mean over the source area.
    Box,
    /// Triangle of support 1.
    #[default]
    Bilinear,
    /// Hamming window of support 1.
    Hamming,
    /// Keys' cubic with a = -0.5, support 2.
    Bicubic,
    /// Windowed sinc of support 3.
    Lanczos,
}

impl Interpolation {
    /// Every filter.
    pub const ALL: [Self; 6] =
        [Self::Nearest, Self::Box, Self::Bilinear, Self::Hamming, Self::Bicubic, Self::Lanczos];

    /// timm's name of the filter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Box => "box",
            Self::Bilinear => "bilinear",
            Self::Hamming => "hamming",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        }
    }

    /// The filter with this timm name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|filter| filter.name() == name)
    }

    /// Pillow's number of the filter; Hugging Face writes it.
    pub fn pillow_code(self) -> u8 {
        match self {
            Self::Nearest => 0,
            Self::Lanczos => 1,
            Self::Bilinear => 2,
            Self::Bicubic => 3,
            Self::Box => 4,
            Self::Hamming => 5,
        }
    }

    /// The filter with this Pillow number.
    pub fn of_pillow_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|filter| u64::from(filter.pillow_code()) == code)
    }

    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming => hamming(x.abs()),
            Self::Bicubic => bicubic(x.abs()),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn hamming(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else if x >= 1.0 {
        0.0
    } else {
        let x = x * PI;
        // Pillow's two constants are single precision.
        x.sin() / x * (f64::from(0.54_f32) + f64::from(0.46_f32) * x.cos())
    }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}

/// A rectangle of source coordinates in pixels, also fractional.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceBox {
    /// Left edge.
    pub left: f32,
    /// Top edge.
    pub top: f32,
    /// Right edge, after the last column.
    pub right: f32,
    /// Bottom edge, after the last row.
    pub bottom: f32,
}

/// A rectangle of whole output pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// An invalid size for a resize.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ResizeError {
    /// A side of the result would be zero.
    #[error("cannot resize {from_width} x {from_height} pixels to {width} x {height}: a side would be zero")]
    Empty {
        /// Source width.
        from_width: u32,
        /// Source height.
        from_height: u32,
        /// Requested width.
        width: u32,
        /// Requested height.
        height: u32,
    },
    /// The region is not inside the resized image.
    #[error("region {region:?} does not lie inside the resized {width} x {height} image")]
    Region {
        /// The requested region.
        region: Region,
        /// Width of the whole result.
        width: u32,
        /// Height of the whole result.
        height: u32,
    },
    /// The source box is empty or not inside the source image.
    #[error("source box {source_box:?} does not lie inside the {width} x {height} image")]
    SourceBox {
        /// The requested box.
        source_box: SourceBox,
        /// Source width.
        width: u32,
        /// Source height.
        height: u32,
    },
}

/// Resizes the whole image to `width` x `height`, as Pillow's `image.resize((width, height), filter)`.
///
/// # Errors
/// [`ResizeError::Empty`] if a side is zero.
pub fn resize(
    image: &RgbImage,
    width: u32,
    height: u32,
    filter: Interpolation,
) -> Result<RgbImage, ResizeError> {
    let all = Region { left: 0, top: 0, width, height };
    resize_region(image, width, height, all, filter)
}

/// The part `region` of the image resized to `width` x `height`; equal to resizing and then cropping.
///
/// # Errors
/// [`ResizeError`] if a side is zero or the region reaches outside.
pub fn resize_region(
    image: &RgbImage,
    width: u32,
    height: u32,
    region: Region,
    filter: Interpolation,
) -> Result<RgbImage, ResizeError> {
    let (right, bottom) = (image.width() as f32, image.height() as f32);
    let whole = SourceBox { left: 0.0, top: 0.0, right, bottom };
    resize_box(image, whole, width, height, region, filter)
}

/// The part `region` of the source rectangle `source` resized to `width` x `height`, as Pillow's
/// `image.resize((width, height), filter, box=source)` followed by a crop.
///
/// # Errors
/// [`ResizeError`] if a side is zero, or the box or region reaches outside.
pub fn resize_box(
    image: &RgbImage,
    source: SourceBox,
    width: u32,
    height: u32,
    region: Region,
    filter: Interpolation,
) -> Result<RgbImage, ResizeError> {
    check(image, source, width, height, region)?;
    let data = if filter == Interpolation::Nearest {
        nearest(image, source, width, height, region)
    } else {
        let columns = Axis::new(image.width(), source.left, source.right, width, region.left, region.width);
        let rows = Axis::new(image.height(), source.top, source.bottom, height, region.top, region.height);
        resample(image, &columns, &rows, filter)
    };
    // Both passes return region.height rows of region.width pixels, and neither is zero, so the size fits.
    Ok(RgbImage::new(region.width, region.height, data).expect("region sized"))
}

fn check(
    image: &RgbImage,
    source: SourceBox,
    width: u32,
    height: u32,
    region: Region,
) -> Result<(), ResizeError> {
    if width == 0 || height == 0 {
        let (from_width, from_height) = (image.width(), image.height());
        return Err(ResizeError::Empty { from_width, from_height, width, height });
    }
    let fits = |start: u32, size: u32, end: u32| {
        size > 0 && start.checked_add(size).is_some_and(|reached| reached <= end)
    };
    if !fits(region.left, region.width, width) || !fits(region.top, region.height, height) {
        return Err(ResizeError::Region { region, width, height });
    }
    let inside = |a: f32, b: f32, end: u32| a >= 0.0 && b > a && b <= end as f32;
    if !inside(source.left, source.right, image.width()) || !inside(source.top, source.bottom, image.height())
    {
        let (width, height) = (image.width(), image.height());
        return Err(ResizeError::SourceBox { source_box: source, width, height });
    }
    Ok(())
}

/// One axis: a range of the source, mapped to `whole` output pixels, of which `keep` are computed.
struct Axis {
    source: usize,
    from: f32,
    to: f32,
    whole: usize,
    keep: Range<usize>,
}

impl Axis {
    fn new(source: u32, from: f32, to: f32, whole: u32, start: u32, count: u32) -> Self {
        let keep = start as usize..start as usize + count as usize;
        Self { source: source as usize, from, to, whole: whole as usize, keep }
    }

    /// Pillow skips a pass that would change nothing.
    fn is_identity(&self) -> bool {
        self.whole == self.source && self.from == 0.0 && self.to == self.source as f32
    }

    /// Source pixels per output pixel.
    fn scale(&self) -> f64 {
        f64::from(self.to - self.from) / self.whole as f64
    }
}

/// The weights of one axis; those of all output pixels in one vector.
struct Kernel {
    taps: Vec<Taps>,
    weights: Vec<i32>,
}

impl Kernel {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`, for the kept output pixels.
    fn new(axis: &Axis, filter: Interpolation) -> Self {
        let scale = axis.scale();
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let inverse = 1.0 / filter_scale;
        let mut kernel = Self { taps: Vec::with_capacity(axis.keep.len()), weights: Vec::new() };
        let mut exact = Vec::new();
        for out in axis.keep.clone() {
            let center = f64::from(axis.from) + (out as f64 + 0.5) * scale;
            // `as usize` truncates and turns negative values into 0, as in Pillow's code.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(axis.source);
            exact.clear();
            exact.extend((first..end).map(|x| filter.weight((x as f64 - center + 0.5) * inverse)));
            let sum: f64 = exact.iter().sum();
            let start = kernel.weights.len();
            kernel.weights.extend(exact.iter().map(|&w| fixed_point(if sum == 0.0 { w } else { w / sum })));
            kernel.taps.push(Taps { first, weights: start..kernel.weights.len() });
        }
        kernel
    }

    fn weights(&self, taps: &Taps) -> &[i32] {
        &self.weights[taps.weights.clone()]
    }

    /// Makes taps relative to the first source pixel that is used; returns the range of used source pixels.
    fn rebase(&mut self) -> Range<usize> {
        let first = self.taps.iter().map(|taps| taps.first).min().unwrap_or(0);
        let end = self.taps.iter().map(|taps| taps.first + taps.weights.len()).max().unwrap_or(0);
        for taps in &mut self.taps {
            taps.first -= first;
        }
        first..end
    }
}

/// Rounds half away from zero.
fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

/// From this many multiplications on, rows are split among rayon's threads.
const PARALLEL_FROM: usize = 1 << 20;

/// The two passes; a pass that would change nothing is skipped.
fn resample(image: &RgbImage, columns: &Axis, rows: &Axis, filter: Interpolation) -> Vec<u8> {
    let kernel = |axis: &Axis| (!axis.is_identity()).then(|| Kernel::new(axis, filter));
    let (mut across, mut down) = (kernel(columns), kernel(rows));
    let used_columns = across.as_mut().map_or(columns.keep.clone(), Kernel::rebase);
    let used_rows = down.as_mut().map_or(rows.keep.clone(), Kernel::rebase);
    let mut width = used_columns.len();
    let mut pixels = part(image, used_columns, used_rows);
    if let (true, Some(kernel)) = (rows_first(columns, rows), &down) {
        pixels = Cow::Owned(vertical(&pixels, width, kernel));
        down = None;
    }
    if let Some(kernel) = &across {
        pixels = Cow::Owned(horizontal(&pixels, width, kernel));
        width = kernel.taps.len();
    }
    if let Some(kernel) = &down {
        pixels = Cow::Owned(vertical(&pixels, width, kernel));
    }
    pixels.into_owned()
}

/// Whether the vertical pass comes first. Pillow 13 does so if it removes more than twice as many rows as columns.
/// Earlier versions always began with the horizontal pass. The two orders may differ by one level.
fn rows_first(columns: &Axis, rows: &Axis) -> bool {
    let lost = |axis: &Axis| axis.source as i64 - axis.whole as i64;
    lost(rows) > 0 && lost(rows) > 2 * lost(columns)
}

/// A rectangle of the image's bytes.
fn part(image: &RgbImage, columns: Range<usize>, rows: Range<usize>) -> Cow<'_, [u8]> {
    let stride = image.width() as usize * 3;
    let rows = &image.data()[rows.start * stride..rows.end * stride];
    if columns.len() * 3 == stride {
        return Cow::Borrowed(rows);
    }
    let mut bytes = Vec::with_capacity(rows.len() / stride * columns.len() * 3);
    for row in rows.chunks_exact(stride) {
        bytes.extend_from_slice(&row[columns.start * 3..columns.end * 3]);
    }
    Cow::Owned(bytes)
}

/// Rows of `width` pixels to the same number of rows of `kernel.taps` pixels.
fn horizontal(source: &[u8], width: usize, kernel: &Kernel) -> Vec<u8> {
    let (stride, out_stride) = (width * 3, kernel.taps.len() * 3);
    let height = source.len() / stride;
    let mut out = vec![0; height * out_stride];
    // A row's slice extends to the end of the picture.
    let row = |(y, out): (usize, &mut [u8])| {
        weigh_columns(&source[y * stride..], &kernel.taps, &kernel.weights, out);
    };
    if height * kernel.weights.len() * 3 >= PARALLEL_FROM {
        out.par_chunks_exact_mut(out_stride).enumerate().for_each(row);
    } else {
        out.chunks_exact_mut(out_stride).enumerate().for_each(row);
    }
    out
}

/// Rows of `width` pixels to `kernel.taps` rows of `width` pixels.
fn vertical(source: &[u8], width: usize, kernel: &Kernel) -> Vec<u8> {
    let stride = width * 3;
    let mut out = vec![0; kernel.taps.len() * stride];
    let row = |(out, taps): (&mut [u8], &Taps)| {
        weigh_rows(&source[taps.first * stride..], kernel.weights(taps), out);
    };
    if stride * kernel.weights.len() >= PARALLEL_FROM {
        out.par_chunks_exact_mut(stride).zip(&kernel.taps).for_each(row);
    } else {
        out.chunks_exact_mut(stride).zip(&kernel.taps).for_each(row);
    }
    out
}

fn nearest(image: &RgbImage, source: SourceBox, width: u32, height: u32, region: Region) -> Vec<u8> {
    let columns = Axis::new(image.width(), source.left, source.right, width, region.left, region.width);
    let rows = Axis::new(image.height(), source.top, source.bottom, height, region.top, region.height);
    let columns = nearest_pixels(&columns);
    let mut out = Vec::with_capacity(region.width as usize * region.height as usize * 3);
    for y in nearest_pixels(&rows) {
        let row = image.row(y as u32);
        for &x in &columns {
            out.extend_from_slice(&row[x * 3..][..3]);
        }
    }
    out
}

/// The source pixel of each kept output pixel. The position is accumulated step by step, as in Pillow's
/// `ImagingScaleAffine`; a product would round differently.
fn nearest_pixels(axis: &Axis) -> Vec<usize> {
    let step = axis.scale();
    let mut at = f64::from(axis.from) + step * 0.5;
    let mut pixels = Vec::with_capacity(axis.keep.len());
    for out in 0..axis.keep.end {
        if out >= axis.keep.start {
            pixels.push((at as usize).min(axis.source - 1));
        }
        at += step;
    }
    pixels
}
