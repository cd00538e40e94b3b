//! Studies: their files, runs, results and reports.

mod builtin;
mod cost;
mod file;
mod plan;
mod report;
mod run;
mod shard;
mod verdict;

use vitrum::study::{Plan, Record, RunResult, Study};
use vitrum::train::log::{EpochSummary, Finished};
use vitrum::train::score::{Scores, Validation};

/// A model and updates of milliseconds.
pub const BASE: &str = r#"
[base]
data = "demo:96"
model = "test_vit"
img_size = 32
model_kwargs = { patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2 }
epochs = 2
warmup_epochs = 0.5
batch_size = 32
validation_batch_size = 250
val_interval = 2
lr = 2e-3
mixup = 0.2
workers = 1
checkpoint_hist = 1
"#;

/// The text of a study.
pub fn text(head: &str, runs: &str) -> String {
    format!("name = \"tiny\"\nquestion = \"Which?\"\n{head}\n{BASE}\n{runs}")
}

/// A model, and two shares of the images with and without it.
pub const CHAIN: &str = r#"
[[runs]]
name = "start"
report = false

[[runs]]
name = "then"
[[runs.axis]]
name = "from"
values = [{ name = "nothing" }, { name = "start", pretrained = "{run:start}" }]
[[runs.axis]]
name = "share"
values = [{ name = "half", x = 50, fraction = 0.5 }, { name = "all", x = 100 }]
"#;

pub fn plan(head: &str, runs: &str) -> Plan {
    Plan::of(Study::parse(&text(head, runs), "tiny.toml").expect("a study")).expect("a plan")
}

/// The plan's error, in words.
pub fn refused(head: &str, runs: &str) -> String {
    match Study::parse(&text(head, runs), "tiny.toml").and_then(Plan::of) {
        Ok(_) => panic!("no error of {head}\n{runs}"),
        Err(error) => error.to_string(),
    }
}

pub fn ids(plan: &Plan) -> Vec<&str> {
    plan.runs.iter().map(|run| run.id.as_str()).collect()
}

/// A finished run with this top-1.
pub fn result(plan: &Plan, id: &str, top1: f64) -> RunResult {
    let index = plan.runs.iter().position(|run| run.id == id).expect(id);
    let scores = Scores::from([("loss", 1.0), ("top1", top1), ("top5", 99.0)]);
    let names = scores.names().map(String::from).collect();
    let validation = Validation { names, model: Some(scores.clone()), ema: None };
    let finished = Finished {
        model: "test_vit".into(),
        params: 12_345_678,
        eval_metric: "top1".into(),
        best: Some(Scores::from([("loss", 0.9), ("top1", top1 + 1.0), ("top5", 99.5)])),
        best_epoch: Some(0),
        last: Some(EpochSummary { epoch: 1, updates: 6, validation, ..EpochSummary::default() }),
        epochs: 2,
        updates: 6,
        ..Finished::default()
    };
    let record = Record {
        study: "tiny".into(),
        run: id.into(),
        recipe: plan.runs[index].recipe.clone(),
        images: [96, 1000],
        data: ["train".into(), "val".into()],
        macs: Some(1_234_567_890),
        seconds: 30.0,
    };
    RunResult { run: index, record, finished }
}
