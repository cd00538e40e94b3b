//! Tables of a study on stdout.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Result;
use serde_json::{Value, json};
use vitrum::study::report::words;
use vitrum::study::{Costs, Head, Plan, Report, State};

use crate::args::Format;
use crate::output::{self, Rows};

/// The built-in studies.
pub fn heads(heads: &[Head], format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(&heads);
    }
    let mut rows = Rows::new(&["study", "question", "cost", "paper"]);
    for head in heads {
        rows.push([head.name.clone(), head.question.clone(), head.cost.clone(), head.paper.clone()]);
    }
    if format == Format::Csv { rows.csv() } else { rows.text() }
}

/// The cost of each run.
pub fn costs(
    plan: &Plan,
    costs: &Costs,
    chosen: &BTreeSet<usize>,
    states: &BTreeMap<usize, State>,
    format: Format,
) -> Result<()> {
    let state = |index: &usize| match states.get(index) {
        Some(State::Done(..)) => "finished",
        Some(State::Begun(_)) => "begun",
        _ => "new",
    };
    if format == Format::Json {
        let run = |&index: &usize| {
            let mut object = json!({ "run": plan.runs[index].id, "state": state(&index) });
            if let (Value::Object(all), Ok(Value::Object(cost))) =
                (&mut object, serde_json::to_value(&costs.runs[index]))
            {
                all.extend(cost);
                all.insert("update_seconds".into(), json!(costs.update_seconds[index]));
                all.insert("seconds".into(), json!(costs.seconds(index)));
            }
            object
        };
        return output::json(&chosen.iter().map(run).collect::<Vec<Value>>());
    }
    let mut rows = Rows::new(&[
        "run",
        "state",
        "images",
        "epochs",
        "updates",
        "params (M)",
        "GMACs",
        "s/update",
        "hours",
        "disk",
    ]);
    for &index in chosen {
        let cost = &costs.runs[index];
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
        };
        rows.push([
            plan.runs[index].id.clone(),
            state(&index).into(),
            cost.images.to_string(),
            // Most runs have whole epochs.
            format!("{:.1}", cost.epochs).trim_end_matches(".0").into(),
            cost.updates.to_string(),
            words::large(cost.params, 1e6),
            words::large(cost.macs, 1e9),
            number(costs.update_seconds[index], 4),
            number(costs.seconds(index).map(|seconds| seconds / 3600.0), 2),
            words::size(cost.bytes),
        ]);
    }
    if format == Format::Csv { rows.csv() } else { rows.text() }
}

/// What is left to do.
pub struct Total {
    done: usize,
    left: usize,
    seconds: f64,
    /// Runs whose time is not known.
    unknown: usize,
    exaflops: f64,
    bytes: u64,
}

impl Total {
    /// The sum over the runs that are left.
    pub fn of(plan: &Plan, costs: &Costs, chosen: &BTreeSet<usize>, left: &BTreeSet<usize>) -> Self {
        debug_assert!(left.iter().all(|&index| index < plan.runs.len()));
        let seconds = || left.iter().map(|&index| costs.seconds(index));
        Self {
            done: chosen.len() - left.len(),
            left: left.len(),
            seconds: seconds().flatten().sum(),
            unknown: seconds().filter(Option::is_none).count(),
            exaflops: 2.0 * left.iter().map(|&index| costs.runs[index].total_macs).sum::<f64>() / 1e18,
            bytes: left.iter().map(|&index| costs.runs[index].bytes).sum(),
        }
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to do", words::counted(self.left, "run"))?;
        if self.done > 0 {
            write!(f, ", {} finished", self.done)?;
        }
        let (time, size) = (words::time(self.seconds), words::size(self.bytes));
        write!(f, ": about {time}, {:.4} exaFLOPs, {size} on disk", self.exaflops)?;
        match self.unknown {
            0 => Ok(()),
            count => write!(f, "; the time of {} is not known", words::counted(count, "run")),
        }
    }
}

/// The results and the verdicts.
pub fn report(report: &Report) -> Result<()> {
    for section in &report.sections {
        let mut rows = Rows::new(&["condition", "score", "value", "seeds", "time of a run"]);
        for row in &section.rows {
            let cells = words::cells(section, row);
            let last = cells.last().cloned().unwrap_or_default();
            let score = words::score(&section.metric);
            rows.push([row.name.clone(), score, cells[0].clone(), cells[1].clone(), last]);
        }
        rows.text()?;
    }
    if report.judged.is_empty() {
        return Ok(());
    }
    output::line("")?;
    for judged in &report.judged {
        output::line(format_args!("{}: {}", words::verdict(judged), judged.check.claim))?;
        output::line(format_args!("  {}", words::numbers(report, judged)))?;
    }
    Ok(())
}
