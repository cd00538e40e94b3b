//! Options of ResNet: what tensors show, limits, first values and folders. Numbers are compared in `parity.rs`.

use burn::tensor::{DType, Device};
use tempfile::TempDir;
use vitrum::checkpoint::apply::{Excuses, apply, collect};
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::write::{WriteOptions, write_huggingface, write_timm};
use vitrum::checkpoint::{HostTensor, ModelCard, TensorMap};
use vitrum::models::resnet::{Antialias, GateLayer, MapNormLayer, ResNetBlock, ResNetConfig, ResNetStem};
use vitrum::models::{Config, ConfigError, Depth, Model, ModelConfig, Network};

use super::shared::{distance, logits};
use crate::formula;

fn tiny() -> ResNetConfig {
    ResNetConfig {
        img_size: [35, 41],
        num_classes: 5,
        layers: vec![1, 2, 1, 1],
        channels: vec![4, 8, 12, 64],
        ..ResNetConfig::default()
    }
}

fn basic() -> ResNetConfig {
    ResNetConfig { block: ResNetBlock::Basic, ..tiny() }
}

/// A model of every option.
fn all() -> Vec<ResNetConfig> {
    vec![
        tiny(),
        ResNetConfig { attn_layer: GateLayer::Se, ..tiny() },
        ResNetConfig { attn_layer: GateLayer::Se, rd_ratio: 0.25, ..basic() },
        ResNetConfig { attn_layer: GateLayer::Eca, avg_down: true, ..tiny() },
        ResNetConfig { aa_layer: Antialias::Blur, attn_layer: GateLayer::Eca, ..basic() },
        ResNetConfig { aa_layer: Antialias::Avg, img_size: [32, 64], ..tiny() },
        ResNetConfig {
            stem_type: ResNetStem::Deep,
            stem_width: 8,
            replace_stem_pool: true,
            avg_down: true,
            attn_layer: GateLayer::Se,
            rd_ratio: 0.25,
            ..tiny()
        },
        ResNetConfig {
            attn_layer: GateLayer::Se,
            cardinality: 2,
            base_width: 64,
            block_reduce_first: 2,
            down_kernel_size: 3,
            ..tiny()
        },
        ResNetConfig { block_reduce_first: 2, down_kernel_size: 3, ..basic() },
        ResNetConfig { norm_layer: MapNormLayer::GroupNorm, channels: vec![32, 64, 32, 64], ..tiny() },
    ]
}

/// Tensors far from their first values.
fn tensors(config: &ResNetConfig) -> TensorMap {
    let mut map = collect(&ModelConfig::from(config.clone()).init(&Device::flex(), 0).unwrap());
    for (key, tensor) in &mut map.tensors {
        let shape = tensor.shape().to_vec();
        *tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, &shape)).unwrap();
    }
    map
}

fn model(config: &ResNetConfig) -> Model {
    let skeleton = ModelConfig::from(config.clone()).skeleton(&Device::flex()).unwrap();
    apply(skeleton, tensors(config), DType::F32, &Excuses::default()).unwrap().0
}

/// Running means and variances, which are no parameters.
fn is_statistic(key: &str) -> bool {
    key.ends_with("running_mean") || key.ends_with("running_var")
}

#[test]
fn walk_counts_the_modules_parameters() {
    for config in all() {
        let map = tensors(&config);
        let held: usize =
            map.tensors.iter().filter(|(key, _)| !is_statistic(key)).map(|(_, t)| t.num_elements()).sum();
        assert_eq!(config.walk().unwrap().params, held as u64, "{config:?}");
    }
}

#[test]
fn tensors_show_the_configuration() {
    for config in all() {
        let found = to_timm(tensors(&config)).unwrap().card().unwrap().config;
        let found: ResNetConfig = found.try_into().unwrap();
        // Tensors show neither the size of images nor how maps are halved.
        let shown = ResNetConfig { img_size: found.img_size, aa_layer: Antialias::None, ..config.clone() };
        assert_eq!(found.walk(), shown.walk(), "{config:?}");
        assert_eq!((found.rd_ratio, found.norm_layer), (shown.rd_ratio, shown.norm_layer), "{config:?}");
    }
}

#[test]
fn packed_models_answer_alike() {
    for config in all() {
        let exact = model(&config);
        let answer = logits(&exact, config.img_size);
        let mut packed = exact.pack();
        assert!(distance(&logits(&packed, config.img_size), &answer) < 1e-4, "{config:?}");
        packed.forget_prepared();
        assert_eq!(logits(&packed, config.img_size), answer, "{config:?}");
    }
}

/// Every option changes the answer of the same weights, where they have the same shapes.
#[test]
fn options_matter() {
    let size = [32, 64];
    let plain = ResNetConfig { img_size: size, ..tiny() };
    let answer = logits(&model(&plain), size);
    for aa_layer in [Antialias::Avg, Antialias::Blur] {
        let other = ResNetConfig { aa_layer, ..plain.clone() };
        assert!(distance(&logits(&model(&other), size), &answer) > 1e-3, "{aa_layer:?}");
    }
}

