//! Distillation against DeiT's loss, and against ten updates of PyTorch and timm (`fixtures/export_distill.py`).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::load::{LoadOptions, Loaded, load};
use vitrum::data::Preprocess;
use vitrum::models::{Config, Model, ModelConfig, Network};
use vitrum::train::distill::{
    DistillConfig, Distillation, DistillationType, Teacher, TeacherError, TeacherOptions,
};
use vitrum::train::objective::{Batch, ClassLoss, Targets};
use vitrum::train::recipe::{ImgSize, Recipe, RecipeError};
use vitrum::train::resume::Resume;
use vitrum::train::trainer::Trainer;
use vitrum::train::{Fit, Job, TrainError, fit};

use super::fit::{Heard, StopAfter, done, job, recipe};
use super::run::{INPUT, Numbers, examples_of, filled};
use super::{golden, golden_json, relative};
use crate::formula;

const SHAPE: [usize; 2] = [6, 5];
const KINDS: [(&str, DistillationType); 3] =
    [("none", DistillationType::None), ("soft", DistillationType::Soft), ("hard", DistillationType::Hard)];
const SETTINGS: [(&str, f64, f64); 5] = [
    ("0.5.1.0", 0.5, 1.0),
    ("0.1.3.0", 0.1, 3.0),
    ("0.0.1.0", 0.0, 1.0),
    ("1.0.2.0", 1.0, 2.0),
    ("0.9.0.7", 0.9, 0.7),
];

