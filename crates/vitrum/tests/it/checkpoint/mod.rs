//! Checkpoints of every dialect, read and written.
//!
//! `fixtures/golden/checkpoints/` was saved by timm, transformers, torchvision and NumPy
//! (`fixtures/export_checkpoints.py`); all its weights follow [`formula`] of their timm names.

mod hostile;
mod hub;
mod key_file;
mod known;
mod problem;
pub mod quantize;
mod weight_files;
mod weights;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::card::{CardSource, ModelCard, infer_config};
use vitrum::checkpoint::dialect::{Converted, Dialect, to_huggingface, to_timm};
use vitrum::checkpoint::diff::{compare, diff};
use vitrum::checkpoint::inspect::{file_sha256, inspect, verify};
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::checkpoint::resample::{resize_patch_embed, resize_pos_embed};
use vitrum::checkpoint::write::{WriteOptions, write_huggingface, write_safetensors, write_timm};
use vitrum::checkpoint::{Dtype, HostTensor, LoadError, TensorMap, convert, read};
use vitrum::models::regnet::RegNetConfig;
use vitrum::models::resnet::ResNetConfig;
use vitrum::models::vit::{Activation, GlobalPool, PosEmbed, PosResize, VitConfig};
use vitrum::models::{Config, ModelConfig};

const WIDTH: usize = 8;
const DEPTH: usize = 2;
const HIDDEN: usize = 16;

/// A file of the golden folder.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/checkpoints").join(name)
}

/// `fixtures/export_checkpoints.py`, `values`: multiples of 1/64 in [-1, 1).
pub fn formula(name: &str, count: usize) -> Vec<f32> {
    let seed = u64::from(crc32(name.as_bytes()));
    let value = |i: u64| (((seed + i * 2_654_435_761) % (1 << 32)) >> 25) as f32;
    (0..count as u64).map(|i| (value(i) - 64.0) / 64.0).collect()
}

fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| (c >> 1) ^ if c & 1 == 1 { 0xEDB8_8320 } else { 0 })
    }) ^ u32::MAX
}

/// Names and shapes of a tiny classifier under timm's names.
pub fn timm_shapes() -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::from([
        ("cls_token".to_string(), vec![1, 1, WIDTH]),
        ("pos_embed".to_string(), vec![1, 5, WIDTH]),
        ("patch_embed.proj.weight".to_string(), vec![WIDTH, 3, 4, 4]),
    ]);
    let mut linear = |name: &str, shape: &[usize]| {
        shapes.insert(format!("{name}.weight"), shape.to_vec());
        shapes.insert(format!("{name}.bias"), vec![shape[0]]);
    };
    for i in 0..DEPTH {
        linear(&format!("blocks.{i}.norm1"), &[WIDTH]);
        linear(&format!("blocks.{i}.attn.qkv"), &[3 * WIDTH, WIDTH]);
        linear(&format!("blocks.{i}.attn.proj"), &[WIDTH, WIDTH]);
        linear(&format!("blocks.{i}.norm2"), &[WIDTH]);
        linear(&format!("blocks.{i}.mlp.fc1"), &[HIDDEN, WIDTH]);
        linear(&format!("blocks.{i}.mlp.fc2"), &[WIDTH, HIDDEN]);
    }
    linear("norm", &[WIDTH]);
    linear("head", &[3, WIDTH]);
    shapes.insert("patch_embed.proj.bias".to_string(), vec![WIDTH]);
    shapes
}

/// A map with [`formula`]'s values.
pub fn map_of(shapes: &BTreeMap<String, Vec<usize>>) -> TensorMap {
    let mut map = TensorMap::new("in memory");
    for (name, shape) in shapes {
        let values = formula(name, shape.iter().product());
        map.tensors.insert(name.clone(), HostTensor::from_f32(shape.clone(), &values).unwrap());
    }
    map
}

fn convert_golden(name: &str) -> Converted {
    to_timm(read(golden(name)).unwrap()).unwrap()
}

/// Asserts that a map holds exactly these names, each with the formula's values.
fn assert_formula(map: &TensorMap, shapes: &BTreeMap<String, Vec<usize>>) {
    let (found, expected): (Vec<&str>, Vec<&str>) =
        (map.names().collect(), shapes.keys().map(String::as_str).collect());
    assert_eq!(found, expected);
    for (name, tensor) in &map.tensors {
        assert_eq!(tensor.shape(), shapes[name], "{name}");
        assert_eq!(tensor.to_f32(), formula(name, tensor.num_elements()), "{name}");
    }
}

/// The tiny model's configuration, whatever name is asked for.
fn tiny(_: &str) -> Result<VitConfig, String> {
    Ok(VitConfig {
        img_size: [8, 8],
        patch_size: [4, 4],
        embed_dim: WIDTH,
        depth: DEPTH,
        num_heads: 2,
        mlp_ratio: 2.0,
        num_classes: 3,
        ..VitConfig::default()
    })
}

fn tiny_any(name: &str) -> Result<ModelConfig, String> {
    tiny(name).map(ModelConfig::Vit)
}

fn vit(config: &ModelConfig) -> VitConfig {
    config.clone().try_into().expect("a plain Vision Transformer")
}

// ---- Reading files that libraries wrote

#[test]
fn timm_folder_gives_tensors_and_card() {
    let converted = convert_golden("timm");
    assert_eq!(converted.dialect, Dialect::Timm);
    assert_formula(&converted.map, &timm_shapes());
    let tiny_of_timm = |name: &str| {
        assert_eq!(name, "vit_tiny_patch16_224");
        Ok(VitConfig { embed_dim: 192, num_heads: 3, ..VitConfig::default() }.into())
    };
    let card = ModelCard::find(&golden("timm"), &tiny_of_timm).unwrap().unwrap();
    // Everything but the architecture's defaults stands in `model_args`.
    assert_eq!(card.config, ModelConfig::Vit(tiny("").unwrap()));
    assert_eq!(card.source, CardSource::Timm);
    assert_eq!(card.tag.as_deref(), Some("augreg_in21k_ft_in1k"));
    assert_eq!(card.license.as_deref(), Some("apache-2.0"));
    assert_eq!(card.labels.as_deref(), Some(&["cat", "dog", "newt"].map(String::from)[..]));
    assert_eq!(card.label_descriptions.unwrap()["newt"], "a newt");
    let preprocess = card.preprocess.unwrap();
    assert_eq!((preprocess.input_size, preprocess.crop_pct), ([3, 8, 8], 0.9));
    assert_eq!((preprocess.interpolation.name(), preprocess.crop_mode.name()), ("bicubic", "center"));
    assert_eq!((preprocess.mean, preprocess.std), (vec![0.5; 3], vec![0.5; 3]));
}

#[test]
fn training_checkpoint_gives_averaged_weights_and_names_the_rest() {
    let converted = convert_golden("timm_train.pth.tar");
    assert_formula(&converted.map, &timm_shapes());
    let dropped: Vec<&str> = converted.map.dropped.iter().map(|(name, _)| name.as_str()).collect();
    assert!(dropped.contains(&"state_dict.module.cls_token"), "{dropped:?}");
    assert!(dropped.iter().any(|name| name.starts_with("optimizer.")), "{dropped:?}");
}

#[test]
fn legacy_container_with_bfloat16_reads_exactly() {
    let converted = convert_golden("deit_legacy.pth");
    assert_eq!(converted.map.get("head.weight").unwrap().dtype(), Dtype::BF16);
    assert_formula(&converted.map, &timm_shapes());
}

