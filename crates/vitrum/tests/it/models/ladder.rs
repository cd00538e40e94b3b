//! The steps from ResNet-50 to ConvNeXt-T: the paper's table, both ends against their families, and every step as a model.

use std::collections::BTreeSet;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use vitrum::checkpoint::apply::{Excuses, apply, expected_tensors};
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::checkpoint::save::save;
use vitrum::checkpoint::write::WriteOptions;
use vitrum::checkpoint::{HostTensor, ModelCard, TensorMap};
use vitrum::layers::names::{Key, Visit, visit};
use vitrum::models::ladder::{LadderConfig, LadderStep, rows};
use vitrum::models::{
    Config, ConfigError, ConvNextConfig, Depth, Model, ModelConfig, Network, Precision, ResNetConfig,
    catalogue,
};

use crate::formula;

/// The paper's table 10, with the multiply-accumulates and parameters of networks of torch's modules: step, GMACs, parameters in millions, the paper's GMACs and its top-1.
const TABLE: [(LadderStep, &str, &str, &str, f64); 16] = [
    (LadderStep::Resnet50, "4.089", "25.557", "4.09", 78.82),
    (LadderStep::StageRatio, "4.526", "28.629", "4.53", 79.36),
    (LadderStep::Patchify, "4.418", "28.622", "4.42", 79.51),
    (LadderStep::Depthwise, "2.350", "15.723", "2.35", 78.28),
    (LadderStep::Width, "5.268", "33.761", "5.27", 80.50),
    (LadderStep::InvertedBottleneck, "4.644", "25.851", "4.64", 80.64),
    (LadderStep::MoveUp, "4.065", "25.626", "4.07", 79.92),
    (LadderStep::Kernel5, "4.097", "25.72", "4.10", 80.35),
    (LadderStep::Kernel7, "4.146", "25.86", "4.15", 80.57),
    (LadderStep::Kernel9, "4.210", "26.05", "4.21", 80.57),
    (LadderStep::Kernel11, "4.291", "26.29", "4.29", 80.47),
    (LadderStep::Gelu, "4.146", "25.864", "4.15", 80.62),
    (LadderStep::FewerActivations, "4.146", "25.864", "4.15", 81.27),
    (LadderStep::FewerNorms, "4.146", "25.830", "4.15", 81.41),
    (LadderStep::LayerNorm, "4.146", "25.83", "4.46", 81.47),
    (LadderStep::Downsample, "4.456", "28.589", "4.49", 81.97),
];

/// A number with as many digits as another one shows.
fn printed(number: f64, like: &str) -> String {
    let digits = like.split_once('.').map_or(0, |(_, digits)| digits.len());
    format!("{number:.digits$}")
}

#[test]
fn parameters_and_gmacs_are_those_of_the_table() {
    let rows = rows().unwrap();
    assert_eq!(rows.len(), TABLE.len());
    for (row, (step, gmacs, params, of_paper, top1)) in rows.iter().zip(TABLE) {
        let name = step.name();
        assert_eq!(row.step, step);
        assert_eq!(printed(row.macs as f64 / 1e9, gmacs), gmacs, "GMACs of {name}");
        assert_eq!(printed(row.params as f64 / 1e6, params), params, "parameters of {name}");
        assert_eq!(printed(row.published.gmacs, of_paper), of_paper, "{name}");
        assert_eq!(row.published.top1, top1, "{name}");
        // The paper's column follows, but for a misprint and for the norms that it counts in the last step.
        if !matches!(step, LadderStep::LayerNorm | LadderStep::Downsample) {
            assert_eq!(printed(row.macs as f64 / 1e9, of_paper), of_paper, "the paper's GMACs of {name}");
        }
    }
}

#[test]
fn steps_are_in_order_and_named_as_in_configurations() {
    assert!(LadderStep::ALL.is_sorted());
    for step in LadderStep::ALL {
        assert_eq!(serde_json::to_value(step).unwrap(), step.name());
        let named = ModelConfig::named(&format!("ladder_{}", step.name())).unwrap();
        assert_eq!(named, LadderConfig { step, ..LadderConfig::default() }.into());
    }
    let changes: BTreeSet<&str> = LadderStep::ALL.into_iter().map(LadderStep::change).collect();
    assert_eq!(changes.len(), LadderStep::ALL.len());
    assert_eq!(LadderStep::ALL.into_iter().filter(|step| step.is_kept()).count(), 13);
}

/// A small network of a step.
fn tiny(step: LadderStep) -> LadderConfig {
    LadderConfig { img_size: [32, 48], num_classes: 5, step, width: 4, ..LadderConfig::default() }
}

#[test]
fn walk_counts_the_modules_parameters() {
    for step in LadderStep::ALL {
        let config = tiny(step);
        let model = config.init(&Device::flex(), 0).unwrap();
        let statistics: usize = vitrum::layers::names::shapes(&model)
            .iter()
            .filter(|(key, _)| key.is_statistic)
            .map(|(_, shape)| shape[0])
            .sum();
        let trained = (model.num_params() - statistics) as u64;
        assert_eq!(config.walk().unwrap().params, trained, "{}", step.name());
        let [h, w] = config.map_grid().unwrap();
        let features = Model::from(model);
        let features = features.as_backbone().unwrap().features(
            images(&Device::flex(), DType::F32).into(),
            vitrum::models::Want::Last,
            &mut vitrum::layers::observe::Silent,
        );
        assert_eq!(features.last().rows_columns(), [h, w], "{}", step.name());
    }
}

