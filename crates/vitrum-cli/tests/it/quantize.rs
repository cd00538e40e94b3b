//! `vitrum quantize`, and models in eight bits in other commands.

use serde_json::{Value, json};
use vitrum::checkpoint::Dtype;

use crate::sandbox::Sandbox;

/// Probability of each class of `a.png`, by index.
fn probabilities(answers: &Value) -> Vec<f64> {
    let answers = answers[0]["predictions"].as_array().expect("answers");
    let mut all = vec![0.0; answers.len()];
    for answer in answers {
        all[answer["index"].as_u64().expect("an index") as usize] =
            answer["prob"].as_f64().expect("a number");
    }
    all
}

#[test]
fn a_folder_in_eight_bits_works_like_any_other() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.picture("b.png", 2);
    let done = sandbox.ok("quantize -m model -o small --images a.png b.png --format json").json();
    let layers = done["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 8);
    assert_eq!(
        (&layers[0]["layer"], &layers[7]["layer"]),
        (&json!("blocks.0.attn.qkv"), &json!("blocks.1.mlp.fc2"))
    );
    assert!(layers.iter().all(|layer| (1e-4..0.02).contains(&layer["error"].as_f64().expect("a number"))));
    assert_eq!(layers[0]["bytes_before"], 48 * 16 * 4);
    assert_eq!(layers[0]["bytes_after"], 48 * 16 + 48 * 4);
    assert_eq!(done["agreement"]["images"], 2);
    assert!(done["agreement"]["largest_change"].as_f64().expect("a number") < 0.2, "{done}");
    let map = sandbox.load("small/model.safetensors");
    assert_eq!(map.get("blocks.0.mlp.fc2.weight").expect("a weight").dtype(), Dtype::I8);
    assert_eq!(map.get("head.weight").expect("the head").dtype(), Dtype::F32);

    let of = |flags: &str| {
        probabilities(&sandbox.ok(&format!("predict a.png --topk 10 --format json {flags}")).json())
    };
    let (float, int8) = (of("-m model"), of("-m small"));
    assert_eq!(of("-m model --precision int8"), int8);
    assert_eq!(of("-m small --precision f32"), int8);
    let change = float.iter().zip(&int8).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(change > 0.0 && change < 0.2, "{float:?} {int8:?}");
    sandbox.ok("embed a.png -m small --output features.npy");
    sandbox.ok("val demo -m small --limit 4 --precision int8");
    let inspected = sandbox.ok("checkpoint inspect small").out;
    assert!(inspected.contains("i8") && inspected.contains("blocks.1.attn.proj.weight_scale"), "{inspected}");
    let said = sandbox.ok("predict a.png -m small -v").err;
    assert!(said.contains("int8: 8 layers"), "{said}");
}

#[test]
fn bench_tells_the_precision() {
    let sandbox = Sandbox::new();
    sandbox.ok("quantize -m model -o small");
    let rows = |flags: &str| sandbox.ok(&format!("bench --runs 1 --warmup 0 --format json {flags}")).json();
    assert_eq!(rows("-m model")[0]["precision"], "f32");
    assert_eq!(rows("-m model --precision int8")[0]["precision"], "int8");
    assert_eq!(rows("-m small")[0]["precision"], "int8");
    assert_eq!(rows("-m test_vit --precision int8")[0]["precision"], "int8");
    assert_eq!(rows("-m model --precision bf16")[0]["precision"], "bf16");
    assert_eq!(rows("-m test_vit --precision bf16")[0]["precision"], "bf16");
    let step = rows("-m model --precision bf16 --train --batch-sizes 1");
    assert_eq!((&step[0]["precision"], &step[0]["pass"]), (&json!("bf16"), &json!("train")));
    let text = sandbox.ok("bench -m model --precision bf16 --runs 1 --warmup 0 --batch-sizes 1 -v");
    assert!(text.out.contains("bf16") && text.err.contains("bf16: 8 layers, "), "{}{}", text.out, text.err);
    sandbox.fails("bench -m model --precision f16", 2, &["only in bf16", "f32, bf16 or int8"]);
    sandbox.fails("bench -m small --train --batch-sizes 1", 1, &["--train needs a model in f32"]);
    sandbox.fails("bench -m small --train --precision bf16", 1, &["--train needs a model in f32"]);
    for precision in ["bf16", "int8"] {
        let flags = format!("bench -m model --data demo --precision {precision}");
        sandbox.fails(&flags, 1, &["--data", "no model", "hint:"]);
        let flags = format!("bench -m resnet10t --precision {precision}");
        sandbox.fails(&flags, 1, &["no linear layers", "leave out --precision"]);
    }
}

#[test]
fn answers_in_bf16() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    let of = |flags: &str| {
        probabilities(&sandbox.ok(&format!("predict a.png --topk 10 --format json {flags}")).json())
    };
    let (float, rounded) = (of("-m model"), of("-m model --precision bf16"));
    let change = float.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(change > 0.0 && change < 0.02, "{float:?} {rounded:?}");
    sandbox.ok("val demo -m model --limit 4 --precision bf16");
    sandbox.ok("embed a.png -m model --precision bf16 --output features.npy");
    sandbox.input("in.safetensors", [1, 3, 32, 32]);
    let forward = "forward --input in.safetensors --output out.safetensors -m model --precision bf16";
    sandbox.ok(forward);
    sandbox.fails(&format!("{forward} --dtype f64"), 1, &["--precision bf16", "f32", "hint:"]);
    sandbox.ok("quantize -m model -o small");
    sandbox.fails("predict a.png -m small --precision bf16", 1, &["int8 weights", "bf16", "hint:"]);
}

#[test]
fn skipped_layers_and_reports() {
    let sandbox = Sandbox::new();
    let text = sandbox.ok("quantize -m model -o small --skip blocks.0.* --skip *.fc2").out;
    assert!(text.contains("3 int8 layers") && !text.contains("blocks.0."), "{text}");
    assert!(!sandbox.load("small/model.safetensors").contains("blocks.0.attn.qkv.weight_scale"));
    let rows = sandbox.ok("quantize -m model -o small --overwrite --format csv").csv();
    assert_eq!(rows.len(), 8);
    sandbox.fails("quantize -m model -o none --skip *", 1, &["leaves no layer"]);
    assert!(!sandbox.has("none"));
}

#[test]
fn what_eight_bits_cannot_do_is_said() {
    let sandbox = Sandbox::new();
    sandbox.ok("quantize -m model -o small");
    sandbox.fails("quantize -m model -o small", 1, &["small exists already", "--overwrite"]);
    sandbox.fails("quantize -m small -o smaller", 1, &["int8 weights", "hint:"]);
    sandbox.fails("checkpoint convert small out --to hf", 1, &["int8 weights", "hint:"]);
    sandbox.fails("train demo --model small --epochs 1", 1, &["cannot be trained", "hint:"]);
    sandbox.input("in.safetensors", [1, 3, 32, 32]);
    let forward = "forward --input in.safetensors --output out.safetensors";
    sandbox.ok(&format!("{forward} -m small"));
    sandbox.fails(&format!("{forward} -m small --dtype f64"), 1, &["only in f32", "hint:"]);
    sandbox.fails(
        &format!("{forward} -m model --dtype f64 --precision int8"),
        1,
        &["--precision int8", "hint:"],
    );
}
