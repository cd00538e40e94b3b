//! Every named model against timm: exact parameter counts and multiply-accumulates.

use burn::module::Module;
use burn::tensor::Device;
use serde_json::Value;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::models::vit::{BlockNorm, GlobalPool, PosEmbed, VitConfig};
use vitrum::models::{Config, ConfigError, ModelConfig, catalogue};

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/catalogue.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn names_are_timms() {
    let golden = golden();
    let is_own = |name: &&str| {
        ["ladder_", "t2t_", "cpvt_", "mae_", "mpp_", "simmim_"].iter().any(|start| name.starts_with(start))
    };
    let ours: Vec<&str> = catalogue::names().filter(|name| !is_own(name)).collect();
    let mut theirs: Vec<&str> = golden["models"].as_object().unwrap().keys().map(String::as_str).collect();
    theirs.sort_unstable();
    assert_eq!(ours, theirs);
}

#[test]
fn parameters_and_gmacs_are_timms() {
    for (name, model) in golden()["models"].as_object().unwrap() {
        let walk = ModelConfig::named(name).unwrap().walk().unwrap();
        assert_eq!(walk.params, model["params"].as_u64().unwrap(), "parameters of {name}");
        if let Some(gmacs) = model["gmacs"].as_f64() {
            let ours = walk.macs as f64 / 1e9;
            assert!((ours - gmacs).abs() <= 0.000_51, "GMACs of {name}: {ours} and not {gmacs}");
        }
    }
}

/// The walk counts what the model really holds.
#[test]
fn walk_counts_the_modules_parameters() {
    let device = Device::flex();
    let small = [
        "test_vit",
        "test_vit_relpos",
        "test_vit2",
        "test_vit3",
        "vit_tiny_patch16_224",
        "vit_xsmall_patch16_clip_224",
    ];
    for name in small {
        let config = ModelConfig::named(name).unwrap();
        let held = config.init(&device, 0).unwrap().num_params() as u64;
        assert_eq!(config.walk().unwrap().params, held, "{name}");
    }
    let config: VitConfig = ModelConfig::named("test_vit").unwrap().try_into().unwrap();
    let other = VitConfig {
        block_norm: BlockNorm::Post,
        attn_head_dim: Some(40),
        patch_norm: true,
        embed_norm: true,
        ..config
    };
    let held = ModelConfig::Vit(other.clone()).init(&device, 0).unwrap().num_params() as u64;
    assert_eq!(other.walk().unwrap().params, held, "options that timm has not");
}

/// The paper's own example: 224×224×3 in patches of 16.
#[test]
fn walk_of_vit_base() {
    let walk = ModelConfig::named("vit_base_patch16_224").unwrap().walk().unwrap();
    let shapes: Vec<(&str, &[usize])> =
        walk.steps.iter().map(|step| (step.name.as_str(), step.shape.as_slice())).collect();
    let expected: Vec<(&str, &[usize])> = vec![
        ("image", &[3, 224, 224]),
        ("patches", &[196, 768]),
        ("patch_embed", &[196, 768]),
        ("cls_token", &[197, 768]),
        ("pos_embed", &[197, 768]),
        ("blocks.N.norm1", &[197, 768]),
        ("blocks.N.attn.qkv", &[3, 12, 197, 64]),
        ("blocks.N.attn.scores", &[12, 197, 197]),
        ("blocks.N.attn.context", &[197, 768]),
        ("blocks.N.attn.proj", &[197, 768]),
        ("blocks.N.norm2", &[197, 768]),
        ("blocks.N.mlp.fc1", &[197, 3072]),
        ("blocks.N.mlp.fc2", &[197, 768]),
        ("norm", &[197, 768]),
        ("pool", &[768]),
        ("head", &[1000]),
    ];
    assert_eq!(shapes, expected);
    assert_eq!(walk.params, 86_567_656);
}

