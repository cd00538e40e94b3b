//! `vitrum forward` and `vitrum verify`.

use vitrum::checkpoint::{Dtype, HostTensor, TensorMap};

use crate::sandbox::{Sandbox, difference, noise, tiny};

const FORWARD: &str = "forward -m model --input in.safetensors --output out.safetensors";

fn values(map: &TensorMap, name: &str) -> Vec<f64> {
    map.get(name).unwrap_or_else(|| panic!("no {name}")).to_f64()
}

#[test]
fn shapes_and_types() {
    let sandbox = Sandbox::new();
    sandbox.input("in.safetensors", [3, 3, 32, 32]);
    sandbox.ok(FORWARD);
    let single = sandbox.load("out.safetensors");
    assert_eq!(single.names().collect::<Vec<_>>(), ["features", "logits"]);
    assert_eq!(single.get("logits").expect("logits").shape(), [3, 10]);
    assert_eq!(single.get("features").expect("features").shape(), [3, 17, 16]);
    assert!(single.tensors.values().all(|tensor| tensor.dtype() == Dtype::F32));
    assert!(values(&single, "logits").iter().any(|v| v.abs() > 0.1), "not a model of zeros");

    sandbox.ok(&format!("{FORWARD} --dtype f64"));
    let double = sandbox.load("out.safetensors");
    assert!(double.tensors.values().all(|tensor| tensor.dtype() == Dtype::F64));
    let error = difference(&values(&single, "logits"), &values(&double, "logits"));
    assert!(error > 0.0 && error < 1e-5, "f32 is near f64 and not the same: {error:e}");
}

#[test]
fn batches_give_the_same_numbers() {
    let sandbox = Sandbox::new();
    sandbox.input("in.safetensors", [5, 3, 32, 32]);
    sandbox.ok(&format!("{FORWARD} --trace"));
    let whole = sandbox.load("out.safetensors");
    for size in [1, 2, 5, 100] {
        sandbox.ok(&format!("{FORWARD} --trace --batch-size {size}"));
        let parts = sandbox.load("out.safetensors");
        assert_eq!(whole.names().collect::<Vec<_>>(), parts.names().collect::<Vec<_>>());
        for name in whole.names() {
            assert_eq!(whole.get(name).expect(name).shape(), parts.get(name).expect(name).shape());
            assert!(difference(&values(&parts, name), &values(&whole, name)) < 1e-6, "{name} by {size}");
        }
    }
}

/// timm's module names, in the order of the network.
fn trace_names() -> Vec<String> {
    let block = |n: usize| {
        ["norm1", "attn.weights", "attn", "norm2", "mlp"]
            .map(|part| format!("blocks.{n}.{part}"))
            .into_iter()
            .chain([format!("blocks.{n}")])
    };
    let first = ["patch_embed", "pos_drop"].map(String::from).into_iter();
    let last = ["norm", "features", "head", "logits"].map(String::from);
    first.chain((0..2).flat_map(block)).chain(last).collect()
}

/// `reference.safetensors`: the input and everything the model made of it.
fn reference(sandbox: &Sandbox) -> TensorMap {
    sandbox.input("in.safetensors", [2, 3, 32, 32]);
    sandbox.ok(&format!("{FORWARD} --trace --attention"));
    let mut map = sandbox.load("out.safetensors");
    map.tensors.insert("input".into(), sandbox.load("in.safetensors").get("input").expect("input").clone());
    sandbox.store("reference.safetensors", &map);
    map
}

#[test]
fn a_model_agrees_with_its_own_trace() {
    let sandbox = Sandbox::new();
    let trace = reference(&sandbox);
    assert_eq!(trace.get("blocks.0.attn.weights").expect("weights").shape(), [2, 2, 17, 17]);
    for row in values(&trace, "blocks.1.attn.weights").chunks(17) {
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-5, "attention weights sum to one");
    }
    let verdict = sandbox.ok("verify -m model --against reference.safetensors --format json").json();
    let compared = verdict["compared"].as_array().expect("compared");
    let names: Vec<&str> = compared.iter().map(|c| c["name"].as_str().expect("a name")).collect();
    assert_eq!(names, trace_names());
    assert!(verdict["first_departure"].is_null());
    let text = sandbox.ok("verify -m model --against reference.safetensors").out;
    assert!(text.contains("all 18 agree"), "{text}");
    assert_eq!(sandbox.ok("verify -m model --against reference.safetensors --format csv").csv().len(), 18);
}

