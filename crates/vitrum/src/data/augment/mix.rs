//! Blending the images of a batch: mixup (Zhang et al. 2017, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv
//! 1905.04899), with the rules of timm's `Mixup`. Image `i` is paired with image `B - 1 - i`.

use rand::Rng;

use crate::data::dataset::{Target, TargetKind};
use crate::data::random::DataRng;

use super::auto_augment::beta;
use super::geometry::CropBox;
use super::{AugmentError, chance, probability, wrong};

/// Scope of one random choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MixMode {
    /// One choice for the whole batch.
    #[default]
    Batch,
    /// One choice per pair of images.
    Pair,
    /// One choice per image.
    Elem,
}

impl MixMode {
    /// The mode with this timm name.
    ///
    /// # Errors
    /// [`AugmentError::Field`] for another name.
    pub fn of_name(name: &str) -> Result<Self, AugmentError> {
        match name {
            "batch" => Ok(Self::Batch),
            "pair" => Ok(Self::Pair),
            "elem" => Ok(Self::Elem),
            _ => Err(wrong("mixup_mode", format!("'{name}'"), "`batch`, `pair` or `elem`")),
        }
    }
}

/// Mixing settings; fields are named as in recipes.
#[derive(Debug, Clone, PartialEq)]
pub struct MixConfig {
    /// Alpha of mixup; 0: off.
    pub mixup: f64,
    /// Alpha of CutMix; 0: off.
    pub cutmix: f64,
    /// Least and most side of a CutMix box over the image's, instead of `cutmix`.
    pub cutmix_minmax: Option<[f64; 2]>,
    /// Probability that a choice mixes at all.
    pub mixup_prob: f64,
    /// Probability of CutMix if both are on.
    pub mixup_switch_prob: f64,
    /// Scope of one random choice.
    pub mixup_mode: MixMode,
    /// Label smoothing.
    pub smoothing: f64,
}

impl Default for MixConfig {
    fn default() -> Self {
        Self {
            mixup: 0.0,
            cutmix: 0.0,
            cutmix_minmax: None,
            mixup_prob: 1.0,
            mixup_switch_prob: 0.5,
            mixup_mode: MixMode::Batch,
            smoothing: 0.1,
        }
    }
}

/// What one image takes from its partner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Blend {
    /// Nothing.
    Keep,
    /// All pixels: `lam` of its own, the rest from the partner.
    Mix {
        /// The image's own share.
        lam: f64,
    },
    /// The partner's pixels inside the box, which may be empty.
    Cut {
        /// The box.
        area: CropBox,
        /// The image's own share of pixels, or the drawn share.
        lam: f64,
    },
}

/// Mixing for a number of classes, or of values.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixup {
    config: MixConfig,
    num_classes: usize,
}

impl Mixup {
    /// Checks a configuration. With everything off, [`apply`](Self::apply) only smooths labels.
    ///
    /// # Errors
    /// [`AugmentError::Field`] for the first invalid field.
    pub fn new(config: MixConfig, num_classes: usize) -> Result<Self, AugmentError> {
        for (field, alpha) in [("mixup", config.mixup), ("cutmix", config.cutmix)] {
            if !(alpha >= 0.0 && alpha.is_finite()) {
                return Err(wrong(field, alpha, "a number of at least 0"));
            }
        }
        if let Some([least, most]) = config.cutmix_minmax
            && !(least >= 0.0 && least < most && most <= 1.0)
        {
            let expected = "two shares of the side, 0 to 1, the smaller first";
            return Err(wrong("cutmix_minmax", format!("[{least}, {most}]"), expected));
        }
        probability("mixup_prob", config.mixup_prob)?;
        probability("mixup_switch_prob", config.mixup_switch_prob)?;
        probability("smoothing", config.smoothing)?;
        if num_classes == 0 {
            return Err(wrong("num_classes", num_classes, "at least one class"));
        }
        Ok(Self { config, num_classes })
    }

    /// Whether images are ever mixed.
    pub fn is_on(&self) -> bool {
        let MixConfig { mixup, mixup_prob, .. } = self.config;
        mixup_prob > 0.0 && (mixup > 0.0 || self.cutmix_alpha() > 0.0)
    }

    /// Mixes `values` (`[B, C, H, W]`, row by row) in place and returns the targets, `[B, K]`.
    ///
    /// timm needs an even number of images. Here the middle one of an odd number stays unchanged.
    ///
    /// # Errors
    /// [`AugmentError::Batch`] and [`AugmentError::Label`] if the arguments do not fit together.
    pub fn apply(
        &self,
        values: &mut [f32],
        shape: [usize; 4],
        labels: &[usize],
        rng: &mut DataRng,
    ) -> Result<Vec<f32>, AugmentError> {
        let blends = self.draw(shape, rng);
        self.apply_recorded(values, shape, labels, &blends)
    }

