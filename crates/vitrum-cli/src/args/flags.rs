//! A flag for every key of a recipe. One table makes both the command line and the recipe's overlay.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::LazyLock;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use toml::Value;
use vitrum::train::recipe::{Every, ImgSize, Overlay, Span};

/// How a flag's values are parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// A whole number of at least 0.
    Count,
    Number,
    /// `--flag`, `--flag=true` or `--flag=false`.
    Switch,
    /// Two numbers.
    Pair,
    Numbers,
    /// One text per occurrence of the flag.
    Texts,
    /// `N` or `HxW`.
    Size,
    /// `KEY=VALUE …`
    Fields,
    /// `1epoch`, `500steps`, `10min`.
    Every,
    /// `90min`.
    Span,
}

/// A flag; its long name is the key with `-` for `_`.
struct Flag {
    key: &'static str,
    kind: Kind,
    value: &'static str,
    short: Option<char>,
    /// Names of the same option in Hugging Face's `Trainer` and Ultralytics' `yolo`.
    aliases: &'static [&'static str],
    help: &'static str,
}

const fn flag(key: &'static str, kind: Kind, value: &'static str, help: &'static str) -> Flag {
    Flag { key, kind, value, short: None, aliases: &[], help }
}

impl Flag {
    const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    const fn also(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }
}

use Kind::{Count, Fields, Number, Numbers, Pair, Size, Switch, Text, Texts};

/// Every flag under its heading, in the recipe's order.
const FLAGS: &[(&str, &[Flag])] = &[
    ("Data", DATA),
    ("Model", MODEL),
    ("Pretraining", PRETRAINING),
    ("Distillation", DISTILLATION),
    ("Optimiser", OPTIMISER),
    ("Schedule", SCHEDULE),
    ("Augmentation", AUGMENTATION),
    ("Batch", BATCH),
    ("Moving average", EMA),
    ("Run", RUN),
];

const DATA: &[Flag] = &[
    flag("data", Text, "DATA", "Training images, the same as DATA").also(&["data-dir", "train-dir"]),
    flag("val_data", Text, "DATA", "Validation images, if they are elsewhere").also(&["validation-dir"]),
    flag("train_split", Text, "NAME", "Name of the part to train on, if there are several"),
    flag("val_split", Text, "NAME", "Name of the part to validate on"),
    flag(
        "val_fraction",
        Number,
        "F",
        "Share of the training images set aside for validation, per class, if there is no validation part",
    )
    .also(&["train-val-split"]),
    flag("fraction", Number, "F", "Share of the training images used, per class"),
    flag("class_map", Text, "FILE", "Class names in the order of their numbers, one per line"),
    flag("image_dir", Text, "DIR", "Base folder of a table's relative paths"),
    flag(
        "target_columns",
        Texts,
        "NAME",
        "Column of a table with the targets of multilabel or regress; may be given repeatedly [default: those of the \
         usual names]",
    ),
    flag(
        "workers",
        Count,
        "N",
        "Threads that decode and augment; 0: one per core. The result does not depend on it",
    )
    .short('j')
    .also(&["dataloader-num-workers"]),
    flag("cache", Text, "auto|none|ram", "Whether decoded images stay in memory"),
    flag(
        "sequential",
        Switch,
        "BOOL",
        "Read archives from beginning to end and shuffle in a buffer; for disks that seek slowly",
    ),
    flag("shuffle_buffer", Count, "N", "Images of an archive in the shuffle buffer"),
    flag("max_bad", Number, "N|F", "Unreadable images allowed: a share below 1, a number from 1 on"),
];

