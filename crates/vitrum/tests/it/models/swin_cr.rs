//! The files, norms and limits of timm's own form of Swin V2. Its numbers are compared in `parity.rs`.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::{Value, json};
use tempfile::TempDir;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::load::{LoadOptions, load, open};
use vitrum::checkpoint::write::{WriteOptions, write_huggingface, write_safetensors, write_timm};
use vitrum::checkpoint::{Dtype, HostTensor, ModelCard, TensorMap, read};
use vitrum::layers::drop::seed;
use vitrum::layers::window::StageSizes;
use vitrum::models::swin_cr::{StageRatios, SwinCrConfig};
use vitrum::models::{Config, ConfigError, Depth, Model, ModelConfig, Network, Precision, Sizes};

use super::shared::{distance, images, loaded, logits};
use crate::formula;

const NAME: &str = "swinv2_cr_tiny_ns_224";
const SIZE: [usize; 2] = [32, 48];

fn plain() -> SwinCrConfig {
    SwinCrConfig {
        img_size: SIZE,
        num_classes: 7,
        embed_dim: 8,
        depths: vec![2, 3],
        num_heads: vec![2, 4],
        window_ratio: StageRatios::One(3),
        ..SwinCrConfig::default()
    }
}

/// With norms of sums in the second block of both stages, and at their ends.
fn normed() -> SwinCrConfig {
    SwinCrConfig { extra_norm_period: 2, extra_norm_stage: true, ..plain() }
}

/// Tensors far from their first values.
fn tensors(config: &SwinCrConfig) -> TensorMap {
    let mut map = collect(&config.init(&Device::flex(), 0).unwrap());
    for (key, tensor) in &mut map.tensors {
        let shape = tensor.shape().to_vec();
        *tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, &shape)).unwrap();
    }
    map
}

fn card(config: &SwinCrConfig) -> ModelCard {
    let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
    card.architecture = Some(NAME.into());
    card
}

/// A folder as timm has it.
fn timm_folder(config: &SwinCrConfig) -> TempDir {
    let (folder, base) = (TempDir::new().unwrap(), ModelConfig::named(NAME).unwrap());
    write_timm(folder.path(), &tensors(config), &card(config), &base, &WriteOptions::default()).unwrap();
    folder
}