    /// Rows of targets, `[B, K]`, before any mixing: smoothed as [`smoothed_one_hot`] for one class, as
    /// [`smoothed_classes`] for several, and unchanged for values.
    ///
    /// # Errors
    /// [`AugmentError::Label`] for a class that is not below the number of classes, [`AugmentError::Values`] for
    /// another number of values, [`AugmentError::Kinds`] for targets of different kinds.
    pub fn rows(&self, targets: &[Target]) -> Result<Vec<f32>, AugmentError> {
        let Some(kind) = targets.first().map(Target::kind) else { return Ok(Vec::new()) };
        if let Some(at) = targets.iter().position(|target| target.kind() != kind) {
            return Err(AugmentError::Kinds { at, found: targets[at].kind(), expected: kind });
        }
        let (classes, smoothing) = (self.num_classes, self.config.smoothing);
        match kind {
            TargetKind::Class => {
                let labels: Vec<usize> = targets.iter().filter_map(Target::class).collect();
                smoothed_one_hot(&labels, classes, smoothing)
            }
            TargetKind::Classes => {
                let sets: Vec<&[usize]> = targets.iter().map(Target::class_indexes).collect();
                smoothed_classes(&sets, classes, smoothing)
            }
            TargetKind::Values => value_rows(targets, classes),
            TargetKind::Nothing => Ok(Vec::new()),
        }
    }

    /// [`apply`](Self::apply) to targets of any kind: both the images and the rows of their targets are mixed.
    ///
    /// # Errors
    /// [`AugmentError::Batch`], and those of [`rows`](Self::rows).
    pub fn apply_targets(
        &self,
        images: &mut [f32],
        shape: [usize; 4],
        targets: &[Target],
        rng: &mut DataRng,
    ) -> Result<Vec<f32>, AugmentError> {
        let blends = self.draw(shape, rng);
        check_batch(images, shape, targets.len(), &blends)?;
        let rows = self.rows(targets)?;
        self.mixed(images, shape, rows, &blends)
    }

    /// [`apply`](Self::apply) with given choices, one per image.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply), and [`AugmentError::CropBox`] if a box reaches outside.
    pub fn apply_recorded(
        &self,
        values: &mut [f32],
        shape: [usize; 4],
        labels: &[usize],
        blends: &[Blend],
    ) -> Result<Vec<f32>, AugmentError> {
        check_batch(values, shape, labels.len(), blends)?;
        let targets = smoothed_one_hot(labels, self.num_classes, self.config.smoothing)?;
        self.mixed(values, shape, targets, blends)
    }

    /// Mixes `values` and the rows `[B, K]` of `targets`, with checked arguments.
    fn mixed(
        &self,
        values: &mut [f32],
        shape: [usize; 4],
        mut targets: Vec<f32>,
        blends: &[Blend],
    ) -> Result<Vec<f32>, AugmentError> {
        let [count, channels, height, width] = shape;
        let pixels = channels * height * width;
        let classes = self.num_classes;
        for i in 0..count / 2 {
            let pair = [blends[i], blends[count - 1 - i]];
            let [first, second] = ends(values, i, pixels);
            exchange(first, second, pair, |blend, own, other| blend.pixels(own, other, [height, width]));
            let [first, second] = ends(&mut targets, i, classes);
            exchange(first, second, pair, |blend, own, other| blend.targets(own, other));
        }
        Ok(targets)
    }

    /// Draws the choices for a batch of shape `[B, C, H, W]`.
    pub fn draw(&self, [count, _, height, width]: [usize; 4], rng: &mut DataRng) -> Vec<Blend> {
        if !self.is_on() {
            return vec![Blend::Keep; count];
        }
        let size = [height, width];
        match self.config.mixup_mode {
            MixMode::Batch => vec![self.one(size, rng, |lam| lam); count],
            MixMode::Elem => (0..count).map(|_| self.one(size, rng, single)).collect(),
            MixMode::Pair => {
                let mut blends = vec![Blend::Keep; count];
                for i in 0..count / 2 {
                    blends[i] = self.one(size, rng, single);
                    blends[count - 1 - i] = blends[i];
                }
                blends
            }
        }
    }

