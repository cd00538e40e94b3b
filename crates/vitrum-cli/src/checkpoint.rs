//! `vitrum checkpoint`: files of weights.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::json;
use vitrum::checkpoint::diff::diff;
use vitrum::checkpoint::epsilon::change_of_epsilon;
use vitrum::checkpoint::finite::check_narrowing;
use vitrum::checkpoint::inspect::{Inspection, inspect_set, verify};
use vitrum::checkpoint::load::{LoadOptions, Opened, open};
use vitrum::checkpoint::read::read_set;
use vitrum::checkpoint::suggest::suggest_keys;
use vitrum::checkpoint::write::{WriteOptions, write_huggingface, write_model, write_timm};
use vitrum::checkpoint::{Dtype, KeyFile, LoadError, ModelCard};
use vitrum::models::{Config, ModelConfig, catalogue};

use crate::args::{CheckpointCommand, Format, Layout, WeightDtype};
use crate::model::download_bar;
use crate::output::{self, Rows};
use crate::talk::Talk;

/// Runs the command; false if files differ (`diff`) or hold non-finite values (`verify`).
pub fn run(command: CheckpointCommand, talk: Talk) -> Result<bool> {
    match command {
        CheckpointCommand::Inspect { path, weight_set, suggest_keys: true, .. } => {
            let map = read_set(&path, weight_set.as_deref())?;
            output::bytes(suggest_keys(&map).as_bytes()).map(|()| true)
        }
        CheckpointCommand::Inspect { path, stats, weight_set, keys, suggest_keys: false, format } => {
            show(&path, stats, weight_set.as_deref(), keys.as_deref(), format).map(|()| true)
        }
        CheckpointCommand::Convert {
            input,
            output,
            model,
            weight_set,
            keys,
            encoder,
            to,
            timm_epsilon,
            dtype,
            overwrite,
        } => {
            let options = WriteOptions { dtype: Some(dtype.into()), overwrite };
            // transformers' layout can hold both sizes, timm's only one.
            let size_of_processor = to != Layout::HuggingFace;
            let mut opened = read(
                &input,
                model,
                LoadOptions {
                    weight_set,
                    keys,
                    encoder_only: encoder,
                    size_of_processor,
                    ..LoadOptions::new("")
                },
                talk,
            )?;
            if timm_epsilon && to != Layout::Timm {
                bail!("--timm-epsilon goes with --to timm");
            }
            if timm_epsilon {
                take_timm_epsilon(&mut opened, talk)?;
            }
            convert(&opened, &output, to, &options, talk).map(|()| true)
        }
        CheckpointCommand::Diff { a, b, tolerance, format } => compare(&a, &b, tolerance, format),
        CheckpointCommand::Verify { path, sha256, format } => check(&path, sha256.as_deref(), format),
    }
}

impl From<WeightDtype> for Dtype {
    fn from(dtype: WeightDtype) -> Self {
        match dtype {
            WeightDtype::F32 => Self::F32,
            WeightDtype::F16 => Self::F16,
            WeightDtype::Bf16 => Self::BF16,
        }
    }
}

fn show(
    path: &Path,
    stats: bool,
    weight_set: Option<&str>,
    keys: Option<&Path>,
    format: Format,
) -> Result<()> {
    let resolve = |name: &str| catalogue::entry(name).map(|e| e.config.clone()).map_err(|e| e.to_string());
    let keys = keys.map(KeyFile::read).transpose()?;
    let found = inspect_set(path, weight_set, keys.as_ref(), &resolve)?;
    if format == Format::Json {
        return output::json(&found);
    }
    let mut rows = if stats {
        Rows::new(&["tensor", "shape", "type", "min", "max", "mean", "std", "NaN", "inf", "sha256"])
    } else {
        Rows::new(&["tensor", "shape", "type"])
    };
    for tensor in &found.tensors {
        let (name, shape, dtype) =
            (tensor.name.clone(), output::shape(&tensor.shape), tensor.dtype.to_string());
        if !stats {
            rows.push([name, shape, dtype]);
            continue;
        }
        let number = |value: f64| format!("{value:.4e}");
        let s = &tensor.stats;
        rows.push([
            name,
            shape,
            dtype,
            number(s.min),
            number(s.max),
            number(s.mean),
            number(s.std),
            s.nan.to_string(),
            s.inf.to_string(),
            tensor.sha256.clone(),
        ]);
    }
    if format == Format::Csv {
        return rows.csv();
    }
    rows.text()?;
    summary(&found)
}

