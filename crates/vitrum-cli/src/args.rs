//! The command line, as typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::train::TrainArgs;

/// Vision Transformers: train, predict, evaluate, embed, inspect and convert.
#[derive(Debug, Parser)]
#[command(name = "vitrum", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 run-time error, 2 usage, 3 a requested gate failed, 75 stopped after saving.\n\
Results go to stdout, everything else to stderr."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say less: no progress, no reports.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more: -v device and configuration, -vv every loaded tensor too.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model on labelled images.
    #[command(args_override_self = true)]
    Train(TrainArgs),
    /// The same with the defaults of fine-tuning: a short run from pretrained weights.
    #[command(args_override_self = true)]
    Finetune(TrainArgs),
    /// Name the classes of images.
    Predict(PredictArgs),
    /// Accuracy, loss and speed on labelled images.
    #[command(visible_alias = "validate", visible_alias = "eval")]
    Val(ValArgs),
    /// Run a model on tensors: the raw numbers, for comparing.
    Forward(ForwardArgs),
    /// Compare with another implementation's intermediates; name the first layer that departs.
    Verify(VerifyArgs),
    /// Images to feature vectors.
    Embed(EmbedArgs),
    /// Known models: list, parameters, shapes.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Files of weights: inspect, convert, compare, verify.
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Write a model with weights in eight bits: a quarter of the size, and faster.
    Quantize(QuantizeArgs),
    /// Image datasets: check, measure, split into training and validation.
    #[command(subcommand)]
    Data(DataCommand),
    /// Draw pictures of the built-in demo set.
    Demo(DemoArgs),
    /// How fast a model runs on this machine.
    #[command(visible_alias = "benchmark")]
    Bench(BenchArgs),
    /// Check this machine: device, threads, processor, forward and backward against a reference.
    Checks(ChecksArgs),
    /// Version of vitrum and of what it is built on.
    Version {
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Completions for a shell, to stdout.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// Text for people, JSON or CSV for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
    /// Comma-separated values with a header.
    Csv,
}

/// Element type of the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// 64-bit floats.
    F64,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// The fastest device this binary was built for and finds; today the CPU.
    Auto,
    /// The processor.
    Cpu,
    /// A GPU through Vulkan (builds with the feature `vulkan`).
    Vulkan,
    /// A GPU through WebGPU (builds with the feature `webgpu`).
    Webgpu,
}

/// The device and its threads; they mean the same in every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// Where to compute.
    #[arg(long, env = "VITRUM_DEVICE", value_enum, default_value_t = DeviceName::Auto)]
    pub device: DeviceName,
    /// Threads of the processor; 0 takes all.
    #[arg(long, env = "VITRUM_THREADS", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

