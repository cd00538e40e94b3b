//! Networks of stages: ten updates beside PyTorch and timm (`fixtures/export_cnn_training.py` and its kin), statistics of
//! batch norms, what is frozen, and runs that stop and go on.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use vitrum::checkpoint::TensorMap;
use vitrum::checkpoint::apply::{Excuses, apply, collect};
use vitrum::checkpoint::card::{CardSource, ModelCard};
use vitrum::checkpoint::load::Loaded;
use vitrum::checkpoint::save::save;
use vitrum::checkpoint::tensors::HostTensor;
use vitrum::checkpoint::write::WriteOptions;
use vitrum::data::Preprocess;
use vitrum::data::augment::smoothed_one_hot;
use vitrum::models::stages::Part;
use vitrum::models::{Config, Model, ModelConfig, Network};
use vitrum::train::build::freeze;
use vitrum::train::distill::{DistillConfig, Distillation, DistillationType, Teacher, TeacherOptions};
use vitrum::train::objective::ClassLoss;
use vitrum::train::optim::GradMap;
use vitrum::train::recipe::{ImgSize, Overlay};
use vitrum::train::resume::Resume;
use vitrum::train::trainer::{Examples, IntoBatch, Trainer, TrainerState};
use vitrum::train::{Fit, Job, Recipe, TrainError, fit};

use super::fit::{Heard, StopAfter, done, job};
use super::{golden, golden_json, relative};
use crate::formula;

#[derive(Deserialize)]
struct Golden {
    classes: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    config: serde_json::Value,
    recipe: Recipe,
    /// Per update and batch: the images.
    updates: Vec<Vec<Vec<usize>>>,
    losses: Vec<f64>,
    lrs: Vec<f64>,
    grad_norms: Vec<f64>,
    /// The name of the golden files.
    #[serde(skip)]
    file: &'static str,
}

/// Golden files of runs.
const FILES: [&str; 2] = ["cnn_run", "twins_run"];

fn cases() -> Vec<Case> {
    let of_file = |file| {
        let golden: Golden = golden_json(&format!("{file}.json"));
        assert_eq!(golden.classes, CLASSES);
        golden.cases.into_iter().map(move |case| Case { file, ..case })
    };
    FILES.into_iter().flat_map(of_file).collect()
}

fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).expect("a case of this name")
}

/// A case whose networks of biases drop values in training, as in timm.
fn dropping() -> Case {
    let mut case = case("swin_cr");
    case.config["meta_drop_rate"] = 0.125.into();
    case
}

const CLASSES: usize = 4;