fn summary(found: &Inspection) -> Result<()> {
    let elements = output::grouped(found.num_elements as u64);
    let megabytes = found.num_bytes as f64 / 1e6;
    output::line(format_args!(
        "\n{}: {} tensors, {elements} values, {megabytes:.1} MB",
        found.path.display(),
        found.tensors.len()
    ))?;
    found.notes.iter().try_for_each(|note| output::line(format_args!("note: {note}")))?;
    for set in found.sets.iter().filter(|_| found.sets.len() > 1) {
        let name = if set.name.is_empty() { "top level" } else { &set.name };
        let mark = if set.chosen { "taken" } else { "not taken" };
        output::line(format_args!("weights: {name}, {} tensors, {mark}", set.tensors))?;
    }
    match found.dialect {
        Some(dialect) => output::line(format_args!("dialect: {}", dialect.name()))?,
        None => output::line("dialect: unknown")?,
    }
    if let Some(card) = &found.card {
        output::line(format_args!(
            "model: {} ({})",
            card.architecture.as_deref().unwrap_or("by its shapes"),
            in_words(&card.config)
        ))?;
    }
    if let Some(error) = &found.card_error {
        output::line(format_args!("model: {error}"))?;
    }
    for (key, value) in &found.metadata {
        output::line(format_args!("metadata: {key} = {value}"))?;
    }
    // Tensors of other sets are reported with the sets.
    found
        .dropped
        .iter()
        .filter(|(_, reason)| !reason.starts_with("of other weights"))
        .try_for_each(|(name, reason)| output::line(format_args!("left out: {name} ({reason})")))
}

/// The sizes of a model, as far as its family has them.
fn in_words(config: &ModelConfig) -> String {
    let [h, w] = config.input().image().size;
    let mut words = vec![format!("{h}x{w}")];
    let fields = config.fields();
    if let Some([p, q]) = fields.get("patch_size").and_then(|v| v.as_array()).map(Vec::as_slice) {
        words.push(format!("patch {p}x{q}"));
    }
    for (word, field) in [("width", "embed_dim"), ("depth", "depth"), ("heads", "num_heads")] {
        words.extend(fields.get(field).map(|value| format!("{word} {value}")));
    }
    words.push(format!("classes {}", config.num_classes()));
    words.join(", ")
}

/// Epsilon of the norms, if the family has one.
fn epsilon(config: &ModelConfig) -> Option<f64> {
    config.field("norm_eps")?.as_f64()
}

/// The weights to convert, with their card.
fn read(input: &Path, model: Option<String>, options: LoadOptions<'_>, talk: Talk) -> Result<Opened> {
    let progress = (!talk.quiet).then(download_bar);
    let (model, checkpoint) = match model {
        Some(model) => (model, Some(input.to_path_buf())),
        None if input.exists() || input.is_symlink() => (input.to_string_lossy().into_owned(), None),
        None => bail!("{}: no such file or folder", input.display()),
    };
    let opened = open(&LoadOptions { model: model.into(), checkpoint, progress, ..options })?;
    opened.notes.iter().for_each(|note| talk.say(note));
    Ok(opened)
}

/// Gives a model the epsilon of timm's architecture, and reports the effect.
fn take_timm_epsilon(opened: &mut Opened, talk: Talk) -> Result<()> {
    let config = &opened.card.config;
    let (Some(own), Some(timm)) = (epsilon(config), epsilon(&architecture(opened)?)) else { return Ok(()) };
    if own == timm {
        return Ok(());
    }
    let change = change_of_epsilon(&opened.tensors, config, timm)?;
    talk.say(format_args!(
        "epsilon {own:e} becomes timm's {timm:e}: outputs for noise change by {change:.1e} of the largest value"
    ));
    opened.card.config = config.with("norm_eps", json!(timm))?;
    Ok(())
}

/// The configuration of the timm architecture to write.
fn architecture(opened: &Opened) -> Result<ModelConfig> {
    let name = opened.card.architecture.as_deref().unwrap_or("vit_base_patch16_224");
    Ok(catalogue::entry(name)?.config.clone())
}

