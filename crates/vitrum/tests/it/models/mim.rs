//! Masked image modelling: SimMIM against transformers, masked patch prediction against an oracle.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use tempfile::TempDir;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::checkpoint::write::{WriteOptions, to_safetensors, write_huggingface};
use vitrum::data::decode::{DecodeOptions, open};
use vitrum::data::{Preprocess, RgbImage, batch};
use vitrum::layers::mask::{Masks, Patch, patchify};
use vitrum::layers::names::visit;
use vitrum::layers::observe::Silent;
use vitrum::models::mim::{Mim, MimConfig, MimTarget};
use vitrum::models::pretext::pretrained_by;
use vitrum::models::vit::VitConfig;
use vitrum::models::{Config, Inputs, Model, ModelConfig, Network, PixelScale, Reconstruct, Want};

use super::pretrain::{Case, Golden, Gradients, cases, model, numbers, of_tensors, relative, scale};
use super::shared::{card, tensors};
use crate::compare::largest;
use crate::formula;

fn all() -> Vec<(String, Case, Golden)> {
    let all: Vec<_> = cases("_simmim").into_iter().chain(cases("mpp_")).collect();
    assert!(all.len() >= 7, "{} cases", all.len());
    all
}

fn mim(name: &str, case: &Case, dtype: DType, device: &Device) -> Mim {
    match model(name, case, dtype, device) {
        Model::Mim(model) => model,
        other => panic!("{name}: a {}", other.family()),
    }
}

fn masks(golden: &Golden) -> Masks {
    let (shape, values) = &golden["patches"];
    let patch = |value: &f64| match *value {
        -1.0 => Patch::Seen,
        -2.0 => Patch::Hidden,
        other => Patch::Other(other as u32),
    };
    Masks::new(values.iter().map(patch).collect::<Vec<_>>(), shape[1])
}

fn scale_of(case: &Case) -> PixelScale {
    if case.mean.is_empty() { scale() } else { PixelScale { mean: case.mean.clone(), std: case.std.clone() } }
}

fn images(case: &Case, dtype: DType, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(formula::images(case.input, 1.0), case.input), (device, dtype))
}

fn check(dtype: DType, bar: f64) {
    let device = Device::flex();
    for (name, case, golden) in &all() {
        let model = Model::from(mim(name, case, dtype, &device));
        let (images, masks) = (images(case, dtype, &device), masks(golden));
        let inputs = Inputs::Masked(images.clone(), masks.clone());
        model.check_inputs(&inputs).unwrap();
        let model = model.pack();
        let model = model.as_reconstruct().unwrap();
        let features = model.features(inputs, Want::Last, &mut Silent);
        let prediction = model.predict(features, &masks, &mut Silent);
        let loss = model.loss(prediction.clone(), images, &masks, &scale_of(case));
        let values = prediction.dims()[2];
        let rows = numbers(prediction);
        let shown: Vec<f64> =
            rows.chunks(values).flat_map(|row| row.iter().step_by(case.stride).copied()).collect();
        for (what, ours) in [("pred", shown), ("loss", numbers(loss))] {
            let error = relative(&ours, &golden[what].1);
            assert!(error <= bar, "{name}: {what} {error:.2e}");
        }
    }
}

#[test]
fn f32_within_5e_6() {
    check(DType::F32, 5e-6);
}

#[test]
fn f64_within_1e_9() {
    check(DType::F64, 1e-9);
}

fn check_gradients(dtype: DType, bar: f64) {
    let mut compared = 0;
    for (name, case, golden) in all() {
        if !golden.keys().any(|key| key.starts_with("grad.")) {
            continue;
        }
        let device = Device::flex().autodiff();
        let model = mim(&name, &case, dtype, &device);
        let (images, masks) = (images(&case, dtype, &device), masks(&golden));
        let wrapped = Model::from(model.clone());
        let features = wrapped.as_backbone().unwrap().features(
            Inputs::Masked(images.clone(), masks.clone()),
            Want::Last,
            &mut Silent,
        );
        let prediction = model.predict(features, &masks, &mut Silent);
        let all = model.loss(prediction, images, &masks, &scale_of(&case)).backward();
        let mut gradients = Gradients { all: &all, found: BTreeMap::new() };
        visit(&wrapped, &mut gradients);
        let expected = of_tensors(&case, &golden, "grad.");
        // The gradient of a large head is not in the file.
        let is_there = |key: &str| key != "decoder.0.weight" || golden.contains_key("grad.decoder.0.weight");
        let expected: BTreeMap<_, _> = expected.into_iter().filter(|(key, _)| is_there(key)).collect();
        let whole = largest(expected.values().flatten().map(|value| value.abs()));
        for (key, theirs) in &expected {
            let ours = &gradients.found[key];
            let own = largest(theirs.iter().map(|value| value.abs()));
            let apart = largest(ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()));
            assert!(apart <= bar * own.max(1e-3 * whole), "{name}: {key} {apart:.2e} of {own:.2e}");
            compared += 1;
        }
    }
    assert!(compared >= 110, "only {compared} gradients were compared");
}