fn images(device: &Device, dtype: DType) -> Tensor<4> {
    let shape = [2, 3, 32, 48];
    Tensor::from_data(TensorData::new(formula::images(shape, 1.0), shape), (device, dtype))
}

/// Tensors far from their first values; quick to make, since the first step has 25 million numbers.
fn redrawn(config: &ModelConfig) -> TensorMap {
    let mut map = TensorMap::new("ladder");
    for (key, shape) in expected_tensors(&config.skeleton(&Device::flex()).unwrap()) {
        let (count, seed) = (shape.iter().product::<usize>(), key.bytes().map(u32::from).sum::<u32>());
        let fan_in: usize = shape[1..].iter().product();
        let size = if shape.len() == 1 { 0.5 } else { (3.0 / fan_in as f32).sqrt() };
        let is_positive = shape.len() == 1 && !key.ends_with("bias") && !key.ends_with("running_mean");
        let middle = if is_positive { 1.0 } else { 0.0 };
        let value = |i: u32| middle + size * ((i + seed).wrapping_mul(2_654_435_761) as f32 / 2e9 - 1.0);
        let values: Vec<f32> = (0..count as u32).map(value).collect();
        map.tensors.insert(key, HostTensor::from_f32(shape, &values).unwrap());
    }
    map
}

fn answer(config: &ModelConfig, map: TensorMap) -> Vec<f64> {
    let device = Device::flex();
    let (model, _) = apply(config.skeleton(&device).unwrap(), map, DType::F64, &Excuses::default()).unwrap();
    let logits = model.as_classifier().unwrap().forward(images(&device, DType::F64).into());
    logits.into_data().iter::<f64>().collect()
}

/// The same weights under other names.
fn renamed(map: &TensorMap, rows: &[(&str, &str)]) -> TensorMap {
    let mut out = TensorMap::new("renamed");
    for (key, tensor) in &map.tensors {
        let name = rows.iter().fold(key.clone(), |name, (from, to)| name.replace(from, to));
        out.tensors.insert(name, tensor.clone());
    }
    out
}

fn agree(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    let far = a.iter().zip(b).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
    assert!(largest > 0.0 && far <= 1e-12 * largest, "{far} of {largest}");
}

#[test]
fn the_first_step_is_resnet_50() {
    let ladder: ModelConfig = LadderConfig { width: 64, ..tiny(LadderStep::Resnet50) }.into();
    let resnet = ResNetConfig { img_size: [32, 48], num_classes: 5, ..ResNetConfig::default() };
    let map = redrawn(&ladder);
    let rows = [
        ("stem.conv", "conv1"),
        ("stem.norm", "bn1"),
        ("stages.0.blocks", "layer1"),
        ("stages.1.blocks", "layer2"),
        ("stages.2.blocks", "layer3"),
        ("stages.3.blocks", "layer4"),
        ("a.conv", "conv1"),
        ("a.norm", "bn1"),
        ("b.conv", "conv2"),
        ("b.norm", "bn2"),
        ("c.conv", "conv3"),
        ("c.norm", "bn3"),
        ("shortcut.conv", "downsample.0"),
        ("shortcut.norm", "downsample.1"),
        ("head.fc", "fc"),
    ];
    agree(&answer(&resnet.into(), renamed(&map, &rows)), &answer(&ladder, map));
}

#[test]
fn the_last_step_is_convnext() {
    let ladder: ModelConfig = tiny(LadderStep::Downsample).into();
    let convnext = ConvNextConfig {
        img_size: [32, 48],
        num_classes: 5,
        dims: [6, 12, 24, 48],
        conv_mlp: true, // the ladder has kernels of 1x1
        ..ConvNextConfig::default()
    };
    let map = redrawn(&ladder);
    let rows = [
        ("stem.conv", "stem.0"),
        ("stem.norm", "stem.1"),
        ("downsample.norm", "downsample.0"),
        ("downsample.conv", "downsample.1"),
        ("a.conv", "conv_dw"),
        ("a.norm", "norm"),
        ("b.conv", "mlp.fc1"),
        ("c.conv", "mlp.fc2"),
    ];
    agree(&answer(&convnext.into(), renamed(&map, &rows)), &answer(&ladder, map));
}

/// Whether every parameter has a gradient that is finite and not zero everywhere.
struct Trained<'a>(&'a Gradients, Vec<String>);

impl Visit for Trained<'_> {
    fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
        let gradient = param.val().grad(self.0);
        let is_good = |gradient: Tensor<R>| {
            let values: Vec<f64> = gradient.into_data().iter::<f64>().collect();
            values.iter().all(|v| v.is_finite()) && values.iter().any(|v| *v != 0.0)
        };
        if !key.is_statistic && !gradient.is_some_and(is_good) {
            self.1.push(key.name.clone());
        }
    }
}

