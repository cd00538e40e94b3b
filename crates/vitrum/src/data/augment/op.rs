//! The operations of AutoAugment and related policies, and the meaning of their levels
//! (`timm/data/auto_augment.py`).

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::data::image::RgbImage;
use crate::data::random::DataRng;

use super::geometry::{Sampling, affine, rotate};
use super::{blur, chance, color, uniform};

/// An operation by timm's name. `Increasing` variants always grow stronger with the level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Each channel stretched to 0..255.
    AutoContrast,
    /// Equalises the histogram of each channel.
    Equalize,
    /// The negative.
    Invert,
    /// Rotation by up to 30 degrees.
    Rotate,
    /// 0 to 4 bits kept, more with the level.
    Posterize,
    /// 4 to 0 bits kept, fewer with the level.
    PosterizeIncreasing,
    /// 4 to 8 bits kept, more with the level: the paper's.
    PosterizeOriginal,
    /// Values from a threshold on inverted; the threshold rises to 256 with the level.
    Solarize,
    /// Values from a threshold on inverted; the threshold falls from 256 with the level.
    SolarizeIncreasing,
    /// Values below 128 raised by up to 110.
    SolarizeAdd,
    /// Saturation 0.1 to 1.9.
    Color,
    /// Saturation up to 0.9 away from 1.
    ColorIncreasing,
    /// Contrast 0.1 to 1.9.
    Contrast,
    /// Contrast up to 0.9 away from 1.
    ContrastIncreasing,
    /// Brightness 0.1 to 1.9.
    Brightness,
    /// Brightness up to 0.9 away from 1.
    BrightnessIncreasing,
    /// Sharpness 0.1 to 1.9.
    Sharpness,
    /// Sharpness up to 0.9 away from 1.
    SharpnessIncreasing,
    /// Rows shifted against each other by up to 0.3 pixels a row.
    ShearX,
    /// Columns shifted against each other by up to 0.3 pixels a column.
    ShearY,
    /// Moved sideways by up to `translate_const` pixels.
    TranslateX,
    /// Moved up or down by up to `translate_const` pixels.
    TranslateY,
    /// Moved sideways by up to `translate_pct` of the width.
    TranslateXRel,
    /// Moved up or down by up to `translate_pct` of the height.
    TranslateYRel,
    /// Removes half to all of the colour.
    Desaturate,
    /// Blur with a radius of 0.1 to 2 pixels.
    GaussianBlur,
    /// Blur with a random radius from 0.1 to at most 2 pixels.
    GaussianBlurRand,
}

/// The level of full strength in timm's tables.
pub const LEVELS: f64 = 10.0;

