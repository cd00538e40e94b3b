//! `vitrum val`: scores and speed on labelled images.

mod masked;

use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::Tensor;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use vitrum::data::Preprocess;
use vitrum::data::dataset::{
    ClassMap, DatasetOptions, DatasetProblem, Skipped, Source, Split, Target, open_dataset,
};
use vitrum::data::loader::{Loader, LoaderOptions, MaxBad};
use vitrum::models::Network;
use vitrum::tasks::Classifier;
use vitrum::tasks::classify::sigmoid;
use vitrum::tasks::evaluate::Accuracy;
use vitrum::train::evaluate::{Evaluated, Pass};
use vitrum::train::judge::{Answers, ClassifyJudge};
use vitrum::train::score::Scores;
use vitrum::train::{Judge, Task, TrainError, judge};

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
    scores: Measured,
    /// Unreadable images that were left out.
    bad: usize,
    /// Entries left out of the data, and notes on how it was read.
    left_out: Skipped,
    /// How the data's classes were matched with the model's.
    classes_matched: String,
    images_per_second: f64,
    seconds: f64,
}

/// The scores, with the number of images.
#[derive(Serialize)]
#[serde(untagged)]
enum Measured {
    /// Of one class per image.
    Accuracy(Accuracy),
    /// Of several classes per image, or of numbers.
    Other {
        images: usize,
        #[serde(flatten)]
        scores: Scores,
    },
}

impl Measured {
    fn images(&self) -> usize {
        match self {
            Self::Accuracy(accuracy) => accuracy.images,
            Self::Other { images, .. } => *images,
        }
    }
}

/// Runs the command; false if `--min-top1` is not met.
pub fn run(args: &ValArgs, talk: Talk) -> Result<bool> {
    if args.batch_size == 0 {
        bail!("--batch-size must be at least 1");
    }
    if let Some(path) = &args.results_file {
        target::check(path)?;
    }
    let (mut loaded, device) = model::loaded(&args.model, &args.preprocess, talk)?;
    if loaded.model.reconstruct().is_some() && loaded.model.classify().is_none() {
        loaded.model = loaded.model.pack();
        let source = open_dataset(&args.data, &split_options(args)?)?;
        let preprocess = loaded.preprocess.clone().unwrap_or_default();
        let mut loader = Loader::new(source, preprocess, loader_options(args))?;
        masked::run(args, &loaded, &device, &mut loader, talk)?;
        tell(&loader, args, talk);
        return Ok(true);
    }
    let classifier = Classifier::new(loaded, device)?.pack();
    let task = Task::of_problem(classifier.problem());
    if task != Task::Classify && args.min_top1.is_some() {
        bail!("--min-top1: a model for {} has no top-1", task.name());
    }
    if task == Task::Classify && !args.target_columns.is_empty() {
        bail!(
            "--target-columns: the model gives one class per image, which is read from one column of labels"
        );
    }
    let (source, how) = match task {
        Task::Regress => open_numbers(args, &classifier)?,
        _ => open(args, &classifier, talk)?,
    };
    let preprocess = classifier.preprocess().clone();
    let mut loader = Loader::new(source, preprocess.clone(), loader_options(args))?;
    let mut results = evaluate(args, &classifier, &mut loader, &preprocess, talk)?;
    results.classes_matched = how;
    tell(&loader, args, talk);
    report(&results, args.format)?;
    match (args.min_top1, &results.scores) {
        (Some(least), Measured::Accuracy(Accuracy { top1, .. })) if *top1 < least => {
            output::complain(format_args!("error: top1 {top1:.3} is below --min-top1 {least}"));
            Ok(false)
        }
        _ => Ok(true),
    }
}

fn loader_options(args: &ValArgs) -> LoaderOptions {
    LoaderOptions {
        batch_size: args.batch_size,
        workers: if args.workers == 0 { rayon::current_num_threads() } else { args.workers },
        max_bad: MaxBad::of_number(args.max_bad),
        // As in timm's evaluation: no EXIF orientation.
        decode: model::decode_options(&args.limits, false),
        ..LoaderOptions::default()
    }
}

/// Images that were left out or are damaged.
fn tell(loader: &Loader, args: &ValArgs, talk: Talk) {
    for bad in loader.bad() {
        output::complain(format_args!("skipped {}: {}", bad.name, bad.reason));
    }
    for fault in loader.faults() {
        talk.say(format_args!("{}: {}", fault.name, fault.reason));
    }
    talk.left_out(args.data.display(), loader.skipped());
}

