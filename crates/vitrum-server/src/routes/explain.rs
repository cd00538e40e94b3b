//! What a model looks at, and why it answers as it does.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vitrum::data::RgbImage;
use vitrum::explain::picture::{Legend, Palette, framed, overlay, sized};
use vitrum::explain::{
    AttentionMaps, CamOptions, Cancel, Explainer, HeatMap, IntegrationOptions, OcclusionOptions, Query,
    RolloutOptions, View,
};

use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::routes::picture;
use crate::served::{Ranked, Served};
use crate::upload::{Encoded, Params, Upload, json, one};

/// Pixels of the longer side of a picture, at least.
const SIDE: u32 = 448;

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Attention of every layer and head.
    Attention,
    /// Attention through all layers.
    Rollout,
    /// Attention through all layers, weighted by gradients of a class.
    Relevance,
    /// Feature maps, weighted by gradients of a class.
    GradCam,
    /// Gradients of pixels on the way from black to the image.
    IntegratedGradients,
    /// What a class loses when a part is hidden.
    Occlusion,
    /// Similarity of all patches to one.
    Similarity,
}

impl Method {
    /// Whether it explains a class.
    fn has_target(self) -> bool {
        matches!(self, Self::Relevance | Self::GradCam | Self::IntegratedGradients | Self::Occlusion)
    }

    /// Whether it is about a patch.
    fn has_place(self) -> bool {
        matches!(self, Self::Attention | Self::Similarity)
    }

    fn palette(self) -> Palette {
        match self {
            Self::IntegratedGradients | Self::Occlusion => Palette::Signed,
            Self::Similarity => Palette::Likeness,
            _ => Palette::Heat,
        }
    }
}

/// Parameters, in the address or in a JSON body.
#[derive(Debug, Default, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainParams {
    /// The model's name.
    model: Option<String>,
    /// What is shown.
    #[param(inline)]
    method: Option<Method>,
    /// The class, by number or name; the best one without it.
    target: Option<String>,
    /// Row of a patch, from 0; with `column`.
    row: Option<usize>,
    /// Column of a patch, from 0; with `row`.
    column: Option<usize>,
}

/// An image in base64.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainBody {
    /// One image, as base64 or a `data:` address.
    inputs: Encoded,
    /// They replace those in the address.
    #[serde(default)]
    parameters: ExplainParams,
}

/// An explanation.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// The model's name.
    model: String,
    /// What is shown.
    method: Method,
    /// The class that is explained; `null` for a method that knows no class.
    target: Option<Ranked>,
    /// Width of the image as the model sees it.
    width: u32,
    /// Its height.
    height: u32,
    /// The image as the model sees it, a PNG as a `data:` address.
    picture: String,
    /// A number for each cell. Of attention: the mean of the last layer.
    map: Map,
    /// Attention of all layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Layer>>,
}

/// Numbers on a grid, row by row.
#[derive(Debug, Serialize, ToSchema)]
pub struct Map {
    /// Rows and columns.
    grid: [usize; 2],
    /// The numbers.
    values: Vec<f32>,
}

/// Attention of a layer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Layer {
    /// Its name in the model.
    name: String,
    /// Rows and columns.
    grid: [usize; 2],
    /// The numbers of each head.
    heads: Vec<Vec<f32>>,
}

/// The numbers of an explanation.
struct Found {
    view: View,
    target: Option<Ranked>,
    map: HeatMap,
    attention: Option<AttentionMaps>,
    /// The grid and the patch that others are compared with.
    place: Option<([usize; 2], [usize; 2])>,
}

/// A map of what the model looks at: numbers, or with `Accept: image/png` a picture.
#[utoipa::path(post, path = "/explain", tag = "answers", params(ExplainParams), security(("key" = []), ()),
    request_body(description = "The bytes of an image, multipart/form-data, or JSON", content(
        ([u8] = "image/*"), (ExplainBody = "application/json"), (String = "multipart/form-data"),
    )),
    responses(
        (status = 200, content((Explanation = "application/json"), ([u8] = "image/png"))),
        (status = 400, description = "not an image", body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody),
        (status = 422, description = "a wrong parameter, or a method that the model lacks", body = ErrorBody),
        (status = 429, description = "too many requests of this kind wait", body = ErrorBody),
        (status = 504, description = "it took too long", body = ErrorBody),
    ))]
pub async fn explain(
    State(app): State<App>,
    Params(query): Params<ExplainParams>,
    headers: HeaderMap,
    upload: Upload,
) -> Result<Response, ApiError> {
    let (method, params, file) = asked(query, upload)?;
    let served = app.models.get(params.model.as_deref())?;
    if served.explainer().is_none() {
        let name = served.name();
        return Err(ApiError::Parameter(format!(
            "model '{name}' computes in int8 or bf16: it explains nothing"
        )));
    }
    let wants_picture = picture::is_wanted(&headers);
    let work = move |image: &RgbImage, cancel: &Cancel| {
        let found = find(&served, image, method, &params, cancel)?;
        match wants_picture {
            true => picture::answer(&drawn(method, &found)?),
            false => Ok(Json(told(&served, method, found)?).into_response()),
        }
    };
    app.at_length(file, work).await
}