/// Which model; the flags mean the same in every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A folder with config.json and weights, a file of weights, a name (see `vitrum models list`), or hf:ORG/NAME.
    #[arg(short, long, env = "VITRUM_MODEL", value_name = "DIR|FILE|NAME|hf:ID")]
    pub model: String,
    /// Weights: .safetensors, .npz, .pth, .bin, or a folder; instead of those that come with the model.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Which of several sets of weights in the file, by the words in front of its tensors: student, state_dict
    /// [default: averaged weights before others, a teacher before its student].
    #[arg(long, value_name = "NAME", alias = "weights-key")]
    pub weight_set: Option<String>,
    /// Names that no dialect knows, told by a file; it may also tell fields that tensors do not show, such as num_heads.
    #[arg(long, value_name = "FILE.toml")]
    pub keys: Option<PathBuf>,
    /// Number of classes; another than the checkpoint's gives the model a new head, and says so.
    #[arg(long, value_name = "K")]
    pub num_classes: Option<usize>,
    /// Image size in pixels, N or HxW; positions are resized.
    #[arg(long, value_name = "N|HxW", value_parser = parse_size, alias = "imgsz")]
    pub img_size: Option<Size>,
    /// Channels of the images; the patch projection is adapted as timm adapts it (to 1: the sum).
    #[arg(long, value_name = "C")]
    pub in_chans: Option<usize>,
    /// Tokens to one vector: token, avg, max, avgmax, map. A norm before pooling becomes the norm after it.
    #[arg(long, value_name = "POOL", value_parser = parse_pool, alias = "global-pool")]
    pub gp: Option<vitrum::models::vit::GlobalPool>,
    /// How positions are resized: bicubic_antialias, bicubic, bicubic_dino, bilinear, bilinear_aligned, nearest
    /// [default: the card's, else bicubic_antialias].
    #[arg(long, value_name = "METHOD", value_parser = parse_pos_resize)]
    pub pos_resize: Option<vitrum::models::vit::PosResize>,
    /// f32; bf16: what the blocks multiply, weights and the rest, is rounded to bf16 and summed in f32; or int8: weights
    /// and their inputs are turned into eight bits (attention is in bf16 where the processor has it). All else stays
    /// f32. A folder of `vitrum quantize` needs no flag.
    #[arg(long, value_name = "f32|bf16|int8", default_value = "f32", value_parser = parse_precision)]
    pub precision: vitrum::models::Precision,
    /// Model fields by timm's names, over the card's: --model-kwargs depth=6 global_pool=avg.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = parse_pair)]
    pub model_kwargs: Vec<(String, String)>,
    /// Keys the checkpoint may lack; * stands for any text. They get fresh values.
    #[arg(long, value_name = "KEY")]
    pub allow_missing: Vec<String>,
    /// Keys of the checkpoint that may be ignored; * stands for any text.
    #[arg(long, value_name = "KEY")]
    pub allow_unexpected: Vec<String>,
    /// Seed of fresh values, where a model has no weights or a new head.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Never touch the network; use what is in the cache.
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
    /// Device and threads.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Preprocessing, where it should not be the card's.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Preprocessing (default: the model's card)")]
pub struct PreprocessArgs {
    /// Share of the resized short side that the crop keeps.
    #[arg(long, value_name = "F")]
    pub crop_pct: Option<f64>,
    /// center, squash or border.
    #[arg(long, value_name = "MODE")]
    pub crop_mode: Option<String>,
    /// bicubic, bilinear, lanczos, box, hamming or nearest.
    #[arg(long, value_name = "FILTER")]
    pub interpolation: Option<String>,
    /// Subtracted from each channel in [0, 1].
    #[arg(long, value_name = "M", num_args = 1..)]
    pub mean: Vec<f32>,
    /// Divides each channel.
    #[arg(long, value_name = "S", num_args = 1..)]
    pub std: Vec<f32>,
    /// Leave pictures as they are stored instead of turning them as their EXIF tag says (timm does not turn them).
    #[arg(long)]
    pub no_exif: bool,
}

/// Bounds on what an image file may ask for.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Largest number of pixels of an image.
    #[arg(long, value_name = "N", default_value_t = 89_478_485)]
    pub max_image_pixels: u64,
    /// Longest side of an image.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    pub max_image_side: u32,
}

