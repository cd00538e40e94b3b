//! `vitrum bench`: how fast a model runs on this machine.

use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::{Distribution, Tensor};
use serde::Serialize;
use vitrum::models::ModelConfig;

use crate::args::{BenchArgs, Dtype, Format};
use crate::memory;
use crate::model::{self, Talk};
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Measured {
    model: String,
    img_size: [usize; 2],
    batch_size: usize,
    threads: usize,
    runs: usize,
    /// Median time of one forward pass.
    median_ms: f64,
    min_ms: f64,
    max_ms: f64,
    /// By the median.
    images_per_second: f64,
    /// Two operations per multiply-accumulate of the walk.
    gflops: f64,
}

/// Runs the command.
pub fn run(args: &BenchArgs, talk: Talk) -> Result<()> {
    if args.runs == 0 || args.batch_sizes.contains(&0) {
        bail!("--runs and --batch-sizes must be at least 1");
    }
    let (loaded, device) = model::open(&args.model, Dtype::F32, false, talk)?;
    let ModelConfig::Vit(config) = loaded.model.config();
    let macs = loaded.model.config().walk()?.macs;
    for &batch_size in &args.batch_sizes {
        memory::check_batch(&config, batch_size, config.img_size, Dtype::F32)?;
    }
    let mut measured = Vec::new();
    for &batch_size in &args.batch_sizes {
        let [h, w] = config.img_size;
        let images: Tensor<4> =
            Tensor::random([batch_size, config.in_chans, h, w], Distribution::Normal(0.0, 1.0), &device);
        let mut times = Vec::new();
        for run in 0..args.warmup.saturating_add(args.runs) {
            let start = Instant::now();
            let logits = loaded.model.backbone().forward(images.clone());
            let sum: f64 = logits.into_data().iter::<f64>().sum(); // waits for the device
            std::hint::black_box(sum);
            if run >= args.warmup {
                times.push(start.elapsed().as_secs_f64());
            }
        }
        times.sort_by(f64::total_cmp);
        let median = (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2.0;
        measured.push(Measured {
            model: loaded.name.clone(),
            img_size: config.img_size,
            batch_size,
            threads: rayon::current_num_threads(),
            runs: args.runs,
            median_ms: 1e3 * median,
            min_ms: 1e3 * times[0],
            max_ms: 1e3 * times[times.len() - 1],
            images_per_second: batch_size as f64 / median,
            gflops: 2.0 * macs as f64 * batch_size as f64 / median / 1e9,
        });
    }
    if args.format == Format::Json {
        return output::json(&measured);
    }
    let mut rows = Rows::new(&["model", "batch", "median ms", "min", "max", "images/s", "GFLOP/s"]);
    for m in &measured {
        rows.push([
            m.model.clone(),
            m.batch_size.to_string(),
            format!("{:.2}", m.median_ms),
            format!("{:.2}", m.min_ms),
            format!("{:.2}", m.max_ms),
            format!("{:.2}", m.images_per_second),
            format!("{:.1}", m.gflops),
        ]);
    }
    if args.format == Format::Csv { rows.csv() } else { rows.text() }
}