/// What a request asks for, and its image.
pub fn asked(query: ExplainParams, upload: Upload) -> Result<(Method, ExplainParams, Bytes), ApiError> {
    let (params, file) = read(query, upload)?;
    let Some(method) = params.method else {
        return Err(ApiError::Parameter("`method` is missing, such as method=attention".into()));
    };
    check(method, &params)?;
    Ok((method, params, file))
}

/// The parameters and the image of a request.
fn read(query: ExplainParams, upload: Upload) -> Result<(ExplainParams, Bytes), ApiError> {
    let (params, images) = match upload {
        Upload::Images(images) => (query, images),
        Upload::Json(body) => {
            let ExplainBody { inputs, parameters } = json(&body)?;
            let params = ExplainParams {
                model: parameters.model.or(query.model),
                method: parameters.method.or(query.method),
                target: parameters.target.or(query.target),
                row: parameters.row.or(query.row),
                column: parameters.column.or(query.column),
            };
            (params, inputs.images()?)
        }
    };
    Ok((params, one(images)?))
}

/// Refuses parameters that the method would not use.
fn check(method: Method, params: &ExplainParams) -> Result<(), ApiError> {
    let refuse = |what: &str| Err(ApiError::Parameter(what.to_string()));
    if params.target.is_some() && !method.has_target() {
        return refuse("this method knows no class: leave out `target`");
    }
    match (params.row, params.column) {
        (None, None) => Ok(()),
        (Some(_), Some(_)) if method.has_place() => Ok(()),
        (Some(_), Some(_)) => refuse("this method knows no patch: leave out `row` and `column`"),
        _ => refuse("`row` and `column` belong together"),
    }
}

fn find(
    served: &Arc<Served>,
    image: &RgbImage,
    method: Method,
    params: &ExplainParams,
    cancel: &Cancel,
) -> Result<Found, ApiError> {
    let explainer = served.explainer().ok_or_else(|| ApiError::bug("an explainer has gone"))?;
    let explainer = &explainer.cancelled_by(cancel.clone());
    let view = explainer.view(image)?;
    let target = match method.has_target() {
        true => Some(target(explainer, &view, params.target.as_deref())?),
        false => None,
    };
    let class = target.as_ref().map_or(0, |target| target.index);
    let place = params.row.zip(params.column).map(|(row, column)| [row, column]);
    let (mut attention, mut compared) = (None, None);
    let map = match method {
        Method::Attention => {
            let maps = explainer.attention(&view, place.map_or(Query::Answer, Query::Patch))?;
            let last = maps.layers.last().map(|layer| layer.mean());
            attention = Some(maps);
            last.ok_or_else(|| ApiError::bug("attention without layers"))?
        }
        Method::Rollout => explainer.rollout(&view, &RolloutOptions::default())?,
        Method::Relevance => explainer.relevance(&view, class)?,
        Method::GradCam => explainer.grad_cam(&view, class, &CamOptions::default())?,
        Method::IntegratedGradients => {
            explainer.integrated_gradients(&view, class, &IntegrationOptions::default())?.map
        }
        Method::Occlusion => {
            let options = OcclusionOptions { batch_size: hidden_at_once(), ..OcclusionOptions::default() };
            explainer.occlusion(&view, class, &options)?
        }
        Method::Similarity => {
            let grid = explainer.patch_grid(&view)?;
            let place = place.unwrap_or(grid.map(|side| side / 2));
            compared = Some((grid, place));
            explainer.similarity(&view, place)?
        }
    };
    Ok(Found { view, target, map, attention, place: compared })
}

/// Images of a pass of occlusion: work for all threads, but little enough that a cancelled one ends soon.
fn hidden_at_once() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    (2 * threads).clamp(4, OcclusionOptions::default().batch_size)
}

/// The class that is explained.
fn target(explainer: &Explainer, view: &View, asked: Option<&str>) -> Result<Ranked, ApiError> {
    let asked = asked.map(|asked| explainer.class(asked)).transpose()?;
    let answers = explainer.answers(view, usize::MAX)?;
    let found = answers.into_iter().find(|answer| asked.is_none_or(|asked| asked == answer.index));
    found.map(Ranked::from).ok_or_else(|| ApiError::bug("a class has no answer"))
}

fn told(served: &Served, method: Method, found: Found) -> Result<Explanation, ApiError> {
    let Found { view, target, map, attention, .. } = found;
    let layer = |layer: vitrum::explain::LayerAttention| Layer {
        name: layer.name,
        grid: layer.grid,
        heads: layer.heads.into_iter().map(|head| head.values).collect(),
    };
    Ok(Explanation {
        model: served.name().to_string(),
        method,
        target,
        width: view.image.width(),
        height: view.image.height(),
        picture: picture::address(&view.image)?,
        map: Map { grid: map.grid, values: map.values },
        layers: attention.map(|maps| maps.layers.into_iter().map(layer).collect()),
    })
}

/// The map over the image, in a size for looking at it.
fn drawn(method: Method, found: &Found) -> Result<RgbImage, ApiError> {
    let own = &found.view.image;
    let side = SIDE.max(own.width()).max(own.height());
    let image = sized(own, side).map_err(ApiError::bug)?;
    let shown = overlay(&image, &found.map, &Legend::of(&found.map, method.palette()));
    Ok(match found.place {
        Some((grid, place)) => framed(&shown, grid, place),
        None => shown,
    })
}
