//! The models of the server.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;

/// The models of a server.
#[derive(Debug, Serialize, ToSchema)]
pub struct List {
    /// The default first.
    models: Vec<Entry>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Entry {
    /// Its name in requests.
    name: String,
    /// Its family.
    family: &'static str,
    /// Number of parameters.
    params: u64,
    /// Channels, height and width of its input.
    input: [usize; 3],
    /// Number of classes; 0 without a head.
    num_classes: usize,
    /// Width of an embedding.
    embedding: usize,
    /// Whether requests without a name mean it.
    default: bool,
    /// `predict`, `embed`, `explain`, `reconstruct`.
    can: Vec<&'static str>,
    /// Whether its attention can be shown.
    has_attention: bool,
    /// Share of the patches that are masked if a request does not say it, of a model that reconstructs.
    #[serde(skip_serializing_if = "Option::is_none")]
    mask_ratio: Option<f64>,
}

/// The models, the default first.
#[utoipa::path(get, path = "/v1/models", tag = "models", security(("key" = []), ()), responses((status = 200, body = List)))]
pub async fn list(State(app): State<App>) -> Json<List> {
    let models = app.models.all();
    let entry = |(at, served): (usize, &std::sync::Arc<crate::served::Served>)| Entry {
        name: served.name().to_string(),
        family: served.family(),
        params: served.params(),
        input: served.input(),
        num_classes: served.num_classes(),
        embedding: served.width(),
        default: at == 0,
        can: served.can(),
        has_attention: served.has_attention(),
        mask_ratio: served.reconstructor().map(|model| model.masking().ratio),
    };
    Json(List { models: models.iter().enumerate().map(entry).collect() })
}
