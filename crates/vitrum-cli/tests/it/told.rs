//! What a run tells of its data: on stderr, in `train.log`, in `data.json` and in its result.

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox};

/// Arguments of a short run on `pics`.
const SHORT: &str = "train pics -m test_vit --img-size 32 --model-kwargs patch_size=8 embed_dim=16 depth=1 num_heads=2 \
     --epochs 1 -b 8 --experiment run --device cpu -j 2";

fn report(sandbox: &Sandbox) -> Value {
    serde_json::from_str(&sandbox.read("runs/classify/run/data.json")).expect("data.json is JSON")
}

/// The object behind `--result`.
fn result(ran: &Ran) -> Value {
    let line = ran.out.lines().last().expect("a result");
    serde_json::from_str(line).expect("the result is JSON")
}

#[test]
fn replaced_training_images_are_named() {
    let sandbox = Sandbox::empty();
    sandbox.ok("demo pics --count 40 --size 32");
    sandbox.write("pics/disc/000000.png", "no picture");
    let ran = sandbox.ok(&format!("{SHORT} --val-fraction 0 --max-bad 1"));
    let line = "training image replaced by the next one: ";
    for text in [&ran.err, &sandbox.read("runs/classify/run/train.log")] {
        let told =
            text.lines().filter(|told| told.contains(line) && told.contains("disc/000000.png")).count();
        assert_eq!(told, 1, "{text}");
    }
    let report = report(&sandbox);
    assert_eq!(report["replaced"][0]["file"].as_str(), Some("disc/000000.png"), "{report:#}");
    assert_eq!(report["replaced"].as_array().map(Vec::len), Some(1), "{report:#}");
    assert_eq!(result(&ran)["replaced"].as_u64(), Some(1));
    assert_eq!(result(&ran)["unreadable"].as_u64(), Some(0));
}

#[test]
fn validation_images_left_out_are_named() {
    let sandbox = Sandbox::empty();
    sandbox.ok("demo pics --count 40 --size 32");
    sandbox.ok("demo checked --count 20 --size 32");
    sandbox.write("checked/ring/000001.png", "no picture");
    let ran = sandbox.ok(&format!("{SHORT} --val-data checked --max-bad 1"));
    let line = "validation image left out: ";
    let told = ran.err.lines().filter(|told| told.contains(line) && told.contains("ring/000001.png")).count();
    assert_eq!(told, 1, "once, though it is validated twice: {}", ran.err);
    let report = report(&sandbox);
    assert_eq!(report["unreadable"][0]["file"].as_str(), Some("ring/000001.png"), "{report:#}");
    assert_eq!(result(&ran)["unreadable"].as_u64(), Some(1));
}
