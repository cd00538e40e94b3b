//! `/reconstruct`: the library's masks, losses and pictures; and what else a model for pretraining can.

use std::sync::OnceLock;

use axum::Router;
use axum::http::{Request, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use serde_json::{Value, json};
use vitrum::checkpoint::load::{LoadOptions, Loaded, ModelError, load};
use vitrum::layers::mask::Patch;
use vitrum::models::ModelConfig;
use vitrum::prelude::Device;
use vitrum::tasks::embed::Embedder;
use vitrum::tasks::reconstruct::Views;
use vitrum::tasks::{MaskKind, Reconstructor};
use vitrum::train::log::pictures::{Pixels, sheet, view_captions};
use vitrum_server::{App, ModelSpec, ServerConfig, router};

use crate::support::*;

/// Small models with fresh weights, for images of 32 x 32 pixels and 4 x 4 patches.
fn small(name: &str) -> Result<Loaded, ModelError> {
    let edit = |mut config: ModelConfig| {
        let vit = match &mut config {
            ModelConfig::Mae(mae) => {
                (mae.decoder_embed_dim, mae.decoder_depth, mae.decoder_num_heads) = (16, 1, 2);
                &mut mae.vit
            }
            ModelConfig::Mim(mim) => {
                mim.mask_patch_size = mim.mask_patch_size.map(|_| 16);
                &mut mim.vit
            }
            other => panic!("{}", other.family()),
        };
        (vit.img_size, vit.patch_size) = ([32, 32], [8, 8]);
        (vit.embed_dim, vit.depth, vit.num_heads) = (32, 2, 2);
        Ok(config)
    };
    let options = LoadOptions { needs_weights: false, edit: Some(&edit), ..LoadOptions::new(name) };
    load(&options, &Device::flex())
}

const MODELS: [(&str, &str); 3] = [
    ("mae", "mae_vit_tiny_patch4_32"),
    ("simmim", "simmim_vit_base_patch16_224"),
    ("mpp", "mpp_vit_base_patch16_224"),
];

/// A server with a classifier and models that predict masked patches.
fn served() -> Router {
    static APP: OnceLock<App> = OnceLock::new();
    let app = APP.get_or_init(|| {
        let spec = |(name, source)| ModelSpec::new(name, move || Ok(small(source)?)).unwrap();
        let specs = [ModelSpec::of_source("demo", "demo").unwrap()].into_iter().chain(MODELS.map(spec));
        let headless = || {
            let options = LoadOptions { num_classes: Some(0), ..LoadOptions::new("demo") };
            Ok(load(&options, &Device::flex())?)
        };
        let specs = specs.chain([ModelSpec::new("headless", headless).unwrap()]);
        App::new(ServerConfig::default(), specs.collect()).unwrap()
    });
    router(app)
}

/// The library's answer: 1 for masked patches, and the pictures.
fn library(source: &str, index: usize, kind: MaskKind, ratio: Option<f64>, seed: u64) -> (Vec<f64>, Views) {
    with_room(|| {
        let model = Reconstructor::new(small(source).unwrap(), Device::flex()).unwrap();
        let sampler = model.sampler(kind, seed).unwrap();
        let sampler = ratio.map_or(sampler.clone(), |ratio| sampler.ratio(ratio));
        let masks = sampler.of_validation(0, 1);
        let is_masked = |patch: &Patch| f64::from(u8::from(*patch != Patch::Seen));
        let views = model.views(&[picture(index)], &masks).unwrap();
        (masks.patches().iter().map(is_masked).collect(), views)
    })
}

/// The picture of a `data:` address.
fn shown(address: &Value) -> RgbImage {
    let png = address.as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap();
    image::load_from_memory(&STANDARD.decode(png).unwrap()).unwrap().to_rgb8()
}

/// The values of one of the four views, from 0 to 255.
fn levels(views: &Views, view: usize) -> Vec<f64> {
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let [_, c, h, w] = views.shape;
    let values = &views.values[view * c * h * w..][..c * h * w];
    let level = |at: usize| {
        let (pixel, channel) = (at / 3, at % 3);
        let value = f64::from(values[channel * h * w + pixel]) * std[channel] + mean[channel];
        (255.0 * value).round().clamp(0.0, 255.0)
    };
    (0..c * h * w).map(level).collect()
}

#[tokio::test]
async fn masks_losses_and_pictures_are_the_library_s() {
    for (name, source) in MODELS {
        let path = format!("/reconstruct?model={name}");
        let answer = post_picture(&served(), &path, 3).await.good();
        let (mask, views) = library(source, 3, MaskKind::Random, None, 42);
        assert_eq!((&answer["model"], &answer["grid"]), (&json!(name), &json!([4, 4])));
        assert_eq!((&answer["width"], &answer["height"]), (&json!(32), &json!(32)));
        assert_eq!((&answer["mask_kind"], &answer["seed"]), (&json!("random"), &json!(42)));
        assert_eq!(numbers(&answer["mask"]), mask);
        assert_near(&[answer["mask_ratio"].as_f64().unwrap()], &[mask.iter().sum::<f64>() / 16.0], 1e-9);
        assert_near(&[answer["loss"].as_f64().unwrap()], &views.losses, 1e-5);
        for (view, key) in ["original", "masked", "reconstruction", "pasted"].into_iter().enumerate() {
            let found: Vec<f64> =
                shown(&answer["pictures"][key]).into_raw().into_iter().map(f64::from).collect();
            assert_near(&found, &levels(&views, view), 1.0);
        }
        // The others cut off the border.
        let is_whole = shown(&answer["pictures"]["original"]).into_raw() == picture(3).into_data();
        assert_eq!(is_whole, name == "mae");
    }
}

#[tokio::test]
async fn other_masks() {
    let cases = [
        ("mask_ratio=0.5&mask_kind=block&seed=7", MaskKind::Block, Some(0.5), 7),
        ("mask_ratio=0.75&mask_kind=grid&seed=8", MaskKind::Grid, Some(0.75), 8),
        ("mask_ratio=0&seed=9", MaskKind::Random, Some(0.0), 9),
    ];
    for (query, kind, ratio, seed) in cases {
        let answer = post_picture(&served(), &format!("/reconstruct?model=mae&{query}"), 5).await.good();
        let (mask, views) = library(MODELS[0].1, 5, kind, ratio, seed);
        assert_eq!(numbers(&answer["mask"]), mask, "{query}");
        assert_near(&[answer["loss"].as_f64().unwrap()], &views.losses, 1e-5);
    }
    let mask_of = async |seed: u64| {
        let body = json!({ "inputs": base64(1), "parameters": { "model": "mae", "seed": seed } });
        let answer = post_json(&served(), "/reconstruct", body).await.good();
        assert_eq!(answer["seed"], seed);
        answer["mask"].clone()
    };
    let (first, again, other) = (mask_of(1).await, mask_of(1).await, mask_of(2).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[tokio::test]
async fn one_picture_if_the_client_accepts_one() {
    let request = Request::post("/reconstruct?model=mae&seed=3").header(header::ACCEPT, "image/png");
    let answer = send(&served(), request.body(png(&picture(2)).into()).unwrap()).await;
    assert_eq!(
        (answer.status, &answer.headers[header::CONTENT_TYPE]),
        (StatusCode::OK, &"image/png".parse().unwrap())
    );
    let (mask, views) = library(MODELS[0].1, 2, MaskKind::Random, None, 3);
    let captions = view_captions(mask.iter().sum::<f64>() / 16.0, views.losses[0]);
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let pixels = Pixels { values: &views.values, shape: views.shape, mean: &mean, std: &std };
    let expected = sheet(&pixels, &captions, 4).unwrap();
    let found = image::load_from_memory(&answer.body).unwrap().to_rgb8();
    assert_eq!((found.width(), found.height()), (expected.width(), expected.height()));
    assert!(found.into_raw() == expected.into_data());
}

#[tokio::test]
async fn refusals_say_why() {
    let cases = [
        ("/reconstruct?model=demo", "classifier without a decoder"),
        ("/reconstruct?model=headless", "has no decoder"),
        ("/reconstruct?model=mae&mask_ratio=1", "mask_ratio"),
        ("/reconstruct?model=mae&mask_ratio=NaN", "mask_ratio"),
        ("/reconstruct?model=mae&mask_ratio=-0.1", "mask_ratio"),
        ("/reconstruct?model=mae&mask_kind=stripes", "stripes"),
        ("/reconstruct?model=mae&seed=-1", "seed"),
        ("/reconstruct?model=mae&mask=0.5", "mask"),
        ("/predict?model=mae", "no classes"),
        ("/explain?model=mae&method=grad_cam", "no classes"),
    ];
    for (path, word) in cases {
        let answer = post_picture(&served(), path, 1).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert!(answer.error().contains(word), "{path}: {}", answer.error());
    }
    assert_eq!(post_picture(&served(), "/reconstruct?model=no", 1).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        post(&served(), "/reconstruct?model=mae", "image/png", "no picture").await.status,
        StatusCode::BAD_REQUEST
    );
    let (kind, body) = form(&[png(&picture(1)), png(&picture(2))]);
    let two = post(&served(), "/reconstruct?model=mae", &kind, body).await;
    assert_eq!(two.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn what_a_masked_autoencoder_can() {
    let models = get(&served(), "/v1/models").await.good();
    let ratios = [Value::Null, json!(0.75), json!(0.6), json!(0.5), Value::Null];
    for (model, ratio) in models["models"].as_array().unwrap().iter().zip(ratios) {
        let can = model["can"].as_array().unwrap();
        assert_eq!(can.contains(&json!("reconstruct")), ratio.is_number(), "{model}");
        assert_eq!(model["mask_ratio"], ratio, "{model}");
    }
    assert_eq!(models["models"][1]["can"], json!(["embed", "explain", "reconstruct"]));
    let expected = with_room(|| {
        let embedder = Embedder::new(small(MODELS[0].1).unwrap(), Device::flex()).unwrap();
        embedder.embed(&[picture(4)]).unwrap()[0].iter().map(|value| f64::from(*value)).collect::<Vec<_>>()
    });
    let found = post_picture(&served(), "/embed?model=mae", 4).await.good();
    assert_near(&numbers(&found[0]), &expected, 1e-5);
    post_picture(&served(), "/explain?model=mae&method=attention", 4).await.good();
}
