//! Files, sizes, precisions and limits of BEiT and EVA. Their numbers are compared in `parity.rs`.

use burn::module::Module;
use burn::tensor::{DType, Device};
use serde_json::Value;
use tempfile::TempDir;
use vitrum::checkpoint::apply::{Excuses, apply, collect};
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::dialect::{Known, to_huggingface, to_timm, to_timm_with};
use vitrum::checkpoint::load::{BoxedError, LoadOptions, load};
use vitrum::checkpoint::write::{WriteOptions, write_huggingface, write_timm};
use vitrum::checkpoint::{HostTensor, KeyFile, ModelCard, TensorMap, read};
use vitrum::models::beit::BeitConfig;
use vitrum::models::eva::{AttnType, EvaConfig, GridIndexing, KvHeads, RopeType};
use vitrum::models::vit::{Activation, GlobalPool, MlpLayer, NormLayer, PosEmbed, PosResize, VitConfig};
use vitrum::models::{Config, ConfigError, Depth, Model, ModelConfig, Network, Precision, Sizes};

use super::shared::{file, images, tensors};
use crate::formula;

fn beit() -> BeitConfig {
    BeitConfig {
        img_size: [32, 32],
        patch_size: [8, 8],
        num_classes: 7,
        embed_dim: 24,
        depth: 2,
        num_heads: 3,
        use_abs_pos_emb: false,
        use_rel_pos_bias: true,
        init_values: Some(0.1),
        ..BeitConfig::default()
    }
}

fn eva() -> EvaConfig {
    EvaConfig {
        img_size: [32, 32],
        patch_size: [8, 8],
        num_classes: 7,
        embed_dim: 24,
        depth: 2,
        num_heads: 3,
        ..EvaConfig::default()
    }
}

fn rotary(rope_type: RopeType) -> EvaConfig {
    EvaConfig { use_rot_pos_emb: true, rope_type, use_abs_pos_emb: false, ..eva() }
}

fn eva02() -> EvaConfig {
    EvaConfig {
        qkv_fused: false,
        swiglu_mlp: true,
        scale_mlp: true,
        scale_attn_inner: true,
        ref_feat_shape: Some([3, 3]),
        ..rotary(RopeType::Cat)
    }
}

/// Groups of queries in the second block alone.
fn sapiens2() -> EvaConfig {
    EvaConfig {
        depth: 3,
        num_heads: 2,
        num_kv_heads: Some(KvHeads::Each(vec![2, 1, 2])),
        attn_type: AttnType::Rope,
        qkv_fused: false,
        qk_norm: true,
        swiglu_mlp: true,
        init_values: Some(1.0),
        attn_only_layer_scale: true,
        global_pool: GlobalPool::Token,
        num_reg_tokens: 3,
        rope_rotate_half: true,
        rope_temperature: 100.0,
        norm_layer: NormLayer::RmsNorm,
        ..rotary(RopeType::DinoV3)
    }
}

/// A model of every option.
fn all() -> Vec<ModelConfig> {
    let beits = [
        beit(),
        BeitConfig { use_rel_pos_bias: false, use_shared_rel_pos_bias: true, init_values: None, ..beit() },
        BeitConfig { use_abs_pos_emb: true, qkv_bias: false, global_pool: GlobalPool::Token, ..beit() },
        BeitConfig { swiglu_mlp: true, scale_mlp: true, img_size: [24, 40], ..beit() },
        BeitConfig { use_abs_pos_emb: true, bias_resize: Some(PosResize::Bilinear), ..beit() },
    ];
    let evas = [
        eva(),
        eva02(),
        EvaConfig { qkv_bias: false, qkv_fused: false, ..eva() },
        EvaConfig { use_fc_norm: Some(true), use_post_transformer_norm: Some(true), ..eva() },
        EvaConfig { swiglu_mlp: true, use_post_norm: true, ..rotary(RopeType::Cat) },
        EvaConfig { attn_type: AttnType::Rope, ..rotary(RopeType::Mixed) },
        EvaConfig { attn_type: AttnType::Rope, qkv_fused: false, qk_norm: true, ..rotary(RopeType::Cat) },
        EvaConfig {
            num_reg_tokens: 4,
            init_values: Some(0.1),
            swiglu_mlp: true,
            swiglu_align_to: 16,
            rope_rotate_half: true,
            use_fc_norm: Some(false),
            ..rotary(RopeType::DinoV3)
        },
        sapiens2(),
        EvaConfig {
            num_kv_heads: Some(KvHeads::All(1)),
            attn_type: AttnType::Rope,
            qkv_fused: false,
            norm_layer: NormLayer::RmsNorm,
            scale_attn_inner: true,
            scale_mlp: true,
            ..eva()
        },
        EvaConfig { init_values: Some(0.1), attn_only_layer_scale: true, ..eva() },
        EvaConfig {
            global_pool: GlobalPool::Map,
            use_pre_transformer_norm: true,
            attn_pool_num_heads: Some(4),
            attn_pool_mlp_ratio: Some(3.0),
            ..rotary(RopeType::Cat)
        },
    ];
    let tiny = |beit: BeitConfig| VitConfig { derived: Default::default(), ..beit.encoder() };
    let plain = VitConfig { init_values: Some(0.1), ..tiny(beit()) };
    let vits = [
        VitConfig { scale_attn_norm: true, scale_mlp_norm: true, ..plain.clone() },
        VitConfig { mlp_layer: MlpLayer::SwigluPacked, scale_mlp_norm: true, ..plain.clone() },
        VitConfig { mlp_layer: MlpLayer::Swiglu, ..plain },
    ];
    let beits = beits.into_iter().map(ModelConfig::from);
    let evas = evas.into_iter().map(ModelConfig::from);
    beits.chain(evas).chain(vits.into_iter().map(ModelConfig::from)).collect()
}

