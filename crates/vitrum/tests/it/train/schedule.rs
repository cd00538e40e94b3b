//! Every schedule, at every update, against timm's.

use serde::Deserialize;
use vitrum::train::recipe::Recipe;
use vitrum::train::schedule::{Schedule, ScheduleError};

use super::golden_json;

#[derive(Deserialize)]
struct Golden {
    epochs: usize,
    updates: u64,
    peak: f64,
    cases: Vec<Case>,
    plateaus: Vec<PlateauCase>,
}

#[derive(Deserialize)]
struct Case {
    args: Args,
    on_updates: bool,
    num_epochs: usize,
    values: Vec<f64>,
}

#[derive(Deserialize)]
struct PlateauCase {
    args: Args,
    mode: String,
    metrics: Vec<f64>,
    num_epochs: usize,
    values: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    sched: String,
    num_epochs: usize,
    warmup_lr: f64,
    #[serde(default)]
    warmup_epochs: f64,
    #[serde(default)]
    warmup_prefix: bool,
    #[serde(default)]
    cooldown_epochs: usize,
    #[serde(default)]
    min_lr: f64,
    k_decay: Option<f64>,
    decay_epochs: Option<f64>,
    decay_rate: Option<f64>,
    decay_milestones: Option<Vec<f64>>,
    patience_epochs: Option<usize>,
}

fn recipe(args: &Args, peak: f64, on_updates: bool) -> Recipe {
    let default = Recipe::default();
    Recipe {
        sched: args.sched.clone(),
        epochs: args.num_epochs,
        lr: Some(peak),
        warmup_lr: args.warmup_lr,
        warmup_epochs: args.warmup_epochs,
        warmup_prefix: args.warmup_prefix,
        cooldown_epochs: args.cooldown_epochs,
        min_lr: args.min_lr,
        lr_k_decay: args.k_decay.unwrap_or(default.lr_k_decay),
        decay_epochs: args.decay_epochs.unwrap_or(default.decay_epochs),
        decay_rate: args.decay_rate.unwrap_or(default.decay_rate),
        decay_milestones: args.decay_milestones.clone().unwrap_or(default.decay_milestones.clone()),
        patience_epochs: args.patience_epochs.unwrap_or(default.patience_epochs),
        sched_on_updates: on_updates,
        ..default
    }
}

#[test]
fn every_schedule_at_every_update() {
    let golden: Golden = golden_json("schedules.json");
    assert!(golden.cases.len() >= 30);
    for (i, case) in golden.cases.iter().enumerate() {
        assert!(case.args.num_epochs == golden.epochs);
        let recipe = recipe(&case.args, golden.peak, case.on_updates);
        let schedule = Schedule::new(&recipe, golden.updates).unwrap();
        let name = format!("case {i}, {}", recipe.sched);
        assert_eq!(schedule.num_epochs(), case.num_epochs, "{name}");
        let step = if case.on_updates { 1 } else { golden.updates };
        for (t, theirs) in case.values.iter().enumerate() {
            let ours = schedule.lr(t as u64 * step);
            assert!(
                (ours - theirs).abs() <= 1e-12 * theirs.abs().max(1e-3),
                "{name} at {t}: {ours} for {theirs}"
            );
            assert_eq!(schedule.lr(t as u64 * step + step - 1), ours, "{name}: constant within an epoch");
        }
    }
}

#[test]
fn plateaus_follow_the_metric_and_resume() {
    let golden: Golden = golden_json("schedules.json");
    for case in &golden.plateaus {
        let mut recipe = recipe(&case.args, golden.peak, true);
        recipe.eval_metric = if case.mode == "min" { "loss".into() } else { "top1".into() };
        let mut schedule = Schedule::new(&recipe, golden.updates).unwrap();
        assert_eq!(schedule.num_epochs(), case.num_epochs);
        for (epoch, (metric, theirs)) in case.metrics.iter().zip(&case.values).enumerate() {
            let ours = schedule.lr(epoch as u64 * golden.updates + 2);
            assert!((ours - theirs).abs() <= 1e-12 * theirs, "epoch {epoch}: {ours} for {theirs}");
            schedule.observe(epoch, Some(*metric));
            // As if the run had been stopped here.
            let state = schedule.state_dict();
            let text = serde_json::to_string(&state.scalars).unwrap();
            let mut resumed = Schedule::new(&recipe, golden.updates).unwrap();
            let scalars = serde_json::from_str(&text).unwrap();
            resumed.load_state_dict(&vitrum::train::optim::StateDict { scalars, ..state }).unwrap();
            assert_eq!(resumed, schedule);
        }
        let distinct: std::collections::BTreeSet<u64> = case.values.iter().map(|v| v.to_bits()).collect();
        assert!(distinct.len() > 2, "the rate must fall");
    }
}

#[test]
fn warm_up_can_be_counted_in_updates() {
    let base = Recipe { lr: Some(1.0), epochs: 10, warmup_lr: 0.0, ..Recipe::default() };
    for on_updates in [true, false] {
        let epochs = Recipe { warmup_epochs: 2.0, sched_on_updates: on_updates, ..base.clone() };
        let steps = Recipe { warmup_epochs: 7.0, warmup_steps: Some(14), ..epochs.clone() };
        assert_eq!(Schedule::new(&epochs, 7), Schedule::new(&steps, 7));
    }
}

#[test]
fn linear_is_a_line() {
    let recipe = Recipe {
        sched: "linear".into(),
        lr: Some(1.0),
        epochs: 2,
        warmup_epochs: 0.0,
        min_lr: 0.2,
        ..Recipe::default()
    };
    let schedule = Schedule::new(&recipe, 4).unwrap();
    for (t, expected) in [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2].into_iter().enumerate() {
        assert!((schedule.lr(t as u64) - expected).abs() < 1e-12);
    }
}

#[test]
fn recipes_are_checked() {
    let schedule = |change: fn(&mut Recipe)| {
        let mut recipe = Recipe::default();
        change(&mut recipe);
        Schedule::new(&recipe, 10)
    };
    let error = schedule(|r| r.sched = "cosin".into()).unwrap_err();
    assert!(error.to_string().contains("did you mean cosine"), "{error}");
    for change in [
        (|r| r.epochs = 0) as fn(&mut Recipe),
        |r| r.lr = Some(f64::NAN),
        |r| r.min_lr = -1.0,
        |r| r.warmup_epochs = f64::INFINITY,
        |r| (r.sched, r.decay_epochs) = ("step".into(), 0.0),
        |r| (r.sched, r.decay_rate) = ("plateau".into(), 1.0),
        |r| r.lr_k_decay = 0.0,
    ] {
        assert!(matches!(schedule(change), Err(ScheduleError::Field { .. })));
    }
    assert!(Schedule::new(&Recipe::default(), 0).is_err());
    let mut plateau = schedule(|r| r.sched = "plateau".into()).unwrap();
    let error = plateau.load_state_dict(&Default::default()).unwrap_err();
    assert!(matches!(error, ScheduleError::State { .. }), "{error}");
}
