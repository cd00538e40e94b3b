//! RegNets: designs against timm, and the way back from stages to a design.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use vitrum::checkpoint::card::ModelCard;
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::load::{LoadOptions, load, open};
use vitrum::checkpoint::tensors::{Dtype, HostTensor, TensorMap};
use vitrum::checkpoint::write::{WriteOptions, to_safetensors, write_huggingface};
use vitrum::layers::init::Draw;
use vitrum::layers::names::shapes;
use vitrum::layers::observe::Silent;
use vitrum::models::regnet::{RegNetConfig, RegNetStage};
use vitrum::models::stages::Stages;
use vitrum::models::{Backbone, Chain, Classify, Config, Depth, ModelConfig, Network, Want};

use crate::formula;

/// Widths, depths and groups of a design.
fn design(config: &RegNetConfig) -> [Vec<usize>; 3] {
    let design = config.design();
    let column = |of: fn(&RegNetStage) -> usize| design.iter().map(of).collect();
    [column(|stage| stage.width), column(|stage| stage.depth), column(|stage| stage.groups)]
}

/// A configuration by depth, w0, wa, wm and group.
fn of(depth: usize, w0: usize, wa: f64, wm: f64, group_size: usize) -> RegNetConfig {
    RegNetConfig { depth, w0, wa, wm, group_size, ..RegNetConfig::default() }
}

/// Values of timm's `RegNet._get_stage_args`.
#[test]
fn designs_are_timms() {
    let tiny = RegNetConfig { stem_width: 6, ..of(5, 8, 6.5, 1.6, 4) };
    let rounded_up = |group_size| RegNetConfig { group_size, group_min_ratio: 0.9, ..tiny.clone() };
    for (name, config, expected) in [
        ("regnetx_032", of(25, 88, 26.31, 2.25, 48), [[96, 192, 432, 1008], [2, 6, 15, 2], [2, 4, 9, 21]]),
        ("regnety_040", of(22, 96, 31.41, 2.24, 64), [[128, 192, 512, 1088], [2, 6, 12, 2], [2, 3, 8, 17]]),
        (
            "regnety_160",
            of(18, 200, 106.23, 2.48, 112),
            [[224, 448, 1232, 3024], [2, 4, 11, 1], [2, 4, 11, 27]],
        ),
        ("regnetx_004", of(22, 24, 24.48, 2.54, 16), [[32, 64, 160, 384], [1, 2, 7, 12], [2, 4, 10, 24]]),
        (
            "regnetx_004_tv",
            RegNetConfig { group_min_ratio: 0.9, ..of(22, 24, 24.48, 2.54, 16) },
            [[32, 64, 160, 400], [1, 2, 7, 12], [2, 4, 10, 25]],
        ),
        ("tiny", tiny.clone(), [[8, 16, 24, 32], [1, 1, 1, 2], [2, 4, 6, 8]]),
        (
            "groups of 12",
            RegNetConfig { group_size: 12, ..tiny.clone() },
            [[8, 12, 24, 36], [1, 1, 1, 2], [1, 1, 2, 3]],
        ),
        ("groups of 12, rounded up", rounded_up(12), [[8, 24, 24, 36], [1, 1, 1, 2], [1, 2, 2, 3]]),
    ] {
        assert_eq!(design(&config), expected.map(|column| column.to_vec()), "{name}");
        config.validate().unwrap();
    }
}

