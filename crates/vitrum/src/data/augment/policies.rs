//! The tables behind configuration texts: operations, probabilities, strengths (`timm/data/auto_augment.py`).

use super::op::{AugmentOp, Op};

/// Operations of RandAugment and their weights, if any.
pub(super) fn rand_list(name: Option<&str>, increasing: bool) -> Option<(Vec<Op>, Option<Vec<f64>>)> {
    let weighted = |list: &[(Op, f64)]| {
        let sum: f64 = list.iter().map(|(_, weight)| weight).sum();
        let (ops, weights) = list.iter().map(|&(op, weight)| (op, weight / sum)).unzip();
        Some((ops, Some(weights)))
    };
    match name {
        Some("weights") => weighted(&RAND_WEIGHTED),
        Some("3aw") => weighted(&RAND_3A_WEIGHTED),
        Some("3a") => Some((vec![Op::SolarizeIncreasing, Op::Desaturate, Op::GaussianBlur], None)),
        Some(_) => None,
        None => Some((if increasing { RAND_INCREASING } else { RAND }.to_vec(), None)),
    }
}

const RAND: [Op; 15] = [
    Op::AutoContrast,
    Op::Equalize,
    Op::Invert,
    Op::Rotate,
    Op::Posterize,
    Op::Solarize,
    Op::SolarizeAdd,
    Op::Color,
    Op::Contrast,
    Op::Brightness,
    Op::Sharpness,
    Op::ShearX,
    Op::ShearY,
    Op::TranslateXRel,
    Op::TranslateYRel,
];

const RAND_INCREASING: [Op; 15] = [
    Op::AutoContrast,
    Op::Equalize,
    Op::Invert,
    Op::Rotate,
    Op::PosterizeIncreasing,
    Op::SolarizeIncreasing,
    Op::SolarizeAdd,
    Op::ColorIncreasing,
    Op::ContrastIncreasing,
    Op::BrightnessIncreasing,
    Op::SharpnessIncreasing,
    Op::ShearX,
    Op::ShearY,
    Op::TranslateXRel,
    Op::TranslateYRel,
];

const RAND_3A_WEIGHTED: [(Op, f64); 14] = [
    (Op::SolarizeIncreasing, 6.0),
    (Op::Desaturate, 6.0),
    (Op::GaussianBlur, 6.0),
    (Op::Rotate, 3.0),
    (Op::ShearX, 2.0),
    (Op::ShearY, 2.0),
    (Op::PosterizeIncreasing, 1.0),
    (Op::AutoContrast, 1.0),
    (Op::ColorIncreasing, 1.0),
    (Op::SharpnessIncreasing, 1.0),
    (Op::ContrastIncreasing, 1.0),
    (Op::BrightnessIncreasing, 1.0),
    (Op::Equalize, 1.0),
    (Op::Invert, 1.0),
];

const RAND_WEIGHTED: [(Op, f64); 15] = [
    (Op::Rotate, 3.0),
    (Op::ShearX, 2.0),
    (Op::ShearY, 2.0),
    (Op::TranslateXRel, 1.0),
    (Op::TranslateYRel, 1.0),
    (Op::ColorIncreasing, 0.25),
    (Op::SharpnessIncreasing, 0.25),
    (Op::AutoContrast, 0.25),
    (Op::SolarizeIncreasing, 0.05),
    (Op::SolarizeAdd, 0.05),
    (Op::ContrastIncreasing, 0.05),
    (Op::BrightnessIncreasing, 0.05),
    (Op::Equalize, 0.05),
    (Op::PosterizeIncreasing, 0.05),
    (Op::Invert, 0.05),
];

/// Operations of AugMix.
pub(super) const AUGMIX: [Op; 13] = [
    Op::AutoContrast,
    Op::ColorIncreasing,
    Op::ContrastIncreasing,
    Op::BrightnessIncreasing,
    Op::SharpnessIncreasing,
    Op::Equalize,
    Op::Rotate,
    Op::PosterizeIncreasing,
    Op::SolarizeIncreasing,
    Op::ShearX,
    Op::ShearY,
    Op::TranslateXRel,
    Op::TranslateYRel,
];

/// An operation in a policy's row: probability in tenths, level.
type Step = (Op, u8, u8);