/// The dataset, and how its classes are matched: by name if the model has any of the names.
fn open(args: &ValArgs, classifier: &Classifier, talk: Talk) -> Result<(Box<dyn Source>, String)> {
    let class_map = args.class_map.as_ref().map(ClassMap::open).transpose()?;
    let options = DatasetOptions { class_map, ..dataset_options(args, classifier)? };
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

/// Where images and targets are, and of which kind the targets are.
fn dataset_options(args: &ValArgs, classifier: &Classifier) -> Result<DatasetOptions> {
    Ok(DatasetOptions {
        targets: Task::of_problem(classifier.problem()).targets(),
        target_columns: args.target_columns.clone(),
        ..split_options(args)?
    })
}

/// Where the images are.
fn split_options(args: &ValArgs) -> Result<DatasetOptions> {
    let split = match &args.split {
        None => None,
        Some(name) => Some(
            Split::of_name(name)
                .with_context(|| format!("--split '{name}': want train, validation or test"))?,
        ),
    };
    Ok(DatasetOptions { image_dir: args.image_dir.clone(), split, ..DatasetOptions::default() })
}

/// The dataset of numbers, and how its columns are matched: the model's own names, unless the flags name others or the
/// table lacks one.
fn open_numbers(args: &ValArgs, classifier: &Classifier) -> Result<(Box<dyn Source>, String)> {
    let options = dataset_options(args, classifier)?;
    let outputs = classifier.model().config().num_classes();
    let names: Vec<String> = (0..outputs).map_while(|i| classifier.label(i).map(str::to_string)).collect();
    if options.target_columns.is_empty() && names.len() == outputs {
        let own = DatasetOptions { target_columns: names, ..options.clone() };
        match open_dataset(&args.data, &own) {
            Ok(source) => return Ok((source, "with the model's columns by name".into())),
            Err(error) if matches!(error.problem, DatasetProblem::TargetColumns { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let source = open_dataset(&args.data, &options)?;
    let (found, columns) = (source.classes().len(), args.data.display());
    if found != outputs {
        bail!("{columns}: {found} columns of numbers, but the model gives {outputs}");
    }
    Ok((source, "by position".into()))
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
    let start = Instant::now();
    let scores = match Task::of_problem(classifier.problem()) {
        Task::Classify => accuracy(args, classifier, loader, talk)?,
        task => other_scores(task, args, classifier, loader, talk)?,
    };
    let seconds = start.elapsed().as_secs_f64();
    Ok(Results {
        model: args.model.model.clone(),
        data: args.data.display().to_string(),
        img_size: [preprocess.input_size[1], preprocess.input_size[2]],
        crop_pct: preprocess.crop_pct,
        interpolation: preprocess.interpolation.name().into(),
        images_per_second: scores.images() as f64 / seconds,
        scores,
        bad: loader.bad().len(),
        left_out: loader.skipped().clone(),
        classes_matched: String::new(),
        seconds,
    })
}

/// The scores of one class per image.
fn accuracy(args: &ValArgs, classifier: &Classifier, loader: &mut Loader, talk: Talk) -> Result<Measured> {
    let header = ["file", "label", "pred", "prob"];
    let mut judge = ClassifyJudge::new(classifier.model().config().num_classes());
    let mut on_batch = |seen: &Evaluated<'_, ClassifyJudge>, table: &mut Option<Table>, bar: &ProgressBar| {
        if let Some(table) = table {
            write_rows(table, seen)?;
        }
        if let Some(accuracy) = seen.judge.accuracy() {
            bar.set_message(format!("Acc@1 {:.3} Acc@5 {:.3}", accuracy.top1, accuracy.top5));
        }
        Ok(())
    };
    judged(args, classifier, loader, &mut judge, &header, talk, &mut on_batch)?;
    Ok(Measured::Accuracy(judge.accuracy().context("no images were evaluated")?))
}

/// The scores of several classes per image, or of numbers.
fn other_scores(
    task: Task,
    args: &ValArgs,
    classifier: &Classifier,
    loader: &mut Loader,
    talk: Talk,
) -> Result<Measured> {
    let header: &[&str] = match task {
        Task::Regress => &["file", "index", "label", "value", "pred"],
        _ => &["file", "labels", "preds"],
    };
    let mut judge = judge(task);
    let judge = &mut *judge;
    judge.reset(classifier.model().config().num_classes());
    let mut images = 0;
    let mut on_batch = |seen: &Evaluated<'_, dyn Judge>, table: &mut Option<Table>, _: &ProgressBar| {
        images += seen.answers.len();
        match table {
            Some(table) => write_targets(table, &seen.answers, classifier),
            None => Ok(()),
        }
    };
    judged(args, classifier, loader, judge, header, talk, &mut on_batch)?;
    Ok(Measured::Other { images, scores: judge.scores() })
}

/// Adds a batch to the table of results and to the progress bar.
type OnBatch<'a, J> = dyn FnMut(&Evaluated<'_, J>, &mut Option<Table>, &ProgressBar) -> Result<()> + 'a;

/// Passes all images to the model and to the judge.
fn judged<J: Judge + ?Sized>(
    args: &ValArgs,
    classifier: &Classifier,
    loader: &mut Loader,
    judge: &mut J,
    header: &[&str],
    talk: Talk,
    on_batch: &mut OnBatch<'_, J>,
) -> Result<()> {
    let mut table = args.results_file.as_ref().map(|path| Table::create(path, header)).transpose()?;
    let total = loader.num_samples().map(|n| args.limit.map_or(n, |limit| n.min(limit)));
    let bar = progress(total, talk);
    let mut answer =
        |images: Tensor<4>, names: &[String]| classifier.logits(images).map_err(|error| named(error, names));
    let mut watch = |seen: Evaluated<'_, J>| {
        bar.inc(seen.batch.names.len() as u64);
        on_batch(&seen, &mut table, &bar)?;
        anyhow::Ok(true)
    };
    let pass = Pass { limit: args.limit, ..Pass::default() };
    vitrum::train::evaluate::evaluate(&mut answer, loader, judge, classifier.device(), pass, &mut watch)
        .map_err(|error| explained(error, args))?;
    bar.finish_and_clear();
    table.map_or(Ok(()), Table::finish)
}

/// A row of the results file for each image.
fn write_rows(table: &mut Table, seen: &Evaluated<'_, ClassifyJudge>) -> Result<()> {
    let Answers::Classes { names, labels, .. } = seen.answers else { return Ok(()) };
    for ((name, label), answer) in names.iter().zip(labels).zip(seen.judge.answers()) {
        let (label, pred) = (label.to_string(), answer.pred.to_string());
        table.row(&[name, &label, &pred, &format!("{:.6}", answer.prob)])?;
    }
    Ok(())
}

/// A row of the results file for each image with several classes, or for each of its numbers.
fn write_targets(table: &mut Table, answers: &Answers<'_>, classifier: &Classifier) -> Result<()> {
    let Answers::Targets { names, logits, targets } = *answers else { return Ok(()) };
    let label = |index: usize| classifier.label(index).map_or_else(|| index.to_string(), str::to_string);
    for ((name, logits), target) in names.iter().zip(logits).zip(targets) {
        if let Target::Values(values) = target {
            for (index, (value, pred)) in values.iter().zip(logits).enumerate() {
                let cells = [index.to_string(), label(index), value.to_string(), format!("{pred:.6}")];
                table.row(&[name, &cells[0], &cells[1], &cells[2], &cells[3]])?;
            }
            continue;
        }
        let listed =
            |classes: &[usize]| classes.iter().map(|&class| label(class)).collect::<Vec<_>>().join("|");
        let preds: Vec<usize> = (0..logits.len()).filter(|&class| sigmoid(logits[class]) > 0.5).collect();
        table.row(&[name, &listed(target.class_indexes()), &listed(&preds)])?;
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
    match format {
        Format::Json => output::json(results),
        Format::Csv => report_csv(results),
        Format::Text => {
            match &results.scores {
                Measured::Accuracy(Accuracy { top1, top1_err, top5, top5_err, loss, .. }) => {
                    output::line(format_args!(
                        " * Acc@1 {top1:.3} ({top1_err:.3}) Acc@5 {top5:.3} ({top5_err:.3}) Loss {loss:.4}"
                    ))?;
                }
                Measured::Other { scores, .. } => {
                    let scores: Vec<String> =
                        scores.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
                    output::line(format_args!(" * {}", scores.join(" ")))?;
                }
            }
            let bad =
                if results.bad > 0 { format!(", {} could not be read", results.bad) } else { String::new() };
            output::line(format_args!(
                "   {} images in {:.1} s, {:.1} images/s{bad}",
                results.scores.images(),
                results.seconds,
                results.images_per_second
            ))
        }
    }
}

fn report_csv(results: &Results) -> Result<()> {
    let [h, w] = results.img_size;
    let size = if h == w { h.to_string() } else { format!("{h}x{w}") };
    let (model, crop_pct, interpolation) = (&results.model, results.crop_pct, &results.interpolation);
    match &results.scores {
        Measured::Accuracy(Accuracy { images, top1, top1_err, top5, top5_err, loss }) => {
            output::line("model,img_size,top1,top1_err,top5,top5_err,loss,images,crop_pct,interpolation")?;
            output::line(format_args!(
                "{model},{size},{top1:.3},{top1_err:.3},{top5:.3},{top5_err:.3},{loss:.6},{images},{crop_pct},\
                 {interpolation}"
            ))
        }
        Measured::Other { images, scores } => {
            let names: Vec<&str> = scores.names().collect();
            let values: Vec<String> = scores.iter().map(|(_, value)| format!("{value:.6}")).collect();
            output::line(format_args!("model,img_size,{},images,crop_pct,interpolation", names.join(",")))?;
            output::line(format_args!(
                "{model},{size},{},{images},{crop_pct},{interpolation}",
                values.join(",")
            ))
        }
    }
}
