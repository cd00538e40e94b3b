//! `vitrum quantize`: a model with int8 weights.

use std::path::Path;

use anyhow::{Result, bail};
use burn::tensor::DType;
use serde::Serialize;
use vitrum::checkpoint::Dtype;
use vitrum::checkpoint::load::{LoadOptions, load, open};
use vitrum::checkpoint::quantize::{QuantizedLayer, check_skip, layers, quantize_file};
use vitrum::checkpoint::write::{WriteOptions, write_quantized};
use vitrum::data::{DecodeOptions, decode};
use vitrum::models::catalogue;
use vitrum::tasks::{Classifier, Prediction};

use crate::args::{Format, QuantizeArgs};
use crate::device::{self, Work};
use crate::model::download_bar;
use crate::output::{self, Rows};
use crate::predict::image_files;
use crate::talk::Talk;

/// Images per forward pass.
const BATCH: usize = 8;

#[derive(Serialize)]
struct Done {
    model: String,
    output: String,
    /// Bytes of the weights in f32, and as written.
    bytes_f32: usize,
    bytes: usize,
    layers: Vec<QuantizedLayer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<Agreement>,
}

/// The answers of both models to the same images.
#[derive(Default, Serialize)]
struct Agreement {
    images: usize,
    /// Number of images with the same top class.
    same_class: usize,
    /// Largest change of a class's probability.
    largest_change: f64,
    /// Images whose top class changes.
    other_class: Vec<String>,
}

/// Runs the command.
pub fn run(args: &QuantizeArgs, talk: Talk) -> Result<()> {
    let device = device::prepare(&args.device, Work::Cpu)?;
    if !vitrum_kernels::has_fast_path(&device, DType::F32) {
        bail!("--device: int8 is computed on the CPU\nhint: --device cpu");
    }
    let options = || LoadOptions {
        checkpoint: args.checkpoint.clone(),
        weight_set: args.weight_set.clone(),
        keys: args.keys.clone(),
        offline: args.offline,
        progress: (!talk.quiet).then(download_bar),
        ..LoadOptions::new(args.model.clone())
    };
    let mut opened = open(&options())?;
    opened.notes.iter().for_each(|note| talk.say(note));
    if opened.card.num_classes() == 0 && !args.images.is_empty() {
        bail!("--images compares classes, and {} has no head", args.model);
    }
    let layers = layers(&opened.card.config)?;
    if layers.is_empty() {
        bail!("{}: a {} has no linear layers but its head", args.model, opened.card.config.family());
    }
    let map = &mut opened.tensors;
    let bytes_f32 = map.tensors.values().map(|t| t.num_elements() * Dtype::F32.size()).sum();
    check_skip(map, &layers, &args.skip).map_err(|error| anyhow::anyhow!("--skip: {error}"))?;
    let layers = quantize_file(map, &layers, &args.skip);
    if layers.is_empty() {
        bail!("{}: --skip leaves no layer to quantise", args.model);
    }
    let name = opened.card.architecture.as_deref().unwrap_or("vit_base_patch16_224");
    let base = catalogue::entry(name)?.config.clone();
    let how = WriteOptions { overwrite: args.overwrite, ..WriteOptions::default() };
    let bytes = write_quantized(&args.output, map, &opened.card, &base, &layers, &how)?;
    drop(opened);
    let agreement = match args.images.is_empty() {
        true => None,
        false => {
            let before = Classifier::new(load(&options(), &device)?, device.clone())?;
            let after = load(&LoadOptions::new(&args.output), &device)?;
            Some(agree(&before, &Classifier::new(after, device)?, &image_files(&args.images, talk)?)?)
        }
    };
    let (model, output) = (args.model.clone(), args.output.display().to_string());
    report(&Done { model, output, bytes_f32, bytes, layers, agreement }, args.format)
}

fn agree(before: &Classifier, after: &Classifier, files: &[impl AsRef<Path>]) -> Result<Agreement> {
    let mut agreement = Agreement::default();
    for chunk in files.chunks(BATCH) {
        let open = |file: &_| decode::open(AsRef::<Path>::as_ref(file), &DecodeOptions::default());
        let images = chunk.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let all = |model: &Classifier| model.predict(&images, usize::MAX);
        for ((file, ours), theirs) in chunk.iter().zip(all(after)?).zip(all(before)?) {
            agreement.images += 1;
            let class = |answers: &[Prediction]| answers.first().map(|answer| answer.index);
            if class(&ours) == class(&theirs) {
                agreement.same_class += 1;
            } else {
                agreement.other_class.push(file.as_ref().display().to_string());
            }
            let mut probs = vec![0.0; theirs.len()];
            theirs.iter().for_each(|answer| probs[answer.index] = answer.prob);
            for answer in &ours {
                let change = (answer.prob - probs[answer.index]).abs();
                agreement.largest_change = agreement.largest_change.max(change);
            }
        }
    }
    Ok(agreement)
}

fn report(done: &Done, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(done);
    }
    let mut rows = Rows::new(&["layer", "shape", "error", "bytes before", "bytes"]);
    for layer in &done.layers {
        rows.push([
            layer.layer.clone(),
            output::shape(&layer.shape),
            format!("{:.2e}", layer.error),
            layer.bytes_before.to_string(),
            layer.bytes_after.to_string(),
        ]);
    }
    if format == Format::Csv {
        return rows.csv();
    }
    rows.text()?;
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    output::line(format_args!(
        "\n{}: {} int8 layers, {:.1} MB instead of {:.1} MB in f32",
        done.output,
        done.layers.len(),
        megabytes(done.bytes),
        megabytes(done.bytes_f32)
    ))?;
    let Some(Agreement { images, same_class, largest_change, other_class }) = &done.agreement else {
        return Ok(());
    };
    output::line(format_args!(
        "same class for {same_class} of {images} images; probabilities change by {largest_change:.3} at most"
    ))?;
    other_class.iter().try_for_each(|file| output::line(format_args!("  another class: {file}")))
}
