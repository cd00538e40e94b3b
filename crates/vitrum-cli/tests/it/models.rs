//! `vitrum models`.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

fn walk(args: &str) -> Value {
    Sandbox::empty().ok(&format!("models shapes {args} --format json")).json()
}

fn shape(walk: &Value, name: &str) -> Value {
    let steps = walk["steps"].as_array().expect("steps");
    let step = steps.iter().find(|step| step["name"] == name);
    step.unwrap_or_else(|| panic!("no {name} in {walk}"))["shape"].clone()
}

#[test]
fn the_walk_of_vit_base() {
    let walk = walk("vit_base_patch16_224");
    for (name, expected) in [
        ("image", json!([3, 224, 224])),
        ("patches", json!([196, 768])),
        ("patch_embed", json!([196, 768])),
        ("cls_token", json!([197, 768])),
        ("pos_embed", json!([197, 768])),
        ("blocks.N.attn.qkv", json!([3, 12, 197, 64])),
        ("blocks.N.attn.scores", json!([12, 197, 197])),
        ("blocks.N.attn.proj", json!([197, 768])),
        ("blocks.N.mlp.fc1", json!([197, 3072])),
        ("blocks.N.mlp.fc2", json!([197, 768])),
        ("norm", json!([197, 768])),
        ("pool", json!([768])),
        ("head", json!([1000])),
    ] {
        assert_eq!(shape(&walk, name), expected, "{name}");
    }
    assert_eq!(walk["params"], 86_567_656);
}

#[test]
fn the_walk_of_a_model_given_by_flags() {
    let walk =
        walk("--img-size 256 --patch-size 32 --embed-dim 1024 --depth 6 --num-heads 16 --mlp-ratio 2.0");
    assert_eq!(shape(&walk, "patches"), json!([64, 3072]));
    assert_eq!(shape(&walk, "pos_embed"), json!([65, 1024]));
    assert_eq!(shape(&walk, "blocks.N.attn.scores"), json!([16, 65, 65]));
    assert_eq!(shape(&walk, "blocks.N.mlp.fc1"), json!([65, 2048]));
    let steps = walk["steps"].as_array().expect("steps");
    let repeated = |step: &&Value| step["name"].as_str().is_some_and(|name| name.starts_with("blocks.N"));
    assert!(steps.iter().filter(repeated).all(|step| step["repeat"] == 6));
    let total = |key: &str| {
        let one = |step: &Value| step[key].as_u64().expect(key) * step["repeat"].as_u64().expect("repeat");
        steps.iter().map(one).sum::<u64>()
    };
    assert_eq!(walk["params"], total("params"));
    assert_eq!(walk["macs"], total("macs"));
}

#[test]
fn shapes_as_tables() {
    let sandbox = Sandbox::empty();
    let text = sandbox.ok("models shapes --img-size 384").out;
    assert!(text.lines().any(|line| line.starts_with("pos_embed") && line.contains("577 × 768")), "{text}");
    let markdown =
        sandbox.ok("models shapes --format markdown --model-kwargs class_token=false global_pool=avg").out;
    assert!(markdown.lines().all(|line| line.starts_with('|') && line.ends_with('|')), "{markdown}");
    assert!(markdown.contains("196 × 768") && !markdown.contains("197"), "{markdown}");
    let rectangular = sandbox.ok("models shapes --img-size 192x256 --patch-size 16x32").out;
    assert!(rectangular.contains("12 × 8 patches"), "{rectangular}");
}

#[test]
fn the_list_and_its_filter() {
    let sandbox = Sandbox::empty();
    let all = sandbox.ok("models list --format json").json();
    let names: Vec<&str> =
        all.as_array().expect("a list").iter().map(|m| m["name"].as_str().expect("a name")).collect();
    assert!(names.len() > 100, "{} models", names.len());
    let rows = sandbox.ok("models list vit_tiny_* --format csv").csv();
    assert!(!rows.is_empty() && rows.iter().all(|row| row["model"].starts_with("vit_tiny_")));
    assert_eq!(rows.len(), names.iter().filter(|name| name.starts_with("vit_tiny_")).count());
    let tiny = rows.iter().find(|row| row["model"] == "vit_tiny_patch16_224").expect("ViT-Ti/16");
    assert_eq!((tiny["image"].as_str(), tiny["params (M)"].as_str()), ("224", "5.717"));
    assert!(sandbox.ok("models list patch14").out.contains("vit_large_patch14"));
    sandbox.fails("models list densenet*", 1, &["densenet*", "hint:"]);
}

