//! `metrics.jsonl` and `summary.csv`.
//!
//! A resumed run drops the records after its checkpoint. Its tables are then those of a run that never stopped, except
//! for times.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::event::Event;
use super::files::{self, Appender};
use super::folder::RunFolder;
use super::line::{EpochSummary, EvalLine, TrainLine};
use super::{LogError, environment};

/// The position of a checkpoint in its run. Records after it are dropped and written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Updates done.
    pub updates: u64,
    /// Epochs done, including validation.
    pub epochs: usize,
}

/// The records that curves are drawn from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Log lines of training.
    pub train: Vec<TrainLine>,
    /// Results of the epochs.
    pub epochs: Vec<EpochSummary>,
}

impl History {
    /// Reads `metrics.jsonl`. Invalid lines, such as the last one of a killed run, are skipped.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn read(folder: &RunFolder) -> Result<Self, LogError> {
        let bytes = files::read(&folder.metrics())?;
        let mut history = Self::default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            if let Some(record) = Record::parse(line) {
                history.add(record);
            }
        }
        Ok(history)
    }

    /// Records an event of training or of an epoch; others are ignored.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Train(line) => self.add(Record::Train(line.clone())),
            Event::Epoch(summary) => self.add(Record::Epoch(summary.clone())),
            _ => (),
        }
    }

    fn add(&mut self, record: Record) {
        match record {
            Record::Train(line) => self.train.push(line),
            Record::Epoch(summary) => self.epochs.push(summary),
            Record::Eval(_) => (),
        }
    }
}

/// A line of `metrics.jsonl`.
enum Record {
    Train(TrainLine),
    Eval(EvalLine),
    Epoch(EpochSummary),
}

impl Record {
    fn parse(line: &str) -> Option<Self> {
        let Value::Object(mut object) = serde_json::from_str(line).ok()? else { return None };
        let event = object.remove("event")?;
        object.remove("time");
        let fields = Value::Object(object);
        match event.as_str()? {
            "train" => serde_json::from_value(fields).ok().map(Self::Train),
            "eval" => serde_json::from_value(fields).ok().map(Self::Eval),
            "epoch" => serde_json::from_value(fields).ok().map(Self::Epoch),
            _ => None,
        }
    }

    fn is_within(&self, reached: Reached) -> bool {
        match self {
            Self::Train(line) => line.update <= reached.updates,
            Self::Eval(line) => line.epoch < reached.epochs,
            Self::Epoch(summary) => summary.epoch < reached.epochs,
        }
    }
}

/// `metrics.jsonl`: an object per log line of training, per validation and per epoch. `time` is in seconds since 1970.
#[derive(Debug)]
pub struct Metrics {
    file: Appender,
}

impl Metrics {
    /// Opens the file and drops the lines after `reached`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn open(folder: &RunFolder, reached: Reached) -> Result<Self, LogError> {
        let path = folder.metrics();
        let bytes = files::read(&path)?;
        let text = String::from_utf8_lossy(&bytes);
        let within = |line: &&str| Record::parse(line).is_some_and(|record| record.is_within(reached));
        let kept: String = text.lines().filter(within).flat_map(|line| [line, "\n"]).collect();
        if kept.as_bytes() != bytes {
            files::replace(&path, kept.as_bytes())?;
        }
        Ok(Self { file: Appender::open(&path)? })
    }

    /// Writes an event of training, of a validation's end or of an epoch; others are ignored.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn event(&mut self, event: &Event) -> Result<(), LogError> {
        let kept = match event {
            Event::Train(_) | Event::Epoch(_) => true,
            Event::Eval(line) => line.is_last(),
            _ => false,
        };
        if !kept {
            return Ok(());
        }
        let mut object: Map<String, Value> = event.to_json();
        let milliseconds = (environment::unix_seconds() * 1e3).round();
        object.insert("time".into(), (milliseconds / 1e3).into());
        self.file.line(&Value::Object(object).to_string())
    }

    /// Forces the file to disk.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn sync(&self) -> Result<(), LogError> {
        self.file.sync()
    }
}

