//! `vitrum study`: a study of seconds.

use std::process::Stdio;

use crate::sandbox::Sandbox;

const TINY: &str = r#"
name = "tiny"
question = "Do positions help?"
paper = "a paper"
cost = "seconds"
seeds = [1, 2]

[base]
data = "images"
model = "test_vit"
img_size = 32
model_kwargs = { patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2 }
epochs = 2
val_interval = 2
warmup_epochs = 0.5
batch_size = 16
validation_batch_size = 250
lr = 2e-3
checkpoint_hist = 1

[[runs]]
[[runs.axis]]
name = "positions"
values = [{ name = "none", model_kwargs = { pos_embed = "none" } }, { name = "learn" }]

[[check]]
claim = "positions help"
source = "page 3"
kind = "better"
a = "learn"
b = "none"
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::empty();
    sandbox.write("tiny.toml", TINY);
    for (part, count) in [("train", 32), ("val", 4)] {
        for class in 0..2 {
            let folder = format!("images/{part}/class{class}");
            std::fs::create_dir_all(sandbox.path(&folder)).expect("a folder");
            (0..count).for_each(|number| {
                sandbox.picture(&format!("{folder}/{number}.png"), 100 * class + number);
            });
        }
    }
    sandbox
}

#[test]
fn the_built_in_studies_are_listed() {
    let sandbox = Sandbox::empty();
    let text = sandbox.ok("study --list").out;
    for (name, _) in vitrum::study::BUILTIN {
        assert!(text.lines().any(|line| line.starts_with(name)), "no {name} in:\n{text}");
    }
    let rows = sandbox.ok("study --list --format json").json();
    assert_eq!(rows.as_array().map(Vec::len), Some(vitrum::study::BUILTIN.len()));
    assert!(rows[0]["question"].as_str().is_some_and(|question| question.ends_with('?')));
}