fn model(config: &ModelConfig) -> Model {
    let skeleton = config.skeleton(&Device::flex()).unwrap();
    apply(skeleton, tensors(config), DType::F32, &Excuses::default()).unwrap().0
}

fn logits(model: &Model) -> Vec<f32> {
    logits_at(model, model.config().input().image().size)
}

fn logits_at(model: &Model, size: [usize; 2]) -> Vec<f32> {
    model.logits_at(images(size), Sizes::Any).unwrap().into_data().try_to_vec().unwrap()
}

/// The largest difference over the largest value.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    crate::compare::largest(a.iter().zip(b).map(|(a, b)| (a - b).abs() / largest)) as f32
}

#[test]
fn walk_counts_the_modules_parameters() {
    for config in all() {
        let held = config.init(&Device::flex(), 0).unwrap().num_params() as u64;
        assert_eq!(config.walk().unwrap().params, held, "{config:?}");
    }
}

/// Position tables that are no tables of a grid, or not the model's, are named in an error. They cost neither a panic nor more
/// memory than they take.
#[test]
fn tables_of_no_grid_are_refused() {
    let vit = |pos_embed| VitConfig { pos_embed, derived: Default::default(), ..beit().encoder() };
    let table = "blocks.0.attn.rel_pos.relative_position_bias_table";
    let cases = [
        (vit(PosEmbed::RelBias), table, vec![7, 0]),
        (vit(PosEmbed::RelBias), table, vec![7, 2]),
        (vit(PosEmbed::RelBias), table, vec![19, 1]),
        (vit(PosEmbed::RelBias), table, vec![19, beit().num_heads]),
        (vit(PosEmbed::RelKey), "blocks.0.attn.rel_pos.relative_key_table", vec![3, 0]),
        (vit(PosEmbed::Learn2d), "pos_embed_x", vec![1, 4_000_000, 1]),
        (vit(PosEmbed::Learn2d), "pos_embed_y", vec![1, 200_000, beit().embed_dim / 2]),
        (vit(PosEmbed::Learn), "pos_embed", vec![1, 4_000_001, 1]),
    ];
    for (config, key, shape) in cases {
        let config = ModelConfig::from(config);
        let mut map = tensors(&config);
        let values = vec![0.0; shape.iter().product()];
        map.tensors.insert(key.into(), HostTensor::from_f32(shape.clone(), &values).unwrap());
        let skeleton = config.skeleton(&Device::flex()).unwrap();
        let error = apply(skeleton, map, DType::F32, &Excuses::default()).unwrap_err().to_string();
        assert!(error.contains(key), "{shape:?}: {error}");
    }
}

/// As timm: 36 rows are those of the model's 4x9 patches. If the file is of 6x6 patches, they are resized.
#[test]
fn a_table_of_the_models_size_is_kept() {
    let of = |img_size| {
        ModelConfig::from(VitConfig {
            pos_embed: PosEmbed::Learn,
            derived: Default::default(),
            img_size,
            ..beit().encoder()
        })
    };
    let [p, q] = beit().patch_size;
    let (config, square) = (of([4 * p, 9 * q]), of([6 * p, 6 * q]));
    let loaded = |source: Option<ModelConfig>| {
        let excuses = Excuses { source, ..Excuses::default() };
        let skeleton = config.skeleton(&Device::flex()).unwrap();
        let (model, report) = apply(skeleton, tensors(&config), DType::F32, &excuses).unwrap();
        (collect(&model).tensors.remove("pos_embed").unwrap(), report.resized.len())
    };
    let table = tensors(&config).tensors.remove("pos_embed").unwrap();
    assert_eq!(loaded(None), (table.clone(), 0));
    assert_eq!(loaded(Some(config.clone())), (table.clone(), 0));
    let (resized, count) = loaded(Some(square));
    assert!(resized.shape() == table.shape() && resized != table && count == 1);
}

/// The published number of parameters, without the head of 1000 classes.
#[test]
fn beit3_has_as_many_parameters_as_published() {
    let mut config: VitConfig = ModelConfig::named("beit3_base_patch16_224").unwrap().try_into().unwrap();
    assert_eq!(config.walk().unwrap().params, 86_659_816);
    config.scale_attn_norm = false;
    assert_eq!(config.walk().unwrap().params, 86_659_816 - 12 * 2 * 768);
}

