//! Parts of one's own: data, loss, stopping by a watcher; what cannot be trained.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor};
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::data::dataset::{DatasetError, DatasetProblem, ImageSource, Sample, Skipped, Source, Target};
use vitrum::data::train_set::{TrainDataOptions, TrainSet, TrainSetOptions, TrainValSets};
use vitrum::data::{DemoSet, RgbImage};
use vitrum::layers::observe::{Observer, Silent};
use vitrum::models::{Depth, Features, Model, Network, Want};
use vitrum::train::groups::{GroupConfig, Groups};
use vitrum::train::log::Event;
use vitrum::train::objective::{Batch, ClassLoss, Classification, Objective, Targets};
use vitrum::train::optim::{OptimConfig, OptimName};
use vitrum::train::resume::Resume;
use vitrum::train::trainer::{Examples, Trainer, TrainerConfig, Updated};
use vitrum::train::{Fit, Job, Recipe, TrainError, fit};

use super::fit::{Heard, done, job, recipe};

/// Drawn pictures that are no files.
struct Drawn {
    set: DemoSet,
    classes: Vec<String>,
    skipped: Skipped,
    next: usize,
    count: usize,
    fails_at: Option<usize>,
    /// Added to every label.
    offset: usize,
}

fn drawn(count: usize, seed: u64) -> Drawn {
    Drawn {
        set: DemoSet::new(32, count, seed),
        classes: (0..10).map(|class| format!("class-{class}")).collect(),
        skipped: Skipped::default(),
        next: 0,
        count,
        fails_at: None,
        offset: 0,
    }
}

impl Source for Drawn {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn count(&self) -> Option<usize> {
        Some(self.count)
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        if self.fails_at == Some(self.next) {
            return Err(DatasetProblem::Source("the camera is off".into()).at("camera"));
        }
        if self.next == self.count {
            return Ok(None);
        }
        let index = self.next;
        self.next += 1;
        let (label, image) = (self.set.label(index) + self.offset, self.set.image(index));
        Ok(Some(Sample {
            name: index.to_string(),
            target: Some(Target::Class(label)),
            image: ImageSource::Pixels(image),
        }))
    }
}

fn sets() -> TrainValSets {
    let set = |source| TrainSet::from_source("drawn", Box::new(source), &TrainSetOptions::default()).unwrap();
    TrainValSets::from_sets(set(drawn(96, 1)), Some(set(drawn(32, 2))), &TrainDataOptions::new("drawn"))
        .unwrap()
}

fn own(output: &Path) -> Recipe {
    Recipe { data: String::new(), ..recipe(output) }
}

#[test]
fn a_source_of_ones_own_is_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut heard = Heard::default();
    let outcome = Fit::new(&job(own(folder.path()))).data(sets()).run(&mut heard).unwrap();
    assert!(heard.notes.iter().any(|note| note == "validation on all of drawn"), "{:?}", heard.notes);
    assert_eq!((heard.losses.len(), outcome.finished.updates), (12, 12));
    let args = std::fs::read_to_string(outcome.folder.args()).unwrap();
    assert!(args.contains("data = \"drawn\""), "{args}");
    let vit = outcome.classifier().unwrap();
    assert_eq!(vit.label(3), Some("class-3"));
    // A part is set aside where no validation is given.
    let set = TrainSet::from_source("drawn", Box::new(drawn(100, 1)), &TrainSetOptions::default()).unwrap();
    let options = TrainDataOptions { val_fraction: 0.2, ..TrainDataOptions::new("drawn") };
    let sets = TrainValSets::from_sets(set, None, &options).unwrap();
    assert_eq!((sets.train.len(), sets.val.len()), (80, 20));
    // A class number that no memory holds is refused.
    let far = Drawn { offset: usize::MAX - 20, ..drawn(9, 1) };
    let error = TrainSet::from_source("far", Box::new(far), &TrainSetOptions::default()).unwrap_err();
    assert!(error.to_string().contains("more than the limit of 1000000"), "{error}");
    // The source's own error is told.
    let broken = Drawn { fails_at: Some(7), ..drawn(9, 1) };
    let error = TrainSet::from_source("camera", Box::new(broken), &TrainSetOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "camera: the camera is off");
}

