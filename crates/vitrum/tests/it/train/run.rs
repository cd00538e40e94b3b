//! Fifty updates beside PyTorch, timm and Pillow (`fixtures/export_training_run.py`).

use std::collections::BTreeMap;

use burn::tensor::{DType, Device};
use serde::Deserialize;
use vitrum::checkpoint::apply::{Excuses, apply, collect};
use vitrum::checkpoint::{HostTensor, TensorMap};
use vitrum::data::augment::{CropFlip, crop_flip, smoothed_one_hot};
use vitrum::data::{Interpolation, Preprocess, RgbImage};
use vitrum::models::{Config, Model, ModelConfig, VitConfig};
use vitrum::train::Recipe;
use vitrum::train::trainer::{Examples, Trainer};

use super::{golden_json, golden_path};
use crate::formula;

pub(super) const INPUT: usize = 32;
const CLASSES: usize = 4;

#[derive(Deserialize)]
struct Golden {
    recipe: Numbers,
    side: usize,
    runs: Vec<Recorded>,
}

#[derive(Deserialize)]
pub(super) struct Numbers {
    lr: f64,
    weight_decay: f64,
    clip_grad: f64,
    pub(super) smoothing: f64,
    warmup_steps: u64,
    warmup_lr: f64,
    min_lr: f64,
    ema_decay: f64,
}

#[derive(Deserialize)]
struct Recorded {
    name: String,
    /// Per update, batch and image: number, crop (x, y, w, h), whether it is resized, whether flipped.
    updates: Vec<Vec<Vec<[usize; 7]>>>,
    losses: Vec<f64>,
    lrs: Vec<f64>,
    grad_norms: Vec<f64>,
}

/// The exporter's `image`.
fn image(index: usize, side: usize) -> RgbImage {
    let label = index % CLASSES;
    let noise: Vec<f64> = formula::noise(&format!("image {index}"), side * side * 3);
    let pixel = |(place, noise): (usize, f64)| {
        let (x, y) = (place / 3 % side, place / 3 / side);
        let stripe = if (x * (label + 1) + y * (3 - label)) % 16 < 8 { 1.0 } else { -1.0 };
        (128.0 + 40.0 * stripe + 80.0 * noise).floor() as u8
    };
    let pixels = noise.into_iter().enumerate().map(pixel).collect();
    RgbImage::new(side as u32, side as u32, pixels).expect("the pixels fill the image")
}

fn config() -> VitConfig {
    VitConfig {
        img_size: [INPUT; 2],
        patch_size: [8; 2],
        embed_dim: 16,
        depth: 2,
        num_heads: 2,
        num_classes: CLASSES,
        ..VitConfig::default()
    }
}

/// The model with the formula's weights, matrices a quarter as large.
fn model() -> Model {
    filled(ModelConfig::Vit(config()).skeleton(&Device::flex()).expect("a model"))
}

/// A model's parameters from the formula, matrices a quarter as large.
pub(super) fn filled(model: Model) -> Model {
    let tensors = collect(&model).tensors.into_iter().map(|(key, tensor)| {
        let factor = if tensor.shape().len() >= 2 { 0.25 } else { 1.0 };
        let values: Vec<f32> = formula::weight(&key, tensor.shape()).iter().map(|v| v * factor).collect();
        let tensor = HostTensor::from_f32(tensor.shape().to_vec(), &values).expect("values fill the shape");
        (key, tensor)
    });
    let map = TensorMap { tensors: tensors.collect(), ..TensorMap::new("the formula") };
    apply(model, map, DType::F32, &Excuses::default()).expect("the formula is the model's").0
}

pub(super) fn recipe(numbers: &Numbers, updates: usize) -> Recipe {
    Recipe {
        lr: Some(numbers.lr),
        weight_decay: numbers.weight_decay,
        clip_grad: Some(numbers.clip_grad),
        // An epoch of one update each, so that epochs are updates.
        epochs: updates,
        warmup_steps: Some(numbers.warmup_steps),
        warmup_lr: numbers.warmup_lr,
        min_lr: numbers.min_lr,
        smoothing: numbers.smoothing,
        model_ema: true,
        model_ema_decay: numbers.ema_decay,
        model_ema_warmup: true,
        ..Recipe::default()
    }
}

/// One batch as recorded.
fn examples(batch: &[[usize; 7]], golden: &Golden) -> Examples {
    examples_of(batch, golden.side, golden.recipe.smoothing)
}

