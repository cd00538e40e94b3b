//! Training crops.

use rand::Rng;

use crate::data::image::RgbImage;
use crate::data::preprocess::Preprocess;
use crate::data::random::DataRng;
use crate::data::resize::{Interpolation, Region, resize, resize_region};

use super::geometry::{self, CropBox, PadMode, gather};
use super::{AugmentError, positive_range, uniform};

/// A given crop and flip, to reproduce another program's choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropFlip {
    /// First column of the crop.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub w: u32,
    /// Rows.
    pub h: u32,
    /// Whether to flip left and right.
    pub flip: bool,
}

/// Crops, resizes to `size` (`[height, width]`) and flips, as torchvision's `resized_crop` and `hflip` on Pillow
/// images. The crop is separate: pixels outside it do not affect the resize.
///
/// # Errors
/// [`AugmentError::CropBox`] if the crop is not inside the image, [`AugmentError::Resize`] if a side of `size` is
/// 0.
pub fn crop_flip(
    image: &RgbImage,
    &CropFlip { x, y, w, h, flip }: &CropFlip,
    size: [u32; 2],
    filter: Interpolation,
) -> Result<RgbImage, AugmentError> {
    let part = geometry::crop(image, CropBox { x, y, w, h })?;
    let resized = resize(&part, size[1], size[0], filter)?;
    Ok(if flip { geometry::flip_horizontal(resized) } else { resized })
}

/// How the input was cut from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crop {
    /// As in validation: nothing random.
    Eval,
    /// A box, resized.
    Resized {
        /// The box.
        area: CropBox,
        /// Filter of the resize.
        filter: Interpolation,
    },
    /// The image resized to cover the input, with a border added, then a crop of the input's size.
    Padded {
        /// First column, counted from the border's edge.
        x: u32,
        /// First row, counted from the border's edge.
        y: u32,
        /// Filter of the resize.
        filter: Interpolation,
    },
}

/// A box of random area and shape: torchvision's and timm's `RandomResizedCrop`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomResizedCrop {
    scale: [f64; 2],
    ratio: [f64; 2],
}

impl RandomResizedCrop {
    /// `scale`: least and most area over the image's; `ratio`: least and most width over height.
    ///
    /// # Errors
    /// [`AugmentError::Field`] for an invalid range.
    pub fn new(scale: [f64; 2], ratio: [f64; 2]) -> Result<Self, AugmentError> {
        Ok(Self { scale: positive_range("scale", scale)?, ratio: positive_range("ratio", ratio)? })
    }

    /// Up to ten attempts, then [`fallback`](Self::fallback).
    pub fn draw(&self, width: u32, height: u32, rng: &mut DataRng) -> CropBox {
        let [low, high] = self.ratio.map(f64::ln);
        for _ in 0..10 {
            let area = uniform(rng, self.scale[0], self.scale[1]);
            let log_ratio = uniform(rng, low, high);
            if let Some([w, h]) = Self::sides(width, height, area, log_ratio) {
                let y = rng.random_range(0..=height - h);
                let x = rng.random_range(0..=width - w);
                return CropBox { x, y, w, h };
            }
        }
        self.fallback(width, height)
    }

    /// `[width, height]` of a crop with this share of the area and this logarithm of width over height; `None` if
    /// it does not fit into the image.
    pub fn sides(width: u32, height: u32, area: f64, log_ratio: f64) -> Option<[u32; 2]> {
        let area = area * (f64::from(width) * f64::from(height));
        let ratio = log_ratio.exp();
        let w = (area * ratio).sqrt().round_ties_even();
        let h = (area / ratio).sqrt().round_ties_even();
        // torchvision draws again for a side of 0; timm would return an empty crop.
        let fits = |side: f64, whole: u32| side >= 1.0 && side <= f64::from(whole);
        (fits(w, width) && fits(h, height)).then_some([w as u32, h as u32])
    }

