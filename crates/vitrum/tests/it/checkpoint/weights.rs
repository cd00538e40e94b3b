//! Which weights are taken of a file that holds several, what is said of it, and what is refused.

use std::path::Path;

use burn::tensor::Device;
use serde_json::json;
use tempfile::TempDir;
use vitrum::Error;
use vitrum::checkpoint::card::{CardSource, ModelCard};
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::epsilon::change_of_epsilon;
use vitrum::checkpoint::finite::check_narrowing;
use vitrum::checkpoint::inspect::inspect_set;
use vitrum::checkpoint::load::{LoadOptions, Loaded, ModelError, load, open};
use vitrum::checkpoint::quantize::{check_skip, layers};
use vitrum::checkpoint::read::read_set;
use vitrum::checkpoint::write::{WriteOptions, write_model, write_safetensors};
use vitrum::checkpoint::{Dtype, HostTensor, LoadError, TensorMap, read};
use vitrum::data::DemoSet;
use vitrum::models::vit::{GlobalPool, PosResize, VitConfig};
use vitrum::models::{ModelConfig, catalogue};
use vitrum::tasks::{Classifier, Embedder};

use crate::checkpoint::{formula, golden, map_of, timm_shapes};

/// The card of the tiny model, in timm's words.
pub fn card(edit: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut card = json!({
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
            "num_classes": 3},
        "pretrained_cfg": {"input_size": [3, 8, 8], "interpolation": "bicubic", "crop_pct": 1.0, "mean": 0.5, "std": 0.5,
            "num_classes": 3},
    });
    edit(&mut card);
    card.to_string()
}

fn save(folder: &Path, name: &str, map: &TensorMap) {
    let options = WriteOptions { dtype: None, overwrite: true };
    write_safetensors(&folder.join(name), map, &options).unwrap();
}

/// A folder with the tiny model's card and these tensors.
fn folder_of(map: &TensorMap) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), card(|_| ())).unwrap();
    save(folder.path(), "model.safetensors", map);
    folder
}

fn load_from(folder: &Path) -> Result<Loaded, ModelError> {
    load(&LoadOptions::new(folder), &Device::flex())
}

/// The formula's weights under `right`, the same weights negated under `wrong`.
fn two_sets(right: &str, wrong: &str) -> TensorMap {
    let mut map = TensorMap::new("two");
    for (name, tensor) in map_of(&timm_shapes()).tensors {
        let negated: Vec<f32> = tensor.to_f32().iter().map(|v| -v).collect();
        let negated = HostTensor::from_f32(tensor.shape().to_vec(), &negated).unwrap();
        map.tensors.insert(format!("{wrong}{name}"), negated);
        map.tensors.insert(format!("{right}{name}"), tensor);
    }
    map
}

fn write_npz(path: &Path, map: &TensorMap) {
    let mut npz = npyz::npz::NpzWriter::create(path).unwrap();
    for (name, tensor) in &map.tensors {
        use npyz::WriterBuilder;
        let shape: Vec<u64> = tensor.shape().iter().map(|&n| n as u64).collect();
        let array = npz.array(name, Default::default()).unwrap();
        let mut array = array.default_dtype().shape(&shape).begin_nd().unwrap();
        array.extend(tensor.to_f32()).unwrap();
        array.finish().unwrap();
    }
}

fn assert_right(map: TensorMap, what: &str) {
    for (name, tensor) in &to_timm(map).unwrap().map.tensors {
        assert_eq!(tensor.to_f32(), formula(name, tensor.num_elements()), "{what}: {name}");
    }
}

