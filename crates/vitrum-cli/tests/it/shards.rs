//! WebDataset shards: every command takes them for the pictures that they hold.

use std::io::Cursor;

use serde_json::{Value, json};
use vitrum::data::demo::CLASSES;

use crate::sandbox::{Ran, Sandbox};

/// A short run of a tiny model.
const SHORT: &str = "-m test_vit --img-size 32 --model-kwargs patch_size=8 embed_dim=16 depth=1 num_heads=2 \
     --epochs 1 -b 8 --device cpu -j 2";

/// A tiny model and, in `pics/CLASS/`, forty JPEG files; their bytes in the order of their numbers.
fn drawn() -> (Sandbox, Vec<Vec<u8>>) {
    let sandbox = Sandbox::new();
    sandbox.ok("demo drawn --count 40 --size 32");
    let jpeg = |at: usize| {
        let class = CLASSES[at % 10];
        let picture = image::open(sandbox.path(format!("drawn/{class}/{at:06}.png"))).expect("a picture");
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Jpeg).expect("a JPEG");
        std::fs::create_dir_all(sandbox.path(format!("pics/{class}"))).expect("a folder");
        sandbox.write(format!("pics/{class}/{at:06}.jpg"), bytes.get_ref());
        bytes.into_inner()
    };
    let pictures = (0..40).map(jpeg).collect();
    (sandbox, pictures)
}

/// What lies beside the picture of a class.
fn companion(kind: &str, class: usize) -> String {
    match kind {
        "json" => json!({"label": class, "class_name": CLASSES[class], "url": "somewhere"}).to_string(),
        _ => format!("{class}\n"),
    }
}

/// `shards/NAME.tar` of the pictures `from` to `to`, each with its label in a companion.
fn shard(sandbox: &Sandbox, name: &str, kind: &str, pictures: &[Vec<u8>], numbers: std::ops::Range<usize>) {
    std::fs::create_dir_all(sandbox.path("shards")).expect("a folder");
    let file = std::fs::File::create(sandbox.path(format!("shards/{name}.tar"))).expect("a file");
    let mut archive = tar::Builder::new(file);
    for at in numbers {
        let label = companion(kind, at % 10);
        for (extension, bytes) in [(kind, label.as_bytes()), ("jpg", &pictures[at][..])] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("{at:06}.{extension}"), bytes).expect("a member");
        }
    }
    archive.finish().expect("an archive");
}

/// Three shards for training and one for validation, labelled by `kind`.
fn parted(kind: &str) -> Sandbox {
    let (sandbox, pictures) = drawn();
    for (name, first) in [("train-00", 0), ("train-01", 10), ("train-02", 20), ("val-00", 30)] {
        shard(&sandbox, name, kind, &pictures, first..first + 10);
    }
    sandbox
}

/// The last line of a run's output, without what differs from run to run.
fn result(ran: &Ran) -> Value {
    let line = ran.out.lines().last().expect("a result");
    serde_json::from_str(line).expect("the result is JSON")
}

#[test]
fn a_range_of_shards_gives_the_accuracy_of_the_folder() {
    let (sandbox, pictures) = drawn();
    let expected = sandbox.ok("val pics -m model --format json").json();
    assert_eq!(expected["images"], 40);
    for kind in ["cls", "json"] {
        for at in 0..4 {
            shard(&sandbox, &format!("{kind}-{at:06}"), kind, &pictures, at * 10..at * 10 + 10);
        }
        for data in ["{000000..000003}", "{000000,000001,000002,000003}", "*"] {
            let ran = sandbox.ok(&format!("val shards/{kind}-{data}.tar -m model --format json"));
            let found = ran.json();
            assert!(ran.err.contains(&format!("labels from `.{kind}` members")), "{}", ran.err);
            for key in ["images", "bad", "top1", "top5"] {
                assert_eq!(found[key], expected[key], "{kind} {data}: {key}");
            }
            let loss = |of: &Value| of["loss"].as_f64().expect("a loss");
            assert!((loss(&found) - loss(&expected)).abs() < 1e-6, "{kind} {data}");
        }
        let some = sandbox.ok(&format!("val shards/{kind}-{{000001..000002}}.tar -m model --format json"));
        assert_eq!(some.json()["images"], 20, "{kind}");
    }
    sandbox.fails(
        "val shards/cls-{000000..000005}.tar -m model",
        1,
        &["cls-000004.tar is missing (2 of 6 shards are)", "hint:"],
    );
    sandbox.fails("val shards/none-*.tar -m model", 1, &["none-*.tar", "hint:"]);
}

