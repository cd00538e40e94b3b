//! Several classes per image, and numbers: losses, judges, recipes, and whole runs.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use vitrum::Error;
use vitrum::checkpoint::card::ProblemType;
use vitrum::data::RgbImage;
use vitrum::data::dataset::{Target, TargetKind};
use vitrum::tasks::Classifier;
use vitrum::train::judge::{Answers, ClassifyJudge, MultilabelJudge, RegressJudge, judge_of};
use vitrum::train::log::{Finished, RunFolder};
use vitrum::train::objective::ClassLoss;
use vitrum::train::recipe::{Overlay, RecipeError, RegressionLoss};
use vitrum::train::resume::Resume;
use vitrum::train::score::{Better, Scores};
use vitrum::train::{Fit, Job, Judge, Outcome, Recipe, Task, TrainError, fit, judge};

use super::fit::{Heard, StopAfter, done, job};
use super::{golden_json, relative};

// ── losses ──

#[derive(Deserialize)]
struct Golden {
    shape: [usize; 2],
    numbers: Case,
    sets: Case,
}

#[derive(Deserialize)]
struct Case {
    outputs: Vec<f64>,
    targets: Vec<f64>,
    losses: BTreeMap<String, Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    value: f64,
    gradient: Vec<f64>,
}

type Loss<'a> = &'a dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<1>;

fn agrees(case: &Case, name: &str, shape: [usize; 2], loss: Loss<'_>) {
    let device = Device::flex().autodiff();
    for (dtype, bar) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
        let tensor = |values: &[f64]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), (&device, dtype))
        };
        let x = tensor(&case.outputs).require_grad();
        let value = loss(x.clone(), tensor(&case.targets));
        let gradient: Vec<f64> = x.grad(&value.backward()).unwrap().into_data().iter::<f64>().collect();
        let value: Vec<f64> = value.into_data().iter::<f64>().collect();
        let Recorded { value: torch, gradient: torch_gradient } = &case.losses[name];
        let off = [relative(&value, &[*torch]), relative(&gradient, torch_gradient)];
        assert!(off.iter().all(|off| *off <= bar), "{name} in {dtype:?}: {off:?}");
    }
}

#[test]
fn losses_and_gradients_are_torchs() {
    let Golden { shape, numbers, sets } = golden_json("targets.json");
    let kinds =
        [("mse", RegressionLoss::Mse), ("l1", RegressionLoss::L1), ("smooth_l1", RegressionLoss::SmoothL1)];
    assert_eq!(numbers.losses.len(), kinds.len());
    for (name, kind) in kinds {
        agrees(&numbers, name, shape, &|outputs, values| kind.loss(outputs, values));
        // The judge's loss is the same number.
        let terms = numbers.outputs.iter().zip(&numbers.targets).map(|(x, y)| kind.of_difference(x - y));
        let mean = terms.sum::<f64>() / numbers.outputs.len() as f64;
        assert!(relative(&[mean], &[numbers.losses[name].value]) < 1e-12, "{name}: {mean}");
        assert_eq!(toml::Value::try_from(kind).unwrap().as_str(), Some(name));
    }
    let binary = ClassLoss::from(&Recipe { task: "multilabel".into(), ..Recipe::default() });
    assert_eq!(binary, ClassLoss::Binary { threshold: None, sum_classes: false });
    agrees(&sets, "bce", shape, &|logits, targets| binary.loss(logits, targets));
}

// ── judges ──

#[test]
fn every_task_has_its_scores_and_their_directions() {
    let directions = |task: Task| -> Vec<(&str, bool)> {
        let judge = judge(task);
        assert_eq!(judge.measures(), task.measures());
        task.measures().iter().map(|measure| (measure.name, measure.better == Better::Higher)).collect()
    };
    assert_eq!(directions(Task::Multilabel), [("loss", false), ("map", true), ("f1", true), ("exact", true)]);
    assert_eq!(directions(Task::Regress), [("loss", false), ("mae", false), ("rmse", false), ("r2", true)]);
    assert_eq!(Task::ALL.map(|task| task.metric().name), ["top1", "map", "mae", "loss"]);
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("{at}.png")).collect()
}

