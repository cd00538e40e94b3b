//! Int8 weights: written, loaded, made while loading; what cannot be done with them; real photographs.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use tempfile::TempDir;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::load::{LoadOptions, Loaded, ModelError, load, open};
use vitrum::checkpoint::quantize::{QuantizedLayer, is_quantized, layers, quantize_file};
use vitrum::checkpoint::write::{WriteOptions, write_quantized, write_safetensors, write_timm};
use vitrum::checkpoint::{Dtype, HostTensor, ModelCard, TensorMap, read};
use vitrum::data::{DecodeOptions, decode};
use vitrum::models::{Config, Model, Network, Precision, VitConfig, catalogue};
use vitrum::tasks::Classifier;

use crate::data::decode::real_data;

pub fn config() -> VitConfig {
    let base = VitConfig::try_from(catalogue::entry("test_vit").unwrap().config.clone()).unwrap();
    VitConfig { img_size: [32, 32], patch_size: [8, 8], depth: 2, num_classes: 5, ..base }
}

fn card() -> ModelCard {
    let mut card = ModelCard::new(config(), CardSource::Timm, "");
    card.architecture = Some("test_vit".into());
    card
}

/// A model whose layers are far from zero, as tensors of a file.
fn tensors() -> TensorMap {
    let mut map = collect(&Model::Vit(config().init(&Device::flex(), 3).unwrap()));
    for tensor in map.tensors.values_mut() {
        let values: Vec<f32> =
            tensor.to_f32().iter().enumerate().map(|(i, v)| 4.0 * v + 0.01 * (i % 7) as f32).collect();
        *tensor = HostTensor::from_f32(tensor.shape().to_vec(), &values).unwrap();
    }
    map
}

/// Folders `float` and `int8` with one model.
pub fn folders(skip: &[&str]) -> (TempDir, Vec<QuantizedLayer>) {
    let folder = TempDir::new().unwrap();
    let base = &catalogue::entry("test_vit").unwrap().config;
    let (mut map, options) = (tensors(), WriteOptions::default());
    write_timm(&folder.path().join("float"), &map, &card(), base, &options).unwrap();
    let skip: Vec<String> = skip.iter().map(ToString::to_string).collect();
    let layers = quantize_file(&mut map, &layers(&config().into()).unwrap(), &skip);
    write_quantized(&folder.path().join("int8"), &map, &card(), base, &layers, &options).unwrap();
    (folder, layers)
}

pub fn options(path: &Path) -> LoadOptions<'static> {
    LoadOptions::new(path)
}

pub fn loaded(path: &Path, precision: Precision) -> Loaded {
    load(&LoadOptions { precision, ..options(path) }, &Device::flex()).unwrap()
}

pub fn images() -> Tensor<4> {
    let values: Vec<f32> = (0..2 * 3 * 32 * 32).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    Tensor::from_data(TensorData::new(values, [2, 3, 32, 32]), (&Device::flex(), DType::F32))
}

pub fn logits(model: &Model) -> Vec<f32> {
    model.as_classifier().unwrap().forward(images().into()).into_data().try_to_vec().unwrap()
}

