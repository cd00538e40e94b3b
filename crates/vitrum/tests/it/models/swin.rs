//! Swin's files, windows and limits. Its numbers are compared in `parity.rs`.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use vitrum::checkpoint::apply::{Excuses, apply, collect};
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::checkpoint::write::{WriteOptions, write_huggingface, write_safetensors, write_timm};
use vitrum::checkpoint::{HostTensor, ModelCard, TensorMap, read};
use vitrum::layers::names::{Key, Map, map};
use vitrum::layers::window::{StageSizes, Windows, window_attention};
use vitrum::models::swin::{SwinConfig, SwinVersion, WindowFit};
use vitrum::models::{Config, ConfigError, Depth, Model, ModelConfig, Network, Precision, Sizes};

use super::shared::{card, images, loaded, logits, tensors};
use crate::formula;

/// Height and width of the images.
const SIZE: [usize; 2] = [32, 48];

fn first_version() -> SwinConfig {
    SwinConfig {
        img_size: [32, 48],
        num_classes: 7,
        embed_dim: 8,
        depths: vec![2, 2],
        num_heads: vec![2, 4],
        window_size: StageSizes::square(3),
        ..SwinConfig::default()
    }
}

fn second_version() -> SwinConfig {
    SwinConfig { version: SwinVersion::V2, ..first_version() }
}

fn model(config: &SwinConfig) -> Model {
    let model = Model::from(config.skeleton(&Device::flex()).unwrap());
    apply(model, tensors(config), DType::F32, &Excuses::default()).unwrap().0
}

#[test]
fn walk_counts_the_modules_parameters() {
    for config in [
        first_version(),
        second_version(),
        SwinConfig { qkv_bias: false, num_classes: 0, ..first_version() },
        SwinConfig { qkv_bias: false, mlp_ratio: 1.5, ..second_version() },
        SwinConfig { head_dim: Some(5), ..first_version() },
        // The last map, 4x6, is smaller than a window: so is its table of biases.
        SwinConfig { window_size: StageSizes::square(7), ..first_version() },
        SwinConfig { window_size: StageSizes::square(7), always_partition: true, ..first_version() },
        SwinConfig { window_size: StageSizes::of_stages(vec![[2, 4], [3, 5]]), ..first_version() },
        SwinConfig { patch_size: [2, 4], in_chans: 1, ..second_version() },
    ] {
        let held = config.init(&Device::flex(), 0).unwrap().num_params() as u64;
        assert_eq!(config.walk().unwrap().params, held, "{config:?}");
    }
}

