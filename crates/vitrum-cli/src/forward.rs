//! `vitrum forward` and `vitrum verify`: the raw numbers.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use burn::tensor::Tensor;
use serde::Serialize;
use serde_json::json;
use vitrum::checkpoint::tensors::{HostTensor, TensorMap};
use vitrum::layers::mask::Masks;
use vitrum::layers::observe::{Observer, Recorder, Seen, Silent};
use vitrum::models::{
    Config, ImageInput, Inputs, Model, ModelConfig, Network, PixelScale, Reconstruct, Want,
};
use vitrum::tasks::{MaskKind, MaskSampler};

use crate::args::{Dtype, Format, ForwardArgs, VerifyArgs};
use crate::memory;
use crate::model;
use crate::output::{self, Rows};
use crate::talk::Talk;
use crate::target;
use crate::tensors::{self, Output};

/// Runs `vitrum forward`.
pub fn run(args: &ForwardArgs, talk: Talk) -> Result<()> {
    if same_file(&args.input, &args.output) {
        bail!("--output {} is the input\nhint: name another file", args.output.display());
    }
    target::check(&args.output)?;
    memory::small_pages();
    let (loaded, device) = model::open(&args.model, args.dtype, false, talk)?;
    let config = loaded.model.config();
    let file = tensors::read(&args.input)?;
    let ImageInput { channels, .. } = config.input().image();
    let images = tensors::input(&file, channels, args.dtype.into(), &device)?;
    let own = config.input().image().size;
    let config = sized(&config, &images)?;
    let size = config.input().image().size;
    if size != own {
        talk.say(format_args!(
            "images are {}x{}, the model takes {}x{}: positions are resized",
            size[0], size[1], own[0], own[1]
        ));
    }
    let total = images.dims()[0];
    let step = if args.batch_size == 0 { total } else { args.batch_size.min(total) };
    memory::check_batch(&config, step, args.dtype)?;
    let masks = match loaded.model.reconstruct() {
        Some(model) => Some(masks(model, &file, total, talk)?),
        None => None,
    };
    let mut parts: Vec<(String, Vec<Seen>)> = Vec::new();
    for first in (0..total).step_by(step) {
        let count = step.min(total - first);
        let images = images.clone().narrow(0, first, count);
        let masks = masks.as_ref().map(|masks| masks.narrow(first, count));
        let seen = trace(&loaded.model, images, masks.as_ref(), args.trace, args.attention)?;
        if parts.is_empty() {
            parts = seen.into_iter().map(|(name, seen)| (name, vec![seen])).collect();
        } else {
            parts.iter_mut().zip(seen).for_each(|((_, all), (_, seen))| all.push(seen));
        }
    }
    let counts: Vec<f64> =
        (0..total).step_by(step).map(|first| masked(&masks, first, step.min(total - first))).collect();
    let outputs: Vec<(String, Output)> = parts
        .into_iter()
        .map(|(name, all)| {
            let joined = if name == "loss" { mean(all, &counts) } else { joined(all) };
            (name, joined)
        })
        .collect();
    let metadata = HashMap::from([
        ("model".to_string(), loaded.name.clone()),
        ("vitrum".to_string(), env!("CARGO_PKG_VERSION").to_string()),
    ]);
    tensors::write(&args.output, &outputs, metadata)?;
    let tensors = if outputs.len() == 1 { "tensor" } else { "tensors" };
    talk.say(format_args!("wrote {} {tensors} to {}", outputs.len(), args.output.display()));
    Ok(())
}

