//! Colour changes: Pillow's `ImageOps` and `ImageEnhance`, and torchvision's hue.

use crate::data::image::RgbImage;

use super::geometry::same_size;

/// A lookup table per channel.
type Table = [[u8; 256]; 3];

fn look_up(mut image: RgbImage, table: &Table) -> RgbImage {
    for pixel in image.data_mut().chunks_exact_mut(3) {
        for (value, table) in pixel.iter_mut().zip(table) {
            *value = table[usize::from(*value)];
        }
    }
    image
}

/// Applies one lookup to all channels.
fn point(image: RgbImage, new: impl Fn(u8) -> u8) -> RgbImage {
    let table = std::array::from_fn(|value| new(value as u8));
    look_up(image, &[table; 3])
}

/// How often each value occurs, per channel.
fn histogram(image: &RgbImage) -> [[u64; 256]; 3] {
    let mut counts = [[0; 256]; 3];
    for pixel in image.data().chunks_exact(3) {
        for (counts, &value) in counts.iter_mut().zip(pixel) {
            counts[usize::from(value)] += 1;
        }
    }
    counts
}

fn identity() -> [u8; 256] {
    std::array::from_fn(|value| value as u8)
}

/// Each channel stretched to 0..255 (`ImageOps.autocontrast`).
pub fn autocontrast(image: RgbImage) -> RgbImage {
    let table = histogram(&image).map(|counts| {
        let low = counts.iter().position(|&n| n > 0).unwrap_or(255);
        let high = counts.iter().rposition(|&n| n > 0).unwrap_or(0);
        if high <= low {
            return identity();
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        // The conversion truncates and saturates at 0 and 255.
        std::array::from_fn(|value| (value as f64 * scale + offset) as u8)
    });
    look_up(image, &table)
}

/// Equalises the histogram of each channel (`ImageOps.equalize`).
pub fn equalize(image: RgbImage) -> RgbImage {
    let table = histogram(&image).map(|counts| {
        let last = counts.iter().rev().find(|&&n| n > 0).copied().unwrap_or(0);
        let step = (counts.iter().sum::<u64>() - last) / 255;
        if step == 0 {
            return identity();
        }
        let mut n = step / 2;
        counts.map(|count| {
            let value = (n / step).min(255) as u8;
            n += count;
            value
        })
    });
    look_up(image, &table)
}

/// The negative (`ImageOps.invert`).
pub fn invert(image: RgbImage) -> RgbImage {
    point(image, |value| 255 - value)
}

/// Keeps only the upper `bits` of each value, 0 to 8 (`ImageOps.posterize`).
///
/// 0 bits give black, as in Pillow up to 12. Pillow 13 refuses 0, though timm's tables use it.
pub fn posterize(image: RgbImage, bits: u32) -> RgbImage {
    let mask = (0xff00_u32 >> bits.min(8)) as u8;
    point(image, |value| value & mask)
}

/// Inverts values from `threshold` on (`ImageOps.solarize`).
pub fn solarize(image: RgbImage, threshold: u32) -> RgbImage {
    point(image, |value| if u32::from(value) < threshold { value } else { 255 - value })
}

/// Raises values below 128 by `add` (timm's `solarize_add`).
pub fn solarize_add(image: RgbImage, add: u32) -> RgbImage {
    point(
        image,
        |value| if value < 128 { (u32::from(value).saturating_add(add)).min(255) as u8 } else { value },
    )
}

/// From `a` (alpha 0) to `b` (alpha 1) and beyond, in single precision as in Pillow's `Image.blend`.
fn blend_value(a: u8, b: u8, alpha: f32) -> u8 {
    // The conversion saturates at 0 and 255.
    (f32::from(a) + alpha * (f32::from(b) - f32::from(a))) as u8
}

/// `Image.blend(a, b, alpha)` of two images of the same size.
pub fn blend(a: &RgbImage, b: &RgbImage, alpha: f32) -> RgbImage {
    let data = a.data().iter().zip(b.data()).map(|(&a, &b)| blend_value(a, b, alpha)).collect();
    same_size(a, data)
}

/// Blends every pixel with the result of `from`; factor 1 leaves the image unchanged.
fn enhance(mut image: RgbImage, factor: f64, from: impl Fn(&[u8]) -> [u8; 3]) -> RgbImage {
    let alpha = factor as f32;
    for pixel in image.data_mut().chunks_exact_mut(3) {
        let dull = from(pixel);
        for (value, dull) in pixel.iter_mut().zip(dull) {
            *value = blend_value(dull, *value, alpha);
        }
    }
    image
}

/// Pillow's `convert("L")` of one pixel (ITU-R 601).
fn grey(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

/// Saturation: 0 gives grey, 1 the image (`ImageEnhance.Color`).
pub fn saturation(image: RgbImage, factor: f64) -> RgbImage {
    enhance(image, factor, |pixel| [grey(pixel); 3])
}

/// 0 gives black, 1 the image (`ImageEnhance.Brightness`).
pub fn brightness(image: RgbImage, factor: f64) -> RgbImage {
    enhance(image, factor, |_| [0; 3])
}

/// 0 gives the mean grey, 1 the image (`ImageEnhance.Contrast`).
pub fn contrast(image: RgbImage, factor: f64) -> RgbImage {
    let sum: u64 = image.data().chunks_exact(3).map(|pixel| u64::from(grey(pixel))).sum();
    let count = image.data().len() as u64 / 3;
    let mean = (sum as f64 / count as f64 + 0.5) as u8;
    enhance(image, factor, |_| [mean; 3])
}

/// 0 gives the smoothed image, 1 the image, 2 a sharpened one (`ImageEnhance.Sharpness`).
pub fn sharpness(image: &RgbImage, factor: f64) -> RgbImage {
    blend(&smooth(image), image, factor as f32)
}

/// Pillow's filter `SMOOTH`: 3 x 3 with weight 5 at the centre; the border stays.
fn smooth(image: &RgbImage) -> RgbImage {
    const OTHER: f32 = 1.0 / 13.0;
    const CENTRE: f32 = 5.0 / 13.0;
    let (stride, height) = (image.width() as usize * 3, image.height() as usize);
    let mut out = image.clone();
    if image.width() < 3 || height < 3 {
        return out;
    }
    let source = image.data();
    for y in 1..height - 1 {
        for i in y * stride + 3..(y + 1) * stride - 3 {
            let line = |at: usize, middle: f32| {
                f32::from(source[at - 3]) * OTHER
                    + f32::from(source[at]) * middle
                    + f32::from(source[at + 3]) * OTHER
            };
            // Pillow sums from bottom to top.
            let sum = 0.5 + line(i + stride, OTHER) + line(i, CENTRE) + line(i - stride, OTHER);
            out.data_mut()[i] = sum as u8;
        }
    }
    out
}

/// Rotates the hue by `factor` of the circle, -0.5 to 0.5 (torchvision's `adjust_hue`, through Pillow's HSV).
pub fn hue(mut image: RgbImage, factor: f64) -> RgbImage {
    let turn = (factor * 255.0) as i32 as u8;
    for pixel in image.data_mut().chunks_exact_mut(3) {
        let [h, s, v] = to_hsv([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&from_hsv([h.wrapping_add(turn), s, v]));
    }
    image
}

/// Pillow's `rgb2hsv`, with its mixture of single and double precision.
fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let [rc, gc, bc] = [r, g, b].map(|value| f32::from(most - value) / range);
    let hue = if r == most {
        bc - gc
    } else if g == most {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    let hue = ((f64::from(hue) / 6.0 + 1.0) % 1.0) as f32;
    let saturation = range / f32::from(most);
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, most]
}

/// Pillow's `hsv2rgb`.
fn from_hsv([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sixth = (f64::from(h) * 6.0 / 255.0).floor();
    let part = (f64::from(h) * 6.0 / 255.0 - sixth) as f32;
    let s = (f64::from(s) / 255.0) as f32;
    let value = |share: f64| (f64::from(v) * share).round() as u8;
    let p = value(1.0 - f64::from(s));
    let q = value(1.0 - f64::from(s * part));
    let t = value(1.0 - f64::from(s) * (1.0 - f64::from(part)));
    match sixth as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}
