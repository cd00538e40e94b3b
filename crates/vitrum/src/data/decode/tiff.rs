//! TIFF as in Pillow: the first page, in strips or tiles, with interleaved samples or planes, to 8-bit RGB.
//!
//! The table in [`layout`] lists the supported kinds of samples; it follows Pillow's. Others are refused.

mod chunks;
mod directory;
mod layout;
mod rgb;

use ::image::metadata::Orientation;

use self::directory::{Directory, Tag};
use self::layout::Layout;
use super::orientation::orient;
use super::{DecodeProblem, Limits, rgb_image};
use crate::data::image::RgbImage;

const NAME: &str = "TIFF";

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, DecodeProblem> {
    let directory = Directory::read(bytes)?;
    let layout = Layout::of(&directory, limits)?;
    let samples = chunks::read(&directory, &layout, limits)?;
    let rgb = rgb::convert(&directory, &layout, samples)?;
    let orientation = directory.number(Tag::Orientation, 1)?;
    let orientation = u8::try_from(orientation).ok().and_then(Orientation::from_exif);
    let image = rgb_image(NAME, layout.width as u32, layout.height as u32, rgb)?;
    Ok(orient(image, orientation.unwrap_or(Orientation::NoTransforms)))
}
