//! PiT's files and limits. Its numbers are compared in `parity.rs`.

use burn::module::Module;
use burn::tensor::Device;
use serde_json::{Value, json};
use tempfile::TempDir;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::write::{WriteOptions, write_model, write_timm};
use vitrum::checkpoint::{HostTensor, ModelCard, TensorMap, read};
use vitrum::layers::observe::{Recorder, Silent};
use vitrum::models::deit::DeitAnswer;
use vitrum::models::input::Sizes;
use vitrum::models::pit::PitConfig;
use vitrum::models::vit::PosResize;
use vitrum::models::{Chain, Config, ConfigError, Depth, Model, ModelConfig, Network, Precision, Want};

use super::shared::{distance, file, images, loaded, logits, tensors};

/// Heads of 32, as in PiT-Ti, so that tensors alone show a model.
fn tiny() -> PitConfig {
    PitConfig { img_size: [48, 64], num_classes: 7, depth: vec![1, 2, 1], ..PitConfig::default() }
}

fn distilled() -> PitConfig {
    PitConfig { distilled: true, ..tiny() }
}

#[test]
fn walk_counts_the_modules_parameters() {
    for config in [
        tiny(),
        distilled(),
        PitConfig { patch_size: 14, stride: 7, in_chans: 1, ..tiny() },
        PitConfig { num_classes: 0, ..distilled() },
        PitConfig { base_dims: vec![32, 16, 64], heads: vec![1, 4, 1], mlp_ratio: 2.5, ..tiny() },
        PitConfig { base_dims: vec![32], heads: vec![2], depth: vec![3], ..tiny() },
    ] {
        let held = config.init(&Device::flex(), 0).unwrap().num_params() as u64;
        assert_eq!(config.walk().unwrap().params, held, "{config:?}");
    }
}

/// The paper's maps, and what the head does not need of the last block.
#[test]
fn maps_of_pit_s() {
    let walk = ModelConfig::named("pit_s_distilled_224").unwrap().walk().unwrap();
    let shape = |name: &str| &walk.steps.iter().find(|step| step.name == name).unwrap().shape;
    assert_eq!(shape("patch_embed"), &[27 * 27, 144]);
    assert_eq!(shape("cls_token"), &[2 + 27 * 27, 144]);
    assert_eq!(shape("transformers.1.pool"), &[2 + 14 * 14, 288]);
    assert_eq!(shape("transformers.2.blocks.N.mlp.fc1"), &[2 + 7 * 7, 4 * 576]);
    let (t, d) = (2 + 49, 576);
    assert_eq!(walk.macs - walk.macs_read, (t - 2) * (2 * t * d + 9 * d * d));
}

