//! Shards: several archives as one dataset, given as a folder, a brace range or a glob.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::folder::{BESIDE, holds_images, split_folders, split_named};
use super::foreign::is_foreign;
use super::{DatasetError, DatasetOptions, DatasetProblem, Skipped, Source, Split, natural_order, tar};

/// Most shards.
const MAX_SHARDS: u64 = 1_000_000;

/// Archives, each with the part in its name or folder.
pub(super) struct Shards {
    given: PathBuf,
    archives: Vec<(Option<Split>, PathBuf)>,
}

impl Shards {
    /// The archives of a pattern: `{000..009}`, `{a,b}`, `*`, `?`. `None` if the path is not such a pattern.
    ///
    /// # Errors
    /// [`DatasetError`] with the first missing archive of a range.
    pub(super) fn of_pattern(path: &Path) -> Result<Option<Self>, DatasetError> {
        let Some(pattern) = path.to_str().filter(|text| text.contains(['{', '*', '?']) && !path.exists())
        else {
            return Ok(None);
        };
        let mut archives = Vec::new();
        let mut missing = Vec::new();
        for name in braces(pattern).map_err(|problem| problem.at(path))? {
            if name.contains(['*', '?']) {
                archives.extend(glob(Path::new(&name)));
            } else if is_archive(Path::new(&name)) {
                let list = if Path::new(&name).is_file() { &mut archives } else { &mut missing };
                list.push(PathBuf::from(name));
            } else {
                return Ok(None);
            }
        }
        in_order(&mut archives);
        in_order(&mut missing);
        let of = archives.len() + missing.len();
        if let Some(first) = missing.first() {
            let first = first.clone();
            return Err(DatasetProblem::MissingShard { first, missing: missing.len(), of }.at(path));
        }
        if archives.is_empty() {
            return Err(DatasetProblem::NoShards.at(path));
        }
        let archives = archives.into_iter().map(|archive| (split_in_name(&archive), archive)).collect();
        Ok(Some(Self { given: path.into(), archives }))
    }

    /// The archives of a folder, or of its subfolders `train`, `val` and the like, if it has no pictures.
    ///
    /// # Errors
    /// [`DatasetError`] if the folder cannot be read.
    pub(super) fn in_folder(path: &Path) -> Result<Option<Self>, DatasetError> {
        let mut archives: Vec<_> =
            archives_in(path)?.into_iter().map(|archive| (split_in_name(&archive), archive)).collect();
        if archives.is_empty() {
            for folder in split_folders(path)? {
                let split = split_named(&folder);
                archives.extend(archives_in(&folder)?.into_iter().map(|archive| (split, archive)));
            }
        }
        if archives.is_empty() || holds_images(path) {
            return Ok(None);
        }
        Ok(Some(Self { given: path.into(), archives }))
    }

    /// The parts in the names of archives and folders; otherwise those inside the archives.
    ///
    /// # Errors
    /// [`DatasetError`] if an archive cannot be read.
    pub(super) fn splits(&self) -> Result<Vec<Split>, DatasetError> {
        let named = self.named_splits();
        if !named.is_empty() {
            return Ok(named.into_iter().collect());
        }
        let mut splits = Vec::new();
        for (_, archive) in &self.archives {
            let found = tar::splits_in(archive)?;
            if found.is_empty() {
                return Ok(found);
            }
            splits.extend(found);
        }
        Ok(splits)
    }

    /// Empty if a single part is beside archives without a part.
    fn named_splits(&self) -> BTreeSet<Split> {
        let splits: BTreeSet<Split> = self.archives.iter().filter_map(|(split, _)| *split).collect();
        let all = self.archives.iter().all(|(split, _)| split.is_some());
        if all || splits.len() > 1 { splits } else { BTreeSet::new() }
    }

    /// The archives of the wanted part as one dataset.
    ///
    /// # Errors
    /// [`DatasetError`] as for one archive, or if the part is missing or must be chosen.
    pub(super) fn open(self, options: &DatasetOptions) -> Result<Box<dyn Source>, DatasetError> {
        let (named, mut skipped) = (self.named_splits(), Skipped::default());
        let split = match (named.len(), options.split) {
            (0, _) => return self.read(|_| true, options, skipped),
            (1, None) => *named.first().unwrap_or(&Split::Train),
            (_, Some(wanted)) if named.contains(&wanted) => wanted,
            (_, wanted) => {
                let found =
                    wanted.map_or("several splits".into(), |wanted| format!("no split `{}`", wanted.name()));
                let available = named.iter().map(|split| split.name().into()).collect();
                return Err(DatasetProblem::Split { found, available }.at(self.given));
            }
        };
        for (_, archive) in self.archives.iter().filter(|(split, _)| split.is_none()) {
            skipped.add(BESIDE, archive.display(), "an archive beside the splits");
        }
        let within = DatasetOptions { split: None, ..options.clone() };
        self.read(|of| of == Some(split), &within, skipped)
    }

