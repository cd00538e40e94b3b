//! Every parameter of every way to build a model learns: its gradient is finite, and not zero.

use burn::tensor::{DType, Device, Tensor, TensorData};
use std::collections::{BTreeMap, BTreeSet};
use vitrum::models::vit::{AttnLayer, BlockFn, BlockNorm, GlobalPool, MlpLayer, NormLayer, PosEmbed, Vit};
use vitrum::models::{Classify, Config, VitConfig};
use vitrum::train::clip::{ClipMode, clip};
use vitrum::train::groups::{GroupConfig, Groups};
use vitrum::train::objective::ClassLoss;
use vitrum::train::optim::{GradMap, OptimConfig, OptimName, Optimizer};

use crate::formula;

fn tiny() -> VitConfig {
    VitConfig {
        img_size: [32, 32],
        patch_size: [8, 8],
        num_classes: 5,
        embed_dim: 24,
        depth: 3,
        num_heads: 3,
        mlp_ratio: 2.0,
        ..VitConfig::default()
    }
}

fn variants() -> Vec<(&'static str, VitConfig)> {
    let with = |change: fn(&mut VitConfig)| {
        let mut config = tiny();
        change(&mut config);
        config
    };
    vec![
        ("plain", tiny()),
        ("registers", with(|c| c.reg_tokens = 2)),
        ("registers outside the table", with(|c| (c.reg_tokens, c.no_embed_class) = (2, true))),
        ("layer scale", with(|c| c.init_values = Some(1e-5))),
        ("query and key norms", with(|c| c.qk_norm = true)),
        ("no biases", with(|c| (c.qkv_bias, c.proj_bias) = (false, false))),
        ("norm before the blocks", with(|c| c.pre_norm = true)),
        ("norms after the residuals", with(|c| (c.block_norm, c.final_norm) = (BlockNorm::Post, false))),
        ("norms around the patches", with(|c| (c.patch_norm, c.embed_norm) = (true, true))),
        ("heads wider than a token", with(|c| c.attn_head_dim = Some(12))),
        ("average", with(|c| c.global_pool = GlobalPool::Avg)),
        ("average without class token", with(|c| (c.global_pool, c.class_token) = (GlobalPool::Avg, false))),
        ("average of all", with(|c| (c.global_pool, c.pool_include_prefix) = (GlobalPool::Avg, true))),
        ("maximum", with(|c| c.global_pool = GlobalPool::Max)),
        ("average and maximum", with(|c| c.global_pool = GlobalPool::Avgmax)),
        ("RMSNorm", with(|c| (c.norm_layer, c.qk_norm, c.scale_mlp_norm) = (NormLayer::RmsNorm, true, true))),
        (
            "AIMv2",
            with(|c| {
                (c.norm_layer, c.mlp_layer, c.embed_norm) = (NormLayer::RmsNorm, MlpLayer::Swiglu, true)
            }),
        ),
        ("attention beside the MLP", with(|c| c.block_fn = BlockFn::ParallelScalingBlock)),
        (
            "attention beside the MLP without biases",
            with(|c| (c.block_fn, c.qkv_bias, c.qk_norm) = (BlockFn::ParallelScalingBlock, false, true)),
        ),
        ("two of each", with(|c| (c.block_fn, c.init_values) = (BlockFn::ParallelThingsBlock, Some(0.1)))),
        ("differential attention", with(|c| (c.attn_layer, c.qk_norm) = (AttnLayer::Diff, true))),
        (
            "differential attention beside the MLP",
            with(|c| (c.block_fn, c.init_values) = (BlockFn::DiffParallelScalingBlock, Some(0.1))),
        ),
        (
            "two differential attentions, dropped",
            with(|c| {
                (c.block_fn, c.attn_layer) = (BlockFn::ParallelThingsBlock, AttnLayer::Diff);
                (c.attn_drop_rate, c.proj_drop_rate, c.drop_path_rate) = (0.1, 0.1, 0.1);
            }),
        ),
        ("attention pooling", with(|c| c.global_pool = GlobalPool::Map)),
        ("hidden layer of the head", with(|c| c.representation_size = Some(12))),
        ("norm after pooling", with(|c| c.fc_norm = Some(true))),
        ("no norm at the end", with(|c| c.final_norm = false)),
        ("no positions", with(|c| c.pos_embed = PosEmbed::None)),
        ("learned rows and columns", with(|c| c.pos_embed = PosEmbed::Learn2d)),
        ("fixed waves", with(|c| c.pos_embed = PosEmbed::SinCos2dMae)),
        ("convolved positions", with(|c| c.pos_embed = PosEmbed::Cpe)),
        ("convolved positions twice", with(|c| (c.pos_embed, c.cpe_blocks) = (PosEmbed::Cpe, vec![0, 1]))),
        ("relative bias", with(|c| c.pos_embed = PosEmbed::RelBias)),
        ("one relative bias", with(|c| c.pos_embed = PosEmbed::RelBiasShared)),
        ("keys of offsets", with(|c| c.pos_embed = PosEmbed::RelKey)),
        ("one table of keys", with(|c| c.pos_embed = PosEmbed::RelKeyShared)),
        ("dropout", with(|c| (c.drop_rate, c.attn_drop_rate, c.drop_path_rate) = (0.1, 0.1, 0.1))),
    ]
}

