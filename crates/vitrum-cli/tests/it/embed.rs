//! `vitrum embed`.

use serde_json::Value;

use crate::sandbox::{Sandbox, difference};

fn features(line: &str) -> Vec<f64> {
    let value: Value = serde_json::from_str(line).expect("a line of JSON");
    value["features"].as_array().expect("features").iter().map(|v| v.as_f64().expect("a number")).collect()
}

#[test]
fn lines_npy_and_safetensors_hold_what_forward_gives() {
    let sandbox = Sandbox::new();
    let (a, b) = (sandbox.picture("a.png", 1), sandbox.picture("b.png", 2));
    sandbox.tensors("in.safetensors", &[("input", &[2, 3, 32, 32], &[a, b].concat())]);
    sandbox.ok("forward -m model --input in.safetensors --output out.safetensors");
    let out = sandbox.load("out.safetensors");
    let tokens = out.get("features").expect("features");
    assert_eq!(tokens.shape(), [2, 17, 16]);
    // The class token is what the head sees.
    let expected: Vec<f64> = tokens.to_f64().chunks(17 * 16).flat_map(|image| image[..16].to_vec()).collect();

    let lines = sandbox.ok("embed a.png b.png -m model").out;
    let found: Vec<f64> = lines.lines().flat_map(features).collect();
    assert!(difference(&found, &expected) < 1e-5);
    let files: Vec<bool> = lines
        .lines()
        .zip(["a.png", "b.png"])
        .map(|(line, file)| line.contains(&format!("\"file\":\"{file}\"")))
        .collect();
    assert_eq!(files, [true, true]);

    sandbox.ok("embed a.png b.png -m model --output lines.jsonl --batch-size 1");
    let written: Vec<f64> = sandbox.read("lines.jsonl").lines().flat_map(features).collect();
    assert!(difference(&written, &expected) < 1e-5);

    sandbox.ok("embed a.png b.png -m model --output features.safetensors");
    let file = sandbox.load("features.safetensors");
    assert_eq!(file.get("features").expect("features").shape(), [2, 16]);
    assert!(difference(&file.get("features").expect("features").to_f64(), &expected) < 1e-5);
    assert_eq!(file.metadata["files"], r#"["a.png","b.png"]"#);

    sandbox.ok("embed a.png b.png -m model --output features.npy");
    let bytes = std::fs::read(sandbox.path("features.npy")).expect("a file");
    let npy = npyz::NpyFile::new(&bytes[..]).expect("a NumPy file");
    assert_eq!(npy.shape(), [2, 16]);
    let values: Vec<f32> = npy.into_vec().expect("floats");
    assert!(difference(&values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), &expected) < 1e-5);

    sandbox.ok("embed a.png b.png -m model --kind tokens --output tokens.safetensors");
    let all = sandbox.load("tokens.safetensors");
    assert_eq!(all.get("features").expect("features").shape(), [2, 17, 16]);
    assert!(difference(&all.get("features").expect("features").to_f64(), &tokens.to_f64()) < 1e-5);
}

#[test]
fn normalised_vectors_have_length_one() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    let length = |line: &str| features(line).iter().map(|v| v * v).sum::<f64>().sqrt();
    let plain = sandbox.ok("embed a.png -m model").out;
    let unit = sandbox.ok("embed a.png -m model --normalize").out;
    assert!((length(&plain) - 1.0).abs() > 1e-3, "another length without the flag");
    assert!((length(&unit) - 1.0).abs() < 1e-6);
    let scaled: Vec<f64> = features(&plain).iter().map(|v| v / length(&plain)).collect();
    assert!(difference(&features(&unit), &scaled) < 1e-6, "the same direction");
}

#[test]
fn one_unreadable_image_ends_it_and_nothing_is_written() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.write("empty.png", "");
    sandbox.fails("embed a.png empty.png -m model --output x.npy", 1, &["empty.png", "the file is empty"]);
    sandbox.fails("embed a.png -m model --kind tokens", 1, &["--kind tokens", "hint:"]);
    sandbox.fails("embed a.png -m model --format npy", 1, &["--output"]);
    sandbox.fails("embed a.png -m model --kind tokens --normalize --output x.npy", 1, &["--normalize"]);
}
