//! Masked autoencoders: against transformers and the authors' code, their files, their walk.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use tempfile::TempDir;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::checkpoint::write::{WriteOptions, to_safetensors, write_huggingface};
use vitrum::layers::mask::{Masks, Patch, patchify};
use vitrum::layers::names::visit;
use vitrum::layers::observe::Silent;
use vitrum::models::mae::{Mae, MaeConfig};
use vitrum::models::vit::{GlobalPool, PosEmbed, VitConfig};
use vitrum::models::{Backbone, Config, Inputs, Model, ModelConfig, Network, Reconstruct, Want};
use vitrum::train::groups::GroupConfig;
use vitrum::train::objective::{Batch, Targets};
use vitrum::train::optim::{OptimConfig, OptimName};
use vitrum::train::pretext::Pretext;
use vitrum::train::trainer::{Trainer, TrainerConfig};

use super::pretrain::{Case, Gradients, cases, model, numbers, of_tensors, relative, scale};
use super::shared::{card, tensors};
use crate::compare::largest;
use crate::formula;

fn mae(name: &str, case: &Case, dtype: DType, device: &Device) -> Mae {
    match model(name, case, dtype, device) {
        Model::Mae(model) => model,
        other => panic!("{name}: a {}", other.family()),
    }
}

fn masks(case: &Case, model: &Mae) -> Masks {
    let [rows, columns] = model.grid();
    let noise = formula::noise("noise", case.input[0] * rows * columns);
    let noise: Vec<f32> = noise.into_iter().map(|value| value as f32).collect();
    Masks::from_noise(&noise, rows * columns, model.config().mask_ratio)
}

fn images(case: &Case, dtype: DType, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(formula::images(case.input, 1.0), case.input), (device, dtype))
}

