//! TorchServe's form: a class and its probability per line of an object.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::served::{Served, Wants};
use crate::upload::{Encoded, Upload, json};

/// Classes of an image.
const TOP_K: usize = 5;

/// An image in base64, under the name that TorchServe's clients use.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
pub struct TorchBody {
    /// One image or several.
    #[serde(alias = "instances", alias = "inputs")]
    data: Encoded,
}

/// The images of a request.
pub fn read(upload: Upload) -> Result<Vec<Bytes>, ApiError> {
    match upload {
        Upload::Images(images) => Ok(images),
        Upload::Json(body) => json::<TorchBody>(&body)?.data.images(),
    }
}

/// The five most probable classes of an image as `{"label": probability}`. Several images give a list of such objects.
#[utoipa::path(post, path = "/predictions/{model}", tag = "torchserve", security(("key" = []), ()),
    params(("model" = String, Path, description = "The model's name")),
    request_body(description = "The bytes of an image, multipart/form-data, or JSON", content(
        ([u8] = "image/*"), (TorchBody = "application/json"), (String = "multipart/form-data"),
    )),
    responses(
        (status = 200, body = Object),
        (status = 400, description = "not an image", body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody),
    ))]
pub async fn predictions(
    State(app): State<App>,
    Path(model): Path<String>,
    upload: Upload,
) -> Result<Json<Value>, ApiError> {
    let served = app.models.get(Some(&model))?;
    let (answer, _) = app.ask(&served, read(upload)?, Wants::LOGITS).await?;
    let mut answers: Vec<Value> = answer.logits.iter().map(|logits| labelled(&served, logits)).collect();
    Ok(Json(match answers.len() {
        1 => answers.remove(0),
        _ => Value::Array(answers),
    }))
}

/// Probabilities by label. A label that an earlier class has gets its index behind it.
fn labelled(served: &Served, logits: &[f64]) -> Value {
    let mut map = Map::new();
    for ranked in served.ranked(logits, TOP_K) {
        let key = match map.contains_key(&ranked.label) {
            true => format!("{} ({})", ranked.label, ranked.index),
            false => ranked.label,
        };
        map.insert(key, json!(ranked.prob));
    }
    Value::Object(map)
}
