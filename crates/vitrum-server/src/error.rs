//! Errors of requests: a status and `{"error": "…"}`.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use vitrum::data::DecodeError;
use vitrum::data::decode::DecodeProblem;
use vitrum::explain::ExplainError;

use crate::batcher::Failure;
use crate::queue::Refusal;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// 400: neither an image nor valid JSON.
    #[error("{0}")]
    Malformed(String),
    /// 401: no API key, or another one.
    #[error("this server needs an API key: `Authorization: Bearer KEY`")]
    Unauthorized,
    /// 404: no such model.
    #[error("no model '{name}'; there are: {}", known.join(", "))]
    UnknownModel {
        /// The name that was asked for.
        name: String,
        /// The names of the server's models.
        known: Vec<String>,
    },
    /// 404: no such route.
    #[error("no route {0}; see /docs")]
    UnknownRoute(String),
    /// 408: the body came too slowly.
    #[error("the body of the request did not come in time")]
    SlowBody,
    /// 413: too many bytes, pixels or images.
    #[error("{0}")]
    TooLarge(String),
    /// 415: a body of another kind, or an image in a form that is not read.
    #[error("{0}")]
    Unsupported(String),
    /// 422: a parameter that is wrong, or that the model cannot serve.
    #[error("{0}")]
    Parameter(String),
    /// 429: the queue is full.
    #[error("too many images wait for this model; try again later")]
    Full,
    /// 503: the server ends, or is not ready.
    #[error("the server takes no more requests")]
    NotReady,
    /// 504: the deadline passed before the request's turn.
    #[error("the request waited longer than the server allows")]
    Late,
    /// 500: a mistake of the server.
    #[error("the server made a mistake; its log has more")]
    Bug,
}

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
}

/// When a client may try again after 429 and 503.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl ApiError {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::UnknownModel { .. } | Self::UnknownRoute(_) => StatusCode::NOT_FOUND,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Parameter(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Full => StatusCode::TOO_MANY_REQUESTS,
            Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
            Self::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// An error of one image among several. `at` counts from 0.
    pub fn of_image(self, at: usize, count: usize) -> Self {
        if count == 1 {
            return self;
        }
        let told = |why: String| format!("image {at}: {why}");
        match self {
            Self::Malformed(why) => Self::Malformed(told(why)),
            Self::TooLarge(why) => Self::TooLarge(told(why)),
            Self::Unsupported(why) => Self::Unsupported(told(why)),
            Self::Parameter(why) => Self::Parameter(told(why)),
            other => other,
        }
    }

    /// A mistake of the server. The log gets the reason, the client does not.
    pub fn bug(why: impl std::fmt::Display) -> Self {
        tracing::error!("{why}");
        Self::Bug
    }
}

/// The body of an error with this text.
pub fn body(error: impl std::fmt::Display) -> Json<ErrorBody> {
    Json(ErrorBody { error: error.to_string() })
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), body(&self)).into_response();
        if matches!(self, Self::Full | Self::NotReady) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
        }
        if self == Self::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full => Self::Full,
            Refusal::TooLarge => Self::TooLarge("more images than a batch of this server".into()),
            Refusal::Closed => Self::NotReady,
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Late => Self::Late,
            Failure::Crashed => Self::bug("a pass of a model failed"),
            Failure::Model(why) => Self::Parameter(why),
        }
    }
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        // A hint in a second line is for people at a terminal.
        let text = error.problem.to_string();
        let text = text.lines().next().unwrap_or_default().to_string();
        match error.problem {
            DecodeProblem::TooLarge { .. } | DecodeProblem::TooManyBytes { .. } => Self::TooLarge(text),
            DecodeProblem::Unsupported { .. } => Self::Unsupported(text),
            _ => Self::Malformed(text),
        }
    }
}

impl From<vitrum::Error> for ApiError {
    /// Of explanations and preprocessing: what the client asked for cannot be had.
    fn from(error: vitrum::Error) -> Self {
        match error {
            vitrum::Error::Decode(error) => error.into(),
            vitrum::Error::Explain(error) => error.into(),
            vitrum::Error::Preprocess(error) => Self::Parameter(error.to_string()),
            vitrum::Error::Batch(error) => Self::Parameter(error.to_string()),
            vitrum::Error::NotFinite { .. } => Self::Parameter(NOT_FINITE.into()),
            other => Self::bug(other),
        }
    }
}

impl From<ExplainError> for ApiError {
    fn from(error: ExplainError) -> Self {
        match error {
            // The client has left, or has got 504 already.
            ExplainError::Cancelled => Self::Late,
            error => Self::Parameter(error.to_string()),
        }
    }
}

/// The answer has NaN or infinity.
pub const NOT_FINITE: &str = "the model's answer is not finite";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_says_when_to_come_again() {
        let response = ApiError::Full.into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn an_image_among_several_is_named() {
        let error = ApiError::Malformed("damaged".into());
        assert_eq!(error.clone().of_image(0, 1), error);
        assert_eq!(error.of_image(2, 3).to_string(), "image 2: damaged");
    }
}
