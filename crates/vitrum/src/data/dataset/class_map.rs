//! Class names and their numbers.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::class_file;
use super::{DatasetError, DatasetProblem, MAX_CLASSES, natural_order};
use crate::data::imagenet;

/// Class names and their numbers, with aliases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassMap {
    names: Vec<String>,
    index: HashMap<String, usize>,
    /// Names without case, underscores and further synonyms; `None` if two classes share one.
    loose: HashMap<String, Option<usize>>,
}

impl ClassMap {
    /// Numbers `names` from 0 in the given order. Of a repeated name the first counts.
    pub fn from_names(names: impl IntoIterator<Item = String>) -> Self {
        let mut map = Self::default();
        for name in names {
            map.index.entry(name.clone()).or_insert(map.names.len());
            map.names.push(name);
        }
        map
    }

    /// A map of a model's labels. It finds a class by its label, by its WordNet id if the labels are ImageNet's,
    /// and by its label without case, underscores and further synonyms. A name that two classes share finds none.
    pub fn of_labels(labels: &[String]) -> Self {
        let mut map = Self::from_names(labels.iter().cloned());
        let mut seen = BTreeSet::new();
        labels.iter().filter(|label| !seen.insert(*label)).for_each(|twice| _ = map.index.remove(twice));
        for (number, label) in labels.iter().enumerate() {
            let first = label.split(',').next().unwrap_or_default();
            for key in BTreeSet::from([plain(label), plain(first)]) {
                map.loose.entry(key).and_modify(|known| *known = None).or_insert(Some(number));
            }
        }
        let synsets = imagenet::synsets();
        let are_imagenets =
            labels.len() == synsets.len() && (labels == imagenet::names() || begins_with_fish(labels));
        if are_imagenets {
            synsets.into_iter().enumerate().for_each(|(number, synset)| map.add_alias(synset, number));
        }
        map
    }

    /// Reads a class map: one name per line (the first line is class 0), a table of names and numbers, or JSON (a
    /// list, `{name: number}`, `{number: name}`, `id2label`, `label2id`). A byte-order mark is ignored.
    ///
    /// # Errors
    /// [`DatasetError`] if the file cannot be read, is empty or larger than 64 MiB, has a blank line between
    /// others, names a class twice, or its numbers are not 0 to the number of classes less 1.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DatasetError> {
        let path = path.as_ref();
        let text = read_text(path, 64 << 20)?;
        if text.trim().is_empty() {
            return Err(DatasetProblem::Empty.at(path));
        }
        let is_table =
            path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv") || e.eq_ignore_ascii_case("tsv"));
        let wrong = |problem| DatasetProblem::ClassMap(problem).at(path);
        let (names, aliases) = class_file::parse(&text, is_table).map_err(wrong)?;
        let mut seen = BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
            return Err(wrong(format!("`{twice}` occurs twice")));
        }
        if names.len() > MAX_CLASSES {
            return Err(wrong(format!("{} classes, expected 1 to {MAX_CLASSES}", names.len())));
        }
        let mut map = Self::from_names(names);
        aliases.into_iter().for_each(|(alias, number)| map.add_alias(alias, number));
        Ok(map)
    }

    /// Adds an alias of class `index`, for instance a WordNet id. A known name is kept.
    pub fn add_alias(&mut self, alias: impl Into<String>, index: usize) {
        self.index.entry(alias.into()).or_insert(index);
    }

    /// The number of the class called `name`.
    pub fn get(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied().or_else(|| self.loose.get(&plain(name)).copied().flatten())
    }

    /// Whether `name` is found only without case, underscores or further synonyms.
    pub fn is_loose(&self, name: &str) -> bool {
        !self.index.contains_key(name) && self.get(name).is_some()
    }

    /// The names, in the order of the numbers.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The classes, in natural order.
    pub(super) fn sorted(found: BTreeSet<String>) -> Self {
        let mut names: Vec<String> = found.into_iter().collect();
        names.sort_by(|a, b| natural_order(a, b));
        Self::from_names(names)
    }
}

fn plain(name: &str) -> String {
    let spaced = name.to_lowercase().replace(['_', '-'], " ");
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the first two labels are ImageNet's first classes, under any usual name.
fn begins_with_fish(labels: &[String]) -> bool {
    let fish = labels.iter().take(2).map(|label| plain(label.split(',').next().unwrap_or_default()));
    fish.eq(["tench".to_string(), "goldfish".to_string()])
}

/// A text file of at most `limit` bytes, without its byte-order mark; a mark of UTF-16 is honoured.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, DatasetError> {
    let read = || -> Result<String, DatasetProblem> {
        let found = std::fs::metadata(path)?.len();
        if found > limit {
            return Err(DatasetProblem::TooLarge { what: "bytes of text".into(), found, limit });
        }
        text_of(std::fs::read(path)?)
    };
    read().map_err(|problem| problem.at(path))
}

fn text_of(bytes: Vec<u8>) -> Result<String, DatasetProblem> {
    let damaged = |what: &str| DatasetProblem::Damaged(what.into());
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|&pair| unit(pair)).collect();
        let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty());
        text.ok_or_else(|| damaged("UTF-16 text that breaks off or is not valid"))
    };
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => {
            String::from_utf8(rest.to_vec()).map_err(|_| damaged("text that is not UTF-8"))
        }
        _ => {
            String::from_utf8(bytes).map_err(|_| damaged("text that is not UTF-8\n  hint: save it as UTF-8"))
        }
    }
}