#[test]
fn a_wrong_field_is_named() {
    let plain = first_version;
    for (config, field) in [
        (SwinConfig { img_size: [3, 32], ..plain() }, "img_size"),
        (SwinConfig { img_size: [32, 1 << 20], ..plain() }, "img_size"),
        (SwinConfig { patch_size: [0, 4], ..plain() }, "patch_size"),
        (SwinConfig { depths: vec![], ..plain() }, "depths"),
        (SwinConfig { depths: vec![2, 0], ..plain() }, "depths"),
        (SwinConfig { depths: vec![1; 70], ..plain() }, "depths"),
        (SwinConfig { embed_dim: 0, ..plain() }, "embed_dim"),
        (SwinConfig { embed_dim: usize::MAX, ..plain() }, "embed_dim"),
        (SwinConfig { num_heads: vec![2], ..plain() }, "num_heads"),
        (SwinConfig { num_heads: vec![2, 0], ..plain() }, "num_heads"),
        (SwinConfig { num_heads: vec![3, 4], ..plain() }, "num_heads"),
        (SwinConfig { head_dim: Some(0), ..plain() }, "head_dim"),
        (SwinConfig { head_dim: Some(usize::MAX), ..plain() }, "head_dim"),
        (SwinConfig { head_dim: Some(4), ..second_version() }, "head_dim"),
        (SwinConfig { window_size: StageSizes::square(0), ..plain() }, "window_size"),
        (SwinConfig { window_size: StageSizes::square(65), ..plain() }, "window_size"),
        (
            SwinConfig { window_size: StageSizes::of_stages(vec![[1, 1], [2, 2], [3, 3]]), ..plain() },
            "window_size",
        ),
        (SwinConfig { pretrained_window_sizes: StageSizes::square(4), ..plain() }, "pretrained_window_sizes"),
        (SwinConfig { mlp_ratio: f64::NAN, ..plain() }, "mlp_ratio"),
        (SwinConfig { mlp_ratio: 0.01, ..plain() }, "mlp_ratio"),
        (SwinConfig { mlp_ratio: 1e9, ..plain() }, "mlp_ratio"),
        (SwinConfig { norm_eps: 0.0, ..plain() }, "norm_eps"),
        (SwinConfig { drop_path_rate: 1.0, ..plain() }, "drop_path_rate"),
    ] {
        let error = config.walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
}

#[test]
fn sizes_of_windows_have_a_shortest_form() {
    for (text, form) in [
        ("7", "7"),
        ("[7, 7]", "7"),
        ("[7, 8]", "[7,8]"),
        ("[7, 7, 14, 7]", "[7,7,14,7]"),
        ("[[7, 7], [7, 7], [7, 7]]", "7"),
        ("[[7, 8], 9, [3, 3]]", "[[7,8],9,3]"),
        ("[[7, 7], [8, 8]]", "[[7,7],[8,8]]"),
    ] {
        let sizes: StageSizes = serde_json::from_str(text).unwrap();
        let written = serde_json::to_string(&sizes).unwrap();
        assert_eq!(written, form);
        assert_eq!(serde_json::from_str::<StageSizes>(&written).unwrap(), sizes);
    }
    for text in ["[]", "-1", "\"7\"", "[7, [8]]", "[[1, 2, 3]]", "null"] {
        assert!(serde_json::from_str::<StageSizes>(text).is_err(), "{text}");
    }
    let config = ModelConfig::from(first_version());
    let other = config.with("window_size", json!(5)).unwrap();
    assert_eq!(other.field("window_size"), Some(json!(5)));
}

/// Windows of a map that they divide, without a shift, are the map; attention in one window is attention.
#[test]
fn windows_are_cut_and_put_together() {
    let device = Device::flex();
    let x = |n: usize, d: usize| {
        let values = formula::noise("map", 2 * n * d);
        Tensor::<3>::from_data(TensorData::new(values, [2, n, d]), (&device, DType::F64))
    };
    for (grid, window, shift) in [
        ([6, 8], [3, 4], [0, 0]),
        ([6, 8], [3, 4], [1, 2]),
        ([5, 7], [3, 4], [1, 2]),
        ([2, 3], [4, 4], [2, 0]),
        ([1, 9], [1, 2], [0, 1]),
    ] {
        for pad_first in [false, true] {
            let windows = Windows { grid, window, shift, pad_first };
            let map = x(grid[0] * grid[1], 3);
            let cut = windows.partition(map.clone(), None);
            assert_eq!(cut.dims(), [2 * windows.count(), windows.area(), 3]);
            assert_eq!(windows.reverse(cut.clone()).into_data(), map.clone().into_data(), "{windows:?}");
            // What is added is the given value, in every place that the map does not fill.
            let sum = |x: Tensor<3>| x.sum().into_scalar::<f64>();
            let ones = Tensor::ones([3], (&device, DType::F64));
            let added = sum(windows.partition(map.clone(), Some(ones))) - sum(cut);
            let places = 2 * 3 * (windows.count() * windows.area() - grid[0] * grid[1]);
            assert!((added - places as f64).abs() < 1e-9, "{windows:?}: {added}, {places} places");
        }
    }
    let windows = Windows { grid: [2, 3], window: [2, 3], shift: [0, 0], pad_first: false };
    let qkv = x(6, 12);
    let ours = window_attention(qkv.clone(), &windows, 2, 0.5, None, None, false);
    assert_eq!(ours.into_data(), vitrum_kernels::attention(qkv, 2, 0.5, None).into_data());
}

/// Positions that the roll brought together do not see each other: a change of one leaves the other as it was.
#[test]
fn rolled_positions_do_not_see_each_other() {
    let device = Device::flex();
    let windows = Windows { grid: [4, 4], window: [2, 2], shift: [1, 1], pad_first: false };
    let qkv = |corner: f64| {
        let mut values = formula::noise("qkv", 16 * 6);
        values[..6].iter_mut().for_each(|value| *value += corner);
        Tensor::<3>::from_data(TensorData::new(values, [1, 16, 6]), (&device, DType::F64))
    };
    let attend = |qkv| -> Vec<f64> {
        window_attention(qkv, &windows, 1, 1.0, None, None, false).into_data().try_to_vec().unwrap()
    };
    let (before, after) = (attend(qkv(0.0)), attend(qkv(1.0)));
    let changed: Vec<usize> = (0..16).filter(|at| before[2 * at..][..2] != after[2 * at..][..2]).collect();
    // The last window holds the four corners of the map.
    assert_eq!(changed, [0]);
}

#[test]
fn windows_fit_the_map() {
    let of = |window_fit, always_partition| SwinConfig {
        img_size: [32, 48],
        window_size: StageSizes::square(4),
        window_fit,
        always_partition,
        ..first_version()
    };
    // Maps of 8x12 and 4x6.
    for (config, grid, window, shift) in [
        (of(WindowFit::Config, false), [4, 6], [4, 4], [0, 2]),
        (of(WindowFit::Config, false), [16, 16], [4, 4], [0, 2]),
        (of(WindowFit::Config, true), [4, 6], [4, 4], [2, 2]),
        (of(WindowFit::Image, false), [4, 6], [4, 4], [0, 2]),
        (of(WindowFit::Image, false), [16, 16], [4, 4], [2, 2]),
        (of(WindowFit::Image, false), [3, 3], [4, 4], [0, 0]),
        (of(WindowFit::ShorterSide, false), [4, 6], [4, 4], [0, 0]),
        (of(WindowFit::ShorterSide, false), [16, 16], [4, 4], [2, 2]),
    ] {
        let windows = config.windows(1, 1, grid);
        assert_eq!((windows.window, windows.shift), (window, shift), "{config:?} {grid:?}");
        assert_eq!(config.windows(1, 0, grid).shift, [0, 0]);
    }
    let small = SwinConfig { window_size: StageSizes::square(5), ..of(WindowFit::Config, false) };
    assert_eq!(small.window(1), [4, 5]);
    // Any image that holds a patch has an answer.
    // A pretrained window of 0 columns means one of 1, as in timm.
    let pretrained = StageSizes::of_stages(vec![[8, 0]]);
    let odd = SwinConfig { pretrained_window_sizes: pretrained, ..second_version() };
    for config in [small, of(WindowFit::Image, false), second_version(), odd] {
        let model = model(&config);
        for (height, width) in [(4, 4), (33, 20), (64, 49)] {
            let features = model.as_classifier().unwrap().forward(images([height, width]).into());
            let values: Vec<f32> = features.into_data().try_to_vec().unwrap();
            assert!(values.len() == 14 && values.iter().all(|value| value.is_finite()), "{height}x{width}");
        }
    }
}

/// Images of other sizes than the configuration's, as timm (`dynamic_img_size`), torchvision and transformers answer them.
#[test]
fn images_of_other_sizes_are_cut_as_each_library_does() {
    #[derive(Deserialize)]
    struct Case {
        name: String,
        config: ModelConfig,
        size: [usize; 2],
        tensors: Vec<(String, Vec<usize>)>,
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/swin");
    let cases: Vec<Case> =
        serde_json::from_slice(&std::fs::read(folder.join("sizes.json")).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join("sizes.safetensors")).unwrap();
    let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(cases.len(), golden.len());
    for Case { name, config, size: [height, width], tensors } in cases {
        let mut map = TensorMap::new(&name);
        for (key, shape) in tensors {
            let values = formula::weight(&key, &shape);
            map.tensors.insert(key, HostTensor::from_f32(shape, &values).unwrap());
        }
        let skeleton = config.skeleton(&Device::flex()).unwrap();
        let map = to_timm(map).unwrap().map;
        let (model, _) = apply(skeleton, map, DType::F64, &Excuses::default()).unwrap();
        let shape = [3, 3, height, width];
        let images = TensorData::new(formula::images(shape, 1.0), shape);
        let images = Tensor::<4>::from_data(images, (&Device::flex(), DType::F64));
        let found = model.logits_at(images, Sizes::Any).unwrap().into_data();
        let theirs = golden.tensor(&name).unwrap();
        let theirs = theirs.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()));
        let apart = crate::compare::largest(found.iter::<f64>().zip(theirs).map(|(a, b)| (a - b).abs()));
        assert!(apart < 1e-9, "{name}: {apart:e}");
    }
}

