//! Parts of a study for several machines.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::StudyError;
use super::plan::Plan;

/// Part `i` of `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    pub index: usize,
    /// How many parts there are.
    pub count: usize,
}

impl FromStr for Shard {
    type Err = StudyError;

    fn from_str(text: &str) -> Result<Self, StudyError> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err(StudyError::Shard { found: text.into() }),
        }
    }
}

impl Shard {
    /// The runs of this part among `chosen`. Runs that begin from each other stay together. The costliest chains are dealt
    /// first, each to the part with the least cost so far. `costs` has a cost for each run of the plan; it must be the same on
    /// every machine.
    pub fn of(self, plan: &Plan, chosen: &BTreeSet<usize>, costs: &[f64]) -> BTreeSet<usize> {
        let mut chains: Vec<(f64, Vec<usize>)> = chains(plan, chosen)
            .into_iter()
            .map(|runs| (runs.iter().map(|&run| costs[run]).sum(), runs))
            .collect();
        // A stable sort: chains of the same cost keep the order of the plan.
        chains.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut parts = vec![(0.0, BTreeSet::new()); self.count];
        for (cost, runs) in chains {
            let least = (0..self.count).min_by(|&a, &b| f64::total_cmp(&parts[a].0, &parts[b].0));
            let part = &mut parts[least.unwrap_or(0)];
            part.0 += cost;
            part.1.extend(runs);
        }
        parts.swap_remove(self.index - 1).1
    }
}

/// Runs that are connected by models, in the order of the plan.
fn chains(plan: &Plan, chosen: &BTreeSet<usize>) -> Vec<Vec<usize>> {
    let mut chain_of: Vec<usize> = (0..plan.runs.len()).collect();
    // Parents come before children.
    for &run in chosen {
        for parent in plan.parents(run) {
            let (from, to) = (chain_of[run], chain_of[parent]);
            chain_of.iter_mut().filter(|chain| **chain == from).for_each(|chain| *chain = to);
        }
    }
    let mut chains: Vec<Vec<usize>> = vec![Vec::new(); plan.runs.len()];
    chosen.iter().for_each(|&run| chains[chain_of[run]].push(run));
    chains.into_iter().filter(|chain| !chain.is_empty()).collect()
}
