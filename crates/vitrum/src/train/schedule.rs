//! The learning rate as a function of the update.
//!
//! The schedules are timm's, built as in `create_scheduler_v2` and applied as in `train.py`. The rate of an update
//! depends on the number of updates before it. In a schedule per epoch, it depends on the number of epochs before it.

use std::f64::consts::PI;

use serde_json::Value;

use super::optim::StateDict;
use super::recipe::{Recipe, SCHEDULES};
use super::score::Better;

/// An invalid schedule.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// No schedule has this name.
    #[error("sched: unknown schedule '{name}'\nhint: did you mean {}?", .nearest.join(", "))]
    UnknownName {
        /// The name.
        name: String,
        /// Similar names, nearest first.
        nearest: Vec<String>,
    },
    /// An invalid value.
    #[error("{field} {reason}")]
    Field {
        /// The recipe's key.
        field: &'static str,
        /// The rest of a sentence that begins with the key.
        reason: String,
    },
    /// A saved state belongs to another schedule.
    #[error("schedule: the saved state {reason}\nhint: it was written by a run with another `sched`")]
    State {
        /// The rest of a sentence that begins with "the saved state".
        reason: String,
    },
}

/// A learning rate for every update of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    kind: Kind,
    peak: f64,
    min_lr: f64,
    /// Length of the schedule, in epochs or updates.
    t_initial: f64,
    warmup_t: f64,
    warmup_lr: f64,
    warmup_prefix: bool,
    updates_per_epoch: u64,
    per_update: bool,
    num_epochs: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Cosine { k: f64 },
    Poly { power: f64, k: f64 },
    Step { decay_t: f64, rate: f64 },
    MultiStep { milestones: Vec<f64>, rate: f64 },
    Constant,
    Plateau(Plateau),
}

/// Factor, patience and history.
#[derive(Clone, Debug, PartialEq)]
struct Plateau {
    rate: f64,
    patience: usize,
    better: Better,
    lr: f64,
    best: Option<f64>,
    bad_epochs: usize,
}

impl Schedule {
    /// The same learning rate for every update, without an end.
    pub fn constant(lr: f64) -> Self {
        Self {
            kind: Kind::Constant,
            peak: lr,
            min_lr: lr,
            t_initial: 0.0,
            warmup_t: 0.0,
            warmup_lr: lr,
            warmup_prefix: false,
            updates_per_epoch: 1,
            per_update: true,
            num_epochs: usize::MAX,
        }
    }

    /// The schedule of a recipe; an epoch has `updates_per_epoch` updates.
    ///
    /// `linear` is `poly` of power 1. `none` stays at the peak, without warm-up; unlike timm's, it keeps layer-wise
    /// scales. `plateau` always steps per epoch, and its warm-up is rounded up to whole epochs.
    ///
    /// # Errors
    /// [`ScheduleError`]: an unknown name or an invalid number.
    pub fn new(recipe: &Recipe, updates_per_epoch: u64) -> Result<Self, ScheduleError> {
        let name = recipe.sched.as_str();
        check(recipe, updates_per_epoch)?;
        let per_update = recipe.sched_on_updates && name != "plateau";
        let unit = if per_update { updates_per_epoch as f64 } else { 1.0 };
        let mut warmup_t = match recipe.warmup_steps {
            Some(steps) => steps as f64 * unit / updates_per_epoch as f64,
            None => recipe.warmup_epochs * unit,
        };
        match name {
            "plateau" => warmup_t = warmup_t.ceil(),
            "none" => warmup_t = 0.0,
            _ => {}
        }
        let mut schedule = Self {
            kind: Kind::Constant,
            peak: recipe.peak_lr(),
            min_lr: recipe.min_lr,
            t_initial: recipe.epochs as f64 * unit,
            warmup_t,
            warmup_lr: recipe.warmup_lr,
            warmup_prefix: recipe.warmup_prefix && name != "plateau",
            updates_per_epoch,
            per_update,
            num_epochs: 0,
        };
        schedule.kind = schedule.kind_of(recipe, unit);
        schedule.num_epochs = schedule.total_epochs(recipe, unit);
        Ok(schedule)
    }

