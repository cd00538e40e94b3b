//! `/embed` and `/v1/embeddings`: the library's vectors.

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn openai_s_form() {
    let body = json!({ "input": [base64(1), base64(2)], "model": "second", "user": "someone" });
    let answer = post_json(&usual(), "/v1/embeddings", body).await.good();
    assert_eq!(answer["object"], "list");
    assert_eq!(answer["model"], "second");
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 0, "total_tokens": 0 }));
    for (at, index) in [1, 2].into_iter().enumerate() {
        let data = &answer["data"][at];
        assert_eq!((data["object"].as_str(), data["index"].as_u64()), (Some("embedding"), Some(at as u64)));
        assert_near(&numbers(&data["embedding"]), &embedding(index), 1e-5);
    }
}

#[tokio::test]
async fn openai_s_form_in_base64() {
    let body = json!({ "input": base64(3), "encoding_format": "base64" });
    let answer = post_json(&usual(), "/v1/embeddings", body).await.good();
    let bytes = STANDARD.decode(answer["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let values: Vec<f64> =
        bytes.as_chunks::<4>().0.iter().map(|four| f64::from(f32::from_le_bytes(*four))).collect();
    assert_near(&values, &embedding(3), 1e-5);
}

#[tokio::test]
async fn openai_s_form_takes_json_alone_and_known_fields() {
    let raw = post_picture(&usual(), "/v1/embeddings", 1).await;
    assert_eq!(raw.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let dimensions = json!({ "input": base64(1), "dimensions": 8 });
    let answer = post_json(&usual(), "/v1/embeddings", dimensions).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.error().contains("dimensions"));
}

#[tokio::test]
async fn tei_s_form() {
    let raw = post_picture(&usual(), "/embed", 4).await.good();
    assert_near(&numbers(&raw[0]), &embedding(4), 1e-5);
    let json = post_json(&usual(), "/embed", json!({ "inputs": [base64(4), base64(5)], "truncate": true }))
        .await
        .good();
    assert_near(&numbers(&json[1]), &embedding(5), 1e-5);
    let (kind, body) = form(&[png(&picture(4)), png(&picture(6))]);
    let form = post(&usual(), "/embed", &kind, body).await.good();
    assert_near(&numbers(&form[1]), &embedding(6), 1e-5);
}

#[tokio::test]
async fn vectors_as_the_model_gives_them() {
    let answer = post_picture(&usual(), "/embed?normalize=false", 4).await.good();
    let vector = numbers(&answer[0]);
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    assert!((length - 1.0).abs() > 1e-3, "{length}");
    let unit: Vec<f64> = vector.iter().map(|value| value / length).collect();
    assert_near(&unit, &embedding(4), 1e-5);
}
