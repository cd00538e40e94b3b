//! Masked patches of an image, filled in.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vitrum::data::RgbImage;
use vitrum::explain::Cancel;
use vitrum::layers::mask::{Masks, Patch};
use vitrum::tasks::reconstruct::{VIEWS, Views};
use vitrum::tasks::{MaskKind, Reconstructor};
use vitrum::train::log::pictures::{Pixels, images, sheet, view_captions};

use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::routes::picture;
use crate::served::Served;
use crate::upload::{Encoded, Params, Upload, json, one};

/// The seed of masks if the request names none, as of `vitrum reconstruct`.
const SEED: u64 = 42;

/// Which patches are masked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Any, all equally likely.
    #[default]
    Random,
    /// Rectangles.
    Block,
    /// All but one of each square.
    Grid,
}

impl From<Kind> for MaskKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Random => Self::Random,
            Kind::Block => Self::Block,
            Kind::Grid => Self::Grid,
        }
    }
}

/// Parameters, in the address or in a JSON body.
#[derive(Debug, Default, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconstructParams {
    /// The model's name.
    model: Option<String>,
    /// Share of the patches that are masked, from 0 to below 1; that of the model without it.
    mask_ratio: Option<f64>,
    /// Which patches are masked; `random` without it.
    #[param(inline)]
    mask_kind: Option<Kind>,
    /// The mask of another draw; 42 without it.
    seed: Option<u64>,
}

/// An image in base64.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconstructBody {
    /// One image, as base64 or a `data:` address.
    inputs: Encoded,
    /// They replace those in the address.
    #[serde(default)]
    parameters: ReconstructParams,
}

/// A reconstruction.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reconstruction {
    /// The model's name.
    model: String,
    /// Width of the image as the model sees it.
    width: u32,
    /// Its height.
    height: u32,
    /// Rows and columns of patches.
    grid: [usize; 2],
    /// 1 for each patch that is masked, else 0, row by row.
    mask: Vec<u8>,
    /// Share of the patches that are masked.
    mask_ratio: f64,
    /// Which patches are masked.
    mask_kind: Kind,
    /// The seed of the mask.
    seed: u64,
    /// The mean loss of the masked patches, on the scale of training.
    loss: f64,
    /// The image and what became of it.
    pictures: Pictures,
}

/// Pictures as `data:` addresses of PNGs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pictures {
    /// The image as the model sees it.
    original: String,
    /// The image with grey in the place of masked patches.
    masked: String,
    /// The prediction of every patch.
    reconstruction: String,
    /// The image with the predictions of masked patches.
    pasted: String,
}

/// How patches are masked.
struct Asked {
    ratio: Option<f64>,
    kind: Kind,
    seed: u64,
}

/// The mask of an image, and its four pictures.
struct Found {
    masks: Masks,
    views: Views,
}

/// The masked patches of an image, filled in: numbers and pictures, or with `Accept: image/png` one picture.
#[utoipa::path(post, path = "/reconstruct", tag = "answers", params(ReconstructParams), security(("key" = []), ()),
    request_body(description = "The bytes of an image, multipart/form-data, or JSON", content(
        ([u8] = "image/*"), (ReconstructBody = "application/json"), (String = "multipart/form-data"),
    )),
    responses(
        (status = 200, content((Reconstruction = "application/json"), ([u8] = "image/png"))),
        (status = 400, description = "not an image", body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody),
        (status = 422, description = "a wrong parameter, or a model without a decoder", body = ErrorBody),
        (status = 429, description = "too many requests of this kind wait", body = ErrorBody),
        (status = 504, description = "it took too long", body = ErrorBody),
    ))]
pub async fn reconstruct(
    State(app): State<App>,
    Params(query): Params<ReconstructParams>,
    headers: HeaderMap,
    upload: Upload,
) -> Result<Response, ApiError> {
    let (params, file) = read(query, upload)?;
    let asked = checked(&params)?;
    let served = app.models.get(params.model.as_deref())?;
    reconstructor(&served)?;
    let wants_picture = picture::is_wanted(&headers);
    let work = move |image: &RgbImage, cancel: &Cancel| {
        cancel.check()?;
        let model = reconstructor(&served)?;
        let found = find(model, image, &asked)?;
        match wants_picture {
            true => picture::answer(&drawn(model, &found)?),
            false => Ok(Json(told(&served, model, &asked, &found)?).into_response()),
        }
    };
    app.at_length(file, work).await
}

