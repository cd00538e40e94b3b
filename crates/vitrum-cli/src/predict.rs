//! `vitrum predict`: images to classes, or to numbers.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;
use vitrum::Error;
use vitrum::checkpoint::card::ProblemType;
use vitrum::data::dataset::list_images;
use vitrum::data::decode::{self, Decoded};
use vitrum::data::{DecodeError, DecodeOptions, RgbImage};
use vitrum::models::Model;
use vitrum::tasks::{Classifier, Prediction};

use crate::args::{Format, ImagesArgs, PredictArgs};
use crate::demo;
use crate::memory;
use crate::model;
use crate::output;
use crate::talk::Talk;

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a str,
    #[serde(flatten)]
    outputs: Outputs,
    /// Faults of a file that was read nevertheless.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    notes: &'a [String],
}

/// What the model says of an image.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Outputs {
    /// The most probable classes.
    Predictions(Vec<Prediction>),
    /// The numbers of a regression.
    Values(Vec<Number>),
}

/// A predicted number.
#[derive(Serialize)]
struct Number {
    index: usize,
    label: Option<String>,
    value: f64,
}

/// The answers to a batch.
fn answer(classifier: &Classifier, images: &[RgbImage], topk: usize) -> Result<Vec<Outputs>, Error> {
    if classifier.problem() != ProblemType::Regression {
        return Ok(classifier.predict(images, topk)?.into_iter().map(Outputs::Predictions).collect());
    }
    let number = |(index, value)| Number { index, label: classifier.label(index).map(str::to_string), value };
    let numbers = |row: Vec<f64>| Outputs::Values(row.into_iter().enumerate().map(number).collect());
    Ok(classifier.values(images)?.into_iter().map(numbers).collect())
}

/// Runs the command. It reports an unreadable image at once, and fails at the end.
pub fn run(args: &PredictArgs, talk: Talk) -> Result<()> {
    if args.topk == 0 {
        bail!("--topk must be at least 1");
    }
    let load =
        || model::classifier(&args.input.model, &args.input.preprocess, args.class_map.as_deref(), talk);
    let Asked { files, model: classifier, options } =
        ask(&args.input, load, Classifier::pack, Classifier::model, talk)?;
    let mut writer = Writer::new(args.format, classifier.problem())?;
    let mut failed = 0;
    for chunk in files.chunks(args.input.batch_size) {
        let mut names = Vec::new();
        let mut images: Vec<RgbImage> = Vec::new();
        let mut notes = Vec::new();
        for file in chunk {
            match open_telling(file, &options, talk) {
                Ok(Decoded { image, notes: found }) => {
                    names.push(file.display().to_string());
                    images.push(image);
                    notes.push(found);
                }
                Err(error) => {
                    failed += 1;
                    output::complain(format_args!("error: {error}"));
                    writer.write_error(file, &error)?;
                }
            }
        }
        if images.is_empty() {
            continue;
        }
        let answers = answer(&classifier, &images, args.topk).map_err(|error| named(error, &names))?;
        for ((file, outputs), notes) in names.iter().zip(answers).zip(&notes) {
            writer.write(&Answer { file, outputs, notes })?;
        }
    }
    writer.end()?;
    if failed > 0 {
        bail!("{failed} of {} images could not be read", files.len());
    }
    Ok(())
}

/// Decodes a file and reports its faults.
pub fn open_telling(file: &Path, options: &DecodeOptions, talk: Talk) -> Result<Decoded, DecodeError> {
    let decoded = decode::open_noting(file, options)?;
    decoded.notes.iter().for_each(|note| talk.say(format_args!("{}: {note}", file.display())));
    Ok(decoded)
}

/// Adds the file's name to an error about a non-finite answer.
pub fn named(error: Error, names: &[String]) -> anyhow::Error {
    match error {
        Error::NotFinite { image } if image < names.len() => {
            anyhow::Error::new(error).context(names[image].clone())
        }
        other => other.into(),
    }
}

/// Up to this number of pictures, packing weights and large pages do not pay off.
const FEW: usize = 16;

/// A model and the pictures for it.
pub struct Asked<M> {
    /// The files of the pictures.
    pub files: Vec<PathBuf>,
    /// The model, with its preprocessing.
    pub model: M,
    /// Options for decoding.
    pub options: DecodeOptions,
}

