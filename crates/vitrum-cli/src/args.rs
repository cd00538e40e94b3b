//! The command line, as typed: a file per verb.

mod bench;
mod checkpoint;
mod checks;
mod common;
mod data;
mod demo;
mod embed;
mod explain;
mod flags;
mod forward;
mod models;
mod predict;
mod probe;
mod quantize;
mod reconstruct;
mod serve;
mod study;
mod train;
mod val;
mod values;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub use bench::BenchArgs;
pub use checkpoint::{CheckpointCommand, Layout, WeightDtype};
pub use checks::ChecksArgs;
pub use common::{DeviceArgs, DeviceName, Dtype, Format, ImagesArgs, LimitArgs, ModelArgs, PreprocessArgs};
pub use data::{DataCheckArgs, DataCommand, DataReadArgs, DataSplitArgs, DataStatsArgs};
pub use demo::DemoArgs;
pub use embed::{EmbedArgs, EmbedFormat, EmbedKind};
pub use explain::{BaselineName, ExplainArgs, ExplainMethod, FusionName};
pub use flags::pair;
pub use forward::{ForwardArgs, VerifyArgs};
pub use models::{LadderArgs, ModelsCommand, ShapesArgs, ShapesFormat};
pub use predict::PredictArgs;
pub use probe::{Method, MetricName, ProbeArgs};
pub use quantize::QuantizeArgs;
pub use reconstruct::{MaskKindName, ReconstructArgs};
pub use serve::ServeArgs;
pub use study::StudyArgs;
pub use train::{LogFormat, TrainArgs, Tui};
pub use val::ValArgs;

/// Vision Transformers and their convolutional rivals: train, predict, evaluate, embed, inspect and convert.
#[derive(Debug, Parser)]
#[command(name = "vitrum", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 run-time error, 2 usage, 3 a requested gate failed, 75 stopped after saving.\n\
Results go to stdout, everything else to stderr."
)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Print less: no progress, no reports.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print more: -v device and configuration, -vv also every loaded tensor.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model on labelled images.
    #[command(args_override_self = true)]
    Train(TrainArgs),
    /// The same with defaults for fine-tuning: a short run from pretrained weights.
    #[command(args_override_self = true)]
    Finetune(TrainArgs),
    /// Pretrain a model on images without labels: it predicts masked patches.
    #[command(args_override_self = true, after_help = train::PRETRAIN)]
    Pretrain(TrainArgs),
    /// Train a student with a teacher: it learns from the labels and from the teacher's logits.
    #[command(args_override_self = true)]
    Distill(TrainArgs),
    /// Run the experiments of a paper: many runs, resumed where they stopped, and one report.
    Study(StudyArgs),
    /// Classify images.
    Predict(PredictArgs),
    /// Accuracy, loss and speed on labelled images.
    #[command(visible_alias = "validate", visible_alias = "eval")]
    Val(ValArgs),
    /// Run a model on tensors and write the raw numbers, for comparison.
    Forward(ForwardArgs),
    /// Compare with another implementation's intermediates; report the first layer that differs.
    Verify(VerifyArgs),
    /// Images to feature vectors.
    Embed(EmbedArgs),
    /// Show what a model looks at: attention, relevance, Grad-CAM, gradients, occlusion, features.
    Explain(Box<ExplainArgs>),
    /// Answer over HTTP: predictions, embeddings, explanations, and a page to try them.
    Serve(Box<ServeArgs>),
    /// Fill in masked patches of images, with a model pretrained for that.
    Reconstruct(ReconstructArgs),
    /// Scores of a model's features on labelled images: neighbours, regression, linear probe, fine-tuning.
    Probe(Box<ProbeArgs>),
    /// Known models: list, parameters, shapes.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Files of weights: inspect, convert, compare, verify.
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Write a model with int8 weights: a quarter of the size, and faster.
    Quantize(QuantizeArgs),
    /// Image datasets: check, measure, split into training and validation.
    #[command(subcommand)]
    Data(DataCommand),
    /// Draw pictures of the built-in demo set.
    Demo(DemoArgs),
    /// Measure the speed of a model on this machine.
    #[command(visible_alias = "benchmark")]
    Bench(BenchArgs),
    /// Check this machine: device, threads, processor, forward and backward against a reference.
    Checks(ChecksArgs),
    /// Versions of vitrum and its main parts.
    Version {
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Shell completions on stdout.
    Completions {
        /// The shell.
        shell: Shell,
    },
}
