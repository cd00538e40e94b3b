//! `vitrum data split`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use vitrum::data::dataset::{ImageSource, Sample, Split, splits_of};
use vitrum::data::train_set::{Cache, Subset, TrainDataOptions, TrainValSets};

use super::class_map;
use crate::args::DataSplitArgs;
use crate::talk::Talk;
use crate::target::{self, Table};
use crate::val::progress;

/// Runs the command.
pub fn run(args: &DataSplitArgs, talk: Talk) -> Result<()> {
    if !(args.val_fraction > 0.0 && args.val_fraction < 1.0) {
        bail!("--val-fraction {}: want a share above 0, below 1", args.val_fraction);
    }
    check_targets(args)?;
    let parts = splits_of(&args.data)?;
    if parts.iter().any(|part| *part != Split::Train) {
        let names: Vec<&str> = parts.iter().map(|part| part.name()).collect();
        bail!(
            "{}: split already, into {}\nhint: name the folder of the part to split",
            args.data.display(),
            names.join(", ")
        );
    }
    let options = TrainDataOptions {
        val_fraction: args.val_fraction,
        class_map: class_map(args.class_map.as_ref())?,
        allow_empty_classes: true,
        image_dir: args.image_dir.clone(),
        seed: args.seed,
        cache: Cache::None,
        ..TrainDataOptions::new(&args.data)
    };
    let sets = TrainValSets::open(&options)?;
    talk.left_out(args.data.display(), &sets.skipped());
    match (&args.output, &args.output_dir) {
        (Some(file), _) => one_table(args, &sets, file)?,
        (None, Some(folder)) if args.copy || args.link => tree(args, &sets, folder, talk)?,
        (None, Some(folder)) => two_tables(args, &sets, folder)?,
        (None, None) => unreachable!("clap wants one of them"),
    }
    talk.say(format_args!("{} images for training, {} for validation", sets.train.len(), sets.val.len()));
    if !(args.copy || args.link) {
        talk.say(format_args!("the files are relative to --image-dir {}", base(args).display()));
    }
    Ok(())
}

/// Checks before reading that the targets are free or may be replaced.
fn check_targets(args: &DataSplitArgs) -> Result<()> {
    let refuse = |path: &Path| -> Result<()> {
        if path.exists() && !args.overwrite {
            bail!("{} exists already\nhint: --overwrite replaces it", path.display());
        }
        Ok(())
    };
    if let Some(file) = &args.output {
        target::check(file)?;
        return refuse(file);
    }
    let Some(folder) = &args.output_dir else { return Ok(()) };
    if folder.exists() && !folder.is_dir() {
        bail!("--output-dir {}: not a folder", folder.display());
    }
    if args.copy || args.link {
        let occupied = folder.is_dir() && std::fs::read_dir(folder)?.next().is_some();
        if occupied {
            bail!("{} is not empty\nhint: name a new or an empty folder", folder.display());
        }
        return Ok(());
    }
    ["train.csv", "val.csv"].iter().try_for_each(|name| refuse(&folder.join(name)))
}

/// The base of the tables' relative paths.
fn base(args: &DataSplitArgs) -> PathBuf {
    if args.data.is_dir() {
        return args.data.clone();
    }
    let beside = args.data.parent().filter(|folder| !folder.as_os_str().is_empty());
    args.image_dir.clone().unwrap_or_else(|| beside.unwrap_or(Path::new(".")).to_path_buf())
}

/// File, class name and class number of every picture.
fn rows(args: &DataSplitArgs, subset: &Subset) -> Result<Vec<[String; 3]>> {
    let (set, base) = (subset.set(), base(args));
    let row = |&index: &u32| {
        let file = set.file(index).with_context(|| {
            format!(
                "{}: its images are not files that a table could name\nhint: --output-dir DIR --copy takes them out",
                args.data.display()
            )
        })?;
        let file = file.strip_prefix(&base).unwrap_or(file);
        let name = file.to_str().with_context(|| {
            format!(
                "{}: its name is not UTF-8, so that no table can hold it\nhint: rename it",
                file.display()
            )
        })?;
        let parts: Vec<&str> = file.iter().filter_map(|part| part.to_str()).collect();
        let file = if file.is_absolute() { name.to_string() } else { parts.join("/") };
        // Training data have labels.
        let label = set.label(index).unwrap_or_default();
        Ok([file, set.classes()[label].clone(), label.to_string()])
    };
    subset.indexes().iter().map(row).collect()
}

/// Whether class numbers are needed beside names: a name that is another class's number would be read as that
/// number.
fn needs_numbers(classes: &[String]) -> bool {
    classes.iter().enumerate().any(|(at, class)| class.parse::<usize>().is_ok_and(|number| number != at))
}

