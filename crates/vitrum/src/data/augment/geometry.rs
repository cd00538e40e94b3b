//! Moving pixels: Pillow's affine transform and related functions (`src/libImaging/Geometry.c`,
//! `src/PIL/Image.py`).

use std::ops::AddAssign;

use crate::data::image::RgbImage;
use crate::data::resize::Interpolation;

use super::{AugmentError, wrong};

/// A rectangle of an image's pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub w: u32,
    /// Rows.
    pub h: u32,
}

impl CropBox {
    /// # Errors
    /// [`AugmentError::CropBox`] when it is empty or reaches outside.
    pub(super) fn check(self, width: u32, height: u32) -> Result<(), AugmentError> {
        let fits = |start: u32, length: u32, end: u32| {
            length > 0 && start.checked_add(length).is_some_and(|reached| reached <= end)
        };
        if fits(self.x, self.w, width) && fits(self.y, self.h, height) {
            return Ok(());
        }
        Err(AugmentError::CropBox { found: self, width, height })
    }
}

/// Interpolation of an affine transform. Unlike a resize it reads 1, 4 or 16 pixels at any scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// The nearest pixel.
    Nearest,
    /// Linear over 2 x 2 pixels.
    Bilinear,
    /// Cubic over 4 x 4 pixels.
    Bicubic,
}

impl Sampling {
    /// The name, as in timm.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
        }
    }

    /// The sampling for a resize filter.
    ///
    /// # Errors
    /// [`AugmentError::Field`] for filters that Pillow cannot rotate with.
    pub fn of(filter: Interpolation) -> Result<Self, AugmentError> {
        match filter {
            Interpolation::Nearest => Ok(Self::Nearest),
            Interpolation::Bilinear => Ok(Self::Bilinear),
            Interpolation::Bicubic => Ok(Self::Bicubic),
            Interpolation::Box | Interpolation::Hamming | Interpolation::Lanczos => Err(wrong(
                "train_interpolation",
                filter.name(),
                "`random`, `bilinear`, `bicubic` or `nearest` if `aa` is on: images cannot be rotated \
                 with other filters",
            )),
        }
    }
}

/// The image whose pixel at `(x, y)` is the input's at `(a x + b y + c, d x + e y + f)`; pixel centres are at
/// halves. This is Pillow's `image.transform(image.size, AFFINE, [a, b, c, d, e, f], sampling, fillcolor=fill)`.
/// Pixels from outside become `fill`.
pub fn affine(image: &RgbImage, matrix: &[f64; 6], sampling: Sampling, fill: [u8; 3]) -> RgbImage {
    let data = match sampling {
        Sampling::Nearest => nearest(image, matrix, fill),
        Sampling::Bilinear => between(image, matrix, fill, bilinear),
        Sampling::Bicubic => between(image, matrix, fill, bicubic),
    };
    same_size(image, data)
}

/// Rotates counter-clockwise around the centre: Pillow's `image.rotate(degrees, sampling, fillcolor=fill)`.
pub fn rotate(image: &RgbImage, degrees: f64, sampling: Sampling, fill: [u8; 3]) -> RgbImage {
    let degrees = degrees.rem_euclid(360.0);
    let square = image.width() == image.height();
    if degrees == 0.0 {
        image.clone()
    } else if degrees == 180.0 {
        let data = image.data().chunks_exact(3).rev().flatten().copied().collect();
        same_size(image, data)
    } else if square && (degrees == 90.0 || degrees == 270.0) {
        quarter_turn(image, degrees == 90.0)
    } else {
        affine(image, &rotation(image, degrees), sampling, fill)
    }
}

/// Pillow's matrix: sine and cosine rounded to 15 decimals.
fn rotation(image: &RgbImage, degrees: f64) -> [f64; 6] {
    let (x, y) = (f64::from(image.width()) / 2.0, f64::from(image.height()) / 2.0);
    let angle = -degrees.to_radians();
    let (a, b) = (round_15(angle.cos()), round_15(angle.sin()));
    let (d, e) = (round_15(-angle.sin()), round_15(angle.cos()));
    let [c, f] = [a * -x + b * -y + 0.0, d * -x + e * -y + 0.0];
    [a, b, c + x, d, e, f + y]
}

/// Python's `round(value, 15)`, through decimal digits.
fn round_15(value: f64) -> f64 {
    format!("{value:.15}").parse().unwrap_or(value)
}

