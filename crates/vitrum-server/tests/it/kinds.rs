//! Models of other kinds: without classes, in int8, of several classes per image, of numbers.

use axum::Router;
use axum::http::StatusCode;
use serde_json::json;
use vitrum::checkpoint::card::ProblemType;
use vitrum::prelude::{Device, LoadOptions, Precision, load};
use vitrum_server::{App, ModelSpec, ServerConfig, router};

use crate::support::*;

fn serve(
    change: impl Fn(&mut LoadOptions<'_>) + Send + Sync + 'static,
    problem: Option<ProblemType>,
) -> Router {
    let loader = move || {
        let mut options = LoadOptions::new("demo");
        change(&mut options);
        let mut loaded = load(&options, &Device::flex())?;
        if let (Some(card), Some(problem)) = (&mut loaded.card, problem) {
            card.problem = problem;
        }
        Ok(loaded)
    };
    router(&App::new(ServerConfig::default(), vec![ModelSpec::new("demo", loader).unwrap()]).unwrap())
}

#[tokio::test]
async fn a_model_without_classes_embeds_and_shows_attention() {
    let router = serve(|options| options.num_classes = Some(0), None);
    let model = get(&router, "/v1/models").await.good()["models"][0].clone();
    assert_eq!((&model["num_classes"], &model["can"]), (&json!(0), &json!(["embed", "explain"])));
    for path in ["/predict", "/predictions/demo", "/explain?method=grad_cam"] {
        let answer = post_picture(&router, path, 1).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert!(answer.error().contains("no classes"), "{}", answer.error());
    }
    let found = post_picture(&router, "/embed", 1).await.good();
    assert_near(&numbers(&found[0]), &embedding(1), 1e-5);
    post_picture(&router, "/explain?method=attention", 1).await.good();
    let input = json!({ "name": "image", "datatype": "BYTES", "shape": [1], "data": [base64(1)] });
    let answer = post_json(&router, "/v2/models/demo/infer", json!({ "inputs": [input] })).await.good();
    assert_eq!(answer["outputs"][0]["name"], "embedding");
    assert_near(&numbers(&answer["outputs"][0]["data"]), &embedding(1), 1e-5);
}

#[tokio::test]
async fn a_model_in_int8_explains_nothing() {
    let router = serve(|options| options.precision = Precision::Int8, None);
    let model = get(&router, "/v1/models").await.good()["models"][0].clone();
    assert_eq!((&model["has_attention"], &model["can"]), (&json!(false), &json!(["predict", "embed"])));
    post_picture(&router, "/predict", 1).await.good();
    let answer = post_picture(&router, "/explain?method=attention", 1).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.error().contains("int8"));
}

#[tokio::test]
async fn several_classes_per_image_have_a_probability_each() {
    let router = serve(|_| {}, Some(ProblemType::MultiLabel));
    let answer = post_picture(&router, "/predict?top_k=10", 1).await.good();
    let found = answer["results"][0]["predictions"].as_array().unwrap();
    let sum: f64 = found.iter().map(|prediction| prediction["prob"].as_f64().unwrap()).sum();
    assert_eq!(found.len(), 10);
    assert!((sum - 1.0).abs() > 1e-3, "{sum}");
}

#[tokio::test]
async fn a_model_of_numbers_gives_all_of_them_in_order() {
    let router = serve(|_| {}, Some(ProblemType::Regression));
    let answer = post_picture(&router, "/predict?top_k=2", 1).await.good();
    let values = answer["results"][0]["values"].as_array().unwrap();
    assert_eq!(values.len(), 10);
    assert!(values.iter().enumerate().all(|(at, value)| value["index"] == at && value["value"].is_number()));
    let outputs = json!([{ "name": "probabilities" }]);
    let input = json!({ "name": "image", "datatype": "BYTES", "shape": [1], "data": [base64(1)] });
    let answer =
        post_json(&router, "/v2/models/demo/infer", json!({ "inputs": [input], "outputs": outputs })).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}