#[test]
fn designs_of_other_than_four_stages_are_refused() {
    let error = |config: RegNetConfig| config.validate().unwrap_err().to_string();
    assert_eq!(error(of(5, 8, 0.0, 1.6, 4)), "depth with w0, wa and wm gives 1 stages, expected 4: [8]");
    assert!(error(of(21, 80, 42.63, 1.2, 24)).contains("expected 4"));
    assert!(error(of(21, 81, 42.63, 2.66, 24)).starts_with("w0 is 81, expected a multiple of 8"));
    assert!(error(of(21, 80, 42.63, 1.0, 24)).starts_with("wm"));
    assert!(error(of(21, 80, -1.0, 2.66, 24)).starts_with("wa"));
    assert!(error(of(21, 80, f64::NAN, 2.66, 24)).starts_with("wa"));
    assert!(error(of(1000, 1 << 16, 65536.0, 2.0, 24)).starts_with("depth"));
    let thin = RegNetConfig { bottle_ratio: 1e-3, ..RegNetConfig::default() };
    assert!(error(thin).starts_with("wa"));
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/parity")
}

/// The golden cases of RegNets: name and file.
fn cases() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let read = |path: PathBuf| {
        let case: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        (path.file_stem().unwrap().to_string_lossy().into_owned(), case)
    };
    files.map(read).filter(|(_, case)| case["config"]["family"] == "regnet").collect()
}

fn tensors(case: &Value) -> TensorMap {
    let mut map = TensorMap::new("formula");
    let tensors: Vec<(String, Vec<usize>)> = serde_json::from_value(case["tensors"].clone()).unwrap();
    for (key, shape) in tensors {
        let values = formula::weight(&key, &shape);
        map.tensors.insert(key, HostTensor::from_f32(shape, &values).unwrap());
    }
    map
}

/// A file without a card shows the layers.
#[test]
fn tensors_show_the_stages() {
    let mut compared = 0;
    for (name, case) in cases() {
        let mut expected: ModelConfig = serde_json::from_value(case["config"].clone()).unwrap();
        if let Some(channels) = case["source_chans"].as_u64() {
            expected = expected.with("in_chans", channels.into()).unwrap();
        }
        let found = to_timm(tensors(&case)).unwrap().card().unwrap().config;
        let found = found.with_some("img_size", expected.field("img_size")).unwrap();
        assert_eq!(found.walk().unwrap(), expected.walk().unwrap(), "{name}: {found:?}");
        compared += 1;
    }
    assert!(compared >= 36, "only {compared} cases");
}

/// transformers' folder is written and read back.
#[test]
fn transformers_folders_hold_the_same_model() {
    let device = Device::flex();
    for (name, case) in cases() {
        let Value::Object(card) = &case["hf_config"] else { continue };
        for with_head in [true, false] {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let mut card = card.clone();
            let mut map = tensors(&case);
            if !with_head {
                card.insert("architectures".into(), json!(["RegNetModel"]));
                map.tensors.retain(|key, _| !key.starts_with("classifier"));
            }
            std::fs::write(from.path().join("config.json"), Value::Object(card).to_string()).unwrap();
            let bytes = to_safetensors(&map, None).unwrap();
            std::fs::write(from.path().join("model.safetensors"), bytes).unwrap();
            let options = LoadOptions::new(from.path());
            let opened = open(&options).unwrap();
            write_huggingface(to.path(), &opened.tensors, &opened.card, &WriteOptions::default()).unwrap();
            let written = vitrum::checkpoint::read(to.path()).unwrap();
            assert_eq!(written.tensors.len(), map.tensors.len(), "{name}");
            for (key, tensor) in &written.tensors {
                let key = if with_head { key.clone() } else { format!("regnet.{key}") };
                if key.ends_with("num_batches_tracked") {
                    // A model keeps no count. transformers expects one.
                    assert_eq!(
                        (tensor.dtype(), tensor.shape(), tensor.bytes()),
                        (Dtype::I64, &[][..], &[0; 8][..])
                    );
                    assert!(map.contains(&key), "{name}: {key}");
                    continue;
                }
                assert_eq!(Some(tensor), map.get(&key), "{name}: {key}");
            }
            let again = load(&LoadOptions::new(to.path()), &device).unwrap();
            assert_eq!(again.model.config(), opened.card.config, "{name}");
            let json: Value =
                serde_json::from_str(&std::fs::read_to_string(to.path().join("config.json")).unwrap())
                    .unwrap();
            for key in
                ["embedding_size", "hidden_sizes", "depths", "groups_width", "layer_type", "hidden_act"]
            {
                assert_eq!(json[key], case["hf_config"][key], "{name}: {key}");
            }
        }
    }
}