#[test]
fn the_first_departure_is_named() {
    let sandbox = Sandbox::new();
    let mut map = reference(&sandbox);
    for name in ["blocks.0.mlp", "blocks.1.norm1"] {
        let tensor = map.get(name).expect(name).clone();
        let mut changed = tensor.to_f32();
        changed[5] += 1.0;
        let changed = HostTensor::from_f32(tensor.shape().to_vec(), &changed).expect("the same shape");
        map.tensors.insert(name.into(), changed);
    }
    map.tensors.insert("of.another.model".into(), HostTensor::from_f32(vec![1], &[0.0]).expect("one value"));
    sandbox.store("reference.safetensors", &map);
    let ran = sandbox.ends("verify -m model --against reference.safetensors --format json", 3);
    assert_eq!(ran.json()["first_departure"], "blocks.0.mlp");
    assert_eq!(ran.json()["not_compared"], serde_json::json!(["of.another.model"]));
    let departed = ran.json()["compared"].as_array().expect("compared").clone();
    let departed: Vec<_> = departed.iter().filter(|c| c["ok"] == false).collect();
    assert_eq!(departed.len(), 2);
    assert_eq!(departed[0]["index"], serde_json::json!([0, 0, 5]));
    let text = sandbox.ends("verify -m model --against reference.safetensors", 3).out;
    assert!(text.contains("first departure: blocks.0.mlp"), "{text}");
    sandbox.ok("verify -m model --against reference.safetensors --tolerance 100");
    // A value that is no number never agrees.
    map.tensors.insert("norm".into(), HostTensor::from_f32(vec![2, 17, 16], &[f32::NAN; 544]).expect("fits"));
    sandbox.store("reference.safetensors", &map);
    let ran =
        sandbox.ends("verify -m model --against reference.safetensors --tolerance 100 --format json", 3);
    assert_eq!(ran.json()["first_departure"], "norm");
}

#[test]
fn a_reference_of_another_shape_is_an_error() {
    let sandbox = Sandbox::new();
    let mut map = reference(&sandbox);
    map.tensors.insert("logits".into(), HostTensor::from_f32(vec![2, 9], &[0.0; 18]).expect("18 values"));
    sandbox.store("reference.safetensors", &map);
    sandbox.fails("verify -m model --against reference.safetensors", 1, &["logits", "[2, 10]", "[2, 9]"]);
    sandbox.fails(
        "verify -m model --against in.safetensors",
        1,
        &["in.safetensors", "nothing to compare", "hint:"],
    );
}

#[test]
fn another_image_size_resizes_positions() {
    let sandbox = Sandbox::new();
    sandbox.input("in.safetensors", [1, 3, 24, 40]);
    let ran = sandbox.ok(&format!("{FORWARD} --img-size 24x40"));
    assert!(ran.err.contains("pos_embed [1, 17, 16] -> [1, 16, 16]"), "{}", ran.err);
    let told = sandbox.load("out.safetensors");
    assert_eq!(told.get("features").expect("features").shape(), [1, 16, 16]);
    // The model resizes by itself when the image says so.
    sandbox.ok(FORWARD);
    let seen = sandbox.load("out.safetensors");
    assert!(difference(&values(&seen, "logits"), &values(&told, "logits")) < 1e-4);
    // Height and width are not exchanged.
    sandbox.ok(&format!("{FORWARD} --img-size 40x24"));
    assert_eq!(sandbox.load("out.safetensors").get("features").expect("features").shape(), [1, 16, 16]);
}

#[test]
fn heads() {
    let sandbox = Sandbox::new();
    sandbox.input("in.safetensors", [1, 3, 32, 32]);
    sandbox.ok(FORWARD);
    let ten = sandbox.load("out.safetensors");
    let ran = sandbox.ok(&format!("{FORWARD} --num-classes 4"));
    assert!(ran.err.contains("new head"), "{}", ran.err);
    let four = sandbox.load("out.safetensors");
    assert_eq!(four.get("logits").expect("logits").shape(), [1, 4]);
    assert_eq!(values(&four, "features"), values(&ten, "features"), "only the head is new");
    sandbox.ok(&format!("{FORWARD} --num-classes 4 --seed 1"));
    let seeded = sandbox.load("out.safetensors");
    sandbox.ok(&format!("{FORWARD} --num-classes 4 --seed 42"));
    assert_eq!(values(&sandbox.load("out.safetensors"), "logits"), values(&four, "logits"));
    assert_eq!(values(&seeded, "features"), values(&ten, "features"));

    sandbox.ok(&format!("{FORWARD} --num-classes 0"));
    let none = sandbox.load("out.safetensors");
    assert_eq!(values(&none, "logits"), values(&ten, "features")[..16], "without a head, the class token");
}

