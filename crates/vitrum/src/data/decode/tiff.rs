//! TIFF as Pillow reads it: the first page, in strips or tiles, samples side by side or in planes, to 8-bit RGB.
//!
//! One table, [`layout`], says which kinds of samples there are; it follows Pillow's. What is not in it is refused.

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
