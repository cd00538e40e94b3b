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

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::StudyError;
use super::error::nearest;
use crate::train::recipe::{self, Overlay, keys};

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

/// Keys of a study.
const STUDY: &[&str] = &[
    "name", "question", "paper", "differs", "cost", "metric", "take", "seeds", "recipe", "base", "runs",
    "check",
];
const GROUP: &[&str] = &["name", "seeds", "report", "recipe", "keys", "axis"];
const AXIS: &[&str] = &["name", "label", "key", "values"];
const CHECK: &[&str] = &["claim", "source", "kind", "a", "b", "by", "within", "every", "at"];
/// Keys of a recipe that belong to the study.
const OWN: &[&str] = &["seed", "output", "experiment", "exist_ok", "time"];

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
        Self::parse_in(&text, &path.display().to_string(), &folder)
    }

    /// Reads the text of a study; errors name `origin` as its source.
    ///
    /// # Errors
    /// [`StudyError`]: not TOML, an unknown key, a value of the wrong kind.
    pub fn parse(text: &str, origin: &str) -> Result<Self, StudyError> {
        Self::parse_in(text, origin, Path::new(""))
    }

    fn parse_in(text: &str, origin: &str, folder: &Path) -> Result<Self, StudyError> {
        let table: Table = toml::from_str(text)
            .map_err(|error| StudyError::Syntax { origin: origin.into(), reason: error.to_string() })?;
        let read = Reader { origin, place: "the study".into(), table: &table };
        read.known(STUDY)?;
        let own = read.table("base")?.unwrap_or_default();
        read.at("base").recipe_keys(&own)?;
        let base = layered(&read, folder, &own)?;
        let seeds = read.list("seeds", seed_of)?.unwrap_or_else(|| vec![1]);
        read.some("seeds", &seeds)?;
        let groups: Vec<RunGroup> = read
            .tables("runs")?
            .iter()
            .enumerate()
            .map(|(index, table)| group(origin, folder, index, table))
            .collect::<Result<_, _>>()?;
        read.some("runs", &groups)?;
        let checks = read.tables("check")?;
        Ok(Self {
            name: folder_name(&read.place, origin, read.text("name")?)?,
            question: read.text("question")?,
            paper: read.text_or("paper", "")?,
            differs: read.text_or("differs", "")?.trim().to_string(),
            cost: read.text_or("cost", "not known")?,
            metric: read.optional("metric", text_of)?,
            take: match read.text_or("take", "last")?.as_str() {
                "last" => Take::Last,
                "best" => Take::Best,
                other => return Err(read.wrong(format!("take is '{other}', expected last or best"))),
            },
            seeds,
            base,
            groups,
            checks: checks
                .iter()
                .enumerate()
                .map(|(index, table)| check(origin, index, table))
                .collect::<Result<_, _>>()?,
            origin: origin.into(),
            replaced: Vec::new(),
        })
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

/// The recipes that a table names under `recipe`, with keys laid over them.
fn layered(read: &Reader<'_>, folder: &Path, own: &Overlay) -> Result<Overlay, StudyError> {
    let mut keys = Overlay::new();
    for name in read.list("recipe", text_of)?.unwrap_or_default() {
        lay(&mut keys, &recipe_of(&name, folder)?);
    }
    lay(&mut keys, own);
    Ok(keys)
}

/// A recipe beside the study, or one that is built in.
fn recipe_of(name: &str, folder: &Path) -> Result<Overlay, StudyError> {
    let path: PathBuf = folder.join(name);
    Ok(if path.is_file() { recipe::read(&path)? } else { recipe::builtin(name)? })
}

fn group(origin: &str, folder: &Path, index: usize, table: &Table) -> Result<RunGroup, StudyError> {
    let named = table.get("name").and_then(Value::as_str).unwrap_or_default();
    let place = if named.is_empty() { format!("runs {}", index + 1) } else { format!("runs '{named}'") };
    let read = Reader { origin, place: place.clone(), table };
    read.known(GROUP)?;
    let own = read.table("keys")?.unwrap_or_default();
    read.at(&format!("{place}, keys")).recipe_keys(&own)?;
    let keys = layered(&read, folder, &own)?;
    let axes = read.tables("axis")?;
    let axes: Vec<Axis> = axes.iter().map(|table| axis(origin, &place, table)).collect::<Result<_, _>>()?;
    for (at, axis) in axes.iter().enumerate() {
        if axes[..at].iter().any(|other| other.name == axis.name) {
            return Err(read.wrong(format!("two axes are called '{}'", axis.name)));
        }
    }
    let seeds = read.list("seeds", seed_of)?;
    if let Some(seeds) = &seeds {
        read.some("seeds", seeds)?;
    }
    let name = match named {
        "" => String::new(),
        name => folder_name(&place, origin, name.into())?,
    };
    if name.is_empty() && axes.is_empty() {
        return Err(read.wrong("neither a name nor an axis, expected one of them".into()));
    }
    Ok(RunGroup { name, seeds, report: read.optional("report", Value::as_bool)?.unwrap_or(true), keys, axes })
}

fn axis(origin: &str, group: &str, table: &Table) -> Result<Axis, StudyError> {
    let read = Reader { origin, place: format!("{group}, axis"), table };
    read.known(AXIS)?;
    let key = read.optional("key", text_of)?;
    let name = match (read.optional("name", text_of)?, &key) {
        (Some(name), _) => name,
        (None, Some(key)) => key.clone(),
        (None, None) => return Err(read.wrong("no name".into())),
    };
    let read = read.at(&format!("{group}, axis '{name}'"));
    if let Some(key) = &key {
        read.recipe_keys(&Overlay::from_iter([(key.clone(), Value::Boolean(true))]))?;
    }
    let values = match table.get("values") {
        Some(Value::Array(values)) => values.clone(),
        _ => return Err(read.wrong("no list `values`".into())),
    };
    read.some("values", &values)?;
    let values: Vec<AxisValue> =
        values.iter().map(|value| axis_value(&read, key.as_deref(), value)).collect::<Result<_, _>>()?;
    for (at, value) in values.iter().enumerate() {
        if values[..at].iter().any(|other| other.name == value.name) {
            return Err(read.wrong(format!("two values are called '{}'", value.name)));
        }
    }
    Ok(Axis { label: read.text_or("label", &name)?, name, values })
}

fn axis_value(read: &Reader<'_>, key: Option<&str>, value: &Value) -> Result<AxisValue, StudyError> {
    match (value, key) {
        (Value::Table(table), _) => {
            let own = read.at(&format!("{}, a value", read.place));
            let own = Reader { table, ..own };
            let name = folder_name(&own.place, own.origin, own.text("name")?)?;
            let mut keys = table.clone();
            ["name", "label", "x"].iter().for_each(|key| {
                keys.remove(*key);
            });
            own.recipe_keys(&keys)?;
            let x = own.optional("x", number_of)?;
            Ok(AxisValue { label: own.text_or("label", &name)?, name, x, keys })
        }
        (value, Some(key)) => {
            let text = plain(value);
            let name = folder_name(&read.place, read.origin, text.clone())?;
            let keys = Overlay::from_iter([(key.to_string(), value.clone())]);
            Ok(AxisValue { name, label: text, x: number_of(value), keys })
        }
        (value, None) => {
            let name = folder_name(&read.place, read.origin, plain(value))?;
            Ok(AxisValue { label: name.clone(), name, x: number_of(value), keys: Overlay::new() })
        }
    }
}

fn check(origin: &str, index: usize, table: &Table) -> Result<Check, StudyError> {
    let read = Reader { origin, place: format!("check {}", index + 1), table };
    read.known(CHECK)?;
    let kind = read.text("kind")?;
    let allowed: &[&str] = match kind.as_str() {
        "better" | "not_worse" => &["a", "b", "by", "every"],
        "same" => &["a", "b", "within"],
        "crosses" => &["a", "b", "at"],
        other => {
            let known = ["better", "not_worse", "same", "crosses"];
            let meant = nearest(other, known).map(|name| format!("\nhint: did you mean '{name}'?"));
            return Err(read.wrong(format!(
                "kind is '{other}', expected one of {}{}",
                known.join(", "),
                meant.unwrap_or_default()
            )));
        }
    };
    for key in ["a", "b", "by", "within", "every", "at"] {
        if table.contains_key(key) && !allowed.contains(&key) {
            return Err(read.wrong(format!("a check of kind {kind} has no `{key}`")));
        }
    }
    let needed = |key: &str| match read.list(key, text_of)? {
        Some(names) if !names.is_empty() => Ok(names),
        _ => Err(read.wrong(format!("no `{key}`"))),
    };
    let limit = |key: &str, usual: f64| {
        let value = read.optional(key, number_of)?.unwrap_or(usual);
        if value >= 0.0 && value.is_finite() {
            return Ok(value);
        }
        Err(read.wrong(format!("{key} is {value}, expected a number of at least 0")))
    };
    let every = || Ok::<_, StudyError>(read.optional("every", Value::as_bool)?.unwrap_or(false));
    let rule = match kind.as_str() {
        "better" => Rule::Better { a: needed("a")?, b: needed("b")?, by: limit("by", 0.0)?, every: every()? },
        "not_worse" => {
            Rule::NotWorse { a: needed("a")?, b: needed("b")?, by: limit("by", 0.0)?, every: every()? }
        }
        "same" => {
            if !table.contains_key("within") {
                return Err(read.wrong("no `within`".into()));
            }
            let b = read.list("b", text_of)?.unwrap_or_default();
            Rule::Same { a: needed("a")?, b, within: limit("within", 0.0)? }
        }
        _ => {
            let at = needed("at")?;
            let found = at.len();
            let at = at
                .try_into()
                .map_err(|_| read.wrong(format!("at has {found} places, expected the first and the last")))?;
            Rule::Crosses { a: read.text("a")?, b: read.text("b")?, at }
        }
    };
    Ok(Check { claim: read.text("claim")?, source: read.text("source")?, rule })
}

/// A table with its place, for errors.
struct Reader<'a> {
    origin: &'a str,
    place: String,
    table: &'a Table,
}

