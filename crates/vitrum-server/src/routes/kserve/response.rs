//! An answer of the protocol: its tensors, in JSON or behind it.

use axum::Json;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::request::{Kind, Outputs};
use super::{JSON_LENGTH, VERSION};
use crate::error::ApiError;
use crate::served::{Answer, Served, unit};

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct InferResponse {
    model_name: String,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<OutputTensor>,
}

/// A tensor of an answer.
#[derive(Debug, Serialize, ToSchema)]
struct OutputTensor {
    name: &'static str,
    datatype: &'static str,
    /// Images and their numbers.
    shape: [usize; 2],
    /// The numbers, row by row.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<f32>>,
    /// `binary_data_size`: bytes behind the JSON document.
    #[serde(skip_serializing_if = "Map::is_empty")]
    parameters: Map<String, Value>,
}

/// What an answer is made of.
pub struct Reply<'a> {
    /// The model.
    pub served: &'a Served,
    /// The request's id.
    pub id: Option<String>,
    /// The wanted outputs.
    pub outputs: Outputs,
    /// What the model says.
    pub answer: Answer,
}

impl Reply<'_> {
    /// The answer as a response.
    ///
    /// # Errors
    /// None that a client can cause.
    pub fn into_response(self) -> Result<Response, ApiError> {
        let Self { served, id, outputs, answer } = self;
        let mut behind: Vec<u8> = Vec::new();
        let tensor = |(kind, is_binary): (Kind, bool)| {
            let rows: Vec<Vec<f32>> = match kind {
                Kind::Logits => answer.logits.iter().map(|row| floats(row)).collect(),
                Kind::Probabilities => answer.logits.iter().map(|row| floats(&served.scores(row))).collect(),
                Kind::Embedding => answer.embeddings.iter().map(|row| unit(row)).collect(),
            };
            let shape = [rows.len(), rows.first().map_or(0, Vec::len)];
            let values = rows.concat();
            let mut parameters = Map::new();
            let data = match is_binary {
                false => Some(values),
                true => {
                    parameters.insert("binary_data_size".into(), json!(4 * values.len()));
                    behind.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                    None
                }
            };
            OutputTensor { name: kind.name(), datatype: "FP32", shape, data, parameters }
        };
        let has_binary = outputs.0.iter().any(|(_, is_binary)| *is_binary);
        let outputs = outputs.0.into_iter().map(tensor).collect();
        let model_name = served.name().to_string();
        let document = InferResponse { model_name, model_version: VERSION, id, outputs };
        if !has_binary {
            return Ok(Json(document).into_response());
        }
        let mut body = serde_json::to_vec(&document).map_err(ApiError::bug)?;
        let headers = [
            (CONTENT_TYPE.as_str(), "application/octet-stream".to_string()),
            (JSON_LENGTH, body.len().to_string()),
        ];
        body.extend(behind);
        Ok((headers, body).into_response())
    }
}

fn floats(row: &[f64]) -> Vec<f32> {
    row.iter().map(|value| *value as f32).collect()
}