const MODEL: &[Flag] = &[
    flag(
        "task",
        Text,
        "NAME",
        "Task of the model: classify (one class per image), multilabel (any number of classes), regress (numbers) or pretrain (masked \
         patches)",
    ),
    flag("regression_loss", Text, "mse|l1|smooth_l1", "Loss of --task regress"),
    flag("model", Text, "NAME", "Name of the catalogue, see `vitrum models list`").short('m'),
    flag("pretrained", Text, "DIR|FILE|hf:ID", "Weights to begin from").also(&["initial-checkpoint"]),
    flag("keys", Text, "FILE.toml", "A key file, for tensor names in those weights that no dialect has"),
    flag("num_classes", Count, "K", "Number of classes, or of numbers to predict [default: the data's]"),
    flag("img_size", Size, "N|HxW", "Height and width of the input").also(&["imgsz"]),
    flag("in_chans", Count, "C", "Channels of the input"),
    flag("gp", Text, "POOL", "Pooling: token, avg, max, avgmax or map"),
    flag("drop", Number, "F", "Dropout before the head").also(&["dropout"]),
    flag("proj_drop", Number, "F", "Dropout after the projections of attention and MLP"),
    flag("attn_drop", Number, "F", "Dropout on attention weights"),
    flag("pos_drop", Number, "F", "Dropout after adding positions"),
    flag("patch_drop", Number, "F", "Share of patches left out"),
    flag("drop_path", Number, "F", "Stochastic depth of the last block"),
    flag("head_init_scale", Number, "F", "Factor on the fresh head's weights"),
    flag("head_init_bias", Number, "F", "Fresh head's bias"),
    flag(
        "model_kwargs",
        Fields,
        "KEY=VALUE",
        "Other fields of the model: --model-kwargs patch_size=4 depth=6",
    ),
    flag(
        "freeze",
        Texts,
        "KEY",
        "Parameters to freeze; * matches any text; batch norms whose statistics match keep them; may be given repeatedly",
    ),
    flag("linear_probe", Switch, "BOOL", "Train only the head"),
    flag("freeze_bn", Switch, "BOOL", "Freeze all batch norms: statistics, weights and biases"),
    flag("lora_rank", Count, "N", "Rank of low-rank updates to the blocks' weight matrices; 0: none"),
    flag("lora_alpha", Number, "F", "The low-rank updates are scaled by this over the rank"),
];

const PRETRAINING: &[Flag] = &[
    flag("method", Text, "NAME", "How pretrain learns: mae, mpp or simmim [default: the model's own way]"),
    flag("mask_ratio", Number, "F", "Share of the patches that are masked [default: the model's]"),
    flag("mask_kind", Text, "random|block|grid", "Which patches are masked"),
    flag("norm_pix_loss", Switch, "BOOL", "Predict pixels normalised within their patch"),
    flag("decoder_embed_dim", Count, "N", "Width of the decoder"),
    flag("decoder_depth", Count, "N", "Blocks of the decoder"),
    flag("decoder_num_heads", Count, "N", "Heads of the decoder"),
    flag("picture_interval", Count, "N", "Epochs between pictures of predicted validation images; 0: none"),
];

const DISTILLATION: &[Flag] = &[
    flag(
        "teacher",
        Text,
        "DIR|FILE|NAME|hf:ID",
        "The teacher; it sees the same images as the model, at the same size",
    )
    .also(&["teacher-model"]),
    flag("teacher_checkpoint", Text, "FILE", "Weights for the teacher, if it is a name")
        .also(&["teacher-path"]),
    flag("distillation_type", Text, "none|soft|hard", "How the model learns from the teacher"),
    flag("distillation_alpha", Number, "F", "The teacher's share of the loss"),
    flag("distillation_tau", Number, "F", "Temperature of soft distillation"),
    flag(
        "cache_teacher",
        Switch,
        "BOOL",
        "Cache the teacher's logits for each image; needs --no-aug, no mixup and no cutmix",
    ),
];

const OPTIMISER: &[Flag] = &[
    flag(
        "opt",
        Text,
        "NAME",
        "adamw, adam, nadamw, sgd, momentum, lamb, lars, lars_moco, lion, adafactor, muon or nmuon",
    )
    .also(&["optimizer", "optim"]),
    flag("lr", Number, "F", "Learning rate [default: from --lr-base]").also(&["learning-rate", "lr0"]),
    flag("lr_base", Number, "F", "Learning rate for --lr-base-size images per update"),
    flag("lr_base_size", Count, "N", "See --lr-base"),
    flag("lr_base_scale", Text, "linear|sqrt", "How the learning rate grows with the images per update"),
    flag("weight_decay", Number, "F", "Weight decay"),
    flag("momentum", Number, "F", "Momentum of SGD and similar optimisers"),
    flag("opt_betas", Numbers, "B", "Betas [default: the optimiser's own]"),
    flag("opt_eps", Number, "F", "Epsilon [default: the optimiser's own]"),
    flag("clip_grad", Number, "F", "Clip gradients to this value").also(&["max-grad-norm"]),
    flag(
        "clip_mode",
        Text,
        "norm|value|agc",
        "How gradients are clipped: by their common norm, by value, or adaptively",
    ),
    flag("layer_decay", Number, "F", "Ratio of a layer's learning rate to the next layer's"),
    flag(
        "no_weight_decay",
        Texts,
        "KEY",
        "Parameters without weight decay, besides one-dimensional ones, tokens and positions; * matches \
         any text; may be given repeatedly",
    ),
];

