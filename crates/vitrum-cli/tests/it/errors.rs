//! Bad input: a sentence on stderr, exit code 1 or 2, nothing written, never a panic.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vitrum::checkpoint::{HostTensor, TensorMap};

use crate::sandbox::{Sandbox, noise};

const FORWARD: &str = "forward -m model --output out.safetensors --input";

/// A safetensors file whose header says this of `input`, with `data` behind it.
fn declared(dtype: &str, shape: &Value, bytes: u64, data: &[u8]) -> Vec<u8> {
    let header =
        json!({ "input": { "dtype": dtype, "shape": shape, "data_offsets": [0, bytes] } }).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn inputs_of_forward_and_verify() {
    let sandbox = Sandbox::new();
    sandbox.input("good", [2, 3, 32, 32]);
    let whole = std::fs::read(sandbox.path("good")).expect("a file");
    sandbox.write("empty", "");
    sandbox.write("text", "this is no checkpoint at all");
    sandbox.write("cut", &whole[..whole.len() - 5]);
    sandbox.write("header-cut", &whole[..20]);
    sandbox.write("header-huge", [&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    sandbox.write("ints", declared("I32", &json!([1, 1, 1, 1]), 4, &[0; 4]));
    sandbox.write("tb", declared("F32", &json!([1_000_000, 3, 1000, 1000]), 12_000_000_000_000, b""));
    sandbox.write("overflow", declared("F32", &json!([1u64 << 62, 4, 1u64 << 62, 2]), 0, b""));
    sandbox.write("zero-huge", declared("F32", &json!([0, 3, 1u64 << 60, 8]), 0, b""));
    sandbox.tensors("rank", &[("input", &[3, 32, 32], &noise(1, 3072))]);
    sandbox.tensors("batch", &[("input", &[0, 3, 32, 32], &[])]);
    sandbox.tensors("small", &[("input", &[1, 3, 4, 32], &noise(1, 384))]);
    sandbox.tensors("name", &[("images", &[1, 3, 32, 32], &noise(1, 3072))]);
    let with = |value: f32| [&[value], &noise(1, 3071)[..]].concat();
    sandbox.tensors("nan", &[("input", &[1, 3, 32, 32], &with(f32::NAN))]);
    sandbox.tensors("inf", &[("input", &[1, 3, 32, 32], &with(f32::INFINITY))]);
    for (file, texts) in [
        ("missing", vec!["missing: ", "No such file"]),
        ("model", vec!["model: ", "folder"]),
        ("empty", vec!["empty: ", "empty", "hint:"]),
        ("text", vec!["text: ", "hint:"]),
        ("cut", vec!["cut: ", "the file holds"]),
        ("header-cut", vec!["header-cut: "]),
        ("header-huge", vec!["header-huge: ", "header"]),
        ("ints", vec!["ints: ", "`input`"]),
        ("tb", vec!["tb: ", "the file holds"]),
        ("overflow", vec!["overflow: "]),
        ("zero-huge", vec!["zero-huge: "]),
        ("rank", vec!["rank: ", "[3, 32, 32]", "[B, C, H, W]"]),
        ("batch", vec!["batch: ", "is empty"]),
        ("small", vec!["4x32 holds no patch of 8x8"]),
        ("name", vec!["name: ", "no tensor `input`", "hint: found images"]),
        ("nan", vec!["nan: ", "1 values that are NaN or infinite"]),
        ("inf", vec!["inf: ", "1 values that are NaN or infinite"]),
    ] {
        sandbox.fails(&format!("{FORWARD} {file}"), 1, &texts);
        sandbox.fails(&format!("verify -m model --against {file}"), 1, &texts);
    }
    sandbox.ok(&format!("{FORWARD} good"));
}

#[test]
fn a_cause_is_told_once() {
    let sandbox = Sandbox::new();
    let err = sandbox.ends(&format!("{FORWARD} missing"), 1).err;
    assert_eq!(err.matches("No such file").count(), 1, "{err}");
    sandbox.write("empty.png", "");
    let err = sandbox.ends("embed empty.png -m model", 1).err;
    assert_eq!(err.matches("the file is empty").count(), 1, "{err}");
}

#[test]
fn flags_of_the_model() {
    let sandbox = Sandbox::new();
    sandbox.input("in", [1, 3, 32, 32]);
    let args = format!("{FORWARD} in");
    for (flags, code, texts) in [
        ("--img-size 0", 2, vec!["--img-size"]),
        ("--img-size 1000000", 1, vec!["img_size"]),
        ("--img-size 1", 1, vec!["no patch"]),
        ("--img-size 32x", 2, vec!["--img-size"]),
        ("--threads 100000000", 1, vec!["--threads", "hint:"]),
        ("--threads=-1", 2, vec!["--threads"]),
        ("--num-classes 99999999999", 1, vec!["num_classes"]),
        ("--model-kwargs dept=3", 1, vec!["dept", "hint: did you mean depth"]),
        ("--model-kwargs depth=three", 1, vec!["model-kwargs"]),
        ("--model-kwargs depth=999999999", 1, vec!["depth"]),
        ("--model-kwargs depth=1", 1, vec!["unexpected", "blocks.1"]),
        ("--model-kwargs embed_dim=32", 1, vec!["mismatched", "hint:"]),
        ("--model-kwargs act_layer=swish", 1, vec!["model-kwargs"]),
        ("--pos-resize closest", 2, vec!["bicubic_antialias"]),
        ("--dtype f8", 2, vec!["--dtype"]),
        ("--device gpu", 2, vec!["--device", "cuda:N"]),
        ("--device cuda:x", 2, vec!["--device", "cuda:N"]),
        ("--device cuda:99999", 2, vec!["--device", "cuda:N"]),
        ("--attention", 2, vec!["--trace"]),
        ("--checkpoint nowhere.safetensors", 1, vec!["nowhere.safetensors"]),
        ("--checkpoint model/config.json", 1, vec!["config.json"]),
        ("--batch-size=-1", 2, vec!["--batch-size"]),
    ] {
        sandbox.fails(&format!("{args} {flags}"), code, &texts);
    }
    if !cfg!(feature = "vulkan") {
        sandbox.fails(&format!("{args} --device vulkan"), 1, &["--device", "hint:"]);
    }
    // With the feature on a machine without a GPU too.
    sandbox.fails(&format!("{args} --device cuda:9"), 1, &["--device", "CUDA", "hint:"]);
    if !cfg!(feature = "cubecpu") {
        sandbox.fails(&format!("{args} --device cubecpu"), 1, &["--device", "--features cubecpu"]);
    }
    sandbox.ok(&format!("{args} --threads 64 --batch-size 1000000000000"));
}

#[test]
fn models_that_are_none() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    for (model, texts) in [
        ("vit_bse_patch16_224", vec!["vit_bse_patch16_224", "hint: did you mean vit_base_patch16_224"]),
        ("./nowhere", vec!["./nowhere", "no such file or folder", "hint:"]),
        ("vit_base_patch16_224", vec!["a name alone has no weights", "hint: add --checkpoint"]),
        ("a.png", vec!["a.png"]),
        ("hf:no/such", vec!["no/such", "hint:"]),
    ] {
        sandbox.fails(&format!("predict a.png -m {model}"), 1, &texts);
    }
    sandbox.fails("predict a.png", 2, &["--model"]);
    std::fs::create_dir(sandbox.path("void")).expect("a folder");
    sandbox.fails("predict a.png -m void", 1, &["void"]);
}

#[test]
fn cards_that_describe_no_model() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    let card: Value = serde_json::from_str(&sandbox.read("model/config.json")).expect("JSON");
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 12] = [
        (|c| c["model_args"]["depth"] = json!(1_000_000_000), "depth"),
        (|c| c["model_args"]["depth"] = json!(1e30), "depth"),
        (|c| c["model_args"]["depth"] = json!("two"), "depth"),
        (|c| c["model_args"]["embed_dim"] = json!(2_048), "parameters"),
        (|c| c["model_args"]["img_size"] = json!(10_000_000), "img_size"),
        (|c| c["model_args"]["num_heads"] = json!(3), "num_heads"),
        (|c| c["model_args"]["sizzle"] = json!(3), "sizzle"),
        (|c| c["architecture"] = json!("vit_bse_patch16_224"), "did you mean vit_base_patch16_224"),
        (|c| c["pretrained_cfg"]["mean"] = json!([0.5, 0.5]), "mean"),
        (|c| c["pretrained_cfg"]["std"] = json!([0, 0, 0]), "std"),
        (|c| c["pretrained_cfg"]["input_size"] = json!([3, 1_000_000_000, 1_000_000_000u64]), "input_size"),
        (|c| *c = json!({}), "architecture"),
    ];
    for (change, text) in changes {
        let mut changed = card.clone();
        change(&mut changed);
        sandbox.write("model/config.json", changed.to_string());
        sandbox.fails("predict a.png -m model", 1, &["model/config.json", text]);
        sandbox.fails("checkpoint convert model out", 1, &["model/config.json", text]);
    }
    let mut wide = card.clone();
    wide["model_args"]["embed_dim"] = json!(32);
    sandbox.write("model/config.json", wide.to_string());
    sandbox.fails("predict a.png -m model", 1, &["mismatched", "[1, 1, 16] -> [1, 1, 32]"]);
    sandbox.fails("checkpoint convert model out", 1, &["mismatched", "[1, 1, 16] -> [1, 1, 32]"]);
    sandbox.write("model/config.json", "{");
    sandbox.fails("predict a.png -m model", 1, &["model/config.json"]);
    sandbox.write("model/config.json", "[".repeat(1_000_000));
    sandbox.fails("predict a.png -m model", 1, &["model/config.json"]);
}