/// Images of `side` pixels, cut as recorded; labels smoothed.
pub(super) fn examples_of(batch: &[[usize; 7]], side: usize, smoothing: f64) -> Examples {
    let preprocess = Preprocess {
        input_size: [3, INPUT, INPUT],
        mean: vec![0.5; 3],
        std: vec![0.5; 3],
        ..Preprocess::default()
    };
    let mut images = Vec::new();
    for &[index, x, y, w, h, resized, flip] in batch {
        let [x, y, w, h] = [x, y, w, h].map(|v| v as u32);
        assert!(resized == 1 || (w as usize, h as usize) == (INPUT, INPUT));
        let cut = CropFlip { x, y, w, h, flip: flip == 1 };
        let size = [INPUT as u32; 2];
        let picture = crop_flip(&image(index, side), &cut, size, Interpolation::Bicubic).expect("a crop");
        images.extend(preprocess.normalize(&picture).expect("an image of the input's size"));
    }
    let labels: Vec<usize> = batch.iter().map(|[index, ..]| index % CLASSES).collect();
    let targets = smoothed_one_hot(&labels, CLASSES, smoothing).expect("labels are classes");
    let indexes = batch.iter().map(|[index, ..]| *index as u32).collect();
    Examples { images, shape: [batch.len(), 3, INPUT, INPUT], targets, masks: None, indexes }
}

/// Largest difference over the largest value.
fn apart(ours: &TensorMap, theirs: &BTreeMap<String, Vec<f32>>, prefix: &str) -> f64 {
    let mut worst: f64 = 0.0;
    assert_eq!(theirs.keys().filter(|key| key.starts_with(prefix)).count(), ours.len());
    for (key, tensor) in &ours.tensors {
        let theirs = &theirs[&format!("{prefix}{key}")];
        let largest = theirs.iter().fold(0.0_f64, |m, v| m.max(f64::from(v.abs())));
        // A key's bias moves all scores of a row alike, so its gradient is rounding alone, which AdamW makes as
        // large as any other: it goes where it likes, in either library.
        let wanders = |i: usize| {
            key.ends_with("attn.qkv.bias") && (theirs.len() / 3..2 * theirs.len() / 3).contains(&i)
        };
        let differences = tensor.to_f32().into_iter().zip(theirs).enumerate().filter(|(i, _)| !wanders(*i));
        let differences = differences.map(|(_, (a, b))| f64::from((a - b).abs()));
        worst = worst.max(differences.fold(0.0, f64::max) / largest);
    }
    worst
}

fn tensors() -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(golden_path("run.safetensors")).expect("a golden file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let values = |data: &[u8]| {
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
    };
    file.tensors().into_iter().map(|(key, view)| (key, values(view.data()))).collect()
}

/// Losses, rates, norms and final weights of both recorded runs, and of the same with blocks computed twice.
#[test]
fn fifty_updates_as_pytorch() {
    let golden: Golden = golden_json("run.json");
    let theirs = tensors();
    let device = Device::flex();
    for grad_checkpointing in [false, true] {
        for run in &golden.runs {
            let name = &run.name;
            let recipe = Recipe { grad_checkpointing, ..recipe(&golden.recipe, run.updates.len()) };
            let mut trainer = Trainer::new(model(), &recipe, 1, &device).expect("a trainer");
            for (update, batches) in run.updates.iter().enumerate() {
                let batches = batches.iter().map(|batch| examples(batch, &golden)).collect();
                let updated = trainer.update(batches).expect("an update");
                let relative = |ours: f64, theirs: f64| (ours - theirs).abs() / theirs.abs();
                let loss = relative(updated.loss, run.losses[update]);
                assert!(loss < 1e-4, "{name}, update {update}: loss {} is {loss:.1e} off", updated.loss);
                assert!(relative(updated.lr, run.lrs[update]) < 1e-12, "{name}, update {update}: rate");
                let norm = updated.grad_norm.expect("clipping needs the norm");
                let off = relative(norm, run.grad_norms[update]);
                assert!(off < 1e-3, "{name}, update {update}: gradient norm {norm} is {off:.1e} off");
                assert_eq!(updated.skipped, None);
            }
            let model = apart(&collect(&trainer.model()), &theirs, &format!("{name}.model."));
            let ema = trainer.ema_model().expect("an average");
            let ema = apart(&collect(&ema), &theirs, &format!("{name}.ema."));
            assert!(model < 1e-4 && ema < 1e-4, "{name}: weights {model:.1e} and average {ema:.1e} off");
        }
    }
}

/// Dropout of all kinds draws the same when a block is computed again, so the loss still falls.
#[test]
fn recomputing_draws_the_same() {
    let golden: Golden = golden_json("run.json");
    let config = VitConfig { drop_path_rate: 0.2, proj_drop_rate: 0.1, pos_drop_rate: 0.1, ..config() };
    let model = ModelConfig::Vit(config).init(&Device::flex(), 3).expect("a model");
    let recipe = Recipe { grad_checkpointing: true, ..recipe(&golden.recipe, 50) };
    let losses = || {
        let mut trainer = Trainer::new(model.clone(), &recipe, 1, &Device::flex()).expect("a trainer");
        let batch = || vec![examples(&golden.runs[0].updates[0][0], &golden)];
        (0..50).map(|_| trainer.update(batch()).expect("an update").loss).collect::<Vec<f64>>()
    };
    let first = losses();
    assert_eq!(first, losses());
    assert!(first[49] < 0.9 * first[0], "{first:?}");
}
