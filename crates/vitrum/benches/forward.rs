//! Whole forward passes: `cargo bench -p vitrum --bench forward`.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vitrum::models::{Config, ModelConfig};

fn forward(c: &mut Criterion) {
    let device = Device::flex();
    let mut group = c.benchmark_group("forward");
    group.sample_size(10);
    for name in ["vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"] {
        let model =
            ModelConfig::named(name).and_then(|config| config.init(&device, 0)).expect("a catalogue model");
        for batch in [1, 8] {
            let images: Tensor<4> =
                Tensor::random([batch, 3, 224, 224], Distribution::Normal(0.0, 1.0), &device);
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_with_input(BenchmarkId::new(name, batch), &images, |b, images| {
                b.iter(|| black_box(model.logits(images.clone()).expect("a classifier").into_data()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
