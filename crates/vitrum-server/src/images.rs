//! Encoded images to a model's input, off the threads of the models and of the runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vitrum::data::decode::decode;
use vitrum::data::{DecodeOptions, RgbImage};

use crate::error::ApiError;
use crate::served::Served;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Images of a request, ready for the model.
#[derive(Debug)]
pub struct Prepared {
    /// `[N, C, H, W]`, normalised.
    pub pixels: Vec<f32>,
    /// `N`.
    pub images: usize,
    /// Wait and work.
    pub took: Duration,
}

/// Decodes a bounded number of requests at a time.
#[derive(Debug)]
pub struct Decoder {
    turns: Arc<Semaphore>,
    /// Images that wait for their turn or are being decoded.
    places: Arc<Semaphore>,
    options: DecodeOptions,
    max_images: usize,
}

impl Decoder {
    /// A decoder for so many requests at a time, images that wait, and images of a request.
    pub fn new(at_a_time: usize, waiting: usize, options: DecodeOptions, max_images: usize) -> Self {
        let semaphore = |places: usize| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self { turns: semaphore(at_a_time), places: semaphore(waiting), options, max_images }
    }

    /// Refuses no images and too many.
    ///
    /// # Errors
    /// [`ApiError::Malformed`], [`ApiError::TooLarge`].
    pub fn check_count(&self, images: usize) -> Result<(), ApiError> {
        match images {
            0 => Err(ApiError::Malformed("the request has no image".into())),
            n if n > self.max_images => {
                Err(ApiError::TooLarge(format!("{n} images, the limit of a request is {}", self.max_images)))
            }
            _ => Ok(()),
        }
    }

    /// Decodes images and brings them to the model's shape.
    ///
    /// # Errors
    /// Too many images, bytes that are no image or too large a one, [`ApiError::Full`] and [`ApiError::Late`].
    pub async fn prepare(
        &self,
        files: Vec<Bytes>,
        served: &Arc<Served>,
        deadline: Instant,
    ) -> Result<Prepared, ApiError> {
        self.check_count(files.len())?;
        let begin = Instant::now();
        let served = served.clone();
        let images = files.len();
        // The wait for decoding is bounded, too. Without a bound all requests would wait until just before their
        // deadlines, be decoded, and then be too late.
        let count = u32::try_from(images).unwrap_or(u32::MAX);
        let _places = self.places.try_acquire_many(count).map_err(|_| ApiError::Full)?;
        let prepare = move |options: &DecodeOptions| {
            let [c, h, w] = served.input();
            let mut pixels = Vec::with_capacity(files.len() * c * h * w);
            for (at, file) in files.iter().enumerate() {
                let image =
                    decode(file, options).map_err(|error| ApiError::from(error).of_image(at, images))?;
                let values = served.preprocess().apply(&image);
                pixels.extend(
                    values.map_err(|error| ApiError::Parameter(error.to_string()).of_image(at, images))?,
                );
            }
            Ok(pixels)
        };
        let pixels = self.off_thread(deadline, prepare).await?;
        Ok(Prepared { pixels, images, took: begin.elapsed() })
    }

    /// Decodes one image.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub async fn image(&self, file: Bytes, deadline: Instant) -> Result<RgbImage, ApiError> {
        self.off_thread(deadline, move |options| Ok(decode(&file, options)?)).await
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&DecodeOptions) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = turn(&self.turns, deadline).await?;
        let options = self.options.clone();
        let work = move || {
            // Until the work is done, also if the client leaves.
            let _turn = turn;
            work(&options)
        };
        tokio::task::spawn_blocking(work).await.map_err(ApiError::bug)?
    }
}

/// Waits for a turn until the deadline.
///
/// # Errors
/// [`ApiError::Late`].
pub async fn turn(turns: &Arc<Semaphore>, deadline: Instant) -> Result<OwnedSemaphorePermit, ApiError> {
    let turn = tokio::time::timeout_at(deadline.into(), turns.clone().acquire_owned()).await;
    turn.map_err(|_| ApiError::Late)?.map_err(|_| ApiError::NotReady)
}

/// The bytes of a text in base64, plain or as `data:…;base64,…`. Line breaks are left out.
///
/// # Errors
/// [`ApiError::Malformed`]; [`ApiError::Parameter`] for an address, because the server fetches nothing.
pub fn from_base64(text: &str) -> Result<Bytes, ApiError> {
    let text = text.trim();
    let not_base64 = |why: &str| ApiError::Malformed(format!("not an image in base64: {why}"));
    let encoded = match text.split_once(',') {
        Some((head, encoded)) if head.starts_with("data:") => match head.ends_with(";base64") {
            true => encoded,
            false => return Err(not_base64("a data: address needs ;base64")),
        },
        _ => text,
    };
    if encoded.starts_with("http://") || encoded.starts_with("https://") {
        return Err(ApiError::Parameter("the server fetches no addresses; send the image itself".into()));
    }
    let decoded = match encoded.contains(['\n', '\r']) {
        true => BASE64.decode(encoded.replace(['\n', '\r'], "")),
        false => BASE64.decode(encoded),
    };
    Ok(decoded.map_err(|error| not_base64(&error.to_string()))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_in_its_usual_forms() {
        for text in ["aGVsbG8=", "aGVsbG8", " aGVs\r\nbG8=\n", "data:image/png;base64,aGVsbG8="] {
            assert_eq!(from_base64(text).unwrap(), "hello", "{text:?}");
        }
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in ["a", "ä", "data:image/png,abc"] {
            assert!(matches!(from_base64(text), Err(ApiError::Malformed(_))), "{text:?}");
        }
        assert!(matches!(from_base64("https://example.org/cat.jpg"), Err(ApiError::Parameter(_))));
    }
}
