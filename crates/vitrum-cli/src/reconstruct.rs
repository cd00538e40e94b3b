//! `vitrum reconstruct`: masked patches of images, filled in.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use vitrum::layers::mask::Masks;
use vitrum::models::Network;
use vitrum::tasks::reconstruct::{VIEWS, Views};
use vitrum::tasks::{MaskKind, Reconstructor};
use vitrum::train::log::pictures::{Pixels, sheet, view_captions};

use crate::args::{Format, MaskKindName, ReconstructArgs};
use crate::demo::save;
use crate::memory;
use crate::model;
use crate::output::{self, Rows};
use crate::predict::{image_files, open_telling};
use crate::talk::Talk;
use crate::target;

/// Shares of masked patches with `--reveal`.
const REVEALED: [f64; 6] = [0.95, 0.9, 0.75, 0.5, 0.25, 0.1];

/// Rows of a picture at most.
const MAX_ROWS: usize = 256;

/// One image with one mask.
#[derive(Serialize)]
struct Row {
    image: String,
    mask_ratio: f64,
    /// Patches that the model did not see.
    masked: usize,
    patches: usize,
    /// Mean loss of the masked patches, on the scale of training.
    loss: f64,
}

/// Runs the command.
pub fn run(args: &ReconstructArgs, talk: Talk) -> Result<()> {
    if let Some(ratio) = args.mask_ratio.filter(|ratio| !(0.0..1.0).contains(ratio)) {
        bail!("--mask-ratio {ratio}: expected a share from 0 to below 1");
    }
    if args.reveal && args.mask_ratio.is_some() {
        bail!("--reveal shows several shares of masked patches\nhint: leave out --mask-ratio");
    }
    let images = image_files(&args.input.images, talk)?;
    if images.is_empty() {
        bail!("no images");
    }
    if args.output.exists() && !args.overwrite {
        bail!("{} exists already\nhint: --overwrite replaces it", args.output.display());
    }
    target::check(&args.output)?;
    image::ImageFormat::from_path(&args.output)
        .with_context(|| format!("--output {}", args.output.display()))?;
    memory::small_pages();
    let (loaded, device) = model::loaded(&args.input.model, &args.input.preprocess, talk)?;
    if loaded.model.reconstruct().is_none() {
        let family = loaded.model.family();
        bail!(
            "{}: a {family} has no decoder, so it cannot predict masked patches\nhint: give the result of `vitrum \
             pretrain`, or a file with the decoder: MAE's *_full.pth, mae_visualize_*.pth, or facebook/vit-mae-base",
            loaded.name
        );
    }
    let reconstructor = Reconstructor::new(loaded, device)?;
    let usual = reconstructor.sampler(args.mask_kind.into(), args.input.model.seed)?;
    let ratios = match (args.reveal, args.mask_ratio) {
        (true, _) => REVEALED.map(Some).to_vec(),
        (false, ratio) => vec![ratio],
    };
    if images.len() * ratios.len() > MAX_ROWS {
        bail!("{} images: a picture has {MAX_ROWS} rows at most", images.len());
    }
    let decode = model::decode_options(&args.input.limits, !args.input.preprocess.no_exif);
    let (mut rows, mut values, mut captions, mut shape) = (Vec::new(), Vec::new(), Vec::new(), [0; 4]);
    for (index, path) in images.iter().enumerate() {
        let image = open_telling(path, &decode, talk)?.image;
        for ratio in &ratios {
            let sampler = match ratio {
                Some(ratio) => usual.clone().ratio(*ratio),
                None => usual.clone(),
            };
            let masks = sampler.of_validation(index, 1);
            let views = reconstructor.views(std::slice::from_ref(&image), &masks)?;
            let row = row(path, &masks, &views);
            captions.extend(view_captions(row.mask_ratio, row.loss));
            rows.push(row);
            values.extend_from_slice(&views.values);
            shape = [shape[0] + views.shape[0], views.shape[1], views.shape[2], views.shape[3]];
        }
    }
    let preprocess = reconstructor.preprocess();
    let pixels = Pixels { values: &values, shape, mean: &preprocess.mean, std: &preprocess.std };
    let picture = sheet(&pixels, &captions, VIEWS.len())?;
    save(&picture, &args.output)?;
    talk.say(format_args!("wrote {}", args.output.display()));
    report(args.format, &rows)
}

impl From<MaskKindName> for MaskKind {
    fn from(name: MaskKindName) -> Self {
        match name {
            MaskKindName::Random => Self::Random,
            MaskKindName::Block => Self::Block,
            MaskKindName::Grid => Self::Grid,
        }
    }
}

fn row(path: &Path, masks: &Masks, views: &Views) -> Row {
    let masked = masks.num_masked();
    let patches = masks.num_patches();
    Row {
        image: path.display().to_string(),
        mask_ratio: masked as f64 / patches as f64,
        masked,
        patches,
        loss: views.losses[0],
    }
}

fn report(format: Format, rows: &[Row]) -> Result<()> {
    if format == Format::Json {
        return output::json(&rows);
    }
    let mut table = Rows::new(&["image", "masked", "patches", "loss"]);
    for Row { image, masked, patches, loss, .. } in rows {
        table.push([image.clone(), masked.to_string(), patches.to_string(), format!("{loss:.4}")]);
    }
    if format == Format::Csv { table.csv() } else { table.text() }
}