/// Checks the flags, then prepares the work: `load` gives the model, `pack` packs it for many pictures.
pub fn ask<M>(
    args: &ImagesArgs,
    load: impl FnOnce() -> Result<M>,
    pack: impl FnOnce(M) -> M,
    inner: impl Fn(&M) -> &Model,
    talk: Talk,
) -> Result<Asked<M>> {
    if args.batch_size == 0 {
        bail!("--batch-size must be at least 1");
    }
    let files = image_files(&args.images, talk)?;
    let few = files.len() <= FEW;
    if few {
        memory::small_pages();
    }
    let mut model = load()?;
    if !few {
        model = pack(model);
    }
    model::check_batch(inner(&model), args.batch_size.min(files.len()))?;
    let options = model::decode_options(&args.limits, !args.preprocess.no_exif);
    Ok(Asked { files, model, options })
}

/// The named files in order, and the images of named folders, sorted.
pub fn image_files(named: &[PathBuf], talk: Talk) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in named {
        if path.is_dir() {
            let (found, skipped) = list_images(path)?;
            talk.left_out(path.display(), &skipped);
            files.extend(found);
        } else if path.exists() {
            files.push(path.clone());
        } else if path == Path::new("demo") {
            files.extend(demo::pictures()?);
        } else {
            bail!("{}: no such file or folder", path.display());
        }
    }
    Ok(files)
}

impl Outputs {
    /// Lines for people.
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Predictions(predictions) => {
                let line = |Prediction { index, label, prob }: &Prediction| {
                    let label = label.clone().unwrap_or_else(|| format!("class {index}"));
                    format!("  {:5.1} %  {label}", 100.0 * prob)
                };
                predictions.iter().map(line).collect()
            }
            Self::Values(values) => {
                let line = |Number { index, label, value }: &Number| {
                    let label = label.clone().unwrap_or_else(|| format!("value {index}"));
                    format!("  {value:12.6}  {label}")
                };
                values.iter().map(line).collect()
            }
        }
    }

    /// Rows of a table, without the file.
    fn rows(&self) -> Vec<Vec<String>> {
        let text = |label: &Option<String>| label.clone().unwrap_or_default();
        match self {
            Self::Predictions(predictions) => {
                let row = |(rank, Prediction { index, label, prob }): (usize, &Prediction)| {
                    vec![(rank + 1).to_string(), index.to_string(), text(label), format!("{prob:.6}")]
                };
                predictions.iter().enumerate().map(row).collect()
            }
            Self::Values(values) => {
                let row = |Number { index, label, value }: &Number| {
                    vec![index.to_string(), text(label), format!("{value:.6}")]
                };
                values.iter().map(row).collect()
            }
        }
    }
}

/// Writes answers one by one in the requested format.
enum Writer {
    Text,
    Json(Vec<serde_json::Value>),
    Csv(Box<csv::Writer<io::Stdout>>),
}

impl Writer {
    fn new(format: Format, problem: ProblemType) -> Result<Self> {
        Ok(match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json(Vec::new()),
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(io::stdout());
                let written = match problem {
                    ProblemType::Regression => writer.write_record(["file", "index", "label", "value"]),
                    _ => writer.write_record(["file", "rank", "index", "label", "prob"]),
                };
                written.context("writing to stdout")?;
                Self::Csv(Box::new(writer))
            }
        })
    }

    fn write(&mut self, answer: &Answer<'_>) -> Result<()> {
        match self {
            Self::Text => {
                output::line(answer.file)?;
                answer.outputs.lines().into_iter().try_for_each(output::line)?;
            }
            Self::Json(all) => all.push(serde_json::to_value(answer)?),
            Self::Csv(writer) => {
                for row in answer.outputs.rows() {
                    writer.write_field(answer.file)?;
                    writer.write_record(row).context("writing to stdout")?;
                }
                writer.flush()?;
            }
        }
        Ok(())
    }

    /// Reports an unreadable file within the machine-readable output.
    fn write_error(&mut self, file: &Path, error: &DecodeError) -> Result<()> {
        if let Self::Json(all) = self {
            all.push(json!({ "file": file.display().to_string(), "error": error.to_string() }));
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        match self {
            Self::Json(all) => output::json(&all),
            Self::Text | Self::Csv(_) => Ok(()),
        }
    }
}
