//! KServe's protocol, version 2, with Triton's extension for binary tensors.

mod data;
mod request;
mod response;

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::served::Served;
use crate::upload;
use request::{InferRequest, Input, Outputs};
use response::Reply;

/// The version of every model.
const VERSION: &str = "1";

/// The header with the length of the JSON document before binary tensors.
pub const JSON_LENGTH: &str = "inference-header-content-length";

/// An error of this protocol: its clients expect 400 for a faulty request.
#[derive(Debug)]
pub struct InferError(ApiError);

impl<E: Into<ApiError>> From<E> for InferError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for InferError {
    fn into_response(self) -> Response {
        match self.0 {
            ApiError::Parameter(why) | ApiError::Unsupported(why) => ApiError::Malformed(why).into_response(),
            other => other.into_response(),
        }
    }
}

/// The server.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 1],
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelMetadata {
    name: String,
    versions: [&'static str; 1],
    platform: String,
    /// Either of them.
    inputs: Vec<TensorMetadata>,
    outputs: Vec<TensorMetadata>,
}

/// A tensor. -1 is the number of images.
#[derive(Debug, Serialize, ToSchema)]
pub struct TensorMetadata {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
}

/// Whether a model is ready.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    ready: bool,
}

/// Whether the server lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct Live {
    live: bool,
}

/// The server's name and version.
#[utoipa::path(get, path = "/v2", tag = "kserve", security(("key" = []), ()), responses((status = 200, body = ServerMetadata)))]
pub async fn server() -> Json<ServerMetadata> {
    let extensions = ["binary_tensor_data"];
    Json(ServerMetadata { name: "vitrum", version: env!("CARGO_PKG_VERSION"), extensions })
}

/// Whether the server lives.
#[utoipa::path(get, path = "/v2/health/live", tag = "kserve", responses((status = 200, body = Live)))]
pub async fn live() -> Json<Live> {
    Json(Live { live: true })
}

/// Whether the server takes requests.
#[utoipa::path(get, path = "/v2/health/ready", tag = "kserve", responses(
    (status = 200, body = Ready),
    (status = 503, description = "the server ends", body = Ready),
))]
pub async fn ready(State(app): State<App>) -> Response {
    is_ready(&app)
}

fn is_ready(app: &App) -> Response {
    let ready = app.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready })).into_response()
}

/// A model of a version. There is one version of each.
fn find(app: &App, model: &str, version: &str) -> Result<Arc<Served>, InferError> {
    let served = app.models.get(Some(model))?;
    match version == VERSION {
        true => Ok(served),
        false => Err(ApiError::UnknownModel {
            name: format!("{model}, version {version}"),
            known: vec![format!("{model}, version {VERSION}")],
        }
        .into()),
    }
}

fn described(served: &Served) -> Json<ModelMetadata> {
    let [c, h, w] = served.input().map(|side| side as i64);
    let tensor = |name, datatype, shape: &[i64]| TensorMetadata { name, datatype, shape: shape.to_vec() };
    let classes = served.num_classes() as i64;
    let mut outputs = Vec::new();
    if classes > 0 {
        outputs.push(tensor("logits", "FP32", &[-1, classes]));
        if !served.is_regression() {
            outputs.push(tensor("probabilities", "FP32", &[-1, classes]));
        }
    }
    outputs.push(tensor("embedding", "FP32", &[-1, served.width() as i64]));
    Json(ModelMetadata {
        name: served.name().to_string(),
        versions: [VERSION],
        platform: format!("vitrum_{}", served.family()),
        inputs: vec![tensor("image", "BYTES", &[-1]), tensor("pixel_values", "FP32", &[-1, c, h, w])],
        outputs,
    })
}

/// Inputs and outputs of a model. A request brings one of the inputs.
#[utoipa::path(get, path = "/v2/models/{model}", tag = "kserve", security(("key" = []), ()),
    params(("model" = String, Path, description = "The model's name")),
    responses((status = 200, body = ModelMetadata), (status = 404, description = "no such model", body = ErrorBody)))]
pub async fn model(
    State(app): State<App>,
    Path(model): Path<String>,
) -> Result<Json<ModelMetadata>, InferError> {
    Ok(described(&*find(&app, &model, VERSION)?))
}