#[test]
fn a_written_model_answers_like_the_float_one() {
    let (folder, layers) = folders(&[]);
    let (float, int8) = (folder.path().join("float"), folder.path().join("int8"));
    let names: Vec<&str> = layers.iter().map(|layer| layer.layer.as_str()).collect();
    let of_block =
        |i: usize| ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"].map(|l| format!("blocks.{i}.{l}"));
    assert_eq!(names, [of_block(0), of_block(1)].concat());
    assert!(layers.iter().all(|layer| layer.error > 0.0 && layer.error < 0.02), "{layers:?}");

    let file = read(int8.join("model.safetensors")).unwrap();
    assert!(is_quantized(&file) && !is_quantized(&read(float.join("model.safetensors")).unwrap()));
    let [weight, scale] =
        ["weight", "weight_scale"].map(|end| file.get(&format!("blocks.1.mlp.fc1.{end}")).unwrap());
    let (d, f) = (config().embed_dim, config().mlp_hidden_dim());
    assert_eq!((weight.dtype(), weight.shape()), (Dtype::I8, &[f, d][..]));
    assert_eq!((scale.dtype(), scale.shape()), (Dtype::F32, &[f][..]));
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(int8.join("config.json")).unwrap()).unwrap();
    assert_eq!(json["vitrum_quantization"]["layers"].as_array().unwrap().len(), 8);

    let (before, after) = (loaded(&float, Precision::F32), loaded(&int8, Precision::F32));
    assert_eq!(after.model.quantized_layers(), 8);
    assert_eq!(after.report.as_ref().unwrap().loaded.len(), before.report.as_ref().unwrap().loaded.len());
    let (exact, found) = (logits(&before.model), logits(&after.model));
    let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
    let gap: Vec<f32> = exact.iter().zip(&found).map(|(a, b)| a - b).collect();
    assert!(norm(&gap) > 0.0 && norm(&gap) < 0.05 * norm(&exact), "{exact:?} {found:?}");

    // Three ways to the same eight bits.
    let while_loading = loaded(&float, Precision::Int8);
    assert_eq!(while_loading.model.quantized_layers(), 8);
    assert_eq!(logits(&while_loading.model), found);
    let afterwards = before.model.quantize(&[]).unwrap();
    assert_eq!(logits(&afterwards), found);
}

#[test]
fn skipped_layers_stay_floats() {
    let (folder, layers) = folders(&["blocks.0.*", "*.mlp.fc2.weight"]);
    let names: Vec<&str> = layers.iter().map(|layer| layer.layer.as_str()).collect();
    assert_eq!(names, ["blocks.1.attn.qkv", "blocks.1.attn.proj", "blocks.1.mlp.fc1"]);
    let some = loaded(&folder.path().join("int8"), Precision::F32);
    assert_eq!(some.model.quantized_layers(), 3);
    let float = loaded(&folder.path().join("float"), Precision::F32);
    let same = float.model.quantize(&["blocks.0.*".into(), "*.mlp.fc2".into()]).unwrap();
    assert_eq!(logits(&same), logits(&some.model));
    // The rest can be turned while loading.
    let all = loaded(&folder.path().join("int8"), Precision::Int8);
    assert_eq!(all.model.quantized_layers(), 8);
}

#[test]
fn parameters_of_a_quantised_model_are_what_its_numbers_stand_for() {
    let float = Model::Vit(config().init(&Device::flex(), 3).unwrap());
    let int8 = float.clone().quantize(&[]).unwrap();
    let (before, after) = (collect(&float), collect(&int8));
    assert_eq!(before.names().collect::<Vec<_>>(), after.names().collect::<Vec<_>>());
    for (key, tensor) in &before.tensors {
        let (ours, theirs) = (after.get(key).unwrap().to_f32(), tensor.to_f32());
        let block = key.starts_with("blocks.") && !key.contains("norm") && key.ends_with(".weight");
        assert_eq!(ours != theirs, block, "{key}");
        let columns = *tensor.shape().last().unwrap();
        for (ours, theirs) in ours.chunks(columns).zip(theirs.chunks(columns)) {
            let largest = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= largest * 0.5001 / 127.0), "{key}");
        }
    }
}

#[test]
fn what_needs_floats_is_refused() {
    let (folder, _) = folders(&[]);
    let (float, int8) = (folder.path().join("float"), folder.path().join("int8"));
    let refused =
        |options: LoadOptions<'_>| load(&options, &Device::flex()).expect_err("refused").to_string();
    let text = refused(LoadOptions { floats_only: true, ..options(&int8) });
    assert!(text.contains("model.safetensors: int8 weights, which cannot be trained\nhint:"), "{text}");
    let text = refused(LoadOptions { dtype: DType::F64, ..options(&int8) });
    assert!(text.contains("int8 weights, which run only in f32"), "{text}");
    let text = refused(LoadOptions { dtype: DType::F64, precision: Precision::Int8, ..options(&float) });
    assert!(text.contains("precision int8: the rest is computed in f32, not in f64"), "{text}");
    let text = open(&options(&int8)).expect_err("refused").to_string();
    assert!(text.contains("neither converted nor quantised again\nhint:"), "{text}");
}