/// Images for a model: which, how many at a time, how prepared, how large at most.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Images, or folders of images.
    #[arg(required = true, value_name = "IMG")]
    pub images: Vec<PathBuf>,
    /// Images per forward pass.
    #[arg(short, long, default_value_t = 8)]
    pub batch_size: usize,
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Preprocessing.
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// `vitrum predict`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
vitrum predict demo\n  \
vitrum predict cat.jpg dog.png -m hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k\n  \
vitrum predict photos/ -m model/ --topk 1 --format csv > answers.csv\n  \
vitrum predict x.jpg -m vit_base_patch16_224 --checkpoint B_16.npz --format json")]
pub struct PredictArgs {
    /// Images and model.
    #[command(flatten)]
    pub input: ImagesArgs,
    /// How many classes to name.
    #[arg(long, default_value_t = 5)]
    pub topk: usize,
    /// Names of the classes, one a line, over the card's.
    #[arg(long, value_name = "FILE")]
    pub class_map: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `vitrum val`.
#[derive(Debug, Args)]
#[command(
    after_help = "DATA: a folder of class folders, labels.csv or .tsv with columns file and class_index (or class),\n\
cifar-10-batches-bin or cifar-100-binary, MNIST idx(.gz) files, a .tar of class folders, WebDataset shards, or demo.\n\n\
Examples:\n  \
vitrum val imagenet/val -m hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k\n  \
vitrum val labels.csv --image-dir images -m model/ --format json\n  \
vitrum val flowers/test -m model/ --min-top1 95 --results-file out.csv"
)]
pub struct ValArgs {
    /// Labelled images.
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Images per forward pass.
    #[arg(short, long, default_value_t = 32)]
    pub batch_size: usize,
    /// Threads that decode images; 0 takes one per processor.
    #[arg(short = 'j', long, default_value_t = 0, hide_default_value = true)]
    pub workers: usize,
    /// Folder that the files of a CSV are in [default: the CSV's own].
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// Class names in the order of their index, one a line.
    #[arg(long, value_name = "FILE")]
    pub class_map: Option<PathBuf>,
    /// Part of the data: train, validation, test.
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Only the first N images.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Unreadable images that are skipped, a number or a share below 1; one more ends the run.
    #[arg(long, value_name = "N|F", default_value = "0.001", value_parser = parse_max_bad)]
    pub max_bad: f64,
    /// Per-image results: file,label,pred,prob.
    #[arg(long, value_name = "FILE.csv")]
    pub results_file: Option<PathBuf>,
    /// Exit with 3 when top-1 is below this percentage.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub min_top1: Option<f64>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Preprocessing.
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// `vitrum forward`.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads the tensor `input` [B, C, H, W], normalised already; writes `logits` [B, K] and\n\
`features` [B, T, D] (timm's forward_features).\n\n\
Examples:\n  \
vitrum forward -m model/ --checkpoint w.npz --input in.safetensors --output out.safetensors\n  \
vitrum forward -m model/ --input in.safetensors --output out.safetensors --dtype f64 --trace"
)]
pub struct ForwardArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// A safetensors file with `input`.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where to write.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Element type of the computation and of the output.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Also write every named intermediate (`blocks.0.attn` …).
    #[arg(long)]
    pub trace: bool,
    /// With --trace, also write attention weights (`blocks.0.attn.weights` [B, A, T, T]).
    #[arg(long, requires = "trace")]
    pub attention: bool,
    /// Images per forward pass; 0 takes all at once.
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    pub batch_size: usize,
}

/// `vitrum verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "The reference holds `input` and what another implementation made of it: `logits`, `features` and any\n\
intermediates under timm's module names (`blocks.0.attn`, `blocks.0`, `norm` …).\n\n\
Examples:\n  \
vitrum verify --against reference.safetensors -m model/\n  \
vitrum verify --against reference.safetensors -m model/ --dtype f64 --tolerance 1e-9"
)]
pub struct VerifyArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// A safetensors file with `input` and expected values.
    #[arg(long, value_name = "FILE")]
    pub against: PathBuf,
    /// Element type of the computation.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Largest difference over largest value that passes [default: 5e-6 for f32, 1e-9 for f64].
    #[arg(long, value_name = "F", value_parser = parse_tolerance)]
    pub tolerance: Option<f64>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How features are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EmbedFormat {
    /// One tensor `features` [N, D], and the files' names in the metadata.
    Safetensors,
    /// A NumPy array [N, D].
    Npy,
    /// A line of JSON per image.
    #[value(name = "jsonl", alias = "json")]
    JsonLines,
}

/// Which features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EmbedKind {
    /// One vector per image: what the head would see.
    Pooled,
    /// All tokens, [N, T, D].
    Tokens,
}

/// `vitrum embed`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
vitrum embed photos/ -m model/ --output features.npy\n  \
vitrum embed a.jpg b.jpg -m model/ --normalize > vectors.jsonl")]
pub struct EmbedArgs {
    /// Images and model.
    #[command(flatten)]
    pub input: ImagesArgs,
    /// Where to write [default: JSON lines to stdout].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Format [default: by the output's extension, else jsonl].
    #[arg(long, value_enum)]
    pub format: Option<EmbedFormat>,
    /// Which features.
    #[arg(long, value_enum, default_value_t = EmbedKind::Pooled)]
    pub kind: EmbedKind,
    /// Divide each vector by its length.
    #[arg(long)]
    pub normalize: bool,
}

