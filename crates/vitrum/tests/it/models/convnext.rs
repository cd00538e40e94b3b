//! ConvNeXt's files and limits. Its numbers are compared in `parity.rs`.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::Value;
use tempfile::TempDir;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::load::{LoadOptions, Loaded, load, open};
use vitrum::checkpoint::quantize::{layers, quantize_file};
use vitrum::checkpoint::write::{
    WriteOptions, write_huggingface, write_quantized, write_safetensors, write_timm,
};
use vitrum::checkpoint::{HostTensor, ModelCard, TensorMap, read};
use vitrum::layers::norm::NormLayer;
use vitrum::models::convnext::{ConvNextConfig, ConvNextStem};
use vitrum::models::{Config, ConfigError, Depth, Model, ModelConfig, Network, Precision};

use crate::compare::largest;
use crate::formula;

fn first_version() -> ConvNextConfig {
    ConvNextConfig {
        img_size: [32, 48],
        num_classes: 7,
        depths: [1, 1, 2, 1],
        dims: [8, 16, 24, 32],
        ..ConvNextConfig::default()
    }
}

fn second_version() -> ConvNextConfig {
    ConvNextConfig { use_grn: true, ls_init_value: None, ..first_version() }
}

/// Tensors far from their first values, under timm's names and with linear layers as matrices.
fn tensors(config: &ConvNextConfig) -> TensorMap {
    let mut map = collect(&config.init(&Device::flex(), 0).unwrap());
    for (key, tensor) in &mut map.tensors {
        let shape = tensor.shape().to_vec();
        *tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, &shape)).unwrap();
    }
    map
}

fn card(config: &ConvNextConfig) -> ModelCard {
    let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
    card.architecture = Some("convnext_tiny".into());
    card
}

fn images() -> Tensor<4> {
    let shape = [2, 3, 32, 48];
    Tensor::from_data(TensorData::new(formula::images(shape, 1.0), shape), (&Device::flex(), DType::F32))
}

fn logits(model: &Model) -> Vec<f32> {
    model.as_classifier().unwrap().forward(images().into()).into_data().try_to_vec().unwrap()
}

fn loaded(path: &Path, precision: Precision) -> Loaded {
    let options = LoadOptions { precision, img_size: Some([32, 48]), ..LoadOptions::new(path.to_path_buf()) };
    load(&options, &Device::flex()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The largest difference.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    largest(a.iter().zip(b).map(|(a, b)| (a - b).abs())) as f32
}

/// A file of a map alone, without a configuration.
fn file(map: &TensorMap) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, map, &WriteOptions::default()).unwrap();
    (folder, path)
}

#[test]
fn walk_counts_the_modules_parameters() {
    let plain = first_version;
    for config in [
        plain(),
        second_version(),
        ConvNextConfig { stem_type: ConvNextStem::OverlapTiered, conv_bias: false, ..plain() },
        ConvNextConfig { stem_type: ConvNextStem::OverlapAct, in_chans: 1, ..plain() },
        ConvNextConfig { patch_size: 2, kernel_sizes: [3, 5, 9, 1], ..plain() },
        ConvNextConfig { head_norm_first: true, ..plain() },
        ConvNextConfig { head_hidden_size: Some(5), ..plain() },
        ConvNextConfig { head_hidden_size: Some(5), num_classes: 0, ..plain() },
    ] {
        let held = config.init(&Device::flex(), 0).unwrap().num_params() as u64;
        assert_eq!(config.walk().unwrap().params, held, "{config:?}");
    }
}

