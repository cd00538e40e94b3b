//! Checks of a recipe: values out of range, unknown names, pairs of values that contradict each other.

use super::{DistillationType, MaskKind, Recipe, RecipeError, did_you_mean, nearest};
use crate::data::Interpolation;
use crate::models::catalogue;
use crate::train::optim::OptimName;
use crate::train::score::Measure;
use crate::train::task::Task;

/// Schedules: timm's names, `linear`, and `constant` and `none`, which stay at the peak.
pub const SCHEDULES: [&str; 8] =
    ["constant", "cosine", "linear", "multistep", "none", "plateau", "poly", "step"];
/// Devices. `cuda:1` is the second NVIDIA GPU.
pub const DEVICES: [&str; 6] = ["auto", "cpu", "cuda", "vulkan", "webgpu", "cubecpu"];
/// The scores of classification; one of them chooses the best checkpoint.
pub const METRICS: [&str; 3] = {
    let [loss, top1, top5] = Task::CLASSIFY;
    [loss.name, top1.name, top5.name]
};

/// First words of augmentation policies.
const POLICIES: [&str; 7] = ["3a", "augmix", "original", "originalr", "rand", "v0", "v0r"];

type Checked = Result<(), RecipeError>;

impl Recipe {
    /// Checks ranges, names and pairs of values. It does not check that data, weights and device exist.
    ///
    /// # Errors
    /// [`RecipeError::Field`] for the first invalid key, [`RecipeError::UnknownTask`].
    pub fn check(&self) -> Checked {
        self.check_for(self.task()?.measures())
    }

