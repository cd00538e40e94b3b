//! `bench`, `demo`, `checks`, `version`, `completions`.

use vitrum::data::demo::CLASSES;

use crate::sandbox::Sandbox;

#[test]
fn bench_measures() {
    let sandbox = Sandbox::new();
    let args = "bench -m model --batch-sizes 1,3 --runs 3 --warmup 1";
    let measured = sandbox.ok(&format!("{args} --format json")).json();
    let sizes: Vec<_> =
        measured.as_array().expect("a list").iter().map(|m| m["batch_size"].as_u64()).collect();
    assert_eq!(sizes, [Some(1), Some(3)]);
    for m in measured.as_array().expect("a list") {
        let number = |key: &str| m[key].as_f64().expect(key);
        assert!(0.0 < number("min_ms") && number("min_ms") <= number("median_ms"), "{m}");
        assert!(number("median_ms") <= number("max_ms"), "{m}");
        let speed = 1e3 * number("batch_size") / number("median_ms");
        assert!((number("images_per_second") / speed - 1.0).abs() < 1e-9, "{m}");
        let share = number("share_of_peak");
        assert!(number("gflops") > 0.0 && 0.0 < share && share < 1.5, "{m}");
        assert_eq!((m["runs"].as_u64(), m["threads"].as_u64()), (Some(3), Some(1)));
    }
    assert_eq!(sandbox.ok(&format!("{args} --format csv")).csv().len(), 2);
    assert_eq!(sandbox.ok(args).out.lines().count(), 3);
    let two = sandbox.ok("bench -m model model --batch-sizes 1,2 --runs 1 --warmup 0 --format json").json();
    assert_eq!(two.as_array().map(Vec::len), Some(4));
    sandbox.fails("bench -m model elsewhere --runs 1", 1, &["elsewhere"]);
    let streams = "bench -m model --batch-sizes 2 --runs 3 --streams 3 --format json";
    let streams = sandbox.ok(streams).json()[0].clone();
    let number = |key: &str| streams[key].as_f64().expect(key);
    assert!(number("streams") == 3.0 && number("runs") >= 9.0, "{streams}");
    let speed = 1e3 * 3.0 * 2.0 / number("median_ms");
    assert!((number("images_per_second") / speed - 1.0).abs() < 1e-9, "{streams}");
    sandbox.fails("bench -m model --streams 99999", 1, &["--streams 99999"]);
    sandbox.fails("bench -m model --streams 2 --train", 2, &["--train"]);
    for flags in ["--runs 0", "--streams 0", "--batch-sizes 0", "--batch-sizes 1,0"] {
        sandbox.fails(&format!("bench -m model {flags}"), 1, &["at least 1"]);
    }
    sandbox.fails("bench -m model --batch-sizes x", 2, &["--batch-sizes"]);
    if cfg!(target_os = "linux") {
        sandbox.fails("bench -m model --batch-sizes 1,99999999999999", 1, &["of memory", "hint:"]);
    }
}

#[test]
fn bench_measures_the_way_from_files_to_batches() {
    let sandbox = Sandbox::new();
    sandbox.ok("demo pics --count 10 --size 40");
    let measured = sandbox.ok("bench -m model --data pics -b 4 --runs 2 --warmup 0 --format json").json();
    let row = &measured[0];
    assert_eq!((row["pass"].as_str(), row["runs"].as_u64()), (Some("data"), Some(2)));
    let images =
        row["images_per_second"].as_f64().expect("a speed") * row["median_ms"].as_f64().expect("a time");
    assert!((images - 10e3).abs() < 1e-3, "every pass is all images: {row}");
    assert!(row["gflops"].is_null() && row["share_of_peak"].is_null());
    sandbox.fails("bench -m model --data nowhere", 1, &["nowhere"]);
}

#[test]
fn demo_draws_a_folder_per_class() {
    let sandbox = Sandbox::empty();
    sandbox.ok("demo pics --count 20 --size 40 --sheet sheet.png");
    for (index, class) in CLASSES.iter().cycle().take(20).enumerate() {
        let picture = image::open(sandbox.path(format!("pics/{class}/{index:06}.png"))).expect("a picture");
        assert_eq!((picture.width(), picture.height()), (40, 40));
    }
    let sheet = image::open(sandbox.path("sheet.png")).expect("the sheet").to_rgb8();
    assert_eq!(sheet.dimensions(), (400, 80));
    let third = image::open(sandbox.path("pics/square/000002.png")).expect("a picture").to_rgb8();
    assert!(
        (0..40).all(|i| sheet.get_pixel(80 + i, i) == third.get_pixel(i, i)),
        "the third of the first row"
    );

    sandbox.ok("demo again --count 20 --size 40");
    sandbox.ok("demo other --count 20 --size 40 --seed 1");
    let bytes =
        |folder: &str| std::fs::read(sandbox.path(format!("{folder}/disc/000000.png"))).expect("a picture");
    assert_eq!(bytes("pics"), bytes("again"));
    assert_ne!(bytes("pics"), bytes("other"));

    sandbox.fails("demo pics", 1, &["pics exists already", "hint:"]);
    sandbox.fails("demo sheet.png", 1, &["sheet.png exists already"]);
    sandbox.fails("demo new --count 0", 1, &["--count"]);
    sandbox.fails("demo new --size 5", 1, &["--size"]);
    sandbox.fails("demo new --size 4000000", 1, &["--size"]);
    sandbox.fails("demo new --count 1 --sheet nowhere/sheet.png", 1, &["nowhere"]);
    sandbox.fails("demo new --count 1 --sheet sheet.xyz", 1, &["sheet.xyz"]);
    sandbox.fails("demo new --count 1 --size 4096 --sheet big.png", 1, &["--sheet"]);
}

#[test]
fn checks_pass_on_this_machine() {
    let sandbox = Sandbox::empty();
    let outcomes = sandbox.ok("checks --format json").json();
    let outcomes = outcomes.as_array().expect("outcomes");
    assert!(outcomes.iter().all(|outcome| outcome["ok"] == true), "{outcomes:?}");
    for check in ["attention F32 forward", "attention F64 backward", "layer_norm F32 backward"] {
        assert!(outcomes.iter().any(|outcome| outcome["check"] == check), "{check}");
    }
    let threads = outcomes.iter().find(|outcome| outcome["check"] == "threads").expect("threads");
    assert_eq!(threads["result"], "1");
}

#[test]
fn version_in_every_format() {
    let sandbox = Sandbox::empty();
    assert_eq!(sandbox.ok("version --format json").json()["vitrum"], env!("CARGO_PKG_VERSION"));
    assert!(sandbox.ok("version").out.contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(sandbox.ok("version --format csv").csv()[0]["version"], env!("CARGO_PKG_VERSION"));
    assert!(sandbox.ok("--version").out.starts_with("vitrum "));
}

#[test]
fn completions_for_every_shell() {
    let sandbox = Sandbox::empty();
    for shell in ["bash", "zsh", "fish"] {
        let script = sandbox.ok(&format!("completions {shell}")).out;
        for word in ["predict", "checkpoint", "img-size"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    sandbox.fails("completions tcsh", 2, &["tcsh"]);
}