    /// The largest centred box whose aspect ratio is in the range.
    pub fn fallback(&self, width: u32, height: u32) -> CropBox {
        let [least, most] = self.ratio;
        let shape = f64::from(width) / f64::from(height);
        let side = |side: f64, whole: u32| (side.round_ties_even() as u32).clamp(1, whole);
        let (w, h) = if shape < least {
            (width, side(f64::from(width) / least, height))
        } else if shape > most {
            (side(f64::from(height) * most, width), height)
        } else {
            (width, height)
        };
        CropBox { x: (width - w) / 2, y: (height - h) / 2, w, h }
    }
}

/// A random crop of the image with a border: torchvision's `RandomCrop(size, padding)`, as for CIFAR. DeiT III does
/// the same on larger images after a resize.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomCrop {
    /// The input, and how an image is resized to cover it.
    cover: Preprocess,
    border: u32,
    mode: PadMode,
}

impl RandomCrop {
    /// Crops of `size` (`[height, width]`) from images with `border` more pixels on each side.
    pub fn new(size: [u32; 2], border: u32, mode: PadMode) -> Self {
        let input_size = [3, size[0] as usize, size[1] as usize];
        Self { cover: Preprocess { input_size, crop_pct: 1.0, ..Preprocess::default() }, border, mode }
    }

    /// First column and row of the crop, counted from the border's edge, for an image of this size.
    pub fn draw(&self, width: u32, height: u32, rng: &mut DataRng) -> [u32; 2] {
        let [rows, columns] = self.ends(width, height);
        let y = rng.random_range(0..=rows);
        let x = rng.random_range(0..=columns);
        [x, y]
    }

    /// The crop at `x`, `y`, of the input's size. Only the visible part of the resized image is computed.
    ///
    /// # Errors
    /// [`AugmentError::CropBox`] if the crop reaches beyond the border, [`AugmentError::Resize`].
    pub fn apply(
        &self,
        image: &RgbImage,
        [x, y]: [u32; 2],
        filter: Interpolation,
    ) -> Result<RgbImage, AugmentError> {
        let [_, h, w] = self.cover.input_size.map(|side| side as u32);
        let [rows, columns] = self.ends(image.width(), image.height());
        if x > columns || y > rows {
            let (width, height) = (columns + w, rows + h);
            return Err(AugmentError::CropBox { found: CropBox { x, y, w, h }, width, height });
        }
        let [height, width] = self.resized(image.width(), image.height());
        let axis = |start: u32, count: u32, length: u32| {
            let position = |at: u32| i64::from(start) + i64::from(at) - i64::from(self.border);
            (0..count).map(|at| self.mode.source(position(at), length)).collect::<Vec<_>>()
        };
        let (mut rows, mut columns) = (axis(y, h, height), axis(x, w, width));
        let (top, down) = rebase(&mut rows);
        let (left, across) = rebase(&mut columns);
        let region = Region { left, top, width: across, height: down };
        let part = resize_region(image, width, height, region, filter)?;
        Ok(gather(&part, &rows, &columns))
    }

    /// The largest valid first row and column of a crop.
    fn ends(&self, width: u32, height: u32) -> [u32; 2] {
        let [_, h, w] = self.cover.input_size.map(|side| side as u32);
        let [height, width] = self.resized(width, height);
        let end =
            |side: u32, part: u32| side.saturating_add(self.border.saturating_mul(2)).saturating_sub(part);
        [end(height, h), end(width, w)]
    }

    /// Sides of the smallest resized image that covers the input, `[height, width]`.
    fn resized(&self, width: u32, height: u32) -> [u32; 2] {
        let sides = self.cover.resized_size(height, width);
        sides.map(|side| u32::try_from(side).unwrap_or(u32::MAX))
    }
}

/// Makes positions relative to the first present one; returns it and their extent.
fn rebase(positions: &mut [Option<u32>]) -> (u32, u32) {
    let first = positions.iter().flatten().min().copied().unwrap_or(0);
    let last = positions.iter().flatten().max().copied().unwrap_or(0);
    positions.iter_mut().flatten().for_each(|at| *at -= first);
    (first, last - first + 1)
}
