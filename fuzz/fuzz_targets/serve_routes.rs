//! Whole requests to every route of a server with the built-in model: a line with method and address, a line with the kind
//! of the body, the body. No socket, but all layers and passes.
#![no_main]

use std::sync::OnceLock;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tower::ServiceExt;
use vitrum_server::{App, ModelSpec, ServerConfig, router};

/// A server with small limits, and what runs it.
fn server() -> &'static (Runtime, Router) {
    static SERVER: OnceLock<(Runtime, Router)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let spec = ModelSpec::of_source("demo", "demo").expect("a plain name");
        let mut config = ServerConfig { payload_limit: 1 << 20, threads: 1, ..ServerConfig::default() };
        config.decode.limits.max_pixels = 1 << 18;
        let app = App::new(config, vec![spec]).expect("the built-in model");
        (Runtime::new().expect("threads"), router(&app))
    })
}

/// The request; `None` if no client can send it.
fn request(input: &[u8]) -> Option<Request<Body>> {
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let (method, address) = std::str::from_utf8(parts.next()?).ok()?.split_once(' ')?;
    let request = Request::builder().method(method).uri(address);
    let request = match parts.next()? {
        b"" => request,
        kind => request.header(CONTENT_TYPE, kind),
    };
    request.body(Body::from(parts.next()?.to_vec())).ok()
}

fuzz_target!(|input: &[u8]| {
    let (runtime, router) = server();
    let Some(request) = request(input) else { return };
    let told = format!("{request:?}");
    let (status, body) = runtime.block_on(async {
        let answer = router.clone().oneshot(request).await.expect("a router never fails");
        let status = answer.status();
        (status, answer.into_body().collect().await.expect("a body in memory").to_bytes())
    });
    assert!(!status.is_server_error(), "{status}: {body:?} for {told}");
});