fn without_head() -> BTreeMap<String, Vec<usize>> {
    timm_shapes().into_iter().filter(|(name, _)| !name.starts_with("head.")).collect()
}

#[test]
fn mae_pretraining_leaves_the_decoder_out_by_name() {
    let converted = convert_golden("mae_pretrain.pth");
    assert_formula(&converted.map, &without_head());
    let dropped: Vec<&str> = converted.map.dropped.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(dropped, ["decoder_blocks.0.norm1.weight", "decoder_embed.weight", "mask_token"]);
}

#[test]
fn dino_gives_the_teachers_backbone() {
    let converted = convert_golden("dino_full.pth");
    assert_formula(&converted.map, &without_head());
    assert!(converted.map.dropped.iter().any(|(name, _)| name == "head.mlp.0.weight"));
    assert!(converted.map.dropped.iter().any(|(name, _)| name == "student.module.backbone.cls_token"));
}

#[test]
fn hugging_face_names_of_both_generations_and_shards() {
    for file in ["hf_vit", "hf5_memory.bin", "hf_sharded"] {
        let converted = convert_golden(file);
        assert_eq!(converted.dialect, Dialect::HuggingFace, "{file}");
        assert_formula(&converted.map, &timm_shapes());
        assert!(converted.map.dropped.is_empty(), "{file}");
    }
    // One shard alone is readable and has no way to be a whole model.
    let shard = read(golden("hf_sharded/model-00003-of-00003.safetensors")).unwrap();
    assert!(shard.len() < timm_shapes().len());
}

#[test]
fn hugging_face_card() {
    let card = ModelCard::find(&golden("hf_vit"), &tiny_any).unwrap().unwrap();
    let expected = VitConfig { norm_eps: 1e-12, pos_resize: PosResize::Bicubic, ..tiny("").unwrap() };
    assert_eq!(card.config, ModelConfig::Vit(expected));
    assert_eq!(card.architecture.as_deref(), Some("ViTForImageClassification"));
    assert_eq!(card.labels.as_deref(), Some(&["cat", "dog", "newt"].map(String::from)[..]));
    let preprocess = card.preprocess.unwrap();
    assert_eq!((preprocess.interpolation.name(), preprocess.crop_mode.name()), ("bilinear", "squash"));
    assert_eq!((preprocess.input_size, preprocess.crop_pct), ([3, 8, 8], 1.0));
}

#[test]
fn hugging_face_base_model_has_a_pooler_and_no_classes() {
    let mut shapes = without_head();
    shapes.insert("pre_logits.fc.weight".into(), vec![WIDTH, WIDTH]);
    shapes.insert("pre_logits.fc.bias".into(), vec![WIDTH]);
    assert_formula(&convert_golden("hf_vit_model").map, &shapes);
    let card = ModelCard::find(&golden("hf_vit_model"), &tiny_any).unwrap().unwrap();
    assert_eq!((card.num_classes(), vit(&card.config).representation_size), (0, Some(WIDTH)));
    assert!(card.preprocess.is_none(), "never guessed");
    assert!(card.notes.iter().any(|note| note.contains("preprocessor_config.json")), "{:?}", card.notes);
}

#[test]
fn hugging_face_deit_has_two_heads() {
    let mut shapes = timm_shapes();
    shapes.insert("pos_embed".into(), vec![1, 6, WIDTH]);
    shapes.insert("dist_token".into(), vec![1, 1, WIDTH]);
    shapes.insert("head_dist.weight".into(), vec![3, WIDTH]);
    shapes.insert("head_dist.bias".into(), vec![3]);
    assert_formula(&convert_golden("hf_deit").map, &shapes);
    let card = ModelCard::find(&golden("hf_deit"), &tiny_any).unwrap().unwrap();
    let preprocess = card.preprocess.unwrap();
    // Both sides to 9, the middle 8.
    assert_eq!((preprocess.input_size, preprocess.crop_mode.name()), ([3, 8, 8], "squash"));
    assert_eq!((8.0 / preprocess.crop_pct).floor(), 9.0);
    assert!(card.labels.is_none(), "LABEL_0 is no label");
}

#[test]
fn torchvision_old_and_new() {
    let mut shapes = timm_shapes();
    shapes.insert("pre_logits.fc.weight".into(), vec![6, WIDTH]);
    shapes.insert("pre_logits.fc.bias".into(), vec![6]);
    shapes.insert("head.weight".into(), vec![3, 6]);
    for file in ["torchvision.pth", "torchvision_0_12.pth"] {
        let converted = convert_golden(file);
        assert_eq!(converted.dialect, Dialect::Torchvision);
        assert_formula(&converted.map, &shapes);
    }
}

#[test]
fn google_files_show_heads_and_mean_tanh() {
    let plain = convert_golden("google.npz");
    assert_eq!((plain.dialect, plain.num_heads), (Dialect::Google, Some(2)));
    assert_formula(&plain.map, &timm_shapes());
    let card = plain.card().unwrap();
    let expected = VitConfig {
        act_layer: Activation::GeluTanh,
        pos_resize: PosResize::BilinearAligned,
        ..tiny("").unwrap()
    };
    assert_eq!(card.config, ModelConfig::Vit(expected));
    assert!(card.preprocess.is_none() && card.notes.iter().any(|n| n.contains("preprocessing is not known")));

    let mut shapes = timm_shapes();
    shapes.insert("pre_logits.fc.weight".into(), vec![6, WIDTH]);
    shapes.insert("pre_logits.fc.bias".into(), vec![6]);
    shapes.insert("head.weight".into(), vec![3, 6]);
    let in21k = convert_golden("google_in21k.npz"); // compressed, Fortran order, `opt/target/`
    assert_formula(&in21k.map, &shapes);
    assert_eq!(vit(&in21k.card().unwrap().config).representation_size, Some(6));
}

#[test]
fn big_vision_stacked_blocks_and_attention_pooling() {
    let mut shapes = timm_shapes();
    shapes.remove("cls_token");
    shapes.insert("pos_embed".into(), vec![1, 4, WIDTH]);
    let pool: [(&str, &[usize]); 13] = [
        ("latent", &[1, 1, 8]),
        ("q.weight", &[8, 8]),
        ("q.bias", &[8]),
        ("kv.weight", &[16, 8]),
        ("kv.bias", &[16]),
        ("proj.weight", &[8, 8]),
        ("proj.bias", &[8]),
        ("norm.weight", &[8]),
        ("norm.bias", &[8]),
        ("mlp.fc1.weight", &[16, 8]),
        ("mlp.fc1.bias", &[16]),
        ("mlp.fc2.weight", &[8, 16]),
        ("mlp.fc2.bias", &[8]),
    ];
    shapes.extend(pool.map(|(name, shape)| (format!("attn_pool.{name}"), shape.to_vec())));
    let converted = convert_golden("big_vision.npz");
    assert_formula(&converted.map, &shapes);
    let dropped: Vec<&str> = converted.map.dropped.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(dropped, ["params/t", "params/txt/head/bias"]);
    let config = vit(&converted.card().unwrap().config);
    assert_eq!((config.global_pool, config.class_token, config.num_heads), (GlobalPool::Map, false, 2));
}

