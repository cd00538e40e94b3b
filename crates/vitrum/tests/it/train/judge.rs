//! Scores by name: judges, directions, and a run that is driven by a score of its own.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use vitrum::train::judge::{Answers, ClassifyJudge, Judge};
use vitrum::train::log::{EpochSummary, EvalLine, Event, Finished, History, RunFolder};
use vitrum::train::recipe::Overlay;
use vitrum::train::resume::{Manifest, Resume};
use vitrum::train::score::{Better, Measure, Meters, Scores, Validation};
use vitrum::train::{Fit, Job, Outcome, Recipe, Requests, TrainError};

/// Gives one score per validation from a list.
struct Scripted {
    measures: [Measure; 2],
    values: Vec<f64>,
    validations: usize,
    images: usize,
}

impl Scripted {
    /// `regret` in this direction; `images` counts the judged images.
    fn new(better: Better, values: &[f64]) -> Box<Self> {
        let measures = [Measure { name: "regret", better }, Measure::higher("images")];
        Box::new(Self { measures, values: values.to_vec(), validations: 0, images: 0 })
    }
}

impl Judge for Scripted {
    fn measures(&self) -> &[Measure] {
        &self.measures
    }

    fn reset(&mut self, num_classes: usize) {
        assert!(num_classes > 1);
        self.validations += 1;
        self.images = 0;
    }

    fn add(&mut self, batch: &Answers<'_>) -> Result<(), TrainError> {
        let Answers::Classes { names, logits, labels } = batch else { panic!("one class per image") };
        assert_eq!((names.len(), logits.len()), (labels.len(), labels.len()));
        self.images += names.len();
        Ok(())
    }

    fn scores(&self) -> Scores {
        let value = self.values[(self.validations - 1).min(self.values.len() - 1)];
        Scores::from([("regret", value), ("images", self.images as f64)])
    }
}

fn recipe(output: &Path) -> Recipe {
    let overlay: Overlay = toml::from_str(
        r#"
        data = "demo:48"
        model = "test_vit"
        img_size = 32
        model_kwargs = { patch_size = 16, embed_dim = 16, depth = 1, num_heads = 2 }
        epochs = 6
        warmup_epochs = 1
        batch_size = 24
        validation_batch_size = 4
        lr = 1e-3
        workers = 1
        log_interval = 1
        patience = 2
        experiment = "run"
        eval_metric = "regret"
        "#,
    )
    .expect("a recipe");
    Recipe { output: output.to_path_buf(), ..Recipe::default().with(&overlay, "test").expect("known keys") }
}

fn job(recipe: Recipe, resume: Option<Resume>) -> Job {
    Job {
        recipe,
        resume,
        allow_changed_args: false,
        offline: true,
        command: vec!["test".into()],
        device: Device::flex(),
    }
}

/// The last value is that of the final validation of the best weights.
const VALUES: [f64; 5] = [3.0, 2.0, 2.5, 2.0, 9.0];

fn done(outcome: Result<Outcome, TrainError>) -> (RunFolder, Box<Finished>) {
    match outcome.expect("a run") {
        Outcome { folder, finished, stopped: None, .. } => (folder, finished),
        _ => panic!("the run stopped"),
    }
}

/// Best epoch, best value, epochs done, and the metric of the checkpoint `best`.
fn driven(better: Better) -> (Option<usize>, Option<f64>, usize, Option<f64>) {
    let output = tempfile::tempdir().expect("a folder");
    let judge = Scripted::new(better, &VALUES);
    let (folder, finished) =
        done(Fit::new(&job(recipe(output.path()), None)).judge(judge).run(&mut Vec::<Ignore>::new()));
    let best = std::fs::read_to_string(folder.checkpoints().join("best")).expect("a best checkpoint");
    let manifest = Manifest::read(&folder.checkpoints().join(best.trim())).expect("a manifest");
    (finished.best_epoch, finished.best_metric, finished.epochs, manifest.metric)
}

struct Ignore;