/// Value and gradients of both heads, then of one head, for every kind, share and temperature.
fn check_losses(dtype: DType, bar: f64) {
    let golden = golden("distill.safetensors");
    let device = Device::flex().autodiff();
    let tensor =
        |name: &str| Tensor::<2>::from_data(TensorData::new(golden[name].clone(), SHAPE), (&device, dtype));
    let numbers = |x: TensorData| x.iter::<f64>().collect::<Vec<f64>>();
    let mut compared = 0;
    for logits in ["usual", "extreme"] {
        let part = |name: &str| tensor(&format!("{logits}.{name}"));
        for targets in ["smooth", "mixed"] {
            for (kind_name, kind) in KINDS {
                for (setting, alpha, tau) in SETTINGS {
                    let name = format!("{logits}.{targets}.{kind_name}.{setting}");
                    let config = DistillConfig { kind, alpha, tau };
                    let (class, dist) = (part("class").require_grad(), part("dist").require_grad());
                    let wanted = || tensor(&format!("targets.{targets}"));
                    let loss_of = |class: &Tensor<2>, dist: &Tensor<2>| {
                        let base = ClassLoss::CrossEntropy;
                        config.loss(base, class.clone(), dist.clone(), part("teacher"), wanted())
                    };
                    let loss = loss_of(&class, &dist);
                    let all = loss.backward();
                    let gradient = |x: &Tensor<2>| {
                        x.grad(&all).map_or(vec![0.0; 30], |gradient| numbers(gradient.into_data()))
                    };
                    let one = part("class").require_grad();
                    let one_loss = loss_of(&one, &one);
                    let one_gradient =
                        numbers(one.grad(&one_loss.backward()).expect("a gradient").into_data());
                    for (what, ours) in [
                        ("loss", numbers(loss.into_data())),
                        ("grad_class", gradient(&class)),
                        ("grad_dist", gradient(&dist)),
                        ("one.loss", numbers(one_loss.into_data())),
                        ("one.grad", one_gradient),
                    ] {
                        let off = relative(&ours, &golden[&format!("{name}.{what}")]);
                        assert!(off <= bar, "{name}.{what}: {off:.2e}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert_eq!(compared, 2 * 2 * 3 * 5 * 5);
}

#[test]
fn every_loss_in_f64() {
    check_losses(DType::F64, 1e-12);
}

#[test]
fn every_loss_in_f32() {
    check_losses(DType::F32, 1e-6);
}

#[derive(Deserialize)]
struct Golden {
    recipe: Numbers,
    student: BTreeMap<String, serde_json::Value>,
    teacher: BTreeMap<String, serde_json::Value>,
    student_norm: [Vec<f32>; 2],
    teacher_norm: [Vec<f32>; 2],
    updates: Vec<Vec<usize>>,
    runs: Vec<Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    name: String,
    student: String,
    distillation: Setting,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
}

#[derive(Deserialize)]
struct Setting {
    kind: DistillationType,
    alpha: f64,
    tau: f64,
}

/// The named model with the fixture's fields and the formula's weights.
fn model(name: &str, fields: &BTreeMap<String, serde_json::Value>) -> Model {
    let fields = fields.iter().map(|(key, value)| (key.as_str(), value.clone()));
    let config = ModelConfig::named(name).expect("a name").with_all(fields).expect("fields");
    filled(config.skeleton(&Device::flex()).expect("a model"))
}

fn preprocess([mean, std]: &[Vec<f32>; 2]) -> Preprocess {
    Preprocess {
        input_size: [3, INPUT, INPUT],
        mean: mean.clone(),
        std: std.clone(),
        ..Preprocess::default()
    }
}

fn loaded(model: Model, preprocess: Option<Preprocess>, labels: Option<Vec<String>>) -> Loaded {
    let name = "teacher".into();
    Loaded { model, name, preprocess, labels, card: None, report: None, notes: Vec::new() }
}

fn options(student: Preprocess, classes: &[&str]) -> TeacherOptions {
    TeacherOptions {
        model: "teacher".into(),
        checkpoint: None,
        student,
        classes: classes.iter().map(ToString::to_string).collect(),
        num_classes: classes.len(),
        cache: false,
        offline: true,
    }
}

const CLASSES: [&str; 4] = ["a", "b", "c", "d"];

#[test]
fn ten_updates_as_pytorch() {
    let golden: Golden = golden_json("distill_run.json");
    let theirs = super::golden("distill_run.safetensors");
    let device = Device::flex();
    for grad_checkpointing in [false, true] {
        for run in &golden.runs {
            let Setting { kind, alpha, tau } = run.distillation;
            let teacher = loaded(
                model("vit_tiny_patch16_224", &golden.teacher),
                Some(preprocess(&golden.teacher_norm)),
                None,
            );
            let (teacher, _) =
                Teacher::new(teacher, &options(preprocess(&golden.student_norm), &CLASSES), &device)
                    .expect("a teacher");
            let config = DistillConfig { kind, alpha, tau };
            let objective = Box::new(Distillation { base: ClassLoss::CrossEntropy, config, teacher });
            let student = model(&run.student, &golden.student);
            let recipe = Recipe {
                grad_checkpointing,
                model_ema: false,
                ..super::run::recipe(&golden.recipe, golden.updates.len())
            };
            let mut trainer =
                Trainer::with_objective(student, objective, &recipe, 1, &device).expect("a trainer");
            for (update, images) in golden.updates.iter().enumerate() {
                let cut: Vec<[usize; 7]> =
                    images.iter().map(|&index| [index, 4, 4, INPUT, INPUT, 0, 0]).collect();
                let updated =
                    trainer.update(vec![examples_of(&cut, 40, golden.recipe.smoothing)]).expect("an update");
                let off = |ours: f64, theirs: f64| (ours - theirs).abs() / theirs.abs();
                let loss = off(updated.loss, run.losses[update]);
                assert!(
                    loss < 1e-5,
                    "{}, update {update}: loss {} is {loss:.1e} off",
                    run.name,
                    updated.loss
                );
                let norm = off(updated.grad_norm.expect("clipping needs the norm"), run.grad_norms[update]);
                assert!(norm < 1e-3, "{}, update {update}: norm is {norm:.1e} off", run.name);
            }
            check_weights(&run.name, &trainer.model(), &theirs);
        }
    }
}

/// Sums of every tensor, and the small tensors, after the last update.
fn check_weights(run: &str, model: &Model, theirs: &BTreeMap<String, Vec<f64>>) {
    let ours = collect(model).tensors;
    let sums = &theirs[&format!("{run}.sums")];
    assert_eq!(sums.len(), 2 * ours.len());
    for ((key, tensor), sums) in ours.iter().zip(sums.chunks_exact(2)) {
        let values: Vec<f64> = tensor.to_f32().into_iter().map(f64::from).collect();
        let (sum, all) = values.iter().fold((0.0, 0.0), |(sum, all), v| (sum + v, all + v.abs()));
        // The bias of a key moves all scores of a row alike: its gradient is rounding alone, which AdamW makes as large
        // as any other.
        let bar = if key.ends_with("attn.qkv.bias") { 2e-2 } else { 1e-4 };
        let (off_sum, off_all) = ((sum - sums[0]).abs() / sums[1], (all - sums[1]).abs() / sums[1]);
        assert!(off_sum < bar && off_all < bar, "{run}: {key}: {off_sum:.1e} {off_all:.1e}");
        if let Some(theirs) = theirs.get(&format!("{run}.{key}")).filter(|_| !key.ends_with("attn.qkv.bias"))
        {
            let off = relative(&values, theirs);
            assert!(off < 1e-4, "{run}: {key}: {off:.1e}");
        }
    }
}

/// Images `[2, 3, 32, 32]`, and targets.
fn batch(indexes: &[u32]) -> Batch {
    let device = Device::flex().autodiff();
    let shape = [indexes.len(), 3, INPUT, INPUT];
    let values: Vec<f32> =
        indexes.iter().flat_map(|index| formula::weight(&format!("image {index}"), &shape[1..])).collect();
    let targets = TensorData::new(vec![0.25_f32; 4 * indexes.len()], [indexes.len(), 4]);
    Batch {
        inputs: Tensor::<4>::from_data(TensorData::new(values, shape), &device).into(),
        targets: Targets::Soft(Tensor::from_data(targets, &device)),
        indexes: indexes.to_vec(),
    }
}

fn teacher_model() -> Model {
    let golden: Golden = golden_json("distill_run.json");
    model("vit_tiny_patch16_224", &golden.teacher)
}

fn half() -> Preprocess {
    preprocess(&[vec![0.5; 3], vec![0.5; 3]])
}

fn labels(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(ToString::to_string).collect())
}

#[test]
fn classes_are_matched_by_name() {
    let device = Device::flex();
    let answers = |names: Option<Vec<String>>| {
        let made =
            Teacher::new(loaded(teacher_model(), Some(half()), names), &options(half(), &CLASSES), &device);
        made.map(|(teacher, notes)| {
            (teacher.answers(&batch(&[0, 1])).into_data().try_to_vec::<f32>().expect("f32"), notes)
        })
    };
    let (plain, notes) = answers(labels(&CLASSES)).expect("a teacher");
    assert!(notes.is_empty(), "{notes:?}");
    let (turned, _) = answers(labels(&["c", "a", "d", "b"])).expect("a teacher");
    for (plain, turned) in plain.chunks_exact(4).zip(turned.chunks_exact(4)) {
        assert_eq!([plain[1], plain[3], plain[0], plain[2]], turned);
    }
    for unnamed in [None, labels(&["w", "x", "y", "z"])] {
        let (same, notes) = answers(unnamed).expect("a teacher");
        assert_eq!(same, plain);
        assert!(notes[0].contains("in their order"), "{notes:?}");
    }
    let error = answers(labels(&["a", "b", "x", "d"])).expect_err("refused");
    assert!(matches!(&error, TeacherError::UnknownClass { class, .. } if class == "c"), "{error}");
}

#[test]
fn another_number_of_classes_is_refused() {
    let device = Device::flex();
    let options = TeacherOptions { num_classes: 5, ..options(half(), &CLASSES) };
    let error =
        Teacher::new(loaded(teacher_model(), Some(half()), None), &options, &device).err().expect("refused");
    assert!(matches!(error, TeacherError::Classes { found: 4, expected: 5, .. }), "{error}");
}

/// Images normalised for the student are those that the teacher would have been given.
#[test]
fn images_are_normalised_for_the_teacher() {
    let device = Device::flex();
    let own = preprocess(&[vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]]);
    let teacher = |own: &Preprocess, student: &Preprocess| {
        let made = Teacher::new(
            loaded(teacher_model(), Some(own.clone()), labels(&CLASSES)),
            &options(student.clone(), &CLASSES),
            &device,
        );
        made.expect("a teacher")
    };
    let (told, notes) = teacher(&own, &half());
    assert!(notes.iter().any(|note| note.contains("mean and deviation")), "{notes:?}");
    let answer = |teacher: &Teacher, batch: &Batch| {
        teacher.answers(batch).into_data().iter::<f64>().collect::<Vec<_>>()
    };
    let of_student = batch(&[0, 1]);
    let mut of_teacher = batch(&[0, 1]);
    let channel = |values: [f32; 3]| {
        Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &device.clone().autodiff())
    };
    let pixels = of_student.inputs.clone().images() * 0.5 + 0.5;
    let images = (pixels - channel([0.485, 0.456, 0.406])) / channel([0.229, 0.224, 0.225]);
    of_teacher.inputs = images.into();
    let (plain, notes) = teacher(&own, &own);
    assert!(notes.is_empty(), "{notes:?}");
    assert!(relative(&answer(&told, &of_student), &answer(&plain, &of_teacher)) < 1e-5);
}

/// The answer to a batch that is not known whole is asked for; one that is known is not.
#[test]
fn answers_are_kept_by_image() {
    let device = Device::flex();
    let made = |cache| {
        let options = TeacherOptions { cache, ..options(half(), &CLASSES) };
        Teacher::new(loaded(teacher_model(), Some(half()), None), &options, &device).expect("a teacher").0
    };
    let (keeps, asks) = (made(true), made(false));
    let numbers = |x: Tensor<2>| x.into_data().try_to_vec::<f32>().expect("f32");
    for indexes in [&[0, 1][..], &[1, 2], &[2, 0, 1], &[0, 1]] {
        assert_eq!(
            numbers(keeps.answers(&batch(indexes))),
            numbers(asks.answers(&batch(indexes))),
            "{indexes:?}"
        );
    }
    // Other pixels under a known number: the kept answer.
    let other = Batch { indexes: vec![1, 2], ..batch(&[7, 8]) };
    assert_eq!(numbers(keeps.answers(&other)), numbers(asks.answers(&batch(&[1, 2]))));
    // Without numbers nothing is kept.
    let unnumbered = Batch { indexes: Vec::new(), ..batch(&[7, 8]) };
    assert_eq!(numbers(keeps.answers(&unnumbered)), numbers(asks.answers(&batch(&[7, 8]))));
}

/// A model that has seen the demo pictures.
fn teacher_folder(folder: &Path) -> PathBuf {
    let recipe = Recipe { epochs: 1, ..recipe(&folder.join("teachers")) };
    let folder = fit(&job(recipe), &mut Heard::default()).expect("a run").folder;
    folder.model()
}

fn distilled(output: &Path, teacher: &Path, kind: DistillationType) -> Recipe {
    Recipe {
        model: "deit_tiny_distilled_patch16_224".into(),
        teacher: Some(teacher.display().to_string()),
        distillation_type: kind,
        distillation_tau: 2.0,
        ..recipe(output)
    }
}

fn weights(recipe: &Recipe) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = Recipe { output: folder.path().into(), ..recipe.clone() };
    let files = done(fit(&job(recipe), &mut Heard::default()).expect("a run"));
    files["model/model.safetensors"].clone()
}

#[test]
fn a_run_with_a_teacher_goes_on_as_if_it_never_had() {
    let folder = tempfile::tempdir().expect("a folder");
    let teacher = teacher_folder(folder.path());
    for (name, kind, cache_teacher) in
        [("hard", DistillationType::Hard, false), ("soft", DistillationType::Soft, true)]
    {
        let mut recipe = Recipe { cache_teacher, ..distilled(&folder.path().join(name), &teacher, kind) };
        if cache_teacher {
            recipe = Recipe { no_aug: true, aa: None, reprob: 0.0, mixup: 0.0, cutmix: 0.0, ..recipe };
        }
        let mut resume = None;
        for updates in [3, 4] {
            let job = Job { resume: resume.clone(), ..job(recipe.clone()) };
            let outcome = Fit::new(&job)
                .requests(&StopAfter(Cell::new(updates)))
                .run(&mut Heard::default())
                .expect("a run");
            assert!(outcome.stopped.is_some(), "{name}");
            resume = Some(Resume::Auto);
        }
        let files = done(fit(&Job { resume, ..job(recipe.clone()) }, &mut Heard::default()).expect("a run"));
        assert_eq!(files["model/model.safetensors"], weights(&recipe), "{name}");
    }
}

#[test]
fn kept_answers_change_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let teacher = teacher_folder(folder.path());
    let plain = distilled(folder.path(), &teacher, DistillationType::Soft);
    let plain = Recipe { no_aug: true, aa: None, reprob: 0.0, mixup: 0.0, cutmix: 0.0, ..plain };
    let asked = weights(&plain);
    assert_eq!(weights(&Recipe { cache_teacher: true, ..plain.clone() }), asked);
    let other = Recipe { distillation_tau: 3.0, ..plain };
    assert_ne!(weights(&other), asked, "the temperature is part of the run");
}

/// One head and two: a teacher without a say changes nothing, one with a say does.
#[test]
fn without_a_say_a_teacher_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let teacher = teacher_folder(folder.path());
    for model in ["deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224"] {
        let with = |kind, alpha| {
            let distilled = distilled(folder.path(), &teacher, kind);
            weights(&Recipe { model: model.into(), distillation_alpha: alpha, ..distilled })
        };
        let plain = weights(&Recipe { model: model.into(), ..recipe(folder.path()) });
        assert_eq!(with(DistillationType::None, 0.5), plain, "{model}: none");
        assert_eq!(with(DistillationType::Soft, 0.0), plain, "{model}: alpha 0");
        assert_ne!(with(DistillationType::Hard, 0.5), plain, "{model}: hard");
    }
}