    fn kind_of(&self, recipe: &Recipe, unit: f64) -> Kind {
        let (rate, k) = (recipe.decay_rate, recipe.lr_k_decay);
        match recipe.sched.as_str() {
            "cosine" => Kind::Cosine { k },
            "poly" => Kind::Poly { power: rate, k },
            "linear" => Kind::Poly { power: 1.0, k: 1.0 },
            "step" => Kind::Step { decay_t: recipe.decay_epochs * unit, rate },
            "multistep" => {
                let milestones = recipe.decay_milestones.iter().map(|epoch| epoch * unit).collect();
                Kind::MultiStep { milestones, rate }
            }
            "plateau" => Kind::Plateau(Plateau {
                rate,
                patience: recipe.patience_epochs,
                better: better(recipe),
                lr: if self.warmup_t > 0.0 { self.warmup_lr } else { self.peak },
                best: None,
                bad_epochs: 0,
            }),
            _ => Kind::Constant,
        }
    }

    /// As in timm, only schedules with an end have a cool-down.
    fn total_epochs(&self, recipe: &Recipe, unit: f64) -> usize {
        let prefix = if recipe.warmup_prefix && recipe.sched != "none" { self.warmup_t } else { 0.0 };
        let cooldown = match self.kind {
            Kind::Cosine { .. } | Kind::Poly { .. } => recipe.cooldown_epochs as f64 * unit,
            _ => 0.0,
        };
        ((self.t_initial + prefix + cooldown) / unit).floor() as usize
    }

    /// Epochs to train: the schedule, a warm-up before it and the cool-down after it.
    pub fn num_epochs(&self) -> usize {
        self.num_epochs
    }

    /// The learning rate of an update, numbered from 0 over the whole run.
    pub fn lr(&self, update: u64) -> f64 {
        let t = if self.per_update { update } else { update / self.updates_per_epoch };
        self.at(t as f64)
    }

    fn at(&self, t: f64) -> f64 {
        if let Kind::Plateau(plateau) = &self.kind {
            return plateau.lr;
        }
        if t < self.warmup_t {
            return self.warmup_at(t);
        }
        if t == 0.0 {
            return self.peak; // the optimiser's initial rate
        }
        let t = if self.warmup_prefix { t - self.warmup_t } else { t };
        let ended = floor_div(t, self.t_initial) >= 1.0;
        match &self.kind {
            Kind::Cosine { .. } | Kind::Poly { .. } if ended => self.min_lr,
            Kind::Cosine { k } => {
                let done = t.powf(*k) / self.t_initial.powf(*k);
                self.min_lr + 0.5 * (self.peak - self.min_lr) * (1.0 + (PI * done).cos())
            }
            Kind::Poly { power, k } => {
                let done = t.powf(*k) / self.t_initial.powf(*k);
                self.min_lr + (self.peak - self.min_lr) * (1.0 - done).powf(*power)
            }
            Kind::Step { decay_t, rate } => self.peak * rate.powf(floor_div(t, *decay_t)),
            // timm's convention: a milestone m takes effect at m - 1.
            Kind::MultiStep { milestones, rate } => {
                let passed = milestones.iter().filter(|milestone| **milestone <= t + 1.0).count();
                self.peak * rate.powi(passed as i32)
            }
            Kind::Constant | Kind::Plateau(_) => self.peak,
        }
    }

    fn warmup_at(&self, t: f64) -> f64 {
        self.warmup_lr + t * ((self.peak - self.warmup_lr) / self.warmup_t)
    }

    /// Gives `plateau` the score of an epoch, numbered from 0; `None`: the epoch was not validated. Other schedules
    /// ignore the score.
    pub fn observe(&mut self, epoch: usize, metric: Option<f64>) {
        let next = (epoch + 1) as f64;
        let warming = (next <= self.warmup_t).then(|| self.warmup_at(next));
        let min_lr = self.min_lr;
        let Kind::Plateau(plateau) = &mut self.kind else { return };
        match (warming, metric) {
            (Some(lr), _) => plateau.lr = lr,
            (None, Some(metric)) => plateau.observe(metric, min_lr),
            (None, None) => {}
        }
    }

    /// The state besides the number of updates: the history of `plateau`; empty for other schedules.
    pub fn state_dict(&self) -> StateDict {
        let mut state = StateDict::default();
        if let Kind::Plateau(plateau) = &self.kind {
            // As text: the shortest decimal that reads back as the same bits.
            state.scalars.insert("plateau.lr".into(), format!("{:?}", plateau.lr).into());
            state.scalars.insert("plateau.best".into(), plateau.best.map(|best| format!("{best:?}")).into());
            state.scalars.insert("plateau.bad_epochs".into(), plateau.bad_epochs.into());
        }
        state
    }

