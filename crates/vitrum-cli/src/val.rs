//! `vitrum val`: accuracy, loss and speed on labelled images.

use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::Tensor;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use vitrum::data::Preprocess;
use vitrum::data::dataset::{ClassMap, DatasetOptions, Skipped, Source, Split, open_dataset};
use vitrum::data::loader::{Loader, LoaderOptions, MaxBad};
use vitrum::tasks::Classifier;
use vitrum::tasks::evaluate::Accuracy;
use vitrum::train::TrainError;
use vitrum::train::evaluate::{Evaluated, Pass};
use vitrum::train::judge::ClassifyJudge;

use crate::args::{Format, ValArgs};
use crate::model;
use crate::output;
use crate::predict::named;
use crate::talk::Talk;
use crate::target::{self, Table};

#[derive(Serialize)]
struct Results {
    model: String,
    data: String,
    img_size: [usize; 2],
    crop_pct: f64,
    interpolation: String,
    #[serde(flatten)]
    accuracy: Accuracy,
    /// Unreadable images that were left out.
    bad: usize,
    /// Entries left out of the data, and notes on how it was read.
    left_out: Skipped,
    /// How the data's classes were matched with the model's.
    classes_matched: String,
    images_per_second: f64,
    seconds: f64,
}

/// Runs the command; false if `--min-top1` is not met.
pub fn run(args: &ValArgs, talk: Talk) -> Result<bool> {
    if args.batch_size == 0 {
        bail!("--batch-size must be at least 1");
    }
    if let Some(path) = &args.results_file {
        target::check(path)?;
    }
    let classifier = model::classifier(&args.model, &args.preprocess, None, talk)?.pack();
    let (source, how) = open(args, &classifier, talk)?;
    let preprocess = classifier.preprocess().clone();
    let workers = if args.workers == 0 { rayon::current_num_threads() } else { args.workers };
    let options = LoaderOptions {
        batch_size: args.batch_size,
        workers,
        max_bad: MaxBad::of_number(args.max_bad),
        // As in timm's evaluation: no EXIF orientation.
        decode: model::decode_options(&args.limits, false),
        ..LoaderOptions::default()
    };
    let mut loader = Loader::new(source, preprocess.clone(), options)?;
    let mut results = evaluate(args, &classifier, &mut loader, &preprocess, talk)?;
    results.classes_matched = how;
    for bad in loader.bad() {
        output::complain(format_args!("skipped {}: {}", bad.name, bad.reason));
    }
    for fault in loader.faults() {
        talk.say(format_args!("{}: {}", fault.name, fault.reason));
    }
    talk.left_out(args.data.display(), loader.skipped());
    report(&results, args.format)?;
    match args.min_top1 {
        Some(least) if results.accuracy.top1 < least => {
            let top1 = results.accuracy.top1;
            output::complain(format_args!("error: top1 {top1:.3} is below --min-top1 {least}"));
            Ok(false)
        }
        _ => Ok(true),
    }
}

/// The dataset, and how its classes are matched: by name if the model has any of the names.
fn open(args: &ValArgs, classifier: &Classifier, talk: Talk) -> Result<(Box<dyn Source>, String)> {
    let split = match &args.split {
        None => None,
        Some(name) => Some(
            Split::of_name(name)
                .with_context(|| format!("--split '{name}': want train, validation or test"))?,
        ),
    };
    let class_map = args.class_map.as_ref().map(ClassMap::open).transpose()?;
    let options =
        DatasetOptions { class_map, image_dir: args.image_dir.clone(), split, ..DatasetOptions::default() };
    let num_classes = classifier.model().config().num_classes();
    if let (Some(map), Some(path)) = (&options.class_map, &args.class_map) {
        let (found, classes) = (map.names().len(), num_classes);
        if found > classes {
            bail!("--class-map {}: {found} classes, but the model has {classes}", path.display());
        }
        return Ok((open_dataset(&args.data, &options)?, "by the class map".into()));
    }
    let source = open_dataset(&args.data, &options)?;
    if source.classes().is_empty() {
        return Ok((source, "by number".into()));
    }
    let labels: Vec<String> =
        (0..num_classes).map_while(|i| classifier.label(i).map(str::to_string)).collect();
    let (ours, map) = (source.classes(), ClassMap::of_labels(&labels));
    let known = ours.iter().filter(|class| map.get(class).is_some()).count();
    if known == 0 {
        by_position(args, ours, num_classes)?;
        let how = "by position: the model knows none of their names";
        talk.say(format_args!("{}: classes matched {how}", args.data.display()));
        return Ok((source, how.into()));
    }
    let mut how = "with the model's labels by name".to_string();
    let loose: Vec<&str> = ours.iter().filter(|class| map.is_loose(class)).map(String::as_str).collect();
    if !loose.is_empty() {
        how.push_str(&format!(", ignoring case and synonyms: {}", shortened(&loose)));
    }
    let unknown: Vec<&str> =
        ours.iter().filter(|class| map.get(class).is_none()).map(String::as_str).collect();
    if !unknown.is_empty() {
        how.push_str(&format!(
            "; {} of {} are unknown to the model and left out: {}",
            unknown.len(),
            ours.len(),
            shortened(&unknown)
        ));
    }
    talk.say(format_args!("{}: classes matched {how}", args.data.display()));
    Ok((open_dataset(&args.data, &DatasetOptions { class_map: Some(map), ..options })?, how))
}

