//! The steps of the loop: updates from data, validation, records, checkpoints.

#[cfg(feature = "plots")]
mod captions;
mod data;
mod objective;
mod pace;
mod place;
mod records;
mod report;
mod samples;

pub use pace::{open_data, seconds_per_update};

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::TrainError;
use super::build::{Built, build, freeze};
use super::job::{Flow, Job, Outcome, Requests};
use super::judge::Judge;
use super::log::line::number;
use super::log::{DataReport, Environment, EpochSummary, Event, Finished, Logger, Reached, RunFolder, Watch};
use super::objective::{Batch, Objective};
use super::recipe::{Every, Recipe, Span};
use super::resume::{Parts, Store, load};
use super::schedule;
use super::score::{Better, Measure, Scores, Validation};
use super::task::Task;
use super::trainer::{Examples, Trainer, TrainerState};
use crate::checkpoint::card::ModelCard;
use crate::checkpoint::load::Loaded;
use crate::data::augment::Mixup;
use crate::data::train_loader::{Epoch, TrainBatch, TrainLoader};
use crate::data::train_set::TrainValSets;
use crate::models::{Model, Network};
use crate::tasks::MaskSampler;

/// Updates in a row without a finite loss and gradient that end the run.
const MAX_BAD_LOSSES: u32 = 3;

/// The position of a run and its memory; part of every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct RunState {
    /// From 0.
    epoch: usize,
    /// Updates done in this epoch.
    update: usize,
    /// Sum of the finite losses.
    loss_sum: f64,
    /// Number of losses that are not finite.
    #[serde(default)]
    lost: usize,
    /// Updates in a row whose loss or gradients were not finite.
    bad_losses: u32,
    best: Option<Best>,
    /// Validated epochs since the best one.
    since_best: usize,
    /// The last epoch's summary.
    last: Option<EpochSummary>,
    done: bool,
}

impl RunState {
    /// Mean of the epoch's finite losses so far; NaN if there is none.
    fn mean_loss(&self) -> f64 {
        self.loss_sum / (self.update - self.lost) as f64
    }
}

/// The best validation so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
    #[serde(with = "number")]
    metric: f64,
    epoch: usize,
    scores: Scores,
}

/// The pace since the epoch, or this process's part of it, began.
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

/// What an update needs.
struct Ready {
    /// On the device.
    moved: Vec<Batch>,
    /// Copies for the evidence of a run that diverges, if that is near.
    kept: Vec<Examples>,
    newest: Vec<TrainBatch>,
    /// Seconds until it was read.
    waited: f64,
}

/// A run in progress.
pub(super) struct Run<'a> {
    recipe: Recipe,
    folder: RunFolder,
    store: Store,
    logger: Logger,
    watch: &'a mut dyn Watch,
    requests: &'a dyn Requests,
    judge: Box<dyn Judge>,
    /// The score that chooses the best checkpoint.
    metric: Measure,
    task: Task,
    trainer: Trainer,
    loader: TrainLoader,
    sets: TrainValSets,
    /// Fingerprints of the training and the validation images.
    fingerprints: [String; 2],
    mixup: Mixup,
    plain: Mixup,
    /// Draws the masks of pretraining.
    sampler: Option<MaskSampler>,
    built: Built,
    device: burn::tensor::Device,
    updates_per_epoch: usize,
    epochs: usize,
    progress: RunState,
    began: Instant,
    saved_at: Instant,
    images: usize,
    training_seconds: f64,
    newest: Option<PathBuf>,
    /// The report on the data so far.
    report: DataReport,
    /// Number of training images that this process found unusable.
    bad_images: usize,
    /// Scores of this epoch's validation: model, moving average.
    scores: [Option<Scores>; 2],
    /// Whether the watcher asked to stop.
    breaks: bool,
    /// Whether the newest checkpoint holds the present state.
    is_saved: bool,
    epoch_began: Instant,
}