#[test]
fn a_wrong_field_is_named() {
    let plain = first_version;
    for (config, field) in [
        (ConvNextConfig { img_size: [32, 31], ..plain() }, "img_size"),
        (ConvNextConfig { img_size: [3, 32], ..plain() }, "img_size"),
        (ConvNextConfig { depths: [1, 0, 1, 1], ..plain() }, "depths"),
        (ConvNextConfig { dims: [8, 16, 24, usize::MAX], ..plain() }, "dims"),
        (ConvNextConfig { dims: [8, 16, 24, 1 << 15], ..plain() }, "dims"),
        (ConvNextConfig { kernel_sizes: [7, 7, 4, 7], ..plain() }, "kernel_sizes"),
        (ConvNextConfig { patch_size: 0, ..plain() }, "patch_size"),
        (ConvNextConfig { patch_size: 8, img_size: [512, 512], ..plain() }, "patch_size"),
        (ConvNextConfig { head_hidden_size: Some(0), ..plain() }, "head_hidden_size"),
        (ConvNextConfig { head_hidden_size: Some(4), head_norm_first: true, ..plain() }, "head_hidden_size"),
        (ConvNextConfig { ls_init_value: Some(f64::NAN), ..plain() }, "ls_init_value"),
        (ConvNextConfig { head_init_scale: f64::INFINITY, ..plain() }, "head_init_scale"),
        (ConvNextConfig { norm_eps: 0.0, ..plain() }, "norm_eps"),
        (ConvNextConfig { head_norm_eps: Some(0.0), ..plain() }, "head_norm_eps"),
        (ConvNextConfig { drop_path_rate: 1.0, ..plain() }, "drop_path_rate"),
    ] {
        let error = config.walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
    let config = ModelConfig::from(plain());
    let patches = |size: serde_json::Value| config.with("patch_size", size);
    assert_eq!(patches(serde_json::json!([2, 2])).unwrap().field("patch_size"), Some(2.into()));
    let error = patches(serde_json::json!([4, 2])).unwrap_err().to_string();
    assert_eq!(error, "patch_size: takes one number, found [4,2]");
    let three = serde_json::from_str::<ModelConfig>(r#"{"family": "convnext", "depths": [1, 1, 1]}"#);
    assert!(three.unwrap_err().to_string().contains("length 3"));
}

/// The error says the least side, and an image of that side leaves one position in the last map.
#[test]
fn the_least_side_of_an_image_is_said() {
    let of = |stem_type, patch_size| ConvNextConfig { stem_type, patch_size, ..first_version() };
    for (config, least) in [
        (of(ConvNextStem::Patch, 4), 32),
        (of(ConvNextStem::Patch, 2), 32),
        (of(ConvNextStem::Patch, 1), 8),
        (of(ConvNextStem::Patch, 7), 56),
        (of(ConvNextStem::Overlap, 4), 29),
        (of(ConvNextStem::OverlapTiered, 4), 29),
        (of(ConvNextStem::OverlapAct, 4), 29),
    ] {
        for (img_size, is_large) in
            [([least; 2], true), ([least - 1, least], false), ([2 * least, least - 1], false)]
        {
            let config = ConvNextConfig { img_size, ..config.clone() };
            let [h, w] = img_size;
            let reason = format!("is {h}x{w}, expected at least {least}x{least}");
            let refused = ConfigError::Field { field: "img_size", reason };
            assert_eq!(config.validate(), if is_large { Ok(()) } else { Err(refused) });
        }
        let config = ConvNextConfig { img_size: [least; 2], ..config };
        assert_eq!(config.map_grid(), Some([1, 1]), "{config:?}");
        let images = Tensor::<4>::ones([1, 3, least, least], &Device::flex());
        let model = Model::from(config.init(&Device::flex(), 0).unwrap());
        assert_eq!(model.logits(images).unwrap().dims(), [1, 7]);
    }
}

#[test]
fn what_precedes_a_stage_is_as_deep_as_its_first_block() {
    let model = ConvNextConfig { head_norm_first: true, ..first_version() }.build(&Device::flex());
    for (key, depth) in [
        ("stem.0.weight", Depth::Stem),
        ("stages.0.blocks.0.conv_dw.weight", Depth::Layer(0)),
        ("stages.2.downsample.0.bias", Depth::Layer(2)),
        ("stages.2.blocks.0.gamma", Depth::Layer(2)),
        ("stages.2.blocks.1.mlp.fc2.weight", Depth::Layer(3)),
        ("stages.3.downsample.1.weight", Depth::Layer(4)),
        ("norm_pre.weight", Depth::Close),
        ("head.norm.weight", Depth::Head),
        ("head.fc.weight", Depth::Head),
    ] {
        assert_eq!(model.depth(key), depth, "{key}");
    }
}

/// The head's first values are scaled; those of its hidden layer too, as in timm.
#[test]
fn first_values_are_timms() {
    let config = ConvNextConfig { head_hidden_size: Some(64), head_init_scale: 0.01, ..second_version() };
    let map = collect(&config.init(&Device::flex(), 3).unwrap());
    let deviation = |key: &str| {
        let values = map.get(key).unwrap().to_f64();
        (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
    };
    for key in ["stem.0.weight", "stages.3.downsample.1.weight", "stages.3.blocks.0.mlp.fc1.weight"] {
        assert!((deviation(key) / 0.02 - 1.0).abs() < 0.1, "{key}: {}", deviation(key));
    }
    for key in ["head.pre_logits.fc.weight", "head.fc.weight"] {
        assert!((deviation(key) / 2e-4 - 1.0).abs() < 0.1, "{key}: {}", deviation(key));
    }
    for key in ["stem.0.bias", "stages.0.blocks.0.mlp.grn.weight", "stages.0.blocks.0.mlp.grn.bias"] {
        assert_eq!(deviation(key), 0.0, "{key}");
    }
    let gain = collect(&first_version().init(&Device::flex(), 3).unwrap());
    assert!(gain.get("stages.2.blocks.1.gamma").unwrap().to_f32().iter().all(|&value| value == 1e-6));
}

// ---- Files

/// With `conv_mlp` timm's file holds kernels. They are read in every precision.
#[test]
fn linear_layers_as_kernels_are_written_and_read() {
    let config = ConvNextConfig { conv_mlp: true, ..second_version() };
    let map = tensors(&config);
    let folder = TempDir::new().unwrap();
    let base = ConvNextConfig::default().into();
    write_timm(folder.path(), &map, &card(&config), &base, &WriteOptions::default()).unwrap();
    let path = folder.path().join("model.safetensors");
    let written = read(&path).unwrap();
    assert_eq!(written.get("stages.2.blocks.1.mlp.fc1.weight").unwrap().shape(), [96, 24, 1, 1]);
    assert_eq!(written.get("head.fc.weight").unwrap().shape(), [7, 32]);
    let json: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(json["model_args"]["conv_mlp"], true);
    assert_eq!(json["model_args"]["ls_init_value"], Value::Null);
    std::fs::remove_file(folder.path().join("config.json")).unwrap();

    let exact = loaded(&path, Precision::F32);
    assert_eq!(exact.model.config().field("conv_mlp"), Some(true.into()));
    let (_kept, matrices) = file(&map);
    assert_eq!(logits(&exact.model), logits(&loaded(&matrices, Precision::F32).model));
    for (precision, most) in [(Precision::Bf16, 0.05), (Precision::Int8, 0.2)] {
        let rounded = loaded(&path, precision);
        assert_eq!(rounded.model.precision(), precision);
        assert_eq!(rounded.model.linears().len(), 10);
        let answer = logits(&exact.model);
        let far = distance(&answer, &logits(&rounded.model));
        let largest = distance(&answer, &[0.0; 14]);
        assert!(far > 0.0 && far < most * largest, "{precision:?}: {far} of {largest}");
    }
    let opened = open(&LoadOptions::new(path)).unwrap();
    assert_eq!(opened.tensors.get("stages.2.blocks.1.mlp.fc1.weight").unwrap().shape(), [96, 24]);
}

#[test]
fn int8_weights_as_kernels_are_written_and_read() {
    let config = ConvNextConfig { conv_mlp: true, ..first_version() };
    let (mut map, base) = (tensors(&config), ConvNextConfig::default().into());
    let (_kept, float) = file(&map);
    let names = layers(&config.clone().into()).unwrap();
    let quantized = quantize_file(&mut map, &names, &["stages.0.*".into()]);
    assert_eq!(quantized.len(), 8);
    let folder = TempDir::new().unwrap();
    write_quantized(folder.path(), &map, &card(&config), &base, &quantized, &WriteOptions::default())
        .unwrap();
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    let path = folder.path().join("model.safetensors");
    assert_eq!(read(&path).unwrap().get("stages.1.blocks.0.mlp.fc2.weight").unwrap().shape(), [16, 64, 1, 1]);
    let found = loaded(&path, Precision::F32);
    assert_eq!(found.model.quantized_layers(), 8);
    let made = loaded(&float, Precision::F32).model.quantize(&["stages.0.*".into()]).unwrap();
    assert_eq!(logits(&found.model), logits(&made));
}

#[test]
fn transformers_folder_and_back() {
    let other_eps = |config| ConvNextConfig { head_norm_eps: Some(1e-12), drop_path_rate: 0.25, ..config };
    for (config, prefix) in [
        (first_version(), "convnext."),
        (other_eps(second_version()), "convnextv2."),
        (ConvNextConfig { ls_init_value: None, ..first_version() }, "convnext."),
        (ConvNextConfig { num_classes: 0, ..first_version() }, ""),
        (ConvNextConfig { num_classes: 0, conv_mlp: true, ..second_version() }, ""),
    ] {
        let (folder, map) = (TempDir::new().unwrap(), tensors(&config));
        write_huggingface(folder.path(), &map, &card(&config), &WriteOptions::default()).unwrap();
        let written = read(folder.path().join("model.safetensors")).unwrap();
        let shape = |key: &str| {
            written.get(&format!("{prefix}encoder.stages.0.layers.0.{key}")).map(HostTensor::shape)
        };
        assert_eq!(shape("pwconv1.weight"), Some(&[32, 8][..]));
        assert_eq!(shape("grn.weight"), config.use_grn.then_some(&[1, 1, 1, 32][..]));
        assert_eq!(shape("layer_scale_parameter"), config.ls_init_value.map(|_| &[8][..]));
        let found = loaded(folder.path(), Precision::F32);
        // transformers has no kernels here.
        let expected = ConvNextConfig { conv_mlp: false, ..config };
        assert_eq!(found.model.config(), expected.clone().into());
        let (_kept, path) = file(&map);
        let own = loaded(&path, Precision::F32);
        let far = distance(&logits(&own.model), &logits(&found.model));
        assert!(far < 1e-4, "{far}");
    }
    for config in [
        ConvNextConfig { patch_size: 2, ..first_version() },
        ConvNextConfig { kernel_sizes: [5; 4], ..first_version() },
        ConvNextConfig { norm_eps: 1e-5, ..first_version() },
        ConvNextConfig { use_grn: true, ..first_version() },
    ] {
        let folder = TempDir::new().unwrap();
        let written =
            write_huggingface(folder.path(), &tensors(&config), &card(&config), &WriteOptions::default());
        assert!(written.unwrap_err().to_string().contains("transformers"), "{config:?}");
    }
}

/// V2's pretraining saves no norm and no head behind the last stage.
#[test]
fn files_of_pretraining_have_no_head() {
    let mut map = tensors(&second_version());
    map.tensors.retain(|key, _| !key.starts_with("head."));
    let (_kept, path) = file(&map);
    let found = loaded(&path, Precision::F32);
    assert_eq!(found.model.config().num_classes(), 0);
    assert!(found.notes.iter().any(|note| note.contains("no last norm")), "{:?}", found.notes);
    let held = collect(&found.model);
    assert_eq!(held.get("head.norm.weight").unwrap().to_f32(), [1.0; 32]);
    assert_eq!(held.get("head.norm.bias").unwrap().to_f32(), [0.0; 32]);
    // One that lost only its norm is refused.
    let mut broken = tensors(&second_version());
    broken.tensors.retain(|key, _| !key.starts_with("head.norm"));
    let (_kept, path) = file(&broken);
    let error = load(&LoadOptions::new(path), &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("head.norm.weight"), "{error}");
}

/// OpenCLIP holds timm's model as the trunk of its image tower; the projection is beside it and has no bias.
#[test]
fn an_open_clip_tower_is_read() {
    let config = ConvNextConfig { head_hidden_size: Some(12), ..first_version() };
    let mut map = TensorMap::new("clip");
    for (key, tensor) in tensors(&config).tensors {
        let name = match key.as_str() {
            "head.fc.bias" => continue,
            "head.fc.weight" => "visual.head.mlp.fc2.weight".into(),
            "head.pre_logits.fc.weight" => "visual.head.mlp.fc1.weight".into(),
            "head.pre_logits.fc.bias" => "visual.head.mlp.fc1.bias".into(),
            key => format!("visual.trunk.{key}"),
        };
        map.tensors.insert(name, tensor);
    }
    map.tensors.insert("logit_scale".into(), HostTensor::from_f32(vec![], &[1.0]).unwrap());
    let (_kept, path) = file(&map);
    let found = loaded(&path, Precision::F32);
    assert_eq!(found.model.config().field("head_hidden_size"), Some(12.into()));
    assert_eq!(found.model.config().num_classes(), 7);
    assert_eq!(collect(&found.model).get("head.fc.bias").unwrap().to_f32(), [0.0; 7]);
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
        if json["config"]["family"] != "convnext" {
            continue;
        }
        let case: ConvNextConfig =
            serde_json::from_value::<ModelConfig>(json["config"].clone()).unwrap().try_into().unwrap();
        let mut map = TensorMap::new(&path);
        for (key, shape) in
            serde_json::from_value::<Vec<(String, Vec<usize>)>>(json["tensors"].clone()).unwrap()
        {
            let values = formula::weight(&key, &shape);
            map.tensors.insert(key, HostTensor::from_f32(shape, &values).unwrap());
        }
        let converted = to_timm(map).unwrap();
        let found: ConvNextConfig = converted.card().unwrap().config.try_into().unwrap();
        let source_chans = json["source_chans"].as_u64().map(|chans| chans as usize);
        let expected = ConvNextConfig {
            in_chans: source_chans.unwrap_or(case.in_chans),
            // Other libraries hold matrices.
            conv_mlp: case.conv_mlp && json["dialect"] == "timm",
            // Tensors do not show these.
            img_size: found.img_size,
            ls_init_value: case.ls_init_value.and(found.ls_init_value),
            head_init_scale: found.head_init_scale,
            act_layer: found.act_layer,
            // Both forms without an offset have the same tensors.
            norm_layer: match case.norm_layer {
                NormLayer::LayerNorm => NormLayer::LayerNorm,
                NormLayer::RmsNorm | NormLayer::SimpleNorm => NormLayer::RmsNorm,
            },
            norm_eps: found.norm_eps,
            head_norm_eps: (json["dialect"] == "huggingface").then_some(1e-12),
            global_pool: found.global_pool,
            ..case
        };
        assert_eq!(found, expected, "{}", path.display());
        compared += 1;
    }
    assert!(compared >= 48, "only {compared} cases were compared");
}
