//! The watcher that writes a run's files.

use std::time::{Duration, Instant};

use super::event::{Event, Watch};
use super::files::{self, Appender};
use super::folder::RunFolder;
use super::tables::{History, Metrics, Reached, Summary};
use super::tensorboard::TensorBoard;
use super::{LogError, paint, plots, text};
use crate::data::RgbImage;
use crate::train::lock::FolderLock;

/// Drawing the curves takes no more than this share of the time.
const DRAWING_SHARE: f64 = 0.02;

/// Writes `metrics.jsonl`, `summary.csv`, TensorBoard's files, `train.log`, the curves and `results.json`.
///
/// A failure does not stop the run by itself: it is kept for [`check`](Self::check).
#[derive(Debug)]
pub struct Logger {
    folder: RunFolder,
    metrics: Metrics,
    summary: Summary,
    board: TensorBoard,
    log: Appender,
    history: History,
    updates: u64,
    /// When the curves were drawn last, and how long it took.
    drawn: Option<(Instant, Duration)>,
    failure: Option<LogError>,
    _lock: FolderLock,
}

impl Logger {
    /// For a run that begins; what an earlier run left in the folder's tables is cut away.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Io`].
    pub fn start(folder: &RunFolder) -> Result<Self, LogError> {
        Self::resume(folder, Reached::default())
    }

    /// For a run that goes on from a checkpoint: what was told after it is cut away.
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

    /// What was recorded so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The first failure since it was last asked for.
    ///
    /// # Errors
    /// That failure.
    pub fn check(&mut self) -> Result<(), LogError> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Forces tables to disk; worth it before a checkpoint, which counts on what was told before.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn sync(&self) -> Result<(), LogError> {
        self.metrics.sync()?;
        self.board.sync()?;
        self.log.sync()
    }

    /// Keeps a picture of what the model saw: `samples/NAME.jpg`, and `samples/NAME` in TensorBoard.
    ///
    /// # Errors
    /// [`LogError::Picture`], [`LogError::Io`].
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
        plots::write(&self.folder, &self.history)?;
        self.drawn = Some((Instant::now(), start.elapsed()));
        Ok(())
    }
}

impl Watch for Logger {
    fn event(&mut self, event: &Event) {
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
    }
}