#[test]
fn every_format_gives_the_same_of_two_sets() {
    let pairs = [
        ("teacher.backbone.", "student.module.backbone."),
        ("model_ema.", "model."),
        ("state_dict_ema.", "state_dict."),
        ("state_dict.ema_model.", "state_dict.model."),
        ("state_dict.average_model.module.", "state_dict.model."),
        ("params_ema.", "params."),
        ("target_encoder.module.", "encoder.module."),
        ("state_dict.module.base_encoder.", "state_dict.module.momentum_encoder."),
        ("state_dict.model.", "current_model_state.model."),
        ("ema.shadow.", "model."),
        ("swa.module.", "module."),
        ("encoder_q.", "encoder_k."),
        ("ema.", ""),
        ("", "student."),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (right, wrong) in pairs {
        let map = two_sets(right, wrong);
        save(folder.path(), "both.safetensors", &map);
        write_npz(&folder.path().join("both.npz"), &map);
        for file in ["both.safetensors", "both.npz"] {
            let found = read(folder.path().join(file)).unwrap();
            let chosen: Vec<&str> = found.sets.iter().filter(|s| s.chosen).map(|s| s.name.as_str()).collect();
            assert_eq!(chosen, [right.trim_end_matches('.')], "{file}");
            assert_eq!((found.sets.len(), found.sets[0].tensors > 0), (2, true));
            assert_eq!(found.dropped.len(), timm_shapes().len(), "{file}: {right}");
            assert_right(found, &format!("{file}: {right}"));
        }
    }
    // The same rule for what `torch.save` wrote.
    for (file, chosen) in
        [("dino_full.pth", "teacher.backbone"), ("timm_train.pth.tar", "state_dict_ema.module")]
    {
        let sets = read(golden(file)).unwrap().sets;
        assert!(sets.iter().any(|set| set.chosen && set.name == chosen) && sets.len() == 2, "{sets:?}");
    }
}

#[test]
fn another_set_can_be_asked_for() {
    let folder = folder_of(&two_sets("student.backbone.", "teacher.backbone."));
    for name in ["student", "student.backbone", "student.backbone."] {
        assert_right(read_set(folder.path(), Some(name)).unwrap(), name);
    }
    for (name, reason) in
        [("pupil", "no set of weights is named `pupil`"), ("backbone", "beginning of several")]
    {
        let error = read_set(folder.path(), Some(name)).unwrap_err();
        assert!(matches!(error, LoadError::Sets { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(reason) && text.contains("`student.backbone`, `teacher.backbone`"), "{text}");
    }
    let student = LoadOptions { weight_set: Some("student".into()), ..LoadOptions::new(folder.path()) };
    assert_right(open(&student).unwrap().tensors, "open");
    let told = load(&student, &Device::flex()).unwrap().notes.join("\n");
    assert!(told.contains("weights of `student.backbone` taken, not of `teacher.backbone`"), "{told}");
    let inspected = inspect_set(folder.path(), Some("student"), None, &|_| Err("none".into())).unwrap();
    assert!(
        inspected.sets.iter().all(|set| set.chosen == set.name.starts_with("student")),
        "{:?}",
        inspected.sets
    );
}

#[test]
fn sets_that_nothing_tells_apart_are_refused() {
    let folder = folder_of(&two_sets("left.", "right."));
    let text = load_from(folder.path()).unwrap_err().to_string();
    assert!(text.contains("several sets") && text.contains("`left`, `right`"), "{text}");
}

#[test]
fn what_was_taken_and_what_was_left_out_is_said() {
    let mut map = two_sets("teacher.", "student.");
    let number = HostTensor::from_f32(vec![1], &[0.0]).unwrap();
    for name in
        ["optimizer.state.0.exp_avg", "optimizer.state.1.exp_avg", "teacher.mask_token", "loss.center"]
    {
        map.tensors.insert(name.into(), number.clone());
    }
    let folder = folder_of(&map);
    let notes = load_from(folder.path()).unwrap().notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("weights of `teacher` taken, not of `student`"), "{notes:?}");
    for part in
        ["left out 4 tensors", "2 of optimizer", "loss.center", "mask_token (used only while pretraining)"]
    {
        assert!(notes[1].contains(part), "{part}: {notes:?}");
    }
    // Nothing to say of a plain file.
    assert!(load_from(folder_of(&map_of(&timm_shapes())).path()).unwrap().notes.is_empty());
}

#[test]
fn what_wrappers_put_into_names_goes() {
    let mut map = TensorMap::new("wrapped");
    for (name, tensor) in map_of(&timm_shapes()).tensors {
        let name = name.replace("blocks.1.", "blocks.1._fsdp_wrapped_module._checkpoint_wrapped_module.");
        map.tensors.insert(format!("model._orig_mod.module.{name}"), tensor);
    }
    let folder = folder_of(&map);
    assert_right(read(folder.path()).unwrap(), "wrapped");
    assert!(load_from(folder.path()).is_ok());
}

/// The formula's weights with the backbone under `prefix` and the head as `head`.
fn apart(prefix: &str, head: &str) -> TensorMap {
    let mut map = TensorMap::new("apart");
    for (name, tensor) in map_of(&timm_shapes()).tensors {
        let name = match name.strip_prefix("head.") {
            Some(part) => format!("{head}.{part}"),
            None => format!("{prefix}{name}"),
        };
        map.tensors.insert(name, tensor);
    }
    map
}

#[test]
fn a_head_beside_the_backbone_is_taken_where_it_fits() {
    for (prefix, head) in [
        ("model.", "head"),
        ("backbone.", "classifier"),
        ("state_dict.model.", "state_dict.head"),
        ("state_dict.model.", "head"),
        ("model.encoder.", "model.fc"),
        ("0.", "1"),
        ("", "classifier"),
    ] {
        let folder = folder_of(&apart(prefix, head));
        let loaded = load_from(folder.path()).unwrap_or_else(|error| panic!("{prefix} {head}: {error}"));
        assert!(loaded.notes[0].contains(&format!("`{head}`")), "{:?}", loaded.notes);
        assert!(loaded.notes[0].contains("is taken for its head"), "{:?}", loaded.notes);
        assert_right(read(folder.path()).unwrap(), prefix);
    }
}

/// The width before the classifier of a convolutional network is that of its last map, not of its stem. Every golden
/// case with a head, in every library's names.
#[test]
fn a_head_beside_a_convolutional_backbone_is_taken_by_the_width_of_the_last_map() {
    let heads =
        ["heads.0.clf.0.", "classifier.1.", "classifier.2.", "classifier.", "head.fc.", "fc.", "head."];
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/parity");
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for entry in std::fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let case: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let family = case["config"]["family"].as_str().unwrap_or("vit");
        let classes = case["config"]["num_classes"].as_u64().unwrap();
        let dialect = case["dialect"].as_str().unwrap();
        let known = ["vit", "deit", "beit", "eva", "hybrid", "pit", "t2t"];
        if known.contains(&family) || classes == 0 || dialect == "google" {
            continue;
        }
        let tensors: Vec<(String, Vec<usize>)> = serde_json::from_value(case["tensors"].clone()).unwrap();
        let of_head = |head: &&str| {
            let mut modules = tensors.iter().filter_map(|(name, _)| name.strip_suffix("weight"));
            modules
                .find(|module| module.strip_suffix(head).is_some_and(|at| at.is_empty() || at.ends_with('.')))
        };
        let head = heads.iter().find_map(of_head).unwrap_or_else(|| panic!("{}: no head", path.display()));
        let head = head.to_string();
        // transformers' backbones have a prefix of their own.
        let prefix = if dialect == "huggingface" { "" } else { "backbone." };
        let (mut map, mut expected) = (TensorMap::new("apart"), 0);
        for (name, mut shape) in tensors {
            let values = formula(&name, shape.iter().product());
            let name = match name.strip_prefix(&head) {
                Some(part) => format!("linear_head.{part}"),
                None => format!("{prefix}{name}"),
            };
            if name == "linear_head.weight" {
                shape.truncate(2); // a kernel of 1x1 in timm's BiT
                expected = shape[0];
                // A layer of the width of a ResNet's stem, or of another that is not the last map's, is no head.
                let width = if shape[1] == 64 { 32 } else { 64 };
                let other = HostTensor::from_f32(vec![2, width], &vec![0.0; 2 * width]).unwrap();
                map.tensors.insert("out.weight".into(), other);
            }
            map.tensors.insert(name, HostTensor::from_f32(shape, &values).unwrap());
        }
        save(folder.path(), "apart.safetensors", &map);
        let found = read(folder.path().join("apart.safetensors")).unwrap();
        let note = found.notes.iter().find(|note| note.contains("is taken for its head"));
        let note = note.unwrap_or_else(|| panic!("{}: {:?}", path.display(), found.notes));
        assert!(note.contains("`linear_head`"), "{}: {note}", path.display());
        let converted = to_timm(found).unwrap();
        // Tensors do not show heads of attention as narrow as these, nor windows that are not square.
        let head =
            || ["head.weight", "head.fc.weight"].iter().find_map(|key| converted.map.get(key)).unwrap();
        let classes = match family {
            "twins" | "swin" => head().shape()[0],
            _ => converted.card().unwrap().config.num_classes(),
        };
        assert_eq!(classes, expected, "{}", path.display());
        compared += 1;
    }
    assert!(compared >= 100, "only {compared} cases");
}

#[test]
fn a_head_that_is_not_taken_is_named() {
    let wide = HostTensor::from_f32(vec![3, 9], &[0.0; 27]).unwrap();
    let head = map_of(&timm_shapes()).tensors["head.weight"].clone();
    for (name, tensors) in [
        ("of another width", vec![("fc.weight", wide)]),
        ("of two layers", vec![("classifier.0.weight", head.clone()), ("classifier.2.weight", head.clone())]),
        ("one of two", vec![("fc.weight", head.clone()), ("classifier.weight", head)]),
    ] {
        let mut map = apart("backbone.", "gone");
        map.tensors.retain(|name, _| !name.starts_with("gone"));
        map.tensors.extend(tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())));
        let folder = folder_of(&map);
        let text = load_from(folder.path()).unwrap_err().to_string();
        assert!(text.contains("missing     head.weight") && text.contains("left out"), "{name}: {text}");
        // With a name in place of a card the model is headless, which is said, and asking it for classes is refused.
        let kwargs = |config: ModelConfig| {
            let pairs = [
                ("img_size", json!(8)),
                ("patch_size", json!(4)),
                ("embed_dim", json!(8)),
                ("depth", json!(2)),
                ("num_heads", json!(2)),
                ("mlp_ratio", json!(2)),
            ];
            config.with_all(pairs).map_err(Into::into)
        };
        let options = LoadOptions {
            checkpoint: Some(folder.path().join("model.safetensors")),
            edit: Some(&kwargs),
            ..LoadOptions::new("vit_tiny_patch16_224")
        };
        let loaded = load(&options, &Device::flex()).unwrap();
        let told = loaded.notes.join("\n");
        assert!(told.contains("no head in this file") && told.contains("left out"), "{name}: {told}");
        let error = Classifier::new(loaded, Device::flex()).unwrap_err();
        assert!(matches!(error, Error::Model(ModelError::NoHead { .. })), "{error}");
    }
}

