//! Results of the runs of a study: a value for each run, mean and deviation for each condition.

use std::collections::BTreeMap;
use std::path::Path;

use super::StudyError;
use super::cost::data_key;
use super::file::Take;
use super::plan::Plan;
use super::record::{Record, State};
use crate::train::log::Finished;
use crate::train::score::{Better, Measure};

/// A finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunResult {
    /// Its number in the plan.
    pub run: usize,
    /// What it was begun with.
    pub record: Record,
    /// How it ended.
    pub finished: Finished,
}

impl RunResult {
    /// The value of a score that counts; `None` if it was not measured or is not finite.
    pub fn value(&self, metric: &str, take: Take) -> Option<f64> {
        let value = match take {
            Take::Last => self.finished.last.as_ref().and_then(|last| last.score(metric)),
            Take::Best => self.finished.best.as_ref().and_then(|best| best.get(metric)),
        };
        value.filter(|value| value.is_finite())
    }
}

/// Values of the same kind: those of a condition, one for each seed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// The values, in the order of the seeds.
    pub values: Vec<f64>,
}

impl Group {
    /// How many values there are.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// The mean; `None` without a value.
    pub fn mean(&self) -> Option<f64> {
        (!self.values.is_empty()).then(|| self.values.iter().sum::<f64>() / self.values.len() as f64)
    }

    /// Sum of the squared distances from the mean.
    pub fn squares(&self) -> f64 {
        let mean = self.mean().unwrap_or(0.0);
        self.values.iter().map(|value| (value - mean).powi(2)).sum()
    }

    /// The standard deviation of a sample (`n - 1`); `None` below two values.
    pub fn deviation(&self) -> Option<f64> {
        (self.values.len() > 1).then(|| (self.squares() / (self.values.len() - 1) as f64).sqrt())
    }
}

/// The score that a condition's runs are compared by.
///
/// A study may name a score that is not among the task's; larger is then assumed to be better, unless the name says "loss".
pub fn measure(plan: &Plan, condition: usize) -> (String, Better) {
    let run = plan.runs.iter().find(|run| run.condition == condition);
    let measures: &[Measure] = run.and_then(|run| run.recipe.task().ok()).map_or(&[], |task| task.measures());
    let own = || run.map(|run| run.recipe.eval_metric.clone()).unwrap_or_default();
    let name = plan.study.metric.clone().unwrap_or_else(own);
    let better = match measures.iter().find(|measure| measure.name == name) {
        Some(measure) => measure.better,
        None if name.contains("loss") => Better::Lower,
        None => Better::Higher,
    };
    (name, better)
}

/// The finished runs of a plan in the folder of a study. Data is not opened.
///
/// # Errors
/// [`StudyError`]: a run of other values, and [`StudyError::DifferentData`].
pub fn results(plan: &Plan, output: &Path) -> Result<Vec<RunResult>, StudyError> {
    let mut found = Vec::new();
    for (index, run) in plan.runs.iter().enumerate() {
        if let State::Done(record, finished) = State::of(run, &plan.folder(run, output), None)? {
            found.push(RunResult { run: index, record: *record, finished: *finished });
        }
    }
    let mut images: BTreeMap<String, &RunResult> = BTreeMap::new();
    for result in &found {
        let first = images.entry(data_key(&plan.runs[result.run].recipe)).or_insert(result);
        if first.record.data != result.record.data {
            let id = |result: &RunResult| plan.runs[result.run].id.clone();
            return Err(StudyError::DifferentData { first: id(first), second: id(result) });
        }
    }
    Ok(found)
}

/// The values of a condition.
pub fn group(plan: &Plan, results: &[RunResult], condition: usize) -> Group {
    let (metric, _) = measure(plan, condition);
    let own = results.iter().filter(|result| plan.runs[result.run].condition == condition);
    Group { values: own.filter_map(|result| result.value(&metric, plan.study.take)).collect() }
}
