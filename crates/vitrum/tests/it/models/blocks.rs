//! Forms of norms, attention and blocks of a Vision Transformer: files, precisions, chains and limits. Their numbers are
//! compared in `parity.rs`.

use burn::module::Module;
use burn::tensor::{DType, Device};
use tempfile::TempDir;
use vitrum::checkpoint::apply::{Excuses, apply, collect};
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::write::{WriteOptions, write_huggingface, write_safetensors, write_timm};
use vitrum::checkpoint::{HostTensor, ModelCard, TensorMap};
use vitrum::layers::differential::Differential;
use vitrum::layers::observe::{Recorder, Seen, Silent};
use vitrum::models::deit::DeitConfig;
use vitrum::models::vit::{
    Activation, AttnLayer, BlockFn, BlockNorm, GlobalPool, MlpLayer, NormLayer, PosEmbed, VitConfig,
    WeightInit,
};
use vitrum::models::{Config, ConfigError, Depth, Model, ModelConfig, Network, Precision, Want};

use super::shared::{distance, images, loaded, logits};
use crate::formula;

fn tiny() -> VitConfig {
    VitConfig {
        img_size: [24, 40],
        patch_size: [8, 8],
        num_classes: 7,
        embed_dim: 24,
        depth: 3,
        num_heads: 3,
        ..VitConfig::default()
    }
}

fn aimv2() -> VitConfig {
    VitConfig {
        class_token: false,
        global_pool: GlobalPool::Avg,
        fc_norm: Some(false),
        norm_layer: NormLayer::RmsNorm,
        norm_eps: 1e-5,
        embed_norm: true,
        mlp_layer: MlpLayer::Swiglu,
        act_layer: Activation::Silu,
        qkv_bias: false,
        proj_bias: false,
        mlp_ratio: 2.75,
        ..tiny()
    }
}

fn of(block_fn: BlockFn) -> VitConfig {
    VitConfig { block_fn, ..tiny() }
}

fn diff() -> VitConfig {
    VitConfig { attn_layer: AttnLayer::Diff, ..tiny() }
}

/// A model of every form.
fn all() -> Vec<VitConfig> {
    let xp = VitConfig {
        norm_layer: NormLayer::RmsNorm,
        qkv_bias: false,
        qk_norm: true,
        pre_norm: true,
        ..of(BlockFn::ParallelScalingBlock)
    };
    vec![
        VitConfig { norm_layer: NormLayer::RmsNorm, qk_norm: true, global_pool: GlobalPool::Map, ..tiny() },
        aimv2(),
        of(BlockFn::ParallelScalingBlock),
        xp,
        VitConfig { init_values: Some(0.1), ..of(BlockFn::DiffParallelScalingBlock) },
        VitConfig { qkv_bias: false, proj_bias: false, ..of(BlockFn::DiffParallelScalingBlock) },
        VitConfig { init_values: Some(0.1), scale_attn_norm: true, ..of(BlockFn::ParallelThingsBlock) },
        VitConfig { attn_layer: AttnLayer::Diff, scale_mlp_norm: true, ..of(BlockFn::ParallelThingsBlock) },
        VitConfig { init_values: Some(0.1), reg_tokens: 1, global_pool: GlobalPool::Avg, ..diff() },
        VitConfig { qk_norm: true, scale_attn_norm: true, pos_embed: PosEmbed::Cpe, ..diff() },
    ]
}

/// Tensors far from their first values, under timm's names.
fn tensors(config: &ModelConfig) -> TensorMap {
    let mut map = collect(&config.init(&Device::flex(), 0).unwrap());
    for (key, tensor) in &mut map.tensors {
        let shape = tensor.shape().to_vec();
        *tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, &shape)).unwrap();
    }
    map
}

fn model(config: &VitConfig) -> Model {
    let config = ModelConfig::from(config.clone());
    let skeleton = config.skeleton(&Device::flex()).unwrap();
    apply(skeleton, tensors(&config), DType::F32, &Excuses::default()).unwrap().0
}

/// The largest difference of two answers over the largest value.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    distance(a, b) / b.iter().fold(0.0_f32, |most, x| most.max(x.abs()))
}

#[test]
fn walk_counts_the_modules_parameters() {
    for config in all() {
        let any = ModelConfig::from(config.clone());
        let held = any.init(&Device::flex(), 0).unwrap().num_params() as u64;
        assert_eq!(any.walk().unwrap().params, held, "{config:?}");
        let steps = any.walk().unwrap().steps;
        assert_eq!(steps.iter().map(|step| step.params * step.repeat as u64).sum::<u64>(), held);
    }
}

