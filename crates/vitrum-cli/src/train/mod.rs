//! `vitrum train` and `vitrum finetune`: from the flags to a run.

mod args;
mod flags;

use std::process::ExitCode;

use anyhow::{Context, Result};
use vitrum::train::recipe::Recipe;

pub use args::TrainArgs;

use crate::model::Talk;
use crate::output;
use crate::signals::Signals;

/// Stopped by a signal; the same command with `--resume auto` goes on (`EX_TEMPFAIL` of sysexits.h).
const STOPPED: u8 = 75;

/// Resolves the recipe on top of `base`, checks that it makes a model, and prints it.
pub fn run(args: &TrainArgs, base: Recipe, talk: Talk) -> Result<ExitCode> {
    let signals = Signals::install().context("listening to signals")?;
    let recipe = args::resolve(args, base)?;
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
