//! `vitrum bench`: how fast a model runs on this machine.

use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;
use vitrum::data::augment::smoothed_one_hot;
use vitrum::models::{Model, ModelConfig, VitConfig};
use vitrum::train::Recipe;
use vitrum::train::trainer::{Examples, Trainer};

use crate::args::{BenchArgs, Dtype, Format};
use crate::memory;
use crate::model::{self, Talk};
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Measured {
    model: String,
    img_size: [usize; 2],
    batch_size: usize,
    /// `forward` or `train`.
    pass: &'static str,
    threads: usize,
    runs: usize,
    /// Median time of one pass.
    median_ms: f64,
    min_ms: f64,
    max_ms: f64,
    /// By the median.
    images_per_second: f64,
    /// Two operations per multiply-accumulate of the walk; three times the forward pass's for a training step.
    gflops: f64,
    /// Most memory the process ever had, where the system tells it.
    peak_mb: Option<f64>,
}

/// Runs the command.
pub fn run(args: &BenchArgs, talk: Talk) -> Result<()> {
    if args.runs == 0 || args.batch_sizes.contains(&0) {
        bail!("--runs and --batch-sizes must be at least 1");
    }
    let (loaded, device) = model::open(&args.model, Dtype::F32, false, talk)?;
    let ModelConfig::Vit(config) = loaded.model.config();
    let macs = loaded.model.config().walk()?.macs * if args.train { 3 } else { 1 };
    for &batch_size in &args.batch_sizes {
        memory::check_batch(&config, batch_size, config.img_size, Dtype::F32)?;
    }
    let mut measured = Vec::new();
    for &batch_size in &args.batch_sizes {
        let times = if args.train {
            train_times(args, &loaded.model, &config, batch_size, &device)?
        } else {
            forward_times(args, &loaded.model, &config, batch_size, &device)
        };
        let median = (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2.0;
        measured.push(Measured {
            model: loaded.name.clone(),
            img_size: config.img_size,
            batch_size,
            pass: if args.train { "train" } else { "forward" },
            threads: rayon::current_num_threads(),
            runs: times.len(),
            median_ms: 1e3 * median,
            min_ms: 1e3 * times[0],
            max_ms: 1e3 * times[times.len() - 1],
            images_per_second: batch_size as f64 / median,
            gflops: 2.0 * macs as f64 * batch_size as f64 / median / 1e9,
            peak_mb: memory::peak_mb(),
        });
    }
    report(args, &measured)
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
    config: &VitConfig,
    batch_size: usize,
    device: &Device,
) -> Vec<f64> {
    let [h, w] = config.img_size;
    let images: Tensor<4> =
        Tensor::random([batch_size, config.in_chans, h, w], Distribution::Normal(0.0, 1.0), device);
    let pass = || {
        let logits = model.backbone().forward(images.clone());
        let sum: f64 = logits.into_data().iter::<f64>().sum(); // waits for the device
        std::hint::black_box(sum);
        Ok(())
    };
    timed(args, pass).expect("a forward pass has no errors")
}

/// Whole updates as a run makes them, on a batch that is ready.
fn train_times(
    args: &BenchArgs,
    model: &Model,
    config: &VitConfig,
    batch_size: usize,
    device: &Device,
) -> Result<Vec<f64>> {
    let recipe = Recipe { lr: Some(1e-4), warmup_epochs: 0.0, smoothing: 0.0, ..Recipe::default() };
    let mut trainer = Trainer::new(model.clone(), &recipe, 1_000_000, device)?;
    let [h, w] = config.img_size;
    let shape = [batch_size, config.in_chans, h, w];
    let labels: Vec<usize> = (0..batch_size).map(|i| i % config.num_classes.max(1)).collect();
    let values = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device);
    let examples = Examples {
        images: values.into_data().iter::<f32>().collect(),
        shape,
        targets: smoothed_one_hot(&labels, config.num_classes.max(1), 0.0)?,
    };
    timed(args, || {
        std::hint::black_box(trainer.update(vec![examples.clone()])?);
        Ok(())
    })
}

fn report(args: &BenchArgs, measured: &[Measured]) -> Result<()> {
    if args.format == Format::Json {
        return output::json(&measured);
    }
    let mut rows =
        Rows::new(&["model", "pass", "batch", "median ms", "min", "max", "images/s", "GFLOP/s", "peak MB"]);
    for m in measured {
        rows.push([
            m.model.clone(),
            m.pass.into(),
            m.batch_size.to_string(),
            format!("{:.2}", m.median_ms),
            format!("{:.2}", m.min_ms),
            format!("{:.2}", m.max_ms),
            format!("{:.2}", m.images_per_second),
            format!("{:.1}", m.gflops),
            m.peak_mb.map_or_else(|| "-".into(), |mb| format!("{mb:.0}")),
        ]);
    }
    if args.format == Format::Csv { rows.csv() } else { rows.text() }
}
