//! A folder of class folders, read like timm's `ReaderImageFolder`.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::foreign::is_foreign;
use super::{
    ClassFolder, ClassMap, DatasetError, DatasetOptions, DatasetProblem, ListSource, Listed, MAX_SAMPLES,
    Skipped, Split, TargetKind,
};

/// Extensions of image files in folders, without the dot.
pub const IMAGE_EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Whether the extension is that of an image.
pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    IMAGE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Kinds of reasons for leaving entries out.
pub(super) const UNKNOWN_CLASS: &str = "of a class that is not in the class map";
pub(super) const NO_FOLDER: &str = "not in a class folder";
pub(super) const FOREIGN: &str = "hidden or of the system";
pub(super) const BESIDE: &str = "beside the splits";
const BAD_LINK: &str = "that cannot be followed or read";

/// The image files below a folder, sorted by name within each folder, and the entries left out. Links are followed.
///
/// # Errors
/// [`DatasetError`] if the folder cannot be read, or has too many files or none.
pub fn list_images(root: impl AsRef<Path>) -> Result<(Vec<PathBuf>, Skipped), DatasetError> {
    let (root, mut skipped) = (root.as_ref(), Skipped::default());
    let files = image_files(root, &mut skipped)?;
    if files.is_empty() {
        return Err(no_images(&skipped).at(root));
    }
    Ok((files.into_iter().map(|file| file.path).collect(), skipped))
}

fn no_images(skipped: &Skipped) -> DatasetProblem {
    let also = if skipped.is_empty() { String::new() } else { format!("; {skipped}") };
    let extensions = IMAGE_EXTENSIONS.join(", .");
    DatasetProblem::NoImages(format!("{also}\n  hint: looked for files ending in .{extensions}"))
}

pub(super) fn open(path: &Path, options: &DatasetOptions) -> Result<ListSource, DatasetError> {
    let mut skipped = Skipped::default();
    let root = choose_split(path, options.split, &mut skipped)?;
    let mut files = image_files(&root, &mut skipped)?;
    files.sort_by(|a, b| natural_order(&a.name, &b.name));
    if files.is_empty() {
        return Err(no_images(&skipped).at(root));
    }
    let class_of = |file: &Found| class_name(&file.name, options.class_folder);
    let found: BTreeSet<String> = files.iter().filter_map(class_of).collect();
    if found.is_empty() || options.targets == TargetKind::Nothing {
        let unlabelled = |Found { name, path }| Listed { name, target: None, path };
        return Ok(ListSource::new(files.into_iter().map(unlabelled).collect(), Vec::new(), skipped));
    }
    let classes = options.class_map.clone().unwrap_or_else(|| ClassMap::sorted(found));
    let mut samples = Vec::with_capacity(files.len());
    for file in files {
        match class_of(&file).map(|class| (classes.get(&class), class)) {
            Some((Some(label), _)) => {
                samples.push(Listed { name: file.name, target: Some(label.into()), path: file.path });
            }
            Some((None, class)) => {
                skipped.add(UNKNOWN_CLASS, file.name, format!("class `{class}` is not in the class map"))
            }
            None => skipped.add(NO_FOLDER, file.name, "not in a class folder"),
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

/// The class in a relative path with `/`, if it contains a folder.
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
    let mut walk = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
    while let Some(entry) = walk.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if error.depth() == 0 => return Err(DatasetProblem::Io(error.into()).at(root)),
            Err(error) => {
                let path = error.path().unwrap_or(root).display().to_string();
                skipped.add(BAD_LINK, path, error);
                continue;
            }
        };
        // The root is read, whatever its name.
        let foreign = entry.depth() > 0 && is_foreign(&entry.file_name().to_string_lossy());
        if foreign && entry.file_type().is_dir() {
            let name = entry.path().strip_prefix(root).unwrap_or(entry.path()).display().to_string();
            skipped.add(FOREIGN, name, "a hidden folder, or one of the system");
            walk.skip_current_dir();
            continue;
        }
        if !entry.file_type().is_file() || !is_image(entry.path()) {
            continue;
        }
        if files.len() as u64 == MAX_SAMPLES {
            let (found, limit) = (MAX_SAMPLES + 1, MAX_SAMPLES);
            return Err(DatasetProblem::TooLarge { what: "image files".into(), found, limit }.at(root));
        }
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        if foreign {
            skipped.add(FOREIGN, relative.display(), "a hidden file, or one of the system");
            continue;
        }
        let parts: Vec<_> = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        files.push(Found { name: parts.join("/"), path: entry.into_path() });
    }
    Ok(files)
}

