//! Transformers in stages, behind modules of their own or with other forms of blocks: every parameter learns, updates are
//! repeatable, and a model learns the drawn shapes.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::json;
use vitrum::checkpoint::TensorMap;
use vitrum::checkpoint::apply::{Excuses, apply, collect};
use vitrum::checkpoint::tensors::HostTensor;
use vitrum::data::augment::smoothed_one_hot;
use vitrum::data::demo::DemoSet;
use vitrum::models::{Config, Model, ModelConfig};
use vitrum::train::Recipe;
use vitrum::train::evidence::first_bad;
use vitrum::train::objective::ClassLoss;
use vitrum::train::optim::GradMap;
use vitrum::train::precision::narrowed;
use vitrum::train::recipe::builtin;
use vitrum::train::trainer::{Examples, Trainer, TrainerState};

use super::relative;
use crate::formula;

const CLASSES: usize = 4;

/// A model of every kind.
fn kinds() -> Vec<(&'static str, ModelConfig)> {
    let config = |family: serde_json::Value, more: serde_json::Value| {
        let mut fields = family;
        fields.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        serde_json::from_value::<ModelConfig>(fields).expect("a configuration")
    };
    let pit = |more| {
        let tiny = json!({"family": "pit", "img_size": [32, 28], "num_classes": CLASSES, "patch_size": 8, "stride": 4,
            "base_dims": [4, 4, 4], "depth": [1, 2, 1], "heads": [2, 4, 8]});
        config(tiny, more)
    };
    let t2t = |more| {
        let tiny = json!({"family": "t2t", "img_size": [48, 32], "num_classes": CLASSES, "token_dim": 6, "embed_dim": 12,
            "depth": 2, "num_heads": 3, "mlp_ratio": 2.0, "token_drop_rate": 0.0});
        config(tiny, more)
    };
    let vit = |more| {
        let tiny = json!({"img_size": [32, 24], "patch_size": [8, 8], "num_classes": CLASSES, "embed_dim": 24, "depth": 2,
            "num_heads": 3, "mlp_ratio": 2.0});
        config(tiny, more)
    };
    let eva = |more| {
        let mut fields: serde_json::Value = more;
        fields["family"] = "eva".into();
        vit(fields)
    };
    vec![
        (
            "RMSNorm and SwiGLU",
            vit(
                json!({"norm_layer": "rmsnorm", "mlp_layer": "swiglu", "act_layer": "silu", "embed_norm": true,
            "qk_norm": true}),
            ),
        ),
        (
            "attention beside the MLP",
            vit(json!({"block_fn": "parallel_scaling_block", "qkv_bias": false, "init_values": 0.1})),
        ),
        ("two of each", vit(json!({"block_fn": "parallel_things_block", "init_values": 0.1}))),
        ("differential attention", vit(json!({"attn_layer": "diff"}))),
        (
            "differential attention beside the MLP, dropout",
            vit(json!({"block_fn": "diff_parallel_scaling_block", "norm_layer": "rmsnorm", "drop_rate": 0.1,
            "attn_drop_rate": 0.1, "proj_drop_rate": 0.1, "drop_path_rate": 0.1})),
        ),
        ("learned rotations", eva(json!({"use_rot_pos_emb": true, "rope_type": "mixed"}))),
        ("PiT", pit(json!({}))),
        ("PiT, distilled", pit(json!({"distilled": true}))),
        (
            "PiT, dropout",
            pit(json!({"distilled": true, "drop_rate": 0.1, "pos_drop_rate": 0.1,
            "proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.1})),
        ),
        ("T2T-ViT", t2t(json!({}))),
        ("T2T-ViT, plain attention", t2t(json!({"tokens_type": "transformer", "qkv_bias": true}))),
        (
            "T2T-ViT, dropout",
            t2t(json!({"token_drop_rate": 0.1, "drop_rate": 0.1, "attn_drop_rate": 0.1,
            "drop_path_rate": 0.1, "qk_scale": "embed_dim"})),
        ),
    ]
}

/// Keys of parameters that are never trained.
fn is_fixed(key: &str, family: &str) -> bool {
    family == "t2t" && (key == "pos_embed" || key.ends_with(".w"))
}

/// A model's parameters from the formula, in `dtype`, matrices a quarter as large.
fn drawn(config: &ModelConfig, device: &Device, dtype: DType) -> Model {
    let model = config.skeleton(device).expect("a model");
    let tensors = collect(&model).tensors.into_iter().map(|(key, tensor)| {
        let factor = if tensor.shape().len() >= 2 { 0.5 } else { 1.0 };
        let values: Vec<f32> = formula::weight(&key, tensor.shape()).iter().map(|v| v * factor).collect();
        let tensor = HostTensor::from_f32(tensor.shape().to_vec(), &values).expect("values fill the shape");
        (key, tensor)
    });
    let map = TensorMap { tensors: tensors.collect(), ..TensorMap::new("the formula") };
    apply(model, map, dtype, &Excuses::default()).expect("the formula is the model's").0
}

#[test]
fn every_parameter_learns() {
    for (name, config) in kinds() {
        let device = Device::flex().autodiff();
        let model = drawn(&config, &device, DType::F64);
        let [height, width] = config.input().image().size;
        let shape = [3, 3, height, width];
        let images = TensorData::new(formula::noise("images", shape.iter().product()), shape);
        let images = Tensor::<4>::from_data(images, (&device, DType::F64));
        let targets = smoothed_one_hot(&[0, 2, 3], CLASSES, 0.1).expect("labels are classes");
        let targets = Tensor::from_data(TensorData::new(targets, [3, CLASSES]), (&device, DType::F64));
        let logits = model.as_classifier().expect("a classifier").forward(images.into());
        let loss = ClassLoss::CrossEntropy.loss(logits, targets);
        let grads = GradMap::collect(&model, loss.backward());
        assert_eq!(grads.first_non_finite(), None, "{name}");
        let found: BTreeSet<&str> = grads.iter().map(|grad| grad.key.as_str()).collect();
        let keys = super::parameters(&model);
        let expected = keys.keys().map(String::as_str).filter(|key| !is_fixed(key, config.family()));
        assert_eq!(found, expected.collect::<BTreeSet<&str>>(), "{name}: parameters with a gradient");
        for grad in grads.iter() {
            let values = grad.value.clone().into_data().iter::<f64>().collect::<Vec<_>>();
            let largest = values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
            assert!(largest > 1e-9, "{name}: {} has no gradient ({largest:e})", grad.key);
        }
    }
}

fn recipe(change: impl Fn(&mut Recipe)) -> Recipe {
    let mut recipe = Recipe {
        lr: Some(2e-3),
        clip_grad: Some(1.0),
        // An epoch of one update each, so that epochs are updates.
        epochs: 8,
        warmup_epochs: 0.0,
        model_ema: true,
        model_ema_decay: 0.9,
        ..Recipe::default()
    };
    change(&mut recipe);
    recipe
}

fn trainer(config: &ModelConfig, recipe: &Recipe) -> Trainer {
    let model = drawn(config, &Device::flex(), DType::F32);
    Trainer::new(model, recipe, 1, &Device::flex()).expect("a trainer")
}

/// A batch of striped images.
fn examples(config: &ModelConfig, update: usize) -> Vec<Examples> {
    let [height, width] = config.input().image().size;
    let indexes: Vec<usize> = (4 * update..4 * update + 4).collect();
    let mut images = Vec::new();
    for index in &indexes {
        let noise = formula::noise(&format!("image {index}"), 3 * height * width);
        images.extend(noise.into_iter().enumerate().map(|(place, noise)| {
            let (x, y, label) = (place % width, place / width % height, index % CLASSES);
            let stripe = if (x * (label + 1) + y * (3 - label)) % 16 < 8 { 0.5 } else { -0.5 };
            (stripe + 0.5 * noise) as f32
        }));
    }
    let labels: Vec<usize> = indexes.iter().map(|index| index % CLASSES).collect();
    vec![Examples {
        images,
        shape: [4, 3, height, width],
        targets: smoothed_one_hot(&labels, CLASSES, 0.1).expect("labels are classes"),
        masks: None,
        indexes: indexes.iter().map(|index| *index as u32).collect(),
    }]
}

fn learn(config: &ModelConfig, recipe: &Recipe, updates: usize) -> (Vec<f64>, TrainerState) {
    let mut trainer = trainer(config, recipe);
    let losses = (0..updates).map(|update| {
        let updated = trainer.update(examples(config, update)).expect("an update");
        assert_eq!(updated.skipped, None);
        updated.loss
    });
    (losses.collect(), trainer.state())
}

/// Random directions enter narrow passes as they are.
#[test]
fn directions_are_not_rounded() {
    let found = kinds().into_iter().find(|(name, _)| *name == "T2T-ViT");
    let (_, config) = found.expect("it is in the list");
    let model = drawn(&config, &Device::flex(), DType::F32);
    let (wide, narrow) = (collect(&model), collect(&narrowed(&model, DType::BF16)));
    for (key, tensor) in &wide.tensors {
        assert_eq!(narrow.get(key) == Some(tensor), key.ends_with(".w"), "{key}");
    }
}

/// Blocks that are computed twice give the same as blocks that are kept. Those that draw give the same every time.
#[test]
fn recomputing_changes_no_bit() {
    for (name, config) in kinds() {
        let is_random = ["drop_rate", "drop_path_rate", "token_drop_rate"]
            .iter()
            .any(|field| config.field(field).and_then(|rate| rate.as_f64()).is_some_and(|rate| rate > 0.0));
        for amp_dtype in ["none", "bf16"] {
            let run = |grad_checkpointing| {
                let recipe = recipe(|recipe| {
                    recipe.grad_checkpointing = grad_checkpointing;
                    recipe.amp_dtype = amp_dtype.into();
                });
                learn(&config, &recipe, 2)
            };
            let (kept, recomputed) = (run(false), run(true));
            // Recomputed parts have seeds of their own.
            assert!(recomputed == run(true), "{name}, {amp_dtype}: not repeatable");
            assert!(is_random || kept == recomputed, "{name}, {amp_dtype}: {:?} {:?}", kept.0, recomputed.0);
        }
    }
}

/// Models with parameters that several blocks share.
fn sharing() -> Vec<(&'static str, ModelConfig)> {
    let tiny = |more: serde_json::Value| {
        let mut fields = json!({"img_size": [32, 24], "patch_size": [8, 8], "num_classes": CLASSES, "embed_dim": 24,
            "depth": 3, "num_heads": 3, "mlp_ratio": 2.0});
        fields.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        serde_json::from_value::<ModelConfig>(fields).expect("a configuration")
    };
    let vit = |pos_embed: &str| tiny(json!({"pos_embed": pos_embed}));
    vec![
        ("rel_bias_shared", vit("rel_bias_shared")),
        ("rel_key_shared", vit("rel_key_shared")),
        ("rel_mlp_shared", vit("rel_mlp_shared")),
        (
            "rel_pos_bias",
            tiny(json!({"family": "beit", "use_shared_rel_pos_bias": true, "init_values": 0.1})),
        ),
        ("rope.freqs", tiny(json!({"family": "eva", "use_rot_pos_emb": true, "rope_type": "mixed"}))),
    ]
}

/// The gradient of a shared parameter is the sum of those of the blocks. Its order differs, and with it the last digits.
#[test]
fn recomputing_sums_the_gradients_of_shared_parameters() {
    for (name, config) in sharing() {
        let before = collect(&drawn(&config, &Device::flex(), DType::F32)).tensors;
        for (amp_dtype, bar) in [("none", 1e-3), ("bf16", 0.05)] {
            let moved = |grad_checkpointing| {
                let recipe = recipe(|recipe| {
                    recipe.grad_checkpointing = grad_checkpointing;
                    recipe.amp_dtype = amp_dtype.into();
                    (recipe.opt, recipe.lr) = ("momentum".into(), Some(1.0));
                });
                let (_, state) = learn(&config, &recipe, 1);
                let moved = state.model.into_iter().map(|(key, after)| {
                    let steps =
                        after.to_f64().iter().zip(before[&key].to_f64()).map(|(a, b)| a - b).collect();
                    (key, steps)
                });
                moved.collect::<Vec<(String, Vec<f64>)>>()
            };
            let (kept, recomputed) = (moved(false), moved(true));
            assert_eq!(recomputed, moved(true), "{name}, {amp_dtype}: not repeatable");
            let mut shared = 0;
            for ((key, kept), (_, recomputed)) in kept.iter().zip(&recomputed) {
                // The MLP drops values, in every link others.
                let apart = if name == "rel_mlp_shared" { 0.0 } else { relative(recomputed, kept) };
                assert!(apart < bar, "{name}, {amp_dtype}: {key} is {apart:.1e} off");
                let is_shared = key.starts_with("shared_rel_pos") || key.starts_with(name);
                shared += usize::from(is_shared && recomputed.iter().any(|step| *step != 0.0));
            }
            assert!(shared > 0, "{name}, {amp_dtype}: no shared parameter moved");
        }
    }
}

/// Blocks that are computed twice draw the same both times: along the first step, the loss falls as the gradient says.
#[test]
fn recomputed_blocks_draw_the_same() {
    let recipe = recipe(|recipe| {
        recipe.grad_checkpointing = true;
        (recipe.opt, recipe.lr, recipe.clip_grad, recipe.weight_decay) =
            ("momentum".into(), Some(1e-3), None, 0.0);
    });
    for (name, config) in kinds().into_iter().filter(|(name, _)| name.contains("dropout")) {
        let device = Device::flex();
        let step = |model: Model| {
            let mut trainer = Trainer::new(model, &recipe, 1, &device).expect("a trainer");
            let lr = trainer.lr();
            let loss = trainer.update(examples(&config, 0)).expect("an update").loss;
            (loss, lr, trainer.model())
        };
        let start = drawn(&config, &device, DType::F32);
        let (_, lr, moved) = step(start.clone());
        let (before, after) = (collect(&start), collect(&moved));
        let change = |key: &str| -> Vec<f64> {
            let [old, new] = [&before, &after].map(|map| map.get(key).expect("the key is in both").to_f64());
            new.iter().zip(old).map(|(new, old)| new - old).collect()
        };
        let loss_at = |share: f64| {
            let moved = before.tensors.iter().map(|(key, tensor)| {
                let values = tensor.to_f64().into_iter().zip(change(key));
                let values: Vec<f32> = values.map(|(value, step)| (value + share * step) as f32).collect();
                let moved = HostTensor::from_f32(tensor.shape().to_vec(), &values);
                (key.clone(), moved.expect("values fill the shape"))
            });
            let map = TensorMap { tensors: moved.collect(), ..TensorMap::new("a step") };
            let skeleton = config.skeleton(&device).expect("a model");
            step(apply(skeleton, map, DType::F32, &Excuses::default()).expect("the same model").0).0
        };
        let squared: f64 = before.tensors.keys().flat_map(|key| change(key)).map(|step| step * step).sum();
        let (found, expected) = ((loss_at(1.0) - loss_at(-1.0)) / 2.0, -squared / lr);
        assert!((found / expected - 1.0).abs() < 0.02, "{name}: {found:e}, the gradient says {expected:e}");
    }
}

#[test]
fn a_trainer_goes_on_from_its_state() {
    for (name, config) in kinds() {
        for (amp_dtype, opt) in [("none", "adamw"), ("bf16", "adafactor")] {
            let recipe = recipe(|recipe| (recipe.amp_dtype, recipe.opt) = (amp_dtype.into(), opt.into()));
            let mut unbroken = trainer(&config, &recipe);
            unbroken.update(examples(&config, 0)).expect("an update");
            let mut resumed = trainer(&config, &recipe);
            resumed.load_state(unbroken.state()).expect("a state of the same run");
            for trainer in [&mut unbroken, &mut resumed] {
                trainer.update(examples(&config, 1)).expect("an update");
            }
            assert_eq!(unbroken.state(), resumed.state(), "{name}, {opt}");
        }
    }
}

/// Passes in bf16 stay near those in f32.
#[test]
fn narrow_passes_learn_alike() {
    for (name, config) in kinds() {
        let losses = |amp_dtype: &str| learn(&config, &recipe(|r| r.amp_dtype = amp_dtype.into()), 4).0;
        let (wide, narrow) = (losses("none"), losses("bf16"));
        assert_ne!(wide, narrow, "{name}");
        assert!(relative(&narrow, &wide) < 0.05, "{name}: {wide:?} {narrow:?}");
    }
}

/// One drawn picture of each class, from fresh first values: the loss falls to a small part of that of a guess.
#[test]
fn drawn_shapes_are_learnt() {
    let set = DemoSet::new(32, 10, 0);
    let images = (0..10).flat_map(|index| {
        let picture = set.image(index);
        let channel = move |channel| {
            let values = picture.data().iter().skip(channel).step_by(3);
            values.map(|value| f32::from(*value) / 127.5 - 1.0).collect::<Vec<f32>>()
        };
        (0..3).flat_map(channel).collect::<Vec<f32>>()
    });
    let examples = Examples {
        images: images.collect(),
        shape: [10, 3, 32, 32],
        targets: smoothed_one_hot(&(0..10).collect::<Vec<_>>(), 10, 0.0).expect("labels are classes"),
        masks: None,
        indexes: (0..10).collect(),
    };
    let pit = json!({"family": "pit", "img_size": [32, 32], "num_classes": 10, "patch_size": 8, "stride": 4,
        "base_dims": [8, 8, 8], "depth": [1, 1, 1], "heads": [2, 4, 8], "distilled": true});
    let t2t = |tokens_type| {
        json!({"family": "t2t", "img_size": [32, 32], "num_classes": 10, "token_dim": 16, "embed_dim": 32, "depth": 2,
            "num_heads": 2, "mlp_ratio": 2.0, "tokens_type": tokens_type})
    };
    let vit = |block_fn, attn_layer| {
        json!({"img_size": [32, 32], "patch_size": [8, 8], "num_classes": 10, "embed_dim": 32, "depth": 2, "num_heads": 2,
            "mlp_ratio": 2.0, "block_fn": block_fn, "attn_layer": attn_layer, "norm_layer": "rmsnorm"})
    };
    for (name, config) in [
        ("attention beside the MLP", vit("parallel_scaling_block", "attn")),
        ("two differential attentions", vit("parallel_things_block", "diff")),
        ("differential attention beside the MLP", vit("diff_parallel_scaling_block", "attn")),
        ("PiT", pit),
        ("T2T-ViT", t2t("performer")),
        ("T2T-ViT, plain attention", t2t("transformer")),
    ] {
        let config: ModelConfig = serde_json::from_value(config).expect("a configuration");
        let recipe = recipe(|recipe| {
            (recipe.lr, recipe.sched, recipe.weight_decay) = (Some(1e-2), "none".into(), 0.0);
            recipe.opt = "adamw".into();
        });
        let model = config.init(&Device::flex(), 0).expect("a model");
        let mut trainer = Trainer::new(model, &recipe, 1, &Device::flex()).expect("a trainer");
        let mut losses = Vec::new();
        for _ in 0..40 {
            losses.push(trainer.update(vec![examples.clone()]).expect("an update").loss);
        }
        assert!(losses[39] < 0.3 * losses[0], "{name}: {losses:?}");
    }
}

/// Performers are known for NaN at high rates and in half precision. At the recipe's rate and at ten times of it, in f32 and
/// in bf16, updates stay numbers. At an absurd rate the first bad value has a name.
#[test]
fn high_rates_give_numbers_or_a_name() {
    let of_recipe =
        Recipe::default().with(&builtin("t2t_vit_7").expect("a recipe"), "t2t_vit_7").expect("known keys");
    let (_, config) = kinds().into_iter().find(|(name, _)| *name == "T2T-ViT, dropout").expect("a kind");
    for factor in [1.0, 10.0] {
        for amp_dtype in ["none", "bf16"] {
            let recipe = Recipe {
                lr: of_recipe.lr.map(|lr| factor * lr),
                opt: of_recipe.opt.clone(),
                weight_decay: of_recipe.weight_decay,
                sched: "none".into(),
                warmup_epochs: 0.0,
                clip_grad: None,
                amp_dtype: amp_dtype.into(),
                ..Recipe::default()
            };
            assert_eq!(of_recipe.lr, Some(1e-3));
            let mut trainer = trainer(&config, &recipe);
            for update in 0..24 {
                let updated = trainer.update(examples(&config, update)).expect("an update");
                let text = format!("{amp_dtype}, rate {:?}, update {update}", recipe.lr);
                assert_eq!(updated.skipped, None, "{text}");
                assert!(updated.loss < 100.0, "{text}: {}", updated.loss);
            }
            let [height, width] = config.input().image().size;
            let images = Tensor::<4>::ones([1, 3, height, width], (&Device::flex(), DType::F32));
            assert_eq!(first_bad(&trainer.model().valid(), images), None);
        }
    }
    // Weights so large that a layer before the blocks overflows: the layer is named, not a later one.
    let model = drawn(&config, &Device::flex(), DType::F32);
    let mut map = collect(&model);
    let norm = map.tensors.get_mut("tokens_to_token.attention2.norm1.weight").expect("a norm");
    *norm = HostTensor::from_f32(norm.shape().to_vec(), &vec![1e38; norm.num_elements()]).expect("values");
    let model = config.skeleton(&Device::flex()).expect("a model");
    let (model, _) = apply(model, map, DType::F32, &Excuses::default()).expect("the same tensors");
    let [height, width] = config.input().image().size;
    let images = TensorData::new(formula::images([2, 3, height, width], 1.0), [2, 3, height, width]);
    let place = first_bad(&model, Tensor::from_data(images, (&Device::flex(), DType::F32)));
    let place = place.expect("a layer that overflows");
    assert!(place.starts_with("output of tokens_to_token.attention2"), "{place}");
}