/// `vitrum models`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Names, sizes, parameters, multiply-accumulates.
    #[command(
        after_help = "Examples:\n  vitrum models list\n  vitrum models list 'vit_*_patch14_*' --format csv"
    )]
    List {
        /// Only names like this; * stands for any text.
        filter: Option<String>,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// One model: configuration, preprocessing, published weights.
    Info {
        /// A name.
        name: String,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// The walk from image to logits: shape, parameters and multiplications of every layer.
    Shapes(ShapesArgs),
}

/// How the walk is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShapesFormat {
    /// A table for people.
    Text,
    /// One JSON document.
    Json,
    /// A table in Markdown.
    Markdown,
}

/// `vitrum models shapes`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
vitrum models shapes vit_base_patch16_224\n  \
vitrum models shapes vit_base_patch16_224 --img-size 384 --format markdown\n  \
vitrum models shapes --img-size 256 --patch-size 32 --embed-dim 1024 --depth 6 --num-heads 16")]
pub struct ShapesArgs {
    /// A name.
    #[arg(default_value = "vit_base_patch16_224")]
    pub name: String,
    /// Image size in pixels, N or HxW.
    #[arg(long, value_parser = parse_size, value_name = "N|HxW", alias = "imgsz")]
    pub img_size: Option<Size>,
    /// Patch size in pixels, N or HxW.
    #[arg(long, value_parser = parse_size, value_name = "N|HxW")]
    pub patch_size: Option<Size>,
    /// Channels of the image.
    #[arg(long, value_name = "C")]
    pub in_chans: Option<usize>,
    /// Width of a token.
    #[arg(long, value_name = "D")]
    pub embed_dim: Option<usize>,
    /// Number of blocks.
    #[arg(long, value_name = "L")]
    pub depth: Option<usize>,
    /// Heads of attention.
    #[arg(long, value_name = "A")]
    pub num_heads: Option<usize>,
    /// Width of the MLP over width of a token.
    #[arg(long, value_name = "F")]
    pub mlp_ratio: Option<f64>,
    /// Number of classes.
    #[arg(long, value_name = "K")]
    pub num_classes: Option<usize>,
    /// Other fields by timm's names: --model-kwargs class_token=false global_pool=avg.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = parse_pair)]
    pub model_kwargs: Vec<(String, String)>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = ShapesFormat::Text)]
    pub format: ShapesFormat,
}

/// Layout of a converted checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// timm's hub folder: config.json and model.safetensors.
    Timm,
    /// Hugging Face's folder: config.json, preprocessor_config.json and model.safetensors.
    #[value(name = "hf", alias = "huggingface")]
    HuggingFace,
    /// A folder for vitrum: timm's where timm can express the model, else with the whole configuration in config.json.
    Vitrum,
}

/// Element type of written weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightDtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit brain floats.
    Bf16,
}

