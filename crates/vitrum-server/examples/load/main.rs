//! Load on a server: what it does under too much of it, in bursts and under signals, whether every client gets its own
//! answer, and how fast it is.
//!
//! ```text
//! cargo build --release --workspace --examples
//! target/release/examples/load overload --seconds 600 --times 4
//! target/release/examples/load burst --images 10000
//! target/release/examples/load signals --rounds 100
//! target/release/examples/load distinct --requests 100000
//! target/release/examples/load pace --seconds 30 --url http://127.0.0.1:8000
//! ```
//!
//! The server is a process of its own, started here unless `--url` names one. Tables go to stdout, progress to stderr. The
//! process ends with 3 if a claim does not hold.

mod burst;
mod child;
mod client;
mod distinct;
mod drive;
mod foul;
mod overload;
mod pace;
mod pictures;
mod report;
mod signals;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use child::Server;

/// A claim does not hold.
const CLAIM_FAILED: u8 = 3;

/// Load on a server.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// More requests than the server can answer, slow clients, clients that leave, and garbage
    Overload(overload::Options),
    /// Memory after bursts of images
    Burst(burst::Options),
    /// Reloads and restarts under load: no accepted request goes without an answer
    Signals(signals::Options),
    /// Each image gets its own answer, in any batch
    Distinct(distinct::Options),
    /// Images per second and times of answers
    Pace(pace::Options),
}

/// Which server.
#[derive(Debug, Clone, Args)]
struct Target {
    /// A server that runs already, such as http://127.0.0.1:8000
    #[arg(long)]
    url: Option<String>,
    /// The program whose `serve` is started
    #[arg(long, default_value = "target/release/vitrum")]
    binary: PathBuf,
    /// The model, as `vitrum serve` takes it
    #[arg(long, default_value = "demo")]
    model: String,
    /// Threads of the model
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Where images are sent to
    #[arg(long, default_value = "/predict")]
    path: String,
    /// How the results are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Further flags of `vitrum serve`, behind `--`
    #[arg(last = true)]
    more: Vec<String>,
}

/// How the results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table.
    Text,
    /// A document.
    Json,
}

impl Target {
    /// The server at the address, or a new one with these flags.
    async fn server(&self, flags: &[String]) -> Result<Server> {
        match &self.url {
            Some(url) => Server::at(url).await,
            None => Server::start(self, 0, flags),
        }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let (report, format) = match Cli::parse().command {
        Command::Overload(options) => (overload::run(&options).await?, options.target.format),
        Command::Burst(options) => (burst::run(&options).await?, options.target.format),
        Command::Signals(options) => (signals::run(&options).await?, options.target.format),
        Command::Distinct(options) => (distinct::run(&options).await?, options.target.format),
        Command::Pace(options) => (pace::run(&options).await?, options.target.format),
    };
    report.print(format == Format::Json);
    Ok(if report.holds() { ExitCode::SUCCESS } else { CLAIM_FAILED.into() })
}
