//! `/v1/models`, state, numbers, the page and the description of the interface.

use axum::http::{StatusCode, header};
use serde_json::json;
use vitrum_server::{ServerConfig, router};

use crate::support::*;

#[tokio::test]
async fn the_models_and_what_they_can() {
    let models = get(&usual(), "/v1/models").await.good();
    let models = models["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    let first = &models[0];
    assert_eq!(first["name"], "demo");
    assert_eq!(first["family"], library(|model| model.model().family()));
    assert_eq!(first["input"], json!([3, 32, 32]));
    assert_eq!(first["num_classes"], 10);
    assert_eq!(first["can"], json!(["predict", "embed", "explain"]));
    assert_eq!((&first["default"], &first["has_attention"]), (&json!(true), &json!(true)));
    assert!(first["params"].as_u64().unwrap() > 1000);
    assert_eq!(models[1]["default"], false);
}

#[tokio::test]
async fn state_and_limits() {
    assert_eq!(get(&usual(), "/health").await.good(), json!({ "status": "ok" }));
    assert_eq!(get(&usual(), "/ping").await.good(), json!({ "status": "Healthy" }));
    assert_eq!(get(&usual(), "/ready").await.good(), json!({ "status": "ready" }));
    let info = get(&usual(), "/info").await.good();
    assert_eq!((info["model_id"].as_str(), info["max_client_batch_size"].as_u64()), (Some("demo"), Some(32)));
}

#[tokio::test]
async fn a_draining_server_is_not_ready() {
    let app = app(ServerConfig::default());
    let router = router(&app);
    app.begin_draining();
    for path in ["/ready", "/v2/health/ready", "/v2/models/demo/ready"] {
        assert_eq!(get(&router, path).await.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    assert_eq!(get(&router, "/health").await.status, StatusCode::OK);
    // What was accepted is still answered, until the queues are closed.
    assert_eq!(post_picture(&router, "/predict", 1).await.status, StatusCode::OK);
    app.models.drain();
    let answer = post_picture(&router, "/predict", 1).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn numbers_for_prometheus() {
    let router = router(&app(ServerConfig::default()));
    post_picture(&router, "/predict", 1).await.good();
    get(&router, "/nowhere").await;
    let answer = get(&router, "/metrics").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for line in [
        "vitrum_requests_total{route=\"/predict\",method=\"POST\",status=\"200\"} 1",
        "vitrum_requests_total{route=\"other\",method=\"GET\",status=\"404\"} 1",
        "vitrum_images_total{model=\"demo\"} 1",
        "vitrum_batch_images_bucket{model=\"demo\",le=\"1\"} 1",
        "vitrum_queue_images{model=\"demo\"} 0",
        "vitrum_ready 1",
        "# TYPE vitrum_compute_duration_seconds histogram",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn the_page_and_its_policy() {
    let files = [("/", "text/html"), ("/page/app.js", "text/javascript"), ("/page/style.css", "text/css")];
    for (path, kind) in files {
        let answer = get(&usual(), path).await;
        assert_eq!(answer.status, StatusCode::OK);
        let found = |name| answer.headers[name].to_str().unwrap().to_string();
        assert!(found(header::CONTENT_TYPE).starts_with(kind));
        assert!(found(header::CONTENT_SECURITY_POLICY).starts_with("default-src 'none'; script-src 'self'"));
        assert_eq!(found(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
    }
}

/// The page has every script that another one imports.
#[tokio::test]
async fn the_scripts_of_the_page() {
    let (mut found, mut next) = (Vec::<String>::new(), vec!["app.js".to_string()]);
    while let Some(name) = next.pop() {
        let answer = get(&usual(), &format!("/page/{name}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{name}");
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let imports = text.split("from \"./").skip(1).filter_map(|rest| rest.split_once('"'));
        found.push(name);
        next.extend(imports.map(|(name, _)| name.to_string()));
        next.retain(|name| !found.contains(name));
    }
    assert!(found.len() > 10, "{found:?}");
    assert_eq!(get(&usual(), "/page/nothing.js").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_interface_is_described() {
    let document = get(&usual(), "/api-doc/openapi.json").await.good();
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/health",
        "/ping",
        "/ready",
        "/info",
        "/metrics",
        "/v1/models",
        "/predict",
        "/v1/embeddings",
        "/embed",
        "/explain",
        "/reconstruct",
        "/predictions/{model}",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model}",
        "/v2/models/{model}/ready",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}",
        "/v2/models/{model}/versions/{version}/ready",
        "/v2/models/{model}/versions/{version}/infer",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    let page = get(&usual(), "/docs/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.headers.contains_key(header::CONTENT_SECURITY_POLICY));
    assert!(String::from_utf8_lossy(&page.body).contains("swagger-ui"));
    for file in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        assert_eq!(get(&usual(), &format!("/docs/{file}")).await.status, StatusCode::OK, "{file}");
    }
}
