//! Explanations against captum, pytorch-grad-cam, scikit-learn and whole matrices of attention (fixtures/export_explain.py).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use vitrum::Error;
use vitrum::checkpoint::apply::{Excuses, apply};
use vitrum::checkpoint::dialect::{Known, to_timm_with};
use vitrum::checkpoint::load::Loaded;
use vitrum::checkpoint::{HostTensor, TensorMap};
use vitrum::data::{Preprocess, RgbImage};
use vitrum::explain::{
    Baseline, CamOptions, Cancel, ExplainError, Explainer, Fusion, HeatMap, IntegrationOptions,
    OcclusionOptions, Query, RolloutOptions, View,
};
use vitrum::models::{Config, ModelConfig};

use crate::compare::largest;
use crate::formula;

#[derive(Deserialize)]
struct Case {
    config: ModelConfig,
    class: usize,
    steps: usize,
    window: [usize; 2],
    stride: [usize; 2],
    input: [usize; 4],
    patch: [usize; 2],
    tensors: Vec<(String, Vec<usize>)>,
}

type Golden = BTreeMap<String, Vec<f64>>;

const NAMES: [&str; 11] = [
    "convnext",
    "deit",
    "resnet",
    "swin",
    "swin_padded",
    "swin_v2",
    "twins",
    "vit",
    "vit_avg",
    "vit_map",
    "vit_registers",
];

fn case(name: &str) -> (Case, Golden) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/explain");
    let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(key, view): (String, safetensors::tensor::TensorView<'_>)| {
        let values = view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
        (key, values.collect())
    };
    let case = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    (case, file.tensors().into_iter().map(tensor).collect())
}

fn explainer(name: &str, case: &Case, dtype: DType) -> (Explainer, View) {
    let device = Device::flex();
    let mut map = TensorMap::new("formula");
    for (key, shape) in &case.tensors {
        let tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, shape)).unwrap();
        map.tensors.insert(key.clone(), tensor);
    }
    let converted = to_timm_with(map, &Known::default()).unwrap();
    let skeleton = case.config.skeleton(&device).unwrap();
    let model = apply(skeleton, converted.map, dtype, &Excuses::default()).expect(name).0;
    let [_, c, h, w] = case.input;
    let preprocess =
        Preprocess { input_size: [c, h, w], mean: vec![0.5; 3], std: vec![0.5; 3], ..Preprocess::default() };
    let loaded = Loaded {
        model,
        name: name.into(),
        preprocess: Some(preprocess),
        labels: Some(["tabby cat", "tiger cat", "husky", "lemon", "daisy"].map(String::from).to_vec()),
        card: None,
        report: None,
        notes: Vec::new(),
    };
    // The exporter uses the first of two images; the last one is almost constant.
    let [_, ref rest @ ..] = case.input;
    let shape = [2, rest[0], rest[1], rest[2]];
    let pixels: Tensor<4> =
        Tensor::from_data(TensorData::new(formula::images(shape, 1.0), shape), (&device, dtype));
    let view = View {
        image: RgbImage::filled(w as u32, h as u32, [127; 3]).unwrap(),
        pixels: pixels.narrow(0, 0, 1),
    };
    (Explainer::new(loaded, device).unwrap(), view)
}

/// The largest difference, relative to the largest value.
fn off(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let whole = largest(theirs.iter().map(|value| value.abs())).max(1e-12);
    largest(ours.iter().zip(theirs).map(|(a, b)| (f64::from(*a) - b).abs() / whole))
}

/// f32 in, f32 out.
const BAR: f64 = 1e-5;

fn all(test: impl Fn(&str, &Case, &Golden, &Explainer, &View)) {
    for name in NAMES {
        let (case, golden) = case(name);
        // Values leave as f32 in both cases, so the bar is the same.
        for dtype in [DType::F32, DType::F64] {
            let (explainer, view) = explainer(name, &case, dtype);
            test(name, &case, &golden, &explainer, &view);
        }
    }
}

