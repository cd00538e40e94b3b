//! `vitrum pretrain`, `vitrum reconstruct`, and the other verbs with a model that predicts masked patches.

use vitrum::checkpoint::TensorMap;

use crate::sandbox::{Sandbox, difference, noise};

const PRETRAIN: &str = "pretrain demo:64 -m mae_vit_tiny_patch4_32 --model-kwargs patch_size=[8,8] embed_dim=32 depth=2 \
                        num_heads=2 --decoder-embed-dim 16 --decoder-depth 1 --decoder-num-heads 2 --epochs 1 -b 8 \
                        --lr 1e-3 --output runs --experiment x";

/// A sandbox with the model of a short pretraining at `runs/pretrain/x/model`.
fn pretrained() -> Sandbox {
    let sandbox = Sandbox::empty();
    sandbox.ok(PRETRAIN);
    sandbox
}

fn values(map: &TensorMap, name: &str) -> Vec<f64> {
    map.get(name).unwrap_or_else(|| panic!("no {name}")).to_f64()
}

#[test]
fn from_images_to_a_classifier() {
    let sandbox = pretrained();
    assert!(sandbox.has("runs/pretrain/x/samples/predicted_0001.jpg"));
    let val = sandbox.ok("val demo -m runs/pretrain/x/model --limit 40 --format json").json();
    assert_eq!((val["images"].as_u64(), val["mask_ratio"].as_f64()), (Some(40), Some(0.75)));
    assert!(val["loss"].as_f64().is_some_and(|loss| loss > 0.0 && loss < 4.0), "{val}");
    // The numbers do not depend on the size of batches.
    let other = sandbox.ok("val demo -m runs/pretrain/x/model --limit 40 --format json -b 7").json();
    let [a, b] = [&val, &other].map(|val| val["loss"].as_f64().unwrap_or(f64::NAN));
    assert!((a - b).abs() < 1e-6, "{a} {b}");
    sandbox.fails("val demo -m runs/pretrain/x/model --min-top1 5", 1, &["no top-1"]);
    let refused = sandbox.ends("predict demo -m runs/pretrain/x/model", 1);
    assert!(refused.err.contains("cannot name classes") && refused.err.contains("predict masked patches"));
    let embedded = sandbox.ok("embed demo -m runs/pretrain/x/model");
    assert_eq!(embedded.out.lines().count(), 10);

    let tuned = sandbox.ok(
        "finetune demo:64 -m vit_tiny_patch16_224 --img-size 32 --pretrained runs/pretrain/x/model --gp avg --epochs 1 \
         -b 8 --output runs --experiment y",
    );
    assert!(tuned.err.contains("only the encoder of the mae is used"), "{}", tuned.err);
    let val = sandbox.ok("val demo -m runs/classify/y/model --limit 40 --format json").json();
    assert!(val["top1"].as_f64().is_some());
}

/// timm has the encoder, transformers the whole model.
#[test]
fn converted_for_other_libraries() {
    let sandbox = pretrained();
    let own = sandbox.ok("embed demo -m runs/pretrain/x/model").out;
    sandbox.fails(
        "checkpoint convert runs/pretrain/x/model timm --to timm",
        1,
        &["timm has the encoder", "--encoder"],
    );
    let told = sandbox.ok("checkpoint convert runs/pretrain/x/model timm --to timm --encoder");
    assert!(told.err.contains("only the encoder of the mae is used"), "{}", told.err);
    assert_eq!(sandbox.ok("embed demo -m timm").out, own);
    let card: serde_json::Value = serde_json::from_str(&sandbox.read("timm/config.json")).expect("JSON");
    assert!(card["architecture"].as_str().is_some_and(|name| name.starts_with("vit_")), "{card}");

    sandbox.ok("checkpoint convert runs/pretrain/x/model hf --to hf");
    let card: serde_json::Value = serde_json::from_str(&sandbox.read("hf/config.json")).expect("JSON");
    assert_eq!(card["architectures"][0], "ViTMAEForPreTraining");
    let loss = |model: &str| {
        sandbox.ok(&format!("val demo -m {model} --limit 20 --format json")).json()["loss"].clone()
    };
    assert_eq!(loss("hf"), loss("runs/pretrain/x/model"));
}

