//! What the loop's steps do: data to updates, validation, records, checkpoints.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::Module;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::TrainError;
use super::build::{Built, build, freeze};
use super::evaluate::{Evaluated, Seen, evaluate};
use super::evidence::first_bad;
use super::fit::{Flow, Job, Outcome, Requests};
use super::log::pictures::{Pixels, answer_captions, mosaic, target_captions};
use super::log::{
    Environment, EpochSummary, EvalLine, Event, Finished, Logger, Reached, RunFolder, Scores, Started, Step,
    TrainLine, Watch, environment,
};
use super::recipe::{Every, Recipe, Span};
use super::resume::{Parts, Resume, Store, StoreOptions, changed, load};
use super::trainer::{Examples, Trainer, TrainerState, Updated};
use crate::checkpoint::apply::collect;
use crate::checkpoint::card::{CardSource, ModelCard};
use crate::checkpoint::write::{WriteOptions, write_model};
use crate::data::augment::{MixConfig, MixMode, Mixup, TrainTransform, TrainTransformConfig};
use crate::data::batch;
use crate::data::dataset::ClassMap;
use crate::data::decode::DecodeOptions;
use crate::data::loader::{Loader, LoaderOptions, MaxBad};
use crate::data::preprocess::Preprocess;
use crate::data::random::batch_rng;
use crate::data::train_loader::{TrainBatch, TrainLoader, TrainLoaderOptions};
use crate::data::train_set::{TrainDataOptions, TrainValSets};
use crate::models::{Model, ModelConfig, catalogue};

/// Losses in a row that may be no number before the run gives up.
const MAX_BAD_LOSSES: u32 = 3;

/// Where a run is, and what it remembers; in every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// From 0.
    epoch: usize,
    /// Updates done in this epoch.
    update: usize,
    /// Sum of their losses.
    loss_sum: f64,
    /// Updates in a row whose loss or gradients were not finite.
    bad_losses: u32,
    best: Option<Best>,
    /// Epochs validated since the best.
    since_best: usize,
    /// The newest epoch's summary.
    last: Option<EpochSummary>,
    done: bool,
}

