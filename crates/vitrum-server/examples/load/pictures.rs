//! Pictures that are drawn, the same on every run.

use std::sync::Arc;

use anyhow::Result;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use crate::client::post;
use crate::drive::Requests;

/// Shorter and longer sides of the drawn photos.
const SIDES: std::ops::RangeInclusive<u32> = 64..=500;

/// Shapes of a photo.
const SHAPES: u64 = 12;

/// Quality of the JPEGs.
const QUALITY: u8 = 85;

/// An encoded picture.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its type of media.
    pub kind: &'static str,
    /// Its file.
    pub bytes: Vec<u8>,
}

impl Picture {
    /// The request that asks about it.
    pub fn request(&self, path: &str, stays: bool) -> Vec<u8> {
        post(path, self.kind, &self.bytes, stays)
    }
}

/// The requests that ask about each.
pub fn requests(pictures: &[Picture], path: &str, stays: bool) -> Requests {
    Arc::new(pictures.iter().map(|picture| picture.request(path, stays)).collect())
}

/// Drawn photos: JPEGs of many sizes.
pub fn jpegs(count: u64) -> Result<Vec<Picture>> {
    (0..count).map(|seed| jpeg(&photo(seed, true))).collect()
}

/// Drawn photos: JPEGs, and every fourth a PNG.
pub fn mixed(count: u64) -> Result<Vec<Picture>> {
    let picture = |seed| if seed % 4 == 3 { png(&photo(seed, false)) } else { jpeg(&photo(seed, true)) };
    (0..count).map(picture).collect()
}

/// A small PNG of coloured squares that no other number has.
pub fn distinct(number: u64) -> Result<Picture> {
    let colour = |square: u64| random(number.wrapping_mul(64).wrapping_add(square)).to_le_bytes();
    let pixel = |x: u32, y: u32| {
        let [red, green, blue, ..] = colour(u64::from(4 * (y / 8) + x / 8));
        image::Rgb([red, green, blue])
    };
    png(&RgbImage::from_fn(32, 32, pixel))
}

/// Lights, shapes and, if wanted, grain: about as hard to decode as a photo.
fn photo(seed: u64, has_grain: bool) -> RgbImage {
    let number = |at: u64| random(seed.wrapping_mul(1000).wrapping_add(at));
    let side = |at: u64| SIDES.start() + (number(at) % u64::from(SIDES.end() - SIDES.start() + 1)) as u32;
    let (width, height) = (side(0), side(1));
    let mut photo = RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([
            (255 * x / width) as u8,
            (255 * y / height) as u8,
            (128 * (x + y) / (width + height)) as u8,
        ])
    });
    for shape in 1..=SHAPES {
        let at = |part: u64, below: u32| (number(10 * shape + part) % u64::from(below)) as u32;
        let (left, top) = (at(0, width), at(1, height));
        let (right, bottom) = ((left + at(2, width / 2)).min(width), (top + at(3, height / 2)).min(height));
        let colour = image::Rgb([at(4, 256) as u8, at(5, 256) as u8, at(6, 256) as u8]);
        for y in top..bottom {
            (left..right).for_each(|x| photo.put_pixel(x, y, colour));
        }
    }
    if has_grain {
        grain(&mut photo, seed);
    }
    photo
}

fn grain(photo: &mut RgbImage, seed: u64) {
    for (at, pixel) in photo.pixels_mut().enumerate() {
        let noise = (random(seed ^ ((at as u64) << 20)) % 17) as i16 - 8;
        pixel.0 = pixel.0.map(|value| (i16::from(value) + noise).clamp(0, 255) as u8);
    }
}

fn jpeg(image: &RgbImage) -> Result<Picture> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    encoder.write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8)?;
    Ok(Picture { kind: "image/jpeg", bytes })
}

fn png(image: &RgbImage) -> Result<Picture> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new(&mut bytes);
    encoder.write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8)?;
    Ok(Picture { kind: "image/png", bytes })
}

/// A number that depends on the seed alone (splitmix64).
pub fn random(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
