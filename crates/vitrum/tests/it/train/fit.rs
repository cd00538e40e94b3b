//! Whole runs: what stops goes on as if it never had, and what is told of a run is there.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use vitrum::tasks::Classifier;
use vitrum::train::log::{Event, Watch};
use vitrum::train::recipe::{Every, ImgSize, Overlay};
use vitrum::train::resume::Resume;
use vitrum::train::{Fit, Job, Outcome, Recipe, Requests, TrainError, fit};

/// A few updates with everything random switched on.
pub(super) fn recipe(output: &Path) -> Recipe {
    let overlay: Overlay = toml::from_str(
        r#"
        data = "demo:96"
        model = "test_vit"
        img_size = 32
        model_kwargs = { patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2, drop_path_rate = 0.1, drop_rate = 0.1 }
        epochs = 2
        warmup_epochs = 0.5
        batch_size = 16
        lr = 2e-3
        clip_grad = 1.0
        aa = "rand-m9-mstd0.5-inc1"
        reprob = 0.25
        mixup = 0.2
        cutmix = 1.0
        model_ema = true
        model_ema_decay = 0.9
        workers = 2
        log_interval = 1
        experiment = "run"
        "#,
    )
    .expect("a recipe");
    Recipe { output: output.to_path_buf(), ..Recipe::default().with(&overlay, "test").expect("known keys") }
}

pub(super) fn job(recipe: Recipe) -> Job {
    Job {
        recipe,
        resume: None,
        allow_changed_args: false,
        offline: true,
        command: vec!["test".into()],
        device: Device::flex(),
    }
}

/// Keeps the names of events and the losses of updates.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) losses: Vec<f64>,
    epochs: usize,
    pub(super) notes: Vec<String>,
}

impl Watch for Heard {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Step(step) => self.losses.push(step.loss),
            Event::Epoch(_) => self.epochs += 1,
            Event::Note(note) => self.notes.push(note.clone()),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Asks to stop when it was asked so many times.
pub(super) struct StopAfter(pub(super) Cell<u64>);

impl Requests for StopAfter {
    fn stop(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

/// Checksums of what a run leaves, whose bytes nobody wants to see in a failure.
pub(super) fn done(outcome: Outcome) -> BTreeMap<String, String> {
    let Outcome { folder, finished, stopped: None, .. } = outcome else { panic!("the run stopped") };
    assert!(!finished.interrupted);
    ["model/model.safetensors", "model/config.json", "summary.csv"]
        .iter()
        .map(|name| ((*name).to_string(), sum(&std::fs::read(folder.path().join(name)).expect(name))))
        .collect()
}

fn sum(bytes: &[u8]) -> String {
    vitrum::train::resume::FileSum::of(bytes).sha256
}

/// The files of a whole run.
fn whole(change: impl Fn(&mut Recipe)) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut recipe = recipe(folder.path());
    change(&mut recipe);
    done(fit(&job(recipe), &mut Heard::default()).expect("a run"))
}

#[test]
fn a_run_leaves_all_it_should() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut heard = Heard::default();
    let outcome = fit(&job(recipe(folder.path())), &mut heard).expect("a run");
    let Outcome { folder: run, finished, stopped: None, .. } = outcome else { panic!("the run stopped") };
    // Twice 96 pictures in batches of 16.
    assert_eq!((heard.losses.len(), heard.epochs, finished.updates), (12, 2, 12));
    assert!(heard.losses.iter().all(|loss| loss.is_finite()));
    for name in [
        "args.toml",
        "env.json",
        "summary.csv",
        "metrics.jsonl",
        "train.log",
        "results.json",
        "results.png",
        "plots/loss.svg",
        "plots/loss.png",
        "plots/accuracy.png",
        "plots/lr.png",
        "plots/confusion_matrix.png",
        "samples/train_batch0.jpg",
        "samples/val_pred0.jpg",
        "checkpoints/last",
        "checkpoints/best",
        "model/config.json",
        "model/model.safetensors",
    ] {
        let length = std::fs::metadata(run.path().join(name)).map(|meta| meta.len()).unwrap_or(0);
        assert!(length > 0, "{name} is missing or empty");
    }
    // What was resolved can be fed back.
    let overlay = vitrum::train::recipe::read(&run.args()).expect("a recipe");
    assert_eq!(Recipe::default().with(&overlay, "args.toml").expect("known keys"), recipe(folder.path()));
    // The model answers with the data's class names.
    let classifier = Classifier::load(run.model()).expect("a model");
    let image = vitrum::data::DemoSet::new(32, 1, 9).image(0);
    let answers = classifier.predict(&[image], 3).expect("an answer");
    assert!(vitrum::data::demo::CLASSES.contains(&answers[0][0].label.as_deref().expect("a name")));
    // A second run gets a folder of its own.
    let again = fit(&job(recipe(folder.path())), &mut Heard::default()).expect("a run");
    let second = again.folder;
    assert!(second.path().ends_with("classify/run-2"));
}

#[test]
fn the_number_of_workers_changes_nothing() {
    let one = whole(|recipe| recipe.workers = 1);
    let files = |files: &BTreeMap<String, String>| files["model/model.safetensors"].clone();
    for workers in [2, 4] {
        assert_eq!(files(&whole(|recipe| recipe.workers = workers)), files(&one), "{workers} workers");
    }
    assert_ne!(files(&whole(|recipe| recipe.seed = 43)), files(&one), "another seed is another run");
}

/// Stopped again and again, at every kind of place, and gone on from: the same bytes in the end.
#[test]
fn a_run_that_stops_goes_on_as_if_it_never_had() {
    let unbroken = whole(|_| ());
    for pieces in [&[0, 0, 1][..], &[3], &[4, 0], &[5, 1], &[8, 2], &[2, 2, 2, 2]] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut resume = None;
        for &updates in pieces {
            let job = Job { resume: resume.clone(), ..job(recipe(folder.path())) };
            let outcome = Fit::new(&job)
                .requests(&StopAfter(Cell::new(updates)))
                .run(&mut Heard::default())
                .expect("a run");
            assert!(outcome.stopped.is_some(), "{pieces:?}");
            resume = Some(Resume::Auto);
        }
        let job = Job { resume, ..job(recipe(folder.path())) };
        let files = done(fit(&job, &mut Heard::default()).expect("a run"));
        assert_eq!(files["model/model.safetensors"], unbroken["model/model.safetensors"], "{pieces:?}");
        assert_eq!(files["summary.csv"], unbroken["summary.csv"], "{pieces:?}");
    }
}