#[test]
fn gradients_f32() {
    check_gradients(DType::F32, 1e-4);
}

#[test]
fn gradients_f64() {
    check_gradients(DType::F64, 1e-9);
}

fn tiny(target: MimTarget) -> MimConfig {
    let vit = VitConfig {
        img_size: [24, 24],
        patch_size: [4, 4],
        embed_dim: 128,
        depth: 1,
        num_heads: 2,
        num_classes: 0,
        ..VitConfig::default()
    };
    match target {
        MimTarget::Pixels => MimConfig { mask_patch_size: Some(8), ..MimConfig::simmim(vit) },
        target => MimConfig { target, ..MimConfig::mpp(vit) },
    }
}

/// Colours of real photos are spread over many classes: with normalised pixels they would be one or two.
#[test]
fn classes_of_real_photos_are_spread() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/imagenet-sample");
    let Ok(files) = std::fs::read_dir(folder.join("images")).or_else(|_| std::fs::read_dir(&folder)) else {
        eprintln!("skipped: {} is not here", folder.display());
        return;
    };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "jpg" || kind == "JPEG"));
    files.sort();
    let images: Vec<RgbImage> =
        files.iter().take(16).map(|path| open(path, &DecodeOptions::default()).unwrap()).collect();
    assert_eq!(images.len(), 16);
    let device = Device::flex();
    let vit = VitConfig { num_classes: 0, depth: 1, ..VitConfig::default() };
    let model = MimConfig::mpp(vit).init(&device, 1).unwrap();
    let preprocess = Preprocess::default();
    let pixels = batch::of_images(&images, &preprocess, DType::F32, &device).unwrap();
    let scale = PixelScale::from(&preprocess);
    let classes: Vec<i64> = model.colors(pixels, &scale).into_data().iter::<i64>().collect();
    let mut counts = BTreeMap::new();
    classes.iter().for_each(|class| *counts.entry(*class).or_insert(0) += 1);
    let most = *counts.values().max().unwrap() as f64 / classes.len() as f64;
    assert!(counts.len() > 60, "{} classes", counts.len());
    assert!(most < 0.3, "the largest class has a share of {most}");
}

/// Predictions that name the right colour paint it: within half a level of the mean of the patch.
#[test]
fn colours_are_painted() {
    let device = Device::flex();
    let config = tiny(MimTarget::Downsized);
    let model = config.init(&device, 1).unwrap();
    let shape = [2, 3, 24, 24];
    let images = Tensor::<4>::from_data(TensorData::new(formula::images(shape, 1.0), shape), &device);
    let scale = PixelScale { mean: vec![0.5], std: vec![0.25] };
    let classes: Vec<i64> = model.colors(images.clone(), &scale).into_data().iter::<i64>().collect();
    let mut prediction = vec![0.0_f32; classes.len() * 512];
    classes.iter().enumerate().for_each(|(at, class)| prediction[at * 512 + *class as usize] = 1.0);
    let prediction = Tensor::<3>::from_data(TensorData::new(prediction, [2, 36, 16 * 512]), &device);
    let painted = numbers(model.pixels(prediction, images.clone(), &scale));
    // A part is one pixel here.
    for (painted, pixel) in painted.iter().zip(numbers(images)) {
        let pixel = (pixel * 0.25 + 0.5).clamp(0.0, 1.0);
        assert!((painted * 0.25 + 0.5 - pixel).abs() <= 1.0 / 16.0 + 1e-6, "{painted} {pixel}");
    }
}

