//! Orientation of a picture, as in Pillow's `exif_transpose`.

use ::image::metadata::Orientation;

use super::DecodeOptions;
use crate::data::image::RgbImage;

/// From EXIF data, with or without their prefix; otherwise from XMP text. Damaged metadata are ignored.
pub(super) fn of(exif: Option<&[u8]>, xmp: Option<&[u8]>, options: &DecodeOptions) -> Orientation {
    if !options.exif_orientation {
        return Orientation::NoTransforms;
    }
    let number = exif.and_then(of_exif).or_else(|| xmp.and_then(of_xmp));
    number.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
}

/// The tag 0x0112 of the first directory.
fn of_exif(exif: &[u8]) -> Option<u8> {
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let little = match exif.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let number = |at: usize, size: usize| {
        let bytes = exif.get(at..at.checked_add(size)?)?;
        let join = |number: usize, &byte: &u8| number << 8 | usize::from(byte);
        Some(if little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) })
    };
    let directory = number(4, 4)?;
    let entries = (0..number(directory, 2)?).map(|n| directory + 2 + n * 12);
    let entry = entries.take_while(|&at| at < exif.len()).find(|&at| number(at, 2) == Some(0x0112))?;
    let size = match number(entry + 2, 2)? {
        1 => 1,
        3 => 2,
        4 => 4,
        _ => return None,
    };
    number(entry + 8, size)?.try_into().ok()
}

/// `tiff:Orientation="6"` or `tiff:Orientation>6`.
fn of_xmp(xmp: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    let places = xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    places.map(|(at, _)| &xmp[at + NAME.len()..]).find_map(|rest| {
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        value.first().filter(|digit| digit.is_ascii_digit()).map(|digit| digit - b'0')
    })
}

/// Turns the stored picture upright.
pub(super) fn orient(image: RgbImage, orientation: Orientation) -> RgbImage {
    let (w, h) = (image.width(), image.height());
    // The stored place of pixel (x, y) of the upright picture.
    let stored: fn(u32, u32, u32, u32) -> (u32, u32) = match orientation {
        Orientation::NoTransforms => return image,
        Orientation::FlipHorizontal => |x, y, w, _| (w - 1 - x, y),
        Orientation::Rotate180 => |x, y, w, h| (w - 1 - x, h - 1 - y),
        Orientation::FlipVertical => |x, y, _, h| (x, h - 1 - y),
        Orientation::Rotate90FlipH => |x, y, _, _| (y, x),
        Orientation::Rotate90 => |x, y, _, h| (y, h - 1 - x),
        Orientation::Rotate270FlipH => |x, y, w, h| (w - 1 - y, h - 1 - x),
        Orientation::Rotate270 => |x, y, w, _| (w - 1 - y, x),
    };
    let swaps = matches!(
        orientation,
        Orientation::Rotate90FlipH
            | Orientation::Rotate90
            | Orientation::Rotate270FlipH
            | Orientation::Rotate270
    );
    let (width, height) = if swaps { (h, w) } else { (w, h) };
    let mut data = Vec::with_capacity(image.data().len());
    for y in 0..height {
        for x in 0..width {
            let (sx, sy) = stored(x, y, w, h);
            data.extend_from_slice(&image.row(sy)[sx as usize * 3..][..3]);
        }
    }
    // The data are a permutation of an image's pixels, so the size fits.
    RgbImage::new(width, height, data).expect("as many pixels as before")
}
