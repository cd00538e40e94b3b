//! The `vitrum` command.
#![forbid(unsafe_code)]

mod args;
mod checks;
mod device;
mod models;
mod output;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use args::{Cli, Command, Format};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Models(command) => models::run(command)?,
        Command::Checks(args) => checks::run(&args)?,
        Command::Version { format } => version(format)?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "vitrum", &mut std::io::stdout());
        }
        _ => anyhow::bail!("not yet"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever read our output has left (`vitrum … | head`): not an error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

fn version(format: Format) -> Result<()> {
    let facts = [
        ("vitrum", env!("CARGO_PKG_VERSION")),
        ("burn", "0.22.1"),
        ("target", std::env::consts::ARCH),
        ("system", std::env::consts::OS),
    ];
    if format == Format::Json {
        return output::json(&facts.into_iter().collect::<std::collections::BTreeMap<_, _>>());
    }
    let mut rows = output::Rows::new(&["what", "version"]);
    facts.iter().for_each(|(what, version)| rows.push([(*what).into(), (*version).into()]));
    if format == Format::Csv { rows.csv() } else { rows.text() }
}
