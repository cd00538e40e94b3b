//! Parts of a study for several machines.

use std::collections::BTreeSet;

use vitrum::study::{Plan, Shard};

use super::{CHAIN, plan};

fn parts(plan: &Plan, chosen: &BTreeSet<usize>, count: usize, costs: &[f64]) -> Vec<BTreeSet<usize>> {
    (1..=count).map(|index| Shard { index, count }.of(plan, chosen, costs)).collect()
}

#[test]
fn every_run_is_in_one_part_and_finds_its_parents_there() {
    let plan = plan("seeds = [1, 2, 3]", CHAIN);
    let all: BTreeSet<usize> = (0..plan.runs.len()).collect();
    let some = plan.chosen(&["*-all".into()]).expect("runs");
    let costs: Vec<f64> = (0..plan.runs.len()).map(|run| ((run * 7919) % 13 + 1) as f64).collect();
    for chosen in [&all, &some] {
        for count in [1, 2, 3, 5, 40] {
            let parts = parts(&plan, chosen, count, &costs);
            let mut together: Vec<usize> = parts.iter().flatten().copied().collect();
            together.sort_unstable();
            assert_eq!(together, chosen.iter().copied().collect::<Vec<_>>(), "{count} parts");
            for part in &parts {
                for &run in part {
                    assert!(plan.parents(run).iter().all(|parent| part.contains(parent)), "{count} parts");
                }
            }
            // The same again: nothing depends on the moment.
            assert_eq!(parts, self::parts(&plan, chosen, count, &costs));
        }
    }
}

#[test]
fn parts_cost_about_the_same() {
    // Chains of a seed: `start` with two that begin from it, and two runs alone.
    let plan = plan("seeds = [1, 2, 3, 4]", CHAIN);
    let all: BTreeSet<usize> = (0..plan.runs.len()).collect();
    let costs = vec![1.0; plan.runs.len()];
    let sizes =
        |count: usize| parts(&plan, &all, count, &costs).iter().map(BTreeSet::len).collect::<Vec<_>>();
    assert_eq!(sizes(2), [10, 10]);
    assert_eq!(sizes(4), [5, 5, 5, 5]);
}

#[test]
fn a_part_is_written_i_of_n() {
    assert_eq!("2/3".parse::<Shard>().expect("a part"), Shard { index: 2, count: 3 });
    for text in ["", "2", "0/3", "4/3", "1/0", "a/b", "1/2/3", "-1/2"] {
        let error = text.parse::<Shard>().expect_err(text).to_string();
        assert!(error.contains("expected i/n"), "{error}");
    }
}
