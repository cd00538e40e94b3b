//! Doors to the parsers of requests, for fuzzing: without a socket, a runtime or a pass of a model.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::routes::{embed, explain, kserve, predict, reconstruct, torchserve};
use crate::served::Served;
use crate::upload::{Params, Upload};

/// A request with its body in memory.
#[derive(Clone, Debug)]
pub struct Sent<'a> {
    /// The part of the address behind `?`.
    pub query: &'a str,
    /// The kind of the body; none without it.
    pub kind: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// The images that a request brings, or why it is refused.
pub type Brought = Result<Vec<Bytes>, ApiError>;

/// A body in memory never makes anyone wait.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a body in memory was waited for"),
    }
}

impl Sent<'_> {
    /// The request; `None` if no client can send this one.
    fn request(&self) -> Option<Request<Body>> {
        let request = Request::post(format!("/?{}", self.query));
        let request = match self.kind {
            Some(kind) => request.header(CONTENT_TYPE, kind),
            None => request,
        };
        request.body(Body::from(Bytes::copy_from_slice(self.body))).ok()
    }

    /// The parameters and the body.
    fn read<P: DeserializeOwned, T>(
        &self,
        read: impl FnOnce(P, Upload) -> Result<T, ApiError>,
    ) -> Option<Result<T, ApiError>> {
        let (mut parts, body) = self.request()?.into_parts();
        Some(at_once(async {
            let Params(params) = Params::<P>::from_request_parts(&mut parts, &()).await?;
            read(params, Upload::from_request(Request::from_parts(parts, body), &()).await?)
        }))
    }

    /// The body alone.
    fn upload(&self) -> Option<Result<Upload, ApiError>> {
        Some(at_once(Upload::from_request(self.request()?, &())))
    }

    /// As `/predict` reads it.
    pub fn predict(&self) -> Option<Brought> {
        self.read(|params, upload| Ok(predict::read(params, upload)?.1))
    }

    /// As `/explain` reads it.
    pub fn explain(&self) -> Option<Brought> {
        self.read(|params, upload| Ok(vec![explain::asked(params, upload)?.2]))
    }

    /// As `/embed` reads it.
    pub fn embed(&self) -> Option<Brought> {
        self.read(|params, upload| Ok(embed::read(params, upload)?.1))
    }

    /// As `/reconstruct` reads it.
    pub fn reconstruct(&self) -> Option<Brought> {
        self.read(|params, upload| Ok(vec![reconstruct::read(params, upload)?.1]))
    }

    /// As `/v1/embeddings` reads it.
    pub fn embeddings(&self) -> Option<Brought> {
        Some(self.upload()?.and_then(|upload| Ok(embed::read_openai(upload)?.0)))
    }

    /// As `/predictions/{model}` reads it.
    pub fn torchserve(&self) -> Option<Brought> {
        Some(self.upload()?.and_then(torchserve::read))
    }

    /// As KServe's protocol reads it. The kind is the header with the length of the document.
    pub fn infer(&self, served: &Served) -> Option<Result<usize, ApiError>> {
        let mut headers = HeaderMap::new();
        if let Some(length) = self.kind {
            let name = HeaderName::from_static(kserve::JSON_LENGTH);
            headers.insert(name, HeaderValue::from_str(length).ok()?);
        }
        let body = Bytes::copy_from_slice(self.body);
        Some(kserve::read(&headers, &body, served).map(|(_, _, input)| input.images()))
    }
}