/// `vitrum checkpoint`.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Tensors, types, statistics, dialect.
    #[command(
        after_help = "Examples:\n  vitrum checkpoint inspect model.safetensors\n  vitrum checkpoint inspect B_16.npz --format json\n  \
vitrum checkpoint inspect mine.pt --suggest-keys > keys.toml\n  \
vitrum checkpoint inspect mine.pt --keys keys.toml"
    )]
    Inspect {
        /// A file of weights, or a folder.
        path: PathBuf,
        /// Also minimum, maximum, mean and deviation of every tensor.
        #[arg(long)]
        stats: bool,
        /// Which of several sets of weights to describe, by the words in front of its tensors.
        #[arg(long, value_name = "NAME", alias = "weights-key")]
        weight_set: Option<String>,
        /// Names that no dialect knows, told by a file.
        #[arg(long, value_name = "FILE.toml")]
        keys: Option<PathBuf>,
        /// Print a file for --keys to begin from, and nothing else.
        #[arg(long, conflicts_with_all = ["keys", "stats", "format"])]
        suggest_keys: bool,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// From any dialect to a folder that timm, transformers or vitrum loads.
    #[command(after_help = "Examples:\n  \
vitrum checkpoint convert B_16.npz out/ -m vit_base_patch16_224 --to timm\n  \
vitrum checkpoint convert timm-folder/ out/ --to hf --dtype f16")]
    Convert {
        /// A file of weights, or a folder with its card.
        input: PathBuf,
        /// The folder to write.
        output: PathBuf,
        /// The model, where the input has no card: a name or a folder.
        #[arg(short, long)]
        model: Option<String>,
        /// Which of several sets of weights in the file, by the words in front of its tensors.
        #[arg(long, value_name = "NAME", alias = "weights-key")]
        weight_set: Option<String>,
        /// Names that no dialect knows, told by a file; it may also tell fields that tensors do not show.
        #[arg(long, value_name = "FILE.toml")]
        keys: Option<PathBuf>,
        /// Layout to write.
        #[arg(long, value_enum, default_value_t = Layout::Timm)]
        to: Layout,
        /// With `--to timm`: take the epsilon of timm's architecture where it cannot state the model's own, and say
        /// how much that changes.
        #[arg(long)]
        timm_epsilon: bool,
        /// Element type to write.
        #[arg(long, value_enum, default_value_t = WeightDtype::F32)]
        dtype: WeightDtype,
        /// Write into a folder that holds something already.
        #[arg(long)]
        overwrite: bool,
    },
    /// Differences between two files of weights; exit 3 when there are any.
    Diff {
        /// One file or folder.
        a: PathBuf,
        /// Another.
        b: PathBuf,
        /// Largest difference over largest value that counts as equal.
        #[arg(long, default_value_t = 0.0, value_parser = parse_tolerance)]
        tolerance: f64,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Whether a file is whole: structure, finite values, its checksum.
    Verify {
        /// A file of weights, or a folder.
        path: PathBuf,
        /// The SHA-256 that the file should have.
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

/// `vitrum data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Decode every image; name what is damaged, double, mislabelled, or in training and validation both.
    Check(DataCheckArgs),
    /// Images per class, sizes, formats, mean and deviation of the channels.
    Stats(DataStatsArgs),
    /// Set a share of every class aside for validation, as training does.
    Split(DataSplitArgs),
}

/// Which images, and how to read them.
#[derive(Clone, Debug, Args)]
pub struct DataReadArgs {
    /// Folder that the files of a CSV are in [default: the CSV's own].
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// Class names in the order of their index, one a line.
    #[arg(long, value_name = "FILE")]
    pub class_map: Option<PathBuf>,
    /// Threads that decode images; 0 takes one per processor.
    #[arg(short = 'j', long, default_value_t = 0, hide_default_value = true)]
    pub workers: usize,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// `vitrum data check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Kinds of findings: unreadable, leak (the same pixels in two parts), conflict (the same\n\
pixels under two classes), duplicate, small, extension (the content is of another format),\n\
imbalance, left-out.\n\
Exit code 1 when more images are unreadable than --max-bad allows; with --strict, 3 for any\n\
finding.\n\n\
Examples:\n  \
vitrum data check flowers/\n  \
vitrum data check train.csv val.csv --image-dir images --strict\n  \
vitrum data check photos.tar --format json > findings.json"
)]
pub struct DataCheckArgs {
    /// Datasets; several are parts of one, as are folders called train, val, test.
    #[arg(required = true, value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// How to read them.
    #[command(flatten)]
    pub read: DataReadArgs,
    /// Unreadable images that are tolerated, a number or a share below 1.
    #[arg(long, value_name = "N|F", default_value = "0", value_parser = parse_max_bad)]
    pub max_bad: f64,
    /// Exit with 3 when there is any finding.
    #[arg(long)]
    pub strict: bool,
    /// Sides shorter than this are a finding.
    #[arg(long, value_name = "PIXELS", default_value_t = 16)]
    pub min_size: u32,
    /// A largest class more than this many times the smallest is a finding.
    #[arg(long, value_name = "F", default_value_t = 10.0)]
    pub max_imbalance: f64,
    /// Findings of each kind that are listed as text; JSON and CSV have them all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `vitrum data stats`.
#[derive(Debug, Args)]
#[command(after_help = "Mean and deviation are those of all pixels together, on the scale 0 to 1.\n\n\
Examples:\n  \
vitrum data stats flowers/\n  \
vitrum data stats cifar-10-batches-bin --format json")]
pub struct DataStatsArgs {
    /// Datasets; several are parts of one, as are folders called train, val, test.
    #[arg(required = true, value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// How to read them.
    #[command(flatten)]
    pub read: DataReadArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `vitrum data split`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("to").required(true).args(["output", "output_dir"]),
    after_help = "Tables have columns file,label (and class_index, where class names are other numbers); read\n\
them with --image-dir DATA. The images set aside are those that training with the same --seed\n\
and --val-fraction sets aside.\n\n\
Examples:\n  \
vitrum data split flowers/ --val-fraction 0.2 --output-dir tables/\n  \
vitrum data split flowers/ --output all.csv\n  \
vitrum data split photos.tar --seed 1 --output-dir photos/ --copy"
)]
pub struct DataSplitArgs {
    /// Labelled images.
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// Share of each class for validation.
    #[arg(long, value_name = "F", default_value_t = 0.1)]
    pub val_fraction: f64,
    /// Another seed, another split.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// One table with a column `part`.
    #[arg(short, long, value_name = "FILE.csv")]
    pub output: Option<PathBuf>,
    /// A folder for train.csv and val.csv; with --copy or --link, for images: train/CLASS and val/CLASS.
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Copy the images; those of an archive are taken out, pixels become PNG.
    #[arg(long, conflicts_with_all = ["link", "output"])]
    pub copy: bool,
    /// Hard links to the images.
    #[arg(long, conflicts_with = "output")]
    pub link: bool,
    /// Replace tables that are there.
    #[arg(long)]
    pub overwrite: bool,
    /// Folder that the files of a CSV are in [default: the CSV's own].
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// Class names in the order of their index, one a line.
    #[arg(long, value_name = "FILE")]
    pub class_map: Option<PathBuf>,
}