/// Linear layers in bf16 and int8, those between the stages too.
#[test]
fn lower_precisions_answer_alike() {
    for config in [first_version(), second_version()] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        write_safetensors(&path, &tensors(&config), &WriteOptions::default()).unwrap();
        std::fs::write(folder.path().join("config.json"), json!({"architecture": "swin_tiny_patch4_window7_224", "vitrum": ModelConfig::from(config.clone())}).to_string()).unwrap();
        let exact = logits(&loaded(folder.path(), Precision::F32, SIZE).model, SIZE);
        let largest = exact.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (precision, most) in [(Precision::Bf16, 0.05), (Precision::Int8, 0.2)] {
            let options = LoadOptions { precision, ..LoadOptions::new(folder.path().to_path_buf()) };
            let model = load(&options, &Device::flex()).unwrap().model;
            assert_eq!(model.precision(), precision);
            let apart =
                crate::compare::largest(logits(&model, SIZE).iter().zip(&exact).map(|(a, b)| (a - b).abs()))
                    as f32;
            assert!(apart > 0.0 && apart < most * largest, "{precision:?}: {apart} of {largest}");
        }
    }
}

#[test]
fn what_precedes_a_stage_is_as_deep_as_its_first_block() {
    let model = second_version().build(&Device::flex());
    for (key, depth, decays) in [
        ("patch_embed.proj.weight", Depth::Stem, true),
        ("patch_embed.norm.bias", Depth::Stem, true),
        ("layers.0.blocks.0.attn.qkv.weight", Depth::Layer(0), true),
        ("layers.0.blocks.1.attn.cpb_mlp.0.weight", Depth::Layer(1), false),
        ("layers.0.blocks.1.attn.logit_scale", Depth::Layer(1), false),
        ("layers.1.downsample.reduction.weight", Depth::Layer(2), true),
        ("layers.1.blocks.0.attn.relative_position_bias_table", Depth::Layer(2), false),
        ("layers.1.blocks.1.mlp.fc2.weight", Depth::Layer(3), true),
        ("norm.weight", Depth::Close, true),
        ("head.fc.weight", Depth::Head, true),
    ] {
        assert_eq!((model.depth(key), model.decays(key)), (depth, decays), "{key}");
    }
    assert_eq!(model.linears().len(), 4 * 4 + 1);
}