#[test]
fn attention_flows_as_with_whole_matrices() {
    all(|name, case, golden, explainer, view| {
        let Some(rollout) = golden.get("rollout") else {
            let error = explainer.rollout(view, &RolloutOptions::default()).unwrap_err();
            assert!(matches!(error, Error::Explain(ExplainError::NoAttention { .. })), "{name}");
            assert!(explainer.relevance(view, case.class).is_err(), "{name}");
            return;
        };
        let ours = explainer.rollout(view, &RolloutOptions::default()).unwrap();
        assert!(off(&ours.values, rollout) < BAR, "{name}: rollout {:.1e}", off(&ours.values, rollout));
        let ours = explainer.relevance(view, case.class).unwrap();
        let error = off(&ours.values, &golden["relevance"]);
        assert!(error < BAR, "{name}: relevance {error:.1e}");
    });
}

#[test]
fn attention_of_each_layer_and_head() {
    all(|name, _, golden, explainer, view| {
        if !golden.contains_key("attention.0") {
            return;
        }
        let maps = explainer.attention(view, Query::Answer).unwrap().layers;
        let mut found: Vec<Vec<f32>> = Vec::new();
        for (index, layer) in maps.iter().enumerate() {
            let values: Vec<f32> = layer.heads.iter().flat_map(|head| head.values.clone()).collect();
            let Some(theirs) = golden.get(&format!("attention.{index}")) else {
                assert!(layer.name.contains("attn_pool"), "{name}: {}", layer.name);
                continue;
            };
            assert!(off(&values, theirs) < BAR, "{name}: {} {:.1e}", layer.name, off(&values, theirs));
            found.push(values);
        }
        assert!(golden.keys().filter(|key| key.starts_with("attention.")).count() == found.len(), "{name}");
        if let Some(theirs) = golden.get("distances") {
            let distances = explainer.distances(std::slice::from_ref(view)).unwrap().layers;
            let ours: Vec<f32> =
                distances.iter().flat_map(|(_, heads)| heads).map(|value| *value as f32).collect();
            assert!(off(&ours, theirs) < BAR, "{name}: distances {:.1e}", off(&ours, theirs));
        }
    });
}

#[test]
fn gradients_of_maps_and_pixels() {
    all(|name, case, golden, explainer, view| {
        let cam = explainer.grad_cam(view, case.class, &CamOptions::default()).unwrap();
        assert!(
            off(&cam.values, &golden["cam"]) < BAR,
            "{name}: cam {:.1e}",
            off(&cam.values, &golden["cam"])
        );
        let options = IntegrationOptions { steps: case.steps, batch_size: 5, baseline: Baseline::Mean };
        let found = explainer.integrated_gradients(view, case.class, &options).unwrap();
        let error = off(&found.map.values, &golden["integrated"]);
        assert!(error < BAR, "{name}: integrated gradients {error:.1e}");
        let sum: f64 = golden["integrated"].iter().sum();
        assert!((found.sum - sum).abs() < 1e-3 * sum.abs().max(1.0), "{name}: {} {sum}", found.sum);
    });
}

#[test]
fn hidden_parts() {
    all(|name, case, golden, explainer, view| {
        let options = OcclusionOptions {
            window: Some(case.window),
            stride: Some(case.stride),
            baseline: Baseline::Mean,
            batch_size: 7,
        };
        let map = explainer.occlusion(view, case.class, &options).unwrap();
        let error = off(&map.values, &golden["occlusion"]);
        assert!(error < BAR, "{name}: occlusion {error:.1e}");
    });
}