#[test]
fn real_vit_tiny() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/vit_tiny_patch16_224");
    if !folder.is_dir() {
        eprintln!("skipped: no {} here", folder.display());
        return;
    }
    let map = read(&folder).unwrap();
    assert_eq!((map.len(), map.num_elements()), (152, 5_717_416));
    let resolve = |_: &str| Ok(VitConfig { embed_dim: 192, num_heads: 3, ..VitConfig::default() }.into());
    let card = ModelCard::find(&folder, &resolve).unwrap().unwrap();
    card.check_size(map.num_elements()).unwrap();
    let inferred = infer_config(&to_timm(map).unwrap().map, None).unwrap();
    assert_eq!(ModelConfig::Vit(inferred.config), card.config);
    assert!(inferred.notes.iter().any(|note| note.contains("heads")));
}

// ---- Dialects from formulas

#[test]
fn names_of_clip_and_openclip() {
    let shapes = timm_shapes();
    let mut clip = TensorMap::new("clip");
    for (name, tensor) in map_of(&shapes).tensors {
        let swaps = [
            ("patch_embed.proj.", "conv1."),
            ("blocks.", "transformer.resblocks."),
            ("attn.qkv.", "attn.in_proj_"),
            ("attn.proj.", "attn.out_proj."),
            ("norm1.", "ln_1."),
            ("norm2.", "ln_2."),
            ("mlp.fc1.", "mlp.c_fc."),
            ("mlp.fc2.", "mlp.c_proj."),
        ];
        let mut new = swaps.iter().fold(name.clone(), |n, (from, to)| n.replace(from, to));
        let mut tensor = tensor;
        match name.as_str() {
            "cls_token" => (new, tensor) = ("class_embedding".into(), tensor.reshape(&[WIDTH]).unwrap()),
            "pos_embed" => {
                (new, tensor) = ("positional_embedding".into(), tensor.reshape(&[5, WIDTH]).unwrap())
            }
            "norm.weight" | "norm.bias" => new = name.replace("norm", "ln_post"),
            "head.weight" => (new, tensor) = ("proj".into(), tensor.transpose().unwrap()),
            "head.bias" => continue,
            _ => {}
        }
        clip.tensors.insert(format!("visual.{new}"), tensor);
    }
    let ones = HostTensor::from_f32(vec![WIDTH], &[1.0; WIDTH]).unwrap();
    clip.tensors.insert("visual.ln_pre.weight".into(), ones.clone());
    clip.tensors.insert("visual.ln_pre.bias".into(), ones.clone());
    clip.tensors.insert("logit_scale".into(), ones);
    let mut converted = to_timm(clip).unwrap();
    assert_eq!((converted.dialect, converted.family), (Dialect::Clip, "vit"));
    assert_eq!(converted.map.dropped[0].0, "logit_scale");
    assert!(converted.map.tensors.remove("norm_pre.weight").is_some());
    assert!(converted.map.tensors.remove("norm_pre.bias").is_some());
    // CLIP's projection has no bias.
    assert_eq!(converted.map.tensors.remove("head.bias").unwrap().to_f32(), [0.0; 3]);
    let expected: BTreeMap<_, _> = shapes.into_iter().filter(|(name, _)| name != "head.bias").collect();
    assert_formula(&converted.map, &expected);

    let mut trunk = TensorMap::new("open_clip");
    for (name, tensor) in map_of(&expected).tensors {
        let name = if name == "head.weight" {
            "visual.head.proj.weight".into()
        } else {
            format!("visual.trunk.{name}")
        };
        trunk.tensors.insert(name, tensor);
    }
    let mut converted = to_timm(trunk).unwrap();
    converted.map.tensors.remove("head.bias").unwrap();
    assert_formula(&converted.map, &expected);
}

#[test]
fn registers_of_dinov2_take_the_class_position_with_them() {
    let mut map = map_of(&without_head());
    let registers = HostTensor::from_f32(vec![1, 4, WIDTH], &formula("reg", 4 * WIDTH)).unwrap();
    map.tensors.insert("register_tokens".into(), registers.clone());
    map.tensors.insert("mask_token".into(), HostTensor::from_f32(vec![1, WIDTH], &[0.0; WIDTH]).unwrap());
    let (cls, pos) = (map.get("cls_token").unwrap().to_f32(), map.get("pos_embed").unwrap().to_f32());
    let converted = to_timm(map).unwrap();
    assert_eq!(converted.map.get("reg_token"), Some(&registers));
    assert_eq!(converted.map.get("pos_embed").unwrap().to_f32(), pos[WIDTH..]);
    let sum: Vec<f32> = cls.iter().zip(&pos).map(|(a, b)| a + b).collect();
    assert_eq!(converted.map.get("cls_token").unwrap().to_f32(), sum);
    let hint = tiny("").unwrap();
    let config = infer_config(&converted.map, Some(&hint)).unwrap().config;
    assert_eq!((config.reg_tokens, config.no_embed_class, config.img_size), (4, true, [8, 8]));
}

#[test]
fn old_and_wrapped_timm_names() {
    let mut map = TensorMap::new("old");
    for (name, tensor) in map_of(&timm_shapes()).tensors {
        let tensor = match name.as_str() {
            "patch_embed.proj.weight" => tensor.reshape(&[WIDTH, 48]).unwrap(), // before convolutions
            _ => tensor,
        };
        map.tensors.insert(format!("module._orig_mod.{name}"), tensor);
    }
    let gamma = HostTensor::from_f32(vec![WIDTH], &formula("blocks.0.ls1.gamma", WIDTH)).unwrap();
    map.tensors.insert("module._orig_mod.blocks.0.gamma_1".into(), gamma);
    let mut shapes = timm_shapes();
    shapes.insert("blocks.0.ls1.gamma".into(), vec![WIDTH]);
    assert_formula(&to_timm(map).unwrap().map, &shapes);
}

#[test]
fn torchscript_gives_its_weights() {
    assert_formula(&convert_golden("traced.pt").map, &timm_shapes());
    // Views, and a number among the parameters.
    let map = read(golden("scripted_views.pt")).unwrap();
    assert_eq!(map.names().collect::<Vec<_>>(), ["count", "rows", "turned"]);
    let whole = formula("whole", 24);
    let (rows, turned) = (&map.tensors["rows"], &map.tensors["turned"]);
    assert_eq!((rows.shape(), rows.to_f32()), (&[2, 6][..], whole[6..18].to_vec()));
    let columns: Vec<f32> = (0..24).map(|i| whole[i % 4 * 6 + i / 4]).collect();
    assert_eq!((turned.shape(), turned.to_f32()), (&[6, 4][..], columns));
    assert_eq!((map.tensors["count"].shape(), map.tensors["count"].to_f64()), (&[][..], vec![7.0]));
}