impl<'a> Run<'a> {
    /// Opens the data, makes the model, opens the folder, and restores the checkpoint, if any.
    pub(super) fn begin(
        job: &Job,
        data: Option<TrainValSets>,
        judge: Box<dyn Judge>,
        own: Option<Box<dyn Objective<Model>>>,
        watch: &'a mut dyn Watch,
        requests: &'a dyn Requests,
    ) -> Result<Self, TrainError> {
        job.recipe.check_for(judge.measures())?;
        let eval_metric = job.recipe.metric(judge.measures())?.name.to_string();
        let recipe = Recipe { eval_metric, ..job.recipe.clone() };
        let job = &Job { recipe: recipe.clone(), ..job.clone() };
        let metric = metric(&recipe, judge.measures())?;
        let sets = match data {
            Some(sets) => sets,
            None => data::open(&recipe)?,
        };
        let task = recipe.task()?;
        data::check_targets(&sets, task)?;
        let num_classes = recipe.num_classes.unwrap_or(sets.classes.len());
        let pretrains = task == Task::Pretrain;
        if num_classes < sets.classes.len() {
            return Err(TrainError::TooFewClasses {
                data: recipe.data,
                found: num_classes,
                expected: sets.classes.len(),
            });
        }
        if task == Task::Regress && num_classes > sets.classes.len() {
            let (data, expected) = (recipe.data, sets.classes.len());
            return Err(TrainError::Outputs { data, found: num_classes, expected });
        }
        let classes = (!pretrains).then_some(num_classes);
        let (model, mut built) = build(&recipe, classes, &job.device, job.offline)?;
        let loader = data::train_loader(&recipe, &sets, &built.preprocess)?;
        let updates_per_epoch = loader.batches_per_epoch().div_ceil(recipe.grad_accum_steps);
        let (model, notes) = freeze(model, &recipe)?;
        built.notes.extend(notes);
        let objective = match own {
            Some(objective) => objective,
            None => objective::objective(job, num_classes, &sets.classes, &mut built)?,
        };
        let sampler = sampler(&recipe, &model)?;
        let mut trainer =
            Trainer::with_objective(model, objective, &recipe, updates_per_epoch as u64, &job.device)?;
        let fingerprints = sets.fingerprints();
        // The arguments are valid from here on. Only now is a folder made.
        let (folder, store, found) = place::place(job, metric.better)?;
        let progress = match &found {
            Some(path) => place::restore(path, job, &fingerprints, &mut trainer)?,
            None => RunState::default(),
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
            sampler,
            recipe,
            folder,
            store,
            logger,
            watch,
            requests,
            judge,
            metric,
            task,
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
            breaks: false,
            is_saved: false,
            epoch_began: now,
        };
        run.tell_start(job);
        run.tell_data()?;
        Ok(run)
    }

    fn tell(&mut self, event: Event) {
        let _ = self.logger.event(&event);
        self.breaks |= self.watch.event(&event).is_break();
    }

    /// Whether the watcher or a request asks to stop.
    fn is_stopped(&self) -> bool {
        self.breaks || self.requests.stop()
    }

    fn note(&mut self, text: impl Into<String>) {
        self.tell(Event::Note(text.into()));
    }

