//! `vitrum bench`: speed of a model on this machine.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device, Distribution, Tensor};
use serde::Serialize;
use vitrum::data::augment::smoothed_one_hot;
use vitrum::data::dataset::{DatasetOptions, open_dataset};
use vitrum::data::{Loader, LoaderOptions, Preprocess};
use vitrum::models::{Config, ImageInput, Model, ModelConfig, Network, PixelScale, Precision};
use vitrum::tasks::reconstruct::reconstruct;
use vitrum::tasks::{MaskKind, MaskSampler};
use vitrum::train::log::environment;
use vitrum::train::trainer::{Examples, IntoBatch, Trainer};
use vitrum::train::{Recipe, Task};

use crate::args::{BenchArgs, Dtype, Format, ModelArgs};
use crate::memory;
use crate::model;
use crate::output::{self, Rows};
use crate::talk::Talk;

#[derive(Serialize)]
struct Measured {
    model: String,
    img_size: [usize; 2],
    batch_size: usize,
    /// `forward`, `train` or `data`.
    pass: &'static str,
    /// `f32`, or `bf16` or `int8` if layers of the model have it.
    precision: Precision,
    threads: usize,
    /// Number of concurrent requests, each with its share of the threads.
    streams: usize,
    runs: usize,
    /// Median time of one pass.
    median_ms: f64,
    min_ms: f64,
    max_ms: f64,
    /// From the median, for all streams together.
    images_per_second: f64,
    /// Two operations per multiply-accumulate that the logits need; a training step counts three times the forward
    /// pass.
    gflops: Option<f64>,
    /// Share of the largest `f32` multiply-add rate of these threads, from the better of two readings, before and
    /// after. bf16, int8 and Winograd's convolutions can exceed it.
    share_of_peak: Option<f64>,
    /// Peak memory of the process, if the system tells it; on a GPU, what its allocator holds.
    peak_mb: Option<f64>,
}

impl Measured {
    /// From the times of passes over one batch each, in seconds, shortest first.
    fn new(model: &str, img_size: [usize; 2], pass: &'static str, batch_size: usize, times: &[f64]) -> Self {
        Self {
            model: model.into(),
            img_size,
            batch_size,
            pass,
            precision: Precision::F32,
            threads: rayon::current_num_threads(),
            streams: 1,
            runs: times.len(),
            median_ms: 1e3 * median(times),
            min_ms: 1e3 * times[0],
            max_ms: 1e3 * times[times.len() - 1],
            images_per_second: batch_size as f64 / median(times),
            gflops: None,
            share_of_peak: None,
            peak_mb: memory::peak_mb(),
        }
    }
}

