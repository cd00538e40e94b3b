//! Each operation, reference and fast, at the sizes of ViT-Ti/S/B: forward, and forward with backward.
//!
//! `cargo bench -p vitrum-kernels --bench ops -- attention/fast` runs a part. `RAYON_NUM_THREADS` sets the threads.

use burn::tensor::{DType, Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vitrum_kernels::optim::{Adam, Slot, update, update_reference};
use vitrum_kernels::{
    Activation, activate, activate_reference, attention, attention_reference, layer_norm,
    layer_norm_reference, linear, linear_reference, mlp, mlp_reference,
};

/// The allocator of the binary. With the system's allocator, fresh pages take up to a third of an operation's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Images, tokens, width, heads.
const SIZES: [[usize; 4]; 7] = [
    [1, 197, 192, 3],
    [8, 197, 192, 3],
    [1, 197, 384, 6],
    [1, 197, 768, 12],
    [8, 197, 768, 12],
    [1, 577, 768, 12],
    [64, 65, 192, 3],
];

type AttentionFn = fn(Tensor<3>, usize, f64, Option<Tensor<4>>) -> Tensor<3>;
type LayerNormFn = fn(Tensor<3>, Tensor<1>, Option<Tensor<1>>, f64) -> Tensor<3>;

fn random<const R: usize>(shape: [usize; R], device: &Device) -> Tensor<R> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), (device, DType::F32))
}

/// A tensor that receives a gradient if the device tracks them.
fn parameter<const R: usize>(shape: [usize; R], device: &Device) -> Tensor<R> {
    let x = random(shape, device);
    if device.is_autodiff() { x.require_grad() } else { x }
}

fn forward(c: &mut Criterion) {
    #[cfg(feature = "mimalloc")]
    vitrum_kernels::memory::keep_freed_memory();
    let device = Device::flex();
    let mut group = c.benchmark_group("attention");
    for size @ [b, t, d, a] in SIZES {
        group.throughput(Throughput::Elements((4 * b * t * t * d) as u64)); // multiplications and additions
        let qkv = random([b, t, 3 * d], &device);
        let scale = ((d / a) as f64).powf(-0.5);
        for (name, op) in [("fast", attention as AttentionFn), ("reference", attention_reference)] {
            group.bench_function(BenchmarkId::new(name, format!("{size:?}")), |bench| {
                bench.iter(|| op(qkv.clone(), a, scale, None));
            });
        }
    }
    group.finish();
    let mut group = c.benchmark_group("layer_norm");
    for size @ [b, t, d, _] in SIZES {
        group.throughput(Throughput::Elements((b * t * d) as u64));
        let (x, weight) = (random([b, t, d], &device), random([d], &device));
        let versions: [(&str, LayerNormFn); 2] = [("fast", layer_norm), ("reference", layer_norm_reference)];
        for (name, op) in versions {
            group.bench_function(BenchmarkId::new(name, format!("{size:?}")), |bench| {
                bench.iter(|| op(x.clone(), weight.clone(), Some(weight.clone()), 1e-6));
            });
        }
    }
    group.finish();
}

fn forward_and_backward(c: &mut Criterion) {
    let device = Device::flex().autodiff();
    let mut group = c.benchmark_group("attention_train");
    for size @ [b, t, d, a] in SIZES {
        group.throughput(Throughput::Elements((12 * b * t * t * d) as u64)); // backward counts as two forwards
        let qkv = random([b, t, 3 * d], &device).require_grad();
        let scale = ((d / a) as f64).powf(-0.5);
        for (name, op) in [("fast", attention as AttentionFn), ("reference", attention_reference)] {
            group.bench_function(BenchmarkId::new(name, format!("{size:?}")), |bench| {
                bench.iter(|| op(qkv.clone(), a, scale, None).sum().backward());
            });
        }
    }
    group.finish();
    let mut group = c.benchmark_group("layer_norm_train");
    for size @ [b, t, d, _] in SIZES {
        group.throughput(Throughput::Elements((b * t * d) as u64));
        let (x, weight) = (random([b, t, d], &device).require_grad(), random([d], &device).require_grad());
        let versions: [(&str, LayerNormFn); 2] = [("fast", layer_norm), ("reference", layer_norm_reference)];
        for (name, op) in versions {
            group.bench_function(BenchmarkId::new(name, format!("{size:?}")), |bench| {
                bench.iter(|| op(x.clone(), weight.clone(), Some(weight.clone()), 1e-6).sum().backward());
            });
        }
    }
    group.finish();
}