    /// Whether an epoch is left to train.
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
        let mut ahead = None;
        while self.progress.update < self.updates_per_epoch && !self.is_last_update() {
            let began = Instant::now();
            let ready = match ahead.take() {
                Some(ready) => ready?,
                None => self.read(&mut batches, self.progress.update)?,
            };
            let Ready { moved, kept, newest, waited } = ready;
            self.is_saved = false;
            let launched = self.trainer.launch(moved)?;
            let next = self.progress.update + 1;
            if launched.is_late() && next < self.updates_per_epoch && !self.is_last_update() {
                // The device computes; the next batch is read and moved in the meantime. An error of it comes after this
                // update.
                ahead = Some(self.read(&mut batches, next));
            }
            let updated = self.trainer.settle(launched);
            pace.updates += 1;
            pace.waited += waited;
            pace.images += newest.iter().map(TrainBatch::len).sum::<usize>();
            self.after_update(&updated, &newest, kept, &pace, began.elapsed().as_secs_f64(), waited)?;
            if self.is_stopped() || self.is_out_of_time() {
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

    /// The batches of an update of this epoch.
    fn read(&mut self, batches: &mut Epoch, update: usize) -> Result<Ready, TrainError> {
        let began = Instant::now();
        let mut examples = Vec::new();
        let mut newest: Vec<TrainBatch> = Vec::new();
        for micro in 0..self.recipe.grad_accum_steps {
            let Some(batch) = batches.next().transpose()? else { break };
            let number = update * self.recipe.grad_accum_steps + micro;
            examples.push(self.mixed(&batch, number)?);
            newest.push(batch);
        }
        self.tell_replaced()?;
        if self.trainer.updates() == 0 {
            self.draw_first(&examples);
        }
        // The update before may not be settled yet, and may be bad.
        let unknown = u32::from(self.trainer.is_late());
        let is_kept = self.progress.bad_losses + 1 + unknown >= MAX_BAD_LOSSES;
        let kept = if is_kept { examples.clone() } else { Vec::new() };
        let waited = began.elapsed().as_secs_f64();
        let moved = self.trainer.moved(examples)?;
        Ok(Ready { moved, kept, newest, waited })
    }

    fn count(&mut self, pace: &Pace) {
        self.images += pace.images;
        self.training_seconds += pace.began.elapsed().as_secs_f64();
    }

    /// The model's input: images mixed, labels smoothed; or images with masks.
    fn mixed(&self, batch: &TrainBatch, number: usize) -> Result<Examples, TrainError> {
        let epoch = self.progress.epoch;
        let off = self.recipe.mixup_off_epoch;
        let mixup = if off > 0 && epoch >= off { &self.plain } else { &self.mixup };
        let place = [epoch as u64, number as u64];
        data::examples(batch, self.sampler.as_ref(), mixup, self.recipe.seed, place)
    }

    /// Validates the model and its moving average.
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
            let Some(scores) = self.evaluate(&model, which == 1, false)? else { return Ok(Flow::Stops) };
            self.scores[which] = Some(scores);
            if which == 0 {
                self.draw_views(&model);
            }
        }
        Ok(Flow::Goes)
    }

    /// Updates schedule and best score, writes summary and checkpoint, goes to the next epoch.
    pub(super) fn end_epoch(&mut self) -> Result<Flow, TrainError> {
        let epoch = self.progress.epoch;
        let [model, ema] = std::mem::take(&mut self.scores);
        let names = self.judge.measures().iter().map(|measure| measure.name.to_string()).collect();
        let validation = Validation { names, model, ema };
        let score = validation.decisive().and_then(|scores| self.metric.of(scores));
        let metric = score.map(|score| score.value);
        self.trainer.observe(epoch, metric);
        self.keep_best(epoch, &validation);
        let summary = EpochSummary {
            epoch,
            updates: self.trainer.updates(),
            train_loss: self.progress.mean_loss(),
            validation,
            lr: self.trainer.lr(),
            seconds: self.epoch_began.elapsed().as_secs_f64(),
        };
        self.tell_damaged()?;
        self.tell(Event::Epoch(summary.clone()));
        let patience = self.recipe.patience;
        let ends = self.is_last_update() || (patience > 0 && self.progress.since_best >= patience);
        self.progress = RunState {
            epoch: epoch + 1,
            update: 0,
            loss_sum: 0.0,
            lost: 0,
            last: Some(summary),
            done: ends,
            ..self.progress.clone()
        };
        self.is_saved = false;
        let is_last = !self.has_epochs();
        let every =
            matches!(self.recipe.checkpoint_every, Every::Epochs(n) if (epoch as u64 + 1).is_multiple_of(n));
        let improved = self.progress.best.as_ref().is_some_and(|best| best.epoch == epoch);
        if every || improved || is_last {
            self.save(metric)?;
        }
        Ok(if self.breaks && !is_last { Flow::Stops } else { Flow::Goes })
    }

