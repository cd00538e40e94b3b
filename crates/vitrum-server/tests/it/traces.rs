//! Traces of requests, as a collector gets them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::routing::post;
use tokio::net::TcpListener;
use vitrum_server::{App, ServerConfig, router};

use crate::support::*;

type Messages = Arc<Mutex<Vec<u8>>>;

/// A collector that keeps all messages.
async fn collector() -> (SocketAddr, Messages) {
    async fn take(State(messages): State<Messages>, body: Bytes) -> StatusCode {
        messages.lock().unwrap().extend(body);
        StatusCode::OK
    }
    let messages = Messages::default();
    let router = Router::new().route("/v1/traces", post(take)).with_state(messages.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    (address, messages)
}

fn traced(collector: SocketAddr) -> App {
    app(ServerConfig { otlp_endpoint: Some(format!("http://{collector}")), ..ServerConfig::default() })
}

/// A field of protobuf that has a length.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
}

/// An attribute: the key in field 1, the value in field 2.
fn attribute(key: &str, value: &[u8]) -> Vec<u8> {
    [field(0x0a, key.as_bytes()), field(0x12, value)].concat()
}

/// A text is field 1 of a value.
fn text(key: &str, value: &str) -> Vec<u8> {
    attribute(key, &field(0x0a, value.as_bytes()))
}

/// A number is field 3 of a value, a varint.
fn number(key: &str, value: u16) -> Vec<u8> {
    let low = (value & 0x7f) as u8;
    attribute(key, &if value < 128 { vec![0x18, low] } else { vec![0x18, low | 0x80, (value >> 7) as u8] })
}

fn place(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// A float is field 4 of a value, eight bytes.
fn float(bytes: &[u8], key: &str) -> f64 {
    let head = [field(0x0a, key.as_bytes()), vec![0x12, 9, 0x21]].concat();
    let at = place(bytes, &head).unwrap_or_else(|| panic!("no {key}")) + head.len();
    f64::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_of_the_clients_trace() {
    let (address, messages) = collector().await;
    let app = traced(address);
    let router = router(&app);
    let request = Request::post("/predict?top_k=2").header(header::CONTENT_TYPE, "image/png");
    let request = request
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("x-request-id", "seven")
        .body(png(&picture(1)).into());
    send(&router, request.unwrap()).await.good();
    assert_eq!(get(&router, "/nowhere").await.status, StatusCode::NOT_FOUND);
    app.end_traces().await;
    let bytes = messages.lock().unwrap().clone();
    let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128;
    let parts = [
        field(0x0a, &trace.to_be_bytes()),
        field(0x22, &0xb7ad_6b71_6920_3331_u64.to_be_bytes()),
        field(0x2a, b"POST /predict"),
        text("http.request.method", "POST"),
        text("http.route", "/predict"),
        text("url.path", "/predict"),
        text("vitrum.request_id", "seven"),
        text("vitrum.model", "demo"),
        number("vitrum.images", 1),
        number("vitrum.batch_images", 1),
        number("http.response.status_code", 200),
        text("http.route", "other"),
        number("http.response.status_code", 404),
        text("service.name", "vitrum"),
    ];
    for part in parts {
        assert!(place(&bytes, &part).is_some(), "no {:?}", String::from_utf8_lossy(&part));
    }
    assert!(float(&bytes, "vitrum.compute_ms") > 0.0);
    assert!(float(&bytes, "vitrum.decode_ms") > 0.0);
    assert!(float(&bytes, "vitrum.queue_ms") >= 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_wants_no_trace_gets_none() {
    let (address, messages) = collector().await;
    let app = traced(address);
    let request = Request::get("/health")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    send(&router(&app), request.body(axum::body::Body::empty()).unwrap()).await.good();
    app.end_traces().await;
    assert!(messages.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_silent_delays_no_request() {
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // This one takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for collector in [away, silent.local_addr().unwrap()] {
        let app = traced(collector);
        let router = router(&app);
        for index in 0..20 {
            post_picture(&router, "/predict", index).await.good();
        }
        let begin = Instant::now();
        app.end_traces().await;
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    }
}

#[test]
fn what_is_no_address_is_refused() {
    for endpoint in ["", "localhost:4318", "ftp://localhost", "/v1/traces"] {
        let config = ServerConfig { otlp_endpoint: Some(endpoint.into()), ..ServerConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("http://localhost:4318"), "{endpoint}");
    }
}
