//! The body of a request: an image as it is, a form with several, or JSON.

use std::error::Error;
use std::fmt::Formatter;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Multipart, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, DeserializeSeed, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use tower_http::timeout::TimeoutError;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{OneOfBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

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

/// One image or several, sent as base64. Each text is decoded where it stands: no copy of the texts is kept.
#[derive(Debug, Default)]
pub struct Encoded {
    images: Vec<Bytes>,
    /// Texts, with those that failed.
    count: usize,
    /// The first text that failed, and why. Those after it are not decoded.
    failure: Option<(usize, ApiError)>,
}

impl Encoded {
    /// Takes the next text.
    pub fn push(&mut self, text: &str) {
        if self.failure.is_none() {
            match from_base64(text) {
                Ok(image) => self.images.push(image),
                Err(error) => self.failure = Some((self.count, error)),
            }
        }
        self.count += 1;
    }

    /// Texts so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The bytes of the images.
    ///
    /// # Errors
    /// Those of [`from_base64`].
    pub fn images(self) -> Result<Vec<Bytes>, ApiError> {
        match self.failure {
            Some((at, error)) => Err(error.of_image(at, self.count)),
            None => Ok(self.images),
        }
    }
}

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut encoded = Self::default();
        deserializer.deserialize_any(Texts { encoded: &mut encoded, may_be_list: true })?;
        Ok(encoded)
    }
}

/// Reads a text, or a list of texts.
struct Texts<'a> {
    encoded: &'a mut Encoded,
    may_be_list: bool,
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.may_be_list { "a text in base64, or a list of them" } else { "a text in base64" })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.encoded.push(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<(), A::Error> {
        if !self.may_be_list {
            return Err(serde::de::Error::invalid_type(Unexpected::Seq, &self));
        }
        while texts.next_element_seed(Texts { encoded: self.encoded, may_be_list: false })?.is_some() {}
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl PartialSchema for Encoded {
    fn schema() -> RefOr<Schema> {
        let either = OneOfBuilder::new().item(String::schema()).item(Vec::<String>::schema());
        Schema::from(either.description(Some("One image or several, in base64.")).build()).into()
    }
}

impl ToSchema for Encoded {}

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
