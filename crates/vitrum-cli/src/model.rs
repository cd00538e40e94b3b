//! From the model flags to a loaded model, with a report on stderr.

use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vitrum::checkpoint::load::{EightBitsLimit, LoadOptions, Loaded, ModelError, Progress, load};
use vitrum::data::dataset::ClassMap;
use vitrum::data::{DecodeOptions, Limits, Preprocess};
use vitrum::models::{Config, Model, ModelConfig, Precision, catalogue};
use vitrum::tasks::{Classifier, Embedder};

use crate::args::{DeviceName, Dtype, LimitArgs, ModelArgs, PreprocessArgs};
use crate::device::{self, Work};
use crate::memory;
use crate::models::{plain_value, with_kwargs};
use crate::talk::Talk;

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F64 => Self::F64,
        }
    }
}

/// Loads the requested model and reports on it. The input is tensors, so the card's image processor does not set the
/// image size.
pub fn open(args: &ModelArgs, dtype: Dtype, needs_weights: bool, talk: Talk) -> Result<(Loaded, Device)> {
    open_for(args, dtype, needs_weights, false, talk)
}

/// What `auto` needs to know of a model's computation.
fn work(args: &ModelArgs, dtype: Dtype) -> Work {
    match (dtype, args.precision) {
        (Dtype::F64, _) | (_, Precision::Int8) => Work::Cpu,
        _ => Work::Any,
    }
}

/// As [`open`]. With `size_of_processor`, the card's image processor sets the image size.
fn open_for(
    args: &ModelArgs,
    dtype: Dtype,
    needs_weights: bool,
    size_of_processor: bool,
    talk: Talk,
) -> Result<(Loaded, Device)> {
    let device = device::prepare(&args.device, work(args, dtype))?;
    let edit = |config: ModelConfig| {
        let config: ModelConfig =
            with_kwargs(&config, &args.model_kwargs).map_err(|error| format!("--model-kwargs: {error:#}"))?;
        let config =
            config.with_some("answer", args.answer.as_ref()).map_err(|error| format!("--answer: {error}"))?;
        memory::check_model(&config, dtype).map_err(|error| format!("{}: {error:#}", args.model))?;
        Ok(config)
    };
    let options = || LoadOptions {
        checkpoint: args.checkpoint.clone(),
        weight_set: args.weight_set.clone(),
        keys: args.keys.clone(),
        num_classes: args.num_classes,
        img_size: args.img_size.map(|size| size.0),
        size_of_processor,
        patch_size: args.patch_size.map(|size| size.0),
        in_chans: args.in_chans,
        global_pool: args.gp,
        pos_resize: args.pos_resize,
        edit: Some(&edit),
        dtype: dtype.into(),
        precision: args.precision,
        allow_missing: args.allow_missing.clone(),
        allow_unexpected: args.allow_unexpected.clone(),
        needs_weights,
        seed: args.seed,
        offline: args.offline,
        progress: (!talk.quiet).then(download_bar),
        ..LoadOptions::new(args.model.clone())
    };
    let (loaded, device) = match load(&options(), &device) {
        // Only the file says that its weights are int8.
        Err(ModelError::EightBits { limit: EightBitsLimit::Device, .. })
            if args.device.device == DeviceName::Auto =>
        {
            (load(&options(), &Device::flex())?, Device::flex())
        }
        loaded => (loaded?, device),
    };
    if args.device.device == DeviceName::Auto && !vitrum_kernels::has_fast_path(&device, DType::F32) {
        talk.say(format_args!("device: {}; --device cpu for the CPU", device::describe(&device)));
    }
    for note in &loaded.notes {
        talk.say(note);
    }
    if let Some(report) = &loaded.report {
        talk.say(format_args!("{}: {report}", loaded.name));
        report.loaded.iter().for_each(|key| talk.detail(2, format_args!("  loaded      {key}")));
    }
    let threads = rayon::current_num_threads();
    talk.detail(1, format_args!("device: {device:?}, {threads} threads, {}", device::instructions()));
    let quantized = loaded.model.quantized_layers();
    if quantized > 0 {
        let level = vitrum_kernels::int8_level();
        talk.detail(1, format_args!("int8: {quantized} layers, {level}"));
    }
    let rounded = loaded.model.bf16_layers();
    if rounded > 0 {
        let on_cpu = vitrum_kernels::has_fast_path(&device, DType::F32);
        let level = if on_cpu { vitrum_kernels::bf16_level() } else { "by the device" };
        talk.detail(1, format_args!("bf16: {rounded} layers, {level}"));
    }
    talk.detail(1, format_args!("configuration: {}", differences(&loaded.model.config())));
    Ok((loaded, device))
}

/// A progress bar for each downloaded file, on stderr if that is a terminal.
pub fn download_bar() -> Progress {
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = Mutex::new(ProgressBar::hidden());
    Arc::new(move |file, done, total| {
        let Ok(mut bar) = bar.lock() else { return };
        if bar.message() != file {
            bar.finish_and_clear();
            *bar = ProgressBar::with_draw_target((total > 0).then_some(total), ProgressDrawTarget::stderr())
                .with_style(style.clone())
                .with_message(file.to_string());
        }
        bar.set_position(done);
        if done == total {
            bar.finish_and_clear();
        }
    })
}