impl vitrum::train::log::Watch for Ignore {
    fn event(&mut self, _: &Event) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

#[test]
fn the_direction_of_a_score_chooses_the_best_and_the_early_end() {
    // Two epochs after the second one, which is not beaten by the same value.
    assert_eq!(driven(Better::Lower), (Some(1), Some(2.0), 4, Some(2.0)));
    assert_eq!(driven(Better::Higher), (Some(0), Some(3.0), 3, Some(3.0)));
}

#[test]
fn every_record_has_the_names_of_the_judge() {
    let output = tempfile::tempdir().expect("a folder");
    let judge = Scripted::new(Better::Lower, &VALUES);
    let (folder, finished) =
        done(Fit::new(&job(recipe(output.path()), None)).judge(judge).run(&mut Vec::<Ignore>::new()));
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let text = |name: &str| String::from_utf8(read(name)).expect("a text");
    let summary = text("summary.csv");
    assert!(summary.starts_with("epoch,train_loss,eval_regret,eval_images,lr\n0,"), "{summary}");
    let images = finished.best.as_ref().and_then(|best| best.get("images")).expect("a score");
    assert!(summary.lines().nth(2).expect("a row").contains(&format!(",2.0,{images:?},")), "{summary}");
    let metrics = text("metrics.jsonl");
    assert!(metrics.contains(&format!(r#""regret":3.0,"regret_avg":3.0,"images":{images:?},"#)), "{metrics}");
    assert!(
        metrics.contains(r#""eval_regret":2.5,"#) && metrics.contains(r#""ema_regret":null,"#),
        "{metrics}"
    );
    let log = text("train.log");
    assert!(log.contains("  regret:   2.500 (  2.500)  images:"), "{log}");
    assert!(log.contains("*** Best metric: 2.0 (epoch 1)"), "{log}");
    assert!(finished.result_json().contains(&format!(r#""regret":2.0,"images":{images:?},"param_count""#)));
    assert!(text("plots/scores.svg").contains("regret"));
    let events =
        std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let events: Vec<u8> = events
        .filter(|path| path.to_string_lossy().contains("events.out"))
        .flat_map(|path| std::fs::read(path).expect("a file"))
        .collect();
    assert!(events.windows(11).any(|tag| tag == b"eval/regret"));
    // What was written reads back.
    let history = History::read(&folder).expect("a history");
    let epoch = &history.epochs[1].validation;
    assert_eq!((epoch.names.join(" "), epoch.model_score("regret")), ("regret images".into(), Some(2.0)));
    let read: Finished = serde_json::from_slice(&read("results.json")).expect("a result");
    assert_eq!(read.best, finished.best);
}

/// Stops after some updates.
struct StopAfter(Cell<u64>);

impl Requests for StopAfter {
    fn stop(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

#[test]
fn a_resumed_run_knows_its_best_score() {
    let output = tempfile::tempdir().expect("a folder");
    let mut watch = Vec::<Ignore>::new();
    // Two validations of several batches in, the third epoch has begun.
    let batches = 48_u64.div_ceil(24) * 2 + 2 * 3;
    let judge = Scripted::new(Better::Lower, &VALUES);
    let stopped = Fit::new(&job(recipe(output.path()), None))
        .judge(judge)
        .requests(&StopAfter(Cell::new(batches)))
        .run(&mut watch);
    assert!(stopped.expect("a run").stopped.is_some());
    let mut judge = Scripted::new(Better::Lower, &VALUES);
    let epochs = std::fs::read_to_string(output.path().join("classify/run/summary.csv")).expect("a table");
    judge.validations = epochs.lines().count() - 1;
    assert!(judge.validations >= 2, "{epochs}");
    let resumed = Fit::new(&job(recipe(output.path()), Some(Resume::Newest))).judge(judge).run(&mut watch);
    let (_, finished) = done(resumed);
    assert_eq!((finished.best_epoch, finished.best_metric, finished.epochs), (Some(1), Some(2.0), 4));
}

#[test]
fn a_judge_and_a_recipe_that_disagree_make_no_run() {
    let output = tempfile::tempdir().expect("a folder");
    let refused = |recipe: Recipe, better: Better| {
        let judge = Scripted::new(better, &VALUES);
        let outcome = Fit::new(&job(recipe, None)).judge(judge).run(&mut Vec::<Ignore>::new());
        outcome.err().map(|error| error.to_string())
    };
    let other = Recipe { eval_metric: "top1".into(), ..recipe(output.path()) };
    let text = refused(other, Better::Lower).expect("no score of the judge");
    assert!(text.contains("eval_metric 'top1' is not known: want regret, images"), "{text}");
    // The schedule would lower the rate while the score improves.
    let plateau = Recipe { sched: "plateau".into(), ..recipe(output.path()) };
    let text = refused(plateau.clone(), Better::Lower).expect("refused");
    assert!(text.contains("sched plateau: expects that a larger regret is better"), "{text}");
    let folders = std::fs::read_dir(output.path()).expect("a folder").count();
    assert_eq!(folders, 0, "what makes no run leaves no folder");
    assert_eq!(refused(plateau, Better::Higher), None);
}

#[test]
fn nan_is_never_better() {
    for better in [Better::Higher, Better::Lower] {
        for (value, best) in [(f64::NAN, 1.0), (1.0, f64::NAN), (1.0, 1.0)] {
            assert!(!better.improves(value, best));
        }
    }
    assert!(Better::Higher.improves(2.0, 1.0) && Better::Lower.improves(1.0, 2.0));
    let score = Measure::lower("loss").of(&Scores::from([("loss", 0.5)])).expect("a score");
    assert!(score.beats(0.6) && !score.beats(0.4));
    assert_eq!(Measure::lower("loss").of(&Scores::default()), None);
}

/// The objects of `metrics.jsonl`, as they were before scores had names.
#[test]
fn lines_of_classification_keep_their_keys_and_their_order() {
    let scores = |loss, top1, top5| Scores::from([("loss", loss), ("top1", top1), ("top5", top5)]);
    let line = EvalLine {
        epoch: 1,
        update: 12,
        batches: 3,
        scores: Meters::new(&scores(0.5, 75.0, 100.0), &scores(f64::NAN, 80.0, 99.5)),
        ..EvalLine::default()
    };
    let text = |event: Event| serde_json::Value::Object(event.to_json()).to_string();
    let eval = r#"{"event":"eval","epoch":1,"update":12,"ema":false,"batch":0,"batches":3,"seconds":0.0,"seconds_avg":0.0,"loss":0.5,"loss_avg":null,"top1":75.0,"top1_avg":80.0,"top5":100.0,"top5_avg":99.5}"#;
    assert_eq!(text(Event::Eval(line)), eval);
    let names = ["loss", "top1", "top5"].map(String::from).to_vec();
    let validation = Validation { names: names.clone(), model: Some(scores(0.25, 50.0, 75.0)), ema: None };
    let summary = EpochSummary { epoch: 2, updates: 9, validation, lr: 0.5, ..EpochSummary::default() };
    let written = r#"{"event":"epoch","epoch":2,"updates":9,"train_loss":0.0,"eval_loss":0.25,"eval_top1":50.0,"eval_top5":75.0,"ema_loss":null,"ema_top1":null,"ema_top5":null,"lr":0.5,"seconds":0.0}"#;
    assert_eq!(text(Event::Epoch(summary.clone())), written);
    let read: EpochSummary = serde_json::from_str(written).expect("a summary");
    assert_eq!(read, summary);
    // An epoch without a validation still names its scores.
    let bare = EpochSummary { validation: Validation { names, model: None, ema: None }, ..summary };
    let read: EpochSummary = serde_json::from_str(&text(Event::Epoch(bare.clone()))).expect("a summary");
    assert_eq!(read, bare);
    let read: Scores = serde_json::from_str(r#"{"loss":null,"top1":1.0}"#).expect("scores");
    assert!(read.get("loss").is_some_and(f64::is_nan) && read.get("top1") == Some(1.0) && !read.is_finite());
    assert_eq!(
        serde_json::to_string(&scores(1.0, 2.0, 3.0)).expect("JSON"),
        r#"{"loss":1.0,"top1":2.0,"top5":3.0}"#
    );
}

#[test]
fn classification_has_scores_of_the_batch_and_of_all() {
    let mut judge = ClassifyJudge::new(2);
    assert!(judge.scores().is_empty() && judge.newest().is_empty());
    let names = |count: usize| vec!["x.png".to_string(); count];
    let (right, wrong) = (vec![0.0, 9.0], vec![9.0, 0.0]);
    let mut add = |logits: &[Vec<f64>], labels: &[usize]| {
        let names = names(labels.len());
        judge.add(&Answers::Classes { names: &names, logits, labels })?;
        assert_eq!(judge.answers().len(), labels.len());
        Ok::<_, TrainError>((judge.newest().get("top1"), judge.scores().get("top1")))
    };
    assert_eq!(add(&[right.clone(), wrong.clone()], &[1, 1]).expect("labels"), (Some(50.0), Some(50.0)));
    assert_eq!(add(&[right.clone(), right.clone()], &[1, 1]).expect("labels"), (Some(100.0), Some(75.0)));
    let error = add(&[right], &[2]).expect_err("no such class");
    assert!(matches!(&error, TrainError::Label { label: 2, classes: 2, .. }), "{error}");
    assert_eq!(error.to_string(), "x.png: class 2, but the model has 2 classes (0 to 1)");
    let names: Vec<&str> = judge.measures().iter().map(|measure| measure.name).collect();
    assert_eq!(judge.scores().names().collect::<Vec<_>>(), names);
    assert_eq!(judge.confusion().images(), 4);
    judge.reset(3);
    assert!(judge.scores().is_empty() && judge.newest().is_empty());
}