fn same_file(a: &std::path::Path, b: &std::path::Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The configuration for images of this size; refuses an invalid size.
fn sized(config: &ModelConfig, images: &Tensor<4>) -> Result<ModelConfig> {
    let [_, _, h, w] = images.dims();
    let config = config.with("img_size", json!([h, w]))?;
    config.validate().with_context(|| format!("images of {h}x{w}"))?;
    Ok(config)
}

/// `logits`, `features` and, if requested, every named intermediate, in the order of the network.
///
/// With masks, `features` are those of the patches that the model sees, and `loss`, `pred` and `mask` follow.
fn trace(
    model: &Model,
    images: Tensor<4>,
    masks: Option<&Masks>,
    all: bool,
    with_attention: bool,
) -> Result<Vec<(String, Seen)>> {
    let backbone = model.as_backbone()?;
    let inputs = match masks {
        Some(masks) => Inputs::Masked(images.clone(), masks.clone()),
        None => images.clone().into(),
    };
    let mut recorder = Recorder { with_attention, seen: Vec::new() };
    let mut silent = Silent;
    let watch: &mut dyn Observer = if all { &mut recorder } else { &mut silent };
    let features = backbone.features(inputs, Want::Last, watch);
    let tokens = features.clone().last().tokens;
    let mut seen = std::mem::take(&mut recorder.seen);
    seen.push(("features".into(), Seen::Tokens(tokens)));
    if let (Some(model), Some(masks)) = (model.reconstruct(), masks) {
        let watch: &mut dyn Observer = if all { &mut recorder } else { &mut silent };
        let prediction = model.predict(features.clone(), masks, watch);
        seen.append(&mut recorder.seen);
        let scale = PixelScale::unit();
        let loss = model.loss(prediction.clone(), images, masks, &scale);
        let mask = masks.tensor(&prediction.device(), prediction.dtype());
        seen.push(("loss".into(), Seen::Vectors(loss.reshape([1, 1]))));
        seen.push(("pred".into(), Seen::Tokens(prediction)));
        seen.push(("mask".into(), Seen::Vectors(mask)));
    }
    if let Some(classifier) = model.classify() {
        let watch: &mut dyn Observer = if all { &mut recorder } else { &mut silent };
        let logits = classifier.head(features, watch);
        seen.append(&mut recorder.seen);
        seen.push(("logits".into(), Seen::Vectors(logits)));
    }
    Ok(seen)
}

/// The masks of a model that predicts masked patches: from `noise` `[B, N]`, or drawn from a fixed seed.
fn masks(model: &dyn Reconstruct, file: &TensorMap, images: usize, talk: Talk) -> Result<Masks> {
    const SEED: u64 = 42;
    let [rows, columns] = model.grid();
    let (count, path) = (rows * columns, file.path.display());
    let Some(noise) = file.get("noise") else {
        talk.say(format_args!("{path}: no tensor `noise`; masks are drawn from seed {SEED}"));
        return Ok(MaskSampler::new(model, MaskKind::Random, SEED).of_validation(0, images));
    };
    if noise.shape() != [images, count] || !noise.dtype().is_float() {
        bail!(
            "{path}: tensor `noise` has shape {:?} and type {}, expected floats [{images}, {count}]",
            noise.shape(),
            noise.dtype()
        );
    }
    let values = noise.to_f32();
    if values.iter().any(|value| !value.is_finite()) {
        bail!("{path}: tensor `noise` holds values that are NaN or infinite");
    }
    Ok(Masks::from_noise(&values, count, model.masking().ratio))
}

/// The number of masked patches of some images.
fn masked(masks: &Option<Masks>, first: usize, images: usize) -> f64 {
    let Some(masks) = masks else { return 1.0 };
    masks.narrow(first, images).num_masked() as f64
}

/// The mean of the batches' losses with these weights.
fn mean(parts: Vec<Seen>, weights: &[f64]) -> Output {
    let whole: f64 = weights.iter().sum::<f64>().max(1.0);
    let terms = parts.into_iter().zip(weights).filter_map(|(part, weight)| match part {
        Seen::Vectors(x) => Some(x * (weight / whole)),
        _ => None,
    });
    terms.reduce(|a, b| a + b).expect("at least one batch").reshape([1]).into()
}

/// Concatenates batches.
fn joined(parts: Vec<Seen>) -> Output {
    let (mut tokens, mut vectors, mut attention) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        match part {
            Seen::Tokens(x) => tokens.push(x),
            Seen::Vectors(x) => vectors.push(x),
            Seen::Attention(x) => attention.push(x),
        }
    }
    if !tokens.is_empty() {
        Tensor::cat(tokens, 0).into()
    } else if !vectors.is_empty() {
        Tensor::cat(vectors, 0).into()
    } else {
        Tensor::cat(attention, 0).into()
    }
}

#[derive(Serialize)]
struct Compared {
    name: String,
    /// Largest difference over largest value of the reference.
    error: f64,
    /// Index of the largest difference.
    index: Vec<usize>,
    ours: f64,
    theirs: f64,
    ok: bool,
}

#[derive(Serialize)]
struct Verdict {
    model: String,
    tolerance: f64,
    /// The first value out of tolerance, in the order of the network.
    first_departure: Option<String>,
    /// Names in the reference that the model does not produce.
    not_compared: Vec<String>,
    compared: Vec<Compared>,
}

