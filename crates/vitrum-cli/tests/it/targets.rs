//! Several classes per image, and numbers: from a table to a run, to answers, to scores.

use serde_json::{Value, json};
use vitrum::models::VitConfig;

use crate::sandbox::{Sandbox, csv_rows, tiny};

const COUNT: usize = 12;
const CLASSES: [&str; 3] = ["disc", "square", "triangle"];

/// Pictures, tables of both kinds, and `model/` with three outputs whose card has this `problem_type`.
fn sandbox(problem: &str) -> Sandbox {
    let sandbox = Sandbox::empty();
    sandbox.model("model", &VitConfig { num_classes: 3, ..tiny() });
    let mut card: Value = serde_json::from_str(&sandbox.read("model/config.json")).expect("a card");
    assert!(card.get("problem_type").is_none(), "a model of one class per image does not name it");
    card["problem_type"] = json!(problem);
    card["label_names"] = json!(CLASSES);
    sandbox.write("model/config.json", card.to_string());
    let (mut sets, mut hot, mut numbers) = (
        String::from("file,tags\n"),
        String::from("file,square,disc,triangle\n"),
        String::from("file,y1,y2,y3\n"),
    );
    for at in 0..COUNT {
        let name = format!("{at:02}.png");
        sandbox.picture(&name, at as u64);
        let has = |class: usize| at >> class & 1 == 1;
        let tags: Vec<&str> = (0..3).filter(|&class| has(class)).map(|class| CLASSES[class]).collect();
        sets += &format!("{name},{}\n", tags.join(";"));
        hot += &format!("{name},{},{},{}\n", u8::from(has(1)), u8::from(has(0)), u8::from(has(2)));
        numbers += &format!("{name},{},{},{}\n", at, at as f64 / 2.0, -1);
    }
    sandbox.write("sets.csv", sets);
    sandbox.write("hot.csv", hot);
    sandbox.write("numbers.csv", numbers);
    sandbox
}