#[test]
fn training_reads_shards_by_range_and_by_the_parts_of_their_names() {
    for kind in ["cls", "json"] {
        let sandbox = parted(kind);
        let ranges = "shards/train-{00..02}.tar --val-data shards/val-{00..00}.tar";
        let by_range = sandbox.ok(&format!("train {ranges} {SHORT} --experiment range"));
        let by_name = sandbox.ok(&format!("train shards {SHORT} --experiment folder"));
        assert!(
            by_range.err.contains("validation on the part `val` of shards/val-{00..00}.tar"),
            "{}",
            by_range.err
        );
        assert!(by_name.err.contains("validation on the part `val` of shards"), "{}", by_name.err);
        for ran in [&by_range, &by_name] {
            assert!(ran.err.contains(&format!("labels from `.{kind}` members")), "{}", ran.err);
            assert_eq!(result(ran)["unreadable"].as_u64(), Some(0), "{}", ran.out);
        }
        for file in ["summary.csv", "model/model.safetensors"] {
            let [range, folder] = ["range", "folder"].map(|run| {
                std::fs::read(sandbox.path(format!("runs/classify/{run}/{file}"))).expect("a file of the run")
            });
            assert!(range == folder, "{kind}: {file} differs");
        }
    }
}

#[test]
fn data_commands_read_shards() {
    let sandbox = parted("json");
    let train = "shards/train-{00..02}.tar";
    let checked = sandbox.ok(&format!("data check {train} shards/val-00.tar --strict --format json")).json();
    let images: Vec<Option<u64>> =
        checked["parts"].as_array().expect("parts").iter().map(|part| part["images"].as_u64()).collect();
    assert_eq!(images, [Some(30), Some(10)], "{checked}");
    let leaked =
        sandbox.ends(&format!("data check {train} shards/train-01.tar --strict --format json"), 3).json();
    assert_eq!(leaked["counts"]["leak"].as_u64(), Some(10), "{leaked}");

    let stats = sandbox.ok(&format!("data stats {train} --format json")).json();
    assert_eq!(stats[0]["formats"].to_string(), r#"{"JPEG":30}"#);
    for class in stats[0]["classes"].as_array().expect("classes") {
        assert!(
            class["images"] == 3 && CLASSES.contains(&class["class"].as_str().expect("a name")),
            "{class}"
        );
    }

    sandbox.ok(&format!("data split {train} --val-fraction 0.34 --output-dir tree --copy"));
    let tree = sandbox.ok("data check tree --strict --format json").json();
    let images: Vec<Option<u64>> =
        tree["parts"].as_array().expect("parts").iter().map(|part| part["images"].as_u64()).collect();
    assert_eq!(images, [Some(20), Some(10)], "{tree}");
    let first = ["train", "val"]
        .iter()
        .find_map(|part| std::fs::read(sandbox.path(format!("tree/{part}/{}/000000.jpg", CLASSES[0]))).ok());
    let original = std::fs::read(sandbox.path(format!("pics/{}/000000.jpg", CLASSES[0]))).expect("a picture");
    assert_eq!(first, Some(original), "the bytes are as they were");
    sandbox.fails(&format!("data split {train} -o all.csv"), 1, &["--copy takes them out"]);
}
