//! Arguments of `vitrum study`.

use std::path::PathBuf;

use clap::Args;
use vitrum::study::Shard;

use super::common::Format;
use super::train::LogFormat;
use super::values::parse_pair;

/// `vitrum study`.
#[derive(Debug, Args)]
#[command(
    after_help = "STUDY: the name of a built-in study (--list), or a TOML file: a base recipe, groups of runs with axes,\n\
seeds, and checks that say what the paper found.\n\n\
Runs that are finished are skipped, and a run that was stopped goes on, bit for bit. The report is written again each\n\
time: report.md, report.html, results.csv, results.json and plots/ in the folder of the study.\n\n\
Exit codes: 0 done, 1 a run failed, 2 usage, 75 stopped after saving: the same command goes on.\n\n\
Examples:\n  \
vitrum study --list\n  \
vitrum study positions --dry-run --no-measure --set data=demo:2000\n  \
vitrum study positions --set data=cifar10/ --set epochs=6\n  \
vitrum study data-size --set data=cifar10/ --shard 1/2 --output shared/data-size\n  \
vitrum study data-size --set data=cifar10/ --report-only --output shared/data-size"
)]
pub struct StudyArgs {
    /// A built-in study, or a TOML file.
    #[arg(value_name = "STUDY", required_unless_present = "list")]
    pub study: Option<String>,
    /// List the built-in studies: question, cost, paper.
    #[arg(long, conflicts_with_all = ["study", "dry_run", "report_only"])]
    pub list: bool,
    /// Say what each run costs, and stop. Writes nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Guess hours from multiply-accumulates instead of measuring a few updates of each kind of run.
    #[arg(long)]
    pub no_measure: bool,
    /// Write the report of what is finished, and stop. The data is not needed.
    #[arg(long, conflicts_with_all = ["dry_run", "shard", "only"])]
    pub report_only: bool,
    /// Only these runs, by name or condition, and the runs they begin from; * matches any text.
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    pub only: Vec<String>,
    /// Only part I of N, for N machines. Runs that need each other's models stay together.
    #[arg(long, value_name = "I/N", value_parser = |text: &str| text.parse::<Shard>().map_err(|error| error.to_string()))]
    pub shard: Option<Shard>,
    /// Replace a key of the base recipe, or with GROUP.KEY one of a group: epochs=6, data=DIR, device=webgpu,
    /// model_kwargs.depth=4.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub set: Vec<(String, String)>,
    /// Folder of the study [default: studies/NAME].
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Format of what is printed on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Format of the log lines.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Number of threads; 0: all.
    #[arg(long, env = "VITRUM_THREADS", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Never use the network; use only the cache.
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
}
