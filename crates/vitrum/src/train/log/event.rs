//! The events of a run.

use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::line::{EpochSummary, EvalLine, Started, Step, TrainLine};
use super::results::Finished;

/// Receives the events of a run. A closure `FnMut(&Event) -> ControlFlow<()>` is one.
pub trait Watch {
    /// Handles an event. The loop waits, so this should be quick. `ControlFlow::Break(())` saves and stops the run:
    /// after the update, or after the epoch, that the event belongs to.
    fn event(&mut self, event: &Event) -> ControlFlow<()>;
}

impl<F: FnMut(&Event) -> ControlFlow<()>> Watch for F {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        self(event)
    }
}

/// Every watcher gets every event, in order. The run stops if one of them breaks.
impl<W: Watch> Watch for Vec<W> {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        let every = |flow: ControlFlow<()>, watch: &mut W| match watch.event(event) {
            ControlFlow::Continue(()) => flow,
            stop => stop,
        };
        self.iter_mut().fold(ControlFlow::Continue(()), every)
    }
}

/// An event of a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The run begins or resumes.
    Started(Started),
    /// A log line of training, every `log_interval` batches.
    Train(TrainLine),
    /// An update is done.
    Step(Step),
    /// A log line of validation.
    Eval(EvalLine),
    /// An epoch is over, validation included.
    Epoch(EpochSummary),
    /// A checkpoint was written.
    Saved {
        /// Its folder.
        path: PathBuf,
        /// Whether it is the best so far.
        best: bool,
    },
    /// A remark.
    Note(String),
    /// The run ended or was stopped.
    Finished(Finished),
}

impl Event {
    /// The event as a JSON object. The first key, `event`, names its kind. Numbers that are not finite are `null`.
    pub fn to_json(&self) -> Map<String, Value> {
        let text = |key: &str, value: Value| Map::from_iter([(key.to_string(), value)]);
        let (name, fields) = match self {
            Self::Started(started) => ("started", fields(started)),
            Self::Train(line) => ("train", fields(line)),
            Self::Step(step) => ("step", fields(step)),
            Self::Eval(line) => ("eval", fields(line)),
            Self::Epoch(summary) => ("epoch", fields(summary)),
            Self::Saved { path, best } => {
                let mut saved = text("path", path.display().to_string().into());
                saved.insert("best".into(), (*best).into());
                ("saved", saved)
            }
            Self::Note(note) => ("note", text("text", note.clone().into())),
            Self::Finished(finished) => ("finished", fields(finished)),
        };
        let mut object = Map::new();
        object.insert("event".into(), name.into());
        object.extend(fields);
        object
    }
}

fn fields(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        // Serialisation fails only for a path that is not UTF-8.
        _ => Map::new(),
    }
}