#[test]
fn features_and_figures() {
    all(|name, case, golden, explainer, view| {
        let similar = explainer.similarity(view, case.patch).unwrap();
        let error = off(&similar.values, &golden["similarity"]);
        assert!(error < BAR, "{name}: similarity {error:.1e}");
        let filters = golden.get("filters").map(|theirs| (explainer.filters(theirs.len()).unwrap(), theirs));
        if let Some((filters, theirs)) = filters {
            let size: usize = filters.shape.iter().product();
            let kept = theirs.len() / size;
            let ours: Vec<f32> = filters.components[..kept].iter().flatten().copied().collect();
            assert!(off(&ours, theirs) < BAR, "{name}: filters {:.1e}", off(&ours, theirs));
            let error = off(&filters.variance[..kept], &golden["filters.variance"]);
            assert!(error < BAR, "{name}: variance {error:.1e}");
        }
        match golden.get("positions") {
            Some(theirs) => {
                let (_, maps) = explainer.positions().unwrap();
                let ours: Vec<f32> = maps.into_iter().flat_map(|map| map.values).collect();
                assert!(off(&ours, theirs) < BAR, "{name}: positions {:.1e}", off(&ours, theirs));
            }
            None => assert!(explainer.positions().is_err(), "{name}"),
        }
        // Colours are the components, scaled; equal components have equal colours.
        let colours = explainer.colours(std::slice::from_ref(view)).unwrap().remove(0);
        let components = &golden["components"];
        for channel in 0..3 {
            let order = |of: &dyn Fn(usize) -> f64| {
                let mut order: Vec<usize> = (0..colours.values.len()).collect();
                order.sort_by(|a, b| of(*a).total_cmp(&of(*b)));
                order
            };
            let theirs = order(&|at| components[at * 3 + channel]);
            let values: Vec<f32> = theirs.iter().map(|at| colours.values[*at][channel]).collect();
            assert!(values.windows(2).all(|pair| pair[0] <= pair[1] + 1e-4), "{name}: {values:?}");
            assert_eq!((values[0], values[values.len() - 1]), (0.0, 1.0), "{name}");
        }
    });
}

#[test]
fn classes_by_number_and_name() {
    let (case, _) = case("vit");
    let (explainer, view) = explainer("vit", &case, DType::F32);
    let class = |asked: &str| explainer.class(asked);
    assert_eq!(class("3").unwrap(), 3);
    assert_eq!(class("Husky").unwrap(), 2);
    assert_eq!(class("tiger").unwrap(), 1);
    let error = class("cat").unwrap_err().to_string();
    assert_eq!(error, "several classes match 'cat': 0 tabby cat, 1 tiger cat");
    let error = class("hosky").unwrap_err().to_string();
    assert_eq!(error, "no class 'hosky'; similar names: husky; classes have the numbers 0 to 4");
    let error = explainer.relevance(&view, 5).unwrap_err().to_string();
    assert_eq!(error, "no class '5'; classes have the numbers 0 to 4");
}

#[test]
fn options_out_of_range() {
    let (case, _) = case("vit");
    let (explainer, view) = explainer("vit", &case, DType::F32);
    let text = |error: Error| error.to_string();
    let cam = |block| explainer.grad_cam(&view, 0, &CamOptions { block: Some(block) });
    assert_eq!(text(cam(3).unwrap_err()), "block is 3, expected from 0 to 2");
    assert_eq!(
        text(cam(2).unwrap_err()),
        "block 2 gives no patches: the head reads the tokens in front alone"
    );
    assert_eq!(cam(1).unwrap().grid, [4, 5]);
    let patch = explainer.similarity(&view, [4, 0]).unwrap_err();
    assert_eq!(text(patch), "patch is 4,0, expected from 0,0 to 3,4");
    assert!(explainer.attention(&view, Query::Patch([0, 5])).is_err());
    let options = RolloutOptions { discard: 1.0, ..RolloutOptions::default() };
    assert!(explainer.rollout(&view, &options).is_err());
    let options =
        OcclusionOptions { window: Some([4, 4]), stride: Some([5, 4]), ..OcclusionOptions::default() };
    let error = explainer.occlusion(&view, 0, &options).unwrap_err();
    assert_eq!(text(error), "stride is 5 x 4, expected from 1 x 1 to the hidden part, 4 x 4");
}

