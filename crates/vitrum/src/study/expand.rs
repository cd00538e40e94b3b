//! From the groups of a study to its runs, each with a recipe.

use toml::Value;

use super::StudyError;
use super::file::{Axis, AxisValue, RunGroup, Study, lay};
use crate::train::Recipe;
use crate::train::recipe::Overlay;

/// A run of a study.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRun {
    /// Its name: that of its condition and its seed, `finetune-mae-10pct-s1`. Also the name of its folder.
    pub id: String,
    /// The number of its condition in [`Plan::conditions`](super::Plan::conditions).
    pub condition: usize,
    /// Its seed.
    pub seed: u64,
    /// Its recipe. Where it begins from another run, the value is `{run:ID}`.
    pub recipe: Recipe,
    /// The runs whose models it needs.
    pub parents: Vec<String>,
}

/// What runs have in common that differ only in their seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The name: the group's and those of the values, with `-` between them.
    pub name: String,
    /// The number of its group in [`Study::groups`].
    pub group: usize,
    /// For each axis of the group, the number of its value.
    pub values: Vec<usize>,
    /// Keys of its runs.
    keys: Overlay,
    /// Seeds of its runs.
    pub seeds: Vec<u64>,
}

impl Condition {
    /// The value of an axis of the group.
    pub fn value<'a>(&self, study: &'a Study, axis: usize) -> &'a AxisValue {
        &study.groups[self.group].axes[axis].values[self.values[axis]]
    }

    /// The labels of its values; the group's name if it has no axis.
    pub fn label(&self, study: &Study) -> String {
        let group = &study.groups[self.group];
        let labels: Vec<&str> =
            (0..group.axes.len()).map(|axis| self.value(study, axis).label.as_str()).collect();
        if labels.is_empty() { group.name.clone() } else { labels.join(", ") }
    }
}

/// The conditions of a study, in the order of its groups; the first axis changes slowest.
pub(super) fn conditions(study: &Study) -> Vec<Condition> {
    let of = |(index, group): (usize, &RunGroup)| {
        let conditions: Vec<Condition> =
            crossed(&group.axes).into_iter().map(|values| condition(study, index, values)).collect();
        conditions
    };
    study.groups.iter().enumerate().flat_map(of).collect()
}

/// The numbers of the values of every combination.
fn crossed(axes: &[Axis]) -> Vec<Vec<usize>> {
    axes.iter().fold(vec![Vec::new()], |all, axis| {
        let longer = |values: Vec<usize>| {
            (0..axis.values.len()).map(move |value| [&values[..], &[value]].concat()).collect::<Vec<_>>()
        };
        all.into_iter().flat_map(longer).collect()
    })
}

fn condition(study: &Study, index: usize, values: Vec<usize>) -> Condition {
    let group = &study.groups[index];
    let chosen = || group.axes.iter().zip(&values).map(|(axis, &value)| (axis, &axis.values[value]));
    let mut keys = study.base.clone();
    lay(&mut keys, &group.keys);
    chosen().for_each(|(_, value)| lay(&mut keys, &value.keys));
    let names: Vec<(String, String)> =
        chosen().map(|(axis, value)| (format!("{{{}}}", axis.name), value.name.clone())).collect();
    keys.iter_mut().for_each(|(_, value)| fill(value, &names));
    let parts = std::iter::once(group.name.as_str()).chain(chosen().map(|(_, value)| value.name.as_str()));
    let name: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let seeds = group.seeds.clone().unwrap_or_else(|| study.seeds.clone());
    Condition { name: name.join("-"), group: index, values, keys, seeds }
}

/// Replaces `{AXIS}` in texts.
fn fill(value: &mut Value, names: &[(String, String)]) {
    match value {
        Value::String(text) => {
            for (place, name) in names {
                *text = text.replace(place, name);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, names)),
        Value::Table(fields) => fields.iter_mut().for_each(|(_, field)| fill(field, names)),
        _ => {}
    }
}

/// The run of a condition with a seed.
pub(super) fn run(
    study: &Study,
    all: &[Condition],
    index: usize,
    seed: u64,
) -> Result<PlannedRun, StudyError> {
    let condition = &all[index];
    let id = id(&condition.name, seed);
    let mut keys = condition.keys.clone();
    let mut parents = Vec::new();
    for (key, value) in keys.iter_mut() {
        let Value::String(text) = value else { continue };
        let Some(rest) = text.strip_prefix("{run:") else { continue };
        let Some(name) = rest.strip_suffix('}') else {
            let reason = format!("{key} is '{text}', expected {{run:NAME}}");
            return Err(StudyError::Value { origin: study.origin.clone(), place: id, reason });
        };
        let parent = parent(all, &id, key, name, seed)?;
        *text = format!("{{run:{parent}}}");
        if !parents.contains(&parent) {
            parents.push(parent);
        }
    }
    let wrong = |source| StudyError::Recipe { run: id.clone(), source };
    let recipe = Recipe::default().with(&keys, &study.origin).map_err(wrong)?;
    let recipe = Recipe { seed, experiment: Some(id.clone()), ..recipe }.resolved();
    recipe.check().map_err(wrong)?;
    Ok(PlannedRun { id, condition: index, seed, recipe, parents })
}

/// `learned-s1`.
fn id(condition: &str, seed: u64) -> String {
    format!("{condition}-s{seed}")
}

/// The run that a name means: a whole name, or a condition's run of the same seed, or its only run.
fn parent(all: &[Condition], run: &str, key: &str, name: &str, seed: u64) -> Result<String, StudyError> {
    let whole = all.iter().flat_map(|other| other.seeds.iter().map(move |seed| id(&other.name, *seed)));
    if let Some(found) = whole.into_iter().find(|other| other == name) {
        return Ok(found);
    }
    let Some(condition) = all.iter().find(|condition| condition.name == name) else {
        let nearest = super::error::nearest(name, all.iter().map(|condition| condition.name.as_str()));
        return Err(StudyError::UnknownRun { run: run.into(), key: key.into(), name: name.into(), nearest });
    };
    match condition.seeds.as_slice() {
        seeds if seeds.contains(&seed) => Ok(id(name, seed)),
        [only] => Ok(id(name, *only)),
        seeds => {
            let found = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            Err(StudyError::NoSeed {
                run: run.into(),
                key: key.into(),
                name: name.into(),
                found,
                expected: seed,
            })
        }
    }
}