#[test]
fn forward_reads_noise_and_writes_the_names_of_transformers() {
    let sandbox = pretrained();
    let input = noise(3, 3 * 3 * 32 * 32);
    let draws: Vec<f32> = noise(4, 3 * 16);
    let forward = "forward -m runs/pretrain/x/model --input in.safetensors --output out.safetensors";
    sandbox.tensors("in.safetensors", &[("input", &[3, 3, 32, 32], &input), ("noise", &[3, 16], &draws)]);
    sandbox.ok(forward);
    let whole = sandbox.load("out.safetensors");
    assert_eq!(whole.names().collect::<Vec<_>>(), ["features", "loss", "mask", "pred"]);
    let shapes = ["features", "loss", "mask", "pred"].map(|name| whole.get(name).unwrap().shape().to_vec());
    assert_eq!(shapes, [vec![3, 5, 32], vec![1], vec![3, 16], vec![3, 16, 192]]);
    // The four patches with the smallest noise are seen.
    for (row, mask) in draws.chunks(16).zip(values(&whole, "mask").chunks(16)) {
        let mut order: Vec<usize> = (0..16).collect();
        order.sort_by(|a, b| row[*a].total_cmp(&row[*b]));
        let seen: Vec<usize> = (0..16).filter(|at| mask[*at] == 0.0).collect();
        let mut smallest = order[..4].to_vec();
        smallest.sort_unstable();
        assert_eq!(seen, smallest);
    }
    sandbox.ok(&format!("{forward} --batch-size 2 --trace"));
    let parts = sandbox.load("out.safetensors");
    for name in whole.names() {
        assert!(difference(&values(&parts, name), &values(&whole, name)) < 1e-6, "{name}");
    }
    assert!(parts.get("decoder_blocks.0").is_some() && parts.get("decoder_pred").is_some());

    // A reference with noise can be verified.
    let mut reference = whole.clone();
    let file = sandbox.load("in.safetensors");
    for name in ["input", "noise"] {
        reference.tensors.insert(name.into(), file.get(name).unwrap().clone());
    }
    sandbox.store("reference.safetensors", &reference);
    let verified =
        sandbox.ok("verify --against reference.safetensors -m runs/pretrain/x/model --format json").json();
    assert_eq!(verified["compared"].as_array().map(Vec::len), Some(4), "{verified}");

    sandbox.input("in.safetensors", [2, 3, 32, 32]);
    let told = sandbox.ok(forward);
    assert!(told.err.contains("masks are drawn from seed 42"), "{}", told.err);
    sandbox
        .tensors("in.safetensors", &[("input", &[3, 3, 32, 32], &input), ("noise", &[3, 15], &draws[..45])]);
    let wrong = sandbox.ends(forward, 1);
    assert!(wrong.err.contains("expected floats [3, 16]"), "{}", wrong.err);
    let bad: Vec<f32> = draws.iter().enumerate().map(|(at, v)| if at == 7 { f32::NAN } else { *v }).collect();
    sandbox.tensors("in.safetensors", &[("input", &[3, 3, 32, 32], &input), ("noise", &[3, 16], &bad)]);
    assert!(sandbox.ends(forward, 1).err.contains("NaN"));
}

#[test]
fn pictures_of_masked_patches() {
    let sandbox = pretrained();
    sandbox.picture("a.png", 1);
    sandbox.picture("b.png", 2);
    let first = "reconstruct a.png b.png -m runs/pretrain/x/model -o sheet.png --format json";
    let rows = sandbox.ok(first).json();
    assert_eq!(rows.as_array().map(Vec::len), Some(2));
    assert_eq!((rows[0]["masked"].as_u64(), rows[0]["patches"].as_u64()), (Some(12), Some(16)));
    let sheet = image::open(sandbox.path("sheet.png")).expect("a picture");
    assert!(sheet.width() > 4 * 96 && sheet.height() > 2 * 96, "{}x{}", sheet.width(), sheet.height());
    let before = std::fs::read(sandbox.path("sheet.png")).unwrap();
    sandbox.fails(first, 1, &["exists already", "--overwrite"]);
    assert_eq!(std::fs::read(sandbox.path("sheet.png")).unwrap(), before);
    let again = format!("{first} --overwrite");
    assert_eq!(sandbox.ok(&again).json(), rows);
    assert_ne!(sandbox.ok(&format!("{again} --seed 7")).json(), rows);
    let revealed =
        sandbox.ok("reconstruct a.png -m runs/pretrain/x/model -o r.png --reveal --format csv").csv();
    let masked: Vec<usize> = revealed.iter().map(|row| row["masked"].parse().expect("a number")).collect();
    assert!(masked.windows(2).all(|pair| pair[0] >= pair[1]) && masked.len() >= 5, "{masked:?}");
    for (flags, text) in [
        ("-o x.png --mask-ratio 1", "--mask-ratio"),
        ("-o x.png --mask-ratio 0.5 --reveal", "--reveal"),
        ("-o x.gibberish", "--output x.gibberish"),
        ("-o none/x.png", "none"),
    ] {
        sandbox.fails(&format!("reconstruct a.png -m runs/pretrain/x/model {flags}"), 1, &[text]);
    }
}

/// The commonest mistake: a file without the decoder.
#[test]
fn a_model_without_a_decoder_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.fails("reconstruct a.png -m model -o x.png", 1, &["has no decoder", "vitrum pretrain"]);
    sandbox.fails("pretrain demo:32 -m test_vit", 1, &["predicts masked patches"]);
    sandbox.fails("pretrain demo:32 -m test_vit --method dino", 1, &["mae, mpp, simmim"]);
    sandbox.fails("train demo:32 -m test_vit --mask-ratio 0.5", 1, &["mask_ratio", "pretrain"]);
}