#[test]
fn every_step_trains() {
    let device = Device::flex().autodiff();
    for step in LadderStep::ALL {
        // Without dropped branches, which have no gradient.
        let config = LadderConfig { drop_rate: 0.25, ..tiny(step) };
        let model: Model = config.init(&device, 1).unwrap().into();
        let logits = model.as_classifier().unwrap().forward(images(&device, DType::F32).into());
        let gradients = logits.powf_scalar(2.0).sum().backward();
        let mut trained = Trained(&gradients, Vec::new());
        visit(&model, &mut trained);
        assert!(trained.1.is_empty(), "{}: no gradient of {:?}", step.name(), trained.1);
    }
}

#[test]
fn packed_kernels_answer_alike() {
    for step in LadderStep::ALL {
        let config: ModelConfig = tiny(step).into();
        let device = Device::flex();
        let (model, _) =
            apply(config.skeleton(&device).unwrap(), redrawn(&config), DType::F32, &Excuses::default())
                .unwrap();
        let batch = images(&device, DType::F32);
        let plain = model.as_classifier().unwrap().forward(batch.clone().into()).into_data();
        assert_eq!(model.pack().logits(batch).unwrap().into_data(), plain, "{}", step.name());
    }
}

/// A saved step comes back: vitrum's own layout, since timm lacks it.
#[test]
fn a_saved_step_is_loaded() {
    let device = Device::flex();
    for step in [LadderStep::Resnet50, LadderStep::FewerNorms, LadderStep::Downsample] {
        let folder = tempfile::tempdir().unwrap();
        let config: ModelConfig = tiny(step).into();
        let (model, _) =
            apply(config.skeleton(&device).unwrap(), redrawn(&config), DType::F32, &Excuses::default())
                .unwrap();
        let name = catalogue::closest(&config).unwrap();
        assert_eq!(name, format!("ladder_{}", step.name()));
        let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
        card.architecture = Some(name.to_string());
        let told = save(folder.path(), &model, &card, &WriteOptions::default()).unwrap();
        assert!(told.unwrap().contains("timm"));
        let loaded = load(&LoadOptions::new(folder.path()), &device).unwrap();
        assert_eq!(loaded.model.config(), config);
        assert_eq!(loaded.model.precision(), Precision::F32);
        let batch = images(&device, DType::F32);
        assert_eq!(
            loaded.model.logits(batch.clone()).unwrap().into_data(),
            model.logits(batch).unwrap().into_data()
        );
    }
}

/// Tensors alone show the step, but for those that change no tensor.
#[test]
fn tensors_show_the_step() {
    for step in LadderStep::ALL {
        let config = LadderConfig { in_chans: 1, ..tiny(step) };
        let map = redrawn(&config.clone().into());
        let found = to_timm(map).unwrap().card().unwrap().config;
        let shown = match step {
            LadderStep::Gelu | LadderStep::FewerActivations => LadderStep::Kernel7,
            step => step,
        };
        assert_eq!(
            found,
            LadderConfig { img_size: [224, 224], step: shown, ..config }.into(),
            "{}",
            step.name()
        );
    }
}

#[test]
fn a_wrong_field_is_named() {
    let last = || tiny(LadderStep::Downsample);
    for (config, field) in [
        (LadderConfig { img_size: [31, 32], ..last() }, "img_size"),
        (LadderConfig { img_size: [3, 32], ..tiny(LadderStep::Patchify) }, "img_size"),
        (LadderConfig { width: 0, ..last() }, "width"),
        (LadderConfig { width: 5, ..last() }, "width"),
        (LadderConfig { width: 1026, ..last() }, "width"),
        (LadderConfig { drop_rate: 1.0, ..last() }, "drop_rate"),
    ] {
        let error = config.walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
    for (step, least) in [(LadderStep::Resnet50, 1), (LadderStep::LayerNorm, 4), (LadderStep::Downsample, 32)]
    {
        let config = LadderConfig { img_size: [least; 2], ..tiny(step) };
        assert_eq!(config.walk().unwrap().steps.last().unwrap().shape, [1, 1, 5], "{}", step.name());
        assert_eq!(config.map_grid(), Some([1, 1]), "{}", step.name());
        if least > 1 {
            let config = LadderConfig { img_size: [least, least - 1], ..config };
            let expected = format!("img_size is {least}x{}, expected at least {least}x{least}", least - 1);
            assert_eq!(config.validate().unwrap_err().to_string(), expected);
        }
    }
}

#[test]
fn what_precedes_a_stage_is_as_deep_as_its_first_block() {
    let model = tiny(LadderStep::Downsample).build(&Device::flex());
    for (key, depth) in [
        ("stem.conv.weight", Depth::Stem),
        ("stages.0.blocks.0.a.conv.weight", Depth::Layer(0)),
        ("stages.2.downsample.norm.weight", Depth::Layer(6)),
        ("stages.2.blocks.1.gamma", Depth::Layer(7)),
        ("head.norm.weight", Depth::Head),
        ("head.fc.weight", Depth::Head),
    ] {
        assert_eq!(model.depth(key), depth, "{key}");
    }
}
