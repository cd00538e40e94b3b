//! The watcher that writes a run's files.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::event::{Event, Watch};
use super::files::{self, Appender};
use super::folder::RunFolder;
#[cfg(feature = "plots")]
use super::plots;
use super::tables::{History, Metrics, Reached, Summary};
use super::tensorboard::TensorBoard;
use super::{LogError, text};
#[cfg(feature = "plots")]
use crate::data::RgbImage;
#[cfg(feature = "plots")]
use crate::paint;
use crate::train::lock::FolderLock;

/// Largest share of a run's time for drawing curves.
const DRAWING_SHARE: f64 = 0.02;

/// Writes `metrics.jsonl`, `summary.csv`, TensorBoard's files, `train.log`, the curves and `results.json`.
///
/// A failure does not stop the run: [`check`](Self::check) returns it.
#[derive(Debug)]
pub struct Logger {
    folder: RunFolder,
    metrics: Metrics,
    summary: Summary,
    board: TensorBoard,
    log: Appender,
    history: History,
    updates: u64,
    /// When the curves were last drawn, and how long that took.
    drawn: Option<(Instant, Duration)>,
    failure: Option<LogError>,
    _lock: FolderLock,
}

impl Logger {
    /// A logger for a new run. Records of an earlier run in the same folder are dropped.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Io`].
    pub fn start(folder: &RunFolder) -> Result<Self, LogError> {
        Self::resume(folder, Reached::default())
    }

    /// A logger for a resumed run. Records after the checkpoint are dropped.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Io`].
    pub fn resume(folder: &RunFolder, reached: Reached) -> Result<Self, LogError> {
        let lock = folder.lock()?;
        let metrics = Metrics::open(folder, reached)?;
        files::mend_lines(&folder.train_log())?;
        Ok(Self {
            folder: folder.clone(),
            metrics,
            summary: Summary::open(folder, reached)?,
            board: TensorBoard::open(folder, reached.updates)?,
            log: Appender::open(&folder.train_log())?,
            history: History::read(folder)?,
            updates: reached.updates,
            drawn: None,
            failure: None,
            _lock: lock,
        })
    }

    /// The run's folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// The records so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Returns the first failure since the last call.
    ///
    /// # Errors
    /// That failure.
    pub fn check(&mut self) -> Result<(), LogError> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Forces tables to disk. Call it before a checkpoint: a resumed run relies on the records before its checkpoint.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn sync(&self) -> Result<(), LogError> {
        self.metrics.sync()?;
        self.board.sync()?;
        self.log.sync()
    }

    /// Writes a picture of the model's input: `samples/NAME.jpg`, and `samples/NAME` in TensorBoard.
    ///
    /// # Errors
    /// [`LogError::Picture`], [`LogError::Io`].
    #[cfg(feature = "plots")]
    pub fn picture(&mut self, name: &str, image: &RgbImage) -> Result<(), LogError> {
        let path = self.folder.samples().join(format!("{name}.jpg"));
        files::replace(&path, &paint::jpeg(image)?)?;
        let size = [image.width(), image.height()];
        self.board.picture(self.updates, &format!("samples/{name}"), size, &paint::png(image)?)
    }

    fn write(&mut self, event: &Event) -> Result<(), LogError> {
        text::lines(event).iter().try_for_each(|line| self.log.line(line))?;
        self.metrics.event(event)?;
        self.board.event(event)?;
        match event {
            Event::Epoch(summary) => {
                self.summary.epoch(summary)?;
                self.draw_at_times()
            }
            Event::Saved { .. } => self.sync(),
            Event::Finished(finished) => {
                finished.write(&self.folder)?;
                self.draw()?;
                self.sync()
            }
            _ => Ok(()),
        }
    }

    fn draw_at_times(&mut self) -> Result<(), LogError> {
        match self.drawn {
            Some((when, took)) if when.elapsed().mul_f64(DRAWING_SHARE) < took => Ok(()),
            _ => self.draw(),
        }
    }

    fn draw(&mut self) -> Result<(), LogError> {
        let start = Instant::now();
        #[cfg(feature = "plots")]
        plots::write(&self.folder, &self.history)?;
        self.drawn = Some((Instant::now(), start.elapsed()));
        Ok(())
    }
}

impl Watch for Logger {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Train(line) => self.updates = line.update,
            Event::Step(step) => self.updates = step.update,
            Event::Epoch(summary) => self.updates = summary.updates,
            _ => (),
        }
        self.history.event(event);
        if let Err(failure) = self.write(event) {
            self.failure.get_or_insert(failure);
        }
        ControlFlow::Continue(())
    }
}