#[test]
fn weights_that_are_broken() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    let weights = "model/model.safetensors";
    let whole = std::fs::read(sandbox.path(weights)).expect("weights");
    for bytes in [&whole[..0], &whole[..7], &whole[..100], &whole[..whole.len() - 1]] {
        sandbox.write(weights, bytes);
        for command in [
            "predict a.png -m model",
            "checkpoint inspect model",
            "checkpoint verify model",
            "checkpoint diff model model",
        ] {
            sandbox.fails(command, 1, &["model.safetensors"]);
        }
    }
    let mut map = TensorMap::new(sandbox.path(weights));
    map.tensors.insert("not.a.vit".into(), HostTensor::from_f32(vec![2], &[0.0, 1.0]).expect("two values"));
    sandbox.store(weights, &map);
    sandbox.fails("predict a.png -m model", 1, &["model"]);
    assert!(sandbox.ok("checkpoint inspect model/model.safetensors").out.contains("not.a.vit"));
    std::fs::remove_file(sandbox.path(weights)).expect("removed");
    sandbox.fails("predict a.png -m model", 1, &["model"]);
}

#[test]
fn pictures_and_their_preprocessing() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    std::fs::create_dir(sandbox.path("void")).expect("a folder");
    for (args, code, texts) in [
        ("missing.png", 1, vec!["missing.png", "no such file"]),
        ("void", 1, vec!["void: no images", "hint:"]),
        ("", 2, vec!["IMG"]),
        ("a.png --topk 0", 1, vec!["--topk"]),
        ("a.png --batch-size 0", 1, vec!["--batch-size"]),
        ("a.png --crop-pct NaN", 1, vec!["crop_pct"]),
        ("a.png --crop-pct 0", 1, vec!["crop_pct"]),
        ("a.png --crop-mode round", 1, vec!["--crop-mode 'round'", "center"]),
        ("a.png --interpolation sinc", 1, vec!["--interpolation 'sinc'", "bicubic"]),
        ("a.png --mean 1 2", 1, vec!["mean"]),
        ("a.png --std 0", 1, vec!["std"]),
        ("a.png --class-map missing.txt", 1, vec!["missing.txt"]),
        ("a.png --max-image-pixels 100", 1, vec!["a.png", "100"]),
        ("a.png --max-image-side 31", 1, vec!["a.png", "31"]),
    ] {
        sandbox.fails(&format!("predict {args} -m model"), code, &texts);
    }
    let all = "a.png --topk 99999999999 --batch-size 99999999999";
    assert_eq!(sandbox.ok(&format!("predict {all} -m model")).out.lines().count(), 11);
}

