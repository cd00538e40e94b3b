//! KServe's protocol, version 2, with binary tensors.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use vitrum::prelude::Tensor;
use vitrum::tasks::classify::softmax;

use crate::support::*;

const JSON_LENGTH: &str = "inference-header-content-length";

fn pixels(index: usize) -> Vec<f32> {
    library(|model| model.preprocess().apply(&picture(index)).unwrap())
}

fn logits(index: usize) -> Vec<f64> {
    let values = pixels(index);
    library(|model| {
        let x = Tensor::<1>::from_floats(&values[..], model.device());
        model.logits(x.reshape([1, 3, 32, 32])).unwrap().remove(0)
    })
}

fn images(indices: &[usize]) -> Value {
    let texts: Vec<String> = indices.iter().map(|index| base64(*index)).collect();
    json!({ "name": "image", "datatype": "BYTES", "shape": [texts.len()], "data": texts })
}

async fn infer(body: Value) -> Answer {
    post_json(&usual(), "/v2/models/demo/infer", body).await
}

#[tokio::test]
async fn metadata() {
    assert_eq!(get(&usual(), "/v2").await.good()["name"], "vitrum");
    assert_eq!(get(&usual(), "/v2/health/live").await.good(), json!({ "live": true }));
    assert_eq!(get(&usual(), "/v2/health/ready").await.good(), json!({ "ready": true }));
    for path in ["/v2/models/demo", "/v2/models/demo/versions/1"] {
        let model = get(&usual(), path).await.good();
        assert_eq!((model["name"].as_str(), &model["versions"]), (Some("demo"), &json!(["1"])));
        assert_eq!(
            model["inputs"][1],
            json!({ "name": "pixel_values", "datatype": "FP32", "shape": [-1, 3, 32, 32] })
        );
        assert_eq!(model["outputs"][0], json!({ "name": "logits", "datatype": "FP32", "shape": [-1, 10] }));
        assert_eq!(get(&usual(), &format!("{path}/ready")).await.good(), json!({ "ready": true }));
    }
    for path in ["/v2/models/none", "/v2/models/demo/versions/2", "/v2/models/none/ready"] {
        let answer = get(&usual(), path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        answer.error();
    }
}

#[tokio::test]
async fn images_to_logits_with_the_id() {
    let answer = infer(json!({ "id": "42", "inputs": [images(&[3, 8])] })).await.good();
    assert_eq!((answer["id"].as_str(), answer["model_name"].as_str()), (Some("42"), Some("demo")));
    let outputs = answer["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 1);
    assert_eq!((&outputs[0]["name"], &outputs[0]["shape"]), (&json!("logits"), &json!([2, 10])));
    assert_near(&numbers(&outputs[0]["data"]), &[logits(3), logits(8)].concat(), 1e-4);
}

#[tokio::test]
async fn pixels_to_all_outputs_by_name() {
    let nested: Vec<Vec<f32>> = pixels(6).chunks(32).map(<[f32]>::to_vec).collect();
    for data in [json!(pixels(6)), json!([nested])] {
        let input =
            json!({ "name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": data });
        let outputs = ["probabilities", "embedding", "logits"].map(|name| json!({ "name": name }));
        let body = json!({ "inputs": [input], "outputs": outputs });
        let answer = post_json(&usual(), "/v2/models/demo/versions/1/infer", body).await.good();
        assert_eq!(answer["outputs"][0]["name"], "probabilities");
        assert_near(&numbers(&answer["outputs"][0]["data"]), &softmax(&logits(6)), 1e-5);
        assert_near(&numbers(&answer["outputs"][1]["data"]), &embedding(6), 1e-5);
        assert_near(&numbers(&answer["outputs"][2]["data"]), &logits(6), 1e-4);
    }
}

/// A document with bytes behind it.
fn binary(document: &Value, behind: &[u8]) -> Request<Body> {
    let document = document.to_string();
    let body = [document.as_bytes(), behind].concat();
    let request = Request::post("/v2/models/demo/infer").header(JSON_LENGTH, document.len());
    request.header(header::CONTENT_TYPE, "application/octet-stream").body(body.into()).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<4>().0.iter().map(|four| f64::from(f32::from_le_bytes(*four))).collect()
}

#[tokio::test]
async fn binary_pixels_in_and_binary_numbers_out() {
    let bytes: Vec<u8> = pixels(2).iter().flat_map(|value| value.to_le_bytes()).collect();
    let document = json!({
        "inputs": [{ "name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 32, 32],
            "parameters": { "binary_data_size": bytes.len() } }],
        "outputs": [
            { "name": "logits", "parameters": { "binary_data": true } },
            { "name": "probabilities", "parameters": { "binary_data": false } },
            { "name": "embedding", "parameters": { "binary_data": true } },
        ],
    });
    let answer = send(&usual(), binary(&document, &bytes)).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/octet-stream");
    let length: usize = answer.headers[JSON_LENGTH].to_str().unwrap().parse().unwrap();
    let told: Value = serde_json::from_slice(&answer.body[..length]).unwrap();
    assert_eq!(told["outputs"][0]["parameters"]["binary_data_size"], 40);
    assert!(told["outputs"][0].get("data").is_none());
    assert_near(&numbers(&told["outputs"][1]["data"]), &softmax(&logits(2)), 1e-5);
    let behind = &answer.body[length..];
    assert_near(&floats(&behind[..40]), &logits(2), 1e-4);
    assert_eq!(told["outputs"][2]["parameters"]["binary_data_size"], behind.len() - 40);
}

#[tokio::test]
async fn binary_images_as_they_are_and_in_base64() {
    for files in [[png(&picture(1)), png(&picture(5))], [base64(1).into_bytes(), base64(5).into_bytes()]] {
        let behind: Vec<u8> =
            files.iter().flat_map(|file| [&(file.len() as u32).to_le_bytes()[..], file].concat()).collect();
        let document = json!({
            "inputs": [{ "name": "image", "datatype": "BYTES", "shape": [2],
                "parameters": { "binary_data_size": behind.len() } }],
            "parameters": { "binary_data_output": true },
        });
        let answer = send(&usual(), binary(&document, &behind)).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        let length: usize = answer.headers[JSON_LENGTH].to_str().unwrap().parse().unwrap();
        assert_near(&floats(&answer.body[length..]), &[logits(1), logits(5)].concat(), 1e-4);
    }
}

#[tokio::test]
async fn faulty_requests_are_400() {
    let tensor = |name: &str, datatype: &str, shape: Value, data: Value| json!({ "inputs": [{ "name": name, "datatype": datatype, "shape": shape, "data": data }] });
    let zeros = vec![0.0; 3 * 32 * 32];
    let cases = [
        (json!({}), "inputs"),
        (json!({ "inputs": [] }), "0 inputs"),
        (json!({ "inputs": [images(&[1]), images(&[2])] }), "2 inputs"),
        (tensor("picture", "BYTES", json!([1]), json!(["x"])), "picture"),
        (tensor("image", "FP32", json!([1]), json!([1.0])), "BYTES"),
        (tensor("image", "BYTES", json!([2]), json!([base64(1)])), "1 elements"),
        (tensor("image", "BYTES", json!([1, 2]), json!([base64(1), base64(2)])), "[n]"),
        (tensor("image", "BYTES", json!([1]), json!([7])), "7"),
        (tensor("image", "BYTES", json!([1]), json!(["aGVsbG8="])), "image format"),
        (tensor("pixel_values", "FP64", json!([1, 3, 32, 32]), json!(zeros)), "FP32"),
        (tensor("pixel_values", "FP32", json!([1, 3, 16, 16]), json!(zeros)), "[n, 3, 32, 32]"),
        (tensor("pixel_values", "FP32", json!([2, 3, 32, 32]), json!(zeros)), "elements"),
        (tensor("pixel_values", "FP32", json!([u64::MAX, 3, 32, 32]), json!(zeros)), "elements"),
        (tensor("pixel_values", "FP32", json!([1, 3, 32, 32]), json!(["a"])), "elements"),
        (tensor("pixel_values", "FP32", json!([0, 3, 32, 32]), json!([])), "no image"),
        (json!({ "inputs": [images(&[1])], "outputs": [{ "name": "scores" }] }), "scores"),
        (
            json!({ "inputs": [images(&[1])], "outputs": [{ "name": "logits" }, { "name": "logits" }] }),
            "twice",
        ),
        (
            json!({ "inputs": [images(&[1])], "parameters": { "binary_data_output": 1 } }),
            "binary_data_output",
        ),
    ];
    for (body, word) in cases {
        let answer = infer(body.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{word}: {:?}", answer.body);
        assert!(answer.error().contains(word), "{word}: {}", answer.error());
    }
    let many = infer(json!({ "inputs": [images(&[1; 33])] })).await;
    assert_eq!(many.status, StatusCode::PAYLOAD_TOO_LARGE);
    let document = json!({ "inputs": [{ "name": "image", "datatype": "BYTES", "shape": [1],
        "parameters": { "binary_data_size": 3 } }] });
    for behind in [&b"abcd"[..], b"abc", b""] {
        assert_eq!(send(&usual(), binary(&document, behind)).await.status, StatusCode::BAD_REQUEST);
    }
    let mut long = binary(&document, b"abc");
    long.headers_mut().insert(JSON_LENGTH, 100_000.into());
    assert_eq!(send(&usual(), long).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn values_that_are_not_finite_hurt_only_their_request() {
    let huge = vec![3e38f32; 3 * 32 * 32];
    let input = json!({ "name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": huge });
    let (router, body) = (usual(), json!({ "inputs": [input] }));
    let (bad, good) =
        tokio::join!(post_json(&router, "/v2/models/demo/infer", body), post_picture(&router, "/predict", 1));
    good.good();
    // Norms may bring the values back; then the answer is a number.
    assert!(bad.status == StatusCode::OK || bad.error().contains("finite"), "{:?}", bad.body);
}