impl Case {
    fn config(&self) -> ModelConfig {
        serde_json::from_value(self.config.clone()).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The model with the formula's weights.
    fn model(&self) -> Model {
        super::run::filled(self.config().skeleton(&Device::flex()).expect("a model"))
    }

    fn trainer(&self, change: impl Fn(&mut Recipe)) -> Trainer {
        let mut recipe = self.recipe.clone();
        change(&mut recipe);
        let (model, _) = freeze(self.model(), &recipe).expect("parameters to train");
        // An epoch of one update each, so that epochs are updates.
        Trainer::new(model, &recipe, 1, &Device::flex()).expect("a trainer")
    }

    /// The exporter's `image` of every index.
    fn examples(&self, batch: &[usize]) -> Examples {
        let [height, width] = self.config().input().image().size;
        let mut images = Vec::new();
        for index in batch {
            let label = index % CLASSES;
            let noise = formula::noise(&format!("image {index}"), 3 * height * width);
            images.extend(noise.into_iter().enumerate().map(|(place, noise)| {
                let (x, y) = (place % width, place / width % height);
                let stripe = if (x * (label + 1) + y * (3 - label)) % 16 < 8 { 0.5 } else { -0.5 };
                (stripe + 0.5 * noise) as f32
            }));
        }
        let labels: Vec<usize> = batch.iter().map(|index| index % CLASSES).collect();
        Examples {
            images,
            shape: [batch.len(), 3, height, width],
            targets: smoothed_one_hot(&labels, CLASSES, self.recipe.smoothing).expect("labels are classes"),
            masks: None,
            indexes: batch.iter().map(|index| *index as u32).collect(),
        }
    }

    fn batches(&self, update: usize) -> Vec<Examples> {
        self.updates[update].iter().map(|batch| self.examples(batch)).collect()
    }
}

/// Sum, absolute sum, and sum of the products with the key's noise, as the exporter's `sums`.
fn sums(key: &str, values: &[f64]) -> [f64; 3] {
    let noise = formula::noise(key, values.len());
    let dot = values.iter().zip(noise).map(|(value, noise)| value * noise).sum();
    [values.iter().sum(), values.iter().map(|value| value.abs()).sum(), dot]
}

/// Compares every tensor of a model with timm's. Returns the largest relative difference and its key.
fn apart(model: &Model, theirs: &BTreeMap<String, Vec<f64>>, prefix: &str) -> (f64, String) {
    let ours = collect(model).tensors;
    let expected = &theirs[&format!("{prefix}.sums")];
    assert_eq!(ours.len() * 3, expected.len(), "{prefix}");
    let mut worst = (0.0, String::new());
    let pairs = ours.iter().zip(expected.chunks_exact(3));
    for ((key, tensor), expected) in pairs.filter(|((key, _), _)| !is_unseen(key)) {
        let values = tensor.to_f64();
        let size = expected[1];
        let by_sums = sums(key, &values).into_iter().zip(expected).map(|(a, b)| (a - b).abs() / size);
        let whole = theirs.get(&format!("{prefix}.{key}")).map(|theirs| relative(&values, theirs));
        for error in by_sums.chain(whole) {
            assert!(error.is_finite(), "{prefix}.{key}");
            if error > worst.0 {
                worst = (error, key.clone());
            }
        }
    }
    worst
}

#[test]
fn ten_updates_as_timm() {
    let cases = cases();
    assert!(cases.len() >= 7, "only {} cases", cases.len());
    for case in &cases {
        let name = &case.name;
        let theirs = golden(&format!("{}.safetensors", case.file));
        let mut trainer = case.trainer(|_| ());
        for update in 0..case.updates.len() {
            let updated = trainer.update(case.batches(update)).expect("an update");
            assert_eq!(updated.skipped, None, "{name}");
            let relative = |ours: f64, theirs: f64| (ours - theirs).abs() / theirs.abs();
            let loss = relative(updated.loss, case.losses[update]);
            assert!(loss < 1e-4, "{name}, update {update}: loss {} is {loss:.1e} off", updated.loss);
            assert!(relative(updated.lr, case.lrs[update]) < 1e-12, "{name}, update {update}: rate");
            let norm = relative(updated.grad_norm.expect("clipping needs the norm"), case.grad_norms[update]);
            assert!(norm < 1e-4, "{name}, update {update}: gradient norm is {norm:.1e} off");
        }
        let model = apart(&trainer.model(), &theirs, &format!("{name}.model"));
        let ema = apart(&trainer.ema_model().expect("an average"), &theirs, &format!("{name}.ema"));
        println!("{name}: {model:?} {ema:?}");
        assert!(model.0 < 1e-4 && ema.0 < 1e-4, "{name}: weights {model:?} and average {ema:?} off");
    }
}

/// The losses of some updates, and the state after them.
fn learn(case: &Case, updates: usize, change: impl Fn(&mut Recipe)) -> (Vec<f64>, TrainerState) {
    let mut trainer = case.trainer(change);
    let losses = (0..updates).map(|update| trainer.update(case.batches(update)).expect("an update").loss);
    (losses.collect(), trainer.state())
}

/// Keys of the tensors that differ.
fn changed(a: &[(String, HostTensor)], b: &[(String, HostTensor)]) -> BTreeSet<String> {
    assert!(a.iter().map(|(key, _)| key).eq(b.iter().map(|(key, _)| key)));
    let differs = |((_, a), (_, b)): &(&(String, HostTensor), &(String, HostTensor))| a.bytes() != b.bytes();
    a.iter().zip(b).filter(differs).map(|((key, _), _)| key.clone()).collect()
}

/// Whether a bias is added to all scores of a head. Softmax does not see it: its gradient is only rounding.
fn is_unseen(key: &str) -> bool {
    key.ends_with("attn.meta_mlp.fc2.bias")
}

fn is_statistic(key: &str) -> bool {
    key.ends_with("running_mean") || key.ends_with("running_var")
}

/// Parameters, statistics, averages and the optimiser's state are those of an update that keeps all activations.
#[test]
fn recomputing_changes_no_bit() {
    for case in cases() {
        for amp_dtype in ["none", "bf16"] {
            let run = |grad_checkpointing| {
                learn(&case, 2, |recipe| {
                    recipe.grad_checkpointing = grad_checkpointing;
                    recipe.amp_dtype = amp_dtype.into();
                })
            };
            let ((losses, state), (again, recomputed)) = (run(false), run(true));
            assert_eq!(losses, again, "{}, {amp_dtype}", case.name);
            let off = changed(&state.model, &recomputed.model);
            assert!(off.is_empty(), "{}, {amp_dtype}: {off:?}", case.name);
            assert_eq!(state, recomputed, "{}, {amp_dtype}", case.name);
        }
    }
}

/// One batch again and again: the loss falls to that of the smoothed targets, 0.35, and a little more.
#[test]
fn attention_within_windows_learns_its_images_by_heart() {
    for name in ["swin", "swin_v2", "swin_cr"] {
        let case = case(name);
        let mut trainer = case.trainer(|recipe| {
            (recipe.epochs, recipe.warmup_epochs) = (40, 4.0);
            (recipe.lr, recipe.layer_decay) = (Some(1e-2), None);
        });
        let mut loss = || trainer.update(case.batches(0)).expect("an update").loss;
        let losses: Vec<f64> = (0..40).map(|_| loss()).collect();
        println!("{name}: {losses:.2?}");
        assert!(losses[0] > 1.0 && losses[39] < 0.6, "{name}: {losses:.2?}");
    }
}

#[test]
fn a_skipped_update_changes_nothing() {
    for name in ["resnet_d_basic", "bit"] {
        let case = case(name);
        for grad_checkpointing in [false, true] {
            let mut trainer = case.trainer(|recipe| recipe.grad_checkpointing = grad_checkpointing);
            trainer.update(case.batches(0)).expect("an update");
            let before = trainer.state();
            let mut batches = case.batches(1);
            let last = batches.last_mut().expect("a batch");
            last.images[7] = f32::NAN;
            let updated = trainer.update(batches).expect("an update");
            assert_eq!(updated.skipped, Some("the loss is NaN".into()), "{name}");
            let after = trainer.state();
            assert_eq!(
                (&before.model, &before.ema, &before.optimizer),
                (&after.model, &after.ema, &after.optimizer)
            );
            // The run goes on.
            let updated = trainer.update(case.batches(2)).expect("an update");
            assert_eq!(updated.skipped, None);
            assert_ne!(before.model, trainer.state().model);
        }
    }
}

/// A model of every kind of block.
fn kinds() -> Vec<(&'static str, ModelConfig)> {
    let config =
        |text: &str| serde_json::from_str::<ModelConfig>(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let resnet = |more: &str| {
        config(&format!(
            r#"{{"family": "resnet", "img_size": [20, 28], "num_classes": 5, "layers": [1, 1], "channels": [8, 12],
                "stem_type": "deep_tiered", "stem_width": 8 {more}}}"#
        ))
    };
    let bit = |more: &str| {
        config(&format!(
            r#"{{"family": "bit", "img_size": [20, 28], "num_classes": 5, "layers": [1, 1], "channels": [16, 32],
                "stem_chs": 16, "num_groups": 4 {more}}}"#
        ))
    };
    let regnet = |more: &str| {
        config(&format!(
            r#"{{"family": "regnet", "img_size": [32, 48], "num_classes": 5, "depth": 4, "w0": 8, "wa": 6.5, "wm": 1.6,
                "group_size": 4, "stem_width": 8 {more}}}"#
        ))
    };
    let convnext = |more: &str| {
        config(&format!(
            r#"{{"family": "convnext", "img_size": [32, 48], "num_classes": 5, "depths": [1, 1, 1, 1],
                "dims": [4, 6, 8, 10] {more}}}"#
        ))
    };
    let swin = |more: &str| {
        config(&format!(
            r#"{{"family": "swin", "img_size": [32, 48], "num_classes": 5, "embed_dim": 8, "depths": [2, 2],
                "num_heads": [2, 4], "window_size": 3 {more}}}"#
        ))
    };
    let swin_cr = |more: &str| {
        config(&format!(
            r#"{{"family": "swin_cr", "img_size": [32, 48], "num_classes": 5, "embed_dim": 8, "depths": [3, 2],
                "num_heads": [2, 4] {more}}}"#
        ))
    };
    let twins = |more: &str| {
        config(&format!(
            r#"{{"family": "twins", "img_size": [67, 93], "num_classes": 5, "embed_dims": [8, 12, 16, 20],
                "num_heads": [2, 2, 4, 4], "depths": [2, 1, 3, 2], "sr_ratios": [4, 2, 2, 1] {more}}}"#
        ))
    };
    let beit = |more: &str| {
        config(&format!(
            r#"{{"family": "beit", "img_size": [16, 24], "patch_size": [8, 8], "num_classes": 5, "embed_dim": 16,
                "depth": 2, "num_heads": 2, "use_abs_pos_emb": false, "init_values": 0.1 {more}}}"#
        ))
    };
    let eva = |more: &str| {
        config(&format!(
            r#"{{"family": "eva", "img_size": [16, 24], "patch_size": [8, 8], "num_classes": 5, "embed_dim": 16,
                "depth": 2, "num_heads": 2 {more}}}"#
        ))
    };
    let hybrid = |backbone: &str| {
        config(&format!(
            r#"{{"family": "hybrid", "img_size": [32, 48], "num_classes": 5, "embed_dim": 16, "depth": 1, "num_heads": 2,
                "backbone": {{"num_classes": 0, {backbone}}}}}"#
        ))
    };
    vec![
        ("bottlenecks", resnet("")),
        ("basic", resnet(r#", "block": "basic", "channels": [16, 24]"#)),
        ("means in shortcuts", resnet(r#", "avg_down": true"#)),
        ("groups", resnet(r#", "cardinality": 2, "base_width": 32"#)),
        ("silu", resnet(r#", "act_layer": "silu", "global_pool": "avgmax""#)),
        ("gates", resnet(r#", "attn_layer": "se", "rd_ratio": 0.25, "replace_stem_pool": true"#)),
        (
            "efficient gates and blurs",
            resnet(r#", "attn_layer": "eca", "aa_layer": "blur", "avg_down": true"#),
        ),
        (
            "SENet",
            resnet(
                r#", "attn_layer": "se", "cardinality": 2, "block_reduce_first": 2, "down_kernel_size": 3"#,
            ),
        ),
        ("RMSNorm in a ConvNeXt", convnext(r#", "norm_layer": "rmsnorm""#)),
        ("SimpleNorm in a ConvNeXt", convnext(r#", "norm_layer": "simplenorm", "conv_mlp": true"#)),
        ("one kernel as stem", resnet(r#", "stem_type": """#)),
        ("RegNetX", regnet("")),
        ("RegNetY", regnet(r#", "se_ratio": 1.0, "bottle_ratio": 0.5"#)),
        ("ConvNeXt", convnext("")),
        ("ConvNeXtV2", convnext(r#", "use_grn": true, "ls_init_value": null, "conv_mlp": true"#)),
        ("hidden layer of the head", convnext(r#", "head_hidden_size": 6, "kernel_sizes": [7, 5, 3, 3]"#)),
        ("norm before pooling", convnext(r#", "head_norm_first": true, "stem_type": "overlap""#)),
        ("Swin", swin("")),
        ("Swin V2", swin(r#", "version": "v2""#)),
        ("windows without biases", swin(r#", "qkv_bias": false, "pad_first": true, "window_size": [3, 4]"#)),
        ("timm's Swin V2", swin_cr(r#", "window_ratio": 2"#)),
        ("norms of sums", swin_cr(r#", "window_size": 3, "extra_norm_period": 2, "extra_norm_stage": true"#)),
        ("Twins-PCPVT", twins("")),
        ("Twins-SVT", twins(r#", "wss": [3, 2, 2, 2]"#)),
        ("BEiT", beit(r#", "use_rel_pos_bias": true, "use_shared_rel_pos_bias": true"#)),
        ("BEiT with SwiGLU", beit(r#", "swiglu_mlp": true, "scale_mlp": true, "global_pool": "token""#)),
        ("EVA", eva(r#", "use_post_norm": true"#)),
        (
            "EVA-02",
            eva(
                r#", "qkv_fused": false, "swiglu_mlp": true, "scale_attn_inner": true, "use_rot_pos_emb": true"#,
            ),
        ),
        (
            "learned rotations",
            eva(
                r#", "attn_type": "rope", "init_values": 1e-5, "use_abs_pos_emb": false, "use_rot_pos_emb": true,
                   "rope_type": "mixed", "rope_temperature": 10.0"#,
            ),
        ),
        (
            "DINOv3",
            eva(
                r#", "num_reg_tokens": 2, "use_rot_pos_emb": true, "rope_type": "dinov3", "rope_rotate_half": true,
                   "swiglu_mlp": true, "swiglu_align_to": 8, "use_fc_norm": false"#,
            ),
        ),
        (
            "Sapiens2",
            eva(
                r#", "num_reg_tokens": 2, "use_rot_pos_emb": true, "rope_type": "dinov3", "rope_rotate_half": true,
                   "swiglu_mlp": true, "attn_type": "rope", "qkv_fused": false, "qk_norm": true, "num_kv_heads": [2, 1],
                   "norm_layer": "rmsnorm", "init_values": 1.0, "attn_only_layer_scale": true, "global_pool": "token""#,
            ),
        ),
        ("norms before", bit("")),
        ("norms behind", bit(r#", "preact": false, "stem_type": "same", "same_padding": true"#)),
        (
            "hybrid of a ResNet",
            hybrid(
                r#""family": "resnet", "layers": [1, 1], "channels": [4, 6], "stem_type": "deep", "stem_width": 4"#,
            ),
        ),
        (
            "hybrid of a BiT",
            hybrid(
                r#""family": "bit", "layers": [1, 1], "channels": [16, 16], "stem_chs": 16, "num_groups": 4,
                   "preact": false, "stem_type": "same", "same_padding": true"#,
            ),
        ),
        (
            "hybrid of a Twins",
            hybrid(
                r#""family": "twins", "patch_size": 1, "embed_dims": [4, 4, 6, 6], "num_heads": [1, 1, 2, 2],
                   "mlp_ratios": [1, 1, 1, 1], "depths": [2, 1, 1, 1], "sr_ratios": [2, 2, 1, 1], "wss": [3, 2, 2, 2]"#,
            ),
        ),
        (
            "hybrid of a Swin",
            hybrid(
                r#""family": "swin", "patch_size": [2, 2], "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4],
                   "window_size": 3"#,
            ),
        ),
        (
            "hybrid of a Swin V2",
            hybrid(
                r#""family": "swin", "version": "v2", "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4],
                   "window_size": 3"#,
            ),
        ),
        (
            "hybrid of timm's Swin V2",
            hybrid(
                r#""family": "swin_cr", "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_ratio": 2"#,
            ),
        ),
        (
            "hybrid of a stem",
            hybrid(
                r#""family": "bit", "layers": [], "stem_chs": 16, "num_groups": 4, "preact": false,
                   "stem_type": "same", "same_padding": true"#,
            ),
        ),
    ]
}

/// A model's parameters from the formula, in f64 on a device with autodiff.
fn drawn(config: &ModelConfig) -> Model {
    let model = config.skeleton(&Device::flex().autodiff()).expect("a model");
    let tensors = collect(&model).tensors.into_iter().map(|(key, tensor)| {
        let values = formula::weight(&key, tensor.shape());
        let tensor = HostTensor::from_f32(tensor.shape().to_vec(), &values).expect("values fill the shape");
        (key, tensor)
    });
    let map = TensorMap { tensors: tensors.collect(), ..TensorMap::new("the formula") };
    apply(model, map, DType::F64, &Excuses::default()).expect("the formula is the model's").0
}

#[test]
fn every_parameter_learns() {
    for (name, config) in kinds() {
        let device = Device::flex().autodiff();
        let model = drawn(&config);
        let [height, width] = config.input().image().size;
        let shape = [3, 3, height, width];
        let images = TensorData::new(formula::noise("images", shape.iter().product()), shape);
        let images = Tensor::<4>::from_data(images, (&device, DType::F64));
        let targets = super::soft_targets(&[0, 2, 4], 0.1, &device, DType::F64);
        let logits = model.as_classifier().expect("a classifier").forward(images.into());
        let loss = ClassLoss::CrossEntropy.loss(logits, targets);
        let grads = GradMap::collect(&model, loss.backward());
        assert_eq!(grads.first_non_finite(), None, "{name}");
        let found: BTreeSet<&str> = grads.iter().map(|grad| grad.key.as_str()).collect();
        let keys = super::parameters(&model);
        let expected: BTreeSet<&str> =
            keys.keys().map(String::as_str).filter(|key| !is_statistic(key)).collect();
        assert_eq!(found, expected, "{name}: parameters with a gradient");
        for grad in grads.iter() {
            let values = grad.value.clone().into_data().iter::<f64>().collect::<Vec<_>>();
            let largest = values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
            assert!(
                largest > 1e-9 || is_unseen(&grad.key),
                "{name}: {} has no gradient ({largest:e})",
                grad.key
            );
        }
    }
}

/// Four patterns under noise, told apart by BEiT and EVA after sixty updates. Guessing has the loss `ln 5`.
#[test]
fn small_beits_and_evas_learn() {
    for (name, config) in kinds() {
        if !matches!(config.family(), "beit" | "eva") {
            continue;
        }
        let case = Case {
            file: "",
            name: name.into(),
            config: serde_json::to_value(&config).expect("a configuration"),
            recipe: Recipe {
                lr: Some(5e-3),
                epochs: 100,
                warmup_epochs: 0.0,
                smoothing: 0.0,
                ..Recipe::default()
            },
            updates: Vec::new(),
            losses: Vec::new(),
            lrs: Vec::new(),
            grad_norms: Vec::new(),
        };
        let model = config.init(&Device::flex(), 5).expect("a model");
        let mut trainer = Trainer::new(model, &case.recipe, 1, &Device::flex()).expect("a trainer");
        let losses: Vec<f64> = (0..60)
            .map(|update| {
                let batch: Vec<usize> = (update * 16..(update + 1) * 16).collect();
                let Examples { images, shape, indexes, .. } = case.examples(&batch);
                let labels: Vec<usize> = batch.iter().map(|index| index % CLASSES).collect();
                let targets = smoothed_one_hot(&labels, 5, 0.0).expect("labels are classes");
                let examples = Examples { images, shape, targets, masks: None, indexes };
                trainer.update(vec![examples]).expect("an update").loss
            })
            .collect();
        let last = losses[55..].iter().sum::<f64>() / 5.0;
        assert!(last < 0.5 * losses[0], "{name}: from {} to {last}", losses[0]);
    }
}

/// A few updates of a tiny ResNet with everything random switched on.
fn recipe(output: &Path) -> Recipe {
    let overlay: Overlay = toml::from_str(
        r#"
        data = "demo:48"
        model = "resnet14t"
        img_size = 24
        model_kwargs = { layers = [1, 1], channels = [8, 12], stem_width = 8 }
        drop = 0.1
        drop_path = 0.1
        epochs = 1
        warmup_epochs = 0.25
        batch_size = 12
        opt = "sgd"
        lr = 0.05
        clip_grad = 1.0
        reprob = 0.25
        mixup = 0.2
        cutmix = 1.0
        model_ema = true
        model_ema_decay = 0.9
        workers = 2
        log_interval = 1
        experiment = "run"
        "#,
    )
    .expect("a recipe");
    Recipe { output: output.to_path_buf(), ..Recipe::default().with(&overlay, "test").expect("known keys") }
}

/// Checksums of the files of a run that stops after so many updates, again and again.
fn in_pieces(pieces: &[u64], change: impl Fn(&mut Recipe)) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut recipe = recipe(folder.path());
    change(&mut recipe);
    let mut resume = None;
    for &updates in pieces {
        let job = Job { resume: resume.clone(), ..job(recipe.clone()) };
        let outcome = Fit::new(&job)
            .requests(&StopAfter(Cell::new(updates)))
            .run(&mut Heard::default())
            .expect("a run");
        assert!(outcome.stopped.is_some(), "{pieces:?}");
        resume = Some(Resume::Auto);
    }
    done(fit(&Job { resume, ..job(recipe) }, &mut Heard::default()).expect("a run"))
}

/// With gradients of two batches, an average, passes in bf16 and blocks computed twice; resumed with another number of
/// workers.
#[test]
fn a_run_that_stops_goes_on_as_if_it_never_had() {
    let run = |pieces: &[u64], workers| {
        in_pieces(pieces, |recipe| {
            recipe.workers = workers;
            recipe.batch_size = 6;
            recipe.grad_accum_steps = 2;
            recipe.amp_dtype = "bf16".into();
            recipe.grad_checkpointing = true;
        })
    };
    assert_eq!(run(&[1], 3), run(&[], 1));
}

/// The same of a trainer alone: every family, every type, frozen batch norms, an optimiser whose state has other shapes.
#[test]
fn a_trainer_goes_on_from_its_state() {
    for case in cases().into_iter().chain([dropping()]) {
        for (amp_dtype, opt, freeze_bn) in [("none", "sgd", false), ("bf16", "adafactor", true)] {
            let change = |recipe: &mut Recipe| {
                recipe.amp_dtype = amp_dtype.into();
                recipe.opt = opt.into();
                let is_without = ["bit", "convnext", "swin", "swin_v2", "swin_cr", "twins_svt"]
                    .contains(&case.name.as_str());
                recipe.freeze_bn = freeze_bn && !is_without;
            };
            let mut unbroken = case.trainer(change);
            unbroken.update(case.batches(0)).expect("an update");
            let mut resumed = case.trainer(change);
            resumed.load_state(unbroken.state()).expect("a state of the same run");
            assert_eq!(unbroken.state(), resumed.state(), "{}, {opt}", case.name);
            for trainer in [&mut unbroken, &mut resumed] {
                trainer.update(case.batches(1)).expect("an update");
            }
            assert_eq!(unbroken.state(), resumed.state(), "{}, {opt}", case.name);
        }
    }
}

/// Keys of the tensors that some updates change: of the model, and of its average.
fn moved(case: &Case, change: impl Fn(&mut Recipe)) -> BTreeSet<String> {
    let mut trainer = case.trainer(change);
    let state =
        |trainer: &Trainer| [trainer.model(), trainer.ema_model().expect("an average")].map(|m| collect(&m));
    let before = state(&trainer);
    for update in 0..2 {
        assert_eq!(trainer.update(case.batches(update)).expect("an update").skipped, None);
    }
    let after = state(&trainer);
    let [model, ema] = [0, 1].map(|i| {
        let [a, b] = [&before[i], &after[i]].map(|map| map.tensors.clone().into_iter().collect::<Vec<_>>());
        changed(&a, &b)
    });
    assert_eq!(model, ema, "{}: the average moves like the model", case.name);
    model
}

/// The keys of a model's batch norms.
fn norm_keys(case: &Case) -> BTreeSet<String> {
    let keys: BTreeSet<String> = collect(&case.model()).tensors.into_keys().collect();
    let layers: Vec<&str> = keys.iter().filter_map(|key| key.strip_suffix(".running_mean")).collect();
    let parts = ["weight", "bias", "running_mean", "running_var"];
    layers.iter().flat_map(|layer| parts.map(|part| format!("{layer}.{part}"))).collect()
}

#[test]
fn frozen_batch_norms_stay_bit_for_bit() {
    for name in ["resnet", "resnet_d_basic", "hybrid_resnet"] {
        let case = case(name);
        let keys: BTreeSet<String> = collect(&case.model()).tensors.into_keys().collect();
        let norms = norm_keys(&case);
        assert_eq!(moved(&case, |_| ()), keys, "{name}: everything moves");
        let others: BTreeSet<String> = keys.difference(&norms).cloned().collect();
        for (amp_dtype, grad_checkpointing) in [("none", false), ("none", true), ("bf16", false)] {
            let moved = moved(&case, |recipe| {
                recipe.freeze_bn = true;
                recipe.amp_dtype = amp_dtype.into();
                recipe.grad_checkpointing = grad_checkpointing;
            });
            assert_eq!(moved, others, "{name}, {amp_dtype}");
        }
    }
}

/// A frozen norm computes with the running statistics: a batch does not depend on its other images.
#[test]
fn frozen_batch_norms_use_the_running_statistics() {
    let case = case("resnet");
    let recipe = Recipe { freeze_bn: true, ..case.recipe.clone() };
    let (model, _) = freeze(case.model(), &recipe).expect("parameters to train");
    let Examples { images, shape, .. } = case.examples(&[0, 1, 2]);
    let logits = |model: &Model, device: &Device| {
        let images = Tensor::<4>::from_data(TensorData::new(images.clone(), shape), (device, DType::F32));
        let logits = model.as_classifier().expect("a classifier").forward(images.into());
        logits.into_data().iter::<f64>().collect::<Vec<_>>()
    };
    let trained = logits(&model.clone().train(), &Device::flex().autodiff());
    let answers = logits(&model, &Device::flex());
    let error = relative(&trained, &answers);
    assert!(error < 1e-6, "{error:e}");
    let free = logits(&case.model().train(), &Device::flex().autodiff());
    assert!(relative(&free, &answers) > 1e-2, "a batch's own statistics give other logits");
}

/// A pattern that names statistics freezes them too, as timm's `freeze` does; a probe leaves all but the head as it is.
#[test]
fn other_ways_to_freeze_keep_statistics_too() {
    let case = case("resnet_d_basic");
    let part = moved(&case, |recipe| recipe.freeze = vec!["layer1.*".into(), "bn1.weight".into()]);
    assert!(part.iter().all(|key| !key.starts_with("layer1.") && key != "bn1.weight"));
    assert!(part.contains("bn1.running_mean") && part.contains("layer2.0.bn1.running_var"), "{part:?}");
    let probe = moved(&case, |recipe| recipe.linear_probe = true);
    assert_eq!(probe, ["fc.bias", "fc.weight"].map(String::from).into());
    let hybrid = self::case("hybrid_resnet");
    let lora = moved(&hybrid, |recipe| recipe.lora_rank = 2);
    assert!(lora.contains("blocks.0.attn.qkv.weight") && lora.contains("head.bias"), "{lora:?}");
    assert!(lora.iter().all(|key| key.starts_with("blocks.") || key.starts_with("head.")), "{lora:?}");

    let lora = moved(&self::case("convnext"), |recipe| recipe.lora_rank = 2);
    let is_adapted =
        |key: &String| key.starts_with("head.fc.") || key.contains(".mlp.fc") && key.ends_with(".weight");
    assert!(lora.len() == 12 && lora.iter().all(is_adapted), "{lora:?}");

    let note = |case: &Case, change: fn(&mut Recipe)| {
        let mut recipe = case.recipe.clone();
        change(&mut recipe);
        freeze(case.model(), &recipe).expect("parameters to train").1
    };
    assert_eq!(note(&case, |_| ()), Vec::<String>::new());
    assert_eq!(note(&case, |recipe| recipe.freeze_bn = true), ["9 batch norms are frozen"]);
    assert_eq!(note(&case, |recipe| recipe.linear_probe = true), ["9 batch norms are frozen"]);
    assert_eq!(
        note(&case, |recipe| recipe.freeze = vec!["layer1.*".into()]),
        ["3 of 9 batch norms are frozen"]
    );
    assert_eq!(note(&case, |recipe| recipe.freeze = vec!["bn1.*".into()]), ["1 of 9 batch norms is frozen"]);
}

#[test]
fn what_cannot_be_frozen_or_updated_is_refused() {
    let refusal = |name: &str, change: fn(&mut Recipe)| {
        let case = case(name);
        let mut recipe = case.recipe.clone();
        change(&mut recipe);
        freeze(case.model(), &recipe).expect_err("a refusal")
    };
    let error = refusal("bit", |recipe| recipe.freeze_bn = true);
    assert!(matches!(error, TrainError::NoBatchNorms { family: "bit" }), "{error}");
    for name in ["resnet", "bit"] {
        let error = refusal(name, |recipe| recipe.lora_rank = 4);
        assert!(error.to_string().contains(&format!("lora_rank: a {name} has no linear layers")), "{error}");
    }
    // No folder is made for what makes no run.
    let folder = tempfile::tempdir().expect("a folder");
    let lora = Recipe { lora_rank: 4, ..recipe(folder.path()) };
    let error = fit(&job(lora), &mut Heard::default()).expect_err("refused").to_string();
    assert!(error.contains("has no linear layers"), "{error}");
    assert!(std::fs::read_dir(folder.path()).expect("a folder").next().is_none());
}

/// Fine-tuning with frozen batch norms, stopped and resumed: the notes say so, and the norms keep the file's tensors.
#[test]
fn a_run_with_frozen_batch_norms_goes_on() {
    let case = case("resnet");
    let place = tempfile::tempdir().expect("a folder");
    let pretrained = place.path().join("begin");
    let card = ModelCard {
        architecture: Some("resnet50".into()),
        ..ModelCard::new(case.config(), CardSource::Timm, &pretrained)
    };
    save(&pretrained, &case.model(), &card, &WriteOptions::default()).expect("a model");
    let tuned = |experiment: &str| Recipe {
        pretrained: Some(pretrained.display().to_string()),
        data: "demo:48".into(),
        img_size: Some(ImgSize([24, 24])),
        output: place.path().into(),
        experiment: Some(experiment.into()),
        epochs: 1,
        warmup_epochs: 0.0,
        batch_size: 12,
        freeze_bn: true,
        ..Recipe::finetune()
    };
    let mut models = Vec::new();
    for stops in [false, true] {
        let recipe = tuned(&format!("stops-{stops}"));
        if stops {
            Fit::new(&job(recipe.clone()))
                .requests(&StopAfter(Cell::new(1)))
                .run(&mut Heard::default())
                .expect("a run");
        }
        let mut heard = Heard::default();
        let job = Job { resume: stops.then_some(Resume::Newest), ..job(recipe) };
        let outcome = fit(&job, &mut heard).expect("a run");
        assert!(heard.notes.iter().any(|note| note == "14 batch norms are frozen"), "{:?}", heard.notes);
        models.push(collect(&outcome.model.model).tensors);
    }
    let before = collect(&case.model()).tensors;
    let norms = norm_keys(&case);
    for (key, tensor) in &models[0] {
        assert_eq!(tensor.bytes(), models[1][key].bytes(), "{key}");
        assert_eq!(tensor.bytes() == before[key].bytes(), norms.contains(key), "{key}");
    }
}

/// DeiT's teacher is a RegNet: a teacher with batch norms answers for each image alone, and stays as it is. A student
/// with batch norms learns from it.
#[test]
fn a_teacher_with_batch_norms() {
    let case = case("resnet");
    let [height, width] = case.config().input().image().size;
    let options = TeacherOptions {
        model: "teacher".into(),
        checkpoint: None,
        student: Preprocess { input_size: [3, height, width], ..Preprocess::default() },
        classes: ["a", "b", "c", "d"].map(String::from).into(),
        num_classes: CLASSES,
        cache: false,
        offline: true,
    };
    let loaded = || Loaded {
        name: "teacher".into(),
        preprocess: None,
        labels: None,
        card: None,
        report: None,
        notes: Vec::new(),
        model: case.model(),
    };
    let device = Device::flex();
    let teacher = || Teacher::new(loaded(), &options, &device).expect("a teacher").0;
    let answers = |images: &[usize]| {
        let batch = case.examples(images).into_batch(&device.clone().autodiff()).expect("a batch");
        teacher().answers(&batch).into_data().iter::<f32>().collect::<Vec<_>>()
    };
    assert_eq!(answers(&[3, 1, 2])[..CLASSES], answers(&[3]));

    let student = |grad_checkpointing| {
        let config = DistillConfig { kind: DistillationType::Soft, alpha: 0.5, tau: 2.0 };
        let objective = Box::new(Distillation { base: ClassLoss::CrossEntropy, config, teacher: teacher() });
        let recipe = Recipe { grad_checkpointing, ..case.recipe.clone() };
        let mut trainer =
            Trainer::with_objective(case.model(), objective, &recipe, 1, &device).expect("a trainer");
        assert_eq!(trainer.update(case.batches(0)).expect("an update").skipped, None);
        trainer.state()
    };
    let state = student(false);
    assert_eq!(state, student(true));
    let before: Vec<_> = collect(&case.model()).tensors.into_iter().collect();
    assert_eq!(changed(&before, &state.model).len(), before.len(), "every tensor moves");
}

/// One image with maps of one pixel in the last stage: PyTorch refuses it too.
#[test]
fn a_single_value_has_no_statistics() {
    let case = case("resnet");
    for grad_checkpointing in [false, true] {
        let change = |recipe: &mut Recipe| recipe.grad_checkpointing = grad_checkpointing;
        let config = case.config().with("img_size", serde_json::json!([6, 6])).expect("a size");
        let small = Case { config: serde_json::to_value(config).expect("JSON"), ..self::case("resnet") };
        let mut trainer = small.trainer(change);
        let before = trainer.state();
        let error = trainer.update(vec![small.examples(&[0])]).expect_err("refused");
        assert!(
            matches!(&error, TrainError::OneValue { layer } if layer == "layer2.0.downsample.1"),
            "{error}"
        );
        assert_eq!((before.model, before.ema), (trainer.state().model, trainer.state().ema));
        let mut frozen = small.trainer(|recipe| recipe.freeze_bn = true);
        assert_eq!(frozen.update(vec![small.examples(&[0])]).expect("an update").skipped, None);
    }
}

#[test]
fn packed_kernels_are_not_trained_in_silence() {
    let case = case("resnet");
    let error = Trainer::new(case.model().pack(), &case.recipe, 1, &Device::flex()).err().expect("a refusal");
    let text = error.to_string();
    assert!(text.contains("conv1.0: its weights are packed for inference"), "{text}");
    let mut model = case.model().pack();
    model.forget_prepared();
    model.visit_parts(&mut |part| assert!(!matches!(part, Part::Conv(conv) if conv.is_packed())));
    Trainer::new(model, &case.recipe, 1, &Device::flex()).expect("a trainer");
}

/// A tiny Twins-SVT learns some of the drawn shapes by heart.
#[test]
fn a_twins_learns_drawn_shapes_by_heart() {
    let folder = tempfile::tempdir().expect("a folder");
    let overlay: Overlay = toml::from_str(
        r#"
        data = "demo:30"
        model = "twins_svt_small"
        img_size = 16
        epochs = 30
        val_interval = 30
        warmup_epochs = 2.0
        warmup_lr = 1e-5
        batch_size = 15
        opt = "adamw"
        lr = 4e-3
        weight_decay = 0.05
        clip_grad = 1.0
        no_aug = true
        smoothing = 0.0
        crop_pct = 1.0
        workers = 2
        log_interval = 1
        experiment = "run"

        [model_kwargs]
        patch_size = 2
        embed_dims = [16, 16, 24, 32]
        num_heads = [1, 1, 2, 2]
        mlp_ratios = [2.0, 2.0, 2.0, 2.0]
        depths = [1, 2, 2, 1]
        sr_ratios = [2, 1, 1, 1]
        wss = [4, 3, 3, 1]
        "#,
    )
    .expect("a recipe");
    let recipe = Recipe::default().with(&overlay, "test").expect("known keys");
    let recipe = Recipe { output: folder.path().to_path_buf(), ..recipe };
    let mut heard = Heard::default();
    fit(&job(recipe), &mut heard).expect("a run");
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&heard.losses[..5]), mean(&heard.losses[heard.losses.len() - 5..]));
    assert!(last < 0.5 * first, "{first} {last}");
}
