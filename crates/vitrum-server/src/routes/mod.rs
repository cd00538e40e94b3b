//! The routes, a file for each group.

pub mod embed;
pub mod explain;
mod health;
pub mod kserve;
mod models;
mod page;
mod picture;
pub mod predict;
pub mod reconstruct;
pub mod torchserve;

use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::RequestBodyDeadlineLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::app::App;
use crate::error::ApiError;
use crate::layers::{self, Bearer};

/// The head of the description of the interface.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "vitrum",
        description = "Predictions, embeddings, explanations and reconstructions of vision models. Bodies: the bytes of an image, multipart/form-data with several, or JSON with base64."
    ),
    modifiers(&Bearer),
)]
struct Document;

/// Where the description lies.
const DOCUMENT: &str = "/api-doc/openapi.json";

/// The server as a service, without a socket.
pub fn router(app: &App) -> Router {
    let open = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::health))
        .routes(routes!(health::ping))
        .routes(routes!(health::ready))
        .routes(routes!(kserve::live))
        .routes(routes!(kserve::ready));
    let open = match app.config.metrics_address {
        None => open.routes(routes!(health::metrics)),
        Some(_) => open,
    };
    let closed = OpenApiRouter::new()
        .routes(routes!(health::info))
        .routes(routes!(models::list))
        .routes(routes!(predict::predict))
        .routes(routes!(embed::embeddings))
        .routes(routes!(embed::embed))
        .routes(routes!(explain::explain))
        .routes(routes!(reconstruct::reconstruct))
        .routes(routes!(torchserve::predictions))
        .routes(routes!(kserve::server))
        .routes(routes!(kserve::model))
        .routes(routes!(kserve::model_version))
        .routes(routes!(kserve::model_ready))
        .routes(routes!(kserve::model_version_ready))
        .routes(routes!(kserve::infer))
        .routes(routes!(kserve::infer_version))
        .route_layer(from_fn_with_state(app.clone(), layers::authorize));
    let (router, document) = open.merge(closed).split_for_parts();
    let docs = Router::from(SwaggerUi::new("/docs").url(DOCUMENT, document));
    let docs = docs.layer(SetResponseHeaderLayer::if_not_present(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(page::DOCS_POLICY),
    ));
    let router = router
        .route("/", get(page::index))
        .route("/page/{file}", get(page::file))
        .with_state(app.clone())
        .merge(docs)
        .fallback(unknown);
    layered(router, app)
}

/// The numbers for Prometheus and whether the server lives, for an address of their own.
pub fn metrics_router(app: &App) -> Router {
    Router::new()
        .route("/metrics", get(health::metrics))
        .route("/health", get(health::health))
        .with_state(app.clone())
        .fallback(unknown)
}

async fn unknown(uri: Uri) -> ApiError {
    ApiError::UnknownRoute(uri.path().to_string())
}

/// The layers around all routes, the innermost first.
fn layered(router: Router, app: &App) -> Router {
    let config = &app.config;
    let id = HeaderName::from_static("x-request-id");
    let nosniff = HeaderValue::from_static("nosniff");
    let router = router
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(RequestBodyLimitLayer::new(config.payload_limit))
        .layer(RequestBodyDeadlineLayer::new(config.body_timeout))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| panicked()))
        .layer(middleware::map_response(layers::json_errors))
        .layer(layers::cors(&config.cors_origins))
        .layer(SetResponseHeaderLayer::if_not_present(header::X_CONTENT_TYPE_OPTIONS, nosniff))
        .layer(from_fn_with_state(app.clone(), layers::measure))
        .layer(
            TraceLayer::new_for_http().make_span_with(layers::span).on_response(layers::told).on_failure(()),
        );
    #[cfg(feature = "otlp")]
    let router = router.layer(from_fn_with_state(app.clone(), crate::otlp::traced));
    router
        .layer(PropagateRequestIdLayer::new(id.clone()))
        .layer(SetRequestIdLayer::new(id, MakeRequestUuid))
        .layer(SetSensitiveRequestHeadersLayer::new([header::AUTHORIZATION]))
}

fn panicked() -> Response {
    ApiError::bug("a handler failed").into_response()
}
