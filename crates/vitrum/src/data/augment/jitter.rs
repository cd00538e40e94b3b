//! Random brightness, contrast, saturation and hue: torchvision's `ColorJitter` on Pillow images.

use rand::seq::SliceRandom;

use crate::data::image::RgbImage;
use crate::data::random::DataRng;

use super::{AugmentError, color, uniform, wrong};

/// How far each factor may differ from 1 (the hue from 0); 0 switches it off.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ColorJitter {
    brightness: f64,
    contrast: f64,
    saturation: f64,
    hue: f64,
}

/// One change with its factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Jitter {
    /// See [`color::brightness`].
    Brightness(f64),
    /// See [`color::contrast`].
    Contrast(f64),
    /// See [`color::saturation`].
    Saturation(f64),
    /// See [`color::hue`].
    Hue(f64),
}

impl ColorJitter {
    /// The first three factors are drawn from `[max(0, 1 - x), 1 + x]`, the hue from `[-hue, hue]`.
    ///
    /// # Errors
    /// [`AugmentError::Field`] if a number is negative or infinite, or `hue` is above 0.5.
    pub fn new(brightness: f64, contrast: f64, saturation: f64, hue: f64) -> Result<Self, AugmentError> {
        for value in [brightness, contrast, saturation, hue] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(wrong("color_jitter", value, "a number of at least 0"));
            }
        }
        if hue > 0.5 {
            return Err(wrong("hue", hue, "half the circle at most: 0 to 0.5"));
        }
        Ok(Self { brightness, contrast, saturation, hue })
    }

    /// Whether all changes are off.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// Draws factors and their order.
    pub fn draw(&self, rng: &mut DataRng) -> Vec<Jitter> {
        let mut factor = |range: f64| uniform(rng, (1.0 - range).max(0.0), 1.0 + range);
        let mut steps = Vec::with_capacity(4);
        if self.brightness > 0.0 {
            steps.push(Jitter::Brightness(factor(self.brightness)));
        }
        if self.contrast > 0.0 {
            steps.push(Jitter::Contrast(factor(self.contrast)));
        }
        if self.saturation > 0.0 {
            steps.push(Jitter::Saturation(factor(self.saturation)));
        }
        if self.hue > 0.0 {
            steps.push(Jitter::Hue(uniform(rng, -self.hue, self.hue)));
        }
        steps.shuffle(rng);
        steps
    }
}

impl std::fmt::Display for ColorJitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { brightness, contrast, saturation, hue } = self;
        let all =
            [("brightness", brightness), ("contrast", contrast), ("saturation", saturation), ("hue", hue)];
        let parts: Vec<String> =
            all.iter().filter(|(_, x)| **x > 0.0).map(|(name, x)| format!("{name} ± {x}")).collect();
        f.write_str(&parts.join(", "))
    }
}

impl Jitter {
    /// The changed image.
    pub fn apply(self, image: RgbImage) -> RgbImage {
        match self {
            Self::Brightness(factor) => color::brightness(image, factor),
            Self::Contrast(factor) => color::contrast(image, factor),
            Self::Saturation(factor) => color::saturation(image, factor),
            Self::Hue(factor) => color::hue(image, factor),
        }
    }
}
