//! `vitrum predict`.

use std::collections::BTreeMap;

use vitrum::data::demo::CLASSES;

use crate::sandbox::{Sandbox, difference};

#[test]
fn probabilities_are_those_of_forward() {
    let sandbox = Sandbox::new();
    let values = sandbox.picture("a.png", 1);
    sandbox.tensors("in.safetensors", &[("input", &[1, 3, 32, 32], &values)]);
    sandbox.ok("forward -m model --input in.safetensors --output out.safetensors");
    let logits = sandbox.load("out.safetensors").get("logits").expect("logits").to_f64();
    let largest = logits.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = logits.iter().map(|l| (l - largest).exp()).sum();
    let expected: Vec<f64> = logits.iter().map(|l| (l - largest).exp() / sum).collect();

    let answers = sandbox.ok("predict a.png -m model --topk 10 --format json").json();
    let predictions = answers[0]["predictions"].as_array().expect("predictions");
    assert_eq!(answers[0]["file"], "a.png");
    assert_eq!(predictions.len(), 10);
    let mut found = vec![0.0; 10];
    for prediction in predictions {
        let index = prediction["index"].as_u64().expect("an index") as usize;
        assert_eq!(prediction["label"], CLASSES[index]);
        found[index] = prediction["prob"].as_f64().expect("a probability");
    }
    assert!(difference(&found, &expected) < 1e-5, "{found:?} and {expected:?}");
    assert!(predictions.is_sorted_by(|a, b| a["prob"].as_f64() >= b["prob"].as_f64()), "the likeliest first");
}

#[test]
fn folders_are_read_in_order_and_every_format_says_the_same() {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path("photos/sub")).expect("a folder");
    for (seed, name) in ["photos/b.png", "photos/a.PNG", "photos/sub/c.jpg", "z.bmp"].iter().enumerate() {
        sandbox.picture(name, seed as u64);
    }
    sandbox.write("photos/notes.txt", "not a picture");
    let expected = ["photos/a.PNG", "photos/b.png", "photos/sub/c.jpg", "z.bmp"];

    let rows = sandbox.ok("predict photos z.bmp -m model --topk 2 --format csv").csv();
    let files: Vec<&str> = rows.iter().step_by(2).map(|row| row["file"].as_str()).collect();
    assert_eq!(files, expected);
    assert_eq!(rows.iter().map(|row| row["rank"].as_str()).collect::<Vec<_>>(), ["1", "2"].repeat(4));

    // One at a time gives the same answers as all at once.
    let single = sandbox.ok("predict photos z.bmp -m model --topk 2 --format csv --batch-size 1").csv();
    for (row, alone) in rows.iter().zip(&single) {
        assert!(
            ["file", "rank", "index", "label"].iter().all(|key| row[*key] == alone[*key]),
            "{row:?} {alone:?}"
        );
        let prob = |row: &BTreeMap<String, String>| row["prob"].parse::<f64>().expect("a number");
        assert!((prob(row) - prob(alone)).abs() < 3e-6, "{row:?} {alone:?}");
    }
    assert_eq!(rows.len(), single.len());

    let json = sandbox.ok("predict photos z.bmp -m model --topk 2 --format json").json();
    let text = sandbox.ok("predict photos z.bmp -m model --topk 2").out;
    for (answer, pair) in json.as_array().expect("answers").iter().zip(rows.chunks(2)) {
        for (prediction, row) in answer["predictions"].as_array().expect("two").iter().zip(pair) {
            assert_eq!(prediction["label"], row["label"].as_str());
            assert_eq!(prediction["index"].to_string(), row["index"]);
            let prob = prediction["prob"].as_f64().expect("a number");
            assert_eq!(format!("{prob:.6}"), row["prob"]);
            assert!(text.contains(&format!("{:5.1} %  {}", 100.0 * prob, row["label"])), "{text}");
        }
    }
    assert_eq!(text.lines().count(), 4 * 3);
}

#[test]
fn a_class_map_renames_and_quiet_is_quiet() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.write("names.txt", (0..10).map(|i| format!("name {i}\n")).collect::<String>());
    let ran = sandbox.ok("predict a.png -m model --class-map names.txt --format json -q");
    assert_eq!(ran.err, "");
    for prediction in ran.json()[0]["predictions"].as_array().expect("predictions") {
        assert_eq!(prediction["label"], format!("name {}", prediction["index"]));
    }
}