/// The closest name of the catalogue, and the fields that differ.
pub fn differences(config: &ModelConfig) -> String {
    let base = catalogue::closest(config).and_then(|name| Some((name, catalogue::entry(name).ok()?)));
    let Some((name, entry)) = base else { return config.family().into() };
    let fields = config.differences(&entry.config);
    let differing = fields.iter().map(|(key, value)| format!(" {key}={}", plain_value(value)));
    let differing: String = differing.collect();
    if differing.is_empty() { name.into() } else { format!("{name},{differing}") }
}

/// A loaded model with its weights, and the flags laid over its preprocessing.
pub fn loaded(args: &ModelArgs, preprocess: &PreprocessArgs, talk: Talk) -> Result<(Loaded, Device)> {
    let (mut loaded, device) = open_for(args, Dtype::F32, true, true, talk)?;
    adjust(&mut loaded, preprocess)?;
    Ok((loaded, device))
}

/// A classifier. Its card or the flags must give the preprocessing.
pub fn classifier(
    args: &ModelArgs,
    preprocess: &PreprocessArgs,
    class_map: Option<&Path>,
    talk: Talk,
) -> Result<Classifier> {
    let (mut loaded, device) = open_for(args, Dtype::F32, true, true, talk)?;
    adjust(&mut loaded, preprocess)?;
    if let Some(path) = class_map {
        loaded.labels = Some(class_names(path, loaded.model.config().num_classes())?);
    }
    Ok(Classifier::new(loaded, device)?)
}

/// An embedder: as [`classifier`], but the model needs no head.
pub fn embedder(args: &ModelArgs, preprocess: &PreprocessArgs, talk: Talk) -> Result<Embedder> {
    let (mut loaded, device) = open_for(args, Dtype::F32, true, true, talk)?;
    adjust(&mut loaded, preprocess)?;
    Ok(Embedder::new(loaded, device)?)
}

/// Overrides the card's preprocessing with the flags.
fn adjust(loaded: &mut Loaded, args: &PreprocessArgs) -> Result<()> {
    let complete = !args.mean.is_empty()
        && !args.std.is_empty()
        && args.interpolation.is_some()
        && args.crop_pct.is_some();
    if loaded.preprocess.is_none() && complete {
        let image = loaded.model.config().input().image();
        let [h, w] = image.size;
        loaded.preprocess = Some(Preprocess { input_size: [image.channels, h, w], ..Preprocess::default() });
    }
    let Some(preprocess) = &mut loaded.preprocess else { return Ok(()) };
    if let Some(share) = args.crop_pct {
        preprocess.crop_pct = share;
    }
    if let Some(mode) = &args.crop_mode {
        preprocess.crop_mode = parse("--crop-mode", mode, "center, squash or border")?;
    }
    if let Some(filter) = &args.interpolation {
        preprocess.interpolation =
            parse("--interpolation", filter, "bicubic, bilinear, lanczos, box, hamming or nearest")?;
    }
    if !args.mean.is_empty() {
        preprocess.mean.clone_from(&args.mean);
    }
    if !args.std.is_empty() {
        preprocess.std.clone_from(&args.std);
    }
    let channels = preprocess.input_size[0];
    if !matches!(channels, 1 | 3) {
        bail!(
            "the model takes images of {channels} channels, but pictures have 3, or 1 if they are grey\n\
            hint: `vitrum forward --input FILE` takes numbers of any number of channels"
        );
    }
    let told = preprocess.mean.len() == channels && preprocess.std.len() == channels;
    preprocess.check().map_err(|error| match told {
        true => error.into(),
        false => anyhow::anyhow!(
            "{error}\nhint: --mean M… and --std S…, one number for each of {channels} channels"
        ),
    })
}

/// Refuses batches of the model's image size that do not fit into memory.
pub fn check_batch(model: &Model, batch: usize) -> Result<()> {
    memory::check_batch(&model.config(), batch, Dtype::F32)
}

fn parse<T: serde::de::DeserializeOwned>(flag: &str, text: &str, want: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(text.to_lowercase()))
        .map_err(|_| anyhow::anyhow!("{flag} '{text}': want {want}"))
}

/// The names in a class map; their number must match the model's classes.
fn class_names(path: &Path, num_classes: usize) -> Result<Vec<String>> {
    let map = ClassMap::open(path).context("--class-map")?;
    let found = map.names().len();
    if found != num_classes {
        bail!("--class-map {}: {found} classes, but the model has {num_classes}", path.display());
    }
    Ok(map.names().to_vec())
}

/// Limits and orientation from the flags.
pub fn decode_options(limits: &LimitArgs, turn: bool) -> DecodeOptions {
    DecodeOptions {
        limits: Limits {
            max_pixels: limits.max_image_pixels,
            max_side: limits.max_image_side,
            ..Limits::default()
        },
        exif_orientation: turn,
    }
}
