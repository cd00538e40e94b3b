//! What is said of a study on stderr: a line for each run and each epoch; with `-v` every line of a run.

use std::ops::ControlFlow;

use vitrum::study::report::words;
use vitrum::study::{Listener, Plan, PlannedRun, StudyEvent};
use vitrum::train::log::{Event, Watch};

use crate::args::LogFormat;
use crate::progress::Lines;
use crate::talk::Talk;

/// Says what happens.
pub struct Told {
    score: Vec<String>,
    ids: Vec<String>,
    talk: Talk,
    format: LogFormat,
}

impl Told {
    /// A listener for a plan.
    pub fn new(plan: &Plan, talk: Talk, format: LogFormat) -> Self {
        Self {
            score: plan.runs.iter().map(|run| run.recipe.eval_metric.clone()).collect(),
            ids: plan.runs.iter().map(|run| run.id.clone()).collect(),
            talk,
            format,
        }
    }

    fn score(&self, run: &PlannedRun) -> &str {
        self.ids.iter().position(|id| *id == run.id).map_or("", |at| self.score[at].as_str())
    }
}

impl Listener for Told {
    fn event(&mut self, event: &StudyEvent<'_>) {
        let talk = self.talk;
        match event {
            StudyEvent::Begins { run, number, of, again } => {
                let how = if *again { ", goes on" } else { "" };
                talk.say(format_args!("run {number}/{of}  {}{how}", run.id));
            }
            StudyEvent::Skipped(run) => talk.detail(1, format_args!("finished before: {}", run.id)),
            StudyEvent::Finished(run, finished) => {
                let metric = self.score(run);
                let value = finished.last.as_ref().and_then(|last| last.score(metric));
                let value =
                    value.map(|value| format!("  {} {}", words::score(metric), words::value(metric, value)));
                let time = words::time(finished.seconds);
                talk.say(format_args!("finished  {}{}  in {time}", run.id, value.unwrap_or_default()));
            }
            StudyEvent::Failed(run, error) => {
                talk.say(format_args!("failed  {}: {error}", run.id));
            }
            StudyEvent::Waits(run, parent) => {
                talk.say(format_args!("left out  {}: {parent} has no model", run.id));
            }
            _ => {}
        }
    }

    fn watch(&mut self, run: &PlannedRun) -> Box<dyn Watch> {
        if self.talk.verbose > 0 || self.format == LogFormat::Json {
            return Box::new(Lines::new(self.format, self.talk.quiet));
        }
        let (talk, metric) = (self.talk, self.score(run).to_string());
        Box::new(move |event: &Event| {
            match event {
                Event::Epoch(epoch) => {
                    let score = epoch.score(&metric);
                    let score = score.map(|value| {
                        format!("  val {} {}", words::score(&metric), words::value(&metric, value))
                    });
                    talk.say(format_args!(
                        "  epoch {}  train loss {:.4}{}",
                        epoch.epoch + 1,
                        epoch.train_loss,
                        score.unwrap_or_default()
                    ));
                }
                Event::Note(note) => talk.say(format_args!("  {note}")),
                _ => {}
            }
            ControlFlow::Continue(())
        })
    }
}