impl Reader<'_> {
    fn at(&self, place: &str) -> Self {
        Self { origin: self.origin, place: place.into(), table: self.table }
    }

    fn wrong(&self, reason: String) -> StudyError {
        StudyError::Value { origin: self.origin.into(), place: self.place.clone(), reason }
    }

    /// Refuses keys that are not known.
    fn known(&self, known: &[&str]) -> Result<(), StudyError> {
        match self.table.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(self.unknown(key, nearest(key, known.iter().copied()))),
            None => Ok(()),
        }
    }

    fn unknown(&self, key: &str, nearest: Option<String>) -> StudyError {
        let (origin, place) = (self.origin.into(), self.place.clone());
        StudyError::UnknownKey { origin, place, key: key.into(), nearest }
    }

    /// Refuses what is no key of a recipe, and keys that the study sets itself.
    fn recipe_keys(&self, overlay: &Overlay) -> Result<(), StudyError> {
        let known = keys();
        for key in overlay.keys() {
            if !known.contains(key) {
                return Err(self.unknown(key, nearest(key, known.iter().map(String::as_str))));
            }
            if OWN.contains(&key.as_str()) {
                return Err(self.wrong(format!("the study itself decides on '{key}'")));
            }
        }
        Ok(())
    }

    fn optional<T>(&self, key: &str, of: fn(&Value) -> Option<T>) -> Result<Option<T>, StudyError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(value) => match of(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.wrong(format!("{key} is {}, a value of the wrong kind", plain(value)))),
            },
        }
    }

    /// A list; a single value is a list of one.
    fn list<T>(&self, key: &str, of: fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>, StudyError> {
        let values = match self.table.get(key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let wrong =
            |value: &Value| self.wrong(format!("{key} has {}, a value of the wrong kind", plain(value)));
        values.iter().map(|value| of(value).ok_or_else(|| wrong(value))).collect::<Result<_, _>>().map(Some)
    }

    fn text(&self, key: &str) -> Result<String, StudyError> {
        self.optional(key, text_of)?.ok_or_else(|| self.wrong(format!("no `{key}`")))
    }

    fn text_or(&self, key: &str, usual: &str) -> Result<String, StudyError> {
        Ok(self.optional(key, text_of)?.unwrap_or_else(|| usual.into()))
    }

    fn table(&self, key: &str) -> Result<Option<Table>, StudyError> {
        self.optional(key, |value| value.as_table().cloned())
    }

    fn tables(&self, key: &str) -> Result<Vec<Table>, StudyError> {
        Ok(self.list(key, |value| value.as_table().cloned())?.unwrap_or_default())
    }

    fn some<T>(&self, key: &str, items: &[T]) -> Result<(), StudyError> {
        if items.is_empty() { Err(self.wrong(format!("no `{key}`"))) } else { Ok(()) }
    }
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(String::from)
}

fn seed_of(value: &Value) -> Option<u64> {
    value.as_integer().and_then(|seed| u64::try_from(seed).ok())
}

fn number_of(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))
}

/// A value as a person writes it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Refuses a name that is not good for a folder on every system.
fn folder_name(place: &str, origin: &str, name: String) -> Result<String, StudyError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if !name.is_empty() && name.chars().all(good) && !name.starts_with('.') {
        return Ok(name);
    }
    let reason = format!("the name '{name}' should have letters, digits, '-', '_', '+' and '.' alone");
    Err(StudyError::Value { origin: origin.into(), place: place.into(), reason })
}
