//! The report of a study: a table, figures, and what agrees with the paper.
//!
//! ```text
//! OUTPUT/report.md, report.html     for people; the page has light and dark colours and needs no other file
//! OUTPUT/results.csv                a row for each finished run
//! OUTPUT/results.json               everything
//! OUTPUT/plots/*.svg, *.png         the figures (feature `plots`)
//! ```
//!
//! The same results give the same bytes.

#[cfg(feature = "plots")]
pub mod figure;
pub mod html;
pub mod markdown;
pub mod tables;
pub mod words;

use std::path::{Path, PathBuf};

use super::StudyError;
use super::file::Study;
use super::plan::{Condition, Plan};
use super::results::{Group, RunResult, group, measure};
use super::verdict::{Judged, judge};
use crate::train::log::files;
use crate::train::score::Better;

/// The report of a study.
#[derive(Clone, Debug)]
pub struct Report {
    /// The study.
    pub study: Study,
    /// The groups that are compared.
    pub sections: Vec<Section>,
    /// The checks, with their verdicts.
    pub judged: Vec<Judged>,
    /// The finished runs.
    pub runs: Vec<RunRow>,
    /// Names of the runs that are not finished.
    pub missing: Vec<String>,
}

/// A group of conditions with the same axes.
#[derive(Clone, Debug)]
pub struct Section {
    /// The group's name; may be empty.
    pub name: String,
    /// The score that counts.
    pub metric: String,
    /// Its direction.
    pub better: Better,
    /// Names of the axes.
    pub axes: Vec<String>,
    /// For each axis, whether its values have places on a line.
    pub is_line: Vec<bool>,
    /// The conditions.
    pub rows: Vec<Row>,
}

/// A condition with its results.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The labels of its values; without an axis, the group's name.
    pub labels: Vec<String>,
    /// The places of its values.
    pub places: Vec<Option<f64>>,
    /// The values of the score.
    pub group: Group,
    /// How many seeds it should have.
    pub seeds: usize,
    /// Parameters.
    pub params: Option<u64>,
    /// Multiply-accumulates of one image.
    pub macs: Option<u64>,
    /// Training images.
    pub images: Option<usize>,
    /// Epochs.
    pub epochs: Option<usize>,
    /// Mean seconds of a run.
    pub seconds: Option<f64>,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct RunRow {
    /// Its name.
    pub id: String,
    /// The name of its condition.
    pub condition: String,
    /// Its result.
    pub result: RunResult,
    /// Its seed.
    pub seed: u64,
    /// The score that counts.
    pub metric: String,
    /// Its value.
    pub value: Option<f64>,
    /// The folder, below the study's.
    pub folder: String,
}

impl Report {
    /// The report of results.
    pub fn of(plan: &Plan, results: &[RunResult]) -> Self {
        let is_done = |index: usize| results.iter().any(|result| result.run == index);
        let missing = plan.runs.iter().enumerate().filter(|(index, _)| !is_done(*index));
        let sections = plan.study.groups.iter().enumerate().filter(|(_, group)| group.report);
        Self {
            sections: sections.map(|(index, _)| section(plan, results, index)).collect(),
            judged: judge(plan, results),
            runs: results.iter().map(|result| run_row(plan, result)).collect(),
            missing: missing.map(|(_, run)| run.id.clone()).collect(),
            study: plan.study.clone(),
        }
    }

    /// Writes all files into the folder of the study; returns their paths.
    ///
    /// # Errors
    /// [`StudyError::Log`].
    pub fn write(&self, output: &Path) -> Result<Vec<PathBuf>, StudyError> {
        let mut written = Vec::new();
        let mut write = |name: &str, bytes: &[u8]| {
            let path = output.join(name);
            files::replace(&path, bytes)?;
            written.push(path);
            Ok::<_, StudyError>(())
        };
        #[cfg(feature = "plots")]
        for figure in figure::all(self) {
            let name = |ending: &str| format!("plots/{}.{ending}", figure.name);
            let fail = |error: crate::paint::PaintError| StudyError::Log(error.into());
            write(&name("svg"), figure.svg(figure::Theme::LIGHT).map_err(fail)?.as_bytes())?;
            write(&name("png"), &figure.png().map_err(fail)?)?;
        }
        write("results.csv", tables::csv(self).as_bytes())?;
        write("results.json", tables::json(self).as_bytes())?;
        write("report.md", markdown::page(self).as_bytes())?;
        write("report.html", html::page(self)?.as_bytes())?;
        Ok(written)
    }

    /// Seconds of all finished runs.
    pub fn seconds(&self) -> f64 {
        self.runs.iter().map(|run| run.result.record.seconds).sum()
    }
}

fn section(plan: &Plan, results: &[RunResult], index: usize) -> Section {
    let own = &plan.study.groups[index];
    let conditions: Vec<usize> =
        (0..plan.conditions.len()).filter(|&condition| plan.conditions[condition].group == index).collect();
    let (metric, better) =
        conditions.first().map_or((String::new(), Better::Higher), |&first| measure(plan, first));
    Section {
        name: own.name.clone(),
        metric,
        better,
        axes: own.axes.iter().map(|axis| axis.label.clone()).collect(),
        is_line: own
            .axes
            .iter()
            .map(|axis| axis.values.len() > 1 && axis.values.iter().all(|value| value.x.is_some()))
            .collect(),
        rows: conditions.into_iter().map(|condition| row(plan, results, condition)).collect(),
    }
}

fn row(plan: &Plan, results: &[RunResult], index: usize) -> Row {
    let condition: &Condition = &plan.conditions[index];
    let own: Vec<&RunResult> =
        results.iter().filter(|result| plan.runs[result.run].condition == index).collect();
    let first = own.first();
    let seconds: f64 = own.iter().map(|result| result.record.seconds).sum();
    let axes = 0..condition.values.len();
    let labels: Vec<String> =
        axes.clone().map(|axis| condition.value(&plan.study, axis).label.clone()).collect();
    Row {
        name: condition.name.clone(),
        labels: if labels.is_empty() { vec![condition.label(&plan.study)] } else { labels },
        places: axes.map(|axis| condition.value(&plan.study, axis).x).collect(),
        group: group(plan, results, index),
        seeds: condition.seeds.len(),
        params: first.map(|result| result.finished.params),
        macs: first.and_then(|result| result.record.macs),
        images: first.map(|result| result.record.images[0]),
        epochs: first.map(|result| result.finished.epochs),
        seconds: first.map(|_| seconds / own.len() as f64),
    }
}

fn run_row(plan: &Plan, result: &RunResult) -> RunRow {
    let run = &plan.runs[result.run];
    let (metric, _) = measure(plan, run.condition);
    RunRow {
        id: run.id.clone(),
        condition: plan.conditions[run.condition].name.clone(),
        seed: run.seed,
        value: result.value(&metric, plan.study.take),
        metric,
        folder: plan.folder(run, Path::new("")).display().to_string(),
        result: result.clone(),
    }
}
