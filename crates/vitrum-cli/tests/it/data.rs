//! `vitrum data`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, csv_rows};

/// A folder `pics` of drawn pictures: ten classes, `count` in all.
fn drawn(count: usize) -> Sandbox {
    let sandbox = Sandbox::empty();
    sandbox.ok(&format!("demo pics --count {count} --size 24"));
    sandbox
}

fn copy(sandbox: &Sandbox, from: &str, to: &str) {
    std::fs::create_dir_all(sandbox.path(to).parent().expect("a folder")).expect("a folder");
    std::fs::copy(sandbox.path(from), sandbox.path(to)).expect("a copy");
}

/// Kind and file of every finding.
fn findings(ran: &Ran) -> BTreeSet<(String, String)> {
    let json = ran.json();
    let text = |value: &Value| value.as_str().expect("text").to_string();
    let finding = |finding: &Value| (text(&finding["kind"]), text(&finding["file"]));
    json["findings"].as_array().expect("findings").iter().map(finding).collect()
}

fn set(expected: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    expected.iter().map(|(kind, file)| (kind.to_string(), file.to_string())).collect()
}

#[test]
fn a_sound_dataset_passes() {
    let sandbox = drawn(20);
    let ran = sandbox.ok("data check pics --strict");
    assert_eq!(ran.out, "all: 20 images, 10 classes\nnothing found\n");
    let json = sandbox.ok("data check pics --strict --format json").json();
    assert_eq!((json["images"].as_u64(), json["unreadable"].as_u64()), (Some(20), Some(0)));
    assert_eq!(sandbox.ok("data check pics --format csv").out, "kind,part,file,detail\n");
}

#[test]
fn everything_wrong_is_named() {
    let sandbox = drawn(20);
    let bytes = std::fs::read(sandbox.path("pics/disc/000010.png")).expect("a picture");
    sandbox.write("pics/disc/cut.png", &bytes[..bytes.len() / 2]);
    sandbox.write("pics/disc/empty.jpg", b"");
    sandbox.write("pics/stray.png", &bytes);
    copy(&sandbox, "pics/ring/000001.png", "pics/ring/again.png");
    copy(&sandbox, "pics/ring/000011.png", "pics/star/other.png");
    copy(&sandbox, "pics/star/000004.png", "pics/star/zzz.jpg");
    sandbox.ok("demo tiny --count 1 --size 8 --seed 5");
    copy(&sandbox, "tiny/disc/000000.png", "pics/disc/tiny.png");

    let ran = sandbox.ends("data check pics --format json", 1);
    let expected = set(&[
        ("unreadable", "disc/cut.png"),
        ("unreadable", "disc/empty.jpg"),
        ("left-out", "stray.png"),
        ("duplicate", "ring/again.png"),
        ("conflict", "star/other.png"),
        ("duplicate", "star/zzz.jpg"),
        ("extension", "star/zzz.jpg"),
        ("small", "disc/tiny.png"),
    ]);
    assert_eq!(findings(&ran), expected);
    assert!(ran.err.contains("2 of 26 images cannot be read, more than --max-bad 0"), "{}", ran.err);
    let json = ran.json();
    assert_eq!((json["unreadable"].as_u64(), json["counts"]["duplicate"].as_u64()), (Some(2), Some(2)));

    sandbox.ok("data check pics --max-bad 2");
    sandbox.ok("data check pics --max-bad 0.08");
    sandbox.ends("data check pics --max-bad 0.07", 1);
    sandbox.ends("data check pics --max-bad 2 --strict", 3);
    let one = sandbox.ok("data check pics --max-bad 2 --format json --workers 1");
    assert_eq!(one.out, ran.out, "threads change nothing");
    let rows = sandbox.ok("data check pics --max-bad 2 --format csv").csv();
    assert_eq!(rows.len(), 8);
    assert_eq!(rows[0]["kind"], "unreadable");
    let text = sandbox.ok("data check pics --max-bad 2 --limit 1 --min-size 4").out;
    assert!(text.contains("disc/cut.png") && !text.contains("disc/empty.jpg"), "{text}");
    assert!(
        text.ends_with("found: 2 unreadable, 1 conflict, 2 duplicate, 1 extension, 1 left-out\n"),
        "{text}"
    );
}

