//! `vitrum data`: check, measure and split datasets.

mod check;
mod split;
mod stats;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use sha2::{Digest, Sha256};
use vitrum::data::dataset::{ClassMap, DatasetOptions, ImageSource, Sample, splits_of};
use vitrum::data::train_set::{Subset, TrainSet, TrainSetOptions};
use vitrum::data::{DecodeOptions, RgbImage, decode};

use crate::args::{DataCommand, DataReadArgs};
use crate::model;
use crate::talk::Talk;
use crate::val::progress;

/// Runs the command; false if a requested gate is not met.
pub fn run(command: &DataCommand, talk: Talk) -> Result<bool> {
    match command {
        DataCommand::Check(args) => check::run(args, talk),
        DataCommand::Stats(args) => stats::run(args, talk).map(|()| true),
        DataCommand::Split(args) => split::run(args, talk).map(|()| true),
    }
}

/// A dataset without parts, or one part of a dataset.
struct Part {
    name: String,
    set: Arc<TrainSet>,
}

impl Part {
    fn class(&self, label: Option<usize>) -> &str {
        label.and_then(|label| self.set.classes().get(label)).map_or("-", String::as_str)
    }
}

/// Every part of every dataset. With several datasets, a part's name contains its dataset.
fn open(paths: &[PathBuf], args: &DataReadArgs, talk: Talk) -> Result<Vec<Part>> {
    let class_map = args.class_map.as_ref().map(ClassMap::open).transpose()?;
    let mut parts = Vec::new();
    for path in paths {
        let splits = splits_of(path)?;
        let mut open = |split, name: String| -> Result<()> {
            let dataset = DatasetOptions {
                class_map: class_map.clone(),
                image_dir: args.image_dir.clone(),
                split,
                ..DatasetOptions::default()
            };
            let options = TrainSetOptions { dataset, ..TrainSetOptions::default() };
            let set = Arc::new(TrainSet::open(path, &options)?);
            talk.left_out(format_args!("{name} of {}", path.display()), set.skipped());
            parts.push(Part { name, set });
            Ok(())
        };
        let place = |name: &str| match paths.len() {
            1 => name.to_string(),
            _ => format!("{}:{name}", path.display()),
        };
        if splits.is_empty() {
            open(None, if paths.len() == 1 { "all".into() } else { path.display().to_string() })?;
        }
        for split in splits {
            open(Some(split), place(split.name()))?;
        }
    }
    Ok(parts)
}

/// The facts about one picture.
struct Look {
    name: String,
    label: Option<usize>,
    /// By its content; `None` for bare pixels and unknown formats.
    format: Option<image::ImageFormat>,
    /// The result of decoding, or why it failed.
    seen: Result<ImageFacts, String>,
}

struct ImageFacts {
    width: u32,
    height: u32,
    /// SHA-256 of size and pixels.
    hash: [u8; 32],
    /// Sums of the levels and of their squares, per channel.
    sums: [[u64; 2]; 3],
}

/// Pictures decoded at a time.
const CHUNK: usize = 256;

/// Decodes every picture of a part on all threads and passes the results on in order.
fn look_at(part: &Part, args: &DataReadArgs, talk: Talk, mut take: impl FnMut(Look)) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.workers).build()?;
    let options = model::decode_options(&args.limits, false);
    let bar = progress(Some(part.set.len()), talk);
    bar.set_message(part.name.clone());
    let mut source = Subset::all(Arc::clone(&part.set)).source()?;
    loop {
        let mut samples = Vec::with_capacity(CHUNK);
        while samples.len() < CHUNK {
            let Some(sample) = source.next_sample()? else { break };
            samples.push(sample);
        }
        if samples.is_empty() {
            bar.finish_and_clear();
            return Ok(());
        }
        bar.inc(samples.len() as u64);
        let looks: Vec<Look> =
            pool.install(|| samples.into_par_iter().map(|sample| look(sample, &options)).collect());
        looks.into_iter().for_each(&mut take);
    }
}

fn look(sample: Sample, options: &DecodeOptions) -> Look {
    let label = sample.label();
    let Sample { name, image, .. } = sample;
    let (format, seen) = match content(image, options) {
        Ok(Content::Pixels(image)) => (None, Ok(see(&image))),
        Ok(Content::Encoded(bytes)) if bytes.is_empty() => (None, Err("an empty file".into())),
        Ok(Content::Encoded(bytes)) => {
            let seen = decode::decode(&bytes, options).map(|image| see(&image));
            (image::guess_format(&bytes).ok(), seen.map_err(|error| error.to_string()))
        }
        Err(reason) => (None, Err(reason)),
    };
    Look { name, label, format, seen }
}

enum Content {
    Encoded(Vec<u8>),
    Pixels(RgbImage),
}

fn content(image: ImageSource, options: &DecodeOptions) -> Result<Content, String> {
    match image {
        ImageSource::Path(path) => read(&path, options.limits.max_bytes).map(Content::Encoded),
        ImageSource::Encoded(bytes) => Ok(Content::Encoded(bytes)),
        ImageSource::Pixels(image) => Ok(Content::Pixels(image)),
        ImageSource::Held(held) => match held.raw().map_err(|fault| fault.to_string())? {
            ImageSource::Held(_) => Err("its place is not known".into()),
            raw => content(raw, options),
        },
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > limit {
        return Err(format!("{size} bytes are more than the limit of {limit}"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

fn see(image: &RgbImage) -> ImageFacts {
    let mut hash = Sha256::new();
    hash.update(image.width().to_le_bytes());
    hash.update(image.height().to_le_bytes());
    hash.update(image.data());
    let mut sums = [[0; 2]; 3];
    for pixel in image.data().chunks_exact(3) {
        for (sums, &level) in sums.iter_mut().zip(pixel) {
            let level = u64::from(level);
            sums[0] += level;
            sums[1] += level * level;
        }
    }
    ImageFacts { width: image.width(), height: image.height(), hash: hash.finalize().into(), sums }
}

/// The usual name of a format.
fn format_name(format: Option<image::ImageFormat>) -> &'static str {
    use image::ImageFormat;
    match format {
        Some(ImageFormat::Jpeg) => "JPEG",
        Some(ImageFormat::Png) => "PNG",
        Some(ImageFormat::WebP) => "WebP",
        Some(ImageFormat::Gif) => "GIF",
        Some(ImageFormat::Bmp) => "BMP",
        Some(ImageFormat::Tiff) => "TIFF",
        Some(_) => "other",
        None => "pixels",
    }
}

fn class_map(path: Option<&PathBuf>) -> Result<Option<ClassMap>> {
    path.map(|path| ClassMap::open(path).with_context(|| "--class-map")).transpose()
}