#[test]
fn judges_have_scores_of_the_batch_and_of_all() {
    let add = |judge: &mut dyn Judge, logits: &[Vec<f64>], targets: &[Target]| {
        let names = names(targets.len());
        judge.add(&Answers::Targets { names: &names, logits, targets })
    };
    let mut judge = MultilabelJudge::new(2);
    assert!(judge.scores().is_empty() && judge.newest().is_empty());
    add(&mut judge, &[vec![1.0, 2.0], vec![-1.0, -1.0]], &[Target::classes([0, 1]), Target::classes([0])])
        .unwrap();
    assert_eq!((judge.newest().get("exact"), judge.scores().get("exact")), (Some(0.5), Some(0.5)));
    add(&mut judge, &[vec![-1.0, 3.0]], &[Target::classes([1])]).unwrap();
    assert_eq!((judge.newest().get("exact"), judge.scores().get("exact")), (Some(1.0), Some(2.0 / 3.0)));
    let error = add(&mut judge, &[vec![0.0, 0.0]], &[Target::classes([2])]).unwrap_err();
    assert!(matches!(error, TrainError::Label { label: 2, classes: 2, .. }), "{error}");
    judge.reset(2);
    assert!(judge.scores().is_empty());

    let mut judge = RegressJudge::new(RegressionLoss::L1, 1);
    let values =
        |values: &[f32]| -> Vec<Target> { values.iter().map(|v| Target::Values(vec![*v])).collect() };
    add(&mut judge, &[vec![1.0], vec![2.0]], &values(&[0.0, 4.0])).unwrap();
    add(&mut judge, &[vec![5.0]], &values(&[5.5])).unwrap();
    let expected = |loss: f64, mae: f64| (Some(loss), Some(mae));
    let pair = |scores: Scores| (scores.get("loss"), scores.get("mae"));
    assert_eq!(pair(judge.newest()), expected(0.5, 0.5));
    assert_eq!(pair(judge.scores()), expected(3.5 / 3.0, 3.5 / 3.0));
    let error = add(&mut judge, &[vec![1.0]], &[Target::Values(vec![1.0, 2.0])]).unwrap_err();
    assert_eq!(error.to_string(), "0.png: 2 values, but the model has 1 outputs");
    // The recipe's loss is the judge's.
    let recipe =
        Recipe { task: "regress".into(), regression_loss: RegressionLoss::SmoothL1, ..Recipe::default() };
    let mut judge = judge_of(&recipe).unwrap();
    judge.reset(1);
    add(&mut *judge, &[vec![0.5]], &values(&[0.0])).unwrap();
    assert_eq!(judge.scores().get("loss"), Some(0.125));
}

#[test]
fn targets_of_another_kind_are_refused() {
    let names = names(1);
    let logits = [vec![0.0, 0.0]];
    let refused = |judge: &mut dyn Judge, answers: Answers<'_>| match judge.add(&answers) {
        Err(TrainError::Target { found, expected, .. }) => (found, expected),
        other => panic!("{other:?}"),
    };
    let numbers = [Target::Values(vec![1.0])];
    let of_numbers = Answers::Targets { names: &names, logits: &logits, targets: &numbers };
    let of_classes = Answers::Classes { names: &names, logits: &logits, labels: &[1] };
    let (class, classes, values) = (TargetKind::Class, TargetKind::Classes, TargetKind::Values);
    assert_eq!(refused(&mut ClassifyJudge::new(2), of_numbers), (values, class));
    assert_eq!(refused(&mut MultilabelJudge::new(2), of_numbers), (values, classes));
    assert_eq!(refused(&mut MultilabelJudge::new(2), of_classes), (class, classes));
    assert_eq!(refused(&mut RegressJudge::new(RegressionLoss::Mse, 1), of_classes), (class, values));
}

