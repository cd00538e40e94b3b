//! `vitrum val`.

use serde_json::Value;
use vitrum::data::demo::CLASSES;

use crate::sandbox::{Sandbox, csv_rows};

/// `pics`, twenty pictures of ten classes, and what `predict` says of each: file without its folder, label, top-1.
fn predicted(sandbox: &Sandbox) -> Vec<(String, usize, Vec<String>)> {
    sandbox.ok("demo pics --count 20 --size 40");
    let answers = sandbox.ok("predict pics -m model --format json").json();
    let answer = |answer: &Value| {
        let file = answer["file"].as_str().expect("a file").trim_start_matches("pics/").to_string();
        let class = file.split('/').next().expect("a class");
        // Class folders are numbered by the model's labels, which have the same names.
        let label = CLASSES.iter().position(|name| *name == class).expect("a class of the demo set");
        let likeliest = answer["predictions"].as_array().expect("predictions");
        (file, label, likeliest.iter().map(|p| p["index"].to_string()).collect())
    };
    answers.as_array().expect("answers").iter().map(answer).collect()
}

/// Top-1 and top-5 in percent.
fn accuracy(predicted: &[(String, usize, Vec<String>)]) -> [f64; 2] {
    let right = |k: usize| {
        let hit = |(_, label, likeliest): &&(String, usize, Vec<String>)| {
            likeliest[..k].contains(&label.to_string())
        };
        100.0 * predicted.iter().filter(hit).count() as f64 / predicted.len() as f64
    };
    [right(1), right(5)]
}

#[test]
fn a_folder_gives_the_accuracy_of_predict() {
    let sandbox = Sandbox::new();
    let expected = predicted(&sandbox);
    let [top1, top5] = accuracy(&expected);
    assert!(top5 > 0.0 && top5 < 100.0, "the test can tell right from wrong: {top5}");
    let ran = sandbox.ok("val pics -m model --format json --results-file out.csv");
    let results = ran.json();
    assert_eq!(results["images"], 20);
    assert_eq!(results["bad"], 0);
    for (key, value) in
        [("top1", top1), ("top1_err", 100.0 - top1), ("top5", top5), ("top5_err", 100.0 - top5)]
    {
        assert!((results[key].as_f64().expect(key) - value).abs() < 1e-9, "{key}: {results}");
    }
    assert!(ran.err.contains("classes matched with the model's labels by name"), "{}", ran.err);

    let rows = csv_rows(&sandbox.read("out.csv"));
    assert_eq!(rows.len(), 20);
    let mut loss_at_least = 0.0_f64;
    for row in &rows {
        let (_, label, likeliest) =
            expected.iter().find(|(file, ..)| *file == row["file"]).expect("a picture");
        assert_eq!((&row["label"], &row["pred"]), (&label.to_string(), &likeliest[0]), "{row:?}");
        if row["label"] == row["pred"] {
            loss_at_least -= row["prob"].parse::<f64>().expect("a number").ln();
        }
    }
    assert!(results["loss"].as_f64().expect("loss") * 20.0 >= loss_at_least - 1e-3);

    // Batches and threads change nothing.
    let other = sandbox.ok("val pics -m model --format json --batch-size 3 --workers 2").json();
    for key in ["images", "top1", "top5"] {
        assert_eq!(other[key], results[key], "{key}");
    }
    assert!((other["loss"].as_f64().expect("loss") - results["loss"].as_f64().expect("loss")).abs() < 1e-6);

    let line = sandbox.ok("val pics -m model").out;
    assert!(line.starts_with(&format!(" * Acc@1 {top1:.3} ({:.3}) Acc@5 {top5:.3}", 100.0 - top1)), "{line}");
    let rows = sandbox.ok("val pics -m model --format csv").csv();
    assert_eq!((rows[0]["model"].as_str(), rows[0]["img_size"].as_str()), ("model", "32"));
    assert_eq!(rows[0]["top1"], format!("{top1:.3}"));
    assert_eq!(rows[0]["images"], "20");
}

#[test]
fn the_gate() {
    let sandbox = Sandbox::new();
    let [top1, _] = accuracy(&predicted(&sandbox));
    assert!(top1 < 99.0);
    sandbox.ok("val pics -m model --min-top1 0");
    sandbox.ok(&format!("val pics -m model --min-top1 {top1}"));
    let ran = sandbox.ends(&format!("val pics -m model --min-top1 {}", top1 + 1.0), 3);
    assert!(ran.out.contains("Acc@1"), "the numbers are still there: {}", ran.out);
    assert!(ran.err.contains(&format!("top1 {top1:.3} is below --min-top1")), "{}", ran.err);
    for wrong in ["NaN", "-1", "101", "x"] {
        sandbox.fails(&format!("val pics -m model --min-top1={wrong}"), 2, &["--min-top1"]);
    }
}

#[test]
fn the_same_pictures_from_a_table_and_an_archive() {
    let sandbox = Sandbox::new();
    let [top1, top5] = accuracy(&predicted(&sandbox));
    let folder = sandbox.ok("val pics -m model --format json").json();
    let mut table = String::from("file,class_index\n");
    for index in 0..20 {
        table += &format!("{}/{index:06}.png,{}\n", CLASSES[index % 10], index % 10);
    }
    sandbox.write("labels.csv", table);
    let mut archive = tar::Builder::new(std::fs::File::create(sandbox.path("pics.tar")).expect("a file"));
    archive.append_dir_all("pics", sandbox.path("pics")).expect("an archive");
    archive.finish().expect("an archive");
    for data in ["labels.csv --image-dir pics", "pics.tar"] {
        let results = sandbox.ok(&format!("val {data} -m model --format json")).json();
        assert_eq!((results["images"].as_u64(), results["top1"].as_f64()), (Some(20), Some(top1)), "{data}");
        assert_eq!(results["top5"].as_f64(), Some(top5), "{data}");
        assert!(
            (results["loss"].as_f64().expect("loss") - folder["loss"].as_f64().expect("loss")).abs() < 1e-6
        );
    }
    sandbox.fails("val labels.csv -m model --max-bad 0", 1, &["disc/000000.png"]);
}

