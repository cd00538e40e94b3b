//! How long a picture takes from file to tensor values: `cargo bench -p vitrum --bench data`.

use std::hint::black_box;
use std::io::Cursor;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vitrum::data::augment::{MixConfig, Mixup, TrainTransform, TrainTransformConfig};
use vitrum::data::random::{batch_rng, sample_rng};
use vitrum::data::resize::resize;
use vitrum::data::{
    DecodeOptions, DemoSet, Interpolation, Loader, LoaderOptions, Preprocess, RgbImage, decode,
};

/// The size most ImageNet photos have.
const PHOTO: (u32, u32) = (500, 375);

fn photo() -> RgbImage {
    resize(&DemoSet::new(512, 1, 0).image(0), PHOTO.0, PHOTO.1, Interpolation::Bicubic)
        .expect("a photo's size")
}

fn encoded(format: image::ImageFormat) -> Vec<u8> {
    let (photo, mut bytes) = (photo(), Cursor::new(Vec::new()));
    let color = image::ExtendedColorType::Rgb8;
    image::write_buffer_with_format(&mut bytes, photo.data(), PHOTO.0, PHOTO.1, color, format)
        .expect("encodes");
    bytes.into_inner()
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode 500x375");
    for (name, format) in [
        ("jpeg", image::ImageFormat::Jpeg),
        ("png", image::ImageFormat::Png),
        ("webp lossless", image::ImageFormat::WebP),
    ] {
        let bytes = encoded(format);
        group.bench_function(name, |b| {
            b.iter(|| decode::decode(black_box(&bytes), &DecodeOptions::default()).expect("a valid image"));
        });
    }
}

fn resizing(c: &mut Criterion) {
    let photo = photo();
    let large = resize(&photo, 4000, 3000, Interpolation::Bilinear).expect("a camera's size");
    let mut group = c.benchmark_group("preprocess to 224");
    for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos] {
        let preprocess = Preprocess { interpolation, ..Preprocess::default() };
        for (size, image) in [("500x375", &photo), ("4000x3000", &large)] {
            group.bench_function(format!("{} from {size}", interpolation.name()), |b| {
                b.iter(|| preprocess.transform(black_box(image)).expect("transforms"));
            });
        }
    }
    let preprocess = Preprocess::default();
    let cropped = preprocess.transform(&photo).expect("transforms");
    group.bench_function("normalize", |b| {
        b.iter(|| preprocess.normalize(black_box(&cropped)).expect("normalizes"))
    });
}

fn augmenting(c: &mut Criterion) {
    let photo = photo();
    let mut group = c.benchmark_group("augment 500x375 to 224");
    for (name, aa, reprob) in [
        ("timm's default", None, 0.0),
        ("rand-m9-mstd0.5-inc1", Some("rand-m9-mstd0.5-inc1"), 0.25),
        ("3a", Some("3a"), 0.0),
        ("augmix-m5-w4-d2", Some("augmix-m5-w4-d2"), 0.0),
    ] {
        let config =
            TrainTransformConfig { aa: aa.map(String::from), reprob, ..TrainTransformConfig::default() };
        let transform = TrainTransform::new(&config).expect("a known augmentation");
        group.bench_function(name, |b| {
            let mut index = 0;
            b.iter(|| {
                index += 1;
                transform.apply(black_box(&photo), &mut sample_rng(0, 0, index, 0)).expect("transforms")
            });
        });
    }
    let (shape, labels) = ([16, 3, 224, 224], [0; 16]);
    let mixup =
        Mixup::new(MixConfig { mixup: 0.8, cutmix: 1.0, ..MixConfig::default() }, 1000).expect("mixes");
    let mut values = vec![0.5; shape.iter().product()];
    group.bench_function("mix 16 pictures", |b| {
        let mut index = 0;
        b.iter(|| {
            index += 1;
            mixup.apply(black_box(&mut values), shape, &labels, &mut batch_rng(0, 0, index)).expect("mixes")
        });
    });
}

fn loading(c: &mut Criterion) {
    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements(64)).sample_size(10);
    group.bench_function("64 drawn pictures", |b| {
        b.iter(|| {
            let source = Box::new(DemoSet::new(224, 64, 0));
            let loader =
                Loader::new(source, Preprocess::default(), LoaderOptions::default()).expect("starts");
            loader.map(|batch| batch.expect("loads").names.len()).sum::<usize>()
        });
    });
}

criterion_group!(benches, decoding, resizing, augmenting, loading);
criterion_main!(benches);