/// The rows of a policy. `r` at the end selects the increasing posterisation of Google's research code.
pub(super) fn policy(name: &str) -> Option<Vec<Vec<AugmentOp>>> {
    let rows: Vec<Vec<Step>> = match name {
        "original" => original(Op::PosterizeOriginal).map(Vec::from).into(),
        "originalr" => original(Op::PosterizeIncreasing).map(Vec::from).into(),
        "v0" => v0(Op::Posterize).map(Vec::from).into(),
        "v0r" => v0(Op::PosterizeIncreasing).map(Vec::from).into(),
        "3a" => [(Op::Solarize, 10, 5), (Op::Desaturate, 10, 10), (Op::GaussianBlurRand, 10, 10)]
            .map(|step| vec![step])
            .into(),
        _ => return None,
    };
    let op = |(op, tenths, level): Step| AugmentOp {
        op,
        prob: f64::from(tenths) / 10.0,
        magnitude: f64::from(level),
    };
    Some(rows.into_iter().map(|row| row.into_iter().map(op).collect()).collect())
}

/// The ImageNet policy of the AutoAugment paper.
fn original(posterize: Op) -> [[Step; 2]; 25] {
    use Op::{AutoContrast, Color, Contrast, Equalize, Invert, Rotate, Sharpness, ShearX, Solarize};
    [
        [(posterize, 4, 8), (Rotate, 6, 9)],
        [(Solarize, 6, 5), (AutoContrast, 6, 5)],
        [(Equalize, 8, 8), (Equalize, 6, 3)],
        [(posterize, 6, 7), (posterize, 6, 6)],
        [(Equalize, 4, 7), (Solarize, 2, 4)],
        [(Equalize, 4, 4), (Rotate, 8, 8)],
        [(Solarize, 6, 3), (Equalize, 6, 7)],
        [(posterize, 8, 5), (Equalize, 10, 2)],
        [(Rotate, 2, 3), (Solarize, 6, 8)],
        [(Equalize, 6, 8), (posterize, 4, 6)],
        [(Rotate, 8, 8), (Color, 4, 0)],
        [(Rotate, 4, 9), (Equalize, 6, 2)],
        [(Equalize, 0, 7), (Equalize, 8, 8)],
        [(Invert, 6, 4), (Equalize, 10, 8)],
        [(Color, 6, 4), (Contrast, 10, 8)],
        [(Rotate, 8, 8), (Color, 10, 2)],
        [(Color, 8, 8), (Solarize, 8, 7)],
        [(Sharpness, 4, 7), (Invert, 6, 8)],
        [(ShearX, 6, 5), (Equalize, 10, 9)],
        [(Color, 4, 0), (Equalize, 6, 3)],
        [(Equalize, 4, 7), (Solarize, 2, 4)],
        [(Solarize, 6, 5), (AutoContrast, 6, 5)],
        [(Invert, 6, 4), (Equalize, 10, 8)],
        [(Color, 6, 4), (Contrast, 10, 8)],
        [(Equalize, 8, 8), (Equalize, 6, 3)],
    ]
}

/// The ImageNet policy of Google's EfficientNet code.
fn v0(posterize: Op) -> [[Step; 2]; 25] {
    use Op::{AutoContrast, Color, Equalize, Invert, Rotate, ShearX, ShearY, Solarize, SolarizeAdd};
    [
        [(Equalize, 8, 1), (ShearY, 8, 4)],
        [(Color, 4, 9), (Equalize, 6, 3)],
        [(Color, 4, 1), (Rotate, 6, 8)],
        [(Solarize, 8, 3), (Equalize, 4, 7)],
        [(Solarize, 4, 2), (Solarize, 6, 2)],
        [(Color, 2, 0), (Equalize, 8, 8)],
        [(Equalize, 4, 8), (SolarizeAdd, 8, 3)],
        [(ShearX, 2, 9), (Rotate, 6, 8)],
        [(Color, 6, 1), (Equalize, 10, 2)],
        [(Invert, 4, 9), (Rotate, 6, 0)],
        [(Equalize, 10, 9), (ShearY, 6, 3)],
        [(Color, 4, 7), (Equalize, 6, 0)],
        [(posterize, 4, 6), (AutoContrast, 4, 7)],
        [(Solarize, 6, 8), (Color, 6, 9)],
        [(Solarize, 2, 4), (Rotate, 8, 9)],
        [(Rotate, 10, 7), (Op::TranslateYRel, 8, 9)],
        [(ShearX, 0, 0), (Solarize, 8, 4)],
        [(ShearY, 8, 0), (Color, 6, 4)],
        [(Color, 10, 0), (Rotate, 6, 2)],
        [(Equalize, 8, 4), (Equalize, 0, 8)],
        [(Equalize, 10, 4), (AutoContrast, 6, 2)],
        [(ShearY, 4, 7), (SolarizeAdd, 6, 7)],
        [(posterize, 8, 2), (Solarize, 6, 10)],
        [(Solarize, 6, 8), (Equalize, 6, 1)],
        [(Color, 8, 6), (Rotate, 4, 5)],
    ]
}
