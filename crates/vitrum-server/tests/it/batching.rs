//! Many requests at a time: none is swapped, lost or late without a word.

use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vitrum_server::{App, ServerConfig, router};

use crate::support::*;

const LONG: Duration = Duration::from_secs(600);

/// Waits until so many images are in the queue.
async fn until_waiting(app: &App, images: usize) {
    for _ in 0..4000 {
        if app.models.get(None).unwrap().waiting() == images {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{images} images never waited");
}

fn probabilities(result: &Value) -> Vec<f64> {
    let mut all = [0.0; 10];
    for prediction in result["predictions"].as_array().unwrap() {
        all[prediction["index"].as_u64().unwrap() as usize] = prediction["prob"].as_f64().unwrap();
    }
    all.to_vec()
}

/// Asks about pictures at once, each in a request of its own.
async fn ask_all(router: &Router, count: usize) -> Vec<Vec<f64>> {
    let mut tasks = JoinSet::new();
    for index in 0..count {
        let router = router.clone();
        tasks.spawn(async move {
            let answer = post_picture(&router, "/predict?top_k=10", index).await.good();
            (index, probabilities(&answer["results"][0]))
        });
    }
    let mut answers = vec![Vec::new(); count];
    while let Some(answer) = tasks.join_next().await {
        let (index, found) = answer.unwrap();
        answers[index] = found;
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_requests_are_never_swapped() {
    let config =
        ServerConfig { workers: 2, max_batch_delay: Duration::from_millis(20), ..ServerConfig::default() };
    let config = ServerConfig { queue_timeout: LONG, ..config };
    let app = app(config);
    let answers = ask_all(&router(&app), 200).await;
    let pictures: Vec<_> = (0..200).map(picture).collect();
    let expected = library(|model| model.scores(&pictures).unwrap());
    for (found, expected) in answers.iter().zip(&expected) {
        assert_near(found, expected, 1e-5);
    }
    let text = get(&router(&app), "/metrics").await.body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("vitrum_images_total{model=\"demo\"} 200"));
    let alone = "vitrum_batch_images_bucket{model=\"demo\",le=\"1\"} 200";
    assert!(!text.contains(alone), "no request shared a pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_equals_single_answers() {
    let texts: Vec<String> = (0..32).map(base64).collect();
    let batch = post_json(&usual(), "/predict?top_k=10", json!({ "inputs": texts })).await.good();
    for index in 0..32 {
        let single = post_picture(&usual(), "/predict?top_k=10", index).await.good();
        assert_near(&probabilities(&batch["results"][index]), &probabilities(&single["results"][0]), 1e-5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429() {
    // Two images wait for a third one; two more do not fit.
    let config = ServerConfig {
        max_batch: 3,
        max_queue: 3,
        max_batch_delay: LONG,
        queue_timeout: LONG,
        ..ServerConfig::default()
    };
    let app = app(config);
    let router = router(&app);
    let two = json!({ "inputs": [base64(0), base64(1)] });
    let first = tokio::spawn({
        let (router, two) = (router.clone(), two.clone());
        async move { post_json(&router, "/predict", two).await }
    });
    until_waiting(&app, 2).await;
    let refused = post_json(&router, "/predict", two).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    refused.error();
    post_picture(&router, "/predict", 2).await.good();
    assert_eq!(first.await.unwrap().good()["results"].as_array().unwrap().len(), 2);
}

/// The wait for decoding is bounded, too: requests beyond it are refused at once, the others are answered.
#[tokio::test]
async fn too_many_images_to_decode_are_429() {
    let router = router(&app(ServerConfig { max_queue: 2, queue_timeout: LONG, ..ServerConfig::default() }));
    let ask = |index| post_picture(&router, "/predict", index);
    // One thread asks in this order: the first two wait for the decoder when the third comes.
    let (first, second, third, fourth) = tokio::join!(ask(0), ask(1), ask(2), ask(3));
    assert_eq!([&first, &second, &third, &fourth].map(|answer| answer.status.as_u16()), [200, 200, 429, 429]);
    assert_eq!(third.headers[header::RETRY_AFTER], "1");
    post_picture(&router, "/predict", 0).await.good();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passed_deadline_is_504() {
    let config = ServerConfig {
        max_batch_delay: LONG,
        queue_timeout: Duration::from_millis(300),
        ..ServerConfig::default()
    };
    let app = app(config);
    let answer = post_picture(&router(&app), "/predict", 1).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    answer.error();
    until_waiting(&app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_not_computed() {
    let config =
        ServerConfig { max_batch: 2, max_batch_delay: LONG, queue_timeout: LONG, ..ServerConfig::default() };
    let app = app(config);
    let router = router(&app);
    let leaver = tokio::spawn({
        let router = router.clone();
        async move { post_picture(&router, "/predict", 1).await }
    });
    until_waiting(&app, 1).await;
    leaver.abort();
    let _ = leaver.await;
    // The place is free: this pair is a whole batch, and the one who left is not in it.
    let pair = json!({ "inputs": [base64(2), base64(3)] });
    post_json(&router, "/predict", pair).await.good();
    let text = String::from_utf8(get(&router, "/metrics").await.body.to_vec()).unwrap();
    assert!(text.contains("vitrum_images_total{model=\"demo\"} 2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_answers_what_was_accepted() {
    let config = ServerConfig { max_batch_delay: LONG, queue_timeout: LONG, ..ServerConfig::default() };
    let app = app(config);
    let router = router(&app);
    let mut tasks = JoinSet::new();
    for index in 0..5 {
        let router = router.clone();
        tasks.spawn(async move { post_picture(&router, "/predict", index).await });
    }
    until_waiting(&app, 5).await;
    let models = app.clone();
    tokio::task::spawn_blocking(move || models.models.drain()).await.unwrap();
    for answer in tasks.join_all().await {
        answer.good();
    }
    assert_eq!(post_picture(&router, "/predict", 0).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reload_under_load_loses_nothing() {
    let app = app(ServerConfig { queue_timeout: LONG, ..ServerConfig::default() });
    let router = router(&app);
    let mut tasks = JoinSet::new();
    for start in 0..4 {
        let router = router.clone();
        tasks.spawn(async move {
            for index in 0..25 {
                post_picture(&router, "/predict", 25 * start + index).await.good();
            }
        });
    }
    let before = app.models.get(None).unwrap();
    for name in [None, Some("demo")] {
        let models = app.clone();
        tokio::task::spawn_blocking(move || models.models.reload(name)).await.unwrap().unwrap();
    }
    assert!(!std::sync::Arc::ptr_eq(&before, &app.models.get(None).unwrap()));
    tasks.join_all().await;
    assert!(app.models.reload(Some("none")).is_err());
}

#[test]
fn a_failed_reload_keeps_the_model() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use vitrum::prelude::{Device, LoadOptions, load};
    use vitrum_server::ModelSpec;

    static FAILS: AtomicBool = AtomicBool::new(false);
    let loader = || match FAILS.load(Ordering::Relaxed) {
        true => Err("the file is damaged".into()),
        false => Ok(load(&LoadOptions::new("demo"), &Device::flex())?),
    };
    let spec = ModelSpec::new("demo", loader).unwrap();
    let app = App::new(ServerConfig::default(), vec![spec]).unwrap();
    let before = app.models.get(None).unwrap();
    FAILS.store(true, Ordering::Relaxed);
    let error = app.models.reload(None).unwrap_err();
    assert_eq!(error.to_string(), "demo: the file is damaged");
    assert!(std::sync::Arc::ptr_eq(&before, &app.models.get(None).unwrap()));
}

#[test]
fn faulty_settings_are_refused() {
    use vitrum_server::{ApiKey, ModelSpec};

    let faulty = [
        ServerConfig { max_batch: 0, ..ServerConfig::default() },
        ServerConfig { workers: 0, ..ServerConfig::default() },
        ServerConfig { threads: 5000, ..ServerConfig::default() },
        ServerConfig { api_key: Some(ApiKey(String::new())), ..ServerConfig::default() },
        ServerConfig { cors_origins: vec!["a\nb".into()], ..ServerConfig::default() },
    ];
    for config in faulty {
        assert!(config.check().is_err(), "{config:?}");
    }
    for name in ["", "a/b", "a b", "ä"] {
        assert!(ModelSpec::of_source(name, "demo").is_err(), "{name}");
    }
    let twice = vec![specs().remove(0), specs().remove(0)];
    assert!(App::new(ServerConfig::default(), twice).is_err());
    assert!(App::new(ServerConfig::default(), Vec::new()).is_err());
}