#[test]
fn a_patch_asks_and_heads_are_fused() {
    let (case, _) = case("swin");
    let (explainer, view) = explainer("swin", &case, DType::F32);
    // Row 5, column 9 of 16 x 24 lies in the second row and third column of the first layer's windows.
    let maps = explainer.attention(&view, Query::Patch([5, 9])).unwrap().layers;
    let first: &HeatMap = &maps[0].heads[0];
    assert_eq!(first.grid, [16, 24]);
    for (at, value) in first.values.iter().enumerate() {
        let within = (4..8).contains(&(at / 24)) && (8..12).contains(&(at % 24));
        assert_eq!(*value > 0.0, within, "{at}");
    }
    assert!((first.values.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    assert_eq!(maps[2].heads[0].grid, [8, 12]);
    for fusion in [Fusion::Max, Fusion::Min] {
        let options = RolloutOptions { fusion, discard: 0.5 };
        let map = explainer.rollout(&view, &options).unwrap();
        assert!(map.values.iter().all(|value| value.is_finite() && *value >= 0.0));
        assert_ne!(map, explainer.rollout(&view, &RolloutOptions::default()).unwrap());
    }
}

/// Dropout, stochastic depth and batch statistics stay out of explanations.
#[test]
fn a_model_that_drops_in_training_is_at_rest() {
    let (case, golden) = case("resnet");
    let config = case.config.with("drop_path_rate", serde_json::json!(0.5)).unwrap();
    let config = config.with("drop_rate", serde_json::json!(0.5)).unwrap();
    let case = Case { config, ..case };
    let (explainer, view) = explainer("resnet", &case, DType::F32);
    let cam = explainer.grad_cam(&view, case.class, &CamOptions::default()).unwrap();
    assert!(off(&cam.values, &golden["cam"]) < BAR);
}

/// A token that cancels when it is asked for the `n`-th time, and how often it was asked.
fn at_question(n: usize) -> (Cancel, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    (Cancel::when(move || count.fetch_add(1, Ordering::Relaxed) + 1 >= n), asked)
}

/// Every pass asks once before it begins, so the number of questions is that of passes.
#[test]
fn a_cancelled_explanation_does_fewer_passes() {
    let (case, _) = case("vit");
    let (explainer, view) = explainer("vit", &case, DType::F32);
    let hiding = OcclusionOptions { batch_size: 1, ..OcclusionOptions::default() };
    let way = IntegrationOptions { steps: 32, batch_size: 1, ..IntegrationOptions::default() };
    type Method<'a> = &'a dyn Fn(&Explainer) -> Result<HeatMap, Error>;
    let methods: [(&str, Method<'_>); 2] = [
        ("occlusion", &|explainer| explainer.occlusion(&view, case.class, &hiding)),
        ("gradients", &|explainer| Ok(explainer.integrated_gradients(&view, case.class, &way)?.map)),
    ];
    for (name, method) in methods {
        let (never, all) = at_question(usize::MAX);
        let whole = method(&explainer.cancelled_by(never)).unwrap();
        assert_eq!(whole, method(&explainer).unwrap(), "{name}");
        assert!(all.load(Ordering::Relaxed) > 30, "{name}: {all:?}");
        let (early, some) = at_question(5);
        let ended = method(&explainer.cancelled_by(early));
        assert!(matches!(ended, Err(Error::Explain(ExplainError::Cancelled))), "{name}: {ended:?}");
        assert_eq!(some.load(Ordering::Relaxed), 5, "{name}");
    }
}

#[test]
fn every_method_can_be_cancelled() {
    let (case, _) = case("vit");
    let (explainer, view) = explainer("vit", &case, DType::F32);
    let explainer = explainer.cancelled_by(Cancel::when(|| true));
    let (view, class) = (&view, case.class);
    let ended: [Option<Error>; 10] = [
        explainer.answers(view, 5).err(),
        explainer.attention(view, Query::Answer).err(),
        explainer.rollout(view, &RolloutOptions::default()).err(),
        explainer.relevance(view, class).err(),
        explainer.grad_cam(view, class, &CamOptions::default()).err(),
        explainer.integrated_gradients(view, class, &IntegrationOptions::default()).err(),
        explainer.occlusion(view, class, &OcclusionOptions::default()).err(),
        explainer.similarity(view, [0, 0]).err(),
        explainer.colours(std::slice::from_ref(view)).err(),
        explainer.distances(std::slice::from_ref(view)).err(),
    ];
    for (at, error) in ended.iter().enumerate() {
        assert!(matches!(error, Some(Error::Explain(ExplainError::Cancelled))), "{at}: {error:?}");
    }
}
