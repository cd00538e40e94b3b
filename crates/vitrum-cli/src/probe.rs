//! `vitrum probe`: what a model's features are worth on a dataset.

mod finetune;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use vitrum::checkpoint::write::write_atomically;
use vitrum::data::dataset::ClassMap;
use vitrum::data::loader::MaxBad;
use vitrum::data::train_set::{Cache, TrainDataOptions, TrainValSets};
use vitrum::probe::chart::Chart;
use vitrum::probe::{FeatureOptions, Features, Knn, Linear, Metric, Probe, ProbeError, Ridge, Row, features};
use vitrum::tasks::Embedder;

use crate::args::{Format, Method, MetricName, ProbeArgs};
use crate::model;
use crate::output::{self, Rows};
use crate::talk::Talk;
use crate::target;
use crate::val::progress;

/// What `--format json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    data: String,
    pool: &'static str,
    /// Numbers of an image; absent if only the model was fine-tuned.
    features: Option<usize>,
    classes: usize,
    train_images: usize,
    val_images: usize,
    unreadable: usize,
    seed: u64,
    feature_seconds: Option<f64>,
    cached: bool,
    run: Option<String>,
    rows: &'a [Row],
}

/// Runs the command.
pub fn run(args: &ProbeArgs, talk: Talk) -> Result<ExitCode> {
    if args.features.feature_batch_size == 0 {
        bail!("--feature-batch-size must be at least 1");
    }
    if let Some(path) = &args.plot {
        ending(path)?;
        target::check(path)?;
    }
    let embedder = model::embedder(&args.model, &args.preprocess, talk)?;
    let sets = TrainValSets::open(&data_options(args, &embedder)?)?;
    talk.left_out(args.data.display(), &sets.skipped());
    talk.say(&sets.how);
    if sets.val.is_empty() {
        return Err(ProbeError::NoValidation { data: args.data.clone() }.into());
    }
    let probe = probe(args, sets.train.len());
    probe.check(sets.train.len())?;
    let job = match args.method.contains(&Method::Finetune) {
        true => Some(finetune::job(args)?),
        false => None,
    };
    let device = embedder.device().clone();
    let (mut rows, mut found) = (Vec::new(), None);
    if probe != Probe::default() {
        let computed = compute(args, embedder, &sets, talk)?;
        rows = probe.rows(&computed, &device, &mut |method| talk.say(format_args!("probing: {method}")))?;
        found = Some(computed);
    }
    let mut run = None;
    let mut code = ExitCode::SUCCESS;
    if let Some(job) = &job {
        match finetune::run(job, sets.train.len(), sets.classes.len(), talk)? {
            finetune::Ended::Done(row, folder) => {
                rows.push(row);
                run = Some(folder.display().to_string());
            }
            finetune::Ended::Stopped => code = ExitCode::from(crate::train::STOPPED),
        }
    }
    if let Some(path) = &args.plot {
        draw(args, &rows, path)?;
    }
    report(args, &sets, found.as_ref(), run, &rows)?;
    Ok(code)
}

/// The dataset's parts. Images are read once, so none is kept decoded.
fn data_options(args: &ProbeArgs, embedder: &Embedder) -> Result<TrainDataOptions> {
    let parts = &args.parts;
    let [_, height, width] = embedder.preprocess().input_size;
    Ok(TrainDataOptions {
        val_data: parts.val_data.clone(),
        train_split: parts.train_split.clone(),
        val_split: parts.val_split.clone(),
        val_fraction: parts.val_fraction,
        fraction: parts.fraction,
        class_map: parts.class_map.as_ref().map(ClassMap::open).transpose().context("--class-map")?,
        image_dir: parts.image_dir.clone(),
        seed: args.model.seed,
        demo_size: height.max(width) as u32,
        decode: model::decode_options(&args.limits, false),
        cache: Cache::None,
        ..TrainDataOptions::new(&args.data)
    })
}

/// The methods that read frozen features.
fn probe(args: &ProbeArgs, images: usize) -> Probe {
    let seed = args.model.seed;
    let asked = |method: Method| args.method.contains(&method);
    let metric = |name: &MetricName| match name {
        MetricName::Cosine => Metric::Cosine,
        MetricName::Euclidean => Metric::Euclidean,
    };
    let k = match args.knn.k.is_empty() {
        true => Knn::default().k.into_iter().filter(|&k| k <= images).collect(),
        false => args.knn.k.clone(),
    };
    let (ridge, linear) = (&args.ridge, &args.linear);
    Probe {
        knn: asked(Method::Knn).then(|| Knn {
            k,
            metrics: args.knn.metric.iter().map(metric).collect(),
            temperature: args.knn.temperature,
        }),
        ridge: asked(Method::Ridge).then(|| Ridge {
            shots: ridge.shots.clone(),
            draws: ridge.draws,
            l2: ridge.l2.clone(),
            whiten: !ridge.no_whiten,
            bias: ridge.bias,
            seed,
        }),
        linear: asked(Method::Linear).then(|| Linear {
            epochs: linear.epochs,
            warmup_epochs: linear.warmup_epochs,
            batch_size: linear.batch_size,
            blr: linear.blr.clone(),
            opt: linear.opt.clone(),
            weight_decay: linear.weight_decay,
            seed,
        }),
    }
}

