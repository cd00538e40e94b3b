//! `vitrum probe`.

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Scores of a report, without times.
fn scores(report: &Value) -> Vec<(String, String, String)> {
    let rows = report["rows"].as_array().expect("rows");
    let text = |row: &Value, key: &str| row[key].to_string();
    rows.iter().map(|row| (text(row, "method"), text(row, "setting"), text(row, "top1"))).collect()
}

#[test]
fn a_table_of_methods_on_the_demo_set_and_its_cache() {
    let sandbox = Sandbox::empty();
    let command =
        "probe demo:200 -m demo --shots 5,all --k 1,5 --epochs 12 --warmup-epochs 2 --batch-size 50 --blr 5";
    let first = sandbox.ok(&format!("{command} --format json"));
    let report = first.json();
    assert_eq!(
        (&report["train_images"], &report["val_images"], &report["classes"]),
        (&200.into(), &40.into(), &10.into())
    );
    assert_eq!(
        (&report["cached"], &report["pool"], &report["run"]),
        (&false.into(), &"head".into(), &Value::Null)
    );
    assert!(first.err.contains("computed in"), "{}", first.err);
    let told: Vec<(String, String, String)> = scores(&report);
    let methods: Vec<&str> = told.iter().map(|(method, ..)| method.as_str()).collect();
    assert_eq!(methods, ["\"knn\"", "\"knn\"", "\"knn\"", "\"knn\"", "\"ridge\"", "\"ridge\"", "\"linear\""]);
    // The model learned these shapes: every method finds them in its features.
    for row in report["rows"].as_array().expect("rows") {
        assert!(row["top1"].as_f64().expect("a number") > 60.0, "{row}");
        assert!(row["top5"].is_null() || row["top5"].as_f64() >= row["top1"].as_f64(), "{row}");
    }

    let second = sandbox.ok(&format!("{command} --format json"));
    assert!(second.err.contains("reused from runs/probe/features/"), "{}", second.err);
    assert_eq!(second.json()["cached"], true);
    assert_eq!(scores(&second.json()), told, "the same scores");
    // Other pooling, other data: other features.
    for other in [command.replace("demo:200", "demo:210"), format!("{command} --pool avg")] {
        let ran = sandbox.ok(&format!("{other} --method knn"));
        assert!(ran.err.contains("computed in"), "{}", ran.err);
    }

    let text = sandbox.ok(&format!("{command} --plot table.svg")).out;
    let header = text.lines().next().expect("a header");
    for column in ["method", "setting", "top-1 %", "top-5 %", "images", "seconds"] {
        assert!(header.contains(column), "{text}");
    }
    assert!(text.contains("shots=5 l2=") && text.contains(" ± "), "{text}");
    assert_eq!(text.lines().count(), 8, "{text}");
    let picture = sandbox.read("table.svg");
    assert!(
        picture.contains("<svg") && picture.contains("shots=all") && picture.contains("demo on demo:200")
    );

    let rows = sandbox.ok(&format!("{command} --format csv")).csv();
    assert_eq!(rows.len(), 7);
    assert_eq!((rows[4]["method"].as_str(), rows[4]["draws"].as_str()), ("ridge", "3"));
    assert!(rows[0]["top5"].is_empty() && !rows[1]["top5"].is_empty(), "one neighbour has one answer");
    let numbers: Vec<f64> = rows.iter().map(|row| row["top1"].parse().expect("a number")).collect();
    let expected: Vec<f64> = told.iter().map(|(.., top1)| top1.parse().expect("a number")).collect();
    assert!(numbers.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3));
}