const SCHEDULE: &[Flag] = &[
    flag("sched", Text, "NAME", "cosine, step, multistep, poly, plateau, linear, constant or none")
        .also(&["lr-scheduler-type"]),
    flag("sched_on_updates", Switch, "BOOL", "Advance the schedule at every update instead of every epoch"),
    flag("epochs", Count, "N", "Epochs of the schedule; the run adds --cooldown-epochs")
        .also(&["num-train-epochs"]),
    flag("max_steps", Count, "N", "Stop after this number of updates"),
    flag("warmup_epochs", Number, "N", "Epochs of warm-up"),
    flag("warmup_steps", Count, "N", "Updates of warm-up, overrides --warmup-epochs"),
    flag("warmup_lr", Number, "F", "Learning rate at the start of the warm-up"),
    flag("warmup_prefix", Switch, "BOOL", "Start the schedule after the warm-up instead of together with it"),
    flag("min_lr", Number, "F", "Learning rate at the end"),
    flag("cooldown_epochs", Count, "N", "Epochs at --min-lr at the end"),
    flag("decay_epochs", Number, "N", "Epochs between decays of step"),
    flag("decay_milestones", Numbers, "N", "Epochs of the decays of multistep"),
    flag("decay_rate", Number, "F", "Factor of step, multistep, plateau; power of poly").also(&["dr"]),
    flag("patience_epochs", Count, "N", "Epochs without progress that plateau waits for"),
    flag("patience", Count, "N", "Stop after this number of epochs without progress; 0: never"),
    flag("lr_k_decay", Number, "F", "k of cosine and poly"),
];

const AUGMENTATION: &[Flag] = &[
    flag("no_aug", Switch, "BOOL", "No random augmentation: resize and crop as in validation"),
    flag(
        "crop_pad",
        Count,
        "N",
        "Small images: random crop after padding by this number of pixels, and flips, instead of random \
         resized crops",
    ),
    flag("crop_pad_mode", Text, "constant|reflect", "Content of the padding: black, or the image mirrored"),
    flag("scale", Pair, "F", "Area of a random resized crop over that of the image, least and most"),
    flag("ratio", Pair, "F", "Width over height of a random resized crop, least and most"),
    flag("hflip", Number, "F", "Probability of a horizontal flip").also(&["fliplr"]),
    flag("vflip", Number, "F", "Probability of a vertical flip").also(&["flipud"]),
    flag("color_jitter", Number, "F", "Largest change of brightness, contrast and saturation"),
    flag("color_jitter_prob", Number, "F", "Probability of --color-jitter [default: always]"),
    flag("grayscale_prob", Number, "F", "Probability of grey"),
    flag("gaussian_blur_prob", Number, "F", "Probability of a blur"),
    flag("aa", Text, "POLICY", "rand-m9-mstd0.5-inc1, augmix-…, original, v0, 3a"),
    flag("aug_repeats", Count, "N", "Times each image is used in a row (repeated augmentation); 0: once"),
    flag("reprob", Number, "F", "Probability of random erasing").also(&["erasing"]),
    flag("remode", Text, "const|rand|pixel", "What erased parts are filled with"),
    flag("recount", Count, "N", "Erased parts per image"),
    flag("mixup", Number, "F", "Alpha of mixup"),
    flag("cutmix", Number, "F", "Alpha of CutMix"),
    flag("cutmix_minmax", Pair, "F", "Shares of a CutMix box's sides, overrides --cutmix"),
    flag("mixup_prob", Number, "F", "Probability of mixing at all"),
    flag("mixup_switch_prob", Number, "F", "Probability of CutMix if both are on"),
    flag("mixup_mode", Text, "batch|pair|elem", "Scope of one random choice"),
    flag("mixup_off_epoch", Count, "N", "No mixing from this epoch on; 0: mix always"),
    flag("smoothing", Number, "F", "Label smoothing").also(&["label-smoothing", "label-smoothing-factor"]),
    flag("bce_loss", Switch, "BOOL", "Binary cross entropy: an independent yes or no per class"),
    flag("bce_target_thresh", Number, "F", "With --bce-loss, targets above this become 1 and others 0"),
    flag("bce_sum", Switch, "BOOL", "With --bce-loss, sum over classes instead of mean"),
    flag("train_interpolation", Text, "FILTER", "Resampling of random crops: random, bilinear, bicubic, …"),
    flag("interpolation", Text, "FILTER", "Resampling of validation"),
    flag("crop_pct", Number, "F", "Share of the resized side that validation keeps"),
    flag("crop_mode", Text, "MODE", "center, squash or border"),
    flag("mean", Numbers, "M", "Mean of each channel"),
    flag("std", Numbers, "S", "Deviation of each channel"),
];

