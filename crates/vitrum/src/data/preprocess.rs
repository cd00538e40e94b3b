//! Preprocessing of an image before a model; saved with the weights.
//!
//! Steps, roundings and field names are those of timm 1.0's `transforms_imagenet_eval`
//! (`timm/data/transforms_factory.py`) and of the `pretrained_cfg` in its checkpoints. Tests compare two hashes
//! with timm's: of the 8-bit picture after cropping, and of the normalised 32-bit floats.

mod huggingface;

use serde::{Deserialize, Serialize};

use super::image::RgbImage;
use super::resize::{Interpolation, Region, ResizeError, resize_region};

/// How a picture is brought to the model's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropMode {
    /// Shorter side to `size / crop_pct`, then a centre crop; the rest is lost.
    #[default]
    Center,
    /// Both sides to `size / crop_pct`, whatever the shape, then a centre crop.
    Squash,
    /// Longer side to `size / crop_pct`, the rest filled with the mean colour; nothing is lost at 1.0.
    Border,
}

impl CropMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Center, Self::Squash, Self::Border];

    /// The mode with this timm name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// timm's name of the mode.
    pub fn name(self) -> &'static str {
        match self {
            Self::Center => "center",
            Self::Squash => "squash",
            Self::Border => "border",
        }
    }
}

/// Means of ImageNet's channels, in the order R, G, B.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviations for [`IMAGENET_MEAN`].
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Size, crop, filter and normalisation, named as in timm's `pretrained_cfg`.
///
/// Absent fields take timm's defaults. Other fields of a `pretrained_cfg` are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preprocess {
    /// Channels (3, or 1 for grey), height, width.
    pub input_size: [usize; 3],
    /// Filter of the resize.
    pub interpolation: Interpolation,
    /// The share of the resized picture that the crop keeps, per side.
    pub crop_pct: f64,
    /// How the picture is brought to the model's shape.
    pub crop_mode: CropMode,
    /// Per channel, on the scale 0 to 1.
    pub mean: Vec<f32>,
    /// Per channel, on the scale 0 to 1.
    pub std: Vec<f32>,
}

impl Default for Preprocess {
    fn default() -> Self {
        Self {
            input_size: [3, 224, 224],
            interpolation: Interpolation::Bicubic,
            crop_pct: 0.875,
            crop_mode: CropMode::Center,
            mean: IMAGENET_MEAN.to_vec(),
            std: IMAGENET_STD.to_vec(),
        }
    }
}

/// Invalid preprocessing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PreprocessError {
    /// A field has an invalid value.
    #[error("preprocessing: `{field}` is {found}, expected {expected}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// Its value.
        found: String,
        /// Valid values.
        expected: &'static str,
    },
    /// The crop does not fit the picture's shape.
    #[error("preprocessing: {0}")]
    Resize(#[from] ResizeError),
    /// The picture to normalise does not have the size of the model's input.
    #[error(
        "preprocessing: the image is {width} x {height} pixels, the model's input {input_width} x {input_height}"
    )]
    Size {
        /// Width found.
        width: u32,
        /// Height found.
        height: u32,
        /// Width expected.
        input_width: usize,
        /// Height expected.
        input_height: usize,
    },
    /// An invalid `preprocessor_config.json`.
    #[error("preprocessor_config.json: {0}")]
    HuggingFace(String),
    /// A `preprocessor_config.json` that is incomplete or asks for unsupported steps.
    #[error("preprocessor_config.json: preprocessing is not known: {0}")]
    NotKnown(String),
}

/// Largest side; a larger one is taken for a mistake.
const MAX_INPUT_SIDE: usize = 16_384;