// ── recipes ──

fn with(text: &str) -> Recipe {
    let overlay: Overlay = toml::from_str(text).unwrap();
    Recipe { data: "t.csv".into(), ..Recipe::default().with(&overlay, "test").unwrap() }
}

fn refusal(text: &str) -> Option<String> {
    with(text).check().err().map(|error| error.to_string())
}

#[test]
fn recipes_are_checked_for_their_task() {
    for text in [
        "task = 'multilabel'",
        "task = 'multilabel'\nbce_target_thresh = 0.2\nbce_sum = true\neval_metric = 'f1'",
        "task = 'regress'\nmixup = 0.2\ncutmix = 1.0\nregression_loss = 'smooth_l1'\neval_metric = 'r2'",
        "task = 'regress'\ntarget_columns = ['age', 'weight']",
    ] {
        assert_eq!(refusal(text), None, "{text}");
    }
    for (text, reason) in [
        ("target_columns = ['a']", "target_columns needs task multilabel or regress"),
        ("regression_loss = 'l1'", "regression_loss needs task regress"),
        ("task = 'regress'\nbce_loss = true", "bce_loss is a loss of classes, not of task regress"),
        ("task = 'regress'\nclass_map = 'm.txt'", "class_map names classes, not values"),
        (
            "task = 'multilabel'\nteacher = 't'\ndistillation_type = 'soft'",
            "distillation_type needs task classify",
        ),
        ("task = 'regress'\neval_metric = 'map'", "eval_metric 'map' is not known: want loss, mae, rmse, r2"),
        (
            "task = 'multilabel'\neval_metric = 'top5'",
            "eval_metric 'top5' is not known: want loss, map, f1, exact",
        ),
    ] {
        let found = refusal(text).expect(text);
        assert!(found.starts_with(reason), "{found}");
    }
    let overlay: Overlay = toml::from_str("regression_loss = 'huber'").unwrap();
    let error = Recipe::default().with(&overlay, "test").unwrap_err();
    assert!(matches!(&error, RecipeError::Value { key, .. } if key == "regression_loss"), "{error}");
    let doubts = with("task = 'regress'\nsmoothing = 0.2").doubts();
    assert_eq!(doubts, ["smoothing 0.2 is for classes: task regress has none"]);
    assert_eq!(with("task = 'regress'").doubts(), Vec::<String>::new());
}

#[test]
fn a_recipe_of_classes_has_no_new_keys() {
    let table = Recipe::default().to_table();
    assert!(!table.contains_key("target_columns") && !table.contains_key("regression_loss"));
    assert_eq!(with("").resolved().eval_metric, "top1");
    assert_eq!(with("task = 'multilabel'").resolved().eval_metric, "map");
    assert_eq!(with("task = 'regress'").resolved().eval_metric, "mae");
    assert_eq!(with("task = 'regress'\neval_metric = 'r2'").resolved().eval_metric, "r2");
}

// ── runs ──

const SIDE: u32 = 32;
const CLASSES: [&str; 3] = ["red", "green", "blue"];

/// Levels of the channels of toy image `index`.
fn levels(index: usize) -> [u8; 3] {
    let level = |shift: usize| ((index * 37 + 11 * shift + index * index * shift * 5) % 200 + 28) as u8;
    [level(0), level(3), level(7)]
}

/// An image whose channels have these levels, with a pattern on them.
fn picture(index: usize) -> RgbImage {
    let base = levels(index);
    let noise = |at: usize| ((at * 31 + index * 17) % 21) as u8;
    let data = (0..(SIDE * SIDE) as usize).flat_map(|at| base.map(|level| level + noise(at))).collect();
    RgbImage::new(SIDE, SIDE, data).unwrap()
}