/// A teacher for images of 32 pixels, asked about images of 48; the student in f32 and in bf16.
#[test]
fn a_teacher_takes_the_students_image_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let teacher = teacher_folder(folder.path());
    let losses = |amp_dtype: &str| {
        let recipe = Recipe {
            img_size: Some(ImgSize([48, 48])),
            amp_dtype: amp_dtype.into(),
            grad_checkpointing: amp_dtype != "none",
            max_steps: Some(3),
            ..distilled(&folder.path().join(amp_dtype), &teacher, DistillationType::Soft)
        };
        let mut heard = Heard::default();
        done(fit(&job(recipe), &mut heard).expect("a run"));
        let told = heard.notes.iter().any(|note| note.contains("pos_embed resized for images of 48x48"));
        assert!(told, "{:?}", heard.notes);
        heard.losses
    };
    let (wide, narrow) = (losses("none"), losses("bf16"));
    assert!(wide.len() == 3 && wide != narrow);
    for (wide, narrow) in wide.iter().zip(&narrow) {
        assert!((wide - narrow).abs() < 0.02 * wide, "{wide} {narrow}");
    }
}

#[test]
fn a_student_of_other_classes_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let teacher = teacher_folder(folder.path());
    let output = folder.path().join("students");
    let recipe = distilled(&output, &teacher, DistillationType::Hard);
    let recipe = Recipe { num_classes: Some(99), ..recipe };
    let error = fit(&job(recipe), &mut Heard::default()).expect_err("refused");
    assert!(matches!(error, TrainError::Teacher(TeacherError::Classes { expected: 99, .. })), "{error}");
    assert!(!output.exists(), "what makes no run leaves no folder");
}

