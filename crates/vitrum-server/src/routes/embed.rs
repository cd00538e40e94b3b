//! Images to feature vectors, in the forms of OpenAI and of TEI.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::served::{Wants, unit};
use crate::upload::{Encoded, Params, Upload, json};

/// How the numbers of a vector are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As numbers.
    #[default]
    Float,
    /// As base64 of 32-bit floats, the lowest byte first.
    Base64,
}

/// OpenAI's request, with images in place of texts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingsBody {
    /// One image or several, as base64 or `data:` addresses.
    input: Encoded,
    /// The model's name.
    model: Option<String>,
    /// `float` or `base64`.
    #[serde(default)]
    encoding_format: Encoding,
    /// Taken and not used.
    #[serde(default)]
    #[allow(dead_code)]
    user: Option<String>,
}

/// OpenAI's answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Embeddings {
    /// `list`.
    object: &'static str,
    /// In the order of the images.
    data: Vec<Embedding>,
    /// The model's name.
    model: String,
    /// Images have no tokens.
    usage: Usage,
}

/// A vector of OpenAI's answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Embedding {
    /// `embedding`.
    object: &'static str,
    /// The image's place.
    index: usize,
    /// A vector of length 1.
    embedding: Vector,
}

/// The numbers of a vector.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Vector {
    /// As numbers.
    Float(Vec<f32>),
    /// As base64.
    Base64(String),
}

/// Always zero.
#[derive(Debug, Serialize, ToSchema)]
pub struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Encoding {
    fn vector(self, values: Vec<f32>) -> Vector {
        match self {
            Self::Float => Vector::Float(values),
            Self::Base64 => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// The images of a request in OpenAI's form, its model, and how it wants the numbers.
pub fn read_openai(upload: Upload) -> Result<(Vec<Bytes>, Option<String>, Encoding), ApiError> {
    let Upload::Json(body) = upload else {
        return Err(ApiError::Unsupported(
            "/v1/embeddings takes application/json; /embed takes images".into(),
        ));
    };
    let EmbeddingsBody { input, model, encoding_format, .. } = json(&body)?;
    Ok((input.images()?, model, encoding_format))
}

/// A vector of length 1 for each image, in OpenAI's form.
#[utoipa::path(post, path = "/v1/embeddings", tag = "answers", security(("key" = []), ()),
    request_body = EmbeddingsBody,
    responses(
        (status = 200, body = Embeddings),
        (status = 400, description = "not an image", body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody),
        (status = 422, description = "a wrong parameter", body = ErrorBody),
    ))]
pub async fn embeddings(State(app): State<App>, upload: Upload) -> Result<Json<Embeddings>, ApiError> {
    let (images, model, encoding_format) = read_openai(upload)?;
    let served = app.models.get(model.as_deref())?;
    let (answer, _) = app.ask(&served, images, Wants::EMBEDDING).await?;
    let embedding = |(index, values): (usize, &Vec<f64>)| Embedding {
        object: "embedding",
        index,
        embedding: encoding_format.vector(unit(values)),
    };
    Ok(Json(Embeddings {
        object: "list",
        data: answer.embeddings.iter().enumerate().map(embedding).collect(),
        model: served.name().to_string(),
        usage: Usage { prompt_tokens: 0, total_tokens: 0 },
    }))
}

/// Parameters in the address.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EmbedParams {
    /// The model's name.
    model: Option<String>,
    /// Whether vectors have length 1; true without it.
    normalize: Option<bool>,
}

/// TEI's request, with images in place of texts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedBody {
    /// One image or several, as base64 or `data:` addresses.
    inputs: Encoded,
    /// The model's name.
    model: Option<String>,
    /// Whether vectors have length 1; true without it.
    normalize: Option<bool>,
    /// Of texts; taken and not used.
    #[serde(default)]
    #[allow(dead_code)]
    truncate: Option<bool>,
}

/// The parameters and the images of a request in TEI's form.
pub fn read(query: EmbedParams, upload: Upload) -> Result<(EmbedParams, Vec<Bytes>), ApiError> {
    match upload {
        Upload::Images(images) => Ok((query, images)),
        Upload::Json(body) => {
            let EmbedBody { inputs, model, normalize, .. } = json(&body)?;
            let params =
                EmbedParams { model: model.or(query.model), normalize: normalize.or(query.normalize) };
            Ok((params, inputs.images()?))
        }
    }
}

/// A vector for each image, in TEI's form.
#[utoipa::path(post, path = "/embed", tag = "answers", params(EmbedParams), security(("key" = []), ()),
    request_body(description = "The bytes of an image, multipart/form-data, or JSON", content(
        ([u8] = "image/*"), (EmbedBody = "application/json"), (String = "multipart/form-data"),
    )),
    responses(
        (status = 200, body = Vec<Vec<f32>>),
        (status = 400, description = "not an image", body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody),
        (status = 422, description = "a wrong parameter", body = ErrorBody),
    ))]
pub async fn embed(
    State(app): State<App>,
    Params(query): Params<EmbedParams>,
    upload: Upload,
) -> Result<Json<Vec<Vec<f32>>>, ApiError> {
    let (EmbedParams { model, normalize }, images) = read(query, upload)?;
    let served = app.models.get(model.as_deref())?;
    let (answer, _) = app.ask(&served, images, Wants::EMBEDDING).await?;
    let as_it_is = |vector: &Vec<f64>| vector.iter().map(|value| *value as f32).collect();
    let vector = |vector: &Vec<f64>| if normalize.unwrap_or(true) { unit(vector) } else { as_it_is(vector) };
    Ok(Json(answer.embeddings.iter().map(vector).collect()))
}
