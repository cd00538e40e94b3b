//! Pictures in answers: which form the client wants, and PNG.

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::ImageEncoder;
use image::codecs::png::PngEncoder;
use vitrum::data::RgbImage;

use crate::error::ApiError;

/// Whether the client wants a picture: PNG stands before JSON, or alone.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds =
        accepted.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or(kind).trim());
    kinds
        .find(|kind| matches!(*kind, "image/png" | "image/*" | "application/json" | "application/*"))
        .is_some_and(|kind| kind.starts_with("image/"))
}

/// An image as an answer.
///
/// # Errors
/// [`ApiError::Bug`].
pub fn answer(image: &RgbImage) -> Result<Response, ApiError> {
    Ok(([(header::CONTENT_TYPE, "image/png")], png(image)?).into_response())
}

/// An image as a `data:` address of a PNG.
///
/// # Errors
/// [`ApiError::Bug`].
pub fn address(image: &RgbImage) -> Result<String, ApiError> {
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(png(image)?)))
}

fn png(image: &RgbImage) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let (width, height) = (image.width(), image.height());
    let written =
        PngEncoder::new(&mut bytes).write_image(image.data(), width, height, image::ExtendedColorType::Rgb8);
    written.map_err(ApiError::bug)?;
    Ok(bytes)
}