/// The model's logits for each picture.
fn logits(sandbox: &Sandbox) -> Vec<Vec<f64>> {
    let row = |at: usize| {
        let values = sandbox.picture(&format!("{at:02}.png"), at as u64);
        sandbox.tensors("in.safetensors", &[("input", &[1, 3, 32, 32], &values)]);
        sandbox.ok(&format!("forward -m model --input in.safetensors --output {at}.safetensors"));
        sandbox.load(&format!("{at}.safetensors")).get("logits").expect("logits").to_f64()
    };
    (0..COUNT).map(row).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn several_classes_are_predicted_by_a_sigmoid_each() {
    let sandbox = sandbox("multi_label_classification");
    let logits = logits(&sandbox);
    let json = sandbox.ok("predict 00.png 05.png -m model --format json").json();
    for (answer, at) in json.as_array().expect("answers").iter().zip([0, 5]) {
        let predictions = answer["predictions"].as_array().expect("predictions");
        assert_eq!(predictions.len(), 3);
        for prediction in predictions {
            let index = prediction["index"].as_u64().expect("an index") as usize;
            assert_eq!(prediction["label"], CLASSES[index]);
            let expected = 1.0 / (1.0 + (-logits[at][index]).exp());
            assert!((number(&prediction["prob"]) - expected).abs() < 1e-5, "{prediction} {expected}");
        }
        let probs: Vec<f64> = predictions.iter().map(|prediction| number(&prediction["prob"])).collect();
        assert!(
            probs.is_sorted_by(|a, b| a >= b) && (probs.iter().sum::<f64>() - 1.0).abs() > 1e-3,
            "{probs:?}"
        );
    }
    let rows = sandbox.ok("predict 00.png -m model --topk 1 --format csv").csv();
    assert_eq!((rows.len(), rows[0]["rank"].as_str()), (1, "1"));
    assert_eq!(rows[0]["label"], json[0]["predictions"][0]["label"]);
    let text = sandbox.ok("predict 00.png -m model --topk 1").out;
    let expected =
        format!("{:5.1} %  {}", 100.0 * number(&json[0]["predictions"][0]["prob"]), rows[0]["label"]);
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn several_classes_are_measured() {
    let sandbox = sandbox("multi_label_classification");
    let logits = logits(&sandbox);
    // By hand: decisions at a logit above 0.
    let (mut right, mut wrong, mut exact) = (0.0, 0.0, 0.0);
    for (at, row) in logits.iter().enumerate() {
        let decisions = (0..3).map(|class| (at >> class & 1 == 1, row[class] > 0.0));
        right += decisions.clone().filter(|(truth, found)| *truth && *found).count() as f64;
        wrong += decisions.clone().filter(|(truth, found)| truth != found).count() as f64;
        exact += f64::from(u8::from(decisions.clone().all(|(truth, found)| truth == found)));
    }
    let of_lists = sandbox.ok("val sets.csv -m model --format json --results-file rows.csv").json();
    assert_eq!(of_lists["images"], COUNT);
    assert!((number(&of_lists["f1"]) - 2.0 * right / (2.0 * right + wrong)).abs() < 1e-12, "{of_lists}");
    assert!((number(&of_lists["exact"]) - exact / COUNT as f64).abs() < 1e-12, "{of_lists}");
    assert!((0.0..=1.0).contains(&number(&of_lists["map"])) && number(&of_lists["loss"]) > 0.0);
    assert_eq!(of_lists["classes_matched"], "with the model's labels by name");
    // Columns in another order are matched by name as well.
    let of_columns = sandbox.ok("val hot.csv -m model --format json").json();
    for score in ["loss", "map", "f1", "exact"] {
        assert_eq!(of_columns[score], of_lists[score], "{score}");
    }
    let rows = csv_rows(&sandbox.read("rows.csv"));
    assert_eq!(
        (rows.len(), rows[5]["labels"].as_str(), rows[8]["labels"].as_str()),
        (COUNT, "disc|triangle", "")
    );
    let found: Vec<&str> =
        (0..3).filter(|&class| logits[5][class] > 0.0).map(|class| CLASSES[class]).collect();
    assert_eq!(rows[5]["preds"], found.join("|"));
    let text = sandbox.ok("val sets.csv -m model").out;
    assert!(text.starts_with(&format!(" * loss {:.4} map ", number(&of_lists["loss"]))), "{text}");
    let csv = sandbox.ok("val sets.csv -m model --format csv").csv();
    assert_eq!(csv[0]["map"], format!("{:.6}", number(&of_lists["map"])));
    sandbox.fails(
        "val sets.csv -m model --min-top1 50",
        1,
        &["--min-top1: a model for multilabel has no top-1"],
    );
    sandbox.fails("val numbers.csv -m model", 1, &["numbers.csv: line 1: no column of lists"]);
}

#[test]
fn numbers_are_predicted_and_measured() {
    let sandbox = sandbox("regression");
    let outputs = logits(&sandbox);
    let json = sandbox.ok("predict 03.png -m model --format json").json();
    let rows = sandbox.ok("predict 03.png -m model --format csv").csv();
    let text = sandbox.ok("predict 03.png -m model").out;
    assert!(json[0].get("predictions").is_none(), "{json}");
    for (at, (value, row)) in json[0]["values"].as_array().expect("values").iter().zip(&rows).enumerate() {
        assert_eq!((&value["index"], &value["label"]), (&json!(at), &json!(CLASSES[at])));
        assert!((number(&value["value"]) - outputs[3][at]).abs() < 1e-5, "{value}");
        assert_eq!(
            (row["label"].as_str(), &row["value"]),
            (CLASSES[at], &format!("{:.6}", number(&value["value"])))
        );
        assert!(text.contains(&format!("{:12.6}  {}", number(&value["value"]), CLASSES[at])), "{text}");
    }
    // By hand; the columns have other names than the model's, so they are matched by their places.
    let truth = |at: usize| [at as f64, at as f64 / 2.0, -1.0];
    let errors: Vec<f64> =
        outputs.iter().enumerate().flat_map(|(at, row)| (0..3).map(move |c| row[c] - truth(at)[c])).collect();
    let mean = |of: fn(f64) -> f64| errors.iter().map(|error| of(*error)).sum::<f64>() / errors.len() as f64;
    let results = sandbox.ok("val numbers.csv -m model --format json --results-file rows.csv").json();
    assert_eq!((&results["images"], &results["classes_matched"]), (&json!(COUNT), &json!("by position")));
    for (score, expected) in
        [("mae", mean(f64::abs)), ("rmse", mean(|e| e * e).sqrt()), ("loss", mean(|e| e * e))]
    {
        assert!((number(&results[score]) / expected - 1.0).abs() < 1e-4, "{score}: {results} {expected}");
    }
    assert!(number(&results["r2"]) < 1.0);
    let rows = csv_rows(&sandbox.read("rows.csv"));
    assert_eq!(
        (rows.len(), rows[4]["file"].as_str(), rows[4]["value"].as_str()),
        (3 * COUNT, "01.png", "0.5")
    );
    // One column too few, one that is not there, and one that holds words.
    sandbox.fails(
        "val numbers.csv -m model --target-columns y1",
        1,
        &["1 columns of numbers, but the model gives 3"],
    );
    sandbox.fails(
        "val numbers.csv -m model --target-columns z",
        1,
        &["no column `z`; the columns besides the path are `y1`, `y2`, `y3`", "--target-columns NAME"],
    );
    sandbox.fails(
        "val sets.csv -m model --target-columns tags",
        1,
        &["sets.csv: line 2: column `tags` is empty, expected a number"],
    );
    sandbox.fails("val numbers.csv -m model --min-top1 50", 1, &["a model for regress has no top-1"]);
}

#[test]
fn a_run_of_each_task_from_a_table() {
    let sandbox = sandbox("regression");
    let train = "-m test_vit --img-size 32 --model-kwargs patch_size=16 embed_dim=16 depth=1 num_heads=2 --epochs 1 \
                 --warmup-epochs 0 -b 4 --lr 1e-3 --experiment run";
    let ran = sandbox.ok(&format!("train sets.csv --task multilabel --mixup 0.2 {train}"));
    assert!(ran.out.contains("\"map\":"), "{}", ran.out);
    let json = sandbox.ok("predict 00.png -m runs/multilabel/run/model --format json").json();
    assert_eq!(json[0]["predictions"].as_array().map(Vec::len), Some(3));
    sandbox.ok("val hot.csv -m runs/multilabel/run/model");

    let columns = "--target-columns y2 --target-columns y1";
    sandbox.ok(&format!("train numbers.csv --task regress --regression-loss smooth_l1 {columns} {train}"));
    let args = sandbox.read("runs/regress/run/args.toml");
    assert!(
        args.contains("regression_loss = \"smooth_l1\"") && args.contains("eval_metric = \"mae\""),
        "{args}"
    );
    let rows = sandbox.ok("predict 00.png -m runs/regress/run/model --format csv").csv();
    assert_eq!(rows.iter().map(|row| row["label"].as_str()).collect::<Vec<_>>(), ["y2", "y1"]);
    // The columns are found by the names that the model has.
    let results = sandbox.ok("val numbers.csv -m runs/regress/run/model --format json").json();
    assert_eq!(results["classes_matched"], "with the model's columns by name");
    sandbox.fails(
        &format!("train numbers.csv --task regress --bce-loss {train}"),
        1,
        &["bce_loss is a loss of classes, not of task regress"],
    );
}
