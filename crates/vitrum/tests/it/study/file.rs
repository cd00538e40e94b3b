//! What a study's file may say, and what is refused.

use vitrum::study::{Rule, Study, StudyError, Take};

use super::{CHAIN, refused, text};

#[test]
fn a_file_is_read_whole() {
    let check = r#"
        [[check]]
        claim = "it helps"
        source = "page 3"
        kind = "better"
        a = ["then-start-*"]
        b = "then-nothing-*"
        by = 2
    "#;
    let head = "paper = \"a paper\"\ncost = \"a minute\"\ntake = \"best\"\nseeds = [3, 5]";
    let study = Study::parse(&text(head, &format!("{CHAIN}{check}")), "tiny.toml").expect("a study");
    assert_eq!((study.name.as_str(), study.question.as_str()), ("tiny", "Which?"));
    assert_eq!((study.paper.as_str(), study.cost.as_str(), study.take), ("a paper", "a minute", Take::Best));
    assert_eq!(study.seeds, [3, 5]);
    assert_eq!(study.groups.iter().map(|group| group.report).collect::<Vec<_>>(), [false, true]);
    let shares = &study.groups[1].axes[1];
    assert_eq!((shares.name.as_str(), shares.values[0].x), ("share", Some(50.0)));
    assert_eq!(
        study.checks[0].rule,
        Rule::Better {
            a: vec!["then-start-*".into()],
            b: vec!["then-nothing-*".into()],
            by: 2.0,
            every: false
        }
    );
}

#[test]
fn plain_values_of_a_key_name_themselves() {
    let runs = "[[runs]]\n[[runs.axis]]\nkey = \"lr\"\nvalues = [1e-3, 0.0005, 2]";
    let study = Study::parse(&text("", runs), "tiny.toml").expect("a study");
    let axis = &study.groups[0].axes[0];
    assert_eq!(axis.name, "lr");
    let names: Vec<&str> = axis.values.iter().map(|value| value.name.as_str()).collect();
    assert_eq!(names, ["0.001", "0.0005", "2"]);
    assert_eq!(axis.values[1].x, Some(5e-4));
}

#[test]
fn mistakes_are_told_with_their_place_and_the_nearest_name() {
    let one = "[[runs]]\nname = \"a\"";
    for (head, runs, texts) in [
        ("sedes = [1]", one, &["the study", "unknown key 'sedes'", "did you mean 'seeds'"][..]),
        ("seeds = []", one, &["no `seeds`"]),
        ("seeds = [-1]", one, &["seeds has -1"]),
        ("take = \"first\"", one, &["take is 'first', expected last or best"]),
        ("", "", &["no `runs`"]),
        ("", "[[runs]]\nreport = false", &["runs 1", "neither a name nor an axis"]),
        ("", "[[runs]]\nname = \"a/b\"", &["the name 'a/b' should have letters"]),
        ("", "[[runs]]\nname = \"a\"\nkeys = { epoch = 3 }", &["runs 'a', keys", "'epoch'", "'epochs'"]),
        ("", "[[runs]]\nname = \"a\"\nkeys = { seed = 3 }", &["the study itself decides on 'seed'"]),
        ("", "[[runs]]\nname = \"a\"\naxes = 3", &["unknown key 'axes'", "did you mean 'axis'"]),
        ("", "[[runs]]\n[[runs.axis]]\nname = \"x\"\nvalues = []", &["axis 'x'", "no `values`"]),
        ("", "[[runs]]\n[[runs.axis]]\nname = \"x\"\nvalues = [1, 1]", &["two values are called '1'"]),
        (
            "",
            "[[runs]]\n[[runs.axis]]\nkey = \"lrr\"\nvalues = [1]",
            &["unknown key 'lrr'", "did you mean 'lr'"],
        ),
        ("", "[[runs]]\n[[runs.axis]]\nname = \"x\"\nvalues = [{ lr = 1 }]", &["a value", "no `name`"]),
        ("recipe = \"cifar10_vit\"", one, &["no recipe 'cifar10_vit'"]),
        ("oops", one, &["not a TOML file"]),
    ] {
        let told = refused(head, runs);
        for text in texts
            .iter()
            .chain(&["tiny.toml"])
            .filter(|text| head != "recipe = \"cifar10_vit\"" || **text != "tiny.toml")
        {
            assert!(told.contains(text), "{head} {runs}: no '{text}' in {told}");
        }
    }
}

#[test]
fn mistakes_of_checks_are_told() {
    let check = |rest: &str| {
        format!(
            "[[runs]]\nname = \"one\"\n[[runs]]\nname = \"two\"\n[[check]]\nclaim = \"c\"\nsource = \"s\"\n{rest}"
        )
    };
    for (rest, text) in [
        ("kind = \"beter\"\na = \"one\"\nb = \"two\"", "did you mean 'better'"),
        ("kind = \"better\"\na = \"one\"", "no `b`"),
        ("kind = \"better\"\na = \"one\"\nb = \"two\"\nwithin = 1", "a check of kind better has no `within`"),
        ("kind = \"better\"\na = \"one\"\nb = \"two\"\nby = -1", "by is -1, expected a number of at least 0"),
        ("kind = \"same\"\na = [\"one\", \"two\"]", "no `within`"),
        ("kind = \"crosses\"\na = \"{at}\"\nb = \"two\"\nat = [\"one\"]", "at has 1 places"),
        ("kind = \"better\"\na = \"onne\"\nb = \"two\"", "no runs match 'onne'\nhint: did you mean 'one'?"),
    ] {
        let told = refused("", &check(rest));
        assert!(told.contains(text), "{rest}: no '{text}' in {told}");
    }
}

#[test]
fn values_can_be_replaced() {
    let mut study = Study::parse(&text("", CHAIN), "tiny.toml").expect("a study");
    for (key, value) in
        [("epochs", "3"), ("data", "demo:64"), ("model_kwargs.depth", "1"), ("then.lr", "1e-4")]
    {
        study.replace(key, value).expect(key);
    }
    let plan = vitrum::study::Plan::of(study).expect("a plan");
    for run in &plan.runs {
        assert_eq!((run.recipe.epochs, run.recipe.data.as_str()), (3, "demo:64"));
        assert_eq!(run.recipe.model_kwargs["depth"].as_integer(), Some(1));
        assert_eq!(run.recipe.model_kwargs["embed_dim"].as_integer(), Some(16));
        let lr = if run.id.starts_with("then") { 1e-4 } else { 2e-3 };
        assert_eq!(run.recipe.lr, Some(lr));
    }
    let mut study = Study::parse(&text("", CHAIN), "tiny.toml").expect("a study");
    match study.replace("epoch", "3") {
        Err(StudyError::UnknownKey { nearest, .. }) => assert_eq!(nearest.as_deref(), Some("epochs")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_value_without_effect_is_refused() {
    let runs = "[[runs]]\n[[runs.axis]]\nkey = \"lr\"\nvalues = [1e-3, 2e-3]";
    let with = |key: &str, value: &str| {
        let mut study = Study::parse(&text("", runs), "tiny.toml").expect("a study");
        study.replace(key, value).expect("a known key");
        vitrum::study::Plan::of(study).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(
        with("lr", "5e-3"),
        Err("lr: every run of the study has a value of its own, so that this one has no effect".into())
    );
    assert_eq!(with("checkpoint_every", "1epochs"), Ok(()));
    assert_eq!(with("weight_decay", "0"), Ok(()));
}
