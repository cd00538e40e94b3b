//! The results as CSV and JSON.

use serde_json::{Value, json};

use super::{Report, RunRow, words};
use crate::train::score::Better;

/// A row for each finished run.
pub fn csv(report: &Report) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = [
        "run",
        "condition",
        "seed",
        "metric",
        "value",
        "best",
        "best_epoch",
        "params",
        "macs",
        "images",
        "epochs",
        "updates",
        "seconds",
        "folder",
    ];
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let row = |run: &RunRow| {
        let (finished, record) = (&run.result.finished, &run.result.record);
        [
            run.id.clone(),
            run.condition.clone(),
            run.seed.to_string(),
            run.metric.clone(),
            number(run.value),
            number(finished.best.as_ref().and_then(|best| best.get(&run.metric))),
            finished.best_epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
            finished.params.to_string(),
            record.macs.map(|macs| macs.to_string()).unwrap_or_default(),
            record.images[0].to_string(),
            finished.epochs.to_string(),
            finished.updates.to_string(),
            format!("{:.1}", record.seconds),
            run.folder.clone(),
        ]
    };
    // Writing into memory does not fail.
    let _ = writer.write_record(header);
    report.runs.iter().for_each(|run| {
        let _ = writer.write_record(row(run));
    });
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
}

/// Everything: the study, its conditions, the checks, the runs.
pub fn json(report: &Report) -> String {
    let study = &report.study;
    let whole = json!({
        "study": study.name,
        "question": study.question,
        "paper": study.paper,
        "differs": study.differs,
        "value": words::taken(study.take),
        "finished": report.runs.len(),
        "missing": report.missing,
        "seconds": report.seconds(),
        "conditions": conditions(report),
        "checks": report.judged,
        "runs": report.runs.iter().map(run).collect::<Vec<Value>>(),
    });
    format!("{whole:#}\n")
}

fn conditions(report: &Report) -> Vec<Value> {
    let mut all = Vec::new();
    for section in &report.sections {
        for row in &section.rows {
            all.push(json!({
                "condition": row.name,
                "group": section.name,
                "labels": row.labels,
                "metric": section.metric,
                "better": if section.better == Better::Higher { "higher" } else { "lower" },
                "values": row.group.values,
                "mean": row.group.mean(),
                "deviation": row.group.deviation(),
                "seeds": row.group.count(),
                "params": row.params,
                "macs": row.macs,
                "images": row.images,
                "epochs": row.epochs,
                "seconds": row.seconds,
            }));
        }
    }
    all
}

fn run(run: &RunRow) -> Value {
    let (finished, record) = (&run.result.finished, &run.result.record);
    json!({
        "run": run.id,
        "condition": run.condition,
        "seed": run.seed,
        "metric": run.metric,
        "value": run.value,
        "last": finished.last,
        "best": finished.best,
        "best_epoch": finished.best_epoch,
        "params": finished.params,
        "macs": record.macs,
        "images": record.images,
        "epochs": finished.epochs,
        "updates": finished.updates,
        "seconds": record.seconds,
        "data": record.data,
        "folder": run.folder,
    })
}
