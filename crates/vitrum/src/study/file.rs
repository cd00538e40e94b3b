//! Studies as files: a TOML with a base recipe, groups of runs, and checks.
//!
//! ```toml
//! name = "positions"
//! question = "Which positions does a ViT need?"
//! paper = "arXiv:2010.11929, appendix D.4"
//! cost = "2 h on two cores"
//! seeds = [1, 2, 3]
//! recipe = "cifar/cifar10_test_vit_patch4"   # what the base builds on
//!
//! [base]                                     # keys of a recipe
//! epochs = 12
//!
//! [[runs]]                                   # a group: its axes are crossed
//! [[runs.axis]]
//! name = "positions"
//! values = [
//!     { name = "none", model_kwargs = { pos_embed = "none" } },
//!     { name = "learned" },
//! ]
//!
//! [[check]]
//! claim = "Without positions it is worse"
//! source = "there is a large gap …"
//! kind = "better"
//! a = "learned"
//! b = "none"
//! by = 2.0
//! ```
//!
//! Later keys go before earlier ones: recipe, base, recipe and keys of the group, values of its axes. `model_kwargs` are merged, but
//! where a layer names another `model`, they begin anew. In a text, `{AXIS}` is the name of the axis' value, and
//! `{run:NAME}` the model of another run: the one of the same seed, or its only one.

mod read;
mod table;

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::StudyError;
use crate::train::recipe::Overlay;
use table::Reader;

/// Which value of a run counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Take {
    /// The score of the last validation. Nothing is chosen by it.
    #[default]
    Last,
    /// The best score of all validations.
    Best,
}

/// A study. See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    /// A short name, good for a folder.
    pub name: String,
    /// What the study asks.
    pub question: String,
    /// The paper and its section.
    pub paper: String,
    /// What the paper did that this study does not.
    pub differs: String,
    /// What it costs, in words.
    pub cost: String,
    /// The score that is compared; `None`: the one that the task chooses checkpoints by.
    pub metric: Option<String>,
    /// Which value of the score counts.
    pub take: Take,
    /// The seeds of every run.
    pub seeds: Vec<u64>,
    /// Keys of every run.
    pub base: Overlay,
    /// Groups of runs.
    pub groups: Vec<RunGroup>,
    /// What the paper says.
    pub checks: Vec<Check>,
    /// Where the study is from, for errors.
    pub origin: String,
    /// Keys that replace those of the base or of a group; the group comes first if there is one.
    pub replaced: Vec<(Option<String>, String, Value)>,
}

/// A group of runs: every combination of the values of its axes.
#[derive(Clone, Debug, PartialEq)]
pub struct RunGroup {
    /// The first part of its runs' names; may be empty.
    pub name: String,
    /// Seeds in place of the study's.
    pub seeds: Option<Vec<u64>>,
    /// Whether the report compares its results. Runs that only make models for others are not compared.
    pub report: bool,
    /// Keys of its runs.
    pub keys: Overlay,
    /// What changes; the first axis changes slowest.
    pub axes: Vec<Axis>,
}

/// What changes among the runs of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Its name.
    pub name: String,
    /// Its name in figures.
    pub label: String,
    /// Its values.
    pub values: Vec<AxisValue>,
}

/// A value of an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisValue {
    /// Its name, a part of the names of runs.
    pub name: String,
    /// Its name in tables and figures.
    pub label: String,
    /// Its place on a line, if it has one.
    pub x: Option<f64>,
    /// Keys of the runs that have it.
    pub keys: Overlay,
}

/// Something the paper says, to be checked with the results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What is checked, in a few words.
    pub claim: String,
    /// The paper's own words, and where they stand.
    pub source: String,
    /// The comparison.
    pub rule: Rule,
}