#[test]
fn first_values_are_timms() {
    let values = |config: &SwinConfig| collect(&config.init(&Device::flex(), 3).unwrap());
    let deviation = |map: &TensorMap, key: &str| {
        let values = map.get(key).unwrap().to_f64();
        (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
    };
    let wide = |config| SwinConfig { embed_dim: 32, ..config };
    let (first, second) = (values(&wide(first_version())), values(&wide(second_version())));
    for key in ["layers.0.blocks.1.attn.qkv.weight", "layers.1.downsample.reduction.weight", "head.fc.weight"]
    {
        for map in [&first, &second] {
            assert!((deviation(map, key) / 0.02 - 1.0).abs() < 0.1, "{key}: {}", deviation(map, key));
        }
    }
    let table = deviation(&first, "layers.1.blocks.0.attn.relative_position_bias_table");
    assert!((table / 0.02 - 1.0).abs() < 0.3, "{table}");
    let kernel = deviation(&first, "patch_embed.proj.weight");
    assert!((kernel * 144_f64.sqrt() - 1.0).abs() < 0.1, "{kernel}"); // uniform within 1 / sqrt(48)
    let all = |map: &TensorMap, key: &str, value: f32| {
        let found = map.get(key).unwrap().to_f32();
        assert!(found.iter().all(|found| (found - value).abs() < 1e-6), "{key}: {found:?}");
    };
    all(&first, "layers.0.blocks.0.norm1.weight", 1.0);
    all(&second, "layers.0.blocks.0.norm1.weight", 0.0);
    all(&second, "layers.0.blocks.0.norm2.bias", 0.0);
    all(&second, "layers.1.downsample.norm.weight", 1.0);
    all(&second, "norm.weight", 1.0);
    all(&second, "layers.0.blocks.0.attn.logit_scale", 10_f32.ln());
    all(&second, "layers.0.blocks.0.attn.q_bias", 0.0);
}

// ---- Files

#[test]
fn timm_folder_and_back() {
    let drop = |config| SwinConfig { drop_path_rate: 0.1, ..config };
    for (config, name, says) in [
        (first_version(), "swin_tiny_patch4_window7_224", json!({"window_size": 3, "head_dim": null})),
        (
            drop(second_version()),
            "swinv2_tiny_window8_256",
            json!({"window_size": 3, "drop_path_rate": null}),
        ),
        (
            SwinConfig {
                head_dim: Some(4),
                window_size: StageSizes::of_stages(vec![[2, 3], [4, 4]]),
                ..first_version()
            },
            "swin_tiny_patch4_window7_224",
            json!({"window_size": [[2, 3], [4, 4]], "head_dim": 4}),
        ),
        (
            SwinConfig {
                pretrained_window_sizes: StageSizes::square(6),
                act_layer: serde_json::from_value(json!("relu")).unwrap(),
                ..second_version()
            },
            "swinv2_tiny_window8_256",
            json!({"pretrained_window_sizes": [6, 6], "act_layer": "relu"}),
        ),
        (
            SwinConfig {
                pretrained_window_sizes: StageSizes::of_stages(vec![[6, 4], [5, 5]]),
                ..second_version()
            },
            "swinv2_tiny_window8_256",
            json!({"pretrained_window_sizes": [[6, 4], 5]}),
        ),
        // The windows of an image of 32x48 are the same.
        (
            SwinConfig {
                pad_first: true,
                window_size: StageSizes::square(2),
                window_fit: WindowFit::Image,
                ..first_version()
            },
            "swin_tiny_patch4_window7_224",
            json!({"pad_first": null, "window_fit": null}),
        ),
    ] {
        let (folder, map) = (TempDir::new().unwrap(), tensors(&config));
        let base = ModelConfig::named(name).unwrap();
        write_timm(folder.path(), &map, &card(&config, name), &base, &WriteOptions::default()).unwrap();
        let json: Value =
            serde_json::from_slice(&std::fs::read(folder.path().join("config.json")).unwrap()).unwrap();
        for (key, value) in says.as_object().unwrap() {
            assert_eq!(json["model_args"][key], *value, "{key} of {}", json["model_args"]);
        }
        let found = loaded(folder.path(), Precision::F32, SIZE);
        let expected = SwinConfig { pad_first: false, window_fit: WindowFit::Config, ..config.clone() };
        assert_eq!(found.model.config(), expected.into());
        assert_eq!(logits(&found.model, SIZE), logits(&model(&config), SIZE));
    }
    for (config, name) in [
        (second_version(), "swin_tiny_patch4_window7_224"),
        (SwinConfig { norm_eps: 1e-6, ..first_version() }, "swin_tiny_patch4_window7_224"),
        (
            SwinConfig { pad_first: true, window_size: StageSizes::square(5), ..first_version() },
            "swin_tiny_patch4_window7_224",
        ),
        (
            SwinConfig {
                window_fit: WindowFit::ShorterSide,
                window_size: StageSizes::square(4),
                ..first_version()
            },
            "swin_tiny_patch4_window7_224",
        ),
    ] {
        let (folder, base) = (TempDir::new().unwrap(), ModelConfig::named(name).unwrap());
        let written = write_timm(
            folder.path(),
            &tensors(&config),
            &card(&config, name),
            &base,
            &WriteOptions::default(),
        );
        assert!(written.unwrap_err().to_string().contains("timm"), "{config:?}");
    }
}

#[test]
fn transformers_folder_and_back() {
    let even = |config| SwinConfig { window_size: StageSizes::square(2), drop_path_rate: 0.25, ..config };
    let bare = |config| SwinConfig { num_classes: 0, qkv_bias: false, ..config };
    for (config, prefix) in [
        (even(first_version()), "swin."),
        (even(second_version()), "swinv2."),
        (SwinConfig { pretrained_window_sizes: StageSizes::square(6), ..even(second_version()) }, "swinv2."),
        (bare(even(first_version())), ""),
        (bare(even(second_version())), ""),
    ] {
        let (folder, map) = (TempDir::new().unwrap(), tensors(&config));
        write_huggingface(folder.path(), &map, &card(&config, ""), &WriteOptions::default()).unwrap();
        let written = read(folder.path().join("model.safetensors")).unwrap();
        let shape =
            |key: &str| written.get(&format!("{prefix}encoder.layers.0.{key}")).map(HostTensor::shape);
        let is_v2 = config.version == SwinVersion::V2;
        assert_eq!(shape("blocks.1.attention.self.key.weight"), Some(&[8, 8][..]));
        assert_eq!(shape("blocks.1.attention.self.query.bias").is_some(), config.qkv_bias);
        assert_eq!(shape("blocks.1.attention.self.key.bias").is_some(), config.qkv_bias && !is_v2);
        assert_eq!(shape("blocks.1.attention.self.logit_scale").is_some(), is_v2);
        assert_eq!(shape("downsample.reduction.weight"), Some(&[16, 32][..]));
        let found = loaded(folder.path(), Precision::F32, SIZE);
        let window_fit = if is_v2 { WindowFit::Config } else { WindowFit::ShorterSide };
        let expected = SwinConfig { pad_first: true, window_fit, ..config.clone() };
        assert_eq!(found.model.config(), expected.into());
        assert_eq!(logits(&found.model, SIZE), logits(&model(&config), SIZE));
    }
    for config in [
        SwinConfig { norm_eps: 1e-6, ..even(first_version()) },
        SwinConfig { head_dim: Some(4), ..even(first_version()) },
        SwinConfig { window_size: StageSizes::of_stages(vec![[2, 2], [1, 1]]), ..first_version() },
        SwinConfig { window_size: StageSizes::square(7), ..first_version() },
        SwinConfig { window_size: StageSizes::square(4), ..first_version() }, // shifted along one side
        SwinConfig { window_size: StageSizes::square(3), ..first_version() }, // padded in another order
        SwinConfig { img_size: [33, 48], ..even(first_version()) },
        SwinConfig { pretrained_window_sizes: StageSizes::of_stages(vec![[6, 4]]), ..even(second_version()) },
    ] {
        let folder = TempDir::new().unwrap();
        let written =
            write_huggingface(folder.path(), &tensors(&config), &card(&config, ""), &WriteOptions::default());
        assert!(written.unwrap_err().to_string().contains("transformers"), "{config:?}");
    }
}

#[test]
fn transformers_cards_are_refused_where_it_differs() {
    for (key, value, reason) in [
        ("use_absolute_embeddings", json!(true), "use_absolute_embeddings"),
        ("layer_norm_eps", json!(1e-6), "layer_norm_eps"),
        ("image_size", json!(30), "patches do not divide"),
        ("window_size", json!(0), "window_size"),
        ("depths", json!([]), "depths"),
        ("hidden_act", json!("mish"), "hidden_act"),
    ] {
        let folder = TempDir::new().unwrap();
        let mut card = json!({
            "model_type": "swin", "architectures": ["SwinForImageClassification"], "image_size": 32, "embed_dim": 8,
            "depths": [2, 2], "num_heads": [2, 4], "window_size": 2, "num_labels": 7,
        });
        card[key] = value;
        std::fs::write(folder.path().join("config.json"), card.to_string()).unwrap();
        let error = ModelCard::find(folder.path(), &|_| Err("not timm's".into())).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
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
        if json["config"]["family"] != "swin" {
            continue;
        }
        let case: SwinConfig =
            serde_json::from_value::<ModelConfig>(json["config"].clone()).unwrap().try_into().unwrap();
        let is_square = |stage| case.window(stage)[0] == case.window(stage)[1];
        let has_buffer = |end: &str| json["tensors"].to_string().contains(end);
        let shows = has_buffer("relative_coords_table");
        if !shows && !(0..case.depths.len()).all(is_square) {
            continue; // tables of V1 show squares alone
        }
        let mut map = TensorMap::new(&path);
        for (key, shape) in
            serde_json::from_value::<Vec<(String, Vec<usize>)>>(json["tensors"].clone()).unwrap()
        {
            let values = formula::weight(&key, &shape);
            map.tensors.insert(key, HostTensor::from_f32(shape, &values).unwrap());
        }
        let converted = to_timm(map).unwrap();
        let found: SwinConfig = converted.card().unwrap().config.try_into().unwrap();
        let source_chans = json["source_chans"].as_u64().map(|chans| chans as usize);
        let file_size = json["source_img_size"]
            .as_array()
            .map(|size| [0, 1].map(|axis| size[axis].as_u64().unwrap() as usize));
        let file = SwinConfig { img_size: file_size.unwrap_or(case.img_size), ..case.clone() };
        let windows = (0..case.depths.len()).map(|stage| file.window(stage)).collect();
        let is_v1 = case.version == SwinVersion::V1;
        let dialect = json["dialect"].as_str().unwrap();
        let expected = SwinConfig {
            in_chans: source_chans.unwrap_or(case.in_chans),
            window_size: if is_v1 || shows { StageSizes::of_stages(windows) } else { StageSizes::square(8) },
            // timm's files do not show these.
            window_fit: if dialect == "timm" { WindowFit::Config } else { case.window_fit },
            pad_first: dialect != "timm" && case.pad_first,
            pos_resize: found.pos_resize,
            always_partition: false,
            // No tensors show these.
            img_size: found.img_size,
            pretrained_window_sizes: StageSizes::square(0),
            act_layer: found.act_layer,
            norm_eps: found.norm_eps,
            global_pool: found.global_pool,
            mlp_ratio: found.mlp_ratio,
            ..case.clone()
        };
        assert_eq!(found, expected, "{}", path.display());
        assert_eq!(
            (found.width(0) as f64 * found.mlp_ratio) as usize,
            (case.width(0) as f64 * case.mlp_ratio) as usize
        );
        compared += 1;
    }
    assert!(compared >= 45, "only {compared} cases were compared");
}

/// The tensors of a model of V2 with the buffers of the authors' code, under timm's names.
fn with_buffers(config: &SwinConfig) -> TensorMap {
    let mut map = tensors(config);
    for stage in 0..config.depths.len() {
        let ([h, w], pretrained) = (config.window(stage), config.pretrained_window_sizes.at(stage));
        let origin = if pretrained[0] > 0 { pretrained } else { [h, w] };
        let log = |offset: i64, origin: usize| {
            let share = 8.0 * offset as f32 / (origin - 1) as f32;
            share.signum() * (share.abs() + 1.0).log2() / 8_f32.log2()
        };
        let sides = [h, w].map(|side| 1 - side as i64..side as i64);
        let [rows, columns] = &sides;
        let offsets: Vec<f32> = rows
            .clone()
            .flat_map(|y| columns.clone().flat_map(move |x| [log(y, origin[0]), log(x, origin[1])]))
            .collect();
        let positions: Vec<[usize; 2]> = (0..h).flat_map(|y| (0..w).map(move |x| [y, x])).collect();
        let index: Vec<f32> = positions
            .iter()
            .flat_map(|[y, x]| {
                positions.iter().map(move |[v, u]| ((y + h - 1 - v) * (2 * w - 1) + x + w - 1 - u) as f32)
            })
            .collect();
        for block in 0..config.depths[stage] {
            let mut add = |part: &str, shape: Vec<usize>, values: &[f32]| {
                let key = format!("layers.{stage}.blocks.{block}.{part}");
                map.tensors.insert(key, HostTensor::from_f32(shape, values).unwrap());
            };
            add("attn.relative_coords_table", vec![1, 2 * h - 1, 2 * w - 1, 2], &offsets);
            add("attn.relative_position_index", vec![h * w, h * w], &index);
            let windows = config.windows(stage, block, config.grid(stage));
            if windows.shift != [0, 0] {
                let shape = vec![windows.count(), h * w, h * w];
                let count = shape.iter().product();
                add("attn_mask", shape, &vec![0.0; count]);
            }
        }
    }
    map
}

/// The authors' buffers show the windows, those of pretraining and the images.
#[test]
fn buffers_show_the_windows() {
    let square = |side, window| SwinConfig {
        img_size: [side; 2],
        window_size: StageSizes::square(window),
        ..second_version()
    };
    for config in [
        square(48, 3),
        SwinConfig { pretrained_window_sizes: StageSizes::square(2), ..square(48, 3) },
        SwinConfig {
            pretrained_window_sizes: StageSizes::of_stages(vec![[12, 12], [6, 6]]),
            ..square(64, 8)
        },
        SwinConfig {
            window_size: StageSizes::of_stages(vec![[2, 4], [3, 5]]),
            pretrained_window_sizes: StageSizes::of_stages(vec![[3, 5], [4, 4]]),
            ..second_version()
        },
    ] {
        let found = to_timm(with_buffers(&config)).unwrap().card().unwrap();
        let expected = SwinConfig { img_size: found.config.input().image().size, ..config.clone() };
        assert_eq!(found.config, expected.into());
        assert!(!found.notes.iter().any(|note| note.contains("windows: assumed")), "{:?}", found.notes);
        assert!(!found.notes.iter().any(|note| note.contains("pretraining")), "{:?}", found.notes);
        if config.img_size[0] == config.img_size[1] {
            assert_eq!(found.config, config.clone().into());
        }
        // The index alone shows the windows too, and then nothing shows those of pretraining.
        let mut map = with_buffers(&config);
        map.tensors.retain(|key, _| !key.ends_with("relative_coords_table"));
        let found = to_timm(map).unwrap().card().unwrap();
        assert_eq!(found.config.field("window_size"), Some(json!(config.window_size)));
        assert!(found.notes.iter().any(|note| note.contains("pretraining")), "{:?}", found.notes);
    }
    let notes = to_timm(tensors(&second_version())).unwrap().card().unwrap().notes;
    for words in ["windows: assumed 8x8", "pretrained_window_sizes=0 is assumed"] {
        assert!(notes.iter().any(|note| note.contains(words)), "{notes:?}");
    }
}

/// A name whose windows are others than those of the file is refused.
#[test]
fn names_of_other_windows_are_refused() {
    for (window, pretrained, words) in [
        (3, 0, "window_size=3x3 in stage 0, the named model 8x8"),
        (8, 4, "pretrained_window_sizes=4x4 in stage 0, the named model 0x0"),
    ] {
        let config = SwinConfig {
            window_size: StageSizes::square(window),
            pretrained_window_sizes: StageSizes::square(pretrained),
            img_size: [64, 64],
            ..second_version()
        };
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        write_safetensors(&path, &with_buffers(&config), &WriteOptions::default()).unwrap();
        let options =
            LoadOptions { checkpoint: Some(path.clone()), ..LoadOptions::new("swinv2_tiny_window8_256") };
        let error = load(&options, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("in a key file"), "{error}");
    }
}

/// A key file says what no tensor shows.
#[test]
fn a_key_file_tells_the_windows() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let config = SwinConfig { window_size: StageSizes::of_stages(vec![[3, 5]]), ..first_version() };
    write_safetensors(&path, &tensors(&config), &WriteOptions::default()).unwrap();
    let error = load(&LoadOptions::new(path.clone()), &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("45 rows") && error.contains("state window_size in a key file"), "{error}");
    let keys = folder.path().join("keys.toml");
    std::fs::write(&keys, "family = \"swin\"\n[config]\nwindow_size = [3, 5]\nimg_size = [32, 48]\n")
        .unwrap();
    let found = load(&LoadOptions { keys: Some(keys), ..LoadOptions::new(path) }, &Device::flex()).unwrap();
    assert_eq!(found.model.config(), config.clone().into());
    assert!(!found.notes.iter().any(|note| note.contains("images of")), "{:?}", found.notes);
    assert_eq!(logits(&found.model, SIZE), logits(&model(&config), SIZE));
}