fn convert(opened: &Opened, target: &Path, to: Layout, options: &WriteOptions, talk: Talk) -> Result<()> {
    let card = &opened.card;
    if let Some(dtype) = options.dtype {
        check_narrowing(&opened.tensors, dtype)?.iter().for_each(|note| talk.say(note));
    }
    match to {
        Layout::Timm => {
            let base = architecture(opened)?;
            write_timm(target, &opened.tensors, card, &base, options)
                .map_err(|error| with_hint(error, card, &base))?;
        }
        Layout::HuggingFace => write_huggingface(target, &opened.tensors, card, options)?,
        Layout::Vitrum => {
            let base = architecture(opened)?;
            let reason = write_model(target, &opened.tensors, card, &base, options)?;
            reason.iter().for_each(|reason| talk.say(format_args!("note: {reason}, so timm cannot load it")));
        }
    }
    if card.preprocess.is_none() {
        talk.say("note: the preprocessing of these weights is unknown, so the folder does not contain it");
    }
    talk.say(format_args!(
        "{}: {} tensors from {} names",
        target.display(),
        opened.tensors.len(),
        opened.dialect.name()
    ));
    Ok(())
}

/// Adds a hint if timm's layout cannot hold the epsilon, or a part for pretraining.
fn with_hint(error: LoadError, card: &ModelCard, base: &ModelConfig) -> anyhow::Error {
    match error {
        LoadError::Config { .. } if card.config.encoder().is_some() => anyhow::anyhow!(
            "{error}\nhint: --encoder writes the encoder alone; --to hf and --to vitrum write the whole model"
        ),
        LoadError::Config { .. } if epsilon(&card.config) != epsilon(base) => anyhow::anyhow!(
            "{error}\n\
            hint: --timm-epsilon uses the architecture's and reports the effect; --to hf writes the model's own"
        ),
        other => other.into(),
    }
}

fn compare(a: &Path, b: &Path, tolerance: f64, format: Format) -> Result<bool> {
    let found = diff(a, b)?;
    let agrees = found.agrees(tolerance);
    if format == Format::Json {
        output::json(&json!({ "agrees": agrees, "tolerance": tolerance, "diff": found }))?;
        return Ok(agrees);
    }
    let mut rows = Rows::new(&["tensor", "difference", "largest", "relative"]);
    let dash = || "-".to_string();
    found
        .only_a
        .iter()
        .for_each(|name| rows.push([name.clone(), "only in the first".into(), dash(), dash()]));
    found
        .only_b
        .iter()
        .for_each(|name| rows.push([name.clone(), "only in the second".into(), dash(), dash()]));
    for (name, left, right) in &found.shapes {
        let shapes = format!("{} and {}", output::shape(left), output::shape(right));
        rows.push([name.clone(), shapes, dash(), dash()]);
    }
    for value in found.changed() {
        let kind = if value.dtype_a == value.dtype_b {
            "values".into()
        } else {
            format!("{} and {}", value.dtype_a, value.dtype_b)
        };
        rows.push([
            value.name.clone(),
            kind,
            format!("{:.3e}", value.max_abs),
            format!("{:.3e}", value.max_rel),
        ]);
    }
    if format == Format::Csv {
        rows.csv()?;
        return Ok(agrees);
    }
    if !rows.is_empty() {
        rows.text()?;
    }
    let converted = if found.converted { " (compared under timm's names)" } else { "" };
    let verdict = if agrees { "agree" } else { "differ" };
    output::line(format_args!("{} and {} {verdict}{converted}", a.display(), b.display()))?;
    Ok(agrees)
}

fn check(path: &Path, sha256: Option<&str>, format: Format) -> Result<bool> {
    let found = verify(path, sha256)?;
    let whole = found.not_finite.is_empty();
    if format == Format::Json {
        output::json(&found)?;
        return Ok(whole);
    }
    let compared = if found.compared { "as stated" } else { "nothing to compare with" };
    output::line(format_args!("{}: {} tensors read", found.path.display(), found.num_tensors))?;
    output::line(format_args!("sha256 {} ({compared})", found.sha256))?;
    for (name, nan, infinite) in &found.not_finite {
        output::line(format_args!("{name}: {nan} NaN, {infinite} infinite values"))?;
    }
    output::line(if whole { "all values are finite" } else { "some values are not finite" })?;
    Ok(whole)
}
