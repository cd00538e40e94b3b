//! The first frame of a GIF, on its canvas.

use ::gif::{ColorOutput, DecodeOptions, MemoryLimit};

use super::{DecodeProblem, Limits, damaged, rgb_image};
use crate::data::image::RgbImage;

const NAME: &str = "GIF";

/// Decodes as Pillow does. Transparent pixels get the colour of their palette entry. The canvas around a smaller
/// first frame gets the colour of the transparent entry, or of entry 0.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, DecodeProblem> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(
        limits.max_alloc.max(1).try_into().unwrap_or(std::num::NonZeroU64::MIN),
    ));
    let mut decoder = options.read_info(bytes).map_err(|error| damaged(NAME, error))?;
    let (width, height) = (decoder.width(), decoder.height());
    limits.check_samples(width.into(), height.into(), u64::from(width) * u64::from(height))?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.next_frame_info().map_err(|error| damaged(NAME, error))?;
    let frame = frame.ok_or_else(|| damaged(NAME, "no frame"))?.clone();
    limits.check_samples(
        frame.width.into(),
        frame.height.into(),
        u64::from(frame.width) * u64::from(frame.height),
    )?;
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(|error| damaged(NAME, error))?;

    let palette = frame.palette.or(global);
    let color = |index: u8| match &palette {
        Some(palette) => {
            palette.chunks_exact(3).nth(index.into()).map_or([0; 3], |rgb| [rgb[0], rgb[1], rgb[2]])
        }
        None => [index; 3],
    };
    let colors: Vec<[u8; 3]> = (0..=255).map(color).collect();
    // A frame that reaches beyond the canvas enlarges it.
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    let canvas_width = usize::from(width).max(left + frame_width);
    let canvas_height = usize::from(height).max(top + frame_height);
    limits.check_samples(canvas_width as u32, canvas_height as u32, (canvas_width * canvas_height) as u64)?;
    let background = colors[usize::from(frame.transparent.unwrap_or(0))];
    let mut rgb = background.repeat(canvas_width * canvas_height);
    for (y, row) in indices.chunks_exact(frame_width.max(1)).enumerate().take(frame_height) {
        let start = ((top + y) * canvas_width + left) * 3;
        for (pixel, &index) in rgb[start..].chunks_exact_mut(3).zip(row) {
            pixel.copy_from_slice(&colors[usize::from(index)]);
        }
    }
    rgb_image(NAME, canvas_width as u32, canvas_height as u32, rgb)
}