/// Cards of published models: widths that the catalogue's designs give, and one that only a search finds.
#[test]
fn cards_of_published_models_are_read() {
    for (widths, depths, group, layer_type) in [
        ([24, 56, 152, 368], [1, 1, 4, 7], 8, "x"),
        ([128, 192, 512, 1088], [2, 6, 12, 2], 64, "y"),
        ([224, 448, 1232, 3024], [2, 4, 11, 1], 112, "y"),
        ([232, 696, 1392, 3712], [2, 5, 12, 1], 232, "y"),
        ([528, 1056, 2904, 7392], [2, 7, 17, 1], 264, "y"),
        ([2020, 4040, 11110, 28280], [2, 7, 17, 1], 1010, "y"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let card = json!({
            "model_type": "regnet", "architectures": ["RegNetForImageClassification"], "num_labels": 3,
            "hidden_sizes": widths, "depths": depths, "groups_width": group, "layer_type": layer_type,
        });
        let path = folder.path().join("config.json");
        std::fs::write(&path, card.to_string()).unwrap();
        let card = ModelCard::read(&path, &|name| Err(name.to_string())).unwrap();
        let config: RegNetConfig = card.config.try_into().unwrap();
        assert_eq!(design(&config)[..2], [widths.to_vec(), depths.to_vec()], "{config:?}");
        assert!(config.design().iter().all(|stage| stage.inner / stage.groups == group), "{config:?}");
        config.validate().unwrap();
    }
}

#[test]
fn stages_that_no_design_gives_are_refused() {
    let error = |fields: Value| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let mut card = json!({"model_type": "regnet"});
        card.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        std::fs::write(&path, card.to_string()).unwrap();
        ModelCard::read(&path, &|name| Err(name.to_string())).unwrap_err().to_string()
    };
    let found = error(json!({"hidden_sizes": [64, 32, 16, 8], "depths": [1, 1, 1, 1]}));
    assert!(
        found.contains("no RegNet has stages of 64, 32, 16, 8 channels with 1, 1, 1, 1 blocks"),
        "{found}"
    );
    let found = error(json!({"depths": [2, 6, 12]}));
    assert!(found.contains("`depths` has 3 stages, only 4 are supported"), "{found}");
    let found = error(json!({"hidden_sizes": [65536, 65536, 65536, 65536], "groups_width": 65536}));
    assert!(found.contains("no RegNet has stages"), "{found}");
    let found = error(json!({"groups_width": u64::MAX}));
    assert!(found.contains("no RegNet has stages"), "{found}");
    let found = error(json!({"groups_width": 0}));
    assert!(found.contains("no RegNet has stages"), "{found}");
    let found = error(json!({"downsample_in_first_stage": false}));
    assert!(found.contains("`downsample_in_first_stage` false"), "{found}");
    let found = error(json!({"hidden_act": "gelu"}));
    assert!(found.contains("`hidden_act` other than `relu`"), "{found}");
}

/// timm's `group_matcher`: stem, blocks one by one, the rest.
#[test]
fn layers_are_timms() {
    let model = tiny().skeleton(&Device::flex()).unwrap();
    for (key, depth) in [
        ("stem.conv.weight", Depth::Stem),
        ("s1.b1.conv1.conv.weight", Depth::Layer(0)),
        ("s4.b1.se.fc1.bias", Depth::Layer(3)),
        ("s4.b2.conv3.bn.weight", Depth::Layer(4)),
        ("head.fc.weight", Depth::Head),
    ] {
        assert_eq!(model.depth(key), depth, "{key}");
        assert!(shapes(&model).iter().any(|(found, _)| found.name == key), "{key}");
    }
    assert_eq!(Stages::depths(&model), [1, 1, 1, 2]);
}

