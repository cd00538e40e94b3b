//! `vitrum val` of a model that predicts masked patches: its loss.

use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;
use vitrum::checkpoint::load::Loaded;
use vitrum::data::batch::to_tensor;
use vitrum::data::loader::Loader;
use vitrum::models::{Network, PixelScale};
use vitrum::tasks::{MaskKind, MaskSampler};
use vitrum::train::pretext::Validation;

use super::progress;
use crate::args::{Format, ValArgs};
use crate::output::{self, Rows};
use crate::talk::Talk;
use crate::target::Table;

#[derive(Serialize)]
struct Results {
    model: String,
    data: String,
    img_size: [usize; 2],
    mask_ratio: f64,
    seed: u64,
    images: usize,
    /// Mean loss of the masked patches.
    loss: f64,
    bad: usize,
    images_per_second: f64,
    seconds: f64,
}

/// Measures the loss over the images of `loader`, with masks that depend on the seed and the image's place alone.
pub fn run(
    args: &ValArgs,
    loaded: &Loaded,
    device: &burn::tensor::Device,
    loader: &mut Loader,
    talk: Talk,
) -> Result<()> {
    let (Some(model), Some(preprocess)) = (loaded.model.reconstruct(), &loaded.preprocess) else {
        bail!("{}: its preprocessing is not known", loaded.name);
    };
    if args.min_top1.is_some() {
        bail!("--min-top1: a model for masked patches has no top-1");
    }
    let sampler = MaskSampler::new(model, MaskKind::Random, args.model.seed);
    let mut validation = Validation::new(model, &sampler, PixelScale::from(preprocess));
    let mut table =
        args.results_file.as_ref().map(|path| Table::create(path, &["file", "loss"])).transpose()?;
    let bar = progress(loader.num_samples().map(|n| args.limit.map_or(n, |limit| n.min(limit))), talk);
    let (start, mut sum, mut images) = (Instant::now(), 0.0, 0);
    let most = args.limit.unwrap_or(usize::MAX);
    while images < most {
        let Some(batch) = loader.next().transpose()? else { break };
        let pixels = to_tensor(batch.values, batch.shape, loaded.model.dtype(), device)?;
        for (name, row) in batch.names.iter().zip(validation.losses(pixels)).take(most - images) {
            sum += row[0];
            images += 1;
            bar.inc(1);
            if let Some(table) = &mut table {
                table.row(&[name, &row[0].to_string()])?;
            }
        }
    }
    bar.finish_and_clear();
    table.map_or(Ok(()), Table::finish)?;
    if images == 0 {
        bail!("{}: no images were evaluated", args.data.display());
    }
    let seconds = start.elapsed().as_secs_f64();
    let results = Results {
        model: args.model.model.clone(),
        data: args.data.display().to_string(),
        img_size: [preprocess.input_size[1], preprocess.input_size[2]],
        mask_ratio: model.masking().ratio,
        seed: args.model.seed,
        images,
        loss: sum / images as f64,
        bad: loader.bad().len(),
        images_per_second: images as f64 / seconds,
        seconds,
    };
    if args.format == Format::Json {
        return output::json(&results);
    }
    let mut rows = Rows::new(&["images", "masked", "loss", "images/s"]);
    rows.push([
        results.images.to_string(),
        format!("{:.0} %", 100.0 * results.mask_ratio),
        format!("{:.4}", results.loss),
        format!("{:.1}", results.images_per_second),
    ]);
    if args.format == Format::Csv { rows.csv() } else { rows.text() }
}