#[test]
fn what_cannot_be_converted_says_so() {
    let mut other = TensorMap::new("resnet.safetensors");
    other.tensors.insert("layer1.0.conv1.weight".into(), HostTensor::from_f32(vec![1], &[0.0]).unwrap());
    let error = to_timm(other).unwrap_err();
    assert!(matches!(&error, LoadError::Dialect { .. }), "{error}");
    assert!(
        error.to_string().contains("resnet.safetensors")
            && error.to_string().contains("layer1.0.conv1.weight")
    );

    // A key without its query, and a kernel of the wrong rank.
    let mut hf = read(golden("hf_vit")).unwrap();
    hf.tensors.remove("vit.encoder.layer.1.attention.attention.query.weight").unwrap();
    let error = to_timm(hf).unwrap_err().to_string();
    assert!(error.contains("blocks.1.attn.q.weight"), "{error}");
    let mut jax = read(golden("google.npz")).unwrap();
    let flat = jax.tensors["embedding/kernel"].reshape(&[48 * WIDTH]).unwrap();
    jax.tensors.insert("embedding/kernel".into(), flat);
    let error = to_timm(jax).unwrap_err().to_string();
    assert!(error.contains("embedding/kernel") && error.contains("google.npz"), "{error}");

    // A tensor no table knows keeps its name, for the report.
    let mut odd = map_of(&timm_shapes());
    odd.tensors.insert("blocks.0.extra".into(), HostTensor::from_f32(vec![1], &[0.0]).unwrap());
    assert!(to_timm(odd).unwrap().map.contains("blocks.0.extra"));
}

#[test]
fn channels_are_adapted_within_bounds() {
    let kernel = map_of(&timm_shapes()).tensors["patch_embed.proj.weight"].clone();
    let rgb = kernel.to_f32();
    let grey = convert::adapt_channels(&kernel, 1).unwrap();
    assert_eq!((grey.shape(), grey.to_f32()[0]), ([WIDTH, 1, 4, 4].as_slice(), rgb[0] + rgb[16] + rgb[32]));
    let five = convert::adapt_channels(&kernel, 5).unwrap();
    assert_eq!(five.to_f32()[4 * 16], rgb[16] * (3.0 / 5.0)); // timm: repeat and crop, times 3/5
    let flat = kernel.reshape(&[WIDTH, 48]).unwrap();
    for (kernel, channels) in [(&flat, 1), (&kernel, 0), (&kernel, 1025)] {
        assert!(convert::adapt_channels(kernel, channels).is_err(), "{channels}");
    }
}

// ---- Configurations

/// Writes a `config.json` and reads it as a card.
fn card_of(json: &str) -> Result<ModelCard, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, json).unwrap();
    ModelCard::read(&path, &tiny_any)
}

#[test]
fn old_flat_timm_config() {
    let card = card_of(
        r#"{"architecture": "vit_base_patch16_224.orig", "num_classes": 3, "num_features": 8, "input_size": [3, 8, 8],
            "labels": {"0": "a", "2": "c"}, "interpolation": "bicubic", "crop_pct": 0.875, "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225], "license": "mit"}"#,
    )
    .unwrap();
    assert_eq!((card.tag.as_deref(), card.license.as_deref()), (Some("orig"), Some("mit")));
    assert_eq!(card.labels.unwrap(), ["a", "1", "c"]);
    let preprocess = card.preprocess.unwrap();
    assert_eq!((preprocess.crop_mode.name(), preprocess.mean[0]), ("center", 0.485));
}

