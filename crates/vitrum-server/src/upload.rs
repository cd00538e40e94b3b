//! The body of a request: an image as it is, a form with several, or JSON.

use std::error::Error;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Multipart, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tower_http::timeout::TimeoutError;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::images::from_base64;

/// The body of a request.
#[derive(Debug)]
pub enum Upload {
    /// The bytes of images.
    Images(Vec<Bytes>),
    /// A JSON document.
    Json(Bytes),
}

/// Names of the parts of a form that are images even without a file name.
const PARTS: [&str; 6] = ["data", "image", "images", "file", "files", "inputs"];

impl<S: Send + Sync> FromRequest<S> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let kind = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
        let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_lowercase();
        match &kind[..] {
            "application/json" => Ok(Self::Json(bytes(request, state).await?)),
            "multipart/form-data" => form(request, state).await.map(Self::Images),
            // The last one is what curl says without being told.
            "" | "application/octet-stream" | "application/x-www-form-urlencoded" => {
                Ok(Self::Images(vec![bytes(request, state).await?]))
            }
            image if image.starts_with("image/") => Ok(Self::Images(vec![bytes(request, state).await?])),
            other => Err(ApiError::Unsupported(format!(
                "content type {other}; expected an image, multipart/form-data or application/json"
            ))),
        }
    }
}

/// The image of a request that takes one.
///
/// # Errors
/// [`ApiError::Malformed`], [`ApiError::TooLarge`].
pub fn one(mut images: Vec<Bytes>) -> Result<Bytes, ApiError> {
    match (images.pop(), images.len()) {
        (Some(image), 0) => Ok(image),
        (Some(_), more) => {
            Err(ApiError::TooLarge(format!("{} images; this route takes one at a time", more + 1)))
        }
        (None, _) => Err(ApiError::Malformed("the request has no image".into())),
    }
}

/// The whole body.
///
/// # Errors
/// [`ApiError::TooLarge`], [`ApiError::SlowBody`], [`ApiError::Malformed`] for a body that breaks off.
pub async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state).await.map_err(|error| broken(error.status().as_u16(), &error))
}

/// Why a body did not come.
fn broken(status: u16, error: &(dyn Error + 'static)) -> ApiError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<TimeoutError>() {
            return ApiError::SlowBody;
        }
        cause = error.source();
    }
    match status {
        413 => too_many_bytes(),
        _ => ApiError::Malformed(error.to_string()),
    }
}

/// The error for a body beyond the limit.
pub fn too_many_bytes() -> ApiError {
    ApiError::TooLarge("the body of the request is larger than this server allows".into())
}

async fn form<S: Send + Sync>(request: Request, state: &S) -> Result<Vec<Bytes>, ApiError> {
    let form = Multipart::from_request(request, state).await;
    let mut form = form.map_err(|error| ApiError::Malformed(error.body_text()))?;
    let mut images = Vec::new();
    while let Some(part) = form.next_field().await.map_err(|error| broken(error.status().as_u16(), &error))? {
        let name = part.name().unwrap_or_default().to_string();
        let is_image = part.content_type().is_some_and(|kind| kind.starts_with("image/"));
        if !is_image && part.file_name().is_none() && !PARTS.contains(&&name[..]) {
            return Err(ApiError::Parameter(format!(
                "part '{name}' is no file; parameters go into the address"
            )));
        }
        images.push(part.bytes().await.map_err(|error| broken(error.status().as_u16(), &error))?);
    }
    Ok(images)
}

/// A JSON document as a value.
///
/// # Errors
/// [`ApiError::Malformed`] if it is no JSON, [`ApiError::Parameter`] if it has other fields or types.
pub fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    use serde_json::error::Category;
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => ApiError::Parameter(error.to_string()),
        Category::Syntax | Category::Eof | Category::Io => ApiError::Malformed(format!("not JSON: {error}")),
    })
}

/// One image or several, in base64.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Encoded {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Encoded {
    /// The bytes of the images.
    ///
    /// # Errors
    /// Those of [`from_base64`].
    pub fn images(&self) -> Result<Vec<Bytes>, ApiError> {
        let texts = match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Several(texts) => texts,
        };
        let decode =
            |(at, text): (usize, &String)| from_base64(text).map_err(|error| error.of_image(at, texts.len()));
        texts.iter().enumerate().map(decode).collect()
    }
}

/// Parameters in the address. Unknown ones are refused where the type says so.
#[derive(Clone, Copy, Debug)]
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(params)| Self(params)).map_err(|error| ApiError::Parameter(error.body_text()))
    }
}