/// The configuration of a timm folder's card.
fn told(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

fn model(config: &SwinCrConfig) -> Model {
    loaded(timm_folder(config).path(), Precision::F32, config.img_size).model
}

#[test]
fn walk_counts_the_modules_parameters() {
    for config in [
        plain(),
        normed(),
        SwinCrConfig { num_classes: 0, in_chans: 1, mlp_ratio: 2.6, ..normed() },
        SwinCrConfig { extra_norm_period: 1, ..plain() },
        SwinCrConfig { window_size: Some(StageSizes::of_stages(vec![[2, 4], [3, 5]])), ..plain() },
        SwinCrConfig { window_ratio: StageRatios::Stages(vec![4, 100]), patch_size: [2, 4], ..plain() },
    ] {
        let held = config.init(&Device::flex(), 0).unwrap().num_params() as u64;
        assert_eq!(config.walk().unwrap().params, held, "{config:?}");
    }
    let repeats = |config: &SwinCrConfig| -> Vec<usize> {
        let steps = config.walk().unwrap().steps;
        steps.iter().filter(|step| step.name.ends_with("norm3")).map(|step| step.repeat).collect()
    };
    assert_eq!(repeats(&plain()), [1]); // the last block
    assert_eq!(repeats(&normed()), [1, 2]);
}

#[test]
fn a_wrong_field_is_named() {
    let ratios = |ratios: &[usize]| StageRatios::Stages(ratios.to_vec());
    for (config, field) in [
        (SwinCrConfig { img_size: [3, 32], ..plain() }, "img_size"),
        (SwinCrConfig { patch_size: [0, 4], ..plain() }, "patch_size"),
        (SwinCrConfig { depths: vec![], ..plain() }, "depths"),
        (SwinCrConfig { depths: vec![2, 0], ..plain() }, "depths"),
        (SwinCrConfig { depths: vec![1; 70], ..plain() }, "depths"),
        (SwinCrConfig { embed_dim: usize::MAX, ..plain() }, "embed_dim"),
        (SwinCrConfig { num_heads: vec![2], ..plain() }, "num_heads"),
        (SwinCrConfig { num_heads: vec![3, 4], ..plain() }, "num_heads"),
        (SwinCrConfig { window_size: Some(StageSizes::square(0)), ..plain() }, "window_size"),
        (SwinCrConfig { window_size: Some(StageSizes::square(65)), ..plain() }, "window_size"),
        (SwinCrConfig { window_ratio: StageRatios::One(0), ..plain() }, "window_ratio"),
        (SwinCrConfig { window_ratio: ratios(&[8, 0]), ..plain() }, "window_ratio"),
        (SwinCrConfig { window_ratio: ratios(&[8, 8, 8]), ..plain() }, "window_ratio"),
        (SwinCrConfig { img_size: [32, 600], window_ratio: StageRatios::One(2), ..plain() }, "window_ratio"),
        (SwinCrConfig { mlp_ratio: f64::NAN, ..plain() }, "mlp_ratio"),
        (SwinCrConfig { init_values: Some(f64::NAN), ..plain() }, "init_values"),
        (SwinCrConfig { norm_eps: 0.0, ..plain() }, "norm_eps"),
        (SwinCrConfig { drop_path_rate: 1.0, ..plain() }, "drop_path_rate"),
        (SwinCrConfig { meta_drop_rate: 1.0, ..plain() }, "meta_drop_rate"),
    ] {
        let error = config.walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
}

/// Windows are a share of the map of patches, at least one position, in every stage.
#[test]
fn windows_follow_from_the_image() {
    let windows = |config: &SwinCrConfig| [0, 1].map(|stage| config.swin().window(stage));
    // Maps of 8x12 and 4x6.
    assert_eq!(windows(&plain()), [[2, 4], [2, 4]]);
    assert_eq!(windows(&SwinCrConfig { window_ratio: StageRatios::One(100), ..plain() }), [[1, 1]; 2]);
    assert_eq!(windows(&SwinCrConfig { window_ratio: StageRatios::One(1), ..plain() }), [[8, 12], [4, 6]]);
    let stages = StageRatios::Stages(vec![4, 2]);
    assert_eq!(windows(&SwinCrConfig { window_ratio: stages, ..plain() }), [[2, 3], [4, 6]]);
    let other = ModelConfig::from(plain()).with("img_size", json!([96, 96])).unwrap();
    let other: SwinCrConfig = other.try_into().unwrap();
    assert_eq!(windows(&other), [[8, 8], [8, 8]]);
    let sized = SwinCrConfig { window_size: Some(StageSizes::square(3)), ..plain() };
    assert_eq!(windows(&sized), [[3, 3]; 2]);
    // Any image that holds a patch has an answer.
    for config in [plain(), normed(), sized] {
        let model = model(&config);
        for size in [[4, 4], [33, 20], [64, 49]] {
            let answer = logits(&model, size);
            assert!(answer.len() == 14 && answer.iter().all(|value| value.is_finite()), "{size:?}");
        }
    }
}

/// Dropout in the networks of biases acts in training alone.
#[test]
fn biases_are_dropped_in_training() {
    let pass = |rate: f64, device: Device| -> Vec<f32> {
        seed(7);
        let config = SwinCrConfig { meta_drop_rate: rate, init_values: Some(1.0), ..plain() };
        let model = Model::from(config.init(&device, 3).unwrap());
        let shape = [2, 3, 32, 48];
        let x = Tensor::<4>::from_data(
            TensorData::new(formula::images(shape, 1.0), shape),
            (&device, DType::F32),
        );
        model.as_classifier().unwrap().forward(x.into()).into_data().try_to_vec().unwrap()
    };
    let plain = pass(0.5, Device::flex());
    assert_eq!(plain, pass(0.0, Device::flex()));
    assert!(distance(&plain, &pass(0.0, Device::flex().autodiff())) < 1e-5);
    let dropped = pass(0.5, Device::flex().autodiff());
    assert!(distance(&plain, &dropped) > 1e-4 && dropped.iter().all(|value| value.is_finite()));
}

#[test]
fn lower_precisions_answer_alike() {
    let folder = timm_folder(&normed());
    let exact = logits(&loaded(folder.path(), Precision::F32, SIZE).model, SIZE);
    let largest = exact.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (precision, most) in [(Precision::Bf16, 0.05), (Precision::Int8, 0.2)] {
        let model = loaded(folder.path(), precision, SIZE).model;
        assert_eq!((model.precision(), model.linears().len()), (precision, 5 * 4 + 1));
        let apart = distance(&logits(&model, SIZE), &exact);
        assert!(apart > 0.0 && apart < most * largest, "{precision:?}: {apart} of {largest}");
    }
}

#[test]
fn norms_of_sums_are_as_deep_as_their_block() {
    let model = normed().build(&Device::flex());
    for (key, depth) in [
        ("patch_embed.norm.bias", Depth::Stem),
        ("stages.0.blocks.1.attn.meta_mlp.fc1.weight", Depth::Layer(1)),
        ("stages.0.blocks.1.norm3.weight", Depth::Layer(1)),
        ("stages.1.downsample.reduction.weight", Depth::Layer(2)),
        ("stages.1.blocks.2.norm3.weight", Depth::Layer(4)),
        ("head.fc.weight", Depth::Head),
    ] {
        assert_eq!((model.depth(key), model.decays(key)), (depth, true), "{key}");
    }
}

/// torch's own first values, and norms of branches that begin at `init_values`.
#[test]
fn first_values_are_timms() {
    let wide = SwinCrConfig { embed_dim: 32, ..normed() };
    let map = collect(&wide.init(&Device::flex(), 3).unwrap());
    let of = |key: &str| map.get(key).unwrap_or_else(|| panic!("{key}")).to_f64();
    // Uniform within 1 / sqrt(inputs).
    for (key, inputs) in [
        ("patch_embed.proj.weight", 48),
        ("stages.0.blocks.0.attn.qkv.weight", 32),
        ("stages.0.blocks.0.attn.qkv.bias", 32),
        ("stages.1.downsample.reduction.weight", 128),
        ("stages.1.blocks.0.mlp.fc1.bias", 64),
        ("stages.1.blocks.0.mlp.fc2.bias", 256),
        ("stages.1.blocks.0.attn.meta_mlp.fc1.bias", 2),
        ("stages.1.blocks.0.attn.meta_mlp.fc2.weight", 384),
        ("head.fc.weight", 64),
    ] {
        let (values, bound) = (of(key), (inputs as f64).powf(-0.5));
        let deviation = (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt();
        assert!(values.iter().all(|value| value.abs() <= bound + 1e-7), "{key}");
        assert!((deviation * 3_f64.sqrt() / bound - 1.0).abs() < 0.15, "{key}: {deviation}");
    }
    let all = |key: &str, value: f64| {
        assert!(of(key).iter().all(|found| (found - value).abs() < 1e-6), "{key}: {:?}", of(key));
    };
    all("stages.0.blocks.0.norm1.weight", 0.0);
    all("stages.0.blocks.0.norm2.bias", 0.0);
    all("stages.0.blocks.1.norm3.weight", 1.0);
    all("stages.1.downsample.norm.weight", 1.0);
    all("stages.1.blocks.0.attn.logit_scale", 10_f64.ln());
    let ones = collect(&SwinCrConfig { init_values: None, ..plain() }.init(&Device::flex(), 3).unwrap());
    assert!(ones.get("stages.0.blocks.0.norm1.weight").unwrap().to_f32().iter().all(|value| *value == 1.0));
}

// ---- Files

#[test]
fn timm_folder_and_back() {
    for (config, says) in [
        (normed(), json!({"window_ratio": 3, "extra_norm_period": 2, "extra_norm_stage": null})),
        (plain(), json!({"extra_norm_stage": false, "window_size": null})),
        (
            SwinCrConfig {
                window_size: Some(StageSizes::of_stages(vec![[2, 3], [4, 4]])),
                drop_path_rate: 0.2,
                meta_drop_rate: 0.0,
                ..normed()
            },
            json!({"window_size": [[2, 3], [4, 4]], "drop_path_rate": 0.2, "meta_drop_rate": null}),
        ),
        (
            SwinCrConfig { window_ratio: StageRatios::Stages(vec![2, 4]), num_classes: 0, ..normed() },
            json!({"window_ratio": [2, 4]}),
        ),
    ] {
        let folder = timm_folder(&config);
        let json = told(folder.path());
        for (key, value) in says.as_object().unwrap() {
            assert_eq!(json["model_args"][key], *value, "{key} of {}", json["model_args"]);
        }
        let found = loaded(folder.path(), Precision::F32, SIZE);
        // It acts in training alone, and timm cannot say it.
        let expected = SwinCrConfig { meta_drop_rate: 0.125, ..config.clone() };
        assert_eq!(found.model.config(), expected.into());
        let held = collect(&found.model);
        for (key, tensor) in tensors(&config).tensors {
            assert_eq!(held.get(&key).unwrap().bytes(), tensor.bytes(), "{key}");
        }
    }
    let (folder, base) = (TempDir::new().unwrap(), ModelConfig::named(NAME).unwrap());
    let config = SwinCrConfig { norm_eps: 1e-6, ..plain() };
    let written =
        write_timm(folder.path(), &tensors(&config), &card(&config), &base, &WriteOptions::default());
    assert!(written.unwrap_err().to_string().contains("norm_eps"));
    let error =
        write_huggingface(folder.path(), &tensors(&plain()), &card(&plain()), &WriteOptions::default());
    assert!(error.unwrap_err().to_string().contains("transformers does not have"));
}

#[test]
fn arguments_of_timm_are_read() {
    let folder = timm_folder(&plain());
    let with = |args: Value| {
        let mut json = told(folder.path());
        for (key, value) in args.as_object().unwrap() {
            json["model_args"][key] = value.clone();
        }
        std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
        load(&LoadOptions::new(folder.path().to_path_buf()), &Device::flex())
    };
    let same = json!({
        "dynamic_img_size": true, "strict_img_size": false, "sequential_attn": true, "weight_init": "skip",
        "norm_layer": "layernorm",
    });
    assert_eq!(with(same).unwrap().model.config(), plain().into());
    for (key, value) in [("norm_layer", json!("rmsnorm")), ("global_pool", json!("map"))] {
        let error = with(json!({ key: value })).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
        with(json!({ key: if key == "norm_layer" { "layernorm" } else { "avg" } })).unwrap();
    }
}

/// No tensor depends on the size of the images: another size changes windows alone.
#[test]
fn files_fit_images_of_other_sizes() {
    let folder = timm_folder(&normed());
    let found = loaded(folder.path(), Precision::F32, [64, 64]);
    let report = found.report.unwrap();
    assert!(report.resized.is_empty() && report.adapted.is_empty(), "{report:?}");
    let expected = SwinCrConfig { img_size: [64, 64], ..normed() };
    assert_eq!(found.model.config(), expected.clone().into());
    assert_eq!(logits(&found.model, [64, 64]), logits(&model(&expected), [64, 64]));
    let narrow = found.model.logits_at(images([2, 2]), Sizes::Any).unwrap_err().to_string();
    assert!(narrow.contains("4x4"), "{narrow}");
}

/// The configuration of every golden case follows from its tensors, but for what tensors do not show.
#[test]
fn tensors_show_the_configuration() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/parity");
    let mut compared = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if json["config"]["family"] != "swin_cr" {
            continue;
        }
        let case: SwinCrConfig =
            serde_json::from_value::<ModelConfig>(json["config"].clone()).unwrap().try_into().unwrap();
        let mut map = TensorMap::new(&path);
        let names: Vec<(String, Vec<usize>)> = serde_json::from_value(json["tensors"].clone()).unwrap();
        for (key, shape) in names {
            let values = formula::weight(&key, &shape);
            map.tensors.insert(key, HostTensor::from_f32(shape, &values).unwrap());
        }
        let found: SwinCrConfig = to_timm(map).unwrap().card().unwrap().config.try_into().unwrap();
        let usual = SwinCrConfig::default();
        let expected = SwinCrConfig {
            in_chans: json["source_chans"].as_u64().map_or(case.in_chans, |chans| chans as usize),
            img_size: usual.img_size,
            window_size: usual.window_size,
            window_ratio: usual.window_ratio,
            always_partition: usual.always_partition,
            norm_eps: usual.norm_eps,
            global_pool: usual.global_pool,
            meta_drop_rate: usual.meta_drop_rate,
            mlp_ratio: found.mlp_ratio,
            ..case.clone()
        };
        assert_eq!(found, expected, "{}", path.display());
        let hidden = |config: &SwinCrConfig| (config.embed_dim as f64 * config.mlp_ratio) as usize;
        assert_eq!(hidden(&found), hidden(&case));
        compared += 1;
    }
    assert!(compared >= 25, "only {compared} cases were compared");
}

/// Inverse scales of timm's first files are computed in f64, and written as wide as the file.
#[test]
fn inverse_scales_become_scales() {
    let (mut map, folder) = (tensors(&plain()), TempDir::new().unwrap());
    let names: Vec<String> =
        map.names().filter(|name| name.ends_with("logit_scale")).map(Into::into).collect();
    for name in &names {
        let shape = map.tensors.remove(name).unwrap().shape().to_vec();
        let values: Vec<f32> = (0..shape[0]).map(|head| 0.1 / (head + 1) as f32).collect();
        let tau = HostTensor::from_f32(shape, &values).unwrap();
        map.tensors.insert(name.replace("logit_scale", "tau"), tau);
    }
    let head = map.tensors.remove("head.fc.weight").unwrap();
    map.tensors.insert("head.weight".into(), head);
    let head = map.tensors.remove("head.fc.bias").unwrap();
    map.tensors.insert("head.bias".into(), head);
    for dtype in [Dtype::F32, Dtype::BF16] {
        let path = folder.path().join("model.safetensors");
        write_safetensors(&path, &map, &WriteOptions { dtype: Some(dtype), overwrite: true }).unwrap();
        let converted = to_timm(read(&path).unwrap()).unwrap();
        assert_eq!(converted.map.get(&names[0]).unwrap().dtype(), Dtype::F64);
        let scales = converted.map.get(&names[0]).unwrap().to_f64();
        let most = if dtype == Dtype::F32 { 1e-6 } else { 4e-3 };
        for (head, scale) in scales.iter().enumerate() {
            assert!((scale - (10.0 * (head + 1) as f64).ln()).abs() < most, "{scale}");
        }
        let opened = open(&LoadOptions::new(path)).unwrap();
        assert_eq!(opened.tensors.get(&names[0]).unwrap().dtype(), dtype);
        assert_eq!(opened.tensors.len(), map.len());
        let config: SwinCrConfig = opened.card.config.try_into().unwrap();
        assert_eq!((config.depths, config.num_heads, config.num_classes), (vec![2, 3], vec![2, 4], 7));
    }
}

/// A norm where no options have one.
#[test]
fn a_norm_of_no_period_is_refused() {
    let (mut map, folder) = (tensors(&plain()), TempDir::new().unwrap());
    for part in ["weight", "bias"] {
        let norm = map.get("stages.0.blocks.0.norm1.weight").unwrap().clone();
        map.tensors.insert(format!("stages.0.blocks.0.norm3.{part}"), norm);
    }
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &map, &WriteOptions::default()).unwrap();
    assert_eq!(read(&path).unwrap().len(), map.len());
    let error = load(&LoadOptions::new(path), &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("norm3"), "{error}");
}