#[test]
fn a_stopped_run_on_ones_own_data_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let whole = done(Fit::new(&job(own(folder.path()))).data(sets()).run(&mut Heard::default()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let steps = Cell::new(0);
    let mut third = |event: &Event| {
        steps.set(steps.get() + u32::from(matches!(event, Event::Step(_))));
        if steps.get() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let stopped = Fit::new(&job(own(folder.path()))).data(sets()).run(&mut third).unwrap();
    assert_eq!((steps.get(), stopped.finished.updates), (3, 3));
    let resumed = Job { resume: Some(Resume::Newest), ..job(own(folder.path())) };
    assert_eq!(done(Fit::new(&resumed).data(sets()).run(&mut Heard::default()).unwrap()), whole);
}

#[test]
fn a_watcher_that_breaks_after_an_epoch_gets_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let updates = Cell::new(0);
    let outcome = fit(&job(recipe(folder.path())), &mut |event: &Event| match event {
        Event::Step(_) => {
            updates.set(updates.get() + 1);
            ControlFlow::Continue(())
        }
        Event::Epoch(epoch) => {
            assert!(epoch.score("top1").is_some() && epoch.score("nothing").is_none());
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    // Not one update of the second epoch was made.
    assert_eq!((updates.get(), outcome.finished.updates, outcome.finished.interrupted), (6, 6, true));
    let checkpoint = outcome.stopped.clone().unwrap();
    assert!(checkpoint.ends_with("step-00000006"), "{}", checkpoint.display());
    let written = load(&LoadOptions::new(outcome.folder.model()), &Device::flex()).unwrap();
    let image = [DemoSet::new(32, 1, 9).image(0)];
    let ours = outcome.classifier().unwrap().predict(&image, 10).unwrap();
    let theirs = vitrum::tasks::Classifier::new(written, Device::flex()).unwrap();
    assert_eq!(theirs.predict(&image, 10).unwrap(), ours);
    // It goes on as if it had never stopped.
    let resumed = Job { resume: Some(Resume::Newest), ..job(recipe(folder.path())) };
    let pieces = done(fit(&resumed, &mut Heard::default()).unwrap());
    let other = tempfile::tempdir().unwrap();
    assert_eq!(pieces, done(fit(&job(recipe(other.path())), &mut Heard::default()).unwrap()));
}

/// The mean of the squared logits: it needs no targets, and drives all answers to zero.
struct Quiet;

impl Objective<Model> for Quiet {
    fn check(&self, model: &Model) -> Result<(), TrainError> {
        model.classify().map(|_| ()).ok_or(TrainError::NoClasses)
    }

    fn loss(&self, model: &Model, features: Features, _: &Batch, watch: &mut dyn Observer) -> Tensor<1> {
        let logits = model.classify().unwrap().head(features, watch);
        (logits.clone() * logits).mean()
    }
}

#[test]
fn a_loss_of_ones_own_is_minimised() {
    let folder = tempfile::tempdir().unwrap();
    let mut heard = Heard::default();
    let plain = Recipe { mixup: 0.0, cutmix: 0.0, model_ema: false, ..recipe(folder.path()) };
    Fit::new(&job(plain)).objective(Box::new(Quiet)).run(&mut heard).unwrap();
    let (first, last) = (heard.losses[0], heard.losses[11]);
    assert!(last < 0.5 * first, "{first} {last}");
}

fn tiny() -> Model {
    let options = LoadOptions { num_classes: Some(4), ..LoadOptions::new("demo") };
    load(&options, &Device::flex()).unwrap().model
}

fn trainer(model: Model) -> Result<Trainer, TrainError> {
    Trainer::new(model, &Recipe { warmup_epochs: 0.0, epochs: 1, ..Recipe::default() }, 4, &Device::flex())
}

#[test]
fn prepared_weights_are_not_trained_in_silence() {
    for (model, form) in [
        (tiny().pack(), "are packed for inference"),
        (tiny().round_to_bf16(), "are rounded to bf16 for inference"),
        (tiny().quantize(&[]).unwrap(), "are in int8 for inference"),
    ] {
        let error = trainer(model.clone()).err().expect("a refusal").to_string();
        assert!(error.contains(form) && error.contains("blocks.0.attn.qkv"), "{error}");
        // A loop of one's own meets a panic, never half of the gradients.
        let images = Tensor::<4>::ones([1, 3, 32, 32], &Device::flex().autodiff());
        let pass = || model.backbone().unwrap().features(images.clone().into(), Want::Last, &mut Silent);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(pass)).expect_err("a panic");
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap();
        assert!(text.contains("prepared for inference"), "{text}");
    }
}

#[test]
fn a_trainer_from_its_parts_is_the_recipes() {
    let recipe = Recipe {
        opt: "adamw".into(),
        lr: Some(2e-3),
        sched: "none".into(),
        weight_decay: 0.0,
        epochs: 1,
        ..Recipe::default()
    };
    let objective = || Box::new(Classification { loss: ClassLoss::CrossEntropy });
    let by_recipe = Trainer::with_objective(tiny(), objective(), &recipe, 4, &Device::flex()).unwrap();
    let config = TrainerConfig::new(OptimConfig::new(OptimName::AdamW), 2e-3);
    let by_parts = Trainer::with_config(tiny(), objective(), config, &Device::flex()).unwrap();
    let mut losses = Vec::new();
    for mut trainer in [by_recipe, by_parts] {
        let updates = (0..3).map(|_| trainer.update(vec![examples(2, 8, 32)]).unwrap());
        losses.push(updates.map(|updated| (updated.loss.to_bits(), updated.lr)).collect::<Vec<_>>());
    }
    assert_eq!(losses[0], losses[1]);
}

fn examples(count: usize, targets: usize, side: usize) -> Examples {
    Examples {
        images: vec![0.5; count * 3 * side * side],
        shape: [count, 3, side, side],
        targets: vec![0.25; targets],
        masks: None,
        indexes: Vec::new(),
    }
}

#[test]
fn odd_batches_are_refused_and_change_nothing() {
    let mut trainer = trainer(tiny()).unwrap();
    let before = trainer.state();
    let refused = |error: Result<Updated, TrainError>| error.expect_err("a refusal").to_string();
    assert!(refused(trainer.update(Vec::<Examples>::new())).contains("needs examples"));
    assert!(refused(trainer.update(vec![examples(0, 0, 32)])).contains("needs examples"));
    assert_eq!(refused(trainer.update(vec![examples(2, 7, 32)])), "targets of shape [7], expected [2, 3]");
    assert_eq!(refused(trainer.update(vec![examples(2, 6, 32)])), "targets of shape [2, 3], expected [2, 4]");
    assert!(refused(trainer.update(vec![examples(2, 8, 24)])).contains("images are 24x24"));
    let short = Examples { images: vec![0.0; 5], ..examples(2, 8, 32) };
    assert!(refused(trainer.update(vec![short])).contains("needs 6144 numbers, found 5"));
    // A bad batch among good ones is refused as well, before any of them counts.
    assert!(trainer.update(vec![examples(2, 8, 32), examples(2, 6, 32)]).is_err());
    let images = Tensor::<4>::ones([1, 3, 32, 32], (&Device::flex().autodiff(), DType::F32));
    assert!(refused(trainer.update(vec![Batch::new(images, Targets::Nothing)])).contains("expected [1, 4]"));
    assert_eq!(trainer.state(), before);
    assert!(trainer.update(vec![examples(2, 8, 32)]).unwrap().skipped.is_none());
}

/// A model inside a module that does not say where its layers are.
#[derive(burn::module::Module, Debug)]
struct Shell {
    inner: Model,
}

impl Network for Shell {
    fn linears(&self) -> Vec<(String, &vitrum::layers::Linear)> {
        Vec::new()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut vitrum::layers::Linear)> {
        Vec::new()
    }

    fn depth(&self, _: &str) -> Depth {
        Depth::Head
    }
}

/// The same, and it asks the model inside.
#[derive(burn::module::Module, Debug)]
struct Glass {
    inner: Model,
}

impl Network for Glass {
    fn linears(&self) -> Vec<(String, &vitrum::layers::Linear)> {
        Vec::new()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut vitrum::layers::Linear)> {
        Vec::new()
    }

    fn depth(&self, key: &str) -> Depth {
        key.strip_prefix("inner.").map_or(Depth::Head, |key| self.inner.depth(key))
    }
}

#[test]
fn layers_without_names_have_no_decay() {
    let config = |layer_decay| GroupConfig { weight_decay: 0.1, layer_decay, no_weight_decay: Vec::new() };
    let shell = Shell { inner: tiny() };
    let error = Groups::new(&shell, &config(Some(0.5))).unwrap_err().to_string();
    assert!(error.contains("layer_decay 0.5") && error.contains("names no layers"), "{error}");
    assert!(Groups::new(&shell, &config(None)).is_ok());
    let groups = Groups::new(&Glass { inner: tiny() }, &config(Some(0.5))).unwrap();
    let scale = |key: &str| groups.get(key).unwrap().lr_scale;
    assert_eq!(scale("inner.head.weight"), 1.0);
    assert_eq!(scale("inner.blocks.3.attn.qkv.weight"), 0.5);
    assert_eq!(scale("inner.blocks.0.attn.qkv.weight"), 0.5f64.powi(4));
    let _: RgbImage = DemoSet::new(8, 1, 0).image(0);
}