#[test]
fn a_dry_run_says_the_cost_and_writes_nothing() {
    let sandbox = sandbox();
    let before = sandbox.listing();
    let ran = sandbox.ok("study tiny.toml --dry-run --no-measure --format csv");
    let rows = ran.csv();
    let runs: Vec<&str> = rows.iter().map(|row| row["run"].as_str()).collect();
    assert_eq!(runs, ["none-s1", "learn-s1", "none-s2", "learn-s2"]);
    for row in &rows {
        assert_eq!((row["state"].as_str(), row["images"].as_str()), ("new", "64"), "{row:?}");
        assert_eq!((row["epochs"].as_str(), row["updates"].as_str()), ("2", "8"), "{row:?}");
    }
    assert!(ran.err.contains("4 runs to do: about "), "{}", ran.err);
    // Measured, with updates that are made and forgotten.
    let measured = sandbox.ok("study tiny.toml --dry-run --format json").json();
    assert!(measured[0]["update_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{measured}");
    assert_eq!(sandbox.listing(), before);
}

#[test]
fn a_study_runs_once_and_reports() {
    let sandbox = sandbox();
    let ran = sandbox.ok("study tiny.toml --no-measure");
    assert!(ran.err.contains("4 runs to do: about ") && ran.err.contains("run 4/4  learn-s2"), "{}", ran.err);
    assert!(ran.out.contains(": positions help\n"), "{}", ran.out);
    for name in ["report.md", "report.html", "results.csv", "results.json", "plots/results.svg"] {
        assert!(sandbox.has(&format!("studies/tiny/{name}")), "{name}");
    }
    assert!(sandbox.has("studies/tiny/runs/classify/none-s1/model/model.safetensors"));
    let report = sandbox.read("studies/tiny/report.md");
    assert!(report.contains("All 4 runs are finished"), "{report}");

    // Again: nothing is trained, and the report is the same.
    let again = sandbox.ok("study tiny.toml --no-measure");
    assert!(again.err.contains("0 runs to do, 4 finished"), "{}", again.err);
    assert!(!again.err.contains("run 1/4"), "{}", again.err);
    assert_eq!(again.out, ran.out);
    assert_eq!(sandbox.read("studies/tiny/report.md"), report);
    let json = sandbox.ok("study tiny.toml --report-only --format json").json();
    assert_eq!((&json["finished"], &json["study"]), (&4.into(), &"tiny".into()));

    // Other values would be another study.
    let told = sandbox.ends("study tiny.toml --no-measure --set lr=1e-3", 1).err;
    let folder = std::path::Path::new("studies/tiny/runs/classify/none-s1");
    assert!(
        told.contains("run none-s1 was finished with other values\n  lr   0.002 -> 0.001\nhint: "),
        "{told}"
    );
    assert!(told.contains("another --output") && told.contains(&folder.display().to_string()), "{told}");
    let other = sandbox.ok("study tiny.toml --no-measure --set lr=1e-3 --only none-s1 --output other");
    assert!(other.err.contains("run 1/1  none-s1"), "{}", other.err);
    assert_eq!(sandbox.listing(), ["images", "other", "studies", "tiny.toml"]);
}

#[test]
fn parts_on_two_machines_make_one_report() {
    let sandbox = sandbox();
    let plan = |shard: &str| {
        let rows =
            sandbox.ok(&format!("study tiny.toml --dry-run --no-measure --format csv --shard {shard}")).csv();
        rows.iter().map(|row| row["run"].clone()).collect::<Vec<_>>()
    };
    let (first, second) = (plan("1/2"), plan("2/2"));
    let mut all = [first.clone(), second.clone()].concat();
    all.sort();
    assert_eq!(all, ["learn-s1", "learn-s2", "none-s1", "none-s2"]);
    assert_eq!((first.len(), second.len()), (2, 2));
    let half = sandbox.ok("study tiny.toml --no-measure --set epochs=1 --shard 1/2 --output both");
    assert!(half.err.contains("2 of 4 runs are finished"), "{}", half.err);
    sandbox.ok("study tiny.toml --no-measure --set epochs=1 --shard 2/2 --output both");
    let json = sandbox.ok("study tiny.toml --set epochs=1 --report-only --output both --format json").json();
    assert_eq!((&json["finished"], &json["missing"]), (&4.into(), &serde_json::json!([])));
}

#[test]
fn mistakes_are_told_with_what_to_type() {
    let sandbox = sandbox();
    sandbox.fails("study", 2, &["STUDY"]);
    sandbox.fails(
        "study position",
        1,
        &["no study 'position'", "did you mean 'positions'?", "vitrum study --list"],
    );
    sandbox.fails("study tiny.toml --set epoch=3", 1, &["unknown key 'epoch'", "did you mean 'epochs'?"]);
    sandbox.fails("study tiny.toml --set epochs=many", 1, &["run none-s1: tiny.toml: epochs: "]);
    sandbox.fails("study tiny.toml --only nope", 1, &["no run matches 'nope'"]);
    sandbox.fails("study tiny.toml --shard 3/2", 2, &["expected i/n"]);
    sandbox.fails("study tiny.toml --report-only", 1, &["no finished run of the study tiny"]);
    sandbox.fails("study tiny.toml --set data=nowhere", 1, &["run none-s1: ", "nowhere"]);
    sandbox.write("bad.toml", TINY.replace("val_interval", "val_intervall"));
    sandbox.fails(
        "study bad.toml",
        1,
        &["bad.toml: base", "'val_intervall'", "did you mean 'val_interval'?"],
    );
}

/// A signal saves and stops, whatever is being done; then the study ends in the bytes of an unbroken one.
#[cfg(unix)]
#[test]
fn a_signal_saves_and_the_same_command_goes_on() {
    let model = "studies/tiny/runs/classify/learn-s2/model/model.safetensors";
    let whole = sandbox();
    whole.ok("study tiny.toml --no-measure");
    let expected = std::fs::read(whole.path(model)).expect("a model");

    let broken = sandbox();
    for _ in 0..3 {
        let mut command = broken.command("study tiny.toml --no-measure".split_whitespace());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("vitrum starts");
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().expect("a pipe")));
        let mut said = Vec::new();
        let mut is_sent = false;
        for line in lines {
            said.push(line.expect("text"));
            // The first epoch of a run is over, or a run begins again after it.
            if !is_sent && said.iter().any(|line| line.contains("  epoch 1  ")) {
                let sent =
                    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
                is_sent = sent.expect("kill").success();
            }
        }
        let code = child.wait().expect("an end").code();
        // A study may end before the signal comes.
        assert!(matches!(code, Some(0 | 75)), "{code:?}: {said:?}");
        if code == Some(75) {
            assert!(said.iter().any(|line| line.contains("the same command goes on")), "{said:?}");
        }
    }
    broken.ok("study tiny.toml --no-measure");
    assert!(std::fs::read(broken.path(model)).expect("a model") == expected, "other weights");
}