fn shortened(names: &[&str]) -> String {
    let more = if names.len() > 10 { format!(" and {} more", names.len() - 10) } else { String::new() };
    format!("{}{more}", names[..names.len().min(10)].join(", "))
}

/// Matching by position requires equal numbers of classes.
fn by_position(args: &ValArgs, ours: &[String], num_classes: usize) -> Result<()> {
    if ours.len() != num_classes {
        bail!(
            "{}: the model knows none of the {} classes ({}); it has {} classes\n\
            hint: --class-map FILE names the model's classes in their order",
            args.data.display(),
            ours.len(),
            shortened(&ours.iter().map(String::as_str).collect::<Vec<_>>()),
            num_classes
        );
    }
    Ok(())
}

fn evaluate(
    args: &ValArgs,
    classifier: &Classifier,
    loader: &mut Loader,
    preprocess: &Preprocess,
    talk: Talk,
) -> Result<Results> {
    let num_classes = classifier.model().config().num_classes();
    let header = ["file", "label", "pred", "prob"];
    let mut table = args.results_file.as_ref().map(|path| Table::create(path, &header)).transpose()?;
    let total = loader.num_samples().map(|n| args.limit.map_or(n, |limit| n.min(limit)));
    let bar = progress(total, talk);
    let mut judge = ClassifyJudge::new(num_classes);
    let start = Instant::now();
    let mut answer =
        |images: Tensor<4>, names: &[String]| classifier.logits(images).map_err(|error| named(error, names));
    let mut watch = |seen: Evaluated<'_, ClassifyJudge>| {
        if let Some(table) = &mut table {
            write_rows(table, &seen)?;
        }
        bar.inc(seen.batch.names.len() as u64);
        if let Some(accuracy) = seen.judge.accuracy() {
            bar.set_message(format!("Acc@1 {:.3} Acc@5 {:.3}", accuracy.top1, accuracy.top5));
        }
        anyhow::Ok(true)
    };
    let pass = Pass { limit: args.limit, ..Pass::default() };
    vitrum::train::evaluate::evaluate(&mut answer, loader, &mut judge, classifier.device(), pass, &mut watch)
        .map_err(|error| explained(error, args))?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let accuracy = judge.accuracy().context("no images were evaluated")?;
    if let Some(table) = table {
        table.finish()?;
    }
    Ok(Results {
        model: args.model.model.clone(),
        data: args.data.display().to_string(),
        img_size: [preprocess.input_size[1], preprocess.input_size[2]],
        crop_pct: preprocess.crop_pct,
        interpolation: preprocess.interpolation.name().into(),
        images_per_second: accuracy.images as f64 / seconds,
        accuracy,
        bad: loader.bad().len(),
        left_out: loader.skipped().clone(),
        classes_matched: String::new(),
        seconds,
    })
}

/// A row of the results file for each image.
fn write_rows(table: &mut Table, seen: &Evaluated<'_, ClassifyJudge>) -> Result<()> {
    for ((name, label), answer) in seen.batch.names.iter().zip(seen.labels).zip(seen.judge.answers()) {
        let (label, pred) = (label.to_string(), answer.pred.to_string());
        table.row(&[name, &label, &pred, &format!("{:.6}", answer.prob)])?;
    }
    Ok(())
}

/// The library's error with hints of this program.
fn explained(error: anyhow::Error, args: &ValArgs) -> anyhow::Error {
    match error.downcast_ref() {
        Some(TrainError::NoLabel { name }) => anyhow!("{name}: no label\nhint: `vitrum predict` needs none"),
        Some(TrainError::NoImages) => anyhow!("{}: no images", args.data.display()),
        _ => error,
    }
}

/// A progress bar on a terminal, hidden elsewhere.
pub fn progress(total: Option<usize>, talk: Talk) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total as u64),
        None => ProgressBar::no_length(),
    };
    if talk.quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = "{wide_bar} {pos}/{len} images, {per_sec}, {eta} left  {msg}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn report(results: &Results, format: Format) -> Result<()> {
    let Results { accuracy, .. } = results;
    match format {
        Format::Json => output::json(results),
        Format::Csv => {
            output::line("model,img_size,top1,top1_err,top5,top5_err,loss,images,crop_pct,interpolation")?;
            let Accuracy { images, top1, top1_err, top5, top5_err, loss } = accuracy;
            let [h, w] = results.img_size;
            let size = if h == w { h.to_string() } else { format!("{h}x{w}") };
            output::line(format_args!(
                "{},{size},{top1:.3},{top1_err:.3},{top5:.3},{top5_err:.3},{loss:.6},{images},{},{}",
                results.model, results.crop_pct, results.interpolation
            ))
        }
        Format::Text => {
            let Accuracy { images, top1, top1_err, top5, top5_err, loss } = accuracy;
            output::line(format_args!(
                " * Acc@1 {top1:.3} ({top1_err:.3}) Acc@5 {top5:.3} ({top5_err:.3}) Loss {loss:.4}"
            ))?;
            let bad =
                if results.bad > 0 { format!(", {} could not be read", results.bad) } else { String::new() };
            output::line(format_args!(
                "   {images} images in {:.1} s, {:.1} images/s{bad}",
                results.seconds, results.images_per_second
            ))
        }
    }
}