#[cfg(unix)]
#[test]
fn a_pipe_among_pictures_is_not_waited_for() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("photos")).expect("a folder");
    sandbox.picture("photos/a.png", 1);
    let made = std::process::Command::new("mkfifo").arg(sandbox.path("photos/b.png")).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mkfifo here");
        return;
    }
    assert_eq!(sandbox.ok("predict photos -m model --format json").json().as_array().map(Vec::len), Some(1));
}

#[cfg(target_os = "linux")]
#[test]
fn endless_files_end() {
    let sandbox = Sandbox::new();
    sandbox.fails("predict /dev/zero -m model", 1, &["/dev/zero", "limit"]);
    sandbox.fails("val /dev/null -m model", 1, &["/dev/null"]);
}

/// What is larger than this machine is refused at once, not begun.
#[cfg(target_os = "linux")]
#[test]
fn what_does_not_fit_into_memory() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.input("in", [1, 3, 32, 32]);
    let start = Instant::now();
    // A position table of 2^32 rows of 65536 numbers each, and a model of 4096 wide blocks.
    let table = "--img-size 16384 --model-kwargs patch_size=1 embed_dim=65536 num_heads=16 mlp_ratio=1.0";
    let blocks = "--model-kwargs embed_dim=32768 depth=1000 num_heads=16 mlp_ratio=1.0";
    for flags in [table, blocks] {
        sandbox.fails(
            &format!("forward -m test_vit --input in --output out {flags}"),
            1,
            &["of memory", "GB are free"],
        );
        sandbox.fails(&format!("{FORWARD} in {flags}"), 1, &["of memory", "hint:"]);
        sandbox.fails(&format!("predict a.png -m model {flags}"), 1, &["of memory", "hint:"]);
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[cfg(target_os = "linux")]
#[test]
fn nobody_reads_stderr() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.write("bad.png", "no picture");
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    for (args, code) in [("predict missing.png -m model", 1), ("predict bad.png -m model -q", 1)] {
        let status = sandbox.command(args.split_whitespace()).stderr(full()).status().expect("runs");
        assert_eq!(status.code(), Some(code), "vitrum {args}");
    }
}

#[test]
fn usage() {
    let sandbox = Sandbox::empty();
    for args in
        ["train", "predict", "val", "forward -m x", "models", "models shape", "checkpoint diff a", "--nope"]
    {
        sandbox.fails(args, 2, &["Usage"]);
    }
    sandbox.fails("predct a.png", 2, &["predict"]);
}

/// Found by fuzzing: a JPEG over which another decoder's code panics. Pillow reads it with a warning, and so is it here.
#[test]
fn a_damaged_jpeg_is_read_as_pillow_reads_it_and_that_is_said() {
    let sandbox = Sandbox::new();
    sandbox.write("bad.jpg", include_bytes!("../../../../fixtures/golden/hostile/decoder_panics.jpg"));
    let ran = sandbox.ok("predict -m model bad.jpg");
    assert!(ran.err.contains("bad.jpg: ") && ran.err.contains("damaged"), "{}", ran.err);
}