/// A comparison of conditions. A pattern may have `*`. Where several conditions match and not `every` one is asked for,
/// the best of them counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Rule {
    /// `a` is better than `b` by more than `by`.
    Better {
        /// Patterns of conditions.
        a: Vec<String>,
        /// Patterns of conditions; those of `a` are left out.
        b: Vec<String>,
        /// In the score's own unit.
        by: f64,
        /// Whether it is true of every pair.
        every: bool,
    },
    /// `a` is not worse than `b` by more than `by`.
    NotWorse {
        /// Patterns of conditions.
        a: Vec<String>,
        /// Patterns of conditions; those of `a` are left out.
        b: Vec<String>,
        /// In the score's own unit.
        by: f64,
        /// Whether it is true of every pair.
        every: bool,
    },
    /// No two conditions of `a` differ by more than `within`. With `b`: no condition of `a` differs from one of `b` by more.
    Same {
        /// Patterns of conditions.
        a: Vec<String>,
        /// Patterns of conditions.
        b: Vec<String>,
        /// In the score's own unit.
        within: f64,
    },
    /// At the first place `b` is better than `a`, at the last one `a` is better than `b`.
    Crosses {
        /// A pattern; `{at}` is the place.
        a: String,
        /// A pattern; `{at}` is the place.
        b: String,
        /// The first and the last place.
        at: [String; 2],
    },
}

impl Study {
    /// A study by its file, or by the name of one that is built in.
    ///
    /// # Errors
    /// [`StudyError::UnknownStudy`], and those of [`read`](Self::read).
    pub fn open(name: &str) -> Result<Self, StudyError> {
        let path = Path::new(name);
        if path.is_file() { Self::read(path) } else { super::builtin(name) }
    }

    /// Reads a study's file.
    ///
    /// # Errors
    /// [`StudyError::Io`], and those of [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self, StudyError> {
        let text = std::fs::read_to_string(path).map_err(|error| StudyError::io(path, error))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        read::study(&text, &path.display().to_string(), &folder)
    }

    /// Reads the text of a study; errors name `origin` as its source.
    ///
    /// # Errors
    /// [`StudyError`]: not TOML, an unknown key, a value of the wrong kind.
    pub fn parse(text: &str, origin: &str) -> Result<Self, StudyError> {
        read::study(text, origin, Path::new(""))
    }

    /// Replaces a key of the base, or of one group: `epochs`, `model_kwargs.depth`, `GROUP.epochs`. `value` is read as
    /// TOML; what is no TOML is a text.
    ///
    /// # Errors
    /// [`StudyError::UnknownKey`] with the nearest key.
    pub fn replace(&mut self, key: &str, value: &str) -> Result<(), StudyError> {
        let value = toml::from_str::<Table>(&format!("x = {value}"))
            .ok()
            .and_then(|mut table| table.remove("x"))
            .filter(|value| !matches!(value, Value::Datetime(_)))
            .unwrap_or_else(|| Value::String(value.into()));
        let (group, name) = match key.split_once('.') {
            Some((first, rest)) if self.groups.iter().any(|group| group.name == first) => {
                (Some(first.to_string()), rest)
            }
            _ => (None, key),
        };
        let (known, field) = match name.split_once('.') {
            Some(("model_kwargs", field)) => ("model_kwargs", Some(field)),
            _ => (name, None),
        };
        let place = "values to replace";
        let read = Reader { origin: &self.origin, place: place.into(), table: &Table::new() };
        read.recipe_keys(&Overlay::from_iter([(known.to_string(), value.clone())]))?;
        let overlay = match field {
            None => Overlay::from_iter([(known.to_string(), value.clone())]),
            Some(field) => {
                let fields = Table::from_iter([(field.to_string(), value.clone())]);
                Overlay::from_iter([(known.to_string(), Value::Table(fields))])
            }
        };
        match &group {
            None => lay(&mut self.base, &overlay),
            Some(name) => {
                self.groups.iter_mut().filter(|group| group.name == *name).for_each(|group| {
                    lay(&mut group.keys, &overlay);
                });
            }
        }
        self.replaced.push((group, name.to_string(), value));
        Ok(())
    }
}

/// Lays keys over others: `model_kwargs` are merged, unless the model changes.
pub(super) fn lay(under: &mut Overlay, over: &Overlay) {
    if over.get("model").is_some_and(|model| under.get("model").is_some_and(|old| old != model)) {
        under.remove("model_kwargs");
    }
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(Value::Table(old)), Value::Table(new)) if key == "model_kwargs" => {
                old.extend(new.iter().map(|(field, value)| (field.clone(), value.clone())));
            }
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}