/// `vitrum demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Ten classes of drawn shapes, a function of seed and index alone.\n\nExample:\n  vitrum demo pictures/ --count 40 --size 96"
)]
pub struct DemoArgs {
    /// The folder to write: one folder per class, PNG files.
    pub output: PathBuf,
    /// How many pictures.
    #[arg(long, default_value_t = 100)]
    pub count: usize,
    /// Side in pixels.
    #[arg(long, default_value_t = 96)]
    pub size: u32,
    /// Another seed, other pictures.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Also one picture of them all, in rows.
    #[arg(long, value_name = "FILE.png")]
    pub sheet: Option<PathBuf>,
}

/// `vitrum quantize`.
#[derive(Debug, Args)]
#[command(
    after_help = "The folder holds model.safetensors with `blocks.N.attn.qkv.weight` as I8 [d_out, d_in] and `.weight_scale`\n\
F32 [d_out] for the four linear layers of each block, everything else as it was in F32, and config.json.\n\
predict, val, embed, forward and bench take it as any model.\n\n\
Examples:\n  \
vitrum quantize -m hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k -o tiny-int8/ --images photos/\n  \
vitrum quantize -m model/ -o model-int8/ --skip blocks.0.* --skip *.mlp.fc2 --format json"
)]
pub struct QuantizeArgs {
    /// A folder with config.json and weights, a file of weights, a name (with --checkpoint), or hf:ORG/NAME.
    #[arg(short, long, env = "VITRUM_MODEL", value_name = "DIR|FILE|NAME|hf:ID")]
    pub model: String,
    /// Weights instead of those that come with the model.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Which of several sets of weights in the file, by the words in front of its tensors.
    #[arg(long, value_name = "NAME", alias = "weights-key")]
    pub weight_set: Option<String>,
    /// Names that no dialect knows, told by a file; it may also tell fields that tensors do not show, such as num_heads.
    #[arg(long, value_name = "FILE.toml")]
    pub keys: Option<PathBuf>,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Layers that stay as they are, such as blocks.0.attn.qkv; * stands for any text.
    #[arg(long, value_name = "KEY")]
    pub skip: Vec<String>,
    /// Also compare the answers to these images, or folders of images, with those of the model before.
    #[arg(long, value_name = "IMG", num_args = 1..)]
    pub images: Vec<PathBuf>,
    /// Write into a folder that holds something already.
    #[arg(long)]
    pub overwrite: bool,
    /// Never touch the network; use what is in the cache.
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Device and threads.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `vitrum bench`.
#[derive(Debug, Args)]
#[command(
    after_help = "A name without weights is measured with fresh ones: the time is the same. But for --train, weights are packed first, as `val` does.\n\nExample:\n  vitrum bench -m vit_tiny_patch16_224 vit_small_patch16_224 --batch-sizes 1,8 --threads 2\n  vitrum bench -m vit_tiny_patch16_224 --train --img-size 32 --model-kwargs patch_size=4 --batch-sizes 64"
)]
pub struct BenchArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// More models, measured one after the other; the peak of memory is that of the process so far.
    #[arg(value_name = "MODEL")]
    pub more: Vec<String>,
    /// Time whole training steps: forward, cross entropy, backward, AdamW; with --precision bf16 as `vitrum train` does
    /// them with --amp-dtype bf16.
    #[arg(long)]
    pub train: bool,
    /// Time the way from files to batches instead: decode, resize, crop, normalise as the model wants them, with
    /// --threads workers; a pass is all images of DATA.
    #[arg(long, value_name = "DATA", conflicts_with = "train")]
    pub data: Option<PathBuf>,
    /// Images per pass.
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_value = "1,8")]
    pub batch_sizes: Vec<usize>,
    /// Measured passes; the median counts.
    #[arg(long, default_value_t = 10)]
    pub runs: usize,
    /// Go on measuring for so many seconds, where --runs passes take less.
    #[arg(long, default_value_t = 0.0)]
    pub seconds: f64,
    /// Passes before, not measured.
    #[arg(long, default_value_t = 2)]
    pub warmup: usize,
    /// Requests under way at once, each on its share of --threads (one thread at least) and all with the same weights:
    /// more images per second and a longer wait for each. The median is of one request.
    #[arg(long, default_value_t = 1, conflicts_with_all = ["train", "data"])]
    pub streams: usize,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `vitrum checks`.