#[test]
fn a_model_without_a_head_gives_features_and_no_classes() {
    let mut map = map_of(&timm_shapes());
    map.tensors.retain(|name, _| !name.starts_with("head."));
    let folder = folder_of(&map);
    let headless = card(|card| {
        card["model_args"]["num_classes"] = json!(0);
        card["pretrained_cfg"]["num_classes"] = json!(0);
    });
    std::fs::write(folder.path().join("config.json"), headless).unwrap();
    let error = Classifier::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("has no head") && error.contains("names no classes"), "{error}");
    let embedder = Embedder::new(load_from(folder.path()).unwrap(), Device::flex()).unwrap();
    let image = DemoSet::new(16, 1, 9).image(0);
    assert_eq!(embedder.pooled(std::slice::from_ref(&image)).unwrap().dims(), [1, 8]);
    assert_eq!(embedder.tokens(&[image]).unwrap().dims(), [1, 5, 8]);
}

fn with(name: &str, edit: impl FnOnce(&mut Vec<f64>), dtype: Dtype) -> TensorMap {
    let mut map = map_of(&timm_shapes());
    let tensor = &map.tensors[name];
    let (shape, mut values) = (tensor.shape().to_vec(), tensor.to_f64());
    edit(&mut values);
    let tensor = HostTensor::from_f64(shape, &values).unwrap().cast(dtype).unwrap();
    map.tensors.insert(name.into(), tensor);
    map
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_name() {
    let key = "blocks.1.mlp.fc1.weight";
    for (value, dtype, told) in [
        (f64::NAN, Dtype::F32, "1 of 128 values are NaN and 0 infinite, the first at 7"),
        (f64::INFINITY, Dtype::F32, "0 of 128 values are NaN and 1 infinite"),
        (f64::NEG_INFINITY, Dtype::F16, "1 infinite"),
        (f64::NAN, Dtype::BF16, "1 of 128 values are NaN"),
        (f64::NAN, Dtype::F64, "1 of 128 values are NaN"),
        (1e300, Dtype::F64, "1 infinite"), // as f32
    ] {
        let folder = folder_of(&with(key, |values| values[7] = value, dtype));
        let text = load_from(folder.path()).unwrap_err().to_string();
        assert!(text.contains(key) && text.contains(told), "{text}");
        assert!(open(&LoadOptions::new(folder.path())).is_err());
    }
    // What is left out may hold anything.
    let mut map = map_of(&timm_shapes());
    map.tensors.insert("mask_token".into(), HostTensor::from_f32(vec![1], &[f32::NAN]).unwrap());
    assert!(load_from(folder_of(&map).path()).is_ok());
}

#[test]
fn an_answer_that_is_no_number_is_an_error() {
    let mut map = with("norm.weight", |values| values.iter_mut().for_each(|v| *v = 2e38), Dtype::F32);
    let head = HostTensor::from_f32(vec![3, 8], &[3e38; 24]).unwrap();
    map.tensors.insert("head.weight".into(), head);
    let folder = folder_of(&map);
    let classifier = Classifier::load(folder.path()).unwrap();
    let error = classifier.predict(&[DemoSet::new(16, 1, 9).image(0)], 1).unwrap_err();
    assert!(matches!(error, Error::NotFinite { image: 0 }), "{error}");
}

#[test]
fn narrower_types_refuse_what_they_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    let write = |map: &TensorMap, dtype| {
        let options = WriteOptions { dtype: Some(dtype), overwrite: true };
        write_safetensors(&folder.path().join("x.safetensors"), map, &options)
    };
    let large = with("norm.weight", |values| values[3] = -1e30, Dtype::F32);
    let text = write(&large, Dtype::F16).unwrap_err().to_string();
    assert!(
        text.contains("`norm.weight`") && text.contains("e30 is beyond f16") && text.contains("bf16 or f32"),
        "{text}"
    );
    write(&large, Dtype::BF16).unwrap();
    write(&large, Dtype::F32).unwrap();
    let edge = with("norm.weight", |values| values[3] = 65504.0, Dtype::F32);
    write(&edge, Dtype::F16).unwrap();
    let vast = with("norm.weight", |values| values[3] = 1e300, Dtype::F64);
    assert!(matches!(write(&vast, Dtype::F32), Err(LoadError::TooSmallType { .. })));
    assert!(!folder.path().join("y").exists());
    // Values too small for the type become zeros; a tensor that is lost so is told.
    let tiny = with("head.bias", |values| values.iter_mut().for_each(|v| *v = 1e-12), Dtype::F32);
    let notes = check_narrowing(&tiny, Dtype::F16).unwrap();
    assert!(notes.len() == 1 && notes[0].contains("head.bias") && notes[0].contains("become 0"), "{notes:?}");
    assert!(check_narrowing(&map_of(&timm_shapes()), Dtype::F16).unwrap().is_empty());
}

