//! Each operation, reference and fast, at the sizes of ViT-Ti/S/B: forward, and forward with backward. Operations on
//! maps at the sizes of ResNet-50, RegNetY-4GF and ConvNeXt-T.
//!
//! `cargo bench -p vitrum-kernels --bench ops -- attention/fast` runs a part. `RAYON_NUM_THREADS` sets the threads.

use burn::tensor::{DType, Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vitrum_kernels::optim::{Adam, Slot, update, update_reference};
use vitrum_kernels::{
    Activation, ConvForm, Folding, PackedConv, Pool, Squeeze, activate, activate_reference, attention,
    attention_reference, batch_norm, conv, conv_packed, gate, group_norm, layer_norm, layer_norm_reference,
    linear, linear_reference, mlp, mlp_reference, pool, squeeze,
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

/// Images of a call on maps.
const IMAGES: [usize; 2] = [1, 8];

/// A convolution: its kind, side of the maps, channels, channels of the result, and kernel, stride and groups.
type Conv = (&'static str, usize, [usize; 2], [usize; 3]);

const CONVS: [Conv; 18] = [
    ("stem", 224, [3, 64], [7, 2, 1]), // ResNet-50
    ("3x3", 56, [64, 64], [3, 1, 1]),
    ("3x3", 28, [128, 128], [3, 1, 1]),
    ("3x3", 14, [256, 256], [3, 1, 1]),
    ("3x3", 7, [512, 512], [3, 1, 1]),
    ("3x3_stride_2", 56, [128, 128], [3, 2, 1]),
    ("3x3_stride_2", 14, [512, 512], [3, 2, 1]),
    ("1x1", 56, [64, 256], [1, 1, 1]),
    ("1x1", 14, [1024, 256], [1, 1, 1]),
    ("grouped", 56, [128, 128], [3, 1, 2]), // RegNetY-4GF
    ("grouped", 28, [192, 192], [3, 1, 3]),
    ("grouped", 14, [512, 512], [3, 1, 8]),
    ("grouped", 7, [1088, 1088], [3, 1, 17]),
    ("depthwise", 56, [96, 96], [7, 1, 96]), // ConvNeXt-T
    ("depthwise", 28, [192, 192], [7, 1, 192]),
    ("depthwise", 14, [384, 384], [7, 1, 384]),
    ("depthwise", 7, [768, 768], [7, 1, 768]),
    ("patches", 56, [96, 192], [2, 2, 1]),
];

/// Convolutions with packed kernels, and with backward. An element is one multiplication or addition.
fn convolutions(c: &mut Criterion) {
    let sizes = || CONVS.into_iter().flat_map(|conv| IMAGES.map(|b| (b, conv)));
    let form = |side: usize, [kernel, stride, groups]: [usize; 3]| {
        let padding = if kernel % 2 == 1 { kernel / 2 } else { 0 };
        ConvForm::new([side; 2], [kernel; 2]).stride([stride; 2]).padding([padding; 2]).groups(groups)
    };
    let products = |b: usize, form: ConvForm, [c, n]: [usize; 2]| {
        let ([rows, columns], [kh, kw]) = (form.out(), form.kernel);
        (2 * b * rows * columns * n * kh * kw * c / form.groups) as u64
    };
    let mut group = c.benchmark_group("conv");
    let device = Device::flex();
    for (b, (kind, side, [c, n], numbers)) in sizes() {
        let form = form(side, numbers);
        group.throughput(Throughput::Elements(products(b, form, [c, n])));
        let x: Tensor<3> = random([b, side * side, c], &device);
        let shape = [form.kernel[0], form.kernel[1], c / form.groups, n];
        let weight: Tensor<4> = random(shape, &device);
        let weight = PackedConv::pack(weight.into_data().try_to_vec().expect("floats"), shape, form.groups);
        let folding = || Folding { activation: Activation::Relu, ..Folding::default() };
        group.bench_function(BenchmarkId::new(kind, format!("[{b}, {side}, {c}] {n}")), |bench| {
            bench.iter(|| conv_packed(x.clone(), &weight, form, folding()));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("conv_train");
    let device = Device::flex().autodiff();
    for (b, (kind, side, [c, n], numbers)) in sizes() {
        let form = form(side, numbers);
        group.throughput(Throughput::Elements(3 * products(b, form, [c, n])));
        let x: Tensor<3> = parameter([b, side * side, c], &device);
        let weight: Tensor<4> = parameter([form.kernel[0], form.kernel[1], c / form.groups, n], &device);
        group.bench_function(BenchmarkId::new(kind, format!("[{b}, {side}, {c}] {n}")), |bench| {
            bench.iter(|| conv(x.clone(), weight.clone(), None, form).sum().backward());
        });
    }
    group.finish();
}

/// Pooling, norms and gates of maps. An element is a number of the maps.
fn maps(c: &mut Criterion) {
    let three = |side: usize| ConvForm::new([side; 2], [3, 3]).stride([2, 2]).padding([1, 1]);
    let two = |side: usize| ConvForm::new([side; 2], [2, 2]).stride([2, 2]);
    for (device, suffix) in [(Device::flex(), ""), (Device::flex().autodiff(), "_train")] {
        let run = |y: Tensor<3>| if y.device().is_autodiff() { y.sum().backward().into() } else { None };
        for (name, sides) in [("pool", [[112, 64], [56, 256]]), ("map_norm", [[56, 256], [14, 1024]])] {
            let mut group = c.benchmark_group(format!("{name}{suffix}"));
            for (b, [side, c]) in IMAGES.into_iter().flat_map(|b| sides.map(|size| (b, size))) {
                group.throughput(Throughput::Elements((b * side * side * c) as u64));
                let x: Tensor<3> = parameter([b, side * side, c], &device);
                let (weight, bias): (Tensor<1>, Tensor<1>) =
                    (parameter([c], &device), parameter([c], &device));
                let (scale, size) = (parameter([b, c], &device), format!("[{b}, {side}, {c}]"));
                let mut bench = |kind: &str, op: &dyn Fn() -> Tensor<3>| {
                    group.bench_function(BenchmarkId::new(kind, &size), |bench| bench.iter(|| run(op())));
                };
                if name == "pool" {
                    bench("max_3x3", &|| pool(x.clone(), three(side), Pool::Max));
                    bench("avg_2x2", &|| pool(x.clone(), two(side), Pool::Avg));
                    continue;
                }
                bench("batch", &|| batch_norm(x.clone(), weight.clone(), bias.clone(), None, 1e-5, true).0);
                bench("group", &|| group_norm(x.clone(), 32, weight.clone(), bias.clone(), 1e-5, true));
                bench("gate", &|| gate(x.clone(), scale.clone(), None, false));
                bench("mean", &|| squeeze(x.clone(), Squeeze::Mean).unsqueeze());
            }
            group.finish();
        }
    }
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
    targets = forward, forward_and_backward, linear_layers, mlps, activations, windows, convolutions, maps, adamw
}
criterion_main!(benches);