    /// Checks as [`check`](Self::check), but `eval_metric` is one of these scores instead of the task's own.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_for(&self, measures: &[Measure]) -> Checked {
        self.check_task()?;
        self.check_names()?;
        self.metric(measures)?;
        self.check_counts()?;
        self.check_shares()?;
        self.check_rates()?;
        self.check_data()?;
        self.check_optimiser()?;
        self.check_schedule()?;
        self.check_augmentation()?;
        self.check_distillation()?;
        self.check_pairs()?;
        if self.is_named() { self.model_config(None).map(|_| ()) } else { self.global_pool().map(|_| ()) }
    }

    /// What the model is trained for.
    ///
    /// # Errors
    /// [`RecipeError::UnknownTask`].
    pub fn task(&self) -> Result<Task, RecipeError> {
        Task::of_name(&self.task).ok_or_else(|| {
            let known = Task::ALL.map(|task| task.name().to_string()).to_vec();
            RecipeError::UnknownTask { name: self.task.clone(), nearest: nearest(&self.task, &known), known }
        })
    }

    /// The score of these that chooses the best checkpoint: `eval_metric`, or what [`resolved`](Self::resolved) makes of
    /// it.
    ///
    /// # Errors
    /// [`RecipeError::Field`] if it is none of these scores.
    pub fn metric(&self, measures: &[Measure]) -> Result<Measure, RecipeError> {
        let named = |name: &str| measures.iter().find(|measure| measure.name == name).copied();
        named(&self.eval_metric)
            .or_else(|| named(&self.clone().resolved().eval_metric))
            .ok_or_else(|| self.unknown_metric(measures))
    }

    /// The error of an `eval_metric` that is not one of these scores.
    pub(in crate::train) fn unknown_metric(&self, measures: &[Measure]) -> RecipeError {
        let names: Vec<&str> = measures.iter().map(|measure| measure.name).collect();
        unknown("eval_metric", &self.eval_metric, &names)
    }

    /// Checks the keys that only some tasks have.
    fn check_task(&self) -> Checked {
        let task = self.task()?;
        let distils = self.distillation_type != DistillationType::None;
        let pretrains = task == Task::Pretrain;
        for (wrong, key, reason) in [
            (
                task == Task::Classify && !self.target_columns.is_empty(),
                "target_columns",
                "needs task multilabel or regress",
            ),
            (
                task != Task::Regress && !self.regression_loss.is_default(),
                "regression_loss",
                "needs task regress",
            ),
            (task == Task::Regress && self.bce_loss, "bce_loss", "is a loss of classes, not of task regress"),
            (task == Task::Regress && self.class_map.is_some(), "class_map", "names classes, not values"),
            (task != Task::Classify && distils, "distillation_type", "needs task classify"),
            (!pretrains && self.method.is_some(), "method", "needs task pretrain"),
            (!pretrains && self.mask_ratio.is_some(), "mask_ratio", "needs task pretrain"),
            (!pretrains && self.mask_kind != MaskKind::Random, "mask_kind", "needs task pretrain"),
            (!pretrains && self.norm_pix_loss.is_some(), "norm_pix_loss", "needs task pretrain"),
            (!pretrains && self.decoder_embed_dim.is_some(), "decoder_embed_dim", "needs task pretrain"),
            (!pretrains && self.decoder_depth.is_some(), "decoder_depth", "needs task pretrain"),
            (!pretrains && self.decoder_num_heads.is_some(), "decoder_num_heads", "needs task pretrain"),
            (pretrains && self.class_map.is_some(), "class_map", "names classes, and task pretrain has none"),
            (
                pretrains && self.num_classes.is_some(),
                "num_classes",
                "is not possible: task pretrain has none",
            ),
            (pretrains && self.mixup > 0.0, "mixup", "mixes labels, and task pretrain has none"),
            (
                pretrains && (self.cutmix > 0.0 || self.cutmix_minmax.is_some()),
                "cutmix",
                "mixes labels, and task pretrain has none",
            ),
            (pretrains && self.bce_loss, "bce_loss", "is a loss of classes, and task pretrain has none"),
            (pretrains && self.linear_probe, "linear_probe", "trains the head, and task pretrain has none"),
        ] {
            if wrong {
                return Err(field(key, reason));
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Checked {
        let filters = Interpolation::ALL.map(Interpolation::name);
        let optimizers = OptimName::ALL.map(OptimName::as_str);
        let with_random = [&["random"], &filters[..]].concat();
        for (key, value, known) in [
            ("opt", Some(&self.opt), &optimizers[..]),
            ("lr_base_scale", self.lr_base_scale.as_ref(), &["linear", "sqrt"]),
            ("clip_mode", Some(&self.clip_mode), &["agc", "norm", "value"]),
            ("sched", Some(&self.sched), &SCHEDULES),
            ("crop_pad_mode", Some(&self.crop_pad_mode), &["constant", "reflect"]),
            ("remode", Some(&self.remode), &["const", "pixel", "rand"]),
            ("mixup_mode", Some(&self.mixup_mode), &["batch", "elem", "pair"]),
            ("train_interpolation", Some(&self.train_interpolation), &with_random),
            ("interpolation", self.interpolation.as_ref(), &filters),
            ("crop_mode", self.crop_mode.as_ref(), &["border", "center", "squash"]),
            ("amp_dtype", Some(&self.amp_dtype), &["bf16", "none"]),
            ("device", Some(&self.device).filter(|device| !is_gpu(device)), &DEVICES),
        ] {
            if let Some(value) = value.filter(|value| !known.contains(&value.as_str())) {
                return Err(unknown(key, value, known));
            }
        }
        if let Some(policy) = &self.aa {
            let begin = policy.split('-').next().unwrap_or_default();
            if !POLICIES.contains(&begin) {
                return Err(unknown("aa", policy, &POLICIES));
            }
        }
        let is_place = self.model.contains(['/', '\\', ':']) || std::path::Path::new(&self.model).exists();
        if is_place && !self.is_named() {
            return Ok(());
        }
        catalogue::entry(&self.model).map(|_| ()).map_err(|error| field("model", format!("names an {error}")))
    }

    fn check_counts(&self) -> Checked {
        for (key, value) in [
            ("num_classes", self.num_classes),
            ("in_chans", self.in_chans),
            ("shuffle_buffer", Some(self.shuffle_buffer)),
            ("lr_base_size", Some(self.lr_base_size)),
            ("epochs", Some(self.epochs)),
            ("recount", Some(self.recount)),
            ("batch_size", Some(self.batch_size)),
            ("validation_batch_size", self.validation_batch_size),
            ("grad_accum_steps", Some(self.grad_accum_steps)),
            ("log_interval", Some(self.log_interval)),
            ("val_interval", Some(self.val_interval)),
            ("checkpoint_hist", Some(self.checkpoint_hist)),
            ("max_steps", self.max_steps.map(|steps| usize::try_from(steps).unwrap_or(usize::MAX))),
        ] {
            if value == Some(0) {
                return Err(field(key, "must be at least 1"));
            }
        }
        if self.batch_size.checked_mul(self.grad_accum_steps).is_none() {
            return Err(field("grad_accum_steps", "times batch_size is more than can be counted"));
        }
        // TOML has no larger integers.
        if i64::try_from(self.seed).is_err() {
            return Err(field("seed", format!("must be at most {}, found {}", i64::MAX, self.seed)));
        }
        Ok(())
    }

    /// Checks probabilities and shares that may be 1.
    fn check_shares(&self) -> Checked {
        for (key, value) in [
            ("hflip", self.hflip),
            ("vflip", self.vflip),
            ("color_jitter_prob", self.color_jitter_prob.unwrap_or(1.0)),
            ("grayscale_prob", self.grayscale_prob),
            ("gaussian_blur_prob", self.gaussian_blur_prob),
            ("reprob", self.reprob),
            ("mixup_prob", self.mixup_prob),
            ("mixup_switch_prob", self.mixup_switch_prob),
            ("bce_target_thresh", self.bce_target_thresh.unwrap_or(0.0)),
            ("distillation_alpha", self.distillation_alpha),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(field(key, format!("must be between 0 and 1, found {value}")));
            }
        }
        for (key, value) in [
            ("fraction", Some(self.fraction)),
            ("layer_decay", self.layer_decay),
            ("crop_pct", self.crop_pct),
        ] {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && *value <= 1.0)) {
                return Err(field(key, format!("must be above 0 and at most 1, found {value}")));
            }
        }
        Ok(())
    }

    /// Checks shares that must be below 1.
    fn check_rates(&self) -> Checked {
        for (key, value) in [
            ("val_fraction", self.val_fraction),
            ("drop", self.drop),
            ("proj_drop", self.proj_drop),
            ("attn_drop", self.attn_drop),
            ("pos_drop", self.pos_drop),
            ("patch_drop", self.patch_drop),
            ("drop_path", self.drop_path),
            ("momentum", self.momentum),
            ("smoothing", self.smoothing),
            ("model_ema_decay", self.model_ema_decay),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(field(key, format!("must be from 0 up to but not 1, found {value}")));
            }
        }
        Ok(())
    }

    fn check_data(&self) -> Checked {
        if self.data.is_empty() {
            return Err(field("data", "is missing: name a folder, a table, an archive, or demo"));
        }
        not_negative("max_bad", self.max_bad)?;
        if let Some(size) = self.img_size.filter(|size| size.0.contains(&0)) {
            return Err(field("img_size", format!("must be at least 1 pixel, found {:?}", size.0)));
        }
        let channels = self.in_chans.unwrap_or(3);
        for (key, values) in [("mean", &self.mean), ("std", &self.std)] {
            let Some(values) = values else { continue };
            if values.len() != 1 && values.len() != channels {
                return Err(field(key, format!("must have {channels} values, found {}", values.len())));
            }
            values.iter().try_for_each(|value| match key {
                "std" => positive(key, *value),
                _ => finite(key, *value),
            })?;
        }
        Ok(())
    }

    fn check_optimiser(&self) -> Checked {
        self.lr.map_or(Ok(()), |lr| positive("lr", lr))?;
        positive("lr_base", self.lr_base)?;
        not_negative("weight_decay", self.weight_decay)?;
        self.opt_eps.map_or(Ok(()), |eps| positive("opt_eps", eps))?;
        self.clip_grad.map_or(Ok(()), |clip| positive("clip_grad", clip))?;
        if let Some(betas) = &self.opt_betas {
            if !(1..=3).contains(&betas.len()) {
                return Err(field("opt_betas", format!("must have 1 to 3 values, found {}", betas.len())));
            }
            if let Some(beta) = betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
                return Err(field("opt_betas", format!("must be from 0 up to but not 1, found {beta}")));
            }
        }
        for (key, value) in
            [("head_init_scale", self.head_init_scale), ("head_init_bias", self.head_init_bias)]
        {
            value.map_or(Ok(()), |value| finite(key, value))?;
        }
        if self.lora_rank > 0 { positive("lora_alpha", self.lora_alpha) } else { Ok(()) }
    }

    fn check_schedule(&self) -> Checked {
        not_negative("warmup_epochs", self.warmup_epochs)?;
        not_negative("warmup_lr", self.warmup_lr)?;
        not_negative("min_lr", self.min_lr)?;
        positive("decay_epochs", self.decay_epochs)?;
        positive("decay_rate", self.decay_rate)?;
        positive("lr_k_decay", self.lr_k_decay)?;
        let (peak, least) = (self.peak_lr(), self.min_lr);
        if least > peak {
            return Err(field("min_lr", format!("must be at most the learning rate {peak}, found {least}")));
        }
        let rising = self.decay_milestones.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || self.decay_milestones.iter().any(|epoch| !(*epoch > 0.0 && epoch.is_finite())) {
            return Err(field("decay_milestones", "must be epochs above 0, each later than the one before"));
        }
        if self.sched == "multistep" && self.decay_milestones.is_empty() {
            return Err(field("decay_milestones", "must name an epoch where sched is multistep"));
        }
        match (self.warmup_steps, self.max_steps) {
            (Some(warm), Some(all)) if warm >= all => {
                Err(field("warmup_steps", format!("must be fewer than max_steps {all}, found {warm}")))
            }
            _ => Ok(()),
        }
    }

    fn check_augmentation(&self) -> Checked {
        for (key, [least, most]) in [("scale", self.scale), ("ratio", self.ratio)] {
            if !(least > 0.0 && least <= most && most.is_finite()) {
                return Err(field(
                    key,
                    format!("must be two numbers above 0, the smaller first, found {least} {most}"),
                ));
            }
        }
        if self.scale[1] > 1.0 {
            return Err(field(
                "scale",
                format!("must be at most 1, the whole image, found {}", self.scale[1]),
            ));
        }
        not_negative("color_jitter", self.color_jitter)?;
        not_negative("mixup", self.mixup)?;
        not_negative("cutmix", self.cutmix)?;
        match self.cutmix_minmax {
            Some([least, most]) if !(least >= 0.0 && least <= most && most <= 1.0) => {
                let reason = format!("must be two shares of a side, the smaller first, found {least} {most}");
                Err(field("cutmix_minmax", reason))
            }
            _ => Ok(()),
        }
    }

    fn check_distillation(&self) -> Checked {
        positive("distillation_tau", self.distillation_tau)?;
        let distils = self.distillation_type != DistillationType::None;
        let augments = !self.no_aug || self.mixes();
        for (wrong, key, reason) in [
            (distils && self.teacher.is_none(), "distillation_type", "needs a teacher"),
            (
                self.teacher_checkpoint.is_some() && self.teacher.is_none(),
                "teacher_checkpoint",
                "needs a teacher",
            ),
            (self.cache_teacher && !distils, "cache_teacher", "needs distillation_type soft or hard"),
            (
                self.cache_teacher && augments,
                "cache_teacher",
                "keeps one answer for each image: it needs no_aug, and neither mixup nor cutmix",
            ),
        ] {
            if wrong {
                return Err(field(key, reason));
            }
        }
        Ok(())
    }

    /// Warnings: the recipe is valid, but probably not what was meant.
    pub fn doubts(&self) -> Vec<String> {
        let (warm, all) = (self.warmup_epochs, self.epochs);
        // The comparison of epochs holds only if neither run nor warm-up is counted in updates.
        let by_epochs = self.warmup_steps.is_none() && self.max_steps.is_none();
        let mut doubts = Vec::new();
        let on_cpu = self.device == "cpu" || self.device == "auto" && !cfg!(feature = "cuda");
        if self.amp_dtype != "none" && on_cpu {
            doubts.push(format!("amp_dtype {} makes the CPU slower, not faster", self.amp_dtype));
        }
        if self.task == Task::Regress.name() && ![0.0, Self::default().smoothing].contains(&self.smoothing) {
            doubts.push(format!("smoothing {} is for classes: task regress has none", self.smoothing));
        }
        let is_idle = self.distillation_type == DistillationType::None || self.distillation_alpha == 0.0;
        if let Some(teacher) = self.teacher.as_ref().filter(|_| is_idle) {
            doubts.push(format!(
                "teacher {teacher} is not asked: distillation_type is none, or distillation_alpha is 0"
            ));
        }
        if by_epochs && !self.warmup_prefix && self.sched != "none" && warm >= all as f64 {
            doubts.push(format!(
                "warmup_epochs {warm} of {all} epochs: the learning rate never reaches its peak of {:e}",
                self.peak_lr()
            ));
        }
        doubts
    }

    /// Whether mixup or CutMix is on.
    pub fn mixes(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0 || self.cutmix_minmax.is_some()
    }

    fn check_pairs(&self) -> Checked {
        let overfits = self.overfit_batches > 0;
        let has_bce = self.bce_loss || self.task == Task::Multilabel.name();
        let drops =
            [self.drop, self.proj_drop, self.attn_drop, self.pos_drop, self.patch_drop, self.drop_path];
        for (wrong, key, reason) in [
            (
                overfits && self.mixes(),
                "overfit_batches",
                "learns batches by heart: leave out mixup and cutmix",
            ),
            (
                overfits && self.fraction < 1.0,
                "overfit_batches",
                "takes the first batches: leave out fraction",
            ),
            (self.bce_sum && !has_bce, "bce_sum", "needs bce_loss"),
            (self.bce_target_thresh.is_some() && !has_bce, "bce_target_thresh", "needs bce_loss"),
            (
                self.linear_probe && self.lora_rank > 0,
                "linear_probe",
                "trains the head alone: leave out lora_rank",
            ),
            (
                self.linear_probe && !self.freeze.is_empty(),
                "linear_probe",
                "leaves all but the head as it is: leave out freeze",
            ),
            (
                self.linear_probe && self.layer_decay.is_some(),
                "linear_probe",
                "trains one layer: leave out layer_decay",
            ),
            (
                self.linear_probe && drops[1..].iter().any(|rate| *rate > 0.0),
                "linear_probe",
                "wants features that do not change: of the dropouts only drop goes with it",
            ),
            (
                self.mixup_mode == "pair" && self.mixes() && !self.batch_size.is_multiple_of(2),
                "batch_size",
                "must be even where mixup_mode is pair",
            ),
            (
                self.opt == "sgd" && self.momentum == 0.0,
                "momentum",
                "must be above 0 for sgd, which is Nesterov's",
            ),
            (self.no_aug && self.crop_pad.is_some(), "crop_pad", "crops at random, which no_aug rules out"),
            (self.no_aug && self.aa.is_some(), "aa", "changes images at random, which no_aug rules out"),
            (self.no_aug && self.reprob > 0.0, "reprob", "erases at random, which no_aug rules out"),
            (self.model_ema_warmup && !self.model_ema, "model_ema_warmup", "needs model_ema"),
        ] {
            if wrong {
                return Err(field(key, reason));
            }
        }
        Ok(())
    }
}

pub(super) fn field(key: &'static str, reason: impl Into<String>) -> RecipeError {
    RecipeError::Field { key, reason: reason.into() }
}

fn unknown(key: &'static str, value: &str, known: &[&str]) -> RecipeError {
    let names: Vec<String> = known.iter().map(ToString::to_string).collect();
    let meant = did_you_mean(&nearest(value, &names));
    field(key, format!("'{value}' is not known: want {}{meant}", known.join(", ")))
}

fn finite(key: &'static str, value: f64) -> Checked {
    if value.is_finite() {
        Ok(())
    } else {
        Err(field(key, format!("must be a finite number, found {value}")))
    }
}

fn positive(key: &'static str, value: f64) -> Checked {
    let fits = value > 0.0 && value.is_finite();
    if fits { Ok(()) } else { Err(field(key, format!("must be above 0, found {value}"))) }
}

fn not_negative(key: &'static str, value: f64) -> Checked {
    let fits = value >= 0.0 && value.is_finite();
    if fits { Ok(()) } else { Err(field(key, format!("must be 0 or more, found {value}"))) }
}

/// `cuda:N`
fn is_gpu(device: &str) -> bool {
    device.strip_prefix("cuda:").is_some_and(|index| index.parse::<u16>().is_ok())
}