/// A file of a few megabytes may have windows whose biases take gigabytes.
#[test]
fn the_walk_counts_biases_and_masks() {
    let config = SwinConfig {
        img_size: [256, 256],
        embed_dim: 512,
        depths: vec![2],
        num_heads: vec![512],
        window_size: StageSizes::square(64),
        ..second_version()
    };
    assert!(config.walk().unwrap().held >= 512 * 4096 * 4096);
    // Nine windows of a map of 80x80, rolled and padded.
    let padded = SwinConfig { img_size: [320, 320], window_size: StageSizes::square(32), ..config };
    assert!(padded.walk().unwrap().held >= 512 * 1024 * 1024 * 10);
}

#[test]
fn wrong_values_are_told_as_such() {
    let with = |name: &str, value: Value| {
        let changed = ModelConfig::from(first_version()).with(name, value);
        changed.and_then(|config| config.validate()).unwrap_err().to_string()
    };
    assert!(with("window_size", json!([])).contains("expected a side"));
    assert_eq!(with("num_heads", json!([2, 4, 8])), "num_heads has 3 stages, but depths has 2");
    assert_eq!(with("window_size", json!([1, 2, 3])), "window_size has 3 stages, but depths has 2");
    // What timm's constructor also takes changes nothing.
    let config = ModelConfig::from(first_version());
    for (name, value) in [("strict_img_size", json!(false)), ("dynamic_img_size", json!(true))] {
        assert_eq!(config.with_argument(name, value).unwrap(), config);
    }
    assert!(config.with_argument("strict_size", json!(false)).is_err());
}

