//! From `--device` and `--threads` to an open device.

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::ValueEnum;

use crate::args::{DeviceArgs, DeviceName};

/// Sets the number of threads and opens the device.
pub fn prepare(args: &DeviceArgs) -> Result<Device> {
    open(args.device, args.threads)
}

/// The same for a device by name.
pub fn named(name: &str, threads: usize) -> Result<Device> {
    let device = DeviceName::from_str(name, true).map_err(|_| {
        let names: Vec<String> = DeviceName::value_variants()
            .iter()
            .filter_map(|v| Some(v.to_possible_value()?.get_name().into()))
            .collect();
        anyhow::anyhow!("device '{name}' is not known\nhint: one of {}", names.join(", "))
    })?;
    open(device, threads)
}

fn open(device: DeviceName, threads: usize) -> Result<Device> {
    if threads > 4096 {
        bail!("--threads {threads} is more than any machine has\nhint: 0 takes all");
    }
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { all } else { threads };
    // One pool for decoding and for tensors. A second call in the same process has no effect.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    match device {
        DeviceName::Auto | DeviceName::Cpu => Ok(Device::flex()),
        DeviceName::Vulkan => vulkan(),
        DeviceName::Webgpu => webgpu(),
    }
    .context("--device")
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
