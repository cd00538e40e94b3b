//! Arguments of several commands: model, device, preprocessing, limits, images, formats.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values::{
    DeviceParser, Size, parse_pair, parse_pool, parse_pos_resize, parse_precision, parse_size,
};

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

/// The device of the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The first CUDA GPU that this build and machine have, otherwise the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by its index (builds with the feature `cuda`).
    Cuda(u16),
    /// A GPU through Vulkan (builds with the feature `vulkan`).
    Vulkan,
    /// A GPU through WebGPU (builds with the feature `webgpu`).
    Webgpu,
    /// CubeCL's kernels on the processor, for tests (builds with the feature `cubecpu`).
    Cubecpu,
}

/// The device and its threads, with the same meaning in every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// The device of the computation. auto takes a CUDA GPU if this build and machine have one.
    #[arg(long, env = "VITRUM_DEVICE", default_value = "auto", value_parser = DeviceParser)]
    pub device: DeviceName,
    /// Number of threads; 0: all.
    #[arg(long, env = "VITRUM_THREADS", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

/// The model, with the same flags in every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A folder with config.json and weights, a file of weights, a name (see `vitrum models list`), or hf:ORG/NAME.
    #[arg(short, long, env = "VITRUM_MODEL", value_name = "DIR|FILE|NAME|hf:ID")]
    pub model: String,
    /// Weights: .safetensors, .npz, .pth, .bin, or a folder; replaces the model's own weights.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Which of several sets of weights in the file, by its prefix: student, state_dict [default: averaged weights
    /// before others, a teacher before its student].
    #[arg(long, value_name = "NAME", alias = "weights-key")]
    pub weight_set: Option<String>,
    /// A key file, for tensor names that no dialect has and fields that tensors do not show, such as num_heads.
    #[arg(long, value_name = "FILE.toml")]
    pub keys: Option<PathBuf>,
    /// Number of classes. If it differs from the checkpoint's, the model gets a new head, and a note says so.
    #[arg(long, value_name = "K")]
    pub num_classes: Option<usize>,
    /// Image size in pixels, N or HxW; position embeddings are resized.
    #[arg(long, value_name = "N|HxW", value_parser = parse_size, alias = "imgsz")]
    pub img_size: Option<Size>,
    /// Patch size in pixels, N or HxW; the patch projection and the position embeddings are resized as in timm.
    #[arg(long, value_name = "N|HxW", value_parser = parse_size)]
    pub patch_size: Option<Size>,
    /// Channels of the images; the patch projection is adapted as in timm (to 1: the sum).
    #[arg(long, value_name = "C")]
    pub in_chans: Option<usize>,
    /// Pooling: token, avg, max, avgmax, map. A norm before pooling becomes the norm after it.
    #[arg(long, value_name = "POOL", value_parser = parse_pool, alias = "global-pool")]
    pub gp: Option<vitrum::models::vit::GlobalPool>,
    /// How position embeddings are resized: bicubic_antialias, bicubic, bicubic_dino, bilinear, bilinear_aligned,
    /// nearest [default: the card's, otherwise bicubic_antialias].
    #[arg(long, value_name = "METHOD", value_parser = parse_pos_resize)]
    pub pos_resize: Option<vitrum::models::vit::PosResize>,
    /// Precision of the blocks. bf16 rounds their weights and inputs to bf16; sums stay f32. int8 quantises their
    /// weights and inputs to int8; attention uses bf16 if the processor has it. Everything else stays f32. A folder of
    /// `vitrum quantize` needs no flag.
    #[arg(long, value_name = "f32|bf16|int8", default_value = "f32", value_parser = parse_precision)]
    pub precision: vitrum::models::Precision,
    /// Model fields by timm's names, which override the card's: --model-kwargs depth=6 global_pool=avg.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = parse_pair)]
    pub model_kwargs: Vec<(String, String)>,
    /// Logits of a distilled model with two heads: mean (of both), class or dist.
    #[arg(long, value_name = "HEAD", value_parser = ["mean", "class", "dist"])]
    pub answer: Option<String>,
    /// Keys that the checkpoint may lack; * matches any text. They get fresh values.
    #[arg(long, value_name = "KEY")]
    pub allow_missing: Vec<String>,
    /// Keys of the checkpoint that may be ignored; * matches any text.
    #[arg(long, value_name = "KEY")]
    pub allow_unexpected: Vec<String>,
    /// Seed of fresh values, for a model without weights or with a new head, and of masks.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Never use the network; use only the cache.
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
    /// Device and threads.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Preprocessing that replaces the card's.
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
    /// Mean of each channel on the scale 0 to 1, which is subtracted.
    #[arg(long, value_name = "M", num_args = 1..)]
    pub mean: Vec<f32>,
    /// Deviation of each channel, which divides.
    #[arg(long, value_name = "S", num_args = 1..)]
    pub std: Vec<f32>,
    /// Do not turn pictures by their EXIF orientation (as in timm).
    #[arg(long)]
    pub no_exif: bool,
}

/// Size limits of images.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Largest number of pixels of an image.
    #[arg(long, value_name = "N", default_value_t = 89_478_485)]
    pub max_image_pixels: u64,
    /// Longest side of an image, in pixels.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    pub max_image_side: u32,
}

/// Images for a model: files, batch size, preprocessing, limits.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Images, or folders of images.
    #[arg(required = true, value_name = "IMG")]
    pub images: Vec<PathBuf>,
    /// Images per forward pass.
    #[arg(short, long, default_value_t = 8)]
    pub batch_size: usize,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Preprocessing.
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
}
