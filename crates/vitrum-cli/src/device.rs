//! From `--device` and `--threads` to an open device.

use anyhow::{Context, Result, bail};
use burn::tensor::Device;

use crate::args::{DeviceArgs, DeviceName};

/// What a command computes, as far as `auto` needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Runs on every device.
    Any,
    /// Runs on the CPU alone, or is exact only there: f64, int8.
    Cpu,
}

/// Sets the number of threads and opens the device.
pub fn prepare(args: &DeviceArgs, work: Work) -> Result<Device> {
    open(args.device, args.threads, work)
}

/// The same for a device by name.
pub fn named(name: &str, threads: usize) -> Result<Device> {
    let device =
        name.parse().map_err(|reason| anyhow::anyhow!("device '{name}' is not known\nhint: {reason}"))?;
    open(device, threads, Work::Any)
}

fn open(device: DeviceName, threads: usize, work: Work) -> Result<Device> {
    if threads > 4096 {
        bail!("--threads {threads} is more than any machine has\nhint: 0 takes all");
    }
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { all } else { threads };
    // One pool for decoding and for tensors. A second call in the same process has no effect.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    match device {
        DeviceName::Auto if work == Work::Any => Ok(any_gpu().unwrap_or_else(Device::flex)),
        DeviceName::Auto | DeviceName::Cpu => Ok(Device::flex()),
        DeviceName::Cuda(index) => cuda(index),
        DeviceName::Vulkan => vulkan(),
        DeviceName::Webgpu => webgpu(),
        DeviceName::Cubecpu => cubecpu(),
    }
    .context("--device")
}

/// The first CUDA GPU, if this build and machine can use one. Says why not, if there is one.
#[cfg(feature = "cuda")]
fn any_gpu() -> Option<Device> {
    if gpus().is_empty() {
        return None;
    }
    cuda(0)
        .inspect_err(|error| crate::output::complain(format_args!("device: cpu, not cuda: {error:#}")))
        .ok()
}

#[cfg(not(feature = "cuda"))]
fn any_gpu() -> Option<Device> {
    None
}

/// The CUDA GPUs of this machine, in the driver's order. Empty without a driver.
#[cfg(feature = "cuda")]
fn gpus() -> Vec<Device> {
    Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec()
}

/// A device with its own name, for people.
pub fn describe(device: &Device) -> String {
    #[cfg(any(feature = "cuda", feature = "cubecpu", feature = "vulkan", feature = "webgpu"))]
    if let Some(identity) = device.identity() {
        return format!("{}, {} ({device:?})", identity.name, identity.fingerprint);
    }
    format!("{device:?}")
}

/// Whether products of `f32` matrices run on tensor cores, in TF32: on NVIDIA GPUs since compute capability 8.0.
pub fn has_tf32(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    if gpus().contains(&device.clone().inner()) {
        // Such as `ptx_sm90`.
        let target = device.identity().map(|identity| identity.fingerprint).unwrap_or_default();
        let digits = target.split("sm").nth(1).unwrap_or_default().trim_start_matches('_');
        let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
        return digits.parse::<u32>().map_or(true, |capability| capability >= 80);
    }
    let _ = device;
    false
}

/// The NVIDIA cards of this machine as its driver lists them: name, memory, driver. Empty in a build without CUDA, and
/// without a driver.
pub fn cards() -> Vec<(String, String)> {
    if !cfg!(feature = "cuda") {
        return Vec::new();
    }
    let query = ["--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader"];
    let Ok(answer) = std::process::Command::new("nvidia-smi").args(query).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let card = |line: &str| {
        let parts: Vec<&str> = line.split(", ").map(str::trim).collect();
        let [index, name, memory, driver] = parts[..] else { return None };
        Some((format!("card {index}"), format!("{name}, {memory}, driver {driver}")))
    };
    text.lines().filter_map(card).collect()
}