#[test]
fn recipes_that_cannot_distil_are_refused() {
    let good = Recipe {
        data: "demo:96".into(),
        teacher: Some("vit_tiny_patch16_224".into()),
        distillation_type: DistillationType::Hard,
        ..Recipe::default()
    };
    good.check().expect("a run");
    let kept = Recipe { cache_teacher: true, no_aug: true, ..good.clone() };
    kept.check().expect("a run");
    for (bad, key) in [
        (Recipe { teacher: None, ..good.clone() }, "distillation_type"),
        (Recipe { distillation_alpha: 1.5, ..good.clone() }, "distillation_alpha"),
        (Recipe { distillation_tau: 0.0, ..good.clone() }, "distillation_tau"),
        (Recipe { no_aug: false, ..kept.clone() }, "cache_teacher"),
        (Recipe { mixup: 0.2, ..kept.clone() }, "cache_teacher"),
        (
            Recipe { teacher: None, distillation_type: DistillationType::None, ..kept.clone() },
            "cache_teacher",
        ),
        (
            Recipe {
                teacher: None,
                teacher_checkpoint: Some("x".into()),
                distillation_type: DistillationType::None,
                ..good.clone()
            },
            "teacher_checkpoint",
        ),
    ] {
        let error = bad.check().expect_err(key);
        assert!(matches!(&error, RecipeError::Field { key: found, .. } if *found == key), "{key}: {error}");
    }
    let idle = Recipe { distillation_type: DistillationType::None, ..good };
    assert!(idle.doubts()[0].contains("teacher"), "{:?}", idle.doubts());
}