/// Tables of other windows are resized and reported.
#[test]
fn tables_of_other_windows_are_resized() {
    let small = SwinConfig { img_size: [16, 16], ..first_version() };
    let folder = TempDir::new().unwrap();
    let (name, base) =
        ("swin_tiny_patch4_window7_224", ModelConfig::named("swin_tiny_patch4_window7_224").unwrap());
    write_timm(folder.path(), &tensors(&small), &card(&small, name), &base, &WriteOptions::default())
        .unwrap();
    let found = loaded(folder.path(), Precision::F32, SIZE);
    let report = found.report.unwrap();
    let resized: Vec<(&str, &[usize])> =
        report.resized.iter().map(|change| (change.key.as_str(), change.expected.as_slice())).collect();
    // The last map was 2x2, now it is larger than the window of 3x3.
    let keys = [0, 1].map(|block| format!("layers.1.blocks.{block}.attn.relative_position_bias_table"));
    assert_eq!(resized, [(keys[0].as_str(), &[25, 4][..]), (keys[1].as_str(), &[25, 4][..])]);
}

/// Zeros in place of the parameters of biases.
struct Emptied;

impl Map for Emptied {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let is_bias = ["relative_position_bias_table", "cpb_mlp.2", "meta_mlp.fc2"];
        match is_bias.iter().any(|part| key.name.contains(part)) {
            true => Param::initialized(param.id, param.val().zeros_like()),
            false => param,
        }
    }
}