    /// `round` rounds a share: timm keeps those of single images in single precision.
    fn one(&self, size: [usize; 2], rng: &mut DataRng, round: fn(f64) -> f64) -> Blend {
        let (mixup, cutmix) = (self.config.mixup, self.cutmix_alpha());
        if !chance(rng, self.config.mixup_prob) {
            return Blend::Keep;
        }
        let cut = cutmix > 0.0 && (mixup <= 0.0 || chance(rng, self.config.mixup_switch_prob));
        let lam = round(beta(if cut { cutmix } else { mixup }, rng));
        if lam == 1.0 {
            return Blend::Keep;
        }
        if !cut {
            return Blend::Mix { lam };
        }
        let area = match self.config.cutmix_minmax {
            Some(minmax) => minmax_box(size, minmax, rng),
            None => {
                let sides = cut_sides(size, lam);
                let [y, x] = size.map(|side| rng.random_range(0..side.max(1) as u32) as usize);
                cut_box(size, sides, [y, x])
            }
        };
        let share = f64::from(area.w) * f64::from(area.h) / (size[0] * size[1]).max(1) as f64;
        Blend::Cut { area, lam: round(1.0 - share) }
    }

    fn cutmix_alpha(&self) -> f64 {
        if self.config.cutmix_minmax.is_some() { 1.0 } else { self.config.cutmix }
    }
}

impl std::fmt::Display for Mixup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let MixConfig { mixup, cutmix, cutmix_minmax, mixup_prob, smoothing, .. } = self.config;
        let mut parts = Vec::new();
        if self.is_on() && mixup > 0.0 {
            parts.push(format!("mixup {mixup}"));
        }
        match cutmix_minmax {
            Some([least, most]) if self.is_on() => parts.push(format!("CutMix sides {least} to {most}")),
            None if self.is_on() && cutmix > 0.0 => parts.push(format!("CutMix {cutmix}")),
            _ => {}
        }
        if self.is_on() && mixup_prob < 1.0 {
            parts.push(format!("probability {mixup_prob}"));
        }
        parts.push(format!("label smoothing {smoothing}"));
        f.write_str(&parts.join(", "))
    }
}

/// Targets without mixing, `[B, K]`: `1 - s + s / K` for the label and `s / K` for the rest.
///
/// # Errors
/// [`AugmentError::Label`] for a label that is not below the number of classes.
pub fn smoothed_one_hot(
    labels: &[usize],
    num_classes: usize,
    smoothing: f64,
) -> Result<Vec<f32>, AugmentError> {
    let off = smoothing / num_classes as f64;
    let on = 1.0 - smoothing + off;
    let mut targets = vec![off as f32; labels.len() * num_classes];
    for (at, &label) in labels.iter().enumerate() {
        if label >= num_classes {
            return Err(AugmentError::Label { at, label, num_classes });
        }
        targets[at * num_classes + label] = on as f32;
    }
    Ok(targets)
}

/// Targets of images with several classes, `[B, K]`: `1 - s + s / K` for each of its classes and `s / K` for the rest,
/// the values that timm's `BinaryCrossEntropy` gives to one class.
///
/// # Errors
/// [`AugmentError::Label`] for a class that is not below the number of classes.
pub fn smoothed_classes(
    sets: &[&[usize]],
    num_classes: usize,
    smoothing: f64,
) -> Result<Vec<f32>, AugmentError> {
    let off = smoothing / num_classes as f64;
    let on = 1.0 - smoothing + off;
    let mut targets = vec![off as f32; sets.len() * num_classes];
    for (at, set) in sets.iter().enumerate() {
        for &label in *set {
            if label >= num_classes {
                return Err(AugmentError::Label { at, label, num_classes });
            }
            targets[at * num_classes + label] = on as f32;
        }
    }
    Ok(targets)
}

/// The values of each image, row by row.
fn value_rows(targets: &[Target], expected: usize) -> Result<Vec<f32>, AugmentError> {
    let mut rows = Vec::with_capacity(targets.len() * expected);
    for (at, target) in targets.iter().enumerate() {
        let Target::Values(values) = target else { continue };
        if values.len() != expected {
            return Err(AugmentError::Values { at, found: values.len(), expected });
        }
        rows.extend_from_slice(values);
    }
    Ok(rows)
}

/// Refuses values, targets and choices that do not fit a batch.
fn check_batch(
    values: &[f32],
    shape: [usize; 4],
    targets: usize,
    blends: &[Blend],
) -> Result<(), AugmentError> {
    let [count, _, height, width] = shape;
    let numbers = shape.into_iter().try_fold(1, usize::checked_mul);
    if numbers != Some(values.len()) || targets != count || blends.len() != count {
        return Err(AugmentError::Batch { shape, labels: targets, found: values.len() });
    }
    blends.iter().try_for_each(|blend| blend.check(height, width))
}