fn check(dtype: DType, bar: f64) {
    let device = Device::flex();
    let cases = cases("_mae");
    assert!(cases.len() >= 8, "{} cases", cases.len());
    for (name, case, golden) in &cases {
        let model = mae(name, case, dtype, &device);
        let (images, masks) = (images(case, dtype, &device), masks(case, &model));
        let inputs = Inputs::Masked(images.clone(), masks.clone());
        Model::from(model.clone()).check_inputs(&inputs).unwrap();
        for model in [Model::from(model.clone()), Model::from(model).pack()] {
            let model = model.as_reconstruct().unwrap();
            let features = model.features(inputs.clone(), Want::Last, &mut Silent);
            let prediction = model.predict(features, &masks, &mut Silent);
            let loss = model.loss(prediction.clone(), images.clone(), &masks, &scale());
            for (what, ours) in [
                ("pred", numbers(prediction)),
                ("loss", numbers(loss)),
                ("mask", numbers(masks.tensor(&device, dtype))),
            ] {
                let error = relative(&ours, &golden[what].1);
                assert!(error <= bar, "{name}: {what} {error:.2e}");
            }
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
    for (name, case, golden) in cases("_mae") {
        if !golden.keys().any(|key| key.starts_with("grad.")) {
            continue;
        }
        let device = Device::flex().autodiff();
        let model = mae(&name, &case, dtype, &device);
        let (images, masks) = (images(&case, dtype, &device), masks(&case, &model));
        let features = Want::Last;
        let features =
            Backbone::features(&model, Inputs::Masked(images.clone(), masks.clone()), features, &mut Silent);
        let prediction = model.predict(features, &masks, &mut Silent);
        let all = model.loss(prediction, images, &masks, &scale()).backward();
        let mut gradients = Gradients { all: &all, found: BTreeMap::new() };
        visit(&model, &mut gradients);
        let expected = of_tensors(&case, &golden, "grad.");
        let fixed = |key: &str| key.ends_with("pos_embed");
        let trained = expected.iter().filter(|(key, _)| !fixed(key));
        let whole = largest(trained.flat_map(|(_, values)| values).map(|value| value.abs()));
        // The tables of positions are fixed.
        assert_eq!(expected.len(), gradients.found.len() + 2, "{name}");
        for (key, theirs) in expected.into_iter().filter(|(key, _)| !fixed(key)) {
            let ours = &gradients.found[&key];
            let own = largest(theirs.iter().map(|value| value.abs()));
            let apart = largest(ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()));
            // The bias of keys has no gradient but rounding.
            assert!(apart <= bar * own.max(1e-3 * whole), "{name}: {key} {apart:.2e} of {own:.2e}");
            compared += 1;
        }
    }
    assert!(compared >= 150, "only {compared} gradients were compared");
}

#[test]
fn gradients_f32() {
    check_gradients(DType::F32, 1e-4);
}

#[test]
fn gradients_f64() {
    check_gradients(DType::F64, 1e-9);
}

/// Ten updates of AdamW, with all activations kept and with recomputed blocks.
#[test]
fn ten_updates() {
    let mut compared = 0;
    for (name, case, golden) in cases("_mae") {
        let Some((_, losses)) = golden.get("losses") else { continue };
        for grad_checkpointing in [false, true] {
            let device = Device::flex();
            let model = mae(&name, &case, DType::F32, &device);
            let masks = masks(&case, &model);
            let optim = OptimConfig { betas: Some([0.9, 0.95]), ..OptimConfig::new(OptimName::AdamW) };
            let groups = GroupConfig { weight_decay: 0.05, layer_decay: None, no_weight_decay: Vec::new() };
            let config = TrainerConfig { groups, grad_checkpointing, ..TrainerConfig::new(optim, 2e-3) };
            let objective = Box::new(Pretext { scale: scale() });
            let mut trainer = Trainer::with_config(model, objective, config, &device).unwrap();
            for (step, expected) in losses.iter().enumerate() {
                let images = images(&case, DType::F32, &device.clone().autodiff());
                let batch = Batch::new(Inputs::Masked(images, masks.clone()), Targets::Nothing);
                let updated = trainer.update(vec![batch]).unwrap();
                assert!(
                    (updated.loss / expected - 1.0).abs() < 1e-4,
                    "{name}, {step}: {} {expected}",
                    updated.loss
                );
            }
            let held = collect(&trainer.model());
            let after = of_tensors(&case, &golden, "after.");
            for key in ["mask_token", "cls_token", "decoder_pred.weight"] {
                let theirs = &after[key];
                let error = relative(&held.get(key).unwrap().to_f64(), theirs);
                assert!(error <= 1e-4, "{name}: {key} {error:.2e}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 18);
}

/// Heads are as wide as usual, so that a file without a configuration shows their number.
fn tiny() -> MaeConfig {
    MaeConfig {
        vit: VitConfig {
            img_size: [24, 24],
            patch_size: [4, 4],
            embed_dim: 128,
            depth: 2,
            num_heads: 2,
            ..MaeConfig::default().vit
        },
        decoder_embed_dim: 64,
        decoder_depth: 1,
        decoder_num_heads: 2,
        ..MaeConfig::default()
    }
}

/// MAE, table 1c: mask tokens in the encoder make it 3.3 times as expensive.
#[test]
fn a_quarter_of_the_patches_costs_a_third() {
    let large = ModelConfig::named("mae_vit_large_patch16_224").unwrap();
    let Ok(config) = MaeConfig::try_from(large) else { panic!("a masked autoencoder") };
    let macs = |config: &MaeConfig| {
        let walk = config.walk().unwrap();
        let of_encoder = |name: &str| name.starts_with("blocks.");
        walk.steps
            .iter()
            .filter(|step| of_encoder(&step.name))
            .map(|step| step.macs * step.repeat as u64)
            .sum::<u64>()
    };
    let all = macs(&MaeConfig { mask_ratio: 0.0, ..config.clone() }) as f64;
    let decoder: u64 = config
        .walk()
        .unwrap()
        .steps
        .iter()
        .filter(|s| s.name.starts_with("decoder"))
        .map(|s| s.macs * s.repeat as u64)
        .sum();
    let masked = macs(&config) as f64;
    assert_eq!((all / masked * 10.0).round(), 40.0);
    // The paper's ratio counts the decoder, of depth 8, on both sides.
    let ratio = (all + decoder as f64) / (masked + decoder as f64);
    assert!((ratio - 3.3).abs() < 0.15, "{ratio}");
}

#[test]
fn parameters_are_the_authors() {
    for (name, millions) in [
        ("mae_vit_base_patch16_224", 111.908),
        ("mae_vit_large_patch16_224", 329.541),
        ("mae_vit_huge_patch14_224", 657.074),
    ] {
        let walk = ModelConfig::named(name).unwrap().walk().unwrap();
        assert!((walk.params as f64 / 1e6 - millions).abs() < 1e-3, "{name}: {}", walk.params);
    }
    let device = Device::flex();
    let config = tiny();
    let held: usize =
        collect(&config.init(&device, 1).unwrap()).tensors.values().map(|tensor| tensor.num_elements()).sum();
    assert_eq!(held as u64, config.walk().unwrap().params);
}

/// A whole file is a masked autoencoder; for a classifier it is a Vision Transformer.
#[test]
fn the_encoder_of_a_file() {
    let device = Device::flex();
    let config = tiny();
    let map = tensors(&config);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mae.safetensors");
    std::fs::write(&path, to_safetensors(&map, None).unwrap()).unwrap();
    let whole = load(&LoadOptions::new(&path), &device).unwrap();
    assert_eq!(whole.model.family(), "mae");
    assert!(whole.model.as_classifier().is_err());
    let classifier = load(&LoadOptions { num_classes: Some(5), ..LoadOptions::new(&path) }, &device).unwrap();
    assert_eq!(classifier.model.family(), "vit");
    assert!(classifier.notes.iter().any(|note| note.contains("only the encoder")), "{:?}", classifier.notes);
    assert_eq!(classifier.model.config().field("pos_embed"), Some("learn".into()));
    let x = images_of(&config);
    let features = |model: &Model| {
        let backbone = model.as_backbone().unwrap();
        numbers(backbone.features(x.clone().into(), Want::Last, &mut Silent).last().tokens)
    };
    assert_eq!(features(&whole.model), features(&classifier.model));
    // A file without the decoder.
    let mut encoder = map.clone();
    encoder.tensors.retain(|key, _| !key.starts_with("decoder_") && key != "mask_token");
    std::fs::write(&path, to_safetensors(&encoder, None).unwrap()).unwrap();
    assert_eq!(load(&LoadOptions::new(&path), &device).unwrap().model.family(), "vit");
}

fn images_of(config: &MaeConfig) -> Tensor<4> {
    let [h, w] = config.vit.img_size;
    let shape = [2, config.vit.in_chans, h, w];
    Tensor::from_data(TensorData::new(formula::images(shape, 1.0), shape), (&Device::flex(), DType::F32))
}

#[test]
fn written_for_transformers_and_read_again() {
    let device = Device::flex();
    let config = MaeConfig { norm_pix_loss: true, mask_ratio: 0.6, ..tiny() };
    let map = tensors(&config);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("hf");
    let card = card(&config, "mae_vit_base_patch16_224");
    write_huggingface(&path, &map, &card, &WriteOptions::default()).unwrap();
    let loaded = load(&LoadOptions::new(&path), &device).unwrap();
    let Model::Mae(model) = &loaded.model else { panic!("{}", loaded.model.family()) };
    assert_eq!((model.config().norm_pix_loss, model.config().mask_ratio), (true, 0.6));
    let held = collect(model);
    for (key, tensor) in &map.tensors {
        assert_eq!(held.get(key).unwrap().to_f64(), tensor.to_f64(), "{key}");
    }
}

/// Another size: the formula gives other tables, and the prediction has a patch for each place.
#[test]
fn another_size() {
    let device = Device::flex();
    let config = MaeConfig { vit: VitConfig { img_size: [16, 32], ..tiny().vit }, ..tiny() };
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mae.safetensors");
    let fresh = collect(&tiny().init(&device, 3).unwrap());
    std::fs::write(&path, to_safetensors(&fresh, None).unwrap()).unwrap();
    let options = LoadOptions { img_size: Some([16, 32]), ..LoadOptions::new(&path) };
    let loaded = load(&options, &device).unwrap();
    assert_eq!(loaded.model.config().field("pos_embed"), Some("sincos_2d_mae".into()));
    let ours = collect(&loaded.model);
    let expected = collect(&config.init(&device, 3).unwrap());
    for key in ["pos_embed", "decoder_pos_embed"] {
        assert_eq!(ours.get(key).unwrap().to_f64(), expected.get(key).unwrap().to_f64(), "{key}");
    }
}

#[test]
fn pictures_of_predictions() {
    let device = Device::flex();
    for norm_pix_loss in [false, true] {
        let config = MaeConfig { norm_pix_loss, ..tiny() };
        let model = config.init(&device, 1).unwrap();
        let images = images_of(&config);
        // The targets themselves, as predictions, give the image back.
        let patches = patchify(images.clone(), [4, 4]);
        let prediction = match norm_pix_loss {
            false => patches,
            true => {
                let mean = patches.clone().mean_dim(2);
                let centred = patches - mean;
                let variance = centred.clone().powi_scalar(2).sum_dim(2) / 47.0;
                centred / (variance + 1e-6).sqrt()
            }
        };
        let again = model.pixels(prediction, images.clone(), &scale());
        assert!(relative(&numbers(again), &numbers(images)) < 1e-6);
    }
}

#[test]
fn masks_are_checked() {
    let device = Device::flex();
    let model = Model::from(tiny().init(&device, 1).unwrap());
    let images = images_of(&tiny());
    let said = |patches: Vec<Patch>, count| {
        let inputs = Inputs::Masked(images.clone(), Masks::new(patches, count));
        model.check_inputs(&inputs).unwrap_err().to_string()
    };
    assert!(said(vec![Patch::Seen; 50], 25).contains("expected 2 images with 36"));
    assert!(said(vec![Patch::Hidden; 72], 36).contains("no patch is left"));
    let mut uneven = vec![Patch::Seen; 72];
    uneven[3] = Patch::Hidden;
    assert!(said(uneven, 36).contains("different numbers"));
    let vit = Model::from(
        VitConfig {
            img_size: [24, 24],
            patch_size: [4, 4],
            embed_dim: 24,
            depth: 1,
            num_heads: 3,
            ..VitConfig::default()
        }
        .init(&device, 1)
        .unwrap(),
    );
    let inputs = Inputs::Masked(images, Masks::new(vec![Patch::Seen; 72], 36));
    assert!(vit.check_inputs(&inputs).unwrap_err().to_string().contains("takes no masks"));
}

#[test]
fn what_cannot_be_built() {
    for (field, config) in [
        ("num_classes", MaeConfig { vit: VitConfig { num_classes: 10, ..tiny().vit }, ..tiny() }),
        (
            "class_token",
            MaeConfig {
                vit: VitConfig {
                    class_token: false,
                    global_pool: GlobalPool::Avg,
                    fc_norm: Some(false),
                    ..tiny().vit
                },
                ..tiny()
            },
        ),
        ("pos_embed", MaeConfig { vit: VitConfig { pos_embed: PosEmbed::RelBias, ..tiny().vit }, ..tiny() }),
        ("mask_ratio", MaeConfig { mask_ratio: 1.0, ..tiny() }),
        ("decoder_embed_dim", MaeConfig { decoder_embed_dim: 15, ..tiny() }),
        ("decoder_mlp_ratio", MaeConfig { decoder_mlp_ratio: 0.0, ..tiny() }),
    ] {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with(field), "{field}: {error}");
    }
}