#[test]
fn a_pattern_that_skips_no_layer_is_refused() {
    let (map, layers) =
        (map_of(&timm_shapes()), layers(&VitConfig { depth: 2, ..VitConfig::default() }.into()).unwrap());
    let skip = |patterns: &[&str]| {
        check_skip(&map, &layers, &patterns.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    skip(&["blocks.0.*", "*.fc2", "blocks.1.attn.qkv", "blocks.1.attn.qkv.weight"]).unwrap();
    for patterns in [&["block.0.*"][..], &["*.fc2", "head"], &[""]] {
        let text = skip(patterns).unwrap_err().to_string();
        assert!(text.contains("matches none of the layers, such as blocks."), "{text}");
    }
}

// ---- Hugging Face's cards

/// The golden ViT of transformers, its card changed.
fn hugging_face(edit: impl FnOnce(&mut serde_json::Value)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "preprocessor_config.json"] {
        std::fs::copy(golden("hf_vit").join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
    folder
}

#[test]
fn a_card_without_a_class_takes_the_head_from_the_tensors() {
    let without = |json: &mut serde_json::Value| {
        json.as_object_mut().unwrap().remove("architectures");
    };
    assert_eq!(Classifier::load(hugging_face(without).path()).unwrap().label(1), Some("dog"));
    let bare = hugging_face(without);
    std::fs::copy(golden("hf_vit_model/model.safetensors"), bare.path().join("model.safetensors")).unwrap();
    let config =
        vitrum::models::VitConfig::try_from(load_from(bare.path()).unwrap().model.config()).expect("a ViT");
    assert_eq!((config.num_classes, config.representation_size), (0, Some(8)));
}

#[test]
fn a_bare_model_may_lack_its_pooler() {
    let folder = hugging_face(|json| json["architectures"] = json!(["ViTModel"]));
    let mut map = read(golden("hf_vit_model")).unwrap();
    map.tensors.retain(|name, _| !name.starts_with("pooler."));
    save(folder.path(), "model.safetensors", &map);
    let loaded = load_from(folder.path()).unwrap();
    let config = vitrum::models::VitConfig::try_from(loaded.model.config()).expect("a ViT");
    assert_eq!((config.num_classes, config.representation_size), (0, None));
    assert!(loaded.notes.iter().any(|note| note.contains("no pooler")), "{:?}", loaded.notes);
}

#[test]
fn labels_with_gaps_and_stated_numbers_give_the_classes() {
    let named = |labels: serde_json::Value, number: Option<usize>| {
        let folder = hugging_face(|json| {
            json["id2label"] = labels;
            json["num_labels"] = json!(number);
        });
        let classifier = Classifier::load(folder.path()).unwrap();
        (0..3).map(|i| classifier.label(i).map(str::to_string)).collect::<Vec<_>>()
    };
    let names = |names: [&str; 3]| names.map(|name| Some(name.to_string())).to_vec();
    assert_eq!(named(json!({"0": "cat", "2": "newt"}), None), names(["cat", "1", "newt"]));
    assert_eq!(named(json!({"0": "cat", "1": "dog"}), Some(3)), vec![None; 3]);
    assert_eq!(named(json!(null), Some(3)), vec![None; 3]);
}

#[test]
fn the_epsilon_of_another_library_changes_answers() {
    let opened = open(&LoadOptions::new(golden("hf_vit"))).unwrap();
    let change = |epsilon| change_of_epsilon(&opened.tensors, &opened.card.config, epsilon).unwrap();
    assert_eq!(opened.card.config.field("norm_eps"), Some(json!(1e-12)));
    assert_eq!(change(1e-12), 0.0);
    assert!(0.0 < change(1e-4) && change(1e-4) < change(1e-2), "{} {}", change(1e-4), change(1e-2));
}

// ---- Other libraries compute the same from what is written

fn written(
    config: &VitConfig,
    map: &TensorMap,
    architecture: &str,
) -> (TempDir, Option<String>, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
    card.architecture = Some(architecture.into());
    card.labels = Some(["a", "b", "c"].map(String::from).to_vec());
    let base = &catalogue::entry(architecture).unwrap().config;
    let reason = write_model(folder.path(), map, &card, base, &WriteOptions::default()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    (folder, reason, serde_json::from_str(&text).unwrap())
}

#[test]
fn a_fine_tuned_model_of_transformers_is_written_as_theirs() {
    let opened = open(&LoadOptions::new(golden("hf_vit"))).unwrap();
    let config = VitConfig::try_from(opened.card.config.clone()).unwrap();
    assert_eq!((config.norm_eps, config.pos_resize), (1e-12, PosResize::Bicubic));
    let (folder, reason, json) = written(&config, &opened.tensors, "test_vit");
    assert!(reason.unwrap().contains("epsilon of 1e-12"));
    assert_eq!((&json["model_type"], &json["layer_norm_eps"]), (&json!("vit"), &json!(1e-12)));
    assert!(json.get("architecture").is_none(), "timm refuses a card without it");
    let loaded = load_from(folder.path()).unwrap();
    assert_eq!(loaded.model.config(), ModelConfig::Vit(config));
    assert_eq!(loaded.labels.unwrap(), ["a", "b", "c"]);
}

#[test]
fn what_no_other_library_computes_names_no_architecture_of_theirs() {
    let opened = open(&LoadOptions::new(golden("hf_vit"))).unwrap();
    // Neither timm's epsilon nor transformers' pooling.
    let config = VitConfig {
        global_pool: GlobalPool::Avg,
        fc_norm: Some(false),
        ..opened.card.config.try_into().unwrap()
    };
    let (folder, reason, json) = written(&config, &opened.tensors, "test_vit");
    assert!(reason.unwrap().contains("epsilon"));
    let name = json["architecture"].as_str().unwrap();
    assert!(catalogue::entry(name).is_err(), "timm would compute {name} in its own way");
    let loaded = load_from(folder.path()).unwrap();
    assert_eq!(loaded.model.config(), ModelConfig::Vit(config.clone()));
    assert_eq!(loaded.card.as_ref().unwrap().architecture.as_deref(), Some("test_vit"));
    // What timm computes alike has its own name.
    let plain = VitConfig {
        norm_eps: 1e-6,
        pos_resize: PosResize::default(),
        global_pool: GlobalPool::Token,
        fc_norm: None,
        ..config
    };
    let (_, reason, json) = written(&plain, &opened.tensors, "test_vit");
    assert_eq!((reason, &json["architecture"]), (None, &json!("test_vit")));
}

#[test]
fn grey_images_keep_a_level_that_all_channels_share() {
    let folder = folder_of(&map_of(&timm_shapes()));
    let grey = LoadOptions { in_chans: Some(1), ..LoadOptions::new(folder.path()) };
    let preprocess = load(&grey, &Device::flex()).unwrap().preprocess.unwrap();
    assert_eq!((preprocess.mean, preprocess.std, preprocess.input_size), (vec![0.5], vec![0.5], [1, 8, 8]));
}
