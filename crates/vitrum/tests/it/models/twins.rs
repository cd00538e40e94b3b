//! The files and limits of Twins. Its numbers are compared in `parity.rs`.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::{Value, json};
use tempfile::TempDir;
use vitrum::checkpoint::apply::{Excuses, apply, collect};
use vitrum::checkpoint::load::{LoadOptions, Loaded, load};
use vitrum::checkpoint::write::{WriteOptions, write_huggingface, write_safetensors, write_timm};
use vitrum::checkpoint::{HostTensor, TensorMap, read};
use vitrum::layers::observe::{Recorder, Seen};
use vitrum::layers::pool::GlobalPool;
use vitrum::models::twins::TwinsConfig;
use vitrum::models::{Config, ConfigError, Depth, Model, ModelConfig, Network, Precision, Sizes, Want};

use crate::formula;

use super::shared::{card, distance, images, logits, tensors};

/// A coarser grid in every block.
fn pcpvt() -> TwinsConfig {
    TwinsConfig {
        img_size: [67, 93],
        num_classes: 7,
        embed_dims: [8, 12, 16, 24],
        num_heads: [1, 2, 4, 3],
        mlp_ratios: [2.0, 3.0, 2.0, 1.5],
        depths: [1, 2, 3, 1],
        sr_ratios: [4, 2, 2, 1],
        ..TwinsConfig::default()
    }
}

/// Windows that do not fill the maps in every second block.
fn svt() -> TwinsConfig {
    TwinsConfig { wss: Some([3, 2, 2, 2]), depths: [1, 2, 3, 2], ..pcpvt() }
}

/// A model with the formula's weights.
fn model(config: &TwinsConfig) -> Model {
    let (_kept, path) = timm_folder(config);
    loaded(&path, Precision::F32).model
}

/// A folder as timm has it.
fn timm_folder(config: &TwinsConfig) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let base = ModelConfig::named("twins_svt_small").unwrap();
    write_timm(
        folder.path(),
        &tensors(config),
        &card(config, "twins_svt_small"),
        &base,
        &WriteOptions::default(),
    )
    .unwrap();
    let path = folder.path().to_path_buf();
    (folder, path)
}