/// Runs `vitrum verify`; true if everything agrees.
pub fn verify(args: &VerifyArgs, talk: Talk) -> Result<bool> {
    let (loaded, device) = model::open(&args.model, args.dtype, true, talk)?;
    let config = loaded.model.config();
    let reference = tensors::read(&args.against)?;
    let ImageInput { channels, .. } = config.input().image();
    let images = tensors::input(&reference, channels, args.dtype.into(), &device)?;
    memory::check_batch(&sized(&config, &images)?, images.dims()[0], args.dtype)?;
    let tolerance = args.tolerance.unwrap_or(if args.dtype == Dtype::F64 { 1e-9 } else { 5e-6 });
    let with_attention = reference.names().any(|name| name.ends_with("attn.weights"));
    let masks = match loaded.model.reconstruct() {
        Some(model) if reference.contains("noise") => Some(masks(model, &reference, images.dims()[0], talk)?),
        _ => None,
    };
    let compared = compare(&loaded.model, images, masks.as_ref(), &reference, with_attention, tolerance)?;
    if compared.is_empty() {
        bail!(
            "{}: nothing to compare with\nhint: give it `logits`, `features` or timm's module names (`blocks.0.attn`)",
            args.against.display()
        );
    }
    let known =
        |name: &&str| !["input", "noise"].contains(name) && !compared.iter().any(|c| c.name == **name);
    let verdict = Verdict {
        model: loaded.name.clone(),
        tolerance,
        first_departure: compared.iter().find(|c| !c.ok).map(|c| c.name.clone()),
        not_compared: reference.names().filter(known).map(str::to_string).collect(),
        compared,
    };
    report(&verdict, args.format)?;
    Ok(verdict.first_departure.is_none())
}

fn compare(
    model: &Model,
    images: Tensor<4>,
    masks: Option<&Masks>,
    reference: &TensorMap,
    with_attention: bool,
    tolerance: f64,
) -> Result<Vec<Compared>> {
    let mut compared = Vec::new();
    for (name, seen) in trace(model, images, masks, true, with_attention)? {
        let Some(theirs) = reference.get(&name) else { continue };
        let (shape, ours) = match seen {
            Seen::Tokens(x) => values(x),
            // A loss is one number.
            Seen::Vectors(x) if name == "loss" => values(x.reshape([1])),
            Seen::Vectors(x) => values(x),
            Seen::Attention(x) => values(x),
        };
        compared.push(difference(name, &shape, &ours, theirs, tolerance).context("comparing")?);
    }
    Ok(compared)
}

fn values<const D: usize>(x: Tensor<D>) -> (Vec<usize>, Vec<f64>) {
    let shape = x.dims().to_vec();
    (shape, x.into_data().iter::<f64>().collect())
}

fn difference(
    name: String,
    shape: &[usize],
    ours: &[f64],
    theirs: &HostTensor,
    tolerance: f64,
) -> Result<Compared> {
    if theirs.shape() != shape {
        bail!("`{name}` has shape {shape:?} here and {:?} in the reference", theirs.shape());
    }
    let theirs = theirs.to_f64();
    let largest = theirs.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let distance = |i: usize| match (ours[i] - theirs[i]).abs() {
        d if d.is_nan() => f64::INFINITY,
        d => d,
    };
    let worst = (0..ours.len()).max_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(0);
    let error = if ours.is_empty() { 0.0 } else { distance(worst) / largest };
    let mut rest = worst;
    let mut index: Vec<usize> = Vec::new();
    for side in shape.iter().rev() {
        index.push(rest % side.max(&1));
        rest /= side.max(&1);
    }
    index.reverse();
    let at = |values: &[f64]| values.get(worst).copied().unwrap_or_default();
    Ok(Compared { name, error, index, ours: at(ours), theirs: at(&theirs), ok: error <= tolerance })
}

fn report(verdict: &Verdict, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(verdict);
    }
    let mut rows = Rows::new(&["layer", "error", "where", "ours", "theirs", ""]);
    for Compared { name, error, index, ours, theirs, ok } in &verdict.compared {
        let mark = match (&verdict.first_departure, ok) {
            (Some(first), false) if first == name => "first departure",
            (_, false) => "departs",
            _ => "ok",
        };
        rows.push([
            name.clone(),
            format!("{error:.1e}"),
            format!("{index:?}"),
            format!("{ours:.6e}"),
            format!("{theirs:.6e}"),
            mark.into(),
        ]);
    }
    if format == Format::Csv {
        return rows.csv();
    }
    rows.text()?;
    match &verdict.first_departure {
        Some(first) => {
            output::line(format_args!("\nfirst departure: {first} (more than {:.0e})", verdict.tolerance))
        }
        None => output::line(format_args!(
            "\nall {} agree within {:.0e}",
            verdict.compared.len(),
            verdict.tolerance
        )),
    }
}
