//! `vitrum checkpoint`.

use serde_json::{Value, json};
use vitrum::checkpoint::{Dtype, HostTensor};

use crate::sandbox::Sandbox;

#[test]
fn inspect_tells_names_shapes_and_statistics() {
    let sandbox = Sandbox::new();
    let found = sandbox.ok("checkpoint inspect model --format json").json();
    let map = sandbox.load("model/model.safetensors");
    let tensors = found["tensors"].as_array().expect("tensors");
    assert_eq!(tensors.len(), map.len());
    let of = |name: &str| tensors.iter().find(|t| t["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(of("blocks.1.attn.qkv.weight")["shape"], json!([48, 16]));
    let values = map.get("pos_embed").expect("positions").to_f64();
    let largest = values.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(of("pos_embed")["stats"]["max"].as_f64(), Some(largest));
    let text = sandbox.ok("checkpoint inspect model").out;
    assert!(text.contains("dialect: timm"), "{text}");
    assert!(
        text.contains("model: test_vit (32x32, patch 8x8, width 16, depth 2, heads 2, classes 10)"),
        "{text}"
    );
    let rows = sandbox.ok("checkpoint inspect model/model.safetensors --stats --format csv").csv();
    assert_eq!(rows.len(), map.len());
    assert!(rows.iter().all(|row| row["sha256"].len() == 64 && row["NaN"] == "0"));
}

#[test]
fn there_and_back_is_bit_identical() {
    let sandbox = Sandbox::new();
    sandbox.ok("checkpoint convert model hf --to hf");
    let config: Value = serde_json::from_str(&sandbox.read("hf/config.json")).expect("JSON");
    assert_eq!(config["model_type"], "vit");
    assert_eq!(config["hidden_size"], 16);
    assert!(sandbox.has("hf/preprocessor_config.json"));
    let hf = sandbox.load("hf/model.safetensors");
    assert!(hf.names().any(|name| name.contains("attention.attention.query")), "Hugging Face's names");

    sandbox.ok("checkpoint convert hf back --to timm");
    let ran = sandbox.ok("checkpoint diff model/model.safetensors back/model.safetensors");
    assert!(ran.out.contains("agree"), "{}", ran.out);
    let (a, b) = (sandbox.load("model/model.safetensors"), sandbox.load("back/model.safetensors"));
    assert_eq!(a.tensors, b.tensors);
    // The two dialects agree as well, under one set of names.
    let ran = sandbox.ok("checkpoint diff model hf --format json").json();
    assert_eq!((&ran["agrees"], &ran["diff"]["converted"]), (&json!(true), &json!(true)));

    // And they are the same model: preprocessing, labels, answers.
    sandbox.picture("a.png", 1);
    let answer = |model: &str| sandbox.ok(&format!("predict a.png -m {model} --format json")).json();
    assert_eq!(answer("model"), answer("hf"));
    assert_eq!(answer("model"), answer("back"));
}

#[test]
fn half_precision() {
    let sandbox = Sandbox::new();
    for (dtype, expected, tolerance) in [("f16", Dtype::F16, "1e-3"), ("bf16", Dtype::BF16, "1e-2")] {
        sandbox.ok(&format!("checkpoint convert model {dtype} --dtype {dtype}"));
        let map = sandbox.load(&format!("{dtype}/model.safetensors"));
        assert!(map.tensors.values().all(|tensor| tensor.dtype() == expected));
        assert!(sandbox.ends(&format!("checkpoint diff model {dtype}"), 3).out.contains("differ"));
        sandbox.ok(&format!("checkpoint diff model {dtype} --tolerance {tolerance}"));
    }
}

#[test]
fn a_folder_that_holds_something_is_kept() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("out")).expect("a folder");
    sandbox.write("out/notes.txt", "mine");
    sandbox.fails("checkpoint convert model out", 1, &["out", "hint:"]);
    assert!(!sandbox.has("out/model.safetensors"));
    sandbox.ok("checkpoint convert model out --overwrite");
    assert_eq!(sandbox.read("out/notes.txt"), "mine");
    sandbox.ok("checkpoint diff model out");
    sandbox.write("file", "not a folder");
    sandbox.fails("checkpoint convert model file", 1, &["file"]);
    assert_eq!(sandbox.read("file"), "not a folder");
}

#[test]
fn weights_alone_need_a_name() {
    let sandbox = Sandbox::new();
    std::fs::copy(sandbox.path("model/model.safetensors"), sandbox.path("w.safetensors")).expect("a copy");
    let ran = sandbox.ok("checkpoint convert w.safetensors out -m model");
    assert!(ran.err.contains("tensors from"), "{}", ran.err);
    sandbox.ok("checkpoint diff model out");
    sandbox.fails("checkpoint convert nothing out", 1, &["nothing", "no such file"]);
}

#[test]
fn diff_names_what_differs() {
    let sandbox = Sandbox::new();
    let mut map = sandbox.load("model/model.safetensors");
    let bias = map.get("head.bias").expect("a head").clone();
    let mut changed = bias.to_f32();
    changed[3] += 0.5;
    map.tensors.insert("head.bias".into(), HostTensor::from_f32(vec![10], &changed).expect("ten values"));
    map.tensors.remove("norm.bias");
    map.tensors
        .insert("cls_token".into(), HostTensor::from_f32(vec![1, 1, 8], &[0.0; 8]).expect("eight values"));
    sandbox.store("other.safetensors", &map);
    let ran = sandbox.ends("checkpoint diff model other.safetensors --format json", 3).json();
    assert_eq!(ran["agrees"], false);
    assert_eq!(ran["diff"]["only_a"], json!(["norm.bias"]));
    assert_eq!(ran["diff"]["only_b"], json!([]));
    assert_eq!(ran["diff"]["shapes"], json!([["cls_token", [1, 1, 16], [1, 1, 8]]]));
    let rows = sandbox.ends("checkpoint diff model other.safetensors --format csv", 3).csv();
    let names: Vec<&str> = rows.iter().map(|row| row["tensor"].as_str()).collect();
    assert_eq!(names, ["norm.bias", "cls_token", "head.bias"]);
    assert_eq!(rows[2]["largest"], "5.000e-1");
}

#[test]
fn verify_checks_sums_and_values() {
    let sandbox = Sandbox::new();
    let found = sandbox.ok("checkpoint verify model --format json").json();
    let sum = found["sha256"].as_str().expect("a sum").to_string();
    let inspected = sandbox.ok(&format!("checkpoint verify model --sha256 {sum}")).out;
    assert!(inspected.contains("as stated") && inspected.contains("all values are finite"), "{inspected}");
    sandbox.ok(&format!("checkpoint verify model --sha256 {}", sum.to_uppercase()));
    let wrong = "0".repeat(64);
    sandbox.fails(
        &format!("checkpoint verify model --sha256 {wrong}"),
        1,
        &["model.safetensors", &sum, &wrong],
    );

    let bytes = std::fs::read(sandbox.path("model/model.safetensors")).expect("a file");
    sandbox.write("short.safetensors", &bytes[..bytes.len() - 1]);
    sandbox.fails("checkpoint verify short.safetensors", 1, &["short.safetensors", "holds"]);

    let mut map = sandbox.load("model/model.safetensors");
    let broken = [f32::NAN, f32::INFINITY, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    map.tensors.insert("head.bias".into(), HostTensor::from_f32(vec![10], &broken).expect("ten values"));
    sandbox.store("broken.safetensors", &map);
    let ran = sandbox.ends("checkpoint verify broken.safetensors", 3);
    assert!(ran.out.contains("head.bias: 1 NaN, 1 infinite"), "{}", ran.out);
}
