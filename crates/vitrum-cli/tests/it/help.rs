//! What `--help` says.

use crate::sandbox::Sandbox;

#[test]
fn the_first_page_names_commands_and_exit_codes() {
    let help = Sandbox::empty().ok("--help").out;
    let commands = [
        "train",
        "finetune",
        "distill",
        "study",
        "predict",
        "val",
        "forward",
        "verify",
        "embed",
        "probe",
        "models",
        "checkpoint",
        "quantize",
        "data",
        "demo",
        "checks",
    ];
    for word in commands.into_iter().chain(["version", "completions"]) {
        assert!(help.lines().any(|line| line.trim_start().starts_with(word)), "no {word} in:\n{help}");
    }
    assert!(
        help.contains("Exit codes: 0 done, 1 run-time error, 2 usage, 3 a requested gate failed, 75 stopped after saving."),
        "{help}"
    );
    let nothing = Sandbox::empty().ends("", 2);
    assert_eq!(nothing.out, "");
    assert!(nothing.err.contains("Usage: vitrum"), "{}", nothing.err);
}

#[test]
fn commands_that_run_a_model_share_its_flags() {
    let sandbox = Sandbox::empty();
    for command in ["predict", "val", "forward", "verify", "embed", "probe", "bench"] {
        let help = sandbox.ok(&format!("{command} --help")).out;
        for flag in [
            "--model",
            "--checkpoint",
            "--keys",
            "--num-classes",
            "--img-size",
            "--in-chans",
            "--gp",
            "--pos-resize",
            "--precision",
            "--model-kwargs",
            "--answer",
            "--device",
            "--threads",
            "--seed",
            "--offline",
            "--quiet",
            "--allow-missing",
            "--allow-unexpected",
        ] {
            assert!(
                help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")),
                "{command}: no {flag}"
            );
        }
    }
}

#[test]
fn examples_are_there_and_are_understood() {
    let sandbox = Sandbox::empty();
    let commands = [
        "predict",
        "val",
        "forward",
        "verify",
        "embed",
        "probe",
        "models list",
        "models shapes",
        "models ladder",
        "checkpoint inspect",
        "checkpoint convert",
        "bench",
        "data check",
        "data stats",
        "data split",
        "demo",
        "study",
    ];
    for command in commands {
        let help = sandbox.ok(&format!("{command} --help")).out;
        let (_, examples) = help.split_once("Example").unwrap_or_else(|| panic!("{command}: no examples"));
        let lines: Vec<&str> =
            examples.lines().map(str::trim).filter(|line| line.starts_with("vitrum ")).collect();
        assert!(!lines.is_empty(), "{command}: no examples");
        for line in lines {
            let typed = line.trim_start_matches("vitrum ").split(" > ").next().expect("a command");
            assert!(typed.starts_with(command), "{command}: an example of another command: {line}");
            let brief = if command == "bench" { " --runs 1 --warmup 0" } else { "" };
            let ran = sandbox.run(&(typed.replace('\'', "") + brief));
            // No files are there, but the flags are right.
            assert_ne!(ran.code, 2, "{line}: {}", ran.err);
        }
    }
}

#[test]
fn short_help_of_every_subcommand() {
    let sandbox = Sandbox::empty();
    let others = ["models info", "checkpoint diff", "checkpoint verify", "checks", "version", "completions"];
    for command in others {
        let help = sandbox.ok(&format!("{command} -h")).out;
        assert!(help.contains("Usage: vitrum"), "{command}: {help}");
    }
}

#[test]
fn the_built_in_recipes_are_listed() {
    let help = Sandbox::empty().ok("train --help").out;
    for (name, _) in vitrum::train::recipe::BUILTIN {
        assert!(help.contains(name), "no {name} in:\n{help}");
    }
}