impl Blend {
    fn check(&self, height: usize, width: usize) -> Result<(), AugmentError> {
        let Self::Cut { area, .. } = *self else { return Ok(()) };
        let end = |start: u32, length: u32| start as usize + length as usize;
        if end(area.x, area.w) <= width && end(area.y, area.h) <= height {
            return Ok(());
        }
        Err(AugmentError::CropBox { found: area, width: width as u32, height: height as u32 })
    }

    /// `own` and `other` are images `[C, H, W]`.
    fn pixels(&self, own: &mut [f32], other: &[f32], [height, width]: [usize; 2]) {
        match *self {
            Self::Keep => {}
            Self::Mix { lam } => mean(own, other, lam),
            Self::Cut { area, .. } => {
                let columns = area.x as usize..(area.x + area.w) as usize;
                let rows = area.y as usize..(area.y + area.h) as usize;
                if columns.is_empty() || rows.is_empty() {
                    return;
                }
                let channels = own.chunks_exact_mut(height * width).zip(other.chunks_exact(height * width));
                for (own, other) in channels {
                    for y in rows.clone() {
                        let line = y * width + columns.start..y * width + columns.end;
                        own[line.clone()].copy_from_slice(&other[line]);
                    }
                }
            }
        }
    }

    /// `own` and `other` are targets `[K]`.
    fn targets(&self, own: &mut [f32], other: &[f32]) {
        match *self {
            Self::Keep => {}
            Self::Mix { lam } | Self::Cut { lam, .. } => mean(own, other, lam),
        }
    }
}

fn mean(own: &mut [f32], other: &[f32], lam: f64) {
    let (lam, rest) = (lam as f32, (1.0 - lam) as f32);
    for (own, other) in own.iter_mut().zip(other) {
        *own = *own * lam + other * rest;
    }
}

/// Items `i` from the front and from the back; `i` is less than half their number.
fn ends(values: &mut [f32], i: usize, length: usize) -> [&mut [f32]; 2] {
    let (front, back) = values.split_at_mut(values.len() - (i + 1) * length);
    [&mut front[i * length..(i + 1) * length], &mut back[..length]]
}

/// Both take from the other's original values.
fn exchange(
    first: &mut [f32],
    second: &mut [f32],
    [of_first, of_second]: [Blend; 2],
    take: impl Fn(&Blend, &mut [f32], &[f32]),
) {
    if of_first == Blend::Keep && of_second == Blend::Keep {
        return;
    }
    let was = first.to_vec();
    take(&of_first, first, second);
    take(&of_second, second, &was);
}

fn single(lam: f64) -> f64 {
    f64::from(lam as f32)
}

/// `[height, width]` of CutMix's box for the remaining share `lam`, before clipping to the image.
///
/// If the share is a single-precision number, the computation uses that precision, as numpy does for timm.
pub fn cut_sides(size: [usize; 2], lam: f64) -> [usize; 2] {
    if single(lam) == lam {
        let ratio = (1.0 - lam as f32).sqrt();
        return size.map(|side| (side as f32 * ratio) as usize);
    }
    let ratio = (1.0 - lam).sqrt();
    size.map(|side| (side as f64 * ratio) as usize)
}

/// The part of a box with these sides around `[y, x]` that is inside the image.
pub fn cut_box(size: [usize; 2], sides: [usize; 2], centre: [usize; 2]) -> CropBox {
    let range = |axis: usize| {
        let start = centre[axis].saturating_sub(sides[axis] / 2).min(size[axis]);
        (start as u32, ((centre[axis] + sides[axis].div_ceil(2)).min(size[axis]) - start) as u32)
    };
    let ((y, h), (x, w)) = (range(0), range(1));
    CropBox { x, y, w, h }
}

/// A box whose sides are random shares of the image's, from the smaller share to below the larger. If that range is
/// empty, the smaller one.
fn minmax_box(size: [usize; 2], [least, most]: [f64; 2], rng: &mut DataRng) -> CropBox {
    let mut draw = |side: usize| {
        let [low, high] = [least, most].map(|share| (side as f64 * share) as u32);
        let length = if low < high { rng.random_range(low..high) } else { low };
        (rng.random_range(0..=side as u32 - length), length)
    };
    let ((y, h), (x, w)) = (draw(size[0]), draw(size[1]));
    CropBox { x, y, w, h }
}
