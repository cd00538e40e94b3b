//! Names that no dialect knows: the file that tells them, the file that is suggested, and vit-pytorch's models by their
//! tensors alone.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};
use vitrum::checkpoint::apply::{collect, expected_tensors};
use vitrum::checkpoint::dialect::{Known, to_timm, to_timm_with};
use vitrum::checkpoint::key_file::{KeyFault, KeyFileError};
use vitrum::checkpoint::keys::Edit;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::checkpoint::suggest::{nearest, suggest_keys};
use vitrum::checkpoint::write::to_safetensors;
use vitrum::checkpoint::{Dialect, HostTensor, KeyFile, LoadError, TensorMap};
use vitrum::models::{Config, ModelConfig, VitConfig};

use crate::formula;

fn parse(text: &str) -> Result<KeyFile, KeyFileError> {
    KeyFile::parse(Path::new("keys.toml"), text)
}

/// A golden case of `fixtures/golden/parity`: its tensors by formula, and its JSON.
fn case(name: &str) -> (TensorMap, Value) {
    let path = format!("{}/../../fixtures/golden/parity/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let case: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut map = TensorMap::new(format!("{name}.safetensors"));
    let tensors: Vec<(String, Vec<usize>)> = serde_json::from_value(case["tensors"].clone()).unwrap();
    for (key, shape) in tensors {
        let values = formula::weight(&key, &shape);
        map.tensors.insert(key, HostTensor::from_f32(shape, &values).unwrap());
    }
    (map, case)
}

fn config(case: &Value) -> VitConfig {
    serde_json::from_value(case["config"].clone()).unwrap()
}

#[test]
fn a_file_tells_names_edits_and_fields() {
    let keys = parse(
        r#"
        family = "deit"
        prefix = "net."
        left_out = ["decoder.*"]
        rows = [
          ["layer.{N}.fc", "blocks.{N}.mlp.fc1"],
          ["token", "cls_token", "rank3"],
          ["stage.{N+1}.unit.{M}.c1", "stages.{N}.blocks.{M}.conv"],
        ]
        [config]
        num_heads = 4
        img_size = 64
        act_layer = "relu"
        block_norm = "post"
        "#,
    )
    .unwrap();
    assert_eq!((keys.family, keys.prefix.as_str()), ("deit", "net."));
    assert_eq!(keys.lookup("layer.7.fc.bias"), Some(("blocks.7.mlp.fc1.bias".into(), Edit::Keep)));
    let conv = "stages.1.blocks.4.conv.weight".to_string();
    assert_eq!(keys.lookup("stage.2.unit.4.c1.weight"), Some((conv, Edit::Keep)));
    assert_eq!(keys.lookup("token"), Some(("cls_token".into(), Edit::Rank3)));
    assert!(
        keys.is_left_out("net.decoder.x") && keys.is_left_out("decoder.x") && !keys.is_left_out("net.token")
    );
    let told = json!({ "num_heads": 4, "img_size": [64, 64], "act_layer": "relu", "block_norm": "post" });
    assert_eq!(Value::Object(keys.config), told);
    let family = parse("family = \"deit\"").unwrap();
    assert_eq!((family.family, family.rows.len(), family.config.len()), ("deit", 0, 0));
}

#[test]
fn files_that_name_nothing_are_refused() {
    for text in ["", "# rows = []\n", "rows = []\nprefix = \"\""] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains("empty; a key file has `rows`"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = KeyFile::read(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("a folder; names of tensors are read from a TOML file"), "{error}");
    let long = folder.path().join("long.toml");
    std::fs::write(&long, "#".repeat(2 << 20)).unwrap();
    let error = KeyFile::read(&long).unwrap_err().to_string();
    let words = "the size of the key file in bytes is 2097152, more than the 1048576 accepted";
    assert!(error.contains(words), "{error}");
}

#[test]
fn faults_are_told_by_line() {
    let cases = [
        ("rows = [\n  [\"a\", \"b\"],\n  [\"c\"],\n]", 3, "a row is"),
        ("rows = [\n  [\"a\", \"b\", \"keep\", \"d\"],\n]", 2, "a row is"),
        ("rows = [\n  [\"a\", \"b\", \"turn\"],\n]", 2, "unknown edit 'turn'"),
        ("rows = [\n\n  [\"a.{N}\", \"b\"],\n]", 3, "must be the same"),
        ("rows = [\n  [\"a.{N}.{M}\", \"b.{N}.{Z}\"],\n]", 2, "must be the same"),
        ("rows = [\n  [\"a.{N-1}\", \"b.{N}\"],\n]", 2, "'a.{N-1}'"),
        ("rows = [\n  [\"a.{N\", \"b.{N}\"],\n]", 2, "'a.{N'"),
        ("rows = [\n  [\"a.{0N}\", \"b.{N}\"],\n]", 2, "'a.{0N}'"),
        ("rows = [\n  [\"\", \"b\"],\n]", 2, "not empty"),
        ("rows = [\n  [\"a\", \"b\"],\n  [\"a\", \"c\"],\n]", 3, "earlier row"),
        ("family = \"densenet\"", 1, "unknown family 'densenet'"),
        ("\nrowz = []", 2, "rowz"),
        ("prefix = 3", 1, "string"),
        ("rows = [", 1, ""),
        ("[config]\ndepth = 2\nnum_head = 3", 3, "num_heads"),
        ("[config]\nnum_heads = \"three\"", 2, "num_heads"),
        ("[config]\nact_layer = \"swish9\"", 2, "act_layer"),
    ];
    for (text, expected, needle) in cases {
        let error = parse(text).unwrap_err();
        let KeyFileError::Line { line, .. } = &error else { panic!("{text}: {error}") };
        let said = error.to_string();
        assert_eq!(*line, expected, "{text}: {said}");
        assert!(
            said.starts_with(&format!("keys.toml:{expected}: ")) && said.contains(needle),
            "{text}: {said}"
        );
    }
    let error = parse("rows = [[\"a\", \"b\", \"turn\"]]").unwrap_err();
    assert!(matches!(error, KeyFileError::Line { fault: KeyFault::Edit(name), .. } if name == "turn"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    assert!(KeyFile::read(&path).unwrap_err().to_string().contains("keys.toml"), "no such file");
    std::fs::write(&path, b"# a\n\xff").unwrap();
    assert!(matches!(KeyFile::read(&path).unwrap_err(), KeyFileError::Line { line: 2, .. }), "not UTF-8");
    std::fs::File::create(&path).unwrap().set_len(2 << 20).unwrap();
    assert!(matches!(KeyFile::read(&path).unwrap_err(), KeyFileError::Read(_)), "too large");
}

/// A file with torch's names in a folder, and a key file beside it.
fn torch_folder(keys: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let (map, _) = case("torch_encoder");
    let folder = tempfile::tempdir().unwrap();
    let (weights, names) = (folder.path().join("mine.safetensors"), folder.path().join("keys.toml"));
    std::fs::write(&weights, to_safetensors(&map, None).unwrap()).unwrap();
    std::fs::write(&names, keys).unwrap();
    (folder, weights, names)
}

fn load_torch(weights: &Path, keys: Option<PathBuf>) -> Result<VitConfig, String> {
    let options = LoadOptions { keys, ..LoadOptions::new(weights) };
    let loaded = load(&options, &Device::flex()).map_err(|error| error.to_string())?;
    let logits = loaded.model.logits(Tensor::zeros([1, 3, 32, 32], &Device::flex())).unwrap();
    assert_eq!(logits.dims(), [1, 7]);
    Ok(loaded.model.config().try_into().unwrap())
}

#[test]
fn unknown_names_load_by_a_file() {
    let (map, case) = case("torch_encoder");
    let text = case["keys"].as_str().unwrap();
    let (_folder, weights, names) = torch_folder(text);
    assert_eq!(load_torch(&weights, Some(names.clone())).unwrap(), config(&case));

    // Without the file: some names are timm's, the others are not.
    let error = load_torch(&weights, None).unwrap_err();
    assert!(
        error.contains("torch.nn.TransformerEncoder: 24 of 30") && error.contains("hint: a key file"),
        "{error}"
    );
    // With a row less: the report, and the way to tell names.
    std::fs::write(&names, text.replace("encoder.layers.{N}.linear2", "encoder.layers.{N}.linear9")).unwrap();
    let error = load_torch(&weights, Some(names.clone())).unwrap_err();
    assert!(
        error.contains("missing     blocks.0.mlp.fc2.weight")
            && error.contains("unexpected  encoder.layers.0.linear2.weight"),
        "{error}"
    );
    // A tensor too many, which the file leaves out.
    let mut more = map.clone();
    more.tensors.insert("decoder.x".into(), HostTensor::from_f32(vec![1], &[0.0]).unwrap());
    std::fs::write(&weights, to_safetensors(&more, None).unwrap()).unwrap();
    std::fs::write(&names, text).unwrap();
    let error = load_torch(&weights, Some(names.clone())).unwrap_err();
    assert!(error.contains("unexpected  decoder.x"), "{error}");
    std::fs::write(&names, format!("left_out = [\"decoder.*\"]\n{text}")).unwrap();
    load_torch(&weights, Some(names.clone())).unwrap();
    // Two names for one tensor.
    std::fs::write(&names, text.replace("blocks.{N}.norm2", "blocks.{N}.norm1")).unwrap();
    let error = load_torch(&weights, Some(names.clone())).unwrap_err();
    assert!(error.contains("blocks.0.norm1") && error.contains("two tensors"), "{error}");
    // A field that makes no model.
    std::fs::write(&names, text.replace("num_heads = 3", "num_heads = 5")).unwrap();
    let error = load_torch(&weights, Some(names)).unwrap_err();
    assert!(error.contains("5"), "{error}");
}

/// Names say nothing about the rest of a model that has a name of the catalogue.
#[test]
fn a_named_model_keeps_its_fields() {
    const NAME: &str = "vit_xsmall_patch16_clip_224"; // quick_gelu, epsilon 1e-5
    let named = ModelConfig::named(NAME).unwrap();
    let map = collect(&named.init(&Device::flex(), 1).unwrap());
    let mut mine = TensorMap::new("mine");
    mine.tensors = map.tensors.into_iter().map(|(name, tensor)| (format!("net.{name}"), tensor)).collect();
    let folder = tempfile::tempdir().unwrap();
    let (weights, names) = (folder.path().join("mine.safetensors"), folder.path().join("keys.toml"));
    std::fs::write(&weights, to_safetensors(&mine, None).unwrap()).unwrap();
    std::fs::write(&names, "prefix = \"net.\"\nrows = [[\"head\", \"head\"]]").unwrap();
    let options = LoadOptions { checkpoint: Some(weights), keys: Some(names), ..LoadOptions::new(NAME) };
    let loaded = load(&options, &Device::flex()).unwrap();
    assert_eq!(loaded.model.config(), named);
}

#[test]
fn unknown_names_are_refused_with_the_nearest_and_a_way() {
    let (mut map, _) = case("torch_encoder");
    let patches = map.tensors.remove("patch_embed.proj.weight").unwrap();
    map.tensors.insert("stem.weight".into(), patches);
    let error = to_timm(map).unwrap_err();
    let LoadError::Dialect { nearest, .. } = &error else { panic!("{error}") };
    assert_eq!((nearest.library, nearest.matched, nearest.names), ("torch.nn.TransformerEncoder", 24, 30));
    let said = error.to_string();
    assert!(
        said.contains("torch.nn.TransformerEncoder: 24 of 30") && said.contains("hint: a key file"),
        "{said}"
    );

    let mut other = TensorMap::new("resnet.pt");
    other.tensors.insert("layer1.conv1.kernel".into(), HostTensor::from_f32(vec![1], &[0.0]).unwrap());
    assert_eq!(nearest_of(&other), (0, "none of 1 names is like a known one".into()));
}

fn nearest_of(map: &TensorMap) -> (usize, String) {
    let nearest = nearest(map);
    (nearest.matched, nearest.to_string())
}

#[test]
fn what_is_suggested_is_enough_for_torchs_encoder() {
    let (map, case) = case("torch_encoder");
    // Other names around the encoder, and the whole within a wrapper.
    let renamed = |name: &str| match name {
        "patch_embed.proj.weight" => "model.to_patches.weight".to_string(),
        "patch_embed.proj.bias" => "model.to_patches.bias".into(),
        "pos_embed" => "model.positions".into(),
        "cls_token" => "model.class_vector".into(),
        _ => format!("model.{}", name.replace("head.", "classifier.")),
    };
    let mut odd = TensorMap::new("odd.pt");
    odd.tensors = map.tensors.iter().map(|(name, tensor)| (renamed(name), tensor.clone())).collect();
    let text = suggest_keys(&odd);
    assert!(
        text.contains("# Names of odd.pt; nearest are the names of torch.nn.TransformerEncoder: 24 of 30."),
        "{text}"
    );
    assert!(
        text.contains("[\"model.class_vector\", \"cls_token\", \"rank3\"],  # [1, 1, 24], a guess"),
        "{text}"
    );
    let keys = parse(&text.replace("# num_heads = 12", "num_heads = 3")).unwrap();
    let converted = to_timm_with(odd.clone(), &Known { keys: Some(&keys), ..Known::default() }).unwrap();
    assert_eq!(converted.dialect, Dialect::Custom);
    assert_eq!(converted.card().unwrap().config, ModelConfig::Vit(config(&case)));
    let expected = expected_tensors(&ModelConfig::Vit(config(&case)).skeleton(&Device::flex()).unwrap());
    assert_eq!(converted.map.names().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());

    // What nothing is known of stands there to be filled in.
    odd.tensors.insert("model.blocks.3.gate".into(), HostTensor::from_f32(vec![2], &[0.0; 2]).unwrap());
    odd.tensors.insert("model.\"q\"\n\u{7f}".into(), HostTensor::from_f32(vec![2], &[0.0; 2]).unwrap());
    let text = suggest_keys(&odd);
    assert!(text.contains("  # [\"model.blocks.{N}.gate\", \"?\"],  # [2]\n"), "{text}");
    parse(&text).unwrap();
}

/// A network of several kernels is no Vision Transformer: no row is a guess at one's names.
#[test]
fn names_of_other_networks_are_not_guessed() {
    let mut map = TensorMap::new("own.pt");
    for (name, shape) in [
        ("trunk.conv_a.weight", vec![4, 3, 3, 3]),
        ("trunk.conv_b.weight", vec![4, 4, 3, 3]),
        ("trunk.norm.weight", vec![4]),
        ("classifier.weight", vec![7, 4]),
    ] {
        let values = vec![0.0; shape.iter().product()];
        map.tensors.insert(name.into(), HostTensor::from_f32(shape, &values).unwrap());
    }
    let text = suggest_keys(&map);
    assert!(
        text.contains("# 2 kernels: not a plain Vision Transformer. Name the family, one of vit, deit,"),
        "{text}"
    );
    assert!(!text.contains("a guess") && !text.contains("num_heads"), "{text}");
    assert!(text.contains("  # [\"trunk.conv_a.weight\", \"?\"],  # [4, 3, 3, 3]\n"), "{text}");
    parse(&text.replace("# family = \"?\"", "family = \"resnet\"")).unwrap();
}

#[test]
fn suggestions_know_the_dialects() {
    for (name, library) in [
        ("hf4", "Hugging Face"),
        ("torchvision", "torchvision"),
        ("cls", "timm"),
        ("lucidrains_1_26", "vit-pytorch"),
    ] {
        let (map, _) = case(name);
        let found = nearest(&map);
        assert_eq!((found.library, found.matched), (library, found.names), "{name}");
    }
}

/// The configuration of vit-pytorch's models from their tensors, and what these do not show.
#[test]
fn vit_pytorch_is_known_by_its_tensors() {
    let folder = format!("{}/../../fixtures/golden/parity", env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if !name.starts_with("lucidrains") || path.extension().unwrap() != "json" {
            continue;
        }
        let (map, case) = case(name);
        let expected = config(&case);
        let [h, w] = expected.img_size;
        let heads = if name.ends_with("one_head") { "" } else { "num_heads = 3\n" };
        let mean = if name.ends_with("1_15_mean") {
            "global_pool = \"avg\"\nfc_norm = false\npool_include_prefix = true\n"
        } else {
            ""
        };
        let keys = parse(&format!("[config]\n{heads}{mean}img_size = [{h}, {w}]")).unwrap();
        let known = Known { keys: Some(&keys), ..Known::default() };
        let converted = to_timm_with(map, &known).unwrap();
        assert_eq!(converted.dialect, Dialect::Lucidrains, "{name}");
        let card = converted.card().unwrap();
        assert_eq!(card.config, ModelConfig::Vit(expected), "{name}");
        let warned = converted.map.notes.iter().any(|note| note.contains("0.6.7"));
        assert_eq!(warned, name == "lucidrains_0_6", "{name}");
        seen += 1;
    }
    assert!(seen >= 19, "{seen} cases");
}

/// Pixels in the order rows, columns, channels; patches that are no squares only where they are told.
#[test]
fn patches_of_any_shape() {
    let rows = [1usize, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12].map(|n| n as f32);
    let mut map = TensorMap::new("patches");
    map.tensors.insert("w".into(), HostTensor::from_f32(vec![1, 12], &rows).unwrap());
    map.tensors.insert("g".into(), HostTensor::from_f32(vec![12], &rows).unwrap());
    let convert = |config: &str| {
        let keys = parse(&format!(
            "rows = [[\"w\", \"patch_embed.proj.weight\", \"pixels\"], [\"g\", \"patch_embed.norm_pixels.weight\", \"pixels\"]]\n\
             [config]\n{config}"
        ))
        .unwrap();
        let known = Known { keys: Some(&keys), ..Known::default() };
        to_timm_with(map.clone(), &known).map(|converted| converted.map)
    };
    let square = convert("").unwrap(); // 2 by 2, 3 channels
    let kernel = &square.tensors["patch_embed.proj.weight"];
    let expected = [1.0, 4.0, 7.0, 10.0, 2.0, 5.0, 8.0, 11.0, 3.0, 6.0, 9.0, 12.0];
    assert_eq!((kernel.shape(), kernel.to_f32()), (&[1, 3, 2, 2][..], expected.to_vec()));
    assert_eq!(square.tensors["patch_embed.norm_pixels.weight"].to_f32(), expected);
    let wide = convert("patch_size = [1, 4]").unwrap();
    assert_eq!(wide.tensors["patch_embed.proj.weight"].shape(), [1, 3, 1, 4]);
    assert_eq!(wide.tensors["patch_embed.proj.weight"].to_f32(), expected);
    let one = convert("patch_size = [3, 4]\nin_chans = 1").unwrap();
    assert_eq!(one.tensors["patch_embed.proj.weight"].to_f32(), rows);
    for told in ["in_chans = 2", "patch_size = 5", "patch_size = [2, 2]\nin_chans = 1"] {
        let error = convert(told).unwrap_err().to_string();
        assert!(error.contains("`g`") || error.contains("`w`"), "{told}: {error}");
    }
}