    /// Restores a saved state.
    ///
    /// # Errors
    /// [`ScheduleError::State`]: the state belongs to another schedule. Nothing changes then.
    pub fn load_state_dict(&mut self, state: &StateDict) -> Result<(), ScheduleError> {
        let wrong = |what: &str| ScheduleError::State { reason: format!("has no usable '{what}'") };
        let Kind::Plateau(plateau) = &mut self.kind else { return Ok(()) };
        let number = |name: &str| -> Result<Option<f64>, ScheduleError> {
            match state.scalars.get(name) {
                Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => text.parse().map(Some).map_err(|_| wrong(name)),
                _ => Err(wrong(name)),
            }
        };
        let lr = number("plateau.lr")?.ok_or_else(|| wrong("plateau.lr"))?;
        let best = number("plateau.best")?;
        let bad_epochs = state.scalars.get("plateau.bad_epochs").and_then(Value::as_u64);
        let bad_epochs = bad_epochs.ok_or_else(|| wrong("plateau.bad_epochs"))? as usize;
        *plateau = Plateau { lr, best, bad_epochs, ..plateau.clone() };
        Ok(())
    }
}

impl Plateau {
    /// torch's `ReduceLROnPlateau` with a relative threshold of 1e-4.
    fn observe(&mut self, metric: f64, min_lr: f64) {
        let better = match self.best {
            None => !metric.is_nan(),
            Some(best) => match self.better {
                Better::Lower => metric < best * (1.0 - 1e-4),
                Better::Higher => metric > best * (1.0 + 1e-4),
            },
        };
        if better {
            self.best = Some(metric);
            self.bad_epochs = 0;
        } else {
            self.bad_epochs += 1;
        }
        if self.bad_epochs > self.patience {
            let lr = (self.lr * self.rate).max(min_lr);
            if self.lr - lr > 1e-8 {
                self.lr = lr;
            }
            self.bad_epochs = 0;
        }
    }
}

/// The direction that `plateau` follows: the direction of the task's score `eval_metric`. The direction of any other
/// score comes from its name, as in timm: lower is better if the name contains "loss".
pub(super) fn better(recipe: &Recipe) -> Better {
    let measures = recipe.task().map_or(&[][..], |task| task.measures());
    match recipe.metric(measures) {
        Ok(measure) => measure.better,
        Err(_) if recipe.eval_metric.contains("loss") => Better::Lower,
        Err(_) => Better::Higher,
    }
}

fn check(recipe: &Recipe, updates_per_epoch: u64) -> Result<(), ScheduleError> {
    let name = recipe.sched.as_str();
    if !SCHEDULES.contains(&name) {
        return Err(ScheduleError::UnknownName {
            name: name.into(),
            nearest: super::optim::nearest(name, &SCHEDULES),
        });
    }
    let refuse = |field, reason: String| Err(ScheduleError::Field { field, reason });
    if recipe.epochs == 0 {
        return refuse("epochs", "is 0, expected at least 1".into());
    }
    if updates_per_epoch == 0 {
        return refuse("batch_size", "is larger than the training data: an epoch has no update".into());
    }
    for (field, value) in [
        ("lr", recipe.peak_lr()),
        ("min_lr", recipe.min_lr),
        ("warmup_lr", recipe.warmup_lr),
        ("warmup_epochs", recipe.warmup_epochs),
        ("decay_rate", recipe.decay_rate),
    ] {
        if !(value.is_finite() && value >= 0.0) {
            return refuse(field, format!("is {value}, expected a number of at least 0"));
        }
    }
    if name == "step" && !(recipe.decay_epochs > 0.0 && recipe.decay_epochs.is_finite()) {
        return refuse("decay_epochs", format!("is {}, expected a positive number", recipe.decay_epochs));
    }
    if name == "plateau" && recipe.decay_rate >= 1.0 {
        return refuse("decay_rate", format!("is {}, expected less than 1 with plateau", recipe.decay_rate));
    }
    if !recipe.lr_k_decay.is_finite() || recipe.lr_k_decay <= 0.0 {
        return refuse("lr_k_decay", format!("is {}, expected a positive number", recipe.lr_k_decay));
    }
    Ok(())
}

/// `floor(t / d)` for `t ≥ 0`, exact even if the quotient would be rounded up.
fn floor_div(t: f64, d: f64) -> f64 {
    ((t - t % d) / d).round()
}
