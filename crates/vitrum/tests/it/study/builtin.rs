//! The studies of the crate's folder `studies/`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use vitrum::study::{BUILTIN, Plan, Study, StudyError, builtin, heads};

#[test]
fn every_file_is_built_in() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("studies");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".toml")?.to_string()))
        .collect();
    let names: BTreeSet<String> = BUILTIN.iter().map(|(name, _)| (*name).to_string()).collect();
    assert_eq!(files, names);
}

#[test]
fn every_head_says_what_it_is() {
    for head in heads().expect("heads") {
        assert!(head.question.ends_with('?'), "{head:?}");
        assert!(head.paper.contains("arXiv:") && head.cost.contains(" runs, about "), "{head:?}");
        let (_, text) = BUILTIN.iter().find(|(name, _)| *name == head.name).expect("its file");
        for part in ["# Paper:", "# Here:", "# Command:", "# Hours:"] {
            assert!(text.contains(part), "{}: no {part}", head.name);
        }
        assert!(text.contains(&format!("vitrum study {} ", head.name)), "{}: its command", head.name);
    }
}

#[test]
fn every_study_has_a_plan_and_checks() {
    for (name, _) in BUILTIN {
        let mut study = builtin(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!study.checks.is_empty(), "{name}");
        let counts: usize =
            study.cost.split(' ').next().and_then(|word| word.parse().ok()).expect("a number of runs");
        study.replace("data", "demo:100").expect("a key");
        let plan = Plan::of(study).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(plan.runs.len(), counts, "{name}");
        assert!(plan.study.seeds.len() >= 3, "{name}: fewer seeds decide little");
    }
}

#[test]
fn an_unknown_name_leads_to_the_nearest() {
    match builtin("position") {
        Err(StudyError::UnknownStudy { nearest, .. }) => assert_eq!(nearest.as_deref(), Some("positions")),
        other => panic!("{other:?}"),
    }
    let error = Study::open("nothing-like-it.toml").expect_err("no such file").to_string();
    assert!(
        error.contains("no study 'nothing-like-it.toml', neither a file nor one that is built in"),
        "{error}"
    );
}

/// The example of the documentation is a study.
#[test]
fn the_documented_example_has_a_plan() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/studies.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let (_, rest) = page.split_once("```toml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let plan = Plan::of(Study::parse(example, "docs/studies.md").expect("a study")).expect("a plan");
    // Three seeds of `big`, and of two rates with two starts.
    assert_eq!(plan.runs.len(), 3 + 3 * 2 * 2);
    assert_eq!(plan.run("small-0.002-big-s2").expect("a run").parents, ["big-s2"]);
}