/// The features, computed or from the cache.
fn compute(args: &ProbeArgs, embedder: Embedder, sets: &TrainValSets, talk: Talk) -> Result<Features> {
    model::check_batch(embedder.model(), args.features.feature_batch_size)?;
    let workers = if args.parts.workers == 0 { rayon::current_num_threads() } else { args.parts.workers };
    let folder = args.features.cache.clone().unwrap_or_else(|| args.output.join("features"));
    let options = FeatureOptions {
        pool: args.features.pool,
        batch_size: args.features.feature_batch_size,
        workers,
        max_bad: MaxBad::of_number(args.parts.max_bad),
        decode: model::decode_options(&args.limits, false),
        max_bytes: args.features.max_memory.map(|mib| mib.saturating_mul(1 << 20)),
        cache: (!args.features.no_cache).then_some(folder),
    };
    let bar = progress(Some(sets.train.len() + sets.val.len()), talk);
    let found = features(&embedder.pack(), sets, &options, &mut |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    for bad in &found.bad {
        output::complain(format_args!("skipped {}: {}", bad.name, bad.reason));
    }
    let (train, val, dim) = (found.train.len(), found.val.len(), found.dim());
    let what = format!("{train} training and {val} validation images, {dim} numbers each");
    match &found.reused {
        Some(file) => talk.say(format_args!("features of {what}: reused from {}", file.display())),
        None => talk.say(format_args!("features of {what}: computed in {:.1} s", found.seconds)),
    }
    Ok(found)
}

fn report(
    args: &ProbeArgs,
    sets: &TrainValSets,
    found: Option<&Features>,
    run: Option<String>,
    rows: &[Row],
) -> Result<()> {
    match args.format {
        Format::Json => output::json(&Report {
            model: &args.model.model,
            data: args.data.display().to_string(),
            pool: args.features.pool.name(),
            features: found.map(Features::dim),
            classes: sets.classes.len(),
            train_images: found.map_or(sets.train.len(), |found| found.train.len()),
            val_images: found.map_or(sets.val.len(), |found| found.val.len()),
            unreadable: found.map_or(0, |found| found.bad.len()),
            seed: args.model.seed,
            feature_seconds: found.map(|found| found.seconds),
            cached: found.is_some_and(|found| found.reused.is_some()),
            run,
            rows,
        }),
        Format::Csv => {
            let mut table = Rows::new(&[
                "method", "setting", "top1", "top1_std", "top5", "top5_std", "draws", "images", "seconds",
            ]);
            let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
            for row in rows {
                table.push([
                    row.method.into(),
                    row.setting.clone(),
                    number(Some(row.top1)),
                    number(row.top1_std),
                    number(row.top5),
                    number(row.top5_std),
                    row.draws.to_string(),
                    row.images.to_string(),
                    format!("{:.3}", row.seconds),
                ]);
            }
            table.csv()
        }
        Format::Text => {
            let mut table = Rows::new(&["method", "setting", "top-1 %", "top-5 %", "images", "seconds"]);
            let number = |value: Option<f64>, std: Option<f64>| match (value, std) {
                (None, _) => "-".to_string(),
                (Some(value), None) => format!("{value:.2}"),
                (Some(value), Some(std)) => format!("{value:.2} ± {std:.2}"),
            };
            for row in rows {
                table.push([
                    row.method.into(),
                    row.setting.clone(),
                    number(Some(row.top1), row.top1_std),
                    number(row.top5, row.top5_std),
                    row.images.to_string(),
                    format!("{:.1}", row.seconds),
                ]);
            }
            table.text()
        }
    }
}

/// `svg` or `png`.
fn ending(path: &Path) -> Result<String> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match ending {
        Some(ending) if ending == "svg" || ending == "png" => Ok(ending),
        _ => bail!("--plot {}: want a name that ends in .svg or .png", path.display()),
    }
}

fn draw(args: &ProbeArgs, rows: &[Row], path: &Path) -> Result<()> {
    let title = format!("{} on {}", args.model.model, args.data.display());
    let chart = Chart::new(&title, rows);
    let bytes = if ending(path)? == "svg" { chart.svg()?.into_bytes() } else { chart.png()? };
    write_atomically(path, &bytes).context("--plot")
}