/// The three ways to go on from a distilled model.
#[test]
fn a_distilled_model_is_fine_tuned_in_three_ways() {
    let folder = tempfile::tempdir().expect("a folder");
    let teacher = teacher_folder(folder.path());
    let first =
        Recipe { epochs: 1, ..distilled(&folder.path().join("first"), &teacher, DistillationType::Hard) };
    let run = fit(&job(first.clone()), &mut Heard::default()).expect("a run").folder;
    let begin = run.model().display().to_string();
    let tuned = |name: &str, change: &dyn Fn(&mut Recipe)| {
        let mut recipe = Recipe {
            model: begin.clone(),
            model_kwargs: BTreeMap::new(),
            teacher: None,
            distillation_type: DistillationType::None,
            output: folder.path().join(name),
            ..first.clone()
        };
        change(&mut recipe);
        let mut heard = Heard::default();
        let folder = fit(&job(recipe), &mut heard).expect("a run").folder;
        let model =
            load(&LoadOptions::new(folder.model().display().to_string()), &Device::flex()).expect("a model");
        (model.model, heard.notes)
    };
    let head_only = |recipe: &mut Recipe| {
        recipe.model_kwargs.insert("head_dist".into(), false.into());
    };
    let (class_head, notes) = tuned("class", &head_only);
    assert_eq!(class_head.heads(), ["head"]);
    assert!(notes.iter().any(|note| note.contains("head_dist")), "{notes:?}");
    let (both, notes) = tuned("both", &|_| ());
    assert_eq!(both.heads(), ["head", "head_dist"]);
    assert!(!notes.iter().any(|note| note.contains("head_dist")), "{notes:?}");
    let with_teacher = |recipe: &mut Recipe| {
        recipe.teacher = Some(teacher.display().to_string());
        recipe.distillation_type = DistillationType::Soft;
    };
    let (taught, notes) = tuned("taught", &with_teacher);
    assert_eq!(taught.heads(), ["head", "head_dist"]);
    assert!(notes.iter().any(|note| note.contains("teacher")), "{notes:?}");
    let of = |model: &Model| collect(model).tensors["head_dist.weight"].to_f32();
    assert_ne!(of(&both), of(&taught));
}
