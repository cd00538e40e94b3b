//! `vitrum train`, `vitrum finetune`, `vitrum pretrain` and `vitrum distill`: from the flags to a run.

mod recipe;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use clap::error::ErrorKind;
use vitrum::models::Config;
use vitrum::train::recipe::Recipe;
use vitrum::train::{Fit, Job, Requests};

use crate::args::{Cli, TrainArgs};
use crate::device;
use crate::output;
use crate::progress::watcher;
use crate::signals::Signals;
use crate::talk::Talk;

/// Exit code after a stop by a signal (`EX_TEMPFAIL` of sysexits.h). The same command with `--resume auto` continues.
pub const STOPPED: u8 = 75;

/// Resolves the recipe on top of `base`, then trains or only prints it.
pub fn run(verb: &str, args: &TrainArgs, base: Recipe, talk: Talk) -> Result<ExitCode> {
    let recipe = recipe::resolve(args, base)?;
    if recipe.data.is_empty() {
        no_data(verb);
    }
    recipe.check()?;
    for doubt in recipe.doubts() {
        talk.say(format_args!("warning: {doubt}"));
    }
    if args.show_recipe || args.dry_run {
        if args.dry_run {
            describe(&recipe, talk)?;
        }
        let text = toml::to_string(&recipe.to_table()).context("writing the recipe")?;
        output::bytes(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if verb == "finetune" && recipe.pretrained.is_none() && recipe.is_named() {
        bail!(
            "finetune: '{}' is a name without weights\nhint: --pretrained DIR|FILE|hf:ORG/NAME, or -m \
             with one of these; `vitrum train` begins from fresh values",
            recipe.model
        );
    }
    let signals = Signals::install().context("listening to signals")?;
    let job = Job {
        device: device::named(&recipe.device, args.threads)?,
        resume: args.resume.clone(),
        allow_changed_args: args.allow_changed_args,
        offline: args.offline,
        command: std::env::args().collect(),
        recipe,
    };
    let mut watch = watcher(args.tui, args.log_format, talk.quiet, signals.stop_flag())?;
    let outcome = Fit::new(&job).requests(&signals).run(&mut *watch);
    drop(watch); // The shell gets the terminal back.
    let outcome = outcome?;
    match outcome.stopped {
        None => {
            output::line("--result")?;
            output::line(outcome.finished.result_json())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(checkpoint) => {
            talk.say(format_args!(
                "stopped; saved {}; continue with --resume auto; {} has the best weights so far",
                checkpoint.display(),
                outcome.folder.model().display()
            ));
            Ok(ExitCode::from(STOPPED))
        }
    }
}

impl Requests for Signals {
    fn stop(&self) -> bool {
        Signals::stop(self)
    }

    fn take_save(&self) -> bool {
        Signals::take_save(self)
    }
}

/// Ends as clap does when an argument is missing. clap cannot require DATA, because a recipe may supply it.
fn no_data(verb: &str) -> ! {
    let mut cli = Cli::command();
    cli.build();
    let text = "DATA is missing: name a folder, a table, an archive, or demo";
    let mut command = cli.find_subcommand(verb).cloned().unwrap_or(cli);
    command.error(ErrorKind::MissingRequiredArgument, text).exit()
}

/// The model's size and the images per update, on stderr.
fn describe(recipe: &Recipe, talk: Talk) -> Result<()> {
    if !recipe.is_named() {
        talk.say(format_args!("dry run on {}; model {}", recipe.data, recipe.model));
        return Ok(());
    }
    let walk = recipe.model_config(None)?.walk()?;
    talk.say(format_args!("dry run on {}", recipe.data));
    talk.say(format_args!("model  {}  {:.2} M parameters", recipe.model, walk.params as f64 / 1e6));
    talk.say(format_args!("update {} images, learning rate {:e}", recipe.global_batch(), recipe.peak_lr()));
    Ok(())
}