#[test]
fn what_is_in_training_and_validation_both_is_a_leak() {
    let sandbox = drawn(20);
    sandbox.ok("demo new --count 10 --size 24 --seed 9");
    copy(&sandbox, "pics/ring/000001.png", "new/ring/seen.png");
    copy(&sandbox, "pics/ring/000001.png", "new/star/seen.png");
    let ran = sandbox.ends("data check pics new --format json --strict", 3);
    assert_eq!(findings(&ran), set(&[("leak", "ring/seen.png"), ("leak", "star/seen.png")]));
    let details = ran.json()["findings"].to_string();
    assert!(details.contains("the pixels of ring/000001.png in pics, as `ring`, here `star`"), "{details}");

    // The parts of one folder.
    for (from, to) in [("pics", "both/train"), ("new", "both/val")] {
        std::fs::create_dir_all(sandbox.path("both")).expect("a folder");
        std::fs::rename(sandbox.path(from), sandbox.path(to)).expect("moved");
    }
    let ran = sandbox.ends("data check both --format json --strict", 3);
    assert_eq!(findings(&ran), set(&[("leak", "ring/seen.png"), ("leak", "star/seen.png")]));
    let parts: Vec<Value> = ran.json()["parts"].as_array().expect("parts").clone();
    assert_eq!((&parts[0]["part"], &parts[1]["part"]), (&"train".into(), &"val".into()));
}

#[test]
fn uneven_classes() {
    let sandbox = drawn(40);
    for name in ["000003", "000013", "000023"] {
        std::fs::remove_file(sandbox.path(format!("pics/triangle/{name}.png"))).expect("removed");
    }
    sandbox.ok("data check pics --strict");
    let ran = sandbox.ends("data check pics --strict --max-imbalance 3 --format csv", 3);
    let rows = ran.csv();
    assert_eq!((rows.len(), rows[0]["kind"].as_str()), (1, "imbalance"));
    assert!(rows[0]["detail"].contains("`triangle` 1"), "{rows:?}");
}

