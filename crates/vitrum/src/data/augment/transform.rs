//! From a picture to training values, in the order of timm's `transforms_imagenet_train`.

use crate::data::image::RgbImage;
use crate::data::preprocess::Preprocess;
use crate::data::random::DataRng;
use crate::data::resize::Interpolation;

use super::auto_augment::{AutoAugment, Plan};
use super::crop::{Crop, CropFlip, RandomCrop, RandomResizedCrop, crop_flip};
use super::erasing::{EraseMode, RandomErasing};
use super::geometry::CropBox;
use super::geometry::{PadMode, Sampling, flip_horizontal, flip_vertical};
use super::jitter::{ColorJitter, Jitter};
use super::op::Hparams;
use super::{AugmentError, blur, chance, probability, uniform, wrong};

/// A training transform's settings. All fields but two have a recipe's names and meanings.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainTransformConfig {
    /// The model's input and normalisation, and the validation transform.
    pub preprocess: Preprocess,
    /// Nothing random, as in validation. (timm's `--no-aug` squashes in any case.)
    pub no_aug: bool,
    /// Instead of random resized crops: resize to cover the input, add this border in pixels, crop at random.
    pub crop_pad: Option<u32>,
    /// The border's pixels: black as for CIFAR, or mirrored as in DeiT III.
    pub crop_pad_mode: PadMode,
    /// Area of a random resized crop over the image's, least and most.
    pub scale: [f64; 2],
    /// Its width over its height, least and most.
    pub ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub hflip: f64,
    /// Probability of a vertical flip.
    pub vflip: f64,
    /// Largest change of brightness, contrast and saturation. Off if `aa` is on, unless that is 3-Augment.
    pub color_jitter: f64,
    /// Probability of the colour change; `None`: always, without a draw.
    pub color_jitter_prob: Option<f64>,
    /// Probability of grey.
    pub grayscale_prob: f64,
    /// Probability of a blur of 0.1 to 2 pixels.
    pub gaussian_blur_prob: f64,
    /// See [`AutoAugment::parse`]; an empty text means none.
    pub aa: Option<String>,
    /// Probability of random erasing.
    pub reprob: f64,
    /// `const`, `rand` or `pixel`.
    pub remode: String,
    /// Largest number of erased parts per image.
    pub recount: usize,
    /// `random` (bilinear or bicubic), or the name of a filter.
    pub train_interpolation: String,
}

impl Default for TrainTransformConfig {
    /// timm's defaults.
    fn default() -> Self {
        Self {
            preprocess: Preprocess::default(),
            no_aug: false,
            crop_pad: None,
            crop_pad_mode: PadMode::Constant,
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            hflip: 0.5,
            vflip: 0.0,
            color_jitter: 0.4,
            color_jitter_prob: None,
            grayscale_prob: 0.0,
            gaussian_blur_prob: 0.0,
            aa: None,
            reprob: 0.0,
            remode: "pixel".into(),
            recount: 1,
            train_interpolation: "random".into(),
        }
    }
}

/// A training transform.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainTransform {
    preprocess: Preprocess,
    cropping: Cropping,
    /// `None`: bilinear or bicubic at random.
    filter: Option<Interpolation>,
    hflip: f64,
    vflip: f64,
    auto: Option<(String, AutoAugment)>,
    jitter: ColorJitter,
    jitter_prob: Option<f64>,
    grey: f64,
    blur: f64,
    erasing: Option<RandomErasing>,
}

#[derive(Debug, Clone, PartialEq)]
enum Cropping {
    Eval,
    Resized(RandomResizedCrop, [[f64; 2]; 2]),
    Padded(RandomCrop, u32, PadMode),
}

/// Every random choice for one image, except the noise in erased parts.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainPlan {
    /// How the input is cut from the image.
    pub crop: Crop,
    /// Whether to flip left and right.
    pub hflip: bool,
    /// Whether to flip top and bottom.
    pub vflip: bool,
    /// The choices of `aa`.
    pub auto: Option<Plan>,
    /// Changes of colour, in order.
    pub jitter: Vec<Jitter>,
    /// Whether the image becomes grey.
    pub grey: bool,
    /// Deviation of the blur in pixels.
    pub blur: Option<f64>,
    /// Parts of the input that are erased.
    pub erase: Vec<CropBox>,
}

impl TrainPlan {
    /// The plan with only this crop.
    pub fn of_crop(crop: Crop) -> Self {
        Self {
            crop,
            hflip: false,
            vflip: false,
            auto: None,
            jitter: Vec::new(),
            grey: false,
            blur: None,
            erase: Vec::new(),
        }
    }
}