#[test]
fn missing_preprocessing_is_not_guessed() {
    let card =
        card_of(r#"{"architecture": "x", "pretrained_cfg": {"input_size": [3, 8, 8], "mean": [0, 0, 0]}}"#)
            .unwrap();
    assert!(card.preprocess.is_none());
    assert_eq!(card.notes, ["preprocessing is not known: interpolation, crop_pct, std missing"]);
}

#[test]
fn impossible_configurations_are_refused_by_name() {
    let timm =
        |args: &str| format!(r#"{{"architecture": "x", "model_args": {{{args}}}, "pretrained_cfg": {{}}}}"#);
    let hf = |fields: &str| {
        format!(
            r#"{{"model_type": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 16, {fields}}}"#
        )
    };
    let prepared = |fields: &str| {
        let rest = r#""input_size": [3, 8, 8], "crop_pct": 1, "mean": 0.5, "std": 0.5"#;
        format!(r#"{{"architecture": "x", "pretrained_cfg": {{{rest}, {fields}}}}}"#)
    };
    for (json, expected) in [
        (timm(r#""mlp_layer": "swiglu""#), "unknown argument `mlp_layer`"),
        (timm(r#""img_size": 3"#), "img_size 3x3 holds no patch of 4x4"),
        (timm(r#""img_size": 0"#), "img_size is 0"),
        (timm(r#""num_heads": 3"#), "not a multiple of num_heads"),
        (timm(r#""num_heads": 0"#), "num_heads is 0"),
        (timm(r#""depth": 18446744073709551615"#), "depth"),
        (timm(r#""depth": -1"#), "depth: invalid value"),
        (timm(r#""embed_dim": 1e99"#), "embed_dim"),
        (timm(r#""mlp_ratio": -4"#), "mlp_ratio"),
        (timm(r#""drop_rate": 1.5"#), "drop_rate"),
        (timm(r#""global_pool": "prr""#), "unknown variant `prr`"),
        (timm(r#""act_layer": "mish""#), "unknown variant `mish`"),
        (timm(r#""class_token": false"#), "needs a class token"),
        (timm(r#""patch_size": [4, 4, 4]"#), "patch_size: invalid length 3"),
        (hf(r#""num_attention_heads": 3"#), "not a multiple of num_heads 3"),
        (hf(r#""num_attention_heads": 2, "layer_norm_eps": 0"#), "norm_eps is 0"),
        (hf(r#""num_attention_heads": 2, "hidden_act": "selu""#), "unknown activation `selu`"),
        (hf(r#""num_attention_heads": 2, "id2label": {"7000000000": "x"}"#), "id2label"),
        (timm(r#""init_values": 1e999"#), "broken JSON object"),
        (prepared(r#""interpolation": "random""#), "`interpolation` is `random`, expected one of nearest,"),
        (prepared(r#""interpolation": 3"#), "`interpolation` should be a text"),
        (
            prepared(r#""interpolation": "bicubic", "crop_mode": "middle""#),
            "`crop_mode` is `middle`, expected one",
        ),
        (prepared(r#""interpolation": "bicubic", "crop_mode": "squash", "crop_pct": 0"#), "`crop_pct` is 0"),
        (r#"{"model_type": "bert"}"#.into(), "`bert` is not a supported model"),
        (r#"{"a": 1}"#.into(), "neither `architecture`"),
        ("[1, 2]".into(), "broken JSON object"),
        ("{".into(), "broken JSON object"),
    ] {
        let error = card_of(&json).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}\n{error}");
        assert!(error.contains("config.json"), "{error}");
    }
}

/// As a strided convolution: pixels beyond the last whole patch are left out (timm's
/// `vit_so400m_patch14_siglip_384` is made so).
#[test]
fn an_image_need_not_be_whole_patches() {
    let card = card_of(r#"{"architecture": "x", "model_args": {"img_size": 225}}"#).unwrap();
    assert_eq!(vit(&card.config).grid(), [56, 56]);
}

#[test]
fn one_mean_stands_for_all_channels() {
    let with = |channels: usize| {
        card_of(&format!(
            r#"{{"architecture": "x", "input_size": [{channels}, 8, 8], "interpolation": "lanczos", "crop_pct": 0.9,
                "mean": 0.5, "std": [0.25]}}"#
        ))
        .unwrap()
    };
    let preprocess = with(3).preprocess.unwrap();
    assert_eq!((preprocess.mean, preprocess.std), (vec![0.5; 3], vec![0.25; 3]));
    assert_eq!(preprocess.interpolation.name(), "lanczos");
    // No decoder gives five channels.
    let card = with(5);
    assert!(card.preprocess.is_none());
    assert_eq!(card.notes, ["preprocessing is not known: images of 5 channels are not supported"]);
}

/// A card of Hugging Face with this `preprocessor_config.json`.
fn card_with_processor(json: &str) -> Result<ModelCard, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden("hf_vit/config.json"), folder.path().join("config.json")).unwrap();
    std::fs::write(folder.path().join("preprocessor_config.json"), json).unwrap();
    ModelCard::read(&folder.path().join("config.json"), &tiny_any)
}

#[test]
fn a_processor_that_leaves_something_open_is_a_note() {
    let whole = r#"{"size": 8, "resample": 2, "image_mean": 0.5, "image_std": [0.5, 0.5, 0.5]}"#;
    assert_eq!(card_with_processor(whole).unwrap().preprocess.unwrap().mean, [0.5; 3]);
    for (json, note) in [
        (whole.replace(r#""size": 8, "#, ""), "`size` is missing"),
        (whole.replace(r#""resample": 2, "#, ""), "`resample` is missing"),
        (whole.replace("image_mean", "mean"), "`image_mean` is missing"),
        (whole.replace("image_std", "std"), "`image_std` is missing"),
        (whole.replace("8,", r#"8, "do_resize": false,"#), "`do_resize` is false"),
    ] {
        let card = card_with_processor(&json).unwrap();
        assert!(card.preprocess.is_none(), "{json}");
        assert!(
            card.notes.contains(&format!("preprocessing is not known: {note}")),
            "{json}: {:?}",
            card.notes
        );
    }
    for (json, expected) in [
        (whole.replace("8,", r#""large","#), "`size` is \"large\""),
        (whole.replace("2,", "7,"), "`resample` is 7"),
        (whole.replace("0.5,", r#""half","#), "`image_mean`: invalid type"),
        (whole.replace("image_mean\": 0.5", "image_mean\": [0.5, 0.5]"), "`mean` is [0.5, 0.5]"),
        ("[]".into(), "expected a map"),
    ] {
        let error = card_with_processor(&json).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("preprocessor_config.json"), "{json}: {error}");
    }
}

#[test]
fn a_card_far_larger_than_its_file_is_refused() {
    let card =
        card_of(r#"{"architecture": "x", "model_args": {"embed_dim": 8192, "num_heads": 64, "depth": 100}}"#)
            .unwrap();
    let error = card.check_size(5_000_000).unwrap_err().to_string();
    assert!(error.contains("parameters described"), "{error}");
    card_of(r#"{"architecture": "x"}"#).unwrap().check_size(1_000).unwrap();
}

#[test]
fn what_tensors_show() {
    // A rectangular grid needs to be told, then it is taken.
    let mut map = map_of(&timm_shapes());
    let hint = VitConfig { img_size: [8, 12], norm_eps: 1e-5, ..tiny("").unwrap() };
    map.tensors.insert("pos_embed".into(), HostTensor::from_f32(vec![1, 7, WIDTH], &[0.0; 56]).unwrap());
    assert_eq!(infer_config(&map, Some(&hint)).unwrap().config, hint);
    let error = infer_config(&map, None).unwrap_err().to_string();
    assert!(error.contains("heads"), "a width of 8 says nothing of heads: {error}");
    let square = VitConfig { img_size: [8, 8], ..hint.clone() };
    let error = infer_config(&map, Some(&square)).unwrap_err().to_string();
    assert!(error.contains("pos_embed") && error.contains("7 rows"), "{error}");

    // Tables of our own.
    map.tensors.remove("pos_embed");
    map.tensors.insert("pos_embed_x".into(), HostTensor::from_f32(vec![1, 3, 4], &[0.0; 12]).unwrap());
    map.tensors.insert("pos_embed_y".into(), HostTensor::from_f32(vec![1, 2, 4], &[0.0; 8]).unwrap());
    let config = infer_config(&map, Some(&hint)).unwrap().config;
    assert_eq!((config.pos_embed, config.img_size), (PosEmbed::Learn2d, [8, 12]));

    // A hole in the blocks.
    let mut holes = map_of(&timm_shapes());
    holes.tensors.remove("blocks.0.attn.qkv.weight");
    let error = infer_config(&holes, Some(&hint)).unwrap_err().to_string();
    assert!(error.contains("blocks.0."), "{error}");
}

// ---- Resampling

#[derive(serde::Deserialize)]
struct Resampling {
    pos: Vec<PosCase>,
    kernels: Vec<KernelCase>,
}

#[derive(serde::Deserialize)]
struct PosCase {
    key: String,
    method: PosResize,
    source: String,
    old: [usize; 2],
    new: [usize; 2],
    prefix: usize,
    width: usize,
}

#[derive(serde::Deserialize)]
struct KernelCase {
    key: String,
    method: PosResize,
    old: usize,
    new: usize,
}

fn resampling() -> (TensorMap, Resampling) {
    let cases = std::fs::read(golden("resampling.json")).unwrap();
    (read(golden("resampling.safetensors")).unwrap(), serde_json::from_slice(&cases).unwrap())
}

fn from_formula(name: &str, shape: Vec<usize>) -> HostTensor {
    let values: Vec<f64> = formula(name, shape.iter().product()).into_iter().map(f64::from).collect();
    HostTensor::from_f64(shape, &values).unwrap()
}

fn largest_difference(a: &HostTensor, b: &HostTensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    crate::compare::largest(a.to_f64().iter().zip(b.to_f64()).map(|(x, y)| (x - y).abs()))
}

#[test]
fn positions_resize_as_pytorch_and_scipy_do() {
    let (golden, cases) = resampling();
    assert!(cases.pos.len() > 30);
    for case in cases.pos {
        let table = from_formula(&case.source, vec![1, case.prefix + case.old[0] * case.old[1], case.width]);
        let resized = resize_pos_embed(&table, case.old, case.new, case.prefix, case.method).unwrap();
        let difference = largest_difference(&resized, golden.get(&case.key).unwrap());
        assert!(difference < 1e-12, "{}: {difference:e}", case.key);
        // In single precision, only the last rounding differs.
        let single =
            resize_pos_embed(&table.cast(Dtype::F32).unwrap(), case.old, case.new, case.prefix, case.method)
                .unwrap();
        assert_eq!(single, resized.cast(Dtype::F32).unwrap(), "{}", case.key);
    }
}

#[test]
fn patch_kernels_resize_by_the_pseudo_inverse() {
    let (golden, cases) = resampling();
    for case in cases.kernels {
        let kernel = from_formula(&format!("kernel_{}", case.old), vec![2, 3, case.old, case.old]);
        let resized = resize_patch_embed(&kernel, [case.new, case.new], case.method).unwrap();
        let difference = largest_difference(&resized, golden.get(&case.key).unwrap());
        assert!(difference < 1e-9, "{}: {difference:e}", case.key);
    }
}

#[test]
fn resizing_refuses_what_does_not_fit() {
    let table = from_formula("t", vec![1, 10, 2]);
    assert_eq!(resize_pos_embed(&table, [3, 3], [3, 3], 1, PosResize::Bicubic).unwrap(), table);
    assert!(resize_pos_embed(&table, [3, 3], [4, 4], 0, PosResize::Bicubic).is_err());
    assert!(resize_pos_embed(&table, [3, 3], [0, 4], 1, PosResize::Bicubic).is_err());
    assert!(resize_pos_embed(&table, [3, 3], [usize::MAX, 4], 1, PosResize::Bicubic).is_err());
    assert!(resize_pos_embed(&table, [usize::MAX, 3], [4, 4], 1, PosResize::Bicubic).is_err());
    let kernel = from_formula("k", vec![1, 1, 4, 4]);
    // Nearest neighbours upwards repeat, downwards leave pixels out; both have an inverse of sorts.
    assert!(resize_patch_embed(&kernel, [0, 4], PosResize::Bilinear).is_err());
    assert!(resize_patch_embed(&kernel, [100_000, 4], PosResize::Bilinear).is_err());
    assert!(resize_patch_embed(&table, [4, 4], PosResize::Bilinear).is_err());
}

// ---- Writing

fn card(config: VitConfig) -> ModelCard {
    let mut card = ModelCard::find(&golden("timm"), &tiny_any).unwrap().unwrap();
    card.config = config.into();
    card
}

#[test]
fn timm_folder_written_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model");
    let (map, base) = (map_of(&timm_shapes()), VitConfig { depth: 12, ..tiny("").unwrap() }.into());
    let card = card(tiny("").unwrap());
    write_timm(&target, &map, &card, &base, &WriteOptions::default()).unwrap();
    assert_formula(&to_timm(read(&target).unwrap()).unwrap().map, &timm_shapes());
    let again = ModelCard::find(&target, &|_| Ok(ModelConfig::clone(&base))).unwrap().unwrap();
    assert_eq!(again, ModelCard { path: again.path.clone(), ..card.clone() });
    let left: Vec<_> = std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "no temporary files: {left:?}");

    // Not over a folder that holds something, unless told.
    let error = write_timm(&target, &map, &card, &base, &WriteOptions::default()).unwrap_err();
    assert!(matches!(error, LoadError::Exists { .. }), "{error}");
    let overwrite = WriteOptions { dtype: Some(Dtype::F16), overwrite: true };
    write_timm(&target, &map, &card, &base, &overwrite).unwrap();
    let half = read(&target).unwrap();
    assert_eq!(half.get("head.weight").unwrap().dtype(), Dtype::F16);
    assert_formula(&half, &timm_shapes()); // multiples of 1/64 are exact in half precision
}

/// A named model of timm's for images of 96 pixels and three classes.
fn named_at_96(name: &str) -> (ModelConfig, ModelCard) {
    let base = ModelConfig::named(name).unwrap();
    let config = base.with("img_size", json!([96, 96])).unwrap().with("num_classes", json!(3)).unwrap();
    let card = card(tiny("").unwrap());
    (base, ModelCard { config, architecture: Some(name.into()), ..card })
}

#[test]
fn only_constructors_with_a_size_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let map = map_of(&BTreeMap::from([("fc.bias".to_string(), vec![3])]));
    for (name, takes_size) in [
        ("resnet10t", false),
        ("resnetv2_50x1_bit", false),
        ("regnety_002", false),
        ("convnextv2_atto", false),
        ("twins_svt_small", false),
        ("deit_tiny_distilled_patch16_224", true),
        ("swin_tiny_patch4_window7_224", true),
        ("swinv2_cr_tiny_ns_224", true),
        ("pit_ti_distilled_224", true),
        ("vit_tiny_r_s16_p8_224", true),
    ] {
        let (base, card) = named_at_96(name);
        let target = folder.path().join(name);
        write_timm(&target, &map, &card, &base, &WriteOptions::default()).unwrap();
        let text = std::fs::read_to_string(target.join("config.json")).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(written["model_args"].get("img_size").is_some(), takes_size, "{name}");
        assert_eq!(written["pretrained_cfg"]["fixed_input_size"], takes_size, "{name}");
        assert_eq!(written["pretrained_cfg"]["input_size"], json!([3, 96, 96]), "{name}");
        let again = ModelCard::find(&target, &|_| Ok(base.clone())).unwrap().unwrap();
        assert_eq!(again.config, card.config, "{name}");
    }
}

#[test]
fn relative_positions_by_a_network_are_told_from_tensors_and_written() {
    for pos_embed in [PosEmbed::RelMlp, PosEmbed::RelMlpShared] {
        let base = VitConfig { pos_embed, rel_pos_dim: Some(5), num_heads: 4, ..tiny("").unwrap() };
        let model = ModelConfig::Vit(base.clone()).init(&Device::flex(), 1).unwrap();
        let map = collect(&model);
        let inferred = infer_config(&map, None).unwrap();
        let VitConfig { pos_embed: found, rel_pos_dim, num_heads, .. } = inferred.config;
        assert_eq!((found, rel_pos_dim, num_heads), (pos_embed, Some(5), 4));
        assert!(inferred.notes.iter().any(|note| note.contains("res_post_norm")), "{:?}", inferred.notes);

        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        let any = ModelConfig::Vit(base.clone());
        write_timm(&target, &map, &card(base.clone()), &any, &WriteOptions::default()).unwrap();
        assert_eq!(ModelCard::find(&target, &|_| Ok(any.clone())).unwrap().unwrap().config, any);
        // An architecture with other positions cannot say it, nor can one with norms elsewhere.
        for other in [tiny("").unwrap(), VitConfig { res_post_norm: true, ..base.clone() }] {
            let overwrite = WriteOptions { overwrite: true, ..WriteOptions::default() };
            write_timm(&target, &map, &card(base.clone()), &other.into(), &overwrite).unwrap_err();
        }
    }
}

#[test]
fn hugging_face_folder_written_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let map = map_of(&timm_shapes());
    let mut card = card(VitConfig { norm_eps: 1e-12, pos_resize: PosResize::Bicubic, ..tiny("").unwrap() });
    write_huggingface(folder.path(), &map, &card, &WriteOptions::default()).unwrap();
    // Names and bytes as transformers itself wrote them.
    let ours = read(folder.path().join("model.safetensors")).unwrap();
    assert_eq!(ours.tensors, read(golden("hf_vit/model.safetensors")).unwrap().tensors);
    assert_eq!(ours.metadata, BTreeMap::from([("format".into(), "pt".into())]));
    let again = ModelCard::find(folder.path(), &tiny_any).unwrap().unwrap();
    assert_eq!((again.config, again.labels), (card.config.clone(), card.labels.clone()));
    // 8 / 0.9 is 8 whole pixels: what is resized and cut is the same.
    let (again, before) = (again.preprocess.unwrap(), card.preprocess.clone().unwrap());
    assert_eq!((8.0 / again.crop_pct).floor(), (8.0 / before.crop_pct).floor());
    assert_eq!(again, vitrum::data::Preprocess { crop_pct: again.crop_pct, ..before });
    // What transformers' ViT cannot be is refused by name.
    card.config = card.config.with("global_pool", "avg".into()).unwrap();
    let overwrite = WriteOptions { overwrite: true, ..WriteOptions::default() };
    let error = write_huggingface(folder.path(), &map, &card, &overwrite).unwrap_err().to_string();
    assert!(error.contains("fc_norm") || error.contains("global_pool"), "{error}");
}

#[test]
fn every_dialect_of_hugging_face_goes_back_to_the_same_names() {
    for file in ["hf_vit", "hf_deit", "hf_vit_model"] {
        let theirs = read(golden(file)).unwrap();
        let ours = to_huggingface(&to_timm(theirs.clone()).unwrap().map, None).unwrap();
        assert_eq!(ours.tensors, theirs.tensors, "{file}");
    }
}

#[test]
fn safetensors_written_keep_integers_and_refuse_to_replace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut map = map_of(&timm_shapes());
    let steps =
        HostTensor::new(Dtype::I64, vec![2], [7i64.to_le_bytes(), (-1i64).to_le_bytes()].concat()).unwrap();
    map.tensors.insert("steps".into(), steps.clone());
    let bf16 = WriteOptions { dtype: Some(Dtype::BF16), overwrite: false };
    write_safetensors(&path, &map, &bf16).unwrap();
    let again = read(&path).unwrap();
    assert_eq!(again.get("steps"), Some(&steps));
    assert_eq!(again.get("head.bias").unwrap().dtype(), Dtype::BF16);
    assert!(matches!(write_safetensors(&path, &map, &bf16), Err(LoadError::Exists { .. })));
}

// ---- Inspecting

#[test]
fn inspection_verification_and_difference() {
    let inspection = inspect(&golden("timm"), &tiny_any).unwrap();
    assert_eq!(inspection.dialect, Some(Dialect::Timm));
    assert_eq!(inspection.tensors.len(), timm_shapes().len());
    let head = inspection.tensors.iter().find(|t| t.name == "head.weight").unwrap();
    let values = formula("head.weight", 24);
    assert_eq!(head.stats.max, f64::from(values.iter().copied().fold(f32::MIN, f32::max)));
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 24.0;
    assert!((head.stats.mean - mean).abs() < 1e-12);
    assert!(inspection.card.is_some());

    let file = golden("timm/model.safetensors");
    let sum = file_sha256(&file).unwrap();
    let verified = verify(&golden("timm"), Some(&sum.to_uppercase())).unwrap();
    assert!(verified.compared && verified.not_finite.is_empty());
    let error = verify(&file, Some(&"0".repeat(64))).unwrap_err();
    assert!(matches!(error, LoadError::Checksum { .. }), "{error}");

    // The same weights in two dialects do not differ; one changed value is found.
    let same = diff(&golden("timm"), &golden("hf_vit")).unwrap();
    assert!(same.converted && same.agrees(0.0), "{same:?}");
    let (a, mut b) = (map_of(&timm_shapes()), map_of(&timm_shapes()));
    let mut values = formula("norm.bias", WIDTH);
    values[3] += 0.5;
    b.tensors.insert("norm.bias".into(), HostTensor::from_f32(vec![WIDTH], &values).unwrap());
    b.tensors.insert("extra".into(), HostTensor::from_f32(vec![1], &[f32::NAN]).unwrap());
    b.tensors.insert("head.bias".into(), HostTensor::from_f32(vec![1], &[0.0]).unwrap());
    let found = compare(&a, &b);
    assert_eq!(
        (found.only_b.as_slice(), found.shapes[0].0.as_str()),
        (&["extra".to_string()][..], "head.bias")
    );
    let changed: Vec<_> = found.changed().map(|v| (v.name.as_str(), v.max_abs)).collect();
    assert_eq!(changed, [("norm.bias", 0.5)]);
    assert!(!found.agrees(1.0));
}

#[test]
fn a_blob_of_the_hub_is_checked_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = folder.path().join("blobs");
    std::fs::create_dir(&blobs).unwrap();
    let bytes = std::fs::read(golden("timm/model.safetensors")).unwrap();
    let sum = file_sha256(&golden("timm/model.safetensors")).unwrap();
    std::fs::write(blobs.join(&sum), &bytes).unwrap();
    assert!(verify(&blobs.join(&sum), None).unwrap().compared);
    std::fs::write(blobs.join("f".repeat(64)), &bytes).unwrap();
    assert!(verify(&blobs.join("f".repeat(64)), None).is_err());
}

// ---- Host tensors

#[test]
fn shapes_are_checked_before_anything_is_allocated() {
    assert!(HostTensor::new(Dtype::F32, vec![usize::MAX, 2], vec![]).is_err());
    assert!(HostTensor::new(Dtype::F32, vec![0, usize::MAX, 2], vec![]).is_err());
    assert!(HostTensor::new(Dtype::F32, vec![1; 9], vec![0; 4]).is_err());
    assert!(HostTensor::new(Dtype::F32, vec![2], vec![0; 7]).is_err());
    let empty = HostTensor::new(Dtype::F32, vec![2, 0, 3], vec![]).unwrap();
    assert_eq!(empty.permute(&[2, 1, 0]).unwrap().shape(), [3, 0, 2]);
    assert_eq!(empty.slice(0, 1..2).unwrap().shape(), [1, 0, 3]);
    assert_eq!(HostTensor::concat(&[&empty, &empty], 1).unwrap().shape(), [2, 0, 3]);
    let none = HostTensor::new(Dtype::F32, vec![0, 2], vec![]).unwrap();
    assert_eq!(HostTensor::concat(&[&none, &none], 1).unwrap().shape(), [0, 4]);
}

#[test]
fn tensors_permute_slice_and_join() {
    let values: Vec<f32> = (0..24).map(|v| v as f32).collect();
    let t = HostTensor::from_f32(vec![2, 3, 4], &values).unwrap();
    let p = t.permute(&[2, 0, 1]).unwrap();
    assert_eq!(p.shape(), [4, 2, 3]);
    // p[c][a][b] = t[a][b][c]
    let expected: Vec<f32> = (0..4)
        .flat_map(|c| (0..2).flat_map(move |a| (0..3).map(move |b| (a * 12 + b * 4 + c) as f32)))
        .collect();
    assert_eq!(p.to_f32(), expected);
    assert_eq!(p.permute(&[1, 2, 0]).unwrap(), t);
    let (front, back) = (t.slice(1, 0..1).unwrap(), t.slice(1, 1..3).unwrap());
    assert_eq!(back.to_f32()[..4], [4.0, 5.0, 6.0, 7.0]);
    assert_eq!(HostTensor::concat(&[&front, &back], 1).unwrap(), t);
    assert!(t.permute(&[0, 0, 1]).is_err() && t.permute(&[0, 1]).is_err());
    assert!(t.slice(1, 2..4).is_err() && t.slice(3, 0..1).is_err());
    assert!(HostTensor::concat(&[&t, &front], 0).is_err());
}

#[test]
fn types_cast_with_rounding_to_nearest() {
    let t = HostTensor::from_f32(vec![3], &[1.0 + 1.0 / 512.0, -2.5, 70000.0]).unwrap();
    assert_eq!(t.cast(Dtype::F16).unwrap().to_f32(), [1.0 + 1.0 / 512.0, -2.5, f32::INFINITY]);
    assert_eq!(t.cast(Dtype::BF16).unwrap().to_f32(), [1.0, -2.5, 70144.0]);
    assert_eq!(t.cast(Dtype::F64).unwrap().to_f32(), t.to_f32());
    let i = HostTensor::new(Dtype::I8, vec![2], vec![255, 3]).unwrap();
    assert_eq!(i.to_f32(), [-1.0, 3.0]);
    assert!(i.cast(Dtype::F32).is_err() && t.cast(Dtype::I8).is_err());
}

/// Folders for `fixtures/check_written.py`, which loads them with timm and transformers.
#[test]
fn written_folders_are_left_for_python_to_load() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("written");
    let options = |dtype| WriteOptions { dtype: Some(dtype), overwrite: true };
    let map = map_of(&timm_shapes());
    let base = VitConfig { embed_dim: 192, num_heads: 3, ..VitConfig::default() }.into();
    let timm = card(tiny("").unwrap());
    write_timm(&folder.join("timm"), &map, &timm, &base, &options(Dtype::F32)).unwrap();
    let hf = card(VitConfig { norm_eps: 1e-12, ..tiny("").unwrap() });
    write_huggingface(&folder.join("hf_center"), &map, &hf, &options(Dtype::F32)).unwrap();
    for name in ["hf_vit", "hf_deit", "hf_vit_model"] {
        let card = ModelCard::find(&golden(name), &tiny_any).unwrap().unwrap();
        let converted = convert_golden(name);
        for (suffix, dtype) in [("", Dtype::F32), ("_bf16", Dtype::BF16)] {
            let target = folder.join(format!("{name}{suffix}"));
            write_huggingface(&target, &converted.map, &card, &options(dtype)).unwrap();
        }
    }
    for name in [
        "resnet10t",
        "regnetx_002",
        "convnext_atto",
        "pit_ti_distilled_224",
        "twins_svt_small",
        "swinv2_cr_tiny_ns_224",
    ] {
        let (base, card) = named_at_96(name);
        let map = collect(&card.config.init(&Device::flex(), 0).unwrap());
        write_timm(&folder.join(format!("timm_{name}")), &map, &card, &base, &options(Dtype::F32)).unwrap();
    }
    for (name, more) in
        [("swin_tiny_patch4_window7_224", ""), ("swinv2_tiny_window8_256", r#", "version": "v2""#)]
    {
        let config = format!(
            r#"{{"family": "swin", "img_size": [96, 64], "num_classes": 3, "embed_dim": 12, "depths": [2, 2],
                "num_heads": [2, 4], "window_size": 4 {more}}}"#
        );
        let config: ModelConfig = serde_json::from_str(&config).unwrap();
        let map = collect(&config.init(&Device::flex(), 0).unwrap());
        let base = ModelConfig::named(name).unwrap();
        let card = ModelCard::new(config, CardSource::Timm, "");
        let target = folder.join(format!("hf_{name}"));
        write_huggingface(&target, &map, &card, &options(Dtype::F32)).unwrap();
        let card = ModelCard { architecture: Some(name.into()), ..card };
        write_timm(&folder.join(format!("timm_{name}")), &map, &card, &base, &options(Dtype::F32)).unwrap();
    }
    derived_folders(&folder);
    // Networks with batch norms.
    let resnet =
        ResNetConfig { num_classes: 3, layers: vec![1; 4], channels: vec![8; 4], ..Default::default() };
    let regnet = RegNetConfig {
        num_classes: 3,
        depth: 5,
        w0: 8,
        wa: 6.5,
        wm: 1.6,
        group_size: 4,
        ..Default::default()
    };
    for (name, config) in [
        ("hf_resnet_model", ResNetConfig { num_classes: 0, ..resnet.clone() }.into()),
        ("hf_resnet", ModelConfig::from(resnet)),
        ("hf_regnet_y", RegNetConfig { se_ratio: 0.25, ..regnet.clone() }.into()),
        ("hf_regnet_x", regnet.into()),
    ] {
        let map = collect(&config.init(&Device::flex(), 0).unwrap());
        for (suffix, dtype) in [("", Dtype::F32), ("_bf16", Dtype::BF16)] {
            let target = folder.join(format!("{name}{suffix}"));
            let card = ModelCard::new(config.clone(), CardSource::Timm, "");
            write_huggingface(&target, &map, &card, &options(dtype)).unwrap();
            let written = read(target.join("model.safetensors")).unwrap();
            let counts = written.names().filter(|name| name.ends_with("normalization.num_batches_tracked"));
            let norms = written.names().filter(|name| name.ends_with("normalization.running_var"));
            assert!(counts.count() == norms.count(), "{name}");
        }
    }
}

/// Families that stand on the Vision Transformer: an architecture of timm, changed fields, and whether transformers has it.
const DERIVED: [(&str, &str, bool); 10] = [
    ("beit_base_patch16_224", "{}", true),
    (
        "beit_large_patch16_224",
        r#"{"use_rel_pos_bias": false, "use_shared_rel_pos_bias": true, "init_values": null}"#,
        true,
    ),
    ("beitv2_base_patch16_224", r#"{"use_rel_pos_bias": false, "use_abs_pos_emb": true}"#, true),
    ("beitv2_large_patch16_224", r#"{"use_rel_pos_bias": false, "num_classes": 0}"#, true),
    ("eva_giant_patch14_224", "{}", false),
    ("eva02_base_patch14_448", r#"{"scale_attn_inner": true}"#, false),
    ("vit_small_patch16_rope_mixed_ape_224", "{}", false),
    ("vit_small_patch16_dinov3_qkvb", r#"{"num_classes": 0, "global_pool": "token"}"#, true),
    ("vit_huge_plus_patch16_dinov3", r#"{"num_classes": 0, "global_pool": "token"}"#, true),
    ("vit_pe_core_tiny_patch16_384", r#"{"attn_pool_num_heads": 3}"#, false),
];

/// Folders of timm and transformers for [`DERIVED`], and what the models answer, in `answers.json`.
fn derived_folders(folder: &Path) {
    let options = WriteOptions { dtype: Some(Dtype::F32), overwrite: true };
    // transformers' BEiT has positions of square images only.
    let (height, width) = (32, 32);
    let images: Vec<f32> = (0..3 * height * width).map(|i| (i as f32).sin()).collect();
    let mut answers = serde_json::Map::new();
    for (name, more, has_transformers) in DERIVED {
        let base = ModelConfig::named(name).unwrap();
        let more: serde_json::Map<String, Value> = serde_json::from_str(more).unwrap();
        let small = [
            ("img_size", json!([height, width])),
            ("patch_size", json!([8, 8])),
            ("num_classes", json!(3)),
            ("embed_dim", json!(24)),
            ("depth", json!(2)),
            ("num_heads", json!(3)),
        ];
        let fields =
            small.into_iter().chain(more.iter().map(|(field, value)| (field.as_str(), value.clone())));
        let config = base.with_all(fields).unwrap();
        // Values of the formula, so that no tensor is zero.
        let model = config.init(&Device::flex(), 0).unwrap();
        let mut map = collect(&model);
        for (key, tensor) in &mut map.tensors {
            let values = crate::formula::weight(key, tensor.shape());
            *tensor = HostTensor::from_f32(tensor.shape().to_vec(), &values).unwrap();
        }
        let card = ModelCard::new(config, CardSource::Timm, "");
        let card = ModelCard { architecture: Some(name.into()), ..card };
        let target = folder.join(format!("timm_{name}"));
        write_timm(&target, &map, &card, &base, &options).unwrap();
        if has_transformers {
            write_huggingface(&folder.join(format!("hf_{name}")), &map, &card, &options).unwrap();
        }
        let model = load(&LoadOptions::new(target), &Device::flex()).unwrap().model;
        let images =
            Tensor::from_data(TensorData::new(images.clone(), [1, 3, height, width]), &Device::flex());
        let answer = model.logits(images).unwrap().into_data().iter::<f32>().collect::<Vec<_>>();
        answers.insert(name.into(), json!({ "answer": answer, "transformers": has_transformers }));
    }
    std::fs::write(folder.join("answers.json"), Value::from(answers).to_string()).unwrap();
}
