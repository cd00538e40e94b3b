//! `vitrum demo`: pictures of the built-in drawn set.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use vitrum::data::RgbImage;
use vitrum::data::demo::{CLASSES, DemoSet};

use crate::args::DemoArgs;
use crate::talk::Talk;
use crate::target;

/// Runs the command: one folder per class, readable by `vitrum val` and training.
pub fn run(args: &DemoArgs, talk: Talk) -> Result<()> {
    if !(8..=4096).contains(&args.size) || args.count == 0 || args.count > 1_000_000 {
        bail!("--size must be 8 to 4096 and --count 1 to 1000000");
    }
    let occupied = args.output.is_dir() && std::fs::read_dir(&args.output)?.next().is_some();
    if occupied || args.output.is_file() {
        bail!("{} exists already\nhint: name an empty folder", args.output.display());
    }
    if let Some(path) = &args.sheet {
        check_sheet(path, args)?;
    }
    let set = DemoSet::new(args.size, args.count, args.seed);
    for index in 0..args.count {
        let folder = args.output.join(CLASSES[set.label(index)]);
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        save(&set.image(index), &folder.join(format!("{index:06}.png")))?;
    }
    if let Some(path) = &args.sheet {
        save(&sheet(&set, args)?, path)?;
    }
    talk.say(format_args!(
        "drew {} pictures of {} classes in {}",
        args.count,
        CLASSES.len(),
        args.output.display()
    ));
    Ok(())
}

/// One picture of each class in the system's temporary directory. The built-in model was not trained on them.
pub fn pictures() -> Result<Vec<PathBuf>> {
    let folder = std::env::temp_dir().join("vitrum-demo-pictures");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let set = DemoSet::new(96, CLASSES.len(), 0);
    let save = |index: usize| {
        let path = folder.join(format!("{}.png", CLASSES[set.label(index)]));
        save(&set.image(index), &path).map(|()| path)
    };
    (0..CLASSES.len()).map(save).collect()
}

fn check_sheet(path: &Path, args: &DemoArgs) -> Result<()> {
    let context = || format!("--sheet {}", path.display());
    target::check(path).with_context(context)?;
    image::ImageFormat::from_path(path).with_context(context)?;
    if args.size > MAX_SHEET_SIDE / 10 {
        bail!("--sheet holds pictures of up to {} pixels, not {}", MAX_SHEET_SIDE / 10, args.size);
    }
    Ok(())
}

/// Twenty rows of pictures this wide are under a gigabyte.
const MAX_SHEET_SIDE: u32 = 8192;

/// Ten pictures a row, at most two hundred.
fn sheet(set: &DemoSet, args: &DemoArgs) -> Result<RgbImage> {
    let (side, count) = (args.size, args.count.min(200));
    let rows = count.div_ceil(10) as u32;
    let mut sheet = RgbImage::filled(10 * side, rows * side, [255; 3])?;
    let stride = 30 * side as usize;
    for index in 0..count {
        let image = set.image(index);
        let (top, left) = (index / 10 * side as usize, index % 10 * side as usize * 3);
        for y in 0..side {
            let at = (top + y as usize) * stride + left;
            sheet.data_mut()[at..at + 3 * side as usize].copy_from_slice(image.row(y));
        }
    }
    Ok(sheet)
}

pub fn save(image: &RgbImage, path: &Path) -> Result<()> {
    image::save_buffer(path, image.data(), image.width(), image.height(), image::ExtendedColorType::Rgb8)
        .with_context(|| format!("writing {}", path.display()))
}
