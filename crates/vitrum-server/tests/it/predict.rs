//! `/predict`, `/predictions`: the same answers as the library's.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::*;

/// The answers of `/predict` equal the library's.
fn assert_same(result: &Value, index: usize, k: usize) {
    let expected = library(|model| model.predict(&[picture(index)], k).unwrap().remove(0));
    let found = result["predictions"].as_array().unwrap();
    assert_eq!(found.len(), k);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found["index"], expected.index);
        assert_eq!(found["label"], expected.name());
        assert_near(&[found["prob"].as_f64().unwrap()], &[expected.prob], 1e-5);
    }
}

#[tokio::test]
async fn a_raw_image_gets_the_answers_of_the_library() {
    for (path, k) in
        [("/predict", 5), ("/predict?model=demo&top_k=3", 3), ("/predict?model=second&top_k=10", 10)]
    {
        let answer = post_picture(&usual(), path, 4).await.good();
        assert_same(&answer["results"][0], 4, k);
        for time in ["decode", "queue", "compute"] {
            assert!(answer["timing_ms"][time].as_f64().unwrap() >= 0.0);
        }
    }
}

#[tokio::test]
async fn what_curl_sends_by_default_is_an_image() {
    for kind in ["application/x-www-form-urlencoded", "application/octet-stream", "IMAGE/PNG; q=1"] {
        let answer = post(&usual(), "/predict", kind, png(&picture(1))).await.good();
        assert_same(&answer["results"][0], 1, 5);
    }
}

#[tokio::test]
async fn a_form_with_several_files() {
    let (kind, body) = form(&[0, 1, 2].map(|index| png(&picture(index))));
    let answer = post(&usual(), "/predict?top_k=2", &kind, body).await.good();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    results.iter().enumerate().for_each(|(index, result)| assert_same(result, index, 2));
}

#[tokio::test]
async fn json_with_one_image_or_several() {
    let address = format!("data:image/png;base64,{}", base64(5));
    let one = json!({ "inputs": base64(5), "parameters": { "top_k": 4, "model": "second" } });
    let answer = post_json(&usual(), "/predict", one).await.good();
    assert_eq!(answer["model"], "second");
    assert_same(&answer["results"][0], 5, 4);
    let several = json!({ "inputs": [base64(6), address] });
    let answer = post_json(&usual(), "/predict?top_k=1", several).await.good();
    assert_same(&answer["results"][0], 6, 1);
    assert_same(&answer["results"][1], 5, 1);
}

#[tokio::test]
async fn more_classes_than_there_are_gives_all() {
    let answer = post_picture(&usual(), "/predict?top_k=1000", 3).await.good();
    assert_same(&answer["results"][0], 3, 10);
}

#[tokio::test]
async fn torchserve_gets_labels_with_probabilities() {
    let expected = library(|model| model.predict(&[picture(2)], 5).unwrap().remove(0));
    let raw = post_picture(&usual(), "/predictions/demo", 2).await.good();
    assert_eq!(raw.as_object().unwrap().len(), 5);
    for prediction in &expected {
        assert_near(&[raw[prediction.name()].as_f64().unwrap()], &[prediction.prob], 1e-5);
    }
    let (kind, body) = form(&[png(&picture(2))]);
    let form = post(&usual(), "/predictions/demo", &kind, body).await.good();
    assert_eq!(
        form.as_object().unwrap().keys().collect::<Vec<_>>(),
        raw.as_object().unwrap().keys().collect::<Vec<_>>()
    );
    let json =
        post_json(&usual(), "/predictions/demo", json!({ "data": [base64(2), base64(3)] })).await.good();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!(post_picture(&usual(), "/predictions/none", 2).await.status, StatusCode::NOT_FOUND);
}
