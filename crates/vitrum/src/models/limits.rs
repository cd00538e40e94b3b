//! Checks that configurations share, and the largest sizes that they accept.

use super::ConfigError;

/// Longest side of an image or a patch, in pixels.
pub(crate) const MAX_SIDE: usize = 1 << 14;
/// Most channels of an image, or of the feature maps that a hybrid takes patches of.
pub(crate) const MAX_CHANNELS: usize = 1 << 13;
/// Largest width of tokens and maps, of an MLP and of the hidden layer of a head.
pub(crate) const MAX_WIDTH: usize = 1 << 16;
/// Most blocks.
pub(crate) const MAX_DEPTH: usize = 1000;
/// Most register tokens.
pub(crate) const MAX_REGISTERS: usize = 1 << 12;
/// Most classes.
pub(crate) const MAX_CLASSES: usize = 1 << 20;

/// Refuses a field.
pub(crate) fn refuse(field: &'static str, reason: String) -> Result<(), ConfigError> {
    Err(ConfigError::Field { field, reason })
}

/// Refuses the first number outside its range: field, value, least, most.
pub(crate) fn check_ranges(
    numbers: impl IntoIterator<Item = (&'static str, usize, usize, usize)>,
) -> Result<(), ConfigError> {
    for (field, value, least, most) in numbers {
        if !(least..=most).contains(&value) {
            return refuse(field, format!("is {value}, expected {least} to {most}"));
        }
    }
    Ok(())
}

/// Refuses the first rate of dropout that is none.
pub(crate) fn check_rates(rates: impl IntoIterator<Item = (&'static str, f64)>) -> Result<(), ConfigError> {
    for (field, rate) in rates {
        if !(0.0..1.0).contains(&rate) {
            return refuse(field, format!("is {rate}, expected 0 up to but not 1"));
        }
    }
    Ok(())
}

/// Refuses the first epsilon that is none.
pub(crate) fn check_eps(numbers: impl IntoIterator<Item = (&'static str, f64)>) -> Result<(), ConfigError> {
    for (field, eps) in numbers {
        if !(eps > 0.0 && eps < 1.0) {
            return refuse(field, format!("is {eps}, expected a small positive number"));
        }
    }
    Ok(())
}

/// The numbers of an image model that every family has.
pub(crate) fn image_ranges(
    [h, w]: [usize; 2],
    in_chans: usize,
    num_classes: usize,
) -> [(&'static str, usize, usize, usize); 4] {
    [
        ("img_size", h, 1, MAX_SIDE),
        ("img_size", w, 1, MAX_SIDE),
        ("in_chans", in_chans, 1, MAX_CHANNELS),
        ("num_classes", num_classes, 0, MAX_CLASSES),
    ]
}
