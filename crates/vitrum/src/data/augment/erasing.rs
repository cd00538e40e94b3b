//! Random erasing (Zhong et al. 2017, arXiv 1708.04896), on normalised values as in timm's `RandomErasing`.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::data::random::DataRng;

use super::geometry::CropBox;
use super::{AugmentError, chance, probability, uniform, wrong};

/// The filling of erased parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraseMode {
    /// 0, the mean colour.
    Const,
    /// One normally distributed colour per part.
    Rand,
    /// A normally distributed value for every pixel.
    Pixel,
}

impl EraseMode {
    /// The mode with this timm name.
    ///
    /// # Errors
    /// [`AugmentError::Field`] for another name.
    pub fn of_name(name: &str) -> Result<Self, AugmentError> {
        match name {
            "const" => Ok(Self::Const),
            "rand" => Ok(Self::Rand),
            "pixel" => Ok(Self::Pixel),
            _ => Err(wrong("remode", format!("'{name}'"), "`const`, `rand` or `pixel`")),
        }
    }
}

/// Erases parts of some images: 2 % to a third of the area, 0.3 to 3.3 times as high as wide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomErasing {
    probability: f64,
    mode: EraseMode,
    max_count: u32,
}

/// Least and most share of the area.
const AREA: [f64; 2] = [0.02, 1.0 / 3.0];
/// Least height over width; the largest is its inverse.
const ASPECT: f64 = 0.3;

impl RandomErasing {
    /// With probability `reprob` per image, erases 1 to `recount` parts. Their area is divided by their number.
    ///
    /// # Errors
    /// [`AugmentError::Field`] if `reprob` is not a probability or `recount` is not 1 to 1000.
    pub fn new(reprob: f64, mode: EraseMode, recount: usize) -> Result<Self, AugmentError> {
        let max_count = u32::try_from(recount).ok().filter(|count| (1..=1000).contains(count));
        let max_count = max_count.ok_or_else(|| wrong("recount", recount, "1 to 1000"))?;
        Ok(Self { probability: probability("reprob", reprob)?, mode, max_count })
    }

    /// The parts of one image, usually none.
    pub fn draw(&self, width: u32, height: u32, rng: &mut DataRng) -> Vec<CropBox> {
        if !chance(rng, self.probability) {
            return Vec::new();
        }
        let count = rng.random_range(1..=self.max_count);
        (0..count).filter_map(|_| Self::part(width, height, count, rng)).collect()
    }

    /// Tries ten times.
    fn part(width: u32, height: u32, count: u32, rng: &mut DataRng) -> Option<CropBox> {
        (0..10).find_map(|_| {
            let area = uniform(rng, AREA[0], AREA[1]);
            let log_aspect = uniform(rng, ASPECT.ln(), (1.0 / ASPECT).ln());
            let [w, h] = Self::sides(width, height, count, area, log_aspect)?;
            let y = rng.random_range(0..=height - h);
            let x = rng.random_range(0..=width - w);
            Some(CropBox { x, y, w, h })
        })
    }

    /// `[width, height]` of one of `count` parts, from a share of the area and the logarithm of height over width;
    /// `None` if it is not smaller than the image. A side may be 0: then nothing is erased.
    pub fn sides(width: u32, height: u32, count: u32, area: f64, log_aspect: f64) -> Option<[u32; 2]> {
        let area = area * (f64::from(width) * f64::from(height)) / f64::from(count);
        let aspect = log_aspect.exp();
        let h = (area * aspect).sqrt().round_ties_even() as u32;
        let w = (area / aspect).sqrt().round_ties_even() as u32;
        (w < width && h < height).then_some([w, h])
    }

    /// Fills the parts of `values`, `[C, height, width]` with this `width`. Random fillings come from `rng`.
    ///
    /// Parts outside the image are ignored.
    pub fn apply(
        &self,
        values: &mut [f32],
        [height, width]: [usize; 2],
        parts: &[CropBox],
        rng: &mut DataRng,
    ) {
        let normal = |rng: &mut DataRng| -> f32 { StandardNormal.sample(rng) };
        for part in parts {
            let columns = part.x as usize..(part.x as usize + part.w as usize).min(width);
            if columns.is_empty() {
                continue;
            }
            for channel in values.chunks_exact_mut((height * width).max(1)) {
                let color = if self.mode == EraseMode::Rand { normal(rng) } else { 0.0 };
                let rows = channel.chunks_exact_mut(width).skip(part.y as usize).take(part.h as usize);
                for value in rows.flat_map(|row| &mut row[columns.clone()]) {
                    *value = if self.mode == EraseMode::Pixel { normal(rng) } else { color };
                }
            }
        }
    }
}

impl std::fmt::Display for RandomErasing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.mode {
            EraseMode::Const => "mean colour",
            EraseMode::Rand => "random colour",
            EraseMode::Pixel => "noise",
        };
        let most = self.max_count;
        let parts = if most == 1 { "a part".to_string() } else { format!("1 to {most} parts") };
        write!(f, "{parts} erased to {what} with probability {}", self.probability)
    }
}