    fn read(
        self,
        wanted: impl Fn(Option<Split>) -> bool,
        options: &DatasetOptions,
        skipped: Skipped,
    ) -> Result<Box<dyn Source>, DatasetError> {
        let paths = self.archives.into_iter().filter(|(split, _)| wanted(*split)).map(|(_, path)| path);
        tar::open_shards(&self.given, paths.collect(), options, skipped)
    }
}

fn in_order(paths: &mut Vec<PathBuf>) {
    paths.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
    paths.dedup();
}

fn is_archive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    !is_foreign(&name) && [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
}

/// In natural order.
fn archives_in(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let entries = std::fs::read_dir(folder).map_err(|error| DatasetProblem::from(error).at(folder))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| is_archive(path) && path.is_file());
    in_order(&mut found);
    Ok(found)
}

/// `imagenet1k-validation-07.tar`, `train000.tar`: the first word that is a part's name, without digits after it.
fn split_in_name(archive: &Path) -> Option<Split> {
    let name = archive.file_name()?.to_string_lossy().into_owned();
    let mut words = name.split(|c: char| !c.is_alphanumeric());
    words.find_map(|word| Split::of_name(word.trim_end_matches(|c: char| c.is_ascii_digit())))
}

/// The archives of one folder whose names match. A pattern in a folder's name matches nothing.
fn glob(pattern: &Path) -> Vec<PathBuf> {
    let folder = pattern.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wanted: Vec<char> = pattern.file_name().unwrap_or_default().to_string_lossy().chars().collect();
    let fits = |path: &PathBuf| {
        let name: Vec<char> = path.file_name().unwrap_or_default().to_string_lossy().chars().collect();
        fits(&wanted, &name)
    };
    let mut found = archives_in(folder).unwrap_or_default();
    found.retain(fits);
    found
}

/// Whether a name matches a pattern of `*` and `?`. Backtracks only to the last `*`.
fn fits(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// All names from expanding the braces of a pattern.
fn braces(pattern: &str) -> Result<Vec<String>, DatasetProblem> {
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, inside, after)) = next_brace(rest) {
        let Some(parts) = parts(inside)? else {
            let what = format!("`{{{inside}}}`, want a range such as {{000..009}} or a list such as {{a,b}}");
            return Err(DatasetProblem::Unknown(what));
        };
        let found = names.len() as u64 * parts.len() as u64;
        limit(found)?;
        names = names
            .iter()
            .flat_map(|name| parts.iter().map(move |part| format!("{name}{before}{part}")))
            .collect();
        rest = after;
    }
    Ok(names.into_iter().map(|name| name + rest).collect())
}

fn limit(found: u64) -> Result<(), DatasetProblem> {
    let too_large = || DatasetProblem::TooLarge { what: "shards".into(), found, limit: MAX_SHARDS };
    if found > MAX_SHARDS { Err(too_large()) } else { Ok(()) }
}

fn next_brace(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (inside, after) = rest.split_once('}')?;
    Some((before, inside, after))
}

/// A list, or a range of numbers that keeps leading zeros; a third number is the step.
fn parts(inside: &str) -> Result<Option<Vec<String>>, DatasetProblem> {
    if inside.contains(',') {
        return Ok(Some(inside.split(',').map(String::from).collect()));
    }
    let mut ends = inside.split("..");
    let (Some(first), Some(last), step, None) = (ends.next(), ends.next(), ends.next(), ends.next()) else {
        return Ok(None);
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let (Some(from), Some(to), Some(step)) =
        (number(first), number(last), number(step.unwrap_or("1")).filter(|&step| step > 0))
    else {
        return Ok(None);
    };
    let (low, high) = (from.min(to), from.max(to));
    limit(((high - low) / step).saturating_add(1))?;
    let padded = [first, last].iter().any(|end| end.len() > 1 && end.starts_with('0'));
    let width = if padded { first.len().max(last.len()) } else { 0 };
    let at = |step_number: u64| if from <= to { low + step_number * step } else { high - step_number * step };
    Ok(Some((0..=(high - low) / step).map(|n| format!("{:0width$}", at(n))).collect()))
}