/// Images and two tables: `sets.csv`, the channels above the middle; `numbers.csv`, the levels of two of them.
fn toy(folder: &Path, count: usize) {
    let (mut sets, mut numbers) = (String::from("file,labels\n"), String::from("file,split,warm,cold\n"));
    for index in 0..count {
        let (name, image) = (format!("{index:03}.png"), picture(index));
        image::save_buffer(folder.join(&name), image.data(), SIDE, SIDE, image::ExtendedColorType::Rgb8)
            .unwrap();
        let bright: Vec<&str> = (0..3).filter(|&c| levels(index)[c] > 127).map(|c| CLASSES[c]).collect();
        sets += &format!("{name},{}\n", bright.join("|"));
        let scaled = |c: usize| (f64::from(levels(index)[c]) - 128.0) / 64.0;
        let part = if index % 4 == 0 { "val" } else { "train" };
        numbers += &format!("{name},{part},{:.4},{:.4}\n", scaled(0), scaled(2));
    }
    std::fs::write(folder.join("sets.csv"), sets).unwrap();
    std::fs::write(folder.join("numbers.csv"), numbers).unwrap();
}

fn recipe(folder: &Path, table: &str, task: &str) -> Recipe {
    let overlay: Overlay = toml::from_str(
        r#"
        model = "test_vit"
        img_size = 32
        model_kwargs = { patch_size = 16, embed_dim = 16, depth = 1, num_heads = 2 }
        no_aug = true
        epochs = 40
        val_interval = 8
        warmup_epochs = 2
        batch_size = 16
        lr = 1e-2
        weight_decay = 0.0
        smoothing = 0.0
        val_fraction = 0.25
        workers = 1
        experiment = "run"
        "#,
    )
    .unwrap();
    let data = folder.join(table).display().to_string();
    let output = folder.join("runs");
    let recipe = Recipe::default().with(&overlay, "test").unwrap();
    let columns = if task == "regress" { vec!["warm".into(), "cold".into()] } else { Vec::new() };
    Recipe { data, output, task: task.into(), target_columns: columns, ..recipe }
}

fn trained(recipe: Recipe) -> (RunFolder, Box<Finished>, Heard) {
    let mut heard = Heard::default();
    match fit(&job(recipe), &mut heard).expect("a run") {
        Outcome { folder, finished, stopped: None, .. } => (folder, finished, heard),
        _ => panic!("the run stopped"),
    }
}