/// A vector added to all keys moves each row of scores alike, which the softmax does not see: what is added last to
/// the keys has no gradient but rounding. That is the bias of a key norm where there is one, else the keys' part of
/// the bias of the projection.
fn is_blind(key: &str) -> bool {
    key.ends_with("k_norm.bias")
}

/// The part of a gradient that is the keys' bias, if there is no norm between.
fn keys_part<'a>(key: &str, values: &'a [f64], config: &VitConfig) -> Option<&'a [f64]> {
    let (d, inner) = (config.embed_dim, config.num_heads * config.head_dim());
    match key {
        _ if key.ends_with("attn.qkv.bias") && !config.qk_norm => Some(&values[inner..2 * inner]),
        "attn_pool.kv.bias" => Some(&values[..d]),
        _ => None,
    }
}

fn gradients(config: &VitConfig, objective: ClassLoss) -> (Vit, GradMap) {
    let device = Device::flex().autodiff();
    let model = config.init_as(&device, 3, DType::F64).unwrap();
    let shape = [4, 3, 32, 32];
    let images = TensorData::new(formula::images(shape, 1.0), shape);
    let images = Tensor::<4>::from_data(images, (&device, DType::F64));
    let targets = super::soft_targets(&[0, 1, 2, 4], 0.1, &device, DType::F64);
    let loss = objective.loss(model.forward(images.into()), targets);
    let grads = GradMap::collect(&model, loss.backward());
    (model, grads)
}

#[test]
fn every_parameter_learns() {
    for (name, config) in variants() {
        for objective in [ClassLoss::CrossEntropy, ClassLoss::Binary { threshold: None, sum_classes: true }] {
            let (model, grads) = gradients(&config, objective);
            assert_eq!(grads.first_non_finite(), None, "{name}");
            let found: BTreeSet<String> = grads.iter().map(|grad| grad.key.clone()).collect();
            let mut expected: BTreeSet<String> = super::parameters(&model).into_keys().collect();
            if config.pos_embed.is_fixed() {
                expected.remove("pos_embed"); // not trained
            }
            assert_eq!(found, expected, "{name}: parameters with a gradient");
            for grad in grads.iter().filter(|grad| !is_blind(&grad.key)) {
                let values: Vec<f64> = grad.value.clone().into_data().iter::<f64>().collect();
                let all = largest(&values);
                assert!(all > 1e-12, "{name}: {} has no gradient ({all:e})", grad.key);
                let Some(part) = keys_part(&grad.key, &values, &config) else { continue };
                let blind = largest(part);
                assert!(blind <= 1e-9 * all, "{name}: {}: {blind:e} beside {all:e}", grad.key);
            }
        }
    }
}

/// Losses and last weights of some updates with layer decay, clipping and two batches per update.
fn learn(name: OptimName, lr: f64, updates: usize, threads: usize) -> (Vec<f64>, BTreeMap<String, Vec<f64>>) {
    let device = Device::flex().autodiff().gradient_checkpointing();
    let mut model = tiny().init(&device, 1).unwrap();
    let shape = [8, 3, 32, 32];
    let images = TensorData::new(formula::images(shape, 1.0), shape);
    let images = Tensor::<4>::from_data(images, (&device, DType::F32));
    let targets = super::soft_targets(&[0, 1, 2, 3, 4, 0, 1, 2], 0.0, &device, DType::F32);
    let config = GroupConfig { weight_decay: 0.05, layer_decay: Some(0.9), no_weight_decay: Vec::new() };
    let groups = Groups::new(&model, &config).unwrap();
    let mut optimizer = Optimizer::new(OptimConfig::new(name)).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut losses = Vec::new();
    pool.install(|| {
        for _ in 0..updates {
            let halves = [0, 4].map(|start| {
                let logits = model.forward(images.clone().narrow(0, start, 4).into());
                let loss = ClassLoss::CrossEntropy.loss(logits, targets.clone().narrow(0, start, 4));
                (loss.clone().into_scalar::<f64>(), GradMap::collect(&model, loss.backward()))
            });
            let [(first, a), (second, b)] = halves;
            losses.push((first + second) / 2.0);
            let (grads, _) = clip(a.plus(b).scale(0.5), &model, ClipMode::Norm, 1.0);
            let moved = optimizer.step(model.clone(), &grads, &groups, lr);
            model = moved.unwrap();
        }
    });
    assert_eq!(
        model.head.as_ref().unwrap().weight.val().device(),
        device,
        "the device stays, with its strategy"
    );
    (losses, super::parameters(&model))
}

#[test]
fn a_model_learns_its_images_by_heart() {
    for (name, lr) in [
        (OptimName::AdamW, 2e-3),
        (OptimName::NAdamW, 2e-3),
        (OptimName::Lion, 3e-4),
        (OptimName::Lamb, 1e-2),
        (OptimName::Momentum, 0.1),
        (OptimName::Adafactor, 5e-3),
        (OptimName::Muon, 1e-2),
    ] {
        let (losses, weights) = learn(name, lr, 40, 1);
        assert!(losses[39] < 0.8 * losses[0], "{name:?}: {losses:?}");
        let again = learn(name, lr, 40, 3);
        assert_eq!((losses, weights), again, "{name:?}: bits depend on threads");
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m, x| x.abs().max(m))
}