#[test]
fn statistics() {
    let sandbox = Sandbox::empty();
    let pixels = |rgb: [u8; 3], count: usize| rgb.repeat(count);
    let save = |name: &str, bytes: &[u8], width: u32| {
        let path = sandbox.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        let height = bytes.len() as u32 / 3 / width;
        image::save_buffer(path, bytes, width, height, image::ExtendedColorType::Rgb8).expect("saved");
    };
    save("d/a/1.png", &pixels([255, 0, 51], 20), 5);
    save("d/a/2.bmp", &pixels([0, 0, 51], 20), 10);
    save("d/b/3.png", &pixels([255, 0, 51], 60), 6);
    sandbox.write("d/b/4.png", b"broken");
    let all = sandbox.ok("data stats d --format json").json();
    let all = &all[0];
    assert_eq!((&all["part"], &all["images"], &all["unreadable"]), (&"all".into(), &4.into(), &1.into()));
    assert_eq!(all["classes"].to_string(), r#"[{"class":"a","images":2},{"class":"b","images":2}]"#);
    assert_eq!(all["width"].to_string(), r#"{"min":5,"median":6,"max":10}"#);
    assert_eq!(all["height"].to_string(), r#"{"min":2,"median":4,"max":10}"#);
    assert_eq!(all["formats"].to_string(), r#"{"BMP":1,"PNG":2}"#);
    // Red is 255 in four fifths of the pixels.
    let expected = [("mean", [0.8, 0.0, 0.2]), ("std", [0.4, 0.0, 0.0])];
    for (key, values) in expected {
        for (channel, value) in values.iter().enumerate() {
            assert!((all[key][channel].as_f64().expect("a number") - value).abs() < 1e-12, "{key}: {all}");
        }
    }
    let rows = sandbox.ok("data stats d --format csv").csv();
    let value = |measure: &str, key: &str| {
        let row = rows.iter().find(|row| row["measure"] == measure && row["key"] == key);
        row.unwrap_or_else(|| panic!("no {measure} {key}"))["value"].clone()
    };
    assert_eq!([value("class", "b"), value("mean", "red"), value("width", "median")], ["2", "0.800000", "6"]);
    let text = sandbox.ok("data stats d").out;
    assert!(text.contains("all: 4 images, 1 unreadable\n  width    5 to 10 pixels, median 6\n"), "{text}");
    assert!(text.contains("mean     0.8000 0.0000 0.2000"), "{text}");
}

#[test]
fn tables_of_a_split() {
    let sandbox = drawn(100);
    let ran = sandbox.ok("data split pics --val-fraction 0.2 --seed 3 --output-dir tables");
    assert!(ran.err.contains("80 images for training, 20 for validation"), "{}", ran.err);
    let [train, val] = ["tables/train.csv", "tables/val.csv"].map(|name| csv_rows(&sandbox.read(name)));
    assert_eq!((train.len(), val.len()), (80, 20));
    for class in vitrum::data::demo::CLASSES {
        assert_eq!(val.iter().filter(|row| row["label"] == class).count(), 2, "{class}");
        assert!(val.iter().filter(|row| row["label"] == class).all(|row| row["file"].starts_with(class)));
    }
    let files: BTreeSet<&String> = train.iter().chain(&val).map(|row| &row["file"]).collect();
    assert_eq!(files.len(), 100);

    // The same pictures as training sets aside.
    let options = vitrum::data::train_set::TrainDataOptions {
        val_fraction: 0.2,
        seed: 3,
        ..vitrum::data::train_set::TrainDataOptions::new(sandbox.path("pics"))
    };
    let sets = vitrum::data::train_set::TrainValSets::open(&options).expect("the folder");
    let names: Vec<&str> = sets.val.indexes().iter().map(|&index| sets.val.set().name(index)).collect();
    assert_eq!(names, val.iter().map(|row| row["file"].as_str()).collect::<Vec<_>>());

    // They can be read again, and nothing is in both.
    sandbox.ok("data check tables/train.csv tables/val.csv --image-dir pics --strict");
    let elsewhere = ["tables/train.csv: none of its images is in tables", "(--image-dir DIR)"];
    sandbox.fails("train tables/train.csv --epochs 1", 1, &elsewhere);
    sandbox.ok("data split pics --val-fraction 0.2 --seed 3 --output all.csv");
    let all = csv_rows(&sandbox.read("all.csv"));
    let in_val: Vec<&str> =
        all.iter().filter(|row| row["part"] == "val").map(|row| row["file"].as_str()).collect();
    assert_eq!(in_val, names);

    let before = sandbox.read("tables/val.csv");
    sandbox.fails("data split pics --output-dir tables", 1, &["train.csv exists already", "--overwrite"]);
    sandbox.fails("data split pics --output all.csv", 1, &["all.csv exists already"]);
    assert_eq!(sandbox.read("tables/val.csv"), before);
    sandbox.ok("data split pics --output-dir tables --seed 4 --overwrite");
    assert_ne!(sandbox.read("tables/val.csv"), before);
}

#[test]
fn tables_are_evaluated_with_the_right_classes() {
    let sandbox = Sandbox::new();
    sandbox.ok("demo pics --count 40 --size 32");
    sandbox.ok("data split pics --val-fraction 0.5 --output-dir tables");
    let table = sandbox.ok("val tables/val.csv --image-dir pics -m model --format json").json();
    sandbox.ok("data split pics --val-fraction 0.5 --output-dir tree --copy");
    let tree = sandbox.ok("val tree -m model --split val --format json").json();
    for key in ["images", "top1", "top5"] {
        assert_eq!(table[key], tree[key], "{key}");
    }
    assert_eq!(table["images"], 20);
}

#[test]
fn folders_of_a_split() {
    let sandbox = drawn(40);
    sandbox.ok("data split pics --val-fraction 0.25 --output-dir copies --copy");
    sandbox.ok("data split pics --val-fraction 0.25 --output-dir links --link");
    let mut archive = tar::Builder::new(std::fs::File::create(sandbox.path("pics.tar")).expect("a file"));
    archive.append_dir_all("pics", sandbox.path("pics")).expect("an archive");
    archive.finish().expect("an archive");
    sandbox.ok("data split pics.tar --val-fraction 0.25 --output-dir taken --copy");
    for folder in ["copies", "links", "taken"] {
        let json = sandbox.ok(&format!("data check {folder} --strict --format json")).json();
        let sizes: Vec<u64> = json["parts"]
            .as_array()
            .expect("parts")
            .iter()
            .map(|p| p["images"].as_u64().expect("n"))
            .collect();
        assert_eq!(sizes, [30, 10], "{folder}");
    }
    assert_eq!(
        std::fs::read(sandbox.path("pics/disc/000000.png")).expect("a picture"),
        ["train", "val"]
            .iter()
            .find_map(|part| std::fs::read(sandbox.path(format!("links/{part}/disc/000000.png"))).ok())
            .expect("the picture in one part")
    );
    sandbox.fails("data split pics --output-dir copies --copy", 1, &["copies is not empty"]);
    sandbox.fails("data split pics.tar --output-dir t2 --link", 1, &["--copy takes them out"]);
    sandbox.fails("data split pics.tar --output-dir t3", 1, &["--copy takes them out"]);
    sandbox.fails("data split copies --output-dir t4", 1, &["split already, into train, val"]);
    sandbox.fails("data split pics", 2, &["--output"]);
    sandbox.fails("data split pics --copy --output x.csv", 2, &["--copy", "--output"]);
    sandbox.fails("data split pics --link --output x.csv", 2, &["--link", "--output"]);
    sandbox.fails("data split pics --link --copy --output-dir t6", 2, &["--link", "--copy"]);
    sandbox.fails("data split pics --output-dir t5 --val-fraction 1", 1, &["--val-fraction 1"]);
}

#[test]
fn classes_that_lead_elsewhere_are_refused() {
    let sandbox = drawn(10);
    sandbox.write("t.csv", "file,label\npics/disc/000000.png,../../out\npics/ring/000001.png,b\n");
    sandbox.fails(
        "data split t.csv --output-dir tree --copy",
        1,
        &["`../../out` cannot be the name of a folder"],
    );
}

#[test]
fn classes_called_by_other_numbers_keep_their_own() {
    let sandbox = drawn(20);
    for (from, to) in [("disc", "30"), ("ring", "4")] {
        std::fs::create_dir_all(sandbox.path("n")).expect("a folder");
        std::fs::rename(sandbox.path(format!("pics/{from}")), sandbox.path(format!("n/{to}")))
            .expect("moved");
    }
    sandbox.ok("data split n --val-fraction 0.5 --output-dir tables");
    let rows = csv_rows(&sandbox.read("tables/train.csv"));
    let cells: Vec<[&str; 2]> = rows.iter().map(|row| [&*row["label"], &*row["class_index"]]).collect();
    assert_eq!(cells, [["4", "0"], ["30", "1"]]);
    let stats = sandbox.ok("data stats tables/train.csv --image-dir n --format json").json();
    assert_eq!(stats[0]["classes"].to_string(), r#"[{"class":"4","images":1},{"class":"30","images":1}]"#);
}

#[test]
fn pixels_of_binary_sets_become_png() {
    let sandbox = Sandbox::empty();
    let record = |label: u8, level: u8| {
        let mut record = vec![level; 3073];
        record[0] = label;
        record
    };
    let records: Vec<u8> = (0..8).flat_map(|at| record(at % 2, 30 * at)).collect();
    sandbox.write("data_batch_1.bin", records);
    sandbox.ok("data split data_batch_1.bin --val-fraction 0.25 --output-dir tree --copy");
    let before = sandbox.ok("data stats data_batch_1.bin --format json").json();
    assert_eq!(before[0]["formats"].to_string(), r#"{"pixels":8}"#);
    let after = sandbox.ok("data stats tree --format json").json();
    let images = |part: usize, class: &str| {
        let classes = after[part]["classes"].as_array().expect("classes");
        classes.iter().find(|c| c["class"] == class).expect("the class")["images"].as_u64()
    };
    for class in ["airplane", "automobile"] {
        assert_eq!((images(0, class), images(1, class)), (Some(3), Some(1)), "{class}");
    }
    let red = |report: &Value| report["mean"][0].as_f64().expect("a mean");
    assert!(
        (0.75 * red(&after[0]) + 0.25 * red(&after[1]) - red(&before[0])).abs() < 1e-12,
        "the same pixels"
    );
    sandbox.fails("data split demo:50 --output-dir demo --copy", 1, &["split already, into train, val"]);
}