/// One table with columns `file,label`, `class_index` if needed, and `part` if requested.
fn write_table(
    sets: &TrainValSets,
    path: &Path,
    parts: &[(&str, &[[String; 3]])],
    with_part: bool,
) -> Result<()> {
    let numbers = needs_numbers(&sets.classes);
    let mut table =
        Table::create(path, &columns(["file", "label", "class_index", "part"], numbers, with_part))?;
    for (part, rows) in parts {
        for [file, label, index] in *rows {
            table.row(&columns([file, label, index, part], numbers, with_part))?;
        }
    }
    table.finish()
}

fn columns(cells: [&str; 4], numbers: bool, with_part: bool) -> Vec<&str> {
    let kept = [true, true, numbers, with_part];
    cells.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(cell, _)| cell).collect()
}

fn one_table(args: &DataSplitArgs, sets: &TrainValSets, path: &Path) -> Result<()> {
    let (train, val) = (rows(args, &sets.train)?, rows(args, &sets.val)?);
    write_table(sets, path, &[("train", &train), ("val", &val)], true)
}

fn two_tables(args: &DataSplitArgs, sets: &TrainValSets, folder: &Path) -> Result<()> {
    let (train, val) = (rows(args, &sets.train)?, rows(args, &sets.val)?);
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    write_table(sets, &folder.join("train.csv"), &[("train", &train)], false)?;
    write_table(sets, &folder.join("val.csv"), &[("val", &val)], false)
}

/// `folder/train/CLASS/…` and `folder/val/CLASS/…`.
fn tree(args: &DataSplitArgs, sets: &TrainValSets, folder: &Path, talk: Talk) -> Result<()> {
    refuse_broken_names(sets)?;
    sets.classes.iter().try_for_each(|class| check_class(class))?;
    let all_files =
        |subset: &Subset| subset.indexes().iter().all(|&index| subset.set().file(index).is_some());
    if args.link && !all_files(&sets.train) {
        bail!(
            "{}: its images are not files that could be linked\nhint: --copy takes them out",
            args.data.display()
        );
    }
    let bar = progress(Some(sets.train.len() + sets.val.len()), talk);
    for (part, subset) in [("train", &sets.train), ("val", &sets.val)] {
        let mut taken = HashSet::new();
        let mut source = subset.source()?;
        let mut indexes = subset.indexes().iter();
        while let Some(sample) = source.next_sample()? {
            let class = &sets.classes[sample.label().unwrap_or_default()];
            let place = folder.join(part).join(class);
            std::fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
            let file = indexes.next().and_then(|&index| subset.set().file(index));
            put(args, sample, file, |name| {
                // Files from two folders of a class may have the same name.
                let short = name.rsplit('/').next().unwrap_or(name).to_string();
                let free = [short, name.replace('/', "_")].into_iter().find(|n| taken.insert(place.join(n)));
                Ok(place.join(free.with_context(|| format!("{name}: two images would have this name"))?))
            })?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Refuses names that are not UTF-8: they would be written with other characters.
fn refuse_broken_names(sets: &TrainValSets) -> Result<()> {
    for subset in [&sets.train, &sets.val] {
        let mut files = subset.indexes().iter().filter_map(|&index| subset.set().file(index));
        if let Some(file) = files.find(|file| file.to_str().is_none()) {
            bail!("{}: its name is not UTF-8\nhint: rename it", file.display());
        }
    }
    Ok(())
}

/// A class must be the name of a single folder below the target.
fn check_class(class: &str) -> Result<()> {
    if class.is_empty() || class.starts_with('.') || class.contains(['/', '\\', '\0', ':']) {
        bail!("class `{}` cannot be the name of a folder", class.escape_debug());
    }
    Ok(())
}

fn put(
    args: &DataSplitArgs,
    sample: Sample,
    file: Option<&Path>,
    mut place: impl FnMut(&str) -> Result<PathBuf>,
) -> Result<()> {
    let Sample { name, image, .. } = sample;
    // A table may name files by any path; only the last part is used.
    let name = name.replace('\\', "/");
    if let Some(file) = file {
        let to = place(&name)?;
        let done =
            if args.link { std::fs::hard_link(file, &to) } else { std::fs::copy(file, &to).map(|_| ()) };
        return done.with_context(|| format!("{} to {}", file.display(), to.display()));
    }
    let image = match image {
        ImageSource::Held(held) => held.raw()?,
        image => image,
    };
    match image {
        ImageSource::Encoded(bytes) => {
            let to = place(&name)?;
            std::fs::write(&to, bytes).with_context(|| format!("writing {}", to.display()))
        }
        image => {
            let picture = image.decode(&Default::default()).map_err(anyhow::Error::msg)?;
            let to = place(&format!("{}.png", name.replace('#', "-")))?;
            let (width, height) = (picture.width(), picture.height());
            image::save_buffer(&to, picture.data(), width, height, image::ExtendedColorType::Rgb8)
                .with_context(|| format!("writing {}", to.display()))
        }
    }
}