#[test]
fn cifar_idx_and_the_drawn_set() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("cifar")).expect("a folder");
    let record =
        |i: usize| std::iter::once(i as u8 % 10).chain((0..3072).map(move |p| (p * 7 + i * 31) as u8));
    sandbox.write("cifar/test_batch.bin", (0..6).flat_map(record).collect::<Vec<u8>>());
    let results = sandbox.ok("val cifar -m model --format json").json();
    assert_eq!(results["images"], 6);

    std::fs::create_dir(sandbox.path("mnist")).expect("a folder");
    let pixels: Vec<u8> = (0..4 * 28 * 28).map(|p| (p * 13) as u8).collect();
    sandbox.write(
        "mnist/t10k-images-idx3-ubyte",
        [&[0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 28, 0, 0, 0, 28], &pixels[..]].concat(),
    );
    sandbox.write("mnist/t10k-labels-idx1-ubyte", [0, 0, 8, 1, 0, 0, 0, 4, 7, 2, 1, 0]);
    let results = sandbox.ok("val mnist -m model --format json --results-file out.csv").json();
    assert_eq!(results["images"], 4);
    let labels: Vec<String> =
        csv_rows(&sandbox.read("out.csv")).iter().map(|row| row["label"].clone()).collect();
    assert_eq!(labels, ["7", "2", "1", "0"]);
    sandbox.write("mnist/t10k-labels-idx1-ubyte", [0, 0, 8, 1, 0, 0, 0, 9, 7, 2, 1, 0]);
    sandbox.fails("val mnist -m model", 1, &["t10k-"]);

    let results = sandbox.ok("val demo -m model --limit 15 --batch-size 10 --format json").json();
    assert_eq!(results["images"], 15);
}

#[test]
fn a_limit_takes_the_first_images() {
    let sandbox = Sandbox::new();
    predicted(&sandbox);
    sandbox.ok("val pics -m model --results-file all.csv");
    sandbox.ok("val pics -m model --results-file some.csv --limit 7 --batch-size 4");
    let first: Vec<String> = sandbox.read("all.csv").lines().take(8).map(String::from).collect();
    assert_eq!(sandbox.read("some.csv").lines().collect::<Vec<_>>(), first);
}

#[test]
fn unreadable_images_are_named_and_counted() {
    let sandbox = Sandbox::new();
    predicted(&sandbox);
    sandbox.write("pics/ring/broken.png", "no picture");
    let ran = sandbox.ok("val pics -m model --max-bad 1 --format json");
    assert_eq!((ran.json()["images"].as_u64(), ran.json()["bad"].as_u64()), (Some(20), Some(1)));
    assert!(ran.err.contains("skipped ring/broken.png: "), "{}", ran.err);
    sandbox.ok("val pics -m model --max-bad 0.2");
    sandbox.fails("val pics -m model --max-bad 0 --results-file out.csv", 1, &["ring/broken.png", "hint:"]);
    sandbox.write("pics/disc/broken.png", "");
    sandbox.fails("val pics -m model --max-bad 1 --results-file out.csv", 1, &["broken.png", "hint:"]);
    sandbox.fails("val pics -m model --max-bad=-1", 2, &["--max-bad"]);
}

#[test]
fn classes_that_do_not_fit_the_model() {
    let sandbox = Sandbox::new();
    predicted(&sandbox);
    sandbox.model("three", &vitrum::models::VitConfig { num_classes: 3, ..crate::sandbox::tiny() });
    // Of the ten classes the model knows three; the others are left out by name.
    let ran = sandbox.ok("val pics -m three --format json");
    assert_eq!(
        (ran.json()["images"].as_u64(), ran.json()["left_out"]["count"].as_u64()),
        (Some(6), Some(14))
    );
    assert!(ran.err.contains("7 of 10 are unknown to the model and left out: checker"), "{}", ran.err);
    // With the model's own three classes, the rest is left out, and that is said.
    sandbox.write("three.txt", "disc\nring\nsquare\n");
    let ran = sandbox.ok("val pics -m three --class-map three.txt --format json");
    assert_eq!(ran.json()["images"], 6);
    assert!(ran.err.contains("left out 14"), "{}", ran.err);
    sandbox.write("labels.csv", "file,class_index\npics/disc/000000.png,3\n");
    sandbox.fails(
        "val labels.csv -m three",
        1,
        &["pics/disc/000000.png: class 3, but the model has 3 classes (0 to 2)"],
    );
    std::fs::create_dir(sandbox.path("loose")).expect("a folder");
    sandbox.picture("loose/a.png", 1);
    sandbox.fails("val loose -m model", 1, &["a.png: no label", "hint:"]);
    sandbox.fails("val pics -m model --split middle", 1, &["--split 'middle'"]);
    std::fs::create_dir(sandbox.path("void")).expect("a folder");
    sandbox.fails("val void -m model", 1, &["void", "hint:"]);
    sandbox.fails("val nowhere -m model", 1, &["nowhere"]);
    sandbox.fails("val pics -m model --limit 0", 1, &["pics"]);
}