impl Preprocess {
    /// Checks every field.
    ///
    /// # Errors
    /// [`PreprocessError::Field`] for the first invalid one.
    pub fn check(&self) -> Result<(), PreprocessError> {
        let wrong = |field, found: String, expected| Err(PreprocessError::Field { field, found, expected });
        let [channels, height, width] = self.input_size;
        let sides = 1..=MAX_INPUT_SIDE;
        if !matches!(channels, 1 | 3) || !sides.contains(&height) || !sides.contains(&width) {
            let expected = "[1 or 3 channels, height, width] with sides from 1 to 16384";
            return wrong("input_size", format!("{:?}", self.input_size), expected);
        }
        if !(self.crop_pct.is_finite() && self.crop_pct > 0.0 && self.crop_pct <= 10.0) {
            return wrong("crop_pct", self.crop_pct.to_string(), "a number above 0, at most 10");
        }
        let [scaled_height, scaled_width] = self.scale_size();
        if scaled_height == 0 || scaled_width == 0 || scaled_height.max(scaled_width) > 1 << 20 {
            return wrong(
                "crop_pct",
                self.crop_pct.to_string(),
                "a share that leaves a sensible size to resize to",
            );
        }
        if self.mean.len() != channels || !self.mean.iter().all(|m| m.is_finite()) {
            return wrong("mean", format!("{:?}", self.mean), "one finite number per channel");
        }
        if self.std.len() != channels || !self.std.iter().all(|s| s.is_finite() && *s > 0.0) {
            return wrong("std", format!("{:?}", self.std), "one number above 0 per channel");
        }
        Ok(())
    }

    /// Resizes and crops any picture to `input_size`, still 8-bit. For a grey model the result is grey in all three
    /// channels.
    ///
    /// # Errors
    /// [`PreprocessError`] if a field is invalid, or a side of a very long picture would shrink to 0.
    pub fn transform(&self, image: &RgbImage) -> Result<RgbImage, PreprocessError> {
        self.check()?;
        let grey;
        let image = if self.input_size[0] == 1 {
            grey = image.clone().to_grey();
            &grey
        } else {
            image
        };
        let [height, width] = self.resized_size(image.height(), image.width());
        let rows = Window::center(height, self.input_size[1]);
        let columns = Window::center(width, self.input_size[2]);
        let region = Region {
            left: columns.start as u32,
            top: rows.start as u32,
            width: columns.length as u32,
            height: rows.length as u32,
        };
        let side = |side: u64| u32::try_from(side).unwrap_or(u32::MAX);
        let kept = resize_region(image, side(width), side(height), region, self.interpolation)?;
        Ok(self.pad(kept, &rows, &columns))
    }

    /// Normalises 8-bit pixels of the input's size: `(x / 255 - mean) / std` in 32-bit floats, channel by channel
    /// (`[C, H, W]`), as in torchvision's `ToTensor` and `Normalize`.
    ///
    /// timm's validation script normalises on the device as `(x - 255 mean) / (255 std)`, which differs in the last
    /// bit.
    ///
    /// # Errors
    /// [`PreprocessError`] if a field is invalid or the picture has another size.
    pub fn normalize(&self, image: &RgbImage) -> Result<Vec<f32>, PreprocessError> {
        self.check()?;
        let [channels, input_height, input_width] = self.input_size;
        let (width, height) = (image.width(), image.height());
        if (width as usize, height as usize) != (input_width, input_height) {
            return Err(PreprocessError::Size { width, height, input_width, input_height });
        }
        let pixels = image.data().chunks_exact(3);
        let mut out = vec![0.0; channels * input_height * input_width];
        for (channel, plane) in out.chunks_exact_mut(input_height * input_width).enumerate() {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let value: [f32; 256] = std::array::from_fn(|x| (x as f32 / 255.0 - mean) / std);
            for (number, pixel) in plane.iter_mut().zip(pixels.clone()) {
                *number = value[usize::from(pixel[channel])];
            }
        }
        Ok(out)
    }