const BATCH: &[Flag] = &[
    flag("batch_size", Count, "N", "Images per batch; an update takes --grad-accum-steps of them")
        .short('b')
        .also(&["batch", "per-device-train-batch-size"]),
    flag("validation_batch_size", Count, "N", "Images per validation batch [default: --batch-size]")
        .also(&["per-device-eval-batch-size"]),
    flag("grad_accum_steps", Count, "N", "Batches per update").also(&["gradient-accumulation-steps"]),
    flag(
        "grad_checkpointing",
        Switch,
        "BOOL",
        "Keep only each block's input and recompute the rest in the backward pass",
    )
    .also(&["gradient-checkpointing"]),
    flag("amp_dtype", Text, "none|bf16", "Type of the computation; weights stay in f32"),
];

const EMA: &[Flag] = &[
    flag("model_ema", Switch, "BOOL", "Keep a moving average of the weights, and also validate it"),
    flag("model_ema_decay", Number, "F", "Decay of the moving average per update"),
    flag("model_ema_warmup", Switch, "BOOL", "Let the decay of the moving average grow from 0"),
];

const RUN: &[Flag] = &[
    flag("output", Text, "DIR", "Folder of all runs").also(&["output-dir", "project"]),
    flag("experiment", Text, "NAME", "Name of this run's folder [default: the model's]").also(&["name"]),
    flag("exist_ok", Switch, "BOOL", "Write into an existing folder").also(&["overwrite-output-dir"]),
    flag("seed", Count, "N", "Seed of all random choices"),
    flag("log_interval", Count, "N", "Batches between lines of the log").also(&["logging-steps"]),
    flag("val_interval", Count, "N", "Epochs between validations"),
    flag("checkpoint_every", Kind::Every, "TIME", "How often to save: 1epoch, 500steps, 10min"),
    flag("checkpoint_hist", Count, "N", "Checkpoints kept besides the best").also(&["save-total-limit"]),
    flag(
        "eval_metric",
        Text,
        "NAME",
        "The score that chooses the best checkpoint: top1, top5 or loss; of multilabel map, f1, exact or loss; of \
         regress mae, rmse, r2 or loss",
    ),
    flag("time", Kind::Span, "TIME", "Save and stop after this long: 3.5h, 90min"),
    flag(
        "device",
        Text,
        "NAME",
        "auto (a CUDA GPU if this build and machine have one), cpu, cuda, cuda:N, vulkan, webgpu, cubecpu",
    ),
    flag(
        "overfit_batches",
        Count,
        "N",
        "Train repeatedly on the first N batches, to check that the model can learn at all; 0: off",
    ),
];

/// The recipe flags that were given.
#[derive(Clone, Debug, Default)]
pub struct RecipeFlags {
    /// Their keys and values.
    pub given: Overlay,
}