#[test]
fn fine_tuning_is_a_row_with_a_run() {
    let sandbox = Sandbox::empty();
    let command = "probe demo:60 -m demo --method finetune,knn --k 1 --format json --no-cache \
                   --recipe-overrides epochs=1 batch_size=20 warmup_epochs=0 lr=1e-4";
    let ran = sandbox.ok(command);
    let report = ran.json();
    let rows = report["rows"].as_array().expect("rows");
    let methods: Vec<&str> = rows.iter().filter_map(|row| row["method"].as_str()).collect();
    assert_eq!(methods, ["knn", "knn", "finetune"]);
    assert_eq!(rows[2]["setting"], "epochs=1 lr=0.0001 layer_decay=0.75");
    assert_eq!(rows[2]["images"], 60);
    let run = report["run"].as_str().expect("a run");
    assert_eq!(run, "runs/probe/classify/finetune");
    let results: Value =
        serde_json::from_str(&sandbox.read(&format!("{run}/results.json"))).expect("results");
    assert_eq!(rows[2]["top1"], results["best"]["top1"]);
    assert!(sandbox.has(&format!("{run}/model/model.safetensors")));
    assert!(!sandbox.has("runs/probe/features"), "--no-cache keeps nothing");
}

#[test]
fn wrong_requests_fail_early_and_leave_nothing() {
    let sandbox = Sandbox::new();
    let probe = |rest: &str| format!("probe demo:20 -m model --no-cache {rest}");
    sandbox.fails(&probe("--method knn --k 21"), 1, &["k is 21, but there are 20 training images", "--k"]);
    sandbox.fails(&probe("--k 0"), 1, &["--k is [0]"]);
    sandbox.fails(&probe("--l2 0"), 1, &["--l2 is [0.0], expected numbers above 0"]);
    sandbox.fails(&probe("--epochs 5"), 1, &["--epochs is 5, expected more than those of the warm-up"]);
    sandbox.fails(&probe("--plot table.pdf"), 1, &["table.pdf", ".svg or .png"]);
    sandbox.fails(&probe("--feature-batch-size 0"), 1, &["--feature-batch-size"]);
    sandbox.fails(&probe("--max-memory 0"), 1, &["features of 30 images, 16 numbers each", "--max-memory"]);
    sandbox.fails(&probe("--opt larsen"), 1, &["unknown optimiser 'larsen'"]);
    sandbox.fails(&probe("--method vote"), 2, &["knn, ridge, linear, finetune"]);
    sandbox.fails(&probe("--shots none"), 2, &["'none': want a number of images"]);
    sandbox.fails(&probe("--pool map"), 2, &["want head, token, avg or both"]);
    sandbox.fails(&probe("--cache here"), 2, &["--no-cache"]);
    sandbox.fails(&probe("--method finetune --recipe-overrides epoch=1"), 1, &["epoch", "epochs"]);
    sandbox.fails(&probe("--method finetune --precision int8"), 1, &["--precision", "finetune"]);
    sandbox.fails("probe nowhere -m model", 1, &["nowhere"]);
    sandbox.fails("probe demo:20", 2, &["--model"]);
}

#[test]
fn data_without_labels_or_validation_is_refused() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("flat")).expect("a folder");
    std::fs::create_dir_all(sandbox.path("one/only")).expect("a folder");
    std::fs::create_dir_all(sandbox.path("two/a")).expect("a folder");
    std::fs::create_dir_all(sandbox.path("two/b")).expect("a folder");
    for name in
        ["flat/a.png", "one/only/a.png", "one/only/b.png", "two/a/a.png", "two/a/b.png", "two/b/c.png"]
    {
        sandbox.picture(name, 1);
    }
    let probe = |data: &str| format!("probe {data} -m model --no-cache");
    sandbox.fails(&probe("flat"), 1, &["no label"]);
    sandbox.fails(&probe("one"), 1, &["every image is of class `only`"]);
    sandbox.fails(&format!("{} --val-fraction 0", probe("two")), 1, &["no validation images", "--val-data"]);
    let ran = sandbox.ok(&format!("{} --method knn --k 1 --metric euclidean", probe("two")));
    assert_eq!(ran.out.lines().count(), 2, "{}", ran.out);
}