#[test]
fn information_on_one_model() {
    let sandbox = Sandbox::empty();
    let info = sandbox.ok("models info vit_base_patch16_224 --format json").json();
    assert_eq!(info["params"], 86_567_656);
    assert_eq!(info["config"]["embed_dim"], 768);
    assert_eq!(info["preprocess"]["interpolation"], "bicubic");
    let weights = info["weights"].as_array().expect("weights");
    assert!(weights.contains(&json!("hf:timm/vit_base_patch16_224.augreg2_in21k_ft_in1k")));
    let text = sandbox.ok("models info vit_base_patch16_224").out;
    assert!(text.contains("86,567,656"), "{text}");
    sandbox.fails(
        "models info vit_bse_patch16_224",
        1,
        &["vit_bse_patch16_224", "hint: did you mean vit_base_patch16_224"],
    );
}

#[test]
fn the_ladder_and_its_picture() {
    let sandbox = Sandbox::empty();
    let rows = sandbox.ok("models ladder --format csv --plot ladder.svg").csv();
    let column = |name: &str| rows.iter().map(|row| row[name].as_str()).collect::<Vec<_>>();
    assert_eq!(rows.len(), 16);
    assert_eq!((column("step")[0], column("step")[15]), ("resnet50", "downsample"));
    assert_eq!((column("GMACs")[4], column("GMACs (paper)")[4]), ("5.268", "5.27"));
    assert_eq!((column("params (M)")[15], column("top-1 % (paper)")[15]), ("28.589", "81.97"));
    assert!(column("what changes")[9].ends_with("(a trial)"));
    let json = sandbox.ok("models ladder --format json").json();
    assert_eq!(json[3]["step"], "depthwise");
    assert_eq!(json[3]["params"], 15_722_664);
    assert_eq!(json[3]["published"], json!({"gmacs": 2.35, "top1": 78.28}));
    let text = sandbox.ok("models ladder").out;
    assert!(text.lines().count() == 17 && text.contains("inverted_bottleneck"), "{text}");
    let picture = sandbox.read("ladder.svg");
    for word in ["<svg", "From ResNet-50 to ConvNeXt-T", "fewer_activations", "81.27", "4.146"] {
        assert!(picture.contains(word), "no {word} in the picture");
    }
    sandbox.ok("models ladder --plot ladder.PNG");
    let bytes = std::fs::read(sandbox.path("ladder.PNG")).expect("a picture");
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000, "{} bytes", bytes.len());
    sandbox.fails("models ladder --plot ladder.pdf", 1, &["ladder.pdf", ".svg or .png"]);
    sandbox.fails("models ladder --plot no/folder.svg", 1, &["writing no/folder.svg: there is no folder no"]);
    // Every step is a model by name.
    for row in &rows {
        let info = sandbox.ok(&format!("models info ladder_{} --format json", row["step"])).json();
        assert_eq!(format!("{:.3}", info["params"].as_f64().expect("params") / 1e6), row["params (M)"]);
    }
}

#[test]
fn sizes_that_make_no_model() {
    let sandbox = Sandbox::empty();
    for (flags, text) in [
        ("--depth 999999999", "depth"),
        ("--embed-dim 99999999999", "embed_dim"),
        ("--img-size 1000000", "img_size"),
        ("--patch-size 500", "no patch"),
        ("--num-heads 0", "num_heads"),
        ("--num-heads 5", "num_heads"),
        ("--mlp-ratio 1e300", "mlp_ratio"),
        ("--mlp-ratio NaN", "mlp_ratio"),
        ("--mlp-ratio=-1", "mlp_ratio"),
        ("--in-chans 0", "in_chans"),
        ("--num-classes 99999999999999", "num_classes"),
        ("--img-size 1x9999999999999999999", "img_size"),
        ("--model-kwargs reg_tokens=99999999999", "reg_tokens"),
        ("--model-kwargs depth=-1", "model-kwargs"),
        ("--model-kwargs img_size=0", "img_size"),
        ("--model-kwargs patch_size=0", "patch_size"),
        ("--model-kwargs dept=3", "did you mean depth"),
        ("vit_bse_patch16_224", "did you mean vit_base_patch16_224"),
    ] {
        sandbox.fails(&format!("models shapes {flags}"), 1, &["error: ", text]);
    }
    for flags in [
        "--img-size 0",
        "--img-size 0x5",
        "--img-size -1",
        "--patch-size x",
        "--depth=-1",
        "--model-kwargs depth",
    ] {
        sandbox.fails(&format!("models shapes {flags}"), 2, &["error: "]);
    }
}
