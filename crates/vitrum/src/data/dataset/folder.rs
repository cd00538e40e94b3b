//! A folder of class folders, read as timm's `ReaderImageFolder` reads it.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::{
    ClassFolder, ClassMap, DatasetError, DatasetOptions, DatasetProblem, ListSource, Listed, MAX_SAMPLES,
    Skipped, Split,
};

const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Whether the extension is that of an image.
pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

pub(super) fn open(path: &Path, options: &DatasetOptions) -> Result<ListSource, DatasetError> {
    let root = choose_split(path, options.split)?;
    let mut skipped = Skipped::default();
    let mut files = image_files(&root, &mut skipped)?;
    files.sort_by(|a, b| natural_order(&a.name, &b.name));
    if files.is_empty() {
        let extensions = EXTENSIONS.join(", .");
        return Err(
            DatasetProblem::NoImages(format!("\n  hint: looked for files ending in .{extensions}")).at(root)
        );
    }
    let class_of = |file: &Found| class_name(&file.name, options.class_folder);
    let found: BTreeSet<String> = files.iter().filter_map(class_of).collect();
    if found.is_empty() {
        let unlabelled = |Found { name, path }| Listed { name, label: None, path };
        return Ok(ListSource::new(files.into_iter().map(unlabelled).collect(), Vec::new(), skipped));
    }
    let classes = options.class_map.clone().unwrap_or_else(|| ClassMap::sorted(found));
    let mut samples = Vec::with_capacity(files.len());
    for file in files {
        match class_of(&file).map(|class| (classes.get(&class), class)) {
            Some((label @ Some(_), _)) => samples.push(Listed { name: file.name, label, path: file.path }),
            Some((None, class)) => skipped.add(file.name, format!("class `{class}` is not in the class map")),
            None => skipped.add(file.name, "not in a class folder"),
        }
    }
    if samples.is_empty() {
        return Err(none_of_the_classes(&skipped).at(root));
    }
    Ok(ListSource::new(samples, classes.names().to_vec(), skipped))
}

pub(super) fn none_of_the_classes(skipped: &Skipped) -> DatasetProblem {
    let example = skipped.first.first().map(String::as_str).unwrap_or_default();
    DatasetProblem::NoImages(format!(
        " of a known class: all {} were skipped, first {example}",
        skipped.count
    ))
}

/// The class a path (relative, with `/`) says, if it lies in any folder.
pub(super) fn class_name(name: &str, which: ClassFolder) -> Option<String> {
    let (folders, _) = name.rsplit_once('/')?;
    let class = match which {
        ClassFolder::Innermost => folders.rsplit('/').next(),
        ClassFolder::Outermost => folders.split('/').next(),
    };
    class.map(String::from)
}

struct Found {
    /// Relative to the root, with `/`.
    name: String,
    path: PathBuf,
}

fn image_files(root: &Path, skipped: &mut Skipped) -> Result<Vec<Found>, DatasetError> {
    let mut files = Vec::new();
    for entry in WalkDir::new(root).follow_links(true) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if error.depth() == 0 => return Err(DatasetProblem::Io(error.into()).at(root)),
            Err(error) => {
                let path = error.path().unwrap_or(root).display().to_string();
                skipped.add(path, error);
                continue;
            }
        };
        if !entry.file_type().is_file() || !is_image(entry.path()) {
            continue;
        }
        if files.len() as u64 == MAX_SAMPLES {
            let (found, limit) = (MAX_SAMPLES + 1, MAX_SAMPLES);
            return Err(DatasetProblem::TooLarge { what: "image files".into(), found, limit }.at(root));
        }
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let parts: Vec<_> = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        files.push(Found { name: parts.join("/"), path: entry.into_path() });
    }
    Ok(files)
}

/// The parts that the folder's folders are called after. Where other folders lie beside a single one, it is a class.
pub(super) fn splits_in(path: &Path) -> Result<Vec<Split>, DatasetError> {
    let folders = folders(path)?;
    let splits: Vec<Split> = folders.iter().filter_map(|folder| split_named(folder)).collect();
    Ok(if splits.len() == folders.len() || splits.len() > 1 { splits } else { Vec::new() })
}

fn folders(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let entries = std::fs::read_dir(path).map_err(|error| DatasetProblem::from(error).at(path))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn split_named(folder: &Path) -> Option<Split> {
    Split::of_name(&folder.file_name()?.to_string_lossy())
}

/// The folder itself, or the one of its folders that holds the split.
fn choose_split(path: &Path, wanted: Option<Split>) -> Result<PathBuf, DatasetError> {
    let folders = folders(path)?;
    let mut splits: Vec<&PathBuf> = folders.iter().filter(|folder| split_named(folder).is_some()).collect();
    splits.sort();
    let names =
        || splits.iter().filter_map(|f| Some(f.file_name()?.to_string_lossy().into_owned())).collect();
    match wanted {
        // Class folders may happen to be called `test`; then there are others.
        None if splits.is_empty() || splits.len() < folders.len() => Ok(path.to_path_buf()),
        None if splits.len() == 1 => Ok(splits[0].clone()),
        None => Err(DatasetProblem::Split { found: "several splits".into(), available: names() }.at(path)),
        Some(wanted) => match splits.iter().find(|folder| split_named(folder) == Some(wanted)) {
            Some(folder) => Ok(folder.to_path_buf()),
            None if splits.is_empty() => Ok(path.to_path_buf()),
            None => {
                let found = format!("no split `{}`", wanted.name());
                Err(DatasetProblem::Split { found, available: names() }.at(path))
            }
        },
    }
}

/// timm's `natural_key`: case aside, and runs of digits compared as numbers (`a2 < a10`). Equal keys fall back to
/// the strings themselves, so that the order never depends on the file system.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (lower_a, lower_b) = (a.to_lowercase(), b.to_lowercase());
    let (mut rest_a, mut rest_b) = (lower_a.as_str(), lower_b.as_str());
    loop {
        let (text_a, digits_a, next_a) = next_part(rest_a);
        let (text_b, digits_b, next_b) = next_part(rest_b);
        let numbers = match (digits_a.is_empty(), digits_b.is_empty()) {
            (false, false) => compare_numbers(digits_a, digits_b),
            (true, true) => return text_a.cmp(text_b).then_with(|| a.cmp(b)),
            // The list of parts that ends first is the smaller one.
            (ended_a, _) => {
                if ended_a {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        };
        match text_a.cmp(text_b).then(numbers) {
            Ordering::Equal => (rest_a, rest_b) = (next_a, next_b),
            unequal => return unequal,
        }
    }
}

/// Text up to the next digits, the digits, what follows.
fn next_part(rest: &str) -> (&str, &str, &str) {
    let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (text, rest) = rest.split_at(digits);
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    (text, &rest[..end], &rest[end..])
}

fn compare_numbers(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}