#[test]
fn a_wrong_field_is_named() {
    let avg = ResNetConfig { aa_layer: Antialias::Avg, ..tiny() };
    let blur = ResNetConfig { aa_layer: Antialias::Blur, ..tiny() };
    for (config, field) in [
        (ResNetConfig { down_kernel_size: 2, ..tiny() }, "down_kernel_size"),
        (ResNetConfig { down_kernel_size: 0, ..tiny() }, "down_kernel_size"),
        (ResNetConfig { block_reduce_first: 0, ..tiny() }, "block_reduce_first"),
        (ResNetConfig { block_reduce_first: 5, ..tiny() }, "block_reduce_first"),
        (
            ResNetConfig { block_reduce_first: 2, cardinality: 4, base_width: 16, ..tiny() },
            "block_reduce_first",
        ),
        (ResNetConfig { rd_ratio: 0.0, ..tiny() }, "rd_ratio"),
        (ResNetConfig { rd_ratio: f64::NAN, ..tiny() }, "rd_ratio"),
        (ResNetConfig { replace_stem_pool: true, ..blur.clone() }, "replace_stem_pool"),
        (ResNetConfig { norm_layer: MapNormLayer::GroupNorm, ..tiny() }, "norm_layer"),
        (avg.clone(), "img_size"),
        (ResNetConfig { img_size: [32, 40], ..avg.clone() }, "img_size"),
        (ResNetConfig { img_size: [1, 32], ..avg }, "img_size"),
        (ResNetConfig { img_size: [16, 32], ..blur }, "img_size"),
    ] {
        let error = config.walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
}

/// timm's draws for gates are torch's usual ones, but for the kernels of `se`.
#[test]
fn first_values_are_timms() {
    let draw = |config: &ResNetConfig, key: &str| {
        let map = collect(&ModelConfig::from(config.clone()).init(&Device::flex(), 3).unwrap());
        let values = map.get(key).unwrap_or_else(|| panic!("no {key}")).to_f64();
        values.iter().fold(0.0_f64, |most, x| most.max(x.abs()))
    };
    let se = ResNetConfig { attn_layer: GateLayer::Se, rd_ratio: 0.25, ..tiny() };
    let bound = |n: f64| n.powf(-0.5);
    for (key, most) in [("layer4.0.se.fc1.bias", bound(256.0)), ("layer4.0.se.fc2.bias", bound(64.0))] {
        let found = draw(&se, key);
        assert!(found <= most && found > 0.5 * most, "{key}: {found} of {most}");
    }
    assert!(draw(&se, "layer4.0.se.fc1.weight") > 0.1, "He's draw");
    let eca = ResNetConfig { attn_layer: GateLayer::Eca, ..tiny() };
    let found = draw(&eca, "layer4.0.se.conv.weight");
    assert!(found > 0.0 && found <= bound(5.0), "{found}");
    let map = collect(&ModelConfig::from(eca).init(&Device::flex(), 3).unwrap());
    let kernel = |stage: usize| map.get(&format!("layer{stage}.0.se.conv.weight")).unwrap().shape().to_vec();
    assert_eq!((kernel(1), kernel(4)), (vec![1, 1, 3], vec![1, 1, 5]));
}

#[test]
fn gates_belong_to_their_blocks() {
    let model = model(&ResNetConfig { attn_layer: GateLayer::Se, replace_stem_pool: true, ..tiny() });
    for (key, depth) in [
        ("layer2.1.se.fc1.weight", model.depth("layer2.1.conv1.weight")),
        ("maxpool.0.weight", Depth::Stem),
        ("maxpool.1.bias", Depth::Stem),
    ] {
        assert_eq!(model.depth(key), depth, "{key}");
    }
}

#[test]
fn timm_folders_written_read_back() {
    let named = |name: &str| ModelConfig::named(name).unwrap();
    for (architecture, config) in [
        ("seresnet50", ResNetConfig { attn_layer: GateLayer::Se, replace_stem_pool: true, ..tiny() }),
        ("ecaresnet50d", all()[3].clone()),
        ("resnetblur50", ResNetConfig { aa_layer: Antialias::Blur, ..tiny() }),
        ("resnetrs50", all()[6].clone()),
        ("senet154", all()[7].clone()),
        ("resnet50_gn", all()[9].clone()),
        ("resnet50", all()[9].clone()),
    ] {
        let config = ModelConfig::from(config);
        let (folder, base) = (TempDir::new().unwrap(), named(architecture));
        let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
        card.architecture = Some(architecture.into());
        let map = collect(&config.init(&Device::flex(), 0).unwrap());
        write_timm(folder.path(), &map, &card, &base, &WriteOptions::default()).unwrap();
        let again = ModelCard::find(folder.path(), &|_| Ok(base.clone())).unwrap().unwrap();
        let size = again.config.input().image().size;
        assert_eq!(again.config, config.with_some("img_size", Some(size)).unwrap(), "{architecture}");
    }
    for (config, field) in [
        (ResNetConfig { attn_layer: GateLayer::Se, ..tiny() }, "attn_layer"),
        (ResNetConfig { aa_layer: Antialias::Blur, ..tiny() }, "aa_layer"),
    ] {
        let config = ModelConfig::from(config);
        let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
        card.architecture = Some("resnet50".into());
        let map = collect(&config.init(&Device::flex(), 0).unwrap());
        let (folder, base) = (TempDir::new().unwrap(), named("resnet50"));
        let refused = write_timm(folder.path(), &map, &card, &base, &WriteOptions::default()).unwrap_err();
        assert!(refused.to_string().contains(field), "{refused}");
        let refused = write_huggingface(folder.path(), &map, &card, &WriteOptions::default()).unwrap_err();
        assert!(refused.to_string().contains("transformers"), "{refused}");
    }
}