/// 256×256 in patches of 32, width 1024: 64×3072 → 64×1024 → 65×1024.
#[test]
fn walk_of_patches_of_32() {
    let mut config =
        vitrum::models::VitConfig::try_from(ModelConfig::named("vit_large_patch32_224").unwrap())
            .expect("a ViT");
    config.img_size = [256, 256];
    let walk = ModelConfig::Vit(config).walk().unwrap();
    let shapes: Vec<&[usize]> = walk.steps[1..4].iter().map(|step| step.shape.as_slice()).collect();
    assert_eq!(shapes, [&[64, 3072], &[64, 1024], &[65, 1024]]);
}

/// The largest of everything that a file may state is counted; one more is refused by name.
#[test]
fn absurd_configurations_are_counted_or_refused() {
    let largest = VitConfig {
        img_size: [1 << 14; 2],
        patch_size: [1; 2],
        in_chans: 1 << 10,
        embed_dim: 1 << 16,
        depth: 1000,
        num_heads: 1 << 16,
        mlp_ratio: 1.0,
        num_classes: 1 << 20,
        representation_size: Some(1 << 16),
        pos_embed: PosEmbed::RelBias,
        global_pool: GlobalPool::Map,
        ..VitConfig::default()
    };
    let walk = ModelConfig::Vit(largest.clone()).walk().unwrap();
    // A thousand tables of (2·2^14 - 1)^2 + 3 offsets and 2^16 heads are most of it.
    let tables = 1000 * (((1u64 << 15) - 1).pow(2) + 3) * (1 << 16);
    assert!(walk.params > tables && walk.params < tables + (1 << 50), "{}", walk.params);
    assert_eq!(walk.macs, u64::MAX, "more than can be counted");
    let walk_of = |config: VitConfig| ModelConfig::Vit(config).walk().unwrap();
    assert_eq!(walk_of(VitConfig { global_pool: GlobalPool::Token, ..largest.clone() }).macs, u64::MAX);
    let kernel =
        VitConfig { patch_size: [1 << 14; 2], pos_embed: PosEmbed::Learn, depth: 1, ..largest.clone() };
    assert!(ModelConfig::Vit(kernel).walk().unwrap().params > 1 << 54);

    let max = usize::MAX;
    let rate = |drop_rate| VitConfig { drop_rate, ..VitConfig::default() };
    let ratio = |mlp_ratio| VitConfig { mlp_ratio, ..VitConfig::default() };
    let eps = |norm_eps| VitConfig { norm_eps, ..VitConfig::default() };
    let default = VitConfig::default;
    for (config, field) in [
        (VitConfig { img_size: [max, 16], ..default() }, "img_size"),
        (VitConfig { img_size: [(1 << 14) + 1, 16], ..default() }, "img_size"),
        (VitConfig { img_size: [224, 15], ..default() }, "img_size"),
        (VitConfig { patch_size: [0, 16], ..default() }, "patch_size"),
        (VitConfig { patch_size: [16, max], ..default() }, "patch_size"),
        (VitConfig { in_chans: max, ..default() }, "in_chans"),
        (VitConfig { num_classes: max, ..default() }, "num_classes"),
        (VitConfig { embed_dim: max, ..default() }, "embed_dim"),
        (VitConfig { embed_dim: 0, ..default() }, "embed_dim"),
        (VitConfig { embed_dim: 770, ..default() }, "embed_dim"),
        (VitConfig { num_heads: 0, ..default() }, "num_heads"),
        (VitConfig { num_heads: max, ..default() }, "num_heads"),
        (VitConfig { depth: 0, ..default() }, "depth"),
        (VitConfig { depth: max, ..default() }, "depth"),
        (VitConfig { reg_tokens: max, ..default() }, "reg_tokens"),
        (VitConfig { representation_size: Some(0), ..default() }, "representation_size"),
        (VitConfig { representation_size: Some(max), ..default() }, "representation_size"),
        (VitConfig { init_values: Some(f64::NAN), ..default() }, "init_values"),
        (VitConfig { class_token: false, ..default() }, "global_pool"),
        (
            VitConfig { pos_embed: PosEmbed::SinCos2dMae, embed_dim: 6, num_heads: 1, ..default() },
            "pos_embed",
        ),
        (VitConfig { pos_embed: PosEmbed::RelBias, reg_tokens: 1, ..default() }, "pos_embed"),
        (ratio(f64::NAN), "mlp_ratio"),
        (ratio(f64::INFINITY), "mlp_ratio"),
        (ratio(-1.0), "mlp_ratio"),
        (ratio(1e-9), "mlp_ratio"),
        (eps(0.0), "norm_eps"),
        (eps(f64::NAN), "norm_eps"),
        (rate(1.0), "drop_rate"),
        (rate(-0.1), "drop_rate"),
        (rate(f64::NAN), "drop_rate"),
    ] {
        let error = ModelConfig::Vit(config).walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
}

#[test]
fn unknown_names_answer_with_the_nearest() {
    let error = ModelConfig::named("vit_bas_patch16_224").unwrap_err();
    let ConfigError::UnknownName { nearest, .. } = &error else { panic!("{error}") };
    assert_eq!(nearest[0], "vit_base_patch16_224");
    assert!(error.to_string().contains("hint: did you mean vit_base_patch16_224"));
}

#[test]
fn a_tag_may_follow_the_name() {
    let tagged = ModelConfig::named("vit_tiny_patch16_224.augreg_in21k_ft_in1k").unwrap();
    assert_eq!(tagged, ModelConfig::named("vit_tiny_patch16_224").unwrap());
}

/// timm's deprecated names stand for those that replaced them.
#[test]
fn deprecated_names_lead_to_present_ones() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/models/catalogue_old.json");
    let table: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (old, new) in table.as_object().unwrap() {
        let new = new.as_str().unwrap();
        assert_eq!(catalogue::renamed(old), Some(new));
        let (name, tag) = new.split_once('.').map_or((new, None), |(name, tag)| (name, Some(tag)));
        assert!(
            catalogue::names().any(|known| known == name) && !catalogue::names().any(|known| known == old)
        );
        let (entry, present) = (catalogue::entry(old).unwrap(), catalogue::entry(new).unwrap());
        assert_eq!(entry.config, present.config, "{old}");
        assert!(tag.is_none_or(|tag| present.tags.iter().any(|known| known == tag)), "{new}");
    }
    assert_eq!(
        catalogue::renamed("swin_base_patch4_window7_224_in22k"),
        Some("swin_base_patch4_window7_224.ms_in22k")
    );
    assert_eq!(catalogue::renamed("swin_base_patch4_window7_224"), None);
    let options = LoadOptions { needs_weights: false, ..LoadOptions::new("vit_tiny_patch16_224_in21k") };
    let notes = load(&options, &Device::flex()).unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("timm's name is now vit_tiny_patch16_224.")), "{notes:?}");
}

#[test]
fn what_the_head_does_not_read_is_not_counted_for_it() {
    let walk = |config: VitConfig| ModelConfig::Vit(config).walk().unwrap();
    let base = VitConfig::default();
    let class_token = walk(base.clone());
    // Of the last block 196 of 197 rows of scores, context (197 D each), projection (D²) and MLP (8 D²) are left out.
    let (t, d) = (197, 768);
    assert_eq!(class_token.macs - class_token.macs_read, (t - 1) * (2 * t * d + 9 * d * d));
    let mean = walk(VitConfig { global_pool: GlobalPool::Avg, ..base.clone() });
    assert_eq!(mean.macs, mean.macs_read);
    // A convolution behind the only block reads all of its tokens.
    let moved = VitConfig { pos_embed: PosEmbed::Cpe, depth: 1, ..base };
    assert_eq!(walk(moved.clone()).macs, walk(moved.clone()).macs_read);
    let deeper = walk(VitConfig { depth: 2, ..moved.clone() });
    assert!(deeper.macs_read < deeper.macs);
    let both = walk(VitConfig { depth: 2, cpe_blocks: vec![0, 1], ..moved });
    assert_eq!(both.macs, both.macs_read);
}