/// The same with gradients of two batches, plateau, and checkpoints at every second update, from a path.
#[test]
fn every_kind_of_state_goes_on() {
    let change = |recipe: &mut Recipe| {
        recipe.grad_accum_steps = 2;
        recipe.batch_size = 8;
        recipe.sched = "plateau".into();
        recipe.opt = "lamb".into();
        recipe.patience_epochs = 0;
        recipe.grad_checkpointing = true;
        recipe.checkpoint_every = Every::Steps(2);
        recipe.epochs = 3;
    };
    let unbroken = whole(change);
    let folder = tempfile::tempdir().expect("a folder");
    let mut recipe = recipe(folder.path());
    change(&mut recipe);
    let stopped = Fit::new(&job(recipe.clone()))
        .requests(&StopAfter(Cell::new(9)))
        .run(&mut Heard::default())
        .expect("a run");
    let checkpoint = stopped.stopped.expect("the run stopped");
    let job = Job { resume: Some(Resume::Path(checkpoint)), ..job(recipe) };
    let files = done(fit(&job, &mut Heard::default()).expect("a run"));
    assert_eq!(files["model/model.safetensors"], unbroken["model/model.safetensors"]);
}

#[test]
fn going_on_with_other_arguments_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = recipe(folder.path());
    Fit::new(&job(first.clone()))
        .requests(&StopAfter(Cell::new(2)))
        .run(&mut Heard::default())
        .expect("a run");
    let resumed = |recipe: Recipe| Job { resume: Some(Resume::Newest), ..job(recipe) };
    let other = Recipe { lr: Some(1e-3), ..first.clone() };
    let error = fit(&resumed(other.clone()), &mut Heard::default()).expect_err("refused");
    let text = error.to_string();
    assert!(text.contains("lr   0.002 -> 0.001"), "{text}");
    let allowed = Job { allow_changed_args: true, ..resumed(other) };
    Fit::new(&allowed).requests(&StopAfter(Cell::new(0))).run(&mut Heard::default()).expect("allowed");
    // Fewer pictures under the same name.
    let fewer = Recipe { data: "demo:90".into(), ..first };
    let error = fit(&resumed(fewer), &mut Heard::default()).expect_err("refused");
    assert!(error.to_string().contains("demo:90"), "{error}");
}

