//! What the loop's steps do: data to updates, validation, records, checkpoints.

mod data;
mod objective;
mod place;
mod records;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::TrainError;
use super::build::{Built, build, freeze};
use super::evaluate::Evaluated;
use super::fit::{Flow, Job, Outcome, Requests};
use super::log::event::number;
use super::log::{
    DataReport, Environment, EpochSummary, Event, Finished, Logger, Reached, RunFolder, Scores, Watch,
};
use super::recipe::{Every, Recipe, Span};
use super::resume::{Parts, Store, load};
use super::trainer::{Examples, Trainer, TrainerState};
use crate::data::augment::Mixup;
use crate::data::random::batch_rng;
use crate::data::train_loader::{TrainBatch, TrainLoader};
use crate::data::train_set::TrainValSets;

/// Losses in a row that may be no number before the run gives up.
const MAX_BAD_LOSSES: u32 = 3;

/// Where a run is, and what it remembers; in every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// From 0.
    epoch: usize,
    /// Updates done in this epoch.
    update: usize,
    /// Sum of those losses that are finite.
    loss_sum: f64,
    /// Number of the others.
    #[serde(default)]
    lost: usize,
    /// Updates in a row whose loss or gradients were not finite.
    bad_losses: u32,
    best: Option<Best>,
    /// Epochs validated since the best.
    since_best: usize,
    /// The newest epoch's summary.
    last: Option<EpochSummary>,
    done: bool,
}

impl Progress {
    /// Mean of the epoch's finite losses so far; NaN without one.
    fn mean_loss(&self) -> f64 {
        self.loss_sum / (self.update - self.lost) as f64
    }
}

/// The best validation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
    #[serde(with = "number")]
    metric: f64,
    epoch: usize,
    scores: Scores,
}

/// Time since the epoch, or this process's part of it, began.
struct Pace {
    began: Instant,
    updates: usize,
    images: usize,
    waited: f64,
}

impl Pace {
    fn new() -> Self {
        Self { began: Instant::now(), updates: 0, images: 0, waited: 0.0 }
    }
}

/// A run under way.
pub(super) struct Run<'a> {
    recipe: Recipe,
    folder: RunFolder,
    store: Store,
    logger: Logger,
    watch: &'a mut dyn Watch,
    requests: &'a dyn Requests,
    trainer: Trainer,
    loader: TrainLoader,
    sets: TrainValSets,
    /// Of the training and the validation images.
    fingerprints: [String; 2],
    mixup: Mixup,
    plain: Mixup,
    built: Built,
    device: burn::tensor::Device,
    updates_per_epoch: usize,
    epochs: usize,
    progress: Progress,
    began: Instant,
    saved_at: Instant,
    images: usize,
    training_seconds: f64,
    newest: Option<PathBuf>,
    /// What became of the data so far.
    report: DataReport,
    /// Training images that this process found unusable.
    bad_images: usize,
    /// Scores of the epoch under way, set by validation.
    scores: [Option<Scores>; 2],
    epoch_began: Instant,
}

impl<'a> Run<'a> {
    /// Reads the data, makes the model, opens the folder, and goes to where a checkpoint says.
    pub(super) fn begin(
        job: &Job,
        watch: &'a mut dyn Watch,
        requests: &'a dyn Requests,
    ) -> Result<Self, TrainError> {
        let recipe = job.recipe.clone();
        recipe.check()?;
        let sets = data::open(&recipe)?;
        let num_classes = recipe.num_classes.unwrap_or(sets.classes.len());
        if num_classes < sets.classes.len() {
            return Err(TrainError::Option(format!(
                "num_classes {num_classes}: {} has {} classes",
                recipe.data,
                sets.classes.len()
            )));
        }
        let (model, mut built) = build(&recipe, num_classes, &job.device, job.offline)?;
        let loader = data::train_loader(&recipe, &sets, &built.preprocess)?;
        let updates_per_epoch = loader.batches_per_epoch().div_ceil(recipe.grad_accum_steps);
        let model = freeze(model, &recipe)?;
        let objective = objective::objective(job, num_classes, &sets.classes, &mut built)?;
        let mut trainer =
            Trainer::with_objective(model, objective, &recipe, updates_per_epoch as u64, &job.device)?;
        let fingerprints = sets.fingerprints();
        // Whatever can be wrong with the arguments was found by now: only a run leaves a folder.
        let (folder, store, found) = place::place(job)?;
        let progress = match &found {
            Some(path) => place::restore(path, job, &fingerprints, &mut trainer)?,
            None => Progress::default(),
        };
        let epochs = trainer.num_epochs();
        let reached = Reached { updates: trainer.updates(), epochs: progress.epoch };
        folder.write_args(&recipe)?;
        Environment::gather(&format!("{:?}", job.device), &fingerprints[0], job.command.clone())
            .write(&folder, found.is_some())?;
        let logger = Logger::resume(&folder, reached)?;
        let report = if found.is_some() { DataReport::of_run(&folder) } else { DataReport::default() };
        let now = Instant::now();
        let mut run = Self {
            mixup: data::mixup(&recipe, num_classes, true)?,
            plain: data::mixup(&recipe, num_classes, false)?,
            recipe,
            folder,
            store,
            logger,
            watch,
            requests,
            trainer,
            loader,
            sets,
            fingerprints,
            built,
            device: job.device.clone(),
            updates_per_epoch,
            epochs,
            progress,
            began: now,
            saved_at: now,
            images: 0,
            training_seconds: 0.0,
            report,
            bad_images: 0,
            newest: found,
            scores: [None, None],
            epoch_began: now,
        };
        run.tell_start(job);
        run.tell_data()?;
        Ok(run)
    }

