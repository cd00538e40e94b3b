//! Files without a configuration: what their tensors and their name show, and what is told of the rest.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::json;
use tempfile::TempDir;
use vitrum::checkpoint::apply::expected_tensors;
use vitrum::checkpoint::card::{CardSource, ModelCard};
use vitrum::checkpoint::load::{LoadOptions, Opened, load, open};
use vitrum::checkpoint::write::{WriteOptions, write_model, write_safetensors};
use vitrum::checkpoint::{Dtype, HostTensor, TensorMap};
use vitrum::models::{Config, ModelConfig};

/// Tensors of a model, all zeros.
fn zeros(config: &ModelConfig) -> TensorMap {
    let skeleton = config.skeleton(&Device::flex()).unwrap();
    let tensor = |shape: Vec<usize>| {
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        HostTensor::new(Dtype::F32, shape, bytes).unwrap()
    };
    let tensors = expected_tensors(&skeleton).into_iter().map(|(key, shape)| (key, tensor(shape)));
    TensorMap { tensors: tensors.collect(), ..TensorMap::new("zeros") }
}

fn stored(folder: &Path, name: &str, map: &TensorMap) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_safetensors(&path, map, &WriteOptions { dtype: None, overwrite: true }).unwrap();
    path
}

/// What a file without a configuration is taken for, with all notes in one text.
fn opened(path: &Path) -> (Opened, String) {
    let opened = open(&LoadOptions::new(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let notes = opened.notes.join("\n");
    (opened, notes)
}

/// Each has the tensors of a Vision Transformer or of an EVA without rotary positions, in sizes of no other known model.
#[test]
fn tensors_of_one_known_model_are_that_model() {
    let folder = TempDir::new().unwrap();
    for name in ["vit_small_patch16_rope_224", "vit_tiny_patch16_dinov3_qkvb"] {
        let named = ModelConfig::named(name).unwrap();
        let path = stored(folder.path(), "x.safetensors", &zeros(&named));
        let (opened, notes) = opened(&path);
        assert_eq!(opened.card.config, named, "{name}");
        assert_eq!(opened.card.architecture.as_deref(), Some(name));
        assert!(
            notes.contains(&format!("the tensors of {name}, and is taken for that model")),
            "{name}: {notes}"
        );
        // Weights of one's own may need another.
        assert_eq!(opened.card.preprocess, None, "{name}");
        assert!(notes.contains("preprocessing is not known"), "{notes}");
    }
}

/// Perception Encoders are known by their tensors alone, and compute what the models of these names compute.
#[test]
fn perception_encoders_show_what_they_are() {
    let folder = TempDir::new().unwrap();
    for name in ["vit_pe_core_tiny_patch16_384", "vit_pe_spatial_tiny_patch16_512"] {
        let named = ModelConfig::named(name).unwrap();
        let path = stored(folder.path(), "x.safetensors", &zeros(&named));
        let (opened, _) = opened(&path);
        // An MLP of the pool as wide as the blocks' may be stated or not.
        let ratio = named.fields()["attn_pool_mlp_ratio"].clone();
        assert_eq!(opened.card.config.with("attn_pool_mlp_ratio", ratio).unwrap(), named, "{name}");
    }
}

/// Windows of Swin V2, heads of T2T-ViT and rotations beside a table are in no tensor: the others that fit are named, and
/// the file's name chooses.
#[test]
fn what_the_tensors_leave_open_is_told_and_the_name_decides() {
    let folder = TempDir::new().unwrap();
    for (usual, other, assumption) in [
        ("swinv2_tiny_window8_256", "swinv2_tiny_window16_256", "assumed 8x8"),
        ("t2t_vit_14", "t2t_vit_14_resnext", "6 heads of 64 are assumed"),
        (
            "deit3_small_patch16_224",
            "vit_small_patch16_rope_ape_224",
            "epsilon and no rotary positions are assumed",
        ),
    ] {
        let named = ModelConfig::named(other).unwrap();
        let map = zeros(&named);
        let by_name = if usual.starts_with("swin") {
            format!("{other}.tag.safetensors")
        } else {
            format!("{other}/x.safetensors")
        };
        let (opened, notes) = opened(&stored(folder.path(), &by_name, &map));
        assert_eq!(opened.card.config, named, "{other}");
        assert!(notes.contains(&format!("the name and the tensors of {other}")), "{notes}");
        let (opened, notes) = self::opened(&stored(folder.path(), "x.safetensors", &map));
        assert_eq!(opened.card.architecture.as_deref(), Some(usual), "{notes}");
        assert!(notes.contains(assumption), "{notes}");
        assert!(notes.contains(&format!("{other} would compute something else")), "{notes}");
    }
}

/// A name is believed only if the tensors agree.
#[test]
fn the_name_of_another_model_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let config = ModelConfig::named("pit_ti_224").unwrap();
    let path = stored(folder.path(), "vit_small_patch16_rope_224.safetensors", &zeros(&config));
    let (opened, notes) = opened(&path);
    assert_eq!(opened.card.config, config);
    for assumed in [
        "the width of a head is not in the tensors; 32 is assumed",
        "the step of the patches",
        "8 is assumed",
    ] {
        assert!(notes.contains(assumed), "{notes}");
    }
}

/// Sizes of no known model: what is assumed is told.
#[test]
fn assumptions_about_unknown_sizes_are_told() {
    let folder = TempDir::new().unwrap();
    let rope = ModelConfig::named("vit_small_patch16_rope_224").unwrap();
    let small = [("embed_dim", json!(128)), ("num_heads", json!(2)), ("depth", json!(1))];
    let path = stored(folder.path(), "rope.safetensors", &zeros(&rope.with_all(small).unwrap()));
    let (_, notes) = opened(&path);
    assert!(notes.contains("no rotary positions are assumed"), "{notes}");
    assert!(notes.contains("rotary positions need the model's name or configuration"), "{notes}");
}

/// Heads that are no multiple of the usual width are asked for; a key file states them.
#[test]
fn heads_that_no_tensor_shows_are_asked_for() {
    let folder = TempDir::new().unwrap();
    for (name, changes, keys) in [
        (
            "vit_tiny_patch16_224",
            json!({"embed_dim": 16, "num_heads": 2, "depth": 1}),
            "[config]\nnum_heads = 2",
        ),
        (
            "beit_base_patch16_224",
            json!({"embed_dim": 16, "num_heads": 2, "depth": 1, "use_rel_pos_bias": false}),
            "[config]\nnum_heads = 2",
        ),
        (
            "eva02_tiny_patch14_224",
            json!({"embed_dim": 16, "num_heads": 2, "depth": 1}),
            "[config]\nnum_heads = 2",
        ),
        ("t2t_vit_7", json!({"embed_dim": 16, "num_heads": 2, "depth": 1}), "[config]\nnum_heads = 2"),
        (
            "pit_ti_224",
            json!({"base_dims": [4, 4, 4], "heads": [1, 2, 4], "depth": [1, 1, 1]}),
            "family = 'pit'\n[config]\nheads = [1, 2, 4]",
        ),
        (
            "twins_svt_small",
            json!({"embed_dims": [8, 8, 16, 16], "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]}),
            "family = 'twins'\n[config]\nnum_heads = [1, 1, 2, 2]",
        ),
    ] {
        let changes = changes.as_object().unwrap();
        let fields = changes.iter().map(|(field, value)| (field.as_str(), value.clone()));
        let config = ModelConfig::named(name).unwrap().with_all(fields).unwrap();
        let path = stored(folder.path(), &format!("{name}/weights.safetensors"), &zeros(&config));
        let error = open(&LoadOptions::new(&path)).unwrap_err().to_string();
        assert!(error.contains("not in the tensors") && error.contains("in a key file"), "{name}: {error}");
        let key_file = folder.path().join("keys.toml");
        std::fs::write(&key_file, keys).unwrap();
        let options = LoadOptions { keys: Some(key_file), ..LoadOptions::new(&path) };
        let found = open(&options).unwrap_or_else(|error| panic!("{name}: {error}")).card.config;
        let field = if name.starts_with("pit") { "heads" } else { "num_heads" };
        assert_eq!(found.field(field), config.field(field), "{name}");
    }
}

/// Whole numbers are no weights, even of the right shape.
#[test]
fn whole_numbers_are_refused() {
    let folder = TempDir::new().unwrap();
    let mut map = zeros(&ModelConfig::named("pit_ti_224").unwrap());
    let key = "transformers.0.blocks.0.norm1.weight";
    let wide = HostTensor::new(Dtype::I64, vec![64], vec![0; 64 * 8]).unwrap();
    map.tensors.insert(key.into(), wide);
    let path = stored(folder.path(), "weights.safetensors", &map);
    let options = LoadOptions::new(&path);
    for error in [load(&options, &Device::flex()).unwrap_err(), open(&options).unwrap_err()] {
        let text = error.to_string();
        assert!(text.contains(key) && text.contains("is of type i64, expected floating-point"), "{text}");
    }
}

/// The names by which files are recognised may be missing beside a configuration: the report says which they are.
#[test]
fn a_missing_telltale_is_named() {
    let folder = TempDir::new().unwrap();
    for (name, key) in [
        ("beit_base_patch16_224", "patch_embed.proj.weight"),
        ("t2t_vit_7", "tokens_to_token.project.weight"),
        ("twins_svt_small", "pos_block.0.proj.0.weight"),
    ] {
        let named = ModelConfig::named(name).unwrap();
        let depth =
            if name.starts_with("twins") { ("depths", json!([1, 1, 1, 1])) } else { ("depth", json!(1)) };
        let config = named.with_all([depth]).unwrap();
        let target = folder.path().join(name);
        let card = ModelCard::new(config.clone(), CardSource::Timm, "");
        let card = ModelCard { architecture: Some(name.into()), ..card };
        write_model(&target, &zeros(&config), &card, &named, &WriteOptions::default()).unwrap();
        let mut map = vitrum::checkpoint::read(&target).unwrap();
        map.tensors.remove(key).unwrap();
        let overwrite = WriteOptions { overwrite: true, ..WriteOptions::default() };
        write_safetensors(&target.join("model.safetensors"), &map, &overwrite).unwrap();
        let error = load(&LoadOptions::new(&target), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains(&format!("missing     {key}")), "{name}: {error}");
    }
}