#[test]
fn a_wrong_field_is_named() {
    let cases: Vec<(ModelConfig, &str)> = vec![
        (BeitConfig { global_pool: GlobalPool::Max, ..beit() }.into(), "global_pool"),
        (BeitConfig { head_init_scale: f64::NAN, ..beit() }.into(), "head_init_scale"),
        (BeitConfig { num_heads: 5, ..beit() }.into(), "embed_dim"),
        (BeitConfig { img_size: [7, 32], ..beit() }.into(), "img_size"),
        (BeitConfig { norm_eps: 0.0, ..beit() }.into(), "norm_eps"),
        (EvaConfig { num_heads: 4, ..rotary(RopeType::Cat) }.into(), "num_heads"),
        (EvaConfig { rope_rotate_half: true, ..rotary(RopeType::Mixed) }.into(), "rope_rotate_half"),
        (EvaConfig { rope_temperature: 0.0, ..rotary(RopeType::Cat) }.into(), "rope_temperature"),
        (EvaConfig { rope_grid_offset: f64::INFINITY, ..rotary(RopeType::Cat) }.into(), "rope_grid_offset"),
        (EvaConfig { ref_feat_shape: Some([0, 3]), ..rotary(RopeType::Cat) }.into(), "ref_feat_shape"),
        (EvaConfig { num_reg_tokens: 5000, ..eva() }.into(), "num_reg_tokens"),
        (EvaConfig { use_post_norm: true, qk_norm: true, ..eva() }.into(), "qk_norm"),
        (
            EvaConfig { use_post_norm: true, attn_only_layer_scale: true, ..eva() }.into(),
            "attn_only_layer_scale",
        ),
        (
            EvaConfig { use_post_norm: true, num_kv_heads: Some(KvHeads::All(3)), ..eva() }.into(),
            "num_kv_heads",
        ),
        (EvaConfig { num_kv_heads: Some(KvHeads::All(0)), ..sapiens2() }.into(), "num_kv_heads"),
        (EvaConfig { num_kv_heads: Some(KvHeads::All(3)), ..sapiens2() }.into(), "num_kv_heads"),
        (EvaConfig { num_kv_heads: Some(KvHeads::Each(vec![2, 1])), ..sapiens2() }.into(), "num_kv_heads"),
        (EvaConfig { qkv_fused: true, ..sapiens2() }.into(), "num_kv_heads"),
        (EvaConfig { attn_type: AttnType::Eva, ..sapiens2() }.into(), "num_kv_heads"),
        (
            EvaConfig { rope_type: RopeType::Mixed, rope_rotate_half: false, ..sapiens2() }.into(),
            "num_kv_heads",
        ),
        (EvaConfig { swiglu_mlp: true, swiglu_align_to: usize::MAX, ..eva() }.into(), "swiglu_align_to"),
        (EvaConfig { attn_pool_num_heads: Some(0), ..eva() }.into(), "attn_pool_num_heads"),
        (EvaConfig { attn_pool_mlp_ratio: Some(1e9), ..eva() }.into(), "attn_pool_mlp_ratio"),
        // Not the ratio, though the pool is as wide.
        (EvaConfig { attn_pool_mlp_ratio: Some(4.0), embed_dim: 0, ..eva() }.into(), "embed_dim"),
        (EvaConfig { num_reg_tokens: 1 << 40, ..eva() }.into(), "num_reg_tokens"),
        (
            EvaConfig { attn_pool_num_heads: Some(5), global_pool: GlobalPool::Map, ..eva() }.into(),
            "attn_pool_num_heads",
        ),
        (EvaConfig { num_heads: 0, ..rotary(RopeType::DinoV3) }.into(), "num_heads"),
        (EvaConfig { embed_dim: 0, ..rotary(RopeType::DinoV3) }.into(), "embed_dim"),
        (
            VitConfig { mlp_layer: MlpLayer::SwigluPacked, mlp_ratio: 769.0 / 768.0, ..VitConfig::default() }
                .into(),
            "mlp_ratio",
        ),
    ];
    for (config, field) in cases {
        let error = config.walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
}

/// Tables of another grid are resized as the model runs, exactly as a file's tables are at loading. Rotations follow the
/// grid.
#[test]
fn images_of_another_size_equal_a_resized_model() {
    for config in all() {
        let own = config.input().image().size;
        let other = [48, 24];
        let grown = config.with_some("img_size", Some(other)).unwrap();
        let excuses = Excuses { source: Some(config.clone()), ..Excuses::default() };
        let skeleton = grown.skeleton(&Device::flex()).unwrap();
        let (resized, _) = apply(skeleton, tensors(&config), DType::F32, &excuses).unwrap();
        let far = apart(&logits_at(&model(&config), other), &logits(&resized));
        assert!(far < 2e-5, "{config:?} from {own:?}: {far:e}");
    }
}

/// Packed weights hold the biases of queries and values, which stand beside the fused weight.
#[test]
fn every_precision_keeps_all_biases() {
    for config in all() {
        let exact = model(&config);
        let answer = logits(&exact);
        let packed = exact.clone().pack();
        assert!(packed.linears().iter().all(|(_, layer)| layer.packed().is_some()));
        assert!(apart(&logits(&packed), &answer) < 2e-6, "{config:?}");
        let mut forgetful = packed;
        forgetful.forget_prepared();
        assert_eq!(logits(&forgetful), answer, "{config:?}");
        for (rounded, precision, most) in [
            (exact.clone().round_to_bf16(), Precision::Bf16, 0.05),
            (exact.clone().quantize(&[]).unwrap(), Precision::Int8, 0.1),
        ] {
            assert_eq!(rounded.precision(), precision);
            let far = apart(&logits(&rounded), &answer);
            assert!(far > 0.0 && far < most, "{precision:?}: {far} of {config:?}");
        }
    }
    // Without these biases the answer is another one.
    let mut map = tensors(&beit());
    for (key, tensor) in &mut map.tensors {
        if key.ends_with("q_bias") || key.ends_with("v_bias") {
            *tensor = HostTensor::from_f32(vec![24], &[0.0; 24]).unwrap();
        }
    }
    let skeleton = ModelConfig::from(beit()).skeleton(&Device::flex()).unwrap();
    let other = apply(skeleton, map, DType::F32, &Excuses::default()).unwrap().0;
    assert!(apart(&logits(&other), &logits(&model(&beit().into()))) > 0.1);
}

/// timm's group matcher and its list of parameters without weight decay.
#[test]
fn layers_and_weight_decay_are_timms() {
    let shared = BeitConfig { use_shared_rel_pos_bias: true, use_abs_pos_emb: true, ..beit() };
    let beit = model(&shared.into());
    for (key, depth, decays) in [
        ("rel_pos_bias.relative_position_bias_table", Depth::Stem, false),
        ("pos_embed", Depth::Stem, false),
        ("cls_token", Depth::Stem, false),
        ("patch_embed.proj.weight", Depth::Stem, true),
        ("blocks.1.attn.relative_position_bias_table", Depth::Layer(1), false),
        ("blocks.0.gamma_1", Depth::Layer(0), true),
        ("blocks.1.attn.qkv.weight", Depth::Layer(1), true),
        ("fc_norm.weight", Depth::Head, true),
        ("head.weight", Depth::Head, true),
    ] {
        assert_eq!((beit.depth(key), beit.decays(key)), (depth, decays), "{key}");
    }
    let eva = model(&rotary(RopeType::Mixed).into());
    for (key, depth, decays) in [
        ("rope.freqs", Depth::Head, false),
        ("reg_token", Depth::Stem, false),
        ("norm_pre.weight", Depth::Stem, true),
        ("norm.weight", Depth::Close, true),
    ] {
        assert_eq!((eva.depth(key), eva.decays(key)), (depth, decays), "{key}");
    }
}

/// timm divides the output layers of block i by `√(2 (i + 1))` and the head by 1000; its tables of biases begin at zero.
#[test]
fn first_values_are_timms() {
    let config = BeitConfig { embed_dim: 96, ..beit() };
    let map = collect(&ModelConfig::from(config).init(&Device::flex(), 3).unwrap());
    let deviation = |key: &str| {
        let values = map.get(key).unwrap().to_f64();
        (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
    };
    for (key, expected) in [
        ("blocks.0.attn.proj.weight", 0.02 / 2f64.sqrt()),
        ("blocks.1.mlp.fc2.weight", 0.02 / 2.0),
        ("blocks.1.mlp.fc1.weight", 0.02),
        ("head.weight", 2e-5),
        ("cls_token", 0.02),
        ("blocks.0.gamma_2", 0.1),
    ] {
        let found = deviation(key);
        assert!((found / expected - 1.0).abs() < 0.25, "{key}: {found} and not {expected}");
    }
    for key in ["blocks.0.attn.q_bias", "blocks.1.attn.relative_position_bias_table", "head.bias"] {
        assert_eq!(deviation(key), 0.0, "{key}");
    }
    // Frequencies of a head: two progressions at right angles.
    let map = collect(&ModelConfig::from(rotary(RopeType::Mixed)).init(&Device::flex(), 3).unwrap());
    let freqs = map.get("rope.freqs").unwrap();
    assert_eq!(freqs.shape(), [2, 2, 3, 4]);
    let (values, heads) = (freqs.to_f64(), 2 * 3);
    for head in 0..heads {
        let (x, y) = (&values[head * 4..][..4], &values[(heads + head) * 4..][..4]);
        for i in 0..2 {
            let size = 10000f64.powf(-(4.0 * i as f64) / 8.0);
            assert!((x[i].hypot(y[i]) - size).abs() < 1e-6 * size, "{head}, {i}");
            assert!((x[i] * x[i + 2] + y[i] * y[i + 2]).abs() < 1e-6 * size, "{head}, {i}");
        }
    }
}

#[test]
fn timm_folders_written_read_back() {
    let cases: Vec<(&str, ModelConfig)> = vec![
        ("beit_base_patch16_224", beit().into()),
        ("beit_base_patch16_224", BeitConfig { swiglu_mlp: true, use_fc_norm: Some(false), ..beit() }.into()),
        ("eva02_tiny_patch14_224", EvaConfig { norm_eps: 1e-6, ..eva02() }.into()),
        ("vit_small_patch16_rope_mixed_224", rotary(RopeType::Mixed).into()),
        ("vit_large_patch16_sapiens2", sapiens2().into()),
        ("vit_base_patch16_sapiens2", EvaConfig { num_kv_heads: Some(KvHeads::All(1)), ..sapiens2() }.into()),
    ];
    for (architecture, config) in cases {
        let (folder, map) = (TempDir::new().unwrap(), tensors(&config));
        let base = ModelConfig::named(architecture).unwrap();
        let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
        card.architecture = Some(architecture.into());
        write_timm(folder.path(), &map, &card, &base, &WriteOptions::default()).unwrap();
        let again = ModelCard::find(folder.path(), &|_| Ok(base.clone())).unwrap().unwrap();
        assert_eq!(again.config, config, "{architecture}");
    }
    let cases: [(&str, ModelConfig, &str); 2] = [
        ("beit_base_patch16_224", BeitConfig { norm_eps: 1e-5, ..beit() }.into(), "norm_eps"),
        ("eva_giant_patch14_224", EvaConfig { norm_layer: NormLayer::RmsNorm, ..eva() }.into(), "norm_layer"),
    ];
    for (architecture, config, field) in cases {
        let (folder, map) = (TempDir::new().unwrap(), tensors(&config));
        let mut card = ModelCard::new(config, CardSource::Timm, "");
        card.architecture = Some(architecture.into());
        let base = ModelConfig::named(architecture).unwrap();
        let refused = write_timm(folder.path(), &map, &card, &base, &WriteOptions::default()).unwrap_err();
        assert!(refused.to_string().contains(field), "{refused}");
    }
}

/// What timm's Eva does in training alone, and ours does not, is refused with a reason.
#[test]
fn random_places_are_refused() {
    let folder = TempDir::new().unwrap();
    let base = ModelConfig::named("vit_small_patch16_rope_mixed_224").unwrap();
    let found = |args: Value| {
        let card =
            serde_json::json!({"architecture": "vit_small_patch16_rope_mixed_224", "model_args": args});
        std::fs::write(folder.path().join("config.json"), card.to_string()).unwrap();
        ModelCard::find(folder.path(), &|_| Ok(base.clone())).map_err(|error| error.to_string())
    };
    let fields = ["rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords", "patch_drop_rate"];
    for field in fields {
        let error = found(serde_json::json!({field: 1.5})).unwrap_err();
        assert!(error.contains(&format!("`{field}` 1.5 is not supported: ")), "{error}");
    }
    let same = found(serde_json::json!({"rope_shift_coords": null, "patch_drop_rate": 0.0})).unwrap();
    assert_eq!(same.unwrap().config, base);
}

#[test]
fn transformers_folders_and_back() {
    let own = |config: BeitConfig| BeitConfig {
        norm_eps: 1e-12,
        pos_resize: PosResize::Bicubic,
        bias_resize: Some(PosResize::Bilinear),
        ..config
    };
    let plain = BeitConfig { use_rel_pos_bias: false, ..beit() };
    let shared = BeitConfig { use_shared_rel_pos_bias: true, ..plain.clone() };
    for (config, prefix) in [
        (own(beit()), "beit."),
        (own(BeitConfig { num_classes: 0, ..beit() }), ""),
        (own(BeitConfig { global_pool: GlobalPool::Token, init_values: None, ..shared }), "beit."),
        (own(BeitConfig { use_abs_pos_emb: true, ..beit() }), "beit."),
        // Without tables there is nothing that is resized in another way.
        (
            BeitConfig { bias_resize: None, ..own(BeitConfig { use_abs_pos_emb: true, ..plain.clone() }) },
            "beit.",
        ),
        (BeitConfig { bias_resize: None, ..own(plain) }, "beit."),
    ] {
        let any = ModelConfig::from(config.clone());
        let (folder, map) = (TempDir::new().unwrap(), tensors(&any));
        let card = ModelCard::new(any.clone(), CardSource::Timm, "");
        write_huggingface(folder.path(), &map, &card, &WriteOptions::default()).unwrap();
        let written = read(folder.path().join("model.safetensors")).unwrap();
        let attention = format!("{prefix}encoder.layer.1.attention.attention");
        assert!(written.contains(&format!("{attention}.query.bias")));
        assert!(!written.contains(&format!("{attention}.key.bias")));
        assert_eq!(written.contains(&format!("{prefix}pooler.layernorm.weight")), config.has_fc_norm());
        let found = load(&LoadOptions::new(folder.path().to_path_buf()), &Device::flex()).unwrap();
        assert_eq!(found.model.config(), any);
        assert!(apart(&logits(&found.model), &logits(&model(&any))) < 1e-6);
    }
    for config in [
        BeitConfig { qkv_bias: false, ..beit() },
        BeitConfig { scale_mlp: true, ..beit() },
        BeitConfig { use_fc_norm: Some(false), ..beit() },
        BeitConfig { img_size: [32, 48], ..beit() },
    ] {
        let config = ModelConfig::from(config);
        let card = ModelCard::new(config.clone(), CardSource::Timm, "");
        let folder = TempDir::new().unwrap();
        let refused = write_huggingface(folder.path(), &tensors(&config), &card, &WriteOptions::default());
        assert!(refused.unwrap_err().to_string().contains("transformers"), "{config:?}");
    }
}

/// Wide enough for heads of 64.
fn wide(config: &ModelConfig) -> ModelConfig {
    config.with("embed_dim", 128.into()).and_then(|wide| wide.with("num_heads", 2.into())).unwrap()
}

/// A file without a card: the family, all that tensors show, and the answer where that is everything.
#[test]
fn tensors_show_the_family_and_the_configuration() {
    let mut equal = 0;
    for config in all() {
        let config = wide(&config);
        let (_kept, path) = file(&tensors(&config));
        let size = config.input().image().size;
        let options = LoadOptions { img_size: Some(size), ..LoadOptions::new(path.clone()) };
        // Two models have the tensors of another one: without biases beside the weight, names are a ViT's or DeiT III's.
        let is_plain = [("qkv_bias", Value::from(false)), ("attn_type", Value::from("rope"))]
            .iter()
            .any(|(field, value)| config.field(field).as_ref() == Some(value));
        let mixed = config.field("rope_type") == Some("mixed".into());
        let separate = config.field("qkv_fused") == Some(false.into());
        let relative = config.field("use_rel_pos_bias") == Some(true.into());
        if is_plain && !mixed && !separate && !relative {
            continue;
        }
        let found = load(&options, &Device::flex()).unwrap_or_else(|error| panic!("{config:?}: {error}"));
        assert_eq!(found.model.config().family(), config.family(), "{config:?}");
        assert_eq!(found.model.config().walk().unwrap().params, config.walk().unwrap().params, "{config:?}");
        equal += usize::from(apart(&logits(&found.model), &logits(&model(&config))) < 1e-6);
    }
    assert!(equal >= 8, "{equal}");
}

/// Relatives as their libraries build them, wide enough for heads of 64.
fn dinov3() -> EvaConfig {
    let config = EvaConfig {
        num_classes: 0,
        embed_dim: 128,
        num_heads: 2,
        num_reg_tokens: 4,
        init_values: Some(1e-5),
        rope_temperature: 100.0,
        rope_rotate_half: true,
        norm_eps: 1e-5,
        use_fc_norm: Some(false),
        ..rotary(RopeType::DinoV3)
    };
    EvaConfig { img_size: [224, 224], patch_size: [32, 32], ..config }
}

fn perception() -> EvaConfig {
    EvaConfig {
        num_classes: 5,
        embed_dim: 128,
        num_heads: 2,
        attn_type: AttnType::Rope,
        use_rot_pos_emb: true,
        rope_grid_indexing: GridIndexing::Xy,
        rope_grid_offset: 1.0,
        ref_feat_shape: Some([4, 4]),
        norm_eps: 1e-5,
        global_pool: GlobalPool::Map,
        attn_pool_num_heads: Some(8),
        use_pre_transformer_norm: true,
        ..eva()
    }
}

/// The Perception Encoder without a class token, its largest, and the one for language.
fn perceptions() -> [EvaConfig; 3] {
    let language = EvaConfig {
        num_classes: 0,
        global_pool: GlobalPool::Avg,
        attn_pool_num_heads: None,
        use_fc_norm: Some(false),
        use_post_transformer_norm: Some(false),
        init_values: Some(0.1),
        ..perception()
    };
    [perception(), EvaConfig { class_token: false, rope_grid_offset: 0.0, ..perception() }, language]
}

fn clip() -> VitConfig {
    VitConfig {
        img_size: [32, 32],
        patch_size: [8, 8],
        num_classes: 5,
        embed_dim: 128,
        depth: 2,
        num_heads: 2,
        pre_norm: true,
        act_layer: Activation::QuickGelu,
        norm_eps: 1e-5,
        ..VitConfig::default()
    }
}

/// timm's names and layouts in the ones of OpenAI's CLIP and of the Perception Encoder.
fn in_clips_names(mut map: TensorMap) -> TensorMap {
    let mut renamed = TensorMap::new("CLIP");
    for part in ["weight", "bias"] {
        if let Some(query) = map.tensors.remove(&format!("attn_pool.q.{part}")) {
            let rest = map.tensors.remove(&format!("attn_pool.kv.{part}")).unwrap();
            let mut shape = query.shape().to_vec();
            shape[0] *= 3;
            let joined = HostTensor::from_f32(shape, &[query.to_f32(), rest.to_f32()].concat()).unwrap();
            renamed.tensors.insert(format!("attn_pool.attn.in_proj_{part}"), joined);
        }
    }
    let swaps = [
        ("patch_embed.proj.", "conv1."),
        ("norm_pre.", "ln_pre."),
        ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj.", "attn.out_proj."),
        ("norm1.", "ln_1."),
        ("norm2.", "ln_2."),
        ("gamma_", "ls_"),
        ("attn_pool.latent", "attn_pool.probe"),
        ("attn_pool.proj.", "attn_pool.attn.out_proj."),
        ("attn_pool.norm.", "attn_pool.layernorm."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
        ("blocks.", "transformer.resblocks."),
    ];
    for (key, tensor) in map.tensors {
        let width = tensor.shape().last().copied().unwrap();
        let name = swaps.iter().fold(key.clone(), |name, (from, to)| name.replace(from, to));
        let (name, tensor) = match key.as_str() {
            "cls_token" => ("class_embedding".into(), tensor.reshape(&[width]).unwrap()),
            "pos_embed" => {
                let rows = tensor.shape()[1];
                ("positional_embedding".into(), tensor.reshape(&[rows, width]).unwrap())
            }
            "head.weight" => ("proj".into(), tensor.transpose().unwrap()),
            "head.bias" => continue,
            "norm.weight" | "norm.bias" => (key.replace("norm", "ln_post"), tensor),
            _ if name.contains(".ls_") => (format!("{name}.gamma"), tensor),
            _ => (name, tensor),
        };
        renamed.tensors.insert(name, tensor);
    }
    renamed
}

/// [`tensors`] whose head has no bias, as CLIP's projection.
fn without_head_bias(config: &ModelConfig) -> TensorMap {
    let mut map = tensors(config);
    if let Some(bias) = map.tensors.get_mut("head.bias") {
        *bias = HostTensor::from_f32(bias.shape().to_vec(), &vec![0.0; bias.num_elements()]).unwrap();
    }
    map
}

/// Files of every option and naming.
pub fn files() -> Vec<(String, TensorMap)> {
    let own = all().into_iter().map(|config| (format!("{config:?}"), tensors(&config)));
    let language =
        perceptions().into_iter().map(|config| ("CLIP's names".into(), in_clips_names(tensors(&config))));
    let others = [dinov3().into(), beit().into()].map(|config: ModelConfig| {
        ("transformers' names".into(), to_huggingface(&tensors(&config), None).unwrap())
    });
    own.chain(language).chain(others).collect()
}

fn answer(config: &ModelConfig, map: TensorMap) -> Vec<f32> {
    let skeleton = config.skeleton(&Device::flex()).unwrap();
    logits(&apply(skeleton, map, DType::F32, &Excuses::default()).unwrap().0)
}

/// A file with this image half and no configuration: the answer, and the notes.
fn of_file(map: &TensorMap) -> (ModelConfig, Vec<f32>, String) {
    let (_kept, path) = file(map);
    let found = load(&LoadOptions::new(path), &Device::flex()).unwrap_or_else(|error| panic!("{error}"));
    (found.model.config(), logits(&found.model), found.notes.join("\n"))
}

/// CLIP's names are those of a Vision Transformer; the Perception Encoder has a pool, or no norm after the blocks.
#[test]
fn files_in_clips_names() {
    let clip = ModelConfig::from(clip());
    let map = without_head_bias(&clip);
    let (found, logits, notes) = of_file(&in_clips_names(map.clone()));
    assert_eq!(found.family(), "vit");
    assert!(apart(&logits, &answer(&clip, map)) < 1e-6);
    assert!(notes.contains("activation"), "{notes}");
    for config in perceptions() {
        let config = ModelConfig::from(config);
        let map = without_head_bias(&config);
        for file in [in_clips_names(map.clone()), map.clone()] {
            let (found, logits, notes) = of_file(&file);
            assert!(apart(&logits, &answer(&config, map.clone())) < 1e-6, "{found:?} and not {config:?}");
            assert!(notes.contains("rotary positions for a grid of 4x4"), "{notes}");
        }
    }
}

/// A configuration with the sizes of another one.
fn sized_like(config: ModelConfig, other: &ModelConfig) -> Result<ModelConfig, BoxedError> {
    let sizes = ["img_size", "patch_size", "embed_dim", "depth", "num_heads"];
    sizes.iter().try_fold(config, |config, field| Ok(config.with(field, other.field(field).unwrap())?))
}

/// A model by its name keeps the name's activation: both kinds occur in CLIP's names.
#[test]
fn the_name_of_a_clip_decides_its_activation() {
    let map = in_clips_names(without_head_bias(&clip().into()));
    for (name, act) in [
        ("vit_base_patch16_clip_224", Activation::Gelu),
        ("vit_base_patch16_clip_quickgelu_224", Activation::QuickGelu),
    ] {
        let named = ModelConfig::named(name).unwrap();
        let settled = named.with("num_classes", 5.into()).unwrap();
        let own = ModelConfig::from(clip());
        let edit = |config: ModelConfig| sized_like(config, &own);
        let (_kept, path) = file(&map);
        let options = LoadOptions { checkpoint: Some(path), edit: Some(&edit), ..LoadOptions::new(name) };
        let found = load(&options, &Device::flex()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found.model.config(), edit(settled).unwrap());
        let VitConfig { act_layer, .. } = found.model.config().try_into().unwrap();
        assert_eq!(act_layer, act, "{name}");
    }
}

/// DINOv3 has registers and gains, and no table of positions. timm pools it by the mean, others by the class token.
#[test]
fn files_of_dinov3_show_their_rotations() {
    let timms = ModelConfig::from(dinov3());
    let own = ModelConfig::from(EvaConfig { global_pool: GlobalPool::Token, use_fc_norm: None, ..dinov3() });
    let map = tensors(&own);
    let (found, mean, notes) = of_file(&map);
    assert!(apart(&mean, &answer(&timms, map.clone())) < 1e-6, "{found:?}");
    assert!(notes.contains("DINOv3") && notes.contains("mean"), "{notes}");
    let in_hugging_faces = to_huggingface(&map, None).unwrap();
    let mut in_metas = TensorMap::new("Meta");
    for (key, tensor) in &map.tensors {
        let name = key.replace("reg_token", "storage_tokens");
        let name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma");
        if let Some(attention) = name.strip_suffix(".q_bias") {
            let values = map.get(&format!("{attention}.v_bias")).unwrap();
            let joined = [tensor.to_f32(), vec![3.0; 128], values.to_f32()].concat();
            let joined = HostTensor::from_f32(vec![3 * 128], &joined).unwrap();
            in_metas.tensors.insert(format!("{attention}.qkv.bias"), joined);
        } else if !name.ends_with(".v_bias") {
            in_metas.tensors.insert(name, tensor.clone());
        }
    }
    for file in [in_hugging_faces, in_metas] {
        let (found, logits, notes) = of_file(&file);
        assert!(apart(&logits, &answer(&own, map.clone())) < 1e-6, "{found:?}");
        assert!(notes.contains("DINOv3") && notes.contains("class token"), "{notes}");
    }
}

/// The text half of a CLIP has positions and blocks of its own.
#[test]
fn the_text_half_of_a_file_is_left_out() {
    let eva_clip = EvaConfig { global_pool: GlobalPool::Token, embed_dim: 128, num_heads: 2, ..eva() };
    let plain = VitConfig { num_classes: 0, pre_norm: false, act_layer: Activation::Gelu, ..clip() };
    let plain = VitConfig { norm_eps: 1e-6, ..plain };
    let [core, giant, _] = perceptions();
    for (config, prefix, is_renamed) in [
        (ModelConfig::from(plain), "visual.trunk.", false),
        (eva_clip.into(), "visual.", false),
        (clip().into(), "visual.", true),
        (core.into(), "visual.", true),
        (giant.into(), "visual.", true),
    ] {
        let map = without_head_bias(&config);
        let image = if is_renamed { in_clips_names(map.clone()) } else { map.clone() };
        for text in ["", "text."] {
            let mut file = TensorMap::new("both halves");
            for (name, tensor) in &image.tensors {
                file.tensors.insert(format!("{prefix}{name}"), tensor.clone());
            }
            for (name, shape) in [
                ("positional_embedding", vec![7, 16]),
                ("token_embedding.weight", vec![5, 16]),
                ("transformer.resblocks.0.ln_1.weight", vec![16]),
                ("ln_final.weight", vec![16]),
                ("text_projection", vec![16, 8]),
            ] {
                let values = formula::weight(name, &shape);
                let tensor = HostTensor::from_f32(shape, &values).unwrap();
                file.tensors.insert(format!("{text}{name}"), tensor);
            }
            let (found, logits, _) = of_file(&file);
            assert!(apart(&logits, &answer(&config, map.clone())) < 1e-6, "{prefix} {text} {found:?}");
        }
    }
}

/// Microsoft's files of pretraining have one table for all blocks; fine-tuning gives each block a copy.
#[test]
fn a_shared_table_begins_the_tables_of_blocks() {
    let shared = BeitConfig {
        use_rel_pos_bias: false,
        use_shared_rel_pos_bias: true,
        num_classes: 0,
        use_fc_norm: Some(false),
        ..beit()
    };
    let map = tensors(&shared);
    let (_kept, path) = file(&map);
    let fields = ModelConfig::from(BeitConfig { init_values: Some(0.1), ..beit() });
    let edit = |config: ModelConfig| sized_like(config, &fields);
    let options = LoadOptions {
        checkpoint: Some(path),
        edit: Some(&edit),
        ..LoadOptions::new("beit_base_patch16_224")
    };
    let found = load(&options, &Device::flex()).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        found.notes.iter().any(|note| note.contains("one table of relative biases")),
        "{:?}",
        found.notes
    );
    let table = map.get("rel_pos_bias.relative_position_bias_table").unwrap();
    let held = collect(&found.model);
    for block in 0..2 {
        let own = held.get(&format!("blocks.{block}.attn.relative_position_bias_table")).unwrap();
        assert_eq!(own.to_f32(), table.to_f32());
    }
}

/// timm takes one number for both sides.
#[test]
fn arguments_of_timm() {
    let base = ModelConfig::named("eva_giant_patch14_224").unwrap();
    let text = r#"{"architecture": "eva_giant_patch14_224", "model_args": {"ref_feat_shape": 14}}"#;
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("config.json"), text).unwrap();
    let card = ModelCard::find(folder.path(), &|_| Ok(base.clone())).unwrap().unwrap();
    assert_eq!(card.config, base.with_some("ref_feat_shape", Some([14, 14])).unwrap());
}

/// Shapes that belong to no model are refused with the tensor's name.
#[test]
fn shapes_without_values_are_refused() {
    let config = ModelConfig::from(EvaConfig { num_classes: 0, ..perception() });
    let map = tensors(&config);
    let scalar = HostTensor::from_f32(vec![], &[1.0]).unwrap();
    let empty = HostTensor::from_f32(vec![128, 3, 0, 0], &[]).unwrap();
    let keys = KeyFile::parse(std::path::Path::new("keys.toml"), "[config]\nimg_size = [32, 32]\n").unwrap();
    for (key, tensor) in [("attn_pool.mlp.fc1.weight", scalar), ("patch_embed.proj.weight", empty)] {
        let mut broken = map.clone();
        broken.tensors.insert(key.into(), tensor);
        let known = Known { keys: Some(&keys), ..Known::default() };
        let card = to_timm_with(broken, &known).unwrap().card();
        // A pool without a width has the blocks' ratio. The tensor does not fit it later.
        assert_eq!(card.is_err(), key.starts_with("patch"), "{key}");
    }
}

/// Microsoft's files have an index beside each table, and those of pretraining a mask token and a head of visual tokens.
#[test]
fn files_of_unilm_are_read() {
    let config =
        BeitConfig { num_classes: 0, use_fc_norm: Some(false), global_pool: GlobalPool::Token, ..beit() };
    let mut map = tensors(&config);
    for (key, shape) in [
        ("blocks.0.attn.relative_position_index", vec![17, 17]),
        ("mask_token", vec![1, 1, 24]),
        ("lm_head.weight", vec![5, 24]),
        ("lm_head.bias", vec![5]),
    ] {
        let values = formula::weight(key, &shape);
        map.tensors.insert(key.into(), HostTensor::from_f32(shape, &values).unwrap());
    }
    let converted = to_timm(map).unwrap();
    assert_eq!(converted.map.dropped.len(), 4);
    let found: BeitConfig = converted.card().unwrap().config.try_into().unwrap();
    assert_eq!(found, BeitConfig { init_values: found.init_values, use_fc_norm: None, ..config });
}

/// DINOv3's distilled files have biases of zeros; timm's models without biases leave them out.
#[test]
fn biases_of_zeros_are_left_out() {
    let config = EvaConfig { num_reg_tokens: 4, ..rotary(RopeType::DinoV3) };
    let mut map = tensors(&config);
    let plain = EvaConfig { qkv_bias: false, ..config };
    let load = |map: TensorMap| {
        let skeleton = ModelConfig::from(plain.clone()).skeleton(&Device::flex()).unwrap();
        apply(skeleton, map, DType::F32, &Excuses::default())
    };
    assert!(load(map.clone()).is_err());
    for (key, tensor) in &mut map.tensors {
        if key.ends_with("_bias") {
            *tensor = HostTensor::from_f32(vec![24], &[0.0; 24]).unwrap();
        }
    }
    load(map).unwrap();
}

/// The order of the axes and the scaling to a reference change the answer.
#[test]
fn rotary_options_matter() {
    let base = EvaConfig { img_size: [24, 40], ..rotary(RopeType::Cat) };
    let answer = logits(&model(&base.clone().into()));
    for other in [
        EvaConfig { rope_grid_indexing: GridIndexing::Xy, ..base.clone() },
        EvaConfig { ref_feat_shape: Some([7, 7]), ..base.clone() },
        EvaConfig { rope_rotate_half: true, ..base.clone() },
        EvaConfig { rope_temperature: 100.0, ..base.clone() },
        EvaConfig { rope_type: RopeType::DinoV3, ..base.clone() },
        EvaConfig { use_rot_pos_emb: false, ..base.clone() },
    ] {
        assert!(apart(&logits(&model(&other.clone().into())), &answer) > 1e-4, "{other:?}");
    }
}
