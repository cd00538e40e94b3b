//! A run on the terminal: lines in timm's form, and a bar if stderr is a terminal.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vitrum::train::log::{Event, Started, Watch, text};

use crate::args::{LogFormat, Tui};
use crate::dashboard::Dashboard;
use crate::output;

/// The watcher that reports a run on stderr: the dashboard or lines. The dashboard's `q` sets `stop`.
pub fn watcher(tui: Tui, format: LogFormat, quiet: bool, stop: Arc<AtomicBool>) -> Result<Box<dyn Watch>> {
    let terminal = std::io::stderr().is_terminal();
    let screen = match tui {
        Tui::Off => false,
        Tui::Auto => terminal && !quiet && format == LogFormat::Text,
        Tui::On if !terminal => {
            bail!("--tui on: stderr is not a terminal\nhint: --tui auto shows lines there")
        }
        Tui::On => true,
    };
    if screen { Ok(Box::new(Dashboard::start(stop)?)) } else { Ok(Box::new(Lines::new(format, quiet))) }
}

/// The target of lines.
type Sink = Box<dyn FnMut(&str)>;

/// Lines on stderr, with a bar below them if that is a terminal.
pub struct Lines {
    format: LogFormat,
    quiet: bool,
    bar: ProgressBar,
    epochs: usize,
    sink: Sink,
}

impl Lines {
    /// Lines in this format, or nothing if `quiet`.
    pub fn new(format: LogFormat, quiet: bool) -> Self {
        let target = if quiet || format == LogFormat::Json {
            ProgressDrawTarget::hidden()
        } else {
            // Also hidden if stderr is not a terminal.
            ProgressDrawTarget::stderr()
        };
        Self::to(format, quiet, target, Box::new(|line| output::complain(line)))
    }

    fn to(format: LogFormat, quiet: bool, target: ProgressDrawTarget, sink: Sink) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        let style = "{msg}  {wide_bar} {pos}/{len}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { format, quiet, bar, epochs: 0, sink }
    }

    fn say(&mut self, line: &str) {
        if !self.quiet {
            let sink = &mut self.sink;
            self.bar.suspend(|| sink(line));
        }
    }

    fn started(&mut self, started: &Started) {
        self.epochs = started.epochs;
        self.bar.set_length((started.epochs * started.batches) as u64);
        self.bar.set_position(started.updates_done);
        self.bar.reset_eta();
    }

    fn advance(&mut self, event: &Event) {
        match event {
            Event::Started(started) => self.started(started),
            Event::Step(step) => {
                self.bar.set_position(step.update);
                self.bar.set_message(format!(
                    "epoch {}/{}  loss {}",
                    step.epoch + 1,
                    self.epochs,
                    text::three_digits(step.loss)
                ));
            }
            Event::Eval(line) => self.bar.set_message(format!(
                "epoch {}/{}  validation {}/{}",
                line.epoch + 1,
                self.epochs,
                line.batch + 1,
                line.batches
            )),
            Event::Finished(_) => self.bar.finish_and_clear(),
            _ => (),
        }
    }
}

impl Watch for Lines {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        match (self.format, event) {
            // A line per step would be too many.
            (_, Event::Step(_)) => (),
            (LogFormat::Json, event) => self.say(&serde_json::Value::Object(event.to_json()).to_string()),
            (LogFormat::Text, event) => text::lines(event).iter().for_each(|line| self.say(line)),
        }
        self.advance(event);
        ControlFlow::Continue(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use vitrum::train::log::{Step, TrainLine};

    use super::*;

    /// The lines, and the bar's position, length and text.
    fn told(format: LogFormat, quiet: bool) -> (Vec<String>, (u64, Option<u64>, String)) {
        let lines = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&lines);
        let hidden = ProgressDrawTarget::hidden();
        let mut watch =
            Lines::to(format, quiet, hidden, Box::new(move |line| sink.borrow_mut().push(line.to_string())));
        let _ = watch.event(&Event::Started(Started {
            epochs: 3,
            batches: 10,
            updates_done: 4,
            ..Started::default()
        }));
        let _ = watch.event(&Event::Step(Step { epoch: 0, update: 5, batch: 4, batches: 10, loss: 1.5 }));
        let _ = watch.event(&Event::Train(TrainLine {
            update: 5,
            batch: 4,
            batches: 10,
            loss: 1.5,
            ..TrainLine::default()
        }));
        let _ = watch.event(&Event::Note("a remark".into()));
        let bar = (watch.bar.position(), watch.bar.length(), watch.bar.message());
        drop(watch);
        (lines.take(), bar)
    }

    #[test]
    fn lines_are_text_or_json_or_nothing() {
        let (lines, bar) = told(LogFormat::Text, false);
        assert!(
            lines.iter().any(|line| line.starts_with("Train: 0 [   4/10 ( 50%)]  Loss: 1.50 ")),
            "{lines:?}"
        );
        assert_eq!(lines.last().map(String::as_str), Some("a remark"));
        assert_eq!(bar, (5, Some(30), "epoch 1/3  loss 1.50".into()));

        let (lines, _) = told(LogFormat::Json, false);
        let events: Vec<serde_json::Value> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
        let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
        assert_eq!(names, ["started", "train", "note"]);
        assert_eq!(events[1]["loss"], 1.5);

        assert!(told(LogFormat::Text, true).0.is_empty());
    }
}
