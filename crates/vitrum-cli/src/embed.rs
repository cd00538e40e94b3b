//! `vitrum embed`: images to feature vectors.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::Tensor;
use serde_json::json;
use vitrum::checkpoint::write::write_atomically;
use vitrum::tasks::Embedder;
use vitrum::tasks::classify::rows;
use vitrum::tasks::embed::normalized;

use crate::args::{EmbedArgs, EmbedFormat, EmbedKind};
use crate::model;
use crate::output;
use crate::predict::{Asked, ask, named, open_telling};
use crate::talk::Talk;
use crate::target;
use crate::tensors::{self, Output};

/// Runs the command. An unreadable image ends it, so that rows and files always match.
pub fn run(args: &EmbedArgs, talk: Talk) -> Result<()> {
    let format = format_of(args)?;
    if let Some(output) = &args.output {
        target::check(output)?;
    }
    let load = || model::embedder(&args.input.model, &args.input.preprocess, talk);
    let Asked { files, model, options } = ask(&args.input, load, Embedder::pack, Embedder::model, talk)?;
    let (mut vectors, mut all_tokens) = (Vec::new(), Vec::new());
    for chunk in files.chunks(args.input.batch_size) {
        let images = chunk
            .iter()
            .map(|file| Ok(open_telling(file, &options, talk)?.image))
            .collect::<Result<Vec<_>>>()?;
        let names: Vec<String> = chunk.iter().map(|file| file.display().to_string()).collect();
        match args.kind {
            EmbedKind::Tokens => {
                all_tokens.push(model.tokens(&images).map_err(|error| named(error, &names))?)
            }
            EmbedKind::Pooled => {
                let x = model.pooled(&images).map_err(|error| named(error, &names))?;
                let x = if args.normalize { normalized(x) } else { x };
                if format == EmbedFormat::JsonLines && args.output.is_none() {
                    print_lines(chunk, x)?; // Lines are printed as they are computed.
                } else {
                    vectors.push(x);
                }
            }
        }
    }
    let Some(output) = &args.output else { return Ok(()) };
    let features: Output = match args.kind {
        EmbedKind::Tokens => Tensor::cat(all_tokens, 0).into(),
        EmbedKind::Pooled if format == EmbedFormat::JsonLines => {
            return write_lines(output, &files, Tensor::cat(vectors, 0));
        }
        EmbedKind::Pooled => Tensor::cat(vectors, 0).into(),
    };
    match format {
        EmbedFormat::Npy => write_atomically(output, &features.npy()?).context("writing")?,
        _ => {
            let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            let metadata = HashMap::from([("files".to_string(), serde_json::to_string(&names)?)]);
            tensors::write(output, &[("features".to_string(), features)], metadata)?;
        }
    }
    let images = if files.len() == 1 { "image" } else { "images" };
    talk.say(format_args!("wrote {} {images} to {}", files.len(), output.display()));
    Ok(())
}

fn format_of(args: &EmbedArgs) -> Result<EmbedFormat> {
    let extension =
        args.output.as_ref().and_then(|path| path.extension()).map(|e| e.to_string_lossy().to_lowercase());
    let by_name = match extension.as_deref() {
        Some("npy") => EmbedFormat::Npy,
        Some("safetensors") => EmbedFormat::Safetensors,
        _ => EmbedFormat::JsonLines,
    };
    let format = args.format.unwrap_or(by_name);
    if format != EmbedFormat::JsonLines && args.output.is_none() {
        bail!("--format of binary files needs --output FILE");
    }
    if format == EmbedFormat::JsonLines && args.kind == EmbedKind::Tokens {
        bail!("--kind tokens is written as safetensors or npy\nhint: --output tokens.npy");
    }
    if args.normalize && args.kind == EmbedKind::Tokens {
        bail!("--normalize is for one vector per image (--kind pooled)");
    }
    Ok(format)
}

fn lines(files: &[PathBuf], x: Tensor<2>) -> Vec<String> {
    let line = |(file, row): (&PathBuf, Vec<f64>)| {
        let row: Vec<f32> = row.into_iter().map(|v| v as f32).collect();
        json!({ "file": file.display().to_string(), "features": row }).to_string()
    };
    files.iter().zip(rows(x)).map(line).collect()
}

fn print_lines(files: &[PathBuf], x: Tensor<2>) -> Result<()> {
    lines(files, x).iter().try_for_each(output::line)
}

fn write_lines(path: &Path, files: &[PathBuf], x: Tensor<2>) -> Result<()> {
    let mut text = Vec::new();
    for line in lines(files, x) {
        writeln!(text, "{line}").context("formatting")?;
    }
    write_atomically(path, &text).context("writing")
}
