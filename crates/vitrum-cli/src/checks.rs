//! `vitrum checks`: describes this machine and compares its fast paths with the reference.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use serde::Serialize;
use vitrum::data::augment::smoothed_one_hot;
use vitrum::models::{Config, Model, ModelConfig};
use vitrum::train::Recipe;
use vitrum::train::trainer::{Examples, Trainer};

use crate::args::{ChecksArgs, Format};
use crate::device::{self, Work};
use crate::output::{self, Rows};
use crate::talk::Talk;

/// Updates that are compared.
const UPDATES: usize = 6;

#[derive(Serialize)]
struct Outcome {
    check: String,
    result: String,
    ok: bool,
}

/// The largest differences that are allowed, relative to the largest value.
struct Bars {
    /// Of one operation in `f32`.
    operation: f64,
    /// Of one operation without products of matrices.
    elementwise: f64,
    /// Of a model's logits and gradients.
    model: f64,
    /// Of losses.
    losses: f64,
    /// Of logits in bf16.
    bf16: f64,
}

impl Bars {
    /// Tensor cores read the factors of `f32` products as TF32, with 10 bits of mantissa.
    const TF32: Self = Self { operation: 5e-3, elementwise: 5e-6, model: 5e-3, losses: 5e-3, bf16: 5e-2 };
    const EXACT: Self = Self { operation: 5e-6, elementwise: 5e-6, model: 1e-4, losses: 1e-5, bf16: 5e-2 };

    fn of(device: &Device) -> Self {
        if device::has_tf32(device) { Self::TF32 } else { Self::EXACT }
    }
}

/// Runs the command; an error if a self-check fails.
pub fn run(args: &ChecksArgs, talk: Talk) -> Result<()> {
    let device = device::prepare(&args.device, Work::Any)?;
    let mut outcomes = machine(&device);
    let on_cpu = vitrum_kernels::has_fast_path(&device, DType::F32);
    let bars = Bars::of(&device);
    // A device that compiles its kernels takes minutes, and an error in a kernel ends a check by a panic.
    let mut check = |names: &[&str], bar: f64, errors: &dyn Fn() -> Result<Vec<f64>>| {
        if !on_cpu {
            talk.say(format_args!("checking {}", names.join(", ")));
        }
        match catch_unwind(AssertUnwindSafe(errors)) {
            Ok(Ok(errors)) => {
                outcomes
                    .extend(names.iter().zip(errors).map(|(name, error)| within((*name).into(), error, bar)));
            }
            Ok(Err(error)) => outcomes.push(failed(names, format!("{error:#}"))),
            Err(_) => outcomes.push(failed(names, "panicked; the message is above".into())),
        }
    };
    // f64 is not reliable in shaders.
    for &dtype in if on_cpu { &[DType::F32, DType::F64][..] } else { &[DType::F32] } {
        let (operation, elementwise) = match dtype {
            DType::F32 => (bars.operation, bars.elementwise),
            _ => (1e-12, 1e-12),
        };
        let names = ["forward", "backward"].map(|pass| format!("attention {dtype:?} {pass}"));
        check(&names.each_ref().map(String::as_str), operation, &|| Ok(attention(&device, dtype)));
        let names = ["forward", "backward"].map(|pass| format!("layer_norm {dtype:?} {pass}"));
        check(&names.each_ref().map(String::as_str), elementwise, &|| Ok(layer_norm(&device, dtype)));
    }
    check(&["test_vit forward and backward against the CPU"], bars.model, &|| Ok(vec![model(&device)?]));
    if !on_cpu {
        check(&["losses of six updates against the CPU"], bars.losses, &|| updates(&device, "none"));
        if vitrum_kernels::narrows(&device) {
            check(&["test_vit in bf16 against the CPU in f32"], bars.bf16, &|| {
                Ok(vec![narrow_model(&device)?])
            });
            check(&["losses of six updates in bf16 against f32"], bars.bf16, &|| updates(&device, "bf16"));
        }
    }
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
        bail!("self-check failed: {}\nhint: do not trust numbers from this machine", failed.join(", "));
    }
    Ok(())
}

fn machine(device: &Device) -> Vec<Outcome> {
    let fact = |check: &str, result: String| Outcome { check: check.into(), result, ok: true };
    let mut facts = vec![
        fact("vitrum", env!("CARGO_PKG_VERSION").into()),
        fact("device", device::describe(device)),
        fact("threads", rayon::current_num_threads().to_string()),
        fact("processor", processor()),
        fact("instructions", device::instructions()),
        fact("kernels", vitrum_kernels::simd_level().into()),
    ];
    facts.extend(device::cards().into_iter().map(|(name, about)| fact(&name, about)));
    if device::has_tf32(device) {
        let about = "products of f32 matrices read TF32 (10 bits of mantissa); the bounds below allow for it";
        facts.push(fact("f32 products", about.into()));
    }
    facts
}

/// The processor's name, if the system tells it.
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

fn failed(names: &[&str], reason: String) -> Outcome {
    Outcome { check: names.join(", "), result: reason, ok: false }
}

/// Largest difference over largest value.
fn relative<const D: usize>(ours: Tensor<D>, reference: Tensor<D>) -> f64 {
    let values = |x: Tensor<D>| x.into_data().iter::<f64>().collect::<Vec<_>>();
    of_largest(&values(ours), &values(reference))
}

fn of_largest(ours: &[f64], reference: &[f64]) -> f64 {
    let largest = reference.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let differences = ours.iter().zip(reference).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / largest
}