/// Rotates a square image by 90 degrees, counter-clockwise or clockwise.
fn quarter_turn(image: &RgbImage, counter_clockwise: bool) -> RgbImage {
    let side = image.width();
    let from = |x: u32, y: u32| if counter_clockwise { (side - 1 - y, x) } else { (y, side - 1 - x) };
    let pixels = (0..side).flat_map(|y| (0..side).map(move |x| (x, y)));
    let data = pixels
        .flat_map(|(x, y)| {
            let (x, y) = from(x, y);
            image.pixel(x, y).unwrap_or_default()
        })
        .collect();
    same_size(image, data)
}

/// Flips left and right.
pub fn flip_horizontal(mut image: RgbImage) -> RgbImage {
    let stride = image.width() as usize * 3;
    for row in image.data_mut().chunks_exact_mut(stride) {
        row.reverse();
        row.chunks_exact_mut(3).for_each(<[u8]>::reverse);
    }
    image
}

/// Flips top and bottom.
pub fn flip_vertical(image: &RgbImage) -> RgbImage {
    let stride = image.width() as usize * 3;
    same_size(image, image.data().chunks_exact(stride).rev().flatten().copied().collect())
}

/// The pixels of a box.
///
/// # Errors
/// [`AugmentError::CropBox`] if the box is empty or reaches outside.
pub fn crop(image: &RgbImage, area: CropBox) -> Result<RgbImage, AugmentError> {
    let (width, height) = (image.width(), image.height());
    area.check(width, height)?;
    let mut data = Vec::with_capacity(area.w as usize * area.h as usize * 3);
    for y in area.y..area.y + area.h {
        data.extend_from_slice(&image.row(y)[area.x as usize * 3..][..area.w as usize * 3]);
    }
    Ok(RgbImage::new(area.w, area.h, data).expect("the checked box's size"))
}

/// The pixels of a border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PadMode {
    /// Black.
    #[default]
    Constant,
    /// The image mirrored at its border pixels, without repeating them.
    Reflect,
}

impl PadMode {
    /// The mode with this torchvision name.
    ///
    /// # Errors
    /// [`AugmentError::Field`] for another name.
    pub fn of_name(name: &str) -> Result<Self, AugmentError> {
        match name {
            "constant" => Ok(Self::Constant),
            "reflect" => Ok(Self::Reflect),
            _ => Err(wrong("crop_pad_mode", format!("'{name}'"), "`constant` or `reflect`")),
        }
    }

    /// The row or column at position `at`, which may be outside, of an axis of `length` pixels.
    pub(super) fn source(self, at: i64, length: u32) -> Option<u32> {
        let length = i64::from(length);
        let inside = match self {
            _ if (0..length).contains(&at) => at,
            Self::Constant => return None,
            Self::Reflect if length == 1 => 0,
            Self::Reflect => {
                let folded = at.rem_euclid(2 * (length - 1));
                folded.min(2 * (length - 1) - folded)
            }
        };
        u32::try_from(inside).ok()
    }
}

/// The image with `border` more pixels on each side (torchvision's `pad`).
///
/// # Errors
/// [`AugmentError::Field`] if a side of the result would be above 65535.
pub fn pad(image: &RgbImage, border: u32, mode: PadMode) -> Result<RgbImage, AugmentError> {
    let side = |side: u32| side.checked_add(border.checked_mul(2)?).filter(|side| *side <= 65_535);
    let (Some(width), Some(height)) = (side(image.width()), side(image.height())) else {
        return Err(wrong("crop_pad", border, "a border that leaves sides of at most 65535 pixels"));
    };
    let axis = |count: u32, length: u32| {
        (0..count).map(|at| mode.source(i64::from(at) - i64::from(border), length)).collect::<Vec<_>>()
    };
    Ok(gather(image, &axis(height, image.height()), &axis(width, image.width())))
}

/// The image with these rows and columns; `None` is black. Both lists have at least one entry.
pub(super) fn gather(image: &RgbImage, rows: &[Option<u32>], columns: &[Option<u32>]) -> RgbImage {
    let mut data = Vec::with_capacity(rows.len() * columns.len() * 3);
    for row in rows {
        for column in columns {
            let pixel = row.zip(*column).and_then(|(y, x)| image.pixel(x, y));
            data.extend_from_slice(&pixel.unwrap_or_default());
        }
    }
    RgbImage::new(columns.len() as u32, rows.len() as u32, data).expect("rows times columns")
}

/// An image of the same size with other bytes.
pub(super) fn same_size(image: &RgbImage, data: Vec<u8>) -> RgbImage {
    RgbImage::new(image.width(), image.height(), data).expect("as many bytes as the source")
}