    fn tell(&mut self, event: Event) {
        self.logger.event(&event);
        self.watch.event(&event);
    }

    fn note(&mut self, text: impl Into<String>) {
        self.tell(Event::Note(text.into()));
    }

    /// Whether there is an epoch left to train.
    pub(super) fn has_epochs(&self) -> bool {
        !self.progress.done && self.progress.epoch < self.epochs
    }

    fn is_last_update(&self) -> bool {
        self.recipe.max_steps.is_some_and(|most| self.trainer.updates() >= most)
    }

    /// The rest of the epoch's updates.
    pub(super) fn train_epoch(&mut self) -> Result<Flow, TrainError> {
        self.epoch_began = Instant::now();
        let first = self.progress.update * self.recipe.grad_accum_steps;
        let mut batches = self.loader.epoch(self.progress.epoch as u64, first);
        let mut pace = Pace::new();
        while self.progress.update < self.updates_per_epoch && !self.is_last_update() {
            let began = Instant::now();
            let mut examples = Vec::new();
            let mut newest: Vec<TrainBatch> = Vec::new();
            for micro in 0..self.recipe.grad_accum_steps {
                let Some(batch) = batches.next().transpose()? else { break };
                let number = self.progress.update * self.recipe.grad_accum_steps + micro;
                examples.push(self.mixed(&batch, number)?);
                newest.push(batch);
            }
            self.tell_replaced()?;
            if self.trainer.updates() == 0 {
                self.draw_first(&examples);
            }
            let waited = began.elapsed().as_secs_f64();
            let kept =
                if self.progress.bad_losses + 1 >= MAX_BAD_LOSSES { examples.clone() } else { Vec::new() };
            let updated = self.trainer.update(examples)?;
            pace.updates += 1;
            pace.waited += waited;
            pace.images += newest.iter().map(|batch| batch.labels.len()).sum::<usize>();
            self.after_update(&updated, &newest, kept, &pace, began.elapsed().as_secs_f64(), waited)?;
            if self.requests.stop() || self.is_out_of_time() {
                self.count(&pace);
                return Ok(Flow::Stops);
            }
            if self.is_save_due() || self.requests.take_save() {
                self.save(None)?;
            }
        }
        self.count(&pace);
        Ok(Flow::Goes)
    }

    fn count(&mut self, pace: &Pace) {
        self.images += pace.images;
        self.training_seconds += pace.began.elapsed().as_secs_f64();
    }

    /// Images and targets as the model gets them: mixed, labels smoothed.
    fn mixed(&self, batch: &TrainBatch, number: usize) -> Result<Examples, TrainError> {
        let epoch = self.progress.epoch;
        let off = self.recipe.mixup_off_epoch;
        let mixup = if off > 0 && epoch >= off { &self.plain } else { &self.mixup };
        let mut images = batch.values.clone();
        let mut rng = batch_rng(self.recipe.seed, epoch as u64, number as u64);
        let targets = mixup.apply(&mut images, batch.shape, &batch.labels, &mut rng)?;
        Ok(Examples { images, shape: batch.shape, targets, indexes: batch.indexes.clone() })
    }

    /// Model and average over the validation images.
    pub(super) fn validate_epoch(&mut self) -> Result<Flow, TrainError> {
        self.scores = [None, None];
        let epoch = self.progress.epoch;
        let last = epoch + 1 == self.epochs || self.is_last_update();
        let due = (epoch + 1).is_multiple_of(self.recipe.val_interval.max(1)) || last;
        if self.sets.val.is_empty() || !due {
            return Ok(Flow::Goes);
        }
        let models = [Some(self.trainer.model()), self.trainer.ema_model()];
        for (which, model) in models.into_iter().enumerate() {
            let Some(model) = model else { continue };
            let Some(evaluated) = self.evaluate(&model, which == 1, false)? else { return Ok(Flow::Stops) };
            self.scores[which] = Some(scores(&evaluated));
        }
        Ok(Flow::Goes)
    }