/// The parameters and the image of a request.
pub fn read(query: ReconstructParams, upload: Upload) -> Result<(ReconstructParams, Bytes), ApiError> {
    match upload {
        Upload::Images(images) => Ok((query, one(images)?)),
        Upload::Json(body) => {
            let ReconstructBody { inputs, parameters } = json(&body)?;
            let params = ReconstructParams {
                model: parameters.model.or(query.model),
                mask_ratio: parameters.mask_ratio.or(query.mask_ratio),
                mask_kind: parameters.mask_kind.or(query.mask_kind),
                seed: parameters.seed.or(query.seed),
            };
            Ok((params, one(inputs.images()?)?))
        }
    }
}

fn checked(params: &ReconstructParams) -> Result<Asked, ApiError> {
    if let Some(ratio) = params.mask_ratio.filter(|ratio| !(0.0..1.0).contains(ratio)) {
        return Err(ApiError::Parameter(format!(
            "mask_ratio is {ratio}, expected a share from 0 to below 1"
        )));
    }
    let (kind, seed) = (params.mask_kind.unwrap_or_default(), params.seed.unwrap_or(SEED));
    Ok(Asked { ratio: params.mask_ratio, kind, seed })
}

/// The model's predictions of masked patches.
fn reconstructor(served: &Served) -> Result<&Reconstructor, ApiError> {
    let name = served.name();
    let refused = || match served.num_classes() {
        0 => format!("model '{name}' has no decoder: it cannot predict masked patches"),
        _ => format!("model '{name}' is a classifier without a decoder: it cannot predict masked patches"),
    };
    served.reconstructor().ok_or_else(|| ApiError::Parameter(refused()))
}

fn find(model: &Reconstructor, image: &RgbImage, asked: &Asked) -> Result<Found, ApiError> {
    let sampler = model.sampler(asked.kind.into(), asked.seed)?;
    let sampler = match asked.ratio {
        Some(ratio) => sampler.ratio(ratio),
        None => sampler,
    };
    let masks = sampler.of_validation(0, 1);
    let views = model.views(std::slice::from_ref(image), &masks)?;
    Ok(Found { masks, views })
}

impl Found {
    /// 1 for each patch that is masked, else 0.
    fn mask(&self) -> Vec<u8> {
        self.masks.patches().iter().map(|patch| u8::from(*patch != Patch::Seen)).collect()
    }

    /// Share of the patches that are masked.
    fn ratio(&self) -> f64 {
        self.masks.num_masked() as f64 / self.masks.num_patches() as f64
    }

    fn loss(&self) -> f64 {
        self.views.losses.first().copied().unwrap_or_default()
    }

    fn pixels<'a>(&'a self, model: &'a Reconstructor) -> Pixels<'a> {
        let preprocess = model.preprocess();
        let Views { values, shape, .. } = &self.views;
        Pixels { values, shape: *shape, mean: &preprocess.mean, std: &preprocess.std }
    }
}

fn told(
    served: &Served,
    model: &Reconstructor,
    asked: &Asked,
    found: &Found,
) -> Result<Reconstruction, ApiError> {
    let shown = images(&found.pixels(model)).map_err(ApiError::bug)?;
    let [original, masked, reconstruction, pasted] = &shown[..] else {
        return Err(ApiError::bug(format!("{} pictures, not one for each of {VIEWS:?}", shown.len())));
    };
    Ok(Reconstruction {
        model: served.name().to_string(),
        width: original.width(),
        height: original.height(),
        grid: model.grid(),
        mask: found.mask(),
        mask_ratio: found.ratio(),
        mask_kind: asked.kind,
        seed: asked.seed,
        loss: found.loss(),
        pictures: Pictures {
            original: picture::address(original)?,
            masked: picture::address(masked)?,
            reconstruction: picture::address(reconstruction)?,
            pasted: picture::address(pasted)?,
        },
    })
}

/// The four pictures side by side, with captions.
fn drawn(model: &Reconstructor, found: &Found) -> Result<RgbImage, ApiError> {
    let captions = view_captions(found.ratio(), found.loss());
    sheet(&found.pixels(model), &captions, VIEWS.len()).map_err(ApiError::bug)
}