fn loaded(path: &Path, precision: Precision) -> Loaded {
    let options = LoadOptions { precision, ..LoadOptions::new(path.to_path_buf()) };
    load(&options, &Device::flex()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn walk_counts_the_modules_parameters() {
    for config in [
        pcpvt(),
        svt(),
        TwinsConfig { in_chans: 1, num_classes: 0, ..svt() },
        TwinsConfig { wss: Some([1, 7, 1, 7]), ..svt() },
        TwinsConfig { sr_ratios: [1; 4], patch_size: 3, ..pcpvt() },
        TwinsConfig { mlp_ratios: [2.6, 1.4, 0.7, 2.05], ..pcpvt() },
    ] {
        let held = config.init(&Device::flex(), 0).unwrap().num_params() as u64;
        assert_eq!(config.walk().unwrap().params, held, "{config:?}");
    }
}

/// Windows take the places that they fill up, keys are those of the coarser grid.
#[test]
fn the_walk_counts_what_windows_and_grids_multiply() {
    let walk = svt().walk().unwrap();
    let macs = |name: &str| {
        let step = walk.steps.iter().find(|step| step.name == name);
        step.unwrap_or_else(|| panic!("{name}")).macs
    };
    // 67x93 is a map of 16x23; windows of 3 make it 18x24.
    assert_eq!(macs("blocks.0.0.attn.qkv"), 18 * 24 * 8 * 24);
    assert_eq!(macs("blocks.0.0.attn.scores"), 18 * 24 * 9 * 8);
    assert_eq!(macs("blocks.0.0.attn.proj"), 16 * 23 * 8 * 8);
    // The next one is 8x11, in its second block with keys of 4x5.
    assert_eq!(macs("blocks.1.1.attn.scores"), 8 * 11 * 4 * 5 * 12);
    assert_eq!(macs("blocks.1.1.attn.sr"), 4 * 5 * 4 * 12 * 12);
    assert_eq!(macs("blocks.1.1.attn.kv"), 4 * 5 * 12 * 24);
    let repeats = |name: &str| walk.steps.iter().find(|step| step.name == name).map(|step| step.repeat);
    assert_eq!(repeats("blocks.2.2N.mlp.fc1"), Some(2));
    assert_eq!(repeats("blocks.2.1.mlp.fc1"), Some(1));
    assert_eq!(repeats("blocks.0.1.mlp.fc1"), None);
}

#[test]
fn a_wrong_field_is_named() {
    for (config, field) in [
        (TwinsConfig { img_size: [31, 64], ..pcpvt() }, "img_size"),
        (TwinsConfig { patch_size: 0, ..pcpvt() }, "patch_size"),
        (TwinsConfig { in_chans: 0, ..pcpvt() }, "in_chans"),
        (TwinsConfig { depths: [1, 0, 1, 1], ..pcpvt() }, "depths"),
        (TwinsConfig { embed_dims: [8, 12, 16, usize::MAX], ..pcpvt() }, "embed_dims"),
        (TwinsConfig { num_heads: [3, 2, 4, 3], ..pcpvt() }, "embed_dims"),
        (TwinsConfig { num_heads: [0, 2, 4, 3], ..pcpvt() }, "num_heads"),
        (TwinsConfig { mlp_ratios: [0.0, 1.0, 1.0, 1.0], ..pcpvt() }, "mlp_ratios"),
        (TwinsConfig { mlp_ratios: [f64::NAN, 1.0, 1.0, 1.0], ..pcpvt() }, "mlp_ratios"),
        (TwinsConfig { mlp_ratios: [0.1, 1.0, 1.0, 1.0], ..pcpvt() }, "mlp_ratios"),
        (TwinsConfig { sr_ratios: [0, 1, 1, 1], ..pcpvt() }, "sr_ratios"),
        (TwinsConfig { wss: Some([7, 0, 7, 7]), ..pcpvt() }, "wss"),
        (TwinsConfig { wss: Some([7, 257, 7, 7]), ..pcpvt() }, "wss"),
        (TwinsConfig { norm_eps: 0.0, ..pcpvt() }, "norm_eps"),
        (TwinsConfig { attn_drop_rate: 1.0, ..pcpvt() }, "attn_drop_rate"),
    ] {
        let error = config.walk().unwrap_err();
        assert!(
            matches!(error, ConfigError::Field { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
    let three = serde_json::from_str::<ModelConfig>(r#"{"family": "twins", "depths": [1, 1, 1]}"#);
    assert!(three.unwrap_err().to_string().contains("length 3"));
}

/// The error says the least side, and an image of that side is answered.
#[test]
fn the_least_side_of_an_image_is_said() {
    for (config, least) in [
        (TwinsConfig::default(), 32),
        (pcpvt(), 32),
        (TwinsConfig { sr_ratios: [10, 2, 2, 1], ..pcpvt() }, 40),
        (TwinsConfig { sr_ratios: [1, 1, 1, 3], ..pcpvt() }, 96),
        // The first stage has windows alone.
        (TwinsConfig { sr_ratios: [10, 2, 2, 1], ..svt() }, 32),
        (TwinsConfig { patch_size: 3, ..svt() }, 24),
    ] {
        let [small, next] = [[least; 2], [2 * least, least - 1]].map(|img_size| TwinsConfig {
            img_size,
            num_classes: 7,
            ..config.clone()
        });
        let reason = format!("is {}x{}, expected at least {least}x{least}", 2 * least, least - 1);
        assert_eq!(next.validate(), Err(ConfigError::Field { field: "img_size", reason }));
        assert_eq!(small.validate(), Ok(()), "{small:?}");
        if small.embed_dims[0] == 8 {
            let model = Model::from(small.init(&Device::flex(), 0).unwrap());
            assert_eq!(model.logits(images([least; 2])).unwrap().dims(), [2, 7]);
        }
    }
}

/// No tensor depends on the size of the images.
#[test]
fn images_of_any_size_are_answered() {
    for config in [pcpvt(), svt()] {
        let own = model(&config);
        for size in [[32, 32], [75, 41], [33, 128], [100, 100]] {
            let answer = logits(&own, size);
            assert!(answer.len() == 14 && answer.iter().all(|value| value.is_finite()), "{size:?}");
        }
        let error = own.logits_at(images([31, 64]), Sizes::Any).unwrap_err();
        assert!(error.to_string().contains("expected at least 32x32"), "{error}");
    }
}

/// Images of another size than the configuration's have timm's answers.
#[test]
fn answers_do_not_depend_on_the_configured_size() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/parity");
    for name in ["twins_image_odd", "twins_svt_image_odd"] {
        let json: Value =
            serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        let config: ModelConfig = serde_json::from_value(json["config"].clone()).unwrap();
        let shape: [usize; 4] = serde_json::from_value(json["input"].clone()).unwrap();
        let config = config.with("img_size", json!([160, 128])).unwrap();
        assert_ne!(config.input().image().size, shape[2..]);
        let mut map = TensorMap::new(name);
        for (key, shape) in
            serde_json::from_value::<Vec<(String, Vec<usize>)>>(json["tensors"].clone()).unwrap()
        {
            let values = formula::weight(&key, &shape);
            map.tensors.insert(key, HostTensor::from_f32(shape, &values).unwrap());
        }
        let skeleton = config.skeleton(&Device::flex()).unwrap();
        let (model, _) = apply(skeleton, map, DType::F64, &Excuses::default()).unwrap();
        let images = TensorData::new(formula::images(shape, 1.0), shape);
        let images = Tensor::<4>::from_data(images, (&Device::flex(), DType::F64));
        let found = model.logits_at(images, Sizes::Any).unwrap().into_data();
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let theirs = golden.tensor("logits").unwrap();
        let theirs = theirs.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()));
        let apart = crate::compare::largest(found.iter::<f64>().zip(theirs).map(|(a, b)| (a - b).abs()));
        assert!(apart < 1e-9, "{name}: {apart:e}");
    }
}

/// Every stage is a level, and attention shows both kinds of weights.
#[test]
fn levels_and_weights_have_their_shapes() {
    let model = model(&svt());
    let backbone = model.as_backbone().unwrap();
    let mut watch = Recorder { with_attention: true, ..Recorder::default() };
    let levels = backbone.features(images([67, 93]).into(), Want::Levels, &mut watch).levels;
    let shapes: Vec<_> = levels.iter().map(|level| (level.tokens.dims(), level.rows_columns())).collect();
    assert_eq!(
        shapes,
        [([2, 368, 8], [16, 23]), ([2, 88, 12], [8, 11]), ([2, 20, 16], [4, 5]), ([2, 4, 24], [2, 2])]
    );
    let weights = |name: &str| {
        watch.seen.iter().find_map(|(seen, value)| match value {
            Seen::Attention(weights) if seen == name => Some(weights.clone()),
            _ => None,
        })
    };
    // Six times eight windows of 3x3; keys of 4x5.
    for (name, dims) in
        [("blocks.0.0.attn.weights", [96, 1, 9, 9]), ("blocks.1.1.attn.weights", [2, 2, 88, 20])]
    {
        let weights = weights(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(weights.dims(), dims, "{name}");
        let sums: Vec<f32> = weights.sum_dim(3).into_data().try_to_vec().unwrap();
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{name}");
    }
}

#[test]
fn patches_and_positions_are_as_deep_as_the_first_block() {
    let model = svt().build(&Device::flex());
    for (key, depth) in [
        ("patch_embeds.0.proj.weight", Depth::Stem),
        ("blocks.0.0.attn.qkv.weight", Depth::Layer(0)),
        ("pos_block.0.proj.0.weight", Depth::Layer(0)),
        ("patch_embeds.1.norm.bias", Depth::Layer(1)),
        ("blocks.1.1.attn.sr.weight", Depth::Layer(2)),
        ("pos_block.2.proj.0.bias", Depth::Layer(3)),
        ("blocks.3.1.mlp.fc2.weight", Depth::Layer(7)),
        ("norm.weight", Depth::Close),
        ("head.weight", Depth::Head),
    ] {
        assert_eq!(model.depth(key), depth, "{key}");
    }
    assert!(!model.decays("pos_block.0.proj.0.weight"));
    assert!(model.decays("patch_embeds.0.proj.weight"));
}

#[test]
fn first_values_are_timms() {
    let wide = TwinsConfig { embed_dims: [64, 64, 64, 64], num_heads: [2; 4], ..svt() };
    let map = collect(&wide.init(&Device::flex(), 3).unwrap());
    let deviation = |key: &str| {
        let values = map.get(key).unwrap().to_f64();
        (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
    };
    for (key, expected) in [
        ("patch_embeds.0.proj.weight", (2.0f64 / (16.0 * 64.0)).sqrt()),
        ("patch_embeds.1.proj.weight", (2.0f64 / (4.0 * 64.0)).sqrt()),
        ("blocks.1.1.attn.sr.weight", (2.0f64 / (4.0 * 64.0)).sqrt()),
        ("pos_block.0.proj.0.weight", (2.0f64 / 9.0).sqrt()),
        ("blocks.0.0.attn.qkv.weight", 0.02),
        ("blocks.1.1.attn.kv.weight", 0.02),
        ("head.weight", 0.02),
    ] {
        assert!((deviation(key) / expected - 1.0).abs() < 0.1, "{key}: {}", deviation(key));
    }
    for key in
        ["patch_embeds.0.proj.bias", "blocks.0.0.attn.qkv.bias", "pos_block.0.proj.0.bias", "norm.bias"]
    {
        assert_eq!(deviation(key), 0.0, "{key}");
    }
    assert_eq!(deviation("blocks.1.1.attn.norm.weight"), 1.0);
}

// ---- Files

#[test]
fn timm_folder_and_back() {
    for config in [pcpvt(), svt(), TwinsConfig { num_classes: 0, drop_path_rate: 0.25, ..svt() }] {
        let (_kept, path) = timm_folder(&config);
        let json: Value = serde_json::from_slice(&std::fs::read(path.join("config.json")).unwrap()).unwrap();
        assert_eq!(json["model_args"]["wss"], json!(config.wss));
        assert_eq!(json["model_args"].get("img_size"), None);
        assert_eq!(json["pretrained_cfg"]["first_conv"], "patch_embeds.0.proj");
        let written = read(path.join("model.safetensors")).unwrap();
        assert_eq!(written.get("pos_block.0.proj.0.weight").unwrap().shape(), [8, 1, 3, 3]);
        let found = loaded(&path, Precision::F32);
        assert_eq!(found.model.config(), config.clone().into());
        let held = collect(&found.model);
        for (key, tensor) in tensors(&config).tensors {
            assert_eq!(held.get(&key).unwrap().bytes(), tensor.bytes(), "{key}");
        }
    }
    let folder = TempDir::new().unwrap();
    let base = TwinsConfig::default().into();
    let write = |config: &TwinsConfig| {
        write_timm(
            folder.path(),
            &tensors(config),
            &card(config, "twins_svt_small"),
            &base,
            &WriteOptions::default(),
        )
    };
    let error = write(&TwinsConfig { norm_eps: 1e-5, ..svt() }).unwrap_err();
    assert!(error.to_string().contains("norm_eps"), "{error}");
    let error = write_huggingface(
        folder.path(),
        &tensors(&svt()),
        &card(&svt(), "twins_svt_small"),
        &WriteOptions::default(),
    );
    assert!(error.unwrap_err().to_string().contains("transformers does not have Twins"));
}

/// Lists of another length are refused with the name of the field, from a card too.
#[test]
fn lists_have_four_stages() {
    let error = ModelConfig::from(pcpvt()).with("depths", json!([])).unwrap_err().to_string();
    assert!(error.starts_with("depths: invalid length 0") && error.contains("length 4"), "{error}");
    let card = json!({"family": "twins", "embed_dims": [64, 128, 320, 512], "depths": []});
    let error = serde_json::from_value::<ModelConfig>(card).unwrap_err().to_string();
    assert!(error.starts_with("depths: invalid length 0"), "{error}");
}

/// timm's own arguments that are no fields.
#[test]
fn arguments_of_timm_are_read() {
    let (_kept, path) = timm_folder(&svt());
    let with = |key: &str, value: Value| {
        let file = path.join("config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        json["model_args"][key] = value;
        std::fs::write(&file, json.to_string()).unwrap();
        load(&LoadOptions::new(path.clone()), &Device::flex())
    };
    assert_eq!(with("global_pool", json!("avg")).unwrap().model.config(), svt().into());
    let error = with("global_pool", json!("")).unwrap_err().to_string();
    assert!(error.contains("only avg"), "{error}");
    // The option says the same.
    with("global_pool", json!("avg")).unwrap();
    let pooled = |pool| LoadOptions { global_pool: Some(pool), ..LoadOptions::new(path.clone()) };
    let found = load(&pooled(GlobalPool::Avg), &Device::flex()).unwrap();
    assert_eq!(found.model.config(), svt().into());
    let error = load(&pooled(GlobalPool::Max), &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("only avg"), "{error}");
}

/// Tensors alone show everything but heads, windows and epsilon. Published sizes have heads of 64, with windows of 32.
#[test]
fn tensors_show_the_configuration() {
    let wide = TwinsConfig {
        embed_dims: [64, 64, 128, 192],
        num_heads: [1, 1, 2, 3],
        img_size: [224, 224],
        patch_size: 2,
        in_chans: 1,
        ..pcpvt()
    };
    let windows = TwinsConfig {
        num_heads: [2, 2, 4, 6],
        depths: [2, 2, 3, 2],
        wss: Some([7; 4]),
        num_classes: 0,
        ..wide.clone()
    };
    for (config, note) in [(wide, "heads of 64 are assumed"), (windows, "a side of 7 is assumed")] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        write_safetensors(&path, &tensors(&config), &WriteOptions::default()).unwrap();
        let found = loaded(&path, Precision::F32);
        assert_eq!(found.model.config(), config.into());
        assert!(found.notes.iter().any(|found| found.contains(note)), "{:?}", found.notes);
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &tensors(&pcpvt()), &WriteOptions::default()).unwrap();
    let error = load(&LoadOptions::new(path.clone()), &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("a width of 8 is no multiple of 64"), "{error}");
    assert!(error.contains("state num_heads in a key file"), "{error}");
    // A key file says it.
    let keys = folder.path().join("keys.toml");
    std::fs::write(&keys, "family = \"twins\"\n[config]\nnum_heads = [1, 2, 4, 3]\nimg_size = [67, 93]\n")
        .unwrap();
    let options = LoadOptions { keys: Some(keys.clone()), ..LoadOptions::new(path.clone()) };
    let found = load(&options, &Device::flex()).unwrap();
    assert_eq!(found.model.config(), pcpvt().into());
    assert!(!found.notes.iter().any(|note| note.contains("heads")), "{:?}", found.notes);
    // What does not fit is refused with the name of the file.
    std::fs::write(&keys, "family = \"twins\"\n[config]\nnum_heads = [1, 5, 4, 3]\n").unwrap();
    let error = load(&options, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("num_heads"), "{error}");
    // A name and its options say what tensors do not.
    let options = LoadOptions { checkpoint: Some(path), ..LoadOptions::new("twins_pcpvt_small") };
    let error = load(&options, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("patch_embeds"), "{error}");
}

/// All linear layers of the blocks are rounded; queries apart from keys and values too.
#[test]
fn other_precisions_answer_nearly_the_same() {
    for (config, layers) in [(pcpvt(), 7 * 5), (svt(), 5 * 4 + 3 * 5)] {
        let (_kept, path) = timm_folder(&config);
        let exact = loaded(&path, Precision::F32);
        let answer = logits(&exact.model, [67, 93]);
        let largest = answer.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (precision, most) in [(Precision::Bf16, 0.05), (Precision::Int8, 0.2)] {
            let rounded = loaded(&path, precision);
            assert_eq!(rounded.model.precision(), precision);
            assert_eq!(rounded.model.linears().len(), layers);
            let far = distance(&answer, &logits(&rounded.model, [67, 93]));
            assert!(far > 0.0 && far < most * largest, "{precision:?}: {far} of {largest}");
        }
    }
}
