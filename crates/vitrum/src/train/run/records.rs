//! The records of a run: log lines, pictures, evidence of bad updates, the finished model.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::data::val_loader;
use super::samples::{draw_answers, draw_targets, draw_views};
use super::{MAX_BAD_LOSSES, Pace, Run};
use crate::checkpoint::card::{CardSource, ModelCard};
use crate::checkpoint::load::ModelError;
use crate::checkpoint::save::save;
use crate::checkpoint::write::WriteOptions;
use crate::data::batch;
use crate::data::train_loader::TrainBatch;
use crate::models::{Config, Model, PixelScale};
use crate::tasks::classify::rows;
use crate::tasks::reconstruct::views;
use crate::train::TrainError;
use crate::train::evaluate::{Evaluated, Pass, evaluate};
use crate::train::evidence::first_bad;
use crate::train::job::Job;
use crate::train::judge::Judge;
use crate::train::log::{EvalLine, Event, Finished, Started, Step, TrainLine, Watch, environment};
use crate::train::pretext::Validation;
use crate::train::score::{Meters, Scores};
use crate::train::task::Task;
use crate::train::trainer::{Examples, Updated};

/// Validation images whose predictions are drawn.
const VIEWED: usize = 8;

impl Run<'_> {
    pub(super) fn tell_start(&mut self, job: &Job) {
        self.tell(Event::Started(Started {
            model: self.built.name.clone(),
            params: self.built.params,
            img_size: self.built.config.input().image().size,
            run: self.folder.path().to_path_buf(),
            data: self.recipe.data.clone(),
            train_images: self.sets.train.len(),
            val_images: self.sets.val.len(),
            classes: self.sets.classes.len(),
            numbers: self.task == Task::Regress,
            epochs: self.epochs,
            batches: self.updates_per_epoch,
            epochs_done: self.progress.epoch,
            updates_done: self.trainer.updates(),
            device: format!("{:?}", job.device),
            threads: rayon::current_num_threads(),
            seed: self.recipe.seed,
            eval_metric: self.recipe.eval_metric.clone(),
            better: self.metric.better,
        }));
        if let Some(report) = &self.built.report {
            let text =
                format!("{}: {report}", self.recipe.pretrained.as_deref().unwrap_or(&self.recipe.model));
            self.note(text);
        }
        for note in self.built.notes.clone() {
            self.note(note);
        }
    }

    pub(super) fn after_update(
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
        if updated.loss.is_finite() {
            self.progress.loss_sum += updated.loss;
        } else {
            self.progress.lost += 1;
        }
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
        let images: usize = batches.iter().map(TrainBatch::len).sum();
        let elapsed = pace.began.elapsed().as_secs_f64();
        let done = pace.updates as f64;
        self.tell(Event::Train(TrainLine {
            epoch,
            update,
            batch,
            batches: batches_all,
            loss: updated.loss,
            loss_avg: self.progress.mean_loss(),
            lr: updated.lr,
            images_per_second: images as f64 / step_seconds,
            images_per_second_avg: pace.images as f64 / elapsed,
            data_seconds,
            data_seconds_avg: pace.waited / done,
            step_seconds,
            step_seconds_avg: elapsed / done,
            grad_norm: updated.grad_norm,
            memory_mb: environment::memory_mb(&self.device),
        }));
        Ok(())
    }

    /// A skipped update: its loss or gradients were not finite. The third in a row ends the run.
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
        let place = place.unwrap_or_else(|| "the loss or a gradient".into());
        let set = self.sets.train.set();
        let ids: Vec<_> = batches
            .iter()
            .flat_map(|batch| batch.indexes.iter().zip(&batch.targets))
            .map(|(index, target)| json!({ "index": index, "name": set.name(*index), "label": target }))
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

    /// The scores of a model over the validation images; `None` after a request to stop. With `draw`, the first batch
    /// and its predictions become a picture.
    pub(super) fn evaluate(
        &mut self,
        model: &Model,
        ema: bool,
        draw: bool,
    ) -> Result<Option<Scores>, TrainError> {
        let mut loader = val_loader(&self.recipe, &self.sets, &self.built.preprocess)?;
        let batch_size = self.recipe.validation_batch_size.unwrap_or(self.recipe.batch_size);
        let batches = self.sets.val.len().div_ceil(batch_size);
        let (epoch, update) = (self.progress.epoch, self.trainer.updates());
        let classes = self.num_classes();
        let began = Instant::now();
        let (mut batch_began, mut number) = (began, 0);
        let device = self.device.clone();
        let (requests, recipe) = (self.requests, &self.recipe);
        let (names, preprocess) = (self.class_names(), &self.built.preprocess);
        let (logger, watch) = (&mut self.logger, &mut *self.watch);
        let (mut drawn, mut breaks) = (Ok(()), false);
        let mut on_batch = |seen: Evaluated<'_, dyn Judge>| {
            if number == 0 && draw {
                drawn = draw_answers(logger, &seen, preprocess, &names);
            }
            let elapsed = began.elapsed().as_secs_f64();
            // A judge may need the whole dataset for its scores, so they are asked for only if a line is due.
            let is_due = number % recipe.log_interval.max(1) == 0 || number + 1 >= batches;
            let scores = match is_due {
                true => Meters::new(&seen.judge.newest(), &seen.judge.scores()),
                false => Meters::default(),
            };
            let line = EvalLine {
                epoch,
                update,
                ema,
                batch: number,
                batches,
                seconds: batch_began.elapsed().as_secs_f64(),
                seconds_avg: elapsed / (number + 1) as f64,
                scores,
            };
            if is_due {
                let event = Event::Eval(line);
                let _ = logger.event(&event);
                breaks |= watch.event(&event).is_break();
            }
            number += 1;
            batch_began = Instant::now();
            Ok(!(breaks || requests.stop()))
        };
        let judge = &mut *self.judge;
        judge.reset(classes);
        let pass = Pass { keep_pixels: draw, ..Pass::default() };
        let mut validation = match &self.sampler {
            Some(sampler) => {
                let scale = PixelScale::from(&self.built.preprocess);
                let model = model.as_reconstruct().map_err(ModelError::from)?;
                Some(Validation::new(model, sampler, scale))
            }
            None => None,
        };
        let mut answer = |images, _: &[String]| {
            Ok::<_, TrainError>(match &mut validation {
                Some(validation) => validation.losses(images),
                None => rows(model.logits(images).map_err(ModelError::from)?),
            })
        };
        let is_whole = evaluate(&mut answer, &mut loader, judge, &device, pass, &mut on_batch)?;
        self.tell_unreadable(loader.bad())?;
        if let Err(error) = drawn {
            self.note(format!("no pictures of predictions: {error}"));
        }
        Ok(is_whole.then(|| self.judge.scores()))
    }

    /// Draws the predictions for the first validation images, if they are due.
    pub(super) fn draw_views(&mut self, model: &Model) {
        let (interval, epoch) = (self.recipe.picture_interval, self.progress.epoch);
        let is_last = epoch + 1 == self.epochs || self.is_last_update();
        let is_due = interval > 0 && ((epoch + 1).is_multiple_of(interval) || epoch == 0 || is_last);
        let Some(sampler) = self.sampler.as_ref().filter(|_| is_due) else { return };
        let drawn = val_loader(&self.recipe, &self.sets, &self.built.preprocess).and_then(|mut loader| {
            let Some(batch) = loader.next().transpose()? else { return Ok(()) };
            let [count, c, h, w] = batch.shape;
            let count = count.min(VIEWED);
            let values = batch.values[..count * c * h * w].to_vec();
            let images = batch::to_tensor(values, [count, c, h, w], burn::tensor::DType::F32, &self.device)?;
            let (masks, scale) = (sampler.of_validation(0, count), PixelScale::from(&self.built.preprocess));
            let views = views(model.as_reconstruct().map_err(ModelError::from)?, images, &masks, &scale);
            let name = format!("predicted_{:04}", epoch + 1);
            Ok(draw_views(&mut self.logger, &name, &views, &self.built.preprocess)?)
        });
        if let Err(error) = drawn {
            self.note(format!("no pictures of predictions: {error}"));
        }
    }

    /// A name for every class of the model.
    fn class_names(&self) -> Vec<String> {
        let known = self.sets.classes.iter().cloned();
        known.chain((self.sets.classes.len()..self.num_classes()).map(|class| class.to_string())).collect()
    }

    fn num_classes(&self) -> usize {
        self.built.config.num_classes()
    }

    pub(super) fn finished(&self, model_dir: Option<PathBuf>, interrupted: bool) -> Finished {
        let best = self.progress.best.as_ref();
        Finished {
            model: self.built.name.clone(),
            params: self.built.params,
            img_size: self.built.config.input().image().size,
            run: self.folder.path().to_path_buf(),
            model_dir,
            eval_metric: self.recipe.eval_metric.clone(),
            best_metric: best.map(|best| best.metric),
            best_epoch: best.map(|best| best.epoch),
            best: best.map(|best| best.scores.clone()),
            last: self.progress.last.clone(),
            epochs: self.progress.epoch,
            updates: self.trainer.updates(),
            images_per_second: self.images as f64 / self.training_seconds.max(f64::MIN_POSITIVE),
            seconds: self.began.elapsed().as_secs_f64(),
            left_out: self.report.left_out.count,
            replaced: self.report.replaced.len(),
            unreadable: self.report.unreadable.len(),
            interrupted,
        }
    }

    /// `model/` in the layout of timm's hub.
    pub(super) fn write_model(&mut self, model: &Model) -> Result<ModelCard, TrainError> {
        let config = model.config();
        let folder = self.folder.model();
        let card = ModelCard {
            architecture: Some(self.built.architecture.clone()),
            preprocess: Some(self.built.preprocess.clone()),
            problem: self.task.problem(),
            labels: Some(self.class_names()).filter(|names| !names.is_empty()),
            ..ModelCard::new(config, CardSource::Timm, folder.join("config.json"))
        };
        let options = WriteOptions { overwrite: true, ..WriteOptions::default() };
        if let Some(reason) = save(&folder, model, &card, &options)? {
            self.note(format!("{}: timm itself cannot load this model: {reason}", folder.display()));
        }
        Ok(card)
    }

    /// Writes the judge's own files.
    pub(super) fn write_judged(&mut self) {
        if let Err(error) = self.judge.write(&self.folder, &self.sets.classes) {
            self.note(format!("the judge's files cannot be written: {error}"));
        }
    }

    /// Draws the first batch of training.
    pub(super) fn draw_first(&mut self, examples: &[Examples]) {
        let Some(first) = examples.first() else { return };
        let (task, names) = (self.task, self.class_names());
        if let Err(error) = draw_targets(&mut self.logger, task, first, &self.built.preprocess, &names) {
            self.note(format!("no picture of the first batch: {error}"));
        }
    }
}