#[test]
fn damaged_weights_in_eight_bits_are_named() {
    let (folder, _) = folders(&[]);
    let whole = read(folder.path().join("int8/model.safetensors")).unwrap();
    let damaged = |change: &dyn Fn(&mut TensorMap)| {
        let mut map = whole.clone();
        change(&mut map);
        let how = WriteOptions { overwrite: true, ..WriteOptions::default() };
        write_safetensors(&folder.path().join("int8/model.safetensors"), &map, &how).unwrap();
        load(&options(&folder.path().join("int8")), &Device::flex()).expect_err("damaged")
    };
    let (key, scale) = ("blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.weight_scale");
    let error = damaged(&|map| {
        let short = map.get(scale).unwrap().slice(0, 0..7).unwrap();
        map.tensors.insert(scale.into(), short);
    });
    let text = error.to_string();
    assert!(text.contains(scale) && text.contains("expected a floating-point number for each row"), "{text}");
    let error = damaged(&|map| {
        let short = map.get(key).unwrap().slice(1, 0..3).unwrap();
        map.tensors.insert(key.into(), short);
    });
    let ModelError::Refused { report, .. } = error else { panic!("{error}") };
    assert_eq!(report.mismatched.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), [key]);
    let error = damaged(&|map| drop(map.tensors.remove(key)));
    let ModelError::Refused { report, .. } = error else { panic!("{error}") };
    assert_eq!((report.missing, report.unexpected), (vec![key.to_string()], vec![scale.to_string()]));
}

/// The classes of 200 photographs, by the float model and in eight bits. Two may differ; what did when this was
/// written stands in `docs/models.md`.
#[test]
fn a_real_model_in_eight_bits_agrees_with_itself() {
    let (Some(model), Some(images)) =
        (real_data("vit_tiny_patch16_224"), real_data("imagenet-sample/images"))
    else {
        return;
    };
    let float = Classifier::load(&model).unwrap();
    let int8 = Classifier::new(loaded(&model, Precision::Int8), Device::flex()).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(images).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 200);
    let mut differ = HashMap::new();
    for batch in files.chunks(8) {
        let open = |file| decode::open(file, &DecodeOptions::timm()).unwrap();
        let pictures: Vec<_> = batch.iter().map(open).collect();
        let answers = [&float, &int8].map(|model| model.predict(&pictures, 1).unwrap());
        for (i, file) in batch.iter().enumerate() {
            if answers[0][i][0].index != answers[1][i][0].index {
                differ.insert(file, (answers[0][i][0].clone(), answers[1][i][0].clone()));
            }
        }
    }
    println!("{} of 200 differ: {differ:?}", differ.len());
    assert!(differ.len() <= 2, "{differ:?}");
}

#[test]
fn a_fresh_model_is_quantised_too() {
    let options =
        LoadOptions { needs_weights: false, precision: Precision::Int8, ..LoadOptions::new("test_vit") };
    let loaded = load(&options, &Device::flex()).unwrap();
    let config = VitConfig::try_from(loaded.model.config()).unwrap();
    assert_eq!(loaded.model.quantized_layers(), 4 * config.depth);
}

#[test]
fn packing_keeps_the_answers_and_the_parameters() {
    let (folder, _) = folders(&[]);
    let plain = loaded(&folder.path().join("float"), Precision::F32).model;
    let (answers, before) = (logits(&plain), collect(&plain));
    let mut packed = plain.pack();
    assert!(packed.linears().iter().all(|(_, layer)| layer.packed().is_some()));
    assert_eq!(logits(&packed), answers);
    assert_eq!(packed.logits(images()).unwrap().into_data().try_to_vec::<f32>().unwrap(), answers);
    for (key, tensor) in &collect(&packed).tensors {
        assert_eq!(tensor.to_f32(), before.get(key).unwrap().to_f32(), "{key}");
    }
    packed.forget_prepared();
    assert_eq!(logits(&packed), answers, "unpacked again");

    // What is in eight bits stays so, and what is packed can still be quantised.
    let int8 = loaded(&folder.path().join("int8"), Precision::F32).model;
    let of_eight_bits = logits(&int8);
    let still = int8.pack();
    assert_eq!((still.quantized_layers(), logits(&still)), (8, of_eight_bits.clone()));
    let quantized = packed.pack().quantize(&[]).unwrap();
    assert_eq!((quantized.quantized_layers(), logits(&quantized)), (8, of_eight_bits));
}