#[derive(Debug, Args)]
pub struct ChecksArgs {
    /// Device and threads.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Height and width in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub [usize; 2]);

/// `224` or `192x256` (height first).
fn parse_size(text: &str) -> Result<Size, String> {
    let number = |text: &str| match text.parse::<usize>() {
        Ok(0) | Err(_) => {
            Err(format!("'{text}' is not a number of pixels (want N or HxW, such as 224 or 192x256)"))
        }
        Ok(n) => Ok(n),
    };
    match text.split_once(['x', 'X', '×']) {
        Some((h, w)) => Ok(Size([number(h)?, number(w)?])),
        None => number(text).map(|n| Size([n, n])),
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_string(), value.trim().to_string()))
        .ok_or_else(|| format!("'{text}' is not KEY=VALUE"))
}

fn parse_pool(text: &str) -> Result<vitrum::models::vit::GlobalPool, String> {
    serde_json::from_value(serde_json::Value::String(text.into()))
        .map_err(|_| "want token, avg, max, avgmax or map".to_string())
}

fn parse_precision(text: &str) -> Result<vitrum::models::Precision, String> {
    match text {
        "f32" => Ok(vitrum::models::Precision::F32),
        "bf16" => Ok(vitrum::models::Precision::Bf16),
        "int8" => Ok(vitrum::models::Precision::Int8),
        "f16" => {
            Err("of the types of 16 bits models are computed in bf16 alone; want f32, bf16 or int8".into())
        }
        _ => Err("want f32, bf16 or int8".into()),
    }
}

fn parse_pos_resize(text: &str) -> Result<vitrum::models::vit::PosResize, String> {
    serde_json::from_value(serde_json::Value::String(text.into())).map_err(|_| {
        "want bicubic_antialias, bicubic, bicubic_dino, bilinear, bilinear_aligned or nearest".to_string()
    })
}

fn parse_max_bad(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err(format!("'{text}' is neither a number of images nor a share below 1")),
    }
}

fn parse_tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err(format!("'{text}' is not a number from 0 on")),
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err(format!("'{text}' is not a percentage, 0 to 100")),
    }
}
