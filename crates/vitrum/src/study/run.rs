//! Running a study: every run that is not finished, in the order of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use burn::tensor::Device;

use super::StudyError;
use super::cost::{Costs, Data, Images};
use super::expand::PlannedRun;
use super::plan::Plan;
use super::record::{Record, State};
use crate::train::log::{Finished, Watch};
use crate::train::resume::Resume;
use crate::train::{Fit, Job, Requests, TrainError};

/// What happens to the runs of a study.
#[derive(Debug)]
#[non_exhaustive]
pub enum StudyEvent<'a> {
    /// A run begins, or goes on.
    Begins {
        /// The run.
        run: &'a PlannedRun,
        /// Its place among the chosen runs, from 1.
        number: usize,
        /// How many runs are chosen.
        of: usize,
        /// Whether it was begun before.
        again: bool,
    },
    /// A run was finished before.
    Skipped(&'a PlannedRun),
    /// A run ended.
    Finished(&'a PlannedRun, &'a Finished),
    /// A run failed. The runs that need its model cannot begin.
    Failed(&'a PlannedRun, &'a TrainError),
    /// A run that cannot begin, because the named one has no model.
    Waits(&'a PlannedRun, &'a str),
}

/// Hears what happens, and watches each run.
pub trait Listener {
    /// Something happened.
    fn event(&mut self, event: &StudyEvent<'_>);

    /// The watcher of a run that begins.
    fn watch(&mut self, run: &PlannedRun) -> Box<dyn Watch>;
}

/// How a study ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Every chosen run is finished.
    Done,
    /// A request stopped it. The run, if one was stopped, goes on from this checkpoint.
    Stopped(Option<(String, PathBuf)>),
    /// These runs failed, or could not begin. All others are finished.
    Failed(Vec<String>),
}

/// Trains the runs of a plan.
pub struct Runner<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Numbers of the runs to train.
    pub chosen: &'a BTreeSet<usize>,
    /// The folder of the study.
    pub output: PathBuf,
    /// What the runs cost.
    pub costs: &'a Costs,
    /// The device.
    pub device: Device,
    /// Never use the network.
    pub offline: bool,
    /// The command line, for the records of runs.
    pub command: Vec<String>,
    /// Requests to stop or save.
    pub requests: &'a dyn Requests,
}

impl Runner<'_> {
    /// How far each chosen run is. Everything is compared before anything is trained.
    ///
    /// # Errors
    /// [`StudyError`]: a run was begun with other values or images, data cannot be read.
    pub fn states(&self, data: &mut Data) -> Result<BTreeMap<usize, State>, StudyError> {
        let mut state = |index: usize| {
            let run = &self.plan.runs[index];
            let images = data.images(run)?;
            State::of(run, &self.plan.folder(run, &self.output), Some(&images))
        };
        self.chosen.iter().map(|&index| Ok((index, state(index)?))).collect()
    }

    /// Trains what is not finished. A run that was begun goes on from its newest checkpoint, and ends as if it had never
    /// stopped.
    ///
    /// # Errors
    /// Those of [`states`](Self::states), and files that cannot be written. A run that fails is no error: the others go on.
    pub fn run(&self, data: &mut Data, listener: &mut dyn Listener) -> Result<Ended, StudyError> {
        let states = self.states(data)?;
        let mut without_model: BTreeSet<&str> = BTreeSet::new();
        for (number, (&index, state)) in states.iter().enumerate() {
            let run = &self.plan.runs[index];
            if matches!(state, State::Done(..)) {
                listener.event(&StudyEvent::Skipped(run));
                continue;
            }
            if self.requests.stop() {
                return Ok(Ended::Stopped(None));
            }
            if let Some(parent) = run.parents.iter().find(|parent| without_model.contains(parent.as_str())) {
                listener.event(&StudyEvent::Waits(run, parent));
                without_model.insert(&run.id);
                continue;
            }
            let again = matches!(state, State::Begun(_));
            let of = self.chosen.len();
            listener.event(&StudyEvent::Begins { run, number: number + 1, of, again });
            match self.train(index, state, data, listener)? {
                Trained::Done(finished) => listener.event(&StudyEvent::Finished(run, &finished)),
                Trained::Stopped(checkpoint) => {
                    return Ok(Ended::Stopped(Some((run.id.clone(), checkpoint))));
                }
                Trained::Failed(error) => {
                    listener.event(&StudyEvent::Failed(run, &error));
                    without_model.insert(&run.id);
                }
            }
        }
        let failed: Vec<String> = without_model.into_iter().map(String::from).collect();
        Ok(if failed.is_empty() { Ended::Done } else { Ended::Failed(failed) })
    }

    fn train(
        &self,
        index: usize,
        state: &State,
        data: &mut Data,
        listener: &mut dyn Listener,
    ) -> Result<Trained, StudyError> {
        let run = &self.plan.runs[index];
        let folder = self.plan.folder(run, &self.output);
        let sets = data.sets(run)?;
        let mut record = match state {
            State::Begun(record) => (**record).clone(),
            _ => Record::new(&self.plan.study.name, run, &Images::from(&sets), &self.costs.runs[index]),
        };
        record.write(&folder)?;
        let job = Job {
            recipe: self.plan.resolved(run, &self.output),
            resume: Some(Resume::Auto),
            // The record has been compared. What may differ is the place of the study.
            allow_changed_args: true,
            offline: self.offline,
            command: self.command.clone(),
            device: self.device.clone(),
        };
        let mut watch = listener.watch(run);
        let ended = Fit::new(&job).data(sets).requests(self.requests).run(&mut *watch);
        drop(watch);
        let outcome = match ended {
            Ok(outcome) => outcome,
            Err(error) => return Ok(Trained::Failed(error)),
        };
        record.seconds += outcome.finished.seconds;
        record.write(&folder)?;
        Ok(match outcome.stopped {
            Some(checkpoint) => Trained::Stopped(checkpoint),
            None => Trained::Done(outcome.finished),
        })
    }
}

/// How a run ended.
enum Trained {
    Done(Box<Finished>),
    Stopped(PathBuf),
    Failed(TrainError),
}