/// Pillow's `ImagingGenericTransform`.
fn between(
    image: &RgbImage,
    &[a, b, c, d, e, f]: &[f64; 6],
    fill: [u8; 3],
    sample: fn(&RgbImage, f64, f64) -> [u8; 3],
) -> Vec<u8> {
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    let mut out = Vec::with_capacity(image.data().len());
    for y in 0..image.height() {
        let y = f64::from(y) + 0.5;
        for x in 0..image.width() {
            let x = f64::from(x) + 0.5;
            let (from_x, from_y) = (a * x + b * y + c, d * x + e * y + f);
            let inside = (0.0..width).contains(&from_x) && (0.0..height).contains(&from_y);
            out.extend(if inside { sample(image, from_x, from_y) } else { fill });
        }
    }
    out
}

/// First neighbour of a position along one axis, and the distance from it.
fn cell(at: f64) -> (i64, f64) {
    let at = at - 0.5;
    (at.floor() as i64, at - at.floor())
}

/// Offsets of pixels on one axis; the border repeats.
fn clipped<const N: usize>(first: i64, length: u32, step: usize) -> [usize; N] {
    std::array::from_fn(|n| (first + n as i64).clamp(0, i64::from(length) - 1) as usize * step)
}

fn bilinear(image: &RgbImage, x: f64, y: f64) -> [u8; 3] {
    let ((x, dx), (y, dy)) = (cell(x), cell(y));
    let columns: [usize; 2] = clipped(x, image.width(), 3);
    let rows: [usize; 2] = clipped(y, image.height(), image.width() as usize * 3);
    std::array::from_fn(|channel| {
        let [upper, lower] = rows.map(|row| {
            let [left, right] = columns.map(|column| f64::from(image.data()[row + column + channel]));
            left + (right - left) * dx
        });
        (upper + (lower - upper) * dy) as u8
    })
}

fn bicubic(image: &RgbImage, x: f64, y: f64) -> [u8; 3] {
    let ((x, dx), (y, dy)) = (cell(x), cell(y));
    let columns: [usize; 4] = clipped(x - 1, image.width(), 3);
    let rows: [usize; 4] = clipped(y - 1, image.height(), image.width() as usize * 3);
    std::array::from_fn(|channel| {
        let line =
            rows.map(|row| cubic(columns.map(|column| f64::from(image.data()[row + column + channel])), dx));
        // The conversion saturates at 0 and 255.
        cubic(line, dy) as u8
    })
}

/// The Catmull-Rom curve through four values, at `d` between the middle two.
fn cubic([v1, v2, v3, v4]: [f64; 4], d: f64) -> f64 {
    let p2 = -v1 + v3;
    let p3 = 2.0 * (v1 - v2) + v3 - v4;
    let p4 = -v1 + v2 - v3 + v4;
    v2 + d * (p2 + d * (p3 + d * p4))
}

/// Pillow's three paths without interpolation: steps along the axes, 16-bit fixed point, and floats if these
/// overflow.
fn nearest(image: &RgbImage, matrix: &[f64; 6], fill: [u8; 3]) -> Vec<u8> {
    let &[a, b, c, d, e, f] = matrix;
    let whole = |at: f64| if at < 0.0 { -1 } else { at as i64 };
    if b == 0.0 && d == 0.0 {
        return walk(image, fill, [c + a * 0.5, f + e * 0.5], [a, 0.0], [0.0, e], whole);
    }
    let (w, h) = (f64::from(image.width()), f64::from(image.height()));
    let fits = |x: f64, y: f64| (x * a + y * b + c).abs() < 32768.0 && (x * d + y * e + f).abs() < 32768.0;
    if fits(0.0, 0.0) && fits(w, h) && fits(0.0, h) && fits(w, 0.0) {
        let fixed = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
        let start = [fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5)];
        return walk(image, fill, start, [fixed(a), fixed(d)], [fixed(b), fixed(e)], |at| at >> 16);
    }
    walk(image, fill, [c + b * 0.5 + a * 0.5, f + e * 0.5 + d * 0.5], [a, d], [b, e], whole)
}

/// Reads the pixel at `whole([x, y])`; each pixel adds `across`, each row adds `down`.
fn walk<T: Copy + AddAssign>(
    image: &RgbImage,
    fill: [u8; 3],
    mut start: [T; 2],
    across: [T; 2],
    down: [T; 2],
    whole: impl Fn(T) -> i64,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(image.data().len());
    for _ in 0..image.height() {
        let mut at = start;
        for _ in 0..image.width() {
            let [x, y] = at.map(|at| u32::try_from(whole(at)).unwrap_or(u32::MAX));
            out.extend(image.pixel(x, y).unwrap_or(fill));
            at[0] += across[0];
            at[1] += across[1];
        }
        start[0] += down[0];
        start[1] += down[1];
    }
    out
}