/// `summary.csv`: a row per epoch, written anew each time.
///
/// Columns are timm's: `epoch`, `train_loss`, `eval_NAME` of each score, `lr`. Columns `ema_NAME` follow once a moving
/// average was validated.
#[derive(Debug)]
pub struct Summary {
    folder: RunFolder,
    /// Names of the scores, in the order of the judge.
    names: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    epoch: usize,
    /// Cells by the name of their column.
    cells: HashMap<String, String>,
}

impl Row {
    fn of(summary: &EpochSummary) -> Self {
        let EpochSummary { epoch, train_loss, validation, lr, .. } = summary;
        let numbers =
            [("epoch", epoch.to_string()), ("train_loss", number(*train_loss)), ("lr", number(*lr))];
        let mut cells: HashMap<String, String> =
            numbers.into_iter().map(|(column, cell)| (column.into(), cell)).collect();
        for (prefix, scores) in [("eval", &validation.model), ("ema", &validation.ema)] {
            let scores = scores.iter().flat_map(|scores| scores.iter());
            cells.extend(scores.map(|(name, value)| (format!("{prefix}_{name}"), number(value))));
        }
        Self { epoch: *epoch, cells }
    }

    /// `None`: the row has no number for the epoch.
    fn read(header: &csv::StringRecord, record: &csv::StringRecord) -> Option<Self> {
        let cells: HashMap<String, String> =
            header.iter().zip(record).map(|(column, cell)| (column.into(), cell.into())).collect();
        Some(Self { epoch: cells.get("epoch")?.parse().ok()?, cells })
    }

    /// The cell of a column; empty if the row lacks it.
    fn cell(&self, column: &str) -> &str {
        self.cells.get(column).map_or("", String::as_str)
    }
}

impl Summary {
    /// Reads the file and drops the epochs after `reached`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn open(folder: &RunFolder, reached: Reached) -> Result<Self, LogError> {
        let bytes = files::read(&folder.summary())?;
        let (names, mut rows) = read_summary(&bytes);
        rows.retain(|row| row.epoch < reached.epochs);
        let summary = Self { folder: folder.clone(), names, rows };
        if !bytes.is_empty() {
            summary.write()?;
        }
        Ok(summary)
    }

    /// Adds an epoch; a row of the same epoch is replaced.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn epoch(&mut self, summary: &EpochSummary) -> Result<(), LogError> {
        for name in &summary.validation.names {
            if !self.names.contains(name) {
                self.names.push(name.clone());
            }
        }
        self.rows.retain(|row| row.epoch != summary.epoch);
        self.rows.push(Row::of(summary));
        self.write()
    }

    fn columns(&self) -> Vec<String> {
        let of_scores = |prefix: &str| -> Vec<String> {
            self.names.iter().map(|name| format!("{prefix}_{name}")).collect()
        };
        let own = |column: &str| vec![column.to_string()];
        let mut columns = [own("epoch"), own("train_loss"), of_scores("eval"), own("lr")].concat();
        let averages = of_scores("ema");
        let is_validated = |row: &Row| averages.iter().any(|column| !row.cell(column).is_empty());
        if self.rows.iter().any(is_validated) {
            columns.extend(averages);
        }
        columns
    }

    fn write(&self) -> Result<(), LogError> {
        let columns = self.columns();
        // Names and numbers contain no commas or quotes.
        let mut text = columns.join(",") + "\n";
        for row in &self.rows {
            let cells: Vec<&str> = columns.iter().map(|column| row.cell(column)).collect();
            text.push_str(&(cells.join(",") + "\n"));
        }
        files::replace(&self.folder.summary(), text.as_bytes())
    }
}

/// Names of the scores and rows of a file; rows without a number for the epoch are skipped.
fn read_summary(bytes: &[u8]) -> (Vec<String>, Vec<Row>) {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(bytes);
    let Ok(header) = reader.headers().cloned() else { return Default::default() };
    let names = header.iter().filter_map(|column| column.strip_prefix("eval_")).map(String::from).collect();
    let rows = reader.records().filter_map(Result::ok).filter_map(|record| Row::read(&header, &record));
    (names, rows.collect())
}

/// The shortest decimal that reads back as the same number, as in Python.
fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "nan".into(),
        v if v.is_infinite() => if v > 0.0 { "inf" } else { "-inf" }.into(),
        v => format!("{v:?}"),
    }
}