/// A RegNetY with widths 8, 16, 24, 32.
fn tiny() -> RegNetConfig {
    RegNetConfig {
        se_ratio: 0.25,
        stem_width: 6,
        num_classes: 7,
        img_size: [35, 41],
        ..of(5, 8, 6.5, 1.6, 4)
    }
}

/// The walk counts what the model holds, gates among it.
#[test]
fn walk_counts_the_modules_parameters() {
    for se_ratio in [0.0, 0.01, 0.25] {
        let config = RegNetConfig { se_ratio, ..tiny() };
        let parameters = shapes(&config.skeleton(&Device::flex()).unwrap()).into_iter();
        let held: usize = parameters
            .filter(|(key, _)| !key.is_statistic)
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        assert_eq!(config.walk().unwrap().params, held as u64, "se_ratio {se_ratio}");
    }
}

/// timm's `_init_weights`.
#[test]
fn first_values_are_timms() {
    let he = |fan_out: f64| Some(Draw::Normal((2.0 / fan_out).sqrt()));
    let config = tiny();
    for (key, shape, expected) in [
        ("stem.conv.weight", &[3, 3, 3, 6][..], he(54.0)),
        ("s2.b1.conv1.conv.weight", &[1, 1, 8, 16], he(16.0)),
        ("s2.b1.conv2.conv.weight", &[3, 3, 4, 16], he(36.0)),
        ("s2.b1.se.fc1.weight", &[1, 1, 16, 2], he(2.0)),
        ("s2.b1.se.fc1.bias", &[2], Some(Draw::Constant(0.0))),
        ("s2.b1.conv2.bn.weight", &[16], Some(Draw::Constant(1.0))),
        ("s2.b1.conv3.bn.weight", &[16], Some(Draw::Constant(0.0))),
        ("head.fc.weight", &[32, 7], Some(Draw::Normal(0.01))),
        ("head.fc.bias", &[7], Some(Draw::Constant(0.0))),
        ("s2.b1.conv2.bn.scale", &[16], None),
    ] {
        assert_eq!(config.first(key, shape), expected, "{key}");
    }
    let plain = RegNetConfig { zero_init_last: false, ..config.clone() };
    assert_eq!(plain.first("s2.b1.conv3.bn.weight", &[16]), Some(Draw::Constant(1.0)));
    config.init(&Device::flex(), 0).unwrap();
}

/// Link by link, the answer is the same, and stochastic depth acts only in training.
#[test]
fn chain_and_dropped_blocks() {
    let config = RegNetConfig { zero_init_last: false, drop_path_rate: 0.5, ..tiny() };
    let pixels = formula::images([4, 3, 35, 41], 1.0);
    let answer = |config: &RegNetConfig, device: &Device, in_links: bool| {
        vitrum::layers::drop::seed(1);
        let model = config.init(device, 3).unwrap();
        let images = Tensor::<4>::from_data(TensorData::new(pixels.clone(), [4, 3, 35, 41]), device);
        let watch = &mut Silent;
        let features = match in_links {
            false => model.features(images.into(), Want::Head, watch),
            true => {
                let first = Chain::first(&model, images.into(), watch);
                let all = (0..model.links()).fold(first, |x, index| model.link(index, x, watch));
                Chain::last(&model, all, watch)
            }
        };
        model.head(features, watch).into_data().try_to_vec::<f32>().unwrap()
    };
    let (device, learns) = (Device::flex(), Device::flex().autodiff());
    let plain = RegNetConfig { drop_path_rate: 0.0, ..config.clone() };
    assert_eq!(answer(&config, &device, true), answer(&config, &device, false));
    assert_eq!(answer(&config, &device, false), answer(&plain, &device, false));
    assert_eq!(answer(&config, &learns, true), answer(&config, &learns, false));
    assert_ne!(answer(&config, &learns, false), answer(&plain, &learns, false));
}