/// A packed model keeps its biases, and looks them up anew for another grid.
#[test]
fn kept_biases_are_those_of_the_grid() {
    let device = Device::flex();
    for json in [
        r#"{"family": "swin", "img_size": [32, 32], "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4}"#,
        r#"{"family": "swin", "version": "v2", "img_size": [32, 32], "embed_dim": 8, "depths": [2], "num_heads": [2],
            "window_size": 4}"#,
        r#"{"family": "swin_cr", "img_size": [32, 32], "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4,
            "init_values": 1.0}"#,
        r#"{"family": "beit", "img_size": [32, 32], "patch_size": [8, 8], "embed_dim": 16, "depth": 2, "num_heads": 2,
            "use_rel_pos_bias": true}"#,
        r#"{"family": "vit", "img_size": [32, 32], "patch_size": [8, 8], "embed_dim": 16, "depth": 2, "num_heads": 2,
            "class_token": false, "global_pool": "avg", "pos_embed": "rel_bias_shared"}"#,
    ] {
        let config: ModelConfig = serde_json::from_str(json).unwrap();
        let skeleton = config.skeleton(&device).unwrap();
        let mut tensors = collect(&skeleton);
        for (key, tensor) in &mut tensors.tensors {
            let shape = tensor.shape().to_vec();
            *tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, &shape)).unwrap();
        }
        let (model, _) = apply(skeleton, tensors, DType::F32, &Excuses::default()).unwrap();
        let answer = |model: &Model, side: usize| {
            let pixels = Tensor::<4>::ones([1, 3, side, side], &device) * 0.5;
            model.logits_at(pixels, Sizes::Any).unwrap().into_data()
        };
        let expected = [32, 48].map(|side| answer(&model, side));
        let packed = model.pack();
        for _ in 0..2 {
            assert_eq!([32, 48].map(|side| answer(&packed, side)), expected, "{json}");
            assert_eq!(answer(&packed, 48), expected[1], "{json}");
        }
        // What is kept is not computed again: without its parameters the answer is the same until it is forgotten.
        let mut emptied = map(packed, &mut Emptied);
        assert_eq!(answer(&emptied, 48), expected[1], "{json}");
        emptied.forget_prepared();
        assert_ne!(answer(&emptied, 48), expected[1], "{json}");
    }
}