/// Inputs and outputs of a model of a version.
#[utoipa::path(get, path = "/v2/models/{model}/versions/{version}", tag = "kserve", security(("key" = []), ()),
    params(("model" = String, Path, description = "The model's name"), ("version" = String, Path, description = "1")),
    responses((status = 200, body = ModelMetadata), (status = 404, description = "no such model", body = ErrorBody)))]
pub async fn model_version(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<ModelMetadata>, InferError> {
    Ok(described(&*find(&app, &model, &version)?))
}

/// Whether a model takes requests.
#[utoipa::path(get, path = "/v2/models/{model}/ready", tag = "kserve", security(("key" = []), ()),
    params(("model" = String, Path, description = "The model's name")),
    responses((status = 200, body = Ready), (status = 404, description = "no such model", body = ErrorBody)))]
pub async fn model_ready(State(app): State<App>, Path(model): Path<String>) -> Result<Response, InferError> {
    find(&app, &model, VERSION)?;
    Ok(is_ready(&app))
}

/// Whether a model of a version takes requests.
#[utoipa::path(get, path = "/v2/models/{model}/versions/{version}/ready", tag = "kserve", security(("key" = []), ()),
    params(("model" = String, Path, description = "The model's name"), ("version" = String, Path, description = "1")),
    responses((status = 200, body = Ready), (status = 404, description = "no such model", body = ErrorBody)))]
pub async fn model_version_ready(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Response, InferError> {
    find(&app, &model, &version)?;
    Ok(is_ready(&app))
}

/// Asks a model: `image` or `pixel_values` to `logits`, `probabilities`, `embedding`.
#[utoipa::path(post, path = "/v2/models/{model}/infer", tag = "kserve", security(("key" = []), ()),
    params(("model" = String, Path, description = "The model's name")),
    request_body = InferRequest,
    responses(
        (status = 200, body = response::InferResponse),
        (status = 400, description = "a faulty request", body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody),
    ))]
pub async fn infer(
    State(app): State<App>,
    Path(model): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, InferError> {
    answer(&app, &find(&app, &model, VERSION)?, &headers, request).await
}

/// Asks a model of a version.
#[utoipa::path(post, path = "/v2/models/{model}/versions/{version}/infer", tag = "kserve", security(("key" = []), ()),
    params(("model" = String, Path, description = "The model's name"), ("version" = String, Path, description = "1")),
    request_body = InferRequest,
    responses(
        (status = 200, body = response::InferResponse),
        (status = 400, description = "a faulty request", body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody),
    ))]
pub async fn infer_version(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, InferError> {
    answer(&app, &find(&app, &model, &version)?, &headers, request).await
}

/// The document, the outputs that it wants, and the input.
pub fn read(
    headers: &HeaderMap,
    body: &Bytes,
    served: &Served,
) -> Result<(InferRequest, Outputs, Input), ApiError> {
    let length = match headers.get(JSON_LENGTH) {
        None => body.len(),
        Some(length) => {
            let length = length.to_str().ok().and_then(|length| length.parse::<usize>().ok());
            let fits = length.filter(|length| *length <= body.len());
            fits.ok_or_else(|| ApiError::Malformed(format!("{JSON_LENGTH} is no length within the body")))?
        }
    };
    let mut asked: InferRequest = upload::json(&body[..length])?;
    let outputs = asked.outputs(served)?;
    let input = asked.input(body.slice(length..), served)?;
    Ok((asked, outputs, input))
}

async fn answer(
    app: &App,
    served: &Arc<Served>,
    headers: &HeaderMap,
    request: Request,
) -> Result<Response, InferError> {
    let body = upload::bytes(request, app).await?;
    let (asked, outputs, input) = read(headers, &body, served)?;
    let wants = outputs.wants();
    let deadline = app.deadline();
    app.decoder.check_count(input.images())?;
    let (answer, _) = match input {
        Input::Files(files) => app.ask(served, files, wants).await?,
        Input::Pixels { pixels, images } => {
            let took = std::time::Duration::ZERO;
            let prepared = crate::images::Prepared { pixels, images, took };
            app.compute(served, prepared, wants, deadline).await?
        }
    };
    Ok(Reply { served, id: asked.id, outputs, answer }.into_response()?)
}
