//! `vitrum checks`: this machine, and whether the fast paths give the reference's numbers on it.

use anyhow::{Result, bail};
use burn::tensor::{DType, Device, Distribution, Tensor};
use serde::Serialize;

use crate::args::{ChecksArgs, Format};
use crate::device;
use crate::output::{self, Rows};
use vitrum::models::{Config, ModelConfig};

#[derive(Serialize)]
struct Outcome {
    check: String,
    result: String,
    ok: bool,
}

/// Runs the command; an error if a self-check fails.
pub fn run(args: &ChecksArgs) -> Result<()> {
    let device = device::prepare(&args.device)?;
    let mut outcomes = machine(&device);
    // Shaders have no f64 that could be relied on.
    let fast = vitrum_kernels::has_fast_path(&device, DType::F64);
    for &dtype in if fast { &[DType::F32, DType::F64][..] } else { &[DType::F32] } {
        let bar = if dtype == DType::F32 { 5e-6 } else { 1e-12 };
        let (forward, backward) = attention(&device, dtype);
        outcomes.push(within(format!("attention {dtype:?} forward"), forward, bar));
        outcomes.push(within(format!("attention {dtype:?} backward"), backward, bar));
        let (forward, backward) = layer_norm(&device, dtype);
        outcomes.push(within(format!("layer_norm {dtype:?} forward"), forward, bar));
        outcomes.push(within(format!("layer_norm {dtype:?} backward"), backward, bar));
    }
    outcomes.push(model(&device)?);
    match args.format {
        Format::Json => output::json(&outcomes)?,
        format => {
            let mut rows = Rows::new(&["check", "result", "ok"]);
            for Outcome { check, result, ok } in &outcomes {
                rows.push([check.clone(), result.clone(), if *ok { "ok".into() } else { "FAILED".into() }]);
            }
            if format == Format::Csv { rows.csv()? } else { rows.text()? }
        }
    }
    let failed: Vec<&str> = outcomes.iter().filter(|o| !o.ok).map(|o| o.check.as_str()).collect();
    if !failed.is_empty() {
        bail!("self-check failed: {}\nhint: numbers from this machine cannot be trusted", failed.join(", "));
    }
    Ok(())
}

fn machine(device: &Device) -> Vec<Outcome> {
    let fact = |check: &str, result: String| Outcome { check: check.into(), result, ok: true };
    vec![
        fact("vitrum", env!("CARGO_PKG_VERSION").into()),
        fact("device", format!("{device:?}")),
        fact("threads", rayon::current_num_threads().to_string()),
        fact("processor", processor()),
        fact("instructions", device::instructions()),
        fact("kernels", vitrum_kernels::simd_level().into()),
    ]
}

/// The processor's own name, where the system tells it.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, n)| n.to_string()));
    name.unwrap_or_else(|| std::env::consts::ARCH.into())
}

fn within(check: String, error: f64, bar: f64) -> Outcome {
    Outcome { check, result: format!("{error:.1e} of the largest (at most {bar:.0e})"), ok: error <= bar }
}

/// Largest difference over largest value.
fn relative<const D: usize>(ours: Tensor<D>, reference: Tensor<D>) -> f64 {
    let values = |x: Tensor<D>| x.into_data().iter::<f64>().collect::<Vec<_>>();
    let (ours, reference) = (values(ours), values(reference));
    let largest = reference.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let differences = ours.iter().zip(&reference).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / largest
}

fn draw<const D: usize>(shape: [usize; D], device: &Device, dtype: DType) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), (device, dtype))
}

fn attention(device: &Device, dtype: DType) -> (f64, f64) {
    let device = device.clone().autodiff();
    device.seed(1);
    let qkv = draw([2, 65, 3 * 48], &device, dtype).require_grad();
    let probe = draw([2, 65, 48], &device, dtype);
    let run = |f: fn(Tensor<3>, usize, f64, Option<Tensor<4>>) -> Tensor<3>| {
        let x = qkv.clone().detach().require_grad();
        let y = f(x.clone(), 3, 0.25, None);
        let gradients = (y.clone() * probe.clone()).sum().backward();
        (y.inner(), x.grad(&gradients).unwrap_or_else(|| x.inner().zeros_like()))
    };
    let (ours, reference) = (run(vitrum_kernels::attention), run(vitrum_kernels::attention_reference));
    (relative(ours.0, reference.0), relative(ours.1, reference.1))
}

fn layer_norm(device: &Device, dtype: DType) -> (f64, f64) {
    let device = device.clone().autodiff();
    device.seed(2);
    let x = draw([2, 33, 80], &device, dtype);
    let (weight, bias) = (draw([80], &device, dtype), draw([80], &device, dtype));
    let probe = draw([2, 33, 80], &device, dtype);
    let run = |fused: bool| {
        let x = x.clone().detach().require_grad();
        let y = if fused {
            vitrum_kernels::layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-6)
        } else {
            vitrum_kernels::layer_norm_reference(x.clone(), weight.clone(), Some(bias.clone()), 1e-6)
        };
        let gradients = (y.clone() * probe.clone()).sum().backward();
        (y.inner(), x.grad(&gradients).unwrap_or_else(|| x.inner().zeros_like()))
    };
    let (ours, reference) = (run(true), run(false));
    (relative(ours.0, reference.0), relative(ours.1, reference.1))
}

/// A whole small model on this device against the same on the plain CPU, forward and every gradient's sum.
fn model(device: &Device) -> Result<Outcome> {
    let config = ModelConfig::named("test_vit")?;
    let run = |device: Device| -> Result<Tensor<2>> {
        let device = device.autodiff();
        let images = Tensor::<4>::from_data(
            burn::tensor::TensorData::new(
                (0..3 * 160 * 160).map(|i| ((i % 255) as f32) / 255.0).collect(),
                [1, 3, 160, 160],
            ),
            (&device, DType::F32),
        );
        let images = images.require_grad();
        let logits = config.init(&device, 7)?.as_classifier()?.forward(images.clone().into());
        let gradients = logits.clone().sum().backward();
        let gradient =
            images.grad(&gradients).map(|g| g.abs().sum()).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
        let logits = logits.inner();
        Ok(Tensor::cat(vec![logits, gradient.reshape([1, 1])], 1))
    };
    let (ours, reference) = (run(device.clone())?, run(Device::flex())?);
    let ours = Tensor::from_data(ours.into_data(), &Device::flex());
    Ok(within("test_vit forward and backward against the CPU".into(), relative(ours, reference), 1e-4))
}
