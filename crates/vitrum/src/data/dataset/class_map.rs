//! Class names and their numbers.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::{DatasetError, DatasetProblem, MAX_CLASSES, natural_order};

/// Class names and their numbers, with other names for the same class where needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassMap {
    names: Vec<String>,
    index: HashMap<String, usize>,
}

impl ClassMap {
    /// Numbers `names` from 0 in the order given. Of a repeated name the first place counts.
    pub fn from_names(names: impl IntoIterator<Item = String>) -> Self {
        let mut map = Self::default();
        for name in names {
            map.index.entry(name.clone()).or_insert(map.names.len());
            map.names.push(name);
        }
        map
    }

    /// Reads timm's text form: one class name per line, the first line is class 0.
    ///
    /// # Errors
    /// [`DatasetError`] when the file cannot be read, is empty, names a class twice, or is larger than 64 MiB.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DatasetError> {
        let path = path.as_ref();
        let text = read_text(path, 64 << 20)?;
        let names: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
        let mut seen = BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
            return Err(DatasetProblem::ClassMap(format!("`{twice}` occurs twice")).at(path));
        }
        if text.trim().is_empty() {
            return Err(DatasetProblem::Empty.at(path));
        }
        if names.len() > MAX_CLASSES {
            let problem = format!("{} classes, expected 1 to {MAX_CLASSES}", seen.len());
            return Err(DatasetProblem::ClassMap(problem).at(path));
        }
        Ok(Self::from_names(names))
    }

    /// Another name for class `index`, for instance a WordNet id beside the words. A name already known is kept.
    pub fn add_alias(&mut self, alias: impl Into<String>, index: usize) {
        self.index.entry(alias.into()).or_insert(index);
    }

    /// The number of the class called `name`.
    pub fn get(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The names, in the order of the numbers.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The classes found, in natural order.
    pub(super) fn sorted(found: BTreeSet<String>) -> Self {
        let mut names: Vec<String> = found.into_iter().collect();
        names.sort_by(|a, b| natural_order(a, b));
        Self::from_names(names)
    }
}

/// A text file of at most `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, DatasetError> {
    let read = || -> Result<String, DatasetProblem> {
        let found = std::fs::metadata(path)?.len();
        if found > limit {
            return Err(DatasetProblem::TooLarge { what: "bytes of text".into(), found, limit });
        }
        Ok(std::fs::read_to_string(path)?)
    };
    read().map_err(|problem| problem.at(path))
}