#[test]
fn excuses_by_name() {
    let sandbox = Sandbox::new();
    sandbox.input("in.safetensors", [1, 3, 32, 32]);
    let mut map = sandbox.load("model/model.safetensors");
    map.tensors.remove("blocks.1.mlp.fc1.bias");
    map.tensors.insert("extra.weight".into(), HostTensor::from_f32(vec![1], &[0.0]).expect("one value"));
    sandbox.store("model/model.safetensors", &map);
    sandbox.fails(FORWARD, 1, &["missing", "blocks.1.mlp.fc1.bias", "unexpected", "extra.weight", "hint:"]);
    sandbox.fails(&format!("{FORWARD} --allow-missing blocks.1.mlp.fc1.bias"), 1, &["extra.weight"]);
    sandbox.ok(&format!("{FORWARD} --allow-missing blocks.*.bias --allow-unexpected extra.*"));
}

#[test]
fn a_name_alone_is_a_fresh_model() {
    let sandbox = Sandbox::empty();
    sandbox.tensors("in.safetensors", &[("input", &[1, 3, 160, 160], &noise(1, 3 * 160 * 160))]);
    let args = "forward -m test_vit --input in.safetensors --output out.safetensors";
    let ran = sandbox.ok(args);
    assert!(ran.err.contains("no weights, fresh values from seed 42"), "{}", ran.err);
    let first = sandbox.load("out.safetensors");
    assert_eq!(first.get("logits").expect("logits").shape(), [1, 1000]);
    sandbox.ok(args);
    assert_eq!(values(&sandbox.load("out.safetensors"), "features"), values(&first, "features"));
    sandbox.ok(&format!("{args} --seed 1"));
    assert_ne!(values(&sandbox.load("out.safetensors"), "features"), values(&first, "features"));
}

#[test]
fn channels_must_fit() {
    let sandbox = Sandbox::new();
    sandbox.input("in.safetensors", [1, 4, 32, 32]);
    sandbox.fails(FORWARD, 1, &["in.safetensors", "4 channels", "wants 3"]);
    sandbox.model("grey", &vitrum::models::VitConfig { in_chans: 1, ..tiny() });
    sandbox.input("in.safetensors", [1, 1, 32, 32]);
    sandbox.ok("forward -m grey --input in.safetensors --output out.safetensors");
}

#[test]
fn other_channels_and_another_pooling_are_adapted_and_said() {
    let sandbox = Sandbox::new();
    let grey = noise(3, 32 * 32);
    sandbox.tensors("in.safetensors", &[("input", &[1, 3, 32, 32], &grey.repeat(3))]);
    sandbox.ok(FORWARD);
    let rgb = sandbox.load("out.safetensors");
    let ran = sandbox.ok(&format!("{FORWARD} --gp avg"));
    for part in ["weight", "bias"] {
        assert!(ran.err.contains(&format!("adapted     norm.{part} -> fc_norm.{part}")), "{}", ran.err);
    }
    assert_ne!(values(&sandbox.load("out.safetensors"), "logits"), values(&rgb, "logits"));

    // A grey image is an image whose three channels are alike.
    sandbox.tensors("in.safetensors", &[("input", &[1, 1, 32, 32], &grey)]);
    let ran = sandbox.ok(&format!("{FORWARD} --in-chans 1"));
    assert!(
        ran.err.contains("adapted     patch_embed.proj.weight [16, 3, 8, 8] -> [16, 1, 8, 8]"),
        "{}",
        ran.err
    );
    assert!(difference(&values(&sandbox.load("out.safetensors"), "logits"), &values(&rgb, "logits")) < 1e-5);

    sandbox.tensors("in.safetensors", &[("input", &[1, 6, 32, 32], &grey.repeat(6))]);
    sandbox.ok(&format!("{FORWARD} --in-chans 6"));
    assert!(difference(&values(&sandbox.load("out.safetensors"), "logits"), &values(&rgb, "logits")) < 1e-5);
    sandbox.fails(&format!("{FORWARD} --in-chans 0"), 1, &["in_chans"]);
    sandbox.fails(&format!("{FORWARD} --gp mean"), 2, &["token, avg, max, avgmax or map"]);
}

#[test]
fn a_file_with_other_channels_than_its_card_says_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.input("in.safetensors", [1, 1, 32, 32]);
    let mut map = sandbox.load("model/model.safetensors");
    let kernel = HostTensor::from_f32(vec![16, 4, 8, 8], &noise(1, 16 * 4 * 64)).expect("fits");
    map.tensors.insert("patch_embed.proj.weight".into(), kernel);
    sandbox.store("model/model.safetensors", &map);
    let args = FORWARD.replace("-m model", "-m test_vit --checkpoint model/model.safetensors");
    let kwargs = "--model-kwargs img_size=32 patch_size=8 embed_dim=16 depth=2 num_heads=2";
    sandbox.fails(&format!("{args} {kwargs} --in-chans 1"), 1, &["mismatched  patch_embed.proj.weight"]);
}