#[test]
fn a_wrong_field_is_named() {
    let plain = tiny;
    for (config, field) in [
        (PitConfig { img_size: [48, 15], ..plain() }, "img_size"),
        (PitConfig { img_size: [usize::MAX, 48], ..plain() }, "img_size"),
        (PitConfig { patch_size: 0, ..plain() }, "patch_size"),
        (PitConfig { stride: 0, ..plain() }, "stride"),
        (PitConfig { in_chans: 0, ..plain() }, "in_chans"),
        (PitConfig { num_classes: usize::MAX, ..plain() }, "num_classes"),
        (PitConfig { depth: Vec::new(), ..plain() }, "depth"),
        (PitConfig { depth: vec![1, 0, 1], ..plain() }, "depth"),
        (PitConfig { depth: vec![1; 4], ..plain() }, "base_dims"),
        (PitConfig { base_dims: vec![32, 0, 32], ..plain() }, "base_dims"),
        (PitConfig { heads: vec![2, 4], ..plain() }, "heads"),
        (PitConfig { heads: vec![2, 3, 6], ..plain() }, "heads"),
        (PitConfig { heads: vec![2, 4, usize::MAX], ..plain() }, "heads"),
        (PitConfig { heads: vec![2, 4, 1 << 12], ..plain() }, "heads"),
        (PitConfig { mlp_ratio: f64::NAN, ..plain() }, "mlp_ratio"),
        (PitConfig { mlp_ratio: 1e-9, ..plain() }, "mlp_ratio"),
        (PitConfig { mlp_ratio: 1e9, ..plain() }, "mlp_ratio"),
        (PitConfig { drop_path_rate: 1.0, ..plain() }, "drop_path_rate"),
        (PitConfig { attn_drop_rate: -0.1, ..plain() }, "attn_drop_rate"),
    ] {
        let error = config.walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
    let error = serde_json::from_str::<ModelConfig>(r#"{"family": "pit", "embed_dim": 4}"#).unwrap_err();
    assert!(error.to_string().contains("embed_dim"), "{error}");
}

#[test]
fn pooling_is_as_deep_as_the_block_behind_it() {
    let model = tiny().build(&Device::flex());
    for (key, depth) in [
        ("patch_embed.conv.weight", Depth::Stem),
        ("pos_embed", Depth::Stem),
        ("cls_token", Depth::Stem),
        ("transformers.0.blocks.0.attn.qkv.weight", Depth::Layer(0)),
        ("transformers.1.pool.conv.weight", Depth::Layer(1)),
        ("transformers.1.pool.fc.bias", Depth::Layer(1)),
        ("transformers.1.blocks.1.norm2.bias", Depth::Layer(2)),
        ("transformers.2.pool.fc.weight", Depth::Layer(3)),
        ("norm.weight", Depth::Close),
        ("head.weight", Depth::Head),
        ("head_dist.bias", Depth::Head),
    ] {
        assert_eq!(model.depth(key), depth, "{key}");
    }
    assert!(!model.decays("cls_token") && !model.decays("pos_embed"));
    assert!(model.decays("transformers.1.pool.conv.weight"));
}

/// torch's uniform draw by the inputs of each layer; a normal draw of 0.02 for tokens and positions.
#[test]
fn first_values_are_timms() {
    let map = collect(&PitConfig { num_classes: 500, ..distilled() }.init(&Device::flex(), 3).unwrap());
    let largest =
        |key: &str| map.get(key).unwrap().to_f64().iter().fold(0.0_f64, |most, v| most.max(v.abs()));
    for (layer, fan_in) in [
        ("patch_embed.conv", 3 * 16 * 16),
        ("transformers.1.pool.conv", 9),
        ("transformers.1.pool.fc", 64),
        ("transformers.2.blocks.0.attn.qkv", 256),
        ("transformers.2.blocks.0.mlp.fc2", 1024),
        ("head", 256),
        ("head_dist", 256),
    ] {
        let bound = (fan_in as f64).powf(-0.5);
        for part in ["weight", "bias"] {
            let found = largest(&format!("{layer}.{part}"));
            assert!((0.9 * bound..=bound).contains(&found), "{layer}.{part}: {found} of {bound}");
        }
    }
    for key in ["pos_embed", "cls_token"] {
        let values = map.get(key).unwrap().to_f64();
        let deviation = (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt();
        assert!((0.015..0.025).contains(&deviation), "{key}: {deviation}");
    }
    assert_eq!(largest("transformers.0.blocks.0.norm1.bias"), 0.0);
}

/// An image of another size than the model's gets the answer of the model that was loaded for that size.
#[test]
fn images_of_any_size() {
    for (config, sizes) in [
        (tiny(), [[80, 48], [17, 40], [16, 16]]),
        (
            // timm's card cannot say this, ours can.
            PitConfig { pos_resize: PosResize::Bilinear, answer: DeitAnswer::Dist, ..distilled() },
            [[64, 64], [96, 31], [48, 65]],
        ),
    ] {
        let (folder, map) = (TempDir::new().unwrap(), tensors(&config));
        let base = ModelConfig::named("pit_ti_224").unwrap();
        write_model(folder.path(), &map, &card(&config, "pit_ti_224"), &base, &WriteOptions::default())
            .unwrap();
        let own = loaded(folder.path(), Precision::F32, config.img_size);
        for size in sizes {
            let other = loaded(folder.path(), Precision::F32, size);
            assert_eq!(other.model.config().input().image().size, size);
            let (ours, theirs) = (logits(&own.model, size), logits(&other.model, size));
            assert!(distance(&ours, &theirs) < 1e-4, "{size:?}: {}", distance(&ours, &theirs));
        }
        // A patch must fit.
        let error = own.model.logits_at(images([48, 15]), Sizes::Any).unwrap_err().to_string();
        assert!(error.contains("15"), "{error}");
    }
}

/// The levels are the stages; blocks one by one end with the same, and so does the chain.
#[test]
fn levels_blocks_and_links_agree() {
    let model = Model::from(distilled().init(&Device::flex(), 5).unwrap());
    let features =
        |want| model.as_backbone().unwrap().features(images([48, 64]).into(), want, &mut Silent).levels;
    let levels = features(Want::Levels);
    let grids: Vec<_> = levels.iter().map(|level| (level.prefix, level.rows_columns())).collect();
    assert_eq!(grids, [(2, [5, 7]), (2, [3, 4]), (2, [2, 2])]);
    let blocks = features(Want::Blocks(&[0, 2, 3]));
    for (level, block) in levels.iter().zip(&blocks) {
        assert_eq!(level.tokens.to_data(), block.tokens.to_data());
        assert_eq!(level.grid, block.grid);
    }
    assert_eq!(levels[2].clone().map().dims(), [2, 256, 2, 2]);
    // The class tokens alone reach the head.
    let head = features(Want::Head).remove(0);
    assert_eq!(head.tokens.dims(), [2, 2, 256]);
    let Model::Pit(pit) = &model else { panic!("a PiT") };
    let mut x = pit.first(images([48, 64]).into(), &mut Silent);
    for index in 0..pit.links() {
        x = pit.link(index, x, &mut Silent);
    }
    let last = pit.last(x, &mut Silent).last();
    assert_eq!((last.tokens.to_data(), last.grid), (head.tokens.to_data(), head.grid));
}

#[test]
fn values_have_timms_names() {
    let model = Model::from(distilled().init(&Device::flex(), 5).unwrap());
    let mut watch = Recorder::default();
    let classifier = model.as_classifier().unwrap();
    let features = classifier.features(images([48, 64]).into(), Want::Last, &mut watch);
    classifier.head(features, &mut watch);
    let names: Vec<&str> = watch.seen.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "patch_embed",
        "pos_drop",
        "transformers.0.blocks.0",
        "transformers.1.pool",
        "transformers.1.blocks.1.attn",
        "norm",
        "head",
        "head_dist",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
}

// ---- Files

fn card(config: &PitConfig, architecture: &str) -> ModelCard {
    let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
    card.architecture = Some(architecture.into());
    card
}

#[test]
fn timms_folder_and_back() {
    for (config, architecture) in [(tiny(), "pit_ti_224"), (distilled(), "pit_s_distilled_224")] {
        let (folder, map) = (TempDir::new().unwrap(), tensors(&config));
        let base = ModelConfig::named(architecture).unwrap();
        let card = card(&config, architecture);
        write_timm(folder.path(), &map, &card, &base, &WriteOptions::default()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(written["model_args"]["img_size"], json!([48, 64]));
        assert!(
            written["model_args"].get("answer").is_none() && written["model_args"].get("family").is_none()
        );
        let found = loaded(folder.path(), Precision::F32, [48, 64]);
        assert_eq!(found.model.config(), config.clone().into());
        assert_eq!(collect(&found.model).tensors, map.tensors);
        // One head's answer is no option of timm's.
        let other = PitConfig { answer: DeitAnswer::Dist, ..config.clone() };
        let overwrite = WriteOptions { overwrite: true, ..WriteOptions::default() };
        let again = write_timm(folder.path(), &map, &self::card(&other, architecture), &base, &overwrite);
        assert_eq!(again.is_err(), config.distilled);
    }
}

#[test]
fn files_are_read_in_every_precision() {
    let map = tensors(&distilled());
    let (_kept, path) = file(&map);
    let exact = loaded(&path, Precision::F32, [48, 64]);
    assert!(exact.notes.iter().any(|note| note.contains("head")), "{:?}", exact.notes);
    let answer = logits(&exact.model, [48, 64]);
    for (precision, most) in [(Precision::Bf16, 0.05), (Precision::Int8, 0.2)] {
        let rounded = loaded(&path, precision, [48, 64]);
        assert_eq!(rounded.model.precision(), precision);
        assert_eq!(rounded.model.linears().len(), 16);
        let far = distance(&answer, &logits(&rounded.model, [48, 64]));
        let largest = distance(&answer, &[0.0; 14]);
        assert!(far > 0.0 && far < most * largest, "{precision:?}: {far} of {largest}");
    }
    assert_eq!(logits(&exact.model.clone().pack(), [48, 64]), answer);
}

/// The authors keep pooling beside the stages.
#[test]
fn the_authors_names_are_read() {
    let config = distilled();
    let mut theirs = TensorMap::new("theirs");
    for (key, tensor) in tensors(&config).tensors {
        let name = match key.strip_prefix("transformers.").and_then(|rest| rest.split_once(".pool.")) {
            Some((stage, part)) => format!("module.pools.{}.{part}", stage.parse::<usize>().unwrap() - 1),
            None => format!("module.{key}"),
        };
        theirs.tensors.insert(name, tensor);
    }
    let (_kept, path) = file(&theirs);
    assert!(read(&path).unwrap().names().any(|name| name.ends_with("pools.1.fc.weight")));
    let found = loaded(&path, Precision::F32, [48, 64]);
    assert_eq!(found.model.config(), config.clone().into());
    assert_eq!(collect(&found.model).tensors, tensors(&config).tensors);
}

/// The configuration of every published model, and of golden cases, follows from their tensors.
#[test]
fn tensors_show_the_configuration() {
    let base = |name: &str| PitConfig::try_from(ModelConfig::named(name).unwrap()).unwrap();
    for name in ["pit_ti_224", "pit_xs_distilled_224", "pit_s_224", "pit_b_distilled_224"] {
        let config = PitConfig { depth: vec![1, 2, 1], num_classes: 3, ..base(name) };
        let mut map = TensorMap::new(name);
        for (key, shape) in vitrum::checkpoint::apply::expected_tensors(&config.build(&Device::flex())) {
            let count = shape.iter().product();
            map.tensors.insert(key, HostTensor::from_f32(shape, &vec![0.0; count]).unwrap());
        }
        let converted = to_timm(map.clone()).unwrap();
        assert_eq!(converted.card().unwrap().config, config.clone().into(), "{name}");
        // Without a head it gives features.
        map.tensors.retain(|key, _| !key.starts_with("head"));
        let headless = to_timm(map).unwrap().card().unwrap().config;
        assert_eq!(headless, PitConfig { num_classes: 0, ..config }.into(), "{name}");
    }
    let odd = PitConfig { base_dims: vec![5, 5, 5], ..tiny() };
    let error = to_timm(tensors(&odd)).unwrap().card().unwrap_err().to_string();
    assert!(error.contains("width of a head") && error.contains("state heads in a key file"), "{error}");
    // A key file says it: by the heads, or by their width.
    for told in [json!({"heads": odd.heads}), json!({"base_dims": odd.base_dims, "stride": odd.stride})] {
        let mut converted = to_timm(tensors(&odd)).unwrap();
        converted.told = told.as_object().unwrap().clone();
        let card = converted.card().unwrap();
        let expected = PitConfig { img_size: card.config.input().image().size, ..odd.clone() };
        assert_eq!(card.config, expected.into(), "{told}");
        assert!(!card.notes.iter().any(|note| note.contains("width of a head")), "{:?}", card.notes);
        let is_stride_told = told.get("stride").is_some();
        assert_eq!(card.notes.iter().any(|note| note.contains("step of the patches")), !is_stride_told);
    }
    // timm's only pooling changes nothing.
    let config = ModelConfig::from(odd);
    assert_eq!(config.with_argument("global_pool", json!("token")).unwrap(), config);
    assert!(config.with_argument("global_pool", json!("avg")).is_err());
}