fn median(sorted: &[f64]) -> f64 {
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// Runs the command.
pub fn run(args: &BenchArgs, talk: Talk) -> Result<()> {
    if args.runs == 0 || args.streams == 0 || args.batch_sizes.contains(&0) {
        bail!("--runs, --streams and --batch-sizes must be at least 1");
    }
    if args.streams > 4096 {
        bail!("--streams {} is more than any machine has threads for", args.streams);
    }
    let mut measured = Vec::new();
    for name in std::iter::once(&args.model.model).chain(&args.more) {
        let model = ModelArgs { model: name.clone(), ..args.model.clone() };
        measured.extend(of_model(args, &model, talk)?);
    }
    report(args, &measured)
}

/// One row per batch size.
fn of_model(args: &BenchArgs, model: &ModelArgs, talk: Talk) -> Result<Vec<Measured>> {
    // Training keeps f32 weights and rounds them in each pass.
    let kept =
        if args.train && model.precision == Precision::Bf16 { Precision::F32 } else { model.precision };
    let kept = ModelArgs { precision: kept, ..model.clone() };
    if args.data.is_some() && model.precision != Precision::F32 {
        let name = model.precision.name();
        bail!("--data uses no model, so nothing is computed in {name}\nhint: leave out --precision");
    }
    let (loaded, device) = model::open(&kept, Dtype::F32, false, talk)?;
    let config = loaded.model.config();
    if let Some(data) = &args.data {
        let preprocess = loaded.preprocess.clone().unwrap_or_default();
        return data_rows(args, data, &loaded.name, &preprocess);
    }
    let mut precision = loaded.model.precision();
    if args.train && precision == Precision::Int8 {
        bail!("--train needs a model in f32: int8 weights cannot be trained");
    }
    if args.train {
        precision = args.model.precision;
    }
    let macs = loaded.model.config().walk()?.macs_read * if args.train { 3 } else { 1 };
    for &batch_size in &args.batch_sizes {
        memory::check_batch(&config, batch_size.saturating_mul(args.streams), Dtype::F32)?;
    }
    let sampler = loaded.model.reconstruct().map(|model| MaskSampler::new(model, MaskKind::Random, 42));
    // The trainer must hold the only reference to its weights, to change them in place.
    let mut runner = match args.train {
        true => Runner::Trainer(Box::new(trainer(loaded.model, precision, &device)?)),
        false => Runner::Model(Box::new(loaded.model.pack())),
    };
    // Two readings: a shared processor may be slow for a moment.
    let peak = || vitrum_kernels::has_fast_path(&device, DType::F32).then(|| vitrum_kernels::peak_gflops(3));
    let before = peak();
    let mut measured = Vec::new();
    for &batch_size in &args.batch_sizes {
        let times = match &mut runner {
            Runner::Trainer(trainer) => {
                train_times(args, trainer, &config, sampler.as_ref(), batch_size, &device)?
            }
            Runner::Model(model) => forward_times(args, model, &config, batch_size, &device)?,
        };
        let pass = if args.train { "train" } else { "forward" };
        let images_per_second = (args.streams * batch_size) as f64 / median(&times);
        let gflops = 2e-9 * macs as f64 * images_per_second;
        measured.push(Measured {
            precision,
            streams: args.streams,
            images_per_second,
            gflops: Some(gflops),
            peak_mb: match vitrum_kernels::has_fast_path(&device, DType::F32) {
                true => memory::peak_mb(),
                false => environment::memory_mb(&device),
            },
            ..Measured::new(&loaded.name, config.input().image().size, pass, batch_size, &times)
        });
    }
    if let Some(peak) = before.into_iter().chain(peak()).reduce(f64::max) {
        for row in &mut measured {
            row.share_of_peak = row.gflops.map(|gflops| gflops / peak);
        }
    }
    Ok(measured)
}

/// The measured work.
enum Runner {
    Model(Box<Model>),
    Trainer(Box<Trainer>),
}

/// In bf16 as in a run with `--amp-dtype bf16`.
fn trainer(model: Model, precision: Precision, device: &Device) -> Result<Trainer> {
    let amp_dtype = if precision == Precision::Bf16 { "bf16" } else { "none" }.into();
    let task = match model.reconstruct() {
        Some(_) => Task::Pretrain,
        None => Task::Classify,
    };
    let (task, eval_metric) = (task.name().into(), task.metric().name.into());
    let recipe = Recipe {
        task,
        eval_metric,
        lr: Some(1e-4),
        warmup_epochs: 0.0,
        smoothing: 0.0,
        amp_dtype,
        ..Recipe::default()
    };
    Ok(Trainer::new(model, &recipe, 1_000_000, device)?)
}

/// Times of one pass in seconds, shortest first.
fn timed(args: &BenchArgs, mut pass: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    for _ in 0..args.warmup {
        pass()?;
    }
    let (mut times, begin) = (Vec::new(), Instant::now());
    while times.len() < args.runs || begin.elapsed().as_secs_f64() < args.seconds {
        let start = Instant::now();
        pass()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn forward_times(
    args: &BenchArgs,
    model: &Model,
    config: &ModelConfig,
    batch_size: usize,
    device: &Device,
) -> Result<Vec<f64>> {
    let ImageInput { channels, size: [h, w] } = config.input().image();
    let images: Tensor<4> =
        Tensor::random([batch_size, channels, h, w], Distribution::Normal(0.0, 1.0), device);
    let masked = match model.reconstruct() {
        Some(model) => {
            let masks = MaskSampler::new(model, MaskKind::Random, 42).of_batch(batch_size, 0, 0);
            let scale = PixelScale::unit();
            Some((model, masks, scale))
        }
        None => model.as_classifier().map(|_| None)?,
    };
    let pass = || {
        if let Some((model, masks, scale)) = &masked {
            let losses = reconstruct(*model, images.clone(), masks, scale).losses;
            std::hint::black_box(losses);
            return;
        }
        let Ok(logits) = model.logits(images.clone()) else { return };
        let sum: f64 = logits.into_data().iter::<f64>().sum(); // Reading the result waits for the device.
        std::hint::black_box(sum);
    };
    if args.streams > 1 {
        return timed_streams(args, pass);
    }
    timed(args, || {
        pass();
        Ok(())
    })
}

/// Times of passes in `--streams` concurrent thread pools, shortest first. All pools run until each has enough
/// passes, so that none is measured while another is idle.
fn timed_streams(args: &BenchArgs, pass: impl Fn() + Sync) -> Result<Vec<f64>> {
    let threads = (rayon::current_num_threads() / args.streams).max(1);
    let ready = std::sync::Barrier::new(args.streams);
    let done = AtomicUsize::new(0);
    let stream = || {
        let (mut times, mut counted, begin) = (Vec::new(), false, Instant::now());
        while done.load(Ordering::Relaxed) < args.streams {
            let start = Instant::now();
            pass();
            times.push(start.elapsed().as_secs_f64());
            if !counted && times.len() >= args.runs && begin.elapsed().as_secs_f64() >= args.seconds {
                counted = true;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
        times
    };
    let pools: Vec<rayon::ThreadPool> = (0..args.streams)
        .map(|_| rayon::ThreadPoolBuilder::new().num_threads(threads).build())
        .collect::<Result<_, _>>()
        .context("--streams")?;
    let of_pool = |pool: &rayon::ThreadPool| {
        pool.install(|| (0..args.warmup).for_each(|_| pass()));
        ready.wait();
        pool.install(stream)
    };
    let mut times = std::thread::scope(|scope| {
        let streams: Vec<_> = pools.iter().map(|pool| scope.spawn(move || of_pool(pool))).collect();
        streams.into_iter().map(|stream| stream.join().expect("a pass that ends")).collect::<Vec<_>>()
    })
    .concat();
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Whole updates as in a run, on a batch that is on the device.
fn train_times(
    args: &BenchArgs,
    trainer: &mut Trainer,
    config: &ModelConfig,
    sampler: Option<&MaskSampler>,
    batch_size: usize,
    device: &Device,
) -> Result<Vec<f64>> {
    let ImageInput { channels, size: [h, w] } = config.input().image();
    let shape = [batch_size, channels, h, w];
    let classes = config.num_classes().max(1);
    let labels: Vec<usize> = (0..batch_size).map(|i| i % classes).collect();
    let values = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device);
    let examples = Examples {
        images: values.into_data().iter::<f32>().collect(),
        shape,
        targets: smoothed_one_hot(&labels, classes, 0.0)?,
        masks: sampler.map(|sampler| sampler.of_batch(batch_size, 0, 0)),
        indexes: Vec::new(),
    };
    let batch = examples.into_batch(&device.clone().autodiff())?;
    timed(args, || {
        std::hint::black_box(trainer.update(vec![batch.clone()])?);
        Ok(())
    })
}

/// From files to batches: every pass is all images of `data`.
fn data_rows(args: &BenchArgs, data: &Path, name: &str, preprocess: &Preprocess) -> Result<Vec<Measured>> {
    let mut rows = Vec::new();
    for &batch_size in &args.batch_sizes {
        let workers = rayon::current_num_threads();
        let mut images = 0;
        let times = timed(args, || {
            let source = open_dataset(data, &DatasetOptions::default())?;
            let options = LoaderOptions { batch_size, workers, ..LoaderOptions::default() };
            images = 0;
            for batch in Loader::new(source, preprocess.clone(), options)? {
                images += std::hint::black_box(batch?).shape[0];
            }
            Ok(())
        })?;
        let images_per_second = images as f64 / median(&times);
        let [_, h, w] = preprocess.input_size;
        rows.push(Measured { images_per_second, ..Measured::new(name, [h, w], "data", batch_size, &times) });
    }
    Ok(rows)
}

fn report(args: &BenchArgs, measured: &[Measured]) -> Result<()> {
    if args.format == Format::Json {
        return output::json(&measured);
    }
    let mut rows = Rows::new(&[
        "model",
        "pass",
        "precision",
        "batch",
        "streams",
        "median ms",
        "min",
        "max",
        "images/s",
        "GFLOP/s",
        "% of peak",
        "peak MB",
    ]);
    for m in measured {
        rows.push([
            m.model.clone(),
            m.pass.into(),
            m.precision.name().into(),
            m.batch_size.to_string(),
            m.streams.to_string(),
            format!("{:.2}", m.median_ms),
            format!("{:.2}", m.min_ms),
            format!("{:.2}", m.max_ms),
            format!("{:.2}", m.images_per_second),
            m.gflops.map_or_else(|| "-".into(), |gflops| format!("{gflops:.1}")),
            m.share_of_peak.map_or_else(|| "-".into(), |share| format!("{:.0}", 100.0 * share)),
            m.peak_mb.map_or_else(|| "-".into(), |mb| format!("{mb:.0}")),
        ]);
    }
    if args.format == Format::Csv { rows.csv() } else { rows.text() }
}