/// The best validation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
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
        let mut recipe = job.recipe.clone();
        recipe.check()?;
        if recipe.amp_dtype != "none" {
            let text = format!("amp_dtype '{}' is not offered yet: training is in f32", recipe.amp_dtype);
            return Err(TrainError::Option(text));
        }
        let sets = open_data(&recipe)?;
        let num_classes = recipe.num_classes.unwrap_or(sets.classes.len());
        if num_classes < sets.classes.len() {
            return Err(TrainError::Option(format!(
                "num_classes {num_classes}: {} has {} classes",
                recipe.data,
                sets.classes.len()
            )));
        }
        let built = build(&recipe, num_classes, &job.device, job.offline)?;
        let (folder, found) = place(job, &recipe)?;
        let store = Store::open(folder.checkpoints(), store_options(&recipe))?;
        recipe.num_classes = job.recipe.num_classes;

        let loader = train_loader(&recipe, &sets, &built)?;
        let updates_per_epoch = loader.batches_per_epoch().div_ceil(recipe.grad_accum_steps);
        let model = freeze(built.model.clone(), &recipe)?;
        let mut trainer = Trainer::new(model, &recipe, updates_per_epoch as u64, &job.device)?;
        let mut progress = Progress::default();
        let fingerprints = sets.fingerprints();
        if let Some(path) = &found {
            progress = restore(path, job, &fingerprints, &mut trainer)?;
        }
        let epochs = trainer.num_epochs();
        let reached = Reached { updates: trainer.updates(), epochs: progress.epoch };
        folder.write_args(&recipe)?;
        Environment::gather(&format!("{:?}", job.device), &fingerprints[0], job.command.clone())
            .write(&folder, found.is_some())?;
        let logger = Logger::resume(&folder, reached)?;
        let now = Instant::now();
        let mut run = Self {
            mixup: mixup(&recipe, num_classes, true)?,
            plain: mixup(&recipe, num_classes, false)?,
            recipe,
            folder,
            store,
            logger,
            watch,
            requests,
            trainer,
            loader,
            sets,
            built,
            device: job.device.clone(),
            updates_per_epoch,
            epochs,
            progress,
            began: now,
            saved_at: now,
            images: 0,
            training_seconds: 0.0,
            newest: found,
            scores: [None, None],
            epoch_began: now,
        };
        run.tell_start(job);
        Ok(run)
    }

    fn tell(&mut self, event: Event) {
        self.logger.event(&event);
        self.watch.event(&event);
    }

    fn note(&mut self, text: impl Into<String>) {
        self.tell(Event::Note(text.into()));
    }

    fn tell_start(&mut self, job: &Job) {
        let ModelConfig::Vit(config) = self.built.model.config();
        self.tell(Event::Started(Started {
            model: self.built.architecture.clone(),
            params: self.built.model.num_params() as u64,
            img_size: config.img_size,
            run: self.folder.path().to_path_buf(),
            data: self.recipe.data.clone(),
            train_images: self.sets.train.len(),
            val_images: self.sets.val.len(),
            classes: self.sets.classes.len(),
            epochs: self.epochs,
            batches: self.updates_per_epoch,
            epochs_done: self.progress.epoch,
            updates_done: self.trainer.updates(),
            device: format!("{:?}", job.device),
            threads: rayon::current_num_threads(),
            seed: self.recipe.seed,
        }));
        let how = self.sets.how.clone();
        self.note(how);
        if let Some(report) = &self.built.report {
            let text =
                format!("{}: {report}", self.recipe.pretrained.as_deref().unwrap_or(&self.recipe.model));
            self.note(text);
        }
        for note in self.built.notes.clone() {
            self.note(note);
        }
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
                examples.push(self.mixed(&batch, first_of(&self.progress, &self.recipe) + micro)?);
                newest.push(batch);
            }
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
        Ok(Examples { images, shape: batch.shape, targets })
    }

    fn after_update(
        &mut self,
        updated: &Updated,
        batches: &[TrainBatch],
        kept: Vec<Examples>,
        pace: &Pace,
        step_seconds: f64,
        data_seconds: f64,
    ) -> Result<(), TrainError> {
        let batch = self.progress.update;
        self.progress.update += 1;
        self.progress.loss_sum += updated.loss;
        match &updated.skipped {
            None => self.progress.bad_losses = 0,
            Some(reason) => self.bad_update(reason, batches, kept)?,
        }
        let (epoch, update, batches_all) =
            (self.progress.epoch, self.trainer.updates(), self.updates_per_epoch);
        self.tell(Event::Step(Step { epoch, update, batch, batches: batches_all, loss: updated.loss }));
        let last = batch + 1 == self.updates_per_epoch || self.is_last_update();
        if !batch.is_multiple_of(self.recipe.log_interval.max(1)) && !last {
            return Ok(());
        }
        let images: usize = batches.iter().map(|batch| batch.labels.len()).sum();
        let elapsed = pace.began.elapsed().as_secs_f64();
        let done = pace.updates as f64;
        self.tell(Event::Train(TrainLine {
            epoch,
            update,
            batch,
            batches: batches_all,
            loss: updated.loss,
            loss_avg: self.progress.loss_sum / self.progress.update as f64,
            lr: updated.lr,
            images_per_second: images as f64 / step_seconds,
            images_per_second_avg: pace.images as f64 / elapsed,
            data_seconds,
            data_seconds_avg: pace.waited / done,
            step_seconds,
            step_seconds_avg: elapsed / done,
            grad_norm: updated.grad_norm,
            memory_mb: environment::resident_mb(),
        }));
        Ok(())
    }

    /// An update that changed nothing because of numbers that are none; the third in a row ends the run.
    fn bad_update(
        &mut self,
        reason: &str,
        batches: &[TrainBatch],
        kept: Vec<Examples>,
    ) -> Result<(), TrainError> {
        self.progress.bad_losses += 1;
        let update = self.trainer.updates();
        self.note(format!("update {update} changed nothing: {reason}"));
        if self.progress.bad_losses < MAX_BAD_LOSSES {
            return Ok(());
        }
        let mut place = None;
        for examples in kept {
            let images =
                batch::to_tensor(examples.images, examples.shape, burn::tensor::DType::F32, &self.device)?;
            place = place.or_else(|| first_bad(&self.trainer.model(), images));
        }
        let place = place.unwrap_or_else(|| "the loss or a gradient alone".into());
        let set = self.sets.train.set();
        let ids: Vec<_> = batches
            .iter()
            .flat_map(|batch| batch.indexes.iter().zip(&batch.labels))
            .map(|(index, label)| json!({ "index": index, "name": set.name(*index), "label": label }))
            .collect();
        let folder = self.folder.path().join(format!("nan-step-{update:08}"));
        let evidence = json!({
            "update": update,
            "epoch": self.progress.epoch,
            "reason": reason,
            "first_bad": place,
            "images": ids,
        });
        let io = |source| TrainError::Io { path: folder.clone(), source };
        std::fs::create_dir_all(&folder).map_err(io)?;
        std::fs::write(folder.join("evidence.json"), format!("{evidence:#}\n")).map_err(io)?;
        Err(TrainError::Diverged { update, place, evidence: folder })
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

    /// `None` when asked to stop. With `draw`, the first batch and the answers to it become a picture.
    fn evaluate(&mut self, model: &Model, ema: bool, draw: bool) -> Result<Option<Evaluated>, TrainError> {
        let mut loader = self.val_loader()?;
        let batch_size = self.recipe.validation_batch_size.unwrap_or(self.recipe.batch_size);
        let batches = self.sets.val.len().div_ceil(batch_size);
        let (epoch, update) = (self.progress.epoch, self.trainer.updates());
        let classes = self.num_classes();
        let (began, mut number, mut before) = (Instant::now(), 0, (0.0, 0.0, 0.0, 0.0));
        let device = self.device.clone();
        let (requests, recipe) = (self.requests, &self.recipe);
        let (names, preprocess) = (self.class_names(), &self.built.preprocess);
        let (logger, watch) = (&mut self.logger, &mut *self.watch);
        let mut drawn = Ok(());
        let mut on_batch = |seen: Seen<'_>| {
            if number == 0 && draw {
                let pixels = pixels(&seen.batch.values, seen.batch.shape, preprocess);
                let captions = answer_captions(seen.logits, seen.labels, &names);
                drawn = mosaic(&pixels, &captions).and_then(|sheet| logger.picture("val_pred0", &sheet));
            }
            let n = seen.accuracy.images as f64;
            let sums = (n, seen.accuracy.loss * n, seen.accuracy.top1 * n, seen.accuracy.top5 * n);
            let count = sums.0 - before.0;
            let elapsed = began.elapsed().as_secs_f64();
            let line = EvalLine {
                epoch,
                update,
                ema,
                batch: number,
                batches,
                seconds: elapsed / (number + 1) as f64,
                seconds_avg: elapsed / (number + 1) as f64,
                loss: (sums.1 - before.1) / count,
                loss_avg: seen.accuracy.loss,
                top1: (sums.2 - before.2) / count,
                top1_avg: seen.accuracy.top1,
                top5: (sums.3 - before.3) / count,
                top5_avg: seen.accuracy.top5,
            };
            before = sums;
            if number % recipe.log_interval.max(1) == 0 || line.is_last() {
                let event = Event::Eval(line);
                logger.event(&event);
                watch.event(&event);
            }
            number += 1;
            !requests.stop()
        };
        let evaluated = evaluate(model, &mut loader, classes, &device, &mut on_batch)?;
        if let Err(error) = drawn {
            self.note(format!("no pictures of predictions: {error}"));
        }
        Ok(evaluated)
    }

    /// A name for every class of the model.
    fn class_names(&self) -> Vec<String> {
        let known = self.sets.classes.iter().cloned();
        known.chain((self.sets.classes.len()..self.num_classes()).map(|class| class.to_string())).collect()
    }

    fn num_classes(&self) -> usize {
        let ModelConfig::Vit(config) = self.built.model.config();
        config.num_classes
    }

    fn val_loader(&self) -> Result<Loader, TrainError> {
        let options = LoaderOptions {
            batch_size: self.recipe.validation_batch_size.unwrap_or(self.recipe.batch_size),
            workers: workers(&self.recipe),
            max_bad: max_bad(&self.recipe),
            ..LoaderOptions::default()
        };
        Ok(Loader::new(self.sets.val.source()?, self.built.preprocess.clone(), options)?)
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
            train_loss: self.progress.loss_sum / self.progress.update.max(1) as f64,
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
            if self.is_better(metric) {
                self.progress.best = Some(Best { metric, epoch, scores });
                self.progress.since_best = 0;
            } else {
                self.progress.since_best += 1;
            }
        }
        self.tell(Event::Epoch(summary.clone()));
        let patience = self.recipe.patience;
        let ends = self.is_last_update() || (patience > 0 && self.progress.since_best >= patience);
        self.progress = Progress {
            epoch: epoch + 1,
            update: 0,
            loss_sum: 0.0,
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
        let [train, val] = self.sets.fingerprints();
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
            self.trainer.load_state(take_state(&mut loaded.parts, &path, self.recipe.model_ema)?)?;
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

    fn finished(&self, model_dir: Option<PathBuf>, interrupted: bool) -> Finished {
        let ModelConfig::Vit(config) = self.built.model.config();
        let best = self.progress.best;
        Finished {
            model: self.built.architecture.clone(),
            params: self.built.model.num_params() as u64,
            img_size: config.img_size,
            run: self.folder.path().to_path_buf(),
            model_dir,
            eval_metric: self.recipe.eval_metric.clone(),
            best_metric: best.map(|best| best.metric),
            best_epoch: best.map(|best| best.epoch),
            best: best.map(|best| best.scores),
            last: self.progress.last.clone(),
            epochs: self.progress.epoch,
            updates: self.trainer.updates(),
            images_per_second: self.images as f64 / self.training_seconds.max(f64::MIN_POSITIVE),
            seconds: self.began.elapsed().as_secs_f64(),
            interrupted,
        }
    }

    /// `model/` in the layout of timm's hub.
    fn write_model(&mut self, model: &Model) -> Result<(), TrainError> {
        let ModelConfig::Vit(config) = model.config();
        let folder = self.folder.model();
        let card = ModelCard {
            architecture: Some(self.built.architecture.clone()),
            preprocess: Some(self.built.preprocess.clone()),
            labels: Some(self.class_names()),
            ..ModelCard::new(config, CardSource::Timm, folder.join("config.json"))
        };
        let base = &catalogue::entry(&self.built.architecture)?.config;
        let options = WriteOptions { overwrite: true, ..WriteOptions::default() };
        if let Some(reason) = write_model(&folder, &collect(model), &card, base, &options)? {
            self.note(format!("{}: timm itself cannot load this model: {reason}", folder.display()));
        }
        Ok(())
    }

    fn write_confusion(&mut self, evaluated: &Evaluated) {
        if let Err(error) = evaluated.confusion.write(&self.folder, &self.sets.classes) {
            self.note(format!("no confusion matrix: {error}"));
        }
    }

    /// What the model sees first.
    fn draw_first(&mut self, examples: &[Examples]) {
        let Some(first) = examples.first() else { return };
        let pixels = pixels(&first.images, first.shape, &self.built.preprocess);
        let captions = target_captions(&first.targets, &self.class_names());
        let drawn = mosaic(&pixels, &captions).and_then(|sheet| self.logger.picture("train_batch0", &sheet));
        if let Err(error) = drawn {
            self.note(format!("no picture of the first batch: {error}"));
        }
    }
}