/// The parts that subfolders are named after. A single one beside other folders is a class.
pub(super) fn splits_in(path: &Path) -> Result<Vec<Split>, DatasetError> {
    Ok(split_folders(path)?.iter().filter_map(|folder| split_named(folder)).collect())
}

/// The folders of the splits, in order. None if a folder called `test` is a class beside others. A folder without
/// images, such as `annotations`, is not a class.
pub(super) fn split_folders(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let (mut splits, others): (Vec<PathBuf>, Vec<PathBuf>) =
        folders(path)?.into_iter().partition(|folder| split_named(folder).is_some());
    splits.sort();
    let distinct: BTreeSet<Split> = splits.iter().filter_map(|folder| split_named(folder)).collect();
    let alone = || !others.iter().any(|folder| holds_images(folder));
    Ok(if !splits.is_empty() && (distinct.len() > 1 || alone()) { splits } else { Vec::new() })
}

pub(super) fn holds_images(folder: &Path) -> bool {
    let files = WalkDir::new(folder).follow_links(true).into_iter().flatten();
    files.filter(|entry| entry.file_type().is_file()).any(|entry| is_image(entry.path()))
}

fn folders(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let entries = std::fs::read_dir(path).map_err(|error| DatasetProblem::from(error).at(path))?;
    let own = |path: &PathBuf| !path.file_name().is_some_and(|name| is_foreign(&name.to_string_lossy()));
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).filter(own).collect())
}

pub(super) fn split_named(folder: &Path) -> Option<Split> {
    Split::of_name(&folder.file_name()?.to_string_lossy())
}

/// The folder itself, or its subfolder with the split.
fn choose_split(path: &Path, wanted: Option<Split>, skipped: &mut Skipped) -> Result<PathBuf, DatasetError> {
    let mut splits = split_folders(path)?;
    if splits.is_empty() && wanted.is_some() {
        splits = folders(path)?.into_iter().filter(|folder| split_named(folder).is_some()).collect();
    }
    let names =
        || splits.iter().filter_map(|f| Some(f.file_name()?.to_string_lossy().into_owned())).collect();
    let refuse = |found: String| Err(DatasetProblem::Split { found, available: names() }.at(path));
    let fits = |folder: &&PathBuf| wanted.is_none_or(|wanted| split_named(folder) == Some(wanted));
    let fitting: Vec<&PathBuf> = splits.iter().filter(fits).collect();
    match (fitting.as_slice(), wanted) {
        _ if splits.is_empty() => Ok(path.to_path_buf()),
        ([folder], _) => {
            name_others(path, &splits, skipped)?;
            Ok(folder.to_path_buf())
        }
        ([], Some(wanted)) => refuse(format!("no split `{}`", wanted.name())),
        (_, Some(wanted)) => refuse(format!("several folders for the split `{}`", wanted.name())),
        _ => refuse("several splits".into()),
    }
}

/// Records the folders beside the splits as left out.
fn name_others(path: &Path, splits: &[PathBuf], skipped: &mut Skipped) -> Result<(), DatasetError> {
    let mut others: Vec<PathBuf> =
        folders(path)?.into_iter().filter(|folder| !splits.contains(folder)).collect();
    others.sort();
    for other in &others {
        let name = other.file_name().unwrap_or_default().to_string_lossy();
        skipped.add(BESIDE, name, "a folder beside the splits");
    }
    Ok(())
}

/// timm's `natural_key`: ignores case and compares runs of digits as numbers (`a2 < a10`). Equal keys are compared
/// as strings, so the order never depends on the file system.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (lower_a, lower_b) = (a.to_lowercase(), b.to_lowercase());
    let (mut rest_a, mut rest_b) = (lower_a.as_str(), lower_b.as_str());
    loop {
        let (text_a, digits_a, next_a) = next_part(rest_a);
        let (text_b, digits_b, next_b) = next_part(rest_b);
        let numbers = match (digits_a.is_empty(), digits_b.is_empty()) {
            (false, false) => compare_numbers(digits_a, digits_b),
            (true, true) => return text_a.cmp(text_b).then_with(|| a.cmp(b)),
            // The shorter list of parts comes first.
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

/// Text up to the next digits, the digits, the rest.
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