    /// Compares an epoch's scores with the best so far. Scores that are not all finite are never the best.
    fn keep_best(&mut self, epoch: usize, validation: &Validation) {
        let Some(scores) = validation.decisive() else { return };
        let Some(score) = self.metric.of(scores) else { return };
        if scores.is_finite() && self.progress.best.as_ref().is_none_or(|best| score.beats(best.metric)) {
            self.progress.best = Some(Best { metric: score.value, epoch, scores: scores.clone() });
            self.progress.since_best = 0;
        } else {
            self.progress.since_best += 1;
        }
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
        self.is_saved = true;
        self.newest = Some(saved.path.clone());
        self.tell(Event::Saved { path: saved.path.clone(), best: saved.best });
        for leftover in saved.leftovers {
            self.note(format!("an older checkpoint could not be removed: {leftover}"));
        }
        Ok(saved.path)
    }

    /// Saves the run, writes the best weights so far as a model, and ends it.
    pub(super) fn stop(mut self) -> Result<Outcome, TrainError> {
        let checkpoint = match self.newest.clone().filter(|_| self.is_saved) {
            Some(checkpoint) => checkpoint,
            None => self.save(None)?,
        };
        let finished = self.finished(Some(self.folder.model()), true);
        let model = self.best_model()?;
        let card = self.write_model(&model)?;
        self.tell(Event::Finished(finished.clone()));
        Ok(self.outcome(model, card, finished, Some(checkpoint)))
    }

    /// Writes the best weights as a model, and validates them.
    pub(super) fn finish(mut self) -> Result<Outcome, TrainError> {
        let finished = self.finished(Some(self.folder.model()), false);
        let model = self.best_model()?;
        let card = self.write_model(&model)?;
        let draw = self.sampler.is_none();
        if !self.sets.val.is_empty() && self.evaluate(&model, self.recipe.model_ema, draw)?.is_some() {
            self.write_judged();
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let finished = Finished { seconds, ..finished };
        self.tell(Event::Finished(finished.clone()));
        self.logger.check()?;
        Ok(self.outcome(model, card, finished, None))
    }

    /// The weights of the best checkpoint, or the newest without a validation; their moving average if there is one.
    fn best_model(&mut self) -> Result<Model, TrainError> {
        let best = self.store.best().or_else(|| self.newest.clone());
        if let Some(path) = best.filter(|path| Some(path) != self.newest.as_ref()) {
            let mut loaded = load(&path)?;
            self.trainer.load_state(place::take_state(&mut loaded.parts, &path, self.recipe.model_ema)?)?;
        }
        Ok(self.trainer.ema_model().unwrap_or_else(|| self.trainer.model()))
    }

    fn outcome(self, model: Model, card: ModelCard, finished: Finished, stopped: Option<PathBuf>) -> Outcome {
        let model = Loaded {
            name: self.folder.path().display().to_string(),
            preprocess: card.preprocess.clone(),
            labels: card.labels.clone(),
            card: Some(card),
            report: self.built.report,
            notes: Vec::new(),
            model,
        };
        Outcome { folder: self.folder, finished: Box::new(finished), model, stopped, device: self.device }
    }
}

/// Draws the masks of pretraining; `None` for other tasks.
fn sampler(recipe: &Recipe, model: &Model) -> Result<Option<MaskSampler>, TrainError> {
    if recipe.task()? != Task::Pretrain {
        return Ok(None);
    }
    let model = model.reconstruct().ok_or(TrainError::NoReconstruction)?;
    Ok(Some(MaskSampler::new(model, recipe.mask_kind, recipe.seed)))
}

/// The score of the recipe's `eval_metric`.
fn metric(recipe: &Recipe, measures: &[Measure]) -> Result<Measure, TrainError> {
    let metric = recipe.metric(measures)?;
    let followed = schedule::better(recipe);
    if recipe.sched == "plateau" && followed != metric.better {
        let expected = if followed == Better::Lower { "smaller" } else { "larger" };
        return Err(TrainError::PlateauMetric { metric: metric.name.into(), expected });
    }
    Ok(metric)
}