#[test]
fn a_wrong_field_is_named() {
    use BlockFn::{DiffParallelScalingBlock, ParallelScalingBlock, ParallelThingsBlock};
    for (config, field) in [
        (VitConfig { res_post_norm: true, ..of(ParallelThingsBlock) }, "res_post_norm"),
        (VitConfig { block_norm: BlockNorm::Post, ..of(ParallelScalingBlock) }, "block_norm"),
        (VitConfig { pos_embed: PosEmbed::RelBias, ..of(ParallelThingsBlock) }, "pos_embed"),
        (VitConfig { attn_layer: AttnLayer::Diff, ..of(ParallelScalingBlock) }, "attn_layer"),
        (VitConfig { mlp_layer: MlpLayer::Swiglu, ..of(DiffParallelScalingBlock) }, "mlp_layer"),
        (VitConfig { scale_attn_norm: true, ..of(ParallelScalingBlock) }, "scale_attn_norm"),
        (VitConfig { scale_mlp_norm: true, ..of(ParallelScalingBlock) }, "scale_mlp_norm"),
        (VitConfig { pos_embed: PosEmbed::RelKeyShared, ..diff() }, "pos_embed"),
        (VitConfig { num_heads: 8, ..diff() }, "num_heads"),
        (VitConfig { num_heads: 8, ..of(DiffParallelScalingBlock) }, "num_heads"),
    ] {
        let error = ModelConfig::from(config).walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
}

/// Prepared weights hold every bias, also that of a hidden layer beside the projection.
#[test]
fn every_precision_answers() {
    for config in all() {
        let exact = model(&config);
        let size = config.img_size;
        let answer = logits(&exact, size);
        let packed = exact.clone().pack();
        assert!(packed.linears().iter().all(|(_, layer)| layer.packed().is_some()));
        let far = apart(&logits(&packed, size), &answer);
        assert!(far < 2e-6, "{config:?}: {far}");
        let mut forgetful = packed;
        forgetful.forget_prepared();
        assert_eq!(logits(&forgetful, size), answer, "{config:?}");
        for (rounded, precision, most) in [
            (exact.clone().round_to_bf16(), Precision::Bf16, 0.05),
            (exact.clone().quantize(&[]).unwrap(), Precision::Int8, 0.1),
        ] {
            assert_eq!(rounded.precision(), precision);
            let far = apart(&logits(&rounded, size), &answer);
            assert!(far > 0.0 && far < most, "{precision:?}: {far} of {config:?}");
        }
    }
}

/// Links one after the other are the whole pass, and every block is a level.
#[test]
fn chains_and_levels() {
    for config in all() {
        let model = model(&config);
        let chain = model.chain().expect("a chain");
        let mut x = chain.first(images(config.img_size).into(), &mut Silent);
        for index in 0..chain.links() {
            x = chain.link(index, x, &mut Silent);
        }
        let x = chain.last(x, &mut Silent);
        let classifier = model.as_classifier().unwrap();
        let linked: Vec<f32> = classifier.head(x, &mut Silent).into_data().try_to_vec().unwrap();
        assert_eq!(linked, logits(&model, config.img_size), "{config:?}");
        let levels = classifier.features(images(config.img_size).into(), Want::Levels, &mut Silent).levels;
        assert_eq!(levels.len(), config.depth);
        assert!(levels.iter().all(|level| level.rows_columns() == [3, 5]));
    }
}

/// A file without a card shows the form of everything, and the number of heads where attention is differential.
#[test]
fn tensors_show_the_configuration() {
    // The table of a square image has a row for each patch and each token in front.
    for config in all().into_iter().map(|config| VitConfig { img_size: [32, 32], ..config }) {
        let any = ModelConfig::from(config.clone());
        let converted = to_timm(tensors(&any)).unwrap();
        let has_heads = config.has_differential() || config.qk_norm;
        let found = match has_heads {
            true => converted.card(),
            false => {
                // Heads are 64 wide.
                let wide = ModelConfig::from(VitConfig { embed_dim: 128, num_heads: 2, ..config.clone() });
                to_timm(tensors(&wide)).unwrap().card()
            }
        };
        let found: VitConfig =
            found.unwrap_or_else(|error| panic!("{config:?}: {error}")).config.try_into().unwrap();
        assert!(found.embed_dim / found.num_heads == if has_heads { 8 } else { 64 }, "{config:?}");
        // Tensors show no numbers, and without a table no size.
        let is_shown = config.pos_embed == PosEmbed::Learn;
        let shown = VitConfig {
            img_size: if is_shown { config.img_size } else { found.img_size },
            embed_dim: found.embed_dim,
            num_heads: found.num_heads,
            norm_eps: found.norm_eps,
            init_values: config.init_values.and(found.init_values),
            act_layer: found.act_layer,
            ..config.clone()
        };
        assert_eq!(found, shown);
    }
}

#[test]
fn timm_folders_written_read_back() {
    let named = |norm_layer, attn_layer| VitConfig { norm_layer, attn_layer, norm_eps: 1e-6, ..tiny() };
    for (architecture, config) in [
        ("vit_base_patch16_xp_224", all()[3].clone()),
        ("aimv2_large_patch14_224", aimv2()),
        (
            "vit_small_patch16_18x2_224",
            VitConfig { init_values: Some(0.1), ..of(BlockFn::ParallelThingsBlock) },
        ),
        ("vit_dpwee_patch16_reg1_gap_256", all()[4].clone()),
        ("vit_dwee_patch16_reg1_gap_256", diff()),
        ("vit_base_patch16_224", named(NormLayer::RmsNorm, AttnLayer::Diff)),
        ("vit_dwee_patch16_reg1_gap_256", named(NormLayer::LayerNorm, AttnLayer::Attn)),
        ("test_vit4", named(NormLayer::LayerNorm, AttnLayer::Attn)),
    ] {
        let config = ModelConfig::from(config);
        let (folder, map) = (TempDir::new().unwrap(), tensors(&config));
        let base = ModelConfig::named(architecture).unwrap();
        let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
        card.architecture = Some(architecture.into());
        write_timm(folder.path(), &map, &card, &base, &WriteOptions::default()).unwrap();
        let again = ModelCard::find(folder.path(), &|_| Ok(base.clone())).unwrap().unwrap();
        assert_eq!(again.config, config, "{architecture}");
    }
    for (architecture, config, field) in [
        ("vit_base_patch16_224", of(BlockFn::ParallelThingsBlock), "block_fn"),
        (
            "vit_base_patch16_224",
            VitConfig { norm_eps: 1e-5, ..named(NormLayer::RmsNorm, AttnLayer::Attn) },
            "epsilon",
        ),
        ("aimv2_large_patch14_224", VitConfig { norm_layer: NormLayer::LayerNorm, ..aimv2() }, "norm_layer"),
    ] {
        let config = ModelConfig::from(config);
        let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
        card.architecture = Some(architecture.into());
        let base = ModelConfig::named(architecture).unwrap();
        let folder = TempDir::new().unwrap();
        let refused = write_timm(folder.path(), &tensors(&config), &card, &base, &WriteOptions::default());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(field), "{refused}");
    }
    for config in [diff(), of(BlockFn::ParallelScalingBlock), all()[0].clone()] {
        let config =
            ModelConfig::from(VitConfig { global_pool: GlobalPool::Token, qk_norm: false, ..config });
        let card = ModelCard::new(config.clone(), CardSource::Timm, "");
        let folder = TempDir::new().unwrap();
        let refused = write_huggingface(folder.path(), &tensors(&config), &card, &WriteOptions::default());
        assert!(refused.unwrap_err().to_string().contains("transformers"), "{config:?}");
    }
}

