//! Whether the server lives and takes requests, what it is, and its numbers.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{ApiError, ErrorBody};

/// The state of the server.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// `ok`, `ready`, or `Healthy` for TorchServe's clients.
    status: &'static str,
}

/// Whether the server lives.
#[utoipa::path(get, path = "/health", tag = "server", responses((status = 200, body = Status)))]
pub async fn health() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// The same in TorchServe's form.
#[utoipa::path(get, path = "/ping", tag = "server", responses((status = 200, body = Status)))]
pub async fn ping() -> Json<Status> {
    Json(Status { status: "Healthy" })
}

/// Whether the server takes requests.
#[utoipa::path(get, path = "/ready", tag = "server", responses(
    (status = 200, body = Status),
    (status = 503, description = "the server ends", body = ErrorBody),
))]
pub async fn ready(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    match app.is_ready() {
        true => Ok(Json(Status { status: "ready" })),
        false => Err(ApiError::NotReady),
    }
}

/// Numbers for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "server", responses(
    (status = 200, description = "Prometheus' text form", body = String, content_type = "text/plain"),
))]
pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.telemetry.render(&app.models, app.is_ready()))
}

/// The server, its models and its limits.
#[derive(Debug, Serialize, ToSchema)]
pub struct Info {
    /// `vitrum`.
    name: &'static str,
    /// Its version.
    version: &'static str,
    /// The default model, as in TEI.
    model_id: String,
    /// All models, the default first.
    models: Vec<String>,
    /// Images of a pass.
    max_batch_size: usize,
    /// Images of a request.
    max_client_batch_size: usize,
    /// Images that wait for a model.
    max_queue: usize,
    /// Bytes of a request's body.
    payload_limit: usize,
    /// Most pixels of an image.
    max_image_pixels: u64,
    /// Longest side of an image.
    max_image_side: u32,
    /// Milliseconds until a pass must begin.
    queue_timeout_ms: u64,
}

/// What the server is, and what it allows.
#[utoipa::path(get, path = "/info", tag = "server", security(("key" = []), ()), responses((status = 200, body = Info)))]
pub async fn info(State(app): State<App>) -> Json<Info> {
    let (config, models) = (&app.config, app.models.names());
    Json(Info {
        name: "vitrum",
        version: env!("CARGO_PKG_VERSION"),
        model_id: models.first().cloned().unwrap_or_default(),
        models,
        max_batch_size: config.max_batch,
        max_client_batch_size: config.max_images(),
        max_queue: config.max_queue,
        payload_limit: config.payload_limit,
        max_image_pixels: config.decode.limits.max_pixels,
        max_image_side: config.decode.limits.max_side,
        queue_timeout_ms: u64::try_from(config.queue_timeout.as_millis()).unwrap_or(u64::MAX),
    })
}