impl Op {
    /// Every operation.
    pub const ALL: [Self; 27] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Rotate,
        Self::Posterize,
        Self::PosterizeIncreasing,
        Self::PosterizeOriginal,
        Self::Solarize,
        Self::SolarizeIncreasing,
        Self::SolarizeAdd,
        Self::Color,
        Self::ColorIncreasing,
        Self::Contrast,
        Self::ContrastIncreasing,
        Self::Brightness,
        Self::BrightnessIncreasing,
        Self::Sharpness,
        Self::SharpnessIncreasing,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::TranslateXRel,
        Self::TranslateYRel,
        Self::Desaturate,
        Self::GaussianBlur,
        Self::GaussianBlurRand,
    ];

    /// timm's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AutoContrast => "AutoContrast",
            Self::Equalize => "Equalize",
            Self::Invert => "Invert",
            Self::Rotate => "Rotate",
            Self::Posterize => "Posterize",
            Self::PosterizeIncreasing => "PosterizeIncreasing",
            Self::PosterizeOriginal => "PosterizeOriginal",
            Self::Solarize => "Solarize",
            Self::SolarizeIncreasing => "SolarizeIncreasing",
            Self::SolarizeAdd => "SolarizeAdd",
            Self::Color => "Color",
            Self::ColorIncreasing => "ColorIncreasing",
            Self::Contrast => "Contrast",
            Self::ContrastIncreasing => "ContrastIncreasing",
            Self::Brightness => "Brightness",
            Self::BrightnessIncreasing => "BrightnessIncreasing",
            Self::Sharpness => "Sharpness",
            Self::SharpnessIncreasing => "SharpnessIncreasing",
            Self::ShearX => "ShearX",
            Self::ShearY => "ShearY",
            Self::TranslateX => "TranslateX",
            Self::TranslateY => "TranslateY",
            Self::TranslateXRel => "TranslateXRel",
            Self::TranslateYRel => "TranslateYRel",
            Self::Desaturate => "Desaturate",
            Self::GaussianBlur => "GaussianBlur",
            Self::GaussianBlurRand => "GaussianBlurRand",
        }
    }

    /// The operation of timm's name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }

    /// Whether pixels move, so that sampling and fill colour matter.
    pub fn is_geometric(self) -> bool {
        matches!(
            self,
            Self::Rotate
                | Self::ShearX
                | Self::ShearY
                | Self::TranslateX
                | Self::TranslateY
                | Self::TranslateXRel
                | Self::TranslateYRel
        )
    }

    /// Whether the direction of the change is random.
    pub fn has_sign(self) -> bool {
        use Op::{BrightnessIncreasing, ColorIncreasing, ContrastIncreasing, SharpnessIncreasing};
        let enhances = [ColorIncreasing, ContrastIncreasing, BrightnessIncreasing, SharpnessIncreasing];
        self.is_geometric() || enhances.contains(&self)
    }

    /// The argument of [`Applied::apply`] for a level; `sign` is 1 or -1. Degrees, shear, pixels, share of the
    /// side, bits kept, threshold, summand, factor or radius; 0 if the operation needs none (timm's
    /// `LEVEL_TO_ARG`).
    ///
    /// For [`Op::GaussianBlurRand`] it is the largest random radius as a share of 2 pixels.
    pub fn argument(self, level: f64, sign: f64, hparams: &Hparams) -> f64 {
        let share = level / LEVELS;
        let posterize = (share * 4.0).trunc();
        let solarize = (share * 256.0).trunc().min(256.0);
        match self {
            Self::AutoContrast | Self::Equalize | Self::Invert => 0.0,
            Self::Rotate => share * 30.0 * sign,
            Self::Posterize => posterize,
            Self::PosterizeIncreasing => 4.0 - posterize,
            Self::PosterizeOriginal => posterize + 4.0,
            Self::Solarize => solarize,
            Self::SolarizeIncreasing => 256.0 - solarize,
            Self::SolarizeAdd => (share * 110.0).trunc().min(128.0),
            Self::Color | Self::Contrast | Self::Brightness | Self::Sharpness => share * 1.8 + 0.1,
            Self::ColorIncreasing
            | Self::ContrastIncreasing
            | Self::BrightnessIncreasing
            | Self::SharpnessIncreasing => (1.0 + share * 0.9 * sign).max(0.1),
            Self::ShearX | Self::ShearY => share * 0.3 * sign,
            Self::TranslateX | Self::TranslateY => share * hparams.translate_const * sign,
            Self::TranslateXRel | Self::TranslateYRel => share * hparams.translate_pct * sign,
            Self::Desaturate => between(share, 0.5, 1.0),
            Self::GaussianBlur => between(share, 0.1, 2.0),
            Self::GaussianBlurRand => between(share, 0.0, 1.0),
        }
    }
}

fn between(share: f64, low: f64, high: f64) -> f64 {
    (low + (high - low) * share).clamp(low, high)
}

/// Common parameters of a policy's operations (timm's `hparams`).
#[derive(Debug, Clone, PartialEq)]
pub struct Hparams {
    /// Pixels that `TranslateX` and `TranslateY` move at level 10.
    pub translate_const: f64,
    /// Share of the side that `TranslateXRel` and `TranslateYRel` move at level 10.
    pub translate_pct: f64,
    /// Fill colour for pixels from outside.
    pub fill: [u8; 3],
    /// Sampling of moved pixels; `None`: bilinear or bicubic at random.
    pub sampling: Option<Sampling>,
    /// Deviation of the level; 0: none; infinite: uniform from 0 to the magnitude.
    pub magnitude_std: f64,
    /// The highest level.
    pub magnitude_max: f64,
}

impl Default for Hparams {
    fn default() -> Self {
        Self {
            translate_const: 250.0,
            translate_pct: 0.45,
            fill: [128; 3],
            sampling: None,
            magnitude_std: 0.0,
            magnitude_max: LEVELS,
        }
    }
}