/// Without these checks, the first tensor would panic where there is no driver, no such GPU or no libdevice.
#[cfg(feature = "cuda")]
fn cuda(index: u16) -> Result<Device> {
    let found = gpus();
    let Some(device) = found.get(usize::from(index)) else {
        let known = match found.len() {
            0 => "no CUDA GPU was found: there is no NVIDIA driver (libcuda.so), or it shows no GPU".into(),
            1 => format!("there is no cuda:{index}: this machine has one GPU, cuda:0"),
            n => format!("there is no cuda:{index}: this machine has {n} GPUs, cuda:0 to cuda:{}", n - 1),
        };
        bail!("{known}\nhint: `nvidia-smi` lists what the driver sees; CUDA_VISIBLE_DEVICES hides GPUs");
    };
    library()?;
    // Opening panics if the driver refuses: a GPU that another program has for itself, or without free memory.
    let opened = std::panic::catch_unwind(|| device.identity().is_some());
    match opened {
        Ok(true) => Ok(device.clone()),
        _ => bail!(
            "cuda:{index} cannot be opened\nhint: `nvidia-smi` shows whether another program has it for itself, or all its memory"
        ),
    }
}

/// Kernels link CUDA's mathematical functions when they are first used.
#[cfg(feature = "cuda")]
fn library() -> Result<()> {
    const FILE: &str = "nvvm/libdevice/libdevice.10.bc";
    let places = match std::env::var_os("CUDA_PATH") {
        Some(path) => vec![std::path::PathBuf::from(path)],
        None => ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"].map(Into::into).to_vec(),
    };
    if places.iter().any(|place| place.join(FILE).is_file()) {
        return Ok(());
    }
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    bail!(
        "CUDA's mathematical functions are missing: no {FILE} in {}\nhint: install the CUDA toolkit, or set CUDA_PATH \
         to a folder with this file (it is in the Python package `triton`, too; see docs/gpu.md)",
        places.join(", ")
    )
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: u16) -> Result<Device> {
    bail!("this binary was built without CUDA\nhint: cargo build --release --features cuda (see docs/gpu.md)")
}

#[cfg(feature = "cubecpu")]
fn cubecpu() -> Result<Device> {
    Ok(Device::cpu())
}

#[cfg(not(feature = "cubecpu"))]
fn cubecpu() -> Result<Device> {
    bail!(
        "this binary was built without CubeCL's processor\nhint: cargo build --release --features cubecpu (see docs/gpu.md)"
    )
}

#[cfg(feature = "vulkan")]
fn vulkan() -> Result<Device> {
    use burn::tensor::wgpu::WgpuBackend;
    graphics(|| Device::wgpu_options().graphics_api(WgpuBackend::Vulkan))
}

#[cfg(not(feature = "vulkan"))]
fn vulkan() -> Result<Device> {
    bail!("this binary was built without Vulkan\nhint: cargo build --release --features vulkan")
}

/// Any graphics interface of the machine, with shaders in WGSL, WebGPU's language. (Burn's own `Device::webgpu` is
/// the browser's.)
#[cfg(feature = "webgpu")]
fn webgpu() -> Result<Device> {
    graphics(Device::wgpu_options)
}

#[cfg(not(feature = "webgpu"))]
fn webgpu() -> Result<Device> {
    bail!("this binary was built without WebGPU\nhint: cargo build --release --features webgpu")
}

/// Opens a graphics device, once per process. Without this, the first tensor would panic on a machine without one.
#[cfg(any(feature = "vulkan", feature = "webgpu"))]
fn graphics(options: impl FnOnce() -> burn::tensor::wgpu::WgpuOptions) -> Result<Device> {
    static OPENED: std::sync::Mutex<Option<Device>> = std::sync::Mutex::new(None);
    let mut opened = OPENED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(device) = &*opened {
        return Ok(device.clone());
    }
    let device = options().init().map_err(|error| {
        anyhow::anyhow!(
            "no graphics device could be opened: {error}\nhint: `vulkaninfo --summary` lists the devices"
        )
    })?;
    *opened = Some(device.clone());
    Ok(device)
}

/// The processor's vector instructions.
pub fn instructions() -> String {
    let mut found: Vec<&str> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let offers = [
            ("sse4.2", std::is_x86_feature_detected!("sse4.2")),
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("f16c", std::is_x86_feature_detected!("f16c")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
            ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
        ];
        found.extend(offers.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let offers = [
            ("neon", std::arch::is_aarch64_feature_detected!("neon")),
            ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ];
        found.extend(offers.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    if found.is_empty() { "none known".into() } else { found.join(" ") }
}
