//! From the tables of a file to a study.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::table::{Reader, folder_name, number_of, plain, seed_of, text_of};
use super::{Axis, AxisValue, Check, Rule, RunGroup, Study, Take, lay};
use crate::study::StudyError;
use crate::study::error::nearest;
use crate::train::recipe::{self, Overlay};

/// Keys of a study.
const STUDY: &[&str] = &[
    "name", "question", "paper", "differs", "cost", "metric", "take", "seeds", "recipe", "base", "runs",
    "check",
];
const GROUP: &[&str] = &["name", "seeds", "report", "recipe", "keys", "axis"];
const AXIS: &[&str] = &["name", "label", "key", "values"];
const CHECK: &[&str] = &["claim", "source", "kind", "a", "b", "by", "within", "every", "at"];

/// Reads a study; recipes that it names may stand in `folder`.
pub(super) fn study(text: &str, origin: &str, folder: &Path) -> Result<Study, StudyError> {
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
    Ok(Study {
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
