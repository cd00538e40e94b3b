//! The runs of a study in an order in which each finds the models it begins from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::StudyError;
use super::error::nearest;
pub use super::expand::Condition;
use super::expand::{PlannedRun, conditions, run};
use super::file::{Rule, Study};
use crate::layers::names::wildcard;
use crate::train::Recipe;
use crate::train::recipe::Overlay;

/// A study and its runs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The study.
    pub study: Study,
    /// What runs have in common that differ only in their seeds.
    pub conditions: Vec<Condition>,
    /// Every run, parents before children; else seed by seed, so that a study that stops early has compared everything.
    pub runs: Vec<PlannedRun>,
}

impl Plan {
    /// The plan of a study.
    ///
    /// # Errors
    /// [`StudyError`]: an invalid recipe, a reference to a run that does not exist, runs that begin from each other, a
    /// check on runs that do not exist.
    pub fn of(study: Study) -> Result<Self, StudyError> {
        let conditions = conditions(&study);
        let mut seeds: Vec<u64> = Vec::new();
        for seed in conditions.iter().flat_map(|condition| &condition.seeds) {
            if !seeds.contains(seed) {
                seeds.push(*seed);
            }
        }
        let mut runs = Vec::new();
        for seed in seeds {
            for (index, _) in
                conditions.iter().enumerate().filter(|(_, condition)| condition.seeds.contains(&seed))
            {
                runs.push(run(&study, &conditions, index, seed)?);
            }
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = runs.iter().find(|run| !names.insert(run.id.clone())) {
            return Err(StudyError::Twice { run: twice.id.clone() });
        }
        let plan = Self { runs: ordered(runs)?, conditions, study };
        plan.check_names()?;
        plan.check_replaced()?;
        Ok(plan)
    }

    /// A run by its name.
    pub fn run(&self, id: &str) -> Option<&PlannedRun> {
        self.runs.iter().find(|run| run.id == id)
    }

    /// Numbers of the runs whose names, or whose conditions' names, match one of these patterns, and of all runs they
    /// begin from; every run if there is no pattern.
    ///
    /// # Errors
    /// [`StudyError::NoMatch`] for a pattern that matches nothing.
    pub fn chosen(&self, patterns: &[String]) -> Result<BTreeSet<usize>, StudyError> {
        if patterns.is_empty() {
            return Ok((0..self.runs.len()).collect());
        }
        let mut chosen = BTreeSet::new();
        for pattern in patterns {
            let matches = |run: &PlannedRun| {
                wildcard(pattern, &run.id) || wildcard(pattern, &self.conditions[run.condition].name)
            };
            let mut found = false;
            for (index, _) in self.runs.iter().enumerate().filter(|(_, run)| matches(run)) {
                found = true;
                self.add(index, &mut chosen);
            }
            if !found {
                let names = self.runs.iter().map(|run| run.id.as_str());
                let known = names.chain(self.conditions.iter().map(|condition| condition.name.as_str()));
                return Err(StudyError::NoMatch {
                    pattern: pattern.clone(),
                    nearest: nearest(pattern, known),
                });
            }
        }
        Ok(chosen)
    }

    /// Adds a run and all that it begins from.
    fn add(&self, index: usize, chosen: &mut BTreeSet<usize>) {
        if chosen.insert(index) {
            self.parents(index).into_iter().for_each(|parent| self.add(parent, chosen));
        }
    }

    /// Numbers of the runs that a run begins from.
    pub fn parents(&self, index: usize) -> Vec<usize> {
        let names = &self.runs[index].parents;
        (0..self.runs.len()).filter(|&other| names.contains(&self.runs[other].id)).collect()
    }

    /// The folder of a run: `OUTPUT/runs/TASK/ID`.
    pub fn folder(&self, run: &PlannedRun, output: &Path) -> PathBuf {
        output.join("runs").join(&run.recipe.task).join(&run.id)
    }

    /// The recipe of a run as it is trained: models of other runs are folders.
    pub fn resolved(&self, run: &PlannedRun, output: &Path) -> Recipe {
        let mut table: Overlay = run.recipe.to_table();
        for (_, value) in table.iter_mut() {
            let named = value.as_str().and_then(|text| text.strip_prefix("{run:")?.strip_suffix('}'));
            if let Some(parent) = named.and_then(|id| self.run(id)) {
                let model = self.folder(parent, output).join("model");
                *value = toml::Value::String(model.display().to_string());
            }
        }
        let recipe: Recipe = table.try_into().expect("texts in place of texts");
        Recipe { output: output.join("runs"), ..recipe }
    }

    /// Numbers of the conditions that a pattern matches.
    pub fn matching(&self, pattern: &str) -> Vec<usize> {
        let compared = |condition: &Condition| self.study.groups[condition.group].report;
        let all = self.conditions.iter().enumerate();
        all.filter(|(_, condition)| compared(condition) && wildcard(pattern, &condition.name))
            .map(|(index, _)| index)
            .collect()
    }

    /// Refuses checks on conditions that do not exist.
    fn check_names(&self) -> Result<(), StudyError> {
        for check in &self.study.checks {
            let patterns: Vec<String> = match &check.rule {
                Rule::Better { a, b, .. } | Rule::NotWorse { a, b, .. } | Rule::Same { a, b, .. } => {
                    a.iter().chain(b).cloned().collect()
                }
                Rule::Crosses { a, b, at } => {
                    at.iter().flat_map(|at| [a.replace("{at}", at), b.replace("{at}", at)]).collect()
                }
            };
            if let Some(pattern) = patterns.iter().find(|pattern| self.matching(pattern).is_empty()) {
                let known = self.conditions.iter().map(|condition| condition.name.as_str());
                let nearest = nearest(pattern, known);
                let (claim, pattern) = (check.claim.clone(), pattern.clone());
                return Err(StudyError::CheckNames { claim, pattern, nearest });
            }
        }
        Ok(())
    }

    /// Refuses a replaced value that no run has.
    fn check_replaced(&self) -> Result<(), StudyError> {
        for (group, key, value) in &self.study.replaced {
            let of_group = |run: &&PlannedRun| {
                let own = &self.study.groups[self.conditions[run.condition].group].name;
                group.as_ref().is_none_or(|group| group == own)
            };
            let has = |run: &PlannedRun| match key.split_once('.') {
                Some((outer, inner)) => {
                    run.recipe.to_table().get(outer).and_then(|table| table.get(inner)) == Some(value)
                }
                None => same_value(&run.recipe, key, value),
            };
            if !self.runs.iter().filter(of_group).any(has) {
                return Err(StudyError::NoEffect { key: key.clone() });
            }
        }
        Ok(())
    }
}

/// The runs in an order where parents come first; otherwise the order stays.
fn ordered(runs: Vec<PlannedRun>) -> Result<Vec<PlannedRun>, StudyError> {
    let mut left = runs;
    let mut done: Vec<PlannedRun> = Vec::with_capacity(left.len());
    let mut known = BTreeSet::new();
    while !left.is_empty() {
        let ready = left.iter().position(|run| run.parents.iter().all(|parent| known.contains(parent)));
        let Some(at) = ready else { return Err(StudyError::Cycle { runs: circle(&left) }) };
        let run = left.remove(at);
        known.insert(run.id.clone());
        done.push(run);
    }
    Ok(done)
}

/// A circle among runs of which each has a parent among them.
fn circle(left: &[PlannedRun]) -> Vec<String> {
    let parents: BTreeMap<&str, &PlannedRun> = left.iter().map(|run| (run.id.as_str(), run)).collect();
    let mut walk: Vec<&str> = left.first().map(|run| run.id.as_str()).into_iter().collect();
    while let Some(run) = walk.last().and_then(|id| parents.get(id)) {
        let Some(next) = run.parents.iter().find(|parent| parents.contains_key(parent.as_str())) else {
            break;
        };
        if let Some(at) = walk.iter().position(|id| id == next) {
            return walk[at..].iter().copied().chain([next.as_str()]).map(String::from).collect();
        }
        walk.push(next);
    }
    walk.into_iter().map(String::from).collect()
}

/// Whether a recipe has this value, which may be written in another way (`1epochs`, a whole number for a fraction).
fn same_value(recipe: &Recipe, key: &str, value: &toml::Value) -> bool {
    let overlay = Overlay::from_iter([(key.to_string(), value.clone())]);
    recipe.with(&overlay, "").is_ok_and(|changed| changed.to_table().get(key) == recipe.to_table().get(key))
}
