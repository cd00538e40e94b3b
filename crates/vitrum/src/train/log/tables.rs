//! `metrics.jsonl` and `summary.csv`.
//!
//! A run that goes on from a checkpoint cuts away what was told after it, so that its tables are those of a run that
//! never stopped, times excepted.

use serde_json::{Map, Value};

use super::event::{EpochSummary, EvalLine, Event, TrainLine};
use super::files::{self, Appender};
use super::folder::RunFolder;
use super::{LogError, environment};

/// How far a checkpoint had come; what was told after it is told again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Updates done.
    pub updates: u64,
    /// Epochs that were over, validation included.
    pub epochs: usize,
}

/// What was recorded, for the curves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The lines of training.
    pub train: Vec<TrainLine>,
    /// The epochs.
    pub epochs: Vec<EpochSummary>,
}

impl History {
    /// Reads `metrics.jsonl`. Lines that cannot be read, as the last one of a run that was killed, are passed over.
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

    /// Takes up an event that belongs to it.
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

/// `metrics.jsonl`: an object per line of training, per validation's end and per epoch, with the seconds since 1970 as
/// `time`.
#[derive(Debug)]
pub struct Metrics {
    file: Appender,
}

impl Metrics {
    /// Opens the file and cuts away what lies beyond `reached`.
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

    /// Writes an event if it is of the kinds kept here.
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

    /// Forces it to disk.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn sync(&self) -> Result<(), LogError> {
        self.file.sync()
    }
}

const COLUMNS: [&str; 9] =
    ["epoch", "train_loss", "eval_loss", "eval_top1", "eval_top5", "lr", "ema_loss", "ema_top1", "ema_top5"];

/// Columns of timm; those behind them are written when a moving average was validated.
const TIMM: usize = 6;

/// `summary.csv`: a row per epoch, written anew each time.
#[derive(Debug)]
pub struct Summary {
    folder: RunFolder,
    /// Cells by [`COLUMNS`].
    rows: Vec<(usize, Vec<String>)>,
}

impl Summary {
    /// Reads the file and cuts away the epochs beyond `reached`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn open(folder: &RunFolder, reached: Reached) -> Result<Self, LogError> {
        let bytes = files::read(&folder.summary())?;
        let rows = rows(&bytes).into_iter().filter(|(epoch, _)| *epoch < reached.epochs).collect();
        let summary = Self { folder: folder.clone(), rows };
        if !bytes.is_empty() {
            summary.write()?;
        }
        Ok(summary)
    }

    /// Adds an epoch; one that is there already is replaced.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn epoch(&mut self, summary: &EpochSummary) -> Result<(), LogError> {
        let cell = |value: Option<f64>| value.map_or(String::new(), number);
        let cells = vec![
            summary.epoch.to_string(),
            number(summary.train_loss),
            cell(summary.eval_loss),
            cell(summary.eval_top1),
            cell(summary.eval_top5),
            number(summary.lr),
            cell(summary.ema_loss),
            cell(summary.ema_top1),
            cell(summary.ema_top5),
        ];
        self.rows.retain(|(epoch, _)| *epoch != summary.epoch);
        self.rows.push((summary.epoch, cells));
        self.write()
    }

    fn write(&self) -> Result<(), LogError> {
        let with_ema = self.rows.iter().any(|(_, cells)| cells[TIMM..].iter().any(|cell| !cell.is_empty()));
        let width = if with_ema { COLUMNS.len() } else { TIMM };
        // Neither names nor numbers have commas or quotes in them.
        let mut text = COLUMNS[..width].join(",") + "\n";
        self.rows.iter().for_each(|(_, cells)| text.push_str(&(cells[..width].join(",") + "\n")));
        files::replace(&self.folder.summary(), text.as_bytes())
    }
}

/// Rows of a file, by the names of its columns; those without a number for the epoch are passed over.
fn rows(bytes: &[u8]) -> Vec<(usize, Vec<String>)> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(bytes);
    let Ok(header) = reader.headers().cloned() else { return Vec::new() };
    let place = COLUMNS.map(|name| header.iter().position(|column| column == name));
    let cells = |record: csv::StringRecord| -> Vec<String> {
        place.iter().map(|at| at.and_then(|at| record.get(at)).unwrap_or_default().to_string()).collect()
    };
    let row = |record: csv::StringRecord| {
        let cells = cells(record);
        Some((cells[0].parse().ok()?, cells))
    };
    reader.records().filter_map(Result::ok).filter_map(row).collect()
}

/// Shortest digits that are the number again, as Python writes it.
fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "nan".into(),
        v if v.is_infinite() => if v > 0.0 { "inf" } else { "-inf" }.into(),
        v => format!("{v:?}"),
    }
}
