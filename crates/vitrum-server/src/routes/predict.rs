//! Images to classes, or to numbers.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::{App, Timing};
use crate::error::{ApiError, ErrorBody};
use crate::served::{Ranked, Served, Wants};
use crate::upload::{Encoded, Params, Upload, json};

/// Classes of an image if the request does not say how many.
const TOP_K: usize = 5;

/// Parameters, in the address or in a JSON body.
#[derive(Debug, Default, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PredictParams {
    /// The model's name.
    model: Option<String>,
    /// Number of classes; 5 without it.
    top_k: Option<usize>,
}

/// Images in base64.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PredictBody {
    /// One image or several, as base64 or `data:` addresses.
    inputs: Encoded,
    /// They replace those in the address.
    #[serde(default)]
    parameters: PredictParams,
}

/// The answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Predictions {
    /// The model's name.
    model: String,
    /// In the order of the images.
    results: Vec<Answered>,
    /// What took how long, in milliseconds.
    timing_ms: Timing,
}

/// The answer to an image.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answered {
    /// The most probable classes.
    Predictions(Vec<Ranked>),
    /// All numbers of a regression.
    Values(Vec<Number>),
}

/// A predicted number.
#[derive(Debug, Serialize, ToSchema)]
pub struct Number {
    index: usize,
    label: String,
    value: f64,
}

impl Answered {
    /// The answer to an image with these logits.
    fn of(served: &Served, logits: &[f64], k: usize) -> Self {
        let ranked = served.ranked(logits, k);
        match served.is_regression() {
            false => Self::Predictions(ranked),
            true => {
                let number = |Ranked { index, label, prob }| Number { index, label, value: prob };
                Self::Values(ranked.into_iter().map(number).collect())
            }
        }
    }
}

/// The parameters and the images of a request.
pub fn read(query: PredictParams, upload: Upload) -> Result<(PredictParams, Vec<Bytes>), ApiError> {
    match upload {
        Upload::Images(images) => Ok((query, images)),
        Upload::Json(body) => {
            let PredictBody { inputs, parameters } = json(&body)?;
            let params = PredictParams {
                model: parameters.model.or(query.model),
                top_k: parameters.top_k.or(query.top_k),
            };
            Ok((params, inputs.images()?))
        }
    }
}

/// The most probable classes of each image.
#[utoipa::path(post, path = "/predict", tag = "answers", params(PredictParams), security(("key" = []), ()),
    request_body(description = "The bytes of an image, multipart/form-data, or JSON", content(
        ([u8] = "image/*"), (PredictBody = "application/json"), (String = "multipart/form-data"),
    )),
    responses(
        (status = 200, body = Predictions),
        (status = 400, description = "neither an image nor JSON", body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody),
        (status = 413, description = "too many bytes, pixels or images", body = ErrorBody),
        (status = 415, description = "a body of another kind", body = ErrorBody),
        (status = 422, description = "a wrong parameter", body = ErrorBody),
        (status = 429, description = "too many images wait", body = ErrorBody),
        (status = 504, description = "waited too long", body = ErrorBody),
    ))]
pub async fn predict(
    State(app): State<App>,
    Params(query): Params<PredictParams>,
    upload: Upload,
) -> Result<Json<Predictions>, ApiError> {
    let (PredictParams { model, top_k }, images) = read(query, upload)?;
    let top_k = top_k.unwrap_or(TOP_K);
    if top_k == 0 {
        return Err(ApiError::Parameter("top_k is 0, expected at least 1".into()));
    }
    let served = app.models.get(model.as_deref())?;
    let (answer, timing_ms) = app.ask(&served, images, Wants::LOGITS).await?;
    let results = answer.logits.iter().map(|logits| Answered::of(&served, logits, top_k)).collect();
    Ok(Json(Predictions { model: served.name().to_string(), results, timing_ms }))
}
