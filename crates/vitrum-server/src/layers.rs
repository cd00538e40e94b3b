//! What every request passes: the key, numbers for Prometheus, errors as JSON, the log.

use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use tower_http::cors::{Any, CorsLayer};
use tracing::Span;
use utoipa::Modify;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::app::App;
use crate::error::{ApiError, body};

/// Lets requests with the server's key pass, or all if there is none.
///
/// # Errors
/// [`ApiError::Unauthorized`].
pub async fn authorize(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    let Some(key) = &app.config.api_key else { return Ok(next.run(request).await) };
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(bearer);
    // The comparison takes the same time wherever the keys differ.
    match given.is_some_and(|given| given.ct_eq(key.0.as_bytes()).into()) {
        true => Ok(next.run(request).await),
        false => Err(ApiError::Unauthorized),
    }
}

/// The key of `Bearer KEY`. The scheme's case does not matter.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = header.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

/// Tells the description of the interface about the key.
pub struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(bearer));
    }
}

/// Counts requests and measures their time, by route.
pub async fn measure(State(app): State<App>, request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    // Any word can be a method; a label for each would never end.
    let method = match method {
        Method::GET | Method::POST | Method::HEAD | Method::OPTIONS => method.as_str(),
        _ => "other",
    };
    app.telemetry.request(route, method, response.status().as_u16(), begin.elapsed());
    response
}

/// Bytes of an error's text that are kept.
const MOST_TEXT: usize = 4096;

/// Gives errors of the libraries the form of ours.
pub async fn json_errors(response: Response) -> Response {
    let status = response.status();
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, text) = response.into_parts();
    let text = to_bytes(text, MOST_TEXT).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let reason = status.canonical_reason().unwrap_or("error").to_lowercase();
    let (json, body) =
        body(if text.trim().is_empty() { &reason } else { text.trim() }).into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(json.headers);
    Response::from_parts(parts, Body::new(body))
}

/// Which pages of other origins may ask this server.
pub fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let inference = HeaderName::from_static("inference-header-content-length");
    let id = HeaderName::from_static("x-request-id");
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::ACCEPT,
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            inference.clone(),
            id.clone(),
        ])
        .expose_headers([inference, id, header::RETRY_AFTER]);
    match origins.iter().any(|origin| origin == "*") {
        true => layer.allow_origin(Any),
        // The settings were checked: each of them is the value of a header.
        false => layer.allow_origin(
            origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect::<Vec<_>>(),
        ),
    }
}

/// The span of a request, with its id.
pub fn span(request: &axum::http::Request<Body>) -> Span {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    tracing::info_span!("request", method = %request.method(), path = request.uri().path(), id)
}

/// Tells the log of an answer.
pub fn told(response: &axum::http::Response<Body>, took: Duration, _span: &Span) {
    let ms = took.as_secs_f64() * 1000.0;
    tracing::info!(status = response.status().as_u16(), ms, "answered");
}