    /// [`transform`](Self::transform), then [`normalize`](Self::normalize).
    ///
    /// # Errors
    /// Those of the two.
    pub fn apply(&self, image: &RgbImage) -> Result<Vec<f32>, PreprocessError> {
        self.normalize(&self.transform(image)?)
    }

    /// The input's sides divided by `crop_pct`, rounded down: `[height, width]`.
    fn scale_size(&self) -> [u64; 2] {
        [self.input_size[1], self.input_size[2]].map(|side| (side as f64 / self.crop_pct).floor() as u64)
    }

    /// The picture's size after the resize and before the crop, `[height, width]`.
    pub(crate) fn resized_size(&self, height: u32, width: u32) -> [u64; 2] {
        let scale @ [scaled_height, scaled_width] = self.scale_size();
        match self.crop_mode {
            CropMode::Squash => scale,
            CropMode::Border => keep_ratio([height, width], scale, f64::max),
            CropMode::Center if scaled_height == scaled_width => {
                // torchvision truncates the longer side.
                let (short, long) = (u64::from(height.min(width)), u64::from(height.max(width)));
                let longer = ((scaled_height * long) as f64 / short as f64) as u64;
                if width <= height { [longer, scaled_height] } else { [scaled_height, longer] }
            }
            CropMode::Center => keep_ratio([height, width], scale, f64::min),
        }
    }

    /// Puts the kept part on a canvas of the input's size.
    fn pad(&self, kept: RgbImage, rows: &Window, columns: &Window) -> RgbImage {
        let [_, height, width] = self.input_size;
        if (rows.length, columns.length) == (height, width) {
            return kept;
        }
        let mut data = self.fill().repeat(height * width);
        let lines = data.chunks_exact_mut(width * 3).skip(rows.before);
        for (line, row) in lines.zip(kept.data().chunks_exact(columns.length * 3)) {
            line[columns.before * 3..][..row.len()].copy_from_slice(row);
        }
        // `check` refused sides of zero, so the size fits.
        RgbImage::new(width as u32, height as u32, data).expect("canvas of the input's size")
    }

    /// The fill colour around a picture smaller than the crop: the mean in border mode, otherwise black.
    fn fill(&self) -> [u8; 3] {
        if self.crop_mode == CropMode::Border { self.mean_color() } else { [0; 3] }
    }

    /// The mean as 8-bit levels.
    pub(crate) fn mean_color(&self) -> [u8; 3] {
        // timm computes in 64 bits from the decimal number. The shortest decimal of the 32-bit value is that
        // number.
        let level = |mean: f32| {
            let decimal: f64 = mean.to_string().parse().unwrap_or(f64::from(mean));
            (255.0 * decimal).round_ties_even().clamp(0.0, 255.0) as u8
        };
        std::array::from_fn(|channel| level(self.mean[channel.min(self.mean.len() - 1)]))
    }
}

/// timm's `ResizeKeepRatio`: one ratio for both sides, each rounded half to even. `pick` chooses the ratio: the
/// larger fits the picture into `target`, the smaller covers it.
fn keep_ratio(size: [u32; 2], target: [u64; 2], pick: fn(f64, f64) -> f64) -> [u64; 2] {
    let size = size.map(f64::from);
    let ratio = pick(size[0] / target[0] as f64, size[1] / target[1] as f64);
    size.map(|side| (side / ratio).round_ties_even() as u64)
}

/// One axis of torchvision's centre crop, which pads first and then crops.
struct Window {
    /// First kept pixel of the resized picture.
    start: u64,
    /// Pixels kept.
    length: usize,
    /// Fill pixels before the picture.
    before: usize,
}

impl Window {
    fn center(size: u64, crop: usize) -> Self {
        let wanted = crop as u64;
        if size < wanted {
            Self { start: 0, length: size as usize, before: ((wanted - size) / 2) as usize }
        } else {
            let start = ((size - wanted) as f64 / 2.0).round_ties_even() as u64;
            Self { start, length: crop, before: 0 }
        }
    }
}