impl Args for RecipeFlags {
    fn augment_args(command: Command) -> Command {
        let all = FLAGS.iter().flat_map(|(heading, flags)| flags.iter().map(move |flag| (heading, flag)));
        all.fold(command, |command, (heading, flag)| command.arg(argument(heading, flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RecipeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for flag in FLAGS.iter().flat_map(|(_, flags)| *flags) {
            if let Some(values) = matches.get_many::<Value>(flag.key) {
                let value = gather(flag, values.cloned().collect())?;
                self.given.insert(flag.key.into(), value);
            }
        }
        Ok(())
    }
}

/// A flag's long name and its aliases.
struct Names {
    long: String,
    aliases: Vec<String>,
}

/// By key. The parser holds references to names for the life of the process.
static NAMES: LazyLock<BTreeMap<&'static str, Names>> = LazyLock::new(|| {
    let names = |flag: &Flag| {
        let long = flag.key.replace('_', "-");
        // Also with `_`, as in recipes and in Hugging Face's flags.
        let all = flag.aliases.iter().map(ToString::to_string).chain([long.clone()]);
        let mut aliases: Vec<String> = all.flat_map(|name| [name.replace('-', "_"), name]).collect();
        aliases.retain(|name| *name != long);
        aliases.dedup();
        (flag.key, Names { long, aliases })
    };
    FLAGS.iter().flat_map(|(_, flags)| flags.iter().map(names)).collect()
});

fn argument(heading: &'static str, flag: &'static Flag) -> Arg {
    let names = &NAMES[flag.key];
    let arg = Arg::new(flag.key)
        .long(names.long.as_str())
        .aliases(names.aliases.iter().map(String::as_str))
        .help_heading(heading)
        .help(flag.help)
        .value_name(flag.value)
        .value_parser(parser(flag.kind));
    let arg = match flag.short {
        Some(short) => arg.short(short),
        None => arg,
    };
    match flag.kind {
        Kind::Switch => {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").hide_possible_values(true)
        }
        Kind::Pair => arg.num_args(2).allow_negative_numbers(true),
        Kind::Numbers => arg.num_args(1..).value_delimiter(',').allow_negative_numbers(true),
        Kind::Texts => arg.action(ArgAction::Append),
        Kind::Fields => arg.num_args(1..).action(ArgAction::Append),
        _ => arg.allow_negative_numbers(true),
    }
}

type Parse = fn(&str) -> Result<Value, String>;

fn parser(kind: Kind) -> Parse {
    match kind {
        Kind::Text | Kind::Texts => |text| Ok(Value::String(text.into())),
        Kind::Count => |text| match text.parse::<i64>() {
            Ok(count) if count >= 0 => Ok(Value::Integer(count)),
            _ => Err("want a whole number of at least 0".into()),
        },
        Kind::Number | Kind::Pair | Kind::Numbers => |text| match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            _ => Err("want a number".into()),
        },
        Kind::Switch => |text| match text {
            "true" | "1" | "yes" | "on" | "True" => Ok(Value::Boolean(true)),
            "false" | "0" | "no" | "off" | "False" => Ok(Value::Boolean(false)),
            _ => Err("want true or false".into()),
        },
        Kind::Size => checked::<ImgSize>,
        Kind::Every => checked::<Every>,
        Kind::Span => checked::<Span>,
        Kind::Fields => |text| match text.split_once('=') {
            Some((key, _)) if !key.trim().is_empty() => Ok(Value::String(text.into())),
            _ => Err("want KEY=VALUE".into()),
        },
    }
}

/// A text in the syntax of the recipe's type.
fn checked<T: FromStr<Err: Display>>(text: &str) -> Result<Value, String> {
    text.parse::<T>().map(|_| Value::String(text.into())).map_err(|error| error.to_string())
}

/// The values of one flag as its key's value.
fn gather(flag: &Flag, mut values: Vec<Value>) -> Result<Value, clap::Error> {
    match flag.kind {
        Kind::Pair | Kind::Numbers | Kind::Texts => Ok(Value::Array(values)),
        Kind::Fields => Ok(Value::Table(values.iter().filter_map(Value::as_str).filter_map(pair).collect())),
        _ => values.pop().ok_or_else(|| clap::Error::new(ErrorKind::TooFewValues)),
    }
}

/// `depth=6` as a key and its TOML value, or a text.
pub fn pair(text: &str) -> Option<(String, Value)> {
    let (key, text) = text.split_once('=')?;
    let text = text.trim();
    let value = match text {
        "True" => Value::Boolean(true),
        "False" => Value::Boolean(false),
        "None" | "null" => Value::String("none".into()),
        _ => text.parse().unwrap_or_else(|_| Value::String(text.into())),
    };
    Some((key.trim().into(), value))
}
