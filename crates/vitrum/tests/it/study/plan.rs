//! Runs, their names and order, and what they begin from.

use std::path::Path;

use super::{CHAIN, ids, plan, refused};

#[test]
fn axes_are_crossed_and_seeds_come_one_after_the_other() {
    let plan = plan("seeds = [1, 2]", CHAIN);
    let of = |seed: u64| {
        ["start", "then-nothing-half", "then-nothing-all", "then-start-half", "then-start-all"]
            .map(|name| format!("{name}-s{seed}"))
    };
    assert_eq!(ids(&plan), [of(1), of(2)].concat());
    let run = plan.run("then-start-half-s2").expect("a run");
    assert_eq!((run.seed, run.recipe.seed, run.recipe.fraction), (2, 2, 0.5));
    assert_eq!(run.parents, ["start-s2"]);
    assert_eq!(run.recipe.pretrained.as_deref(), Some("{run:start-s2}"));
    assert_eq!(run.recipe.experiment.as_deref(), Some("then-start-half-s2"));
    let labels: Vec<String> = plan.conditions.iter().map(|condition| condition.label(&plan.study)).collect();
    assert_eq!(labels, ["start", "nothing, half", "nothing, all", "start, half", "start, all"]);
}

#[test]
fn the_model_of_another_run_is_a_folder() {
    let plan = plan("", CHAIN);
    let run = plan.run("then-start-all-s1").expect("a run");
    let recipe = plan.resolved(run, Path::new("out"));
    let model = Path::new("out").join("runs").join("classify").join("start-s1").join("model");
    assert_eq!(recipe.pretrained, Some(model.display().to_string()));
    assert_eq!(recipe.output, Path::new("out").join("runs"));
}

#[test]
fn parents_come_first_wherever_they_stand() {
    let runs = r#"
        [[runs]]
        name = "c"
        keys = { pretrained = "{run:b}" }
        [[runs]]
        name = "b"
        keys = { pretrained = "{run:a}" }
        [[runs]]
        name = "a"
    "#;
    assert_eq!(ids(&plan("seeds = [7, 8]", runs)), ["a-s7", "b-s7", "c-s7", "a-s8", "b-s8", "c-s8"]);
}

#[test]
fn a_run_of_one_seed_serves_all_seeds() {
    let runs = r#"
        [[runs]]
        name = "a"
        seeds = [9]
        [[runs]]
        name = "b"
        keys = { pretrained = "{run:a}" }
        [[runs]]
        name = "c"
        keys = { pretrained = "{run:b-s2}" }
    "#;
    let plan = plan("seeds = [1, 2]", runs);
    assert_eq!(plan.run("b-s2").expect("a run").parents, ["a-s9"]);
    assert_eq!(plan.run("c-s1").expect("a run").parents, ["b-s2"]);
}

#[test]
fn axes_are_put_into_texts() {
    let runs = r#"
        [[runs]]
        name = "a"
        [[runs.axis]]
        key = "lr"
        values = [1e-3, 2e-3]
        [[runs]]
        name = "b"
        keys = { pretrained = "{run:a-{rate}}", data = "demo:{n}", val_data = "shards-{000..012}.tar" }
        [[runs.axis]]
        name = "rate"
        values = [1e-3, 2e-3]
        [[runs.axis]]
        name = "n"
        values = [64]
    "#;
    let plan = plan("", runs);
    let run = plan.run("b-0.002-64-s1").expect("a run");
    assert_eq!(run.parents, ["a-0.002-s1"]);
    assert_eq!(run.recipe.data, "demo:64");
    assert_eq!(run.recipe.val_data.as_deref(), Some("shards-{000..012}.tar"), "no axis has this name");
}

#[test]
fn another_model_begins_with_its_own_fields() {
    let runs = r#"
        [[runs]]
        [[runs.axis]]
        name = "model"
        values = [{ name = "vit" }, { name = "other", model = "test_vit2", model_kwargs = { patch_size = 8 } }]
    "#;
    let plan = plan("", runs);
    let fields = |id: &str| plan.run(id).expect("a run").recipe.model_kwargs.len();
    assert_eq!((fields("vit-s1"), fields("other-s1")), (4, 1));
}

#[test]
fn impossible_plans_are_refused() {
    let runs = |first: &str, second: &str| {
        format!(
            "[[runs]]\nname = \"first\"\nkeys = {{ pretrained = \"{first}\" }}\n\
             [[runs]]\nname = \"second\"\nkeys = {{ pretrained = \"{second}\" }}"
        )
    };
    let circle = refused("", &runs("{run:second}", "{run:first}"));
    assert!(circle.contains("first-s1 → second-s1 → first-s1"), "{circle}");
    let own = refused("", &runs("{run:first}", "x"));
    assert!(own.contains("first-s1 → first-s1"), "{own}");
    let unknown = refused("", &runs("{run:secnd}", "x"));
    assert!(unknown.contains("run first-s1: pretrained names the run 'secnd'"), "{unknown}");
    assert!(unknown.contains("did you mean 'second'?"), "{unknown}");
    let open = refused("", &runs("{run:second", "x"));
    assert!(open.contains("pretrained is '{run:second', expected {run:NAME}"), "{open}");
    let seeds =
        "[[runs]]\nname = \"a\"\nseeds = [4, 5]\n[[runs]]\nname = \"b\"\nkeys = { pretrained = \"{run:a}\" }";
    let seed = refused("", seeds);
    assert!(seed.contains("names 'a', which has the seeds 4, 5, but not 1"), "{seed}");
    let twice = refused("", "[[runs]]\nname = \"a\"\n[[runs]]\nname = \"a\"");
    assert!(twice.contains("two runs are called 'a-s1'"), "{twice}");
    let value = refused("", "[[runs]]\nname = \"a\"\nkeys = { batch_size = 0 }");
    assert!(value.contains("run a-s1: batch_size must be at least 1"), "{value}");
}

#[test]
fn patterns_choose_runs_and_what_they_begin_from() {
    let plan = plan("seeds = [1, 2]", CHAIN);
    let chosen = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        let chosen = plan.chosen(&patterns).expect("a pattern that matches");
        chosen.into_iter().map(|index| plan.runs[index].id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&[]).len(), 10);
    assert_eq!(chosen(&["then-start-half-s2"]), ["start-s2", "then-start-half-s2"]);
    assert_eq!(chosen(&["then-nothing-all", "*-half-s1"]).len(), 5);
    let error = plan.chosen(&["then-nothing-al".into()]).expect_err("no such run").to_string();
    assert!(
        error.contains("no run matches 'then-nothing-al'\nhint: did you mean 'then-nothing-all"),
        "{error}"
    );
}