impl TrainTransform {
    /// Checks a configuration.
    ///
    /// # Errors
    /// [`AugmentError`] for the first invalid field.
    pub fn new(config: &TrainTransformConfig) -> Result<Self, AugmentError> {
        let preprocess = config.preprocess.clone();
        preprocess.check()?;
        let filter = filter(&config.train_interpolation)?;
        let [_, height, width] = preprocess.input_size;
        let aa = config.aa.as_deref().filter(|aa| !aa.is_empty());
        let jitter = ColorJitter::new(config.color_jitter, config.color_jitter, config.color_jitter, 0.0)?;
        let transform = Self {
            cropping: match (config.no_aug, config.crop_pad) {
                (true, _) => Cropping::Eval,
                (_, Some(border)) => padded([height, width], border, config.crop_pad_mode)?,
                (_, None) => {
                    let crop = RandomResizedCrop::new(config.scale, config.ratio)?;
                    Cropping::Resized(crop, [config.scale, config.ratio])
                }
            },
            filter,
            hflip: probability("hflip", config.hflip)?,
            vflip: probability("vflip", config.vflip)?,
            auto: match aa {
                Some(aa) => Some((aa.to_string(), auto_augment(aa, &preprocess, filter)?)),
                None => None,
            },
            jitter: if aa.is_some_and(|aa| !aa.contains("3a")) { ColorJitter::default() } else { jitter },
            jitter_prob: match config.color_jitter_prob {
                Some(share) => Some(probability("color_jitter_prob", share)?),
                None => None,
            },
            grey: probability("grayscale_prob", config.grayscale_prob)?,
            blur: probability("gaussian_blur_prob", config.gaussian_blur_prob)?,
            erasing: {
                let mode = EraseMode::of_name(&config.remode)?;
                let erasing = RandomErasing::new(config.reprob, mode, config.recount)?;
                (config.reprob > 0.0).then_some(erasing)
            },
            preprocess,
        };
        Ok(if config.no_aug { transform.without_chance() } else { transform })
    }

    fn without_chance(self) -> Self {
        let jitter = ColorJitter::default();
        Self { hflip: 0.0, vflip: 0.0, auto: None, jitter, grey: 0.0, blur: 0.0, erasing: None, ..self }
    }

    /// Whether two applications to one image may differ.
    pub fn is_random(&self) -> bool {
        self.cropping != Cropping::Eval
    }

    /// Channels, height and width of the result.
    pub fn input_size(&self) -> [usize; 3] {
        self.preprocess.input_size
    }

    /// Crops, changes and normalises: `[C, H, W]`, row by row.
    ///
    /// # Errors
    /// [`AugmentError::Resize`] or [`AugmentError::Preprocess`] if a side of a very long image would shrink to 0.
    pub fn apply(&self, image: &RgbImage, rng: &mut DataRng) -> Result<Vec<f32>, AugmentError> {
        let plan = self.draw(image.width(), image.height(), rng);
        self.apply_recorded(image, &plan, rng)
    }

    /// Draws every choice for an image of this size.
    pub fn draw(&self, width: u32, height: u32, rng: &mut DataRng) -> TrainPlan {
        let Some(mut plan) = self.draw_crop(width, height, rng).map(TrainPlan::of_crop) else {
            return TrainPlan::of_crop(Crop::Eval);
        };
        let [_, input_height, input_width] = self.preprocess.input_size.map(|side| side as u32);
        plan.hflip = self.hflip > 0.0 && chance(rng, self.hflip);
        plan.vflip = self.vflip > 0.0 && chance(rng, self.vflip);
        plan.auto = self.auto.as_ref().map(|(_, auto)| auto.draw(rng));
        if self.jitter_prob.is_none_or(|share| !self.jitter.is_off() && chance(rng, share)) {
            plan.jitter = self.jitter.draw(rng);
        }
        plan.grey = self.grey > 0.0 && chance(rng, self.grey);
        plan.blur = (self.blur > 0.0 && chance(rng, self.blur)).then(|| uniform(rng, 0.1, 2.0));
        if let Some(erasing) = &self.erasing {
            plan.erase = erasing.draw(input_width, input_height, rng);
        }
        plan
    }

    fn draw_crop(&self, width: u32, height: u32, rng: &mut DataRng) -> Option<Crop> {
        match &self.cropping {
            Cropping::Eval => None,
            Cropping::Resized(crop, _) => {
                let area = crop.draw(width, height, rng);
                Some(Crop::Resized { area, filter: self.draw_filter(rng) })
            }
            Cropping::Padded(crop, ..) => {
                let filter = self.draw_filter(rng);
                let [x, y] = crop.draw(width, height, rng);
                Some(Crop::Padded { x, y, filter })
            }
        }
    }

    fn draw_filter(&self, rng: &mut DataRng) -> Interpolation {
        match self.filter {
            Some(filter) => filter,
            None if chance(rng, 0.5) => Interpolation::Bilinear,
            None => Interpolation::Bicubic,
        }
    }