/// A configuration says everything. A file alone says enough where tensors show the heads.
#[test]
fn configurations_and_files_read_back() {
    for config in all().into_iter().map(|config| VitConfig { img_size: [32, 32], ..config }) {
        let any = ModelConfig::from(config.clone());
        let folder = TempDir::new().unwrap();
        let card = ModelCard::new(any.clone(), CardSource::Timm, "");
        let text = serde_json::to_string(&card.config).unwrap();
        let again: ModelConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(again, any);
        if config.has_differential() || config.qk_norm {
            let path = folder.path().join("model.safetensors");
            write_safetensors(&path, &tensors(&any), &WriteOptions::default()).unwrap();
            let found = loaded(&path, Precision::F32, config.img_size).model;
            let far = apart(&logits(&found, config.img_size), &logits(&model(&config), config.img_size));
            // Activation and epsilon are assumed.
            assert!(far < 1e-4, "{config:?}: {far}");
        }
    }
}

/// Apple's names of AIMv2, in which the gate of an MLP is `fc1` and the product beside it `fc3`.
#[test]
fn files_of_aimv2_are_read() {
    let config = VitConfig { num_classes: 0, img_size: [32, 32], ..aimv2() };
    let any = ModelConfig::from(VitConfig { embed_dim: 128, num_heads: 2, ..config });
    let map = tensors(&any);
    let renamed = map.tensors.iter().map(|(key, tensor)| {
        let name = key
            .replace("patch_embed.", "preprocessor.patchifier.")
            .replace("pos_embed", "preprocessor.pos_embed")
            .replace("blocks.", "trunk.blocks.")
            .replace("norm1", "norm_1")
            .replace("norm2", "norm_2")
            .replace("fc1_g", "fc1")
            .replace("fc1_x", "fc3");
        let name = if name == "norm.weight" { "trunk.post_trunk_norm.weight".to_string() } else { name };
        (name, tensor.clone())
    });
    let apple = TensorMap { tensors: renamed.collect(), ..TensorMap::new("apple") };
    assert_eq!(apple.tensors.len(), map.tensors.len());
    let converted = to_timm(apple).unwrap();
    let found = converted.card().unwrap().config;
    assert_eq!(found, any, "the configuration, with AIMv2's epsilon and activation");
    assert_eq!(converted.map.tensors, map.tensors);
}

