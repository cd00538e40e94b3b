//! `/explain`: the library's maps, as numbers and as pictures.

use axum::http::{Request, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use vitrum::explain::{CamOptions, Explainer, Query};

use crate::support::*;

const METHODS: [&str; 7] =
    ["attention", "rollout", "relevance", "grad_cam", "integrated_gradients", "occlusion", "similarity"];

#[tokio::test]
async fn every_method_gives_a_map_and_the_image() {
    for method in METHODS {
        let answer = post_picture(&usual(), &format!("/explain?model=demo&method={method}"), 4).await.good();
        assert_eq!((answer["model"].as_str(), answer["method"].as_str()), (Some("demo"), Some(method)));
        let grid = numbers(&answer["map"]["grid"]);
        assert_eq!(numbers(&answer["map"]["values"]).len(), (grid[0] * grid[1]) as usize, "{method}");
        let has_target = !["attention", "rollout", "similarity"].contains(&method);
        assert_eq!(answer["target"].is_object(), has_target, "{method}");
        assert_eq!(answer.get("layers").is_some(), method == "attention");
        let picture = answer["picture"].as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap();
        let picture = image::load_from_memory(&STANDARD.decode(picture).unwrap()).unwrap();
        let size = (answer["width"].as_u64().unwrap(), answer["height"].as_u64().unwrap());
        assert_eq!((u64::from(picture.width()), u64::from(picture.height())), size);
    }
}

#[tokio::test]
async fn the_numbers_are_the_library_s() {
    let (class, cam, maps) = with_room(|| {
        let explainer = Explainer::load("demo").unwrap();
        let view = explainer.view(&picture(3)).unwrap();
        let class = explainer.class("star").unwrap();
        let cam = explainer.grad_cam(&view, class, &CamOptions::default()).unwrap();
        (class, cam, explainer.attention(&view, Query::Patch([2, 5])).unwrap())
    });
    let floats = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();

    let answer = post_picture(&usual(), "/explain?method=grad_cam&target=star", 3).await.good();
    assert_eq!(
        (answer["target"]["index"].as_u64(), answer["target"]["label"].as_str()),
        (Some(class as u64), Some("star"))
    );
    assert_near(&numbers(&answer["map"]["values"]), &floats(&cam.values), 1e-5);

    let answer = post_picture(&usual(), "/explain?method=attention&row=2&column=5", 3).await.good();
    let layers = answer["layers"].as_array().unwrap();
    assert_eq!(layers.len(), maps.layers.len());
    for (found, expected) in layers.iter().zip(&maps.layers) {
        assert_eq!(found["name"], expected.name);
        for (found, expected) in found["heads"].as_array().unwrap().iter().zip(&expected.heads) {
            assert_near(&numbers(found), &floats(&expected.values), 1e-5);
        }
    }
    let mean = maps.layers.last().unwrap().mean();
    assert_near(&numbers(&answer["map"]["values"]), &floats(&mean.values), 1e-5);
}

#[tokio::test]
async fn a_picture_if_the_client_accepts_one() {
    for (accept, is_picture) in
        [("image/png", true), ("image/*;q=0.9, application/json", true), ("*/*", false)]
    {
        let request =
            Request::post("/explain?method=similarity&row=0&column=0").header(header::ACCEPT, accept);
        let answer = send(&usual(), request.body(png(&picture(5)).into()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers[header::CONTENT_TYPE] == "image/png", is_picture, "{accept}");
        if is_picture {
            let shown = image::load_from_memory(&answer.body).unwrap();
            assert_eq!(shown.width(), 448);
        }
    }
}

#[tokio::test]
async fn json_names_the_method_too() {
    let body = json!({ "inputs": base64(1), "parameters": { "method": "rollout" } });
    assert_eq!(post_json(&usual(), "/explain", body).await.good()["method"], "rollout");
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let cases = [
        ("/explain", "method"),
        ("/explain?method=magic", "magic"),
        ("/explain?method=rollout&target=star", "target"),
        ("/explain?method=relevance&target=unicorn", "unicorn"),
        ("/explain?method=relevance&target=10", "10"),
        ("/explain?method=attention&row=1", "column"),
        ("/explain?method=attention&row=1&column=99", "99"),
        ("/explain?method=grad_cam&row=1&column=1", "patch"),
    ];
    for (path, word) in cases {
        let answer = post_picture(&usual(), path, 1).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert!(answer.error().contains(word), "{path}: {}", answer.error());
    }
    assert_eq!(
        post_picture(&usual(), "/explain?method=rollout&model=no", 1).await.status,
        StatusCode::NOT_FOUND
    );
    let (kind, body) = form(&[png(&picture(1)), png(&picture(2))]);
    let two = post(&usual(), "/explain?method=rollout", &kind, body).await;
    assert_eq!(two.status, StatusCode::PAYLOAD_TOO_LARGE);
}
