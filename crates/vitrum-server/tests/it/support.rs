//! A server on the built-in model, pictures, and requests without a socket.

use std::sync::OnceLock;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use image::ImageEncoder;
use image::codecs::png::PngEncoder;
use serde_json::Value;
use tower::ServiceExt;
use vitrum::data::RgbImage;
use vitrum::data::demo::DemoSet;
use vitrum::tasks::Classifier;
use vitrum_server::{App, ModelSpec, ServerConfig, router};

/// The built-in model under two names.
pub fn specs() -> Vec<ModelSpec> {
    ["demo", "second"].map(|name| ModelSpec::of_source(name, "demo").unwrap()).to_vec()
}

/// A server with these settings and the model `demo` alone.
pub fn app(config: ServerConfig) -> App {
    config.check().unwrap();
    App::new(config, specs()[..1].to_vec()).unwrap()
}

/// A server with the usual settings and two models, the same for all tests that change nothing.
pub fn usual() -> Router {
    static APP: OnceLock<App> = OnceLock::new();
    router(APP.get_or_init(|| App::new(ServerConfig::default(), specs()).unwrap()))
}

/// Does the work on a thread with a large stack, which builds without optimisation need.
pub fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, work);
        thread.unwrap().join().unwrap()
    })
}

/// What the library says, to compare with.
pub fn library<T: Send>(ask: impl FnOnce(&Classifier) -> T + Send) -> T {
    static MODEL: OnceLock<Classifier> = OnceLock::new();
    with_room(|| ask(MODEL.get_or_init(|| Classifier::load("demo").unwrap().pack())))
}

/// The library's vector of a drawn picture.
pub fn embedding(index: usize) -> Vec<f64> {
    let vectors = library(|model| model.embed(&[picture(index)]).unwrap());
    vectors[0].iter().map(|value| f64::from(*value)).collect()
}

/// A drawn picture.
pub fn picture(index: usize) -> RgbImage {
    DemoSet::new(32, 1, 7).image(index)
}

/// A picture as the bytes of a PNG.
pub fn png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let kind = image::ExtendedColorType::Rgb8;
    PngEncoder::new(&mut bytes).write_image(image.data(), image.width(), image.height(), kind).unwrap();
    bytes
}

/// A drawn picture in base64.
pub fn base64(index: usize) -> String {
    STANDARD.encode(png(&picture(index)))
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Its JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// Its JSON, if all went well.
    pub fn good(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        self.json()
    }

    /// The text of an error.
    pub fn error(&self) -> String {
        let json = self.json();
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
        json["error"].as_str().unwrap().to_string()
    }
}

pub async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
}

pub async fn get(router: &Router, path: &str) -> Answer {
    send(router, Request::get(path).body(Body::empty()).unwrap()).await
}

/// A request with a body of this kind.
pub fn request(path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(Method::POST).uri(path).header(header::CONTENT_TYPE, kind);
    request.body(body.into()).unwrap()
}

pub async fn post(router: &Router, path: &str, kind: &str, body: impl Into<Body>) -> Answer {
    send(router, request(path, kind, body)).await
}

pub async fn post_json(router: &Router, path: &str, body: Value) -> Answer {
    post(router, path, "application/json", body.to_string()).await
}

/// Sends a drawn picture as it is.
pub async fn post_picture(router: &Router, path: &str, index: usize) -> Answer {
    post(router, path, "image/png", png(&picture(index))).await
}

/// A form with these files.
pub fn form(files: &[Vec<u8>]) -> (String, Vec<u8>) {
    let boundary = "a-boundary-of-parts";
    let mut body = Vec::new();
    for file in files {
        body.extend(format!("--{boundary}\r\n").bytes());
        body.extend(b"content-disposition: form-data; name=\"data\"; filename=\"a.png\"\r\n");
        body.extend(b"content-type: image/png\r\n\r\n");
        body.extend(file);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{boundary}--\r\n").bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

/// Numbers of a JSON list.
pub fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"))
        .iter()
        .map(|n| n.as_f64().unwrap())
        .collect()
}

/// Whether two lists of numbers differ by at most `tolerance`.
#[track_caller]
pub fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "number {at}: {found}, expected {expected}");
    }
}
