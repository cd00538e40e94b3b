//! `vitrum train` and `vitrum finetune`: from the flags to a run.

mod args;
mod flags;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap::error::ErrorKind;
use vitrum::train::recipe::Recipe;

pub use args::TrainArgs;

use crate::args::Cli;
use crate::model::Talk;
use crate::output;
use crate::signals::Signals;

/// Stopped by a signal; the same command with `--resume auto` goes on (`EX_TEMPFAIL` of sysexits.h).
const STOPPED: u8 = 75;

/// Resolves the recipe of `verb` on top of `base`, checks that it makes a model, and prints it.
pub fn run(verb: &str, args: &TrainArgs, base: Recipe, talk: Talk) -> Result<ExitCode> {
    let signals = Signals::install().context("listening to signals")?;
    let recipe = args::resolve(args, base)?;
    if recipe.data.is_empty() {
        no_data(verb);
    }
    recipe.check()?;
    for doubt in recipe.doubts() {
        talk.say(format_args!("warning: {doubt}"));
    }
    if !args.show_recipe {
        describe(&recipe, args, talk)?;
    }
    if signals.stop() {
        return Ok(ExitCode::from(STOPPED));
    }
    let text = toml::to_string(&recipe.to_table()).context("writing the recipe")?;
    output::bytes(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Ends as clap does when an argument is missing. DATA is none that it could miss: a recipe may tell it.
fn no_data(verb: &str) -> ! {
    let mut cli = Cli::command();
    cli.build();
    let text = "DATA is missing: name a folder, a table, an archive, or demo";
    let mut command = cli.find_subcommand(verb).cloned().unwrap_or(cli);
    command.error(ErrorKind::MissingRequiredArgument, text).exit()
}

/// The model's size and the images per update, on stderr.
fn describe(recipe: &Recipe, args: &TrainArgs, talk: Talk) -> Result<()> {
    let config = recipe.model_config(None)?;
    let walk = config.walk()?;
    let what = if args.dry_run { "dry run" } else { "recipe" };
    talk.say(format_args!("{what} on {}", recipe.data));
    talk.say(format_args!("model  {}  {:.2} M parameters", recipe.model, walk.params as f64 / 1e6));
    talk.say(format_args!("update {} images, learning rate {:e}", recipe.global_batch(), recipe.peak_lr()));
    Ok(())
}
