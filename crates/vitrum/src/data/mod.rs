//! Image files to pixels, and pixels to the tensor a model expects.
pub mod decode;
pub mod image;
pub mod preprocess;
pub mod resize;

pub use self::image::RgbImage;
pub use decode::{DecodeError, DecodeOptions, Limits};
pub use preprocess::{CropMode, Preprocess};
pub use resize::Interpolation;