fn draw<const D: usize>(shape: [usize; D], dtype: DType) -> TensorData {
    Tensor::<D>::random(shape, Distribution::Normal(0.0, 1.0), (&Device::flex(), dtype)).into_data()
}

/// The attention of this device against the reference on the CPU: forward, backward.
fn attention(device: &Device, dtype: DType) -> Vec<f64> {
    Device::flex().seed(1);
    let (qkv, probe) = (draw([2, 65, 3 * 48], dtype), draw([2, 65, 48], dtype));
    let run = |device: &Device, f: fn(Tensor<3>, usize, f64, Option<Tensor<4>>) -> Tensor<3>| {
        let device = device.clone().autodiff();
        let x = Tensor::from_data(qkv.clone(), (&device, dtype)).require_grad();
        let y = f(x.clone(), 3, 0.25, None);
        let gradients = (y.clone() * Tensor::from_data(probe.clone(), (&device, dtype))).sum().backward();
        (y.inner(), x.grad(&gradients).unwrap_or_else(|| x.inner().zeros_like()))
    };
    let ours = run(device, vitrum_kernels::attention);
    let reference = run(&Device::flex(), vitrum_kernels::attention_reference);
    vec![relative(ours.0, reference.0), relative(ours.1, reference.1)]
}

/// The layer norm of this device against the reference on the CPU: forward, backward.
fn layer_norm(device: &Device, dtype: DType) -> Vec<f64> {
    Device::flex().seed(2);
    let [x, probe] = [(); 2].map(|()| draw([2, 33, 80], dtype));
    let [weight, bias] = [(); 2].map(|()| draw([80], dtype));
    let run = |device: &Device, fused: bool| {
        let device = device.clone().autodiff();
        let vector = |data: &TensorData| Tensor::<1>::from_data(data.clone(), (&device, dtype));
        let x = Tensor::<3>::from_data(x.clone(), (&device, dtype)).require_grad();
        let y = if fused {
            vitrum_kernels::layer_norm(x.clone(), vector(&weight), vector(&bias), 1e-6)
        } else {
            vitrum_kernels::layer_norm_reference(x.clone(), vector(&weight), Some(vector(&bias)), 1e-6)
        };
        let gradients = (y.clone() * Tensor::from_data(probe.clone(), (&device, dtype))).sum().backward();
        (y.inner(), x.grad(&gradients).unwrap_or_else(|| x.inner().zeros_like()))
    };
    let (ours, reference) = (run(device, true), run(&Device::flex(), false));
    vec![relative(ours.0, reference.0), relative(ours.1, reference.1)]
}

fn test_vit(device: &Device) -> Result<Model> {
    Ok(ModelConfig::named("test_vit")?.init(device, 7)?)
}

fn images(device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..3 * 160 * 160).map(|i| ((i % 255) as f32) / 255.0).collect();
    Tensor::from_data(TensorData::new(values, [1, 3, 160, 160]), (device, DType::F32))
}

/// A whole small model on this device against the CPU: logits, and the sum of every gradient.
fn model(device: &Device) -> Result<f64> {
    let run = |device: Device| -> Result<Vec<f64>> {
        let device = device.autodiff();
        let images = images(&device).require_grad();
        let logits = test_vit(&device)?.as_classifier()?.forward(images.clone().into());
        let gradients = logits.clone().sum().backward();
        let gradient = images.grad(&gradients).context("the images have no gradient")?.abs().sum();
        Ok(Tensor::cat(vec![logits.inner().reshape([-1]), gradient], 0).into_data().iter::<f64>().collect())
    };
    Ok(of_largest(&run(device.clone())?, &run(Device::flex())?))
}

/// Logits with the blocks in bf16 on this device, against `f32` on the CPU.
fn narrow_model(device: &Device) -> Result<f64> {
    let logits = |model: Model, device: &Device| -> Result<Vec<f64>> {
        Ok(model.logits(images(device))?.into_data().iter::<f64>().collect())
    };
    let narrow = test_vit(device)?.round_to_bf16();
    if narrow.bf16_layers() == 0 {
        bail!("no layer took bf16");
    }
    Ok(of_largest(&logits(narrow, device)?, &logits(test_vit(&Device::flex())?, &Device::flex())?))
}

/// Losses of a few updates on this device against the CPU in `f32`.
fn updates(device: &Device, amp_dtype: &str) -> Result<Vec<f64>> {
    let run = |device: &Device, amp_dtype: &str| -> Result<Vec<f64>> {
        let recipe = Recipe {
            lr: Some(1e-3),
            warmup_epochs: 0.0,
            clip_grad: Some(1.0),
            amp_dtype: amp_dtype.into(),
            ..Recipe::default()
        };
        let model = test_vit(device)?;
        let classes = model.config().num_classes();
        let mut trainer = Trainer::new(model, &recipe, 1_000, device)?;
        Device::flex().seed(3);
        let shape = [4, 3, 160, 160];
        let images: Vec<f32> = draw(shape, DType::F32).iter::<f32>().collect();
        let targets = smoothed_one_hot(&[0, 1, 2, 3], classes, 0.1)?;
        (0..UPDATES)
            .map(|_| {
                let (images, targets) = (images.clone(), targets.clone());
                let examples = Examples { images, shape, targets, masks: None, indexes: Vec::new() };
                Ok(trainer.update(vec![examples])?.loss)
            })
            .collect()
    };
    Ok(vec![of_largest(&run(device, amp_dtype)?, &run(&Device::flex(), "none")?)])
}