#[test]
fn a_run_that_diverges_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = Recipe {
        lr: Some(1e30),
        warmup_epochs: 0.0,
        clip_grad: None,
        opt: "momentum".into(),
        ..recipe(folder.path())
    };
    let mut heard = Heard::default();
    let error = fit(&job(recipe), &mut heard).expect_err("no number");
    let TrainError::Diverged { evidence, ref place, .. } = error else { panic!("{error}") };
    assert!(place.starts_with("parameter ") || place.starts_with("output of "), "{place}");
    let text = std::fs::read_to_string(evidence.join("evidence.json")).expect("evidence");
    let evidence: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(evidence["images"].as_array().map(Vec::len), Some(16));
    assert_eq!(heard.notes.iter().filter(|note| note.contains("changed nothing")).count(), 3);
}

/// Numbers that are none are in the saved state, and do not keep it from being read.
#[test]
fn a_run_with_bad_updates_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    // The first update ruins the weights. One update an epoch, so the validation is no number either.
    for (overfit_batches, stop_after) in [(0, 1), (1, 2)] {
        let recipe = Recipe {
            lr: Some(1e30),
            warmup_epochs: 0.0,
            clip_grad: None,
            opt: "momentum".into(),
            mixup: 0.0,
            cutmix: 0.0,
            epochs: 9,
            overfit_batches,
            experiment: Some(format!("bad-{overfit_batches}")),
            ..recipe(folder.path())
        };
        let stopped = Fit::new(&job(recipe.clone()))
            .requests(&StopAfter(Cell::new(stop_after)))
            .run(&mut Heard::default());
        assert!(stopped.expect("a run").stopped.is_some());
        let mut heard = Heard::default();
        let resumed = Job { resume: Some(Resume::Newest), ..job(recipe) };
        let error = fit(&resumed, &mut heard).expect_err("no number again");
        assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
        assert!(heard.losses.len() < 3, "the bad updates of the first part count");
    }
}

#[test]
fn a_run_does_not_begin_among_the_checkpoints_of_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = recipe(folder.path());
    Fit::new(&job(first.clone()))
        .requests(&StopAfter(Cell::new(2)))
        .run(&mut Heard::default())
        .expect("a run");
    let again = Recipe { exist_ok: true, ..first };
    let error = fit(&job(again), &mut Heard::default()).expect_err("refused");
    let text = error.to_string();
    assert!(text.contains("step 3"), "{text}");
}

#[test]
fn what_makes_no_run_leaves_no_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = recipe(folder.path());
    for bad in [
        Recipe { freeze: vec!["nothing.*".into()], ..good.clone() },
        Recipe { aa: Some("rand-m9-q4".into()), ..good.clone() },
        Recipe { num_classes: Some(2), ..good },
    ] {
        fit(&job(bad), &mut Heard::default()).expect_err("refused");
        assert!(std::fs::read_dir(folder.path()).expect("a folder").next().is_none());
    }
}

/// Passes in bf16, weights and updates in f32: near the losses of f32, and as repeatable.
#[test]
fn narrow_passes_learn_alike() {
    let losses = |amp_dtype: &str, grad_checkpointing| {
        let folder = tempfile::tempdir().expect("a folder");
        let recipe = Recipe {
            amp_dtype: amp_dtype.into(),
            grad_checkpointing,
            model_ema: false,
            ..recipe(folder.path())
        };
        let mut heard = Heard::default();
        let outcome = fit(&job(recipe), &mut heard).expect("a run");
        (heard.losses, done(outcome)["model/model.safetensors"].clone())
    };
    let (wide, wide_model) = losses("none", false);
    for grad_checkpointing in [false, true] {
        let (narrow, model) = losses("bf16", grad_checkpointing);
        assert_ne!(model, wide_model);
        for (wide, narrow) in wide.iter().zip(&narrow).take(6) {
            assert!((wide - narrow).abs() < 0.02 * wide, "{wide} {narrow}");
        }
        assert_eq!(losses("bf16", grad_checkpointing), (narrow, model));
    }
}