#[test]
fn the_model_may_come_from_the_environment() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    let output = sandbox.command(["predict", "a.png"]).env("VITRUM_MODEL", "model").output().expect("runs");
    assert!(output.status.success(), "{output:?}");
    let given = sandbox.ok("predict a.png -m model");
    assert_eq!(String::from_utf8_lossy(&output.stdout), given.out);
}

#[test]
fn weights_from_a_file_and_preprocessing_from_flags() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    let card = sandbox.ok("predict a.png -m model --format json").json();
    let loose = "predict a.png -m test_vit --checkpoint model/model.safetensors --img-size 32 \
                 --model-kwargs patch_size=8 embed_dim=16 depth=2 mlp_ratio=2.0 num_classes=10 --format json";
    let same = sandbox.ok(&format!("{loose} --crop-pct 1.0")).json();
    assert_eq!(card[0]["predictions"][0]["index"], same[0]["predictions"][0]["index"]);
    assert_eq!(card[0]["predictions"][0]["prob"], same[0]["predictions"][0]["prob"]);
    let other = sandbox.ok("predict a.png -m model --format json --mean 0 0 0 --std 1 1 1").json();
    assert_ne!(card[0]["predictions"][0]["prob"], other[0]["predictions"][0]["prob"]);
}

#[test]
fn an_unreadable_image_is_named_and_the_others_are_answered() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.write("bad.png", b"\x89PNG\r\n\x1a\nthis is no picture");
    let ran = sandbox.ends("predict bad.png a.png -m model --topk 1 --format json", 1);
    let answers = ran.json();
    assert_eq!(answers.as_array().expect("answers").len(), 2);
    let of = |file: &str| {
        let answers = answers.as_array().expect("answers").iter();
        answers.into_iter().find(|answer| answer["file"] == file).cloned().expect(file)
    };
    assert!(of("a.png")["predictions"].is_array() && of("a.png")["error"].is_null());
    assert!(of("bad.png")["error"].is_string() && of("bad.png")["predictions"].is_null());
    assert!(ran.err.contains("error: bad.png: "), "{}", ran.err);
    assert!(ran.err.contains("1 of 2 images could not be read"), "{}", ran.err);
}

#[cfg(unix)]
#[test]
fn links_in_a_circle_end() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("photos")).expect("a folder");
    sandbox.picture("photos/a.png", 1);
    std::os::unix::fs::symlink(".", sandbox.path("photos/again")).expect("a link");
    std::os::unix::fs::symlink("../photos", sandbox.path("photos/up.png")).expect("a link");
    let answers = sandbox.ok("predict photos -m model --format json").json();
    assert_eq!(answers.as_array().expect("answers").len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    std::fs::create_dir_all(sandbox.path("photos/disc")).expect("a folder");
    let name = sandbox.path("photos/disc").join(std::ffi::OsStr::from_bytes(b"\xff\xfe.png"));
    std::fs::copy(sandbox.path("a.png"), name).expect("a file");
    for format in ["text", "json", "csv"] {
        let plain = sandbox.ok(&format!("predict a.png -m model --format {format}")).out;
        let odd = sandbox.ok(&format!("predict photos -m model --format {format}")).out;
        assert_eq!(odd.replace("photos/disc/\u{fffd}\u{fffd}.png", "a.png"), plain);
    }
    sandbox.ok("embed photos -m model");
    sandbox.ok("val photos -m model --results-file out.csv");
    assert!(sandbox.read("out.csv").contains("disc/\u{fffd}\u{fffd}.png,0,"));
}

/// Without a network, a model or a picture there is an answer: right on at least nine of ten.
#[test]
fn the_demo_answers() {
    let sandbox = Sandbox::empty();
    let rows = sandbox.ok("predict demo -m demo --topk 1 --format json").json();
    let right = rows.as_array().expect("a list").iter().filter(|row| {
        let file = row["file"].as_str().expect("a name");
        file.ends_with(&format!("{}.png", row["predictions"][0]["label"].as_str().expect("a label")))
    });
    assert!(right.count() >= 9, "{rows}");
    assert_eq!(sandbox.ok("predict demo --topk 2").out.matches(".png").count(), 10);
}