fn pixels<'a>(values: &'a [f32], shape: [usize; 4], preprocess: &'a Preprocess) -> Pixels<'a> {
    Pixels { values, shape, mean: &preprocess.mean, std: &preprocess.std }
}

/// The number of the update's first batch in its epoch.
fn first_of(progress: &Progress, recipe: &Recipe) -> usize {
    progress.update * recipe.grad_accum_steps
}

fn scores(evaluated: &Evaluated) -> Scores {
    let accuracy = &evaluated.accuracy;
    Scores { loss: accuracy.loss, top1: accuracy.top1, top5: accuracy.top5 }
}

fn workers(recipe: &Recipe) -> usize {
    if recipe.workers > 0 {
        recipe.workers
    } else {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

fn max_bad(recipe: &Recipe) -> MaxBad {
    if recipe.max_bad < 1.0 {
        MaxBad::Fraction(recipe.max_bad)
    } else {
        MaxBad::Count(recipe.max_bad as usize)
    }
}

fn store_options(recipe: &Recipe) -> StoreOptions {
    StoreOptions { keep_last: recipe.checkpoint_hist, lower_is_better: recipe.eval_metric == "loss" }
}

/// The folder of the run, and the checkpoint it goes on from.
fn place(job: &Job, recipe: &Recipe) -> Result<(RunFolder, Option<PathBuf>), TrainError> {
    let name = recipe.experiment.clone().unwrap_or_else(|| name_of(&recipe.model));
    let own = recipe.output.join(super::log::folder::TASK).join(&name);
    let (folder, found) = match &job.resume {
        None => return Ok((RunFolder::create(&recipe.output, &name, recipe.exist_ok)?, None)),
        Some(Resume::Path(path)) => {
            let found = Resume::Path(path.clone()).find(&own.join("checkpoints"))?;
            let run = found.as_ref().and_then(|found| found.path.ancestors().nth(2)).map(PathBuf::from);
            (RunFolder::open(&run.unwrap_or(own))?, found)
        }
        Some(resume) => {
            let found = resume.find(&own.join("checkpoints"))?;
            match found {
                Some(found) => (RunFolder::open(&own)?, Some(found)),
                None => return Ok((RunFolder::create(&recipe.output, &name, true)?, None)),
            }
        }
    };
    Ok((folder, found.map(|found| found.path)))
}

/// What a run is called when nobody says: the model, without its place.
fn name_of(model: &str) -> String {
    let last = model.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or(model);
    if last.is_empty() || last.starts_with('.') { "run".into() } else { last.into() }
}

fn open_data(recipe: &Recipe) -> Result<TrainValSets, TrainError> {
    let side = match recipe.img_size {
        Some(size) => size.0[0].max(size.0[1]) as u32,
        None => catalogue::entry(&recipe.model).map_or(224, |entry| entry.config.img_size[0] as u32),
    };
    let options = TrainDataOptions {
        val_data: recipe.val_data.clone().map(PathBuf::from),
        train_split: recipe.train_split.clone(),
        val_split: recipe.val_split.clone(),
        val_fraction: recipe.val_fraction,
        fraction: recipe.fraction,
        class_map: recipe.class_map.as_ref().map(ClassMap::open).transpose()?,
        image_dir: recipe.image_dir.clone(),
        seed: recipe.seed,
        demo_size: side,
        decode: DecodeOptions::timm(),
        cache: recipe.cache,
        shuffle_buffer: recipe.shuffle_buffer,
        ..TrainDataOptions::new(&recipe.data)
    };
    Ok(TrainValSets::open(&options)?)
}

fn train_loader(recipe: &Recipe, sets: &TrainValSets, built: &Built) -> Result<TrainLoader, TrainError> {
    let transform = TrainTransform::new(&TrainTransformConfig {
        preprocess: built.preprocess.clone(),
        no_aug: recipe.no_aug,
        crop_pad: recipe.crop_pad,
        scale: recipe.scale,
        ratio: recipe.ratio,
        hflip: recipe.hflip,
        vflip: recipe.vflip,
        color_jitter: recipe.color_jitter,
        grayscale_prob: recipe.grayscale_prob,
        gaussian_blur_prob: recipe.gaussian_blur_prob,
        aa: recipe.aa.clone(),
        reprob: recipe.reprob,
        remode: recipe.remode.clone(),
        recount: recipe.recount,
        train_interpolation: recipe.train_interpolation.clone(),
        ..TrainTransformConfig::default()
    })?;
    let options = TrainLoaderOptions {
        batch_size: recipe.batch_size,
        workers: workers(recipe),
        seed: recipe.seed,
        repeats: recipe.aug_repeats,
        drop_last: sets.train.len() >= recipe.batch_size,
        max_bad: max_bad(recipe),
        overfit_batches: recipe.overfit_batches,
        ..TrainLoaderOptions::default()
    };
    let work = move |image: &crate::data::RgbImage, rng: &mut crate::data::random::DataRng| {
        transform.apply(image, rng).map_err(|error| error.to_string())
    };
    Ok(TrainLoader::new(sets.train.clone(), Arc::new(work), built.preprocess.input_size, options)?)
}

fn mixup(recipe: &Recipe, num_classes: usize, on: bool) -> Result<Mixup, TrainError> {
    let config = MixConfig {
        mixup: if on { recipe.mixup } else { 0.0 },
        cutmix: if on { recipe.cutmix } else { 0.0 },
        cutmix_minmax: recipe.cutmix_minmax.filter(|_| on),
        mixup_prob: recipe.mixup_prob,
        mixup_switch_prob: recipe.mixup_switch_prob,
        mixup_mode: MixMode::of_name(&recipe.mixup_mode)?,
        smoothing: recipe.smoothing,
    };
    Ok(Mixup::new(config, num_classes)?)
}

/// Brings the trainer to a checkpoint of the same run.
fn restore(
    path: &std::path::Path,
    job: &Job,
    fingerprints: &[String; 2],
    trainer: &mut Trainer,
) -> Result<Progress, TrainError> {
    let mut loaded = load(path)?;
    let state = match loaded.parts.get("state") {
        Some(super::resume::Part::Json(state)) => state.clone(),
        _ => return Err(TrainError::OtherModel(format!("{}: no state.json", path.display()))),
    };
    let wrong = |what: &str, error: serde_json::Error| {
        TrainError::OtherModel(format!("{}: state.json: {what}: {error}", path.display()))
    };
    let old: Recipe = serde_json::from_value(state["recipe"].clone()).map_err(|e| wrong("recipe", e))?;
    let changes = changed(&old, &job.recipe);
    if !changes.is_empty() && !job.allow_changed_args {
        return Err(TrainError::ChangedArgs { path: path.to_path_buf(), step: loaded.step, changes });
    }
    let data = [&state["data"]["train"], &state["data"]["val"]];
    if data.iter().zip(fingerprints).any(|(old, new)| old.as_str() != Some(new)) && !job.allow_changed_args {
        return Err(TrainError::ChangedData { path: path.to_path_buf() });
    }
    let progress = serde_json::from_value(state["progress"].clone()).map_err(|e| wrong("progress", e))?;
    trainer.load_state(take_state(&mut loaded.parts, path, job.recipe.model_ema)?)?;
    Ok(progress)
}

fn take_state(parts: &mut Parts, path: &std::path::Path, ema: bool) -> Result<TrainerState, TrainError> {
    let state = parts.take_json("state", path)?;
    Ok(TrainerState {
        model: parts.take_tensors("model", path)?.into_iter().collect(),
        ema: if ema { Some(parts.take_tensors("model_ema", path)?.into_iter().collect()) } else { None },
        optimizer: parts.take_tensors("optim", path)?.into_iter().collect(),
        numbers: state["trainer"].clone(),
    })
}