/// Which parameters of a finished run differ from those it began with.
fn moved(recipe: &Recipe) -> Vec<String> {
    let tensors = |path: &Path| {
        let bytes = std::fs::read(path.join("model.safetensors")).expect("weights");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        file.tensors().into_iter().map(|(k, v)| (k, v.data().to_vec())).collect::<BTreeMap<_, _>>()
    };
    let before = tensors(Path::new(recipe.pretrained.as_deref().expect("weights to begin from")));
    let outcome = fit(&job(recipe.clone()), &mut Heard::default()).expect("a run");
    let folder = outcome.folder;
    let after = tensors(&folder.model());
    assert!(before.keys().eq(after.keys()), "low-rank updates are merged");
    after.into_iter().filter(|(key, value)| before[key] != *value).map(|(key, _)| key).collect()
}

#[test]
fn what_is_frozen_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    fit(&job(recipe(folder.path())), &mut Heard::default()).expect("a run");
    let pretrained = folder.path().join("classify/run/model").display().to_string();
    let base = Recipe {
        pretrained: Some(pretrained),
        epochs: 1,
        experiment: Some("tuned".into()),
        model_kwargs: BTreeMap::new(),
        model_ema: false,
        ..recipe(folder.path())
    };
    let probe = moved(&Recipe { linear_probe: true, ..base.clone() });
    assert_eq!(probe, ["head.bias", "head.weight"]);
    let frozen = moved(&Recipe { freeze: vec!["patch_embed.*".into(), "blocks.0.*".into()], ..base.clone() });
    assert!(frozen.iter().all(|key| !key.starts_with("patch_embed") && !key.starts_with("blocks.0")));
    assert!(frozen.contains(&"blocks.1.attn.qkv.weight".into()) && frozen.contains(&"cls_token".into()));
    let lora = moved(&Recipe { lora_rank: 2, ..base.clone() });
    let expected =
        |key: &String| key.starts_with("head.") || (key.starts_with("blocks.") && key.ends_with(".weight"));
    assert!(lora.len() == 10 && lora.iter().all(expected), "{lora:?}");
    let other = Recipe { model: "test_vit2".into(), ..base.clone() };
    let error = fit(&job(other), &mut Heard::default()).expect_err("another model's weights");
    assert!(error.to_string().contains("has the weights of test_vit, not of test_vit2"), "{error}");
    let nothing = Recipe { freeze: vec!["nothing.*".into()], ..base.clone() };
    let error = fit(&job(nothing), &mut Heard::default()).expect_err("no such parameter");
    assert!(error.to_string().contains("matches no parameter"), "{error}");
    let all = Recipe { freeze: vec!["*".into()], ..base };
    let error = fit(&job(all), &mut Heard::default()).expect_err("nothing to train");
    assert!(error.to_string().contains("nothing is left"), "{error}");
}

/// Another size: positions are resized; another number of classes: a new head.
#[test]
fn fine_tuning_at_another_size() {
    let folder = tempfile::tempdir().expect("a folder");
    fit(&job(recipe(folder.path())), &mut Heard::default()).expect("a run");
    let recipe = Recipe {
        pretrained: Some(folder.path().join("classify/run/model").display().to_string()),
        img_size: Some(ImgSize([48, 40])),
        num_classes: Some(12),
        model_kwargs: BTreeMap::new(),
        epochs: 1,
        ..recipe(folder.path())
    };
    let mut heard = Heard::default();
    fit(&job(recipe), &mut heard).expect("a run");
    let told = heard.notes.join("\n");
    assert!(told.contains("resized     pos_embed") && told.contains("new head    head.weight"), "{told}");
}

/// A model that timm cannot express is written, too, and read again.
#[test]
fn a_model_of_our_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut own = recipe(folder.path());
    own.model_kwargs.insert("representation_size".into(), toml::Value::Integer(24));
    own.model_kwargs.insert("pos_embed".into(), toml::Value::String("learn_2d".into()));
    own.epochs = 1;
    let mut heard = Heard::default();
    let outcome = fit(&job(own), &mut heard).expect("a run");
    let run = outcome.folder;
    assert!(heard.notes.iter().any(|note| note.contains("timm itself cannot load")));
    let classifier = Classifier::load(run.model()).expect("a model");
    let image = vitrum::data::DemoSet::new(32, 1, 9).image(0);
    assert_eq!(classifier.predict(&[image], 3).expect("an answer")[0].len(), 3);
}
