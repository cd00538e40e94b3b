//! Every status of a faulty request, and the form of its body.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use serde_json::json;
use vitrum_server::{ApiKey, ServerConfig, router};

use crate::support::*;

#[tokio::test]
async fn what_is_no_image_is_400() {
    let damaged = {
        let mut bytes = png(&picture(1));
        bytes.truncate(60);
        bytes
    };
    for body in [b"not an image".to_vec(), Vec::new(), damaged] {
        let answer = post(&usual(), "/predict", "image/png", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(!answer.error().contains('\n'));
    }
    for body in ["{", "", "{\"inputs\": \"%%%\"}"] {
        let answer = post(&usual(), "/predict", "application/json", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        answer.error();
    }
    let second = post_json(&usual(), "/predict", json!({ "inputs": [base64(1), "aGVsbG8="] })).await;
    assert!(second.error().starts_with("image 1: "), "{}", second.error());
    let empty = post_json(&usual(), "/predict", json!({ "inputs": [] })).await;
    assert_eq!(empty.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn without_the_key_it_is_401() {
    let config = ServerConfig { api_key: Some(ApiKey("open sesame".into())), ..ServerConfig::default() };
    let router = router(&app(config));
    let with = |key: Option<&str>| {
        let request = Request::post("/predict").header(header::CONTENT_TYPE, "image/png");
        let request = match key {
            Some(key) => request.header(header::AUTHORIZATION, key),
            None => request,
        };
        request.body(Body::from(png(&picture(1)))).unwrap()
    };
    for key in [None, Some("Bearer open"), Some("Bearer open sesame!"), Some("Basic open sesame"), Some("")] {
        let answer = send(&router, with(key)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{key:?}");
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
        answer.error();
    }
    for key in ["Bearer open sesame", "bearer open sesame"] {
        send(&router, with(Some(key))).await.good();
    }
    for path in ["/v1/models", "/info", "/v2", "/v2/models/demo"] {
        assert_eq!(get(&router, path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in
        ["/", "/page/app.js", "/page/style.css", "/health", "/ping", "/ready", "/metrics", "/v2/health/live"]
    {
        assert_eq!(get(&router, path).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn unknown_models_and_routes_are_404() {
    for path in ["/predict?model=none", "/embed?model=none", "/predictions/none", "/nowhere"] {
        let answer = post_picture(&usual(), path, 1).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        answer.error();
    }
    assert!(post_picture(&usual(), "/predict?model=none", 1).await.error().contains("demo, second"));
}

#[tokio::test]
async fn another_method_is_405() {
    let answer = get(&usual(), "/predict").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers[header::ALLOW], "POST");
    assert_eq!(answer.error(), "method not allowed");
}

#[tokio::test]
async fn too_much_is_413() {
    let mut config = ServerConfig { payload_limit: 20_000, max_client_batch: 2, ..ServerConfig::default() };
    config.decode.limits.max_pixels = 32 * 32;
    config.decode.limits.max_side = 40;
    let router = router(&app(config));
    let mut large = request("/predict", "image/png", vec![0; 20_001]);
    large.headers_mut().insert(header::CONTENT_LENGTH, 20_001.into());
    let answer = send(&router, large).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    answer.error();
    // Without a length in the head, and in a form.
    let answer = post(&router, "/predict", "image/png", vec![0; 20_001]).await;
    assert_eq!((answer.status, answer.error().contains("larger")), (StatusCode::PAYLOAD_TOO_LARGE, true));
    let (kind, body) = form(&[vec![0; 20_001]]);
    assert_eq!(post(&router, "/predict", &kind, body).await.status, StatusCode::PAYLOAD_TOO_LARGE);

    let square = vitrum::data::demo::DemoSet::new(33, 1, 0).image(0);
    let answer = post(&router, "/predict", "image/png", png(&square)).await;
    assert_eq!(
        (answer.status, answer.error().contains("1024 pixels")),
        (StatusCode::PAYLOAD_TOO_LARGE, true)
    );
    let long = vitrum::data::RgbImage::filled(41, 1, [0; 3]).unwrap();
    assert_eq!(
        post(&router, "/predict", "image/png", png(&long)).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );

    let three = post_json(&router, "/predict", json!({ "inputs": [base64(1), base64(2), base64(3)] })).await;
    assert_eq!(
        (three.status, three.error().contains("limit of a request is 2")),
        (StatusCode::PAYLOAD_TOO_LARGE, true)
    );
}

#[tokio::test]
async fn other_kinds_of_bodies_are_415() {
    for kind in ["text/plain", "application/xml", "video/mp4"] {
        let answer = post(&usual(), "/predict", kind, png(&picture(1))).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
        assert!(answer.error().contains(kind));
    }
}

#[tokio::test]
async fn wrong_parameters_are_422() {
    for path in
        ["/predict?top_k=0", "/predict?top_k=-1", "/predict?top_k=x", "/predict?topk=3", "/embed?normalize=7"]
    {
        let answer = post_picture(&usual(), path, 1).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        answer.error();
    }
    for body in [
        json!({ "inputs": base64(1), "parameters": { "topk": 3 } }),
        json!({ "input": base64(1) }),
        json!({ "inputs": 7 }),
        json!({ "inputs": "https://example.org/cat.jpg" }),
    ] {
        let answer = post_json(&usual(), "/predict", body.clone()).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }
}

#[tokio::test]
async fn pages_of_other_origins() {
    let config = ServerConfig { cors_origins: vec!["https://example.org".into()], ..ServerConfig::default() };
    let router = router(&app(config));
    let ask = |origin: &str| {
        let request =
            Request::builder().method(Method::OPTIONS).uri("/predict").header(header::ORIGIN, origin);
        request.header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST").body(Body::empty()).unwrap()
    };
    let allowed = |answer: &Answer| answer.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).cloned();
    assert_eq!(allowed(&send(&router, ask("https://example.org")).await).unwrap(), "https://example.org");
    assert_eq!(allowed(&send(&router, ask("https://example.com")).await), None);
    assert_eq!(allowed(&send(&usual(), ask("https://example.org")).await), None);
}

#[tokio::test]
async fn a_request_keeps_its_id() {
    let request = Request::get("/health").header("x-request-id", "seven").body(Body::empty()).unwrap();
    assert_eq!(send(&usual(), request).await.headers["x-request-id"], "seven");
    assert_eq!(get(&usual(), "/health").await.headers["x-request-id"].len(), 36);
}