    /// [`apply`](Self::apply) with given choices; `rng` only fills erased parts.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply), [`AugmentError::CropBox`] if the crop is not inside the image, and
    /// [`AugmentError::Field`] for a padded crop without a border in the configuration.
    pub fn apply_recorded(
        &self,
        image: &RgbImage,
        plan: &TrainPlan,
        rng: &mut DataRng,
    ) -> Result<Vec<f32>, AugmentError> {
        let mut image = self.cut(image, plan)?;
        if plan.vflip {
            image = flip_vertical(&image);
        }
        if let (Some((_, auto)), Some(plan)) = (&self.auto, &plan.auto) {
            image = auto.apply(image, plan);
        }
        image = plan.jitter.iter().fold(image, |image, jitter| jitter.apply(image));
        if plan.grey {
            image = image.to_grey();
        }
        if let Some(sigma) = plan.blur {
            image = blur::gaussian_blur_23(&image, sigma);
        }
        let mut values = self.preprocess.normalize(&image)?;
        if let Some(erasing) = &self.erasing {
            let [_, height, width] = self.preprocess.input_size;
            erasing.apply(&mut values, [height, width], &plan.erase, rng);
        }
        Ok(values)
    }

    /// The input, flipped horizontally if the plan says so.
    fn cut(&self, image: &RgbImage, plan: &TrainPlan) -> Result<RgbImage, AugmentError> {
        let [channels, height, width] = self.preprocess.input_size.map(|side| side as u32);
        let grey;
        let image = if channels == 1 {
            grey = image.clone().to_grey();
            &grey
        } else {
            image
        };
        let flip = |image| if plan.hflip { flip_horizontal(image) } else { image };
        match (plan.crop, &self.cropping) {
            (Crop::Resized { area: CropBox { x, y, w, h }, filter }, _) => {
                crop_flip(image, &CropFlip { x, y, w, h, flip: plan.hflip }, [height, width], filter)
            }
            (Crop::Padded { x, y, filter }, Cropping::Padded(crop, ..)) => {
                Ok(flip(crop.apply(image, [x, y], filter)?))
            }
            (Crop::Padded { .. }, _) => {
                Err(wrong("crop_pad", "absent", "a border: the plan counts columns and rows from it"))
            }
            (Crop::Eval, _) => Ok(flip(self.preprocess.transform(image)?)),
        }
    }

    /// The steps, in one line.
    pub fn describe(&self) -> String {
        let [_, height, width] = self.preprocess.input_size;
        let filter = self.filter.map_or("bilinear or bicubic", Interpolation::name);
        let mut steps = vec![match &self.cropping {
            Cropping::Eval => format!("resize and crop to {height}x{width} as in validation"),
            Cropping::Resized(_, [[least, most], [narrow, wide]]) => format!(
                "crop {least:.3} to {most:.3} of the area, {narrow:.3} to {wide:.3} as wide as high, to \
                 {height}x{width} ({filter})"
            ),
            Cropping::Padded(_, border, mode) => {
                let what = if *mode == PadMode::Constant { "black" } else { "mirrored" };
                format!("resize to cover {height}x{width} ({filter}), {border} {what} pixels around, crop")
            }
        }];
        let step = |name, p| (p > 0.0).then(|| format!("{name} with probability {p}"));
        steps.extend(step("flip left to right", self.hflip));
        steps.extend(step("flip upside down", self.vflip));
        if let Some((text, auto)) = &self.auto {
            steps.push(format!("{text} ({auto})"));
        }
        if !self.jitter.is_off() {
            let often =
                self.jitter_prob.map(|share| format!(" with probability {share}")).unwrap_or_default();
            steps.push(format!("{}{often}", self.jitter));
        }
        steps.extend(step("grey", self.grey));
        steps.extend(step("blur", self.blur));
        steps.push("normalise".into());
        steps.extend(self.erasing.map(|erasing| erasing.to_string()));
        steps.join("; ")
    }
}

fn filter(name: &str) -> Result<Option<Interpolation>, AugmentError> {
    if name == "random" {
        return Ok(None);
    }
    let expected = "`random`, `nearest`, `box`, `bilinear`, `hamming`, `bicubic` or `lanczos`";
    let found = Interpolation::of_name(name);
    found.map(Some).ok_or_else(|| wrong("train_interpolation", format!("'{name}'"), expected))
}

fn padded([height, width]: [usize; 2], border: u32, mode: PadMode) -> Result<Cropping, AugmentError> {
    if border > 16_384 {
        return Err(wrong("crop_pad", border, "at most 16384 pixels"));
    }
    let crop = RandomCrop::new([height as u32, width as u32], border, mode);
    Ok(Cropping::Padded(crop, border, mode))
}

/// timm's `hparams` for `aa`: distances scale with the input; the fill colour is the mean colour.
fn auto_augment(
    text: &str,
    preprocess: &Preprocess,
    filter: Option<Interpolation>,
) -> Result<AutoAugment, AugmentError> {
    let [_, height, width] = preprocess.input_size;
    let hparams = Hparams {
        translate_const: (height.min(width) as f64 * 0.45).floor(),
        translate_pct: if text.starts_with("augmix") { 0.3 } else { 0.45 },
        fill: preprocess.mean_color(),
        sampling: filter.map(Sampling::of).transpose()?,
        ..Hparams::default()
    };
    AutoAugment::parse(text, hparams)
}