/// Rows of one image, of eight images, and of a batch of 64 small images.
const ROWS: [usize; 3] = [197, 1576, 4160];
const WIDTHS: [usize; 3] = [192, 384, 768];

type LinearFn = fn(Tensor<2>, Tensor<2>, Option<Tensor<1>>) -> Tensor<2>;

/// Linear layers of a ViT, forward, and forward with backward. An element is one multiplication or addition.
fn linear_layers(c: &mut Criterion) {
    let versions: [(&str, LinearFn); 2] = [("fast", linear), ("reference", linear_reference)];
    for (name, device, passes) in
        [("linear", Device::flex(), 1), ("linear_train", Device::flex().autodiff(), 3)]
    {
        let mut group = c.benchmark_group(name);
        for (m, d) in ROWS.into_iter().flat_map(|m| WIDTHS.map(|d| (m, d))) {
            for [k, n] in [[d, 3 * d], [d, d], [d, 4 * d], [4 * d, d]] {
                group.throughput(Throughput::Elements((2 * passes * m * k * n) as u64));
                let [x, weight] = [[m, k], [k, n]].map(|shape| parameter(shape, &device));
                let bias = parameter([n], &device);
                for (version, op) in versions {
                    group.bench_function(BenchmarkId::new(version, format!("[{m}, {k}] {n}")), |bench| {
                        let forward = || op(x.clone(), weight.clone(), Some(bias.clone()));
                        if passes == 1 {
                            bench.iter(forward);
                        } else {
                            bench.iter(|| forward().sum().backward());
                        }
                    });
                }
            }
        }
        group.finish();
    }
}

type MlpFn =
    fn(Tensor<2>, Tensor<2>, Option<Tensor<1>>, Tensor<2>, Option<Tensor<1>>, Activation) -> Tensor<2>;

/// The MLP of a block, forward, and forward with backward.
fn mlps(c: &mut Criterion) {
    let versions: [(&str, MlpFn); 2] = [("fast", mlp), ("reference", mlp_reference)];
    for (name, device, passes) in [("mlp", Device::flex(), 1), ("mlp_train", Device::flex().autodiff(), 3)] {
        let mut group = c.benchmark_group(name);
        for (m, d) in ROWS.into_iter().flat_map(|m| WIDTHS.map(|d| (m, d))) {
            group.throughput(Throughput::Elements((2 * passes * m * 8 * d * d) as u64));
            let [x, fc1, fc2] = [[m, d], [d, 4 * d], [4 * d, d]].map(|shape| parameter(shape, &device));
            let [b1, b2] = [4 * d, d].map(|n| parameter([n], &device));
            for (version, op) in versions {
                group.bench_function(BenchmarkId::new(version, format!("[{m}, {d}]")), |bench| {
                    let (x, fc1, b1, fc2, b2) = (&x, &fc1, &b1, &fc2, &b2);
                    let forward = || {
                        let (b1, b2) = (Some(b1.clone()), Some(b2.clone()));
                        op(x.clone(), fc1.clone(), b1, fc2.clone(), b2, Activation::Gelu)
                    };
                    if passes == 1 {
                        bench.iter(forward);
                    } else {
                        bench.iter(|| forward().sum().backward());
                    }
                });
            }
        }
        group.finish();
    }
}