fn config(folder: &RunFolder) -> serde_json::Value {
    let text = std::fs::read_to_string(folder.model().join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_model_learns_several_classes_per_image() {
    let folder = tempfile::tempdir().unwrap();
    toy(folder.path(), 96);
    let (run, finished, heard) = trained(recipe(folder.path(), "sets.csv", "multilabel"));
    assert!(run.path().ends_with("multilabel/run"), "{}", run.path().display());
    assert!(
        heard.notes.iter().any(|note| note.contains("split off at random with seed 42")),
        "{:?}",
        heard.notes
    );
    assert_eq!(finished.eval_metric, "map");
    let best = finished.best.expect("scores");
    let score = |name: &str| best.get(name).expect("a score");
    assert!(score("map") > 0.97 && score("f1") > 0.85, "{best:?}");
    assert!(
        run.path().join("samples/train_batch0.jpg").exists()
            && run.path().join("samples/val_pred0.jpg").exists()
    );
    let summary = std::fs::read_to_string(run.path().join("summary.csv")).unwrap();
    assert!(summary.starts_with("epoch,train_loss,eval_loss,eval_map,eval_f1,eval_exact,lr\n"), "{summary}");
    let card = config(&run);
    assert_eq!(card["problem_type"], "multi_label_classification");
    // Classes in natural order.
    assert_eq!(card["label_names"], serde_json::json!(["blue", "green", "red"]));

    let classifier = Classifier::load(run.model()).expect("a model");
    assert_eq!(classifier.problem(), ProblemType::MultiLabel);
    // Images that were not trained on, clearly bright or dark.
    let clear = |index: &usize| levels(*index).iter().all(|level| level.abs_diff(127) > 40);
    let unseen: Vec<usize> = (200..1000).filter(clear).take(12).collect();
    let images: Vec<RgbImage> = unseen.iter().map(|index| picture(*index)).collect();
    let scores = classifier.scores(&images).unwrap();
    let right = unseen.iter().zip(&scores).flat_map(|(&index, row)| {
        let channel_of = [2, 1, 0];
        (0..3).map(move |class| (row[class] > 0.5) == (levels(index)[channel_of[class]] > 127))
    });
    let right = right.filter(|right| *right).count();
    assert!(right >= 34, "{right} of 36 decisions");
    // A sigmoid of each logit, independent of the others.
    let batch =
        vitrum::data::batch::of_images(&images, classifier.preprocess(), DType::F32, classifier.device());
    let logits = classifier.logits(batch.unwrap()).unwrap();
    for (row, logits) in scores.iter().zip(&logits) {
        for (score, logit) in row.iter().zip(logits) {
            assert!((score - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-12, "{score} {logit}");
        }
    }
    let first = &classifier.predict(&images, 3).unwrap()[0];
    assert!(first.windows(2).all(|pair| pair[0].prob >= pair[1].prob));
    for prediction in first {
        assert_eq!(prediction.prob, scores[0][prediction.index]);
        assert_eq!(prediction.label.as_deref(), Some(["blue", "green", "red"][prediction.index]));
    }
    let error = classifier.values(&images).unwrap_err();
    assert!(matches!(error, Error::OtherProblem { found: ProblemType::MultiLabel, .. }), "{error}");
}

#[test]
fn a_model_learns_numbers() {
    let folder = tempfile::tempdir().unwrap();
    toy(folder.path(), 96);
    let recipe = Recipe { epochs: 56, ..recipe(folder.path(), "numbers.csv", "regress") };
    let (run, finished, heard) = trained(recipe);
    assert!(run.path().ends_with("regress/run"), "{}", run.path().display());
    assert!(
        heard.notes.iter().any(|note| note.contains("validation on the part `val`")),
        "{:?}",
        heard.notes
    );
    assert_eq!((&finished.eval_metric[..], finished.updates), ("mae", 56 * 4));
    let log = std::fs::read_to_string(run.path().join("train.log")).unwrap();
    assert!(log.contains("train 72 (2 numbers)  validation 24"), "{log}");
    let best = finished.best.expect("scores");
    // The mean of the values alone has an r2 of 0.
    assert!(best.get("r2") > Some(0.85) && best.get("mae") < Some(0.3), "{best:?}");
    let card = config(&run);
    assert_eq!((&card["problem_type"], &card["num_classes"]), (&"regression".into(), &2.into()));
    assert_eq!(card["label_names"], serde_json::json!(["warm", "cold"]));

    let classifier = Classifier::load(run.model()).expect("a model");
    let images: Vec<RgbImage> = (300..308).map(picture).collect();
    let mut errors = Vec::new();
    for (values, index) in classifier.values(&images).unwrap().iter().zip(300..) {
        let truth = [0, 2].map(|channel: usize| (f64::from(levels(index)[channel]) - 128.0) / 64.0);
        errors.extend(values.iter().zip(truth).map(|(value, truth)| (value - truth).abs()));
    }
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    assert!(errors.len() == 16 && mean < 0.4, "{errors:?}");
    for error in [classifier.predict(&images, 1).unwrap_err(), classifier.scores(&images).unwrap_err()] {
        assert!(matches!(error, Error::OtherProblem { found: ProblemType::Regression, .. }), "{error}");
        assert!(error.to_string().contains("`regression`, not probabilities of classes"), "{error}");
    }
}

/// Mixing, erasing and an average; stopped in the midst of an epoch and in a validation.
#[test]
fn runs_of_both_tasks_go_on_as_if_they_had_never_stopped() {
    for (table, task, loss) in [
        ("sets.csv", "multilabel", RegressionLoss::Mse),
        ("numbers.csv", "regress", RegressionLoss::SmoothL1),
    ] {
        let folder = tempfile::tempdir().unwrap();
        toy(folder.path(), 48);
        let recipe = |output: &str| Recipe {
            output: folder.path().join(output),
            epochs: 3,
            val_interval: 1,
            no_aug: false,
            mixup: 0.2,
            cutmix: 1.0,
            smoothing: 0.1,
            reprob: 0.25,
            model_ema: true,
            model_ema_decay: 0.9,
            regression_loss: loss,
            // The schedule follows the task's own score.
            sched: if task == "regress" { "plateau".into() } else { "cosine".into() },
            patience_epochs: 0,
            ..recipe(folder.path(), table, task)
        };
        let unbroken = done(fit(&job(recipe("one")), &mut Heard::default()).expect("a run"));
        let mut resume = None;
        for updates in [1, 4] {
            let job = Job { resume: resume.clone(), ..job(recipe("two")) };
            let outcome = Fit::new(&job)
                .requests(&StopAfter(Cell::new(updates)))
                .run(&mut Heard::default())
                .expect("a run");
            assert!(outcome.stopped.is_some(), "{task}");
            resume = Some(Resume::Auto);
        }
        let last = Job { resume: resume.clone(), ..job(recipe("two")) };
        assert_eq!(done(fit(&last, &mut Heard::default()).expect("a run")), unbroken, "{task}");
        // Another value in the table is other data.
        let text = std::fs::read_to_string(folder.path().join(table)).unwrap();
        let other = match task {
            "regress" => format!("{}1\n", text.trim_end()),
            _ => text.replacen("red", "blue", 1),
        };
        std::fs::write(folder.path().join(table), other).unwrap();
        let stopped = Job { resume: None, ..job(recipe("three")) };
        Fit::new(&stopped).requests(&StopAfter(Cell::new(1))).run(&mut Heard::default()).expect("a run");
        std::fs::write(folder.path().join(table), text).unwrap();
        let changed = Job { resume, ..job(recipe("three")) };
        let error = fit(&changed, &mut Heard::default()).unwrap_err();
        assert!(matches!(error, TrainError::ChangedData { .. }), "{error}");
    }
}

#[test]
fn a_batch_of_numbers_is_learnt_by_heart() {
    let folder = tempfile::tempdir().unwrap();
    toy(folder.path(), 24);
    let recipe = Recipe {
        overfit_batches: 1,
        epochs: 60,
        batch_size: 8,
        ..recipe(folder.path(), "numbers.csv", "regress")
    };
    let (_, _, heard) = trained(recipe);
    let (first, last) = (heard.losses[0], heard.losses[heard.losses.len() - 1]);
    assert_eq!(heard.losses.len(), 60);
    assert!(last < 0.1 * first, "{first} to {last}");
}

#[test]
fn outputs_and_data_must_fit() {
    let folder = tempfile::tempdir().unwrap();
    toy(folder.path(), 24);
    let refused = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = recipe(folder.path(), "numbers.csv", "regress");
        change(&mut recipe);
        fit(&job(recipe), &mut Heard::default()).expect_err("refused")
    };
    let error = refused(&|recipe| recipe.num_classes = Some(3));
    assert!(matches!(error, TrainError::Outputs { found: 3, expected: 2, .. }), "{error}");
    let error = refused(&|recipe| recipe.num_classes = Some(1));
    assert!(matches!(error, TrainError::TooFewClasses { found: 1, expected: 2, .. }), "{error}");
    let error = refused(&|recipe| recipe.target_columns = vec!["hot".into()]);
    assert!(
        error.to_string().contains("no column `hot`; the columns besides the path are `warm`, `cold`"),
        "{error}"
    );
    let error = refused(&|recipe| recipe.data = "demo:24".into());
    assert!(error.to_string().contains("is one class, expected numbers"), "{error}");
    assert!(!folder.path().join("runs").exists(), "what makes no run leaves no folder");
}
