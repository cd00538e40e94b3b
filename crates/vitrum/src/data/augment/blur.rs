//! timm's two Gaussian blurs: Pillow's in policies, torchvision's as a separate step.

use crate::data::image::RgbImage;

use super::geometry::{PadMode, same_size};

/// Pillow's `GaussianBlur(radius)`: three box filters of a fractional width (`src/libImaging/BoxBlur.c`, after
/// Gwosdek et al. 2011). `radius` is the standard deviation in pixels; 0 and below leave the image unchanged.
pub fn gaussian_blur(image: &RgbImage, radius: f64) -> RgbImage {
    let radius = box_radius(radius as f32);
    // A radius from 2^20 on is far above any image and would overflow sums.
    if !(radius > 0.0 && radius < 1_048_576.0) {
        return image.clone();
    }
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut pixels: Vec<[u8; 3]> = image.data().chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
    blur_rows(&mut pixels, width, radius);
    let mut turned = transposed(&pixels, width);
    blur_rows(&mut turned, height, radius);
    same_size(image, transposed(&turned, height).into_flattened())
}

const PASSES: u16 = 3;

/// Half the width of the box whose three passes have this standard deviation; single precision, as in Pillow.
fn box_radius(sigma: f32) -> f32 {
    let variance = sigma * sigma / f32::from(PASSES);
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
    whole + part / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)))
}

fn blur_rows(pixels: &mut [[u8; 3]], width: usize, radius: f32) {
    let mut line = vec![[0; 3]; width];
    for row in pixels.chunks_exact_mut(width) {
        for _ in 0..PASSES {
            blur_line(&mut line, row, radius);
            row.copy_from_slice(&line);
        }
    }
}

/// A mean over `2 radius + 1` pixels; the two outermost count partially. Border pixels repeat outside.
fn blur_line(out: &mut [[u8; 3]], line: &[[u8; 3]], radius: f32) {
    let whole = radius as i64;
    let weight = (16_777_216.0 / (radius * 2.0 + 1.0)) as u32;
    let outer = (16_777_216_i64 - (whole * 2 + 1) * i64::from(weight)) / 2;
    let (weight, outer) = (i64::from(weight), outer);
    let last = line.len() as i64 - 1;
    let at = |x: i64, channel: usize| i64::from(line[x.clamp(0, last) as usize][channel]);
    for channel in 0..3 {
        // Pixels far outside are all equal, so the loop stops at the border.
        let reach = whole.min(last + 1);
        let beyond = whole - reach;
        let mut sum = at(0, channel) * (whole + 1) + at(last, channel) * beyond;
        sum += (0..reach).map(|x| at(x, channel)).sum::<i64>();
        for (x, out) in (0..).zip(out.iter_mut()) {
            sum += at(x + whole, channel) - at(x - whole - 1, channel);
            let far = at(x - whole - 1, channel) + at(x + whole + 1, channel);
            out[channel] = ((sum * weight + far * outer + (1 << 23)) >> 24) as u8;
        }
    }
}

fn transposed(pixels: &[[u8; 3]], width: usize) -> Vec<[u8; 3]> {
    (0..width).flat_map(|x| pixels.iter().skip(x).step_by(width).copied()).collect()
}

/// torchvision's `GaussianBlur(kernel_size=23)`: a convolution over 23 x 23 pixels, with the image mirrored at the
/// border.
///
/// torchvision sums 529 products in single precision, in an order that depends on processor and library, and then
/// rounds. A sum near a half may round either way. The two passes here use double precision, so single values may
/// differ by one level and never by more. Images below 12 pixels, which torch refuses, are mirrored more than once.
pub fn gaussian_blur_23(image: &RgbImage, sigma: f64) -> RgbImage {
    let kernel = kernel_23(sigma);
    let (width, height) = (image.width(), image.height());
    let columns = mirrored(width).map(|x| x * 3);
    let across: Vec<f64> = (0..height)
        .flat_map(|y| {
            let (row, columns) = (image.row(y), columns.clone().collect::<Vec<_>>());
            let sum = move |x: usize, channel: usize| {
                let taps = columns[x..x + kernel.len()].iter().zip(kernel);
                taps.map(|(at, weight)| f64::from(row[at + channel]) * weight).sum::<f64>()
            };
            (0..width as usize).flat_map(move |x| [0, 1, 2].map(|channel| sum(x, channel)))
        })
        .collect();
    let stride = width as usize * 3;
    let rows: Vec<usize> = mirrored(height).map(|y| y * stride).collect();
    let mut out = Vec::with_capacity(across.len());
    let mut sums = vec![0.0; stride];
    for y in 0..height as usize {
        sums.fill(0.0);
        for (row, weight) in rows[y..y + kernel.len()].iter().zip(kernel) {
            sums.iter_mut().zip(&across[*row..]).for_each(|(sum, value)| *sum += value * weight);
        }
        out.extend(sums.iter().map(|sum| sum.round_ties_even() as u8));
    }
    same_size(image, out)
}

/// Weights of the 23 pixels. If the deviation is not above 0, the middle one has all the weight.
fn kernel_23(sigma: f64) -> [f64; 23] {
    if sigma.is_nan() || sigma <= 1e-3 {
        return std::array::from_fn(|n| f64::from(u8::from(n == 11)));
    }
    let weights: [f64; 23] = std::array::from_fn(|n| (-0.5 * ((n as f64 - 11.0) / sigma).powi(2)).exp());
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

/// The pixels from 11 before the first to 11 after the last.
fn mirrored(length: u32) -> impl Iterator<Item = usize> + Clone {
    (-11..i64::from(length) + 11).map(move |at| PadMode::Reflect.source(at, length).unwrap_or(0) as usize)
}