/// An operation with its probability and magnitude.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AugmentOp {
    /// The operation.
    pub op: Op,
    /// Probability that it is applied once chosen.
    pub prob: f64,
    /// Its level, before noise.
    pub magnitude: f64,
}

impl AugmentOp {
    /// Decides whether it happens, and draws level, direction and sampling.
    pub fn draw(&self, hparams: &Hparams, rng: &mut DataRng) -> Option<Applied> {
        if self.prob < 1.0 && !chance(rng, self.prob) {
            return None;
        }
        let level = self.level(hparams, rng);
        let sign = if self.op.has_sign() && chance(rng, 0.5) { -1.0 } else { 1.0 };
        let mut argument = self.op.argument(level, sign, hparams);
        if self.op == Op::GaussianBlurRand {
            argument = uniform(rng, 0.1, 2.0 * argument);
        }
        let sampling = match hparams.sampling {
            Some(sampling) => sampling,
            None if self.op.is_geometric() && chance(rng, 0.5) => Sampling::Bilinear,
            None => Sampling::Bicubic,
        };
        Some(Applied { op: self.op, argument, sampling })
    }

    fn level(&self, hparams: &Hparams, rng: &mut DataRng) -> f64 {
        let level = if hparams.magnitude_std == f64::INFINITY {
            uniform(rng, 0.0, self.magnitude)
        } else if hparams.magnitude_std > 0.0 {
            let noise: f64 = StandardNormal.sample(rng);
            self.magnitude + hparams.magnitude_std * noise
        } else {
            self.magnitude
        };
        level.min(hparams.magnitude_max).max(0.0)
    }
}

/// An operation without random choices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Applied {
    /// The operation.
    pub op: Op,
    /// See [`Op::argument`]; the radius in pixels for [`Op::GaussianBlurRand`].
    pub argument: f64,
    /// Sampling of moved pixels.
    pub sampling: Sampling,
}

impl Applied {
    /// The changed image, of the same size; pixels from outside become `fill`.
    pub fn apply(&self, image: RgbImage, fill: [u8; 3]) -> RgbImage {
        let argument = self.argument;
        let moved = |image: &RgbImage, matrix: [f64; 6]| affine(image, &matrix, self.sampling, fill);
        let (width, height) = (f64::from(image.width()), f64::from(image.height()));
        match self.op {
            Op::AutoContrast => color::autocontrast(image),
            Op::Equalize => color::equalize(image),
            Op::Invert => color::invert(image),
            Op::Rotate => rotate(&image, argument, self.sampling, fill),
            Op::Posterize | Op::PosterizeIncreasing | Op::PosterizeOriginal => {
                color::posterize(image, argument as u32)
            }
            Op::Solarize | Op::SolarizeIncreasing => color::solarize(image, argument as u32),
            Op::SolarizeAdd => color::solarize_add(image, argument as u32),
            Op::Color | Op::ColorIncreasing => color::saturation(image, argument),
            Op::Contrast | Op::ContrastIncreasing => color::contrast(image, argument),
            Op::Brightness | Op::BrightnessIncreasing => color::brightness(image, argument),
            Op::Sharpness | Op::SharpnessIncreasing => color::sharpness(&image, argument),
            Op::ShearX => moved(&image, [1.0, argument, 0.0, 0.0, 1.0, 0.0]),
            Op::ShearY => moved(&image, [1.0, 0.0, 0.0, argument, 1.0, 0.0]),
            Op::TranslateX => moved(&image, [1.0, 0.0, argument, 0.0, 1.0, 0.0]),
            Op::TranslateY => moved(&image, [1.0, 0.0, 0.0, 0.0, 1.0, argument]),
            Op::TranslateXRel => moved(&image, [1.0, 0.0, argument * width, 0.0, 1.0, 0.0]),
            Op::TranslateYRel => moved(&image, [1.0, 0.0, 0.0, 0.0, 1.0, argument * height]),
            Op::Desaturate => color::saturation(image, (1.0 - argument).clamp(0.0, 1.0)),
            Op::GaussianBlur | Op::GaussianBlurRand => blur::gaussian_blur(&image, argument),
        }
    }
}

/// An index below `count`, all equally likely.
pub(super) fn choice(rng: &mut DataRng, count: usize) -> usize {
    rng.random_range(0..count as u32) as usize
}