/// Windows, width and heads of the stages of Swin-T for one image of 224 pixels, and of its first stage for eight
/// images.
const WINDOWS: [[usize; 3]; 4] = [[64, 96, 3], [16, 192, 6], [4, 384, 12], [512, 96, 3]];

/// Attention in windows of 49 tokens with a shared bias. An element is one multiplication or addition.
fn windows(c: &mut Criterion) {
    for (name, device, passes) in
        [("windows", Device::flex(), 1), ("windows_train", Device::flex().autodiff(), 3)]
    {
        let mut group = c.benchmark_group(name);
        for size @ [b, d, a] in WINDOWS {
            group.throughput(Throughput::Elements((4 * passes * b * 49 * 49 * d) as u64));
            let (qkv, bias) = (parameter([b, 49, 3 * d], &device), parameter([1, a, 49, 49], &device));
            for (kind, bias) in [("plain", None), ("bias", Some(bias))] {
                group.bench_function(BenchmarkId::new(kind, format!("{size:?}")), |bench| {
                    let forward = || attention(qkv.clone(), a, 32f64.powf(-0.5), bias.clone());
                    if passes == 1 {
                        bench.iter(forward);
                    } else {
                        bench.iter(|| forward().sum().backward());
                    }
                });
            }
        }
        group.finish();
    }
}

type ActivateFn = fn(Tensor<2>, Activation) -> Tensor<2>;

/// Activations of the hidden numbers of ViT-S with one image.
fn activations(c: &mut Criterion) {
    let device = Device::flex();
    let x: Tensor<2> = random([197, 1536], &device);
    let mut group = c.benchmark_group("activate");
    group.throughput(Throughput::Elements(197 * 1536));
    let versions: [(&str, ActivateFn); 2] = [("fast", activate), ("reference", activate_reference)];
    for activation in Activation::ALL {
        for (version, op) in versions {
            group.bench_function(BenchmarkId::new(version, format!("{activation:?}")), |bench| {
                bench.iter(|| op(x.clone(), activation));
            });
        }
    }
    group.finish();
}

/// Lengths of the parameter tensors of a ViT of width `d` with twelve blocks and `k` classes.
fn vit_lengths(d: usize, k: usize) -> Vec<usize> {
    let block = [d, d, 3 * d * d, 3 * d, d * d, d, d, d, 4 * d * d, 4 * d, 4 * d * d, d];
    let ends = [768 * d, d, d, 197 * d, d, d, d * k, k];
    ends.into_iter().chain((0..12).flat_map(|_| block)).collect()
}

type AdamFn = fn(Vec<Slot<Adam, 2>>) -> Vec<Slot<Adam, 2>>;

/// One step of AdamW over all parameters of a model.
fn adamw(c: &mut Criterion) {
    let device = Device::flex();
    let mut group = c.benchmark_group("adamw");
    for (name, d) in [("vit_tiny", 192), ("vit_base", 768)] {
        let lengths = vit_lengths(d, 1000);
        group.throughput(Throughput::Elements(lengths.iter().sum::<usize>() as u64));
        let rule = Adam {
            lr: 1e-3,
            weight_decay: 0.05,
            decoupled: true,
            nesterov: false,
            betas: [0.9, 0.999],
            eps: 1e-8,
            step: 10,
        };
        for (version, step) in [("fast", update as AdamFn), ("reference", update_reference)] {
            let slot = |&n: &usize| Slot {
                param: random([n], &device),
                grad: random([n], &device),
                state: [random([n], &device), random([n], &device).abs()],
                rule,
            };
            let mut slots: Vec<Slot<Adam, 2>> = lengths.iter().map(slot).collect();
            group.bench_function(BenchmarkId::new(version, name), |bench| {
                bench.iter(|| slots = step(std::mem::take(&mut slots)));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = forward, forward_and_backward, linear_layers, mlps, activations, windows, adamw
}
criterion_main!(benches);
