//! The one image type: 8-bit RGB, row by row.

use std::path::{Path, PathBuf};

/// An 8-bit RGB image in memory: `height` rows of `width` pixels of three bytes (HWC order).
///
/// The length of the data always equals `width * height * 3` and both sides are at least 1.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    data: Vec<u8>,
}

/// An image that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: the image cannot be written: {source}", path.display())]
pub struct ImageSaveError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Bytes that cannot be an [`RgbImage`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageSizeError {
    /// More pixels than memory can address.
    #[error("an image of {width} x {height} pixels is too large")]
    TooLarge {
        /// Declared width in pixels.
        width: u32,
        /// Declared height in pixels.
        height: u32,
    },
    /// A side is zero.
    #[error("an image of {width} x {height} pixels has no pixels")]
    Empty {
        /// Declared width in pixels.
        width: u32,
        /// Declared height in pixels.
        height: u32,
    },
    /// The byte count does not match the sides.
    #[error("an RGB image of {width} x {height} pixels needs {expected} bytes, found {found}")]
    Length {
        /// Declared width in pixels.
        width: u32,
        /// Declared height in pixels.
        height: u32,
        /// `width * height * 3`.
        expected: u64,
        /// Number of bytes given.
        found: usize,
    },
}

impl RgbImage {
    /// Wraps `data` (`[height, width, 3]`, row by row).
    ///
    /// # Errors
    /// [`ImageSizeError`] if a side is zero or the length of `data` is not `width * height * 3`.
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Result<Self, ImageSizeError> {
        if width == 0 || height == 0 {
            return Err(ImageSizeError::Empty { width, height });
        }
        let expected = u64::from(width) * u64::from(height) * 3;
        if data.len() as u64 != expected {
            return Err(ImageSizeError::Length { width, height, expected, found: data.len() });
        }
        Ok(Self { width, height, data })
    }

    /// An image of one colour.
    ///
    /// # Errors
    /// [`ImageSizeError::Empty`] if a side is zero, [`ImageSizeError::TooLarge`] if there is no memory for it.
    pub fn filled(width: u32, height: u32, rgb: [u8; 3]) -> Result<Self, ImageSizeError> {
        let too_large = || ImageSizeError::TooLarge { width, height };
        let bytes = u64::from(width).checked_mul(u64::from(height)).and_then(|pixels| pixels.checked_mul(3));
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(too_large)?;
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).map_err(|_| too_large())?;
        data.extend(rgb.iter().cycle().take(bytes));
        Self::new(width, height, data)
    }

    /// An image from one byte per pixel, repeated in the three channels.
    ///
    /// # Errors
    /// As [`RgbImage::new`]; the length of `grey` must be `width * height`.
    pub fn from_grey(width: u32, height: u32, grey: &[u8]) -> Result<Self, ImageSizeError> {
        Self::new(width, height, grey.iter().flat_map(|&v| [v, v, v]).collect())
    }

    /// Pixels per row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// All bytes, `[height, width, 3]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// All bytes, mutable.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The bytes, without copying.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// The pixel in column `x` of row `y`, or `None` outside the image.
    pub fn pixel(&self, x: u32, y: u32) -> Option<[u8; 3]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let at = (y as usize * self.width as usize + x as usize) * 3;
        Some([self.data[at], self.data[at + 1], self.data[at + 2]])
    }

    /// The bytes of row `y`, `[width, 3]`.
    ///
    /// # Panics
    /// If `y` is not below the height.
    pub fn row(&self, y: u32) -> &[u8] {
        let stride = self.width as usize * 3;
        &self.data[y as usize * stride..][..stride]
    }

    /// Writes the picture as a file. The extension decides the format: png, jpg, webp, bmp, gif or tif.
    ///
    /// # Errors
    /// [`ImageSaveError`]: an unknown extension, or an I/O error.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ImageSaveError> {
        let path = path.as_ref();
        image::save_buffer(path, &self.data, self.width, self.height, image::ExtendedColorType::Rgb8)
            .map_err(|source| ImageSaveError { path: path.to_path_buf(), source: Box::new(source) })
    }

    /// The picture in grey: `(19595 R + 38470 G + 7471 B + 32768) >> 16` (ITU-R 601) in all three channels, the
    /// formula of Pillow's `convert("L")`.
    pub fn to_grey(mut self) -> Self {
        for pixel in self.data.chunks_exact_mut(3) {
            let [r, g, b] = [u32::from(pixel[0]), u32::from(pixel[1]), u32::from(pixel[2])];
            pixel.fill(((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8);
        }
        self
    }
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({} x {})", self.width, self.height)
    }
}