/// Two attentions beside each other have weights of their own, and rows sum to one.
#[test]
fn attention_weights_are_shown() {
    for (config, names, heads) in [
        (
            of(BlockFn::ParallelThingsBlock),
            vec!["blocks.1.attns.0.attn.weights", "blocks.1.attns.1.attn.weights"],
            3,
        ),
        (of(BlockFn::ParallelScalingBlock), vec!["blocks.1.attn.weights"], 3),
        (diff(), vec!["blocks.1.attn.weights"], 6),
    ] {
        let model = model(&config);
        let mut watch = Recorder { with_attention: true, ..Recorder::default() };
        model.as_backbone().unwrap().features(images(config.img_size).into(), Want::Last, &mut watch);
        let seen: Vec<_> = watch.seen.iter().filter(|(name, _)| names.contains(&name.as_str())).collect();
        assert_eq!(seen.len(), names.len());
        for (name, weights) in seen {
            let Seen::Attention(weights) = weights else { panic!("{name}") };
            assert_eq!(weights.dims(), [2, heads, 16, 16], "{name}");
            let sums: Vec<f32> = weights.clone().sum_dim(3).into_data().try_to_vec().unwrap();
            assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{name}");
        }
    }
}

/// λ₀ is that of the paper, and vectors of λ begin at random.
#[test]
fn first_values_are_timms() {
    for (index, expected) in [(0, 0.2), (1, 0.8 - 0.6 * (-0.3_f64).exp()), (9, 0.8 - 0.6 * (-2.7_f64).exp())]
    {
        assert!((Differential::lambda_init(index) - expected).abs() < 1e-12, "{index}");
    }
    let wide = VitConfig { embed_dim: 192, num_heads: 1, ..of(BlockFn::DiffParallelScalingBlock) };
    let draw = |config: &VitConfig, key: &str| {
        let map = collect(&ModelConfig::from(config.clone()).init(&Device::flex(), 3).unwrap());
        let values = map.get(key).unwrap_or_else(|| panic!("no {key}")).to_f64();
        (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
    };
    for (key, value) in [
        ("blocks.0.lambda_q1", 0.1),
        ("blocks.2.lambda_k2", 0.1),
        ("blocks.0.in_proj.weight", 0.02),
        ("blocks.0.out_proj.weight", 0.02),
        ("blocks.1.sub_norm.weight", 1.0),
        ("blocks.1.in_norm.weight", 1.0),
    ] {
        let found = draw(&wide, key);
        assert!((found / value - 1.0).abs() < 0.25, "{key}: {found} and not {value}");
    }
    let plain = VitConfig { qkv_bias: false, init_values: Some(0.5), ..wide.clone() };
    assert_eq!(draw(&plain, "blocks.1.mlp_bias"), 0.0);
    assert_eq!(draw(&plain, "blocks.1.ls.gamma"), 0.5);
    let things = VitConfig { block_fn: BlockFn::ParallelThingsBlock, weight_init: WeightInit::Jax, ..plain };
    assert_eq!(draw(&things, "blocks.1.attns.1.ls.gamma"), 0.5);
    assert_eq!(draw(&things, "blocks.1.ffns.0.norm.weight"), 1.0);
    let bound = (6.0 / (192.0 + 768.0_f64) / 3.0).sqrt();
    assert!((draw(&things, "blocks.2.ffns.1.mlp.fc1.weight") / bound - 1.0).abs() < 0.05);
}

#[test]
fn layers_are_timms() {
    let model = model(&of(BlockFn::ParallelThingsBlock));
    for (key, depth) in [
        ("blocks.1.attns.1.attn.qkv.weight", Depth::Layer(1)),
        ("blocks.2.ffns.0.mlp.fc2.bias", Depth::Layer(2)),
        ("norm.weight", Depth::Close),
    ] {
        assert_eq!(model.depth(key), depth, "{key}");
    }
    let names: Vec<String> = model.linears().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 3 * 8);
    assert_eq!(names[0], "blocks.0.attns.0.attn.qkv");
    assert_eq!(names[23], "blocks.2.ffns.1.mlp.fc2");
}

/// A DeiT may have every form too.
#[test]
fn a_deit_takes_them() {
    let vit = VitConfig { norm_layer: NormLayer::RmsNorm, ..of(BlockFn::DiffParallelScalingBlock) };
    let config = ModelConfig::from(DeitConfig { vit, ..DeitConfig::default() });
    let held = config.init(&Device::flex(), 0).unwrap().num_params() as u64;
    assert_eq!(config.walk().unwrap().params, held);
}
