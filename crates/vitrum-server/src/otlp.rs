//! Traces of requests for a collector of OpenTelemetry: a span per request, sent over HTTP as protobuf.
//!
//! Spans wait in a bounded queue and are sent by a thread of their own. A collector that cannot be reached loses spans; it
//! never delays or fails a request, and the log tells once when it cannot be reached, and once when it can again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{FutureExt, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::app::{App, Timing};

/// For a message to the collector.
const SENDING: Duration = Duration::from_secs(10);

/// For the connection to the collector.
const CONNECTING: Duration = Duration::from_secs(3);

/// For what waits when the server ends.
const LAST_MESSAGES: Duration = Duration::from_secs(5);

/// Sends the spans of a server.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Begins. `endpoint` is the collector's address, such as `http://localhost:4318`. The environment variables of
    /// OpenTelemetry say the rest, such as `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and `OTEL_EXPORTER_OTLP_HEADERS`.
    ///
    /// # Errors
    /// An address or a variable that says nothing.
    pub fn start(endpoint: &str) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new(endpoint))
            .with_endpoint(address(endpoint))
            .build()?;
        let service =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let service = match std::env::var_os("OTEL_SERVICE_NAME") {
            Some(_) => service,
            None => service.with_service_name("vitrum"),
        };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(service.build()).build();
        let tracer = provider.tracer("vitrum-server");
        Ok(Self { provider, tracer })
    }

    /// Begins, or tells the log why not: a server answers without traces, too.
    pub fn start_or_tell(endpoint: &str) -> Option<Self> {
        Self::start(endpoint).inspect_err(|error| tracing::error!("no traces are sent: {error}")).ok()
    }

    /// Sends what waits, within a few seconds. For a thread that may wait.
    pub fn end(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_MESSAGES) {
            tracing::debug!("the last traces were not sent: {error}");
        }
    }

    /// The context of a request: its span, as the child of the client's if there is one.
    fn begin(&self, route: &str, request: &Request) -> Context {
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
        let method = request.method().to_string();
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.clone()),
            KeyValue::new("http.route", route.to_string()),
            KeyValue::new("url.path", request.uri().path().to_string()),
        ];
        attributes.extend(id(request.headers()).map(|id| KeyValue::new("vitrum.request_id", id)));
        let span = self.tracer.span_builder(format!("{method} {route}"));
        let span = span.with_kind(SpanKind::Server).with_attributes(attributes);
        parent.with_span(span.start_with_context(&self.tracer, &parent))
    }
}

/// Where spans go, as OpenTelemetry says it: below the collector's address.
fn address(endpoint: &str) -> String {
    match endpoint.ends_with("/v1/traces") {
        true => endpoint.to_string(),
        false => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
    }
}

fn id(headers: &HeaderMap) -> Option<String> {
    headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_string)
}

/// Gives a request its span. The span ends with the answer.
pub async fn traced(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(traces) = &app.traces else { return next.run(request).await };
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_string();
    let context = traces.begin(&route, &request);
    let response = next.run(request).with_context(context.clone()).await;
    let status = response.status();
    let span = context.span();
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    if status.is_server_error() {
        span.set_status(Status::error(status.canonical_reason().unwrap_or_default()));
    }
    span.end();
    response
}

/// Tells the span of the current request what the model did for it.
pub fn answered(model: &str, images: usize, batch: usize, timing: Timing) {
    let Timing { decode, queue, compute } = timing;
    Context::map_current(|context| {
        context.span().set_attributes([
            KeyValue::new("vitrum.model", model.to_string()),
            KeyValue::new("vitrum.images", images as i64),
            KeyValue::new("vitrum.batch_images", batch as i64),
            KeyValue::new("vitrum.decode_ms", decode),
            KeyValue::new("vitrum.queue_ms", queue),
            KeyValue::new("vitrum.compute_ms", compute),
        ]);
    });
}

/// Whether the collector can be reached, as far as the log was told.
#[derive(Debug, Default)]
struct Reach {
    is_lost: AtomicBool,
}

impl Reach {
    /// Whether this failure is news.
    fn is_news(&self, is_lost: bool) -> bool {
        self.is_lost.swap(is_lost, Ordering::Relaxed) != is_lost
    }
}

/// Sends messages to the collector. It blocks, which is right for the thread that sends.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    endpoint: String,
    reach: Reach,
}

impl Client {
    fn new(endpoint: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(SENDING))
            .timeout_connect(Some(CONNECTING))
            .http_status_as_error(false)
            .build();
        Self { agent: config.new_agent(), endpoint: endpoint.to_string(), reach: Reach::default() }
    }

    fn send(
        &self,
        request: axum::http::Request<Vec<u8>>,
    ) -> Result<axum::http::Response<Bytes>, ureq::Error> {
        let (parts, mut body) = self.agent.run(request)?.into_parts();
        Ok(axum::http::Response::from_parts(parts, body.read_to_vec()?.into()))
    }

    fn tell(&self, failure: Option<String>) {
        match failure {
            Some(why) if self.reach.is_news(true) => {
                tracing::warn!("traces are lost: {} cannot take them: {why}", self.endpoint);
            }
            None if self.reach.is_news(false) => {
                tracing::warn!("{} takes traces again", self.endpoint);
            }
            _ => {}
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(
        &self,
        request: axum::http::Request<Bytes>,
    ) -> Result<axum::http::Response<Bytes>, HttpError> {
        let answer = self.send(request.map(|body| body.to_vec()));
        self.tell(match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        });
        Ok(answer?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_go_below_the_address() {
        for endpoint in ["http://localhost:4318", "http://localhost:4318/", "http://localhost:4318/v1/traces"]
        {
            assert_eq!(address(endpoint), "http://localhost:4318/v1/traces");
        }
    }

    #[test]
    fn an_outage_is_told_once() {
        let reach = Reach::default();
        let told = [false, true, true, true, false, false, true].map(|is_lost| reach.is_news(is_lost));
        assert_eq!(told, [false, true, false, false, true, false, true]);
    }
}