    /// Summary, schedule, best, checkpoint; then the next epoch.
    pub(super) fn end_epoch(&mut self) -> Result<(), TrainError> {
        let epoch = self.progress.epoch;
        let [model, ema] = self.scores;
        let judged = ema.or(model);
        let metric = judged.map(|scores| self.metric(&scores));
        self.trainer.observe(epoch, metric);
        let summary = EpochSummary {
            epoch,
            updates: self.trainer.updates(),
            train_loss: self.progress.mean_loss(),
            eval_loss: model.map(|s| s.loss),
            eval_top1: model.map(|s| s.top1),
            eval_top5: model.map(|s| s.top5),
            ema_loss: ema.map(|s| s.loss),
            ema_top1: ema.map(|s| s.top1),
            ema_top5: ema.map(|s| s.top5),
            lr: self.trainer.lr(),
            seconds: self.epoch_began.elapsed().as_secs_f64(),
        };
        if let (Some(metric), Some(scores)) = (metric, judged) {
            if scores.is_finite() && self.is_better(metric) {
                self.progress.best = Some(Best { metric, epoch, scores });
                self.progress.since_best = 0;
            } else {
                self.progress.since_best += 1;
            }
        }
        self.tell_damaged()?;
        self.tell(Event::Epoch(summary.clone()));
        let patience = self.recipe.patience;
        let ends = self.is_last_update() || (patience > 0 && self.progress.since_best >= patience);
        self.progress = Progress {
            epoch: epoch + 1,
            update: 0,
            loss_sum: 0.0,
            lost: 0,
            last: Some(summary),
            done: ends,
            ..self.progress.clone()
        };
        let is_last = !self.has_epochs();
        let every =
            matches!(self.recipe.checkpoint_every, Every::Epochs(n) if (epoch as u64 + 1).is_multiple_of(n));
        let improved = self.progress.best.is_some_and(|best| best.epoch == epoch);
        if every || improved || is_last {
            self.save(metric)?;
        }
        Ok(())
    }

    fn metric(&self, scores: &Scores) -> f64 {
        match self.recipe.eval_metric.as_str() {
            "loss" => scores.loss,
            "top5" => scores.top5,
            _ => scores.top1,
        }
    }

    fn is_better(&self, metric: f64) -> bool {
        let less = self.recipe.eval_metric == "loss";
        self.progress.best.is_none_or(|best| if less { metric < best.metric } else { metric > best.metric })
    }

    fn is_save_due(&self) -> bool {
        match self.recipe.checkpoint_every {
            Every::Epochs(_) => false,
            Every::Steps(n) => self.trainer.updates().is_multiple_of(n),
            Every::Time(Span { seconds }) => self.saved_at.elapsed() >= Duration::from_secs_f64(seconds),
        }
    }

    fn is_out_of_time(&self) -> bool {
        self.recipe.time.is_some_and(|Span { seconds }| self.began.elapsed().as_secs_f64() >= seconds)
    }

    fn save(&mut self, metric: Option<f64>) -> Result<PathBuf, TrainError> {
        let TrainerState { model, ema, optimizer, numbers } = self.trainer.state();
        let [train, val] = &self.fingerprints;
        let mut parts =
            Parts::default().with_tensors("model", model).with_tensors("optim", optimizer).with_json(
                "state",
                json!({
                    "progress": self.progress,
                    "trainer": numbers,
                    "recipe": self.recipe,
                    "data": { "train": train, "val": val, "classes": self.sets.classes },
                }),
            );
        if let Some(ema) = ema {
            parts = parts.with_tensors("model_ema", ema);
        }
        self.logger.check()?;
        self.logger.sync()?;
        let saved = self.store.save(self.trainer.updates(), &parts, metric)?;
        self.saved_at = Instant::now();
        self.newest = Some(saved.path.clone());
        self.tell(Event::Saved { path: saved.path.clone(), best: saved.best });
        for leftover in saved.leftovers {
            self.note(format!("an older checkpoint could not be removed: {leftover}"));
        }
        Ok(saved.path)
    }

    /// Saves where the run is.
    pub(super) fn stop(mut self) -> Result<Outcome, TrainError> {
        let checkpoint = self.save(None)?;
        let finished = self.finished(None, true);
        self.tell(Event::Finished(finished));
        Ok(Outcome::Stopped { folder: self.folder.clone(), checkpoint })
    }

    /// The best weights as a model anybody can load, and what they are worth.
    pub(super) fn finish(mut self) -> Result<Outcome, TrainError> {
        let finished = self.finished(Some(self.folder.model()), false);
        let best = self.store.best().or_else(|| self.newest.clone());
        if let Some(path) = best.filter(|path| Some(path) != self.newest.as_ref()) {
            let mut loaded = load(&path)?;
            self.trainer.load_state(place::take_state(&mut loaded.parts, &path, self.recipe.model_ema)?)?;
        }
        let model = self.trainer.ema_model().unwrap_or_else(|| self.trainer.model());
        self.write_model(&model)?;
        if !self.sets.val.is_empty()
            && let Some(evaluated) = self.evaluate(&model, self.recipe.model_ema, true)?
        {
            self.write_confusion(&evaluated);
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let finished = Finished { seconds, ..finished };
        self.tell(Event::Finished(finished.clone()));
        self.logger.check()?;
        Ok(Outcome::Done { folder: self.folder.clone(), finished: Box::new(finished) })
    }
}

fn scores(evaluated: &Evaluated) -> Scores {
    let accuracy = &evaluated.accuracy;
    Scores { loss: accuracy.loss, top1: accuracy.top1, top5: accuracy.top5 }
}