#[test]
fn predicted_pixels_are_put_in_place() {
    let device = Device::flex();
    let config = tiny(MimTarget::Pixels);
    let model = config.init(&device, 1).unwrap();
    let shape = [1, 3, 24, 24];
    let images = Tensor::<4>::from_data(TensorData::new(formula::images(shape, 1.0), shape), &device);
    // Channels, rows, columns.
    let patches =
        patchify(images.clone(), [4, 4]).reshape([1, 36, 16, 3]).swap_dims(2, 3).reshape([1, 36, 48]);
    let again = model.pixels(patches.clone(), images.clone(), &scale());
    assert_eq!(numbers(again), numbers(images.clone()));
    assert!(largest(numbers(model.losses(patches, images, &scale()))) < 1e-7);
}

#[test]
fn written_for_transformers_and_read_again() {
    let device = Device::flex();
    let config = tiny(MimTarget::Pixels);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("hf");
    let map = tensors(&config);
    write_huggingface(&path, &map, &card(&config, "vit_base_patch16_224"), &WriteOptions::default()).unwrap();
    let loaded = load(&LoadOptions::new(&path), &device).unwrap();
    assert_eq!(loaded.model.family(), "mim");
    let held = collect(&loaded.model);
    for (key, tensor) in &map.tensors {
        assert_eq!(held.get(key).unwrap().to_f64(), tensor.to_f64(), "{key}");
    }
    let other = tiny(MimTarget::MeanColor);
    let refused = write_huggingface(
        &folder.path().join("other"),
        &tensors(&other),
        &card(&other, "vit_base_patch16_224"),
        &WriteOptions::default(),
    );
    assert!(refused.unwrap_err().to_string().contains("absolute loss"));
}

#[test]
fn files_without_a_configuration() {
    let device = Device::flex();
    for target in [MimTarget::Pixels, MimTarget::MeanColor, MimTarget::Downsized] {
        let config = tiny(target);
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, to_safetensors(&tensors(&config), None).unwrap()).unwrap();
        let loaded = load(&LoadOptions::new(&path), &device).unwrap();
        assert_eq!(loaded.model.config().field("target"), serde_json::to_value(target).ok());
        let classifier =
            load(&LoadOptions { num_classes: Some(3), ..LoadOptions::new(&path) }, &device).unwrap();
        assert_eq!(classifier.model.family(), "vit");
    }
}

#[test]
fn methods_make_models() {
    let vit = ModelConfig::named("vit_tiny_patch16_224").unwrap();
    for (method, family) in [("mae", "mae"), ("mpp", "mim"), ("simmim", "mim")] {
        let config = pretrained_by(method, vit.clone()).unwrap();
        assert_eq!((config.family(), config.method()), (family, Some(method)));
        config.validate().unwrap();
        assert_eq!(pretrained_by(method, config.clone()).unwrap(), config);
    }
    let unknown = pretrained_by("dino", vit).unwrap_err().to_string();
    assert!(unknown.contains("mae, mpp, simmim"), "{unknown}");
    let other = pretrained_by("mae", ModelConfig::named("resnet18").unwrap()).unwrap_err().to_string();
    assert!(other.contains("not a resnet"), "{other}");
}

#[test]
fn what_cannot_be_built() {
    let with = |vit: VitConfig| MimConfig { vit, ..tiny(MimTarget::Downsized) };
    for (field, config) in [
        ("num_classes", with(VitConfig { num_classes: 2, ..tiny(MimTarget::Patch).vit })),
        ("in_chans", with(VitConfig { in_chans: 4, ..tiny(MimTarget::Patch).vit })),
        ("patch_size", with(VitConfig { patch_size: [6, 6], ..tiny(MimTarget::Patch).vit })),
        ("mask_ratio", MimConfig { mask_ratio: 0.0, ..tiny(MimTarget::Patch) }),
        ("mask_patch_size", MimConfig { mask_patch_size: Some(6), ..tiny(MimTarget::Pixels) }),
    ] {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with(field), "{field}: {error}");
    }
    let config = tiny(MimTarget::Downsized);
    let held = collect(&config.init(&Device::flex(), 1).unwrap());
    let count: usize = held.tensors.values().map(|tensor| tensor.num_elements()).sum();
    assert_eq!(count as u64, config.walk().unwrap().params);
}
