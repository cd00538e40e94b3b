//! The `vitrum` command.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod checkpoint;
mod checks;
mod dashboard;
mod data;
mod demo;
mod device;
mod embed;
mod explain;
mod forward;
mod hints;
mod memory;
mod model;
mod models;
mod output;
mod predict;
mod probe;
mod progress;
mod quantize;
mod reconstruct;
mod serve;
mod signals;
mod study;
mod talk;
mod target;
mod tensors;
mod train;
mod val;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use args::{Cli, Command, Format};
use talk::Talk;
use vitrum::train::recipe::Recipe;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A requested gate was not met.
const GATE_FAILED: u8 = 3;

fn main() -> ExitCode {
    vitrum_kernels::memory::keep_freed_memory();
    quiet_decoders();
    // Without a handler such a write ends the process, which is worse and no reason to refuse to begin.
    let _ = signals::report_large_files();
    let cli = Cli::parse_from(arguments());
    match run(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(format_args!("error: {}", hints::explained(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The command line. `vitrum predict demo` and `vitrum explain demo` mean the built-in model, unless another one is given.
fn arguments() -> Vec<OsString> {
    let mut typed: Vec<OsString> = std::env::args_os().collect();
    let has = |word: &str| typed.iter().any(|arg| arg == word);
    let is_model = |arg: &OsString| {
        arg.to_string_lossy().starts_with("-m") || arg.to_string_lossy().starts_with("--model")
    };
    let is_named = typed.iter().any(is_model) || std::env::var_os("VITRUM_MODEL").is_some();
    if (has("predict") || has("explain")) && has("demo") && !is_named && !has("--help") && !has("-h") {
        typed.extend(["-m".into(), "demo".into()]);
    }
    typed
}

/// Silences decoders' panics on damaged images. They become errors that name the file.
fn quiet_decoders() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !vitrum::data::decode::is_guarded() {
            usual(info);
        }
    }));
}

fn run(cli: Cli) -> Result<ExitCode> {
    let talk = Talk { quiet: cli.quiet, verbose: cli.verbose };
    let gate = |passed: bool| if passed { ExitCode::SUCCESS } else { ExitCode::from(GATE_FAILED) };
    match cli.command {
        Command::Train(args) => return train::run("train", &args, Recipe::default(), talk),
        Command::Finetune(args) => return train::run("finetune", &args, Recipe::finetune(), talk),
        Command::Pretrain(args) => return train::run("pretrain", &args, Recipe::pretrain(), talk),
        Command::Distill(args) => return train::run("distill", &args, Recipe::distill(), talk),
        Command::Study(args) => return study::run(&args, talk),
        Command::Predict(args) => predict::run(&args, talk)?,
        Command::Val(args) => return val::run(&args, talk).map(gate),
        Command::Forward(args) => forward::run(&args, talk)?,
        Command::Verify(args) => return forward::verify(&args, talk).map(gate),
        Command::Embed(args) => embed::run(&args, talk)?,
        Command::Probe(args) => return probe::run(&args, talk),
        Command::Bench(args) => bench::run(&args, talk)?,
        Command::Explain(args) => return explain::run(&args, talk),
        Command::Serve(args) => serve::run(&args, talk)?,
        Command::Reconstruct(args) => reconstruct::run(&args, talk)?,
        Command::Quantize(args) => quantize::run(&args, talk)?,
        Command::Data(command) => return data::run(&command, talk).map(gate),
        Command::Demo(args) => demo::run(&args, talk)?,
        Command::Models(command) => models::run(command)?,
        Command::Checkpoint(command) => return checkpoint::run(command, talk).map(gate),
        Command::Checks(args) => checks::run(&args, talk)?,
        Command::Version { format } => version(format)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "vitrum", &mut script);
            output::bytes(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the reader of our output has closed it (`vitrum … | head`): not an error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| match cause.downcast_ref::<csv::Error>().map(csv::Error::kind) {
        Some(csv::ErrorKind::Io(error)) => is_broken(error),
        _ => cause.downcast_ref().is_some_and(is_broken),
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
